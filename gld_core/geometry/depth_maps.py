"""Depth maps of posed views: which pixels are surfaces, and how well the views agree about them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
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
        inverse = (self.taps * self.weights).sum(0)
        edge = (self.taps.amax(0) > (1 + self.edge) * self.taps.amin(0)).nonzero()[:, 0]
        nearest = self.weights[:, edge].argmax(0, keepdim=True)
        inverse[edge] = self.taps[:, edge].gather(0, nearest)[0]
        return inverse


@dataclass(frozen=True)
class PosedDepth:
    """Depth maps of V posed views, with the pixels of them that count and, where colours are needed, their pictures.

    depth (V, H, W) along the cameras' axes, in the cameras' unit; keep (V, H, W) bool (None: all depth that is finite
    and positive); images (V, 3, H, W) in [0, 1]. Points are relative to `cameras.origin`, which is given to cameras
    that are far from the world's origin and have none. Raises ValueError where these are not of the same views in the
    same size, or a camera is not finite or not invertible.

    Computed from these: K (V, 3, 3) float64, which counts pixels from the centre of the first one; c2w (V, 4, 4)
    float64; to_pixels (V, 3, 4), the projection; eyes (V, 3), where the cameras stand; focal (V,) in pixels; edge, the
    relative step of depth from which neighbouring pixels lie on different surfaces; inverse (V, H, W), 1/depth, NaN for
    the pixels that do not count.
    """

    depth: Tensor
    cameras: Cameras
    keep: Tensor | None = None
    images: Tensor | None = None
    K: Tensor = field(init=False, repr=False)
    c2w: Tensor = field(init=False, repr=False)
    to_pixels: Tensor = field(init=False, repr=False)
    eyes: Tensor = field(init=False, repr=False)
    focal: Tensor = field(init=False, repr=False)
    edge: float = field(init=False, repr=False)
    inverse: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        V, H, W = self.depth.shape
        size = (len(self.cameras), self.cameras.height, self.cameras.width)
        selection = self.depth.shape if self.keep is None else self.keep.shape
        pictures = (V, 3, H, W) if self.images is None else self.images.shape
        if size != (V, H, W) or selection != self.depth.shape or tuple(pictures) != (V, 3, H, W):
            raise ValueError(
                f"Depth is {(V, H, W)}, the selection {tuple(selection)}, the pictures are {tuple(pictures)}, the "
                f"cameras {size}; give all for the same views in the same size."
            )
        # Cameras far from the world's origin are moved to one of their own, so that float32 serves from here on.
        if not self.cameras.origin.any():
            near = Cameras.in_world(self.cameras.world_c2w, self.cameras.K, *size[1:])
            object.__setattr__(self, "cameras", near)
        K, c2w = self.cameras.K.double(), self.cameras.c2w.double()
        K[:, :2] -= 0.5 * K[:, 2:]
        for view in range(V):
            known = torch.isfinite(K[view]).all() and torch.isfinite(c2w[view]).all()
            if not known or torch.linalg.det(K[view]) == 0 or torch.linalg.det(c2w[view]) == 0:
                raise ValueError(f"The camera of view {view} is not finite or not invertible; leave that view out.")
        focal = torch.linalg.det(K[:, :2, :2]).abs().sqrt().float()
        inverse = 1 / self.depth.detach().float().cpu()
        counts = torch.isfinite(inverse) & (inverse > 0)
        if self.keep is not None:
            counts &= self.keep.cpu()
        derived = {
            "K": K,
            "c2w": c2w,
            "to_pixels": (K @ torch.linalg.inv(c2w)[:, :3]).float(),
            "eyes": c2w[:, :3, 3].float(),
            "focal": focal,
            "edge": float((np.tan(np.radians(GRAZING)) / focal.median()).clamp(*EDGE)),
            "inverse": torch.where(counts, inverse, torch.nan),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.inverse)

    def picture(self, view: int) -> Tensor:
        """(3, H, W) float32 in [0, 1]: the picture of a view. Raises ValueError where there are none."""
        if self.images is None:
            raise ValueError("These depth maps have no pictures; give them as `images`.")
        return self.images[view].detach().float().cpu().nan_to_num(0).clamp(0, 1)

    def frontal(self) -> tuple["PosedDepth", Tensor]:
        """The same views without the pixels that see their surface at more than GRAZING degrees from its normal, or
        that have no neighbour on their surface; and the cosines (V, H, W) of `surface`."""
        cosines = torch.stack([self.surface(view)[2] for view in range(len(self))])
        return replace(self, keep=cosines >= np.cos(np.radians(GRAZING))), cosines

    def points(self, view: int) -> Tensor:
        """(H, W, 3) points in the world, NaN for pixels that do not count."""
        one = slice(view, view + 1)
        xyz = unproject(1 / self.inverse[one], self.K[one], self.c2w[one])[0]
        # Above 1e18 squares overflow float32.
        return torch.where((xyz.abs() < 1e18).all(-1, keepdim=True), xyz, torch.nan)

    def ray_lengths(self, view: int) -> Tensor:
        """(H, W) the distance from the camera of what is 1 deep along its axis."""
        H, W = self.inverse.shape[1:]
        v, u = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
        pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1).double()
        rays = pixels @ torch.linalg.inv(self.K[view]).T
        return (rays.norm(dim=-1) / rays[..., 2]).float()

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

    def sample(self, view: int, xyz: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ask a view about points (3, N) of the world, all at once: their depth z (N,), the inverse depth (N,) that
        the view has there, as `Look.inverse` gives it, NaN outside its image, and bilinear values (C, N) of an image
        (C, H, W).
        """
        H, W = self.inverse.shape[1:]
        P = self.to_pixels[view]
        u, v, z = P[:, :3] @ xyz + P[:, 3:]
        u, v = u / z, v / z
        outside = ~((z > 0) & (u >= -0.5) & (u < W - 0.5) & (v >= -0.5) & (v < H - 0.5))
        u, v = (part.nan_to_num(0).clamp(0, side - 1) for part, side in ((u, W), (v, H)))
        own = self.inverse[view]
        grid = torch.stack([u * (2 / (W - 1)) - 1, v * (2 / (H - 1)) - 1], -1)[None, None]
        sampled = F.grid_sample(torch.cat([own[None], values])[None], grid, align_corners=True)[0, :, 0]
        inverse = sampled[0].masked_fill(outside, torch.nan)
        # Between surfaces there is none: the nearest pixel's counts.
        low, high = -F.max_pool2d(-own[None], 2, 1)[0], F.max_pool2d(own[None], 2, 1)[0]
        edges = F.pad(high > (1 + self.edge) * low, (0, 1, 0, 1)).flatten()
        rows = edges.index_select(0, v.long().clamp(max=H - 2) * W + u.long().clamp(max=W - 2)).nonzero()[:, 0]
        nearest = own.flatten()[(v[rows] + 0.5).long() * W + (u[rows] + 0.5).long()]
        inverse[rows] = torch.where(torch.isfinite(inverse[rows]), nearest, torch.nan)
        return z, inverse, sampled[1:]


