"""How long it takes to read two views of a folder of large photographs, beside decoding those two alone: the
processor's time, the best of three.

python tests/bench/scenes.py [photographs] [megapixels]
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from gld_core.cameras import Cameras  # noqa: E402
from gld_core.io.cameras import read_scene  # noqa: E402
from gld_core.io.images import fit, fitting_size, read_image  # noqa: E402
from gld_core.io.nerfstudio import write_transforms  # noqa: E402


def main() -> None:
    count, megapixels = (int(value) for value in (*sys.argv[1:], "60", "12")[:2])
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(height * 4 / 3)
    K = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    c2w = torch.eye(4).repeat(count, 1, 1)
    c2w[:, 0, 3] = torch.arange(count)
    names = [f"{number:03}.jpg" for number in range(count)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        noise = np.random.default_rng(0).integers(0, 255, (height // 16, width // 16, 3), np.uint8)
        picture = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        for name in names:
            picture.save(folder / name, quality=90)
        cameras = Cameras(c2w, K.expand(count, 3, 3), height, width)
        write_transforms(folder / "transforms.json", cameras, [{"file_path": name} for name in names])
        alone, chosen = [], []
        for _ in range(3):
            start = time.process_time()
            for name in (names[0], names[-1]):
                fit(read_image(folder / name), K, *fitting_size(height, width))
            alone.append(time.process_time() - start)
            start = time.process_time()
            scene = read_scene(folder)
            scene.load(*scene.choose(2, [count // 2]))
            chosen.append(time.process_time() - start)
    best = f"{min(chosen):.2f} s, the 2 decoded alone {min(alone):.2f} s, x{min(chosen) / min(alone):.2f}"
    print(f"{count} photographs of {width}x{height}: 2 sources and a target {best}")


if __name__ == "__main__":
    main()
