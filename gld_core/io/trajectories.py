"""Camera paths that SLAM and odometry programs write: those of the TUM RGB-D and the KITTI odometry benchmark.

They hold poses without lenses: those come from a file beside them, or from the field of view that is given.
"""

import math
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from .parsing import Finish, as_it_is, collect, field_of_view, matrix, text_lines
from .photographs import Photographs, stem
from .scenes import Given, Lens, View, check_count, pixels

# Seconds between a picture and the pose that it is given.
MOST_APART = 0.02


def rows_of(path: Path, columns: int) -> list[tuple[int, list[float]]]:
    """Numbers of each line, with the line's number; comments and empty lines are passed over."""
    out = []
    for place, line in enumerate(text_lines(path), 1):
        # A long line is not cut into all its pieces.
        values = line.split(maxsplit=columns)
        if not values or values[0].startswith("#"):
            continue
        try:
            numbers = [float(value) for value in values]
        except ValueError:
            numbers = []
        if len(numbers) != columns:
            raise ValueError(f"{path}, line {place}, is not {columns} numbers; export it again.")
        out.append((place, numbers))
    return out


def given_lens(path: Path, given: Given) -> Lens:
    """Of the given field of view. ValueError where there is none."""
    if not given.fov:
        raise ValueError(
            f"{path} holds poses without a lens; give 'fov', the horizontal field of view in degrees, or use another "
            "format, such as a transforms.json."
        )
    if not 1e-3 < given.fov < 179.9:
        raise ValueError(f"The field of view is {given.fov:.4g} degrees; give one between 0 and 180.")
    return field_of_view(math.radians(given.fov), None)


def read_tum(path: Path, given: Given, photographs: Photographs) -> list[View]:
    """A TUM trajectory: timestamp tx ty tz qx qy qz qw, camera-to-world with OpenCV's axes.

    Pictures named by their timestamps, as in the benchmark's rgb folder, are the views, each with the pose nearest in
    time, of at most MOST_APART seconds; without any, each pose is a view.
    https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats
    """
    lens, rows = given_lens(path, given), rows_of(path, 8)
    rows = [row for row in rows if math.isfinite(row[1][0])]
    times = np.array([row[0] for _, row in rows])
    order = np.argsort(times, kind="stable")

    def view(name: str, label: str, entry: tuple[float, Path | None]) -> tuple[View, np.ndarray, Finish]:
        time, picture = entry
        after = int(np.searchsorted(times, time, sorter=order))
        around = order[max(0, after - 1) : after + 1].tolist()
        nearest = min(around, key=lambda row: abs(times[row] - time), default=-1)
        if nearest < 0 or not abs(times[nearest] - time) <= MOST_APART:
            raise ValueError(f"{path} has no pose within {MOST_APART} s of {name}; leave that picture out.")
        _, x, y, z, *quaternion = rows[nearest][1]
        if not 1e-9 < np.linalg.norm(quaternion) < 1e9:
            raise ValueError(f"{label} has no rotation; leave that view out.")
        c2w = np.eye(4)
        c2w[:3, :3] = Rotation.from_quat(quaternion).as_matrix()
        c2w[:3, 3] = x, y, z
        return View(name, lens=lens, picture=picture), c2w, as_it_is

    pictures: list[tuple[float, Path | None]] = timed(photographs)
    if not pictures:
        pictures = [(time, None) for time in times]
    check_count(len(pictures), str(path))
    named = [(f"{time:.6f}" if picture is None else stem(picture.name), (time, picture)) for time, picture in pictures]
    return collect(((name, f"{path}: the pose of {name}", entry) for name, entry in named), view)


def timed(photographs: Photographs) -> list[tuple[float, Path | None]]:
    """Pictures whose names are times in seconds; of several folders those of the first."""
    out: list[tuple[float, Path | None]] = []
    everything = list(photographs)
    colour = [path for path in everything if path.parent.name.lower() in ("rgb", "images", "color")]
    for path in colour or everything:
        try:
            out.append((float(stem(path.name)), path))
        except ValueError:
            continue
    return out


def read_kitti(path: Path, given: Given, photographs: Photographs) -> list[View]:
    """KITTI odometry poses: camera-to-world 3x4 row by row with OpenCV's axes, one a frame; views are named by the
    frames' numbers, 000000 and so on.

    The lens is that of camera 0 or 2 in a calib.txt beside the file, whose pictures are in image_0 or image_2; camera 2
    stands beside camera 0, whose poses these are. Else it is the given field of view.
    https://www.cvlibs.net/datasets/kitti/eval_odometry.php
    """
    rows = rows_of(path, 12)
    check_count(len(rows), str(path))
    calibration = path.parent / "calib.txt"
    offset, folder = np.eye(4), ""
    if calibration.is_file():
        P, folder = kitti_projection(calibration, {file.parent.name for file in photographs})
        lens = pixels(P[:3, :3])
        # P = K [I | t]: seen from camera 0, this one stands at -t.
        offset[:3, 3] = -np.linalg.solve(P[:3, :3], P[:3, 3])
    else:
        lens = given_lens(path, given)
    inside = [file for file in photographs if not folder or file.parent.name in (folder, "images")]
    pictures = {stem(file.name).lstrip("0") or "0": file for file in reversed(inside)}

    def view(name: str, label: str, values: list[float]) -> tuple[View, np.ndarray, Finish]:
        picture = pictures.get(name.lstrip("0") or "0")
        return View(name, lens=lens, picture=picture), matrix(values, label), lambda found: found @ offset

    return collect(
        ((f"{frame:06}", f"{path}, line {place},", values) for frame, (place, values) in enumerate(rows)), view
    )


def kitti_projection(path: Path, folders: set[str]) -> tuple[np.ndarray, str]:
    """The projection 4x4 of camera 2 where its pictures are in one of the folders, else of camera 0; its folder."""
    cameras = {}
    for line in text_lines(path):
        name, _, values = line.partition(":")
        if name.strip() in ("P0", "P2"):
            cameras[name.strip()] = matrix(values.split(maxsplit=12), f"{path}: {name}")
    name = "P2" if "P2" in cameras and "image_2" in folders else "P0"
    if name not in cameras or not abs(np.linalg.det(cameras[name][:3, :3])) > 1e-12:
        raise ValueError(f"{path} has no usable line P0 or P2; take the calibration of this sequence.")
    return cameras[name], f"image_{name[1]}"
