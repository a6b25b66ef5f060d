"""Many scenes, one after the other, with the networks loaded once.

While the networks work on a scene, the next one is read and the last one's files are written, each in a thread. What is
done to a scene are `Stages`: `scene` makes its views, `measure` measures a model on it.
"""

import json
import os
import re
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from ..checkpoints import weights_hash
from ..evaluation.report import COLUMNS, finite
from ..export.camera_plan import counted
from ..flow import Callback
from ..io.files import atomic
from ..pipeline import GLD, load, own_settings
from . import scene
from .description import Job
from .results import (
    check_apart,
    check_free,
    exports_failed,
    listed,
    read_result,
    remove_abandoned,
    result_folder,
    sentence,
    unfinished,
    views_are_kept,
    write_result,
)

Say = Callable[[str], None]
# Seconds between two writings of the table: of ten thousand scenes it has a megabyte.
TABLE_EVERY = 10
DONE, BEFORE, FAILED = "done", "finished before", "failed"
# The views are there, and the next start makes the exports of them.
EXPORTS_FAILED = "exports failed"
KEEPING = "an export failed; its views are kept, and its files are written anew"


@dataclass(frozen=True)
class Models:
    """Which networks, and how they run. keep: all of them stay in memory, else those of one stage at a time."""

    folder: Path
    backbone: str = "da3"
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    keep: bool = True

    def load(self) -> GLD:
        return load(self.folder, self.backbone, self.device, self.dtype, self.keep)

    def hash(self) -> str:
        """SHA-256 of all files that are loaded."""
        return weights_hash(self.folder, self.backbone)

    def settle(self, job: Any) -> Any:
        return job.settled(*own_settings(self.folder, self.backbone))


class Stages(Protocol):
    """What is done to a scene, one stage after the other, each in a thread of its own. loaded: what `Models.load` gave;
    write returns the scene's figures and the sentences of exports that failed. A job is a frozen dataclass with
    `folder_name`, `check` and `settled` as those of `Job`.
    """

    def read(self, job: Any) -> Any: ...

    def make(self, job: Any, given: Any, loaded: Any, progress: Callable[[str], Callback | None]) -> Any: ...

    def write(self, job: Any, given: Any, made: Any, folder: Path) -> tuple[dict[str, Any], dict[str, str]]: ...


@dataclass(frozen=True)
class Outcome:
    """What became of a scene. seconds: from its reading to its last file; text: why it, or an export, failed; figures:
    of targets whose truth is known."""

    name: str
    state: str
    seconds: float = 0.0
    text: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        return self.state in (DONE, BEFORE)


def named(jobs: Sequence[Any], out: Path) -> list[tuple[Any, Path]]:
    """Each job with the folder of its result. ValueError where two have the same."""
    folders: dict[str, Any] = {}
    for job in jobs:
        if re.fullmatch(r"results(-\d+-of-\d+)?\.(json|jsonl|md)", job.folder_name):
            raise ValueError(f"{job.input} would be written to {out / job.folder_name}, the table's place; name it.")
        if job.folder_name in folders:
            raise ValueError(
                f"{folders[job.folder_name].input} and {job.input} would both be written to {out / job.folder_name}; "
                'give them names: the key "name" in a list of JSON lines.'
            )
        folders[job.folder_name] = job
    return [(job, out / name) for name, job in folders.items()]


def share() -> tuple[int, int]:
    """RANK and WORLD_SIZE. ValueError where they are no such numbers."""
    rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise ValueError(f"RANK is {rank} and WORLD_SIZE {world}; RANK has to be from 0 to WORLD_SIZE - 1.")
    return int(rank), int(world)


def shard(jobs: Sequence[Any]) -> Sequence[Any]:
    """This process's share where RANK and WORLD_SIZE are set, as torchrun does: every WORLD_SIZE-th, from RANK on."""
    rank, world = share()
    return jobs[rank::world]


def from_result(folder: Path, state: str) -> Outcome:
    """The outcome that a finished folder tells of."""
    found = read_result(folder) or {}
    return Outcome(folder.name, state, found.get("seconds", 0), "", found.get("figures", {}))


