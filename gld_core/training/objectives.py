"""Losses: the networks that a stage trains, and how wrong they are for a batch."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import flow
from ..autoencoder import Autoencoder, Views
from ..cameras import Cameras
from ..cameras.conventions import encode_pose
from ..checkpoints import Statistics
from ..conditioning import conditions
from ..evaluation.lpips import LPIPS
from ..networks.dit import MultiViewDiT
from ..pipeline import GLD

SHOW_STEPS = 16


@dataclass(frozen=True)
class Latents:
    """Latents of B scenes: `levels` are level 0 and level 1 of all V views, (B, V, C, ...) each.

    sources: the same of the N source views encoded on their own, (B, N, C, ...). token: (B, C) token 0 of every scene's
    first view, where the latents have no special tokens. given: (B,) number of the first views that were photographs
    where the others were generated. Each is None where it is not known.
    """

    levels: list[Tensor]
    sources: list[Tensor] | None = None
    token: Tensor | None = None
    given: Tensor | None = None

    def to(self, device: torch.device | str) -> "Latents":
        sources = None if self.sources is None else [value.to(device) for value in self.sources]
        token = None if self.token is None else self.token.to(device)
        given = None if self.given is None else self.given.to(device)
        return Latents([value.to(device) for value in self.levels], sources, token, given)


@dataclass(frozen=True)
class Batch:
    """B scenes of V views and one size. The first `sources` views of each are the photographs.

    images (B, V, 3, H, W) in [0, 1]; depth (B, V, H, W) along the camera's axis in the cameras' unit, or None. Each of
    the `seeds` is for the random numbers of one scene's loss, `seed` is the number of the step. latents: those that
    the data keeps of these views, or None.
    """

    images: Tensor
    depth: Tensor | None
    cameras: list[Cameras]
    sources: int
    seeds: list[int]
    seed: int
    latents: Latents | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """The batch with pictures, depth and latents on a device. Cameras stay where they are."""
        depth = None if self.depth is None else self.depth.to(device)
        latents = None if self.latents is None else self.latents.to(device)
        return replace(self, images=self.images.to(device), depth=depth, latents=latents)

    def generators(self) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in self.seeds]


class Objective(nn.Module):
    """Networks that are trained, and their loss. forward(batch) returns the loss and values for the log."""

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def show(self, batch: Batch) -> Tensor:
        """Pictures (V, 3, H, W) of the first scene of the batch, as the networks make them."""
        raise NotImplementedError


@torch.no_grad()
def latents(autoencoder: Autoencoder, images: Tensor) -> list[Tensor]:
    """images (B, V, 3, H, W) -> latents (B, V, C, ...) of levels 0 and 1, in the precision of training."""
    flat = images.flatten(0, 1).to(autoencoder.device, autoencoder.dtype)
    raw = autoencoder.networks["backbone"](flat, 2, scenes=len(images))
    return [autoencoder.to_latent(raw[level], level, flat).unflatten(0, images.shape[:2]) for level in (0, 1)]


def encode(autoencoder: Autoencoder, images: Tensor, sources: int) -> Latents:
    """Latents of images (B, V, 3, H, W), and of the first `sources` views of each scene on their own."""
    return Latents(latents(autoencoder, images), latents(autoencoder, images[:, :sources]))


class FlowObjective(Objective):
    """Stage 2: velocity of the features of all views at one time per scene. docs/model.md#the-flow-and-its-sampler

    The data are the features of all views encoded together, the condition those of the sources encoded alone.
    camera_drop: the share of scenes without cameras, as guidance's unconditional branch has them. level1_noise: the
    cascade is given level-1 features with noise of deviation |N(0, level1_noise)|.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        network: MultiViewDiT,
        level: int,
        camera_drop: float = 0.1,
        level1_noise: float = 0.0,
    ):
        super().__init__()
        self.network = network
        network.t_embedder.W.requires_grad_(False)
        self.autoencoder = autoencoder
        self.level, self.camera_drop, self.level1_noise = level, camera_drop, level1_noise

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        given = batch.latents or encode(self.autoencoder, batch.images, batch.sources)
        everything, sources = given.levels, given.sources
        if sources is None:
            raise ValueError("These latents are none of photographs; give rendered rooms, scenes or kept features.")
        data, level1 = everything[self.level].transpose(1, 2), everything[1].transpose(1, 2)
        source = sources[self.level].transpose(1, 2)
        shift = flow.default_shift(self.autoencoder.backbone, data.shape[1], data.shape[2])
        branches, times, noises = [], [], []
        for i, generator in enumerate(batch.generators()):
            u, drop = torch.rand(2, generator=generator).tolist()
            times.append(shift * flow.LAST_NOISE * u / (1 + (shift - 1) * flow.LAST_NOISE * u))
            noises.append(torch.randn(data.shape[1:], generator=generator))
            known = None
            if self.level == 0:
                sigma = float(torch.randn((), generator=generator).abs()) * self.level1_noise
                noise = torch.randn(level1.shape[1:], generator=generator).to(level1)
                known = ((level1[i] + sigma * noise) / (1 + sigma**2) ** 0.5)[None]
            views = Views(self.autoencoder.backbone, batch.cameras[i], sources[0][i], sources[1][i], None)
            cameras = conditions(views, self.level, conditional=drop >= self.camera_drop)
            cameras = {name: value.to(data.device) for name, value in cameras.items()}
            # bfloat16 has too few digits for rays.
            with torch.autocast(data.device.type, enabled=False):
                branches.append(self.network.prepare(source[i][None], **cameras, level1=known))
        prepared = {
            name: torch.cat([branch[name] for branch in branches]) if isinstance(value, Tensor) else value
            for name, value in branches[0].items()
        }
        t, noise = data.new_tensor(times), torch.stack(noises).to(data)
        at = t.view(-1, *[1] * (data.ndim - 1))
        velocity = self.network((1 - at) * data + at * noise, t, **prepared)
        error = (velocity.float() - (noise - data)).square()
        N = batch.sources
        return error.mean(), {"sources": error[:, :, :N].mean().detach(), "targets": error[:, :, N:].mean().detach()}

    def show(self, batch: Batch) -> Tensor:
        """Sampled in SHOW_STEPS evaluations, at level 1 without level 0, at level 0 from the true level 1."""
        views = self.autoencoder.encode_views(batch.images[0, : batch.sources], batch.cameras[0])
        known = None if self.level else latents(self.autoencoder, batch.images[:1])[1][0]
        made = GLD(self.autoencoder, self.network, self.network).sample(
            self.level, views, known, flow.Sampling(SHOW_STEPS)
        )
        level1, level0 = (made, None) if known is None else (known, made)
        return self.autoencoder.decode_rgb(views, level1, level0)


