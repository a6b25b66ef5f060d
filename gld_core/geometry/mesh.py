"""Meshes from the depth maps of several views."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .depth_maps import GRAZING, PosedDepth, Progress, blend, unit
from .points import BITS, VoxelMeans, cell_corners, cell_keys, pixel_footprint, without_gaps

TRUNCATION = 3.0
PIECE = 1 << 20


@dataclass(frozen=True)
class Mesh:
    """xyz (P, 3) float32 in the world, faces (F, 3) int64 counter-clockwise from outside, and either rgb (P, 3) uint8
    or texture (3, H, W) in [0, 1] with uv (P, 2), (0, 0) its top-left and (1, 1) its bottom-right corner.
    """

    xyz: Tensor
    faces: Tensor
    rgb: Tensor | None = None
    uv: Tensor | None = None
    texture: Tensor | None = None

    def normals(self) -> Tensor:
        """(P, 3) float32 vertex normals of length 1, weighted by the area of the faces."""
        corners = self.xyz.double()[self.faces]
        area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        total = torch.zeros_like(self.xyz, dtype=torch.float64)
        for corner in range(3):
            total.index_add_(0, self.faces[:, corner], area)
        return unit(total)


def fuse_mesh(
    maps: PosedDepth, maximum: int = 500_000, voxel: float | None = None, progress: Progress | None = None
) -> Mesh:
    """One triangle mesh of all views with vertex colours, about `maximum` vertices at most.

    The views' depth is averaged in a truncated signed distance field (Curless and Levoy, 1996) on the voxels around
    the surfaces alone, and its zero is meshed with surface nets (Gibson, 1998): where views overlap there is one
    surface, where they disagree what most of them see through goes. Depth edges and surfaces at more than GRAZING
    degrees from their normal take no part. `voxel` None: the side at which `maximum` vertices suffice, no finer than
    the distance between neighbouring pixels.
    """
    maps = maps.frontal()
    V = len(maps)
    steps = iter(range(1, 3 * V + 1))

    def step() -> None:
        if progress is not None:
            progress(next(steps), 3 * V)

    # 1. The voxels to work on: those of the points, and their neighbours.
    origin = maps.eyes.double().mean(0).numpy()
    cells = VoxelMeans(origin, voxel or 1.5 * pixel_footprint(maps), maximum)
    for view in range(V):
        xyz = without_gaps(maps.points(view), maps.inverse[view], maps.edge, cells.voxel)
        cells.add(F.pad(xyz, (0, 6)).numpy())
        step()
    cells.merge(maximum if voxel is None else maps.inverse.numel())
    side = cells.voxel
    keys = np.unique(cell_keys(cells.means[:, :3].astype(np.float64), origin, side))
    for shift in (0, BITS, 2 * BITS):
        keys = np.unique(np.concatenate([keys - (1 << shift), keys, keys + (1 << shift)]))

    # 2. Their signed distance to the surface along each view's normals, positive towards the camera.
    field, weight = torch.zeros(len(keys)), torch.zeros(len(keys))
    for view in range(V):
        facing = maps.surface(view)[2]
        for start in range(0, len(keys), PIECE):
            piece = slice(start, start + PIECE)
            corners = torch.from_numpy(cell_corners(keys[piece], origin, side)).float()
            look = maps.look(view, corners)
            inverse, cosine = look.inverse(), blend(facing[None], look)[:, 0]
            length = (corners[look.rows] - maps.eyes[view]).norm(dim=1) / look.z
            distance = (1 / inverse - look.z) * length * cosine / side
            known = ((distance > -TRUNCATION) & (cosine > 0)).nonzero()[:, 0]
            rows = look.rows[known]
            # A view counts by how densely its pixels sample the surface.
            w = cosine[known] * inverse[known].square()
            field[piece][rows] += w * distance[known].clamp(max=TRUNCATION)
            weight[piece][rows] += w
        step()
    known = (weight > 0).numpy()
    cubes, places, triangles = surface_nets(keys[known], (field / weight).numpy()[known])
    xyz = torch.from_numpy(cell_corners(cubes, origin, side) + places * side).float()

    # 3. Colours, from the views that a vertex faces and that see it; without any it is no part of a surface.
    mesh = Mesh(xyz, torch.from_numpy(triangles))
    normals = mesh.normals()
    color, total = torch.zeros(len(xyz), 3), torch.zeros(len(xyz), 1)
    for view in range(V):
        look = maps.look(view, xyz)
        inverse = look.inverse()
        cosine = (normals[look.rows] * unit(maps.eyes[view] - xyz[look.rows])).sum(1)
        near = (1 / inverse - look.z).abs() < TRUNCATION * side
        seen = (near & (cosine > np.cos(np.radians(GRAZING)))).nonzero()[:, 0]
        # Squared, so that the best looks count, without a seam where another becomes the best.
        w = (cosine[seen, None] * inverse[seen, None].square()).square()
        color[look.rows[seen]] += w * blend(maps.picture(view), look)[seen]
        total[look.rows[seen]] += w
        step()
    faces = mesh.faces[(total[:, 0] > 0)[mesh.faces].all(1)]
    used, faces = torch.unique(faces, return_inverse=True)
    return Mesh(xyz[used], faces, (color[used] / total[used] * 255).round().byte())


def surface_nets(keys: np.ndarray, field: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The zero of a field known at some corners of a grid: its values (P,) at the voxels `keys` (P,), sorted.

    Returns the cubes it passes (K,), by their low corner's key, with a vertex (K, 3) in each, in [0, 1]: the mean of
    the crossings on the cube's edges; and triangles (F, 3) between them, counter-clockwise from the positive side.
    """
    steps = [1 << shift for shift in (0, BITS, 2 * BITS)]

    def find(among: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = np.searchsorted(among, wanted).clip(max=len(among) - 1)
        return place, among[place] == wanted

    offsets = [np.array([corner & 1, corner >> 1 & 1, corner >> 2]) for corner in range(8)]
    rows = np.arange(len(keys))
    places = [rows]
    for offset in offsets[1:]:
        place, there = find(keys, keys[rows] + offset @ steps)
        rows = rows[there]
        places = [*(before[there] for before in places), place[there]]
    values = field[np.stack(places)] if len(rows) else np.empty((8, 0), np.float32)
    mixed = (values < 0).any(0) & (values >= 0).any(0)
    cubes, values = keys[rows[mixed]], values[:, mixed].astype(np.float64)

    total, crossings = np.zeros((len(cubes), 3)), np.zeros((len(cubes), 1))
    for low in range(8):
        for axis in range(3):
            high = low | 1 << axis
            if high == low:
                continue
            crossed = (values[low] < 0) != (values[high] < 0)
            part = values[low][crossed] / (values[low] - values[high])[crossed]
            total[crossed] += offsets[low] + part[:, None] * np.eye(3)[axis]
            crossings[crossed] += 1

    faces = [np.empty((0, 3), np.int64)]
    for axis in range(3):
        b, c = steps[(axis + 1) % 3], steps[(axis + 2) % 3]
        inside = values[0] < 0
        crossed = inside != (values[1 << axis] < 0)
        at = np.flatnonzero(crossed)
        around: list[np.ndarray] = []
        for step in (b + c, c, 0, b):
            place, there = find(cubes, cubes[at] - step)
            at, around = at[there], [*(before[there] for before in around), place[there]]
        quads = np.stack(around, axis=1) if around else np.empty((0, 4), np.int64)
        quads[~inside[at]] = quads[~inside[at]][:, ::-1]
        faces += [quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]
    return cubes, total / np.maximum(crossings, 1), np.concatenate(faces)


def view_meshes(
    maps: PosedDepth, maximum: int = 500_000, tolerance: float = 0.02, progress: Progress | None = None
) -> Iterator[Mesh]:
    """A mesh per view on the grid of its pixels, textured with its image, together about `maximum` vertices at most.

    What an earlier view has already (within `tolerance` of the depth) is left out, but for a rim of overlap. Triangles
    are cut at depth edges and at more than GRAZING degrees. Views of which nothing is left give no mesh.
    """
    maps = maps.frontal()
    V, H, W = maps.inverse.shape
    fresh = torch.zeros(V, H, W, dtype=torch.bool)
    for view in range(V):
        xyz = maps.points(view)
        pixels = torch.isfinite(maps.inverse[view]).view(-1).nonzero()[:, 0]
        for earlier in range(view):
            look = maps.look(earlier, xyz.view(-1, 3)[pixels])
            covered = torch.zeros(len(pixels), dtype=torch.bool)
            covered[look.rows] = (look.inverse() * look.z - 1).abs() <= tolerance
            pixels = pixels[~covered]
        fresh[view].view(-1)[pixels] = True
        if progress is not None:
            progress(view + 1, 2 * V)
    stride = max(1, round((int(fresh.sum()) / maximum) ** 0.5 + 0.499))
    while True:
        rim = F.max_pool2d(fresh.float(), (2 * stride + 1, 1), 1, (stride, 0))
        rim = F.max_pool2d(rim, (1, 2 * stride + 1), 1, (0, stride)) > 0
        if rim[:, ::stride, ::stride].sum() <= maximum:
            break
        stride += 1
    for view in range(V):
        xyz = maps.points(view)[::stride, ::stride]
        inverse = maps.inverse[view, ::stride, ::stride]
        rows, columns = inverse.shape
        index = torch.arange(rows * columns).view(rows, columns)
        # Each square is cut along the diagonal with the smaller step of depth.
        a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
        z = inverse.flatten()
        flip = ((z[a] - z[c]).abs() > (z[b] - z[d]).abs())[..., None]
        first = torch.where(flip, torch.stack([a, d, b], -1), torch.stack([a, d, c], -1))
        second = torch.where(flip, torch.stack([b, d, c], -1), torch.stack([a, c, b], -1))
        faces = torch.cat([first.view(-1, 3), second.view(-1, 3)])
        faces = faces[torch.isfinite(z[faces]).all(1) & rim[view, ::stride, ::stride].flatten()[faces].any(1)]
        corners = xyz.reshape(-1, 3)[faces]
        normal = unit(torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
        facing = (normal * unit(maps.eyes[view] - corners.mean(1))).sum(1)
        smooth = z[faces].amax(1) <= (1 + stride * maps.edge) * z[faces].amin(1)
        faces = faces[smooth & (facing > np.cos(np.radians(GRAZING)))]
        used, faces = torch.unique(faces, return_inverse=True)
        if progress is not None:
            progress(V + view + 1, 2 * V)
        if len(faces):
            place = torch.stack([used % columns, used // columns], 1) * stride + 0.5
            yield Mesh(xyz.reshape(-1, 3)[used], faces, uv=place / torch.tensor([W, H]), texture=maps.picture(view))
