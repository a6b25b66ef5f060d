"""Gaussian splats from posed depth maps: flat Gaussians on the surfaces, rendered, and fitted to the pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import Cameras
from ..cameras.rotations import rotation_to_quaternion
from .depth_maps import PosedDepth, Progress, agreement, blend, unit
from .points import Pause, go_on

# Standard deviation of a Gaussian across the line of sight, in distances between pixels.
SPREAD = 0.58
# Along the surface a Gaussian is at most so many times as long as wide, and its thickness is this share of its width.
STRETCH, THICKNESS = 4.0, 0.1
# Of views that see a place as finely as each other to within this factor, the first has it.
FINER = 1.5
# A generated view is taken for this many times as coarse as a photograph, and its colours count this much.
COARSER, GENERATED = 2.0, 0.25
# Gaussians weaker than this in a pixel are left out of it, and of the others the nearest LAYERS are blended.
FAINT, LAYERS = 1 / 255, 32
# Thickens a Gaussian by this share of its mean variance, as ComfyUI's renderer does.
REGULAR = 1e-3
# Gaussians nearer than this share of the median depth are not shown.
NEAR = 1e-3


@dataclass(frozen=True)
class Splats:
    """P Gaussians: centres xyz (P, 3) from the cameras' origin; scales (P, 3), standard deviations along their axes;
    rotations (P, 4), quaternions wxyz from their axes to the world; opacities (P,) and rgb (P, 3), in [0, 1]. float32.
    """

    xyz: Tensor
    scales: Tensor
    rotations: Tensor
    opacities: Tensor
    rgb: Tensor

    def __len__(self) -> int:
        return len(self.xyz)

    def __getitem__(self, index: Tensor | slice) -> Splats:
        return Splats(*(getattr(self, entry.name)[index] for entry in fields(self)))

    def cpu(self) -> Splats:
        return Splats(*(getattr(self, entry.name).cpu() for entry in fields(self)))


def planes(maps: PosedDepth, view: int, reach: int = 1) -> tuple[Tensor, Tensor]:
    """The plane that fits the depth around each pixel: 1/depth (H, W) on it, and its normal (H, W, 3) in the world,
    towards the camera. NaN and 0 for pixels that do not count.

    The least-squares fit to the pixels up to `reach` away that lie on one surface. On a plane 1/depth is affine in the
    pixel's coordinates: m . X = 1 with X = depth K^-1 p gives 1/depth = (K^-T m) . p.
    """
    inverse = maps.inverse[view]
    H, W = inverse.shape
    padded = F.pad(inverse, (reach,) * 4, value=torch.nan)
    A, b = torch.zeros(H, W, 3, 3), torch.zeros(H, W, 3)
    for row in range(-reach, reach + 1):
        for column in range(-reach, reach + 1):
            other = padded[reach + row : reach + row + H, reach + column : reach + column + W]
            near = (other / inverse - 1).abs() <= maps.edge
            place = torch.tensor([column, row, 1.0])
            A += near[..., None, None] * place[:, None] * place
            b += torch.where(near, other, 0)[..., None] * place
    # Too few neighbours leave the plane across the line of sight.
    A += 1e-3 * torch.diag(torch.tensor([1.0, 1, 0]))
    known = torch.isfinite(inverse)
    fit = torch.linalg.solve(torch.where(known[..., None, None], A, torch.eye(3)), b)
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    affine = torch.stack([fit[..., 0], fit[..., 1], fit[..., 2] - fit[..., 0] * x - fit[..., 1] * y], -1)
    normal = unit(-(affine.double() @ maps.K[view]) @ maps.c2w[view, :3, :3].T)
    smooth = torch.where((fit[..., 2] / inverse - 1).abs() <= maps.edge, fit[..., 2], inverse)
    return torch.where(known, smooth, torch.nan), normal * known[..., None]


def levels(sizes: Tensor) -> Tensor:
    """(P,) sizes as steps of FINER, the finest lowest."""
    return (sizes.log() / math.log(FINER)).floor()


def make_splats(
    maps: PosedDepth, photographs: int = 0, maximum: int = 1_000_000, progress: Progress | None = None
) -> Splats:
    """A flat Gaussian for each place of the surfaces, at the pixel that sees it finest (to within FINER), at most
    `maximum`.

    It lies where the views that agree see the surface, turned by its normal, as large as its pixel is there. Its colour
    is blended from the views that see it, by angle, distance and agreement; the first `photographs` views count more
    than the others, which were generated. Its opacity is the share of the views that agree about it, of which at least
    half have to. Views should be many pixels wide. Raises ValueError where nothing counts.
    """
    V, (H, W) = len(maps), maps.inverse.shape[1:]

    def step(done: int, total: int) -> None:
        if progress is not None:
            progress(done, total)

    found = agreement(maps, progress=lambda done, _: step(done, 3 * V))
    fits = []
    for view in range(V):
        fits.append(planes(maps, view))
        step(V + view + 1, 3 * V)
    flat = replace(maps, depth=1 / torch.stack([inverse for inverse, _ in fits]))
    facing = []
    for view, (_, normal) in enumerate(fits):
        toward = unit((maps.eyes[view] - flat.points(view)).nan_to_num(0))
        facing.append((normal * toward).sum(-1).clamp(min=0))
    coarse = [1.0 if view < photographs or not photographs else COARSER for view in range(V)]
    trust = [1.0 if view < photographs or not photographs else GENERATED for view in range(V)]
    stride = max(1, math.ceil((int(torch.isfinite(maps.inverse).sum()) / (4 * maximum)) ** 0.5))
    counts = torch.isfinite(flat.inverse) & (found.consistency >= 0.5) & (torch.stack(facing) > 0.05)
    # The smallest cosine of the four pixels around a place, 0 where one of them makes no splat: a view that has the
    # place in another one's stead has a pixel there that keeps it.
    least = [-F.max_pool2d(-F.pad(facing[view] * counts[view], (0, 1, 0, 1))[None], 2, 1)[0] for view in range(V)]
    pieces = []
    for view in range(V):
        grid = torch.zeros(H, W, dtype=torch.bool)
        grid[stride // 2 :: stride, stride // 2 :: stride] = True
        pixels = (grid & counts[view]).view(-1).nonzero()[:, 0]
        xyz, normal = flat.points(view).view(-1, 3)[pixels], fits[view][1].view(-1, 3)[pixels]
        z, cosine = 1 / flat.inverse[view].view(-1)[pixels], facing[view].view(-1)[pixels]
        size = z / maps.focal[view]
        level = levels(coarse[view] * size / cosine)
        finest = torch.isfinite(xyz).all(1)
        weight = (trust[view] * (cosine / size.square()).square())[:, None]
        place, total = weight * xyz, weight.clone()
        color = weight * maps.picture(view).flatten(1).T[pixels]
        for other in range(V):
            if other == view:
                continue
            look = flat.look(other, xyz)
            ratio = look.inverse() * look.z
            agrees = (ratio - 1).abs() <= 0.02
            rows = look.rows[agrees]
            there = blend(facing[other][None], look)[agrees, 0].clamp(min=1e-3)
            own = look.z[agrees] / maps.focal[other]
            theirs = levels(coarse[other] * own / least[other].view(-1)[look.corner[agrees]])
            finest[rows[theirs < level[rows] + (other < view)]] = False
            w = (trust[other] * (there / own.square()).square())[:, None]
            seen = maps.eyes[other] + (xyz[rows] - maps.eyes[other]) / ratio[agrees, None]
            place[rows] += w * seen
            color[rows] += w * blend(maps.picture(other), look)[agrees]
            total[rows] += w
        xyz, normal, cosine, size = (part[finest] for part in (place / total, normal, cosine, size))
        share = found.consistency[view].view(-1)[pixels][finest]
        pieces.append(surfels(xyz, normal, cosine, stride * size, maps.eyes[view], share, (color / total)[finest]))
        step(2 * V + view + 1, 3 * V)
    splats = Splats(*(torch.cat([getattr(piece, entry.name) for piece in pieces]) for entry in fields(Splats)))
    if not len(splats):
        raise ValueError("No surface is left to put splats on; lower the confidence threshold.")
    if len(splats) > maximum:
        chosen = torch.randperm(len(splats), generator=torch.Generator().manual_seed(0))[:maximum].sort().values
        grown = splats.scales[:, :2] * (len(splats) / maximum) ** 0.5
        splats = replace(splats, scales=torch.cat([grown, splats.scales[:, 2:]], 1))[chosen]
    return splats


def surfels(
    xyz: Tensor, normal: Tensor, cosine: Tensor, size: Tensor, eye: Tensor, share: Tensor, rgb: Tensor
) -> Splats:
    """P flat Gaussians with the outline of pixels of a side `size` on surfaces, longer where these are tilted."""
    toward = unit(eye - xyz)
    along = toward - (toward * normal).sum(1, keepdim=True) * normal
    level = along.norm(dim=1, keepdim=True) < 1e-3
    helper = torch.where(normal[:, :1].abs() < 0.9, torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]))
    along = unit(torch.where(level, torch.linalg.cross(normal, helper), along))
    axes = torch.stack([along, torch.linalg.cross(normal, along), normal], dim=2)
    x, y, z, w = rotation_to_quaternion(axes.double()).float().unbind(1)
    width = SPREAD * size
    scales = torch.stack([width / cosine.clamp(min=1 / STRETCH), width, THICKNESS * width], dim=1)
    return Splats(xyz, scales, torch.stack([w, x, y, z], 1), 0.99 * share, rgb)


def transformed(splats: Splats, matrix: Tensor) -> Splats:
    """Splats moved by a rotation and a translation (4, 4)."""
    matrix = matrix.double()
    x, y, z, w = rotation_to_quaternion(matrix[:3, :3] @ rotations(splats.rotations.double())).float().unbind(1)
    xyz = splats.xyz.double() @ matrix[:3, :3].T + matrix[:3, 3]
    return replace(splats, xyz=xyz.float(), rotations=torch.stack([w, x, y, z], 1))


def rotations(quaternions: Tensor) -> Tensor:
    """(P, 4) wxyz -> (P, 3, 3), with gradients."""
    w, x, y, z = F.normalize(quaternions, dim=1).unbind(1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


def in_camera(splats: Splats, camera: Cameras) -> tuple[Tensor, Tensor, Tensor]:
    """Centres (P, 3) and axes (P, 3, 3), in columns, in a camera's frame, and the variances (P, 3) along the axes."""
    w2c = torch.linalg.inv(camera.c2w[0].double()).float().to(splats.xyz)
    axes = w2c[:3, :3] @ rotations(splats.rotations)
    variance = splats.scales.square()
    return splats.xyz @ w2c[:3, :3].T + w2c[:3, 3], axes, variance + REGULAR * variance.mean(1, keepdim=True)


