"""The editor's modules: their types, their size, and what they stand on, against the packages on npm."""

import hashlib
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIB = ROOT / "web" / "lib"
LISTED = json.loads((LIB / "packages.json").read_text(encoding="utf-8"))
TOOLS = ["typescript@7.0.2", "@types/three@0.187.0"]


@pytest.fixture(scope="session")
def npm(tmp_path_factory):
    """npm(*arguments) in a folder of its own; skips, and says so, where there is no npm or it reaches nothing."""
    executable = shutil.which("npm")
    if executable is None:
        pytest.skip("there is no npm: the editor's types and libraries were not checked")
    folder = tmp_path_factory.mktemp("npm")

    def run(*arguments: str) -> Path:
        command = [executable, *arguments, "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
        if done.returncode:
            pytest.skip(f"npm {' '.join(arguments)} failed, so nothing was checked: {done.stderr[-300:]}")
        return folder

    return run


@pytest.mark.parametrize("package", LISTED["packages"], ids=lambda package: package["package"])
def test_a_library_is_that_of_npm(npm, package):
    """But for the names of files, which end in .mjs: the page runs every .js of a plugin at its start."""
    folder = npm("pack", f"{package['package']}@{package['version']}")
    with tarfile.open(folder / f"{package['package']}-{package['version']}.tgz") as archive:
        described = json.load(archive.extractfile("package/package.json"))
        assert described["license"] == package["license"] == "MIT"
        for name, entry in package["files"].items():
            content = archive.extractfile(f"package/{entry['from']}").read()
            assert hashlib.sha256(content).hexdigest() == entry["sha256"], name
            if name.endswith(".mjs"):
                for old, new in LISTED["rewritten"]:
                    content = content.replace(old.encode(), new.encode())
            assert (LIB / name).read_bytes() == content, name


def test_every_library_is_listed_with_its_licence():
    listed = {name for package in LISTED["packages"] for name in package["files"]}
    assert {path.name for path in LIB.iterdir()} == listed | {"packages.json"}
    assert all(any("LICENSE" in name for name in package["files"]) for package in LISTED["packages"])


def test_the_types_hold(npm):
    versions = [f"{package['package']}@{package['version']}" for package in LISTED["packages"]]
    folder = npm("install", "--no-save", *TOOLS, *versions)
    for part in ("web/editor", "tests/web"):
        shutil.copytree(ROOT / part, folder / part, dirs_exist_ok=True)
    command = [str(folder / "node_modules/.bin/tsc"), "-p", "tests/web/tsconfig.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout


def test_a_module_is_of_one_subject():
    lengths = {
        path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "web/editor").iterdir()
    }
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_every_text_of_the_editor_is_translated():
    source = (ROOT / "web/editor/texts.mjs").read_text(encoding="utf-8")
    english = dict(re.findall(r'(\w+): "((?:[^"\\]|\\.)*)"', source[source.index("ENGLISH = {") :]))
    assert len(english) > 100
    for language in ("ja", "ko", "zh", "zh-TW"):
        own = json.loads((ROOT / "locales" / language / "main.json").read_text(encoding="utf-8"))["gldEditor"]
        assert own.keys() == english.keys(), language
        for key, text in english.items():
            assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", own[key])), f"{language}: {key}"


def test_every_text_that_the_editor_asks_for_is_there():
    used = set()
    for path in (ROOT / "web/editor").glob("*.mjs"):
        used |= set(re.findall(r'\bt\("(\w+)"', path.read_text(encoding="utf-8")))
    source = (ROOT / "web/editor/texts.mjs").read_text(encoding="utf-8")
    english = set(re.findall(r"\b(\w+): \"", source))
    assert used and used <= english
