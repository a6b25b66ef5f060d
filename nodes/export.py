"""Geometry to 3D files and data sets."""

import os
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import folder_paths
from comfy_api.latest import Types, io

from ..gld_core.export.datasets import SPARSE_POINTS, write_colmap_dataset, write_nerfstudio_dataset
from ..gld_core.export.scenes import AXES, glb_parts, scene_ply, write_scene_glb
from ..gld_core.geometry.points import fuse_points
from . import host
from .geometry import geometry_inputs, selected, selection_inputs, with_photographs
from .host.folders import check_prefix, save_numbered
from .host.inputs import check_choice, problem

VOXEL = io.Float.Input(
    "voxel",
    default=0.0,
    min=0.0,
    max=1000.0,
    step=0.001,
    round=False,
    advanced=True,
    tooltip="Voxel size in the units of the cameras: points in one voxel are merged. 0 means: as fine as the pixels, "
    "if max_points allows it.",
)


def describe(parts: list, asked: float | None) -> str:
    """What was made: how many points and triangles, and the voxel that was used in place of the one asked for."""
    points, faces = sum(len(part.xyz) for part in parts), sum(len(getattr(part, "faces", ())) for part in parts)
    text = f"{points} vertices and {faces} triangles" if faces else f"{points} points"
    used = parts[0].voxel if parts else None
    if used is None:
        return text
    text += f", voxel {used:.4g}"
    if asked and used > 1.001 * asked:
        text += f" in place of {asked:.4g}: max_points or the pixels allow no finer"
    return text


def max_points_input() -> io.Int.Input:
    return io.Int.Input(
        "max_points",
        default=500_000,
        min=1000,
        max=20_000_000,
        step=1000,
        tooltip="Maximum number of points, or roughly of vertices. More points are reduced evenly over the space.",
    )


