"""From logs and results to what a page shows of them: curves by player, tables and charts of figures, sentences.

Reads results leniently: keys that it does not know appear under their own names, missing ones are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, TypeGuard

from unpaired.report.charts import COLOURS, Dot, Series, starts
from unpaired.report.page import Cell, Panel, interval_panel, line_panel, number

Entry = Mapping[str, Any]
TITLES = {
    "cycle_error": "cycle error",
    "identity_error": "identity error",
    "change": "mean change",
    "ssim_to_input": "SSIM to the input",
    "mean_iou": "mean IoU",
}
LOWER = ("FD-", "KD-", "FID", "KID", "cycle_error", "identity_error", "reconstruction", "mFD", "mKD", "mFID", "mKID")
"""Starts of the keys for which less is better, where results do not say."""
DISTANCES = ("FID", "KID", "FD-", "KD-")


# ---- curves -------------------------------------------------------------------------------------------------------------


def curves(log: Sequence[Entry]) -> list[tuple[str, list[Panel]]]:
    """Panels of a run's log by kind: losses of each player, λ and what it follows, distances, shares."""
    steps = [float(e["step"]) for e in log]
    marks = starts(steps, [str(e.get("stage", "")) for e in log])
    keys = dict.fromkeys(
        k for e in log for k, v in e.items() if isinstance(v, (int, float)) and not isinstance(v, bool)
    )
    groups: dict[tuple[str, str], list[str]] = {}
    for key in keys:
        if key not in ("step", "seconds", "lambda/stopped"):  # the last is a flag
            groups.setdefault(_group(key), []).append(key)

    def series(key: str) -> Series:
        found = [(s, float(e[key])) for s, e in zip(steps, log, strict=True) if isinstance(e.get(key), (int, float))]
        return [s for s, _ in found], [v for _, v in found]

    panels: dict[str, list[Panel]] = {}
    for (kind, title), members in groups.items():
        for first in range(0, len(members), COLOURS):
            part = members[first : first + COLOURS]
            lines = {_within(k, title): series(k) for k in part}
            more = f" ({first // COLOURS + 1})" if len(members) > COLOURS else ""
            log_scale = kind == "Losses" and len(part) > 1
            panel = line_panel(title + more, lines, log=log_scale, marks=marks)
            panels.setdefault(kind, []).append(panel)
    order = ("Distances while training", "λ and distance", "Losses", "Watched values")
    return [(kind, panels[kind]) for kind in order if kind in panels]


def _group(key: str) -> tuple[str, str]:
    """(kind, title of the chart) of a key of the log."""
    first, _, rest = key.partition("/")
    if first == "validation":
        return "Distances while training", "validation " + rest.split("/")[0]
    if first in ("lambda", "distance"):
        titles = {
            "lambda": "λ",
            "lambda/watched": "loss that λ follows",
            "lambda/level": "level of λ",
            "distance": "distance to the input",
        }
        return "λ and distance", titles.get(key, key.replace("/", ": "))
    if key.endswith("accuracy"):
        return "Watched values", "share that a player judges rightly"
    if rest:
        return "Losses", first
    return "Watched values", key


def _within(key: str, title: str) -> str:
    """Name of a line within a chart."""
    first, _, rest = key.partition("/")
    if first == "validation":
        return rest.partition("/")[2].replace("->", " → ") or rest
    return (
        rest if first == title and rest else key.replace("/sign_accuracy", ": real and translated").replace("/", ": ")
    )


def seconds(log: Sequence[Entry]) -> float:
    """Time that training took, over all sessions: the log's clock starts anew when a run is resumed."""
    total = last = 0.0
    for entry in log:
        now = float(entry.get("seconds", 0.0))
        if now < last:
            total += last
        last = now
    return total + last


def duration(value: float) -> str:
    """Seconds in words."""
    minutes, hours = round(value / 60), value / 3600
    if value < 90:
        return f"{value:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{hours:.1f} h"


# ---- figures of results -------------------------------------------------------------------------------------------------


def titled(key: str) -> str:
    """Name of a measure for people; where a network makes it, the network's name stays in it."""
    return TITLES.get(key, key if "-" in key else key.replace("_", " "))


