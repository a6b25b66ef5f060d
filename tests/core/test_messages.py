"""What the troubleshooting page quotes is what the code says."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def sentences() -> list[re.Pattern]:
    """Every text in the product's code, with anything where a value is filled in."""
    found = []
    for path in [*(ROOT / "gld_core").rglob("*.py"), *(ROOT / "nodes").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node] if isinstance(node, ast.Constant) else []
            texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            if sum(len(text) for text in texts if isinstance(text, str)) > 20:
                found.append(re.compile("".join(re.escape(text) if isinstance(text, str) else ".+" for text in texts)))
    return found


def test_quoted_messages_are_the_real_ones():
    quoted = re.findall(r"^> (.+)$", (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    known = sentences()
    assert len(quoted) > 20
    assert [quote for quote in quoted if not any(sentence.fullmatch(quote) for sentence in known)] == []
