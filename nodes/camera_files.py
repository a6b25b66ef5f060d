"""Cameras from and to other programs, and the 3D view."""

import os
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..gld_core.cameras import Cameras
from ..gld_core.cameras.conventions import check_scene, nearest_pinhole
from ..gld_core.cameras.motions import scene_depth
from ..gld_core.io.cameras import read_cameras
from ..gld_core.io.colmap import colmap_folder, write_colmap
from ..gld_core.io.comfyui import preview_world, read_da3_geometry, read_load3d, to_load3d
from ..gld_core.io.files import atomic_folder, check_new
from ..gld_core.io.images import fit, fitting_size
from ..gld_core.io.matrices import parse_matrices
from ..gld_core.io.nerfstudio import write_transforms
from ..gld_core.io.parsing import parse_json
from . import host
from .host.folders import check_prefix, in_input_folder, input_path, output_path, stamp
from .host.inputs import check_choice, problem
from .sockets import LONG_SIDE_TOOLTIP, DA3Geometry, GLDCameras, indices

FORMATS = ("transforms.json", "COLMAP binary", "COLMAP text")
EXAMPLE = """{"width": 504, "height": 336,
 "K": [[420, 0, 252], [0, 420, 168], [0, 0, 1]],
 "c2w": [[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]]}"""


def camera_files() -> list[str]:
    """What below the input folder may hold cameras: .json and .txt files, COLMAP models, posed scenes."""
    top = Path(folder_paths.get_input_directory())
    found = []
    for name, folders, files in os.walk(top):
        folder = Path(name)
        if {"sparse"} & set(folders) or any(file.startswith("cameras.") for file in files):
            found += [folder] if colmap_folder(folder) else []
        if any(file.endswith(".npz") for file in files):
            found.append(folder)
        found += [folder / file for file in files if file.lower().endswith((".json", ".txt"))]
    return sorted(path.relative_to(top).as_posix() for path in found if not path.is_symlink() or in_input_folder(path))


def camera_path(name: str) -> str:
    """ValueError where the name leaves the input folder or there is nothing."""
    return input_path(name, "file or folder", "the cameras")


def files_below(path: Path) -> list[Path]:
    return list(path.rglob("*")) if path.is_dir() else [path]


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
            "files, posed scenes (.npz), matrices as JSON, ComfyUI's 3D views, Depth Anything 3. They are converted to "
            "OpenCV camera-to-world.",
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
                                DA3Geometry.Input(
                                    "geometry", tooltip="The geometry of a multi-view Depth Anything 3 model."
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
                    tooltip=LONG_SIDE_TOOLTIP + " 0 leaves cameras and photographs unchanged.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The photographs of the first cameras, in the same order. They are resized together with "
                    "the cameras.",
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
        return stamp([file for name in names for file in files_below(Path(camera_path(name)))])

    @classmethod
    def execute(cls, views, long_side, source, images=None):
        cameras, names = read_source(source)
        chosen = indices(views, "views") or list(range(len(cameras)))
        if max(chosen) >= len(cameras):
            raise ValueError(f"The input 'views' names view {max(chosen)}; there are views 0 to {len(cameras) - 1}.")
        cameras = cameras[chosen]
        check_scene(cameras, 0 if images is None else len(images))
        text = ", ".join(names[view] for view in chosen[:8]) + (", ..." if len(chosen) > 8 else "")
        host.say(f"{len(cameras)} cameras of {cameras.width}x{cameras.height}: {text}", cls.hidden.unique_id)
        if images is not None:
            cameras = scaled_to(cameras, images)
        if long_side:
            cameras, images = fitted(cameras, images, long_side)
        if images is None:
            images = ExecutionBlocker(
                "Load GLD Cameras has no photographs to give, because its input 'images' is not connected."
            )
        return io.NodeOutput(cameras, images)


def read_source(source: dict) -> tuple[Cameras, list[str]]:
    width, height = source.get("width") or None, source.get("height") or None
    if source["source"] == "file":
        return read_cameras(camera_path(source["path"]), height, width, source["ignore_distortion"])
    if source["source"] == "geometry":
        return read_da3_geometry(source["geometry"])
    if source["source"] == "3D views":
        if width is None or height is None:
            raise ValueError("The camera of a 3D view has no image size; set 'width' and 'height' in pixels.")
        infos, scene = list(source["cameras"].values()), source.get("scene")
        return (
            read_load3d(infos, height, width)
            if scene is None
            else read_load3d(infos, height, width, preview_world(scene))
        )
    return parse_matrices(parse_json(source["text"], "The input 'text'"), what="The input 'text'")


def scaled_to(cameras: Cameras, images: Tensor) -> Cameras:
    """Cameras of the photographs (N, H, W, 3), which may be a smaller or larger copy of what K was made for."""
    N, H, W = images.shape[:3]
    if len(cameras) < N:
        raise ValueError(
            f"The input 'images' has {N} photographs for {len(cameras)} cameras; choose the same number of 'views'."
        )
    across, down = W / cameras.width, H / cameras.height
    if abs(across - down) > max(1 / cameras.width, 1 / cameras.height):
        raise ValueError(
            f"The photographs have {W}x{H} pixels, but the cameras are for {cameras.width}x{cameras.height}, which is "
            "another aspect ratio; connect the original photographs of these cameras, without cropping."
        )
    K = cameras.K.clone()
    K[:, 0] *= across
    K[:, 1] *= down
    return Cameras(cameras.c2w, K, H, W)


def fitted(cameras: Cameras, images: Tensor | None, long_side: int) -> tuple[Cameras, Tensor | None]:
    """Cameras and photographs (N, H, W, 3) at the size the networks take; each cropped around its principal point."""
    height, width = fitting_size(cameras.height, cameras.width, long_side)
    # Only the camera of a view without a photograph is fitted.
    blank = torch.empty(3, cameras.height, cameras.width, device="meta")
    photographs = [] if images is None else list(images[..., :3].movedim(-1, 1))
    pairs = [
        fit(photographs[view] if view < len(photographs) else blank, K, height, width)
        for view, K in enumerate(cameras.K)
    ]
    if images is not None:
        images = torch.stack([image for image, _ in pairs[: len(photographs)]]).movedim(1, -1).contiguous()
    return Cameras(cameras.c2w, torch.stack([K for _, K in pairs]), height, width), images


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
        path = Path(output_path(filename_prefix) + "_")
        files = [f"view_{number:05d}.png" for number in range(len(cameras))]
        if format == "transforms.json":
            path = path.with_name(f"{path.name}.json")
            check_new(path)
            write_transforms(path, cameras, [{"file_path": f"images/{file}"} for file in files])
        else:
            with atomic_folder(path) as temporary:
                write_colmap(temporary, cameras, files, binary=format == "COLMAP binary")
        written = path.relative_to(folder_paths.get_output_directory()).as_posix()
        text = f"{len(cameras)} cameras: {written}"
        if error:
            text += f"; they are the nearest ones without skew, {error:.2f} pixels off"
        host.say(text, cls.hidden.unique_id)
        return io.NodeOutput(info, str(path))
