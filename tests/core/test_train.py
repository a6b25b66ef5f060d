"""Training: resumed to the bit, written as the release is, and that it learns."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import gld_core
from gld_core import Cameras, checkpoints
from gld_core.autoencoder import Autoencoder, Views
from gld_core.conditioning import conditions
from gld_core.io.cameras import find_scenes
from gld_core.io.colmap import write_colmap
from gld_core.io.images import read_image, write_png
from gld_core.io.nerfstudio import write_transforms
from gld_core.io.posed_folders import write_scene
from gld_core.networks.dit import MultiViewDiT, PRoPE, merge_pair_embedders
from gld_core.pipeline import load_autoencoder
from gld_core.synthetic.rooms import write_room
from gld_core.training import loop, stages
from gld_core.training.data import Features, Generated, Photographs, Rooms
from gld_core.training.grow import Widening, widen_diffusion
from gld_core.training.objectives import DecoderObjective, FlowObjective, JoinObjective, latents

pytestmark = pytest.mark.slow

SMALL = loop.Settings(steps=4, batch=8, views=(3, 4), sources=(1, 2), lr=1e-3, warmup=2, ema=0.5)


class Pictures:
    """Scenes of noise, 28 x 42 and 42 x 28 in turn, seen by five cameras in a row."""

    def __len__(self):
        return 4

    def sizes(self):
        return [(28, 42), (42, 28)] * 2

    def read(self, index, views, rng):
        height, width = self.sizes()[index]
        chosen = rng.permutation(5)[:views].tolist()
        generator = torch.Generator().manual_seed(index)
        images = torch.rand(5, 3, height, width, generator=generator)
        depth = 1 + torch.rand(5, height, width, generator=generator)
        c2w = torch.eye(4).repeat(5, 1, 1)
        c2w[:, 0, 3] = torch.arange(5.0)
        K = torch.tensor([[40.0, 0, width / 2], [0, 40, height / 2], [0, 0, 1]]).repeat(5, 1, 1)
        return images[chosen], depth[chosen], Cameras(c2w, K, height, width)[chosen]

    def latents(self, indices):
        return None


def run(stage, out, settings=SMALL, data=None, **options):
    lines = []
    options = {"size": "small", "say": lines.append, "save_every": 2, "log_every": 1, **options}
    stages.train(stage, data or Pictures(), settings, out, **options)
    return lines


@pytest.fixture(scope="module")
def level1(random_models, tmp_path_factory):
    """A folder with a level-1 training of four steps."""
    out = tmp_path_factory.mktemp("level1")
    (out / "lines").write_text("\n".join(run("level1", out, models=random_models)), encoding="utf-8")
    return out


def same(first, second):
    """Equal to the bit, through dicts and lists."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)
    return first == second


def test_a_training_stopped_and_resumed_equals_the_uninterrupted_one(level1, random_models, tmp_path):
    class Stopped(Exception):
        pass

    def stop(line):
        if line.startswith("step 3"):
            raise Stopped

    with pytest.raises(Stopped):
        run("level1", tmp_path, models=random_models, say=stop)
    state = "training/level1.pt"
    assert torch.load(tmp_path / state)["step"] == 2
    run("level1", tmp_path, models=random_models)
    assert same(torch.load(tmp_path / state), torch.load(level1 / state))
    name = "checkpoints/da3_level1.pt"
    assert same(torch.load(tmp_path / name), torch.load(level1 / name))


def test_a_state_of_other_settings_is_refused(level1, random_models):
    with pytest.raises(ValueError, match="lr 0.001 and not 0.002"):
        run("level1", level1, replace(SMALL, lr=2e-3), models=random_models)


def test_a_finished_training_writes_its_result_again(level1, random_models):
    path = level1 / "checkpoints/da3_level1.pt"
    before = torch.load(path)
    path.unlink()
    run("level1", level1, models=random_models)
    assert same(torch.load(path), before)


