"""A real ComfyUI server with this plugin, a small random network in the released layout, and synthetic scenes."""

import asyncio
import copy
import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest
import torch
from safetensors.torch import load_file

import gld_core
from gld_core.io.cameras import read_scene
from gld_core.io.posed_folders import write_scene
from gld_core.io.scenes import choose_views
from gld_core.synthetic.random_models import write_random_models
from gld_core.synthetic.render import render_scene

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "tests/host/site"
COMFYUI = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".cache" / "comfyui")
SHARED = ROOT.parent / "shared"
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-unsafe-swiftshader",
]


# Networks this small lose time to threads.
torch.set_num_threads(1)


def server_environment() -> dict[str, str]:
    path = os.pathsep.join([str(SITE), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": path}


class Refused(Exception):
    """The server did not take a prompt; the text is its answer."""


class Server:
    """ComfyUI in a process of its own, and a client with one websocket."""

    def __init__(self, base: Path, *flags: str, **environment: str):
        self.base = base
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = base / f"server-{self.port}.log"
        environment = {**server_environment(), "HF_HUB_OFFLINE": "1", **environment}
        command = [
            sys.executable, COMFYUI / "main.py", *flags, "--listen", "127.0.0.1", "--port", self.port,
            "--base-directory", base, "--database-url", "sqlite:///:memory:",
        ]  # fmt: skip
        with open(self.log_path, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command], cwd=base, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self.wait_for_start()
        except BaseException:
            self.close()
            raise
        self.open_page()

    def open_page(self):
        """Listen under a name of its own."""
        self.client = uuid.uuid4().hex
        self.messages: queue.Queue = queue.Queue()
        self.listening = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self.listen()), daemon=True).start()
        assert self.listening.wait(300)

    def another_page(self) -> "Server":
        """Another page open on the same server."""
        other = copy.copy(self)
        other.open_page()
        return other

    def wait_for_start(self):
        deadline = time.time() + 600
        while True:
            try:
                self.get("/system_stats")
                return
            except OSError:
                if self.process.poll() is not None or time.time() > deadline:
                    raise RuntimeError(f"ComfyUI did not start:\n{self.log()[-4000:]}") from None
                time.sleep(0.2)

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8")

    def get(self, path: str):
        with urllib.request.urlopen(self.url + path, timeout=300) as response:
            return json.load(response)

    def get_text(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=300) as response:
            return response.read().decode()

    def post(self, path: str, body: dict):
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as response:
                text = response.read()
                return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            raise Refused(error.read().decode()) from None

    async def listen(self):
        address = f"{self.url}/ws?clientId={self.client}"
        async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as websocket:
            # As a page begins.
            await websocket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": False}})
            self.listening.set()
            async for message in websocket:
                if message.type == aiohttp.WSMsgType.TEXT:
                    self.messages.put(json.loads(message.data))
                elif message.type == aiohttp.WSMsgType.BINARY:
                    self.messages.put({"type": "binary", "data": message.data})

    def queue(self, prompt: dict, **extra) -> str:
        """Queue a prompt in API form; its id. Refused where the server does not take it."""
        return self.post("/prompt", {"prompt": prompt, "client_id": self.client, "extra_data": extra})["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 300) -> list[dict]:
        """Messages up to the end of a prompt."""
        seen = []
        while True:
            seen.append(self.messages.get(timeout=timeout))
            data = seen[-1].get("data")
            if seen[-1]["type"] == "executing" and data["node"] is None and data["prompt_id"] == prompt_id:
                return seen

    @contextmanager
    def paused(self, prompt: dict, node: str, step: int, time: int = 1):
        """Queue a prompt, which waits after this step of a node's progress, the time-th time it comes, until the end of
        the `with`; the prompt's id.
        """
        self.post("/test/pause", {"node": node, "step": step, "time": time})
        prompt_id = self.queue(prompt)
        try:
            while (message := self.messages.get(timeout=300))["type"] != "test_paused":
                ended = message["type"] == "executing" and message["data"]["node"] is None
                assert not ended or message["data"]["prompt_id"] != prompt_id, f"no step {step} of {node}"
            yield prompt_id
        finally:
            self.post("/test/pause", {})

    def interrupted(self, prompt: dict, node: str, step: int, time: int = 1) -> list[dict]:
        """Interrupt a prompt where `paused` has it wait; the messages from there on."""
        with self.paused(prompt, node, step, time) as prompt_id:
            self.post("/interrupt", {})
        after = self.wait(prompt_id)
        assert "execution_interrupted" in [kind for kind, _ in self.history(prompt_id)["status"]["messages"]]
        return after

    def history(self, prompt_id: str) -> dict:
        for _ in range(100):
            found = self.get(f"/history/{prompt_id}")
            if found:
                return found[prompt_id]
            time.sleep(0.05)
        raise AssertionError(f"prompt {prompt_id} is not in the history")

    def run(self, prompt: dict, **extra) -> "Result":
        prompt_id = self.queue(prompt, **extra)
        messages = self.wait(prompt_id)
        return Result(self, self.history(prompt_id), messages)

    def rss(self) -> int:
        """Memory of the process in bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="utf-8").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Result:
    """What a finished prompt left behind."""

    def __init__(self, server: Server, history: dict, messages: list[dict]):
        self.server, self.history, self.messages = server, history, messages

    @property
    def error(self) -> str | None:
        for kind, data in self.history["status"]["messages"]:
            if kind == "execution_error":
                return data["exception_message"]
        return None

    @property
    def executed(self) -> set[str]:
        """Nodes that ran, those from the cache left out."""
        return {m["data"]["node"] for m in self.messages if m["type"] == "executing"} - {None}

    def files(self, node: str, kind: str = "images") -> list[Path]:
        assert self.error is None, self.error
        folders = {"output": "output", "temp": "temp"}
        return [
            self.server.base / folders[f["type"]] / f["subfolder"] / f["filename"]
            for f in self.history["outputs"][node][kind]
        ]

    def latent(self, node: str) -> torch.Tensor:
        """What Save Latent wrote: (1, C, V, h, w)."""
        return load_file(self.files(node, "latents")[0])["latent_tensor"]


def link(path: Path, folder: Path) -> None:
    """Make the folder appear at path: a symbolic link, on Windows, where those need a privilege, a junction."""
    if os.name == "nt":
        import _winapi

        _winapi.CreateJunction(str(folder), str(path))
    else:
        path.symlink_to(folder, target_is_directory=True)


def make_base(base: Path, models: Path | None) -> Path:
    """A base directory with the plugin, the tests' nodes, models/gld and input/."""
    for folder in ("custom_nodes", "models", "input", "output", "user/default"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    link(base / "custom_nodes" / "gld", ROOT)
    link(base / "custom_nodes" / "gld_test_nodes", ROOT / "tests/host/test_nodes")
    if models is not None:
        shutil.copytree(models, base / "models" / "gld")
    (base / "user/default/comfy.settings.json").write_text('{"Comfy.TutorialCompleted": true}', encoding="utf-8")
    return base


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A small random DA3 network in the released layout."""
    folder = tmp_path_factory.mktemp("models") / "gld"
    write_random_models(folder)
    return folder


@pytest.fixture(scope="session")
def scene(tmp_path_factory) -> Path:
    """A rendered room: six pictures of 84x56 with their cameras."""
    folder = tmp_path_factory.mktemp("scene") / "room"
    images, _, cameras = render_scene(0, 6, 56, 84)
    write_scene(folder, images, cameras)
    return folder


@pytest.fixture(scope="session")
def core(models) -> gld_core.GLD:
    """The core on the same files."""
    return gld_core.load(models, keep=True)


@pytest.fixture(scope="session")
def start_server():
    """start_server(base, models, *flags, **environment) -> Server on a new base directory; the caller closes it."""

    def start(base: Path, models: Path | None, *flags: str, **environment: str) -> Server:
        return Server(make_base(base, models), "--disable-api-nodes", *flags, **environment)

    return start


@pytest.fixture(scope="session")
def run_with_host():
    """run_with_host(script, *arguments) -> the JSON on the last line of a script that imports the host's modules."""

    def run(script: Path, *arguments) -> dict:
        command = [sys.executable, str(script), str(COMFYUI), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=server_environment())
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def host_environment() -> dict[str, str]:
    """For a script that imports the host's modules, and finds ComfyUI by COMFYUI_PATH."""
    return {**server_environment(), "COMFYUI_PATH": str(COMFYUI)}


@pytest.fixture(scope="session")
def server(tmp_path_factory, models, scene):
    base = make_base(tmp_path_factory.mktemp("comfyui"), models)
    shutil.copytree(scene, base / "input" / "room")
    # With which ComfyUI's page has a strict policy of what it may load.
    running = Server(base, "--cpu", "--disable-api-nodes")
    yield running
    running.close()


@pytest.fixture(scope="session")
def template_inputs(server):
    """What the templates name in ComfyUI/input: its own example picture, and a folder of two photographs."""
    folder = server.base / "input" / "photographs"
    folder.mkdir(exist_ok=True)
    for name in ("room_1.jpg", "room_2.jpg"):
        shutil.copy(ROOT / "workflows/inputs/room" / name, folder)
    shutil.copy(COMFYUI / "input" / "example.png", server.base / "input")


def settle(page) -> None:
    """Until a page has drawn what has changed and has nothing left to do, three times."""
    page.evaluate(
        """async () => {
            for (let turn = 0; turn < 3; turn++) {
                await new Promise(requestAnimationFrame)
                await new Promise(done => requestIdleCallback(done, { timeout: 3000 }))
            }
        }"""
    )


def wait_for_page(page) -> None:
    """Until a page that is being loaded has its nodes and its first workflow, and nothing lies over it."""
    page.wait_for_function(
        """!!(window.app?.graph && window.LiteGraph?.registered_node_types?.GLDDecodeRGB
            && app.extensionManager.workflow?.activeWorkflow && !app.extensionManager.spinner
            && !document.querySelector('.p-blockui-mask'))"""
    )
    page.wait_for_load_state("networkidle")
    settle(page)


def open_search(page, x: int, y: int) -> None:
    """The search for nodes, by a double click on the empty canvas. A page that is busy may miss one."""
    for _ in range(30):
        page.mouse.dblclick(x, y)
        settle(page)
        page.wait_for_timeout(1000)
        if page.get_by_placeholder("Add a node").count():
            return
    raise AssertionError("a double click does not open the search")


def eventually(page, expression: str, value, argument=None) -> None:
    """An expression of the page has a value, at once or after what the page is still about."""
    for _ in range(300):
        if page.evaluate(expression, argument) == value:
            return
        page.wait_for_timeout(100)
    assert page.evaluate(expression, argument) == value


@contextmanager
def open_pages(url: str):
    """open_page(address, **context) -> the web page in headless Chromium, ready; address: by default the given one;
    context: locale, viewport and such.
    """
    from playwright.sync_api import sync_playwright

    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert executable, "no Chromium found: install it, or set CHROMIUM to its executable"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)

        def open_page(address: str = url, **context):
            page = browser.new_page(**{"viewport": {"width": 2400, "height": 1150}, **context})
            page.set_default_timeout(240_000)
            page.goto(address)
            wait_for_page(page)
            # The server opens the panel at the right in every page after one that has opened it; it takes clicks.
            page.evaluate("app.extensionManager.setting.set('Comfy.RightSidePanel.IsOpen', false)")
            settle(page)
            return page

        yield open_page
        browser.close()


@pytest.fixture(scope="session")
def open_page(server):
    with open_pages(server.url) as opened:
        yield opened


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden tensors and scenes beside the repository; where CI is set it has to be there."""
    if not SHARED.is_dir():
        missing = f"{SHARED} is not there: nothing was compared with the released program's numbers"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return SHARED


@pytest.fixture
def message(server):
    """message(prompt) -> the sentence a prompt fails with, in the server's refusal or in the execution."""

    def fail(prompt: dict) -> str:
        try:
            result = server.run(prompt)
        except Exception as refused:
            assert type(refused).__name__ == "Refused", refused
            return str(refused)
        assert result.error is not None, "the prompt ran to its end"
        return result.error.strip()

    return fail


@pytest.fixture(scope="session")
def graph():
    """graph(...) -> a prompt in API form, from a scene to pictures, depth, GLB and both latents."""

    def build(scene="room", sources="2", targets="", long_side=84, seed=7, steps=3, **inputs) -> dict:
        sampling = {
            "seed": seed,
            "steps": steps,
            "cfg": 1.5,
            "sampler_name": "euler",
            "scheduler": "gld",
            "shift": 0.0,
        }
        sampling |= {name: value for name, value in inputs.items() if name in sampling}
        loader = {"weight_dtype": inputs.get("weight_dtype", "default"), "download": False}
        level1 = inputs.get("level1_model", "checkpoints/da3_level1.pt")
        level0 = inputs.get("level0_model", "checkpoints/da3_cascade.pt")
        latents = {"backbone": ["backbone", 0], "views": ["views", 0], "level1": ["level1", 0], "level0": ["level0", 0]}
        scene_inputs = {"scene": scene, "sources": sources, "targets": targets, "long_side": long_side}
        export = {"kind": "released points", "min_confidence": 1.05, "keep_at_least": 0.0, "confirmed_by": 0}
        export |= {"max_points": 500_000, "show_cameras": False}
        export |= {name: value for name, value in inputs.items() if name in export}
        nodes = {
            "scene": ("GLDLoadScene", scene_inputs),
            "backbone": (
                "GLDLoadBackbone",
                {"backbone": inputs.get("backbone", "da3"), "weight_dtype": "default", "download": False},
            ),
            "views": (
                "GLDEncodeViews",
                {"backbone": ["backbone", 0], "images": ["scene", 0], "cameras": ["scene", 1]},
            ),
            "model1": ("GLDLoadDiffusionModel", {"model_name": level1, **loader}),
            "model0": ("GLDLoadDiffusionModel", {"model_name": level0, **loader}),
            "level1": ("GLDSampleLevel1", {"model": ["model1", 0], "views": ["views", 0], **sampling}),
            "level0": (
                "GLDCascadeLevel0",
                {"model": ["model0", 0], "views": ["views", 0], "level1": ["level1", 0], **sampling},
            ),
            "rgb": ("GLDDecodeRGB", {**latents, "source_views": inputs.get("source_views", "generated")}),
            "depth": ("GLDDecodeDepth", {**latents, "images": ["rgb", 0]}),
            "glb": ("GLDExportGLB", {"geometry": ["depth", 0], "cameras": ["scene", 1], **export}),
            "save level1": ("SaveLatent", {"samples": ["level1", 0], "filename_prefix": "level1"}),
            "save level0": ("SaveLatent", {"samples": ["level0", 0], "filename_prefix": "level0"}),
            "save rgb": ("SaveImage", {"images": ["rgb", 0], "filename_prefix": "rgb"}),
            "save depth": ("SaveImage", {"images": ["depth", 1], "filename_prefix": "depth"}),
            "save glb": ("SaveGLB", {"mesh": ["glb", 0], "filename_prefix": "cloud"}),
        }
        return {name: {"class_type": kind, "inputs": dict(values)} for name, (kind, values) in nodes.items()}

    return build


@pytest.fixture(scope="session")
def only():
    """only(prompt, node, ...) -> the part of a prompt that the named nodes need."""

    def part(prompt: dict, *names: str) -> dict:
        needed, left = {}, list(names)
        while left:
            name = left.pop()
            if name not in needed:
                needed[name] = prompt[name]
                left += [value[0] for value in prompt[name]["inputs"].values() if isinstance(value, list)]
        return needed

    return part


@pytest.fixture(scope="session")
def host_noise():
    """host_noise(views, seed) -> (V, C, h, w): what the host draws for the views' empty latent."""

    def draw(views: gld_core.Views, seed: int) -> torch.Tensor:
        V, C, *grid = views.latent_shape
        return torch.randn((1, C, V, *grid), generator=torch.Generator().manual_seed(seed))[0].transpose(0, 1)

    return draw


@pytest.fixture(scope="session")
def core_views(core, scene):
    """core_views(sources, ...) -> the core's views of the rendered room."""

    def encode(sources=2, targets=None) -> gld_core.Views:
        loaded = read_scene(scene, 84)
        chosen, wanted = choose_views(len(loaded), sources, targets)
        return core.encode_views(loaded.photographs(chosen), loaded.cameras[chosen + wanted])

    return encode
