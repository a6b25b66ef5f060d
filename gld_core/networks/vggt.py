"""VGGT: the second frozen backbone, and its camera head. docs/model.md#the-vggt-variant

Raw features of a level are (V, 5 + h*w, C): camera token, four registers, patches; C is twice the width E.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cameras import Cameras
from ..cameras.conventions import decode_pose
from .layers import Block, Mlp, PatchEmbed, Rope2D, attention, count_blocks, grid_positions, normalize_images

HEADS = 16
REGISTERS = 4
LEVEL_PAIRS = (4, 11, 17, 23)
POSITION_GRID = 37
REFINEMENTS = 4


class PatchEncoder(nn.Module):
    """DINOv2 with registers: images (V, 3, H, W), normalised, to patch tokens (V, h*w, E), each view on its own."""

    def __init__(self, width: int, depth: int, hidden: int, patch: int, *, attention, **factory):
        super().__init__()
        operations, plain = factory["operations"], {name: factory[name] for name in ("dtype", "device")}
        self.cls_token = nn.Parameter(torch.empty(1, 1, width, **plain))
        self.register_tokens = nn.Parameter(torch.empty(1, REGISTERS, width, **plain))
        self.pos_embed = nn.Parameter(torch.empty(1, POSITION_GRID**2 + 1, width, **plain))
        self.patch_embed = PatchEmbed(3, width, patch, **factory)
        self.blocks = nn.ModuleList(
            Block(width, HEADS, hidden, eps=1e-6, attention=attention, **factory) for _ in range(depth)
        )
        self.norm = operations.LayerNorm(width, eps=1e-6, **plain)

    def position_embedding(self, h: int, w: int) -> Tensor:
        """(1, 1 + h*w, E): entry 0 for CLS, the patch part resized in float32."""
        table = self.pos_embed.float()
        grid = table[:, 1:].unflatten(1, (POSITION_GRID, POSITION_GRID)).permute(0, 3, 1, 2)
        # Before PyTorch 2.8, Apple's GPUs have no antialiased bicubic.
        home = torch.device("cpu") if grid.device.type == "mps" else grid.device
        grid = F.interpolate(grid.to(home), size=(h, w), mode="bicubic", antialias=True, align_corners=False).to(table)
        return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)

    def forward(self, images: Tensor, h: int, w: int, transformer_options: dict | None) -> Tensor:
        x = self.patch_embed(images)
        x = torch.cat([self.cls_token.to(x.dtype).expand(len(x), -1, -1), x], dim=1)
        x = x + self.position_embedding(h, w).to(x.dtype)
        # Registers have no position.
        registers = self.register_tokens.to(x.dtype).expand(len(x), -1, -1)
        x = torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)
        for block in self.blocks:
            x = block(x, None, transformer_options)
        return self.norm(x)[:, 1 + REGISTERS :]


class Backbone(nn.Module):
    """Patch encoder, then pairs of a block within each view and a block over all views."""

    patch = 14
    specials = 1 + REGISTERS

    def __init__(
        self,
        width: int,
        depth: int,
        hidden: int,
        *,
        operations=nn,
        dtype: torch.dtype | None = None,
        device=None,
        attention=attention,
    ):
        super().__init__()
        factory = {"operations": operations, "dtype": dtype, "device": device, "attention": attention}
        self.channels = 2 * width
        self.camera_token = nn.Parameter(torch.empty(1, 2, 1, width, dtype=dtype, device=device))
        self.register_token = nn.Parameter(torch.empty(1, 2, REGISTERS, width, dtype=dtype, device=device))
        self.patch_embed = PatchEncoder(width, depth, hidden, self.patch, **factory)
        self.frame_blocks, self.global_blocks = (
            nn.ModuleList(
                Block(width, HEADS, hidden, eps=1e-5, qk_norm=True, **factory) for _ in range(LEVEL_PAIRS[-1] + 1)
            )
            for _ in range(2)
        )

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], **factory) -> "Backbone":
        """Build with the dimensions of a state dict."""
        hidden, width = tensors["frame_blocks.0.mlp.fc1.weight"].shape
        return cls(width, count_blocks(tensors, "patch_embed.blocks."), hidden, **factory)

    def forward(
        self, images: Tensor, levels: int = 4, transformer_options: dict | None = None, scenes: int = 1
    ) -> list[Tensor]:
        """Encode views together.

        images (V, 3, H, W) in [0, 1]; levels: how many of the four to compute. Returns raw features, one
        (V, 5 + h*w, C) per level. scenes: the images are of this many scenes, one after the other, of equally many
        views each.
        """
        V, _, H, W = images.shape
        h, w = H // self.patch, W // self.patch
        patches = self.patch_embed(normalize_images(images), h, w, transformer_options)
        # Entry 0 is the first view's, entry 1 that of all others.
        special = torch.cat([self.camera_token, self.register_token], dim=2)[0].to(patches.dtype)
        special = torch.cat([special[:1], special[1:].expand(V // scenes - 1, -1, -1)]).repeat(scenes, 1, 1)
        return self.alternate(torch.cat([special, patches], dim=1), h, w, 0, levels, transformer_options, scenes)

    def alternate(
        self,
        x: Tensor,
        h: int,
        w: int,
        start: int,
        levels: int,
        transformer_options: dict | None = None,
        scenes: int = 1,
    ) -> list[Tensor]:
        """Run pairs from `start` through that of level `levels` - 1; raw features of the levels on the way."""
        V, head_dim = x.shape[0] // scenes, x.shape[-1] // HEADS
        patches = grid_positions(h, w, x.device) + 1
        positions = torch.cat([torch.zeros_like(patches[:1]).expand(self.specials, -1), patches])
        within, across = Rope2D(positions, head_dim), Rope2D(positions.repeat(V, 1), head_dim)
        outputs = []
        for i in range(start, LEVEL_PAIRS[levels - 1] + 1):
            local = self.frame_blocks[i](x, within, transformer_options)
            together = local.unflatten(0, (scenes, V)).flatten(1, 2)
            x = self.global_blocks[i](together, across, transformer_options).view_as(local)
            if i in LEVEL_PAIRS:
                outputs.append(torch.cat([local, x], dim=-1))
        return outputs

    def propagate(
        self, level1: Tensor, h: int, w: int, transformer_options: dict | None = None, scenes: int = 1
    ) -> list[Tensor]:
        """Raw features of levels 2 and 3 from those of level 1, (V, 5 + h*w, C)."""
        return self.alternate(level1.chunk(2, dim=-1)[1], h, w, LEVEL_PAIRS[1] + 1, 4, transformer_options, scenes)

    def decoder_ready(self, raw: Tensor) -> Tensor:
        """(V, h*w, C): patch tokens as they are."""
        return raw[:, self.specials :]


class CameraHead(nn.Module):
    """Cameras from the last level's raw token 0, refined step by step over all views."""

    def __init__(
        self, width: int, depth: int, hidden: int, *, operations=nn, dtype=None, device=None, attention=attention
    ):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.token_norm = operations.LayerNorm(width, eps=1e-5, **factory)
        self.empty_pose_tokens = nn.Parameter(torch.empty(1, 1, 9, **factory))
        self.embed_pose = operations.Linear(9, width, **factory)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), operations.Linear(width, 3 * width, **factory))
        self.trunk = nn.Sequential(
            *(
                Block(width, HEADS, hidden, eps=1e-5, operations=operations, attention=attention, **factory)
                for _ in range(depth)
            )
        )
        self.trunk_norm = operations.LayerNorm(width, eps=1e-5, **factory)
        self.pose_branch = Mlp(width, width // 2, 9, operations=operations, **factory)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], **factory) -> "CameraHead":
        """Build with the dimensions of a state dict."""
        hidden, width = tensors["trunk.0.mlp.fc1.weight"].shape
        return cls(width, count_blocks(tensors, "trunk."), hidden, **factory)

    def encode(self, token: Tensor) -> Tensor:
        """token (V, C) -> (V, 9): world-to-camera translation, quaternion xyzw, vertical and horizontal fov."""
        token = self.token_norm(token)[None]
        bare = F.layer_norm(token, token.shape[-1:], eps=1e-6)
        known = self.empty_pose_tokens.to(token.dtype).expand(-1, token.shape[1], -1)
        pose = torch.zeros_like(known)
        for _ in range(REFINEMENTS):
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(known)).chunk(3, dim=-1)
            x = gate * (bare * (1 + scale) + shift) + token
            known = pose = pose + self.pose_branch(self.trunk_norm(self.trunk(x)))
        return torch.cat([pose[0, :, :7], F.relu(pose[0, :, 7:])], dim=-1)

    def forward(self, token: Tensor, height: int, width: int) -> Cameras:
        """token (V, C) -> cameras (camera-to-world) for images of height x width pixels."""
        w2c, K = decode_pose(self.encode(token), height, width)
        return Cameras(torch.linalg.inv(w2c), K, height, width)
