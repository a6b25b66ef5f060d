"""Training by the clock: scenes drawn on the device are those of the stages, and each part writes a model."""

import shutil

import pytest
import torch

from gld_core import Cameras, checkpoints
from gld_core.__main__ import main
from gld_core.autoencoder import Views
from gld_core.conditioning import conditions
from gld_core.pipeline import load_autoencoder
from gld_core.synthetic.rooms import LARGE_SEEDS, OTHER_SEEDS, kind_of, seed_of, write_room
from gld_core.training import clock
from gld_core.training.loop import initialise

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rooms")
    for seed in (0, 1):
        write_room((folder, seed))
    return folder


@pytest.fixture
def pool(rooms):
    pool = clock.Pool(rooms, torch.device("cpu"))
    pool.read()
    assert pool.take() == 2
    torch.manual_seed(0)
    return pool


def shape(sources):
    return clock.Shape(clock.WIDE, 6, sources)


@pytest.mark.parametrize("level", [1, 0])
@pytest.mark.parametrize("known", [True, False])
def test_a_batchs_cameras_are_told_to_the_networks_as_those_of_one_scene(pool, level, known):
    scenes = pool.draw(shape(2), 24)
    B, V, _, H, W = scenes.images.shape
    maps, matrices = clock.camera_conditions(scenes, level, torch.full((B,), known))
    for b in range(B):
        cameras = Cameras(scenes.c2w[b], scenes.K[b].expand(V, 3, 3), H, W)
        sources = torch.zeros(scenes.sources, 1)
        expected = conditions(Views("da3", cameras, sources, sources, None), level, known)
        torch.testing.assert_close(maps[b], expected["camera_map"], rtol=0, atol=1e-6)
        torch.testing.assert_close(matrices[b], expected["matrices"])


def test_a_drawn_scene_mirrored_or_not_is_seen_alike_from_all_its_cameras(pool):
    """Points of one view, put where another view sees them, have that view's depth."""
    scenes = pool.draw(shape(1), 48)
    B, _, _, H, W = scenes.images.shape
    y, x = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1).double()
    for b in range(B):
        rays = pixels @ torch.linalg.inv(scenes.K[b]).T
        points = rays * scenes.depth[b, 0, ..., None]
        step = torch.linalg.inv(scenes.c2w[b, 1]) @ scenes.c2w[b, 0]
        seen = points @ step[:3, :3].T + step[:3, 3]
        place = seen @ scenes.K[b].T
        u, v = (place[..., i] / place[..., 2] for i in (0, 1))
        inside = (seen[..., 2] > 0.1) & (u >= 0) & (u < W) & (v >= 0) & (v < H)
        found = scenes.depth[b, 1][v[inside].long(), u[inside].long()]
        off = (found - seen[inside][:, 2]).abs() / found
        assert not len(off) or off.median() < 0.03


def test_a_velocity_network_with_a_block_more_is_the_same_function_at_first(random_models, pool):
    network = checkpoints.load_diffusion(random_models / "checkpoints/da3_level1.pt", "da3", 1, dtype=torch.float32)
    initialise(network, 0)
    for block in network.blocks:
        torch.nn.init.normal_(block.adaLN_modulation[1].weight, 0, 0.1)
    torch.nn.init.normal_(network.final_layer.linear.weight)
    deeper = clock.deepened(network)
    assert deeper.config.encoder_depth == network.config.encoder_depth + 1
    scenes = pool.draw(shape(2), 12)
    B, V = scenes.images.shape[:2]
    sources = torch.randn(B, scenes.sources, scenes.grid[0] * scenes.grid[1], network.config.channels)
    x, known = torch.randn(B, network.config.channels, V, *scenes.grid), torch.ones(B, dtype=torch.bool)
    with torch.no_grad():
        before, after = (
            part(x, torch.full((B,), 0.9), **clock.prepare(part, sources, scenes, 1, known, None))
            for part in (network, deeper)
        )
    assert before.std() > 0.1
    torch.testing.assert_close(after, before)


