"""BigGAN: Large Scale GAN Training for High Fidelity Natural Image Synthesis (Brock, Donahue and Simonyan, ICLR 2019).

Here it is what DeepI2I starts from: a class-conditional GAN, trained on the user's own folders (one folder is a class) or
imported. It makes images from noise; as a "translation" it ignores the input and draws an image of the target class.

Legend: x [N, 3, S, S] in [-1, 1] is an image, y [N] its class (index into ``domains``), z [N, Z] a latent, G and D the
networks of ``networks/biggan.py``.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from unpaired import losses
from unpaired.methods.base import Adam, Batch, Stage, Update
from unpaired.methods.gans import GAN, Betas, BigGANSettings, Count, DiscriminatorRate, Epsilon, GeneratorRate, OnBigGAN
from unpaired.networks.biggan import Discriminator, Generator, orthogonal_weights, standing_statistics


class BigGANConfig(BigGANSettings):
    """Every number of the official ImageNet training at 128 pixels, but for the batch."""

    lr_generator: GeneratorRate = 1e-4
    lr_discriminator: DiscriminatorRate = 4e-4
    betas: Betas = (0.0, 0.999)
    eps: Epsilon = 1e-6
    generator_every: Count = 1
    """The generator takes a step once in so many steps of the discriminator."""
    batch_size: Count = 256
    """Real images in a step, and as many generated ones; the paper has 2048 (``training.accumulate`` splits it)."""
    steps: Count = 138_000
    """Training steps."""


class BigGAN(OnBigGAN, GAN):
    """Class-conditional images from noise; any number of classes, a single one too."""

    Config: ClassVar[type[BigGANConfig]] = BigGANConfig
    config: BigGANConfig
    generator: Generator
    discriminator: Discriminator

    def __init__(
        self, config: BigGANConfig, domains: tuple[str, ...], *, image_size: int, classes: tuple[str, ...] = ()
    ) -> None:
        super().__init__(config, domains, image_size=image_size, classes=classes)
        self.shape = config.shape(image_size, len(domains))
        self.generator = Generator(self.shape)
        self.discriminator = Discriminator(self.shape)
        if not config.pretrained:
            orthogonal_weights(self.generator)
            orthogonal_weights(self.discriminator)

    def stages(self) -> tuple[Stage, ...]:
        c = self.config
        d = Adam(c.lr_discriminator, c.betas, c.eps)
        g = Adam(c.lr_generator, c.betas, c.eps)
        updates = (
            Update("discriminator", self.discriminator_loss, (self.discriminator,), d),
            Update("generator", self.generator_loss, (self.generator,), g, every=c.generator_every),
        )
        return (Stage("train", c.steps, updates, c.batch_size),)

    def _draw(self, y: Tensor) -> Tensor:
        images: Tensor = self.generator(torch.randn(len(y), self.shape.latent, device=y.device), y)
        return images

    def discriminator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Hinge: E[max(0, 1 - D(x, y))] + E[max(0, 1 + D(G(z, y), y))]."""
        with torch.no_grad():
            fake = self._draw(batch.target_domain)
        return self.hinge(fake, batch)

    def generator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """-E[D(G(z, y), y)], and β times the orthogonal penalty."""
        y = batch.target_domain
        return {"gan": losses.hinge_fooling(self.discriminator(self._draw(y), y))} | self.orthogonal()

    def render(self, images: Tensor, source: str | None, target: str, *inputs: Tensor) -> Tensor:
        """Images of a class from noise; of ``images`` only the number counts."""
        return self.generator(*inputs).to(images.dtype)  # type: ignore[no-any-return]

    def standing_statistics(self, passes: int = 16, batch_size: int = 32, seed: int = 0) -> None:
        """Replace the batch norms' running statistics by the mean over ``passes`` batches of latents and classes."""
        device = self.generator.shared.weight.device
        noise = torch.Generator(device).manual_seed(seed)

        def run() -> Tensor:
            z = torch.randn(batch_size, self.shape.latent, generator=noise, device=device)
            y = torch.randint(len(self.domains), (batch_size,), generator=noise, device=device)
            images: Tensor = self.generator(z, y)
            return images

        standing_statistics(self.generator, run, passes)
