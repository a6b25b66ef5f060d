"""A folder of many large photographs costs what the chosen ones cost."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from gld_core.io.nerfstudio import write_transforms
from gld_core.synthetic.render import render_scene

VIEWS = 60


def bytes_read(server) -> int:
    """By the server since it was started."""
    return int(Path(f"/proc/{server.process.pid}/io").read_text(encoding="utf-8").split("rchar:")[1].split()[0])


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

    def read(scene: str, sources: str, targets: str) -> int:
        inputs = {"scene": scene, "sources": sources, "targets": targets, "long_side": 490}
        prompt = {
            "scene": {"class_type": "GLDLoadScene", "inputs": inputs},
            "see": {"class_type": "PreviewAny", "inputs": {"source": ["scene", 1]}},
        }
        before = bytes_read(server)
        assert server.run(prompt).error is None
        return bytes_read(server) - before

    read("chosen", "0, 1", "2")
    few, first = read("chosen", "0, 2", "1"), read("sixty", "0, 30", "45")
    other = read("sixty", "0, 30", "44")
    print(f"2 of 3 photographs {few} bytes, of {VIEWS} {first}, with another target {other}")
    one = (server.base / "input/sixty/00.jpg").stat().st_size
    assert few > one and max(first, other) < few + one / 4
