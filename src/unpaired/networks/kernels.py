"""What PyTorch has, faster on a CPU: instance norm, the slopes of a critic, weights held divided. Each equals its plain
form, which tests/networks/test_kernels.py holds, and each brings a tenth of a step or more in docs/results/speed.md;
what does not goes.

Legend: N batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def is_channels_last(x: Tensor) -> bool:
    """Whether [N, C, H, W] lies in memory as [N, H, W, C] and not as it is written."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def instance_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(variance + eps) of each map: ``F.instance_norm`` up to rounding. [N, C, H, W] -> the same.

    On a CPU, PyTorch 2.13 leaves the channels_last format for it, and its gradient for a batch of one image is wrong
    where that arrives in this format. Batch norm of each image alone is the same function without either fault. Raises
    ValueError where H x W is one element.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling() or x.ndim != 4:
        return F.instance_norm(x, eps=eps)
    # with a scale in float32, mean and variance of bf16 are, too
    scale = x.new_ones(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    shift = torch.zeros_like(scale)
    if len(x) > 1 and not is_channels_last(x):
        return F.instance_norm(x, weight=scale, bias=shift, eps=eps)
    each = [F.batch_norm(one, None, None, scale, shift, training=True, eps=eps) for one in torch.split(x, 1)]
    return each[0] if len(x) == 1 else torch.cat(each)


class InstanceNorm(nn.InstanceNorm2d):
    """``nn.InstanceNorm2d`` without parameters or running statistics, through :func:`instance_norm`."""

    def forward(self, x: Tensor) -> Tensor:
        return instance_norm(x, self.eps)


def slopes(convolutions: nn.Sequential, head: Tensor, maps: Tensor, negative_slope: float) -> Tensor:
    """Gradient by ``maps`` [N, C, h, h] of the sum of D(maps), D being ``convolutions`` (square ``nn.Conv2d`` and
    LeakyReLU of ``negative_slope``) and a product with ``head`` [1, features]: the same shape, differentiable by the
    weights, and by ``maps`` not at all.

    Such a network is linear around each map: its gradient is the product of the transposed layers, in which ``maps``
    say no more than which slope each LeakyReLU has. Automatic differentiation gives the same, but passes zeros back
    through the whole network when it differentiates the gradient.
    """
    passed, x = [], maps
    with torch.no_grad():
        for layer in convolutions:
            passed.append((layer, x))
            x = layer(x)
    gradient = head.expand(len(maps), -1).view_as(x)
    for layer, x in reversed(passed):
        if isinstance(layer, nn.Conv2d):
            kernel, stride, padding = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
            rest = [(side + 2 * padding - kernel) % stride for side in x.shape[2:]]
            gradient = F.conv_transpose2d(gradient, layer.weight, None, stride, padding, rest)
        else:
            gradient = torch.ops.aten.leaky_relu_backward(gradient, x, negative_slope, False)
    return gradient


# ----------------------------------------------------------------------------------------------------
# Layers with spectral norm (Miyato et al. 2018), as BigGAN has it: names of tensors and numbers are those of the
# official PyTorch code.

SN_EPS = 1e-6
"""Smallest norm in the power iteration; the official setting."""


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
        """W / σ(W), float32, also under autocast; the shape of the weight."""
        held = self.held  # looked at once: another thread may end its use in between
        if held is not None:
            return held
        with torch.autocast(self.weight.device.type, enabled=False):
            w = self.weight.flatten(1)  # [rows, columns]
            with torch.no_grad():
                v = F.normalize(self.u0 @ w, eps=SN_EPS)  # [1, columns]
                u = F.normalize(v @ w.T, eps=SN_EPS)  # [1, rows]
            sigma = (v @ w.T @ u.T).view(())
            if self.training:
                with torch.no_grad():
                    self.u0.copy_(u)
                    self.sv0.fill_(sigma)
            return self.weight / sigma


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
    """Divided weights of networks that are used and not trained: computed once, and again where a weight has changed,
    but for changes through ``.data``, which PyTorch does not count. They take the memory of the weights a second time.
    A translation of one image takes two thirds of the time."""

    def __init__(self, *networks: nn.Module) -> None:
        self.layers = [m for network in networks for m in network.modules() if isinstance(m, Spectral)]
        self.kept: dict[Spectral, tuple[Tensor, Tensor, tuple[int, int], Tensor]] = {}

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Inside, and there alone, the networks' layers divide nothing. For eval mode; makes no gradients."""
        try:
            for layer in self.layers:
                layer.held = self._divided(layer)
            yield
        finally:
            for layer in self.layers:
                layer.held = None

    @torch.no_grad()
    def _divided(self, layer: Spectral) -> Tensor:
        w, u = layer.weight, layer.u0
        if w.is_inference() or u.is_inference():  # PyTorch counts no changes of such
            return layer.normalised()
        changes = w._version, u._version
        kept = self.kept.get(layer)
        if kept is None or kept[0] is not w or kept[1] is not u or kept[2] != changes:
            kept = self.kept[layer] = w, u, changes, layer.normalised()
        return kept[3]
