"""Paths longer than the networks take: every view made once, windows that continue each other, bounded memory."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch

import gld_core
from gld_core import conditioning, flow, windows
from gld_core.autoencoder import Geometry
from gld_core.cameras import Cameras
from gld_core.cameras.motions import join, targets
from gld_core.flow import Sampling
from gld_core.windows import Window, split_into_windows, spread_windows

pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 42, 56
STEPS = 4


@pytest.fixture(scope="module")
def gld(random_models):
    return gld_core.load(random_models, keep=True)


@pytest.fixture(scope="module")
def views(gld):
    """2 photographs and an orbit of 16 targets."""
    c2w = torch.eye(4).repeat(2, 1, 1)
    c2w[1, 0, 3] = 0.3
    K = torch.tensor([[50.0, 0, 28], [0, 50, 21], [0, 0, 1]]).repeat(2, 1, 1)
    sources = Cameras(c2w, K, HEIGHT, WIDTH)
    images = torch.rand(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    return gld.encode_views(images, join(sources, targets(sources, "orbit", 16, 2.0, degrees=40)))


@pytest.mark.parametrize("sources, targets", [(1, 80), (2, 16), (4, 80), (4, 5), (3, 6), (1, 7), (4, 1)])
@pytest.mark.parametrize("overlap", [0, 1, 2, 3])
@pytest.mark.parametrize("loop", [False, True])
def test_every_view_is_made_once_and_shared_with_its_neighbours(sources, targets, overlap, loop):
    plan = split_into_windows(sources, sources + targets, 8, overlap, loop)
    assert sorted(view for window in plan for view in window.new) == list(range(sources + targets))
    assert all(window.views[:sources] == list(range(sources)) for window in plan)
    assert {len(window.views) for window in plan} == {min(8, sources + targets)}
    made = set()
    for number, window in enumerate(plan):
        known = [view for view in window.views if view not in window.new]
        assert made.issuperset(known) and (number == 0 or len(known) >= sources + overlap)
        made.update(window.new)
        stretch = [view for view in window.views[sources:] if view != sources or number == 0]
        assert stretch == list(range(stretch[0], stretch[-1] + 1))
    if loop and overlap and len(plan) > 1:
        assert plan[-1].views[-1] == sources and plan[-1].new[-1] == sources + targets - 1


@pytest.mark.parametrize("sources, targets", [(1, 80), (2, 16), (4, 80), (4, 9), (3, 6), (1, 7), (4, 1)])
@pytest.mark.parametrize("overlap", [0, 1, 2, 3])
@pytest.mark.parametrize("loop", [False, True])
def test_windows_to_step_together_are_spread_and_each_view_is_new_where_it_is_furthest_from_the_ends(
    sources, targets, overlap, loop
):
    plan = spread_windows(sources, sources + targets, 8, overlap, loop)
    assert sorted(view for window in plan for view in window.new) == list(range(sources + targets))
    assert {len(window.views) for window in plan} == {min(8, sources + targets)}
    stretches = [window.views[sources:] for window in plan]
    assert all(window.views[:sources] == list(range(sources)) for window in plan)
    if len(plan) == 1:
        return
    for stretch in stretches:
        steps = [(after - before) % targets for before, after in zip(stretch, stretch[1:], strict=False)]
        assert set(steps) <= {1} and (loop or stretch == sorted(stretch))
    following = [*stretches[1:], *stretches[: int(loop)]]
    assert all(len({*one} & {*next_one}) >= overlap for one, next_one in zip(stretches, following, strict=False))
    for window in plan:
        for view in {*window.new} - {*range(sources)}:
            ends = [min(s.index(view), len(s) - 1 - s.index(view)) for s in stretches if view in s]
            place = window.views.index(view) - sources
            assert min(place, len(window.views) - sources - 1 - place) == max(ends)


@pytest.mark.parametrize("split", [split_into_windows, spread_windows])
def test_a_window_without_room_is_refused(split):
    for wrong in ((4, 20, 8, 4), (8, 20, 8, 0), (2, 20, 8, -1)):
        with pytest.raises(ValueError, match="has no room for a new target"):
            split(*wrong)
    with pytest.raises(ValueError, match="3 cameras and 3 source views; add a target"):
        split(3, 3)


def test_a_path_that_fits_is_sampled_as_ever(gld, views):
    short = windows.part(views, Window(list(range(6)), []))
    plan = split_into_windows(2, 6)
    level1 = windows.sample(gld, 1, short, None, plan, Sampling(steps=STEPS, seed=5), together=True)
    assert torch.equal(level1, gld.sample_level1(short, steps=STEPS, seed=5))
    level0 = windows.sample(gld, 0, short, level1, plan, Sampling(steps=STEPS, seed=5))
    assert torch.equal(level0, gld.cascade_level0(short, level1, steps=STEPS, seed=5))
    rgb, seams = windows.decode_rgb(gld, short, level1, level0, plan)
    assert seams == [] and torch.equal(rgb, gld.decode_rgb(short, level1, level0))


@pytest.mark.parametrize("count", [6, 18])
def test_the_rays_of_a_window_are_computed_once_for_both_levels(gld, views, monkeypatch, count):
    short = dataclasses.replace(views, cameras=views.cameras[range(count)])
    computed, compute = [], conditioning.pluecker_map
    monkeypatch.setattr(conditioning, "pluecker_map", lambda cameras: computed.append(1) or compute(cameras))
    plan = spread_windows(2, count, 8)
    level1 = windows.sample(gld, 1, short, None, plan, Sampling(steps=2), together=True)
    windows.sample(gld, 0, short, level1, plan, Sampling(steps=2), together=True)
    assert len(computed) == len(plan)


def test_held_views_are_seen_on_their_way_from_their_noise_and_come_out_as_they_were(gld, views):
    short = windows.part(views, Window(list(range(5)), []))
    noise, data = torch.randn(short.latent_shape), torch.randn(short.latent_shape[1:])
    seen = []
    network = gld.diffusion[1]
    handle = network.register_forward_pre_hook(lambda module, inputs: seen.append([part.clone() for part in inputs]))
    out = gld.sample(1, short, None, Sampling(STEPS, noise=noise), known={3: data})
    handle.remove()
    assert len(seen) == STEPS and torch.equal(out[3], data)
    for x, t in seen:
        assert torch.allclose(x[0, :, 3], (1 - t[0]) * data + t[0] * noise[3], atol=1e-4)
    free = gld.sample(1, short, None, Sampling(STEPS, noise=noise))
    assert (out[4] - free[4]).abs().max() > 1e-4


@pytest.mark.parametrize("level", [1, 0])
def test_a_window_holds_what_is_made_and_starts_from_its_part_of_the_noise(gld, views, level, monkeypatch):
    plan, calls, sample = split_into_windows(2, 18, 8, 2, loop=True), [], gld.sample
    monkeypatch.setattr(gld, "sample", lambda *given: calls.append(given) or sample(*given))
    noise, level1 = torch.randn(2, *views.latent_shape)
    out = windows.sample(gld, level, views, level1 if level == 0 else None, plan, Sampling(steps=1, noise=noise))
    assert len(calls) == len(plan)
    for window, given in zip(plan, calls, strict=True):
        assert torch.equal(given[1].cameras.c2w, views.cameras.c2w[window.views])
        assert level == 1 or torch.equal(given[2], level1[window.views])
        assert torch.equal(given[3].noise, noise[window.views])
        known = {window.views[row]: data for row, data in given[4].items()}
        assert set(known) == set(window.views) - set(window.new)
        assert all(torch.equal(data, out[view]) for view, data in known.items())


def test_half_of_the_noise_is_that_of_all_targets():
    """Every view's own distribution stays; sources have none in common."""
    noise = torch.randn(6, 200_000, generator=torch.Generator().manual_seed(3))
    found = windows.with_common_noise(noise, 2)
    meant = torch.eye(6)
    meant[2:, 2:] = 0.5
    meant[2, 3:] = meant[3:, 2] = 0.5**0.5
    meant.fill_diagonal_(1)
    assert torch.allclose(torch.cov(found), meant, atol=0.01)
    assert torch.equal(found[:3], noise[:3])
    assert torch.equal(windows.with_common_noise(noise, 1), noise)


