"""A camera path for the video models that ComfyUI runs."""

from dataclasses import replace

import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..gld_core.cameras import Cameras
from ..gld_core.cameras.conventions import check_scene
from ..gld_core.cameras.motions import join, resampled, scene_depth
from ..gld_core.geometry.depth_maps import PosedDepth, usable
from ..gld_core.geometry.reprojection import reproject
from ..gld_core.io.comfyui import wan_camera_embedding
from ..gld_core.io.images import fit_camera
from . import host
from .place import check_sizes, source_count
from .sockets import (
    GLDCameras,
    fitted_geometry,
    seen_confidence_input,
    source_geometry_input,
    source_photographs,
    sources_geometry,
)

# Of camera_embedding.
MOST_BYTES = 16 * 2**30
# What Uni3C was trained to see where there is no point.
GREY = (0.5, 0.5, 0.5)


class GLDVideoCameras(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDVideoCameras",
            display_name="GLD Cameras for Video Models",
            category="GLD",
            description="Gives a camera path to a video model: as the camera embedding of Wan's camera control models, "
            "and as the pictures of the sources' surfaces that Uni3C takes.",
            search_aliases=["wan", "uni3c", "camera control", "camera embedding", "image to video", "plucker"],
            inputs=[
                GLDCameras.Input(
                    "cameras",
                    tooltip="The cameras of the sources, then those of the targets, for example from Move GLD Camera.",
                ),
                io.Int.Input("width", default=832, min=16, max=4096, step=16, tooltip="Width of the video in pixels."),
                io.Int.Input(
                    "height", default=480, min=16, max=4096, step=16, tooltip="Height of the video in pixels."
                ),
                io.Int.Input(
                    "length",
                    default=81,
                    min=1,
                    max=1001,
                    step=4,
                    tooltip="Number of frames. The first one is the source nearest to the first target. If the path "
                    "has another number of views: cameras in between.",
                ),
                io.Float.Input(
                    "translation",
                    default=1.0,
                    min=0.0,
                    max=1000.0,
                    step=0.1,
                    tooltip="Factor for all distances in camera_embedding, which come in the units of 'cameras'. "
                    "Wan's own motions move by 1.5 within a video.",
                ),
                io.Int.Input(
                    "sources",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="Number of source cameras in 'cameras'. 0 means as many as 'geometry' has views, or 1 "
                    "without it.",
                ),
                source_geometry_input(
                    "Geometry of the sources in their order, for example from Estimate GLD Cameras. It is needed for "
                    "the pictures.",
                    optional=True,
                ),
                seen_confidence_input(optional=True, advanced=True),
            ],
            outputs=[
                io.WanCameraEmbedding.Output(
                    display_name="camera_embedding",
                    tooltip="For the input camera_conditions of WanCameraImageToVideo.",
                ),
                io.Image.Output(
                    display_name="render_video",
                    tooltip="For Uni3C: one picture per frame with what the sources have seen. The rest is grey.",
                ),
                io.Mask.Output(
                    display_name="coverage", tooltip="One mask per frame: 1 where a source has seen the surface."
                ),
                io.Image.Output(
                    display_name="start_image", tooltip="The photograph of the first frame, cropped to the video."
                ),
                io.Int.Output(display_name="width", tooltip="Width of the video."),
                io.Int.Output(display_name="height", tooltip="Height of the video."),
                io.Int.Output(display_name="length", tooltip="Number of frames."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, cameras, width, height, length, translation, sources, geometry=None, min_confidence=1.0):
        N = source_count(cameras, sources or int(geometry is None), geometry, None)
        if len(cameras) == N:
            raise ValueError(
                f"All {N} cameras are sources, so there is no path; add targets with Move GLD Camera, or set 'sources'."
            )
        size = 24 * ((length + 3) // 4) * width * height * 4
        if size > MOST_BYTES:
            raise ValueError(
                f"{length} frames of {width}x{height} make a camera_embedding of {size / 2**30:.0f} GiB; lower length, "
                f"width or height, so that it is at most {MOST_BYTES >> 30} GiB."
            )
        own, targets = cameras[:N], cameras[N:]
        found = None
        if geometry is not None:
            geometry = fitted_geometry(geometry, own)
            found = sources_geometry(geometry, own)
            check_sizes(own, found, None)
        depth = scene_depth(own, None if found is None else found.depth)
        check_scene(cameras, N, depth)
        first = nearest(own, targets[0], depth)
        at_source = torch.allclose(own.c2w[first], targets.c2w[0]) and torch.allclose(own.K[first], targets.K[0])
        path = resampled(targets if at_source else join(own[first], targets), length, depth)
        fits, intrinsics = zip(*(fit_camera(K, own.height, own.width, height, width) for K in path.K), strict=True)
        frames = replace(path, K=torch.stack(intrinsics), height=height, width=width)
        embedding = host.to_host(wan_camera_embedding(frames, translation, host.progress_bar()))
        furthest = translation * (path.c2w[:, :3, 3] - path.c2w[:1, :3, 3]).norm(dim=1).max().item()
        host.say(f"{length} frames from source {first} on, up to {furthest:.3g} away from it", cls.hidden.unique_id)
        if found is None:
            blocked = ExecutionBlocker("GLD Cameras for Video Models draws its pictures from depth; wire 'geometry'.")
            return io.NodeOutput(embedding, blocked, blocked, blocked, width, height, length)
        photographs = source_photographs(geometry["image"], own)
        keep = usable(found.depth, found.depth_conf, min_confidence)
        maps = PosedDepth(found.depth, own, keep, photographs)
        pictures, masks = reproject(maps, frames, host.progress_bar(), GREY)
        start = fits[0].apply(photographs[first]).movedim(0, -1)[None].contiguous()
        return io.NodeOutput(embedding, pictures.movedim(1, -1), masks, start, width, height, length)


def nearest(sources: Cameras, target: Cameras, depth: float) -> int:
    """The source that is nearest to a target. A radian of turning counts like one scene depth."""
    away = (sources.c2w[:, :3, 3] - target.c2w[0, :3, 3]).norm(dim=1) / depth
    cosine = ((sources.c2w[:, :3, :3] * target.c2w[0, :3, :3]).sum((1, 2)) - 1) / 2
    return int((away + cosine.clamp(-1, 1).acos()).argmin())
