"""Cameras from and to other programs, and the 3D view."""

import os
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..gld_core.cameras.conventions import check_scene, nearest_pinhole
from ..gld_core.cameras.motions import scene_depth
from ..gld_core.io.cameras import camera_source, files_in, find_folders, read_scene
from ..gld_core.io.colmap import write_colmap
from ..gld_core.io.comfyui import preview_world, read_da3_geometry, read_load3d, read_moge_geometry, to_load3d
from ..gld_core.io.matrices import read_matrices
from ..gld_core.io.nerfstudio import write_transforms
from ..gld_core.io.parsing import parse_json
from ..gld_core.io.scenes import Given, Scene, scene_of
from . import host
from .host.folders import check_prefix, check_text, in_input_folder, input_path, save_numbered, stamp
from .host.inputs import check_choice, problem
from .sockets import GLDCameras, indices, is_moge, pictures, source_geometry_input

FORMATS = ("transforms.json", "COLMAP binary", "COLMAP text")
EXAMPLE = """{"width": 504, "height": 336,
 "K": [[420, 0, 252], [0, 420, 168], [0, 0, 1]],
 "c2w": [[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]]}"""


# Of arrays only LLFF's: a data set has one of depth for every view.
ENDS = (".json", ".txt", ".xml", ".csv", "poses_bounds.npy", ".out")


def camera_files() -> list[str]:
    """What below the input folder may hold cameras: folders with cameras, and files by the ends of their names."""
    top = Path(folder_paths.get_input_directory())
    found = [folder for folder in find_folders(top) if camera_source(folder) is not None]
    for name, folders, files in os.walk(top):
        folders[:] = [inner for inner in folders if not inner.startswith(".")]
        # Polycam's are of one picture each.
        if Path(name).parent.name != "keyframes":
            found += [Path(name) / file for file in files if file.lower().endswith(ENDS) or file == "results.npz"]
    found = [path for path in found if not path.is_symlink() or in_input_folder(path)]
    return sorted({path.relative_to(top).as_posix() for path in found})


def camera_path(name: str) -> str:
    """ValueError where the name leaves the input folder or there is nothing."""
    check_text("path", name)
    return input_path(name, "file or folder", "the cameras")


def size_inputs(default: int, tooltip: str) -> list:
    return [
        io.Int.Input(
            name, default=default, min=0, max=16384, tooltip=f"{name.capitalize()} of the images in pixels{tooltip}."
        )
        for name in ("width", "height")
    ]


