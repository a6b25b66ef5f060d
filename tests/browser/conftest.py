"""The newest published page of ComfyUI, beside the one that 0.30.0 has."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# tests/bootstrap.py gets it.
NEWEST = Path(os.environ.get("NEWEST_FRONTEND") or ROOT / ".cache" / "frontend") / "comfyui_frontend_package" / "static"


@pytest.fixture(scope="session")
def newest_server(start_server, models, tmp_path_factory):
    if not NEWEST.is_dir():
        pytest.skip(f"{NEWEST} is not there: nothing was opened in the newest published page")
    server = start_server(tmp_path_factory.mktemp("newest"), models, "--cpu", "--front-end-root", str(NEWEST))
    yield server
    server.close()
