"""Sampling a GLD model with the host's samplers: conditioning, windows, fewer evaluations."""

import math
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import comfy.k_diffusion.sampling
import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ...gld_core import flow, windows
from ...gld_core.autoencoder import Views
from .previews import PhotographedViews

# Steps done and steps in all, of the step of a sampler (from 0) and the number of its steps.
Place = Callable[[int, int], tuple[int, int]]

# Samplers that carry nothing but x from one step to the next, so that they can go on from there. Those of the second
# line add noise in every step.
WITHOUT_NOISE = ("euler", "heun", "dpm_2", "ddim")
WITH_NOISE = ("euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "lcm")


def whole(step: int, total: int) -> tuple[int, int]:
    """The `Place` in a sampling that is all of the work."""
    return step + 1, total


def empty_latent(views: Views) -> Tensor:
    """(1, C, V, h, w), to sample from."""
    V, C, *grid = views.latent_shape
    return torch.zeros(1, C, V, *grid, device=comfy.model_management.intermediate_device())


def conditioning(views: Views, level1: Tensor | None, place: Place = whole) -> tuple[list, list, Tensor]:
    """Positive and negative CONDITIONING and the `empty_latent`. place: for the progress that a preview comes with."""
    both = []
    for conditional in (True, False):
        extra = {"gld_views": views, "gld_level1": level1, "gld_conditional": conditional, "gld_place": place}
        # Conditioning nodes of other packs expect a tensor in the first place.
        both.append([[torch.zeros(1, 1, 1), extra]])
    return both[0], both[1], empty_latent(views)


def released_sigmas(model, C: int, V: int, steps: int, shift: float) -> Tensor:
    """The released time grid for `steps` network evaluations of V views with C channels; shift 0: the released one."""
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
    closed: bool = False,
    long_paths: str | None = None,
) -> Tensor:
    """Sample all views in windows, each the way the stock nodes do: (1, C, V, h, w). A sampling that was interrupted
    goes on from what is finished if nothing has changed. say: told the time that is left. speed_up: what `sped_up` is
    to do. closed, long_paths: as in `windows.path_noise`, where windows step together; None: in a row.
    """
    settings = (plan, seed, steps, cfg, sampler, scheduler, shift, speed_up, closed, long_paths)
    wanted = Unfinished(model, level1, settings)
    if speed_up is not None:
        model = sped_up(model, *speed_up)
    before = views.unfinished.get(model.model.level)
    current = before if before is not None and before.continues(wanted) else wanted
    views.unfinished[model.model.level] = current
    if scheduler == "gld":
        sigmas = released_sigmas(model, views.latent_shape[1], len(plan[0].views), steps, shift)
    else:
        sigmas = comfy.samplers.KSampler(model, steps, model.load_device, sampler, scheduler).sigmas

    def noise() -> Tensor:
        drawn = comfy.sample.prepare_noise(empty_latent(views), seed)
        if long_paths is None or len(plan) == 1:
            return drawn
        return windows.path_noise(drawn.movedim(2, 0), len(views.level1), closed, long_paths).movedim(0, 2)

    if long_paths is not None and len(plan) > 1:
        return step_together(model, views, level1, plan, noise, seed, cfg, sampler, sigmas, say, current)
    chosen = comfy.samplers.sampler_object(sampler)
    return sample_in_a_row(model, views, level1, plan, noise(), seed, cfg, chosen, sigmas, say, current)


def sample_in_a_row(
    model,
    views: PhotographedViews,
    level1: Tensor | None,
    plan,
    noise: Tensor,
    seed,
    cfg,
    sampler,
    sigmas,
    say,
    current,
) -> Tensor:
    """One window after the other. What earlier windows have made is held by the host's own mask for inpainting, which
    is `flow.hold_known_views`. `current` goes on after its last finished window.
    """
    out = current.made = empty_latent(views) if current.made is None else current.made
    remaining = TimeLeft(say, current.done / len(plan))
    for number, window in list(enumerate(plan))[current.done :]:
        given = None if level1 is None else level1[:, :, window.views]

        def place(step: int, total: int, number=number) -> tuple[int, int]:
            return number * total + step + 1, len(plan) * total

        positive, negative, empty = conditioning(windows.part(views, window), given, place)
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
            sampler,
            sigmas,
            positive,
            negative,
            empty,
            noise_mask=mask,
            callback=counted(latent_preview.prepare_callback(model, len(sigmas) - 1), place, remaining),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seed,
        )
        out[:, :, window.new] = samples[:, :, [window.views.index(view) for view in window.new]].to(out)
        current.done = number + 1
    return out


