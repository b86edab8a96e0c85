"""Who is taken for whom: a table of counts with each class's recall, or a shaded picture where there are too many classes for one.

Legend: K classes; counts [K, K], ``counts[true, predicted]``. A class's recall is the share of its images that are taken for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_IN_TABLE = 16
"""Classes of a table; of more there is a picture, and the weakest ones by name."""
WEAKEST = 8
"""Classes that are named beside a picture."""
WIDE_HEADS = 60
"""Letters side by side above a table, from which on its column headings stand upright."""
BLUE = (42, 122, 204)
"""Of the picture's cells; it can be seen on light and on dark paper."""

Counts = NDArray[Any]


def recalls(counts: Counts) -> list[float | None]:
    """Recall of each class; None for one without images."""
    totals = counts.sum(axis=1)
    return [float(counts[i, i]) / float(n) if n > 0 else None for i, n in enumerate(totals)]


def percent(share: float | None) -> str:
    """A share to be read; a dash for none. 100 % is all of them, 0 % none."""
    if share is None:
        return "–"
    return "<1 %" if 0 < share < 0.01 else ">99 %" if 0.99 < share < 1 else f"{100 * share:.0f} %"


def cells(counts: Counts, labels: Sequence[str]) -> tuple[str, str]:
    """(kind, head and body) of the table: each cell is shaded by its share of the row, the last column is the recall."""
    head = "".join(f'<th scope="col"><span>{escape(label)}</span></th>' for label in labels)
    totals = np.maximum(counts.sum(axis=1), 1)
    body = []
    for row, (label, recall) in enumerate(zip(labels, recalls(counts), strict=True)):
        parts = []
        for column in range(len(labels)):
            share = 100.0 * float(counts[row, column]) / float(totals[row])
            kind = ' class="right"' if row == column else "" if share else ' class="zero"'
            parts.append(f'<td{kind} style="--share:{share:.0f}%">{int(counts[row, column]):,}</td>')
        parts.append(f'<td class="recall">{escape(percent(recall))}</td>')
        body.append(f'<tr><th scope="row">{escape(label)}</th>{"".join(parts)}</tr>')
    corner = '<th scope="col">true ↓ predicted →</th>'
    upright = len(labels) * max(map(len, labels), default=0) > WIDE_HEADS
    return "confusion upright" if upright else "confusion", (
        f'<thead><tr>{corner}{head}<th scope="col" class="recall">recall</th></tr></thead><tbody>{"".join(body)}</tbody>'
    )


def picture(counts: Counts) -> NDArray[np.uint8]:
    """uint8 [K, K, 4]: one pixel a cell, as opaque as the square root of its share of the row, so that small shares can be seen."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    pixels = np.empty((*counts.shape, 4), np.uint8)
    pixels[..., :3] = BLUE
    pixels[..., 3] = (255 * np.sqrt(np.clip(shares, 0, 1))).round()
    return pixels


def others(counts: Counts) -> list[tuple[int, int] | None]:
    """For each class (the class that its images are most often wrongly taken for, how many); None where there are none."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    best = wrong.argmax(axis=1)
    return [(int(k), int(wrong[i, k])) if wrong[i, k] > 0 else None for i, k in enumerate(best)]


def rows(counts: Counts, labels: Sequence[str]) -> list[list[str | int | None]]:
    """For each class its name, recall, number of images, and what it is most often wrongly taken for."""
    found: list[list[str | int | None]] = []
    for label, recall, n, other in zip(labels, recalls(counts), counts.sum(axis=1), others(counts), strict=True):
        taken = None if other is None else f"{labels[other[0]]} ({other[1]:,})"
        found.append([label, percent(recall), int(n), taken])
    return found


def weakest(counts: Counts) -> list[int]:
    """The classes of the lowest recall, lowest first; none without images."""
    known = [(recall, i) for i, recall in enumerate(recalls(counts)) if recall is not None]
    return [i for _, i in sorted(known)[:WEAKEST]]


def words(counts: Counts, labels: Sequence[str]) -> str:
    """What the picture says, for who cannot see it."""
    total, right = float(counts.sum()), float(counts.trace())
    said = f"{len(labels)} × {len(labels)} confusion table: {percent(right / total if total else None)} of {int(total):,} images on the diagonal"
    wrong = [(other[1], i, other[0]) for i, other in enumerate(others(counts)) if other is not None]
    if wrong:
        most, i, k = max(wrong, key=lambda w: w[0])
        said += f"; most often, {labels[i]} is taken for {labels[k]} ({most:,} times)"
    return said
