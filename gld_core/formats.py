"""Cameras from and to other programs.

Whatever is read becomes `Cameras`: OpenCV camera-to-world, K in pixels with the origin at the image's top-left corner
(images.py). COLMAP, nerfstudio and RealEstate10K count pixels the same way (the centre of the first pixel is 0.5, 0.5),
so their principal points are taken as they are. Files written here are read back to 1e-6 of the scene's extent.

Every reader returns the cameras and a name for each, and raises ValueError, in a sentence that names file and view,
for what a pinhole camera without skew cannot be, and for images of more than one size.
"""

import json
import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from .cameras import PRINCIPAL_RANGE, Cameras, quaternion_to_rotation, rotation_to_quaternion
from .export import atomic
from .images import PATCH
from .scenes import natural_order, read_scene

# x right, y up, z backward (OpenGL, Blender, three.js) to OpenCV and back.
OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
# Lens coefficients below this move no pixel visibly.
NO_DISTORTION = 1e-6
# COLMAP's camera models by number: name, and where its parameters have fx, fy, cx, cy; the others are distortion.
COLMAP_MODELS = {
    0: ("SIMPLE_PINHOLE", (0, 0, 1, 2), 3),
    1: ("PINHOLE", (0, 1, 2, 3), 4),
    2: ("SIMPLE_RADIAL", (0, 0, 1, 2), 4),
    3: ("RADIAL", (0, 0, 1, 2), 5),
    4: ("OPENCV", (0, 1, 2, 3), 8),
    6: ("FULL_OPENCV", (0, 1, 2, 3), 12),
}
# The core's 3D nodes take this vertical field of view where a camera has none.
LOAD3D_FOV = 35.0


def pinhole(fx: float, fy: float, cx: float, cy: float) -> Tensor:
    """(3, 3) float64 K."""
    return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)


def pose(value: Any, what: str) -> Tensor:
    """Nested lists or an array of 4x4 or 3x4 -> (4, 4) float64. `what` names it in the ValueError."""
    try:
        matrix = torch.as_tensor(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{what} is not a matrix of numbers; give 4x4.") from None
    if tuple(matrix.shape) not in ((4, 4), (3, 4)):
        raise ValueError(f"{what} has shape {tuple(matrix.shape)}; give 4x4.")
    return torch.cat([matrix[:3], torch.tensor([[0.0, 0, 0, 1]], dtype=torch.float64)])


def number(value: Any, what: str) -> float:
    """ValueError, which `what` begins, unless the value is a finite number or the text of one."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{what} is {str(value)[:40]!r}; give a finite number.")
    return found


def inverse(matrix: Tensor, what: str) -> Tensor:
    """(4, 4) -> (4, 4). ValueError, which `what` begins, where there is none."""
    if not 1e-12 < abs(torch.linalg.det(matrix)) < math.inf:
        raise ValueError(f"{what} has no inverse; give a matrix of a rotation and a translation.")
    return torch.linalg.inv(matrix)


def assemble(what: str, c2w: Sequence[Tensor], K: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> Cameras:
    """Checked cameras of (height, width) sizes, which have to be equal. `what` begins the ValueError."""
    if not c2w:
        raise ValueError(f"{what} holds no cameras.")
    for view, size in enumerate(sizes):
        if size != sizes[0]:
            raise ValueError(
                f"{what} has images of {sizes[0][1]}x{sizes[0][0]} (view 0) and of {size[1]}x{size[0]} (view {view}); "
                "one set of cameras is for images of one size: resize them, or choose views of one size."
            )
    cameras = Cameras(torch.stack(list(c2w)), torch.stack(list(K)), *sizes[0])
    try:
        cameras.check()
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    return cameras


def check_distortion(what: str, coefficients: Mapping[str, float], ignore: bool) -> None:
    """ValueError where a lens bends the image, unless that is to be ignored."""
    bent = {name: value for name, value in coefficients.items() if abs(value) > NO_DISTORTION}
    if bent and not ignore:
        found = ", ".join(f"{name} = {value:.4g}" for name, value in bent.items())
        raise ValueError(
            f"{what} has lens distortion ({found}), which a pinhole camera has not; undistort the images and their "
            "cameras first (COLMAP's image_undistorter does), or choose to ignore the distortion."
        )


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


def load_json(path: Path) -> Any:
    return parse_json(path.read_bytes(), str(path))


def parse_json(text: str | bytes, what: str) -> Any:
    """ValueError, which `what` begins, where the text is not JSON, or not such as a machine would write."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is not JSON ({error}); export it again, or correct it.") from None


