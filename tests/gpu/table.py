#!/usr/bin/env python3
"""What only a real card shows, in one table: correctness, memory, time, compiling, float8, ComfyUI's memory flags.

    python tests/gpu/table.py [GOAL ...] [--device cuda] [--host] [--seconds 300] [--out table.md]

Every goal runs in a process of its own, so what goes wrong in one stops no other; those that need the card alone come
last, one after the other. Without names all goals run, with --host also those that need ComfyUI 0.30.0 (in
.cache/comfyui, or in the folder that COMFYUI_PATH names). A row says what was found, what is asked for and whether that
holds; it is printed, and added to the file that --out names, as soon as it is known. The command fails where a row does
not hold, also where --seconds did not suffice. What the failing goals printed is in the file with .log for .md.

  da3, vggt      every stage, given what the CPU gave in float32, against the CPU, in float32, bfloat16 and float16
  limits         the whole graph in a bounded part of the card's memory
  splats         refined on the card and on the CPU
  speed          an evaluation of level 1 of released size against the time of its matrix products
  compile        torch.compile on blocks of released width

with ComfyUI:

  memory         what networks of released size use against what they ask the host for
  lowvram, novram, classic, float8, inductor     tests/host/test_memory.py
  host-limit     the whole graph in a bounded part of the card's memory

On --device cpu small networks run, as a trial of the script. `memory --device meta` counts without a card.
"""

import argparse
import dataclasses
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/bench"), str(ROOT / "tests")]

from memory import write  # noqa: E402
from simulated_card import Held  # noqa: E402
from table import held  # noqa: E402

import gld_core  # noqa: E402
from gld_core import checkpoints  # noqa: E402
from gld_core.autoencoder import VIEWS_AT_ONCE  # noqa: E402
from gld_core.geometry.depth_maps import PosedDepth  # noqa: E402
from gld_core.geometry.splats import make_splats, refine, render  # noqa: E402
from gld_core.networks import da3, vggt  # noqa: E402
from gld_core.networks.dit import DiTConfig, MultiViewDiT, merge_pair_embedders  # noqa: E402
from gld_core.networks.dpt import DPTConfig, GeometryHead  # noqa: E402
from gld_core.networks.rgb_decoder import RGBDecoder, RGBDecoderConfig  # noqa: E402
from gld_core.synthetic.random_models import random_weights, rgb_shapes, shapes_of, write_random_models  # noqa: E402
from gld_core.synthetic.render import render_scene  # noqa: E402

COMFYUI = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".cache" / "comfyui")
MIB = 2**20
VIEWS = 8
RELEASED = DiTConfig(1536, 768, 28, 2048, 2048, 6, 5461, 256, 14, 0, True)
RELEASED_VGGT = dataclasses.replace(RELEASED, channels=2048, specials=vggt.Backbone.specials)
# For the trial on a CPU.
SMALL = DiTConfig(64, 128, 2, 256, 256, 2, 512, 16, 14, 0, True)
# GB, size: what the whole graph, from photographs to depth, has to finish in.
LIMITS = [(6, "504x280"), (8, "504x504"), (4, "504x280")]
HOST_LIMIT = (4, "504x280")
# Relative. Those of a CPU are at most 0.016 in bfloat16 and 0.003 in float16, an H200's 0.028 and 0.0035.
ERRORS = {torch.float32: 2e-5, torch.bfloat16: 0.04, torch.float16: 0.008}


def row(what: str, found: str, asked: str, holds: bool) -> None:
    print(f"| {what} | {found} | {asked} | {'yes' if holds else '**no**'} |", flush=True)


def at_most(what: str, found: float, limit: float, unit: str = "") -> None:
    row(what, f"{found:.3g} {unit}".strip(), f"at most {limit:.3g} {unit}".strip(), found <= limit)


def error(found: torch.Tensor, meant: torch.Tensor) -> float:
    found, meant = found.cpu().double(), meant.cpu().double()
    return ((found - meant).norm() / meant.norm()).item()


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# Correctness


