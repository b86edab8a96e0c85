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
LOWER = ("FD-", "KD-", "FID", "KID", "cycle_error", "identity_error", "reconstruction", "mFD", "mKD", "mFID", "mKID")
"""Starts of the keys for which less is better, where results do not say."""
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


# ---- curves -------------------------------------------------------------------------------------------------------------


def curves(log: Sequence[Entry]) -> list[tuple[str, list[Panel]]]:
    """Draw a run's log by kind: distances, λ and what it follows, losses of each player, shares."""
    steps = [float(e["step"]) for e in log]
    groups: dict[tuple[str, str], list[str]] = {}
    for key in dict.fromkeys(k for e in log for k, v in e.items() if is_number(v)):
        if key not in ("step", "seconds", "lambda/stopped"):  # the last is a flag
            groups.setdefault(_group(key), []).append(key)
    panels: dict[str, list[Panel]] = {kind: [] for kind in KINDS}
    for (kind, title), members in groups.items():
        for first in range(0, len(members), COLOURS):
            part = members[first : first + COLOURS]
            lines = {
                _within(k, title): tuple(zip(*((s, e[k]) for s, e in zip(steps, log, strict=True) if is_number(e.get(k))), strict=True))
                for k in part
            }  # fmt: skip
            name = title.replace("-", " ") if kind == "Losses" else title
            name += f", {next(iter(lines))}" if len(lines) == 1 and (kind == "Losses" or title == SHARES) else ""
            name += f" ({first // COLOURS + 1})" if len(members) > COLOURS else ""
            panels[kind].append(
                line_panel(
                    name, lines, log=kind == "Losses" and len(part) > 1,  # type: ignore[arg-type]  # pairs of tuples
                    marks=_starts(steps, [str(e.get("stage", "")) for e in log]), span=(0.0, 1.0) if title == SHARES else None,
                )
            )  # fmt: skip
    return [(kind, found) for kind, found in panels.items() if found]


def _starts(steps: Sequence[float], names: Sequence[str]) -> dict[str, float]:
    """Say where each stage begins, from its name at each logged step: at the last one of the stage before it, since a step is logged when
    it is over; empty for a single stage."""
    found = dict(zip(names[:1], steps[:1], strict=True))
    for (last, before), (_, now) in pairwise(zip(steps, names, strict=True)):
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


def duration(value: float) -> str:
    """Write seconds in words."""
    if value < 90:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if round(value / 60) < 90 else f"{value / 3600:.1f} h"


