"""Many prompts over one websocket: results, caching, memory, bad prompts among good ones, cancelling, previews."""

import io
import struct
import time

import pytest
from PIL import Image
from safetensors.torch import load_file

from gld_core.io.cameras import read_scene
from gld_core.io.posed_folders import write_scene
from gld_core.synthetic.render import render_scene

PROMPTS = 50


def relative(found, meant):
    return float((found - meant).norm() / meant.norm())


def test_fifty_prompts_with_bad_ones_among_them(server, graph, only, core, host_noise):
    images, _, cameras = render_scene(1, 5, 84, 56)
    write_scene(server.base / "input" / "hall", images, cameras)
    jobs = []
    for i in range(PROMPTS):
        settings = {
            "scene": ("room", "hall")[i % 4 == 3],
            "seed": i,
            "sources": ["0,", "0, 4", "1, 3"][i % 3],
            "targets": ["2", "3, 2"][i % 2 and i % 3 != 2],
        }
        prompt = only(graph(**settings), "save level0", "save rgb", "save glb")
        bad = i % 10 == 5
        if bad:
            prompt["level1"]["inputs"]["model"] = ["model0", 0]
        jobs.append((server.queue(prompt), settings, bad))

    started, memory, seconds = time.time(), [], []
    for prompt_id, _, _ in jobs:
        server.wait(prompt_id)
        memory.append(server.rss() / 2**20)
        seconds.append(time.time() - started)
    print(f"{PROMPTS} prompts in {seconds[-1]:.1f} s; MiB after 10: {memory[9]:.0f}, after 50: {memory[-1]:.0f}")
    assert memory[-1] < memory[9] * 1.05 + 20

    for i, (prompt_id, settings, bad) in enumerate(jobs):
        history = server.history(prompt_id)
        assert history["status"]["status_str"] == ("error" if bad else "success"), i
        if bad:
            continue
        file = history["outputs"]["save level0"]["latents"][0]
        found = load_file(server.base / "output" / file["filename"])["latent_tensor"][0].transpose(0, 1)
        scene = read_scene(server.base / "input" / settings["scene"], 84)
        sources, targets = ([int(n) for n in settings[name].split(",") if n.strip()] for name in ("sources", "targets"))
        views = core.encode_views(scene.photographs(sources), scene.cameras[sources + targets])
        noise = host_noise(views, i)
        level1 = core.sample_level1(views, steps=3, noise=noise)
        assert relative(found, core.cascade_level0(views, level1, steps=3, noise=noise)) < 1e-5, i


def test_unchanged_stages_are_not_computed_again(server, graph):
    server.run(graph(seed=1234))
    assert server.run(graph(seed=1234)).executed == set()
    assert server.run(graph(seed=1234, max_points=2000)).executed == {"glb", "save glb"}
    again = server.run(graph(seed=1235)).executed
    assert {"level1", "level0", "rgb"} <= again and not again & {"scene", "backbone", "views", "model1", "model0"}


def test_a_changed_model_file_is_loaded_again(server, graph, only):
    prompt = only(graph(), "save level1")
    server.run(prompt)
    path = server.base / "models/gld/checkpoints/da3_level1.pt"
    path.touch()
    assert {"model1", "level1"} <= server.run(prompt).executed


def test_cancelling_stops_within_one_evaluation_and_the_next_prompt_runs(server, graph, only):
    after = server.interrupted(only(graph(steps=1000, seed=99), "save level1"), "level1", step=1)
    assert not [message for message in after if message["type"] == "progress"]
    assert server.run(only(graph(seed=98), "save level1")).error is None


def previews(messages) -> list[Image.Image]:
    """Pictures of the binary websocket messages."""
    found = []
    for message in messages:
        if message["type"] == "binary":
            kind, second = struct.unpack(">II", message["data"][:8])
            # What a node says comes as binary text.
            if kind == 3:
                continue
            assert kind in (1, 4)
            start = 8 if kind == 1 else 8 + second
            found.append(Image.open(io.BytesIO(message["data"][start:])))
    return found


@pytest.mark.parametrize("stock", [False, True])
def test_every_step_shows_all_views(server, graph, only, stock):
    prompt = graph(seed=1000 + stock, steps=4)
    if stock:
        prompt["conditioning"] = {"class_type": "GLDConditioning", "inputs": {"views": ["views", 0]}}
        prompt["level1"] = {
            "class_type": "KSampler",
            "inputs": {
                "model": ["model1", 0],
                "positive": ["conditioning", 0],
                "negative": ["conditioning", 1],
                "latent_image": ["conditioning", 2],
                "seed": 1001,
                "steps": 4,
                "cfg": 1.5,
                "sampler_name": "euler",
                "scheduler": "simple",
                "denoise": 1.0,
            },
        }
    result = server.run(only(prompt, "save level1"), preview_method="latent2rgb")
    pictures = previews(result.messages)
    assert result.error is None and len(pictures) == 4
    # Six views of 4x6 patches in a grid of three columns.
    assert pictures[-1].width / pictures[-1].height == pytest.approx((3 * 6) / (2 * 4), rel=0.02)
    assert len(set(pictures[-1].convert("L").resize((18, 8)).tobytes())) > 5


def test_previews_are_off_where_the_host_says_so(server, graph, only):
    result = server.run(only(graph(seed=1002), "save level1"), preview_method="none")
    assert result.error is None and not previews(result.messages)


def test_progress_counts_the_steps(server, graph, only):
    result = server.run(only(graph(seed=1003, steps=4), "save level1"))
    values = [m["data"] for m in result.messages if m["type"] == "progress" and m["data"]["node"] == "level1"]
    assert values[-1]["value"] == values[-1]["max"] == 4
