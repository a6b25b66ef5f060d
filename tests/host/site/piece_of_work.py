"""On PYTHONPATH of the test server and of the tests' scripts: a measure of how fast this machine is just now."""

import time

import torch


def seconds() -> float:
    """Processor time that a fixed piece of work takes in this thread: about 0.4 s on a machine that is not slow."""
    start = time.thread_time()
    torch.rand(1 << 22, generator=torch.Generator().manual_seed(0)).sort()
    return time.thread_time() - start
