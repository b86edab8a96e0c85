"""A feature pyramid: five layers of a pretrained classifier, normalised and clamped, deep to shallow.

Katzir et al., Cross-Domain Cascaded Deep Translation, section 3, "Pre-processing": each channel of each level is normalised
by its mean and standard deviation over its domain, then clamped to [-1, 1]. Levels are numbered as in the paper: 5 is the
deepest (conv_5_1 of VGG-19), 1 the shallowest.

Legend: N batch, C channels, S side of the image in pixels, h side of a map; images [N, 3, S, S] in [-1, 1].
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unpaired.errors import ConfigError, nearest
from unpaired.networks.blocks import kaiming_convolutions
from unpaired.networks.features import NETWORKS, Features, load_pretrained
from unpaired.networks.mobilenet import ConvBN

Tap = Literal["before", "after"]
"""Where a level is taken: before or after its ReLU."""
LEVELS = 5
DEAD = 1e-6
"""A channel whose standard deviation is below this is constant; it is divided by 1 instead."""
BLOCK = 16
"""Images at a time while statistics are gathered."""


class Moments:
    """Mean and standard deviation of each channel over samples and positions, block by block, in float64.

    Blocks are merged by their counts, means and sums of squared deviations (Chan, Golub and LeVeque 1983), which does not
    cancel where the mean is large.
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

    Made with random weights and statistics 0 and 1; :meth:`prepare` fills both. Weights and statistics are in its state.
    Maps are of type float32, computed in the precision around, and nothing is ever turned back into raw features.

    Args:
        network: a name of ``NETWORKS`` with a pyramid.
        levels: those that are asked for.
        domains: how many sets of statistics.
        side: of the images in pixels.
        tap: before or after the ReLU.
        clamp_at: standard deviations that become 1.

    Raises ConfigError for an unknown network or a size that it cannot take.
    """

    def __init__(
        self, network: str, levels: Sequence[int], domains: int, side: int, *, tap: Tap = "before", clamp_at: float = 1
    ) -> None:
        super().__init__()
        able = [name for name, kind in NETWORKS.items() if kind.pyramid]
        if network not in able:
            raise ConfigError(
                f"no feature pyramid of '{network}'.{nearest(network, able)} There are: {', '.join(able)}."
            )
        self.network, self.levels, self.tap, self.clamp_at = network, tuple(levels), tap, clamp_at
        pairs = NETWORKS[network].pyramid
        self.layer = {level: pairs[level - 1][tap == "after"] for level in range(1, LEVELS + 1)}
        self.relu = {level: pairs[level - 1][1] for level in range(1, LEVELS + 1)}
        taps = tuple(dict.fromkeys([*self.layer.values(), *self.relu.values()]))
        self.features = Features(network, taps).eval()
        kaiming_convolutions(self.features)
        self.channels, self.sides = _shapes(self.features, self.relu, side)
        for level in self.levels:
            self.register_buffer(f"mean{level}", torch.zeros(domains, self.channels[level]))
            self.register_buffer(f"std{level}", torch.ones(domains, self.channels[level]))

    def train(self, mode: bool = True) -> Pyramid:
        """The classifier stays in eval mode whatever the mode around it: batch norms keep their pretrained statistics."""
        super().train(mode)
        self.features.eval()
        return self

    # -- filling

    def prepare(
        self,
        weights: str,
        domains: Sequence[str],
        examples: Callable[..., Tensor] | None,
        limit: int | None = None,
    ) -> list[dict[str, str]]:
        """Load ``weights`` and gather the statistics of every domain; where the weights came from.

        Args:
            weights: ``pretrained``, ``random``, or a file or folder (a fine-tuned network is a file, too).
            examples: (domain, at most so many, from this one on) -> images; None leaves the statistics as they are.
            limit: images of each domain that statistics are taken from; None takes all.

        Raises WeightsError.
        """
        about = [] if weights == "random" else [self.load(weights)]
        self.take_statistics(domains, examples, limit)
        return about

    def take_statistics(
        self, domains: Sequence[str], examples: Callable[..., Tensor] | None, limit: int | None = None
    ) -> None:
        """Gather the statistics of every domain from its images; arguments as of :meth:`prepare`."""
        if examples is not None:
            for number, domain in enumerate(domains):
                self.measure(number, blocks(examples, domain, limit))

    def load(self, weights: str) -> dict[str, str]:
        """Fill the network from ``pretrained`` or a path; where it came from. Raises WeightsError."""
        from unpaired import finetuning  # not at the top: it trains, and so imports what imports this

        path = None if weights == "pretrained" else Path(weights).expanduser()
        if path is not None and finetuning.is_finetuned(path):
            return finetuning.fill(self.features, path)
        return load_pretrained(self.features, path)

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
        if (
            images.device.type == "cpu" and not torch.is_grad_enabled()
        ):  # takes 0.75 of the time (docs/results/speed.md)
            images = images.contiguous(memory_format=torch.channels_last)
        return self.features(images, [self.layer[level] for level in levels])  # type: ignore[no-any-return]

    def normalise(self, level: int, maps: Tensor, domain: int) -> Tensor:
        """(x - mean) / (k std) of each channel, clamped to [-1, 1]; k is ``clamp_at``. [N, C, h, h] float32."""
        mean = self.get_buffer(f"mean{level}")[domain][:, None, None]
        std = self.get_buffer(f"std{level}")[domain][:, None, None]
        return ((maps.float() - mean) / (self.clamp_at * std)).clamp(-1, 1).contiguous()

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
        """SHA-256 of what decides the maps of ``levels``: network, tap, k, weights, statistics."""
        sha = hashlib.sha256(repr((self.network, self.tap, float(self.clamp_at), tuple(levels))).encode())
        kept = {f"{kind}{level}" for kind in ("mean", "std") for level in levels}
        for name, tensor in self.state_dict().items():
            if "." in name or name in kept:
                hash_tensor(sha, name, tensor)
        return sha.digest()


def hash_tensor(sha: hashlib._Hash, name: str, tensor: Tensor) -> None:
    """Name, type, shape and bytes into ``sha``."""
    sha.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
    sha.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)


def blocks(examples: Callable[..., Tensor], domain: str, limit: int | None) -> Iterator[Tensor]:
    """All images of a domain (at most ``limit``), ``BLOCK`` at a time."""
    first = 0
    while limit is None or first < limit:
        block = examples(domain, BLOCK if limit is None else min(BLOCK, limit - first), first)
        if not len(block):
            return
        yield block
        first += len(block)


def _shapes(features: Features, layers: Mapping[int, str], side: int) -> tuple[dict[int, int], dict[int, int]]:
    """Channels and side of each level's map for images of ``side`` pixels, from what the layers before it do to a side.

    A pass without contents would tell the same, but PyTorch imports its compiler for one. Raises ConfigError: too small.
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


def quantise(maps: Tensor, kind: str) -> Tensor:
    """Maps in [-1, 1] as they are kept on disk: ``uint8`` (256 equal steps, -1 and 1 exactly) or ``bf16``."""
    if kind == "bf16":
        return maps.to(torch.bfloat16)
    return ((maps + 1) * 127.5).round().to(torch.uint8)


def restore(kept: Tensor) -> Tensor:
    """What :func:`quantise` gave, as float32 again."""
    return kept.float() / 127.5 - 1 if kept.dtype == torch.uint8 else kept.float()
