"""Run by test_memory.py with the host's modules and without a server: memory_probe.py COMFYUI MODEL."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

comfyui, model_path = sys.argv[1:]
sys.path.insert(0, comfyui)
sys.argv = ["main.py", "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.memory_management  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.model_sampling  # noqa: E402
import comfy.patcher_extension  # noqa: E402
import torch  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("gld", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
gld = importlib.util.module_from_spec(spec)
sys.modules["gld"] = gld
spec.loader.exec_module(gld)

from gld.gld_core.autoencoder import Views  # noqa: E402
from gld.gld_core.cameras import Cameras  # noqa: E402
from gld.gld_core.networks import dit  # noqa: E402
from gld.nodes.host import networks, previews  # noqa: E402
from gld.nodes.host.families import FAMILIES  # noqa: E402

torch.manual_seed(0)
V, N, C, h, w = 3, 1, 256, 4, 6
c2w = torch.eye(4).repeat(V, 1, 1)
c2w[:, 0, 3] = torch.arange(V)
cameras = Cameras(c2w, torch.tensor([[80.0, 0, 42], [0, 80, 28], [0, 0, 1]]).repeat(V, 1, 1), h * 14, w * 14)
features = torch.randn(N, C, h, w)
views = Views("da3", cameras, features, features, torch.randn(C))
x, t = torch.randn(1, C, V, h, w), torch.tensor([0.7])


def conditions(patcher):
    found = patcher.model.extra_conds(
        gld_views=views, gld_level1=None, gld_conditional=True, noise=x, device=torch.device("cpu")
    )
    return {name: cond.cond for name, cond in found.items()}


@torch.inference_mode()
def run(patcher):
    return patcher.model.apply_model(x, t, transformer_options={}, **conditions(patcher))


report = {}
full = networks.load_diffusion_model(model_path, "fp32")
comfy.model_management.load_models_gpu([full])
meant = run(full)

low = networks.load_diffusion_model(model_path, "fp32")
low.load(torch.device("cpu"), lowvram_model_memory=1)
layers = [m for m in low.model.diffusion_model.modules() if hasattr(m, "comfy_cast_weights")]
report["streamed layers"] = sum(m.comfy_cast_weights for m in layers) / len(layers)
report["streamed error"] = float((run(low) - meant).abs().max())

comfy.memory_management.aimdo_enabled = True
dynamic = networks.load_diffusion_model(model_path, "fp32")
report["dynamic error"] = float((run(dynamic) - meant).abs().max())
comfy.memory_management.aimdo_enabled = False

half = networks.load_diffusion_model(model_path, "bf16")
report["bf16 camera types"] = [
    str(conditions(half)["matrices"].dtype),
    str(half.model.diffusion_model.camera_embedder.proj.weight.dtype),
]
report["bf16 weight type"] = str(half.model.diffusion_model.blocks[0].attn.qkv.weight.dtype)

small = networks.load_diffusion_model(model_path, "fp8_e4m3fn")
report["fp8 error"] = float((run(small) - meant).norm() / (x - meant).norm())
block = small.model.diffusion_model.blocks[0]
vectors = [block.attn.qkv.weight, block.attn.qkv.bias, block.norm1.weight]
report["fp8 types"] = [str(tensor.dtype) for tensor in vectors]
report["fp8 camera type"] = str(small.model.diffusion_model.camera_embedder.proj.weight.dtype)
supports_cast = comfy.model_management.supports_cast
comfy.model_management.supports_cast = lambda device, dtype: dtype.itemsize > 1
try:
    networks.load_diffusion_model(model_path, "fp8_e4m3fn")
except ValueError as error:
    report["fp8 refused"] = str(error)
comfy.model_management.supports_cast = supports_cast


def overwrite(executor, given, *args, **kwargs):
    """What EasyCache's wrapper does to its input in a step that it leaves out."""
    velocity = executor(given, *args, **kwargs)
    given += 1
    return velocity


wrapped = {"wrappers": {comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL: {"test": [overwrite]}}}
with torch.inference_mode():
    found = full.model.apply_model(x.clone(), t, transformer_options=wrapped, **conditions(full))
report["error where a wrapper writes into its input"] = float((found - meant).abs().max())

coarse = networks.load_diffusion_model(model_path, "fp32").clone()
coarse.set_model_compute_dtype(torch.bfloat16)
comfy.model_management.load_models_gpu([coarse])
report["error of float32 weights computed in bf16"] = float((run(coarse) - meant).norm() / (x - meant).norm())


