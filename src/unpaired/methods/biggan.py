"""BigGAN: Large Scale GAN Training for High Fidelity Natural Image Synthesis (Brock, Donahue and Simonyan, ICLR 2019).

Here it is what DeepI2I starts from: a class-conditional GAN, trained on the user's own folders (one folder is a class) or
imported. It makes images from noise; as a "translation" it ignores the input and draws an image of the target class.

Legend: x [N, 3, S, S] in [-1, 1] is an image, y [N] its class (index into ``domains``), z [N, Z] a latent, G and D the
networks of ``networks/biggan.py``.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from unpaired import losses, transfer
from unpaired.config import MethodConfig
from unpaired.errors import ConfigError
from unpaired.methods.base import Adam, Batch, Method, Stage, Update
from unpaired.networks.biggan import (
    SIZES,
    Discriminator,
    Generator,
    Rule,
    Shape,
    class_index,
    draw_latents,
    orthogonal_penalty,
    orthogonal_weights,
    standing_statistics,
)

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]


class BigGANConfig(MethodConfig):
    """Every number of the official ImageNet training at 128 pixels, but for the batch."""

    width: Count = 96
    """Channels of the largest maps."""
    shared_dim: Count = 128
    """Size of the class embedding that all conditional norms share."""
    z_dim: Annotated[int, Field(ge=8)] = 120
    """Numbers in a latent, rounded down to equal chunks for the first layer and each block."""
    attention: Annotated[int, Field(ge=0)] = 64
    """Resolution with self-attention; 0 for none, and none where a network has no map of that resolution."""
    pretrained: str = ""
    """Model file of another BigGAN to start from; empty starts from orthogonal random weights."""
    class_rows: Rule = "nearest"
    """Where the classes of ``pretrained`` are others: start each new one from the nearest, the mean, or by index."""
    lr_generator: Rate = 1e-4
    """Adam's learning rate for the generator."""
    lr_discriminator: Rate = 4e-4
    """Adam's learning rate for the discriminator."""
    betas: tuple[float, float] = (0.0, 0.999)
    """Adam's momentums."""
    eps: Rate = 1e-6
    """Adam's ε."""
    generator_every: Count = 1
    """The generator takes a step once in so many steps of the discriminator."""
    orthogonal: Weight = 0.0
    """β of the orthogonal regularisation of the generator (Eq. 3); the paper has 1e-4, the official script 0."""
    batch_size: Count = 256
    """Real images in a step, and as many generated ones; the paper has 2048 (``training.accumulate`` splits it)."""
    steps: Count = 138_000
    """Training steps."""


class BigGAN(Method):
    """Class-conditional images from noise; any number of classes, a single one too.

    The shared file keeps the discriminator, because transfer needs it; its raw weights, also where EMA is on.
    """

    Config: ClassVar[type[BigGANConfig]] = BigGANConfig
    never_averaged: ClassVar[tuple[str, ...]] = ("discriminator",)
    stochastic: ClassVar[bool] = True
    any_source: ClassVar[bool] = True
    min_domains: ClassVar[int] = 1
    max_domains: ClassVar[int | None] = None

    def __init__(
        self, config: BigGANConfig, domains: tuple[str, ...], *, image_size: int, classes: tuple[str, ...] = ()
    ) -> None:
        super().__init__(config, domains, image_size=image_size, classes=classes)
        if image_size not in SIZES:
            raise ConfigError(
                f"data.size = {image_size}: BigGAN has networks for {', '.join(map(str, SIZES))} pixels; "
                "type --set data.size=64, say"
            )
        c = config
        self.shape = Shape(image_size, c.width, len(domains), c.shared_dim, c.z_dim, c.attention)
        self.generator = Generator(self.shape)
        self.discriminator = Discriminator(self.shape)
        if not c.pretrained:
            orthogonal_weights(self.generator)
            orthogonal_weights(self.discriminator)

    @property
    def directions(self) -> tuple[tuple[str, str], ...]:
        """Every ordered pair; with a single class, that class onto itself."""
        return super().directions or ((self.domains[0], self.domains[0]),)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Each class with itself, so that all come equally often however many images they have."""
        return tuple((d, d) for d in self.domains)

    @property
    def fixed_size(self) -> int | None:
        return self.image_size

    @property
    def latent_size(self) -> int | None:
        return self.shape.latent

    def prepare(self) -> list[dict[str, str]]:
        c: BigGANConfig = self.config
        if not c.pretrained or self.has_weights:
            return []
        found = transfer.read(c.pretrained, self.shape, self.domains, c.class_rows, self.examples)
        self.generator.load_state_dict(found.generator)
        self.discriminator.load_state_dict(found.discriminator)
        return [found.came_from]

    def stages(self) -> tuple[Stage, ...]:
        c: BigGANConfig = self.config
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
        x, y = batch.target, batch.target_domain
        with torch.no_grad():
            fake = self._draw(y)
        judged_fake, judged_real = self.discriminator(torch.cat([fake, x]), torch.cat([y, y])).chunk(2)
        self.monitor["discriminator/sign_accuracy"] = losses.sign_accuracy(
            [judged_real], [judged_fake], "nonsaturating"
        )
        return {"real": losses.hinge_real(judged_real), "fake": losses.hinge_fake(judged_fake)}

    def generator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """-E[D(G(z, y), y)], and β times the orthogonal penalty."""
        c: BigGANConfig = self.config
        y = batch.target_domain
        terms = {"gan": losses.hinge_fooling(self.discriminator(self._draw(y), y))}
        if c.orthogonal > 0:
            terms["orthogonal"] = c.orthogonal * orthogonal_penalty(self.generator)  # Eq. 3
        return terms

    def translate(
        self,
        images: Tensor,
        source: str | None,
        target: str,
        *,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """Images of class ``target`` from noise; of ``images`` only the number counts."""
        y = torch.full((len(images),), class_index(self.domains, target), device=images.device)
        return self.generator(draw_latents(self.shape, images, generator, latents), y).to(images.dtype)  # type: ignore[no-any-return]

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
