"""Every text file of the repository's programs is read and written with an encoding, not with the machine's own."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("gld_core", "nodes", "tests", "docs")


def without_encoding(call: ast.Call) -> bool:
    named = {keyword.arg for keyword in call.keywords}
    if isinstance(call.func, ast.Attribute) and call.func.attr in ("read_text", "write_text"):
        return "encoding" not in named and not (call.func.attr == "read_text" and call.args)
    if isinstance(call.func, ast.Name) and call.func.id == "open":
        return "encoding" not in named and "b" not in "".join(ast.unparse(mode) for mode in call.args[1:2])
    return False


def test_text_is_read_and_written_with_an_encoding():
    found = []
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for part in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(part, ast.Call) and without_encoding(part):
                found.append(f"{path.relative_to(ROOT)}:{part.lineno}")
    assert found == []
