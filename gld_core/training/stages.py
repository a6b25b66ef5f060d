"""Training: the backbone of a small model, the decoders on frozen features (stage 1), the diffusion models (stage 2).

Every stage is a class of STAGES. Most of them train an `Objective`, which says what is trained and gives the loss of a
batch; `fit` runs it. Everything random comes from the seed, the step and the place of a scene in its batch. So a
training that was stopped goes on to the same bit, and several processes draw what one would have drawn.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, distributed

from ..checkpoints import (
    DA3_PREFIX,
    LAYOUT,
    RGB_DECODER,
    Statistics,
    autoencoder_networks,
    load_diffusion,
    load_part,
    without_prefix,
)
from ..evaluation.lpips import LPIPS, missing_files
from ..io.files import atomic
from ..networks import da3
from ..networks.dit import DiTConfig, MultiViewDiT, merge_pair_embedders
from ..networks.dpt import DPTConfig, GeometryHead
from ..networks.layers import plain_attention
from ..networks.rgb_decoder import RGBDecoder, RGBDecoderConfig
from ..pipeline import load, load_autoencoder
from .data import Data, Generated, Rooms, write_features, write_latents
from .grow import grow
from .loop import Settings, fit, initialise, make_batch
from .objectives import BackboneObjective, DecoderObjective, FinishObjective, FlowObjective, JoinObjective, Objective


@torch.no_grad()
def feature_statistics(
    backbone: Any, data: Data, settings: Settings, say: Callable[[str], None]
) -> dict[str, tuple[Statistics, int]]:
    """Mean and variance of every channel of levels 0 and 1 over settings.steps batches, and of how many tokens: of the
    patches ("normalization0"), and of VGGT's special tokens ("special0"). docs/model.md#feature-statistics
    """
    sums: dict[str, list[Tensor]] = {}
    device = next(backbone.parameters()).device
    for step in range(settings.steps):
        batch = make_batch(data, settings, step).to(device)
        raw = backbone(batch.images.flatten(0, 1), 2, scenes=len(batch.images))
        for level in (0, 1):
            special, patches = raw[level].double().tensor_split([backbone.specials], dim=1)
            # DA3's one special token is not in its latents.
            kinds = {"normalization": patches} | ({"special": special} if backbone.specials > 1 else {})
            for kind, tokens in kinds.items():
                flat = tokens.flatten(0, 1)
                part = [flat.new_tensor(len(flat)), flat.sum(dim=0), flat.square().sum(dim=0)]
                name = f"{kind}{level}"
                sums[name] = [a + b for a, b in zip(sums[name], part, strict=True)] if step else part
        if (step + 1) % 20 == 0:
            say(f"step {step + 1} of {settings.steps}")
    out = {}
    for name, (count, total, squares) in sums.items():
        mean = total / count
        var = squares / count - mean.square()
        out[name] = Statistics(mean.float().cpu(), var.float().cpu()), int(count)
    return out


# Where the stage features leaves what may be given as data, and the stage latents what the stage finish trains on.
FEATURES, LATENTS = "training/features", "training/latents"
# Widths and depths of encoder and decoder, level 1 and cascade.
DIFFUSION_SIZES = {
    "released": ((768, 2048), (28, 6), (28, 2)),
    "small": ((128, 256), (4, 2), (4, 1)),
}
# Sizes of the small model's backbone and decoders; it is trained from nothing at this width and widened later.
SMALL_WIDTH = 128
# Steps across the borders of its patches that are larger by more may be edges of things. In values from 0 to 1.
JOIN_LIMIT = 0.08


def small_networks(seed: int) -> dict[str, Any]:
    """The small model's backbone, camera decoder, geometry head and RGB decoder: 6.7 million weights."""
    channels = 2 * SMALL_WIDTH
    networks: dict[str, Any] = {
        "backbone": da3.Backbone(SMALL_WIDTH, 12, 4 * SMALL_WIDTH),
        "camera_decoder": da3.CameraDecoder(channels),
        "gld_head": GeometryHead(DPTConfig(channels, (32, 32, 48, 64), 32, 16, 32, rays=True)),
        "rgb_decoder": RGBDecoder(RGBDecoderConfig(4 * channels, 256, 4, 768, grid=36, patch=14)),
    }
    for number, network in enumerate(networks.values()):
        initialise(network, seed + number)
    return networks


