"""DeepI2I: Enabling Deep Hierarchical Image-to-Image Translation by Transferring from GANs (Wang, Yu and van de Weijer,
NeurIPS 2020).

A pretrained BigGAN becomes a translator between many classes: its discriminator is the encoder and, once more, the
discriminator; its generator is the generator; small adaptors carry the encoder's maps into the generator's. Equation
numbers are the paper's; docs/methods/deepi2i.md lists where the paper and the released code differ.

Legend: t [N, 3, S, S] in [-1, 1] is a source image and c [N] the class to translate it to; x, y are a real image and its
class; z [N, Z] is a latent. Υ is the encoder, Λ the adaptors, Φ the generator, Ψ the discriminator; subscript r is a
resolution: the paper's layers l = 3, 4, 5, 6 are r = 32, 16, 8, 4 (at 128 pixels).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from unpaired import losses, transfer
from unpaired.config import MethodConfig
from unpaired.errors import ConfigError
from unpaired.methods.base import Adam, Batch, Method, Stage, Update
from unpaired.networks.biggan import (
    SIZES,
    Discriminator,
    DiscriminatorBlock,
    Features,
    Generator,
    Rule,
    Shape,
    class_index,
    draw_latents,
    orthogonal_penalty,
    orthogonal_weights,
    steady,
)

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Part = Literal["encoder", "generator", "discriminator"]

RESOLUTIONS = (32, 16, 8, 4)
"""Where encoder and generator are connected, as far as both have a map there; the official order of the adaptors."""
SCRATCH_DEFAULTS: dict[str, Any] = {
    "transfer": (),
    "freeze_encoder": False,
    "w_4": 1.0,
    "w_8": 1.0,
    "w_16": 1.0,
    "w_32": 0.1,
}
"""What ``mode = "scratch"`` changes in the defaults, as in the released code."""


class DeepI2IConfig(MethodConfig):
    """Every number of the paper and, where it has none, of the released script for animal faces."""

    mode: Literal["transfer", "scratch"] = "transfer"
    """``transfer`` from a pretrained GAN in two phases, or all four networks from random weights in one phase."""
    pretrained: str = ""
    """Model file of a ``biggan``: from ``unpaired pretrain`` or ``unpaired import biggan``."""
    transfer: tuple[Part, ...] = ("encoder", "generator", "discriminator")
    """Networks that start from ``pretrained`` (Fig. 6, left); the others start from random weights."""
    class_rows: Rule = "nearest"
    """Where a class starts that ``pretrained`` does not have: from its nearest class, the mean, or that of its number."""

    width: Count = 96
    """Channels of the largest maps; as in ``pretrained``."""
    shared_dim: Count = 128
    """Size of the class embedding; as in ``pretrained``."""
    z_dim: Annotated[int, Field(ge=8)] = 120
    """Numbers in a latent; as in ``pretrained``."""
    attention: Annotated[int, Field(ge=0)] = 64
    """Resolution with self-attention; as in ``pretrained``."""

    adaptor: Literal["network", "none"] = "network"
    """``none`` adds the encoder's maps as they are, repeated where the generator has more channels (†DeepI2I, Fig. 3)."""
    w_4: Weight = 0.1
    """w_l of Eq. 5 at 4 pixels (l = 6); 0 takes this adaptor out (Fig. 3)."""
    w_8: Weight = 0.1
    """The same at 8 pixels (l = 5)."""
    w_16: Weight = 0.1
    """The same at 16 pixels (l = 4)."""
    w_32: Weight = 0.1
    """The same at 32 pixels (l = 3)."""
    downsampling: Annotated[int, Field(ge=1)] = 5
    """Only maps that this many halvings or fewer lead to are used by adaptors and reconstruction (Fig. 6, middle); 5 is all at
    128 pixels, and more than an image allows means all."""
    freeze_encoder: bool = True
    """Keep the encoder as it is; the paper found that slightly better."""

    reconstruction: Literal["l1", "mse"] = "l1"
    """Distance of discriminator features: ``l1`` as in Eq. 3, or ``mse`` as released."""
    reconstruction_rows: Literal["each", "released"] = "each"
    """``each`` compares every translation with its own source; ``released`` compares rows 0 and 1 of [translations;
    sources], which are two translations unless the batch has one image."""
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
    orthogonal: Weight = 0.0
    """β of the orthogonal regularisation of the generator; the released script has 0."""

    lr_generator: Rate = 1e-4
    """Adam's learning rate for the generator."""
    lr_adaptor: Rate = 4e-4
    """Adam's learning rate for the adaptors."""
    lr_encoder: Rate = 4e-4
    """Adam's learning rate for the encoder where it is trained."""
    lr_discriminator: Rate = 4e-4
    """Adam's learning rate for the discriminator."""
    betas: tuple[float, float] = (0.0, 0.999)
    """Adam's momentums."""
    eps: Rate = 1e-6
    """Adam's ε."""
    batch_size: Count = 32
    """Source images in a step, and as many real target images; released as 4 with 8 accumulations."""
    adaptor_steps: Annotated[int, Field(ge=0)] = 500
    """Steps of the first phase: adaptors and discriminator. Counted from the start of this run."""
    finetune_steps: Count = 30_000
    """Steps of the second phase, with the generator; not stated in the paper, the released tests look at up to 30,000."""

    @model_validator(mode="before")
    @classmethod
    def _mode_defaults(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("mode") == "scratch":
            return {**SCRATCH_DEFAULTS, **values}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> DeepI2IConfig:
        if self.mode == "scratch" and (self.transfer or self.freeze_encoder):
            raise ValueError('mode = "scratch" needs transfer = [] and freeze_encoder = false')
        if not any(self.level_weights.values()):
            raise ValueError("w_4, w_8, w_16 and w_32 are all 0: the translation would not see its input")
        return self

    @property
    def level_weights(self) -> dict[int, float]:
        """w by resolution."""
        return {32: self.w_32, 16: self.w_16, 8: self.w_8, 4: self.w_4}

    @property
    def feature_weights(self) -> dict[int, float]:
        """α by resolution."""
        return {32: self.alpha_32, 16: self.alpha_16, 8: self.alpha_8, 4: self.alpha_4}

    def with_steps(self, total: int) -> Self:
        """``total`` steps in all. The first phase keeps its length, which does not depend on that of the second, up to half."""
        first = 0 if self.mode == "scratch" else min(self.adaptor_steps, total // 2)
        return self.model_copy(update={"adaptor_steps": first, "finetune_steps": total - first})


class Adaptors(nn.Module):
    """Λ: for each resolution a residual block of its own, from the encoder's channels to the generator's."""

    def __init__(self, shape: Shape, resolutions: tuple[int, ...]) -> None:
        super().__init__()
        self.resolutions = resolutions
        there, here = shape.tap_channels, shape.generator_channels
        self.blocks = nn.ModuleList(  # two levels of lists, as the official names have them
            nn.ModuleList([DiscriminatorBlock(there[r], here[r], halve=False)]) for r in resolutions
        )

    def forward(self, taps: Mapping[int, Tensor]) -> dict[int, Tensor]:
        return {r: block[0](taps[r]) for r, block in zip(self.resolutions, self.blocks, strict=True)}  # type: ignore[index]


class Repeat(nn.Module):
    """In place of adaptors: the encoder's maps, their channels repeated up to the generator's number."""

    def __init__(self, shape: Shape, resolutions: tuple[int, ...]) -> None:
        super().__init__()
        self.times = {r: shape.generator_channels[r] // shape.tap_channels[r] for r in resolutions}

    def forward(self, taps: Mapping[int, Tensor]) -> dict[int, Tensor]:
        return {r: taps[r].repeat(1, n, 1, 1) for r, n in self.times.items()}


class DeepI2I(Method):
    """Translation to any of its classes, from any of them or from none (section 4.4); different latents, different results.

    Trains the adaptors and the discriminator first, then the generator too (section 3.2, last paragraph). A step draws
    source images, and real images of the class that they are translated to.
    """

    Config: ClassVar[type[DeepI2IConfig]] = DeepI2IConfig
    training_only: ClassVar[tuple[str, ...]] = ("discriminator",)
    stochastic: ClassVar[bool] = True
    any_source: ClassVar[bool] = True
    min_domains: ClassVar[int] = 1
    max_domains: ClassVar[int | None] = None

    def __init__(
        self, config: DeepI2IConfig, domains: tuple[str, ...], *, image_size: int, classes: tuple[str, ...] = ()
    ) -> None:
        super().__init__(config, domains, image_size=image_size, classes=classes)
        if image_size not in SIZES:
            raise ConfigError(
                f"data.size = {image_size}: BigGAN has networks for {', '.join(map(str, SIZES))} pixels; "
                "type --set data.size=64, say"
            )
        c = config
        self.shape = Shape(image_size, c.width, len(domains), c.shared_dim, c.z_dim, c.attention)
        least = image_size // 2**c.downsampling
        taps, maps = self.shape.tap_channels, self.shape.generator_channels
        usable = [r for r in RESOLUTIONS if r in taps and r in maps and r >= least]
        self.resolutions = tuple(r for r in usable if c.level_weights[r] > 0)
        """Where the encoder feeds the generator."""
        self.compared = tuple(r for r in usable if c.feature_weights[r] > 0)
        """Where the reconstruction loss looks."""
        if not self.resolutions:
            raise ConfigError(
                f"at {image_size} pixels and downsampling = {c.downsampling} encoder and generator meet at "
                f"{', '.join(map(str, usable)) or 'no'} pixels, and no weight w_… is above 0 there"
            )
        self.encoder = Features(self.shape)  # Υ
        self.adaptors: Adaptors | Repeat = (Adaptors if c.adaptor == "network" else Repeat)(
            self.shape, self.resolutions
        )  # Λ
        self.generator = Generator(self.shape)  # Φ
        self.discriminator = Discriminator(self.shape)  # Ψ
        for name in ("encoder", "generator", "discriminator"):
            if name not in c.transfer:
                orthogonal_weights(self.get_submodule(name))
        if c.mode == "scratch":
            orthogonal_weights(self.adaptors)  # with transfer they have PyTorch's initial weights, as released
        self._seen: dict[Any, tuple[Tensor, dict[int, Tensor]]] = {}

    @property
    def directions(self) -> tuple[tuple[str, str], ...]:
        """Every ordered pair; with a single class, that class onto itself."""
        return super().directions or ((self.domains[0], self.domains[0]),)

    @property
    def fixed_size(self) -> int | None:
        return self.image_size

    @property
    def latent_size(self) -> int | None:
        return self.shape.latent

    def prepare(self) -> list[dict[str, str]]:
        c: DeepI2IConfig = self.config
        if not c.transfer or self.has_weights:
            return []
        if not c.pretrained:
            raise ConfigError(
                "DeepI2I starts from a pretrained GAN: --pretrained FILE. Make one with: unpaired pretrain DATA --out RUN, or: "
                "unpaired import biggan G_ema.pth D.pth --out FILE. Without any: --set model.mode=scratch"
            )
        found = transfer.read(c.pretrained, self.shape, self.domains, c.class_rows, self.examples)
        if "encoder" in c.transfer:
            self.encoder.load_state_dict({k: v for k, v in found.discriminator.items() if k.startswith("blocks.")})
        if "discriminator" in c.transfer:
            self.discriminator.load_state_dict(found.discriminator)
        if "generator" in c.transfer:
            self.generator.load_state_dict(found.generator)
        return [found.came_from]

    def stages(self) -> tuple[Stage, ...]:
        c: DeepI2IConfig = self.config
        judge = Update(
            "discriminator", self.discriminator_loss, (self.discriminator,), Adam(c.lr_discriminator, c.betas, c.eps)
        )
        players: list[tuple[nn.Module, float]] = [(self.adaptors, c.lr_adaptor)] if c.adaptor == "network" else []
        everyone = [*players, (self.generator, c.lr_generator)]
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
        finetune = Stage("finetune", c.finetune_steps, (judge, translators(everyone)), c.batch_size)
        if c.mode == "scratch":
            return (finetune,)
        # the fixed generator's batch norms see maps with something added to them: their statistics must follow
        return (Stage("adaptor", c.adaptor_steps, first, c.batch_size, train_mode=(self.generator,)), finetune)

    # -- translation

    def encode(self, images: Tensor) -> dict[int, Tensor]:
        """Υ_r(t) by resolution."""
        taps: dict[int, Tensor] = self.encoder(images)
        return {r: taps[r] for r in self.resolutions}

    def decode(self, taps: Mapping[int, Tensor], z: Tensor, c: Tensor) -> Tensor:
        """Φ(Λ(Υ(t)), z, c), [N, 3, S, S] in [-1, 1]."""
        weights = self.config.level_weights
        added = {r: weights[r] * a for r, a in self.adaptors(taps).items()}  # w_l Λ_l of Eq. 5
        images: Tensor = self.generator(z, c, added)
        return images

    def translate(
        self,
        images: Tensor,
        source: str | None,
        target: str,
        *,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """``source`` does not matter and may be None; z is ``latents`` [N, Z], or drawn with ``generator``."""
        c = torch.full((len(images),), class_index(self.domains, target), device=images.device)
        return self.decode(self.encode(images), draw_latents(self.shape, images, generator, latents), c)

    # -- training

    def _taps(self, images: Tensor) -> dict[int, Tensor]:
        """Υ_r(t); of a frozen encoder once for each batch, for all updates that see it, and without a graph.

        The store holds on to the images, so that their memory cannot be another batch's while it is compared.
        """
        if not self.config.freeze_encoder:
            return self.encode(images)
        if torch.compiler.is_compiling():  # a compiled loss can hold no such store
            with torch.no_grad(), steady(self.encoder):
                return self.encode(images)
        weights = sum(p._version for p in self.encoder.parameters())
        key = (images.data_ptr(), tuple(images.shape), images.dtype, images._version, weights, _precision(images))
        if key not in self._seen:
            memory = images.untyped_storage().data_ptr()
            kept = self._seen.items()  # other parts of this batch; earlier batches go
            self._seen = {k: v for k, v in kept if v[0].untyped_storage().data_ptr() == memory}
            with torch.no_grad(), steady(self.encoder):
                self._seen[key] = (images, self.encode(images))
        return self._seen[key][1]

    def _translated(self, batch: Batch) -> Tensor:
        z = torch.randn(len(batch), self.shape.latent, device=batch.source.device)
        return self.decode(self._taps(batch.source), z, batch.target_domain)

    def discriminator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """The discriminator's part of Eq. 1 as hinge: E[max(0, 1 - Ψ(x, y))] + E[max(0, 1 + Ψ(Φ(Λ(Υ(t)), z, c), c))]."""
        x, y = batch.target, batch.target_domain  # c is y: both kinds of images come with the same classes
        with torch.no_grad():
            fake = self._translated(batch)
        judged_fake, judged_real = self.discriminator(torch.cat([fake, x]), torch.cat([y, y])).chunk(2)
        self.monitor["discriminator/sign_accuracy"] = losses.sign_accuracy(
            [judged_real], [judged_fake], "nonsaturating"
        )
        return {"real": losses.hinge_real(judged_real), "fake": losses.hinge_fake(judged_fake)}

    def generator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """λ_adv L_adv + λ_rec L_rec (Eq. 4) of adaptors and generator."""
        c: DeepI2IConfig = self.config
        fake = self._translated(batch)
        with steady(self.discriminator):  # so that translation and source go through the very same weights
            psi = self.discriminator.taps(fake)
            terms = {
                "gan": c.adversarial_weight * losses.hinge_fooling(self.discriminator.judge(psi, batch.target_domain))
            }
            if self.compared and c.reconstruction_weight > 0:
                with torch.no_grad():
                    goal = self.discriminator.taps(batch.source)
                terms["reconstruction"] = c.reconstruction_weight * self.reconstruction(psi, goal)
        if c.orthogonal > 0 and self.generator.linear.weight.requires_grad:
            terms["orthogonal"] = c.orthogonal * orthogonal_penalty(self.generator)
        return terms

    def reconstruction(self, psi: Mapping[int, Tensor], goal: Mapping[int, Tensor]) -> Tensor:
        """L_rec = Σ_l α_l ‖Ψ_l(t) - Ψ_l(translation of t)‖ (Eq. 3), the mean over the elements of each map.

        Sample i of the translations is compared with sample i of the sources alone.
        """
        c: DeepI2IConfig = self.config
        terms = []
        for r in self.compared:
            a, b = psi[r], goal[r]
            if c.reconstruction_rows == "released":
                a, b = torch.cat([a, b])[:2].chunk(2)
            distance = losses.mean_l1(a, b) if c.reconstruction == "l1" else losses.mean_square(a.float() - b.float())
            terms.append(c.feature_weights[r] * distance)
        return torch.stack(terms).sum()


def _precision(images: Tensor) -> Any:
    """What autocast would compute in, or None."""
    kind = images.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
