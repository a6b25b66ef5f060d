"""Data sets for trainers: read by the programs that they are for, whole, and never over what is there."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from scipy.optimize import least_squares

from gld_core.export import datasets
from gld_core.export.datasets import write_colmap_dataset, write_nerfstudio_dataset
from gld_core.geometry.depth_maps import PosedDepth
from gld_core.geometry.points import fuse_points
from gld_core.io.cameras import read_cameras
from gld_core.io.colmap import read_colmap_points
from gld_core.synthetic.render import render_scene

NAMES = ["a", "b", "c"]
WRITERS = (write_colmap_dataset, write_nerfstudio_dataset)


@pytest.fixture(scope="module")
def scene():
    images, depth, cameras = render_scene(3, 3, 56, 84)
    depth[0, :4] = torch.nan
    maps = PosedDepth(depth, cameras, images=images)
    return maps, fuse_points(maps)


@pytest.mark.parametrize("binary", [True, False])
def test_colmap_reads_its_model_and_sees_the_points_where_it_says(scene, tmp_path, binary):
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed: COLMAP itself read nothing")
    maps, cloud = scene
    write_colmap_dataset(tmp_path / "set", NAMES, maps, cloud, binary)
    model = pycolmap.Reconstruction(str(tmp_path / "set" / "sparse" / "0"))
    assert len(model.points3D) == len(cloud.xyz) and model.compute_mean_track_length() > 1.5
    for image in model.images.values():
        view = NAMES.index(image.name[:-4])
        assert (tmp_path / "set" / "images" / image.name).is_file()
        assert image.num_points3D > 0.8 * torch.isfinite(maps.depth[view]).sum() / 3
        for seen in image.points2D[::20]:
            point = model.points3D[seen.point3D_id]
            assert np.linalg.norm(image.project_point(point.xyz) - seen.xy) < 1e-3
            column, row = np.floor(seen.xy).astype(int)
            assert maps.depth[view, row, column] == pytest.approx((image.cam_from_world() * point.xyz)[2], rel=0.1)
            assert (image.image_id, seen) in [
                (element.image_id, model.images[element.image_id].points2D[element.point2D_idx])
                for element in point.track.elements
            ]


def test_only_depth_that_counts_is_written_and_masks_say_what_is_generated(scene, tmp_path):
    maps, cloud = scene
    wrong = maps.depth.clone()
    wrong[2] *= 1.3
    keep = torch.zeros_like(wrong, dtype=torch.bool)
    keep[:, 10:] = True
    maps = replace(maps, depth=wrong, keep=keep)
    write_nerfstudio_dataset(tmp_path / "nerf", NAMES, maps, cloud, photographs=1)
    write_colmap_dataset(tmp_path / "colmap", NAMES, maps, cloud, photographs=1)
    frames = json.loads((tmp_path / "nerf" / "transforms.json").read_text(encoding="utf-8"))["frames"]
    assert [frame["generated"] for frame in frames] == [False, True, True]
    for name, frame in zip(NAMES, frames, strict=True):
        depth = np.load(tmp_path / "nerf" / frame["depth_file_path"])
        assert not depth[:10].any() and (depth[10:] > 0).mean() > 0.99
        mask = np.asarray(Image.open(tmp_path / "nerf" / frame["mask_path"]))
        assert np.array_equal(mask, np.asarray(Image.open(tmp_path / "colmap" / "masks" / f"{name}.png")))
        if name == "a":
            assert (mask == 255).all()
        else:
            assert not mask[:10].any() and set(np.unique(mask)) <= {0, *range(128, 256)}
    # The third view contradicts the other two.
    shares = [np.asarray(Image.open(tmp_path / "nerf" / frame["mask_path"]))[10:].mean() / 255 for frame in frames]
    assert shares[1] > 0.5 > shares[2]


def test_cameras_with_a_skew_are_written_as_the_nearest_without(scene, tmp_path):
    maps, cloud = scene
    K = maps.cameras.K.clone()
    K[:, 0, 1], K[:, 2, 0] = 1.5, 2e-4
    maps = replace(maps, cameras=replace(maps.cameras, K=K))
    errors = [write(tmp_path / write.__name__, NAMES, maps, cloud) for write in WRITERS]
    assert errors[0] == pytest.approx(errors[1], rel=1e-9) and 0.3 < errors[0] < 1
    for write in WRITERS:
        read, _ = read_cameras(tmp_path / write.__name__)
        assert (read.K[:, 0, 1] == 0).all() and (read.K[:, 2] == torch.tensor([0.0, 0, 1])).all()
        # By scipy, from where the given K projects the corners and the middle of every side.
        y, x = np.meshgrid((np.arange(16) + 0.5) * 56 / 16, (np.arange(16) + 0.5) * 84 / 16, indexing="ij")
        pixels = np.stack([x.ravel(), y.ravel(), np.ones(256)])
        rays = np.linalg.inv(K[0].double().numpy()) @ pixels
        u = rays / rays[2]

        def residual(k, u=u, pixels=pixels):
            return np.concatenate([k[0] * u[0] + k[2] - pixels[0], k[1] * u[1] + k[3] - pixels[1]])

        found = least_squares(residual, [50, 50, 40, 30])
        assert np.allclose(read.K[0].numpy()[[0, 1, 0, 1], [0, 1, 2, 2]], found.x, atol=1e-3)
        assert errors[0] == pytest.approx(np.sqrt((found.fun**2).sum() / 256), rel=1e-3)


def test_transforms_name_a_lens_that_trainers_know_once_for_all(scene, tmp_path):
    maps, cloud = scene
    write_nerfstudio_dataset(tmp_path / "same", NAMES, maps, cloud)
    K = maps.cameras.K.clone()
    K[1, 0, 0] += 3
    other = replace(maps, cameras=replace(maps.cameras, K=K))
    write_nerfstudio_dataset(tmp_path / "other", NAMES, other, cloud)
    same, other = (
        json.loads((tmp_path / name / "transforms.json").read_text(encoding="utf-8")) for name in ("same", "other")
    )
    for content in (same, other):
        assert content["camera_model"] == "OPENCV" and content["w"] == 84 and content["h"] == 56
        assert [content[key] for key in ("k1", "k2", "p1", "p2")] == [0, 0, 0, 0]
    assert same["fl_x"] == maps.cameras.K[0, 0, 0].item() and same["frames"][0]["w"] == 84
    assert "fl_x" not in other and other["frames"][1]["fl_x"] == K[1, 0, 0].item()


def test_at_most_as_many_points_as_a_sparse_reconstruction_are_written(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "SPARSE_POINTS", 500)
    for write in WRITERS:
        write(tmp_path / write.__name__, NAMES, *scene)
    assert 300 < len(trimesh.load(tmp_path / "write_nerfstudio_dataset" / "points.ply").vertices) <= 500
    assert 300 < len(read_colmap_points(tmp_path / "write_colmap_dataset")[0]) <= 500


def test_nerfstudio_finds_pictures_depth_in_thousandths_and_points(scene, tmp_path):
    maps, cloud = scene
    write_nerfstudio_dataset(tmp_path / "set", NAMES, maps, cloud)
    content = json.loads((tmp_path / "set" / "transforms.json").read_text(encoding="utf-8"))
    for view, frame in enumerate(content["frames"]):
        assert (tmp_path / "set" / frame["file_path"]).is_file()
        millis = np.load(tmp_path / "set" / frame["depth_file_path"])
        known = torch.isfinite(maps.depth[view]).numpy()
        assert millis.dtype == np.float32 and (millis[~known] == 0).all()
        assert np.allclose(millis[known] * 1e-3, maps.depth[view].numpy()[known], rtol=1e-6)
    assert len(trimesh.load(tmp_path / "set" / content["ply_file_path"]).vertices) == len(cloud.xyz)
    read, _ = read_cameras(tmp_path / "set")
    assert torch.allclose(read.c2w, maps.cameras.c2w, atol=1e-6) and torch.allclose(read.K, maps.cameras.K)


class Failing(PosedDepth):
    """Views of which the last one's picture cannot be had."""

    def picture(self, view):
        if view == len(self) - 1:
            raise OSError("no picture")
        return super().picture(view)


def test_a_data_set_is_whole_or_not_there_and_replaces_nothing(scene, tmp_path):
    maps, cloud = scene
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="choose another name"):
        write_nerfstudio_dataset(tmp_path / "set", NAMES, maps, cloud)
    with pytest.raises(OSError, match="no picture"):
        write_nerfstudio_dataset(
            tmp_path / "other", NAMES, Failing(maps.depth, maps.cameras, images=maps.images), cloud
        )
    for names in (["a", "b"], ["a", "b", "a"], ["a", "b", "../c"]):
        with pytest.raises(ValueError, match="name"):
            write_nerfstudio_dataset(tmp_path / "other", names, maps, cloud)
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "mine.txt"]
