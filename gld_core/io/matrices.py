"""Cameras from matrices in JSON."""

from typing import Any

import numpy as np
import torch

from ..cameras import Cameras
from ..cameras.conventions import OPENGL
from .parsing import assemble, inverse, pose


def parse_matrices(
    content: Any, height: int | None = None, width: int | None = None, what: str = "The JSON of cameras"
) -> tuple[Cameras, list[str]]:
    """Cameras from a parsed JSON object:

    "c2w" or "w2c": a list of 4x4 (or 3x4) matrices, row by row; "K": one 3x3 matrix, or one per pose, in pixels;
    "axes": of the cameras, "opencv" (x right, y down, z forward; the default) or "opengl" (x right, y up, z backward);
    "width", "height": of the image, here or as arguments; "names": optional.
    """
    if not isinstance(content, dict) or ("c2w" in content) == ("w2c" in content):
        raise ValueError(f"{what} holds no cameras; give an object with 'c2w' or 'w2c', a list of 4x4, and 'K'.")
    kind = "c2w" if "c2w" in content else "w2c"
    known = {kind, "K", "axes", "width", "height", "names"}
    for key in content:
        if key not in known:
            raise ValueError(f"{what} has an entry {key[:40]!r}; it may have {', '.join(sorted(known))}.")
    axes = content.get("axes", "opencv")
    if axes not in ("opencv", "opengl"):
        raise ValueError(f"{what} has axes {str(axes)[:40]!r}; choose 'opencv' or 'opengl'.")
    height, width = content.get("height", height), content.get("width", width)
    if not isinstance(height, int) or not isinstance(width, int):
        raise ValueError(f"{what} does not say how large the image is; add 'width' and 'height' in pixels.")
    if not isinstance(content[kind], list):
        raise ValueError(f"{what}: {kind!r} is not a list of 4x4 matrices.")
    poses = []
    for view, value in enumerate(content[kind]):
        matrix = pose(value, f"{what}: {kind} {view}")
        if kind == "w2c":
            matrix = inverse(matrix, f"{what}: w2c {view}")
        # OpenGL's camera axes are on the camera's side of either matrix.
        poses.append(matrix @ OPENGL if axes == "opengl" else matrix)
    try:
        K = torch.as_tensor(np.asarray(content.get("K"), dtype=np.float64))
    except (TypeError, ValueError, OverflowError):
        K = torch.empty(0)
    if K.ndim == 2:
        K = K.expand(len(poses), *K.shape)
    if tuple(K.shape) != (len(poses), 3, 3):
        raise ValueError(f"{what}: 'K' has to be one 3x3 matrix in pixels, or a list of {len(poses)}, one per pose.")
    names = content.get("names", [f"view_{view:02d}" for view in range(len(poses))])
    if not isinstance(names, list) or len(names) != len(poses):
        raise ValueError(f"{what}: 'names' has to be a list of {len(poses)} names, one per pose.")
    return assemble(what, poses, list(K), [(height, width)] * len(poses)), [str(name) for name in names]
