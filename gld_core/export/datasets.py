"""Results as the data sets that trainers of radiance fields and Gaussian splats start from. Whole folders, new ones."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..geometry.depth_maps import PosedDepth, observations
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
    scene: PosedDepth,
    cloud: PointCloud,
    binary: bool = True,
) -> None:
    """images/<name>.png and sparse/0, a COLMAP model of PINHOLE cameras with points and which views see them.

    Of the cloud at most SPARSE_POINTS are taken, evenly over space. Raises FileExistsError where the folder exists,
    ValueError for a K with skew.
    """
    check_names(names, len(scene))
    chosen = even_subset(cloud.xyz, SPARSE_POINTS)
    xyz, rgb = cloud.xyz[chosen], cloud.rgb[chosen]
    seen = observations(scene, xyz)
    with atomic_folder(folder) as temporary:
        files = [f"{name}.png" for name in names]
        for view, file in enumerate(files):
            write_png(temporary / "images" / file, scene.picture(view))
        write_colmap(temporary / "sparse" / "0", scene.cameras, files, xyz, rgb, binary, seen)


def write_nerfstudio_dataset(folder: str | Path, names: Sequence[str], scene: PosedDepth, cloud: PointCloud) -> None:
    """images/<name>.png, depth/<name>.npy, points.ply and the transforms.json that names them all.

    Depth is float32 (H, W) in thousandths of the cameras' unit, nerfstudio's default, with 0 where there is none.
    Raises FileExistsError where the folder exists.
    https://docs.nerf.studio/quickstart/data_conventions.html
    """
    check_names(names, len(scene))
    with atomic_folder(folder) as temporary:
        (temporary / "depth").mkdir()
        files: list[dict[str, object]] = []
        for view, name in enumerate(names):
            frame = {"file_path": f"images/{name}.png", "depth_file_path": f"depth/{name}.npy"}
            write_png(temporary / frame["file_path"], scene.picture(view))
            millis = 1000 * scene.depth[view].detach().float().cpu()
            known = torch.isfinite(millis) & (millis > 0)
            np.save(temporary / frame["depth_file_path"], torch.where(known, millis, 0).numpy())
            files.append({**frame})
        # Far from the world's origin float32 would move the points away from the cameras.
        xyz = cloud.xyz.double() + scene.cameras.origin if scene.cameras.origin.any() else cloud.xyz
        write_ply(temporary / "points.ply", xyz, cloud.rgb, cloud.normals)
        write_transforms(temporary / "transforms.json", scene.cameras, files, ply_file_path="points.ply")
