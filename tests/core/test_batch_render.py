"""Rooms drawn in batches by torch: the same pictures and depth as numpy's, whatever else is in the batch."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from gld_core.synthetic import batch
from gld_core.synthetic.batch import MAX_SHAPES, SEEDS_END, Layouts, pack, render, world_of
from gld_core.synthetic.render import WORLDS, render_views, scene_of
from gld_core.synthetic.rooms import OTHER_WORLDS, REACH, VIEWS

SIZE = (42, 70)


@pytest.mark.parametrize("world", WORLDS)
def test_pictures_and_depth_are_those_of_numpy(world):
    scene = scene_of(3, 3, *SIZE, REACH, world)
    images, depth = render(default_collate([pack(*scene)]), *SIZE)
    expected, expected_depth, _ = render_views(*scene, *SIZE)
    off = (images[0].int() - (expected * 255).round().int()).abs()
    assert off.median() == 0 and (off <= 2).float().mean() > 0.99
    assert ((depth[0].float() / expected_depth - 1).abs() < 1e-3).float().mean() > 0.995


def test_a_room_is_the_same_alone_and_in_a_batch():
    rooms = [pack(*scene_of(seed, 2, 28, 42, REACH, world)) for seed, world in enumerate(WORLDS)]
    images, depth = render(default_collate(rooms), 28, 42, samples=1)
    assert images.shape == (4, 2, 3, 28, 42) and depth.shape == (4, 2, 28, 42)
    for place, room in enumerate(rooms):
        alone, alone_depth = render(default_collate([room]), 28, 42, samples=1)
        assert torch.equal(images[place], alone[0]) and torch.equal(depth[place], alone_depth[0])


@pytest.mark.slow
def test_one_graph_draws_all_rooms_at_once():
    rooms = default_collate([pack(*scene_of(seed, 2, 14, 21, REACH)) for seed in range(2)])
    graphs = {
        function: torch.compile(function, dynamic=False, fullgraph=True, backend="eager")
        for function in (batch.closest_hit, batch.lamp_light, batch.shade)
    }
    images, depth = batch.draw(rooms, 14, 21, 1, graphs.__getitem__)
    expected, expected_depth = render(rooms, 14, 21, samples=1)
    assert torch.equal(images, expected) and torch.equal(depth, expected_depth)


def test_workers_make_rooms_of_different_seeds_which_alone_have_the_same():
    first, second = DataLoader(Layouts((70, 126)), batch_size=2, num_workers=2), iter(Layouts((70, 126)))
    batches = [found for _, found in zip(range(2), first, strict=False)]
    assert batches[0].c2w.shape == (2, VIEWS, 4, 4)
    found = [batches[seed % 2].c2w[seed // 2] for seed in range(4)]
    assert all(torch.equal(c2w, next(second).c2w) for c2w in found)


def test_one_room_in_six_is_of_another_world():
    worlds = [world_of(seed) for seed in range(3000)]
    shares = [worlds.count(world) / len(worlds) for world in ("room", *OTHER_WORLDS)]
    assert np.allclose(shares, [5 / 6, 1 / 18, 1 / 18, 1 / 18], atol=0.015)


def test_seeds_of_evaluation_are_left_out():
    assert len(list(Layouts((28, 42), SEEDS_END - 2))) == 2


def test_a_room_with_too_many_shapes_is_refused():
    room, c2w, K = scene_of(0, 1, 28, 42)
    room.shapes += [room.shapes[-1]] * MAX_SHAPES
    with pytest.raises(ValueError, match="shapes"):
        pack(room, c2w, K)
