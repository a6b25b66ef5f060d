"""Reads photographs and cameras from whatever people have, told apart by what is in it (docs/formats.md)."""

import os
import re
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from ..cameras import Cameras
from .arrays import array_names, read_depth_anything, read_llff
from .colmap import PINHOLES, colmap_folder, image_of, read_colmap
from .files import natural_order
from .matrices import read_matrices
from .nerfstudio import read_camera_path, read_gaussian_splatting, read_transforms
from .parsing import load_json, read_bounded
from .phones import is_polycam, is_record3d, polycam_cameras, read_polycam, read_record3d
from .photogrammetry import (
    is_opensfm,
    is_reality_capture,
    parse_xml,
    read_bundler,
    read_metashape,
    read_opensfm,
    read_reality_capture,
)
from .photographs import Photographs, is_picture
from .posed_folders import is_posed_folder, read_posed_folder
from .realestate10k import read_realestate10k
from .scenes import Given, Scene, Size, View
from .trajectories import read_kitti, read_tum

# Files that make a folder a scene, in this order, after a COLMAP model, transforms.json and .npz cameras.
IN_FOLDERS = (
    "transforms_train.json", "cameras.json", "metadata.json", "poses_bounds.npy", "reconstruction.json",
    "opensfm/reconstruction.json", "results.npz", "exports/npz/results.npz", "exports/mini_npz/results.npz",
    "bundle.out", "bundle/bundle.out", "groundtruth.txt", "poses.txt", "camera_path.json",
)  # fmt: skip
# Folders of camera files, beside which their pictures may lie.
INSIDE = ("sparse", "colmap", "dense", "model", "opensfm", "bundle", "cameras", "corrected_cameras")
# Folders of .npz cameras have always been fitted.
POSED_SIDE = 504
# Bytes of a file by which it is told apart.
BEGINNING = 16_384
# What is known and not read, by the end of the file's name, and how to make something of it that is.
ELSEWHERE = {
    (".psx", ".psz"): "a project of Metashape; export its cameras there (File, Export, Cameras, Agisoft XML)",
    (
        ".rcproj",
        ".rsproj",
    ): "a project of RealityCapture; export its registration as CSV (internal/external parameters)",
    (".nvm", ".nvm.gz"): "a model of VisualSFM; open it with COLMAP (Import model) and save it as a COLMAP model",
    (".sfm", ".abc"): "a scene of Meshroom or Alembic; export it from Meshroom to COLMAP (node ExportColmap)",
    (".p4d", ".p4s"): "a project of Pix4D; export undistorted pictures and read them with COLMAP",
    (".blend", ".fbx", ".usd", ".usda", ".usdc", ".usdz", ".ma", ".mb", ".c4d", ".max"): (
        "a scene of a 3D program; write its cameras as transforms.json, in Blender with the add-on BlenderNeRF"
    ),
    (".db",): "COLMAP's database of features; give the folder with the model that COLMAP's mapper writes (sparse/0)",
    (".r3d",): "a recording of Record3D; export it there as EXR + RGB sequence, which writes metadata.json",
    (".mp4", ".mov", ".mkv", ".avi", ".webm"): "a video; save single frames as pictures and give their folder",
    (".ply", ".splat", ".spz", ".obj", ".glb", ".gltf", ".las", ".laz", ".e57"): (
        "a model or a point cloud without cameras; give the file of cameras that came with it"
    ),
    (".bag", ".db3", ".mcap"): "a recording of ROS; export its poses as a TUM trajectory (evo_traj --save_as_tum)",
}


def read_scene(
    path: str | Path,
    long_side: int | None = 504,
    size: Size | None = None,
    fov: float | None = None,
    ignore_distortion: bool = False,
) -> Scene:
    """Photographs and cameras of a photograph, a folder of photographs, or a file or folder in any format that
    docs/formats.md lists. No picture is decoded: `Scene` says how to go on.

    long_side: of fitted pictures, a multiple of 14 (None: as they are, but 504 for a folder of .npz cameras). size:
    height and width of the images, where neither file nor pictures say. fov: horizontal field of view in degrees, for
    files of poses without lenses. ignore_distortion: take lenses with distortion as if they had none.

    Raises ValueError, in a sentence, for what cannot be read at all; a view that cannot be used has its sentence in
    `problem` and leaves the others alone.
    """
    path = Path(path)
    given = Given(size, fov, ignore_distortion)
    if not path.is_file() and not path.is_dir():
        raise ValueError(f"{path} does not exist; give a photograph, or a file or folder of cameras.")
    views, known_size, tops = read_folder(path, given) if path.is_dir() else read_file(path, given)
    searched = attach_pictures(views, tops)
    # A name that no file can have is none's: pathlib raises for those.
    if long_side is None and tops == [path] and views and os.path.isfile(path / f"{views[0].name}.npz"):
        long_side = POSED_SIDE
    return Scene(path, views, long_side, size or known_size, searched)


