"""DeepI2I: Enabling Deep Hierarchical Image-to-Image Translation by Transferring from GANs (Wang, Yu and van de Weijer,
NeurIPS 2020).

A pretrained BigGAN becomes a translator between many classes: its discriminator is the encoder and, once more, the
discriminator; its generator is the generator; small adaptors carry the encoder's maps into the generator's. Equation
numbers are the paper's; docs/methods/deepi2i.md lists where the paper and the released code differ.

Legend: t [N, 3, S, S] in [-1, 1] is a source image and c [N] the class to translate it to; x, y are a real image and
its class; z [N, Z] is a latent. Υ is the encoder, Λ the adaptors, Φ the generator, Ψ the discriminator.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from unpaired import losses
from unpaired.batch import Batch, Pair
from unpaired.config import MethodConfig
from unpaired.errors import CheckpointError, ConfigError
from unpaired.methods.base import Adam, Stage, Start, Update, one_way
from unpaired.methods.gans import (
    GANS,
    Betas,
    BigGANSettings,
    Count,
    DiscriminatorRate,
    Epsilon,
    GeneratorRate,
    OnBigGAN,
    OnGAN,
    OnStyleGAN,
    Rate,
    StyleGANSettings,
    Weight,
)
from unpaired.networks import stylegan
from unpaired.networks.biggan import Discriminator, DiscriminatorBlock, Features, Generator, orthogonal_weights
from unpaired.networks.convnets import steady

# ----------------------------------------------------------------------------------------------------
# What both variants of DeepI2I have in common: encoder, adaptors, two phases, reconstruction in the discriminator's
# features. No method of its own: ``deepi2i`` puts it on BigGAN, ``deepi2i-stylegan`` on StyleGAN.
#
# Legend: subscript r is a resolution: the paper's layers l = 3, 4, 5, 6 are r = 32, 16, 8, 4 (at 128 pixels).

log = logging.getLogger("unpaired")
Part = Literal["encoder", "generator", "discriminator"]
Taps = Mapping[int, Tensor]
"""Maps [N, C, r, r] of the encoder by resolution r: Υ_r(t)."""
AdaptorRate = Annotated[Rate, Field(description="Adam's learning rate for the adaptors.")]
EncoderRate = Annotated[Rate, Field(description="Adam's learning rate for the encoder where it is trained.")]
SCRATCH_DEFAULTS: dict[str, Any] = {
    "transfer": (),
    "freeze_encoder": False,
    "w_4": 1.0,
    "w_8": 1.0,
    "w_16": 1.0,
    "w_32": 0.1,
}
"""What ``mode = "scratch"`` changes in the defaults, as in the released code."""


class HierarchicalConfig(MethodConfig):
    """Every number of the paper that both variants have."""

    mode: Literal["transfer", "scratch"] = "transfer"
    """``transfer`` from a pretrained GAN in two phases, or all four networks from random weights in one phase."""
    transfer: tuple[Part, ...] = ("encoder", "generator", "discriminator")
    """Networks that start from ``pretrained`` (Fig. 6, left); the others start from random weights."""

    adaptor: Literal["network", "none"] = "network"
    """``none`` adds the encoder's maps as they are, repeated where the generator has more channels (†DeepI2I, Fig.
    3)."""
    w_4: Weight = 0.1
    """w_l of Eq. 5 at 4 pixels (l = 6); 0 takes this adaptor out (Fig. 3)."""
    w_8: Weight = 0.1
    """The same at 8 pixels (l = 5)."""
    w_16: Weight = 0.1
    """The same at 16 pixels (l = 4)."""
    w_32: Weight = 0.1
    """The same at 32 pixels (l = 3)."""
    downsampling: Annotated[int, Field(ge=1)] = 8
    """Only maps that this many halvings or fewer lead to are used by adaptors and reconstruction (Fig. 6, middle); 5 is
    all at 128 pixels, 6 at 256, and more than an image allows means all."""
    freeze_encoder: bool = True
    """Keep the encoder as it is; the paper found that slightly better."""

    reconstruction: Literal["l1", "mse"] = "l1"
    """Distance of discriminator features: ``l1`` as in Eq. 3, or ``mse`` as released."""
    alpha_4: Weight = 0.1
    """α_l of Eq. 3 at 4 pixels."""
    alpha_8: Weight = 0.1
    """The same at 8 pixels."""
    alpha_16: Weight = 0.1
    """The same at 16 pixels."""
    alpha_32: Weight = 0.01
    """The same at 32 pixels."""
    adversarial_weight: Weight = 1.0
    """λ_adv of Eq. 4, for the generator."""
    reconstruction_weight: Weight = 1.0
    """λ_rec of Eq. 4."""

    lr_generator: GeneratorRate = 1e-4
    lr_adaptor: AdaptorRate = 4e-4
    lr_encoder: EncoderRate = 4e-4
    lr_discriminator: DiscriminatorRate = 4e-4
    betas: Betas = (0.0, 0.999)
    eps: Epsilon = 1e-6
    batch_size: Count = 32
    """Source images in a step, and as many real target images."""
    adaptor_steps: Annotated[int, Field(ge=0)] = 500
    """Steps of the first phase: adaptors and discriminator. Counted from the start of this run."""
    finetune_steps: Count = 30_000
    """Steps of the second phase, with the generator; not stated in the paper, the released tests look at up to
    30,000."""

    @model_validator(mode="before")
    @classmethod
    def _mode_defaults(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("mode") == "scratch":
            return {**SCRATCH_DEFAULTS, **values}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.mode == "scratch" and (self.transfer or self.freeze_encoder):
            raise ValueError('mode = "scratch" needs transfer = [] and freeze_encoder = false')
        if not any(self.level_weights.values()):
            raise ValueError(
                f"{' and '.join(f'w_{r}' for r in self.level_weights)} are all 0: "
                "the translation would not see its input"
            )
        return self

    @property
    def level_weights(self) -> dict[int, float]:
        """w by resolution, in the official order of the adaptors."""
        return {32: self.w_32, 16: self.w_16, 8: self.w_8, 4: self.w_4}

    @property
    def feature_weights(self) -> dict[int, float]:
        """α by resolution."""
        return {32: self.alpha_32, 16: self.alpha_16, 8: self.alpha_8, 4: self.alpha_4}

    def with_steps(self, total: int) -> Self:
        """``total`` steps in all. The first phase keeps its length, which does not depend on that of the second, up to
        half."""
        first = 0 if self.mode == "scratch" else min(self.adaptor_steps, total // 2)
        return self.model_copy(update={"adaptor_steps": first, "finetune_steps": total - first})


class Adaptors(nn.Module):
    """Λ: for each resolution a block of its own, from the encoder's channels to the generator's."""

    def __init__(self, resolutions: tuple[int, ...], block: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.resolutions = resolutions
        self.blocks = nn.ModuleList(  # two levels of lists, as the official names have them
            nn.ModuleList([block(r)]) for r in resolutions
        )

    def forward(self, taps: Mapping[int, Tensor]) -> dict[int, Tensor]:
        return {r: block[0](taps[r]) for r, block in zip(self.resolutions, self.blocks, strict=True)}  # type: ignore[index]


class Repeat(nn.Module):
    """In place of adaptors: the encoder's maps, their channels repeated up to the generator's number."""

    def __init__(self, times: Mapping[int, int]) -> None:
        super().__init__()
        self.times = dict(times)

    def forward(self, taps: Mapping[int, Tensor]) -> dict[int, Tensor]:
        return {r: taps[r].repeat(1, n, 1, 1) for r, n in self.times.items()}


class Hierarchical(OnGAN):
    """Base of both variants. Trains the adaptors and the discriminator first, then the generator too (section 3.2, last
    paragraph). A step draws source images, and real images of what they are translated to."""

    training_only: ClassVar[tuple[str, ...]] = ("discriminator",)
    gan: ClassVar[str] = "biggan"
    """Method key of what ``pretrained`` must hold."""
    second_order: ClassVar[bool] = False
    """The discriminator's loss differentiates a gradient."""
    encoder: nn.Module
    generator: nn.Module
    discriminator: nn.Module

    def connect(self, taps: Mapping[int, int], maps: Mapping[int, int], block: Callable[[int, int], nn.Module]) -> None:
        """Make the adaptors. ``taps`` and ``maps``: channels of encoder and generator by resolution; ``block`` makes
        one adaptor from both numbers. Raises ConfigError where the two never meet."""
        c: HierarchicalConfig = self.config
        least = self.image_size // 2**c.downsampling
        usable = [r for r in c.level_weights if r in taps and r in maps and r >= least]
        self.resolutions = tuple(r for r in usable if c.level_weights[r] > 0)
        """Where the encoder feeds the generator."""
        self.compared = tuple(r for r in usable if c.feature_weights[r] > 0)
        """Where the reconstruction loss looks."""
        if not self.resolutions:
            raise ConfigError(
                f"at {self.image_size} pixels and downsampling = {c.downsampling} encoder and generator meet at "
                f"{', '.join(map(str, usable)) or 'no'} pixels, and no weight w_… is above 0 there"
            )
        self.adaptors: Adaptors | Repeat
        if c.adaptor == "network":
            self.adaptors = Adaptors(self.resolutions, lambda r: block(taps[r], maps[r]))
        else:
            self.adaptors = Repeat({r: maps[r] // taps[r] for r in self.resolutions})

    def check_start(self) -> None:
        """A transfer wants a pretrained GAN, and training from scratch wants none."""
        c: HierarchicalConfig = self.config
        if c.mode == "scratch" and self.config.pretrained:
            raise ConfigError(
                f'model.mode = "scratch" would use nothing of {self.config.pretrained}: leave out --pretrained, '
                "or the mode"
            )
        if c.transfer and not self.config.pretrained:
            raise ConfigError(
                f"DeepI2I starts from a pretrained GAN: --pretrained FILE. {GANS[self.gan].way}. "
                "Without any: --set model.mode=scratch"
            )

    def prepare(self, start: Start) -> None:
        """Networks of the pretrained GAN. Raises CheckpointError, ConfigError."""
        c: HierarchicalConfig = self.config
        if start.begun_with is not None:
            if "discriminator" not in start.begun_with.parts:
                self._find_discriminator(start)
            return
        self.check_start()
        if not c.transfer:
            return
        generator, discriminator = self.pretrained_states(start)
        if "encoder" in c.transfer:
            own = self.encoder.state_dict()
            self.encoder.load_state_dict({k: v for k, v in discriminator.items() if k in own})
        if "discriminator" in c.transfer:
            self.discriminator.load_state_dict(discriminator)
        if "generator" in c.transfer:
            self.generator.load_state_dict(generator)

    def _find_discriminator(self, start: Start) -> None:
        """For a run that begins with a translator's shared file, which has none: that of the pretrained GAN, or random
        weights where its file is gone."""
        if "discriminator" in self.config.transfer and self.config.pretrained:
            try:
                _, discriminator = self.pretrained_states(start)
            except (CheckpointError, ConfigError) as error:
                log.warning(
                    "the model of --start-from holds no discriminator, and that of the pretrained GAN cannot be had "
                    "(%s): it begins with random weights, and so do the features that translations are compared in. "
                    "--pretrained GAN names another file",
                    error,
                )
            else:
                self.discriminator.load_state_dict(discriminator)
                return
        self.draw_discriminator()

    def draw_discriminator(self) -> None:
        """Give the discriminator the random weights of a network that starts from none, where those are not the ones it
        is built with."""
        return

    def generator_parts(self) -> list[tuple[nn.Module, float]]:
        """What trains in the generator, with its learning rate."""
        return [(self.generator, self.config.lr_generator)]

    def stages(self) -> tuple[Stage, ...]:
        c: HierarchicalConfig = self.config
        judge = Update(
            "discriminator", self.discriminator_loss, (self.discriminator,), Adam(c.lr_discriminator, c.betas, c.eps),
            second_order=self.second_order,
        )  # fmt: skip
        players: list[tuple[nn.Module, float]] = [(self.adaptors, c.lr_adaptor)] if c.adaptor == "network" else []
        everyone = [*players, *self.generator_parts()]
        if not c.freeze_encoder:
            everyone.append((self.encoder, c.lr_encoder))

        def translators(trained: list[tuple[nn.Module, float]]) -> Update:
            return Update(
                "translator",
                self.generator_loss,
                tuple(module for module, _ in trained),
                Adam(everyone[0][1], c.betas, c.eps),
                rates=tuple(lr / everyone[0][1] for _, lr in trained),
            )

        first = (judge, translators(players)) if players else (judge,)
        forward = self.frozen_taps if c.freeze_encoder else None
        finetune = Stage("finetune", c.finetune_steps, (judge, translators(everyone)), c.batch_size, forward)
        if c.mode == "scratch":
            return (finetune,)
        # batch norms of the fixed generator see maps with something added to them: their statistics must follow
        return (Stage("adaptor", c.adaptor_steps, first, c.batch_size, forward, train_mode=(self.generator,)), finetune)

    # -- translation

    def encode(self, images: Tensor) -> dict[int, Tensor]:
        """Υ_r(t) by resolution."""
        taps: dict[int, Tensor] = self.encoder(images)
        return {r: taps[r] for r in self.resolutions}

    def added(self, taps: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """w_l Λ_l of Eq. 5."""
        weights = self.config.level_weights
        return {r: weights[r] * a for r, a in self.adaptors(taps).items()}

    # -- training

    def frozen_taps(self, batch: Batch) -> dict[int, Tensor]:
        """Υ_r(t) of a frozen encoder, which are the same for both players, without a graph."""
        with torch.no_grad(), steady(self.encoder):
            return self.encode(batch.source)

    @abstractmethod
    def discriminator_loss(self, batch: Batch, taps: Taps | None = None) -> dict[str, Tensor]:
        """The discriminator's part of Eq. 1."""

    @abstractmethod
    def translated(self, batch: Batch, taps: Taps | None) -> Tensor:
        """Translations of the batch's sources, whose encoder maps are ``taps`` (None: not there yet), with latents
        drawn for training."""

    @abstractmethod
    def fooling(self, psi: Mapping[int, Tensor], batch: Batch) -> Tensor:
        """The generator's part of Eq. 1 for translations whose discriminator features are ``psi``."""

    def generator_loss(self, batch: Batch, taps: Taps | None = None) -> dict[str, Tensor]:
        """λ_adv L_adv + λ_rec L_rec (Eq. 4) of adaptors and generator."""
        c: HierarchicalConfig = self.config
        fake = self.translated(batch, taps)
        with steady(self.discriminator):  # so that translation and source go through the very same weights
            psi = self.discriminator.taps(fake)  # type: ignore[operator]
            terms = {"gan": c.adversarial_weight * self.fooling(psi, batch)}
            if self.compared and c.reconstruction_weight > 0:
                with torch.no_grad():
                    goal = self.discriminator.taps(batch.source)  # type: ignore[operator]
                terms["reconstruction"] = c.reconstruction_weight * self.reconstruction(psi, goal)
        return terms

    def reconstruction(self, psi: Mapping[int, Tensor], goal: Mapping[int, Tensor]) -> Tensor:
        """L_rec = Σ_l α_l ‖Ψ_l(t) - Ψ_l(translation of t)‖ (Eq. 3), the mean over the elements of each map.

        Sample i of the translations is compared with sample i of the sources alone.
        """
        c: HierarchicalConfig = self.config
        terms = []
        for r in self.compared:
            a, b = psi[r], goal[r]
            distance = losses.mean_l1(a, b) if c.reconstruction == "l1" else losses.mean_square(a.float() - b.float())
            terms.append(c.feature_weights[r] * distance)
        return torch.stack(terms).sum()


class DeepI2IConfig(BigGANSettings, HierarchicalConfig):
    """Every number of the paper and, where it has none, of the released script for animal faces."""


class DeepI2I(OnBigGAN, Hierarchical):
    """Translation to any of its classes, from any of them or from none (section 4.4); different latents, different
    results."""

    Config: ClassVar[type[DeepI2IConfig]] = DeepI2IConfig
    config: DeepI2IConfig
    encoder: Features
    generator: Generator
    discriminator: Discriminator

    def __init__(self, config: DeepI2IConfig, domains: tuple[str, ...], **rest: Any) -> None:
        super().__init__(config, domains, **rest)
        self.shape = config.shape(self.image_size, len(domains))
        self.encoder = Features(self.shape)  # Υ
        self.connect(
            self.shape.tap_channels,
            self.shape.generator_channels,
            lambda there, here: DiscriminatorBlock(there, here, halve=False),
        )  # Λ
        self.generator = Generator(self.shape)  # Φ
        self.discriminator = Discriminator(self.shape)  # Ψ
        for name in ("encoder", "generator", "discriminator"):
            if name not in config.transfer:
                orthogonal_weights(self.get_submodule(name))
        if config.mode == "scratch":
            orthogonal_weights(self.adaptors)  # with transfer they have PyTorch's initial weights, as released

    def draw_discriminator(self) -> None:
        """Orthogonal, as BigGAN begins."""
        orthogonal_weights(self.discriminator)

    def decode(self, taps: Mapping[int, Tensor], z: Tensor, c: Tensor) -> Tensor:
        """Φ(Λ(Υ(t)), z, c), [N, 3, S, S] in [-1, 1]."""
        images: Tensor = self.generator(z, c, self.added(taps))
        return images

    def render(self, images: Tensor, source: str | None, target: str, *inputs: Tensor) -> Tensor:
        """Φ(Λ(Υ(t)), z, c); ``source`` does not matter and may be None."""
        return self.decode(self.encode(images), *inputs)

    def translated(self, batch: Batch, taps: Taps | None) -> Tensor:
        """Φ(Λ(Υ(t)), z, c) with z from N(0, I) and c the classes of the real images beside."""
        z = torch.randn(len(batch), self.shape.latent, device=batch.source.device)
        return self.decode(self.encode(batch.source) if taps is None else taps, z, batch.target_domain)

    def discriminator_loss(self, batch: Batch, taps: Taps | None = None) -> dict[str, Tensor]:
        """The discriminator's part of Eq. 1 as hinge: E[max(0, 1 - Ψ(x, y))] + E[max(0, 1 + Ψ(Φ(Λ(Υ(t)), z, c),
        c))]."""
        with torch.no_grad():
            fake = self.translated(batch, taps)
        return self.hinge(fake, batch)

    def fooling(self, psi: Mapping[int, Tensor], batch: Batch) -> Tensor:
        """-E[Ψ(Φ(Λ(Υ(t)), z, c), c)]."""
        return losses.fooling([self.discriminator.judge(psi, batch.target_domain)], "hinge")


# ----------------------------------------------------------------------------------------------------
# From a pretrained StyleGAN: two domains, one direction. The paper says that a StyleGAN will do instead of a BigGAN;
# the settings are those of the released code for it. docs/methods/deepi2i.md lists what differs from that code.


class DeepI2IStyleGANConfig(StyleGANSettings, HierarchicalConfig):
    """Every number of the released script; where it departs from the paper, the paper's is the default."""

    source: str = ""
    """Name of the domain that is translated; empty: the first."""
    w_64: Weight = 0.0
    """w_l of Eq. 5 at 64 pixels; the released script has it, at 0."""
    alpha_32: Weight = 0.1
    """α_l of Eq. 3 at 32 pixels."""
    alpha_64: Weight = 0.0
    """The same at 64 pixels."""
    lr_generator: GeneratorRate = 1e-3
    lr_adaptor: AdaptorRate = 1e-3
    lr_encoder: EncoderRate = 1e-3
    lr_discriminator: DiscriminatorRate = 1e-3
    betas: Betas = (0.0, 0.99)
    eps: Epsilon = 1e-8
    finetune_steps: Count = 30_000
    """Steps of the second phase, with the generator; the released script has no end."""

    @property
    def level_weights(self) -> dict[int, float]:
        """w by resolution, in the official order of the adaptors."""
        return {64: self.w_64, **super().level_weights}

    @property
    def feature_weights(self) -> dict[int, float]:
        """α by resolution."""
        return {64: self.alpha_64, **super().feature_weights}


class DeepI2IStyleGAN(OnStyleGAN, Hierarchical):
    """Translation from one domain to the other; different latents, different results."""

    Config: ClassVar[type[DeepI2IStyleGANConfig]] = DeepI2IStyleGANConfig
    gan: ClassVar[str] = "stylegan"
    second_order: ClassVar[bool] = True
    any_source: ClassVar[bool] = False
    domain_count: ClassVar[tuple[int, int | None]] = (2, 2)
    config: DeepI2IStyleGANConfig
    encoder: stylegan.Features
    generator: stylegan.Generator
    discriminator: stylegan.Discriminator

    def __init__(self, config: DeepI2IStyleGANConfig, domains: tuple[str, ...], **rest: Any) -> None:
        super().__init__(config, domains, **rest)
        self.direction = one_way(config.source, domains)
        self.shape = config.shape(self.image_size)
        channels = {r: self.shape.channels(r) for r in self.shape.resolutions}
        self.encoder = stylegan.Features(self.shape)  # Υ
        taps = {r: c for r, c in channels.items() if r < self.image_size}
        self.connect(
            taps, channels, lambda there, _: stylegan.AdaptorBlock(there)
        )  # Λ; both sides have the same channels
        self.generator = stylegan.Generator(self.shape)  # Φ
        self.discriminator = stylegan.Discriminator(self.shape)  # Ψ

    @property
    def directions(self) -> Sequence[Pair]:
        """From ``source`` to the other domain."""
        return (self.direction,)

    def decode(
        self,
        taps: Mapping[int, Tensor],
        z: Tensor,
        noise: Sequence[Tensor],
        mix: tuple[Tensor, int] | None = None,
    ) -> Tensor:
        """Φ(Λ(Υ(t)), z), [N, 3, S, S], about [-1, 1]."""
        images: Tensor = self.generator(z, noise, self.added(taps), mix)
        return images

    def render(self, images: Tensor, source: str | None, target: str, *inputs: Tensor) -> Tensor:
        """Φ(Λ(Υ(t)), z); the generator's noise maps are always drawn."""
        if (source or self.direction[0], target) != self.direction:
            raise ConfigError(f"this model translates {' to '.join(self.direction)} alone, not {source} to {target}")
        z, *noise = inputs
        return self.decode(self.encode(images), z, noise).clamp(-1, 1).to(images.dtype)

    def translated(self, batch: Batch, taps: Taps | None) -> Tensor:
        """Φ(Λ(Υ(t)), z) with style mixing."""
        z, mix = self.mixed(len(batch), batch.source.device)
        return self.decode(
            self.encode(batch.source) if taps is None else taps, z, stylegan.draw_noise(self.shape, z), mix
        )

    def discriminator_loss(self, batch: Batch, taps: Taps | None = None) -> dict[str, Tensor]:
        """The discriminator's part of Eq. 1 with R1."""
        with torch.no_grad():
            fake = self.translated(batch, taps)
        return self.critic(fake, batch.target)

    def fooling(self, psi: Mapping[int, Tensor], batch: Batch) -> Tensor:
        """-E[log Ψ]."""
        return losses.fooling([self.discriminator.judge(psi)], "nonsaturating")