def write_random_vggt(folder: Path) -> None:
    """A small VGGT bundle with random weights."""
    generator, channels = torch.Generator().manual_seed(0), 256
    level1 = DiTConfig(channels, 128, 2, 341, 256, 2, 682, 256, 14, vggt.Backbone.specials, True)
    head = DPTConfig(channels, (16, 24, 32, 48), 32, 16, 32, False)
    files = {
        "backbone": {
            **shapes_of(vggt.Backbone(channels // 2, 2, 512, device="meta"), "aggregator."),
            **shapes_of(vggt.CameraHead(channels, 2, 1024, device="meta"), "camera_head."),
            **shapes_of(GeometryHead(head, device="meta"), "depth_head."),
        },
        "rgb": rgb_shapes(channels, 128, 2, 192),
    }
    for part, config in {"level1": level1, "level0": dataclasses.replace(level1, decoder_depth=1)}.items():
        tensors = merge_pair_embedders(MultiViewDiT(config, device="meta").state_dict())
        files[part] = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    for part, shapes in files.items():
        path = folder / f"{checkpoints.LAYOUT['vggt'][part]}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(random_weights(shapes, generator), path)
    for kind in checkpoints.STATISTICS["vggt"]:
        for level in (0, 1):
            path = folder / f"model_stats/vggt/{kind}_stats_level{level}.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"mean": torch.zeros(channels), "var": torch.ones(channels)}, path)


def stages(gld: gld_core.GLD, images, cameras, meant: dict | None = None) -> dict:
    """The result of every stage. Each is given what `meant` has of the stages before it, its own without."""
    found: dict = {"views": gld.encode_views(images[:2], cameras)}
    before = meant or found
    views = before["views"]
    found["level 1"] = gld.sample_level1(views, steps=4)
    found["level 0"] = gld.cascade_level0(views, before["level 1"], steps=4)
    found["pictures"] = gld.decode_rgb(views, before["level 1"], before["level 0"])
    geometry, estimated = gld.decode_geometry(views, before["level 1"], before["level 0"]), gld.estimate_cameras(images)
    found |= {"depth": geometry.depth, "confidence": geometry.depth_conf, "estimated poses": estimated.c2w}
    return found | ({} if geometry.ray is None else {"rays": geometry.ray})


def correct(backbone: str, device: str, scratch: Path) -> None:
    # PyTorch's default for convolutions keeps three digits.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    folder = scratch / backbone
    (write_random_models if backbone == "da3" else write_random_vggt)(folder)
    images, _, cameras = render_scene(0, 4, 56, 84)
    meant = stages(gld_core.load(folder, backbone, keep=True), images, cameras)
    for dtype, limit in ERRORS.items():
        try:
            found = stages(gld_core.load(folder, backbone, device, dtype, keep=True), images, cameras, meant)
        except (ValueError, RuntimeError) as failure:
            row(f"{backbone}, {name(dtype)}", str(failure).splitlines()[0][:200], "no error", False)
            continue
        views, views_meant = found.pop("views"), meant["views"]
        found |= {"source features": torch.cat([views.level0, views.level1])}
        expected = meant | {"source features": torch.cat([views_meant.level0, views_meant.level1])}
        for stage, value in found.items():
            at_most(f"{backbone}, {stage}, {name(dtype)} against the CPU", error(value, expected[stage]), limit)


# Memory


def released_models(device: str, scratch: Path) -> Path:
    """A folder of random weights of released size; small ones on the CPU."""
    folder = scratch / "released"
    if not folder.is_dir():
        if device == "cpu":
            write_random_models(scratch / "small")
            checkpoints.convert(scratch / "small", scratch / "part")
        else:
            write(scratch / "part", device)
        (scratch / "part").rename(folder)
    return folder


def whole_graph(device: str, scratch: Path, where: str, limit: int, size: str, *more: str) -> None:
    cuda = device == "cuda"
    options = ["--limit", str(limit)] if cuda else ["--views", "3"]
    command = [
        sys.executable, str(ROOT / "tests/bench/graph.py"), "--device", device, "--steps", "2", "--models",
        str(released_models(device, scratch)), "--size", size if cuda else "56x42", *options, *more,
    ]  # fmt: skip
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout, done.stderr, sep="\n", file=sys.stderr, flush=True)
    last = [*done.stdout.split("\n"), *done.stderr.split("\n")] if done.returncode else done.stdout.split("\n")
    said = next((line for line in reversed(last) if line.strip()), "nothing")[:200]
    found = f"{said} {time.perf_counter() - start:.0f} s with its start"
    row(f"whole graph of {size} in {where}", found, f"finishes in {limit} GB", done.returncode == 0)


def limits(device: str, scratch: Path) -> None:
    released_models(device, scratch)
    running = [threading.Thread(target=whole_graph, args=(device, scratch, "the library", *limit)) for limit in LIMITS]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def host_limit(device: str, scratch: Path) -> None:
    whole_graph(device, scratch, "ComfyUI, without weights in dynamic VRAM", *HOST_LIMIT, "--comfyui")


def filled(network: torch.nn.Module) -> torch.nn.Module:
    for parameter in network.eval().requires_grad_(False).parameters():
        parameter.normal_(std=0.02)
    return network


def inputs(config: DiTConfig, h: int, w: int, device: str, model: MultiViewDiT) -> tuple[torch.Tensor, dict]:
    """The latent and the conditions of eight views for both guidance branches."""
    channels, level1 = config.channels, None
    grid = (config.specials + h * w, 1) if config.specials else (h, w)
    x, source = (torch.randn(*views, *grid, device=device) for views in ((2, channels, VIEWS), (1, channels, 2)))
    if not config.separate_embedders:
        level1 = torch.randn(1, channels, VIEWS, *grid, device=device)
    rays, matrices = torch.randn(VIEWS, 7, 14 * h, 14 * w, device=device), torch.eye(4, device=device)
    prepared = model.prepare(source, rays, matrices.expand(VIEWS, 3, 4, 4), level1)
    return x, {key: torch.cat([value] * 2) if torch.is_tensor(value) else value for key, value in prepared.items()}


def load_plugin(device: str) -> None:
    """The plugin as the module `gld`, in the host's process without its server."""
    sys.path.insert(0, str(COMFYUI))
    sys.argv = ["main.py", *(["--cpu", "--use-pytorch-cross-attention"] if device != "cuda" else [])]
    import comfy.options

    comfy.options.enable_args_parsing()
    spec = importlib.util.spec_from_file_location("gld", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    sys.modules["gld"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["gld"])


def compare(what: str, asked: float, run: Callable[[], object], device: str) -> None:
    """Below two thirds of what is asked for, a network makes the host free memory for nothing."""
    if device == "meta":
        with Held() as count:
            run()
        used = count.most
    else:
        run()
        used = held(run, torch.device(device))
    found = f"{used / MIB:.0f} of {asked / MIB:.0f} MiB, {used / asked:.2f}"
    row(f"{what}: memory used of what it asks for", found, "0.67 to 1", 0.67 <= used / asked <= 1)


def diffusion_memory(backbone: str, level: int, dtype: torch.dtype, device: str, h: int, w: int) -> None:
    networks = importlib.import_module("gld.nodes.host.networks")
    families = importlib.import_module("gld.nodes.host.families")
    dit = importlib.import_module("gld.gld_core.networks.dit")
    config = {"da3": RELEASED, "vggt": RELEASED_VGGT}[backbone] if device != "cpu" else SMALL
    if level == 0:
        config = dataclasses.replace(config, decoder_depth=2, separate_embedders=False)
    factory = {"operations": networks.operations(dtype, dtype), "dtype": dtype, "device": device}
    network = dit.MultiViewDiT(dit.DiTConfig(**dataclasses.asdict(config)), attention=attention(device), **factory)
    model = networks.DiffusionModel(filled(network), families.FAMILIES[backbone], level, dtype)
    x, conditions = inputs(config, h, w, device, network)
    times = torch.full((2,), 0.5, device=device)
    evaluate = lambda: model.apply_model(x, times, transformer_options={}, **conditions)  # noqa: E731
    what = f"{backbone}, level {level}, {name(dtype)}, {VIEWS} views"
    compare(what, model.memory_required(x.shape), evaluate, device)


def autoencoder_memory(backbone: str, part: str, dtype: torch.dtype, device: str, h: int, w: int) -> None:
    networks = importlib.import_module("gld.nodes.host.networks")
    released, da3s = device != "cpu", backbone == "da3"
    convolutions = {"operations": networks.operations(dtype, dtype), "dtype": dtype, "device": device}
    factory = {"attention": attention(device), **convolutions}
    width, depth = ((768, 12) if da3s else (1024, 24)) if released else (128, 12)
    channels, views = 2 * width, VIEWS if part == "backbone" else VIEWS_AT_ONCE
    images = torch.rand(views, 3, 14 * h, 14 * w, device=device, dtype=dtype)
    features = torch.randn(views, h * w, 4 * channels, device=device, dtype=dtype)
    if part == "backbone":
        network: torch.nn.Module = (da3 if da3s else vggt).Backbone(width, depth, 4 * width, **factory)
        given: tuple = (images, 4)
    elif part == "rgb_decoder":
        config = RGBDecoderConfig(4 * channels, *((1152, 28, 4096) if released else (128, 2, 192)), 36, 14)
        network, given = RGBDecoder(config, **factory), (features, h, w)
    else:
        sizes = ((96, 192, 384, 768), 128, 64) if da3s else ((256, 512, 1024, 1024), 256, 128)
        network = GeometryHead(DPTConfig(channels, *sizes, 32, da3s), **convolutions)
        given = (features.split(channels, dim=-1), 14 * h, 14 * w)
    filled(network)
    asked = networks.AUTOENCODER_VALUES[backbone][part] * views * h * w * dtype.itemsize
    compare(f"{backbone}, {part}, {name(dtype)}, {views} views", asked, lambda: network(*given), device)


def attention(device: str):
    """The host's; on the meta device, where PyTorch's is written out, nothing but the output of a fused one."""
    if device != "meta":
        return importlib.import_module("gld.nodes.host.networks").attention
    return lambda q, k, v, transformer_options: torch.empty_like(q)


@torch.inference_mode()
def memory(device: str, scratch: Path) -> None:
    """With the host's layers and its attention, at 504x504."""
    load_plugin(device)
    h, w = (36, 36) if device != "cpu" else (3, 4)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for backbone, level in (("da3", 1), ("da3", 0), ("vggt", 1)):
            diffusion_memory(backbone, level, dtype, device, h, w)
    for dtype in (torch.bfloat16, torch.float32):
        for backbone in ("da3", "vggt"):
            for part in ("backbone", "rgb_decoder", "gld_head"):
                autoencoder_memory(backbone, part, dtype, device, h, w)


# Time


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], object], device: str, repeats: int = 5) -> float:
    run()
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    synchronize(device)
    return (time.perf_counter() - start) / repeats


