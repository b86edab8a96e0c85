"""Results side by side: intervals, which figures can be compared and which cannot and why; as text, Markdown or LaTeX."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unpaired.data.images import show
from unpaired.errors import ConfigError
from unpaired.evaluation_figures import describe
from unpaired.evaluation_read import check_results, read_json
from unpaired.evaluation_table import count, figures_of

Format = Literal["text", "markdown", "latex"]
_MARKS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Cell:
    """One figure of one file."""

    figure: Mapping[str, Any] | None
    reason: str = ""
    """Why it cannot be compared with the row's first figure, or has no number; empty where it can."""
    best: bool = False
    """The best of its row, with an interval that overlaps with no other's."""


@dataclass(frozen=True)
class Row:
    """One measure of one direction over all files."""

    direction: str
    key: str
    better: str | None
    cells: tuple[Cell, ...]
    before: Mapping[str, Any] | None
    floor: Mapping[str, Any] | None


@dataclass(frozen=True)
class Comparison:
    """The table; :meth:`text` writes it."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    warnings: tuple[str, ...]
    digits: int = 3

    def text(self, format: Format = "text") -> str:
        """The table in one of the three formats. Raises ConfigError for another."""
        writers = {"text": self._plain, "markdown": self._markdown, "latex": self._latex}
        if format not in writers:
            raise ConfigError(f"format '{format}': there are {', '.join(writers)}")
        return writers[format]()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "columns": list(self.columns),
            "rows": [
                {
                    "direction": r.direction, "measure": r.key, "better": r.better, "before": r.before, "floor": r.floor,
                    "cells": [{"figure": c.figure, "reason": c.reason, "best": c.best} for c in r.cells],
                }
                for r in self.rows
            ],
            "warnings": list(self.warnings),
        }  # fmt: skip

    # ---- writing -----------------------------------------------------------------------------------------

    def _number(self, value: float) -> str:
        return f"{value:#.{self.digits}g}".rstrip(".") if abs(value) < 10**self.digits else f"{value:.0f}"

    def _cell(self, figure: Mapping[str, Any] | None, mark: str = "") -> str:
        if figure is None:
            return "–"
        if figure.get("value") is None:
            return f"n. c.{mark}"
        text = self._number(figure["value"])
        if figure.get("interval"):
            text += " [" + ", ".join(self._number(v) for v in figure["interval"]) + "]"
        elif figure.get("std") is not None:
            text += f" ± {self._number(figure['std'])}"
        return text + mark

    def _notes(self) -> dict[str, str]:
        """Reason -> its letter."""
        reasons = dict.fromkeys(c.reason for r in self.rows for c in r.cells if c.reason)
        return {reason: _letter(i) for i, reason in enumerate(reasons)}

    def _lines(self) -> list[tuple[Row, list[str]]]:
        """For each row the texts of direction, measure, files, input, floor and N."""
        notes = self._notes()
        lines = []
        before = ""
        for row in self.rows:
            arrow = {"lower": " ↓", "higher": " ↑"}.get(row.better or "", "")
            cells = [self._cell(c.figure, f" ({notes[c.reason]})" if c.reason else "") for c in row.cells]
            n = next(
                (count(c.figure) for c in row.cells if c.figure is not None and c.figure["value"] is not None), "–"
            )
            first = row.direction if row.direction != before else ""
            before = row.direction
            lines.append((row, [first, row.key + arrow, *cells, self._cell(row.before), self._cell(row.floor), n]))
        return lines

    @property
    def _header(self) -> list[str]:
        return ["direction", "measure", *self.columns, "input", "real against real", "N generated / real"]

    def _legend(self) -> list[str]:
        without = {c.reason for r in self.rows for c in r.cells if c.figure is not None and c.figure["value"] is None}
        lines = [
            f"({mark}) n. c., no number to compare: {reason}"
            if reason in without
            else f"({mark}) not comparable with the first number of its row: {reason}"
            for reason, mark in self._notes().items()
        ]
        lines.append("[low, high]: 95 % interval. Best: its interval overlaps with no other of its row.")
        return [*lines, *self.warnings]

    def _plain(self) -> str:
        from rich.console import Console
        from rich.table import Table

        console = Console(file=io.StringIO(), width=40 + 26 * (len(self.columns) + 3), color_system=None)
        table = Table()
        for text in self._header:
            table.add_column(text, overflow="fold")
        for row, texts in self._lines():
            for i, cell in enumerate(row.cells):
                texts[2 + i] += " *" if cell.best else ""
            table.add_row(*texts)
        console.print(table)
        for line in self._legend():
            console.print(line.replace("Best:", "*: best,"), markup=False, highlight=False, soft_wrap=True)
        return "\n".join(s.rstrip() for s in str(console.file.getvalue()).splitlines())  # type: ignore[attr-defined]

    def _markdown(self) -> str:
        lines = [self._header, ["---"] * len(self._header)]
        for row, texts in self._lines():
            for i, cell in enumerate(row.cells):
                if cell.best:
                    texts[2 + i] = f"**{texts[2 + i]}**"
            lines.append(texts)
        table = ["| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines]
        return "\n".join([*table, "", *(f"{line}  " for line in self._legend())]).rstrip()

    def _latex(self) -> str:
        lines = []
        for row, texts in self._lines():
            cells = [_escaped(t) for t in texts]
            for i, cell in enumerate(row.cells):
                if cell.best:
                    cells[2 + i] = rf"\textbf{{{cells[2 + i]}}}"
            lines.append("  " + " & ".join(cells) + r" \\")
        header = "  " + " & ".join(_escaped(h) for h in self._header) + r" \\"
        notes = r" \newline ".join(_escaped(line).replace("Best:", "Bold:") for line in self._legend())
        below = rf"  \multicolumn{{{len(self._header)}}}{{p{{0.95\linewidth}}}}{{\footnotesize {notes}}}"
        begin = rf"\begin{{tabular}}{{ll{'r' * (len(self.columns) + 2)}r}}"
        body = [begin, r"  \toprule", header, r"  \midrule", *lines, r"  \bottomrule", below, r"\end{tabular}"]
        return "\n".join(["% needs \\usepackage{booktabs}", *body])


def _letter(index: int) -> str:
    return _MARKS[index] if index < len(_MARKS) else f"{_MARKS[index // 26 - 1]}{_MARKS[index % 26]}"


def _escaped(text: str) -> str:
    """Text for LaTeX."""
    table = {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "→": r"$\to$", "↓": r"$\downarrow$", "↑": r"$\uparrow$",
        "±": r"$\pm$", "–": "--", "∞": r"$\infty$",
    }  # fmt: skip
    escaped = "".join(table.get(c, c) for c in text)
    escaped = re.sub(r"(\d)e([+-])0*(\d+)", r"\1$\\cdot10^{\2\3}$", escaped).replace("10^{+", "10^{")
    return re.sub(r"(?<![\w{])-(?=\d)", "$-$", escaped)  # a minus, not a hyphen


def compare(
    results: Sequence[Path | str | Mapping[str, Any]], *, names: Sequence[str] | None = None, digits: int = 3
) -> Comparison:
    """Put results side by side.

    A figure counts as comparable with the first of its row when both have the same images (fingerprint, split, size, numbers on the
    real side) and, for figures of features, the same backbone, weights, resize and precision.

    Args:
        results: files of ``unpaired evaluate``, or what ``evaluate`` returned.
        names: of the columns; by default what tells the files apart.

    Raises DataError, ConfigError.
    """
    if len(results) < 2:
        raise ConfigError("compare needs at least two results, as in: unpaired compare a.json b.json")
    if digits < 1:
        raise ConfigError(f"digits = {digits}: must be at least 1")
    loaded = [read_json(r) if isinstance(r, (str, Path)) else r for r in results]
    for number, (given_as, found) in enumerate(zip(results, loaded, strict=True), start=1):
        check_results(found, show(given_as) if isinstance(given_as, (str, Path)) else f"result {number}")
    given = list(names) if names is not None else _names(results)
    if len(given) != len(loaded):
        raise ConfigError(f"{len(given)} names for {len(loaded)} results")
    columns: list[tuple[str, Mapping[str, Any]]] = []
    for name, found in zip(given, loaded, strict=True):
        both = found.get("best") is not None
        columns.append((f"{name} (last)" if both else name, found))
        if both:
            columns.append((f"{name} (best)", found["best"]))
    rows = _rows([found for _, found in columns])
    said: dict[str, list[str]] = {}
    for name, found in columns:
        for text in found.get("warnings") or ():
            if "below" in text:
                said.setdefault(text, []).append(name)
    warnings = [f"{', '.join(which)}: {text}" for text, which in said.items()]
    return Comparison(tuple(name for name, _ in columns), tuple(rows), tuple(warnings), digits)


def not_comparable(results: Sequence[Mapping[str, Any]]) -> dict[tuple[int, str], str]:
    """(number of the result, key) -> why its figure, where it has a number, cannot be compared with the first of its row."""
    found: dict[tuple[int, str], str] = {}
    for row in _rows(results):
        for number, cell in enumerate(row.cells):
            if cell.figure is not None and cell.figure["value"] is not None and cell.reason:
                found.setdefault((number, row.key.removesuffix(" error")), cell.reason)
    return found


def _names(results: Sequence[Path | str | Mapping[str, Any]]) -> list[str]:
    """Stems, or folders where the stems are equal, or the last parts of the paths until they differ."""
    paths = [Path(r) if isinstance(r, (str, Path)) else Path(f"result {i + 1}") for i, r in enumerate(results)]
    most = max(len(p.parts) for p in paths)
    for depth in range(1, most + 1):
        names = ["/".join([*p.parts[-depth:-1], p.stem]) for p in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{p.stem} ({i + 1})" for i, p in enumerate(paths)]


def _rows(columns: Sequence[Mapping[str, Any]]) -> list[Row]:
    figures = [{(where, key): figure for where, key, figure in figures_of(found)} for found in columns]
    backbones = {b for found in columns for b in ((found.get("provenance") or {}).get("backbones") or {})}
    rows = []
    for where, key in dict.fromkeys(place for found in figures for place in found):
        about = describe(key.removesuffix(" error") if key.startswith("reconstruction") else key, sorted(backbones))
        row = [found.get((where, key)) for found in figures]
        contexts = [
            _context(found, key, figure, about["backbone"]) if figure is not None else None
            for found, figure in zip(columns, row, strict=True)
        ]
        there = [i for i, figure in enumerate(row) if figure is not None]
        first = next((i for i in there if (row[i] or {})["value"] is not None), there[0])
        cells = []
        for figure, context in zip(row, contexts, strict=True):
            reason = "" if figure is None else figure.get("not_comparable", "") if figure["value"] is None else ""
            if figure is not None and context is not None and not reason:
                reason = _differences(contexts[first] or {}, context)
            cells.append(Cell(figure, reason))
        chosen = _best(cells, about["better"])
        cells = [Cell(c.figure, c.reason, i == chosen) for i, c in enumerate(cells)]
        reference = row[first] or {}
        rows.append(Row(where, key, about["better"], tuple(cells), reference.get("before"), reference.get("floor")))
    return rows


def _context(found: Mapping[str, Any], key: str, figure: Mapping[str, Any], backbone: str | None) -> dict[str, Any]:
    """What two figures must share, in words -> value."""
    about = found.get("provenance") or {}
    context = {
        "images": str(about.get("data"))[:12], "split": about.get("split"), "image size": about.get("size"),
        "real images": figure.get("n_real", figure["n"][1] if isinstance(figure["n"], list) else figure["n"]),
        "generated images": figure.get("n_generated", figure["n"][0] if isinstance(figure["n"], list) else figure["n"]),
    }  # fmt: skip
    if about.get("limit") is not None:
        context["images drawn with seed"] = about.get("seed")
    if key in ("rc", "fc", "ceiling"):
        block = found.get("classification") or {}
        context |= {f"classifier.{k}": v for k, v in (block.get("config") or {}).items() if k != "split"}
        context["classes"] = ", ".join(map(str, block.get("classes") or ()))
    if key == "accuracy":
        context["labelled images"] = str((found.get("adaptation") or {}).get("labelled"))[:12]
    if key.startswith("lpips_"):
        hashes = (about.get("lpips") or {}).get(key.rpartition("_")[2]) or {}
        context["weights of LPIPS"] = (
            ", ".join(str(v)[:12] for v in hashes.values()) if isinstance(hashes, Mapping) else None
        )
    if backbone is not None:
        known = (about.get("backbones") or {}).get(backbone) or {
            "sha256": about.get("backbone_sha256"), "resize": about.get("resize"), "precision": "fp32",
        }  # fmt: skip
        context |= {
            "weights of the backbone": str(known.get("sha256"))[:12], "resize": known.get("resize"),
            "precision of the features": known.get("precision", "fp32"),
        }  # fmt: skip
    return context


def _differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What differs of all that both say."""
    found = [
        f"{what}: {first[what]} and {value}" for what, value in other.items() if what in first and first[what] != value
    ]
    return "; ".join(found)


def _best(cells: Sequence[Cell], better: str | None) -> int | None:
    """The best comparable cell, where its interval overlaps with no other's."""
    able = [
        (i, c.figure) for i, c in enumerate(cells) if c.figure is not None and not c.reason and c.figure.get("interval")
    ]
    if better is None or len(able) < 2:
        return None
    sign = 1 if better == "lower" else -1
    order = sorted(able, key=lambda entry: sign * entry[1]["value"])
    (place, winner), others = order[0], order[1:]
    low, high = winner["interval"]
    clear = all(f["interval"][0] > high if sign == 1 else f["interval"][1] < low for _, f in others)
    return place if clear else None
