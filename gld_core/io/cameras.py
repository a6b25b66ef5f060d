"""Reads cameras from any of the supported files."""

from pathlib import Path

from ..cameras import Cameras
from .colmap import colmap_folder, read_colmap
from .matrices import parse_matrices
from .nerfstudio import read_transforms
from .parsing import load_json
from .posed_folders import read_scene
from .realestate10k import read_realestate10k


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
