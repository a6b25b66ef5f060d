"""What installing the plugin does to a ComfyUI: nothing that its environment has is changed."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
REQUIREMENTS = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()


def test_the_requirements_are_all_met_by_the_host_itself():
    """This environment has ComfyUI's own requirements and the tests'; pip would install nothing into it."""
    report = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-", "-r", "requirements.txt"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert report.returncode == 0, report.stderr
    assert [package["metadata"]["name"] for package in json.loads(report.stdout)["install"]] == []


def test_the_requirements_name_no_version():
    """Whatever torch, numpy or pillow a ComfyUI has pinned stays. The package's own list has the same names, with the
    oldest versions that will do and no newest.
    """
    assert all(re.fullmatch(r"[a-z_]+", line) for line in REQUIREMENTS)
    assert re.findall(r'^    "([a-z_]+)>=[\d.]+",$', PROJECT, re.MULTILINE) == REQUIREMENTS


def test_the_oldest_comfyui_is_the_one_that_is_tested(server):
    """In the registry's floor, in what an older one is told, and in what the tests run on unless told otherwise."""
    oldest = re.search(
        r'^OLDEST = "([\d.]+)"$', (ROOT / "nodes/__init__.py").read_text(encoding="utf-8"), re.MULTILINE
    )[1]
    assert f'requires-comfyui = ">={oldest}"' in PROJECT
    assert f"ComfyUI {oldest}" in (ROOT / "tests/bootstrap.py").read_text(encoding="utf-8")
    running = server.get("/system_stats")["system"]["comfyui_version"]
    assert [int(part) for part in running.split(".")] >= [int(part) for part in oldest.split(".")]


def test_the_changelog_has_the_version():
    version = re.search(r'^version = "([\d.]+)"$', PROJECT, re.MULTILINE)[1]
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_published_archive_has_what_a_user_needs_and_nothing_else(tmp_path):
    """By .comfyignore alone, for it may be packed outside git, where caches and the environment lie beside the code."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    beside = [
        ".venv/bin/python",
        ".cache/comfyui/main.py",
        "nodes/__pycache__/load.pyc",
        ".pytest_cache/v",
        ".git/HEAD",
    ]
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    command = ["git", "-c", f"core.excludesFile={ROOT / '.comfyignore'}", "check-ignore", "--no-index", "--stdin"]
    paths = [path for path in listed if path] + beside
    ignored = subprocess.run(command, cwd=tmp_path, input="\n".join(paths), capture_output=True, text=True).stdout
    packed = set(paths) - set(ignored.split("\n"))
    folders = {path.split("/")[0] for path in packed if "/" in path}
    assert folders == {"docs", "gld_core", "locales", "nodes", "subgraphs", "web", "workflows"}
    # Help pages, and the pages that these name, send a user there.
    pages = [path for path in packed if path.endswith(".md") and "/" in path]
    named = {name for page in pages for name in re.findall(r"docs/\w+\.md", (ROOT / page).read_text(encoding="utf-8"))}
    assert "docs/formats.md" in named and named <= packed
    files = {path for path in packed if "/" not in path}
    assert files == {"CHANGELOG.md", "LICENSE", "README.md", "__init__.py", "pyproject.toml", "requirements.txt"}
    assert not [path for path in packed if path.endswith((".log", ".pyc", "/axes.py"))]
