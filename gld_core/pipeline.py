"""The whole job: `load` the released files, then from photographs and cameras to novel views, depth and cameras."""

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import checkpoints, flow
from .autoencoder import Autoencoder, DA3Autoencoder, Geometry, VGGTAutoencoder, Views
from .cameras import Cameras
from .conditioning import conditions
from .flow import Callback, Sampling
from .networks.dit import MultiViewDiT, from_network, to_network


class Stages:
    """Networks that are loaded when they are asked for. Those of one stage at a time are in memory.

    loaders: by stage and name, what reads a network from its file, given device.
    """

    def __init__(self, loaders: Mapping[Any, Mapping[Any, Callable[..., Any]]], device: torch.device | str):
        self.loaders, self.device = loaders, device
        self.stage: Any = None
        self.held: dict[Any, Any] = {}

    def network(self, stage: Any, name: Any) -> Any:
        """The network of that name, ready to run. Asking for one lets those of other stages go."""
        if stage != self.stage:
            self.stage, self.held = stage, {}
        if name not in self.held:
            # While sampling no tensor is made that could be trained; weights may be.
            with torch.inference_mode(False):
                self.held[name] = self.loaders[stage][name](device=self.device)
        checkpoints.check_unchanged(self.held[name])
        return self.held[name]


class GLD:
    """Geometric Latent Diffusion of one backbone family. docs/model.md#the-pipeline

    own_size, own_steps: pixels of the longer image side and network evaluations that the networks are made for.
    loaded_from: the folder and backbone that `load` was given, None where the networks were put together otherwise.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        level1: MultiViewDiT,
        level0: MultiViewDiT,
        own_size: int = checkpoints.RELEASED_SIZE,
        own_steps: int | None = None,
        loaded_from: tuple[str | os.PathLike, str] | None = None,
    ):
        self.autoencoder = autoencoder
        self.own_size, self.own_steps = own_size, own_steps or flow.STEPS[autoencoder.backbone]
        self.loaded_from = loaded_from
        self.diffusion = {1: level1, 0: level0}
        self.network: Callable[[int], MultiViewDiT] = self.diffusion.__getitem__

    @functools.cached_property
    def weights(self) -> str | None:
        """SHA-256 of the files that were loaded; None where that is not known."""
        return self.loaded_from and checkpoints.weights_hash(*self.loaded_from)

    def encode_views(self, images: Tensor, cameras: Cameras) -> Views:
        """images (N, 3, H, W) in [0, 1], cameras of all V views with the images' first; H, W multiples of 14."""
        return self.autoencoder.encode_views(images, cameras)

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
        return self.sample(1, views, None, Sampling(steps, cfg, shift, seed, noise, callback, solver))

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
        self.autoencoder.check_latent(views, level1, 1)
        return self.sample(0, views, level1, Sampling(steps, cfg, shift, seed, noise, callback, solver))

    def decode_rgb(self, views: Views, level1: Tensor, level0: Tensor | None) -> Tensor:
        """Images of all views (V, 3, H, W) float32, not clamped. level0 None: a quick look from levels 1 to 3."""
        return self.autoencoder.decode_rgb(views, level1, level0)

    def decode_geometry(self, views: Views, level1: Tensor, level0: Tensor | None) -> Geometry:
        """Depth, rays and recovered cameras of all views. level0 None: from levels 1 to 3."""
        return self.autoencoder.decode_geometry(views, level1, level0)

    def estimate_cameras(self, images: Tensor) -> Cameras:
        """Cameras of images (V, 3, H, W) in [0, 1] from the images alone, one photograph included."""
        return self.autoencoder.estimate(images).cameras

    def denoiser(
        self,
        level: int,
        views: Views,
        level1: Tensor | None,
        sampling: Sampling,
        remembered: flow.Remembered | None = None,
    ) -> Callable[[Tensor, float], Tensor]:
        """The features (1, C, V, h, w) as estimated from noisy ones at a time, on the networks' device."""
        network, device = self.network(level), self.autoencoder.device

        def branch(conditional: bool) -> dict[str, Any]:
            source = to_network(views.level1 if level == 1 else views.level0).to(device)
            given = None if level1 is None else to_network(level1).to(device)
            cameras = {name: value.to(device) for name, value in conditions(views, level, conditional).items()}
            return network.prepare(source, **cameras, level1=given)

        guidance = branch(False) if sampling.cfg != 1 else None
        return flow.denoiser(network, guidance, branch(True), sampling.cfg, sampling.solver, remembered)

    @torch.inference_mode()
    def sample(
        self,
        level: int,
        views: Views,
        level1: Tensor | None,
        sampling: Sampling,
        known: Mapping[int, Tensor] | None = None,
    ) -> Tensor:
        """`sample_level1` or `cascade_level0`. known: views (C, h, w) by index that are not sampled but held."""
        self.autoencoder.check_views(views)
        times = sampling.times(views.backbone, views.latent_shape[1], len(views.cameras))
        noise = sampling.initial_noise(views.latent_shape, level)
        velocity = flow.velocity_to(self.denoiser(level, views, level1, sampling))
        x = to_network(noise).to(self.autoencoder.device, torch.float32)
        if known:
            held, data = list(known), torch.stack(list(known.values()), dim=1)[None].to(x)
            velocity = flow.hold_known_views(velocity, x, held, data)
        callback = sampling.callback
        if callback is not None:
            show = callback
            callback = lambda step, steps, x: show(step, steps, from_network(x))  # noqa: E731
        x = flow.integrate(velocity, x, times, callback, sampling.solver.order)
        if known:
            # The last time is not quite 0.
            x[:, :, held] = data
        return from_network(x)