def ray_targets(cameras: Cameras, unit: float, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """What the geometry head is to say of a scene's cameras: rays (V, rows, columns, 6) and the camera decoder's
    encoding (V, 9), in the frame of the first view and divided by `unit`.

    A ray is R K^-1 [x, y, 1], not normalised, and the camera's centre.
    """
    c2w = torch.linalg.inv(cameras.c2w[0].double()) @ cameras.c2w.double()
    c2w[:, :3, 3] /= unit
    y = torch.arange(rows, dtype=torch.float64) * cameras.height / rows
    x = torch.arange(columns, dtype=torch.float64) * cameras.width / columns
    pixels = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(rows, columns, dtype=torch.float64)], dim=-1)
    directions = torch.einsum("vij,yxj->vyxi", c2w[:, :3, :3] @ torch.linalg.inv(cameras.K.double()), pixels)
    origins = c2w[:, None, None, :3, 3].expand_as(directions)
    rays = torch.cat([directions, origins], dim=-1).float()
    return rays, encode_pose(c2w.float(), cameras.K, cameras.height, cameras.width)


def confident(error: Tensor, confidence: Tensor) -> Tensor:
    """Mean error times confidence, less the logarithm of the confidence. arXiv 2312.14132, equation 4."""
    return (confidence * error - 0.2 * confidence.log()).mean()