def won(log: Sequence[Entry]) -> list[str]:
    """Name discriminators that were right nearly always over the last quarter of the log."""
    last = log[-max(1, len(log) // 4) :]
    said = []
    for key in dict.fromkeys(k for e in last for k in e if k.endswith("sign_accuracy")):
        values = [float(e[key]) for e in last if is_number(e.get(key))]
        if len(values) >= 5 and fmean(values) > WON_ACCURACY:
            player = key.removesuffix("sign_accuracy").rstrip("/") or "discriminator"
            said.append(
                f"In the last quarter of the log, {player} told real from translated images nearly always ({fmean(values):.2f}): the "
                "generator learns little then."
            )
    return said


# ---- figures of results -------------------------------------------------------------------------------------------------


def titled(key: str) -> str:
    """Name a measure for people; where a network makes it, the network's name stays in it."""
    for start, title in TITLES.items():
        if key == start or key.startswith((f"{start}_", f"{start}-")):
            return title.format(key[len(start) + 1 :]).removesuffix(" ()")
    return key if "-" in key else key.replace("_", " ")


def better(key: str, measures: Mapping[str, Any]) -> str:
    """Return an arrow to where better values lie; nothing where neither end is better."""
    known = measures.get(key)
    said = known.get("better") if isinstance(known, Mapping) else None
    if said is None and key.startswith(LOWER):
        return " ↓"
    return {"lower": " ↓", "higher": " ↑"}.get(str(said), "")


def figures(results: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield (where, key, figure) of all figures: by direction, by domain, over all classes."""
    for entry, where in zip(results["directions"], places(results), strict=True):
        yield from ((where, key, figure) for key, figure in entry.items() if is_figure(figure))
    for key, figure in (results.get("means") or {}).items():
        if is_figure(figure):
            yield f"mean of {figure.get('classes', 'the')} classes", key, figure
    for domain, figure in (results.get("reconstruction") or {}).items():
        if is_figure(figure) and figure.get("n"):
            yield str(domain), "reconstruction", figure
    adapted = {"accuracy": (results.get("adaptation") or {}).get("accuracy")}
    for key, figure in ((results.get("classification") or {}) | adapted).items():
        if is_figure(figure):
            yield "classification", key, figure


def is_figure(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Tell whether it has a value, or says why not."""
    return isinstance(value, Mapping) and "value" in value


def is_number(value: Any) -> TypeGuard[float]:
    """Tell numbers from flags and texts; NaN and infinity are numbers."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def known(figure: Any) -> TypeGuard[Mapping[str, Any]]:
    """Tell whether it is a figure with a finite value."""
    return is_figure(figure) and is_number(figure["value"]) and math.isfinite(figure["value"])


def interval(figure: Any) -> tuple[float, float] | None:
    """Return the figure's 95 % interval."""
    ends = figure.get("interval") if isinstance(figure, Mapping) else None
    if isinstance(ends, (list, tuple)) and len(ends) == 2 and all(is_number(v) and math.isfinite(v) for v in ends):
        return float(ends[0]), float(ends[1])
    return None


def cell(figure: Any) -> str:
    """Write value with interval or deviation on a second line, or why there is none."""
    if not is_figure(figure):
        return "–"
    if not known(figure):
        return f"not comparable\n{figure.get('not_comparable', '')}".rstrip()
    text, ends, spread = number(float(figure["value"]), digits=3), interval(figure), figure.get("std")
    if ends is not None:
        return f"{text}\n[{ends[0]:.3g}, {ends[1]:.3g}]"
    return f"{text}\n± {float(spread):.2g}" if is_number(spread) and math.isfinite(spread) else text


def count(figure: Mapping[str, Any]) -> str:
    """Write N, or generated and real."""
    n = figure.get("n")
    if not known(figure) and n in (0, [0, 0]):
        return "–"
    return " / ".join(f"{v:,}" for v in n) if isinstance(n, (list, tuple)) else f"{n:,}" if isinstance(n, int) else "–"


def table(results: Mapping[str, Any]) -> tuple[list[str], list[list[Cell]], list[str], list[str]]:
    """Return header, rows, what the measure of each row is, and of which direction (or domain) each row is."""
    measures = results.get("measures") or {}
    rows: list[list[Cell]] = []
    notes, groups = [], []
    for where, key, figure in figures(results):
        arrow, about = better(key, measures), measures.get(key)
        rows.append(
            [titled(key) + arrow, cell(figure), cell(figure.get("before")), cell(figure.get("floor")), count(figure)]
        )
        notes.append(str(about.get("title") or "") if isinstance(about, Mapping) else "")
        groups.append(where)
        infinity = figure.get("infinity")
        if is_figure(infinity):
            rows.append([f"{titled(key)}∞{arrow}", cell(infinity), "–", "–", count(figure)])
            notes.append(
                "extrapolated to N = ∞" + (": a rough guess, from too few images" if infinity.get("note") else "")
            )
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
    """Return (counts, classes, caption) of every confusion table there is: of RC and FC, and of an adapted classifier."""
    found: list[tuple[list[list[int]], list[str], str]] = []
    about = results.get("classification") or {}
    made = "generated images" if makes_noise(results) else "translations"
    for key, text in CONFUSED.items():
        figure = about.get(key)
        counts = figure.get("confusion") if is_figure(figure) else None
        if is_figure(figure) and counts and about.get("classes"):
            runs = figure.get("runs") or ()
            which = f"The first of {len(runs)} trainings: " if len(runs) > 1 else ""
            found.append(
                (counts, list(map(str, about["classes"])), f"{text.format(made=made)} {which}{_right(counts)}.")
            )
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
    for where, key, figure in figures(results):
        first = "translated" if "before" in figure else "generated"
        shown = {first: figure, "input itself": figure.get("before"), "real against real": figure.get("floor")}
        rows = [Dot(name, float(f["value"]), interval(f), i) for i, (name, f) in enumerate(shown.items()) if known(f)]
        if rows and key.startswith(DISTANCES):
            panels.append(interval_panel(f"{titled(key)}, {where}", rows))
    return panels


def compare_panels(named: Sequence[tuple[str, Mapping[str, Any]]], most: int = 12) -> tuple[list[Panel], list[str]]:
    """Draw one chart for each figure that at least two results have, and say what is left out of them because it cannot be compared with
    the first result that has it, and why."""
    apart = not_comparable([results for _, results in named])
    left_out: dict[str, list[str]] = {}
    for (column, key), reason in apart.items():
        left_out.setdefault(f"{named[column][0]}: {reason}", []).append(titled(key))
    rows: dict[tuple[str, str], list[Dot]] = {}
    for colour, (name, results) in enumerate(named):
        for where, key, figure in figures(results):
            if known(figure) and (colour, key) not in apart:
                rows.setdefault((where, key), []).append(Dot(name, float(figure["value"]), interval(figure), colour))
    several = sorted((k for k, dots in rows.items() if len(dots) > 1), key=lambda k: not k[1].startswith(DISTANCES))
    said = [
        f"Not in these charts, because it cannot be compared: {why} ({', '.join(keys)})."
        for why, keys in left_out.items()
    ]
    return [interval_panel(f"{titled(key)}, {where}", rows[where, key]) for where, key in several[:most]], said


def verdicts(results: Mapping[str, Any]) -> list[str]:
    """Say for each direction whether translations are nearer to the target's images than the inputs are."""
    said = []
    for entry, where in zip(results["directions"], places(results), strict=True):
        keys = sorted(
            (k for k, f in entry.items() if k.startswith(DISTANCES) and known(f)),
            key=lambda k: not k.startswith(KERNEL),
        )
        said += [_verdict(entry, key, where) for key in keys[:1]]
    return said


def _verdict(entry: Mapping[str, Any], key: str, where: str) -> str:
    figure, target = entry[key], entry["target"]
    before, floor = figure.get("before"), figure.get("floor")
    n = f"N = {count(figure)}" + (" (generated / real)" if isinstance(figure.get("n"), (list, tuple)) else "")
    value = number(float(figure["value"]), digits=3)
    halves = f", for two halves of the real images {number(float(floor['value']), digits=3)}" if known(floor) else ""
    if not known(before):
        return f"{where}: the distance {titled(key)} to real images of {target} is {value}{halves}; {n}."
    a, b = _ends(figure), _ends(before)
    word = "about as near to" if a[0] <= b[1] and b[0] <= a[1] else "nearer to" if a[1] < b[0] else "further from"
    return (
        f"{where}: translations are {word} real images of {target} {'as' if word[0] == 'a' else 'than'} the untranslated inputs are. "
        f"Distance {titled(key)}: {value}, for the inputs {number(float(before['value']), digits=3)}{halves}; {n}."
    )


def _ends(figure: Mapping[str, Any]) -> tuple[float, float]:
    """Return the interval; two deviations where there is none; else the value alone."""
    value, spread = float(figure["value"]), figure.get("std")
    width = 2 * float(spread) if is_number(spread) and math.isfinite(spread) else 0.0
    return interval(figure) or (value - width, value + width)


def provenance(results: Mapping[str, Any]) -> str:
    """Say where the figures come from, a line each."""
    known = {k: v for k, v in (results.get("provenance") or {}).items() if v is not None and v not in ([], {})}
    return "\n".join(f"{key.replace('_', ' ')}: {_plain(value)}" for key, value in known.items())


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(
            f"{k} ({_plain(v)})" if isinstance(v, Mapping) else f"{k} {_plain(v)}" for k, v in value.items()
        )
    if isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef"):
        return value[:16] + "…"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
