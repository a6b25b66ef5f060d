"""Ctrl-C while `python -m gld_core` still imports torch."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ended_by_interrupts() -> Iterator[None]:
    """In a process that `python -m` is starting, Ctrl-C ends it at once, as an interrupted import would end in a
    traceback, or go on with half of a package. Elsewhere, and where a shell has it ignored, this does nothing.
    """
    # Only while a package is imported that `-m` names, Python has no path there yet.
    if sys.argv[:1] != ["-m"] or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return

    def end(number: int, frame: object) -> None:
        os.write(2, b"Interrupted; nothing has been written.\n")
        os._exit(130)

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
