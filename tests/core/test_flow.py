"""Solvers: their order, where guidance acts, how often the condition encoder runs."""

import math

import pytest
import torch

import gld_core
from gld_core import flow
from gld_core.flow import Solver
from gld_core.synthetic.render import render_scene


@pytest.fixture(scope="module")
def gld(random_models):
    return gld_core.load(random_models, keep=True)


@pytest.fixture(scope="module")
def views(gld):
    images, _, cameras = render_scene(3, 3, 28, 42)
    return gld.encode_views(images[:1], cameras)


@pytest.mark.parametrize("order", [1, 2])
def test_halving_the_steps_divides_the_error_by_two_to_the_order(order):
    x = torch.ones(1, dtype=torch.float64)

    def error(steps):
        out = flow.integrate(lambda x, t: x * t, x, flow.time_grid(steps, 1.0), None, order)
        exact = math.exp(((1 - flow.LAST_NOISE) ** 2 - 1) / 2)
        return abs(out.item() - exact)

    assert error(40) / error(80) == pytest.approx(2**order, rel=0.1)


def test_guidance_acts_only_between_its_times():
    batches = {}

    def network(x, t, shared, **given):
        batches[round(t[0].item(), 2)] = len(x)
        return x

    velocity = flow.guided(network, {}, {}, 1.5, Solver(guidance=(0.2, 0.9)))
    for t in (1.0, 0.9, 0.5, 0.2, 0.1):
        velocity(torch.zeros(1, 1), t)
    assert batches == {1.0: 1, 0.9: 2, 0.5: 2, 0.2: 2, 0.1: 1}


@pytest.mark.parametrize("reuse, runs", [(1, 6), (2, 3), (4, 2)])
def test_condition_encoder_runs_once_for_as_many_evaluations_as_share_it(gld, views, reuse, runs):
    count = []
    handle = gld.diffusion[1].blocks[0].register_forward_hook(lambda *_: count.append(1))
    gld.sample_level1(views, steps=6, solver=Solver(reuse_encoder_for=reuse))
    handle.remove()
    assert len(count) == runs


def test_a_shared_encoder_output_is_never_of_other_branches(gld, views):
    """Guidance begins in the middle of what would be shared."""
    times = flow.time_grid(4, flow.default_shift("da3", 256, 3))
    sizes = []
    handle = gld.diffusion[1].blocks[0].register_forward_hook(lambda _, given, out: sizes.append(len(out)))
    gld.sample_level1(views, steps=4, solver=Solver(guidance=(0, times[1].item()), reuse_encoder_for=4))
    handle.remove()
    assert sizes == [1, 2]


def test_steps_count_evaluations_whatever_the_order(gld, views):
    seen = []
    gld.sample_level1(views, solver=flow.FAST, callback=lambda step, steps, denoised: seen.append((step, steps)))
    assert seen == [(step, 32) for step in range(1, 33)]


def test_a_solver_that_does_not_exist_is_named(gld, views):
    with pytest.raises(ValueError, match="order 3"):
        gld.sample_level1(views, solver=Solver(order=3))
    with pytest.raises(ValueError, match="steps has to be 2 or more"):
        gld.sample_level1(views, steps=1, solver=flow.FAST)


def test_an_evaluation_is_one_graph(gld, views):
    """What torch.compile and CUDA graphs need; a value read back from the GPU in the step loop would split it."""
    network = torch.compile(gld.diffusion[1], backend="eager", fullgraph=True)
    meant = gld.sample_level1(views, steps=2)
    gld.diffusion[1], eager = network, gld.diffusion[1]
    compiled = gld.sample_level1(views, steps=2)
    gld.diffusion[1] = eager
    torch.testing.assert_close(compiled, meant, rtol=0, atol=1e-5)


def test_guidance_goes_on_one_branch_at_a_time_where_memory_is_short():
    batches = []

    def network(x, t, scale, shared):
        batches.append(len(x))
        if len(x) == 2:
            raise torch.cuda.OutOfMemoryError
        return scale * x

    x = torch.ones(1, 1)
    short = flow.guided(network, {"scale": torch.tensor([[2.0]])}, {"scale": torch.tensor([[3.0]])}, 1.5)
    assert short(x, 0.5).item() == pytest.approx(2 + 1.5 * (3 - 2))
    assert short(x, 0.4).item() == pytest.approx(2 + 1.5 * (3 - 2))
    assert batches == [2, 1, 1, 1, 1]
    alone = flow.guided(network, None, {"scale": torch.tensor([[3.0]])}, 1.0)
    assert alone(x, 0.5).item() == pytest.approx(3)
