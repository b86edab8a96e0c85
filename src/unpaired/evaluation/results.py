"""Results in files and as tables: one result, or several side by side."""

from __future__ import annotations

import io
import json
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_lowercase
from typing import Annotated, Any, Literal, Self, TypeGuard

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from unpaired.data.images import show
from unpaired.errors import ConfigError, DataError
from unpaired.evaluation.figures import describe
from unpaired.evaluation.inputs import MIXED

Figure = Mapping[str, Any]
NOT_INDEPENDENT = "not independent"
"""In the warnings and reasons about figures by a network that the model's training has seen."""


# ----------------------------------------------------------------------------------------------------
# What the readers of results rely on. Keys that are missing or unknown are no fault (older and newer versions write
# others); values of another kind are.


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Number(_Lenient):
    """A figure within a figure: ``before``, ``floor``, ``infinity``."""

    value: float | None
    std: float | None = None
    interval: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    not_comparable: str = ""
    before: _Number | None = None
    floor: _Number | None = None
    infinity: _Number | None = None


_Confusion = list[list[Annotated[int, Field(ge=0)]]] | None


class _Figure(_Number):
    n: int | Annotated[list[int], Field(min_length=2, max_length=2)]
    """Number of images, or [generated, real]."""
    confusion: _Confusion = None


def is_figure(value: Any) -> TypeGuard[Figure]:
    """Tell figures, with a number or without, from all else in results."""
    return isinstance(value, dict) and "value" in value


def _tag(value: Any) -> str:
    return "figure" if is_figure(value) else "other"


_Any = Annotated[Annotated[_Figure, Tag("figure")] | Annotated[Any, Tag("other")], Discriminator(_tag)]
"""A figure, or anything that is none."""


class _Direction(_Lenient):
    __pydantic_extra__: dict[str, _Any]
    source: str
    target: str


class _Classes(_Lenient):
    """Figures of a classifier: each confusion table is as wide and as high as there are classes."""

    __pydantic_extra__: dict[str, _Any]
    classes: list[Any] | None = None
    confusion: _Confusion = None

    @model_validator(mode="after")
    def _square(self) -> Self:
        inner = (f.confusion for f in (self.__pydantic_extra__ or {}).values() if isinstance(f, _Figure))
        for table in (self.confusion, *inner):
            if table and self.classes and {len(table), *map(len, table)} != {len(self.classes)}:
                raise ValueError("a confusion table is square, one row for each class")
        return self


class _Measure(_Lenient):
    better: Literal["lower", "higher"] | None = None


class _Provenance(_Lenient):
    backbones: dict[str, dict[str, Any]] | None = None
    lpips: dict[str, dict[str, Any]] | None = None


class _Results(_Lenient):
    directions: list[_Direction]
    means: dict[str, _Any] | None = None
    reconstruction: dict[str, _Figure] | None = None
    classification: _Classes | None = None
    adaptation: _Classes | None = None
    measures: dict[str, _Measure] | None = None
    provenance: _Provenance | None = None
    warnings: list[str] | None = None
    best: _Results | None = None


MAX_RESULT_BYTES = 512 * 2**20
"""A larger file is no result of this package."""


