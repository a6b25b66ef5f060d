"""Peak memory of loading a level-1 model of released size, float32 in the file, into bfloat16.

python tests/bench/loading.py [folder for a 3 GB file]
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from gld_core import checkpoints  # noqa: E402
from gld_core.synthetic.random_models import dit_shapes, random_weights  # noqa: E402


def resident():
    """Largest resident size of this process so far, in bytes, mapped files included (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def load(path):
    """Runs in a process of its own, whose peak before loading is that of importing torch."""
    before, start = resident(), time.perf_counter()
    network = checkpoints.load_diffusion(Path(path), "da3", 1, dtype=torch.bfloat16)
    seconds, peak = time.perf_counter() - start, resident()
    own = sum(tensor.nbytes for tensor in network.state_dict().values())
    print(
        f"loading: {seconds:.1f} s; peak {(peak - before) / 1e9:.2f} GB over the {before / 1e9:.2f} GB of torch itself"
    )
    print(f"network: {own / 1e9:.2f} GB")


def main(folder):
    shapes = dit_shapes(1536, (768, 2048), (28, 6), cascade=False)
    weights = {name: value.float() for name, value in random_weights(shapes, torch.Generator().manual_seed(0)).items()}
    size = sum(tensor.nbytes for tensor in weights.values())
    path = Path(folder) / "da3_level1.pt"
    torch.save({"ema": weights}, path)
    print(f"file: {size / 1e9:.2f} GB of tensors in float32, so 1.3 x is {1.3 * size / 1e9:.2f} GB", flush=True)
    del weights
    subprocess.run([sys.executable, __file__, "load", path], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        load(sys.argv[2])
    else:
        with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as scratch:
            main(scratch)
