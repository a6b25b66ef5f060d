"""Cameras from the text files of RealEstate10K."""

from pathlib import Path

import numpy as np

from ..cameras import Cameras
from .parsing import assemble, inverse, pinhole, pose


def read_realestate10k(path: str | Path, height: int, width: int) -> tuple[Cameras, list[str]]:
    """A RealEstate10K camera file for images of height x width; names are the frames' timestamps (microseconds).

    After a first line with the video's address, each line: timestamp, fx, fy, cx, cy as shares of width and height,
    two zeros, and world-to-camera 3x4. https://google.github.io/realestate10k/download.html
    """
    path = Path(path)
    poses, intrinsics, names = [], [], []
    for place, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        values = line.split()
        if not values or (place == 1 and len(values) == 1):
            continue
        try:
            timestamp, *rest = values
            fx, fy, cx, cy, _, _, *w2c = (float(value) for value in rest)
            matrix = pose(np.reshape(w2c, (3, 4)), f"line {place}")
        except ValueError:
            raise ValueError(
                f"{path}, line {place}, is not a timestamp and 18 numbers; it is no RealEstate10K camera file."
            ) from None
        poses.append(inverse(matrix, f"{path}: the pose in line {place}"))
        intrinsics.append(pinhole(fx * width, fy * height, cx * width, cy * height))
        names.append(timestamp)
    return assemble(str(path), poses, intrinsics, [(height, width)] * len(poses)), names
