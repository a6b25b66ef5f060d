"""Every network on the meta device, whose tensors have no values, in the place of a GPU: two devices in one operation,
or waiting for a value, are errors.

It shows that a GPU is asked for all of the work at once, not that it does it right.
"""

import sys
from pathlib import Path

import pytest
import torch

import gld_core
from gld_core import Cameras, checkpoints, conditioning, flow
from gld_core.autoencoder import Views
from gld_core.networks import dpt

sys.path.insert(0, str(Path(__file__).parents[1]))
from simulated_card import SimulatedCard  # noqa: E402

V, N, H, W = 4, 2, 28, 42
PATCHES = (H // 14) * (W // 14)


def empty(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request):
    return request.param


@pytest.fixture(params=["da3", "vggt"])
def backbone(request):
    return request.param


@pytest.fixture
def models(shared, backbone):
    return shared / "golden" / f"tiny-{backbone}"


@pytest.fixture
def networks(models, backbone, dtype):
    loaders = checkpoints.autoencoder_networks(models, backbone, dtype=dtype)
    return {name: load(device="meta") for name, load in loaders.items()}


def test_a_backbone_stays_on_its_device(networks, dtype):
    network = networks["backbone"]
    with torch.inference_mode(), SimulatedCard():
        raw = network(empty(V, 3, H, W, dtype=dtype), 4)
        raw += network.propagate(raw[1], H // 14, W // 14)
    for level in raw:
        assert level.shape[:2] == (V, network.specials + PATCHES) and level.is_meta and level.dtype == dtype


def test_the_decoders_stay_on_their_device(networks, dtype):
    network, channels = networks["backbone"], networks["rgb_decoder"].decoder_embed.in_features // 4
    with torch.inference_mode(), SimulatedCard():
        raw = empty(V, network.specials + PATCHES, channels, dtype=dtype)
        ready = [network.decoder_ready(raw) for _ in range(4)]
        images = networks["rgb_decoder"](torch.cat(ready, dim=-1), H // 14, W // 14)
        maps = networks["gld_head"](ready, H, W)
    assert images.shape == (V, 3, H, W)
    assert all(value.is_meta and value.dtype == torch.float32 for value in (images, *maps.values()))


@pytest.fixture
def cameras(backbone):
    """cameras(level) -> the two guidance branches' conditioning."""
    c2w = torch.eye(4).repeat(V, 1, 1)
    c2w[:, 0, 3] = torch.arange(float(V))
    K = torch.tensor([[40.0, 0, W / 2], [0, 40, H / 2], [0, 0, 1]]).repeat(V, 1, 1)
    sources = torch.zeros(N, 1, 1, 1)
    views = Views(backbone, Cameras(c2w, K, H, W), sources, sources, None)
    return lambda level: [conditioning.conditions(views, level, conditional) for conditional in (False, True)]


@pytest.mark.parametrize("level", [1, 0])
@pytest.mark.parametrize("solver", [flow.RELEASED, flow.Solver(order=2, guidance=(0.0, 0.97), reuse_encoder_for=2)])
def test_sampling_waits_for_nothing_and_sends_nothing(models, backbone, dtype, cameras, level, solver):
    """All steps are asked of the device before it has done any of them."""
    path = checkpoints.find(models, backbone, f"level{level}")
    network = checkpoints.load_diffusion(path, backbone, level, device="meta", dtype=dtype)
    channels, specials = network.config.channels, network.config.specials
    grid = (specials + PATCHES, 1) if specials else (H // 14, W // 14)
    level1 = empty(1, channels, V, *grid) if level == 0 else None
    branches, noise = cameras(level), empty(1, channels, V, *grid)
    times = flow.time_grid(4, 2.0)
    with torch.inference_mode():
        prepared = [
            network.prepare(
                empty(1, channels, N, *grid), **{name: value.to("meta") for name, value in given.items()}, level1=level1
            )
            for given in branches
        ]
        velocity = flow.guided(network, *prepared, 1.5, solver)
        for t in times.tolist():
            with SimulatedCard(alone=True):
                v = velocity(noise, t)
    assert v.shape == noise.shape and v.is_meta and v.dtype == torch.float32


def test_cameras_and_geometry_leave_a_device_without_float64(models, backbone, dtype):
    """As on Apple's: float64 is for the CPU alone, so values go there first and are made double there."""
    images = torch.rand(V, 3, H, W)
    c2w = torch.eye(4).repeat(V, 1, 1)
    c2w[:, 0, 3] = torch.arange(float(V))
    K = torch.tensor([[40.0, 0, W / 2], [0, 40, H / 2], [0, 0, 1]]).repeat(V, 1, 1)
    cameras = Cameras(c2w, K, H, W)
    with torch.inference_mode(), SimulatedCard(wait=True):
        gld = gld_core.load(models, backbone, device="meta", dtype=dtype, keep=True)
        views = gld.encode_views(images[:N], cameras)
        latents = gld.sample_level1(views, steps=1), gld.cascade_level0(views, empty(*views.latent_shape), steps=1)
        assert gld.decode_rgb(views, *latents).is_meta
        geometry = gld.decode_geometry(views, *latents)
        assert geometry.depth.is_meta and len(gld.estimate_cameras(images)) == V
        assert len(geometry.align_to(cameras)[0].cameras) == V


def test_without_cameras_no_rays_are_computed(backbone, monkeypatch):
    c2w, K = torch.eye(4).repeat(V, 1, 1), torch.eye(3).repeat(V, 1, 1)
    sources = torch.zeros(N, 1, 1, 1)
    views = Views(backbone, Cameras(c2w, K, H, W), sources, sources, None)
    monkeypatch.setattr(conditioning, "pluecker_map", lambda given: pytest.fail("rays are computed to be set to 0"))
    given = conditioning.conditions(views, 1, conditional=False)["camera_map"]
    assert given.shape == (V, 7, H, W) and (given[:, 1:] == 0).all()
    assert (given[:N, 0] == 0).all() and (given[N:, 0] == 1).all()


def test_a_sinusoid_is_spread_on_the_device():
    """Not made in full size on the CPU: that took 0.2 s for each group of views."""
    with SimulatedCard() as card:
        dpt.uv_sinusoid(empty(V, 64, 200, 300), 1.5)
    assert card.largest_elsewhere <= 64 * 300