def sort_out(
    work: Sequence[tuple[Any, Path]], weights: str, overwrite: bool, say: Say
) -> tuple[list[tuple[Any, Path]], list[Outcome]]:
    """What is left to do, and the outcomes of what is finished already or cannot be written."""
    left, outcomes = [], []
    for job, folder in work:
        reason = unfinished(folder, job, weights)
        if not reason:
            outcomes.append(from_result(folder, BEFORE))
            continue
        if read_result(folder) is None:
            try:
                check_free(folder, overwrite)
            except ValueError as error:
                outcomes.append(Outcome(folder.name, FAILED, 0, sentence(error)))
                continue
        else:
            kept = views_are_kept(folder, job, weights)
            say(f"{folder.name}: {KEEPING}" if kept else f"{folder.name} is done anew: {reason}")
        left.append((job, folder))
    if any(outcome.state == BEFORE for outcome in outcomes):
        say(f"{sum(outcome.state == BEFORE for outcome in outcomes)} of {len(work)} scenes are finished already")
    return left, outcomes


def work_through(
    work: Sequence[tuple[Any, Path]],
    loaded: Any,
    weights: str | None,
    progress: Callable[[str], Callback | None] = scene.silent,
    stages: Stages = scene,
) -> Generator[Outcome, None, None]:
    """Outcomes as scenes are finished, in order."""
    started: dict[Path, float] = {}

    def read(job: Any, folder: Path) -> Any:
        started[folder] = time.monotonic()
        return stages.read(job)

    def write(job: Any, given: Any, made: Any, folder: Path, partial: Path, publishing: ExitStack) -> Outcome:
        with publishing:
            figures, failed = stages.write(job, given, made, partial)
            seconds = time.monotonic() - started[folder]
            write_result(partial, job, weights, seconds, figures, failed)
        return Outcome(folder.name, EXPORTS_FAILED if failed else DONE, seconds, listed(failed), figures)

    def outcome_of(folder: Path, written: Future[Outcome]) -> Outcome:
        try:
            return written.result()
        except Exception as error:
            return Outcome(folder.name, FAILED, time.monotonic() - started[folder], sentence(error))

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        following = reader.submit(read, *work[0]) if work else None
        writing: tuple[Path, Future[Outcome]] | None = None
        for number, (job, folder) in enumerate(work):
            assert following is not None
            reading, following = following, None
            try:
                with ExitStack() as stack:
                    given = reading.result()
                    if number + 1 < len(work):
                        following = reader.submit(read, *work[number + 1])
                    partial = stack.enter_context(result_folder(folder))
                    made = scene.kept(job, folder, weights) or stages.make(job, given, loaded, progress)
                    if writing is not None:
                        yield outcome_of(*writing)
                    kept = stack.pop_all()
                writing = (folder, writer.submit(write, job, given, made, folder, partial, kept))
            except Exception as error:
                if following is None and number + 1 < len(work):
                    following = reader.submit(read, *work[number + 1])
                if writing is not None:
                    yield outcome_of(*writing)
                    writing = None
                yield Outcome(folder.name, FAILED, time.monotonic() - started[folder], sentence(error))
        if writing is not None:
            yield outcome_of(*writing)


def run_many(
    jobs: Sequence[Any],
    out: Path,
    models: Models,
    say: Say = print,
    progress: Callable[[str], Callback | None] = scene.silent,
    overwrite: bool = False,
    ray: Any = None,
    stages: Stages = scene,
    tabulate: Callable[[Path, Sequence[Outcome]], None] | None = None,
) -> list[Outcome]:
    """Every job into a folder of its name in `out`, and a table of them. Scenes that are finished are left as they are,
    scenes that fail are recorded. ray: a `gld_core.jobs.cluster.Cluster` that does the work; without it this process.
    tabulate(out, outcomes so far) writes the table, by default `write_table`; it is called now and then and at the end,
    also of an interrupted run.

    Raises ValueError before any work for jobs that cannot be meant, and for models that cannot be loaded.
    """
    for job in jobs:
        job.check()
    work = list(shard(named([models.settle(job) for job in jobs], out)))
    for job, folder in work:
        check_apart(job, folder)
    weights = models.hash()
    tabulate = tabulate or write_table
    out.mkdir(parents=True, exist_ok=True)
    remove_abandoned(out)
    left, outcomes = sort_out(work, weights, overwrite, say)
    began = told = time.monotonic()
    try:
        if not left:
            working: Generator[Outcome, None, None] = work_through((), None, weights)
        elif ray:
            working = ray.work_through(left, models, weights, stages)
        else:
            working = work_through(left, models.load(), weights, progress, stages)
        with closing(working) as made:
            for outcome in made:
                outcomes.append(outcome)
                finished = sum(one.state != BEFORE for one in outcomes)
                text = outcome.text or f"{outcome.seconds:.1f} s"
                say(f"{finished} of {len(left)}: {outcome.name} {outcome.state}, {text}")
                if time.monotonic() - told > TABLE_EVERY:
                    tabulate(out, order(outcomes, work))
                    told = time.monotonic()
    except BaseException:
        # Interrupted, it has still written what it was writing.
        known = {one.name for one in outcomes}
        for job, folder in left:
            if folder.name not in known and not unfinished(folder, job, weights):
                outcomes.append(from_result(folder, DONE))
        raise
    finally:
        outcomes = order(outcomes, work)
        tabulate(out, outcomes)
    remove_abandoned(out)
    failed = sum(not outcome.whole for outcome in outcomes)
    rate = f"; {3600 * len(left) / (time.monotonic() - began):.0f} an hour" if left else ""
    say(f"{len(outcomes)} scenes, {failed} failed{rate}; {out / (table_stem() + '.md')}")
    return outcomes