def picture_losses(difference: Tensor) -> dict[str, Tensor]:
    """Losses of decoded pictures (V, 3, H, W), less the true ones.

    Those of differences between neighbours blur what is uncertain, so that it is no mosaic of patches. The ones across
    borders of patches count as much as all others together.
    """
    steps = [difference.diff(dim=dim).abs() for dim in (-2, -1)]
    borders = [steps[0][..., 13::14, :], steps[1][..., 13::14]]
    return {
        "rgb": 4 * difference.square().mean() + difference.abs().mean(),
        "edges": torch.stack([values.mean() for values in steps]).sum(),
        "borders": torch.stack([values.mean() for values in borders]).sum(),
    }


class BackboneObjective(Objective):
    """Backbone, geometry head, camera decoder and RGB decoder of a small model, together, from pictures with depth.

    Half of the batches go the way generated features go: levels 0 and 1 with noise, the first view's token for all,
    levels 2 and 3 propagated from there. Level 0 is left out of a share `level_drop` of the scenes.
    """

    def __init__(self, networks: dict[str, nn.Module], noise: float = 0.7, level_drop: float = 1 / 6):
        super().__init__()
        self.networks = nn.ModuleDict(networks)
        self.noise, self.level_drop = noise, level_drop

    def raw(self, batch: Batch, kind: str, generators: list[torch.Generator]) -> list[Tensor]:
        """Raw features of levels 0 and 1, (B * V, S + h*w, C): those of the pictures ("true"), or those with noise and,
        where latents have no special tokens, with the first view's token in all views, as generated ones are ("noisy").
        """
        backbone: Any = self.networks["backbone"]
        B, V = batch.images.shape[:2]
        raw = backbone(batch.images.flatten(0, 1), 2, scenes=B)
        if kind == "true":
            return raw
        # DA3's one special token is not in its latents.
        left_out = 1 if backbone.specials == 1 else 0
        noisy = []
        for level in raw:
            special, tokens = level.tensor_split([left_out], dim=1)
            deviation = tokens.detach().flatten(0, 1).std(dim=0)
            noise = [
                self.noise
                * torch.rand((), generator=generator)
                * torch.randn(V, *tokens.shape[1:], generator=generator)
                for generator in generators
            ]
            noisy.append(torch.cat([special, tokens + torch.cat(noise).to(tokens) * deviation], dim=1))
        if left_out:
            alone = backbone(batch.images[:, 0], 2, scenes=B)[1][:, :1].repeat_interleave(V, dim=0)
            noisy[1] = torch.cat([alone, noisy[1][:, 1:]], dim=1)
        return noisy

    def propagate(self, raw: list[Tensor], batch: Batch) -> list[Tensor]:
        """Raw features of all four levels, from those of the first two."""
        backbone: Any = self.networks["backbone"]
        h, w = (size // backbone.patch for size in batch.images.shape[-2:])
        return [*raw, *backbone.propagate(raw[1], h, w, scenes=len(batch.images))]

    def features(
        self, batch: Batch, kind: str, generators: list[torch.Generator]
    ) -> tuple[list[Tensor], Tensor | None]:
        """Decoder-ready features of the four levels; and the last level's token 0, where it is the views' own."""
        backbone: Any = self.networks["backbone"]
        raw = self.propagate(self.raw(batch, kind, generators), batch)
        ready = self.drop([backbone.decoder_ready(level) for level in raw], generators)
        return ready, raw[3][:, 0] if kind == "true" else None

    def drop(self, ready: list[Tensor], generators: list[torch.Generator]) -> list[Tensor]:
        """The features with level 0 set to zero in some scenes."""
        keep = torch.stack([torch.rand((), generator=generator) > self.level_drop for generator in generators])
        keep = keep.repeat_interleave(len(ready[0]) // len(keep))[:, None, None]
        return [ready[0] * keep.to(ready[0]), *ready[1:]]

    @torch.no_grad()
    def show(self, batch: Batch) -> Tensor:
        h, w = (size // 14 for size in batch.images.shape[-2:])
        ready, _ = self.features(replace(batch, images=batch.images[:1]), "true", batch.generators()[:1])
        return self.networks["rgb_decoder"](torch.cat(ready, dim=-1), h, w)

    def geometry(self, batch: Batch, ready: list[Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Losses of the head; the mean error of the logarithm of depth; and what the camera decoder is to say (B*V, 9).

        Distances are in units of a scene's mean depth.
        """
        if batch.depth is None:
            raise ValueError("The geometry head is trained on exact depth; give rendered rooms as --data.")
        B, V, _, H, W = batch.images.shape
        units = batch.depth.flatten(1).mean(dim=1)
        targets = [
            ray_targets(cameras, float(unit), 8 * (H // 14), 8 * (W // 14))
            for cameras, unit in zip(batch.cameras, units, strict=True)
        ]
        # The head costs more than all else, and every other picture is enough.
        some = slice(batch.seed // 2 % 2 if B * V > 1 else 0, None, 2)
        rays = torch.cat([rays for rays, _ in targets])[some].to(batch.images)
        maps = self.networks["gld_head"]([level[some] for level in ready], H, W)
        depth = (batch.depth / units[:, None, None, None]).flatten(0, 1)[some]
        error = (maps["depth"].log() - depth.log()).abs()
        losses = {
            "depth": confident(error, maps["depth_conf"]),
            "rays": confident((maps["ray"] - rays).abs().mean(dim=-1), maps["ray_conf"]),
        }
        return losses, error.detach().mean(), torch.cat([pose for _, pose in targets]).to(rays)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        networks: Any = self.networks
        h, w = (size // 14 for size in batch.images.shape[-2:])
        ready, token = self.features(batch, "noisy" if batch.seed % 2 else "true", batch.generators())
        losses, depth_error, poses = self.geometry(batch, ready)
        images = networks["rgb_decoder"](torch.cat(ready, dim=-1), h, w)
        difference = images - batch.images.flatten(0, 1)
        losses["rgb"] = 4 * difference.square().mean() + difference.abs().mean()
        if token is not None:
            decoder = networks["camera_decoder"]
            x = decoder.backbone(token)
            pose = torch.cat([decoder.fc_t(x), decoder.fc_qvec(x), decoder.fc_fov(x)], dim=-1)
            losses["pose"] = (pose - poses).abs().mean()
        figures = {name: value.detach() for name, value in losses.items()}
        figures["psnr"] = -10 * difference.detach().square().mean().log10()
        figures["depth_error"] = depth_error
        return losses["rgb"] + 0.5 * losses["depth"] + 0.5 * losses["rays"] + losses.get("pose", 0), figures


class Discriminator(nn.Module):
    """Says of every patch whether it is real: images (V, 3, H, W) in [-1, 1] -> logits (V, 1, H/8, W/8).

    That of the release stands on a DINO network. This one is small, convolutional, and starts from nothing.
    """

    def __init__(self, width: int = 64):
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, out in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(fan_in, out, 4, stride=2, padding=1), nn.GroupNorm(8, out), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


# As released: pixels of a crop, weights, and after which share of the steps the adversary learns, and counts.
CROP, ADVERSARIAL_WEIGHT, MAX_ADAPTIVE_WEIGHT = 224, 0.75, 1e4
ADVERSARY_LEARNS, ADVERSARY_COUNTS = 4 / 50, 6 / 50


class DecoderObjective(BackboneObjective):
    """Stage 1: the RGB decoder on frozen features, by L1, LPIPS where its weights are there, and an adversary.

    The adversary's part weighs as much as the rest at the decoder's last layer (arXiv 2012.09841, equation 7). With
    `geometry` the head is trained too. noise above 0: features go the way generated ones do, with this much noise.
    steps: of the whole training. Everything that is trained learns in the same step.
    """

    def __init__(
        self,
        networks: dict[str, nn.Module],
        steps: int,
        noise: float = 0.0,
        level_drop: float = 1 / 6,
        lpips: LPIPS | None = None,
        geometry: bool = False,
    ):
        super().__init__(networks, noise, level_drop)
        self.steps, self.lpips, self.with_geometry = steps, lpips, geometry
        self.discriminator = Discriminator()
        self.requires_grad_(False)
        for module in (self.networks["rgb_decoder"], self.discriminator, *([networks["gld_head"]] if geometry else [])):
            module.requires_grad_(True)

    def perceptual(self, images: Tensor, truth: Tensor) -> Tensor:
        """Mean LPIPS, with a gradient."""
        assert self.lpips is not None
        pairs = zip(self.lpips.features(images), self.lpips.features(truth), self.lpips.linear, strict=True)
        return sum((nn.functional.conv2d((x - y) ** 2, weight).mean() for x, y, weight in pairs), images.new_zeros(()))

    def adversary(self, batch: Batch, images: Tensor, truth: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        """Losses of discriminator ("adversary") and decoder ("fooling"), by hinge; empty before its time."""
        if batch.seed < ADVERSARY_LEARNS * self.steps:
            return {}
        H, W = images.shape[-2:]
        y, x = (
            int(v)
            for v in np.random.default_rng((batch.seed, 1)).random(2) * (max(H - CROP, 0) + 1, max(W - CROP, 0) + 1)
        )
        crop = (..., slice(y, y + CROP), slice(x, x + CROP))
        made, real = 2 * images[crop] - 1, 2 * truth[crop] - 1
        eight_bits = ((made.detach().clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
        no, yes = self.discriminator(eight_bits), self.discriminator(real)
        losses = {"adversary": 0.5 * ((1 - yes).relu().mean() + (1 + no).relu().mean())}
        if batch.seed >= ADVERSARY_COUNTS * self.steps:
            frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
            fooling = -torch.func.functional_call(self.discriminator, frozen, (made,)).mean()
            last = self.networks["rgb_decoder"].get_parameter("decoder_pred.weight")
            pulls = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (reconstruction, fooling)]
            weight = (pulls[0] / (pulls[1] + 1e-4)).clamp(0, MAX_ADAPTIVE_WEIGHT).detach()
            losses["fooling"] = ADVERSARIAL_WEIGHT * weight * fooling
        return losses

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        h, w = (size // 14 for size in batch.images.shape[-2:])
        with torch.no_grad(), torch.autocast(batch.images.device.type, enabled=False):
            ready, _ = self.features(batch, "noisy" if self.noise else "true", batch.generators())
        images, truth = self.networks["rgb_decoder"](torch.cat(ready, dim=-1), h, w), batch.images.flatten(0, 1)
        losses = {"l1": (images - truth).abs().mean()}
        if self.lpips is not None:
            losses["lpips"] = self.perceptual(images, truth)
        losses |= self.adversary(batch, images, truth, torch.stack(list(losses.values())).sum())
        figures = {"psnr": -10 * (images.detach() - truth).square().mean().log10()}
        if self.with_geometry:
            found, figures["depth_error"], _ = self.geometry(batch, ready)
            losses |= {name: 0.5 * value for name, value in found.items()}
        return torch.stack(list(losses.values())).sum(), {n: v.detach() for n, v in losses.items()} | figures


class FinishObjective(BackboneObjective):
    """RGB decoder of the small model, and with `geometry` its geometry head.

    They learn on the latents that the diffusion models made, where the batch has some, and else on true features and on
    noisy ones in turn. Depth is in the cameras' unit. The small backbone's features do not hold how views
    stand towards each other. So rays are in each view's own frame, head and camera decoder give 0 for positions, and
    `Geometry.align_to` leaves depth as it is.
    """

    def __init__(
        self,
        networks: dict[str, nn.Module],
        statistics: Mapping[str, Statistics],
        noise: float = 0.7,
        level_drop: float = 1 / 6,
        geometry: bool = True,
    ):
        super().__init__(networks, noise, level_drop)
        self.statistics, self.with_geometry = statistics, geometry
        head: Any = networks["gld_head"]
        last, positions = head.scratch.output_conv2_aux[3][5], networks["camera_decoder"].get_submodule("fc_t")
        with torch.no_grad():
            for value in (last.weight[3:6], last.bias[3:6], *positions.parameters()):
                value.zero_()
        self.requires_grad_(False)
        for name in ("rgb_decoder", *(["gld_head"] if geometry else [])):
            networks[name].requires_grad_(True)

    def raw(self, batch: Batch, kind: str, generators: list[torch.Generator]) -> list[Tensor]:
        """The same, or the features of latents that diffusion models "made"."""
        if kind != "made":
            return super().raw(batch, kind, generators)
        assert batch.latents is not None and batch.latents.token is not None
        raw = []
        for level, latent in enumerate(batch.latents.levels):
            token = batch.latents.token[:, None, None].expand(-1, latent.shape[1], -1, -1)
            tokens = torch.cat([token, latent.flatten(3).transpose(2, 3)], dim=2).flatten(0, 1)
            raw.append(self.statistics[f"normalization{level}"].denormalize(tokens.to(batch.images)))
        return raw

    def target(self, batch: Batch, ready: list[Tensor]) -> Tensor:
        """Pictures (B * V, 3, H, W) that shall be made of decoder-ready features."""
        return batch.images.flatten(0, 1)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        V, _, H, W = batch.images.shape[1:]
        kind = "made" if batch.latents is not None else ("true", "noisy")[batch.seed % 2]
        with torch.no_grad():
            ready, _ = self.features(batch, kind, batch.generators())
        difference = self.networks["rgb_decoder"](torch.cat(ready, dim=-1), H // 14, W // 14)
        difference = difference - self.target(batch, ready)
        losses = picture_losses(difference)
        figures = {f"psnr_{kind}": -10 * difference.detach().square().mean().log10()}
        if self.with_geometry:
            if batch.depth is None:
                raise ValueError("The geometry head is trained on exact depth; give rendered rooms as --data.")
            some = slice(batch.seed // 2 % 2, None, 2)
            views = [cameras[view] for cameras in batch.cameras for view in range(V)]
            rays = torch.cat([ray_targets(view, 1.0, 8 * (H // 14), 8 * (W // 14))[0] for view in views[some]])
            maps = self.networks["gld_head"]([level[some] for level in ready], H, W)
            error = (maps["depth"].log() - batch.depth.flatten(0, 1)[some].log()).abs()
            ray_error = (maps["ray"] - rays.to(maps["ray"])).abs()[..., :3].mean(dim=-1)
            losses |= {
                "depth": 0.5 * confident(error, maps["depth_conf"]),
                "rays": 0.5 * confident(ray_error, maps["ray_conf"]),
            }
            figures[f"depth_error_{kind}"] = error.detach().mean()
        return torch.stack(list(losses.values())).sum(), {n: v.detach() for n, v in losses.items()} | figures


class JoinObjective(FinishObjective):
    """RGB decoder of the small model, which joins patches.

    New views shall be what they are at the start; photographs, also as generated, shall be as they are. New views are
    not held to the truth: of what is uncertain the decoder would learn the mean, which is grey.
    """

    def __init__(
        self, networks: dict[str, nn.Module], statistics: Mapping[str, Statistics], noise: float, level_drop: float
    ):
        super().__init__(networks, statistics, noise, level_drop, geometry=False)
        self.start = deepcopy(networks["rgb_decoder"]).requires_grad_(False)

    def target(self, batch: Batch, ready: list[Tensor]) -> Tensor:
        if batch.latents is None:
            return super().target(batch, ready)
        if batch.latents.given is None:
            raise ValueError(
                "The latents do not say which views were photographs; make them anew with the stage latents."
            )
        V, _, H, W = batch.images.shape[1:]
        with torch.no_grad():
            made = self.start(torch.cat(ready, dim=-1), H // 14, W // 14).unflatten(0, (-1, V))
        new = torch.arange(V, device=made.device) >= batch.latents.given[:, None]
        return torch.where(new[..., None, None, None], made, batch.images).flatten(0, 1)
