"""Building blocks that several networks share.

Legend: N batch, C channels, H height, W width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from unpaired.errors import ConfigError
from unpaired.networks.classifiers import NETWORKS, Features
from unpaired.networks.kernels import InstanceNorm

Padding = Literal["zeros", "reflect"]
Norm = Literal["batch", "instance", "affine", "pixel", "none"]


def norm_layer(kind: Norm, channels: int) -> nn.Module:
    """``batch``: with scale, shift and running statistics. ``instance``: without any parameter. ``affine``:
    the same with a scale and a shift a channel. ``pixel``: :class:`PixelNorm`. ``none``: nothing."""
    norms: dict[Norm, Callable[[int], nn.Module]]
    norms = {
        "batch": nn.BatchNorm2d, "instance": InstanceNorm, "affine": AffineInstanceNorm, "pixel": PixelNorm,
        "none": nn.Identity,
    }  # fmt: skip
    return norms[kind](channels)


class AffineInstanceNorm(InstanceNorm):
    """Instance norm with a scale and a shift a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = (p[:, None, None].to(x.dtype) for p in (self.weight, self.bias))
        return super().forward(x) * scale + shift


class PixelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel alone, with a scale and a shift a channel: [N, C, H, W] -> the same.

    A large picture gets just what its crops get, which no norm with statistics over space gives: those of a crop of one
    coast are others than those of a sea.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).to(x.dtype)


class ResidualBlock(nn.Module):
    """x + (conv3 - norm - ReLU - conv3 - norm [- dropout])(x).

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
    ) -> None:
        super().__init__()
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
        return out


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
    """[N, ``size``] from N(0, I) for N ``images``, or ``latents``."""
    if latents is None:
        return torch.randn(len(images), size, generator=generator, device=images.device)
    return latents.to(images.device, torch.float32)


class Tanh(nn.Tanh):
    """In float32 under autocast, too: in bf16 everything from 3.5 on is exactly 1, where no gradient leads back."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


class ResnetGenerator(nn.Module):
    """The generator of Johnson et al. (arXiv 1603.08155) as CycleGAN and its successors have it: [N, 3, H, W] in
    [-1, 1] -> the same, H and W divisible by ``STRIDE``.

    A 7 x 7 convolution to ``width`` channels, two of stride 2, ``blocks`` residual blocks, two transposed convolutions
    of stride 2, a 7 x 7 convolution to colours and tanh. Every convolution but the last (and the second of a block) is
    followed by a norm and ReLU. Padding is by reflection, with zeros where the stride is 2. ``dilation`` 1 and instance
    norm is CycleGAN's ``resnet_9blocks``; "Show, Attend and Translate" has dilation 2 and batch norm. ``resize``
    repeats pixels and convolves 3 x 3 in place of the transposed convolutions, whose uneven overlap draws chequers
    (Odena et al. 2016).
    """

    STRIDE = 4

    def __init__(
        self, width: int = 64, blocks: int = 9, *, dilation: int = 1, norm: Norm = "instance", resize: bool = False
    ) -> None:
        super().__init__()

        def layer(convolution: nn.Module, channels: int) -> nn.Sequential:
            return nn.Sequential(convolution, norm_layer(norm, channels), nn.ReLU(inplace=True))

        def double(channels: int) -> nn.Module:
            if resize:
                convolution = nn.Conv2d(channels, channels // 2, 3, padding=1, padding_mode="reflect")
                return nn.Sequential(nn.Upsample(scale_factor=2), convolution)
            return nn.ConvTranspose2d(channels, channels // 2, 3, 2, 1, output_padding=1)

        self.front = nn.Sequential(
            layer(nn.Conv2d(3, width, 7, padding=3, padding_mode="reflect"), width),
            layer(nn.Conv2d(width, 2 * width, 3, 2, 1), 2 * width),
            layer(nn.Conv2d(2 * width, 4 * width, 3, 2, 1), 4 * width),
        )
        self.blocks = nn.Sequential(
            *(ResidualBlock(4 * width, "reflect", norm=norm, dilation=dilation) for _ in range(blocks))
        )
        self.back = nn.Sequential(layer(double(4 * width), 2 * width), layer(double(2 * width), width))
        self.head = nn.Conv2d(width, 3, 7, padding=3, padding_mode="reflect")

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.back(self.blocks(self.front(images))))
        return out.float().tanh()


class ImageBuffer(nn.Module):
    """A history of generated images for a discriminator (Shrivastava et al., arXiv 1612.07828, section 2.3): keeps
    ``size`` of them [3, S, S] in buffers, so that they are saved with the run; 0 keeps none.

    Called with new images [N, 3, S, S], gives as many: while there is room each is kept and given back; after that,
    each is given back with probability one half, and else swapped with a random kept one. All of it, draws from torch's
    global generator too, happens on the images' device, so that a GPU is not waited for. In eval mode it gives back
    what it gets.
    """

    images: Tensor
    count: Tensor

    def __init__(self, size: int, side: int) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(size, 3, side, side))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        size = len(self.images)
        if size == 0 or not self.training:
            return images
        swaps = torch.rand(len(images), device=images.device) < 0.5
        slots = torch.randint(size, (len(images),), device=images.device)
        given = []
        for image, swap, slot in zip(images.detach(), swaps, slots, strict=True):
            full = self.count == size
            place = torch.where(full, slot, self.count)[None]
            old = self.images.index_select(0, place)[0]  # a copy: the slot is overwritten below
            given.append(torch.where(full & swap, old.to(image.dtype), image))
            self.images.index_copy_(0, place, torch.where(full & ~swap, old, image.to(old.dtype))[None])
            self.count.add_(~full)
        return torch.stack(given)

    def empty(self) -> None:
        """Forget all images."""
        self.images.zero_()
        self.count.zero_()


