"""Cameras through the nodes: estimated, moved, read, written, checked, and pictured."""

import inspect
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gld_core.cameras import Cameras, motions
from gld_core.geometry.depth_maps import PosedDepth, usable
from gld_core.geometry.reprojection import reproject
from gld_core.io.cameras import read_cameras, read_scene
from gld_core.io.colmap import write_colmap
from gld_core.io.images import fit, read_image, to_bytes, write_png
from gld_core.io.matrices import parse_matrices
from gld_core.io.scenes import choose_views

CUBE = Path(__file__).resolve().parents[1] / "core" / "data" / "cube"


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def save(cameras: list, **inputs) -> dict:
    settings = {"filename_prefix": "GLD/cameras", "format": "transforms.json", "view": 0} | inputs
    return node("GLDSaveCameras", cameras=cameras, **settings)


def show(link: list) -> dict:
    return node("PreviewAny", source=link)


def load(**inputs) -> dict:
    """GLDLoadCameras; of the source's own inputs the names are given without 'source.'."""
    own = {"views": "", "long_side": 0} | {
        name: inputs.pop(name) for name in ("views", "long_side", "images") if name in inputs
    }
    source = inputs.pop("source")
    return node("GLDLoadCameras", source=source, **own, **{f"source.{name}": value for name, value in inputs.items()})


def load_json(content: dict, **inputs) -> dict:
    return load(source="json", text=json.dumps(content), **inputs)


def from_file(path: str, **inputs) -> dict:
    return load(source="file", path=path, **({"width": 0, "height": 0, "ignore_distortion": False} | inputs))


def set_cameras(cameras: list, motion: str, geometry: list | None = None, **inputs) -> dict:
    """GLDSetCameras; of the motion's own inputs the names are given without 'motion.'."""
    if motion != "views":
        inputs = {"number": 5, "ease": "none"} | inputs
    if motion not in ("views", "interpolate"):
        inputs = {"source": 0} | inputs
    if motion != "views":
        inputs = {"first_is_source": False} | inputs
    if motion in ("interpolate", "keyframes"):
        inputs = {"closed": False} | inputs
    given = {} if geometry is None else {"geometry": geometry}
    own = {f"motion.{name}": value for name, value in inputs.items()}
    return node("GLDSetCameras", cameras=cameras, sources=0, motion=motion, **own, **given)


@pytest.fixture
def saved(server):
    """saved(prompt, name, ...) -> the cameras that its GLDSaveCameras nodes of these names wrote."""

    def run(prompt: dict, *names: str) -> list[Cameras]:
        shows = {f"path of {name}": show([name, 1]) for name in names}
        result = server.run(prompt | shows)
        assert result.error is None, result.error
        return [read_cameras(result.history["outputs"][f"path of {name}"]["text"][0])[0] for name in names]

    return run


@pytest.fixture
def error(server):
    def run(prompt: dict) -> str:
        found = server.run(prompt).error
        assert found, "the prompt ran to its end"
        return found.strip()

    return run


def same(found: Cameras, meant: Cameras, tolerance: float = 1e-6) -> bool:
    size = (found.height, found.width) == (meant.height, meant.width)
    poses = torch.allclose(found.c2w, meant.c2w, rtol=0, atol=tolerance * max(1.0, float(meant.c2w.abs().max())))
    return size and poses and torch.allclose(found.K, meant.K, rtol=tolerance, atol=1e-4)


# Photographs without cameras


@pytest.fixture
def photographs(server, scene):
    """Two photographs of 150x100 in the input folder; (2, 3, 100, 150)."""
    images = read_scene(scene, 84).photographs([0, 3])
    images = torch.nn.functional.interpolate(images, (100, 150), mode="bilinear")
    for number, image in enumerate(images):
        write_png(server.base / "input" / f"photo{number}.png", image)
    return (images * 255).round() / 255