class GLDLoadCameras(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        camera = io.Load3DCamera.Input("camera", tooltip="The camera output of a 3D node.")
        return io.Schema(
            node_id="GLDLoadCameras",
            display_name="Load GLD Cameras",
            category="GLD",
            description="Loads cameras of other programs: nerfstudio's transforms.json, COLMAP models, RealEstate10K "
            "files, posed scenes (.npz), matrices as JSON, ComfyUI's 3D views, Depth Anything 3, and the others in "
            "docs/formats.md. They are converted to OpenCV camera-to-world.",
            search_aliases=["extrinsics", "intrinsics", "nerfstudio", "colmap", "realestate10k", "import cameras"],
            inputs=[
                io.DynamicCombo.Input(
                    "source",
                    options=[
                        io.DynamicCombo.Option(
                            "file",
                            [
                                io.Combo.Input(
                                    "path", options=camera_files(), tooltip="A camera file or folder in ComfyUI/input."
                                ),
                                *size_inputs(
                                    0, ". It is needed only if the file does not contain it (RealEstate10K); else 0"
                                ),
                                io.Boolean.Input(
                                    "ignore_distortion",
                                    default=False,
                                    tooltip="If on: lens distortion is ignored. It is better to undistort the "
                                    "photographs first.",
                                ),
                            ],
                        ),
                        io.DynamicCombo.Option(
                            "json",
                            [
                                io.String.Input(
                                    "text",
                                    default=EXAMPLE,
                                    multiline=True,
                                    tooltip="Camera matrices as JSON. c2w or w2c: a list of 4x4 matrices. K: 3x3 in "
                                    "pixels, one for all cameras or one for each. width and height in pixels. axes: "
                                    "opencv (x right, y down, z forward) or opengl (x right, y up, z backward).",
                                )
                            ],
                        ),
                        io.DynamicCombo.Option(
                            "3D views",
                            [
                                io.Autogrow.Input(
                                    "cameras", io.Autogrow.TemplatePrefix(camera, "camera", min=1, max=50)
                                ),
                                *size_inputs(504, ""),
                                GLDCameras.Input(
                                    "scene",
                                    optional=True,
                                    tooltip="The cameras whose preview the 3D view shows. The result uses the same "
                                    "world.",
                                ),
                            ],
                        ),
                        io.DynamicCombo.Option(
                            "geometry",
                            [
                                source_geometry_input(
                                    "The geometry of a multi-view Depth Anything 3 model, or MoGe's of one photograph."
                                )
                            ],
                        ),
                    ],
                    tooltip="Type of the camera source.",
                ),
                io.String.Input(
                    "views",
                    default="",
                    tooltip="View numbers of the cameras to load, sources first, such as '7, 0, 3-5'. If empty: all.",
                ),
                io.Int.Input(
                    "long_side",
                    default=504,
                    min=0,
                    max=2016,
                    step=14,
                    tooltip="Length of the longer image side in pixels after resizing. The shorter side becomes the "
                    "nearest multiple of 14. The models were trained at 504. 0 leaves cameras and "
                    "photographs unchanged.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The photographs of the first cameras, in the same order. They are resized together with "
                    "the cameras.",
                ),
                io.Float.Input(
                    "fov",
                    default=0.0,
                    min=0.0,
                    max=170.0,
                    step=0.1,
                    optional=True,
                    advanced=True,
                    tooltip="Horizontal field of view in degrees. It is needed only for files that have poses without "
                    "a lens (TUM and KITTI trajectories); else 0.",
                ),
            ],
            outputs=[
                GLDCameras.Output(display_name="cameras", tooltip="The cameras in the order of 'views'."),
                io.Image.Output(display_name="images", tooltip="The photographs, resized and cropped to the cameras."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, views=None, source=None):
        return problem(check_choice, cls, "source", source)

    @classmethod
    def fingerprint_inputs(cls, source=None, **kwargs):
        if source is None or source["source"] != "file":
            return None
        names = camera_files() if source["path"] is None else [source["path"]]
        return stamp([file for name in names for file in files_in(Path(camera_path(name)))])

    @classmethod
    def execute(cls, views, long_side, source, images=None, fov=0.0):
        scene = read_source(source, long_side or None, fov or None)
        # Only in a file without photographs can views that cannot be used be left out: others would take their places.
        everything = scene.all() if source["source"] == "file" and images is None else list(range(len(scene)))
        chosen = indices(views, "views") or everything
        if max(chosen) >= len(scene):
            raise ValueError(f"The input 'views' names view {max(chosen)}; there are views 0 to {len(scene) - 1}.")
        count = 0 if images is None else len(images)
        if len(chosen) < count:
            raise ValueError(
                f"The input 'images' has {count} photographs for {len(chosen)} cameras; choose the same number of "
                "'views'."
            )
        given = None if images is None else (images.shape[1], images.shape[2])
        fits = scene.fits(chosen, None if long_side else given, given and (count, given))
        cameras = scene.cameras_of(chosen, fits)
        check_scene(cameras, count)
        names = ", ".join(scene.views[view].name for view in chosen[:8]) + (", ..." if len(chosen) > 8 else "")
        text = f"{len(cameras)} cameras of {cameras.width}x{cameras.height}: {names}"
        host.say("\n".join(filter(None, [text, scene.left_out()])), cls.hidden.unique_id)
        if images is None:
            blocked = "Load GLD Cameras has no photographs to give, because its input 'images' is not connected."
            return io.NodeOutput(cameras, ExecutionBlocker(blocked))
        progress, fitted = host.progress_bar(), []
        for image, (how, _) in zip(images, fits, strict=False):
            progress(len(fitted), count)
            fitted.append(how.apply(pictures(image, "images")))
        return io.NodeOutput(cameras, torch.stack(fitted).movedim(1, -1).contiguous())


def read_source(source: dict, long_side: int | None, fov: float | None) -> Scene:
    """Views of what the input 'source' says, for cameras fitted to long_side."""
    width, height = source.get("width") or None, source.get("height") or None
    size = (height, width) if width and height else None
    if source["source"] == "file":
        path = camera_path(source["path"])
        return read_scene(path, long_side, size, fov, source["ignore_distortion"])
    if source["source"] == "geometry":
        read = read_moge_geometry if is_moge(source["geometry"]) else read_da3_geometry
        return scene_of(*read(source["geometry"]), "The geometry", long_side)
    if source["source"] == "3D views":
        if width is None or height is None:
            raise ValueError("The camera of a 3D view has no image size; set 'width' and 'height' in pixels.")
        infos, scene = list(source["cameras"].values()), source.get("scene")
        world = () if scene is None else (preview_world(scene),)
        return scene_of(*read_load3d(infos, height, width, *world), "The list of 3D cameras", long_side)
    what = "The input 'text'"
    return Scene(what, read_matrices(parse_json(source["text"], what), what, Given()), long_side)


class GLDSaveCameras(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDSaveCameras",
            display_name="Save GLD Cameras",
            category="GLD",
            description="Saves cameras to the output folder for other programs, and gives one of them to ComfyUI's 3D "
            "views.",
            search_aliases=["export cameras", "nerfstudio", "colmap", "transforms.json"],
            inputs=[
                GLDCameras.Input(
                    "cameras",
                    tooltip="The cameras to save. Recovered cameras, which may have a skew, are saved as the nearest "
                    "ones without.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="GLD/cameras",
                    tooltip="File name in ComfyUI/output. A number is added, so that nothing is overwritten.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    tooltip="File format: a nerfstudio transforms.json, or a folder with a COLMAP model of PINHOLE "
                    "cameras. Both expect the pictures as images/view_00000.png and so on.",
                ),
                io.Int.Input(
                    "view",
                    default=0,
                    min=0,
                    max=9999,
                    advanced=True,
                    tooltip="Number of the view for 'camera_info', counted from 0.",
                ),
            ],
            outputs=[
                io.Load3DCamera.Output(
                    display_name="camera_info",
                    tooltip="Camera of a 3D node that shows the scene of Preview GLD Cameras. Connect it to "
                    "camera_info.",
                ),
                io.String.Output(display_name="path", tooltip="Path of the written file or folder."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix=None):
        return filename_prefix is None or problem(check_prefix, filename_prefix)

    @classmethod
    def execute(cls, cameras, filename_prefix, format, view):
        if view >= len(cameras):
            raise ValueError(f"The input 'view' is {view}; there are views 0 to {len(cameras) - 1}.")
        cameras, error = nearest_pinhole(cameras)
        info = to_load3d(cameras[view], scene_depth(cameras), preview_world(cameras))[0]
        files = [f"view_{number:05d}.png" for number in range(len(cameras))]

        def write(path: Path) -> None:
            if format == "transforms.json":
                write_transforms(path, cameras, [{"file_path": f"images/{file}"} for file in files])
            else:
                path.mkdir()
                write_colmap(path, cameras, files, binary=format == "COLMAP binary")

        path, _ = save_numbered(filename_prefix, "_.json" if format == "transforms.json" else "_", write)
        written = path.relative_to(folder_paths.get_output_directory()).as_posix()
        text = f"{len(cameras)} cameras: {written}"
        if error:
            text += f"; they are the nearest ones without skew, {error:.2f} pixels off"
        host.say(text, cls.hidden.unique_id)
        return io.NodeOutput(info, str(path))