@pytest.mark.parametrize("level", [1, 0])
def test_the_released_file_holds_the_average_under_released_names(level, random_models, tmp_path):
    stage, name = ("level1", "da3_level1") if level else ("cascade", "da3_cascade")
    start = random_models / f"checkpoints/{name}.pt"
    run(stage, tmp_path, replace(SMALL, steps=1, level1_noise=0.5), models=random_models, start=start)
    path = tmp_path / f"checkpoints/{name}.pt"
    written, released = torch.load(path)["ema"], torch.load(start)["ema"]
    assert {n: t.shape for n, t in written.items()} == {n: t.shape for n, t in released.items()}
    network = checkpoints.load_diffusion(path, "da3", level, dtype=torch.float32)
    average = torch.load(tmp_path / f"training/{stage}.pt")["ema"]
    assert average and all(
        torch.equal(network.get_parameter(n.removeprefix("network.")), t) for n, t in average.items()
    )
    # The learned frequencies are the only thing that stays.
    assert [n for n, t in written.items() if torch.equal(t, released[n].float())] == ["t_embedder.W"]


def test_merging_the_embedders_undoes_splitting_them(random_models):
    tensors = torch.load(random_models / "checkpoints/da3_level1.pt")["ema"]
    assert same(merge_pair_embedders(checkpoints.split_pair_embedders(tensors)), tensors)