def read_cameras(
    path: str | Path, height: int | None = None, width: int | None = None, ignore_distortion: bool = False
) -> tuple[Cameras, list[str]]:
    """Cameras of any of the files below, told apart by what is in them.

    A nerfstudio transforms.json, cameras as JSON (`parse_matrices`), a RealEstate10K .txt, or a folder: a COLMAP
    model, one with a transforms.json, or the released program's posed scene (`scenes.read_scene`, fitted to its
    size). height, width: of the images, where the file does not say.
    """
    path = Path(path)
    if path.is_dir():
        if colmap_folder(path):
            return read_colmap(path, ignore_distortion)
        if (path / "transforms.json").is_file():
            return read_transforms(path / "transforms.json", ignore_distortion)
        scene = read_scene(path)
        return scene.cameras, scene.names
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a file or folder of cameras.")
    if path.suffix.lower() == ".txt":
        if height is None or width is None:
            raise ValueError(f"{path} holds intrinsics as shares of the image; give 'width' and 'height' in pixels.")
        return read_realestate10k(path, height, width)
    content = load_json(path)
    if isinstance(content, dict) and "frames" in content:
        return read_transforms(path, ignore_distortion)
    return parse_matrices(content, height, width, str(path))


# nerfstudio


def read_transforms(path: str | Path, ignore_distortion: bool = False) -> tuple[Cameras, list[str]]:
    """A nerfstudio transforms.json; names are the frames' file_path, views in the frames' order.

    Intrinsics (fl_x, fl_y or camera_angle_x, camera_angle_y; cx, cy; w, h) are a frame's own or the file's.
    `applied_transform`, which leads from the original world to the file's, is undone.
    https://docs.nerf.studio/quickstart/data_conventions.html
    """
    path = Path(path)
    content = load_json(path)
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise ValueError(f"{path} has no list of frames; it is no nerfstudio transforms.json.")
    undo = torch.eye(4, dtype=torch.float64)
    if "applied_transform" in content:
        what = f"applied_transform of {path}"
        undo = inverse(pose(content["applied_transform"], what), what)
    poses, intrinsics, sizes, names = [], [], [], []
    for place, frame in enumerate(frames):
        name = str(frame.get("file_path", f"frame_{place:05d}"))
        what = f"{path}: {name[:200]}"
        merged = {**content, **frame}
        if merged.get("camera_model", "OPENCV") not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL"):
            raise ValueError(
                f"{what} has the camera model {str(merged['camera_model'])[:40]}; give undistorted pinhole images."
            )
        coefficients = {
            key: number(merged.get(key, 0), f"{what}: {key}") for key in ("k1", "k2", "k3", "k4", "p1", "p2")
        }
        check_distortion(what, coefficients, ignore_distortion)
        if "w" not in merged or "h" not in merged:
            raise ValueError(f"{what} has no image size (w, h); add it to the file.")
        width, height = number(merged["w"], f"{what}: w"), number(merged["h"], f"{what}: h")
        fx = focal(merged, "x", width, what) or focal(merged, "y", height, what)
        fy = focal(merged, "y", height, what) or fx
        if fx is None or fy is None:
            raise ValueError(f"{what} has no focal length (fl_x or camera_angle_x); add it to the file.")
        cx, cy = (number(merged.get(key, side / 2), f"{what}: {key}") for key, side in (("cx", width), ("cy", height)))
        K = pinhole(fx, fy, cx, cy)
        if "transform_matrix" not in frame:
            raise ValueError(f"{what} has no transform_matrix; leave that frame out.")
        poses.append(undo @ pose(frame["transform_matrix"], f"transform_matrix of {what}") @ OPENGL)
        intrinsics.append(K)
        sizes.append((round(height), round(width)))
        names.append(name)
    return assemble(str(path), poses, intrinsics, sizes), names