@pytest.fixture
def estimate(graph, only, photographs):
    """estimate(photographs, ...) -> a prompt with the node 'estimate'."""

    def build(count: int, long_side: int = 84, fov: float = 0.0) -> dict:
        prompt = only(graph(), "backbone")
        for number in range(count):
            prompt[f"photo {number}"] = node("LoadImage", image=f"photo{number}.png")
        images = {f"images.image{number}": [f"photo {number}", 0] for number in range(count)}
        prompt["photos"] = node("BatchImagesNode", **images)
        settings = {"long_side": long_side, "fov": fov}
        prompt["estimate"] = node("GLDEstimateCameras", backbone=["backbone", 0], images=["photos", 0], **settings)
        return prompt

    return build


@pytest.mark.parametrize("count", [1, 2])
def test_photographs_of_any_size_get_the_cores_cameras(saved, estimate, core, photographs, count):
    found = saved(estimate(count) | {"save": save(["estimate", 0])}, "save")[0]
    middle = torch.tensor([[1.0, 0, 75], [0, 1, 50], [0, 0, 1]])
    fitted = torch.stack([fit(image, middle, 56, 84)[0] for image in photographs[:count]])
    assert same(found, core.estimate_cameras(fitted), 1e-4)


def test_the_field_of_view_may_be_given(saved, estimate):
    plain, given = (saved(estimate(2, fov=fov) | {"save": save(["estimate", 0])}, "save")[0] for fov in (0.0, 60.0))
    assert torch.allclose(2 * torch.atan(42 / given.K[:, 0, 0]), torch.tensor(math.pi / 3))
    assert torch.equal(given.K[:, 0, 0], given.K[:, 1, 1]) and torch.allclose(given.c2w, plain.c2w)


def test_the_estimate_says_how_sure_it_is(server, estimate):
    prompt = estimate(2) | {"number": show(["estimate", 3]), "text": show(["estimate", 4])}
    outputs = server.run(prompt).history["outputs"]
    report = outputs["text"]["text"][0]
    medians = [float(number) for number in re.findall(r"confidence ([\d.]+)", report)]
    assert float(outputs["number"]["text"][0]) == pytest.approx(min(medians), abs=0.006)
    assert medians[0] != medians[1] and min(medians) >= 1
    assert report.startswith("photograph 0: ") and "photograph 1: " in report
    assert "degrees across, confidence " in report and "confirmed by another photograph" in report


def test_an_orbit_from_one_photograph(server, graph, only, estimate):
    """Estimated camera, depth and fitted photograph drive the whole graph; another orbit gives other views."""
    latents = []
    for degrees in (20.0, 40.0):
        prompt = graph() | estimate(1)
        prompt["set"] = set_cameras(["estimate", 0], "orbit", ["estimate", 2], degrees=degrees)
        prompt["views"]["inputs"] |= {"images": ["estimate", 1], "cameras": ["set", 0]}
        result = server.run(only(prompt, "save rgb", "save level1"))
        assert len(result.files("save rgb")) == 6
        latents.append(result.latent("save level1"))
    assert (latents[0] - latents[1]).norm() > 1e-3 * latents[0].norm()


# Where to look


SETTINGS = {
    "orbit": {"degrees": 90.0},
    "arc": {"degrees": 30.0, "elevation": 10.0},
    "spiral": {"radius": 0.2, "turns": 2.0, "advance": 0.3},
    "lemniscate": {"width": 0.2},
    "dolly": {"distance": -0.3},
    "truck": {"distance": 0.3},
    "pedestal": {"distance": 0.2},
    "pan": {"degrees": 30.0},
    "tilt": {"degrees": 15.0},
    "roll": {"degrees": 30.0},
    "zoom": {"factor": 1.5},
    "dolly_zoom": {"factor": 1.5},
    "look_around": {"degrees": 20.0, "elevation": 10.0},
    "hold": {},
}


