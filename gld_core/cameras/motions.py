"""Paths of target cameras, relative to the source cameras and to the scene's own depth.

Axes are OpenCV's (x right, y down, z forward). Distances are shares of the scene's depth, so that 0.3 means the same
in every scene; angles are degrees. A path starts at one source, its base, and all it does is seen from there: "up" is
the mean up of the sources, the centre is `scene_centre`.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from .conventions import Cameras
from .curves import EASES, Curve, pose


class Stage(NamedTuple):
    """The scene in the base camera's frame, float64: centre (3,), direction up (3,) of length 1, and depth."""

    centre: Tensor
    up: Tensor
    depth: float


def up_direction(cameras: Cameras) -> Tensor:
    """(3,) float64: the mean of the cameras' up directions in the world, or the first one's if they cancel out."""
    ups = -cameras.c2w[:, :3, 1].double()
    mean = ups.mean(dim=0)
    return mean / mean.norm() if mean.norm() > 0.1 else ups[0] / ups[0].norm()


def axes_meeting(cameras: Cameras) -> Tensor | None:
    """(3,) float64 point nearest to all optical axes (least squares), or None where a camera does not see it within
    15 degrees of its axis, as with parallel axes or a single camera.
    """
    origin, axis = cameras.c2w[:, :3, 3].double(), cameras.c2w[:, :3, 2].double()
    across = torch.eye(3, dtype=torch.float64) - axis[:, :, None] * axis[:, None]
    point = torch.linalg.lstsq(across.sum(dim=0), (across @ origin[..., None]).sum(dim=0), driver="gelsd").solution[
        :, 0
    ]
    toward = point - origin
    distance = toward.norm(dim=1)
    # One axis, or parallel ones, leave the point anywhere along them.
    if torch.linalg.eigvalsh(across.mean(dim=0))[0] < 1e-4 or distance.min() == 0:
        return None
    return point if ((toward * axis).sum(dim=1) / distance > math.cos(math.radians(15))).all() else None


def scene_depth(sources: Cameras, depth: Tensor | None = None) -> float:
    """How deep the scene is, in the cameras' units: the median of the finite, positive values of `depth` (any shape).

    Without any: the mean distance to the point where the optical axes meet; where they do not, twice the largest
    distance between two cameras; where all stand in one point, 1.
    """
    if depth is not None:
        valid = depth[torch.isfinite(depth) & (depth > 0)]
        if len(valid):
            return valid.median().item()
    centres = sources.c2w[:, :3, 3].double()
    point = axes_meeting(sources)
    if point is not None:
        return (centres - point).norm(dim=1).mean().item()
    return 2 * torch.cdist(centres, centres).max().item() or 1.0


def scene_centre(sources: Cameras, depth: float, base: int = 0) -> Tensor:
    """(3,) float64 world point that motions turn about: where the optical axes meet, if that is 1/3 to 3 times `depth`
    away from the base camera; else the point at `depth` on the base camera's axis.
    """
    c2w = sources.c2w[base].double()
    point = axes_meeting(sources)
    if point is not None and depth / 3 < (point - c2w[:3, 3]).norm() < 3 * depth:
        return point
    return c2w[:3, 3] + depth * c2w[:3, 2]


def rotation(axis: Tensor, degrees: float) -> Tensor:
    """(4, 4) float64: right-handed turn about an axis (3,) of length 1 through the origin."""
    out = torch.eye(4, dtype=torch.float64)
    out[:3, :3] = torch.from_numpy(Rotation.from_rotvec(degrees * axis.numpy(), degrees=True).as_matrix())
    return out


def translation(offset: Tensor) -> Tensor:
    """(3,) -> (4, 4) float64."""
    out = torch.eye(4, dtype=torch.float64)
    out[:3, 3] = offset
    return out


def xyz(x: float, y: float, z: float) -> Tensor:
    return torch.tensor([x, y, z], dtype=torch.float64)


def right_of(stage: Stage) -> Tensor:
    """(3,) the horizontal direction to the right. A camera that looks straight up or down has its own x axis here."""
    right = torch.linalg.cross(xyz(0, 0, 1), stage.up)
    return right / right.norm() if right.norm() > 1e-3 else xyz(1, 0, 0)


def about_centre(stage: Stage, turn: Tensor) -> Tensor:
    return translation(stage.centre) @ turn @ translation(-stage.centre)


