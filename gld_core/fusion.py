"""Many depth maps to one scene: agreement between views, point cloud, triangle mesh.

Everywhere: depth (V, H, W) along the camera's axis in scene units, at the middles of pixels; keep (V, H, W) bool, the
pixels that count; images (V, 3, H, W) in [0, 1]; cameras as `Cameras`, K in the convention of images.py. (The released
program takes depth at integer pixels instead, half a pixel off: `geometry.point_cloud`.)

Work goes view by view, so that memory grows with what is returned and not with the number of views. `progress(done,
total)` is called after each view; an exception raised in it cancels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .cameras import Cameras
from .geometry import unproject

Progress = Callable[[int, int], None]
# Surfaces seen at a larger angle (degrees) from their normal are left out of meshes.
GRAZING = 85.0
# Neighbouring pixels lie on different surfaces where their depth differs by more than this, relative to it; between
# the limits it is what a surface at GRAZING degrees does at the image's resolution.
EDGE = (0.03, 0.1)
# Voxel coordinates have this many bits per axis; what lies further out is moved to the border.
BITS = 21
TRUNCATION = 3.0
PIECE = 1 << 20


@dataclass(frozen=True)
class PointCloud:
    """xyz (P, 3) float32 in the world, rgb (P, 3) uint8, normals (P, 3) float32 of length 1 towards the camera."""

    xyz: Tensor
    rgb: Tensor
    normals: Tensor | None = None


@dataclass(frozen=True)
class Mesh:
    """xyz (P, 3) float32 in the world, faces (F, 3) int64 counter-clockwise from outside, and either rgb (P, 3) uint8
    or texture (3, H, W) in [0, 1] with uv (P, 2), (0, 0) its top-left and (1, 1) its bottom-right corner.
    """

    xyz: Tensor
    faces: Tensor
    rgb: Tensor | None = None
    uv: Tensor | None = None
    texture: Tensor | None = None

    def normals(self) -> Tensor:
        """(P, 3) float32 vertex normals of length 1, weighted by the area of the faces."""
        corners = self.xyz.double()[self.faces]
        area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        total = torch.zeros_like(self.xyz, dtype=torch.float64)
        for corner in range(3):
            total.index_add_(0, self.faces[:, corner], area)
        return unit(total)


@dataclass(frozen=True)
class Agreement:
    """confirmed and denied (V, H, W) int16: how many other views see the point of a pixel where the pixel's own view
    has it, and how many contradict it. Views that cannot see the point count in neither.
    """

    confirmed: Tensor
    denied: Tensor

    @property
    def consistency(self) -> Tensor:
        """(V, H, W) float32 in [0, 1]: the share of the views that can judge a point, its own view one of them, that
        agree on it. 1 where no other view can.
        """
        return (1 + self.confirmed) / (1.0 + self.confirmed + self.denied)


def unit(vectors: Tensor) -> Tensor:
    """(..., 3) -> float32 of length 1; (0, 0, 1) for vectors without length."""
    length = vectors.norm(dim=-1, keepdim=True)
    axis = torch.tensor([0, 0, 1], dtype=vectors.dtype)
    return torch.where(length > 1e-30, vectors / length.clamp(min=1e-30), axis).float()


def usable(depth: Tensor, confidence: Tensor, threshold: float) -> Tensor:
    """(V, H, W) bool: finite, positive depth with confidence >= threshold, as in `geometry.point_cloud`."""
    depth, confidence = depth.cpu(), confidence.cpu()
    return torch.isfinite(depth) & (depth > 0) & (confidence >= threshold)


class Look(NamedTuple):
    """What a view sees at points of space: rows (P,) of the points inside its image, their depth z (P,), the pixel
    corner (P,) to their upper left, and the inverse depth there: taps (4, P) and their bilinear weights (4, P). Taps
    that differ by more than `edge` are of different surfaces.
    """

    rows: Tensor
    z: Tensor
    corner: Tensor
    taps: Tensor
    weights: Tensor
    edge: float

    def inverse(self) -> Tensor:
        """(P,) 1/depth, interpolated (exact on planes) or, at depth edges, of the nearest pixel; NaN beside pixels
        that do not count."""
        edge = self.taps.amax(0) > (1 + self.edge) * self.taps.amin(0)
        nearest = self.taps.gather(0, self.weights.argmax(0, keepdim=True))[0]
        return torch.where(edge, nearest, (self.taps * self.weights).sum(0))


class DepthMaps:
    """Depth maps of posed views, to be asked what they see at any point of space."""

    def __init__(self, depth: Tensor, keep: Tensor, cameras: Cameras):
        """Raises ValueError where the shapes do not fit together or a camera cannot be used."""
        V, H, W = depth.shape
        if (len(cameras), cameras.height, cameras.width) != (V, H, W) or keep.shape != depth.shape:
            raise ValueError(
                f"Depth is {tuple(depth.shape)}, the selection {tuple(keep.shape)}, the cameras are {len(cameras)} of "
                f"{cameras.height} x {cameras.width}; give all for the same views in the same size."
            )
        self.K = cameras.K.double()
        self.K[:, :2] -= 0.5 * self.K[:, 2:]
        self.c2w = cameras.c2w.double()
        for view in range(V):
            known = torch.isfinite(self.K[view]).all() and torch.isfinite(self.c2w[view]).all()
            if not known or torch.linalg.det(self.K[view]) == 0 or torch.linalg.det(self.c2w[view]) == 0:
                raise ValueError(f"The camera of view {view} is not finite or not invertible; leave that view out.")
        self.to_pixels = (self.K @ torch.linalg.inv(self.c2w)[:, :3]).float()
        self.eyes = self.c2w[:, :3, 3].float()
        self.focal = torch.linalg.det(self.K[:, :2, :2]).abs().sqrt().float()
        self.edge = float((np.tan(np.radians(GRAZING)) / self.focal.median()).clamp(*EDGE))
        inverse = 1 / depth.detach().float().cpu()
        self.inverse = torch.where(keep.cpu() & torch.isfinite(inverse) & (inverse > 0), inverse, torch.nan)

    def __len__(self) -> int:
        return len(self.inverse)

    def points(self, view: int) -> Tensor:
        """(H, W, 3) points in the world, NaN for pixels that do not count."""
        one = slice(view, view + 1)
        xyz = unproject(1 / self.inverse[one], self.K[one], self.c2w[one])[0]
        # Above 1e18 squares overflow float32.
        return torch.where((xyz.abs() < 1e18).all(-1, keepdim=True), xyz, torch.nan)

    def surface(self, view: int) -> tuple[Tensor, Tensor, Tensor]:
        """Points (H, W, 3), their normals (H, W, 3) towards the camera, and the cosine (H, W) between the normal and
        the direction to the camera: 0 for pixels that do not count or have no neighbour on their surface.
        """
        xyz = self.points(view)
        tangents = []
        for axis in (1, 0):
            step = xyz.diff(dim=axis)
            pad = torch.full_like(step.narrow(axis, 0, 1), torch.nan)
            ahead, behind = torch.cat([step, pad], axis), torch.cat([pad, step], axis)
            # Of the two neighbours the nearer one is more likely on the same surface.
            far, near = (side.norm(dim=-1, keepdim=True).nan_to_num(torch.inf) for side in (ahead, behind))
            tangents.append(torch.where(far < near, ahead, behind))
        normals = unit(torch.linalg.cross(tangents[1], tangents[0]).nan_to_num(0))
        facing = (normals * unit((self.eyes[view] - xyz).nan_to_num(0))).sum(-1)
        normals = torch.where(facing[..., None] < 0, -normals, normals)
        known = torch.isfinite(tangents[0] + tangents[1]).all(-1)
        return xyz, normals, torch.where(known, facing.abs(), 0)

    def look(self, view: int, xyz: Tensor) -> Look:
        """Ask a view about points (N, 3) of the world."""
        H, W = self.inverse.shape[1:]
        P = self.to_pixels[view]
        pixels = xyz @ P[:, :3].T + P[:, 3]
        z = pixels[:, 2]
        u, v = pixels[:, 0] / z, pixels[:, 1] / z
        rows = ((z > 0) & (u >= -0.5) & (u < W - 0.5) & (v >= -0.5) & (v < H - 0.5)).nonzero()[:, 0]
        u, v = u[rows].clamp(0, W - 1), v[rows].clamp(0, H - 1)
        left, top = u.long().clamp(max=W - 2), v.long().clamp(max=H - 2)
        corner, x, y = top * W + left, u - left, v - top
        taps = torch.stack([self.inverse[view].view(-1)[corner + step] for step in (0, 1, W, W + 1)])
        weights = torch.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y])
        return Look(rows, z[rows], corner, taps, weights, self.edge)


def blend(image: Tensor, look: Look) -> Tensor:
    """(P, C) bilinear values of an image (C, H, W) where a view was asked."""
    W = image.shape[-1]
    taps = torch.stack([look.corner, look.corner + 1, look.corner + W, look.corner + W + 1])
    return (image.flatten(1).T[taps] * look.weights[..., None]).sum(0)


def agreement(
    depth: Tensor,
    keep: Tensor,
    cameras: Cameras,
    tolerance: float = 0.02,
    others: int = 16,
    progress: Progress | None = None,
) -> Agreement:
    """Check every view's depth by reprojection against that of other views: all whose image holds a tenth of its
    points, or `others` of them, evenly spaced in the order of the views, where there are more.

    The point of a pixel is *confirmed* by a view that sees a surface at the point's own depth (within `tolerance` of
    it), and *denied* by one that sees through it to something further away, or that has a surface in front of it which
    the pixel's own view sees through. A point that is hidden, outside the image or beside pixels without depth is
    neither. Pixels outside `keep` have 0 of both.
    """
    maps = DepthMaps(depth, keep, cameras)
    confirmed = torch.zeros(depth.shape, dtype=torch.int16)
    denied = torch.zeros(depth.shape, dtype=torch.int16)
    for view in range(len(maps)):
        xyz = maps.points(view).view(-1, 3)
        pixels = torch.isfinite(xyz[:, 0]).nonzero()[:, 0]
        xyz, yes, no = xyz[pixels], confirmed[view].view(-1), denied[view].view(-1)
        sample = xyz[:: max(1, len(xyz) // 1000)]
        shared = [j for j in range(len(maps)) if j != view and 10 * len(maps.look(j, sample).rows) > len(sample)]
        for place in range(min(others, len(shared))):
            other = shared[place * len(shared) // min(others, len(shared))]
            look = maps.look(other, xyz)
            inverse, near, far = look.inverse() * look.z, look.taps.amax(0) * look.z, look.taps.amin(0) * look.z
            agrees = ((inverse - 1).abs() <= tolerance) | ((look.taps * look.z - 1).abs() <= tolerance).any(0)
            denies = ~agrees & (near < 1 - tolerance)
            hidden = (~agrees & (far > 1 + tolerance) & torch.isfinite(inverse)).nonzero()[:, 0]
            hider = maps.eyes[other] + (xyz[look.rows[hidden]] - maps.eyes[other]) / inverse[hidden, None]
            back = maps.look(view, hider)
            denies[hidden[back.rows]] = back.taps.amax(0) * back.z < 1 - tolerance
            yes[pixels[look.rows[agrees]]] += 1
            no[pixels[look.rows[denies]]] += 1
        if progress is not None:
            progress(view + 1, len(maps))
    return Agreement(confirmed, denied)


def observations(
    depth: Tensor, keep: Tensor, cameras: Cameras, xyz: Tensor, tolerance: float = 0.02
) -> list[tuple[Tensor, Tensor]]:
    """Per view the points (P, 3) that it sees: their indices (n,) and where, (n, 2) float64 in pixels as K counts them.

    Seen means that the view's depth there is the point's own, within `tolerance` of it.
    """
    maps, out = DepthMaps(depth, keep, cameras), []
    for view in range(len(maps)):
        look = maps.look(view, xyz)
        rows = look.rows[(look.inverse() * look.z - 1).abs() <= tolerance]
        P = cameras.K[view].double() @ torch.linalg.inv(cameras.c2w[view].double())[:3]
        pixels = xyz[rows].double() @ P[:, :3].T + P[:, 3]
        out.append((rows, pixels[:, :2] / pixels[:, 2:]))
    return out


def cell_keys(xyz: np.ndarray, origin: np.ndarray, voxel: float) -> np.ndarray:
    """(P,) int64: the voxel of each point (P, 3), x fastest, in an order that follows space."""
    half = 1 << (BITS - 1)
    cells = np.clip(np.floor((xyz - origin) / voxel), 1 - half, half - 2).astype(np.int64) + half
    return cells[:, 0] | cells[:, 1] << BITS | cells[:, 2] << 2 * BITS


def cell_corners(keys: np.ndarray, origin: np.ndarray, voxel: float) -> np.ndarray:
    """(P, 3) float64: the low corner of voxels."""
    cells = np.stack([keys >> shift & (1 << BITS) - 1 for shift in (0, BITS, 2 * BITS)], axis=1)
    return (cells - (1 << (BITS - 1))) * voxel + origin


def even_voxel(xyz: np.ndarray, origin: np.ndarray, voxel: float, most: int) -> float:
    """A side, from `voxel` up, at which points (P, 3) occupy at most `most` voxels and no fewer than need be."""
    low, high, side = voxel, np.inf, voxel
    left = len(np.unique(cell_keys(xyz, origin, voxel)))
    if left <= most:
        return voxel
    for _ in range(40):
        # Surfaces: the number of voxels goes with the inverse square of their side.
        side *= (left / (0.97 * most)) ** 0.5
        if not low < side < high:
            side = (low * high) ** 0.5 if np.isfinite(high) else 1.5 * low
        left = len(np.unique(cell_keys(xyz, origin, side)))
        if left > most:
            low = side
        else:
            high = side
            if left > 0.9 * most or high < 1.01 * low:
                break
    return high if np.isfinite(high) else 2 * low


def even_subset(xyz: Tensor, maximum: int) -> Tensor:
    """(K,) indices in order, K <= maximum, of points (P, 3) spread evenly over space: one per voxel, the first."""
    if len(xyz) <= maximum:
        return torch.arange(len(xyz))
    points = xyz.double().numpy()
    low, high = np.percentile(points[:: len(points) // 100_000 + 1], [5, 95], axis=0)
    origin = (low + high) / 2
    voxel = even_voxel(points, origin, max(float(np.linalg.norm(high - low)), 1e-6) / 2 / maximum**0.5, maximum)
    _, first = np.unique(cell_keys(points, origin, voxel), return_index=True)
    return torch.from_numpy(np.sort(first))


class VoxelMeans:
    """Means of points that share a voxel, gathered piece by piece. The voxel grows when there are more than `most`."""

    def __init__(self, origin: np.ndarray, voxel: float, most: int):
        self.origin, self.voxel, self.most = origin, voxel, most
        self.means = np.empty((0, 9), np.float32)
        self.count = np.empty(0, np.float32)
        self.waiting: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, means: np.ndarray) -> None:
        """(P, 9) float32: xyz, rgb, normal of points."""
        self.waiting.append(self.reduce(means, np.ones(len(means), np.float32)))
        if sum(len(count) for _, count in self.waiting) > max(len(self.count), self.most // 2):
            self.merge(2 * self.most)

    def merge(self, limit: int) -> None:
        """Take in what waits; above `limit` points the voxel grows until `most` are left."""
        pieces = [(self.means, self.count), *self.waiting]
        self.waiting = []
        self.means, self.count = self.reduce(*(np.concatenate(part) for part in zip(*pieces, strict=True)))
        while len(self.count) > limit:
            self.voxel = even_voxel(self.means[:, :3].astype(np.float64), self.origin, self.voxel, self.most)
            self.means, self.count = self.reduce(self.means, self.count)
            limit = self.most

    def reduce(self, means: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One row per voxel."""
        keys = cell_keys(means[:, :3].astype(np.float64), self.origin, self.voxel)
        order = np.argsort(keys, kind="stable")
        first = np.flatnonzero(np.diff(keys[order], prepend=-1))
        if not len(first):
            return means, count
        total = np.add.reduceat(count[order], first)
        # Relative to one point of the voxel, so that sums in float32 keep their precision far from the origin.
        anchor = means[order[first]]
        offset = (means[order] - np.repeat(anchor, np.diff(first, append=len(keys)), axis=0)) * count[order, None]
        return anchor + np.add.reduceat(offset, first) / total[:, None], total


