"""Distances, coverage and intervals: against formulas, closed forms, torchmetrics and simulations whose answer is
known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from theirs import torchvision
from unpaired.errors import NotComparableError
from unpaired.evaluation import distances
from unpaired.evaluation.distances import (
    Products,
    _kernels,
    _mmd2,
    centred,
    distance_resamples,
    frechet_limit,
    gaussian_distance,
    kernel_distance,
    mean_interval,
    neighbourhoods,
    share_interval,
)


class Extractor(torch.nn.Module):
    """Four means of each colour, for torchmetrics."""

    num_features = 12

    def forward(self, x: Tensor) -> Tensor:
        """[N, 12]."""
        return torch.nn.functional.adaptive_avg_pool2d(x.double() / 255, 2).flatten(1)


def reals_and_fakes(n: int, m: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randint(0, top, (k, 3, 8, 8), generator=g, dtype=torch.uint8) for top, k in ((256, n), (200, m))]


def features(n: int, d: int, seed: int = 0) -> Tensor:
    """Correlated, not centred."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g) @ torch.randn(d, d, generator=g) + torch.randn(d, generator=g)


@pytest.mark.parametrize(("n", "d"), [(200, 8), (20, 40)])
def test_frechet_equals_the_textbook_formula(n: int, d: int) -> None:
    """Equal to |μ₁-μ₂|² + tr(Σ₁+Σ₂-2 sqrtm(Σ₁Σ₂)) in float64, full rank and rank-deficient; through n × m products too;
    0 to itself."""
    x, y = features(n, d).double(), features(n + 5, d, 1).double()
    a, b = np.cov(x.numpy().T), np.cov(y.numpy().T)
    eigenvalues = np.linalg.eigvals(a @ b).astype(complex)
    reference = float(((x.mean(0) - y.mean(0)) ** 2).sum()) + np.trace(a + b) - 2 * np.sqrt(eigenvalues).real.sum()
    assert gaussian_distance(x, y) == pytest.approx(reference, rel=1e-6 if n < d else 1e-10)
    assert Products(x, y).frechet(all_of(x), all_of(y)) == pytest.approx(reference, rel=1e-6)
    assert gaussian_distance(x, x) < 1e-9 * float(np.trace(a))


def test_frechet_of_a_shift_is_its_square() -> None:
    """A set moved by 3 and -4 is 25 away, and stretched by 2 about its mean as far as its own variance, also far from
    zero."""
    x = features(50, 2).double() + 1e4
    assert gaussian_distance(x, x + torch.tensor([3.0, -4.0])) == pytest.approx(25)
    stretched = x.mean(0) + 2 * (x - x.mean(0))
    assert gaussian_distance(x, stretched) == pytest.approx(float(x.var(dim=0).sum()), rel=1e-6)


def test_frechet_equals_torchmetrics() -> None:
    """Equal to torchmetrics' FrechetInceptionDistance over the same custom extractor to 1e-6 relative."""
    torchvision()
    fid = pytest.importorskip("torchmetrics.image.fid")
    real, fake = reals_and_fakes(60, 50)
    theirs = fid.FrechetInceptionDistance(feature=Extractor(), input_img_size=(3, 8, 8)).set_dtype(torch.float64)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    assert gaussian_distance(Extractor()(real), Extractor()(fake)) == pytest.approx(float(theirs.compute()), rel=1e-6)


def test_kernel_distance_equals_the_double_sum() -> None:
    """The unbiased estimate written as loops over pairs i ≠ j."""
    x, y = features(6, 3).double(), features(6, 3, 1).double()

    def k(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    pairs = [(i, j) for i in range(6) for j in range(6)]
    within = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs if i != j) / 30
    reference = within - 2 * sum(k(x[i], y[j]) for i, j in pairs) / 36
    found = kernel_distance(x, y)
    assert found.mean == pytest.approx(reference) and found.std is None and found.subsets == 1
    assert Products(x, y).kernel(all_of(x), all_of(y)) == pytest.approx(reference)


