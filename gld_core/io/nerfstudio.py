"""Cameras from and to transforms.json, the file of nerfstudio.

https://docs.nerf.studio/quickstart/data_conventions.html
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..cameras import Cameras
from ..cameras.conventions import OPENGL
from .files import atomic
from .parsing import assemble, check_distortion, inverse, load_json, number, pinhole, pose, without_skew


def write_transforms(
    path: str | Path, cameras: Cameras, files: Sequence[Mapping[str, object]], **extra: object
) -> None:
    """Cameras -> a nerfstudio-style transforms.json of undistorted OPENCV cameras.

    `transform_matrix` is camera-to-world with OpenGL camera axes (x right, y up, z backward): the OpenCV c2w with its
    second and third column negated; the world is left as it is. fl_x, fl_y, cx, cy are in pixels. They are in every
    frame, and if all views have the same also at the top level, where some readers look alone.
    `files` gives each frame's own entries (file_path, depth_file_path, ...); `extra` goes to the top level.
    Raises ValueError where K has a skew.
    """
    intrinsics = [
        dict(zip(("fl_x", "fl_y", "cx", "cy"), values, strict=True))
        for values in without_skew("transforms.json", cameras.K)
    ]
    shared = intrinsics[0] if intrinsics and all(values == intrinsics[0] for values in intrinsics) else {}
    top = {
        "camera_model": "OPENCV", "w": cameras.width, "h": cameras.height, **shared, "k1": 0, "k2": 0, "p1": 0, "p2": 0
    }  # fmt: skip
    opengl = cameras.world_c2w @ OPENGL
    frames = [
        {**names, **values, "w": cameras.width, "h": cameras.height, "transform_matrix": c2w}
        for c2w, values, names in zip(opengl.tolist(), intrinsics, files, strict=True)
    ]
    with atomic(path) as temporary:
        temporary.write_text(json.dumps({**top, **extra, "frames": frames}, indent=2) + "\n", encoding="utf-8")


def read_transforms(path: str | Path, ignore_distortion: bool = False) -> tuple[Cameras, list[str]]:
    """A nerfstudio transforms.json; names are the frames' file_path, views in the frames' order.

    Intrinsics (fl_x, fl_y or camera_angle_x, camera_angle_y; cx, cy; w, h) are a frame's own or the file's.
    `applied_transform`, which leads from the original world to the file's, is undone.
    https://docs.nerf.studio/quickstart/data_conventions.html
    """
    path = Path(path)
    content = load_json(path)
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise ValueError(f"{path} has no list of frames; it is no nerfstudio transforms.json.")
    undo = torch.eye(4, dtype=torch.float64)
    if "applied_transform" in content:
        what = f"applied_transform of {path}"
        undo = inverse(pose(content["applied_transform"], what), what)
    poses, intrinsics, sizes, names = [], [], [], []
    for place, frame in enumerate(frames):
        name = str(frame.get("file_path", f"frame_{place:05d}"))
        what = f"{path}: {name[:200]}"
        merged = {**content, **frame}
        if merged.get("camera_model", "OPENCV") not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL"):
            raise ValueError(
                f"{what} has the camera model {str(merged['camera_model'])[:40]}; give undistorted pinhole images."
            )
        coefficients = {
            key: number(merged.get(key, 0), f"{what}: {key}") for key in ("k1", "k2", "k3", "k4", "p1", "p2")
        }
        check_distortion(what, coefficients, ignore_distortion)
        if "w" not in merged or "h" not in merged:
            raise ValueError(f"{what} has no image size (w, h); add it to the file.")
        width, height = number(merged["w"], f"{what}: w"), number(merged["h"], f"{what}: h")
        fx = focal(merged, "x", width, what) or focal(merged, "y", height, what)
        fy = focal(merged, "y", height, what) or fx
        if fx is None or fy is None:
            raise ValueError(f"{what} has no focal length (fl_x or camera_angle_x); add it to the file.")
        cx, cy = (number(merged.get(key, side / 2), f"{what}: {key}") for key, side in (("cx", width), ("cy", height)))
        K = pinhole(fx, fy, cx, cy)
        if "transform_matrix" not in frame:
            raise ValueError(f"{what} has no transform_matrix; leave that frame out.")
        poses.append(undo @ pose(frame["transform_matrix"], f"transform_matrix of {what}") @ OPENGL)
        intrinsics.append(K)
        sizes.append((round(height), round(width)))
        names.append(name)
    return assemble(str(path), poses, intrinsics, sizes), names


def focal(values: Mapping[str, Any], axis: str, side: float, what: str) -> float | None:
    """Pixels, from fl_x or the field of view camera_angle_x (radians) of nerfstudio and its forebears."""
    if f"fl_{axis}" in values:
        return number(values[f"fl_{axis}"], f"{what}: fl_{axis}")
    if f"camera_angle_{axis}" not in values:
        return None
    angle = number(values[f"camera_angle_{axis}"], f"{what}: camera_angle_{axis}")
    if not 1e-6 < angle < math.pi:
        raise ValueError(f"{what}: camera_angle_{axis} is {angle:.4g}; give radians between 0 and pi.")
    return side / 2 / math.tan(angle / 2)
