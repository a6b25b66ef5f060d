"""Training by the clock: the small model's networks on one GPU, on rooms that other processes render meanwhile.

The stages of `stages.py` draw every scene by itself, so that a training goes on to the same bit anywhere. A GPU would
wait for that most of the time. Here rooms, cameras and noise are drawn on the device for all scenes of a batch at once,
a whole step of a diffusion model is one CUDA graph, and the learning rate follows the time that is left: a training
ends when its minutes are over, however fast the device.
"""

import threading
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import flow
from ..checkpoints import DA3_PREFIX, Statistics, find, load_diffusion, without_prefix
from ..conditioning import DA3_CASCADE_SIZE
from ..networks.dit import MultiViewDiT, full_float32_convolutions
from ..networks.layers import attention
from ..pipeline import load_autoencoder
from ..synthetic.rooms import LARGE_SIZE, SIZES, read_room
from .objectives import confident, picture_losses
from .stages import released_file, write_decoders, write_diffusion, write_model

# A share of the scenes has its three colours in another order.
COLOURS_MIXED = 0.3
ORDERS = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]


@dataclass(frozen=True)
class Shape:
    """What all scenes of a batch have alike: height and width of their pictures, numbers of views and of sources."""

    size: tuple[int, int]
    views: int
    sources: int


WIDE, SQUARE = SIZES[0], SIZES[-1]
# The batches of a training and how often each is drawn.
SHAPES = {
    Shape(WIDE, 6, 2): 0.3,
    Shape(WIDE, 6, 1): 0.15,
    Shape(WIDE, 8, 3): 0.15,
    Shape(WIDE, 8, 4): 0.1,
    Shape(SQUARE, 6, 2): 0.12,
    Shape(LARGE_SIZE, 6, 2): 0.18,
}
# Those of the decoders: cameras are to be found in two to four photographs.
DECODER_SHAPES = {
    Shape(WIDE, 2, 1): 0.15,
    Shape(WIDE, 4, 1): 0.35,
    Shape(WIDE, 6, 1): 0.2,
    Shape(SQUARE, 4, 1): 0.1,
    Shape(LARGE_SIZE, 4, 1): 0.2,
}
# The backbone's blocks behind level 1 that attend over all views. The last one's output is level 3.
ACROSS = (9, 11)
CAMERA_DROP = 0.1
WARMUP = 100
# Decay of the averaged weights in a step.
EMA = 0.998
# With this the nodes sample the small model.
SAMPLE_STEPS, CFG = 4, 1.5


@dataclass(frozen=True)
class Scenes:
    """B scenes of V views, of which the first `sources` are the photographs, all on one device.

    images (B, V, 3, H, W) in [0, 1]; depth (B, V, H, W) in metres along the camera's axis; c2w (B, V, 4, 4) and
    K (B, 3, 3) float64.
    """

    images: Tensor
    depth: Tensor
    c2w: Tensor
    K: Tensor
    sources: int

    @property
    def grid(self) -> tuple[int, int]:
        return self.images.shape[-2] // 14, self.images.shape[-1] // 14

    def copy_(self, other: "Scenes") -> None:
        """Take the values of scenes of the same shape."""
        for name in ("images", "depth", "c2w", "K"):
            getattr(self, name).copy_(getattr(other, name))


@dataclass
class Stack:
    """Rooms of one size: pictures, depth, poses, intrinsics. The tensors have room for more than `count` of them."""

    tensors: list[Tensor]
    count: int = 0

    def add(self, room: tuple[Tensor, ...], device: torch.device) -> None:
        if self.count == len(self.tensors[0]):
            self.tensors = [torch.cat([value, torch.empty_like(value)]) for value in self.tensors]
        for kept, value in zip(self.tensors, room, strict=True):
            kept[self.count] = value.to(device)
        self.count += 1


