"""Cameras from and to the files of nerfstudio and its kin: transforms.json and camera_path.json.

https://docs.nerf.studio/quickstart/data_conventions.html
"""

import json
import math
from collections import ChainMap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..cameras import Cameras
from ..cameras.conventions import OPENGL
from .files import atomic
from .parsing import (
    FLIP,
    Finish,
    as_it_is,
    check_distortion,
    check_shared,
    check_skew,
    collect,
    field_of_view,
    from_opengl,
    intrinsics,
    inverse,
    matrix,
    number,
    numbers,
    pinhole,
    settled,
    side,
    without_skew,
)
from .scenes import Given, Lens, Size, View, check_count, pixels

# Camera models whose picture is a perspective one where their coefficients are 0, by any spelling.
PERSPECTIVE = ("opencv", "full_opencv", "pinhole", "simple_pinhole", "simple_radial", "radial", "perspective", "brown")
COEFFICIENTS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "b1", "b2")
NO_PINHOLES = ("is_fisheye", "latlong", "equirectangular", "fisheye_crop_radius")
# What a file may say for all of its frames, beside entries that begin with ftheta.
COMMON = (
    *COEFFICIENTS, *NO_PINHOLES, "camera_model", "distortion_params", "w", "h", "K", "intrinsic_matrix", "intrinsics",
    "fl_x", "fl_y", "sk_x", "sk_y", "camera_angle_x", "camera_angle_y", "x_fov", "y_fov", "cx", "cy", "shift_x",
    "shift_y", "from_na", "camera_convention",
)  # fmt: skip


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


def read_transforms(content: Any, path: Path, given: Given) -> list[View]:
    """A transforms.json of nerfstudio, instant-ngp, Blender's data sets and what writes the like, parsed to `content`;
    views are named by the frames' file_path.

    Poses are a frame's transform_matrix with OpenGL axes, or with OpenCV's where camera_convention says so or from_na
    is true; or its w2c or c2w with OpenCV's axes. applied_scale and applied_transform, which lead from the original
    world to the file's, are undone. Intrinsics are a frame's own or the file's: fl_x, fl_y (pixels), camera_angle_x,
    camera_angle_y (radians), x_fov, y_fov (degrees), K, intrinsic_matrix or intrinsics; cx, cy; shift_x, shift_y
    (Blender, shares of the longer side); w, h.
    """
    frames = content.get("frames")
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise ValueError(f"{path} has no list of frames; it is no nerfstudio transforms.json.")
    check_count(len(frames), str(path))
    common = {key: value for key, value in content.items() if key in COMMON or key.startswith("ftheta")}
    check_shared(common, str(path))
    undo, scale = np.eye(4), 1.0
    if "applied_transform" in content:
        what = f"applied_transform of {path}"
        found = settled([matrix(content["applied_transform"], what)], [what])[0]
        if isinstance(found, str):
            raise ValueError(found)
        undo = inverse(found, what)
    if "applied_scale" in content:
        scale = number(content["applied_scale"], f"applied_scale of {path}")
        if scale <= 0:
            raise ValueError(f"applied_scale of {path} is {scale:.4g}; give a number above 0.")

    def view(name: str, label: str, frame: dict) -> tuple[View, np.ndarray, Finish]:
        values = ChainMap(frame, common)
        lens, size = frame_lens(values, label, given)
        kind = next((key for key in ("transform_matrix", "c2w", "w2c") if key in frame), "")
        if not kind:
            raise ValueError(f"{label} has no transform_matrix; leave that frame out.")
        opencv = kind != "transform_matrix" or values.get("from_na") is True
        flip = opengl_axes(values.get("camera_convention", "opencv" if opencv else "opengl"), label)

        def finish(found: np.ndarray) -> np.ndarray:
            c2w = inverse(found, label) if kind == "w2c" else found.copy()
            c2w[:3, 3] /= scale
            return undo @ (c2w @ FLIP if flip else c2w)

        return View(name, lens=lens, size=size), matrix(frame[kind], f"{kind} of {label}"), finish

    names = [str(frame.get("file_path", f"frame_{place:05d}")) for place, frame in enumerate(frames)]
    return collect(((name, f"{path}: {name[:200]}", frame) for name, frame in zip(names, frames, strict=True)), view)


def opengl_axes(axes: object, what: str) -> bool:
    """Whether a camera's axes are OpenGL's. ValueError for axes that are neither those nor OpenCV's."""
    name = str(axes).lower()
    if name in ("opencv", "colmap", "cv"):
        return False
    if name in ("opengl", "blender", "nerf", "gl"):
        return True
    raise ValueError(f"{what} has the camera_convention {str(axes)[:40]!r}; 'opencv' and 'opengl' are known.")


