"""GLB files: valid by Khronos' own validator, upright and centred, in the colours of the pictures."""

import json
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from gld_core.cameras import Cameras
from gld_core.export.gltf import camera_frusta, glb_bytes, gltf_transform, scene_diagonal, write_glb
from gld_core.geometry.depth_maps import PosedDepth
from gld_core.geometry.mesh import Mesh, fuse_mesh, view_meshes
from gld_core.geometry.points import PointCloud, fuse_points
from gld_core.synthetic.render import render_scene

VALIDATOR = "gltf-validator@2.0.0-dev.3.10"
VALIDATE = """
const validator = require("gltf-validator"), fs = require("fs");
const bytes = new Uint8Array(fs.readFileSync(process.argv[1]));
validator.validateBytes(bytes).then(report => console.log(JSON.stringify(report)));
"""


@pytest.fixture(scope="session")
def validate():
    """A function from a .glb file to the report of Khronos' validator, which npm installs once into .cache."""
    if not shutil.which("npm") or not shutil.which("node"):
        pytest.skip("npm or node is not there: no GLB was validated")
    folder = Path(__file__).parents[2] / ".cache" / "gltf-validator"
    if not (folder / "node_modules" / "gltf-validator").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", folder, VALIDATOR]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"npm cannot install {VALIDATOR}: no GLB was validated\n{done.stderr[-500:]}")

    def report(path):
        done = subprocess.run(["node", "-e", VALIDATE, path], cwd=folder, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    return report


@pytest.fixture(scope="module")
def scene():
    images, depth, cameras = render_scene(3, 3, 84, 112)
    maps = PosedDepth(depth, cameras, images=images)
    cloud = fuse_points(maps, 10_000)
    mesh = fuse_mesh(maps, 10_000)
    return cameras, cloud, mesh, list(view_meshes(maps, 10_000))


def document(glb):
    """JSON of a GLB and a function from an accessor's number to its array."""
    magic, version, length, size, kind = struct.unpack_from("<4sIII4s", glb)
    assert (magic, version, length, kind) == (b"glTF", 2, len(glb), b"JSON")
    content, start = json.loads(glb[20 : 20 + size]), 28 + size
    types = {5123: "<u2", 5125: "<u4", 5126: "<f4"}

    def array(number):
        accessor = content["accessors"][number]
        view = content["bufferViews"][accessor["bufferView"]]
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        offset, kind = start + view["byteOffset"], types[accessor["componentType"]]
        # Rows of vertices may be padded.
        row = view.get("byteStride", width * np.dtype(kind).itemsize) // np.dtype(kind).itemsize
        return np.frombuffer(glb, kind, accessor["count"] * row, offset).reshape(-1, row)[:, :width]

    return content, array


@pytest.mark.parametrize(("kind", "page"), [("cloud", False), ("mesh", False), ("textured", False), ("textured", True)])
def test_the_khronos_validator_finds_nothing(scene, validate, tmp_path, kind, page):
    cameras, cloud, mesh, textured = scene
    parts = {"cloud": [cloud], "mesh": [mesh], "textured": textured}[kind]
    frusta = camera_frusta(cameras, 0.03 * scene_diagonal(cloud.xyz), sources=2)
    write_glb(tmp_path / "scene.glb", [*parts, frusta], gltf_transform(cloud.xyz, cameras.w2c[0]), page=page)
    report = validate(tmp_path / "scene.glb")
    # For ComfyUI's page a texture is in the text of the file.
    found = {issue["code"] for issue in report["issues"]["messages"] if issue["severity"] <= 1}
    assert found == ({"DATA_URI_GLB"} if page else set()), report["issues"]["messages"]
    assert report["info"]["totalTriangleCount"] == (0 if kind == "cloud" else sum(len(part.faces) for part in parts))
    assert report["info"]["drawCallCount"] == len(parts) + 1
    assert report["info"]["hasTextures"] == (kind == "textured")


@pytest.mark.parametrize("kind", ["cloud", "mesh", "textured"])
def test_a_compact_file_is_smaller_and_shows_the_same(scene, validate, tmp_path, kind):
    cameras, cloud, mesh, textured = scene
    parts, matrix = {"cloud": [cloud], "mesh": [mesh], "textured": textured}[kind], torch.eye(4)
    write_glb(tmp_path / "small.glb", parts, matrix, cameras, compact=True)
    issues = validate(tmp_path / "small.glb")["issues"]
    assert issues["numErrors"] == 0 and issues["numWarnings"] == 0, issues["messages"]
    pixels = sum(len(part.texture.flatten()) for part in parts if kind == "textured")
    plain = len(glb_bytes(parts, matrix, cameras))
    assert (tmp_path / "small.glb").stat().st_size < (0.82 if kind == "cloud" else 0.75) * plain + 0.2 * pixels
    loaded = trimesh.load(tmp_path / "small.glb")
    names = ["points"] if kind == "cloud" else ["mesh", "mesh_1", "mesh_2"][: len(parts)]
    for part, name in zip(parts, names, strict=True):
        (node,) = (node for node in loaded.graph.nodes_geometry if loaded.graph[node][1] == name)
        read = loaded.geometry[name].copy().apply_transform(loaded.graph[node][0])
        step = np.ptp(part.xyz.numpy(), axis=0).max() / 65535
        if kind == "cloud":
            assert np.abs(read.vertices - part.xyz.numpy()).max() < 0.6 * step
        else:
            meant = part.xyz[part.faces].numpy()
            assert np.abs(read.vertices[read.faces] - meant).max() < 0.6 * step


def test_a_point_far_away_takes_no_digits_from_a_compact_file(scene, validate, tmp_path):
    """As a pixel of the sky has it, among points some five units away."""
    _, cloud, _, _ = scene
    xyz = torch.cat([cloud.xyz, torch.tensor([[0.0, 0, 1e6]])])
    rgb = torch.cat([cloud.rgb, cloud.rgb[:1]])
    write_glb(tmp_path / "a.glb", [PointCloud(xyz, rgb)], torch.eye(4), compact=True)
    issues = validate(tmp_path / "a.glb")["issues"]
    assert issues["numErrors"] == 0 and issues["numWarnings"] == 0, issues["messages"]
    loaded = trimesh.load(tmp_path / "a.glb")
    (name,) = loaded.graph.nodes_geometry
    read = loaded.geometry["points"].copy().apply_transform(loaded.graph[name][0])
    assert np.abs(read.vertices[:-1] - cloud.xyz.numpy()).max() < 1e-3


def test_a_compact_mesh_of_many_vertices_is_whole(validate, tmp_path):
    side = 300
    y, x = torch.meshgrid(torch.arange(float(side)), torch.arange(float(side)), indexing="ij")
    xyz = torch.stack([x, y, x + y], -1).view(-1, 3)
    corner = (torch.arange(side - 1)[:, None] * side + torch.arange(side - 1)).flatten()
    faces = torch.stack([corner, corner + side, corner + 1], 1)
    write_glb(tmp_path / "a.glb", [Mesh(xyz, faces, (xyz % 256).byte())], torch.eye(4), compact=True)
    issues = validate(tmp_path / "a.glb")["issues"]
    assert issues["numErrors"] == 0 and issues["numWarnings"] == 0, issues["messages"]
    content, array = document((tmp_path / "a.glb").read_bytes())
    found, node = [], content["nodes"][0]
    for primitive in content["meshes"][0]["primitives"]:
        position = array(primitive["attributes"]["POSITION"]) * node["scale"][0] + node["translation"]
        found.append(position[array(primitive["indices"]).reshape(-1, 3)])
    assert len(found) > 1 and np.abs(np.concatenate(found) - xyz[faces].numpy()).max() < 0.01


def test_the_scene_stands_upright_and_centred_before_the_viewer(scene):
    cameras, cloud, _, _ = scene
    loaded = trimesh.load(
        trimesh.util.wrap_as_stream(glb_bytes([cloud], gltf_transform(cloud.xyz, cameras.w2c[0]))), "glb"
    )
    points = next(iter(loaded.geometry.values())).vertices
    assert np.abs(np.median(points, axis=0)).max() < 1e-4
    # What is up in the first picture is up (y) here, and what is far is far (-z).
    first = cloud.xyz.double() @ cameras.w2c[0, :3, :3].T.double() + cameras.w2c[0, :3, 3].double()
    back = points - (first * torch.tensor([1, -1, -1])).numpy()
    assert np.abs(back - back.mean(0)).max() < 1e-4


def test_colours_are_linear_in_the_file_and_materials_unlit(scene):
    rgb = torch.tensor([[0, 0, 0], [128, 10, 255], [255, 255, 255]], dtype=torch.uint8)
    content, array = document(glb_bytes([PointCloud(torch.eye(3), rgb)], torch.eye(4)))
    colors = array(content["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]) / 65535
    assert np.allclose(colors, [[0, 0, 0, 1], [0.21586, 0.003035, 1, 1], [1, 1, 1, 1]], atol=1e-5)
    assert "KHR_materials_unlit" in content["materials"][0]["extensions"]
    assert content["extensionsUsed"] == ["KHR_materials_unlit"]


def test_every_view_is_a_camera_that_programs_can_look_through(scene, validate, tmp_path):
    cameras, cloud, mesh, _ = scene
    matrix = gltf_transform(cloud.xyz, cameras.w2c[0])
    write_glb(tmp_path / "scene.glb", [mesh], matrix, cameras, sources=1)
    issues = validate(tmp_path / "scene.glb")["issues"]
    assert issues["numErrors"] == 0 and issues["numWarnings"] == 0, issues["messages"]
    content, _ = document((tmp_path / "scene.glb").read_bytes())
    nodes = [node for node in content["nodes"] if "camera" in node]
    assert [node["name"] for node in nodes] == ["source 0000", "target 0001", "target 0002"]
    for view, node in enumerate(nodes):
        pose, lens = np.array(node["matrix"]).reshape(4, 4).T, content["cameras"][node["camera"]]["perspective"]
        # A point of the scene, by glTF's own axes and field of view, and by K.
        point = np.array([0.1, -0.2, 1.5, 1])
        inside = np.linalg.inv(pose) @ matrix.numpy() @ cameras.c2w[view].double().numpy() @ point
        y = inside[1] / -inside[2] / np.tan(lens["yfov"] / 2)
        x = inside[0] / -inside[2] / np.tan(lens["yfov"] / 2) / lens["aspectRatio"]
        meant = cameras.K[view].double().numpy() @ point[:3]
        assert np.allclose([(x + 1) / 2 * cameras.width, (1 - y) / 2 * cameras.height], meant[:2] / meant[2], atol=1e-3)


@pytest.mark.parametrize("unit", [1e-4, 1, 1e4])
def test_cameras_show_scenes_in_any_unit(scene, unit):
    cameras, cloud, _, _ = scene
    content, _ = document(glb_bytes([PointCloud(cloud.xyz * unit, cloud.rgb)], torch.eye(4), cameras))
    depth = unit * (cloud.xyz.double() @ cameras.w2c[0, 2, :3].double() + cameras.w2c[0, 2, 3])
    near = content["cameras"][0]["perspective"]["znear"]
    assert 1e-4 * depth.median() < near < 0.1 * depth[depth > 0].quantile(0.01)


def test_a_camera_is_a_pyramid_with_its_apex_at_the_centre_and_its_base_in_the_corners_of_the_image():
    c2w = torch.eye(4).repeat(2, 1, 1)
    c2w[1, :3, 3] = torch.tensor([1.0, 2, 3])
    K = torch.tensor([[50.0, 0, 20], [0, 50, 10], [0, 0, 1]]).expand(2, 3, 3)
    lines = camera_frusta(Cameras(c2w, K, 30, 60), 0.5, sources=1)
    base = torch.tensor([[-0.2, -0.1, 0.5], [0.4, -0.1, 0.5], [0.4, 0.2, 0.5], [-0.2, 0.2, 0.5]], dtype=torch.float64)
    assert torch.allclose(lines.xyz[5:], torch.cat([torch.zeros(1, 3), base]) + torch.tensor([1.0, 2, 3]), atol=1e-6)
    assert lines.segments.shape == (16, 2) and lines.segments[:8].max() == 4 and lines.segments[8:].min() == 5
    assert (lines.rgb[0] != lines.rgb[5]).any()


def test_points_that_are_not_finite_are_left_out_with_their_triangles(validate, tmp_path):
    xyz = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [torch.nan, 1, 1], [3e38, torch.inf, 1]])
    rgb = torch.full((5, 3), 100, dtype=torch.uint8)
    mesh = Mesh(xyz, torch.tensor([[0, 1, 2], [1, 2, 3], [2, 3, 4]]), rgb)
    write_glb(tmp_path / "a.glb", [PointCloud(xyz, rgb), mesh], torch.eye(4))
    content, array = document((tmp_path / "a.glb").read_bytes())
    assert [accessor["count"] for accessor in content["accessors"] if accessor["type"] == "VEC3"] == [3, 3]
    assert all(np.isfinite(array(number)).all() for number in range(len(content["accessors"])))
    assert validate(tmp_path / "a.glb")["issues"]["numErrors"] == 0


def test_a_file_is_never_written_over_and_an_empty_scene_is_a_sentence(scene, tmp_path):
    _, cloud, _, _ = scene
    write_glb(tmp_path / "a.glb", [cloud], torch.eye(4))
    before = (tmp_path / "a.glb").read_bytes()
    with pytest.raises(FileExistsError, match="choose another name"):
        write_glb(tmp_path / "a.glb", [cloud], torch.eye(4) * 2)
    with pytest.raises(ValueError, match="no point left"):
        write_glb(tmp_path / "b.glb", [PointCloud(torch.empty(0, 3), torch.empty(0, 3).byte())], torch.eye(4))
    assert [path.name for path in tmp_path.iterdir()] == ["a.glb"]
    assert (tmp_path / "a.glb").read_bytes() == before
