"""What code and pages say of the pages in docs/ is there."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([\w-]+))?\)")


def anchors(page: Path) -> set[str]:
    """The fragments that a Markdown page's headings answer to."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def code_files() -> list[Path]:
    return [path for folder in ("gld_core", "nodes") for path in sorted((ROOT / folder).rglob("*.py"))]


def test_every_citation_in_the_code_is_a_heading_that_exists():
    cited = 0
    for path in code_files():
        for page, anchor in re.findall(r"docs/(\w+\.md)(?:#([\w-]+))?", path.read_text(encoding="utf-8")):
            assert (ROOT / "docs" / page).is_file(), f"{path} cites {page}, which is not in docs"
            assert not anchor or anchor in anchors(ROOT / "docs" / page), f"{path}: {page} has no heading {anchor}"
            cited += page == "model.md"
    assert cited > 10


def test_the_code_cites_nothing_that_is_not_in_the_repository():
    for path in code_files():
        assert "spec/" not in path.read_text(encoding="utf-8"), path


def test_links_between_pages_lead_somewhere():
    tracked = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("this is not a clone: which pages belong to it is not known")
    for name in tracked.stdout.split():
        page = ROOT / name
        for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
            path = (page.parent / target).resolve() if target else page
            assert path.exists(), f"{name} links to {target}"
            assert not anchor or anchor in anchors(path), f"{name}: {target or name} has no heading {anchor}"


def test_the_walk_through_the_code_names_what_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py):(\w+)`", text)
    assert len(named) > 30
    for path, name in named:
        code = (ROOT / "gld_core" / path).read_text(encoding="utf-8")
        assert re.search(rf"^\s*(?:def|class) {name}\b|^{name}\b.*=", code, re.MULTILINE), f"{path} has no {name}"