def frame_lens(values: Mapping[str, Any], what: str, given: Given) -> tuple[Lens, Size | None]:
    """A frame's lens and the size it is for. ValueError for lenses that are no pinhole's."""
    model = str(values.get("camera_model", "OPENCV"))
    odd = next((key for key in NO_PINHOLES if values.get(key)), "")
    odd = odd or next((key for key in values if key.startswith("ftheta")), "")
    if model.lower() not in PERSPECTIVE or odd:
        raise ValueError(f"{what} has {odd or f'the camera model {model[:40]}'}; give undistorted pinhole images.")
    coefficients = {key: number(values.get(key) or 0, f"{what}: {key}") for key in COEFFICIENTS if key in values}
    listed = values.get("distortion_params")
    if isinstance(listed, list):
        coefficients |= {
            f"distortion_params {place}": number(value, f"{what}: distortion_params")
            for place, value in enumerate(listed[:20])
        }
    check_distortion(what, coefficients, given.ignore_distortion)
    size = None
    if "w" in values and "h" in values:
        size = side(values["h"], f"{what}: h"), side(values["w"], f"{what}: w")
    elif given.size is not None:
        size = given.size
    for key in ("K", "intrinsic_matrix", "intrinsics"):
        if key in values:
            return pixels(intrinsics(values[key], f"{what}: {key}")), size
    fx, fy = (number(values[key], f"{what}: {key}") if key in values else None for key in ("fl_x", "fl_y"))
    check_skew(number(values.get("sk_x", 0), f"{what}: sk_x"), fx or 1, what)
    check_skew(number(values.get("sk_y", 0), f"{what}: sk_y"), fx or 1, what)
    across, down = (angle(values, axis, what) for axis in "xy")
    if fx is None and fy is None and across is None and down is None:
        raise ValueError(f"{what} has no focal length (fl_x, camera_angle_x or K); add it to the file.")
    point = [number(values[key], f"{what}: {key}") if key in values else None for key in ("cx", "cy")]
    shift = [number(values.get(key, 0), f"{what}: {key}") for key in ("shift_x", "shift_y")]
    if fx is None and fy is None:
        fov = field_of_view(across, down)
    else:
        fov = None

    def lens(height: int, width: int) -> np.ndarray:
        if fov is not None:
            K = fov(height, width)
        else:
            own_x = fx if fx is not None else None if across is None else width / 2 / math.tan(across / 2)
            own_y = fy if fy is not None else None if down is None else height / 2 / math.tan(down / 2)
            K = pinhole(own_x or own_y or 0.0, own_y or own_x or 0.0, width / 2, height / 2)
        # Blender's camera shift: to the right and upwards, so that the middle goes left and down.
        K[0, 2] = width / 2 - shift[0] * max(height, width) if point[0] is None else point[0]
        K[1, 2] = height / 2 + shift[1] * max(height, width) if point[1] is None else point[1]
        return K

    return lens, size


def angle(values: Mapping[str, Any], axis: str, what: str) -> float | None:
    """Field of view in radians, from camera_angle_x (radians) or x_fov (degrees)."""
    for key, unit in ((f"camera_angle_{axis}", 1.0), (f"{axis}_fov", math.pi / 180)):
        if key in values:
            found = number(values[key], f"{what}: {key}") * unit
            if not 1e-6 < found < math.pi - 1e-3:
                limit = "degrees between 0 and 180" if unit < 1 else "radians between 0 and pi"
                raise ValueError(f"{what}: {key} is {str(values[key])[:20]}; give {limit}.")
            return found
    return None


def read_camera_path(content: Any, path: Path) -> list[View]:
    """A camera_path.json of nerfstudio's viewer: camera_to_world with OpenGL axes, the vertical field of view in
    degrees, render_width and render_height. Views are numbered in their order.
    """
    entries = content.get("camera_path")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path} has no list of cameras in 'camera_path'; save it again in nerfstudio's viewer.")
    check_count(len(entries), str(path))
    kind = str(content.get("camera_type", "perspective"))
    if kind.lower() != "perspective":
        raise ValueError(f"{path} is for a {kind[:40]} camera; save a path of perspective cameras.")
    height, width = (side(content.get(key), f"{path}: {key}") for key in ("render_height", "render_width"))

    def view(name: str, label: str, entry: dict) -> tuple[View, np.ndarray, Finish]:
        fov = number(entry.get("fov", content.get("fov")), f"{label}: fov")
        if not 1e-4 < fov < 179.9:
            raise ValueError(f"{label} has a field of view of {fov:.4g} degrees; give one between 0 and 180.")
        pose = matrix(entry.get("camera_to_world"), f"camera_to_world of {label}")
        return View(name, lens=field_of_view(None, math.radians(fov)), size=(height, width)), pose, from_opengl

    return collect(
        ((f"view_{place:05}", f"{path}: camera {place}", entry) for place, entry in enumerate(entries)), view
    )


def read_gaussian_splatting(content: Any, path: Path) -> list[View]:
    """The cameras.json that trainers of Gaussian splats write: position and rotation, camera-to-world with OpenCV's
    axes, fx, fy in pixels of width x height; the principal point is in the middle. Views are named by img_name.

    https://github.com/graphdeco-inria/gaussian-splatting
    """

    def view(name: str, label: str, entry: dict) -> tuple[View, np.ndarray, Finish]:
        c2w = np.eye(4)
        c2w[:3, :3] = numbers(entry.get("rotation"), (3, 3), f"rotation of {label}")
        c2w[:3, 3] = numbers(entry.get("position"), (3,), f"position of {label}")
        height, width = (side(entry.get(key), f"{label}: {key}") for key in ("height", "width"))
        fx, fy = (number(entry.get(key), f"{label}: {key}") for key in ("fx", "fy"))
        return View(name, lens=pixels(pinhole(fx, fy, width / 2, height / 2)), size=(height, width)), c2w, as_it_is

    check_count(len(content), str(path))
    entries = [entry if isinstance(entry, dict) else {} for entry in content]
    names = [str(entry.get("img_name", entry.get("id", place))) for place, entry in enumerate(entries)]
    return collect(((name, f"{path}: {name[:200]}", entry) for name, entry in zip(names, entries, strict=True)), view)
