"""The README's first command, once set up: it names what it wrote, and leaves nothing running."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def start() -> subprocess.Popen:
    """In a process group of its own, as from a terminal."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "demo.py")], stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def check_nothing_is_left(group: int):
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
    base = ROOT / ".cache" / "demo"
    assert not (base / "temp").exists() and not list(base.glob("*.log"))


def test_it_names_what_it_wrote():
    demo = start()
    said = demo.communicate()[0]
    assert demo.returncode == 0, said
    results = said[said.index("views:") :]
    written = [ROOT / path for path in re.findall(r"demo-out/\S+\.(?:png|glb)", results)]
    assert len([path for path in written if path.name.startswith("views_")]) == 6
    assert len([path for path in written if path.name.startswith("depth_")]) == 6
    assert {"room.glb", "contact_sheet.png"} <= {path.name for path in written}
    assert all(path.stat().st_size for path in written)
    check_nothing_is_left(demo.pid)


def test_ctrl_c_stops_it():
    demo = start()
    while "Sample GLD" not in demo.stdout.readline():
        assert demo.poll() is None
    os.killpg(demo.pid, signal.SIGINT)
    assert demo.communicate()[0].endswith("[demo] stopped\n") and demo.returncode == 130
    check_nothing_is_left(demo.pid)