@dataclass
class Pool:
    """Rooms on the device, from a folder of `write_rooms` that may be filled meanwhile."""

    folder: Path
    device: torch.device
    stacks: dict[tuple[int, int], Stack] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    waiting: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Kept here, since a copy from the host waits for the device.
        self.orders = torch.tensor(ORDERS, device=self.device)
        self.across = torch.diag(torch.tensor([-1.0, 1, 1, 1], dtype=torch.float64, device=self.device))

    def watch(self) -> None:
        """Read new files from now on, in a thread of its own."""

        def work() -> None:
            while True:
                self.read()
                time.sleep(0.5)

        threading.Thread(target=work, daemon=True).start()

    def read(self) -> None:
        for path in sorted(self.folder.glob("room_*.npz")):
            if path.name in self.known:
                continue
            self.known.add(path.name)
            room = read_room(self.folder, int(path.stem.removeprefix("room_")))
            self.waiting.append((room.images, room.depth.half(), room.cameras.c2w.double(), room.cameras.K[0].double()))

    def take(self) -> int:
        """Bring what was read to the device. The number of rooms there."""
        while self.waiting:
            room = self.waiting.pop()
            size = (room[0].shape[-2], room[0].shape[-1])
            if size not in self.stacks:
                self.stacks[size] = Stack([value.new_empty(256, *value.shape, device=self.device) for value in room])
            self.stacks[size].add(room, self.device)
        return sum(stack.count for stack in self.stacks.values())

    def draw(self, shape: Shape, pictures: int) -> Scenes:
        """As many scenes of a shape as have about so many pictures of 126x70; mirrored, and with other colours."""
        (H, W), V = shape.size, shape.views
        stack, device = self.stacks[shape.size], self.device
        B = max(1, round(pictures * WIDE[0] * WIDE[1] / (H * W) / V))
        room = torch.randint(stack.count, (B, 1), device=device)
        frame = torch.rand(B, stack.tensors[0].shape[1], device=device).argsort(dim=1)[:, :V]
        images, depth, c2w = (kept[room, frame] for kept in stack.tensors[:3])
        order = torch.randint(len(ORDERS), (B,), device=device) * (torch.rand(B, device=device) < COLOURS_MIXED)
        images = images.gather(2, self.orders[order][:, None, :, None, None].expand_as(images))
        mirrored = torch.rand(B, device=device) < 0.5
        images = torch.where(mirrored[:, None, None, None, None], images.flip(-1), images)
        depth = torch.where(mirrored[:, None, None, None], depth.flip(-1), depth)
        c2w = torch.where(mirrored[:, None, None, None], self.across @ c2w @ self.across, c2w)
        return Scenes(images.float() / 255, depth.float(), c2w, stack.tensors[3][room[:, 0]], shape.sources)


def rigid_inverse(pose: Tensor) -> Tensor:
    """Inverse of poses (..., 4, 4). `linalg.inv` would wait for the device to learn whether there is one."""
    out = pose.transpose(-1, -2).clone()
    out[..., 3, :3] = 0
    out[..., :3, 3:] = -out[..., :3, :3] @ pose[..., :3, 3:]
    return out


def lens_inverse(K: Tensor) -> Tensor:
    """Inverse of intrinsics (..., 3, 3) without skew."""
    out = torch.diag_embed(1 / K.diagonal(dim1=-2, dim2=-1))
    out[..., :2, 2] = -K[..., :2, 2] / K.diagonal(dim1=-2, dim2=-1)[..., :2]
    return out


def camera_conditions(scenes: Scenes, level: int, known: Tensor) -> tuple[Tensor, Tensor]:
    """`conditioning.conditions` of B scenes at once: camera_map (B, V, 7, H, W), matrices (B, V, 3, 4, 4), float32.

    known (B,): whether a scene's cameras are given, or are left out as in guidance's unconditional branch.
    """
    c2w, K = scenes.c2w, scenes.K
    B, V, _, H, W = scenes.images.shape
    relative = rigid_inverse(c2w[:, -1:]) @ c2w
    scale = 1 / (relative[:, :, :3, 3].abs().amax(dim=(1, 2)) + 1e-8)
    y, x = torch.meshgrid(
        torch.arange(H, dtype=torch.float64, device=K.device),
        torch.arange(W, dtype=torch.float64, device=K.device),
        indexing="ij",
    )
    pixels = torch.stack([x - 0.5, y + 0.5, torch.ones_like(x)]).flatten(1)
    direction = (relative[:, :, :3, :3] @ lens_inverse(K)[:, None] @ pixels).float()
    direction = direction / direction.square().sum(dim=2, keepdim=True).sqrt()
    origin = (relative[:, :, :3, 3] * scale[:, None, None]).float()[..., None].expand_as(direction)
    rays = torch.cat([direction, torch.linalg.cross(origin, direction, dim=2)], dim=2).unflatten(3, (H, W))
    mask = torch.zeros(B, V, 1, H, W, device=K.device)
    mask[:, scenes.sources :] = 1
    camera_map = torch.cat([mask, rays * known.view(B, 1, 1, 1, 1)], dim=2)

    w2c = rigid_inverse(c2w)
    w2c[:, :, :3, 3] *= scale[:, None, None]
    eye = torch.eye(4, dtype=torch.float64, device=K.device)
    w2c = torch.where(known.view(B, 1, 1, 1), w2c, eye)
    height, width = (H, W) if level == 1 else (DA3_CASCADE_SIZE, DA3_CASCADE_SIZE)
    if level == 1:
        K = torch.where(known.view(B, 1, 1), K, eye[:3, :3])
    lifted = eye.repeat(B, 1, 1, 1)
    lifted[:, 0, 0, 0], lifted[:, 0, 1, 1] = K[:, 0, 0] / width, K[:, 1, 1] / height
    lifted[:, 0, 0, 2], lifted[:, 0, 1, 2] = K[:, 0, 2] / width - 0.5, K[:, 1, 2] / height - 0.5
    P = lifted @ w2c
    matrices = torch.stack([P.transpose(2, 3), rigid_inverse(w2c) @ lifted, P], dim=2)
    return camera_map, matrices.float()