def facing_centre(stage: Stage, position: Tensor) -> Tensor:
    """The camera moved to `position` and turned so that the centre stays where it is in the picture."""

    def look(forward: Tensor) -> Tensor:
        right = torch.linalg.cross(forward, stage.up)
        right = right / right.norm()
        forward = forward / forward.norm()
        return torch.stack([right, torch.linalg.cross(forward, right), forward], dim=1)

    out = translation(position)
    out[:3, :3] = look(stage.centre - position) @ look(stage.centre).T
    return out


# Motions: t in [0, 1] -> pose (4, 4) in the base camera's frame, and what the focal length is multiplied by. At t = 0
# each is the base camera itself.


def hold(t: float, stage: Stage):
    """Stay at the source."""
    return translation(xyz(0, 0, 0)), 1.0


def orbit(t: float, stage: Stage, degrees: float = 360.0):
    """Orbit around the centre, about its vertical axis. A positive angle starts to the right."""
    return about_centre(stage, rotation(stage.up, degrees * t)), 1.0


def arc(t: float, stage: Stage, degrees: float = 30.0, elevation: float = 0.0):
    """Move around the centre by `degrees` to the right and `elevation` upwards."""
    turn = rotation(stage.up, degrees * t) @ rotation(right_of(stage), -elevation * t)
    return about_centre(stage, turn), 1.0


def spiral(t: float, stage: Stage, radius: float = 0.2, turns: float = 2.0, advance: float = 0.2):
    """Move in circles that widen to `radius`, and forward by `advance`, facing the centre."""
    angle = 2 * math.pi * turns * t
    offset = xyz(radius * t * math.sin(angle), radius * t * math.cos(angle), advance * t)
    return facing_centre(stage, stage.depth * offset), 1.0


def lemniscate(t: float, stage: Stage, width: float = 0.2):
    """Move along a horizontal figure of eight (Bernoulli's) that reaches `width` to both sides, facing the centre."""
    angle = 2 * math.pi * t + math.pi / 2
    along = -width * math.cos(angle) / (1 + math.sin(angle) ** 2)
    return facing_centre(stage, stage.depth * xyz(along, along * math.sin(angle), 0)), 1.0


def dolly(t: float, stage: Stage, distance: float = 0.3):
    """Move along the viewing direction. A positive distance moves forward."""
    return translation(xyz(0, 0, distance * stage.depth * t)), 1.0


def truck(t: float, stage: Stage, distance: float = 0.3):
    """Move sideways. A positive distance moves to the right."""
    return translation(right_of(stage) * distance * stage.depth * t), 1.0


def pedestal(t: float, stage: Stage, distance: float = 0.2):
    """Move vertically. A positive distance moves up."""
    return translation(stage.up * distance * stage.depth * t), 1.0


def pan(t: float, stage: Stage, degrees: float = 30.0):
    """Turn in place about the vertical axis. A positive angle turns to the right."""
    return rotation(stage.up, -degrees * t), 1.0


def tilt(t: float, stage: Stage, degrees: float = 15.0):
    """Turn in place. A positive angle turns upwards."""
    return rotation(right_of(stage), degrees * t), 1.0


def roll(t: float, stage: Stage, degrees: float = 30.0):
    """Turn in place about the viewing direction. A positive angle turns the camera clockwise."""
    return rotation(xyz(0, 0, 1), degrees * t), 1.0


def zoom(t: float, stage: Stage, factor: float = 1.5):
    """Multiply the focal length by up to `factor`. A factor above 1 zooms in."""
    return translation(xyz(0, 0, 0)), factor**t


def dolly_zoom(t: float, stage: Stage, factor: float = 1.5):
    """Zoom by up to `factor` while moving back, so that objects at the scene depth keep their size."""
    return translation(xyz(0, 0, stage.depth * (1 - factor**t))), factor**t


def look_around(t: float, stage: Stage, degrees: float = 20.0, elevation: float = 10.0):
    """Stay in place while the view swings by `degrees` to both sides and by `elevation` up and down."""
    angle = 2 * math.pi * t
    aside = rotation(stage.up, -degrees * math.sin(angle))
    return aside @ rotation(right_of(stage), elevation * math.sin(2 * angle)), 1.0


MOTIONS = {
    motion.__name__: motion
    for motion in (
        hold,
        orbit,
        arc,
        spiral,
        lemniscate,
        dolly,
        truck,
        pedestal,
        pan,
        tilt,
        roll,
        zoom,
        dolly_zoom,
        look_around,
    )
}

