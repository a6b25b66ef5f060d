"""Geometry to 3D files and data sets."""

import os
from io import BytesIO
from uuid import uuid4

import folder_paths
import torch
from comfy_api.latest import Types, io

from ..gld_core.export.datasets import write_colmap_dataset, write_nerfstudio_dataset
from ..gld_core.export.gltf import camera_frusta, gltf_transform, scene_diagonal, write_glb
from ..gld_core.export.ply import ply_bytes
from ..gld_core.geometry.mesh import fuse_mesh, view_meshes
from ..gld_core.geometry.points import PointCloud, even_subset, fuse_points, point_cloud
from . import host
from .geometry import geometry_inputs, selected, selection_inputs
from .host.folders import output_path
from .sockets import check_chosen

VOXEL = io.Float.Input(
    "voxel",
    default=0.0,
    min=0.0,
    max=1000.0,
    step=0.001,
    round=False,
    advanced=True,
    tooltip="Side of the cubes in which views are merged, in the cameras' unit. 0: as fine as the pixels are, and no "
    "finer than max_points allows.",
)


def max_points_input() -> io.Int.Input:
    return io.Int.Input(
        "max_points",
        default=500_000,
        min=1000,
        max=20_000_000,
        step=1000,
        tooltip="Points at most, or about so many vertices; they are thinned out evenly over space.",
    )


class GLDExportGLB(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDExportGLB",
            display_name="Export GLD GLB",
            category="GLD",
            description="One scene of all views as a GLB file, upright and centred: points or a triangle mesh.",
            search_aliases=["point cloud", "mesh", "3d", "gltf", "reconstruction", "tsdf"],
            inputs=[
                *geometry_inputs(),
                io.DynamicCombo.Input(
                    "kind",
                    tooltip="released points: every pixel a point, as GLD's own program does it. points: points of "
                    "several views in one place are merged. mesh: one surface from all views, with colours in its "
                    "vertices. textured mesh: the surface of each view with its picture on it, without what earlier "
                    "views have shown. Meshes are cut at depth edges and at glancing angles.",
                    options=[
                        io.DynamicCombo.Option("released points", []),
                        io.DynamicCombo.Option("points", [VOXEL]),
                        io.DynamicCombo.Option("mesh", [VOXEL]),
                        io.DynamicCombo.Option("textured mesh", []),
                    ],
                ),
                *selection_inputs(),
                max_points_input(),
                io.Boolean.Input("show_cameras", default=False, tooltip="Draw the cameras as wire pyramids."),
            ],
            outputs=[io.File3DGLB.Output(display_name="glb", tooltip="glTF axes: Y up, from the first view.")],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, geometry, cameras, min_confidence, keep_at_least, confirmed_by, max_points, kind=None, show_cameras=False
    ):
        check_chosen(kind, "kind")
        maps = selected(geometry, cameras, min_confidence, keep_at_least, confirmed_by)
        progress = host.progress_bar()
        parts: list
        if kind["kind"] == "released points":
            clouds = []
            for view in range(len(maps)):
                one = slice(view, view + 1)
                counts = torch.isfinite(maps.inverse[one])
                clouds.append(
                    point_cloud(maps.depth[one], counts, maps.images[one], cameras.K[one], cameras.c2w[one], 1)
                )
                progress(view + 1, len(maps))
            points, colors = map(torch.cat, zip(*clouds, strict=True))
            chosen = even_subset(points, max_points)
            parts = [PointCloud(points[chosen], colors[chosen])]
        else:
            if kind["kind"] == "points":
                parts = [fuse_points(maps, max_points, kind["voxel"] or None, progress)]
            elif kind["kind"] == "mesh":
                parts = [fuse_mesh(maps, max_points, kind["voxel"] or None, progress)]
            else:
                parts = list(view_meshes(maps, max_points, progress=progress))
            points = torch.cat([torch.empty(0, 3), *(part.xyz for part in parts)])
        matrix = gltf_transform(points, cameras.w2c[0])
        if show_cameras:
            parts.append(camera_frusta(cameras, 0.03 * scene_diagonal(points), geometry.get("gld_sources", 0)))
        name = f"gld_{uuid4().hex}.glb"
        path = os.path.join(folder_paths.get_temp_directory(), name)
        write_glb(path, parts, matrix)
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
            description="One point cloud of all views as a binary PLY file with colours and normals. Wire it to "
            "Preview Point Cloud or Save Point Cloud.",
            search_aliases=["point cloud", "3d", "meshlab", "cloudcompare", "normals"],
            inputs=[
                *geometry_inputs(),
                *selection_inputs(),
                max_points_input(),
                VOXEL,
                io.Combo.Input(
                    "axes",
                    options=["upright", "cameras"],
                    tooltip="upright: Y up and centred, as the GLB. cameras: the world that the cameras are given in.",
                ),
            ],
            outputs=[io.File3DPLY.Output(display_name="ply", tooltip="Binary, little endian.")],
        )

    @classmethod
    def execute(
        cls, geometry, cameras, min_confidence, keep_at_least, confirmed_by, max_points, voxel=0.0, axes="upright"
    ):
        maps = selected(geometry, cameras, min_confidence, keep_at_least, confirmed_by)
        cloud = fuse_points(maps, max_points, voxel or None, host.progress_bar())
        xyz, normals = cloud.xyz, cloud.normals
        if axes == "upright":
            matrix = gltf_transform(xyz, cameras.w2c[0])
            xyz = (xyz.double() @ matrix[:3, :3].T + matrix[:3, 3]).float()
            normals = (normals.double() @ matrix[:3, :3].T).float()
        return io.NodeOutput(Types.File3D(BytesIO(ply_bytes(xyz, cloud.rgb, normals)), "ply"))


class GLDExportDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDExportDataset",
            display_name="Export GLD Dataset",
            category="GLD",
            description="All views with their cameras and points as a new folder that trainers of Gaussian splats and "
            "radiance fields start from.",
            search_aliases=["colmap", "nerfstudio", "3dgs", "gaussian splatting", "nerf", "transforms.json"],
            inputs=[
                *geometry_inputs(),
                io.DynamicCombo.Input(
                    "format",
                    tooltip="COLMAP: images and sparse/0. nerfstudio: images, depth, points.ply and transforms.json.",
                    options=[
                        io.DynamicCombo.Option(
                            "COLMAP",
                            [io.Boolean.Input("binary", default=True, tooltip="Off: the model as text files.")],
                        ),
                        io.DynamicCombo.Option("nerfstudio", []),
                    ],
                ),
                io.String.Input(
                    "filename_prefix",
                    default="GLD/scene",
                    tooltip="The folder's name below ComfyUI/output; a number is put after it.",
                ),
                *selection_inputs(),
                max_points_input(),
            ],
            outputs=[io.String.Output(display_name="folder", tooltip="Where it is.")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, geometry, cameras, filename_prefix, min_confidence, keep_at_least, confirmed_by, max_points, format=None
    ):
        check_chosen(format, "format")
        folder = output_path(filename_prefix)
        maps = selected(geometry, cameras, min_confidence, keep_at_least, confirmed_by)
        cloud = fuse_points(maps, max_points, progress=host.progress_bar())
        names = [f"{view:04}" for view in range(len(cameras))]
        if format["format"] == "COLMAP":
            write_colmap_dataset(folder, names, maps, cloud, format["binary"])
        else:
            write_nerfstudio_dataset(folder, names, maps, cloud)
        host.say(f"{len(names)} views and {len(cloud.xyz)} points in {folder}", cls.hidden.unique_id)
        return io.NodeOutput(folder)
