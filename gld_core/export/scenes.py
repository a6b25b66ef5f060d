"""A whole scene, decoded, as the files that people ask for by name. The nodes and the command line write the same."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cameras import Cameras
from ..geometry.depth_maps import PosedDepth, Progress, agreement, confidence_threshold, usable
from ..geometry.mesh import Mesh, atlas, fuse_mesh, view_meshes
from ..geometry.points import Pause, PointCloud, even_subset, fuse_points, go_on, point_cloud
from ..geometry.splats import GENERATED, Splats, make_splats, refine, transformed
from ..io.files import atomic
from ..io.images import to_bytes
from .datasets import masks, write_colmap_dataset, write_nerfstudio_dataset
from .gltf import Lines, camera_frusta, gltf_transform, scene_diagonal, write_glb
from .ply import ply_bytes, splat_ply_bytes

KINDS = ("released points", "points", "mesh", "textured mesh")
AXES = ("upright", "upright, Z up", "cameras")
# (x, y, z) with y up to (x, -z, y) with z up.
Z_UP = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)


def select(
    depth: Tensor,
    confidence: Tensor,
    images: Tensor,
    cameras: Cameras,
    min_confidence: float,
    keep_at_least: float,
    confirmed_by: int,
    progress: Progress | None = None,
) -> PosedDepth:
    """Depth (V, H, W) and images (V, 3, H, W) of posed views, with the pixels that count: confidence is at least
    min_confidence, or among the keep_at_least percent most confident; and `confirmed_by` other views see the point at
    the same depth. ValueError where no pixel is left.
    """
    keep = usable(depth, confidence, confidence_threshold(confidence, min_confidence, 0, 100 - keep_at_least))
    if not keep.any():
        raise ValueError(
            "The input 'geometry' has no usable depth: all of it is negative, infinite or without confidence; decode "
            "it again."
        )
    maps = PosedDepth(depth, cameras, keep, images)
    if confirmed_by:
        keep = keep & (agreement(maps, progress=progress).confirmed >= confirmed_by)
        if not keep.any():
            raise ValueError(f"No point is confirmed by {confirmed_by} other views; lower 'confirmed_by'.")
        maps = replace(maps, keep=keep)
    return maps


def with_photographs(maps: PosedDepth, photographs: Tensor | None) -> PosedDepth:
    """The same with photographs (N, 3, H, W) in place of the first N pictures."""
    if photographs is None:
        return maps
    images = images_of(maps)
    return replace(maps, images=torch.cat([photographs.to(images), images[len(photographs) :]]))


def images_of(maps: PosedDepth) -> Tensor:
    assert maps.images is not None
    return maps.images


def glb_parts(
    maps: PosedDepth, kind: str, voxel: float, max_points: int, progress: Progress | None = None
) -> list[PointCloud | Mesh]:
    """What a GLB of this kind (one of KINDS) shows. voxel: in the cameras' unit, 0: as fine as the pixels."""
    if kind == "released points":
        clouds = []
        for view in range(len(maps)):
            one = slice(view, view + 1)
            counts, camera = torch.isfinite(maps.inverse[one]), maps.cameras[one]
            clouds.append(point_cloud(maps.depth[one], counts, images_of(maps)[one], camera.K, camera.c2w, 1))
            if progress is not None:
                progress(view + 1, len(maps))
        points, colors = map(torch.cat, zip(*clouds, strict=True))
        chosen = even_subset(points, max_points, partial(progress, len(maps), len(maps)) if progress else go_on)
        return [PointCloud(points[chosen], colors[chosen])]
    if kind == "points":
        return [fuse_points(maps, max_points, voxel or None, progress)]
    if kind == "mesh":
        return [fuse_mesh(maps, max_points, voxel or None, progress)]
    parts = list(view_meshes(maps, max_points, progress=progress))
    return [atlas(parts)] if parts else []


def write_scene_glb(
    path: str | Path,
    maps: PosedDepth,
    parts: list[PointCloud | Mesh],
    sources: int,
    show_cameras: bool,
    compact: bool = False,
    page: bool = False,
) -> None:
    """The parts of `glb_parts` upright and centred, as the first view sees them. show_cameras: as wire pyramids.
    compact, page: as in `glb_bytes`."""
    points = torch.cat([torch.empty(0, 3), *(part.xyz for part in parts)])
    shown: list[PointCloud | Mesh | Lines] = list(parts)
    if show_cameras:
        shown.append(camera_frusta(maps.cameras, 0.03 * scene_diagonal(points), sources))
    write_glb(path, shown, gltf_transform(points, maps.cameras.w2c[0]), maps.cameras, sources, compact, page)


def scene_ply(maps: PosedDepth, cloud: PointCloud, axes: str) -> bytes:
    """A binary PLY of fused points. axes: one of AXES."""
    xyz, normals = cloud.xyz, cloud.normals
    assert normals is not None
    if axes != "cameras":
        matrix = gltf_transform(xyz, maps.cameras.w2c[0])
        if axes == "upright, Z up":
            matrix = Z_UP @ matrix
        xyz = (xyz.double() @ matrix[:3, :3].T + matrix[:3, 3]).float()
        normals = (normals.double() @ matrix[:3, :3].T).float()
    else:
        xyz = maps.cameras.world_points(xyz)
    return ply_bytes(xyz, cloud.rgb, normals)


