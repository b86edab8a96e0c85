"""Discriminators that judge patches: fully convolutional, one map of logits a scale.

Legend: N batch, H height, W width, h and w those of a map of logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unpaired.networks.blocks import Padding


def strided_convolutions(
    inputs: int,
    width: int,
    layers: int,
    *,
    kernel: int = 3,
    first_kernel: int | None = None,
    slope: float = 0.01,
    padding_mode: Padding = "zeros",
) -> nn.Sequential:
    """``layers`` convolutions of stride 2, each with a LeakyReLU; ``width`` channels out of the first,
    doubled by each next.

    The padding is (kernel - 1) // 2. The layers sit under the keys ``0.0``, ``1.0`` and so on.
    """
    stack = nn.Sequential()
    for i in range(layers):
        k = first_kernel if i == 0 and first_kernel else kernel
        outputs = width * 2**i
        convolution = nn.Conv2d(inputs, outputs, k, 2, (k - 1) // 2, padding_mode=padding_mode)
        stack.append(nn.Sequential(convolution, nn.LeakyReLU(slope, inplace=True)))
        inputs = outputs
    return stack


class PatchDiscriminator(nn.Module):
    """``layers`` stride-2 convolutions and a 1 x 1 convolution to one logit a patch. [N, 3, H, W] -> one
    [N, 1, h, w] in a list."""

    def __init__(
        self,
        width: int = 64,
        layers: int = 5,
        *,
        kernel: int = 3,
        slope: float = 0.01,
        padding_mode: Padding = "zeros",
    ) -> None:
        super().__init__()
        self.features = strided_convolutions(3, width, layers, kernel=kernel, slope=slope, padding_mode=padding_mode)
        self.head = nn.Conv2d(width * 2 ** (layers - 1), 1, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.head(self.features(images))]


class GaussianHalf(nn.Module):
    """Half the size: 3 x 3 Gaussian blur (1 2 1 in each direction, edges repeated), then every second
    pixel of both axes."""

    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([0.25, 0.5, 0.25])
        weight = torch.outer(row, row).expand(3, 1, 3, 3).clone()
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        # Stride 2 gives just the pixels that blurring first and dropping afterwards would keep.
        return F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), self.weight, stride=2, groups=3)


class MultiScale(nn.Module):
    """One discriminator a scale, the image halved between scales. [N, 3, H, W] -> a list with one map of
    logits a scale."""

    def __init__(self, scales: Sequence[nn.Module], halve: nn.Module) -> None:
        super().__init__()
        self.scales = nn.ModuleList(scales)
        self.halve = halve

    def forward(self, images: Tensor) -> list[Tensor]:
        logits: list[Tensor] = []
        for i, discriminator in enumerate(self.scales):
            if i > 0:
                images = self.halve(images)
            logits += discriminator(images)
        return logits


class SeparateDiscriminators(nn.Module):
    """One discriminator a domain, nothing shared. One [N, 3, H, W] a domain -> for each domain its list of
    logits."""

    def __init__(self, make: Callable[[], nn.Module], domains: int) -> None:
        super().__init__()
        self.of_domain = nn.ModuleList([make() for _ in range(domains)])

    def forward(self, images: Sequence[Tensor]) -> list[list[Tensor]]:
        return [judge(x) for judge, x in zip(self.of_domain, images, strict=True)]


class SharedDiscriminators(nn.Module):
    """A front of ``private`` layers for each domain and one back for all: the domains are judged by the same
    high-level layers.

    The first layer has a 7 x 7 kernel, the others 3 x 3. One [N, 3, H, W] a domain -> for each domain its
    list of logits.
    """

    def __init__(self, width: int, layers: int, private: int, domains: int, *, slope: float = 0.01) -> None:
        super().__init__()
        self.fronts = nn.ModuleList(
            [strided_convolutions(3, width, private, first_kernel=7, slope=slope) for _ in range(domains)]
        )
        middle = width * 2 ** (private - 1)
        self.back = strided_convolutions(middle, 2 * middle, layers - private, slope=slope)
        self.head = nn.Conv2d(width * 2 ** (layers - 1), 1, 1)

    def forward(self, images: Sequence[Tensor]) -> list[list[Tensor]]:
        features = torch.cat([front(x) for front, x in zip(self.fronts, images, strict=True)])
        logits: Tensor = self.head(self.back(features))  # no norm: one pass over both domains equals two
        return [[part] for part in torch.split(logits, [len(x) for x in images])]
