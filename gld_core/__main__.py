"""Command line: `python -m gld_core views | eval | train | convert | demo`. Progress to stderr, errors in one sentence.

Exit codes: 0 done, 2 something is wrong with what was given, 130 interrupted.
"""

import argparse
import os
import sys
import time
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from . import evaluate, load, train
from .checkpoints import LAYOUT, convert
from .export import (
    contact_sheet,
    depth_to_color,
    depth_unit,
    write_depth_png,
    write_npz,
    write_ply,
    write_png,
    write_transforms,
)
from .flow import FAST, RELEASED
from .geometry import confidence_threshold, point_cloud
from .images import fitting_size
from .lpips import LINEAR_FILE, LPIPS, VGG_FILE, missing_files
from .render import render_scene
from .rooms import REACH, room_file, write_rooms
from .scenes import choose_views, read_scene, write_scene
from .training_data import Data, Features, Photographs, Rooms, find_scenes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MAX_POINTS = 500_000
NANO = Path(__file__).parent / "nano"
# The small model was trained on the first 2000 rooms.
DEMO_ROOM = 5001


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Progress:
    """Callback of a sampling: a line at most once a second, with the time left in this stage."""

    def __init__(self, stage: str):
        self.stage = stage
        self.start = self.last = time.monotonic()

    def __call__(self, step: int, steps: int, denoised: torch.Tensor) -> None:
        now = time.monotonic()
        if now - self.last >= 1 or step in (1, steps):
            self.last = now
            left = (now - self.start) / step * (steps - step)
            say(f"{self.stage}: step {step} of {steps}, {left // 60:.0f}:{left % 60:02.0f} left")


def indices(text: str) -> list[int]:
    """ "0,7" -> [0, 7]."""
    return [int(part) for part in text.split(",")]


def numbers(text: str) -> tuple[int, ...]:
    """The same for `train.Settings`, which cannot change."""
    return tuple(indices(text))


def choose_device(name: str) -> torch.device:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, present in available.items() if present)
    if not available[name]:
        raise ValueError(f"This machine has no {name} device that PyTorch can use; choose another --device.")
    return torch.device(name)


