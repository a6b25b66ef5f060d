"""The command `train`: one stage of training, on one process or several."""

import argparse
import os
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from ..checkpoints import LAYOUT
from ..synthetic.rooms import room_file, write_rooms
from ..training import stages
from ..training.data import Data, Features, Photographs, Rooms, find_scenes
from ..training.loop import Settings
from .options import DTYPES, choose_device, numbers, say


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
    names = [field.name for field in fields(Settings) if getattr(args, field.name, None) is not None]
    settings = Settings(**{**stages.STAGES[args.stage].defaults, **{name: getattr(args, name) for name in names}})
    if args.precision:
        settings = replace(settings, precision=DTYPES[args.precision])
    device, rank = choose_device(args.device), int(os.environ.get("RANK", 0))
    if distributed.is_torchelastic_launched():
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        # The others wait while the first renders.
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=24))
    try:
        stages.train(
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
            save_every=args.save_every,
            log_every=args.log_every,
            workers=args.workers,
            sheet_every=args.sheet_every,
        )
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def add(commands) -> None:
    command = commands.add_parser(
        "train",
        help="train the small backbone, the decoders, or a diffusion model",
        description=stages.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("stage", choices=tuple(stages.STAGES))
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
    command.add_argument("--size", choices=tuple(stages.DIFFUSION_SIZES), default="released", help="of new networks")
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
    command.set_defaults(action=train_stage)
