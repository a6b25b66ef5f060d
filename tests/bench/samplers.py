"""How far each of ComfyUI's samplers ends from 400 steps of euler on the gld schedule, on level 1 of the small model.

    python tests/bench/samplers.py COMFYUI [--steps 16] [--schedulers gld simple beta]

Relative distance of the features of a room that the model has not seen, by schedule. Samplers that draw noise at every
step are left out: they end elsewhere.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DRAW_NOISE = ("sde", "ancestral", "seeds", "ddpm", "lcm", "gpu")


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("comfyui", help="folder of ComfyUI")
    parse.add_argument("--steps", type=int, default=16)
    parse.add_argument("--schedulers", nargs="+", default=["gld", "simple", "beta"])
    args = parse.parse_args()
    sys.path.insert(0, args.comfyui)
    sys.argv = ["main.py", "--cpu"]
    from comfy import options

    options.enable_args_parsing()
    import comfy.samplers
    import comfy.utils
    import torch

    comfy.utils.PROGRESS_BAR_ENABLED = False
    spec = importlib.util.spec_from_file_location("gld", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    sys.modules["gld"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["gld"])
    from gld.gld_core import checkpoints, pipeline
    from gld.gld_core.evaluation.benchmark import ROOM_SOURCES, render_case
    from gld.nodes.host import networks, sampling
    from gld.nodes.host.previews import photographed

    case = render_case(1_000_000, ROOM_SOURCES, [0, 4, 5, 9])
    encoded = pipeline.load(checkpoints.NANO).encode_views(case.images[: case.sources], case.cameras)
    views = photographed(encoded, case.images[: case.sources])
    model = networks.load_diffusion_model(str(checkpoints.find(checkpoints.NANO, "da3", "level1")), "fp32")
    everything = list(range(len(views.cameras)))
    plan = [sampling.windows.Window(everything, everything)]

    def sample(sampler: str, scheduler: str, steps: int) -> torch.Tensor:
        views.unfinished.clear()
        return sampling.sample(model, views, None, plan, 0, steps, 1.5, sampler, scheduler, 0.0, lambda text: None)

    meant = sample("euler", "gld", 400)
    print(f"{'':24}" + "".join(f"{name:>10}" for name in args.schedulers), flush=True)
    for sampler in comfy.samplers.SAMPLER_NAMES:
        if not any(word in sampler for word in DRAW_NOISE):
            found = [sample(sampler, scheduler, args.steps) for scheduler in args.schedulers]
            print(
                f"{sampler:24}" + "".join(f"{float((x - meant).norm() / meant.norm()):10.3f}" for x in found),
                flush=True,
            )


if __name__ == "__main__":
    main()