def check_out(out: Path, overwrite: bool) -> None:
    """Raise ValueError unless results may be written to the folder."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder as --out.")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise ValueError(f"{out} is not empty; choose another --out, or --overwrite to replace files of the same name.")


def views(args: argparse.Namespace) -> None:
    """From a posed scene to all results in args.out. What is given is checked before a network is loaded."""
    check_out(args.out, args.overwrite)
    if args.steps is not None and args.steps < 1:
        raise ValueError(f"--steps is {args.steps}; at least 1 network evaluation is needed.")
    device = choose_device(args.device)
    scene = read_scene(args.scene, args.size)
    chosen = args.num_sources if args.sources is None else args.sources
    sources, targets = choose_views(len(scene), chosen, args.targets)
    photographs = scene.photographs(sources)
    order = sources + targets
    cameras, names, N = scene.cameras[order], [scene.names[view] for view in order], len(sources)
    say(f"{N} source and {len(targets)} target views of {cameras.width} x {cameras.height}; loading {args.models}")
    dtype = DTYPES[args.dtype] if args.dtype else (torch.bfloat16 if device.type == "cuda" else torch.float32)
    gld = load(args.models, backbone=args.backbone, device=device, dtype=dtype)

    encoded = gld.encode_views(photographs, cameras)
    sampling = {"steps": args.steps, "cfg": args.cfg, "shift": args.shift, "seed": args.seed}
    sampling["solver"] = FAST if args.fast else RELEASED
    level1 = gld.sample_level1(encoded, callback=Progress("level 1"), **sampling)
    level0 = None if args.no_cascade else gld.cascade_level0(encoded, level1, callback=Progress("level 0"), **sampling)

    say(f"decoding and writing to {args.out}")
    rgb = gld.decode_rgb(encoded, level1, level0).float().cpu()
    files: list[dict[str, object]] = []
    for view, name in enumerate(names):
        kind = "sources" if view < N else "targets"
        write_png(args.out / kind / f"{name}.png", photographs[view] if view < N else rgb[view])
        files.append({"file_path": f"{kind}/{name}.png", "depth_file_path": f"depth/{name}.png"})
    geometry, _ = gld.decode_geometry(encoded, level1, level0).align_to(cameras)
    depth, confidence = geometry.depth.float().cpu(), geometry.depth_conf.float().cpu()
    unit = depth_unit(depth)
    for view, name in enumerate(names):
        write_depth_png(args.out / "depth" / f"{name}.png", depth[view], unit)
        camera = {"pose": cameras.c2w[view], "intrinsic": cameras.K[view]}
        arrays = {"depth": depth[view], "confidence": confidence[view], **camera}
        write_npz(args.out / "depth" / f"{name}.npz", depth_unit=unit, **arrays)
    write_transforms(args.out / "transforms.json", cameras, files, depth_unit_scale_factor=unit)
    threshold = confidence_threshold(confidence)
    xyz, colors = point_cloud(depth, confidence, rgb, cameras.K, cameras.c2w, threshold)
    if len(xyz) > MAX_POINTS:
        kept = torch.randperm(len(xyz), generator=torch.Generator().manual_seed(args.seed))[:MAX_POINTS].sort().values
        xyz, colors = xyz[kept], colors[kept]
    write_ply(args.out / "points.ply", xyz, colors, replace=True)
    labels = [f"{'source' if view < N else 'target'} {name}" for view, name in enumerate(names)]
    rows = {"photo": [scene.images[view] for view in order], "view": list(rgb), "depth": list(depth_to_color(depth))}
    write_png(args.out / "contact_sheet.png", contact_sheet(labels, rows))
    say(f"{args.out / 'contact_sheet.png'} shows the result")


def evaluate_model(args: argparse.Namespace) -> None:
    """Every scene is read and checked before a network is loaded."""
    check_out(args.out, args.overwrite)
    if args.steps is not None and args.steps < 1:
        raise ValueError(f"--steps is {args.steps}; at least 1 network evaluation is needed.")
    device = choose_device(args.device)
    if args.sources is None:
        args.sources = args.num_sources or (evaluate.ROOM_SOURCES if args.rooms else 2)
    cases = evaluate.find_cases(
        args.scenes, args.rooms, args.first_seed, args.size, args.sources, args.targets, args.window
    )
    folder = args.lpips or args.models / "lpips"
    missing = missing_files(folder)
    if args.lpips and missing:
        raise ValueError(f"{folder} lacks {' and '.join(missing)}, which LPIPS needs; leave --lpips out, or add them.")
    lpips = None if missing else LPIPS(folder, device)
    say(f"{len(cases)} scenes; loading {args.models}")
    dtype = DTYPES[args.dtype] if args.dtype else (torch.bfloat16 if device.type == "cuda" else torch.float32)
    gld = load(args.models, backbone=args.backbone, device=device, dtype=dtype)
    sampling = {"steps": args.steps, "cfg": args.cfg, "shift": args.shift, "seed": args.seed}
    sampling["solver"] = FAST if args.fast else RELEASED
    evaluation = evaluate.Evaluation(gld, not args.no_cascade, args.window, sampling, lpips)
    settings = {name: value for name, value in vars(args).items() if name not in ("action", "command", "num_sources")}
    settings["lpips"] = f"not measured, without {' and '.join(missing)} in {folder}" if missing else str(folder)
    settings["depth"] = "exact" if args.rooms else "what the backbone finds in the photographs"
    say(f"LPIPS: {settings['lpips']}")
    evaluate.run(evaluation, cases, args.out, settings, say, Progress("evaluation"))


def read_training_data(folder: Path, rooms: int | None, rank: int, long_side: int, least: int) -> Data:
    """Rooms of the folder, those of the first `rooms` seeds rendered, by the first process, where they are missing; or
    its kept features; or its scenes.
    """
    if rooms is None and any(folder.glob("set_*.safetensors")):
        return Features(folder)
    if rooms is None:
        seeds = sorted(int(path.stem.removeprefix("room_")) for path in folder.glob("room_*.npz"))
    else:
        seeds = list(range(rooms))
        missing = [seed for seed in seeds if not room_file(folder, seed).exists()]
        if missing and rank == 0:
            write_rooms(folder, missing, os.cpu_count() or 1, lambda done, of: say(f"room {done} of {of} rendered"))
    if distributed.is_initialized():
        distributed.barrier()
    if seeds:
        return Rooms(folder, seeds)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give one of scenes, or --rooms to have some rendered there.")
    data = Photographs(find_scenes(folder), long_side, least)
    if data.reason and rank == 0:
        say(f"left out {data.skipped['scenes']} scenes and {data.skipped['frames']} frames: {data.reason}")
    return data


def train_stage(args: argparse.Namespace) -> None:
    """One process, or several that torchrun starts."""
    names = [field.name for field in fields(train.Settings) if getattr(args, field.name, None) is not None]
    settings = train.Settings(**{**train.STAGES[args.stage], **{name: getattr(args, name) for name in names}})
    if args.precision:
        settings = replace(settings, precision=DTYPES[args.precision])
    device, rank = choose_device(args.device), int(os.environ.get("RANK", 0))
    if distributed.is_torchelastic_launched():
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        # The others wait while the first renders.
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=24))
    try:
        train.train(
            args.stage,
            read_training_data(args.data, args.rooms, rank, args.long_side, max(settings.views)),
            settings,
            args.out,
            args.models,
            args.start,
            args.size,
            args.geometry,
            args.backbone,
            device,
            say if rank == 0 else lambda text: None,
            args.save_every,
            args.log_every,
            args.workers,
            args.sheet_every,
        )
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def convert_models(args: argparse.Namespace) -> None:
    check_out(args.out, args.overwrite)
    convert(args.models, args.out, dtype=DTYPES[args.dtype], backbone=args.backbone)
    say(f"{args.out} can be given as --models")


def demo(args: argparse.Namespace) -> None:
    """A rendered room, and `views` on it."""
    check_out(args.out, args.overwrite)
    height, width = fitting_size(5, 9, args.size)
    say(f"rendering a room to {args.out / 'scene'}")
    images, _, cameras = render_scene(DEMO_ROOM + args.seed, 6, height, width, reach=REACH)
    write_scene(args.out / "scene", images, cameras)
    args.scene, args.out = args.out / "scene", args.out / "views"
    views(args)


def add_training_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("stage", choices=tuple(train.STAGES))
    command.add_argument("--data", type=Path, required=True, help="folder of rendered rooms, kept features or scenes")
    command.add_argument("--long-side", type=int, default=504, help="of photographs (default 504)")
    command.add_argument("--workers", type=int, default=0, help="processes that read pictures (default: none)")
    command.add_argument("--rooms", type=int, help="train on this many; those missing from --data are rendered there")
    command.add_argument("--models", type=Path, help="folder of the frozen networks, in the released layout")
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for the results, may be --models; a training that is there goes on",
    )
    command.add_argument("--from", dest="start", type=Path, help="released weights to start from")
    command.add_argument("--size", choices=tuple(train.DIFFUSION_SIZES), default="released", help="of new networks")
    command.add_argument("--geometry", action="store_true", help="decoder: train the geometry head too, on exact depth")
    command.add_argument("--backbone", choices=tuple(LAYOUT), default="da3")
    command.add_argument("--steps", type=int, required=True, help="batches; features: view sets of every scene")
    command.add_argument("--batch", type=int, help="pictures a step")
    command.add_argument("--views", type=numbers, help="of a scene, drawn per step from these: 8, or 2,4,4")
    command.add_argument("--sources", type=numbers, help="of the views, drawn per step from these: 1,2,3,4")
    command.add_argument("--lr", type=float)
    command.add_argument("--warmup", type=int, help="steps over which the learning rate rises")
    command.add_argument("--final-lr", type=float, help="where the learning rate goes (default: it stays)")
    command.add_argument("--ema", type=float, help="decay of the averaged weights, which are the result")
    command.add_argument("--clip", type=float, help="largest norm of the gradient")
    command.add_argument("--seed", type=int)
    command.add_argument("--camera-drop", type=float, help="share of scenes without cameras")
    command.add_argument("--level1-noise", type=float, help="deviation of noise on what the cascade is given")
    command.add_argument("--feature-noise", type=float, help="decoder: noise on the features, as generated ones have")
    command.add_argument("--level-drop", type=float, help="share of scenes whose level 0 is left out (default 1/6)")
    command.add_argument("--precision", choices=tuple(DTYPES)[:2], help="of the products (default float32)")
    command.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    command.add_argument("--sheet-every", type=int, default=1000, help="steps from one contact sheet to the next")
    command.add_argument("--save-every", type=int, default=500, help="steps (default 500)")
    command.add_argument("--log-every", type=int, default=20, help="steps (default 20)")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m gld_core", description="Novel views, depth and 3D with GLD.")
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser("views", help="novel views, depth and points from a folder of posed photographs")
    run.add_argument("scene", type=Path, help="folder of pictures, each with a same-named .npz (pose, intrinsic)")
    measure = commands.add_parser(
        "eval",
        help="PSNR, SSIM, depth and camera errors of generated views, beside baselines",
        description=evaluate.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    measure.add_argument("scenes", type=Path, nargs="?", help="a scene as `views` takes it, or a folder of scenes")
    measure.add_argument("--rooms", type=int, help="in place of scenes: this many rendered rooms with exact depth")
    measure.add_argument("--first-seed", type=int, default=1_000_000, help="of the rooms (default 1000000)")
    measure.add_argument("--window", type=int, default=8, help="views made together, sources included (default 8)")
    text = f"folder of {VGG_FILE} and {LINEAR_FILE} (default: lpips in --models, if they are there)"
    measure.add_argument("--lpips", type=Path, help=text)
    learn = commands.add_parser(
        "train",
        help="train the small backbone, the decoders, or a diffusion model",
        description=train.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_training_options(learn)
    small = commands.add_parser("demo", help="the same on a rendered room, with the small model nano")
    change = commands.add_parser("convert", help="released checkpoints to safetensors")
    for command in (run, measure, small):
        group = command.add_mutually_exclusive_group()
        group.add_argument("--sources", type=indices, help="source views, by index in name order: 0,7")
        count = "this many sources, evenly spread (default 2" + (
            "; of rooms views 2 and 7)" if command is measure else ")"
        )
        group.add_argument("--num-sources", type=int, default=None if command is measure else 2, help=count)
        command.add_argument("--targets", type=indices, help="target views, by index (default: all others)")
        command.add_argument("--steps", type=int, default=4 if command is small else None, help="network evaluations")
        command.add_argument("--fast", action="store_true", help="half the network work, not the released result")
        command.add_argument("--cfg", type=float, default=1.5, help="guidance (default 1.5)")
        command.add_argument("--shift", type=float, help="time shift (default: the released one)")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
        size = 126 if command is small else 504
        command.add_argument("--size", type=int, default=size, help=f"long side, a multiple of 14 (default {size})")
        command.add_argument("--no-cascade", action="store_true", help="decode without level 0: half the cost")
    for command in (run, measure, small, change):
        models: dict[str, Any] = {"default": NANO} if command is small else {"required": True}
        command.add_argument("--models", type=Path, help="folder in the released layout", **models)
        command.add_argument("--out", type=Path, required=True, help="folder for the results")
        command.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
        default = "bfloat16" if command is change else None
        text = f"(default {default or 'float32, on CUDA bfloat16'})"
        command.add_argument("--dtype", choices=tuple(DTYPES), default=default, help=f"type of the weights {text}")
        command.add_argument("--backbone", choices=tuple(LAYOUT), default="da3")
    run.set_defaults(action=views)
    measure.set_defaults(action=evaluate_model)
    learn.set_defaults(action=train_stage)
    small.set_defaults(action=demo)
    change.set_defaults(action=convert_models)
    return top


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    try:
        args.action(args)
    except KeyboardInterrupt:
        say("Interrupted; no file is left half written.")
        return 130
    except (ValueError, OSError, torch.cuda.OutOfMemoryError) as error:
        say(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
