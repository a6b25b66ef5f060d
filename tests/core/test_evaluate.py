"""Evaluation: every metric is what its reference implementation says, and the command reports what it measured."""

import json
import sys
import types

import numpy as np
import pytest
import skimage.metrics
import sklearn.metrics
import torch
from evo.core import metrics as evo_metrics
from evo.core.trajectory import PosePath3D
from scipy.spatial.transform import Rotation
from torch import nn

import gld_core
from gld_core import flow, windows
from gld_core.__main__ import main
from gld_core.autoencoder import Geometry
from gld_core.evaluation import benchmark, report
from gld_core.evaluation.lpips import LINEAR_FILE, LPIPS, STAGES, VGG_FILE
from gld_core.evaluation.metrics import PoseErrors, depth_errors, median_scale, pose_errors, psnr, ssim
from gld_core.geometry.alignment import Sim3
from gld_core.io.posed_folders import write_scene
from gld_core.jobs import measure
from gld_core.synthetic.render import render_scene

pytestmark = pytest.mark.slow

ROWS = ["cascade", "level 1", "nearest source", "wrong cameras", "photographs"]


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def noisy(truth, amount):
    return truth + amount * (random(*truth.shape, seed=1) - 0.5)


@pytest.fixture(scope="module")
def room():
    """Images, depth and cameras of six views."""
    return render_scene(3, 6, 42, 70)


# The released evaluation's PSNR and SSIM (src/utils/metrics.py): values clipped for the first, a Gaussian window of 11.
@pytest.mark.parametrize("amount", [0.02, 0.5])
def test_psnr_is_that_of_scikit_image_view_by_view(room, amount):
    truth = room[0]
    images = noisy(truth, amount)
    for found, image, meant in zip(psnr(images, truth), images.clamp(0, 1), truth, strict=True):
        expected = skimage.metrics.peak_signal_noise_ratio(meant.double().numpy(), image.double().numpy(), data_range=1)
        assert found == pytest.approx(expected, abs=1e-6)


def test_equal_pictures_have_an_infinite_psnr_and_a_similarity_of_one(room):
    assert torch.isinf(psnr(room[0], room[0])).all() and torch.allclose(ssim(room[0], room[0]), torch.ones(6).double())


@pytest.mark.parametrize("amount", [0.02, 0.5])
def test_ssim_is_that_of_scikit_image_as_the_research_calls_it(room, amount):
    truth = room[0]
    images = noisy(truth, amount)
    for found, image, meant in zip(ssim(images, truth), images.clamp(0, 1), truth, strict=True):
        expected = skimage.metrics.structural_similarity(
            meant.double().numpy(), image.double().numpy(),
            win_size=11, gaussian_weights=True, channel_axis=0, data_range=1.0,
        )  # fmt: skip
        assert found == pytest.approx(expected, abs=1e-9)


def test_pictures_of_other_sizes_or_too_small_are_refused():
    with pytest.raises(ValueError, match="give both as"):
        psnr(torch.zeros(2, 3, 14, 14), torch.zeros(2, 3, 14, 28))
    with pytest.raises(ValueError, match="SSIM needs 11"):
        ssim(torch.zeros(1, 3, 10, 14), torch.zeros(1, 3, 10, 14))


def vgg16():
    """torchvision's VGG-16 layer by layer; torchvision itself need not be importable."""
    layers, channels = [], 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if width:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        else:
            layers.append(nn.MaxPool2d(2))
    return types.SimpleNamespace(features=nn.Sequential(*layers))


@pytest.fixture
def perceptual(tmp_path, monkeypatch):
    """A folder of both files, with random VGG and the authors' linear weights; and the authors' network on them."""
    torch.manual_seed(0)
    network = vgg16()
    torchvision = types.ModuleType("torchvision")
    torchvision.models = types.SimpleNamespace(vgg16=lambda pretrained: network)
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    import lpips

    authors = lpips.LPIPS(net="vgg", verbose=False)
    torch.save(
        {f"features.{name}": value for name, value in network.features.state_dict().items()}, tmp_path / VGG_FILE
    )
    linear = {name: value for name, value in authors.state_dict().items() if name.startswith("lin") and "." in name}
    torch.save({name: value for name, value in linear.items() if "lins" not in name}, tmp_path / LINEAR_FILE)
    return tmp_path, authors


