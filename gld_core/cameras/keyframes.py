"""Paths placed by hand: keyframes, the timing between them, and their JSON.

The JSON is an object of these members (those with a value here may be left out):

    version     1
    keys        [] of keyframes: position [x, y, z] and rotation [x, y, z, w], OpenCV camera-to-world in the world of
                the sources' cameras, from their `origin`; fov, degrees across (that of the first source where there is
                none); of the way to the next key ease "none" and views 8; hold 0, how many views longer the camera
                stays at the key
    views       how many views in all, at an even speed; null: each key's own `views` count, and keys are hit exactly
    ease        "none": of the whole path, over that of its parts
    loop        false: whether the path returns smoothly to its first key, which is not repeated
    look_at     null, or the point [x, y, z] that the camera keeps facing, upright, whatever the keys' rotations
    fps         8: frames per second that the editor plays at
    sources     null, or position and rotation of every source that the path was placed over
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from .conventions import Cameras
from .curves import EASES, Curve, pose
from .motions import MOTIONS, spread, travel, up_direction

VERSION = 1
MAX_KEYS = 200
MAX_VIEWS = 1000
MAX_TEXT = 1 << 20
FOV_RANGE = (0.1, 175.0)
# Sources are the path's own while none is off by more: shares of the scene's depth, degrees.
MOVED, TURNED = 0.02, 2.0


@dataclass(frozen=True)
class Key:
    """position (3,) float64. The members as in the JSON."""

    position: Tensor
    rotation: Rotation
    fov: float | None = None
    views: int = 8
    ease: str = "none"
    hold: int = 0


@dataclass(frozen=True)
class CameraPath:
    keys: tuple[Key, ...]
    views: int | None = None
    ease: str = "none"
    loop: bool = False
    look_at: Tensor | None = None
    fps: float = 8.0
    sources: tuple[tuple[Tensor, Rotation], ...] = field(default=())


def number(value: Any, what: str, low: float, high: float, whole: bool = False) -> Any:
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{what} is {str(value)[:40]!r}; give a {'whole ' * whole}number from {low:g} to {high:g}.")
    return value if whole else float(value)


def vector(value: Any, what: str, size: int) -> Tensor:
    if not isinstance(value, list) or len(value) != size:
        raise ValueError(f"{what} is {str(value)[:60]!r}; give a list of {size} numbers.")
    return torch.tensor([number(part, f"{what}", -1e9, 1e9) for part in value], dtype=torch.float64)


def rotation(value: Any, what: str) -> Rotation:
    q = vector(value, what, 4)
    if q.norm() < 1e-6:
        raise ValueError(f"{what} has no length; give a quaternion x, y, z, w.")
    return Rotation.from_quat(q.numpy())


def members(value: Any, what: str, allowed: str) -> dict[str, Any]:
    """A JSON object without what is null. ValueError where it is none, or has members of other names."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {str(value)[:60]!r}; give a JSON object.")
    unknown = sorted(set(map(str, value)) - set(allowed.split()))
    if unknown:
        raise ValueError(f"{what} has {unknown[0][:40]!r}, which a camera path does not; it has {allowed}.")
    return {name: part for name, part in value.items() if part is not None}


def parse_ease(value: Any, what: str) -> str:
    if value not in EASES:
        raise ValueError(f"The ease of {what} is {str(value)[:40]!r}; give one of {', '.join(EASES)}.")
    return value


def parse_key(value: Any, what: str) -> Key:
    given = members(value, what, "position rotation fov views ease hold")
    for name in ("position", "rotation"):
        if name not in given:
            raise ValueError(f"{what} has no {name}; give position and rotation of every key.")
    fov = None if "fov" not in given else number(given["fov"], f"The fov of {what}", *FOV_RANGE)
    return Key(
        vector(given["position"], f"The position of {what}", 3),
        rotation(given["rotation"], f"The rotation of {what}"),
        fov,
        number(given.get("views", 8), f"'views' of {what}", 1, MAX_VIEWS, whole=True),
        parse_ease(given.get("ease", "none"), what),
        number(given.get("hold", 0), f"'hold' of {what}", 0, MAX_VIEWS, whole=True),
    )


