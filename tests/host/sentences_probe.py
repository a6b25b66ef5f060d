"""Run by test_first_minute.py with the host's modules and without a server: sentences_probe.py COMFYUI.

What the samplers say about previews in two prompts, and about the time that is left, by a clock that the probe sets.
And the processor time that the plugin takes to load, beside that of a piece of work.
"""

import functools
import importlib.util
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

comfyui = sys.argv[1]
sys.path[:0] = [comfyui]
sys.argv = ["main.py", "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.cli_args  # noqa: E402
import piece_of_work  # noqa: E402
from server import PromptServer  # noqa: E402

PromptServer.instance = SimpleNamespace(last_prompt_id="first")

start = time.process_time()
ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("gld", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
gld = importlib.util.module_from_spec(spec)
sys.modules["gld"] = gld
spec.loader.exec_module(gld)
loading = time.process_time() - start

from gld.nodes.host import previews, sampling  # noqa: E402


def hint(prompt: str, method: str) -> str:
    PromptServer.instance.last_prompt_id = prompt
    comfy.cli_args.args.preview_method = comfy.cli_args.LatentPreviewMethod(method)
    return previews.previews_hint()


hints = [hint("first", "auto"), hint("second", "none"), hint("second", "none"), hint("third", "none")]

said, clock = [], 1000.0
sampling.time = SimpleNamespace(monotonic=lambda: clock)
# The second and third of three windows of four steps; an earlier run has made the first.
remaining = sampling.TimeLeft(said.append, 1 / 3)
for window in (1, 2):
    place = functools.partial(lambda before, step, total: (before * total + step + 1, 3 * total), window)
    tell = sampling.counted(lambda *values: None, place, remaining)
    for step in range(4):
        clock += 60.0 if window == 1 else 6.0
        tell(step, None, None, 4)

strict = []
for comfy.cli_args.args.disable_api_nodes in (False, True):
    strict.append(gld.nodes.host.page_is_strict())

found = {"hints": hints, "said": said, "loading": loading, "strict": strict, "work": piece_of_work.seconds()}
print(json.dumps(found))
