"""Cameras and points from and to COLMAP models, binary and text.

https://colmap.github.io/format.html
"""

import os
import struct
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..cameras import Cameras
from ..cameras.rotations import quaternion_to_rotation, rotation_to_quaternion
from .files import atomic, natural_order
from .parsing import assemble, check_distortion, inverse, pinhole, without_skew

# COLMAP's camera models by number: name, and where its parameters have fx, fy, cx, cy; the others are distortion.
COLMAP_MODELS = {
    0: ("SIMPLE_PINHOLE", (0, 0, 1, 2), 3),
    1: ("PINHOLE", (0, 1, 2, 3), 4),
    2: ("SIMPLE_RADIAL", (0, 0, 1, 2), 4),
    3: ("RADIAL", (0, 0, 1, 2), 5),
    4: ("OPENCV", (0, 1, 2, 3), 8),
    6: ("FULL_OPENCV", (0, 1, 2, 3), 12),
}


def colmap_folder(path: str | Path) -> Path | None:
    """The folder with cameras and images in it: the one given, its sparse/0 or its sparse. None where there is none."""
    for folder in (Path(path), Path(path) / "sparse" / "0", Path(path) / "sparse"):
        for suffix in (".bin", ".txt"):
            if (folder / f"cameras{suffix}").is_file() and (folder / f"images{suffix}").is_file():
                return folder
    return None


def read_colmap(path: str | Path, ignore_distortion: bool = False) -> tuple[Cameras, list[str]]:
    """A COLMAP model, binary or text, in natural order of the images' names.

    Camera models without distortion, or whose coefficients are 0; others raise ValueError, with ignore_distortion only
    those that are no perspective cameras at all (fisheye).
    """
    folder = colmap_folder(path)
    if folder is None:
        raise ValueError(f"{path} holds no COLMAP model (cameras and images, .bin or .txt).")
    if (folder / "cameras.bin").is_file():
        cameras, images = colmap_binary(folder)
    else:
        cameras, images = colmap_text(folder)
    poses, intrinsics, sizes, names = [], [], [], []
    for name, quaternion, translation, number in sorted(images, key=lambda image: natural_order(image[0])):
        if number not in cameras:
            raise ValueError(f"{folder}: {name} has camera {number}, which is not among the cameras; export it again.")
        model, width, height, parameters = cameras[number]
        what = f"{folder}: camera {number} of {name}"
        known = {label: (places, count) for label, places, count in COLMAP_MODELS.values()}
        if model not in known:
            raise ValueError(f"{what} has the model {model}, which is no pinhole; undistort the images with COLMAP.")
        places, count = known[model]
        if len(parameters) != count:
            raise ValueError(f"{what} has {len(parameters)} parameters where {model} has {count}; export it again.")
        distortion = {f"parameter {i + 1}": p for i, p in enumerate(parameters) if i not in places}
        check_distortion(what, distortion, ignore_distortion)
        w2c = torch.eye(4, dtype=torch.float64)
        w, x, y, z = quaternion
        w2c[:3, :3] = quaternion_to_rotation(torch.tensor([x, y, z, w], dtype=torch.float64))
        w2c[:3, 3] = torch.tensor(translation, dtype=torch.float64)
        poses.append(inverse(w2c, f"{folder}: the pose of {name}"))
        intrinsics.append(pinhole(*(parameters[i] for i in places)))
        sizes.append((height, width))
        names.append(name)
    return assemble(str(folder), poses, intrinsics, sizes), names


ColmapCamera = tuple[str, int, int, list[float]]
ColmapImage = tuple[str, tuple[float, ...], tuple[float, ...], int]


def colmap_text(folder: Path) -> tuple[dict[int, ColmapCamera], list[ColmapImage]]:
    """cameras.txt and images.txt: number -> (model, width, height, parameters); (name, quaternion, translation,
    camera number)."""
    cameras: dict[int, ColmapCamera] = {}
    images: list[ColmapImage] = []
    path, line = folder / "cameras.txt", ""
    try:
        for line in data_lines(path):
            number, model, width, height, *parameters = line.split()
            cameras[int(number)] = (model, int(width), int(height), [float(value) for value in parameters])
        path = folder / "images.txt"
        lines = data_lines(path, every=2)
        for line in lines:
            _, *values, number, name = line.split(maxsplit=9)
            qw, qx, qy, qz, *translation = (float(value) for value in values)
            tx, ty, tz = translation
            images.append((name, (qw, qx, qy, qz), (tx, ty, tz), int(number)))
    except ValueError:
        raise ValueError(f"{path} has a line that cannot be read: {line[:80]!r}; export it again.") from None
    return cameras, images