def test_lpips_is_that_of_its_authors(room, perceptual):
    folder, authors = perceptual
    truth = room[0][:2]
    images = noisy(truth, 0.3)
    with torch.no_grad():
        expected = authors(images.clamp(0, 1), truth, normalize=True).flatten()
    found = LPIPS(folder)(images, truth)
    assert expected.min() > 1e-3 and found.tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_damaged_lpips_weights_are_named(tmp_path):
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / VGG_FILE)
    torch.save({}, tmp_path / LINEAR_FILE)
    with pytest.raises(ValueError, match=VGG_FILE):
        LPIPS(tmp_path)
    assert len(STAGES) == 5


def test_depth_errors_are_those_of_scikit_learn_where_the_truth_is_known(room):
    truth = room[1].clone()
    depth = truth * (0.5 + random(*truth.shape))
    truth[:, :5], truth[0, 6], truth[1, 7] = 0, torch.nan, torch.inf
    errors = depth_errors(depth, truth)
    for view in range(len(truth)):
        known = torch.isfinite(truth[view]) & (truth[view] > 0)
        d, t = depth[view][known].double(), truth[view][known].double()
        assert errors.abs_rel[view] == pytest.approx(sklearn.metrics.mean_absolute_percentage_error(t, d))
        assert errors.rmse[view] == pytest.approx(sklearn.metrics.root_mean_squared_error(t, d))
        expected = np.mean([max(a / b, b / a) < 1.25 for a, b in zip(d.tolist(), t.tolist(), strict=True)])
        assert errors.delta1[view] == pytest.approx(expected)


def test_the_median_scale_takes_away_a_wrong_unit_and_only_that(room):
    truth = room[1]
    assert median_scale(truth / 7, truth) == pytest.approx(7, rel=1e-5)
    assert depth_errors(truth / 7 * median_scale(truth / 7, truth), truth).abs_rel.max() < 1e-5
    assert depth_errors(truth / 7, truth).abs_rel.min() > 0.8


@pytest.fixture
def estimated(room):
    """Poses as an estimate gives them: off by some degrees and centimetres, in a unit and a frame of their own."""
    truth = room[2].c2w.double()
    rng = np.random.default_rng(0)
    poses = truth.clone()
    poses[:, :3, :3] @= torch.from_numpy(Rotation.from_rotvec(rng.normal(0, 0.1, (6, 3))).as_matrix())
    poses[:, :3, 3] += torch.from_numpy(rng.normal(0, 0.1, (6, 3)))
    turn = torch.from_numpy(Rotation.from_rotvec([0.4, -1, 2]).as_matrix())
    return Sim3(0.3, turn, torch.tensor([1.0, 2, 3]).double()).apply_to_poses(poses), truth


def test_ate_and_rpe_are_those_of_evo(estimated):
    found, truth = (PosePath3D(poses_se3=list(poses.numpy())) for poses in estimated)
    found.align(truth, correct_scale=True)
    errors = pose_errors(*estimated)
    for value, metric in (
        (errors.ate, evo_metrics.APE(evo_metrics.PoseRelation.translation_part)),
        (errors.rpe_rotation, evo_metrics.RPE(evo_metrics.PoseRelation.rotation_angle_deg)),
        (errors.rpe_translation, evo_metrics.RPE(evo_metrics.PoseRelation.translation_part)),
    ):
        metric.process_data((truth, found))
        assert value == pytest.approx(metric.get_statistic(evo_metrics.StatisticsType.rmse), rel=1e-6)
        assert value > 0.01


def test_auc_is_the_mean_of_the_smaller_share_over_thirty_thresholds(estimated):
    found, truth = (poses.numpy() for poses in estimated)
    turned, off = [], []
    for i in range(6):
        for j in range(i + 1, 6):
            a, b = (np.linalg.inv(poses[i]) @ poses[j] for poses in (found, truth))
            turned.append(np.degrees(Rotation.from_matrix(a[:3, :3].T @ b[:3, :3]).magnitude()))
            cosine = a[:3, 3] @ b[:3, 3] / np.linalg.norm(a[:3, 3]) / np.linalg.norm(b[:3, 3])
            off.append(np.degrees(np.arccos(cosine)))
    shares = [np.cumsum(np.histogram(errors, bins=np.arange(31))[0]) / len(errors) for errors in (turned, off)]
    assert pose_errors(*estimated).auc == pytest.approx(np.minimum(*shares).mean())
    assert 0.1 < np.minimum(*shares).mean() < 0.9


