"""From logs and results to what a page shows of them: curves by player, tables and charts of figures, sentences.

Reads results leniently: keys that it does not know appear under their own names, missing ones are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any, TypeGuard

from unpaired.evaluation.results import makes_noise, not_comparable, places
from unpaired.report.charts import COLOURS, Dot, Panel, Series, interval_panel, line_panel
from unpaired.report.page import Cell, number

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
LOWER = ("FD-", "KD-", "FID", "KID", "cycle_error", "identity_error", "reconstruction", "mFD", "mKD", "mFID", "mKID")
"""Starts of the keys for which less is better, where results do not say."""
DISTANCES = ("FID", "KID", "FD-", "KD-")
SHARES = "share that a player judges rightly"


# ---- curves -------------------------------------------------------------------------------------------------------------


def curves(log: Sequence[Entry]) -> list[tuple[str, list[Panel]]]:
    """Panels of a run's log by kind: losses of each player, λ and what it follows, distances, shares."""
    steps = [float(e["step"]) for e in log]
    marks = _starts(steps, [str(e.get("stage", "")) for e in log])
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
            alone = f", {next(iter(lines))}" if len(lines) == 1 and (kind == "Losses" or title == SHARES) else ""
            share = (0.0, 1.0) if title == SHARES else None
            panel = line_panel(
                (title.replace("-", " ") if kind == "Losses" else title) + alone + more,
                lines,
                log=log_scale,
                marks=marks,
                span=share,
            )
            panels.setdefault(kind, []).append(panel)
    order = ("Distances while training", "λ and distance", "Losses", "Watched values")
    return [(kind, panels[kind]) for kind in order if kind in panels]


def _starts(steps: Sequence[float], names: Sequence[str]) -> dict[str, float]:
    """Say where each stage begins, from its name at each logged step: at the last one of the stage before it, since a step is logged when
    it is over; empty for a single stage."""
    found = dict(zip(names[:1], steps[:1], strict=True))
    for (last, before), (_, now) in pairwise(zip(steps, names, strict=True)):
        if now != before:
            found.setdefault(now, last)
    return found if len(found) > 1 else {}


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
        return "Watched values", SHARES
    if rest:
        return "Losses", first
    return "Watched values", key


def _within(key: str, title: str) -> str:
    """Name of a line within a chart."""
    first, _, rest = key.partition("/")
    if first == "validation":
        source, _, target = rest.partition("/")[2].partition("->")
        return (target if source == target else f"{source} → {target}") if target else source or rest
    if first == title and rest:
        return rest.replace("/", ", ").replace("_", " ")
    named = key.replace("sign_accuracy", "real or made").removesuffix("_accuracy")
    return named.replace("-", " ").replace("_", " ").replace("/", ": ")


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
    for start, title in TITLES.items():
        if key == start or key.startswith((f"{start}_", f"{start}-")):
            return title.format(key[len(start) + 1 :]).removesuffix(" ()")
    return key if "-" in key else key.replace("_", " ")


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
    for entry, where in zip(results["directions"], places(results), strict=True):
        for key, figure in entry.items():
            if is_figure(figure):
                yield where, key, figure
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
    """Value with interval or deviation on a second line; why there is none."""
    if not is_figure(figure):
        return "–"
    if not _finite(figure["value"]):
        return f"not comparable\n{figure.get('not_comparable', '')}".rstrip()
    text = number(float(figure["value"]), digits=3)
    ends = interval(figure)
    if ends is not None:
        return f"{text}\n[{ends[0]:.3g}, {ends[1]:.3g}]"
    return f"{text}\n± {float(figure['std']):.2g}" if _finite(figure.get("std")) else text


def count(figure: Mapping[str, Any]) -> str:
    """N, or generated and real."""
    n = figure.get("n")
    if not _finite(figure.get("value")) and n in (0, [0, 0]):
        return "–"
    return " / ".join(f"{v:,}" for v in n) if isinstance(n, (list, tuple)) else f"{n:,}" if isinstance(n, int) else "–"


def table(results: Mapping[str, Any]) -> tuple[list[str], list[list[Cell]], list[str], list[str]]:
    """Header, rows, what the measure of each row is, and of which direction (or domain) each row is."""
    measures = results.get("measures") or {}
    rows: list[list[Cell]] = []
    notes, groups = [], []
    for where, key, figure in figures(results):
        better = {True: " ↓", False: " ↑", None: ""}[lower_is_better(key, measures)]
        before, floor = (cell(figure[k]) if k in figure else "–" for k in ("before", "floor"))
        rows.append([titled(key) + better, cell(figure), before, floor, count(figure)])
        notes.append(meaning(key, measures))
        groups.append(where)
        infinity = figure.get("infinity")
        if is_figure(infinity):
            rows.append([f"{titled(key)}∞{better}", cell(infinity), "–", "–", count(figure)])
            notes.append(
                "extrapolated to N = ∞" + (": a rough guess, from too few images" if infinity.get("note") else "")
            )
            groups.append(where)
    header = ["measure", "translated", "input itself", "real against real", "N"]
    if makes_noise(results):
        header = ["measure", "generated", "real against real", "N"]
        rows = [[*row[:2], *row[3:]] for row in rows]
    return header, rows, notes, groups