class AttentionBranch(nn.Module):
    """G_attn of Show, Attend and Translate (Yang et al., arXiv 1806.06195), which says where an image is to be
    translated: the first layers of a classifier, two deconvolutions, one convolution and a sigmoid.

    [N, 3, H, W] in [-1, 1] -> [N, 1, H, W] in [0, 1], float32; H and W divisible by 4.
    """

    def __init__(self, network: str, norm: Norm) -> None:
        super().__init__()
        kind = NETWORKS[network]
        if kind.stride4 is None:
            raise ConfigError(f"{network} has no layer at a quarter of the size to grow an attention branch from")
        self.margin = kind.margin
        self.trunk = Features(network, (kind.stride4,))
        c = kind.stride4_channels
        self.up = nn.Sequential(
            nn.ConvTranspose2d(c, c // 2, 4, 2, 1),
            norm_layer(norm, c // 2),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(c // 2, c // 4, 4, 2, 1),
            norm_layer(norm, c // 4),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Conv2d(c // 4, 1, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        if self.margin:
            images = nn.functional.pad(images, [self.margin] * 4, mode="replicate")
        (features,) = self.trunk(images)  # [N, C, H/4, W/4]
        logits: Tensor = self.head(self.up(features))
        return logits.float().sigmoid()


class WeightInduction(nn.Module):
    """Adaptive weight induction (same paper, section 2): λ starts at 0 and rises until the adversarial loss passes a
    threshold, then stays.

    In train mode each call with the newest loss counts one step. After ``warmup`` steps, every ``every`` steps, a
    running average of the loss is looked at: λ rises by ``rise`` while it is on the good side of ``threshold`` and
    waits while it is not; ``patience`` looks in a row beyond it stop λ for good, which no single spike does. With
    ``margin``, the threshold is at least that far from the average at the end of the warm-up, when λ was still 0: a
    discriminator that is strong anyway does not keep λ at 0.

    λ is counted in units of 1 / d, where d is the mean of what :meth:`measure` was given in the warm-up; without any,
    of 1. In eval mode λ is as it is. All state is in buffers, and nothing leaves the GPU.
    """

    level: Tensor
    unit: Tensor
    average: Tensor
    baseline: Tensor
    seen: Tensor
    measured: Tensor
    beyond: Tensor
    stopped: Tensor

    def __init__(
        self, *, threshold: float, rise: float, every: int, largest: float, warmup: int, patience: int,
        smoothing: float, margin: float | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.threshold, self.rise, self.every, self.largest = threshold, rise, every, largest
        self.warmup, self.patience, self.smoothing, self.margin = warmup, patience, smoothing, margin
        for name in ("level", "average", "baseline"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("unit", torch.ones(()))
        for name in ("seen", "measured", "beyond", "stopped"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))

    @property
    def weight(self) -> Tensor:
        """λ, a detached scalar."""
        return self.level / self.unit

    @torch.no_grad()
    def measure(self, distance: Tensor) -> None:
        """The newest l_reg: in the warm-up (once at least) its mean becomes the unit."""
        if self.training:
            wanted = self.measured < max(self.warmup, 1)
            self.measured += wanted
            share = wanted / self.measured.clamp(min=1)  # a running mean, then nothing
            self.unit.copy_(torch.lerp(self.unit, distance.detach().float().clamp(min=1e-8), share.float()))

    @torch.no_grad()
    def forward(self, loss: Tensor) -> Tensor:
        """The newest loss, a scalar -> λ, a detached scalar."""
        if not self.training:
            return self.weight
        self.seen += 1
        # a plain mean at first, so that the average does not hang on its first value
        self.average.lerp_(loss.detach().float(), torch.clamp(1 / self.seen, min=1 - self.smoothing))
        self.baseline.copy_(torch.where(self.seen <= max(self.warmup, 1), self.average, self.baseline))
        look = (self.seen > self.warmup) & ((self.seen - self.warmup) % self.every == 0)
        limit = torch.full_like(self.average, self.threshold)
        if self.margin is not None:
            limit = torch.maximum(limit, self.baseline + self.margin)
        over = self.average > limit
        self.beyond.copy_(torch.where(look, torch.where(over, self.beyond + 1, 0), self.beyond))
        self.stopped.copy_(torch.maximum(self.stopped, (self.beyond >= self.patience).long()))
        up = look & ~over & (self.stopped == 0)
        self.level.copy_(torch.where(up, (self.level + self.rise).clamp(max=self.largest), self.level))
        return self.weight
