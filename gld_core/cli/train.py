"""The command `train`: one stage of training, on one process or several."""

import argparse
import os
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from ..checkpoints import LAYOUT
from ..io.cameras import find_scenes
from ..synthetic.rooms import LARGE_SEEDS, OTHER_SEEDS, room_file, write_rooms
from ..training import stages
from ..training.data import Data, Features, Photographs, Rooms
from ..training.loop import Settings
from .options import DTYPES, choose_device, numbers, say


def read_training_data(
    folder: Path, rooms: int | None, others: int | None, large: int | None, rank: int, long_side: int, least: int
) -> Data:
    """What the folder holds: rooms, kept features, or scenes with cameras.

    With `rooms`, `others` or `large`, that many rooms, scenes of other worlds, and scenes with large pictures; the
    first process renders those that are missing.
    """
    rendered = (rooms, others, large) != (None, None, None)
    if not rendered and any(folder.glob("set_*.safetensors")):
        return Features(folder)
    if not rendered:
        seeds = sorted(int(path.stem.removeprefix("room_")) for path in folder.glob("room_*.npz"))
    else:
        seeds = [*range(rooms or 0), *OTHER_SEEDS[: others or 0], *LARGE_SEEDS[: large or 0]]
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
            read_training_data(
                args.data, args.rooms, args.others, args.large, rank, args.long_side, max(settings.views)
            ),
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
        description=stages.description(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("stage", choices=tuple(stages.STAGES), help="what is trained or computed, see above")
    command.add_argument(
        "--data", type=Path, required=True, help="folder of rendered rooms, of kept features, or of scenes with cameras"
    )
    command.add_argument(
        "--rooms", type=int, help="number of rendered rooms to train on; those that --data lacks are rendered there"
    )
    command.add_argument(
        "--others",
        type=int,
        help="number of scenes of other worlds besides: meadows, tables of objects, rooms textured like photographs",
    )
    command.add_argument(
        "--large",
        type=int,
        help="number of scenes besides whose pictures are twice as wide and high, 252x140, three of four are rooms",
    )
    command.add_argument(
        "--long-side", type=int, default=504, help="length in pixels of the long side of photographs (default 504)"
    )
    command.add_argument(
        "--workers", type=int, default=0, help="number of processes that read photographs (default 0: none besides)"
    )
    command.add_argument("--models", type=Path, help="folder of the frozen networks, in the released layout")
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for the results; it may be --models; a training that is there goes on",
    )
    command.add_argument("--from", dest="start", type=Path, help="file of released weights to start from")
    command.add_argument(
        "--size",
        choices=tuple(stages.DIFFUSION_SIZES),
        default="released",
        help="size of a diffusion model that starts from nothing (default released)",
    )
    command.add_argument(
        "--geometry",
        action="store_true",
        help="stages decoder and finish: train the geometry head too; this needs exact depth",
    )
    command.add_argument("--backbone", choices=tuple(LAYOUT), default="da3", help="family of networks (default da3)")
    command.add_argument(
        "--steps",
        type=int,
        required=True,
        help="number of batches; stage features: sets of views of every scene; stage latents: sampling steps",
    )
    command.add_argument("--batch", type=int, help="number of pictures in a step, over all processes")
    command.add_argument(
        "--views", type=numbers, help="number of views of a scene; of several (2,4,4) one is drawn for every step"
    )
    command.add_argument(
        "--sources", type=numbers, help="number of source views among these; of several one is drawn for every step"
    )
    command.add_argument("--lr", type=float, help="learning rate, above 0")
    command.add_argument("--warmup", type=int, help="number of steps over which the learning rate rises to --lr")
    command.add_argument(
        "--final-lr", type=float, help="learning rate of the last step, reached on half a cosine (default: it stays)"
    )
    command.add_argument("--ema", type=float, help="decay of the averaged weights, from 0 to 1; they are the result")
    command.add_argument("--clip", type=float, help="largest norm of the gradient, above 0")
    command.add_argument("--seed", type=int, help="random seed for weights, batches and noise (default 0)")
    command.add_argument(
        "--camera-drop", type=float, help="diffusion models: share of scenes without cameras, 0 to 1 (default 0.1)"
    )
    command.add_argument(
        "--level1-noise", type=float, help="stage cascade: deviation of the noise on level 1, from 0 (default 0)"
    )
    command.add_argument(
        "--feature-noise",
        type=float,
        help="stages decoder and finish: largest deviation of the noise on features, in units of theirs",
    )
    command.add_argument(
        "--level-drop", type=float, help="decoders: share of scenes that lack level 0, 0 to 1 (default 1/6)"
    )
    command.add_argument(
        "--precision",
        choices=tuple(DTYPES)[:2],
        help="type of the matrix products (default float32); bfloat16 is faster where the processor has it",
    )
    command.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="where to compute (default: a GPU if there is one)",
    )
    command.add_argument(
        "--sheet-every",
        type=int,
        default=1000,
        help="number of steps between contact sheets, 0 for none (default 1000)",
    )
    command.add_argument("--save-every", type=int, default=500, help="number of steps between savings (default 500)")
    command.add_argument("--log-every", type=int, default=20, help="number of steps between lines of log (default 20)")
    command.set_defaults(action=train_stage)
