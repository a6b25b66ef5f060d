#!/usr/bin/env python3
"""Writes again what the repository keeps of the nodes as they are in a real ComfyUI.

    .venv/bin/python tests/regenerate.py workflows [NAME ...]   after a change of a node's inputs or outputs
    .venv/bin/python tests/regenerate.py pictures [NAME ...]    after a change of what a workflow looks like or makes
    .venv/bin/python tests/regenerate.py english                after a changed text has been translated in locales/
    .venv/bin/python tests/regenerate.py pages                  after a changed text: the tables in web/docs

workflows: loads each workflow into the real page and takes its widgets, sockets and API form from there. Needs Chromium
(CHROMIUM names its executable). The graph's layout, notes and groups stay.
pictures: runs each workflow with the small model, and makes the picture that Templates shows of what goes in and out.
pages: the tables of inputs and outputs in the help pages, which say what the tooltips say.
english: tests/host/english.json, the English that the translations in locales/ are of.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/browser"), str(ROOT / "tests/host")]

from conftest import Server, make_base, open_pages  # noqa: E402
from PIL import Image, ImageDraw, ImageFont  # noqa: E402
from test_texts import ENGLISH, TABLE, english_texts, help_tables  # noqa: E402
from test_workflows import WORKFLOWS, load  # noqa: E402

from gld_core.synthetic.random_models import write_random_models  # noqa: E402


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
    photographs = server.base / "input" / "photographs"
    photographs.mkdir()
    for name in ("room_1.jpg", "room_2.jpg"):
        shutil.copy(WORKFLOWS / "inputs/room" / name, photographs)
    Image.open(WORKFLOWS / "inputs/room/room_2.jpg").save(server.base / "input" / "example.png")
    for name in names:
        picture = results(server, name)
        picture.save(WORKFLOWS / f"{name}.jpg", quality=85)
        print(WORKFLOWS / f"{name}.jpg", picture.size)


def results(server: Server, name: str) -> Image.Image:
    """What a workflow gets beside what it makes: the photographs, some of the new views, their depth."""
    prompt = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))
    node = {value["class_type"]: key for key, value in prompt.items()}
    shown = {
        "photographs": prompt[node["GLDEncodeViews"]]["inputs"]["images"],
        "new views": [node["GLDDecodeRGB"], 0],
    }
    if "GLDDecodeDepth" in node:
        shown["depth"] = [node["GLDDecodeDepth"], 1]
    for label, link in shown.items():
        prompt[label] = {"class_type": "PreviewImage", "inputs": {"images": link}}
    result = server.run(prompt)
    made = {label: [Image.open(path).convert("RGB") for path in result.files(label)] for label in shown}
    sources = len(made["photographs"]) if "GLDLoadScene" in node else 1
    rows = {"photographs": made.pop("photographs")[:sources]}
    for label, images in made.items():
        targets = images[sources:]
        rows[label] = [targets[round(i * (len(targets) - 1) / 2)] for i in range(3)]
    return sheet(rows)


def sheet(rows: dict[str, list[Image.Image]], width: int = 280) -> Image.Image:
    """The first row as a column at the left, the others as rows beside it, each below its name."""
    (first, column), *others = rows.items()
    height = round(width * column[0].height / column[0].width)
    lines = max(len(column), len(others))
    page = Image.new("RGB", (60 + 4 * (width + 10), 20 + lines * (height + 40)), (24, 24, 28))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(20)

    def place(image: Image.Image, x: int, y: int) -> None:
        page.paste(image.resize((width, height), Image.Resampling.BICUBIC), (x, y))

    draw.text((15, 10), first, (235, 235, 235), font)
    for line, image in enumerate(column):
        place(image, 15, 40 + line * (height + 40))
    for line, (label, images) in enumerate(others):
        draw.text((width + 55, 10 + line * (height + 40)), label, (235, 235, 235), font)
        for place_in_row, image in enumerate(images):
            place(image, width + 55 + place_in_row * (width + 10), 40 + line * (height + 40))
    return page


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
        server = Server(make_base(Path(scratch, "base"), models), "--cpu", "--disable-api-nodes")
        try:
            if sys.argv[1] in ("english", "pages"):
                {"english": english, "pages": pages}[sys.argv[1]](server)
            else:
                {"workflows": workflows, "pictures": pictures}[sys.argv[1]](server, names)
        finally:
            server.close()


if __name__ == "__main__":
    main()
