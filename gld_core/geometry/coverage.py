"""What of the target views some source has seen."""

import math

import torch
from torch import Tensor

from ..cameras import Cameras
from .depth_maps import PosedDepth, Progress

# At most so many points of a source are projected.
POINTS_PER_SOURCE = 1 << 16
# Cells of up to 2**LEVELS pixels stand for points that a target sees from nearer than the source did.
LEVELS = 6
# A surface seen from behind hides what lies further back than this times its own depth.
HIDES = 1.05


def coverage(sources: PosedDepth, targets: Cameras, progress: Progress | None = None) -> Tensor:
    """(V, H, W) float32 for V targets: 1 where a pixel's ray lands where a source has depth, 0 elsewhere. Its mean over
    a view is the share of that view's rays that do.

    The sources' surfaces are projected into the targets with a depth buffer. A surface that turns its back to the
    target was not seen by a source, and it hides what is behind it. Memory grows with the result alone.
    progress(done, total) is called after each view; what it raises ends the work.
    """
    stride = max(1, math.ceil((sources.inverse[0].numel() / POINTS_PER_SOURCE) ** 0.5))
    points, normals, sizes = [], [], []
    for view in range(len(sources)):
        xyz, normal, cosine = (part[::stride, ::stride].flatten(0, 1) for part in sources.surface(view))
        known = (cosine > 0) & torch.isfinite(xyz).all(dim=1)
        distance = (xyz[known] - sources.eyes[view]) @ sources.cameras.c2w[view, :3, 2]
        # The side of the square that a point stands for; the diagonal, so that it may lie at any angle.
        sizes.append(2**0.5 * stride * distance / sources.cameras.K[view, 0, 0] / cosine[known].clamp(min=0.2))
        points.append(xyz[known])
        normals.append(normal[known])
    xyz, normal, size = torch.cat(points), torch.cat(normals), torch.cat(sizes)
    masks = torch.zeros(len(targets), targets.height, targets.width)
    for view in range(len(targets)):
        masks[view] = seen(xyz, normal, size, targets[view])
        if progress is not None:
            progress(view + 1, len(targets))
    return masks


def seen(xyz: Tensor, normal: Tensor, size: Tensor, target: Cameras) -> Tensor:
    """(H, W) bool for one target. xyz, normal (P, 3), size (P,)."""
    H, W = target.height, target.width
    projection = target.K[0] @ target.w2c[0, :3]
    u, v, z = (xyz @ projection[:, :3].T + projection[:, 3]).unbind(1)
    column, row = u / z, v / z
    pixels = (size * target.K[0, 0, 0] / z).clamp(min=1, max=2**LEVELS)
    reach = pixels / 2
    inside = (z > 0) & (column > -reach) & (column < W + reach) & (row > -reach) & (row < H + reach)
    column, row, z = column[inside].long().clamp(0, W - 1), row[inside].long().clamp(0, H - 1), z[inside]
    front = (normal[inside] * (target.c2w[0, :3, 3] - xyz[inside])).sum(dim=1) > 0
    level = pixels[inside].log2().ceil().long()
    # The nearest surface facing the target, and the nearest turning its back.
    nearest = torch.full((2, H, W), torch.inf)
    for step in level.unique().tolist():
        cell = 1 << step
        rows, columns = -(-H // cell), -(-W // cell)
        at = level == step
        index = (~front[at]).long() * rows * columns + (row[at] >> step) * columns + (column[at] >> step)
        grid = torch.full((2 * rows * columns,), torch.inf).scatter_reduce_(0, index, z[at], "amin")
        grid = grid.view(2, rows, columns).repeat_interleave(cell, 1).repeat_interleave(cell, 2)
        nearest = torch.minimum(nearest, grid[:, :H, :W])
    return torch.isfinite(nearest[0]) & (nearest[0] <= HIDES * nearest[1])