def test_a_converted_file_in_the_way_is_named(random_models, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/da3_level1.safetensors").touch()
    with pytest.raises(ValueError, match="da3_level1.safetensors would be read in place"):
        run("level1", tmp_path, models=random_models)


def test_a_backbone_from_nothing_can_be_loaded_without_a_camera_encoder(tmp_path):
    run("backbone", tmp_path, replace(SMALL, steps=2))
    run("statistics", tmp_path, replace(SMALL, steps=2), models=tmp_path)
    autoencoder = load_autoencoder(tmp_path, "da3")
    images, _, cameras = Pictures().read(0, 4, np.random.default_rng(0))
    views = autoencoder.encode_views(images[:2], cameras)
    assert autoencoder.decode_rgb(views, torch.zeros(views.latent_shape), None).shape == (4, 3, 28, 42)
    assert autoencoder.estimate(images).depth.shape == (4, 28, 42)
    with pytest.raises(ValueError, match="no camera encoder"):
        autoencoder.estimate(images, cameras)


def test_statistics_make_the_features_of_their_data_unit_normal(random_models, tmp_path):
    settings = replace(SMALL, steps=3)
    run("statistics", tmp_path, settings, models=random_models)
    backbone = load_autoencoder(random_models, "da3").networks["backbone"]
    for level in (0, 1):
        stored = torch.load(tmp_path / f"model_stats/da3/normalization_stats_level{level}.pt")
        statistics = checkpoints.Statistics(stored["mean"].flatten(), stored["var"].flatten())
        latents = []
        for step in range(3):
            batch = loop.make_batch(Pictures(), settings, step)
            raw = backbone(batch.images.flatten(0, 1), 2, scenes=len(batch.images))[level]
            latents.append(statistics.normalize(raw[:, 1:]).flatten(0, 1))
        latent = torch.cat(latents)
        assert stored["count"] == len(latent)
        assert latent.mean(dim=0).abs().max() < 1e-4
        assert (latent.var(dim=0, correction=0) - 1).abs().max() < 1e-2


def test_the_flow_is_learned_on_the_features_of_all_views_given_the_sources_alone(random_models):
    autoencoder = load_autoencoder(random_models, "da3")
    images, _, _ = Pictures().read(0, 4, np.random.default_rng(0))
    together = latents(autoencoder, torch.stack([images, images.flip(0)]))
    for level in (0, 1):
        for scene, pictures in enumerate((images, images.flip(0))):
            expected = Autoencoder.to_latent(autoencoder, autoencoder.encode(pictures, 2)[level], level, pictures)
            torch.testing.assert_close(together[level][scene], expected, rtol=1e-4, atol=1e-4)


def test_autocast_leaves_the_cameras_in_float32():
    matrices = torch.randn(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    qkv = torch.randn(1, 12, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    position = PRoPE(matrices, 2, 3, 0, 16)
    expected = position.encode(qkv)
    with torch.autocast("cpu", torch.bfloat16):
        for found, meant in zip(position.encode(qkv), expected, strict=True):
            assert torch.equal(found, meant)


def test_stage_one_learns_pictures_against_an_adversary_and_resumes_to_the_bit(random_models, tmp_path):
    """Of twenty steps the adversary learns from the second on and counts from the third."""
    settings = replace(SMALL, steps=20, batch=4, views=(4,), lr=2e-3)
    first, second = tmp_path / "first", tmp_path / "second"
    options = {"models": random_models, "geometry": True}
    lines = run("decoder", first, settings, **options)
    assert any("vgg16" in line and "left out" in line for line in lines)
    steps = [line for line in lines if line.startswith("step")]
    assert "adversary" not in steps[1] and "adversary" in steps[2]
    assert "fooling" not in steps[2] and "fooling" in steps[3]
    l1 = [float(line.split("l1 ")[1].split()[0]) for line in steps]
    assert np.mean(l1[-4:]) < 0.95 * np.mean(l1[:4])

    class Stopped(Exception):
        pass

    def stop(line):
        if line.startswith("step 13"):
            raise Stopped

    with pytest.raises(Stopped):
        run("decoder", second, settings, say=stop, **options)
    run("decoder", second, settings, **options)
    for name in ("pretrained_models/mae_decoder.pt", "pretrained_models/da3/dpt_decoder.pt"):
        assert same(torch.load(first / name), torch.load(second / name))


def test_the_adversary_weighs_as_much_as_the_release_gives_it(random_models):
    loaders = checkpoints.autoencoder_networks(random_models, "da3", dtype=torch.float32)
    networks = {name: loaders[name]() for name in ("backbone", "gld_head", "rgb_decoder")}
    objective = DecoderObjective(networks, steps=1)
    batch = loop.make_batch(Pictures(), replace(SMALL, batch=4, views=(4,)), 5)
    images = networks["rgb_decoder"](torch.randn(4, 6, 1024), *(side // 14 for side in batch.images.shape[-2:]))
    truth = batch.images[0]
    rest = (images - truth).abs().mean()
    losses = objective.adversary(batch, images, truth, rest)
    last = networks["rgb_decoder"].decoder_pred.weight
    pulls = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (rest, losses["fooling"])]
    torch.testing.assert_close(pulls[1] / pulls[0], torch.tensor(0.75), rtol=0.01, atol=0)
    assert not any(p.grad is not None for p in objective.parameters())


@pytest.mark.parametrize("family", ["da3", "vggt"])
@pytest.mark.parametrize("level", [1, 0])
def test_training_goes_on_from_a_released_file(shared, tmp_path, family, level):
    """Steps on one scene lower its loss, and what is written loads as the average."""
    models = shared / "golden" / f"tiny-{family}"
    stage = "level1" if level else "cascade"
    settings = replace(SMALL, steps=6, batch=8, views=(4,), lr=1e-3, final_lr=None, ema=0.0)
    lines = run(
        stage,
        tmp_path,
        settings,
        OneScene(),
        models=models,
        backbone=family,
        start=checkpoints.find(models, family, f"level{level}"),
    )
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines if "loss " in line]
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
    network = checkpoints.load_diffusion(
        checkpoints.find(tmp_path, family, f"level{level}"), family, level, dtype=torch.float32
    )
    average = torch.load(tmp_path / f"training/{stage}.pt")["ema"]
    assert all(torch.equal(network.get_parameter(n.removeprefix("network.")), t) for n, t in average.items())


def test_a_vggt_diffusion_model_starts_from_nothing(shared, tmp_path):
    run("cascade", tmp_path, replace(SMALL, steps=1), models=shared / "golden" / "tiny-vggt", backbone="vggt")
    path = tmp_path / "checkpoints/vggt_cascade.pt"
    assert checkpoints.load_diffusion(path, "vggt", 0, dtype=torch.float32).config.specials == 5


def test_vggt_encodes_scenes_side_by_side_as_each_alone(vggt_bundle):
    backbone, images = vggt_bundle.networks["backbone"], vggt_bundle.images[:4]
    together = backbone(torch.cat([images[:2], images[2:]]), scenes=2)
    for level, raw in enumerate(together):
        for scene in (0, 1):
            alone = backbone(images[2 * scene : 2 * scene + 2])[level]
            torch.testing.assert_close(raw[2 * scene : 2 * scene + 2], alone, rtol=1e-4, atol=1e-4)


def test_special_tokens_have_their_own_statistics(shared, tmp_path):
    run("statistics", tmp_path, replace(SMALL, steps=2), models=shared / "golden" / "tiny-vggt", backbone="vggt")
    names = sorted(path.name for path in (tmp_path / "model_stats/vggt").iterdir())
    assert names == [f"{kind}_stats_level{level}.pt" for kind in ("normalization", "special") for level in (0, 1)]
    counts = [torch.load(tmp_path / "model_stats/vggt" / name)["count"] for name in names]
    assert counts[2] * 6 == counts[0] * 5


class OneScene(Pictures):
    def __len__(self):
        return 1

    def sizes(self):
        return [(28, 42)]


def write_pictures(folder, count=9):
    images, _, cameras = Pictures().read(0, 5, np.random.default_rng(0))
    pick = [i % 5 for i in range(count)]
    c2w = torch.eye(4).repeat(count, 1, 1)
    c2w[:, 0, 3] = torch.arange(float(count))
    cameras = Cameras(c2w, cameras.K[:1].expand(count, 3, 3), 28, 42)
    names = [f"frame_{i:02}" for i in range(count)]
    return images[pick], cameras, names


def test_scenes_of_every_format_are_read_and_bad_frames_counted(tmp_path):
    images, cameras, names = write_pictures(tmp_path)
    write_scene(tmp_path / "posed", images, cameras, names)
    far = cameras.c2w.clone()
    far[3, 0, 3] = 500.0
    write_scene(tmp_path / "far", images, Cameras(far, cameras.K, 28, 42), names)
    np.savez(tmp_path / "far/frame_05.npz", pose=np.full((4, 4), np.nan), intrinsic=cameras.K[0].numpy())
    for name, image in zip(names, images, strict=True):
        write_png(tmp_path / f"nerf/images/{name}.png", image)
        write_png(tmp_path / f"colmap/images/{name}.png", image)
        write_png(tmp_path / f"video/{name[-2:]}.png", image)
    write_transforms(
        tmp_path / "nerf/transforms.json", cameras, [{"file_path": f"images/{name}.png"} for name in names]
    )
    write_colmap(
        tmp_path / "colmap/sparse/0", cameras, [f"{n}.png" for n in names], torch.zeros(0, 3), torch.zeros(0, 3)
    )
    share = [cameras.K[0, 0, 0] / 42, cameras.K[0, 1, 1] / 28, 0.5, 0.5, 0, 0]
    lines = [" ".join(str(float(v)) for v in [*share, *pose[:3].flatten()]) for pose in cameras.w2c]
    (tmp_path / "video.txt").write_text(
        "https://example.org\n" + "\n".join(f"{i:02} {line}" for i, line in enumerate(lines)), encoding="utf-8"
    )
    (tmp_path / "empty").mkdir()

    scenes = find_scenes(tmp_path)
    assert [path.name for path in scenes] == ["colmap", "far", "nerf", "posed", "video.txt"]
    data = Photographs(scenes, long_side=42, least=4)
    assert data.skipped == {"frames": 2, "scenes": 0}
    assert data.sizes() == [(28, 42)] * 5
    for index, kept in enumerate((9, 7, 9, 9, 9)):
        assert len(data.scenes[index][1]) == kept
        read, depth, chosen = data.read(index, 3, np.random.default_rng(1))
        assert depth is None and read.shape == (3, 3, 28, 42)
        for image, centre in zip(read, chosen.c2w[:, 0, 3], strict=True):
            torch.testing.assert_close(image, images[round(float(centre))], rtol=0, atol=0.003)
        torch.testing.assert_close(chosen.K, cameras.K[:3], rtol=1e-4, atol=1e-3)


def test_batches_are_of_one_size_and_the_same_with_workers():
    settings = replace(SMALL, steps=6)
    data = Pictures()
    batches = [loop.make_batch(data, settings, step) for step in range(6)]
    assert {batch.images.shape[-2:] for batch in batches} == {(28, 42), (42, 28)}
    loader = torch.utils.data.DataLoader(
        loop.Steps(data, settings, 0, 1), batch_size=None, sampler=range(2, 6), num_workers=2
    )
    for batch, expected in zip(loader, batches[2:], strict=True):
        assert torch.equal(batch.images, expected.images) and batch.seeds == expected.seeds


def test_two_processes_give_the_curve_and_weights_of_one(level1, random_models, tmp_path):
    script = tmp_path / "two.py"
    script.write_text(
        "import sys; sys.path[:0] = sys.argv[3:]\n"
        "from pathlib import Path\n"
        "from torch import distributed\n"
        "from test_train import run\n"
        "distributed.init_process_group('gloo')\n"
        "lines = run('level1', Path(sys.argv[1]), models=Path(sys.argv[2]))\n"
        "if distributed.get_rank() == 0: (Path(sys.argv[1]) / 'lines').write_text('\\n'.join(lines))\n"
        "distributed.destroy_process_group()\n",
        encoding="utf-8",
    )
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    subprocess.run([*command, str(tmp_path), str(random_models), *paths], check=True, timeout=900)
    # Rounding may turn where a weight that hardly has a gradient goes; Adam makes every step of one size.
    one, two = (torch.load(folder / "training/level1.pt")["ema"] for folder in (level1, tmp_path))
    for name, value in one.items():
        assert (two[name] - value).norm() <= 1e-3 * (value.norm() + 1e-3), name
    start = "step 4 of 4: loss "
    one, two = (
        float(
            next(line for line in (folder / "lines").read_text(encoding="utf-8").splitlines() if start in line).split()[
                5
            ]
        )
        for folder in (level1, tmp_path)
    )
    assert one == pytest.approx(two, rel=1e-3)


def test_logs_stand_beside_the_state(random_models, tmp_path):
    board = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for stage in ("level1", "cascade", "decoder"):
        settings = replace(SMALL, steps=2, views=(4,))
        run(stage, tmp_path, settings, models=random_models, sheet_every=2)
        folder = tmp_path / "training" / stage
        assert read_image(folder / "step_0000002.png").shape[0] == 3
        events = board.EventAccumulator(str(folder))
        events.Reload()
        assert [event.step for event in events.Scalars("loss")] == [1, 2]


def test_a_step_without_a_finite_gradient_changes_nothing(tmp_path):
    class Slope(stages.Objective):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, batch):
            return (self.weight * (float("nan") if batch.seed == 1 else 1.0)).sum(), {}

    weights, lines = [], []
    loop.fit(
        Slope(), Pictures(), replace(SMALL, final_lr=None, ema=0.0), tmp_path / "state.pt",
        lambda ema: weights.append(float(ema["weight"])), lines.append, save_every=1,
    )  # fmt: skip
    assert weights[0] == weights[1] < 0 and weights[3] < weights[2] < weights[1]
    assert "step 2 is left out: its gradient is not finite." in lines


def test_a_small_model_is_finished_on_the_features_it_makes(tmp_path):
    rooms = tmp_path / "rooms"
    for seed in (0, 1):
        write_room((rooms, seed))
    data, small = Rooms(rooms, (0, 1)), replace(SMALL, steps=1, batch=6, views=(6,))
    for stage in ("backbone", "statistics", "level1", "cascade", "latents"):
        run(stage, tmp_path, small, data, models=tmp_path)
    before = written(tmp_path)
    run("finish", tmp_path, small, data, models=tmp_path, geometry=True)
    after = written(tmp_path)
    changed = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"gld_head", "rgb_decoder", "camera_decoder"}
    gld = gld_core.load(tmp_path)
    room = data.rooms[0]
    views = gld.encode_views(room.images[:2].float() / 255, room.cameras)
    geometry = gld.decode_geometry(views, torch.zeros(views.latent_shape), None)
    assert not geometry.ray[..., 3:].any()
    assert geometry.align_to(room.cameras)[1] == 1
    assert not gld.estimate_cameras(room.images.float() / 255).c2w[:, :3, 3].any()

    run("join", tmp_path, small, data, models=tmp_path)
    joined = written(tmp_path)
    assert {name.split(".")[0] for name in after if not torch.equal(joined[name], after[name])} == {"rgb_decoder"}
    assert float(joined["rgb_decoder.join_limit"]) == pytest.approx(0.08)
    loaders = checkpoints.autoencoder_networks(tmp_path, "da3", dtype=torch.float32)
    networks = {name: loaders[name](device="cpu") for name in ("backbone", "camera_decoder", "gld_head", "rgb_decoder")}
    objective = JoinObjective(networks, gld.autoencoder.statistics, 0.0, 0.0)
    batch = loop.make_batch(Generated(data, tmp_path / stages.LATENTS), small, 0)
    (given,) = batch.latents.given
    ready, _ = objective.features(batch, "made", batch.generators())
    target, made = objective.target(batch, ready), networks["rgb_decoder"](torch.cat(ready, dim=-1), 5, 9)
    torch.testing.assert_close(target[:given], batch.images[0, :given])
    torch.testing.assert_close(target[given:], made[given:])


def written(folder):
    """Weights of the frozen networks in a folder."""
    networks = load_autoencoder(folder, "da3").networks
    names = ("backbone", "camera_decoder", "gld_head", "rgb_decoder")
    return {f"{name}.{key}": value for name in names for key, value in networks[name].state_dict().items()}


def test_kept_features_train_as_those_made_on_the_way(random_models, tmp_path):
    """To half precision; the pictures are of 8 bits."""
    settings = replace(SMALL, steps=2, views=(4,), batch=4)
    run("features", tmp_path, settings, models=random_models)
    kept = Features(tmp_path / stages.FEATURES)
    assert len(kept) == 8 and {size[2] for size in kept.sizes()} == {4}
    autoencoder = load_autoencoder(random_models, "da3")
    network = checkpoints.load_diffusion(random_models / "checkpoints/da3_level1.pt", "da3", 1, dtype=torch.float32)
    batch = loop.make_batch(kept, settings, 0)
    assert batch.latents is not None and batch.latents.sources[0].shape[1] == batch.sources
    objective = FlowObjective(autoencoder, network, 1)
    loss, _ = objective(batch)
    expected, _ = objective(replace(batch, latents=None))
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)
    with pytest.raises(ValueError, match="give --views 4"):
        run("level1", tmp_path, replace(settings, views=(3,)), kept, models=random_models)
    run("level1", tmp_path, settings, kept, models=random_models)


