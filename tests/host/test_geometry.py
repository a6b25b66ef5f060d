"""Depth and 3D in the host: core's nodes take them, files hold what they should, and nothing bad reaches a file."""

import json
import struct

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from gld_core.export.gltf import SOURCE_COLOR, TARGET_COLOR, linear_colors
from gld_core.geometry.depth_maps import PosedDepth, agreement
from gld_core.geometry.points import fuse_points, point_cloud
from gld_core.synthetic.render import render_scene

SEED, V, H, W = 3, 6, 84, 112
KINDS = ("released points", "points", "mesh", "textured mesh")


@pytest.fixture(scope="module")
def truth():
    """images, depth and cameras of TestRoom."""
    return render_scene(SEED, V, H, W, samples=1)


@pytest.fixture(scope="module")
def room():
    """room(broken=..., **changes) -> a prompt with exact geometry, and what exports it."""

    def build(broken=False, kind="released points", views=V, height=H, width=W, **changes) -> dict:
        scene = {"geometry": ["room", 0], "cameras": ["room", 1]}
        selection = {"min_confidence": 1.05, "keep_at_least": 0.0, "confirmed_by": 0, "max_points": 500_000}
        selection |= {name: value for name, value in changes.items() if name in selection}
        options = {"kind": kind, "show_cameras": changes.get("show_cameras", False)}
        options |= {"kind.voxel": changes.get("voxel", 0.0)} if kind in ("points", "mesh") else {}
        size = {"seed": SEED, "views": views, "height": height, "width": width, "sources": 2, "broken": broken}
        format = {"format": changes.get("format", "COLMAP"), "format.binary": True}
        folder = {"filename_prefix": changes.get("filename_prefix", "GLD/scene")}
        ply = {"voxel": changes.get("voxel", 0.0), "axes": changes.get("axes", "upright")}
        nodes = {
            "room": ("TestRoom", size),
            "glb": ("GLDExportGLB", {**scene, **selection, **options}),
            "save glb": ("SaveGLB", {"mesh": ["glb", 0], "filename_prefix": "room"}),
            "ply": ("GLDExportPLY", {**scene, **selection, **ply}),
            "save ply": ("SavePointCloud", viewer("ply") | {"filename_prefix": "room"}),
            "dataset": ("GLDExportDataset", {**scene, **selection, **format, **folder}),
            "check": ("GLDCheckDepth", {**scene, "tolerance": 0.02}),
        }
        return {name: {"class_type": kind, "inputs": dict(values)} for name, (kind, values) in nodes.items()}

    return build


def viewer(node: str) -> dict:
    return {"model_3d": [node, 0], "viewport_state": {}, "width": 256, "height": 256}


def glb_arrays(path):
    """The document of a GLB, and its accessors as arrays."""
    data = path.read_bytes()
    size = struct.unpack("<I", data[12:16])[0]
    content, start = json.loads(data[20 : 20 + size]), 28 + size
    arrays = []
    for accessor in content["accessors"]:
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        offset = start + content["bufferViews"][accessor["bufferView"]]["byteOffset"]
        kind = {5123: "<u2", 5125: "<u4", 5126: "<f4"}[accessor["componentType"]]
        arrays.append(np.frombuffer(data, kind, accessor["count"] * width, offset).reshape(-1, width))
    return content, arrays


def upright(xyz: torch.Tensor, cameras) -> torch.Tensor:
    """Points of the world in glTF's axes, not centred."""
    local = xyz.double() @ cameras.w2c[0, :3, :3].double().T + cameras.w2c[0, :3, 3].double()
    return local * torch.tensor([1.0, -1, -1], dtype=torch.float64)


@pytest.fixture(scope="module")
def decoded(server, graph, only):
    """The geometry of random weights, in all of core's nodes that take it."""
    prompt = graph()
    renders = {
        "plain": {"output": "depth", "output.normalization": "v2_style", "output.apply_sky_clip": False},
        "colored": {"output": "depth_colored", "output.normalization": "min_max", "output.apply_sky_clip": False},
        "confidence": {"output": "confidence", "output.colored": False},
    }
    for name, values in renders.items():
        prompt[name] = {"class_type": "DA3Render", "inputs": {"da3_geometry": ["depth", 0], **values}}
        prompt[f"save {name}"] = {"class_type": "SaveImage", "inputs": {"images": [name, 0], "filename_prefix": name}}
    values = {
        "da3_geometry": ["depth", 0],
        "batch_index": 5,
        "decimation": 1,
        "discontinuity_threshold": 0.0,
        "confidence_threshold": 0.1,
        "use_sky_mask": True,
        "texture": True,
    }
    prompt["core mesh"] = {"class_type": "DA3GeometryToMesh", "inputs": values}
    prompt["save core mesh"] = {"class_type": "SaveGLB", "inputs": {"mesh": ["core mesh", 0], "filename_prefix": "m"}}
    wanted = [name for name in prompt if name.startswith("save ")]
    return server.run(only(prompt, *wanted))


