"""A folder of many large photographs costs what the chosen ones cost."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from gld_core.io.nerfstudio import write_transforms
from gld_core.synthetic.render import render_scene

VIEWS = 60


def processor_seconds(server) -> float:
    user, system = Path(f"/proc/{server.process.pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def folders(server):
    """sixty: 60 photographs of 12 megapixels with their cameras; chosen: three of them."""
    top = server.base / "input"
    images, _, cameras = render_scene(0, VIEWS, 30, 40)
    (top / "sixty").mkdir()
    (top / "chosen").mkdir()
    picture = Image.fromarray((images[0].permute(1, 2, 0) * 255).byte().numpy()).resize((4000, 3000))
    picture.save(top / "sixty/00.jpg", quality=92)
    for view in range(1, VIEWS):
        shutil.copy(top / "sixty/00.jpg", top / f"sixty/{view:02}.jpg")
    for name, views in (("sixty", list(range(VIEWS))), ("chosen", [0, 30, 45])):
        files = [{"file_path": f"{view:02}.jpg"} for view in views]
        write_transforms(top / name / "transforms.json", cameras[views], files)
        if name == "chosen":
            for file in files:
                shutil.copy(top / "sixty" / file["file_path"], top / "chosen")


def test_two_photographs_of_sixty_cost_what_two_of_three_do(server, folders):
    """And so does another target, for which the sixty are not read either."""

    def seconds(scene: str, sources: str, targets: str, long_side: int) -> float:
        inputs = {"scene": scene, "sources": sources, "targets": targets, "long_side": long_side}
        prompt = {
            "scene": {"class_type": "GLDLoadScene", "inputs": inputs},
            "see": {"class_type": "PreviewAny", "inputs": {"source": ["scene", 1]}},
        }
        before = processor_seconds(server)
        assert server.run(prompt).error is None
        return processor_seconds(server) - before

    seconds("chosen", "0, 1", "2", 504)
    few = min(seconds("chosen", "0, 1", "2", side) for side in (490, 476, 462))
    first = min(seconds("sixty", "0, 30", "45", side) for side in (490, 476, 462))
    other = min(seconds("sixty", "0, 30", str(target), 462) for target in (44, 43, 42))
    print(f"2 of 3 photographs {few:.2f} s, of {VIEWS} {first:.2f} s, with another target {other:.2f} s")
    assert max(first, other) < 1.2 * few + 0.05
