"""Cameras from matrices in JSON."""

from typing import Any

import numpy as np

from ..cameras import Cameras
from .parsing import FLIP, Finish, check_skew, collect, inverse, matrix, side
from .scenes import Given, Scene, View, check_count, pixels


def parse_matrices(
    content: Any, height: int | None = None, width: int | None = None, what: str = "The JSON of cameras"
) -> tuple[Cameras, list[str]]:
    """Cameras and names of `read_matrices`, for images of one size."""
    size = None if height is None or width is None else (height, width)
    scene = Scene(what, read_matrices(content, what, Given(size)), long_side=None)
    return scene.cameras_of(range(len(scene))), [view.name for view in scene.views]


def read_matrices(content: Any, what: str, given: Given) -> list[View]:
    """Views of a parsed JSON object:

    "c2w" or "w2c": a list of 4x4 (or 3x4) matrices, row by row; "K": one 3x3 matrix, or one per pose, in pixels;
    "axes": of the cameras, "opencv" (x right, y down, z forward; the default) or "opengl" (x right, y up, z backward);
    "width", "height": of the image, here or given; "names": optional.
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
    size = given.size
    if "height" in content and "width" in content:
        size = side(content["height"], f"{what}: height"), side(content["width"], f"{what}: width")
    if not isinstance(content[kind], list):
        raise ValueError(f"{what}: {kind!r} is not a list of 4x4 matrices.")
    count = len(content[kind])
    check_count(count, what)
    K = lenses(content.get("K"), count, what)
    names = content.get("names", [f"view {view}" for view in range(count)])
    if not isinstance(names, list) or len(names) != count:
        raise ValueError(f"{what}: 'names' has to be a list of {count} names, one per pose.")

    def view(name: str, label: str, entry: tuple) -> tuple[View, np.ndarray, Finish]:
        value, own = entry
        check_skew(own[0, 1], own[0, 0], label)

        def finish(found: np.ndarray) -> np.ndarray:
            c2w = inverse(found, label) if kind == "w2c" else found
            # OpenGL's camera axes are on the camera's side of either matrix.
            return c2w @ FLIP if axes == "opengl" else c2w

        return View(name, lens=pixels(own), size=size), matrix(value, label), finish

    both = zip(names, zip(content[kind], K, strict=True), strict=True)
    return collect(((str(name), f"{what}: {kind} {place}", entry) for place, (name, entry) in enumerate(both)), view)


def lenses(value: Any, views: int, what: str) -> np.ndarray:
    """(views, 3, 3) from one K or as many."""
    message = f"{what}: 'K' has to be one 3x3 matrix in pixels, or a list of {views}, one per pose."
    try:
        K = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(message) from None
    if K.ndim == 2:
        K = np.tile(K, (views, 1, 1))
    if K.shape != (views, 3, 3):
        raise ValueError(message)
    return K
