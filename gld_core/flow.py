"""The flow that is sampled: x_t = (1 - t) * data + t * noise, velocity = noise - data.

docs/model.md#the-flow-and-its-sampler
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Callback = Callable[[int, int, Tensor], None]
LAST_NOISE = 0.999
# Quirk: the shift is computed for the patch grid the backbone was trained on, whatever the images' size.
SHIFT_GRID = {"da3": 18, "vggt": 37}
STEPS = {"da3": 49, "vggt": 99}
# The largest time shift that can be chosen.
LARGEST_SHIFT = 100.0


def default_shift(backbone: str, channels: int, views: int) -> float:
    """The released time shift a for features of `channels` channels over `views` views."""
    return math.sqrt(channels * SHIFT_GRID[backbone] ** 2 * views / 4096)


def time_grid(steps: int, shift: float) -> Tensor:
    """(steps + 1,) float32 times from 1 down; the last is small but not 0."""
    u = 1 - torch.linspace(0, LAST_NOISE, steps + 1)
    return shift * u / (1 + (shift - 1) * u)


@dataclass(frozen=True)
class Solver:
    """How the flow is integrated; by default as released.

    steps: network evaluations, None: the released number. order: 1 is Euler, 2 the explicit midpoint method with two
    evaluations a step. guidance: the times (from, to) between which there is any. reuse_encoder_for: this
    many evaluations in a row use the condition encoder's output of the first.
    """

    steps: int | None = None
    order: int = 1
    guidance: tuple[float, float] = (0.0, 1.0)
    reuse_encoder_for: int = 1

    def check(self) -> None:
        """ValueError for what nothing can be integrated with."""
        if self.order not in (1, 2) or self.reuse_encoder_for < 1:
            raise ValueError(
                f"The solver has order {self.order} and reuse_encoder_for {self.reuse_encoder_for}; order has to be 1 "
                "or 2, reuse_encoder_for at least 1."
            )


RELEASED = Solver()
# About half the network work of the released 49. On the small model it ends as near to 400 evaluations, 0.049 against
# 0.051, and its pictures are 0.14 dB below (tests/bench/solvers.py); on a large one it has not been measured.
FAST = Solver(steps=32, order=2, guidance=(0.0, 0.97))
# About half the network work too, with two thirds of the model's own steps: `quality: quick` of the nodes, `--fast`.
QUICK = Solver(guidance=FAST.guidance, reuse_encoder_for=2)


def quick_steps(steps: int) -> int:
    """How many of a model's own steps are taken with QUICK."""
    return round(2 / 3 * steps)


@dataclass(frozen=True)
class Sampling:
    """How one level is sampled. The defaults give the released result.

    steps: number of network evaluations. shift: time shift. None is the released value for both. cfg: scale of
    classifier-free guidance, 1 for none. seed: random seed for the initial noise. noise (V, C, h, w): the initial noise
    itself, in place of one drawn from the seed. callback(step, steps, denoised) is called after each evaluation, with
    the features as estimated so far.
    """

    steps: int | None = None
    cfg: float = 1.5
    shift: float | None = None
    seed: int = 0
    noise: Tensor | None = None
    callback: Callback | None = None
    solver: Solver = RELEASED

    def times(self, backbone: str, channels: int, views: int) -> Tensor:
        """The times from 1 down to almost 0, one more than there are solver steps. ValueError for settings that cannot
        be sampled with.
        """
        self.solver.check()
        steps = self.steps if self.steps is not None else self.solver.steps or STEPS[backbone]
        shift = default_shift(backbone, channels, views) if self.shift is None else self.shift
        if steps < self.solver.order or not 0 < shift < math.inf or not math.isfinite(self.cfg):
            raise ValueError(
                f"steps is {steps}, shift {shift} and cfg {self.cfg}; steps has to be {self.solver.order} or more, "
                "shift above 0, and all of them finite."
            )
        return time_grid(steps // self.solver.order, shift)

    def initial_noise(self, shape: tuple[int, ...], level: int) -> Tensor:
        """Noise of `shape`, that of the settings or drawn from the seed: level 1 gets the first draw, the cascade the
        second, so that one seed gives both levels noise of their own. ValueError where there is none of that shape.
        """
        if self.noise is not None:
            if tuple(self.noise.shape) != shape:
                raise ValueError(f"The noise has shape {tuple(self.noise.shape)}, these views need {shape}.")
            return self.noise
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"The seed is {self.seed}; give a whole number from 0 to {2**64 - 1}.")
        generator = torch.Generator().manual_seed(self.seed)
        return [torch.randn(shape, generator=generator) for _ in range(2 - level)][-1]


