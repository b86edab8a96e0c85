"""Charts as inline SVG: lines over steps, points in the plane, dots with intervals. Standard library and NumPy alone.

Colours are the classes c0 to c6 of the page's style sheet, so a chart follows light and dark; text stays text. Every chart is
drawn for a width of 360 pixels, readable on a phone, and scales up. The same data give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

WIDTH = 360
"""Width of every chart in its own units, pixels on a phone."""
COLOURS = 7
"""Classes c0, c1, ...; further series repeat them with another dash."""
DASHES = ("", "6 3", "2 3", "8 3 2 3")
MOST_POINTS = 240
"""A line has at most this many points: neighbours are averaged."""
LOG_FROM = 20
"""A logarithmic axis is used where the largest height is this many times the smallest; else it only makes reading harder."""
SMOOTH_FROM = 40
"""Lines of at least this many points get a moving average over a twentieth of them; the raw one stays behind it, pale."""

Series = Sequence[float] | tuple[Sequence[float], Sequence[float]]
"""Heights alone, or (positions, heights)."""
Values = NDArray[np.float64]


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) within [low, high], about so many."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high]; 2 and 5 times them where there would be fewer than three."""
    for factors in ((1,), (1, 2, 5)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [f * 10.0**p for p in powers for f in factors if low * 0.999 <= f * 10.0**p <= high * 1.001]
        if len(found) >= 3:
            return found
    return found or [low]


def short(value: float) -> str:
    """A number for an axis: 0.001, 12k, 1e-6."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    if abs(value) >= 1e4:
        return f"{value / 1000:g}k"
    return f"{value:.4g}"


@dataclass(frozen=True)
class _Scale:
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: ArrayLike) -> Values:
        v = np.asarray(value, np.float64)
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        v = np.log10(v) if self.log else v
        return self.start + (v - low) / ((high - low) or 1) * (self.end - self.start)

    def at(self, value: float) -> float:
        return float(self(value))


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "") -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}"{name}>{escape(text)}</text>'


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    # the figure around it carries the words; the drawing itself is hidden from screen readers
    return f'<svg viewBox="0 0 {_n(width)} {_n(height)}" aria-hidden="true" focusable="false">{"".join(parts)}</svg>'


def _path(x: Values, y: Values) -> str:
    """An SVG path; non-finite points leave gaps, a point alone becomes a dot (a line of no length with round ends)."""
    parts, pen = [], False
    for a, b in zip(x, y, strict=True):
        if not (math.isfinite(a) and math.isfinite(b)):
            pen = False
            continue
        parts.append(f"{'L' if pen else 'M'}{_n(a)} {_n(b)}" + ("" if pen else "h0"))
        pen = True
    return "".join(parts)


def _thin(x: Values, y: Values) -> tuple[Values, Values]:
    """Means of neighbours, so that at most MOST_POINTS are left; a group with a gap in it keeps its finite part."""
    if len(x) <= MOST_POINTS:
        return x, y
    groups = np.array_split(np.arange(len(x)), MOST_POINTS)
    means = [float(np.mean(y[g][np.isfinite(y[g])])) if np.isfinite(y[g]).any() else math.nan for g in groups]
    return np.array([x[g].mean() for g in groups]), np.array(means)


def _smooth(y: Values) -> Values:
    """Moving average over a twentieth of the points, over those that are finite; gaps stay gaps."""
    window = max(3, len(y) // 20)
    kernel, good = np.ones(window), np.isfinite(y)
    sums = np.convolve(np.where(good, y, 0), kernel, "same")
    counts = np.convolve(good.astype(np.float64), kernel, "same")
    return np.where(good, sums / np.maximum(counts, 1), np.nan)


def line_chart(
    series: Mapping[str, Series],
    *,
    x: str = "step",
    y: str = "",
    log: bool = False,
    marks: Mapping[str, float] | None = None,
    span: tuple[float, float] | None = None,
) -> str:
    """Lines over a common axis.

    Args:
        log: logarithmic heights, where all of them are above 0 and they span more than LOG_FROM.
        marks: name -> position of dashed vertical lines, such as the starts of stages.
        span: least and largest height that the axis shows; those of the lines where it is not given.
    """
    lines: dict[str, tuple[Values, Values]] = {}
    for name, values in series.items():
        heights = np.asarray(values[1] if isinstance(values, tuple) else values, np.float64)
        places = np.asarray(values[0] if isinstance(values, tuple) else range(1, len(heights) + 1), np.float64)
        lines[name] = places, np.where(np.isfinite(heights), heights, np.nan)
    all_x = np.concatenate([p for p, _ in lines.values()]) if lines else np.zeros(0)
    all_y = np.concatenate([h[np.isfinite(h)] for _, h in lines.values()]) if lines else np.zeros(0)
    if not len(all_y):
        return _svg(WIDTH, 40, [_text(WIDTH / 2, 24, "no finite values")])
    log = log and float(all_y.min()) > 0 and float(all_y.max()) > LOG_FROM * float(all_y.min())
    low, high = span or _range(all_y, log)
    marks_y = log_ticks(low, high) if log else ticks(low, high)
    left, top, right, bottom, height = 8 + 6.4 * max(len(short(t)) for t in marks_y), 22 if y else 10, 10, 36, 214
    across = _Scale(float(all_x.min()), float(all_x.max()), left, WIDTH - right)
    up = _Scale(low, high, height - bottom, top, log)
    parts = _grid(across, up, marks_y, x, y, top)
    for name, place in (marks or {}).items():
        if not across.low < place < across.high:
            continue
        at = across.at(place)
        parts.append(f'<path class="mark" d="M{_n(at)} {top}V{_n(up.start)}"/>')
        late = at + 6 * len(name) > WIDTH - right
        parts.append(_text(at - 3 if late else at + 3, top + 8, name, "end" if late else "start", "small"))
    for index, (places, heights) in enumerate(lines.values()):
        dash = DASHES[(index // COLOURS) % len(DASHES)]
        kind = f"c{index % COLOURS}"
        px, py = _thin(places, heights)
        if len(py) >= SMOOTH_FROM:
            parts.append(f'<path class="line raw {kind}" d="{_path(across(px), up(py))}"/>')
            py = _smooth(py)
        style = f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(f'<path class="line {kind}"{style} d="{_path(across(px), up(py))}"/>')
    return _svg(WIDTH, height, parts)


def _range(values: Values, log: bool) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if log:
        return (low, high) if high > low * 1.05 else (low / 1.5, high * 1.5)
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return (0.0 if 0 <= low < 0.5 * high else low - room), high + room


def _grid(across: _Scale, up: _Scale, marks_y: Sequence[float], x: str, y: str, top: float) -> list[str]:
    parts = [f'<path class="grid" d="M{_n(across.start)} {_n(up.at(t))}H{_n(across.end)}"/>' for t in marks_y]
    parts += [_text(across.start - 6, up.at(t) + 4, short(t), "end") for t in marks_y]
    for t in ticks(across.low, across.high):  # the last one may stand at the very edge
        wide = across.at(t) + 3.2 * len(short(t)) > across.end + 6
        parts.append(
            _text(across.end + 6 if wide else across.at(t), up.start + 15, short(t), "end" if wide else "middle")
        )
    parts.append(f'<path class="axis" d="M{_n(across.start)} {_n(up.start)}H{_n(across.end)}"/>')
    parts.append(_text((across.start + across.end) / 2, up.start + 31, x))
    if y:
        parts.append(_text(2, top - 9, y, "start"))
    return parts


SHAPES = ("circle", "square", "triangle", "diamond")


def _marker(shape: str, x: float, y: float, r: float, kind: str) -> str:
    if shape == "circle":
        return f'<circle class="{kind}" cx="{_n(x)}" cy="{_n(y)}" r="{_n(r)}"/>'
    if shape == "square":
        return f'<path class="{kind}" d="M{_n(x - r * 0.9)} {_n(y - r * 0.9)}h{_n(1.8 * r)}v{_n(1.8 * r)}h{_n(-1.8 * r)}z"/>'
    if shape == "triangle":
        return f'<path class="{kind}" d="M{_n(x)} {_n(y - 1.2 * r)}l{_n(1.1 * r)} {_n(2 * r)}h{_n(-2.2 * r)}z"/>'
    return f'<path class="{kind}" d="M{_n(x)} {_n(y - 1.3 * r)}l{_n(1.2 * r)} {_n(1.3 * r)}l{_n(-1.2 * r)} {_n(1.3 * r)}l{_n(-1.2 * r)} {_n(-1.3 * r)}z"/>'


def marker(index: int) -> str:
    """The mark of a scatter's group alone, for a legend."""
    return f'<svg class="key" viewBox="0 0 12 12" aria-hidden="true">{_marker(SHAPES[index % len(SHAPES)], 6, 6, 4.2, f"dot c{index % COLOURS}")}</svg>'


def swatch(index: int) -> str:
    """A piece of line ``index``, for a legend."""
    dash = DASHES[(index // COLOURS) % len(DASHES)]
    style = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<svg class="key wide" viewBox="0 0 22 12" aria-hidden="true"><path class="line c{index % COLOURS}"{style} d="M1 6H21"/></svg>'


def scatter(groups: Mapping[str, NDArray[np.float64]]) -> str:
    """Points [N, 2] of each group; colour and shape tell them apart. No axes: a map of features has none that mean something."""
    points = np.concatenate(list(groups.values()))
    low, high = points.min(0), points.max(0)
    middle = (low + high) / 2
    height = 290.0
    scale = min((WIDTH - 24) / (float(high[0] - low[0]) or 1), (height - 24) / (float(high[1] - low[1]) or 1))
    r = 3.2 if len(points) <= 240 else 2.4
    marks: list[str] = []
    for index, found in enumerate(groups.values()):
        for a, b in found:
            x, y = WIDTH / 2 + (a - middle[0]) * scale, height / 2 - (b - middle[1]) * scale
            marks.append(_marker(SHAPES[index % len(SHAPES)], x, y, r, f"dot c{index % COLOURS}"))
    order = np.random.default_rng(0).permutation(len(marks))  # drawn in turn, so that no group covers another
    return _svg(WIDTH, height, [marks[i] for i in order])


@dataclass(frozen=True)
class Dot:
    """One row of an interval chart: a value with its 95 % interval, or without one."""

    label: str
    value: float
    interval: tuple[float, float] | None = None
    colour: int = 0


def intervals(rows: Sequence[Dot]) -> str:
    """Dots with their intervals on one axis, one row each; the axis contains 0 where the values come near it."""
    ends = [v for row in rows for v in (row.value, *(row.interval or ())) if math.isfinite(v)]
    low, high = _range(np.array(ends), log=False)
    left = 12 + 6.3 * max(len(row.label) for row in rows)
    left = min(left, WIDTH * 0.45)
    top, line = 6, 24
    height = top + line * len(rows) + 24
    across = _Scale(low, high, left, WIDTH - 44)
    marks = ticks(low, high, 3)
    bottom = height - 20
    parts = [f'<path class="grid" d="M{_n(across.at(t))} {top}V{_n(bottom)}"/>' for t in marks]
    parts += [_text(across.at(t), height - 6, short(t)) for t in marks]
    if low < 0 < high:
        parts.append(f'<path class="axis" d="M{_n(across.at(0))} {top}V{_n(bottom)}"/>')
    for index, row in enumerate(rows):
        y = top + line * (index + 0.5)
        kind = f"c{row.colour % COLOURS}"
        parts.append(_text(left - 10, y + 4, row.label, "end"))
        if row.interval is not None:
            a, b = (across.at(v) for v in row.interval)
            parts.append(
                f'<path class="whisker {kind}" d="M{_n(a)} {_n(y)}H{_n(b)}M{_n(a)} {_n(y - 4)}v8M{_n(b)} {_n(y - 4)}v8"/>'
            )
        parts.append(_marker(SHAPES[row.colour % len(SHAPES)], across.at(row.value), y, 4.2, f"dot solid {kind}"))
        edge = max(across.at(v) for v in (row.value, *(row.interval or ())))
        parts.append(_text(edge + 8, y + 4, f"{row.value:.3g}", "start", "value"))
    return _svg(WIDTH, height, parts)


def first_last(series: Mapping[str, Series]) -> str:
    """What lines say, in words for who cannot see them: each with its first and last finite value."""
    said = []
    for name, values in series.items():
        heights = [v for v in (values[1] if isinstance(values, tuple) else values) if math.isfinite(v)]
        said.append(
            f"{name} from {heights[0]:.3g} to {heights[-1]:.3g}" if heights else f"{name} without finite values"
        )
    return "; ".join(said)


def starts(steps: Sequence[float], names: Sequence[str]) -> dict[str, float]:
    """Where each stage begins, from the stage's name at each logged step: at the last one of the stage before it, since a step is
    logged when it is over; empty for a single stage."""
    found: dict[str, float] = {}
    if names:
        found[names[0]] = steps[0]
    for (last, before), (_, now) in pairwise(zip(steps, names, strict=True)):
        if now != before:
            found.setdefault(now, last)
    return found if len(found) > 1 else {}
