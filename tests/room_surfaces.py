"""Where the surfaces of a rendered room are, by their equations."""

import numpy as np

from gld_core.synthetic.render import Room


def distance_to_room(seed: int, points: np.ndarray) -> np.ndarray:
    """(P,) distances of points to the nearest surface of a room, from its shapes' equations."""
    room = Room(np.random.default_rng(seed))
    nearest = np.minimum(np.abs(points), np.abs(points - room.size)).min(1)
    for shape in room.shapes[1:]:
        local = shape.local(points - shape.centre)
        beyond = np.abs(local) - shape.half
        to_box = np.abs(np.linalg.norm(beyond.clip(0), axis=1) + beyond.max(1).clip(None, 0))
        to_ball = np.abs(np.linalg.norm(local, axis=1) - shape.half[0])
        nearest = np.minimum(nearest, to_ball if shape.sphere else to_box)
    return nearest
