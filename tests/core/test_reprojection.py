"""The sources' photographs drawn from other cameras, against rooms seen from there, and the editor's file of them."""

import json
import math
import struct

import numpy as np
import pytest
import torch

from gld_core.cameras import Cameras
from gld_core.cameras.motions import join, targets
from gld_core.export.editor_scene import scene_bytes
from gld_core.geometry import reprojection
from gld_core.geometry.depth_maps import PosedDepth
from gld_core.geometry.reprojection import HOLE, reproject
from gld_core.synthetic.render import render_scene

HEIGHT, WIDTH = 70, 98
K = torch.tensor([[60.0, 0, 49], [0, 60, 35], [0, 0, 1]])


def camera(position=(0.0, 0, 0)) -> Cameras:
    c2w = torch.eye(4)
    c2w[:3, 3] = torch.tensor(position)
    return Cameras(c2w[None], K[None], HEIGHT, WIDTH)


def wall(camera: Cameras, depth: float = 3.0) -> PosedDepth:
    """A wall across the view, painted with its own pixels' columns (red) and rows (green)."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT) / HEIGHT, torch.arange(WIDTH) / WIDTH, indexing="ij")
    image = torch.stack([columns, rows, torch.zeros(HEIGHT, WIDTH)])
    return PosedDepth(torch.full((1, HEIGHT, WIDTH), depth), camera, None, image[None])


def test_a_source_sees_its_own_photograph():
    source = wall(camera())
    pictures, mask = reproject(source, camera())
    assert mask[0, 1:-1, 1:-1].all()
    assert torch.allclose(pictures[0, :, 1:-1, 1:-1], source.images[0, :, 1:-1, 1:-1], atol=1e-4)


def test_after_a_step_aside_the_photograph_moves_and_what_was_outside_it_is_a_hole():
    pictures, mask = reproject(wall(camera()), camera((0.5, 0, 0)))
    # 10 pixels at 60 pixels a unit, 3 units away.
    assert mask[0, 1:-1, 1:87].all() and not mask[0, :, 89:].any()
    assert torch.allclose(pictures[0, 0, 35, 1:87], (torch.arange(1, 87) + 10) / WIDTH, atol=1e-4)
    assert torch.allclose(pictures[0, :, 35, 95], torch.tensor(HOLE))


def test_what_was_seen_from_behind_hides_and_is_a_hole():
    facing = torch.diag(torch.tensor([-1.0, 1, -1, 1]))
    facing[2, 3] = 2.0
    both = join(camera(), Cameras(facing[None], K[None], HEIGHT, WIDTH))
    keep = torch.ones(2, HEIGHT, WIDTH, dtype=torch.bool)
    keep[1] = False
    keep[1, 25:45, 39:59] = True
    depth = torch.stack([torch.full((HEIGHT, WIDTH), 3.0), torch.ones(HEIGHT, WIDTH)])
    _, mask = reproject(PosedDepth(depth, both, keep, torch.zeros(2, 3, HEIGHT, WIDTH)), camera())
    assert not mask[0, 27:43, 41:57].any() and mask[0, 1:24].all(dim=0)[1:-1].all()


def test_from_near_by_and_from_behind():
    assert reproject(wall(camera()), camera((0, 0, 2.5)))[1][0].all()
    behind = targets(camera(), "orbit", 1, 3.0, degrees=180)
    assert not reproject(wall(camera()), behind)[1].any()


def test_there_is_a_look_at_progress_after_every_source_of_every_view(monkeypatch):
    """So what lies between two looks is the work on one source, however many there are."""
    sources, views = (targets(camera(), "orbit", count, 3.0, degrees=20) for count in (5, 3))
    maps = PosedDepth(torch.full((5, HEIGHT, WIDTH), 3.0), sources, None, torch.zeros(5, 3, HEIGHT, WIDTH))
    told, drawn, draw = [], [], reprojection.draw
    monkeypatch.setattr(reprojection, "draw", lambda *given: drawn.append((len(told), len(given[0]))) or draw(*given))
    reproject(maps, views, lambda *progress: told.append(progress))
    assert told == [(done, 5 * 4) for done in range(1, 5 * 4 + 1)]
    assert [looks for looks, _ in drawn] == list(range(5, 5 * 4))
    assert max(faces for _, faces in drawn) <= 2 * HEIGHT * WIDTH


@pytest.mark.parametrize("seed", [0, 3])
def test_in_a_room_what_is_drawn_is_what_is_there(seed):
    """Colours against the room's own; unseen against what a ray to the source says of every pixel's point."""
    images, depth, cameras = render_scene(seed, 5, 168, 252)
    ends, between = [0, 4], [1, 2, 3]
    pictures, masks = reproject(PosedDepth(depth[ends], cameras[ends], None, images[ends]), cameras[between])
    for view, number in enumerate(between):
        off = (pictures[view] - images[number]).abs().mean(0)[masks[view].bool()]
        assert off.median() < 0.01 and (off > 0.1).float().mean() < 0.05
        seen = exactly_seen(depth[ends], cameras[ends], depth[number], cameras[number])
        assert abs(masks[view].mean() - seen.float().mean()) < 0.03


def exactly_seen(depths, sources, depth, target) -> torch.Tensor:
    """(H, W) bool: whether the point of a target's pixel is what a source has in its place."""
    H, W = depth.shape
    v, u = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    rays = torch.stack([u, v, torch.ones(H, W)], -1) @ torch.linalg.inv(target.K[0]).T
    xyz = depth[..., None] * rays @ target.c2w[0, :3, :3].T + target.c2w[0, :3, 3]
    seen = torch.zeros(H, W, dtype=torch.bool)
    for source in range(len(sources)):
        local = (xyz - sources.c2w[source, :3, 3]) @ sources.c2w[source, :3, :3]
        x, y = ((local @ sources.K[source].T)[..., :2] / local[..., 2:]).unbind(-1)
        inside = (local[..., 2] > 0) & (x >= 0) & (x < W) & (y >= 0) & (y < H)
        there = depths[source][y.long().clamp(0, H - 1), x.long().clamp(0, W - 1)]
        seen |= inside & ((local[..., 2] / there - 1).abs() < 0.02)
    return seen