def test_the_first_view_shows_the_same_where_a_match_says(pool):
    """Points of the middle of a patch of another view, put into the first one by the cameras."""
    scenes = pool.draw(shape(1), 48)
    wanted, move, seen = clock.first_view_matches(scenes)
    h, w = scenes.grid
    assert wanted.shape == (8, 5, h * w, h * w) and 0.2 < seen.mean() < 1
    torch.testing.assert_close(wanted.sum(dim=-1), torch.ones(8, 5, h * w))
    y, x = (torch.arange(size).float() for size in (h, w))
    middles = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)
    # Of the pixel right below a patch's middle.
    own = middles + 0.5 / 14
    # The mean of the patches' places, by their shares, is where the point lies.
    torch.testing.assert_close(wanted @ middles, own + move, rtol=0, atol=1e-3)
    for b, view in ((0, 1), (3, 4)):
        depth = scenes.depth[b, view, 7::14, 7::14].flatten().double()
        pixels = torch.cat([own.double() * 14 + 7, torch.ones(h * w, 1)], dim=1)
        points = pixels @ torch.linalg.inv(scenes.K[b]).T * depth[:, None]
        step = torch.linalg.inv(scenes.c2w[b, 0]) @ scenes.c2w[b, view]
        place = (points @ step[:3, :3].T + step[:3, 3]) @ scenes.K[b].T
        place = (place[:, :2] / place[:, 2:] / 14 - 0.5).float()
        good = seen[b, view - 1].bool()
        torch.testing.assert_close((own + move[b, view - 1])[good], place[good].clamp(min=0), rtol=0, atol=0.5)


def test_each_part_ends_with_its_time_and_writes_what_is_loaded(random_models, rooms, tmp_path):
    """The cascade learns on what level 1 makes."""
    lines: list[str] = []
    shutil.copytree(random_models / "model_stats", tmp_path / "model_stats")
    for part in ("level1", "cascade", "cameras", "decoders"):
        clock.train(
            part, random_models, tmp_path, rooms, 3.0, 12, 1e-3, 0, torch.device("cpu"),
            pixels=1.0, least=2, deeper=False, precision=torch.float32, say=lines.append,
        )  # fmt: skip
    assert [line.split(":")[0] for line in lines if "rooms after" in line] == [
        "level1", "cascade", "cameras", "decoders",
    ]  # fmt: skip
    before, after = (load_autoencoder(folder, "da3").networks for folder in (random_models, tmp_path))
    for name in ("backbone", "rgb_decoder", "gld_head", "camera_decoder"):
        old, new = before[name].state_dict(), after[name].state_dict()
        changed = {key for key in old if (old[key] != new[key]).any()}
        assert changed
        # The features that the diffusion models know stay what they were.
        assert not any(key.startswith(tuple(f"blocks.{i}." for i in range(8))) for key in changed)
    for level in (1, 0):
        old, new = (
            checkpoints.load_diffusion(checkpoints.find(folder, "da3", f"level{level}"), "da3", level).state_dict()
            for folder in (random_models, tmp_path)
        )
        assert any((old[key] != new[key]).any() for key in old)


def test_the_command_refuses_numbers_that_nothing_is_trained_with(rooms, capsys):
    given = ["--models", "nowhere", "--out", "made", "--pictures", "0"]
    assert main(["clock", "level1", "--data", str(rooms), "--seconds", "5", *given]) == 2
    assert "above 0" in capsys.readouterr().err


def test_rooms_are_rendered_in_turn_with_other_worlds_and_large_pictures():
    seeds = [seed_of(number) for number in range(240)]
    assert len(set(seeds)) == 240
    others, large = [s for s in seeds if s in OTHER_SEEDS], [s for s in seeds if s in LARGE_SEEDS]
    assert (len(others), len(large)) == (40, 20)
    assert {kind_of(seed)[1] for seed in others} == {"studio", "outdoors", "objects"}
    assert len({kind_of(seed)[1] for seed in large}) > 1
