"""Maps of features and perceptual neighbours: known geometry comes out, degenerate input is refused in words."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny
from unpaired.data.images import to_tensor
from unpaired.errors import NotComparableError, UnpairedError
from unpaired.report.looks import FEWEST, embed_2d, perceptual_distances


def clusters(n: int = 15) -> tuple[Tensor, Tensor, Tensor]:
    """Three Gaussians in 20 dimensions, far apart."""
    g = torch.Generator().manual_seed(0)
    x, y, z = (torch.randn(n, 20, generator=g) + 30 * torch.eye(20)[i] for i in range(3))
    return x, y, z


def test_far_clusters_stay_apart_and_the_map_repeats() -> None:
    """Each point's nearest other point in the map is of its own group; the same input gives the same map to the bit."""
    pytest.importorskip("sklearn", reason="t-SNE comes with scikit-learn, extra 'demo'")
    maps = embed_2d(*clusters(), seed=1)
    assert [m.shape for m in maps] == [(15, 2)] * 3
    points = torch.from_numpy(np.concatenate(maps))
    away = torch.cdist(points, points) + torch.eye(45).double() * 1e9
    assert torch.equal(away.argmin(1) // 15, torch.arange(45) // 15)
    assert all(np.array_equal(a, b) for a, b in zip(maps, embed_2d(*clusters(), seed=1), strict=True))


def test_a_map_of_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few points, equal features and NaN are not comparable, each with its reason; without scikit-learn the error
    says what to install."""
    few, equal, nan = (torch.randn(3, 4), torch.randn(3, 4)), (torch.ones(9, 4),), (torch.full((9, 4), float("nan")),)
    for groups, reason in ((few, f"at least {FEWEST} images, there are 6"), (equal, "are equal"), (nan, "NaN")):
        with pytest.raises(NotComparableError, match=reason):
            embed_2d(*groups)
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(UnpairedError, match=r"pip install 'unpaired\[demo\]'"):
        embed_2d(*clusters())


def layers(images: Tensor) -> list[Tensor]:
    """Fixed random convolutions at two scales."""
    g = torch.Generator().manual_seed(3)
    one = torch.conv2d(images, torch.randn(6, 3, 3, 3, generator=g), stride=2).relu()
    return [one, torch.conv2d(one, torch.randn(8, 6, 3, 3, generator=g), stride=2).relu()]


def test_distances_equal_their_definition() -> None:
    """Mean over layers and places of the squared difference of unit vectors, computed here pair by pair; 0 for equal
    images."""
    x, y = (to_tensor(tiny.pictures(n, 16, seed)) for n, seed in ((5, 0), (7, 1)))
    found = perceptual_distances(x, y, layers, batch=3)
    assert found.shape == (5, 7)
    for i in (0, 4):
        for j in (0, 3, 6):
            values = []
            for a, b in zip(layers(x[i : i + 1]), layers(y[j : j + 1]), strict=True):
                a, b = (torch.nn.functional.normalize(t, dim=1, eps=1e-10) for t in (a, b))
                values.append(float((a - b).square().sum(1).mean()))
            assert float(found[i, j]) == pytest.approx(np.mean(values), rel=1e-4)
    assert perceptual_distances(x, x, layers).diagonal().abs().max() < 1e-5
    with pytest.raises(NotComparableError, match=r"\[3, 16, 16\] and \[3, 20, 20\]"):
        perceptual_distances(x, torch.zeros(1, 3, 20, 20), layers)