def new_diffusion(autoencoder: Any, level: int, size: str, seed: int, **factory) -> MultiViewDiT:
    """A diffusion model of a size of DIFFUSION_SIZES with `initialise`d weights."""
    (encoder, decoder), *depths = DIFFUSION_SIZES[size]
    encoder_depth, decoder_depth = depths[1 - level]
    config = DiTConfig(
        channels=autoencoder.channels,
        encoder_width=encoder,
        encoder_depth=encoder_depth,
        encoder_hidden=8 * encoder // 3,
        decoder_width=decoder,
        decoder_depth=decoder_depth,
        decoder_hidden=8 * decoder // 3,
        frequencies=256,
        patch=autoencoder.patch,
        specials=autoencoder.specials if autoencoder.specials_in_latent else 0,
        separate_embedders=autoencoder.backbone == "vggt" or level == 1,
    )
    network = MultiViewDiT(config, dtype=torch.float32, **factory)
    initialise(network, seed)
    return network


def write_backbone(out: Path, values: Mapping[str, Tensor]) -> None:
    """Write the weights of a `BackboneObjective` as released files."""
    part = {name: without_prefix(values, f"networks.{name}.") for name in ("backbone", "gld_head", "camera_decoder")}
    names = {"backbone": DA3_PREFIX, "gld_head": "model.head.", "camera_decoder": "model.cam_dec."}
    model = {names[kind] + name: value.contiguous() for kind in names for name, value in part[kind].items()}
    write_model(out, model)
    write_decoders(out, "da3", values)


def write_model(out: Path, tensors: Mapping[str, Tensor]) -> None:
    """DA3's own file: backbone, head and camera decoder."""
    with atomic(released_file(out, "da3", "backbone").with_suffix(".safetensors")) as temporary:
        save_file(dict(tensors), temporary, {"format": "pt"})


def write_decoders(out: Path, backbone: str, values: Mapping[str, Tensor]) -> None:
    """Write RGB decoder and geometry head, whichever of the two was trained, as released files."""
    for kind, name in (("head", "networks.gld_head."), ("rgb", "networks.rgb_decoder.")):
        tensors = {f"decoder.{key}": value for key, value in without_prefix(values, name).items()}
        if tensors:
            write_ema(released_file(out, backbone, kind), tensors)


def write_diffusion(path: Path, network: MultiViewDiT, values: Mapping[str, Tensor]) -> None:
    """Write the weights of a `FlowObjective` as a released file."""
    write_ema(path, merge_pair_embedders({**network.state_dict(), **without_prefix(values, "network.")}))


def write_ema(path: Path, tensors: Mapping[str, Tensor]) -> None:
    with atomic(path) as temporary:
        torch.save({"ema": {name: value.detach().cpu() for name, value in tensors.items()}}, temporary)


def write_statistics(out: Path, backbone: str, statistics: Mapping[str, tuple[Statistics, int]]) -> None:
    for name, (found, count) in statistics.items():
        mean, var = (value[None, :, None, None] for value in (found.mean, found.var))
        content = {"mean": mean, "var": var, "std": var.sqrt(), "count": count, "level": int(name[-1])}
        with atomic(out / f"model_stats/{backbone}/{name[:-1]}_stats_level{name[-1]}.pt") as temporary:
            torch.save(content, temporary)