def data_lines(path: Path, every: int = 1) -> Iterator[str]:
    """Lines with something in them other than a comment; of groups of `every` lines the first, the others unread."""
    lines = iter(path.read_text(encoding="utf-8", errors="replace").splitlines())
    for line in lines:
        if line.strip() and not line.startswith("#"):
            yield line.strip()
            for _ in range(every - 1):
                next(lines, None)


def unpack(file: BinaryIO, layout: str) -> tuple:
    """Little endian values. EOFError where the file ends before."""
    size = struct.calcsize("<" + layout)
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return struct.unpack("<" + layout, data)


def skip(file: BinaryIO, size: int) -> None:
    """EOFError where the file ends before."""
    if file.tell() + size > os.fstat(file.fileno()).st_size:
        raise EOFError
    file.seek(size, os.SEEK_CUR)


def colmap_binary(folder: Path) -> tuple[dict[int, ColmapCamera], list[ColmapImage]]:
    """cameras.bin and images.bin, as `colmap_text`."""
    cameras: dict[int, ColmapCamera] = {}
    images: list[ColmapImage] = []
    path = folder / "cameras.bin"
    try:
        with open(path, "rb") as file:
            for _ in range(unpack(file, "Q")[0]):
                number, model, width, height = unpack(file, "iiQQ")
                if model not in COLMAP_MODELS:
                    raise ValueError(
                        f"{path}: camera {number} is of COLMAP's model {model}, which is no pinhole; "
                        "undistort the images with COLMAP."
                    )
                name, _, count = COLMAP_MODELS[model]
                cameras[number] = (name, width, height, list(unpack(file, f"{count}d")))
        path = folder / "images.bin"
        with open(path, "rb") as file:
            for _ in range(unpack(file, "Q")[0]):
                _, *values, number = unpack(file, "i7di")
                label = b""
                while (letter := unpack(file, "c")[0]) != b"\0":
                    label += letter
                images.append((label.decode("utf-8", "replace"), tuple(values[:4]), tuple(values[4:]), number))
                skip(file, 24 * unpack(file, "Q")[0])
    except EOFError:
        raise ValueError(f"{path} ends before its content does; it is cut short: export it again.") from None
    return cameras, images


def read_colmap_points(path: str | Path) -> tuple[Tensor, Tensor]:
    """The sparse points of a COLMAP model: xyz (P, 3) float32 in the world and rgb (P, 3) uint8."""
    folder = colmap_folder(path) or Path(path)
    xyz: list[tuple[float, ...]] = []
    rgb: list[tuple[int, ...]] = []
    binary, text = folder / "points3D.bin", folder / "points3D.txt"
    if binary.is_file():
        try:
            with open(binary, "rb") as file:
                for _ in range(unpack(file, "Q")[0]):
                    _, x, y, z, r, g, b, _ = unpack(file, "Q3d3Bd")
                    xyz.append((x, y, z))
                    rgb.append((r, g, b))
                    skip(file, 8 * unpack(file, "Q")[0])
        except EOFError:
            raise ValueError(f"{binary} ends before its content does; it is cut short: export it again.") from None
    elif text.is_file():
        for line in data_lines(text):
            try:
                _, x, y, z, r, g, b, *_ = line.split()
                xyz.append((float(x), float(y), float(z)))
                rgb.append(tuple(bytes([int(r), int(g), int(b)])))
            except ValueError:
                raise ValueError(f"{text} has a line that cannot be read: {line[:80]!r}; export it again.") from None
    else:
        raise ValueError(f"{folder} has no points3D.bin or points3D.txt; export the model with its points.")
    return torch.tensor(xyz).view(-1, 3).float(), torch.tensor(rgb, dtype=torch.uint8).view(-1, 3)


