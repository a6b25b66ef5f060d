"""How far each solver ends from 400 evaluations of second order on the same noise.

    python tests/bench/solvers.py [--models FOLDER]

Relative distance of latents, by network evaluations, on two flows: random networks (small ones are written, or those
in FOLDER are taken), whose velocity is rougher than a trained one's; and a mixture of 32 narrow Gaussians in 64
dimensions, whose exact velocity is known, guided towards 8 of them, as a perfectly trained network would be. Neither
says how images look.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from scene import scene  # noqa: E402

import gld_core  # noqa: E402
from gld_core import flow  # noqa: E402
from gld_core.flow import Solver  # noqa: E402
from gld_core.pipeline import starting_noise  # noqa: E402
from gld_core.random_models import write_random_models  # noqa: E402

REFERENCE, EVALUATIONS = 400, (8, 12, 16, 24, 32, 49)
SOLVERS = {
    "released (Euler)": flow.RELEASED,
    "order 2": Solver(order=2),
    "order 2, guided to 0.97 (fast)": flow.FAST,
    "Euler, guided to 0.97": Solver(guidance=(0, 0.97)),
    "Euler, guided to 0.9": Solver(guidance=(0, 0.9)),
    "Euler, encoder shared by 2": Solver(share=2),
    "Euler, encoder shared by 4": Solver(share=4),
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


def report(name, sample):
    """sample(steps, solver) -> latents. A line for every solver."""
    reference = sample(REFERENCE, SOLVERS["order 2"])
    print(f"\n{name}\n{'evaluations':32}" + "".join(f"{n:>8}" for n in EVALUATIONS))
    for label, solver in SOLVERS.items():
        if solver.share > 1 and name.startswith("mixture"):
            continue
        errors = [((sample(n, solver) - reference).norm() / reference.norm()).item() for n in EVALUATIONS]
        print(f"{label:32}" + "".join(f"{error:8.3f}" for error in errors), flush=True)


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--models", type=Path)
    args = parse.parse_args()
    noise = torch.randn(256, DIMENSIONS, generator=torch.Generator().manual_seed(1))
    report("mixture of Gaussians", lambda steps, solver: mixture(noise, steps, solver))
    with tempfile.TemporaryDirectory() as scratch:
        if args.models is None:
            write_random_models(scratch)
        gld = gld_core.load(args.models or scratch)
    views = scene(5, 56, 84, gld.codec.channels)
    level1 = starting_noise(views.latent_shape, 1, 7)
    shift = flow.default_shift("da3", 1536, 8)
    report("level 1", lambda steps, solver: gld.sample_level1(views, steps, shift=shift, solver=solver))
    report("cascade", lambda steps, solver: gld.cascade_level0(views, level1, steps, shift=shift, solver=solver))


if __name__ == "__main__":
    main()