def step(model: MultiViewDiT, h: int, w: int, device: str):
    """A function that evaluates eight views in both guidance branches once."""
    x, conditions = inputs(model.config, h, w, device, model)
    times = torch.full((2,), 0.5, device=device)
    return lambda evaluate=model: evaluate(x, times, **conditions)


def level1(config: DiTConfig, device: str, dtype: torch.dtype = torch.bfloat16) -> MultiViewDiT:
    network = filled(MultiViewDiT(config, dtype=dtype, device=device))
    assert isinstance(network, MultiViewDiT)
    return network


def floor(model: MultiViewDiT, h: int, w: int, device: str) -> float:
    """Time of the evaluation's matrix products alone, at the speed that this card multiplies large matrices with."""
    n = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=model.dtype) for _ in range(2))
    rate = 2 * n**3 / seconds(lambda: a @ b, device)
    tokens = 2 * VIEWS * h * w
    weights = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, torch.nn.Linear))
    config = model.config
    widths = config.encoder_depth * config.encoder_width + config.decoder_depth * config.decoder_width
    return (2 * tokens * weights + 4 * tokens * VIEWS * h * w * widths) / rate


@torch.inference_mode()
def speed(device: str, scratch: Path) -> None:
    cuda = device == "cuda"
    for dtype in (torch.bfloat16, torch.float16):
        model = level1(RELEASED if cuda else SMALL, device, dtype)
        for size, h, w in (("504x280", 20, 36), ("504x504", 36, 36)) if cuda else (("56x42", 3, 4),):
            took, least = seconds(step(model, h, w, device), device), floor(model, h, w, device)
            what = f"level 1, {name(dtype)}, {VIEWS} views of {size}: {took:.3g} s, over {least:.3g} s of products"
            at_most(what, took / least, 1.6, "times")


