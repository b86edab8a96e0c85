"""Count what a reader has to hold: modules, lines, files in the root, words. Fails above the limits that the house set
itself.

Usage: python tools/budget.py
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "unpaired"
LIMITS = {
    "modules": 85,
    "lines of src": 24_000,
    "files in the root": 16,
    "lines of tests": 13_000,
    "words of docs": 16_000,
}


def has_code(path: Path) -> bool:
    """Whether a file holds more than its docstring: an empty ``__init__.py`` makes a room, it is no module to read."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in body)


def lines(paths: list[Path]) -> int:
    """Lines of all files together, blank ones and comments too."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def words(path: Path) -> int:
    """Words of a document; the lines and dashes of a table are none."""
    return sum(any(c.isalnum() for c in token) for token in path.read_text(encoding="utf-8").split())


def counts() -> dict[str, int]:
    """Today's numbers, by the names of ``LIMITS``."""
    source = sorted(SOURCE.rglob("*.py"))
    prose = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return {
        "modules": sum(has_code(path) for path in source),
        "lines of src": lines(source),
        "files in the root": len(list(SOURCE.glob("*.py"))),
        "lines of tests": lines(sorted((ROOT / "tests").rglob("*.py"))),
        "words of docs": sum(words(path) for path in prose),
    }


def main() -> int:
    """Print the table; 1 where a limit is passed."""
    found = counts()
    for name, limit in LIMITS.items():
        print(f"{name:18} {found[name]:>7,} of {limit:,}{'  TOO MANY' if found[name] > limit else ''}")
    return int(any(found[name] > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
