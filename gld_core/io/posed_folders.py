"""Posed scenes: folders of photographs, each with its camera in a same-named .npz.

The .npz holds `pose`, the (4, 4) OpenCV camera-to-world matrix (x right, y down, z forward), and `intrinsic`, the
(3, 3) K in pixels of the picture as it is shown (pixel convention in images.py). An .npz without a picture is a camera
to look from: it may be a target, and its K is in pixels of the first picture. Views are counted from 0 in natural
order of their names (frame_2 before frame_10).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cameras import Cameras
from ..cameras.conventions import PRINCIPAL_RANGE
from .files import atomic, check_names, natural_order
from .images import EXTENSIONS, fit, fitting_size, read_image, write_png


def write_npz(path: str | Path, **arrays: Tensor | float) -> None:
    """Named arrays -> compressed .npz. `views` writes depth (scene units) and confidence, float32 (H, W), depth_unit
    of the PNG beside it, and the view's camera as `pose` (OpenCV camera-to-world, 4x4) and `intrinsic` (3x3, pixels).
    """
    plain: dict[str, Any] = {
        name: value.detach().cpu().numpy() if isinstance(value, Tensor) else value for name, value in arrays.items()
    }
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **plain)


@dataclass(frozen=True)
class Scene:
    """V views of one size: names (file names without extension), images ((3, H, W) in [0, 1], None where there is no
    picture) and cameras.
    """

    names: list[str]
    images: list[Tensor | None]
    cameras: Cameras

    def __len__(self) -> int:
        return len(self.names)

    def photographs(self, views: Sequence[int]) -> Tensor:
        """(len(views), 3, H, W). Raises ValueError where a view has no picture."""
        images = [self.images[view] for view in views]
        missing = [self.names[view] for view, image in zip(views, images, strict=True) if image is None]
        if missing:
            raise ValueError(f"{missing[0]} has a camera but no picture; it can be a target, not a source.")
        return torch.stack([image for image in images if image is not None])


def read_camera(path: Path) -> tuple[Tensor, Tensor]:
    """.npz -> pose (4, 4), intrinsic (3, 3), float32. Raises ValueError naming the file and what is wrong with it."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; every picture of a scene needs its camera there (pose, intrinsic).")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name], dtype=np.float32) for name in ("pose", "intrinsic") if name in file}
    except Exception as error:  # a damaged archive surfaces as any of a dozen types
        raise ValueError(f"{path} cannot be read as an .npz of arrays ({error}); write it with numpy.savez.") from error
    for name, shape in (("pose", (4, 4)), ("intrinsic", (3, 3))):
        found = arrays[name].shape if name in arrays else "nothing"
        if found != shape:
            raise ValueError(f"{path} has {found} under '{name}'; it must hold a {shape} matrix.")
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{path} has numbers under '{name}' that are not finite; leave that view out.")
    return torch.from_numpy(arrays["pose"]), torch.from_numpy(arrays["intrinsic"])


def check_intrinsic(path: Path, K: Tensor, height: int, width: int) -> None:
    """Raise ValueError unless K can belong to a height x width picture: a pinhole without skew whose principal point
    lies within PRINCIPAL_RANGE of both sides (that of half or twice the size does not).
    """
    if K[0, 1].abs() > 1e-3 * K[0, 0].abs() or K[1, 0] != 0 or (K[2] != torch.tensor([0.0, 0, 1])).any():
        raise ValueError(f"{path} has an intrinsic that is not [[fx, 0, cx], [0, fy, cy], [0, 0, 1]].")
    cx, cy = K[0, 2].item(), K[1, 2].item()
    low, high = PRINCIPAL_RANGE
    if not (low <= cx / width <= high and low <= cy / height <= high):
        raise ValueError(
            f"{path} has its principal point at ({cx:.5g}, {cy:.5g}), far from the middle of its {width} x {height} "
            f"picture: the intrinsic is of another image size, about {2 * cx:.0f} x {2 * cy:.0f}; scale it to the "
            "picture's pixels."
        )