def test_poses_are_judged_without_their_unit_and_frame(estimated):
    _, truth = estimated
    moved = Sim3(5.0, truth[2, :3, :3], torch.tensor([3.0, 1, -4]).double()).apply_to_poses(truth)
    assert pose_errors(moved, truth) == pytest.approx((0, 0, 0, 1), abs=1e-5)


def test_going_the_opposite_way_is_not_going_the_same_way(room):
    truth = room[2].c2w.double()
    backwards = truth.clone()
    backwards[:, :3, 3] *= -1
    assert pose_errors(backwards, truth).auc < 0.1


def test_auc_counts_cameras_found_in_one_point_as_wrong():
    truth = torch.eye(4).repeat(3, 1, 1)
    truth[:, 0, 3] = torch.arange(3.0)
    assert pose_errors(torch.eye(4).repeat(3, 1, 1), truth).auc == 0


def test_wrong_cameras_go_as_far_the_other_way_and_leave_the_sources(room):
    cameras = room[2]
    wrong = benchmark.wrong_cameras(cameras, 2)
    wrong.check()
    assert torch.equal(wrong.c2w[:2], cameras.c2w[:2]) and torch.equal(wrong.K, cameras.K) and len(wrong) == 6
    first = torch.linalg.inv(cameras.c2w[0].double())
    motion, other = first @ cameras.c2w[2:].double(), first @ wrong.c2w[2:].double()
    assert torch.allclose(motion @ other, torch.eye(4).double().expand(4, 4, 4), atol=1e-5)
    assert torch.allclose(motion[:, :3, 3].norm(dim=1), other[:, :3, 3].norm(dim=1), atol=1e-5)


def test_the_nearest_source_is_near_in_place_and_direction(room):
    cameras = room[2]
    along = cameras[[0, 5, 1, 2, 3, 4]]
    assert benchmark.nearest_sources(along, 2).tolist() == [0, 0, 1, 1]
    turning = torch.eye(4).repeat(4, 1, 1)
    angles = torch.tensor([0.0, 1.0, 0.2, 0.9])
    turning[:, 0, 0] = turning[:, 2, 2] = angles.cos()
    turning[:, 0, 2], turning[:, 2, 0] = angles.sin(), -angles.sin()
    assert benchmark.nearest_sources(gld_core.Cameras(turning, cameras.K[:4], 42, 70), 2).tolist() == [0, 1]


def test_a_model_that_gives_the_truth_has_no_errors_whatever_it_makes_of_the_sources(random_models, monkeypatch):
    case = benchmark.render_case(5, [2, 7], None)
    gld = gld_core.load(random_models)
    spoiled, depth = case.images.clone(), case.depth.clone()
    spoiled[:2], depth[:2] = 0, 9
    exact = Geometry(depth, depth, None, None, case.cameras)
    monkeypatch.setattr(windows, "decode_rgb", lambda *args: (spoiled, []))
    monkeypatch.setattr(windows, "decode_geometry", lambda *args: exact)
    found = case.cameras.c2w.clone()
    found[:, :3, 3] += random(10, 3)
    estimate = gld_core.Cameras(found, case.cameras.K, 70, 126)
    monkeypatch.setattr(gld, "estimate_cameras", lambda images: estimate)
    rows, shown = benchmark.Evaluation(gld, False, 10, flow.Sampling(1), None).measure(case, lambda *step: None)
    row = rows["level 1"]
    assert row["psnr"] == np.inf and row["ssim"] == pytest.approx(1) and "lpips" not in row
    assert row["abs_rel"] == row["rmse_median"] == 0 and row["delta1"] == 1
    along = np.argsort(case.place)
    assert {name: row[name] for name in PoseErrors._fields} == pose_errors(
        found[along], case.cameras.c2w[along]
    )._asdict()
    copied = case.images[benchmark.nearest_sources(case.cameras, 2)]
    assert rows["nearest source"]["psnr"] == psnr(copied, case.images[2:]).mean().item() < 40
    assert all(len(pictures) == 10 for pictures in shown.values())
    spoiled[3] = torch.nan
    with pytest.raises(ValueError, match="pictures of room_000005 that are not finite"):
        benchmark.Evaluation(gld, False, 10, flow.Sampling(1), None).measure(case, lambda *step: None)


