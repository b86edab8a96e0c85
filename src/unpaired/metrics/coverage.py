"""Fidelity and diversity apart: precision, recall, density and coverage over nearest neighbours of features.

Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative Models (arXiv 1904.06991), Eq. 1 and 2;
Naeem et al., Reliable Fidelity and Diversity Metrics for Generative Models (arXiv 2002.09797), Eq. 2 to 4.

Legend: n real images, m generated ones, D features; k neighbours; r(x) distance of x to its k-th neighbour in its own set.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unpaired.errors import NotComparableError
from unpaired.metrics.distances import _pair, _refuse_constant

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


def neighbourhoods(
    generated: Tensor, real: Tensor, *, k_precision: int = K_PRECISION, k_coverage: int = K_COVERAGE
) -> Neighbourhoods:
    """The four measures of features [m, D] against [n, D], image by image, in float64.

    Raises NotComparableError: NaN, different D, equal features, or no more than k images in a set.
    """
    generated, real = _pair(generated, real)
    k = max(k_precision, k_coverage)
    if min(len(generated), len(real)) <= k:
        raise NotComparableError(
            f"not comparable: needs more than {k} images in each set, there are {len(generated)} and {len(real)}"
        )
    for side in (generated, real):
        _refuse_constant(side)
    radius_g = _radii(generated, (k_precision,))
    radius_r = _radii(real, (k_precision, k_coverage))
    inside_g = torch.zeros(len(generated), dtype=torch.bool)
    within = torch.zeros(len(generated), dtype=torch.float64)
    recalled, covered = [], []
    for first in range(0, len(real), _ROWS):
        distance = torch.cdist(real[first : first + _ROWS], generated)
        near, far = radius_r[0][first : first + _ROWS, None], radius_r[1][first : first + _ROWS, None]
        inside_g |= (distance <= near).any(dim=0)
        within += (distance <= far).double().sum(dim=0)
        recalled.append((distance <= radius_g[0]).any(dim=1))
        covered.append(distance.amin(dim=1) <= far[:, 0])
    return Neighbourhoods(
        inside_g.double(), torch.cat(recalled).double(), within / k_coverage, torch.cat(covered).double()
    )


def _radii(x: Tensor, ks: tuple[int, ...]) -> list[Tensor]:
    """For each k the distance of every image to its k-th neighbour, itself not counted: [N] each."""
    found: list[list[Tensor]] = [[] for _ in ks]
    for first in range(0, len(x), _ROWS):
        distance = torch.cdist(x[first : first + _ROWS], x)
        nearest = distance.topk(max(ks) + 1, dim=1, largest=False).values  # the first is the image itself
        for place, k in zip(found, ks, strict=True):
            place.append(nearest[:, k])
    return [torch.cat(parts) for parts in found]
