"""The flow that is sampled: x_t = (1 - t) * data + t * noise, velocity = noise - data. spec/model.md section 6."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LAST_NOISE = 0.999
# Quirk: the shift is computed for the patch grid the backbone was trained on, whatever the images' size.
SHIFT_GRID = {"da3": 18, "vggt": 37}
STEPS = {"da3": 49, "vggt": 99}


def default_shift(backbone: str, channels: int, views: int) -> float:
    """The released time shift a for features of `channels` channels over `views` views."""
    return math.sqrt(channels * SHIFT_GRID[backbone] ** 2 * views / 4096)


def time_grid(steps: int, shift: float) -> Tensor:
    """(steps + 1,) float32 times from 1 down; the last is small but not 0."""
    u = 1 - torch.linspace(0, LAST_NOISE, steps + 1)
    return shift * u / (1 + (shift - 1) * u)


def sample_euler(
    velocity: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    times: Tensor,
    callback: Callable[[int, int, Tensor], None] | None = None,
) -> Tensor:
    """Integrate from times[0] to times[-1].

    velocity(x, t) of the noisy x at t (1,). callback(step, steps, denoised) after each evaluation, with the data
    as estimated so far; what it raises ends the sampling.
    """
    x, steps = noise, len(times) - 1
    times = times.to(noise.device)
    for i in range(steps):
        v = velocity(x, times[i : i + 1])
        if callback is not None:
            callback(i + 1, steps, x - times[i] * v)
        x = x + (times[i + 1] - times[i]) * v
    return x


def holding(
    velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, views: list[int], data: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """The velocity, with `views` (along dimension 2) on their straight line from `noise` to their known `data`, so
    that at every t the network sees them as (1 - t) * data + t * noise. noise: where the sampling starts from;
    data: the known views alone.
    """
    index = torch.tensor(views, device=noise.device)
    straight = noise[:, :, index] - data
    return lambda x, t: velocity(x, t).index_copy(2, index, straight)


def guided(
    network: Callable[..., Tensor], unconditional: dict[str, Any] | None, conditional: dict[str, Any], cfg: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """Velocity with classifier-free guidance v_u + cfg * (v_c - v_u), both branches in one batch.

    The branches are what `MultiViewDiT.prepare` returns; unconditional None: no guidance.
    """
    if unconditional is None:
        return lambda x, t: network(x, t, **conditional).float()
    both = {
        name: torch.cat([unconditional[name], value]) if isinstance(value, Tensor) else value
        for name, value in conditional.items()
    }

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        v_u, v_c = network(x.expand(2, *x.shape[1:]), t.expand(2), **both).float().chunk(2)
        return v_u + cfg * (v_c - v_u)

    return velocity
