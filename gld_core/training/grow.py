"""Widen a small model, so that its features carry pixels: what it has learned stays, new channels are added beside it.

The backbone gets new channels that its patch embedding fills with what the old features do not say of a patch's pixels,
and that no block changes. Their values are small beside the old ones, so that the layer norms hardly notice them; the
statistics of the latents bring them to unit variance. Every other network reads and writes the old channels as before.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoints import DA3_PREFIX, find, open_tensors, without_prefix
from ..networks import da3
from ..networks.layers import normalize_images
from ..networks.rgb_decoder import RGBDecoder, RGBDecoderConfig
from .data import Data
from .loop import Settings, make_batch

# The new channels' share of the old ones' deviation.
SMALL = 0.05
# Width of the widened backbone.
WIDTH = 256
# Widths of encoder and decoder of a widened level 1 and cascade.
DIFFUSION_WIDTHS = {"level1": (256, 384), "level0": (128, 384)}
# Of the RGB decoder.
RGB_WIDTH, RGB_DEPTH, RGB_HIDDEN, RGB_GRID = 384, 3, 768, 16
# Share of the RGB decoder's channels' energy that is picture; the rest is constant, so that layer norms keep contrast.
RGB_SIGNAL = 0.1

Index = Tensor | None


class Widening:
    """Puts old tensors into larger ones. What is new is zero, or normal of deviation 1/sqrt(fan in)."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def random(self, *shape: int) -> Tensor:
        fan_in = shape[1:] if len(shape) > 1 else shape
        return torch.randn(shape, generator=self.generator) * torch.Size(fan_in).numel() ** -0.5

    def rows(self, old: Tensor, size: int, index: Tensor, new: Tensor | float = 0.0) -> Tensor:
        """Old rows at `index` of a tensor of `size` rows; the others are `new`."""
        out = torch.zeros(size, *old.shape[1:])
        out += new
        out[index] = old.float()
        return out

    def matrix(self, old: Tensor, shape: tuple[int, int], rows: Tensor, columns: Tensor, fill: str = "zero") -> Tensor:
        """Old weight (out, in, ...) at rows and columns. fill: of the new rows, "zero" or "random"; old rows do not
        read new columns."""
        out = self.random(*shape) if fill == "random" else torch.zeros(shape)
        out[rows] = 0
        out[rows[:, None], columns] = old.float().flatten(1)
        return out


def repeated(index: Tensor, times: int, size: int) -> Tensor:
    """The index in each of `times` parts of `size`."""
    return torch.cat([index + i * size for i in range(times)])


