"""GLD's networks as the host's models: their layers, types and memory, and what must be true before they are used."""

import math
from pathlib import Path
from typing import Any

import comfy.cli_args
import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.ops
import comfy.patcher_extension
import comfy.supported_models_base
import torch
from comfy.ldm.modules.attention import attention_pytorch, attention_split, attention_sub_quad, optimized_attention
from torch import Tensor

from ...gld_core import checkpoints, flow, windows
from ...gld_core.autoencoder import Autoencoder, Views
from ...gld_core.conditioning import conditions
from ...gld_core.networks import layers
from ...gld_core.networks.dit import MultiViewDiT, to_network
from ...gld_core.pipeline import load_autoencoder
from . import stop_if_cancelled
from .families import Family, diffusion_family
from .previews import preview_wrapper

WEIGHT_DTYPES = {
    "default": None,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
}


def attention(q: Tensor, k: Tensor, v: Tensor, transformer_options: dict) -> Tensor:
    """The host's attention. On the CPU, where it is slow by default, PyTorch's (in bfloat16 the core's), unless a flag
    of the host or a node asks for another.
    """
    asked = comfy.cli_args.args.use_split_cross_attention or comfy.cli_args.args.use_quad_cross_attention
    replaced = "optimized_attention_override" in (transformer_options or {})
    own = q.device.type == "cpu" and not asked
    if own and not replaced and q.dtype == torch.bfloat16:
        return layers.attention(q, k, v, transformer_options)
    function = attention_pytorch if own else optimized_attention
    return function(
        q,
        k,
        v,
        q.shape[1],
        skip_reshape=True,
        skip_output_reshape=True,
        # SageAttention computes in 8 bits. Where float32 was chosen it is meant.
        low_precision_attention=q.dtype != torch.float32,
        transformer_options=transformer_options,
    )


def operations(weight_dtype: torch.dtype, compute_dtype: torch.dtype):
    """The host's layers for weights of one type computed in another."""
    chosen: Any = comfy.ops.pick_operations(weight_dtype, compute_dtype)

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


# The same in every model. A merge would round them: the host merges in half precision where a card has it.
FREQUENCIES = "diffusion_model.t_embedder.W"


def load_bare_parameters(patcher, device, *settings) -> None:
    """Moves parameters that no layer of the host owns to where the network runs: tokens, position embeddings, scales.
    Applies what LoRAs and merges change in them.

    The host streams the weights of its own layers, and leaves these on the CPU unless the whole network fits. It
    patches none of a module that has others below it.
    """
    patcher.patches.pop(FREQUENCIES, None)
    for prefix, module in patcher.model.named_modules():
        if not hasattr(module, "comfy_cast_weights"):
            for name, parameter in list(module.named_parameters(prefix, recurse=False)):
                unpatched = name in patcher.patches and name not in patcher.backup
                if parameter.device != device or unpatched:
                    patcher.patch_weight_to_device(name, device, force_cast=True)


