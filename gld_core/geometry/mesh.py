"""Meshes from the depth maps of several views."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .depth_maps import GRAZING, PosedDepth, Progress, unit
from .points import BITS, VoxelMeans, cell_corners, cell_keys, pixel_footprint, without_gaps

TRUNCATION = 3.0
PIECE = 1 << 20
# Pixels around each picture of a texture atlas.
GUTTER = 4


@dataclass(frozen=True)
class Mesh:
    """xyz (P, 3) float32 from the cameras' origin, faces (F, 3) int64 counter-clockwise from outside, and either rgb
    (P, 3) uint8 or texture (3, H, W) in [0, 1] with uv (P, 2), (0, 0) its top-left and (1, 1) its bottom-right corner.
    voxel: the side of the grid that a fused surface was found on.
    """

    xyz: Tensor
    faces: Tensor
    rgb: Tensor | None = None
    uv: Tensor | None = None
    texture: Tensor | None = None
    voxel: float | None = None

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
    degrees from their normal take no part. `voxel` is the side of a voxel in scene units, None the side at which
    `maximum` vertices suffice. It is no finer than the distance between neighbouring pixels, between which nothing was
    seen, and it grows where there would be too many vertices; the mesh says which side it came to.
    """
    maps, cosines = maps.frontal()
    V = len(maps)
    done = 0

    def pause() -> None:
        if progress is not None:
            progress(done, 3 * V)

    def step() -> None:
        nonlocal done
        done += 1
        pause()

    # 1. The voxels to work on: the corners of those with points in them, and of their neighbours, which a surface near
    # a voxel's side passes too.
    origin = maps.eyes.double().mean(0).numpy()
    pixel = pixel_footprint(maps)
    cells = VoxelMeans(origin, max(voxel or 1.5 * pixel, pixel), maximum, pause, values=3)
    for view in range(V):
        xyz = without_gaps(maps.points(view), maps.inverse[view], maps.edge, cells.voxel)
        cells.add(xyz.numpy())
        step()
    cells.merge(maximum if voxel is None else maps.inverse.numel())
    side = cells.voxel
    keys = np.unique(cell_keys(cells.means.astype(np.float64), origin, side))
    for shift in (0, BITS, 2 * BITS):
        pause()
        # Four sorted runs, which a stable sort merges.
        keys = np.sort(np.concatenate([keys + (step << shift) for step in range(-1, 3)]), kind="stable")
        keys = keys[np.diff(keys, prepend=-1) > 0]

    # 2. Their signed distance to the surface along each view's normals, positive towards the camera.
    corners = torch.from_numpy(cell_corners(keys, origin, side).T).float().contiguous()
    field, weight = torch.zeros(len(keys)), torch.zeros(len(keys))
    for view in range(V):
        # By how much the distance along the normal differs from that in depth.
        slant = cosines[view] * maps.ray_lengths(view)
        for start in range(0, len(keys), PIECE):
            pause()
            piece = slice(start, start + PIECE)
            z, inverse, (factor,) = maps.sample(view, corners[:, piece], slant[None])
            distance = (1 / inverse - z) * factor / side
            # A view counts by how densely its pixels sample the surface.
            w = factor * inverse.square() * ((distance > -TRUNCATION) & (factor > 0))
            w = w.nan_to_num(0)
            field[piece] += w * distance.nan_to_num(0).clamp(max=TRUNCATION)
            weight[piece] += w
        step()
    known = (weight > 0).numpy()
    cubes, places, triangles = surface_nets(keys[known], (field / weight).numpy()[known])
    xyz = torch.from_numpy(cell_corners(cubes, origin, side) + places * side).float()

    # 3. Colours, from the views that a vertex faces and that see it; without any it is no part of a surface.
    mesh = Mesh(xyz, torch.from_numpy(triangles))
    xyz, normals = xyz.T.contiguous(), mesh.normals().T.contiguous()
    color, total = torch.zeros(3, xyz.shape[1]), torch.zeros(xyz.shape[1])
    for view in range(V):
        z, inverse, rgb = maps.sample(view, xyz, maps.picture(view))
        toward = maps.eyes[view][:, None] - xyz
        cosine = (normals * toward).sum(0) / toward.square().sum(0).sqrt()
        seen = ((1 / inverse - z).abs() < TRUNCATION * side) & (cosine > np.cos(np.radians(GRAZING)))
        # Squared, so that the best looks count, without a seam where another becomes the best.
        w = ((cosine * inverse.square()).square() * seen).nan_to_num(0)
        color += w * rgb
        total += w
        step()
    faces = mesh.faces[(total > 0)[mesh.faces].all(1)]
    used, faces = torch.unique(faces, return_inverse=True)
    rgb = (color / total)[:, used].T
    return Mesh(mesh.xyz[used], faces, (rgb * 255).round().byte(), voxel=side)


