#!/usr/bin/env python3
"""Writes paths.json: camera paths and the cameras that they give, for the curve in Python and that in JavaScript.

.venv/bin/python tests/core/data/make_paths.py
"""

import json
import math
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from gld_core.cameras import Cameras  # noqa: E402
from gld_core.cameras.keyframes import parse_path, target_cameras  # noqa: E402
from gld_core.cameras.motions import up_direction  # noqa: E402

FILE = Path(__file__).with_name("paths.json")
DEPTH = 2.5


def sources() -> Cameras:
    """One camera that is neither level nor in the middle of its image."""
    angle = 0.3
    c2w = torch.eye(4)
    c2w[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    K = torch.tensor([[410.0, 0, 240], [0, 400, 170], [0, 0, 1]])
    return Cameras(c2w[None], K[None], 336, 504)


def key(rng: random.Random, **members) -> dict:
    return {
        "position": [round(rng.uniform(-2, 2), 6) for _ in range(3)],
        "rotation": [round(rng.gauss(0, 1), 6) for _ in range(4)],
        **members,
    }


def paths() -> list[dict]:
    """Every member of a path at least once, keys near and far, turned little and much."""
    rng = random.Random(7)
    start = {"version": 1}
    four = [key(rng) for _ in range(4)]
    small = [{"position": [0.01 * n, 0, 0], "rotation": [0, 0.001 * n, 0, 1]} for n in range(3)]
    timed = [key(rng, views=n + 2, ease=ease, hold=n % 3) for n, ease in enumerate(("none", "in", "out", "in_out"))]
    return [
        {**start, "keys": [key(rng)], "views": 3},
        {**start, "keys": four[:2], "views": 9},
        {**start, "keys": four[:2], "views": 8, "loop": True},
        {**start, "keys": four, "views": 20, "ease": "in_out"},
        {**start, "keys": four, "views": 20, "ease": "in", "loop": True},
        {**start, "keys": small, "views": 7},
        {**start, "keys": [four[0], four[0], four[1]], "views": 6},
        {**start, "keys": timed, "views": None},
        {**start, "keys": timed, "views": None, "loop": True, "ease": "out"},
        {**start, "keys": timed, "views": 24, "look_at": [0.3, -0.2, 3]},
        {**start, "keys": [key(rng, fov=fov) for fov in (30, None, 80)], "views": 10, "loop": True},
        {**start, "keys": [key(rng) for _ in range(12)], "views": 40, "look_at": [0, 0, 1], "loop": True},
    ]


def cameras(path: dict) -> list[dict]:
    found = target_cameras(parse_path(path), sources(), DEPTH)
    return [
        {"c2w": c2w.tolist(), "fx": K[0, 0].item(), "fy": K[1, 1].item()}
        for c2w, K in zip(found.c2w[:, :3], found.K, strict=True)
    ]


def main() -> None:
    own = sources()
    fx, fy, cx, cy = own.K[0, 0, 0], own.K[0, 1, 1], own.K[0, 0, 2], own.K[0, 1, 2]
    lens = {"fx": fx.item(), "fy": fy.item(), "cx": cx.item(), "cy": cy.item(), "width": 504, "height": 336}
    stage = {"up": up_direction(own).tolist(), "depth": DEPTH, "lens": lens}
    made = [{"path": path, "cameras": cameras(path)} for path in paths()]
    FILE.write_text(json.dumps({"stage": stage, "paths": made}) + "\n", encoding="utf-8")
    print(FILE)


if __name__ == "__main__":
    main()
