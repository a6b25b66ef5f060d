"""The whole job: `load` the released files, then from photographs and cameras to novel views, depth and cameras."""

import functools
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from . import checkpoints, flow
from .autoencoder import Codec, DA3Codec, Geometry, VGGTCodec, Views
from .cameras import Cameras
from .conditioning import conditions
from .networks.dit import MultiViewDiT

Callback = Callable[[int, int, Tensor], None]


def starting_noise(shape: tuple[int, ...], level: int, seed: int) -> Tensor:
    """One seed gives both levels their own noise: level 1 the first draw, the cascade the second."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(2 - level)][-1]


class OnDemand(dict):
    """Networks by name, read from their files when they are asked for; what is put in by hand stays.

    loaders: what reads a network, given device. held: the networks in memory by stage, shared by all of a GLD; reading
    one lets those of other stages go. stage: a name's.
    """

    def __init__(
        self,
        loaders: Mapping[Any, Callable[..., nn.Module]],
        device: torch.device | str,
        held: dict[Any, dict],
        stage: Callable[[Any], Any],
    ):
        super().__init__()
        self.loaders, self.device, self.held, self.stage = loaders, device, held, stage

    def __missing__(self, name: Any) -> nn.Module:
        stage = self.stage(name)
        if stage not in self.held:
            self.held.clear()
        networks = self.held.setdefault(stage, {})
        if name not in networks:
            # While sampling no tensor is made that could be trained; weights may be.
            with torch.inference_mode(False):
                networks[name] = self.loaders[name](device=self.device)
        checkpoints.check_unchanged(networks[name])
        return networks[name]


class GLD:
    """Geometric Latent Diffusion of one backbone family. spec/model.md section 1."""

    def __init__(self, codec: Codec, level1: MultiViewDiT, level0: MultiViewDiT):
        self.codec = codec
        self.diffusion: dict[int, MultiViewDiT] = {1: level1, 0: level0}

    def encode_views(self, images: Tensor, cameras: Cameras) -> Views:
        """images (N, 3, H, W) in [0, 1], cameras of all V views with the images' first; H, W multiples of 14."""
        return self.codec.encode_views(images, cameras)

    def sample_level1(
        self,
        views: Views,
        steps: int | None = None,
        cfg: float = 1.5,
        shift: float | None = None,
        seed: int = 0,
        noise: Tensor | None = None,
        callback: Callback | None = None,
        solver: flow.Solver = flow.RELEASED,
    ) -> Tensor:
        """Level-1 features of all views (V, C, h, w), or with special tokens (V, C, S + h*w, 1), sampled in `steps`
        network evaluations.

        steps, shift None: the released ones. noise: the result's shape; without it, drawn from seed. callback(step,
        steps, denoised) after each evaluation. solver: `flow.FAST` or one of one's own; the released result only comes
        with the released one. Raises ValueError for settings that cannot be sampled with.
        """
        return self.sample(1, views, None, steps, cfg, shift, seed, noise, callback, solver=solver)

    def cascade_level0(
        self,
        views: Views,
        level1: Tensor,
        steps: int | None = None,
        cfg: float = 1.5,
        shift: float | None = None,
        seed: int = 0,
        noise: Tensor | None = None,
        callback: Callback | None = None,
        solver: flow.Solver = flow.RELEASED,
    ) -> Tensor:
        """Level-0 features of all views, given those of level 1. Arguments as in `sample_level1`."""
        self.codec.check_latent(views, level1, 1)
        return self.sample(0, views, level1, steps, cfg, shift, seed, noise, callback, solver=solver)

    def decode_rgb(self, views: Views, level1: Tensor, level0: Tensor | None) -> Tensor:
        """Images of all views (V, 3, H, W) float32, not clamped. level0 None: a quick look from levels 1 to 3."""
        return self.codec.decode_rgb(views, level1, level0)

    def decode_geometry(self, views: Views, level1: Tensor, level0: Tensor | None) -> Geometry:
        """Depth, rays and recovered cameras of all views. level0 None: from levels 1 to 3."""
        return self.codec.decode_geometry(views, level1, level0)

    def estimate_cameras(self, images: Tensor) -> Cameras:
        """Cameras of images (V, 3, H, W) in [0, 1] from the images alone, one photograph included."""
        return self.codec.estimate(images).cameras

    @torch.inference_mode()
    def sample(
        self,
        level: int,
        views: Views,
        level1: Tensor | None,
        steps: int | None,
        cfg: float,
        shift: float | None,
        seed: int,
        noise: Tensor | None,
        callback: Callback | None,
        known: Mapping[int, Tensor] | None = None,
        solver: flow.Solver = flow.RELEASED,
    ) -> Tensor:
        """`sample_level1` or `cascade_level0`. known: views (C, h, w) by index that are not sampled but held."""
        self.codec.check_views(views)
        network, device = self.diffusion[level], self.codec.device
        shape = views.latent_shape
        if steps is None:
            steps = solver.steps or flow.STEPS[views.backbone]
        shift = flow.default_shift(views.backbone, shape[1], shape[0]) if shift is None else shift
        if steps < solver.order or not 0 < shift < math.inf or not math.isfinite(cfg):
            raise ValueError(
                f"steps is {steps}, shift {shift} and cfg {cfg}; steps has to be {solver.order} or more, shift above "
                "0, and all of them finite."
            )
        if solver.order not in (1, 2) or solver.share < 1:
            raise ValueError(
                f"The solver has order {solver.order}, share {solver.share}; order has to be 1 or 2, share at least 1."
            )
        if noise is None:
            if not 0 <= seed < 2**64:
                raise ValueError(f"The seed is {seed}; give a whole number from 0 to {2**64 - 1}.")
            noise = starting_noise(shape, level, seed)
        elif tuple(noise.shape) != shape:
            raise ValueError(f"The noise has shape {tuple(noise.shape)}, these views need {shape}.")

        def branch(conditional: bool) -> dict[str, Any]:
            source = (views.level1 if level == 1 else views.level0).to(device).transpose(0, 1)[None]
            given = None if level1 is None else level1.to(device).transpose(0, 1)[None]
            cameras = {name: value.to(device) for name, value in conditions(views, level, conditional).items()}
            return network.prepare(source, **cameras, level1=given)

        velocity = flow.guided(network, branch(False) if cfg != 1 else None, branch(True), cfg, solver)
        x = noise.to(device, torch.float32).transpose(0, 1)[None]
        if known:
            held, data = list(known), torch.stack(list(known.values()), dim=1)[None].to(x)
            velocity = flow.holding(velocity, x, held, data)
        times = flow.time_grid(steps // solver.order, shift)
        if callback is not None:
            show = callback
            callback = lambda step, steps, x: show(step, steps, x[0].transpose(0, 1))  # noqa: E731
        x = flow.integrate(velocity, x, times, callback, solver.order)
        if known:
            # The last time is not quite 0.
            x[:, :, held] = data
        return x[0].transpose(0, 1)


def load_codec(
    models_dir: str | os.PathLike, backbone: str, *, device="cpu", dtype: torch.dtype = torch.float32, **factory
) -> Codec:
    """The frozen networks and statistics of one family. factory: mmap as in `load`; operations and attention, as the
    networks take them.

    Raises FileNotFoundError or ValueError that names file, tensor and cure.
    """
    loaders = checkpoints.codec_networks(models_dir, backbone, dtype=dtype, **factory)
    family = {"da3": DA3Codec, "vggt": VGGTCodec}[backbone]
    networks: dict[str, Any] = {name: read(device=device) for name, read in loaders.items()}
    statistics = checkpoints.load_statistics(models_dir, backbone, networks["backbone"].channels)
    codec = family(networks, statistics, device, dtype)
    # The two families' RGB decoders differ in nothing but this.
    rgb_path = checkpoints.find(models_dir, backbone, "rgb")
    checkpoints.check_channels(rgb_path, codec.networks["rgb_decoder"].config.channels // 4, codec.channels)
    return codec


def load(
    models_dir: str | os.PathLike,
    backbone: str = "da3",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    keep: bool = False,
    mmap: bool = True,
) -> GLD:
    """Load a folder laid out as released, or as `checkpoints.convert` writes it.

    Networks run in dtype (float32, bfloat16 or float16); latents and cameras stay float32. All files are read and
    checked here. A network's weights come when it is first used and go when the next stage needs its own (codec, level
    1, level 0); with keep all of them stay: for many scenes in a row, or to change a network. With mmap, weights that
    need no conversion are memory-mapped, so their files have to stay as they are; without it they are read into memory,
    as is best for a network volume. Raises FileNotFoundError or ValueError that names file, tensor and cure.
    """
    first = device if keep else "meta"
    codec = load_codec(models_dir, backbone, device=first, dtype=dtype, mmap=mmap)
    loaders, diffusion = {}, {}
    for level in (1, 0):
        path = checkpoints.find(models_dir, backbone, f"level{level}")
        loaders[level] = functools.partial(checkpoints.load_diffusion, path, backbone, level, dtype=dtype, mmap=mmap)
        diffusion[level] = loaders[level](device=first)
        checkpoints.check_channels(path, diffusion[level].config.channels, codec.channels)
    gld = GLD(codec, diffusion[1], diffusion[0])
    if not keep:
        held: dict[Any, dict] = {}
        parts = checkpoints.codec_networks(models_dir, backbone, dtype=dtype, mmap=mmap)
        codec.networks = OnDemand(parts, device, held, lambda name: "codec")
        codec.device = torch.device(device)
        gld.diffusion = OnDemand(loaders, device, held, lambda level: level)
    return gld