def test_every_motion_is_the_cores_with_every_setting(saved, graph, only, scene):
    assert set(SETTINGS) == set(motions.MOTIONS)
    chosen, _ = choose_views(6, 2)
    sources = read_scene(scene, 84).cameras[chosen]
    prompt, meant = only(graph(targets="1"), "scene"), {}
    more = {"number": 4, "ease": "in_out", "first_is_source": True}
    cases = [(name, values) for name, values in SETTINGS.items()] + [("interpolate", {"closed": True})]
    for name, values in cases:
        start = {} if name == "interpolate" else {"source": 1}
        prompt[name] = set_cameras(["scene", 1], name, **values, **more, **start)
        prompt[name]["inputs"]["sources"] = 2
        prompt[f"save {name}"] = save([name, 0])
        plain = {"loop": True} if name == "interpolate" else values
        settings = {"ease": "in_out", "first_is_source": True, "base": start.get("source", 0), **plain}
        meant[name] = motions.join(sources, motions.targets(sources, name, 4, **settings))
    found = saved(prompt, *(f"save {name}" for name, _ in cases))
    for (name, _), cameras in zip(cases, found, strict=True):
        assert same(cameras, meant[name], 1e-5), name


def test_a_motion_leaves_out_settings_and_ignores_those_of_others(saved, graph, only, scene):
    """As on a subgraph's box, where another motion is chosen but the settings stay those of the one inside."""
    chosen, _ = choose_views(6, 2)
    sources = read_scene(scene, 84).cameras[chosen]
    prompt = only(graph(targets="1"), "scene")
    names = [*motions.MOTIONS, "interpolate"]
    for name in names:
        own = {"motion.number": 4, "motion.degrees": 20.0, "motion.elevation": 0.0, "motion.source": 0}
        prompt[name] = node("GLDSetCameras", cameras=["scene", 1], sources=2, motion=name, **own)
        prompt[f"save {name}"] = save([name, 0])
    for name, cameras in zip(names, saved(prompt, *(f"save {name}" for name in names)), strict=True):
        known = inspect.signature(motions.MOTIONS[name]).parameters if name in motions.MOTIONS else ()
        settings = {key: value for key, value in {"degrees": 20.0, "elevation": 0.0}.items() if key in known}
        assert same(cameras, motions.join(sources, motions.targets(sources, name, 4, **settings)), 1e-5), name


def test_distances_are_shares_of_the_geometrys_depth(server, saved, estimate):
    prompt = estimate(1)
    settings = {"number": 1, "distance": 0.5}
    prompt["set"] = set_cameras(["estimate", 0], "dolly", ["estimate", 2], **settings)
    prompt["save"] = save(["set", 0])
    found = saved(prompt, "save")[0]
    prompt["set"] = set_cameras(["estimate", 0], "dolly", **settings)
    without = saved(prompt, "save")[0]
    moved, plain = ((cameras.c2w[1] - cameras.c2w[0])[:3, 3].norm().item() for cameras in (found, without))
    assert plain == pytest.approx(0.5, rel=1e-4) and abs(moved - plain) > 1e-3


def test_geometry_is_brought_to_the_units_of_the_cameras(saved, estimate):
    """The same two photographs with cameras in units ten times smaller: a dolly goes ten times as far."""
    prompt = estimate(2)
    cameras = saved(prompt | {"save": save(["estimate", 0])}, "save")[0]
    c2w = cameras.c2w.clone()
    c2w[:, :3, 3] *= 10
    size = {"width": cameras.width, "height": cameras.height}
    prompt["load"] = load_json({"c2w": c2w.tolist(), "K": cameras.K.tolist(), **size})
    for name in ("estimate", "load"):
        prompt[f"set {name}"] = set_cameras([name, 0], "dolly", ["estimate", 2], number=1, distance=0.5)
        prompt[f"save {name}"] = save([f"set {name}", 0])
    steps = [(c.c2w[2] - c.c2w[0])[:3, 3].norm().item() for c in saved(prompt, "save estimate", "save load")]
    assert steps[1] == pytest.approx(10 * steps[0], rel=1e-3)


