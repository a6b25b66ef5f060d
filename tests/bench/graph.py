"""Time and memory of the whole graph, photographs to depth, under a limit of GPU memory.

    python tests/bench/graph.py --device cuda --limit 6                  8 views of 504x280, bfloat16, released steps
    python tests/bench/graph.py --device cuda --limit 8 --size 504x504
    python tests/bench/graph.py --device cuda --limit 4
    python tests/bench/graph.py --device cuda --limit 4 --comfyui        the same in ComfyUI, which streams weights
    python tests/bench/graph.py                                          CPU: 4 views of 112x84, 2 steps

Random networks of released size (4 GB, written to a temporary folder unless --models names one that is laid out as
released). --limit, in GB of 1e9 bytes, is what the process may allocate on the GPU; beyond it the stage fails, and so
does this command. ComfyUI is also told to leave the rest of the card alone.
  memory      the most of the stage: allocated on the GPU, on the CPU resident, mapped files included (Linux)
  floor       arithmetic of the stage (counted; sampling from its first two evaluations) over this machine's measured
              rate of matrix products
In ComfyUI a stage is a node, memory is of the whole run, and there is no floor.
"""

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

from memory import resident, write  # noqa: E402
from table import flop, rate, synchronize  # noqa: E402

import gld_core  # noqa: E402
from gld_core import flow  # noqa: E402
from gld_core.io.posed_folders import write_scene  # noqa: E402
from gld_core.synthetic.render import render_scene  # noqa: E402

SOURCES = 2


def reset_peak(device):
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak(device):
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else resident("VmHWM")


def core(args, folder, images, cameras):
    """A line for every stage; the most memory of all."""
    device, dtype = args.device, getattr(torch, args.dtype)
    speed = rate(device, dtype)
    print(f"{speed / 1e12:.3g} TFLOP/s in matrix products\n")
    print("| stage | time | memory | TFLOP | floor | time / floor |\n|---|---|---|---|---|---|", flush=True)
    most = []

    def stage(name, function, arithmetic):
        reset_peak(device)
        start = time.perf_counter()
        try:
            result = function()
        except torch.cuda.OutOfMemoryError as error:
            sys.exit(f"{name} does not fit into {args.limit} GB: {str(error).splitlines()[0]}")
        synchronize(device)
        seconds = time.perf_counter() - start
        most.append(peak(device))
        floor = arithmetic / speed
        columns = f"{arithmetic / 1e12:.3g} | {floor:.3g} s | {seconds / floor:.2f}" if floor else " | | "
        print(f"| {name} | {seconds:.3g} s | {most[-1] / 1e9:.2f} GB | {columns} |", flush=True)
        return result

    def sampling(sample):
        one, two = (flop(lambda steps=steps: sample(steps)) for steps in (1, 2))
        return one + (steps - 1) * (two - one)

    steps = args.steps or flow.STEPS["da3"]
    gld = stage("load", lambda: gld_core.load(folder, device=device, dtype=dtype), 0)
    encode = lambda: gld.encode_views(images[:SOURCES], cameras)  # noqa: E731
    views = stage("encode", encode, flop(encode))
    level1 = lambda steps: gld.sample_level1(views, steps)  # noqa: E731
    first = stage(f"level 1, {steps} evaluations", lambda: level1(steps), sampling(level1))
    level0 = lambda steps: gld.cascade_level0(views, first, steps)  # noqa: E731
    second = stage(f"cascade, {steps} evaluations", lambda: level0(steps), sampling(level0))
    for name, decode in (("RGB", gld.decode_rgb), ("depth and cameras", gld.decode_geometry)):
        stage(
            name,
            lambda decode=decode: decode(views, first, second),
            flop(lambda decode=decode: decode(views, first, second)),
        )
    return max(most)


