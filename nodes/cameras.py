"""Cameras: from posed scenes and from photographs alone; where the targets are."""

import inspect
import math
import os
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io

from ..gld_core.cameras import Cameras, motions
from ..gld_core.cameras.conventions import check_scene
from ..gld_core.geometry.depth_maps import PosedDepth, agreement, usable
from ..gld_core.io.comfyui import preview_world, read_load3d
from ..gld_core.io.images import fit, fitting_size
from ..gld_core.io.posed_folders import choose_views, read_scene
from . import host
from .host.folders import stamp
from .sockets import (
    LONG_SIDE_TOOLTIP,
    DA3Geometry,
    GLDBackbone,
    GLDCameras,
    check_chosen,
    da3_geometry,
    indices,
    sources_geometry,
)

SAMPLES = Path(__file__).parents[1] / "workflows" / "inputs"


def samples() -> dict[str, str]:
    """Folders of the scenes that come with the plugin by the names they are listed under."""
    return {f"sample: {folder.name}": str(folder) for folder in sorted(SAMPLES.iterdir())}


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
    if name in samples():
        return samples()[name]
    top = folder_paths.get_input_directory()
    path = os.path.join(top, name)
    if not folder_paths.is_within_directory(top, path) or not os.path.isdir(path):
        raise ValueError(
            f"There is no scene {name!r} in {top}; put a folder of pictures with same-named .npz cameras there."
        )
    return path


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
                io.Combo.Input(
                    "scene",
                    options=[*scene_folders(), *samples()],
                    tooltip="Folder below ComfyUI/input, or a sample that comes with this plugin.",
                ),
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
                io.Int.Input("long_side", default=504, min=56, max=2016, step=14, tooltip=LONG_SIDE_TOOLTIP),
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
            int(count) if count.isdecimal() and len(count) < 6 else indices(sources, "sources"),
            indices(targets, "targets") or None,
        )
        cameras = loaded.cameras[chosen + wanted]
        check_scene(cameras, len(chosen))
        return io.NodeOutput(loaded.photographs(chosen).movedim(1, -1), cameras)