def parse_path(value: Any, what: str = "The input 'path'") -> CameraPath:
    """JSON text or what it says -> the path. ValueError, in a sentence that begins with `what`, for what it is not."""
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise ValueError(f"{what} is {len(value)} characters long; a camera path has {MAX_TEXT} at most.")
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{what} is not JSON ({error}); export it from the editor again, or correct it.") from None
    given = members(value, what, "version keys views ease loop look_at fps sources")
    if given.get("version") != VERSION:
        raise ValueError(
            f"{what} has version {str(given.get('version'))[:20]!r}, this plugin reads version {VERSION}; update the "
            "plugin, or export the path again."
        )
    keys, sources, loop = given.get("keys", []), given.get("sources", []), given.get("loop", False)
    if not isinstance(keys, list) or len(keys) > MAX_KEYS:
        raise ValueError(f"{what} has no list of keys of up to {MAX_KEYS}; give 'keys' as a list of keyframes.")
    if not isinstance(sources, list) or len(sources) > 1000:
        raise ValueError(f"{what} has sources that are no list; leave them out, or export the path again.")
    if not isinstance(loop, bool):
        raise ValueError(f"{what} has 'loop' {str(loop)[:20]!r}; give true or false.")
    placed_over = [members(source, f"Source {n} of {what}", "position rotation") for n, source in enumerate(sources)]
    path = CameraPath(
        tuple(parse_key(key, f"Key {n} of {what[:1].lower() + what[1:]}") for n, key in enumerate(keys)),
        None if "views" not in given else number(given["views"], f"'views' of {what}", 1, MAX_VIEWS, whole=True),
        parse_ease(given.get("ease", "none"), what),
        loop,
        None if "look_at" not in given else vector(given["look_at"], f"'look_at' of {what}", 3),
        number(given.get("fps", 8), f"'fps' of {what}", 0.1, 240),
        tuple(
            (
                vector(source.get("position"), f"The position of source {n} in {what}", 3),
                rotation(source.get("rotation"), f"The rotation of source {n} in {what}"),
            )
            for n, source in enumerate(placed_over)
        ),
    )
    check_timing(path, what)
    return path


def segment_count(path: CameraPath) -> int:
    return len(path.keys) if path.loop and len(path.keys) > 1 else max(len(path.keys) - 1, 0)


def check_timing(path: CameraPath, what: str = "The input 'path'") -> None:
    """ValueError where there are more views than fit, or none are left for the way."""
    count, holds = view_count(path), sum(key.hold for key in path.keys)
    if count > MAX_VIEWS:
        raise ValueError(f"{what} has {count} views; a path has {MAX_VIEWS} at most: lower 'views' or 'hold'.")
    if path.views is not None and len(path.keys) > 1 and 1 < path.views <= holds + int(not path.loop):
        raise ValueError(
            f"{what} holds for {holds} of its {path.views} views, which leaves none for the way; raise 'views', or "
            "lower 'hold'."
        )


def view_count(path: CameraPath) -> int:
    """How many targets the path has."""
    if not path.keys:
        return 0
    if path.views is not None:
        return path.views
    holds = sum(key.hold for key in path.keys)
    if len(path.keys) == 1:
        return 1 + holds
    way = sum(key.views for key in path.keys[: segment_count(path)])
    return way + holds + int(not path.loop)


def schedule(path: CameraPath, lengths: list[float]) -> list[tuple[int, float]]:
    """Of every view the segment, and the share of its length that is travelled. lengths: of the segments."""
    count = view_count(path)
    if not lengths:
        return [(0, 0.0)] * count
    holds = [key.hold for key in path.keys]
    total = count - 1 + int(path.loop)
    if path.views is None:
        durations = [float(key.views) for key in path.keys[: len(lengths)]]
    else:
        durations = [(total - sum(holds)) * length / sum(lengths) for length in lengths]
    views = []
    for view in range(count):
        time, start = (total * EASES[path.ease](view / total) if total else 0.0), 0.0
        place = (len(lengths) - 1, 1.0)
        for key, hold in enumerate(holds):
            start += hold
            if time <= start:
                place = (key, 0.0) if key < len(lengths) else place
                break
            if key < len(lengths):
                if time < start + durations[key]:
                    place = (key, EASES[path.keys[key].ease]((time - start) / durations[key]))
                    break
                start += durations[key]
        views.append(place)
    return views


def facing(point: Tensor, up: Tensor) -> Callable[[Tensor, Rotation], Rotation]:
    """(position (3,), turn) -> the rotation of an upright camera there that looks at the point; the turn itself where
    there is none: at the point, and straight above and below it.
    """

    def look(position: Tensor, turn: Rotation) -> Rotation:
        forward = point - position
        right = torch.linalg.cross(forward, up)
        if right.norm() <= 1e-6 * forward.norm() or forward.norm() == 0:
            return turn
        forward, right = forward / forward.norm(), right / right.norm()
        return Rotation.from_matrix(torch.stack([right, torch.linalg.cross(forward, right), forward], dim=1).numpy())

    return look


