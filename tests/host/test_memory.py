"""Weights that the host streams, quantises or loads as they are used give the same result; cameras stay float32.

What --lowvram, --novram and dynamic VRAM do to a model is done here on the CPU; with a GPU the flags themselves run.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def report(run_with_host, models):
    return run_with_host(Path(__file__).parent / "memory_probe.py", models / "checkpoints/da3_level1.pt")


def test_weights_streamed_layer_by_layer(report):
    assert report["streamed layers"] > 0.9
    assert report["streamed error"] == 0


def test_weights_built_for_dynamic_vram(report):
    assert report["dynamic error"] == 0


def test_cameras_stay_float32_whatever_the_weights(report):
    assert report["bf16 weight type"] == "torch.bfloat16"
    assert report["bf16 camera types"] == ["torch.float32", "torch.float32"]


def test_float8_is_for_matrices_and_its_error_is_bounded(report):
    assert report["fp8 types"] == ["torch.float8_e4m3fn", "torch.float32", "torch.float32"]
    assert report["fp8 camera type"] == "torch.float32"
    assert 0.005 < report["fp8 error"] < 0.06


def test_float8_is_refused_where_the_host_cannot_keep_it(report):
    assert report["fp8 refused"] == "ComfyUI cannot use fp8_e4m3fn weights on cpu; choose bf16 in 'weight_dtype'."


def test_a_wrapper_may_write_into_its_input(report):
    """As EasyCache does: the denoised result was then computed from what it had left there."""
    assert report["error where a wrapper writes into its input"] == 0


def test_model_compute_dtype_is_followed(report):
    assert 0.001 < report["error of float32 weights computed in bf16"] < 0.02


def test_what_loras_and_merges_change_in_tokens_is_applied_once_and_taken_back(report):
    assert report["change of a token"] == pytest.approx(1)
    assert report["change of a token afterwards"] == 0
    assert not report["frequencies are changed"]


def test_a_latent_that_a_node_has_cut_is_refused(report):
    assert "Context Windows and Conditioning (Set Area) do not work with GLD" in report["cut views"]


def test_samplings_of_a_flow_work_and_others_are_refused(report):
    assert report["error with Flux's sampling"] == 0
    assert report["discrete sampling"].startswith("ModelSamplingDiscrete is not for GLD")


def test_convolutions_get_more_memory_on_amd(report):
    assert report["AMD's memory over others'"] == [pytest.approx(2.73), 1]


def test_the_backbone_shows_its_models_to_the_host(report):
    shown, loaded = report["models shown to the host"]
    assert shown == loaded > 4


def test_a_bf16_backbone_computes_in_float32_where_the_device_has_no_bf16(report):
    assert report["backbone without bf16"] == "torch.float32"


def test_features_without_colour_have_no_preview(report):
    assert report["colours of nothing"] is None


def test_float32_is_not_given_to_8_bit_attention(report):
    assert report["low precision attention"] == [False, True]


# MiB that DA3's networks of released size held at most at 504x504, both guidance branches, on an NVIDIA H200 with
# PyTorch 2.11.0+cu130, as measured by `python tests/gpu/table.py memory`.
H200 = {
    "level 1, bfloat16, 8 views": 1838,
    "level 0, bfloat16, 8 views": 1838,
    "level 1, float16, 8 views": 1838,
    "level 0, float16, 8 views": 1838,
    "level 1, float32, 8 views": 3423,
    "level 0, float32, 8 views": 3423,
    "backbone, bfloat16, 8 views": 311,
    "rgb_decoder, bfloat16, 4 views": 161,
    "gld_head, bfloat16, 4 views": 399,
    "backbone, float32, 8 views": 615,
    "rgb_decoder, float32, 4 views": 324,
    "gld_head, float32, 4 views": 798,
}


@pytest.fixture(scope="module")
def counted(tmp_path_factory, host_environment):
    """Case -> MiB held at most, counted without a card, and MiB asked for."""
    scratch = str(tmp_path_factory.mktemp("table"))
    options = ["--child", "memory", "--device", "meta", "--scratch", scratch]
    command = [sys.executable, str(Path(__file__).parents[1] / "gpu" / "table.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=host_environment)
    assert done.returncode == 0, done.stderr[-4000:]
    rows = re.findall(r"^\| (.*): memory used of what it asks for \| (\d+) of (\d+) MiB", done.stdout, re.MULTILINE)
    return {case: (int(held), int(asked)) for case, held, asked in rows}


def test_what_networks_hold_is_counted_as_a_card_measured_it(counted):
    assert {case: counted[f"da3, {case}"][0] for case in H200} == pytest.approx(H200, rel=0.01)


def test_the_host_is_asked_for_what_networks_hold_and_room_but_not_for_half_as_much_again(counted):
    assert len(counted) == 21
    assert {case: found for case, found in counted.items() if not 0.67 < found[0] / found[1] < 0.9} == {}


def test_more_is_asked_for_where_attention_is_not_fused(report):
    """By the host's split and sub-quadratic attention: of the diffusion models, the backbone and a head without it."""
    assert report["memory without fused attention"] == [[pytest.approx(1.4), pytest.approx(1.4), 1]] * 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="--lowvram and --novram need a GPU")