# What looks good from one photograph; half a turn and more shows what no photograph has seen.
NUMBER, DEFAULTS = 24, {"orbit": {"degrees": 30.0}}
# Of the motions' settings: least and greatest value, step of a slider, and the unit in words.
SETTINGS = {
    "degrees": (-1440.0, 1440.0, 1.0, "Unit: degrees."),
    "elevation": (-180.0, 180.0, 1.0, "Unit: degrees upwards."),
    "distance": (-20.0, 20.0, 0.01, "Unit: scene depths, so 0.3 is 30 percent of the median depth of the scene."),
    "radius": (-20.0, 20.0, 0.01, "Unit: scene depths."),
    "advance": (-20.0, 20.0, 0.01, "Unit: scene depths; a negative value moves backwards."),
    "width": (-20.0, 20.0, 0.01, "Unit: scene depths."),
    "turns": (-20.0, 20.0, 0.1, "Unit: full turns."),
    "factor": (0.05, 20.0, 0.01, "Unit: multiples of the focal length."),
}


def through(keys: Cameras, times: list[float], depth: float, loop: bool = False) -> Cameras:
    """Cameras at `times` in [0, 1] on a smooth curve through all keys (`curves.Curve`), K linear in between; travelled
    at an even speed. With `loop` the curve ends at the first key, else at the last.
    """
    curve = curve_through(keys, depth, loop)
    return placed(keys, [curve.at_distance(time * curve.travelled[-1]) for time in times])


def resampled(keys: Cameras, count: int, depth: float) -> Cameras:
    """`count` cameras on the curve through all keys, the first and the last among them, which pass the keys at an even
    pace: what is slow between keys that are close stays slow.
    """
    if count == len(keys) or len(keys) == 1:
        return keys[[min(view, len(keys) - 1) for view in range(count)]]
    curve = curve_through(keys, depth)
    places = np.linspace(0, len(keys) - 1, count)
    return placed(keys, [curve.at(knot) for knot in np.interp(places, range(len(keys)), curve.knots[1:-1])])


def curve_through(keys: Cameras, depth: float, loop: bool = False) -> Curve:
    turns = Rotation.from_matrix(keys.c2w[:, :3, :3].double().numpy())
    return Curve(list(keys.c2w[:, :3, 3].double()), list(turns), depth, loop)


def placed(keys: Cameras, places: list[tuple[Tensor, Rotation, int, float]]) -> Cameras:
    """A camera for each place on a curve, which is as `Curve.at` gives it."""
    K = keys.K.double()
    c2w = torch.stack([pose(position, turn) for position, turn, _, _ in places])
    intrinsics = [torch.lerp(K[i], K[(i + 1) % len(K)], share) for _, _, i, share in places]
    return replace(keys, c2w=c2w, K=torch.stack(intrinsics))


def settings_of(motion: str) -> dict[str, float]:
    """A motion's settings with their defaults."""
    return {name: value.default for name, value in list(inspect.signature(MOTIONS[motion]).parameters.items())[2:]}


def spread(views: int, first: bool, last: bool) -> list[float]:
    """`views` even times in [0, 1]; first, last: whether 0 and 1 are among them."""
    skipped = int(not first)
    intervals = max(1, views - 1 + skipped + int(not last))
    return [(view + skipped) / intervals for view in range(views)]


