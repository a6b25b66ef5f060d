"""The only file that knows ComfyUI's insides: model folders, networks as models, memory, samplers, previews."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import comfy.cli_args
import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.ops
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.supported_models_base
import comfy.utils
import folder_paths
import latent_preview
import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import optimized_attention
from PIL import Image
from server import PromptServer
from torch import Tensor

from ..gld_core import checkpoints, flow, windows
from ..gld_core.autoencoder import Codec, Views
from ..gld_core.conditioning import conditions
from ..gld_core.pipeline import load_codec

FOLDER = "gld"
EXTENSIONS = {".safetensors", ".pt"}
WEIGHT_DTYPES = {
    "default": None,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
}
# The stock schedulers do not know the number of views; they get the shift for what the models were trained on.
TRAINED_VIEWS = 8


# Model folders


def register_model_folder() -> None:
    """models/gld, after what extra_model_paths.yaml may have put under the same name; then the plugin's own nano/."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    folder_paths.add_model_folder_path(FOLDER, os.path.dirname(checkpoints.__file__))
    paths, extensions = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, set(extensions) | EXTENSIONS)


def model_folders() -> list[str]:
    return folder_paths.get_folder_paths(FOLDER)


def model_files() -> list[str]:
    return [name.replace(os.sep, "/") for name in folder_paths.get_filename_list(FOLDER)]


def model_file(name: str) -> str | None:
    return folder_paths.get_full_path(FOLDER, name)


# Networks


def attention(q: Tensor, k: Tensor, v: Tensor, transformer_options: dict) -> Tensor:
    return optimized_attention(
        q, k, v, q.shape[1], skip_reshape=True, skip_output_reshape=True, transformer_options=transformer_options
    )


def operations(weight_dtype: torch.dtype, compute_dtype: torch.dtype):
    """The host's layers for weights of one type computed in another."""
    chosen = comfy.ops.pick_operations(weight_dtype, compute_dtype)

    # Float8 has one digit or two; norms and biases, a thousandth of the memory, would add half as much error again.
    vector_dtype = compute_dtype if weight_dtype.itemsize == 1 else weight_dtype

    class Operations(chosen):
        class Linear(chosen.Linear):
            # The host's lazy loader would leave the weight out of the state dict that the core fills.
            _load_from_state_dict = torch.nn.Module._load_from_state_dict

            def __init__(self, *args, **options):
                super().__init__(*args, **options)
                if self.bias is not None and self.bias.dtype == weight_dtype:
                    self.bias = torch.nn.Parameter(self.bias.to(vector_dtype), requires_grad=False)

        class RMSNorm(chosen.RMSNorm):
            def __init__(self, *args, dtype, **options):
                super().__init__(*args, dtype=vector_dtype if dtype == weight_dtype else dtype, **options)

    return Operations


def make_patcher(model: torch.nn.Module):
    return comfy.model_patcher.CoreModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def choose_dtypes(weight_dtype: str) -> tuple[torch.dtype, torch.dtype]:
    """The types that weights are kept and computed in on this machine."""
    # float16 would be the host's first choice on many cards; the networks were not trained in its range.
    supported = [torch.bfloat16, torch.float32]
    device = comfy.model_management.get_torch_device()
    weights = WEIGHT_DTYPES[weight_dtype] or comfy.model_management.unet_dtype(device, supported_dtypes=supported)
    if not comfy.model_management.supports_cast(device, weights):
        raise ValueError(f"ComfyUI cannot keep {weight_dtype} weights on {device}; choose bf16 in 'weight_dtype'.")
    return weights, comfy.model_management.unet_manual_cast(weights, device, supported) or weights


# Values that live at once per patch token at the released widths, measured by tracking every allocation of a forward
# pass; the diffusion models' grow with the width of their decoder.
DIFFUSION_VALUES = 28
CODEC_VALUES = {"backbone": 13_300, "rgb_decoder": 22_500, "head": 46_500, "own_head": 46_500}


@dataclass(frozen=True)
class PhotographedViews(Views):
    """GLD_VIEWS: encoded views with their source photographs (N, 3, H, W), which previews are fitted to."""

    images: Tensor


