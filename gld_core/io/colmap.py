"""Cameras and points from and to COLMAP models, binary and text.

https://colmap.github.io/format.html
"""

import os
import struct
from collections.abc import Iterator, Sequence
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from ..cameras import Cameras
from ..cameras.rotations import quaternion_to_rotation, rotation_to_quaternion
from .files import atomic
from .parsing import check_distortion, pinhole, side, without_skew
from .scenes import MOST_VIEWS, Lens, Size, View, check_count, pixels

# COLMAP's camera models by number: name, and where its parameters have fx, fy, cx, cy; the others are distortion.
COLMAP_MODELS = {
    0: ("SIMPLE_PINHOLE", (0, 0, 1, 2), 3),
    1: ("PINHOLE", (0, 1, 2, 3), 4),
    2: ("SIMPLE_RADIAL", (0, 0, 1, 2), 4),
    3: ("RADIAL", (0, 0, 1, 2), 5),
    4: ("OPENCV", (0, 1, 2, 3), 8),
    6: ("FULL_OPENCV", (0, 1, 2, 3), 12),
}
PINHOLES = {name: (places, count) for name, places, count in COLMAP_MODELS.values()}
# Name and number of parameters of all of them.
PARAMETERS = {number: (name, count) for number, (name, _, count) in COLMAP_MODELS.items()} | {
    5: ("OPENCV_FISHEYE", 8),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
    12: ("SIMPLE_DIVISION", 4),
    13: ("DIVISION", 5),
    14: ("SIMPLE_FISHEYE", 3),
    15: ("FISHEYE", 4),
    16: ("EUCM", 6),
    17: ("EQUIRECTANGULAR", 2),
}


# Where a model lies below the folder of a project, in this order.
PLACES = ("", "sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse", "dense/sparse", "dense/0/sparse", "0", "model")
# Bytes of an image's name, and of a line's beginning that is looked at.
LONGEST_NAME = 4096


def colmap_folder(path: str | Path) -> Path | None:
    """The folder with cameras and images in it, of one kind: the one given or one of PLACES below it, else None."""
    path = Path(path)
    for place in PLACES:
        # A folder called colmap may also be a scene of its own; that of nerfstudio's projects has images beside it.
        if model_suffix(path / place) and (not place.startswith("colmap") or (path / "images").is_dir()):
            return path / place
    return None


def model_suffix(folder: Path) -> str | None:
    """.bin where there are both files in binary, .txt where both are text, else None."""
    for suffix in (".bin", ".txt"):
        if (folder / f"cameras{suffix}").is_file() and (folder / f"images{suffix}").is_file():
            return suffix
    return None


def read_colmap(path: Path, ignore_distortion: bool = False) -> list[View]:
    """Views of a COLMAP model, binary or text, named as its images.

    Camera models without distortion, or whose coefficients are 0; views of others cannot be used, with
    ignore_distortion only those that are no perspective cameras at all (fisheye).
    """
    folder = colmap_folder(path)
    if folder is None:
        raise ValueError(f"{path} holds no COLMAP model (cameras and images, both .bin or both .txt).")
    cameras, images = (colmap_binary if model_suffix(folder) == ".bin" else colmap_text)(folder)
    lenses: dict[int, tuple[Lens, Size] | str] = {}
    for number, camera in cameras.items():
        try:
            lenses[number] = colmap_lens(f"{folder}: camera {number}", camera, ignore_distortion)
        except ValueError as error:
            lenses[number] = str(error)
    if not images:
        return []
    quaternions = np.array([image[1] for image in images], dtype=np.float64).reshape(-1, 4)[:, [1, 2, 3, 0]]
    translations = np.array([image[2] for image in images], dtype=np.float64).reshape(-1, 3)
    length = np.linalg.norm(quaternions, axis=1)
    turned = np.isfinite(length) & (length > 1e-9) & np.isfinite(translations).all(axis=1)
    R = Rotation.from_quat(np.where(turned[:, None], quaternions, [0.0, 0, 0, 1])).as_matrix()
    c2w = np.tile(np.eye(4), (len(images), 1, 1))
    c2w[:, :3, :3] = R.transpose(0, 2, 1)
    c2w[:, :3, 3] = -np.einsum("vji,vj->vi", R, translations)
    views = []
    for place, (name, _, _, number) in enumerate(images):
        lens = lenses.get(
            number, f"{folder}: {name[:200]} has camera {number}, which is not among the cameras; export it again."
        )
        if isinstance(lens, str):
            views.append(
                View(name, problem=lens.replace(f"camera {number} has", f"camera {number} of {name[:200]} has", 1))
            )
        elif not turned[place]:
            views.append(
                View(name, problem=f"{folder}: the pose of {name[:200]} is no rotation and translation; leave it out.")
            )
        else:
            views.append(View(name, c2w[place], lens[0], lens[1]))
    return views


