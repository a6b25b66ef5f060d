"""The plugin loads quickly and quietly, and every node explains itself."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NODES = [
    "GLDLoad",
    "GLDSample",
    "GLDMoveCamera",
    "GLDMakeSplats",
    "GLDVideoCameras",
    "GLDLoadBackbone",
    "GLDLoadDiffusionModel",
    "GLDLoadScene",
    "GLDEstimateCameras",
    "GLDSetCameras",
    "GLDPlaceCameras",
    "GLDPreviewCameras",
    "GLDLoadCameras",
    "GLDSaveCameras",
    "GLDEncodeViews",
    "GLDSampleLevel1",
    "GLDCascadeLevel0",
    "GLDConditioning",
    "GLDScheduler",
    "GLDFast",
    "GLDDecodeRGB",
    "GLDDecodeDepth",
    "GLDOrderViews",
    "GLDCheckDepth",
    "GLDEvaluateViews",
    "GLDExportGLB",
    "GLDExportPLY",
    "GLDExportDataset",
]


def test_it_loads_without_a_warning(server):
    log = server.log().split("To see the GUI")[0]
    assert re.findall(r"[\d.]+ seconds(.*): .*/custom_nodes/gld\b", log) == [""]
    assert not [line for line in log.splitlines() if "gld" in line.lower() and ("WARN" in line or "ERROR" in line)]


def test_all_nodes_are_there(server):
    info = server.get("/object_info")
    assert [name for name in NODES if name not in info] == []
    assert sorted(name for name in info if name.startswith("GLD")) == sorted(NODES)


@pytest.mark.parametrize("name", NODES)
def test_a_node_explains_itself(server, name):
    info = server.get(f"/object_info/{name}")[name]
    assert info["display_name"] != name and "GLD" in info["display_name"]
    assert info["description"] and info["search_aliases"] and info["category"].startswith("GLD")
    page = server.get_text(f"/extensions/gld/docs/{name}.md")
    assert page.startswith(f"# {info['display_name']}\n")
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    for words in [*inputs, *info["output_name"]]:
        assert f"`{words}`" in page, f"{name}.md does not say what {words} is"


def test_templates_list_the_workflows(server):
    templates = server.get("/workflow_templates")
    shipped = sorted(path.stem for path in (ROOT / "workflows").glob("*.json") if not path.stem.endswith("_api"))
    assert set(shipped) <= set(templates["gld"])
    assert all((ROOT / "workflows" / f"{name}.jpg").is_file() for name in shipped)
