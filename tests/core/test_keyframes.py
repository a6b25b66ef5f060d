"""Paths of keyframes: their JSON, their timing, and the cameras that they give."""

import json
import math
import re
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from gld_core.cameras import Cameras
from gld_core.cameras.keyframes import (
    check_placed,
    keys_of,
    motion_keys,
    parse_path,
    target_cameras,
)
from gld_core.cameras.motions import MOTIONS, targets

sys.path.insert(0, str(Path(__file__).with_name("data")))
import make_paths  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
HELP = ROOT / "web" / "docs" / "GLDPlaceCameras.md"
SOURCES = make_paths.sources()


def key(x=0.0, y=0.0, z=0.0, degrees=0.0, **members) -> dict:
    """A camera at x, y, z turned about its own y axis."""
    turn = Rotation.from_euler("y", degrees, degrees=True).as_quat().tolist()
    return {"position": [x, y, z], "rotation": turn, **members}


def cameras(*keys, sources=SOURCES, depth=1.0, **members) -> Cameras:
    return target_cameras(parse_path({"version": 1, "keys": list(keys), **members}), sources, depth)


def x_of(found: Cameras) -> list[float]:
    return [round(value, 4) for value in found.c2w[:, 0, 3].tolist()]


def test_the_shared_vectors_are_these_cameras():
    """tests/browser/test_editor.py holds the curve in JavaScript to the same numbers."""
    kept = json.loads(make_paths.FILE.read_text(encoding="utf-8"))
    assert [entry["path"] for entry in kept["paths"]] == make_paths.paths()
    for entry in kept["paths"]:
        for found, expected in zip(make_paths.cameras(entry["path"]), entry["cameras"], strict=True):
            np.testing.assert_allclose(found["c2w"], expected["c2w"], atol=1e-6)
            np.testing.assert_allclose([found["fx"], found["fy"]], [expected["fx"], expected["fy"]], rtol=1e-6)


def test_keys_along_a_line_are_travelled_at_an_even_speed():
    assert x_of(cameras(key(0), key(1), key(3), views=7)) == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5, 3], abs=0.02)


def test_views_of_each_segment_hit_every_key():
    found = cameras(key(0, views=2), key(1, views=4), key(3), views=None)
    assert len(found) == 7 and x_of(found)[0::2] == pytest.approx([0, 1, x_of(found)[4], 3])


def test_a_hold_stays_at_its_key_and_takes_views_from_the_way():
    assert x_of(cameras(key(0, hold=2), key(1), views=6)) == pytest.approx([0, 0, 0, 1 / 3, 2 / 3, 1], abs=1e-3)
    assert x_of(cameras(key(0, views=2), key(1, hold=2), views=None)) == pytest.approx([0, 0.5, 1, 1, 1], abs=1e-3)


def test_ease_is_slow_where_it_says():
    whole = x_of(cameras(key(0), key(1), views=5, ease="in"))
    part = x_of(cameras(key(0, views=4, ease="in"), key(1), views=None))
    assert whole == part == pytest.approx([0, 1 / 16, 4 / 16, 9 / 16, 1], abs=1e-3)


def test_a_loop_returns_without_repeating_its_first_key():
    square = [key(0, 0), key(1, 0), key(1, 1), key(0, 1)]
    found = cameras(*square, views=8, loop=True)
    centres = found.c2w[:, :3, 3]
    assert torch.allclose(centres[::2], torch.tensor([k["position"] for k in square]).float(), atol=1e-4)
    steps = (centres.roll(-1, 0) - centres).norm(dim=1)
    assert (steps.max() / steps.min()).item() < 1.1


def test_one_key_stands_still():
    assert x_of(cameras(key(2), views=3)) == [2, 2, 2]
    assert x_of(cameras(key(2, hold=1), views=None)) == [2, 2]


def test_a_pinned_point_stays_in_the_middle_of_an_upright_picture():
    point = torch.tensor([0.5, 0.2, 4.0])
    found = cameras(key(-1, degrees=40), key(1, 0.5), key(2, degrees=-70), views=9, look_at=point.tolist())
    up = -SOURCES.c2w[0, :3, 1]
    for c2w in found.c2w:
        toward = point - c2w[:3, 3]
        assert torch.allclose(toward / toward.norm(), c2w[:3, 2], atol=1e-5)
        assert abs(c2w[:3, 0] @ up) < 1e-5 and c2w[:3, 1] @ up < 0


def test_the_lens_is_the_first_sources_unless_a_key_has_its_own():
    K = SOURCES.K[0]
    assert torch.allclose(cameras(key(0), key(1), views=3).K, K.expand(3, 3, 3))
    found = cameras(key(0, fov=90), key(1), views=3).K
    assert found[0, 0, 0].item() == pytest.approx(252)
    assert (found[0, 1, 1] / found[0, 0, 0]).item() == pytest.approx((K[1, 1] / K[0, 0]).item())
    assert torch.allclose(found[2], K) and torch.allclose(found[1], (found[0] + found[2]) / 2, atol=1)