class GLDEstimateCameras(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDEstimateCameras",
            display_name="Estimate GLD Cameras",
            category="GLD",
            description="Cameras and depth of photographs that have no cameras, read off the photographs by the "
            "backbone's own network. One photograph is enough.",
            search_aliases=["pose estimation", "structure from motion", "colmap", "unposed", "single image", "depth"],
            inputs=[
                GLDBackbone.Input("backbone", tooltip="From Load GLD Backbone."),
                io.Image.Input("images", tooltip="One to four photographs of one scene, of any size."),
                io.Int.Input("long_side", default=504, min=56, max=2016, step=14, tooltip=LONG_SIDE_TOOLTIP),
                io.Float.Input(
                    "fov",
                    default=0.0,
                    min=0.0,
                    max=170.0,
                    step=0.1,
                    tooltip="Horizontal field of view of the fitted photographs in degrees, where it is known. 0: as "
                    "estimated. Poses and depth stay as estimated.",
                ),
            ],
            outputs=[
                GLDCameras.Output(
                    display_name="cameras", tooltip="One camera per photograph, all in one scale: the network's own."
                ),
                io.Image.Output(display_name="images", tooltip="The photographs, resized and cropped to the cameras."),
                DA3Geometry.Output(display_name="geometry", tooltip="Depth of the photographs, in the cameras' units."),
                io.Float.Output(
                    display_name="confidence",
                    tooltip="The network's median confidence in the depth of the photograph it is least sure of. 1 is "
                    "none; well-lit scenes with texture have several times that.",
                ),
                io.String.Output(display_name="report", tooltip="What the node says about every photograph."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, backbone, images, long_side, fov):
        H, W = images.shape[1:3]
        height, width = fitting_size(H, W, long_side)
        middle = torch.tensor([[1.0, 0, W / 2], [0, 1, H / 2], [0, 0, 1]])
        fitted = torch.stack([fit(image, middle, height, width)[0] for image in images[..., :3].movedim(-1, 1)])
        rows = len(fitted) * backbone.grid(height, width)
        head = "own_head" if "own_head" in backbone.patchers else "head"
        codec = backbone.on_device({"backbone": rows, head: rows, "camera_decoder": len(fitted)})
        found = codec.estimate(fitted)
        cameras, depth, confidence = found.cameras, found.depth.cpu(), found.depth_conf.cpu()
        if fov:
            K = cameras.K.clone()
            K[:, 0, 0] = K[:, 1, 1] = width / 2 / math.tan(math.radians(fov) / 2)
            cameras = Cameras(cameras.c2w, K, height, width)
        cameras.check()
        if len(cameras) > 1 and not cameras.c2w[:, :3, 3].any():
            raise ValueError(
                f"This backbone does not find where the {len(cameras)} photographs stand; give it one photograph, load "
                "the cameras, or estimate with da3 or vggt."
            )
        medians = [view.median().item() for view in confidence]
        shares = [math.nan] * len(medians)
        if len(medians) > 1:
            agreed = agreement(PosedDepth(depth, cameras, usable(depth, confidence, 1.0)))
            shares = [(view > 0).float().mean().item() for view in agreed.confirmed]
        lines = []
        for view, (focal, median, share) in enumerate(zip(cameras.K[:, 0, 0].tolist(), medians, shares, strict=True)):
            across = math.degrees(2 * math.atan(width / 2 / focal))
            others = "" if math.isnan(share) else f", {share:.0%} of it confirmed by another photograph"
            lines.append(f"photograph {view}: {across:.0f} degrees across, confidence {median:.2f}{others}")
        report = "\n".join(lines)
        host.say(report, cls.hidden.unique_id)
        pictures = fitted.movedim(1, -1).contiguous()
        geometry = da3_geometry(pictures, host.to_host(depth), host.to_host(confidence), cameras)
        return io.NodeOutput(cameras, pictures, geometry, min(medians), report)


# Range, step and unit of the motions' settings.
SETTINGS = {
    "degrees": (-1440.0, 1440.0, 1.0, "Degrees."),
    "elevation": (-180.0, 180.0, 1.0, "Degrees upwards."),
    "distance": (-20.0, 20.0, 0.01, "In scene depths: 0.3 is 30 percent of the scene's median depth."),
    "radius": (-20.0, 20.0, 0.01, "In scene depths."),
    "advance": (-20.0, 20.0, 0.01, "In scene depths; below 0 backwards."),
    "width": (-20.0, 20.0, 0.01, "In scene depths."),
    "turns": (-20.0, 20.0, 0.1, "Full turns."),
    "factor": (0.05, 20.0, 0.01, "Times the focal length."),
}


NUMBER = 7


# A motion's settings are optional: one chosen on a subgraph's box comes with the settings of the one chosen inside.
def number_input() -> io.Int.Input:
    return io.Int.Input(
        "number",
        default=NUMBER,
        min=1,
        max=1000,
        optional=True,
        tooltip="How many target views. With the sources, up to 8 go in one pass.",
    )


def ease_input() -> io.Combo.Input:
    return io.Combo.Input(
        "ease",
        options=list(motions.EASES),
        optional=True,
        tooltip="Slow at the start (in), the end (out) or both.",
    )


def start_inputs() -> list:
    return [
        io.Boolean.Input(
            "first_is_source",
            default=False,
            optional=True,
            tooltip="The first target is the source itself, else the step after it.",
        ),
        io.Int.Input(
            "source",
            default=0,
            min=0,
            max=63,
            optional=True,
            advanced=True,
            tooltip="The source that the path starts from.",
        ),
    ]


def closed_input() -> io.Boolean.Input:
    return io.Boolean.Input("closed", default=False, optional=True, tooltip="Return to the start.")


def motion_option(name: str) -> io.DynamicCombo.Option:
    """A motion with its own settings, whose names and defaults are those of its function."""
    settings = []
    for setting in list(inspect.signature(motions.MOTIONS[name]).parameters.values())[2:]:
        low, high, step, unit = SETTINGS[setting.name]
        tooltip = f"{motions.MOTIONS[name].__doc__} {unit}"
        settings.append(
            io.Float.Input(
                setting.name, default=setting.default, min=low, max=high, step=step, optional=True, tooltip=tooltip
            )
        )
    return io.DynamicCombo.Option(name, [*settings, number_input(), ease_input(), *start_inputs()])


def motion_options() -> list[io.DynamicCombo.Option]:
    keyframe = io.MultiType.Input(
        "keyframe",
        [GLDCameras, io.Load3DCamera],
        tooltip="One camera or several. A 3D view's camera has to be of the scene that Preview GLD Cameras shows.",
    )
    return [
        *(motion_option(name) for name in motions.MOTIONS if name != "hold"),
        io.DynamicCombo.Option(
            "interpolate",
            [
                number_input(),
                ease_input(),
                io.Boolean.Input(
                    "first_is_source",
                    default=False,
                    optional=True,
                    tooltip="Start and end at the sources themselves.",
                ),
                closed_input(),
            ],
        ),
        io.DynamicCombo.Option(
            "keyframes",
            [
                io.Autogrow.Input("keyframes", io.Autogrow.TemplatePrefix(keyframe, "keyframe", min=1, max=50)),
                number_input(),
                ease_input(),
                *start_inputs(),
                closed_input(),
            ],
        ),
        motion_option("hold"),
        io.DynamicCombo.Option(
            "views",
            [
                GLDCameras.Input("targets", tooltip="Cameras to look from."),
                io.String.Input("views", default="", optional=True, tooltip="Which of them: '2-5'. Empty: all."),
            ],
        ),
    ]


def keyframe_cameras(keyframes: dict, sources: Cameras) -> Cameras | None:
    """All keyframes in one list; 3D views see the world as `preview_world` has it."""
    keys = None
    for value in keyframes.values():
        if not isinstance(value, Cameras):
            value, _ = read_load3d([value], sources.height, sources.width, preview_world(sources))
        keys = value if keys is None else motions.join(keys, value)
    return keys


class GLDSetCameras(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDSetCameras",
            display_name="Set GLD Cameras",
            category="GLD",
            description="Where to look from: the sources' cameras followed by the targets', on a path or from "
            "elsewhere. Distances are relative to the scene's own depth.",
            search_aliases=["camera path", "trajectory", "viewpoint", "orbit", "dolly", "pan", "zoom", "keyframes"],
            inputs=[
                GLDCameras.Input("cameras", tooltip="The sources' cameras first, as from Estimate GLD Cameras."),
                io.Int.Input(
                    "sources", default=0, min=0, max=64, tooltip="How many of them are the sources'. 0: all of them."
                ),
                io.DynamicCombo.Input(
                    "motion",
                    options=motion_options(),
                    tooltip="How the camera moves; views: cameras taken from another list.",
                ),
                DA3Geometry.Input(
                    "geometry",
                    optional=True,
                    tooltip="Of the sources, in their order: how deep the scene is. Open: where the sources' axes "
                    "meet, or 1 for a single photograph.",
                ),
            ],
            outputs=[GLDCameras.Output(display_name="cameras", tooltip="Sources, then targets.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, cameras, sources, motion=None, geometry=None):
        check_chosen(motion, "motion")
        if sources > len(cameras):
            raise ValueError(f"The input 'sources' is {sources}, but there are {len(cameras)} cameras; lower it.")
        own = cameras[: sources or len(cameras)]
        measured = None if geometry is None else sources_geometry(geometry, own).depth
        check_scene(own, len(own), None if measured is None else motions.scene_depth(own, measured))
        depth = motions.scene_depth(own, measured)
        settings = {name: value for name, value in motion.items() if value is not None}
        name = settings.pop("motion")
        if name == "views":
            targets = settings["targets"]
            chosen = indices(settings.get("views", ""), "views") or list(range(len(targets)))
            if max(chosen) >= len(targets):
                raise ValueError(f"There is no target view {max(chosen)}; the list has views 0 to {len(targets) - 1}.")
            targets = targets[chosen]
        else:
            base, loop = settings.pop("source", 0), settings.pop("closed", False)
            keys = keyframe_cameras(settings.pop("keyframes", {}), own)
            count = settings.pop("number", NUMBER)
            targets = motions.targets(own, name, count, depth, base=base, loop=loop, keys=keys, **settings)
        joined = motions.join(own, targets)
        check_scene(joined, len(own), None if measured is None else depth)
        host.say(f"{len(own)} sources, {len(targets)} targets; scene depth {depth:.3g}", cls.hidden.unique_id)
        return io.NodeOutput(joined)
