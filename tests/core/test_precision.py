"""bfloat16 and float8 weights against float32, layer by layer: how far the features drift in a diffusion model.

A narrow network with the released number of blocks (28 + 6): drift adds up over depth, not over width. What has to be
computed in float32 inside is held to its formula's error on the same input: that of rounding its result once.
"""

import math
import sys
from pathlib import Path

import pytest
import torch

from gld_core import flow
from gld_core.autoencoder import Views
from gld_core.cameras import Cameras
from gld_core.conditioning import conditions
from gld_core.networks import dit, layers
from gld_core.networks.dit import MultiViewDiT, split_pair_embedders
from gld_core.synthetic.random_models import dit_shapes, random_weights

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
import straightforward  # noqa: E402

V, N, C, h, w, T = 4, 2, 64, 3, 4, 0.7


@pytest.fixture(scope="module")
def weights():
    shapes = dit_shapes(C, (128, 256), (28, 6), cascade=False)
    tensors = split_pair_embedders(random_weights(shapes, torch.Generator().manual_seed(0)))
    return {name: value.float() for name, value in tensors.items()}


def build(weights, dtype, rounded=None):
    """The network in a type; weights first rounded to another, if given."""
    network = MultiViewDiT.from_tensors(weights, dtype=dtype, device="meta")
    own = {}
    for name, like in network.state_dict().items():
        # As a host does it: matrices alone.
        matrix = rounded is not None and like.ndim == 2 and name.startswith("blocks.")
        own[name] = (weights[name].to(rounded) if matrix else weights[name]).to(like.dtype)
    network.load_state_dict(own, assign=True)
    return network


def evaluate(network):
    """The velocity of one guided evaluation, and the cameras of its two branches."""
    generator = torch.Generator().manual_seed(1)
    features, x = torch.randn(N, C, h, w, generator=generator), torch.randn(1, C, V, h, w, generator=generator)
    c2w = torch.eye(4).repeat(V, 1, 1)
    c2w[:, 0, 3] = torch.arange(V) / 3
    K = torch.tensor([[60.0, 0, 28], [0, 60, 21], [0, 0, 1]]).repeat(V, 1, 1)
    views = Views("da3", Cameras(c2w, K, h * 14, w * 14), features, features, torch.zeros(C))
    cameras = [conditions(views, 1, conditional) for conditional in (False, True)]
    with torch.inference_mode():
        branches = [network.prepare(features.transpose(0, 1)[None], **camera) for camera in cameras]
        return flow.guided(network, *branches, 1.5)(x, T), cameras


def run(weights, dtype, rounded=None):
    """Output of every block and the velocity."""
    network, states = build(weights, dtype, rounded), []
    for block in network.blocks:
        block.register_forward_hook(lambda block, given, out: states.append(out.float()))
    velocity, _ = evaluate(network)
    return [*states, velocity]


@pytest.fixture(scope="module")
def meant(weights):
    return run(weights, torch.float32)


def drift(states, meant):
    return torch.tensor([((a - b).norm() / b.norm()).item() for a, b in zip(states, meant, strict=True)])


@pytest.mark.parametrize("length", [1, 128, 300])
def test_attention_in_bfloat16_is_that_of_float32_up_to_its_digits(length):
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(2, length, 3, 32, generator=generator).transpose(1, 2) for _ in range(3))
    weights = (q.double() @ k.double().transpose(-1, -2) / 32**0.5).softmax(dim=-1)
    with torch.inference_mode():
        found = layers.attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), None)
    assert found.dtype == torch.bfloat16
    meant = weights @ v.double()
    assert ((found - meant).norm() / meant.norm()).item() < 0.01


@pytest.mark.parametrize(
    "dtype, rounded, first, last",
    [
        (torch.bfloat16, None, 0.006, 0.025),
        (torch.float16, None, 0.0008, 0.003),
        (torch.float32, torch.float8_e4m3fn, 0.008, 0.06),
        (torch.bfloat16, torch.float8_e4m3fn, 0.01, 0.065),
    ],
    ids=["bfloat16", "float16", "float8 weights", "float8 weights in bfloat16"],
)
def test_drift_from_float32_is_bounded_in_every_block(weights, meant, dtype, rounded, first, last):
    """The bound grows evenly from the first block's to the velocity's; measured is half of it or more."""
    errors = drift(run(weights, dtype, rounded), meant)
    assert (errors < torch.linspace(first, last, len(errors))).all(), f"drift {errors.tolist()}"


