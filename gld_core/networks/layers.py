"""Transformer parts that the networks share.

Every network builds its layers from an `operations` namespace (torch.nn, or a host's replacement with the same
names) and takes `dtype` and `device`, so a host can stream, cast or quantise weights. Nothing here moves tensors
between devices.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AttentionFunction = Callable[[Tensor, Tensor, Tensor, dict | None], Tensor]


# Rows of the attention matrix that `attention` computes at once in bfloat16 on the CPU.
ROWS = 128


def attention(q: Tensor, k: Tensor, v: Tensor, transformer_options: dict | None) -> Tensor:
    """Softmax attention over q, k, v of shape (B, heads, L, d), scale 1/sqrt(d). A host passes its own in its place.

    In bfloat16 on the CPU it is written out, some rows at a time: PyTorch's fused one takes three times as long there,
    no less than in float32. Scores then are bfloat16 too.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v)
    q, k, v = q.contiguous() * q.shape[-1] ** -0.5, k.contiguous().transpose(-1, -2), v.contiguous()
    return torch.cat([(rows @ k).softmax(dim=-1) @ v for rows in q.split(ROWS, dim=2)], dim=2)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, transformer_options: dict | None) -> Tensor:
    """The same, written out: for training on a CPU, where the fused one's gradient takes several times as long in
    bfloat16."""
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(dim=-1).to(v.dtype) @ v


class Rope2D:
    """Rotary embedding over rows (first half of a head's channels) and columns (second half), base 100.

    positions: (L, 2) or (B, L, 2) row and column of each token. docs/model.md#the-da3-backbone
    """

    def __init__(self, positions: Tensor, head_dim: int):
        half = head_dim // 2
        exponents = torch.arange(0, half, 2, device=positions.device, dtype=torch.float32) / half
        angles = positions.float()[..., None] * 100.0**-exponents
        angles = torch.cat([angles, angles], dim=-1).flatten(-2)
        self.cos, self.sin = angles.cos().unsqueeze(-3), angles.sin().unsqueeze(-3)

    def rotate(self, x: Tensor) -> Tensor:
        first, second = x.unflatten(-1, (2, 2, -1)).unbind(-2)
        turned = torch.stack([-second, first], dim=-2).flatten(-3)
        return x * self.cos.to(x.dtype) + turned * self.sin.to(x.dtype)

    def encode(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return self.rotate(q), self.rotate(k)


class Attention(nn.Module):
    """Multi-head self-attention over (B, L, width); optional LayerNorm on q and k per head, before positions."""

    def __init__(self, width: int, heads: int, *, qk_norm=False, operations, dtype, device, attention=attention):
        super().__init__()
        self.heads = heads
        self.attention = attention
        self.qkv = operations.Linear(width, 3 * width, dtype=dtype, device=device)
        if qk_norm:
            self.q_norm = operations.LayerNorm(width // heads, eps=1e-5, dtype=dtype, device=device)
            self.k_norm = operations.LayerNorm(width // heads, eps=1e-5, dtype=dtype, device=device)
        self.qk_norm = qk_norm
        self.proj = operations.Linear(width, width, dtype=dtype, device=device)

    def forward(self, x: Tensor, position: Rope2D | None = None, transformer_options: dict | None = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if position is not None:
            q, k = position.encode(q, k)
        out = self.attention(q, k, v, transformer_options)
        return self.proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, width: int, hidden: int, out: int | None = None, *, operations, dtype, device):
        super().__init__()
        self.fc1 = operations.Linear(width, hidden, dtype=dtype, device=device)
        self.fc2 = operations.Linear(hidden, width if out is None else out, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    def __init__(self, width: int, *, dtype, device):
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width, dtype=dtype, device=device))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma.to(x.dtype)


class Block(nn.Module):
    """Pre-norm transformer block with LayerScale, as in DINOv2, DA3 and VGGT."""

    def __init__(
        self, width: int, heads: int, hidden: int, *, eps: float, qk_norm=False, operations, dtype, device, attention
    ):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.norm1 = operations.LayerNorm(width, eps=eps, **factory)
        self.attn = Attention(width, heads, qk_norm=qk_norm, operations=operations, attention=attention, **factory)
        self.ls1 = LayerScale(width, **factory)
        self.norm2 = operations.LayerNorm(width, eps=eps, **factory)
        self.mlp = Mlp(width, hidden, operations=operations, **factory)
        self.ls2 = LayerScale(width, **factory)

    def forward(self, x: Tensor, position: Rope2D | None = None, transformer_options: dict | None = None) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), position, transformer_options))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Non-overlapping patches (B, channels, H, W) -> tokens (B, h*w, width)."""

    def __init__(self, channels: int, width: int, patch: int, *, operations, dtype, device):
        super().__init__()
        self.proj = operations.Conv2d(channels, width, kernel_size=patch, stride=patch, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


def mean_and_deviation(images: Tensor) -> tuple[Tensor, Tensor]:
    """IMAGE_MEAN and IMAGE_STD (3, 1, 1), written on the images' device: a copy from the host would wait for it."""
    mean, std = (torch.stack([images.new_full((1, 1), x) for x in values]) for values in (IMAGE_MEAN, IMAGE_STD))
    return mean, std


def normalize_images(images: Tensor) -> Tensor:
    """(V, 3, H, W) in [0, 1] to zero mean and unit variance over ImageNet."""
    mean, std = mean_and_deviation(images)
    return (images - mean) / std


def denormalize_images(images: Tensor) -> Tensor:
    """Inverse of `normalize_images`."""
    mean, std = mean_and_deviation(images)
    return images * std + mean


def grid_positions(rows: int, columns: int, device) -> Tensor:
    """(rows*columns, 2) row and column of each patch, row-major."""
    row, column = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    return torch.stack([row, column], dim=-1).flatten(0, 1)


def count_blocks(keys, prefix: str) -> int:
    """Number of consecutive numbered children of `prefix` among state-dict keys."""
    return len({key[len(prefix) :].split(".")[0] for key in keys if key.startswith(prefix)})
