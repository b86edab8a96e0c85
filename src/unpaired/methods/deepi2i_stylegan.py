"""DeepI2I (Wang, Yu and van de Weijer, NeurIPS 2020) from a pretrained StyleGAN: two domains, one direction.

The paper says that a StyleGAN will do instead of a BigGAN; the settings here are those of the released code for it.
Everything that does not depend on the GAN stands in ``hierarchical.py``; docs/methods/deepi2i.md lists what differs
from the released code.

Legend: t [N, 3, S, S] in [-1, 1] is a source image, x a real image of the target; z [N, Z] is a latent. Υ is the
encoder, Λ the adaptors, Φ the generator, Ψ the discriminator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from unpaired import losses
from unpaired.batch import Batch, Pair
from unpaired.errors import ConfigError
from unpaired.methods.base import one_way
from unpaired.methods.deepi2i import AdaptorRate, EncoderRate, Hierarchical, HierarchicalConfig, Taps
from unpaired.methods.gans import (
    Betas,
    Count,
    DiscriminatorRate,
    Epsilon,
    GeneratorRate,
    OnStyleGAN,
    StyleGANSettings,
    Weight,
)
from unpaired.networks.stylegan import AdaptorBlock, Discriminator, Features, Generator, draw_noise


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
    min_domains: ClassVar[int] = 2
    max_domains: ClassVar[int | None] = 2
    config: DeepI2IStyleGANConfig
    encoder: Features
    generator: Generator
    discriminator: Discriminator

    def __init__(self, config: DeepI2IStyleGANConfig, domains: tuple[str, ...], **rest: Any) -> None:
        super().__init__(config, domains, **rest)
        self.direction = one_way(config.source, domains)
        self.shape = config.shape(self.image_size)
        channels = {r: self.shape.channels(r) for r in self.shape.resolutions}
        self.encoder = Features(self.shape)  # Υ
        taps = {r: c for r, c in channels.items() if r < self.image_size}
        self.connect(taps, channels, lambda there, _: AdaptorBlock(there))  # Λ; both sides have the same channels
        self.generator = Generator(self.shape)  # Φ
        self.discriminator = Discriminator(self.shape)  # Ψ

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
        return self.decode(self.encode(batch.source) if taps is None else taps, z, draw_noise(self.shape, z), mix)

    def discriminator_loss(self, batch: Batch, taps: Taps | None = None) -> dict[str, Tensor]:
        """The discriminator's part of Eq. 1 with R1."""
        with torch.no_grad():
            fake = self.translated(batch, taps)
        return self.critic(fake, batch.target)

    def fooling(self, psi: Mapping[int, Tensor], batch: Batch) -> Tensor:
        """-E[log Ψ]."""
        return losses.fooling([self.discriminator.judge(psi)], "nonsaturating")