def step_together(
    model, views: PhotographedViews, level1: Tensor | None, plan, noise, seed, cfg, sampler, sigmas, say, current
) -> Tensor:
    """All windows at every step, as `windows.step_together`, with any sampler of the host.

    The host loads the model for the first window. Its sampler is then given all views, where latents are between nodes,
    and each evaluation that it asks for is one of every window, guided as any other. Where it `goes_on`, `current`
    keeps what each step begins with. noise() is asked for once, and what it gives is let go after the first step.
    """
    before, steps, count = current.done, len(sigmas) - 1, len(plan)
    if before == steps:
        return current.made
    V, C, *grid = views.latent_shape
    empty = torch.zeros((), device=comfy.model_management.intermediate_device()).expand(1, C, V, *grid)
    draws = Draws(empty, seed, current.drawn) if sampler in WITH_NOISE else None
    keeps = goes_on(sampler, model)
    chosen = comfy.samplers.sampler_object(sampler)
    if draws is not None:
        chosen.extra_options = chosen.extra_options | {"noise_sampler": draws}
    local, device = windows.parts(views, plan), model.load_device
    remaining, bar = TimeLeft(say, before / steps), comfy.utils.ProgressBar(count * steps)
    # Nodes that remember a branch have to know it again in the next step.
    names = [{"positive": uuid.uuid4(), "negative": uuid.uuid4()} for _ in plan]
    finished, evaluated, fresh = before, 0, True

    def place(step: int, total: int) -> tuple[int, int]:
        return (before + step + 1) * count, count * steps

    def window_conditioning(number: int) -> tuple[list, list, Tensor]:
        given = None if level1 is None else level1[:, :, plan[number].views]
        return conditioning(local(number), given, place)

    def begin(executor, guider, sigmas, extra_args, callback, of_window, latent, *others):
        sampling = guider.inner_model.model_sampling
        scale = sampling.noise_scaling

        def scaled_once(sigma, stand_in, *given):
            """In place of a noise that the host would hold to the end. Some samplers scale other noise later."""
            del sampling.noise_scaling
            return current.made if before else scale(sigma, noise().to(empty.device), *given)

        sampling.noise_scaling = scaled_once
        try:
            return executor(guider, sigmas.to(empty.device), extra_args, callback, empty, empty, *others)
        finally:
            sampling.__dict__.pop("noise_scaling", None)

    def evaluate(executor, x, timestep, model_options, seed):
        nonlocal fresh
        guider, options = executor.class_obj, model_options["transformer_options"]

        def estimate(number: int, shown: Tensor) -> Tensor:
            nonlocal evaluated
            shown, branches = shown.to(device), dict(zip(names[number], window_conditioning(number), strict=False))
            conds = {
                name: [cond | {"uuid": names[number][name]} for cond in comfy.sampler_helpers.convert_cond(branch)]
                for name, branch in branches.items()
            }
            guider.conds = comfy.samplers.process_conds(guider.inner_model, shown, conds, device, seed=seed)
            options["gld_window"] = number
            data = executor(shown, timestep.to(device), model_options, seed).to(x)
            evaluated += 1
            # The sampler's callback counts the last one. A second evaluation in one step is not counted.
            if evaluated < count:
                bar.update_absolute(finished * count + evaluated)
                remaining(finished * count + evaluated, count * steps)
            return data

        out = windows.blend(plan, len(views.level1), x, estimate)
        fresh = all(shared.uses == 1 for shared in options.get(FAST, {}).values())
        return out

    show = counted(latent_preview.prepare_callback(model, count * steps), place)

    def callback(step, x0, x, total):
        nonlocal finished, evaluated
        finished, evaluated = before + step + 1, 0
        if keeps and fresh:
            current.made, current.done = x, before + step
            current.drawn = 0 if draws is None else draws.count
        show(step, x0, x, total)

    patched, wrappers = model.clone(), comfy.patcher_extension.WrappersMP
    patched.add_wrapper_with_key(wrappers.SAMPLER_SAMPLE, "gld_together", begin)
    patched.add_wrapper_with_key(wrappers.PREDICT_NOISE, "gld_together", evaluate)
    positive, negative, of_window = window_conditioning(0)
    made = comfy.sample.sample_custom(
        patched,
        of_window,
        cfg,
        chosen,
        sigmas[before:],
        positive,
        negative,
        of_window,
        callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    current.made, current.done = made.to(empty.device), steps
    return current.made


def goes_on(sampler: str, model) -> bool:
    """Whether windows that step together can go on from an interrupted step: with a sampler that remembers nothing but
    x, and a MODEL without other nodes' wrappers, which may remember something.
    """
    own = all(str(key).startswith("gld_") for kind in model.wrappers.values() for key in kind)
    return own and sampler in WITHOUT_NOISE + WITH_NOISE


class Draws:
    """The noise that the host's samplers add between steps, from after `count` of them on: for latents like x."""

    def __init__(self, x: Tensor, seed: int, count: int):
        self.draw, self.count = comfy.k_diffusion.sampling.default_noise_sampler(x, seed=seed), count
        for _ in range(count):
            self.draw(None, None)

    def __call__(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        self.count += 1
        return self.draw(sigma, sigma_next)


@dataclass
class Unfinished:
    """What a sampling has `made` so far, and with what: (1, C, V, h, w), the features of its first `done` windows, or
    where windows step together, what the step after `done` others begins with, when noise was `drawn` so many times.
    None: nothing yet.
    """

    model: Any
    level1: Tensor | None
    settings: tuple
    made: Tensor | None = None
    done: int = 0
    drawn: int = 0

    def continues(self, wanted: "Unfinished") -> bool:
        same = self.model is wanted.model and self.level1 is wanted.level1
        return same and self.settings == wanted.settings


class TimeLeft:
    """Says how long the other steps will take, after the first one and then at most every ten seconds. before: the
    share of the work that was done before.
    """

    def __init__(self, say: Callable[[str], None], before: float):
        self.say, self.before, self.start, self.said = say, before, time.monotonic(), -math.inf

    def __call__(self, done: int, total: int) -> None:
        now, share = time.monotonic(), done / total
        if now - self.said < 10 or done == total:
            return
        self.said = now
        seconds = round((now - self.start) / (share - self.before) * (1 - share))
        left = f"{seconds} seconds" if seconds < 120 else f"{round(seconds / 60)} minutes"
        self.say(f"Step {done} of {total}. About {left} left.")


def counted(callback: Callable, place: Place, remaining: TimeLeft | None = None) -> Callable:
    """A sampler's callback that counts the steps of all windows, and says what time is left."""

    def with_time(step, x0, x, total):
        done, of_all = place(step, total)
        callback(done - 1, x0, x, of_all)
        if remaining is not None:
            remaining(done, of_all)

    return with_time


FAST = "gld_fast"


@dataclass
class SharedEncoder:
    """What the condition encoder gave in one sampling: for which branches, used how many times, by batch."""

    branches: list = field(default_factory=list)
    uses: int = 0
    encoded: dict[tuple, dict] = field(default_factory=dict)

    def wait(self, device: torch.device) -> None:
        """Put the outputs where they wait for the next step, while other windows are evaluated."""
        for outputs in self.encoded.values():
            outputs.update({name: value.to(device) for name, value in outputs.items()})


def sped_up(model, guidance: tuple[float, float], share: int):
    """A clone of a GLD MODEL that any sampler evaluates as `flow.guided` does with a `flow.Solver` of these settings,
    which take the place of those of an earlier call.
    """
    patched, wrappers = model.clone(), comfy.patcher_extension.WrappersMP

    def start(executor, *args, **kwargs):
        # By window, where windows step together.
        executor.class_obj.model_options["transformer_options"][FAST] = {}
        return executor(*args, **kwargs)

    def evaluate(executor, base_model, conds, x, timestep, model_options):
        chosen = list(conds)
        guides = [i for i, cond in enumerate(conds) if cond and all(part.get("gld_conditional") for part in cond)]
        # With more than two kinds of conditioning, as in PerpNeg, the guider divides by how far they differ.
        partly = guidance != (0, 1) and len(conds) == 2
        if guides and partly and not guidance[0] <= timestep.max().item() <= guidance[1]:
            chosen = [cond if i in guides else None for i, cond in enumerate(conds)]
        options = model_options["transformer_options"]
        window = options.get("gld_window")
        shared = options[FAST].setdefault(window, SharedEncoder())
        branches = [part["uuid"] for cond in chosen if cond for part in cond]
        if shared.uses % share == 0 or branches != shared.branches:
            shared.branches, shared.uses, shared.encoded = branches, 0, {}
        shared.uses += 1
        out = executor(base_model, chosen, x, timestep, model_options)
        if window is not None:
            shared.wait(comfy.model_management.intermediate_device())
        # What guidance is taken against is then the same, and makes no difference.
        return [
            out[guides[0]] if given is not None and cond is None else result
            for given, cond, result in zip(conds, chosen, out, strict=True)
        ]

    def network(executor, x, *args, transformer_options, **kwargs):
        window = transformer_options.get("gld_window")
        shared = transformer_options[FAST][window].encoded.setdefault(tuple(transformer_options["uuids"]), {})
        shared.update({name: value.to(x.device) for name, value in shared.items()})
        return executor(x, *args, transformer_options=transformer_options, shared=shared, **kwargs)

    for kind, wrapper in (
        (wrappers.OUTER_SAMPLE, start),
        (wrappers.CALC_COND_BATCH, evaluate),
        (wrappers.DIFFUSION_MODEL, network),
    ):
        patched.remove_wrappers_with_key(kind, FAST)
        patched.add_wrapper_with_key(kind, FAST, wrapper)
    return patched
