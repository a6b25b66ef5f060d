"""The multi-view diffusion transformer: condition encoder and velocity decoder.

docs/model.md#the-diffusion-network

One class for both levels and both backbones. Latents are (B, C, V, h, w), sources first; with special tokens
(VGGT) they are (B, C, V, S + h*w, 1), specials first.
"""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .layers import PatchEmbed, attention, count_blocks, grid_positions

HEADS = 16
# Kept in float32 whatever the rest is in: in half precision a ray or a frequency has three digits.
FLOAT32_NAMES = ("t_embedder.W", "camera_embedder.")


def to_network(latent: Tensor) -> Tensor:
    """A latent of all views (V, C, h, w) as the diffusion models take it, (1, C, V, h, w)."""
    return rearrange(latent, "v c h w -> 1 c v h w")


def from_network(latent: Tensor) -> Tensor:
    """What a diffusion model gives of one scene, (1, C, V, h, w), as a latent of all views (V, C, h, w)."""
    return rearrange(latent, "1 c v h w -> v c h w")


class PRoPE:
    """Projective and rotary position encoding of V * (S + h*w) tokens; S special tokens stay as they are.

    Half of a head's channels, in groups of four, go through each view's 4x4 matrices; a quarter is rotated by
    column and a quarter by row. q, k, v and the output are all encoded.
    """

    def __init__(self, matrices: Tensor, h: int, w: int, specials: int, head_dim: int):
        """matrices (B, V, 3, 4, 4): `cameras.projection_matrices`."""
        for_q, for_kv, for_out = matrices.float().transpose(-1, -2).unbind(2)
        self.for_qkv, self.for_out = (for_q, for_kv, for_kv), for_out[:, :, None]
        self.views, self.specials = matrices.shape[1], specials
        frequencies = 100.0 ** -(torch.arange(head_dim // 8, device=matrices.device) / (head_dim // 8))
        # Columns come first. (h*w, 1, 1, 2, 1 or 2, d/8)
        angles = (grid_positions(h, w, matrices.device).flip(-1)[..., None] * frequencies)[:, None, None, :, None]
        self.cos, self.sin = angles.cos(), torch.cat([angles.sin(), -angles.sin()], dim=-2)

    def apply(self, x: Tensor, matrix: Tensor, sin: Tensor) -> Tensor:
        """x (B, L, T, 16, d), for each of the T its own matrix (B, V, T, 4, 4)."""
        x = x.unflatten(1, (self.views, -1))
        out = torch.empty_like(x)
        out[:, :, : self.specials] = x[:, :, : self.specials]
        projective, rotary = x[:, :, self.specials :].chunk(2, dim=-1)
        # Slices, since autograd forbids writing into chunks.
        half = x.shape[-1] // 2
        out_projective, out_rotary = out[:, :, self.specials :, ..., :half], out[:, :, self.specials :, ..., half:]

        groups = projective.unflatten(-1, (-1, 4)).transpose(2, 3)
        rows = groups.to(torch.float32, memory_format=torch.contiguous_format).flatten(3, 5)
        # Training's autocast would round the product, and with it the cameras; not every device has one.
        with torch.autocast(x.device.type, enabled=False) if torch.is_grad_enabled() else nullcontext():
            out_projective.unflatten(-1, (-1, 4)).copy_((rows @ matrix).view(groups.shape).transpose(2, 3))

        pairs = rotary.unflatten(-1, (2, 2, -1))
        out_rotary.unflatten(-1, (2, 2, -1)).copy_(torch.addcmul(pairs * self.cos, pairs.flip(-2), sin))
        return out.flatten(1, 2)

    def encode(self, qkv: Tensor) -> list[Tensor]:
        """qkv (B, L, 3, 16, d) to q, k and v, each (B, L, 16, d). One after the other, which takes less memory."""
        return [
            self.apply(part.unsqueeze(2), matrix.unsqueeze(2), self.sin).squeeze(2)
            for part, matrix in zip(qkv.unbind(2), self.for_qkv, strict=True)
        ]

    def decode(self, out: Tensor) -> Tensor:
        """The attention's output (B, L, 16, d)."""
        return self.apply(out.unsqueeze(2), self.for_out, -self.sin).squeeze(2)


class MultiViewAttention(nn.Module):
    """Attention over all views' tokens (B, V * (S + h*w), width), with PRoPE."""

    def __init__(self, width: int, *, operations, dtype, device, attention):
        super().__init__()
        self.attention = attention
        self.qkv = operations.Linear(width, 3 * width, dtype=dtype, device=device)
        self.proj = operations.Linear(width, width, dtype=dtype, device=device)

    def forward(self, x: Tensor, position: PRoPE, transformer_options: dict | None) -> Tensor:
        q, k, v = (part.transpose(1, 2) for part in position.encode(self.qkv(x).unflatten(-1, (3, HEADS, -1))))
        out = self.attention(q, k, v, transformer_options)
        return self.proj(position.decode(out.transpose(1, 2)).flatten(2))


class TimestepEmbedder(nn.Module):
    """Fourier features of t in [0, 1] with stored frequencies W, then an MLP."""

    def __init__(self, frequencies: int, width: int, *, operations, dtype, device):
        super().__init__()
        self.W = nn.Parameter(torch.empty(frequencies, dtype=torch.float32, device=device))
        self.mlp = nn.Sequential(
            operations.Linear(2 * frequencies, width, dtype=dtype, device=device),
            nn.SiLU(),
            operations.Linear(width, width, dtype=dtype, device=device),
        )

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        angles = 2 * math.pi * t.float()[:, None] * self.W.float()
        return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=-1).to(dtype))