class Networks:
    """The frozen networks of a model folder on the device, in float32, and what is computed with them."""

    def __init__(self, folder: Path, device: torch.device):
        self.folder, self.device = folder, device
        self.autoencoder = load_autoencoder(folder, "da3", device=device)
        networks = {
            name: self.autoencoder.network(name) for name in ("backbone", "camera_decoder", "gld_head", "rgb_decoder")
        }
        self.backbone, self.camera_decoder, self.gld_head, self.rgb_decoder = (
            network.float() for network in networks.values()
        )
        # Half precision is as good as what is kept on disk, and bfloat16 is not.
        self.encoder = deepcopy(self.backbone).half() if device.type == "cuda" else self.backbone
        self.statistics = [
            Statistics(*(value.to(device) for value in (s.mean, s.var)))
            for s in (self.autoencoder.statistics[f"normalization{level}"] for level in (0, 1))
        ]

    @torch.no_grad()
    def raw(self, images: Tensor) -> list[Tensor]:
        """images (B, V, 3, H, W) -> raw features (B * V, 1 + h*w, C) of levels 0 and 1."""
        flat = images.flatten(0, 1).to(self.encoder.norm.weight.dtype)
        with torch.autocast(images.device.type, enabled=False):
            return [level.float() for level in self.encoder(flat, 2, scenes=len(images))]

    def latent(self, raw: Tensor, level: int, scenes: int) -> Tensor:
        """Raw features to normalised ones (B, V, h*w, C)."""
        return self.statistics[level].normalize(raw[:, 1:]).unflatten(0, (scenes, -1))

    def raw_of(self, latent: Tensor, level: int, token: Tensor) -> Tensor:
        """Latents (B, V, h*w, C) to raw features, with the raw token (B, C) in all views."""
        B, V = latent.shape[:2]
        patches = self.statistics[level].denormalize(latent.flatten(0, 1))
        return torch.cat([token[:, None, None].expand(B, V, 1, -1).flatten(0, 1), patches], dim=1)


def prepare(
    network: MultiViewDiT, latent: Tensor, scenes: Scenes, level: int, known: Tensor, level1: Tensor | None
) -> dict[str, Any]:
    """`MultiViewDiT.prepare` of B scenes. latent (B, N, h*w, C) of the sources; level1 (B, V, h*w, C)."""
    camera_map, matrices = camera_conditions(scenes, level, known)
    B, V = camera_map.shape[:2]
    N = latent.shape[1]
    with torch.autocast(latent.device.type, enabled=False), full_float32_convolutions(latent.device):
        condition = network.camera_embedder(camera_map.flatten(0, 1)).unflatten(0, (B, V))
    patches = torch.cat([latent, latent.new_zeros(B, V - N, *latent.shape[2:])], dim=1)
    condition = condition + network.embed("s", "condition", patches, N)
    if level1 is not None:
        condition = condition + network.embed("s", "state", level1, N)
    return {
        "condition_s": condition,
        "condition_x": network.embed("x", "condition", patches, N),
        "condition_special": patches[:, :, :0],
        "matrices": matrices,
        "grid": scenes.grid,
        "sources": N,
        "cascade": level1 is not None,
    }


