"""Many scenes, one after the other, with the networks loaded once.

While the networks work on a scene, the next one is read and the last one's files are written, each in a thread.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..evaluation.report import COLUMNS
from ..flow import Callback
from ..io.files import atomic
from ..pipeline import GLD, load
from . import scene
from .description import Job
from .results import (
    check_free,
    read_result,
    remove_abandoned,
    result_folder,
    unfinished,
    weights_hash,
    write_result,
)

Say = Callable[[str], None]
# What makes a scene fail and lets the others go on.
FAILURES = (ValueError, OSError, RuntimeError, MemoryError)
# Seconds between two writings of the table: of ten thousand scenes it has a megabyte.
TABLE_EVERY = 10
DONE, BEFORE, FAILED = "done", "finished before", "failed"


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


@dataclass(frozen=True)
class Outcome:
    """What became of a scene. seconds: from its reading to its last file; text: why it failed; figures: of targets
    whose truth is known."""

    name: str
    state: str
    seconds: float = 0.0
    text: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


def sentence(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def named(jobs: Sequence[Job], out: Path) -> list[tuple[Job, Path]]:
    """Each job with the folder of its result. ValueError where two have the same."""
    folders: dict[str, Job] = {}
    for job in jobs:
        if job.folder_name in folders:
            raise ValueError(
                f"{folders[job.folder_name].input} and {job.input} would both be written to {out / job.folder_name}; "
                'give them names: the key "name" in a list of JSON lines.'
            )
        folders[job.folder_name] = job
    return [(job, out / name) for name, job in folders.items()]


def shard(jobs: Sequence[Any]) -> Sequence[Any]:
    """This process's share where RANK and WORLD_SIZE are set, as torchrun does: every WORLD_SIZE-th, from RANK on."""
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if not 0 <= rank < world:
        raise ValueError(f"RANK is {rank} and WORLD_SIZE {world}; RANK has to be from 0 to WORLD_SIZE - 1.")
    return jobs[rank::world]


def sort_out(
    work: Sequence[tuple[Job, Path]], weights: str, overwrite: bool, say: Say
) -> tuple[list[tuple[Job, Path]], list[Outcome]]:
    """What is left to do, and the outcomes of what is finished already or cannot be written."""
    left, outcomes = [], []
    for job, folder in work:
        reason = unfinished(folder, job, weights)
        if not reason:
            found = read_result(folder) or {}
            outcomes.append(Outcome(folder.name, BEFORE, found.get("seconds", 0), "", found.get("figures", {})))
            continue
        if read_result(folder) is None:
            try:
                check_free(folder, overwrite)
            except ValueError as error:
                outcomes.append(Outcome(folder.name, FAILED, 0, sentence(error)))
                continue
        else:
            say(f"{folder.name} is done anew: {reason}")
        left.append((job, folder))
    if any(outcome.state == BEFORE for outcome in outcomes):
        say(f"{sum(outcome.state == BEFORE for outcome in outcomes)} of {len(work)} scenes are finished already")
    return left, outcomes


def work_through(
    work: Sequence[tuple[Job, Path]],
    gld: GLD,
    weights: str | None,
    progress: Callable[[str], Callback | None] = scene.silent,
) -> Iterator[Outcome]:
    """Outcomes as scenes are finished, in order."""
    started: dict[Path, float] = {}

    def read(job: Job, folder: Path) -> scene.Given:
        started[folder] = time.monotonic()
        return scene.read(job)

    def write(
        job: Job, given: scene.Given, made: scene.Decoded, folder: Path, partial: Path, publishing: ExitStack
    ) -> Outcome:
        with publishing:
            figures = scene.write(job, given, made, partial)
            seconds = time.monotonic() - started[folder]
            write_result(partial, job, weights, seconds, figures)
        return Outcome(folder.name, DONE, seconds, "", figures)

    def outcome_of(folder: Path, written: Future[Outcome]) -> Outcome:
        try:
            return written.result()
        except FAILURES as error:
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
                    made = scene.make(job, given, gld, progress)
                    if writing is not None:
                        yield outcome_of(*writing)
                    kept = stack.pop_all()
                writing = (folder, writer.submit(write, job, given, made, folder, partial, kept))
            except FAILURES as error:
                if following is None and number + 1 < len(work):
                    following = reader.submit(read, *work[number + 1])
                if writing is not None:
                    yield outcome_of(*writing)
                    writing = None
                yield Outcome(folder.name, FAILED, time.monotonic() - started[folder], sentence(error))
        if writing is not None:
            yield outcome_of(*writing)


