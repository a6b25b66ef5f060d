"""What the real web page shows of results, under its strict policy (`--disable-api-nodes`), and of help and search."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from tests.conftest import open_search

VIEWER = "app.graph.nodes.find(n => n.type === 'GLDExportGLB').widgets.find(w => w.name === 'preview').element"


def export_room(page, kind: str) -> None:
    """A rendered room and a node that exports it, and Run."""
    page.evaluate(
        """kind => {
            app.graph.clear()
            const add = (type, x) => {
                const node = LiteGraph.createNode(type)
                node.pos = [x, 150]
                app.graph.add(node)
                return node
            }
            const room = add('TestRoom', 0), glb = add('GLDExportGLB', 400)
            glb.size = [500, 700]
            const values = {seed: 3, views: 2, height: 84, width: 112, sources: 2, kind}
            for (const node of [room, glb])
                for (const widget of node.widgets) if (widget.name in values) widget.value = values[widget.name]
            for (const name of ['geometry', 'cameras'])
                room.connect(name === 'geometry' ? 0 : 1, glb, glb.inputs.findIndex(input => input.name === name))
        }""",
        kind,
    )
    page.get_by_text("Run", exact=True).first.click()


@pytest.mark.parametrize("host", ["server", "newest_server"])
def test_a_textured_mesh_has_its_pictures_where_the_page_forbids_blob_addresses(request, open_page, host):
    page, refused = open_page(request.getfixturevalue(host).url), []
    page.on("console", lambda message: refused.append(message.text) if "Content Security" in message.text else None)
    export_room(page, "textured mesh")
    page.wait_for_function(f"{VIEWER}.querySelector('canvas')")
    share = 0.0
    for _ in range(180):
        page.wait_for_timeout(1000)
        share = max(share, colored(page))
        if share > 0.2 or refused:
            break
    page.close()
    assert refused == []
    assert share > 0.2


def colored(page) -> float:
    """The share of the viewer's middle, where the room stands, that has a colour. White surfaces on a grey background
    have none.
    """
    box = page.evaluate(f"{VIEWER}.querySelector('canvas').getBoundingClientRect().toJSON()")
    shot = page.screenshot(clip={side: box[side] for side in ("x", "y", "width", "height")})
    pixels = np.asarray(Image.open(BytesIO(shot)).convert("RGB"), dtype=float)
    middle = np.array_split(np.array_split(pixels, 3, axis=0)[1], 3, axis=1)[1]
    return (np.ptp(middle, axis=2) > 30).mean()


def test_help_pages_fit_into_the_panel(open_page):
    """At its own width, in which the page cuts off what is wider. Blocks of code scroll."""
    page = open_page(viewport={"width": 1600, "height": 900})
    names = page.evaluate("Object.keys(LiteGraph.registered_node_types).filter(name => name.startsWith('GLD'))")
    assert len(names) > 20
    cut = {}
    for name in names:
        page.evaluate(
            """name => {
                app.graph.clear()
                const node = LiteGraph.createNode(name)
                node.pos = [700, 200]
                app.graph.add(node)
                app.canvas.selectNode(node)
            }""",
            name,
        )
        panel = page.locator(".node-help-content")
        if not panel.count():
            page.get_by_test_id("info-button").first.click()
        title = page.evaluate("LiteGraph.registered_node_types[app.graph.nodes[0].type].title")
        panel.locator("h1", has_text=title).wait_for()
        cut[name] = panel.evaluate(
            """panel => [...panel.querySelectorAll('table, p, li')].filter(part =>
                part.scrollWidth > part.clientWidth + 1 || part.getBoundingClientRect().right >
                panel.getBoundingClientRect().right + 1).map(part => part.textContent.trim().slice(0, 60))"""
        )
    page.close()
    assert {name: parts for name, parts in cut.items() if parts} == {}


WORDS = ("photogrammetry", "camera trajectory", "new angle", "turntable", "3d from photo", "parallax", "gaussian")


def test_the_search_finds_the_nodes_by_what_they_are_for(open_page):
    page = open_page(viewport={"width": 1600, "height": 900})
    page.evaluate("app.graph.clear()")
    open_search(page, 900, 500)
    found = page.get_by_role("option").filter(has_text="GLD")
    for word in WORDS:
        page.get_by_placeholder("Add a node").fill(word)
        found.first.wait_for()
        # What no node is for clears the list for the next word.
        page.get_by_placeholder("Add a node").fill("rotisserie chicken")
        found.first.wait_for(state="detached")
    page.close()
