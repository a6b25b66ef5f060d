"""Time, memory and floor of every stage, on random networks of released size.

    python tests/bench/table.py [--device cuda] [--size 504x280] [--dtype bfloat16] [--released FOLDER]

On the CPU: 4 views of 112x84 in float32; on CUDA: 8 views of 504x280 in bfloat16, unless told otherwise.
  time        median, in turns with what it is compared with
  memory      weights, and the most that is held at once beside them and the stage's inputs
  floor       arithmetic of the stage (counted) over this machine's measured rate of matrix products
  as written  tests/bench/straightforward.py, one branch after the other (CPU)
  released    the released program's network, from a checkout of it in FOLDER with its dependencies installed;
              half precision is autocast there, over float32 weights
An evaluation is both guidance branches.
"""

import argparse
import statistics
import sys
import time
from itertools import accumulate
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

import straightforward  # noqa: E402
from scene import scene  # noqa: E402

from gld_core import conditioning, flow  # noqa: E402
from gld_core.autoencoder import DA3Autoencoder  # noqa: E402
from gld_core.checkpoints import Statistics, without_prefix  # noqa: E402
from gld_core.networks import da3  # noqa: E402
from gld_core.networks.dit import MultiViewDiT, split_pair_embedders  # noqa: E402
from gld_core.networks.dpt import GeometryHead  # noqa: E402
from gld_core.networks.rgb_decoder import RGBDecoder  # noqa: E402
from gld_core.synthetic.random_models import backbone_shapes, dit_shapes, head_shapes, random_weights, rgb_shapes  # noqa: E402

CHANNELS, WIDTHS, DEPTHS = 1536, (768, 2048), {1: (28, 6), 0: (28, 2)}
T = 0.7


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def interleaved(functions, repeat, device):
    """Median seconds of each function, called in turns."""
    times = [[] for _ in functions]
    for i in range(repeat + 1):
        for function, taken in zip(functions, times, strict=True):
            synchronize(device)
            start = time.perf_counter()
            function()
            synchronize(device)
            if i:
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def held(function, device):
    """Most bytes held at once while a function runs, beyond those held before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def rate(device, dtype):
    """Most FLOP per second that a large matrix product reached."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / min(interleaved([lambda: a @ b], 1, device)[0] for _ in range(10))


def attention_flop(q, k, v, *rest, out_shape=None, **options):
    return 4 * q[:-1].numel() * k[-2] * k[-1]


def flop(function):
    """Arithmetic of matrix products, convolutions and attention."""
    cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    mapping = {cpu: attention_flop}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        function()
    return counter.get_total_flops()


def build(make, tensors, device, dtype):
    network = make(tensors, dtype=dtype, device="meta")
    own = {name: tensors[name].to(device, like.dtype) for name, like in network.state_dict().items()}
    network.load_state_dict(own, assign=True)
    return network.requires_grad_(False).eval()


def make_codec(device, dtype):
    generator = torch.Generator().manual_seed(0)
    head = head_shapes(CHANNELS, (96, 192, 384, 768), 128)
    backbone = without_prefix(random_weights(backbone_shapes(768), generator), "model.backbone.pretrained.")
    rgb = without_prefix(random_weights(rgb_shapes(CHANNELS, 1152, 28, 4096), generator), "decoder.")
    networks = {
        "backbone": build(da3.Backbone.from_tensors, backbone, device, dtype),
        "gld_head": build(GeometryHead.from_tensors, random_weights(head, generator), device, dtype),
        "rgb_decoder": build(RGBDecoder.from_tensors, rgb, device, dtype),
    }
    zero, one = torch.zeros(CHANNELS), torch.ones(CHANNELS)
    names = ("normalization0", "normalization1", "special0", "special1")
    return DA3Autoencoder(networks, {name: Statistics(zero, one) for name in names}, device, dtype)


def as_written(weights, views, level, level1, x):
    """Both branches of the formulas as written, cameras worked out anew as a script that calls the network does."""
    V, height, width = len(views.cameras), views.cameras.height, views.cameras.width
    out = []
    for conditional in (False, True):
        camera_map = conditioning.conditions(views, level, conditional)["camera_map"]
        w2c = conditioning.scaled_w2c(views.cameras).float() if conditional else torch.eye(4).repeat(V, 1, 1)
        K = views.cameras.K if conditional or not level else torch.eye(3).expand(V, 3, 3)
        K = conditioning.normalized_intrinsics(K, *((height, width) if level else (504, 504))).float()
        source = views.level1 if level else views.level0
        out.append(straightforward.velocity(weights, x, T, source, camera_map, w2c, K, level1))
    return out[0] + 1.5 * (out[1] - out[0])