def test_the_editors_file_holds_depth_pictures_and_cameras():
    images, depth, cameras = render_scene(1, 2, 56, 84)
    depth[0, 3, 5] = math.nan
    data = scene_bytes(cameras, 2.0, images, PosedDepth(depth, cameras, None, images), cameras[[1]])
    assert data[:4] == b"GLDS"
    (size,) = struct.unpack("<I", data[4:8])
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    assert (header["width"], header["height"], len(header["sources"]), len(header["incoming"])) == (84, 56, 2, 1)
    for view, source in enumerate(header["sources"]):
        assert source["position"] == pytest.approx(cameras.c2w[view, :3, 3].tolist())
        part = source["depth"]
        values = np.frombuffer(body, "<u2", part["rows"] * part["columns"], part["offset"]).reshape(56, 84)
        z = part["near"] * (part["far"] / part["near"]) ** ((values.astype(float) - 1) / 65534)
        known = torch.isfinite(depth[view]).numpy()
        assert (values[~known] == 0).all() and (values[known] > 0).all()
        np.testing.assert_allclose(z[known], depth[view].numpy()[known], rtol=1e-4)
        picture = source["image"]
        assert body[picture["offset"] :][:2] == b"\xff\xd8" and picture["offset"] % 2 == part["offset"] % 2 == 0


def test_the_editors_file_stays_small_where_there_are_many_sources():
    cameras = Cameras(torch.eye(4).repeat(32, 1, 1), K.expand(32, 3, 3), 700, 980)
    depth = torch.ones(1, 700, 980).expand(32, 700, 980)
    data = scene_bytes(cameras, 1.0, None, PosedDepth(depth, cameras), None)
    assert len(data) < 9_000_000
