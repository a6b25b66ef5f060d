"""Loading the released or converted files out of models/gld, or the small model that comes with the plugin."""

import os
from collections.abc import Sequence

from comfy_api.latest import io

from ..gld_core import checkpoints
from . import host
from .download import GIGABYTES, VGGT_LICENCES, WEIGHTS, fetch_parts, released_file
from .host import folders, networks
from .host.families import FAMILIES
from .host.folders import NANO, stamp
from .host.inputs import problem
from .sockets import GLDBackbone

LEVELS = ("level1", "level0")
UNDECIDED = "not chosen"
DOWNLOAD_TOOLTIP = (
    "If on: missing files are downloaded into models/gld when this node runs ({size}). They are checked by SHA-256, "
    "and an interrupted download is resumed. If off: nothing is downloaded."
)
FAMILY_SIZES = "; ".join(f"{name} {sum(sizes.values()):.1f} GB" for name, sizes in GIGABYTES.items())


def autoencoder_files(folder: str, backbone: str) -> list:
    """Files of the frozen networks in a model folder. FileNotFoundError says what is missing and where to put it."""
    family = FAMILIES[backbone].backbone
    return [checkpoints.find(folder, family, part) for part in checkpoints.LAYOUT[family] if part not in LEVELS]


def network_files(folder: str, backbone: str) -> list:
    """`autoencoder_files` and the statistics that belong to them, as far as they are there."""
    statistics = checkpoints.statistics_files(folder, FAMILIES[backbone].backbone).values()
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
    def validate_inputs(cls, backbone=None):
        # What comes by wire is not known yet.
        return backbone is None or problem(cls.check, backbone)

    @classmethod
    def check(cls, backbone):
        folders.check_text("backbone", backbone)
        if backbone not in FAMILIES:
            raise ValueError(f"There is no backbone {str(backbone)[:60]!r}; choose one of {', '.join(FAMILIES)}.")
        if autoencoder_folder(backbone) is None and backbone == NANO:
            raise ValueError(
                f"{autoencoder_folders(NANO)[-1]} is incomplete. nano comes with this plugin; install the plugin again."
            )

    @classmethod
    def fingerprint_inputs(cls, backbone=None, **kwargs):
        names = FAMILIES if backbone is None else [backbone]
        found = {name: autoencoder_folder(name) for name in names}
        return [stamp(network_files(folder, name)) for name, folder in found.items() if folder is not None]

    @classmethod
    def execute(cls, backbone, weight_dtype, download, vggt_licence=UNDECIDED):
        cls.check(backbone)
        return io.NodeOutput(load_backbone(backbone, weight_dtype, download, vggt_licence))


def load_backbone(family: str, weight_dtype: str, download: bool, vggt_licence: str) -> networks.Backbone:
    """The frozen networks of a family, downloaded first where that was asked for."""
    parts = [part for part in checkpoints.LAYOUT[FAMILIES[family].backbone] if part not in LEVELS]
    if family != NANO:
        get_missing(family, parts, download, vggt_licence)
    folder = autoencoder_folder(family)
    assert folder is not None
    return networks.Backbone(folder, FAMILIES[family], weight_dtype)


def diffusion_file(family: str, level: str) -> str | None:
    """Path of a family's diffusion model, converted or as released. None where it is in no model folder."""
    stem = checkpoints.LAYOUT[FAMILIES[family].backbone][level]
    prefix = f"{NANO}/" if family == NANO else ""
    found = (folders.model_file(prefix + stem + suffix) for suffix in (".safetensors", ".pt"))
    return next(filter(None, found), None)


def missing_parts(family: str, parts: Sequence[str]) -> list[str]:
    """Those of the parts that are in no model folder."""
    missing = [level for level in LEVELS if level in parts and diffusion_file(family, level) is None]
    if autoencoder_folder(family) is not None:
        return missing
    top = folders.model_folders()[0]
    for part in parts:
        try:
            checkpoints.find(top, family, part)
        except FileNotFoundError:
            missing += [part] if part not in LEVELS else []
    return missing


