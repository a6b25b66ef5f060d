"""Loading the released or converted files out of models/gld, or the small model that comes with the plugin."""

import os

from comfy_api.latest import io

from ..gld_core import checkpoints
from . import host
from .download import VGGT_LICENCES, WEIGHTS, fetch_parts, released_file
from .host import folders, networks
from .host.folders import NANO, stamp
from .host.inputs import problem
from .sockets import GLDBackbone

FAMILIES = {**{name: name for name in checkpoints.LAYOUT}, NANO: "da3"}
LEVELS = ("level1", "level0")
UNDECIDED = "not chosen"
DOWNLOAD_TOOLTIP = (
    "If on: missing files are downloaded into models/gld when this node runs ({size}). They are checked by SHA-256, "
    "and an interrupted download is resumed. If off: nothing is downloaded."
)


def autoencoder_files(folder: str, backbone: str) -> list:
    """Files of the frozen networks in a model folder. FileNotFoundError says what is missing and where to put it."""
    family = FAMILIES[backbone]
    return [checkpoints.find(folder, family, part) for part in checkpoints.LAYOUT[family] if part not in LEVELS]


def network_files(folder: str, backbone: str) -> list:
    """`autoencoder_files` and the statistics that belong to them, as far as they are there."""
    statistics = checkpoints.statistics_files(folder, FAMILIES[backbone]).values()
    return [*autoencoder_files(folder, backbone), *(path for path in statistics if path.is_file())]


def autoencoder_folders(backbone: str) -> list[str]:
    """Folders that may have the frozen networks: the model folders, for nano a folder of that name in one of them, then
    the plugin's own.
    """
    if backbone != NANO:
        return folders.model_folders()
    return [*(os.path.join(folder, NANO) for folder in folders.model_folders()), str(checkpoints.NANO)]


def autoencoder_folder(backbone: str) -> str | None:
    """The first of its folders that has all frozen networks."""
    for folder in autoencoder_folders(backbone):
        try:
            autoencoder_files(folder, backbone)
        except FileNotFoundError:
            continue
        return folder
    return None


def released_parts() -> dict[str, tuple[str, str]]:
    """Backbone and level of the released diffusion models by file name."""
    return {released_file(name, level): (name, level) for name in checkpoints.LAYOUT for level in LEVELS}


def diffusion_files() -> list[str]:
    """Diffusion models there are, and the released names of those there could be."""
    frozen = [f"{stem}." for parts in checkpoints.LAYOUT.values() for part, stem in parts.items() if part not in LEVELS]
    others = ("model_stats/", "lpips/", *frozen)
    # A folder laid out as released may lie below a model folder too.
    found = [name for name in folders.model_files() if not any(f"/{other}" in f"/{name}" for other in others)]
    stems = {os.path.splitext(name)[0] for name in found}
    return found + [name for name in released_parts() if os.path.splitext(name)[0] not in stems]