def run_many(
    jobs: Sequence[Job],
    out: Path,
    models: Models,
    say: Say = print,
    progress: Callable[[str], Callback | None] = scene.silent,
    overwrite: bool = False,
    ray: Any = None,
) -> list[Outcome]:
    """Every job into a folder of its name in `out`, and a table of them. Scenes that are finished are left as they are,
    scenes that fail are recorded. ray: a `gld_core.jobs.cluster.Cluster` that does the work; without it this process.

    Raises ValueError before any work for jobs that cannot be meant, and for models that cannot be loaded.
    """
    for job in jobs:
        job.check()
    work = list(shard(named(jobs, out)))
    weights = weights_hash(models.folder, models.backbone)
    out.mkdir(parents=True, exist_ok=True)
    remove_abandoned(out)
    left, outcomes = sort_out(work, weights, overwrite, say)
    began = told = time.monotonic()
    if left:
        made = ray.work_through(left, models, weights) if ray else work_through(left, models.load(), weights, progress)
        for outcome in made:
            outcomes.append(outcome)
            finished = sum(one.state != BEFORE for one in outcomes)
            text = outcome.text if outcome.state == FAILED else f"{outcome.seconds:.1f} s"
            say(f"{finished} of {len(left)}: {outcome.name} {outcome.state}, {text}")
            if time.monotonic() - told > TABLE_EVERY:
                write_table(out, order(outcomes, work))
                told = time.monotonic()
    outcomes = order(outcomes, work)
    write_table(out, outcomes)
    failed = sum(outcome.state == FAILED for outcome in outcomes)
    rate = f"; {3600 * len(left) / (time.monotonic() - began):.0f} an hour" if left else ""
    say(f"{len(outcomes)} scenes, {failed} failed{rate}; {out / 'results.md'}")
    return outcomes


def order(outcomes: Sequence[Outcome], work: Sequence[tuple[Job, Path]]) -> list[Outcome]:
    by_name = {outcome.name: outcome for outcome in outcomes}
    return [by_name[folder.name] for _, folder in work if folder.name in by_name]


def write_table(out: Path, outcomes: Sequence[Outcome]) -> None:
    """results.jsonl and results.md: a line a scene. A share of the scenes has its number in the files' names."""
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    stem = "results" if world == 1 else f"results-{rank}-of-{world}"
    lines = [
        {"scene": one.name, "state": one.state, "seconds": round(one.seconds, 3), **one.figures}
        | ({"text": one.text} if one.text else {})
        for one in outcomes
    ]
    columns = [name for name in COLUMNS if any(name in one.figures for one in outcomes)]
    heading = ["scene", "state", "seconds", *(COLUMNS[name][0] for name in columns), "text"]
    rows = [
        [one.name, one.state, f"{one.seconds:.1f}"]
        + [f"{one.figures[name]:.{COLUMNS[name][1]}f}" if name in one.figures else "" for name in columns]
        + [one.text.replace("|", "\\|")]
        for one in outcomes
    ]
    table = [heading, ["---", "---", "--:", *["--:"] * len(columns), "---"], *rows]
    with atomic(out / f"{stem}.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with atomic(out / f"{stem}.md") as temporary:
        temporary.write_text("".join(f"| {' | '.join(row)} |\n" for row in table), encoding="utf-8")


def run_one(
    job: Job,
    out: Path,
    models: Models,
    say: Say = print,
    progress: Callable[[str], Callback | None] = scene.silent,
    overwrite: bool = False,
) -> None:
    """One job into `out` itself, or nothing where it is finished there. Raises ValueError for what cannot be used."""
    started = time.monotonic()
    job.check()
    weights = None
    if read_result(out) is not None:
        weights = weights_hash(models.folder, models.backbone)
        reason = unfinished(out, job, weights)
        if not reason:
            say(f"{out} is finished already")
            return
        say(f"{out} is another result: {reason}")
    check_free(out, overwrite)
    given = scene.read(job)
    H, W = given.photographs.shape[-2:]
    say(f"{len(given.photographs)} source views of {W} x {H}; loading {models.folder}")
    weights = weights or weights_hash(models.folder, models.backbone)
    with result_folder(out) as partial:
        made = scene.make(job, given, models.load(), progress)
        say(f"writing {len(made.names)} views to {out}")
        figures = scene.write(job, given, made, partial)
        write_result(partial, job, weights, time.monotonic() - started, figures)
    say(f"{out / 'contact_sheet.png'} shows the result")
