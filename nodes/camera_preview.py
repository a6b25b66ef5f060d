"""A picture of where the cameras are and what they see, before anything is sampled."""

from io import BytesIO

from comfy_api.latest import Types, io, ui
from comfy_execution.graph_utils import ExecutionBlocker

from ..gld_core.cameras.conventions import check_scene
from ..gld_core.cameras.motions import scene_depth
from ..gld_core.export.camera_plan import counted, described, frusta, plan
from ..gld_core.export.gltf import glb_bytes, scene_diagonal
from ..gld_core.geometry.depth_maps import PosedDepth, usable
from ..gld_core.geometry.points import PointCloud, even_subset, samples
from ..gld_core.geometry.reprojection import reproject
from ..gld_core.io.comfyui import preview_world
from . import host
from .sockets import (
    GLDCameras,
    fitted_geometry,
    seen_confidence_input,
    source_geometry_input,
    source_photographs,
    sources_geometry,
)

# Of how many points of the sources' surfaces the map is drawn and the points are chosen.
MOST_SAMPLES = 1 << 20
# Depth of a camera's pyramid, as a share of the scene's diagonal.
FRUSTUM = 0.04


class GLDPreviewCameras(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDPreviewCameras",
            display_name="Preview GLD Cameras",
            category="GLD",
            description="Shows the scene and the camera path before sampling: the cameras, the points of the sources, "
            "and how much of every target the sources have seen. Mostly unseen targets are red. Connect 'glb' to "
            "Preview 3D.",
            search_aliases=["camera path", "trajectory", "frustum", "coverage", "visibility", "holes", "warp"],
            inputs=[
                GLDCameras.Input(
                    "cameras",
                    tooltip="The cameras of the sources, then those of the targets, for example from Set GLD Cameras. "
                    "Without targets: the scene alone.",
                ),
                source_geometry_input("Geometry of the sources in their order, for example from Estimate GLD Cameras."),
                io.Int.Input(
                    "sources",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="Number of source cameras in 'cameras'. 0 means as many as 'geometry' has views, or "
                    "sources if it is of Decode GLD Depth.",
                ),
                seen_confidence_input(),
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
                    display_name="plan",
                    tooltip="Map of the scene from above, where the first camera looks towards the top, and from the "
                    "side, where it looks to the right.",
                ),
                io.Mask.Output(
                    display_name="coverage", tooltip="One mask per target: 1 where a source has seen the same surface."
                ),
                io.String.Output(
                    display_name="report", tooltip="The fraction of every target that is covered, as text."
                ),
                io.Image.Output(
                    display_name="views",
                    tooltip="One picture per target: the photographs on the surfaces of the sources. The rest is red.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, cameras, geometry, sources, min_confidence, max_points):
        N = sources or geometry.get("gld_sources") or len(geometry["depth"])
        if len(cameras) < N:
            raise ValueError(
                f"The input 'cameras' has {len(cameras)} cameras for {N} sources; connect the cameras of all sources, "
                "or set 'sources'."
            )
        own, targets = cameras[:N], cameras[N:]
        geometry = fitted_geometry(geometry, own)
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
        photographs = source_photographs(geometry["image"], own)
        maps = PosedDepth(found.depth, own, keep, photographs)
        pictures, masks = reproject(maps, targets, host.progress_bar())
        share = masks.mean(dim=(1, 2)) if len(targets) else None
        surface, spacing = samples(maps, max(MOST_SAMPLES, max_points), host.stop_if_cancelled)
        xyz, rgb = surface.xyz, surface.rgb
        chosen = even_subset(xyz, max_points, host.stop_if_cancelled)
        lines = frusta(cameras, N, FRUSTUM * scene_diagonal(xyz), share)
        glb = glb_bytes([PointCloud(xyz[chosen], rgb[chosen]), lines], preview_world(own))
        page = plan(cameras, N, xyz, rgb, share, spacing)[None]
        report = described(N, masks) if len(targets) else f"{counted(N, 'source')}, no targets"
        host.say(report.splitlines()[0], cls.hidden.unique_id)
        views = pictures.movedim(1, -1)
        if not len(targets):
            views = masks = ExecutionBlocker("There are no targets; add them with Move GLD Camera or Set GLD Cameras.")
        glb = Types.File3D(BytesIO(glb), "glb")
        return io.NodeOutput(glb, page, masks, report, views, ui=ui.PreviewImage(page, cls=cls))
