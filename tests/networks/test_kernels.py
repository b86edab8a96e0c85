"""What is faster than PyTorch's own on a CPU is the same function: each against its plain form."""

from __future__ import annotations

import cases
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unpaired.networks.kernels import SN_EPS, InstanceNorm, SNLinear, is_channels_last, slopes
from unpaired.translate.translator import Translator

FORMATS = (torch.contiguous_format, torch.channels_last)


def exact(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Instance norm and its gradient by its formula in float64, contiguous."""
    x = x.detach().double().contiguous().requires_grad_()
    variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
    y = (x - mean) / (variance + 1e-5).sqrt()
    return y, torch.autograd.grad(y, x, g.double().contiguous())[0]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("layout_of_gradient", FORMATS)
def test_instance_norm_equals_its_formula_in_each_format(
    batch: int, layout: torch.memory_format, layout_of_gradient: torch.memory_format
) -> None:
    """Output and gradient are right to 1e-5 for any batch and any format, also where the maps' mean is ten times their
    spread; the format stays. In bf16 they are right to two units of the last place."""
    torch.manual_seed(0)
    for kind, close in ((torch.float32, {"rtol": 0, "atol": 1e-5}), (torch.bfloat16, {"rtol": 2**-6, "atol": 3e-3})):
        mean = 10 if kind == torch.float32 else 0
        x = (torch.randn(batch, 6, 40, 24) + mean).to(kind).contiguous(memory_format=layout).requires_grad_()
        g = torch.randn(batch, 6, 40, 24).to(kind).contiguous(memory_format=layout_of_gradient)
        y = InstanceNorm(6)(x)
        (d,) = torch.autograd.grad(y, x, g)
        for found, wanted in zip((y, d), exact(x, g), strict=True):
            torch.testing.assert_close(found.double(), wanted, **close)
        assert is_channels_last(y) == is_channels_last(d) == (layout is torch.channels_last)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("layout", FORMATS)
def test_gradients_of_the_gradient_are_right(batch: int, layout: torch.memory_format) -> None:
    """Numerical differentiation agrees with the gradient of instance norm and with the gradient of that."""
    torch.manual_seed(0)
    x = torch.randn(batch, 2, 3, 3, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    assert torch.autograd.gradcheck(InstanceNorm(2), (x,))
    assert torch.autograd.gradgradcheck(InstanceNorm(2), (x,))


@pytest.mark.parametrize(("h", "w"), [(8, 8), (9, 7), (4, 5)])
def test_slopes_are_the_gradient(h: int, w: int) -> None:
    """``slopes`` is what automatic differentiation finds, and so are its own gradients by every weight, in float64."""
    torch.manual_seed(0)
    stack = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 5, 4, 2, 1), nn.LeakyReLU(0.2))
    stack.append(nn.Conv2d(5, 4, 3, 2, 1)).append(nn.LeakyReLU(0.2)).double()
    x = torch.randn(2, 3, h, w, dtype=torch.float64, requires_grad=True)
    made = stack(x).flatten(1)
    head = torch.randn(1, made.shape[1], dtype=torch.float64, requires_grad=True)
    weights = [head, *(layer.weight for layer in stack if isinstance(layer, nn.Conv2d))]
    (wanted,) = torch.autograd.grad((made @ head.T).sum(), x, create_graph=True)
    found = slopes(stack, head, x, 0.2)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    of_found = torch.autograd.grad(found.square().sum(), weights)
    for ours, plain in zip(of_found, torch.autograd.grad(wanted.square().sum(), weights), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-12)


def test_power_iteration() -> None:
    """In train mode each pass does one power iteration and stores it; many make the largest singular value 1. In eval
    mode nothing is stored."""
    torch.manual_seed(0)
    layer = SNLinear(6, 9).eval()
    before = layer.u0.clone()
    layer(torch.randn(2, 6))
    assert torch.equal(layer.u0, before)
    layer.train()
    v = F.normalize(before @ layer.weight, eps=SN_EPS)
    u = F.normalize(v @ layer.weight.T, eps=SN_EPS)
    layer(torch.randn(2, 6))
    assert torch.allclose(layer.u0, u) and torch.allclose(layer.sv0, (v @ layer.weight.T @ u.T).view(1))
    for _ in range(200):
        layer(torch.randn(2, 6))
    assert torch.linalg.matrix_norm(layer.normalised(), 2).item() == pytest.approx(1, abs=1e-4)


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
