"""Target cameras placed by hand, over the API: what comes out, what is refused, and what the page is given."""

import json
import math
import struct

import pytest
import torch

from gld_core.io.cameras import read_cameras

KEYS = [
    {"position": [2.5, 3.1, 1.4], "rotation": [-0.19, -0.755, 0.609, 0.153]},
    {"position": [2.6, 3.4, 1.5], "rotation": [-0.19, -0.755, 0.609, 0.153], "fov": 50},
]
PATH = {"version": 1, "keys": KEYS, "views": 5}


def prompt(path=PATH, seed=3, **inputs) -> dict:
    room = {"seed": seed, "views": 2, "height": 56, "width": 84, "sources": 2, "broken": False}
    place = {
        "cameras": ["room", 1],
        "geometry": ["room", 0],
        "path": path,
        "sources": 0,
        "min_confidence": 1.0,
        **inputs,
    }
    save = {"cameras": ["place", 0], "filename_prefix": "placed/cameras", "format": "transforms.json", "view": 0}
    nodes = {
        "room": ("TestRoom", room),
        "place": ("GLDPlaceCameras", {name: value for name, value in place.items() if value is not None}),
        "save": ("GLDSaveCameras", save),
        "preview": ("SaveImage", {"images": ["place", 1], "filename_prefix": "placed/preview"}),
        "mask": ("MaskToImage", {"mask": ["place", 2]}),
        "coverage": ("SaveImage", {"images": ["mask", 0], "filename_prefix": "placed/coverage"}),
    }
    return {name: {"class_type": kind, "inputs": values} for name, (kind, values) in nodes.items()}


def saved(server, result) -> torch.Tensor:
    assert result.error is None, result.error
    newest = max((server.base / "output/placed").glob("cameras*.json"), key=lambda path: path.stat().st_mtime_ns)
    return read_cameras(newest)[0]


def blocked(result) -> dict[str, str]:
    """What the page is told of the nodes that do not run."""
    said = [message["data"] for message in result.messages if message["type"] == "execution_error"]
    return {data["node_id"]: data["exception_message"] for data in said}


def scene_header(server, file: dict) -> dict:
    data = (server.base / file["type"] / file["filename"]).read_bytes()
    (size,) = struct.unpack("<I", data[4:8])
    assert data[:4] == b"GLDS"
    return json.loads(data[8 : 8 + size])


@pytest.mark.parametrize("form", [dict, json.dumps])
def test_a_path_gives_cameras_pictures_and_masks(server, form):
    result = server.run(prompt(form(PATH), seed=3 if form is dict else 4))
    found = saved(server, result)
    assert len(found) == 7
    assert torch.allclose(found.c2w[2, :3, 3], torch.tensor(KEYS[0]["position"]), atol=1e-5)
    assert found.K[6, 0, 0].item() == pytest.approx(42 / math.tan(math.radians(25)), rel=1e-5)
    assert len(result.files("preview")) == len(result.files("coverage")) == 5
    (file,) = result.history["outputs"]["place"]["gld_scene"]
    header = scene_header(server, file)
    assert len(header["sources"]) == 2 and all("depth" in source and "image" in source for source in header["sources"])


def test_nothing_before_it_runs_again_when_the_path_changes(server):
    server.run(prompt(seed=11))
    result = server.run(prompt({**PATH, "views": 6}, seed=11))
    assert "room" not in result.executed and {"place", "save"} <= result.executed


def test_without_a_key_the_page_gets_the_scene_and_what_follows_says_why_it_does_not_run(server):
    result = server.run(prompt({"version": 1, "keys": []}))
    assert "no keyframe yet" in blocked(result)["preview"]
    assert result.history["outputs"]["place"]["gld_scene"] and "save" not in result.history["outputs"]


def test_cameras_that_come_in_are_the_keys_of_an_empty_path(server):
    result = server.run(prompt({"version": 1, "keys": []}, keyframes=["room", 1]))
    found = saved(server, result)
    assert len(found) == 4 and torch.allclose(found.c2w[2:], found.c2w[:2], atol=1e-5)
    header = scene_header(server, result.history["outputs"]["place"]["gld_scene"][0])
    assert len(header["incoming"]) == 2


def test_without_geometry_the_cameras_come_out_and_the_preview_says_what_is_missing(server):
    result = server.run(prompt(geometry=None))
    assert "wire 'geometry'" in blocked(result)["preview"] and len(saved(server, result)) == 7


def test_a_path_for_other_sources_is_refused_and_the_page_gets_the_scene_all_the_same(server):
    path = {**PATH, "sources": [{"position": [0, 0, 0], "rotation": [0, 0, 0, 1]}] * 2}
    result = server.run(prompt(path))
    assert "placed over other sources" in result.error
    (told,) = [message["data"] for message in result.messages if message["type"] == "gld.scene"]
    assert told["node"] == "place" and len(scene_header(server, told["scene"])["sources"]) == 2


def answer(call, *arguments) -> str:
    """What the server says where it refuses; the test fails where it does not."""
    with pytest.raises(Exception) as caught:  # noqa: B017
        call(*arguments)
    assert type(caught.value).__name__ == "Refused", caught.value
    return str(caught.value)


@pytest.mark.parametrize(
    "path, words", [("{", "not JSON"), ({**PATH, "views": 2000}, "1000"), ({"version": 9, "keys": []}, "version")]
)
def test_a_bad_path_is_refused_before_anything_runs(server, path, words):
    assert words in answer(server.queue, prompt(path))


def test_only_so_many_cameras_are_sources(server):
    assert "cameras are" not in (server.run(prompt(sources=1)).error or "")
    assert "there are 2 cameras" in server.run(prompt(sources=3)).error


def test_the_page_can_ask_for_the_keys_of_a_motion(server):
    motions = server.post("/gld/motions", {})["motions"]
    assert "orbit" in motions and motions["arc"]["settings"] == {"degrees": 30.0, "elevation": 0.0}
    eye = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    asked = {
        "motion": "orbit",
        "keys": 8,
        "base": 0,
        "depth": 2,
        "settings": {"degrees": 360},
        "width": 84,
        "height": 56,
    }
    found = server.post("/gld/motion", {**asked, "c2w": [eye], "K": [[[80, 0, 42], [0, 80, 28], [0, 0, 1]]]})
    assert (
        found["loop"] and len(found["keys"]) == 8 and found["keys"][4]["position"] == pytest.approx([0, 0, 4], abs=1e-5)
    )


@pytest.mark.parametrize("asked", [{}, {"motion": "fly"}, {"keys": 1e9}, {"K": "x"}])
def test_a_senseless_request_is_answered_with_a_sentence(server, asked):
    eye = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    whole = {"motion": "arc", "keys": 3, "base": 0, "depth": 1, "settings": {}, "width": 84, "height": 56}
    whole |= {"c2w": [eye], "K": [[[80, 0, 42], [0, 80, 28], [0, 0, 1]]]}
    assert "error" in json.loads(answer(server.post, "/gld/motion", {**whole, **asked} if asked else {}))
