"""Run by test_card.py with the host's modules and without a server: card_probe.py COMFYUI MODELS BACKBONE.

Everything that a graph asks of the networks, with a simulated card in the GPU's place and the host's own loading: all,
half or nearly all of the weights on the card, or streamed layer by layer, by the classic and by the dynamic patcher.
The report says for each case what stopped it, or null.
"""

import importlib.util
import itertools
import json
import sys
import traceback
from pathlib import Path

comfyui, models, family = sys.argv[1:]
sys.path[:0] = [comfyui, str(Path(__file__).parents[1])]
sys.argv = ["main.py", "--cpu", "--use-pytorch-cross-attention"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.memory_management  # noqa: E402
import comfy.model_management as management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.ops  # noqa: E402
import comfy_aimdo.model_vbar  # noqa: E402
import comfy_aimdo.torch  # noqa: E402
import torch  # noqa: E402
from simulated_card import SimulatedCard  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("gld", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
gld = importlib.util.module_from_spec(spec)
sys.modules["gld"] = gld
spec.loader.exec_module(gld)

from gld.gld_core import checkpoints  # noqa: E402
from gld.gld_core.cameras import Cameras  # noqa: E402
from gld.nodes.host import networks, sampling  # noqa: E402
from gld.nodes.host.families import FAMILIES  # noqa: E402
from gld.nodes.host.previews import photographed  # noqa: E402

CARD = torch.device("meta")
SIZE = 8 * 2**30
V, N, H, W = 4, 2, 28, 42
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8_e4m3fn": torch.float8_e4m3fn}

management.get_torch_device = lambda: CARD
management.get_free_memory = lambda device=None, torch_free_too=False: (SIZE, SIZE) if torch_free_too else SIZE
management.get_total_memory = lambda device=None, torch_total_too=False: (SIZE, SIZE) if torch_total_too else SIZE
management.should_use_bf16 = lambda *args, **settings: True
management.should_use_fp16 = lambda *args, **settings: True
management.supports_fp8_compute = lambda *args: False
management.soft_empty_cache = lambda *args: None
management.cpu_state = management.CPUState.GPU


class Room:
    """The dynamic loader's memory on the card: with room a layer's weights stay where they were sent."""

    room = True

    def __init__(self, size, index):
        self.size = size

    def alloc(self, size):
        return torch.empty(size, dtype=torch.uint8, device=CARD)

    def prioritize(self):
        pass

    def loaded_size(self):
        return 0

    def free_memory(self, size):
        return 0


comfy_aimdo.model_vbar.ModelVBAR = Room
comfy_aimdo.model_vbar.vbar_fault = lambda allocated: 1 if Room.room else None
comfy_aimdo.model_vbar.vbar_signature_compare = lambda a, b: a is not None and a == b
comfy_aimdo.model_vbar.vbar_unpin = lambda allocated: None
comfy_aimdo.torch.aimdo_to_tensor = lambda allocated, device: allocated
comfy.ops.args.disable_pinned_memory = True


class HostBuffer:
    def __init__(self, *sizes):
        self.size = 0

    def truncate(self, *args, **settings):
        pass


comfy.model_patcher.comfy_aimdo.host_buffer.HostBuffer = HostBuffer


def own_parameters_to_card(model):
    """What the dynamic patcher does itself with parameters of modules that have others, but in a way that the meta
    device does not allow.
    """
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if len(list(module.parameters())) > len(list(module.parameters(recurse=False))):
                setattr(module, name, torch.nn.Parameter(parameter.to(CARD), requires_grad=False))


def loader(share: float | None):
    """What loads patchers the host's way, with that share of each one's weights on the card. None: all of them."""

    def load(patchers, memory_required=0, **settings):
        for patcher in patchers:
            if patcher.is_dynamic():
                own_parameters_to_card(patcher.model)
            extra = 1e32 if share is None or patcher.is_dynamic() else max(0.1, share * patcher.model_size())
            patcher.partially_load(CARD, extra)

    return load


def dynamic(on: bool, room: bool = True):
    comfy.memory_management.aimdo_enabled = on
    classes = {True: comfy.model_patcher.ModelPatcherDynamic, False: comfy.model_patcher.ModelPatcher}
    comfy.model_patcher.CoreModelPatcher = classes[on]
    Room.room = room


c2w = torch.eye(4).repeat(V, 1, 1)
c2w[:, 0, 3] = torch.arange(float(V))
cameras = Cameras(c2w, torch.tensor([[40.0, 0, W / 2], [0, 40, H / 2], [0, 0, 1]]).repeat(V, 1, 1), H, W)
images = torch.rand(V, 3, H, W)


def through_the_autoencoder(weight_dtype: str):
    """Views, decoded colour and geometry, estimated cameras; and the views for the diffusion models."""
    backbone = networks.Backbone(models, FAMILIES[family], weight_dtype)
    tokens = {"backbone": 4, **dict.fromkeys(backbone.patchers, 4)}
    autoencoder = backbone.on_device(tokens)
    views = photographed(autoencoder.encode_views(images[:N], cameras), images[:N])
    features = torch.zeros(views.latent_shape)
    autoencoder.decode_rgb(views, features, features)
    autoencoder.decode_geometry(views, features, features)
    autoencoder.estimate(images)
    if family == "da3":
        autoencoder.estimate(images, cameras)
    return views


def through_the_diffusion_model(level: int, weight_dtype: str, views, classic: bool = False):
    """Conditioning, then one evaluation that waits for nothing, and a sampling with the host's own sampler.

    classic: with the patcher that Torch Compile Model, Select Model Device and hooks ask a dynamic one for.
    """
    model = networks.load_diffusion_model(str(checkpoints.find(models, family, f"level{level}")), weight_dtype)
    if classic:
        model = model.clone(disable_dynamic=True)
        assert not model.is_dynamic()
    level1 = None if level else torch.zeros(1, *views.latent_shape).transpose(1, 2)
    management.load_models_gpu([model])
    positive, _, empty = sampling.conditioning(views, level1)
    found = model.model.extra_conds(**positive[0][1], noise=empty.to(CARD), device=CARD)
    prepared = {name: cond.cond for name, cond in found.items()}
    with SimulatedCard():
        out = model.model.apply_model(empty.to(CARD), torch.ones(1, device=CARD), transformer_options={}, **prepared)
    assert out.is_meta and out.dtype == torch.float32
    plan = [sampling.windows.Window(list(range(V)), list(range(V)))]
    sampling.sample(model, views, level1, plan, 0, 2, 1.5, "euler", "gld", 0.0, lambda text: None)


def attempt(run, *arguments):
    """None, or the error with its last lines."""
    try:
        with torch.inference_mode(), SimulatedCard(wait=True):
            return run(*arguments), None
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames if "torch" not in frame.filename]
        return None, f"{type(error).__name__}: {str(error)[:300]} at {' '.join(place[-5:])}"


PLACES = {
    "all": (False, True, None),
    "none": (False, True, 0),
    "half": (False, True, 0.5),
    "95 %": (False, True, 0.95),
    "99.9 %": (False, True, 0.999),
    "dynamic with room": (True, True, None),
    "dynamic without room": (True, False, None),
}
report, views = {}, None
for (place, (on, room, share)), weight_dtype in itertools.product(PLACES.items(), TYPES):
    dynamic(on, room)
    management.load_models_gpu = loader(share)
    if weight_dtype in ("fp32", "bf16"):
        made, report[f"autoencoder, {weight_dtype}, {place}"] = attempt(through_the_autoencoder, weight_dtype)
        views = views or made
    for level in (1, 0):
        _, report[f"level {level}, {weight_dtype}, {place}"] = attempt(
            through_the_diffusion_model, level, weight_dtype, views
        )
    if on and room:
        _, report[f"classic clone of a dynamic patcher, {weight_dtype}"] = attempt(
            through_the_diffusion_model, 1, weight_dtype, views, True
        )
print(json.dumps(report))
