"""The command `eval`: measures pictures, depth and cameras against the truth."""

import argparse
from pathlib import Path

from ..evaluation import benchmark
from ..evaluation.lpips import LINEAR_FILE, LPIPS, VGG_FILE, missing_files
from ..flow import FAST, RELEASED, Sampling
from ..pipeline import load
from .options import (
    Progress,
    add_model_options,
    add_sampling_options,
    add_source_options,
    check_out,
    choose_device,
    choose_dtype,
    say,
)


def evaluate_model(args: argparse.Namespace) -> None:
    """Every scene is read and checked before a network is loaded."""
    check_out(args.out, args.overwrite)
    if args.steps is not None and args.steps < 1:
        raise ValueError(f"--steps is {args.steps}; at least 1 network evaluation is needed.")
    device = choose_device(args.device)
    if args.sources is None:
        args.sources = args.num_sources or (benchmark.ROOM_SOURCES if args.rooms else 2)
    cases = benchmark.find_cases(
        args.scenes, args.rooms, args.first_seed, args.size, args.sources, args.targets, args.window
    )
    folder = args.lpips or args.models / "lpips"
    missing = missing_files(folder)
    if args.lpips and missing:
        raise ValueError(f"{folder} lacks {' and '.join(missing)}, which LPIPS needs; leave --lpips out, or add them.")
    lpips = None if missing else LPIPS(folder, device)
    say(f"{len(cases)} scenes; loading {args.models}")
    dtype = choose_dtype(args.dtype, device)
    gld = load(args.models, backbone=args.backbone, device=device, dtype=dtype)
    sampling = Sampling(args.steps, args.cfg, args.shift, args.seed, solver=FAST if args.fast else RELEASED)
    evaluation = benchmark.Evaluation(gld, not args.no_cascade, args.window, sampling, lpips)
    settings = {name: value for name, value in vars(args).items() if name not in ("action", "command", "num_sources")}
    settings["lpips"] = f"not measured, without {' and '.join(missing)} in {folder}" if missing else str(folder)
    settings["depth"] = "exact" if args.rooms else "what the backbone finds in the photographs"
    say(f"LPIPS: {settings['lpips']}")
    benchmark.run(evaluation, cases, args.out, settings, say, Progress("evaluation"))


def add(commands) -> None:
    command = commands.add_parser(
        "eval",
        help="PSNR, SSIM, depth and camera errors of generated views, beside baselines",
        description=benchmark.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("scenes", type=Path, nargs="?", help="a scene as `views` takes it, or a folder of scenes")
    command.add_argument("--rooms", type=int, help="in place of scenes: this many rendered rooms with exact depth")
    command.add_argument("--first-seed", type=int, default=1_000_000, help="of the rooms (default 1000000)")
    command.add_argument("--window", type=int, default=8, help="views made together, sources included (default 8)")
    text = f"folder of {VGG_FILE} and {LINEAR_FILE} (default: lpips in --models, if they are there)"
    command.add_argument("--lpips", type=Path, help=text)
    add_source_options(command, None, "default 2; of rooms views 2 and 7")
    add_sampling_options(command)
    add_model_options(command)
    command.set_defaults(action=evaluate_model)
