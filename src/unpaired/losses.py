"""Losses as pure functions of tensors.

Every function takes and gives tensors only, computes in float32 whatever it is given, and returns a scalar
that is the mean over all elements (for logits: over samples and patches). Discriminators that judge at
several scales give one tensor of logits a scale; the adversarial losses take that list and add up the scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Adversarial = Literal["nonsaturating", "minimax", "lsgan"]
"""``nonsaturating`` and ``minimax`` share the discriminator's cross-entropy (Goodfellow 2014, Eq. 1) and
differ in the generator: -log D(fake), or log(1 - D(fake)) as the formula reads. ``lsgan`` is the squared
error to 1 and 0 (Mao 2017)."""


def mean_l1(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference: the negative log-likelihood of ``x`` under a Laplacian around ``y``, up to
    a constant."""
    return (x.float() - y.float()).abs().mean()


def mean_square(x: Tensor) -> Tensor:
    """Mean of ``x`` squared."""
    return x.float().square().mean()


def kl_unit_variance(mu: Tensor) -> Tensor:
    """KL(N(mu, I) || N(0, I)) = mu^2 / 2, per element of the code (the formula's sum, divided by the
    number of elements)."""
    return 0.5 * mean_square(mu)


def _total(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()


def judged_real(logits: Sequence[Tensor], kind: Adversarial) -> Tensor:
    """What a discriminator pays for its ``logits`` on real images, one tensor a scale; the scales are
    added up."""
    if kind == "lsgan":
        return _total([(x.float() - 1).square().mean() for x in logits])
    return _total([F.softplus(-x.float()).mean() for x in logits])  # -log sigmoid(x)


def judged_fake(logits: Sequence[Tensor], kind: Adversarial) -> Tensor:
    """What a discriminator pays for its ``logits`` on generated images, one tensor a scale; the scales are
    added up."""
    if kind == "lsgan":
        return _total([mean_square(x) for x in logits])
    return _total([F.softplus(x.float()).mean() for x in logits])  # -log(1 - sigmoid(x))


def fooling(logits: Sequence[Tensor], kind: Adversarial) -> Tensor:
    """What a generator pays for the discriminator's ``logits`` on its images, one tensor a scale; the
    scales are added up."""
    if kind == "minimax":
        return -judged_fake(logits, kind)
    return judged_real(logits, kind)


def sign_accuracy(real: Sequence[Tensor], fake: Sequence[Tensor], kind: Adversarial) -> Tensor:
    """Share of the patches that a discriminator judges rightly, in [0, 1]; detached. 0.5 is chance, 1 has
    won outright."""
    middle = 0.5 if kind == "lsgan" else 0.0
    right = [(x.detach() > middle).float().mean() for x in real]
    right += [(x.detach() < middle).float().mean() for x in fake]
    return torch.stack(right).mean()


def hinge_real(logits: Tensor) -> Tensor:
    """What a discriminator pays for its ``logits`` on real images: the hinge at 1 (Lim and Ye 2017)."""
    return F.relu(1 - logits.float()).mean()


def hinge_fake(logits: Tensor) -> Tensor:
    """What a discriminator pays for its ``logits`` on generated images: the hinge at -1."""
    return F.relu(1 + logits.float()).mean()


def hinge_fooling(logits: Tensor) -> Tensor:
    """What a generator pays for the discriminator's ``logits`` on its images; no hinge, so that it always has a slope."""
    return -logits.float().mean()