def test_keyframes_are_cameras_of_any_kind(saved, graph, only, scene):
    """The last keyframe goes through ComfyUI's own 3D camera; as many targets as keys are the keys."""
    prompt = only(graph(targets="1"), "scene")
    prompt["keys"] = node("GLDLoadScene", scene="room", sources="2, 3", targets="4", long_side=84)
    # The 3D camera belongs to a preview whose first camera is the sources' first.
    prompt["seen"] = set_cameras(["scene", 1], "views", targets=["keys", 1], views="1-2")
    prompt["info"] = save(["seen", 0], view=4)
    values = {"keyframes.keyframe0": ["keys", 1], "keyframes.keyframe1": ["info", 0], "number": 4}
    prompt["set"] = set_cameras(["scene", 1], "keyframes", **values)
    prompt["save"] = save(["set", 0])
    found = saved(prompt, "save")[0]
    cameras = read_scene(scene, 84).cameras
    assert same(found[3:], cameras[[2, 3, 4, 4]], 1e-5)


@pytest.mark.parametrize("lens, focal", [("source", 1.0), ("3D view", None)])
def test_a_3d_view_as_keyframe_has_the_sources_lens_unless_told_otherwise(saved, graph, only, lens, focal):
    prompt = only(graph(targets="1"), "scene")
    position = {"x": 0.0, "y": 0.0, "z": 1.0}
    info = {"position": position, "target": {"x": 0.0, "y": 0.0, "z": 0.0}, "fov": 20.0, "cameraType": "perspective"}
    prompt["view"] = node("TestValue", json=json.dumps(info))
    values = {"keyframes.keyframe0": ["view", 0], "number": 1}
    prompt["set"] = set_cameras(["scene", 1], "keyframes", **values, **({} if lens == "source" else {"lens": lens}))
    prompt["set"]["inputs"]["sources"] = 2
    prompt["save"] = save(["set", 0])
    found = saved(prompt, "save")[0]
    meant = found.K[0, 0, 0] if focal else found.height / 2 / math.tan(math.radians(10))
    assert found.K[2, 0, 0].item() == pytest.approx(float(meant), rel=1e-4)


@pytest.mark.parametrize("views, targets", [("2, 4", "2, 4"), ("", "0-5")])
def test_set_cameras_puts_targets_behind_sources(server, graph, only, views, targets):
    shutil.copytree(server.base / "input/room", server.base / "input/other", dirs_exist_ok=True)
    prompt = graph(sources="1,", targets="0")
    prompt["other"] = graph(scene="other", sources="0,", targets="1-5")["scene"]
    prompt["set"] = set_cameras(["scene", 1], "views", targets=["other", 1], views=views)
    prompt["set"]["inputs"]["sources"] = 1
    prompt["views"]["inputs"]["cameras"] = ["set", 0]
    found = server.run(only(prompt, "save level1")).latent("save level1")
    if views:
        meant = server.run(only(graph(sources="1,", targets=targets), "save level1")).latent("save level1")
        assert torch.equal(found, meant)
    else:
        assert found.shape[2] == 7


def test_set_cameras_names_what_is_wrong(error, graph, only):
    prompt = graph(sources="1,", targets="0")
    prompt["other"] = graph(long_side=112)["scene"]
    prompt["set"] = set_cameras(["scene", 1], "views", targets=["other", 1], views="")
    prompt["views"]["inputs"]["cameras"] = ["set", 0]
    assert "give both the same size" in error(only(prompt, "save level1"))
    prompt["set"]["inputs"]["sources"] = 9
    assert "'cameras' has only 2; lower it" in error(only(prompt, "save level1"))
    prompt["set"] = set_cameras(["scene", 1], "orbit", degrees=30.0, source=5)
    assert "no source 5 to start from" in error(only(prompt, "save level1"))


# From and to other programs


@pytest.fixture
def cube(server):
    """The cube's COLMAP models and JSON in the input folder; its cameras."""
    shutil.copytree(CUBE, server.base / "input" / "cube", dirs_exist_ok=True)
    return read_cameras(CUBE / "binary")[0]


