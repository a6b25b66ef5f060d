"""On a ComfyUI that is too old the console says so, whatever else it lacks."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMPORT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("gld", sys.argv[1], submodule_search_locations=[sys.argv[2]])
gld = importlib.util.module_from_spec(spec)
sys.modules["gld"] = gld
spec.loader.exec_module(gld)
"""


@pytest.mark.parametrize("version, said", [("0.3.27", "0.3.27"), ("0.29.9-dev", "0.29.9-dev"), (None, "0")])
def test_an_old_host_without_the_new_interface_is_named(tmp_path, version, said):
    if version:
        (tmp_path / "comfyui_version.py").write_text(f'__version__ = "{version}"', encoding="utf-8")
    (tmp_path / "comfy_api").mkdir()
    (tmp_path / "comfy_api/__init__.py").write_text("", encoding="utf-8")
    command = [sys.executable, "-c", IMPORT, str(ROOT / "__init__.py"), str(ROOT)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert f"needs ComfyUI 0.30.0 or newer, this is {said}; update ComfyUI." in done.stderr.splitlines()[-1]