def make_patcher(model: torch.nn.Module, disable_dynamic: bool = False):
    """disable_dynamic: a patcher of the classic kind, which the host asks for by this name to compile a model."""
    kind = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = kind(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    patcher.add_callback(comfy.patcher_extension.CallbacksMP.ON_LOAD, load_bare_parameters)
    return patcher


def reading() -> dict[str, Any]:
    """How weights are read: memory-mapped unless the host's --disable-mmap says no, and only as long as the user does
    not cancel.
    """
    return {"mmap": not comfy.cli_args.args.disable_mmap, "tick": stop_if_cancelled}


def before_layer(*_) -> None:
    # What is compiled is one piece.
    if not torch.compiler.is_compiling():
        stop_if_cancelled()


def cancelled_between_layers(network: torch.nn.Module) -> None:
    """Lets the user cancel in the middle of a network, whose one evaluation takes many seconds on a CPU."""
    for module in network.modules():
        if next(module.children(), None) is None:
            module.register_forward_pre_hook(before_layer)


# float16 would be the host's first choice on many cards; the networks were not trained in its range.
COMPUTE_DTYPES = [torch.bfloat16, torch.float32]


def choose_dtypes(weight_dtype: str) -> tuple[torch.dtype, torch.dtype]:
    """The types that weights are kept and computed in on this machine."""
    device = comfy.model_management.get_torch_device()
    weights = WEIGHT_DTYPES[weight_dtype] or comfy.model_management.unet_dtype(device, supported_dtypes=COMPUTE_DTYPES)
    if not comfy.model_management.supports_cast(device, weights):
        chosen = weight_dtype if WEIGHT_DTYPES[weight_dtype] else f"{str(weights)[6:]} (by a flag such as --fp64-unet)"
        raise ValueError(f"ComfyUI cannot use {chosen} weights on {device}; choose bf16 in 'weight_dtype'.")
    return weights, comfy.model_management.unet_manual_cast(weights, device, COMPUTE_DTYPES) or weights


# Values to ask room for per patch token: for the diffusion models per channel of their decoder, for the others at the
# released widths. On an NVIDIA H200 an evaluation of DA3's diffusion models held at most 22.7 values of 2 bytes or 21.1
# of 4. Beside it live both branches' conditions, twice (2.8), and the sampler's five latents in float32 (3.8 or 1.9).
# The others ask for a tenth or more above what they held.
DIFFUSION_VALUES = 30
AUTOENCODER_VALUES = {
    "da3": {"backbone": 18_000, "rgb_decoder": 22_500, "gld_head": 46_500, "da3_head": 46_500},
    "vggt": {"backbone": 24_000, "rgb_decoder": 22_500, "gld_head": 78_500},
}
# Times as much where the host has no fused attention: Apple, AMD without AOTriton, flags such as
# --use-quad-cross-attention. It then takes q, k and v once more, and for some rows of scores a part of what is free.
UNFUSED = 1.4
# Times as much for networks of convolutions on AMD's MIOpen, as the host counts for its own.
CONVOLUTIONAL, MIOPEN = ("gld_head", "da3_head"), 2.73


def attention_factor() -> float:
    return UNFUSED if optimized_attention in (attention_split, attention_sub_quad) else 1


class Backbone:
    """GLD_BACKBONE: the frozen networks of one family, each in a patcher of its own."""

    def __init__(self, folder: str, family: Family, weight_dtype: str):
        self.family = family
        weights = WEIGHT_DTYPES[weight_dtype] or torch.float32
        device = comfy.model_management.get_torch_device()
        compute = comfy.model_management.unet_manual_cast(weights, device, COMPUTE_DTYPES) or weights
        self.autoencoder = load_autoencoder(
            folder,
            family.backbone,
            operations=operations(weights, compute),
            dtype=weights,
            attention=attention,
            **reading(),
        )
        self.autoencoder.dtype = compute
        self.patchers = {}
        for key, network in self.autoencoder.networks.items():
            comfy.model_management.archive_model_dtypes(network)
            cancelled_between_layers(network)
            self.patchers[key] = make_patcher(network)

    def get_models(self) -> list:
        """For the host, which keeps models that the running prompt needs in memory longest."""
        return list(self.patchers.values())

    def grid(self, height: int, width: int) -> int:
        """Patch tokens of an image."""
        return (height // self.autoencoder.patch) * (width // self.autoencoder.patch)

    def on_device(self, tokens: dict[str, int]) -> Autoencoder:
        """The autoencoder with the named networks loaded, and room for the number of tokens each works on at once."""
        patchers = [self.patchers[name] for name in tokens]
        for patcher in patchers:
            checkpoints.check_unchanged(patcher.model)
        miopen = comfy.model_management.is_amd() and torch.backends.cudnn.enabled
        convolutional = dict.fromkeys(CONVOLUTIONAL, MIOPEN if miopen else 1)
        room = AUTOENCODER_VALUES[self.family.backbone]
        values = sum(
            room.get(name, 0) * count * convolutional.get(name, attention_factor()) for name, count in tokens.items()
        )
        memory = values * comfy.model_management.dtype_size(self.autoencoder.dtype)
        comfy.model_management.load_models_gpu(patchers, memory_required=memory)
        self.autoencoder.device = patchers[0].load_device
        return self.autoencoder


class FlowSampling(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
    """The host's rectified flow with t in [0, 1]."""


class LatentFormat(comfy.latent_formats.LatentFormat):
    latent_dimensions = 3

    def __init__(self, channels: int):
        self.latent_channels = channels


class NoUNet(dict):
    """The host's description of a U-Net. Nodes that change one, such as FreeU, look up its dimensions."""

    def __missing__(self, key):
        raise ValueError(f"This node is for U-Nets, and a GLD model is none (it has no {key!r}); take the node away.")


class ModelConfig(comfy.supported_models_base.BASE):
    unet_extra_config: dict[str, Any] = {}

    def __init__(self, network: MultiViewDiT, backbone: str, compute_dtype: torch.dtype | None):
        channels = network.config.channels
        self.latent_format = lambda: LatentFormat(channels)
        super().__init__({})
        self.unet_config = NoUNet({"disable_unet_model_creation": True})
        # The stock schedulers do not know the number of views; they get the shift for what the models were trained on.
        self.sampling_settings = {
            "shift": flow.default_shift(backbone, channels, windows.TRAINED_VIEWS),
            "multiplier": 1.0,
        }
        self.set_inference_dtype(network.dtype, compute_dtype)


class DiffusionModel(comfy.model_base.BaseModel):
    """A multi-view diffusion model as a native MODEL: 5-D latents (B, C, V, h, w), conditions from `conditioning`."""

    def __init__(self, network: MultiViewDiT, family: Family, level: int, compute_dtype: torch.dtype):
        config = ModelConfig(network, family.backbone, compute_dtype)
        super().__init__(config, model_type=comfy.model_base.ModelType.FLOW)
        self.model_sampling = FlowSampling(config)
        self.family = family
        self.backbone = family.backbone
        self.level = level
        comfy.model_management.archive_model_dtypes(network)
        self.diffusion_model = network
        # By the name that RenormCFG looks for.
        network.in_channels = network.config.channels
        self.follow_compute_dtype()

    def follow_compute_dtype(self) -> None:
        """Lets the network cast its inputs to the type that it computes in, which Model Compute Dtype and a device
        without it can change; the host casts the weights.
        """
        if self.manual_cast_dtype not in (None, self.diffusion_model.dtype):
            self.diffusion_model.dtype = self.manual_cast_dtype

    def _apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **conds):
        # Not the parent's: that casts every condition to the weights' type, and cameras have to stay float32.
        sampling = self.model_sampling
        other = comfy.model_sampling.IMG_TO_IMG_FLOW
        if not isinstance(sampling, comfy.model_sampling.CONST) or isinstance(sampling, other):
            raise ValueError(
                f"{type(sampling).__bases__[0].__name__} is not for GLD, which samples a rectified flow; "
                "take its node away, or use ModelSamplingSD3, ModelSamplingAuraFlow or ModelSamplingFlux."
            )
        check_whole(x, conds["matrices"], conds["grid"], self.diffusion_model.config.specials)
        self.follow_compute_dtype()
        # All samplings of a rectified flow have their time in [0, 1] for a sigma.
        sigma, t = t, t.float()
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(
            self.diffusion_model,
            self.diffusion_model,
            comfy.patcher_extension.get_all_wrappers(
                comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, transformer_options
            ),
        )
        # A copy, as wrappers such as EasyCache's write into what they are given.
        velocity = executor.execute(x.clone(), t, transformer_options=transformer_options, **conds)
        return sampling.calculate_denoised(sigma, velocity.float(), x)

    def extra_conds(self, **kwargs):
        if kwargs.get("control") is not None:
            raise ValueError("A ControlNet is not for GLD, whose conditioning is views; take its node away.")
        views, level1 = kwargs.get("gld_views"), kwargs.get("gld_level1")
        if views is None:
            raise ValueError(
                "A GLD model needs conditioning from GLD Conditioning, but it got another kind; connect that node."
            )
        check_level(self, 1 if level1 is None else 0)
        check_samples(views, kwargs["noise"], "latent_image", self.diffusion_model.config.channels)
        self.follow_compute_dtype()
        device = kwargs["device"]
        source = to_network((views.level1 if self.level == 1 else views.level0).to(device))
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
        size = comfy.model_management.dtype_size(self.get_dtype_inference())
        return tokens * DIFFUSION_VALUES * attention_factor() * width * size


def check_whole(x: Tensor, matrices: Tensor, grid: tuple[int, int], specials: int) -> None:
    """ValueError where a node has cut views or an area out of the latent x, while the conditioning is for all."""
    V, tokens = matrices.shape[1], specials + math.prod(grid)
    if x.shape[2] != V or math.prod(x.shape[3:]) != tokens:
        raise ValueError(
            f"The model was given {x.shape[2]} views of {math.prod(x.shape[3:])} tokens, its conditioning is for {V} "
            f"of {tokens}. Context Windows and Conditioning (Set Area) do not work with GLD: take them away. For long "
            "paths, GLD's samplers have the input 'window'."
        )


def identify_diffusion(path: Path) -> tuple[str, int]:
    """Backbone and level of the diffusion model in a file."""
    family = checkpoints.identify(checkpoints.open_tensors(path))
    if family == checkpoints.VGGT_DIFFUSION:
        # The two VGGT models have the same tensors.
        return "vggt", 0 if "cascade" in path.name.lower() else 1
    levels = {checkpoints.DA3_LEVEL1: 1, checkpoints.DA3_CASCADE: 0}
    if family not in levels:
        raise ValueError(f"{path} holds {family} and not a diffusion model of GLD; choose a level-1 or a cascade file.")
    return "da3", levels[family]


def unchanged_wrapper(executor, *args, **kwargs):
    """Around any sampling of a GLD model, before its weights are moved to where it runs."""
    checkpoints.check_unchanged(executor.class_obj.model_patcher.model.diffusion_model)
    return executor(*args, **kwargs)


def released_end_wrapper(executor, guider, sigmas, *args, **kwargs):
    """Around a sampler, whichever sampling of a flow a node has put into the model: what a gld schedule ends with is
    the result as it is, which the host would divide by 1 - sigma.
    """
    sampling = guider.inner_model.model_sampling
    # The last time of the largest shift. Before their end, schedules have no time as small.
    released = bool(sigmas[-1] <= flow.time_grid(1, flow.LARGEST_SHIFT)[-1])
    if released:
        sampling.inverse_noise_scaling = lambda sigma, latent: latent
    try:
        return executor(guider, sigmas, *args, **kwargs)
    finally:
        if released:
            del sampling.inverse_noise_scaling


def load_diffusion_model(path: str, weight_dtype: str, disable_dynamic: bool = False):
    """A patcher around the diffusion model in a file, of either level. disable_dynamic as in `make_patcher`."""
    file = Path(path)
    backbone, level = identify_diffusion(file)
    weights, compute = choose_dtypes(weight_dtype)
    network = checkpoints.load_diffusion(
        file,
        backbone,
        level,
        operations=operations(weights, compute),
        dtype=weights,
        attention=attention,
        **reading(),
    )
    cancelled_between_layers(network)
    model = DiffusionModel(network, diffusion_family(file, backbone), level, compute)
    patcher = make_patcher(model, disable_dynamic)
    patcher.cached_patcher_init = (load_diffusion_model, (path, weight_dtype))
    for key, wrapper in {"gld_files": unchanged_wrapper, "gld_preview": preview_wrapper}.items():
        patcher.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, key, wrapper)
    sampler = comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE
    patcher.add_wrapper_with_key(sampler, "gld_released_end", released_end_wrapper)
    return patcher


LEVEL_NAMES = {1: "a level-1 model", 0: "a cascade model"}


def check_level(model, level: int | None, name: str = "model") -> None:
    """ValueError unless a BaseModel is GLD's, for that level where one is given. name: of the input."""
    if not isinstance(model, DiffusionModel):
        raise ValueError(f"The input '{name}' is {type(model).__name__}; connect a model of Load GLD.")
    if level is not None and model.level != level:
        raise ValueError(
            f"The input '{name}' has the weights of {LEVEL_NAMES[model.level]}, but {LEVEL_NAMES[level]} is needed; "
            "connect the other model."
        )


def check_model(patcher, views: Views | None, level: int | None, name: str = "model") -> None:
    """ValueError unless a MODEL is GLD's for that level and these views. name: of the input."""
    check_level(patcher.model, level, name)
    if views is not None and patcher.model.backbone != views.backbone:
        raise ValueError(
            f"The views were encoded with {views.backbone}, but the input '{name}' is made for "
            f"{patcher.model.backbone}; load both for the same backbone."
        )
    if views is not None and patcher.model.diffusion_model.config.channels != views.latent_shape[1]:
        raise ValueError(
            f"The input '{name}' works with {patcher.model.diffusion_model.config.channels} feature channels, but the "
            f"views have {views.latent_shape[1]}; load a model and a backbone of the same family."
        )


def check_samples(views: Views, samples: Tensor, name: str, channels: int | None = None) -> None:
    """ValueError unless 5-D samples belong to these views (and a model of that many channels)."""
    V, C, *grid = views.latent_shape
    if channels is not None and channels != C:
        raise ValueError(
            f"The model works with {channels} feature channels, but the views have {C}; load a model and a backbone of "
            "the same family."
        )
    if samples.ndim != 5 or tuple(samples.shape[1:]) != (C, V, *grid):
        raise ValueError(
            f"The input '{name}' has shape {tuple(samples.shape)}, but these views need {(1, C, V, *grid)}; it was "
            "made for other views, another size or another backbone."
        )
