"""StyleGAN: A Style-Based Generator Architecture for Generative Adversarial Networks (Karras, Laine and Aila, CVPR
2019).

Here it is what ``deepi2i-stylegan`` starts from: an unconditional GAN, trained on the user's own images (all folders
together) or imported. It makes images from noise; as a "translation" it ignores the input and the target.

Legend: x [N, 3, S, S] in [-1, 1] is an image, z [N, Z] a latent, G and D the networks of ``networks/stylegan.py``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from unpaired import losses
from unpaired.batch import Batch
from unpaired.methods.base import Adam, Stage, Update
from unpaired.methods.gans import (
    GAN,
    Betas,
    Count,
    DiscriminatorRate,
    Epsilon,
    GeneratorRate,
    OnStyleGAN,
    StyleGANSettings,
)
from unpaired.networks.stylegan import Discriminator, Generator, draw_noise


class StyleGANConfig(StyleGANSettings):
    """Every number of the paper's FFHQ training, but for the growing: one resolution from the first step on."""

    lr_generator: GeneratorRate = 1e-3
    lr_discriminator: DiscriminatorRate = 1e-3
    betas: Betas = (0.0, 0.99)
    eps: Epsilon = 1e-8
    batch_size: Count = 32
    """Real images in a step, and as many generated ones."""
    steps: Count = 100_000
    """Training steps."""


class StyleGAN(OnStyleGAN, GAN):
    """Images from noise, of all domains alike; any number of domains, a single one too."""

    Config: ClassVar[type[StyleGANConfig]] = StyleGANConfig
    config: StyleGANConfig
    generator: Generator
    discriminator: Discriminator

    def __init__(self, config: StyleGANConfig, domains: tuple[str, ...], **rest: Any) -> None:
        super().__init__(config, domains, **rest)
        self.shape = config.shape(self.image_size)
        self.generator = Generator(self.shape)
        self.discriminator = Discriminator(self.shape)

    def stages(self) -> tuple[Stage, ...]:
        c = self.config
        parts = self.generator_parts()
        updates = (
            Update(
                "discriminator", self.discriminator_loss, (self.discriminator,),
                Adam(c.lr_discriminator, c.betas, c.eps), second_order=True,
            ),
            Update(
                "generator", self.generator_loss, tuple(m for m, _ in parts), Adam(c.lr_generator, c.betas, c.eps),
                rates=tuple(lr / c.lr_generator for _, lr in parts),
            ),
        )  # fmt: skip
        return (Stage("train", c.steps, updates, c.batch_size),)

    def _draw(self, like: Tensor) -> Tensor:
        z, mix = self.mixed(len(like), like.device)
        images: Tensor = self.generator(z, draw_noise(self.shape, z), mix=mix)
        return images

    def discriminator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Logistic and R1."""
        with torch.no_grad():
            fake = self._draw(batch.target)
        return self.critic(fake, batch.target)

    def generator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """The generator's side of the same game."""
        return {"gan": losses.fooling([self.discriminator(self._draw(batch.target))], "nonsaturating")}

    def render(self, images: Tensor, source: str | None, target: str, *inputs: Tensor) -> Tensor:
        """Images from noise; of ``images`` only the number counts."""
        z, *noise = inputs
        out: Tensor = self.generator(z, noise)
        return out.clamp(-1, 1).to(images.dtype)
