"""More views than the networks were trained on: a long path in windows of a few views each.

Every window has all source views and a stretch of the path that overlaps with its neighbours'. Windows step together:
at every sampling step each is evaluated on its own views, one window after the other, and where windows overlap, the
sources included, their estimates are blended. So no window begins where another has ended, and a closed path has no
end. The networks never see more than a window's views at once, neither here nor in decoding. Windows can also be
sampled in a row, as in version 0.1.0: each holds what earlier ones have made while its new views are sampled.
docs/paths.md says what else was tried, and how each did.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import flow
from .autoencoder import Autoencoder, Geometry, Views
from .flow import Callback, Sampling
from .networks.dit import from_network, to_network
from .pipeline import GLD

AS_RELEASED = Sampling()
# With how many views at most the released models were trained.
TRAINED_VIEWS = 8
# Views of a window, sources included, and targets that it shares with the one before.
SIZE, OVERLAP = 12, 2
# The choices for long paths, with the size of their windows. docs/paths.md
LONG_PATHS = {"speed": SIZE, "smooth": SIZE, "quality": TRAINED_VIEWS}
# For smooth paths: what the targets have in common, as a share of their noise's variance.
COMMON_NOISE = 0.5
# With so many sources neighbouring targets have noise in common. With fewer it decides what is invented where no
# source has looked, and the same error in several views costs more than the flicker.
SOURCES_FOR_SHARED_NOISE = 3
# Bytes of rays that windows which step together keep from one step to the next, and from one level to the next.
KEPT_RAYS = 2 * 2**30


@dataclass(frozen=True)
class Window:
    """views: indices into all views, sources first; new: those of them that are this window's to decode, and where
    windows are sampled in a row to sample.
    """

    views: list[int]
    new: list[int]


def plan_windows(
    sources: int, views: int, window: int = 0, overlap: int = OVERLAP, loop: bool = False, long_paths: str = "speed"
) -> list[Window]:
    """One window where all views fit in. window 0: windows to step together, of the size of the choice `long_paths`,
    larger where its sources leave no room for a target; otherwise windows of so many views, to be sampled in a row.
    Raises ValueError where they have no room for a new target.
    """
    if window == 0:
        return spread_windows(sources, views, max(LONG_PATHS[long_paths], sources + overlap + 1), overlap, loop)
    if window >= views:
        return [Window(list(range(views)), list(range(views)))]
    return split_into_windows(sources, views, window, overlap, loop)


def spread_windows(
    sources: int, views: int, size: int = SIZE, overlap: int = OVERLAP, loop: bool = False
) -> list[Window]:
    """Windows to step together: `size` views each (one smaller if all fit), their stretches evenly spread over the
    path, with `overlap` targets or more in common with the next. New are the targets to which no other stretch's middle
    is nearer. loop: the path is closed, and stretches go on over its end. Raises ValueError as `split_into_windows`.
    """
    targets, room = views - sources, size - sources
    check_room(sources, views, size, overlap)
    if targets <= room:
        return [Window(list(range(views)), list(range(views)))]
    if loop:
        count = -(-targets // (room - overlap))
        starts = [number * targets // count for number in range(count)]
    else:
        count = 1 + -(-(targets - room) // (room - overlap))
        starts = [number * (targets - room) // (count - 1) for number in range(count)]
    stretches = [[(start + place) % targets for place in range(room)] for start in starts]
    nearest: dict[int, tuple[int, int]] = {}
    for number, stretch in enumerate(stretches):
        for target, distance in zip(stretch, from_ends(room), strict=True):
            if distance > nearest.get(target, (0, 0))[0]:
                nearest[target] = (distance, number)
    return [
        Window(
            [*range(sources), *(sources + target for target in stretch)],
            [*range(sources if number == 0 else 0), *(sources + t for t in stretch if nearest[t][1] == number)],
        )
        for number, stretch in enumerate(stretches)
    ]


def from_ends(length: int) -> list[int]:
    """1 for the first and the last of so many targets in a row, 2 for their neighbours, and so on."""
    return [1 + min(place, length - 1 - place) for place in range(length)]


def check_room(sources: int, views: int, size: int, overlap: int) -> None:
    """ValueError where windows leave no room for a new target."""
    if sources < 1 or views <= sources:
        raise ValueError(f"There are {views} cameras and {sources} source views; add a target, and have a source.")
    if overlap < 0 or overlap >= size - sources:
        raise ValueError(
            f"A window of {size} views with {sources} sources and an overlap of {overlap} has no room for a new "
            "target; choose a larger window, a smaller overlap or fewer sources."
        )


def split_into_windows(
    sources: int, views: int, size: int = SIZE, overlap: int = OVERLAP, loop: bool = False
) -> list[Window]:
    """Windows to be sampled in a row: `views` views, the first `sources` of them sources, in windows of `size` views
    (one smaller if all fit).

    overlap: how many made targets a window has beside its new ones, the last one possibly more, so that all are of one
    size. loop: the path is closed, and one of its last window's is the first target. Raises ValueError where no room
    for a new target is left.
    """
    targets, room = views - sources, size - sources
    check_room(sources, views, size, overlap)
    if targets <= room:
        return [Window(list(range(views)), list(range(views)))]
    order = list(range(sources, views)) + ([sources] if loop else [])
    starts = [0]
    while starts[-1] + room < len(order):
        following = starts[-1] + room - overlap
        # On a loop the first target takes the place of one that is shared with the window before.
        closing = int(loop and overlap > 0)
        starts.append(following if following + room < len(order) - closing else len(order) - room)
    made: set[int] = set()
    out = []
    for start in starts:
        chosen = [*range(sources), *order[start : start + room]]
        new = [view for view in chosen if view not in made]
        made.update(new)
        if new:
            out.append(Window(chosen, new))
    return out


def with_common_noise(noise: Tensor, sources: int, share: float = COMMON_NOISE) -> Tensor:
    """Initial noise (V, ...) of which all targets have a share in common: every target but the first is mixed from the
    first one's noise and its own. Of each alone the distribution stays what it was. With one source the noise stays as
    it is: there it decides what is invented, and the same error everywhere costs more than the flicker.

    Ge et al., Preserve Your Own Correlation, 2023 (their mixed noise model).
    """
    if sources == 1 or share == 0:
        return noise
    out = noise.clone()
    out[sources + 1 :] *= (1 - share) ** 0.5
    out[sources + 1 :] += share**0.5 * noise[sources]
    return out


def with_neighbours_noise(noise: Tensor, sources: int, loop: bool = False) -> Tensor:
    """Initial noise (V, ...) of which each target has half of the variance in common with the next one and half with
    the one before: it is its own plus that of the next target, over the root of 2. Of each alone the distribution stays
    what it was. The last target keeps its own noise; on a loop the first is the next after it.
    """
    out, targets = noise.clone(), noise[sources:]
    mixed = (targets + targets.roll(-1, 0)) * 0.5**0.5
    out[sources:] = mixed if loop else torch.cat([mixed[:-1], targets[-1:]])
    return out


def path_noise(noise: Tensor, sources: int, loop: bool = False, long_paths: str = "speed") -> Tensor:
    """The initial noise (V, ...) of a path in windows that step together, of one that is each view's own."""
    if long_paths == "smooth":
        return with_common_noise(noise, sources)
    return with_neighbours_noise(noise, sources, loop) if sources >= SOURCES_FOR_SHARED_NOISE else noise


