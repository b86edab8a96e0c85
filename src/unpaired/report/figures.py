"""Turn logs and results into what a page shows of them: curves by player, tables and charts of figures, sentences.

Keys of results that it does not know appear under their own names, missing ones are left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any, TypeGuard

from unpaired.evaluation.results import compare, figures_of, makes_noise, places
from unpaired.report.charts import COLOURS, Dot, Panel, interval_panel, line_panel
from unpaired.report.page import Cell, number
from unpaired.training.log import WON_ACCURACY

Entry = Mapping[str, Any]
TITLES = {
    "change": "mean change",
    "ssim_to_input": "SSIM to the input",
    "mean_iou": "mean IoU ({})",
    "mask_iou": "IoU of the mask, cut at {}",
    "mask_f1": "F1 of the mask, cut at {}",
    "feature_cosine": "feature cosine ({})",
    "lpips_to_input": "LPIPS to the input ({})",
    "lpips_diversity": "LPIPS diversity ({})",
    "pixel_accuracy_sum": "pixel accuracy, sum of channels within {}",
    "pixel_accuracy_channel": "pixel accuracy, each channel within {}",
    "rc": "RC",
    "fc": "FC",
    "ceiling": "real on real",
}
"""Start of a figure's key -> its name for people; what follows in the key takes the place of the braces."""
KERNEL = ("KD-", "KID")
"""Starts of the kernel distances. They have no bias for small N, so they are the ones to believe with few images."""
DISTANCES = ("FID", "FD-", *KERNEL)
SHARES = "share that a player judges rightly"
KINDS = ("Distances while training", "λ and distance", "Losses", "Watched values")
CONTROLLED = {
    "lambda": "λ",
    "lambda/watched": "loss that λ follows",
    "lambda/level": "level of λ",
    "distance": "distance to the input",
}
"""Keys of the log about λ -> titles of their charts."""


# ---- curves ----


def curves(log: Sequence[Entry]) -> list[tuple[str, list[Panel]]]:
    """Draw a run's log by kind: distances, λ and what it follows, losses of each player, shares."""
    groups: dict[tuple[str, str], list[str]] = {}
    for key in dict.fromkeys(k for e in log for k, v in e.items() if is_number(v)):
        if key not in ("step", "seconds", "lambda/stopped"):  # the last is a flag
            groups.setdefault(_group(key), []).append(key)
    panels: dict[str, list[Panel]] = {kind: [] for kind in KINDS}
    for (kind, title), members in groups.items():
        for first in range(0, len(members), COLOURS):
            part = members[first : first + COLOURS]
            lines = {_within(k, title): _series(log, k) for k in part}
            name = title.replace("-", " ") if kind == "Losses" else title
            name += f", {next(iter(lines))}" if len(lines) == 1 and (kind == "Losses" or title == SHARES) else ""
            name += f" ({first // COLOURS + 1})" if len(members) > COLOURS else ""
            span = (0.0, 1.0) if title == SHARES else None
            log_scale = kind == "Losses" and len(part) > 1
            panels[kind].append(line_panel(name, lines, log=log_scale, marks=_starts(log), span=span))
    return [(kind, found) for kind, found in panels.items() if found]


def is_number(value: Any) -> TypeGuard[float]:
    """Tell numbers from flags and texts; NaN and infinity are numbers."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _series(log: Sequence[Entry], key: str) -> tuple[list[float], list[float]]:
    entries = [e for e in log if is_number(e.get(key))]
    return [float(e["step"]) for e in entries], [float(e[key]) for e in entries]


def _starts(log: Sequence[Entry]) -> dict[str, float]:
    """Say where each stage begins, from its name at each logged step: at the last one of the stage before it, since a
    step is logged when it is over; empty for a single stage."""
    stages = [(str(e.get("stage", "")), float(e["step"])) for e in log]
    found = dict(stages[:1])
    for (before, last), (now, _) in pairwise(stages):
        if now != before:
            found.setdefault(now, last)
    return found if len(found) > 1 else {}


def _group(key: str) -> tuple[str, str]:
    """Return (kind, title of the chart) of a key of the log."""
    first, _, rest = key.partition("/")
    if first == "validation":
        return KINDS[0], "validation " + rest.split("/")[0]
    if first in ("lambda", "distance"):
        return KINDS[1], CONTROLLED.get(key, key.replace("/", ": "))
    if key.endswith("accuracy"):
        return KINDS[3], SHARES
    return (KINDS[2], first) if rest else (KINDS[3], key)


def _within(key: str, title: str) -> str:
    """Name a line within a chart."""
    first, _, rest = key.partition("/")
    if first == "validation":
        source, _, target = rest.partition("/")[2].partition("->")
        return (target if source == target else f"{source} → {target}") if target else source or rest
    if first == title and rest:
        return rest.replace("/", ", ").replace("_", " ")
    named = key.replace("sign_accuracy", "real or made").removesuffix("_accuracy")
    return named.replace("-", " ").replace("_", " ").replace("/", ": ")


def seconds(log: Sequence[Entry]) -> float:
    """Add up the time that training took, over all sessions: the log's clock starts anew when a run is resumed."""
    times = [0.0, *(float(entry.get("seconds", 0.0)) for entry in log), 0.0]
    return sum(before for before, now in pairwise(times) if now < before)