@pytest.mark.parametrize("loop", [False, True])
def test_half_of_the_noise_is_that_of_the_next_target_and_half_of_the_one_before(loop):
    """Every view's own distribution stays; sources have none in common."""
    noise = torch.randn(8, 200_000, generator=torch.Generator().manual_seed(3))
    found = windows.path_noise(noise, 3, loop)
    meant = torch.eye(8)
    for view in (3, 4, 5, 6):
        meant[view, view + 1] = meant[view + 1, view] = 0.5 if loop or view < 6 else 0.5**0.5
    meant[3, 7] = meant[7, 3] = 0.5 * loop
    assert torch.allclose(torch.cov(found), meant, atol=0.01)
    assert torch.equal(found[:3], noise[:3])


def test_with_one_or_two_sources_the_noise_is_each_views_own_unless_the_path_is_to_be_smooth():
    noise = torch.randn(6, 5)
    assert torch.equal(windows.path_noise(noise, 1), noise) and torch.equal(windows.path_noise(noise, 2), noise)
    assert torch.equal(windows.path_noise(noise, 1, long_paths="smooth"), noise)
    assert torch.equal(windows.path_noise(noise, 2, long_paths="smooth"), windows.with_common_noise(noise, 2))
    assert torch.equal(windows.path_noise(noise, 4, long_paths="quality"), windows.path_noise(noise, 4))


