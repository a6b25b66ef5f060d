"""Target cameras placed by hand: a path of keyframes, which the page edits over the scene (web/editor)."""

import hashlib

import folder_paths
import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..gld_core.cameras import Cameras, motions
from ..gld_core.cameras.conventions import check_scene
from ..gld_core.cameras.keyframes import (
    MAX_KEYS,
    check_placed,
    keys_of,
    motion_keys,
    parse_path,
    target_cameras,
)
from ..gld_core.export.camera_plan import described
from ..gld_core.export.editor_scene import scene_bytes
from ..gld_core.geometry.depth_maps import PosedDepth, usable
from ..gld_core.geometry.reprojection import reproject
from ..gld_core.io.files import atomic
from . import host
from .cameras import camera_report, keyframe_cameras, keyframe_input, lens_input, lens_remark
from .host.inputs import problem
from .sockets import (
    GLDCameras,
    fitted_geometry,
    seen_confidence_input,
    source_geometry_input,
    source_photographs,
    sources_geometry,
)

EMPTY = {"version": 1, "keys": [], "views": 24, "ease": "none", "loop": False, "look_at": None, "fps": 8}


@io.comfytype(io_type="GLD_CAMERA_PATH")
class GLDCameraPath(io.ComfyTypeIO):
    """JSON, as text or as what it says: `gld_core.cameras.keyframes`."""

    Type = dict | str

    class Input(io.WidgetInput):
        pass