class PairEmbedder(nn.Module):
    """A 1x1 convolution over [condition | state] on the patch grid, as a sum of two, so that the first is done once."""

    def __init__(self, channels: int, width: int, *, operations, dtype, device):
        super().__init__()
        self.condition = operations.Linear(channels, width, bias=True, dtype=dtype, device=device)
        self.state = operations.Linear(channels, width, bias=False, dtype=dtype, device=device)


class SwiGLU(nn.Module):
    def __init__(self, width: int, hidden: int, *, operations, dtype, device):
        super().__init__()
        self.w12 = operations.Linear(width, 2 * hidden, dtype=dtype, device=device)
        self.w3 = operations.Linear(hidden, width, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate).mul_(value))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, x, 1 + scale)


class Block(nn.Module):
    """Attention and SwiGLU, both modulated and gated by the condition after adaLN's SiLU: (B, 1, width) or one per
    token. That SiLU is the same for all blocks of a part, so `MultiViewDiT.forward` applies it."""

    def __init__(self, width: int, hidden: int, *, operations, dtype, device, attention):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.norm1 = operations.RMSNorm(width, eps=1e-6, **factory)
        self.attn = MultiViewAttention(width, operations=operations, attention=attention, **factory)
        self.norm2 = operations.RMSNorm(width, eps=1e-6, **factory)
        self.mlp = SwiGLU(width, hidden, operations=operations, **factory)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), operations.Linear(width, 6 * width, **factory))

    def forward(self, x: Tensor, activated: Tensor, position: PRoPE, transformer_options: dict | None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation[1](activated).chunk(6, dim=-1)
        y = self.attn(modulate(self.norm1(x), shift1, scale1), position, transformer_options)
        x = torch.addcmul(x, gate1, y)
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm2(x), shift2, scale2)))


class FinalLayer(nn.Module):
    def __init__(self, width: int, channels: int, *, operations, dtype, device):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.norm_final = operations.RMSNorm(width, eps=1e-6, **factory)
        self.linear = operations.Linear(width, channels, **factory)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), operations.Linear(width, 2 * width, **factory))

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation[1](activated).chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


@dataclass(frozen=True)
class DiTConfig:
    """Dimensions of a network, read off its tensors."""

    channels: int
    encoder_width: int
    encoder_depth: int
    encoder_hidden: int
    decoder_width: int
    decoder_depth: int
    decoder_hidden: int
    frequencies: int
    patch: int
    specials: int
    separate_embedders: bool

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "DiTConfig":
        widths = [tensors[f"blocks.{i}.norm1.weight"].shape[0] for i in range(count_blocks(tensors, "blocks."))]
        encoder_width, patch = tensors["camera_embedder.proj.weight"].shape[::3]
        channels, decoder_width = tensors["final_layer.linear.weight"].shape
        # Which part a block belongs to shows in its width.
        encoder_depth = widths.index(decoder_width)
        specials = tensors.get("special_pos_embed_s")
        return cls(
            channels=channels,
            encoder_width=encoder_width,
            encoder_depth=encoder_depth,
            encoder_hidden=tensors["blocks.0.mlp.w3.weight"].shape[1],
            decoder_width=decoder_width,
            decoder_depth=len(widths) - encoder_depth,
            decoder_hidden=tensors[f"blocks.{encoder_depth}.mlp.w3.weight"].shape[1],
            frequencies=tensors["t_embedder.W"].shape[0],
            patch=patch,
            specials=0 if specials is None else specials.shape[1],
            separate_embedders="x_embedder_ref.condition.weight" in tensors,
        )


