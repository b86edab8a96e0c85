"""How sure a figure is: bootstrap intervals, and the Fréchet distance that infinitely many images would have.

Everything here works on products of features between images, never on D × D matrices, so that a resample costs little where
there are few images: for centred features A [n, D] and B [m, D] over √(n-1) and √(m-1), the singular values of A Bᵀ are
those of Σ₁^½ Σ₂^½.

Legend: n, m images, D features; x [n, D], y [m, D].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unpaired.errors import NotComparableError

LEVEL = 0.95
"""How often an interval holds the truth: share of resamples inside it, where there are enough of them."""
ENOUGH_RESAMPLES = 100
"""Below this many resamples their quantiles lie too near each other: those of 20 hold the truth 88 times in 100."""
LEAST_RESAMPLES = 10
"""From fewer resamples no interval is made. It happens with two or three images, most of whose resamples are one picture alone."""
NORMAL_QUANTILE = 1.959964
"""Of the normal distribution, at (1 + LEVEL) / 2."""
MAX_GRAM = 1500
"""Images of a set that a bootstrap of distances looks at. Of more, so many are drawn at random, and the spread is scaled by the
square root of the ratio, as a standard error is."""
FRACTIONS = tuple(1 / (1 + 0.25 * i) for i in range(7))
"""Shares of the images at which a Fréchet distance is taken for its limit: evenly spaced in 1/share from 1 to 2.5."""
DRAWS = 3
"""Random draws for each share below 1."""
Interval = tuple[float, float]


def centred(values: NDArray[np.float64], value: float, scale: float = 1.0) -> Interval:
    """``value`` with the spread of the resamples around their own mean.

    A resample has fewer different images than the set, so the mean of a biased distance over resamples lies above the value; an
    interval of plain percentiles would not even hold it. From ``ENOUGH_RESAMPLES`` on the spread is their 2.5 % and 97.5 %
    quantiles; below, Student's t times their standard deviation, which takes the figure as normally distributed: few resamples are
    made of many images, where it nearly is.
    """
    if len(values) < ENOUGH_RESAMPLES:
        half = scale * student_quantile(len(values) - 1) * float(values.std(ddof=1))
        return value - half, value + half
    low, high = scale * np.quantile(values - values.mean(), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return value + float(low), value + float(high)


def student_quantile(freedom: int) -> float:
    """The (1 + LEVEL) / 2 quantile of Student's t, by the expansion of Abramowitz and Stegun (Handbook of Mathematical Functions,
    26.7.5): to 1e-4 from 19 degrees of freedom on."""
    z, n = NORMAL_QUANTILE, freedom
    terms = (
        (z**3 + z) / (4 * n),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3),
    )
    return z + sum(terms)


def mean_interval(values: Sequence[float] | NDArray[np.float64], *, resamples: int = 1000, seed: int = 0) -> Interval:
    """Bootstrap interval of a mean over images, within the smallest and the largest of them."""
    x = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = np.array([x[rng.integers(len(x), size=len(x))].mean() for _ in range(resamples)])
    low, high = centred(means, float(x.mean()))
    return max(low, float(x.min())), min(high, float(x.max()))


def share_interval(share: float, n: int) -> Interval:
    """Of a share of ``n`` (Wilson 1927, the score interval). Unlike a bootstrap it has a width where all of them are right: 10 of 10
    are no less than 0.72. For means of values in [0, 1] it is on the wide side."""
    z = NORMAL_QUANTILE
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    # at an end it is the end, up to rounding
    return max(0.0, middle - half) if share > 0 else 0.0, min(1.0, middle + half) if share < 1 else 1.0


class Products:
    """The products of two sets of features, from which distances of any resample follow."""

    def __init__(self, x: Tensor, y: Tensor, *, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        x, y = (_drawn(s.double(), generator) for s in (x, y))
        self.dim = x.shape[1]
        middle = torch.cat([x, y]).mean(dim=0)  # far from zero the products would lose digits
        raw = x @ x.T, y @ y.T, x @ y.T
        self.kernels = tuple((g / self.dim + 1) ** 3 for g in raw)  # 1801.01401, Sec. 3
        x, y = x - middle, y - middle
        self.xx, self.yy, self.xy = x @ x.T, y @ y.T, x @ y.T

    def frechet(self, i: Tensor, j: Tensor) -> float:
        """Fréchet distance between the images ``i`` of x and ``j`` of y (indices, repeated ones count as often)."""
        n, m = len(i), len(j)
        xx, yy, xy = self.xx[i][:, i], self.yy[j][:, j], self.xy[i][:, j]
        means = xx.mean() + yy.mean() - 2 * xy.mean()
        traces = (xx.trace() - n * xx.mean()) / (n - 1) + (yy.trace() - m * yy.mean()) / (m - 1)
        centred = xy - xy.mean(dim=0, keepdim=True) - xy.mean(dim=1, keepdim=True) + xy.mean()
        # eigenvalues of the square are four times as fast as singular values, and exact enough for a spread
        square = centred @ centred.T if n <= m else centred.T @ centred
        overlap = torch.linalg.eigvalsh(square).clamp_min(0).sqrt().sum() / ((n - 1) * (m - 1)) ** 0.5
        return max(0.0, float(means + traces - 2 * overlap))

    def kernel(self, i: Tensor, j: Tensor) -> float:
        """Squared maximum mean discrepancy of a resample. Pairs of one image with its own copy are left out, which keeps
        the estimate unbiased."""
        xx, yy, xy = self.kernels
        a, b = (torch.bincount(index, minlength=size).double() for index, size in zip((i, j), xy.shape, strict=True))
        within = sum(
            (w @ k @ w - (w.square() * k.diagonal()).sum()) / (w.sum() ** 2 - w.square().sum())
            for w, k in ((a, xx), (b, yy))
        )
        return float(within - 2 * (a @ xy @ b) / (a.sum() * b.sum()))


def _drawn(x: Tensor, generator: torch.Generator) -> Tensor:
    return x if len(x) <= MAX_GRAM else x[torch.randperm(len(x), generator=generator)[:MAX_GRAM]]


def resamples_for(asked: int, n: int) -> int:
    """How many Fréchet resamples are made: as many as asked for up to 400 images, fewer beyond, never below 20. Their cost
    grows with the cube of the images."""
    return min(asked, max(20, int(asked * (400 / max(n, 1)) ** 2)))


def distance_resamples(
    distance: Callable[[Tensor, Tensor], float], n: int, m: int, *, resamples: int, seed: int = 0
) -> tuple[NDArray[np.float64], float]:
    """``distance(indices of x, indices of y)`` of resamples of both sets, and what their spread is to be multiplied by."""
    whole, n, m = min(n, m), min(n, MAX_GRAM), min(m, MAX_GRAM)
    generator = torch.Generator().manual_seed(seed)
    found = [
        distance(torch.randint(n, (n,), generator=generator), torch.randint(m, (m,), generator=generator))
        for _ in range(resamples)
    ]
    values = np.array(found)
    # of very few images a resample can be one picture alone, of which there is no spread
    return values[np.isfinite(values)], (min(n, m) / whole) ** 0.5


def distance_interval(
    distance: Callable[[Tensor, Tensor], float], value: float, n: int, m: int, *, resamples: int, seed: int = 0
) -> Interval | None:
    """Bootstrap interval of ``distance(indices of x, indices of y)``; both sets are resampled. None where fewer than
    ``LEAST_RESAMPLES`` of them have a distance."""
    values, scale = distance_resamples(distance, n, m, resamples=resamples, seed=seed)
    return centred(values, value, scale) if len(values) >= LEAST_RESAMPLES else None


@dataclass(frozen=True)
class Limit:
    """A straight line through distances over 1/N."""

    value: float
    """Where it meets 1/N = 0."""
    r2: float
    """Share of the variance that the line explains."""
    reliable: bool
    """False where there are fewer images than features at the smallest share: the bias is then no straight line in 1/N."""


def frechet_limit(products: Products, value: float, n: int, m: int, *, seed: int = 0) -> Limit:
    """FD∞: the Fréchet distance extrapolated to infinitely many images on both sides.

    The bias is about c/N (Chong and Forsyth, Effectively Unbiased FID and Inception Score, arXiv 1911.07023, Sec. 3.2). Shares
    f of both sets have FD(f) = FD∞ + c/f, so a line over 1/f meets FD∞ at 1/f = 0.

    Args:
        value: the distance between the whole sets of n and m images.

    Raises NotComparableError for fewer than 20 images in a set.
    """
    if min(n, m) < 20:
        raise NotComparableError(f"not comparable: a limit needs at least 20 images in each set, there are {n} and {m}")
    generator = torch.Generator().manual_seed(seed)
    held = products.xy.shape
    most = min(held[0] / n, held[1] / m)  # below 1 where only a part of the images is held
    places, values = [1.0], [value]
    for share in (most * f for f in FRACTIONS if most * f < 1):
        a, b = round(n * share), round(m * share)
        found = [
            products.frechet(*(torch.randperm(h, generator=generator)[:k] for h, k in zip(held, (a, b), strict=True)))
            for _ in range(DRAWS)
        ]
        places.append(1 / share)
        values.append(float(np.mean(found)))
    x, y = np.array(places), np.array(values)
    slope, start = np.polyfit(x, y, 1)
    spread = float(((y - y.mean()) ** 2).sum())
    r2 = 1 - float(((y - start - slope * x) ** 2).sum()) / spread if spread > 0 else 1.0
    return Limit(float(start), r2, min(n, m) / places[-1] > products.dim)