def to_grid(latent: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, V, h*w, C) -> (B, C, V, h, w)"""
    return latent.permute(0, 3, 1, 2).unflatten(3, grid)


def from_grid(latent: Tensor) -> Tensor:
    """(B, C, V, h, w) -> (B, V, h*w, C)"""
    return latent.flatten(3).permute(0, 2, 3, 1)


@torch.no_grad()
def sample_level1(network: MultiViewDiT, sources: Tensor, scenes: Scenes) -> Tensor:
    """Latents (B, V, h*w, C) that level 1 makes in SAMPLE_STEPS steps, guided, from noise of its own."""
    B, V = scenes.images.shape[:2]
    x = torch.randn(B, sources.shape[-1], V, *scenes.grid, device=sources.device)
    times = flow.time_grid(SAMPLE_STEPS, flow.default_shift("da3", sources.shape[-1], V)).tolist()
    branches = [
        prepare(network, sources, scenes, 1, torch.full((B,), known, device=sources.device), None)
        for known in (False, True)
    ]
    for t, after in zip(times, times[1:], strict=False):
        at = torch.full((B,), t, device=x.device)
        without, given = (network(x, at, **branch).float() for branch in branches)
        x = x + (after - t) * (without + CFG * (given - without))
    return from_grid(x)


class FlowLoss(nn.Module):
    """The loss of `FlowObjective`, and with a weight that of the pictures which the denoised features give.

    The features' own loss, the only one of the release, counts every channel alike, however little a picture owes to
    it. pixels: the weight; of a part of the scenes the pictures are decoded. level1: for the cascade, the network that
    makes the level-1 features which it is given.
    """

    def __init__(
        self, networks: Networks, network: MultiViewDiT, level: int, pixels: float, level1: MultiViewDiT | None
    ):
        super().__init__()
        # In lists, since their weights are not this module's.
        self.network, self.level, self.pixels = network, level, pixels
        self.frozen, self.level1 = [networks], [level1]

    def forward(self, scenes: Scenes) -> tuple[Tensor, dict[str, Tensor]]:
        networks, level, N = self.frozen[0], self.level, scenes.sources
        B, V = scenes.images.shape[:2]
        raw, alone = networks.raw(scenes.images), networks.raw(scenes.images[:, :N])
        latents = [networks.latent(raw[k], k, B) for k in (0, 1)]
        sources = networks.latent(alone[level], level, B)
        level1 = None
        if self.level1[0] is not None:
            level1 = sample_level1(self.level1[0], networks.latent(alone[1], 1, B), scenes)
        known = torch.rand(B, device=raw[0].device) >= CAMERA_DROP
        prepared = prepare(self.network, sources, scenes, level, known, level1)
        data = to_grid(latents[level], scenes.grid)
        shift = flow.default_shift("da3", data.shape[1], V)
        u = torch.rand(B, device=data.device)
        t = shift * flow.LAST_NOISE * u / (1 + (shift - 1) * flow.LAST_NOISE * u)
        at, noise = t.view(-1, 1, 1, 1, 1), torch.randn_like(data)
        noisy = (1 - at) * data + at * noise
        velocity = self.network(noisy, t, **prepared).float()
        error = (velocity - (noise - data)).square()
        loss = error.mean()
        figures = {"sources": error[:, :, :N].mean(), "targets": error[:, :, N:].mean()}
        if self.pixels:
            some = max(1, B // 3)
            made = from_grid((noisy - at * velocity)[:some])
            token = networks.raw(scenes.images[:some, :1])[1][:, 0]
            raw1 = networks.raw_of(made if level1 is None else level1[:some], 1, token)
            levels = [raw1, *networks.backbone.propagate(raw1, *scenes.grid, scenes=some)]
            ready = [networks.backbone.decoder_ready(value) for value in levels]
            # Level 1 is looked at without level 0.
            first = (
                torch.zeros_like(ready[0])
                if level
                else networks.backbone.decoder_ready(networks.raw_of(made, 0, token))
            )
            images = networks.rgb_decoder(torch.cat([first, *ready], dim=-1), *scenes.grid)
            difference = (images.float() - scenes.images[:some].flatten(0, 1)).unflatten(0, (some, V))
            loss = loss + self.pixels * (4 * difference.square().mean() + difference.abs().mean())
            figures["psnr"] = -10 * difference[:, N:].square().mean(dim=(1, 2, 3, 4)).log10().mean()
        return loss, {name: value.detach() for name, value in figures.items()}


# Largest noise on features, in units of their deviation, and the share of scenes without level 0.
FEATURE_NOISE, LEVEL_DROP = 0.35, 0.1


def first_view_matches(scenes: Scenes) -> tuple[Tensor, Tensor, Tensor]:
    """Where the first view shows what is in the middle of the patches of the others, by depth and cameras.

    wanted (B, V - 1, n, n): shares of the first view's patches, of four at most; move (B, V - 1, n, 2): columns and
    rows to it, in patches; seen (B, V - 1, n): 1 where the first view shows it, 0 where not.
    """
    h, w = scenes.grid
    V, _, H, W = scenes.images.shape[1:]
    device = scenes.depth.device
    y, x = (torch.arange(size // 14, dtype=torch.float64, device=device) * 14 + 7 for size in (H, W))
    x, y = torch.meshgrid(x, y, indexing="xy")
    pixels = torch.stack([x + 0.5, y + 0.5, torch.ones_like(x)], dim=-1).flatten(0, 1)
    depth = scenes.depth[:, 1:, 7::14, 7::14].flatten(2).double()
    points = torch.einsum("bij,nj->bni", lens_inverse(scenes.K), pixels)[:, None] * depth[..., None]
    step = rigid_inverse(scenes.c2w[:, :1]) @ scenes.c2w[:, 1:]
    points = points @ step[..., :3, :3].transpose(-1, -2) + step[..., None, :3, 3]
    away = points[..., 2]
    place = points @ scenes.K[:, None].transpose(-1, -2)
    place = place[..., :2] / place[..., 2:]
    end = torch.tensor([W, H], device=device)
    pixel = torch.minimum(place.clamp(min=0), end - 1).long()
    there = scenes.depth[:, :1].flatten(2).expand(-1, V - 1, -1).gather(2, pixel[..., 1] * W + pixel[..., 0])
    seen = ((away > 0.1) & ((place > 0) & (place < end)).all(dim=-1) & ((there - away).abs() < 0.1 * away)).float()
    grid = torch.minimum((place / 14 - 0.5).clamp(min=0), end / 14 - 1).float()
    shares = [
        (1 - (grid[..., i, None] - torch.arange(size, device=device)).abs()).clamp(min=0)
        for i, size in enumerate((w, h))
    ]
    wanted = (shares[1][..., :, None] * shares[0][..., None, :]).flatten(-2)
    return wanted, grid - (pixels[:, :2] / 14 - 0.5).float(), seen


def quaternions(R: Tensor) -> Tensor:
    """(..., 3, 3) rotations of less than half a turn -> (..., 4) quaternions x, y, z, w with w above 0."""
    w = (1 + R.diagonal(dim1=-2, dim2=-1).sum(-1)).clamp(min=1e-6).sqrt() / 2
    x, y, z = R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]
    return torch.cat([torch.stack([x, y, z], dim=-1) / (4 * w[..., None]), w[..., None]], dim=-1)


class DecoderLoss(nn.Module):
    """RGB decoder, geometry head, camera decoder and the backbone's blocks behind level 1.

    On features of the pictures ("true"), or on the same with noise ("noisy"). Depth and the camera decoder's positions
    are in metres. Head: rays in each view's own frame, positions 0, so that `Geometry.align_to` leaves depth as it is.

    Cameras are learned in steps, since nothing is learned of them from their own losses alone: in the blocks over all
    views, one head of the attention is to look at the patch of the first view that shows the same; from a patch's token
    behind it, `probe` is to say where that lies; and of these the camera decoder makes cameras.
    """

    def __init__(self, networks: Networks):
        super().__init__()
        self.frozen = [networks]
        backbone = networks.backbone
        self.probe = nn.ModuleList(nn.Linear(backbone.channels // 2, 2) for _ in ACROSS).to(networks.device)
        self.looks: list[tuple[Tensor, Tensor]] = []
        for i in ACROSS:
            backbone.blocks[i].attn.attention = self.attention
        self.trained = nn.ModuleDict(
            {
                "blocks": backbone.blocks[8:],
                "norm": backbone.norm,
                "camera_decoder": networks.camera_decoder,
                "gld_head": networks.gld_head,
                "rgb_decoder": networks.rgb_decoder,
            }
        )
        last = networks.gld_head.scratch.output_conv2_aux[3][5]
        with torch.no_grad():
            last.weight[3:6].zero_()
            last.bias[3:6].zero_()

    def attention(self, q: Tensor, k: Tensor, v: Tensor, transformer_options: dict | None) -> Tensor:
        self.looks.append((q[:, 0], k[:, 0]))
        return attention(q, k, v, transformer_options)

    def forward(self, scenes: Scenes, kind: str) -> tuple[Tensor, dict[str, Tensor]]:
        networks, (h, w) = self.frozen[0], scenes.grid
        B, V, _, H, W = scenes.images.shape
        raw = networks.raw(scenes.images)
        if kind == "noisy":
            token = networks.raw(scenes.images[:, :1])[1][:, 0]
            for level, value in enumerate(raw):
                latent = networks.latent(value, level, B)
                size = FEATURE_NOISE * torch.rand(B, 1, 1, 1, device=latent.device)
                raw[level] = networks.raw_of(latent + size * torch.randn_like(latent), level, token)
        self.looks.clear()
        raw = [*raw, *networks.backbone.propagate(raw[1], h, w, scenes=B)]
        ready = [networks.backbone.decoder_ready(level) for level in raw]
        keep = (torch.rand(B, device=ready[0].device) >= LEVEL_DROP).repeat_interleave(V)
        ready[0] = ready[0] * keep[:, None, None]
        truth = scenes.images.flatten(0, 1)
        difference = networks.rgb_decoder(torch.cat(ready, dim=-1), h, w) - truth
        losses = picture_losses(difference)
        figures = {"psnr": -10 * difference.square().flatten(1).mean(dim=1).log10().mean()}
        # The head costs more than all else, and every fourth picture is enough.
        some = torch.rand(B * V, device=truth.device).argsort()[: B * V // 4]
        maps = networks.gld_head([level[some] for level in ready], H, W)
        error = (maps["depth"].log() - scenes.depth.flatten(0, 1)[some].clamp(min=1e-3).log()).abs()
        y, x = (
            torch.arange(8 * n, dtype=torch.float64, device=truth.device) * size / (8 * n)
            for n, size in ((h, H), (w, W))
        )
        x, y = torch.meshgrid(x, y, indexing="xy")
        pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1)
        rays = torch.einsum("bij,yxj->byxi", lens_inverse(scenes.K), pixels).float().repeat_interleave(V, dim=0)[some]
        ray_error = (maps["ray"][..., :3] - rays).abs().mean(dim=-1)
        losses |= {"depth": confident(error, maps["depth_conf"]), "rays": confident(ray_error, maps["ray_conf"])}
        figures["depth_error"] = error.mean()
        if kind == "true":
            losses |= self.matching(scenes, raw[2:])
            losses |= self.pose(scenes, raw[3][:, 0], figures)
        total = sum((WEIGHTS[name] * value for name, value in losses.items()), truth.new_zeros(()))
        return total, {f"{name}_{kind}": value.detach() for name, value in (losses | figures).items()}

    def matching(self, scenes: Scenes, raw: list[Tensor]) -> dict[str, Tensor]:
        """Losses of what the blocks over all views say of where the first view shows the same."""
        (h, w), (B, V) = scenes.grid, scenes.images.shape[:2]
        n = h * w
        wanted, move, seen = first_view_matches(scenes)
        count = seen.sum().clamp(min=1)
        looks = moves = seen.new_zeros(())
        for (q, k), level, probe in zip(self.looks, raw, self.probe, strict=True):
            q = q.float().unflatten(1, (V, n + 1))[:, 1:, 1:] * q.shape[-1] ** -0.5
            found = torch.einsum("bvnd,bld->bvnl", q, k.float()).log_softmax(dim=-1)[..., 1 : n + 1]
            looks = looks - ((wanted * found).sum(dim=-1) * seen).sum() / count
            token = level[:, 1:, level.shape[-1] // 2 :].unflatten(0, (B, V))[:, 1:]
            said = probe(nn.functional.layer_norm(token.float(), token.shape[-1:]))
            moves = moves + ((said - move).abs().sum(dim=-1) * seen).sum() / count
        return {"looks": looks, "moves": moves}

    def pose(self, scenes: Scenes, token: Tensor, figures: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of the cameras seen from the first: positions in metres, rotations, fields of view."""
        B, V, _, H, W = scenes.images.shape
        decoder = self.frozen[0].camera_decoder
        x = decoder.backbone(token)
        relative = rigid_inverse(scenes.c2w[:, :1]) @ scenes.c2w
        t, q = relative[..., :3, 3].float().flatten(0, 1), quaternions(relative[..., :3, :3]).float().flatten(0, 1)
        fov = 2 * torch.atan(torch.stack([H / 2 / scenes.K[:, 1, 1], W / 2 / scenes.K[:, 0, 0]], dim=-1)).float()
        found_t, found_q, found_fov = decoder.fc_t(x).float(), decoder.fc_qvec(x).float(), decoder.fc_fov(x).float()
        others = torch.arange(B * V, device=t.device) % V > 0
        with torch.no_grad():
            unit = nn.functional.normalize(found_q, dim=-1)
            turned = 2 * (unit * q).sum(-1).abs().clamp(max=1).acos().rad2deg()
            off = nn.functional.cosine_similarity(found_t, t, dim=-1).clamp(-1, 1).acos().rad2deg()
            figures["turned"], figures["off"] = turned[others].median(), off[others].median()

        def pointing(vectors: Tensor) -> Tensor:
            return vectors / (vectors.square().sum(dim=-1, keepdim=True) + 0.05**2).sqrt()

        return {
            "t": (found_t - t).abs().mean(),
            "q": (found_q - q).abs().mean(),
            "fov": (found_fov - fov.repeat_interleave(V, dim=0)).abs().mean(),
            "direction": (pointing(found_t) - pointing(t)).abs().mean(),
            # Where a position is uncertain, the two above make it small.
            "length": (found_t.norm(dim=-1).add(0.05).log() - t.norm(dim=-1).add(0.05).log())[others].abs().mean(),
        }


