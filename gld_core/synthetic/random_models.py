"""A small DA3-family bundle with random weights in the released layout: it runs every stage, the views it makes are
noise."""

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..io.files import atomic
from ..networks import da3
from ..networks.dit import DiTConfig, MultiViewDiT, merge_pair_embedders
from ..networks.dpt import DPTConfig, GeometryHead
from ..networks.rgb_decoder import RGBDecoder, RGBDecoderConfig

Shapes = dict[str, tuple[int, ...]]


def shapes_of(network: nn.Module, prefix: str = "") -> Shapes:
    return {prefix + name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def backbone_shapes(width: int) -> Shapes:
    """DA3's backbone and its two camera networks."""
    return {
        **shapes_of(da3.Backbone(width, 12, 4 * width, device="meta"), "model.backbone.pretrained."),
        **shapes_of(da3.CameraEncoder(width, 4, 4 * width, device="meta"), "model.cam_enc."),
        **shapes_of(da3.CameraDecoder(2 * width, device="meta"), "model.cam_dec."),
    }


def head_shapes(channels: int, projections: tuple[int, ...], features: int) -> Shapes:
    """DA3's geometry head, for depth and for rays."""
    return shapes_of(GeometryHead(DPTConfig(channels, projections, features, features // 2, 32, True), device="meta"))


def rgb_shapes(channels: int, width: int, depth: int, hidden: int) -> Shapes:
    """The RGB decoder."""
    return shapes_of(
        RGBDecoder(RGBDecoderConfig(4 * channels, width, depth, hidden, 36, 14), device="meta"), "decoder."
    )


def dit_shapes(channels: int, widths: tuple[int, int], depths: tuple[int, int], cascade: bool) -> Shapes:
    """A DA3 diffusion model. widths, depths: of the condition encoder and of the velocity decoder."""
    config = DiTConfig(
        channels=channels,
        encoder_width=widths[0],
        encoder_depth=depths[0],
        encoder_hidden=8 * widths[0] // 3,
        decoder_width=widths[1],
        decoder_depth=depths[1],
        decoder_hidden=8 * widths[1] // 3,
        frequencies=256,
        patch=14,
        specials=0,
        separate_embedders=not cascade,
    )
    tensors = merge_pair_embedders(MultiViewDiT(config, device="meta").state_dict())
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def random_weights(shapes: Shapes, generator: torch.Generator) -> dict[str, Tensor]:
    """float16 weights that keep activations near unit size: matrices of deviation 0.9/sqrt(fan in), norms near 1. They
    are made, and stay, where the generator is."""
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator, device=generator.device)
        if name.endswith("t_embedder.W"):
            value = noise
        elif name.endswith("gamma"):
            value = 0.2 + 0.02 * noise
        elif name.endswith(("token", "pos_embed")):
            value = 0.1 * noise
        elif len(shape) > 1:
            value = noise * 0.9 / math.sqrt(math.prod(shape[1:]))
        else:
            value = 0.1 * noise + (1 if name.endswith(("weight", "fc_fov.0.bias")) else 0)
        weights[name] = value.half().contiguous()
    return weights


def write_random_models(models_dir: str | Path, seed: int = 0) -> None:
    """Write the bundle (about 30 MB): backbone 128 wide, 256 feature channels, diffusion widths 128 and 256 with 3+2
    (level 1) and 3+1 (cascade) blocks, an RGB decoder of 2 layers. The same seed gives the same weights.
    """
    models_dir = Path(models_dir)
    generator = torch.Generator().manual_seed(seed)
    width, channels = 128, 256
    head = head_shapes(channels, (16, 24, 32, 48), 32)
    model = backbone_shapes(width) | {f"model.head.{name}": shape for name, shape in head.items()}
    with atomic(models_dir / "pretrained_models/da3/model.safetensors") as path:
        save_file(random_weights(model, generator), path)
    files = {
        "pretrained_models/da3/dpt_decoder.pt": ("model", {f"decoder.{name}": shape for name, shape in head.items()}),
        "pretrained_models/mae_decoder.pt": ("ema", rgb_shapes(channels, width, 2, 192)),
        "checkpoints/da3_level1.pt": ("ema", dit_shapes(channels, (128, 256), (3, 2), cascade=False)),
        "checkpoints/da3_cascade.pt": ("ema", dit_shapes(channels, (128, 256), (3, 1), cascade=True)),
    }
    for name, (key, shapes) in files.items():
        with atomic(models_dir / name) as path:
            torch.save({key: random_weights(shapes, generator)}, path)
    for level in (0, 1):
        mean, var = torch.zeros(1, channels, 1, 1), torch.ones(1, channels, 1, 1)
        with atomic(models_dir / f"model_stats/da3/normalization_stats_level{level}.pt") as path:
            torch.save({"mean": mean, "var": var, "std": var.sqrt(), "count": 1, "level": level}, path)