def focal(values: Mapping[str, Any], axis: str, side: float, what: str) -> float | None:
    """Pixels, from fl_x or the field of view camera_angle_x (radians) of nerfstudio and its forebears."""
    if f"fl_{axis}" in values:
        return number(values[f"fl_{axis}"], f"{what}: fl_{axis}")
    if f"camera_angle_{axis}" not in values:
        return None
    angle = number(values[f"camera_angle_{axis}"], f"{what}: camera_angle_{axis}")
    if not 1e-6 < angle < math.pi:
        raise ValueError(f"{what}: camera_angle_{axis} is {angle:.4g}; give radians between 0 and pi.")
    return side / 2 / math.tan(angle / 2)


# COLMAP: https://colmap.github.io/format.html


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

    xyz (P, 3), rgb (P, 3) uint8: sparse points; observations: per view the indices (n,) of those it sees and where it
    sees them, (n, 2) in pixels (`fusion.observations`). Raises ValueError for a K with skew.
    """
    folder = Path(folder)
    intrinsics = without_skew("a COLMAP model", cameras.K)
    unique = list(dict.fromkeys(intrinsics))
    images = []
    for view, w2c in enumerate(torch.linalg.inv(cameras.c2w.double())):
        x, y, z, w = rotation_to_quaternion(w2c[:3, :3]).tolist()
        images.append(((w, x, y, z, *w2c[:3, 3].tolist()), unique.index(intrinsics[view]) + 1, names[view]))
    points = [] if xyz is None else xyz.double().tolist()
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


# RealEstate10K


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


# Matrices as JSON


def parse_matrices(
    content: Any, height: int | None = None, width: int | None = None, what: str = "The JSON of cameras"
) -> tuple[Cameras, list[str]]:
    """Cameras from a parsed JSON object:

    "c2w" or "w2c": a list of 4x4 (or 3x4) matrices, row by row; "K": one 3x3 matrix, or one per pose, in pixels;
    "axes": of the cameras, "opencv" (x right, y down, z forward; the default) or "opengl" (x right, y up, z backward);
    "width", "height": of the image, here or as arguments; "names": optional.
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
    height, width = content.get("height", height), content.get("width", width)
    if not isinstance(height, int) or not isinstance(width, int):
        raise ValueError(f"{what} does not say how large the image is; add 'width' and 'height' in pixels.")
    if not isinstance(content[kind], list):
        raise ValueError(f"{what}: {kind!r} is not a list of 4x4 matrices.")
    poses = []
    for view, value in enumerate(content[kind]):
        matrix = pose(value, f"{what}: {kind} {view}")
        if kind == "w2c":
            matrix = inverse(matrix, f"{what}: w2c {view}")
        # OpenGL's camera axes are on the camera's side of either matrix.
        poses.append(matrix @ OPENGL if axes == "opengl" else matrix)
    try:
        K = torch.as_tensor(np.asarray(content.get("K"), dtype=np.float64))
    except (TypeError, ValueError, OverflowError):
        K = torch.empty(0)
    if K.ndim == 2:
        K = K.expand(len(poses), *K.shape)
    if tuple(K.shape) != (len(poses), 3, 3):
        raise ValueError(f"{what}: 'K' has to be one 3x3 matrix in pixels, or a list of {len(poses)}, one per pose.")
    names = content.get("names", [f"view_{view:02d}" for view in range(len(poses))])
    if not isinstance(names, list) or len(names) != len(poses):
        raise ValueError(f"{what}: 'names' has to be a list of {len(poses)} names, one per pose.")
    return assemble(what, poses, list(K), [(height, width)] * len(poses)), [str(name) for name in names]