@pytest.mark.parametrize("flag", ["--lowvram", "--novram", "--disable-dynamic-vram"])
def test_vram_flags(start_server, models, scene, tmp_path, graph, core, core_views, host_noise, flag):
    """The library's result on the CPU, but for the digits that a GPU's convolutions leave out by default."""
    views = core_views()
    meant = core.sample_level1(views, 3, noise=host_noise(views, 7))
    server = start_server(tmp_path, models, flag)
    try:
        shutil.copytree(scene, server.base / "input" / "room")
        found = server.run(graph(weight_dtype="fp32")).latent("save level1")[0].transpose(0, 1)
        assert float((found - meant).norm() / meant.norm()) < 5e-3
    finally:
        server.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="float8 matrix products need a GPU")
def test_float8_with_fast(start_server, models, scene, tmp_path, graph, only):
    """Products of float8 matrices, where the card has them, are as near to those of bfloat16 as float8 weights are."""
    server = start_server(tmp_path, models, "--fast", "fp8_matrix_mult")
    try:
        shutil.copytree(scene, server.base / "input" / "room")
        found, meant = (
            server.run(only(graph(weight_dtype=name), "save level1")).latent("save level1")
            for name in ("fp8_e4m3fn", "bf16")
        )
        assert 0 < float((found - meant).norm() / meant.norm()) < 0.5
    finally:
        server.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="TorchCompileModel's inductor needs a GPU here")
def test_torch_compile_on_a_gpu_gives_the_same(start_server, models, scene, tmp_path, graph, only):
    server = start_server(tmp_path, models)
    try:
        shutil.copytree(scene, server.base / "input" / "room")
        plain = graph(weight_dtype="fp32")
        inputs = {"model": ["model1", 0], "backend": "inductor"}
        compiled = {**plain, "compiled": {"class_type": "TorchCompileModel", "inputs": inputs}}
        compiled["level1"] = {**plain["level1"], "inputs": {**plain["level1"]["inputs"], "model": ["compiled", 0]}}
        found, meant = (server.run(only(prompt, "save level1")).latent("save level1") for prompt in (compiled, plain))
        assert float((found - meant).norm() / meant.norm()) < 1e-3
    finally:
        server.close()


def test_a_type_that_a_flag_of_the_host_chooses_is_named_with_the_flag(
    start_server, models, scene, tmp_path, graph, only
):
    server = start_server(tmp_path, models, "--cpu", "--fp64-unet")
    try:
        shutil.copytree(scene, server.base / "input" / "room")
        error = server.run(only(graph(), "save level1")).error
        assert "cannot use float64 (by a flag such as --fp64-unet) weights on cpu; choose bf16 in" in error
        assert server.run(only(graph(weight_dtype="bf16"), "save level1")).error is None
    finally:
        server.close()