def pixel_footprint(maps: DepthMaps) -> float:
    """Median distance in the world between neighbouring pixels on surfaces that face the camera."""
    sizes = (1 / (maps.inverse[:, ::8, ::8] * maps.focal[:, None, None])).flatten()
    sizes = sizes[torch.isfinite(sizes)]
    return float(sizes.median()) if len(sizes) else 1.0


def fuse_points(
    depth: Tensor,
    images: Tensor,
    cameras: Cameras,
    keep: Tensor,
    maximum: int = 500_000,
    voxel: float | None = None,
    progress: Progress | None = None,
) -> PointCloud:
    """One cloud of all views, at most `maximum` points.

    Points that share a voxel become one, their mean; `voxel` is its side in scene units, None the median distance
    between neighbouring pixels. While there are more than `maximum` points the voxel grows, so that what is left is
    spread evenly over space.
    """
    maps = DepthMaps(depth, keep, cameras)
    cloud = VoxelMeans(maps.eyes.double().mean(0).numpy(), voxel or pixel_footprint(maps), maximum)
    for view in range(len(maps)):
        xyz, normals, _ = maps.surface(view)
        seen = torch.isfinite(xyz[..., 0])
        rgb = images[view].detach().float().cpu().permute(1, 2, 0).nan_to_num(0).clamp(0, 1)
        cloud.add(torch.cat([xyz, rgb, normals], dim=-1)[seen].numpy())
        if progress is not None:
            progress(view + 1, len(maps))
    cloud.merge(maximum)
    xyz, rgb, normals = torch.from_numpy(cloud.means).split(3, dim=1)
    return PointCloud(xyz.contiguous(), (rgb * 255).round().byte(), unit(normals))


