"""A feature pyramid: five layers of a pretrained classifier, normalised and clamped, deep to shallow.

Katzir et al., Cross-Domain Cascaded Deep Translation, section 3, "Pre-processing": each channel of each level is
normalised by its mean and standard deviation over its domain, then clamped to [-1, 1]. Levels are numbered as in the
paper: 5 is the deepest (conv_5_1 of VGG-19), 1 the shallowest.

Legend: N batch, C channels, S side of the image in pixels, h side of a map; images [N, 3, S, S] in [-1, 1].
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unpaired.errors import ConfigError, nearest
from unpaired.networks.classifiers import NETWORKS, ConvBN, Features
from unpaired.networks.convnets import Tanh, kaiming_convolutions, normal_convolutions
from unpaired.networks.kernels import instance_norm, slopes

LEVELS = 5
DEAD = 1e-6
"""A channel whose standard deviation is below this is constant; it is divided by 1 instead."""
BLOCK = 16
"""Images at a time while statistics are gathered."""


class Moments:
    """Mean and standard deviation of each channel over samples and positions, block by block, in float64.

    Blocks are merged by their counts, means and sums of squared deviations (Chan, Golub and LeVeque 1983), which does
    not cancel where the mean is large.
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.deviation = torch.zeros(channels, dtype=torch.float64)

    def add(self, maps: Tensor) -> None:
        """[N, C, H, W] more."""
        values = maps.detach().double().transpose(0, 1).flatten(1)  # [C, N · H · W]
        variance, mean = (m.cpu() for m in torch.var_mean(values, dim=1, correction=0))
        n = values.shape[1]
        total = self.count + n
        apart = mean - self.mean
        self.deviation += variance * n + apart.square() * (self.count * n / total)
        self.mean += apart * (n / total)
        self.count = total

    @property
    def std(self) -> Tensor:
        """[C] float64: over all values seen, not the unbiased estimate; 1 where a channel is constant."""
        std = (self.deviation / max(self.count, 1)).sqrt()
        return torch.where(std < DEAD, 1.0, std)


