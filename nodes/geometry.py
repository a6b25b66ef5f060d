"""What of a geometry counts: confidence, and agreement between its views."""

import torch
from comfy_api.latest import io
from torch import Tensor

from ..gld_core.cameras import Cameras
from ..gld_core.export import scenes
from ..gld_core.geometry.depth_maps import PosedDepth, agreement, usable
from . import host
from .sockets import DA3Geometry, GLDCameras, check_geometry


def geometry_inputs() -> list:
    return [
        DA3Geometry.Input("geometry", tooltip="The geometry of Decode GLD Depth."),
        GLDCameras.Input("cameras", tooltip="The cameras of the same views: the given ones or the recovered ones."),
    ]


def selection_inputs() -> list:
    return [
        io.Float.Input(
            "min_confidence",
            default=1.05,
            min=1.0,
            max=100.0,
            step=0.01,
            tooltip="Minimum confidence: points below it are removed. The lowest confidence is 1.",
        ),
        io.Float.Input(
            "keep_at_least",
            default=0.0,
            min=0.0,
            max=100.0,
            step=1.0,
            tooltip="Percentage of points that are always kept, the most confident ones, even if min_confidence is "
            "higher.",
        ),
        io.Int.Input(
            "confirmed_by",
            default=0,
            min=0,
            max=16,
            tooltip="Minimum number of other views that must see a point at the same depth, within 2 %. 0 keeps all "
            "points.",
        ),
    ]


def checked(geometry: dict, cameras: Cameras) -> tuple[Tensor, Tensor, Tensor]:
    """Depth (V, H, W), confidence (V, H, W), infinite where there is none, and images (V, 3, H, W) of a DA3_GEOMETRY.
    ValueError where the cameras are of other views or not finite.
    """
    check_geometry(geometry)
    depth, images, confidence = geometry["depth"], geometry["image"].movedim(-1, 1), geometry.get("confidence")
    if len(depth) != len(cameras) or tuple(depth.shape[1:]) != (cameras.height, cameras.width):
        raise ValueError(
            f"The input 'geometry' has {len(depth)} views of {depth.shape[2]}x{depth.shape[1]} pixels, but 'cameras' "
            f"has {len(cameras)} of {cameras.width}x{cameras.height}; connect the cameras of these views."
        )
    finite = torch.isfinite(cameras.c2w).flatten(1).all(1) & torch.isfinite(cameras.K).flatten(1).all(1)
    if not finite.all():
        raise ValueError(
            f"The camera of view {int((~finite).nonzero()[0])} has infinite or undefined numbers; leave that view out."
        )
    return depth, torch.full_like(depth, torch.inf) if confidence is None else confidence, images


def selected(
    geometry: dict, cameras: Cameras, min_confidence: float, keep_at_least: float, confirmed_by: int
) -> PosedDepth:
    """The depth maps and pictures of a geometry, and the pixels that count. ValueError where none does."""
    depth, confidence, images = checked(geometry, cameras)
    settings = (min_confidence, keep_at_least, confirmed_by)
    return scenes.select(depth, confidence, images, cameras, *settings, host.progress_bar() if confirmed_by else None)


def with_photographs(maps: PosedDepth, geometry: dict) -> PosedDepth:
    """The same with the sources' photographs in place of their decoded pictures, where the geometry has them."""
    photographs = geometry.get("gld_photographs")
    return scenes.with_photographs(maps, None if photographs is None else photographs.movedim(-1, 1))


class GLDCheckDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDCheckDepth",
            display_name="Check GLD Depth",
            category="GLD",
            description="Measures how well the depth maps of the views agree. Each one is compared with the others by "
            "reprojection.",
            search_aliases=["consistency", "multi-view", "reprojection", "confidence"],
            inputs=[
                *geometry_inputs(),
                io.Float.Input(
                    "tolerance",
                    default=0.02,
                    min=0.0001,
                    max=1.0,
                    step=0.001,
                    tooltip="Relative depth tolerance: two views agree on a point if their depths differ by at most "
                    "this fraction.",
                ),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="consistency",
                    tooltip="One mask per view: the fraction of the views that see a point, its own view included, "
                    "that agree on its depth. 0 where there is no depth.",
                )
            ],
        )

    @classmethod
    def execute(cls, geometry, cameras, tolerance):
        depth, confidence, _ = checked(geometry, cameras)
        keep = usable(depth, confidence, 0)
        found = agreement(PosedDepth(depth, cameras, keep), tolerance, progress=host.progress_bar())
        return io.NodeOutput(host.to_host(torch.where(keep, found.consistency, 0)))
