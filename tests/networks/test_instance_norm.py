"""Instance norm in both memory formats, against PyTorch's in float64 and contiguous memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unpaired.networks.kernels import InstanceNorm, is_channels_last

FORMATS = (torch.contiguous_format, torch.channels_last)


def exact(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Output and gradient in float64, contiguous."""
    x = x.detach().double().contiguous().requires_grad_()
    y = F.instance_norm(x)
    return y, torch.autograd.grad(y, x, g.double().contiguous())[0]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("layout_of_gradient", FORMATS)
def test_equals_the_exact_norm_in_each_format(
    batch: int, layout: torch.memory_format, layout_of_gradient: torch.memory_format
) -> None:
    """Output and gradient are right to 1e-5 for any batch and any format, also where the maps' mean is ten times their spread;
    the format stays."""
    torch.manual_seed(0)
    x = (torch.randn(batch, 6, 40, 24) + 10).contiguous(memory_format=layout).requires_grad_()
    g = torch.randn(batch, 6, 40, 24).contiguous(memory_format=layout_of_gradient)
    y = InstanceNorm(6)(x)
    (d,) = torch.autograd.grad(y, x, g)
    wanted, slope = exact(x, g)
    torch.testing.assert_close(y.double(), wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(d.double(), slope, rtol=0, atol=1e-5)
    assert is_channels_last(y) == is_channels_last(d) == (layout is torch.channels_last)


def test_first_and_second_gradients_are_those_of_the_output() -> None:
    """Numerical differentiation agrees with the gradient and with the gradient of the gradient, in both formats."""
    torch.manual_seed(0)
    norm = InstanceNorm(2)
    for layout in FORMATS:
        x = torch.randn(2, 2, 3, 3, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
        assert torch.autograd.gradcheck(norm, (x,))
        assert torch.autograd.gradgradcheck(norm, (x,))


def test_bf16_is_computed_in_float32() -> None:
    """In bf16, output and gradient are the exact ones rounded, and nothing worse, in both formats."""
    torch.manual_seed(0)
    for layout in FORMATS:
        x = torch.randn(1, 4, 16, 16).bfloat16().contiguous(memory_format=layout).requires_grad_()
        g = torch.randn(1, 4, 16, 16).bfloat16()
        y = InstanceNorm(4)(x)
        (d,) = torch.autograd.grad(y, x, g)
        wanted, slope = exact(x, g)
        torch.testing.assert_close(y, wanted.bfloat16(), rtol=2**-8, atol=1e-5)
        torch.testing.assert_close(d, slope.bfloat16(), rtol=2**-8, atol=1e-5)


def test_a_single_position_is_refused() -> None:
    """As PyTorch does: one value has no spread."""
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        InstanceNorm(3)(torch.zeros(1, 3, 1, 1))
