"""Posed scenes: what is read, in which order, how views are chosen, and which sentence each mistake gets."""

import numpy as np
import pytest
import torch

from gld_core.cameras import Cameras
from gld_core.io.cameras import read_scene
from gld_core.io.posed_folders import write_scene
from gld_core.io.scenes import choose_views, interpolate

K = np.array([[60.0, 0, 35], [0, 60, 21], [0, 0, 1]])


@pytest.fixture
def folder(tmp_path):
    """Three views of 70 x 42, in a folder of their own."""
    c2w = torch.eye(4).repeat(3, 1, 1)
    c2w[:, 0, 3] = torch.arange(3)
    images = torch.arange(1, 4).view(3, 1, 1, 1).expand(3, 3, 42, 70) / 4
    cameras = Cameras(c2w, torch.tensor(K).expand(3, 3, 3), 42, 70)
    write_scene(tmp_path / "scene", images, cameras, ["view_1", "view_2", "view_10"])
    return tmp_path / "scene"


def camera(folder, name, pose=None, intrinsic=K):
    np.savez(folder / f"{name}.npz", pose=np.eye(4) if pose is None else pose, intrinsic=intrinsic)


def test_a_written_scene_is_read_back_in_natural_order(folder):
    scene = read_scene(folder, 70)
    assert scene.names == ["view_1", "view_2", "view_10"]
    assert torch.equal(scene.cameras.c2w[:, 0, 3], torch.tensor([0.0, 1, 2]))
    assert torch.allclose(scene.photographs([0, 2])[:, 0, 0, 0], torch.tensor([1.0, 3]) / 4, atol=1 / 255)
    assert torch.equal(scene.cameras.K[1].double(), torch.tensor(K))


def test_intrinsics_follow_the_pictures_to_the_asked_size(folder):
    cameras = read_scene(folder, 140).cameras
    assert (cameras.height, cameras.width) == (84, 140)
    assert torch.equal(cameras.K[0, :2].double(), torch.tensor(K[:2] * 2))


def test_the_released_scenes_are_read_as_they_are(shared):
    for name in ("re10k_indoor", "dl3dv_outdoor"):
        scene = read_scene(shared / "scenes" / name)
        assert len(scene) == 8 and (scene.cameras.height, scene.cameras.width) == (280, 504)
        stored = np.load(shared / "scenes" / name / f"{scene.names[3]}.npz")
        assert np.array_equal(scene.cameras.c2w[3].numpy(), stored["pose"])
        assert np.array_equal(scene.cameras.K[3].numpy(), stored["intrinsic"])


def test_a_camera_without_a_picture_can_be_a_target_only(folder):
    (folder / "view_2.png").unlink()
    scene = read_scene(folder, 70)
    assert scene.views[1].picture is None and torch.equal(scene.cameras.K[1].double(), torch.tensor(K))
    with pytest.raises(ValueError, match="view_2 has a camera but no picture"):
        scene.photographs([0, 1])


def turned(angle):
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return pose


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: (f / "view_2.npz").unlink(), "view_2.npz is missing"),
        (lambda f: (f / "view_2.npz").write_bytes(b"PK\x03\x04 cut"), "view_2.npz cannot be read"),
        (lambda f: np.savez(f / "view_2.npz", pose=np.eye(4)), "view_2.npz has nothing under 'intrinsic'"),
        (lambda f: camera(f, "view_2", np.eye(3)), r"view_2.npz has \(3, 3\) under 'pose'"),
        (lambda f: camera(f, "view_2", np.eye(4) * np.nan), "view_2.npz has numbers under 'pose' that are not finite"),
        (lambda f: camera(f, "view_2", np.diag([2.0, 2, 2, 1])), "rotation of view_2 is not orthonormal"),
        (lambda f: camera(f, "view_2", np.diag([1.0, 1, -1, 1])), "rotation of view_2 is mirrored"),
        (lambda f: camera(f, "view_2", intrinsic=K * [[2], [2], [1]]), "is of another image size, about 140 x 84"),
        (lambda f: camera(f, "view_2", intrinsic=K / [[70], [42], [1]]), "is of another image size"),
        (lambda f: camera(f, "view_2", intrinsic=K.T), r"is not \[\[fx, 0, cx\]"),
        (lambda f: (f / "view_2.jpg").write_bytes((f / "view_2.png").read_bytes()), "two pictures of one name"),
        (lambda f: [p.unlink() for p in f.glob("view_*0.*")] + [p.unlink() for p in f.glob("*2*")], "no source view 1"),
    ],
)
def test_a_scene_that_cannot_be_is_named_in_a_sentence(folder, spoil, message):
    spoil(folder)
    scene = read_scene(folder, 70)
    with pytest.raises(ValueError, match=message):
        scene.choose([1], [0])
        scene.load([1], [0])


def test_a_missing_folder_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        read_scene(tmp_path / "nowhere")


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_code_in_a_camera_file_is_not_run(folder, tmp_path):
    np.savez(folder / "view_2.npz", pose=np.array([Touch(tmp_path / "ran")], dtype=object), intrinsic=K)
    with pytest.raises(ValueError, match="view_2.npz: 'pose' holds object and no numbers"):
        read_scene(folder, 70).choose([1], [0])
    assert not (tmp_path / "ran").exists()


def test_interpolated_sources_are_spread_from_the_first_to_the_last_view():
    assert [interpolate(8, n) for n in (1, 2, 3, 4)] == [[0], [0, 7], [0, 4, 7], [0, 2, 5, 7]]
    assert choose_views(5, 2) == ([0, 4], [1, 2, 3])


def test_explicit_views_keep_their_order():
    assert choose_views(6, [5, 0], [3, 1]) == ([5, 0], [3, 1])
    assert choose_views(4, [2]) == ([2], [0, 1, 3])


@pytest.mark.parametrize(
    "sources, targets, message",
    [
        (0, None, "0 sources of 4 views"),
        (4, None, "4 sources of 4 views"),
        ([0, 1, 2, 3], None, "No target view is left"),
        ([4], None, "no source view 4"),
        ([0], [-1], "no target view -1"),
        ([1, 1], None, "source view 1 is given twice"),
        ([0], [2, 2], "target view 2 is given twice"),
        ([0, 1], [1, 2], "View 1 is both"),
    ],
)
def test_a_choice_of_views_that_cannot_be_is_a_sentence(sources, targets, message):
    with pytest.raises(ValueError, match=message):
        choose_views(4, sources, targets)
