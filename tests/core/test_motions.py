"""Where the targets look from: each motion by what a person at the camera would see."""

import math

import pytest
import torch

from gld_core.cameras import Cameras
from gld_core.cameras.conventions import check_scene
from gld_core.cameras.motions import MOTIONS, axes_meeting, join, resampled, rotation, scene_depth, targets

HEIGHT, WIDTH, DEPTH = 140, 210, 5.0
K = torch.tensor([[150.0, 0, 105], [0, 150, 70], [0, 0, 1]])


def looking(*poses) -> Cameras:
    c2w = torch.stack([torch.as_tensor(pose, dtype=torch.float32) for pose in poses])
    return Cameras(c2w, K.expand(len(poses), 3, 3), HEIGHT, WIDTH)


def around(degrees: float, distance: float = DEPTH, middle=(4.0, -3.0, 7.0)):
    """A camera on a level circle about `middle`, looking at it; OpenCV axes in a world whose -y is up."""
    turn = rotation(torch.tensor([0.0, -1, 0]), degrees)
    turn[:3, 3] = torch.tensor(middle, dtype=torch.float64) - distance * turn[:3, 2]
    return turn


@pytest.fixture
def photo() -> Cameras:
    """One camera somewhere, turned and tilted in its world."""
    tilted = around(25) @ rotation(torch.tensor([1.0, 0, 0]), 12) @ rotation(torch.tensor([0.0, 0, 1]), -8)
    return looking(tilted)


def seen_from(photo: Cameras, cameras: Cameras) -> torch.Tensor:
    """(V, 4, 4) target poses in the photograph's frame: x right, y down, z forward, in scene depths."""
    relative = torch.linalg.inv(photo.c2w[0].double()) @ cameras.c2w.double()
    relative[:, :3, 3] /= DEPTH
    return relative


def pixel(cameras: Cameras, point: torch.Tensor) -> torch.Tensor:
    """(V, 2)"""
    seen = (cameras.w2c[:, :3, :3] @ point.float() + cameras.w2c[:, :3, 3])[..., None]
    seen = (cameras.K @ seen)[..., 0]
    return seen[:, :2] / seen[:, 2:]


@pytest.mark.parametrize("motion", MOTIONS)
def test_every_motion_starts_at_the_source_and_keeps_cameras_usable(photo, motion):
    path = targets(photo, motion, 7, DEPTH, first_is_source=True)
    assert len(path) == 7
    assert torch.allclose(path.c2w[0], photo.c2w[0], atol=1e-5) and torch.allclose(path.K[0], K, atol=1e-4)
    check_scene(join(photo, path), 1, DEPTH)
    later = targets(photo, motion, 7, DEPTH)
    assert motion == "hold" or not torch.allclose(later.c2w[0], path.c2w[0]) or later.K[0, 0, 0] != 150


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_source_that_leans_against_the_others_or_looks_past_their_centre_keeps_its_framing(motion):
    leaning = around(0, 4) @ rotation(torch.tensor([0.0, 0, 1]), 20) @ rotation(torch.tensor([0.0, 1, 0]), 8)
    sources = looking(around(40, 6), leaning, around(-40, 6))
    path = targets(sources, motion, 3, DEPTH, base=1, first_is_source=True)
    assert torch.allclose(path.c2w[0], sources.c2w[1], atol=1e-5)


@pytest.mark.parametrize("motion", ["orbit", "lemniscate", "look_around"])
def test_a_loop_is_closed_and_evenly_spread(photo, motion):
    path = targets(photo, motion, 12, DEPTH, first_is_source=True)
    again = targets(photo, motion, 11, DEPTH)
    assert torch.allclose(path.c2w[1:], again.c2w, atol=1e-5)
    around_the_end = seen_from(photo, path)[[11, 0, 1]]
    before, after = (around_the_end[i] - around_the_end[1] for i in (0, 2))
    assert 0.5 < before.norm() / after.norm() < 2