# ComfyUI


def read_load3d(
    infos: Sequence[Mapping[str, Any]], height: int, width: int, world: Tensor = OPENGL
) -> tuple[Cameras, list[str]]:
    """ComfyUI's LOAD3D_CAMERA, one or more, for images of height x width.

    The viewer's world is right-handed with y up, its cameras look down -z. world (4, 4): the rigid transform from the
    cameras' world to the viewer's, as `geometry.gltf_transform` gives for an exported scene; the default turns y and z
    around. Without a quaternion the camera looks at its target, upright. zoom multiplies the focal length. The field of
    view is the vertical one: across, the image shows what its own shape does, whatever the viewer's `aspect`.
    Raises ValueError for an orthographic camera.
    """
    poses, intrinsics, names = [], [], []
    for view, info in enumerate(infos):
        what = f"3D camera {view}"
        if not isinstance(info, Mapping):
            raise ValueError(f"{what} is none; take it from a 3D node's camera output.")
        if str(info.get("cameraType", "perspective")).lower().startswith("ortho"):
            raise ValueError(f"{what} is orthographic; switch the 3D view to a perspective camera.")
        position = vector(info, "position", what)
        matrix = torch.eye(4, dtype=torch.float64)
        if info.get("quaternion"):
            matrix[:3, :3] = quaternion_to_rotation(vector(info, "quaternion", what, "xyzw"))
        else:
            matrix[:3, :3] = upright(position, vector(info, "target", what), what)
        matrix[:3, 3] = position
        fov = number(info.get("fov") or LOAD3D_FOV, f"The fov of {what}")
        if not 1e-6 < fov < 180:
            raise ValueError(f"{what} has a field of view of {fov} degrees; give one between 0 and 180.")
        fy = height / 2 / math.tan(math.radians(fov) / 2) * number(info.get("zoom") or 1, f"The zoom of {what}")
        fx = fy * number(info.get("pixel_aspect", 1), f"The pixel_aspect of {what}")
        middle = vector({"principal_point": {"x": 0.5, "y": 0.5}, **info}, "principal_point", what, "xy").tolist()
        intrinsics.append(pinhole(fx, fy, width * middle[0], height * middle[1]))
        poses.append(torch.linalg.inv(world.double()) @ matrix @ OPENGL)
        names.append(f"camera_{view:02d}")
    return assemble("The list of 3D cameras", poses, intrinsics, [(height, width)] * len(poses)), names


def vector(info: Mapping[str, Any], key: str, what: str, axes: str = "xyz") -> Tensor:
    """float64 from {"x": ..., ...}. ValueError where it is missing or not of finite numbers."""
    value = info.get(key)
    if not isinstance(value, Mapping) or any(axis not in value for axis in axes):
        raise ValueError(f"{what} has no {key} ({', '.join(axes)}); take it from a 3D node's camera output.")
    return torch.tensor([number(value[axis], f"The {key} of {what}") for axis in axes], dtype=torch.float64)


def upright(position: Tensor, target: Tensor, what: str) -> Tensor:
    """(3, 3) three.js axes of a camera at `position` looking at `target`, y up; straight up or down, x to the right."""
    backward = position - target
    if backward.norm() == 0:
        raise ValueError(f"{what} stands on its target, so it looks nowhere; move it away.")
    backward = backward / backward.norm()
    right = torch.linalg.cross(torch.tensor([0.0, 1, 0], dtype=torch.float64), backward)
    right = right / right.norm() if right.norm() > 1e-6 else torch.tensor([1.0, 0, 0], dtype=torch.float64)
    return torch.stack([right, torch.linalg.cross(backward, right), backward], dim=1)


