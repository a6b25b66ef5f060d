"""Scenes an hour, and whether all ways give the same files: one process a scene, the command line, Python, Ray.

python tests/bench/batch.py [--scenes 100] [--alone 8] [--workers 2] [--size 126] [--steps 4] [--network]

Renders the rooms first. Every way runs nano on the CPU with one thread a process: two sources, four targets. Prints a
table, and the mean seconds of reading, computing and writing a scene, which cluster.py takes. Processor time, which
other programs on the machine change little, is printed beside the clock's; that of Ray's workers is not known.
--network: in place of all that, the processor time of network evaluations by how many scenes are in a batch.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ["OMP_NUM_THREADS"] = "1"

import torch  # noqa: E402

import gld_core  # noqa: E402
from gld_core.checkpoints import NANO  # noqa: E402
from gld_core.conditioning import conditions  # noqa: E402
from gld_core.io.images import fitting_size  # noqa: E402
from gld_core.io.posed_folders import write_scene  # noqa: E402
from gld_core.jobs import Job, scene  # noqa: E402
from gld_core.jobs.results import RESULT, files_of  # noqa: E402
from gld_core.networks.dit import to_network  # noqa: E402
from gld_core.synthetic.render import render_scene  # noqa: E402

torch.set_num_threads(1)


def children() -> float:
    """Seconds of processor time of all processes that were started here and have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def views(settings: dict[str, int], *arguments: str) -> float:
    """Seconds of the command in a process of its own."""
    started = time.monotonic()
    options = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = [
        sys.executable,
        "-m",
        "gld_core",
        "views",
        *arguments,
        "--models",
        str(NANO),
        "--device",
        "cpu",
        *options,
    ]
    subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    return time.monotonic() - started


def equal(a: Path, b: Path, names: list[str]) -> bool:
    for name in names:
        files = [file for file in files_of(a / name) if file != RESULT]
        if any((a / name / file).read_bytes() != (b / name / file).read_bytes() for file in files):
            return False
    return True


def stages(rooms: list[Path], folder: Path, settings: dict[str, int]) -> list[float]:
    """Mean seconds of processor time of reading, computing and writing a scene."""
    gld = gld_core.load(NANO, keep=True)
    spent = [0.0, 0.0, 0.0]
    for room in rooms:
        job = Job(str(room), size=settings["size"], steps=settings["steps"])
        times = [time.process_time()]
        given = scene.read(job)
        times.append(time.process_time())
        made = scene.make(job, given, gld)
        times.append(time.process_time())
        scene.write(job, given, made, folder / room.name)
        times.append(time.process_time())
        spent = [before + end - start for before, start, end in zip(spent, times, times[1:], strict=False)]
    return [seconds / len(rooms) for seconds in spent]


def batches(size: int) -> None:
    """Prints milliseconds of processor time a scene, of one guided evaluation of each level and of encoding."""
    gld = gld_core.load(NANO, keep=True)
    images, _, cameras = render_scene(0, 6, *fitting_size(70, 126, size), samples=1)
    views = gld.encode_views(images[:2], cameras)
    V, C, *grid = views.latent_shape

    def spent(work: Callable[[], object], scenes: int) -> float:
        best = float("inf")
        for _ in range(4):
            started = time.process_time()
            work()
            best = min(best, time.process_time() - started)
        return 1000 * best / scenes

    print("| scenes in a batch | level 1 | level 0 | encoding |\n|--:|--:|--:|--:|")
    for scenes in (1, 2, 4, 8):
        row = []
        for level in (1, 0):
            source = to_network(views.level1 if level else views.level0)
            level1 = None if level else torch.randn(1, C, V, *grid)
            branches = [
                gld.diffusion[level].prepare(source, **conditions(views, level, conditional), level1=level1)
                for conditional in (False, True)
            ]
            given = {
                name: torch.cat([branch[name] for branch in branches] * scenes) if torch.is_tensor(value) else value
                for name, value in branches[0].items()
            }
            x, t = torch.randn(2 * scenes, C, V, *grid), torch.full((2 * scenes,), 0.5)
            row.append(spent(partial(gld.diffusion[level], x, t, **given), scenes))
        row.append(spent(partial(gld.autoencoder.encode, images[:1].repeat(scenes, 1, 1, 1), 4), scenes))
        print(f"| {scenes} | {' | '.join(f'{value:.1f}' for value in row)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--alone", type=int, default=8, help="scenes that get a process each")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=126, help="pixels of the long side")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--network", action="store_true")
    args = parser.parse_args()
    if args.network:
        with torch.inference_mode():
            return batches(args.size)
    settings = {"size": args.size, "steps": args.steps}
    rows: list[tuple[str, float, float]] = []

    def tell(way: str, scenes: int, seconds: float, processor: float = 0) -> None:
        rows.append((way, 3600 * scenes / seconds, processor / scenes))
        print(f"{way}: {rows[-1][1]:.0f} an hour, {rows[-1][2]:.2f} s of processor time a scene", flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        top = Path(scratch)
        rooms = [top / "rooms" / f"room_{seed:03}" for seed in range(args.scenes)]
        for seed, room in enumerate(rooms):
            images, _, cameras = render_scene(seed, 6, 70, 126, samples=1)
            write_scene(room, images, cameras)
        names = [room.name for room in rooms]
        print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors", flush=True)

        before = children()
        alone = sum(views(settings, str(room), "--out", str(top / "alone" / room.name)) for room in rooms[: args.alone])
        tell("one process a scene", args.alone, alone, children() - before)
        before = children()
        line = views(settings, str(top / "rooms"), "--out", str(top / "line"))
        tell("command line", len(rooms), line, children() - before)
        print("the same files as one process a scene:", equal(top / "alone", top / "line", names[: args.alone]))

        started, before = time.monotonic(), time.process_time()
        gld = gld_core.load(NANO, keep=True)
        for room in rooms:
            gld_core.run(str(room), top / "library" / room.name, gld=gld, **settings)
        tell("gld_core.run, no threads", len(rooms), time.monotonic() - started, time.process_time() - before)
        print("the same files from Python:", equal(top / "line", top / "library", names), flush=True)

        options = ("--ray", "--workers", str(args.workers))
        tell(
            f"Ray, {args.workers} workers", len(rooms),
            views(settings, str(top / "rooms"), "--out", str(top / "ray"), *options),
        )  # fmt: skip
        print("the same files with Ray:", equal(top / "line", top / "ray", names), flush=True)
        print(f"load of the machine: {os.getloadavg()[0]:.1f}")

        read, compute, write = stages(rooms[:10], top / "stages", settings)
        print(f"seconds a scene: read {read:.3f}, compute {compute:.3f}, write {write:.3f}\n")
        print("| way | scenes an hour | | processor seconds a scene |\n|---|--:|--:|--:|")
        for way, rate, processor in rows:
            print(f"| {way} | {rate:.0f} | {rate / rows[0][1]:.1f} | {f'{processor:.2f}' if processor else ''} |")


if __name__ == "__main__":
    main()
