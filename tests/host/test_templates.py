"""The API form of every shipped workflow runs, on the small model that comes with the plugin where that can do it."""

import json
import re
from pathlib import Path

import pytest

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
API = WORKFLOWS / "api"


def quick(prompt: dict) -> dict:
    """Small pictures, few steps, the small model."""
    for node in prompt.values():
        inputs = node["inputs"]
        own = {"long_side": 84, "steps": 1, "number": 3, "motion.number": 3, "family": "nano"}
        inputs |= {name: value for name, value in own.items() if name in inputs and not isinstance(inputs[name], list)}
    return prompt


@pytest.mark.parametrize("name", [path.stem for path in sorted(API.glob("*.json"))])
def test_a_workflow_runs(server, template_inputs, name):
    prompt = quick(json.loads((API / f"{name}.json").read_text(encoding="utf-8")))
    result = server.run(prompt)
    assert result.error is None
    saved = {node for node, value in prompt.items() if value["class_type"].startswith(("Save", "GLDExportDataset"))}
    assert saved and saved <= set(result.history["outputs"]) | result.executed
    if "folder" in name:
        # One for each of the two photographs.
        (video,) = (node for node, value in prompt.items() if value["class_type"] == "SaveVideo")
        assert len(result.files(video)) == 2


@pytest.mark.parametrize("name", [path.stem for path in sorted(WORKFLOWS.glob("*.json"))])
def test_the_note_of_a_workflow_names_what_is_there_and_can_be_read(server, name):
    """Nodes by their titles, inputs by their names. Vue nodes draw `code` on a note in the note's own colour."""
    nodes = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))["nodes"]
    (text,) = (node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote")
    # The last two are of the file.
    known = {"pose", "intrinsic"}
    for kind in server.get("/object_info").values():
        known |= {kind["display_name"], *kind["input"].get("required", {}), *kind["input"].get("optional", {})}
    assert set(re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", text)) <= known
    assert "`" not in text


def test_nano_finds_cameras_for_two_photographs_without(server):
    scene = {"scene": "sample: room", "sources": "2", "targets": "", "long_side": 84}
    backbone = {"backbone": "nano", "weight_dtype": "default", "download": False, "vggt_licence": "not chosen"}
    prompt = {
        "1": {"class_type": "GLDLoadScene", "inputs": scene},
        "2": {"class_type": "GLDLoadBackbone", "inputs": backbone},
        "3": {
            "class_type": "GLDEstimateCameras",
            "inputs": {"backbone": ["2", 0], "images": ["1", 0], "long_side": 84, "fov": 0},
        },
        "4": {"class_type": "PreviewAny", "inputs": {"source": ["3", 4]}},
    }
    result = server.run(prompt)
    assert result.error is None
    assert "of it confirmed by another photograph" in result.history["outputs"]["4"]["text"][0]
