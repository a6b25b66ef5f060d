"""Geometry to Gaussian splats, ComfyUI's SPLAT."""

import comfy.model_management
from comfy_api.latest import Types, io
from PIL import Image

from ..gld_core.cameras.conventions import OPENGL
from ..gld_core.export.ply import SH0
from ..gld_core.export.scenes import scene_splats
from ..gld_core.geometry.splats import Splats, render, transformed
from ..gld_core.io.comfyui import preview_world
from ..gld_core.io.images import to_bytes
from . import host
from .geometry import geometry_inputs, selected, selection_inputs, with_photographs

# Steps between two pictures of the refinement.
SHOWN = 20


class GLDMakeSplats(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDMakeSplats",
            display_name="Make GLD Splats",
            category="GLD",
            description="Makes a scene of Gaussian splats from the depth of all views and fits it to their pictures. "
            "Connect it to Create 3D File (from Splat) or Render Splat.",
            search_aliases=["gaussian splatting", "3dgs", "gaussian", "splat", "radiance field", "supersplat"],
            inputs=[
                *geometry_inputs(),
                *selection_inputs(),
                io.Int.Input(
                    "max_splats",
                    default=500_000,
                    min=1000,
                    max=10_000_000,
                    step=1000,
                    tooltip="Maximum number of splats. More splats are reduced evenly over the pictures.",
                ),
                io.Int.Input(
                    "steps",
                    default=200,
                    min=0,
                    max=10_000,
                    tooltip="Number of refinement steps, which fit colours, opacities, sizes and turns to the "
                    "pictures. Photographs count more than generated views. 0 means: no refinement.",
                ),
            ],
            outputs=[
                io.Splat.Output(
                    display_name="splat",
                    tooltip="The splats in ComfyUI's axes, as seen from the first camera. A camera_info of Save GLD "
                    "Cameras fits them.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, geometry, cameras, min_confidence, keep_at_least, confirmed_by, max_splats, steps):
        maps = with_photographs(selected(geometry, cameras, min_confidence, keep_at_least, confirmed_by), geometry)
        sources = geometry.get("gld_sources", 0)
        bar, device = host.picture_bar(), comfy.model_management.get_torch_device()

        def shown(done: int, total: int, now: Splats) -> None:
            picture = None
            if done % SHOWN == 0:
                picture = Image.fromarray(to_bytes(render(now, maps.cameras[0])[0]))
            bar(done, total, picture)

        settings = (sources, max_splats, steps, host.progress_bar(), device)
        splats = scene_splats(maps, *settings, callback=shown, pause=host.stop_if_cancelled)
        host.say(f"{len(splats)} splats", cls.hidden.unique_id)
        return io.NodeOutput(host_splats(transformed(splats, OPENGL @ preview_world(maps.cameras))))


def host_splats(splats: Splats) -> Types.SPLAT:
    """ComfyUI's type: a batch of one, colours as spherical harmonics of degree 0."""
    values = splats.xyz, splats.scales, splats.rotations, splats.opacities[:, None]
    colors = ((splats.rgb - 0.5) / SH0)[:, None]
    return Types.SPLAT(*(host.to_host(value[None].float()) for value in (*values, colors)))
