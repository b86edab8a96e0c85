"""Charts of a page, drawn by matplotlib as inline SVG: lines over steps, points in the plane, values with their
intervals.

Text stays text and every colour is a variable of page.css, so that a chart follows light and dark. Charts are 360
units wide, readable on a phone, and scale up. The same data give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

WIDTH = 360
"""Width of every chart in its own units, pixels on a phone."""
COLOURS = 7
"""Line colours c0, c1, ... of page.css; further series repeat them with another dash."""
DASHES = ("-", "--", ":", "-.")
SHAPES = "os^D"
MOST_POINTS = 240
"""A line has at most this many points: neighbours are averaged."""
LOG_FROM = 20
"""A logarithmic axis is used where the largest height is this many times the smallest; else it only makes reading
harder."""
SMOOTH_FROM = 40
"""Lines of so many points get a moving average over a twentieth of them; the raw one stays behind it, pale."""

_VARIABLES = (*(f"c{i}" for i in range(COLOURS)), "ink", "dim", "line", "paper")
# matplotlib knows no CSS variables: each has a colour of its own here, which gives way to the variable once the SVG
# is there
_COLOUR = {name: f"#abcd{index:02x}" for index, name in enumerate(_VARIABLES)}
_STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "unpaired", "text.parse_math": False, "font.size": 11.0,
    "text.color": _COLOUR["dim"],
    "axes.spines.left": False, "axes.spines.right": False, "axes.spines.top": False, "axes.edgecolor": _COLOUR["dim"],
    "axes.labelcolor": _COLOUR["dim"], "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True,
    "grid.color": _COLOUR["line"],
    "xtick.color": _COLOUR["dim"], "ytick.color": _COLOUR["dim"], "xtick.bottom": False, "ytick.left": False,
    "ytick.minor.left": False,
    "lines.solid_capstyle": "round", "axes.titlelocation": "left", "axes.titlesize": 11.0,
}  # fmt: skip

Series = Sequence[float] | tuple[Sequence[float], Sequence[float]]
"""Heights alone, or (positions, heights)."""
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """One chart among several of a figure."""

    title: str
    svg: Markup
    alt: str
    """What the chart says, in words."""
    kind: Literal["line", "point"] = "line"
    legend: Sequence[str] = ()
    """Names of lines or groups, in the order in which they were drawn."""


@dataclass(frozen=True)
class Dot:
    """One row of an interval chart: a value with its 95 % interval, or without one."""

    label: str
    value: float
    interval: Sequence[float] | None = None
    """Its two ends."""
    colour: int = 0


@mpl.rc_context(_STYLE)
def line_panel(
    title: str,
    series: Mapping[str, Series],
    *,
    y: str = "",
    log: bool = False,
    marks: Mapping[str, float] | None = None,
    span: tuple[float, float] | None = None,
) -> Panel:
    """Draw lines over the steps; non-finite heights leave gaps. A single line has no legend.

    Args:
        y: what the heights are, with their unit.
        log: logarithmic heights, where all of them are above 0 and they span more than LOG_FROM.
        marks: name -> position of dashed vertical lines, such as the starts of stages.
        span: least and largest height that the axis shows; those of the lines where it is not given.
    """
    lines = {name: _line(values) for name, values in series.items()}
    alt = f"{title}: {'; '.join(_first_last(name, heights) for name, (_, heights) in lines.items())}".removeprefix(": ")
    finite = np.concatenate([h[np.isfinite(h)] for _, h in lines.values()]) if lines else np.zeros(0)
    if not len(finite):
        return Panel(title, Markup("<p>no finite values</p>"), alt)
    figure, axes = _axes(214)
    for index, (places, heights) in enumerate(lines.values()):
        x, h = _thin(places, heights)
        style: dict[str, Any] = {
            "color": _COLOUR[f"c{index % COLOURS}"],
            "ls": DASHES[index // COLOURS % len(DASHES)],
            "clip_on": False,
        }
        if len(h) >= SMOOTH_FROM:
            axes.plot(x, h, **{**style, "ls": "-"}, lw=1, alpha=0.28)
            h = _smooth(h)
        good = np.pad(np.isfinite(h), 1)
        alone = good[1:-1] & ~good[:-2] & ~good[2:]
        axes.plot(x, h, **style, lw=1.8, marker="o", ms=3, markevery=alone.tolist())
    low, high = float(finite.min()), float(finite.max())
    if log and low > 0 and high > LOG_FROM * low:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 100 * low else (1.0, 2.0, 5.0), numticks=9))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(low, high)
    else:
        axes.yaxis.set_major_locator(_rounds())
        axes.set_ylim(span or _limits(low, high))
    positions = np.concatenate([p for p, _ in lines.values()])
    first, last = float(positions.min()), float(positions.max())
    axes.set_xlim(first, last if last > first else first + 1)
    axes.xaxis.set_major_locator(_rounds())
    axes.yaxis.set_major_formatter(FuncFormatter(_short))
    axes.xaxis.set_major_formatter(FuncFormatter(_short))
    axes.set_xlabel("step")
    axes.set_title(y)
    for name, place in (marks or {}).items():
        if first < place < last:
            axes.axvline(place, color=_COLOUR["dim"], lw=1, ls="--", clip_on=False)
            late = place > (first + last) / 2
            axes.text(
                place, 1, f"{name} " if late else f" {name}", fontsize=9.5, va="top", ha="right" if late else "left",
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
    return Panel(title, _svg(figure), alt, "line", list(lines) if len(lines) > 1 else [])


@mpl.rc_context(_STYLE)
def scatter_panel(title: str, groups: Mapping[str, Values], *, alt: str) -> Panel:
    """Draw points [N, 2] of each group; colour and shape tell them apart. A map of features has no axes that mean
    something."""
    figure, axes = _axes(290)
    axes.set_axis_off()
    axes.set_aspect("equal", adjustable="datalim")
    size = 36 if sum(map(len, groups.values())) <= 240 else 22
    for index, points in enumerate(groups.values()):
        axes.scatter(
            points[:, 0], points[:, 1], s=size, marker=SHAPES[index % len(SHAPES)], alpha=0.62, clip_on=False,
            color=_COLOUR[f"c{index % COLOURS}"], edgecolor=_COLOUR["paper"], linewidth=0.4,
        )  # fmt: skip
    return Panel(title, _svg(figure), alt, "point", [f"{name} ({len(points)})" for name, points in groups.items()])


@mpl.rc_context(_STYLE | {"axes.grid.axis": "x", "axes.spines.bottom": False, "ytick.color": _COLOUR["ink"]})
def interval_panel(title: str, rows: Sequence[Dot]) -> Panel:
    """Draw values with their intervals on one axis, one row each."""
    labels = [textwrap.fill(row.label, 22) for row in rows]
    figure, axes = _axes(30 + sum(10 + 14 * (label.count("\n") + 1) for label in labels))
    for index, row in enumerate(rows):
        low, high = row.interval or (row.value, row.value)
        colour = _COLOUR[f"c{row.colour % COLOURS}"]
        axes.plot(
            [low, high], [index, index], color=colour, lw=1.6, marker="|" if row.interval else "", ms=8, clip_on=False
        )
        axes.plot([row.value], [index], color=colour, marker=SHAPES[row.colour % len(SHAPES)], ms=7, clip_on=False)
        axes.annotate(
            f"{row.value:.3g}", (max(high, row.value), index), (8, 0), textcoords="offset points", va="center_baseline",
            weight="bold", color=_COLOUR["ink"],
        )  # fmt: skip
    ends = [v for row in rows for v in (row.value, *(row.interval or ())) if math.isfinite(v)]
    axes.set_xlim(_limits(min(ends), max(ends)))
    if axes.get_xlim()[0] < 0 < axes.get_xlim()[1]:
        axes.axvline(0, color=_COLOUR["dim"], lw=1, zorder=0)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), labels)
    axes.xaxis.set_major_locator(_rounds())
    axes.xaxis.set_major_formatter(FuncFormatter(_short))
    said = "; ".join(
        f"{r.label} {r.value:.4g}" + (f" ({r.interval[0]:.4g} to {r.interval[1]:.4g})" if r.interval else "")
        for r in rows
    )
    return Panel(title, _svg(figure), f"{title}: {said}")


def _axes(height: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")  # matplotlib's SVG has 72 units an inch
    return figure, figure.add_subplot()


def _rounds() -> MaxNLocator:
    return MaxNLocator(4, steps=[1, 2, 2.5, 5, 10])


def _svg(figure: Figure) -> Markup:
    buffer = io.StringIO()
    with warnings.catch_warnings():  # letters that matplotlib's own font lacks: the reader's browser draws them
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(
            buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    text = buffer.getvalue()
    text = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r"<clipPath.*?</clipPath>", "", text, flags=re.S)  # nothing is drawn outside the axes
    text = re.sub(r' clip-path="[^"]*"| ?font-family: [^;"]*;?| transform="rotate\(-0 [^"]*"', "", text)
    text = re.sub(r' (d|x|y)="[^"]*"', lambda m: re.sub(r"(\.\d)\d+", r"\1", m[0]).replace("\n", ""), text)
    # several drawings share a page: names that something refers to become the drawing's own, the others go
    own = hashlib.sha256(text.encode()).hexdigest()[:8]
    text = text.replace("xlink:href=", "href=")
    used = set(re.findall(r'href="#([^"]+)"', text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{own}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{own}-\1"', text)
    text = re.sub(r"#abcd0([0-9a])", lambda m: f"var(--{_VARIABLES[int(m[1], 16)]})", text)
    head = f'<svg viewBox="0 0 {WIDTH} {figure.get_figheight() * 72:g}" aria-hidden="true" focusable="false"'
    return Markup(re.sub(r"\n\s*", "\n", re.sub(r"^<svg[^>]*", head, text)).strip())  # the words stand beside it


def _line(values: Series) -> tuple[Values, Values]:
    heights = np.asarray(values[1] if isinstance(values, tuple) else values, np.float64)
    places = np.asarray(values[0] if isinstance(values, tuple) else range(1, len(heights) + 1), np.float64)
    return places, np.where(np.isfinite(heights), heights, np.nan)


def _thin(x: Values, y: Values) -> tuple[Values, Values]:
    """Average neighbours, so that at most MOST_POINTS are left; a group with a gap in it keeps its finite part."""
    if len(x) <= MOST_POINTS:
        return x, y
    groups = np.array_split(np.arange(len(x)), MOST_POINTS)
    means = [float(np.mean(y[g][np.isfinite(y[g])])) if np.isfinite(y[g]).any() else math.nan for g in groups]
    return np.array([x[g].mean() for g in groups]), np.array(means)


def _smooth(y: Values) -> Values:
    """Average over a twentieth of the points around each, over those that are finite; gaps stay gaps."""
    kernel, good = np.ones(max(3, len(y) // 20)), np.isfinite(y)
    sums = np.convolve(np.where(good, y, 0), kernel, "same")
    return np.where(good, sums / np.maximum(np.convolve(good.astype(np.float64), kernel, "same"), 1), np.nan)


def _limits(low: float, high: float) -> tuple[float, float]:
    """Leave room around the values; the axis begins at 0 where they come near it."""
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return (0.0 if 0 <= low < 0.5 * high else low - room), high + room


def _short(value: float, _: object) -> str:
    """Write a number for an axis: 0.001, 12k, 1e-6."""
    text = f"{value / 1000:g}k" if 1e4 <= abs(value) < 1e6 else f"{value:.4g}"
    return re.sub(r"e([+-])0*", lambda m: "e" + m[1].strip("+"), text)


def _first_last(name: str, heights: Values) -> str:
    found = heights[np.isfinite(heights)]
    return f"{name} from {found[0]:.3g} to {found[-1]:.3g}" if len(found) else f"{name} without finite values"
