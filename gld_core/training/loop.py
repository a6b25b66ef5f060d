"""The training loop: settings, batches, averaged weights, resuming."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from ..export.pictures import contact_sheet
from ..io.files import atomic
from ..io.images import write_png
from .data import Data
from .objectives import Batch, Objective


@dataclass(frozen=True)
class Settings:
    """The settings of a training. The defaults are those of the release for stage 2.

    batch: number of pictures in a step, over all processes. views, sources: their numbers in a scene; one of each is
    drawn for every step. lr goes to final_lr on half a cosine, or stays where that is None. precision: the type that
    autocast computes in. camera_drop and level1_noise belong to `FlowObjective`, feature_noise and level_drop to
    `BackboneObjective` and those made of it.
    """

    steps: int
    batch: int
    views: tuple[int, ...] = (8,)
    sources: tuple[int, ...] = (1, 2, 3, 4)
    lr: float = 5e-5
    warmup: int = 0
    final_lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    ema: float = 0.9995
    seed: int = 0
    camera_drop: float = 0.1
    level1_noise: float = 0.0
    feature_noise: float = 0.0
    level_drop: float = 1 / 6
    precision: torch.dtype = torch.float32

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then constant, or down to final_lr on half a cosine."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.final_lr is None:
            return self.lr
        done = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.final_lr + (self.lr - self.final_lr) * 0.5 * (1 + math.cos(math.pi * done))


def make_batch(data: Data, settings: Settings, step: int, rank: int = 0, processes: int = 1) -> Batch:
    """The share of this process in the batch of a step. All scenes of a batch have one size."""
    rng = np.random.default_rng((settings.seed, step))
    sizes = data.sizes()
    size = sizes[int(rng.integers(len(sizes)))]
    alike = [index for index, other in enumerate(sizes) if other == size]
    views = int(rng.choice(settings.views))
    sources = int(rng.choice([n for n in settings.sources if n < views] or [1]))
    count = settings.batch // views
    scenes, seeds = rng.choice(alike, count), rng.integers(1 << 62, size=count)
    mine = range(rank, count, processes)
    read = [data.read(int(scenes[i]), views, np.random.default_rng(seeds[i])) for i in mine]
    images, depths, cameras = zip(*read, strict=True)
    depth = None if depths[0] is None else torch.stack(depths)
    latents = data.latents([int(scenes[i]) for i in mine])
    if latents is not None and latents.sources is not None:
        sources = latents.sources[0].shape[1]
    return Batch(torch.stack(images), depth, list(cameras), sources, [int(seeds[i]) for i in mine], step, latents)


class Steps(Dataset):
    """The batches of this process, one for every step."""

    def __init__(self, data: Data, settings: Settings, rank: int, processes: int):
        self.data, self.settings, self.rank, self.processes = data, settings, rank, processes

    def __getitem__(self, step: int) -> Batch:
        return make_batch(self.data, self.settings, step, self.rank, self.processes)


def initialise(module: nn.Module, seed: int) -> None:
    """Fill in weights to start from: deviation 1/sqrt(fan in), but zero for adaLN and the last layer of a DiT."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        with torch.no_grad():
            if name.endswith("gamma"):
                parameter.fill_(0.3)
            elif "adaLN_modulation" in name or name.startswith(("final_layer.linear", "special_output_proj")):
                parameter.zero_()
            elif name.endswith("token") or "pos_embed" in name:
                parameter.normal_(0, 0.02, generator=generator)
            elif name.endswith("t_embedder.W"):
                parameter.normal_(generator=generator)
            elif parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
            else:
                parameter.fill_(1.0 if name.endswith(("weight", "fc_fov.0.bias")) else 0.0)


class Ema:
    """Exponential moving average of the trained parameters, float32."""

    def __init__(self, objective: nn.Module, decay: float):
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in objective.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, objective: nn.Module) -> None:
        parameters = dict(objective.named_parameters())
        values = list(self.values.values())
        torch._foreach_lerp_(values, [parameters[name] for name in self.values], 1 - self.decay)


def load_state(state_file: Path, made_with: dict[str, Any], objective: nn.Module, optimizer, ema: Ema) -> int:
    """Restore the state of a training from its file, and return the number of steps that are done.

    ValueError where it was made with other settings. A larger number of steps is no other setting, unless the learning
    rate depends on it.
    """
    state = torch.load(state_file, map_location="cpu", weights_only=True)
    # A setting that was not there yet had what is now its default.
    found = {**asdict(Settings(steps=0, batch=0)), **state["settings"]}
    other = [name for name, value in made_with.items() if found.get(name) != value]
    if made_with["final_lr"] is None and "steps" in other and state["step"] <= made_with["steps"]:
        other.remove("steps")
    if other:
        text = ", ".join(f"{name} {found.get(name)} and not {made_with[name]}" for name in other)
        raise ValueError(f"{state_file} is of a training with {text}; give its settings, or another --out.")
    trained = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    if trained.keys() != state["model"].keys():
        raise ValueError(f"{state_file} is of a training of other networks; give another --out.")
    objective.load_state_dict(state["model"], strict=False)
    optimizer.load_state_dict(state["optimizer"])
    for name, value in state["ema"].items():
        ema.values[name].copy_(value)
    return state["step"]


