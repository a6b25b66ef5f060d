"""What sources have seen of the targets, against rooms and walls where that is known, and the pictures of a path."""

from dataclasses import replace

import pytest
import torch

from gld_core.cameras import Cameras
from gld_core.cameras.motions import join, targets
from gld_core.export.camera_plan import UNSEEN_COLOR, described, frusta, plan
from gld_core.export.gltf import SOURCE_COLOR, TARGET_COLOR
from gld_core.geometry.depth_maps import PosedDepth
from gld_core.geometry.points import samples
from gld_core.geometry.reprojection import reproject
from gld_core.synthetic.render import render_scene

HEIGHT, WIDTH = 70, 98
K = torch.tensor([[60.0, 0, 49], [0, 60, 35], [0, 0, 1]])


def coverage(maps: PosedDepth, views: Cameras, progress=None):
    grey = torch.full((len(maps), 3, views.height, views.width), 0.5)
    return reproject(replace(maps, images=grey), views, progress)[1]


def camera(position=(0.0, 0, 0), K=K) -> Cameras:
    c2w = torch.eye(4)
    c2w[:3, 3] = torch.tensor(position)
    return Cameras(c2w[None], K[None], HEIGHT, WIDTH)


WALL = torch.full((1, HEIGHT, WIDTH), 3.0)
WALL_MAPS = PosedDepth(WALL, camera())


def test_a_source_covers_itself_and_what_it_sees_of_a_wall_after_a_step_aside():
    assert coverage(WALL_MAPS, camera())[0].mean() == 1
    mask = coverage(WALL_MAPS, camera((0.98, 0, 0)))[0]
    # The wall is 3 away and 4.9 wide: a fifth of the view, at the right, was outside the source's.
    assert mask.shape == (HEIGHT, WIDTH) and abs(mask.mean() - 0.8) < 0.01
    assert mask[:, :76].all() and not mask[:, 80:].any()


@pytest.mark.parametrize("nearness", [0.3, 0.6, 0.9])
def test_a_wall_stays_whole_from_near_by_and_with_a_longer_lens(nearness):
    assert coverage(WALL_MAPS, camera((0, 0, 3 * nearness)))[0].mean() == 1
    lens = K * torch.tensor([[1 / (1 - nearness)], [1 / (1 - nearness)], [1]])
    lens[:2, 2] = K[:2, 2]
    assert coverage(WALL_MAPS, camera(K=lens))[0].mean() == 1


@pytest.mark.parametrize(
    "sources, seen, text",
    [
        (1, [0.75], "1 target: 75% seen by a source"),
        (2, [1.0, 0.5, 0.75], "3 targets: 75% seen by a source, least in view 3 (50%)"),
        (1, [0.0, 1.0], "2 targets: 50% seen by a source, least in view 1 (0%); 1 mostly unseen"),
    ],
)
def test_what_is_seen_is_said_in_words(sources, seen, text):
    masks = (torch.arange(4) < 4 * torch.tensor(seen)[:, None]).float()[:, None]
    assert described(sources, masks).splitlines()[0] == text


def test_from_behind_a_wall_was_not_seen():
    behind = targets(camera(), "orbit", 1, 3.0, degrees=180)
    assert coverage(WALL_MAPS, behind)[0].mean() == 0


def test_a_surface_seen_from_behind_hides_what_lies_further_back():
    facing = torch.diag(torch.tensor([-1.0, 1, -1, 1]))
    facing[2, 3] = 2.0
    sources = join(camera(), Cameras(facing[None], K[None], HEIGHT, WIDTH))
    keep = torch.ones(2, HEIGHT, WIDTH, dtype=torch.bool)
    keep[1] = False
    keep[1, 25:45, 39:59] = True
    # The second source looks back at a card between the first one and its wall.
    mask = coverage(PosedDepth(torch.cat([WALL, torch.ones_like(WALL)]), sources, keep), camera())[0]
    assert not mask[26:44, 40:58].any() and mask[:24].all() and mask[:, 61:].all()


def test_what_an_object_hid_from_the_source_is_not_covered_from_the_side():
    depth = WALL.clone()
    depth[:, 25:45, 39:59] = 1.0  # a card 1 away in front of the wall
    mask = coverage(PosedDepth(depth, camera()), camera((0.3, 0, 0)))[0]
    # Seen from 0.3 to the right the card moves left by 18 pixels and its shadow on the wall by 6.
    row = mask[35]
    assert row[22:40].all() and not row[43:52].any() and row[55:].tolist()[:30] == [1] * 30
    assert 0.9 < mask.mean() < 1


def test_what_does_not_count_covers_nothing():
    keep = torch.ones_like(WALL, dtype=torch.bool)
    keep[:, :, :49] = False
    mask = coverage(PosedDepth(WALL, camera(), keep), camera())[0]
    assert not mask[:, :48].any() and mask[:, 49:].all()


def test_frames_along_a_walk_through_a_room_are_covered_and_frames_turned_away_are_not():
    _, depth, cameras = render_scene(3, 5, 84, 126)
    between = coverage(PosedDepth(depth[[0, 4]], cameras[[0, 4]]), cameras[[1, 2, 3]]).mean((1, 2))
    # What objects hide from both sources is about 1 % of the views between them.
    assert 0.98 < between.min() < 1
    turning = targets(cameras[[0, 4]], "pan", 2, 1.0, degrees=180, first_is_source=True)
    same, away = coverage(PosedDepth(depth[[0, 4]], cameras[[0, 4]]), turning).mean((1, 2))
    assert same > 0.99 and away < 0.02


