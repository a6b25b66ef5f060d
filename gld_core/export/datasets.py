"""Results as the data sets that trainers of radiance fields and Gaussian splats start from. Whole folders, new ones.

Both formats hold a mask per picture in masks/, the name that Brush looks for and that transforms.json gives as
mask_path: white where a photograph is, and in generated views the share of the views that agree about the depth of the
pixel, black where most of them do not or where there is no depth that counts.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..cameras.conventions import nearest_pinhole
from ..geometry.depth_maps import PosedDepth, Progress, agreement, observations
from ..geometry.points import PointCloud, even_subset
from ..io.colmap import write_colmap
from ..io.files import atomic_folder, check_names
from ..io.images import write_png
from ..io.nerfstudio import write_transforms
from .pictures import DEPTH_STEP
from .ply import write_ply

# As many as a sparse reconstruction has; trainers take each for a Gaussian.
SPARSE_POINTS = 100_000
# Generated pixels about which fewer of the views agree are left to the other views.
AGREED = 0.5


def masks(scene: PosedDepth, photographs: int, progress: Progress | None = None) -> Tensor:
    """(V, H, W) float32 in [0, 1], how far trainers should trust the pictures: 1 for the first `photographs` views;
    for the others, which were generated, the consistency of their depth, and 0 where it is below AGREED.
    progress(views, views in all)."""
    consistency = agreement(scene, progress=progress).consistency
    weight = torch.where(torch.isfinite(scene.inverse) & (consistency >= AGREED), consistency, 0)
    weight[:photographs] = 1
    return weight


def write_mask(path: Path, mask: Tensor) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray((mask * 255).round().byte().numpy()).save(path, format="PNG")


def write_colmap_dataset(
    folder: str | Path,
    names: Sequence[str],
    scene: PosedDepth,
    cloud: PointCloud,
    binary: bool = True,
    photographs: int = 0,
    progress: Progress | None = None,
) -> float:
    """images/<name>.png, masks/<name>.png and sparse/0, a COLMAP model of PINHOLE cameras with points and which views
    see them.

    The first `photographs` pictures are photographs, the others were generated. Of the cloud at most SPARSE_POINTS are
    taken, evenly over space. progress(pictures written, pictures). Returns how far the cameras written are from the
    scene's, in pixels: `nearest_pinhole`. Raises FileExistsError where the folder exists.
    """
    check_names(names, len(scene))
    cameras, error = nearest_pinhole(scene.cameras)
    chosen = even_subset(cloud.xyz, SPARSE_POINTS)
    xyz, rgb = cloud.xyz[chosen], cloud.rgb[chosen]
    seen = observations(replace(scene, cameras=cameras), xyz)
    weights = masks(scene, photographs, progress)
    with atomic_folder(folder) as temporary:
        files = [f"{name}.png" for name in names]
        for view, file in enumerate(files):
            write_png(temporary / "images" / file, scene.picture(view))
            write_mask(temporary / "masks" / file, weights[view])
            if progress is not None:
                progress(view + 1, len(files))
        write_colmap(temporary / "sparse" / "0", cameras, files, xyz, rgb, binary, seen)
    return error


def write_nerfstudio_dataset(
    folder: str | Path,
    names: Sequence[str],
    scene: PosedDepth,
    cloud: PointCloud,
    photographs: int = 0,
    progress: Progress | None = None,
) -> float:
    """images/<name>.png, depth/<name>.npy, masks/<name>.png, points.ply and the transforms.json that names them all.

    The first `photographs` pictures are photographs, the others were generated, as each frame's own "generated" says.
    Depth is float32 (H, W) in thousandths of the cameras' unit, nerfstudio's default, with 0 where it does not count.
    Of the cloud at most SPARSE_POINTS are taken, evenly over space. progress(pictures written, pictures). Returns how
    far the cameras written are from the scene's, in pixels: `nearest_pinhole`. Raises FileExistsError where the folder
    exists.
    https://docs.nerf.studio/quickstart/data_conventions.html
    """
    check_names(names, len(scene))
    cameras, error = nearest_pinhole(scene.cameras)
    chosen = even_subset(cloud.xyz, SPARSE_POINTS)
    normals = None if cloud.normals is None else cloud.normals[chosen]
    xyz = cameras.world_points(cloud.xyz[chosen])
    weights = masks(scene, photographs, progress)
    with atomic_folder(folder) as temporary:
        (temporary / "depth").mkdir()
        files: list[dict[str, object]] = []
        for view, name in enumerate(names):
            paths = {
                "file_path": f"images/{name}.png",
                "mask_path": f"masks/{name}.png",
                "depth_file_path": f"depth/{name}.npy",
            }
            write_png(temporary / paths["file_path"], scene.picture(view))
            write_mask(temporary / paths["mask_path"], weights[view])
            depth = (1 / DEPTH_STEP / scene.inverse[view].double()).nan_to_num(0).float()
            np.save(temporary / paths["depth_file_path"], depth.numpy())
            files.append({**paths, "generated": view >= photographs})
            if progress is not None:
                progress(view + 1, len(names))
        write_ply(temporary / "points.ply", xyz, cloud.rgb[chosen], normals)
        write_transforms(temporary / "transforms.json", cameras, files, ply_file_path="points.ply")
    return error