class Backbone:
    """GLD_BACKBONE: the frozen networks of one family, each in a patcher of its own."""

    def __init__(self, folder: str, name: str, weight_dtype: str):
        weights = WEIGHT_DTYPES[weight_dtype] or torch.float32
        compute = comfy.model_management.unet_manual_cast(weights, comfy.model_management.get_torch_device()) or weights
        self.codec = load_codec(
            folder, name, operations=operations(weights, compute), dtype=weights, attention=attention
        )
        self.codec.dtype = compute
        self.patchers = {}
        for key, network in self.codec.networks.items():
            comfy.model_management.archive_model_dtypes(network)
            self.patchers[key] = make_patcher(network)

    def grid(self, height: int, width: int) -> int:
        """Patch tokens of an image."""
        return (height // self.codec.patch) * (width // self.codec.patch)

    def on_device(self, tokens: dict[str, int]) -> Codec:
        """The codec with the named networks loaded, and room for the number of tokens each works on at once."""
        patchers = [self.patchers[name] for name in tokens]
        values = sum(CODEC_VALUES.get(name, 0) * count for name, count in tokens.items())
        memory = values * comfy.model_management.dtype_size(self.codec.dtype)
        comfy.model_management.load_models_gpu(patchers, memory_required=memory)
        self.codec.device = patchers[0].load_device
        return self.codec


class FlowSampling(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
    """The host's rectified flow with t in [0, 1]. What the released time grid ends with is the result as it is."""

    def __init__(self, model_config, backbone: str):
        super().__init__(model_config)
        self.backbone = backbone

    def inverse_noise_scaling(self, sigma, latent):
        shift = flow.default_shift(self.backbone, *latent.shape[1:3])
        if sigma <= flow.time_grid(1, shift)[-1] * (1 + 1e-6):
            return latent
        return super().inverse_noise_scaling(sigma, latent)


class LatentFormat(comfy.latent_formats.LatentFormat):
    latent_dimensions = 3

    def __init__(self, channels: int):
        self.latent_channels = channels


class ModelConfig(comfy.supported_models_base.BASE):
    unet_extra_config = {}

    def __init__(self, network: torch.nn.Module, backbone: str, compute_dtype: torch.dtype | None):
        channels = network.config.channels
        self.latent_format = lambda: LatentFormat(channels)
        super().__init__({"disable_unet_model_creation": True})
        self.sampling_settings = {"shift": flow.default_shift(backbone, channels, TRAINED_VIEWS), "multiplier": 1.0}
        self.set_inference_dtype(network.dtype, compute_dtype)


class DiffusionModel(comfy.model_base.BaseModel):
    """A multi-view diffusion model as a native MODEL: 5-D latents (B, C, V, h, w), conditions from `conditioning`."""

    def __init__(self, network: torch.nn.Module, backbone: str, level: int, compute_dtype: torch.dtype):
        config = ModelConfig(network, backbone, compute_dtype)
        super().__init__(config, model_type=comfy.model_base.ModelType.FLOW)
        self.model_sampling = FlowSampling(config, backbone)
        self.backbone = backbone
        self.level = level
        comfy.model_management.archive_model_dtypes(network)
        # The network casts its inputs to this type, the host the weights.
        network.dtype = compute_dtype
        self.diffusion_model = network

    def _apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **conds):
        # Not the parent's: that casts every condition to the weights' type, and cameras have to stay float32.
        sigma = t
        t = self.model_sampling.timestep(sigma).float() / self.model_sampling.multiplier
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(
            self.diffusion_model,
            self.diffusion_model,
            comfy.patcher_extension.get_all_wrappers(
                comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, transformer_options
            ),
        )
        velocity = executor.execute(x, t, transformer_options=transformer_options, **conds)
        return self.model_sampling.calculate_denoised(sigma, velocity.float(), x)

    def extra_conds(self, **kwargs):
        views, level1 = kwargs.get("gld_views"), kwargs.get("gld_level1")
        if views is None:
            raise ValueError("A GLD model was given conditioning of another kind; take it from GLD Conditioning.")
        check_level(self, 1 if level1 is None else 0)
        check_samples(views, kwargs["noise"], "latent_image", self.diffusion_model.config.channels)
        device = kwargs["device"]
        source = (views.level1 if self.level == 1 else views.level0).to(device).transpose(0, 1)[None]
        cameras = conditions(views, self.level, kwargs["gld_conditional"])
        cameras = {name: value.to(device) for name, value in cameras.items()}
        level1 = None if level1 is None else level1.to(device)
        prepared = self.diffusion_model.prepare(source, **cameras, level1=level1)
        return {
            name: (comfy.conds.CONDRegular if torch.is_tensor(value) else comfy.conds.CONDConstant)(value)
            for name, value in prepared.items()
        }

    def memory_required(self, input_shape, cond_shapes={}):
        tokens = input_shape[0] * math.prod(input_shape[2:])
        width = self.diffusion_model.config.decoder_width
        return tokens * DIFFUSION_VALUES * width * comfy.model_management.dtype_size(self.get_dtype_inference())


def diffusion_family(path: Path) -> tuple[str, int]:
    """Backbone and level of the diffusion model in a file."""
    family = checkpoints.identify(checkpoints.open_tensors(path))
    if family == checkpoints.VGGT_DIFFUSION:
        # The two VGGT models have the same tensors.
        return "vggt", 0 if "cascade" in path.name.lower() else 1
    levels = {checkpoints.DA3_LEVEL1: 1, checkpoints.DA3_CASCADE: 0}
    if family not in levels:
        raise ValueError(f"{path} holds {family}, no diffusion model of GLD; choose a level-1 or a cascade file.")
    return "da3", levels[family]


def load_diffusion_model(path: str, weight_dtype: str):
    """A patcher around the diffusion model in a file, of either level."""
    file = Path(path)
    backbone, level = diffusion_family(file)
    weights, compute = choose_dtypes(weight_dtype)
    network = checkpoints.load_diffusion(
        file, backbone, level, operations=operations(weights, compute), dtype=weights, attention=attention
    )
    model = DiffusionModel(network, backbone, level, compute)
    patcher = make_patcher(model)
    patcher.cached_patcher_init = (load_diffusion_model, (path, weight_dtype))
    patcher.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, "gld_preview", preview_wrapper)
    return patcher


