"""Command line: `python -m gld_core views | eval | train | clock | convert | demo`. Progress to stderr, errors in one
sentence.

Exit codes: 0 done, 1 a scene of many, or an export, failed, 2 something is wrong with what was given, 130 interrupted.
"""

import argparse
import sys

import torch

from .cli.options import say
from .io.files import naming_full_disk


def parser() -> argparse.ArgumentParser:
    # Here, so that Ctrl-C meanwhile is told as it is later.
    from .cli import clock, convert, demo, evaluate, train, views

    top = argparse.ArgumentParser(prog="python -m gld_core", description="Novel views, depth and 3D with GLD.")
    commands = top.add_subparsers(dest="command", required=True)
    for command in (views, evaluate, train, clock, demo, convert):
        command.add(commands)
    return top


def main(arguments: list[str] | None = None) -> int:
    try:
        args = parser().parse_args(arguments)
        with naming_full_disk(args.out):
            return args.action(args) or 0
    except KeyboardInterrupt:
        say("Interrupted; no file is left half written.")
        return 130
    except (ValueError, OSError, torch.cuda.OutOfMemoryError) as error:
        say(f"error: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