def released(folder, weights, views, level, level1, x, device, dtype):
    """The released program's network, both branches in one batch. ImportError or RuntimeError where that fails."""
    sys.path.insert(0, str(Path(folder) / "src"))
    from stage2.models.DDT import DiTwDDTHead

    network = DiTwDDTHead(
        in_channels=CHANNELS,
        hidden_size=list(WIDTHS),
        depth=list(DEPTHS[level]),
        use_rope=False,
        use_pos_embed=False,
        use_prope=True,
        cam_input_size=504,
        cam_patch_size=14,
        level=level,
        is_concat_mode=True,
        source_condition_mode=None if level else "l1_as_cond",
        architecture_mode="new" if level else "old",
        cfg_mode="new" if level else "old",
    )
    network.load_state_dict(weights, strict=False)
    network = network.to(device).eval()
    V, size = len(views.cameras), (views.cameras.height, views.cameras.width)
    source = views.level1 if level else views.level0
    condition = torch.cat([source, x.new_zeros(V - len(source), *x.shape[1:])])
    both = lambda tensor: tensor.repeat(2, *[1] * (tensor.ndim - 1)).to(device, torch.float32)  # noqa: E731
    given = {
        "x": both(torch.cat([condition, x], dim=1)),
        "cond_num": len(source),
        "t": torch.full((2 * V,), T, device=device),
        "camera_embedding": both(conditioning.conditions(views, level, True)["camera_map"]),
        "viewmats": both(conditioning.scaled_w2c(views.cameras)[None]),
        "Ks": both(views.cameras.K[None]),
    }
    if level1 is not None:
        given["source_condition"] = both(level1)

    def evaluate():
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return network(**given, total_view=V, prope_image_size=size if level else (504, 504))

    evaluate()
    return evaluate


def evaluation(level, views, device, dtype):
    """Network, one guided evaluation, and the inputs that others get to do the same."""
    shapes = dit_shapes(CHANNELS, WIDTHS, DEPTHS[level], cascade=level == 0)
    weights = {name: value.float() for name, value in random_weights(shapes, torch.Generator().manual_seed(0)).items()}
    network = build(MultiViewDiT.from_tensors, split_pair_embedders(weights), device, dtype)
    level1 = None if level else torch.randn(views.latent_shape)
    x = torch.randn(views.latent_shape)

    def latent(x):
        return x.to(device).transpose(0, 1)[None]

    source, given = views.level1 if level else views.level0, None if level1 is None else latent(level1)
    branches = []
    for conditional in (False, True):
        camera = {name: value.to(device) for name, value in conditioning.conditions(views, level, conditional).items()}
        branches.append(network.prepare(latent(source), **camera, level1=given))
    velocity, noisy = flow.guided(network, *branches, 1.5), latent(x)
    return network, lambda: velocity(noisy, T), (weights, views, level, level1, x)


@torch.no_grad()
def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--device", type=torch.device, default="cpu")
    parse.add_argument("--size")
    parse.add_argument("--views", type=int)
    parse.add_argument("--dtype")
    parse.add_argument("--repeat", type=int, default=5)
    parse.add_argument("--released", metavar="FOLDER")
    args = parse.parse_args()
    device, cuda = args.device, args.device.type == "cuda"
    width, height = map(int, (args.size or ("504x280" if cuda else "112x84")).split("x"))
    V, dtype = args.views or (8 if cuda else 4), getattr(torch, args.dtype or ("bfloat16" if cuda else "float32"))
    torch.manual_seed(0)
    views = scene(V, height, width, CHANNELS)
    speed = rate(device, dtype)
    name = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    print(f"{V} views of {width}x{height}, {dtype}, {name}, {speed / 1e12:.3g} TFLOP/s in matrix products\n")
    print("| stage | time | weights + held | TFLOP | floor | time / floor | against | ratio |")
    print("|---|---|---|---|---|---|---|---|", flush=True)

    def line(stage, network, function, others=()):
        arithmetic, size = flop(function), sum(tensor.nbytes for tensor in network.state_dict().values())
        peak = held(function, device)
        own, *taken = interleaved([function, *(other for _, other in others)], args.repeat, device)
        against = ", ".join(f"{label} {seconds:.3g} s" for (label, _), seconds in zip(others, taken, strict=True))
        ratios = ", ".join(f"{own / seconds:.2f}" for seconds in taken)
        floor = arithmetic / speed
        memory = f"{size / 1e9:.2f} + {peak / 1e9:.2f} GB"
        print(
            f"| {stage} | {own:.3g} s | {memory} | {arithmetic / 1e12:.3g} | {floor:.3g} s | {own / floor:.2f} "
            f"| {against} | {ratios} |",
            flush=True,
        )

    for level, stage in ((1, "level 1, one evaluation"), (0, "cascade, one evaluation")):
        network, function, inputs = evaluation(level, views, device, dtype)
        others = []
        if not cuda:
            others.append(("as written", lambda inputs=inputs: as_written(inputs[0], *inputs[1:])))
        if args.released:
            try:
                others.append(("released", released(args.released, *inputs, device, dtype)))
            except (ImportError, RuntimeError) as error:
                print(f"The released program's network cannot be built here ({error}).", file=sys.stderr)
        line(stage, network, function, others)
        del network, function, inputs, others

    autoencoder = make_codec(device, dtype)
    networks, images = autoencoder.networks, torch.rand(2, 3, height, width)
    latents = [torch.randn(views.latent_shape) for _ in range(2)]
    line("encode 2 sources, 2 levels", networks["backbone"], lambda: autoencoder.encode(images, 2))
    line("propagate", networks["backbone"], lambda: autoencoder.propagate(views, *latents))
    levels = autoencoder.propagate(views, *latents)[0]
    parts = torch.cat(levels, dim=-1)
    h, w = height // 14, width // 14
    line("decode RGB, 4 views", networks["rgb_decoder"], lambda: networks["rgb_decoder"](parts[:4], h, w))
    first = [level[:4] for level in levels]
    line("decode depth and rays, 4 views", networks["gld_head"], lambda: networks["gld_head"](first, height, width))


if __name__ == "__main__":
    main()