def released_file(out: Path, backbone: str, part: str) -> Path:
    """The file that a part is written to. ValueError where a converted file there would be read in its place."""
    path = out / (LAYOUT[backbone][part] + ".pt")
    converted = path.with_suffix(".safetensors")
    if part != "backbone" and converted.exists():
        raise ValueError(f"{converted} would be read in place of what is trained; move it away, or give another --out.")
    return path


@dataclass(frozen=True)
class Task:
    """What a stage is to do.

    models: folder of the frozen networks; the stage decoder also goes on with the RGB decoder in it. out: folder of the
    results, in the released layout. start: released weights to begin with, instead of random ones of a `size` of
    DIFFUSION_SIZES. geometry: the stages decoder and finish train the geometry head too.
    """

    data: Data
    settings: Settings
    out: Path
    models: Path | None
    start: Path | None
    size: str
    geometry: bool
    backbone: str
    device: torch.device
    say: Callable[[str], None]

    @property
    def frozen(self) -> Path:
        if self.models is None:
            raise ValueError("This stage needs the frozen networks; give their folder as --models.")
        return self.models

    @property
    def first(self) -> bool:
        """This is the only process, or the first of several."""
        return not distributed.is_initialized() or distributed.get_rank() == 0

    def rooms(self) -> Rooms:
        if not isinstance(self.data, Rooms):
            raise ValueError("This stage is the small model's; give rendered rooms as --data.")
        return self.data

    def networks(self, *names: str) -> dict[str, Any]:
        """Networks of the folder models, in float32."""
        loaders = autoencoder_networks(self.frozen, self.backbone, dtype=torch.float32)
        return {name: loaders[name](device=self.device) for name in names}


class Stage:
    """A stage of training. `defaults` are the values in which it differs from `Settings`."""

    name = ""
    defaults: Mapping[str, Any] = {}

    def __init__(self, task: Task):
        self.task = task

    def run(self, **logging: int) -> None:
        raise NotImplementedError


class Training(Stage):
    """A stage that trains networks: `build` gives them and their loss, `save` writes their averaged weights."""

    def data(self) -> Data:
        return self.task.data

    def build(self) -> Objective:
        raise NotImplementedError

    def save(self, ema: Mapping[str, Tensor]) -> None:
        raise NotImplementedError

    def run(self, **logging: int) -> None:
        """logging: save_every, log_every, workers and sheet_every of `fit`."""
        task, data = self.task, self.data()
        objective = self.objective = self.build().to(task.device)
        trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
        task.say(f"{self.name}: {trained / 1e6:.2f} million weights, {len(data)} scenes")
        made_with: dict[str, Any] = {"stage": self.name, "backbone": task.backbone, "size": task.size}
        if task.geometry:
            made_with["geometry"] = True
        state = task.out / f"training/{self.name}.pt"
        fit(objective, data, task.settings, state, self.save, task.say, made_with=made_with, **logging)


class BackboneStage(Training):
    """The small model's backbone and decoders, from nothing."""

    name = "backbone"
    defaults = {"batch": 32, "views": (1, 2, 4, 4, 4), "lr": 1e-3, "warmup": 100, "final_lr": 2e-5, "ema": 0.995}

    def build(self) -> Objective:
        for part in ("head", "rgb"):
            released_file(self.task.out, "da3", part)
        return BackboneObjective(small_networks(self.task.settings.seed))

    def save(self, ema: Mapping[str, Tensor]) -> None:
        write_backbone(self.task.out, ema)


class StatisticsStage(Stage):
    """Mean and variance of every channel of the features, by which latents are normalised."""

    name = "statistics"
    defaults = {"batch": 32, "views": (4,)}

    def run(self, **logging: int) -> None:
        task = self.task
        backbone = task.networks("backbone")["backbone"]
        if task.first:
            found = feature_statistics(backbone, task.data, task.settings, task.say)
            write_statistics(task.out, task.backbone, found)


