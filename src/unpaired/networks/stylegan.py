"""StyleGAN (Karras, Laine and Aila, CVPR 2019): style-based generator and the discriminator that goes with it.

At one fixed resolution: what a progressively grown network is once growing has ended. Numbers are those of the PyTorch
code that DeepI2I's StyleGAN variant builds on (style-based-gan-pytorch, version of September 2019), whose weights
import here.

Legend: N batch, C channels, S side in pixels; images x [N, 3, S, S] in [-1, 1]; z [N, Z] is a latent, w [N, Z] its
style; r is a resolution. The generator has one block a resolution, 4, 8, ..., S, numbered from 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unpaired.networks.kernels import instance_norm

SIZES = (32, 64, 128, 256, 512, 1024)
FULL_CHANNELS = 32
"""Up to this resolution maps have all ``width`` channels; each doubling beyond halves them."""
FUSED = 128
"""From this resolution on, resampling and convolution are one operation."""
SLOPE = 0.2
"""Of the LeakyReLU."""
EPS = 1e-8


def _gain(fan_in: int) -> float:
    """Weights are drawn from N(0, 1) and multiplied by this in each pass (Karras et al. 2018, section 4.1)."""
    return math.sqrt(2 / fan_in)


class EqualConv2d(nn.Conv2d):
    """Convolution with an equalised learning rate."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, padding: int = 0) -> None:
        super().__init__(channels_in, channels_out, kernel, padding=padding)
        self.gain = _gain(channels_in * kernel**2)

    def reset_parameters(self) -> None:
        """N(0, 1), bias 0."""
        nn.init.normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.gain, self.bias, padding=self.padding)


class EqualLinear(nn.Linear):
    """Linear layer with an equalised learning rate."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.gain = _gain(inputs)

    def reset_parameters(self) -> None:
        """N(0, 1), bias 0."""
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.gain, self.bias)


class FusedResampling(nn.Module):
    """A 3 x 3 convolution and a doubling or halving in one: the 4 x 4 kernel is the mean of the 3 x 3 one at four
    places.

    ``weight`` is [C_in, C_out, 3, 3] for ``up`` and [C_out, C_in, 3, 3] for ``down``.
    """

    def __init__(self, channels_in: int, channels_out: int, way: Literal["up", "down"]) -> None:
        super().__init__()
        self.way = way
        self.gain = _gain(channels_in * 9)
        first, second = (channels_in, channels_out) if way == "up" else (channels_out, channels_in)
        self.weight = nn.Parameter(torch.randn(first, second, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        kernel = F.avg_pool2d(F.pad(self.weight * self.gain, (1, 1, 1, 1)), 2, stride=1)  # [., ., 4, 4]
        if self.way == "up":
            return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)
        return F.conv2d(x, kernel, self.bias, stride=2, padding=1)


def blur(x: Tensor) -> Tensor:
    """A 3 x 3 binomial filter on each channel (the paper's low-pass filter around resampling), zeros outside."""
    kernel = x.new_full((3, 3), 1 / 16)  # made on the device: numbers copied there would stop the host at each call
    kernel[1] *= 2
    kernel[:, 1] *= 2
    return F.conv2d(x, kernel.expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])


class StyledLayer(nn.Module):
    """Noise, LeakyReLU, then adaptive instance norm: γ(w) (x - mean) / std + β(w) (paper, Eq. 1)."""

    def __init__(self, channels: int, latent: int) -> None:
        super().__init__()
        self.noise = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.noise_gain = _gain(channels)
        self.style = EqualLinear(latent, 2 * channels)
        with torch.no_grad():
            self.style.bias[:channels] = 1  # γ starts at 1 on average, β at 0

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        x = F.leaky_relu(x + self.noise * self.noise_gain * noise, SLOPE)
        gamma, beta = self.style(w)[:, :, None, None].chunk(2, 1)  # [N, C, 1, 1]
        return torch.addcmul(beta, instance_norm(x), gamma)


class GeneratorBlock(nn.Module):
    """Doubles the size unless ``first``, then two styled layers with a convolution between: -> [N, C_out, r, r].

    Both layers see the same noise map [N, 1, r, r].
    """

    def __init__(self, channels_in: int, channels_out: int, resolution: int, latent: int, *, first: bool) -> None:
        super().__init__()
        self.grow: nn.Module | None = None
        self.fused = resolution >= FUSED
        if not first:
            self.grow = (
                FusedResampling(channels_in, channels_out, "up")
                if self.fused
                else EqualConv2d(channels_in, channels_out, 3, 1)
            )
        self.layer1 = StyledLayer(channels_out, latent)
        self.conv = EqualConv2d(channels_out, channels_out, 3, 1)
        self.layer2 = StyledLayer(channels_out, latent)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        if self.grow is not None:
            x = blur(self.grow(x if self.fused else F.interpolate(x, scale_factor=2)))
        x = self.layer1(x, w, noise)
        out: Tensor = self.layer2(self.conv(x), w, noise)
        return out


