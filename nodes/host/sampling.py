"""Sampling a GLD model with the host's samplers: conditioning, windows, fewer evaluations."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ...gld_core import flow, windows
from ...gld_core.autoencoder import Views
from .previews import PhotographedViews


def conditioning(views: Views, level1: Tensor | None, window: tuple[int, int] = (0, 1)) -> tuple[list, list, Tensor]:
    """Positive and negative CONDITIONING and the empty latent (1, C, V, h, w) to sample from. window: which of how many
    are sampled one after the other, for the progress that a preview comes with.
    """
    V, C, *grid = views.latent_shape
    empty = torch.zeros(1, C, V, *grid, device=comfy.model_management.intermediate_device())
    both = []
    for conditional in (True, False):
        extra = {"gld_views": views, "gld_level1": level1, "gld_conditional": conditional, "gld_window": window}
        # Conditioning nodes of other packs expect a tensor in the first place.
        both.append([[torch.zeros(1, 1, 1), extra]])
    return both[0], both[1], empty


def released_sigmas(model, samples: Tensor, steps: int, shift: float) -> Tensor:
    """The released time grid for `steps` network evaluations; shift 0: the released one."""
    C, V = samples.shape[1:3]
    return flow.time_grid(steps, shift or flow.default_shift(model.model.backbone, C, V))


def sample(
    model,
    views: PhotographedViews,
    level1: Tensor | None,
    plan: list[windows.Window],
    seed: int,
    steps: int,
    cfg: float,
    sampler: str,
    scheduler: str,
    shift: float,
    say: Callable[[str], None],
    speed_up: tuple[tuple[float, float], int] | None = None,
    common_noise: float = 0.0,
) -> Tensor:
    """Sample window by window, each the way the stock nodes do: (1, C, V, h, w). What earlier windows have made is held
    by the host's own mask for inpainting, which is `flow.hold_known_views`. A sampling that was interrupted goes on
    after its last finished window if nothing has changed. say: told the time that is left. speed_up: what `sped_up` is
    to do. common_noise: as in `windows.sample`.
    """
    remaining = TimeLeft(say)
    settings = (plan, seed, steps, cfg, sampler, scheduler, shift, speed_up, common_noise)
    wanted = Unfinished(conditioning(views, level1)[2], model, level1, settings)
    if speed_up is not None:
        model = sped_up(model, *speed_up)
    before = views.unfinished.get(model.model.level)
    current = before if before is not None and before.continues(wanted) else wanted
    views.unfinished[model.model.level] = current
    out, first = current.made, current.windows
    noise = comfy.sample.prepare_noise(out, seed)
    if len(plan) > 1:
        noise = windows.with_common_noise(noise.movedim(2, 0), len(views.level1), common_noise).movedim(0, 2)
    for number, window in list(enumerate(plan))[first:]:
        given = None if level1 is None else level1[:, :, window.views]
        positive, negative, empty = conditioning(windows.part(views, window), given, (number, len(plan)))
        if scheduler == "gld":
            sigmas = released_sigmas(model, empty, steps, shift)
        else:
            sigmas = comfy.samplers.KSampler(model, steps, model.load_device, sampler, scheduler).sigmas
        held = [row for row, view in enumerate(window.views) if view not in window.new]
        mask = None
        if held:
            empty[:, :, held] = out[:, :, window.views][:, :, held]
            mask = torch.ones_like(empty[:, :1])
            mask[:, :, held] = 0
        samples = comfy.sample.sample_custom(
            model,
            noise[:, :, window.views],
            cfg,
            comfy.samplers.sampler_object(sampler),
            sigmas,
            positive,
            negative,
            empty,
            noise_mask=mask,
            callback=counted(
                latent_preview.prepare_callback(model, len(sigmas) - 1), number, len(plan), first, remaining
            ),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seed,
        )
        out[:, :, window.new] = samples[:, :, [window.views.index(view) for view in window.new]].to(out)
        current.windows = number + 1
    return out


@dataclass
class Unfinished:
    """The features (1, C, V, h, w) that a sampling has `made` in its first `windows`, and what it was made with."""

    made: Tensor
    model: Any
    level1: Tensor | None
    settings: tuple
    windows: int = 0

    def continues(self, wanted: "Unfinished") -> bool:
        same = self.model is wanted.model and self.level1 is wanted.level1
        return same and self.settings == wanted.settings


class TimeLeft:
    """Says how long the other steps will take, after the first one and then at most every ten seconds."""

    def __init__(self, say: Callable[[str], None]):
        self.say, self.start, self.said = say, time.monotonic(), -math.inf

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.said < 10 or done == total:
            return
        self.said = now
        seconds = round((now - self.start) / done * (total - done))
        left = f"{seconds} seconds" if seconds < 120 else f"{round(seconds / 60)} minutes"
        self.say(f"Step {done} of {total}. About {left} left.")


def counted(callback: Callable, window: int, count: int, first: int, remaining: TimeLeft) -> Callable:
    """A sampler's callback that counts the steps of all windows. first: the window that this run began with."""

    def with_time(step, x0, x, total):
        callback(window * total + step, x0, x, count * total)
        remaining((window - first) * total + step + 1, (count - first) * total)

    return with_time


@dataclass
class SharedEncoder:
    """What the condition encoder gave in one sampling: for which branches, used how many times, by batch."""

    branches: list = field(default_factory=list)
    uses: int = 0
    encoded: dict[tuple, dict] = field(default_factory=dict)


def sped_up(model, guidance: tuple[float, float], share: int):
    """A clone of a GLD MODEL that any sampler evaluates as `flow.guided` does with a `flow.Solver` of these settings,
    which take the place of those of an earlier call.
    """
    patched, wrappers, key = model.clone(), comfy.patcher_extension.WrappersMP, "gld_fast"

    def start(executor, *args, **kwargs):
        executor.class_obj.model_options["transformer_options"][key] = SharedEncoder()
        return executor(*args, **kwargs)

    def evaluate(executor, base_model, conds, x, timestep, model_options):
        chosen = list(conds)
        guides = [i for i, cond in enumerate(conds) if cond and all(part.get("gld_conditional") for part in cond)]
        # With more than two kinds of conditioning, as in PerpNeg, the guider divides by how far they differ.
        partly = guidance != (0, 1) and len(conds) == 2
        if guides and partly and not guidance[0] <= timestep.max().item() <= guidance[1]:
            chosen = [cond if i in guides else None for i, cond in enumerate(conds)]
        shared = model_options["transformer_options"][key]
        branches = [part["uuid"] for cond in chosen if cond for part in cond]
        if shared.uses % share == 0 or branches != shared.branches:
            shared.branches, shared.uses, shared.encoded = branches, 0, {}
        shared.uses += 1
        out = executor(base_model, chosen, x, timestep, model_options)
        # What guidance is taken against is then the same, and makes no difference.
        return [
            out[guides[0]] if given is not None and cond is None else result
            for given, cond, result in zip(conds, chosen, out, strict=True)
        ]

    def network(executor, *args, transformer_options, **kwargs):
        shared = transformer_options[key].encoded.setdefault(tuple(transformer_options["uuids"]), {})
        return executor(*args, transformer_options=transformer_options, shared=shared, **kwargs)

    for kind, wrapper in (
        (wrappers.OUTER_SAMPLE, start),
        (wrappers.CALC_COND_BATCH, evaluate),
        (wrappers.DIFFUSION_MODEL, network),
    ):
        patched.remove_wrappers_with_key(kind, key)
        patched.add_wrapper_with_key(kind, key, wrapper)
    return patched
