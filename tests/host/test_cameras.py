"""Cameras through the nodes: estimated from photographs, and set from another scene."""

import shutil

import pytest
import torch

from gld_core.scenes import read_scene


def test_estimated_cameras_drive_the_graph(server, graph, only, core, scene):
    """Photographs without cameras: sources and targets are the estimated cameras of four photographs."""
    prompt = graph(sources="0-3", targets="4")
    estimate = {"backbone": ["backbone", 0], "images": ["scene", 0]}
    prompt["estimate"] = {"class_type": "GLDEstimateCameras", "inputs": estimate}
    prompt["one"] = {"class_type": "ImageFromBatch", "inputs": {"image": ["scene", 0], "batch_index": 0, "length": 1}}
    prompt["views"]["inputs"] |= {"images": ["one", 0], "cameras": ["estimate", 0]}
    found = server.run(only(prompt, "save level1")).latent("save level1")[0].transpose(0, 1)

    images = read_scene(scene, 84).photographs(range(4))
    views = core.encode_views(images[:1], core.estimate_cameras(images))
    noise = torch.randn((1, 256, 4, 4, 6), generator=torch.Generator().manual_seed(7))[0].transpose(0, 1)
    meant = core.sample_level1(views, steps=3, noise=noise)
    assert float((found - meant).norm() / meant.norm()) < 1e-4


@pytest.mark.parametrize("views, targets", [("2, 4", "2, 4"), ("", "0-5")])
def test_set_cameras_puts_targets_behind_sources(server, graph, only, views, targets):
    shutil.copytree(server.base / "input/room", server.base / "input/other", dirs_exist_ok=True)
    prompt = graph(sources="1,", targets="0")
    prompt["other"] = graph(scene="other", sources="0,", targets="1-5")["scene"]
    inputs = {"cameras": ["scene", 1], "sources": 1, "motion": "views"}
    inputs |= {"motion.targets": ["other", 1], "motion.views": views}
    prompt["set"] = {"class_type": "GLDSetCameras", "inputs": inputs}
    prompt["views"]["inputs"]["cameras"] = ["set", 0]
    found = server.run(only(prompt, "save level1")).latent("save level1")
    if views:
        meant = server.run(only(graph(sources="1,", targets=targets), "save level1")).latent("save level1")
        assert torch.equal(found, meant)
    else:
        assert found.shape[2] == 7


def test_set_cameras_names_what_is_wrong(server, graph, only):
    prompt = graph(sources="1,", targets="0")
    prompt["other"] = graph(long_side=112)["scene"]
    inputs = {"cameras": ["scene", 1], "sources": 1, "motion": "views"}
    inputs |= {"motion.targets": ["other", 1], "motion.views": ""}
    prompt["set"] = {"class_type": "GLDSetCameras", "inputs": inputs}
    prompt["views"]["inputs"]["cameras"] = ["set", 0]
    assert "load both at one size" in server.run(only(prompt, "save level1")).error
    inputs["sources"] = 9
    assert "there are 2 cameras; lower it" in server.run(only(prompt, "save level1")).error
