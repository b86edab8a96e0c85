"""Convolutions of small maps of many channels, made cheaper to train on a CPU, and the transpose of a convolution.

Two things that PyTorch 2.13 does there cost more than they need (docs/results/speed.md):

- The gradient by the weights of a convolution whose maps have few positions reaches a third of what one matrix product of the
  same size does, because oneDNN's kernels run along rows, and rows are short. :func:`weight_gradient` is that product.
- The gradient by the weights of a *gradient* is computed as a convolution with the image as its kernel, at half of the speed of
  the usual one. :meth:`Convolution.transpose` is a function of its own, so that it gets the usual one.

Elsewhere, under autocast and in compiled code all is PyTorch's own.

Legend: N batch, C channels in, O channels out, H height, W width, K kernel's side.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

aten: Any = torch.ops.aten
POSITIONS = 49
"""Outputs of at most this many positions a map take the matrix product: twice as fast at 4 x 4, 1.0 to 1.4 times at 7 x 7,
slower from 8 x 8 on."""

FEW_PATCHES = 4
"""Channels out for each position of the whole batch, from which on patches are gathered in the order of the weight."""


def _parts(g: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, wanted: list[bool]) -> Any:
    """Gradients by [input, weight, bias] for the gradient ``g`` of the output, PyTorch's own."""
    return aten.convolution_backward(
        g, x, weight, [len(weight)], [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, wanted
    )


def weight_gradient(x: Tensor, g: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """[O, C, K, K]: of ``F.conv2d(x, weight, None, stride, padding)`` [N, O, H', W'] for its gradient ``g``; not differentiable."""
    n, o, h, w = g.shape
    if h * w > POSITIONS:
        return _parts(g, x, weight, stride, padding, [False, True, False])[1]  # type: ignore[no-any-return]
    c, k = weight.shape[1:3]
    by_channel = g.transpose(0, 1).reshape(o, -1)  # [O, N · H' · W']
    # patches in the weight's order are slow to gather, but a large product slow to reorder
    if o >= FEW_PATCHES * n * h * w:
        patches = F.unfold(x, k, padding=padding, stride=stride).transpose(0, 1).reshape(c * k * k, -1)
        return (by_channel @ patches.T).view(o, c, k, k)
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, *(padding,) * 4)).contiguous()  # [N, H, W, C]
    by_n, by_h, by_w, _ = padded.stride()
    # each output's patch: K rows of K · C numbers that lie side by side
    patches = padded.as_strided((n, h, w, k, k * c), (by_n, stride * by_h, stride * by_w, by_h, 1))
    product = by_channel @ patches.reshape(n * h * w, k * k * c)
    return product.view(o, k, k, c).permute(0, 3, 1, 2).contiguous()


class _Convolution(torch.autograd.Function):
    """``F.conv2d`` with :func:`weight_gradient`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        if torch.is_grad_enabled():  # this gradient is differentiated in its turn
            return (*_parts(g, x, weight, ctx.stride, ctx.padding, wanted), None, None)
        dx = _parts(g, x, weight, ctx.stride, ctx.padding, [True, False, False])[0] if wanted[0] else None
        dw = weight_gradient(x, g, weight, ctx.stride, ctx.padding) if wanted[1] else None
        return dx, dw, g.sum((0, 2, 3)) if wanted[2] else None, None, None


class _Transposed(torch.autograd.Function):
    """The gradient by its input of ``F.conv2d``, as a function of the gradient of its output and of its weight."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, weight: Tensor, like: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(g, weight)
        ctx.stride, ctx.padding = stride, padding
        return _parts(g, like, weight, stride, padding, [True, False, False])[0]  # type: ignore[no-any-return]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gg: Tensor) -> tuple[Tensor | None, ...]:
        g, weight = ctx.saved_tensors
        dg = F.conv2d(gg, weight, None, ctx.stride, ctx.padding) if ctx.needs_input_grad[0] else None
        dw = weight_gradient(gg, g, weight, ctx.stride, ctx.padding) if ctx.needs_input_grad[1] else None
        return dg, dw, None, None, None


class Convolution(nn.Conv2d):
    """``nn.Conv2d`` with a square kernel and zero padding: [N, C, H, W] -> [N, O, H', W']."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding)
        self.step, self.margin = stride, padding

    def _own(self, x: Tensor) -> bool:
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return False
        return not torch.is_autocast_enabled("cpu")

    def forward(self, x: Tensor) -> Tensor:
        h, w = (
            (side + 2 * self.margin - k) // self.step + 1 for side, k in zip(x.shape[2:], self.kernel_size, strict=True)
        )
        if h * w <= POSITIONS and self.weight.requires_grad and self._own(x):
            made: Tensor = _Convolution.apply(x, self.weight, self.bias, self.step, self.margin)  # type: ignore[no-untyped-call]
            return made
        return super().forward(x)

    def transpose(self, g: Tensor, like: Tensor) -> Tensor:
        """The transpose of this linear map, without bias: the gradient by an input of the size of ``like`` [N, C, H, W] for the
        gradient ``g`` [N, O, H', W'] of the output. Differentiable by ``g`` and by the weight, once."""
        if self._own(g):
            made: Tensor = _Transposed.apply(g, self.weight, like, self.step, self.margin)  # type: ignore[no-untyped-call]
            return made
        rest = [(side + 2 * self.margin - self.weight.shape[2]) % self.step for side in like.shape[2:]]
        return F.conv_transpose2d(g, self.weight, None, self.step, self.margin, rest)
