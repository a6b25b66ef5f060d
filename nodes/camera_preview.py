"""A picture of where the cameras are and what they see, before anything is sampled."""

from io import BytesIO

import torch
from comfy_api.latest import Types, io, ui

from ..gld_core.cameras.conventions import check_scene
from ..gld_core.cameras.motions import scene_depth
from ..gld_core.export.camera_plan import MOSTLY_UNSEEN, frusta, plan
from ..gld_core.export.gltf import glb_bytes, scene_diagonal
from ..gld_core.geometry.coverage import coverage
from ..gld_core.geometry.depth_maps import PosedDepth, usable
from ..gld_core.geometry.points import PointCloud, even_subset
from ..gld_core.io.comfyui import preview_world
from . import host
from .sockets import DA3Geometry, GLDCameras, sources_geometry

# Depth of a camera's pyramid, as a share of the scene's diagonal.
FRUSTUM = 0.04


class GLDPreviewCameras(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDPreviewCameras",
            display_name="Preview GLD Cameras",
            category="GLD",
            description="Shows the camera path before sampling: the cameras, the points of the sources, and how much "
            "of every target the sources have seen. Mostly unseen targets are red. Connect 'glb' to Preview 3D.",
            search_aliases=["camera path", "trajectory", "frustum", "coverage", "visibility"],
            inputs=[
                GLDCameras.Input(
                    "cameras",
                    tooltip="The cameras of the sources, then those of the targets, for example from Set GLD Cameras.",
                ),
                DA3Geometry.Input(
                    "geometry", tooltip="Geometry of the sources in their order, for example from Estimate GLD Cameras."
                ),
                io.Int.Input(
                    "sources",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="Number of source cameras in 'cameras'. 0 means as many as 'geometry' has views.",
                ),
                io.Float.Input(
                    "min_confidence",
                    default=1.0,
                    min=1.0,
                    max=100.0,
                    step=0.01,
                    tooltip="Minimum confidence: depth below it counts as unseen. The lowest confidence is 1.",
                ),
                io.Int.Input(
                    "max_points",
                    default=100_000,
                    min=1000,
                    max=20_000_000,
                    step=1000,
                    tooltip="Maximum number of points. If there are more: a subset that covers the space evenly.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.File3DGLB.Output(
                    display_name="glb", tooltip="Points and numbered cameras. Y points up, seen from the first camera."
                ),
                io.Image.Output(
                    display_name="plan", tooltip="Map of the scene from above. The first camera looks towards the top."
                ),
                io.Mask.Output(
                    display_name="coverage", tooltip="One mask per target: 1 where a source has seen the same surface."
                ),
                io.String.Output(
                    display_name="report", tooltip="The fraction of every target that is covered, as text."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, cameras, geometry, sources, min_confidence, max_points):
        N = sources or len(geometry["depth"])
        if len(cameras) <= N:
            raise ValueError(
                f"The input 'cameras' has {len(cameras)} cameras and {N} of them are sources, so there are no targets; "
                "add targets with Set GLD Cameras, or set 'sources'."
            )
        own, targets = cameras[:N], cameras[N:]
        found = sources_geometry(geometry, own)
        if tuple(found.depth.shape[1:]) != (own.height, own.width):
            raise ValueError(
                f"The input 'geometry' has {found.depth.shape[2]}x{found.depth.shape[1]} pixels, but the cameras are "
                f"for {own.width}x{own.height}; connect the geometry of the resized photographs."
            )
        check_scene(cameras, N, scene_depth(own, found.depth))
        keep = usable(found.depth, found.depth_conf, min_confidence)
        if not keep.any():
            raise ValueError("All depth is below the minimum confidence; lower 'min_confidence'.")
        maps = PosedDepth(found.depth, own, keep)
        progress = host.progress_bar()
        masks = coverage(maps, targets, progress)
        share = masks.mean(dim=(1, 2))
        xyz = torch.stack([maps.points(view) for view in range(N)])
        rgb = (geometry["image"][:N, ..., :3].cpu().float().clamp(0, 1) * 255).round().byte()
        valid = torch.isfinite(xyz).all(dim=-1)
        xyz, rgb = xyz[valid], rgb[valid]
        chosen = even_subset(xyz, max_points, lambda: progress(len(targets), len(targets)))
        lines = frusta(cameras, N, FRUSTUM * scene_diagonal(xyz), share)
        glb = glb_bytes([PointCloud(xyz[chosen], rgb[chosen]), lines], preview_world(own))
        page = plan(cameras, N, xyz, rgb, share)[None]
        unseen = int((share < MOSTLY_UNSEEN).sum())
        summary = (
            f"{share.mean():.0%} of the targets covered, {share.min():.0%} of target {N + int(share.argmin())}; "
            f"{unseen} of {len(targets)} mostly unseen"
        )
        report = "\n".join([summary, *(f"view {N + number}: {value:.0%}" for number, value in enumerate(share))])
        host.say(summary, cls.hidden.unique_id)
        return io.NodeOutput(Types.File3D(BytesIO(glb), "glb"), page, masks, report, ui=ui.PreviewImage(page, cls=cls))