def test_the_decoder_of_vggt_trains_on_true_and_on_noisy_features(shared, tmp_path):
    models = shared / "golden" / "tiny-vggt"
    for noise in (0.0, 0.5):
        out = tmp_path / str(noise)
        settings = replace(SMALL, steps=12, batch=8, views=(4,), lr=2e-3, feature_noise=noise)
        lines = run("decoder", out, settings, OneScene(), models=models, backbone="vggt")
        l1 = [float(line.split("l1 ")[1].split()[0]) for line in lines if "l1 " in line]
        assert np.mean(l1[-3:]) < 0.95 * np.mean(l1[:3])
        before = checkpoints.open_tensors(checkpoints.find(models, "vggt", "rgb"))
        after = checkpoints.open_tensors(out / "pretrained_models/vggt/mae_decoder.pt")
        assert {name: value.shape for name, value in after.items()} == {n: v.shape for n, v in before.items()}
    with pytest.raises(ValueError, match="leave out --geometry"):
        run("decoder", tmp_path, SMALL, OneScene(), models=models, backbone="vggt", geometry=True)


@pytest.fixture(scope="module")
def grown(random_models, tmp_path_factory):
    """Rooms, and the random model widened on them."""
    folder = tmp_path_factory.mktemp("grown")
    for seed in (0, 1):
        write_room((folder / "rooms", seed))
    data = Rooms(folder / "rooms", (0, 1))
    run("grow", folder, replace(SMALL, steps=8, batch=8, views=(4,)), data, models=random_models)
    run("statistics", folder, replace(SMALL, steps=4, batch=8, views=(4,)), data, models=folder)
    return data, folder


