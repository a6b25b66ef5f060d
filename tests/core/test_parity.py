"""DA3: every tensor of the reference bundle, and proof that each quirk of the specification is what makes it so."""

import pytest
import torch
import torch.nn.functional as F

import gld_core
from gld_core import autoencoder, conditioning, flow
from gld_core.export import gltf
from gld_core.geometry import alignment, depth_maps, points
from gld_core.networks import da3

SAMPLED = 3e-5


@pytest.fixture
def bundle(da3_bundle):
    return da3_bundle


def latent(x):
    """(V, C, h, w) as the networks take it."""
    return x.transpose(0, 1)[None]


def check_encoder(b):
    for level, raw in enumerate(b.gld.autoencoder.encode(b.images, 4)):
        b.equal(f"encoder.level{level}.raw", raw)
        if level == 1:
            b.equal("encoder.level1.latent", b.gld.autoencoder.to_latent(raw, 1, b.images))


def check_square_grid(b):
    square = F.interpolate(b.images[:2], size=(518, 518), mode="nearest")
    b.equal("encoder.square37.level1.raw_every37", b.gld.autoencoder.encode(square, 2)[1][:, ::37])


def check_views(b):
    views = b.views()
    b.equal("dit.ref_cond1", F.pad(views.level1, (0, 0) * 3 + (0, len(b.cameras) - b.N)))
    b.equal("dit.ref_cond0", F.pad(views.level0, (0, 0) * 3 + (0, len(b.cameras) - b.N)))


def check_source_tokens(b):
    alone = [
        b.gld.autoencoder.normalize(b.gld.autoencoder.encode(image[None], 2)[1], 1)[:, 0] for image in b.images[: b.N]
    ]
    b.equal("encoder.level1.cls_single_view", torch.cat(alone))
    torch.testing.assert_close(b.views().token, b["encoder.level1.cls_single_view"][0], rtol=0, atol=1e-4)


def check_own_inference(b):
    for S in range(2, len(b.images) + 1):
        if f"da3.unposed{S}.depth" in b.golden:
            out = b.gld.autoencoder.estimate(b.images[:S])
            b.equal(f"da3.unposed{S}.depth", out.depth)
            b.equal(f"da3.unposed{S}.depth_conf", out.depth_conf)
            b.equal(f"da3.unposed{S}.intrinsics", out.cameras.K)
            b.equal(f"da3.unposed{S}.w2c", out.cameras.w2c[:, :3])


def check_own_inference_with_cameras(b):
    out = b.gld.autoencoder.estimate(b.images, b.cameras)
    b.equal("da3.posed.depth", out.depth)
    b.equal("da3.posed.intrinsics", out.cameras.K)
    b.equal("da3.posed.w2c", out.cameras.w2c[:, :3])


def check_camera_conditioning(b):
    b.equal("camera.embedding", conditioning.camera_map(b.cameras, b.N))
    b.equal("camera.scale", conditioning.translation_scale(b.cameras.c2w)[None])
    b.equal("camera.viewmats", conditioning.scaled_w2c(b.cameras))


@torch.inference_mode()
def check_velocity(b, level):
    name, network, views = ("cascade", "level1")[level], b.gld.diffusion[level], b.views()
    source = latent((views.level0, views.level1)[level])
    level1 = None if level else latent(b["dit.source_level1"])
    branches = [
        network.prepare(source, **conditioning.conditions(views, level, conditional), level1=level1)
        for conditional in (False, True)
    ]
    x, t = latent(b["dit.x"]), b["dit.t"][:1]
    b.equal(f"dit.{name}.velocity", network(x, t, **branches[1])[0].transpose(0, 1))
    b.equal(f"dit.{name}.velocity_cfg1.5", flow.guided(network, *branches, 1.5)(x, float(t))[0].transpose(0, 1))


def check_level1_velocity(b):
    check_velocity(b, 1)


def check_cascade_velocity(b):
    check_velocity(b, 0)


def check_time_grid(b):
    shift = flow.default_shift("da3", b.gld.autoencoder.channels, len(b.cameras))
    b.equal("sampler.t", flow.time_grid(b.steps, shift), 1e-7)