@pytest.mark.parametrize(
    "motion, settings, position",
    [
        ("dolly", {"distance": 0.4}, (0, 0, 0.4)),
        ("dolly", {"distance": -0.4}, (0, 0, -0.4)),
        ("truck", {"distance": 0.3}, (0.3, 0, 0)),
        ("pedestal", {"distance": 0.3}, (0, -0.3, 0)),
        ("orbit", {"degrees": 90}, (1, 0, 1)),
        ("arc", {"degrees": -90}, (-1, 0, 1)),
        ("arc", {"degrees": 0, "elevation": 90}, (0, -1, 1)),
        ("dolly_zoom", {"factor": 2}, (0, 0, -1)),
        ("spiral", {"radius": 0.2, "turns": 1, "advance": 0.1}, (0, 0.2, 0.1)),
    ],
)
def test_distances_are_shares_of_the_depth_along_the_cameras_axes(photo, motion, settings, position):
    end = seen_from(photo, targets(photo, motion, 5, DEPTH, **settings))[-1]
    assert torch.allclose(end[:3, 3], torch.tensor(position, dtype=torch.float64), atol=1e-5)
    doubled = targets(photo, motion, 5, 2 * DEPTH, **settings)
    assert torch.allclose(seen_from(photo, doubled)[-1, :3, 3], 2 * end[:3, 3], atol=1e-5)