def load_autoencoder(
    models_dir: str | os.PathLike, backbone: str, *, device="cpu", dtype: torch.dtype = torch.float32, **factory
) -> Autoencoder:
    """The frozen networks and statistics of one family. factory: mmap as in `load`; operations and attention, as the
    networks take them.

    Raises FileNotFoundError or ValueError that names file, tensor and cure.
    """
    loaders = checkpoints.autoencoder_networks(models_dir, backbone, dtype=dtype, **factory)
    family = {"da3": DA3Autoencoder, "vggt": VGGTAutoencoder}[backbone]
    networks: dict[str, Any] = {name: read(device=device) for name, read in loaders.items()}
    statistics = checkpoints.load_statistics(models_dir, backbone, networks["backbone"].channels)
    autoencoder = family(networks, statistics, device, dtype)
    # The two families' RGB decoders differ in nothing but this.
    rgb_path = checkpoints.find(models_dir, backbone, "rgb")
    checkpoints.check_channels(rgb_path, autoencoder.networks["rgb_decoder"].config.channels // 4, autoencoder.channels)
    return autoencoder


def own_settings(models_dir: str | os.PathLike, backbone: str) -> tuple[int, int]:
    """Pixels of the longer image side and network evaluations that a folder's networks are made for. The small model is
    told by the name of its folder.
    """
    if backbone == "da3" and Path(models_dir).resolve().name == checkpoints.NANO.name:
        return checkpoints.NANO_SIZE, checkpoints.NANO_STEPS
    return checkpoints.RELEASED_SIZE, flow.STEPS[backbone]


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
    checked here. A network's weights are loaded when it is first used, and let go when the next stage (autoencoder,
    level 1, level 0) needs its own. With keep all of them stay: for many scenes in a row, or to change a network. With
    mmap, weights that need no conversion are memory-mapped, so their files have to stay as they are; without it they
    are read into memory, as is best for a network volume. Raises FileNotFoundError or ValueError that names file,
    tensor and cure.
    """
    first = device if keep else "meta"
    autoencoder = load_autoencoder(models_dir, backbone, device=first, dtype=dtype, mmap=mmap)
    loaders, diffusion = {}, {}
    for level in (1, 0):
        path = checkpoints.find(models_dir, backbone, f"level{level}")
        loaders[level] = functools.partial(checkpoints.load_diffusion, path, backbone, level, dtype=dtype, mmap=mmap)
        diffusion[level] = loaders[level](device=first)
        checkpoints.check_channels(path, diffusion[level].config.channels, autoencoder.channels)
    own = own_settings(models_dir, backbone)
    gld = GLD(autoencoder, diffusion[1], diffusion[0], *own, loaded_from=(models_dir, backbone))
    if not keep:
        frozen = checkpoints.autoencoder_networks(models_dir, backbone, dtype=dtype, mmap=mmap)
        stages = Stages({"autoencoder": frozen, "diffusion 1": {1: loaders[1]}, "diffusion 0": {0: loaders[0]}}, device)
        autoencoder.network = functools.partial(stages.network, "autoencoder")
        autoencoder.device = torch.device(device)
        gld.network = lambda level: stages.network(f"diffusion {level}", level)
    return gld
