"""The table of the small model's card: how good its pictures, depth and cameras are.

    python tests/bench/card.py [--models gld_core/nano] [--rooms 50] [--long 10] [--large 10] [--photographs FOLDER]

On rooms that it was not trained on, 126x70, views 2 and 7 of ten given, 0, 4, 5 and 9 new, sampled in four steps:
  decoded        the true features of all views, decoded; without level 0: levels 1 to 3 alone
  photographs    the same of six frames of every scene in FOLDER
  targets        new views; nearest: the nearest given photograph in their place; wrong cameras: the motion of every new
                 view undone where it should be done
  49 steps       on the first of the rooms, as many as --long says, beside four steps on the same
  sharpness      mean step between pixels of the new views over that of the true ones
  borders        mean step across borders of patches over the mean step within patches, new views and true ones
  252x140        the first of the rooms, as many as --large says, in pictures twice as wide and high
  cameras        of views 2, 4, 5 and 7, found in the pictures alone: median error of their rotations and of the
                 directions they lie in, seen from the first, and how far away they lie over how far they do
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

import gld_core  # noqa: E402
from gld_core.evaluation.benchmark import Case, nearest_sources, render_case, wrong_cameras  # noqa: E402
from gld_core.evaluation.metrics import angles, median_scale, motion_errors, psnr, ssim  # noqa: E402
from gld_core.io.images import fit, read_image  # noqa: E402
from gld_core.synthetic.rooms import LARGE_SIZE  # noqa: E402

SOURCES, TARGETS = [2, 7], [0, 4, 5, 9]
FIRST_SEED, HEIGHT, WIDTH, PATCH = 1_000_000, 70, 126, 14
N, STEPS, LONG_STEPS = len(SOURCES), 4, 49


def decoded(gld: gld_core.GLD, images: Tensor, cameras: gld_core.Cameras, level0: bool = True) -> Tensor:
    """Pictures (V, 3, H, W) of the true features of all views."""
    autoencoder = gld.autoencoder
    views = gld.encode_views(images[:N], cameras)
    latents = [autoencoder.to_latent(raw, level, images) for level, raw in enumerate(autoencoder.encode(images, 2))]
    return gld.decode_rgb(views, latents[1], latents[0] if level0 else None).clamp(0, 1)


def borders(images: Tensor) -> float:
    """Mean step across borders of patches over the mean step within patches."""
    across, within = [], []
    for dim in (-2, -1):
        steps = images.diff(dim=dim).abs().mean(dim=(0, 1, 2 if dim == -1 else 3))
        border = torch.arange(1, len(steps) + 1) % PATCH == 0
        across.append(steps[border].mean())
        within.append(steps[~border].mean())
    return float(torch.stack(across).mean() / torch.stack(within).mean())


def steepness(images: Tensor) -> Tensor:
    return torch.stack([images.diff(dim=dim).abs().mean() for dim in (-2, -1)]).mean()


class Table:
    """Values by row, and their means."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add(self, name: str, value: Tensor | float) -> None:
        self.values.setdefault(name, []).append(float(value))

    def show(self) -> None:
        for name, values in self.values.items():
            middle = statistics.median(values) if "median" in name else statistics.fmean(values)
            print(f"{name:58} {middle:8.3f}   ({len(values)})", flush=True)


