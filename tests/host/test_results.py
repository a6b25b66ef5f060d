"""A graph run over the API gives the core's result, by its own samplers and by the stock ones."""

import json
import shutil
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import gld_core
from gld_core.io.posed_folders import write_scene


def relative(found: torch.Tensor, meant: torch.Tensor) -> float:
    return float((found - meant).norm() / meant.norm())


def pictures(paths) -> torch.Tensor:
    """(V, H, W, 3) in [0, 1]"""
    return torch.from_numpy(np.stack([np.asarray(Image.open(path)) for path in paths])).float() / 255


def advanced(graph, level: int, scheduler: dict, noise: list) -> dict:
    """The part of a level done with stock nodes, its latent saved as 'save stock'."""
    name, model = f"level{level}", f"model{level}"
    prompt = graph
    conditioning = {"views": ["views", 0]} | ({} if level else {"level1": ["level1", 0]})
    prompt["conditioning"] = {"class_type": "GLDConditioning", "inputs": conditioning}
    prompt["sigmas"] = scheduler
    guider = {"model": [model, 0], "positive": ["conditioning", 0], "negative": ["conditioning", 1], "cfg": 1.5}
    prompt["guider"] = {"class_type": "CFGGuider", "inputs": guider}
    prompt["sampler"] = {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}}
    prompt["stock"] = {
        "class_type": "SamplerCustomAdvanced",
        "inputs": {
            "noise": noise,
            "guider": ["guider", 0],
            "sampler": ["sampler", 0],
            "sigmas": ["sigmas", 0],
            "latent_image": ["conditioning", 2],
        },
    }
    prompt["save stock"] = {
        "class_type": "SaveLatent",
        "inputs": {"samples": ["stock", 0], "filename_prefix": f"stock {name}"},
    }
    return prompt


def gld_scheduler(level: int, steps: int) -> dict:
    inputs = {"model": [f"model{level}", 0], "latent": ["conditioning", 2], "steps": steps, "shift": 0.0}
    return {"class_type": "GLDScheduler", "inputs": inputs}


@pytest.fixture(scope="module")
def whole(server, graph):
    return server.run(graph())


@pytest.mark.parametrize("change", [{}, {"steps": 7}, {"cfg": 1.0}, {"shift": 0.5}, {"shift": 60.0}], ids=str)
def test_latents_are_the_cores_to_the_bit(server, graph, only, core, core_views, host_noise, change):
    prompt = graph()
    for level in (1, 0):
        prompt[f"level{level}"]["inputs"] |= change
    result = server.run(only(prompt, "save level1", "save level0"))
    views = core_views()
    settings = {"steps": 3, "noise": host_noise(views, 7)} | change
    level1 = core.sample_level1(views, **settings)
    level0 = core.cascade_level0(views, level1, **settings)
    assert torch.equal(result.latent("save level1")[0].transpose(0, 1), level1)
    assert torch.equal(result.latent("save level0")[0].transpose(0, 1), level0)


def test_pictures_equal_the_cores(whole, core, core_views):
    latents = [whole.latent(name)[0].transpose(0, 1) for name in ("save level1", "save level0")]
    rgb = core.decode_rgb(core_views(), *latents).clamp(0, 1).movedim(1, -1)
    assert (pictures(whole.files("save rgb")) - rgb).abs().max() <= 1.01 / 255


def test_the_glb_holds_every_confident_point(whole):
    data = whole.files("save glb", "3d")[0].read_bytes()
    assert data[:4] == b"glTF" and struct.unpack("<I", data[8:12])[0] == len(data)
    content = json.loads(data[20 : 20 + struct.unpack("<I", data[12:16])[0]])
    primitive = content["meshes"][0]["primitives"][0]
    assert primitive["mode"] == 0
    assert 1000 < content["accessors"][primitive["attributes"]["POSITION"]]["count"] <= 6 * 56 * 84


def test_decoding_works_without_level_0(server, graph, only):
    prompt = graph()
    for name in ("rgb", "depth"):
        del prompt[name]["inputs"]["level0"]
    result = server.run(only(prompt, "save rgb", "save depth", "save glb"))
    assert len(result.files("save rgb")) == len(result.files("save depth")) == 6
    assert "level0" not in result.executed


@pytest.mark.parametrize("level", [1, 0])
def test_stock_sampler_with_gld_scheduler_is_the_same_bit_for_bit(server, graph, only, level):
    noise = {"class_type": "RandomNoise", "inputs": {"noise_seed": 7}}
    prompt = advanced(graph(), level, gld_scheduler(level, 3), ["noise", 0]) | {"noise": noise}
    result = server.run(only(prompt, "save stock", f"save level{level}"))
    assert torch.equal(result.latent("save stock"), result.latent(f"save level{level}"))