def part(views: Views, window: Window) -> Views:
    """The views of one window: its own sources of those that were encoded, and its own cameras."""
    if window.views == list(range(len(views.cameras))):
        return views
    chosen = [view for view in window.views if view < len(views.level1)]
    return replace(views, cameras=views.cameras[window.views], level0=views.level0[chosen], level1=views.level1[chosen])


def sample(
    gld: GLD,
    level: int,
    views: Views,
    level1: Tensor | None,
    plan: list[Window],
    sampling: Sampling = AS_RELEASED,
    together: bool = False,
) -> Tensor:
    """`GLD.sample_level1` (level 1, level1 None) or `GLD.cascade_level0` (level 0) of all views, in windows: (V, C, h,
    w) float32 on the CPU. With a single window it is what those give. together: windows of `spread_windows` step
    together, otherwise those of `split_into_windows` are sampled in a row.

    The callback counts the steps of all windows; `denoised` is of the window's views.
    """
    noise = sampling.initial_noise(views.latent_shape, level)
    if together and len(plan) > 1:
        return step_together(gld, level, views, level1, plan, replace(sampling, noise=noise))
    out = torch.empty(views.latent_shape)
    for number, window in enumerate(plan):
        step = None if sampling.callback is None else counted(sampling.callback, number, len(plan))
        known = {row: out[view] for row, view in enumerate(window.views) if view not in window.new}
        given = None if level1 is None else level1[window.views]
        local = replace(sampling, noise=noise[window.views], callback=step)
        made = gld.sample(level, part(views, window), given, local, known).cpu()
        out[window.new] = made[[window.views.index(view) for view in window.new]]
    return out