def read_json(path: Path | str) -> Any:
    """Any JSON value of bounded size. Raises DataError with the reason."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_RESULT_BYTES:
            raise DataError(f"{show(path)}: larger than the {MAX_RESULT_BYTES:,} bytes that are read")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{show(path)}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{show(path)}: not a JSON file: {error}") from error


def check_results(found: Any, where: str) -> None:
    """Raise DataError with the first place where ``found`` is not as evaluate writes it; ``where`` is the file's
    name."""
    if not isinstance(found, dict) or not isinstance(found.get("directions"), list):
        raise DataError(f"{where}: no results of `unpaired evaluate … --out FILE`: it has no list 'directions'")
    try:
        _Results.model_validate(found)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"] if part not in ("figure", "other"))
        advice = "write it again: unpaired evaluate MODEL DATA --out FILE"
        raise DataError(f"{where}: {place}: {problem['msg']}; {advice}") from error


# ----------------------------------------------------------------------------------------------------
# Results as a table for a terminal.

NOISE = "made of noise alone"
"""Start of the line that results of a model without inputs have among their warnings."""


def makes_noise(results: Mapping[str, Any]) -> bool:
    """Whether results are those of a model that makes images of noise alone: nothing was translated."""
    entries = results["directions"]
    alone = all(entry["source"] == entry["target"] for entry in entries) and bool(entries)
    return alone or any(str(line).startswith(NOISE) for line in results.get("warnings") or ())


def places(results: Mapping[str, Any]) -> list[str]:
    """What each entry of ``directions`` is about: "a → b", or the domain alone where it is made of noise."""
    entries = results["directions"]
    targets = [str(entry["target"]) for entry in entries]
    if makes_noise(results) and len(set(targets)) == len(targets):
        return targets
    ways = ((str(entry["source"]), target) for entry, target in zip(entries, targets, strict=True))
    return [b if a == b else f"{'all others' if a == MIXED else a} → {b}" for a, b in ways]


def figures_of(results: Mapping[str, Any]) -> Iterator[tuple[str, str, Figure]]:
    """(direction or domain, key, figure) of everything in the results, in order."""
    blocks = list(zip(places(results), results["directions"], strict=True))
    blocks.append(("mean", results.get("means") or {}))
    blocks += [(d, {"reconstruction error": f}) for d, f in (results.get("reconstruction") or {}).items()]
    blocks.append(("classifier", results.get("classification") or {}))
    blocks.append(("adaptation", results.get("adaptation") or {}))
    for name, block in blocks:
        yield from ((name, key, figure) for key, figure in block.items() if is_figure(figure))


def count(figure: Figure) -> str:
    """N, or N generated / N real."""
    return " / ".join(map(str, figure["n"])) if isinstance(figure["n"], list) else str(figure["n"])


def _terminal(figure: Figure | None) -> str:
    """Value with interval or deviation, or that there is none."""
    if figure is None or figure["value"] is None:
        return "" if figure is None else "not comparable"
    text = f"{figure['value']:.4g}"
    if figure.get("interval") is not None:
        low, high = figure["interval"]
        return f"{text} [{low:.3g}, {high:.3g}]"
    return f"{text} ± {figure['std']:.2g}" if figure.get("std") is not None else text


def format_table(results: Mapping[str, Any], *, width: int = 130) -> str:
    """Write the results as plain text; the best checkpoint of a run has a table of its own."""
    about = results["provenance"]
    which = f", {about['checkpoint']} checkpoint (step {about['step']})" if about.get("checkpoint") else ""
    lines = [["direction", "measure", "value [95 %]", "before", "floor", "N"]]
    before = ""
    for name, key, figure in figures_of(results):
        label = key.replace("_", " ") if key in ("cycle_error", "identity_error") else key
        cells = [_terminal(f) for f in (figure, figure.get("before"), figure.get("floor"))]
        lines.append([name if name != before else "", label, *cells, count(figure)])
        limit = figure.get("infinity")
        if limit is not None and limit["value"] is not None:
            lines.append(["", f"{label}∞", f"{limit['value']:.4g}{' (rough)' if 'note' in limit else ''}", "", "", ""])
        before = name
    reasons = {f["not_comparable"] for _, _, f in figures_of(results) if f["value"] is None}
    notes = [f"not comparable: {r}" for r in sorted(reasons)] + results["warnings"]
    notes += [f"backbone {name}, {network['resize']}" for name, network in (about.get("backbones") or {}).items()]
    title = f"{about['method']}{which}, split {about['split']}"
    text = "\n".join([_table(lines, width, title), *(textwrap.fill(note, width) for note in notes)])
    return text + "\n\n" + format_table(results["best"], width=width) if "best" in results else text


def _table(lines: Sequence[Sequence[str]], width: int, title: str | None = None) -> str:
    """A table in plain text without colours; its first line is the header."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for text in lines[0]:
        table.add_column(text, overflow="fold")
    for line in lines[1:]:
        table.add_row(*line)
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in file.getvalue().rstrip().splitlines())


# ----------------------------------------------------------------------------------------------------
# Results side by side: intervals, which figures can be compared and which cannot and why; as text, Markdown or LaTeX.

Format = Literal["text", "markdown", "latex"]


@dataclass(frozen=True)
class Cell:
    """One figure of one file."""

    figure: Figure | None
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
    before: Figure | None
    floor: Figure | None