@pytest.mark.parametrize("level", [1, 0])
def test_ksampler_with_a_stock_scheduler_is_the_same_bit_for_bit(server, graph, only, level):
    prompt = graph(scheduler="simple", sampler_name="dpmpp_2m")
    prompt = advanced(prompt, level, gld_scheduler(level, 3), [])
    prompt["stock"] = {
        "class_type": "KSampler",
        "inputs": {
            "model": [f"model{level}", 0],
            "seed": 7,
            "steps": 3,
            "cfg": 1.5,
            "sampler_name": "dpmpp_2m",
            "scheduler": "simple",
            "positive": ["conditioning", 0],
            "negative": ["conditioning", 1],
            "latent_image": ["conditioning", 2],
            "denoise": 1.0,
        },
    }
    result = server.run(only(prompt, "save stock", f"save level{level}"))
    assert torch.equal(result.latent("save stock"), result.latent(f"save level{level}"))


def test_every_sampler_and_scheduler_of_the_host_runs(server, graph, only):
    options = server.get("/object_info/GLDSampleLevel1")["GLDSampleLevel1"]["input"]["required"]
    samplers, schedulers = (options[name][1]["options"] for name in ("sampler_name", "scheduler"))
    assert len(samplers) > 30 and schedulers[0] == "gld" and len(schedulers) > 8
    for sampler, scheduler in [(name, "gld") for name in samplers] + [("euler", name) for name in schedulers]:
        result = server.run(only(graph(sampler_name=sampler, scheduler=scheduler), "save level1"))
        assert result.error is None, (sampler, scheduler, result.error)
        # A step or two of a large first step may overshoot, but nothing breaks.
        assert torch.isfinite(result.latent("save level1")).all(), (sampler, scheduler)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"cfg": 3.0},
        {"steps": 4},
        {"shift": 2.0},
        {"sources": "1"},
        {"targets": "3, 1"},
        {"long_side": 112},
    ],
    ids=str,
)
def test_every_setting_matters(server, graph, only, whole, change):
    result = server.run(only(graph(**change), "save level1"))
    before, after = whole.latent("save level1"), result.latent("save level1")
    assert before.shape != after.shape or relative(after, before) > 1e-3


def test_a_target_camera_matters(server, graph, only):
    """Three views with targets 1 and 2, against the same with the target's camera exchanged for another."""
    one, other = (
        server.run(only(graph(sources="0,", targets=targets), "save level1")).latent("save level1")
        for targets in ("1, 2", "3, 2")
    )
    assert relative(one, other) > 1e-3


def test_bfloat16_differs_by_what_its_digits_explain(server, graph, only, whole):
    result = server.run(only(graph(weight_dtype="bf16"), "save level1"))
    error = relative(result.latent("save level1"), whole.latent("save level1"))
    assert 1e-5 < error < 0.05


def test_fp8_weights_run(server, graph, only, whole):
    result = server.run(only(graph(weight_dtype="fp8_e4m3fn"), "save level1"))
    assert relative(result.latent("save level1"), whole.latent("save level1")) < 0.5


def test_a_lora_on_a_linear_layer_is_the_changed_weight(server, graph, only, core, core_views, host_noise):
    key = "blocks.1.mlp.w3.weight"
    views = core_views()
    network = core.diffusion[1]
    weight = network.state_dict()[key]
    generator = torch.Generator().manual_seed(0)
    up, down = (torch.randn(shape, generator=generator) for shape in ((weight.shape[0], 4), (4, weight.shape[1])))
    (server.base / "models" / "loras").mkdir(exist_ok=True)
    save_file(
        {f"diffusion_model.{key[:-7]}.lora_up.weight": up, f"diffusion_model.{key[:-7]}.lora_down.weight": down},
        server.base / "models" / "loras" / "test.safetensors",
    )
    prompt = graph()
    lora = {"model": ["model1", 0], "lora_name": "test.safetensors", "strength_model": 0.01}
    prompt["lora"] = {"class_type": "LoraLoaderModelOnly", "inputs": lora}
    prompt["level1"]["inputs"]["model"] = ["lora", 0]
    found = server.run(only(prompt, "save level1")).latent("save level1")[0].transpose(0, 1)

    plain = core.sample_level1(views, steps=3, noise=host_noise(views, 7))
    original = weight.clone()
    try:
        with torch.inference_mode():
            network.get_parameter(key).data.copy_(original + 0.01 * (up @ down))
        changed = core.sample_level1(views, steps=3, noise=host_noise(views, 7))
    finally:
        network.get_parameter(key).data.copy_(original)
    assert relative(plain, changed) > 1e-3
    assert relative(found, changed) < 1e-5


