"""The command line: the whole job from a folder to results, mistakes as one sentence, Ctrl-C without half files."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from safetensors import safe_open

from gld_core.__main__ import main
from gld_core.io.cameras import read_scene
from gld_core.io.posed_folders import write_scene
from gld_core.synthetic.random_models import write_random_models
from gld_core.synthetic.render import render_scene
from gld_core.training.stages import STAGES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Five views of a rendered room, 70 x 42."""
    folder = tmp_path_factory.mktemp("scene")
    images, _, cameras = render_scene(1, 5, 42, 70)
    write_scene(folder, images, cameras)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_random_models(folder)
    return folder


def pixels(path):
    return np.array(Image.open(path))


@pytest.mark.parametrize("name", ["re10k_indoor", "dl3dv_outdoor"])
def test_a_released_scene_becomes_views_depth_cameras_and_points(shared, tmp_path, name):
    out = tmp_path / "out"
    models = shared / "golden" / "tiny-da3"
    where = ["--models", str(models), "--out", str(out)]
    assert (
        main(["views", str(shared / "scenes" / name), *where, "--size", "84", "--steps", "2", "--device", "cpu"]) == 0
    )
    stems = sorted(path.stem for path in (shared / "scenes" / name).glob("*.npz"))
    assert sorted(path.stem for path in (out / "sources").iterdir()) == [stems[0], stems[7]]
    assert sorted(path.stem for path in (out / "targets").iterdir()) == stems[1:7]
    transforms = json.loads((out / "transforms.json").read_text(encoding="utf-8"))
    assert [Path(frame["file_path"]).stem for frame in transforms["frames"]] == [stems[0], stems[7], *stems[1:7]]
    for frame in transforms["frames"]:
        assert pixels(out / frame["file_path"]).shape == (frame["h"], frame["w"], 3) == (42, 84, 3)
        stored = np.load((out / frame["depth_file_path"]).with_suffix(".npz"))
        unit = transforms["depth_unit_scale_factor"]
        assert stored["depth_unit"] == unit and (stored["confidence"] >= 1).all()
        assert np.abs(pixels(out / frame["depth_file_path"]) * unit - stored["depth"]).max() <= unit
        pose = np.load(shared / "scenes" / name / f"{Path(frame['file_path']).stem}.npz")["pose"]
        assert np.allclose(np.array(frame["transform_matrix"]) @ np.diag([1, -1, -1, 1]), pose, atol=1e-6)
    photograph = read_scene(shared / "scenes" / name, 84).photographs([7])[0]
    assert (
        np.abs(pixels(out / "sources" / f"{stems[7]}.png") / 255 - photograph.numpy().transpose(1, 2, 0)).max() < 0.01
    )
    assert len({path.read_bytes() for path in (out / "targets").iterdir()}) == 6
    cloud = trimesh.load(out / "points.ply")
    assert len(cloud.vertices) > 1000 and np.isfinite(cloud.vertices).all()
    assert pixels(out / "contact_sheet.png").shape[1] > 8 * 240


def test_sources_targets_and_settings_are_the_users(scene, models, tmp_path):
    def run(name, *options):
        arguments = ["views", str(scene), "--models", str(models), "--out", str(tmp_path / name), "--size", "70"]
        assert (
            main([*arguments, "--steps", "2", "--device", "cpu", "--sources", "4,1", "--targets", "3", *options]) == 0
        )
        return pixels(tmp_path / name / "targets" / "frame_00003.png")

    first = run("first")
    frames = json.loads((tmp_path / "first" / "transforms.json").read_text(encoding="utf-8"))["frames"]
    assert [Path(frame["file_path"]).stem for frame in frames] == ["frame_00004", "frame_00001", "frame_00003"]
    assert np.array_equal(first, run("again"))
    for option in (["--seed", "1"], ["--steps", "3"], ["--cfg", "3"], ["--shift", "2"], ["--no-cascade"]):
        assert not np.array_equal(first, run("-".join(option).strip("-"), *option)), option


def test_depth_is_in_the_units_of_the_scenes_cameras(scene, models, tmp_path):
    (tmp_path / "large").mkdir()
    for path in scene.glob("*.npz"):
        camera = dict(np.load(path))
        camera["pose"][:3, 3] *= 10
        np.savez(tmp_path / "large" / path.name, **camera)
        (tmp_path / "large" / f"{path.stem}.png").write_bytes(path.with_suffix(".png").read_bytes())
    depth = []
    for folder in (scene, tmp_path / "large"):
        out = tmp_path / f"out-{folder.name}"
        common = ["--models", str(models), "--out", str(out), "--size", "70", "--steps", "2", "--device", "cpu"]
        assert main(["views", str(folder), *common]) == 0
        depth.append(np.load(out / "depth" / "frame_00002.npz")["depth"])
    assert np.allclose(depth[1], depth[0] * 10, rtol=1e-3)


