"""The shipped API files as programs of others drive them: by title, by class, and without any change."""

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper
from comfy_toolkit import ComfyClient

from tests.host.test_templates import API, quick

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(API.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nodes_of_an_api_file_can_be_told_apart_by_title(path):
    """Clients that address nodes by title set every node of that title."""
    prompt = json.loads(path.read_text(encoding="utf-8"))
    titles = [node["_meta"]["title"] for node in prompt.values()]
    assert sorted(set(titles)) == sorted(titles)
    # The page has a widget of that name on its 3D viewers, which no node asks for.
    assert [node for node in prompt.values() if node["inputs"].get("image") == ""] == []


def test_comfy_api_simplified_sets_a_seed_by_title_and_gets_the_pictures(server):
    path = next(path for path in FILES if "posed" in path.name)
    workflow = ComfyWorkflowWrapper(quick(json.loads(path.read_text(encoding="utf-8"))))
    (sampler,) = (title for title in workflow.list_nodes() if title == "Sample GLD")
    (pictures,) = (title for title in workflow.list_nodes() if title == "Save Views")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        workflow.set_node_param(sampler, "seed", 11)
        found = ComfyApiWrapper(server.url).queue_and_wait_images(workflow, pictures)
    assert found and all(data.startswith(b"\x89PNG") for data in found.values())


def test_what_a_node_says_is_heard_by_the_page_that_queued_it_alone(server, graph, only):
    """Other pages would show it under their own nodes of the same number, and programs take it for a picture."""
    other, prompt = server.another_page(), only(graph(seed=31, steps=1), "save level1")
    said = [message for message in server.run(prompt).messages if message["type"] == "binary"]
    # A prompt of its own, so that all that was sent before has come.
    heard = other.run(only(graph(seed=31, steps=1), "save level1")).messages
    assert said and not [message for message in heard if message["type"] == "binary"]


def test_the_example_of_the_docs_runs(server, template_inputs):
    """docs/batch.md, two photographs on a server that it takes for two; small and quick."""
    text = (ROOT / "docs" / "batch.md").read_text(encoding="utf-8")
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "urllib" in block)
    names = ["photographs/room_1.jpg", "photographs/room_2.jpg"]
    example = re.sub(r"^photographs = .*$", f"photographs = {names}", example, flags=re.MULTILINE)
    example = re.sub(r"^servers = .*$", f"servers = {[server.url] * 2}", example, flags=re.MULTILINE)
    example = example.replace("graph = json.load(file)", "graph = quick(json.load(file))")
    example = f"from tests.host.test_templates import quick\n{example}"
    done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert [line.split()[:2] for line in told] == [[name, "success"] for name in names]
    assert all(f"{Path(name).name}_00001_.mp4" in line for name, line in zip(names, told, strict=True))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_comfy_toolkit_runs_it_and_finds_its_results(server, template_inputs, path):
    client = ComfyClient(base_url=server.url)
    prompt = quick(client.load_workflow(path))
    for node in prompt.values():
        node["inputs"] |= {"seed": 12} if "seed" in node["inputs"] else {}
    result = client.wait(client.submit(prompt), max_wait=600, poll_interval=0.2)
    assert result["filenames"]
