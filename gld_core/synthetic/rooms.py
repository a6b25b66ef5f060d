"""Rendered rooms as training data. Every room has a file, which is rendered once."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..cameras import Cameras
from ..io.files import atomic
from .render import render_scene

VIEWS = 10
REACH = 2.0
# Every fifth room is square.
SIZES = ((70, 126), (70, 126), (70, 126), (70, 126), (98, 98))
# Rooms have all seeds but these, which have the other worlds in turn.
OTHER_SEEDS = range(500_000, 1_000_000)
OTHER_WORLDS = ("studio", "outdoors", "objects")
# These have larger pictures: three rooms, then one of the other worlds, and so on.
LARGE_SEEDS = range(400_000, 500_000)
LARGE_SIZE = (140, 252)


@dataclass(frozen=True)
class Room:
    """images (V, 3, H, W) uint8, depth (V, H, W) float32 in metres, cameras of V views along a path."""

    images: Tensor
    depth: Tensor
    cameras: Cameras


def room_file(folder: Path, seed: int) -> Path:
    return folder / f"room_{seed:06}.npz"


def kind_of(seed: int) -> tuple[tuple[int, int], str]:
    """Height and width of the pictures that a seed has, and its world."""
    other = seed in OTHER_SEEDS or (seed in LARGE_SEEDS and seed % 4 == 3)
    size = LARGE_SIZE if seed in LARGE_SEEDS else SIZES[seed % len(SIZES)]
    return size, OTHER_WORLDS[seed % len(OTHER_WORLDS)] if other else "room"


def write_room(task: tuple[Path, int]) -> None:
    """Render one room into the folder if it is not there yet."""
    folder, seed = task
    if room_file(folder, seed).exists():
        return
    torch.set_num_threads(1)
    size, world = kind_of(seed)
    images, depth, cameras = render_scene(seed, VIEWS, *size, reach=REACH, world=world)
    save_room(folder, seed, (images * 255).round().byte(), depth.half(), cameras.c2w, cameras.K)


def save_room(folder: Path, number: int, images: Tensor, depth: Tensor, c2w: Tensor, K: Tensor) -> None:
    """Write images (V, 3, H, W) uint8, depth (V, H, W) float16, c2w (V, 4, 4) and K (V, 3, 3) of a room."""
    with atomic(room_file(folder, number)) as temporary, open(temporary, "wb") as file:
        np.savez(file, images=images.numpy(), depth=depth.numpy(), c2w=c2w.numpy(), K=K.numpy())


def write_rooms(folder: Path, seeds: Sequence[int], processes: int, report) -> None:
    """Render the rooms that are missing, and call report(done, total) after each."""
    with get_context("spawn").Pool(processes) as pool:
        for done, _ in enumerate(pool.imap_unordered(write_room, [(folder, seed) for seed in seeds]), 1):
            report(done, len(seeds))


def read_room(folder: Path, seed: int) -> Room:
    with np.load(room_file(folder, seed)) as file:
        images, depth = torch.from_numpy(file["images"]), torch.from_numpy(file["depth"]).float()
        c2w, K = torch.from_numpy(file["c2w"]), torch.from_numpy(file["K"])
    return Room(images, depth, Cameras(c2w, K, *images.shape[-2:]))


def seed_of(number: int) -> int:
    """Of twelve rooms that are rendered one after the other, two are of other worlds and one is large."""
    dozen, place = divmod(number, 12)
    if place == 0:
        return LARGE_SEEDS[dozen]
    return OTHER_SEEDS[2 * dozen + place // 6] if place in (4, 9) else number


def render_from(folder: Path, first: int, step: int, deadline: float) -> None:
    """Render every `step`-th room until the deadline of `time.time`."""
    number = first
    while time.time() < deadline:
        write_room((folder, seed_of(number)))
        number += step


def start_rendering(folder: Path, processes: int, seconds: float) -> list[BaseProcess]:
    """Processes that fill the folder with rooms for so many seconds."""
    context, deadline = get_context("spawn"), time.time() + seconds
    workers = [context.Process(target=render_from, args=(folder, i, processes, deadline)) for i in range(processes)]
    for worker in workers:
        worker.start()
    return [*workers]