def test_eighty_views_from_four_photographs_need_a_third_of_the_windows_of_eight():
    assert len(split_into_windows(4, 84, 8, 2)) == 39 and len(spread_windows(4, 84)) == 13


@pytest.mark.parametrize("solver", [flow.RELEASED, flow.QUICK, flow.FAST])
@pytest.mark.parametrize("level", [1, 0])
def test_windows_that_step_together_are_blended_at_every_step(gld, views, level, solver):
    """Against the same in plain words, on a closed path whose last window has the first targets too."""
    plan = spread_windows(2, 18, 8, 2, loop=True)
    assert plan[-1].views[2:] == [14, 15, 16, 17, 2, 3]
    noise, level1 = torch.randn(2, *views.latent_shape, generator=torch.Generator().manual_seed(4))
    given = None if level == 1 else level1
    told = []
    sampling = Sampling(STEPS, noise=noise, solver=solver, callback=lambda *values: told.append(values[:2]))
    found = windows.sample(gld, level, views, given, plan, sampling, together=True)

    def velocity(window):
        local, full = windows.part(views, window), None if given is None else given[window.views].transpose(0, 1)[None]
        source = (local.level1 if level == 1 else local.level0).transpose(0, 1)[None]
        branches = [
            gld.diffusion[level].prepare(source, **conditioning.conditions(local, level, which), level1=full)
            for which in (False, True)
        ]
        return flow.guided(gld.diffusion[level], *branches, 1.5, solver)

    velocities = [velocity(window) for window in plan]

    def blended(x, t):
        seen = [(w.views, v(x[:, :, w.views], t).unbind(2)) for w, v in zip(plan, velocities, strict=True)]
        weights = [1, 1, 1, 2, 3, 3, 2, 1]
        means = []
        for view in range(18):
            places = [(v[views.index(view)], weights[views.index(view)]) for views, v in seen if view in views]
            means.append(sum(weight * v for v, weight in places) / sum(weight for _, weight in places))
        return torch.stack(means, dim=2)

    times = sampling.times("da3", views.latent_shape[1], 8)
    meant = flow.integrate(blended, noise.transpose(0, 1)[None], times, None, solver.order)[0].transpose(0, 1)
    assert torch.allclose(found, meant, atol=1e-4)
    evaluations = len(plan) * STEPS
    assert told == [(number, evaluations) for number in range(1, evaluations + 1)]


@pytest.mark.parametrize("windows_kept", [0, 2])
def test_rays_that_memory_does_not_hold_are_computed_at_every_step(gld, views, monkeypatch, windows_kept):
    plan, views = spread_windows(2, 18, 8, 2), dataclasses.replace(views)
    sampling = Sampling(2, seed=3)
    meant = windows.sample(gld, 1, views, None, plan, sampling, together=True)
    windows.let_go(views)
    computed, compute = [], conditioning.pluecker_map
    monkeypatch.setattr(conditioning, "pluecker_map", lambda cameras: computed.append(1) or compute(cameras))
    monkeypatch.setattr(windows, "KEPT_RAYS", windows_kept * 7 * 4 * HEIGHT * WIDTH * 8 + 1)
    assert torch.equal(windows.sample(gld, 1, views, None, plan, sampling, together=True), meant)
    assert len(computed) == windows_kept + 2 * (len(plan) - windows_kept)


def independent(gld, level, views, level1, plan, noise):
    """The windows sampled without knowing of each other; every window's own latents."""
    return [
        gld.sample(
            level,
            windows.part(views, window),
            None if level1 is None else level1[number],
            Sampling(STEPS, noise=noise[window.views]),
        )
        for number, window in enumerate(plan)
    ]


def test_seams_are_smaller_where_windows_continue_each_other(gld, views):
    plan = split_into_windows(2, 18, 8, 2)
    noise1, noise0 = torch.randn(2, *views.latent_shape, generator=torch.Generator().manual_seed(2))
    level1 = windows.sample(gld, 1, views, None, plan, Sampling(steps=STEPS, noise=noise1))
    level0 = windows.sample(gld, 0, views, level1, plan, Sampling(steps=STEPS, noise=noise0))
    _, seams = windows.decode_rgb(gld, views, level1, level0, plan)

    alone1 = independent(gld, 1, views, None, plan, noise1)
    alone0 = independent(gld, 0, views, alone1, plan, noise0)
    rgb = [gld.decode_rgb(windows.part(views, window), alone1[i], alone0[i]).float() for i, window in enumerate(plan)]
    alone = [
        torch.stack(
            [rgb[i][a.views.index(view)] - rgb[i + 1][b.views.index(view)] for view in a.views[2:] if view in b.views]
        )
        .abs()
        .mean()
        for i, (a, b) in enumerate(zip(plan, plan[1:], strict=False))
    ]
    assert len(seams) == len(plan) - 1
    assert sum(seams) < 0.5 * sum(alone)


