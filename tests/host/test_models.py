"""Models in the host's folders: lists refresh, and a download happens only where it was asked for."""

import hashlib
import http.server
import shutil
import threading
from pathlib import Path

import pytest

NANO = "nano/checkpoints/da3_{}.safetensors"


@pytest.fixture(scope="module")
def hub(models):
    """A stand-in for Hugging Face and the statistics' host: files of a folder, with ranges; can break off or lie."""

    class Handler(http.server.BaseHTTPRequestHandler):
        requests: list = []
        paths: list = []
        break_after: int | None = None
        lie = False

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body: bool):
            name = self.path.split("/resolve/main/")[-1].lstrip("/")
            Handler.paths.append(self.path)
            Handler.requests.append((self.command, name, self.headers.get("Range")))
            path = models / name
            if not path.is_file():
                self.send_error(404)
                return
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0]) if body else 0
            self.send_response(206 if start else 200)
            for header in ("ETag", "X-Linked-ETag"):
                self.send_header(header, f'"{digest}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("X-Linked-Size", str(len(data)))
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            if body:
                part = bytes(len(data) - start) if Handler.lie else data[start:]
                self.wfile.write(part[: Handler.break_after] if Handler.break_after else part)
                Handler.break_after = None

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Handler.url = f"http://127.0.0.1:{server.server_port}"
    yield Handler
    server.shutdown()


@pytest.fixture(scope="module")
def bare_server(hub, start_server, scene, tmp_path_factory):
    """No models, and the stand-in in the place of the two hosts."""
    base = tmp_path_factory.mktemp("bare")
    environment = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "GLD_STATISTICS_URL": hub.url}
    server = start_server(base, None, "--cpu", **environment)
    shutil.copytree(scene, base / "input" / "room")
    yield server
    server.close()


@pytest.fixture
def wanted(graph, only):
    """The prompt up to level 1, its downloads switched on."""
    prompt = only(graph(), "save level1")
    for name in ("backbone", "model1"):
        prompt[name]["inputs"]["download"] = True
    return prompt


def test_lists_refresh(server):
    def listed():
        info = server.get("/object_info/GLDLoadDiffusionModel")["GLDLoadDiffusionModel"]
        return info["input"]["required"]["model_name"][1]["options"]

    folder = server.base / "models/gld/checkpoints"
    assert "checkpoints/my_level1.safetensors" not in listed()
    shutil.copy(folder / "da3_level1.pt", folder / "my_level1.safetensors")
    assert "checkpoints/my_level1.safetensors" in listed()
    assert not [name for name in listed() if "mae_decoder" in name or "model_stats" in name]


def test_nothing_is_downloaded_unless_asked_for(bare_server, hub, graph, only):
    assert "checkpoints/da3_level1.pt in" in bare_server.run(only(graph(), "save level1")).error
    assert hub.requests == []


def test_a_fresh_install_starts_with_the_small_model_and_the_sample(bare_server, hub, graph):
    """What the loaders are set to where no released file is; all of it works without a request to anywhere."""
    inputs = {
        node: bare_server.get(f"/object_info/{node}")[node]["input"]["required"]
        for node in ("GLDLoadBackbone", "GLDLoadDiffusionModel", "GLDLoadScene")
    }
    assert inputs["GLDLoadBackbone"]["backbone"][1]["default"] == "nano"
    assert inputs["GLDLoadDiffusionModel"]["model_name"][1]["default"] == NANO.format("level1")
    assert inputs["GLDLoadScene"]["scene"][1]["options"] == ["room", "sample: room"]
    small = {"backbone": "nano", "level1_model": NANO.format("level1"), "level0_model": NANO.format("cascade")}
    result = bare_server.run(graph("sample: room", long_side=126, **small))
    assert len(result.files("save rgb")) == len(result.files("save depth")) == 6
    assert hub.requests == []


def test_nothing_of_the_plugin_but_its_own_model_is_offered_as_a_model(bare_server):
    """The host lists model folders to anyone who asks, and would list what lies beside nano too."""
    assert bare_server.get("/models/gld") == []
    offered = bare_server.get("/object_info/GLDLoadDiffusionModel")["GLDLoadDiffusionModel"]["input"]["required"]
    named = [name for name in offered["model_name"][1]["options"] if name.startswith("nano/")]
    assert named == [NANO.format("cascade"), NANO.format("level1")]


def test_released_files_come_before_the_small_model(server):
    inputs = {
        node: server.get(f"/object_info/{node}")[node]["input"]["required"]
        for node in ("GLDLoadBackbone", "GLDLoadDiffusionModel")
    }
    assert inputs["GLDLoadBackbone"]["backbone"][1]["default"] == "da3"
    assert inputs["GLDLoadDiffusionModel"]["model_name"][1]["default"] == "checkpoints/da3_level1.pt"
    assert not [name for name in inputs["GLDLoadDiffusionModel"]["model_name"][1]["options"] if "pretrained" in name]


def test_a_wrong_file_is_not_kept(bare_server, hub, wanted):
    hub.lie = True
    try:
        error = bare_server.run(wanted).error
    finally:
        hub.lie = False
    assert "SHA-256" in error
    assert not [path for path in (bare_server.base / "models").rglob("*.safetensors*") if path.is_file()]


def test_a_download_goes_on_where_it_broke_off(bare_server, hub, wanted):
    hub.break_after = 1_000_000
    assert "goes on from there" in bare_server.run(wanted).error
    hub.requests.clear()
    result = bare_server.run(wanted)
    # Statistics of the random network are not the released ones: that is the one thing refused.
    assert "SHA-256" in result.error and "normalization_stats_level0.pt" in result.error
    assert "bytes=1000000-" in [requested for _, _, requested in hub.requests]
    assert any(message["type"] == "progress" for message in result.messages)


def test_after_the_download_the_graph_runs(bare_server, hub, wanted, models):
    shutil.copytree(models / "model_stats", bare_server.base / "models/gld/model_stats", dirs_exist_ok=True)
    assert bare_server.run(wanted).error is None
    hub.requests.clear()
    wanted["level1"]["inputs"]["seed"] = 8
    assert bare_server.run(wanted).error is None
    assert hub.requests == []
    got = bare_server.base / "models/gld"
    files = [path.relative_to(got) for path in got.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix == ".part"]
    assert all((got / path).read_bytes() == (models / path).read_bytes() for path in files)


def test_vggt_is_downloaded_only_after_its_licence_was_chosen(bare_server, hub, wanted):
    wanted["backbone"]["inputs"]["backbone"] = "vggt"
    hub.paths.clear()
    assert "facebook/VGGT-1B must not be used commercially" in bare_server.run(wanted).error
    assert hub.paths == []
    for repository in ("facebook/VGGT-1B", "facebook/VGGT-1B-Commercial"):
        kind = "commercial" if repository.endswith("Commercial") else "non-commercial"
        wanted["backbone"]["inputs"]["vggt_licence"] = f"{kind} ({repository})"
        # The stand-in has no such file.
        assert "404" in bare_server.run(wanted).error
        assert f"/{repository}/resolve/main/model.safetensors" in hub.paths


def test_statistics_come_with_the_released_checksums(shared, hub, models, bare_server, wanted):
    """The pinned SHA-256 are those of the released files."""
    for path in sorted((shared / "model_stats").rglob("*.pt")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        source = (Path(__file__).resolve().parents[2] / "nodes" / "download.py").read_text(encoding="utf-8")
        assert digest in source, path