class GLDLoadBackbone(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GLDLoadBackbone",
            display_name="Load GLD Backbone",
            category="GLD",
            description="Loads the networks that encode photographs into features and decode features into colour, "
            "depth and cameras.",
            search_aliases=["novel view", "depth anything 3", "geometric latent diffusion", "multi-view"],
            inputs=[
                io.Combo.Input(
                    "backbone",
                    options=list(FAMILIES),
                    default=NANO if autoencoder_folder("da3") is None else "da3",
                    tooltip="The backbone network. da3: Depth Anything 3 Base. vggt: VGGT-1B (non-commercial "
                    "weights). nano: the small model that comes with this plugin, for rendered rooms at 126 pixels.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=["default", "fp32", "bf16"],
                    default="default",
                    tooltip="Data type of the weights in memory. default: fp32, as released (2.5 GB).",
                    advanced=True,
                ),
                io.Boolean.Input(
                    "download", default=False, tooltip=DOWNLOAD_TOOLTIP.format(size="2.5 GB; vggt 6.6 GB")
                ),
                io.Combo.Input(
                    "vggt_licence",
                    options=[UNDECIDED, *VGGT_LICENCES],
                    default=UNDECIDED,
                    optional=True,
                    advanced=True,
                    tooltip="Needed to download vggt: VGGT-1B has its own licence. Read it on its page and choose "
                    "here.",
                ),
            ],
            outputs=[
                GLDBackbone.Output(
                    display_name="backbone",
                    tooltip="The loaded backbone, for encoding, decoding and camera estimation.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, backbone=None, download=None, vggt_licence=UNDECIDED):
        # What comes by wire is not known yet.
        return None in (backbone, download, vggt_licence) or problem(cls.check, backbone, download, vggt_licence)

    @classmethod
    def check(cls, backbone, download, vggt_licence):
        if backbone not in FAMILIES:
            raise ValueError(f"There is no backbone {str(backbone)[:60]!r}; choose one of {', '.join(FAMILIES)}.")
        if autoencoder_folder(backbone) is None and backbone == NANO:
            raise ValueError(
                f"{autoencoder_folders(NANO)[-1]} is incomplete. nano comes with this plugin; install the plugin again."
            )
        if autoencoder_folder(backbone) is None and not download:
            raise ValueError(f"{missing(backbone)} Or switch on 'download' in this node.")
        has_vggt = folders.model_file(released_file("vggt", "backbone")) is not None
        if backbone == "vggt" and download and not has_vggt and vggt_licence == UNDECIDED:
            raise ValueError(
                "VGGT-1B has its own licence: facebook/VGGT-1B must not be used commercially; "
                "facebook/VGGT-1B-Commercial allows it and is given on request. Read the licence on huggingface.co and "
                "choose one in 'vggt_licence' before the download."
            )

    @classmethod
    def fingerprint_inputs(cls, backbone=None, **kwargs):
        names = FAMILIES if backbone is None else [backbone]
        found = {name: autoencoder_folder(name) for name in names}
        return [stamp(network_files(folder, name)) for name, folder in found.items() if folder is not None]

    @classmethod
    def execute(cls, backbone, weight_dtype, download, vggt_licence=UNDECIDED):
        cls.check(backbone, download, vggt_licence)
        folder = autoencoder_folder(backbone) or folders.model_folders()[0]
        if download and backbone != NANO:
            parts = [part for part in checkpoints.LAYOUT[backbone] if part not in LEVELS]
            fetch_parts(folder, backbone, parts, host.progress_bar(), VGGT_LICENCES.get(vggt_licence, ""))
        return io.NodeOutput(networks.Backbone(folder, FAMILIES[backbone], weight_dtype))


def missing(backbone: str) -> str:
    """What the first of the model folders lacks."""
    try:
        autoencoder_files(folders.model_folders()[0], backbone)
    except FileNotFoundError as error:
        return str(error)
    raise AssertionError("nothing is missing")


class GLDLoadDiffusionModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        files = diffusion_files()
        return io.Schema(
            node_id="GLDLoadDiffusionModel",
            display_name="Load GLD Diffusion Model",
            category="GLD",
            description="Loads a diffusion model of GLD as a native MODEL: level 1 (the features of the views) or the "
            "cascade (their finer level 0).",
            search_aliases=["unet", "multi-view diffusion", "novel view", "geometric latent diffusion"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=files,
                    default=next(name for name in files if "level1" in name),
                    tooltip="A model file in models/gld, released (.pt) or converted (.safetensors). Names with nano/ "
                    "are the small model of this plugin. Use level1 in Sample GLD Level 1, cascade in Cascade GLD "
                    "Level 0.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(networks.WEIGHT_DTYPES),
                    default="default",
                    tooltip="Data type of the weights in memory. default: bf16 if the device computes in it, else "
                    "fp32. The cameras are always embedded in float32.",
                    advanced=True,
                ),
                io.Boolean.Input("download", default=False, tooltip=DOWNLOAD_TOOLTIP.format(size="2 to 3 GB")),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="The diffusion model, for GLD's samplers or ComfyUI's own."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name=None, download=None):
        # What comes by wire is not known yet.
        return None in (model_name, download) or problem(cls.check, model_name, download)

    @classmethod
    def check(cls, model_name, download):
        if folders.model_file(model_name) is None and not (download and model_name in released_parts()):
            name = model_name[:200]
            raise ValueError(
                f"{name} is not in models/gld. Put it at {os.path.join(folders.model_folders()[0], name)} "
                f"(released files: huggingface.co/{WEIGHTS}), or switch on 'download' for a released one."
            )

    @classmethod
    def fingerprint_inputs(cls, model_name=None, **kwargs):
        names = diffusion_files() if model_name is None else [model_name]
        return stamp(path for path in map(folders.model_file, names) if path is not None)

    @classmethod
    def execute(cls, model_name, weight_dtype, download):
        cls.check(model_name, download)
        if folders.model_file(model_name) is None:
            backbone, level = released_parts()[model_name]
            fetch_parts(folders.model_folders()[0], backbone, [level], host.progress_bar())
        return io.NodeOutput(networks.load_diffusion_model(folders.model_file(model_name), weight_dtype))