class CameraLoss(DecoderLoss):
    """The camera decoder and the backbone's blocks behind level 1, for cameras alone.

    What the blocks make of patches is kept near to what it was, so that the other decoders go on reading it.
    """

    def __init__(self, networks: Networks):
        before = deepcopy(networks.backbone)
        super().__init__(networks)
        self.before = [before]

    def forward(self, scenes: Scenes, kind: str) -> tuple[Tensor, dict[str, Tensor]]:
        networks, before, grid = self.frozen[0], self.before[0], scenes.grid
        B = len(scenes.images)
        level1 = networks.raw(scenes.images)[1]
        with torch.no_grad():
            old = [before.decoder_ready(raw).float() for raw in before.propagate(level1, *grid, scenes=B)]
        self.looks.clear()
        raw = networks.backbone.propagate(level1, *grid, scenes=B)
        moved = [
            ((networks.backbone.decoder_ready(new).float() - ready) / (ready.flatten(0, 1).std(dim=0) + 1e-4)).square()
            for new, ready in zip(raw, old, strict=True)
        ]
        figures: dict[str, Tensor] = {}
        losses = {"kept": torch.stack(moved).mean(), **self.matching(scenes, raw)}
        losses |= self.pose(scenes, raw[1][:, 0], figures)
        total = sum((WEIGHTS[name] * value for name, value in losses.items()), level1.new_zeros(()))
        return total, {name: value.detach() for name, value in (losses | figures).items()}


