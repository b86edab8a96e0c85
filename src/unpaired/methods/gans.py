"""What the GANs, and the translators that start from them, have in common. No method of its own.

Legend: images [N, 3, S, S] in [-1, 1]; y [N] int64 is a class (index into ``domains``); a latent has Z numbers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from unpaired import losses
from unpaired.batch import Batch, Pair, Side
from unpaired.config import MethodConfig
from unpaired.errors import ConfigError
from unpaired.methods.base import Adam, Method, Stage, Start, Update
from unpaired.networks import biggan, stylegan
from unpaired.networks.biggan import (
    Discriminator,
    Generator,
    nearest_classes,
    orthogonal_weights,
    settled,
    with_classes,
)
from unpaired.networks.convnets import draw_latents

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]

# Adam's settings, which each method has under these names with numbers of its own
GeneratorRate = Annotated[Rate, Field(description="Adam's learning rate for the generator.")]
DiscriminatorRate = Annotated[Rate, Field(description="Adam's learning rate for the discriminator.")]
Betas = Annotated[tuple[float, float], Field(description="Adam's momentums.")]
Epsilon = Annotated[Rate, Field(description="Adam's ε.")]


@dataclass(frozen=True)
class Kind:
    """A GAN that a translator starts from."""

    translator: str
    """The method that starts from it."""
    fixed: tuple[str, ...]
    """Settings that it fixes; the same names in every method on these networks."""
    way: str
    """How one comes by such a model."""


GANS = {
    "biggan": Kind(
        "deepi2i",
        ("width", "shared_dim", "z_dim", "attention"),
        "Make one with: unpaired pretrain DATA --out RUN, or: unpaired import biggan G_ema.pth D.pth --out FILE",
    ),
    "stylegan": Kind(
        "deepi2i-stylegan",
        ("width", "latent", "mapping", "rgb_activation"),
        "Make one with: unpaired pretrain DATA --method stylegan --out RUN, or: "
        "unpaired import stylegan stylegan-256px-new.model --out FILE",
    ),
}
"""By method."""
EXAMPLES = 64
"""Training images of each new class that are compared with the old classes."""
States = tuple[dict[str, Tensor], dict[str, Tensor]]
"""State dictionaries of a generator and of a discriminator."""


class BigGANSettings(MethodConfig):
    """Networks of BigGAN, and where they start."""

    width: Count = 96
    """Channels of the largest maps; as in ``pretrained`` where there is one."""
    shared_dim: Count = 128
    """Size of the class embedding that all conditional norms share; as in ``pretrained``."""
    z_dim: Annotated[int, Field(ge=8)] = 120
    """Numbers in a latent, rounded down to equal chunks for the first layer and each block; as in ``pretrained``."""
    attention: Annotated[int, Field(ge=0)] = 64
    """Resolution with self-attention; 0 for none, and none where a network has no map of that resolution; as in
    ``pretrained``."""
    pretrained: str = ""
    """Model file of a ``biggan`` to start from: of ``unpaired pretrain`` or ``unpaired import biggan``; empty for
    none."""

    def shape(self, size: int, classes: int) -> biggan.Shape:
        """Sizes of both networks."""
        return biggan.Shape(size, self.width, classes, self.shared_dim, self.z_dim, self.attention)


class StyleGANSettings(MethodConfig):
    """Networks of StyleGAN, where they start, and how they are played against each other."""

    width: Count = 512
    """Channels of the maps up to 32 pixels; each doubling beyond halves them; as in ``pretrained`` where there is
    one."""
    latent: Count = 512
    """Numbers in a latent and in a style; as in ``pretrained``."""
    mapping: Count = 8
    """Layers of the mapping network; as in ``pretrained``."""
    rgb_activation: bool = True
    """LeakyReLU after the discriminator's first 1 x 1 convolution; as in ``pretrained``."""
    pretrained: str = ""
    """Model file of a ``stylegan`` to start from: of ``unpaired pretrain`` or ``unpaired import stylegan``; empty for
    none."""
    mixing: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Probability of style mixing: a second latent takes over from a random block on."""
    r1: Weight = 10.0
    """γ of the penalty γ/2 E‖∇D(x)‖² on the discriminator's gradient at real images."""
    lr_mapping_factor: Rate = 0.01
    """The mapping network's learning rate, as a share of the generator's."""

    def shape(self, size: int) -> stylegan.Shape:
        """Sizes of both networks."""
        return stylegan.Shape(size, self.width, self.latent, self.mapping, self.rgb_activation)