# What is float32 inside


def roundings(weights, monkeypatch):
    """How much further from its formula than one rounding to bfloat16 every part is that computes in float32 inside."""
    network, parts = build(weights, torch.bfloat16), {}

    def note(part, found, exact):
        once = (exact.to(found.dtype).double() - exact).norm().item()
        # A part that stays in float32 has its digits left.
        error = (found.double() - exact).norm().item() / max(once, 1e-6 * exact.norm().item())
        parts[part] = max(parts.get(part, 0), error)

    def normalised(name):
        def hook(norm, given, out):
            note(name, out, straightforward.rms_norm(given[0].double(), norm.weight.double()))

        return hook

    norms = {name: part for name, part in network.named_modules() if "norm" in name.split(".")[-1]}
    for name, norm in norms.items():
        norm.register_forward_hook(normalised(name))
    recorded = []
    for way in ("encode", "decode"):
        method = getattr(dit.PRoPE, way)
        monkeypatch.setattr(
            dit.PRoPE,
            way,
            lambda position, x, way=way, method=method: (
                recorded.append((way, x, method(position, x))) or recorded[-1][2]
            ),
        )
    angles = 2 * math.pi * T * weights["t_embedder.W"].double()
    meant = torch.cat([angles.sin(), angles.cos()])
    network.t_embedder.mlp.register_forward_pre_hook(lambda mlp, given: note("time", given[0][0], meant))
    rays = []
    network.camera_embedder.register_forward_hook(lambda part, given, out: rays.append(out))
    _, cameras = evaluate(network)

    kernel, bias = (weights[f"camera_embedder.proj.{name}"].double() for name in ("weight", "bias"))
    for found, camera in zip(rays, cameras, strict=True):
        exact = torch.nn.functional.conv2d(camera["camera_map"].double(), kernel, bias, stride=14)
        note("cameras", found, exact.flatten(2).transpose(1, 2))
    for i, (way, x, out) in enumerate(recorded):
        for branch, camera in enumerate(cameras):
            matrices = camera["matrices"].double().unbind(1)
            if way == "encode":
                given, found = (z[branch].permute(1, 2, 0, 3) for z in (x, torch.stack(out, dim=2)))
                use, inverse = (matrices[0], matrices[1], matrices[1]), False
            else:
                given, found = (z[branch].permute(1, 0, 2)[None] for z in (x, out))
                use, inverse = (matrices[2],), True
            exact = [straightforward.prope(z.double(), m, h, w, inverse) for z, m in zip(given, use, strict=True)]
            note(f"PRoPE {way} {i // 2}", found, torch.stack(exact))
    return parts


def rounded_norm(patch):
    def forward(norm, x):
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-6) * norm.weight

    patch.setattr(torch.nn.RMSNorm, "forward", forward)


def rounded_matrices(patch):
    init = dit.PRoPE.__init__
    patch.setattr(dit.PRoPE, "__init__", lambda self, matrices, *rest: init(self, matrices.bfloat16().float(), *rest))


def rounded_rotation(patch):
    init = dit.PRoPE.__init__

    def rounded(self, *args):
        init(self, *args)
        self.cos, self.sin = self.cos.bfloat16(), self.sin.bfloat16()

    patch.setattr(dit.PRoPE, "__init__", rounded)


def rounded_time(patch):
    def forward(self, t, dtype):
        angles = 2 * math.pi * t.to(dtype)[:, None] * self.W.to(dtype)
        return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=-1))

    patch.setattr(dit.TimestepEmbedder, "forward", forward)


def rounded_cameras(patch):
    forward = dit.PatchEmbed.forward
    patch.setattr(dit.PatchEmbed, "forward", lambda self, x: forward(self, x.bfloat16().float()))


ISLANDS = {
    "RMSNorm": rounded_norm,
    "PRoPE's matrices": rounded_matrices,
    "PRoPE's rotation": rounded_rotation,
    "time": rounded_time,
    "cameras": rounded_cameras,
}
LIMIT = 1.05


def test_what_is_float32_inside_is_rounded_once(weights, monkeypatch):
    parts = roundings(weights, monkeypatch)
    assert {name: error for name, error in parts.items() if error > LIMIT} == {}


@pytest.mark.parametrize("island", ISLANDS)
def test_none_of_it_can_be_left_out(weights, monkeypatch, island):
    ISLANDS[island](monkeypatch)
    assert max(roundings(weights, monkeypatch).values()) > LIMIT