def check_sampling(b):
    views, steps = b.views(), b.steps
    level1 = b.gld.sample_level1(views, steps=steps, noise=b["pipeline.noise1"])
    b.equal("pipeline.level1.latent", level1, SAMPLED)
    level0 = b.gld.cascade_level0(views, level1, steps=steps, noise=b["pipeline.noise0"])
    b.equal("pipeline.level0.latent", level0, SAMPLED)
    return views, level1, level0


def check_propagation(b):
    levels, _ = b.gld.autoencoder.propagate(b.views(), b["pipeline.level1.latent"], b["pipeline.level0.latent"])
    for level, features in enumerate(levels):
        b.equal(f"decode.in.level{level}", features)
        if level:
            b.equal(f"propagate.level{level}.patches", features)


def check_decoders(b):
    levels = [b[f"decode.in.level{level}"] for level in range(4)]
    with torch.inference_mode():
        rgb = b.gld.autoencoder.networks["rgb_decoder"](torch.cat(levels, dim=-1), b.H // 14, b.W // 14)
        maps = b.gld.autoencoder.maps("gld_head", levels, b.H, b.W)
    b.equal("decode.rgb_fp32", rgb)
    b.equal("decode.rgb_bf16_autocast", rgb, 3e-3)
    for name, value in maps.items():
        b.equal(f"decode.{name}", value)


def check_cameras_from_rays(b):
    for prefix, ray, conf in (
        ("decode.recovered_", "decode.ray", "decode.ray_conf"),
        ("rays.", "rays.ray", "rays.conf"),
    ):
        c2w, K = alignment.cameras_from_rays(b[ray], b[conf], b.H, b.W)
        b.equal(f"{prefix}c2w", c2w)
        b.equal(f"{prefix}K", K)


def check_sim3(b):
    sim3 = alignment.umeyama(b["sim3.pred_c2w"][:, :3, 3], b["in.c2w"][:, :3, 3])
    b.equal("sim3.scale", torch.tensor([sim3.scale]))
    b.equal("sim3.aligned_c2w", sim3.apply_to_poses(b["sim3.pred_c2w"]))


def check_points(b):
    threshold = depth_maps.confidence_threshold(b["points.conf"], 1.05, 40, 90)
    b.equal("points.conf_threshold", torch.tensor([threshold], dtype=torch.float64))
    xyz, rgb = points.point_cloud(b["points.depth"], b["points.conf"], b.images, b.cameras.K, b.cameras.c2w, threshold)
    b.equal("points.xyz", xyz)
    assert torch.equal(rgb, b["points.rgb"])
    b.equal("points.gltf_transform", gltf.gltf_transform(xyz, b.cameras.w2c[0]))


STAGES = [
    check_encoder,
    check_square_grid,
    check_views,
    check_source_tokens,
    check_own_inference,
    check_own_inference_with_cameras,
    check_camera_conditioning,
    check_level1_velocity,
    check_cascade_velocity,
    check_time_grid,
    check_propagation,
    check_decoders,
    check_cameras_from_rays,
    check_sim3,
    check_points,
]


@pytest.mark.parametrize("check", STAGES, ids=lambda check: check.__name__.removeprefix("check_"))
def test_stage_equals_the_released_program(bundle, check):
    check(bundle)


def test_the_whole_job_equals_the_released_program(bundle):
    views, level1, level0 = check_sampling(bundle)
    bundle.equal("decode.rgb_fp32", bundle.gld.decode_rgb(views, level1, level0), SAMPLED)
    out = bundle.gld.decode_geometry(views, level1, level0)
    for name in ("depth", "depth_conf", "ray", "ray_conf"):
        bundle.equal(f"decode.{name}", getattr(out, name), SAMPLED)
    bundle.equal("decode.recovered_c2w", out.cameras.c2w, SAMPLED)
    bundle.equal("decode.recovered_K", out.cameras.K[0], SAMPLED)
    bundle.equal("decode.recovered_K", bundle.gld.decode_geometry(views, level1, level0).cameras.K[1], SAMPLED)


def position_table_by_output_size(self, h, w):
    table = self.pos_embed.float()
    grid = table[:, 1:].unflatten(1, (37, 37)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(h, w), mode="bicubic")
    return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def projection_with_inverted_intrinsics(w2c, K):
    lifted = torch.eye(4, dtype=torch.float64).repeat(len(K), 1, 1)
    lifted[:, :3, :3] = K
    P = lifted @ w2c.double()
    return torch.stack([P.transpose(1, 2), torch.linalg.inv(P), P], dim=1).float()


def normalized_by_true_size(normalize, height, width):
    return lambda K, *size: normalize(K, height, width)


def pixel_centre_map(cameras_, sources):
    moved = cameras_.K.clone()
    moved[:, 0, 2] -= 1.0
    return conditioning.camera_map(gld_core.Cameras(cameras_.c2w, moved, cameras_.height, cameras_.width), sources)


def true_intrinsics_without_cameras(views, level, conditional):
    c = views.cameras
    identity = torch.eye(4, dtype=torch.float64).expand(len(c), 4, 4)
    out = pipeline_conditions(views, level, conditional)
    if not conditional:
        K = conditioning.normalized_intrinsics(c.K, c.height, c.width)
        out["matrices"] = conditioning.projection_matrices(identity, K)
    return out


def identity_intrinsics_without_cameras(views, level, conditional):
    out = pipeline_conditions(views, level, conditional)
    if not conditional:
        identity = torch.eye(4, dtype=torch.float64).expand(len(views.cameras), 4, 4)
        K = conditioning.normalized_intrinsics(torch.eye(3).expand(len(views.cameras), 3, 3), 504, 504)
        out["matrices"] = conditioning.projection_matrices(identity, K)
    return out


pipeline_conditions = conditioning.conditions


QUIRKS = {
    "position table resized by scale factors with 0.1 added": (
        check_encoder,
        lambda patch, b: patch.setattr(da3.Backbone, "position_embedding", position_table_by_output_size),
    ),
    "global attention with one position for all patches": (
        check_encoder,
        lambda patch, b: patch.setattr(da3.torch, "ones_like", lambda positions: positions),
    ),
    "reference view chosen before block 3": (
        check_own_inference,
        lambda patch, b: patch.setattr(da3, "reference_view", lambda tokens: torch.tensor(0)),
    ),
    "PRoPE with K itself for keys and values": (
        check_level1_velocity,
        lambda patch, b: patch.setattr(
            conditioning, "projection_matrices", projection_with_inverted_intrinsics),
    ),
    "cascade normalises K by 504": (
        check_cascade_velocity,
        lambda patch, b: patch.setattr(
            conditioning, "normalized_intrinsics", normalized_by_true_size(conditioning.normalized_intrinsics, b.H, b.W)
        ),
    ),
    "level 1 without cameras has the identity as pixel K": (
        check_level1_velocity,
        lambda patch, b: patch.setattr(conditioning, "conditions", true_intrinsics_without_cameras),
    ),
    "cascade without cameras keeps K": (
        check_cascade_velocity,
        lambda patch, b: patch.setattr(conditioning, "conditions", identity_intrinsics_without_cameras),
    ),
    "rays half a pixel left and half a pixel down": (
        lambda b: b.equal("camera.embedding", pixel_centre_map(b.cameras, b.N)),
        lambda patch, b: None,
    ),
    "time shift for a grid of 18": (
        check_time_grid,
        lambda patch, b: patch.setattr(flow, "SHIFT_GRID", {"da3": 37}),
    ),
    "time grid ends above 0": (
        check_time_grid,
        lambda patch, b: patch.setattr(flow, "LAST_NOISE", 1.0),
    ),
    "token 0 of the first source alone for all views": (
        check_propagation,
        lambda patch, b: patch.setattr(
            autoencoder.Autoencoder,
            "encode",
            lambda self, images, levels, run=autoencoder.Autoencoder.encode: run(self, b.images, levels),
        ),
    ),
    "camera tokens overwritten before block 4": (
        check_encoder,
        lambda patch, b: patch.setattr(b.gld.autoencoder.networks["backbone"], "camera_token", torch.nn.Parameter(
            b.gld.autoencoder.networks["backbone"].camera_token.flip(1), requires_grad=False
        )),
    ),
}  # fmt: skip


@pytest.mark.parametrize("quirk", QUIRKS)
def test_without_the_quirk_the_numbers_differ(bundle, monkeypatch, quirk):
    check, remove = QUIRKS[quirk]
    remove(monkeypatch, bundle)
    with pytest.raises(AssertionError, match="is off by"):
        check(bundle)
