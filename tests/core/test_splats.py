"""Gaussian splats: on the surfaces, in the pictures' colours, rendered exactly, and better after refinement."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from gld_core.cameras import Cameras
from gld_core.export.ply import splat_ply_bytes
from gld_core.geometry.depth_maps import PosedDepth
from gld_core.geometry.splats import Splats, layers, make_splats, planes, refine, render, shade, transformed
from gld_core.synthetic.render import render_scene

V, H, W = 5, 84, 112


@pytest.fixture(scope="module")
def room():
    """Views of a room of which every second one is held out."""
    images, depth, cameras = render_scene(3, 2 * V - 1, H, W)
    return images, depth, cameras


@pytest.fixture(scope="module")
def seen(room):
    images, depth, cameras = (part[list(range(0, 2 * V - 1, 2))] for part in room)
    return PosedDepth(depth, cameras, images=images)


def psnr(a, b):
    return -10 * (a - b).square().mean().log10().item()


def one(scales=(0.3, 0.1, 0.01), opacity=0.8, angle=0.5):
    x, y, z, w = Rotation.from_rotvec([0.2, angle, 0.4]).as_quat()
    turn = torch.tensor([[w, x, y, z]]).float()
    place, color = torch.tensor([[0.1, -0.05, 2.0]]), torch.tensor([[0.9, 0.5, 0.2]])
    return Splats(place, torch.tensor([scales]), turn, torch.tensor([opacity]), color)


def camera(side=40, focal=60.0):
    K = torch.tensor([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]])
    return Cameras(torch.eye(4)[None], K[None], side, side)


def test_a_gaussian_covers_a_pixel_by_its_largest_value_along_the_ray():
    splat = one()
    _, cover = render(splat, camera())
    turn = Rotation.from_quat(splat.rotations[0, [1, 2, 3, 0]].numpy()).as_matrix()
    variance = splat.scales[0].double().numpy() ** 2
    sigma = turn @ np.diag(variance + 1e-3 * variance.mean()) @ turn.T
    row, column = np.unravel_index(cover.argmax().item(), cover.shape)
    for step in range(4):
        ray = np.array([(column + step + 0.5 - 20) / 60, (row + 0.5 - 20) / 60, 1])
        distances = np.linspace(1, 3, 200_001)[:, None] * ray - splat.xyz[0].double().numpy()
        peak = np.exp(-0.5 * np.einsum("ni,ij,nj->n", distances, np.linalg.inv(sigma), distances)).max()
        assert cover[row, column + step] == pytest.approx(0.8 * peak, abs=1e-4)


def test_what_is_in_front_hides_what_is_behind():
    near, far = one(), replace(one(), xyz=torch.tensor([[0.15, -0.075, 3.0]]), rgb=torch.tensor([[0.0, 0, 1]]))
    both = Splats(*(torch.cat([getattr(far, name), getattr(near, name)]) for name in vars(near)))
    (color_near, near_cover), (color_far, far_cover) = render(near, camera()), render(far, camera())
    picture, cover = render(both, camera())
    assert torch.allclose(picture, color_near + (1 - near_cover) * color_far, atol=1e-5)
    assert torch.allclose(cover, 1 - (1 - near_cover) * (1 - far_cover), atol=1e-5) and (far_cover > 0.5).any()


def test_gradients_are_those_of_finite_differences():
    splats = make_splats(small_plane())
    view = small_plane().cameras
    pixels = torch.arange(0, 144, 5)
    table = layers(splats, view, slack=2.0)[pixels]
    names = ("scales", "rotations", "opacities", "rgb")
    values = [getattr(splats, name).double()[:20].clone().requires_grad_() for name in names]

    def error(*changed):
        rest = [getattr(splats, name).double()[20:] for name in names]
        moved = Splats(splats.xyz.double(), *map(torch.cat, zip(changed, rest, strict=True)))
        color, through = shade(moved, view, pixels, table)
        return color.square().sum() + through.square().sum()

    assert torch.autograd.gradcheck(error, values, eps=1e-6, atol=1e-4, rtol=1e-3)


def small_plane():
    """A slanted plane of 12 x 12 pixels."""
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    image = torch.stack([x / 12, y / 12, torch.full_like(x, 0.5)])[None]
    return PosedDepth((1 / (0.4 + 0.01 * x + 0.005 * y))[None], camera(12, 15.0), images=image)


def test_planes_are_found_through_noise():
    maps = small_plane()
    inverse, normal = planes(maps, 0)
    assert torch.allclose(inverse, maps.inverse[0], rtol=1e-4)
    # 1/z = 0.4 + 0.01 (15 X/Z + 5.5) + 0.005 (15 Y/Z + 5.5): 1 = 0.15 X + 0.075 Y + 0.4825 Z.
    meant = -torch.tensor([0.15, 0.075, 0.4825])
    assert torch.allclose(normal[1:-1, 1:-1], (meant / meant.norm()).expand(10, 10, 3), atol=1e-3)


def test_a_scene_in_small_units_is_refined_alike():
    images, depth, cameras = render_scene(3, 3, 42, 56, samples=1)
    splats, unit, c2w = make_splats(PosedDepth(depth, cameras, images=images)), 1e-5, cameras.c2w.clone()
    c2w[:, :3, 3] *= unit
    scaled = replace(splats, xyz=splats.xyz * unit, scales=splats.scales * unit)
    meant = refine(splats, images, cameras, steps=3)
    found = refine(scaled, images, Cameras(c2w, cameras.K, 42, 56), steps=3)
    # Adam moves by the sign of gradients that are rounding, too.
    assert ((found.rgb - meant.rgb).abs() > 1e-3).float().mean() < 0.05
    assert ((meant.rgb - splats.rgb).abs() > 1e-3).float().mean() > 0.5
    assert ((found.scales / unit - meant.scales).abs() > 1e-3).float().mean() < 0.01


def test_splats_lie_flat_on_the_surfaces_once_each(room, seen):
    splats = make_splats(seen)
    # Six views of one room share most of what they see.
    assert 0.3 * seen.depth.numel() / V < len(splats) < 0.8 * seen.depth.numel()
    for view in range(V):
        look = seen.look(view, splats.xyz)
        front = look.z * look.inverse()
        assert ((front - 1).abs() < 0.01).float().mean() > 0.5 and (front < 0.97).float().mean() < 0.03
    axis = transformed(splats, torch.eye(4))
    assert torch.allclose(axis.rotations.abs(), splats.rotations.abs(), atol=1e-4)
    assert (splats.scales[:, 2] < 0.2 * splats.scales[:, 1]).all()


@pytest.mark.slow
def test_a_held_out_view_is_seen_and_seen_better_after_refinement(room, seen):
    images, _, cameras = room
    splats = make_splats(seen)
    steps = []

    def count(done, total, _):
        steps.append((done, total))

    better = refine(splats, seen.images, seen.cameras, steps=60, callback=count)
    before, after = (psnr(render(found, cameras[3])[0], images[3]) for found in (splats, better))
    print(f"{len(splats)} splats: {before:.2f} dB made, {after:.2f} dB refined")
    assert before > 22 and after > before + 2.5
    assert steps == [(step, 60) for step in range(1, 61)] and torch.equal(better.xyz, splats.xyz)


def test_refinement_runs_where_gradients_are_off_and_stops_when_told(seen):
    class Stop(BaseException):
        pass

    def stop(done, total, now):
        raise Stop

    with torch.inference_mode():
        splats = make_splats(seen)
        refine(splats, seen.images, seen.cameras, steps=1, batch=64)
        with pytest.raises(Stop):
            refine(splats, seen.images, seen.cameras, steps=5, batch=64, callback=stop)


def test_generated_views_fill_in_and_photographs_keep_their_place(seen):
    flat = torch.zeros_like(seen.images)
    flat[:2, 0], flat[2:, 1] = 1, 1
    splats = make_splats(replace(seen, images=flat), photographs=2)
    look = seen.look(0, splats.xyz)
    there = look.rows[(look.z * look.inverse() - 1).abs() < 0.01]
    assert splats.rgb[there, 0].mean() > 0.75 and splats.rgb[:, 1].max() == 1


def test_views_that_most_others_contradict_make_no_splats(seen):
    wrong = seen.depth.clone()
    wrong[2] *= 0.6
    splats, exact = make_splats(replace(seen, depth=wrong)), make_splats(seen)
    for view in (0, 4):
        look = seen.look(view, splats.xyz)
        assert (look.z * look.inverse() < 0.9).float().mean() < 0.1
    assert len(splats) < 1.1 * len(exact)


def test_no_more_splats_than_allowed_and_they_cover_as_much(room, seen):
    many, few = make_splats(seen), make_splats(seen, maximum=5000)
    assert len(few) <= 5000
    covers = [render(found, room[2][3])[1].mean() for found in (many, few)]
    assert covers[1] > covers[0] - 0.08


def test_splats_of_one_view_grow_along_the_surface_alone_where_some_are_left_out(seen):
    one = PosedDepth(seen.depth[:1], seen.cameras[:1], images=seen.images[:1])
    many = make_splats(one)
    few = make_splats(one, maximum=len(many) // 2)
    grown = few.scales.median(0).values / many.scales.median(0).values
    assert len(few) == len(many) // 2 and grown.tolist() == pytest.approx([2**0.5, 2**0.5, 1], rel=0.05)


def test_the_ply_is_3dgs_own_with_values_as_it_stores_them(seen):
    splats = make_splats(seen)
    data = splat_ply_bytes(splats)
    header, body = data.split(b"end_header\n", 1)
    names = [line.split()[2].decode() for line in header.splitlines() if line.startswith(b"property float")]
    table = dict(zip(names, np.frombuffer(body, "<f4").reshape(-1, len(names)).T, strict=True))
    assert np.allclose(np.exp(table["scale_1"]), splats.scales[:, 1], rtol=1e-5)
    assert np.allclose(1 / (1 + np.exp(-table["opacity"])), splats.opacities, atol=1e-5)
    assert np.allclose(0.5 + table["f_dc_2"] / (2 * math.sqrt(math.pi)), splats.rgb[:, 2], atol=1e-5)
    cloud = trimesh.load(trimesh.util.wrap_as_stream(data), "ply")
    assert np.allclose(cloud.vertices, splats.xyz)
