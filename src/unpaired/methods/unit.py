"""UNIT: Unsupervised Image-to-Image Translation Networks (Liu, Breuel and Kautz, NIPS 2017).

Two variational autoencoders, one a domain, meet in one latent space: the last layers of the encoders and the
first layers of the generators are the same layers. An image is translated by encoding it with its own encoder
and decoding with the other domain's generator. Equation numbers are the paper's; docs/methods/unit.md lists
where the paper and the released code differ.

Legend: a and b are the two domains (the paper's 1 and 2) in the order of ``Method.domains``; x [N, 3, H, W]
in [-1, 1] is an image; mu and z [N, C, H/s, W/s] are the mean and a sample of its code, with s = 2 **
downsampling and C = width * s; x_ab is an image of a translated to b, x_aba that image translated back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from unpaired import losses
from unpaired.batch import Batch, Pair
from unpaired.config import MethodConfig
from unpaired.errors import ConfigError
from unpaired.methods.base import Adam, Method, Stage, Update
from unpaired.networks.convnets import ResidualBlock, SampleNorm, Tanh, kaiming_convolutions, normal_convolutions
from unpaired.networks.discriminators import (
    GaussianHalf,
    MultiScale,
    PatchDiscriminator,
    SeparateDiscriminators,
    SharedDiscriminators,
)
from unpaired.networks.kernels import InstanceNorm

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]

MUNIT_DEFAULTS: dict[str, Any] = {
    "norm": "instance",
    "shared_layers": 0,
    "discriminator": "multiscale",
    "discriminator_layers": 4,
    "gan": "lsgan",
    "gan_weight": 1.0,
    "kl_weight": 0.01,
    "reconstruction_weight": 10.0,
    "cycle_kl_weight": 0.01,
    "cycle_weight": 10.0,
    "kl": "released",
    "weight_decay": 1e-4,
    "halve_lr_every": 100_000,
    "steps": 1_000_000,
}
"""What ``architecture = "munit"`` changes in the defaults: the settings of that code base's own UNIT trainer."""


