"""The command `convert`: released files as safetensors."""

import argparse

from ..checkpoints import convert
from .options import DTYPES, add_model_options, check_out, say


def convert_models(args: argparse.Namespace) -> None:
    check_out(args.out, args.overwrite)
    convert(args.models, args.out, dtype=DTYPES[args.dtype], backbone=args.backbone)
    say(f"{args.out} can be given as --models")


def add(commands) -> None:
    command = commands.add_parser("convert", help="released checkpoints to safetensors")
    add_model_options(command, dtype="bfloat16")
    command.set_defaults(action=convert_models)
