"""Many depth maps to one scene: near the truth, once where views overlap, cut where they see an edge."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from gld_core.cameras import Cameras
from gld_core.cameras.rotations import quaternion_to_rotation
from gld_core.geometry.depth_maps import PosedDepth, agreement, observations, usable
from gld_core.geometry.mesh import atlas, fuse_mesh, surface_nets, view_meshes
from gld_core.geometry.points import BITS, even_subset, fuse_points
from gld_core.synthetic.render import Room, cast, render_scene

sys.path.insert(0, str(Path(__file__).parents[1]))
from room_surfaces import distance_to_room  # noqa: E402

SEED, V, H, W = 3, 6, 126, 168


@pytest.fixture(scope="module")
def scene():
    images, depth, cameras = render_scene(SEED, V, H, W)
    return PosedDepth(depth, cameras, images=images)


def views_of(maps, views):
    return PosedDepth(maps.depth[views], maps.cameras[views], images=maps.images[views])


def one_camera(focal):
    K = torch.tensor([[focal, 0.0, 20], [0, focal, 20], [0, 0, 1]])
    return Cameras(torch.eye(4)[None], K[None], 40, 40)


def seen_surfaces(cameras, samples=3):
    """Points on all that the cameras see, several to a pixel, by casting rays at the room."""
    room, points = Room(np.random.default_rng(SEED)), []
    for c2w, K in zip(cameras.c2w.double().numpy(), cameras.K.double().numpy(), strict=True):
        depth, _, d = cast(room, c2w, K, cameras.height, cameras.width, samples, np.float64)
        points.append((c2w[:3, 3] + depth[..., None] * d).reshape(-1, 3))
    points = np.concatenate(points)
    return torch.from_numpy(points[np.random.default_rng(0).choice(len(points), 4000, replace=False)]).float()


def distance_to(cloud, points):
    return torch.cat([torch.cdist(part, cloud).amin(1) for part in points.split(200)]).numpy()


@pytest.mark.parametrize("fuse", [fuse_points, fuse_mesh, view_meshes])
def test_the_fused_scene_lies_within_half_a_percent_of_the_truth_both_ways(scene, fuse):
    size = np.linalg.norm(Room(np.random.default_rng(SEED)).size)
    made = fuse(scene)
    parts = list(made) if fuse is view_meshes else [made]
    xyz = torch.cat([part.xyz for part in parts])
    if fuse is not fuse_points:
        xyz = torch.cat([xyz, *(part.xyz[part.faces].mean(1) for part in parts)])
    there, back = (
        distance_to_room(SEED, xyz.double().numpy()) / size,
        distance_to(xyz, seen_surfaces(scene.cameras)) / size,
    )
    print(f"{fuse.__name__}: to the truth {there.mean():.4%} (99 % within {np.quantile(there, 0.99):.4%}), ", end="")
    print(f"from the truth {back.mean():.4%} (99 % within {np.quantile(back, 0.99):.4%})")
    assert there.mean() < 0.0005 and np.quantile(there, 0.99) < 0.005
    assert back.mean() < 0.0025 and np.quantile(back, 0.95) < 0.005


def test_what_views_share_is_there_once(scene):
    single, double = views_of(scene, [0]), views_of(scene, [0, 0])
    for fuse in (fuse_points, fuse_mesh):
        once, twice = fuse(single, voxel=0.03), fuse(double, voxel=0.03)
        assert len(twice.xyz) == len(once.xyz)
        assert torch.allclose(twice.xyz, once.xyz, atol=1e-4)
    meshes = list(view_meshes(double))
    assert len(meshes) == 1 or len(meshes[1].xyz) < 0.1 * len(meshes[0].xyz)


@pytest.mark.parametrize("fuse", [fuse_mesh, view_meshes])
def test_a_mesh_is_cut_where_depth_jumps(fuse):
    depth = torch.full((1, 40, 40), 2.0)
    depth[:, 10:30, 10:30] = 1.0
    made = fuse(PosedDepth(depth, one_camera(50), images=torch.ones(1, 3, 40, 40)))
    for mesh in [made] if fuse is fuse_mesh else made:
        corners = mesh.xyz[mesh.faces]
        assert len(corners) > 500
        assert (corners[..., 2].amax(1) - corners[..., 2].amin(1)).max() < 0.1
        assert ((mesh.xyz[:, 2] - 1).abs().minimum((mesh.xyz[:, 2] - 2).abs())).max() < 0.1


@pytest.mark.parametrize("fuse", [fuse_mesh, view_meshes])
@pytest.mark.parametrize(("degrees", "there"), [(70, True), (88, False)])
def test_a_mesh_leaves_out_what_is_seen_at_a_glancing_angle(fuse, degrees, there):
    across = (torch.arange(40) + 0.5 - 20) / 500
    depth = (2 / (1 - np.tan(np.radians(degrees)) * across)).expand(1, 40, 40)
    made = fuse(PosedDepth(depth, one_camera(500), images=torch.ones(1, 3, 40, 40)))
    faces = len(made.faces) if fuse is fuse_mesh else sum(len(mesh.faces) for mesh in made)
    assert (faces > 100) == there and (there or faces == 0)


@pytest.mark.parametrize("fuse", [fuse_mesh, view_meshes])
def test_triangles_and_normals_face_the_cameras(scene, fuse):
    eye = scene.cameras.c2w[0, :3, 3]
    made = fuse(views_of(scene, [0]))
    mesh = made if fuse is fuse_mesh else next(made)
    corners = mesh.xyz[mesh.faces]
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    toward = eye - corners.mean(1)
    assert ((normals * toward).sum(1) > 0).float().mean() > 0.99
    cloud = fuse_points(views_of(scene, [0]))
    assert ((cloud.normals * (eye - cloud.xyz)).sum(1) > 0).float().mean() > 0.99


def test_surface_nets_close_a_ball_and_turn_it_outwards():
    cells = np.stack(np.meshgrid(*[np.arange(-12, 13)] * 3, indexing="ij"), -1).reshape(-1, 3)
    keys = ((cells + (1 << BITS - 1)) << np.array([0, BITS, 2 * BITS])).sum(1)
    order = np.argsort(keys)
    field = np.linalg.norm(cells, axis=1)[order] - 9.3
    cubes, places, faces = surface_nets(keys[order], field.astype(np.float32))
    corners = (cubes[:, None] >> np.array([0, BITS, 2 * BITS]) & (1 << BITS) - 1) - (1 << BITS - 1)
    ball = trimesh.Trimesh(corners + places, faces, process=False)
    assert ball.is_watertight and ball.is_winding_consistent and ball.euler_number == 2
    assert ball.volume == pytest.approx(4 / 3 * np.pi * 9.3**3, rel=0.02)


def seen_from_the_origin(shape, height=200, width=200, focal=300.0):
    """The exact depth of a shape in one camera; shape(rays) gives it along rays (H, W, 3) of depth 1."""
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    rays = torch.stack([(x - width / 2) / focal, (y - height / 2) / focal, torch.ones_like(x)], -1)
    depth = shape(rays.double()).float()
    return PosedDepth(
        depth[None], Cameras(torch.eye(4)[None], K[None], height, width), images=torch.ones(1, 3, 200, 200)
    )


def ball(rays):
    """Depth of a ball of radius 0.5 at (0, 0, 2) along rays (H, W, 3); NaN beside it."""
    a, b = rays.square().sum(-1), 2 * rays[..., 2]
    inner = b * b - a * (4 - 0.25)
    return torch.where(inner > 0, (b - inner.clamp(min=0).sqrt()) / a, torch.nan)


def turned_box(rays):
    """The same of a box of half side 0.4 at (0, 0, 2), turned by no simple angle."""
    turn = quaternion_to_rotation(torch.nn.functional.normalize(torch.tensor([0.2, 0.4, 0.1, 0.9]), dim=0))
    near, far = torch.full(rays.shape[:2], -torch.inf).double(), torch.full(rays.shape[:2], torch.inf).double()
    for axis in turn.double():
        middle, slope = 2 * axis[2], rays @ axis
        ends = torch.stack([(middle - 0.4) / slope, (middle + 0.4) / slope]).sort(0).values
        near, far = near.maximum(ends[0]), far.minimum(ends[1])
    return torch.where(near < far, near, torch.nan)


def edges(mesh):
    """(E, 2) vertices of every edge and (E,) how many triangles it has."""
    corners = mesh.faces.numpy()
    pairs = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]])
    return np.unique(np.sort(pairs, 1), axis=0, return_counts=True)


@pytest.mark.parametrize("shape", [ball, turned_box])
def test_a_surface_has_no_holes_where_it_is_seen_well(shape):
    maps = seen_from_the_origin(shape)
    mesh = fuse_mesh(maps)
    pairs, count = edges(mesh)
    rim = mesh.xyz[pairs[count == 1].ravel()]
    look = maps.look(0, rim)
    # Within 3 pixels of every open edge the picture has no surface, or one seen at more than 60 degrees.
    depth = torch.nn.functional.pad(maps.surface(0)[2], (4, 4, 4, 4))
    row, column = look.corner // 200, look.corner % 200
    angles = torch.stack([depth[row + 4 + y, column + 4 + x] for y in range(-3, 5) for x in range(-3, 5)])
    assert len(look.rows) == len(rim) > 100 and (angles.amin(0) < 0.5).all()


def test_no_edge_has_more_than_two_triangles_though_depth_is_noisy(scene):
    noise = 1 + 0.02 * torch.randn(scene.depth.shape, generator=torch.Generator().manual_seed(0))
    mesh = fuse_mesh(replace(scene, depth=scene.depth * noise))
    pairs, count = edges(mesh)
    assert len(pairs) > 10_000 and count.max() == 2
    assert trimesh.Trimesh(mesh.xyz, mesh.faces, process=False).is_winding_consistent


@pytest.mark.parametrize("first", [8, 9])
def test_where_the_holes_of_a_selection_are_does_not_change_the_voxel(first):
    K = torch.tensor([[56.0, 0, 28], [0, 56, 28], [0, 0, 1]])
    keep = torch.zeros(1, 56, 56, dtype=torch.bool)
    keep[:, first : first + 7, first : first + 7] = True
    maps = PosedDepth(torch.full((1, 56, 56), 2.0), Cameras(torch.eye(4)[None], K[None], 56, 56), keep)
    cloud = fuse_points(replace(maps, images=torch.ones(1, 3, 56, 56)))
    assert len(cloud.xyz) == 49 and cloud.voxel == pytest.approx(2 / 56)


def test_the_voxel_that_was_used_is_told(scene):
    assert fuse_points(scene, voxel=0.05).voxel == 0.05
    assert fuse_points(scene, 3_000, voxel=0.01).voxel > 0.02
    assert fuse_mesh(scene, voxel=0.1).voxel == 0.1
    # Finer than the pixels there would be holes between them.
    fine = fuse_mesh(seen_from_the_origin(ball), voxel=1e-4)
    pairs, count = edges(fine)
    assert fine.voxel == pytest.approx(1.6 / 300, rel=0.01) and (count == 1).sum() < 0.03 * len(count)


def test_a_scene_far_from_the_origin_is_fused_as_one_at_it(scene):
    away = torch.tensor([5e5, 4e6, 100.0], dtype=torch.float64)
    c2w = scene.cameras.c2w.double()
    c2w[:, :3, 3] += away
    near, far = views_of(scene, [0]), PosedDepth(scene.depth[:1], Cameras(c2w[:1], scene.cameras.K[:1], H, W))
    far = replace(far, images=scene.images[:1])
    assert (far.cameras.origin - away).abs().max() < 5
    for fuse in (fuse_points, fuse_mesh):
        here, there = fuse(near), fuse(far)
        assert len(there.xyz) == pytest.approx(len(here.xyz), rel=0.02)
    moved = replace(scene, cameras=Cameras.in_world(c2w, scene.cameras.K, H, W))
    here, there = fuse_mesh(scene), fuse_mesh(moved)
    assert len(there.faces) == pytest.approx(len(here.faces), rel=0.02)


def test_an_atlas_shows_every_part_what_its_own_picture_showed(scene):
    meshes = list(view_meshes(scene))
    for largest in (8192, 300):
        joined = atlas(meshes, largest)
        assert len(joined.xyz) == sum(len(mesh.xyz) for mesh in meshes) and max(joined.texture.shape) <= largest
        start = 0
        for mesh in meshes:
            whole, own = (
                torch.nn.functional.grid_sample(picture[None], 2 * uv[None, None] - 1, align_corners=False)
                for picture, uv in (
                    (joined.texture, joined.uv[start : start + len(mesh.xyz)]),
                    (mesh.texture, mesh.uv),
                )
            )
            error = (whole - own).abs()
            assert error.max() < 1e-4 if largest == 8192 else error.mean() < 0.06
            start += len(mesh.xyz)


def test_colours_come_from_the_pictures(scene):
    flat = torch.tensor([0.2, 0.4, 0.8])[None, :, None, None].expand_as(scene.images)
    for fuse in (fuse_points, fuse_mesh):
        assert (fuse(replace(scene, images=flat)).rgb == torch.tensor([51, 102, 204])).all()
    mesh = next(view_meshes(scene))
    look = observations(views_of(scene, [0]), mesh.xyz)[0]
    assert torch.allclose(mesh.uv[look[0]].double() * torch.tensor([W, H]), look[1], atol=0.01)
    assert torch.equal(mesh.texture, scene.images[0])


def test_exact_views_agree_and_a_wrong_one_is_caught(scene):
    exact = agreement(scene)
    assert (exact.denied > 0).float().mean() < 0.001
    assert exact.confirmed.float().mean() > 0.7 * (V - 1)
    for scale in (0.8, 1.25):
        wrong = scene.depth.clone()
        wrong[2] *= scale
        found = agreement(replace(scene, depth=wrong))
        share = found.consistency.mean(dim=(1, 2))
        assert share.argmin() == 2 and share[2] < 0.5 and share[[0, 1, 3, 4, 5]].min() > 0.75
        kept = (found.confirmed >= 2).float().mean(dim=(1, 2))
        assert kept[2] < 0.2 and kept[[0, 1, 3, 4, 5]].min() > 0.7


def test_points_that_no_other_view_can_judge_are_consistent_but_not_confirmed(scene):
    alone = agreement(views_of(scene, [0]))
    assert (alone.consistency == 1).all() and (alone.confirmed == 0).all()


def test_points_above_the_maximum_are_thinned_evenly_over_space(scene):
    for maximum in (20_000, 3_000):
        cloud = fuse_points(scene, maximum)
        assert 0.8 * maximum < len(cloud.xyz) <= maximum
        alone = torch.cdist(cloud.xyz[:3000], cloud.xyz).topk(2, largest=False).values[:, 1]
        assert alone.std() / alone.mean() < 0.6
    every = fuse_points(scene).xyz
    chosen = even_subset(every, 3_000)
    assert 0.8 * 3_000 < len(chosen) <= 3_000 and (chosen.diff() > 0).all()


def test_a_mesh_has_about_as_many_vertices_as_allowed(scene):
    assert 3_000 < len(fuse_mesh(scene, 6_000).xyz) < 9_000
    assert sum(len(mesh.xyz) for mesh in view_meshes(scene, 6_000)) < 9_000


def test_what_is_not_finite_reaches_nothing(scene):
    depth, images = scene.depth.clone(), scene.images.clone()
    bad = torch.tensor([torch.nan, torch.inf, -torch.inf, -1.0, 0.0, 3e38, 1e30, 1e-42])
    depth.view(-1)[::7] = bad.repeat(depth.numel() // 7 // 8 + 1)[: len(depth.view(-1)[::7])]
    images.view(-1)[::11] = torch.nan
    keep = usable(depth, torch.ones_like(depth), 0.0)
    maps = PosedDepth(depth, scene.cameras, keep, images)
    found = agreement(maps)
    assert torch.isfinite(found.consistency).all() and (found.confirmed[~keep] == 0).all()
    cloud = fuse_points(maps)
    meshes = [fuse_mesh(maps), *view_meshes(maps)]
    for values in (cloud.xyz, cloud.normals, *(mesh.xyz for mesh in meshes), *(mesh.normals() for mesh in meshes)):
        assert len(values) and torch.isfinite(values).all()
    for _, pixels in observations(maps, cloud.xyz):
        assert torch.isfinite(pixels).all()


def test_nothing_kept_gives_nothing(scene):
    nothing = replace(scene, keep=torch.zeros_like(scene.depth, dtype=torch.bool))
    assert not len(fuse_points(nothing).xyz)
    assert not len(fuse_mesh(nothing).faces)
    assert not list(view_meshes(nothing))


def test_cameras_that_cannot_be_used_are_named(scene):
    cameras = scene.cameras
    K = cameras.K.clone()
    K[1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="view 1 is not finite"):
        replace(scene, cameras=Cameras(cameras.c2w, K, H, W))
    with pytest.raises(ValueError, match="same views in the same size"):
        replace(scene, depth=scene.depth[:2])
    with pytest.raises(ValueError, match="no pictures"):
        fuse_points(replace(scene, images=None))


def jobs(scene, progress):
    yield lambda: agreement(scene, progress=progress)
    for fuse in (fuse_points, fuse_mesh):
        yield lambda fuse=fuse: fuse(scene, progress=progress)
    yield lambda: list(view_meshes(scene, progress=progress))


def test_progress_ends_at_its_total_and_an_exception_in_it_cancels(scene):
    class Stop(BaseException):
        pass

    def stop(done, total):
        raise Stop

    calls = []
    for job in jobs(scene, lambda done, total: calls.append((done, total))):
        calls.clear()
        job()
        # Within long steps it is called with what was done before.
        total = calls[-1][0]
        assert list(dict.fromkeys(call for call in calls if call[0])) == [(n, total) for n in range(1, total + 1)]
        assert calls == sorted(calls)
    for job in jobs(scene, stop):
        with pytest.raises(Stop):
            job()


MEMORY = """
import sys, torch
from pathlib import Path
from gld_core.geometry.depth_maps import PosedDepth
from gld_core.geometry.mesh import fuse_mesh
from gld_core.geometry.points import fuse_points
from gld_core.cameras import Cameras
views, side = int(sys.argv[1]), 252
y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
depth = (3 + 0.2 * torch.sin(x / 9) * torch.cos(y / 7)).expand(views, side, side).contiguous()
c2w = torch.eye(4).repeat(views, 1, 1)
c2w[:, 0, 3] = torch.arange(views) * 3.0
K = torch.tensor([[200.0, 0, side / 2], [0, 200, side / 2], [0, 0, 1]]).expand(views, 3, 3)
images = torch.nn.functional.interpolate(torch.rand(views, 3, 4, 4), (side, side))
maps = PosedDepth(depth, Cameras(c2w, K, side, side), images=images)
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before = peak()
for fuse in (fuse_points, fuse_mesh):
    fuse(maps, 20_000)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="no /proc to read the peak from; nothing was measured")
def test_memory_does_not_grow_with_the_views_beyond_their_own_maps():
    def peak(views):
        command = [sys.executable, "-c", MEMORY, str(views)]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
        return int(done.stdout) * 1024

    few, many = peak(6), peak(36)
    pixels = 30 * 252**2
    # The inverse depth of every view is held, 4 bytes a pixel; the points themselves would be 36 bytes and more.
    print(f"{few / 2**20:.0f} MiB with 6 views, {many / 2**20:.0f} MiB with 36")
    assert many - few < 24 * pixels