def test_cores_render_and_mesh_nodes_take_the_geometry_as_it_is(decoded):
    for name in ("plain", "colored", "confidence"):
        files = decoded.files(f"save {name}")
        assert len(files) == 6 and all(Image.open(path).size == (84, 56) for path in files)
        assert any(np.ptp(np.asarray(Image.open(path))) > 50 for path in files)
    content, arrays = glb_arrays(decoded.files("save core mesh", "3d")[0])
    assert len(content["images"]) == 1 and all(np.isfinite(array).all() for array in arrays)


@pytest.mark.parametrize("colors", ["grey", "viridis"])
def test_the_depth_picture_is_bright_where_near(server, graph, only, decoded, colors):
    """Of random weights too: the order of brightness is that of core's own picture of the same depth."""
    prompt = graph()
    prompt["depth"]["inputs"] |= {"colors": colors, "range": "per view"}
    result = server.run(only(prompt, "save depth"))
    for ours, core in zip(result.files("save depth"), decoded.files("save plain"), strict=True):
        ours, core = (np.asarray(Image.open(path).convert("L")).astype(float).ravel() for path in (ours, core))
        assert np.corrcoef(np.argsort(np.argsort(ours)), np.argsort(np.argsort(core)))[0, 1] > 0.9


def test_a_shared_range_shows_one_depth_in_one_colour(server, graph, only):
    levels = {}
    for range in ("shared", "per view"):
        prompt = graph()
        prompt["depth"]["inputs"] |= {"colors": "grey", "range": range}
        files = server.run(only(prompt, "save depth")).files("save depth")
        levels[range] = np.stack([np.asarray(Image.open(path).convert("L")) for path in files])
    assert all(view.min() == 0 and view.max() == 255 for view in levels["per view"])
    assert levels["shared"].min() == 0 and levels["shared"].max() == 255
    assert (levels["shared"] != levels["per view"]).any()


