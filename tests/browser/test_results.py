"""What the real web page shows of results, under the page's strict policy (`--disable-api-nodes`)."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

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
    page.wait_for_function(f"{VIEWER}.querySelector('canvas')", timeout=60_000)
    page.wait_for_timeout(4000)
    box = page.evaluate(f"{VIEWER}.querySelector('canvas').getBoundingClientRect().toJSON()")
    box = {side: box[side] for side in ("x", "y", "width", "height")}
    shot = np.asarray(Image.open(BytesIO(page.screenshot(clip=box))).convert("RGB"), dtype=float)
    page.close()
    assert refused == []
    # In the middle, where the room stands. White surfaces on a grey background have no colour anywhere.
    middle = np.array_split(np.array_split(shot, 3, axis=0)[1], 3, axis=1)[1]
    assert (np.ptp(middle, axis=2) > 30).mean() > 0.2
