"""The data of a training: rendered rooms, photographs with cameras, kept latents."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..autoencoder import Autoencoder
from ..cameras import Cameras
from ..io.cameras import read_scene
from ..io.files import atomic
from ..io.images import PATCH
from ..io.scenes import Scene
from ..pipeline import GLD
from ..synthetic.rooms import read_room
from .objectives import Latents, encode


class Data(Protocol):
    """Scenes to train on."""

    def __len__(self) -> int: ...

    def sizes(self) -> Sequence[tuple[int, ...]]:
        """Height and width of the pictures of every scene, and whatever else has to be the same in a batch."""
        ...

    def read(self, index: int, views: int, rng: np.random.Generator) -> tuple[Tensor, Tensor | None, Cameras]:
        """images (V, 3, H, W), depth (V, H, W) or None, and cameras of `views` frames of a scene in random order."""
        ...

    def latents(self, indices: Sequence[int]) -> Latents | None:
        """The latents that are kept of the views that `read` gives of these scenes. None if there are none."""
        ...


class Rooms:
    """Rendered rooms from a folder that `write_rooms` filled. They are kept in memory."""

    def __init__(self, folder: Path, seeds: Sequence[int]):
        self.seeds = list(seeds)
        self.rooms = [read_room(folder, seed) for seed in seeds]

    def __len__(self) -> int:
        return len(self.rooms)

    def sizes(self) -> list[tuple[int, int]]:
        return [(room.cameras.height, room.cameras.width) for room in self.rooms]

    def read(self, index: int, views: int, rng: np.random.Generator) -> tuple[Tensor, Tensor | None, Cameras]:
        room = self.rooms[index]
        chosen = rng.permutation(len(room.images))[:views].tolist()
        return room.images[chosen].float() / 255, room.depth[chosen], room.cameras[chosen]

    def latents(self, indices: Sequence[int]) -> None:
        return None


class Features:
    """Sets of views with their latents, from a folder that `write_features` filled. Files are memory-mapped."""

    def __init__(self, folder: Path):
        self.files = sorted(folder.glob("set_*.safetensors"))
        self.shapes = []
        for path in self.files:
            with safe_open(path, "pt") as file:
                views, _, height, width = file.get_slice("images").get_shape()
                self.shapes.append((height, width, views, file.get_slice("sources0").get_shape()[0]))

    def __len__(self) -> int:
        return len(self.files)

    def sizes(self) -> list[tuple[int, ...]]:
        """Height, width, number of views and of sources of every set. They are the same for all sets of a batch."""
        return list(self.shapes)

    def read(self, index: int, views: int, rng: np.random.Generator) -> tuple[Tensor, Tensor | None, Cameras]:
        """The views of the set, in its order."""
        content = load_file(self.files[index])
        height, width, own, _ = self.shapes[index]
        if views != own:
            raise ValueError(f"{self.files[index]} has {own} views; give --views {own}.")
        return content["images"].float() / 255, None, Cameras(content["c2w"], content["K"], height, width)

    def latents(self, indices: Sequence[int]) -> Latents:
        """Latents of all views and of the sources alone."""
        files = [load_file(self.files[index]) for index in indices]
        everything, sources = (
            [torch.stack([file[f"{name}{level}"].float() for file in files]) for level in (0, 1)]
            for name in ("all", "sources")
        )
        return Latents(everything, sources)


def write_features(
    autoencoder: Autoencoder,
    data: Data,
    folder: Path,
    sets: int,
    views: int,
    sources: Sequence[int],
    seed: int,
    say: Callable[[str], None],
) -> None:
    """Draw `sets` sets of views of every scene and write their pictures (8 bits), cameras and latents (half precision).

    Files that are there already stay as they are.
    """
    for scene in range(len(data)):
        for number in range(sets):
            path = folder / f"set_{scene:06}_{number:03}.safetensors"
            if path.exists():
                continue
            rng = np.random.default_rng((seed, scene, number))
            images, _, cameras = data.read(scene, views, rng)
            images = (images * 255).round().byte()
            latents = encode(autoencoder, images[None].float() / 255, int(rng.choice(sources)))
            assert latents.sources is not None
            tensors = {"images": images, "c2w": cameras.c2w, "K": cameras.K}
            for level in (0, 1):
                tensors |= {
                    f"all{level}": latents.levels[level][0].half(),
                    f"sources{level}": latents.sources[level][0].half(),
                }
            with atomic(path) as temporary:
                save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, temporary)
        say(f"features of scene {scene + 1} of {len(data)}")


LATENT_VIEWS = 6


class Generated:
    """Rooms, about half of them with the latents that diffusion models made of some of their views.

    folder: that of `write_latents`. Rooms with latents are repeated until they are as many as the others.
    """

    def __init__(self, rooms: Rooms, folder: Path):
        self.rooms = rooms
        files = {index: folder / f"room_{seed:06}.safetensors" for index, seed in enumerate(rooms.seeds)}
        self.content = {index: load_file(file) for index, file in files.items() if file.exists()}
        if not self.content:
            raise ValueError(f"{folder} has no latents of these rooms; make them with the stage latents.")
        others = [index for index in files if index not in self.content]
        self.scenes = list(self.content) * max(1, round(len(others) / len(self.content))) + others

    def __len__(self) -> int:
        return len(self.scenes)

    def sizes(self) -> list[tuple[int, ...]]:
        """Height and width, and whether there are latents."""
        sizes = self.rooms.sizes()
        return [(*sizes[index], index in self.content) for index in self.scenes]

    def read(self, index: int, views: int, rng: np.random.Generator) -> tuple[Tensor, Tensor | None, Cameras]:
        """Of a room with latents the views that these are of, in their order."""
        index = self.scenes[index]
        if index not in self.content:
            return self.rooms.read(index, views, rng)
        room, chosen = self.rooms.rooms[index], self.content[index]["frames"].tolist()
        if views != len(chosen):
            raise ValueError(f"The latents are of {len(chosen)} views a scene; give --views {len(chosen)}.")
        return room.images[chosen].float() / 255, room.depth[chosen], room.cameras[chosen]

    def latents(self, indices: Sequence[int]) -> Latents | None:
        """The latents that were made, the token of each scene's first view, and how many views were photographs."""
        if self.scenes[indices[0]] not in self.content:
            return None
        content = [self.content[self.scenes[index]] for index in indices]
        levels = [torch.stack([file[f"level{level}"].float() for file in content]) for level in (0, 1)]
        token = torch.stack([file["token"] for file in content])
        # Files of older versions do not say it.
        known = all("sources" in file for file in content)
        return Latents(levels, token=token, given=torch.stack([file["sources"] for file in content]) if known else None)


