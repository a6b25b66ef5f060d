"""Cameras: from posed scenes and from photographs alone; where the targets are."""

import os

import folder_paths
import torch
from comfy_api.latest import io

from ..gld_core.cameras import Cameras
from ..gld_core.scenes import choose_views, read_scene
from .load import stamp
from .sockets import GLDBackbone, GLDCameras


def scene_folders() -> list[str]:
    """Folders below the input folder that hold cameras (.npz)."""
    top = folder_paths.get_input_directory()
    found = []
    for folder, _, files in os.walk(top):
        if any(name.endswith(".npz") for name in files):
            found.append(os.path.relpath(folder, top).replace(os.sep, "/"))
    return sorted(found)


def scene_path(name: str) -> str:
    """Folder of a scene. ValueError where the name leaves the input folder or there is none."""
    top = folder_paths.get_input_directory()
    path = os.path.join(top, name)
    if not folder_paths.is_within_directory(top, path) or not os.path.isdir(path):
        raise ValueError(
            f"There is no scene {name!r} in {top}; put a folder of pictures with same-named .npz cameras there."
        )
    return path


def indices(text: str, name: str) -> list[int]:
    """'0, 3-5' -> [0, 3, 4, 5]. ValueError names the input."""
    out = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise ValueError(f"The input '{name}' is {text!r}; give view numbers such as 0, 3-5.")
        out += range(int(first), int(last or first) + 1)
    return out


class GLDLoadScene(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDLoadScene",
            display_name="Load GLD Scene",
            category="GLD",
            description="Photographs with known cameras: a folder below ComfyUI/input of pictures, each with a "
            "same-named .npz that holds 'pose' (4x4 OpenCV camera-to-world) and 'intrinsic' (3x3, pixels).",
            search_aliases=["posed images", "camera poses", "extrinsics", "intrinsics"],
            inputs=[
                io.Combo.Input("scene", options=scene_folders(), tooltip="Folder below ComfyUI/input."),
                io.String.Input(
                    "sources",
                    default="2",
                    tooltip="The views to start from: a number (spread evenly over the scene), or view numbers from 0 "
                    "such as '0,' or '0, 7'. One to four work best.",
                ),
                io.String.Input(
                    "targets",
                    default="",
                    tooltip="The views to make, as view numbers such as '3-5, 7'. Empty: all the others.",
                ),
                io.Int.Input(
                    "long_side",
                    default=504,
                    min=56,
                    max=2016,
                    step=14,
                    tooltip="Pixels of the longer side after fitting; the shorter one becomes the nearest multiple of "
                    "14. The models were trained at 504.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The source photographs."),
                GLDCameras.Output(display_name="cameras", tooltip="Cameras of the sources, then of the targets."),
            ],
        )

    @classmethod
    def validate_inputs(cls, scene):
        scene_path(scene)
        return True

    @classmethod
    def fingerprint_inputs(cls, scene, **kwargs):
        return stamp(sorted(entry.path for entry in os.scandir(scene_path(scene))))

    @classmethod
    def execute(cls, scene, sources, targets, long_side):
        loaded = read_scene(scene_path(scene), long_side)
        count = sources.strip()
        chosen, wanted = choose_views(
            len(loaded),
            int(count) if count.isdigit() else indices(sources, "sources"),
            indices(targets, "targets") or None,
        )
        return io.NodeOutput(loaded.photographs(chosen).movedim(1, -1), loaded.cameras[chosen + wanted])


class GLDEstimateCameras(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDEstimateCameras",
            display_name="Estimate GLD Cameras",
            category="GLD",
            description="Cameras of photographs that have none, read off the photographs by Depth Anything 3.",
            search_aliases=["pose estimation", "structure from motion", "colmap"],
            inputs=[
                GLDBackbone.Input("backbone", tooltip="From Load GLD Backbone."),
                io.Image.Input("images", tooltip="Photographs of one scene; width and height multiples of 14."),
            ],
            outputs=[
                GLDCameras.Output(display_name="cameras", tooltip="One camera per photograph, in units of the network.")
            ],
        )

    @classmethod
    def execute(cls, backbone, images):
        images = images[..., :3].movedim(-1, 1)
        rows = len(images) * backbone.grid(*images.shape[-2:])
        head = "own_head" if "own_head" in backbone.patchers else "head"
        codec = backbone.on_device({"backbone": rows, head: rows, "camera_decoder": len(images)})
        return io.NodeOutput(codec.estimate(images).cameras)


class GLDSetCameras(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDSetCameras",
            display_name="Set GLD Cameras",
            category="GLD",
            description="Where to look from: the sources' cameras followed by the targets'.",
            search_aliases=["camera path", "trajectory", "viewpoint"],
            inputs=[
                GLDCameras.Input("cameras", tooltip="The sources' cameras first, as from Load GLD Scene."),
                io.Int.Input(
                    "sources", default=0, min=0, max=64, tooltip="How many of them are the sources'. 0: all of them."
                ),
                io.DynamicCombo.Input(
                    "motion",
                    tooltip="views: cameras taken from another list.",
                    options=[
                        io.DynamicCombo.Option(
                            "views",
                            [
                                GLDCameras.Input("targets", tooltip="Cameras to look from."),
                                io.String.Input("views", default="", tooltip="Which of them: '2-5'. Empty: all."),
                            ],
                        )
                    ],
                ),
            ],
            outputs=[GLDCameras.Output(display_name="cameras", tooltip="Sources, then targets.")],
        )

    @classmethod
    def execute(cls, cameras, sources, motion):
        if sources > len(cameras):
            raise ValueError(f"The input 'sources' is {sources}, but there are {len(cameras)} cameras; lower it.")
        own, targets = cameras[: sources or len(cameras)], motion["targets"]
        chosen = indices(motion["views"], "views") or list(range(len(targets)))
        if max(chosen) >= len(targets):
            raise ValueError(f"There is no target view {max(chosen)}; the list has views 0 to {len(targets) - 1}.")
        if (own.height, own.width) != (targets.height, targets.width):
            raise ValueError(
                f"The sources' cameras are for {own.width}x{own.height} images, the targets' for "
                f"{targets.width}x{targets.height}; load both at one size."
            )
        targets = targets[chosen]
        joined = Cameras(torch.cat([own.c2w, targets.c2w]), torch.cat([own.K, targets.K]), own.height, own.width)
        return io.NodeOutput(joined)
