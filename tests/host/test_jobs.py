"""A job outside the page gives what the same graph gives. Up to the sampler the two share every function; ComfyUI's own
euler rounds otherwise, so pictures agree to a step of 8 bits."""

import numpy as np
import pytest
import trimesh
from PIL import Image

import gld_core

STEPS = 3


def pictures(paths):
    return np.stack([np.array(Image.open(path)).astype(int) for path in paths])


@pytest.mark.parametrize("kind", ["released points", "mesh"])
def test_a_posed_scene_gives_the_same_views_and_the_same_glb(server, graph, core, scene, tmp_path, kind):
    prompt = graph(scene="room", sources="2", seed=11, steps=STEPS, kind=kind)
    if kind == "mesh":
        prompt["glb"]["inputs"]["kind.voxel"] = 0.0
    result = server.run(prompt)
    made = gld_core.run(str(scene), tmp_path / "out", gld=core, size=84, seed=11, steps=STEPS, kind=kind, export="glb")
    N = made.sources
    ours = sorted((tmp_path / "out" / "targets").glob("*.png"))
    assert np.abs(pictures(result.files("save rgb")[N:]) - pictures(ours)).max() <= 1
    theirs, own = (trimesh.load(path) for path in (result.files("save glb", "3d")[0], tmp_path / "out" / "scene.glb"))
    assert theirs.geometry.keys() == own.geometry.keys()
    assert len(theirs.to_geometry().vertices) == pytest.approx(len(own.to_geometry().vertices), rel=0.002)
    assert np.allclose(theirs.bounds, own.bounds, atol=0.01 * theirs.scale)


def test_a_photograph_on_an_orbit_gives_the_same_views(server, graph, only, core, scene, tmp_path):
    prompt = graph(seed=5, steps=STEPS)
    prompt["one"] = {"class_type": "LoadImage", "inputs": {"image": "room/frame_00000.png"}}
    prompt["estimate"] = {
        "class_type": "GLDEstimateCameras",
        "inputs": {"backbone": ["backbone", 0], "images": ["one", 0], "long_side": 84, "fov": 0.0},
    }
    prompt["path"] = {
        "class_type": "GLDSetCameras",
        "inputs": {
            "cameras": ["estimate", 0], "sources": 0, "geometry": ["estimate", 2], "motion": "orbit",
            "motion.degrees": 25.0, "motion.number": 4,
        },
    }  # fmt: skip
    prompt["views"]["inputs"] |= {"images": ["estimate", 1], "cameras": ["path", 0]}
    result = server.run(only(prompt, "save rgb"))
    made = gld_core.run(
        str(scene / "frame_00000.png"), tmp_path / "out", gld=core, size=84, seed=5, steps=STEPS, motion="orbit",
        degrees=25, number=4,
    )  # fmt: skip
    assert made.sources == 1 and len(made.names) == 5
    ours = sorted((tmp_path / "out" / "targets").glob("*.png"))
    assert np.abs(pictures(result.files("save rgb")[1:]) - pictures(ours)).max() <= 1
