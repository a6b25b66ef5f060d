"""Between images and latents: encoding source views, propagating levels, decoding colour and geometry.

An autoencoder holds a backbone family's frozen networks and statistics. docs/model.md#the-pipeline
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .cameras import Cameras
from .cameras.conventions import encode_pose
from .checkpoints import Statistics
from .geometry.alignment import cameras_from_rays, umeyama

# Decoders work view by view; this many at once keeps memory bounded for long paths.
VIEWS_AT_ONCE = 4
# Normalised features are of the order of 1; from here on the networks' sums of squares overflow.
MAX_FEATURE = 1e6


@dataclass(frozen=True)
class Views:
    """What the diffusion models are given: all V cameras, and the N encoded sources.

    level0, level1: (N, C, h, w) normalised float32 features. token: (C,) normalised token 0 of the first source
    encoded on its own, which DA3's latents leave out; None where latents carry special tokens (VGGT), which then
    are (N, C, S + h*w, 1). computed: what is made of the cameras once for both levels.
    """

    backbone: str
    cameras: Cameras
    level0: Tensor
    level1: Tensor
    token: Tensor | None
    computed: dict[str, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(V, C, h, w), with special tokens (V, C, S + h*w, 1)."""
        return (len(self.cameras), *self.level1.shape[1:])


@dataclass(frozen=True)
class Geometry:
    """Decoded geometry of V views, float32.

    depth (V, H, W) along the camera axis, in the network's units; depth_conf (V, H, W) from 1 up;
    ray (V, h', w', 6), ray_conf (V, h', w') or None; cameras: recovered from this geometry, in its units.
    """

    depth: Tensor
    depth_conf: Tensor
    ray: Tensor | None
    ray_conf: Tensor | None
    cameras: Cameras

    def align_to(self, cameras: Cameras) -> tuple[Geometry, float]:
        """Depth and recovered cameras brought to the units and frame of the given cameras, and the scale used.

        Sim(3) by Umeyama over the camera centres. Cameras that all stand in one point have no scale: then nothing
        changes and the scale is 1.
        """
        recovered = self.cameras.c2w[:, :3, 3]
        sim3 = umeyama(recovered, cameras.c2w[:, :3, 3])
        if not 1e-12 < sim3.scale < 1e12:
            return self, 1.0
        aligned = replace(self.cameras, c2w=sim3.apply_to_poses(self.cameras.c2w), origin=cameras.origin)
        scaled = Geometry(self.depth * sim3.scale, self.depth_conf, self.ray, self.ray_conf, aligned)
        return scaled, sim3.scale


def check_images(images: Tensor, patch: int) -> None:
    """ValueError unless images are (V, 3, H, W), finite, within [0, 1] and of a size the patches divide."""
    if images.ndim != 4 or images.shape[1] != 3 or not len(images) or not images.is_floating_point():
        raise ValueError(
            f"Images have shape {tuple(images.shape)} {images.dtype}; give (N, 3, H, W) float in [0, 1], N at least 1."
        )
    H, W = images.shape[-2:]
    if H % patch or W % patch or not H or not W:
        raise ValueError(
            f"Images are {W}x{H}; width and height have to be multiples of {patch}. Fit them first: "
            f"{W // patch * patch or patch}x{H // patch * patch or patch} is the nearest below."
        )
    if not torch.isfinite(images).all() or images.min() < -1e-3 or images.max() > 1 + 1e-3:
        raise ValueError("Images have values outside [0, 1]; divide 8-bit images by 255.")


def check_features(latent: Tensor, what: str) -> None:
    """ValueError, which `what` begins, where normalised features are not finite or far beyond any."""
    if not (latent.abs() < MAX_FEATURE).all():
        raise ValueError(
            f"{what} has values that are not finite or beyond {MAX_FEATURE:.0e}; sample it again, with a lower "
            "cfg or in float32."
        )


