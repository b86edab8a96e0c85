"""Fréchet and kernel distances between two sets of features, in float64.

Heusel et al., GANs Trained by a Two Time-Scale Update Rule (arXiv 1706.08500), Eq. 6; Bińkowski et al., Demystifying
MMD GANs (arXiv 1801.01401), Sec. 3.

Legend: N images, D features; x, y [N, D]; μ mean [D], Σ covariance [D, D].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unpaired.errors import NotComparableError

KERNEL_SUBSETS = 100
"""Random subsets over which the kernel distance is averaged."""
KERNEL_SUBSET_SIZE = 1000
"""Images of each set in such a subset, where there are that many."""
KERNEL_WHOLE = 3000
"""Up to so many images the kernel is computed once for all subsets."""


def _root(covariance: Tensor) -> Tensor:
    """Symmetric square root; eigenvalues that rounding made negative count as zero."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root


def gaussian_distance(x: Tensor, y: Tensor) -> float:
    """Squared Fréchet (2-Wasserstein) distance between the Gaussians of features x [N, D] and y [M, D].

    |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½)                                          (1706.08500, Eq. 6)

    The trace of the product's root is the sum of the singular values of Σ₁^½ Σ₂^½, which is never complex and exact
    where Σ is singular. With fewer images than features it is that of A Bᵀ, for centred features A and B over √(N-1)
    and √(M-1): A is an isometry times Σ₁^½.

    Raises NotComparableError: fewer than two images in a set, NaN or infinity, different D, or equal features.
    """
    x, y = _pair(x, y)
    for side in (x, y):
        _refuse_constant(side)
    a, b = ((s - s.mean(dim=0)) / (len(s) - 1) ** 0.5 for s in (x, y))
    wide = min(len(x), len(y)) < x.shape[1]
    overlap = torch.linalg.svdvals(a @ b.T if wide else _root(a.T @ a) @ _root(b.T @ b)).sum()
    distance = (x.mean(dim=0) - y.mean(dim=0)).square().sum() + a.square().sum() + b.square().sum() - 2 * overlap
    return max(0.0, float(distance))  # below zero by rounding alone


def _pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x, y = (s.detach().to("cpu", torch.float64) for s in (x, y))
    if not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise NotComparableError("not comparable: features hold NaN or infinity")
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise NotComparableError(f"not comparable: features of shapes {list(x.shape)} and {list(y.shape)}")
    if min(len(x), len(y)) < 2:
        raise NotComparableError(
            f"not comparable: needs at least 2 images in each set, there are {len(x)} and {len(y)}"
        )
    return x, y


def _refuse_constant(x: Tensor) -> None:
    """Features that differ by rounding alone are one picture, many times over."""
    if bool(((x.amax(dim=0) - x.amin(dim=0)) <= 1e-5 * x.abs().amax().clamp_min(1e-30)).all()):
        raise NotComparableError(f"not comparable: all {len(x)} images of a set have the same features")


@dataclass(frozen=True)
class KernelDistance:
    """Mean of the estimate over random subsets."""

    mean: float
    std: float | None
    """Standard deviation over the subsets; None where a subset takes more than half of a set: such subsets are nearly
    the same images, and their spread says next to nothing."""
    subsets: int
    subset_size: int


def kernel_distance(
    x: Tensor, y: Tensor, *, seed: int = 0, subsets: int = KERNEL_SUBSETS, subset_size: int = KERNEL_SUBSET_SIZE
) -> KernelDistance:
    """Unbiased squared maximum mean discrepancy with the kernel k(a, b) = (a·b / D + 1)³   (1801.01401, Sec. 3)

    ``subset_size`` images are drawn from each of x [N, D] and y [M, D], without replacement; where that takes both
    sets whole, there is one subset. Raises NotComparableError: fewer than two images in a set, NaN or infinity, or
    different D.
    """
    x, y = _pair(x, y)
    size = min(subset_size, len(x), len(y))
    if size == len(x) == len(y):
        return KernelDistance(_mmd2(*_kernels(x, y)), None, 1, size)
    generator = torch.Generator().manual_seed(seed)
    values = torch.empty(subsets, dtype=torch.float64)
    whole = _kernels(x, y) if max(len(x), len(y)) <= KERNEL_WHOLE else None
    for n in range(subsets):
        i, j = (torch.randperm(len(s), generator=generator)[:size] for s in (x, y))
        if whole is None:
            values[n] = _mmd2(*_kernels(x[i], y[j]))
        else:
            values[n] = _mmd2(whole[0][i][:, i], whole[1][j][:, j], whole[2][i][:, j])
    std = float(values.std(correction=0)) if 2 * size <= min(len(x), len(y)) else None
    return KernelDistance(float(values.mean()), std, subsets, size)