def read_scene(folder: str | Path, long_side: int = 504) -> Scene:
    """Folder -> Scene, every picture fitted (`images.fit`) to the `images.fitting_size` of the first one.

    Raises ValueError, in a sentence that names the file, where a picture or a camera is
    missing, unreadable or impossible, or where there are fewer than 2 views.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; a scene is a folder of pictures with same-named .npz cameras.")
    pictures: dict[str, Path] = {}
    names = set()
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in (*EXTENSIONS, ".npz"):
            continue
        if path.suffix.lower() != ".npz":
            if path.stem in pictures:
                raise ValueError(f"{folder} has two pictures of one name, {pictures[path.stem].name} and {path.name}.")
            pictures[path.stem] = path
        names.add(path.stem)
    ordered = sorted(names, key=lambda name: (natural_order(name), name))
    if len(ordered) < 2 or not pictures:
        raise ValueError(
            f"{folder} has {len(ordered)} views and {len(pictures)} pictures; a scene needs 2 views and 1 picture."
        )
    first = read_image(next(pictures[name] for name in ordered if name in pictures))
    height, width = fitting_size(first.shape[1], first.shape[2], long_side)
    images, poses, intrinsics = [], [], []
    for name in ordered:
        pose, K = read_camera(folder / f"{name}.npz")
        image = read_image(pictures[name]) if name in pictures else None
        H, W = (first if image is None else image).shape[1:]
        check_intrinsic(folder / f"{name}.npz", K, H, W)
        fitted, K = fit(first if image is None else image, K, height, width)
        images.append(None if image is None else fitted)
        poses.append(pose)
        intrinsics.append(K)
    cameras = Cameras(torch.stack(poses), torch.stack(intrinsics), height, width)
    try:
        cameras.check()
    except ValueError as error:
        raise ValueError(f"{folder}: {error} (Views are counted from 0, in order of their names.)") from None
    return Scene(ordered, images, cameras)


def write_scene(folder: str | Path, images: Tensor, cameras: Cameras, names: Sequence[str] | None = None) -> None:
    """(V, 3, H, W) images in [0, 1] and their cameras -> PNG and .npz files that `read_scene` reads."""
    names = names or [f"frame_{view:05d}" for view in range(len(cameras))]
    check_names(names, len(cameras))
    poses = cameras.world_c2w if cameras.origin.any() else cameras.c2w
    for name, image, pose, K in zip(names, images, poses, cameras.K, strict=True):
        write_png(Path(folder) / f"{name}.png", image)
        write_npz(Path(folder) / f"{name}.npz", pose=pose, intrinsic=K)


def interpolate(views: int, sources: int) -> list[int]:
    """The released demo's choice of source views: round(i * (V-1) / (N-1)), i = 0..N-1; view 0 if N = 1.
    docs/model.md#the-pipeline

    Raises ValueError unless 1 <= N <= V-1.
    """
    if not 1 <= sources <= views - 1:
        raise ValueError(
            f"{sources} sources of {views} views; give between 1 and {views - 1}, so that a target is left."
        )
    if sources == 1:
        return [0]
    return [round(i * (views - 1) / (sources - 1)) for i in range(sources)]


def choose_views(
    views: int, sources: Sequence[int] | int, targets: Sequence[int] | None = None
) -> tuple[list[int], list[int]]:
    """Source and target indices out of `views`. `sources` is a list, or a number for `interpolate`; `targets` defaults
    to the remaining views in order. Raises ValueError for an index out of range, given twice, or in both lists.
    """
    chosen = interpolate(views, sources) if isinstance(sources, int) else list(sources)
    wanted = [view for view in range(views) if view not in chosen] if targets is None else list(targets)
    for kind, indices in (("source", chosen), ("target", wanted)):
        if not indices:
            raise ValueError(f"No {kind} view is left among the {views} views; choose at least one.")
        for position, view in enumerate(indices):
            if not 0 <= view < views:
                raise ValueError(f"There is no {kind} view {view}; the scene has views 0 to {views - 1}.")
            if view in indices[:position]:
                raise ValueError(f"The {kind} view {view} is given twice.")
    both = sorted(set(chosen) & set(wanted))
    if both:
        raise ValueError(f"View {both[0]} is both a source and a target; choose one.")
    return chosen, wanted