class UNITConfig(MethodConfig):
    """Every number of the paper. The defaults are the paper's; those of ``architecture = "munit"`` are in
    MUNIT_DEFAULTS.

    Defaults are filled in when the settings are read, so what is printed and saved is complete and says what is used.
    """

    architecture: Literal["paper", "munit"] = "paper"
    """``paper``, or the later redesign in the MUNIT code base, which shares no weights."""
    norm: Literal["none", "instance"] = "none"
    """After the downsampling and upsampling convolutions: none with LeakyReLU, or instance norm with ReLU (animals)."""
    width: Count = 64
    """Channels of the first layer; each halving of the size doubles them."""
    downsampling: Annotated[int, Field(ge=1, le=5)] = 2
    """How many times the encoders halve the size of the image."""
    residual_blocks: Count = 4
    """Residual blocks of each encoder and of each generator, shared ones included."""
    shared_layers: Annotated[int, Field(ge=0)] = 1
    """How many of these both domains share, in the encoders and in the generators alike; 0 shares nothing
    (an ablation)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout at the end of each residual block in training; the released code has 0.5 for street scenes."""
    noise: Literal["all", "direct", "none"] = "all"
    """Which codes get N(0, 1) noise in training: all, only those of real images (not in the cycle), or
    none (an ablation)."""

    discriminator: Literal["separate", "shared", "multiscale"] = "separate"
    """One a domain; a private front and a shared back (faces); or one at each of ``scales`` sizes (large images)."""
    discriminator_layers: Count = 5
    """Convolutions of stride 2 in a discriminator; the paper compares 3 to 6."""
    discriminator_width: Count = 64
    """Channels of a discriminator's first layer; each next layer has twice as many."""
    discriminator_private: Count = 2
    """Layers that each domain keeps to itself where ``discriminator`` is ``shared``."""
    scales: Count = 3
    """Sizes at which a ``multiscale`` discriminator looks at an image."""

    gan: losses.Adversarial = "nonsaturating"
    """Adversarial loss: cross-entropy with the non-saturating generator, with the formula's ``minimax``,
    or ``lsgan``."""
    gan_weight: Weight = 10.0
    """λ0, of the adversarial loss (Eq. 5, 6), for both players."""
    kl_weight: Weight = 0.1
    """λ1, of the KL term of the autoencoders (Eq. 3, 4)."""
    reconstruction_weight: Weight = 100.0
    """λ2, of the mean absolute reconstruction error (Eq. 3, 4); 0 leaves the reconstruction stream out (an
    ablation)."""
    cycle_kl_weight: Weight = 0.1
    """λ3, of the KL terms in the cycle (Eq. 7, 8)."""
    cycle_weight: Weight = 100.0
    """λ4, of the mean absolute error after there and back (Eq. 7, 8); 0 leaves the whole cycle out (an ablation)."""
    kl: Literal["formula", "released"] = "formula"
    """``formula`` is mu²/2, the direct term repeated in the cycle as Eq. 7 and 8 have it; ``released`` is
    the code's z²."""

    lr: Annotated[float, Field(gt=0)] = 1e-4
    """Adam's learning rate."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Adam's momentums."""
    weight_decay: Weight = 0.0
    """Adam's L2 penalty; the released code has 1e-4, the paper none."""
    halve_lr_every: Annotated[int, Field(ge=0)] = 0
    """Steps after which the learning rate is halved, again and again; 0 keeps it constant."""
    batch_size: Count = 1
    """Images of each domain in a step."""
    steps: Count = 100_000
    """Training steps; the paper's Map experiment has 100,000, the released street and animal models
    250,000 to 500,000."""

    @model_validator(mode="before")
    @classmethod
    def _architecture_defaults(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("architecture") == "munit":
            return {**MUNIT_DEFAULTS, **values}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> UNITConfig:
        if self.shared_layers > self.residual_blocks:
            raise ValueError(
                f"shared_layers = {self.shared_layers} is more than residual_blocks = {self.residual_blocks}"
            )
        if self.architecture == "munit" and (self.shared_layers, self.norm) != (0, "instance"):
            raise ValueError('architecture = "munit" needs shared_layers = 0 and norm = "instance"')
        if self.architecture == "munit" and self.discriminator == "shared":
            raise ValueError('architecture = "munit" has no shared discriminator; use "multiscale" or "separate"')
        if self.discriminator == "shared" and self.discriminator_private >= self.discriminator_layers:
            raise ValueError(
                f"discriminator_private = {self.discriminator_private} leaves nothing to share "
                f"of discriminator_layers = {self.discriminator_layers}"
            )
        return self


def _residual(c: UNITConfig, count: int) -> list[nn.Module]:
    channels = c.width * 2**c.downsampling
    padding_mode: Literal["zeros", "reflect"] = "reflect" if c.architecture == "munit" else "zeros"
    return [ResidualBlock(channels, padding_mode, c.dropout) for _ in range(count)]


def _activation(c: UNITConfig, channels: int) -> list[nn.Module]:
    if c.norm == "instance":
        return [InstanceNorm(channels), nn.ReLU(inplace=True)]
    return [nn.LeakyReLU(0.01, inplace=True)]


def build_encoder(c: UNITConfig) -> nn.Sequential:
    """The private part of an encoder, [N, 3, H, W] -> [N, C, H/s, W/s]: one layer an entry, so that keys
    count layers."""
    if c.architecture == "munit":
        conv: Callable[..., nn.Conv2d] = partial(nn.Conv2d, padding_mode="reflect")
        kernel, first = 4, _activation(c, c.width)
    else:
        conv, kernel, first = nn.Conv2d, 3, [nn.LeakyReLU(0.01, inplace=True)]
    layers: list[nn.Module] = [nn.Sequential(conv(3, c.width, 7, padding=3), *first)]
    channels = c.width
    for _ in range(c.downsampling):
        halve = conv(channels, 2 * channels, kernel, stride=2, padding=1)
        layers.append(nn.Sequential(halve, *_activation(c, 2 * channels)))
        channels *= 2
    return nn.Sequential(*layers, *_residual(c, c.residual_blocks - c.shared_layers))


def build_generator(c: UNITConfig) -> nn.Sequential:
    """The private part of a generator, [N, C, H/s, W/s] -> [N, 3, H, W] in [-1, 1]."""
    layers = _residual(c, c.residual_blocks - c.shared_layers)
    channels = c.width * 2**c.downsampling
    for _ in range(c.downsampling):
        half = channels // 2
        if c.architecture == "munit":
            convolution = nn.Conv2d(channels, half, 5, padding=2, padding_mode="reflect")
            layers.append(
                nn.Sequential(nn.Upsample(scale_factor=2), convolution, SampleNorm(half), nn.ReLU(inplace=True))
            )
        else:
            double = nn.ConvTranspose2d(channels, half, 3, stride=2, padding=1, output_padding=1)
            layers.append(nn.Sequential(double, *_activation(c, half)))
        channels = half
    last: nn.Module
    if c.architecture == "munit":
        last = nn.Conv2d(channels, 3, 7, padding=3, padding_mode="reflect")
    else:
        last = nn.ConvTranspose2d(channels, 3, 1)
    return nn.Sequential(*layers, nn.Sequential(last, Tanh()))


def build_discriminators(c: UNITConfig) -> SeparateDiscriminators | SharedDiscriminators:
    """The discriminators of both domains: images of a and of b -> for each domain one map of logits a scale."""
    if c.discriminator == "shared":
        return SharedDiscriminators(c.discriminator_width, c.discriminator_layers, c.discriminator_private, 2)
    single = partial(PatchDiscriminator, c.discriminator_width, c.discriminator_layers)
    halve: Callable[[], nn.Module] = GaussianHalf
    if c.architecture == "munit":
        single = partial(single, kernel=4, slope=0.2, padding_mode="reflect")
        halve = partial(nn.AvgPool2d, 3, stride=2, padding=1, count_include_pad=False)
    if c.discriminator == "multiscale":
        return SeparateDiscriminators(lambda: MultiScale([single() for _ in range(c.scales)], halve()), 2)
    return SeparateDiscriminators(single, 2)


class Translated(NamedTuple):
    """A batch through both streams. Codes [2N, C, H/s, W/s], domain a first; images [N, 3, H, W]."""

    mu: Tensor
    z: Tensor
    x_ba: Tensor
    x_ab: Tensor
    x_aa: Tensor | None = None
    x_bb: Tensor | None = None


class UNIT(Method):
    """Two-way translation between two domains through a shared latent space (arXiv 1703.00848).

    Trains in one stage with two updates, the discriminators first (section 3, "Learning"). Both see one sample of each
    code (``Stage.forward``); the released codes draw another for the second, and so does this where gradients are
    accumulated. ``translate`` decodes the mean of the code, without noise, as the released code
    does; it accepts sizes divisible by ``stride`` = 2 ** downsampling.
    """

    Config: ClassVar[type[UNITConfig]] = UNITConfig
    training_only: ClassVar[tuple[str, ...]] = ("discriminators",)

    def __init__(self, config: UNITConfig, domains: tuple[str, ...], **rest: Any) -> None:
        super().__init__(config, domains, **rest)
        if len(domains) != 2:
            raise ConfigError(f"method 'unit' translates between 2 domains, {len(domains)} given: {', '.join(domains)}")
        c = config
        # A constant of the class elsewhere; here it follows a setting.
        self.stride = 2**c.downsampling
        self.encoders = nn.ModuleList([build_encoder(c) for _ in domains])  # E_L,1 and E_L,2
        self.encoder_shared = nn.Sequential(*_residual(c, c.shared_layers))  # E_H
        self.generator_shared = nn.Sequential(*_residual(c, c.shared_layers))  # G_H
        self.generators = nn.ModuleList([build_generator(c) for _ in domains])  # G_L,1 and G_L,2
        self.discriminators = build_discriminators(c)
        munit = c.architecture == "munit"
        normal_convolutions(self.discriminators, zero_bias=munit)
        for network in self.translators:
            kaiming_convolutions(network) if munit else normal_convolutions(network)

    @property
    def translators(self) -> tuple[nn.Module, ...]:
        """The modules of the first player: encoders and generators, private and shared."""
        return self.encoders, self.encoder_shared, self.generator_shared, self.generators

    @property
    def pairs(self) -> Sequence[Pair]:
        """One pair: every batch holds images of both domains and trains both directions."""
        return ((self.domains[0], self.domains[1]),)

    def stages(self) -> tuple[Stage, ...]:
        c: UNITConfig = self.config
        smallest = 2 ** (c.discriminator_layers + (c.scales - 1 if c.discriminator == "multiscale" else 0))
        if c.architecture == "munit" and self.image_size < smallest:  # reflection needs two pixels before each layer
            raise ConfigError(
                f"data.size = {self.image_size} is too small for these discriminators, which want {smallest}: "
                "lower model.discriminator_layers or model.scales, or raise data.size"
            )
        every = c.halve_lr_every
        adam = Adam(
            lr=c.lr,
            betas=c.betas,
            weight_decay=c.weight_decay,
            schedule=(lambda step, _: 0.5 ** (step // every)) if every else None,
        )
        updates = (
            Update("discriminator", self.discriminator_loss, (self.discriminators,), adam),
            Update("generator", self.generator_loss, self.translators, adam, through_forward=True),
        )
        return (Stage("train", c.steps, updates, c.batch_size, self.forth),)

    # -- translation

    def encode(self, images: Tensor, domain: str) -> Tensor:
        """E(x): [N, 3, H, W] in [-1, 1] of ``domain`` -> the mean mu of the code, [N, C, H/s, W/s]."""
        code: Tensor = self.encoder_shared(self.encoders[self._index(domain)](images))
        return code

    def decode(self, code: Tensor, domain: str) -> Tensor:
        """G(z): [N, C, H/s, W/s] -> [N, 3, H, W] in [-1, 1], in ``domain``."""
        images: Tensor = self.generators[self._index(domain)](self.generator_shared(code))
        return images

    def render(self, images: Tensor, source: str | None, target: str, *inputs: Tensor) -> Tensor:
        return self.decode(self.encode(images, str(source)), target)  # F_1→2(x) = G_2(E_1(x))

    def reconstruct(self, images: Tensor, domain: str) -> Tensor:
        """G(E(x)) within one domain."""
        return self.decode(self.encode(images, domain), domain)

    def _index(self, domain: str) -> int:
        if domain not in self.domains:
            raise ConfigError(f"unknown domain '{domain}'. There are: {', '.join(self.domains)}.")
        return self.domains.index(domain)

    # -- training

    def _codes(self, x_a: Tensor, x_b: Tensor, *, noise: bool) -> tuple[Tensor, Tensor]:
        """Means and samples of the codes of both domains, a first: two [2N, C, H/s, W/s]."""
        # The shared layers see both domains at once: their norms are per sample, so this equals two passes.
        mu = self.encoder_shared(torch.cat([self.encoders[0](x_a), self.encoders[1](x_b)]))
        return mu, mu + torch.randn(
            mu.shape, device=mu.device, dtype=mu.dtype
        ) if noise else mu  # z = E_mu(x) + eta, eta ~ N(0, I)

    def forth(self, batch: Batch) -> Translated:
        """Both streams of both codes, the reconstructions where they have a weight."""
        c: UNITConfig = self.config
        mu, z = self._codes(batch.source, batch.target, noise=c.noise != "none")
        h_a, h_b = self.generator_shared(z).chunk(2)  # both streams of a code share G_H's result
        if c.reconstruction_weight > 0:
            both = torch.cat([h_a, h_b])
            (x_aa, x_ba), (x_ab, x_bb) = self.generators[0](both).chunk(2), self.generators[1](both).chunk(2)
            return Translated(mu, z, x_ba, x_ab, x_aa, x_bb)
        return Translated(mu, z, self.generators[0](h_b), self.generators[1](h_a))

    def _kl(self, mu: Tensor, z: Tensor) -> Tensor:
        """KL(q(z|x) || p(z)), mean over the code's elements, added up over the domains."""
        c: UNITConfig = self.config
        if c.kl == "formula":
            return sum_of(losses.kl_unit_variance(m) for m in mu.chunk(2))
        code = mu if c.architecture == "munit" else z  # the released codes penalise before and after the noise
        return sum_of(losses.mean_square(m) for m in code.chunk(2))

    def discriminator_loss(self, batch: Batch, made: Translated) -> dict[str, Tensor]:
        """Eq. 5 and 6 for D_1 and D_2, encoders and generators fixed; only translated images are judged."""
        c: UNITConfig = self.config
        x_a, x_b = batch.source, batch.target
        x_ba, x_ab = made.x_ba.detach(), made.x_ab.detach()
        judged = self.discriminators([torch.cat([x_a, x_ba]), torch.cat([x_b, x_ab])])
        real = [[logits.chunk(2)[0] for logits in scales] for scales in judged]
        fake = [[logits.chunk(2)[1] for logits in scales] for scales in judged]
        all_real = [logits for scales in real for logits in scales]
        all_fake = [logits for scales in fake for logits in scales]
        self.monitor["discriminator/sign_accuracy"] = losses.sign_accuracy(all_real, all_fake, c.gan)
        return {
            "real": c.gan_weight * sum_of(losses.judged_real(d, c.gan) for d in real),  # λ0 E[log D(x)]
            "fake": c.gan_weight * sum_of(losses.judged_fake(d, c.gan) for d in fake),  # λ0 E[log(1 - D(G(z)))]
        }

    def generator_loss(self, batch: Batch, made: Translated) -> dict[str, Tensor]:
        """The first player's part of Eq. 2: L_VAE (Eq. 3, 4), L_GAN (Eq. 5, 6) and L_CC (Eq. 7, 8) of both domains."""
        c: UNITConfig = self.config
        x_a, x_b = batch.source, batch.target
        terms: dict[str, Tensor] = {}
        if made.x_aa is not None and made.x_bb is not None:
            error = losses.mean_l1(made.x_aa, x_a) + losses.mean_l1(made.x_bb, x_b)
            terms["reconstruction"] = c.reconstruction_weight * error  # -λ2 E[log p_G(x|z)], Eq. 3, 4
        direct = self._kl(made.mu, made.z)
        if c.kl_weight > 0:
            terms["kl"] = c.kl_weight * direct  # λ1 KL(q(z|x) || p(z)), Eq. 3, 4
        if c.gan_weight > 0:
            judged = self.discriminators([made.x_ba, made.x_ab])
            terms["gan"] = c.gan_weight * sum_of(losses.fooling(d, c.gan) for d in judged)  # Eq. 5, 6
        if c.cycle_weight > 0:
            terms |= self._cycle_terms(batch, made.x_ab, made.x_ba, direct)
        return terms

    def _cycle_terms(self, batch: Batch, x_ab: Tensor, x_ba: Tensor, direct: Tensor) -> dict[str, Tensor]:
        """L_CC: translate back and compare (Eq. 7, 8)."""
        c: UNITConfig = self.config
        mu, z = self._codes(x_ba, x_ab, noise=c.noise == "all")  # codes of x_ba by E_1, of x_ab by E_2
        h_ba, h_ab = self.generator_shared(z).chunk(2)
        x_aba, x_bab = self.generators[0](h_ab), self.generators[1](h_ba)
        error = losses.mean_l1(x_aba, batch.source) + losses.mean_l1(x_bab, batch.target)
        terms = {"cycle": c.cycle_weight * error}  # -λ4 E[log p_G(x|z)]
        if c.cycle_kl_weight > 0:
            kl = self._kl(mu, z)
            if c.kl == "formula":
                kl = kl + direct  # both KL terms of Eq. 7 and 8; the released code has only the second
            terms["cycle_kl"] = c.cycle_kl_weight * kl
        return terms


def sum_of(terms: Iterable[Tensor]) -> Tensor:
    """The sum of scalar tensors."""
    return torch.stack(list(terms)).sum()
