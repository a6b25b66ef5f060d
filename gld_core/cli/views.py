"""The command `views`: novel views, depth and 3D from photographs or posed scenes, one or many."""

import argparse
from collections.abc import Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from ..io.cameras import find_scenes
from ..io.scenes import view_numbers
from ..jobs import Job, Models, read_list
from ..jobs.many import run_many, run_one
from .options import Progress, add_device_option, add_model_options, choose_device, choose_dtype, say

INPUT = (
    "a photograph, a folder of photographs, a scene with cameras in any format of docs/formats.md, a folder of such "
    "scenes, or a list: a file .jsonl with one JSON object a line, whose keys are `input` and any option below"
)


def limits(one: Field) -> str:
    """ " (0 to 20; default 1.5)": the range and the default of a job's setting."""
    parts = []
    if one.metadata["low"] is not None:
        low, high = (
            f"{end:g}" if isinstance(end, float) else end for end in (one.metadata["low"], one.metadata["high"])
        )
        parts.append(f"{low} to {high}")
    if one.default not in (None, (), "", False, True):
        parts.append(f"default {one.default}")
    return f" ({'; '.join(parts)})" if parts else ""


def add_job_options(command: argparse.ArgumentParser) -> None:
    """An option for every setting of `Job`."""
    group = command.add_argument_group("the job", "Every option of these is also a key of a list file.")
    for one in fields(Job):
        if not one.metadata:
            continue
        kind, option = one.metadata["kind"], "--" + one.name.replace("_", "-")
        text = (one.metadata["text"] + limits(one)).replace("%", "%%")
        common: dict[str, Any] = {"dest": one.name, "default": None}
        if kind == "bool" and one.default:
            command_text = f"do not {text}"
            group.add_argument("--no-" + one.name.replace("_", "-"), action="store_false", help=command_text, **common)
        elif kind == "bool":
            group.add_argument(option, action="store_true", help=text, **common)
        else:
            if one.metadata["choices"] and kind == "str":
                common["choices"] = tuple(one.metadata["choices"])
            parse = {"int": int, "float": float}.get(kind, str)
            shown = {"numbers": "VIEWS", "names": "NAME,..."}.get(kind, one.name.upper())
            if kind == "names":
                text += f": {', '.join(one.metadata['choices'])}"
            group.add_argument(option, type=parse, help=text, metavar=None if "choices" in common else shown, **common)


def job_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What was given of a job's settings, those left out left out."""
    given = {one.name: getattr(args, one.name) for one in fields(Job) if one.metadata}
    given = {name: value for name, value in given.items() if value is not None}
    for name in ("sources", "targets"):
        if name in given:
            given[name] = tuple(view_numbers(given[name], f"--{name}"))
    if "export" in given:
        given["export"] = tuple(part.strip() for part in given["export"].split(",") if part.strip())
    return given


def jobs_of(inputs: Sequence[Path], settings: dict[str, Any]) -> tuple[list[Job], bool]:
    """The jobs, and whether each has a folder of its own. ValueError for a list that cannot be read."""
    jobs: list[Job] = []
    for path in inputs:
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            if not path.is_file():
                raise ValueError(f"{path} is not there; give a list: one JSON object a line.")
            jobs += read_list(path, settings)
        elif path.is_dir():
            jobs += [Job(str(scene), **settings) for scene in find_scenes(path)]
        else:
            jobs.append(Job(str(path), **settings))
    single = len(inputs) == 1 and len(jobs) == 1 and jobs[0].input == str(inputs[0])
    return jobs, not single


def models_of(args: argparse.Namespace, keep: bool) -> Models:
    device = choose_device(args.device)
    return Models(args.models, args.backbone, str(device), choose_dtype(args.dtype, device), keep)


def cluster_of(args: argparse.Namespace) -> Any:
    """The Ray cluster that was asked for; None where none was."""
    if args.ray is None:
        return None
    try:
        from ..jobs.cluster import Cluster
    except ImportError:
        raise ValueError("--ray needs the package ray; install it with: pip install ray") from None
    return Cluster(args.ray or None, args.workers, args.worker_cpus, args.worker_gpus)


def views(args: argparse.Namespace) -> int:
    """What is given is checked before a network is loaded. Returns the exit code: 1 where a scene of many, or
    an export, failed.
    """
    jobs, many = jobs_of(args.inputs, job_settings(args))
    models = models_of(args, (many or args.ray is not None) and not args.low_memory)
    if args.ray is None and not many:
        return int(not run_one(jobs[0], args.out, models, say, Progress, args.overwrite))
    outcomes = run_many(jobs, args.out, models, say, Progress, args.overwrite, cluster_of(args))
    return int(not all(outcome.whole for outcome in outcomes))


def add_many_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("many scenes")
    group.add_argument("--low-memory", action="store_true", help="hold the networks of one stage at a time")
    group.add_argument(
        "--ray", nargs="?", const="", metavar="ADDRESS",
        help="hand the scenes out to workers of a Ray cluster; without ADDRESS Ray starts on this machine",
    )  # fmt: skip
    group.add_argument("--workers", type=int, help="Ray: number of workers (default: one a GPU, else one for 4 CPUs)")
    group.add_argument("--worker-cpus", type=float, default=1, help="Ray: CPUs that a worker takes (default 1)")
    group.add_argument("--worker-gpus", type=float, help="Ray: GPUs that a worker takes (default 1 with CUDA, else 0)")


def add(commands) -> None:
    command = commands.add_parser("views", help="novel views, depth and 3D from photographs or posed scenes")
    command.add_argument("inputs", type=Path, nargs="+", metavar="INPUT", help=INPUT)
    add_model_options(command)
    add_device_option(command)
    add_job_options(command)
    add_many_options(command)
    command.set_defaults(action=views)