@pytest.fixture(scope="module")
def evaluated(random_models, tmp_path_factory):
    """Two rooms, with LPIPS weights missing: results.json, results.md, and the folder."""
    out = tmp_path_factory.mktemp("evaluated")
    where = ["--models", str(random_models), "--out", str(out), "--device", "cpu"]
    assert main(["eval", "--rooms", "2", "--first-seed", "40", *where, "--steps", "1", "--window", "10"]) == 0
    return (
        json.loads((out / "results.json").read_text(encoding="utf-8")),
        (out / "results.md").read_text(encoding="utf-8"),
        out,
    )


def test_rooms_are_measured_per_scene_and_in_the_mean(evaluated):
    results, text, out = evaluated
    assert list(results["scenes"]) == ["room_000040", "room_000041"] and results["planned"] == 2
    scenes = list(results["scenes"].values())
    assert scenes[0]["sources"] == [2, 7] and scenes[0]["targets"] == [0, 1, 3, 4, 5, 6, 8, 9]
    assert list(results["mean"]) == ROWS
    for row in ROWS:
        for column, value in results["mean"][row].items():
            assert value == pytest.approx(np.mean([scene["rows"][row][column] for scene in scenes]))
    assert set(results["mean"]["cascade"]) == set(report.COLUMNS) - {"lpips"}
    assert set(results["mean"]["nearest source"]) == {"psnr", "ssim"}
    row = scenes[1]["rows"]["cascade"]
    assert row["psnr"] != scenes[1]["rows"]["wrong cameras"]["psnr"]
    assert len(row["psnr_of_targets"]) == 8 and np.mean(row["psnr_of_targets"]) == pytest.approx(row["psnr"])
    for name in results["scenes"]:
        assert sorted(path.name for path in (out / name).iterdir()) == ["contact_sheet.png", "result.json"]


def test_the_table_has_the_numbers_and_says_what_was_not_measured(evaluated):
    results, text, _ = evaluated
    mean = next(line for line in text.splitlines() if line.startswith("| cascade ")).split("|")
    assert mean[2].strip() == f"{results['mean']['cascade']['psnr']:.2f}"
    assert "Mean of 2 scenes of 2" in text and "| room_000041: wrong cameras " in text
    assert f"lpips: not measured, without {VGG_FILE} and {LINEAR_FILE}" in text
    assert results["settings"]["depth"] == "exact" and results["settings"]["first_seed"] == 40


