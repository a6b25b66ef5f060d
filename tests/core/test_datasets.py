"""Data sets for trainers: read by the programs that they are for, whole, and never over what is there."""

import json

import numpy as np
import pytest
import torch
import trimesh

from gld_core.export.datasets import write_colmap_dataset, write_nerfstudio_dataset
from gld_core.geometry.points import fuse_points
from gld_core.io.cameras import read_cameras
from gld_core.synthetic.render import render_scene

NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def scene():
    images, depth, cameras = render_scene(3, 3, 56, 84)
    depth[0, :4] = torch.nan
    keep = torch.isfinite(depth)
    return images, depth, keep, cameras, fuse_points(depth, images, cameras, keep)


@pytest.mark.parametrize("binary", [True, False])
def test_colmap_reads_its_model_and_sees_the_points_where_it_says(scene, tmp_path, binary):
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed: COLMAP itself read nothing")
    images, depth, keep, cameras, cloud = scene
    write_colmap_dataset(tmp_path / "set", NAMES, images, depth, keep, cameras, cloud, binary)
    model = pycolmap.Reconstruction(str(tmp_path / "set" / "sparse" / "0"))
    assert len(model.points3D) == len(cloud.xyz) and model.compute_mean_track_length() > 1.5
    for image in model.images.values():
        view = NAMES.index(image.name[:-4])
        assert (tmp_path / "set" / "images" / image.name).is_file()
        assert image.num_points3D > 0.8 * keep[view].sum() / 3
        for seen in image.points2D[::20]:
            point = model.points3D[seen.point3D_id]
            assert np.linalg.norm(image.project_point(point.xyz) - seen.xy) < 1e-3
            column, row = np.floor(seen.xy).astype(int)
            assert depth[view, row, column] == pytest.approx((image.cam_from_world() * point.xyz)[2], rel=0.1)
            assert (image.image_id, seen) in [
                (element.image_id, model.images[element.image_id].points2D[element.point2D_idx])
                for element in point.track.elements
            ]


def test_nerfstudio_finds_pictures_depth_in_thousandths_and_points(scene, tmp_path):
    images, depth, _, cameras, cloud = scene
    write_nerfstudio_dataset(tmp_path / "set", NAMES, images, depth, cameras, cloud)
    content = json.loads((tmp_path / "set" / "transforms.json").read_text())
    for view, frame in enumerate(content["frames"]):
        assert (tmp_path / "set" / frame["file_path"]).is_file()
        millis = np.load(tmp_path / "set" / frame["depth_file_path"])
        known = torch.isfinite(depth[view]).numpy()
        assert millis.dtype == np.float32 and (millis[~known] == 0).all()
        assert np.allclose(millis[known] * 1e-3, depth[view].numpy()[known], rtol=1e-6)
    assert len(trimesh.load(tmp_path / "set" / content["ply_file_path"]).vertices) == len(cloud.xyz)
    read, _ = read_cameras(tmp_path / "set")
    assert torch.allclose(read.c2w, cameras.c2w, atol=1e-6) and torch.allclose(read.K, cameras.K)


class Failing(list):
    """Depth of which the last view cannot be had."""

    def __iter__(self):
        yield from list.__iter__(self[:-1])
        raise OSError("no depth")


def test_a_data_set_is_whole_or_not_there_and_replaces_nothing(scene, tmp_path):
    images, depth, _, cameras, cloud = scene
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="choose another name"):
        write_nerfstudio_dataset(tmp_path / "set", NAMES, images, depth, cameras, cloud)
    with pytest.raises(OSError, match="no depth"):
        write_nerfstudio_dataset(tmp_path / "other", NAMES, images, Failing(depth), cameras, cloud)
    for names in (["a", "b"], ["a", "b", "a"], ["a", "b", "../c"]):
        with pytest.raises(ValueError, match="name"):
            write_nerfstudio_dataset(tmp_path / "other", names, images, depth, cameras, cloud)
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "mine.txt"]