def write_latents(gld: GLD, rooms: Rooms, folder: Path, steps: int, seed: int, say: Callable[[str], None]) -> None:
    """Sample both levels of LATENT_VIEWS views of every room, 1 to 3 of them sources, into a file per room.

    Files that are there already stay as they are.
    """
    for done, (number, room) in enumerate(zip(rooms.seeds, rooms.rooms, strict=True), 1):
        path = folder / f"room_{number:06}.safetensors"
        if path.exists():
            continue
        rng = np.random.default_rng((seed, number))
        frames = rng.permutation(len(room.images))[:LATENT_VIEWS].tolist()
        sources = int(rng.choice([1, 2, 2, 3]))
        views = gld.encode_views(room.images[frames[:sources]].float() / 255, room.cameras[frames])
        assert views.token is not None
        level1 = gld.sample_level1(views, steps=steps, seed=number)
        level0 = gld.cascade_level0(views, level1, steps=steps, seed=number)
        tensors = {"level0": level0.half(), "level1": level1.half(), "token": views.token}
        tensors |= {"frames": torch.tensor(frames), "sources": torch.tensor(sources)}
        with atomic(path) as temporary:
            save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, temporary)
        say(f"latents of room {done} of {len(rooms.rooms)}")


# Ratios of short to long side of the pictures that the release was trained on. Their long side has 504 pixels.
ASPECTS = (1, 3 / 4, 2 / 3, 5 / 9)
# As released: a camera further away than this does not belong to the scene. In the unit of the scene.
MAX_TRANSLATION = 100.0
# The largest distance between frames of a sequence that are used together, in frames.
MAX_INTERVAL = 20


class Photographs:
    """Scenes of posed photographs in any format of `io.cameras.read_scene`; pictures are read when they are needed.

    A frame whose camera cannot be used or stands more than MAX_TRANSLATION away from the middle of the others, and a
    scene with fewer than `least` frames, are left out and counted in `skipped`, with the first reason. Pictures are
    fitted (`images.fit`) to `long_side` and the nearest of ASPECTS.
    """

    def __init__(self, paths: Sequence[Path], long_side: int = 504, least: int = 8):
        self.scenes: list[tuple[Scene, list[int], tuple[int, int]]] = []
        self.skipped = {"frames": 0, "scenes": 0}
        self.reason = ""
        for path in paths:
            try:
                scene = read_scene(path, long_side)
                usable = scene.all()
                height, width = scene.lens_of(usable[0])[1]
            except (ValueError, OSError) as error:
                self.leave_out("scenes", 1, str(error))
                continue
            self.leave_out("frames", len(scene) - len(usable), scene.left_out())
            centres = scene.centres(usable)
            near = np.linalg.norm(centres - np.median(centres, axis=0), axis=1) <= MAX_TRANSLATION
            kept = [view for view, good in zip(usable, near, strict=True) if good and scene.views[view].picture]
            self.leave_out(
                "frames", len(usable) - len(kept), f"{path} has frames without a picture or far from the rest"
            )
            if len(kept) < least:
                self.leave_out("scenes", 1, f"{path} has {len(kept)} frames of {least}")
                continue
            aspect = min(height, width) / max(height, width)
            short = max(1, round(long_side * min(ASPECTS, key=lambda value: abs(value - aspect)) / PATCH)) * PATCH
            size = (long_side, short) if height > width else (short, long_side)
            self.scenes.append((scene, kept, size))
        if not self.scenes:
            raise ValueError(f"None of {len(paths)} scenes can be trained on: {self.reason}.")

    def leave_out(self, what: str, count: int, reason: str) -> None:
        self.skipped[what] += count
        self.reason = self.reason or (reason if count else "")

    def __len__(self) -> int:
        return len(self.scenes)

    def sizes(self) -> list[tuple[int, int]]:
        return [size for _, _, size in self.scenes]

    def read(self, index: int, views: int, rng: np.random.Generator) -> tuple[Tensor, Tensor | None, Cameras]:
        scene, kept, size = self.scenes[index]
        interval = int(rng.integers(1, min(MAX_INTERVAL, (len(kept) - 1) // max(views - 1, 1)) + 1))
        first = int(rng.integers(len(kept) - interval * (views - 1)))
        chosen = [kept[place] for place in (first + interval * rng.permutation(views)).tolist()]
        images, cameras = scene.load(chosen, [], size=size)
        return images, None, cameras

    def latents(self, indices: Sequence[int]) -> None:
        return None
