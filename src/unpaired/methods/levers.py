"""Levers for short trainings, the same for every method that can use them; each is off where a paper is followed.

What the defaults of the 2017 papers need days for is reached in minutes with a start that is already somewhere, a
discriminator over features that are already there, and real and generated images shaken before they are judged.
docs/methods/cycle.md lists them.

Legend: N batch, H height, W width; images [N, 3, H, W] in [-1, 1]; a player is one of the discriminators that a method
needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from unpaired.config import MethodConfig
from unpaired.methods.base import Start
from unpaired.networks.augment import Augmentation
from unpaired.networks.classifiers import Features
from unpaired.networks.colour_map import ColourStart, colour_moments
from unpaired.networks.convnets import ResnetGenerator, kaiming_convolutions
from unpaired.networks.projected import ProjectedDiscriminator

MEASURED = 256
"""Training images of each domain whose colours make the start ``colour``."""
SPREAD_OF = 32
"""Training images of each domain on which the maps of a frozen classifier are measured."""


class LeverConfig(MethodConfig):
    """The levers, all of them off."""

    start: Literal["none", "identity", "colour"] = "none"
    """What a generator adds its changes to: nothing, its input, or its input after the best linear map of its colours
    to the other domain's."""
    init: Literal["normal", "kaiming"] = "normal"
    """First weights of the generators: N(0, 0.02²), or scaled to each layer's inputs."""
    resize_convolutions: bool = False
    """Double sizes by repeating pixels and a convolution in place of transposed convolutions, which draw chequers at
    first."""
    discriminator: Literal["patches", "projected"] = "patches"
    """A PatchGAN, or small heads over the maps of a frozen classifier (Projected GAN, Sauer et al. 2021)."""
    patch_weight: Annotated[float, Field(ge=0)] = 0.0
    """Of a small PatchGAN beside ``projected`` heads, against patterns of single pixels; 0 leaves it out."""
    judge_network: Literal["efficientnet_lite0", "mobilenet_v1"] = "efficientnet_lite0"
    """The frozen classifier of ``projected``."""
    judge_taps: Annotated[tuple[str, ...], Field(min_length=1)] = ("stride2", "stride4", "stride8", "stride16")
    """Its layers that are judged."""
    judge_scale: Annotated[float, Field(ge=1)] = 1.0
    """Images are magnified by it for the frozen classifier, which then sees details at the size it knows them from."""
    augment: tuple[Augmentation, ...] = ()
    """Changes of what is judged, real and generated alike: DiffAugment (Zhao et al. 2020)."""
    discriminator_lr: Annotated[float, Field(gt=0)] | None = None
    """Learning rate of the discriminators; None is that of the generators."""
    weights: str = "pretrained"
    """Weights of all pretrained networks: ``pretrained`` (found by name or downloaded), a file or folder with them, or
    ``random``."""

    @model_validator(mode="after")
    def _projected(self) -> Self:
        if self.patch_weight and self.discriminator != "projected":
            raise ValueError('patch_weight is for discriminator = "projected"; "patches" is a PatchGAN alone')
        return self


def projected(c: LeverConfig, players: int = 1, width: int = 64) -> ProjectedDiscriminator:
    """The discriminator that stands in for one PatchGAN or ``players`` of them."""
    features = Features(c.judge_network, c.judge_taps)
    kaiming_convolutions(features)  # stands where no pretrained weights are asked for
    return ProjectedDiscriminator(features, players, scale=c.judge_scale, width=width, patch_weight=c.patch_weight)


def judge_betas(c: LeverConfig, betas: tuple[float, float]) -> tuple[float, float]:
    """Adam's momentums of the discriminators: the generators' ``betas``, or for ``projected`` those of Sauer et al."""
    return (0.0, 0.99) if c.discriminator == "projected" else betas


def trained(discriminator: nn.Module) -> tuple[nn.Module, ...]:
    """The parts of a discriminator that an update may change."""
    return discriminator.trained if isinstance(discriminator, ProjectedDiscriminator) else (discriminator,)


def fill(discriminator: nn.Module, c: LeverConfig, start: Start, domains: Sequence[str]) -> None:
    """Pretrained weights for a projected discriminator's classifier, and the spread of its maps on training images of
    ``domains``. Raises WeightsError."""
    if isinstance(discriminator, ProjectedDiscriminator) and c.weights != "random":
        discriminator.features.fill(*start.classifier(c.judge_network, c.weights))
        discriminator.measure(torch.cat([start.examples(domain, SPREAD_OF) for domain in domains]))


def started(network: ResnetGenerator, c: LeverConfig) -> nn.Module:
    """``network``, whose weights are normal, with those and the start that are asked for."""
    if c.init == "kaiming":
        kaiming_convolutions(network)
    return network if c.start == "none" else ColourStart(network, network.head)


def measure_colours(generator: nn.Module, c: LeverConfig, start: Start, source: str, target: str) -> None:
    """Give the start ``colour`` its map from the colours of the training images of two domains. A generator that was
    trained keeps its own."""
    if c.start == "colour" and start.begun_with is None and isinstance(generator, ColourStart):
        generator.measure(*(colour_moments(start.examples(domain, MEASURED)) for domain in (source, target)))


def falling(share: float) -> Callable[[int, int], float]:
    """Schedule: the full rate for ``share`` of a stage's steps, then linearly to 0."""
    return lambda step, steps: min(1.0, (1 - step / steps) / (1 - share)) if share < 1 else 1.0
