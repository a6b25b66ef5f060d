"""Data sets for trainers: read by the programs that they are for, whole, and never over what is there."""

import json

import numpy as np
import pytest
import torch
import trimesh

from gld_core.export.datasets import write_colmap_dataset, write_nerfstudio_dataset
from gld_core.geometry.depth_maps import PosedDepth
from gld_core.geometry.points import fuse_points
from gld_core.io.cameras import read_cameras
from gld_core.synthetic.render import render_scene

NAMES = ["a", "b", "c"]


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
