"""How long a COLMAP model takes to read, beside pycolmap: 10 000 images with and without the points they see.

    python tests/bench/colmap.py [images] [points an image]

Both read the same files in one process, by turns; printed is the best of three.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pycolmap

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from gld_core.io.cameras import read_scene  # noqa: E402


def write(folder: Path, images: int, points: int) -> None:
    """A model of one camera whose images stand on a circle."""
    model = pycolmap.Reconstruction()
    camera = pycolmap.Camera(model="PINHOLE", width=640, height=480, params=[500.0, 500, 320, 240], camera_id=1)
    model.add_camera_with_trivial_rig(camera)
    rng = np.random.default_rng(0)
    for number in range(1, images + 1):
        turn = pycolmap.Rotation3d(np.array([0.0, 6.28 * number / images, 0.0]))
        pose = pycolmap.Rigid3d(turn, rng.normal(size=3))
        seen = [pycolmap.Point2D(xy) for xy in rng.uniform(0, 480, (points, 2))]
        image = pycolmap.Image(image_id=number, camera_id=1, name=f"frame_{number}.jpg", points2D=seen)
        model.add_image_with_trivial_frame(image, pose)
    for kind, save in (("binary", model.write_binary), ("text", model.write_text)):
        (folder / kind).mkdir()
        save(folder / kind)


def seconds(read) -> float:
    start = time.perf_counter()
    read()
    return time.perf_counter() - start


def main() -> None:
    images, points = (int(value) for value in (*sys.argv[1:], "10000", "500")[:2])
    for count in (0, points):
        with tempfile.TemporaryDirectory() as scratch:
            write(Path(scratch), images, count)
            for kind in ("binary", "text"):
                folder = Path(scratch) / kind
                own, theirs = [], []
                for _ in range(3):
                    theirs.append(seconds(lambda folder=folder: pycolmap.Reconstruction(folder)))
                    own.append(seconds(lambda folder=folder: read_scene(folder, None).cameras))
                times = f"{min(own):.2f} s, pycolmap {min(theirs):.2f} s, x{min(own) / min(theirs):.2f}"
                print(f"{images} images, {count} points each, {kind}: {times}")


if __name__ == "__main__":
    main()
