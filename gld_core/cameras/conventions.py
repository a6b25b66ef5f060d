"""The type `Cameras`, its conventions and checks, and the pose encodings of the networks.

Axes are OpenCV's: x right, y down, z forward. Poses are camera-to-world (c2w), intrinsics K are in pixels of a
height x width image. Cameras are float32 on the CPU whatever the networks run in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .rotations import quaternion_to_rotation, rotation_to_quaternion

# Where a principal point may lie, as a share of the image's sides: that of half or twice the size lies outside.
PRINCIPAL_RANGE = (0.3, 0.7)
# Focal lengths as a share of the image's sides: fields of view from 179.9 down to 0.06 degrees.
FOCAL_RANGE = (1e-3, 1e3)
# Pixels of an image's longer side.
MAX_SIDE = 65536
# Cameras further than this from the world's origin, and ten times further than they are apart, get an origin of their
# own: float32 has steps of half a metre in coordinates of a national grid.
FAR = 1000.0


@dataclass(frozen=True)
class Cameras:
    """V pinhole cameras: c2w (V, 4, 4), K (V, 3, 3) in pixels of height x width images.

    Translations are relative to `origin`, a point (3,) of the world in float64. It is 0 unless `in_world` was given
    cameras that are far away from the world's origin. `world_c2w` adds it again.
    """

    c2w: Tensor
    K: Tensor
    height: int
    width: int
    origin: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))

    def __post_init__(self):
        object.__setattr__(self, "origin", torch.as_tensor(self.origin).detach().cpu().double().reshape(3))
        for name, size in (("c2w", 4), ("K", 3)):
            value = torch.as_tensor(getattr(self, name)).detach().to("cpu", torch.float32)
            if value.ndim != 3 or value.shape[1:] != (size, size):
                raise ValueError(f"Cameras.{name} has shape {tuple(value.shape)}; give (V, {size}, {size}).")
            object.__setattr__(self, name, value)
        if len(self.c2w) != len(self.K):
            raise ValueError(f"Cameras has {len(self.c2w)} poses but {len(self.K)} intrinsics; give one K per pose.")

    def __len__(self) -> int:
        return len(self.c2w)

    def __getitem__(self, index: int | slice | Sequence[int]) -> Cameras:
        if isinstance(index, int):
            index = [index]
        elif not isinstance(index, slice):
            index = list(index)
        return replace(self, c2w=self.c2w[index], K=self.K[index])

    @property
    def w2c(self) -> Tensor:
        """(V, 4, 4) world-to-camera. Translations of the world are relative to `origin`."""
        return torch.linalg.inv(self.c2w.double()).float()

    @property
    def world_c2w(self) -> Tensor:
        """(V, 4, 4) float64 camera-to-world with `origin` added: the poses as they were given."""
        out = self.c2w.double().clone()
        out[:, :3, 3] += self.origin
        return out

    def world_points(self, xyz: Tensor) -> Tensor:
        """Points (P, 3) from `origin` -> those of the world; float64 where `origin` is not 0, as float32 would move
        them away from the cameras."""
        return xyz.double() + self.origin if self.origin.any() else xyz

    @classmethod
    def in_world(cls, c2w: Tensor, K: Tensor, height: int, width: int) -> Cameras:
        """Cameras with float64 poses c2w (V, 4, 4). If they are FAR from 0, their mean becomes `origin`."""
        c2w = c2w.double().clone()
        middle = c2w[:, :3, 3].mean(dim=0)
        extent, away = (c2w[:, :3, 3] - middle).norm(dim=1).max(), middle.norm()
        if not (torch.isfinite(away) and away > FAR and away > 10 * extent):
            return cls(c2w, K, height, width)
        c2w[:, :3, 3] -= middle
        # Rounding of one point is not a baseline.
        if extent < 1e-10 * away:
            c2w[:, :3, 3] = 0
        return cls(c2w, K, height, width, middle)

    def seen_from(self, origin: Tensor) -> Cameras:
        """The same cameras with another `origin`, a point (3,) of the world."""
        if torch.equal(self.origin, origin):
            return self
        c2w = self.world_c2w
        c2w[:, :3, 3] -= origin
        return replace(self, c2w=c2w, origin=origin)

    def check(self, names: Sequence[str] | None = None) -> None:
        """Raise ValueError, naming the view and the cure, unless a network can be given every camera.

        names: the names of the views, for the message.
        """
        if not (0 < self.width <= MAX_SIDE and 0 < self.height <= MAX_SIDE):
            raise ValueError(
                f"The cameras are for images of {self.width}x{self.height}; give width and height in pixels, from 1 to "
                f"{MAX_SIDE}."
            )
        names = [f"view {view}" for view in range(len(self))] if names is None else names
        lenses = lens_problems(self.K, self.height, self.width, names)
        for problem in map(lambda pose, lens: pose or lens, pose_problems(self.c2w, names), lenses):
            if problem:
                raise ValueError(problem)


def pose_problems(c2w: Tensor, names: Sequence[str]) -> list[str]:
    """For each of (V, 4, 4) poses: a sentence that names the view and says why no camera can have this pose, or ""."""
    c2w = c2w.double()
    out = [""] * len(c2w)
    finite = torch.isfinite(c2w).flatten(1).all(dim=1)
    R = torch.where(finite[:, None, None], c2w[:, :3, :3], torch.eye(3, dtype=torch.float64))
    error = (R @ R.transpose(1, 2) - torch.eye(3, dtype=R.dtype)).abs().amax(dim=(1, 2))
    mirrored = torch.linalg.det(R) < 0
    row = (c2w[:, 3] - torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)).abs().amax(dim=1)
    for view in (~finite | (error > 1e-2) | mirrored | (row > 1e-4)).nonzero()[:, 0].tolist():
        name = names[view][:200]
        if not finite[view]:
            out[view] = f"The pose of {name} is not finite; leave that view out."
        elif error[view] > 1e-2:
            out[view] = (
                f"The rotation of {name} is not orthonormal (off by {error[view]:.3g}); "
                "give camera-to-world matrices without scale or shear."
            )
        elif mirrored[view]:
            out[view] = f"The rotation of {name} is mirrored; give right-handed axes (x right, y down, z forward)."
        else:
            out[view] = f"The last row of {name}'s pose is not 0 0 0 1; give camera-to-world matrices."
    return out


def lens_problems(K: Tensor, height: int, width: int, names: Sequence[str]) -> list[str]:
    """For each K (V, 3, 3): a sentence that names the view and says why no camera of height x width images can have
    this K, or "".
    """
    K, out = K.double(), [""] * len(K)
    focal, middle = K[:, [0, 1], [0, 1]], K[:, :2, 2]
    size = torch.tensor([width, height], dtype=torch.float64)
    finite = torch.isfinite(K).flatten(1).all(dim=1)
    shape = (K[:, 2] - torch.tensor([0.0, 0, 1], dtype=torch.float64)).abs().amax(dim=1) <= 1e-4
    shape &= K[:, 1, 0] == 0
    lens = ((focal / size >= FOCAL_RANGE[0]) & (focal / size <= FOCAL_RANGE[1])).all(dim=1)
    place = ((middle / size >= PRINCIPAL_RANGE[0]) & (middle / size <= PRINCIPAL_RANGE[1])).all(dim=1)
    for view in (~(finite & shape & lens & place)).nonzero()[:, 0].tolist():
        name, (fx, fy), (cx, cy) = names[view][:200], focal[view].tolist(), middle[view].tolist()
        if not finite[view]:
            out[view] = f"The K of {name} is not finite; leave that view out."
        elif fx <= 0 or fy <= 0:
            out[view] = f"K of {name} has a focal length of 0 or below; give focal lengths in pixels."
        elif not shape[view]:
            out[view] = f"K of {name} is not [[fx, skew, cx], [0, fy, cy], [0, 0, 1]]; transpose or fix it."
        elif not lens[view]:
            out[view] = (
                f"K of {name} has focal lengths of {fx:.4g} and {fy:.4g} for a {width}x{height} "
                "image, which no lens has; give focal lengths in pixels."
            )
        else:
            out[view] = (
                f"K of {name} has its principal point ({cx:.4g}, {cy:.4g}) far from the middle of the "
                f"{width}x{height} image; K belongs to another image size: scale it with the image."
            )
    return out


def nearest_pinhole(cameras: Cameras) -> tuple[Cameras, float]:
    """The same cameras with every K as [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], and how far apart the two project in the
    worst view, in pixels (root mean square over the picture).

    K of a recovered camera is a full matrix, which most file formats cannot hold. The values are the least-squares fit
    to where the given K projects the rays of a grid of pixels. A K that has the form already stays as it is.
    """
    y, x = torch.meshgrid((torch.arange(16) + 0.5) / 16, (torch.arange(16) + 0.5) / 16, indexing="ij")
    pixels = torch.stack([x * cameras.width, y * cameras.height, torch.ones_like(x)], -1).flatten(0, 1).double()
    plain, worst = cameras.K.clone(), 0.0
    for view, K in enumerate(cameras.K.double()):
        form = torch.tensor([[K[0, 0], 0, K[0, 2]], [0, K[1, 1], K[1, 2]], [0, 0, 1]], dtype=torch.float64)
        if torch.equal(form, K):
            continue
        rays = pixels @ torch.linalg.inv(K).T
        rays, error = rays / rays[:, 2:], torch.zeros(len(pixels), dtype=torch.float64)
        for axis in range(2):
            columns = rays[:, [axis, 2]]
            form[axis, [axis, 2]] = torch.linalg.lstsq(columns, pixels[:, axis : axis + 1]).solution[:, 0]
            error += (columns @ form[axis, [axis, 2]] - pixels[:, axis]).square()
        plain[view] = form.float()
        worst = max(worst, error.mean().sqrt().item())
    return replace(cameras, K=plain), worst


def check_scene(cameras: Cameras, sources: int, depth: float | None = None) -> None:
    """`Cameras.check`, then what only the scene shows, the first `sources` cameras being photographs.

    Raises ValueError where translations span more than 100 times the scene's depth (None: not known, not looked at),
    or where all photographs were taken in one point with different K, as happens when their poses were lost.
    """
    cameras.check()
    centres = cameras.c2w[:, :3, 3].double()
    away = (centres - centres.median(dim=0).values).norm(dim=1)
    if depth is not None and torch.cdist(centres, centres).max() > 100 * depth:
        raise ValueError(
            f"View {int(away.argmax())} stands {away.max() / depth:.0f} times the scene's depth ({depth:.3g}) away "
            "from the others; its translation is in another unit: give all of them in the same, such as metres."
        )
    focal = cameras.K[:sources, 0, 0]
    if sources > 1 and in_one_point(cameras.c2w[:sources]) and focal.max() > 1.01 * focal.min():
        raise ValueError(
            f"The {sources} source cameras stand in one point but have different K (fx from {focal.min():.4g} to "
            f"{focal.max():.4g}); their poses were lost: estimate the cameras, or load them with their translations."
        )


def in_one_point(c2w: Tensor) -> bool:
    """Whether the translations of poses (V, 4, 4) differ by rounding only, that is by 1e-5 of their length at most."""
    centres = c2w[:, :3, 3]
    return bool((centres - centres[-1]).abs().max() <= 1e-5 * centres.abs().max())


def path_order(cameras: Cameras, sources: int) -> list[int]:
    """All views in the order of the path: the targets as they are, each of the first `sources` views put where it makes
    the way through the views longest least. Steps count by distance, in units of the cameras' extent, plus angle in
    radians.
    """
    c2w = cameras.c2w.double()
    distance = torch.cdist(c2w[:, :3, 3], c2w[:, :3, 3])
    cosine = (torch.einsum("iab,jab->ij", c2w[:, :3, :3], c2w[:, :3, :3]) - 1) / 2
    step = (distance / distance.max().clamp(min=1e-12) + cosine.clamp(-1, 1).acos()).tolist()
    order = list(range(sources, len(cameras)))
    for source in range(sources):
        detours = []
        for place in range(len(order) + 1):
            sides = order[max(place - 1, 0) : place + 1]
            way = step[sides[0]][sides[1]] if 0 < place < len(order) else 0.0
            detours.append(sum(step[source][side] for side in sides) - way)
        order.insert(detours.index(min(detours)) if detours else 0, source)
    return order


def encode_pose(pose: Tensor, K: Tensor, height: int, width: int) -> Tensor:
    """(V, 9) float32: translation, quaternion xyzw, vertical and horizontal field of view in radians."""
    pose, K = pose.double(), K.double()
    fov_h = 2 * torch.atan(height / 2 / K[:, 1, 1])
    fov_w = 2 * torch.atan(width / 2 / K[:, 0, 0])
    return torch.cat(
        [pose[:, :3, 3], rotation_to_quaternion(pose[:, :3, :3]), fov_h[:, None], fov_w[:, None]], dim=1
    ).float()


def decode_pose(encoding: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """(V, 9) encoding -> pose (V, 4, 4) and K (V, 3, 3). The principal point is in the middle."""
    encoding = encoding.detach().cpu().double()
    pose = torch.eye(4, dtype=torch.float64).repeat(len(encoding), 1, 1)
    pose[:, :3, :3] = quaternion_to_rotation(encoding[:, 3:7])
    pose[:, :3, 3] = encoding[:, :3]
    tangent = torch.tan(encoding[:, 7:] / 2).clamp(min=1e-6)
    K = torch.zeros(len(encoding), 3, 3, dtype=torch.float64)
    K[:, 0, 0] = width / 2 / tangent[:, 1]
    K[:, 1, 1] = height / 2 / tangent[:, 0]
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = width / 2, height / 2, 1
    return pose, K


# x right, y up, z backward (OpenGL, Blender, three.js) to OpenCV and back.
OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
