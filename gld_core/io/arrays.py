"""Cameras from NumPy files: LLFF's poses_bounds.npy and Depth Anything 3's results.npz."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from .parsing import Finish, as_it_is, collect, inverse, matrix, number, pinhole, side
from .scenes import Size, View, check_count, pixels

# Numbers in an array that is read.
MOST_NUMBERS = 4_000_000


class WrongArray(ValueError):
    """A sentence about an array that is whole and not the one that is meant."""


def head(file: IO[bytes], what: str) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Shape, type and column order of an .npy whose data follow. ValueError for objects, which would run code."""
    version = npy.read_magic(file)
    shape, columns, dtype = npy.read_array_header_1_0(file) if version == (1, 0) else npy.read_array_header_2_0(file)
    if dtype.hasobject or dtype.kind not in "fiub":
        raise WrongArray(f"{what} holds {dtype} and no numbers; write it with numpy.savez.")
    return shape, dtype, columns


def numbers_of(file: IO[bytes], path: Path, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """float64 of an open .npy whose shape is `shape`, None being any length; its data are read only then."""
    found, dtype, columns = head(file, f"{path}: {name!r}")
    fits = len(found) == len(shape) and all(want in (None, have) for want, have in zip(shape, found, strict=True))
    if not fits:
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise WrongArray(f"{path} has {found} under {name!r}; it must hold ({wanted}) numbers.")
    count = int(np.prod(found, dtype=object))
    if count > MOST_NUMBERS:
        raise WrongArray(f"{path} claims {count} numbers under {name!r}, more than the {MOST_NUMBERS} that are read.")
    data = file.read(count * dtype.itemsize)
    return np.frombuffer(data, dtype, count).reshape(found, order="F" if columns else "C").astype(np.float64)


def read_arrays(path: Path, shapes: Mapping[str, tuple[int | None, ...]]) -> dict[str, np.ndarray]:
    """The named arrays of an .npz that are there, float64. Their heads are looked at before anything is unpacked.

    ValueError where the file is damaged or an array has another shape.
    """
    out: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name, shape in shapes.items():
                if f"{name}.npy" not in archive.NameToInfo:
                    continue
                with archive.open(f"{name}.npy") as file:
                    out[name] = numbers_of(file, path, name, shape)
    except WrongArray:
        raise
    # A damaged archive surfaces as any of a dozen types.
    except Exception as error:
        raise ValueError(f"{path} cannot be read as an .npz of arrays ({error}); write it with numpy.savez.") from error
    return out


def array_names(path: Path) -> set[str]:
    """Of an .npz; empty where it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return set()


def array_shape(path: Path, name: str) -> tuple[int, ...]:
    """Of an array in an .npz, from its head."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            return head(file, f"{path}: '{name}'")[0]
    except WrongArray:
        raise
    except Exception as error:
        raise ValueError(f"{path} cannot be read as an .npz of arrays ({error}); write it with numpy.savez.") from error


def read_llff(path: Path) -> list[View]:
    """LLFF's poses_bounds.npy, (N, 17): camera-to-world 3x4 whose axes are down, right and backward, beside it height,
    width and focal length, then two depths. Poses belong to the pictures in the order of their names.

    https://github.com/Fyusion/LLFF
    """
    try:
        with open(path, "rb") as file:
            rows = numbers_of(file, path, "poses_bounds", (None, 17))
    except WrongArray:
        raise
    except Exception as error:
        raise ValueError(f"{path} cannot be read as LLFF's poses_bounds.npy ({error}); write it again.") from error
    check_count(len(rows), str(path))
    return collect(((f"{place:05}", f"{path}: row {place}", row) for place, row in enumerate(rows)), llff_view)


def llff_view(name: str, label: str, row: np.ndarray) -> tuple[View, np.ndarray, Finish]:
    down, right, backward, centre, size = row[:15].reshape(3, 5).T
    height, width = side(size[0], f"{label}: the height"), side(size[1], f"{label}: the width")
    pose = matrix(np.stack([right, down, -backward, centre], axis=1), label)
    K = pinhole(number(size[2], f"{label}: the focal length"), size[2], width / 2, height / 2)
    return View(name, lens=pixels(K), size=(height, width)), pose, as_it_is


def read_depth_anything(path: Path) -> tuple[list[View], Size]:
    """Depth Anything 3's results.npz: extrinsics (N, 3, 4) world-to-camera, intrinsics (N, 3, 3) in pixels of its depth
    (N, H, W). K is taken as shares of that size, to which photographs were brought without keeping their shape.

    https://github.com/ByteDance-Seed/Depth-Anything-3
    """
    shape = array_shape(path, "depth")
    if len(shape) != 3 or not all(shape):
        raise ValueError(f"{path} has 'depth' of shape {shape}; it must be (views, height, width).")
    count, height, width = shape
    check_count(count, str(path))
    arrays = read_arrays(path, {"extrinsics": (count, None, 4), "intrinsics": (count, 3, 3)})
    if len(arrays) < 2:
        raise ValueError(f"{path} holds no cameras (extrinsics, intrinsics); use a multi-view Depth Anything 3 model.")

    def view(name: str, label: str, entry: tuple[np.ndarray, np.ndarray]) -> tuple[View, np.ndarray, Finish]:
        w2c, share = entry[0], entry[1] / [[width], [height], [1]]

        def lens(own_height: int, own_width: int) -> np.ndarray:
            return share * [[own_width], [own_height], [1]]

        return View(name, lens=lens), matrix(w2c, label), lambda found: inverse(found, label)

    both = zip(arrays["extrinsics"], arrays["intrinsics"], strict=True)
    entries = ((f"view_{place:05}", f"{path}: view {place}", entry) for place, entry in enumerate(both))
    return collect(entries, view), (height, width)
