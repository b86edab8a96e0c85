"""Bootstrap intervals and FD∞: against closed forms and simulations whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from unpaired.errors import NotComparableError
from unpaired.evaluation import distances
from unpaired.evaluation.distances import (
    Products,
    Statistics,
    centred,
    distance_interval,
    frechet_limit,
    gaussian_distance,
    kernel_distance,
    mean_interval,
    resamples_for,
    share_interval,
)


def normal(n: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * scale + shift


def all_of(x: Tensor) -> Tensor:
    return torch.arange(len(x))


def interval_of(products: Products, value: float, n: int, *, resamples: int) -> distances.Interval:
    """Of a Fréchet distance between n and n images."""
    found = distance_interval(products.frechet, value, n, n, resamples=resamples)
    assert found is not None
    return found


def test_an_interval_of_a_mean_holds_the_truth_about_95_times_in_100() -> None:
    """Of 200 samples of 40 numbers each, 89 to 99 % of the intervals hold the mean of the distribution."""
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        low, high = mean_interval(rng.exponential(size=40) - 1, resamples=300, seed=seed)
        held += low <= 0 <= high
    assert 178 <= held <= 198
    ones = mean_interval([1.0] * 9 + [0.0])
    assert 0 <= ones[0] < 0.9 < ones[1] <= 1  # a mean never leaves the range of its values


def test_the_interval_of_a_share_matches_its_published_example_and_has_a_width_at_its_ends() -> None:
    """81 of 263 has 95 % from 0.2553 to 0.3662 (Newcombe 1998, Table I); all of ten right, 0.7225 to 1, and none of ten, 0 to 0.2775."""
    assert share_interval(81 / 263, 263) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
    assert share_interval(1.0, 10) == (pytest.approx(0.7225, abs=5e-5), 1.0)
    assert share_interval(0.0, 10) == (0.0, pytest.approx(0.2775, abs=5e-5))


@pytest.mark.parametrize(("n", "m", "d"), [(50, 60, 200), (60, 50, 8), (30, 30, 30)])
def test_distances_from_products_equal_those_from_covariances(n: int, m: int, d: int) -> None:
    """Fréchet distance through n × m products, through singular values of features and through D × D covariances: equal to 1e-6,
    with more and with fewer images than features and far from zero; the kernel distance too."""
    x, y = normal(n, d, 0, shift=5), normal(m, d, 1, 1.3, 5.1)
    one, other = Statistics(d), Statistics(d)
    one.update(x)
    other.update(y)
    reference = one.distance(other)
    products = Products(x, y)
    assert gaussian_distance(x, y) == pytest.approx(reference, rel=1e-7)
    assert products.frechet(all_of(x), all_of(y)) == pytest.approx(reference, rel=1e-6)
    if n == m:
        assert products.kernel(all_of(x), all_of(y)) == pytest.approx(kernel_distance(x, y).mean, rel=1e-9)


def test_a_resample_of_the_kernel_distance_stays_unbiased() -> None:
    """Two samples of one distribution: the mean over 200 resamples is within two standard errors of the distance itself."""
    x, y = normal(60, 5, 0), normal(60, 5, 1)
    products, generator = Products(x, y), torch.Generator().manual_seed(0)
    values = [products.kernel(*(torch.randint(60, (60,), generator=generator) for _ in range(2))) for _ in range(200)]
    error = np.std(values) / len(values) ** 0.5
    assert abs(np.mean(values) - products.kernel(all_of(x), all_of(y))) < 3 * error


def test_an_interval_holds_its_distance_and_shrinks_with_more_images() -> None:
    """Also where plain percentiles of resamples would lie above the biased distance altogether."""
    widths = []
    for n in (40, 160):
        x, y = normal(n, 30, 0), normal(n, 30, 1, 1.2)
        products, value = Products(x, y), gaussian_distance(x, y)
        low, high = interval_of(products, value, n, resamples=60)
        generator = torch.Generator().manual_seed(1)
        plain = [products.frechet(*(torch.randint(n, (n,), generator=generator) for _ in range(2))) for _ in range(60)]
        assert low < value < high and np.quantile(plain, 0.025) > value
        widths.append(high - low)
    assert widths[1] < 0.7 * widths[0]


def test_twenty_resamples_hold_the_truth_about_95_times_in_100() -> None:
    """The fewest resamples that are made (of many images): of 400 pairs of skewed samples whose difference is known, 93 to 97.5 % of
    the intervals hold it. Quantiles of 20 values would hold it in 86 to 88 %."""
    held = 0
    for seed in range(400):
        generator = torch.Generator().manual_seed(seed)
        x, y = (torch.randn(n, generator=generator).exp() for n in (100, 150))

        def difference(i: Tensor, j: Tensor, x: Tensor = x, y: Tensor = y) -> float:
            return float(x[i].mean() - y[j].mean())

        value = float(x.mean() - y.mean())
        interval = distance_interval(difference, value, 100, 150, resamples=20, seed=seed)
        assert interval is not None
        low, high = interval
        held += low <= 0 <= high
    assert 372 <= held <= 390


def test_few_resamples_use_student_s_t() -> None:
    """Below 100 resamples the half width is t times their standard deviation, with the t of the tables (2.093, 2.010 and 1.984 for 19,
    49 and 98 degrees of freedom); from 100 on it is their quantiles."""
    for count, t in ((20, 2.0930), (50, 2.0096), (99, 1.9845)):
        values = np.random.default_rng(count).normal(size=count)
        low, high = centred(values, 3.0, 2.0)
        assert (high + low) / 2 == pytest.approx(3) and (high - low) / 4 == pytest.approx(
            t * values.std(ddof=1), rel=1e-4
        )
    values = np.arange(101.0)
    assert centred(values, 0.0) == pytest.approx((-47.5, 47.5))


def test_too_few_resamples_with_a_distance_make_no_interval() -> None:
    """Of two images, most resamples are one picture alone and have no kernel distance: there is no interval, and no division by zero."""
    x, y = normal(2, 3, 0), normal(2, 3, 1)
    products = Products(x, y)
    assert distance_interval(products.kernel, products.kernel(all_of(x), all_of(y)), 2, 2, resamples=20, seed=0) is None


def test_intervals_of_many_images_are_scaled_from_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 50 images looked at of 200, the interval is about as wide as with all 200."""
    x, y = normal(200, 6, 0), normal(200, 6, 1, 1.5)
    value = gaussian_distance(x, y)
    whole = interval_of(Products(x, y), value, 200, resamples=150)
    monkeypatch.setattr(distances, "MAX_GRAM", 50)
    part = interval_of(Products(x, y), value, 200, resamples=150)
    assert (part[1] - part[0]) == pytest.approx(whole[1] - whole[0], rel=0.4)


def test_the_limit_removes_most_of_the_bias() -> None:
    """Gaussians whose distance is known: FD of 150 images is several times too large, FD∞ within a quarter of that error."""
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


def test_fewer_resamples_where_they_cost_much() -> None:
    """All that were asked for up to 400 images; never below 20."""
    assert resamples_for(200, 100) == resamples_for(200, 400) == 200
    assert resamples_for(200, 800) == 50 and resamples_for(200, 50_000) == 20
