"""One point cloud from the depth maps of several views."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .depth_maps import PosedDepth, Progress, unit, unproject

# Called between pieces of long work; what it raises ends the work.
Pause = Callable[[], None]

# Voxel coordinates have this many bits per axis; what lies further out is moved to the border.
BITS = 21


@dataclass(frozen=True)
class PointCloud:
    """xyz (P, 3) float32 from the cameras' origin, rgb (P, 3) uint8, normals (P, 3) float32 of length 1 towards the
    camera. voxel: the side of the cubes that share one point, where points were fused.
    """

    xyz: Tensor
    rgb: Tensor
    normals: Tensor | None = None
    voxel: float | None = None


def go_on() -> None:
    pass


def cell_keys(xyz: np.ndarray, origin: np.ndarray, voxel: float) -> np.ndarray:
    """(P,) int64: the voxel of each point (P, 3), x fastest, in an order that follows space."""
    half = 1 << (BITS - 1)
    cells = np.clip(np.floor((xyz - origin) / voxel), 1 - half, half - 2).astype(np.int64) + half
    return cells[:, 0] | cells[:, 1] << BITS | cells[:, 2] << 2 * BITS


def cell_corners(keys: np.ndarray, origin: np.ndarray, voxel: float) -> np.ndarray:
    """(P, 3) float64: the low corner of voxels."""
    cells = np.stack([keys >> shift & (1 << BITS) - 1 for shift in (0, BITS, 2 * BITS)], axis=1)
    return (cells - (1 << (BITS - 1))) * voxel + origin


def even_voxel(xyz: np.ndarray, origin: np.ndarray, voxel: float, most: int, pause: Pause = go_on) -> float:
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
        pause()
        left = len(np.unique(cell_keys(xyz, origin, side)))
        if left > most:
            low = side
        else:
            high = side
            if left > 0.9 * most or high < 1.01 * low:
                break
    return high if np.isfinite(high) else 2 * low


def samples(maps: PosedDepth, most: int, pause: Pause = go_on) -> tuple[PointCloud, Tensor]:
    """Points of the sources' surfaces with their pictures' colours, and the side (P,) of the square that each stands
    for there. Of every row and column, or of every n-th, so that there are at most `most`.
    """
    step = max(1, math.ceil((maps.inverse.numel() / most) ** 0.5))
    points, colors, sides = [], [], []
    for view in range(len(maps)):
        xyz, _, cosine = maps.surface(view)
        side = step / maps.inverse[view] / maps.focal[view] / cosine.clamp(min=0.2)
        rgb = (maps.picture(view).movedim(0, -1) * 255).round().byte()
        xyz, rgb, side = xyz[::step, ::step], rgb[::step, ::step], side[::step, ::step]
        known = torch.isfinite(xyz).all(dim=-1)
        points.append(xyz[known])
        colors.append(rgb[known])
        sides.append(side[known])
        pause()
    return PointCloud(torch.cat(points), torch.cat(colors)), torch.cat(sides)


def even_subset(xyz: Tensor, maximum: int, pause: Pause = go_on) -> Tensor:
    """(K,) indices in order, K <= maximum, of points (P, 3) spread evenly over space: one per voxel, the first."""
    if len(xyz) <= maximum:
        return torch.arange(len(xyz))
    points = xyz.double().numpy()
    low, high = np.percentile(points[:: len(points) // 100_000 + 1], [5, 95], axis=0)
    origin = (low + high) / 2
    voxel = max(float(np.linalg.norm(high - low)), 1e-6) / 2 / maximum**0.5
    voxel = even_voxel(points, origin, voxel, maximum, pause)
    _, first = np.unique(cell_keys(points, origin, voxel), return_index=True)
    return torch.from_numpy(np.sort(first))


class VoxelMeans:
    """Means of points that share a voxel, gathered piece by piece. The voxel grows when there are more than `most`.

    values: how many are kept of a point, the first three of them its xyz.
    """

    def __init__(self, origin: np.ndarray, voxel: float, most: int, pause: Pause = go_on, values: int = 9):
        self.origin, self.voxel, self.most, self.pause = origin, voxel, most, pause
        self.means = np.empty((0, values), np.float32)
        self.count = np.empty(0, np.float32)
        self.waiting: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, means: np.ndarray) -> None:
        """(P, values) float32 of points."""
        self.waiting.append(self.reduce(means, np.ones(len(means), np.float32)))
        if sum(len(count) for _, count in self.waiting) > max(len(self.count), self.most // 2):
            self.merge(2 * self.most)

    def merge(self, limit: int) -> None:
        """Take in what waits; above `limit` points the voxel grows until `most` are left."""
        pieces = [(self.means, self.count), *self.waiting]
        self.waiting = []
        self.means, self.count = self.reduce(*(np.concatenate(part) for part in zip(*pieces, strict=True)))
        while len(self.count) > limit:
            self.voxel = even_voxel(
                self.means[:, :3].astype(np.float64), self.origin, self.voxel, self.most, self.pause
            )
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


def pixel_footprint(maps: PosedDepth) -> float:
    """Median distance in the world between neighbouring pixels on surfaces that face the camera."""
    pieces = []
    for inverse, focal in zip(maps.inverse, maps.focal, strict=True):
        known = inverse[torch.isfinite(inverse)]
        # 61 is prime, so that the step fits the width of no picture.
        pieces.append(1 / (known[:: 61 if len(known) > 10_000 else 1] * focal))
    sizes = torch.cat(pieces)
    return float(sizes.median()) if len(sizes) else 1.0


def fuse_points(
    maps: PosedDepth, maximum: int = 500_000, voxel: float | None = None, progress: Progress | None = None
) -> PointCloud:
    """One cloud of all views, at most `maximum` points.

    Points that share a voxel become one, their mean; `voxel` is its side in scene units, None the median distance
    between neighbouring pixels. While there are more than `maximum` points the voxel grows, so that what is left is
    spread evenly over space; the cloud says which side it came to.
    """
    view = -1

    def step() -> None:
        if progress is not None:
            progress(view + 1, len(maps))

    cloud = VoxelMeans(maps.eyes.double().mean(0).numpy(), voxel or pixel_footprint(maps), maximum, step)
    for view in range(len(maps)):
        xyz, normals, _ = maps.surface(view)
        seen = torch.isfinite(xyz[..., 0])
        rgb = maps.picture(view).permute(1, 2, 0)
        cloud.add(torch.cat([xyz, rgb, normals], dim=-1)[seen].numpy())
        step()
    cloud.merge(maximum)
    xyz, rgb, normals = torch.from_numpy(cloud.means).split(3, dim=1)
    return PointCloud(xyz.contiguous(), (rgb * 255).round().byte(), unit(normals), cloud.voxel)


def without_gaps(xyz: Tensor, inverse: Tensor, edge: float, spacing: float) -> Tensor:
    """(P, 3): points (H, W, 3) of a view and, between neighbours of one surface, up to 15 more `spacing` apart."""
    pieces = [xyz[torch.isfinite(inverse)]]
    for axis in (0, 1):
        step, size = xyz.diff(dim=axis), inverse.shape[axis] - 1
        start, here, there = xyz.narrow(axis, 0, size), inverse.narrow(axis, 0, size), inverse.narrow(axis, 1, size)
        smooth = (here.maximum(there) / here.minimum(there) - 1 <= edge) & (step.norm(dim=-1) > spacing)
        start, step = start[smooth], step[smooth]
        parts = (step.norm(dim=-1, keepdim=True) / spacing).ceil().clamp(max=16)
        for part in range(1, int(parts.max()) if len(parts) else 1):
            more = part < parts[:, 0]
            pieces.append((start + step * part / parts)[more])
    return torch.cat(pieces)


def point_cloud(
    depth: Tensor, conf: Tensor, images: Tensor, K: Tensor, c2w: Tensor, threshold: float
) -> tuple[Tensor, Tensor]:
    """Points xyz (P, 3) float32 in the world and rgb (P, 3) uint8, ordered by view, row, column.

    depth, conf (V, H, W); images (V, 3, H, W) in [0, 1]. Kept: finite, positive depth, confidence >= threshold.
    """
    depth, conf = depth.cpu(), conf.cpu()
    keep = torch.isfinite(depth) & (depth > 0) & (conf >= threshold)
    colors = (images.cpu().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    return unproject(depth, K, c2w)[keep], colors[keep]