@pytest.mark.parametrize("together", [False, True])
def test_the_networks_never_see_more_than_a_window(gld, views, monkeypatch, together):
    sizes = []
    propagate = gld.autoencoder.propagate
    monkeypatch.setattr(
        gld.autoencoder, "propagate", lambda v, *rest: sizes.append(len(v.cameras)) or propagate(v, *rest)
    )
    hooks = [
        network.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[2]))
        for network in gld.diffusion.values()
    ]
    # Nor do they encode the photographs again.
    monkeypatch.setattr(gld.autoencoder, "encode", None)
    plan = (spread_windows if together else split_into_windows)(2, 18, 6, 1)
    steps = []
    counting = Sampling(steps=1, callback=lambda step, all, x: steps.append((step, all, len(x))))
    level1 = windows.sample(gld, 1, views, None, plan, counting, together=together)
    level0 = windows.sample(gld, 0, views, level1, plan, Sampling(steps=1), together=together)
    windows.decode_rgb(gld, views, level1, level0, plan)
    for hook in hooks:
        hook.remove()
    assert set(sizes) == {6} and len(sizes) == 3 * len(plan)
    assert steps == [(number + 1, len(plan), 6) for number in range(len(plan))]


def test_depth_of_one_window_is_the_aligned_depth(gld, views):
    short = windows.part(views, Window(list(range(6)), []))
    level1, level0 = torch.randn(2, *short.latent_shape)
    found = windows.decode_geometry(gld, short, level1, level0, split_into_windows(2, 6))
    meant, _ = gld.decode_geometry(short, level1, level0).align_to(short.cameras)
    assert torch.allclose(found.depth, meant.depth) and torch.equal(found.depth_conf, meant.depth_conf)
    assert torch.equal(found.cameras.c2w, meant.cameras.c2w) and torch.equal(found.cameras.K, meant.cameras.K)


def test_windows_of_any_scale_give_depth_of_one_scale(gld, views, monkeypatch):
    """A network that doubles its unit with every window, on cameras in one point, which say nothing about scale."""
    still = dataclasses.replace(views, cameras=Cameras(torch.eye(4).repeat(18, 1, 1), views.cameras.K, HEIGHT, WIDTH))
    depth, units = 1 + torch.rand(18, HEIGHT, WIDTH), iter([1.0, 2.0, 4.0, 8.0])

    def decode(local, level1, level0):
        shown = depth[level1[:, 0, 0, 0].long()] * next(units)
        return Geometry(shown, torch.ones_like(shown), None, None, local.cameras)

    monkeypatch.setattr(gld, "decode_geometry", decode)
    level1 = torch.arange(18.0)[:, None, None, None].expand(views.latent_shape)
    plan = split_into_windows(2, 18, 8, 2)
    assert len(plan) == 4
    assert torch.allclose(windows.decode_geometry(gld, still, level1, None, plan).depth, depth, rtol=1e-5)


def test_windows_that_step_together_have_no_seams_and_noise_in_common_flickers_less(monkeypatch):
    """28 views of the bench's path forward by nano: from one photograph also in windows of 8 in a row, from four also
    smooth, and with noise of each view's own. docs/paths.md has the figures of paths of 80.
    """
    bench = importlib.util.spec_from_file_location("paths", Path(__file__).parents[1] / "bench/paths.py")
    paths = importlib.util.module_from_spec(bench)
    bench.loader.exec_module(paths)
    monkeypatch.setattr(paths, "VIEWS", 28)
    nano = gld_core.load(Path(gld_core.__file__).parent / "nano", keep=True, dtype=torch.bfloat16)

    def measured(sources, *strategies):
        scene = paths.Scene("forward", paths.FIRST_SEED, sources)
        made = [paths.generate(nano, scene, strategy, 4, (1,)) for strategy in strategies]
        return [paths.measure(scene, *one) for one in made]

    before, now = measured(1, paths.Strategy(), paths.DEFAULT)
    assert now["seam"] < min(1.2, before["seam"]) and now["PSNR"] > before["PSNR"] - 0.3
    own, now, smooth = measured(4, dataclasses.replace(paths.DEFAULT, long_paths=None), paths.DEFAULT, paths.SMOOTH)
    for one, loss in ((now, 0.2), (smooth, 0.6)):
        assert one["seam"] < 1.2 and one["flicker"] < 0.85 * own["flicker"] and one["PSNR"] > own["PSNR"] - loss