def test_kernel_distance_equals_torchmetrics() -> None:
    """One subset equals torchmetrics' poly_mmd; whole sets equal its KernelInceptionDistance over the same extractor to
    1e-6."""
    torchvision()
    kid = pytest.importorskip("torchmetrics.image.kid")
    x, y = features(40, 16).double(), features(40, 16, 1).double()
    assert _mmd2(*_kernels(x, y)) == pytest.approx(float(kid.poly_mmd(x, y)), rel=1e-9)
    real, fake = reals_and_fakes(30, 30)
    theirs = kid.KernelInceptionDistance(feature=Extractor(), subsets=1, subset_size=30).set_dtype(torch.float64)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    ours = kernel_distance(Extractor()(fake), Extractor()(real)).mean
    assert ours == pytest.approx(float(theirs.compute()[0]), rel=1e-6)


def test_kernel_distance_is_unbiased_and_seeded() -> None:
    """For two samples of one distribution the mean over subsets is within its spread of zero; a seed repeats it."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, 8, generator=g), torch.randn(400, 8, generator=g)
    found = kernel_distance(x, y, subsets=30, subset_size=100, seed=4)
    assert found.std is not None and abs(found.mean) < 2 * found.std
    assert kernel_distance(x, y, subsets=30, subset_size=100, seed=4) == found
    assert kernel_distance(x, y + 1, subsets=30, subset_size=100).mean > 10 * found.std


@pytest.mark.parametrize(
    ("other", "reason", "measures"),
    [
        (features(0, 3), "at least 2 images", (gaussian_distance, kernel_distance, neighbourhoods)),
        (features(1, 3), "at least 2 images", (gaussian_distance, kernel_distance, neighbourhoods)),
        (features(5, 3) * float("nan"), "NaN or infinity", (gaussian_distance, kernel_distance, neighbourhoods)),
        (features(5, 3) / 0, "NaN or infinity", (gaussian_distance, kernel_distance, neighbourhoods)),
        (features(9, 4), "shapes", (gaussian_distance, kernel_distance, neighbourhoods)),
        (features(1, 3).expand(10, 3), "the same features", (gaussian_distance, neighbourhoods)),
        (features(5, 3), "more than 5 images", (neighbourhoods,)),
    ],
)
def test_what_cannot_be_compared_is_an_error_and_never_a_number(
    other: Tensor, reason: str, measures: tuple[Any, ...]
) -> None:
    """Too few images, NaN, infinity, features of different widths, one picture many times over."""
    for measure in measures:
        with pytest.raises(NotComparableError, match=reason):
            measure(other, features(12, 3))


def points(n: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)) + shift


def means(generated: Tensor, real: Tensor) -> tuple[float, ...]:
    found = neighbourhoods(generated, real)
    return tuple(float(v.mean()) for v in (found.precision, found.recall, found.density, found.coverage))


@pytest.mark.parametrize("rows", [1024, 4])
def test_the_definitions_in_loops(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal to the papers' formulas written as loops over images, whatever part of the distances is held at a time."""
    monkeypatch.setattr(distances, "_ROWS", rows)
    generated, real = points(17, 0, 0.7).double(), points(14, 1).double()

    def radius(x: Tensor, i: int, k: int) -> float:
        return sorted(float((x[i] - x[j]).norm()) for j in range(len(x)) if j != i)[k - 1]

    def near(a: Tensor, x: Tensor, k: int) -> list[int]:
        return [i for i in range(len(x)) if float((a - x[i]).norm()) <= radius(x, i, k)]

    precision = sum(bool(near(g, real, 3)) for g in generated) / 17
    recall = sum(bool(near(r, generated, 3)) for r in real) / 14
    density = sum(len(near(g, real, 5)) for g in generated) / (5 * 17)
    covered = sum(any(float((g - real[i]).norm()) <= radius(real, i, 5) for g in generated) for i in range(14)) / 14
    assert means(generated, real) == pytest.approx((precision, recall, density, covered))


def test_what_each_of_them_notices() -> None:
    """The same distribution: all near 1. Half of the modes missing: recall and coverage fall, precision stays. Noise
    beside
    the data: precision and density fall."""
    real = torch.cat([points(60, 0), points(60, 1, 20)])
    same = torch.cat([points(60, 2), points(60, 3, 20)])
    precision, recall, density, cover = means(same, real)
    assert min(precision, recall, cover) > 0.85 and 0.7 < density < 1.3
    dropped = means(points(120, 4), real)
    assert dropped[0] > 0.85 and dropped[1] < 0.6 and dropped[3] < 0.6
    noisy = means(torch.cat([same[:60], points(60, 5, 50)]), real)
    assert noisy[0] < 0.6 and noisy[2] < 0.7


