"""Cameras from the text files of RealEstate10K."""

from pathlib import Path

import numpy as np

from .parsing import Finish, collect, inverse, matrix, pinhole, text_lines
from .scenes import View, check_count


def read_realestate10k(path: Path) -> list[View]:
    """A RealEstate10K camera file; views are named by the frames' timestamps (microseconds).

    After a first line with the video's address, which may be missing, each line: timestamp, fx, fy, cx, cy as shares
    of width and height, two zeros, and world-to-camera 3x4. https://google.github.io/realestate10k/download.html
    """
    rows = []
    for place, line in enumerate(text_lines(path), 1):
        values = line.split(maxsplit=19)
        if not values or (place == 1 and len(values) == 1):
            continue
        label = f"{path}, line {place},"
        try:
            numbers = [float(value) for value in values[1:]]
            if len(numbers) != 18:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"{label} is not a timestamp and 18 numbers; it is no RealEstate10K camera file."
            ) from None
        rows.append((values[0], label, numbers))
        check_count(len(rows), str(path))
    return collect(rows, view_of)


def view_of(timestamp: str, label: str, numbers: list[float]) -> tuple[View, np.ndarray, Finish]:
    share = pinhole(*numbers[:4])

    def lens(height: int, width: int) -> np.ndarray:
        return share * [[width], [height], [1]]

    return View(timestamp, lens=lens), matrix(numbers[6:], label), lambda w2c: inverse(w2c, f"The pose of {label}")
