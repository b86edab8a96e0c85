"""What the documents say is there: commands, options, presets, files."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest

from unpaired.config import presets

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def known() -> dict[str, set[str]]:
    """Options by command, from the list that freezes the command line."""
    found: dict[str, set[str]] = {}
    names: set[str] = set()
    for line in (ROOT / "tests/golden/options.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("unpaired"):
            names = found.setdefault(line.removeprefix("unpaired").strip(), set())
        else:
            names |= {*line.split()}
    return found


def commands(page: Path) -> list[str]:
    """Lines of code blocks and inline code that begin with ``unpaired``, without comments and what stands in a second
    column."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:\w*)\n(.*?)^```", text, re.M | re.S)
    inline = re.findall(r"`(unpaired [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    lines = [line for block in blocks for line in block.splitlines()] + [" ".join(code.split()) for code in inline]
    return [re.split(r"\s+#|\s{3,}|;|…", line)[0].strip() for line in lines if line.startswith("unpaired ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_of_the_documents_is_one(page: Path) -> None:
    """Names of commands, their options and presets are those of the command line."""
    options = known()
    for line in commands(page):
        words = shlex.split(
            line.replace("'", " ").replace('"', " ").replace("[", " ").replace("]", " ").replace("...", "")
        )[1:]
        if not words or words[0].startswith("-"):
            continue
        name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in options), None)
        assert name is not None, f"{page}: {line}: no such command"
        for word in words:
            if word.startswith("--"):
                assert word.split("=")[0] in options[name], f"{page}: {line}: {word}"
        for before, word in itertools.pairwise(words):
            if before == "--preset" and word != "…" and not word.isupper():
                assert word in presets(), f"{page}: {line}: no preset {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_of_the_documents_leads_somewhere(page: Path) -> None:
    """Relative links name files that are there."""
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page}: {target}"