def collect(batches: Iterable[Tensor], encode: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Patches (P, 588) of normalised pictures in the patch embedding's order, and features (P, C) of each."""
    pixels, features = [], []
    for images in batches:
        flat = normalize_images(images.flatten(0, 1))
        pixels.append(F.unfold(flat, 14, stride=14).transpose(1, 2).flatten(0, 1))
        features.append(encode(images).flatten(0, -2))
    return torch.cat(pixels), torch.cat(features)


def regression(features: Tensor, values: Tensor, ridge: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Weight (in, out) and bias of the linear map with least squares; ridge is relative to each feature's variance."""
    x, y = features.double(), values.double()
    mean, deviation, centre = x.mean(dim=0), x.std(dim=0).clamp(min=1e-8), y.mean(dim=0)
    x, y = (x - mean) / deviation, y - centre
    gram = x.T @ x + ridge * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, x.T @ y) / deviation[:, None]
    return weight.float(), (centre - mean @ weight).float()


def pixel_basis(pixels: Tensor, features: Tensor, channels: int, widening: Widening) -> Tensor:
    """(channels, 588): the principal directions of what the features leave unsaid, turned so that all new channels vary
    alike and an error in one is as large in pixels as in another."""
    weight, bias = regression(features, pixels)
    rest = pixels - features @ weight - bias
    directions = torch.linalg.eigh((rest.T @ rest).double() / len(rest))[1].flip(1)[:, :channels].float()
    turn = torch.linalg.qr(torch.randn(channels, channels, generator=widening.generator))[0]
    return turn @ directions.T


def centred(weight: Tensor, gamma: Tensor | float = 1.0) -> Tensor:
    """What is written to the residual stream, scaled, without its mean over channels, which layer norms do not see."""
    written = weight.float() * (gamma if isinstance(gamma, float) else gamma.float().view(-1, *[1] * (weight.ndim - 1)))
    return written - written.mean(dim=0)


def widen_backbone(
    old: Mapping[str, Tensor], basis: Tensor, mean: Tensor, old_deviation: float, widening: Widening
) -> dict[str, Tensor]:
    """Names are `da3.Backbone`'s. basis (new, 588) of normalised patches, mean (588,) of these."""
    width, added = len(old["norm.weight"]), len(basis)
    E, index = width + added, torch.arange(width)
    root = (E / width) ** 0.5
    out: dict[str, Tensor] = {}
    spread = (basis @ basis.T).diagonal().mean().sqrt()
    assert abs(float(spread) - 1) < 1e-3

    def norm(name: str) -> None:
        # Half of the channels are next to nothing, so the old ones come out larger by `root`, and the new ones small.
        new = 1 / (SMALL * root)
        out[f"{name}.weight"] = widening.rows(old[f"{name}.weight"].float() / root, E, index, new)
        out[f"{name}.bias"] = widening.rows(old[f"{name}.bias"], E, index)

    for name in ("cls_token", "camera_token", "pos_embed"):
        token = old[name].float()
        out[name] = F.pad(token - token.mean(dim=-1, keepdim=True), (0, added))
    weight, bias = old["patch_embed.proj.weight"].float(), old["patch_embed.proj.bias"].float()
    scale = SMALL * old_deviation
    pixels = basis.view(added, 3, 14, 14) * scale
    out["patch_embed.proj.weight"] = torch.cat([centred(weight), pixels])
    out["patch_embed.proj.bias"] = torch.cat([centred(bias), -(basis @ mean) * scale])
    norm("norm")
    # In the final norm the new channels stay small: heads have a norm of their own behind it.
    out["norm.weight"][width:] = 1.0
    heads = repeated(index, 3, E)
    for i in range(12):
        block = f"blocks.{i}"
        norm(f"{block}.norm1")
        norm(f"{block}.norm2")
        qkv = widening.matrix(old[f"{block}.attn.qkv.weight"], (3 * E, E), heads, index, "random")
        # Queries and keys alike: attention to what looks alike, from the first step on.
        qkv[E + width : 2 * E] = qkv[width:E]
        out[f"{block}.attn.qkv.weight"] = qkv
        out[f"{block}.attn.qkv.bias"] = widening.rows(old[f"{block}.attn.qkv.bias"], 3 * E, heads)
        for name in ("q_norm", "k_norm"):
            for part in ("weight", "bias"):
                if f"{block}.attn.{name}.{part}" in old:
                    out[f"{block}.attn.{name}.{part}"] = old[f"{block}.attn.{name}.{part}"].float()
        for writer, gamma in (("attn.proj", "ls1"), ("mlp.fc2", "ls2")):
            share = old[f"{block}.{gamma}.gamma"]
            fan_in = E if writer == "attn.proj" else old[f"{block}.mlp.fc2.weight"].shape[1]
            columns = torch.arange(old[f"{block}.{writer}.weight"].shape[1])
            written = centred(old[f"{block}.{writer}.weight"], share)
            out[f"{block}.{writer}.weight"] = widening.matrix(written, (E, fan_in), index, columns)
            out[f"{block}.{writer}.bias"] = widening.rows(centred(old[f"{block}.{writer}.bias"], share), E, index)
            out[f"{block}.{gamma}.gamma"] = torch.ones(E)
        hidden = old[f"{block}.mlp.fc1.weight"].shape[0]
        every = torch.arange(hidden)
        out[f"{block}.mlp.fc1.weight"] = widening.matrix(old[f"{block}.mlp.fc1.weight"], (hidden, E), every, index)
        out[f"{block}.mlp.fc1.bias"] = old[f"{block}.mlp.fc1.bias"].float()
    return out


def feature_index(width: int, E: int) -> Tensor:
    """Where the old 2 * width channels of a level lie in the new 2 * E."""
    return repeated(torch.arange(width), 2, E)


def widen_head(old: Mapping[str, Tensor], width: int, E: int, widening: Widening) -> dict[str, Tensor]:
    """DA3's geometry head: it reads the old channels."""
    index, root = feature_index(width, E), (E / width) ** 0.5
    out = {name: value.float() for name, value in old.items()}
    out["norm.weight"] = widening.rows(old["norm.weight"].float() / root, 2 * E, index, 1 / root)
    out["norm.bias"] = widening.rows(old["norm.bias"], 2 * E, index)
    for i in range(4):
        weight = old[f"projects.{i}.weight"]
        wide = widening.matrix(weight, (len(weight), 2 * E), torch.arange(len(weight)), index)
        out[f"projects.{i}.weight"] = wide[..., None, None]
    return out


def widen_camera_decoder(old: Mapping[str, Tensor], width: int, E: int, widening: Widening) -> dict[str, Tensor]:
    index = feature_index(width, E)
    out = {name: value.float() for name, value in old.items()}
    for i in (0, 2):
        weight = old[f"backbone.{i}.weight"]
        out[f"backbone.{i}.weight"] = widening.matrix(weight, (2 * E, 2 * E), index, index, "random")
        out[f"backbone.{i}.bias"] = widening.rows(old[f"backbone.{i}.bias"], 2 * E, index)
    for name in ("fc_t", "fc_qvec", "fc_fov.0"):
        weight = old[f"{name}.weight"]
        out[f"{name}.weight"] = widening.matrix(weight, (len(weight), 2 * E), torch.arange(len(weight)), index)
    return out


def head_index(old: int, new: int) -> Tensor:
    """Where a DiT head's old channels lie among its new ones, so that PRoPE treats them as before: half of them go
    through matrices in groups of four, half are rotated, by column and by row, in pairs of a frequency. Where the new
    head has not that frequency, it is the next lower one."""
    old_f, new_f = old // 8, new // 8
    frequency = (torch.arange(old_f) * new_f / old_f).ceil().long()
    rotary = torch.arange(new // 2).view(2, 2, new_f)[:, :, frequency].flatten()
    return torch.cat([torch.arange(old // 2), new // 2 + rotary])


def widen_diffusion(
    old: Mapping[str, Tensor], width: int, E: int, widths: tuple[int, int], widening: Widening
) -> dict[str, Tensor]:
    """A DA3 diffusion model under its released names, encoder and decoder to `widths`.

    In the added channels of the decoder the noisy latent's new channels go straight through to the velocity, in source
    views less the clean ones: what is left to learn is what the new channels of the targets are.
    """
    heads = 16
    old_widths = (old["s_projector.weight"].shape[1], old["s_projector.weight"].shape[0])
    index = [torch.arange(size) for size in old_widths]
    C, old_C, features = 2 * E, 2 * width, feature_index(width, E)
    # The new channels of the first half of a level; those of the second half say the same.
    added = torch.arange(width, E)
    out = {"t_embedder.W": old["t_embedder.W"].float()}

    def linear(name: str, rows: Tensor, columns: Tensor, shape: tuple[int, int], fill: str = "zero") -> None:
        out[f"{name}.weight"] = widening.matrix(old[f"{name}.weight"], shape, rows, columns, fill)
        out[f"{name}.bias"] = widening.rows(old[f"{name}.bias"], shape[0], rows)

    # The added channels are small beside the old ones and come out of the norms as large as these.
    def norm(name: str, part: int) -> None:
        root = (widths[part] / old_widths[part]) ** 0.5
        out[f"{name}.weight"] = widening.rows(
            old[f"{name}.weight"].float() / root, widths[part], index[part], 1 / (SMALL * root)
        )

    straight = torch.zeros(widths[1] - old_widths[1], C)
    straight[torch.arange(len(added)), added] = 1.0
    for suffix in ("", "_ref", "_tgt"):
        for part, kind in enumerate(("s", "x")):
            name = f"{kind}_embedder{suffix}.proj"
            if f"{name}.weight" not in old:
                continue
            pair = torch.cat([features, C + features])
            linear(name, index[part], pair, (widths[part], 2 * C), "random")
            weight, size = out[f"{name}.weight"], old_widths[part]
            weight[size:] *= SMALL
            if kind == "x":
                # The cascade's one embedder has no condition where there is no source.
                condition = 0.0 if suffix == "_tgt" else -1.0
                weight[size:] = SMALL * torch.cat([condition * straight, straight], dim=1)
            out[f"{name}.weight"] = weight[..., None, None]
    weight = old["camera_embedder.proj.weight"].float()
    rays = widening.matrix(weight, (widths[0], 7 * 14 * 14), index[0], torch.arange(7 * 14 * 14), "random")
    rays[old_widths[0] :] *= SMALL
    out["camera_embedder.proj.weight"] = rays.view(-1, 7, 14, 14)
    out["camera_embedder.proj.bias"] = widening.rows(old["camera_embedder.proj.bias"], widths[0], index[0])
    linear("t_embedder.mlp.0", index[0], torch.arange(512), (widths[0], 512), "random")
    linear("t_embedder.mlp.2", index[0], index[0], (widths[0], widths[0]), "random")
    linear("s_projector", index[1], index[0], (widths[1], widths[0]), "random")
    blocks = len({name.split(".")[1] for name in old if name.startswith("blocks.")})
    for i in range(blocks):
        block = f"blocks.{i}"
        part = 0 if len(old[f"{block}.norm1.weight"]) == old_widths[0] else 1
        W, old_W, own = widths[part], old_widths[part], index[part]
        norm(f"{block}.norm1", part)
        norm(f"{block}.norm2", part)
        within = head_index(old_W // heads, W // heads)
        inside = torch.cat([within + head * (W // heads) for head in range(heads)])
        qkv = old[f"{block}.attn.qkv.weight"].float().clone()
        bias = old[f"{block}.attn.qkv.bias"].float().clone()
        # Attention divides by the root of a head's size, which has grown.
        qkv[:old_W] *= (W / old_W) ** 0.5
        bias[:old_W] *= (W / old_W) ** 0.5
        rows = repeated(inside, 3, W)
        wide = widening.matrix(qkv, (3 * W, W), rows, own, "random")
        # What is new in keys starts at zero: the old attention stays.
        fresh = torch.ones(W, dtype=torch.bool).index_fill(0, inside, False).nonzero()[:, 0]
        wide[W + fresh] = 0
        out[f"{block}.attn.qkv.weight"] = wide
        out[f"{block}.attn.qkv.bias"] = widening.rows(bias, 3 * W, rows)
        linear(f"{block}.attn.proj", own, inside, (W, W), "random")
        hidden = old[f"{block}.mlp.w3.weight"].shape[1]
        wanted = hidden * W // old_W if part == 0 else hidden
        both, units = repeated(torch.arange(hidden), 2, wanted), torch.arange(hidden)
        linear(f"{block}.mlp.w12", both, own, (2 * wanted, W), "random")
        linear(f"{block}.mlp.w3", own, units, (W, wanted), "random")
        linear(f"{block}.adaLN_modulation.1", repeated(own, 6, W), own, (6 * W, W))
    norm("final_layer.norm_final", 1)
    linear("final_layer.linear", features, index[1], (C, widths[1]))
    linear("final_layer.adaLN_modulation.1", repeated(index[1], 2, widths[1]), index[1], (2 * widths[1], widths[1]))
    # At late times, where most of the way is, the velocity is about the noisy latent less the data.
    root = (widths[1] / old_widths[1]) ** 0.5
    out["final_layer.linear.weight"][added[:, None], torch.arange(old_widths[1], widths[1])] = straight[:, added].T
    assert old["final_layer.linear.weight"].shape[0] == old_C and root > 1
    return out


def linear_decoder(features: Tensor, pixels: Tensor, ignored: Tensor, widening: Widening) -> dict[str, Tensor]:
    """An RGB decoder, under its own names, whose layers add nothing yet: the best linear map from the features (P, 4C)
    of the four levels, but those to be ignored, to pixels (P, 588), through all but two channels, which hold a
    constant."""
    features = features.clone()
    features[:, ignored] = 0
    weight, bias = regression(features, pixels)
    made = features @ weight
    code = RGB_WIDTH - 2
    centre = made.mean(dim=0)
    variance, directions = torch.linalg.eigh(((made - centre).T @ (made - centre)).double() / len(made))
    directions, energy = directions.flip(1)[:, :code].float(), float(variance.sum())
    constant = (energy / RGB_SIGNAL / 2) ** 0.5
    config = RGBDecoderConfig(features.shape[1], RGB_WIDTH, RGB_DEPTH, RGB_HIDDEN, RGB_GRID, 14)
    decoder = RGBDecoder(config)
    out = {name: widening.random(*value.shape) for name, value in decoder.state_dict().items()}
    for name, value in out.items():
        if name.endswith("bias") or name.endswith(("output.dense.weight", "pos_embed", "cls_token")):
            value.zero_()
        elif "norm" in name:
            value.fill_(1.0)
    out["decoder_embed.weight"] = torch.cat([(weight @ directions).T, torch.zeros(2, features.shape[1])])
    out["decoder_embed.bias"] = torch.cat([-centre @ directions, torch.tensor([constant, -constant])])
    # The norm divides by the root of the mean square, which is nearly the constant's.
    scale = ((2 * constant**2 + energy) / RGB_WIDTH) ** 0.5
    # A patch in the decoder is rows, columns, colours; in the embedding colours come first.
    order = torch.arange(588).view(3, 14, 14).permute(1, 2, 0).flatten()
    out["decoder_pred.weight"] = torch.cat([directions * scale, torch.zeros(588, 2)], dim=1)[order]
    out["decoder_pred.bias"] = (bias + centre)[order]
    return out


def grow(models: Path, data: Data, settings: Settings, say: Callable[[str], None]) -> dict[str, dict]:
    """The files of a DA3 model widened to WIDTH, by part of the released layout, under their released names."""
    widening = Widening(settings.seed)
    model = open_tensors(find(models, "da3", "backbone"))
    old = without_prefix(model, DA3_PREFIX)
    old_width = len(old["norm.weight"])
    width = WIDTH
    if width <= old_width:
        raise ValueError(f"The backbone in {models} is {old_width} wide and does not grow to {width}.")

    def network(tensors: Mapping[str, Tensor]) -> da3.Backbone:
        built = da3.Backbone.from_tensors(tensors)
        built.load_state_dict({name: value.float() for name, value in tensors.items()})
        return built.requires_grad_(False).eval()

    def ready(backbone: da3.Backbone) -> Callable[[Tensor], Tensor]:
        def encode(images: Tensor) -> Tensor:
            raw = backbone(images.flatten(0, 1), 4, scenes=len(images))
            return torch.cat([backbone.decoder_ready(level) for level in raw], dim=-1)

        return encode

    batches = [make_batch(data, settings, step).images for step in range(settings.steps)]
    before = network(old)
    pixels, features = collect(batches, ready(before))
    say(f"{len(pixels)} patches of {old_width} channels")
    basis = pixel_basis(pixels, features, width - old_width, widening)
    tokens = before.patch_embed(normalize_images(batches[0].flatten(0, 1)))
    deviation = float(before(batches[0].flatten(0, 1), 2, scenes=len(batches[0]))[0][..., :old_width].std())
    spread = float(((pixels - pixels.mean(dim=0)) @ basis.T).std())
    say(f"old channels deviate by {deviation:.3f} ({float(tokens.std()):.3f} embedded), new ones by {spread:.3f}")
    wide = widen_backbone(old, basis, pixels.mean(dim=0), deviation / spread, widening)
    pixels, features = collect(batches, ready(network(wide)))
    heads = {
        part: widen_head(without_prefix(tensors, prefix), old_width, width, widening)
        for part, tensors, prefix in (
            ("own", model, "model.head."),
            ("head", open_tensors(find(models, "da3", "head")), "decoder."),
        )
    }
    second = torch.arange(width + old_width, 2 * width)
    decoder = linear_decoder(features, pixels, repeated(second, 4, 2 * width), widening)
    files = {
        "backbone": {
            **{DA3_PREFIX + name: value for name, value in wide.items()},
            **{f"model.head.{name}": value for name, value in heads["own"].items()},
            **{
                f"model.cam_dec.{name}": value
                for name, value in widen_camera_decoder(
                    without_prefix(model, "model.cam_dec."), old_width, width, widening
                ).items()
            },
        },
        "head": {f"decoder.{name}": value for name, value in heads["head"].items()},
        "rgb": {f"decoder.{name}": value for name, value in decoder.items()},
    }
    for level in ("level1", "level0"):
        tensors = open_tensors(find(models, "da3", level))
        files[level] = widen_diffusion(tensors, old_width, width, DIFFUSION_WIDTHS[level], widening)
    return {part: {name: value.contiguous() for name, value in file.items()} for part, file in files.items()}
