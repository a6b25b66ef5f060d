"""RGB decoder: a ViT from the features of four levels to pixels. docs/model.md#from-a-level-1-result-to-pictures"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import attention, count_blocks, denormalize_images

HEADS = 16


@dataclass(frozen=True)
class RGBDecoderConfig:
    """Dimensions of a decoder, read off its tensors. joins: it ends in `join_patches`, which no released one does."""

    channels: int
    width: int
    depth: int
    hidden: int
    grid: int
    patch: int
    joins: bool = False

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "RGBDecoderConfig":
        width, channels = tensors["decoder_embed.weight"].shape
        return cls(
            channels=channels,
            width=width,
            depth=count_blocks(tensors, "decoder_layers."),
            hidden=tensors["decoder_layers.0.intermediate.dense.weight"].shape[0],
            grid=round((tensors["decoder_pos_embed"].shape[1] - 1) ** 0.5),
            patch=round((tensors["decoder_pred.weight"].shape[0] / 3) ** 0.5),
            joins="join_limit" in tensors,
        )


def named(**modules: nn.Module) -> Any:
    """Nests modules under the released names."""
    return nn.ModuleDict(modules)


class DecoderLayer(nn.Module):
    """Pre-norm ViT layer with separate query, key and value, under its released names."""

    def __init__(self, width: int, hidden: int, *, operations, attention, **factory):
        super().__init__()
        linear = operations.Linear
        self.attend = attention
        self.attention = named(
            attention=named(
                query=linear(width, width, **factory),
                key=linear(width, width, **factory),
                value=linear(width, width, **factory),
            ),
            output=named(dense=linear(width, width, **factory)),
        )
        self.intermediate = named(dense=linear(width, hidden, **factory))
        self.output = named(dense=linear(hidden, width, **factory))
        self.layernorm_before = operations.LayerNorm(width, eps=1e-12, **factory)
        self.layernorm_after = operations.LayerNorm(width, eps=1e-12, **factory)

    def forward(self, x: Tensor, transformer_options: dict | None) -> Tensor:
        y = self.layernorm_before(x)
        projections = self.attention["attention"]
        q, k, v = (
            projections[name](y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for name in ("query", "key", "value")
        )
        out = self.attend(q, k, v, transformer_options).transpose(1, 2).flatten(2)
        x = x + self.attention["output"]["dense"](out)
        return x + self.output["dense"](F.gelu(self.intermediate["dense"](self.layernorm_after(x))))


def join_patches(images: Tensor, limit: Tensor, patch: int, reach: int = 5) -> Tensor:
    """Pictures (V, 3, H, W) without seams between their patches.

    What the step across a border has beyond the mean of the steps beside it is taken from both patches, less and less
    over `reach` pixels. What is more than `limit` may be the edge of a thing: the larger it is, the less is taken.
    """
    ramp = 0.5 * (1 - (torch.arange(reach, device=images.device) + 0.5) / reach)
    for dim in (-1, -2):
        x = images.movedim(dim, -1).unflatten(-1, (-1, patch))
        one, other = x[..., :-1, :], x[..., 1:, :]
        beside = 0.5 * (one[..., -1] - one[..., -2] + other[..., 1] - other[..., 0])
        excess = other[..., 0] - one[..., -1] - beside
        part = (excess / (excess / limit).square().clamp(min=1))[..., None] * ramp
        x = x + F.pad(part.flip(-1), (patch - reach, 0, 0, 1)) - F.pad(part, (0, patch - reach, 1, 0))
        images = x.flatten(-2).movedim(-1, dim)
    return images


class RGBDecoder(nn.Module):
    """Images from the concatenated features of the four levels."""

    join_limit: Tensor

    def __init__(self, config: RGBDecoderConfig, *, operations=nn, dtype=None, device=None, attention=attention):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.config = config
        width = config.width
        self.decoder_embed = operations.Linear(config.channels, width, **factory)
        self.trainable_cls_token = nn.Parameter(torch.empty(1, 1, width, **factory))
        self.decoder_pos_embed = nn.Parameter(torch.empty(1, config.grid**2 + 1, width, **factory))
        self.decoder_layers = nn.ModuleList(
            DecoderLayer(width, config.hidden, operations=operations, attention=attention, **factory)
            for _ in range(config.depth)
        )
        self.decoder_norm = operations.LayerNorm(width, eps=1e-12, **factory)
        self.decoder_pred = operations.Linear(width, 3 * config.patch**2, **factory)
        if config.joins:
            self.register_buffer("join_limit", torch.empty(1, **factory))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], **factory) -> "RGBDecoder":
        """Build with the dimensions of a state dict."""
        return cls(RGBDecoderConfig.from_tensors(tensors), **factory)

    def position_embedding(self, h: int, w: int) -> Tensor:
        """(1, 1 + h*w, width): the first entry for CLS, the rest resized in float32."""
        table = self.decoder_pos_embed.float()
        grid = table[:, 1:].unflatten(1, (self.config.grid, self.config.grid)).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(h, w), mode="bicubic", align_corners=False)
        return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)

    def forward(self, features: Tensor, h: int, w: int, transformer_options: dict | None = None) -> Tensor:
        """features (V, h*w, 4C) -> images (V, 3, H, W) float32, not clamped."""
        x = self.decoder_embed(features)
        x = torch.cat([self.trainable_cls_token.to(x.dtype).expand(len(x), -1, -1), x], dim=1)
        x = x + self.position_embedding(h, w).to(x.dtype)
        for layer in self.decoder_layers:
            x = layer(x, transformer_options)
        x = self.decoder_pred(self.decoder_norm(x))[:, 1:].float()
        patch = self.config.patch
        x = x.unflatten(2, (patch, patch, 3)).unflatten(1, (h, w)).permute(0, 5, 1, 3, 2, 4)
        images = denormalize_images(x.reshape(len(x), 3, h * patch, w * patch))
        return join_patches(images, self.join_limit.to(images), patch) if self.config.joins else images
