"""How near two results are, for the tests that compare with official code."""

from __future__ import annotations

from torch import Tensor

TOLERANCE = 1e-4


def error(found: Tensor, reference: Tensor) -> float:
    """Largest difference, as a share of the reference's largest value."""
    assert found.shape == reference.shape
    return float((found - reference).abs().max() / reference.abs().max())
