"""Released files: where they are, what is in them, loading them into networks, converting them.

docs/checkpoints.md#what-each-file-holds

Files are memory-mapped; no code in a file is ever run.
"""

import functools
import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from .io.files import atomic
from .networks import da3, vggt
from .networks.dit import FLOAT32_NAMES, MultiViewDiT, split_pair_embedders
from .networks.dpt import GeometryHead
from .networks.layers import attention
from .networks.rgb_decoder import RGBDecoder

NANO = Path(__file__).parent / "nano"
# What models are made for: pixels of the longer image side, and of the small model the network evaluations.
RELEASED_SIZE = 504
NANO_STEPS, NANO_SIZE = 4, 126
Network = TypeVar("Network", bound=nn.Module)
# Is called again and again while a file is read; what it raises ends the reading.
Tick = Callable[[], None]
log = logging.getLogger(__name__)
# Relative paths without suffix: the release has .pt (.safetensors for the backbones), a converted folder .safetensors.
LAYOUT = {
    "da3": {
        "backbone": "pretrained_models/da3/model",
        "head": "pretrained_models/da3/dpt_decoder",
        "rgb": "pretrained_models/mae_decoder",
        "level1": "checkpoints/da3_level1",
        "level0": "checkpoints/da3_cascade",
    },
    "vggt": {
        "backbone": "VGGT-1B/model",
        "rgb": "pretrained_models/vggt/mae_decoder",
        "level1": "checkpoints/vggt_level1",
        "level0": "checkpoints/vggt_cascade",
    },
}
# The names' prefixes; the first is written on conversion. Tensors without one of them are not the network's.
PREFIXES = {"head": ("decoder.", "pred."), "rgb": ("decoder.",)}
# Parts of a backbone's file that GLD has no use for; conversion leaves them out.
UNUSED = ("point_head.", "track_head.")
STATISTICS = {"da3": ("normalization",), "vggt": ("normalization", "special")}
# What ComfyUI's Model Save puts before the names of a network, which it saves as they are in memory.
SAVED_PREFIX = "model.diffusion_model."
STATISTICS_KEY = "gld.statistics"
# A mapped page counts as used memory until its file is closed, so conversion reopens the file this often.
PASS_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Statistics:
    """Per-channel mean and variance, each (C,): latent = (raw - mean) / sqrt(var + 1e-5)."""

    mean: Tensor
    var: Tensor

    def normalize(self, raw: Tensor) -> Tensor:
        """raw (..., C)."""
        return (raw - self.mean.to(raw)) / torch.sqrt(self.var + 1e-5).to(raw)

    def denormalize(self, latent: Tensor) -> Tensor:
        """latent (..., C)."""
        return latent * torch.sqrt(self.var + 1e-5).to(latent) + self.mean.to(latent)


def find(models_dir: str | os.PathLike, backbone: str, part: str) -> Path:
    """The file of one part, converted or as released; FileNotFoundError says where to put it."""
    if backbone not in LAYOUT:
        raise ValueError(f"There is no backbone {backbone!r}; choose one of {', '.join(LAYOUT)}.")
    stem = Path(models_dir) / LAYOUT[backbone][part]
    for suffix in (".safetensors", ".pt"):
        path = stem.with_name(stem.name + suffix)
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{stem}.safetensors or .pt is missing; download the released files so that the folder {models_dir} "
        "has their layout."
    )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """ValueError that names the file and the cure, for whatever reading it raises."""
    try:
        yield
    # A damaged pickle may raise nearly anything.
    except Exception as error:
        # The first sentence; PyTorch's go on for a paragraph and advise against what this is for.
        reason = next(iter(str(error).splitlines()), type(error).__name__).split(". ")[0]
        raise ValueError(
            f"{path} cannot be read: it is truncated, damaged or holds more than tensors ({reason}); download it again."
        ) from error


