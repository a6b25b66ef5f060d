"""Depth maps of posed views: which pixels are surfaces, and how well the views agree about them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..cameras import Cameras

Progress = Callable[[int, int], None]
# Surfaces seen at a larger angle (degrees) from their normal are left out of meshes.
GRAZING = 85.0
# Neighbouring pixels lie on different surfaces where their depth differs by more than this, relative to it; between
# the limits it is what a surface at GRAZING degrees does at the image's resolution.
EDGE = (0.03, 0.1)


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


def confidence_threshold(conf: Tensor, floor: float = 1.05, low: float = 0, high: float = 100) -> float:
    """min(max(floor, p_low), p_high) with linear percentiles of all confidences (40 and 90 are DA3's own)."""
    p_low, p_high = np.percentile(conf.cpu().numpy(), [low, high])
    return float(min(max(floor, p_low), p_high))


def unproject(depth: Tensor, K: Tensor, c2w: Tensor) -> Tensor:
    """World points (V, H, W, 3) of depth (V, H, W) along the camera axis, at integer pixels; K (V, 3, 3)."""
    V, H, W = depth.shape
    v, u = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1).double()
    points = torch.empty(V, H, W, 3)
    for i in range(V):
        to_world = c2w[i, :3, :3].double() @ torch.linalg.inv(K[i].double())
        points[i] = (pixels @ to_world.T * depth[i, ..., None].cpu().double() + c2w[i, :3, 3].double()).float()
    return points
