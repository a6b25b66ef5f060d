"""The stages of `eval` for one scene: read or render it, measure a model on it, write its figures and contact sheet."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoints import RELEASED_SIZE, sha256
from ..evaluation import benchmark
from ..evaluation.benchmark import Case, Evaluation
from ..evaluation.lpips import LINEAR_FILE, LPIPS, VGG_FILE
from ..evaluation.report import COLUMNS, write_results
from ..export.pictures import contact_sheet
from ..flow import QUICK, RELEASED, Callback, Sampling, quick_steps
from ..io.images import fitting_size, write_png
from ..pipeline import GLD
from ..synthetic.rooms import SIZES, VIEWS
from .many import BEFORE, DONE, FAILED, Models, Outcome, table_stem, write_lines

ROOM_SIZE = SIZES[0]


@dataclass(frozen=True)
class Measurement:
    """What is to be measured of one scene: the scene `input`, or the rendered room of a seed. The rest as in `Job`;
    sources: views, or how many; size: of a room without it, the size of the rooms that nano was trained on.
    """

    input: str | None = None
    room: int | None = None
    sources: tuple[int, ...] | int = 2
    targets: tuple[int, ...] | None = None
    size: int | None = None
    window: int = 8
    steps: int | None = None
    fast: bool = False
    cfg: float = 1.5
    shift: float | None = None
    seed: int = 0
    cascade: bool = True

    @property
    def folder_name(self) -> str:
        if self.input is None:
            return f"room_{self.room:06}"
        path = Path(self.input).resolve()
        return path.name if path.is_dir() else path.stem

    def settled(self, own_size: int, own_steps: int) -> "Measurement":
        """As `Job.settled`."""
        steps = quick_steps(own_steps) if self.fast else own_steps
        own_size = own_size if self.room is None else max(ROOM_SIZE)
        return replace(self, size=self.size or own_size, steps=self.steps or steps)

    @property
    def chosen(self) -> tuple[Sequence[int] | int, Sequence[int] | None]:
        return self.sources, self.targets

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.steps, self.cfg, self.shift, self.seed, solver=QUICK if self.fast else RELEASED)

    def check(self) -> None:
        """ValueError for settings that no scene, or no room, can be measured with. Scenes are not opened."""
        if self.size is not None and (self.size % 14 or not 14 <= self.size <= 2016):
            raise ValueError(f"--size is {self.size}; give a multiple of 14 from 14 to 2016.")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"--steps is {self.steps}; at least 1 network evaluation is needed.")
        if not math.isfinite(self.cfg):
            raise ValueError(f"--cfg is {self.cfg}; give a finite number.")
        if self.shift is not None and not 0 < self.shift < math.inf:
            raise ValueError(f"--shift is {self.shift}; give a number above 0.")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"--seed is {self.seed}; give a whole number from 0 to {2**64 - 1}.")
        if self.room is not None and self.room < 0:
            raise ValueError(f"--first-seed is {self.room}; give a whole number from 0 up.")
        if self.input is None:
            chosen, wanted = benchmark.choose_views(VIEWS, *self.chosen)
            benchmark.plan(len(chosen), len(chosen) + len(wanted), self.window)

    def check_scene(self) -> None:
        """ValueError where the scene cannot be measured. No picture is decoded."""
        if self.input is not None:
            _, order, count = benchmark.choose_case(Path(self.input), self.size or RELEASED_SIZE, *self.chosen)
            benchmark.plan(count, len(order), self.window)


@dataclass(frozen=True)
class Judged(Models):
    """Models, and the folder of LPIPS's weights, None where it is not measured."""

    lpips: Path | None = None

    def load(self) -> Any:
        return super().load(), None if self.lpips is None else LPIPS(self.lpips, self.device)

    def hash(self) -> str:
        names = [] if self.lpips is None else [sha256(self.lpips / name) for name in (VGG_FILE, LINEAR_FILE)]
        return " ".join([super().hash(), *names])


def read(job: Measurement) -> Case:
    if job.input is None:
        assert job.room is not None
        return benchmark.render_case(job.room, *job.chosen, fitting_size(*ROOM_SIZE, job.size or max(ROOM_SIZE)))
    job.check_scene()
    return benchmark.read_case(Path(job.input), job.size or RELEASED_SIZE, *job.chosen)


def make(
    job: Measurement, case: Case, loaded: tuple[GLD, LPIPS | None], progress: Callable[[str], Callback | None]
) -> tuple:
    """The rows of the scene, and the pictures that they were measured on."""
    evaluation = Evaluation(loaded[0], job.cascade, job.window, job.sampling, loaded[1])
    shown, finished = progress("evaluation"), 0

    def callback(step: int, steps: int, denoised: Any) -> None:
        nonlocal finished
        if shown is not None:
            shown(finished * steps + step, evaluation.samplings * steps, denoised)
        finished += step == steps

    return evaluation.measure(case, callback)


def write(job: Measurement, case: Case, made: tuple, folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The contact sheet into the folder. The figures are those of the model, and all rows; there are no exports."""
    rows, shown = made
    write_png(folder / "contact_sheet.png", contact_sheet(case.labels, shown))
    own = rows["cascade" if job.cascade else "level 1"]
    N = case.sources
    figures = {name: own[name] for name in COLUMNS if name in own}
    return figures | {"sources": case.place[:N], "targets": case.place[N:], "rows": rows}, {}


def tabulator(settings: dict[str, object], planned: int) -> Callable[[Path, Sequence[Outcome]], None]:
    """What writes results.jsonl, a line a scene, and results.json and results.md with the means."""

    def tabulate(out: Path, outcomes: Sequence[Outcome]) -> None:
        write_lines(out, outcomes)
        kept = ("sources", "targets", "rows")
        measured = {
            one.name: {name: one.figures[name] for name in kept} for one in outcomes if one.state in (DONE, BEFORE)
        }
        failed = {one.name: one.text for one in outcomes if one.state == FAILED}
        write_results(out, settings, measured, planned, failed, table_stem())

    return tabulate