def test_folders_of_photographs_are_measured_without_level_0_and_with_lpips(random_models, perceptual, tmp_path):
    for seed in range(2):
        images, _, cameras = render_scene(seed, 4, 42, 70)
        write_scene(tmp_path / "scenes" / f"room {seed}", images, cameras)
    where = ["--models", str(random_models), "--out", str(tmp_path / "out"), "--device", "cpu"]
    options = ["--size", "70", "--steps", "1", "--no-cascade", "--num-sources", "1", "--lpips", str(perceptual[0])]
    assert main(["eval", str(tmp_path / "scenes"), *where, *options]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert list(results["scenes"]) == ["room 0", "room 1"] and list(results["mean"]) == ROWS[1:]
    assert results["scenes"]["room 0"]["sources"] == [0]
    assert set(results["mean"]["level 1"]) == set(report.COLUMNS)
    assert "backbone" in results["settings"]["depth"] and "abs_rel" not in results["mean"]["photographs"]


def test_what_is_not_finite_is_null_in_json(tmp_path):
    scene = {"rows": {"nearest source": {"psnr": float("inf"), "ssim": 1.0}}}
    report.write_results(tmp_path, {}, {"still": scene}, 1)
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["mean"]["nearest source"] == {
        "psnr": None,
        "ssim": 1.0,
    }
    assert "| nearest source |     inf | 1.000 |" in (tmp_path / "results.md").read_text(encoding="utf-8")


def test_an_interruption_keeps_the_scenes_that_were_done(random_models, tmp_path, monkeypatch, capsys):
    whole = benchmark.Evaluation.measure

    def measure(self, case, callback):
        if case.name == "room_000002":
            raise KeyboardInterrupt
        return whole(self, case, callback)

    monkeypatch.setattr(benchmark.Evaluation, "measure", measure)
    where = ["--models", str(random_models), "--out", str(tmp_path), "--device", "cpu", "--no-cascade"]
    assert main(["eval", "--rooms", "3", "--first-seed", "1", *where, "--steps", "1", "--window", "10"]) == 130
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert list(results["scenes"]) == ["room_000001"] and results["planned"] == 3
    assert "Mean of 1 scenes of 3" in (tmp_path / "results.md").read_text(encoding="utf-8")
    made = ["results.json", "results.jsonl", "results.md", "room_000001"]
    assert sorted(path.name for path in tmp_path.iterdir()) == made
    assert "evaluation: step 1 of 2" in capsys.readouterr().err
    # Started again, it measures what is missing, and the means are those of all.
    monkeypatch.setattr(benchmark.Evaluation, "measure", whole)
    before = (tmp_path / "room_000001" / "result.json").read_bytes()
    assert main(["eval", "--rooms", "3", "--first-seed", "1", *where, "--steps", "1", "--window", "10"]) == 0
    assert "1 of 3 scenes are finished already" in capsys.readouterr().err
    assert (tmp_path / "room_000001" / "result.json").read_bytes() == before
    again = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert list(again["scenes"]) == ["room_000001", "room_000002", "room_000003"]
    assert again["scenes"]["room_000001"] == results["scenes"]["room_000001"]
    assert main(["eval", "--rooms", "1", "--first-seed", "1", *where, "--steps", "2", "--window", "10"]) == 0
    assert "room_000001 is done anew: the settings were others" in capsys.readouterr().err


def test_rooms_are_rendered_in_the_size_that_is_asked_for():
    for size, expected in ((None, (70, 126)), (56, (28, 56))):
        job = measure.Measurement(room=1, size=size).settled(504, 49)
        assert measure.read(job).images.shape == (10, 3, *expected)


def test_a_scene_that_fails_is_recorded_and_stops_no_other(random_models, tmp_path, capsys):
    for seed in range(2):
        images, _, cameras = render_scene(seed, 3, 28, 42)
        write_scene(tmp_path / "scenes" / f"room {seed}", images, cameras)
    (tmp_path / "scenes" / "room 0" / "frame_00001.png").write_bytes(b"no picture")
    where = ["--models", str(random_models), "--out", str(tmp_path / "out"), "--device", "cpu", "--no-cascade"]
    assert main(["eval", str(tmp_path / "scenes"), *where, "--size", "42", "--steps", "1"]) == 1
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["scene"], line["state"]) for line in lines] == [("room 0", "failed"), ("room 1", "done")]
    assert "frame_00001.png" in lines[0]["text"] and lines[1]["psnr"] == lines[1]["rows"]["level 1"]["psnr"]
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert list(results["scenes"]) == ["room 1"] and results["failed"] == {"room 0": lines[0]["text"]}
    assert f"- room 0: {lines[0]['text']}" in (tmp_path / "out" / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "a folder of scenes, or --rooms"),
        (["scene", "--rooms", "1"], "a folder of scenes, or --rooms"),
        (["--rooms", "0"], "--rooms is 0"),
        (["--rooms", "1", "--sources", "2,10"], "no source view 10"),
        (["--rooms", "1", "--window", "4"], "window of 4 views"),
        (["--rooms", "1", "--lpips", "scene"], f"lacks {VGG_FILE}"),
        (["--rooms", "1", "--steps", "0"], "--steps is 0"),
        (["--rooms", "1", "--size", "100"], "--size is 100; give a multiple of 14"),
        (["--rooms", "1", "--cfg", "nan"], "--cfg is nan"),
        (["--rooms", "1", "--shift", "-1"], "--shift is -1"),
        (["--rooms", "1", "--seed", "-1"], "--seed is -1"),
        (["--rooms", "1", "--first-seed", "-5"], "--first-seed is -5"),
        (["nowhere"], "nowhere does not exist"),
        (["empty"], "hold no cameras that can be read"),
        (["scene"], "frame_00002 has a camera but no picture"),
    ],
)
def test_a_mistake_is_refused_before_a_network_is_looked_for(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    images, _, cameras = render_scene(0, 3, 28, 42)
    write_scene(tmp_path / "scene", images, cameras)
    (tmp_path / "scene" / "frame_00002.png").unlink()
    assert main(["eval", "--models", "missing", "--out", "out", "--size", "42", "--device", "cpu", *words]) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("error: ") and message in last and not (tmp_path / "out").exists()
