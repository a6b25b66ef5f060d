"""The description of a job: every setting with its default, range and meaning, checked in one place.

The command line's options, the keys of a list file and the arguments of `gld_core.run` are the fields of `Job`.
"""

import inspect
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..cameras.motions import EASES, MOTIONS, NUMBER, SETTINGS
from ..checkpoints import RELEASED_SIZE
from ..export.scenes import AXES, EXPORTS, KINDS
from ..flow import LARGEST_SHIFT, quick_steps
from ..io.files import check_names
from ..io.parsing import parse_json, text_lines
from ..io.scenes import view_numbers
from ..windows import LONG_PATHS

PATHS = (*MOTIONS, "interpolate", "keyframes")
# The settings of exports, which the views do not depend on.
EXPORT_SETTINGS = (
    "export", "kind", "axes", "fps", "min_confidence", "keep_at_least", "confirmed_by", "max_points", "splat_steps",
    "voxel", "show_cameras", "compact",
)  # fmt: skip
SOURCES = ("sources", "num_sources")
# The motion of photographs that come without cameras, where none is chosen.
DEFAULT_MOTION = "orbit"


def setting(default: Any, kind: str, text: str, low: float | None = None, high: float | None = None, choices=()) -> Any:
    """A field of `Job`. kind: "int", "float", "bool", "str", "numbers" (view numbers), "names" (several of `choices`).
    text: its meaning, as the command line's help prints it.
    """
    return field(default=default, metadata={"kind": kind, "text": text, "low": low, "high": high, "choices": choices})


def settings_of(motion: str) -> list[str]:
    """Names of the settings that a motion has; none for one that is not in MOTIONS."""
    return list(inspect.signature(MOTIONS[motion]).parameters)[2:] if motion in MOTIONS else []


def motion_setting(name: str) -> Any:
    low, high, _, unit = SETTINGS[name]
    using = [motion for motion in MOTIONS if name in settings_of(motion)]
    text = f"setting of the motion{'s' * (len(using) > 1)} {', '.join(using)}. {unit} (default: the motion's own)"
    return setting(None, "float", text, low, high)


