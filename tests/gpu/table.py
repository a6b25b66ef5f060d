#!/usr/bin/env python3
"""What only a real card shows, in one table: parity, drift, time and memory at released size, compiling, float8.

    python tests/gpu/table.py [--device cuda] [--host]

Under ten minutes on one card. Parity needs the golden bundles in shared/golden beside the repository. --host starts
ComfyUI with each memory flag, and with --fast and float8 (tests/host/test_memory.py), and once with 4 GB of memory.
Every row says what was found, what is asked for and whether that holds; the command fails where a row does not. On
--device cpu the same runs with small networks, as a trial of the script: only parity and drift mean something there.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/core"), str(ROOT / "tests/bench")]

from conftest import Bundle  # noqa: E402
from memory import write  # noqa: E402

import gld_core  # noqa: E402
from gld_core.checkpoints import convert  # noqa: E402
from gld_core.networks.dit import DiTConfig, MultiViewDiT  # noqa: E402
from gld_core.synthetic.random_models import write_random_models  # noqa: E402

GOLDEN = ROOT.parent / "shared" / "golden"
MIB = 2**20
# (height, width) of eight views, and the card's memory that they have to fit in.
SIZES = {"504x280": (20, 36, 6 * 1024), "504x504": (36, 36, 8 * 1024)}
RELEASED = DiTConfig(1536, 768, 28, 2048, 2048, 6, 5461, 256, 14, 0, True)
# For the trial on a CPU.
SMALL, SMALL_SIZES = DiTConfig(64, 128, 2, 256, 256, 2, 512, 16, 14, 0, True), {"56x42": (3, 4, 1024)}
# GB, size: what the whole graph, from photographs to depth, has to finish in.
GOALS = [(6, "504x280"), (8, "504x504"), (4, "504x280")]
rows: list[tuple[str, str, str, bool]] = []


def row(what: str, found: float, limit: float, unit: str = "") -> None:
    rows.append((what, f"{found:.3g} {unit}", f"at most {limit:.3g} {unit}", found <= limit))
    print(f"{what}: {rows[-1][1]} ({rows[-1][2]})", flush=True)


def error(found: torch.Tensor, meant: torch.Tensor) -> float:
    found, meant = found.cpu().double(), meant.cpu().double()
    return ((found - meant).norm() / meant.norm()).item()


def parity(device: str) -> None:
    """The released program's numbers in float32 without TF32, and how far bfloat16 drifts from them."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for backbone in ("da3", "vggt"):
        bundle = Bundle(GOLDEN / f"tiny-{backbone}", backbone)
        meant = results(bundle, bundle.gld)
        for dtype, limit in ((torch.float32, 2e-5), (torch.bfloat16, 0.1)):
            if device == "cpu" and dtype == torch.float32:
                found = meant
            else:
                folder = GOLDEN / f"tiny-{backbone}"
                found = results(bundle, gld_core.load(folder, backbone, device, dtype, keep=True))
            for name, value in found.items():
                row(f"{backbone}, {name}, {dtype} against the CPU", error(value, meant[name]), limit)


def results(bundle: Bundle, gld) -> dict[str, torch.Tensor]:
    views = gld.encode_views(bundle.images[: bundle.N], bundle.cameras)
    level1 = gld.sample_level1(views, steps=bundle.steps)
    level0 = gld.cascade_level0(views, level1, steps=bundle.steps)
    geometry = gld.decode_geometry(views, level1, level0)
    return {
        "source features": views.level1,
        "level 1": level1,
        "level 0": level0,
        "rgb": gld.decode_rgb(views, level1, level0),
        "depth": geometry.depth,
        "estimated poses": gld.estimate_cameras(bundle.images).c2w,
    }


def network(config: DiTConfig, device: str) -> MultiViewDiT:
    """A level-1 model with random weights in bfloat16."""
    made = MultiViewDiT(config, dtype=torch.bfloat16, device=device).eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.normal_(std=0.02)
    return made


def step(model: MultiViewDiT, h: int, w: int, device: str, branches: int = 2):
    """A function that evaluates eight views once."""
    channels = model.config.channels
    x = torch.randn(branches, channels, 8, h, w, device=device)
    source, rays = torch.randn(1, channels, 2, h, w, device=device), torch.randn(8, 7, 14 * h, 14 * w, device=device)
    prepared = model.prepare(source, rays, torch.eye(4, device=device).expand(8, 3, 4, 4))
    batched = {
        name: torch.cat([value] * branches) if torch.is_tensor(value) else value for name, value in prepared.items()
    }
    times = torch.full((branches,), 0.5, device=device)
    return lambda evaluate=model: evaluate(x, times, **batched)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(run, repeats: int = 5) -> float:
    run()
    synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    synchronize()
    return (time.perf_counter() - start) / repeats


