"""Nodes that only the tests' server has: noise that a test chooses, a model patch that counts calls, and geometry that
is known exactly.
"""

import importlib
import os
import sys
from json import loads
from pathlib import Path
from uuid import uuid4

import comfy.controlnet
import folder_paths
import torch
from comfy.patcher_extension import WrappersMP
from comfy.t2i_adapter.adapter import Adapter_light
from comfy_api.latest import ComfyExtension, Types, io
from safetensors.torch import save_file

from . import checks

# The rest of the card is another program's, as far as this process goes.
if "GLD_MEMORY_FRACTION" in os.environ:
    torch.cuda.set_per_process_memory_fraction(float(os.environ["GLD_MEMORY_FRACTION"]))


class FixedNoise:
    seed = 0

    def __init__(self, noise):
        self.noise = noise

    def generate_noise(self, latent):
        return self.noise


class TestNoise(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema("TestNoise", inputs=[io.Latent.Input("latent")], outputs=[io.Noise.Output()])

    @classmethod
    def execute(cls, latent):
        return io.NodeOutput(FixedNoise(latent["samples"]))


class TestValue(io.ComfyNode):
    """What a JSON text says, for an input of any type."""

    @classmethod
    def define_schema(cls):
        return io.Schema("TestValue", inputs=[io.String.Input("json")], outputs=[io.AnyType.Output()])

    @classmethod
    def execute(cls, json):
        return io.NodeOutput(loads(json))


class TestCountCalls(io.ComfyNode):
    """A model whose calls are counted where other packs hook in: around the model and around the network."""

    @classmethod
    def define_schema(cls):
        return io.Schema("TestCountCalls", inputs=[io.Model.Input("model")], outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model):
        patched = model.clone()
        patched.calls = {"network": 0, "branches": 0}

        def network(executor, x, *args, **kwargs):
            patched.calls["network"] += 1
            return executor(x, *args, **kwargs)

        def function(apply_model, parameters):
            patched.calls["branches"] += len(parameters["cond_or_uncond"])
            return apply_model(parameters["input"], parameters["timestep"], **parameters["c"])

        patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", network)
        patched.set_model_unet_function_wrapper(function)
        return io.NodeOutput(patched)


class TestReportCalls(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = [io.Model.Input("model"), io.Latent.Input("after")]
        return io.Schema("TestReportCalls", inputs=inputs, is_output_node=True)

    @classmethod
    def execute(cls, model, after):
        return io.NodeOutput(ui={"calls": [model.calls]})


class TestPeakMemory(io.ComfyNode):
    """The most bytes this server had: on the GPU, or without one resident."""

    @classmethod
    def define_schema(cls):
        return io.Schema("TestPeakMemory", inputs=[io.Image.Input("after")], is_output_node=True)

    @classmethod
    def execute(cls, after):
        if torch.cuda.is_available():
            return io.NodeOutput(ui={"bytes": [torch.cuda.max_memory_allocated()]})
        resident = Path("/proc/self/status").read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]
        return io.NodeOutput(ui={"bytes": [int(resident) * 1024]})


class TestPlainConditioning(io.ComfyNode):
    """Conditioning as a text encoder makes it."""

    @classmethod
    def define_schema(cls):
        return io.Schema("TestPlainConditioning", inputs=[], outputs=[io.Conditioning.Output()])

    @classmethod
    def execute(cls):
        return io.NodeOutput([[torch.zeros(1, 77, 768), {}]])


class TestControlNet(io.ComfyNode):
    """A T2I-Adapter, with random weights and few channels."""

    @classmethod
    def define_schema(cls):
        return io.Schema("TestControlNet", inputs=[], outputs=[io.ControlNet.Output()])

    @classmethod
    def execute(cls):
        network = Adapter_light(channels=[8] * 4, nums_rb=1)
        return io.NodeOutput(comfy.controlnet.T2IAdapter(network, 3, 8, "nearest-exact"))


class TestRoom(io.ComfyNode):
    """A rendered room with exact depth as if decoded: geometry, its cameras and pictures. broken: every seventh pixel's
    depth is not a number, infinite or negative, and pictures and confidence have holes too.
    """

    @classmethod
    def define_schema(cls):
        sizes = [io.Int.Input(name, max=4096) for name in ("seed", "views", "height", "width", "sources")]
        outputs = [io.Custom("DA3_GEOMETRY").Output(), io.Custom("GLD_CAMERAS").Output(), io.Image.Output()]
        return io.Schema("TestRoom", inputs=[*sizes, io.Boolean.Input("broken")], outputs=outputs)

    @classmethod
    def execute(cls, seed, views, height, width, sources, broken):
        plugin = next(name for name in sys.modules if name.endswith(".gld_core"))
        render = importlib.import_module(f"{plugin}.synthetic.render")
        images, depth, cameras = render.render_scene(seed, views, height, width, samples=1)
        confidence = torch.full_like(depth, 2.0)
        if broken:
            bad = torch.tensor([torch.nan, torch.inf, -torch.inf, -1.0, 0.0])
            depth.view(-1)[::7] = bad.repeat(depth.numel())[: len(depth.view(-1)[::7])]
            confidence.view(-1)[::11] = torch.nan
            images.view(-1)[::13] = torch.nan
        geometry = {
            "depth": depth,
            "image": images.movedim(1, -1).contiguous(),
            "mode": "multiview",
            "confidence": confidence,
            "extrinsics": cameras.w2c[None, :, :3],
            "intrinsics": cameras.K[None],
            "gld_sources": sources,
        }
        return io.NodeOutput(geometry, cameras, geometry["image"])


class TestMoGe(io.ComfyNode):
    """The first `views` of a DA3_GEOMETRY as MoGe gives them, in twice the pixels; a panorama has no intrinsics."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Custom("DA3_GEOMETRY").Input("geometry"), io.Int.Input("views"), io.Boolean.Input("panorama")]
        return io.Schema("TestMoGe", inputs=inputs, outputs=[io.Custom("MOGE_GEOMETRY").Output()])

    @classmethod
    def execute(cls, geometry, views, panorama):
        depth, image = geometry["depth"][:views], geometry["image"][:views]
        K = geometry["intrinsics"][0, :views] / torch.tensor([[depth.shape[2]], [depth.shape[1]], [1.0]])
        depth, image = (value.repeat_interleave(2, 1).repeat_interleave(2, 2) for value in (depth, image))
        found = {"depth": depth, "image": image, "mask": depth > 0}
        return io.NodeOutput(found if panorama else found | {"intrinsics": K})


class TestDifference(io.ComfyNode):
    """The shapes of two tensors and the largest difference of their values."""

    @classmethod
    def define_schema(cls):
        inputs = [io.AnyType.Input("one"), io.AnyType.Input("other")]
        return io.Schema("TestDifference", inputs=inputs, is_output_node=True)

    @classmethod
    def execute(cls, one, other):
        shapes, same = [list(one.shape), list(other.shape)], one.shape == other.shape
        return io.NodeOutput(ui={"shapes": shapes, "difference": [(one - other).abs().max().item() if same else -1]})


class TestKeep(io.ComfyNode):
    """Writes a value to a file as it is: a tensor, the bytes of a 3D file, or the tensors of splats."""

    @classmethod
    def define_schema(cls):
        return io.Schema("TestKeep", inputs=[io.AnyType.Input("value")], is_output_node=True)

    @classmethod
    def execute(cls, value):
        if isinstance(value, Types.File3D):
            tensors = {"value": torch.frombuffer(bytearray(value.get_bytes()), dtype=torch.uint8)}
        elif isinstance(value, Types.SPLAT):
            tensors = {name: tensor.contiguous() for name, tensor in vars(value).items() if torch.is_tensor(tensor)}
        else:
            tensors = {"value": value.contiguous()}
        name = f"{uuid4().hex}.safetensors"
        save_file(tensors, Path(folder_paths.get_temp_directory()) / name)
        return io.NodeOutput(ui={"kept": [{"filename": name, "subfolder": "", "type": "temp"}]})


class TestExtension(ComfyExtension):
    async def on_load(self):
        checks.install()

    async def get_node_list(self):
        counting = [TestCountCalls, TestReportCalls, TestPeakMemory]
        conditioning = [TestPlainConditioning, TestControlNet]
        return [TestNoise, TestValue, *counting, *conditioning, TestRoom, TestMoGe, TestDifference, TestKeep]


async def comfy_entrypoint():
    return TestExtension()