CONFUSED = {
    "rc": "RC: a classifier that learnt from real images, on {made}; the true class is the one that was asked for.",
    "fc": "FC: a classifier that learnt from {made}, on real images.",
    "ceiling": "Real on real: a classifier that learnt from real images, on other real ones.",
}
"""What the confusion table of each classifier is of."""


def confusions(results: Mapping[str, Any]) -> list[tuple[list[list[int]], list[str], str]]:
    """(counts, classes, caption) of every confusion table there is: of RC and FC, and of an adapted classifier."""
    found: list[tuple[list[list[int]], list[str], str]] = []
    about = results.get("classification") or {}
    made = "generated images" if makes_noise(results) else "translations"
    for key, text in CONFUSED.items():
        figure = about.get(key)
        counts = figure.get("confusion") if is_figure(figure) else None
        if not is_figure(figure) or not counts or not about.get("classes"):
            continue
        runs = figure.get("runs") or ()
        which = f" The first of {len(runs)} trainings: {{}}." if len(runs) > 1 else " {}."
        found.append((counts, list(map(str, about["classes"])), text.format(made=made) + which.format(_right(counts))))
    about = results.get("adaptation") or {}
    if about.get("confusion") and about.get("classes"):
        caption = f"The adapted classifier on labelled target images: {_right(about['confusion'])}."
        found.append((about["confusion"], list(map(str, about["classes"])), caption))
    return found


def _right(counts: Sequence[Sequence[int]]) -> str:
    """In words: how many of all stand on the diagonal."""
    total = sum(map(sum, counts))
    return f"{sum(row[i] for i, row in enumerate(counts)):,} of {total:,} right"


def distance_panels(results: Mapping[str, Any]) -> list[Panel]:
    """One chart for each distance of each direction: translated, the input itself, real against real."""
    panels = []
    for where, key, figure in figures(results):
        if not key.startswith(DISTANCES):
            continue
        rows = []
        for colour, (name, f) in enumerate(
            (
                ("translated" if "before" in figure else "generated", figure),
                ("input itself", figure.get("before")),
                ("real against real", figure.get("floor")),
            )
        ):
            if is_figure(f) and _finite(f["value"]):
                rows.append(Dot(name, float(f["value"]), interval(f), colour))
        if rows:
            panels.append(interval_panel(f"{titled(key)}, {where}", rows))
    return panels


def compare_panels(named: Sequence[tuple[str, Mapping[str, Any]]], most: int = 12) -> tuple[list[Panel], list[str]]:
    """One chart for each figure that at least two results have, and what is left out of them because it cannot be compared with the
    first result that has it, and why."""
    apart = not_comparable([results for _, results in named])
    left_out: dict[str, list[str]] = {}
    for (column, key), reason in apart.items():
        left_out.setdefault(f"{named[column][0]}: {reason}", []).append(titled(key))
    rows: dict[tuple[str, str], list[Dot]] = {}
    titles: dict[tuple[str, str], str] = {}
    for colour, (name, results) in enumerate(named):
        for where, key, figure in figures(results):
            if _finite(figure["value"]) and (colour, key) not in apart:
                rows.setdefault((where, key), []).append(Dot(name, float(figure["value"]), interval(figure), colour))
                titles[where, key] = f"{titled(key)}, {where}"
    several = [k for k, dots in rows.items() if len(dots) > 1]
    several.sort(key=lambda k: not k[1].startswith(DISTANCES))
    said = [
        f"Not in these charts, because it cannot be compared: {why} ({', '.join(keys)})."
        for why, keys in left_out.items()
    ]
    return [interval_panel(titles[k], rows[k]) for k in several[:most]], said


def verdicts(results: Mapping[str, Any]) -> list[str]:
    """For each direction a sentence: whether translations are nearer to the target's images than the inputs are."""
    said = []
    for entry, where in zip(results["directions"], places(results), strict=True):
        keys = [k for k, f in entry.items() if k.startswith(DISTANCES) and is_figure(f) and _finite(f["value"])]
        # the kernel distance has no bias, so it is the one to believe with few images
        keys.sort(key=lambda k: not k.startswith(("KD-", "KID")))
        for key in keys[:1]:
            said.append(_verdict(entry, key, where))
    return said


def _verdict(entry: Mapping[str, Any], key: str, where: str) -> str:
    figure, target = entry[key], entry["target"]
    before, floor = figure.get("before"), figure.get("floor")
    n = (
        f"N = {count(figure)} (generated / real)"
        if isinstance(figure.get("n"), (list, tuple))
        else f"N = {count(figure)}"
    )
    value = number(float(figure["value"]), digits=3)
    halves = ""
    if is_figure(floor) and _finite(floor["value"]):
        halves = f", for two halves of the real images {number(float(floor['value']), digits=3)}"
    if not (is_figure(before) and _finite(before["value"])):
        return f"{where}: the distance {titled(key)} to real images of {target} is {value}{halves}; {n}."
    a, b = _ends(figure), _ends(before)
    word = "about as near to" if a[0] <= b[1] and b[0] <= a[1] else "nearer to" if a[1] < b[0] else "further from"
    text = f"{where}: translations are {word} real images of {target} {'as' if word[0] == 'a' else 'than'} the untranslated inputs are."
    return f"{text} Distance {titled(key)}: {value}, for the inputs {number(float(before['value']), digits=3)}{halves}; {n}."


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


def won(log: Sequence[Entry]) -> list[str]:
    """Discriminators that were right nearly always over the last quarter of the log."""
    from unpaired.training.log import WON_ACCURACY

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
