"""The real web page in headless Chromium: shipped workflows load, are the shipped API form, and run by button."""

import json
import os
import shutil
from pathlib import Path

import pytest

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-unsafe-swiftshader",
]


@pytest.fixture(scope="module")
def page(server):
    from playwright.sync_api import sync_playwright

    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert executable, "no Chromium found: install it, or set CHROMIUM to its executable"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        page = browser.new_page(viewport={"width": 2400, "height": 1150})
        page.goto(server.url)
        page.wait_for_function(
            "!!(window.app?.graph && window.LiteGraph?.registered_node_types?.GLDDecodeRGB)", timeout=120_000
        )
        page.wait_for_timeout(3000)
        yield page
        browser.close()


def load(page, name: str) -> dict:
    """Load a shipped workflow; the API form that the page makes of it."""
    page.evaluate("app.graph.clear()")
    page.evaluate("data => app.loadGraphData(data)", json.loads((WORKFLOWS / f"{name}.json").read_text()))
    page.wait_for_timeout(1000)
    return page.evaluate("async () => (await app.graphToPrompt()).output")


@pytest.mark.parametrize("name", [path.stem for path in sorted(WORKFLOWS.glob("*.json"))])
def test_a_workflow_is_its_api_form(page, name):
    made = load(page, name)
    assert made == json.loads((WORKFLOWS / "api" / f"{name}.json").read_text())
    missing = page.evaluate("app.graph.nodes.filter(n => !LiteGraph.registered_node_types[n.type]).map(n => n.type)")
    assert missing == []


def test_it_opens_from_the_templates_dialog(page):
    page.evaluate("app.graph.clear()")
    page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_test_id("template-workflow-gld_two_views").click()
    page.wait_for_function("app.graph.nodes.some(n => n.type === 'GLDCascadeLevel0')", timeout=20_000)
    page.get_by_test_id("dialog-overlay").wait_for(state="detached")


def run_small(page, **values):
    """Press Run, with the widgets of these names set in all nodes."""
    page.evaluate(
        """values => {
            for (const node of app.graph.nodes)
                for (const widget of node.widgets ?? [])
                    if (widget.name in values) widget.value = values[widget.name]
        }""",
        {"long_side": 84, **values},
    )
    page.get_by_text("Run", exact=True).first.click()


def test_the_two_views_workflow_runs_by_button(page, server):
    """With a small size and few steps; the pictures and the mesh of the result are on the page."""
    load(page, "gld_two_views")
    with page.expect_response(lambda response: "filename=gld_" in response.url, timeout=120_000) as shown:
        run_small(page, steps=3)
    page.wait_for_function(
        "app.graph.nodes.filter(n => n.type === 'SaveImage').every(n => n.imgs?.length === 6)", timeout=120_000
    )
    page.wait_for_timeout(3000)
    page.screenshot(path=server.base / "two_views.png")
    assert sorted(path.name for path in (server.base / "output/GLD").iterdir())[-1].startswith("views_")
    assert list((server.base / "output/GLD").glob("scene_*.glb"))
    assert shown.value.ok
    assert page.evaluate(
        "app.graph.nodes.find(n => n.type === 'GLDExportGLB').widgets.at(-1).element.querySelectorAll('canvas').length"
    )


def test_the_photo_orbit_workflow_runs_by_button(page, server):
    """One photograph without a camera: the plan of its orbit is on the node, the path in the 3D view."""
    load(page, "gld_photo_orbit")
    run_small(page, steps=2)
    page.wait_for_function(
        "app.graph.nodes.filter(n => n.type === 'SaveImage').every(n => n.imgs?.length === 8)", timeout=120_000
    )
    assert page.evaluate("app.graph.nodes.find(n => n.type === 'GLDPreviewCameras').imgs.length") == 1
    page.wait_for_timeout(3000)
    page.screenshot(path=server.base / "photo_orbit.png")
    assert [path for path in (server.base / "output").iterdir() if path.suffix == ".glb"]


def test_the_walkthrough_workflow_runs_by_button(page, server):
    """Four photographs, and 80 targets between them as a video."""
    load(page, "gld_walkthrough")
    run_small(page, steps=1)
    video = server.base / "output/GLD/walkthrough_00001_.mp4"
    for _ in range(240):
        page.wait_for_timeout(500)
        if video.exists() and video.stat().st_size:
            break
    page.wait_for_timeout(2000)
    page.screenshot(path=server.base / "walkthrough.png")
    assert frames(video) == 80


def frames(video: Path) -> int:
    import av

    with av.open(str(video)) as container:
        return sum(1 for _ in container.decode(video=0))
