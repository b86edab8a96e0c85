"""CycleGAN: Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks (Zhu et al., ICCV 2017).

Two generators, there and back. Each has to fool a discriminator of its target domain (Eq. 1), and what goes there and
back has to come back (Eq. 2). The defaults are those of the paper and its released code; docs/methods/cycle.md lists
the few that are not the paper's, and what the other settings bring where time is short.

Legend: a and b are the two domains (the paper's X and Y) in the order of ``Method.domains``; x [N, 3, H, W] in [-1, 1]
is an image; x_ab is an image of a translated to b, x_aba that image translated back; λ weighs the cycle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import Field
from torch import Tensor, nn

from unpaired import losses
from unpaired.batch import Batch, Pair
from unpaired.errors import ConfigError
from unpaired.methods.base import Adam, Method, Stage, Start, Update
from unpaired.methods.levers import (
    LeverConfig,
    falling,
    fill,
    judge_betas,
    measure_colours,
    projected,
    started,
    trained,
)
from unpaired.networks.augment import augment
from unpaired.networks.convnets import ImageBuffer, Norm, ResnetGenerator, normal_convolutions
from unpaired.networks.discriminators import OverlappingPatches
from unpaired.networks.projected import ProjectedDiscriminator

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]


class CycleConfig(LeverConfig):
    """Every number of the paper and its released code."""

    width: Count = 64
    """Channels of a generator's first layer."""
    residual_blocks: Count = 9
    """Residual blocks of each generator; 6 for images of 128 pixels in the paper."""
    norm: Norm = "instance"
    """After the generators' convolutions. ``pixel`` looks at each pixel alone, so that a large picture is translated as
    its crops are."""
    discriminator_width: Count = 64
    """Channels of a PatchGAN's first layer, and within a head."""
    discriminator_layers: Count = 3
    """A PatchGAN's convolutions of stride 2."""

    gan: losses.Adversarial = "lsgan"
    """Adversarial loss; ``hinge`` for ``projected``."""
    history: Annotated[int, Field(ge=0)] = 50
    """Translations kept for each discriminator; 0 shows it the newest only."""
    cycle_weight: Weight = 10.0
    """λ of Eq. 3."""
    identity_weight: Weight = 0.5
    """Of the mean |G(y) - y| (section 5.2), as a share of λ."""

    lr: Rate = 2e-4
    """Adam's learning rate of the generators."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Adam's momentums."""
    decay_from: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the steps after which the rates fall linearly to 0: 100 of 200 epochs in the paper."""
    batch_size: Count = 1
    """Images of each domain in a step."""
    steps: Count = 266_800
    """Training steps: 200 epochs of the 1,334 zebras."""


class Translated(NamedTuple):
    """A batch translated both ways, with its graph."""

    x_ab: Tensor
    x_ba: Tensor


class Cycle(Method):
    """Two-way translation held by a cycle (arXiv 1703.10593).

    One stage, two updates: the generators, then the discriminators, which see what was translated before the
    generators' step. Deterministic; accepts sizes divisible by 4.
    """

    Config: ClassVar[type[CycleConfig]] = CycleConfig
    training_only: ClassVar[tuple[str, ...]] = ("discriminators", "past")
    stride: int = ResnetGenerator.STRIDE

    def __init__(
        self, config: CycleConfig, domains: tuple[str, ...], *, image_size: int, classes: tuple[str, ...] = ()
    ):
        super().__init__(config, domains, image_size=image_size, classes=classes)
        least = 3 * 2**config.discriminator_layers
        if image_size % self.stride or image_size < least:
            raise ConfigError(
                f"data.size = {image_size}: these networks need a multiple of {self.stride}, at least {least}"
            )
        self.generators = nn.ModuleList([self._generator(), self._generator()])  # a to b (the paper's G), b to a (F)
        self.discriminators = self._discriminators()  # D_a, D_b
        self.past = nn.ModuleList([ImageBuffer(config.history, image_size) for _ in domains])  # of domain a, of b

    def _generator(self) -> nn.Module:
        c: CycleConfig = self.config
        network = ResnetGenerator(c.width, c.residual_blocks, norm=c.norm, resize=c.resize_convolutions)
        normal_convolutions(network, zero_bias=True)
        return started(network, c)

    def _discriminators(self) -> nn.Module:
        c: CycleConfig = self.config
        if c.discriminator == "projected":
            return projected(c, len(self.domains), c.discriminator_width)
        patches = [OverlappingPatches(c.discriminator_width, c.discriminator_layers, norm="instance") for _ in "ab"]
        both = nn.ModuleList(patches)
        normal_convolutions(both, zero_bias=True)
        return both

    def prepare(self, start: Start) -> None:
        """Colours of the training images for the start, pretrained weights for the projected discriminator. Raises
        WeightsError."""
        a, b = self.domains
        for generator, (source, target) in zip(self.generators, ((a, b), (b, a)), strict=True):
            measure_colours(generator, self.config, start, source, target)
        fill(self.discriminators, self.config, start, self.domains)

    # -- plan

    @property
    def pairs(self) -> Sequence[Pair]:
        """One pair: every batch holds images of both domains and trains both directions."""
        return ((self.domains[0], self.domains[1]),)

    def stages(self) -> tuple[Stage, ...]:
        c: CycleConfig = self.config

        schedule = falling(c.decay_from)
        adam = Adam(c.lr, c.betas, schedule=schedule)
        other = Adam(c.discriminator_lr or c.lr, judge_betas(c, c.betas), schedule=schedule)
        updates = (
            Update("generators", self.generator_loss, (self.generators,), adam, through_forward=True),
            Update("discriminators", self.discriminator_loss, trained(self.discriminators), other),
        )
        return (Stage("train", c.steps, updates, c.batch_size, forward=self.forward, train_mode=(self.past,)),)

    # -- translation

    def render(self, images: Tensor, source: str | None, target: str, *inputs: Tensor) -> Tensor:
        """G(x) or F(x)."""
        if (source, target) not in self.directions:
            raise ConfigError(f"this model translates between {' and '.join(self.domains)}, not {source} to {target}")
        translated: Tensor = self.generators[self.domains.index(source)](images)
        return translated

    # -- losses

    def forward(self, batch: Batch) -> Translated:
        """G(x) of domain a and F(y) of domain b."""
        there, back = self.generators
        return Translated(x_ab=there(batch.source), x_ba=back(batch.target))

    def judge(self, images: Tensor, domain: int) -> list[Tensor]:
        """D_a or D_b of augmented images: logits, one map a scale."""
        images = augment(images, self.config.augment)
        judges: Any = self.discriminators
        logits: list[Tensor] = (
            judges(images, domain) if isinstance(judges, ProjectedDiscriminator) else judges[domain](images)
        )
        return logits

    def generator_loss(self, batch: Batch, made: Translated) -> dict[str, Tensor]:
        """Eq. 3 for the generators: both adversarial losses, the cycle, and the identity of section 5.2."""
        c: CycleConfig = self.config
        there, back = self.generators
        x_a, x_b = batch.source, batch.target
        adversarial = losses.fooling(self.judge(made.x_ab, 1), c.gan) + losses.fooling(self.judge(made.x_ba, 0), c.gan)
        terms = {"adversarial": adversarial}  # Eq. 1
        if c.cycle_weight > 0:
            error = losses.mean_l1(back(made.x_ab), x_a) + losses.mean_l1(there(made.x_ba), x_b)
            terms["cycle"] = c.cycle_weight * error  # Eq. 2
        if c.cycle_weight * c.identity_weight > 0:
            error = losses.mean_l1(there(x_b), x_b) + losses.mean_l1(back(x_a), x_a)
            terms["identity"] = c.cycle_weight * c.identity_weight * error
        return terms

    def discriminator_loss(self, batch: Batch, made: Translated) -> dict[str, Tensor]:
        """Eq. 1 for the discriminators, halved as in the released code; they see a history of translations."""
        c: CycleConfig = self.config
        terms = {}
        for domain, real, fake in ((0, batch.source, made.x_ba), (1, batch.target, made.x_ab)):
            judged_real = self.judge(real, domain)
            judged_fake = self.judge(self.past[domain](fake.detach()), domain)
            name = f"of-{'ab'[domain]}"
            terms[name] = 0.5 * (losses.judged_real(judged_real, c.gan) + losses.judged_fake(judged_fake, c.gan))
            self.monitor[f"{name}/sign_accuracy"] = losses.sign_accuracy(judged_real, judged_fake, c.gan)
        return terms