# Views, the size of their images where the file says one for all, and folders to look for their pictures in, in turn.
Found = tuple[list[View], Size | None, list[Path]]


def attach_pictures(views: Sequence[View], tops: Sequence[Path]) -> Path | None:
    """Give each view without a picture its own, from the first folder that has any; the folder."""
    waiting = [view for view in views if view.picture is None and not view.problem]
    for top in tops if waiting else []:
        found = Photographs(top).match([view.name for view in waiting])
        if any(found):
            for view, picture in zip(waiting, found, strict=True):
                view.picture = picture
            return top
    return tops[-1] if tops else None


def around(folder: Path, limit: Path | None = None) -> list[Path]:
    """The folder, and those around it as far as it lies in folders of camera files (INSIDE), not beyond `limit`."""
    out = [folder]
    while (out[-1].name.lower() in INSIDE or re.fullmatch(r"\d{1,2}", out[-1].name)) and out[-1] != limit:
        out.append(out[-1].parent)
        if len(out) == 4:
            break
    return out


def camera_source(folder: Path) -> Path | None:
    """What in a folder holds its cameras, the folder itself for .npz cameras; None where nothing does. Files are told
    apart by their names and beginnings.
    """
    model = colmap_folder(folder)
    if model is not None:
        return model
    if (folder / "transforms.json").is_file():
        return folder / "transforms.json"
    if is_posed_folder(folder) and not (folder / "results.npz").is_file():
        return folder
    for name in IN_FOLDERS:
        path = folder / name
        if path.is_file() and (name != "metadata.json" or b'"poses"' in read_bounded(path)):
            return path
    cameras = polycam_cameras(folder)
    if cameras is not None:
        return cameras
    for suffix, fits in ((".xml", is_metashape), (".csv", is_reality_capture_file), (".txt", is_trajectory)):
        found = [path for path in folder.iterdir() if path.suffix.lower() == suffix and path.is_file() and fits(path)]
        if len(found) == 1:
            return found[0]
    return None


