"""Jobs: what a description may say, one scene of every kind of input, many scenes that fail, stop and go on."""

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from safetensors import SafetensorError

import gld_core
from gld_core import windows
from gld_core.__main__ import main
from gld_core.checkpoints import NANO
from gld_core.io.colmap import read_colmap_points
from gld_core.io.files import naming_full_disk
from gld_core.io.posed_folders import write_scene
from gld_core.jobs import Job, Models, read_list, run_many
from gld_core.jobs.many import BEFORE, DONE, EXPORTS_FAILED, FAILED, shard
from gld_core.jobs.results import (
    KEPT,
    PARTIAL,
    RESULT,
    files_of,
    merge,
    read_result,
    remove_abandoned,
    result_folder,
    unfinished,
    views_are_kept,
)
from gld_core.jobs.scene import comfyui_noise
from gld_core.synthetic.render import render_scene

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
MODELS = Models(NANO)
QUICK = {"size": 84, "steps": 1}


def silent(text):
    pass


@pytest.fixture(scope="module")
def gld():
    return gld_core.load(NANO, keep=True)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """Three rendered rooms of four views, 84 x 56."""
    folder = tmp_path_factory.mktemp("rooms")
    for seed in range(3):
        images, _, cameras = render_scene(seed, 4, 56, 84)
        write_scene(folder / f"room_{seed}", images, cameras)
    return folder


@pytest.fixture(scope="module")
def photograph(rooms):
    path = rooms.parent / "photograph.png"
    shutil.copy(rooms / "room_0" / "frame_00000.png", path)
    return path


def pixels(path):
    return np.array(Image.open(path))


# The description


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"steps": 0}, "steps is 0; give a number from 1 to 100000"),
        ({"size": 100}, "size is 100; give a multiple of 14"),
        ({"cfg": float("nan")}, "cfg is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"motion": "jump"}, "motion is 'jump'; choose of hold, orbit"),
        ({"export": ("glb", "usd")}, "export is 'usd'; choose of glb"),
        ({"export": ("glb", ["ply"])}, "export is ['ply']; choose of glb"),
        ({"export": ("glb", "ply", "glb")}, "export is glb, ply, glb; name each once"),
        ({"targets": (1,), "motion": "arc"}, "Both targets and a motion"),
        ({"sources": (0,), "num_sources": 2}, "Both sources and num_sources"),
        ({"motion": "orbit", "distance": 0.3}, "orbit has no setting distance"),
        ({"motion": "keyframes"}, "keyframes needs a path"),
        ({"number": "7"}, "number is '7', which is not of the kind int"),
        ({"name": "../up"}, "no plain file name"),
    ],
)
def test_what_a_job_cannot_be_is_one_sentence(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Job("scene", **settings).check()


def test_a_list_has_the_jobs_settings_as_keys_over_those_of_the_command_line(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_text(
        '{"input": "a.png", "first-is-source": true, "cfg": 2}\n\n{"input": "b", "sources": "0, 2-3"}\n',
        encoding="utf-8",
    )
    first, second = read_list(path, {"seed": 5, "cfg": 1.0})
    assert first == Job(str(tmp_path / "a.png"), first_is_source=True, cfg=2.0, seed=5)
    assert second == Job(str(tmp_path / "b"), sources=(0, 2, 3), cfg=1.0, seed=5)


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "line 1 is not JSON"),
        ("[" * 100_000, "line 1 is not JSON"),
        ('{"input": "a\\u0000b"}', "line 1: input is .* no file is called"),
        ("[]", "line 1 is no JSON object"),
        ('{"seed": 1}', "line 1 has no input"),
        ('{"input": "a", "sede": 1}', "line 1 has the key 'sede'"),
        ('{"input": "a", "steps": 0}', "line 1: steps is 0"),
        ('{"input": "a", "degrees": 1%s}' % ("0" * 400), "line 1: degrees is 10*; give a number"),
        ('{"input": "a", "seed": 1%s}' % ("0" * 400), "line 1: seed is 10*; give a number"),
        ("", "has no lines"),
    ],
)
def test_a_list_that_cannot_be_meant_is_one_sentence_that_names_the_line(tmp_path, line, message):
    path = tmp_path / "list.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_list(path, {})


