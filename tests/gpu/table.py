#!/usr/bin/env python3
"""What only a real card shows, in one table: parity, drift, time and memory at released size, compiling, float8.

    python tests/gpu/table.py [--device cuda] [--host]

Under ten minutes on one card. Parity needs the golden bundles in shared/golden beside the repository. --host starts
ComfyUI with each memory flag (tests/host/test_memory.py). Every row says what was found, what is asked for and whether
that holds; the command fails where a row does not. On --device cpu only parity and drift run, as a trial of the script.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/core")]

from conftest import Bundle  # noqa: E402

import gld_core  # noqa: E402
from gld_core.networks.dit import DiTConfig, MultiViewDiT  # noqa: E402

GOLDEN = ROOT.parent / "shared" / "golden"
MIB = 2**20
# (height, width) of eight views, and the card's memory that they have to fit in.
SIZES = {"504x280": (20, 36, 6 * 1024), "504x504": (36, 36, 8 * 1024)}
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


def network(dtype: torch.dtype) -> MultiViewDiT:
    """A level-1 model of the released size with random weights."""
    config = DiTConfig(1536, 768, 28, 2048, 2048, 6, 5461, 256, 14, 0, True)
    with torch.device("cuda"):
        made = MultiViewDiT(config, dtype=dtype, device="cuda").eval().requires_grad_(False)
        for parameter in made.parameters():
            parameter.normal_(std=0.02)
    return made


def step(model: MultiViewDiT, h: int, w: int, branches: int = 2):
    """A function that evaluates eight views once."""
    x = torch.randn(branches, 1536, 8, h, w, device="cuda")
    source, rays = torch.randn(1, 1536, 2, h, w, device="cuda"), torch.randn(8, 7, 14 * h, 14 * w, device="cuda")
    prepared = model.prepare(source, rays, torch.eye(4, device="cuda").expand(8, 3, 4, 4))
    batched = {
        name: torch.cat([value] * branches) if torch.is_tensor(value) else value for name, value in prepared.items()
    }
    times = torch.full((branches,), 0.5, device="cuda")
    return lambda evaluate=model: evaluate(x, times, **batched)


def seconds(run, repeats: int = 5) -> float:
    run()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def floor(model: MultiViewDiT, h: int, w: int, branches: int = 2) -> float:
    """Time of the evaluation's matrix products alone, at the speed that this card multiplies large matrices with."""
    n = 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=model.dtype) for _ in range(2))
    rate = 2 * n**3 / seconds(lambda: a @ b)
    tokens = branches * 8 * h * w
    weights = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, torch.nn.Linear))
    config = model.config
    widths = config.encoder_depth * config.encoder_width + config.decoder_depth * config.decoder_width
    return (2 * tokens * weights + 4 * tokens * 8 * h * w * widths) / rate


@torch.inference_mode()
def released_size() -> None:
    model = network(torch.bfloat16)
    weights = torch.cuda.memory_allocated() / MIB
    for name, (h, w, memory) in SIZES.items():
        run = step(model, h, w)
        torch.cuda.reset_peak_memory_stats()
        took, least = seconds(run), floor(model, h, w)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        run()
        peak = torch.cuda.max_memory_allocated() / MIB
        row(f"level 1, bf16, 8 views of {name}, both branches: peak with all weights", peak, memory, "MiB")
        row(f"level 1, bf16, 8 views of {name}: values per token", (peak - weights) * MIB / (16 * h * w * 4096), 42)
        row(f"level 1, bf16, 8 views of {name}: time of its matrix products' {least:.3f} s", took / least, 1.6, "times")
    h, w, _ = SIZES["504x280"]
    run, compiled = step(model, h, w), torch.compile(model)
    plain = run()
    row("torch.compile: difference", error(run(compiled), plain), 0.02)
    row("torch.compile: time of the plain one's", seconds(lambda: run(compiled)) / seconds(run), 1.0, "times")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "mps", "xpu", "cpu"), default="cuda", help="where to run")
    parser.add_argument("--host", action="store_true", help="also start ComfyUI with each memory flag")
    args = parser.parse_args()
    if GOLDEN.is_dir():
        parity(args.device)
    else:
        rows.append(("parity", "golden bundles are missing", str(GOLDEN), False))
    if args.device == "cuda":
        released_size()
    if args.host:
        command = [sys.executable, "-m", "pytest", "-q", str(ROOT / "tests/host/test_memory.py"), "-k", "vram_flags"]
        rows.append(("ComfyUI's memory flags", "", "", subprocess.run(command).returncode == 0))
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    print(f"\n{card}, PyTorch {torch.__version__}\n\n| what | found | asked for | holds |\n|---|---|---|---|")
    for what, found, asked, holds in rows:
        print(f"| {what} | {found} | {asked} | {'yes' if holds else '**no**'} |")
    sys.exit(not all(holds for *_, holds in rows))


if __name__ == "__main__":
    main()
