"""Instance norm for training on a CPU, in either memory format.

Why not ``F.instance_norm`` there: with a batch of one image and a gradient in the channels_last format, PyTorch (2.13, CPU) gives wrong
gradients (they belong to other pixels; tests/test_instance_norm.py shows it), and its forward pass takes two to four times as long. Here
the forward is PyTorch's group norm with a group a channel where memory is contiguous, and sums over channels_last memory, which group
norm loses digits on; the backward is PyTorch's batch norm's, sample by sample. Gradients of gradients go through plain operations.

Legend: N batch, C channels, H height, W width; m and r [N, C] are the means and 1 / sqrt(variance + eps) of each map.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

aten: Any = torch.ops.aten


def is_channels_last(x: Tensor) -> bool:
    """Whether [N, C, H, W] lies in memory as [N, H, W, C] and not as it is written."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """m and r of channels_last memory. The mean is summed blockwise; the variance is around a plain sum's mean, some digits off,
    which changes it by the square of that alone."""
    each = [aten.batch_norm_update_stats(x[i : i + 1], None, None, 0.0)[1] for i in range(len(x))]
    variance = each[0][None] if len(x) == 1 else torch.stack(each)
    return x.mean((2, 3)), variance.add_(eps).rsqrt_()


class _InstanceNorm(torch.autograd.Function):
    """(x - m) r, computed in float32 (float64 for float64)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        values = x if x.dtype == torch.float64 else x.float()
        n, c, h, w = values.shape
        if is_channels_last(values):
            m, r = _statistics(values, eps)
            y = torch.addcmul((m * r).neg_()[:, :, None, None], values, r[:, :, None, None])
        else:
            values = values.contiguous()
            y, m, r = aten.native_group_norm(values, None, None, n, c, h * w, c, eps)
        ctx.save_for_backward(x, m, r)
        ctx.eps = eps
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, m, r = ctx.saved_tensors
        kind = torch.float64 if x.dtype == torch.float64 else torch.float32
        values, g = x.to(kind), gradient.to(kind)
        if torch.is_grad_enabled():  # this gradient is differentiated in its turn (gradient penalties)
            return _differentiable(values, g, ctx.eps).to(x.dtype), None
        n, c, h, w = values.shape
        wanted = (True, ctx.eps, [True, False, False])
        if is_channels_last(values):
            g = g.contiguous(memory_format=torch.channels_last)
            parts = [
                aten.native_batch_norm_backward(g[i : i + 1], values[i : i + 1], None, None, None, m[i], r[i], *wanted)[
                    0
                ]
                for i in range(n)
            ]
            return (parts[0] if n == 1 else torch.cat(parts)).to(x.dtype), None
        g, values = (t.contiguous().view(1, n * c, h, w) for t in (g, values))
        d = aten.native_batch_norm_backward(g, values, None, None, None, m.reshape(-1), r.reshape(-1), *wanted)[0]
        return d.view(n, c, h, w).to(x.dtype), None


def _differentiable(x: Tensor, g: Tensor, eps: float) -> Tensor:
    """The gradient by x for a gradient g of the output: r (g - mean g - y mean (g y)), y being the output."""
    variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
    r = (variance + eps).rsqrt()
    y = (x - mean) * r
    return r * (g - g.mean((2, 3), keepdim=True) - y * (g * y).mean((2, 3), keepdim=True))


def instance_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """(x - m) r: ``F.instance_norm`` up to rounding; on a CPU as the module says, elsewhere and in compiled or traced code PyTorch's own.

    [N, C, H, W] -> the same. Raises ValueError where H x W is a single element.
    """
    traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]  # for the OpenVINO engine
    own = x.device.type == "cpu" and not torch.compiler.is_compiling() and not traced
    if not own or x.ndim != 4 or x.shape[2] * x.shape[3] < 2:
        return F.instance_norm(x, eps=eps)
    out: Tensor = _InstanceNorm.apply(x, eps)  # type: ignore[no-untyped-call]
    return out


class InstanceNorm(nn.InstanceNorm2d):
    """``nn.InstanceNorm2d`` without parameters or running statistics, through :func:`instance_norm`."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)

    def forward(self, x: Tensor) -> Tensor:
        return instance_norm(x, self.eps)
