"""What the readers of camera files share: checked numbers, matrices, lenses and sizes."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cameras import Cameras

# Lens coefficients below this move no pixel visibly.
NO_DISTORTION = 1e-6


def pinhole(fx: float, fy: float, cx: float, cy: float) -> Tensor:
    """(3, 3) float64 K."""
    return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)


def pose(value: Any, what: str) -> Tensor:
    """Nested lists or an array of 4x4 or 3x4 -> (4, 4) float64. `what` names it in the ValueError."""
    try:
        matrix = torch.as_tensor(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{what} is not a matrix of numbers; give 4x4.") from None
    if tuple(matrix.shape) not in ((4, 4), (3, 4)):
        raise ValueError(f"{what} has shape {tuple(matrix.shape)}; give 4x4.")
    return torch.cat([matrix[:3], torch.tensor([[0.0, 0, 0, 1]], dtype=torch.float64)])


def number(value: Any, what: str) -> float:
    """ValueError, which `what` begins, unless the value is a finite number or the text of one."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{what} is {str(value)[:40]!r}; give a finite number.")
    return found


def inverse(matrix: Tensor, what: str) -> Tensor:
    """(4, 4) -> (4, 4). ValueError, which `what` begins, where there is none."""
    if not 1e-12 < abs(torch.linalg.det(matrix)) < math.inf:
        raise ValueError(f"{what} has no inverse; give a matrix of a rotation and a translation.")
    return torch.linalg.inv(matrix)


def assemble(what: str, c2w: Sequence[Tensor], K: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> Cameras:
    """Checked cameras of (height, width) sizes, which have to be equal. `what` begins the ValueError."""
    if not c2w:
        raise ValueError(f"{what} holds no cameras.")
    for view, size in enumerate(sizes):
        if size != sizes[0]:
            raise ValueError(
                f"{what} has images of {sizes[0][1]}x{sizes[0][0]} (view 0) and of {size[1]}x{size[0]} (view {view}); "
                "one set of cameras is for images of one size: resize them, or choose views of one size."
            )
    cameras = Cameras(torch.stack(list(c2w)), torch.stack(list(K)), *sizes[0])
    try:
        cameras.check()
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    return cameras


def check_distortion(what: str, coefficients: Mapping[str, float], ignore: bool) -> None:
    """ValueError where a lens bends the image, unless that is to be ignored."""
    bent = {name: value for name, value in coefficients.items() if abs(value) > NO_DISTORTION}
    if bent and not ignore:
        found = ", ".join(f"{name} = {value:.4g}" for name, value in bent.items())
        raise ValueError(
            f"{what} has lens distortion ({found}), which a pinhole camera has not; undistort the images and their "
            "cameras first (COLMAP's image_undistorter does), or choose to ignore the distortion."
        )


def without_skew(what: str, K: Tensor) -> list[tuple[float, float, float, float]]:
    """(V, 3, 3) -> fx, fy, cx, cy of each. ValueError where K is not a pinhole's without skew."""
    plain = torch.zeros_like(K.double())
    for row, column in ((0, 0), (1, 1), (0, 2), (1, 2)):
        plain[:, row, column] = K[:, row, column].double()
    plain[:, 2, 2] = 1
    off = ((plain - K).abs() > 1e-4 * K[:, :1, :1]).flatten(1).any(dim=1)
    if off.any():
        raise ValueError(
            f"K of view {int(off.nonzero()[0])} has a skew, which {what} cannot hold; give cameras without."
        )
    return [(k[0][0], k[1][1], k[0][2], k[1][2]) for k in plain.tolist()]


def load_json(path: Path) -> Any:
    return parse_json(path.read_bytes(), str(path))


def parse_json(text: str | bytes, what: str) -> Any:
    """ValueError, which `what` begins, where the text is not JSON, or not such as a machine would write."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is not JSON ({error}); export it again, or correct it.") from None
