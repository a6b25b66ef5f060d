"""The public surface: any number of views, any size, every type, and every condition a user can set has an effect."""

import sys
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import gld_core
from gld_core import checkpoints
from gld_core.conditioning import camera_map, conditions
from gld_core.networks.rgb_decoder import join_patches
from gld_core.synthetic.render import render_scene

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
import straightforward  # noqa: E402

FROZEN = Path(__file__).parent / "data" / "frozen.safetensors"


def run(gld, V=3, N=1, height=42, width=56, steps=2, change=lambda cameras: cameras, **settings):
    """Views and both latents of a rendered room."""
    images, _, cameras = render_scene(3, V, height, width)
    views = gld.encode_views(images[:N], change(cameras))
    level1 = gld.sample_level1(views, steps=steps, **settings)
    return views, level1, gld.cascade_level0(views, level1, steps=steps, **settings)


@pytest.fixture(scope="module")
def gld(random_models):
    return gld_core.load(random_models, keep=True)


@pytest.mark.parametrize("V, N, height, width", [(2, 1, 14, 14), (3, 2, 70, 42), (5, 4, 28, 98), (9, 1, 28, 28)])
def test_any_views_and_any_size_have_the_documented_shapes(gld, V, N, height, width):
    views, level1, level0 = run(gld, V, N, height, width, steps=1)
    assert level1.shape == level0.shape == (V, 256, height // 14, width // 14)
    assert gld.decode_rgb(views, level1, level0).shape == (V, 3, height, width)
    geometry = gld.decode_geometry(views, level1, level0)
    assert geometry.depth.shape == geometry.depth_conf.shape == (V, height, width)
    assert geometry.ray.shape == (V, height // 14 * 8, width // 14 * 8, 6)
    assert len(geometry.cameras) == V


def test_one_stage_is_in_memory_at_a_time_and_gives_the_same(random_models):
    lean, whole = gld_core.load(random_models), gld_core.load(random_models, keep=True)
    views = run(lean)[0]
    alive = [weakref.ref(lean.network(1)), weakref.ref(lean.network(0))]
    views, level1, level0 = run(lean)
    backbone = weakref.ref(lean.autoencoder.network("backbone"))
    assert [reference() for reference in alive] == [None, None]
    assert torch.equal(lean.sample_level1(views, steps=2), level1)
    assert backbone() is None
    for ours, kept in zip((level1, level0), run(whole)[1:], strict=True):
        assert torch.equal(ours, kept)
    assert torch.equal(lean.decode_rgb(views, level1, level0), whole.decode_rgb(views, level1, level0))
    ours, kept = (gld.decode_geometry(views, level1, level0).depth for gld in (lean, whole))
    assert torch.equal(ours, kept)


def test_a_stage_that_goes_on_reads_no_file_again(random_models, monkeypatch):
    gld = gld_core.load(random_models)
    views, level1, _ = run(gld)
    opened = []
    read_file = checkpoints.read_file
    monkeypatch.setattr(
        checkpoints, "read_file", lambda path, *args: opened.append(path.stem) or read_file(path, *args)
    )
    for _ in range(2):
        gld.sample_level1(views, steps=1)
    assert opened == ["da3_level1"]
    for _ in range(2):
        gld.decode_rgb(views, level1, None)
    assert sorted(opened[1:]) == ["mae_decoder", "model"]


def test_settings_are_refused_before_a_file_is_read(random_models, monkeypatch):
    gld = gld_core.load(random_models)
    views, level1, _ = run(gld)
    gld.decode_rgb(views, level1, None)
    monkeypatch.setattr(checkpoints, "read_file", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(ValueError, match="steps is 0"):
        gld.sample_level1(views, steps=0)


def test_weights_that_were_read_while_sampling_may_be_changed(random_models):
    gld = gld_core.load(random_models, dtype=torch.bfloat16)
    run(gld)
    weight = gld.network(0).blocks[0].attn.qkv.weight
    assert not weight.is_inference()


@pytest.mark.parametrize("dtype, limit", [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_half_precision_stays_near_float32(random_models, gld, dtype, limit):
    half = gld_core.load(random_models, dtype=dtype)
    views, level1, level0 = run(gld)
    half_views, half1, half0 = run(half)
    for ours, reference in (
        (half1, level1),
        (half0, level0),
        (half.decode_rgb(half_views, level1, level0), gld.decode_rgb(views, level1, level0)),
        (half.decode_geometry(half_views, level1, level0).depth, gld.decode_geometry(views, level1, level0).depth),
    ):
        assert ours.dtype == torch.float32
        assert (ours - reference).norm() / reference.norm() < limit


def test_network_equals_its_formulas_as_written(random_models, gld):
    views, level1, _ = run(gld, 3, 2)
    x = torch.randn(views.latent_shape, generator=torch.Generator().manual_seed(1))
    for level, file in ((1, "da3_level1"), (0, "da3_cascade")):
        weights = torch.load(random_models / f"checkpoints/{file}.pt", weights_only=True)["ema"]
        weights = {name: value.float() for name, value in weights.items()}
        source, given = (views.level0, views.level1)[level], None if level else level1
        cameras = conditions(views, level, True)
        with torch.inference_mode():
            prepared = gld.diffusion[level].prepare(
                source.transpose(0, 1)[None], **cameras, level1=None if level else level1.transpose(0, 1)[None]
            )
            ours = gld.diffusion[level](x.transpose(0, 1)[None], torch.tensor([0.4]), **prepared)[0].transpose(0, 1)
        w2c = gld_core.conditioning.scaled_w2c(views.cameras).float()
        size = (42, 56) if level else (504, 504)
        K = gld_core.conditioning.normalized_intrinsics(views.cameras.K, *size).float()
        rays = camera_map(views.cameras, 2)
        written = straightforward.velocity(weights, x, 0.4, source, rays, w2c, K, given)
        assert (ours - written).norm() / written.norm() < 3e-6


def moved(cameras):
    c2w = cameras.c2w.clone()
    c2w[-2, 0, 3] += 0.3
    return gld_core.Cameras(c2w, cameras.K, cameras.height, cameras.width)


def zoomed(cameras):
    K = cameras.K.clone()
    K[-1, :2, :2] *= 1.2
    return gld_core.Cameras(cameras.c2w, K, cameras.height, cameras.width)


@pytest.mark.parametrize(
    "setting",
    [{"change": moved}, {"change": zoomed}, {"seed": 1}, {"cfg": 1.0}, {"shift": 2.0}, {"steps": 3}, {"N": 2}],
    ids=lambda setting: next(iter(setting)),
)
def test_every_condition_changes_the_result(gld, setting):
    for plain, changed in zip(run(gld)[1:], run(gld, **setting)[1:], strict=True):
        assert (plain - changed).norm() / plain.norm() > 1e-4


def test_one_seed_gives_the_same_result_again_and_each_level_its_own_noise(gld):
    noises = []
    views, level1, _ = run(gld)
    assert torch.equal(level1, run(gld)[1])
    # In the first evaluation the estimate of the data is noise - velocity, so a run of one step shows its noise.
    for level in (1, 0):
        seen = gld.diffusion[level].register_forward_pre_hook(lambda _, args: noises.append(args[0][0]))
        gld.sample_level1(views, steps=1) if level else gld.cascade_level0(views, level1, steps=1)
        seen.remove()
    assert not torch.allclose(*noises)


def test_guidance_of_one_does_without_the_unconditional_branch(gld):
    views, _, _ = run(gld)
    batches = []
    seen = gld.diffusion[1].register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    gld.sample_level1(views, steps=1)
    gld.sample_level1(views, steps=1, cfg=1.0)
    seen.remove()
    assert batches == [2, 1]


def test_callback_sees_every_evaluation_and_can_cancel(gld):
    views, level1, _ = run(gld)
    calls = []
    gld.sample_level1(
        views, steps=3, callback=lambda step, steps, denoised: calls.append((step, steps, denoised.shape))
    )
    assert calls == [(step, 3, level1.shape) for step in (1, 2, 3)]

    def cancel(step, steps, denoised):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gld.sample_level1(views, callback=cancel)


def test_without_level_0_zeros_take_its_place(gld):
    views, level1, level0 = run(gld)
    levels, _ = gld.autoencoder.propagate(views, level1, None)
    assert not levels[0].any()
    assert not torch.equal(gld.decode_rgb(views, level1, None), gld.decode_rgb(views, level1, level0))
    assert torch.isfinite(gld.decode_geometry(views, level1, None).depth).all()


def test_patches_are_joined_and_edges_stay():
    limit = torch.tensor([0.05])
    tiles = 0.5 + 0.02 * torch.rand(1, 3, 3, 4, generator=torch.Generator().manual_seed(0))
    tiles = tiles.repeat_interleave(14, dim=2).repeat_interleave(14, dim=3)
    joined = join_patches(tiles, limit, 14)
    for dim in (2, 3):
        assert joined.diff(dim=dim).abs().max() < 0.35 * tiles.diff(dim=dim).abs().max()
    slope = torch.linspace(0, 1, 56).expand(1, 3, 42, 56)
    torch.testing.assert_close(join_patches(slope, limit, 14), slope)
    edge = (torch.arange(56) >= 28).float().expand(1, 3, 42, 56)
    assert join_patches(edge, limit, 14)[..., 27:29].diff(dim=3).min() > 0.99
    alone = torch.rand(1, 3, 14, 14)
    assert torch.equal(join_patches(alone, limit, 14), alone)


def test_cameras_of_one_photograph_are_estimated(gld):
    images, _, _ = render_scene(0, 1, 42, 56)
    cameras = gld.estimate_cameras(images)
    cameras.check()
    assert len(cameras) == 1


def test_attention_goes_through_one_function_that_can_be_replaced(gld):
    shapes = []
    block = gld.diffusion[1].blocks[0].attn
    original = block.attention
    block.attention = lambda q, k, v, options: shapes.append(q.shape) or original(q, k, v, options)
    run(gld, 3, 1)
    block.attention = original
    assert shapes[0] == (2, 16, 3 * 3 * 4, 8)


def damaged(cameras, change):
    c2w, K = cameras.c2w.clone(), cameras.K.clone()
    change(c2w, K)
    return gld_core.Cameras(c2w, K, cameras.height, cameras.width)


BAD_INPUT = {
    "a size the patches do not divide": (lambda i, c: (i[:1, :, :40], c), "multiples of 14"),
    "images of another size than the cameras": (lambda i, c: (i[:1, :, :28], c), "fit images and cameras together"),
    "no target": (lambda i, c: (i, c), "at least one target"),
    "no source": (lambda i, c: (i[:0], c), "N at least 1"),
    "8-bit values": (lambda i, c: (i[:1] * 255, c), "divide 8-bit images by 255"),
    "not a number in an image": (lambda i, c: (i[:1] * float("nan"), c), "outside [0, 1]"),
    "channels last": (lambda i, c: (i[:1].permute(0, 2, 3, 1), c), "(N, 3, H, W)"),
    "a camera that is not finite": (
        lambda i, c: (i[:1], damaged(c, lambda c2w, K: c2w[1, 0].fill_(float("nan")))),
        "pose of view 1 is not finite",
    ),
    "a mirrored camera": (lambda i, c: (i[:1], damaged(c, lambda c2w, K: c2w[2, :3, 0].neg_())), "view 2 is mirrored"),
    "a scaled rotation": (lambda i, c: (i[:1], damaged(c, lambda c2w, K: c2w[1, :3, :3].mul_(2))), "not orthonormal"),
    "K of another image size": (
        lambda i, c: (i[:1], damaged(c, lambda c2w, K: K[:, :2].mul_(4))),
        "another image size",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_INPUT)
def test_bad_input_is_one_sentence_before_work_starts(gld, what, monkeypatch):
    spoil, words = BAD_INPUT[what]
    images, _, cameras = render_scene(3, 3, 42, 56)
    monkeypatch.setattr(gld.autoencoder, "encode", lambda *_: pytest.fail("work was started"))
    with pytest.raises(ValueError) as error:
        gld.encode_views(*spoil(images, cameras))
    assert words in str(error.value)


def test_a_latent_of_other_views_is_refused(gld):
    views, level1, level0 = run(gld)
    other = run(gld, V=4)[1]
    for call in (gld.decode_rgb, gld.decode_geometry):
        with pytest.raises(ValueError, match="level-1 latent has shape"):
            call(views, other, level0)
    with pytest.raises(ValueError, match="level-1 latent has shape"):
        gld.cascade_level0(views, other)
    with pytest.raises(ValueError, match="noise has shape"):
        gld.sample_level1(views, noise=other)


def test_numbers_stay_what_they_were_when_parity_was_shown(gld):
    """For a clone without the reference tensors: outputs of this code, frozen while it matched them."""
    views, level1, level0 = run(gld, 3, 2)
    geometry = gld.decode_geometry(views, level1, level0)
    images, _, _ = render_scene(3, 3, 42, 56)
    values = {
        "source1": views.level1,
        "token": views.token,
        "level1": level1,
        "level0": level0,
        "rgb": gld.decode_rgb(views, level1, level0),
        "depth": geometry.depth,
        "ray": geometry.ray,
        "estimated_c2w": gld.estimate_cameras(images).c2w,
    }
    frozen = load_file(FROZEN)
    assert values.keys() == frozen.keys()
    for name, value in values.items():
        assert (value - frozen[name]).norm() / frozen[name].norm() < 1e-4, name
