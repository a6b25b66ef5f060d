#!/usr/bin/env python3
"""Many mixed prompts on a real ComfyUI: good, bad and cancelled ones from two clients at once.

    python tests/soak.py [--prompts 500]

Starts a server with the small random network and prints what became of the prompts, how long they took and how much
memory the server holds. Ends with an error where a result is not the core's, a refusal is no sentence, the queue hangs
or memory grows. tests/host/test_soak.py, which the test suite runs with fewer prompts, says what is mixed.
"""

import argparse
import os
import sys
from pathlib import Path

import pytest

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--prompts", type=int, default=500)
os.environ["GLD_SOAK_PROMPTS"] = str(parser.parse_args().prompts)
os.chdir(Path(__file__).resolve().parents[1])
sys.exit(pytest.main(["tests/host/test_soak.py", "-s", "-q"]))
