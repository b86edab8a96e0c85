"""Precision, recall, density, coverage: against the definitions in loops, and on sets whose answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unpaired.errors import NotComparableError
from unpaired.evaluation import distances
from unpaired.evaluation.distances import neighbourhoods


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
    """The same distribution: all near 1. Half of the modes missing: recall and coverage fall, precision stays. Noise beside
    the data: precision and density fall."""
    real = torch.cat([points(60, 0), points(60, 1, 20)])
    same = torch.cat([points(60, 2), points(60, 3, 20)])
    precision, recall, density, cover = means(same, real)
    assert min(precision, recall, cover) > 0.85 and 0.7 < density < 1.3
    dropped = means(points(120, 4), real)
    assert dropped[0] > 0.85 and dropped[1] < 0.6 and dropped[3] < 0.6
    noisy = means(torch.cat([same[:60], points(60, 5, 50)]), real)
    assert noisy[0] < 0.6 and noisy[2] < 0.7


def test_degenerate_sets_are_refused() -> None:
    """Five images or fewer, NaN, and a set of one picture many times over."""
    x = points(10, 0)
    for bad, reason in ((x[:5], "more than 5 images"), (x / 0 * 0, "NaN"), (x[:1].expand(10, 3), "the same features")):
        with pytest.raises(NotComparableError, match=reason):
            neighbourhoods(bad, x)
