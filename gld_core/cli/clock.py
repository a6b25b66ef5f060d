"""The command `clock`: the small model's networks trained on one GPU for a number of seconds."""

import argparse
from pathlib import Path

from ..synthetic import batch, rooms
from ..training import clock
from .options import DTYPES, choose_device, say


def run(args: argparse.Namespace) -> None:
    device = choose_device(args.device)
    if args.part == "rooms":
        workers = rooms.start_rendering(args.data, args.processes, args.seconds)
        if device.type == "cuda":
            batch.render_until(args.data, args.seconds, device)
        for worker in workers:
            worker.join()
        return
    if args.models is None or args.out is None:
        raise ValueError("Give the folder of the model to start from as --models, and one for the results as --out.")
    clock.train(
        args.part,
        args.models,
        args.out,
        args.data,
        args.seconds,
        args.pictures,
        args.lr,
        args.seed,
        device,
        args.pixels,
        args.least,
        args.deeper,
        DTYPES[args.precision],
        say,
    )


def add(commands) -> None:
    command = commands.add_parser(
        "clock",
        help="train the small model on one GPU for a number of seconds",
        description=clock.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "part",
        choices=("rooms", "level1", "cascade", "decoders", "cameras"),
        help="what is trained; rooms: render them, meanwhile, on the GPU too",
    )
    command.add_argument("--data", type=Path, required=True, help="folder of rendered rooms, filled meanwhile")
    command.add_argument("--seconds", type=float, required=True, help="how long it goes on")
    command.add_argument("--processes", type=int, default=1, help="rooms: number of processes that render (default 1)")
    command.add_argument("--models", type=Path, help="folder of the model to start from, in the released layout")
    command.add_argument("--out", type=Path, help="folder for the results, in the released layout")
    command.add_argument("--pictures", type=int, default=432, help="number of pictures in a step (default 432)")
    command.add_argument("--lr", type=float, default=1e-3, help="largest learning rate (default 0.001)")
    command.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    command.add_argument(
        "--pixels", type=float, default=4.0, help="level1, cascade: weight of decoded pictures in the loss (default 4)"
    )
    command.add_argument("--least", type=int, default=150, help="number of rooms to begin with (default 150)")
    command.add_argument("--deeper", action="store_true", help="add a block to the condition encoder before it starts")
    command.add_argument(
        "--precision", choices=tuple(DTYPES)[:2], default="bfloat16", help="type of the products (default bfloat16)"
    )
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    command.set_defaults(action=run)