def scene_splats(
    maps: PosedDepth,
    sources: int,
    maximum: int,
    steps: int,
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
    callback: Callable[[int, int, Splats], None] | None = None,
    pause: Pause = go_on,
) -> Splats:
    """Splats in the cameras' world, fitted in `steps` to the pictures, of which the first `sources` are photographs and
    count more. callback and pause as in `refine`.
    """
    splats = make_splats(maps, sources, maximum, progress)
    if not steps:
        return splats
    weights = masks(maps, sources, progress)
    weights[sources:] *= GENERATED if sources else 1
    pictures = torch.stack([maps.picture(view) for view in range(len(maps))])
    return refine(splats, pictures, maps.cameras, weights, steps, device=device, callback=callback, pause=pause)


def video_package() -> ModuleType:
    """PyAV. ValueError where it is not installed."""
    try:
        return import_module("av")
    except ImportError:
        raise ValueError("The export video needs the package av; install it with: pip install av") from None


def write_video(path: str | Path, images: Tensor, fps: int) -> None:
    """(V, 3, H, W) images in [0, 1] -> an H.264 .mp4. Width and height are cut to even numbers, which H.264 needs.
    ValueError where the package av is not installed.
    """
    av: Any = video_package()
    with atomic(path) as temporary, av.open(str(temporary), "w", format="mp4") as file:
        stream: Any = file.add_stream("libx264", rate=fps, options={"crf": "12"})
        stream.height, stream.width = (side // 2 * 2 for side in images.shape[2:])
        stream.pix_fmt = "yuv420p"
        for image in images:
            pixels = np.ascontiguousarray(to_bytes(image)[: stream.height, : stream.width])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())


@dataclass(frozen=True)
class Decoded:
    """V decoded views, sources first: names, cameras, rgb (V, 3, H, W) in [0, 1], depth and confidence (V, H, W), and
    the sources' photographs (N, 3, H, W)."""

    names: list[str]
    cameras: Cameras
    rgb: Tensor
    depth: Tensor
    confidence: Tensor
    photographs: Tensor

    @property
    def sources(self) -> int:
        return len(self.photographs)

    def maps(self, job: Any) -> PosedDepth:
        """`select` with a job's settings. ValueError where no depth is as confident as they ask for, of which the most
        confident point would be left."""
        if not job.keep_at_least and not (self.confidence >= job.min_confidence).any():
            raise ValueError(
                f"No depth has the confidence {job.min_confidence:g} that 'min_confidence' asks for, the highest is "
                f"{self.confidence.max():.3g}; lower it, or set 'keep_at_least'."
            )
        return select(
            self.depth, self.confidence, torch.cat([self.photographs, self.rgb[self.sources :]]), self.cameras,
            job.min_confidence, job.keep_at_least, job.confirmed_by,
        )  # fmt: skip


def export_glb(folder: Path, scene: Decoded, job: Any) -> None:
    maps = scene.maps(job)
    parts = glb_parts(maps, job.kind, job.voxel, job.max_points)
    write_scene_glb(folder / "scene.glb", maps, parts, scene.sources, job.show_cameras, job.compact)


def export_ply(folder: Path, scene: Decoded, job: Any) -> None:
    maps = scene.maps(job)
    with atomic(folder / "scene.ply") as temporary:
        temporary.write_bytes(scene_ply(maps, fuse_points(maps, job.max_points, job.voxel or None), job.axes))


def export_colmap(folder: Path, scene: Decoded, job: Any) -> None:
    maps = scene.maps(job)
    write_colmap_dataset(
        folder / "colmap", scene.names, maps, fuse_points(maps, job.max_points), photographs=scene.sources
    )


def export_nerfstudio(folder: Path, scene: Decoded, job: Any) -> None:
    maps = scene.maps(job)
    write_nerfstudio_dataset(
        folder / "nerfstudio", scene.names, maps, fuse_points(maps, job.max_points), photographs=scene.sources
    )


def export_video(folder: Path, scene: Decoded, job: Any) -> None:
    write_video(folder / "views.mp4", scene.rgb[scene.sources :], job.fps)


def export_splats(folder: Path, scene: Decoded, job: Any) -> None:
    maps = scene.maps(job)
    splats = scene_splats(maps, scene.sources, job.max_points, job.splat_steps)
    with atomic(folder / "splats.ply") as temporary:
        temporary.write_bytes(splat_ply_bytes(transformed(splats, maps.cameras.w2c[0].double())))


# What a job's `export` may name; each writes into the scene's folder.
EXPORTS: dict[str, Callable[[Path, Decoded, Any], None]] = {
    "glb": export_glb,
    "ply": export_ply,
    "colmap": export_colmap,
    "nerfstudio": export_nerfstudio,
    "splats": export_splats,
    "video": export_video,
}