def refusal(sampling=full.model.model_sampling, views=V):
    """What a model says that another sampling was put into, or that is given some of the views."""
    kept, prepared = full.model.model_sampling, conditions(full)
    full.model.model_sampling = sampling
    try:
        with torch.inference_mode():
            out = full.model.apply_model(x[:, :, :views], t, transformer_options={}, **prepared)
        return float((out - meant).abs().max())
    except ValueError as error:
        return str(error)
    finally:
        full.model.model_sampling = kept


class Flux(comfy.model_sampling.ModelSamplingFlux, comfy.model_sampling.CONST):
    pass


class Discrete(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
    pass


report["cut views"] = refusal(views=2)
report["discrete sampling"] = refusal(Discrete())
report["error with Flux's sampling"] = refusal(Flux())

folder = str(Path(model_path).parents[1])
backbone = networks.Backbone(folder, FAMILIES["da3"], "bf16")
report["models shown to the host"] = [len(backbone.get_models()), len(backbone.patchers)]
should_use = comfy.model_management.should_use_bf16, comfy.model_management.should_use_fp16
comfy.model_management.should_use_bf16 = lambda *args, **settings: False
comfy.model_management.should_use_fp16 = lambda *args, **settings: True
report["backbone without bf16"] = str(networks.Backbone(folder, FAMILIES["da3"], "bf16").autoencoder.dtype)
comfy.model_management.should_use_bf16, comfy.model_management.should_use_fp16 = should_use

config = dit.DiTConfig(8, 64, 1, 32, 64, 1, 32, 4, 14, 2, False)
tokens = networks.make_patcher(
    networks.DiffusionModel(dit.MultiViewDiT(config, dtype=torch.float32), FAMILIES["vggt"], 1, torch.float32)
)
network, change = tokens.model.diffusion_model, torch.ones(1, 2, 64)
network.special_pos_embed_s.data.zero_()
frequencies = network.t_embedder.W
changed = tokens.clone()
patches = {"diffusion_model.special_pos_embed_s": change, networks.FREQUENCIES: torch.ones(4)}
changed.add_patches({name: ("diff", (patch,)) for name, patch in patches.items()})
comfy.model_management.load_models_gpu([changed])
comfy.model_management.load_models_gpu([changed])
report["change of a token"] = float(network.special_pos_embed_s.mean())
report["frequencies are changed"] = network.t_embedder.W is not frequencies
comfy.model_management.load_models_gpu([tokens])
report["change of a token afterwards"] = float(network.special_pos_embed_s.mean())

asked: list[float] = []
kept = comfy.model_management.load_models_gpu, comfy.model_management.is_amd
comfy.model_management.load_models_gpu = lambda patchers, memory_required: asked.append(memory_required)
for amd, part in ((False, "gld_head"), (True, "gld_head"), (False, "rgb_decoder"), (True, "rgb_decoder")):
    comfy.model_management.is_amd = lambda amd=amd: amd
    backbone.on_device({part: 1000})
comfy.model_management.load_models_gpu, comfy.model_management.is_amd = kept
report["AMD's memory over others'"] = [asked[1] / asked[0], asked[3] / asked[2]]

black = dataclasses.replace(views, level1=torch.zeros(N, C, h, w))
report["colours of nothing"] = previews.fit_colors(previews.photographed(black, torch.zeros(N, 3, h * 14, w * 14)), 1)

allowed = []


def attend(q, *args, low_precision_attention, **settings):
    allowed.append(low_precision_attention)


kept, networks.optimized_attention = networks.optimized_attention, attend
for dtype in (torch.float32, torch.bfloat16):
    networks.attention(*[torch.zeros(1, 1, 1, 64, dtype=dtype, device="meta")] * 3, {})
networks.optimized_attention = kept
report["low precision attention"] = allowed


def memory(attention) -> list[float]:
    """What a diffusion model, the backbone and a head ask for with one of the host's functions."""
    networks.optimized_attention = attention
    asked.clear()
    for part in ("backbone", "gld_head"):
        backbone.on_device({part: 1000})
    return [full.model.memory_required([2, C, 8, 36, 36]), *asked]


kept = networks.optimized_attention, comfy.model_management.load_models_gpu
comfy.model_management.load_models_gpu = lambda patchers, memory_required: asked.append(memory_required)
fused = memory(networks.attention_pytorch)
report["memory without fused attention"] = [
    [more / usual for more, usual in zip(memory(attention), fused, strict=True)]
    for attention in (networks.attention_split, networks.attention_sub_quad)
]
networks.optimized_attention, comfy.model_management.load_models_gpu = kept
print(json.dumps(report))