def test_a_widened_model_keeps_what_it_has_learned(random_models, grown):
    data, folder = grown
    images = data.rooms[0].images[:4].float() / 255
    old, new = (load_autoencoder(models, "da3").networks["backbone"] for models in (random_models, folder))
    with torch.inference_mode():
        for before, after in zip(old(images), new(images), strict=True):
            # Layer norms do not see the mean over channels, and the widened backbone leaves it out.
            local, current = (half - half.mean(dim=-1, keepdim=True) for half in before.chunk(2, dim=-1))
            for expected, found in ((local, after[..., :128]), (current, after[..., 256:384])):
                assert (found - expected).norm() < 0.02 * expected.norm()


def test_a_widened_models_features_carry_pixels_before_any_training(random_models, grown):
    data, folder = grown
    autoencoder = load_autoencoder(folder, "da3")
    images = data.rooms[1].images[:4].float() / 255
    views = autoencoder.encode_views(images[:2], data.rooms[1].cameras[:4])
    level0, level1 = (
        autoencoder.to_latent(raw, level, images) for level, raw in enumerate(autoencoder.encode(images, 2))
    )
    made = autoencoder.decode_rgb(views, level1, level0)
    assert -10 * (made - images).square().mean().log10() > 30


@pytest.mark.parametrize("level", [1, 0])
def test_a_widened_diffusion_model_gives_the_old_velocity(random_models, level):
    """Where the new channels are silent. The heads get twice as large, so that all frequencies stay."""
    old = torch.load(random_models / f"checkpoints/da3_{'level1' if level else 'cascade'}.pt")["ema"]
    wide = widen_diffusion(old, 128, 256, (256, 512), Widening(0))
    index = torch.cat([torch.arange(128), 256 + torch.arange(128)])
    generator = torch.Generator().manual_seed(0)
    source, x, known = (torch.randn(1, 256, views, 2, 3, generator=generator) for views in (1, 3, 3))
    cameras = Pictures().read(0, 3, np.random.default_rng(0))[2]
    velocities = []
    for tensors, place in ((old, lambda value: value), (wide, lambda value: spread(value, index))):
        network = MultiViewDiT.from_tensors(checkpoints.split_pair_embedders(tensors), dtype=torch.float32)
        network.load_state_dict({n: t.float() for n, t in checkpoints.split_pair_embedders(tensors).items()})
        views = Views("da3", cameras, source[0].transpose(0, 1), source[0].transpose(0, 1), None)
        given = None if level else place(known)
        with torch.inference_mode():
            prepared = network.prepare(place(source), **conditions(views, level, True), level1=given)
            velocities.append(network(place(x), torch.tensor([0.8]), **prepared))
    assert (velocities[1][:, index] - velocities[0]).norm() < 0.05 * velocities[0].norm()


def spread(value, index):
    """Channels at `index` of twice as many."""
    out = value.new_zeros(value.shape[0], 512, *value.shape[2:])
    out[:, index] = value
    return out
