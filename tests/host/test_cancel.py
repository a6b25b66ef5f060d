"""Cancelling: every node looks often whether the user wants it, and stops there with nothing left."""

import json

import pytest
from PIL import Image

from gld_core.io.nerfstudio import write_transforms
from gld_core.synthetic.render import render_scene

# Processor time between two looks, by that of the test nodes' piece of work: a second where it takes 0.4 s.
MOST = 2.5
SIZE = {"height": 336, "width": 504}
SELECTION = {"min_confidence": 1.0, "keep_at_least": 0.0, "confirmed_by": 3}
EXPORTED = {**SELECTION, "geometry": ["room", 0], "cameras": ["room", 1], "max_points": 20_000}
ROOM = {"geometry": ["room", 0], "cameras": ["room", 1]}
KEYS = [{"position": [2.5, 3.1, 1.4], "rotation": [-0.19, -0.755, 0.609, 0.153], "views": 12}] * 2


def node(kind: str, /, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def long_work(number: int) -> dict:
    """A prompt with every node at work that takes long, or as much of it as it takes; another number is other work."""
    room = node("TestRoom", seed=3, views=8, sources=2, broken=False, **SIZE)
    sampling = {"steps": 3, "cfg": 1.5 + number / 10, "sampler_name": "euler", "scheduler": "gld", "shift": 0.0}
    decoded = {"backbone": ["backbone", 0], "views": ["views", 0], "level1": ["level1", 0], "level0": ["level0", 0]}
    orbit = {"degrees": 30.0 + number, "number": 1000, "ease": "none", "first_is_source": False, "source": 0}
    return {
        "room": room,
        "all": node("GLDLoad", family="nano", download=False, weight_dtype=("fp32", "bf16")[number]),
        "backbone": node("GLDLoadBackbone", backbone="da3", weight_dtype=("fp32", "bf16")[number], download=False),
        "model1": node(
            "GLDLoadDiffusionModel",
            model_name="checkpoints/da3_level1.pt",
            weight_dtype=("fp32", "bf16")[number],
            download=False,
        ),
        "model0": node(
            "GLDLoadDiffusionModel", model_name="checkpoints/da3_cascade.pt", weight_dtype="fp32", download=False
        ),
        "scene": node("GLDLoadScene", scene="large", sources="0-3", targets="4, 5", long_side=504 - 14 * number),
        "estimate": node(
            "GLDEstimateCameras", backbone=["backbone", 0], images=["big", 0], long_side=504, fov=float(number)
        ),
        "big": node("EmptyImage", width=4000, height=3000, batch_size=4, color=0),
        "load": node(
            "GLDLoadCameras",
            **{"source": "json", "source.text": example(20), "views": "", "long_side": 504 - 14 * number},
            images=["many", 0],
        ),
        "many": node("EmptyImage", width=4000, height=3000, batch_size=4, color=0),
        "motion": node(
            "GLDSetCameras", cameras=["room", 1], sources=2, motion="orbit", **{f"motion.{k}": orbit[k] for k in orbit}
        ),
        "move": node("GLDMoveCamera", cameras=["room", 1], motion="orbit", amount=1.0 + number, number=1000),
        "path": node("GLDSetCameras", cameras=["room", 1], sources=2, motion="truck", **{"motion.number": 24}),
        "place": node(
            "GLDPlaceCameras", **ROOM, sources=0, min_confidence=1.0 + number / 10, path={"version": 1, "keys": KEYS}
        ),
        "preview": node(
            "GLDPreviewCameras",
            cameras=["path", 0],
            geometry=["room", 0],
            sources=2,
            min_confidence=1.0,
            max_points=1000 + 1000 * number,
        ),
        "save cameras": node(
            "GLDSaveCameras",
            cameras=["motion", 0],
            filename_prefix="cancelled/cameras",
            format="COLMAP text",
            view=number,
        ),
        "room image": node("GLDLoadScene", scene="room", sources="2", targets="", long_side=168),
        "views": node("GLDEncodeViews", backbone=["backbone", 0], images=["room image", 0], cameras=["room image", 1]),
        "level1": node("GLDSampleLevel1", model=["model1", 0], views=["views", 0], seed=0, **sampling),
        "level0": node(
            "GLDCascadeLevel0", model=["model0", 0], views=["views", 0], level1=["level1", 0], seed=0, **sampling
        ),
        "sample": node(
            "GLDSample",
            views=["views", 0],
            level1_model=["model1", 0],
            level0_model=["model0", 0],
            quality="quick",
            seed=0,
            **sampling,
        ),
        "conditioning": node("GLDConditioning", views=["views", 0]),
        "scheduler": node("GLDScheduler", model=["model1", 0], latent=["conditioning", 2], steps=1000, shift=0.0),
        "fast": node("GLDFast", model=["model1", 0], guidance_from=0.0, guidance_to=0.9, share=2 + number),
        "rgb": node("GLDDecodeRGB", **decoded),
        "depth": node("GLDDecodeDepth", **decoded, images=["rgb", 0]),
        "order": node("GLDOrderViews", images=["rgb", 0], views=["views", 0], sources="woven in", fps=12.0 + number),
        "check": node("GLDCheckDepth", **ROOM, tolerance=0.02 + number / 100),
        "evaluate": node("GLDEvaluateViews", images=["many small", 0], truth=["many small", 0]),
        "many small": node("EmptyImage", batch_size=24, color=number, **SIZE),
        **{
            kind: node("GLDExportGLB", **EXPORTED, kind=kind, **{"kind.voxel": 0.0}, show_cameras=bool(number))
            for kind in ("mesh", "textured mesh", "points", "released points")
        },
        "ply": node("GLDExportPLY", **EXPORTED, voxel=0.0, axes=("upright", "cameras")[number]),
        **{
            format: node(
                "GLDExportDataset",
                **{**EXPORTED, "max_points": 20_000 + number},
                format=format,
                filename_prefix="cancelled/set",
                **{"format.binary": True},
            )
            for format in ("nerfstudio", "COLMAP")
        },
        "video": node(
            "GLDVideoCameras",
            cameras=["path", 0],
            geometry=["room", 0],
            width=832,
            height=480,
            length=81,
            translation=1.0 + number,
            sources=2,
            min_confidence=1.0,
        ),
        "splats": node("GLDMakeSplats", **ROOM, **SELECTION, max_splats=100_000 + number, steps=4),
    }


def example(views: int) -> str:
    pose = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    return json.dumps(
        {"width": 4000, "height": 3000, "K": [[3000, 0, 2000], [0, 3000, 1500], [0, 0, 1]], "c2w": [pose] * views}
    )


# Not these parts of the prompt, whose nodes are at more work elsewhere in it.
SMALL = ("room image", "path", "model0")
LONGEST = {name: value["class_type"] for name, value in long_work(0).items() if value["class_type"].startswith("GLD")}
LONGEST = {name: kind for name, kind in LONGEST.items() if name not in SMALL}


@pytest.fixture(scope="module")
def large(server):
    """Eight photographs of 12 megapixels with their cameras."""
    folder = server.base / "input/large"
    folder.mkdir()
    images, _, cameras = render_scene(0, 8, 300, 400)
    picture = Image.fromarray((images[0].permute(1, 2, 0) * 255).byte().numpy()).resize((4000, 3000))
    picture.save(folder / "0.jpg", quality=90)
    data = (folder / "0.jpg").read_bytes()
    for view in range(8):
        (folder / f"{view}.jpg").write_bytes(data)
    write_transforms(folder / "transforms.json", cameras, [{"file_path": f"{view}.jpg"} for view in range(8)])


def left_behind(server) -> list:
    return [path for top in ("output", "temp") for path in (server.base / top).rglob(".*") if path.is_file()]


def test_every_node_has_long_work(server):
    every = {kind for kind, about in server.get("/object_info").items() if about["category"].startswith("GLD")}
    assert set(LONGEST.values()) == every


@pytest.mark.parametrize("name, kind", LONGEST.items())
def test_a_node_looks_often_whether_it_is_cancelled_and_stops_there(server, large, only, name, kind):
    def prompt(number: int) -> dict:
        work = long_work(number)
        work["see"] = node("PreviewAny", source=[name, 0])
        output = server.get(f"/object_info/{kind}")[kind]["output_node"]
        return only(work, name if output else "see")

    # A machine may be slow for a while: work without a look is long every time.
    for number in (0, 1, 0):
        server.post("/test/looks", {})
        result = server.run(prompt(number))
        assert result.error is None
        found = server.get("/test/looks")
        looks, longest, work = found["looks"][name], found["longest"][name], found["work"]
        print(f"{name}: {looks} looks, the longest {longest:.2f} s after the one before; a piece of work {work:.2f} s")
        if longest < MOST * work:
            break
    assert longest < MOST * work
    server.post("/test/looks", {"node": name, "at": 1 + looks // 2})
    prompt_id = server.queue(prompt(1 - number))
    server.wait(prompt_id)
    messages = dict(server.history(prompt_id)["status"]["messages"])
    assert messages["execution_interrupted"]["node_id"] == name
    assert not left_behind(server)
