"""Writes cube/ beside this file with COLMAP's own Python package (pip install pycolmap; 4.2.1 was used).

A unit cube with 5 x 5 checkerboard corners on each face, seen by 4 cameras. COLMAP writes the model as text and as
binary files, and projects the corners: cube.json has the corners, and the pixels each camera sees them at.
"""

import json
from pathlib import Path

import numpy as np
import pycolmap

WIDTH, HEIGHT = 98, 70
CAMERAS = [
    ("SIMPLE_PINHOLE", [80.25, 48.5, 35.25]),
    ("PINHOLE", [81.5, 79.75, 50.0, 34.0]),
    ("SIMPLE_RADIAL", [90.0, 49.0, 35.0, 0.0]),
    ("OPENCV", [70.0, 71.0, 47.5, 36.5, 0.0, 0.0, 0.0, 0.0]),
]
NAMES = ["photo_10.jpg", "photo_2.jpg", "photo_1.jpg", "photo_3.jpg"]
EYES = np.array([[2.5, 1.5, 3.0], [-2.0, -2.5, 2.0], [0.5, 3.0, -2.0], [3.0, -1.0, -1.5]])


def corners() -> np.ndarray:
    """(150, 3)"""
    side = np.linspace(-0.5, 0.5, 5)
    a, b = (grid.ravel() for grid in np.meshgrid(side, side))
    faces = []
    for axis in range(3):
        for level in (-0.5, 0.5):
            points = np.empty((25, 3))
            points[:, axis] = level
            points[:, (axis + 1) % 3], points[:, (axis + 2) % 3] = a, b
            faces.append(points)
    return np.concatenate(faces)


def world_to_camera(eye: np.ndarray, lean: float) -> np.ndarray:
    """(3, 4), looking near the cube's middle, leaning `lean` radians to the side."""
    forward = np.array([0.1, -0.05, 0.08]) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [np.sin(lean), 0.0, np.cos(lean)])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    return np.concatenate([R, (-R @ eye)[:, None]], axis=1)


def main() -> None:
    folder = Path(__file__).parent / "cube"
    points = corners()
    model = pycolmap.Reconstruction()
    pixels = {}
    for number, ((kind, params), name, eye) in enumerate(zip(CAMERAS, NAMES, EYES, strict=True), 1):
        camera = pycolmap.Camera(camera_id=number, model=kind, width=WIDTH, height=HEIGHT, params=params)
        model.add_camera_with_trivial_rig(camera)
        pose = pycolmap.Rigid3d(world_to_camera(eye, 0.3 * number))
        seen = camera.img_from_cam(pose * points)
        pixels[name] = seen.tolist()
        image = pycolmap.Image(
            image_id=number, camera_id=number, name=name, points2D=[pycolmap.Point2D(p) for p in seen]
        )
        model.add_image_with_trivial_frame(image, pose)
    for index, xyz in enumerate(points):
        track = pycolmap.Track(elements=[pycolmap.TrackElement(number, index) for number in (1, 2, 3, 4)])
        model.add_point3D(xyz, track, [index, 255 - index, 7])
    for kind, write in (("text", model.write_text), ("binary", model.write_binary)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        write(folder / kind)
    (folder / "cube.json").write_text(json.dumps({"points": points.tolist(), "pixels": pixels}), encoding="utf-8")


if __name__ == "__main__":
    main()