def atlas(meshes: Sequence[Mesh], largest: int = 8192) -> Mesh:
    """Textured meshes with pictures of one size as one mesh with one texture, a grid of the pictures; scaled down where
    a side of it would be more than `largest` pixels.
    """
    pictures = [mesh.texture for mesh in meshes if mesh.texture is not None]
    H, W = pictures[0].shape[1:]
    columns = max(1, min(len(meshes), round((len(meshes) * (H + 2 * GUTTER) / (W + 2 * GUTTER)) ** 0.5)))
    rows = -(-len(meshes) // columns)
    scale = min(1.0, largest / max(columns * (W + 2 * GUTTER), rows * (H + 2 * GUTTER)))
    h, w = max(1, int(scale * (H + 2 * GUTTER)) - 2 * GUTTER), max(1, int(scale * (W + 2 * GUTTER)) - 2 * GUTTER)
    height, width = h + 2 * GUTTER, w + 2 * GUTTER
    texture = torch.zeros(3, rows * height, columns * width)
    uv, faces, start = [], [], 0
    for number, mesh in enumerate(meshes):
        row, column = number // columns, number % columns
        picture = pictures[number][None]
        if (h, w) != (H, W):
            picture = F.interpolate(picture, (h, w), mode="bilinear", antialias=True)
        # The border repeats the picture's, so that coarse levels of the texture do not mix neighbours.
        picture = F.pad(picture, (GUTTER,) * 4, mode="replicate")[0]
        texture[:, row * height : (row + 1) * height, column * width : (column + 1) * width] = picture
        assert mesh.uv is not None
        place = mesh.uv * torch.tensor([w, h]) + GUTTER + torch.tensor([column * width, row * height])
        uv.append(place / torch.tensor([columns * width, rows * height]))
        faces.append(mesh.faces + start)
        start += len(mesh.xyz)
    return Mesh(torch.cat([mesh.xyz for mesh in meshes]), torch.cat(faces), uv=torch.cat(uv), texture=texture)


# Corners of a cube are numbered x + 2 y + 4 z. Its edges are (low corner, axis), its faces (axis, low or high side).
CUBE_EDGES = [(low, axis) for axis in range(3) for low in range(8) if not low >> axis & 1]
CUBE_FACES = [(axis, side) for axis in range(3) for side in range(2)]


@cache
def cube_patches(code: int) -> tuple[int, ...]:
    """The piece of surface, from 0, that each of CUBE_EDGES belongs to in one cube, or -1 where it crosses none.

    code: a bit for each corner that is inside, then a bit for each of CUBE_FACES. Where a face has two inside corners
    on one diagonal, the surface separates these from each other, or, with the face's bit, the two outside corners.
    """
    inside = [bool(code >> corner & 1) for corner in range(8)]
    linked: dict[int, list[int]] = {
        edge: [] for edge, (low, axis) in enumerate(CUBE_EDGES) if inside[low] != inside[low | 1 << axis]
    }
    for face, (axis, side) in enumerate(CUBE_FACES):
        around = [edge for edge in linked if CUBE_EDGES[edge][1] != axis and CUBE_EDGES[edge][0] >> axis & 1 == side]
        if len(around) == 4:
            parted = not code >> 8 + face & 1
            for corner in range(8):
                if corner >> axis & 1 == side and inside[corner] == parted:
                    first, second = (edge for edge in around if corner in edge_corners(edge))
                    linked[first].append(second)
                    linked[second].append(first)
        elif around:
            linked[around[0]].append(around[1])
            linked[around[1]].append(around[0])
    patches, count = [-1] * len(CUBE_EDGES), 0
    for start in linked:
        if patches[start] < 0:
            waiting = [start]
            while waiting:
                edge = waiting.pop()
                if patches[edge] < 0:
                    patches[edge] = count
                    waiting += linked[edge]
            count += 1
    return tuple(patches)


def edge_corners(edge: int) -> tuple[int, int]:
    low, axis = CUBE_EDGES[edge]
    return low, low | 1 << axis


def find(among: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each of `wanted` (P,) is in the sorted, not empty `among`, and whether it is there."""
    place = np.searchsorted(among, wanted).clip(max=len(among) - 1)
    return place, among[place] == wanted


def surface_nets(keys: np.ndarray, field: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The zero of a field known at some corners of a grid: its values (P,) at the voxels `keys` (P,), sorted.

    Returns vertices as the cubes they lie in (K,), by their low corner's key, and their places (K, 3) there, in [0, 1];
    and triangles (F, 3) between them, counter-clockwise from the positive side. A cube has a vertex for each piece of
    the surface that passes it, the mean of that piece's crossings with the cube's edges (surface nets: Gibson, 1998;
    several vertices to a cube: Nielson, Dual marching cubes, 2004). No edge has more than two triangles.
    """
    steps = [1 << shift for shift in (0, BITS, 2 * BITS)]
    offsets = np.array([[corner >> axis & 1 for axis in range(3)] for corner in range(8)])
    if not len(keys):
        return keys, np.empty((0, 3)), np.empty((0, 3), np.int64)
    rows = np.arange(len(keys))
    places = [rows]
    for offset in offsets[1:]:
        place, there = find(keys, keys[rows] + offset @ steps)
        rows = rows[there]
        places = [*(before[there] for before in places), place[there]]
    values = field[np.stack(places)]
    mixed = (values < 0).any(0) & (values >= 0).any(0)
    cubes, values = keys[rows[mixed]], values[:, mixed].astype(np.float64)
    if not len(cubes):
        return cubes, np.empty((0, 3)), np.empty((0, 3), np.int64)
    inside = values < 0

    # A face that the surface passes twice joins two cubes in two places: were both ends of both the same vertex, an
    # edge would have four triangles. There the face is read the other way, which parts the surface in both cubes.
    codes = (inside << np.arange(8)[:, None]).sum(0)
    while True:
        kinds, kind = np.unique(codes, return_inverse=True)
        patches = np.array([cube_patches(int(code)) for code in kinds], np.int64)[kind]
        before = codes.copy()
        for face in range(0, len(CUBE_FACES), 2):
            axis = CUBE_FACES[face][0]
            sides = [
                [edge for edge, (low, along) in enumerate(CUBE_EDGES) if along != axis and low >> axis & 1 == side]
                for side in range(2)
            ]
            high = patches[:, sides[1]]
            joined = np.flatnonzero((high >= 0).all(1) & (high == high[:, :1]).all(1))
            other, there = find(cubes, cubes[joined] + steps[axis])
            low = patches[other][:, sides[0]]
            both = there & (low >= 0).all(1) & (low == low[:, :1]).all(1)
            codes[joined[both]] |= 1 << 8 + face + 1
            codes[other[both]] |= 1 << 8 + face
        if (codes == before).all():
            break
    count = patches.max(1) + 1
    first = np.cumsum(count) - count
    vertex = np.where(patches >= 0, first[:, None] + patches, -1)

    total, crossings = np.zeros((count.sum(), 3)), np.zeros((count.sum(), 1))
    faces = [np.empty((0, 3), np.int64)]
    for edge, (low_corner, axis) in enumerate(CUBE_EDGES):
        high_corner = low_corner | 1 << axis
        at = np.flatnonzero(vertex[:, edge] >= 0)
        part = values[low_corner, at] / (values[low_corner, at] - values[high_corner, at])
        total[vertex[at, edge]] += offsets[low_corner] + part[:, None] * np.eye(3)[axis]
        crossings[vertex[at, edge]] += 1
    for axis in range(3):
        # The four cubes around a grid edge, by where its low corner lies in them.
        second, third = (axis + 1) % 3, (axis + 2) % 3
        around: list[np.ndarray] = []
        at = np.flatnonzero(vertex[:, CUBE_EDGES.index((0, axis))] >= 0)
        for low_corner in (1 << second | 1 << third, 1 << third, 0, 1 << second):
            place, there = find(cubes, cubes[at] - int(offsets[low_corner] @ steps))
            at, around = at[there], [entry[there] for entry in around]
            around.append(vertex[place[there], CUBE_EDGES.index((low_corner, axis))])
        quads = np.stack(around, axis=1)
        outward = inside[0, at]
        quads[~outward] = quads[~outward][:, ::-1]
        faces += [quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]
    return np.repeat(cubes, count), total / crossings, np.concatenate(faces)


def view_meshes(
    maps: PosedDepth, maximum: int = 500_000, tolerance: float = 0.02, progress: Progress | None = None
) -> Iterator[Mesh]:
    """A mesh per view on the grid of its pixels, textured with its image, together about `maximum` vertices at most.

    What an earlier view has already (within `tolerance` of the depth) is left out, but for a rim of overlap. Triangles
    are cut at depth edges and at more than GRAZING degrees. Views of which nothing is left give no mesh.
    """
    maps, _ = maps.frontal()
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