def get_missing(family: str, parts: Sequence[str], download: bool, vggt_licence: str = UNDECIDED) -> None:
    """Download what is missing of the parts. ValueError where that is not wanted, or a licence was not chosen."""
    missing, top = missing_parts(family, parts), folders.model_folders()[0]
    if missing and not download:
        names = [released_file(family, part) for part in missing]
        names += [f"model_stats/{family}"] if "backbone" in missing else []
        size = sum(GIGABYTES[family][part] for part in missing)
        raise ValueError(
            f"{family} needs {size:.1f} GB of files that are not there. Switch on 'download' in this node to get them "
            f"from huggingface.co/{WEIGHTS}, or choose nano, which needs none. To put them there yourself: "
            f"{', '.join(names)} in {top}."
        )
    if "backbone" in missing and family == "vggt" and vggt_licence == UNDECIDED:
        raise ValueError(
            "VGGT-1B has its own licence: facebook/VGGT-1B must not be used commercially; facebook/VGGT-1B-Commercial "
            "allows it and is given on request. Read the licence on huggingface.co and choose one in 'vggt_licence' "
            "before the download."
        )
    if download:
        progress, frozen = host.progress_bar(), [part for part in parts if part not in LEVELS]
        repository = VGGT_LICENCES.get(vggt_licence, "")
        fetch_parts(autoencoder_folder(family) or top, family, frozen, progress, repository)
        fetch_parts(top, family, [part for part in missing if part in LEVELS], progress)


def licence_input() -> io.Combo.Input:
    return io.Combo.Input(
        "vggt_licence",
        options=[UNDECIDED, *VGGT_LICENCES],
        default=UNDECIDED,
        optional=True,
        tooltip="Needed to download vggt: VGGT-1B has its own licence. Read it on its page and choose here.",
    )


class GLDLoad(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        default = NANO if autoencoder_folder("da3") is None else "da3"
        names = [default, *(name for name in FAMILIES if name != default)]
        return io.Schema(
            node_id="GLDLoad",
            display_name="Load GLD",
            category="GLD",
            description="Loads all networks of a family: the backbone, which encodes and decodes, and the two "
            "diffusion models, which generate the features of new views.",
            search_aliases=[
                "novel view",
                "new angle",
                "photogrammetry",
                "3d from photo",
                "image to 3d",
                "gaussian",
                "depth anything 3",
                "geometric latent diffusion",
                "multi-view",
            ],
            inputs=[
                io.DynamicCombo.Input(
                    "family",
                    options=[
                        io.DynamicCombo.Option(name, [licence_input()] if name == "vggt" else []) for name in names
                    ],
                    tooltip="The family of networks. da3: Depth Anything 3 Base, the one to use. vggt: VGGT-1B, larger "
                    "and slower, non-commercial weights. nano: the small model that comes with this plugin, for a "
                    "first try with small pictures.",
                ),
                io.Boolean.Input("download", default=False, tooltip=DOWNLOAD_TOOLTIP.format(size=FAMILY_SIZES)),
                io.Combo.Input(
                    "weight_dtype",
                    options=["default", "fp32", "bf16"],
                    default="default",
                    tooltip="Data type of the weights in memory. default: fp32 for the backbone, bf16 for the "
                    "diffusion models if the device computes in it.",
                    advanced=True,
                ),
            ],
            outputs=[
                GLDBackbone.Output(display_name="backbone", tooltip="For encoding, decoding and camera estimation."),
                io.Model.Output(display_name="level1_model", tooltip="The diffusion model of level 1."),
                io.Model.Output(display_name="level0_model", tooltip="The diffusion model of level 0, the cascade."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, family=None, **kwargs):
        names = [family["family"]] if isinstance(family, dict) else list(FAMILIES)
        paths = [diffusion_file(name, level) for name in names for level in LEVELS]
        for name in names:
            folder = autoencoder_folder(name)
            paths += [] if folder is None else network_files(folder, name)
        return stamp(filter(None, paths))

    @classmethod
    def execute(cls, family, download, weight_dtype="default"):
        name, licence = family["family"], family.get("vggt_licence") or UNDECIDED
        if name != NANO:
            # All that is missing in one sentence, or in one go.
            get_missing(name, list(checkpoints.LAYOUT[name]), download, licence)
        models = [networks.load_diffusion_model(diffusion_file(name, level), weight_dtype) for level in LEVELS]
        return io.NodeOutput(load_backbone(name, weight_dtype, download, licence), *models)


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
    def validate_inputs(cls, model_name=None):
        # What comes by wire is not known yet.
        return model_name is None or problem(cls.check, model_name)

    @classmethod
    def check(cls, model_name):
        folders.check_text("model_name", model_name)
        if folders.model_file(model_name) is None and model_name not in released_parts():
            raise ValueError(f"{model_name[:200]} is not in models/gld; put it there, or choose another file.")

    @classmethod
    def fingerprint_inputs(cls, model_name=None, **kwargs):
        names = diffusion_files() if model_name is None else [model_name]
        return stamp(path for path in map(folders.model_file, names) if path is not None)

    @classmethod
    def execute(cls, model_name, weight_dtype, download):
        cls.check(model_name)
        if folders.model_file(model_name) is None:
            family, level = released_parts()[model_name]
            get_missing(family, [level], download)
        return io.NodeOutput(networks.load_diffusion_model(folders.model_file(model_name), weight_dtype))
