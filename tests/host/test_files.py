"""Files that change under a running server, that two servers write, and that cannot be memory-mapped."""

import shutil

import pytest
import torch

from gld_core.checkpoints import convert

SMALL = {"level1_model": "checkpoints/da3_level1.safetensors", "level0_model": "checkpoints/da3_cascade.safetensors"}


@pytest.fixture
def own_server(start_server, models, scene, tmp_path):
    """own_server(*flags): a server whose model files a test may change. Their weights are of the type they are used in,
    so that they stay mapped.
    """
    running = []

    def start(*flags):
        convert(models, tmp_path / "models/gld", dtype=torch.float32)
        server = start_server(tmp_path, None, "--cpu", *flags)
        running.append(server)
        shutil.copytree(scene, server.base / "input" / "room")
        return server

    yield start
    for server in running:
        server.close()


def mapped_files(server) -> set[str]:
    """Names of the model files that the server has in memory."""
    with open(f"/proc/{server.process.pid}/maps", encoding="utf-8") as maps:
        return {line.split("/")[-1].strip() for line in maps if "/models/gld/" in line}


def test_the_hosts_switch_against_memory_mapping_is_followed(own_server, graph, only):
    server = own_server("--disable-mmap")
    assert server.run(only(graph(**SMALL), "save rgb")).error is None
    assert mapped_files(server) == set()


@pytest.mark.parametrize("name", ["pretrained_models/da3/model.safetensors", "checkpoints/da3_level1.safetensors"])
def test_a_weight_file_that_is_replaced_in_place_does_not_end_the_server(own_server, graph, only, name):
    server = own_server()
    prompt = only(graph(**SMALL), "save rgb")
    assert server.run(prompt).error is None
    path = server.base / "models/gld" / name
    assert path.name in mapped_files(server)
    whole = path.read_bytes()
    path.write_bytes(whole[:100_000])
    prompt["scene"]["inputs"]["long_side"] = 112
    assert f"{path.name} cannot be read: it is truncated" in server.run(prompt).error
    path.write_bytes(whole)
    assert server.run(prompt).error is None


def test_a_weight_file_that_is_replaced_while_a_prompt_runs_is_refused_when_its_turn_comes(own_server, graph, only):
    """The decoder's turn comes after sampling; reading what the file no longer has would end the server."""
    server = own_server()
    path = server.base / "models/gld/pretrained_models/mae_decoder.safetensors"
    with server.paused(only(graph(**SMALL), "save rgb"), "level1", step=1) as prompt_id:
        path.write_bytes(path.read_bytes()[:100_000])
    server.wait(prompt_id)
    found = [data for kind, data in server.history(prompt_id)["status"]["messages"] if kind == "execution_error"]
    assert "mae_decoder.safetensors was changed after it was loaded; load it again" in found[0]["exception_message"]


def test_replaced_and_removed_statistics_are_noticed(start_server, models, scene, tmp_path, graph, only):
    server = start_server(tmp_path, models, "--cpu")
    try:
        shutil.copytree(scene, server.base / "input" / "room")
        prompt = only(graph(steps=1), "save rgb")
        assert server.run(prompt).error is None
        path = server.base / "models/gld/model_stats/da3/normalization_stats_level1.pt"
        statistics = torch.load(path)
        torch.save({**statistics, "mean": statistics["mean"] + 1}, path)
        assert "views" in server.run(prompt).executed
        path.unlink()
        assert "normalization_stats_level1.pt is missing" in server.run(prompt).error
    finally:
        server.close()


def test_two_servers_on_one_output_folder_take_different_numbers(server, start_server, tmp_path):
    """Both find the same last number, and the one that comes second takes the next."""
    other = start_server(tmp_path, None, "--cpu", "--output-directory", str(server.base / "output"))
    size = {"views": 4, "height": 56, "width": 84, "sources": 2, "broken": False}
    both = {"geometry": ["room", 0], "cameras": ["room", 1]}
    selection = {"min_confidence": 1.0, "keep_at_least": 0.0, "confirmed_by": 0, "max_points": 1000}

    def prompt(seed: int) -> dict:
        dataset = {**both, **selection, "format": "COLMAP", "format.binary": True, "filename_prefix": "shared/set"}
        cameras = {"cameras": ["room", 1], "filename_prefix": "shared/cameras", "format": "transforms.json", "view": 0}
        return {
            "room": {"class_type": "TestRoom", "inputs": {"seed": seed, **size}},
            "dataset": {"class_type": "GLDExportDataset", "inputs": dataset},
            "cameras": {"class_type": "GLDSaveCameras", "inputs": cameras},
        }

    try:
        queued = [(one, one.queue(prompt(seed))) for seed in range(6) for one in (server, other)]
        for one, prompt_id in queued:
            one.wait(prompt_id)
            assert one.history(prompt_id)["status"]["status_str"] == "success"
    finally:
        other.close()
    names = sorted(path.name for path in (server.base / "output/shared").iterdir())
    numbers = range(1, len(queued) + 1)
    assert names == [f"cameras_{n:05}_.json" for n in numbers] + [f"set_{n:05}" for n in numbers]
