"""Files that other programs read: whole or absent, and with the numbers and axes they promise."""

import json

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from gld_core.cameras import Cameras
from gld_core.export.pictures import contact_sheet, depth_to_color, depth_unit, write_depth_png
from gld_core.export.ply import write_ply
from gld_core.io.files import atomic
from gld_core.io.images import write_png
from gld_core.io.nerfstudio import write_transforms
from gld_core.io.posed_folders import write_npz


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_an_interrupted_file_leaves_the_old_one_and_nothing_else(tmp_path, stop):
    (tmp_path / "a.txt").write_text("old", encoding="utf-8")
    with pytest.raises(stop), atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("ha", encoding="utf-8")
        raise stop
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "old"


def test_a_view_is_an_eight_bit_png_with_values_clamped(tmp_path):
    image = torch.tensor([-0.5, 0.5, 1.5]).view(3, 1, 1).expand(3, 2, 4)
    write_png(tmp_path / "new" / "a.png", image)
    assert np.array_equal(np.array(Image.open(tmp_path / "new" / "a.png")), np.tile(np.uint8([0, 128, 255]), (2, 4, 1)))


@pytest.mark.parametrize(("scale", "millimetres"), [(1.0, True), (0.01, False), (100.0, False)])
def test_sixteen_bit_depth_times_its_unit_is_depth_and_0_is_no_depth(tmp_path, scale, millimetres):
    depth = (torch.rand(20, 30) * 7 + 0.5) * scale
    depth[0, :3] = torch.tensor([float("nan"), -1.0, float("inf")])
    unit = depth_unit(depth[None])
    write_depth_png(tmp_path / "d.png", depth, unit)
    file = Image.open(tmp_path / "d.png")
    values = np.array(file)
    # Bits of a sample, in the header.
    assert (tmp_path / "d.png").read_bytes()[24] == 16
    assert (unit == 0.001) == millimetres and (values[0, :3] == 0).all()
    assert millimetres or values.max() == 65535
    assert np.abs(values * float(file.text["depth_unit"]) - depth.numpy())[1:].max() <= unit


def test_npz_holds_the_arrays_as_they_are(tmp_path):
    depth = torch.rand(4, 5)
    write_npz(tmp_path / "d.npz", depth=depth, depth_unit=0.25)
    file = np.load(tmp_path / "d.npz")
    assert np.array_equal(file["depth"], depth.numpy()) and file["depth_unit"] == 0.25 and len(file.files) == 2


def test_near_is_bright_far_is_dark_and_no_depth_is_grey():
    depth = torch.linspace(1, 9, 100).view(1, 1, 100).repeat(1, 4, 1)
    depth[0, 0, 0] = float("nan")
    color = depth_to_color(depth)
    assert color.shape == (1, 3, 4, 100) and color.min() >= 0 and color.max() <= 1
    brightness = color[0, :, 1].mean(0)
    assert (brightness.diff() <= 1e-6).all() and brightness[0] > 0.8 and brightness[-1] < 0.15
    assert (color[0, :, 0, 0] == 0.5).all()
    assert (depth_to_color(torch.zeros(2, 3)) == 0.5).all()


@pytest.mark.parametrize("colors", ["inferno", "viridis", "grey"])
def test_every_map_but_the_rainbow_grows_brighter_towards_the_viewer(colors):
    depth = torch.linspace(1, 9, 100).view(1, 1, 100)
    brightness = depth_to_color(depth, colors=colors)[0].mul(torch.tensor([0.2, 0.7, 0.1]).view(3, 1, 1)).sum(0)[0]
    assert (brightness.diff() <= 1e-6).all() and brightness[0] - brightness[-1] > 0.6
    assert (depth_to_color(depth, colors="turbo")[0, 0, 0, [0, -1]] > torch.tensor([0.9, -1])).all()


