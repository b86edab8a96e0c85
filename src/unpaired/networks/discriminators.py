"""Discriminators that judge patches: fully convolutional, one map of logits a scale.

Legend: N batch, H height, W width, h and w those of a map of logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as normalise_spectrum

from unpaired.networks.convnets import Padding, norm_layer


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


class OverlappingPatches(nn.Module):
    """pix2pix's and CycleGAN's PatchGAN (Isola et al., arXiv 1611.07004, appendix 6.1.2): each logit sees 70 x 70
    pixels with 3 ``layers``, and neighbours overlap.

    4 x 4 convolutions with LeakyReLU 0.2: ``layers`` of stride 2, one of stride 1, and one of stride 1 to the logits.
    All but the first and the last are normalised. ``width`` channels out of the first, doubled by each next up to
    8 * ``width``. [N, 3, H, W] -> one [N, 1, H/8 - 2, W/8 - 2] in a list.
    """

    def __init__(
        self,
        width: int = 64,
        layers: int = 3,
        *,
        norm: Literal["batch", "instance", "none"] = "batch",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()

        def convolution(inputs: int, outputs: int, stride: int) -> nn.Module:
            plain = nn.Conv2d(inputs, outputs, 4, stride, 1)
            return normalise_spectrum(plain) if spectral_norm else plain

        self.layers = nn.ModuleList([nn.Sequential(convolution(3, width, 2), nn.LeakyReLU(0.2, inplace=True))])
        inputs = width
        for i in range(1, layers + 1):
            outputs = width * min(2**i, 8)
            layer = nn.Sequential(convolution(inputs, outputs, 2 if i < layers else 1))
            if norm != "none":
                layer.append(norm_layer(norm, outputs))
            self.layers.append(layer.append(nn.LeakyReLU(0.2, inplace=True)))
            inputs = outputs
        self.head = convolution(inputs, 1, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = images
        for layer in self.layers:
            x = layer(x)
        return [self.head(x)]


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


class StridedPatches(nn.Module):
    """A PatchGAN whose normalised convolutions are all strided: ``layers`` 4 x 4 convolutions of stride 2 with
    LeakyReLU 0.2, batch norm after all but the first, and a 4 x 4 convolution of stride 1 to the logits.

    ``width`` channels out of the first, doubled by each next up to 8 * ``width``. With 4 layers a patch sees 94 pixels.
    [N, 3, H, W] -> one [N, 1, H/16 - 1, W/16 - 1] in a list.
    """

    def __init__(self, width: int = 64, layers: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        inputs = 3
        for i in range(layers):
            outputs = width * min(2**i, 8)
            layer = nn.Sequential(nn.Conv2d(inputs, outputs, 4, 2, 1))
            if i > 0:
                layer.append(norm_layer("batch", outputs))
            self.layers.append(layer.append(nn.LeakyReLU(0.2, inplace=True)))
            inputs = outputs
        self.head = nn.Conv2d(inputs, 1, 4, 1, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.head(self.layers(images))]
