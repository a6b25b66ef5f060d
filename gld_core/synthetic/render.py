"""Synthetic rooms: seeded scenes with exact depth and cameras, ray cast by numpy.

The world is metric, z up, the floor at z = 0. A room is a list of shapes with procedural textures: the room itself (a
box seen from inside), boxes that turn about z, and spheres. Shading is Lambert under one lamp with shadows, so a point
of the scene has the same colour from everywhere.
"""

from dataclasses import dataclass
from math import pi

import numpy as np
import torch
from torch import Tensor

from ..cameras import Cameras

WALLS = ("plain", "plain", "stripes", "bricks", "dots")
FLOORS = ("planks", "planks", "checker", "carpet")
FABRICS = ("plain", "stripes", "checker", "dots")
FURNITURE = {"none": 0.14, "shelf": 0.22, "cabinet": 0.2, "sofa": 0.2, "table": 0.14, "lamp": 0.1}
DEPTHS = {"none": 0.0, "shelf": 0.35, "cabinet": 0.5, "sofa": 0.85, "table": 0.7, "lamp": 0.4}


@dataclass
class Material:
    """Procedural texture: its name, two (3,) colours, the size of its pattern in metres, a seed; lit: shaded or not."""

    texture: str
    first: np.ndarray
    second: np.ndarray
    scale: float = 1.0
    seed: int = 0
    lit: bool = True


@dataclass
class Shape:
    """A box (centre, half sizes, turn about z in radians) or, with `sphere`, a ball of radius half[0]. The room's own
    box has six materials (low x, high x, low y, high y, floor, ceiling), everything else one.
    """

    centre: np.ndarray
    half: np.ndarray
    materials: tuple[Material, ...]
    turn: float = 0.0
    sphere: bool = False

    def local(self, vectors: np.ndarray) -> np.ndarray:
        """(..., 3) world directions in the shape's axes."""
        if not self.turn:
            return vectors
        c, s = np.cos(self.turn), np.sin(self.turn)
        return vectors @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], vectors.dtype)