class DiscriminatorBlock(nn.Module):
    """Two convolutions, the second with a halving: [N, C_in, r, r] -> [N, C_out, r/2, r/2]."""

    def __init__(self, channels_in: int, channels_out: int, resolution: int) -> None:
        super().__init__()
        self.conv1 = EqualConv2d(channels_in, channels_out, 3, 1)
        self.fused = resolution >= FUSED
        self.conv2: nn.Module = (
            FusedResampling(channels_out, channels_out, "down")
            if self.fused
            else EqualConv2d(channels_out, channels_out, 3, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(blur(F.leaky_relu(self.conv1(x), SLOPE)))
        return F.leaky_relu(x if self.fused else F.avg_pool2d(x, 2), SLOPE)


class AdaptorBlock(nn.Module):
    """Two 3 x 3 convolutions with LeakyReLU after each, of the same channels; no shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = EqualConv2d(channels, channels, 3, 1)
        self.conv2 = EqualConv2d(channels, channels, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x), SLOPE)), SLOPE)


@dataclass(frozen=True)
class Shape:
    """Sizes of both networks."""

    size: int = 256
    """Side of the images: a power of two from 32."""
    width: int = 512
    """Channels of the maps up to 32 pixels; each doubling beyond halves them."""
    latent: int = 512
    """Z: numbers in a latent and in a style."""
    mapping: int = 8
    """Layers of the mapping network."""
    rgb_activation: bool = True
    """LeakyReLU after the discriminator's first 1 x 1 convolution."""

    @property
    def resolutions(self) -> list[int]:
        """4, 8, ..., ``size``."""
        return [2**k for k in range(2, self.size.bit_length())]

    def channels(self, resolution: int) -> int:
        """Of the maps at ``resolution``, in both networks."""
        return max(1, min(self.width, self.width * FULL_CHANNELS // resolution))


def draw_noise(shape: Shape, like: Tensor, generator: torch.Generator | None = None) -> list[Tensor]:
    """One map [N, 1, r, r] from N(0, 1) for each block; N and device are those of ``like``."""
    return [torch.randn(len(like), 1, r, r, generator=generator, device=like.device) for r in shape.resolutions]


class Generator(nn.Module):
    """Latents [N, Z] -> images [N, 3, S, S], about [-1, 1] (nothing bounds them).

    ``add`` has for some resolutions a map that is added to the block's output there, after its last instance norm.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        z = shape.latent
        self.mapping = nn.ModuleList([EqualLinear(z, z) for _ in range(shape.mapping)])
        self.constant = nn.Parameter(torch.randn(1, shape.channels(4), 4, 4))
        self.blocks = nn.ModuleList(
            GeneratorBlock(shape.channels(max(4, r // 2)), shape.channels(r), r, z, first=r == 4)
            for r in shape.resolutions
        )
        self.to_rgb = EqualConv2d(shape.channels(shape.size), 3, 1)

    def style(self, z: Tensor) -> Tensor:
        """The mapping network: z, scaled to a mean square of 1, -> w [N, Z]."""
        w = z * torch.rsqrt(z.square().mean(1, keepdim=True) + EPS)
        for layer in self.mapping:
            w = F.leaky_relu(layer(w), SLOPE)
        return w

    def forward(
        self,
        z: Tensor,
        noise: Sequence[Tensor],
        add: Mapping[int, Tensor] | None = None,
        mix: tuple[Tensor, int] | None = None,
    ) -> Tensor:
        """``mix``: another latent, whose style takes over from the block of this number on (style mixing, section
        3.1)."""
        add = add or {}
        styles = [self.style(z)] * len(self.blocks)
        if mix is not None:
            other, start = mix
            styles[start:] = [self.style(other)] * (len(styles) - start)
        x = self.constant.expand(z.shape[0], -1, -1, -1)  # len() would fix the batch of an export
        for block, w, each, r in zip(self.blocks, styles, noise, self.shape.resolutions, strict=True):
            x = block(x, w, each)
            if r in add:
                x = x + add[r]
        out: Tensor = self.to_rgb(x)
        return out


class Features(nn.Module):
    """The discriminator without its head: images [N, 3, S, S] -> the blocks' outputs by resolution, S/2 to 4."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.from_rgb = EqualConv2d(3, shape.channels(shape.size), 1)
        sides = shape.resolutions[:0:-1]  # S, ..., 8
        self.blocks = nn.ModuleList([DiscriminatorBlock(shape.channels(r), shape.channels(r // 2), r) for r in sides])

    def taps(self, x: Tensor) -> dict[int, Tensor]:
        """Resolution r -> [N, C_r, r, r]."""
        x = self.from_rgb(x)
        if self.shape.rgb_activation:
            x = F.leaky_relu(x, SLOPE)
        found = {}
        for block in self.blocks:
            x = block(x)
            found[int(x.shape[-1])] = x
        return found

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        return self.taps(x)


class Discriminator(Features):
    """D(x): logits [N, 1]; above 0 is real. It sees how much the batch varies (minibatch standard deviation), so real
    and generated images must come in batches of their own."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        c = shape.channels(4)
        self.conv1 = EqualConv2d(c + 1, c, 3, 1)
        self.conv2 = EqualConv2d(c, c, 4)
        self.linear = EqualLinear(c, 1)

    def judge(self, taps: Mapping[int, Tensor]) -> Tensor:
        """Logits [N, 1] from the maps that :meth:`taps` gave."""
        x = taps[4]
        # one number for the batch (Karras et al. 2018, section 3)
        spread = (x.var(0, unbiased=False) + EPS).sqrt().mean()
        x = torch.cat([x, spread.expand(len(x), 1, 4, 4).to(x.dtype)], 1)
        x = F.leaky_relu(self.conv1(x), SLOPE)
        x = F.leaky_relu(self.conv2(x), SLOPE)
        out: Tensor = self.linear(x.flatten(1))
        return out

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.judge(self.taps(x))