@pytest.mark.parametrize(
    "line, settings",
    [
        ({}, {"motion": "orbit", "degrees": 30.0, "num_sources": 2}),
        ({"motion": "dolly", "distance": 0.2}, {"motion": "dolly", "distance": 0.2, "num_sources": 2}),
        ({"motion": "arc"}, {"motion": "arc", "degrees": 30.0, "num_sources": 2}),
        ({"path": "p.json"}, {"path": "p.json", "num_sources": 2}),
        ({"targets": "3", "sources": "0"}, {"targets": (3,), "sources": (0,)}),
    ],
)
def test_a_lines_own_way_takes_the_place_of_the_command_lines(tmp_path, line, settings):
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps({"input": "a", **line}), encoding="utf-8")
    (job,) = read_list(path, {"motion": "orbit", "degrees": 30.0, "num_sources": 2})
    settings = settings | ({"path": str(tmp_path / "p.json")} if "path" in settings else {})
    assert job == Job(str(tmp_path / "a"), **settings)


def test_keyframes_and_their_path_may_stand_in_two_places(tmp_path):
    path = tmp_path / "list.jsonl"
    for line, defaults in (({"path": "p"}, {"motion": "keyframes"}), ({"motion": "keyframes"}, {"path": "p"})):
        path.write_text(json.dumps({"input": "a", **line}), encoding="utf-8")
        (job,) = read_list(path, defaults)
        assert job.motion == "keyframes" and Path(job.path).name == "p"


def test_a_list_is_read_as_other_programs_write_it(tmp_path):
    """With a byte-order mark, and a line separator of Unicode in a name, which ends no line of JSON."""
    path = tmp_path / "list.jsonl"
    path.write_text('{"input": "a\u2028b.png"}\n{"input": "c.png"}\n', encoding="utf-8-sig")
    assert [Path(job.input).name for job in read_list(path, {})] == ["a\u2028b.png", "c.png"]


@pytest.mark.parametrize("name", ["\N{CJK UNIFIED IDEOGRAPH-9577}" * 80, "a" * 250], ids=["Japanese", "Latin"])
def test_a_name_as_long_as_file_systems_take_has_a_result(tmp_path, photograph, name):
    photograph = shutil.copy(photograph, tmp_path / f"{name}.png")
    outcomes = run_many([Job(str(photograph), **QUICK, number=1)], tmp_path / "out", MODELS, silent)
    assert outcomes[0].state == DONE, outcomes[0].text
    assert (tmp_path / "out" / name / "transforms.json").is_file()


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="these take no other names than Unicode")
def test_a_name_that_is_not_unicode_has_a_result_and_a_line_in_the_table(tmp_path, photograph):
    name = os.fsdecode(b"caf\xe9")
    photograph = shutil.copy(photograph, tmp_path / f"{name}.png")
    outcomes = run_many([Job(str(photograph), **QUICK, number=1)], tmp_path / "out", MODELS, silent)
    assert outcomes[0].state == DONE, outcomes[0].text
    assert "| caf\\udce9 | done |" in (tmp_path / "out" / "results.md").read_text(encoding="utf-8")


def test_results_are_not_put_into_the_folder_that_they_are_made_of(tmp_path, photograph, gld):
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    shutil.copy(photograph, photographs)
    with pytest.raises(ValueError, match="lies in .* which is read"):
        gld_core.run(str(photographs), photographs / "results", gld, **QUICK)
    with pytest.raises(ValueError, match="lies in .* which is read"):
        run_many([Job(str(photographs), **QUICK)], photographs / "results", MODELS, silent)
    assert len(list(photographs.iterdir())) == 1


def test_points_lie_where_the_cameras_of_a_scene_far_from_the_origin_are(tmp_path, rooms, gld):
    """Also for nerfstudio, which finds them by the name in transforms.json."""
    near, far = tmp_path / "near", tmp_path / "far"
    away = torch.tensor([5e5, 4e6, 0], dtype=torch.float64)
    images, _, cameras = render_scene(0, 4, 56, 84)
    poses = cameras.world_c2w.clone()
    poses[:, :3, 3] += away
    write_scene(tmp_path / "moved", images, gld_core.Cameras.in_world(poses, cameras.K, 56, 84))
    for out, scene in ((near, rooms / "room_0"), (far, tmp_path / "moved")):
        gld_core.run(str(scene), out, gld, **QUICK)
    content = json.loads((far / "transforms.json").read_text(encoding="utf-8"))
    points = trimesh.load(far / content["ply_file_path"]).vertices - away.numpy()
    np.testing.assert_allclose(points, trimesh.load(near / "points.ply").vertices, atol=1e-2)