class Room:
    """Furnished by a random generator. `shapes[0]` is the room itself; `lamp` the (3,) position of its light, which
    falls off with the square of the distance times `falloff`; `occupied` the circles (x, y, radius) that a camera stays
    out of.
    """

    falloff = 0.06

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.size = np.array([rng.uniform(4, 7), rng.uniform(4, 7), rng.uniform(2.5, 3.2)])
        self.lamp = np.array([*(self.size[:2] * rng.uniform(0.35, 0.65, 2)), self.size[2] - 0.25])
        self.shapes = [Shape(self.size / 2, self.size / 2, self.surfaces())]
        self.occupied: list[tuple[float, float, float]] = []
        doors = int(rng.integers(4))
        for side in range(4):
            length = self.size[1 - side // 2]
            self.on_wall(side, length / 2, 0.05, 0.03, length, 0.1, self.white())
            slots = int(length // 1.6)
            for slot in range(slots):
                along, space = (slot + 0.5) * length / slots, length / slots
                if side == doors and slot == slots // 2:
                    self.on_wall(side, along, 1.03, 0.05, 1.0, 2.06, self.white())
                    self.on_wall(side, along, 1.0, 0.08, 0.86, 2.0, self.material("door", *self.wood()))
                    continue
                kind = str(rng.choice(list(FURNITURE), p=list(FURNITURE.values())))
                if (
                    slot in (0, slots - 1) and kind == "sofa"
                ):  # so deep that it would cut into the next wall's furniture
                    kind = "cabinet"
                if self.furnish(kind, side, along, space) < 1.1:
                    self.hang(side, along, space)
        if rng.random() < 0.7:
            half = np.array([rng.uniform(0.7, 1.2), rng.uniform(0.5, 1.0), 0.01])
            rug = self.material(rng.choice(["carpet", *FABRICS]), self.color(), self.color(), rng.uniform(0.15, 0.4))
            self.add([*(self.size[:2] / 2 + rng.uniform(-0.4, 0.4, 2)), 0.01], half, rug, rng.uniform(-0.4, 0.4))
        for _ in range(int(rng.integers(1, 4))):
            radius = rng.uniform(0.15, 0.35)
            place = rng.uniform(1.2, np.maximum(self.size[:2] - 1.2, 1.3))
            self.occupied.append((place[0], place[1], radius * 1.5))
            self.ornament(np.array([*place, 0.0]), radius)

    def color(self, saturation=(0.2, 0.8), value=(0.3, 0.95)) -> np.ndarray:
        """Random (3,) RGB of any hue, saturation and value in the ranges."""
        hue, s, v = self.rng.uniform(0, 6), self.rng.uniform(*saturation), self.rng.uniform(*value)
        return v * (1 - s * (1 - np.clip(np.abs((hue + np.array([0.0, 4, 2])) % 6 - 3) - 1, 0, 1)))

    def wood(self) -> tuple[np.ndarray, np.ndarray]:
        base = np.array([0.55, 0.36, 0.2]) * self.rng.uniform(0.6, 1.6) + self.rng.uniform(0, 0.08, 3)
        return base, base * self.rng.uniform(0.55, 0.8)

    def material(self, texture, first, second, scale=1.0) -> Material:
        return Material(str(texture), first, second, scale, int(self.rng.integers(1 << 20)))

    def white(self) -> Material:
        return self.material("plain", np.full(3, 0.92), np.full(3, 0.88))

    def surfaces(self) -> tuple[Material, ...]:
        """Four walls, one of them of its own kind, the floor and the ceiling."""
        paint = self.color((0.03, 0.3), (0.75, 0.95))
        wall = self.material(self.rng.choice(WALLS), paint, paint * 0.88, 0.35)
        walls = [wall] * 4
        accent = self.color((0.2, 0.6), (0.5, 0.9))
        pattern = self.material(self.rng.choice(WALLS), accent, accent * 0.8, self.rng.uniform(0.2, 0.5))
        walls[int(self.rng.integers(4))] = pattern
        floor = str(self.rng.choice(FLOORS))
        if floor == "planks":
            below = self.material(floor, *self.wood(), self.rng.uniform(0.1, 0.18))
        else:
            light, dark = self.color((0, 0.3), (0.55, 0.9)), self.color((0, 0.5), (0.2, 0.5))
            below = self.material(floor, light, dark, self.rng.uniform(0.3, 0.6))
        return (*walls, below, self.white())

    def add(self, centre, half, material: Material, turn: float = 0.0, sphere: bool = False) -> None:
        self.shapes.append(Shape(np.array(centre, float), np.array(half, float), (material,), turn, sphere))

    def on_wall(self, side, along, height, depth, width, tall, material: Material | None = None) -> np.ndarray:
        """Centre (3,) of a box of depth x width x tall that leans on wall `side` (low x, high x, low y, high y) at
        `along` metres of it, its middle at `height`; with a material the box is added to the room.
        """
        axis = side // 2
        centre, half = np.empty(3), np.empty(3)
        centre[axis] = self.size[axis] - depth / 2 if side % 2 else depth / 2
        centre[1 - axis], centre[2] = along, height
        half[axis], half[1 - axis], half[2] = depth / 2, width / 2, tall / 2
        if material is not None:
            self.add(centre, half, material)
        return centre

    def hang(self, side, along, space) -> None:
        """A painting, a window or nothing."""
        kind = self.rng.choice(["painting", "painting", "window", "none"])
        if kind == "painting":
            width, tall = self.rng.uniform(0.45, 0.9), self.rng.uniform(0.4, 0.8)
            picture = self.material("painting", self.color((0.3, 0.9)), self.color((0.3, 0.9)))
            self.on_wall(side, along, 1.6, 0.05, width, tall, picture)
        elif kind == "window":
            glass = self.material("window", np.array([0.55, 0.75, 0.97]), np.array([0.35, 0.5, 0.3]))
            glass.lit = False
            self.on_wall(side, along, 1.65, 0.04, min(self.rng.uniform(0.9, 1.4), space - 0.2), 1.1, glass)

    def ornament(self, base, radius) -> None:
        """A ball or a turned box that stands on `base`."""
        look = self.material(
            self.rng.choice(FABRICS), self.color((0.4, 1)), self.color(), radius * self.rng.uniform(0.4, 0.8)
        )
        if self.rng.random() < 0.5:
            self.add(base + [0, 0, radius], np.full(3, radius), look, sphere=True)
        else:
            half = radius * self.rng.uniform(0.6, 1.2, 3)
            self.add(base + [0, 0, half[2]], half, look, self.rng.uniform(0, pi))

    def furnish(self, kind, side, along, space) -> float:
        """Stand a piece of furniture against a wall; returns how high it reaches."""
        rng, depth = self.rng, DEPTHS[kind]
        if kind == "none":
            return 0.0
        width = min(space - 0.15, rng.uniform(0.9, 1.6) if kind != "sofa" else rng.uniform(1.4, 2.0))
        colors = self.wood() if rng.random() < 0.7 else (self.color(), self.color())
        board, plain = self.material("planks", *colors, 0.15), self.material("plain", colors[1], colors[1])
        middle = self.on_wall(side, along, 0.0, depth, width, 0.0)
        self.occupied.append((middle[0], middle[1], max(width, depth) / 2))
        if kind == "shelf":
            tall = rng.uniform(1.2, 2.1)
            for edge in (-1, 1):
                self.on_wall(side, along + edge * (width / 2 - 0.02), tall / 2, depth, 0.04, tall, board)
            self.on_wall(side, along, tall / 2, 0.04, width, tall, plain)
            levels = int(tall // 0.38)
            for level in range(levels + 1):
                z = 0.06 + level * (tall - 0.08) / levels
                self.on_wall(side, along, z, depth, width, 0.035, board)
                if level < levels and rng.random() < 0.85:
                    row, high = rng.uniform(0.3, 0.95) * (width - 0.1), rng.uniform(0.2, 0.29)
                    shift = rng.uniform(-0.5, 0.5) * (width - 0.1 - row)
                    books = self.material("books", self.color(), self.color(), 0.05)
                    self.on_wall(side, along + shift, z + high / 2, depth * 0.75, row, high, books)
            return tall
        if kind == "cabinet":
            tall = rng.uniform(0.5, 1.0)
            self.on_wall(
                side, along, tall / 2, depth, width, tall, self.material(rng.choice(["door", "planks"]), *colors, 0.25)
            )
            self.on_wall(side, along, tall + 0.015, depth + 0.03, width + 0.04, 0.03, plain)
            top = self.on_wall(side, along + rng.uniform(-0.3, 0.3) * width, tall + 0.03, depth, 0.0, 0.0)
            self.ornament(top, rng.uniform(0.08, 0.16))
            return tall + 0.35
        if kind == "sofa":
            cloth = self.material(
                rng.choice(FABRICS), self.color((0.2, 0.8), (0.3, 0.8)), self.color(), rng.uniform(0.08, 0.2)
            )
            self.on_wall(side, along, 0.22, depth, width, 0.44, cloth)
            self.on_wall(side, along, 0.42, 0.25, width, 0.84, cloth)
            for edge in (-1, 1):
                self.on_wall(side, along + edge * (width / 2 - 0.09), 0.31, depth, 0.18, 0.62, cloth)
            return 0.84
        if kind == "table":
            tall = rng.uniform(0.68, 0.8)
            self.on_wall(side, along, tall, depth, width, 0.05, board)
            spread = np.array([depth, width] if side < 2 else [width, depth]) / 2 - 0.06
            for x in (-1, 1):
                for y in (-1, 1):
                    self.add([*(middle[:2] + spread * [x, y]), tall / 2], [0.03, 0.03, tall / 2], plain)
            self.ornament(middle + [0, 0, tall + 0.025], rng.uniform(0.08, 0.16))
            return tall + 0.35
        metal = self.material("plain", np.full(3, 0.2), np.full(3, 0.25))
        self.add([*middle[:2], 0.7], [0.02, 0.02, 0.7], metal)
        self.add([*middle[:2], 0.02], [0.15, 0.15, 0.02], metal, 0.5)
        shade = Material("plain", np.array([1.0, 0.95, 0.8]), np.array([1.0, 0.9, 0.7]), lit=False)
        self.add([*middle[:2], 1.5], np.full(3, 0.19), shade, sphere=True)
        return 1.7

    def goal(self) -> np.ndarray:
        """A (3,) point that a camera looks at."""
        return np.array([*self.rng.uniform(0.1, 0.9, 2) * self.size[:2], self.rng.uniform(0.5, 1.3)])

    def clearance(self, eyes: np.ndarray) -> float:
        """Smallest distance on plan from any of the (V, 3) eyes to a wall or to a piece of furniture, in metres."""
        walls = min(eyes[:, :2].min(), (self.size[:2] - eyes[:, :2]).min())
        return min([walls, *(np.hypot(*(eyes[:, :2] - [x, y]).T).min() - radius for x, y, radius in self.occupied)])


class Studio(Room):
    """A room whose surfaces are as varied in colour and detail as photographs are."""

    def material(self, texture, first, second, scale=1.0) -> Material:
        if self.rng.random() < 0.55:
            texture, scale = "fractal", self.rng.uniform(0.15, 1.5)
            first, second = self.color((0, 0.7), (0.2, 1.0)), self.color((0, 0.7), (0.02, 0.8))
        return super().material(texture, first, second, scale)


class Outdoors(Studio):
    """A meadow or a square under a sky, with trees, huts and stones. The sun is a lamp far away."""

    falloff = 0.0

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.size = np.array([rng.uniform(18, 28), rng.uniform(18, 28), rng.uniform(9, 14)])
        self.lamp = self.size / 2 + np.array([*rng.uniform(-80, 80, 2), 90.0])
        sky, wood = self.color((0.2, 0.7), (0.7, 1.0)), self.color((0.2, 0.6), (0.2, 0.5))
        walls = [Material("landscape", sky, wood, 1.0, int(rng.integers(1 << 20)), lit=False) for _ in range(4)]
        ground = Material("fractal", self.color((0.2, 0.7), (0.3, 0.8)), self.color((0.1, 0.6), (0.2, 0.6)), 1.5)
        ground.seed = int(rng.integers(1 << 20))
        top = Material("plain", sky, sky * 0.97, lit=False)
        self.shapes = [Shape(self.size / 2, self.size / 2, (*walls, ground, top))]
        self.occupied = []
        for _ in range(int(rng.integers(10, 22))):
            place, radius = rng.uniform(1.5, self.size[:2] - 1.5), rng.uniform(0.3, 1.3)
            self.occupied.append((place[0], place[1], radius * 1.3))
            kind = rng.choice(["tree", "hut", "stone"])
            if kind == "tree":
                tall = rng.uniform(1.2, 3.0)
                trunk = self.material("planks", *self.wood(), 0.1)
                self.add([*place, tall / 2], [0.14, 0.14, tall / 2], trunk, rng.uniform(0, pi))
                leaves = self.material("fractal", self.color((0.3, 0.8), (0.3, 0.8)), self.color((0.3, 0.8)), 0.6)
                self.add([*place, tall + radius * 0.6], np.full(3, radius), leaves, sphere=True)
            elif kind == "hut":
                half = np.array([radius, radius * rng.uniform(0.6, 1.4), rng.uniform(0.5, 1.8)])
                wall = self.material(
                    rng.choice(["bricks", "planks", "door", "stripes"]), self.color(), self.color(), 0.4
                )
                self.add([*place, half[2]], half, wall, turn := rng.uniform(0, pi))
                roof = self.material("stripes", self.color((0.3, 0.9)), self.color(), 0.2)
                self.add([*place, 2 * half[2] + 0.1], half * [1.15, 1.15, 0] + [0, 0, 0.1], roof, turn)
            else:
                self.ornament(np.array([*place, 0.0]), radius * 0.6)


class Objects(Studio):
    """A table with objects on it in an empty room, seen from around it."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.size = np.array([rng.uniform(4, 6), rng.uniform(4, 6), rng.uniform(2.5, 3.2)])
        self.lamp = np.array([*(self.size[:2] * rng.uniform(0.3, 0.7, 2)), self.size[2] - 0.25])
        self.shapes = [Shape(self.size / 2, self.size / 2, self.surfaces())]
        self.middle, tall = self.size[:2] / 2, rng.uniform(0.5, 0.75)
        half = np.array([rng.uniform(0.4, 0.8), rng.uniform(0.4, 0.7), 0.03])
        self.occupied = [(*self.middle, 0.9)]
        self.add([*self.middle, tall - 0.03], half, self.material("planks", *self.wood(), 0.12))
        self.add([*self.middle, tall / 2 - 0.03], [0.2, 0.2, tall / 2 - 0.03], self.material("plain", *self.wood()))
        for _ in range(int(rng.integers(4, 10))):
            place = self.middle + rng.uniform(-0.8, 0.8, 2) * half[:2]
            self.ornament(np.array([*place, tall]), rng.uniform(0.06, 0.18))

    def goal(self) -> np.ndarray:
        return np.array([*(self.middle + self.rng.uniform(-0.3, 0.3, 2)), self.rng.uniform(0.5, 0.9)])


WORLDS = {"room": Room, "studio": Studio, "outdoors": Outdoors, "objects": Objects}


def camera_path(room: Room, views: int, reach: float) -> np.ndarray:
    """(V, 4, 4) OpenCV camera-to-world along a smooth path of 0.5 to 1.6 times `reach` metres at eye height, clear of
    the furniture, looking at a point that moves slowly.
    """
    rng, steps = room.rng, np.linspace(0, 1, views)[:, None]
    best, eyes, goals = -np.inf, np.empty(0), np.empty(0)
    for _ in range(60):
        start = np.array([*rng.uniform(0.15, 0.85, 2) * room.size[:2], rng.uniform(1.1, 1.7)])
        heading, length = rng.uniform(0, 2 * pi), reach * rng.uniform(0.5, 1.6)
        end = start + length * np.array([np.cos(heading), np.sin(heading), rng.uniform(-0.2, 0.2)])
        bend = (start + end) / 2 + rng.uniform(-0.25, 0.25, 3) * [1, 1, 0.4]
        path = (1 - steps) ** 2 * start + 2 * steps * (1 - steps) * bend + steps**2 * end
        goal = room.goal()
        aims = goal + steps * reach * rng.uniform(-0.7, 0.7, 3) * [1, 1, 0.3]
        away = np.linalg.norm((aims - path)[:, :2], axis=1).min()
        score = min(room.clearance(path), 0.5) + min(away, 2.0) / 4
        if score > best:
            best, eyes, goals = score, path, aims
    forward = (goals - eyes) / np.linalg.norm(goals - eyes, axis=1, keepdims=True)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    c2w = np.tile(np.eye(4), (views, 1, 1))
    c2w[:, :3, :3] = np.stack([right, np.cross(forward, right), forward], axis=2)
    c2w[:, :3, 3] = eyes
    return c2w


def directions(c2w: np.ndarray, K: np.ndarray, height: int, width: int, samples: int, dtype) -> np.ndarray:
    """(height*samples, width*samples, 3) world ray directions of length 1 along the camera's axis, at the middles of
    samples x samples parts of every pixel.
    """
    x = ((np.arange(width * samples) + 0.5) / samples - K[0, 2]) / K[0, 0]
    y = ((np.arange(height * samples) + 0.5) / samples - K[1, 2]) / K[1, 1]
    grid = np.stack([*np.meshgrid(x, y), np.ones((len(y), len(x)))], axis=-1)
    return (grid @ c2w[:3, :3].T).astype(dtype)


def screen_window(shape: Shape, c2w: np.ndarray, K: np.ndarray, height: int, width: int, samples: int):
    """Rows and columns of the sample grid that a shape can touch; None where it is out of sight."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * shape.half
    c, s = np.cos(shape.turn), np.sin(shape.turn)
    corners = corners @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + shape.centre
    seen = (corners - c2w[:3, 3]) @ c2w[:3, :3]
    if seen[:, 2].max() <= 0:
        return None
    if seen[:, 2].min() <= 0.01:
        return slice(None), slice(None)
    pixels = (seen[:, :2] / seen[:, 2:] * [K[0, 0], K[1, 1]] + K[:2, 2]) * samples
    low = np.clip(np.floor(pixels.min(0)) - 1, 0, [width * samples, height * samples]).astype(int)
    high = np.clip(np.ceil(pixels.max(0)) + 1, 0, [width * samples, height * samples]).astype(int)
    return (slice(low[1], high[1]), slice(low[0], high[0])) if (high > low).all() else None


def intersect(shape: Shape, origin: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Ray parameter where rays origin (3,) or (..., 3) + t * d (..., 3) enter a shape from outside; inf for none."""
    o, d = shape.local((origin - shape.centre).astype(d.dtype)), shape.local(d)
    with np.errstate(divide="ignore", invalid="ignore"):
        if shape.sphere:
            a, b = (d * d).sum(-1), (o * d).sum(-1)
            root = b * b - a * ((o * o).sum(-1) - shape.half[0] ** 2)
            t = (-b - np.sqrt(root)) / a
            return np.where(t > 1e-4, t, np.inf)  # False for the NaN of a negative root
        inverse = 1 / d
        near, far = (-shape.half.astype(d.dtype) - o) * inverse, (shape.half.astype(d.dtype) - o) * inverse
        entry = np.minimum(near, far)
        leave = np.maximum(near, far)
        t = np.maximum(np.maximum(entry[..., 0], entry[..., 1]), entry[..., 2])
        out = np.minimum(np.minimum(leave[..., 0], leave[..., 1]), leave[..., 2])
    return np.where((t <= out) & (t > 1e-4), t, np.inf)


def cast(room: Room, c2w: np.ndarray, K: np.ndarray, height: int, width: int, samples: int, dtype):
    """z-depth and index of the shape first seen, both (height*samples, width*samples), and the rays' directions."""
    origin = c2w[:3, 3]
    d = directions(c2w, K, height, width, samples, dtype)
    with np.errstate(divide="ignore"):
        walls = np.maximum((room.size - origin).astype(dtype) / d, (-origin).astype(dtype) / d)
    depth = walls.min(-1)
    index = np.zeros(depth.shape, np.int16)
    for number, shape in enumerate(room.shapes[1:], 1):
        window = screen_window(shape, c2w, K, height, width, samples)
        if window is not None:
            t = intersect(shape, origin, d[window])
            closer = t < depth[window]
            depth[window][closer] = t[closer]
            index[window][closer] = number
    return depth, index, d


def noise(u: np.ndarray, v: np.ndarray, seed: int) -> np.ndarray:
    """Smooth random values in [0, 1) on the unit lattice."""

    def lattice(i, j):
        n = (
            i.astype(np.uint32) * np.uint32(374761393)
            + j.astype(np.uint32) * np.uint32(668265263)
            + np.uint32(seed * 1274126177 & 0xFFFFFFFF)
        )
        n = (n ^ (n >> np.uint32(13))) * np.uint32(1274126177)
        return ((n ^ (n >> np.uint32(16))) & np.uint32(0xFFFF)).astype(np.float32) / 65536

    i, j = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    x, y = u - i, v - j
    x, y = x * x * (3 - 2 * x), y * y * (3 - 2 * y)
    low = lattice(i, j) * (1 - x) + lattice(i + 1, j) * x
    return low * (1 - y) + (lattice(i, j + 1) * (1 - x) + lattice(i + 1, j + 1) * x) * y


def octaves(u: np.ndarray, v: np.ndarray, seed: int, count: int, decay: float) -> np.ndarray:
    """Smooth random values in [0, 1) with detail at `count` sizes: each is half of the last, and `decay` as strong."""
    layers = [noise(u * 2**k, v * 2**k, seed + 7 * k) * decay**k for k in range(count)]
    return np.stack(layers).sum(axis=0) / sum(decay**k for k in range(count))


def cells(u: np.ndarray, v: np.ndarray, seed: int) -> np.ndarray:
    """One random value in [0, 1) per unit cell."""
    return noise(np.floor(u), np.floor(v), seed)


def paint(m: Material, u: np.ndarray, v: np.ndarray, s: np.ndarray, t: np.ndarray) -> np.ndarray:
    """(P, 3) colours at surface coordinates u, v in metres (v up) and s, t in [-1, 1] over the face (t up)."""
    a, b = m.first, m.second
    p, q = u / m.scale, v / m.scale
    fine = (0.9 + 0.2 * noise(u * 25, v * 25, m.seed))[:, None]
    if m.texture == "checker":
        mix = (np.floor(p) + np.floor(q)) % 2
    elif m.texture == "stripes":
        mix = (p % 1 < 0.5).astype(float)
    elif m.texture == "planks":
        shade = cells(np.floor(p / 8 + 0.37 * np.floor(q)), q, m.seed)
        seam = (q % 1 < 0.06) | ((p / 8 + 0.37 * np.floor(q)) % 1 < 0.008)
        return (a + (b - a) * (0.7 * shade + 0.3 * noise(u * 4, v * 60, m.seed))[:, None]) * np.where(seam, 0.6, 1)[
            :, None
        ]
    elif m.texture == "bricks":
        across = p + 0.5 * (np.floor(q * 2) % 2)
        mortar = (across % 1 < 0.06) | (q * 2 % 1 < 0.12)
        return np.where(mortar[:, None], b * 0.75 + 0.2, (a + (b - a) * cells(across, q * 2, m.seed)[:, None]) * fine)
    elif m.texture == "dots":
        mix = ((p % 1 - 0.5) ** 2 + (q % 1 - 0.5) ** 2 < 0.08).astype(float)
    elif m.texture == "books":
        tone = cells(p, np.zeros_like(p), m.seed)
        hue = cells(p, np.ones_like(p), m.seed + 1)[:, None]
        label = (np.abs(t - 0.4) < 0.12) & (tone > 0.4)
        rgb = (a * hue + b * (1 - hue)) * (0.4 + 0.8 * tone)[:, None] * np.where(p % 1 < 0.12, 0.4, 1)[:, None]
        return np.where(label[:, None], 0.85, rgb)
    elif m.texture == "painting":
        hills = noise(s * 2 + 5, np.zeros_like(s), m.seed) * 1.2 - 0.6
        land = np.where(
            (t < hills)[:, None], b * (0.7 + 0.5 * noise(s * 6, t * 6, m.seed))[:, None], a * (1 + 0.3 * t)[:, None]
        )
        sun = (s - 0.4) ** 2 + (t - 0.5) ** 2 < 0.04
        land = np.where(sun[:, None], [1.0, 0.9, 0.6], land)
        border = np.maximum(np.abs(s), np.abs(t))[:, None]
        return np.where(border > 0.88, a * 0.35, np.where(border > 0.76, 0.93, land))
    elif m.texture == "window":
        sky = a + (1 - a) * np.clip(0.6 - t * 0.6, 0, 1)[:, None]
        trees = (t < -0.45 + 0.5 * noise(s * 5, np.zeros_like(s), m.seed))[:, None]
        view = np.where(trees, b * (0.7 + 0.6 * noise(s * 14, t * 14, m.seed))[:, None], sky)
        frame = (np.maximum(np.abs(s), np.abs(t)) > 0.9) | (np.abs(s) < 0.04) | (np.abs(t - 0.2) < 0.04)
        return np.where(frame[:, None], 0.9, view)
    elif m.texture == "door":
        panel = (np.abs(np.abs(s) - 0.45) < 0.3) & (np.abs(np.abs(t) - 0.5) < 0.38)
        knob = (np.abs(s - 0.85) < 0.06) & (np.abs(t) < 0.03)
        grain = 0.85 + 0.3 * noise(u * 60, v * 4, m.seed)
        return np.where(knob[:, None], 0.75, np.where(panel[:, None], b, a) * grain[:, None])
    elif m.texture == "fractal":
        # Detail at every size, as photographs have it, with a tint that changes on its own.
        tone = np.clip((octaves(p, q, m.seed, 6, 0.75) - 0.5) * 3.2 + 0.5, 0, 1)[:, None]
        tint = np.clip((octaves(p, q, m.seed + 99, 6, 0.75) - 0.5) * 3 + 0.5, 0, 1)[:, None]
        third = np.abs(a - b[[1, 2, 0]])
        return (a * tone + b * (1 - tone)) * (1 - 0.5 * tint) + third * 0.5 * tint
    elif m.texture == "landscape":
        ridge = -0.75 + 0.56 * octaves(s * 4 + 9, np.zeros_like(s), m.seed, 4, 0.5)
        wood = b * (0.5 + 0.92 * octaves(u, v, m.seed, 5, 0.7))[:, None]
        clouds = np.clip(1.9 * octaves(s * 6, t * 9, m.seed, 4, 0.5) - 0.9, 0, 1)
        sky = a + (1 - a) * np.clip(clouds[:, None] + 0.35 - 0.35 * t[:, None], 0, 1)
        return np.where((t < ridge)[:, None], wood, sky)
    elif m.texture == "carpet":
        mix = (noise(p * 2, q * 2, m.seed) + 0.5 * noise(p * 9, q * 9, m.seed + 1)) / 1.5
    else:
        mix = noise(p, q, m.seed) * 0.6
    return (a + (b - a) * mix[:, None]) * fine


def shade(room: Room, points: np.ndarray, index: np.ndarray, light: np.ndarray) -> np.ndarray:
    """(P, 3) colours of surface points (P, 3) on shapes `index` (P,), `light` (P,) in [0, 1] of the lamp arriving."""
    colors = np.empty(points.shape, np.float32)
    order = np.argsort(index, kind="stable")
    starts = np.flatnonzero(np.diff(index[order], prepend=-1))
    for rows in np.split(order, starts[1:]):
        shape = room.shapes[index[rows[0]]]
        p = shape.local(points[rows] - shape.centre.astype(points.dtype))
        if shape.sphere:
            normal = p / shape.half[0]
            polar = np.stack([np.arctan2(p[:, 1], p[:, 0]), np.arcsin(np.clip(normal[:, 2], -1, 1))])
            colors[rows] = paint(shape.materials[0], *(polar * shape.half[0]), *(polar / [[pi], [pi / 2]]))
            lit = np.full(len(rows), shape.materials[0].lit)
        else:
            unit = p / shape.half
            axis = np.abs(unit).argmax(1)
            high = np.take_along_axis(unit, axis[:, None], 1)[:, 0] > 0
            normal = np.zeros_like(p)
            normal[np.arange(len(p)), axis] = np.where(high, 1, -1)
            lit = np.empty(len(rows), bool)
            for face in range(6) if len(shape.materials) > 1 else range(0, 6, 2):
                on = (axis == face // 2) & ((high == face % 2) | (len(shape.materials) == 1))
                u, v = [(1, 2), (0, 2), (0, 1)][face // 2]
                m = shape.materials[face if len(shape.materials) > 1 else 0]
                colors[rows[on]] = paint(m, p[on, u] + 50, p[on, v] + 50, unit[on, u], unit[on, v])
                lit[on] = m.lit
            if len(shape.materials) > 1:
                normal = -normal
        c, s = np.cos(shape.turn), np.sin(shape.turn)
        normal = normal @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        toward = room.lamp - points[rows]
        distance = np.linalg.norm(toward, axis=1)
        facing = np.clip((normal * toward).sum(1) / distance, 0, 1)
        corner = np.sort(np.minimum(points[rows], room.size - points[rows]), axis=1)[:, 1]  # second nearest wall
        ambient = (0.5 + 0.06 * normal[:, 2]) * (1 - 0.35 * np.exp(-np.clip(corner, 0, None) / 0.2))
        gain = ambient + 0.75 * facing * light[rows] / (1 + room.falloff * distance**2)
        colors[rows] *= np.where(lit, gain, 1)[:, None]
    return np.clip(colors, 0, 1)


def lamp_light(room: Room, points: np.ndarray) -> np.ndarray:
    """(P,) 1 where the lamp sees a point (P, 3), 0 in shadow."""
    toward = (room.lamp - points).astype(np.float32)
    start = (points + 0.01 * toward).astype(np.float32)
    light = np.ones(len(points), np.float32)
    for shape in room.shapes[1:]:
        light[intersect(shape, start, toward * 0.99) < 1] = 0
    return light


def render_views(
    room: Room, c2w: np.ndarray, K: np.ndarray, height: int, width: int, samples: int = 2
) -> tuple[Tensor, Tensor, Cameras]:
    """A room from poses (V, 4, 4), OpenCV camera-to-world, through one K (3, 3): images (V, 3, H, W) in [0, 1], depth
    (V, H, W) in metres along the camera's axis at the pixel's centre, cameras.

    Colours are the mean of samples x samples rays per pixel.
    """
    images, depths = [], []
    for pose in c2w:
        depth, _, d = cast(room, pose, K, height, width, 1, np.float64)
        depths.append(torch.from_numpy(depth.astype(np.float32)))
        light = lamp_light(room, (pose[:3, 3] + depth[..., None] * d).reshape(-1, 3)).reshape(height, width)
        depth, index, d = cast(room, pose, K, height, width, samples, np.float32)
        points = (pose[:3, 3] + depth[..., None] * d).reshape(-1, 3)
        light = light.repeat(samples, 0).repeat(samples, 1)
        colors = (
            shade(room, points, index.ravel(), light.ravel()).reshape(height, samples, width, samples, 3).mean((1, 3))
        )
        images.append(torch.from_numpy(colors.transpose(2, 0, 1).astype(np.float32)))
    cameras = Cameras(torch.from_numpy(c2w), torch.from_numpy(K).expand(len(c2w), 3, 3), height, width)
    return torch.stack(images), torch.stack(depths), cameras


def scene_of(
    seed: int, views: int, height: int, width: int, reach: float = 1.0, world: str = "room"
) -> tuple[Room, np.ndarray, np.ndarray]:
    """A room, or another of WORLDS, and a camera path of its own for every seed: the room, poses (V, 4, 4), OpenCV
    camera-to-world, and K (3, 3).

    `reach` scales how far the camera goes. The same arguments give the same numbers; the world is metric with z up,
    with one K of 60 to 85 degrees across for all views.
    """
    rng = np.random.default_rng(seed)
    room = WORLDS[world](rng)
    c2w = camera_path(room, views, reach)
    focal = width / 2 / np.tan(np.radians(rng.uniform(60, 85)) / 2)
    return room, c2w, np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def render_scene(
    seed: int, views: int, height: int, width: int, samples: int = 2, reach: float = 1.0, world: str = "room"
) -> tuple[Tensor, Tensor, Cameras]:
    """The scene of a seed, as `scene_of` makes it: images (V, 3, H, W) in [0, 1], depth (V, H, W), cameras, as
    `render_views` gives them.
    """
    return render_views(*scene_of(seed, views, height, width, reach, world), height, width, samples)