def read_file(path: Path, mmap: bool = True) -> Any:
    """Content of a .safetensors or .pt file. With mmap the tensors are memory-mapped, so the file has to stay as it is
    while they are in use; without, they are copies. ValueError where it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing.")
    with reading(path):
        if path.suffix == ".safetensors":
            tensors = safetensors.torch.load_file(path)
            return tensors if mmap else {name: tensor.clone() for name, tensor in tensors.items()}
        return torch.load(path, map_location="cpu", mmap=mmap and zipfile.is_zipfile(path), weights_only=True)


def checked_pieces(path: Path) -> Iterator[None]:
    """Goes through a .pt file piece by piece. ValueError where a byte is not what was written: the archive has a
    checksum of every part, 0 where none was made. Safetensors have none.
    """
    if path.suffix == ".safetensors" or not zipfile.is_zipfile(path):
        return
    with reading(path), zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            with archive.open(part) as file:
                while part.CRC and file.read(2**20):
                    yield


def read_statistics_file(path: Path) -> tuple[Path, Mapping[str, Tensor]]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; the statistics come with the research program's code, not with its weights."
        )
    content = read_file(path, mmap=False)
    if not isinstance(content, Mapping) or not {"mean", "var"} <= content.keys():
        raise ValueError(f"{path} holds no feature statistics; download it again.")
    for name in ("mean", "var"):
        if isinstance(content[name], Tensor):
            check_stored(path, name, content[name])
    return path, content


def open_tensors(path: Path, mmap: bool = True) -> dict[str, Tensor]:
    """Tensors of a checkpoint: those under `ema`, else under `model`, else at the top. mmap as in `read_file`."""
    content = read_file(path, mmap)
    for container in ("ema", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(container), Mapping):
            content = content[container]
            break
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds no state dict; give a released checkpoint.")
    tensors = {
        str(name).removeprefix("module.").removeprefix(SAVED_PREFIX): value
        for name, value in content.items()
        if isinstance(value, Tensor)
    }
    for name, tensor in tensors.items():
        check_stored(path, name, tensor)
    return tensors


def check_stored(path: Path, name: str, tensor: Tensor) -> None:
    """ValueError where a tensor claims more than is stored of it, which a stride of 0 does in a file of any size."""
    stored = tensor.untyped_storage().nbytes()
    if tensor.nbytes > stored:
        raise ValueError(f"{path}: {name} claims {tensor.nbytes} bytes and stores {stored}; download the file again.")


def check_finite(path: Path, name: str, tensor: Tensor) -> Tensor:
    """The tensor itself; ValueError where it has infinities or NaN, or is not of floating point."""
    if not tensor.is_floating_point():
        raise ValueError(f"{path}: {name} has {tensor.dtype} where weights are meant; download the file again.")
    # A sum with infinities or NaN is not finite, and takes no memory; one that merely overflows is looked into. In the
    # weights' own type, as casting on the way takes thirty times as long; float8 has no sum.
    total = tensor.sum(dtype=torch.float32 if tensor.element_size() == 1 else None)
    if not torch.isfinite(total) and not torch.isfinite(tensor.float()).all():
        raise ValueError(f"{path}: {name} has non-finite weights; download the file again.")
    return tensor


def released_name(name: str) -> str:
    """The name in a released file of a network's own tensor."""
    return name.replace(".condition.", ".proj.").replace(".state.", ".proj.")


def load_network(
    build: Callable[[Mapping[str, Tensor]], Network],
    path: Path,
    read: Callable[[], Mapping[str, Tensor]],
    device: torch.device | str = "cpu",
    partial: bool = False,
    mmap: bool = True,
    tick: Tick = lambda: None,
) -> Network:
    """A network with its weights, in the types it was built with. On the meta device it is checked and left empty.

    build makes it on the meta device, with the dimensions of the tensors. read returns tensors under the network's
    names. With `mmap` they are memory-mapped, and read is called again while converting, so that what is done can be
    let go. With `partial`, tensors that the file lacks are left as they are. tick is called between pieces. Raises
    ValueError that names file and key for missing, misshapen and non-finite tensors.
    """
    for _ in checked_pieces(path):
        tick()
    written = file_state(path)
    tensors = dict(read())
    try:
        network = build(tensors)
    except KeyError as error:
        raise ValueError(f"{path} lacks {error.args[0]}; the file is incomplete, download it again.") from error
    # Sizes that contradict each other fail where they are put to use.
    except (ValueError, IndexError, RuntimeError, ZeroDivisionError) as error:
        raise ValueError(
            f"{path} has tensors of shapes that do not fit together ({error}); download it again."
        ) from error
    expected = network.state_dict()
    for name, like in expected.items():
        if name not in tensors and not partial:
            raise ValueError(f"{path} lacks {released_name(name)}; it is not the file meant here, download that again.")
        if name in tensors and tensors[name].shape != like.shape:
            raise ValueError(
                f"{path}: {released_name(name)} has shape {tuple(tensors[name].shape)}, "
                f"{tuple(like.shape)} is needed; it is not the file meant here, download that again."
            )
    names = [name for name in expected if name in tensors]
    surplus = [released_name(name) for name in tensors if name not in expected]
    if surplus:
        log.info("%s: %d tensors are not used, among them %s", path, len(surplus), surplus[0])
    network.requires_grad_(False).eval()
    while names:
        batch: dict[str, Tensor] = {}
        converted = 0
        while names and converted < PASS_BYTES:
            tick()
            name = names.pop(0)
            tensor = tensors.pop(name)
            check_finite(path, released_name(name), tensor)
            batch[name] = tensor.to(device=device, dtype=expected[name].dtype).contiguous()
            if batch[name] is not tensor:
                converted += tensor.nbytes
            elif mmap:
                network.__dict__.setdefault("mapped_files", {})[path] = written
        network.load_state_dict(batch, strict=False, assign=True)
        if names and mmap:
            del tensor, tensors
            tensors = dict(read())
    return network