def write_colmap(
    folder: str | Path,
    cameras: Cameras,
    names: Sequence[str],
    xyz: Tensor | None = None,
    rgb: Tensor | None = None,
    binary: bool = True,
    observations: Sequence[tuple[Tensor, Tensor]] | None = None,
) -> None:
    """Cameras -> a COLMAP model of PINHOLE cameras; names are the images' file names, without spaces at their ends.

    xyz (P, 3) from the cameras' origin, rgb (P, 3) uint8: sparse points; observations: per view the indices (n,) of
    those it sees and where it sees them, (n, 2) in pixels (`fusion.observations`). Raises ValueError for a K with skew.
    """
    folder = Path(folder)
    intrinsics = without_skew("a COLMAP model", cameras.K)
    unique = list(dict.fromkeys(intrinsics))
    images = []
    for view, w2c in enumerate(torch.linalg.inv(cameras.world_c2w)):
        x, y, z, w = rotation_to_quaternion(w2c[:3, :3]).tolist()
        images.append(((w, x, y, z, *w2c[:3, 3].tolist()), unique.index(intrinsics[view]) + 1, names[view]))
    points = [] if xyz is None else (xyz.double().cpu() + cameras.origin).tolist()
    colors = torch.full((len(points), 3), 128).tolist() if rgb is None else rgb.tolist()
    size = (cameras.width, cameras.height)
    # What each image sees, as (x, y, point), and what sees each point, as (image, place in it); all counted from 1
    # but for the place.
    sights: list[list[tuple[float, float, int]]] = [[] for _ in images]
    tracks: list[list[tuple[int, int]]] = [[] for _ in points]
    for view, (indices, pixels) in enumerate(observations or []):
        for place, (index, (x, y)) in enumerate(zip(indices.tolist(), pixels.tolist(), strict=True)):
            sights[view].append((x, y, index + 1))
            tracks[index].append((view + 1, place))
    files: dict[str, bytes] = {}
    if binary:
        files["cameras.bin"] = struct.pack("<Q", len(unique)) + b"".join(
            struct.pack("<iiQQ4d", number, 1, *size, *values) for number, values in enumerate(unique, 1)
        )
        files["images.bin"] = struct.pack("<Q", len(images)) + b"".join(
            struct.pack("<i7di", view, *values, camera)
            + name.encode("utf-8")
            + struct.pack("<xQ", len(sight))
            + b"".join(struct.pack("<ddq", *point) for point in sight)
            for view, ((values, camera, name), sight) in enumerate(zip(images, sights, strict=True), 1)
        )
        files["points3D.bin"] = struct.pack("<Q", len(points)) + b"".join(
            struct.pack("<Q3d3BdQ", number, *point, *color, 0.0, len(track))
            + b"".join(struct.pack("<ii", *element) for element in track)
            for number, (point, color, track) in enumerate(zip(points, colors, tracks, strict=True), 1)
        )
    else:

        def table(header: str, rows: list[str]) -> bytes:
            return "\n".join([f"# {header}", *rows, ""]).encode("utf-8")

        def numbers(*values: float) -> str:
            return " ".join(map(repr, values))

        files["cameras.txt"] = table(
            "CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]",
            [f"{i} PINHOLE {size[0]} {size[1]} {numbers(*values)}" for i, values in enumerate(unique, 1)],
        )
        files["images.txt"] = table(
            "IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME, then a line of POINTS2D[] as X, Y, POINT3D_ID",
            [
                f"{i} {numbers(*values)} {camera} {name}\n{numbers(*chain(*sight))}"
                for i, ((values, camera, name), sight) in enumerate(zip(images, sights, strict=True), 1)
            ],
        )
        files["points3D.txt"] = table(
            "POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as IMAGE_ID, POINT2D_IDX",
            [
                f"{i} {numbers(*point, *color, 0.0, *chain(*track))}"
                for i, (point, color, track) in enumerate(zip(points, colors, tracks, strict=True), 1)
            ],
        )
    for file_name, content in files.items():
        with atomic(folder / file_name) as temporary:
            temporary.write_bytes(content)