def find_scenes(path: Path) -> list[Path]:
    """The path itself where it is a file, or a folder with cameras or with pictures alone; else the scenes in the
    folder, also RealEstate10K's .txt files, in natural order. ValueError where there is none.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist; give a scene, or a folder of scenes.")
    if not path.is_dir() or camera_source(path) is not None:
        return [path]
    texts = [file for file in path.glob("*.txt") if file.is_file() and columns(file) == 19]
    frames = {file.with_suffix("") for file in texts}
    folders = [folder for folder in path.iterdir() if folder.is_dir() and folder not in frames]
    found = [*texts, *(folder for folder in folders if camera_source(folder) is not None)]
    if not found and any(is_picture(file.name) for file in path.iterdir()):
        return [path]
    if not found:
        raise ValueError(
            f"{path} and the folders in it hold no cameras that can be read; docs/formats.md lists the formats."
        )
    return sorted(found, key=lambda scene: natural_order(scene.name))


# Ends of camera files, and folders that have them in them.
CAMERA_ENDS = (".json", ".txt", ".bin", ".npz", ".npy", ".xml", ".csv", ".out")
PROJECT_FOLDERS = {"sparse", "colmap", "dense", "0", "model", "opensfm", "exports", "bundle", "keyframes", "cameras"}
# Folders that are looked through for scenes, and files whose changes count.
MOST_FOLDERS, MOST_FILES = 2_000, 20_000


def find_folders(top: Path) -> list[Path]:
    """Folders in `top`, however deep, that `read_scene` reads: those with cameras, whose own folders are not looked
    through, and those with pictures alone, but not `top` itself for its pictures.
    """
    found = []
    for name, folders, files in islice(os.walk(top), MOST_FOLDERS):
        folder = Path(name)
        folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
        likely = any(file.lower().endswith(CAMERA_ENDS) for file in files) or not PROJECT_FOLDERS.isdisjoint(folders)
        if likely and camera_source(folder) is not None:
            found.append(folder)
            if folder != top:
                folders.clear()
        elif folder != top and any(map(is_picture, files)):
            found.append(folder)
    return found


def files_in(path: Path) -> list[Path]:
    """All files of a scene, as far as MOST_FILES go; not links that lead nowhere, and not pipes."""
    if path.is_file():
        return [path]
    walked = (Path(folder) / name for folder, _, files in os.walk(path) for name in sorted(files))
    return list(filter(Path.is_file, islice(walked, MOST_FILES)))


def read_folder(folder: Path, given: Given) -> Found:
    source = camera_source(folder)
    if source == folder and is_posed_folder(folder):
        return read_posed_folder(folder), None, [folder]
    if source is not None and colmap_folder(source) == source:
        return read_colmap(source, given.ignore_distortion), None, around(source, folder if source != folder else None)
    if source is not None and source.is_dir():
        return read_polycam_folder(source)
    if source is not None:
        views, size, tops = read_file(source, given)
        return views, size, [*tops, folder] if folder not in tops else tops
    pictures = list(Photographs(folder))
    if not pictures:
        raise ValueError(
            f"{folder} has 0 views: neither pictures nor cameras that can be read are in it; docs/formats.md lists "
            "what can be read."
        )
    return [View(picture.relative_to(folder).as_posix(), picture=picture) for picture in pictures], None, []


def read_polycam_folder(cameras: Path) -> Found:
    views = read_polycam(cameras)
    images = cameras.with_name(cameras.name.replace("cameras", "images"))
    return views, None, [images] if images.is_dir() else around(cameras)


def beginning(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(BEGINNING).removeprefix(b"\xef\xbb\xbf")


def first_lines(path: Path) -> list[str]:
    """Lines that are whole in the file's beginning and hold more than a comment."""
    data = beginning(path)
    lines = data.decode("utf-8", "replace").splitlines()
    whole = lines if len(data) < BEGINNING else lines[:-1]
    return [line.strip() for line in whole if line.strip() and not line.lstrip().startswith("#")]


def is_metashape(path: Path) -> bool:
    return b"<document" in beginning(path) and b"<chunk" in beginning(path)


def is_reality_capture_file(path: Path) -> bool:
    return is_reality_capture(beginning(path).decode("utf-8", "replace").partition("\n")[0])


def columns(path: Path) -> int:
    """Of a table of numbers in text, its columns: 19 of RealEstate10K, 12 of KITTI, 8 of TUM; 0 where it is none."""
    lines = first_lines(path)
    if lines and len(lines[0].split()) == 1:
        lines = lines[1:]
    if not lines:
        return 0
    values = lines[0].split()
    try:
        for value in values:
            float(value)
    except ValueError:
        return 0
    return len(values)


def is_trajectory(path: Path) -> bool:
    return columns(path) in (8, 12)


def is_colmap_text(path: Path) -> bool:
    """cameras.txt, images.txt or points3D.txt, by name or by content."""
    if path.stem.lower() in ("cameras", "images", "points3d"):
        return True
    lines = first_lines(path)
    values = lines[0].split() if lines else []
    return len(values) > 4 and (values[1] in PINHOLES or image_of(lines[0]) is not None)