def blend(image: Tensor, look: Look) -> Tensor:
    """(P, C) bilinear values of an image (C, H, W) where a view was asked."""
    W = image.shape[-1]
    taps = torch.stack([look.corner, look.corner + 1, look.corner + W, look.corner + W + 1])
    return (image.flatten(1).T[taps] * look.weights[..., None]).sum(0)


def agreement(
    maps: PosedDepth, tolerance: float = 0.02, others: int = 16, progress: Progress | None = None
) -> Agreement:
    """Check every view's depth by reprojection against that of other views: all whose image holds a tenth of its
    points, or `others` of them, evenly spaced in the order of the views, where there are more.

    The point of a pixel is *confirmed* by a view that sees a surface at the point's own depth (within `tolerance` of
    it), and *denied* by one that sees through it to something further away, or that has a surface in front of it which
    the pixel's own view sees through. A point that is hidden, outside the image or beside pixels without depth is
    neither. Pixels that do not count have 0 of both.
    """
    confirmed = torch.zeros(maps.inverse.shape, dtype=torch.int16)
    denied = torch.zeros(maps.inverse.shape, dtype=torch.int16)
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


def observations(maps: PosedDepth, xyz: Tensor, tolerance: float = 0.02) -> list[tuple[Tensor, Tensor]]:
    """Per view the points (P, 3) that it sees: their indices (n,) and where, (n, 2) float64 in pixels as K counts them.

    Seen means that the view's depth there is the point's own, within `tolerance` of it.
    """
    out = []
    for view in range(len(maps)):
        look = maps.look(view, xyz)
        rows = look.rows[(look.inverse() * look.z - 1).abs() <= tolerance]
        P = maps.cameras.K[view].double() @ torch.linalg.inv(maps.c2w[view])[:3]
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