def file_state(path: Path) -> tuple[int, ...]:
    """What changes when a file is written to or another one takes its place."""
    state = os.stat(path)
    return state.st_ino, state.st_size, state.st_mtime_ns


def check_unchanged(network: nn.Module) -> None:
    """ValueError where a file that weights are memory-mapped from was changed since: reading them would end the program
    with a bus error, or give the weights of another network.
    """
    for path, written in network.__dict__.get("mapped_files", {}).items():
        if not path.is_file() or file_state(path) != written:
            raise ValueError(f"{path} was changed after it was loaded; load it again.")


def read_statistics(models_dir: str | os.PathLike, backbone: str) -> dict[str, tuple[Path, Mapping[str, Any]]]:
    """File and content ("mean", "var") of every statistic: "normalization0", "normalization1", "special0", ...

    From the metadata of a converted backbone, else from model_stats/<backbone>.
    """
    path, files = find(models_dir, backbone, "backbone"), statistics_files(models_dir, backbone)
    with reading(path):
        with safetensors.safe_open(path, "pt") as file:
            stored = (file.metadata() or {}).get(STATISTICS_KEY)
        if stored is not None:
            return {name: (path, json.loads(stored)[name]) for name in files}
    return {name: read_statistics_file(file) for name, file in files.items()}


def statistics_files(models_dir: str | os.PathLike, backbone: str) -> dict[str, Path]:
    """Where the statistics of `read_statistics` lie in the released layout, whether they are there or not."""
    folder = Path(models_dir) / "model_stats" / backbone
    return {
        f"{kind}{level}": folder / f"{kind}_stats_level{level}.pt" for kind in STATISTICS[backbone] for level in (0, 1)
    }


def load_statistics(models_dir: str | os.PathLike, backbone: str, channels: int) -> dict[str, Statistics]:
    """Statistics by kind and level, for features of `channels` channels. DA3's special token shares the patches'."""
    out = {}
    for name, (path, content) in read_statistics(models_dir, backbone).items():
        with reading(path):
            mean, var = (torch.as_tensor(content[key], dtype=torch.float32).flatten() for key in ("mean", "var"))
        for value in (mean, var):
            check_channels(path, len(value), channels)
        if not (torch.isfinite(mean).all() and torch.isfinite(var).all() and (var >= 0).all()):
            raise ValueError(f"{path} has statistics that are not finite, or a negative variance; download it again.")
        out[name] = Statistics(mean, var)
    if backbone == "da3":
        out |= {"special0": out["normalization0"], "special1": out["normalization1"]}
    return out


def sha256(path: Path, tick: Tick = lambda: None) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
            tick()
    return digest.hexdigest()


def weights_hash(models_dir: str | os.PathLike, backbone: str) -> str:
    """SHA-256 of all files that the networks and statistics are loaded from."""
    paths = {find(models_dir, backbone, part) for part in LAYOUT[backbone]}
    paths |= {path for path, _ in read_statistics(models_dir, backbone).values()}
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(sha256(path).encode())
    return digest.hexdigest()