class GLDExportGLB(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDExportGLB",
            display_name="Export GLD GLB",
            category="GLD",
            description="Exports all views as one scene in a GLB file, upright and centred, as points or a triangle "
            "mesh.",
            search_aliases=["point cloud", "mesh", "3d", "gltf", "reconstruction", "tsdf"],
            inputs=[
                *geometry_inputs(),
                io.DynamicCombo.Input(
                    "kind",
                    tooltip="Type of the export. mesh: one surface of all views with vertex colours. textured mesh: "
                    "one surface per view with its picture as the texture, without the parts that earlier views have "
                    "shown. points: points of several views at the same place are merged. released points: every "
                    "pixel becomes a point, as in GLD's own program. Meshes are cut at depth edges and at grazing "
                    "angles.",
                    options=[
                        io.DynamicCombo.Option("mesh", [VOXEL]),
                        io.DynamicCombo.Option("textured mesh", []),
                        io.DynamicCombo.Option("points", [VOXEL]),
                        io.DynamicCombo.Option("released points", []),
                    ],
                ),
                *selection_inputs(),
                max_points_input(),
                io.Boolean.Input(
                    "show_cameras", default=False, tooltip="If on: the cameras are drawn as wire pyramids."
                ),
                io.Boolean.Input(
                    "compact",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="If on: positions are rounded to 16 bits of the scene's size, for a smaller file. Programs "
                    "need KHR_mesh_quantization to open it.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.File3DGLB.Output(
                    display_name="glb", tooltip="The scene with glTF axes: Y points up, seen from the first view."
                )
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, geometry=None, kind=None):
        return problem(check_choice, cls, "kind", kind)

    @classmethod
    def execute(
        cls,
        geometry,
        cameras,
        min_confidence,
        keep_at_least,
        confirmed_by,
        max_points,
        kind,
        show_cameras=False,
        compact=False,
    ):
        maps = selected(geometry, cameras, min_confidence, keep_at_least, confirmed_by)
        parts = glb_parts(maps, kind["kind"], kind.get("voxel", 0.0), max_points, host.progress_bar())
        made = describe(parts, kind.get("voxel"))
        name = f"gld_{uuid4().hex}.glb"
        path = os.path.join(folder_paths.get_temp_directory(), name)
        sources, strict = geometry.get("gld_sources", 0), host.page_is_strict()
        write_scene_glb(path, maps, parts, sources, show_cameras, compact, page=strict)
        host.say(made, cls.hidden.unique_id)
        return io.NodeOutput(
            Types.File3D(path, "glb"), ui={"3d": [{"filename": name, "subfolder": "", "type": "temp"}]}
        )


class GLDExportPLY(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDExportPLY",
            display_name="Export GLD PLY",
            category="GLD",
            description="Exports all views as one point cloud in a binary PLY file with colours and normals. Connect "
            "it to Preview Point Cloud or Save Point Cloud.",
            search_aliases=["point cloud", "3d", "meshlab", "cloudcompare", "normals"],
            inputs=[
                *geometry_inputs(),
                *selection_inputs(),
                max_points_input(),
                VOXEL,
                io.Combo.Input(
                    "axes",
                    options=list(AXES),
                    tooltip="Axes of the points. upright: Y up and centred, like the GLB. upright, Z up: the same for "
                    "Blender and CAD programs. cameras: the world of the cameras.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[io.File3DPLY.Output(display_name="ply", tooltip="The point cloud as binary little-endian PLY.")],
        )

    @classmethod
    def execute(
        cls, geometry, cameras, min_confidence, keep_at_least, confirmed_by, max_points, voxel=0.0, axes="upright"
    ):
        maps = selected(geometry, cameras, min_confidence, keep_at_least, confirmed_by)
        cloud = fuse_points(maps, max_points, voxel or None, host.progress_bar())
        host.say(describe([cloud], voxel), cls.hidden.unique_id)
        return io.NodeOutput(Types.File3D(BytesIO(scene_ply(maps, cloud, axes)), "ply"))


class GLDExportDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDExportDataset",
            display_name="Export GLD Dataset",
            category="GLD",
            description="Exports all views with their cameras and points into a new folder, as a data set for training "
            "Gaussian splats or radiance fields.",
            search_aliases=["colmap", "nerfstudio", "3dgs", "gaussian splatting", "nerf", "transforms.json"],
            inputs=[
                *geometry_inputs(),
                io.DynamicCombo.Input(
                    "format",
                    tooltip="Format of the data set. COLMAP: images and sparse/0. nerfstudio: images, depth, "
                    "points.ply and transforms.json. Both: masks, which say how far to trust generated pixels.",
                    options=[
                        io.DynamicCombo.Option(
                            "COLMAP",
                            [
                                io.Boolean.Input(
                                    "binary", default=True, tooltip="If on: binary model files. If off: text files."
                                )
                            ],
                        ),
                        io.DynamicCombo.Option("nerfstudio", []),
                    ],
                ),
                io.String.Input(
                    "filename_prefix",
                    default="GLD/scene",
                    tooltip="Name of the folder in ComfyUI/output. A number is added, so that nothing is overwritten.",
                ),
                *selection_inputs(),
                max_points_input(),
            ],
            outputs=[io.String.Output(display_name="folder", tooltip="Path of the new folder.")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix=None, format=None):
        chosen = problem(check_choice, cls, "format", format)
        return chosen if filename_prefix is None or chosen is not True else problem(check_prefix, filename_prefix)

    @classmethod
    def execute(
        cls, geometry, cameras, filename_prefix, min_confidence, keep_at_least, confirmed_by, max_points, format
    ):
        maps = with_photographs(selected(geometry, cameras, min_confidence, keep_at_least, confirmed_by), geometry)
        sources = geometry.get("gld_sources", 0)
        progress = host.progress_bar()
        cloud = fuse_points(maps, max_points, progress=progress)
        names = [f"{view:04}" for view in range(len(cameras))]

        def write(path: Path) -> float:
            if format["format"] == "COLMAP":
                return write_colmap_dataset(path, names, maps, cloud, format["binary"], sources, progress)
            return write_nerfstudio_dataset(path, names, maps, cloud, sources, progress)

        folder, error = save_numbered(filename_prefix, "", write)
        text = f"{len(names)} views and {min(len(cloud.xyz), SPARSE_POINTS)} points in {folder}"
        if error:
            text += f"; the cameras are the nearest ones without skew, {error:.2f} pixels off"
        host.say(text, cls.hidden.unique_id)
        return io.NodeOutput(str(folder))
