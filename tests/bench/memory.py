"""Time and peak memory of the whole job at released size, in processes of their own, and of loading alone (Linux).

    python tests/bench/memory.py [FOLDER for 6 GB of random weights]

The files are as `convert` writes them, in bfloat16; 8 views of 112x84, 2 evaluations a level. "load" is compared with
reading the same bytes. "again" is a second job in the same process, of which "reading" is the time spent on files.
"all kept" is what `keep` does; "in float32" converts every weight, so that nothing is mapped.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from scene import scene  # noqa: E402

import gld_core  # noqa: E402
from gld_core import checkpoints  # noqa: E402
from gld_core.synthetic.random_models import backbone_shapes, dit_shapes, head_shapes, random_weights, rgb_shapes  # noqa: E402

CHANNELS, VIEWS = 1536, 8


def resident(name):
    """Bytes. VmHWM: the most so far, mapped files included; RssAnon: now, without what the system can drop."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))[1]) * 1024


def write(folder, device="cpu"):
    """Made on the device, which is faster on a GPU and gives other numbers."""
    generator = torch.Generator(device).manual_seed(0)
    head = head_shapes(CHANNELS, (96, 192, 384, 768), 128)
    files = {
        "backbone": backbone_shapes(768) | {f"model.head.{name}": shape for name, shape in head.items()},
        "head": {f"decoder.{name}": shape for name, shape in head.items()},
        "rgb": rgb_shapes(CHANNELS, 1152, 28, 4096),
        "level1": dit_shapes(CHANNELS, (768, 2048), (28, 6), cascade=False),
        "level0": dit_shapes(CHANNELS, (768, 2048), (28, 2), cascade=True),
    }
    for part, shapes in files.items():
        path = Path(folder) / f"{checkpoints.LAYOUT['da3'][part]}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        weights = {name: value.bfloat16().cpu() for name, value in random_weights(shapes, generator).items()}
        if part.startswith("level"):
            weights |= {
                name: value.float() for name, value in weights.items() if name.startswith(checkpoints.FLOAT32_NAMES)
            }
        save_file(weights, path)
    for level in (0, 1):
        path = Path(folder) / f"model_stats/da3/normalization_stats_level{level}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"mean": torch.zeros(CHANNELS), "var": torch.ones(CHANNELS)}, path)


def read(folder):
    for path in Path(folder).rglob("*.safetensors"):
        with open(path, "rb", buffering=0) as file:
            buffer = bytearray(2**24)
            while file.readinto(buffer):
                pass


def load(folder):
    return gld_core.load(folder, dtype=torch.bfloat16)


def job(gld):
    views = gld.encode_views(torch.rand(2, 3, 84, 112), scene(VIEWS, 84, 112, CHANNELS).cameras)
    level1 = gld.sample_level1(views, steps=2)
    level0 = gld.cascade_level0(views, level1, steps=2)
    gld.decode_rgb(views, level1, level0)
    gld.decode_geometry(views, level1, level0)
    return gld


def again(folder):
    gld = job(load(folder))
    spent, load_network = [], checkpoints.load_network

    def timed(*args, **options):
        start = time.perf_counter()
        network = load_network(*args, **options)
        spent.append(time.perf_counter() - start)
        return network

    checkpoints.load_network = timed
    start = time.perf_counter()
    job(gld)
    print(f"| the second job of it | {time.perf_counter() - start:.1f} s, {sum(spent):.1f} s of it reading | | |")
    return gld


JOBS = {
    "read": read,
    "load": load,
    "whole job": lambda folder: job(load(folder)),
    "whole job, again": again,
    "whole job, all kept": lambda folder: job(gld_core.load(folder, dtype=torch.bfloat16, keep=True)),
    "whole job in float32": lambda folder: job(gld_core.load(folder)),
    "whole job in float32, all kept": lambda folder: job(gld_core.load(folder, keep=True)),
}


def main():
    if sys.argv[1:2] and sys.argv[1] in JOBS:
        start = time.perf_counter()
        kept = JOBS[sys.argv[1]](sys.argv[2])
        seconds, most, own = time.perf_counter() - start, resident("VmHWM"), resident("RssAnon")
        print(f"| {sys.argv[1]} | {seconds:.1f} s | {most / 1e9:.2f} GB | {own / 1e9:.2f} GB |", flush=True)
        del kept
        return
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as scratch:
        write(scratch)
        sizes = {path.stem: path.stat().st_size / 1e9 for path in Path(scratch).rglob("*.safetensors")}
        print(", ".join(f"{name} {size:.2f} GB" for name, size in sizes.items()))
        print(f"the largest network and 2 GB: {max(sizes.values()) + 2:.2f} GB")
        print("\n| job | time | peak | at the end, without mapped files |\n|---|---|---|---|", flush=True)
        for name in ("read", "load", *JOBS):
            subprocess.run([sys.executable, __file__, name, scratch], check=True)


if __name__ == "__main__":
    main()
