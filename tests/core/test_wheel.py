"""The library as pip installs it."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command, cwd: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, as building leaves files beside the sources."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "gld_core", folder / "gld_core", ignore=shutil.ignore_patterns("__pycache__"))
    command = ("pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", "dist")
    run(sys.executable, "-m", *command, cwd=folder)
    return next((folder / "dist").glob("*.whl"))


def test_the_wheel_holds_the_library_with_nano_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"gld_core"}
    tracked = [path for path in (ROOT / "gld_core").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.relative_to(ROOT).as_posix() for path in tracked} == {n for n in names if ".dist-info/" not in n}


@pytest.mark.slow
def test_the_wheel_runs_the_demo_in_an_environment_of_its_own(wheel, tmp_path):
    """The environment is empty but for a path to the packages that the library needs, in place of their download."""
    venv.create(tmp_path / "env")
    python = tmp_path / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    site = sysconfig.get_path("purelib", vars={"base": str(tmp_path / "env")})
    (Path(site) / "needed.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-index", wheel, cwd=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(python, "-m", "gld_core", "demo", "--out", "out", "--device", "cpu", "--steps", "2", cwd=elsewhere)
    assert (elsewhere / "out" / "views" / "transforms.json").is_file()
