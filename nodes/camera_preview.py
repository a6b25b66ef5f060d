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
            description="The path before it is sampled: cameras over the sources' points, and how much of every target "
            "some source has seen. What is mostly unseen is red. Wire 'glb' to Preview 3D.",
            search_aliases=["camera path", "trajectory", "frustum", "coverage", "visibility"],
            inputs=[
                GLDCameras.Input("cameras", tooltip="Sources, then targets, as from Set GLD Cameras."),
                DA3Geometry.Input("geometry", tooltip="Of the sources, in their order, as from Estimate GLD Cameras."),
                io.Int.Input(
                    "sources",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="How many of the cameras are the sources'. 0: as many as 'geometry' has views.",
                ),
                io.Float.Input(
                    "min_confidence",
                    default=1.0,
                    min=1.0,
                    max=100.0,
                    step=0.01,
                    tooltip="Depth below counts as unseen. Confidence starts at 1.",
                ),
                io.Int.Input(
                    "max_points",
                    default=100_000,
                    min=1000,
                    max=20_000_000,
                    step=1000,
                    tooltip="Above, a subset that covers space evenly.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.File3DGLB.Output(
                    display_name="glb", tooltip="Points and numbered cameras, Y up, from the first camera."
                ),
                io.Image.Output(display_name="plan", tooltip="The scene from above, the first camera looking up."),
                io.Mask.Output(display_name="coverage", tooltip="Per target 1 where a source saw what is there."),
                io.String.Output(display_name="report", tooltip="The share of every target that is covered."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, cameras, geometry, sources, min_confidence, max_points):
        N = sources or len(geometry["depth"])
        if len(cameras) <= N:
            raise ValueError(
                f"There are {len(cameras)} cameras for {N} sources; add targets with Set GLD Cameras, or set 'sources'."
            )
        own, targets = cameras[:N], cameras[N:]
        found = sources_geometry(geometry, own)
        if tuple(found.depth.shape[1:]) != (own.height, own.width):
            raise ValueError(
                f"The input 'geometry' is {found.depth.shape[2]}x{found.depth.shape[1]}, the cameras are for "
                f"{own.width}x{own.height}; wire the geometry of the fitted photographs."
            )
        check_scene(cameras, N, scene_depth(own, found.depth))
        keep = usable(found.depth, found.depth_conf, min_confidence)
        if not keep.any():
            raise ValueError("No depth is left; lower 'min_confidence'.")
        maps = PosedDepth(found.depth, own, keep)
        masks = coverage(maps, targets, host.progress_bar())
        share = masks.mean(dim=(1, 2))
        xyz = torch.stack([maps.points(view) for view in range(N)])
        rgb = (geometry["image"][:N, ..., :3].cpu().float().clamp(0, 1) * 255).round().byte()
        valid = torch.isfinite(xyz).all(dim=-1)
        xyz, rgb = xyz[valid], rgb[valid]
        chosen = even_subset(xyz, max_points)
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