DA3_LEVEL1, DA3_CASCADE = "the DA3 level-1 diffusion model", "the DA3 cascade"
VGGT_DIFFUSION = "a VGGT diffusion model"
DA3_BASE, VGGT_1B, RGB_DECODER, GEOMETRY_HEAD = "DA3-Base", "VGGT-1B", "an RGB decoder", "a geometry head"
DA3_PREFIX = "model.backbone.pretrained."
FAMILIES = (
    ("special_x_embedder.", VGGT_DIFFUSION),
    ("x_embedder_ref.", DA3_LEVEL1),
    ("x_embedder.", DA3_CASCADE),
    ("aggregator.", VGGT_1B),
    (DA3_PREFIX, DA3_BASE),
    ("decoder.decoder_embed.", RGB_DECODER),
    ("decoder.scratch.", GEOMETRY_HEAD),
    ("pred.scratch.", GEOMETRY_HEAD),
)


def identify(names: Iterable[str]) -> str:
    """What network a file's tensor names belong to, in words."""
    names = list(names)
    for prefix, family in FAMILIES:
        if any(name.startswith(prefix) for name in names):
            return family
    return "no network of GLD"


def open_family(path: Path, meant: str, mmap: bool = True) -> dict[str, Tensor]:
    """`open_tensors`, with ValueError where the file holds another network than the one meant."""
    tensors = open_tensors(path, mmap)
    found = identify(tensors)
    if found != meant:
        raise ValueError(f"{path} holds {found}, where {meant} is meant; put the right file in its place.")
    return tensors