def comfyui(args, folder, images, cameras, scratch):
    from conftest import Server, make_base

    base = make_base(Path(scratch) / "comfyui", None)
    (base / "models/gld").symlink_to(folder, target_is_directory=True)
    write_scene(base / "input/scene", images, cameras)
    flags, environment = ["--cpu"], {}
    if args.device.type == "cuda":
        total = torch.cuda.get_device_properties(args.device).total_memory / 1e9
        flags = ["--reserve-vram", str((total - args.limit) * 1e9 / 2**30)] if args.limit else []
        environment = {"GLD_MEMORY_FRACTION": str(args.limit / total)} if args.limit else {}
    names = {torch.bfloat16: "bf16", torch.float32: "fp32", torch.float16: "fp16"}
    weights = {"weight_dtype": names[getattr(torch, args.dtype)], "download": False}
    sampling = {
        "seed": 0,
        "steps": args.steps or 49,
        "cfg": 1.5,
        "sampler_name": "euler",
        "scheduler": "gld",
        "shift": 0.0,
    }
    files = {level: f"checkpoints/da3_{name}.safetensors" for level, name in ((1, "level1"), (0, "cascade"))}
    latents = {"backbone": ["backbone", 0], "views": ["encode", 0], "level1": ["level 1", 0], "level0": ["cascade", 0]}
    long_side = max(images.shape[-2:])
    scene = {"scene": "scene", "sources": str(SOURCES), "targets": "", "long_side": long_side}
    posed = {"backbone": ["backbone", 0], "images": ["scene", 0], "cameras": ["scene", 1]}
    level1 = {"model": ["model 1", 0], "views": ["encode", 0], **sampling}
    level0 = {"model": ["model 0", 0], "views": ["encode", 0], "level1": ["level 1", 0], **sampling}
    prompt = {
        "scene": ("GLDLoadScene", scene),
        "backbone": ("GLDLoadBackbone", {"backbone": "da3", **weights}),
        "encode": ("GLDEncodeViews", posed),
        **{f"model {level}": ("GLDLoadDiffusionModel", {"model_name": files[level], **weights}) for level in (1, 0)},
        "level 1": ("GLDSampleLevel1", level1),
        "cascade": ("GLDCascadeLevel0", level0),
        "RGB": ("GLDDecodeRGB", latents),
        "depth and cameras": ("GLDDecodeDepth", {**latents, "images": ["RGB", 0]}),
        "memory": ("TestPeakMemory", {"after": ["depth and cameras", 1]}),
    }
    server = Server(base, "--disable-api-nodes", *flags, **environment)
    try:
        server.queue({name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in prompt.items()})
        print("\n| node | time |\n|---|---|", flush=True)
        running, start = None, time.perf_counter()
        while True:
            message = server.messages.get(timeout=3600)
            if message["type"] == "execution_error":
                sys.exit(f"{message['data']['node_id']}: {message['data']['exception_message']}")
            if message["type"] == "executed" and message["data"]["node"] == "memory":
                return message["data"]["output"]["bytes"][0]
            if message["type"] == "executing" and message["data"]["node"] != running:
                if running is not None:
                    print(f"| {running} | {time.perf_counter() - start:.3g} s |", flush=True)
                running, start = message["data"]["node"], time.perf_counter()
    finally:
        streamed = re.findall(r"loaded (?:partially|completely);.*|.*[Dd]ynamic ?VRAM.*", server.log())
        print("\n" + "\n".join(streamed))
        server.close()


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--device", type=torch.device, default="cpu")
    parse.add_argument("--limit", "--vram-limit", type=float, help="GB of GPU memory")
    parse.add_argument("--size")
    parse.add_argument("--views", type=int)
    parse.add_argument("--steps", type=int)
    parse.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parse.add_argument("--models", type=Path)
    parse.add_argument("--comfyui", action="store_true")
    args = parse.parse_args()
    cuda = args.device.type == "cuda"
    if args.limit and not cuda:
        parse.error("--limit is for --device cuda; on the CPU nothing can be limited")
    width, height = map(int, (args.size or ("504x280" if cuda else "112x84")).split("x"))
    views, args.steps = args.views or (8 if cuda else 4), args.steps or (None if cuda else 2)
    if args.limit and not args.comfyui:
        torch.cuda.set_per_process_memory_fraction(
            args.limit * 1e9 / torch.cuda.get_device_properties(args.device).total_memory
        )
    images, _, cameras = render_scene(0, views, height, width, samples=1)
    name = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    print(f"{views} views of {width}x{height}, {args.dtype}, {name}, {'ComfyUI' if args.comfyui else 'the library'}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.models or Path(scratch) / "models").resolve()
        if args.models is None:
            write(folder)
        run = (lambda *given: comfyui(*given, scratch)) if args.comfyui else core
        most = run(args, folder, images, cameras)
        allowed = f" of {args.limit:g} GB allowed" if args.limit else ""
        print(f"\nThe most of all: {most / 1e9:.2f} GB{allowed}.")


if __name__ == "__main__":
    main()
