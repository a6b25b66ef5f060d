"""Training: the backbone of a small model, the decoders on frozen features (stage 1), the diffusion models (stage 2).

A stage is an `Objective`: what is trained, and its loss for a batch. `fit` runs any of them. Everything random comes
from the seed, the step and the scene's place in the batch, so a run that was stopped goes on to the same bit, and
several processes draw what one would have drawn.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, distributed, nn

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
from ..networks.dit import MultiViewDiT, merge_pair_embedders, split_pair_embedders
from ..networks.dpt import GeometryHead
from ..networks.rgb_decoder import RGBDecoder
from ..pipeline import load, load_autoencoder
from ..synthetic.random_models import backbone_shapes, dit_shapes, head_shapes, layer, rgb_shapes
from .data import Data, Generated, Rooms, write_features, write_latents
from .loop import Settings, fit, initialise, make_batch
from .objectives import BackboneObjective, DecoderObjective, FinishObjective, FlowObjective, Objective


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


# The command line's stages, and what differs from `Settings` in each.
STAGES: dict[str, dict[str, Any]] = {
    "backbone": {"batch": 32, "views": (1, 2, 4, 4, 4), "lr": 1e-3, "warmup": 100, "final_lr": 2e-5, "ema": 0.995},
    "statistics": {"batch": 32, "views": (4,)},
    "decoder": {"batch": 4, "views": (4,), "lr": 2e-4, "final_lr": 2e-5, "ema": 0.9978, "clip": math.inf},
    "level1": {"batch": 56},
    "cascade": {"batch": 128},
    "features": {"batch": 8},
    "latents": {"batch": 6},
    "finish": {
        "batch": 24,
        "views": (6,),
        "lr": 5e-4,
        "warmup": 50,
        "final_lr": 1e-5,
        "ema": 0.99,
        "feature_noise": 0.7,
    },
}
# Where the stage features leaves what may be given as data, and the stage latents what the stage finish trains on.
FEATURES, LATENTS = "training/features", "training/latents"
# Widths and depths of encoder and decoder, level 1 and cascade.
DIFFUSION_SIZES = {
    "released": ((768, 2048), (28, 6), (28, 2)),
    "small": ((128, 256), (4, 2), (4, 1)),
}


def built(build: Callable[[Mapping[str, Tensor]], nn.Module], shapes: Mapping[str, Any], seed: int) -> Any:
    """A network of the shapes a file of it would have, with `initialise`d weights."""
    network = build({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    initialise(network, seed)
    return network


def special_shapes(channels: int, widths: tuple[int, int], specials: int) -> dict[str, tuple[int, ...]]:
    """What a VGGT diffusion model has for its special tokens."""
    encoder, decoder = widths
    return {
        **layer("special_s_embedder", encoder, 2 * channels),
        **layer("special_x_embedder", decoder, 2 * channels),
        "special_pos_embed_s": (1, specials, encoder),
        "special_pos_embed_x": (1, specials, decoder),
        **layer("special_output_proj", channels, channels),
    }


def small_networks(seed: int) -> dict[str, nn.Module]:
    """The small model's backbone, camera decoder, geometry head and RGB decoder: 6.7 million weights."""
    width = 128
    shapes, prefix = backbone_shapes(width), "model.cam_dec."
    return {
        "backbone": built(lambda t: da3.Backbone.from_tensors(without_prefix(t, DA3_PREFIX)), shapes, seed),
        "camera_decoder": built(lambda t: da3.CameraDecoder.from_tensors(without_prefix(t, prefix)), shapes, seed + 1),
        "gld_head": built(GeometryHead.from_tensors, head_shapes(2 * width, (32, 32, 48, 64), 32), seed + 2),
        "rgb_decoder": built(
            lambda t: RGBDecoder.from_tensors(without_prefix(t, "decoder.")),
            rgb_shapes(2 * width, 256, 4, 768),
            seed + 3,
        ),
    }


def write_backbone(out: Path, values: Mapping[str, Tensor]) -> None:
    """The released files of a `BackboneObjective`'s weights."""
    part = {name: without_prefix(values, f"networks.{name}.") for name in ("backbone", "gld_head", "camera_decoder")}
    names = {"backbone": DA3_PREFIX, "gld_head": "model.head.", "camera_decoder": "model.cam_dec."}
    model = {names[kind] + name: value.contiguous() for kind in names for name, value in part[kind].items()}
    with atomic(released_file(out, "da3", "backbone").with_suffix(".safetensors")) as temporary:
        save_file(model, temporary, {"format": "pt"})
    write_decoders(out, "da3", values)


def write_decoders(out: Path, backbone: str, values: Mapping[str, Tensor]) -> None:
    """The released files of RGB decoder and geometry head, those of the two that were trained."""
    for kind, name in (("head", "networks.gld_head."), ("rgb", "networks.rgb_decoder.")):
        tensors = {f"decoder.{key}": value for key, value in without_prefix(values, name).items()}
        if tensors:
            write_ema(released_file(out, backbone, kind), tensors)


