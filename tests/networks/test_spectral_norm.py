"""Spectral norm: the power iteration, its gradient in both memory formats, weights held while a model is used."""

from __future__ import annotations

import cases
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unpaired.networks.kernels import SN_EPS, Held, SNConv2d, SNLinear
from unpaired.translate.translator import Translator


def test_power_iteration() -> None:
    """In train mode each pass does one power iteration and stores it; many make the largest singular value 1. In eval mode
    nothing is stored."""
    torch.manual_seed(0)
    layer = SNLinear(6, 9).eval()
    before = layer.u0.clone()
    layer(torch.randn(2, 6))
    assert torch.equal(layer.u0, before)
    layer.train()
    v = torch.nn.functional.normalize(before @ layer.weight, eps=1e-6)
    u = torch.nn.functional.normalize(v @ layer.weight.T, eps=1e-6)
    layer(torch.randn(2, 6))
    assert torch.allclose(layer.u0, u) and torch.allclose(layer.sv0, (v @ layer.weight.T @ u.T).view(1))
    for _ in range(200):
        layer(torch.randn(2, 6))
    assert torch.linalg.matrix_norm(layer.normalised(), 2).item() == pytest.approx(1, abs=1e-4)


def test_spectral_norm_has_its_part_in_the_gradient() -> None:
    """W / σ does not change with the length of W, so the gradient has no part along W."""
    torch.manual_seed(0)
    layer = SNConv2d(3, 4, 3)
    for _ in range(100):
        layer.normalised()
    layer(torch.randn(2, 3, 5, 5)).square().sum().backward()
    assert layer.weight.grad is not None
    along = (layer.weight.grad * layer.weight).sum() / layer.weight.grad.norm() / layer.weight.norm()
    assert abs(along.item()) < 1e-4


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_is_that_of_the_formula(layout: torch.memory_format) -> None:
    """Output and gradient are those of W / (u W vᵀ) differentiated by PyTorch, in float64 to 1e-12, and the gradient lies in memory as the
    weight does."""
    torch.manual_seed(0)
    layer = SNConv2d(6, 5, 3).double().to(memory_format=layout)  # type: ignore[call-overload]
    weight = layer.weight.detach().clone().requires_grad_()
    x = torch.randn(2, 6, 4, 4, dtype=torch.float64)
    before = layer.u0.clone()
    layer(x).pow(3).sum().backward()
    w = (weight.permute(0, 2, 3, 1) if layout == torch.channels_last else weight).flatten(1)
    with torch.no_grad():
        v = F.normalize(before @ w, eps=SN_EPS)
        u = F.normalize(v @ w.T, eps=SN_EPS)
    F.conv2d(x, weight / (u @ w @ v.T).view(()), layer.bias, padding=1).pow(3).sum().backward()
    assert layer.weight.grad is not None and weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, weight.grad, rtol=1e-12, atol=1e-12)
    assert layer.weight.grad.stride() == layer.weight.stride()


def test_held_weights_follow_what_changes() -> None:
    """Inside Held a layer gives what it gives outside, without dividing again; after a change in place, of the weight or of the vector,
    or with another weight, it gives the new one; outside nothing is held."""
    torch.manual_seed(0)
    network = nn.Sequential(SNLinear(6, 9), SNConv2d(3, 4, 3)).eval()
    layer, held = network[0], Held(network)
    x = torch.randn(2, 6)

    def both() -> None:
        plain = layer(x)
        with held():
            first = layer.held
            assert torch.equal(layer(x), plain)
        with held():
            assert layer.held is first
        assert layer.held is None

    with torch.inference_mode():
        both()
        layer.weight.mul_(torch.linspace(1, 2, 6))
        both()
        layer.u0.copy_(torch.randn(1, 9))
        both()
    for _ in range(5):  # the new weight may lie where the old one lay
        del layer.weight
        layer.weight = nn.Parameter(torch.empty(9, 6))
        nn.init.normal_(layer.weight.data)
        both()


@pytest.mark.parametrize("key", ["biggan", "deepi2i"])
def test_a_model_that_is_changed_translates_with_its_new_weights(key: str) -> None:
    """A translator holds no weights of before: after a step on its method the images are those of a new translator."""
    torch.manual_seed(0)
    method = cases.method(key)
    model = Translator(method, {})
    source, target = model.directions[0]
    images = torch.zeros(1, 3, 32, 32)
    before = model.translate(images, source, target, seed=0)
    assert torch.equal(before, model.translate(images, source, target, seed=0))
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    after = model.translate(images, source, target, seed=0)
    assert not torch.equal(after, before)
    assert torch.equal(after, Translator(method, {}).translate(images, source, target, seed=0))
