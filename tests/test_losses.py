"""Losses against arithmetic done by hand."""

from __future__ import annotations

import math

import pytest
import torch

from unpaired import losses


def test_mean_l1() -> None:
    """The reconstruction error is the mean absolute difference, in float32 even for bfloat16 inputs."""
    x, y = torch.tensor([1.0, -1.0, 0.5, 0.0]), torch.tensor([0.0, 1.0, 0.5, 1.0])
    assert losses.mean_l1(x, y).item() == 1.0
    assert losses.mean_l1(x.bfloat16(), y.bfloat16()).dtype == torch.float32


def test_kl_equals_the_library() -> None:
    """mu^2 / 2 is KL(N(mu, 1) || N(0, 1)) as torch.distributions computes it."""
    mu = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mu, 1.0), normal(0.0, 1.0)).mean()
    assert torch.allclose(losses.kl_unit_variance(mu), expected)
    assert losses.kl_unit_variance(torch.full((1, 1, 2, 2), 3.0)).item() == 4.5


def test_cross_entropy() -> None:
    """A logit x costs -log sigmoid(x) as real and -log(1 - sigmoid(x)) as fake; scales are added, patches averaged."""
    scales = [torch.tensor([0.0, 2.0]), torch.tensor([-1.0])]
    sigmoid = [[0.5, 1 / (1 + math.exp(-2))], [1 / (1 + math.exp(1))]]
    real = sum(sum(-math.log(p) for p in s) / len(s) for s in sigmoid)
    fake = sum(sum(-math.log(1 - p) for p in s) / len(s) for s in sigmoid)
    assert losses.judged_real(scales, "nonsaturating").item() == pytest.approx(real)
    assert losses.judged_fake(scales, "nonsaturating").item() == pytest.approx(fake)
    assert losses.fooling(scales, "nonsaturating").item() == pytest.approx(real)
    assert losses.fooling(scales, "minimax").item() == pytest.approx(-fake)  # minimises log(1 - D(fake))


def test_least_squares() -> None:
    """LSGAN pays the squared distance to 1 for real and to 0 for fake, without a factor 1/2."""
    scales = [torch.tensor([0.0, 3.0]), torch.tensor([1.0])]
    assert losses.judged_real(scales, "lsgan").item() == 2.5
    assert losses.judged_fake(scales, "lsgan").item() == 5.5
    assert losses.fooling(scales, "lsgan").item() == 2.5


def test_extreme_logits_stay_finite() -> None:
    """A discriminator that is sure beyond float32's sigmoid still gives finite losses and gradients."""
    for kind in ("nonsaturating", "minimax", "lsgan"):
        x = torch.tensor([-200.0, 200.0], requires_grad=True)
        total = losses.judged_real([x], kind) + losses.judged_fake([x], kind) + losses.fooling([x], kind)
        total.backward()
        assert total.isfinite() and x.grad is not None and x.grad.isfinite().all()


def test_sign_accuracy() -> None:
    """Three right of four is 0.75; the border is 0 for logits and 0.5 for least squares."""
    real, fake = [torch.tensor([1.0, -1.0])], [torch.tensor([-1.0, -2.0])]
    assert losses.sign_accuracy(real, fake, "nonsaturating").item() == 0.75
    assert losses.sign_accuracy([torch.tensor([0.4])], [torch.tensor([0.4])], "lsgan").item() == 0.5
    assert losses.sign_accuracy([torch.tensor([0.4])], [torch.tensor([0.4])], "minimax").item() == 0.5
    assert losses.sign_accuracy([torch.tensor([0.6])], [torch.tensor([0.4])], "lsgan").item() == 1.0


def test_gradient_penalty_of_a_linear_critic() -> None:
    """(||w|| - 1)^2 whatever the images; its gradient reaches the critic's weights and not the images."""
    w = torch.randn(3 * 8 * 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    real, fake = torch.rand(4, 3, 8, 8, requires_grad=True), torch.rand(4, 3, 8, 8)
    found = losses.gradient_penalty(lambda x: [(x.flatten(1) @ w)[:, None, None, None]], real, fake)
    assert float(found) == pytest.approx(float((w.norm() - 1) ** 2), rel=1e-4)
    found.backward()
    assert w.grad is not None and float(w.grad.abs().sum()) > 0 and real.grad is None