def test_files_of_other_programs(server, saved, graph, only, cube, scene):
    lines = ["https://example.org/video"]
    for w2c, K in zip(cube.w2c.tolist(), cube.K, strict=True):
        fx, fy, cx, cy = K[0, 0] / cube.width, K[1, 1] / cube.height, K[0, 2] / cube.width, K[1, 2] / cube.height
        numbers = [f"{float(v):.9g}" for v in (fx, fy, cx, cy)] + ["0", "0"]
        lines.append(" ".join(["1000", *numbers, *(f"{v:.9g}" for row in w2c[:3] for v in row)]))
    (server.base / "input" / "path.txt").write_text("\n".join(lines), encoding="utf-8")
    prompt = {
        "binary": from_file("cube/binary"),
        "text": from_file("cube/text"),
        "realestate": from_file("path.txt", width=cube.width, height=cube.height),
        "scene": from_file("room"),
    }
    prompt |= {f"save {name}": save([name, 0]) for name in prompt}
    *cubes, room = saved(prompt, "save binary", "save text", "save realestate", "save scene")
    assert all(same(found, cube, 1e-5) for found in cubes)
    assert same(room, read_scene(scene).cameras)


@pytest.fixture
def garden(server, scene):
    """The room as a COLMAP project in the input folder, its last photograph cut short; the room as it is read."""
    folder = server.base / "input/garden"
    if not folder.exists():
        room = read_scene(scene, 84)
        files = [f"{name}.JPG" for name in room.names]
        write_colmap(folder / "sparse/0", room.cameras, files)
        for name, image in zip(files, room.photographs(range(len(room))), strict=True):
            (folder / "images").mkdir(exist_ok=True)
            Image.fromarray(to_bytes(image)).save(folder / "images" / name.lower(), quality=95)
        (folder / "images" / files[-1].lower()).write_bytes(b"cut")
        shutil.copytree(folder / "images", server.base / "input/holiday")
    return read_scene(folder, 84)


def test_a_colmap_project_is_a_scene_of_which_only_the_chosen_pictures_are_read(server, saved, garden):
    prompt = {"scene": node("GLDLoadScene", scene="garden", sources="3, 0", targets="1", long_side=84)}
    images, cameras = garden.load([3, 0], [1])
    assert same(saved(prompt | {"save": save(["scene", 1])}, "save")[0], cameras)
    prompt |= {"picture": node("SaveImage", images=["scene", 0], filename_prefix="garden")}
    result = server.run(prompt)
    assert result.error is None, result.error
    names = [image["filename"] for image in result.history["outputs"]["picture"]["images"]]
    shown = torch.stack([read_image(server.base / "output" / name) for name in names])
    assert torch.allclose(shown, images, atol=1.01 / 255)


def test_pictures_without_cameras_are_listed_and_led_to_the_node_that_estimates_them(server, error, garden):
    options = server.get("/object_info/GLDLoadScene")["GLDLoadScene"]["input"]["required"]["scene"][1]["options"]
    assert {"garden", "holiday"} <= set(options) and not [name for name in options if name.startswith("garden/")]
    prompt = {"scene": node("GLDLoadScene", scene="holiday", sources="1", targets="", long_side=84)}
    prompt["save"] = save(["scene", 1])
    assert "pictures and no cameras; estimate them (Estimate GLD Cameras)" in error(prompt)


@pytest.mark.parametrize("written", ["transforms.json", "COLMAP binary", "COLMAP text"])
def test_what_is_saved_is_loaded_again(server, saved, cube, written):
    """Lossless to 1e-6, and never over what was there before."""
    prompt = {"cube": from_file("cube/binary")}
    paths = []
    for view in (0, 1):
        prompt |= {"out": save(["cube", 0], format=written, view=view), "path": show(["out", 1])}
        paths.append(Path(server.run(prompt).history["outputs"]["path"]["text"][0]))
        assert same(read_cameras(paths[view])[0], cube)
    assert paths[0] != paths[1]
    kinds = {"transforms.json": "", "COLMAP binary": ".bin", "COLMAP text": ".txt"}
    assert {file.suffix for file in paths[0].glob("*")} <= {kinds[written]}
    paths[0].rename(server.base / "input" / paths[0].name)
    again = {"load": from_file(paths[0].name), "save": save(["load", 0])}
    assert same(saved(again, "save")[0], cube)