ColmapCamera = tuple[str, int, int, list[float]]
ColmapImage = tuple[str, tuple[float, ...], tuple[float, ...], int]


def colmap_lens(what: str, camera: ColmapCamera, ignore_distortion: bool) -> tuple[Lens, Size]:
    """ValueError, which `what` begins, for a camera that is no pinhole."""
    model, width, height, parameters = camera
    if model not in PINHOLES:
        raise ValueError(f"{what} has the model {model[:40]}, which is no pinhole; undistort the images with COLMAP.")
    places, count = PINHOLES[model]
    if len(parameters) != count:
        raise ValueError(f"{what} has {len(parameters)} parameters where {model} has {count}; export it again.")
    distortion = {f"parameter {i + 1}": p for i, p in enumerate(parameters) if i not in places}
    check_distortion(what, distortion, ignore_distortion)
    size = side(height, f"{what} has a height that"), side(width, f"{what} has a width that")
    return pixels(pinhole(*(parameters[i] for i in places))), size


def colmap_text(folder: Path) -> tuple[dict[int, ColmapCamera], list[ColmapImage]]:
    """cameras.txt and images.txt: number -> (model, width, height, parameters); (name, quaternion, translation,
    camera number).

    An image is a line of a number, seven numbers, a camera's number and a name, with or without the line of points
    that belongs to it.
    """
    cameras: dict[int, ColmapCamera] = {}
    images: list[ColmapImage] = []
    path, line = folder / "cameras.txt", ""
    try:
        for line in data_lines(path):
            number, model, width, height, *parameters = line.split()
            cameras[int(number)] = (model, int(width), int(height), [float(value) for value in parameters])
            if len(cameras) > MOST_VIEWS:
                break
        path = folder / "images.txt"
        expected = True
        for line in data_lines(path):
            image = image_of(line)
            if image is not None:
                images.append(image)
            elif expected:
                raise ValueError
            # After an image its points may follow, and nothing else.
            expected = image is None
            if len(images) > MOST_VIEWS:
                break
    except ValueError:
        raise ValueError(f"{path} has a line that cannot be read: {line[:80]!r}; export it again.") from None
    check_count(max(len(cameras), len(images)), str(folder))
    return cameras, images


def image_of(line: str) -> ColmapImage | None:
    """An image's line; None for a line of points, x, y and a point's number each."""
    values = line.split(maxsplit=9)
    if len(values) < 10:
        return None
    try:
        int(values[0])
        qw, qx, qy, qz, tx, ty, tz = (float(value) for value in values[1:8])
        camera = int(values[8])
    except ValueError:
        return None
    # Points without decimals are told from an image by their count; names are seldom numbers.
    rest = values[9].split()
    if (9 + len(rest)) % 3 == 0 and all(value.lstrip("-").replace(".", "", 1).isdecimal() for value in rest):
        return None
    return values[9], (qw, qx, qy, qz), (tx, ty, tz), camera


def data_lines(path: Path) -> Iterator[str]:
    """Lines with something in them other than a comment, of long ones the beginning."""
    with open(path, "rb") as file:
        start = True
        while data := file.readline(LONGEST_NAME):
            whole, beginning = data.endswith(b"\n"), data.removeprefix(b"\xef\xbb\xbf") if start else data
            start = False
            line = beginning.decode("utf-8", "replace").strip()
            while not whole and (more := file.readline(1 << 16)):
                whole = more.endswith(b"\n")
            if line and not line.startswith("#"):
                yield line


def unpack(file: BinaryIO, layout: str) -> tuple:
    """Little endian values. EOFError where the file ends before."""
    size = struct.calcsize("<" + layout)
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return struct.unpack("<" + layout, data)


def skip(file: BinaryIO, size: int, end: int) -> None:
    """EOFError where the file, of `end` bytes, ends before."""
    if file.tell() + size > end:
        raise EOFError
    file.seek(size, os.SEEK_CUR)


