"""Rendered rooms: depth and cameras that agree with each other exactly, and pictures that agree across views."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gld_core.synthetic.render import WORLDS, Room, render_scene
from gld_core.synthetic.rooms import (
    LARGE_SEEDS,
    OTHER_SEEDS,
    OTHER_WORLDS,
    REACH,
    SIZES,
    VIEWS,
    kind_of,
    read_room,
    write_room,
)


def world_points(depth, cameras):
    """(V, H, W, 3) points that depth says are seen at the pixels' centres."""
    y, x = torch.meshgrid(torch.arange(cameras.height) + 0.5, torch.arange(cameras.width) + 0.5, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], -1).double()
    rays = torch.einsum("vij,hwj->vhwi", torch.linalg.inv(cameras.K.double()), pixels) * depth[..., None].double()
    return torch.einsum("vij,vhwj->vhwi", cameras.c2w[:, :3, :3].double(), rays) + cameras.c2w[:, None, None, :3, 3]


def outside(shape, points):
    """(P,) how far points are outside of a shape along its axes, in metres; negative inside."""
    x, y, z = (points - shape.centre).T
    c, s = np.cos(shape.turn), np.sin(shape.turn)
    local = np.stack([c * x + s * y, c * y - s * x, z], axis=1)
    return np.linalg.norm(local, axis=1) - shape.half[0] if shape.sphere else (np.abs(local) - shape.half).max(1)


@pytest.mark.parametrize("seed, world", [*((seed, "room") for seed in range(4)), *((5, world) for world in WORLDS)])
def test_depth_puts_every_pixel_on_a_surface_of_the_world(seed, world):
    _, depth, cameras = render_scene(seed, 3, 42, 56, world=world)
    room = WORLDS[world](np.random.default_rng(seed))
    points = world_points(depth, cameras).view(-1, 3).numpy()
    assert np.min([np.abs(outside(shape, points)) for shape in room.shapes], axis=0).max() < 1e-5


@pytest.mark.parametrize("seed", range(2))
def test_nothing_stands_between_the_camera_and_what_it_sees(seed):
    _, depth, cameras = render_scene(seed, 2, 42, 56)
    room = Room(np.random.default_rng(seed))
    points = world_points(depth, cameras).view(2, -1, 3).numpy()
    for eye, ends in zip(cameras.c2w[:, :3, 3].double().numpy(), points, strict=True):
        for part in np.linspace(0.02, 0.98, 30):
            between = eye + part * (ends - eye)
            assert min(outside(shape, between).min() for shape in room.shapes[1:]) > -1e-5


@pytest.mark.parametrize("seed", range(3))
def test_a_point_has_the_same_colour_in_every_view_that_sees_it(seed):
    images, depth, cameras = render_scene(seed, 2, 126, 168, samples=3)
    points = world_points(depth, cameras)[0].view(-1, 3)
    seen = (points - cameras.c2w[1, :3, 3]) @ cameras.c2w[1, :3, :3].double()
    pixels = seen @ cameras.K[1].double().T
    grid = (pixels[:, :2] / pixels[:, 2:] / torch.tensor([168 / 2, 126 / 2]) - 1).float().view(1, 126, 168, 2)
    there = F.grid_sample(depth[1][None, None], grid, mode="nearest", align_corners=False).flatten()
    color = F.grid_sample(images[1][None], grid, align_corners=False)[0].flatten(1)
    visible = (grid.abs().amax(-1).flatten() < 1) & (seen[:, 2] > 0) & ((there / seen[:, 2] - 1).abs() < 0.01)
    assert visible.float().mean() > 0.2
    assert (color - images[0].flatten(1))[:, visible].abs().mean() < 0.04


def test_a_seed_always_gives_the_same_scene_and_another_seed_another_one():
    first, again, other = (render_scene(seed, 2, 28, 42) for seed in (5, 5, 6))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert torch.equal(first[2].c2w, again[2].c2w)
    assert (first[0] - other[0]).abs().mean() > 0.05


@pytest.mark.parametrize("seed", range(8))
def test_cameras_are_possible_and_stand_free_in_the_room(seed):
    images, depth, cameras = render_scene(seed, 4, 28, 42, samples=1)
    cameras.check()
    room = Room(np.random.default_rng(seed))
    assert room.clearance(cameras.c2w[:, :3, 3].numpy()) > 0.1
    assert depth.min() > 0.1 and images.min() >= 0 and images.max() <= 1 and images.std() > 0.05


def test_seeds_of_training_have_rooms_and_then_the_other_worlds_in_turn(tmp_path):
    pictures = []
    for seed in (3, *OTHER_SEEDS[:3]):
        world = OTHER_WORLDS[seed % 3] if seed in OTHER_SEEDS else "room"
        write_room((tmp_path, seed))
        read = read_room(tmp_path, seed)
        images, depth, cameras = render_scene(seed, VIEWS, *SIZES[seed % len(SIZES)], reach=REACH, world=world)
        assert (read.images.float() / 255 - images).abs().max() < 0.003
        assert torch.equal(read.cameras.c2w, cameras.c2w) and ((read.depth / depth - 1).abs() < 1e-3).all()
        pictures.append(images)
    colours = [(images - images.mean(dim=(-2, -1), keepdim=True)).square().mean() for images in pictures]
    assert min(colours) > 1e-3


def test_large_scenes_are_three_rooms_and_one_of_another_world_in_turn():
    kinds = [kind_of(seed) for seed in LARGE_SEEDS[:8]]
    assert {size for size, _ in kinds} == {(140, 252)}
    assert [world == "room" for _, world in kinds] == [True, True, True, False] * 2