def test_views_share_one_range_of_depth_or_have_their_own():
    depth = torch.stack([torch.linspace(1, 2, 100), torch.linspace(10, 20, 100)]).view(2, 1, 100)
    shared, own = depth_to_color(depth), depth_to_color(depth, per_view=True)
    assert torch.allclose(own[0], own[1], atol=0.02)
    assert (shared[0].mean() - shared[1].mean()) > 0.3


def test_a_contact_sheet_shows_every_picture_in_its_column():
    images = [torch.full((3, 10, 20), value) for value in (0.2, 0.4, 0.6, 0.8, 1.0)]
    sheet = contact_sheet(list("abcde"), {"view": images, "photo": [None] * 5}, cell=40, per_band=3)
    shown = {round(value, 1) for value in sheet[1].flatten().tolist()}
    assert {0.2, 0.4, 0.6, 0.8, 1.0} <= shown
    area = (sheet - 0.6).abs().amax(0) < 1e-6
    assert area.sum() == 40 * 20


def test_transforms_point_the_opengl_camera_backwards_along_z(tmp_path):
    c2w = torch.eye(4).repeat(2, 1, 1)
    c2w[1, :3, :3] = torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # looks along world x, world z is up
    c2w[1, :3, 3] = torch.tensor([1.0, 2, 3])
    K = torch.tensor([[50.0, 0, 20], [0, 60, 15], [0, 0, 1]]).expand(2, 3, 3)
    files = [{"file_path": "a.png"}, {"file_path": "b.png"}]
    write_transforms(tmp_path / "transforms.json", Cameras(c2w, K, 28, 42), files, depth_unit_scale_factor=0.5)
    content = json.loads((tmp_path / "transforms.json").read_text(encoding="utf-8"))
    frame = content["frames"][1]
    matrix = np.array(frame["transform_matrix"])
    assert np.array_equal(matrix @ [0, 0, -1, 0], [1, 0, 0, 0])
    assert np.array_equal(matrix @ [0, 1, 0, 0], [0, 0, 1, 0])
    assert np.array_equal(matrix[:, 3], [1, 2, 3, 1])
    intrinsics = {"fl_x": 50, "fl_y": 60, "cx": 20, "cy": 15, "w": 42, "h": 28, "file_path": "b.png"}
    assert intrinsics.items() <= frame.items() and content["depth_unit_scale_factor"] == 0.5


def test_a_point_cloud_is_read_back_by_another_program(tmp_path):
    points, colors = torch.randn(1000, 3), torch.randint(0, 256, (1000, 3), dtype=torch.uint8)
    write_ply(tmp_path / "p.ply", points, colors)
    cloud = trimesh.load(tmp_path / "p.ply")
    assert np.array_equal(cloud.vertices.astype(np.float32), points.numpy())
    assert np.array_equal(cloud.colors[:, :3], colors.numpy())


def test_a_point_cloud_has_normals_and_only_finite_points(tmp_path):
    points, normals, colors = torch.randn(50, 3), torch.randn(50, 3), torch.zeros(50, 3, dtype=torch.uint8)
    points[7, 1] = torch.nan
    write_ply(tmp_path / "p.ply", points, colors, normals)
    raw = trimesh.load(tmp_path / "p.ply").metadata["_ply_raw"]["vertex"]["data"]
    kept = torch.arange(50) != 7
    assert np.array_equal(raw["x"], points[kept, 0]) and np.array_equal(raw["ny"], normals[kept, 1])


def test_a_point_cloud_replaces_another_only_when_told_to(tmp_path):
    points, colors = torch.randn(5, 3), torch.zeros(5, 3, dtype=torch.uint8)
    write_ply(tmp_path / "p.ply", points, colors)
    with pytest.raises(FileExistsError, match="choose another name"):
        write_ply(tmp_path / "p.ply", points[:2], colors[:2])
    assert len(trimesh.load(tmp_path / "p.ply").vertices) == 5
    write_ply(tmp_path / "p.ply", points[:2], colors[:2], replace=True)
    assert len(trimesh.load(tmp_path / "p.ply").vertices) == 2