# Checks


LEVEL_NAMES = {1: "a level-1 model", 0: "a cascade model"}


def check_level(model, level: int | None) -> None:
    """ValueError unless a BaseModel is GLD's, for that level where one is given."""
    if not isinstance(model, DiffusionModel):
        raise ValueError(f"The input 'model' is {type(model).__name__}; wire one from Load GLD Diffusion Model there.")
    if level is not None and model.level != level:
        raise ValueError(
            f"The input 'model' has the weights of {LEVEL_NAMES[model.level]}, {LEVEL_NAMES[level]} belongs there; "
            "choose another file in Load GLD Diffusion Model."
        )


def check_model(patcher, views: Views | None, level: int | None) -> None:
    """ValueError unless a MODEL is GLD's for that level and these views."""
    check_level(patcher.model, level)
    if views is not None and patcher.model.backbone != views.backbone:
        raise ValueError(
            f"The views were encoded with {views.backbone}, the input 'model' is made for {patcher.model.backbone}; "
            "load both for one backbone."
        )


def check_samples(views: Views, samples: Tensor, name: str, channels: int | None = None) -> None:
    """ValueError unless 5-D samples belong to these views (and a model of that many channels)."""
    V, C, *grid = views.latent_shape
    if channels is not None and channels != C:
        raise ValueError(
            f"The model works on {channels} feature channels, the views were encoded with {C}; "
            "load model and backbone of one family."
        )
    if samples.ndim != 5 or tuple(samples.shape[1:]) != (C, V, *grid):
        raise ValueError(
            f"The input '{name}' has shape {tuple(samples.shape)}, these views need {(1, C, V, *grid)}; "
            "it was made for other views, another size, or another backbone."
        )


# Sampling


def photographed(views: Views, images: Tensor) -> PhotographedViews:
    """Views with the photographs they were encoded from, where the host keeps what goes between nodes."""
    values = {name: to_host(value) if torch.is_tensor(value) else value for name, value in vars(views).items()}
    return PhotographedViews(**values, images=to_host(images))


