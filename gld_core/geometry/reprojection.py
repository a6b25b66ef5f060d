"""The sources' photographs on their surfaces, drawn from other cameras by a depth buffer."""

import math

import torch
from torch import Tensor

from ..cameras import Cameras
from .depth_maps import GRAZING, PosedDepth, Progress, unit
from .points import Pause

# At most so many points of a source are projected.
POINTS_PER_SOURCE = 1 << 16
# A surface seen from behind hides what lies further back than this times its own depth.
HIDES = 1.05
# What no source has seen.
HOLE = (235 / 255, 70 / 255, 80 / 255)
# Pixels that are tested against triangles at a time.
AT_ONCE = 1 << 22


class Surfaces:
    """The sources' depth as triangles on the grid of their pixels, cut at depth edges and at more than GRAZING degrees.

    xyz (P, 3) vertices in the world; place (P, 2) where they are in their source's image, in its pixels; faces (F, 3),
    counter-clockwise where a source sees them; owner (F,) the source of each, in rising order, and counts, how many
    each source has. pause() is called after each source; what it raises ends the work.
    """

    def __init__(self, sources: PosedDepth, pause: Pause):
        stride = max(1, math.ceil((sources.inverse[0].numel() / POINTS_PER_SOURCE) ** 0.5))
        vertices: list[Tensor] = []
        places, faces, owners = [], [], []
        for view in range(len(sources)):
            grid = sources.points(view)[::stride, ::stride]
            rows, columns = grid.shape[:2]
            index = torch.arange(rows * columns).view(rows, columns)
            a, b, c, d = (part.flatten() for part in (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]))
            both = torch.cat([torch.stack([a, d, b], 1), torch.stack([b, d, c], 1)])
            xyz, inverse = grid.reshape(-1, 3), sources.inverse[view, ::stride, ::stride].flatten()
            corners, z = xyz[both], inverse[both]
            normal = unit(torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
            facing = (normal * unit(sources.eyes[view] - corners.mean(1))).sum(1)
            smooth = z.amax(1) <= (1 + stride * sources.edge) * z.amin(1)
            both = both[torch.isfinite(corners).all(2).all(1) & smooth & (facing > math.cos(math.radians(GRAZING)))]
            y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            places.append(torch.stack([x, y], 2).view(-1, 2) * stride + 0.5)
            faces.append(both + sum(len(part) for part in vertices))
            owners.append(torch.full((len(both),), view))
            vertices.append(xyz)
            pause()
        self.xyz, self.place, self.faces = torch.cat(vertices), torch.cat(places), torch.cat(faces)
        self.owner, self.counts = torch.cat(owners), [len(part) for part in owners]

    def seen_from(self, target: Cameras, pause: Pause) -> tuple[Tensor, Tensor, Tensor]:
        """A single target's view: which of its pixels (H, W) bool show what a source has seen; and of these P pixels,
        row by row, the source (P,) and the place (P, 2) in its image. A surface that turns its back was not seen by a
        source, and hides what lies further back than HIDES times its own depth. pause() is called after each source.
        """
        H, W = target.height, target.width
        projection = target.K[0] @ target.w2c[0, :3]

        def corners(faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            u, v, z = (self.xyz[faces] @ projection[:, :3].T + projection[:, 3]).unbind(2)
            return u / z, v / z, 1 / z

        # By pixel: in the upper half the nearest depth of a face, as the bits of its inverse, in the lower the face.
        front = torch.zeros(H * W, dtype=torch.int64)
        behind = torch.zeros(H * W)
        first = 0
        for faces in self.faces.split(self.counts):
            draw(*corners(faces), first, (H, W), front, behind)
            first += len(faces)
            pause()
        nearness = (front >> 32).int().view(torch.float32)
        mask = (front > 0) & (nearness * HIDES >= behind)
        pixel = mask.nonzero()[:, 0]
        face = front[pixel] & 0xFFFFFFFF
        x, y, inverse = corners(self.faces[face])
        weights = barycentric(x, y, area(x, y), pixel % W + 0.5, pixel.div(W, rounding_mode="floor") + 0.5)
        weights = weights * inverse
        weights = weights / weights.sum(1, keepdim=True)
        return mask.view(H, W), self.owner[face], (self.place[self.faces[face]] * weights[..., None]).sum(1)


def draw(
    x: Tensor, y: Tensor, inverse: Tensor, first: int, size: tuple[int, int], front: Tensor, behind: Tensor
) -> None:
    """Draw triangles, with corners x, y (F, 3) in pixels and their inverse depth, into the depth buffers of an image of
    `size` (H, W): front (H * W,) as `Surfaces.seen_from` has it, where they turn to the camera, their numbers counted
    from `first`; behind (H * W,) the inverse depth of those that turn their backs.
    """
    H, W = size
    # Pixel centres from the first to the last row and column that a triangle may cover.
    left, right = x.amin(1).sub(0.5).ceil().clamp(min=0), x.amax(1).sub(0.5).floor().clamp(max=W - 1)
    top, bottom = y.amin(1).sub(0.5).ceil().clamp(min=0), y.amax(1).sub(0.5).floor().clamp(max=H - 1)
    span, signed = torch.maximum(right - left, bottom - top) + 1, area(x, y)
    drawn = (inverse > 0).all(1) & (right >= left) & (bottom >= top) & (signed != 0)
    level = span.clamp(min=1).log2().ceil().long()
    for step in level[drawn].unique().tolist():
        side = 1 << step
        chosen = (drawn & (level == step)).nonzero()[:, 0]
        offset = torch.arange(side)
        for part in chosen.split(max(1, AT_ONCE // side**2)):
            columns = left[part].long()[:, None, None] + offset
            rows = top[part].long()[:, None, None] + offset[:, None]
            weights = barycentric(x[part], y[part], signed[part], columns + 0.5, rows + 0.5)
            inside = (weights >= -1e-5).all(-1) & (columns < W) & (rows < H)
            nearness = (weights * inverse[part][:, None, None]).sum(-1)[inside]
            pixel = (rows * W + columns)[inside]
            face = part[:, None, None].expand(inside.shape)[inside]
            # The image's y axis points down: what is counter-clockwise in space has a negative area.
            toward = signed[face] < 0
            bits = nearness.view(torch.int32).long() << 32
            front.scatter_reduce_(0, pixel[toward], (bits | (first + face))[toward], "amax")
            behind.scatter_reduce_(0, pixel[~toward], nearness[~toward], "amax")


def area(x: Tensor, y: Tensor) -> Tensor:
    """(F,) double, signed area of triangles' corners x, y (F, 3)."""
    return (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])


def barycentric(x: Tensor, y: Tensor, area: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """(F, ..., 3) weights of triangles' corners x, y (F, 3) at points of the image; area (F,) of `area`."""

    def corner(values: Tensor, number: int) -> Tensor:
        return values[:, number].view(-1, *[1] * (column.ndim - 1))

    weights = []
    for first, second in ((1, 2), (2, 0), (0, 1)):
        ahead = (corner(x, second) - corner(x, first)) * (row - corner(y, first))
        aside = (corner(y, second) - corner(y, first)) * (column - corner(x, first))
        weights.append(ahead - aside)
    return torch.stack(weights, -1) / corner(area[:, None], 0)[..., None]


def bilinear(image: Tensor, place: Tensor) -> Tensor:
    """(P, 3) of an image (3, H, W) at places (P, 2), x and y in pixels, the first pixel's centre being 0.5, 0.5."""
    H, W = image.shape[1:]
    grid = place / torch.tensor([W, H]) * 2 - 1
    return torch.nn.functional.grid_sample(image[None], grid[None, None], align_corners=False, padding_mode="border")[
        0, :, 0
    ].T


def reproject(
    sources: PosedDepth,
    targets: Cameras,
    progress: Progress | None = None,
    hole: tuple[float, float, float] = HOLE,
) -> tuple[Tensor, Tensor]:
    """Pictures (V, 3, H, W) of V targets, of the color `hole` where no source has seen what is there, and (V, H, W)
    float32: 1 where one has. The pictures lie in memory as (V, H, W, 3). The sources need their pictures.
    progress(done, total) counts every source, once for its surfaces and once for each view; what it raises ends the
    work.
    """
    done, total = 0, len(sources) * (1 + len(targets))

    def pause() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    surfaces = Surfaces(sources, pause)
    images = [sources.picture(view) for view in range(len(sources))]
    # Every view fills its own part: filling all of a long path's takes seconds without a look at progress.
    pictures = torch.empty(len(targets), targets.height, targets.width, 3).movedim(-1, 1)
    masks = torch.empty(len(targets), targets.height, targets.width)
    for view in range(len(targets)):
        mask, owner, place = surfaces.seen_from(targets[view], pause)
        pictures[view] = torch.tensor(hole).view(3, 1, 1)
        masks[view] = mask
        colors = torch.zeros(len(owner), 3)
        for source in owner.unique().tolist():
            own = owner == source
            colors[own] = bilinear(images[source], place[own])
        pictures[view, :, mask] = colors.T
    return pictures, masks