@dataclass(frozen=True)
class Comparison:
    """The table; :meth:`text` writes it."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    warnings: tuple[str, ...]
    digits: int = 3

    def text(self, format: Format = "text") -> str:
        """The table in one of the three formats. Raises ConfigError for another."""
        if format == "text":
            table = _table(self._lines(str, "{} *"), width=40 + 26 * (len(self.columns) + 3))
            return "\n".join([table, *self._legend("*: best,")])
        if format == "markdown":
            header, *lines = self._lines(lambda text: text.replace("|", "\\|"), "**{}**")
            rows = [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *lines)]
            return "\n".join([*rows, "", *(f"{line}  " for line in self._legend("Best:"))]).rstrip()
        if format != "latex":
            raise ConfigError(f"format '{format}': there are text, markdown, latex")
        head, *rows = (f"  {' & '.join(line)} \\\\" for line in self._lines(_escaped, r"\textbf{{{}}}"))
        notes = r" \newline ".join(map(_escaped, self._legend("Bold:")))
        below = rf"  \multicolumn{{{len(self.columns) + 5}}}{{p{{0.95\linewidth}}}}{{\footnotesize {notes}}}"
        begin = rf"\begin{{tabular}}{{ll{'r' * (len(self.columns) + 2)}r}}"
        body = [begin, r"  \toprule", head, r"  \midrule", *rows, r"  \bottomrule", below, r"\end{tabular}"]
        return "\n".join(["% needs \\usepackage{booktabs}", *body])

    def _number(self, value: float) -> str:
        return f"{value:#.{self.digits}g}".rstrip(".") if abs(value) < 10**self.digits else f"{value:.0f}"

    def _cell(self, figure: Figure | None, mark: str = "") -> str:
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

    def _marks(self) -> dict[str, str]:
        """Reason -> its letters: a, b, … z, aa, ab, …"""
        reasons = dict.fromkeys(c.reason for r in self.rows for c in r.cells if c.reason)
        letters = [*ascii_lowercase, *(a + b for a in ascii_lowercase for b in ascii_lowercase)]
        return dict(zip(reasons, letters, strict=False))

    def _lines(self, escaped: Callable[[str], str], best: str) -> list[list[str]]:
        """Direction, measure, files, input, floor and N: the header, then a line a row; ``best`` marks the best."""
        marks = self._marks()
        header = ["direction", "measure", *self.columns, "input", "real against real", "N generated / real"]
        lines = [[escaped(text) for text in header]]
        before = ""
        for row in self.rows:
            arrow = {"lower": " ↓", "higher": " ↑"}.get(row.better or "", "")
            texts = [escaped(self._cell(c.figure, f" ({marks[c.reason]})" if c.reason else "")) for c in row.cells]
            cells = [best.format(t) if c.best else t for t, c in zip(texts, row.cells, strict=True)]
            n = next((count(c.figure) for c in row.cells if c.figure and c.figure["value"] is not None), "–")
            context = [self._cell(row.before), self._cell(row.floor), n]
            first = row.direction if row.direction != before else ""
            lines.append([escaped(first), escaped(row.key + arrow), *cells, *map(escaped, context)])
            before = row.direction
        return lines

    def _legend(self, best: str) -> list[str]:
        without = {c.reason for r in self.rows for c in r.cells if c.figure is not None and c.figure["value"] is None}
        none, other = "n. c., no number to compare", "not comparable with the first number of its row"
        lines = [f"({mark}) {none if why in without else other}: {why}" for why, mark in self._marks().items()]
        lines.append(f"[low, high]: 95 % interval. {best} its interval overlaps with no other of its row.")
        return [*lines, *self.warnings]


_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
    | {"→": r"$\to$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "±": r"$\pm$", "∞": r"$\infty$"}
)


def _escaped(text: str) -> str:
    """Text for LaTeX."""
    escaped = text.translate(_LATEX)
    escaped = re.sub(r"(\d)e([+-])0*(\d+)", r"\1$\\cdot10^{\2\3}$", escaped).replace("10^{+", "10^{")
    return re.sub(r"(?<![\w{])-(?=\d)", "$-$", escaped)  # a minus, not a hyphen


def compare(
    results: Sequence[Path | str | Mapping[str, Any]], *, names: Sequence[str] | None = None, digits: int = 3
) -> Comparison:
    """Put results side by side.

    A figure counts as comparable with the first of its row when both have the same images (fingerprint, split, size,
    numbers on the real side) and, for figures of features, the same backbone, weights, resize and precision.

    Args:
        results: files of ``unpaired evaluate``, or what ``evaluate`` returned.
        names: of the columns; by default what tells the files apart.

    Raises DataError, ConfigError.
    """
    if len(results) < 2:
        raise ConfigError("compare needs at least two results, as in: unpaired compare a.json b.json")
    if digits < 1:
        raise ConfigError(f"digits = {digits}: must be at least 1")
    given = list(names) if names is not None else _names(results)
    if len(given) != len(results):
        raise ConfigError(f"{len(given)} names for {len(results)} results")
    columns: list[tuple[str, Mapping[str, Any]]] = []
    for number, (name, result) in enumerate(zip(given, results, strict=True), start=1):
        found = read_json(result) if isinstance(result, (str, Path)) else result
        check_results(found, show(result) if isinstance(result, (str, Path)) else f"result {number}")
        both = found.get("best") is not None
        columns.append((f"{name} (last)" if both else name, found))
        columns += [(f"{name} (best)", found["best"])] if both else []
    said: dict[str, list[str]] = {}
    for name, found in columns:
        for text in found.get("warnings") or ():
            if "below" in text:
                said.setdefault(text, []).append(name)
    warnings = [f"{', '.join(which)}: {text}" for text, which in said.items()]
    rows = _rows([found for _, found in columns])
    return Comparison(tuple(name for name, _ in columns), tuple(rows), tuple(warnings), digits)


def _names(results: Sequence[Path | str | Mapping[str, Any]]) -> list[str]:
    """Stems, or folders where the stems are equal, or the last parts of the paths until they differ."""
    paths = [Path(r) if isinstance(r, (str, Path)) else Path(f"result {i + 1}") for i, r in enumerate(results)]
    for depth in range(1, max(len(p.parts) for p in paths) + 1):
        names = ["/".join([*p.parts[-depth:-1], p.stem]) for p in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{p.stem} ({i + 1})" for i, p in enumerate(paths)]


def _rows(columns: Sequence[Mapping[str, Any]]) -> list[Row]:
    figures = [{(where, key): figure for where, key, figure in figures_of(found)} for found in columns]
    backbones = sorted({b for found in columns for b in ((found.get("provenance") or {}).get("backbones") or {})})
    rows = []
    for where, key in dict.fromkeys(place for found in figures for place in found):
        about = describe(key.removesuffix(" error") if key.startswith("reconstruction") else key, backbones)
        cells: list[Cell] = []
        first: dict[str, Any] | None = None  # what the first number of the row was made of
        for found, figure in zip(columns, (found.get((where, key)) for found in figures), strict=True):
            reason = ""
            if figure is not None and figure["value"] is None:
                reason = figure.get("not_comparable", "")
            elif figure is not None:
                context = _context(found, key, figure, about["backbone"])
                first = context if first is None else first
                reason = _seen(found, key, about["backbone"]) or _differences(first, context)
            cells.append(Cell(figure, reason))
        best = _best(cells, about["better"])
        cells = [replace(c, best=i == best) for i, c in enumerate(cells)]
        there = [c.figure for c in cells if c.figure is not None]
        reference = next((f for f in there if f["value"] is not None), there[0])
        rows.append(Row(where, key, about["better"], tuple(cells), reference.get("before"), reference.get("floor")))
    return rows


def _seen(found: Mapping[str, Any], key: str, backbone: str | None) -> str:
    """Say that the network of a figure was looked through in training; empty where it was not."""
    about = found.get("provenance") or {}
    network = backbone or key.rpartition("_")[2]
    known = (about.get("lpips" if key.startswith("lpips_") else "backbones") or {}).get(network) or {}
    return f"{NOT_INDEPENDENT}: training looked through {network}" if known.get("independent") is False else ""


def _context(found: Mapping[str, Any], key: str, figure: Figure, backbone: str | None) -> dict[str, Any]:
    """What two figures must share, in words -> value."""
    about = found.get("provenance") or {}
    context = {
        "images": str(about.get("data"))[:12],
        "split": about.get("split"),
        "image size": about.get("size"),
        "real images": figure.get("n_real"),
        "generated images": figure.get("n_generated"),
    }
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
        context["weights of LPIPS"] = ", ".join(str(v)[:12] for k, v in hashes.items() if k != "independent")
    if backbone is not None:
        known = (about.get("backbones") or {}).get(backbone) or {}
        context |= {
            "weights of the backbone": str(known.get("sha256"))[:12],
            "resize": known.get("resize"),
            "precision of the features": known.get("precision"),
        }
    return context


def _differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What differs of all that both say."""
    both = ((what, first[what], value) for what, value in other.items() if what in first)
    return "; ".join(f"{what}: {one} and {value}" for what, one, value in both if one != value)


def _best(cells: Sequence[Cell], better: str | None) -> int | None:
    """The best comparable cell, where its interval overlaps with no other's."""
    able = [(i, c.figure) for i, c in enumerate(cells) if c.figure and not c.reason and c.figure.get("interval")]
    if better is None or len(able) < 2:
        return None
    sign = 1 if better == "lower" else -1
    (place, winner), *others = sorted(able, key=lambda entry: sign * entry[1]["value"])
    low, high = winner["interval"]
    clear = all(f["interval"][0] > high if sign == 1 else f["interval"][1] < low for _, f in others)
    return place if clear else None