def conditioning(views: Views, level1: Tensor | None, window: tuple[int, int] = (0, 1)) -> tuple[list, list, Tensor]:
    """Positive and negative CONDITIONING and the empty latent (1, C, V, h, w) to sample from. window: which of how many
    are sampled one after the other, for the progress that a preview comes with.
    """
    V, C, *grid = views.latent_shape
    empty = torch.zeros(1, C, V, *grid, device=comfy.model_management.intermediate_device())
    both = []
    for conditional in (True, False):
        extra = {"gld_views": views, "gld_level1": level1, "gld_conditional": conditional, "gld_window": window}
        # Conditioning nodes of other packs expect a tensor in the first place.
        both.append([[torch.zeros(1, 1, 1), extra]])
    return both[0], both[1], empty


def released_sigmas(model, samples: Tensor, steps: int, shift: float) -> Tensor:
    """The released time grid for `steps` network evaluations; shift 0: the released one."""
    C, V = samples.shape[1:3]
    return flow.time_grid(steps, shift or flow.default_shift(model.model.backbone, C, V))


def sample(
    model,
    views: Views,
    level1: Tensor | None,
    plan: list[windows.Window],
    seed: int,
    steps: int,
    cfg: float,
    sampler: str,
    scheduler: str,
    shift: float,
) -> Tensor:
    """Sample window by window, each the way the stock nodes do: (1, C, V, h, w). What earlier windows have made is held
    by the host's own mask for inpainting, which is `flow.holding`.
    """
    out = conditioning(views, level1)[2]
    noise = comfy.sample.prepare_noise(out, seed)
    for number, window in enumerate(plan):
        given = None if level1 is None else level1[:, :, window.views]
        positive, negative, empty = conditioning(windows.part(views, window), given, (number, len(plan)))
        if scheduler == "gld":
            sigmas = released_sigmas(model, empty, steps, shift)
        else:
            sigmas = comfy.samplers.KSampler(model, steps, model.load_device, sampler, scheduler).sigmas
        held = [row for row, view in enumerate(window.views) if view not in window.new]
        mask = None
        if held:
            empty[:, :, held] = out[:, :, window.views][:, :, held]
            mask = torch.ones_like(empty[:, :1])
            mask[:, :, held] = 0
        samples = comfy.sample.sample_custom(
            model,
            noise[:, :, window.views],
            cfg,
            comfy.samplers.sampler_object(sampler),
            sigmas,
            positive,
            negative,
            empty,
            noise_mask=mask,
            callback=counted(latent_preview.prepare_callback(model, len(sigmas) - 1), number, len(plan)),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seed,
        )
        out[:, :, window.new] = samples[:, :, [window.views.index(view) for view in window.new]].to(out)
    return out


def counted(callback: Callable, window: int, count: int) -> Callable:
    """A sampler's callback that counts the steps of all windows."""
    return lambda step, x0, x, total: callback(window * total + step, x0, x, count * total)


# Fewer evaluations


@dataclass
class SharedEncoder:
    """What the condition encoder gave in one sampling: for which branches, used how many times, by batch."""

    branches: list = field(default_factory=list)
    uses: int = 0
    encoded: dict[tuple, dict] = field(default_factory=dict)


def sped_up(model, guidance: tuple[float, float], share: int):
    """A clone of a GLD MODEL that any sampler evaluates as `flow.guided` does with a `flow.Solver` of these settings,
    which take the place of those of an earlier call.
    """
    patched, wrappers, key = model.clone(), comfy.patcher_extension.WrappersMP, "gld_fast"

    def start(executor, *args, **kwargs):
        executor.class_obj.model_options["transformer_options"][key] = SharedEncoder()
        return executor(*args, **kwargs)

    def evaluate(executor, base_model, conds, x, timestep, model_options):
        chosen = list(conds)
        guides = [i for i, cond in enumerate(conds) if cond and all(part.get("gld_conditional") for part in cond)]
        if guides and guidance != (0, 1) and not guidance[0] <= timestep.max().item() <= guidance[1]:
            chosen = [cond if i in guides else None for i, cond in enumerate(conds)]
        shared = model_options["transformer_options"][key]
        branches = [part["uuid"] for cond in chosen if cond for part in cond]
        if shared.uses % share == 0 or branches != shared.branches:
            shared.branches, shared.uses, shared.encoded = branches, 0, {}
        shared.uses += 1
        out = executor(base_model, chosen, x, timestep, model_options)
        # What guidance is taken against is then the same, and makes no difference.
        return [
            out[guides[0]] if given is not None and cond is None else result
            for given, cond, result in zip(conds, chosen, out, strict=True)
        ]

    def network(executor, *args, transformer_options, **kwargs):
        shared = transformer_options[key].encoded.setdefault(tuple(transformer_options["uuids"]), {})
        return executor(*args, transformer_options=transformer_options, shared=shared, **kwargs)

    for kind, wrapper in (
        (wrappers.OUTER_SAMPLE, start),
        (wrappers.CALC_COND_BATCH, evaluate),
        (wrappers.DIFFUSION_MODEL, network),
    ):
        patched.remove_wrappers_with_key(kind, key)
        patched.add_wrapper_with_key(kind, key, wrapper)
    return patched