def _kernels(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    d = x.shape[1]
    return (x @ x.T / d + 1) ** 3, (y @ y.T / d + 1) ** 3, (x @ y.T / d + 1) ** 3


def _mmd2(k_xx: Tensor, k_yy: Tensor, k_xy: Tensor) -> float:
    """Diagonals left out of the first two sums, which makes the estimate unbiased; it may be negative."""
    n, m = k_xy.shape
    within = (k_xx.sum() - k_xx.trace()) / (n * (n - 1)) + (k_yy.sum() - k_yy.trace()) / (m * (m - 1))
    return float(within - 2 * k_xy.mean())


# ----------------------------------------------------------------------------------------------------
# Fidelity and diversity apart, over nearest neighbours of features: precision and recall (Kynkäänniemi et al., arXiv
# 1904.06991, Eq. 1 and 2), density and coverage (Naeem et al., arXiv 2002.09797, Eq. 2 to 4).
#
# Legend: n real images, m generated ones; k neighbours; r(x) distance of x to its k-th neighbour in its own set.

K_PRECISION = 3
"""Neighbours for precision and recall, as their paper has it."""
K_COVERAGE = 5
"""Neighbours for density and coverage, as their paper has it."""
_ROWS = 1024
"""Rows of a distance matrix that are held at a time."""


@dataclass(frozen=True)
class Neighbourhoods:
    """One number an image; each measure is a mean over them."""

    precision: Tensor
    """[m] 1 where a generated image lies within r of some real image."""
    recall: Tensor
    """[n] 1 where a real image lies within r of some generated image."""
    density: Tensor
    """[m] real images within whose r a generated image lies, over k. Its mean may exceed 1."""
    coverage: Tensor
    """[n] 1 where the nearest generated image lies within r of a real image."""


def neighbourhoods(generated: Tensor, real: Tensor) -> Neighbourhoods:
    """The four measures of features [m, D] against [n, D], image by image, in float64.

    Raises NotComparableError: NaN, different D, equal features, or no more than K_COVERAGE images in a set.
    """
    generated, real = _pair(generated, real)
    if min(len(generated), len(real)) <= K_COVERAGE:
        there = f"there are {len(generated)} and {len(real)}"
        raise NotComparableError(f"not comparable: needs more than {K_COVERAGE} images in each set, {there}")
    for side in (generated, real):
        _refuse_constant(side)
    radii_g, radii_r = _radii(generated), _radii(real)
    inside = torch.zeros(len(generated), dtype=torch.bool)
    within = torch.zeros(len(generated), dtype=torch.float64)
    recalled, covered = [], []
    for part, radii in zip(torch.split(real, _ROWS), torch.split(radii_r, _ROWS), strict=True):
        distance = torch.cdist(part, generated)
        near, far = radii[:, K_PRECISION, None], radii[:, K_COVERAGE, None]
        inside |= (distance <= near).any(dim=0)
        within += (distance <= far).double().sum(dim=0)
        recalled.append((distance <= radii_g[:, K_PRECISION]).any(dim=1))
        covered.append(distance.amin(dim=1) <= far[:, 0])
    return Neighbourhoods(
        inside.double(), torch.cat(recalled).double(), within / K_COVERAGE, torch.cat(covered).double()
    )


def _radii(x: Tensor) -> Tensor:
    """[N, K_COVERAGE + 1]: in column k the distance of every image to its k-th neighbour, itself not counted."""
    parts = [torch.cdist(part, x).topk(K_COVERAGE + 1, dim=1, largest=False).values for part in torch.split(x, _ROWS)]
    return torch.cat(parts)


# ----------------------------------------------------------------------------------------------------
# How sure a figure is: bootstrap intervals, and the Fréchet distance that infinitely many images would have. All of it
# works on products of features between images, never on D × D matrices, so that a resample costs little where there are
# few images.
#
# Legend: n, m images; x [n, D], y [m, D].

LEVEL = 0.95
"""How often an interval holds the truth: share of resamples inside it, where there are enough of them."""
ENOUGH_RESAMPLES = 100
"""Below this many resamples their quantiles lie too near each other: those of 20 hold the truth 88 times in 100."""
LEAST_RESAMPLES = 10
"""From fewer resamples no interval is made. It happens with two or three images, most of whose resamples are one
picture alone."""
NORMAL_QUANTILE = 1.959964
"""Of the normal distribution, at (1 + LEVEL) / 2."""
MAX_GRAM = 1500
"""Images of a set that a bootstrap of distances looks at. Of more, so many are drawn at random, and the spread is
scaled by the square root of the ratio, as a standard error is."""
FRACTIONS = tuple(1 / (1 + 0.25 * i) for i in range(7))
"""Shares of the images at which a Fréchet distance is taken for its limit: evenly spaced in 1/share from 1 to 2.5."""
DRAWS = 3
"""Random draws for each share below 1."""
Interval = tuple[float, float]


def centred(values: NDArray[np.float64], value: float, scale: float = 1.0) -> Interval:
    """Lay the spread of the resamples, times ``scale``, around ``value``: they have fewer different images, so that a
    biased distance of theirs lies above it. The spread is their 2.5 % and 97.5 % quantiles; below ``ENOUGH_RESAMPLES``
    Student's t times their standard deviation."""
    if len(values) < ENOUGH_RESAMPLES:
        half = scale * student_quantile(len(values) - 1) * float(values.std(ddof=1))
        return value - half, value + half
    low, high = scale * np.quantile(values - values.mean(), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return value + float(low), value + float(high)


def student_quantile(freedom: int) -> float:
    """The (1 + LEVEL) / 2 quantile of Student's t, by the expansion of Abramowitz and Stegun (Handbook of Mathematical
    Functions, 26.7.5): to 1e-4 from 19 degrees of freedom on."""
    z, n = NORMAL_QUANTILE, freedom
    terms = (
        (z**3 + z) / (4 * n),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3),
    )
    return z + sum(terms)


def mean_interval(values: Sequence[float] | NDArray[np.float64], *, resamples: int = 1000, seed: int = 0) -> Interval:
    """Bootstrap the mean of one number an image; the interval stays within the smallest and the largest."""
    x = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = np.array([x[rng.integers(len(x), size=len(x))].mean() for _ in range(resamples)])
    low, high = centred(means, float(x.mean()))
    return max(low, float(x.min())), min(high, float(x.max()))


def share_interval(share: float, n: int) -> Interval:
    """Wilson's score interval (1927) of a share of ``n``. Unlike a bootstrap it has a width where all are right: 10 of
    10 are no less than 0.72. For means of values in [0, 1] it is on the wide side."""
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
        self.kernels = _kernels(x, y)
        middle = torch.cat([x, y]).mean(dim=0)  # far from zero the products would lose digits
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
        """Squared maximum mean discrepancy of a resample. Pairs of one image with its own copy are left out, which
        keeps the estimate unbiased."""
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
    """How many Fréchet resamples are made: those asked for up to 400 images, fewer beyond (their cost grows with the
    cube of the images), never below 20."""
    return min(asked, max(20, int(asked * (400 / max(n, 1)) ** 2)))


def distance_resamples(
    distance: Callable[[Tensor, Tensor], float], n: int, m: int, *, resamples: int, seed: int = 0
) -> tuple[NDArray[np.float64], float]:
    """``distance(indices of x, indices of y)`` of resamples of both sets, and what to multiply their spread by."""
    whole, n, m = min(n, m), min(n, MAX_GRAM), min(m, MAX_GRAM)
    generator = torch.Generator().manual_seed(seed)
    drawn = ([torch.randint(k, (k,), generator=generator) for k in (n, m)] for _ in range(resamples))
    values = np.array([distance(i, j) for i, j in drawn])
    # of very few images a resample can be one picture alone, of which there is no spread
    return values[np.isfinite(values)], (min(n, m) / whole) ** 0.5


@dataclass(frozen=True)
class Limit:
    """A straight line through distances over 1/N."""

    value: float
    """Where it meets 1/N = 0."""
    r2: float
    """Share of the variance that the line explains."""
    reliable: bool
    """False where there are fewer images than features at the smallest share: the bias is then no straight line in
    1/N."""


def frechet_limit(products: Products, value: float, n: int, m: int, *, seed: int = 0) -> Limit:
    """FD∞: the Fréchet distance extrapolated to infinitely many images on both sides.

    The bias is about c/N (Chong and Forsyth, Effectively Unbiased FID and Inception Score, arXiv 1911.07023, Sec. 3.2).
    Shares f of both sets have FD(f) = FD∞ + c/f, so a line over 1/f meets FD∞ at 1/f = 0. ``value`` is the distance
    between the whole sets of n and m images. Raises NotComparableError for fewer than 20 images in a set.
    """
    if min(n, m) < 20:
        raise NotComparableError(f"not comparable: a limit needs at least 20 images in each set, there are {n} and {m}")
    generator = torch.Generator().manual_seed(seed)
    held = products.xy.shape
    most = min(held[0] / n, held[1] / m)  # below 1 where only a part of the images is held
    places, values = [1.0], [value]
    for share in (most * f for f in FRACTIONS if most * f < 1):
        counts = round(n * share), round(m * share)
        found = [
            products.frechet(*(torch.randperm(h, generator=generator)[:k] for h, k in zip(held, counts, strict=True)))
            for _ in range(DRAWS)
        ]
        places.append(1 / share)
        values.append(float(np.mean(found)))
    x, y = np.array(places), np.array(values)
    slope, start = np.polyfit(x, y, 1)
    spread = float(((y - y.mean()) ** 2).sum())
    r2 = 1 - float(((y - start - slope * x) ** 2).sum()) / spread if spread > 0 else 1.0
    return Limit(float(start), r2, min(n, m) / places[-1] > products.dim)
