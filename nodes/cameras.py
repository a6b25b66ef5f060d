"""Cameras: from posed scenes and from photographs alone; where the targets are."""

import inspect
import math
import os
from dataclasses import replace
from itertools import count as count_up
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io

from ..gld_core.cameras import Cameras, motions
from ..gld_core.cameras.conventions import check_scene
from ..gld_core.export.camera_plan import counted
from ..gld_core.geometry.depth_maps import PosedDepth, agreement, usable
from ..gld_core.io.cameras import files_in, find_folders, read_scene
from ..gld_core.io.comfyui import preview_world, read_load3d
from ..gld_core.io.images import fit, fitting_size
from ..gld_core.jobs.scene import estimate
from . import host
from .host.families import FAMILIES
from .host.folders import check_text, input_path, stamp
from .host.inputs import check_choice, problem
from .sockets import (
    DA3Geometry,
    GLDBackbone,
    GLDCameras,
    da3_geometry,
    indices,
    long_side_input,
    pictures,
    source_geometry_input,
    sources_geometry,
)

SAMPLES = Path(__file__).parents[1] / "workflows" / "inputs"


def samples() -> dict[str, str]:
    """Folders of the scenes that come with the plugin by the names they are listed under."""
    return {f"sample: {folder.name}": str(folder) for folder in sorted(SAMPLES.iterdir())}


def scene_folders() -> list[str]:
    """Folders in the input folder with cameras, or with pictures that cameras can be estimated for."""
    top = folder_paths.get_input_directory()
    return sorted(os.path.relpath(folder, top).replace(os.sep, "/") for folder in find_folders(Path(top)))


def scene_path(name: str) -> str:
    """Folder of a scene. ValueError where the name leaves the input folder or there is none."""
    check_text("scene", name)
    if name in samples():
        return samples()[name]
    return input_path(name, "scene", "a folder of pictures and their cameras", folder=True)