def without_gaps(xyz: Tensor, inverse: Tensor, edge: float, spacing: float) -> Tensor:
    """(P, 3): points (H, W, 3) of a view and, between neighbours of one surface, up to 15 more `spacing` apart."""
    pieces = [xyz[torch.isfinite(inverse)]]
    for axis in (0, 1):
        step, size = xyz.diff(dim=axis), inverse.shape[axis] - 1
        start, here, there = xyz.narrow(axis, 0, size), inverse.narrow(axis, 0, size), inverse.narrow(axis, 1, size)
        smooth = (here.maximum(there) / here.minimum(there) - 1 <= edge) & (step.norm(dim=-1) > spacing)
        start, step = start[smooth], step[smooth]
        parts = (step.norm(dim=-1, keepdim=True) / spacing).ceil().clamp(max=16)
        for part in range(1, 16):
            more = part < parts[:, 0]
            pieces.append((start + step * part / parts)[more])
    return torch.cat(pieces)


def fuse_mesh(
    depth: Tensor,
    images: Tensor,
    cameras: Cameras,
    keep: Tensor,
    maximum: int = 500_000,
    voxel: float | None = None,
    progress: Progress | None = None,
) -> Mesh:
    """One triangle mesh of all views with vertex colours, about `maximum` vertices at most.

    The views' depth is averaged in a truncated signed distance field (Curless and Levoy, 1996) on the voxels around
    the surfaces alone, and its zero is meshed with surface nets (Gibson, 1998): where views overlap there is one
    surface, where they disagree what most of them see through goes. Depth edges and surfaces at more than GRAZING
    degrees from their normal take no part. `voxel` None: the side at which `maximum` vertices suffice, no finer than
    the distance between neighbouring pixels.
    """
    maps = DepthMaps(depth, keep, cameras)
    V = len(maps)
    steps = iter(range(1, 3 * V + 1))

    def step() -> None:
        if progress is not None:
            progress(next(steps), 3 * V)

    # 1. The voxels to work on: those of the points, and their neighbours.
    origin = maps.eyes.double().mean(0).numpy()
    cells = VoxelMeans(origin, voxel or 1.5 * pixel_footprint(maps), maximum)
    for view in range(V):
        xyz, _, facing = maps.surface(view)
        grazing = facing < np.cos(np.radians(GRAZING))
        maps.inverse[view][grazing] = torch.nan
        cells.add(F.pad(without_gaps(xyz, maps.inverse[view], maps.edge, cells.voxel), (0, 6)).numpy())
        step()
    cells.merge(maximum if voxel is None else len(depth) * depth[0].numel())
    side = cells.voxel
    keys = np.unique(cell_keys(cells.means[:, :3].astype(np.float64), origin, side))
    for shift in (0, BITS, 2 * BITS):
        keys = np.unique(np.concatenate([keys - (1 << shift), keys, keys + (1 << shift)]))

    # 2. Their signed distance to the surface along each view's normals, positive towards the camera.
    field, weight = torch.zeros(len(keys)), torch.zeros(len(keys))
    for view in range(V):
        facing = maps.surface(view)[2]
        for start in range(0, len(keys), PIECE):
            piece = slice(start, start + PIECE)
            corners = torch.from_numpy(cell_corners(keys[piece], origin, side)).float()
            look = maps.look(view, corners)
            inverse, cosine = look.inverse(), blend(facing[None], look)[:, 0]
            length = (corners[look.rows] - maps.eyes[view]).norm(dim=1) / look.z
            distance = (1 / inverse - look.z) * length * cosine / side
            known = ((distance > -TRUNCATION) & (cosine > 0)).nonzero()[:, 0]
            rows = look.rows[known]
            # A view counts by how densely its pixels sample the surface.
            w = cosine[known] * inverse[known].square()
            field[piece][rows] += w * distance[known].clamp(max=TRUNCATION)
            weight[piece][rows] += w
        step()
    known = (weight > 0).numpy()
    cubes, places, triangles = surface_nets(keys[known], (field / weight).numpy()[known])
    xyz = torch.from_numpy(cell_corners(cubes, origin, side) + places * side).float()

    # 3. Colours, from the views that a vertex faces and that see it; without any it is no part of a surface.
    mesh = Mesh(xyz, torch.from_numpy(triangles))
    normals = mesh.normals()
    color, total = torch.zeros(len(xyz), 3), torch.zeros(len(xyz), 1)
    for view in range(V):
        look = maps.look(view, xyz)
        inverse = look.inverse()
        cosine = (normals[look.rows] * unit(maps.eyes[view] - xyz[look.rows])).sum(1)
        near = (1 / inverse - look.z).abs() < TRUNCATION * side
        seen = (near & (cosine > np.cos(np.radians(GRAZING)))).nonzero()[:, 0]
        image = images[view].detach().float().cpu().nan_to_num(0).clamp(0, 1)
        # Squared, so that the best looks count, without a seam where another becomes the best.
        w = (cosine[seen, None] * inverse[seen, None].square()).square()
        color[look.rows[seen]] += w * blend(image, look)[seen]
        total[look.rows[seen]] += w
        step()
    faces = mesh.faces[(total[:, 0] > 0)[mesh.faces].all(1)]
    used, faces = torch.unique(faces, return_inverse=True)
    return Mesh(xyz[used], faces, (color[used] / total[used] * 255).round().byte())