class Pyramid(nn.Module):
    """Levels of a frozen classifier in the units of each domain.

    Made with random weights and statistics 0 and 1. Weights and statistics are in its state.
    Maps are of type float32, computed in the precision around, and nothing is ever turned back into raw features.

    Args:
        network: a name of ``NETWORKS`` with a pyramid.
        levels: those that are asked for.
        domains: how many sets of statistics.
        side: of the images in pixels.

    Raises ConfigError for an unknown network or a size that it cannot take.
    """

    def __init__(self, network: str, levels: Sequence[int], domains: int, side: int) -> None:
        super().__init__()
        able = [name for name, kind in NETWORKS.items() if kind.pyramid]
        if network not in able:
            raise ConfigError(
                f"no feature pyramid of '{network}'.{nearest(network, able)} There are: {', '.join(able)}."
            )
        self.network, self.levels = network, tuple(levels)
        pairs = NETWORKS[network].pyramid
        self.layer = {level: pairs[level - 1][0] for level in range(1, LEVELS + 1)}
        self.relu = {level: pairs[level - 1][1] for level in range(1, LEVELS + 1)}
        taps = tuple(dict.fromkeys([*self.layer.values(), *self.relu.values()]))
        self.features = Features(network, taps).eval()
        kaiming_convolutions(self.features)
        self.channels, self.sides = _shapes(self.features, self.relu, side)
        for level in self.levels:
            self.register_buffer(f"mean{level}", torch.zeros(domains, self.channels[level]))
            self.register_buffer(f"std{level}", torch.ones(domains, self.channels[level]))

    def train(self, mode: bool = True) -> Pyramid:
        """The classifier stays in eval mode whatever the mode around it: batch norms keep their pretrained
        statistics."""
        super().train(mode)
        self.features.eval()
        return self

    # -- filling

    def take_statistics(self, domains: Sequence[str], examples: Callable[[str, int, int], Tensor]) -> None:
        """Gather the statistics of every domain from all its images; ``examples``: (domain, at most so many, from this
        one on)."""
        for number, domain in enumerate(domains):
            self.measure(number, blocks(examples, domain))

    @torch.no_grad()
    def measure(self, domain: int, images: Iterable[Tensor]) -> None:
        """Statistics of domain number ``domain`` from blocks of images."""
        moments = {level: Moments(self.channels[level]) for level in self.levels}
        for block in images:
            for level, raw in zip(self.levels, self.raw(block, self.levels), strict=True):
                moments[level].add(raw)
        for level, found in moments.items():
            if found.count:
                self.get_buffer(f"mean{level}")[domain] = found.mean.float()
                self.get_buffer(f"std{level}")[domain] = found.std.float()

    # -- use

    def raw(self, images: Tensor, levels: Sequence[int]) -> list[Tensor]:
        """The classifier's own maps [N, C, h, h] of ``levels``."""
        return self.features(images, [self.layer[level] for level in levels])  # type: ignore[no-any-return]

    def normalise(self, level: int, maps: Tensor, domain: int) -> Tensor:
        """(x - mean) / std of each channel, clamped to [-1, 1]. [N, C, h, h] float32."""
        mean = self.get_buffer(f"mean{level}")[domain][:, None, None]
        std = self.get_buffer(f"std{level}")[domain][:, None, None]
        return ((maps.float() - mean) / std).clamp(-1, 1)

    @torch.no_grad()
    def forward(self, images: Tensor, domain: int, levels: Sequence[int] | None = None) -> dict[int, Tensor]:
        """Maps [N, C, h, h] in [-1, 1] by level, all of the same images. Never differentiated."""
        wanted = self.levels if levels is None else tuple(levels)
        maps = self.raw(images, wanted)
        return {level: self.normalise(level, x, domain) for level, x in zip(wanted, maps, strict=True)}

    def activations(self, images: Tensor) -> list[Tensor]:
        """All five levels after their ReLU, from level 1 on, as the classifier has them: for perceptual distances."""
        return self.features(images, [self.relu[level] for level in range(1, LEVELS + 1)])  # type: ignore[no-any-return]

    @torch.no_grad()
    def with_activations(self, images: Tensor, domain: int, level: int) -> tuple[Tensor, list[Tensor]]:
        """The map of one level as :meth:`forward` gives it, and :meth:`activations`, in one pass."""
        taps = [self.layer[level], *(self.relu[i] for i in range(1, LEVELS + 1))]
        raw, *activations = self.features(images, taps)
        return self.normalise(level, raw, domain), activations

    def digest(self, levels: Sequence[int]) -> bytes:
        """SHA-256 of what decides the maps of ``levels``: network, where it is tapped, clamp, weights, statistics."""
        sha = hashlib.sha256(repr((self.network, "before", 1.0, tuple(levels))).encode())
        kept = {f"{kind}{level}" for kind in ("mean", "std") for level in levels}
        for name, tensor in self.state_dict().items():
            if "." in name or name in kept:
                hash_tensor(sha, name, tensor)
        return sha.digest()


def hash_tensor(sha: hashlib._Hash, name: str, tensor: Tensor) -> None:
    """Name, type, shape and bytes into ``sha``."""
    sha.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
    sha.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)


def blocks(examples: Callable[[str, int, int], Tensor], domain: str) -> Iterator[Tensor]:
    """All images of a domain, ``BLOCK`` at a time."""
    first = 0
    while len(block := examples(domain, BLOCK, first)):
        yield block
        first += len(block)