class GLDLoadScene(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDLoadScene",
            display_name="Load GLD Scene",
            category="GLD",
            description="Loads photographs with known cameras from a folder in ComfyUI/input: a COLMAP model, a "
            "transforms.json, .npz files, or another format in docs/formats.md. Pictures and cameras belong together "
            "by their names.",
            search_aliases=["posed images", "camera poses", "extrinsics", "intrinsics", "colmap", "nerfstudio"],
            inputs=[
                io.Combo.Input(
                    "scene",
                    options=[*scene_folders(), *samples()],
                    tooltip="A folder in ComfyUI/input with pictures and cameras, or a sample that comes with this "
                    "plugin. Pictures without cameras are listed too; for those use Load Image and Estimate GLD "
                    "Cameras.",
                ),
                io.String.Input(
                    "sources",
                    default="2",
                    tooltip="Source views. Either how many, such as '2' (spread evenly over the scene), or view "
                    "numbers counted from 0, such as '0,' or '0, 7'. One to four sources work best.",
                ),
                io.String.Input(
                    "targets",
                    default="",
                    tooltip="Target views to generate, as view numbers such as '3-5, 7'. If empty: all other views.",
                ),
                long_side_input(),
                GLDBackbone.Input(
                    "backbone",
                    optional=True,
                    tooltip="The backbone of Load GLD, whose size long_side 0 means. If not connected: 504 pixels.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The source photographs."),
                GLDCameras.Output(
                    display_name="cameras", tooltip="The cameras of the sources, then those of the targets."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, scene=None):
        # A name that comes by wire is not known yet.
        return scene is None or problem(scene_path, scene)

    @classmethod
    def fingerprint_inputs(cls, scene=None, **kwargs):
        scenes = [*scene_folders(), *samples()] if scene is None else [scene]
        return stamp([file for name in scenes for file in files_in(Path(scene_path(name)))])

    @classmethod
    def execute(cls, scene, sources, targets, long_side, backbone=None):
        own = FAMILIES["da3"] if backbone is None else backbone.family
        loaded = read_scene(scene_path(scene), long_side or own.long_side)
        count, views = sources.strip(), len(loaded.all())
        if count.isdecimal() and not 0 < int(count[:6]) < views:
            raise ValueError(
                f"The input 'sources' is '{count[:6]}', how many of the {views} views; give 1 to {views - 1}, or "
                f"write '{count[:6]},' with a comma for the view of that number."
            )
        chosen, wanted = loaded.choose(
            int(count) if count.isdecimal() else indices(sources, "sources"), indices(targets, "targets") or None
        )
        check_scene(loaded.cameras_of(chosen + wanted), len(chosen))
        progress, pictures = host.progress_bar(), count_up()
        images, cameras = loaded.load(chosen, wanted, lambda: progress(next(pictures), len(chosen)))
        if loaded.left_out():
            host.say(loaded.left_out(), cls.hidden.unique_id)
        return io.NodeOutput(images.movedim(1, -1), cameras)


def judged(confidence: float) -> str:
    """A median depth confidence in a word. 1 is the lowest that the networks give."""
    return "low" if confidence < 1.2 else "fair" if confidence < 2 else "good"


class GLDEstimateCameras(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDEstimateCameras",
            display_name="Estimate GLD Cameras",
            category="GLD",
            description="Estimates cameras and depth from photographs alone with the backbone network. One photograph "
            "is enough.",
            search_aliases=["pose estimation", "structure from motion", "colmap", "unposed", "single image", "depth"],
            inputs=[
                GLDBackbone.Input("backbone", tooltip="The output of Load GLD Backbone."),
                io.Image.Input("images", tooltip="One to four photographs of one scene, of any size."),
                long_side_input(),
                io.Float.Input(
                    "fov",
                    default=0.0,
                    min=0.0,
                    max=170.0,
                    step=0.1,
                    tooltip="Horizontal field of view of the fitted photographs in degrees, if you know it. 0 means: "
                    "estimate it. It does not change the poses and the depth.",
                ),
            ],
            outputs=[
                GLDCameras.Output(
                    display_name="cameras",
                    tooltip="One camera per photograph. All share one scale, chosen by the network.",
                ),
                io.Image.Output(display_name="images", tooltip="The photographs, resized and cropped to the cameras."),
                DA3Geometry.Output(
                    display_name="geometry", tooltip="Depth of the photographs in the units of the cameras."
                ),
                io.Float.Output(
                    display_name="confidence",
                    tooltip="Median depth confidence of the least certain photograph. 1 is the lowest value. Below 1.2 "
                    "is low, from 2 on it is good.",
                ),
                io.String.Output(
                    display_name="report", tooltip="Field of view and confidence of every photograph, as text."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, backbone, images, long_side, fov):
        H, W = images.shape[1:3]
        height, width = fitting_size(H, W, long_side or backbone.family.long_side)
        middle = torch.tensor([[1.0, 0, W / 2], [0, 1, H / 2], [0, 0, 1]])
        progress, fits = host.progress_bar(), []
        for number, image in enumerate(images):
            progress(number, len(images))
            fits.append(fit(pictures(image, "images"), middle, height, width)[0])
        fitted = torch.stack(fits)
        rows = len(fitted) * backbone.grid(height, width)
        head = "da3_head" if "da3_head" in backbone.patchers else "gld_head"
        autoencoder = backbone.on_device({"backbone": rows, head: rows, "camera_decoder": len(fitted)})
        cameras, depth, confidence = estimate(autoencoder, fitted, fov)
        medians = [view.median().item() for view in confidence]
        shares = [math.nan] * len(medians)
        if len(medians) > 1:
            agreed = agreement(PosedDepth(depth, cameras, usable(depth, confidence, 1.0)))
            shares = [(view > 0).float().mean().item() for view in agreed.confirmed]
        lines = []
        for view, (focal, median, share) in enumerate(zip(cameras.K[:, 0, 0].tolist(), medians, shares, strict=True)):
            across = math.degrees(2 * math.atan(width / 2 / focal))
            others = "" if math.isnan(share) else f", {share:.0%} of it confirmed by another photograph"
            lines.append(
                f"photograph {view}: {across:.0f} degrees across, confidence {median:.2f} ({judged(median)}){others}"
            )
        report = "\n".join(lines)
        host.say(report, cls.hidden.unique_id)
        shown = fitted.movedim(1, -1).contiguous()
        geometry = da3_geometry(shown, host.to_host(depth), host.to_host(confidence), cameras)
        return io.NodeOutput(cameras, shown, geometry, min(medians), report)


NUMBER, DEFAULTS = motions.NUMBER, motions.DEFAULTS


# A motion's settings are optional: one chosen on a subgraph's box comes with the settings of the one chosen inside.
def number_input() -> io.Int.Input:
    return io.Int.Input(
        "number",
        default=NUMBER,
        min=1,
        max=1000,
        optional=True,
        tooltip="Number of target views. Up to 12 views, sources included, are generated in one pass.",
    )


def ease_input() -> io.Combo.Input:
    return io.Combo.Input(
        "ease",
        options=list(motions.EASES),
        optional=True,
        tooltip="Easing: the camera moves slowly at the start (in), at the end (out) or at both.",
    )


def start_inputs() -> list:
    return [
        io.Boolean.Input(
            "first_is_source",
            default=False,
            optional=True,
            tooltip="If on: the first target is the source view itself. If off: it is the first step after it.",
        ),
        io.Int.Input(
            "source",
            default=0,
            min=0,
            max=63,
            optional=True,
            advanced=True,
            tooltip="Number of the source view that the path starts from, counted from 0.",
        ),
    ]


def closed_input() -> io.Boolean.Input:
    return io.Boolean.Input(
        "closed", default=False, optional=True, tooltip="Closed path: the camera returns to its start."
    )


def motion_settings(name: str) -> dict[str, float]:
    """Defaults of a motion's own settings."""
    settings = list(inspect.signature(motions.MOTIONS[name]).parameters.values())[2:]
    return {setting.name: setting.default for setting in settings} | DEFAULTS.get(name, {})


def motion_option(name: str) -> io.DynamicCombo.Option:
    """A motion with its own settings, whose names and defaults are those of its function."""
    settings = []
    for setting, default in motion_settings(name).items():
        low, high, step, unit = motions.SETTINGS[setting]
        tooltip = f"{motions.MOTIONS[name].__doc__} {unit}"
        settings.append(
            io.Float.Input(setting, default=default, min=low, max=high, step=step, optional=True, tooltip=tooltip)
        )
    return io.DynamicCombo.Option(name, [*settings, number_input(), ease_input(), *start_inputs()])


def keyframe_input(name: str, **options) -> io.MultiType.Input:
    """Cameras of this plugin or of a 3D view, for `keyframe_cameras`."""
    return io.MultiType.Input(name, [GLDCameras, io.Load3DCamera], **options)


LENSES = ("source", "3D view")


def lens_input(**options) -> io.Combo.Input:
    return io.Combo.Input(
        "lens",
        options=list(LENSES),
        default="source",
        optional=True,
        tooltip="Lens of the cameras of 3D views. source: that of the source view, whatever the view shows. 3D view: "
        "the view's own field of view.",
        **options,
    )


def motion_options() -> list[io.DynamicCombo.Option]:
    keyframe = keyframe_input(
        "keyframe",
        tooltip="One or several cameras. The camera of a 3D view must belong to the scene of Preview GLD Cameras.",
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
                    tooltip="If on: the path starts and ends exactly at the source views.",
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
                lens_input(),
            ],
        ),
        motion_option("hold"),
        io.DynamicCombo.Option(
            "views",
            [
                GLDCameras.Input("targets", tooltip="A list of cameras that become the targets."),
                io.String.Input(
                    "views",
                    default="",
                    optional=True,
                    tooltip="View numbers of the cameras to use, such as '2-5'. If empty: all of them.",
                ),
            ],
        ),
    ]


def keyframe_cameras(keyframes: dict, sources: Cameras, lens: str = "source", base: int = 0) -> Cameras | None:
    """All keyframes in one list; 3D views see the world as `preview_world` has it, through the lens of the source
    `base` or through their own.
    """
    keys = None
    for value in keyframes.values():
        if not isinstance(value, Cameras):
            value, _ = read_load3d([value], sources.height, sources.width, preview_world(sources))
            if lens == "source" and base < len(sources):
                value = replace(value, K=sources.K[base : base + 1])
        keys = value if keys is None else motions.join(keys, value)
    return keys


def lens_remark(keyframes: dict, lens: str) -> str:
    """Whose lens the keyframes of 3D views have. Empty where there are none."""
    if all(isinstance(value, Cameras) for value in keyframes.values()):
        return ""
    if lens == "source":
        return "\nThe 3D views have the source's lens; set 'lens' to '3D view' for their own."
    return "\nThe 3D views have their own lens."


def scene_depth_input():
    return source_geometry_input(
        "Geometry of the sources in their order, which gives the scene depth. If not connected: the depth at "
        "which the viewing axes of the sources meet, or 1 for a single photograph.",
        optional=True,
    )


def sources_and_targets_output():
    return GLDCameras.Output(display_name="cameras", tooltip="The cameras of the sources, then those of the targets.")


class GLDSetCameras(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDSetCameras",
            display_name="Set GLD Cameras",
            category="GLD",
            description="Adds target cameras after the cameras of the sources: along a camera path or from another "
            "list. Distances are relative to the depth of the scene.",
            search_aliases=[
                "camera path",
                "camera trajectory",
                "viewpoint",
                "new angle",
                "orbit",
                "turntable",
                "dolly",
                "pan",
                "zoom",
                "keyframes",
            ],
            inputs=[
                GLDCameras.Input(
                    "cameras",
                    tooltip="The cameras of the sources come first, for example those of Estimate GLD Cameras.",
                ),
                io.Int.Input(
                    "sources",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="Number of source cameras in 'cameras'. 0 means all of them.",
                ),
                io.DynamicCombo.Input(
                    "motion",
                    options=motion_options(),
                    tooltip="Camera motion. views takes the cameras from another list.",
                ),
                scene_depth_input(),
            ],
            outputs=[
                sources_and_targets_output(),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, cameras=None, motion=None):
        return problem(check_choice, cls, "motion", motion)

    @classmethod
    def execute(cls, cameras, sources, motion, geometry=None):
        if sources > len(cameras):
            raise ValueError(f"The input 'sources' is {sources}, but 'cameras' has only {len(cameras)}; lower it.")
        own = cameras[: sources or len(cameras)]
        depth = measured_depth(own, geometry)
        settings = {name: value for name, value in motion.items() if value is not None}
        name, remark = settings.pop("motion"), ""
        if name == "views":
            targets = settings["targets"]
            chosen = indices(settings.get("views", ""), "views") or list(range(len(targets)))
            if max(chosen) >= len(targets):
                raise ValueError(
                    f"The input 'views' names view {max(chosen)}; 'targets' has views 0 to {len(targets) - 1}."
                )
            targets = targets[chosen]
        else:
            base, loop = settings.pop("source", 0), settings.pop("closed", False)
            keyframes, lens = settings.pop("keyframes", {}), settings.pop("lens", "source")
            remark = lens_remark(keyframes, lens)
            keys = keyframe_cameras(keyframes, own, lens, base)
            count = settings.pop("number", NUMBER)
            own_settings = DEFAULTS.get(name, {}) | settings
            targets = motions.targets(own, name, count, depth, base=base, loop=loop, keys=keys, **own_settings)
        return io.NodeOutput(with_targets(own, targets, depth, geometry, cls.hidden.unique_id, remark))


# What Move GLD Camera offers: motions of which one number says how far they go.
MOVES = (
    "orbit", "dolly", "truck", "pedestal", "spiral", "lemniscate", "look_around", "pan", "tilt", "zoom", "dolly_zoom",
)  # fmt: skip


class GLDMoveCamera(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDMoveCamera",
            display_name="Move GLD Camera",
            category="GLD",
            description="Adds target cameras along a simple camera motion that starts at the first photograph. Set GLD "
            "Cameras has more motions and settings.",
            search_aliases=["camera path", "camera trajectory", "new angle", "orbit", "turntable", "parallax", "dolly"],
            inputs=[
                GLDCameras.Input(
                    "cameras", tooltip="The cameras of the sources, for example those of Estimate GLD Cameras."
                ),
                io.Combo.Input(
                    "motion",
                    options=list(MOVES),
                    tooltip="Camera motion. orbit: around the scene. dolly: forward. truck: sideways. pedestal: up. "
                    "spiral, lemniscate: in circles, in a figure of eight. look_around, pan, tilt: turn in place. "
                    "zoom, dolly_zoom: change the lens.",
                ),
                io.Float.Input(
                    "amount",
                    default=1.0,
                    min=-20.0,
                    max=20.0,
                    step=0.1,
                    tooltip="How far the camera moves. 1: what looks good from one photograph, such as 30 degrees of "
                    "orbit. 2: twice as far. Negative: the other way.",
                ),
                io.Int.Input(
                    "number",
                    default=NUMBER,
                    min=1,
                    max=1000,
                    tooltip="Number of target views. More than 12 views, sources included, take several passes.",
                ),
                scene_depth_input(),
            ],
            outputs=[
                sources_and_targets_output(),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, cameras, motion, amount, number, geometry=None):
        depth = measured_depth(cameras, geometry)
        settings = {name: scaled(name, value, amount) for name, value in motion_settings(motion).items()}
        targets = motions.targets(cameras, motion, number, depth, **settings)
        return io.NodeOutput(with_targets(cameras, targets, depth, geometry, cls.hidden.unique_id))


def scaled(setting: str, value: float, amount: float) -> float:
    """A setting's default, for a motion that goes `amount` times as far."""
    if setting == "factor":
        low, high, _, _ = motions.SETTINGS[setting]
        return min(max(value**amount, low), high)
    return value if setting == "turns" else value * amount


def measured_depth(sources: Cameras, geometry: dict | None) -> float:
    """The scene's depth, measured where there is geometry. ValueError where cameras and geometry cannot belong
    together."""
    measured = None if geometry is None else sources_geometry(geometry, sources).depth
    depth = motions.scene_depth(sources, measured)
    check_scene(sources, len(sources), None if measured is None else depth)
    return depth


def camera_report(sources: Cameras, targets: Cameras, depth: float) -> str:
    cameras = f"{counted(len(sources), 'source')}, {counted(len(targets), 'target')}"
    return f"{cameras}; scene depth {depth:.3g}"


def with_targets(
    sources: Cameras, targets: Cameras, depth: float, geometry: dict | None, node_id: str, remark: str = ""
) -> Cameras:
    joined = motions.join(sources, targets)
    check_scene(joined, len(sources), None if geometry is None else depth)
    host.say(camera_report(sources, targets, depth) + remark, node_id)
    return joined