def without_prefix(tensors: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """The tensors whose names begin with one of the prefixes, without it."""
    return {
        name[len(prefix) :]: tensor
        for name, tensor in tensors.items()
        for prefix in prefixes
        if name.startswith(prefix)
    }


def load_part(
    build: Callable[..., Network],
    path: Path,
    meant: str,
    *prefixes: str,
    device="cpu",
    mmap: bool = True,
    tick: Tick = lambda: None,
    **factory,
) -> Network:
    """`load_network` on the tensors of a file of family `meant` whose names begin with one of the prefixes. build is
    its class's `from_tensors`, factory what that takes."""
    return load_network(
        lambda tensors: build(tensors, device="meta", **factory),
        path,
        lambda: without_prefix(open_family(path, meant, mmap), *prefixes),
        device,
        mmap=mmap,
        tick=tick,
    )


def load_diffusion(
    path: Path, backbone: str, level: int, *, device="cpu", mmap: bool = True, tick: Tick = lambda: None, **factory
) -> MultiViewDiT:
    """The diffusion model of level 1, or of level 0 (the cascade), from its file.

    factory: operations, dtype and attention, as MultiViewDiT takes them.
    """
    meant = VGGT_DIFFUSION if backbone == "vggt" else DA3_LEVEL1 if level == 1 else DA3_CASCADE
    return load_network(
        lambda tensors: MultiViewDiT.from_tensors(tensors, device="meta", **factory),
        path,
        lambda: split_pair_embedders(open_family(path, meant, mmap)),
        device,
        mmap=mmap,
        tick=tick,
    )


def load_da3_head(
    path: Path, head_path: Path, *, device="cpu", mmap: bool = True, tick: Tick = lambda: None, **factory
) -> GeometryHead:
    """GLD's head: DA3's, overwritten by what dpt_decoder.pt has of it."""
    reading_how: dict[str, Any] = {"mmap": mmap, "tick": tick}
    head = load_part(GeometryHead.from_tensors, path, DA3_BASE, "model.head.", device=device, **reading_how, **factory)
    return load_network(
        lambda tensors: head,
        head_path,
        lambda: without_prefix(open_family(head_path, GEOMETRY_HEAD, mmap), *PREFIXES["head"]),
        device,
        partial=True,
        **reading_how,
    )


def da3_networks(
    models_dir: str | os.PathLike, *, attention=attention, **factory
) -> dict[str, Callable[..., nn.Module]]:
    """What loads the networks of a DA3Autoencoder, by name: each takes device. factory: operations and dtype."""
    path, head_path, rgb_path = (find(models_dir, "da3", part) for part in ("backbone", "head", "rgb"))
    part = functools.partial(load_part, **factory)
    attending = functools.partial(part, attention=attention)
    loaders: dict[str, Callable[..., nn.Module]] = {
        "backbone": functools.partial(attending, da3.Backbone.from_tensors, path, DA3_BASE, DA3_PREFIX),
        "camera_decoder": functools.partial(part, da3.CameraDecoder.from_tensors, path, DA3_BASE, "model.cam_dec."),
        "da3_head": functools.partial(part, GeometryHead.from_tensors, path, DA3_BASE, "model.head."),
        "gld_head": functools.partial(load_da3_head, path, head_path, **factory),
        "rgb_decoder": functools.partial(attending, RGBDecoder.from_tensors, rgb_path, RGB_DECODER, "decoder."),
    }
    if any(name.startswith("model.cam_enc.") for name in open_family(path, DA3_BASE)):
        loaders["camera_encoder"] = functools.partial(
            attending, da3.CameraEncoder.from_tensors, path, DA3_BASE, "model.cam_enc."
        )
    return loaders


def vggt_networks(
    models_dir: str | os.PathLike, *, attention=attention, **factory
) -> dict[str, Callable[..., nn.Module]]:
    """What loads the networks of a VGGTAutoencoder, by name: each takes device. factory: operations and dtype."""
    path, rgb_path = (find(models_dir, "vggt", part) for part in ("backbone", "rgb"))
    part = functools.partial(load_part, **factory)
    attending = functools.partial(part, attention=attention)
    return {
        "backbone": functools.partial(attending, vggt.Backbone.from_tensors, path, VGGT_1B, "aggregator."),
        "camera_decoder": functools.partial(attending, vggt.CameraHead.from_tensors, path, VGGT_1B, "camera_head."),
        "gld_head": functools.partial(part, GeometryHead.from_tensors, path, VGGT_1B, "depth_head.", inplace_relu=True),
        "rgb_decoder": functools.partial(attending, RGBDecoder.from_tensors, rgb_path, RGB_DECODER, "decoder."),
    }


def autoencoder_networks(
    models_dir: str | os.PathLike, backbone: str, **factory
) -> dict[str, Callable[..., nn.Module]]:
    """What loads the networks of an `Autoencoder`, by name: each takes device.

    factory: operations, dtype and attention.
    """
    families = {"da3": da3_networks, "vggt": vggt_networks}
    if backbone not in families:
        raise ValueError(f"There is no backbone {backbone!r}; choose one of {', '.join(families)}.")
    return families[backbone](models_dir, **factory)


def check_channels(path: Path, found: int, meant: int) -> None:
    """ValueError where a network works on other features than the backbone's."""
    if found != meant:
        raise ValueError(
            f"{path} is made for features of {found} channels, the backbone has {meant}; use files of one release."
        )


def convert(
    source_dir: str | os.PathLike,
    target_dir: str | os.PathLike,
    backbone: str = "da3",
    dtype: torch.dtype = torch.bfloat16,
) -> list[Path]:
    """Write a released folder as safetensors in `dtype`, statistics and provenance in the metadata.

    Names stay the released ones, so `load` reads either. Returns the files written, each whole or not at all.
    """
    if Path(source_dir).resolve() == Path(target_dir).resolve():
        raise ValueError(f"The converted files would overwrite the released ones in {source_dir}; give another folder.")
    paths = {part: find(source_dir, backbone, part) for part in LAYOUT[backbone]}
    statistics = read_statistics(source_dir, backbone)
    written = []
    for part, path in paths.items():
        prefixes = PREFIXES.get(part, ("",))
        tensors = {
            (prefixes[0] + name): check_finite(path, name, tensor).to(
                torch.float32 if part.startswith("level") and name.startswith(FLOAT32_NAMES) else dtype
            )
            for name, tensor in without_prefix(open_tensors(path), *prefixes).items()
            if not name.startswith(UNUSED)
        }
        metadata = {
            "format": "pt",
            "gld.source": path.name,
            "gld.source_sha256": sha256(path),
            "gld.dtype": str(dtype).removeprefix("torch."),
        }
        if part == "backbone":
            metadata[STATISTICS_KEY] = json.dumps(
                {
                    name: {key: torch.as_tensor(content[key]).flatten().tolist() for key in ("mean", "var")}
                    for name, (_, content) in statistics.items()
                }
            )
        target = Path(target_dir) / (LAYOUT[backbone][part] + ".safetensors")
        with atomic(target) as temporary:
            safetensors.torch.save_file(tensors, temporary, metadata)
        written.append(target)
    return written