def lens(key: Key, sources: Cameras) -> Tensor:
    """K (3, 3) float64 of a key: the first source's, with the key's own field of view."""
    K = sources.K[0].double().clone()
    if key.fov is not None:
        focal = sources.width / 2 / math.tan(math.radians(key.fov) / 2)
        K[1, 1] *= focal / K[0, 0]
        K[0, 0] = focal
    return K


def target_cameras(path: CameraPath, sources: Cameras, depth: float) -> Cameras:
    """The views of a path that has a key. depth: of the scene, in the cameras' units. K is linear between keys."""
    look = None if path.look_at is None else facing(path.look_at, up_direction(sources))
    position = [key.position for key in path.keys]
    turn = [key.rotation if look is None else look(key.position, key.rotation) for key in path.keys]
    K = [lens(key, sources) for key in path.keys]
    if len(path.keys) == 1:
        count = view_count(path)
        return replace(sources, c2w=torch.stack([pose(position[0], turn[0])] * count), K=torch.stack(K * count))
    curve = Curve(position, turn, depth, path.loop, look)
    start = curve.key_distances
    lengths = [end - begin for begin, end in zip(start, start[1:], strict=False)]
    c2w, intrinsics = [], []
    for segment, share in schedule(path, lengths):
        p, q, i, u = curve.at_distance(start[segment] + share * lengths[segment])
        c2w.append(pose(p, q))
        intrinsics.append(torch.lerp(K[i], K[(i + 1) % len(K)], u))
    return replace(sources, c2w=torch.stack(c2w), K=torch.stack(intrinsics))


def check_placed(path: CameraPath, sources: Cameras, depth: float) -> None:
    """ValueError where the path was placed over other sources than these."""
    if not path.sources:
        return
    other = None
    if len(path.sources) != len(sources):
        other = f"{len(path.sources)} sources, here are {len(sources)}"
    else:
        turns = Rotation.from_matrix(sources.c2w[:, :3, :3].double().numpy())
        for view, (position, turn) in enumerate(path.sources):
            away = (sources.c2w[view, :3, 3].double() - position).norm().item() / depth
            angle = math.degrees((turns[view].inv() * turn).magnitude())
            if away > MOVED or angle > TURNED:
                other = f"source {view} is {away:.2g} scene depths and {angle:.0f} degrees away from where it was"
                break
    if other is not None:
        raise ValueError(
            f"The input 'path' was placed over other sources: {other}. Choose 'Keep the path here' in the editor, or "
            "wire the cameras that it was placed over."
        )


def keys_of(cameras: Cameras, sources: Cameras) -> list[dict[str, Any]]:
    """Cameras as keys of the JSON, of which those have a `fov` whose lens is not the first source's."""
    keys = []
    for c2w, K in zip(cameras.c2w.double(), cameras.K.double(), strict=True):
        key: dict[str, Any] = {
            "position": (c2w[:3, 3] + cameras.origin - sources.origin).tolist(),
            "rotation": Rotation.from_matrix(c2w[:3, :3].numpy()).as_quat(canonical=True).tolist(),
        }
        if abs(K[0, 0] / cameras.width / (sources.K[0, 0, 0] / sources.width) - 1) > 1e-5:
            key["fov"] = math.degrees(2 * math.atan(cameras.width / 2 / K[0, 0].item()))
        keys.append(key)
    return keys


def motion_keys(
    sources: Cameras, motion: str, keys: int, depth: float, base: int = 0, **settings: float
) -> tuple[list[dict[str, Any]], bool]:
    """`keys` keys along a motion of MOTIONS, its start among them, and whether it is a loop. ValueError for what is not
    there.
    """
    if motion not in MOTIONS:
        raise ValueError(f"There is no motion {str(motion)[:40]!r}; choose {', '.join(MOTIONS)}.")
    if not 0 <= base < len(sources):
        raise ValueError(f"There is no source {base} to start from; the sources are 0 to {len(sources) - 1}.")
    if not 1 <= keys <= MAX_KEYS:
        raise ValueError(f"{keys} keys were asked for; give 1 to {MAX_KEYS}.")
    path, loop = travel(sources, motion, depth, base, settings)
    c2w, K = zip(*(path(t) for t in spread(keys, True, not loop)), strict=True)
    return keys_of(replace(sources, c2w=torch.stack(c2w), K=torch.stack(K)), sources), loop
