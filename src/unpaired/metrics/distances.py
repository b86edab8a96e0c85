"""Fréchet and kernel distances between two sets of features, in float64.

Heusel et al., GANs Trained by a Two Time-Scale Update Rule (arXiv 1706.08500), Eq. 6; Bińkowski et al., Demystifying MMD GANs
(arXiv 1801.01401), Sec. 3. Both say "Inception" in their papers; here the backbone is named beside every figure.

Legend: N images, D features; x, y [N, D]; μ mean [D], Σ covariance [D, D].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unpaired.errors import NotComparableError

KERNEL_SUBSETS = 100
"""Random subsets over which the kernel distance is averaged."""
KERNEL_SUBSET_SIZE = 1000
"""Images of each set in such a subset, where there are that many."""
KERNEL_WHOLE = 3000
"""Up to so many images the kernel is computed once for all subsets."""


def _finite(features: Tensor, what: str) -> Tensor:
    features = features.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(features).all()):
        raise NotComparableError(f"not comparable: {what} hold NaN or infinity")
    return features


class Statistics:
    """Mean and covariance of features that come in pieces, in float64 and without keeping them (Chan's update)."""

    def __init__(self, dim: int) -> None:
        self.count = 0
        self._mean = torch.zeros(dim, dtype=torch.float64)
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Add [n, D]. Raises NotComparableError for NaN or infinity."""
        x = _finite(features, "features")
        n = len(x)
        if not n:
            return
        mean = x.mean(dim=0)
        shift = mean - self._mean
        total = self.count + n
        self._scatter += (x - mean).T @ (x - mean) + torch.outer(shift, shift) * (self.count * n / total)
        self._mean += shift * (n / total)
        self.count = total

    @property
    def mean(self) -> Tensor:
        """[D]. Raises NotComparableError without images."""
        if self.count < 1:
            raise NotComparableError("not comparable: no images")
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """[D, D], unbiased (divided by N - 1). Raises NotComparableError for fewer than two images."""
        if self.count < 2:
            raise NotComparableError(f"not comparable: a covariance needs at least 2 images, there is {self.count}")
        return self._scatter / (self.count - 1)

    def distance(self, other: Statistics) -> float:
        """Fréchet distance to another set."""
        return frechet_distance(self.mean, self.covariance, other.mean, other.covariance)


def _root(covariance: Tensor) -> Tensor:
    """Symmetric square root; eigenvalues that rounding made negative count as zero."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root


def frechet_distance(mu1: Tensor, sigma1: Tensor, mu2: Tensor, sigma2: Tensor) -> float:
    """Squared Fréchet (2-Wasserstein) distance between two Gaussians.

    |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½)                                          (1706.08500, Eq. 6)

    The trace of the product's root is the sum of the singular values of Σ₁^½ Σ₂^½. This needs no root of a non-symmetric
    matrix, is never complex, and stays exact where Σ is singular (fewer images than features).

    Raises:
        NotComparableError: shapes differ, or a value is not finite.
    """
    mu1, mu2 = _finite(mu1, "means"), _finite(mu2, "means")
    sigma1, sigma2 = _finite(sigma1, "covariances"), _finite(sigma2, "covariances")
    if mu1.shape != mu2.shape or sigma1.shape != sigma2.shape or sigma1.shape != (len(mu1), len(mu1)):
        shapes = [list(t.shape) for t in (mu1, sigma1, mu2, sigma2)]
        raise NotComparableError(f"not comparable: features of different backbones? shapes {shapes}")
    overlap = torch.linalg.svdvals(_root(sigma1) @ _root(sigma2)).sum()
    distance = (mu1 - mu2).square().sum() + sigma1.trace() + sigma2.trace() - 2 * overlap
    return max(0.0, float(distance))  # below zero by rounding alone


def gaussian_distance(x: Tensor, y: Tensor) -> float:
    """The Fréchet distance between the Gaussians of features x [N, D] and y [M, D].

    Where there are fewer images than features, by the singular values of A Bᵀ instead of those of Σ₁^½ Σ₂^½: for centred
    features A and B over √(N-1) and √(M-1) they are the same, since A is an isometry times Σ₁^½.

    Raises:
        NotComparableError: fewer than two images in a set, NaN or infinity, different D, or a set whose features are all equal.
    """
    x, y = _pair(x, y)
    for side in (x, y):
        _refuse_constant(side)
    n, m = len(x), len(y)
    if min(n, m) >= x.shape[1]:
        one, other = Statistics(x.shape[1]), Statistics(x.shape[1])
        one.update(x)
        other.update(y)
        return one.distance(other)
    a, b = ((s - s.mean(dim=0)) / (len(s) - 1) ** 0.5 for s in (x, y))
    overlap = torch.linalg.svdvals(a @ b.T).sum()
    distance = (x.mean(dim=0) - y.mean(dim=0)).square().sum() + a.square().sum() + b.square().sum() - 2 * overlap
    return max(0.0, float(distance))


def _pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x, y = _finite(x, "features"), _finite(y, "features")
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
    """Standard deviation over the subsets; None where a subset takes more than half of a set: such subsets are nearly the same
    images, and their spread says next to nothing."""
    subsets: int
    subset_size: int


def kernel_distance(
    x: Tensor,
    y: Tensor,
    *,
    seed: int = 0,
    subsets: int = KERNEL_SUBSETS,
    subset_size: int = KERNEL_SUBSET_SIZE,
    degree: int = 3,
) -> KernelDistance:
    """Unbiased squared maximum mean discrepancy with the kernel k(a, b) = (a·b / D + 1)³   (1801.01401, Sec. 3)

    Args:
        x, y: features [N, D] and [M, D].
        subset_size: images drawn from each set, without replacement; at most min(N, M). When that takes both sets
            whole, there is one subset; when it takes more than half of one, there is no spread.

    Raises:
        NotComparableError: fewer than two images in a set, NaN or infinity, or different D.
    """
    x, y = _pair(x, y)
    size = min(subset_size, len(x), len(y))
    if size == len(x) == len(y):
        return KernelDistance(_mmd2(x, y, degree), None, 1, size)
    generator = torch.Generator().manual_seed(seed)
    values = torch.empty(subsets, dtype=torch.float64)
    small = max(len(x), len(y)) <= KERNEL_WHOLE
    whole = _kernels(x, y, degree) if small else None
    for n in range(subsets):
        i, j = (torch.randperm(len(s), generator=generator)[:size] for s in (x, y))
        if whole is None:
            values[n] = _mmd2(x[i], y[j], degree)
        else:
            values[n] = _unbiased(whole[0][i][:, i], whole[1][j][:, j], whole[2][i][:, j])
    std = float(values.std(correction=0)) if 2 * size <= min(len(x), len(y)) else None
    return KernelDistance(float(values.mean()), std, subsets, size)


def _mmd2(x: Tensor, y: Tensor, degree: int) -> float:
    return _unbiased(*_kernels(x, y, degree))


def _kernels(x: Tensor, y: Tensor, degree: int) -> tuple[Tensor, Tensor, Tensor]:
    d = x.shape[1]
    return (x @ x.T / d + 1) ** degree, (y @ y.T / d + 1) ** degree, (x @ y.T / d + 1) ** degree


def _unbiased(k_xx: Tensor, k_yy: Tensor, k_xy: Tensor) -> float:
    """Diagonals left out of the first two sums, which makes the estimate unbiased; it may be negative."""
    n, m = k_xy.shape
    within = (k_xx.sum() - k_xx.trace()) / (n * (n - 1)) + (k_yy.sum() - k_yy.trace()) / (m * (m - 1))
    return float(within - 2 * k_xy.mean())
