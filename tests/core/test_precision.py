"""bfloat16 and float8 weights against float32, layer by layer: how far the features drift in a diffusion model.

A narrow network with the released number of blocks (28 + 6): drift adds up over depth, not over width.
"""

import pytest
import torch

from gld_core import flow
from gld_core.cameras import Cameras
from gld_core.codec import Views
from gld_core.dit import MultiViewDiT, split_pair_embedders
from gld_core.pipeline import conditions
from gld_core.random_models import dit_shapes, random_weights

V, N, C, h, w = 4, 2, 64, 3, 4


@pytest.fixture(scope="module")
def weights():
    shapes = dit_shapes(C, (128, 256), (28, 6), cascade=False)
    tensors = split_pair_embedders(random_weights(shapes, torch.Generator().manual_seed(0)))
    return {name: value.float() for name, value in tensors.items()}


def run(weights, dtype, rounded=None):
    """Output of every block and the velocity of one guided evaluation; weights first rounded to a type, if given."""
    network = MultiViewDiT.from_tensors(weights, dtype=dtype, device="meta")
    own = {}
    for name, like in network.state_dict().items():
        # As a host does it: matrices alone.
        matrix = rounded is not None and like.ndim == 2 and name.startswith("blocks.")
        own[name] = (weights[name].to(rounded) if matrix else weights[name]).to(like.dtype)
    network.load_state_dict(own, assign=True)
    states = []
    for block in network.blocks:
        block.register_forward_hook(lambda block, given, out: states.append(out.float()))
    generator = torch.Generator().manual_seed(1)
    features, x = torch.randn(N, C, h, w, generator=generator), torch.randn(1, C, V, h, w, generator=generator)
    c2w = torch.eye(4).repeat(V, 1, 1)
    c2w[:, 0, 3] = torch.arange(V) / 3
    K = torch.tensor([[60.0, 0, 28], [0, 60, 21], [0, 0, 1]]).repeat(V, 1, 1)
    views = Views("da3", Cameras(c2w, K, h * 14, w * 14), features, features, torch.zeros(C))
    with torch.inference_mode():
        source = features.transpose(0, 1)[None]
        branches = [network.prepare(source, **conditions(views, 1, conditional)) for conditional in (False, True)]
        states.append(flow.guided(network, *branches, 1.5)(x, 0.7))
    return states


@pytest.fixture(scope="module")
def meant(weights):
    return run(weights, torch.float32)


def drift(states, meant):
    return torch.tensor([((a - b).norm() / b.norm()).item() for a, b in zip(states, meant, strict=True)])


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
