"""Results as a table for a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

from unpaired.evaluation_images import MIXED

Figure = Mapping[str, Any]
NOISE = "made of noise alone"
"""Start of the line that results of a model without inputs have among their warnings."""


def cell(figure: Figure) -> str:
    """Value, interval and deviation of a figure, or that there is none."""
    if figure["value"] is None:
        return "not comparable"
    text = f"{figure['value']:.4g}"
    if figure.get("interval") is not None:
        low, high = figure["interval"]
        text += f" [{low:.3g}, {high:.3g}]"
    elif figure.get("std") is not None:
        text += f" ± {figure['std']:.2g}"
    return text


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
    for entry, name in zip(results["directions"], places(results), strict=True):
        for key, figure in entry.items():
            if isinstance(figure, dict) and "value" in figure:
                yield name, key, figure
    for key, figure in (results.get("means") or {}).items():
        yield "mean", key, figure
    for domain, figure in (results.get("reconstruction") or {}).items():
        yield domain, "reconstruction error", figure
    for block, name in (("classification", "classifier"), ("adaptation", "adaptation")):
        for key, figure in (results.get(block) or {}).items():
            if isinstance(figure, dict) and "value" in figure:
                yield name, key, figure


def count(figure: Figure) -> str:
    """N, or N generated / N real."""
    return " / ".join(map(str, figure["n"])) if isinstance(figure["n"], list) else str(figure["n"])


def format_table(results: Mapping[str, Any], *, width: int = 130) -> str:
    """The results for a terminal: plain text without colours. The best checkpoint of a run has a table of its own."""
    from rich.console import Console
    from rich.table import Table

    console = Console(file=io.StringIO(), width=width, color_system=None)
    about = results["provenance"]
    which = f", {about['checkpoint']} checkpoint (step {about['step']})" if about.get("checkpoint") else ""
    table = Table(title=f"{about['method']}{which}, split {about['split']}")
    for column in ("direction", "measure", "value [95 %]", "before", "floor", "N"):
        table.add_column(column, overflow="fold")
    before = ""
    for name, key, figure in figures_of(results):
        context = [cell(figure[k]) if k in figure else "" for k in ("before", "floor")]
        label = key.replace("_", " ") if key in ("cycle_error", "identity_error") else key
        table.add_row(name if name != before else "", label, cell(figure), *context, count(figure))
        limit = figure.get("infinity")
        if limit is not None and limit["value"] is not None:
            note = " (rough)" if "note" in limit else ""
            table.add_row("", f"{label}∞", f"{limit['value']:.4g}{note}", "", "", "")
        before = name
    console.print(table)
    reasons = {f["not_comparable"] for _, _, f in figures_of(results) if f["value"] is None}
    for line in [*(f"not comparable: {r}" for r in sorted(reasons)), *results["warnings"]]:
        console.print(line, markup=False, highlight=False)
    for name, network in (about.get("backbones") or {}).items():
        console.print(f"backbone {name}, {network['resize']}", markup=False, highlight=False)
    text = str(console.file.getvalue()).rstrip()  # type: ignore[attr-defined]
    if "best" in results:
        text += "\n\n" + format_table(results["best"], width=width)
    return text
