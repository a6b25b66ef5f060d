"""Geometry to 3D files."""

from io import BytesIO

import torch
from comfy_api.latest import Types, io

from ..gld_core.fusion import PointCloud, even_subset
from ..gld_core.geometry import confidence_threshold, gltf_transform, point_cloud
from ..gld_core.gltf import camera_frusta, glb_bytes, scene_diagonal
from .sockets import DA3Geometry, GLDCameras


class GLDExportGLB(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDExportGLB",
            display_name="Export GLD GLB",
            category="GLD",
            description="One coloured point cloud of all views as a GLB file, upright and centred. Wire it to Preview "
            "3D to look at it, to Save 3D Model to keep it.",
            search_aliases=["point cloud", "3d", "gltf", "reconstruction"],
            inputs=[
                DA3Geometry.Input("geometry", tooltip="From Decode GLD Depth."),
                GLDCameras.Input("cameras", tooltip="Cameras of the geometry's views: the given or the recovered."),
                io.Float.Input(
                    "min_confidence",
                    default=1.05,
                    min=1.0,
                    max=100.0,
                    step=0.01,
                    tooltip="Points below are dropped. Confidence starts at 1.",
                ),
                io.Float.Input(
                    "keep_at_least",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=1.0,
                    tooltip="Percent of the points that stay whatever min_confidence says, the most confident ones.",
                ),
                io.Int.Input(
                    "max_points",
                    default=500_000,
                    min=1000,
                    max=20_000_000,
                    step=1000,
                    tooltip="Above, a subset that covers space evenly.",
                ),
                io.Boolean.Input("show_cameras", default=False, tooltip="Draw the cameras as wire pyramids."),
            ],
            outputs=[io.File3DGLB.Output(display_name="glb", tooltip="glTF axes: Y up, from the first view.")],
        )

    @classmethod
    def execute(cls, geometry, cameras, min_confidence, keep_at_least, max_points, show_cameras=False):
        depth, images, confidence = geometry["depth"], geometry["image"].movedim(-1, 1), geometry.get("confidence")
        if len(depth) != len(cameras) or tuple(depth.shape[1:]) != (cameras.height, cameras.width):
            raise ValueError(
                f"The input 'geometry' has {len(depth)} views of {depth.shape[2]}x{depth.shape[1]}, 'cameras' has "
                f"{len(cameras)} of {cameras.width}x{cameras.height}; wire the cameras of these views."
            )
        if confidence is None:
            confidence = torch.full_like(depth, float("inf"))
        threshold = confidence_threshold(confidence, min_confidence, 0, 100 - keep_at_least)
        points, colors = point_cloud(depth, confidence, images, cameras.K, cameras.c2w, threshold)
        if not len(points):
            raise ValueError("No point is left; lower 'min_confidence' or raise 'keep_at_least'.")
        matrix = gltf_transform(points, cameras.w2c[0])
        chosen = even_subset(points, max_points)
        parts: list = [PointCloud(points[chosen], colors[chosen])]
        if show_cameras:
            parts.append(camera_frusta(cameras, 0.03 * scene_diagonal(points)))
        return io.NodeOutput(Types.File3D(BytesIO(glb_bytes(parts, matrix)), "glb"))
