"""What the readers of camera files share: checked numbers, matrices, lenses, and bounds on what a file may hold."""

import json
import math
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cameras import Cameras
from ..cameras.conventions import OPENGL
from .scenes import View

# Lens coefficients below this move no pixel visibly.
NO_DISTORTION = 1e-6
# x right, y up, z backward to OpenCV's axes and back, from the right of a camera-to-world matrix.
FLIP = OPENGL.numpy()
# Of JSON and other text that is read whole: bytes, lists and objects, values, lines.
MOST_BYTES, MOST_LISTS, MOST_VALUES, MOST_LINES = 32_000_000, 800_000, 2_000_000, 200_000
# Values that a file says for all of its views, and characters of a number.
MOST_SHARED, LONGEST_NUMBER = 1000, 1000


def pinhole(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    """(3, 3) float64 K."""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)


def field_of_view(
    across: float | None, down: float | None, middle: tuple[float, float] = (0.5, 0.5)
) -> Callable[[int, int], np.ndarray]:
    """A lens of one or two fields of view in radians, for any image; middle: cx, cy as shares of width, height."""

    def lens(height: int, width: int) -> np.ndarray:
        fx = None if across is None else width / 2 / math.tan(across / 2)
        fy = None if down is None else height / 2 / math.tan(down / 2)
        return pinhole(fx or fy or 0.0, fy or fx or 0.0, width * middle[0], height * middle[1])

    return lens


def number(value: Any, what: str) -> float:
    """ValueError, which `what` begins, unless the value is a finite number or the text of one."""
    try:
        # Text without end takes time for every view that shares it.
        found = math.nan if isinstance(value, str) and len(value) > LONGEST_NUMBER else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        shown = value if isinstance(value, str) else reprlib.repr(value)
        raise ValueError(f"{what} is {shown[:40]!r}; give a finite number.")
    return found


def check_shared(values: Mapping[str, Any], what: str) -> None:
    """ValueError where what a file says once for all of its views, each of which goes through it, is long."""
    waiting, count = [values], 0
    while waiting:
        value: Any = waiting.pop()
        count += len(value) // 20 if isinstance(value, str) else 1
        waiting += value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
        if count + len(waiting) > MOST_SHARED:
            raise ValueError(f"{what} says more about all views than any program writes; export it again.")


def side(value: Any, what: str) -> int:
    """A width or height in whole pixels."""
    found = number(value, what)
    if not 1 <= found <= 1e6:
        raise ValueError(f"{what} is {found:.6g}; give pixels, from 1 to 1000000.")
    return round(found)