def test_model_wrappers_see_every_call(server, graph, only):
    prompt = graph(steps=5)
    prompt["counted"] = {"class_type": "TestCountCalls", "inputs": {"model": ["model1", 0]}}
    prompt["level1"]["inputs"]["model"] = ["counted", 0]
    prompt["report"] = {"class_type": "TestReportCalls", "inputs": {"model": ["counted", 0], "after": ["level1", 0]}}
    result = server.run(only(prompt, "report"))
    assert result.error is None, result.error
    assert result.history["outputs"]["report"]["calls"] == [{"network": 5, "branches": 10}]


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler: TorchCompileModel was not tried")
def test_torch_compile_gives_the_same(server, graph, only, whole):
    prompt = graph()
    prompt["compiled"] = {"class_type": "TorchCompileModel", "inputs": {"model": ["model1", 0], "backend": "inductor"}}
    prompt["level1"]["inputs"]["model"] = ["compiled", 0]
    result = server.run(only(prompt, "save level1"))
    assert relative(result.latent("save level1"), whole.latent("save level1")) < 1e-4


@pytest.mark.parametrize("backbone, steps, targets", [("da3", 49, "2-4"), ("vggt", 29, "2-3")])
def test_golden_latents_over_the_api(golden_server, graph, only, backbone, steps, targets):
    """Released settings and the golden noise through the stock sampler; also models by extra_model_paths.yaml."""
    golden = golden_server.bundles[backbone] / "golden.safetensors"
    for level in (1, 0):
        models = {
            "level1_model": f"checkpoints/{backbone}_level1.pt",
            "level0_model": f"checkpoints/{backbone}_cascade.pt",
        }
        long_side = 84 if backbone == "da3" else 98
        prompt = graph(scene=backbone, sources="0-1", targets=targets, long_side=long_side, **models)
        prompt["backbone"]["inputs"]["backbone"] = backbone
        prompt["noise file"] = {"class_type": "LoadLatent", "inputs": {"latent": f"{backbone}{level}.latent"}}
        prompt["noise"] = {"class_type": "TestNoise", "inputs": {"latent": ["noise file", 0]}}
        # The cascade goes on from the level 1 that was sampled before.
        prompt["level1"] = {"class_type": "LoadLatent", "inputs": {"latent": "level1.latent"}}
        prompt = advanced(prompt, level, gld_scheduler(level, steps), ["noise", 0])
        result = golden_server.run(only(prompt, "save stock"))
        with safe_open(golden, "pt") as file:
            meant = file.get_tensor(f"pipeline.level{level}.{'latent' if backbone == 'da3' else 'packed'}")
        error = relative(result.latent("save stock")[0].transpose(0, 1), meant)
        print(f"golden {backbone} level {level}: relative error {error:.2e}")
        assert error < 3e-5
        shutil.copy(result.files("save stock", "latents")[0], golden_server.base / "input" / "level1.latent")


def test_a_vggt_graph_runs_to_the_end(golden_server, graph):
    names = {"level1_model": "checkpoints/vggt_level1.pt", "level0_model": "checkpoints/vggt_cascade.pt"}
    prompt = graph(scene="vggt", sources="0-1", targets="2-3", long_side=98, **names)
    prompt["backbone"]["inputs"]["backbone"] = "vggt"
    result = golden_server.run(prompt, preview_method="latent2rgb")
    assert len(result.files("save rgb")) == len(result.files("save depth")) == 4
    assert result.files("save glb", "3d")[0].stat().st_size > 10_000


@pytest.fixture(scope="module")
def golden_server(shared, tmp_path_factory, start_server):
    base = tmp_path_factory.mktemp("golden")
    bundles = {name: shared / "golden" / f"tiny-{name}" for name in ("da3", "vggt")}
    paths = base / "extra_model_paths.yaml"
    entries = [f"{name}:\n  base_path: {path.parent}\n  gld: {path.name}\n" for name, path in bundles.items()]
    paths.write_text("".join(entries), encoding="utf-8")
    server = start_server(base, None, "--cpu", "--extra-model-paths-config", str(paths))
    server.bundles = bundles
    for name, bundle in bundles.items():
        with safe_open(bundle / "golden.safetensors", "pt") as file:
            images = file.get_tensor("in.images")
            height, width = images.shape[-2:]
            cameras = gld_core.Cameras(file.get_tensor("in.c2w"), file.get_tensor("in.intrinsics"), height, width)
            write_scene(base / "input" / name, images, cameras)
            for level in (1, 0):
                noise = file.get_tensor(f"pipeline.noise{level}").transpose(0, 1)[None]
                content = {"latent_tensor": noise.contiguous(), "latent_format_version_0": torch.tensor([])}
                save_file(content, base / "input" / f"{name}{level}.latent")
    yield server
    server.close()
