"""Which cameras are refused, with which sentence, what the network is told of cameras in one point, and the order of
a path.
"""

import pytest
import torch

from gld_core.cameras import Cameras, motions
from gld_core.cameras.conventions import check_scene, in_one_point, path_order
from gld_core.conditioning import camera_map, scaled_w2c

HEIGHT, WIDTH = 70, 98
K = torch.tensor([[80.0, 0, 49], [0, 80, 35], [0, 0, 1]])


def cameras(positions, K=K, turn=0.0) -> Cameras:
    angle = torch.arange(len(positions)) * turn
    c2w = torch.eye(4).repeat(len(positions), 1, 1)
    c2w[:, 0, 0] = c2w[:, 2, 2] = angle.cos()
    c2w[:, 0, 2], c2w[:, 2, 0] = angle.sin(), -angle.sin()
    c2w[:, :3, 3] = torch.tensor(positions)
    return Cameras(c2w, K.expand(len(positions), 3, 3), HEIGHT, WIDTH)


def spoiled(c2w=None, K=None) -> Cameras:
    good = cameras([[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]])
    return Cameras(good.c2w if c2w is None else good.c2w @ c2w, good.K if K is None else K, HEIGHT, WIDTH)


LENSES = torch.stack([K, torch.tensor([[120.0, 0, 49], [0, 120, 35], [0, 0, 1]])])


@pytest.mark.parametrize(
    "wrong, depth, message",
    [
        (spoiled(torch.diag(torch.tensor([1.0, 1, -1, 1]))), None, "rotation of view 0 is mirrored"),
        (spoiled(torch.diag(torch.tensor([2.0, 2, 2, 1]))), None, "rotation of view 0 is not orthonormal"),
        (spoiled(torch.full((4, 4), torch.nan)), None, "pose of view 0 is not finite"),
        (spoiled(K=(K * torch.tensor([[2.0], [2], [1]])).expand(3, 3, 3)), None, "K belongs to another image size"),
        (spoiled(K=(K * torch.tensor([[0.5], [0.5], [1]])).expand(3, 3, 3)), None, "K belongs to another image size"),
        (cameras([[0.0, 0, 0], [0.5, 0, 0], [250.0, 0, 0]]), 2.0, "View 2 stands 125 times the scene's depth"),
        (cameras([[3.0, 0, 0], [3.0, 0, 0]], LENSES), None, "2 source cameras stand in one point but have different K"),
    ],
)
def test_wrong_cameras_are_caught(wrong, depth, message):
    with pytest.raises(ValueError, match=message):
        check_scene(wrong, 2, depth)


def test_a_zoom_from_one_photograph_and_a_panorama_are_not_wrong():
    check_scene(cameras([[3.0, 0, 0], [3.0, 0, 0]], LENSES), 1, 2.0)
    check_scene(cameras([[3.0, 0, 0], [3.0, 0, 0]], turn=0.5), 2, 2.0)
    check_scene(cameras([[0.0, 0, 0], [150.0, 0, 0]]), 2, 2.0)


def test_turning_in_one_point_is_the_same_wherever_that_point_is():
    here = cameras([[0.0, 0, 0]] * 3, turn=0.4)
    there = cameras([[30.1, -2.3, 8.7]] * 3, turn=0.4)
    assert torch.allclose(camera_map(here, 1), camera_map(there, 1), atol=1e-6)
    assert torch.allclose(scaled_w2c(here), scaled_w2c(there))
    assert scaled_w2c(there)[:, :3, 3].abs().max() == 0


def test_cameras_a_little_apart_are_not_taken_for_one_point():
    apart = cameras([[30.0, 0, 0], [30.01, 0, 0]])
    assert camera_map(apart, 1)[0, 4:].abs().max() > 0.1


def test_sources_go_where_the_path_comes_nearest_and_targets_keep_their_order():
    beside = [[2.4, 0.2, 0.0], [-0.5, 0, 0]]
    along = [[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0], [3.0, 0, 0]]
    assert path_order(cameras(beside + along), 2) == [1, 2, 3, 4, 0, 5]
    assert path_order(cameras(along), 0) == [0, 1, 2, 3]


def test_on_a_turn_in_one_point_sources_go_by_where_they_look():
    turning = cameras([[0.0, 0, 0]] * 5, turn=0.3)
    assert path_order(turning[[2, 0, 1, 3, 4]], 1) == [1, 2, 0, 3, 4]


ECEF = torch.tensor([4_198_945.25, 478_911.5, 4_779_321.75], dtype=torch.float64)


def far_cameras() -> Cameras:
    """Three cameras 23.5 m apart in metres from the Earth's middle."""
    c2w = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    c2w[:, 0, 3] = torch.tensor([0.0, 23.5, 47.0])
    c2w[:, :3, 3] += ECEF
    return Cameras.in_world(c2w, K.expand(3, 3, 3), HEIGHT, WIDTH)


def test_far_from_the_origin_a_baseline_keeps_its_length():
    far = far_cameras()
    assert (far.c2w[1:, 0, 3] - far.c2w[:-1, 0, 3]).tolist() == [23.5, 23.5]
    assert (far.world_c2w[:, :3, 3] - ECEF).abs().max() <= 47.0 and not in_one_point(far.c2w)
    assert torch.allclose(far[[0]].world_c2w[0, :3, 3], ECEF, rtol=0, atol=1e-6)


def test_a_truck_far_from_the_origin_moves_in_even_steps():
    path = motions.targets(far_cameras(), "truck", 5, depth=1.0)
    steps = path.c2w[1:, 0, 3].double() - path.c2w[:-1, 0, 3].double()
    assert torch.allclose(steps, torch.full((4,), 0.06, dtype=torch.float64), atol=1e-5)
    assert torch.equal(path.origin, far_cameras().origin)


def test_cameras_with_different_origins_are_joined_in_one_world():
    joined = motions.join(far_cameras(), cameras([[1.0, 2, 3]]))
    assert torch.allclose(joined.world_c2w[3, :3, 3], torch.tensor([1.0, 2, 3]).double(), atol=0.5)
    assert torch.allclose(joined.world_c2w[1, :3, 3], ECEF + torch.tensor([23.5, 0, 0]), rtol=0, atol=1e-6)


def test_turning_in_one_point_far_from_the_origin_is_one_point():
    c2w = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    c2w[:, :3, 3] = ECEF + 1e-9 * torch.arange(3)[:, None]
    assert in_one_point(Cameras.in_world(c2w, K.expand(3, 3, 3), HEIGHT, WIDTH).c2w)