def split_pair_embedders(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released names to this module's: the 1x1 convolutions over [condition | state] in two halves."""
    out = {}
    for name, tensor in tensors.items():
        parent, _, leaf = name.partition(".proj.")
        if parent.startswith(("s_embedder", "x_embedder")) and leaf == "weight":
            condition, state = tensor.flatten(1).chunk(2, dim=1)
            out[f"{parent}.condition.weight"] = condition.contiguous()
            out[f"{parent}.state.weight"] = state.contiguous()
        elif parent.startswith(("s_embedder", "x_embedder")) and leaf == "bias":
            out[f"{parent}.condition.bias"] = tensor
        else:
            out[name] = tensor
    return out


def merge_pair_embedders(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `split_pair_embedders`: this module's names to the released ones."""
    out = {}
    for name, tensor in tensors.items():
        parent, _, leaf = name.partition(".condition.")
        if leaf == "weight":
            pair = torch.cat([tensor, tensors[f"{parent}.state.weight"]], dim=1)
            out[f"{parent}.proj.weight"] = pair[..., None, None]
        elif leaf == "bias":
            out[f"{parent}.proj.bias"] = tensor
        elif not name.endswith(".state.weight"):
            out[name] = tensor
    return out


def full_float32_convolutions(device: torch.device):
    """Without TF32, which CUDA's convolutions use by default and which keeps three digits of a ray."""
    if device.type != "cuda":
        return nullcontext()
    cudnn = torch.backends.cudnn
    return cudnn.flags(cudnn.enabled, cudnn.benchmark, cudnn.benchmark_limit, cudnn.deterministic, allow_tf32=False)


class MultiViewDiT(nn.Module):
    """Velocity noise - data of all views' features at time t.

    `prepare` computes what stays the same over a sampling; `forward` takes it as keyword arguments.
    """

    def __init__(self, config: DiTConfig, *, operations=nn, dtype=None, device=None, attention=attention):
        super().__init__()
        factory = {"operations": operations, "dtype": dtype, "device": device}
        self.config = config
        self.dtype = dtype
        De, Dd, C = config.encoder_width, config.decoder_width, config.channels
        self.t_embedder = TimestepEmbedder(config.frequencies, De, **factory)
        self.camera_embedder = PatchEmbed(
            7, De, config.patch, operations=operations, dtype=torch.float32, device=device
        )
        for name in ("_ref", "_tgt") if config.separate_embedders else ("",):
            self.add_module(f"s_embedder{name}", PairEmbedder(C, De, **factory))
            self.add_module(f"x_embedder{name}", PairEmbedder(C, Dd, **factory))
        if config.specials:
            self.special_s_embedder = operations.Linear(2 * C, De, dtype=dtype, device=device)
            self.special_x_embedder = operations.Linear(2 * C, Dd, dtype=dtype, device=device)
            self.special_pos_embed_s = nn.Parameter(torch.empty(1, config.specials, De, dtype=dtype, device=device))
            self.special_pos_embed_x = nn.Parameter(torch.empty(1, config.specials, Dd, dtype=dtype, device=device))
            self.special_output_proj = operations.Linear(C, C, dtype=dtype, device=device)
        self.blocks = nn.ModuleList(
            [Block(De, config.encoder_hidden, attention=attention, **factory) for _ in range(config.encoder_depth)]
            + [Block(Dd, config.decoder_hidden, attention=attention, **factory) for _ in range(config.decoder_depth)]
        )
        self.s_projector = operations.Linear(De, Dd, dtype=dtype, device=device)
        self.final_layer = FinalLayer(Dd, C, **factory)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], **factory) -> "MultiViewDiT":
        """Build with the dimensions of a state dict after `split_pair_embedders`."""
        return cls(DiTConfig.from_tensors(tensors), **factory)

    def tokens(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, V, ...) -> specials (B, V, S, C) and patches (B, V, h*w, C)."""
        sequence = latent.flatten(3).permute(0, 2, 3, 1).to(self.dtype)
        return sequence[:, :, : self.config.specials], sequence[:, :, self.config.specials :]

    def embed(self, part: str, half: str, patches: Tensor, sources: int) -> Tensor:
        """One half of the pair embedder `part` on (B, V, h*w, C); source views have their own where there are two."""
        if not self.config.separate_embedders:
            return self.get_submodule(f"{part}_embedder.{half}")(patches)
        source, target = patches.tensor_split([sources], dim=1)
        ref, tgt = self.get_submodule(f"{part}_embedder_ref.{half}"), self.get_submodule(f"{part}_embedder_tgt.{half}")
        return torch.cat([ref(source), tgt(target)], dim=1)

    def prepare(
        self, source: Tensor, camera_map: Tensor, matrices: Tensor, level1: Tensor | None = None
    ) -> dict[str, Any]:
        """What one guidance branch needs at every step; tensors have a leading batch dimension of 1.

        source (1, C, N, ...): the sources' clean features. camera_map (V, 7, H, W). matrices (V, 3, 4, 4) of
        `cameras.projection_matrices`. level1 (1, C, V, ...): for a cascade, the level-1 features of all views.
        Raises ValueError for features of another backbone, and where a DA3 level-1 network is given level 1 or a
        cascade is not.
        """
        V, _, H, W = camera_map.shape
        N, h, w = source.shape[2], H // self.config.patch, W // self.config.patch
        channels, specials = source.shape[1], source[0, 0, 0].numel() - h * w
        if (channels, specials) != (self.config.channels, self.config.specials):
            raise ValueError(
                f"The diffusion model works on {self.config.channels} channels and {self.config.specials} special "
                f"tokens per view, the views were encoded to {channels} and {specials}; load both of one backbone."
            )
        if not self.config.specials and (level1 is None) != self.config.separate_embedders:
            meant, found = ("level 1", "the cascade") if level1 is None else ("the cascade", "level 1")
            raise ValueError(f"The model given for {meant} has the weights of {found}; load those of {meant}.")
        padding = source.new_zeros(*source.shape[:2], V - N, *source.shape[3:])
        special, patches = self.tokens(torch.cat([source, padding], dim=2))
        with full_float32_convolutions(camera_map.device):
            condition_s = self.camera_embedder(camera_map)[None].to(self.dtype)
        condition_s = condition_s + self.embed("s", "condition", patches, N)
        if level1 is not None:
            condition_s = condition_s + self.embed("s", "state", self.tokens(level1)[1], N)
        return {
            "condition_s": condition_s,
            "condition_x": self.embed("x", "condition", patches, N),
            "condition_special": special,
            "matrices": matrices[None],
            "grid": (h, w),
            "sources": N,
            "cascade": level1 is not None,
        }

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        condition_s: Tensor,
        condition_x: Tensor,
        condition_special: Tensor,
        matrices: Tensor,
        grid: tuple[int, int],
        sources: int,
        cascade: bool,
        transformer_options: dict | None = None,
        shared: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """x (B, C, V, ...) noisy features, t (B,) times in [0, 1]; the rest of `prepare`, batched. Shape of x.

        shared: where it holds the condition encoder's output, of an evaluation nearby, that is taken; otherwise this
        evaluation's is left there.
        """
        config = self.config
        special, patches = self.tokens(x)
        state_s = condition_s if cascade else condition_s + self.embed("s", "state", patches, sources)
        state_x = condition_x + self.embed("x", "state", patches, sources)
        if config.specials:
            pair = torch.cat([condition_special, special], dim=-1)
            special_s = self.special_s_embedder(pair) + self.special_pos_embed_s.to(self.dtype)
            special_x = self.special_x_embedder(pair) + self.special_pos_embed_x.to(self.dtype)
            state_s = torch.cat([special_s, state_s], dim=2)
            state_x = torch.cat([special_x, state_x], dim=2)
        views = state_x.shape[1:3]
        state_s, state_x = state_s.flatten(1, 2), state_x.flatten(1, 2)

        time = self.t_embedder(t, self.dtype)[:, None]
        encoder, decoder = self.blocks[: config.encoder_depth], self.blocks[config.encoder_depth :]
        if shared:
            state_s = shared["encoded"]
        else:
            position = PRoPE(matrices, *grid, config.specials, config.encoder_width // HEADS)
            activated = F.silu(F.silu(time))
            for block in encoder:
                state_s = block(state_s, activated, position, transformer_options)
            if shared is not None:
                shared["encoded"] = state_s
        activated = F.silu(self.s_projector(F.silu(time + state_s)))
        position = PRoPE(matrices, *grid, config.specials, config.decoder_width // HEADS)
        for block in decoder:
            state_x = block(state_x, activated, position, transformer_options)
        # Quirk: specials pass the whole final layer before their own projection.
        special, patches = (
            self.final_layer(state_x, activated).unflatten(1, views).tensor_split([config.specials], dim=2)
        )
        if config.specials:
            patches = torch.cat([self.special_output_proj(special), patches], dim=2)
        return patches.permute(0, 3, 1, 2).reshape(x.shape)