def floor(model: MultiViewDiT, h: int, w: int, device: str, branches: int = 2) -> float:
    """Time of the evaluation's matrix products alone, at the speed that this card multiplies large matrices with."""
    n = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=model.dtype) for _ in range(2))
    rate = 2 * n**3 / seconds(lambda: a @ b)
    tokens = branches * 8 * h * w
    weights = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, torch.nn.Linear))
    config = model.config
    widths = config.encoder_depth * config.encoder_width + config.decoder_depth * config.decoder_width
    return (2 * tokens * weights + 4 * tokens * 8 * h * w * widths) / rate


@torch.inference_mode()
def released_size(device: str) -> None:
    cuda = device == "cuda"
    config, sizes = (RELEASED, SIZES) if cuda else (SMALL, SMALL_SIZES)
    model = network(config, device)
    weights = torch.cuda.memory_allocated() / MIB if cuda else 0.0
    for name, (h, w, memory) in sizes.items():
        run = step(model, h, w, device)
        took, least = seconds(run), floor(model, h, w, device)
        row(f"level 1, bf16, 8 views of {name}: time of its matrix products' {least:.3g} s", took / least, 1.6, "times")
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            run()
            peak = torch.cuda.max_memory_allocated() / MIB
            row(f"level 1, bf16, 8 views of {name}, both branches: peak with all weights", peak, memory, "MiB")
            row(f"level 1, bf16, 8 views of {name}: values per token", (peak - weights) * MIB / (16 * h * w * 4096), 42)
    h, w, _ = next(iter(sizes.values()))
    run, compiled = step(model, h, w, device), torch.compile(model)
    plain = run()
    row("torch.compile: difference", error(run(compiled), plain), 0.02)
    row("torch.compile: time of the plain one's", seconds(lambda: run(compiled)) / seconds(run), 1.0, "times")


def goals(device: str, host: bool) -> None:
    """The whole graph in a bounded part of the card's memory, in two steps a level; with host also in ComfyUI."""
    graph = [sys.executable, str(ROOT / "tests/bench/graph.py"), "--device", device, "--steps", "2", "--models"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = f"{scratch}/models"
        if device == "cuda":
            write(Path(folder))
            cases = [("library", limit, size, []) for limit, size in GOALS]
            cases += [("ComfyUI", *GOALS[-1], ["--comfyui"])] if host else []
        else:
            write_random_models(f"{scratch}/released")
            convert(f"{scratch}/released", folder)
            cases = [("library", None, "56x42", ["--views", "3"])]
            cases += [("ComfyUI", None, "56x42", ["--views", "3", "--comfyui"])] if host else []
        for where, limit, size, more in cases:
            limits = [] if limit is None else ["--limit", str(limit)]
            done = subprocess.run([*graph, folder, "--size", size, *limits, *more], capture_output=True, text=True)
            last = (done.stdout.strip() or done.stderr.strip()).splitlines()[-1][:150]
            rows.append((f"whole graph of {size} in the {where}", last, f"{limit} GB", done.returncode == 0))
            print(*rows[-1][:3], sep=": ", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "mps", "xpu", "cpu"), default="cuda", help="where to run")
    parser.add_argument("--host", action="store_true", help="also start ComfyUI with each memory flag")
    args = parser.parse_args()
    if GOLDEN.is_dir():
        parity(args.device)
    else:
        rows.append(("parity", "golden bundles are missing", str(GOLDEN), False))
    if args.device in ("cuda", "cpu"):
        released_size(args.device)
        goals(args.device, args.host)
    if args.host:
        command = [sys.executable, "-m", "pytest", "-q", str(ROOT / "tests/host/test_memory.py"), "-k", "flags or fast"]
        rows.append(("ComfyUI's memory flags, float8 with --fast", "", "", subprocess.run(command).returncode == 0))
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    print(f"\n{card}, PyTorch {torch.__version__}\n\n| what | found | asked for | holds |\n|---|---|---|---|")
    for what, found, asked, holds in rows:
        print(f"| {what} | {found} | {asked} | {'yes' if holds else '**no**'} |")
    sys.exit(not all(holds for *_, holds in rows))


if __name__ == "__main__":
    main()