def to_load3d(cameras: Cameras, distance: float = 1.0, world: Tensor = OPENGL) -> list[dict[str, Any]]:
    """Cameras -> LOAD3D_CAMERA dicts, whose target lies `distance` ahead. `world` as in `read_load3d`.

    What the type has no place for is added where it is needed: `pixel_aspect`, the focal length across as a share of
    that down, and `principal_point`, shares of width and height. `read_load3d` takes them, viewers leave them out (but
    `aspect` is theirs too). Raises ValueError for a K with skew.
    """
    H, W = cameras.height, cameras.width
    out = []
    for c2w, (fx, fy, cx, cy) in zip(cameras.c2w.double(), without_skew("a 3D camera", cameras.K), strict=True):
        matrix = world.double() @ c2w @ OPENGL
        position = matrix[:3, 3]
        info: dict[str, Any] = {
            "position": dict(zip("xyz", position.tolist(), strict=True)),
            "target": dict(zip("xyz", (position - distance * matrix[:3, 2]).tolist(), strict=True)),
            "quaternion": dict(zip("xyzw", rotation_to_quaternion(matrix[:3, :3]).tolist(), strict=True)),
            "fov": math.degrees(2 * math.atan(H / 2 / fy)),
            "aspect": (W / fx) / (H / fy),
            "zoom": 1,
            "cameraType": "perspective",
        }
        if abs(fx / fy - 1) > 1e-7:
            info["pixel_aspect"] = fx / fy
        if abs(cx / W - 0.5) > 1e-7 or abs(cy / H - 0.5) > 1e-7:
            info["principal_point"] = {"x": cx / W, "y": cy / H}
        out.append(info)
    return out


def read_da3_geometry(geometry: Mapping[str, Any]) -> tuple[Cameras, list[str]]:
    """ComfyUI's DA3_GEOMETRY: extrinsics (1, S, 3, 4) world-to-camera, intrinsics (1, S, 3, 3) in pixels of its depth
    (S, H, W).

    The core's own node may leave K in pixels of the size that the network worked at. Its principal points are that
    size's exact middle, a multiple of 14; such a K is scaled to the depth's size. Raises ValueError where there are no
    cameras, as from a single-view model, or tensors of other shapes.
    """
    what = "The DA3_GEOMETRY"
    if "extrinsics" not in geometry or "intrinsics" not in geometry:
        raise ValueError(f"{what} holds no cameras; use a multi-view Depth Anything 3 model.")
    for name, (dimensions, last) in {"depth": (3, ()), "extrinsics": (4, (4,)), "intrinsics": (4, (3, 3))}.items():
        value = geometry.get(name)
        shape = tuple(value.shape) if isinstance(value, Tensor) else ()
        if len(shape) != dimensions or shape[dimensions - len(last) :] != last or not all(shape):
            raise ValueError(f"{what} has {name} of shape {shape}; take it from a multi-view Depth Anything 3 node.")
    w2c, K = geometry["extrinsics"][0].double().cpu(), geometry["intrinsics"][0].double().cpu().clone()
    S, height, width = geometry["depth"].shape[:3]
    if len(w2c) != S or len(K) != S:
        raise ValueError(f"{what} has {S} depth maps but {len(w2c)} poses and {len(K)} intrinsics; give one of each.")
    middle = torch.tensor([width, height], dtype=torch.float64) / 2
    worked_at = 2 * K[0, :2, 2]
    common = (K[:, :2, 2] == K[0, :2, 2]).all() and (worked_at % PATCH == 0).all() and (worked_at > 0).all()
    if common:
        K[:, :2] *= (middle / K[0, :2, 2])[None, :, None]
    elif not ((K[:, :2, 2] / (2 * middle) - 0.5).abs() <= 0.5 - PRINCIPAL_RANGE[0]).all():
        raise ValueError(f"{what} has intrinsics of another image size than its depth of {width}x{height}; scale K.")
    c2w = []
    for view, matrix in enumerate(w2c):
        name = f"extrinsic {view} of the DA3_GEOMETRY"
        c2w.append(inverse(pose(matrix, name), name))
    return assemble(what, c2w, list(K), [(height, width)] * S), [f"view_{view:02d}" for view in range(S)]
