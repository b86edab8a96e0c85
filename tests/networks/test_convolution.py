"""Convolutions of small maps against PyTorch's own: values, gradients, gradients of gradients, the transpose."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unpaired.networks import kernels
from unpaired.networks.kernels import FEW_PATCHES, POSITIONS, Convolution, weight_gradient

SHAPES = [(3, 1, 1, 4, 4), (3, 2, 1, 7, 5), (3, 2, 1, 1, 2), (4, 2, 1, 9, 8), (3, 1, 1, 12, 3), (1, 1, 0, 5, 5)]
"""Kernel, stride, padding, height, width."""


def pair(kernel: int, stride: int, padding: int) -> tuple[Convolution, nn.Conv2d]:
    """Ours and PyTorch's with the same weights, in float64."""
    torch.manual_seed(0)
    ours, plain = Convolution(3, 4, kernel, stride, padding).double(), nn.Conv2d(3, 4, kernel, stride, padding).double()
    plain.load_state_dict(ours.state_dict())
    return ours, plain


@pytest.mark.parametrize(("kernel", "stride", "padding", "h", "w"), SHAPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_pytorchs(
    kernel: int, stride: int, padding: int, h: int, w: int, layout: torch.memory_format
) -> None:
    """Output, and its gradients by input, weight and bias, in float64 to 1e-12, in both memory formats; the weight's gradient lies
    in memory as the weight does."""
    results = []
    for layer in pair(kernel, stride, padding):
        x = torch.randn(2, 3, h, w, generator=torch.Generator().manual_seed(1)).double()
        x = x.contiguous(memory_format=layout).requires_grad_()
        y = layer(x)
        y.backward(torch.cos(torch.arange(y.numel(), dtype=torch.float64)).view_as(y))
        results.append((y.detach(), x.grad, layer.weight.grad, layer.bias.grad))
        assert layer.weight.grad.is_contiguous()  # type: ignore[union-attr]
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("h", "w", "product"), [(7, 7, True), (8, 7, False)])
def test_small_maps_alone_take_the_product(h: int, w: int, product: bool) -> None:
    """Up to POSITIONS outputs the weight's gradient is a matrix product, above it PyTorch's; within rounding they are the same."""
    assert (h * w <= POSITIONS) == product
    x, g, weight = torch.randn(2, 3, h, w), torch.randn(2, 4, h, w), torch.randn(4, 3, 3, 3)
    wanted = torch.ops.aten.convolution_backward(
        g, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [False, True, False]
    )[1]
    real, asked = kernels._parts, []

    def noted(*args: object) -> object:
        asked.append(args)
        return real(*args)  # type: ignore[arg-type]

    with patch.object(kernels, "_parts", noted):
        found = weight_gradient(x, g, weight, 1, 1)
    assert (not asked) == product
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("outputs", [4, FEW_PATCHES * 24 - 1, FEW_PATCHES * 24])
@pytest.mark.parametrize(("kernel", "stride", "padding", "h", "w"), [(3, 1, 1, 4, 3), (4, 2, 1, 8, 6), (1, 1, 0, 4, 3)])
def test_both_orders_of_patches_give_the_gradient(
    outputs: int, kernel: int, stride: int, padding: int, h: int, w: int
) -> None:
    """Few channels out or many for the 24 positions of a batch: the gradient is PyTorch's in float64 to 1e-12."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, h, w).double(), torch.randn(outputs, 3, kernel, kernel).double()
    g = torch.randn_like(F.conv2d(x, weight, None, stride, padding))
    assert g[:, 0].numel() == 24
    wanted = kernels._parts(g, x, weight, stride, padding, [False, True, False])[1]
    found = weight_gradient(x, g, weight, stride, padding)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert found.is_contiguous()


def test_a_gradient_can_be_differentiated() -> None:
    """Numerical differentiation agrees with the gradient and with the gradient of the gradient."""
    layer, _ = pair(3, 2, 1)
    x = torch.randn(2, 3, 4, 3, dtype=torch.float64, requires_grad=True)

    def values(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))  # type: ignore[no-any-return]

    inputs = (x, layer.weight.detach().requires_grad_(), layer.bias.detach().requires_grad_())  # type: ignore[union-attr]
    assert torch.autograd.gradcheck(values, inputs)
    assert torch.autograd.gradgradcheck(values, inputs)


@pytest.mark.parametrize(("kernel", "stride", "padding", "h", "w"), [*SHAPES, (3, 2, 1, 20, 17)])
def test_the_transpose_is_the_gradient_by_the_input(kernel: int, stride: int, padding: int, h: int, w: int) -> None:
    """``transpose`` of g is the gradient of the output for g; its own gradients by g and by the weight are those that PyTorch's
    automatic differentiation finds, and those of the other path, which GPUs and compiled code take."""
    ours, plain = pair(kernel, stride, padding)
    x = torch.randn(2, 3, h, w, dtype=torch.float64, requires_grad=True)
    y = plain(x)
    g = torch.randn_like(y, requires_grad=True)
    (wanted,) = torch.autograd.grad(y, x, g, create_graph=True)
    weights = torch.randn_like(wanted)
    wanted_slopes = torch.autograd.grad(wanted, (g, plain.weight), weights)
    with patch.object(Convolution, "_own", lambda *_: False):
        other = ours.transpose(g, x.detach())
    for found in (ours.transpose(g, x.detach()), other):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        for ours_slope, slope in zip(torch.autograd.grad(found, (g, ours.weight), weights), wanted_slopes, strict=True):
            torch.testing.assert_close(ours_slope, slope, rtol=1e-12, atol=1e-12)


def test_autocast_and_frozen_layers_are_pytorchs() -> None:
    """Under autocast the output is bf16 as PyTorch's, and its gradients are; a frozen layer records PyTorch's own node."""
    ours, plain = (layer.float() for layer in pair(3, 1, 1))
    x = torch.randn(2, 3, 4, 4)
    found = []
    for layer in (ours, plain):
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        assert y.dtype == torch.bfloat16
        y.float().square().sum().backward()
        found.append((y.detach(), layer.weight.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])  # type: ignore[arg-type]
    ours.requires_grad_(False)
    assert type(ours(x.requires_grad_()).grad_fn).__name__ == "ConvolutionBackward0"