def write_diffusion(path: Path, network: MultiViewDiT, values: Mapping[str, Tensor]) -> None:
    """The released file of a `FlowObjective`'s weights."""
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
    """Where a part is written. ValueError where a converted file there would be read in its place."""
    path = out / (LAYOUT[backbone][part] + ".pt")
    converted = path.with_suffix(".safetensors")
    if part != "backbone" and converted.exists():
        raise ValueError(f"{converted} would be read in place of what is trained; move it away, or give another --out.")
    return path


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
    save_every: int = 500,
    log_every: int = 20,
    workers: int = 0,
    sheet_every: int = 0,
) -> None:
    """Run a stage of `STAGES`, or go on with it; the result is in `out` in the released layout.

    models: folder of the frozen networks, and of the RGB decoder that the stage decoder goes on with. start: released
    weights to begin with, instead of random ones of a `size` of DIFFUSION_SIZES. geometry: the stage decoder trains
    the geometry head too. Raises ValueError or FileNotFoundError for what cannot be trained with.
    """
    objective: Objective
    if stage == "backbone":
        objective = BackboneObjective(small_networks(settings.seed))
        for part in ("head", "rgb"):
            released_file(out, backbone, part)
        save: Callable[[Mapping[str, Tensor]], None] = lambda ema: write_backbone(out, ema)  # noqa: E731
    elif models is None:
        raise ValueError(f"The stage {stage} needs the frozen networks; give their folder as --models.")
    elif stage == "statistics":
        if not distributed.is_initialized() or distributed.get_rank() == 0:
            network = autoencoder_networks(models, backbone, dtype=torch.float32)["backbone"](device=device)
            write_statistics(out, backbone, feature_statistics(network, data, settings, say))
        return
    elif stage == "decoder":
        for part in ("rgb", "head"):
            released_file(out, backbone, part)
        loaders = autoencoder_networks(models, backbone, dtype=torch.float32)
        networks = {name: loaders[name](device=device) for name in ("backbone", "gld_head", "rgb_decoder")}
        if start is not None:
            networks["rgb_decoder"] = load_part(RGBDecoder.from_tensors, start, RGB_DECODER, "decoder.")
        missing = missing_files(models / "lpips")
        if missing:
            say(f"LPIPS is left out of the loss: {models / 'lpips'} lacks {' and '.join(missing)}.")
        lpips = None if missing else LPIPS(models / "lpips", device)
        objective = DecoderObjective(
            networks, settings.steps, settings.feature_noise, settings.level_drop, lpips, geometry
        )
        initialise(objective.discriminator, settings.seed)
        save = lambda ema: write_decoders(out, backbone, ema)  # noqa: E731
    elif stage == "features":
        if len(settings.views) != 1:
            raise ValueError("Kept features are of one number of views; give one as --views.")
        views, sources = settings.views[0], [n for n in settings.sources if n < settings.views[0]]
        autoencoder = load_autoencoder(models, backbone, device=device)
        write_features(autoencoder, data, out / FEATURES, settings.steps, views, sources, settings.seed, say)
        return
    elif stage in ("latents", "finish"):
        if not isinstance(data, Rooms):
            raise ValueError(f"The stage {stage} is the small model's; give rendered rooms as --data.")
        if stage == "latents":
            gld = load(models, device=device, keep=True)
            write_latents(gld, data, out / LATENTS, settings.steps, settings.seed, say)
            return
        data = Generated(data, models / LATENTS)
        loaders = autoencoder_networks(models, "da3", dtype=torch.float32)
        names = ("backbone", "camera_decoder", "gld_head", "rgb_decoder")
        networks = {name: loaders[name](device=device) for name in names}
        autoencoder = load_autoencoder(models, "da3")
        finish = FinishObjective(
            networks, data.latents, autoencoder.statistics, settings.feature_noise, settings.level_drop
        )
        objective = finish
        save = lambda ema: write_backbone(out, {**finish.state_dict(), **ema})  # noqa: E731
    else:
        level = 1 if stage == "level1" else 0
        path = released_file(out, backbone, f"level{level}")
        autoencoder = load_autoencoder(models, backbone, device=device)
        if start is not None:
            network = load_diffusion(start, backbone, level, dtype=torch.float32).requires_grad_(True)
        else:
            widths, *depths = DIFFUSION_SIZES[size]
            shapes = dit_shapes(autoencoder.channels, widths, depths[1 - level], backbone == "da3" and level == 0)
            if backbone == "vggt":
                shapes |= special_shapes(autoencoder.channels, widths, autoencoder.specials)
            network = built(
                lambda t: MultiViewDiT.from_tensors(split_pair_embedders(t), dtype=torch.float32), shapes, settings.seed
            )
        objective = FlowObjective(autoencoder, network, level, settings.camera_drop, settings.level1_noise)
        save = lambda ema: write_diffusion(path, network, ema)  # noqa: E731
    objective.to(device)
    trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    say(f"{stage}: {trained / 1e6:.2f} million weights, {len(data)} scenes")
    made_with = {"stage": stage, "backbone": backbone, "size": size, **({"geometry": True} if geometry else {})}
    fit(
        objective,
        data,
        settings,
        out / f"training/{stage}.pt",
        save,
        say,
        save_every,
        log_every,
        workers,
        sheet_every,
        made_with,
    )
