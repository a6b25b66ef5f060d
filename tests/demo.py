"""The main job in a real ComfyUI, as `tests/bootstrap.py demo [--open]` runs it: two photographs of a rendered room in,
six views, their depth and a GLB out, by the workflow "GLD posed scene to new views" and the plugin's small model.

With --open the server stays until Ctrl-C. Its folder (models, saved workflows) is .cache/demo; results are in demo-out.
"""

import json
import os
import queue
import shutil
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import Server, link  # noqa: E402

from gld_core.checkpoints import NANO_SIZE  # noqa: E402
from gld_core.export.pictures import contact_sheet  # noqa: E402
from gld_core.io.cameras import read_scene  # noqa: E402
from gld_core.io.images import read_image, write_png  # noqa: E402
from gld_core.io.scenes import choose_views  # noqa: E402

BASE, OUT = ROOT / ".cache" / "demo", ROOT / "demo-out"
WORKFLOW = "GLD posed scene to new views"


def say(text: str) -> None:
    print(f"[demo] {text}", flush=True)


def device_flags() -> list[str]:
    """ComfyUI finds CUDA and MPS by itself, but has to be told to do without."""
    if torch.cuda.is_available():
        say(f"computing on {torch.cuda.get_device_name()}")
        return []
    if torch.backends.mps.is_available():
        say("computing on MPS")
        return []
    say("computing on the CPU")
    return ["--cpu"]


def start_server() -> Server:
    for folder in ("custom_nodes", "models", "input", "user/default"):
        (BASE / folder).mkdir(parents=True, exist_ok=True)
    plugin = BASE / "custom_nodes" / "gld"
    if not plugin.exists():
        link(plugin, ROOT)
    (BASE / "user/default/comfy.settings.json").write_text('{"Comfy.TutorialCompleted": true}', encoding="utf-8")
    # With --open the loaders' downloads may be switched on.
    return Server(BASE, *device_flags(), "--output-directory", str(OUT), HF_HUB_OFFLINE="0")


def follow(server: Server, prompt: dict, prompt_id: str) -> None:
    """Say which node runs and how far the samplers are, until the prompt ends."""
    said = 0.0
    while True:
        try:
            message = server.messages.get(timeout=1)
        except queue.Empty:
            if server.process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended early:\n{server.log()[-4000:]}") from None
            continue
        data = message["data"]
        if message["type"] == "executing" and data["prompt_id"] == prompt_id:
            if data["node"] is None:
                return
            say(prompt[data["node"]]["_meta"]["title"])
        elif message["type"] == "progress" and (data["value"] == data["max"] > 1 or time.monotonic() - said > 1):
            said = time.monotonic()
            say(f"    {data['value']} of {data['max']}")


def saved(history: dict, prompt: dict) -> dict[str, list[Path]]:
    """Files by the prefix they were saved with."""
    files = {}
    for node, outputs in history["outputs"].items():
        prefix = prompt[node]["inputs"].get("filename_prefix")
        if prefix:
            found = [file for files in outputs.values() for file in files if file["type"] == "output"]
            files[prefix] = [OUT / file["subfolder"] / file["filename"] for file in found]
    return files


def collect(files: dict[str, list[Path]], prompt: dict) -> None:
    """Give what was saved its place in demo-out, and put it on one sheet beside the true pictures."""
    inputs = next(node["inputs"] for node in prompt.values() if node["class_type"] == "GLDLoadScene")
    folder = ROOT / "workflows" / "inputs" / inputs["scene"].removeprefix("sample: ")
    scene = read_scene(folder, inputs["long_side"] or NANO_SIZE)
    sources, targets = choose_views(len(scene), [int(view) for view in inputs["sources"].split(",")])
    kinds = {view: "source" if view in sources else "target" for view in sorted(sources + targets)}
    written = {}
    for name in ("views", "depth"):
        written[name] = {}
        for view, path in zip(sources + targets, files[f"GLD/room_{name}"], strict=True):
            written[name][view] = OUT / f"{name}_{view}_{kinds[view]}.png"
            os.replace(path, written[name][view])
    os.replace(files["GLD/room"][0], OUT / "room.glb")
    if not any((OUT / "GLD").iterdir()):
        (OUT / "GLD").rmdir()
    rows = {"photo": [scene.photographs([view])[0] for view in kinds]}
    rows |= {name: [read_image(paths[view]) for view in kinds] for name, paths in written.items()}
    write_png(OUT / "contact_sheet.png", contact_sheet([f"{kind} {view}" for view, kind in kinds.items()], rows))
    for name, paths in written.items():
        say(f"{name}: " + ", ".join(str(paths[view].relative_to(ROOT)) for view in kinds))
    say(f"GLB: {(OUT / 'room.glb').relative_to(ROOT)}")
    say(f"contact sheet: {(OUT / 'contact_sheet.png').relative_to(ROOT)} (photo: the truth, of targets unseen)")


def run(server: Server, began: float) -> None:
    prompt = json.loads((ROOT / "workflows" / "api" / f"{WORKFLOW}.json").read_text(encoding="utf-8"))
    say(f"running the workflow {WORKFLOW}")
    prompt_id = server.queue(prompt)
    follow(server, prompt, prompt_id)
    history = server.history(prompt_id)
    if history["status"]["status_str"] != "success":
        errors = [data["exception_message"] for kind, data in history["status"]["messages"] if "error" in kind]
        raise RuntimeError("The workflow failed: " + " ".join(errors))
    collect(saved(history, prompt), prompt)
    say(f"done in {time.monotonic() - began:.0f} s")
    if "--open" in sys.argv:
        say(f"ComfyUI is at {server.url} until you press Ctrl-C; the workflow is under Templates, gld, {WORKFLOW}")
        server.process.wait()


def main() -> int:
    began = time.monotonic()
    say("starting ComfyUI")
    try:
        server = start_server()
        try:
            run(server, began)
        finally:
            server.close()
    except KeyboardInterrupt:
        say("stopped")
        return 130
    except RuntimeError as error:
        say(str(error))
        return 1
    finally:
        shutil.rmtree(BASE / "temp", ignore_errors=True)
        for log in BASE.glob("server-*.log"):
            log.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