def surface_nets(keys: np.ndarray, field: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The zero of a field known at some corners of a grid: its values (P,) at the voxels `keys` (P,), sorted.

    Returns the cubes it passes (K,), by their low corner's key, with a vertex (K, 3) in each, in [0, 1]: the mean of
    the crossings on the cube's edges; and triangles (F, 3) between them, counter-clockwise from the positive side.
    """
    steps = [1 << shift for shift in (0, BITS, 2 * BITS)]

    def find(among: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = np.searchsorted(among, wanted).clip(max=len(among) - 1)
        return place, among[place] == wanted

    offsets = [np.array([corner & 1, corner >> 1 & 1, corner >> 2]) for corner in range(8)]
    rows = np.arange(len(keys))
    places = [rows]
    for offset in offsets[1:]:
        place, there = find(keys, keys[rows] + offset @ steps)
        rows = rows[there]
        places = [*(before[there] for before in places), place[there]]
    values = field[np.stack(places)] if len(rows) else np.empty((8, 0), np.float32)
    mixed = (values < 0).any(0) & (values >= 0).any(0)
    cubes, values = keys[rows[mixed]], values[:, mixed].astype(np.float64)

    total, crossings = np.zeros((len(cubes), 3)), np.zeros((len(cubes), 1))
    for low in range(8):
        for axis in range(3):
            high = low | 1 << axis
            if high == low:
                continue
            crossed = (values[low] < 0) != (values[high] < 0)
            part = values[low][crossed] / (values[low] - values[high])[crossed]
            total[crossed] += offsets[low] + part[:, None] * np.eye(3)[axis]
            crossings[crossed] += 1

    faces = [np.empty((0, 3), np.int64)]
    for axis in range(3):
        b, c = steps[(axis + 1) % 3], steps[(axis + 2) % 3]
        inside = values[0] < 0
        crossed = inside != (values[1 << axis] < 0)
        at = np.flatnonzero(crossed)
        around: list[np.ndarray] = []
        for step in (b + c, c, 0, b):
            place, there = find(cubes, cubes[at] - step)
            at, around = at[there], [*(before[there] for before in around), place[there]]
        quads = np.stack(around, axis=1) if around else np.empty((0, 4), np.int64)
        quads[~inside[at]] = quads[~inside[at]][:, ::-1]
        faces += [quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]
    return cubes, total / np.maximum(crossings, 1), np.concatenate(faces)


def view_meshes(
    depth: Tensor,
    images: Tensor,
    cameras: Cameras,
    keep: Tensor,
    maximum: int = 500_000,
    tolerance: float = 0.02,
    progress: Progress | None = None,
) -> Iterator[Mesh]:
    """A mesh per view on the grid of its pixels, textured with its image, together about `maximum` vertices at most.

    What an earlier view has already (within `tolerance` of the depth) is left out, but for a rim of overlap. Triangles
    are cut at depth edges and at more than GRAZING degrees. Views of which nothing is left give no mesh.
    """
    maps = DepthMaps(depth, keep, cameras)
    V, H, W = maps.inverse.shape
    fresh = torch.zeros(V, H, W, dtype=torch.bool)
    for view in range(V):
        xyz, _, facing = maps.surface(view)
        maps.inverse[view][facing < np.cos(np.radians(GRAZING))] = torch.nan
        pixels = torch.isfinite(maps.inverse[view]).view(-1).nonzero()[:, 0]
        for earlier in range(view):
            look = maps.look(earlier, xyz.view(-1, 3)[pixels])
            covered = torch.zeros(len(pixels), dtype=torch.bool)
            covered[look.rows] = (look.inverse() * look.z - 1).abs() <= tolerance
            pixels = pixels[~covered]
        fresh[view].view(-1)[pixels] = True
        if progress is not None:
            progress(view + 1, 2 * V)
    stride = max(1, round((int(fresh.sum()) / maximum) ** 0.5 + 0.499))
    while True:
        rim = F.max_pool2d(fresh.float(), (2 * stride + 1, 1), 1, (stride, 0))
        rim = F.max_pool2d(rim, (1, 2 * stride + 1), 1, (0, stride)) > 0
        if rim[:, ::stride, ::stride].sum() <= maximum:
            break
        stride += 1
    for view in range(V):
        xyz = maps.points(view)[::stride, ::stride]
        inverse = maps.inverse[view, ::stride, ::stride]
        rows, columns = inverse.shape
        index = torch.arange(rows * columns).view(rows, columns)
        # Each square is cut along the diagonal with the smaller step of depth.
        a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
        z = inverse.flatten()
        flip = ((z[a] - z[c]).abs() > (z[b] - z[d]).abs())[..., None]
        first = torch.where(flip, torch.stack([a, d, b], -1), torch.stack([a, d, c], -1))
        second = torch.where(flip, torch.stack([b, d, c], -1), torch.stack([a, c, b], -1))
        faces = torch.cat([first.view(-1, 3), second.view(-1, 3)])
        faces = faces[torch.isfinite(z[faces]).all(1) & rim[view, ::stride, ::stride].flatten()[faces].any(1)]
        corners = xyz.reshape(-1, 3)[faces]
        normal = unit(torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
        facing = (normal * unit(maps.eyes[view] - corners.mean(1))).sum(1)
        smooth = z[faces].amax(1) <= (1 + stride * maps.edge) * z[faces].amin(1)
        faces = faces[smooth & (facing > np.cos(np.radians(GRAZING)))]
        used, faces = torch.unique(faces, return_inverse=True)
        if progress is not None:
            progress(V + view + 1, 2 * V)
        if len(faces):
            place = torch.stack([used % columns, used // columns], 1) * stride + 0.5
            yield Mesh(xyz.reshape(-1, 3)[used], faces, uv=place / torch.tensor([W, H]), texture=images[view])