class GrowStage(Stage):
    """The small model widened, so that its features carry pixels."""

    name = "grow"
    defaults = {"batch": 16, "views": (4,)}

    def run(self, **logging: int) -> None:
        task = self.task
        paths = {part: released_file(task.out, "da3", part) for part in LAYOUT["da3"]}
        if task.first:
            for part, tensors in grow(task.frozen, task.data, task.settings, task.say).items():
                if part == "backbone":
                    write_model(task.out, tensors)
                else:
                    write_ema(paths[part], tensors)


class DecoderStage(Training):
    """Stage 1: the RGB decoder, and the geometry head where it is asked for."""

    name = "decoder"
    defaults = {"batch": 4, "views": (4,), "lr": 2e-4, "final_lr": 2e-5, "ema": 0.9978, "clip": math.inf}

    def build(self) -> Objective:
        task = self.task
        if task.geometry and task.backbone != "da3":
            raise ValueError("The depth head of VGGT is part of VGGT-1B and is not trained; leave out --geometry.")
        for part in ("rgb", "head") if task.geometry else ("rgb",):
            released_file(task.out, task.backbone, part)
        networks = task.networks("backbone", "rgb_decoder", *(["gld_head"] if task.geometry else []))
        if task.start is not None:
            networks["rgb_decoder"] = load_part(RGBDecoder.from_tensors, task.start, RGB_DECODER, "decoder.")
        folder = task.frozen / "lpips"
        missing = missing_files(folder)
        if missing:
            task.say(f"LPIPS is left out of the loss: {folder} lacks {' and '.join(missing)}.")
        lpips = None if missing else LPIPS(folder, task.device)
        settings = task.settings
        objective = DecoderObjective(
            networks, settings.steps, settings.feature_noise, settings.level_drop, lpips, task.geometry
        )
        initialise(objective.discriminator, settings.seed)
        return objective

    def save(self, ema: Mapping[str, Tensor]) -> None:
        write_decoders(self.task.out, self.task.backbone, ema)


class DiffusionStage(Training):
    """A diffusion model, from nothing or from released weights."""

    level = 1

    def build(self) -> Objective:
        task, settings = self.task, self.task.settings
        self.path = released_file(task.out, task.backbone, f"level{self.level}")
        autoencoder = load_autoencoder(task.frozen, task.backbone, device=task.device)
        factory: dict[str, Any] = {"attention": plain_attention} if task.device.type == "cpu" else {}
        if task.start is None:
            self.network = new_diffusion(autoencoder, self.level, task.size, settings.seed, **factory)
        else:
            loaded = load_diffusion(task.start, task.backbone, self.level, dtype=torch.float32, **factory)
            self.network = loaded.requires_grad_(True)
        return FlowObjective(autoencoder, self.network, self.level, settings.camera_drop, settings.level1_noise)

    def save(self, ema: Mapping[str, Tensor]) -> None:
        write_diffusion(self.path, self.network, ema)


class Level1Stage(DiffusionStage):
    """Stage 2: the diffusion model of level 1."""

    name, level = "level1", 1
    defaults = {"batch": 56}


class CascadeStage(DiffusionStage):
    """Stage 2: the diffusion model of level 0, the cascade."""

    name, level = "cascade", 0
    defaults = {"batch": 128}


class FeaturesStage(Stage):
    """Latents of view sets, kept as data for the diffusion models. `steps` is the number of sets of every scene."""

    name = "features"
    defaults = {"batch": 8}

    def run(self, **logging: int) -> None:
        task, settings = self.task, self.task.settings
        if len(settings.views) != 1:
            raise ValueError("Kept features are of one number of views; give one as --views.")
        views, sources = settings.views[0], [n for n in settings.sources if n < settings.views[0]]
        autoencoder = load_autoencoder(task.frozen, task.backbone, device=task.device)
        folder = task.out / FEATURES
        write_features(autoencoder, task.data, folder, settings.steps, views, sources, settings.seed, task.say)


