"""Captures of telephones: Polycam's keyframes and Record3D's exports, both ARKit's cameras."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from .files import natural_order
from .parsing import Finish, collect, from_opengl, load_json, matrix, number, numbers, pinhole, side
from .scenes import View, check_count, pixels


def polycam_cameras(folder: Path) -> Path | None:
    """The folder of a Polycam export's camera files, those that Polycam has corrected before those as taken."""
    for place in ("keyframes/corrected_cameras", "keyframes/cameras", "corrected_cameras", "cameras"):
        first = next(iter((folder / place).glob("*.json")), None) if (folder / place).is_dir() else None
        if first is not None:
            return folder / place
    return None


def is_polycam(content: Any) -> bool:
    return isinstance(content, dict) and "t_00" in content and "fx" in content


def read_polycam(cameras: Path) -> list[View]:
    """Polycam's keyframes: a .json per picture with t_00 to t_23, camera-to-world 3x4 with OpenGL axes, and fx, fy, cx,
    cy in pixels of width x height. Pictures are in corrected_images or images beside `cameras`.

    https://github.com/PolyCam/polyform
    """
    files = sorted(cameras.glob("*.json"), key=lambda path: natural_order(path.name))
    check_count(len(files), str(cameras))
    return collect(((path.stem, str(path), path) for path in files), polycam_view)


def polycam_view(name: str, label: str, path: Path) -> tuple[View, np.ndarray, Finish]:
    content = load_json(path)
    if not is_polycam(content):
        raise ValueError(f"{path} is no camera of Polycam (t_00 to t_23, fx, fy, cx, cy); export it again.")
    c2w = [[number(content.get(f"t_{i}{j}"), f"{label}: t_{i}{j}") for j in range(4)] for i in range(3)]
    height, width = (side(content.get(key), f"{label}: {key}") for key in ("height", "width"))
    K = pinhole(*(number(content.get(key), f"{label}: {key}") for key in ("fx", "fy", "cx", "cy")))
    return View(name, lens=pixels(K), size=(height, width)), matrix(c2w, label), from_opengl


def is_record3d(content: Any) -> bool:
    return isinstance(content, dict) and {"poses", "K", "w", "h"} <= content.keys()


def read_record3d(content: Any, path: Path) -> list[View]:
    """Record3D's metadata.json: poses as qx, qy, qz, qw, tx, ty, tz, camera-to-world with OpenGL axes, one K, column by
    column, in pixels of w x h. Pictures are rgb/0.jpg and so on. https://record3d.app
    """
    if not isinstance(content["poses"], list):
        raise ValueError(f"{path} has no list of poses; export it again from Record3D.")
    check_count(len(content["poses"]), str(path))
    size = side(content["h"], f"{path}: h"), side(content["w"], f"{path}: w")
    K = numbers(content["K"], (3, 3), f"{path}: K").T

    def view(name: str, label: str, value: Any) -> tuple[View, np.ndarray, Finish]:
        found = numbers(value, (7,), label)
        if not 1e-9 < np.linalg.norm(found[:4]) < 1e9:
            raise ValueError(f"{label} has no rotation; leave that frame out.")
        c2w = np.eye(4)
        c2w[:3, :3] = Rotation.from_quat(found[:4]).as_matrix()
        c2w[:3, 3] = found[4:]
        return View(name, lens=pixels(K), size=size), c2w, from_opengl

    return collect(((str(place), f"{path}: pose {place}", value) for place, value in enumerate(content["poses"])), view)
