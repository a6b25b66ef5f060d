"""Results as the data sets that trainers of radiance fields and Gaussian splats start from. Whole folders, new ones."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..cameras import Cameras
from ..geometry.depth_maps import observations
from ..geometry.points import PointCloud, even_subset
from ..io.colmap import write_colmap
from ..io.files import atomic_folder, check_names
from ..io.images import write_png
from ..io.nerfstudio import write_transforms
from .ply import write_ply

# As many as a sparse reconstruction has; trainers take each for a Gaussian.
SPARSE_POINTS = 100_000


def write_colmap_dataset(
    folder: str | Path,
    names: Sequence[str],
    images: Tensor,
    depth: Tensor,
    keep: Tensor,
    cameras: Cameras,
    cloud: PointCloud,
    binary: bool = True,
) -> None:
    """images/<name>.png and sparse/0, a COLMAP model of PINHOLE cameras with points and which views see them.

    images (V, 3, H, W) in [0, 1], depth and keep (V, H, W) as in fusion.py. Of the cloud at most SPARSE_POINTS are
    taken, evenly over space. Raises FileExistsError where the folder exists, ValueError for a K with skew.
    """
    check_names(names, len(images))
    chosen = even_subset(cloud.xyz, SPARSE_POINTS)
    xyz, rgb = cloud.xyz[chosen], cloud.rgb[chosen]
    seen = observations(depth, keep, cameras, xyz)
    with atomic_folder(folder) as temporary:
        files = [f"{name}.png" for name in names]
        for file, image in zip(files, images, strict=True):
            write_png(temporary / "images" / file, image.nan_to_num(0))
        write_colmap(temporary / "sparse" / "0", cameras, files, xyz, rgb, binary, seen)


def write_nerfstudio_dataset(
    folder: str | Path, names: Sequence[str], images: Tensor, depth: Tensor, cameras: Cameras, cloud: PointCloud
) -> None:
    """images/<name>.png, depth/<name>.npy, points.ply and the transforms.json that names them all.

    Depth is float32 (H, W) in thousandths of the cameras' unit, nerfstudio's default, with 0 where there is none.
    images (V, 3, H, W) in [0, 1], depth (V, H, W). Raises FileExistsError where the folder exists.
    https://docs.nerf.studio/quickstart/data_conventions.html
    """
    check_names(names, len(images))
    with atomic_folder(folder) as temporary:
        (temporary / "depth").mkdir()
        files: list[dict[str, object]] = []
        for name, image, view in zip(names, images, depth, strict=True):
            frame = {"file_path": f"images/{name}.png", "depth_file_path": f"depth/{name}.npy"}
            write_png(temporary / frame["file_path"], image.nan_to_num(0))
            millis = 1000 * view.detach().float().cpu()
            known = torch.isfinite(millis) & (millis > 0)
            np.save(temporary / frame["depth_file_path"], torch.where(known, millis, 0).numpy())
            files.append({**frame})
        write_ply(temporary / "points.ply", cloud.xyz, cloud.rgb, cloud.normals)
        write_transforms(temporary / "transforms.json", cameras, files, ply_file_path="points.ply")