class Autoencoder:
    """What the families share. A family says whether latents carry the special tokens, and how cameras are found.

    networks: the frozen networks by name; statistics: by kind and level, "special" ones for special tokens. Inputs
    are brought to `device` and `dtype`; results are float32 there. A host that moves the networks itself sets device.
    """

    backbone: str
    specials_in_latent: bool

    def __init__(self, networks: dict[str, Any], statistics: dict[str, Statistics], device, dtype: torch.dtype):
        self.networks = networks
        self.network: Callable[[str], Any] = networks.__getitem__
        self.patch: int = networks["backbone"].patch
        self.specials: int = networks["backbone"].specials
        self.statistics = statistics
        self.device = torch.device(device)
        self.dtype = dtype

    @property
    def channels(self) -> int:
        return len(self.statistics["normalization1"].mean)

    def encode_views(self, images: Tensor, cameras: Cameras) -> Views:
        """images (N, 3, H, W) in [0, 1] and the cameras of all V views, the images' own first -> Views.

        ValueError for sizes, counts, values or cameras that the networks cannot be given.
        """
        check_images(images, self.patch)
        N, V = len(images), len(cameras)
        if not 1 <= N < V:
            raise ValueError(
                f"{N} source images came with {V} cameras; give the sources' cameras first and at least one target's."
            )
        if tuple(images.shape[-2:]) != (cameras.height, cameras.width):
            raise ValueError(
                f"Images are {images.shape[-1]}x{images.shape[-2]} but the cameras are for "
                f"{cameras.width}x{cameras.height}; fit images and cameras together."
            )
        cameras.check()
        raw = self.encode(images, levels=2)
        token = None
        if not self.specials_in_latent:
            # Quirk: every view gets the token of the first source encoded on its own.
            alone = raw[1] if N == 1 else self.encode(images[:1], levels=2)[1]
            token = self.normalize(alone, 1)[0, 0]
        return Views(
            self.backbone, cameras, self.to_latent(raw[0], 0, images), self.to_latent(raw[1], 1, images), token
        )

    @torch.inference_mode()
    def encode(self, images: Tensor, levels: int) -> list[Tensor]:
        """Raw features (V, S + h*w, C) of the first `levels` levels, all views encoded together."""
        return self.network("backbone")(images.to(self.device, self.dtype), levels)

    def normalize(self, raw: Tensor, level: int) -> Tensor:
        """(V, S + h*w, C) float32"""
        special, patches = raw.float().tensor_split([self.specials], dim=1)
        special = self.statistics[f"special{level}"].normalize(special)
        return torch.cat([special, self.statistics[f"normalization{level}"].normalize(patches)], dim=1)

    def to_latent(self, raw: Tensor, level: int, images: Tensor) -> Tensor:
        """Raw features to (V, C, h, w), or with specials (V, C, S + h*w, 1)."""
        tokens = self.normalize(raw, level).transpose(1, 2)
        if self.specials_in_latent:
            return tokens.unsqueeze(-1)
        return tokens[:, :, self.specials :].unflatten(2, (-1, images.shape[-1] // self.patch))

    def to_raw(self, views: Views, latent: Tensor, level: int) -> Tensor:
        """A latent of all views to raw features (V, S + h*w, C), special tokens from `views` where it has none."""
        tokens = latent.to(self.device, torch.float32).flatten(2).transpose(1, 2)
        if views.token is not None:
            tokens = torch.cat([views.token.to(tokens).expand(len(tokens), 1, -1), tokens], dim=1)
        special, patches = tokens.tensor_split([self.specials], dim=1)
        special = self.statistics[f"special{level}"].denormalize(special)
        patches = self.statistics[f"normalization{level}"].denormalize(patches)
        return torch.cat([special, patches], dim=1).to(self.dtype)

    def check_views(self, views: Views) -> None:
        """ValueError unless the views were encoded with this family."""
        if views.backbone != self.backbone:
            raise ValueError(f"The views were encoded with {views.backbone}, not {self.backbone}; use one backbone.")

    def check_latent(self, views: Views, latent: Tensor, level: int) -> None:
        """ValueError unless the latent belongs to these views and this family."""
        self.check_views(views)
        if tuple(latent.shape) != views.latent_shape:
            raise ValueError(
                f"The level-{level} latent has shape {tuple(latent.shape)}, these views need {views.latent_shape}; "
                "it was sampled for other views, another size or another backbone."
            )
        check_features(latent, f"The level-{level} latent")

    @torch.inference_mode()
    def propagate(self, views: Views, level1: Tensor, level0: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """Decoder-ready features (V, h*w, C) of the four levels, zeros where level0 is None; and level 3 raw."""
        self.check_latent(views, level1, 1)
        backbone = self.network("backbone")
        h, w = views.cameras.height // self.patch, views.cameras.width // self.patch
        raw1 = self.to_raw(views, level1, 1)
        raw2, raw3 = backbone.propagate(raw1, h, w)
        ready = [backbone.decoder_ready(raw) for raw in (raw1, raw2, raw3)]
        if level0 is None:
            return [torch.zeros_like(ready[0]), *ready], raw3
        self.check_latent(views, level0, 0)
        return [backbone.decoder_ready(self.to_raw(views, level0, 0)), *ready], raw3

    @torch.inference_mode()
    def decode_rgb(self, views: Views, level1: Tensor, level0: Tensor | None) -> Tensor:
        """Images of all views (V, 3, H, W) float32, not clamped. level0 None: a quick look from levels 1 to 3."""
        levels, _ = self.propagate(views, level1, level0)
        h, w = views.cameras.height // self.patch, views.cameras.width // self.patch
        features = torch.cat(levels, dim=-1)
        return torch.cat([self.network("rgb_decoder")(part, h, w) for part in features.split(VIEWS_AT_ONCE)])

    @torch.inference_mode()
    def decode_geometry(self, views: Views, level1: Tensor, level0: Tensor | None) -> Geometry:
        """Depth, rays and cameras of all views. level0 None: from levels 1 to 3."""
        levels, raw3 = self.propagate(views, level1, level0)
        return self.read_geometry("gld_head", levels, raw3, views.cameras.height, views.cameras.width)

    def maps(self, head: str, levels: list[Tensor], height: int, width: int) -> dict[str, Tensor]:
        """Maps of a geometry head from decoder-ready features."""
        parts = zip(*(level.split(VIEWS_AT_ONCE) for level in levels), strict=True)
        outs = [self.network(head)(part, height, width) for part in parts]
        return {name: torch.cat([out[name] for out in outs]) for name in outs[0]}

    def read_geometry(self, head: str, levels: list[Tensor], raw3: Tensor, height: int, width: int) -> Geometry:
        """Geometry of a head from decoder-ready features; raw3 is level 3 before the final norm."""
        raise NotImplementedError

    def estimate(self, images: Tensor, cameras: Cameras | None = None) -> Geometry:
        """The backbone's own inference: depth and cameras of images (V, 3, H, W) in [0, 1]."""
        raise NotImplementedError


class DA3Autoencoder(Autoencoder):
    """Depth Anything 3. Networks: backbone, camera_encoder (may be left out), camera_decoder, da3_head (DA3's),
    gld_head (GLD's), rgb_decoder."""

    backbone = "da3"
    specials_in_latent = False

    def read_geometry(self, head: str, levels: list[Tensor], raw3: Tensor, height: int, width: int) -> Geometry:
        maps = self.maps(head, levels, height, width)
        c2w, K = cameras_from_rays(maps["ray"], maps["ray_conf"], height, width)
        return Geometry(**maps, cameras=Cameras(c2w, K.expand(len(c2w), 3, 3), height, width))

    @torch.inference_mode()
    def estimate(self, images: Tensor, cameras: Cameras | None = None) -> Geometry:
        """DA3's own inference: depth of images (V, 3, H, W) and the cameras its camera decoder reads off them.

        With `cameras` given they condition the depth; those returned are still the camera decoder's. ValueError where
        the backbone has no camera encoder to take them.
        """
        check_images(images, self.patch)
        H, W = images.shape[-2:]
        tokens = None
        if cameras is not None:
            if "camera_encoder" not in self.networks:
                raise ValueError(
                    "This backbone has no camera encoder, so cameras cannot guide its depth; leave the cameras out, "
                    "or use DA3-Base."
                )
            encoder = self.network("camera_encoder")
            pose = encode_pose(cameras.c2w, cameras.K, cameras.height, cameras.width)
            tokens = encoder(pose.to(self.device, self.dtype))
        raw = self.network("backbone")(
            images.to(self.device, self.dtype), 4, camera_tokens=tokens, choose_reference=cameras is None
        )
        levels = [self.network("backbone").decoder_ready(level) for level in raw]
        maps = self.maps("da3_head", levels, H, W)
        return Geometry(**maps, cameras=self.network("camera_decoder")(raw[3][:, 0], H, W))


class VGGTAutoencoder(Autoencoder):
    """VGGT. Networks: backbone, camera_decoder (its camera head), gld_head (its depth head), rgb_decoder."""

    backbone = "vggt"
    specials_in_latent = True

    def read_geometry(self, head: str, levels: list[Tensor], raw3: Tensor, height: int, width: int) -> Geometry:
        cameras = self.network("camera_decoder")(raw3[:, 0], height, width)
        return Geometry(**self.maps(head, levels, height, width), ray=None, ray_conf=None, cameras=cameras)

    @torch.inference_mode()
    def estimate(self, images: Tensor, cameras: Cameras | None = None) -> Geometry:
        """VGGT's own inference: depth of images (V, 3, H, W) and their cameras. ValueError where cameras are given."""
        check_images(images, self.patch)
        if cameras is not None:
            raise ValueError("VGGT finds depth from images alone; leave the cameras out, or use DA3.")
        raw = self.encode(images, 4)
        levels = [self.network("backbone").decoder_ready(level) for level in raw]
        return self.read_geometry("gld_head", levels, raw[3], *images.shape[-2:])