def test_the_released_cloud_is_the_released_one_exactly(server, room, only, truth):
    images, depth, cameras = truth
    result = server.run(only(room(), "save glb"))
    _, (xyz, rgb) = glb_arrays(result.files("save glb", "3d")[0])
    points, colors = point_cloud(depth, torch.ones_like(depth), images, cameras.K, cameras.c2w, 1)
    meant = upright(points, cameras)
    meant -= torch.from_numpy(np.median(meant.numpy(), axis=0))
    assert np.array_equal(xyz, meant.float().numpy())
    assert np.array_equal(rgb, linear_colors(colors))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_lies_on_the_true_surfaces(server, room, only, truth, kind):
    """Upright, before the viewer, and within half a percent of the room's size of it, both ways."""
    _, depth, cameras = truth
    result = server.run(only(room(kind=kind, show_cameras=True), "save glb"))
    content, arrays = glb_arrays(result.files("save glb", "3d")[0])
    parts = [mesh["primitives"][0] for mesh in content["meshes"]]
    assert {part["mode"] for part in parts[:-1]} == {0 if "points" in kind else 4} and parts[-1]["mode"] == 1
    frusta = arrays[parts[-1]["attributes"]["COLOR_0"]]
    assert np.allclose(frusta[[0, -1]], linear_colors(torch.tensor([SOURCE_COLOR, TARGET_COLOR], dtype=torch.uint8)))
    assert ("images" in content) == (kind == "textured mesh")
    xyz = np.concatenate([arrays[part["attributes"]["POSITION"]] for part in parts[:-1]])
    # Depth lies at the middles of pixels; the released program takes it half a pixel off.
    K = cameras.K.clone()
    if kind != "released points":
        K[:, :2] -= 0.5 * K[:, 2:]
    true, _ = point_cloud(depth, torch.ones_like(depth), torch.zeros(V, 3, H, W), K, cameras.c2w, 1)
    true = upright(true, cameras).numpy()
    size = np.linalg.norm(np.ptp(true, axis=0))
    # The file is centred on its own median.
    first = arrays[parts[-1]["attributes"]["POSITION"]][0]
    xyz = xyz - first
    for one, other in ((xyz, true), (true, xyz)):
        some = torch.from_numpy(one[:: len(one) // 1500]).float()
        near = torch.cdist(some, torch.from_numpy(other).float()).amin(1)
        print(f"{kind}: mean distance {near.mean() / size:.3%} of the size")
        assert near.mean() < 0.005 * size


def test_the_voxel_of_both_point_clouds_is_the_one_that_was_asked_for(server, room, only, truth):
    images, depth, cameras = truth
    meant = len(fuse_points(PosedDepth(depth, cameras, images=images), voxel=0.5).xyz)
    result = server.run(only(room(kind="points", voxel=0.5), "save glb", "save ply"))
    _, (xyz, _) = glb_arrays(result.files("save glb", "3d")[0])
    saved = server.base / "output" / result.history["outputs"]["save ply"]["result"][0]
    assert len(xyz) == len(trimesh.load(saved).vertices) == meant


def test_the_preview_is_the_file_that_goes_on(server, room, only):
    result = server.run(only(room(kind="mesh"), "save glb"))
    shown, saved = result.files("glb", "3d")[0], result.files("save glb", "3d")[0]
    assert shown.parent == server.base / "temp" and shown.read_bytes() == saved.read_bytes()


def test_decoded_cameras_are_drawn_with_the_sources_apart(server, graph, only):
    result = server.run(only(graph(sources="0, 5", show_cameras=True), "save glb"))
    content, arrays = glb_arrays(result.files("save glb", "3d")[0])
    lines = content["meshes"][-1]["primitives"][0]
    assert lines["mode"] == 1
    meant = torch.tensor([SOURCE_COLOR] * 10 + [TARGET_COLOR] * 20, dtype=torch.uint8)
    assert np.allclose(arrays[lines["attributes"]["COLOR_0"]], linear_colors(meant))


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_points_cover_the_same_space(server, room, only, kind):
    spans = []
    for most in (500_000, 2000):
        result = server.run(only(room(kind=kind, max_points=most), "save glb"))
        content, arrays = glb_arrays(result.files("save glb", "3d")[0])
        places = [arrays[mesh["primitives"][0]["attributes"]["POSITION"]] for mesh in content["meshes"]]
        xyz = np.concatenate(places)
        spans.append(np.percentile(xyz, 95, axis=0) - np.percentile(xyz, 5, axis=0))
    assert 500 < len(xyz) <= 2000 * (1.3 if "mesh" in kind else 1)
    assert np.allclose(*spans, rtol=0.3)


def test_confirmed_by_keeps_what_that_many_other_views_see(server, room, only, truth):
    _, depth, cameras = truth
    confirmed = agreement(PosedDepth(depth, cameras)).confirmed
    for least in (1, 3):
        result = server.run(only(room(confirmed_by=least), "save glb"))
        _, (xyz, _) = glb_arrays(result.files("save glb", "3d")[0])
        assert len(xyz) == int((confirmed >= least).sum())


def test_the_consistency_map_falls_where_a_view_is_wrong(server, room, only, truth):
    prompt = only(room(broken=True), "check")
    prompt["image"] = {"class_type": "MaskToImage", "inputs": {"mask": ["check", 0]}}
    prompt["save mask"] = {"class_type": "SaveImage", "inputs": {"images": ["image", 0], "filename_prefix": "mask"}}
    masks = np.stack([np.asarray(Image.open(path).convert("L")) for path in server.run(prompt).files("save mask")])
    known = np.ones(V * H * W, bool)
    known[::7] = False
    assert (masks.reshape(-1)[::7] == 0).all()
    known[::11] = False
    assert (masks.reshape(-1)[known] > 250).mean() > 0.95


def test_ply_goes_through_cores_point_cloud_nodes(server, room, only):
    prompt = only(room(), "save ply")
    prompt["preview"] = {"class_type": "PreviewPointCloud", "inputs": viewer("ply")}
    result = server.run(prompt)
    assert result.error is None, result.error
    saved = server.base / "output" / result.history["outputs"]["save ply"]["result"][0]
    assert saved.read_bytes()[:36] == b"ply\nformat binary_little_endian 1.0\n"
    cloud = trimesh.load(saved)
    names = [line.split()[-1] for line in saved.read_bytes()[:400].split(b"end_header")[0].decode().splitlines()[3:]]
    assert names == ["x", "y", "z", "nx", "ny", "nz", "red", "green", "blue"]
    assert len(cloud.vertices) > 5000 and cloud.visual.vertex_colors[:, :3].std() > 10
    assert np.abs(np.median(cloud.vertices, axis=0)).max() < 0.01


def test_colmap_reads_the_data_set_in_the_cameras_world(server, room, only, truth):
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed: COLMAP itself read nothing")
    _, _, cameras = truth
    result = server.run(only(room(), "dataset"))
    assert result.error is None, result.error
    folder = sorted((server.base / "output" / "GLD").glob("scene_*"))[-1]
    model = pycolmap.Reconstruction(str(folder / "sparse" / "0"))
    assert len(model.images) == V and len(list((folder / "images").iterdir())) == V
    for image in model.images.values():
        view = int(image.name[:-4])
        assert np.allclose(image.projection_center(), cameras.c2w[view, :3, 3], atol=1e-4)
        for seen in image.points2D[::50]:
            assert np.linalg.norm(image.project_point(model.points3D[seen.point3D_id].xyz) - seen.xy) < 1


def test_a_data_set_is_a_new_folder_every_time_below_output(server, room, only):
    before = set((server.base / "output").rglob("*"))
    folders = []
    for format, most in (("nerfstudio", 2000), ("nerfstudio", 3000), ("COLMAP", 2000)):
        prompt = only(room(format=format, max_points=most, filename_prefix="new/set"), "dataset")
        assert server.run(prompt).error is None
        folders.append(max((server.base / "output/new").iterdir()))
    assert [path.name for path in folders] == ["set_00001", "set_00002", "set_00003"]
    assert (folders[0] / "transforms.json").is_file() and (folders[2] / "sparse/0/points3D.bin").is_file()
    for name in ("../out", "a/../../out", "/tmp/out"):
        with pytest.raises(Exception, match="this is not in the output folder"):
            server.run(only(room(filename_prefix=name), "dataset"))
    after = set((server.base / "output").rglob("*"))
    assert all((server.base / "output/new") in [path, *path.parents] for path in after - before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ["random weights", "broken depth"])
def test_nothing_that_is_not_finite_reaches_a_file(server, room, graph, only, kind, source):
    prompt = room(broken=True, kind=kind, filename_prefix="finite/set")
    if source == "random weights":
        random = only(graph(min_confidence=1.0), "depth")
        for name in ("glb", "ply", "dataset"):
            prompt[name]["inputs"] |= {"geometry": ["depth", 0], "cameras": ["scene", 1]}
        prompt |= random
    result = server.run(only(prompt, "save glb", "save ply", *(["dataset"] if kind == "points" else [])))
    assert result.error is None, result.error
    content, arrays = glb_arrays(result.files("save glb", "3d")[0])
    assert all(np.isfinite(array).all() for array in arrays) and len(arrays[0]) > 100
    json.dumps(content, allow_nan=False)
    saved = server.base / "output" / result.history["outputs"]["save ply"]["result"][0]
    data = saved.read_bytes().split(b"end_header\n", 1)[1]
    fields = np.frombuffer(data, np.dtype([("f", "<f4", 6), ("c", "u1", 3)]))
    assert len(fields) > 100 and np.isfinite(fields["f"]).all()


def test_views_become_a_video_in_the_order_of_the_path(server, graph, only):
    """Sources 0 and 5 of the rendered path, targets 1 to 4: woven in, the path's own order comes back."""
    prompt = graph(sources="0, 5", targets="1-4")
    for sources in ("left out", "woven in"):
        values = {"images": ["rgb", 0], "views": ["views", 0], "sources": sources}
        prompt[sources] = {"class_type": "GLDOrderViews", "inputs": values}
        values = {"images": [sources, 0], "filename_prefix": sources}
        prompt[f"save {sources}"] = {"class_type": "SaveImage", "inputs": values}
    prompt["video"] = {"class_type": "CreateVideo", "inputs": {"images": ["woven in", 0], "fps": 12.0}}
    values = {"video": ["video", 0], "filename_prefix": "path", "format": "mp4", "codec": "h264"}
    prompt["save video"] = {"class_type": "SaveVideo", "inputs": values}
    result = server.run(only(prompt, "save rgb", "save left out", "save woven in", "save video"))
    rgb, targets, path = (
        [np.asarray(Image.open(file)) for file in result.files(f"save {name}")]
        for name in ("rgb", "left out", "woven in")
    )
    assert all(np.array_equal(*pair) for pair in zip(targets, rgb[2:], strict=True))
    wanted = [rgb[view] for view in (0, 2, 3, 4, 5, 1)]
    assert all(np.array_equal(*pair) for pair in zip(path, wanted, strict=True))
    assert result.files("save video")[0].stat().st_size > 1000


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"cameras": ["other", 1]}, "connect the cameras of these views"),
        ({"confirmed_by": 16}, "lower 'confirmed_by'"),
    ],
    ids=["other cameras", "no agreement"],
)
def test_wrong_wiring_is_a_sentence(server, room, only, change, sentence):
    prompt = room()
    prompt["other"] = {"class_type": "TestRoom", "inputs": prompt["room"]["inputs"] | {"views": 4}}
    for name in ("glb", "ply"):
        prompt[name]["inputs"] |= change
        prompt["save glb" if name == "glb" else "save ply"]["inputs"]["filename_prefix"] = "never"
        result = server.run(only(prompt, f"save {name}"))
        assert sentence in result.error and "\n" not in result.error.strip()
