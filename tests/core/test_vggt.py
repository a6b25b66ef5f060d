"""VGGT: every tensor of the reference bundle, proof that each rule is what makes it so, and no mixing with DA3."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F

import gld_core
from gld_core import checkpoints, conditioning, flow, pipeline
from gld_core.conditioning import scaled_w2c
from gld_core.networks import dit, vggt
from gld_core.networks.dpt import GeometryHead, ResidualConvUnit
from gld_core.networks.rgb_decoder import RGBDecoder
from gld_core.synthetic.random_models import write_random_models

SAMPLED = 3e-5


@pytest.fixture
def bundle(vggt_bundle):
    return vggt_bundle


@pytest.fixture(scope="module")
def da3_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_random_models(folder)
    return folder


# Every tensor of the bundle


def check_encoder(b):
    for level, raw in enumerate(b.gld.autoencoder.encode(b.images, 4)):
        b.equal(f"encoder.level{level}.raw", raw)
        if level == 1:
            b.equal("encoder.level1.packed", b.gld.autoencoder.to_latent(raw, 1, b.images))


def check_views(b):
    views = b.views()
    b.equal("dit.ref_cond1", F.pad(views.level1, (0, 0) * 3 + (0, len(b.cameras) - b.N)))
    b.equal("dit.ref_cond0", F.pad(views.level0, (0, 0) * 3 + (0, len(b.cameras) - b.N)))


def check_own_inference(b):
    out = b.gld.autoencoder.estimate(b.images)
    for name, value in {"depth": out.depth, "depth_conf": out.depth_conf}.items():
        b.equal(f"vggt.{name}", value)
    cameras = b.gld.estimate_cameras(b.images)
    b.equal("vggt.intrinsics", cameras.K)
    b.equal("vggt.w2c", cameras.w2c[:, :3])


@torch.inference_mode()
def check_pose_encoding(b):
    b.equal("vggt.pose_encoding", b.networks["camera_decoder"].encode(b["encoder.level3.raw"][:, 0]))


def check_camera_conditioning(b):
    b.equal("camera.embedding", conditioning.conditions(b.views(), 1, True)["camera_map"])
    b.equal("camera.viewmats", scaled_w2c(b.cameras))


@torch.inference_mode()
def check_velocity(b, level):
    name, network, views = ("cascade", "level1")[level], b.gld.diffusion[level], b.views()
    x, source, source_level1 = (
        latent.transpose(0, 1)[None]
        for latent in (b["dit.x"], (views.level0, views.level1)[level], b["dit.source_level1"])
    )
    given = {} if level else {"level1": source_level1}
    branches = [network.prepare(source, **conditioning.conditions(views, level, c), **given) for c in (False, True)]
    t = b["dit.t"][:1]
    b.equal(f"dit.{name}.velocity", network(x, t, **branches[1])[0].transpose(0, 1))
    b.equal(f"dit.{name}.velocity_cfg1.5", flow.guided(network, *branches, 1.5)(x, float(t))[0].transpose(0, 1))


def check_level1_velocity(b):
    check_velocity(b, 1)


def check_cascade_velocity(b):
    check_velocity(b, 0)


def check_time_grid(b):
    shift = flow.default_shift("vggt", b["dit.x"].shape[1], len(b.cameras))
    b.equal("sampler.t", flow.time_grid(b.steps, shift), 1e-7)


def check_propagation(b):
    levels, _ = b.gld.autoencoder.propagate(b.views(), b["pipeline.level1.packed"], b["pipeline.level0.packed"])
    for level in (1, 2, 3):
        b.equal(f"propagate.level{level}.patches", levels[level])


def check_decoders(b):
    latents = b.views(), b["pipeline.level1.packed"], b["pipeline.level0.packed"]
    b.equal("decode.rgb", b.gld.decode_rgb(*latents))
    out = b.gld.decode_geometry(*latents)
    b.equal("decode.depth", out.depth)
    b.equal("decode.depth_conf", out.depth_conf)


STAGES = [
    check_encoder,
    check_views,
    check_own_inference,
    check_pose_encoding,
    check_camera_conditioning,
    check_level1_velocity,
    check_cascade_velocity,
    check_time_grid,
    check_propagation,
    check_decoders,
]


@pytest.mark.parametrize("check", STAGES, ids=lambda check: check.__name__.removeprefix("check_"))
def test_stage_equals_the_released_program(bundle, check):
    check(bundle)


def test_the_whole_job_equals_the_released_program(bundle):
    views = bundle.views()
    level1 = bundle.gld.sample_level1(views, steps=bundle.steps, noise=bundle["pipeline.noise1"])
    level0 = bundle.gld.cascade_level0(views, level1, steps=bundle.steps, noise=bundle["pipeline.noise0"])
    bundle.equal("pipeline.level1.packed", level1, SAMPLED)
    bundle.equal("pipeline.level0.packed", level0, SAMPLED)
    bundle.equal("decode.rgb", bundle.gld.decode_rgb(views, level1, level0), SAMPLED)
    out = bundle.gld.decode_geometry(views, level1, level0)
    bundle.equal("decode.depth", out.depth, SAMPLED)
    bundle.equal("decode.depth_conf", out.depth_conf, SAMPLED)


def test_all_tensors_of_the_bundle_are_compared(bundle, monkeypatch):
    read = set()
    monkeypatch.setattr(type(bundle), "__getitem__", lambda self, name: read.add(name) or self.golden[name])
    for check in STAGES:
        check(bundle)
    test_the_whole_job_equals_the_released_program(bundle)
    assert bundle.golden.keys() - read <= {"in.images", "in.c2w", "in.intrinsics"}


# What the release lacks: cameras of what was generated


def test_latents_of_real_views_decode_to_the_backbones_own_depth_and_cameras(bundle):
    raw = bundle.gld.autoencoder.encode(bundle.images, 2)
    level0, level1 = (bundle.gld.autoencoder.to_latent(raw[level], level, bundle.images) for level in (0, 1))
    out = bundle.gld.decode_geometry(bundle.views(), level1, level0)
    bundle.equal("vggt.depth", out.depth, SAMPLED)
    bundle.equal("vggt.w2c", out.cameras.w2c[:, :3], SAMPLED)
    bundle.equal("vggt.intrinsics", out.cameras.K, SAMPLED)
    assert out.ray is None and out.ray_conf is None


def test_generated_geometry_is_aligned_to_the_given_cameras(bundle):
    latents = bundle["pipeline.level1.packed"], bundle["pipeline.level0.packed"]
    geometry = bundle.gld.decode_geometry(bundle.views(), *latents)
    aligned, scale = geometry.align_to(bundle.cameras)
    assert scale > 0
    torch.testing.assert_close(aligned.depth, geometry.depth * scale)
    centres = aligned.cameras.c2w[:, :3, 3]
    # Sim(3) brings the mean of the camera centres onto the given one, and the least squares not further apart.
    torch.testing.assert_close(centres.mean(0), bundle.cameras.c2w[:, :3, 3].mean(0), rtol=0, atol=1e-5)
    spread = (bundle.cameras.c2w[:, :3, 3] - bundle.cameras.c2w[:, :3, 3].mean(0)).norm()
    assert (centres - bundle.cameras.c2w[:, :3, 3]).norm() <= spread


def test_a_field_of_view_of_0_gives_finite_cameras_that_are_refused(bundle, monkeypatch):
    head = bundle.networks["camera_decoder"]
    encode = head.encode
    monkeypatch.setattr(head, "encode", lambda token: encode(token) * torch.tensor([1.0] * 7 + [0, 0]))
    cameras = bundle.gld.estimate_cameras(bundle.images)
    assert torch.isfinite(cameras.K).all() and torch.isfinite(cameras.c2w).all()
    with pytest.raises(ValueError, match="focal lengths .* which no lens has"):
        cameras.check()


def test_cameras_of_one_photograph(bundle):
    assert len(bundle.gld.estimate_cameras(bundle.images[:1])) == 1


# Each rule left out


def eps(kind, prefix, *names):
    """Give the LayerNorms of those names, below a prefix of a network, another epsilon."""

    def remove(patch, b):
        for name, module in b.networks[kind].named_modules():
            if name.startswith(prefix) and name.split(".")[-1] in names:
                patch.setattr(module, "eps", {1e-5: 1e-6, 1e-6: 1e-5}[module.eps])

    return remove


def weight(kind, name, change):
    """Change a parameter of a network."""

    def remove(patch, b):
        network = b.networks[kind] if isinstance(kind, str) else b.gld.diffusion[kind]
        parent, _, leaf = name.rpartition(".")
        module = network.get_submodule(parent)
        patch.setitem(module._parameters, leaf, torch.nn.Parameter(change(getattr(module, leaf)), requires_grad=False))

    return remove


def resize_without_antialias(patch, b):
    resize = F.interpolate
    patch.setattr(vggt.F, "interpolate", lambda x, **options: resize(x, **{**options, "antialias": False}))


def registers_with_a_position(patch, b):
    encoder = b.networks["backbone"].patch_embed
    moved = encoder.register_tokens + encoder.pos_embed[:, :1]
    patch.setitem(encoder._parameters, "register_tokens", torch.nn.Parameter(moved, requires_grad=False))


def positions(change):
    """Give the backbone's rotary embedding other positions, (L, 2)."""
    return lambda patch, b: patch.setattr(vggt, "Rope2D", lambda p, dim, rope=vggt.Rope2D: rope(change(p), dim))


