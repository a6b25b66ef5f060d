"""Depth Anything 3 (Base): the frozen backbone GLD works in, and its camera encoder and decoder.

docs/model.md#the-da3-backbone and docs/model.md#da3s-own-inference

Raw features of a level are (V, 1 + h*w, C), token 0 first; C is twice the width E.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cameras import Cameras
from ..cameras.conventions import decode_pose
from .layers import Block, Mlp, PatchEmbed, Rope2D, attention, count_blocks, grid_positions, normalize_images

LEVEL_LAYERS = (5, 7, 9, 11)
ALTERNATE_FROM = 4
POSITION_GRID = 37


class Backbone(nn.Module):
    """ViT whose blocks, from the fourth on, alternate between attention within a view and over all views."""

    patch = 14
    specials = 1

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
        factory = {"dtype": dtype, "device": device}
        self.heads = width // 64
        self.channels = 2 * width
        self.cls_token = nn.Parameter(torch.empty(1, 1, width, **factory))
        self.camera_token = nn.Parameter(torch.empty(1, 2, width, **factory))
        self.pos_embed = nn.Parameter(torch.empty(1, POSITION_GRID**2 + 1, width, **factory))
        self.patch_embed = PatchEmbed(3, width, self.patch, operations=operations, **factory)
        self.blocks = nn.ModuleList(
            Block(
                width,
                self.heads,
                hidden,
                eps=1e-6,
                qk_norm=i >= ALTERNATE_FROM,
                operations=operations,
                attention=attention,
                **factory,
            )
            for i in range(depth)
        )
        self.norm = operations.LayerNorm(width, eps=1e-5, **factory)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], **factory) -> "Backbone":
        """Build with the dimensions of a state dict."""
        hidden, width = tensors["blocks.0.mlp.fc1.weight"].shape
        return cls(width, count_blocks(tensors, "blocks."), hidden, **factory)

    def position_embedding(self, h: int, w: int) -> Tensor:
        """(1, 1 + h*w, E): entry 0 for CLS, the patch part resized in float32."""
        table = self.pos_embed.float()
        if (h, w) == (POSITION_GRID, POSITION_GRID):
            return table
        grid = table[:, 1:].unflatten(1, (POSITION_GRID, POSITION_GRID)).permute(0, 3, 1, 2)
        # Quirk: the offset 0.1 goes into the scale factors, not only into the output size.
        scale = ((h + 0.1) / POSITION_GRID, (w + 0.1) / POSITION_GRID)
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", antialias=False)
        return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)

    def forward(
        self,
        images: Tensor,
        levels: int = 4,
        camera_tokens: Tensor | None = None,
        choose_reference: bool = False,
        transformer_options: dict | None = None,
        scenes: int = 1,
    ) -> list[Tensor]:
        """Encode views together.

        images (V, 3, H, W) in [0, 1]; levels: how many of the four to compute. Returns raw features, one
        (V, 1 + h*w, C) per level. camera_tokens (V, E) takes the place of the learned ones. choose_reference is
        DA3's own inference: it moves a reference view to the front; the order of the outputs stays the input's.
        scenes: the images are of this many scenes, one after the other, of equally many views each.
        """
        V, _, H, W = images.shape
        h, w = H // self.patch, W // self.patch
        dtype = images.dtype
        x = self.patch_embed(normalize_images(images))
        x = torch.cat([self.cls_token.to(dtype).expand(V, -1, -1), x], dim=1)
        x = x + self.position_embedding(h, w).to(dtype)

        for i in range(ALTERNATE_FROM - 1):
            x = self.blocks[i](x, None, transformer_options)
        order = torch.arange(V, device=x.device)
        if choose_reference and V >= 3:
            reference = reference_view(x[:, 0])
            # The reference first, then the others in their order, without waiting for its number.
            order = torch.where(order == 0, reference, order - (order <= reference).long())
        x = self.blocks[ALTERNATE_FROM - 1](x[order], None, transformer_options)

        if camera_tokens is None:
            first, rest = self.camera_token.to(dtype).unbind(1)
            camera_tokens = torch.cat([first, rest.expand(V // scenes - 1, -1)]).repeat(scenes, 1)
        x = torch.cat([camera_tokens.to(dtype)[:, None], x[:, 1:]], dim=1)
        raw = self.alternate(x, x, h, w, ALTERNATE_FROM, levels, transformer_options, scenes)
        return [level[order.argsort()] for level in raw]

    def alternate(
        self,
        x: Tensor,
        local: Tensor,
        h: int,
        w: int,
        start: int,
        levels: int,
        transformer_options: dict | None = None,
        scenes: int = 1,
    ) -> list[Tensor]:
        """Run blocks from `start` through the layer of level `levels` - 1; raw features of the levels on the way.

        x, local (V, 1 + h*w, E): the current state and that after the most recent block within views.
        """
        V, head_dim = x.shape[0] // scenes, x.shape[-1] // self.heads
        patches = grid_positions(h, w, x.device) + 1
        special = torch.zeros_like(patches[:1])
        within = Rope2D(torch.cat([special, patches]), head_dim)
        # Over all views every patch has position (1, 1), every special token (0, 0).
        across = Rope2D(torch.cat([special, torch.ones_like(patches)]).repeat(V, 1), head_dim)
        outputs = []
        for i in range(start, LEVEL_LAYERS[levels - 1] + 1):
            if i % 2:
                x = self.blocks[i](x.unflatten(0, (scenes, V)).flatten(1, 2), across, transformer_options).view_as(x)
            else:
                local = x = self.blocks[i](x, within, transformer_options)
            if i in LEVEL_LAYERS:
                outputs.append(torch.cat([local, x], dim=-1))
        return outputs

    def propagate(
        self, level1: Tensor, h: int, w: int, transformer_options: dict | None = None, scenes: int = 1
    ) -> list[Tensor]:
        """Raw features of levels 2 and 3 from those of level 1, (V, 1 + h*w, C)."""
        local, x = level1.chunk(2, dim=-1)
        return self.alternate(x, local, h, w, LEVEL_LAYERS[1] + 1, 4, transformer_options, scenes)

    def decoder_ready(self, raw: Tensor) -> Tensor:
        """(V, h*w, C): patch tokens with the final norm on the second half of the channels."""
        local, current = raw[:, self.specials :].chunk(2, dim=-1)
        return torch.cat([local, self.norm(current)], dim=-1)


def reference_view(tokens: Tensor) -> Tensor:
    """Index of the view DA3 puts first: the most average of (V, E) token-0 states in likeness, norm and spread."""
    norm = tokens.norm(dim=-1, keepdim=True)
    unit = tokens / norm
    V = len(tokens)
    likeness = ((unit @ unit.T).sum(dim=-1) - 1) / (V - 1)
    scores = torch.stack([likeness, norm[:, 0], unit.var(dim=-1)])
    low, high = scores.amin(dim=1, keepdim=True), scores.amax(dim=1, keepdim=True)
    scores = (scores - low) / (high - low + 1e-8)
    return (scores - 0.5).abs().sum(dim=0).argmin()


class CameraEncoder(nn.Module):
    """Known cameras to the tokens that replace the backbone's learned camera tokens."""

    def __init__(
        self, width: int, depth: int, hidden: int, *, operations=nn, dtype=None, device=None, attention=attention
    ):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.pose_branch = Mlp(9, width // 2, width, operations=operations, **factory)
        self.token_norm = operations.LayerNorm(width, eps=1e-5, **factory)
        self.trunk = nn.Sequential(
            *(
                Block(width, 16, hidden, eps=1e-5, operations=operations, attention=attention, **factory)
                for _ in range(depth)
            )
        )
        self.trunk_norm = operations.LayerNorm(width, eps=1e-5, **factory)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], **factory) -> "CameraEncoder":
        """Build with the dimensions of a state dict."""
        hidden, width = tensors["trunk.0.mlp.fc1.weight"].shape
        return cls(width, count_blocks(tensors, "trunk."), hidden, **factory)

    def forward(self, pose: Tensor) -> Tensor:
        """pose (V, 9) of `cameras.encode_pose` -> (V, E) camera tokens."""
        tokens = self.token_norm(self.pose_branch(pose))
        return self.trunk_norm(self.trunk(tokens[None]))[0]


class CameraDecoder(nn.Module):
    """Cameras from the last level's raw token 0."""

    def __init__(self, width: int, *, operations=nn, dtype=None, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.backbone = nn.Sequential(
            operations.Linear(width, width, **factory),
            nn.ReLU(),
            operations.Linear(width, width, **factory),
            nn.ReLU(),
        )
        self.fc_t = operations.Linear(width, 3, **factory)
        self.fc_qvec = operations.Linear(width, 4, **factory)
        self.fc_fov = nn.Sequential(operations.Linear(width, 2, **factory), nn.ReLU())

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], **factory) -> "CameraDecoder":
        """Build with the dimensions of a state dict."""
        return cls(tensors["fc_t.weight"].shape[1], **factory)

    def forward(self, token: Tensor, height: int, width: int) -> Cameras:
        """token (V, C) -> cameras (camera-to-world) for images of height x width pixels."""
        x = self.backbone(token)
        pose = torch.cat([self.fc_t(x), self.fc_qvec(x), self.fc_fov(x)], dim=-1)
        c2w, K = decode_pose(pose, height, width)
        return Cameras(c2w, K, height, width)