@torch.inference_mode()
def measure(gld: gld_core.GLD, case: Case, table: Table, many_steps: bool) -> None:
    images, cameras = case.images, case.cameras
    truth = images[N:]
    assert case.depth is not None
    table.add("decoded from true features, dB", psnr(decoded(gld, images, cameras), images).mean())
    table.add("the same without level 0, dB", psnr(decoded(gld, images, cameras, False), images).mean())

    def sample(given: gld_core.Cameras, steps: int):
        views = gld.encode_views(images[:N], given)
        level1 = gld.sample_level1(views, steps=steps)
        return views, level1, gld.cascade_level0(views, level1, steps=steps)

    views, level1, level0 = sample(cameras, STEPS)
    made = gld.decode_rgb(views, level1, level0).clamp(0, 1)
    geometry = gld.decode_geometry(views, level1, level0).align_to(cameras)[0]
    depth, true_depth = geometry.depth[N:], case.depth[N:]
    table.add("sources as sampled, dB", psnr(made[:N], images[:N]).mean())
    table.add("targets, dB", psnr(made[N:], truth).mean())
    table.add("targets, SSIM", ssim(made[N:], truth).mean())
    nearest = images[nearest_sources(cameras, N)]
    table.add("nearest photograph, dB", psnr(nearest, truth).mean())
    table.add("nearest photograph, SSIM", ssim(nearest, truth).mean())
    wrong = gld.decode_rgb(*sample(wrong_cameras(cameras, N), STEPS)).clamp(0, 1)
    table.add("targets with wrong cameras, dB", psnr(wrong[N:], truth).mean())
    coarse = gld.decode_rgb(views, level1, None).clamp(0, 1)
    table.add("targets without level 0, dB", psnr(coarse[N:], truth).mean())
    table.add("depth of targets, AbsRel", ((depth - true_depth).abs() / true_depth).mean())
    factor = median_scale(depth, true_depth)
    table.add("the same after one factor a scene", ((depth * factor - true_depth).abs() / true_depth).mean())
    table.add("sharpness of targets", steepness(made[N:]) / steepness(truth))
    table.add("borders of targets", borders(made[N:]))
    table.add("borders of the truth", borders(truth))
    along = [0, 3, 4, 1]
    found, meant = gld.estimate_cameras(images[along]).c2w.double(), cameras.c2w[along].double()
    found, meant = (torch.linalg.inv(c2w[0]) @ c2w[1:] for c2w in (found, meant))
    turned, off = motion_errors(found, meant)
    for name, values in {
        "cameras: median rotation error, degrees": turned,
        "cameras: median rotation, degrees": angles(meant[:, :3, :3]),
        "cameras: median error of direction, degrees": off,
        "cameras: median of lengths over the true ones": found[:, :3, 3].norm(dim=1) / meant[:, :3, 3].norm(dim=1),
    }.items():
        for value in values:
            table.add(name, value)
    if many_steps:
        long = gld.decode_rgb(*sample(cameras, LONG_STEPS)).clamp(0, 1)[N:]
        table.add("first rooms: targets in 4 steps, dB", psnr(made[N:], truth).mean())
        table.add("first rooms: targets in 49 steps, dB", psnr(long, truth).mean())
        table.add("first rooms: sharpness in 4 steps", steepness(made[N:]) / steepness(truth))
        table.add("first rooms: sharpness in 49 steps", steepness(long) / steepness(truth))


@torch.inference_mode()
def measure_large(gld: gld_core.GLD, case: Case, table: Table) -> None:
    images, truth = case.images, case.images[N:]
    views = gld.encode_views(images[:N], case.cameras)
    level1 = gld.sample_level1(views, steps=STEPS)
    made = gld.decode_rgb(views, level1, gld.cascade_level0(views, level1, steps=STEPS)).clamp(0, 1)
    table.add("252x140: decoded from true features, dB", psnr(decoded(gld, images, case.cameras), images).mean())
    table.add("252x140: sources as sampled, dB", psnr(made[:N], images[:N]).mean())
    table.add("252x140: targets, dB", psnr(made[N:], truth).mean())
    table.add("252x140: nearest photograph, dB", psnr(images[nearest_sources(case.cameras, N)], truth).mean())
    table.add("252x140: borders of targets", borders(made[N:]))


@torch.inference_mode()
def measure_photographs(gld: gld_core.GLD, folder: Path, table: Table) -> None:
    """Six frames of a scene, encoded together."""
    files = sorted(folder.glob("*.png"))[:6]
    images = torch.stack([fit(read_image(file), torch.eye(3), HEIGHT, WIDTH)[0] for file in files])
    K = torch.tensor([[100.0, 0, WIDTH / 2], [0, 100, HEIGHT / 2], [0, 0, 1]]).expand(len(images), 3, 3)
    cameras = gld_core.Cameras(torch.eye(4).repeat(len(images), 1, 1), K, HEIGHT, WIDTH)
    table.add(f"photographs of {folder.name}, dB", psnr(decoded(gld, images, cameras), images).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path(gld_core.__file__).parent / "nano")
    parser.add_argument("--rooms", type=int, default=50, help="number of rooms (default 50)")
    parser.add_argument("--long", type=int, default=10, help="number of rooms also sampled in 49 steps (default 10)")
    parser.add_argument("--large", type=int, default=10, help="number of rooms also of 252x140 (default 10)")
    parser.add_argument("--photographs", type=Path, help="folder with a folder of frames a scene")
    args = parser.parse_args()
    gld = gld_core.load(args.models, keep=True)
    table = Table()
    for folder in sorted(args.photographs.iterdir()) if args.photographs else ():
        measure_photographs(gld, folder, table)
    try:
        for number in range(args.rooms):
            case = render_case(FIRST_SEED + number, SOURCES, TARGETS)
            measure(gld, case, table, number < args.long)
            if number < args.large:
                measure_large(gld, render_case(FIRST_SEED + number, SOURCES, TARGETS, LARGE_SIZE), table)
            print(f"room {number + 1} of {args.rooms}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("Interrupted: the table is of the rooms that were finished.", file=sys.stderr)
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "gld_core", "demo", "--models", str(args.models), "--out", f"{out}/demo"]
        began = time.monotonic()
        subprocess.run(command, check=True, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL)
        table.add("the demo, seconds", time.monotonic() - began)
    weights = [path for path in args.models.rglob("*") if path.suffix in (".safetensors", ".pt")]
    table.add("files, MB", sum(path.stat().st_size for path in weights) / 1e6)
    table.show()


if __name__ == "__main__":
    main()
