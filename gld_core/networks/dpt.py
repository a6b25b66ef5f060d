"""Geometry head: a dense prediction transformer for depth and, in DA3, rays. docs/model.md#the-geometry-head"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class DPTConfig:
    """Dimensions of a head, read off its tensors."""

    channels: int
    projections: tuple[int, ...]
    features: int
    hidden: int
    out_hidden: int
    rays: bool

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "DPTConfig":
        return cls(
            channels=tensors["norm.weight"].shape[0],
            projections=tuple(tensors[f"projects.{i}.weight"].shape[0] for i in range(4)),
            features=tensors["scratch.layer1_rn.weight"].shape[0],
            hidden=tensors["scratch.output_conv1.weight"].shape[0],
            out_hidden=tensors["scratch.output_conv2.0.weight"].shape[0],
            rays="scratch.output_conv1_aux.3.0.weight" in tensors,
        )


def uv_sinusoid(x: Tensor, aspect: float) -> Tensor:
    """x (V, D, m, n) plus 0.1 times the sinusoid of its grid; aspect is the image's W/H."""
    _, D, m, n = x.shape
    diagonal = (1 + aspect**2) ** 0.5
    reach = torch.tensor([aspect, 1.0], dtype=torch.float64) / diagonal
    u = torch.linspace(-1, 1, n, dtype=torch.float64) * reach[0] * (n - 1) / n
    v = torch.linspace(-1, 1, m, dtype=torch.float64) * reach[1] * (m - 1) / m
    frequencies = 100.0 ** -(torch.arange(D // 4, dtype=torch.float64) / (D / 4))
    angle_u, angle_v = u[:, None] * frequencies, v[:, None] * frequencies
    # Two short tables go to x's device and are spread there.
    across = torch.cat([angle_u.sin(), angle_u.cos()], dim=1).T.to(x)[:, None, :].expand(-1, m, -1)
    down = torch.cat([angle_v.sin(), angle_v.cos()], dim=1).T.to(x)[:, :, None].expand(-1, -1, n)
    return x + 0.1 * torch.cat([across, down])


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


class ResidualConvUnit(nn.Module):
    def __init__(self, features: int, *, inplace_relu: bool, operations, **factory):
        super().__init__()
        self.inplace_relu = inplace_relu
        self.conv1 = operations.Conv2d(features, features, 3, padding=1, **factory)
        self.conv2 = operations.Conv2d(features, features, 3, padding=1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        rectified = F.relu(x)
        # Quirk: VGGT rectifies in place, which reaches the residual path too.
        return self.conv2(F.relu(self.conv1(rectified))) + (rectified if self.inplace_relu else x)


class Fusion(nn.Module):
    def __init__(self, features: int, *, lateral: bool, inplace_relu: bool, operations, **factory):
        super().__init__()
        unit = {"inplace_relu": inplace_relu, "operations": operations, **factory}
        self.resConfUnit1 = ResidualConvUnit(features, **unit) if lateral else None
        self.resConfUnit2 = ResidualConvUnit(features, **unit)
        self.out_conv = operations.Conv2d(features, features, 1, **factory)

    def forward(self, x: Tensor, lateral: Tensor | None, size: Sequence[int]) -> Tensor:
        if self.resConfUnit1 is not None:
            x = x + self.resConfUnit1(lateral)
        return self.out_conv(resize(self.resConfUnit2(x), size))


class SwapChannels(nn.Module):
    """Channels to the end and back, (V, D, m, n) <-> (V, n, m, D), around a LayerNorm over them."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 3)


class Scratch(nn.Module):
    """The convolutions of the released `scratch` namespace: laterals, fusion and output of both towers."""

    def __init__(self, config: DPTConfig, *, inplace_relu: bool, operations, **factory):
        super().__init__()
        features, hidden, out_hidden = config.features, config.hidden, config.out_hidden
        conv = operations.Conv2d
        for i, projection in enumerate(config.projections, start=1):
            self.add_module(f"layer{i}_rn", conv(projection, features, 3, padding=1, bias=False, **factory))
        for suffix in ("", "_aux") if config.rays else ("",):
            for i in range(1, 5):
                fusion = Fusion(features, lateral=i < 4, inplace_relu=inplace_relu, operations=operations, **factory)
                self.add_module(f"refinenet{i}{suffix}", fusion)
        self.output_conv1 = conv(features, hidden, 3, padding=1, **factory)
        self.output_conv2 = nn.Sequential(
            conv(hidden, out_hidden, 3, padding=1, **factory),
            nn.ReLU(),
            conv(out_hidden, 2, 1, **factory),
        )
        if config.rays:
            # The release trains one output per pyramid level and reads the finest only.
            widths = (features, hidden, features, hidden, features, hidden)
            self.output_conv1_aux = nn.ModuleList(
                nn.Sequential(*(conv(a, b, 3, padding=1, **factory) for a, b in zip(widths, widths[1:], strict=False)))
                for _ in range(4)
            )
            self.output_conv2_aux = nn.ModuleList(
                nn.Sequential(
                    conv(hidden, out_hidden, 3, padding=1, **factory),
                    SwapChannels(),
                    operations.LayerNorm(out_hidden, eps=1e-5, **factory),
                    SwapChannels(),
                    nn.ReLU(),
                    conv(out_hidden, 7, 1, **factory),
                )
                for _ in range(4)
            )

    def fuse(self, laterals: Sequence[Tensor], suffix: str = "") -> Tensor:
        """Top-down fusion of four pyramid levels, coarsest last; twice the size of the finest."""
        x, lateral = laterals[3], None
        for i in range(4, 0, -1):
            finer = laterals[i - 2].shape[-2:] if i > 1 else [2 * size for size in laterals[0].shape[-2:]]
            x = self.get_submodule(f"refinenet{i}{suffix}")(x, lateral, finer)
            lateral = laterals[i - 2]
        return x


class GeometryHead(nn.Module):
    """Depth and confidence, and in DA3 ray maps, from the decoder-ready features of four levels."""

    def __init__(self, config: DPTConfig, *, inplace_relu=False, operations=nn, dtype=None, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        conv, transposed = operations.Conv2d, operations.ConvTranspose2d
        widths = config.projections
        self.rays = config.rays
        self.norm = operations.LayerNorm(config.channels, eps=1e-5, **factory)
        self.projects = nn.ModuleList(conv(config.channels, width, 1, **factory) for width in widths)
        self.resize_layers = nn.ModuleList(
            [
                transposed(widths[0], widths[0], 4, stride=4, **factory),
                transposed(widths[1], widths[1], 2, stride=2, **factory),
                nn.Identity(),
                conv(widths[3], widths[3], 3, stride=2, padding=1, **factory),
            ]
        )
        self.scratch = Scratch(config, inplace_relu=inplace_relu, operations=operations, **factory)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], **factory) -> "GeometryHead":
        """Build with the dimensions of a state dict."""
        return cls(DPTConfig.from_tensors(tensors), **factory)

    def forward(self, levels: Sequence[Tensor], height: int, width: int, patch: int = 14) -> dict[str, Tensor]:
        """levels: four (V, h*w, C). Returns float32 depth, depth_conf (V, H, W); with rays also
        ray (V, 8h, 8w, 6) and ray_conf (V, 8h, 8w)."""
        h, w = height // patch, width // patch
        aspect = width / height
        laterals = []
        for i, tokens in enumerate(levels):
            x = self.norm(tokens).transpose(1, 2).unflatten(2, (h, w))
            x = self.resize_layers[i](uv_sinusoid(self.projects[i](x), aspect))
            laterals.append(self.scratch.get_submodule(f"layer{i + 1}_rn")(x))

        x = resize(self.scratch.output_conv1(self.scratch.fuse(laterals)), (height, width))
        logits = self.scratch.output_conv2(uv_sinusoid(x, aspect)).float()
        out = {"depth": logits[:, 0].exp(), "depth_conf": logits[:, 1].exp() + 1}
        if self.rays:
            x = self.scratch.output_conv1_aux[3](self.scratch.fuse(laterals, "_aux"))
            ray = self.scratch.output_conv2_aux[3](uv_sinusoid(x, aspect)).float().permute(0, 2, 3, 1)
            out |= {"ray": ray[..., :6], "ray_conf": ray[..., 6].exp() + 1}
        return out
