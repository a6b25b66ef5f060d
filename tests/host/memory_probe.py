"""Run by test_memory.py with the host's modules and without a server: memory_probe.py COMFYUI MODEL."""

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
import torch  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("gld", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
gld = importlib.util.module_from_spec(spec)
sys.modules["gld"] = gld
spec.loader.exec_module(gld)

from gld.gld_core.autoencoder import Views  # noqa: E402
from gld.gld_core.cameras import Cameras  # noqa: E402
from gld.nodes.host import networks  # noqa: E402

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

report["memory at 8 views of 504x504"] = full.model.memory_required([2, C, 8, 36, 36])
report["decoder width"] = full.model.diffusion_model.config.decoder_width
print(json.dumps(report))