class LatentsStage(Stage):
    """Latents that the small model's diffusion models make in `steps` steps, for the stage finish."""

    name = "latents"
    defaults = {"batch": 6}

    def run(self, **logging: int) -> None:
        task, settings = self.task, self.task.settings
        rooms = task.rooms()
        gld = load(task.frozen, device=task.device, dtype=settings.precision, keep=True)
        write_latents(gld, rooms, task.out / LATENTS, settings.steps, settings.seed, task.say)


class FinishStage(Training):
    """RGB decoder and geometry head of the small model, also on latents of the stage latents if there are some."""

    name = "finish"
    defaults = {
        "batch": 24,
        "views": (6,),
        "lr": 5e-4,
        "warmup": 50,
        "final_lr": 1e-5,
        "ema": 0.99,
        "feature_noise": 0.7,
    }

    def data(self) -> Data:
        rooms, folder = self.task.rooms(), self.task.frozen / LATENTS
        return Generated(rooms, folder) if any(folder.glob("room_*.safetensors")) else rooms

    def given(self, *parts: str) -> tuple[dict[str, Any], Mapping[str, Statistics], float, float]:
        """What the objective is made of. parts: those that are going to be written."""
        for part in parts:
            released_file(self.task.out, "da3", part)
        networks = self.task.networks("backbone", "camera_decoder", "gld_head", "rgb_decoder")
        statistics = load_autoencoder(self.task.frozen, "da3").statistics
        return networks, statistics, self.task.settings.feature_noise, self.task.settings.level_drop

    def build(self) -> Objective:
        return FinishObjective(*self.given("head", "rgb"), self.task.geometry)

    def save(self, ema: Mapping[str, Tensor]) -> None:
        write_backbone(self.task.out, {**self.objective.state_dict(), **ema})


class JoinStage(FinishStage):
    """RGB decoder of the small model, ending in `join_patches`. Needs what the stage latents makes."""

    name = "join"

    def build(self) -> Objective:
        networks, statistics, noise, level_drop = self.given("rgb")
        before = networks["rgb_decoder"]
        networks["rgb_decoder"] = RGBDecoder(replace(before.config, joins=True), device=self.task.device)
        networks["rgb_decoder"].load_state_dict({"join_limit": torch.tensor([JOIN_LIMIT]), **before.state_dict()})
        return JoinObjective(networks, statistics, noise, level_drop)

    def save(self, ema: Mapping[str, Tensor]) -> None:
        limit = self.objective.get_buffer("networks.rgb_decoder.join_limit")
        write_decoders(self.task.out, "da3", {**ema, "networks.rgb_decoder.join_limit": limit})


STAGES: dict[str, type[Stage]] = {
    stage.name: stage
    for stage in (
        BackboneStage,
        StatisticsStage,
        GrowStage,
        DecoderStage,
        Level1Stage,
        CascadeStage,
        FeaturesStage,
        LatentsStage,
        FinishStage,
        JoinStage,
    )
}


def description() -> str:
    """What the command line says of the stages."""
    lines = [f"  {name:<12}{str(stage.__doc__).splitlines()[0]}" for name, stage in STAGES.items()]
    return "\n".join([__doc__ or "", *lines])


def train(
    stage: str,
    data: Data,
    settings: Settings,
    out: Path,
    models: Path | None = None,
    start: Path | None = None,
    size: str = "released",
    geometry: bool = False,
    backbone: str = "da3",
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = print,
    **logging: int,
) -> None:
    """Run a stage of STAGES, or go on with it. The result is in `out`, in the released layout.

    The arguments are those of `Task`; logging: save_every, log_every, workers and sheet_every of `fit`. Raises
    ValueError or FileNotFoundError for what cannot be trained with.
    """
    task = Task(data, settings, out, models, start, size, geometry, backbone, torch.device(device), say)
    STAGES[stage](task).run(**logging)