@pytest.mark.parametrize(
    "motion, degrees, forward, up",
    [
        ("pan", 90, (1, 0, 0), (0, -1, 0)),
        ("tilt", 90, (0, -1, 0), (0, 0, -1)),
        ("roll", 90, (0, 0, 1), (1, 0, 0)),
    ],
)
def test_turns_go_right_up_and_clockwise(photo, motion, degrees, forward, up):
    end = seen_from(photo, targets(photo, motion, 3, DEPTH, degrees=degrees))[-1]
    assert end[:3, 3].norm() < 1e-6
    assert torch.allclose(end[:3, 2], torch.tensor(forward, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(-end[:3, 1], torch.tensor(up, dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("motion", ["orbit", "arc", "spiral", "lemniscate", "dolly", "dolly_zoom", "zoom", "roll"])
def test_what_is_in_the_middle_at_the_scenes_depth_stays_there(photo, motion):
    middle = photo.c2w[0, :3, 3] + DEPTH * photo.c2w[0, :3, 2]
    path = targets(photo, motion, 9, DEPTH)
    assert (pixel(path, middle) - torch.tensor([105.0, 70])).abs().max() < 0.01


def test_dolly_zoom_keeps_the_size_of_what_is_at_the_scenes_depth(photo):
    middle = photo.c2w[0, :3, 3] + DEPTH * photo.c2w[0, :3, 2]
    beside = middle + photo.c2w[0, :3, 0] + 0.5 * photo.c2w[0, :3, 1]
    path = targets(photo, "dolly_zoom", 6, DEPTH, factor=2.0, first_is_source=True)
    assert (pixel(path, beside) - pixel(path, beside)[0]).abs().max() < 0.01
    assert math.isclose(path.K[-1, 0, 0], 300, rel_tol=1e-5)


def test_vertical_is_what_the_sources_agree_on(photo):
    level = looking(around(0), around(10))
    rolled = looking(around(0) @ rotation(torch.tensor([0.0, 0, 1]), 30), around(0), around(10), around(20))
    assert torch.allclose(targets(level, "orbit", 5, DEPTH).c2w[:, :3, 1], torch.tensor([0.0, 1, 0]).expand(5, 3))
    raised = targets(rolled, "pedestal", 2, DEPTH).c2w[-1, :3, 3] - rolled.c2w[0, :3, 3]
    assert raised[1] / raised.norm() < -0.98


def test_an_orbit_turns_about_where_the_optical_axes_meet():
    sources = looking(around(0, 4), around(70, 6))
    path = targets(sources, "orbit", 6, DEPTH)
    distance = (path.c2w[:, :3, 3] - torch.tensor([4.0, -3, 7])).norm(dim=1)
    assert torch.allclose(distance, torch.full((6,), 4.0), atol=1e-4)


def test_the_scenes_depth_is_the_median_or_follows_from_the_cameras():
    meeting, parallel = looking(around(0, 4), around(70, 6)), looking(around(0), around(0, 7))
    assert scene_depth(meeting, torch.tensor([1.0, 2, 9, float("nan"), -1])) == 2
    assert math.isclose(scene_depth(meeting), 5, rel_tol=1e-5)
    assert axes_meeting(parallel) is None and math.isclose(scene_depth(parallel), 4, rel_tol=1e-5)
    assert scene_depth(meeting[0]) == 1
    back_to_back = looking(around(0, -4), around(70, -6))
    assert axes_meeting(back_to_back) is None


def test_easing_slows_the_ends(photo):
    def steps(ease):
        path = targets(photo, "truck", 21, DEPTH, ease=ease, first_is_source=True)
        return path.c2w[:, :3, 3].diff(dim=0).norm(dim=1)

    assert torch.allclose(steps("none"), steps("none").mean().expand(20), rtol=1e-4)
    assert steps("in")[0] < 0.2 * steps("in")[-1] and steps("out")[-1] < 0.2 * steps("out")[0]
    assert steps("in_out")[[0, -1]].max() < 0.2 * steps("in_out")[10]
    for ease in ("in", "out", "in_out"):
        assert torch.allclose(steps(ease).sum(), steps("none").sum(), rtol=1e-4)


@pytest.fixture
def walk() -> Cameras:
    """Four cameras along a bent path with uneven gaps and turns of up to 100 degrees, and their own K."""
    cameras = looking(
        around(0), around(15, 5.5), around(115, 8), around(140, 3) @ rotation(torch.tensor([0.0, 0, 1]), 40)
    )
    K = cameras.K.clone()
    K[2:, :2, :2] *= 1.2
    return Cameras(cameras.c2w, K, HEIGHT, WIDTH)


def test_interpolation_passes_through_every_source_smoothly_and_at_an_even_speed(walk):
    path = targets(walk, "interpolate", 401, DEPTH, first_is_source=True)
    check_scene(path, 0, DEPTH)
    gap = torch.cdist(path.c2w[:, :3].flatten(1), walk.c2w[:, :3].flatten(1)).amin(dim=0)
    assert gap.max() < 0.1
    assert torch.allclose(path.c2w[[0, -1]], walk.c2w[[0, -1]], atol=1e-5)
    travel = path.c2w[:, :3, 3].diff(dim=0).norm(dim=1) / DEPTH
    R = path.c2w[:, :3, :3].double()
    turn = torch.linalg.matrix_norm(R[1:] - R[:-1]) / math.sqrt(2)
    speed = travel + turn
    assert speed.max() / speed.min() < 1.2
    velocity = path.c2w[:, :3, 3].diff(dim=0)
    bend = velocity.diff(dim=0).norm(dim=1) / velocity.norm(dim=1)[1:].clamp(min=1e-6)
    assert bend.max() < 0.2
    assert path.K[:, 0, 0].min() >= walk.K[0, 0, 0] - 1e-3 and path.K[:, 0, 0].max() <= walk.K[2, 0, 0] + 1e-3


def test_interpolation_leaves_out_the_sources_themselves_unless_asked(walk):
    path = targets(walk[[0, 1]], "interpolate", 3, DEPTH)
    ends = targets(walk[[0, 1]], "interpolate", 5, DEPTH, first_is_source=True)
    assert torch.allclose(path.c2w, ends.c2w[1:4], atol=1e-5)


def test_between_two_sources_rotations_stay_on_the_great_circle():
    path = targets(looking(around(0), around(80)), "interpolate", 5, DEPTH, first_is_source=True)
    forward = path.c2w[:, :3, 2]
    angles = torch.rad2deg(torch.acos((forward @ forward[0]).clamp(max=1)))
    assert torch.allclose(angles, torch.tensor([0.0, 20, 40, 60, 80]), atol=0.1)


def test_rotations_take_the_shorter_way_round():
    path = targets(looking(around(100), around(-100)), "interpolate", 3, DEPTH, first_is_source=True)
    assert torch.allclose(path.c2w[1, :3, :3], looking(around(180)).c2w[0, :3, :3], atol=1e-5)


def test_a_looped_path_returns_smoothly_to_its_start(walk):
    path = targets(walk, "interpolate", 1000, DEPTH, first_is_source=True, loop=True)
    step = path.c2w[:, :3, 3].roll(-1, dims=0) - path.c2w[:, :3, 3]
    assert step[-1].norm() < 3 * step.norm(dim=1).median()
    assert torch.nn.functional.cosine_similarity(step[-1], step[0], dim=0) > 0.995


def test_keyframes_are_kept_where_there_are_as_many_views_and_joined_where_there_are_more(photo, walk):
    assert torch.equal(targets(photo, "keyframes", 4, DEPTH, keys=walk).c2w, walk.c2w)
    path = targets(photo, "keyframes", 300, DEPTH, keys=walk, first_is_source=True)
    assert torch.allclose(path.c2w[[0, -1]], torch.stack([photo.c2w[0], walk.c2w[-1]]), atol=1e-5)
    assert torch.cdist(path.c2w[:, :3].flatten(1), walk.c2w[:, :3].flatten(1)).amin(dim=0).max() < 0.1


def test_keys_in_one_point_with_one_rotation_are_no_trouble(photo):
    path = targets(photo, "keyframes", 5, DEPTH, keys=photo[[0, 0, 0]])
    assert torch.allclose(path.c2w, photo.c2w.expand(5, 4, 4), atol=1e-5)


def test_a_resampled_path_passes_its_views_at_their_own_pace():
    """Views that are close at first and far apart in the end, on a straight line."""
    keys = looking(*[rotation(torch.tensor([0.0, 0, 1]), 0) for _ in range(5)])
    keys.c2w[:, 0, 3] = torch.tensor([0.0, 0.1, 0.4, 0.9, 1.6])
    assert torch.equal(resampled(keys, 5, DEPTH).c2w, keys.c2w)
    found = resampled(keys, 9, DEPTH)
    assert torch.allclose(found.c2w[::2], keys.c2w, atol=1e-6)
    between = found.c2w[1::2, 0, 3]
    assert (between > keys.c2w[:-1, 0, 3]).all() and (between < keys.c2w[1:, 0, 3]).all()
    fewer = resampled(keys, 3, DEPTH)
    assert torch.allclose(fewer.c2w, keys.c2w[::2], atol=1e-6)
    assert len(resampled(keys[2], 4, DEPTH)) == 4


def test_joined_cameras_are_sources_then_targets(walk, photo):
    joined = join(walk, photo)
    assert torch.equal(joined.c2w, torch.cat([walk.c2w, photo.c2w])) and torch.equal(joined.K[:4], walk.K)


@pytest.mark.parametrize(
    "motion, settings, message",
    [
        ("fly", {}, "There is no motion 'fly'; choose hold, orbit"),
        ("orbit", {"views": 0}, "0 target views were asked for"),
        ("orbit", {"angle": 3}, "'orbit' has no setting 'angle'; it has degrees"),
        ("zoom", {"factor": 0.0}, "setting 'factor' of the motion 'zoom' is 0.0"),
        ("orbit", {"base": 1}, "There is no source 1 to start from; the sources are 0 to 0"),
        ("orbit", {"ease": "fast"}, "There is no ease 'fast'"),
        ("orbit", {"depth": -1.0}, "The scene's depth is -1.0"),
        ("interpolate", {}, "needs 2 sources or more"),
        ("interpolate", {"degrees": 1}, "'interpolate' has no setting 'degrees'"),
        ("keyframes", {}, "was given no keyframes"),
        ("keyframes", {"keys": Cameras(torch.eye(4)[None], K[None], 70, 70)}, "keyframes are for 70x70 images"),
    ],
)
def test_what_cannot_be_done_gets_its_sentence(photo, motion, settings, message):
    with pytest.raises(ValueError, match=message):
        targets(photo, motion, settings.pop("views", 5), settings.pop("depth", DEPTH), **settings)
