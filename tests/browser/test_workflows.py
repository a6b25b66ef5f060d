"""The real web page in headless Chromium: shipped workflows load, are the shipped API form, and run by button."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = ROOT / "workflows"
BLUEPRINT = "Novel views from photographs"


@pytest.fixture(scope="module")
def page(open_page):
    return open_page()


@pytest.fixture(scope="module")
def newest_page(newest_server, open_page):
    return open_page(newest_server.url)


def load(page, name: str) -> dict:
    """Load a shipped workflow; the API form that the page makes of it."""
    page.evaluate("app.graph.clear()")
    page.evaluate(
        "data => app.loadGraphData(data)", json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    )
    page.wait_for_timeout(1000)
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    # The page's own widget on 3D viewers, which no node asks for.
    for node in prompt.values():
        if node["inputs"].get("image") == "":
            del node["inputs"]["image"]
    return prompt


@pytest.mark.parametrize("frontend", ["page", "newest_page"])
@pytest.mark.parametrize("name", [path.stem for path in sorted(WORKFLOWS.glob("*.json"))])
def test_a_workflow_opens_and_is_its_api_form(request, frontend, name):
    page, errors = request.getfixturevalue(frontend), []
    page.on("pageerror", lambda error: errors.append(error))
    made = load(page, name)
    assert made == json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))
    missing = page.evaluate("app.graph.nodes.filter(n => !LiteGraph.registered_node_types[n.type]).map(n => n.type)")
    assert missing == [] and errors == []
    assert page.locator(".p-toast-message-error, .p-toast-message-warn, [role=dialog]").count() == 0


def test_it_opens_from_the_templates_dialog(page):
    page.evaluate("app.graph.clear()")
    page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_test_id("template-workflow-gld_nano_room").click()
    page.wait_for_function("app.graph.nodes.some(n => n.type === 'GLDCascadeLevel0')", timeout=20_000)
    page.get_by_test_id("dialog-overlay").wait_for(state="detached")


def test_it_opens_by_the_address_that_the_demo_names(server, open_page):
    page = open_page(f"{server.url}/?template=gld_nano_room&source=gld")
    page.wait_for_function("app.graph.nodes.some(n => n.type === 'GLDCascadeLevel0')", timeout=20_000)
    page.close()


def run_small(page, **values):
    """Press Run, with the small model, unless backbone is another, and the widgets of these names set in all nodes."""
    page.evaluate(
        """values => {
            for (const node of app.graph.nodes)
                for (const widget of node.widgets ?? []) {
                    if (widget.name in values) widget.value = values[widget.name]
                    const part = /level1|cascade/.exec(widget.value)
                    if (widget.name === 'model_name' && values.backbone === 'nano')
                        widget.value = `nano/checkpoints/da3_${part}.safetensors`
                }
        }""",
        {"backbone": "nano", "long_side": 84, **values},
    )
    page.get_by_text("Run", exact=True).first.click()


@pytest.mark.parametrize(
    "name, prefix", [("gld_nano_room", "room"), ("gld_two_views", "scene"), ("gld_two_views_vggt", "scene")]
)
def test_a_two_views_workflow_runs_by_button(page, server, name, prefix):
    """With a small size and few steps; the pictures and the mesh of the result are on the page."""
    load(page, name)
    folder = server.base / "output/GLD"
    before = len(list(folder.glob(f"{prefix}_0*.glb")))
    with page.expect_response(lambda response: "filename=gld_" in response.url, timeout=120_000) as shown:
        # Its own seed: on the small model two workflows are the same, and ComfyUI keeps what it has run.
        run_small(page, steps=3, seed=len(name))
    page.wait_for_function(
        "app.graph.nodes.filter(n => n.type === 'SaveImage').every(n => n.imgs?.length === 6)", timeout=120_000
    )
    page.wait_for_timeout(3000)
    page.screenshot(path=server.base / f"{name}.png")
    assert len(list(folder.glob(f"{prefix}_0*.glb"))) == before + 1
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
    """Four photographs, and 80 targets between them as a video; on random weights, as nano takes one photograph."""
    load(page, "gld_walkthrough")
    run_small(page, steps=1, backbone="da3")
    video = server.base / "output/GLD/walkthrough_00001_.mp4"
    for _ in range(240):
        page.wait_for_timeout(500)
        if video.exists() and video.stat().st_size:
            break
    page.wait_for_timeout(2000)
    page.screenshot(path=server.base / "walkthrough.png")
    assert frames(video) == 80


@pytest.mark.parametrize("host", ["server", "newest_server"])
def test_the_blueprint_is_in_the_node_library_and_runs(request, open_page, host):
    """One box: a photograph in; another motion than the one inside; views and a GLB out."""
    # A page of its own: one that has run a workflow shows that one's results in new nodes of the same numbers.
    page = open_page(request.getfixturevalue(host).url)
    page.evaluate("app.graph.clear()")
    page.keyboard.press("n")
    page.get_by_placeholder("Search").first.fill(BLUEPRINT)
    page.get_by_text(BLUEPRINT, exact=True).first.click()
    page.mouse.move(1400, 400)
    page.mouse.click(1400, 400)
    page.wait_for_function("app.graph.nodes.some(node => node.isSubgraphNode?.())", timeout=20_000)
    page.keyboard.press("n")
    page.evaluate(
        """() => {
            const box = app.graph.nodes[0]
            const add = type => app.graph.add(LiteGraph.createNode(type))
            const scene = add('GLDLoadScene'), views = add('SaveImage'), glb = add('SaveGLB')
            scene.widgets.find(widget => widget.name === 'scene').value = 'sample: room'
            scene.widgets.find(widget => widget.name === 'sources').value = '1'
            scene.connect(0, box, 0)
            box.connect(box.outputs.findIndex(output => output.name === 'views'), views, 0)
            box.connect(box.outputs.findIndex(output => output.name === 'glb'), glb, 0)
            const values = {motion: 'dolly', 'motion.number': 3, steps: 1, long_side: 84}
            for (const [name, value] of Object.entries(values))
                box.widgets.find(widget => widget.name === name).value = value
        }"""
    )
    page.get_by_text("Run", exact=True).first.click()
    page.wait_for_function(
        "app.graph.nodes.find(node => node.type === 'SaveImage').imgs?.length === 4", timeout=120_000
    )
    page.close()


def frames(video: Path) -> int:
    import av

    with av.open(str(video)) as container:
        return sum(1 for _ in container.decode(video=0))