@torch.inference_mode()
def step_together(
    gld: GLD, level: int, views: Views, level1: Tensor | None, plan: list[Window], sampling: Sampling
) -> Tensor:
    """All windows at every step, blended where they overlap. What all views need between steps waits on the CPU."""
    gld.autoencoder.check_views(views)
    size, device = len(plan[0].views), gld.autoencoder.device
    times = sampling.times(views.backbone, views.latent_shape[1], size)
    noise = to_network(sampling.initial_noise(views.latent_shape, level)).cpu().float()
    local, evaluated = parts(views, plan), 0
    evaluations = sampling.solver.order * (len(times) - 1) * len(plan)
    remembered = [flow.Remembered() for _ in plan]

    def estimate(number: int, x: Tensor, t: float) -> Tensor:
        nonlocal evaluated
        given, kept = None if level1 is None else level1[plan[number].views], remembered[number]
        kept.move(device)
        data = gld.denoiser(level, local(number), given, sampling, kept)(x.to(device), t)
        kept.move("cpu")
        evaluated += 1
        if sampling.callback is not None:
            sampling.callback(evaluated, evaluations, from_network(data))
        return data.cpu()

    def denoised(x: Tensor, t: float) -> Tensor:
        return blend(plan, len(views.level1), x, lambda number, shown: estimate(number, shown, t))

    return from_network(flow.integrate(flow.velocity_to(denoised), noise, times, None, sampling.solver.order))


def blend(plan: list[Window], sources: int, x: Tensor, estimate: Callable[[int, Tensor], Tensor]) -> Tensor:
    """x (1, C, V, h, w) evaluated in windows that overlap: of every view the mean of what estimate(number of the
    window, x of its views) gives, a target counting the more the further it is from the ends of the window's stretch.
    """
    weights = [[1] * sources + from_ends(len(window.views) - sources) for window in plan]
    total = [0] * x.shape[2]
    for window, of_window in zip(plan, weights, strict=True):
        for view, weight in zip(window.views, of_window, strict=True):
            total[view] += weight
    out = torch.zeros_like(x)
    for number, window in enumerate(plan):
        found = estimate(number, x[:, :, window.views])
        for row, view in enumerate(window.views):
            out[:, :, view].add_(found[:, :, row], alpha=weights[number][row] / total[view])
    return out


