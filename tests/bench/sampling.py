"""Time and memory of one guided network evaluation and of a whole sampling, against the formulas as written.

    python tests/bench/sampling.py [--size WxH] [--views V] [--device cpu|cuda] [--dtype float32] [--steps 4]

Released-size networks with random weights, on a small grid on the CPU. Ratios are of one run on one machine.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

import straightforward  # noqa: E402
from scene import scene  # noqa: E402

from gld_core import conditioning, flow  # noqa: E402
from gld_core.networks.dit import MultiViewDiT, split_pair_embedders  # noqa: E402
from gld_core.synthetic.random_models import dit_shapes, random_weights  # noqa: E402

CHANNELS = 1536


def median_time(function, repeat, device):
    times = []
    for i in range(repeat + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if i:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(level, depths, views, dtype, device, steps, repeat):
    """Seconds of an evaluation and of a sampling, ours and as written, and the relative difference of velocities."""
    V, height, width = len(views.cameras), views.cameras.height, views.cameras.width
    shapes = dit_shapes(CHANNELS, (768, 2048), depths, cascade=level == 0)
    weights = {name: value.float() for name, value in random_weights(shapes, torch.Generator().manual_seed(0)).items()}
    tensors = split_pair_embedders(weights)
    network = MultiViewDiT.from_tensors(tensors, dtype=dtype, device="meta")
    own = {name: tensors[name].to(device, like.dtype) for name, like in network.state_dict().items()}
    network.load_state_dict(own, assign=True)
    source = views.level1 if level else views.level0
    level1 = None if level else torch.randn(views.latent_shape)
    x, times = torch.randn(views.latent_shape), flow.time_grid(steps, flow.default_shift("da3", CHANNELS, V))

    def as_written(x, t):
        out = []
        for conditional in (False, True):
            # Cameras too are worked out anew, as a script that calls the network does.
            camera_map = conditioning.conditions(views, level, conditional)["camera_map"]
            w2c = conditioning.scaled_w2c(views.cameras).float() if conditional else torch.eye(4).repeat(V, 1, 1)
            K = views.cameras.K if conditional or not level else torch.eye(3).expand(V, 3, 3)
            K = conditioning.normalized_intrinsics(K, *((height, width) if level else (504, 504))).float()
            out.append(straightforward.velocity(weights, x, float(t), source, camera_map, w2c, K, level1))
        return out[0] + 1.5 * (out[1] - out[0])

    def latent(x):
        return x.to(device).transpose(0, 1)[None]

    def prepared():
        given = None if level1 is None else latent(level1)
        branches = []
        for conditional in (False, True):
            camera = {
                name: value.to(device) for name, value in conditioning.conditions(views, level, conditional).items()
            }
            branches.append(network.prepare(latent(source), **camera, level1=given))
        return flow.guided(network, *branches, 1.5)

    velocity, t = prepared(), 0.7
    expected, result = as_written(x, 0.7), velocity(latent(x), t)[0].transpose(0, 1).cpu()
    return (
        median_time(lambda: velocity(latent(x), t), repeat, device),
        median_time(lambda: as_written(x, 0.7), repeat, device),
        median_time(lambda: flow.integrate(prepared(), latent(x), times), 1, device),
        median_time(lambda: flow.integrate(as_written, x, times), 1, device),
        float((result - expected).norm() / expected.norm()),
    )


@torch.inference_mode()
def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--size", default="112x84")
    parse.add_argument("--views", type=int, default=8)
    parse.add_argument("--device", type=torch.device, default="cpu")
    parse.add_argument("--dtype", default="float32")
    parse.add_argument("--steps", type=int, default=4)
    parse.add_argument("--repeat", type=int, default=3)
    args = parse.parse_args()
    width, height = map(int, args.size.split("x"))
    torch.manual_seed(0)
    views = scene(args.views, height, width, CHANNELS)
    print(f"{args.views} views of {args.size}, {args.device}, {args.dtype}, {torch.get_num_threads()} threads")
    print(
        f"{'':10}{'evaluation':>12}{'as written':>12}{'ratio':>8}{'sampling':>12}{'as written':>12}{'ratio':>8}  off by"
    )
    for level, name, depths in ((1, "level 1", (28, 6)), (0, "cascade", (28, 2))):
        one, plain, sampling, plain_sampling, error = measure(
            level, depths, views, getattr(torch, args.dtype), args.device, args.steps, args.repeat
        )
        print(
            f"{name:10}{one:11.3f}s{plain:11.3f}s{one / plain:8.2f}"
            f"{sampling:11.3f}s{plain_sampling:11.3f}s{sampling / plain_sampling:8.2f}  {error:.1e}"
        )


if __name__ == "__main__":
    main()
