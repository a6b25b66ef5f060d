"""Posed scenes: folders of photographs, each with its camera in a same-named .npz.

The .npz holds `pose`, the (4, 4) OpenCV camera-to-world matrix (x right, y down, z forward), and `intrinsic`, the
(3, 3) K in pixels of the picture as it is shown (pixel convention in images.py). An .npz without a picture is a camera
to look from: it may be a target, and its K is in pixels of the first picture.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..cameras import Cameras
from .arrays import read_arrays
from .files import atomic, check_names
from .images import write_png
from .parsing import check_skew
from .photographs import is_picture
from .scenes import View, pixels


def write_npz(path: str | Path, **arrays: Tensor | float) -> None:
    """Named arrays -> compressed .npz. `views` writes depth (scene units) and confidence, float32 (H, W), depth_unit
    of the PNG beside it, and the view's camera as `pose` (OpenCV camera-to-world, 4x4) and `intrinsic` (3x3, pixels).
    """
    plain: dict[str, Any] = {
        name: value.detach().cpu().numpy() if isinstance(value, Tensor) else value for name, value in arrays.items()
    }
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **plain)


def is_posed_folder(folder: Path) -> bool:
    """Whether there are .npz cameras."""
    return any(path.suffix.lower() == ".npz" and not path.name.startswith(".") for path in folder.iterdir())


def read_camera(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """.npz -> pose (4, 4), intrinsic (3, 3), float64. Raises ValueError naming the file and what is wrong with it."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; every picture of a scene needs its camera there (pose, intrinsic).")
    shapes = {"pose": (4, 4), "intrinsic": (3, 3)}
    arrays = read_arrays(path, shapes)
    for name, shape in shapes.items():
        if name not in arrays:
            raise ValueError(f"{path} has nothing under '{name}'; it must hold a {shape} matrix.")
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{path} has numbers under '{name}' that are not finite; leave that view out.")
    K = arrays["intrinsic"]
    if K[1, 0] != 0 or (K[2] != [0, 0, 1]).any():
        raise ValueError(f"{path} has an intrinsic that is not [[fx, 0, cx], [0, fy, cy], [0, 0, 1]].")
    check_skew(K[0, 1], K[0, 0], str(path))
    return arrays["pose"], K


def read_posed_folder(folder: Path) -> list[View]:
    """Views named as their files without extension; a picture without its .npz, or two of one name, cannot be used."""
    pictures: dict[str, list[Path]] = {}
    names = set()
    for path in folder.iterdir():
        if is_picture(path.name):
            pictures.setdefault(path.stem, []).append(path)
            names.add(path.stem)
        elif path.suffix.lower() == ".npz" and not path.name.startswith("."):
            names.add(path.stem)

    views = []
    for name in sorted(names):
        found = sorted(pictures.get(name, []))
        try:
            if len(found) > 1:
                raise ValueError(f"{folder} has two pictures of one name, {found[0].name} and {found[1].name}.")
            c2w, K = read_camera(folder / f"{name}.npz")
            views.append(View(name, c2w, pixels(K), None, found[0] if found else None))
        except ValueError as error:
            views.append(View(name, problem=str(error)))
    return views


def write_scene(folder: str | Path, images: Tensor, cameras: Cameras, names: Sequence[str] | None = None) -> None:
    """(V, 3, H, W) images in [0, 1] and their cameras -> PNG and .npz files that `read_scene` reads."""
    names = names or [f"frame_{view:05d}" for view in range(len(cameras))]
    check_names(names, len(cameras))
    poses = cameras.world_c2w if cameras.origin.any() else cameras.c2w
    for name, image, pose, K in zip(names, images, poses, cameras.K, strict=True):
        write_png(Path(folder) / f"{name}.png", image)
        write_npz(Path(folder) / f"{name}.npz", pose=pose, intrinsic=K)
