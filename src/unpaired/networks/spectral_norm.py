"""Layers with spectral norm (Miyato et al. 2018), as BigGAN has it: names of tensors and numbers are those of the official PyTorch code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