def specials_projected(self, x, matrix, sin):
    out = prope(self, x, matrix, sin).unflatten(1, (self.views, -1))
    special, patches = out.tensor_split([self.specials], dim=2)
    projective, rotary = special.chunk(2, dim=-1)
    projective = (projective.unflatten(-1, (-1, 4)) @ matrix[:, :, None, :, None]).flatten(-2)
    return torch.cat([torch.cat([projective, rotary], dim=-1), patches], dim=2).flatten(1, 2)


prope = dit.PRoPE.apply


def specials_with_camera_embedding(patch, b):
    embedder, network = b.gld.diffusion[1].special_s_embedder, b.gld.diffusion[1]
    rays = conditioning.conditions(b.views(), 1, True)["camera_map"]
    mean = network.camera_embedder(rays).mean(dim=1)[None, :, None]
    forward = embedder.forward
    patch.setattr(embedder, "forward", lambda pair: forward(pair) + mean)


def cascade_specials_of_level1(patch, b):
    network = b.gld.diffusion[0]
    given, _ = network.tokens(b["dit.source_level1"].transpose(0, 1)[None])
    forward = network.special_s_embedder.forward
    patch.setattr(
        network.special_s_embedder,
        "forward",
        lambda pair: forward(torch.cat([pair.chunk(2, dim=-1)[0], given.expand(len(pair), -1, -1, -1)], dim=-1)),
    )