@pytest.mark.parametrize("rank, world", [("2", "2"), ("x", "2"), ("", "2"), ("0", "0"), ("-1", "2")])
def test_a_share_that_is_none_is_one_sentence(monkeypatch, rank, world):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(ValueError, match="RANK has to be from 0"):
        shard([1, 2])


def test_a_scene_is_not_put_in_the_place_of_the_table(tmp_path):
    with pytest.raises(ValueError, match="the table's place"):
        run_many([Job("scene", name="results.md")], tmp_path, MODELS, silent)


@pytest.mark.parametrize(
    "settings, message",
    [({"export": ("video",)}, "needs the package av"), ({"export": ("glb",), "confirmed_by": 2}, "has 1 others")],
)
def test_what_an_export_lacks_is_said_before_a_view_is_sampled(photograph, gld, monkeypatch, settings, message):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(type(gld), "sample_level1", None)
    with pytest.raises(ValueError, match=message):
        gld_core.run(str(photograph), None, gld, **QUICK, number=1, **settings)


def test_every_setting_is_an_option_of_the_command_line_with_its_range(capsys):
    with pytest.raises(SystemExit):
        main(["views", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for one in fields(Job):
        if one.metadata:
            name = one.name.replace("_", "-")
            assert f"--{name}" in text or f"--no-{name}" in text
            assert one.metadata["low"] is None or f"{one.metadata['low']:g} to" in text


def test_size_and_steps_that_are_left_open_are_the_networks_own(rooms, tmp_path):
    assert Job("a").settled(126, 4) == Job("a", size=126, steps=4)
    assert Job("a", size=84, steps=2).settled(126, 4) == Job("a", size=84, steps=2)
    assert Job("a", fast=True).settled(504, 49).steps == 33
    assert (gld_core.load(NANO).own_size, gld_core.load(NANO).own_steps) == (126, 4)
    run_many([Job(str(rooms / "room_0"))], tmp_path, MODELS, silent)
    settings = read_result(tmp_path / "room_0")["job"]
    assert (settings["size"], settings["steps"]) == (126, 4)


# One scene


def test_a_posed_scene_gives_what_the_stages_give(rooms, gld):
    made = gld_core.run(Job(str(rooms / "room_0"), sources=(0, 3), seed=4, **QUICK), gld=gld)
    scene = gld_core.jobs.scene.read(Job(str(rooms / "room_0"), sources=(0, 3), **QUICK))
    views = gld.encode_views(scene.photographs, scene.cameras)
    noise = comfyui_noise(views.latent_shape, 4)
    level1 = gld.sample_level1(views, steps=1, noise=noise)
    level0 = gld.cascade_level0(views, level1, steps=1, noise=noise)
    assert torch.equal(made.rgb, gld.decode_rgb(views, level1, level0).clamp(0, 1))
    depth = gld.decode_geometry(views, level1, level0).align_to(scene.cameras)[0].depth
    assert torch.equal(made.depth, depth)
    assert made.names == ["frame_00000", "frame_00003", "frame_00001", "frame_00002"]


def test_the_command_line_and_the_library_give_the_same_files(rooms, gld, tmp_path):
    exports = "glb,ply,colmap,nerfstudio,splats,video"
    gld_core.run(str(rooms / "room_0"), tmp_path / "a", gld=gld, export=exports, splat_steps=2, **QUICK)
    options = ["--size", "84", "--steps", "1", "--device", "cpu", "--export", exports, "--splat-steps", "2"]
    assert main(["views", str(rooms / "room_0"), "--models", str(NANO), "--out", str(tmp_path / "b"), *options]) == 0
    names = files_of(tmp_path / "a")
    assert names.keys() == files_of(tmp_path / "b").keys()
    assert {Path(name).suffix for name in names} >= {".png", ".npz", ".glb", ".ply", ".bin", ".npy", ".mp4", ".json"}
    for name in names:
        if name != RESULT:
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert read_result(tmp_path / "a") | {"seconds": 0} == read_result(tmp_path / "b") | {"seconds": 0}
    assert len(trimesh.load(tmp_path / "a" / "scene.glb").geometry) == 1
    assert len(read_colmap_points(tmp_path / "a" / "colmap" / "sparse" / "0")[0]) > 100


def test_a_photograph_gets_cameras_and_a_path_in_windows(photograph, gld, tmp_path):
    made = gld_core.run(
        str(photograph), tmp_path / "out", gld=gld, motion="orbit", degrees=20, number=9, window=5, **QUICK
    )
    assert made.names == ["photograph", *(f"orbit_{number:04}" for number in range(9))]
    assert made.rgb.shape == (10, 3, 56, 84) and torch.isfinite(made.depth).all()
    poses = made.cameras.c2w.double()
    # From the photograph's own camera, which the network need not put exactly into the origin.
    turns = poses[0, :3, :3].T @ poses[:, :3, :3]
    angles = [torch.rad2deg(torch.acos(((turn.trace() - 1) / 2).clamp(max=1))).item() for turn in turns]
    assert angles[-1] == pytest.approx(20, abs=0.1) and angles == sorted(angles)
    assert len(json.loads((tmp_path / "out" / "transforms.json").read_text(encoding="utf-8"))["frames"]) == 10
    assert (pixels(tmp_path / "out" / "sources" / "photograph.png") == pixels(photograph)).all()


def test_windows_of_a_long_path_step_together_unless_their_size_is_given(photograph, gld, monkeypatch):
    """A circle of 14 views: two windows of 12, of which the last has the first targets too."""
    sampled, sample = [], windows.sample

    def watched(*given, **how):
        sampled.append((given[4], how))
        return sample(*given, **how)

    monkeypatch.setattr(windows, "sample", watched)
    for window in (0, 12):
        gld_core.run(Job(str(photograph), number=13, closed=True, window=window, cascade=False, **QUICK), gld=gld)
    assert sampled == [
        (windows.spread_windows(1, 14, 12, 2, True), {"together": True}),
        (windows.split_into_windows(1, 14, 12, 2, True), {"together": False}),
    ]


@pytest.mark.parametrize("choice", windows.LONG_PATHS)
def test_the_choice_for_long_paths_is_the_nodes_by_the_same_word(rooms, tmp_path, monkeypatch, choice):
    """Three photographs and a circle of 11 views: with each choice its windows and its noise."""
    sampled, sample = [], windows.sample
    monkeypatch.setattr(windows, "sample", lambda *given, **how: sampled.append(given) or sample(*given, **how))
    options = ["--sources", "0,1,3", "--motion", "orbit", "--number", "11", "--closed", "--no-cascade", "--size", "56"]
    where = ["--models", str(NANO), "--out", str(tmp_path / "out"), "--device", "cpu", "--steps", "1"]
    assert main(["views", str(rooms / "room_0"), *where, *options, "--long-paths", choice]) == 0
    _, _, views, _, plan, sampling = sampled[0]
    assert plan == windows.spread_windows(3, 14, 8 if choice == "quality" else 12, 2, True)
    noise = comfyui_noise(views.latent_shape, 0)
    assert torch.equal(sampling.noise, windows.path_noise(noise, 3, True, choice))


def test_a_path_is_a_file_of_cameras(rooms, photograph, gld):
    along = gld_core.run(Job(str(photograph), path=str(rooms / "room_1"), **QUICK), gld=gld)
    assert len(along.names) == 5 and along.names[1:] == [f"path_{number:04}" for number in range(4)]
    keys = Job(str(photograph), path=str(rooms / "room_1"), motion="keyframes", number=6, **QUICK)
    through = gld_core.run(keys, gld=gld)
    assert len(through.names) == 7
    assert torch.allclose(through.cameras.c2w[[1, -1]], along.cameras.c2w[[1, -1]], atol=1e-5)


def test_targets_with_photographs_are_measured(rooms, gld, tmp_path):
    made = gld_core.run(str(rooms / "room_0"), tmp_path / "out", gld=gld, **QUICK)
    true = pixels(rooms / "room_0" / "frame_00001.png") / 255
    error = np.square(made.rgb[2].permute(1, 2, 0).numpy() - true).mean()
    other = np.square(made.rgb[3].permute(1, 2, 0).numpy() - pixels(rooms / "room_0" / "frame_00002.png") / 255).mean()
    expected = (-10 * np.log10(error) - 10 * np.log10(other)) / 2
    assert read_result(tmp_path / "out")["figures"]["psnr"] == pytest.approx(expected, abs=0.01)


# Many scenes


def test_many_scenes_are_done_once_and_what_is_not_whole_again(rooms, tmp_path):
    jobs = [Job(str(rooms / f"room_{seed}"), **QUICK) for seed in range(3)]
    said = []
    assert [one.state for one in run_many(jobs, tmp_path, MODELS, silent)] == [DONE] * 3
    (tmp_path / "room_1" / "points.ply").unlink()
    before = (tmp_path / "room_0" / RESULT).stat().st_mtime_ns
    assert [one.state for one in run_many(jobs, tmp_path, MODELS, said.append)] == [BEFORE, DONE, BEFORE]
    assert "room_1 is done anew: points.ply is missing or damaged" in said
    assert (tmp_path / "room_0" / RESULT).stat().st_mtime_ns == before
    changed = [jobs[0], jobs[1], replace(jobs[2], seed=1)]
    assert [one.state for one in run_many(changed, tmp_path, MODELS, silent)] == [BEFORE, BEFORE, DONE]
    assert not unfinished(tmp_path / "room_2", changed[2], read_result(tmp_path / "room_2")["weights"])
    assert unfinished(tmp_path / "room_2", changed[2], "others") == "the weights were others"


def test_a_scene_that_fails_is_recorded_and_stops_no_other(rooms, tmp_path):
    broken = tmp_path / "in" / "broken"
    shutil.copytree(rooms / "room_0", broken)
    (broken / "frame_00000.png").write_bytes(b"no picture")
    lines = [
        {"input": str(rooms / "room_1")},
        {"input": str(broken)},
        {"input": "nothing"},
        {"input": str(rooms / "room_2")},
    ]
    path = tmp_path / "list.jsonl"
    path.write_text("".join(json.dumps({**line, **QUICK}) + "\n" for line in lines), encoding="utf-8")
    out = tmp_path / "out"
    assert main(["views", str(path), "--models", str(NANO), "--out", str(out), "--device", "cpu"]) == 1
    table = [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["state"] for row in table] == [DONE, FAILED, FAILED, DONE]
    assert "frame_00000.png" in table[1]["text"] and "nothing does not exist" in table[2]["text"]
    assert table[0]["psnr"] > 5
    assert sorted(path.name for path in out.iterdir()) == ["results.jsonl", "results.md", "room_1", "room_2"]
    assert (out / "results.md").read_text(encoding="utf-8").count("\n") == 6


def test_a_process_that_dies_while_it_replaces_a_result_is_mended_by_the_next_start(rooms, tmp_path, monkeypatch):
    job = Job(str(rooms / "room_0"), **QUICK)
    run_many([job], tmp_path, MODELS, silent)
    before, moved = files_of(tmp_path / "room_0").keys(), []

    def die(source, target):
        if Path(target).is_relative_to(tmp_path / "room_0" / "targets"):
            raise KeyboardInterrupt
        replace_file(source, target)
        moved.append(target)

    replace_file = os.replace
    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        run_many([replace(job, seed=1)], tmp_path, MODELS, silent)
    monkeypatch.undo()
    assert moved
    for one in (job, replace(job, seed=1)):
        assert [outcome.state for outcome in run_many([one], tmp_path, MODELS, silent)] == [DONE]
        assert files_of(tmp_path / "room_0").keys() == before


# Exports that fail: no mesh has voxels of 1000 units.


@pytest.fixture
def no_sampling(monkeypatch):
    """What forbids the networks to sample from here on."""

    def sample(*given, **how):
        raise AssertionError("sampled again")

    return lambda: monkeypatch.setattr(gld_core.GLD, "sample", sample)


def same_files(a, b):
    names = files_of(a)
    assert names.keys() == files_of(b).keys()
    for name in names.keys() - {RESULT}:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


def test_a_scene_whose_export_fails_keeps_its_views_and_the_next_start_exports_them(rooms, tmp_path, no_sampling):
    out, said = tmp_path / "out", []
    wanted = Job(str(rooms / "room_0"), export=("glb", "ply", "colmap"), **QUICK)
    other = Job(str(rooms / "room_1"), **QUICK)
    run_many([wanted], tmp_path / "whole", MODELS, silent)

    outcomes = run_many([replace(wanted, voxel=1000.0), other], out, MODELS, silent)
    assert [one.state for one in outcomes] == [EXPORTS_FAILED, DONE]
    row = json.loads((out / "results.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert row["state"] == "exports failed" and row["text"].startswith("glb: The scene has no point left")
    assert row["psnr"] > 5
    assert read_result(out / "room_0")["failed_exports"].keys() == {"glb"}
    made = files_of(tmp_path / "whole" / "room_0").keys()
    assert files_of(out / "room_0").keys() == made - {"scene.glb"} | {KEPT}

    no_sampling()
    outcomes = run_many([replace(wanted, voxel=1000.0), other], out, MODELS, said.append)
    assert [one.state for one in outcomes] == [EXPORTS_FAILED, BEFORE]
    assert "room_0: an export failed; its views are kept, and its files are written anew" in said
    assert [one.state for one in run_many([wanted, other], out, MODELS, silent)] == [DONE, BEFORE]
    same_files(out / "room_0", tmp_path / "whole" / "room_0")


def test_no_export_is_made_of_the_one_point_that_is_most_confident(rooms, gld, tmp_path):
    settings = {"min_confidence": 100.0, "export": ("ply", "nerfstudio", "video"), **QUICK}
    with pytest.raises(ValueError, match=r"export ply failed: No depth has the confidence 100 .* highest is \d"):
        gld_core.run(str(rooms / "room_0"), tmp_path / "out", gld, **settings)
    assert read_result(tmp_path / "out")["failed_exports"].keys() == {"ply", "nerfstudio"}
    gld_core.run(str(rooms / "room_0"), tmp_path / "out", gld, keep_at_least=50.0, **settings)
    assert len(trimesh.load(tmp_path / "out" / "scene.ply").vertices) > 1000


def test_kept_views_of_other_settings_or_weights_are_not_exported(rooms, tmp_path, monkeypatch):
    job = Job(str(rooms / "room_0"), export=("glb",), voxel=1000.0, **QUICK)
    run_many([job], tmp_path, MODELS, silent)
    weights, folder = read_result(tmp_path / "room_0")["weights"], tmp_path / "room_0"
    assert views_are_kept(folder, replace(job, voxel=0.0, export=("ply",)), weights)
    assert not views_are_kept(folder, replace(job, seed=1), weights)
    assert not views_are_kept(folder, job, "others") and not views_are_kept(folder, job, None)
    with monkeypatch.context() as other_process:
        other_process.setattr(gld_core.jobs.scene, "views_are_kept", lambda *given: (folder / KEPT).unlink() or True)
        assert gld_core.jobs.scene.kept(job, folder, weights) is None
    (folder / KEPT).write_bytes(b"half")
    assert not views_are_kept(folder, job, weights)


def test_the_command_line_and_python_keep_the_views_too(photograph, gld, tmp_path, no_sampling, capsys):
    settings = {"number": 2, "export": ("glb",), **QUICK}
    command = ["views", str(photograph), "--models", str(NANO), "--device", "cpu", "--out", str(tmp_path / "line")]
    command += ["--size", "84", "--steps", "1", "--number", "2", "--export", "glb"]
    whole = gld_core.run(str(photograph), tmp_path / "whole", gld, **settings)
    assert main([*command, "--voxel", "1000"]) == 1
    assert "The export glb failed: The scene has no point left" in capsys.readouterr().err
    with pytest.raises(ValueError, match="The export glb failed: The scene has no point left"):
        gld_core.run(str(photograph), tmp_path / "python", gld, voxel=1000.0, **settings)

    no_sampling()
    assert main(command) == 0
    made = gld_core.run(str(photograph), tmp_path / "python", gld, **settings)
    for name in ("line", "python"):
        same_files(tmp_path / name, tmp_path / "whole")
    assert torch.equal(made.rgb, whole.rgb) and torch.equal(made.cameras.c2w, whole.cameras.c2w)
    assert made.names == whole.names


def test_an_error_that_nobody_thought_of_stops_no_other_scene(rooms, tmp_path, monkeypatch):
    def write_ply(path, *given, **how):
        if "room_0" in str(path):
            raise KeyError("x")
        return written(path, *given, **how)

    written = gld_core.jobs.scene.write_ply
    monkeypatch.setattr(gld_core.jobs.scene, "write_ply", write_ply)
    jobs = [Job(str(rooms / f"room_{seed}"), **QUICK) for seed in range(2)]
    outcomes = run_many(jobs, tmp_path, MODELS, silent)
    assert [(one.state, one.text) for one in outcomes] == [(FAILED, "KeyError: 'x'"), (DONE, "")]


def test_two_inputs_of_one_name_are_refused_before_any_work(rooms, tmp_path):
    jobs = [Job(str(rooms / "room_0")), Job(str(rooms / "room_0"), seed=1)]
    with pytest.raises(ValueError, match="would both be written to"):
        run_many(jobs, tmp_path / "out", MODELS, silent)
    assert not (tmp_path / "out").exists()


def test_folders_of_others_are_left_alone(rooms, tmp_path):
    (tmp_path / "room_0").mkdir()
    (tmp_path / "room_0" / "mine.txt").write_text("mine", encoding="utf-8")
    (outcome,) = run_many([Job(str(rooms / "room_0"), **QUICK)], tmp_path, MODELS, silent)
    assert outcome.state == FAILED and "not empty" in outcome.text
    assert [path.name for path in (tmp_path / "room_0").iterdir()] == ["mine.txt"]


def test_every_process_of_several_takes_its_share(monkeypatch):
    shares = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        shares.append(shard(list(range(8))))
    assert shares == [[0, 3, 6], [1, 4, 7], [2, 5]]
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(ValueError, match="RANK is 3"):
        shard([])


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(KeyboardInterrupt), result_folder(tmp_path / "scene") as folder:
        (folder / "half").write_text("half", encoding="utf-8")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_with_the_cure(tmp_path, monkeypatch, capsys):
    def full(*given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    message = f"There is no room left on the disk of {tmp_path}; make room"
    with pytest.raises(OSError, match=re.escape(message)), result_folder(tmp_path / "scene"):
        full()
    monkeypatch.setattr("gld_core.cli.demo.write_scene", full)
    assert main(["demo", "--out", str(tmp_path / "out"), "--size", "56", "--device", "cpu"]) == 2
    assert f"error: There is no room left on the disk of {tmp_path / 'out'}; make" in capsys.readouterr().err


def test_weights_that_find_no_room_are_the_same_sentence():
    """safetensors has an error of its own, with the system's number in its text."""
    with pytest.raises(OSError, match="There is no room left on the disk of out; make"), naming_full_disk("out"):
        raise SafetensorError(
            f"Error while serializing: I/O error: {os.strerror(errno.ENOSPC)} (os error {errno.ENOSPC})"
        )


def test_what_dead_processes_left_half_written_is_removed_and_what_others_write_is_not(tmp_path):
    host, dead = socket.gethostname(), subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [f".scene{PARTIAL}{host}-{dead.pid}-a", f".scene [1]{PARTIAL}{host}-{dead.pid}-b"]
    names += [f".scene{PARTIAL}{host}-{os.getpid()}-c", f".scene{PARTIAL}other-{dead.pid}-d", f".s{PARTIAL}other-1-e"]
    for name in names:
        (tmp_path / name).mkdir()
    os.utime(tmp_path / names[4], (0, 0))
    with result_folder(tmp_path / "scene [1]"):
        assert [name for name in names if not (tmp_path / name).exists()] == [names[1]]
    remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*names[2:4], "scene [1]"}


def test_the_slower_of_two_processes_changes_nothing(tmp_path):
    job = Job("scene")
    content = {"job": {"input": "x"}, "input": "s", "weights": "w", "files": {"a": 1}}
    for name, byte in (("first", "1"), ("second", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(byte, encoding="utf-8")
        (tmp_path / name / RESULT).write_text(json.dumps(content), encoding="utf-8")
    merge(tmp_path / "second", tmp_path / "first")
    assert (tmp_path / "first" / "a").read_text(encoding="utf-8") == "1"
    assert job.folder_name == "scene"


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_what_is_missing(rooms, tmp_path):
    """The process is killed outright in the middle of a scene."""
    command = [sys.executable, "-m", "gld_core", "views", str(rooms), "--models", str(NANO), "--out", str(tmp_path)]
    command += ["--size", "84", "--device", "cpu"]
    with subprocess.Popen([*command, "--steps", "12"], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("1 of 3: "):
                break
        os.kill(process.pid, signal.SIGKILL)
    finished = sum(read_result(tmp_path / f"room_{seed}") is not None for seed in range(3))
    assert 1 <= finished < 3
    done = subprocess.run([*command, "--steps", "12"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0 and f"{finished} of 3 scenes are finished already" in done.stderr
    assert all(read_result(tmp_path / f"room_{seed}") for seed in range(3))
    assert not list(tmp_path.glob(f".*{PARTIAL}*"))
