"""Processor time of rendering one room as nano's training reads it: 8 views of 126x70. The goal is below 2 seconds.

python tests/bench/rendering.py [rooms]
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from gld_core.synthetic.render import render_scene  # noqa: E402

rooms = int(sys.argv[1]) if len(sys.argv) > 1 else 4
start = time.process_time()
for seed in range(rooms):
    render_scene(seed, 8, 70, 126)
print(f"{(time.process_time() - start) / rooms:.2f} s of processor time a room, mean of {rooms}")
