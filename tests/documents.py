"""The pages of the documentation: which there are, and how the code in one runs."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if "runs" not in page.parts]

_PIECES = re.compile(r"^````\{tab-item\} (?P<tab>[^\n]*)$|^(?P<end>````+)$|^```python\n(?P<code>.*?)^```$", re.M | re.S)


def blocks(text: str) -> list[tuple[str, int, str]]:
    """The Python blocks of a page in order: the tab that each stands in, or "", the line before it, and the code."""
    tab, pieces = "", []
    for match in _PIECES.finditer(text):
        if match["code"] is None:
            tab = (match["tab"] or "").strip()
        else:
            pieces.append((tab, text.count("\n", 0, match.start()) + 1, match["code"]))
    return pieces


def run(page: Path, given: dict[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """Run the blocks of a page, each after those before it; the names of each tab.

    A tab starts with the names that the page had outside of tabs at its first block, and keeps its own.
    """
    names: dict[str, dict[str, Any]] = {"": {"__name__": "__main__", **(given or {})}}
    for tab, line, code in blocks(page.read_text()):
        own = names.setdefault(tab, dict(names[""]))
        exec(compile("\n" * line + code, str(page), "exec"), own)
    return names
