"""Scores of pixels against a ground truth: accuracy of colours within a threshold, and overlap of masks."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unpaired.errors import ConfigError

Reading = Literal["sum", "channel"]
"""``sum``: a pixel is wrong when its three channels differ by more than the threshold in total ("the total RGB difference",
Show, Attend and Translate, section 3.2). ``channel``: when any one channel does."""


def pixel_accuracy(
    found: NDArray[np.uint8], truth: NDArray[np.uint8], threshold: float, reading: Reading = "sum"
) -> float:
    """Share of right pixels, in [0, 1], of uint8 [..., 3]. Raises ConfigError when the shapes differ."""
    if found.shape != truth.shape:
        raise ConfigError(f"pictures of {found.shape} and {truth.shape} cannot be compared pixel by pixel")
    difference = np.abs(found.astype(np.int16) - truth.astype(np.int16))
    amount = difference.sum(axis=-1) if reading == "sum" else difference.max(axis=-1)
    return float((amount <= threshold).mean())


def mask_iou(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Intersection over union, in [0, 1]; 1 where both are empty. Raises ConfigError when the shapes differ."""
    if found.shape != truth.shape:
        raise ConfigError(f"masks of {found.shape} and {truth.shape} cannot be compared")
    union = int((found | truth).sum())
    return int((found & truth).sum()) / union if union else 1.0
