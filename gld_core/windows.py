"""More views than the networks were trained on: a long path in windows of a few views each.

Every window has all source views and a stretch of the path that overlaps with the one before. What earlier windows
have made, the sources' generated features included, is held while the new views are sampled, and every view's noise
is its own part of one noise field, of which targets may have a share in common: a window continues its predecessor.
Decoding goes window by window too, so the networks never see more than a window's views at once. docs/paths.md says
what else was tried, and how each did.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .autoencoder import Autoencoder, Geometry, Views
from .flow import Callback, Sampling
from .pipeline import GLD

AS_RELEASED = Sampling()
# Views of a window, sources included, and targets that it shares with the one before. The released models were trained
# with up to 8 views.
SIZE, OVERLAP = 12, 2
# For smooth paths: what the targets have in common, as a share of their noise's variance.
COMMON_NOISE = 0.5


@dataclass(frozen=True)
class Window:
    """views: indices into all views, sources first; new: those of them that no earlier window has made."""

    views: list[int]
    new: list[int]


def split_into_windows(
    sources: int, views: int, size: int = SIZE, overlap: int = OVERLAP, loop: bool = False
) -> list[Window]:
    """Cut `views` views, the first `sources` of them sources, into windows of `size` views (one smaller if all fit).

    overlap: how many made targets a window has beside its new ones, the last one possibly more, so that all are of one
    size. loop: the path is closed, and one of its last window's is the first target. Raises ValueError where no room
    for a new target is left.
    """
    targets, room = views - sources, size - sources
    if sources < 1 or targets < 1:
        raise ValueError(f"There are {views} cameras and {sources} source views; add a target, and have a source.")
    if overlap < 0 or overlap >= room:
        raise ValueError(
            f"A window of {size} views with {sources} sources and an overlap of {overlap} has no room for a new "
            "target; choose a larger window, a smaller overlap or fewer sources."
        )
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
    common_noise: float = 0.0,
) -> Tensor:
    """`GLD.sample_level1` (level 1, level1 None) or `GLD.cascade_level0` (level 0) of all views, in windows: (V, C, h,
    w) float32 on the CPU. With a single window it is what those give; with more, targets have a share
    `common_noise` of their noise in common.

    The callback counts the steps of all windows; `denoised` is of the window's views.
    """
    noise = sampling.initial_noise(views.latent_shape, level)
    if len(plan) > 1:
        noise = with_common_noise(noise, len(views.level1), common_noise)
    out = torch.empty(views.latent_shape)
    for number, window in enumerate(plan):
        step = None if sampling.callback is None else counted(sampling.callback, number, len(plan))
        known = {row: out[view] for row, view in enumerate(window.views) if view not in window.new}
        given = None if level1 is None else level1[window.views]
        local = replace(sampling, noise=noise[window.views], callback=step)
        made = gld.sample(level, part(views, window), given, local, known).cpu()
        out[window.new] = made[[window.views.index(view) for view in window.new]]
    return out


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
    """Images of all views (V, 3, H, W) float32 on the CPU, each from the window that made it, and the seams: for every
    window but the first the mean difference (of values in [0, 1]) between its shared targets as it decodes them and as
    their own window did. progress(done, total) after each window.
    """
    cameras, sources = views.cameras, len(views.level1)
    out = torch.empty(len(cameras), 3, cameras.height, cameras.width)
    seams = []
    for number, (window, local, local1, local0) in enumerate(pieces(views, level1, level0, plan), 1):
        rgb = gld.decode_rgb(local, local1, local0).float().cpu()
        shared = [row for row, view in enumerate(window.views) if view not in window.new and view >= sources]
        if shared:
            seams.append((rgb[shared] - out[[window.views[row] for row in shared]]).abs().mean().item())
        out[window.new] = rgb[[window.views.index(view) for view in window.new]]
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
    for number, (window, local, local1, local0) in enumerate(pieces(views, level1, level0, plan), 1):
        raw = gld.decode_geometry(local, local1, local0)
        found, scale = raw.align_to(local.cameras)
        local_depth = raw.depth.cpu()
        known = [row for row, view in enumerate(window.views) if view not in window.new]
        if known:
            ratio = depth[[window.views[row] for row in known]] / local_depth[known]
            ratio = ratio[torch.isfinite(ratio) & (ratio > 0)]
            scale = ratio.median().item() if len(ratio) else scale
        rows = [window.views.index(view) for view in window.new]
        depth[window.new], conf[window.new] = local_depth[rows] * scale, raw.depth_conf[rows].cpu()
        c2w[window.new], K[window.new] = found.cameras.c2w[rows], found.cameras.K[rows]
        if progress is not None:
            progress(number, len(plan))
    return Geometry(depth, conf, None, None, replace(cameras, c2w=c2w, K=K))