def test_cameras_become_keys_and_keys_cameras():
    found = cameras(key(0.3, degrees=30, fov=70), key(1, degrees=-20), views=2)
    again = cameras(*keys_of(found, SOURCES), views=2)
    assert torch.allclose(again.c2w, found.c2w, atol=1e-6) and torch.allclose(again.K, found.K, rtol=1e-5)
    assert ["fov" in entry for entry in keys_of(found, SOURCES)] == [True, False]


@pytest.mark.parametrize("motion", [name for name in MOTIONS if name != "hold"])
def test_a_motion_becomes_keys_that_follow_it(motion):
    """A tenth of the scene's depth and five degrees off at most, with the keys that the editor proposes."""
    proposed = re.search(rf"\b{motion}: (\d+)", (ROOT / "web/editor/menus.mjs").read_text(encoding="utf-8"))
    keys, loop = motion_keys(SOURCES, motion, int(proposed.group(1)), 2.0)
    found = cameras(*keys, depth=2.0, views=None, loop=loop)
    own = targets(SOURCES, motion, 400, 2.0, first_is_source=True)
    distance = torch.cdist(found.c2w[:, :3, 3], own.c2w[:, :3, 3])
    nearest = distance.argmin(1) if distance.max() > 0.01 else None
    assert distance.amin(1).max() < 0.2
    if nearest is not None:
        cosine = ((found.c2w[:, :3, :3] * own.c2w[nearest, :3, :3]).sum((1, 2)) - 1) / 2
        assert cosine.min() > math.cos(math.radians(5))


HOSTILE = [
    ("{", "not JSON"),
    ("[" * 100_000, "not JSON"),
    ("x" * (2 << 20), "characters long"),
    ([], "give a JSON object"),
    ({}, "version"),
    ({"version": 2, "keys": []}, "version '2'"),
    ({"version": 1, "keys": {}}, "list of keys"),
    ({"version": 1, "keys": [key()] * 201}, "up to 200"),
    ({"version": 1, "keyes": []}, "'keyes'"),
    ({"version": 1, "keys": [{"position": [0, 0, 0]}]}, "no rotation"),
    ({"version": 1, "keys": [{**key(), "position": [0, 0]}]}, "3 numbers"),
    ({"version": 1, "keys": [{**key(), "position": [0, 0, math.nan]}]}, "number"),
    ({"version": 1, "keys": [{**key(), "position": [0, 0, "1"]}]}, "number"),
    ({"version": 1, "keys": [{**key(), "rotation": [0, 0, 0, 0]}]}, "no length"),
    ({"version": 1, "keys": [key(fov=180)]}, "fov"),
    ({"version": 1, "keys": [key(views=2.5)]}, "whole number"),
    ({"version": 1, "keys": [key(hold=True)]}, "hold"),
    ({"version": 1, "keys": [key(ease="slow")]}, "ease"),
    ({"version": 1, "keys": [key(), key()], "views": 1001}, "1000"),
    ({"version": 1, "keys": [key(views=600), key(views=600), key()]}, "1201 views"),
    ({"version": 1, "keys": [key(hold=9), key()], "views": 8}, "none for the way"),
    ({"version": 1, "keys": [key()], "loop": "yes"}, "true or false"),
    ({"version": 1, "keys": [key()], "look_at": [1]}, "look_at"),
    ({"version": 1, "keys": [key()], "sources": [{"position": [0, 0, 0]}]}, "source 0"),
]


@pytest.mark.parametrize("value, words", HOSTILE, ids=[words for _, words in HOSTILE])
def test_what_is_no_path_is_said_in_a_sentence(value, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        parse_path(value)
    assert "path" in str(caught.value) and len(str(caught.value)) < 400


def test_a_path_is_for_the_sources_it_was_placed_over():
    placed = [{name: entry[name] for name in ("position", "rotation")} for entry in keys_of(SOURCES, SOURCES)]
    path = parse_path({"version": 1, "keys": [key()], "sources": placed})
    check_placed(path, SOURCES, 1.0)
    moved = SOURCES.c2w.clone()
    moved[0, 0, 3] += 0.05
    with pytest.raises(ValueError, match="other sources.*source 0 is 0.05 scene depths"):
        check_placed(path, Cameras(moved, SOURCES.K, 336, 504), 1.0)
    with pytest.raises(ValueError, match="1 sources, here are 2"):
        check_placed(path, SOURCES[[0, 0]], 1.0)


def test_the_help_pages_example_and_schema_are_of_this_version():
    example, schema = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", HELP.read_text("utf-8"), re.S))
    assert len(target_cameras(parse_path(example), SOURCES, 1.0)) == 24
    jsonschema.validate(example, schema)
    for path in make_paths.paths():
        jsonschema.validate(path, schema)
    refused = {
        "version",
        "version '2'",
        "list of keys",
        "up to 200",
        "'keyes'",
        "no rotation",
        "3 numbers",
        "fov",
        "ease",
    }
    for value in [value for value, words in HOSTILE if words in refused]:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(value, schema)
