"""Command line: `python -m gld_core views | convert | demo`. Progress goes to stderr, errors are one sentence.

Exit codes: 0 done, 2 something is wrong with what was given, 130 interrupted.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

from . import load
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
from .random_models import write_random_models
from .render import render_scene
from .scenes import choose_views, read_scene, write_scene

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MAX_POINTS = 500_000


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


def convert_models(args: argparse.Namespace) -> None:
    check_out(args.out, args.overwrite)
    convert(args.models, args.out, dtype=DTYPES[args.dtype], backbone=args.backbone)
    say(f"{args.out} can be given as --models")


def demo(args: argparse.Namespace) -> None:
    """A rendered room, its own random network unless --models is given, and `views` on both."""
    check_out(args.out, args.overwrite)
    height, width = fitting_size(5, 9, args.size)
    say(f"rendering a room to {args.out / 'scene'}")
    images, _, cameras = render_scene(args.seed, 8, height, width)
    write_scene(args.out / "scene", images, cameras)
    args.scene = args.out / "scene"
    if args.models is None:
        args.models = args.out / "models"
        say(f"writing a small random network to {args.models}: its views will be noise")
        write_random_models(args.models, args.seed)
    args.out = args.out / "views"
    views(args)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m gld_core", description="Novel views, depth and 3D with GLD.")
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser("views", help="novel views, depth and points from a folder of posed photographs")
    run.add_argument("scene", type=Path, help="folder of pictures, each with a same-named .npz (pose, intrinsic)")
    small = commands.add_parser("demo", help="the same on a rendered room, with a small random network")
    change = commands.add_parser("convert", help="released checkpoints to safetensors")
    for command in (run, small):
        group = command.add_mutually_exclusive_group()
        group.add_argument("--sources", type=indices, help="source views, by index in name order: 0,7")
        group.add_argument("--num-sources", type=int, default=2, help="this many sources, evenly spread (default 2)")
        command.add_argument("--targets", type=indices, help="target views, by index (default: all others)")
        command.add_argument("--steps", type=int, default=6 if command is small else None, help="network evaluations")
        command.add_argument("--fast", action="store_true", help="half the network work, not the released result")
        command.add_argument("--cfg", type=float, default=1.5, help="guidance (default 1.5)")
        command.add_argument("--shift", type=float, help="time shift (default: the released one)")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
        size = 126 if command is small else 504
        command.add_argument("--size", type=int, default=size, help=f"long side, a multiple of 14 (default {size})")
        command.add_argument("--no-cascade", action="store_true", help="decode without level 0: half the cost")
    for command in (run, small, change):
        command.add_argument("--models", type=Path, required=command is not small, help="folder in the released layout")
        command.add_argument("--out", type=Path, required=True, help="folder for the results")
        command.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
        default = "bfloat16" if command is change else None
        text = f"(default {default or 'float32, on CUDA bfloat16'})"
        command.add_argument("--dtype", choices=tuple(DTYPES), default=default, help=f"type of the weights {text}")
        command.add_argument("--backbone", choices=tuple(LAYOUT), default="da3")
    run.set_defaults(action=views)
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
