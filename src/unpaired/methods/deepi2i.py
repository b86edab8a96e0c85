"""DeepI2I: Enabling Deep Hierarchical Image-to-Image Translation by Transferring from GANs (Wang, Yu and van de Weijer,
NeurIPS 2020).

A pretrained BigGAN becomes a translator between many classes: its discriminator is the encoder and, once more, the
discriminator; its generator is the generator; small adaptors carry the encoder's maps into the generator's. Equation
numbers are the paper's; docs/methods/deepi2i.md lists where the paper and the released code differ.

Legend: t [N, 3, S, S] in [-1, 1] is a source image and c [N] the class to translate it to; x, y are a real image and its
class; z [N, Z] is a latent. Υ is the encoder, Λ the adaptors, Φ the generator, Ψ the discriminator. What does not depend on
BigGAN stands in ``hierarchical.py``: phases, adaptors, reconstruction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from unpaired import losses
from unpaired.methods.base import Batch
from unpaired.methods.gans import BigGANSettings, OnBigGAN
from unpaired.methods.hierarchical import Hierarchical, HierarchicalConfig
from unpaired.networks.biggan import Discriminator, DiscriminatorBlock, Features, Generator, orthogonal_weights


class DeepI2IConfig(BigGANSettings, HierarchicalConfig):
    """Every number of the paper and, where it has none, of the released script for animal faces."""

    reconstruction_rows: Literal["each", "released"] = "each"
    """``each`` compares every translation with its own source; ``released`` compares rows 0 and 1 of [translations;
    sources], which are two translations unless the batch has one image."""


class DeepI2I(OnBigGAN, Hierarchical):
    """Translation to any of its classes, from any of them or from none (section 4.4); different latents, different results."""

    Config: ClassVar[type[DeepI2IConfig]] = DeepI2IConfig
    config: DeepI2IConfig
    encoder: Features
    generator: Generator
    discriminator: Discriminator

    def __init__(
        self, config: DeepI2IConfig, domains: tuple[str, ...], *, image_size: int, classes: tuple[str, ...] = ()
    ) -> None:
        super().__init__(config, domains, image_size=image_size, classes=classes)
        self.shape = config.shape(image_size, len(domains))
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

    def translated(self, batch: Batch) -> Tensor:
        """Φ(Λ(Υ(t)), z, c) with z from N(0, I) and c the classes of the real images beside."""
        z = torch.randn(len(batch), self.shape.latent, device=batch.source.device)
        return self.decode(self._taps(batch.source), z, batch.target_domain)

    def discriminator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """The discriminator's part of Eq. 1 as hinge: E[max(0, 1 - Ψ(x, y))] + E[max(0, 1 + Ψ(Φ(Λ(Υ(t)), z, c), c))]."""
        with torch.no_grad():
            fake = self.translated(batch)
        return self.hinge(fake, batch)

    def fooling(self, psi: Mapping[int, Tensor], batch: Batch) -> Tensor:
        """-E[Ψ(Φ(Λ(Υ(t)), z, c), c)]."""
        return losses.hinge_fooling(self.discriminator.judge(psi, batch.target_domain))

    def generator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Eq. 4, and β times the orthogonal penalty."""
        return super().generator_loss(batch) | self.orthogonal()

    def paired(self, psi: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """Each translation with its own source, or the two rows of the released code."""
        if self.config.reconstruction_rows == "released":
            first, second = torch.cat([psi, goal])[:2].chunk(2)
            return first, second
        return psi, goal