# Preview


def patch_rows(latent: Tensor, h: int, w: int) -> Tensor:
    """(C, V, ...) of one sample to (V, h*w, C), special tokens left out."""
    return latent.flatten(2)[:, :, -h * w :].permute(1, 2, 0)


def fit_colors(views: PhotographedViews, level: int, device) -> tuple[Tensor, Tensor]:
    """A linear map from features to patch colours, (C, 3) and (3,): ridge regression on the source photographs.

    Their own features of the level against the mean colour under each patch; solved over patches, of which there are
    fewer than channels or little more.
    """
    features = views.level1 if level == 1 else views.level0
    h, w = (size // 14 for size in views.images.shape[-2:])
    x = patch_rows(features.to(device).transpose(0, 1), h, w).flatten(0, 1)
    y = F.adaptive_avg_pool2d(views.images.to(device), (h, w)).flatten(2).transpose(1, 2).flatten(0, 1)
    stride = -(-len(x) // 1024)
    x, y = x[::stride], y[::stride]
    center = y.mean(dim=0)
    gram = x @ x.T
    gram.diagonal().add_(0.1 * gram.diagonal().mean())
    return x.T @ torch.linalg.solve(gram, y - center), center


def preview_image(x0: Tensor, weight: Tensor, center: Tensor, h: int, w: int) -> Image.Image:
    """All views of the first sample side by side, a pixel per patch."""
    colors = (patch_rows(x0[0].float(), h, w) @ weight + center).clamp(0, 1).unflatten(1, (h, w))
    columns = math.ceil(math.sqrt(len(colors)))
    blank = colors.new_zeros(-len(colors) % columns, h, w, 3)
    tiles = torch.cat([colors, blank]).unflatten(0, (-1, columns)).permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
    return Image.fromarray((tiles * 255).round().byte().cpu().numpy())


def preview_wrapper(executor, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, *args, **kwargs):
    """Around any sampling of a GLD model: a small picture of all views with every step, where previews are on."""
    guider = executor.class_obj
    found = [cond for conds in guider.conds.values() for cond in conds if "gld_views" in cond]
    if not found or comfy.cli_args.args.preview_method == latent_preview.LatentPreviewMethod.NoPreviews:
        return executor(noise, latent_image, sampler, sigmas, denoise_mask, callback, *args, **kwargs)
    views, (window, count) = found[0]["gld_views"], found[0]["gld_window"]
    h, w = (size // 14 for size in views.images.shape[-2:])
    weight, center = fit_colors(views, guider.model_patcher.model.level, guider.model_patcher.load_device)
    progress = comfy.utils.ProgressBar(count * (len(sigmas) - 1))

    def with_preview(step, x0, x, total):
        if callback is not None:
            callback(step, x0, x, total)
        picture = preview_image(x0, weight, center, h, w)
        done = window * total + step + 1
        progress.update_absolute(done, count * total, ("JPEG", picture, latent_preview.MAX_PREVIEW_RESOLUTION))

    return executor(noise, latent_image, sampler, sigmas, denoise_mask, with_preview, *args, **kwargs)


def to_host(tensor: Tensor) -> Tensor:
    """A result where the host keeps what goes between nodes."""
    return tensor.to(comfy.model_management.intermediate_device())


def say(text: str, node_id: str) -> None:
    """Text under the widgets of a node."""
    PromptServer.instance.send_progress_text(text, node_id)


def progress_bar() -> Callable[[int, int], None]:
    """progress(done, total) on the running node; raises where the user cancels."""
    bar = comfy.utils.ProgressBar(1)

    def progress(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, max(total, done))

    return progress
