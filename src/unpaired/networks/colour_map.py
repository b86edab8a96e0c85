"""A start for a translator that is already somewhere: the best linear map between the colours of two domains, plus what
is learnt.

Between normal distributions of colours the map of least mean squared change is linear (Monge-Kantorovich; Pitié and
Kokaram, "The linear Monge-Kantorovitch linear colour mapping", CVMP 2007): with means m and covariances Σ,

    A = Σa^-½ (Σa^½ Σb Σa^½)^½ Σa^-½,   t = mb - A ma.

Legend: N batch, H height, W width; images [N, 3, H, W] in [-1, 1].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SMALLEST = 1e-4
"""Least variance of a source's direction of colour, that of 8-bit rounding: black and white pictures have two flat
ones, whose noise must not be stretched to colours."""
FIRST_STD = 1e-3
"""Standard deviation of the last layer's first weights: a start's network says almost nothing."""


def colour_moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [3] and covariance [3, 3] of all pixels, in float64."""
    pixels = images.double().permute(1, 0, 2, 3).flatten(1)  # [3, N H W]
    return pixels.mean(1), torch.cov(pixels)


def _power(matrix: Tensor, exponent: float, smallest: float = 0.0) -> Tensor:
    """Of a symmetric matrix [3, 3], its eigenvalues at least ``smallest``."""
    values, vectors = torch.linalg.eigh(matrix)
    powers: Tensor = torch.diag(values.clamp_min(smallest).pow(exponent))
    return vectors @ powers @ vectors.T  # type: ignore[no-any-return]


def linear_colour_map(source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """A [3, 3] and t [3], float64: A x + t of colours with the mean and covariance ``source`` has those of
    ``target``."""
    (ma, sa), (mb, sb) = source, target
    root, inverse = _power(sa, 0.5, SMALLEST), _power(sa, -0.5, SMALLEST)
    a = inverse @ _power(root @ sb @ root, 0.5) @ inverse
    return a, mb - a @ ma


class _Clamp(torch.autograd.Function):
    """clamp(x, -1, 1) whose gradient also reaches values outside that it would bring back: else what has once left the
    range is lost to training, and stays as black, white or garish blobs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        inward: Tensor = (x.abs() <= 1) | (x * gradient > 0)  # a step goes against the gradient
        return gradient * inward


def clamp(x: Tensor) -> Tensor:
    """``x`` within [-1, 1]; training brings back what is outside."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return x.clamp(-1, 1)  # plain, for other engines
    clamped: Tensor = _Clamp.apply(x)  # type: ignore[no-untyped-call]
    return clamped


class ColourStart(nn.Module):
    """clamp(A x + t + 2 g(x)) for a network g with values in [-1, 1]: images [N, 3, H, W] -> the same, float32.

    A and t are buffers, the identity until :meth:`measure`; the last layer ``head`` of g begins near 0. The factor 2
    lets g reach any colour from any other.
    """

    matrix: Tensor
    offset: Tensor

    def __init__(self, network: nn.Module, head: nn.Conv2d) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("matrix", torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]))
        self.register_buffer("offset", torch.zeros(3))
        nn.init.normal_(head.weight, 0.0, FIRST_STD)
        if head.bias is not None:
            nn.init.zeros_(head.bias)

    def measure(self, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> None:
        """Take A and t from the :func:`colour_moments` of two domains."""
        matrix, offset = linear_colour_map(source, target)
        self.matrix.copy_(matrix)
        self.offset.copy_(offset)

    def start(self, images: Tensor) -> Tensor:
        """A x + t, not clamped; float32 under autocast, too: bf16 would band even skies."""
        with torch.autocast(images.device.type, enabled=False):
            return torch.einsum("ij,njhw->nihw", self.matrix, images.float()) + self.offset[:, None, None]

    def forward(self, images: Tensor) -> Tensor:
        change: Tensor = self.network(images)
        return clamp(self.start(images) + 2 * change.float())
