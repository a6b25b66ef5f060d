"""How far each solver ends from 400 evaluations of second order on the same noise, and how its pictures are.

    python tests/bench/solvers.py [--models FOLDER] [--rooms 6]

By network evaluations, on two flows: a mixture of 32 narrow Gaussians in 64 dimensions, whose exact velocity is known,
guided towards 8 of them, as a perfectly trained network would be; and level 1 of a trained model, by default the small
one that ships, on rooms it has not seen: relative distance of its features, and mean PSNR of the targets decoded from
them without level 0.
"""

import argparse
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import gld_core  # noqa: E402
from gld_core import flow  # noqa: E402
from gld_core.evaluation.benchmark import ROOM_SOURCES, render_case  # noqa: E402
from gld_core.evaluation.metrics import psnr  # noqa: E402
from gld_core.flow import Solver  # noqa: E402

REFERENCE, EVALUATIONS = 400, (8, 12, 16, 24, 32, 49)
SOLVERS = {
    "released (Euler)": flow.RELEASED,
    "order 2": Solver(order=2),
    "order 2, guided to 0.97 (fast)": flow.FAST,
    "Euler, guided to 0.97": Solver(guidance=(0, 0.97)),
    "Euler, guided to 0.9": Solver(guidance=(0, 0.9)),
    "Euler, encoder shared by 2": Solver(reuse_encoder_for=2),
    "Euler, encoder shared by 4": Solver(reuse_encoder_for=4),
}
GAUSSIANS, CHOSEN, DIMENSIONS, DEVIATION = 32, 8, 64, 0.2


def mixture(noise, steps, solver):
    """Samples (noises, dimensions) of the mixture's guided flow."""
    centres = torch.randn(GAUSSIANS, DIMENSIONS, generator=torch.Generator().manual_seed(0))

    def exact(x, t, centres):
        variance = ((1 - t) * DEVIATION) ** 2 + t**2
        nearness = -torch.cdist(x, (1 - t) * centres).square() / (2 * variance)
        mean = nearness.softmax(dim=1) @ centres
        data = mean + (1 - t) * DEVIATION**2 / variance * (x - (1 - t) * mean)
        return (x - data) / t

    def velocity(x, t):
        v = exact(x, t, centres[:CHOSEN])
        if not solver.guidance[0] <= t <= solver.guidance[1]:
            return v
        v_u = exact(x, t, centres)
        return v_u + 1.5 * (v - v_u)

    return flow.integrate(
        velocity, noise, flow.time_grid(steps // solver.order, flow.default_shift("da3", 1536, 8)), None, solver.order
    )


def table(title, value, solvers=SOLVERS):
    """value(evaluations, solver) -> a number.."""
    print(f"\n{title}\n{'evaluations':32}" + "".join(f"{n:>8}" for n in EVALUATIONS))
    for label, solver in solvers.items():
        print(f"{label:32}" + "".join(f"{value(n, solver):8.3f}" for n in EVALUATIONS), flush=True)


def distance(found, reference):
    return float((found - reference).norm() / reference.norm())


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--models", type=Path, default=ROOT / "gld_core" / "nano")
    parse.add_argument("--rooms", type=int, default=6)
    args = parse.parse_args()
    noise = torch.randn(256, DIMENSIONS, generator=torch.Generator().manual_seed(1))
    exact = mixture(noise, REFERENCE, SOLVERS["order 2"])
    unshared = {label: solver for label, solver in SOLVERS.items() if solver.reuse_encoder_for == 1}
    table("mixture of Gaussians: distance", lambda *solver: distance(mixture(noise, *solver), exact), unshared)

    gld = gld_core.load(args.models, keep=True)
    cases = [render_case(1_000_000 + seed, ROOM_SOURCES, [0, 4, 5, 9]) for seed in range(args.rooms)]
    views = [gld.encode_views(case.images[: case.sources], case.cameras) for case in cases]
    sampled = {}

    def level1(steps, solver):
        if (steps, solver) not in sampled:
            sampled[steps, solver] = torch.stack([gld.sample_level1(each, steps, solver=solver) for each in views])
        return sampled[steps, solver]

    def quality(features):
        targets = [
            psnr(gld.decode_rgb(each, latent, None)[case.sources :], case.images[case.sources :]).mean()
            for each, latent, case in zip(views, features, cases, strict=True)
        ]
        return float(torch.stack(targets).mean())

    reference = level1(REFERENCE, SOLVERS["order 2"])
    table(f"{args.models}, level 1: distance", lambda *solver: distance(level1(*solver), reference))
    table(f"PSNR in dB; {quality(reference):.2f} at {REFERENCE}", lambda *solver: quality(level1(*solver)))


if __name__ == "__main__":
    main()