@torch.inference_mode()
def compiled(device: str, scratch: Path) -> None:
    """With few blocks, as compiling takes a time in proportion to their number."""
    few = dataclasses.replace(RELEASED, encoder_depth=4, decoder_depth=2)
    model = level1(few if device == "cuda" else SMALL, device)
    run = step(model, *((20, 36) if device == "cuda" else (3, 4)), device)
    start = time.perf_counter()
    fast = torch.compile(model)
    at_most("torch.compile, 4 + 2 blocks of released width: difference", error(run(fast), run()), 0.02)
    once = time.perf_counter() - start
    ratio = seconds(lambda: run(fast), device) / seconds(run, device)
    at_most(f"torch.compile: time of the plain one's, {once:.0f} s to compile", ratio, 1.0, "times")


def splats(device: str, scratch: Path) -> None:
    images, depth, cameras = render_scene(1, 5, 84, 112, samples=1)
    made = make_splats(PosedDepth(depth, cameras, images=images), len(images))

    def off(splats) -> float:
        return error(render(splats, cameras[3])[0], images[3])

    took, found = {}, {}
    refine(made, images, cameras, steps=1, device=device)
    for where in ("cpu", device):
        start = time.perf_counter()
        found[where] = off(refine(made, images, cameras, steps=30, device=where))
        took[where] = time.perf_counter() - start
    what = f"{len(made)} splats, 30 steps of refinement: error left, {off(made):.4f} before"
    at_most(f"{what}, {found['cpu']:.4f} on the CPU", found[device], 1.02 * found["cpu"])
    at_most("splats' refinement: time of the CPU's", took[device] / took["cpu"], 1.0, "times")