def integrate(
    velocity: Callable[[Tensor, float], Tensor],
    noise: Tensor,
    times: Tensor,
    callback: Callback | None = None,
    order: int = 1,
) -> Tensor:
    """Integrate from times[0] to times[-1] with a `Solver`'s order, which is the number of evaluations a step.

    velocity(x, t) of the noisy x at t. callback(evaluation, evaluations, denoised) after each evaluation, with the
    data as estimated so far; what it raises ends the sampling.
    """
    x, t, number = noise, times.tolist(), itertools.count(1)

    def evaluate(x: Tensor, t: float) -> Tensor:
        v = velocity(x, t)
        if callback is not None:
            callback(next(number), order * (len(times) - 1), x - t * v)
        return v

    for i in range(len(t) - 1):
        step = t[i + 1] - t[i]
        v = evaluate(x, t[i])
        if order == 2:
            v = evaluate(x + step / 2 * v, t[i] + step / 2)
        x = x + step * v
    return x


def hold_known_views(
    velocity: Callable[[Tensor, float], Tensor], noise: Tensor, views: list[int], data: Tensor
) -> Callable[[Tensor, float], Tensor]:
    """The velocity, where at every t the network sees `views` (along dimension 2) as (1 - t) * data + t * noise, on
    their straight line from `noise` to their known `data`. noise: where the sampling starts from; data: the known views
    alone. What becomes of `views` in x does not matter.
    """
    index = torch.tensor(views, device=noise.device)
    held = noise[:, :, index]
    return lambda x, t: velocity(x.index_copy(2, index, t * held + (1 - t) * data), t)


@dataclass
class Remembered:
    """What the evaluations of one sampling leave for the next: the condition encoder's outputs by branch, with the
    number of their uses, and whether memory allows both branches in one batch.
    """

    encoded: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    uses: int = 0
    batched: bool = True

    def move(self, device: torch.device | str) -> None:
        """The outputs, to where they wait or to where the network runs."""
        self.encoded = {
            name: {key: value.to(device) for key, value in outputs.items()} for name, outputs in self.encoded.items()
        }


def denoiser(
    network: Callable[..., Tensor],
    unconditional: dict[str, Any] | None,
    conditional: dict[str, Any],
    cfg: float,
    solver: Solver = RELEASED,
    remembered: Remembered | None = None,
) -> Callable[[Tensor, float], Tensor]:
    """The data as estimated from the noisy x at t, with classifier-free guidance, both branches in one batch.

    It is computed as ComfyUI's samplers do, so that the results are equal to the bit on the CPU: each branch gives the
    data as estimated, x - t * v, and these are guided.

    The branches are what `MultiViewDiT.prepare` returns; unconditional None: no guidance. Where memory does not allow
    the batch, the branches are evaluated one after the other from then on. remembered: for a sampling that is continued
    with a denoiser of its own.
    """
    given = {"conditional": conditional}
    if unconditional is not None:
        given["unconditional"] = unconditional
        given["both"] = {
            name: torch.cat([unconditional[name], value]) if isinstance(value, Tensor) else value
            for name, value in conditional.items()
        }
    kept = Remembered() if remembered is None else remembered

    def evaluate(x: Tensor, t: float, name: str) -> Tensor:
        B = 2 if name == "both" else 1
        # A number, so that a GPU is never waited for.
        times = x.new_full((B,), t)
        shared = kept.encoded[name] if solver.reuse_encoder_for > 1 else None
        return network(x.expand(B, *x.shape[1:]), times, **given[name], shared=shared).float()

    def denoised(x: Tensor, t: float) -> Tensor:
        guide = unconditional is not None and solver.guidance[0] <= t <= solver.guidance[1]
        while True:
            names = ["conditional"] if not guide else ["both"] if kept.batched else ["unconditional", "conditional"]
            if kept.uses % solver.reuse_encoder_for == 0 or list(kept.encoded) != names:
                kept.encoded, kept.uses = {name: {} for name in names}, 0
            kept.uses += 1
            try:
                v = torch.cat([evaluate(x, t, name) for name in names])
                break
            except torch.cuda.OutOfMemoryError:
                if names != ["both"]:
                    raise
                kept.batched = False
        data = x - t * v
        if guide:
            data_u, data_c = data.chunk(2)
            data = data_u + cfg * (data_c - data_u)
        return data

    return denoised


def velocity_to(denoised: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float], Tensor]:
    """The velocity towards the data that `denoised` estimates."""
    return lambda x, t: (x - denoised(x, t)) / t


def guided(
    network: Callable[..., Tensor],
    unconditional: dict[str, Any] | None,
    conditional: dict[str, Any],
    cfg: float,
    solver: Solver = RELEASED,
) -> Callable[[Tensor, float], Tensor]:
    """Velocity with classifier-free guidance v_u + cfg * (v_c - v_u), by the `denoiser` of these arguments."""
    return velocity_to(denoiser(network, unconditional, conditional, cfg, solver))