def test_progress_is_told_and_can_cancel():
    seen = []
    coverage(WALL_MAPS, join(camera(), camera()), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(KeyboardInterrupt):
        coverage(WALL_MAPS, camera(), progress=lambda done, total: (_ for _ in ()).throw(KeyboardInterrupt))


def test_of_many_pixels_every_nth_row_and_column_is_sampled_and_stands_for_so_much_more():
    """A wall 3 away, 4.9 wide and 3.5 high: 4 x 4 of its pixels a point."""
    maps = PosedDepth(WALL.repeat(2, 1, 1), join(camera(), camera()), None, torch.ones(2, 3, HEIGHT, WIDTH))
    looks = []
    surface, sides = samples(maps, 1000, lambda: looks.append(1))
    rows, columns = (torch.arange(0.5, end, 4) for end in (HEIGHT, WIDTH))
    assert len(looks) == 2 and len(surface.xyz) == 2 * len(rows) * len(columns) <= 1000
    assert torch.allclose(surface.xyz[: len(columns), 0], (columns - 49) * 3 / 60, atol=1e-5)
    assert (surface.rgb == 255).all() and sides.min() == pytest.approx(4 * 3 / 60, rel=0.02)


def marks(picture, color):
    """(M, 2) row and column of the pixels of one colour."""
    return ((picture - torch.tensor(color) / 255).abs().amax(-1) < 0.01).nonzero().float()


PATH = join(camera(), targets(camera(), "truck", 3, 3.0, distance=1.0))
GREEN = torch.tensor([[0, 255, 0]], dtype=torch.uint8)


def panels(picture):
    """What is below their titles: from above, from the side."""
    rule = (picture - torch.tensor((190, 188, 180)) / 255).abs().amax(-1) < 0.01
    top = int((rule.sum(1) > 100).nonzero()[-1, 0]) + 39
    return picture[top:-44].chunk(2, dim=1)


def test_the_plan_shows_the_path_from_above_and_from_the_side():
    points = torch.tensor([[0.0, -1, 3], [3, -1, 3]])
    above, side = panels(plan(PATH, 1, points, GREEN.expand(2, 3), torch.tensor([0.9, 0.8, 0.1])))
    source, target, unseen = (marks(above, color).mean(0) for color in (SOURCE_COLOR, TARGET_COLOR, UNSEEN_COLOR))
    walls = marks(above, (0, 255, 0))
    assert source[1] < target[1] < unseen[1], "what is to the right is to the right"
    assert (walls[:, 0] < source[0]).all(), "the first camera looks up the page"
    walls, source = marks(side, (0, 255, 0)), marks(side, SOURCE_COLOR)
    assert walls[:, 1].min() > source[:, 1].max() and walls[:, 0].max() < source[:, 0].min(), "ahead, and above"


def test_a_point_of_the_plan_is_as_large_as_the_surface_that_it_stands_for():
    points = torch.tensor([[0.0, -1, 3], [3, -1, 3]])
    above, _ = panels(plan(PATH, 1, points, GREEN.expand(2, 3), spacing=torch.tensor([0.0, 0.05])))
    far = marks(above, (0, 255, 0))
    # 448 pixels for a scene that is about 4 units wide: 5 or 6 for 0.05.
    left, right = (far[far[:, 1] < 260], far[far[:, 1] > 260])
    assert len(left) == 4 and 25 <= len(right) <= 49


def test_the_plan_warns_of_unseen_targets_only_where_there_are_some():
    points = torch.tensor([[0.0, -1, 3]])
    for share, shown in ((None, False), (torch.tensor([0.9, 0.8, 0.7]), False), (torch.tensor([0.9, 0.8, 0.1]), True)):
        assert bool(len(marks(plan(PATH, 1, points, share=share), UNSEEN_COLOR))) == shown
    alone = plan(camera(), 1, points)
    assert not len(marks(alone, TARGET_COLOR)) and len(marks(alone, SOURCE_COLOR))


def test_nothing_of_the_plan_is_cut_at_an_edge():
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([4.0, 2, 5])
    for motion, settings in (
        ("truck", {"distance": 3.0}),
        ("pedestal", {"distance": 3.0}),
        ("dolly", {"distance": -4.0}),
    ):
        path = join(camera(), targets(camera(), motion, 11, 3.0, **settings))
        for panel in panels(plan(path, 1, points, GREEN.expand(500, 3))):
            paper = panel[panel.shape[0] // 2, 0]
            edge = torch.cat([panel[0], panel[-1], panel[:, 0], panel[:, -1]])
            assert (edge == paper).all()


def test_numbered_frusta_have_the_colours_of_their_coverage():
    path = join(camera(), targets(camera(), "truck", 11, 3.0))
    share = torch.linspace(1, 0, 11)
    lines = frusta(path, 1, 0.2, share)
    assert lines.segments.max() == len(lines.xyz) - 1 and len(lines.rgb) == len(lines.xyz)
    colors = [tuple(color) for color in lines.rgb[:60:5].tolist()]
    assert colors == [SOURCE_COLOR] + [TARGET_COLOR] * 6 + [UNSEEN_COLOR] * 5
    # 5 corners each; 0 has 6 strokes, 1 has 2, 10 and 11 have 8 and 4, ...
    strokes = [6, 2, 5, 5, 4, 5, 6, 3, 7, 6, 8, 4]
    assert len(lines.xyz) == 12 * 5 + 2 * sum(strokes)
    assert len(lines.segments) == 12 * 8 + sum(strokes)
    # They stand on the upper edge: above it (y is down) and not higher than the frustum is.
    digits = lines.xyz[60:]
    top = -0.2 * 35 / 60
    assert digits[:, 1].max() < top and digits[:, 1].min() > 3 * top
