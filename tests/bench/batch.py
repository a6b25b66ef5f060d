"""Scenes an hour, and whether all ways give the same files: one process a scene, the command line, Python, Ray.

python tests/bench/batch.py [--scenes 100] [--alone 8] [--workers 2] [--size 126] [--steps 4]

Renders the rooms first. Every way runs nano on the CPU with one thread a process: two sources, four targets. Prints a
table, and the mean seconds of reading, computing and writing a scene, which cluster.py takes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ["OMP_NUM_THREADS"] = "1"

import torch  # noqa: E402

import gld_core  # noqa: E402
from gld_core.checkpoints import NANO  # noqa: E402
from gld_core.io.posed_folders import write_scene  # noqa: E402
from gld_core.jobs import Job, scene  # noqa: E402
from gld_core.jobs.results import RESULT, files_of  # noqa: E402
from gld_core.synthetic.render import render_scene  # noqa: E402

torch.set_num_threads(1)


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
    """Mean seconds of reading, computing and writing a scene."""
    gld = gld_core.load(NANO, keep=True)
    spent = [0.0, 0.0, 0.0]
    for room in rooms:
        job = Job(str(room), size=settings["size"], steps=settings["steps"])
        times = [time.monotonic()]
        given = scene.read(job)
        times.append(time.monotonic())
        made = scene.make(job, given, gld)
        times.append(time.monotonic())
        scene.write(job, given, made, folder / room.name)
        times.append(time.monotonic())
        spent = [before + end - start for before, start, end in zip(spent, times, times[1:], strict=False)]
    return [seconds / len(rooms) for seconds in spent]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--alone", type=int, default=8, help="scenes that get a process each")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=126, help="pixels of the long side")
    parser.add_argument("--steps", type=int, default=4)
    args = parser.parse_args()
    settings = {"size": args.size, "steps": args.steps}
    with tempfile.TemporaryDirectory() as scratch:
        top = Path(scratch)
        rooms = [top / "rooms" / f"room_{seed:03}" for seed in range(args.scenes)]
        for seed, room in enumerate(rooms):
            images, _, cameras = render_scene(seed, 6, 70, 126, samples=1)
            write_scene(room, images, cameras)
        names = [room.name for room in rooms]
        rates: dict[str, float] = {}

        alone = sum(views(settings, str(room), "--out", str(top / "alone" / room.name)) for room in rooms[: args.alone])
        rates["one process a scene"] = 3600 * args.alone / alone
        print(f"one process a scene: {rates['one process a scene']:.0f} an hour", flush=True)
        rates["command line"] = 3600 * len(rooms) / views(settings, str(top / "rooms"), "--out", str(top / "line"))
        print(f"command line: {rates['command line']:.0f} an hour", flush=True)
        print("the same files as one process a scene:", equal(top / "alone", top / "line", names[: args.alone]))

        started = time.monotonic()
        gld = gld_core.load(NANO, keep=True)
        for room in rooms:
            gld_core.run(str(room), top / "library" / room.name, gld=gld, **settings)
        rates["gld_core.run, no threads"] = 3600 * len(rooms) / (time.monotonic() - started)
        print("the same files from Python:", equal(top / "line", top / "library", names), flush=True)

        options = ("--ray", "--workers", str(args.workers))
        spent = views(settings, str(top / "rooms"), "--out", str(top / "ray"), *options)
        rates[f"Ray, {args.workers} workers"] = 3600 * len(rooms) / spent
        print("the same files with Ray:", equal(top / "line", top / "ray", names), flush=True)

        read, compute, write = stages(rooms[:10], top / "stages", settings)
        print(f"seconds a scene: read {read:.3f}, compute {compute:.3f}, write {write:.3f}\n")
        print("| way | scenes an hour | |\n|---|--:|--:|")
        for way, rate in rates.items():
            print(f"| {way} | {rate:.0f} | {rate / rates['one process a scene']:.1f} |")


if __name__ == "__main__":
    main()