def normal(n: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * scale + shift


def all_of(x: Tensor) -> Tensor:
    return torch.arange(len(x))


def test_an_interval_of_a_mean_holds_the_truth_about_95_times_in_100() -> None:
    """Of 200 samples of 40 numbers each, 89 to 99 % of the intervals hold the mean of the distribution; it never
    leaves the range of its values."""
    rng = np.random.default_rng(0)
    ends = [mean_interval(rng.exponential(size=40) - 1, resamples=300, seed=seed) for seed in range(200)]
    assert 178 <= sum(low <= 0 <= high for low, high in ends) <= 198
    low, high = mean_interval([1.0] * 9 + [0.0])
    assert 0 <= low < 0.9 < high <= 1


def test_the_interval_of_a_share_is_the_published_one() -> None:
    """81 of 263 has 95 % from 0.2553 to 0.3662 (Newcombe 1998, Table I); all of ten right, 0.7225 to 1, and none of
    ten, 0 to 0.2775."""
    assert share_interval(81 / 263, 263) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
    assert share_interval(1.0, 10) == (pytest.approx(0.7225, abs=5e-5), 1.0)
    assert share_interval(0.0, 10) == (0.0, pytest.approx(0.2775, abs=5e-5))


def test_an_interval_holds_its_distance_and_shrinks_with_more_images() -> None:
    """Also where plain percentiles of resamples would lie above the biased distance altogether."""
    widths = []
    for n in (40, 160):
        x, y = normal(n, 30, 0), normal(n, 30, 1, 1.2)
        products, value = Products(x, y), gaussian_distance(x, y)
        values, scale = distance_resamples(products.frechet, n, n, resamples=60)
        low, high = centred(values, value, scale)
        generator = torch.Generator().manual_seed(1)
        plain = [products.frechet(*(torch.randint(n, (n,), generator=generator) for _ in range(2))) for _ in range(60)]
        assert low < value < high and np.quantile(plain, 0.025) > value
        widths.append(high - low)
    assert widths[1] < 0.7 * widths[0]


def test_twenty_resamples_hold_the_truth_about_95_times_in_100() -> None:
    """The fewest resamples that are made (of many images): of 400 pairs of skewed samples whose difference is known, 93
    to 97.5 % of the intervals hold it. Quantiles of 20 values would hold it in 86 to 88 %."""
    held = 0
    for seed in range(400):
        generator = torch.Generator().manual_seed(seed)
        x, y = (torch.randn(n, generator=generator).exp() for n in (100, 150))

        def difference(i: Tensor, j: Tensor, x: Tensor = x, y: Tensor = y) -> float:
            return float(x[i].mean() - y[j].mean())

        value = float(x.mean() - y.mean())
        low, high = centred(distance_resamples(difference, 100, 150, resamples=20, seed=seed)[0], value)
        held += low <= 0 <= high
    assert 372 <= held <= 390


def test_the_limit_removes_most_of_the_bias() -> None:
    """Gaussians whose distance is known: FD of 150 images is several times too large, FD∞ within a quarter of that
    error."""
    d, truth = 32, 32 * 0.3**2 + 32 * 0.2**2
    errors = []
    for seed in range(4):
        x, y = normal(150, d, 2 * seed), normal(150, d, 2 * seed + 1, 1.2, 0.3)
        value = gaussian_distance(x, y)
        limit = frechet_limit(Products(x, y), value, 150, 150, seed=seed)
        assert value > 1.5 * truth and limit.reliable and limit.r2 > 0.9
        errors.append((limit.value - truth) / (value - truth))
    assert abs(float(np.mean(errors))) < 0.25


def test_a_limit_that_cannot_be_trusted_says_so() -> None:
    """Fewer images than features at the smallest share: not reliable. Fewer than 20 images: no number."""
    x, y = normal(40, 64, 0), normal(40, 64, 1)
    assert not frechet_limit(Products(x, y), gaussian_distance(x, y), 40, 40).reliable
    with pytest.raises(NotComparableError, match="at least 20 images"):
        frechet_limit(Products(x[:10], y), 1.0, 10, 40)