def test_the_demo_runs_on_what_it_makes_itself(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "demo"), "--size", "70", "--steps", "2", "--device", "cpu"]) == 0
    assert (tmp_path / "demo" / "views" / "contact_sheet.png").is_file()
    assert re.search(r"level 1: step 1 of 2, 0:\d\d left", capsys.readouterr().err)


def test_converted_models_are_smaller_and_give_the_same_views(scene, models, tmp_path):
    assert main(["convert", "--models", str(models), "--out", str(tmp_path / "st"), "--dtype", "float16"]) == 0
    common = [str(scene), "--size", "70", "--steps", "2", "--device", "cpu"]
    for name, folder in (("a", models), ("b", tmp_path / "st")):
        assert main(["views", *common, "--models", str(folder), "--out", str(tmp_path / name)]) == 0
    view = Path("targets") / "frame_00002.png"
    assert np.array_equal(pixels(tmp_path / "a" / view), pixels(tmp_path / "b" / view))


def test_the_random_bundle_has_the_names_and_ranks_of_the_released_files(shared, models):
    manifest = json.loads((shared / "spec" / "manifest.json").read_text(encoding="utf-8"))

    def names(shapes):
        return {(re.sub(r"(blocks|layers)\.\d+\.", r"\1.N.", name), len(shape)) for name, shape in shapes.items()}

    for file in models.rglob("*.*"):
        path = file.relative_to(models).as_posix()
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
        elif "stats" not in path:
            content = torch.load(file, weights_only=True)
            shapes = {name: tensor.shape for name, tensor in next(iter(content.values())).items()}
        else:
            continue
        assert names(shapes) == names(manifest[path]), path


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scene": "nowhere"}, "nowhere does not exist"),
        ({"--models": "nowhere"}, "nowhere"),
        ({"--size": "100"}, "multiple of 14"),
        ({"--sources": "0,9"}, "no source view 9; the scene has views 0 to 4"),
        ({"--targets": "0"}, "View 0 is both"),
        ({"--num-sources": "5"}, "5 sources of 5 views"),
        ({"--steps": "0"}, "steps is 0"),
        ({"--out": "full"}, "full is not empty"),
        ({"--out": "full/file"}, "file is a file"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(scene, models, tmp_path, monkeypatch, capsys, change, message):
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full/file").write_text("mine", encoding="utf-8")
    options = {"scene": str(scene), "--models": str(models), "--out": "out", "--size": "70", "--device": "cpu"} | change
    assert main(["views", options.pop("scene"), *[word for pair in options.items() for word in pair]]) == 2
    *_, last = lines = capsys.readouterr().err.splitlines()
    assert last.startswith("error: ") and message in last and not any("Traceback" in line for line in lines)
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "file"] and Path("full/file").read_text(
        encoding="utf-8"
    ) == "mine"


def test_ray_that_is_not_installed_is_one_sentence(scene, models, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "gld_core.jobs.cluster", raising=False)
    assert main(["views", str(scene), "--models", str(models), "--out", str(tmp_path / "out"), "--ray"]) == 2
    assert "error: --ray needs the package ray; install it with" in capsys.readouterr().err


def test_overwriting_has_to_be_asked_for(scene, models, tmp_path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    common = ["views", str(scene), "--models", str(models), "--out", str(tmp_path), "--size", "70", "--steps", "1"]
    assert main([*common, "--device", "cpu", "--no-cascade"]) == 2
    assert main([*common, "--device", "cpu", "--no-cascade", "--overwrite"]) == 0
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "mine" and (tmp_path / "points.ply").is_file()


def test_ctrl_c_ends_with_one_sentence_and_no_half_file(scene, models, tmp_path):
    command = [sys.executable, "-m", "gld_core", "views", str(scene), "--models", str(models)]
    command += ["--out", str(tmp_path / "out"), "--size", "70", "--steps", "100000", "--device", "cpu"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        seen = next(line for line in process.stderr if "step 1 of 100000" in line)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read().splitlines()
        assert process.wait(60) == 130
    assert "left" in seen and rest[-1] == "Interrupted; no file is left half written."
    assert not any("Traceback" in line for line in rest) and list(tmp_path.iterdir()) == []


def test_ctrl_c_while_torch_is_imported_ends_with_one_sentence(scene, models, tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "gld_core", "views", str(scene), "--models", str(models)]
    command += ["--out", str(tmp_path / "out"), "--size", "70", "--steps", "100000", "--device", "cpu"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any(" torch." in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read().splitlines()
        assert process.wait(60) == 130
    assert rest[-1].startswith("Interrupted; ") and not any("Traceback" in line for line in rest)


@pytest.mark.parametrize("command", ["views", "eval", "train", "demo", "convert"])
def test_every_command_explains_itself_and_every_option(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    options = re.findall(r"^  (-[^\n]*(?:\n {10,}[^\n]*)*)", text, re.MULTILINE)
    silent = [option for option in options if not re.search(r"(?:  +|\n +)[A-Za-z]", option)]
    assert len(options) > 3 and not silent
    if command == "train":
        assert re.findall(r"^  (\w+)  +[A-Z]", text, re.MULTILINE) == list(STAGES)