def test_3d_views_round_trip(saved, cube):
    prompt = {"cube": from_file("cube/binary", views="0-2")}
    for view in range(3):
        prompt[f"info {view}"] = save(["cube", 0], view=view)
    infos = {f"cameras.camera{view}": [f"info {view}", 0] for view in range(3)}
    size = {"width": cube.width, "height": cube.height}
    prompt["back"] = load(source="3D views", scene=["cube", 0], **infos, **size)
    prompt["save"] = save(["back", 0])
    assert same(saved(prompt, "save")[0], cube[:3], 2e-6)


def test_a_3d_view_starts_at_the_first_camera(server, cube):
    """Y up, looking down -Z, wherever the cameras are in their own world."""
    prompt = {"cube": from_file("cube/binary"), "info": save(["cube", 0]), "text": show(["info", 0])}
    info = json.loads(server.run(prompt).history["outputs"]["text"]["text"][0])
    assert max(map(abs, info["position"].values())) < 1e-5 and info["quaternion"]["w"] == pytest.approx(1)
    assert info["target"]["z"] < 0


def test_depth_anything_geometry_gives_its_cameras(saved, estimate):
    prompt = estimate(2) | {"load": load(source="geometry", geometry=["estimate", 2])}
    meant, found = saved(prompt | {"a": save(["estimate", 0]), "b": save(["load", 0])}, "a", "b")
    assert same(found, meant)


def test_photographs_are_fitted_with_their_cameras(server, saved, photographs):
    """Photographs of half the size that K is for; chosen views, the sources first."""
    K = [[200.0, 0, 150], [0, 200, 100], [0, 0, 1]]
    poses = [np.diag([1.0, 1, 1, 1]).tolist() for _ in range(3)]
    for view, pose in enumerate(poses):
        pose[0][3] = float(view)
    content = {"c2w": poses, "K": K, "width": 300, "height": 200}
    prompt = {"photo": node("LoadImage", image="photo0.png")}
    prompt["load"] = load_json(content, views="2, 0", images=["photo", 0], long_side=84)
    prompt |= {"save": save(["load", 0]), "pictures": node("SaveImage", images=["load", 1], filename_prefix="fitted")}
    cameras = saved(prompt, "save")[0]
    assert (len(cameras), cameras.height, cameras.width) == (2, 56, 84) and cameras.c2w[:, 0, 3].tolist() == [2, 0]
    assert torch.allclose(cameras.K[0], torch.tensor([[56.0, 0, 42], [0, 56, 28], [0, 0, 1]]), atol=0.3)
    picture = Image.open(sorted((server.base / "output").glob("fitted*.png"))[-1])
    assert picture.size == (84, 56)


IDENTITY = np.eye(4).tolist()


def poses(*changes: tuple[int, int, float]) -> list:
    """Two cameras a metre apart, the second with changed entries."""
    first, second = np.eye(4), np.eye(4)
    second[0, 3] = 1
    for row, column, value in changes:
        second[row, column] = value
    return [first.tolist(), second.tolist()]