def parts(views: Views, plan: list[Window]) -> Callable[[int], Views]:
    """`part` by number of the window. As many as `KEPT_RAYS` allows are kept for both levels, and with them their rays;
    those of the others are computed at every step.
    """
    cameras = views.cameras
    if views.computed.get("plan") != plan:
        rays = 7 * 4 * cameras.height * cameras.width * len(plan[0].views)
        views.computed.update(plan=plan, parts=[part(views, window) for window in plan[: KEPT_RAYS // rays]])
    kept = views.computed["parts"]
    return lambda number: kept[number] if number < len(kept) else part(views, plan[number])


def let_go(views: Views) -> None:
    """Give back the memory that `parts` has taken."""
    views.computed.pop("plan", None)
    views.computed.pop("parts", None)


def counted(callback: Callback, window: int, count: int) -> Callback:
    return lambda step, steps, denoised: callback(window * steps + step, count * steps, denoised)


def pieces(
    views: Views, level1: Tensor, level0: Tensor | None, plan: list[Window]
) -> Iterator[tuple[Window, Views, Tensor, Tensor | None]]:
    """Each window with its views, level-1 and level-0 latents, as the decoders take them."""
    for window in plan:
        yield window, part(views, window), level1[window.views], None if level0 is None else level0[window.views]


def decode_rgb(
    gld: GLD | Autoencoder,
    views: Views,
    level1: Tensor,
    level0: Tensor | None,
    plan: list[Window],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, list[float]]:
    """Images of all views (V, 3, H, W) float32 on the CPU, each from the window in which it is new, and the seams: for
    every window but the first the mean difference (of values in [0, 1]) between targets that it shares with earlier
    ones as it decodes them and as their own window did. progress(done, total) after each window.
    """
    cameras, sources = views.cameras, len(views.level1)
    out = torch.empty(len(cameras), 3, cameras.height, cameras.width)
    seams, made = [], set(range(sources))
    for number, (window, local, local1, local0) in enumerate(pieces(views, level1, level0, plan), 1):
        rgb = gld.decode_rgb(local, local1, local0).float().cpu()
        shared = [row for row, view in enumerate(window.views) if view in made and view >= sources]
        if shared:
            seams.append((rgb[shared] - out[[window.views[row] for row in shared]]).abs().mean().item())
        out[window.new] = rgb[[window.views.index(view) for view in window.new]]
        made.update(window.new)
        if progress is not None:
            progress(number, len(plan))
    return out, seams


def decode_geometry(
    gld: GLD | Autoencoder,
    views: Views,
    level1: Tensor,
    level0: Tensor | None,
    plan: list[Window],
    progress: Callable[[int, int], None] | None = None,
) -> Geometry:
    """Depth and recovered cameras of all views on the CPU, in the units and frame of the given cameras
    (`Geometry.align_to`), without rays. progress(done, total) after each window.

    The networks choose a scale per window. A later window's depth is brought to that of the first by the median ratio
    of what both show: the sources, and the targets they share.
    """
    cameras = views.cameras
    depth, conf = torch.empty(2, len(cameras), cameras.height, cameras.width)
    c2w, K = torch.empty(len(cameras), 4, 4), torch.empty(len(cameras), 3, 3)
    made: set[int] = set()
    for number, (window, local, local1, local0) in enumerate(pieces(views, level1, level0, plan), 1):
        raw = gld.decode_geometry(local, local1, local0)
        found, scale = raw.align_to(local.cameras)
        local_depth = raw.depth.cpu()
        known = [row for row, view in enumerate(window.views) if view in made]
        if known:
            ratio = depth[[window.views[row] for row in known]] / local_depth[known]
            ratio = ratio[torch.isfinite(ratio) & (ratio > 0)]
            scale = ratio.median().item() if len(ratio) else scale
        rows = [window.views.index(view) for view in window.new]
        depth[window.new], conf[window.new] = local_depth[rows] * scale, raw.depth_conf[rows].cpu()
        c2w[window.new], K[window.new] = found.cameras.c2w[rows], found.cameras.K[rows]
        made.update(window.new)
        if progress is not None:
            progress(number, len(plan))
    return Geometry(depth, conf, None, None, replace(cameras, c2w=c2w, K=K))