# ComfyUI's tests


def tested(expression: str) -> Callable[[str, Path], None]:
    def run(device: str, scratch: Path) -> None:
        folder = Path(tempfile.mkdtemp(dir=scratch))
        command = [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={folder / 'pytest'}",
            str(ROOT / "tests/host/test_memory.py"), "-k", expression,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr, flush=True)
        said = re.findall(r"^(?:E  |SKIPPED|FAILED|ERROR).*", done.stdout, re.MULTILINE)
        passed = done.returncode == 0 and re.search(r"\d+ passed", done.stdout) is not None
        ending = "" if passed else "; ".join(line.strip() for line in said[:2])[:300].replace("|", "/")
        row(f"pytest tests/host/test_memory.py -k '{expression}'", ending or done.stdout.split("\n")[-2], "", passed)

    return run


@dataclasses.dataclass(frozen=True)
class Goal:
    run: Callable[[str, Path], None]
    # With the processor and the card to itself, as time is measured or the host asks how much of the card is free.
    alone: bool = False
    host: bool = False


GOALS = {
    "da3": Goal(lambda device, scratch: correct("da3", device, scratch)),
    "vggt": Goal(lambda device, scratch: correct("vggt", device, scratch)),
    "memory": Goal(memory, host=True),
    "lowvram": Goal(tested("flags and lowvram"), host=True),
    "novram": Goal(tested("flags and novram"), host=True),
    "classic": Goal(tested("flags and disable"), host=True),
    "float8": Goal(tested("float8_with_fast"), host=True),
    "inductor": Goal(tested("compile"), host=True),
    "limits": Goal(limits),
    "splats": Goal(splats),
    "speed": Goal(speed, alone=True),
    "host-limit": Goal(host_limit, alone=True, host=True),
    "compile": Goal(compiled, alone=True),
}