GOOD = {"c2w": poses(), "K": [[60.0, 0, 42], [0, 60, 28], [0, 0, 1]], "width": 84, "height": 56}


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"c2w": poses((0, 0, -1.0))}, "view 1 is mirrored"),
        ({"c2w": poses((0, 1, 0.5))}, "view 1 is not orthonormal"),
        ({"K": [[120.0, 0, 84], [0, 120, 56], [0, 0, 1]]}, "K belongs to another image size"),
        ({"c2w": poses((0, 3, math.inf))}, "The pose of view 1 is not finite"),
        ({"K": [[0.0, 0, 42], [0, 60, 28], [0, 0, 1]]}, "focal length of 0"),
        ({"axes": "blender"}, "choose 'opencv' or 'opengl'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_camera_is_named(error, change, sentence):
    assert sentence in error({"load": load_json(GOOD | change), "save": save(["load", 0])})


def test_lost_poses_are_named(error, estimate):
    content = GOOD | {"c2w": [IDENTITY, IDENTITY], "K": [GOOD["K"], [[90.0, 0, 42], [0, 90, 28], [0, 0, 1]]]}
    prompt = estimate(2) | {"load": load_json(content), "set": set_cameras(["load", 0], "orbit", degrees=10.0)}
    assert "stand in one point but have different K" in error(prompt | {"save": save(["set", 0])})


def test_centimetres_among_metres_are_named(error, estimate):
    content = GOOD | {"c2w": poses((0, 3, 50_000.0))}
    prompt = estimate(1) | {"load": load_json(content)}
    prompt["set"] = set_cameras(["estimate", 0], "views", ["estimate", 2], targets=["load", 0], views="")
    assert "its translation is in another unit" in error(prompt | {"save": save(["set", 0])})


def test_camera_files_stay_in_the_input_folder(server, error):
    shutil.copytree(CUBE, server.base / "outside", dirs_exist_ok=True)
    with pytest.raises(Exception, match="not in"):
        error({"load": from_file("../outside/binary"), "save": save(["load", 0])})
    stray = {"load": load_json(GOOD), "save": save(["load", 0], filename_prefix="../../stray")}
    with pytest.raises(Exception, match="this is not in the output folder"):
        error(stray)


def test_a_link_out_of_the_input_folder_is_not_listed(server, error, tmp_path):
    """The host opens nothing outside the input folder for a prompt, links followed."""
    for folder, link in ((tmp_path, "out.txt"), (server.base / "input", "in.txt")):
        (folder / "own.txt").write_text("", encoding="utf-8")
        (server.base / "input" / link).symlink_to(folder / "own.txt")
    source = server.get("/object_info/GLDLoadCameras")["GLDLoadCameras"]["input"]["required"]["source"]
    (option,) = (option for option in source[1]["options"] if option["key"] == "file")
    names = option["inputs"]["required"]["path"][1]["options"]
    assert "in.txt" in names and "out.txt" not in names
    with pytest.raises(Exception, match="not in|link that leads out"):
        error({"load": from_file("out.txt"), "save": save(["load", 0])})


def test_depth_beside_cameras_is_not_listed_as_cameras(server):
    folder = server.base / "input" / "data set" / "depth"
    folder.mkdir(parents=True)
    np.save(folder / "view_0.npy", np.zeros((2, 2)))
    np.save(folder.parent / "poses_bounds.npy", np.zeros((1, 17)))
    source = server.get("/object_info/GLDLoadCameras")["GLDLoadCameras"]["input"]["required"]["source"]
    (option,) = (option for option in source[1]["options"] if option["key"] == "file")
    names = option["inputs"]["required"]["path"][1]["options"]
    assert [name for name in names if name.startswith("data set/")] == ["data set/poses_bounds.npy"]


# A picture of the path


def test_the_preview_shows_what_no_source_has_seen(server, estimate, core, photographs):
    prompt = estimate(2)
    prompt["set"] = set_cameras(["estimate", 0], "pan", ["estimate", 2], degrees=150.0, number=3)
    settings = {"sources": 0, "min_confidence": 1.0, "max_points": 1000}
    prompt["preview"] = node("GLDPreviewCameras", cameras=["set", 0], geometry=["estimate", 2], **settings)
    prompt["mask"] = node("MaskToImage", mask=["preview", 2])
    prompt["save mask"] = node("SaveImage", images=["mask", 0], filename_prefix="mask")
    prompt["save glb"] = node("SaveGLB", mesh=["preview", 0], filename_prefix="cameras")
    prompt["report"] = show(["preview", 3])
    prompt["save views"] = node("SaveImage", images=["preview", 4], filename_prefix="seen")
    prompt["save"] = save(["set", 0])
    result = server.run(prompt | {"path": show(["save", 1])})
    masks = np.stack([np.asarray(Image.open(path))[..., 0] for path in result.files("save mask")]) / 255

    middle = torch.tensor([[1.0, 0, 75], [0, 1, 50], [0, 0, 1]])
    geometry = core.autoencoder.estimate(torch.stack([fit(image, middle, 56, 84)[0] for image in photographs]))
    cameras = read_cameras(result.history["outputs"]["path"]["text"][0])[0]
    keep = usable(geometry.depth, geometry.depth_conf, 1.0)
    fitted = torch.stack([fit(image, middle, 56, 84)[0] for image in photographs])
    pictures, meant = reproject(PosedDepth(geometry.depth, cameras[:2], keep, fitted), cameras[2:])
    assert (np.abs(masks - meant.numpy()) < 0.01).mean() > 0.999
    shown = np.stack([np.asarray(Image.open(path)) for path in result.files("save views")]) / 255
    assert (np.abs(shown - pictures.movedim(1, -1).numpy()).max(-1) < 0.02).mean() > 0.99
    shares = [f"view {2 + view}: {mask.mean():.0%}" for view, mask in enumerate(masks)]
    assert result.history["outputs"]["report"]["text"][0].splitlines()[1:] == shares
    assert result.files("preview")[0].stat().st_size > 1000
    lines = glb_positions(result.files("save glb", "3d")[0], "cameras")
    assert np.abs(lines[0]).max() < 1e-6 and (lines[1:5, 2] < 0).all(), "the first camera looks down -Z from the origin"


def test_without_targets_the_preview_shows_the_scene(server, estimate):
    prompt = estimate(2)
    settings = {"sources": 0, "min_confidence": 1.0, "max_points": 1000}
    prompt["preview"] = node("GLDPreviewCameras", cameras=["estimate", 0], geometry=["estimate", 2], **settings)
    prompt["save glb"] = node("SaveGLB", mesh=["preview", 0], filename_prefix="scene")
    prompt["report"] = show(["preview", 3])
    result = server.run(prompt)
    assert result.history["outputs"]["report"]["text"] == ["2 sources, no targets"]
    assert 500 < len(glb_positions(result.files("save glb", "3d")[0], "points")) <= 1000
    assert result.files("preview")[0].stat().st_size > 1000
    prompt["save views"] = node("SaveImage", images=["preview", 4], filename_prefix="seen")
    messages = [m["data"] for m in server.run(prompt).messages if m["type"] == "execution_error"]
    assert "There are no targets; add them with Move GLD Camera" in messages[0]["exception_message"]


def glb_positions(path: Path, mesh: str) -> np.ndarray:
    """Vertices (P, 3) of a mesh of a GLB file."""
    data = path.read_bytes()
    length = int.from_bytes(data[12:16], "little")
    content, binary = json.loads(data[20 : 20 + length]), data[28 + length :]
    found = next(item for item in content["meshes"] if item["name"] == mesh)
    accessor = content["accessors"][found["primitives"][0]["attributes"]["POSITION"]]
    view = content["bufferViews"][accessor["bufferView"]]
    return np.frombuffer(binary, "<f4", 3 * accessor["count"], view["byteOffset"]).reshape(-1, 3)


def test_a_preview_of_other_photographs_is_refused(error, estimate, graph, only):
    prompt = estimate(1, long_side=112) | only(graph(sources="1,"), "scene")
    settings = {"sources": 0, "min_confidence": 1.0, "max_points": 1000}
    prompt["preview"] = node("GLDPreviewCameras", cameras=["scene", 1], geometry=["estimate", 2], **settings)
    assert "connect the geometry of the resized photographs" in error(prompt)
    prompt["preview"]["inputs"]["sources"] = 3
    assert "has 1 views for 3 sources" in error(prompt)


def test_matrices_in_the_example_are_readable(server):
    inputs = server.get("/object_info/GLDLoadCameras")["GLDLoadCameras"]["input"]["required"]
    options = {option["key"]: option["inputs"] for option in inputs["source"][1]["options"]}
    cameras, _ = parse_matrices(json.loads(options["json"]["required"]["text"][1]["default"]))
    assert len(cameras) == 1