def order(outcomes: Sequence[Outcome], work: Sequence[tuple[Any, Path]]) -> list[Outcome]:
    by_name = {outcome.name: outcome for outcome in outcomes}
    return [by_name[folder.name] for _, folder in work if folder.name in by_name]


def table_stem() -> str:
    """Of the tables' files. A share of the scenes has its number in it."""
    rank, world = share()
    return "results" if world == 1 else f"results-{rank}-of-{world}"


def write_lines(out: Path, outcomes: Sequence[Outcome]) -> None:
    """results.jsonl: a line a scene, null in place of numbers that are not finite."""
    lines = [
        {"scene": one.name, "state": one.state, "seconds": round(one.seconds, 3), **one.figures}
        | ({"text": one.text} if one.text else {})
        for one in outcomes
    ]
    with atomic(out / f"{table_stem()}.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(finite(line)) + "\n" for line in lines), encoding="utf-8")


def write_table(out: Path, outcomes: Sequence[Outcome]) -> None:
    """results.jsonl and results.md: a line a scene."""
    write_lines(out, outcomes)
    with atomic(out / f"{table_stem()}.md") as temporary:
        temporary.write_text(markdown(outcomes), encoding="utf-8", errors="backslashreplace")


def markdown(outcomes: Sequence[Outcome]) -> str:
    columns = [name for name in COLUMNS if any(name in one.figures for one in outcomes)]
    heading = ["scene", "state", "seconds", *(COLUMNS[name][0] for name in columns), "text"]
    rows = [
        [one.name, one.state, f"{one.seconds:.1f}"]
        + [f"{one.figures[name]:.{COLUMNS[name][1]}f}" if name in one.figures else "" for name in columns]
        + [one.text.replace("|", "\\|")]
        for one in outcomes
    ]
    table = [heading, ["---", "---", "--:", *["--:"] * len(columns), "---"], *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in table)


def run_one(
    job: Job,
    out: Path,
    models: Models,
    say: Say = print,
    progress: Callable[[str], Callback | None] = scene.silent,
    overwrite: bool = False,
) -> bool:
    """One job into `out` itself, or nothing where it is finished there. Returns whether all exports are there. Raises
    ValueError for what cannot be used.
    """
    started = time.monotonic()
    job.check()
    check_apart(job, out)
    job = models.settle(job)
    weights, made = None, None
    if read_result(out) is not None:
        weights = models.hash()
        reason = unfinished(out, job, weights)
        if not reason:
            say(f"{out} is finished already")
            return True
        made = scene.kept(job, out, weights)
        say(f"{out}: {KEEPING}" if made else f"{out} is another result: {reason}")
    if made is None:
        check_free(out, overwrite)
    given = scene.read(job)
    if made is None:
        H, W = given.photographs.shape[-2:]
        say(f"{counted(len(given.photographs), 'source view')} of {W} x {H}; loading {models.folder}")
    weights = weights or models.hash()
    with result_folder(out) as partial:
        made = made or scene.make(job, given, models.load(), progress)
        say(f"writing {len(made.names)} views to {out}")
        figures, failed = scene.write(job, given, made, partial)
        write_result(partial, job, weights, time.monotonic() - started, figures, failed)
    say(f"{out / 'contact_sheet.png'} shows the result")
    if failed:
        say(f"error: {exports_failed(out, failed)}")
    return not failed