def specials_that_do_not_evolve(patch, b):
    backbone, blocks = b.networks["backbone"], b.networks["backbone"].global_blocks
    for block in blocks:
        forward = block.forward

        def keep(x, position, options, forward=forward):
            specials = torch.arange(x.shape[1]) % (x.shape[1] // len(b.images)) < backbone.specials
            return torch.where(specials[:, None], x, forward(x, position, options))

        patch.setattr(block, "forward", keep)


def source_specials_with_level1_statistics(patch, b):
    statistics = b.gld.autoencoder.statistics
    patch.setitem(statistics, "special0", statistics["special1"])


def specials_with_patch_statistics(patch, b):
    statistics = b.gld.autoencoder.statistics
    patch.setitem(statistics, "special1", statistics["normalization1"])


def true_intrinsics_without_cameras(patch, b):
    eye = torch.eye(3)
    normalize = conditioning.normalized_intrinsics
    patch.setattr(
        conditioning,
        "normalized_intrinsics",
        lambda K, *size: normalize(b.cameras.K if torch.equal(K[0], eye) else K, *size),
    )


def intrinsics_normalised_by_504(patch, b):
    normalize = conditioning.normalized_intrinsics
    patch.setattr(conditioning, "normalized_intrinsics", lambda K, *size: normalize(K, 504, 504))


def residual_as_it_came(patch, b):
    for module in b.networks["gld_head"].modules():
        if isinstance(module, ResidualConvUnit):
            patch.setattr(module, "inplace_relu", False)


QUIRKS = {
    "patch positions resized with antialias": (check_encoder, resize_without_antialias),
    "registers of the patch encoder without position": (check_encoder, registers_with_a_position),
    "epsilon 1e-6 in the patch encoder": (check_encoder, eps("backbone", "patch_embed.blocks.", "norm1", "norm2")),
    "epsilon 1e-6 in the patch encoder's last norm": (check_encoder, eps("backbone", "patch_embed.norm", "norm")),
    "epsilon 1e-5 in the frame blocks": (check_encoder, eps("backbone", "frame_blocks.", "norm1", "norm2")),
    "epsilon 1e-5 in the global blocks": (check_encoder, eps("backbone", "global_blocks.", "norm1", "norm2")),
    "epsilon 1e-5 on q and k": (check_encoder, eps("backbone", "", "q_norm", "k_norm")),
    "camera token of the first view": (
        check_encoder,
        weight("backbone", "camera_token", lambda token: token.flip(1)),
    ),
    "registers of the first view": (
        check_encoder,
        weight("backbone", "register_token", lambda token: token.flip(1)),
    ),
    "true positions over all views": (check_encoder, positions(lambda p: p.clamp(max=1) if len(p) > 40 else p)),
    "patches one step from the specials": (check_encoder, positions(lambda p: (p - 1).clamp(min=0))),
    "rows in the first half": (check_encoder, positions(lambda p: p.flip(-1))),
    "specials with statistics of their own": (check_views, specials_with_patch_statistics),
    "level-0 specials with level-0 statistics": (check_views, source_specials_with_level1_statistics),
    "specials without projection": (
        check_level1_velocity,
        lambda patch, b: patch.setattr(dit.PRoPE, "apply", specials_projected),
    ),
    "specials without camera embedding": (check_level1_velocity, specials_with_camera_embedding),
    "positions of the specials, condition": (
        check_level1_velocity,
        weight(1, "special_pos_embed_s", torch.zeros_like),
    ),
    "positions of the specials, velocity": (
        check_level1_velocity,
        weight(1, "special_pos_embed_x", torch.zeros_like),
    ),
    "a projection of the specials after the final layer": (
        check_level1_velocity,
        lambda patch, b: patch.setattr(b.gld.diffusion[1].special_output_proj, "forward", lambda x: x),
    ),
    "noisy level-0 specials in the cascade's condition": (check_cascade_velocity, cascade_specials_of_level1),
    "identity as pixel K without cameras": (check_level1_velocity, true_intrinsics_without_cameras),
    "K normalised by the image in the cascade": (check_cascade_velocity, intrinsics_normalised_by_504),
    "time shift for a grid of 37": (
        check_time_grid,
        lambda patch, b: patch.setitem(flow.SHIFT_GRID, "vggt", flow.SHIFT_GRID["da3"]),
    ),
    "propagation goes on with the global half": (
        check_propagation,
        lambda patch, b: patch.setattr(
            vggt.Backbone,
            "propagate",
            lambda self, raw, h, w, go=vggt.Backbone.propagate: go(self, raw.roll(raw.shape[-1] // 2, -1), h, w),
        ),
    ),
    "specials evolve in propagation": (check_propagation, specials_that_do_not_evolve),
    "residual units rectify in place": (check_decoders, residual_as_it_came),
    "epsilon 1e-5 on the camera head's tokens": (check_pose_encoding, eps("camera_decoder", "", "token_norm")),
    "four refinements": (check_pose_encoding, lambda patch, b: patch.setattr(vggt, "REFINEMENTS", 3)),
    "the empty pose first": (check_pose_encoding, weight("camera_decoder", "empty_pose_tokens", torch.zeros_like)),
    "encoded world-to-camera": (
        check_own_inference,
        lambda patch, b: patch.setattr(
            vggt, "decode_pose", lambda *a, decode=vggt.decode_pose: (decode(*a)[0].inverse(), decode(*a)[1])
        ),
    ),
}


@pytest.mark.parametrize("quirk", QUIRKS)
def test_without_the_rule_the_numbers_differ(bundle, monkeypatch, quirk):
    check, remove = QUIRKS[quirk]
    with torch.inference_mode():
        remove(monkeypatch, bundle)
    with pytest.raises(AssertionError, match="is off by"):
        check(bundle)


# Defaults and files


def test_99_evaluations_unless_said_otherwise(bundle):
    class Seen(Exception):
        pass

    def stop(step, steps, denoised):
        raise Seen(step, steps, denoised.shape)

    with pytest.raises(Seen) as seen:
        bundle.gld.sample_level1(bundle.views(), callback=stop)
    assert seen.value.args == (1, 99, bundle["dit.x"].shape)


def released(shared, file):
    manifest = json.loads((shared / "spec" / "manifest.json").read_text(encoding="utf-8"))
    return {name: torch.empty(shape, device="meta") for name, shape in manifest[file].items()}


def shapes(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("file", "prefix", "build"),
    [
        ("VGGT-1B/model.safetensors", "aggregator.", vggt.Backbone.from_tensors),
        ("VGGT-1B/model.safetensors", "camera_head.", vggt.CameraHead.from_tensors),
        ("VGGT-1B/model.safetensors", "depth_head.", GeometryHead.from_tensors),
        ("pretrained_models/vggt/mae_decoder.pt", "decoder.", RGBDecoder.from_tensors),
    ],
)
def test_networks_of_the_released_size(shared, file, prefix, build):
    tensors = checkpoints.without_prefix(released(shared, file), prefix)
    assert shapes(build(tensors, device="meta").state_dict()) == shapes(
        {name: tensor for name, tensor in tensors.items() if not name.endswith("mask_token")}
    )


@pytest.mark.parametrize(("name", "more", "depth"), [("level1", 0, 6), ("cascade", 0, 2), ("cascade", 4, 6)])
def test_diffusion_models_of_the_released_size_with_blocks_counted(shared, name, more, depth):
    tensors = released(shared, f"checkpoints/vggt_{name}.pt")
    for i in range(more):
        tensors |= {
            key.replace("blocks.29.", f"blocks.{30 + i}."): tensor
            for key, tensor in tensors.items()
            if key.startswith("blocks.29.")
        }
    tensors = dit.split_pair_embedders(tensors)
    network = dit.MultiViewDiT.from_tensors(tensors, device="meta")
    assert (network.config.encoder_depth, network.config.decoder_depth) == (28, depth)
    assert network.config.specials == 5
    assert shapes(network.state_dict()) == shapes(tensors)


def test_converted_files_give_the_same_views_without_the_unused_heads(shared, bundle, tmp_path):
    checkpoints.convert(shared / "golden" / "tiny-vggt", tmp_path, "vggt", torch.float32)
    names = checkpoints.open_tensors(tmp_path / "VGGT-1B" / "model.safetensors")
    assert {name.split(".")[0] for name in names} == {"aggregator", "camera_head", "depth_head"}
    gld = gld_core.load(tmp_path, backbone="vggt")
    views = gld.encode_views(bundle.images[: bundle.N], bundle.cameras)
    latents = bundle["pipeline.level1.packed"], bundle["pipeline.level0.packed"]
    assert torch.equal(gld.decode_rgb(views, *latents), bundle.gld.decode_rgb(bundle.views(), *latents))


# The families do not mix


@pytest.fixture(scope="module")
def da3(da3_models):
    return gld_core.load(da3_models)


@pytest.fixture
def vggt_models(shared, tmp_path):
    for path in (shared / "golden" / "tiny-vggt").rglob("*.*"):
        target = tmp_path / path.relative_to(shared / "golden" / "tiny-vggt")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    return tmp_path


def replace(target, content):
    target.unlink()
    if isinstance(content, dict):
        torch.save(content, target)
    else:
        shutil.copy(content, target)


def test_views_of_one_family_are_refused_by_the_other(bundle, da3):
    views = bundle.views()
    latent = bundle["pipeline.level1.packed"]
    for job in (
        lambda: da3.sample_level1(views),
        lambda: da3.cascade_level0(views, latent),
        lambda: da3.decode_rgb(views, latent, None),
        lambda: da3.decode_geometry(views, latent, None),
    ):
        with pytest.raises(ValueError, match="The views were encoded with vggt, not da3; use one backbone"):
            job()


def test_a_latent_of_one_family_is_refused_with_views_of_the_other(bundle, da3):
    views = da3.encode_views(bundle.images[: bundle.N], bundle.cameras)
    for gld, given, latent in (
        (da3, views, bundle["pipeline.level1.packed"]),
        (bundle.gld, bundle.views(), torch.zeros(views.latent_shape)),
    ):
        for job in (gld.cascade_level0, lambda *a, gld=gld: gld.decode_rgb(*a, None)):
            with pytest.raises(ValueError, match=r"The level-1 latent has shape .* another backbone"):
                job(given, latent)


def test_a_diffusion_model_of_one_family_is_refused_with_views_of_the_other(bundle, da3):
    for gld, network in ((da3, bundle.gld.diffusion[1]), (bundle.gld, da3.diffusion[1])):
        mixed = pipeline.GLD(gld.autoencoder, network, network)
        views = mixed.encode_views(bundle.images[: bundle.N], bundle.cameras)
        with pytest.raises(ValueError, match="special tokens per view, the views were encoded to .* one backbone"):
            mixed.sample_level1(views, steps=1)


@pytest.mark.parametrize(
    ("target", "source", "message"),
    [
        (
            "checkpoints/vggt_level1.pt",
            "checkpoints/da3_level1.pt",
            "vggt_level1.pt holds the DA3 level-1 diffusion model, where a VGGT diffusion model is meant",
        ),
        (
            "checkpoints/vggt_cascade.pt",
            "checkpoints/da3_cascade.pt",
            "vggt_cascade.pt holds the DA3 cascade, where a VGGT diffusion model is meant",
        ),
        (
            "VGGT-1B/model.safetensors",
            "pretrained_models/da3/model.safetensors",
            "model.safetensors holds DA3-Base, where VGGT-1B is meant",
        ),
    ],
)
def test_a_da3_file_in_the_place_of_vggts_is_named(vggt_models, da3_models, target, source, message):
    replace(vggt_models / target, da3_models / source)
    with pytest.raises(ValueError, match=message):
        gld_core.load(vggt_models, backbone="vggt")


def test_the_other_familys_rgb_decoder_is_named(vggt_models):
    path = vggt_models / "pretrained_models" / "vggt" / "mae_decoder.pt"
    tensors = checkpoints.open_tensors(path)
    tensors["decoder.decoder_embed.weight"] = tensors["decoder.decoder_embed.weight"][:, : 4 * 192].clone()
    replace(path, {"ema": tensors})
    with pytest.raises(ValueError, match=r"mae_decoder.pt is made for features of 192 channels, the backbone has 256"):
        gld_core.load(vggt_models, backbone="vggt")


def test_a_truncated_backbone_is_named_with_its_missing_tensor(vggt_models):
    path = vggt_models / "VGGT-1B" / "model.safetensors"
    tensors = {name: t for name, t in checkpoints.open_tensors(path).items() if ".frame_blocks.23." not in name}
    path.unlink()
    checkpoints.safetensors.torch.save_file(tensors, path)
    with pytest.raises(ValueError, match=r"model.safetensors lacks frame_blocks.23.norm1.weight"):
        gld_core.load(vggt_models, backbone="vggt")


def test_depth_conditioned_on_cameras_is_refused(bundle):
    with pytest.raises(ValueError, match="VGGT finds depth from images alone"):
        bundle.gld.autoencoder.estimate(bundle.images, bundle.cameras)
