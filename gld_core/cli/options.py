"""What the commands share: options, progress, lists of numbers, devices."""

import argparse
import sys
import time
from pathlib import Path

import torch

from ..checkpoints import LAYOUT

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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


def choose_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """The type of the weights: as given, else bfloat16 where a CUDA device computes in it, float32 elsewhere."""
    if name is not None:
        return DTYPES[name]
    # Cards before Ampere only emulate it, many times slower than float32.
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float32


def check_out(out: Path, overwrite: bool) -> None:
    """Raise ValueError unless results may be written to the folder."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder as --out.")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise ValueError(f"{out} is not empty; choose another --out, or --overwrite to replace files of the same name.")


def add_device_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="where to compute (default: a GPU if there is one)",
    )


def add_sampling_options(command: argparse.ArgumentParser) -> None:
    """Which views, and how they are sampled."""
    command.add_argument("--targets", type=indices, help="target views, by index (default: all others)")
    command.add_argument("--steps", type=int, help="network evaluations (default: the networks' own number)")
    command.add_argument("--fast", action="store_true", help="half the network work, not the released result")
    command.add_argument("--cfg", type=float, default=1.5, help="guidance (default 1.5)")
    command.add_argument("--shift", type=float, help="time shift (default: the released one)")
    command.add_argument("--seed", type=int, default=0, help="random seed for the initial noise (default 0)")
    add_device_option(command)
    command.add_argument("--size", type=int, help="long side in pixels (default: the networks' own; rooms: 126)")
    command.add_argument("--no-cascade", action="store_true", help="decode without level 0: half the cost")


def add_source_options(command: argparse.ArgumentParser, default: int | None = 2, note: str = "default 2") -> None:
    group = command.add_mutually_exclusive_group()
    group.add_argument("--sources", type=indices, help="source views, by index in name order: 0,7")
    group.add_argument("--num-sources", type=int, default=default, help=f"this many sources, evenly spread ({note})")


def add_model_options(command: argparse.ArgumentParser, models: Path | None = None, dtype: str | None = None) -> None:
    """Where the weights are and where results go. models: the default folder (None: has to be given)."""
    command.add_argument(
        "--models", type=Path, default=models, required=models is None, help="folder in the released layout"
    )
    command.add_argument("--out", type=Path, required=True, help="folder for the results")
    command.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
    text = f"type of the weights (default {dtype or 'float32, on CUDA from Ampere on bfloat16'})"
    command.add_argument("--dtype", choices=tuple(DTYPES), default=dtype, help=text)
    command.add_argument("--backbone", choices=tuple(LAYOUT), default="da3", help="family of networks (default da3)")
