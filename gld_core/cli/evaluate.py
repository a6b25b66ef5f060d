"""The command `eval`: measures pictures, depth and cameras against the truth."""

import argparse
from pathlib import Path

from ..evaluation import benchmark
from ..evaluation.lpips import LINEAR_FILE, VGG_FILE, missing_files
from ..evaluation.report import mean_rows, table
from ..io.cameras import find_scenes
from ..jobs import measure
from ..jobs.many import FAILED, run_many
from .options import Progress, add_model_options, add_sampling_options, add_source_options, say
from .views import add_many_options, cluster_of, models_of


def measurements(args: argparse.Namespace) -> list[measure.Measurement]:
    """What is measured, checked. ValueError for what cannot be meant, and for a scene given alone that cannot be
    measured.
    """
    if (args.scenes is None) == (args.rooms is None):
        raise ValueError("Give a folder of scenes, or --rooms and how many.")
    if args.rooms is not None and args.rooms < 1:
        raise ValueError(f"--rooms is {args.rooms}; at least 1 is needed.")
    sources = tuple(args.sources or ()) or args.num_sources or (tuple(benchmark.ROOM_SOURCES) if args.rooms else 2)
    settings = {
        "sources": sources, "targets": None if args.targets is None else tuple(args.targets), "size": args.size,
        "window": args.window, "steps": args.steps, "fast": args.fast, "cfg": args.cfg, "shift": args.shift,
        "seed": args.seed, "cascade": not args.no_cascade,
    }  # fmt: skip
    if args.rooms:
        seeds = range(args.first_seed, args.first_seed + args.rooms)
        jobs = [measure.Measurement(room=seed, **settings) for seed in seeds]
    else:
        jobs = [measure.Measurement(str(path), **settings) for path in find_scenes(args.scenes)]
    for job in jobs:
        job.check()
    if len(jobs) == 1:
        jobs[0].check_scene()
    return jobs


def evaluate_model(args: argparse.Namespace) -> int:
    """What is given is checked before a network is loaded. Returns the exit code: 1 where a scene failed."""
    jobs = measurements(args)
    folder = args.lpips or args.models / "lpips"
    missing = missing_files(folder)
    if args.lpips and missing:
        raise ValueError(f"{folder} lacks {' and '.join(missing)}, which LPIPS needs; leave --lpips out, or add them.")
    keep = (len(jobs) > 1 or args.ray is not None) and not args.low_memory
    models = measure.Judged(**vars(models_of(args, keep)), lpips=None if missing else folder.resolve())
    left_out = ("action", "command", "num_sources", "overwrite", "ray", "workers", "worker_cpus", "worker_gpus")
    settings = {name: value for name, value in vars(args).items() if name not in (*left_out, "low_memory")}
    settings["sources"] = jobs[0].sources
    settings["lpips"] = f"not measured, without {' and '.join(missing)} in {folder}" if missing else str(folder)
    settings["depth"] = "exact" if args.rooms else "what the backbone finds in the photographs"
    say(f"{len(jobs)} scenes; LPIPS: {settings['lpips']}")
    outcomes = run_many(
        jobs, args.out, models, say, Progress, args.overwrite, cluster_of(args), measure,
        measure.tabulator(settings, len(jobs)),
    )  # fmt: skip
    rows = {one.name: one.figures for one in outcomes if one.state != FAILED}
    if rows:
        say(table(list(mean_rows(rows).items())))
    return int(not all(outcome.whole for outcome in outcomes))


def add(commands) -> None:
    command = commands.add_parser(
        "eval",
        help="PSNR, SSIM, depth and camera errors of generated views, beside baselines",
        description=benchmark.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("scenes", type=Path, nargs="?", help="a scene as `views` takes it, or a folder of scenes")
    command.add_argument("--rooms", type=int, help="in place of scenes: this many rendered rooms with exact depth")
    command.add_argument("--first-seed", type=int, default=1_000_000, help="seed of the first room (default 1000000)")
    command.add_argument("--window", type=int, default=8, help="views made together, sources included (default 8)")
    text = f"folder of {VGG_FILE} and {LINEAR_FILE} (default: lpips in --models, if they are there)"
    command.add_argument("--lpips", type=Path, help=text)
    add_source_options(command, None, "default 2; of rooms views 2 and 7")
    add_sampling_options(command)
    add_model_options(command)
    add_many_options(command)
    command.set_defaults(action=evaluate_model)