def _shapes(features: Features, layers: Mapping[int, str], side: int) -> tuple[dict[int, int], dict[int, int]]:
    """Channels and side of each level's map for images of ``side`` pixels, from what the layers before it do to a side.

    A pass without contents would tell the same, but PyTorch imports its compiler for one. Raises ConfigError: too
    small.
    """
    channels, after = 0, {}
    now = side
    for name, layer in features.layers.items():
        for part in layer.modules():
            if isinstance(part, ConvBN):
                now = -(-now // part.stride[0])
            elif isinstance(part, (nn.Conv2d, nn.MaxPool2d)):
                kernel, stride, padding = (_first(v) for v in (part.kernel_size, part.stride, part.padding))
                now = (now + 2 * padding - kernel) // stride + 1
            if isinstance(part, nn.Conv2d):
                channels = part.out_channels
        if now < 1:
            raise ConfigError(
                f"data.size = {side} is too small for five levels of {features.network}: none is left at {name}"
            )
        after[name] = channels, now
    shapes = {level: after[name] for level, name in layers.items()}
    return {level: c for level, (c, _) in shapes.items()}, {level: s for level, (_, s) in shapes.items()}


def _first(value: Any) -> int:
    """Of a pair, or the number for both axes."""
    return int(value[0] if isinstance(value, tuple) else value)


# ----------------------------------------------------------------------------------------------------
# Networks on feature maps: translators deep and conditional, critics, inversion to images, and a VAE of the deepest
# map.
#
# Katzir et al., Cross-Domain Cascaded Deep Translation, appendix A.1.2 (Tables 3 to 5), and the supplement's section 6
# (Tables 4 and 5). Channels and sizes come from the pyramid; ``width`` scales the channels within, 1 gives the paper's
# networks on VGG-19. All convolutions are 3 x 3 with padding 1 but for those that double the size (4 x 4, as in Table
# 5).
#
# Legend: N batch, C channels of a level, D those of the next deeper one, h side of a map, S side of the image, Z of a
# latent; maps [N, C, h, h] in [-1, 1], images [N, 3, S, S] in [-1, 1].

SLOPE = 0.2
"""Of every LeakyReLU here; the paper says so for the inversion networks."""
HEAD_SIDE = 4
"""Maps are halved until they have at most this side before a linear layer looks at them (Table 4: 4 x 4 x 512)."""
HEAD_CHANNELS = 512
"""Channels are doubled at each halving up to this many (Table 4); the widest level of VGG-19."""
STYLE_HIDDEN = 1000
"""Width between the two linear layers of Table 4."""


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``: a multiple of 4, so that half of it can be normalised in groups of two."""
    return max(4, 4 * round(channels * width / 4))


def group_norm(channels: int) -> nn.GroupNorm:
    """In 32 groups (Wu and He 2018), or fewer where there are few channels: two a group at least, so that a map of one
    position has something to be normalised over."""
    return nn.GroupNorm(math.gcd(32, channels // 2), channels)


def grow(layer: nn.ConvTranspose2d, x: Tensor, side: int) -> Tensor:
    """``layer``, which doubles the size, on ``x``, with an output of just ``side``: one more row and column by output
    padding, fewer by cutting, and a resize where the sizes are not twice each other (AlexNet)."""
    kernel, stride, padding = layer.kernel_size[0], layer.stride[0], layer.padding[0]
    least = (x.shape[-1] - 1) * int(stride) - 2 * int(padding) + kernel
    size = min(max(side, least), least + 1)
    x = layer(x, output_size=[size, size])[..., :side, :side]
    if x.shape[-1] != side:
        x = F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
    return x


def halving_stack(inputs: int, channels: int, side: int, width: float) -> tuple[nn.Sequential, int, int]:
    """Strided convolutions with LeakyReLU from ``inputs`` channels down to ``HEAD_SIDE``; also the last one's channels
    and side.

    ``channels`` (those of the level, scaled) double at each up to ``HEAD_CHANNELS``; "we simply add more conv layers
    for each shallower layer". At least one convolution, so that a map that is small already is looked at, too.
    """
    stack = nn.Sequential()
    most = max(channels, scaled(HEAD_CHANNELS, width))
    while side > HEAD_SIDE or not len(stack):
        channels = min(2 * channels, most)
        stride = 2 if side > HEAD_SIDE else 1
        stack.append(nn.Conv2d(inputs, channels, 3, stride, 1)).append(nn.LeakyReLU(SLOPE))
        inputs, side = channels, -(-side // stride)
    return stack, channels, side


# ---------------------------------------------------------------------------------------------- translators


class DeepTranslator(nn.Module):
    """Table 3: the translator of the deepest level, [N, C, h, h] -> the same.

    h -> h/2 -> h/4 and back. The transposed convolutions of the paper (14 -> 7 -> 4 -> 7 -> 14) need output paddings 0
    and 1; here they are told the sizes met on the way down, so any size works. No activation between the first two
    rows, as printed.
    """

    def __init__(self, channels: int, width: float = 1.0) -> None:
        super().__init__()
        c = scaled(channels, width)
        half = c // 2
        self.first = nn.Conv2d(channels, c, 3, 1, 1)
        self.down = nn.ModuleList([nn.Conv2d(c, half, 3, 2, 1), nn.Conv2d(half, c, 3, 2, 1)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(c, half, 3, 2, 1), nn.ConvTranspose2d(half, half, 3, 2, 1)])
        self.wide = nn.Conv2d(half, c, 3, 1, 1)
        self.last = nn.Conv2d(c, channels, 3, 1, 1)
        self.norms = nn.ModuleList([group_norm(n) for n in (half, c, half, half, c)])
        normal_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        sides = []
        for layer, norm in zip(self.down, self.norms, strict=False):
            sides.append(x.shape[-1])
            x = torch.relu(norm(layer(x)))
        for layer, norm in zip(self.up, self.norms[2:], strict=False):
            x = torch.relu(norm(grow(layer, x, sides.pop())))  # type: ignore[arg-type]
        x = torch.relu(self.norms[4](self.wide(x)))
        return torch.tanh(self.last(x).float())


def adaptive_norm(x: Tensor, style: Tensor) -> Tensor:
    """AdaIN (Huang and Belongie 2017): each channel of each sample to mean 0 and variance 1, times gamma, plus beta.

    ``style`` [N, 2 C]: the betas, then the gammas. Passed as an argument and not kept anywhere, in float32.
    """
    beta, gamma = style.float()[:, :, None, None].chunk(2, dim=1)
    return torch.addcmul(beta, instance_norm(x.float()), gamma).to(x.dtype)


class ContentTrunk(nn.Module):
    """Table 5: the next deeper map [N, D, h', h'] and a style [N, ``style_size``] -> the map of this level [N, C, h,
    h].

    Two convolutions and one that doubles the size, each with AdaIN and LeakyReLU; a convolution and tanh. Where the
    deeper map has this level's size already (AlexNet), the third convolution keeps it. The upsampling leaves the
    channels of the level; half of its input's, as printed, differs at level 4 of VGG-19 alone.
    """

    def __init__(
        self,
        deeper: int,
        channels: int,
        deeper_side: int,
        side: int,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        d, c = scaled(deeper, width), scaled(channels, width)
        self.side = side
        self.first, self.second = nn.Conv2d(deeper, d, 3, 1, 1), nn.Conv2d(d, d, 3, 1, 1)
        self.up = nn.Conv2d(d, c, 3, 1, 1) if side == deeper_side else nn.ConvTranspose2d(d, c, 4, 2, 1)
        self.last = nn.Conv2d(c, channels, 3, 1, 1)
        self.widths = (d, d, c)
        normal_convolutions(self)

    @property
    def style_size(self) -> int:
        """How many numbers AdaIN takes: two for each channel that it normalises."""
        return 2 * sum(self.widths)

    def forward(self, deeper: Tensor, style: Tensor) -> Tensor:
        s1, s2, s3 = torch.split(style, [2 * w for w in self.widths], dim=1)
        x = F.leaky_relu(adaptive_norm(self.first(deeper), s1), SLOPE)
        x = F.leaky_relu(adaptive_norm(self.second(x), s2), SLOPE)
        x = grow(self.up, x, self.side) if isinstance(self.up, nn.ConvTranspose2d) else self.up(x)
        x = F.leaky_relu(adaptive_norm(x, s3), SLOPE)
        return torch.tanh(self.last(x).float())


def _style_head(inputs: int, widths: Sequence[int], width: float) -> nn.Sequential:
    """Two linear layers to the style of AdaIN layers with ``widths`` channels; starts near beta = 0, gamma = 1."""
    hidden = max(16, round(STYLE_HIDDEN * width))
    last = nn.Linear(hidden, 2 * sum(widths))
    with torch.no_grad():
        last.bias.copy_(torch.tensor([value for w in widths for value in [0.0] * w + [1.0] * w]))
    return nn.Sequential(nn.Linear(inputs, hidden), nn.LeakyReLU(SLOPE), last)


class StyleFromMap(nn.Module):
    """Table 4: the level's own map [N, C, h, h] -> the style [N, 2 Σ widths] of a trunk. No norm."""

    def __init__(self, channels: int, side: int, widths: Sequence[int], width: float = 1.0) -> None:
        super().__init__()
        self.convolutions, c, h = halving_stack(channels, scaled(channels, width), side, width)
        self.head = _style_head(c * h * h, widths, width)
        kaiming_convolutions(self.convolutions)

    def forward(self, own: Tensor) -> Tensor:
        style: Tensor = self.head(self.convolutions(own).flatten(1))
        return style


class StyleFromNoise(nn.Module):
    """DeepVAE's counterpart: noise [N, Z] -> the style of a trunk, through the same two linear layers."""

    def __init__(self, latent: int, widths: Sequence[int], width: float = 1.0) -> None:
        super().__init__()
        self.head = _style_head(latent, widths, width)

    def forward(self, noise: Tensor) -> Tensor:
        style: Tensor = self.head(noise)
        return style


class Conditional(nn.Module):
    """A trunk and where its style comes from: (own map or noise, deeper map) -> the map of this level."""

    def __init__(self, trunk: ContentTrunk, style: StyleFromMap | StyleFromNoise) -> None:
        super().__init__()
        self.trunk, self.style = trunk, style

    def forward(self, own: Tensor, deeper: Tensor) -> Tensor:
        out: Tensor = self.trunk(deeper, self.style(own))
        return out


# ---------------------------------------------------------------------------------------------- critics


class Critic(nn.Module):
    """One number a sample, without any norm, so that a gradient penalty judges each alone. [N, C, h, h] -> one [N, 1]
    in a list.

    The paper does not describe it: a convolution at full size, halvings to 4 x 4 as in Table 4, a linear layer.
    """

    def __init__(self, channels: int, side: int, width: float = 1.0) -> None:
        super().__init__()
        c = scaled(channels, width)
        stack, outputs, h = halving_stack(c, c, side, width)
        self.convolutions = nn.Sequential(nn.Conv2d(channels, c, 3, 1, 1), nn.LeakyReLU(SLOPE), *stack)
        self.head = nn.Linear(outputs * h * h, 1)
        kaiming_convolutions(self.convolutions)

    def forward(self, maps: Tensor) -> list[Tensor]:
        return [self.head(self.convolutions(maps).flatten(1))]

    def slopes(self, maps: Tensor) -> Tensor:
        """∇D at each of ``maps``, [N, C, h, h]; differentiable by the weights."""
        return slopes(self.convolutions, self.head.weight, maps, SLOPE)


# ---------------------------------------------------------------------------------------------- inversion


class Inverter(nn.Module):
    """Feature inversion (Dosovitskiy and Brox 2016, as appendix A.1.2 has it): a map [N, C, h, h] -> the image [N, 3,
    S, S].

    Three convolutions, transposed convolutions that halve the channels until the image's size is there, a convolution
    to three channels, tanh; LeakyReLU and no norm. Maps of more than 512 channels (MobileNet's deepest) are narrowed to
    512 at first.
    """

    def __init__(self, channels: int, side: int, image_side: int, width: float = 1.0) -> None:
        super().__init__()
        c = scaled(min(channels, HEAD_CHANNELS), width)
        doublings = max(0, round(math.log2(image_side / side)))
        self.sides = [-(-image_side // 2**k) for k in reversed(range(doublings))]
        self.image_side = image_side
        self.first = nn.ModuleList([nn.Conv2d(channels, c, 3, 1, 1), *(nn.Conv2d(c, c, 3, 1, 1) for _ in range(2))])
        self.up = nn.ModuleList()
        for _ in self.sides:
            half = max(4, c // 2)
            self.up.append(nn.ConvTranspose2d(c, half, 4, 2, 1))
            c = half
        self.last = nn.Conv2d(c, 3, 3, 1, 1)
        kaiming_convolutions(self)

    def forward(self, maps: Tensor) -> Tensor:
        x = maps
        for layer in self.first:
            x = F.leaky_relu(layer(x), SLOPE)
        for layer, side in zip(self.up, self.sides, strict=True):
            x = F.leaky_relu(grow(layer, x, side), SLOPE)  # type: ignore[arg-type]
        if x.shape[-1] != self.image_side:
            x = F.interpolate(x, size=(self.image_side, self.image_side), mode="bilinear", align_corners=False)
        return torch.tanh(self.last(x).float())


# ---------------------------------------------------------------------------------------------- DeepVAE


class MapEncoder(nn.Module):
    """Supplement, Table 4: E5, the deepest map [N, C, h, h] -> (mean, log variance) of its latent, each [N, Z]."""

    def __init__(self, channels: int, side: int, latent: int, width: float = 1.0) -> None:
        super().__init__()
        c = scaled(channels, width)
        self.convolutions = nn.Sequential()
        for i in range(5):
            self.convolutions.append(nn.Conv2d(channels if i == 0 else c, c, 3, 2 if i == 0 else 1, 1))
            self.convolutions.append(group_norm(c)).append(nn.LeakyReLU(SLOPE))
        self.head = nn.Linear(c * (-(-side // 2)) ** 2, 2 * latent)
        normal_convolutions(self.convolutions)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.head(self.convolutions(maps).flatten(1)).float().chunk(2, dim=1)
        return mean, log_variance


class MapDecoder(nn.Module):
    """Supplement, Table 5: G5, a latent [N, Z] -> the deepest map [N, C, h, h]. The first convolution is after a
    doubling. The last layer is tanh; GN and LeakyReLU, as the table lists it, cannot give maps in [-1, 1]."""

    def __init__(self, channels: int, side: int, latent: int, width: float = 1.0) -> None:
        super().__init__()
        c, self.side, self.small = scaled(channels, width), side, -(-side // 2)
        self.head = nn.Linear(latent, c * self.small**2)
        self.convolutions = nn.ModuleList()
        for i in range(5):
            outputs = channels if i == 4 else c
            layer = nn.Sequential(nn.Conv2d(c, outputs, 3, 1, 1))
            if i == 4:
                layer.append(Tanh())
            else:
                layer.append(group_norm(outputs)).append(nn.LeakyReLU(SLOPE))
            self.convolutions.append(layer)
        normal_convolutions(self.convolutions)

    def forward(self, latent: Tensor) -> Tensor:
        x: Tensor = self.head(latent).unflatten(1, (-1, self.small, self.small))  # [N, C, h/2, h/2]
        x = F.interpolate(x, size=(self.side, self.side), mode="nearest")
        for layer in self.convolutions:
            x = layer(x)
        made: Tensor = x.float()
        return made
