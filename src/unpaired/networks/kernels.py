"""Instance norm for training on a CPU, in either memory format.

Why not ``F.instance_norm`` there: with a batch of one image and a gradient in the channels_last format, PyTorch (2.13, CPU) gives wrong
gradients (they belong to other pixels; tests/networks/test_instance_norm.py shows it), and its forward pass takes two to four times as long. Here
the forward is PyTorch's group norm with a group a channel where memory is contiguous, and sums over channels_last memory, which group
norm loses digits on; the backward is PyTorch's batch norm's, sample by sample. Gradients of gradients go through plain operations.

Legend: N batch, C channels, H height, W width; m and r [N, C] are the means and 1 / sqrt(variance + eps) of each map.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


# ----------------------------------------------------------------------------------------------------
# Convolutions of small maps of many channels, made cheaper to train on a CPU, and the transpose of a convolution.
#
# Two things that PyTorch 2.13 does there cost more than they need (docs/results/speed.md):
#
# - The gradient by the weights of a convolution whose maps have few positions reaches a third of what one matrix product of the
#   same size does, because oneDNN's kernels run along rows, and rows are short. :func:`weight_gradient` is that product.
# - The gradient by the weights of a *gradient* is computed as a convolution with the image as its kernel, at half of the speed of
#   the usual one. :meth:`Convolution.transpose` is a function of its own, so that it gets the usual one.
#
# Elsewhere, under autocast and in compiled code all is PyTorch's own.
#
# Legend: N batch, C channels in, O channels out, H height, W width, K kernel's side.

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


# ----------------------------------------------------------------------------------------------------
# Layers with spectral norm (Miyato et al. 2018), as BigGAN has it: names of tensors and numbers are those of the official PyTorch code.

SN_EPS = 1e-6
"""Smallest norm in the power iteration; the official setting."""


class _Divided(torch.autograd.Function):
    """W / σ of W [rows, columns], u [1, rows], v [1, columns] and σ = u W vᵀ [], with u and v held constant. PyTorch's own differentiation goes
    through memory three times more, which for large weights and small batches is a tenth of a step."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, u: Tensor, v: Tensor, sigma: Tensor) -> Tensor:
        ctx.save_for_backward(w, u, v, sigma)
        return w / sigma

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """(G - <G, W / σ> uᵀ v) / σ."""
        w, u, v, sigma = ctx.saved_tensors
        inner = torch.dot(g.reshape(-1), w.reshape(-1)) / sigma
        return torch.addr(g, u[0] * -inner, v[0]).div_(sigma), None, None, None


class Spectral(nn.Module):
    """Adds ``u0`` [1, rows] and ``sv0`` [1] to a layer: its weight is divided by an estimate of its largest
    singular value (Miyato et al. 2018, Algorithm 1: one power iteration a pass, stored in train mode alone)."""

    weight: Tensor
    u0: Tensor
    sv0: Tensor
    held: Tensor | None = None
    """What :meth:`normalised` would give, inside :class:`Held`."""

    def _spectral(self) -> None:
        self.register_buffer("u0", torch.randn(1, len(self.weight)))
        self.register_buffer("sv0", torch.ones(1))

    def normalised(self) -> Tensor:
        """W / σ(W), float32, also under autocast; the shape of the weight, and as it lies in memory."""
        held = self.held  # looked at once: another thread may end its use in between
        if held is not None:
            return held
        with torch.autocast(self.weight.device.type, enabled=False):
            # columns as they lie in memory, since any order will do: channels_last weights would be copied otherwise
            last = self.weight.ndim == 4 and self.weight.is_contiguous(memory_format=torch.channels_last)
            ordered = self.weight.permute(0, 2, 3, 1) if last else self.weight
            w = ordered.flatten(1)  # [rows, columns]
            with torch.no_grad():
                v = F.normalize(self.u0 @ w, eps=SN_EPS)  # [1, columns]
                wv = v @ w.T  # [1, rows]
                u = F.normalize(wv, eps=SN_EPS)
                sigma = (wv @ u.T).view(())
                if self.training:
                    self.u0.copy_(u)
                    self.sv0.fill_(sigma)
            divided: Tensor = _Divided.apply(w, u, v, sigma).view(ordered.shape)  # type: ignore[no-untyped-call]
            return divided.permute(0, 3, 1, 2) if last else divided

    def state(self) -> list[tuple[Tensor, int]] | None:
        """What :meth:`normalised` follows from in eval mode: tensors, and how often each was changed; None where PyTorch does not count that."""
        if self.weight.is_inference() or self.u0.is_inference():
            return None
        return [(t, t._version) for t in (self.weight, self.u0)]


class SNConv2d(nn.Conv2d, Spectral):
    """Convolution of stride 1 with "same" padding and spectral norm."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, *, bias: bool = True) -> None:
        super().__init__(channels_in, channels_out, kernel, padding=kernel // 2, bias=bias)
        self._spectral()

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.normalised(), self.bias, padding=self.padding)


class SNLinear(nn.Linear, Spectral):
    """Linear layer with spectral norm."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self._spectral()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalised(), self.bias)


class SNEmbedding(nn.Embedding, Spectral):
    """Embedding with spectral norm of the whole table."""

    def __init__(self, count: int, size: int) -> None:
        super().__init__(count, size)
        self._spectral()

    def forward(self, index: Tensor) -> Tensor:
        return F.embedding(index, self.normalised())


class Held:
    """Normalised weights of networks that are used and not trained: computed once, and again where a weight has changed, but for changes
    through ``.data``, which PyTorch does not count. They take the memory of the weights a second time."""

    def __init__(self, *networks: nn.Module) -> None:
        self.layers = [m for network in networks for m in network.modules() if isinstance(m, Spectral)]
        self.kept: list[tuple[list[tuple[Tensor, int]] | None, Tensor] | None] = [None] * len(self.layers)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Inside, and there alone, the network's layers divide nothing. For eval mode; makes no gradients."""
        try:
            for i, layer in enumerate(self.layers):
                state = layer.state()
                last = self.kept[i]
                if last is None or not _same(last[0], state):
                    with torch.no_grad():
                        last = self.kept[i] = state, layer.normalised()
                layer.held = last[1]
            yield
        finally:
            for layer in self.layers:
                layer.held = None


def _same(a: list[tuple[Tensor, int]] | None, b: list[tuple[Tensor, int]] | None) -> bool:
    if a is None or b is None:
        return False
    return all(x is y and m == n for (x, m), (y, n) in zip(a, b, strict=True))
