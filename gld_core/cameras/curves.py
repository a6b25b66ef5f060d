"""A smooth curve through posed cameras, travelled by distance."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

EASES: dict[str, Callable[[float], float]] = {
    "none": lambda t: t,
    "in": lambda t: t * t,
    "out": lambda t: t * (2 - t),
    "in_out": lambda t: t * t * (3 - 2 * t),
}
# Pieces that every segment is measured in.
PIECES = 32


def slerp(a: Rotation, b: Rotation, u: float) -> Rotation:
    """On the shortest way from a (u = 0) to b (u = 1), and beyond them for other u.

    Shoemake, Animating rotation with quaternion curves, 1985.
    """
    return a * (a.inv() * b) ** u


def pose(position: Tensor, turn: Rotation) -> Tensor:
    """(3,) -> (4, 4) float64 camera-to-world."""
    out = torch.eye(4, dtype=torch.float64)
    out[:3, :3] = torch.from_numpy(turn.as_matrix())
    out[:3, 3] = position
    return out


def catmull_rom(keys: list, knots: list[float], t: float, mix: Callable):
    """Four keys at four knots -> the curve at t, between the second and the third knot.

    Barry and Goldman, A recursive evaluation algorithm for a class of Catmull-Rom splines, 1988; with slerp for `mix`
    the same on the sphere (Schlag, Using geometric constructions to interpolate orientation with quaternions, 1991).
    """
    for reach in (1, 2):
        keys = [mix(keys[i], keys[i + 1], (t - knots[i]) / (knots[i + reach] - knots[i])) for i in range(len(keys) - 1)]
    return mix(keys[0], keys[1], (t - knots[1]) / (knots[2] - knots[1]))


class Curve:
    """Through 2 keys or more: a centripetal Catmull-Rom curve for positions, the same on the sphere for rotations.
    A radian counts like one scene depth.

    position: float64 (3,) of every key; turn: its rotation; depth: of the scene; loop: whether the curve returns
    to its first key; facing(position, turn): the rotation to use in the place of the curve's own, for a camera that
    looks at a point. The same curve in JavaScript: web/editor/curve.mjs.
    """

    def __init__(
        self,
        position: Sequence[Tensor],
        turn: Sequence[Rotation],
        depth: float,
        loop: bool = False,
        facing: Callable[[Tensor, Rotation], Rotation] | None = None,
    ):
        position, turn = list(position), list(turn)
        if loop:
            position, turn = [*position, position[0]], [*turn, turn[0]]
        self.depth, self.facing = depth, facing
        self.segments = len(position) - 1
        pairs = zip(position, turn, position[1:], turn[1:], strict=False)
        steps = [max(self.distance(*pair) ** 0.5, 1e-4) for pair in pairs]
        # One more key at either end: the loop's own, or the neighbour mirrored at the end.
        if loop:
            steps = [steps[-1], *steps, steps[0]]
            position, turn = ([*track[-2:-1], *track, track[1]] for track in (position, turn))
        else:
            steps = [steps[0], *steps, steps[-1]]
            mirrored = torch.lerp(position[0], position[1], -1.0), torch.lerp(position[-1], position[-2], -1.0)
            position = [mirrored[0], *position, mirrored[1]]
            turn = [slerp(turn[0], turn[1], -1.0), *turn, slerp(turn[-1], turn[-2], -1.0)]
        self.position, self.turn = position, turn
        self.knots = np.concatenate([[0.0], np.cumsum(steps)])
        places = np.linspace(0, self.segments, PIECES * self.segments + 1)
        self.fine = np.interp(places, np.arange(self.segments + 1), self.knots[1:-1])
        samples = [self.at(knot)[:2] for knot in self.fine]
        steps = [self.distance(*a, *b) + 1e-9 for a, b in zip(samples, samples[1:], strict=False)]
        self.travelled = np.concatenate([[0.0], np.cumsum(steps)])

    def distance(self, p: Tensor, q: Rotation, p2: Tensor, q2: Rotation) -> float:
        return (p2 - p).norm().item() / self.depth + float((q.inv() * q2).magnitude())

    def at(self, knot: float) -> tuple[Tensor, Rotation, int, float]:
        """Position, rotation, the segment, and how far of the segment's knots is done."""
        i = int(np.clip(np.searchsorted(self.knots, knot, side="right") - 2, 0, self.segments - 1))
        local = self.knots[i : i + 4].tolist()
        p = catmull_rom(self.position[i : i + 4], local, knot, torch.lerp)
        q = catmull_rom(self.turn[i : i + 4], local, knot, slerp)
        if self.facing is not None:
            q = self.facing(p, q)
        return p, q, i, float((knot - local[1]) / (local[2] - local[1]))

    def at_distance(self, distance: float) -> tuple[Tensor, Rotation, int, float]:
        """`at`, by the way from the first key, of which there is `travelled[-1]`."""
        return self.at(float(np.interp(distance, self.travelled, self.fine)))

    @property
    def key_distances(self) -> list[float]:
        """The way from the first key to every key, the closing one of a loop included."""
        return self.travelled[::PIECES].tolist()