def meaning(key: str, measures: Mapping[str, Any]) -> str:
    """What a measure is, where the results say it."""
    known = measures.get(key)
    return str(known.get("title") or "") if isinstance(known, Mapping) else ""


def lower_is_better(key: str, measures: Mapping[str, Any]) -> bool | None:
    """None where neither is."""
    known = measures.get(key)
    if isinstance(known, Mapping) and "better" in known:
        return {"lower": True, "higher": False}.get(known["better"])
    return True if key.startswith(LOWER) else None


def figures(results: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(where, key, figure) of all figures: by direction, by domain, over all classes."""
    for entry in results.get("directions", ()):
        where = "all others" if entry.get("source") == "*" else str(entry.get("source"))
        for key, figure in entry.items():
            if is_figure(figure):
                yield f"{where} → {entry.get('target')}", key, figure
    for key, figure in (results.get("means") or {}).items():
        if is_figure(figure):
            yield f"mean of {figure.get('classes', 'the')} classes", key, figure
    for domain, figure in (results.get("reconstruction") or {}).items():
        if is_figure(figure) and figure.get("n"):
            yield str(domain), "reconstruction", figure
    for key, figure in (results.get("classification") or {}).items():
        if is_figure(figure):
            yield "classification", key, figure
    accuracy = (results.get("adaptation") or {}).get("accuracy")
    if is_figure(accuracy):
        yield "classification", "accuracy", accuracy


def is_figure(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether it has a value, or says why not."""
    return isinstance(value, Mapping) and "value" in value


def interval(figure: Any) -> tuple[float, float] | None:
    """The figure's 95 % interval."""
    ends = figure.get("interval") if isinstance(figure, Mapping) else None
    if isinstance(ends, (list, tuple)) and len(ends) == 2 and all(_finite(v) for v in ends):
        return float(ends[0]), float(ends[1])
    return None


def _finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def cell(figure: Any) -> str:
    """Value with interval or deviation; why there is none."""
    if not is_figure(figure):
        return "–"
    if not _finite(figure["value"]):
        return "not comparable"
    text = number(float(figure["value"]))
    ends = interval(figure)
    if ends is not None:
        return f"{text} [{ends[0]:.3g}, {ends[1]:.3g}]"
    return f"{text} ± {float(figure['std']):.2g}" if _finite(figure.get("std")) else text


def count(figure: Mapping[str, Any]) -> str:
    """N, or generated and real."""
    n = figure.get("n")
    return " / ".join(f"{v:,}" for v in n) if isinstance(n, (list, tuple)) else f"{n:,}" if isinstance(n, int) else "–"


def table(results: Mapping[str, Any]) -> tuple[list[list[Cell]], list[str]]:
    """Rows under ``HEADER``, and what the measure of each row is."""
    measures = results.get("measures") or {}
    rows: list[list[Cell]] = []
    notes = []
    for where, key, figure in figures(results):
        better = {True: " ↓", False: " ↑", None: ""}[lower_is_better(key, measures)]
        before, floor = (cell(figure[k]) if k in figure else "–" for k in ("before", "floor"))
        rows.append([titled(key) + better, where, cell(figure), count(figure), before, floor])
        notes.append(meaning(key, measures))
        infinity = figure.get("infinity")
        if is_figure(infinity):
            rows.append([f"{titled(key)}∞{better}", where, cell(infinity), count(figure), "–", "–"])
            notes.append("extrapolated to N = ∞")
    return rows, notes


HEADER = ("measure", "direction", "translated", "N", "input itself", "real against real")


def reasons(results: Mapping[str, Any]) -> list[str]:
    """Why figures are not comparable, each once."""
    found = (f.get("not_comparable") for _, _, f in figures(results) if not _finite(f.get("value")))
    return list(dict.fromkeys(str(r) for r in found if r))


def distance_panels(results: Mapping[str, Any]) -> list[Panel]:
    """One chart for each distance of each direction: translated, the input itself, real against real."""
    panels = []
    for where, key, figure in figures(results):
        if not key.startswith(DISTANCES):
            continue
        rows = []
        for colour, (name, f) in enumerate(
            (("translated", figure), ("input itself", figure.get("before")), ("real against real", figure.get("floor")))
        ):
            if is_figure(f) and _finite(f["value"]):
                rows.append(Dot(name, float(f["value"]), interval(f), colour))
        if rows:
            panels.append(interval_panel(f"{titled(key)}, {where}", rows))
    return panels


def compare_panels(named: Sequence[tuple[str, Mapping[str, Any]]], most: int = 12) -> list[Panel]:
    """One chart for each figure that at least two results have."""
    rows: dict[tuple[str, str], list[Dot]] = {}
    titles: dict[tuple[str, str], str] = {}
    for colour, (name, results) in enumerate(named):
        for where, key, figure in figures(results):
            if _finite(figure["value"]):
                rows.setdefault((where, key), []).append(Dot(name, float(figure["value"]), interval(figure), colour))
                titles[where, key] = f"{titled(key)}, {where}"
    several = [k for k, dots in rows.items() if len(dots) > 1]
    several.sort(key=lambda k: not k[1].startswith(DISTANCES))
    return [interval_panel(titles[k], rows[k]) for k in several[:most]]


def verdicts(results: Mapping[str, Any]) -> list[str]:
    """For each direction a sentence: whether translations are nearer to the target's images than the inputs are."""
    said = []
    for entry in results.get("directions", ()):
        keys = [k for k, f in entry.items() if k.startswith(DISTANCES) and is_figure(f) and _finite(f["value"])]
        # the kernel distance has no bias, so it is the one to believe with few images
        keys.sort(key=lambda k: not k.startswith(("KD-", "KID")))
        for key in keys[:1]:
            said.append(_verdict(entry, key))
    return said


def _verdict(entry: Mapping[str, Any], key: str) -> str:
    figure = entry[key]
    before, floor = figure.get("before"), figure.get("floor")
    where = f"{entry.get('source')} → {entry.get('target')}"
    n = f"N = {count(figure)}"
    if not (is_figure(before) and _finite(before["value"])):
        return f"{where}: {titled(key)} is {cell(figure)} ({n})."
    a, b = _ends(figure), _ends(before)
    word = "about as near to" if a[0] <= b[1] and b[0] <= a[1] else "nearer to" if a[1] < b[0] else "further from"
    text = f"{where}: translations are {word} real images of {entry.get('target')} {'as' if word[0] == 'a' else 'than'} the untranslated inputs are"
    text += f" ({titled(key)} {number(float(figure['value']))} against {number(float(before['value']))}"
    if is_figure(floor) and _finite(floor["value"]):
        text += f"; two halves of the real images have {number(float(floor['value']))}"
    return f"{text}; {n})."


def _ends(figure: Mapping[str, Any]) -> tuple[float, float]:
    """The interval; two deviations where there is none; else the value alone."""
    value, spread = float(figure["value"]), figure.get("std")
    width = 2 * float(spread) if _finite(spread) else 0.0
    return interval(figure) or (value - width, value + width)


def provenance(results: Mapping[str, Any]) -> list[list[Cell]]:
    """Where the figures come from: rows (what, value)."""
    rows: list[list[Cell]] = []
    for key, value in (results.get("provenance") or {}).items():
        if value is None or value == [] or value == {}:
            continue
        text = ", ".join(f"{k} {_plain(v)}" for k, v in value.items()) if isinstance(value, Mapping) else _plain(value)
        rows.append([key.replace("_", " "), text])
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{k} {_plain(v)}" for k, v in value.items()) + ")"
    if isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value):
        return value[:16] + "…"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share of n (Wilson, 1927)."""
    z = 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    width = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return middle - width, middle + width


def won(log: Sequence[Entry]) -> list[str]:
    """Discriminators that were right nearly always over the last quarter of the log."""
    from unpaired.watch import WON_ACCURACY

    last = log[-max(1, len(log) // 4) :]
    said = []
    for key in dict.fromkeys(k for e in last for k in e if k.endswith("sign_accuracy")):
        values = [float(e[key]) for e in last if _finite(e.get(key))]
        if len(values) >= 5 and fmean(values) > WON_ACCURACY:
            player = key.removesuffix("sign_accuracy").rstrip("/") or "discriminator"
            said.append(
                f"In the last quarter of the log, {player} told real from translated images nearly always ({fmean(values):.2f}): the generator learns little then."
            )
    return said