class GLDPlaceCameras(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDPlaceCameras",
            display_name="Place GLD Cameras",
            category="GLD",
            description="Places target cameras by hand: keyframes over the scene, seen from outside and through the "
            "camera. What no photograph has seen is red. Press ? in the editor to see its keys.",
            search_aliases=["camera path editor", "keyframes", "trajectory", "fly", "camera animation", "timeline"],
            inputs=[
                GLDCameras.Input(
                    "cameras", tooltip="The cameras of the sources, for example from Estimate GLD Cameras."
                ),
                GLDCameraPath.Input(
                    "path",
                    default=EMPTY,
                    tooltip="Path of keyframes: the editor writes it. Over the API it is JSON, as the help page says.",
                ),
                source_geometry_input(
                    "Geometry of the sources in their order: the surfaces that the editor and 'preview' show.",
                    optional=True,
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="Photographs of the sources, of the cameras' size. Not connected: those of 'geometry'.",
                ),
                keyframe_input(
                    "keyframes",
                    optional=True,
                    tooltip="Cameras that become the keyframes while the path has none. The editor offers them too. "
                    "The camera of a 3D view must belong to the scene of Preview GLD Cameras.",
                ),
                io.Int.Input(
                    "sources",
                    default=0,
                    min=0,
                    max=64,
                    advanced=True,
                    tooltip="Number of source cameras in 'cameras'. 0 means as many as 'images' or 'geometry' has "
                    "views, or all cameras if neither is connected.",
                ),
                seen_confidence_input(advanced=True),
                lens_input(advanced=True),
            ],
            outputs=[
                GLDCameras.Output(
                    display_name="cameras", tooltip="The cameras of the sources, then those of the targets."
                ),
                io.Image.Output(
                    display_name="preview",
                    tooltip="One picture per target: the photographs on the surfaces of the sources. The rest is red.",
                ),
                io.Mask.Output(
                    display_name="coverage", tooltip="One mask per target: 1 where a source has seen the same surface."
                ),
                io.String.Output(display_name="report", tooltip="The share of every target that a source has seen."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, path):
        # A path that comes by wire is not known yet.
        return path is None or problem(parse_path, path)

    @classmethod
    def execute(cls, cameras, path, sources, min_confidence, geometry=None, images=None, keyframes=None, lens="source"):
        placed = parse_path(path)
        own = cameras[: source_count(cameras, sources, geometry, images)]
        geometry = None if geometry is None else fitted_geometry(geometry, own)
        found = None if geometry is None else sources_geometry(geometry, own)
        check_sizes(own, found, images)
        depth = motions.scene_depth(own, None if found is None else found.depth)
        check_scene(own, len(own), None if found is None else depth)
        photographs = None
        if images is not None or geometry is not None:
            photographs = source_photographs(geometry["image"] if images is None else images, own)
        incoming = None if keyframes is None else keyframe_cameras({"": keyframes}, own, lens)
        remark = "" if keyframes is None else lens_remark({"": keyframes}, lens)
        maps = None
        if found is not None:
            maps = PosedDepth(found.depth, own, usable(found.depth, found.depth_conf, min_confidence), photographs)
        scene = save_scene(scene_bytes(own, depth, photographs, maps, incoming))
        try:
            check_placed(placed, own, depth)
        except ValueError:
            # A node that fails gives the page no results, and the page is where this is mended.
            host.tell_page("gld.scene", {"node": cls.hidden.unique_id, "scene": scene})
            raise
        if not placed.keys and incoming is not None:
            if len(incoming) > MAX_KEYS:
                raise ValueError(
                    f"The input 'keyframes' has {len(incoming)} cameras, a path has {MAX_KEYS} keyframes at most; "
                    "choose some of them, as Load GLD Cameras does with 'views'."
                )
            # Each of them is a target.
            placed = parse_path(
                {**EMPTY, "keys": [{**key, "views": 1} for key in keys_of(incoming, own)], "views": None}
            )
        shown = {"gld_scene": [scene]}
        if not placed.keys:
            text = "Place GLD Cameras has no keyframe yet; add one in its editor."
            host.say(text, cls.hidden.unique_id)
            return io.NodeOutput(*[ExecutionBlocker(text)] * 4, ui=shown)
        targets = target_cameras(placed, own, depth)
        joined = motions.join(own, targets)
        check_scene(joined, len(own), None if found is None else depth)
        if maps is None:
            blocked = ExecutionBlocker("Place GLD Cameras draws 'preview' and 'coverage' from depth; wire 'geometry'.")
            report = camera_report(own, targets, depth)
            host.say(report + remark, cls.hidden.unique_id)
            return io.NodeOutput(joined, blocked, blocked, report, ui=shown)
        pictures, masks = reproject(maps, targets, host.progress_bar())
        report = described(len(own), masks)
        host.say(report.splitlines()[0] + remark, cls.hidden.unique_id)
        return io.NodeOutput(joined, pictures.movedim(1, -1), masks, report, ui=shown)


def source_count(cameras: Cameras, sources: int, geometry: dict | None, images: Tensor | None) -> int:
    """How many of the cameras are sources. ValueError where there are not so many."""
    if sources:
        count, name = sources, "The input 'sources' is"
    elif images is not None:
        count, name = len(images), "The photographs in 'images' are"
    elif geometry is not None:
        count, name = len(geometry["depth"]), "The views of 'geometry' are"
    else:
        return len(cameras)
    if count > len(cameras):
        raise ValueError(f"{name} {count}, but there are {len(cameras)} cameras; wire the cameras of these sources.")
    return count


def check_sizes(own: Cameras, found, images: Tensor | None) -> None:
    """ValueError where depth or photographs are not of the cameras' size, or too few."""
    for name, value in (("geometry", None if found is None else found.depth), ("images", images)):
        if value is None:
            continue
        if tuple(value.shape[1:3]) != (own.height, own.width):
            raise ValueError(
                f"The input '{name}' is {value.shape[2]}x{value.shape[1]}, the cameras are for {own.width}x"
                f"{own.height}; wire that of the fitted photographs."
            )
        if len(value) < len(own):
            raise ValueError(
                f"The input '{name}' has {len(value)} views, there are {len(own)} sources; wire one for each source."
            )


def save_scene(data: bytes) -> dict[str, str]:
    """The file in the temp folder, named by what is in it, so that the page reads it anew only where it is new."""
    name = f"gld_scene_{hashlib.sha256(data).hexdigest()[:16]}.bin"
    with atomic(f"{folder_paths.get_temp_directory()}/{name}") as temporary:
        temporary.write_bytes(data)
    return {"filename": name, "subfolder": "", "type": "temp"}


def keys_along_motion(asked: dict) -> dict:
    """What the editor asks to start from a motion: its name, `keys`, `depth`, `base`, `settings`, and of the sources
    `width`, `height`, `c2w` and `K`. ValueError for what is not there.
    """
    try:
        sources = Cameras(torch.tensor(asked["c2w"]), torch.tensor(asked["K"]), asked["height"], asked["width"])
        settings = {str(name): float(value) for name, value in asked["settings"].items()}
        motion, count, depth, base = str(asked["motion"]), int(asked["keys"]), float(asked["depth"]), int(asked["base"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(f"The editor's request for a motion is incomplete ({error}); reload the page.") from None
    sources.check()
    keys, loop = motion_keys(sources, motion, count, depth, base, **settings)
    return {"keys": keys, "loop": loop}


def listed_motions(_: dict) -> dict:
    """The motions that a path may start from, each with its settings' defaults and what it does."""
    return {
        "motions": {
            name: {"about": motion.__doc__, "settings": motions.settings_of(name)}
            for name, motion in motions.MOTIONS.items()
            if name != "hold"
        }
    }


def register_routes() -> None:
    host.answer_page("/gld/motions", listed_motions)
    host.answer_page("/gld/motion", keys_along_motion)