def targets(
    sources: Cameras,
    motion: str,
    views: int,
    depth: float | None = None,
    *,
    base: int = 0,
    ease: str = "none",
    first_is_source: bool = False,
    keys: Cameras | None = None,
    loop: bool = False,
    **settings: float,
) -> Cameras:
    """`views` target cameras.

    motion: a name in MOTIONS, whose function's own arguments are the `settings`; "interpolate" along the sources in
    their order; or "keyframes" along `keys` (with first_is_source from the base source on; as many views as keys are
    the keys themselves). depth: of the scene, in the cameras' units (None: `scene_depth` of the cameras alone). base:
    the source a motion starts from. ease: slow at the start ("in"), the end ("out"), both ("in_out"), or "none".
    first_is_source: the path's first target is the source itself, else the step after it. loop: lets "interpolate"
    and "keyframes" return to their start; other motions do where their settings make them (an orbit of 360 degrees).
    Targets of a loop are evenly spread over it without its end. Raises ValueError for what is not there.
    """
    if views < 1:
        raise ValueError(f"{views} target views were asked for; give 1 or more.")
    if not 0 <= base < len(sources):
        raise ValueError(f"There is no source {base} to start from; the sources are 0 to {len(sources) - 1}.")
    if ease not in EASES:
        raise ValueError(f"There is no ease {ease!r}; choose one of {', '.join(EASES)}.")
    if depth is None:
        depth = scene_depth(sources)
    if not (math.isfinite(depth) and depth > 0):
        raise ValueError(f"The scene's depth is {depth}; give a number above 0, or none to derive it from the cameras.")
    if motion in MOTIONS:
        return moved(sources, motion, views, depth, base, ease, first_is_source, settings)
    if motion not in ("interpolate", "keyframes"):
        raise ValueError(f"There is no motion {motion!r}; choose {', '.join(MOTIONS)}, interpolate or keyframes.")
    if settings:
        raise ValueError(f"The motion {motion!r} has no setting {next(iter(settings))!r}.")
    if motion == "interpolate":
        if len(sources) < 2:
            raise ValueError("Interpolation along the sources needs 2 sources or more; choose another motion.")
        times = spread(views, first_is_source, first_is_source and not loop)
        return through(sources, [EASES[ease](t) for t in times], depth, loop)
    if keys is None or len(keys) == 0:
        raise ValueError("The motion 'keyframes' was given no keyframes; connect one camera or more.")
    if (keys.height, keys.width) != (sources.height, sources.width):
        raise ValueError(
            f"The keyframes are for {keys.width}x{keys.height} images and the sources for "
            f"{sources.width}x{sources.height}; give both the same size."
        )
    keys = keys.seen_from(sources.origin)
    if first_is_source:
        keys = join(sources[base], keys)
    if views == len(keys) or len(keys) == 1:
        return keys[[min(view, len(keys) - 1) for view in range(views)]]
    return through(keys, [EASES[ease](t) for t in spread(views, True, not loop)], depth, loop)


def travel(
    sources: Cameras, motion: str, depth: float, base: int, settings: dict[str, float]
) -> tuple[Callable[[float], tuple[Tensor, Tensor]], bool]:
    """A motion of MOTIONS from a source: t in [0, 1] -> pose (4, 4) in the world and K (3, 3); and whether its end is
    its start. ValueError for a setting that it has not.
    """
    known = settings_of(motion)
    for name, value in settings.items():
        if name not in known:
            raise ValueError(
                f"The motion {motion!r} has no setting {name!r}; it has {', '.join(known) if known else 'none'}."
            )
        if not math.isfinite(value) or (name == "factor" and value <= 0):
            raise ValueError(f"The setting {name!r} of the motion {motion!r} is {value}; give a number it can use.")
    c2w = sources.c2w[base].double()
    world_to_base = torch.linalg.inv(c2w)
    centre = world_to_base[:3, :3] @ scene_centre(sources, depth, base) + world_to_base[:3, 3]
    up = world_to_base[:3, :3] @ up_direction(sources)
    stage = Stage(centre, up / up.norm(), depth)

    def path(t: float) -> tuple[Tensor, Tensor]:
        offset, factor = MOTIONS[motion](t, stage, **settings)
        K = sources.K[base].double().clone()
        K[0, 0] *= factor
        K[1, 1] *= factor
        return c2w @ offset, K

    (start, _), (end, factor) = (MOTIONS[motion](t, stage, **settings) for t in (0.0, 1.0))
    return path, factor == 1 and torch.allclose(start, end, atol=1e-9 * max(1.0, depth))


def moved(
    sources: Cameras,
    motion: str,
    views: int,
    depth: float,
    base: int,
    ease: str,
    first_is_source: bool,
    settings: dict[str, float],
) -> Cameras:
    """`targets` for a motion of MOTIONS."""
    path, loop = travel(sources, motion, depth, base, settings)
    c2w, K = zip(*(path(EASES[ease](t)) for t in spread(views, first_is_source, not loop)), strict=True)
    return replace(sources, c2w=torch.stack(c2w), K=torch.stack(K))


def join(sources: Cameras, targets: Cameras) -> Cameras:
    """Sources, then targets. ValueError where they are for images of different sizes."""
    if (sources.height, sources.width) != (targets.height, targets.width):
        raise ValueError(
            f"The sources are for {sources.width}x{sources.height} images and the targets for "
            f"{targets.width}x{targets.height}; give both the same size."
        )
    targets = targets.seen_from(sources.origin)
    return replace(sources, c2w=torch.cat([sources.c2w, targets.c2w]), K=torch.cat([sources.K, targets.K]))