def won(log: Sequence[Entry]) -> list[str]:
    """Name discriminators that were right nearly always over the last quarter of the log."""
    last = log[-max(1, len(log) // 4) :]
    said = []
    for key in dict.fromkeys(k for e in last for k in e if k.endswith("sign_accuracy")):
        values = [float(e[key]) for e in last if is_number(e.get(key))]
        if len(values) >= 5 and fmean(values) > WON_ACCURACY:
            player = key.removesuffix("sign_accuracy").rstrip("/") or "discriminator"
            said.append(
                f"In the last quarter of the log, {player} told real from translated images nearly always "
                f"({fmean(values):.2f}): the generator learns little then."
            )
    return said


# ---- figures of results ----


def titled(key: str) -> str:
    """Name a measure for people; where a network makes it, the network's name stays in it."""
    for start, title in TITLES.items():
        if key == start or key.startswith((f"{start}_", f"{start}-")):
            return title.format(key[len(start) + 1 :]).removesuffix(" ()")
    return key if "-" in key else key.replace("_", " ")


def known(figure: Any) -> TypeGuard[Mapping[str, Any]]:
    """Tell whether it is a figure with a finite value."""
    value = figure.get("value") if isinstance(figure, Mapping) else None
    return is_number(value) and math.isfinite(value)


def cell(figure: Mapping[str, Any] | None) -> str:
    """Write value with interval or deviation on a second line, or why there is none."""
    if figure is None:
        return "–"
    if not known(figure):
        return f"not comparable\n{figure.get('not_comparable', '')}".rstrip()
    text = number(float(figure["value"]), digits=3)
    if figure.get("interval"):
        return "{}\n[{:.3g}, {:.3g}]".format(text, *figure["interval"])
    return f"{text}\n± {figure['std']:.2g}" if figure.get("std") is not None else text


def count(figure: Mapping[str, Any]) -> str:
    """Write N, or generated and real."""
    n = figure.get("n")
    numbers = n if isinstance(n, list) else [n or 0]
    return " / ".join(f"{v:,}" for v in numbers) if any(numbers) else "–"


def table(results: Mapping[str, Any]) -> tuple[list[str], list[list[Cell]], list[str], list[str]]:
    """Return header, rows, what the measure of each row is, and of which direction (or domain) each row is."""
    measures = results.get("measures") or {}
    rows: list[list[Cell]] = []
    notes, groups = [], []
    for where, key, figure in figures_of(results):
        about = measures.get(key.removesuffix(" error")) or {}
        arrow = {"lower": " ↓", "higher": " ↑"}.get(about.get("better") or "", "")
        context = [cell(figure.get("before")), cell(figure.get("floor"))]
        rows.append([titled(key) + arrow, cell(figure), *context, count(figure)])
        notes.append(about.get("title") or "")
        groups.append(where)
        infinity = figure.get("infinity")
        if infinity is not None:
            rows.append([f"{titled(key)}∞{arrow}", cell(infinity), "–", "–", count(figure)])
            rough = ": a rough guess, from too few images" if infinity.get("note") else ""
            notes.append(f"extrapolated to N = ∞{rough}")
            groups.append(where)
    if makes_noise(results):
        return ["measure", "generated", "real against real", "N"], [[*row[:2], *row[3:]] for row in rows], notes, groups
    return ["measure", "translated", "input itself", "real against real", "N"], rows, notes, groups


CONFUSED = {
    "rc": "RC: a classifier that learnt from real images, on {made}; the true class is the one that was asked for.",
    "fc": "FC: a classifier that learnt from {made}, on real images.",
    "ceiling": "Real on real: a classifier that learnt from real images, on other real ones.",
}
"""What the confusion table of each classifier is of."""


def confusions(results: Mapping[str, Any]) -> list[tuple[list[list[int]], list[str], str]]:
    """Return (counts, classes, caption) of every confusion table: of RC and FC, and of an adapted classifier."""
    found: list[tuple[list[list[int]], list[str], str]] = []
    about = results.get("classification") or {}
    made = "generated images" if makes_noise(results) else "translations"
    for key, text in CONFUSED.items():
        figure = about.get(key) or {}
        counts, runs = figure.get("confusion"), len(figure.get("runs") or ())
        if counts and about.get("classes"):
            which = f"The first of {runs} trainings: " if runs > 1 else ""
            said = f"{text.format(made=made)} {which}{_right(counts)}."
            found.append((counts, list(map(str, about["classes"])), said))
    about = results.get("adaptation") or {}
    if about.get("confusion") and about.get("classes"):
        caption = f"The adapted classifier on labelled target images: {_right(about['confusion'])}."
        found.append((about["confusion"], list(map(str, about["classes"])), caption))
    return found


def _right(counts: Sequence[Sequence[int]]) -> str:
    """Say how many of all stand on the diagonal."""
    return f"{sum(row[i] for i, row in enumerate(counts)):,} of {sum(map(sum, counts)):,} right"


def distance_panels(results: Mapping[str, Any]) -> list[Panel]:
    """Draw one chart for each distance of each direction: translated, the input itself, real against real."""
    panels = []
    for where, key, figure in figures_of(results):
        first = "translated" if "before" in figure else "generated"
        shown = {first: figure, "input itself": figure.get("before"), "real against real": figure.get("floor")}
        rows = [
            Dot(name, float(f["value"]), f.get("interval"), i) for i, (name, f) in enumerate(shown.items()) if known(f)
        ]
        if rows and key.startswith(DISTANCES):
            panels.append(interval_panel(f"{titled(key)}, {where}", rows))
    return panels


def compare_panels(named: Sequence[tuple[str, Mapping[str, Any]]], most: int = 12) -> tuple[list[Panel], list[str]]:
    """Draw one chart for each figure that at least two results have, and say what is left out of them because it
    cannot be compared with the first result that has it, and why."""
    table = compare([results for _, results in named], names=[name for name, _ in named])
    left_out: dict[str, dict[str, None]] = {}
    panels: dict[bool, list[Panel]] = {True: [], False: []}
    for row in table.rows:
        dots = []
        for colour, (name, cell) in enumerate(zip(table.columns, row.cells, strict=True)):
            if known(cell.figure) and cell.reason:
                left_out.setdefault(f"{name}: {cell.reason}", {})[titled(row.key)] = None
            elif known(cell.figure):
                dots.append(Dot(name, float(cell.figure["value"]), cell.figure.get("interval"), colour))
        if len(dots) > 1:
            panel = interval_panel(f"{titled(row.key)}, {row.direction}", dots)
            panels[row.key.startswith(DISTANCES)].append(panel)
    said = [f"Not in these charts, because it cannot be compared: {w} ({', '.join(k)})." for w, k in left_out.items()]
    return [*panels[True], *panels[False]][:most], said


def verdicts(results: Mapping[str, Any]) -> list[str]:
    """Say for each direction whether translations are nearer to the target's images than the inputs are."""
    said = []
    for entry, where in zip(results["directions"], places(results), strict=True):
        keys = [k for k, f in entry.items() if k.startswith(DISTANCES) and known(f)]
        said += [_verdict(entry, key, where) for key in sorted(keys, key=lambda k: not k.startswith(KERNEL))[:1]]
    return said


def _verdict(entry: Mapping[str, Any], key: str, where: str) -> str:
    figure, target = entry[key], entry["target"]
    context = (figure, figure.get("before"), figure.get("floor"))
    value, before, floor = (number(float(f["value"]), digits=3) if known(f) else "" for f in context)
    halves = f", for two halves of the real images {floor}" if floor else ""
    n = f"N = {count(figure)}" + (" (generated / real)" if isinstance(figure.get("n"), list) else "")
    if not before:
        return f"{where}: the distance {titled(key)} to real images of {target} is {value}{halves}; {n}."
    a, b = _ends(figure), _ends(figure["before"])
    word = "nearer to" if a[1] < b[0] else "further from" if b[1] < a[0] else "about as near to"
    return (
        f"{where}: translations are {word} real images of {target} {'as' if word[0] == 'a' else 'than'} the "
        f"untranslated inputs are. Distance {titled(key)}: {value}, for the inputs {before}{halves}; {n}."
    )


def _ends(figure: Mapping[str, Any]) -> Sequence[float]:
    """Return the interval; two deviations where there is none; else the value alone."""
    value, width = figure["value"], 2 * (figure.get("std") or 0)
    return figure.get("interval") or (value - width, value + width)


def provenance(results: Mapping[str, Any]) -> str:
    """Say where the figures come from, a line each."""
    known = {k: v for k, v in (results.get("provenance") or {}).items() if v is not None and v not in ([], {})}
    return "\n".join(f"{key.replace('_', ' ')}: {plain(value)}" for key, value in known.items())


def plain(value: Any) -> str:
    """Write a value of JSON for a person; hashes are shortened."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} ({plain(v)})" if isinstance(v, Mapping) else f"{k} {plain(v)}" for k, v in value.items())
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        return value[:16] + "…"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