def read_file(path: Path, given: Given) -> Found:
    data, name, tops = beginning(path), path.name.lower(), around(path.parent)
    for ends, what in ELSEWHERE.items():
        if name.endswith(ends):
            raise ValueError(f"{path} is {what}.")
    if is_picture(path.name):
        return [View(path.name, picture=path)], None, []
    if data.startswith(b"PK"):
        return read_npz(path)
    if data.startswith(b"\x93NUMPY"):
        return in_order(read_llff(path), path.parent)
    if path.suffix.lower() == ".bin" or (path.suffix.lower() == ".txt" and is_colmap_text(path)):
        model = colmap_folder(path.parent)
        if model != path.parent:
            raise ValueError(
                f"{path} is one file of a COLMAP model; put cameras and images, both .bin or both .txt, side by side."
            )
        return read_colmap(model, given.ignore_distortion), None, around(model)
    text = data.lstrip()
    if text.startswith(b"<"):
        return read_metashape(parse_xml(path), path, given), None, tops
    if text.startswith((b"{", b"[")) or path.suffix.lower() == ".json":
        return read_json(path, given, tops)
    if text.startswith(b"# Bundle file"):
        return read_bundler(path, given), None, tops
    if is_reality_capture_file(path):
        return read_reality_capture(path, given), None, tops
    table: dict[int, Callable[[], Found]] = {
        19: lambda: (read_realestate10k(path), None, beside(path)),
        12: lambda: (read_kitti(path, given, Photographs(path.parent)), None, []),
        8: lambda: (read_tum(path, given, Photographs(path.parent)), None, []),
    }
    found = columns(path)
    if found in table:
        return table[found]()
    if found and path.suffix.lower() == ".txt":
        raise ValueError(
            f"{path} has {found} numbers a line; a path of cameras has 19 (RealEstate10K), 12 (KITTI) or 8 (TUM)."
        )
    raise ValueError(
        f"{path} is no file of cameras that is known; docs/formats.md lists what can be read, such as a COLMAP "
        "model or a transforms.json."
    )


def beside(path: Path) -> list[Path]:
    """Frames of a RealEstate10K video lie in a folder of the file's name."""
    return [path.with_suffix("")] if path.with_suffix("").is_dir() else [path.parent]


def read_npz(path: Path) -> Found:
    names = array_names(path)
    if {"extrinsics", "intrinsics", "depth"} <= names:
        views, size = read_depth_anything(path)
        return views, size, []
    if "pose" in names:
        raise ValueError(f"{path} is the camera of one view; give the folder that it lies in.")
    raise ValueError(
        f"{path} holds no cameras ('pose' and 'intrinsic', or those of Depth Anything 3); give another file."
    )


def in_order(views: list[View], folder: Path) -> Found:
    """LLFF's views with the pictures of the folder in natural order, of which there have to be as many."""
    top = next((folder / name for name in ("images", "images_4", "images_8") if (folder / name).is_dir()), folder)
    pictures = list(Photographs(top))
    if pictures and len(pictures) != len(views):
        raise ValueError(
            f"{folder} has {len(views)} poses in poses_bounds.npy and {len(pictures)} pictures in {top}; give the "
            "pictures that the poses are of, one each."
        )
    for view, picture in zip(views, pictures, strict=False):
        view.name, view.picture = picture.stem, picture
    return views, None, []


def read_json(path: Path, given: Given, tops: list[Path]) -> Found:
    content = load_json(path)
    if is_opensfm(content):
        return read_opensfm(content, path, given), None, tops
    if isinstance(content, list) and content and isinstance(content[0], dict) and "position" in content[0]:
        return read_gaussian_splatting(content, path), None, tops
    if is_polycam(content):
        return read_polycam_folder(path.parent)
    if is_record3d(content):
        return (
            read_record3d(content, path),
            None,
            [path.parent / "rgb", *tops] if (path.parent / "rgb").is_dir() else tops,
        )
    if isinstance(content, dict) and "frames" in content:
        return read_transforms(content, path, given), None, tops
    if isinstance(content, dict) and "camera_path" in content:
        return read_camera_path(content, path), None, []
    if isinstance(content, dict) and {"views", "intrinsics"} <= content.keys():
        raise ValueError(
            f"{path} is a scene of OpenMVG or Meshroom; convert it to COLMAP (openMVG_main_openMVG2Colmap, or "
            "Meshroom's node ExportColmap)."
        )
    return read_matrices(content, str(path), given), given.size, tops


def read_cameras(
    path: str | Path, height: int | None = None, width: int | None = None, ignore_distortion: bool = False
) -> tuple[Cameras, list[str]]:
    """Cameras alone, and the views' names, of what `read_scene` reads, unfitted: those of all views that can be used.

    height, width: of the images, where neither the file nor its pictures say.
    """
    size = None if height is None or width is None else (height, width)
    scene = read_scene(path, None, size, ignore_distortion=ignore_distortion)
    numbers = scene.all()
    return scene.cameras_of(numbers), [scene.views[number].name for number in numbers]