class Report:
    """The rows of all goals, on the screen and in a file, and what the goals printed besides."""

    def __init__(self, path: Path | None):
        self.path, self.lock, self.failed = path, threading.Lock(), False
        self.start = time.monotonic()
        for file in (path, self.log) if path else ():
            file.write_text("", encoding="utf-8")

    @property
    def log(self) -> Path:
        assert self.path is not None
        return self.path.with_suffix(".log")

    def say(self, line: str) -> None:
        with self.lock:
            self.failed |= line.endswith("| **no** |")
            print(line, flush=True)
            if self.path is not None:
                with open(self.path, "a", encoding="utf-8") as file:
                    file.write(line + "\n")

    def keep(self, goal: str, text: str) -> None:
        if self.path is not None:
            with self.lock, open(self.log, "a", encoding="utf-8") as file:
                file.write(f"\n===== {goal}\n{text}\n")


def run_goal(goal: str, args: argparse.Namespace, scratch: Path, report: Report, deadline: float) -> None:
    """Its rows, and one more where it fails or is not done in time."""
    start = time.monotonic()
    if deadline - start < 5:
        report.say(f"| {goal} | not run: --seconds are used up | | **no** |")
        return
    command = [sys.executable, __file__, "--child", goal, "--device", args.device, "--scratch", str(scratch)]
    # Many goals run at once, on networks that gain nothing from more.
    environment = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive", **os.environ}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True, env=environment
        )
        late = threading.Event()

        def stop() -> None:
            late.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(deadline - start, stop)
        timer.start()
        assert process.stdout is not None
        read(process.stdout, report)
        code = process.wait()
        timer.cancel()
        errors.seek(0)
        said = errors.read()
    report.keep(f"{goal}, exit code {code}, {time.monotonic() - start:.0f} s", said)
    if late.is_set():
        report.say(f"| {goal} | stopped after {time.monotonic() - start:.0f} s | | **no** |")
    elif code:
        last = next((line for line in reversed(said.splitlines()) if line.strip()), f"exit code {code}")
        report.say(f"| {goal} | {last.strip()[:300].replace('|', '/')} | no error | **no** |")


def read(lines: TextIO, report: Report) -> None:
    for line in lines:
        if line.startswith("| "):
            report.say(line.rstrip("\n"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("goals", nargs="*", metavar="GOAL", help=f"of {', '.join(GOALS)}")
    parser.add_argument("--device", choices=("cuda", "cpu", "meta"), default="cuda", help="where to run")
    parser.add_argument("--host", action="store_true", help="also what needs ComfyUI")
    parser.add_argument("--seconds", type=float, default=300, help="for all goals together")
    parser.add_argument("--out", type=Path, help="the file for the table")
    parser.add_argument("--child", choices=GOALS, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        torch.manual_seed(0)
        GOALS[args.child].run(args.device, args.scratch)
        return
    if unknown := set(args.goals) - GOALS.keys():
        parser.error(f"there is no goal {', '.join(sorted(unknown))}; choose of {', '.join(GOALS)}")
    if args.device == "meta" and args.goals != ["memory"]:
        parser.error("without a card only memory is counted: table.py memory --device meta")
    chosen = [goal for goal in args.goals or GOALS if args.goals or args.host or not GOALS[goal].host]
    report, card = Report(args.out), "no CUDA device"
    deadline = report.start + args.seconds
    if torch.cuda.is_available():
        card = torch.cuda.get_device_name()
    report.say(f"{card}, PyTorch {torch.__version__}\n\n| what | found | asked for | holds |\n|---|---|---|---|")
    scratch = Path(tempfile.mkdtemp())
    try:
        # What needs the card alone gets at least a third of the time.
        alone = [goal for goal in chosen if GOALS[goal].alone]
        together = report.start + args.seconds * (2 / 3 if alone else 1)
        threads = [
            threading.Thread(target=run_goal, args=(goal, args, scratch, report, together))
            for goal in chosen
            if goal not in alone
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for goal in alone:
            run_goal(goal, args, scratch, report, deadline)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    sys.exit(report.failed)


if __name__ == "__main__":
    main()
