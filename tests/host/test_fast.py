"""Speed Up GLD Sampling: nothing changes unless asked for, and what is asked for is what the core does."""

import pytest
import torch

from gld_core import flow, windows
from gld_core.flow import Sampling, Solver

NOTHING = {"guidance_from": 0.0, "guidance_to": 1.0, "share": 1}
SETTINGS = {
    "defaults": {"guidance_from": 0.0, "guidance_to": 0.97, "share": 2},
    "guided from the middle on": {"guidance_from": 0.9, "guidance_to": 1.0, "share": 1},
    "shared by 3 across where guidance begins": {"guidance_from": 0.0, "guidance_to": 0.95, "share": 3},
}
STEPS = 7


@pytest.fixture
def fast(graph):
    """fast(settings, ...) -> the prompt with the node behind both models."""

    def build(settings: dict, **inputs) -> dict:
        prompt = graph(**{"steps": STEPS, **inputs})
        for level in (1, 0):
            prompt[f"fast{level}"] = {"class_type": "GLDFast", "inputs": {"model": [f"model{level}", 0], **settings}}
            prompt[f"level{level}"]["inputs"]["model"] = [f"fast{level}", 0]
        return prompt

    return build


def latents(result):
    return [result.latent(f"save level{level}") for level in (1, 0)]


def relative(found, meant):
    return float((found - meant).norm() / meant.norm())


@pytest.fixture(scope="module")
def plain(server, graph, only):
    return latents(server.run(only(graph(steps=STEPS), "save level1", "save level0")))


def test_neutral_settings_change_no_bit(server, fast, only, plain):
    result = server.run(only(fast(NOTHING), "save level1", "save level0"))
    for found, meant in zip(latents(result), plain, strict=True):
        assert torch.equal(found, meant)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_result_is_the_cores_with_the_same_settings(
    server, fast, only, plain, core, core_views, host_noise, settings
):
    """In a second run too, after one of another seed: nothing is kept from one sampling to the next."""
    solver = Solver(guidance=(settings["guidance_from"], settings["guidance_to"]), reuse_encoder_for=settings["share"])
    views = core_views()
    for seed in (9, 7):
        found = latents(server.run(only(fast(settings, seed=seed), "save level1", "save level0")))
    noise = host_noise(views, 7)
    level1 = core.sample_level1(views, STEPS, noise=noise, solver=solver)
    level0 = core.cascade_level0(views, level1, STEPS, noise=noise, solver=solver)
    for ours, meant, released in zip(found, (level1, level0), plain, strict=True):
        assert torch.equal(ours[0].transpose(0, 1), meant)
        assert relative(ours, released) > 1e-3


def test_every_window_of_a_long_path_shares_its_own(server, fast, only, core, core_views, host_noise):
    prompt = fast(SETTINGS["defaults"])
    prompt["level1"]["inputs"] |= {"window": 4, "overlap": 1}
    found = server.run(only(prompt, "save level1")).latent("save level1")
    views, solver = core_views(), Solver(guidance=(0.0, 0.97), reuse_encoder_for=2)
    plan, noise = windows.split_into_windows(2, 6, 4, 1), host_noise(views, 7)
    meant = windows.sample(core, 1, views, None, plan, Sampling(STEPS, noise=noise, solver=solver))
    assert torch.equal(found[0].transpose(0, 1), meant)


def test_outside_its_times_guidance_costs_nothing(server, fast, only):
    prompt = fast({"guidance_from": 0.0, "guidance_to": 0.95, "share": 1})
    prompt["counted"] = {"class_type": "TestCountCalls", "inputs": {"model": ["fast1", 0]}}
    prompt["level1"]["inputs"]["model"] = ["counted", 0]
    prompt["report"] = {"class_type": "TestReportCalls", "inputs": {"model": ["counted", 0], "after": ["level1", 0]}}
    calls = server.run(only(prompt, "report")).history["outputs"]["report"]["calls"]
    times = flow.time_grid(STEPS, flow.default_shift("da3", 256, 6))[:-1]
    guided = int((times <= 0.95).sum())
    assert 0 < guided < STEPS and calls == [{"network": STEPS, "branches": STEPS + guided}]


def test_a_second_node_takes_the_place_of_the_first(server, fast, only, plain):
    prompt = fast(SETTINGS["defaults"])
    prompt["again"] = {"class_type": "GLDFast", "inputs": {"model": ["fast1", 0], **NOTHING}}
    prompt["level1"]["inputs"]["model"] = ["again", 0]
    assert torch.equal(server.run(only(prompt, "save level1")).latent("save level1"), plain[0])


def test_times_the_wrong_way_round_are_named(server, fast, only):
    with pytest.raises(Exception, match="'guidance_from' is 0.9 and 'guidance_to' is 0.1, so the time range is empty"):
        server.run(only(fast({"guidance_from": 0.9, "guidance_to": 0.1, "share": 1}), "save level1"))