def numbers(value: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Nested lists or an array -> float64 of this shape, also from one flat list. ValueError names `what`."""
    try:
        found = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{what} is not {' x '.join(map(str, shape))} numbers.") from None
    if found.shape != shape and found.shape != (math.prod(shape),):
        raise ValueError(f"{what} has shape {found.shape}; give {'x'.join(map(str, shape))}.")
    return found.reshape(shape)


def matrix(value: Any, what: str) -> np.ndarray:
    """4x4 or 3x4 in nested lists, or row by row in one -> (4, 4) float64 as it is. ValueError names `what`."""
    try:
        found = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{what} is not a matrix of numbers; give 4x4.") from None
    if found.shape in ((16,), (12,)):
        found = found.reshape(-1, 4)
    if found.shape not in ((4, 4), (3, 4)):
        raise ValueError(f"{what} has shape {found.shape}; give 4x4.")
    return np.concatenate([found, [[0.0, 0, 0, 1]]])[:4]


def rotation_error(R: np.ndarray) -> float:
    """How far R R^T is from the identity; inf for a mirrored R."""
    return float(np.abs(R @ R.T - np.eye(3)).max()) if np.linalg.det(R) > 0 else math.inf


def settled(matrices: Sequence[np.ndarray | None], what: Sequence[str]) -> list[np.ndarray | str]:
    """Poses of one file -> poses with 0 0 0 1 below, or for each that cannot be one, why.

    Column-major matrices (the translation in the last row) are transposed, all of a file alike. A matrix times a
    factor, its corner included, is divided by it; an orthonormal rotation with another corner is left as it is.
    """
    columns = any(m is not None and moved(m[3, :3]) and not moved(m[:3, 3]) for m in matrices)
    return ["" if m is None else settle(m, name, columns) for m, name in zip(matrices, what, strict=True)]


def moved(translation: np.ndarray) -> bool:
    return bool(np.abs(translation).max() > 1e-6)


def settle(found: np.ndarray, what: str, columns: bool) -> np.ndarray | str:
    if not np.isfinite(found).all():
        # The scene names it, with all else that no pose can be.
        return np.full((4, 4), np.nan)
    if columns:
        if moved(found[:3, 3]):
            return f"{what} has its translation in the last column, others of the file in the last row; give one kind."
        found = found.T
    elif moved(found[3, :3]):
        row = " ".join(f"{value:.4g}" for value in found[3])
        return f"{what} has the last row {row}, which is no pose; give 0 0 0 1."
    out, corner = found.copy(), found[3, 3]
    if corner != 1:
        if abs(corner) > 1e-12 and rotation_error(found[:3, :3] / corner) < 1e-2:
            out = found / corner
        elif rotation_error(found[:3, :3]) > 1e-2:
            return f"{what} has {corner:.4g} in its last corner and a rotation that is not orthonormal; give 0 0 0 1."
    out[3] = 0, 0, 0, 1
    return out


def inverse(found: np.ndarray, what: str) -> np.ndarray:
    """(4, 4) -> (4, 4). ValueError, which `what` begins, where there is none."""
    if not 1e-12 < abs(np.linalg.det(found)) < math.inf:
        raise ValueError(f"{what} has no inverse; give a matrix of a rotation and a translation.")
    return np.linalg.inv(found)


# From a settled matrix of a file to a camera-to-world pose in OpenCV's axes.
Finish = Callable[[np.ndarray], np.ndarray]


def as_it_is(found: np.ndarray) -> np.ndarray:
    return found


def from_opengl(found: np.ndarray) -> np.ndarray:
    return found @ FLIP


def collect(
    entries: Iterable[tuple[str, str, Any]],
    build: Callable[[str, str, Any], tuple[View, np.ndarray, Finish]],
) -> list[View]:
    """Views of a file's entries, each a name, what to call it in messages, and the entry itself.

    build(name, label, entry) gives a view without its pose, the file's matrix for it, and what leads from that, once
    `settled`, to the pose. Where any of it raises ValueError, the view has that for its problem.
    """
    views: list[View] = []
    matrices: list[np.ndarray | None] = []
    labels: list[str] = []
    finishes: list[Finish] = []
    for name, label, entry in entries:
        found: np.ndarray | None
        try:
            view, found, finish = build(name, label, entry)
        except ValueError as error:
            view, found, finish = View(name, problem=str(error)), None, as_it_is
        views.append(view)
        matrices.append(found)
        labels.append(label)
        finishes.append(finish)
    for view, pose, finish in zip(views, settled(matrices, labels), finishes, strict=True):
        if isinstance(pose, str):
            view.problem = view.problem or pose
            continue
        try:
            view.c2w = finish(pose)
        except ValueError as error:
            view.problem = str(error)
    return views


def intrinsics(value: Any, what: str) -> np.ndarray:
    """A K as 3x3 (also flat), or fx, fy, cx, cy. ValueError where it has a skew or is none."""
    found = np.asarray(value, dtype=object)
    if found.shape == (4,):
        return pinhole(*numbers(value, (4,), what))
    K = numbers(value, (3, 3), what)
    check_skew(K[0, 1], K[0, 0], what)
    return K


def check_skew(skew: float, focal: float, what: str) -> None:
    if abs(skew) > 1e-3 * abs(focal):
        raise ValueError(
            f"{what} has a skew of {skew:.4g} pixels, which the networks do not know; undistort the images."
        )


def check_distortion(what: str, coefficients: Mapping[str, float], ignore: bool) -> None:
    """ValueError where a lens bends the image, unless that is to be ignored."""
    bent = {name: value for name, value in coefficients.items() if abs(value) > NO_DISTORTION}
    if bent and not ignore:
        found = ", ".join(f"{name} = {value:.4g}" for name, value in bent.items())
        raise ValueError(
            f"{what} has lens distortion ({found}), which a pinhole camera has not; undistort the images and their "
            "cameras first (COLMAP's image_undistorter does), or choose to ignore the distortion."
        )


def assemble(what: str, c2w: Sequence[np.ndarray], K: Sequence[np.ndarray], height: int, width: int) -> Cameras:
    """Checked cameras of one size. `what` begins the ValueError."""
    if not c2w:
        raise ValueError(f"{what} holds no cameras.")
    cameras = Cameras.in_world(torch.from_numpy(np.stack(c2w)), torch.from_numpy(np.stack(K)), height, width)
    try:
        cameras.check()
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    return cameras


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


def text_lines(path: Path, most: int = MOST_BYTES) -> Iterator[str]:
    """Lines of a bounded text file, without a byte-order mark."""
    data = read_bounded(path, most)
    if data.count(b"\n") + data.count(b"\r") > MOST_LINES:
        raise ValueError(f"{path} has more than {MOST_LINES} lines, which no file of cameras needs; give another.")
    for line in data.removeprefix(b"\xef\xbb\xbf").splitlines():
        yield line.decode("utf-8", "replace")


def read_bounded(path: Path, most: int = MOST_BYTES) -> bytes:
    """All of a file. ValueError, before it is read, where it is none or larger than `most` bytes."""
    if not path.is_file():
        raise ValueError(f"{path} is missing, or no file; put the cameras there.")
    if path.stat().st_size > most:
        raise ValueError(f"{path} is larger than {most // 10**6} MB, which no file of cameras needs; give another.")
    return path.read_bytes()


def load_json(path: Path) -> Any:
    return parse_json(read_bounded(path), str(path))


def parse_json(text: str | bytes, what: str) -> Any:
    """ValueError, which `what` begins, where the text is not JSON, or not such as a machine would write."""
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    lists, names = data.count(b"[") + data.count(b"{"), data.count(b":")
    if max(lists, names) > MOST_LISTS or data.count(b",") > MOST_VALUES:
        raise ValueError(f"{what} holds more than {MOST_VALUES} values, which no file of cameras needs; give another.")
    try:
        return json.loads(data.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is not JSON ({error}); export it again, or correct it.") from None
