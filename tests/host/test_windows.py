"""Paths longer than the networks were trained on: in windows, as the core does it, in bounded memory."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from gld_core import windows
from gld_core.cameras import motions
from gld_core.flow import QUICK, Sampling
from gld_core.io.cameras import read_scene

PLAN = {"window": 6, "overlap": 1, "closed": False}


def relative(found: torch.Tensor, meant: torch.Tensor) -> float:
    return float((found - meant).norm() / meant.norm())


@pytest.fixture(scope="module")
def long_path(graph):
    """long_path(targets, steps, window, overlap, closed) -> a prompt from two photographs along an orbit of targets."""

    def build(targets: int, steps: int = 3, **plan) -> dict:
        prompt = graph(sources="0, 2", targets="1", steps=steps)
        motion = {"number": targets, "ease": "none", "first_is_source": False, "source": 0, "degrees": 40.0}
        inputs = {"cameras": ["scene", 1], "sources": 2, "motion": "orbit"}
        inputs |= {f"motion.{name}": value for name, value in motion.items()}
        prompt["set"] = {"class_type": "GLDSetCameras", "inputs": inputs}
        for name in ("views", "glb"):
            prompt[name]["inputs"]["cameras"] = ["set", 0]
        for name in ("level1", "level0"):
            prompt[name]["inputs"] |= plan
        return prompt

    return build


@pytest.fixture(scope="module")
def encoded(core, scene):
    """encoded(photographs) -> their views and 11 targets on an orbit."""

    def encode(photographs: list[int]):
        loaded = read_scene(scene, 84)
        sources = loaded.cameras[photographs]
        cameras = motions.join(sources, motions.targets(sources, "orbit", 11, degrees=40.0))
        return core.encode_views(loaded.photographs(photographs), cameras)

    return encode


@pytest.fixture(scope="module")
def path_views(encoded):
    return encoded([0, 2])


def test_windows_are_the_cores(server, long_path, core, path_views, host_noise):
    result = server.run(long_path(11, **PLAN), preview_method="latent2rgb")
    plan = windows.split_into_windows(2, 13, 6, 1)
    noise = host_noise(path_views, 7)
    assert len(plan) == 4
    level1 = windows.sample(core, 1, path_views, None, plan, Sampling(3, noise=noise))
    level0 = windows.sample(core, 0, path_views, level1, plan, Sampling(3, noise=noise))
    assert torch.equal(result.latent("save level1")[0].transpose(0, 1), level1)
    assert torch.equal(result.latent("save level0")[0].transpose(0, 1), level0)
    rgb, _ = windows.decode_rgb(core, path_views, level1, level0, plan)
    found = np.stack([np.asarray(Image.open(path)) for path in result.files("save rgb")]) / 255
    assert np.abs(found - rgb.clamp(0, 1).movedim(1, -1).numpy()).max() <= 1.01 / 255

    steps = [m["data"] for m in result.messages if m["type"] == "progress" and m["data"]["node"] == "level1"]
    assert [step["value"] for step in steps if step["max"] == 12] == sorted(step["value"] for step in steps)
    assert steps[-1]["value"] == steps[-1]["max"] == 12


@pytest.mark.parametrize(
    "choice, size, photographs, closed",
    [("speed", 12, [0, 2], False), ("smooth", 12, [0, 2], True), ("quality", 8, [0, 2, 4], True)],
)
def test_the_choices_of_long_paths_are_the_cores(
    server, only, long_path, core, encoded, host_noise, choice, size, photographs, closed
):
    prompt = long_path(11, 2, long_paths=choice, closed=closed)
    prompt["scene"]["inputs"]["sources"], prompt["set"]["inputs"]["sources"] = str(photographs)[1:-1], len(photographs)
    result = server.run(only(prompt, "save level1", "save level0"))
    views, N = encoded(photographs), len(photographs)
    plan = windows.spread_windows(N, N + 11, size, 2, closed)
    sampling = Sampling(2, noise=windows.path_noise(host_noise(views, 7), N, closed, choice))
    level1 = windows.sample(core, 1, views, None, plan, sampling, together=True)
    level0 = windows.sample(core, 0, views, level1, plan, sampling, together=True)
    assert len(plan) > 1
    assert torch.equal(result.latent("save level1")[0].transpose(0, 1), level1)
    assert torch.equal(result.latent("save level0")[0].transpose(0, 1), level0)


@pytest.mark.parametrize("change", [{"window": 7}, {"overlap": 2}, {"closed": True}], ids=str)
def test_every_setting_of_the_windows_matters(server, only, long_path, change):
    plain, changed = (
        server.run(only(long_path(11, 1, **plan), "save level1")).latent("save level1")
        for plan in (PLAN, PLAN | change)
    )
    assert plain.shape == changed.shape and relative(changed, plain) > 1e-4


def test_eight_views_go_in_one_pass(server, only, long_path, core, path_views, host_noise):
    found = server.run(only(long_path(6), "save level1")).latent("save level1")[0].transpose(0, 1)
    assert len(found) == 8
    sources = path_views.cameras[[0, 1]]
    cameras = motions.join(sources, motions.targets(sources, "orbit", 6, degrees=40.0))
    views = dataclasses.replace(path_views, cameras=cameras)
    assert torch.equal(found, core.sample_level1(views, steps=3, noise=host_noise(views, 7)))


def test_a_window_without_room_is_refused(server, only, long_path):
    message = server.run(only(long_path(11, 1, window=4, overlap=2), "save level1")).error
    assert "no room for a new target; choose a larger window, a smaller overlap or fewer sources" in message


def test_a_latent_from_a_file_is_decoded_in_windows(server, only, long_path):
    """What a saved latent no longer says is what the samplers have by default."""
    prompt = long_path(11, 1)
    direct = server.run(only(prompt, "save rgb", "save level1"))
    latent = direct.files("save level1", "latents")[0]
    latent.rename(server.base / "input" / "path.latent")
    for name in ("rgb", "level0"):
        prompt[name]["inputs"]["level1"] = ["file", 0]
    prompt["file"] = {"class_type": "LoadLatent", "inputs": {"latent": "path.latent"}}
    again = server.run(only(prompt, "save rgb"))
    for one, other in zip(direct.files("save rgb"), again.files("save rgb"), strict=True):
        assert np.array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(other)))


def test_eighty_views_need_little_more_memory_than_twenty(server, long_path):
    server.run(long_path(18, 1))
    before = server.rss()
    result = server.run(long_path(78, 1))
    assert len(result.files("save rgb")) == len(result.files("save depth")) == 80
    grown = (server.rss() - before) / 2**20
    print(f"80 views after 20: {grown:.0f} MiB more")
    assert grown < 150


@pytest.mark.parametrize("seed, change", [(11, {}), (12, {"cfg": 1.4})])
def test_an_interrupted_path_in_a_row_goes_on_from_its_finished_windows_if_nothing_changed(
    server, only, long_path, seed, change
):
    prompt = only(long_path(26, 8, seed=seed, **PLAN), "save level1")
    server.interrupted(prompt, "level1", step=20)
    prompt["level1"]["inputs"] |= change
    again = server.run(prompt)
    values = [m["data"]["value"] for m in again.messages if m["type"] == "progress" and m["data"]["node"] == "level1"]
    # Two windows of eight steps were finished.
    assert min(values) == (1 if change else 17)
    found = again.latent("save level1")
    # The same in one go: other settings in between take the result out of the host's cache.
    assert server.run({**prompt, "level1": {**prompt["level1"], "inputs": prompt["level1"]["inputs"] | {"cfg": 2.0}}})
    assert torch.equal(server.run(prompt).latent("save level1"), found)


@pytest.mark.parametrize("level", [1, 0])
def test_an_interrupted_path_goes_on_from_its_last_step_in_that_level(
    server, only, long_path, core, path_views, host_noise, level
):
    """Sample GLD at quality quick, where two steps share one output of the condition encoder: 3 windows of 8 steps."""
    seed = 20 + level
    prompt = long_path(11)
    prompt["both"] = {
        "class_type": "GLDSample",
        "inputs": prompt["level1"]["inputs"]
        | {"level1_model": prompt["level1"]["inputs"]["model"], "level0_model": prompt["level0"]["inputs"]["model"]}
        | {"quality": "quick", "steps": 8, "seed": seed, "long_paths": "quality"},
    }
    del prompt["both"]["inputs"]["model"]
    prompt["save level1"]["inputs"]["samples"] = ["both", 0]
    prompt["save level0"]["inputs"]["samples"] = ["both", 1]
    prompt = only(prompt, "save level1", "save level0")
    server.interrupted(prompt, "both", step=16, time=2 - level)
    again = server.run(prompt)
    progress = [m["data"]["value"] for m in again.messages if m["type"] == "progress" and m["data"]["node"] == "both"]
    # The fifth step was finished; where it took what the fourth had encoded, that one has to be done again.
    assert 3 * 3 < progress[0] <= 3 * 4 + 1
    # Level 1 has to be done no more where level 0 was interrupted.
    assert (1 in progress) == (level == 1)

    plan = windows.spread_windows(2, 13, 8, 2)
    sampling = Sampling(8, noise=host_noise(path_views, seed), solver=QUICK)
    level1 = windows.sample(core, 1, path_views, None, plan, sampling, together=True)
    level0 = windows.sample(core, 0, path_views, level1, plan, sampling, together=True)
    assert len(plan) == 3
    assert torch.equal(again.latent("save level1")[0].transpose(0, 1), level1)
    assert torch.equal(again.latent("save level0")[0].transpose(0, 1), level0)


@pytest.mark.parametrize("sampler, goes_on", [("euler_ancestral", True), ("lcm", True), ("dpmpp_2m", False)])
def test_an_interrupted_path_goes_on_with_the_noise_that_its_sampler_adds_or_begins_again(
    server, only, long_path, sampler, goes_on
):
    settings = {"sampler_name": sampler, "scheduler": "simple", "long_paths": "quality", "seed": 31}
    prompt = only(long_path(11, 6, **settings), "save level1")
    server.interrupted(prompt, "level1", step=14)
    again = server.run(prompt)
    values = [m["data"]["value"] for m in again.messages if m["type"] == "progress" and m["data"]["node"] == "level1"]
    # Three windows a step, and four steps were finished.
    assert (min(values) > 9) == goes_on
    found = again.latent("save level1")
    # The same in one go: other settings in between take the result out of the host's cache.
    assert server.run({**prompt, "level1": {**prompt["level1"], "inputs": prompt["level1"]["inputs"] | {"cfg": 2.0}}})
    assert torch.equal(server.run(prompt).latent("save level1"), found)


def test_cancel_ends_a_long_path_between_two_steps(server, only, long_path):
    after = server.interrupted(only(long_path(78, 20), "save level1"), "level1", step=10)
    assert not [message for message in after if message["type"] == "progress"]
    texts = [message["data"].decode("utf-8", "replace") for message in after if message["type"] == "binary"]
    assert "steps in all" in texts[-1] and " left." not in texts[-1]
