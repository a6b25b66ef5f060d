#!/usr/bin/env python3
"""Writes again what the repository keeps of the nodes as they are in a real ComfyUI.

    .venv/bin/python tests/regenerate.py workflows [NAME ...]   after a change of a node's inputs or outputs
    .venv/bin/python tests/regenerate.py pictures [NAME ...]    after a change of what a workflow looks like or makes
    .venv/bin/python tests/regenerate.py english                after a changed text has been translated in locales/
    .venv/bin/python tests/regenerate.py pages                  after a changed text: the tables in web/docs

workflows: loads each workflow into the real page and takes its widgets, sockets and API form from there. Needs Chromium
(CHROMIUM names its executable). The graph's layout, notes and groups stay.
pictures: runs each workflow in the real page with the small model, and takes the picture that Templates shows.
pages: the tables of inputs and outputs in the help pages, which say what the tooltips say.
english: tests/host/english.json, the English that the translations in locales/ are of.
"""

import json
import sys
import tempfile
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/browser"), str(ROOT / "tests/host")]

from conftest import Server, make_base, open_pages  # noqa: E402
from PIL import Image  # noqa: E402
from test_texts import ENGLISH, TABLE, english_texts, help_tables  # noqa: E402
from test_workflows import WORKFLOWS, load, run_small  # noqa: E402

from gld_core.synthetic.random_models import write_random_models  # noqa: E402

# A picture shows one frame of the video: few steps do. nano takes one photograph, so this one has random weights.
PICTURED = {"gld_walkthrough": {"steps": 4, "backbone": "da3"}}
# Moves the graph below the page's own bars; how wide and high it is there, at most as wide and high as is given.
FIT = """([width, height]) => {
    const boxes = app.graph.nodes.map(node => node.getBounding())
    const left = Math.min(...boxes.map(box => box[0])), top = Math.min(...boxes.map(box => box[1]))
    const right = Math.max(...boxes.map(box => box[0] + box[2]))
    const bottom = Math.max(...boxes.map(box => box[1] + box[3]))
    const size = [right - left, bottom - top]
    const scale = Math.min(width / size[0], height / size[1])
    app.canvas.ds.scale = scale
    app.canvas.ds.offset = [80 / scale - left, 110 / scale - top]
    app.canvas.draw(true, true)
    return size.map(length => length * scale)
}"""


def workflows(server: Server, names: list[str]) -> None:
    with open_pages(server.url) as open_page:
        page = open_page()
        for name in names:
            prompt = load(page, name)
            path = WORKFLOWS / f"{name}.json"
            kept = json.loads(path.read_text(encoding="utf-8"))
            made = {node["id"]: node for node in page.evaluate("app.graph.serialize()")["nodes"]}
            for node in kept["nodes"]:
                new = made[node["id"]]
                node |= {part: new[part] for part in ("widgets_values", "inputs", "outputs") if part in new}
            path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
            (WORKFLOWS / "api" / f"{name}.json").write_text(json.dumps(prompt, indent=1) + "\n", encoding="utf-8")
            print(path)


def pictures(server: Server, names: list[str]) -> None:
    with open_pages(server.url) as open_page:
        page = open_page()
        page.add_style_tag(content=".p-toast, .minimap { display: none }")
        for name in names:
            load(page, name)
            run_small(page, **{"long_side": 126, **PICTURED.get(name, {})})
            page.wait_for_timeout(3000)
            while any(server.get("/queue").values()):
                page.wait_for_timeout(1000)
            width, height = page.evaluate(FIT, [2200, 960])
            page.wait_for_timeout(5000)
            shot = page.screenshot(clip={"x": 60, "y": 90, "width": width + 40, "height": height + 40})
            picture = Image.open(BytesIO(shot)).convert("RGB")
            picture.thumbnail((1200, 800))
            picture.save(WORKFLOWS / f"{name}.jpg", quality=80)
            print(WORKFLOWS / f"{name}.jpg")


def english(server: Server) -> None:
    nodes = {name: info for name, info in server.get("/object_info").items() if name.startswith("GLD")}
    ENGLISH.write_text(
        json.dumps(english_texts(nodes), indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    print(ENGLISH)


def pages(server: Server) -> None:
    for name, info in server.get("/object_info").items():
        if name.startswith("GLD"):
            path, tables = ROOT / "web/docs" / f"{name}.md", iter(help_tables(info))
            text = TABLE.sub(lambda _, tables=tables: next(tables), path.read_text(encoding="utf-8"))
            path.write_text(text, encoding="utf-8")
            print(path)


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in ("workflows", "pictures", "english", "pages"):
        sys.exit(__doc__)
    names = sys.argv[2:] or sorted(path.stem for path in WORKFLOWS.glob("*.json"))
    with tempfile.TemporaryDirectory() as scratch:
        models = Path(scratch, "models")
        write_random_models(models)
        server = Server(make_base(Path(scratch, "base"), models), "--cpu")
        try:
            if sys.argv[1] in ("english", "pages"):
                {"english": english, "pages": pages}[sys.argv[1]](server)
            else:
                {"workflows": workflows, "pictures": pictures}[sys.argv[1]](server, names)
        finally:
            server.close()


if __name__ == "__main__":
    main()