@dataclass(frozen=True)
class Job:
    """What is to be made of one input.

    input: a photograph, a folder of photographs, or a posed scene in any format of docs/formats.md. The targets of a
    posed scene are its other views, where neither a motion nor a path says otherwise. Photographs without cameras get
    cameras from the backbone, and targets from a motion or a path.
    """

    input: str
    name: str = setting("", "str", "name of the result's folder among those of other inputs (default: the input's)")
    sources: tuple[int, ...] | None = setting(
        None, "numbers", "source views, by number from 0 in order of their names: 0,7 or 0-3"
    )
    num_sources: int | None = setting(
        None, "int", "this many source views, evenly spread (default: 2 of a posed scene; photographs: all, 4 at most)",
        1, 64,
    )  # fmt: skip
    targets: tuple[int, ...] | None = setting(
        None, "numbers", "target views of a posed scene, by number from 0: 3-5,7 (default: all others)"
    )
    size: int | None = setting(
        None, "int", f"pixels of the long side, a multiple of 14 (default: the networks' own, {RELEASED_SIZE} of the "
        "released ones)", 56, 2016,
    )  # fmt: skip
    fov: float = setting(
        0.0, "float", "degrees: horizontal field of view of photographs without cameras; 0: estimated", 0, 170
    )
    motion: str | None = setting(
        None, "str", f"where the targets are: a motion (photographs without cameras: {DEFAULT_MOTION})", choices=PATHS
    )
    path: str | None = setting(
        None, "str", "where the targets are: a file of cameras in any format that is read; with the motion keyframes, "
        "the cameras that the path goes through",
    )  # fmt: skip
    number: int = setting(NUMBER, "int", "number of target views along a motion", 1, 1000)
    degrees: float | None = motion_setting("degrees")
    elevation: float | None = motion_setting("elevation")
    distance: float | None = motion_setting("distance")
    radius: float | None = motion_setting("radius")
    advance: float | None = motion_setting("advance")
    width: float | None = motion_setting("width")
    turns: float | None = motion_setting("turns")
    factor: float | None = motion_setting("factor")
    ease: str = setting(
        "none", "str", "where a motion is slow: at its start (in), its end (out) or both (in_out)", choices=EASES
    )
    first_is_source: bool = setting(False, "bool", "the first target of a motion is the source view itself")
    start: int = setting(0, "int", "number of the source view that a motion starts from", 0, 63)
    steps: int | None = setting(
        None, "int", "network evaluations of each level (default: the networks' own, 49 of the released ones, VGGT 99)",
        1, 100_000,
    )  # fmt: skip
    fast: bool = setting(
        False, "bool", "half the network work, not the released result: two thirds of the steps, less guidance, one "
        "output of the condition encoder for two steps, as quality: quick in ComfyUI",
    )  # fmt: skip
    cfg: float = setting(1.5, "float", "guidance scale; 1: none, half the time", 0, 20)
    shift: float | None = setting(None, "float", "time shift (default: the released one)", 0.01, LARGEST_SHIFT)
    seed: int = setting(0, "int", "random seed for the initial noise", 0, 2**64 - 1)
    cascade: bool = setting(True, "bool", "sample level 0, which doubles the cost and adds fine detail")
    window: int = setting(
        0, "int", "views made together, sources included; longer paths are made in windows of so many, one after the "
        "other; 0: windows that step together, as long_paths says", 0, 64,
    )  # fmt: skip
    overlap: int = setting(2, "int", "targets that a window shares with the one before it", 0, 62)
    closed: bool = setting(False, "bool", "the path ends where it starts")
    long_paths: str = setting(
        "speed", "str", "how paths with more views than a window are made: in windows of 12 views (speed), the same "
        "with half of the noise in common, so that neighbouring views differ less (smooth), or in windows of 8, the "
        "number that the released models were trained with (quality); larger where sources need it",
        choices=tuple(LONG_PATHS),
    )  # fmt: skip
    export: tuple[str, ...] = setting((), "names", "what else to write, separated by commas", choices=tuple(EXPORTS))
    kind: str = setting("mesh", "str", "what the export glb holds", choices=KINDS)
    axes: str = setting("upright", "str", "axes of the export ply", choices=AXES)
    fps: int = setting(12, "int", "frames a second of the export video", 1, 120)
    min_confidence: float = setting(1.05, "float", "exports: depth confidence below which points are left out", 1, 100)
    keep_at_least: float = setting(0.0, "float", "exports: percentage of points kept at any confidence", 0, 100)
    confirmed_by: int = setting(0, "int", "exports: number of other views that have to see a point at its depth", 0, 16)
    max_points: int = setting(500_000, "int", "exports: maximum number of points or vertices", 1000, 20_000_000)
    splat_steps: int = setting(200, "int", "steps in which the export splats is fitted to the pictures", 0, 10_000)
    voxel: float = setting(0.0, "float", "exports: voxel size in the cameras' unit; 0: as fine as the pixels", 0, 1000)
    show_cameras: bool = setting(False, "bool", "draw the cameras into the export glb")
    compact: bool = setting(False, "bool", "round the export glb to 16 bits, for a smaller file")

    @property
    def folder_name(self) -> str:
        """Of the result among others: `name`, else the input's own."""
        own = Path(self.input).resolve()
        return self.name or (own.name if own.is_dir() else own.stem)

    @property
    def motion_settings(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in SETTINGS if getattr(self, name) is not None}

    def settled(self, own_size: int, own_steps: int) -> "Job":
        """The same with numbers for what the networks decide: `GLD.own_size`, `GLD.own_steps`."""
        steps = quick_steps(own_steps) if self.fast else own_steps
        return replace(self, size=self.size or own_size, steps=self.steps or steps)

    def check(self) -> None:
        """ValueError, in a sentence that names the setting, for what cannot be meant. Inputs are not opened."""
        for one in fields(self):
            if one.metadata:
                check_value(one, getattr(self, one.name))
        for name in ("input", "path"):
            if "\0" in (getattr(self, name) or ""):
                raise ValueError(f"{name} is {getattr(self, name)[:60]!r}, which no file is called; give another.")
        if self.name:
            check_names([self.name], 1)
        if self.size is not None and self.size % 14:
            raise ValueError(f"size is {self.size}; give a multiple of 14 from 56 to 2016.")
        if self.sources is not None and self.num_sources is not None:
            raise ValueError("Both sources and num_sources are given; give one of them.")
        if self.targets is not None and (self.motion or self.path):
            raise ValueError("Both targets and a motion or a path are given; give one of them.")
        if self.path and self.motion not in (None, "keyframes"):
            raise ValueError(f"Both path and the motion {self.motion} are given; give one, or the motion keyframes.")
        if self.motion == "keyframes" and not self.path:
            raise ValueError("The motion keyframes needs a path, the file of cameras that it goes through.")
        chosen = self.motion or DEFAULT_MOTION
        known = [] if self.path else settings_of(chosen)
        for name in self.motion_settings:
            if name not in known:
                raise ValueError(f"The motion {self.path or chosen} has no setting {name}; leave it out.")

    @classmethod
    def from_values(cls, values: Mapping[str, Any], what: str) -> "Job":
        """From the keys of a list's line or of `gld_core.run`, checked. ValueError, which `what` begins, for a key that
        is none, or a value of another kind.
        """
        known = {one.name: one for one in fields(cls)}
        made: dict[str, Any] = {}
        for key, value in values.items():
            name = key.replace("-", "_")
            if name not in known:
                raise ValueError(f"{what} has the key {key[:40]!r}, which no option is called; see `views --help`.")
            kind = known[name].metadata.get("kind", "str")
            if kind == "numbers" and isinstance(value, str):
                value = tuple(view_numbers(value, f"{what.rstrip(',')}: {name}"))
            if kind == "names" and isinstance(value, str):
                value = tuple(part.strip() for part in value.split(",") if part.strip())
            # Larger integers are no setting, and some no float.
            if kind == "float" and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
                value = float(value)
            made[name] = tuple(value) if isinstance(value, list) else value
        if not isinstance(made.get("input"), str) or not made["input"]:
            raise ValueError(f"{what} has no input; give a photograph, a folder or a file of cameras.")
        job = cls(**made)
        try:
            job.check()
        except ValueError as error:
            raise ValueError(f"{what.rstrip(',')}: {error}") from None
        return job


TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,), "float": (float, int), "bool": (bool,), "str": (str,), "numbers": (tuple,), "names": (tuple,),
}  # fmt: skip


def check_value(one: "Field[Any]", value: Any) -> None:
    kind, low, high = one.metadata["kind"], one.metadata["low"], one.metadata["high"]
    if value is None and one.default is None:
        return
    if not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
        raise ValueError(f"{one.name} is {value!r}, which is not of the kind {kind}.")
    if isinstance(value, int | float) and kind != "bool" and not low <= value <= high:
        raise ValueError(f"{one.name} is {value}; give a number from {low} to {high}.")
    if (
        isinstance(value, tuple)
        and kind == "numbers"
        and not all(isinstance(view, int) and view >= 0 for view in value)
    ):
        raise ValueError(f"{one.name} is {value!r}; give view numbers such as '0, 3-5'.")
    for name in value if isinstance(value, tuple) else (value,):
        if one.metadata["choices"] and name not in one.metadata["choices"]:
            raise ValueError(f"{one.name} is {name!r}; choose of {', '.join(one.metadata['choices'])}.")
    if kind == "names" and isinstance(value, tuple) and len(set(value)) < len(value):
        raise ValueError(f"{one.name} is {', '.join(value)}; name each once.")


def without_contradicted(defaults: Mapping[str, Any], line: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that a list's line leaves in force. Where it places the targets, or chooses the sources, the
    defaults' way to do so does not count, nor do settings that only their motion has.
    """
    given = {key.replace("-", "_"): value for key, value in line.items()}
    left_out = {other for one, other in (SOURCES, SOURCES[::-1]) if one in given}
    placing = {"motion", "path", "targets"}
    if placing & given.keys():
        motion = given.get("motion", defaults.get("motion"))
        # The motion and the path that it goes through may stand in two places.
        left_out |= {"targets"} if motion == "keyframes" and "targets" not in given else placing
        left_out |= SETTINGS.keys() - settings_of(str(given.get("motion")))
    return {name: value for name, value in defaults.items() if name not in left_out}


def read_list(path: Path, defaults: Mapping[str, Any]) -> list[Job]:
    """The jobs of a list file: JSON lines with the key `input` and any others of `Job`, over `defaults` that they do
    not contradict. Relative paths start at the list's folder. ValueError names the line.
    """
    jobs = []
    for number, line in enumerate(text_lines(path), 1):
        if not line.strip():
            continue
        what = f"{path}, line {number}"
        values = parse_json(line, what)
        if not isinstance(values, dict):
            raise ValueError(f'{what} is no JSON object; write {{"input": "photograph.jpg"}}.')
        for key in ("input", "path"):
            if isinstance(values.get(key), str):
                values[key] = str(path.parent / values[key])
        jobs.append(Job.from_values({**without_contradicted(defaults, values), **values}, what))
    if not jobs:
        raise ValueError(f"{path} has no lines; write one JSON object a line, with the key input.")
    return jobs