def alphas(rays: Tensor, centre: Tensor, axes: Tensor, variance: Tensor, opacity: Tensor) -> Tensor:
    """What Gaussians (..., 3) hide of rays (..., 3) from the camera: the opacity times the largest value on the ray.

    With d a ray and m a centre in units of the standard deviations along the axes, the squared distance of the two is
    |d x m|^2 / |d|^2, which has no difference of large numbers in it.
    """
    cross = torch.linalg.cross(rays.expand_as(centre), centre)
    cross = (cross[..., None, :] @ axes)[..., 0, :]
    along = (rays[..., None, :] @ axes)[..., 0, :]
    a, b, c = variance.unbind(-1)
    # Numerator and denominator times a b c, which in float32 would be 0 for Gaussians of 1e-6 units.
    others = torch.stack([b * c, a * c, a * b], -1)
    distance = (cross.square() * variance).sum(-1) / (along.square() * others).sum(-1)
    return (opacity * torch.exp(-0.5 * distance)).clamp(max=0.999)


def pixel_rays(camera: Cameras, pixels: Tensor) -> Tensor:
    """(n, 3) rays of depth 1 through the middles of pixels, by number (n,), in the camera's frame."""
    W = camera.width
    place = torch.stack([pixels % W + 0.5, pixels // W + 0.5, torch.ones_like(pixels)], 1).float()
    rays = place @ torch.linalg.inv(camera.K[0].double()).float().T.to(pixels.device)
    return rays / rays[:, 2:]


@torch.no_grad()
def layers(splats: Splats, camera: Cameras, slack: float = 1.0, pause: Pause = go_on) -> Tensor:
    """(H W, LAYERS) int32: of each pixel the Gaussians in it from front to back, then len(splats).

    slack: how many times as large they may grow before the table has to be made again. pause is called on the way.
    """
    H, W, P = camera.height, camera.width, len(splats)
    centre, axes, variance = in_camera(splats, camera)
    z = centre[:, 2]
    K = camera.K[0].to(z)
    projected = centre @ K.T
    u, v = projected[:, 0] / z, projected[:, 1] / z
    # The outline is at most as long as the Gaussian is, seen from the front.
    radius = slack * 3 * variance.amax(1).sqrt() * float(K[0, 0]) / z
    radius = radius.clamp(max=max(H, W) / 8)
    shown = (z > NEAR * z.abs().median()) & (u > -radius) & (u < W + radius) & (v > -radius) & (v < H + radius)
    order = torch.argsort(z)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(P, device=z.device)
    keys = []
    level = radius.clamp(min=1).log2().ceil().long()
    for size in level[shown].unique().tolist():
        reach = 1 << size
        across = torch.arange(-reach, reach + 1, device=z.device)
        chosen = (shown & (level == size)).nonzero()[:, 0]
        for some in chosen.split(max(1, (1 << 21) // len(across) ** 2)):
            pause()
            column = u[some].floor().long()[:, None, None] + across
            row = v[some].floor().long()[:, None, None] + across[:, None]
            pixel = row * W + column
            inside = (column >= 0) & (column < W) & (row >= 0) & (row < H)
            near = (column + 0.5 - u[some, None, None]).square() + (row + 0.5 - v[some, None, None]).square()
            inside &= near <= radius[some, None, None].square() + 2
            which, place = some[:, None, None].expand_as(pixel)[inside], pixel[inside]
            alpha = alphas(
                pixel_rays(camera, place),
                centre[which],
                axes[which],
                variance[which] * slack**2,
                splats.opacities[which],
            )
            kept = alpha > FAINT
            keys.append(place[kept] * P + rank[which[kept]])
    table = torch.full((H * W, LAYERS), P, dtype=torch.int32, device=z.device)
    if keys:
        key = torch.cat(keys).sort().values
        pixel = key // P
        first = torch.searchsorted(pixel, torch.arange(H * W, device=z.device))
        depth = torch.arange(len(pixel), device=z.device) - first[pixel]
        kept = depth < LAYERS
        table[pixel[kept], depth[kept]] = order[key[kept] % P].int()
    return table


def shade(splats: Splats, camera: Cameras, pixels: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Colours (n, 3) of pixels, by number (n,), and how much shines through (n,); their Gaussians (n, LAYERS) are
    those of `layers`. With gradients to all of `splats`.
    """
    P = len(splats)
    centre, axes, variance = in_camera(splats, camera)
    packed = torch.cat([centre, axes.flatten(1), variance, splats.opacities[:, None], splats.rgb], 1)
    packed = torch.cat([packed, packed.new_zeros(1, packed.shape[1])])
    packed[P, 12:15] = 1
    packed[P, 2] = 1
    part = packed[table.long()]
    alpha = alphas(
        pixel_rays(camera, pixels)[:, None].to(part),
        part[..., :3],
        part[..., 3:12].unflatten(-1, (3, 3)),
        part[..., 12:15],
        part[..., 15],
    )
    alpha = torch.where(table == P, 0, alpha)
    through = torch.cumprod(1 - alpha, 1)
    front = torch.cat([torch.ones_like(through[:, :1]), through[:, :-1]], 1)
    return ((front * alpha)[..., None] * part[..., 16:19]).sum(1), through[:, -1]


@torch.no_grad()
def render(splats: Splats, camera: Cameras, background: float = 0.0) -> tuple[Tensor, Tensor]:
    """(3, H, W) picture and (H, W) cover, both in [0, 1], of one camera: Gaussians blended from front to back, as their
    colours are stored."""
    table = layers(splats, camera)
    pieces = []
    for pixels in torch.arange(len(table), device=table.device).split(1 << 14):
        pieces.append(shade(splats, camera, pixels, table[pixels]))
    color, through = (torch.cat(part) for part in zip(*pieces, strict=True))
    picture = color + background * through[:, None]
    return picture.T.reshape(3, camera.height, camera.width).clamp(0, 1), (1 - through).view(
        camera.height, camera.width
    )


def refine(
    splats: Splats,
    images: Tensor,
    cameras: Cameras,
    weights: Tensor | None = None,
    steps: int = 300,
    batch: int = 8192,
    seed: int = 0,
    device: torch.device | str = "cpu",
    callback: Callable[[int, int, Splats], None] | None = None,
    pause: Pause = go_on,
) -> Splats:
    """Move colours, opacities, sizes and turns so that rendered pixels match images (V, 3, H, W) in [0, 1].

    Every step takes `batch` random pixels of one view, weighted by weights (V, H, W) (None: all alike), and moves by
    Adam along the gradient of the squared error. The Gaussians stay where they are. callback(done, steps, splats) is
    called after each step, pause more often; what they raise ends the work. Memory: 4 LAYERS bytes a pixel of every
    view, and some 500 MB.
    """
    # Hosts may run with gradients switched off.
    with torch.inference_mode(False), torch.enable_grad():
        return fitted(splats, images, cameras, weights, steps, batch, seed, torch.device(device), callback, pause)


def fitted(
    splats: Splats,
    images: Tensor,
    cameras: Cameras,
    weights: Tensor | None,
    steps: int,
    batch: int,
    seed: int,
    device: torch.device,
    callback: Callable[[int, int, Splats], None] | None,
    pause: Pause,
) -> Splats:
    V, (H, W) = len(images), images.shape[-2:]
    start = Splats(*(getattr(splats, entry.name).to(device, copy=True) for entry in fields(Splats)))
    generator = torch.Generator().manual_seed(seed)
    rgb = start.rgb.clone()
    opacity = torch.logit(start.opacities.clamp(0.02, 0.985))
    scale = start.scales[:, :2].log()
    turn = start.rotations.clone()
    rates = {"rgb": 0.01, "opacity": 0.05, "scale": 0.01, "turn": 0.005}
    moved = {"rgb": rgb, "opacity": opacity, "scale": scale, "turn": turn}
    for value in moved.values():
        value.requires_grad_()
    optimizer = torch.optim.Adam([{"params": [moved[name]], "lr": rate} for name, rate in rates.items()], eps=1e-12)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1 ** (step / max(1, steps)))

    def now() -> Splats:
        scales = torch.cat([moved["scale"].exp(), start.scales[:, 2:]], 1)
        turned = F.normalize(moved["turn"], dim=1)
        return Splats(start.xyz, scales, turned, torch.sigmoid(moved["opacity"]), moved["rgb"])

    tables: list[Tensor] = []
    targets = images.to(device).flatten(2).transpose(1, 2)
    weights = torch.ones(V, H * W) if weights is None else weights.flatten(1).cpu()
    for step in range(steps):
        if step in (0, steps // 3, 2 * steps // 3):
            tables = [layers(now(), cameras[view], 1.2, pause) for view in range(V)]
        view = int(torch.randint(V, (), generator=generator))
        pixels = torch.randint(H * W, (batch,), generator=generator)
        w = weights[view, pixels].to(device)[:, None]
        pixels = pixels.to(device)
        color, _ = shade(now(), cameras[view], pixels, tables[view][pixels])
        loss = (w * (color - targets[view, pixels]).square()).sum() / batch
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        if callback is not None:
            with torch.no_grad():
                callback(step + 1, steps, now())
    with torch.no_grad():
        done = now()
        return replace(done, rgb=done.rgb.clamp(0, 1)).cpu()
