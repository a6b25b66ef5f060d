"""Weights that the host streams, quantises or loads as they are used give the same result; cameras stay float32.

What --lowvram, --novram and dynamic VRAM do to a model is done here on the CPU; with a GPU the flags themselves run.
"""

import shutil
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


def test_memory_required_is_what_a_forward_pass_was_measured_to_need(report):
    """At the released decoder width of 2048: 3.7 GiB in float32 for both guidance branches of eight 504x504 views."""
    needed = report["memory at 8 views of 504x504"] * 2048 / report["decoder width"]
    assert 3703 * 2**20 < needed < 1.3 * 3703 * 2**20


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: --lowvram and --novram were not run on one")
@pytest.mark.parametrize("flag", ["--lowvram", "--novram", "--disable-dynamic-vram"])
def test_vram_flags(start_server, models, scene, tmp_path, graph, flag):
    server = start_server(tmp_path, models, flag)
    try:
        (server.base / "input" / "room").symlink_to(scene)
        assert server.run(graph()).error is None
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