class OnGAN(Method):
    """Base of all methods on these networks: one square size, latents, and a single domain will do."""

    any_source: ClassVar[bool] = True
    one_size: ClassVar[bool] = True
    domain_count: ClassVar[tuple[int, int | None]] = (1, None)
    sizes: ClassVar[tuple[int, ...]] = biggan.SIZES
    """Sides that there are networks for."""
    family: ClassVar[str] = "BigGAN"
    shape: Any

    def __init__(self, config: MethodConfig, domains: tuple[str, ...], **rest: Any) -> None:
        super().__init__(config, domains, **rest)
        if self.image_size not in self.sizes:
            raise ConfigError(
                f"data.size = {self.image_size}: {self.family} has networks for {', '.join(map(str, self.sizes))} "
                "pixels; type --set data.size=64, say"
            )

    @property
    def directions(self) -> Sequence[Pair]:
        """Every ordered pair; with a single class, that class onto itself."""
        return super().directions or ((self.domains[0], self.domains[0]),)

    @property
    def latent_size(self) -> int | None:
        size: int = self.shape.latent
        return size

    @abstractmethod
    def pretrained_states(self, start: Start) -> States:
        """The networks of the configured ``pretrained``, with this method's classes. Raises CheckpointError,
        ConfigError."""

    def inputs(
        self, images: Tensor, target: str, generator: torch.Generator | None = None, latents: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The latents [N, Z] and the number of class ``target`` [N]."""
        y = self.class_of(target, images)
        return draw_latents(self.shape.latent, images, generator, latents), y

    def class_of(self, target: str, images: Tensor) -> Tensor:
        """[N] int64: the number of class ``target`` for each image. Raises ConfigError for an unknown one."""
        if target not in self.domains:
            raise ConfigError(f"unknown domain '{target}'. There are: {', '.join(self.domains)}.")
        return torch.full((len(images),), self.domains.index(target), device=images.device)

    def watch(self, real: Tensor, fake: Tensor) -> None:
        """Logs how often the discriminator is right."""
        self.monitor["discriminator/sign_accuracy"] = losses.sign_accuracy([real], [fake], "nonsaturating")


class GAN(OnGAN):
    """Base of the GANs themselves. The shared file keeps the discriminator, because transfer needs it; its raw weights,
    also where EMA is on."""

    from_noise: ClassVar[bool] = True
    reads: ClassVar[tuple[Side, ...]] = ("target",)
    never_averaged: ClassVar[tuple[str, ...]] = ("discriminator",)
    generator: nn.Module
    discriminator: nn.Module

    @property
    def directions(self) -> Sequence[Pair]:
        """Each domain onto itself: nothing is translated. Batches come from the same pairs, so that all domains come
        equally often however many images they have."""
        return tuple((d, d) for d in self.domains)

    def prepare(self, start: Start) -> None:
        """Both networks of ``pretrained``, where there is one."""
        if self.config.pretrained and start.begun_with is None:
            generator, discriminator = self.pretrained_states(start)
            self.generator.load_state_dict(generator)
            self.discriminator.load_state_dict(discriminator)


class OnBigGAN(OnGAN):
    """Base of methods with BigGAN's discriminator."""

    discriminator: biggan.Discriminator
    generator: biggan.Generator

    def pretrained_states(self, start: Start) -> States:
        """A class that the model knows by name keeps its row; the others start from the row of their nearest class."""
        gan: Any = start.gan(self.config.pretrained, "biggan", self.shape)
        generator, discriminator = dict(gan.generator.state_dict()), dict(gan.discriminator.state_dict())
        how = ""
        if gan.domains != self.domains:
            rows = self._rows(gan, start)
            known = len(set(self.domains) & set(gan.domains))
            ways = [f"{known} by name"] * (known > 0) + ["nearest"]
            how = ", by name" if known == len(self.domains) else f", {', '.join(ways)}"
            generator = with_classes(generator, rows)
            discriminator = settled(with_classes(discriminator, rows))
        start.note(classes=f"{len(gan.domains)} -> {len(self.domains)}{how}")
        return generator, discriminator

    def _rows(self, gan: Any, start: Start) -> list[int]:
        """The old class that each new one starts from: its own where there is one, else the nearest."""
        old = gan.domains
        unknown = [number for number, name in enumerate(self.domains) if name not in old]
        images = (start.examples(self.domains[number], EXAMPLES) for number in unknown)
        known = [old.index(name) for name in self.domains if name in old]
        found = nearest_classes(gan.discriminator, images, known) if unknown else []
        rows = dict(zip(unknown, found, strict=True))
        return [rows[i] if i in rows else old.index(name) for i, name in enumerate(self.domains)]

    def hinge(self, fake: Tensor, batch: Batch) -> dict[str, Tensor]:
        """E[max(0, 1 - D(x, y))] + E[max(0, 1 + D(fake, y))]: both kinds of images come with the same classes, in one
        pass."""
        x, y = batch.target, batch.target_domain
        judged_fake, judged_real = self.discriminator(torch.cat([fake, x]), torch.cat([y, y])).chunk(2)
        self.watch(judged_real, judged_fake)
        real, fake = losses.judged_real([judged_real], "hinge"), losses.judged_fake([judged_fake], "hinge")
        return {"real": real, "fake": fake}


class OnStyleGAN(OnGAN):
    """Base of methods with StyleGAN's networks."""

    more_noise: ClassVar[bool] = True  # the noise maps
    sizes: ClassVar[tuple[int, ...]] = stylegan.SIZES
    family: ClassVar[str] = "StyleGAN"
    discriminator: stylegan.Discriminator
    generator: stylegan.Generator

    def pretrained_states(self, start: Start) -> States:
        """As they are: there is one class."""
        gan: Any = start.gan(self.config.pretrained, "stylegan", self.shape)
        return dict(gan.generator.state_dict()), dict(gan.discriminator.state_dict())

    def inputs(
        self, images: Tensor, target: str, generator: torch.Generator | None = None, latents: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The latents [N, Z] and a noise map [N, 1, r, r] for each block; there is one class."""
        z, _ = super().inputs(images, target, generator, latents)
        return z, *stylegan.draw_noise(self.shape, z, generator)

    def generator_parts(self) -> list[tuple[nn.Module, float]]:
        """What trains in the generator, with its learning rate: the mapping network is slower (paper, appendix C)."""
        lr: float = self.config.lr_generator
        return [(self.generator.mapping, lr * self.config.lr_mapping_factor), (self.generator, lr)]

    def mixed(self, count: int, device: torch.device) -> tuple[Tensor, tuple[Tensor, int] | None]:
        """Latents [N, Z] for training, and with probability ``mixing`` others that take over from a random block on."""
        z, other = torch.randn(2, count, self.shape.latent, device=device)
        blocks = len(self.shape.resolutions)
        start = int(torch.randint(1, blocks, ()))
        mix = (other, start) if float(torch.rand(())) < self.config.mixing else None
        return z, mix

    def critic(self, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
        """What the discriminator pays: logistic, non-saturating, and R1. Real and generated images are judged apart,
        because it sees how a batch varies."""
        judged_real, judged_fake = self.discriminator(real), self.discriminator(fake)
        self.watch(judged_real, judged_fake)
        return {
            "real": losses.judged_real([judged_real], "nonsaturating"),
            "fake": losses.judged_fake([judged_fake], "nonsaturating"),
            "penalty": self.config.r1 / 2 * losses.r1_penalty(self.discriminator, real),
        }


# ----------------------------------------------------------------------------------------------------
# BigGAN: Large Scale GAN Training for High Fidelity Natural Image Synthesis (Brock, Donahue and Simonyan, ICLR 2019).
#
# Here it is what DeepI2I starts from: a class-conditional GAN, trained on the user's own folders (one folder is a
# class) or imported. It makes images from noise; as a "translation" it ignores the input and draws an image of the
# target class.
#
# Legend: x [N, 3, S, S] in [-1, 1] is an image, y [N] its class (index into ``domains``), z [N, Z] a latent, G and D
# the networks of ``networks/biggan.py``.


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

    def __init__(self, config: BigGANConfig, domains: tuple[str, ...], **rest: Any) -> None:
        super().__init__(config, domains, **rest)
        self.shape = config.shape(self.image_size, len(domains))
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
        """-E[D(G(z, y), y)]."""
        y = batch.target_domain
        return {"gan": losses.fooling([self.discriminator(self._draw(y), y)], "hinge")}

    def render(self, images: Tensor, source: str | None, target: str, *inputs: Tensor) -> Tensor:
        """Images of a class from noise; of ``images`` only the number counts."""
        return self.generator(*inputs).to(images.dtype)  # type: ignore[no-any-return]


# ----------------------------------------------------------------------------------------------------
# StyleGAN: A Style-Based Generator Architecture for Generative Adversarial Networks (Karras, Laine and Aila, CVPR
# 2019).
#
# Here it is what ``deepi2i-stylegan`` starts from: an unconditional GAN, trained on the user's own images (all folders
# together) or imported. It makes images from noise; as a "translation" it ignores the input and the target. Legend as
# above, the networks those of ``networks/stylegan.py``.


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
    generator: stylegan.Generator
    discriminator: stylegan.Discriminator

    def __init__(self, config: StyleGANConfig, domains: tuple[str, ...], **rest: Any) -> None:
        super().__init__(config, domains, **rest)
        self.shape = config.shape(self.image_size)
        self.generator = stylegan.Generator(self.shape)
        self.discriminator = stylegan.Discriminator(self.shape)

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
        images: Tensor = self.generator(z, stylegan.draw_noise(self.shape, z), mix=mix)
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