WEIGHTS = {
    "rgb": 1, "edges": 1, "borders": 1, "depth": 0.5, "rays": 0.25,
    "looks": 0.2, "moves": 0.2, "t": 1, "q": 8, "fov": 1, "direction": 0.3, "length": 0.3, "kept": 3,
}  # fmt: skip


def fit(
    module: Any,
    pool: Pool,
    out: Callable[[dict[str, Tensor]], None],
    seconds: float,
    pictures: int,
    lr: float,
    say: Callable[[str], None],
    seed: int,
    kinds: tuple[str, ...] = (),
    drawn: dict[Shape, float] = SHAPES,
    precision: torch.dtype = torch.bfloat16,
) -> None:
    """Train what asks for a gradient in `module` for so many seconds: warm-up over WARMUP steps, then half a cosine.

    pool: has rooms. kinds: what `module` is called with in turn, beside the scenes. drawn: the shapes of batches and
    how often each is drawn. out(averaged weights) at the end.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    parameters = list(trained.values())
    device = pool.device
    rate = torch.zeros((), device=device)
    optimizer = torch.optim.AdamW(
        parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True, capturable=device.type == "cuda"
    )
    ema = [p.detach().clone() for p in parameters]
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)

    def step(scenes: Scenes, *kind: str) -> dict[str, Tensor]:
        optimizer.zero_grad()
        with torch.autocast(device.type, precision, enabled=precision != torch.float32, cache_enabled=False):
            loss, figures = module(scenes, *kind)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        # Nothing waits for the device: a gradient that is not finite counts as none.
        for p in parameters:
            if p.grad is not None:
                p.grad.nan_to_num_(0, 0, 0)
        optimizer.step()
        torch._foreach_lerp_(ema, [p.detach() for p in parameters], 1 - EMA)
        return {**figures, "norm": norm}

    # Decoders are computed step by step: their head makes tables on the host.
    recorded = device.type == "cuda" and not kinds
    graphs: dict[Shape, Recorded] = {}
    memory = torch.cuda.graph_pool_handle() if recorded else None
    began = said = time.monotonic()
    sums: dict[str, Tensor] = {}
    times: dict[str, int] = {}
    shapes, shares = list(drawn), np.array(list(drawn.values()))
    count = 0
    while (over := (time.monotonic() - began) / seconds) < 1:
        if count % 20 == 0:
            found = pool.take()
            if device.type == "cuda":
                torch.cuda.synchronize()
            now = time.monotonic()
            if now - said > 10:
                text = "  ".join(f"{name} {float(total) / times[name]:.4g}" for name, total in sums.items())
                say(f"{now - began:5.0f} s, step {count}, {found} rooms: {text}")
                sums, times, said = {}, {}, now
        rate.fill_(lr * min(1.0, (count + 1) / WARMUP) * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * over))))
        there = shares * [shape.size in pool.stacks for shape in shapes]
        shape = shapes[int(rng.choice(len(shapes), p=there / there.sum()))]
        scenes = pool.draw(shape, pictures)
        if recorded:
            if shape not in graphs:
                graphs[shape] = Recorded(step, scenes, memory)
            figures = graphs[shape](scenes)
        else:
            figures = step(scenes, *([kinds[count % len(kinds)]] if kinds else []))
        for name, value in figures.items():
            sums[name] = sums.get(name, 0) + value
            times[name] = times.get(name, 0) + 1
        count += 1
    out(dict(zip(trained, ema, strict=True)))


class Recorded:
    """A step on scenes of one shape as a CUDA graph, which is recorded once and then replayed.

    Graphs that share `memory` are replayed one after the other.
    """

    def __init__(self, step: Callable[[Scenes], dict[str, Tensor]], scenes: Scenes, memory: Any):
        self.scenes = scenes
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step(scenes)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.empty_cache()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=memory):
            self.figures = step(scenes)

    def __call__(self, scenes: Scenes) -> dict[str, Tensor]:
        self.scenes.copy_(scenes)
        self.graph.replay()
        return self.figures


def deepened(network: MultiViewDiT) -> MultiViewDiT:
    """The same function with one block more in the condition encoder: a copy of the last, behind closed gates."""
    depth = network.config.encoder_depth
    out = MultiViewDiT(replace(network.config, encoder_depth=depth + 1), dtype=torch.float32)
    for i, block in enumerate(out.blocks):
        block.load_state_dict(network.blocks[i if i < depth else i - 1].state_dict())
    for name, value in out.blocks[depth].named_parameters():
        if "adaLN_modulation" in name:
            nn.init.zeros_(value)
    rest = {name: value for name, value in network.state_dict().items() if not name.startswith("blocks.")}
    out.load_state_dict(rest, strict=False)
    return out


def train(
    part: str,
    models: Path,
    out: Path,
    rooms: Path,
    seconds: float,
    pictures: int,
    lr: float,
    seed: int,
    device: torch.device,
    pixels: float,
    least: int,
    deeper: bool,
    precision: torch.dtype,
    say: Callable[[str], None],
) -> None:
    """Train a `part` (level1, cascade, decoders or cameras) of the model in `models`; the result is in `out`.

    rooms: a folder that others fill; it starts with `least` of them. ValueError for numbers that nothing can be trained
    with.
    """
    if min(seconds, pictures, lr, least) <= 0:
        raise ValueError("--seconds, --pictures, --lr and --least have to be above 0.")
    began = time.monotonic()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    networks = Networks(models, device)
    for network in (networks.backbone, networks.camera_decoder, networks.gld_head, networks.rgb_decoder):
        network.requires_grad_(False)
    pool = Pool(rooms, device)
    pool.watch()
    said = began
    while (found := pool.take()) < least:
        time.sleep(0.2)
        if time.monotonic() - said > 10:
            said = time.monotonic()
            say(f"{part}: {rooms} has {found} rooms of the {least} to begin with; the part rooms renders more.")
    say(f"{part}: {found} rooms after {time.monotonic() - began:.0f} s")
    seconds -= time.monotonic() - began
    if part in ("decoders", "cameras"):
        decoders = DecoderLoss(networks) if part == "decoders" else CameraLoss(networks)
        trained = decoders.trained.keys() if part == "decoders" else ("blocks", "camera_decoder")
        for name in trained:
            decoders.trained[name].requires_grad_(True)
        fit(
            decoders,
            pool,
            lambda ema: write_decoder_part(out, networks, {**decoders.state_dict(), **ema}),
            seconds,
            pictures,
            lr,
            say,
            seed,
            ("true", "noisy", "true") if part == "decoders" else ("true",),
            DECODER_SHAPES,
            precision,
        )
        return
    level = 1 if part == "level1" else 0
    network = load_diffusion(find(models, "da3", f"level{level}"), "da3", level, dtype=torch.float32)
    network = (deepened(network) if deeper else network).to(device).requires_grad_(True)
    network.t_embedder.W.requires_grad_(False)
    level1 = None
    if level == 0:
        level1 = load_diffusion(find(out, "da3", "level1"), "da3", 1, dtype=torch.float32).to(device)
    path = released_file(out, "da3", f"level{level}")
    fit(
        FlowLoss(networks, network, level, pixels, level1),
        pool,
        lambda ema: write_diffusion(path, network, ema),
        seconds,
        pictures,
        lr,
        say,
        seed,
        precision=precision,
    )


def write_decoder_part(out: Path, networks: Networks, values: dict[str, Tensor]) -> None:
    """Write the weights of a `DecoderLoss` as released files."""

    def of(name: str) -> dict[str, Tensor]:
        return without_prefix(values, f"trained.{name}.")

    state = dict(networks.backbone.state_dict())
    state |= {f"blocks.{8 + int(n.split('.')[0])}.{n.split('.', 1)[1]}": v for n, v in of("blocks").items()}
    state |= {f"norm.{name}": value for name, value in of("norm").items()}
    model = {DA3_PREFIX + name: value for name, value in state.items()}
    model |= {f"model.head.{name}": value for name, value in of("gld_head").items()}
    model |= {f"model.cam_dec.{name}": value for name, value in of("camera_decoder").items()}
    write_model(out, {name: value.detach().float().cpu().contiguous() for name, value in model.items()})
    write_decoders(out, "da3", {f"networks.{k}.{n}": v for k in ("gld_head", "rgb_decoder") for n, v in of(k).items()})
