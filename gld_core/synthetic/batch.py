"""The rooms of `render`, drawn by torch: many at once on a GPU, where the search for what a ray meets is one compiled
reduction over rays x shapes.

`Layouts` makes rooms and cameras in worker processes, `render` draws a batch of them. Numbers are float32; shapes in
docstrings have R rooms, V views, P pixels of a view, S shapes of a room. Functions of points take and give their
components apart, so that the compiler makes one kernel of them.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from math import pi
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .render import Material, Room, scene_of
from .rooms import OTHER_SEEDS, OTHER_WORLDS, REACH, SIZES, VIEWS, save_room

# The room itself and a power of two, which the reduction likes best. One room in thousands has more.
MAX_SHAPES = 129
# Seeds from here on are for evaluation.
SEEDS_END = OTHER_SEEDS.stop
# Rooms that `render_until` draws at once, how many a second the trainings can read, and the numbers of their files.
TOGETHER, PER_SECOND, FILES = 8, 24, range(100_000, 400_000)
TEXTURES = (
    *("plain", "checker", "stripes", "planks", "bricks", "dots", "books"),
    *("painting", "window", "door", "fractal", "landscape", "carpet"),
)


class Packed(NamedTuple):
    """A room and its cameras in tensors of fixed sizes, for batches with a first axis R in front."""

    shapes: Tensor
    """(9, MAX_SHAPES): centre and half sizes in metres, cosine and sine of the turn, 1 for a ball."""
    materials: Tensor
    """(8, MAX_SHAPES + 5): two colours, the pattern's size in metres, 1 for lit; first the room's own six, then one
    for every other shape."""
    patterns: Tensor
    """(2, MAX_SHAPES + 5) int32: place in TEXTURES and seed of the materials."""
    room: Tensor
    """(7,): size and lamp in metres, the lamp's falloff."""
    c2w: Tensor
    """(V, 4, 4), OpenCV camera-to-world."""
    K: Tensor
    """(3, 3)."""


def pack(room: Room, c2w: np.ndarray, K: np.ndarray) -> Packed:
    """A room of `scene_of`, poses (V, 4, 4) and K (3, 3) as tensors."""
    if len(room.shapes) > MAX_SHAPES:
        raise ValueError(f"The room has {len(room.shapes)} shapes; {MAX_SHAPES} fit.")
    shapes = np.zeros((MAX_SHAPES, 9), np.float32)
    shapes[:, 3:6] = -1  # no ray meets a box of negative size
    shapes[: len(room.shapes)] = [
        (*shape.centre, *shape.half, np.cos(shape.turn), np.sin(shape.turn), shape.sphere) for shape in room.shapes
    ]
    used: list[Material] = [m for shape in room.shapes for m in shape.materials]
    materials, patterns = np.zeros((MAX_SHAPES + 5, 8), np.float32), np.zeros((MAX_SHAPES + 5, 2), np.int32)
    materials[: len(used)] = [(*m.first, *m.second, m.scale, m.lit) for m in used]
    patterns[: len(used)] = [(TEXTURES.index(m.texture), m.seed) for m in used]
    parts = (shapes.T, materials.T, patterns.T, np.array([*room.size, *room.lamp, room.falloff], np.float32))
    return Packed(*(torch.tensor(part) for part in parts), *(torch.tensor(part).float() for part in (c2w, K)))


class Layouts(IterableDataset):
    """Packed rooms of the seeds from `first` to SEEDS_END, for pictures of one size (height, width); DataLoader stacks
    them to batches. With n workers each has every n-th seed.

    One room in six is of another world. Rooms of more than MAX_SHAPES shapes are left out.
    """

    def __init__(self, size: tuple[int, int], first: int = 0):
        self.size, self.first = size, first

    def __iter__(self) -> Iterator[Packed]:
        worker = get_worker_info()
        start, step = (self.first + worker.id, worker.num_workers) if worker else (self.first, 1)
        for seed in range(start, SEEDS_END, step):
            room, c2w, K = scene_of(seed, VIEWS, *self.size, REACH, world_of(seed))
            if len(room.shapes) <= MAX_SHAPES:
                yield pack(room, c2w, K)


