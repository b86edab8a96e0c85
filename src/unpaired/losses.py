"""Losses as pure functions of tensors.

Every function computes in float32 whatever it is given, and returns a scalar that is the mean over all elements (for
logits: over samples and patches). Discriminators that judge at several scales give one tensor of logits a scale; the
adversarial losses take that list and add up the scales.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Adversarial = Literal["nonsaturating", "minimax", "lsgan", "hinge"]
"""``nonsaturating`` and ``minimax`` share the discriminator's cross-entropy (Goodfellow 2014, Eq. 1) and
differ in the generator: -log D(fake), or log(1 - D(fake)) as the formula reads. ``lsgan`` is the squared
error to 1 and 0 (Mao 2017), ``hinge`` the one at 1 and -1 (Lim and Ye 2017)."""


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


def kl_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, I)) of each sample, a sum over its latent [N, Z], averaged over samples."""
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()


def _total(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()


def judged_real(logits: Sequence[Tensor], kind: Adversarial) -> Tensor:
    """What a discriminator pays for its ``logits`` on real images."""
    if kind == "lsgan":
        return _total([(x.float() - 1).square().mean() for x in logits])
    if kind == "hinge":
        return _total([F.relu(1 - x.float()).mean() for x in logits])
    return _total([F.softplus(-x.float()).mean() for x in logits])  # -log sigmoid(x)


def judged_fake(logits: Sequence[Tensor], kind: Adversarial) -> Tensor:
    """What a discriminator pays for its ``logits`` on generated images."""
    if kind == "lsgan":
        return _total([mean_square(x) for x in logits])
    if kind == "hinge":
        return _total([F.relu(1 + x.float()).mean() for x in logits])
    return _total([F.softplus(x.float()).mean() for x in logits])  # -log(1 - sigmoid(x))


def fooling(logits: Sequence[Tensor], kind: Adversarial) -> Tensor:
    """What a generator pays for the discriminator's ``logits`` on its images."""
    if kind == "minimax":
        return -judged_fake(logits, kind)
    if kind == "hinge":  # without a hinge, so that there is always a slope
        return _total([-x.float().mean() for x in logits])
    return judged_real(logits, kind)


def sign_accuracy(real: Sequence[Tensor], fake: Sequence[Tensor], kind: Adversarial) -> Tensor:
    """Share of the patches that a discriminator judges rightly, in [0, 1]; detached. 0.5 is chance, 1 has
    won outright."""
    middle = 0.5 if kind == "lsgan" else 0.0
    right = [(x.detach() > middle).float().mean() for x in real]
    right += [(x.detach() < middle).float().mean() for x in fake]
    return torch.stack(right).mean()


def gradient_penalty(
    critic: Callable[[Tensor], Sequence[Tensor]],
    real: Tensor,
    fake: Tensor,
    slopes: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Mean of (||grad D(x)||_2 - 1)^2 at random points x between real and fake samples (Gulrajani 2017, Eq. 3).

    Each pair is mixed by one uniform number. D is the mean of a sample's logits, and its gradient's norm is taken over
    all of that sample's elements; so the critic must judge each sample alone (no batch norm). In float32, also under
    autocast. ``real`` and ``fake`` [N, ...] are not differentiated; the result is, by the critic's parameters.
    ``slopes`` gives D's gradient [N, ...] where the critic can say it itself, differentiable by its parameters; else D
    is differentiated twice.
    """
    mix = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
    with torch.autocast(real.device.type, enabled=False), torch.enable_grad():
        x = torch.lerp(fake.detach().float(), real.detach().float(), mix)
        if slopes is None:
            judged = _total([logits.flatten(1).mean(dim=1).sum() for logits in critic(x.requires_grad_())])
            (gradient,) = torch.autograd.grad(judged, x, create_graph=True)
        else:
            gradient = slopes(x)
        # the small number keeps the root differentiable where the gradient vanishes
        norm = (gradient.flatten(1).square().sum(dim=1) + 1e-12).sqrt()
        return (norm - 1).square().mean()


def r1_penalty(critic: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Mean of ||grad D(x)||_2^2 at real samples x (Mescheder 2018, Eq. 9, without its γ/2). In float32, also under
    autocast.

    ``critic`` gives one logit a sample; where a sample's logit depends on the others of its batch, the gradient is that
    of their sum. ``real`` [N, ...] is not differentiated; the result is, by the critic's parameters.
    """
    with torch.autocast(real.device.type, enabled=False), torch.enable_grad():
        x = real.detach().float().requires_grad_()
        (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        return gradient.flatten(1).square().sum(dim=1).mean()


def feature_distance(x: Sequence[Tensor], y: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Sum over layers of w times the squared difference of features, summed over channels, averaged over space and
    samples.
    ``x``, ``y``: one [N, C, H, W] a layer."""
    pairs = zip(x, y, weights, strict=True)
    return _total([w * (a.float() - b.float()).square().sum(dim=1).mean() for a, b, w in pairs])


def ssim_map(x: Tensor, y: Tensor, *, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity (Wang 2004, Eq. 13) of images [N, C, H, W] in [-1, 1] at each place where the window fits.

    Gaussian window without padding, made smaller for images smaller than it; constants (0.01 L)^2 and (0.03 L)^2, L =
    2.
    """
    x, y = x + 1, y + 1  # black is 0: the luminance term is made for that
    channels = x.shape[1]
    window = min(window, *x.shape[-2:])
    offset = torch.arange(window, device=x.device, dtype=x.dtype) - (window - 1) / 2
    line = torch.exp(-offset.square() / (2 * sigma**2))
    line = line / line.sum()
    kernel = torch.outer(line, line).expand(channels, 1, window, window)

    def blur(image: Tensor) -> Tensor:
        return F.conv2d(image, kernel, groups=channels)

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = 0.02**2, 0.06**2
    return ((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