def colmap_binary(folder: Path) -> tuple[dict[int, ColmapCamera], list[ColmapImage]]:
    """cameras.bin and images.bin, as `colmap_text`."""
    cameras: dict[int, ColmapCamera] = {}
    images: list[ColmapImage] = []
    path = folder / "cameras.bin"
    try:
        with open(path, "rb") as file:
            count = unpack(file, "Q")[0]
            check_count(count, str(path))
            for _ in range(count):
                number, model, width, height = unpack(file, "iiQQ")
                name, count = PARAMETERS.get(model, ("", 0))
                if not name:
                    raise ValueError(
                        f"{path}: camera {number} is of COLMAP's model {model}, which is not known; undistort the "
                        "images with COLMAP."
                    )
                cameras[number] = (name, width, height, list(unpack(file, f"{count}d")))
        path = folder / "images.bin"
        with open(path, "rb", buffering=0) as file:
            images = binary_images(file, path)
    except EOFError:
        raise ValueError(f"{path} ends before its content does; it is cut short: export it again.") from None
    return cameras, images


def binary_images(file: FileIO, path: Path) -> list[ColmapImage]:
    """Of images.bin; what each sees is passed over. EOFError where the file ends before."""
    images: list[ColmapImage] = []
    fixed, count = struct.Struct("<i7di"), struct.Struct("<Q")
    end = os.fstat(file.fileno()).st_size
    start = count.size
    total = count.unpack(exactly(file, count.size))[0]
    check_count(total, str(path))
    for _ in range(total):
        file.seek(start)
        data = file.read(fixed.size + 256)
        name_end = data.find(b"\0", fixed.size)
        if name_end < 0:
            data += file.read(LONGEST_NAME)
            name_end = data.find(b"\0", fixed.size)
        if name_end < 0 and len(data) == fixed.size + 256 + LONGEST_NAME:
            raise ValueError(f"{path} has an image whose name has no end within {LONGEST_NAME} bytes; export it again.")
        if name_end < 0 or len(data) < fixed.size:
            raise EOFError
        _, *values, camera = fixed.unpack_from(data)
        after = name_end + 1 + count.size
        if len(data) < after:
            data += exactly(file, after - len(data))
        seen = count.unpack_from(data, name_end + 1)[0]
        start += after + 24 * seen
        if start > end:
            raise EOFError
        name = data[fixed.size : name_end].decode("utf-8", "replace")
        images.append((name, tuple(values[:4]), tuple(values[4:]), camera))
    return images


def exactly(file: FileIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


def read_colmap_points(path: str | Path) -> tuple[Tensor, Tensor]:
    """The sparse points of a COLMAP model: xyz (P, 3) float32 in the world and rgb (P, 3) uint8."""
    folder = colmap_folder(path) or Path(path)
    xyz: list[tuple[float, ...]] = []
    rgb: list[tuple[int, ...]] = []
    binary, text = folder / "points3D.bin", folder / "points3D.txt"
    if binary.is_file():
        try:
            with open(binary, "rb") as file:
                end = os.fstat(file.fileno()).st_size
                for _ in range(unpack(file, "Q")[0]):
                    _, x, y, z, r, g, b, _ = unpack(file, "Q3d3Bd")
                    xyz.append((x, y, z))
                    rgb.append((r, g, b))
                    skip(file, 8 * unpack(file, "Q")[0], end)
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
    turns = rotation_to_quaternion(cameras.world_c2w[:, :3, :3].transpose(1, 2))
    # The translation belongs to the rotation as it is written, not to one in float32: far away that is metres.
    shifts = -(quaternion_to_rotation(turns) @ cameras.world_c2w[:, :3, 3:])[:, :, 0]
    for view, ((x, y, z, w), shift) in enumerate(zip(turns.tolist(), shifts.tolist(), strict=True)):
        images.append(((w, x, y, z, *shift), unique.index(intrinsics[view]) + 1, names[view]))
    points = [] if xyz is None else (xyz.double().cpu() + cameras.origin).tolist()
    colors = torch.full((len(points), 3), 128).tolist() if rgb is None else rgb.tolist()
    size = (cameras.width, cameras.height)
    # What each image sees, as (x, y, point), and what sees each point, as (image, place in it); all counted from 1
    # but for the place.
    sights: list[list[tuple[float, float, int]]] = [[] for _ in images]
    tracks: list[list[tuple[int, int]]] = [[] for _ in points]
    for view, (indices, places) in enumerate(observations or []):
        for place, (index, (x, y)) in enumerate(zip(indices.tolist(), places.tolist(), strict=True)):
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