def world_of(seed: int) -> str:
    """World of a seed of `Layouts`: drawn, so that the seeds of every worker have all of them."""
    draw = int(np.random.default_rng((seed, 1)).integers(6 * len(OTHER_WORLDS)))
    return OTHER_WORLDS[draw] if draw < len(OTHER_WORLDS) else "room"


Parts = Sequence[Tensor]


def camera_rays(room: Packed, offset: Tensor, height: int, width: int) -> list[Tensor]:
    """World directions x, y, z, (R, V, P) each and of length 1 along the camera's axis, through the pixels' points at
    offset (2,), x and y in [0, 1].
    """
    pixel, K = torch.arange(height * width, device=room.K.device), room.K[..., None, None]
    x = (pixel % width + offset[0] - K[:, 0, 2]) / K[:, 0, 0]
    y = (pixel // width + offset[1] - K[:, 1, 2]) / K[:, 1, 1]
    m = room.c2w[..., None]
    return [m[:, :, i, 0] * x + m[:, :, i, 1] * y + m[:, :, i, 2] for i in range(3)]


def room_parts(room: Packed) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Size x, y, z, lamp x, y, z and falloff, (R, 1, 1) each."""
    parts = room.room[:, :, None, None].unbind(1)
    return list(parts[:3]), list(parts[3:6]), parts[6]


def entries(room: Packed, origin: Parts, d: Parts) -> Tensor:
    """(R, V, P, S - 1): the ray parameter where rays origin + t * d, components (R, V, P) each, enter the shapes but
    the room's own from outside; inf for none.
    """
    shapes = room.shapes[:, :, None, None, 1:].unbind(1)
    centre, half, (c, s, ball) = shapes[:3], shapes[3:6], shapes[6:]
    x, y, z = (part[..., None] - middle for part, middle in zip(origin, centre, strict=True))
    dx, dy, dz = (part[..., None] for part in d)
    o, d = (c * x + s * y, c * y - s * x, z), (c * dx + s * dy, c * dy - s * dx, dz)

    a, b = dx * dx + dy * dy + dz * dz, sum_of(o, d)
    root = b * b - a * (sum_of(o, o) - half[0] * half[0])
    sphere = torch.where(root >= 0, (-b - root.clamp(min=0).sqrt()) / a, torch.inf)

    # Along an axis a ray is in the box for |t - middle| <= reach. The least slope keeps both finite.
    inverse = [1 / torch.where(part.abs() < 1e-9, 1e-9, part) for part in d]
    middle = [-part * i for part, i in zip(o, inverse, strict=True)]
    reach = [part * i.abs() for part, i in zip(half, inverse, strict=True)]
    enter = [m - r for m, r in zip(middle, reach, strict=True)]
    leave = [m + r for m, r in zip(middle, reach, strict=True)]
    t = torch.maximum(torch.maximum(enter[0], enter[1]), enter[2])
    box = torch.where(t <= torch.minimum(torch.minimum(leave[0], leave[1]), leave[2]), t, torch.inf)

    t = torch.where(ball > 0, sphere, box)
    return torch.where(t > 1e-4, t, torch.inf)


def sum_of(first: Parts, second: Parts) -> Tensor:
    """Dot product of vectors by their components."""
    return first[0] * second[0] + first[1] * second[1] + first[2] * second[2]


def closest_hit(room: Packed, offset: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """z-depth in metres and index of the shape first seen through the pixels' points at offset (2,), (R, V, P) each."""
    size, _, _ = room_parts(room)
    origin, d = room.c2w[:, :, :3, 3, None].unbind(2), camera_rays(room, offset, height, width)
    outs = [torch.maximum((s - o) / part, -o / part) for s, o, part in zip(size, origin, d, strict=True)]
    walls = torch.minimum(torch.minimum(outs[0], outs[1]), outs[2])
    t, number = entries(room, origin, d).min(-1)
    closer = t < walls
    return torch.where(closer, t, walls), torch.where(closer, number + 1, 0)


def seen_points(room: Packed, depth: Tensor, offset: Tensor, height: int, width: int) -> list[Tensor]:
    """World points x, y, z at depth (R, V, P), (R, V, P) each."""
    origin, d = room.c2w[:, :, :3, 3, None].unbind(2), camera_rays(room, offset, height, width)
    return [o + depth * part for o, part in zip(origin, d, strict=True)]


def lamp_light(room: Packed, depth: Tensor, offset: Tensor, height: int, width: int) -> Tensor:
    """(R, V, P) 1 where the lamp sees the point at depth (R, V, P), 0 in shadow."""
    _, lamp, _ = room_parts(room)
    points = seen_points(room, depth, offset, height, width)
    toward = [to - p for to, p in zip(lamp, points, strict=True)]
    start = [p + 0.01 * to for p, to in zip(points, toward, strict=True)]
    return (entries(room, start, [0.99 * to for to in toward]).amin(-1) >= 1).float()


ACROSS, UP, MIX = 374761393, 668265263, 1274126177


def lattice(n: Tensor) -> Tensor:
    """Random values in [0, 1) of int32 numbers, which wrap around as uint32 do."""
    n = (n ^ (n >> 13 & 0x7FFFF)) * MIX
    return ((n ^ (n >> 16)) & 0xFFFF).float() / 65536


def number_at(u: Tensor, v: Tensor, seed: Tensor) -> Tensor:
    """int32 number of the lattice's point at whole u, v."""
    return u.to(torch.int32) * ACROSS + v.to(torch.int32) * UP + seed * MIX


def noise(u: Tensor, v: Tensor, seed: Tensor) -> Tensor:
    """Smooth random values in [0, 1) on the unit lattice."""
    i, j = u.floor(), v.floor()
    n, x, y = number_at(i, j, seed), u - i, v - j
    x, y = x * x * (3 - 2 * x), y * y * (3 - 2 * y)
    low = lattice(n) * (1 - x) + lattice(n + ACROSS) * x
    n = n + UP
    return low * (1 - y) + (lattice(n) * (1 - x) + lattice(n + ACROSS) * x) * y


def octaves(u: Tensor, v: Tensor, seed: Tensor, count: int, decay: float) -> Tensor:
    """Smooth random values in [0, 1) with detail at `count` sizes: each is half of the last, and `decay` as strong."""
    total = noise(u, v, seed)
    for k in range(1, count):
        total = total + noise(u * 2**k, v * 2**k, seed + 7 * k) * decay**k
    return total / sum(decay**k for k in range(count))


def cells(u: Tensor, v: Tensor, seed: Tensor) -> Tensor:
    """One random value in [0, 1) per unit cell."""
    return lattice(number_at(u.floor(), v.floor(), seed))


def fraction(u: Tensor) -> Tensor:
    return u - u.floor()


def mixed(share: Tensor, gain: Tensor | float) -> tuple[Tensor, Tensor, float]:
    """Shares of the colours: `share` of the second, the rest of the first, times `gain`."""
    return (1 - share) * gain, share * gain, 0.0


def paint(
    texture: Tensor, seed: Tensor, scale: Tensor, u: Tensor, v: Tensor, s: Tensor, t: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Shares of five colours at surface coordinates u, v in metres (v up) and s, t in [-1, 1] over the face (t up): the
    material's first and second, white, the third of fractals, and the sun's in paintings.
    """
    p, q = u / scale, v / scale
    zero = torch.zeros_like(u)
    fine = 0.9 + 0.2 * noise(u * 25, v * 25, seed)
    edge = torch.maximum(s.abs(), t.abs())
    shares: dict[str, tuple[Tensor | float, Tensor | float, Tensor | float]] = {}

    shares["checker"] = mixed(2 * fraction((p.floor() + q.floor()) / 2), fine)
    shares["stripes"] = mixed((fraction(p) < 0.5).float(), fine)
    shares["dots"] = mixed(((fraction(p) - 0.5) ** 2 + (fraction(q) - 0.5) ** 2 < 0.08).float(), fine)
    shares["carpet"] = mixed((noise(p * 2, q * 2, seed) + 0.5 * noise(p * 9, q * 9, seed + 1)) / 1.5, fine)

    along = p / 8 + 0.37 * q.floor()
    seam = (fraction(q) < 0.06) | (fraction(along) < 0.008)
    board = 0.7 * cells(along, q, seed) + 0.3 * noise(u * 4, v * 60, seed)
    shares["planks"] = mixed(board, torch.where(seam, 0.6, 1.0))

    across = p + fraction((q * 2).floor() / 2)
    mortar = (fraction(across) < 0.06) | (fraction(q * 2) < 0.12)
    brick = mixed(cells(across, q * 2, seed), fine)
    shares["bricks"] = (
        torch.where(mortar, 0.0, brick[0]),
        torch.where(mortar, 0.75, brick[1]),
        torch.where(mortar, 0.2, 0.0),
    )

    tone, hue = cells(p, zero, seed), cells(p, zero + 1, seed + 1)
    label = ((t - 0.4).abs() < 0.12) & (tone > 0.4)
    spine = mixed(1 - hue, torch.where(label, 0.0, (0.4 + 0.8 * tone) * torch.where(fraction(p) < 0.12, 0.4, 1.0)))
    shares["books"] = (spine[0], spine[1], torch.where(label, 0.85, 0.0))

    below = t < noise(s * 2 + 5, zero, seed) * 1.2 - 0.6
    frame, mount = edge > 0.88, edge > 0.76
    disc = ((s - 0.4) ** 2 + (t - 0.5) ** 2 < 0.04) & ~mount
    bare = disc | mount
    shares["painting"] = (
        torch.where(frame, 0.35, torch.where(bare | below, 0.0, 1 + 0.3 * t)),
        torch.where(bare | ~below, 0.0, 0.7 + 0.5 * noise(s * 6, t * 6, seed)),
        torch.where(mount & ~frame, 0.93, 0.0),
    )

    haze = (0.6 - t * 0.6).clamp(0, 1)
    trees = t < -0.45 + 0.5 * noise(s * 5, zero, seed)
    bars = (edge > 0.9) | (s.abs() < 0.04) | ((t - 0.2).abs() < 0.04)
    shares["window"] = (
        torch.where(bars | trees, 0.0, 1 - haze),
        torch.where(trees & ~bars, 0.7 + 0.6 * noise(s * 14, t * 14, seed), 0.0),
        torch.where(bars, 0.9, torch.where(trees, 0.0, haze)),
    )

    panel = ((s.abs() - 0.45).abs() < 0.3) & ((t.abs() - 0.5).abs() < 0.38)
    knob = ((s - 0.85).abs() < 0.06) & (t.abs() < 0.03)
    grain = 0.85 + 0.3 * noise(u * 60, v * 4, seed)
    shares["door"] = (
        torch.where(knob | panel, 0.0, grain),
        torch.where(panel & ~knob, grain, 0.0),
        torch.where(knob, 0.75, 0.0),
    )

    tone = ((octaves(p, q, seed, 6, 0.75) - 0.5) * 3.2 + 0.5).clamp(0, 1)
    tint = 0.5 * ((octaves(p, q, seed + 99, 6, 0.75) - 0.5) * 3 + 0.5).clamp(0, 1)
    shares["fractal"] = (tone * (1 - tint), (1 - tone) * (1 - tint), 0.0)

    wood = t < -0.75 + 0.56 * octaves(s * 4 + 9, zero, seed, 4, 0.5)
    clouds = (1.9 * octaves(s * 6, t * 9, seed, 4, 0.5) - 0.9).clamp(0, 1)
    clouds = (clouds + 0.35 - 0.35 * t).clamp(0, 1)
    shares["landscape"] = (
        torch.where(wood, 0.0, 1 - clouds),
        torch.where(wood, 0.5 + 0.92 * octaves(u, v, seed, 5, 0.7), 0.0),
        torch.where(wood, 0.0, clouds),
    )

    first, second, white = mixed(noise(p, q, seed) * 0.6, fine)  # plain
    chosen: list[Tensor] = [first, second, zero + white]
    for name, of_texture in shares.items():
        here = texture == TEXTURES.index(name)
        chosen = [torch.where(here, new, old) for new, old in zip(of_texture, chosen, strict=True)]
    third = torch.where(texture == TEXTURES.index("fractal"), tint, 0.0)
    sun = torch.where((texture == TEXTURES.index("painting")) & disc, 1.0, 0.0)
    return chosen[0], chosen[1], chosen[2], third, sun


def shade(room: Packed, depth: Tensor, index: Tensor, light: Tensor, offset: Tensor, height: int, width: int) -> Tensor:
    """(R, V, 3, P) colours in [0, 1] of the points at depth (R, V, P) on shapes `index` (R, V, P), of which `light`
    (R, V, P) in [0, 1] of the lamp arrives.
    """

    def rows(table: Tensor, row: Tensor) -> list[Tensor]:
        return [column.gather(1, row.flatten(1)).view(row.shape) for column in table.unbind(1)]

    size, lamp, falloff = room_parts(room)
    points = seen_points(room, depth, offset, height, width)
    shapes = rows(room.shapes, index)
    half, (c, s, is_ball) = shapes[3:6], shapes[6:]
    ball, own = is_ball > 0, index == 0
    x, y, z = (p - centre for p, centre in zip(points, shapes[:3], strict=True))
    local = [c * x + s * y, c * y - s * x, z]

    unit = [p / h for p, h in zip(local, half, strict=True)]
    x, y, z = (p.abs() for p in unit)
    on_x, on_z = (x >= y) & (x >= z), (z > x) & (z > y)
    on = [on_x, ~on_x & ~on_z, on_z]
    high = torch.where(on[0], unit[0], torch.where(on[1], unit[1], unit[2])) > 0
    sign = torch.where(high ^ own, 1.0, -1.0)  # the room's own box is seen from inside
    normal = [torch.where(ball, p, torch.where(here, sign, 0.0)) for p, here in zip(unit, on, strict=True)]

    across, up = torch.atan2(local[1], local[0]), torch.asin(unit[2].clamp(-1, 1))
    material = torch.where(own, 2 * on[1].long() + 4 * on[2].long() + high.long(), index + 5)
    texture, seed = rows(room.patterns, material)
    *colours, scale, lit = rows(room.materials, material)
    shares = paint(
        texture,
        seed,
        scale,
        torch.where(ball, across * half[0], torch.where(on[0], local[1], local[0]) + 50),
        torch.where(ball, up * half[0], torch.where(on[2], local[1], local[2]) + 50),
        torch.where(ball, across / pi, torch.where(on[0], unit[1], unit[0])),
        torch.where(ball, up / (pi / 2), torch.where(on[2], unit[1], unit[2])),
    )

    normal = [c * normal[0] - s * normal[1], s * normal[0] + c * normal[1], normal[2]]
    toward = [to - p for to, p in zip(lamp, points, strict=True)]
    square = sum_of(toward, toward)
    facing = (sum_of(normal, toward) / square.sqrt()).clamp(0, 1)
    x, y, z = (torch.minimum(p, length - p) for p, length in zip(points, size, strict=True))
    second_wall = torch.maximum(torch.minimum(x, y), torch.minimum(torch.maximum(x, y), z))
    ambient = (0.5 + 0.06 * normal[2]) * (1 - 0.35 * torch.exp(-second_wall.clamp(min=0) / 0.2))
    gain = torch.where(lit > 0, ambient + 0.75 * facing * light / (1 + falloff * square), 1.0)

    first, second = colours[:3], colours[3:]
    return torch.stack(
        [
            gain
            * (
                shares[0] * first[i]
                + shares[1] * second[i]
                + shares[2]
                + shares[3] * (first[i] - second[(i + 1) % 3]).abs()
                + shares[4] * (1.0, 0.9, 0.6)[i]
            )
            for i in range(3)
        ],
        dim=2,
    ).clamp(0, 1)


@cache
def compiled(function: Callable) -> Callable:
    return torch.compile(function, dynamic=False, fullgraph=True)


def draw(room: Packed, height: int, width: int, samples: int, step: Callable) -> tuple[Tensor, Tensor]:
    """`render` in one go; step(function) is the function that is called in place of each of the heavy ones."""
    middles = [(i + 0.5) / samples for i in range(samples)]
    offsets = torch.tensor([(0.5, 0.5), *((x, y) for y in middles for x in middles)], device=room.K.device)
    centres, _ = step(closest_hit)(room, offsets[0], height, width)
    light = step(lamp_light)(room, centres, offsets[0], height, width)
    total = torch.zeros((), device=room.K.device)
    for offset in offsets[1:]:
        depth, index = step(closest_hit)(room, offset, height, width)
        total = total + step(shade)(room, depth, index, light, offset, height, width)
    images = (total / samples**2 * 255).round().byte()
    return images.unflatten(-1, (height, width)), centres.half().unflatten(-1, (height, width))


@torch.no_grad()
def render(room: Packed, height: int, width: int, samples: int = 2) -> tuple[Tensor, Tensor]:
    """A batch of rooms on its device: images (R, V, 3, H, W) uint8, and depth (R, V, H, W) float16 in metres along the
    camera's axis at the pixel's centre, as `render_views` gives them.

    Colours are the mean of samples x samples rays per pixel. The CPU draws one view after the other, as it keeps
    rays x shapes in memory.
    """
    if room.K.device.type == "cuda":
        return draw(room, height, width, samples, compiled)
    images, depths = [], []
    for r in range(len(room.K)):
        one = Packed(*(part[r : r + 1] for part in room))
        one = one._replace(shapes=one.shapes[:, :, one.shapes[0, 3] > 0])
        views = [
            draw(one._replace(c2w=one.c2w[:, v : v + 1]), height, width, samples, lambda function: function)
            for v in range(one.c2w.shape[1])
        ]
        images.append(torch.cat([image for image, _ in views], dim=1))
        depths.append(torch.cat([depth for _, depth in views], dim=1))
    return torch.cat(images), torch.cat(depths)


def render_until(folder: Path, seconds: float, device: torch.device, workers: int = 2) -> None:
    """Fill the folder of `rooms.write_rooms` with rooms in pictures of SIZES[0] for so many seconds.

    PER_SECOND at most, with the numbers of FILES. On a GPU the compiler takes two minutes before the first.
    """
    loader = iter(DataLoader(Layouts(SIZES[0], FILES[0]), TOGETHER, num_workers=workers))
    began, number = time.monotonic(), FILES[0]
    while time.monotonic() < began + seconds and number + TOGETHER <= FILES[-1]:
        rooms = next(loader)
        images, depth = (part.cpu() for part in render(Packed(*(part.to(device) for part in rooms)), *SIZES[0]))
        for i in range(TOGETHER):
            save_room(folder, number + i, images[i], depth[i], rooms.c2w[i], rooms.K[i].expand(VIEWS, 3, 3))
        number += TOGETHER
        time.sleep(max(0.0, began + (number - FILES[0]) / PER_SECOND - time.monotonic()))
