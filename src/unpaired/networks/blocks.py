"""Building blocks that several networks share.

Legend: N batch, C channels, H height, W width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from unpaired.errors import DataError
from unpaired.networks.instance_norm import InstanceNorm

Padding = Literal["zeros", "reflect"]
Norm = Literal["batch", "instance"]


def norm_layer(kind: Norm, channels: int) -> nn.Module:
    """``batch``: with scale, shift and running statistics. ``instance``: without any parameter, the same in training and after."""
    return nn.BatchNorm2d(channels) if kind == "batch" else InstanceNorm(channels)


class ResidualBlock(nn.Module):
    """x + (conv3 - norm - ReLU - conv3 - norm [- dropout])(x); ``relu_after`` adds a ReLU after the sum.

    [N, C, H, W] -> the same. A convolution with ``dilation`` d skips d - 1 pixels between those it looks at.
    With instance norm, H x W must be more than one element.
    """

    def __init__(
        self,
        channels: int,
        padding_mode: Padding = "zeros",
        dropout: float = 0.0,
        *,
        norm: Norm = "instance",
        dilation: int = 1,
        relu_after: bool = False,
    ) -> None:
        super().__init__()
        self.relu_after = relu_after
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, padding_mode=padding_mode),
            norm_layer(norm, channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, padding_mode=padding_mode),
            norm_layer(norm, channels),
        )
        if dropout > 0:
            self.body.append(nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return torch.relu(out) if self.relu_after else out


class SampleNorm(nn.Module):
    """Layer norm over C, H, W of each sample with one scale and shift a channel: gamma (x - mean) / (std +
    eps) + beta.

    The standard deviation is the unbiased one and ``eps`` is added to it rather than to the variance, as
    MUNIT's code has it; ``nn.GroupNorm(1, C)`` differs in both. gamma starts uniform in [0, 1], beta at 0.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.rand(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        values = x.float()
        mean = values.mean((1, 2, 3), keepdim=True)  # [N, 1, 1, 1]
        if x.device.type == "cpu":
            # of all numbers of a tensor: that and the mean take a third of what var_mean over dimensions takes
            variance = torch.stack([sample.var() for sample in values.unbind()]).view_as(mean)
        else:  # one kernel, not one a sample
            variance = values.var((1, 2, 3), keepdim=True)
        scale = self.gamma.view(1, -1, 1, 1) / (variance.sqrt() + self.eps)
        shift = self.beta.view(1, -1, 1, 1) - mean * scale  # [N, C, 1, 1]
        return torch.addcmul(shift.to(x.dtype), x, scale.to(x.dtype))


def normal_convolutions(network: nn.Module, std: float = 0.02, *, zero_bias: bool = False) -> None:
    """Convolution weights from N(0, std^2); biases 0 with ``zero_bias``, else as PyTorch draws them."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, std)
            if zero_bias and layer.bias is not None:
                nn.init.zeros_(layer.bias)


def kaiming_convolutions(network: nn.Module) -> None:
    """Convolution weights from Kaiming's normal distribution (fan-in, gain of ReLU), biases 0."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(layer.weight, a=0, mode="fan_in")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


@contextlib.contextmanager
def steady(network: nn.Module) -> Iterator[None]:
    """Inside, ``network`` runs in eval(): spectral vectors stay, so that two passes use the same weights exactly."""
    was = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was)


def draw_latents(size: int, images: Tensor, generator: torch.Generator | None, latents: Tensor | None) -> Tensor:
    """[N, ``size``] from N(0, I) for N ``images``, or ``latents`` after a look at their shape. Raises DataError."""
    if latents is None:
        return torch.randn(len(images), size, generator=generator, device=images.device)
    if latents.shape != (len(images), size):
        raise DataError(f"latents have shape {list(latents.shape)}; wanted {[len(images), size]}")
    return latents.to(images.device, torch.float32)


class Tanh(nn.Tanh):
    """In float32 under autocast, too: in bf16 everything from 3.5 on is exactly 1, where no gradient leads back."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())