def tensorboard(folder: Path, start: int, say: Callable[[str], None]) -> Any:
    """The writer of files for TensorBoard, from step `start` on. None, with a message, where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        say("TensorBoard is not installed: its files are not written (pip install tensorboard).")
        return None
    return SummaryWriter(str(folder), purge_step=start)


def fit(
    objective: Objective,
    data: Data,
    settings: Settings,
    state_file: Path,
    save: Callable[[Mapping[str, Tensor]], None],
    say: Callable[[str], None],
    save_every: int = 500,
    log_every: int = 20,
    workers: int = 0,
    sheet_every: int = 0,
    made_with: Mapping[str, Any] | None = None,
) -> None:
    """Train until settings.steps, from where state_file left off; save(ema) writes the released layout.

    In a folder of state_file's name are TensorBoard's files and, every `sheet_every` steps (0: never), a contact sheet
    of one scene, always the same, as the trained weights (not their average) make it. made_with: what else must be the
    same when a training goes on. ValueError where it is not.
    """
    rank, processes = (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)
    uneven = [views for views in settings.views if settings.batch // views % processes or settings.batch < views]
    if uneven:
        raise ValueError(
            f"A batch of {settings.batch} pictures in scenes of {uneven[0]} views cannot be shared evenly among "
            f"{processes} processes; give another --batch."
        )
    parameters = [p for p in objective.parameters() if p.requires_grad]
    device = parameters[0].device
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, betas=settings.betas, weight_decay=0.0, foreach=True)
    ema, start = Ema(objective, settings.ema), 0
    recorded = {**asdict(settings), "precision": str(settings.precision), "scenes": len(data), **(made_with or {})}
    if state_file.exists():
        start = load_state(state_file, recorded, objective, optimizer, ema)
        say(f"{state_file} has {start} of {settings.steps} steps; going on from there")
    model = DistributedDataParallel(objective, find_unused_parameters=True) if processes > 1 else objective
    folder = state_file.with_suffix("")
    board = tensorboard(folder, start, say) if rank == 0 else None
    began = time.monotonic()
    sums: dict[str, tuple[float, int]] = {}
    steps = range(start, settings.steps)
    # One batch a step, in the order of the steps however many workers there are.
    loader = DataLoader(Steps(data, settings, rank, processes), batch_size=None, sampler=steps, num_workers=workers)
    for step, batch in zip(steps, loader, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate(step)
        batch = batch.to(device)
        with torch.autocast(device.type, settings.precision, enabled=settings.precision != torch.float32):
            loss, figures = model(batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, settings.clip)
        figures = {"loss": loss.detach(), "norm": norm, **figures}
        if torch.isfinite(norm):
            optimizer.step()
            ema.update(objective)
            values = torch.stack([value.float() for value in figures.values()])
            if processes > 1:
                distributed.all_reduce(values)
            for name, value in zip(figures, (values / processes).tolist(), strict=True):
                total, times = sums.get(name, (0.0, 0))
                sums[name] = (total + value, times + 1)
        else:
            say(f"step {step + 1} is left out: its gradient is not finite.")
        optimizer.zero_grad()
        done = step + 1
        if rank == 0 and (done % log_every == 0 or done == settings.steps):
            left = (time.monotonic() - began) / (done - start) * (settings.steps - done)
            text = "  ".join(f"{name} {total / times:.4g}" for name, (total, times) in sums.items())
            say(f"step {done} of {settings.steps}: {text}  {left // 60:.0f}:{left % 60:02.0f} left")
            if board is not None:
                for name, (total, times) in sums.items():
                    board.add_scalar(name, total / times, done)
            sums = {}
        if rank == 0 and sheet_every and (done % sheet_every == 0 or done == settings.steps):
            shown = make_batch(data, replace(settings, batch=max(settings.views)), settings.steps).to(device)
            labels = ["source" if view < shown.sources else "target" for view in range(shown.images.shape[1])]
            rows = {"photo": list(shown.images[0]), "made": list(objective.show(shown))}
            write_png(folder / f"step_{done:07}.png", contact_sheet(labels, rows))
        if rank == 0 and (done % save_every == 0 or done == settings.steps):
            trained = {name: p.detach() for name, p in objective.named_parameters() if p.requires_grad}
            state = {"model": trained, "ema": ema.values, "optimizer": optimizer.state_dict()}
            with atomic(state_file) as temporary:
                torch.save({**state, "step": done, "settings": recorded}, temporary)
            save(ema.values)
    if board is not None:
        board.close()
    if rank == 0 and start >= settings.steps:
        save(ema.values)
