"""A small DA3-family bundle with random weights in the released layout: it runs every stage, its views are noise."""

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..io.files import atomic

Shapes = dict[str, tuple[int, ...]]


def layer(name: str, out: int, *fan_in: int) -> Shapes:
    """Weight (out, *fan_in) and bias of a linear layer or a convolution."""
    return {f"{name}.weight": (out, *fan_in), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def vit_block(name: str, width: int) -> Shapes:
    return {
        **norm(f"{name}.norm1", width),
        **layer(f"{name}.attn.qkv", 3 * width, width),
        **layer(f"{name}.attn.proj", width, width),
        f"{name}.ls1.gamma": (width,),
        **norm(f"{name}.norm2", width),
        **layer(f"{name}.mlp.fc1", 4 * width, width),
        **layer(f"{name}.mlp.fc2", width, 4 * width),
        f"{name}.ls2.gamma": (width,),
    }


def backbone_shapes(width: int) -> Shapes:
    """DA3's backbone and its two camera networks."""
    prefix = "model.backbone.pretrained."
    shapes: Shapes = {
        f"{prefix}cls_token": (1, 1, width),
        f"{prefix}camera_token": (1, 2, width),
        f"{prefix}pos_embed": (1, 1 + 37 * 37, width),
        **layer(f"{prefix}patch_embed.proj", width, 3, 14, 14),
        **norm(f"{prefix}norm", width),
    }
    for i in range(12):
        shapes |= vit_block(f"{prefix}blocks.{i}", width)
        if i >= 4:
            shapes |= norm(f"{prefix}blocks.{i}.attn.q_norm", 64) | norm(f"{prefix}blocks.{i}.attn.k_norm", 64)
    shapes |= layer("model.cam_enc.pose_branch.fc1", width // 2, 9)
    shapes |= layer("model.cam_enc.pose_branch.fc2", width, width // 2)
    shapes |= norm("model.cam_enc.token_norm", width) | norm("model.cam_enc.trunk_norm", width)
    for i in range(4):
        shapes |= vit_block(f"model.cam_enc.trunk.{i}", width)
    for name, out in (
        ("backbone.0", 2 * width),
        ("backbone.2", 2 * width),
        ("fc_t", 3),
        ("fc_qvec", 4),
        ("fc_fov.0", 2),
    ):
        shapes |= layer(f"model.cam_dec.{name}", out, 2 * width)
    return shapes


def head_shapes(channels: int, levels: tuple[int, int, int, int], features: int) -> Shapes:
    """DA3's head, both towers."""
    shapes = norm("norm", channels)
    for i, width in enumerate(levels):
        shapes |= layer(f"projects.{i}", width, channels, 1, 1)
        shapes[f"scratch.layer{i + 1}_rn.weight"] = (features, width, 3, 3)
    shapes |= layer("resize_layers.0", levels[0], levels[0], 4, 4) | layer(
        "resize_layers.1", levels[1], levels[1], 2, 2
    )
    shapes |= layer("resize_layers.3", levels[3], levels[3], 3, 3)
    for tower in ("", "_aux"):
        for i in range(1, 5):
            name = f"scratch.refinenet{i}{tower}"
            shapes |= layer(f"{name}.out_conv", features, features, 1, 1)
            for unit in (1, 2) if i < 4 else (2,):
                for conv in (1, 2):
                    shapes |= layer(f"{name}.resConfUnit{unit}.conv{conv}", features, features, 3, 3)
    half = features // 2
    shapes |= layer("scratch.output_conv1", half, features, 3, 3)
    shapes |= layer("scratch.output_conv2.0", 32, half, 3, 3) | layer("scratch.output_conv2.2", 2, 32, 1, 1)
    for i in range(4):
        for j in range(5):
            out, fan_in = (features, half) if j % 2 else (half, features)
            shapes |= layer(f"scratch.output_conv1_aux.{i}.{j}", out, fan_in, 3, 3)
        name = f"scratch.output_conv2_aux.{i}"
        shapes |= layer(f"{name}.0", 32, half, 3, 3) | norm(f"{name}.2", 32) | layer(f"{name}.5", 7, 32, 1, 1)
    return shapes


def rgb_shapes(channels: int, width: int, depth: int, hidden: int) -> Shapes:
    """ViT decoder to RGB."""
    shapes: Shapes = {
        "decoder.decoder_pos_embed": (1, 1 + 36 * 36, width),
        "decoder.trainable_cls_token": (1, 1, width),
    }
    shapes |= layer("decoder.decoder_embed", width, 4 * channels)
    for i in range(depth):
        name = f"decoder.decoder_layers.{i}"
        for part in ("query", "key", "value"):
            shapes |= layer(f"{name}.attention.attention.{part}", width, width)
        shapes |= layer(f"{name}.attention.output.dense", width, width)
        shapes |= layer(f"{name}.intermediate.dense", hidden, width) | layer(f"{name}.output.dense", width, hidden)
        shapes |= norm(f"{name}.layernorm_before", width) | norm(f"{name}.layernorm_after", width)
    return shapes | norm("decoder.decoder_norm", width) | layer("decoder.decoder_pred", 14 * 14 * 3, width)


def dit_shapes(channels: int, widths: tuple[int, int], depths: tuple[int, int], cascade: bool) -> Shapes:
    """Multi-view DiT: condition encoder, then velocity decoder."""
    encoder, decoder = widths
    shapes: Shapes = {"t_embedder.W": (256,)}
    for kind in ("",) if cascade else ("_ref", "_tgt"):
        shapes |= layer(f"x_embedder{kind}.proj", decoder, 2 * channels, 1, 1)
        shapes |= layer(f"s_embedder{kind}.proj", encoder, 2 * channels, 1, 1)
    shapes |= layer("s_projector", decoder, encoder) | layer("camera_embedder.proj", encoder, 7, 14, 14)
    shapes |= layer("t_embedder.mlp.0", encoder, 512) | layer("t_embedder.mlp.2", encoder, encoder)
    for i, width in enumerate([encoder] * depths[0] + [decoder] * depths[1]):
        hidden = int(2 / 3 * 4 * width)
        name = f"blocks.{i}"
        shapes |= {f"{name}.norm1.weight": (width,), f"{name}.norm2.weight": (width,)}
        shapes |= layer(f"{name}.attn.qkv", 3 * width, width) | layer(f"{name}.attn.proj", width, width)
        shapes |= layer(f"{name}.mlp.w12", 2 * hidden, width) | layer(f"{name}.mlp.w3", width, hidden)
        shapes |= layer(f"{name}.adaLN_modulation.1", 6 * width, width)
    shapes["final_layer.norm_final.weight"] = (decoder,)
    return (
        shapes
        | layer("final_layer.linear", channels, decoder)
        | layer("final_layer.adaLN_modulation.1", 2 * decoder, decoder)
    )


def random_weights(shapes: Shapes, generator: torch.Generator) -> dict[str, Tensor]:
    """float16 weights that keep activations near unit size: matrices of deviation 0.9/sqrt(fan in), norms near 1."""
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
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
