"""UNIT for digits: a classifier learned on labelled source images, carried over to unlabelled target images.

Liu, Breuel and Kautz, "Unsupervised Image-to-Image Translation Networks", section 4 (Domain Adaptation, Table 2). One
training does two things: it translates between the two domains, and it classifies source images from the features of
the discriminator, whose upper layers both domains share. What the paper leaves open follows the released settings of
SVHN→MNIST; docs/adaptation.md lists both readings.

Legend: N batch, K classes, S side in pixels (a multiple of 16), g ``width``. Images are [N, 3, S, S] in [-1, 1]. Domain
1 is the first name in ``domains`` (labelled), domain 2 the second. x̂₁₂ is x₁ translated to domain 2, x̂₁₁
reconstructed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from unpaired.batch import Batch, Pair
from unpaired.config import MethodConfig
from unpaired.errors import ConfigError
from unpaired.methods.base import Adam, Method, Stage, Update
from unpaired.methods.levers import falling
from unpaired.networks.augment import jitter
from unpaired.networks.convnets import Tanh

Weight = Annotated[float, Field(ge=0)]


class UNITDigitsConfig(MethodConfig):
    """Numbers of the paper's digits experiments; the defaults are those released for SVHN→MNIST."""

    width: Annotated[int, Field(ge=1)] = 96
    """g, channels of the first layer of encoder and generator; the code has 8g numbers."""
    discriminator_width: Annotated[int, Field(ge=1)] = 64
    """Channels of the discriminator's first stage; each of the next three has twice as many."""
    channels: tuple[Literal[1, 3], Literal[1, 3]] = (3, 3)
    """Channels of each domain inside the networks; 1 takes the mean of RGB and gives grey."""
    gan_weight: Weight = 1.0
    """Adversarial terms of both players."""
    reconstruction_weight: Weight = 1e-3
    """Squared error of x̂₁₁ and x̂₂₂, summed over pixels and averaged over images."""
    kl_weight: Weight = 2e-4
    """Sum of μ² + σ² − log σ² over the code, averaged over the images of both domains."""
    class_weight: Weight = 10.0
    """Cross-entropy of the class head on labelled source images."""
    feature_weight: Weight = 1e-4
    """Squared distance between the discriminator's features of x̂₁₁ and x̂₁₂, and of x̂₂₂ and x̂₂₁ (discriminator
    only)."""
    translated_class_weight: Weight = 0.0
    """Not in the paper: the class head also learns x̂₁₂ with the label of x₁ (discriminator's update)."""
    anchor_weight: Weight = 0.0
    """Not in the paper: x̂₁₂ must keep the label of x₁ in the eyes of the class head (generator's update)."""
    dropout: tuple[float, float, float, float] = (0.1, 0.3, 0.5, 0.5)
    """Dropout after each stage of the discriminator, on its real/fake and class paths."""
    same_start: bool = False
    """Not in the paper: the private layers of both domains start with equal weights, so that the class head is from the
    first step on as good in domain 2 as a classifier that ignores the difference. Needs equal ``channels``."""
    invert_target: bool = False
    """Show half of the target images inverted, as the released SVHN→MNIST did with MNIST."""
    jitter: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Not in the paper: random rotation, scale, shear and shift of every training image, as a plain classifier's images
    get."""
    lr: Annotated[float, Field(gt=0)] = 2e-4
    """Learning rate of both Adam optimisers."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Decay rates of Adam's two moments."""
    weight_decay: Weight = 5e-4
    """L2 penalty of both Adam optimisers."""
    decay_from: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Not in the paper: the learning rates fall linearly to zero from this share of the steps on; 1 keeps them."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Images of each domain in a step."""
    steps: Annotated[int, Field(ge=1)] = 200_000
    """Training steps."""


class Block(nn.Sequential):
    """(transposed) convolution, BatchNorm without scale, a learned offset, LeakyReLU(0.01)."""

    def __init__(self, convolution: nn.Conv2d | nn.ConvTranspose2d):
        channels = convolution.out_channels
        super().__init__(convolution, nn.BatchNorm2d(channels, affine=False), Offset(channels), nn.LeakyReLU(0.01))


class Offset(nn.Module):
    """Adds one learned number to each channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(nn.init.normal_(torch.empty(channels, 1, 1), std=0.002))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


def coordinates(x: Tensor) -> Tensor:
    """``x`` [N, C, S, S] with two more channels: row and column in [-1, 1)."""
    side = x.shape[2]
    line = (torch.arange(side, device=x.device, dtype=x.dtype) * (2 / side) - 1).expand(x.shape[0], 1, side, side)
    return torch.cat([x, line.mT, line], 1)


class Encoder(nn.Module):
    """Images of both domains -> μ, σ of the shared code, [N, 8g, 1, 1] each. Only the first layer is private."""

    def __init__(self, width: int, side: int, channels: tuple[int, int]):
        super().__init__()
        g = width
        self.private = nn.ModuleList([Block(nn.Conv2d(c + 2, g, 5, 2, 2)) for c in channels])  # S -> S/2
        self.shared = nn.Sequential(
            Block(nn.Conv2d(g, 2 * g, 5, 2, 2)),  # S/4
            Block(nn.Conv2d(2 * g, 4 * g, side // 4)),  # 1
            Block(nn.Conv2d(4 * g, 8 * g, 1)),
        )
        self.mean = nn.Conv2d(8 * g, 8 * g, 1)
        self.deviation = nn.Conv2d(8 * g, 8 * g, 1)

    def forward(self, images: list[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
        """``images``: (domain, [n, C, S, S]) groups, encoded together in that order."""
        h = self.shared(torch.cat([self.private[d](coordinates(x)) for d, x in images]))
        return self.mean(h), F.softplus(self.deviation(h))


class Decoder(nn.Module):
    """Code z [N, 8g, 1, 1] -> image of one domain [N, C, S, S]. Only the last two layers are private."""

    def __init__(self, width: int, side: int, channels: tuple[int, int]):
        super().__init__()
        g = width
        self.shared = nn.Sequential(
            Block(nn.ConvTranspose2d(8 * g, 8 * g, side // 8, 2)),  # S/8
            Block(nn.ConvTranspose2d(8 * g, 4 * g, 4, 2, 1)),  # S/4
            Block(nn.ConvTranspose2d(4 * g, 2 * g, 4, 2, 1)),  # S/2
        )
        self.private = nn.ModuleList(
            nn.Sequential(Block(nn.ConvTranspose2d(2 * g, g, 4, 2, 1)), nn.ConvTranspose2d(g, c, 1), Tanh())
            for c in channels
        )

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The images of domain 1 and of domain 2 that share the code ``z``."""
        h = self.shared(z)
        return self.private[0](h), self.private[1](h)


class Features(nn.Module):
    """The discriminator without its heads; only the first of its four stages is private to a domain."""

    def __init__(self, width: int, channels: tuple[int, int], dropout: tuple[float, ...]):
        super().__init__()
        sizes = [width * 2**i for i in range(4)]
        self.private = nn.ModuleList([nn.Conv2d(c, width, 5, 1, 2) for c in channels])
        self.shared = nn.ModuleList([nn.Conv2d(a, b, 5, 1, 2) for a, b in pairwise(sizes)])
        self.dropout = dropout

    def forward(self, images: list[tuple[int, Tensor]], *, drop: bool = True) -> Tensor:
        """(domain, [n, C, S, S]) groups, in that order -> [N, 8w, S/16, S/16]; ``drop=False`` leaves dropout out."""
        h = torch.cat([self.private[d](x) for d, x in images])
        for stage, p in enumerate(self.dropout):
            h = F.max_pool2d(F.relu(self.shared[stage - 1](h) if stage else h), 2)
            if drop:
                h = F.dropout(h, p, self.training)
        return h


class UNITDigits(Method):
    """The paper's domain adaptation: the first domain is labelled, the second is not.

    Raises:
        ConfigError: a side that is no multiple of 16.
    """

    Config: ClassVar[type[MethodConfig]] = UNITDigitsConfig
    one_size: ClassVar[bool] = True  # the kernels are as large as the image
    # all but the real/fake head is shared: the class head and its features are the point of this model
    training_only: ClassVar[tuple[str, ...]] = ("judge",)

    def __init__(self, config: UNITDigitsConfig, domains: tuple[str, ...], **rest: Any) -> None:
        super().__init__(config, domains, **rest)
        if self.image_size % 16:
            near = max(16, round(self.image_size / 16) * 16)
            raise ConfigError(
                f"unit-digits needs a side that is a multiple of 16; data.size is {self.image_size}. "
                f"Try --set data.size={near}"
            )
        self.encoder = Encoder(config.width, self.image_size, config.channels)
        self.decoder = Decoder(config.width, self.image_size, config.channels)
        for module in [*self.encoder.modules(), *self.decoder.modules()]:
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0, 0.02)
        self.features = Features(config.discriminator_width, config.channels, config.dropout)
        last, cell = config.discriminator_width * 8, self.image_size // 16
        self.judge = nn.Conv2d(last, 2, cell)
        self.class_head = nn.Conv2d(last, len(self.classes), cell) if self.classes else None
        for part in [*self.features.modules(), self.judge, self.class_head]:
            if isinstance(part, nn.Conv2d):
                nn.init.xavier_uniform_(part.weight, 2**0.5)
                nn.init.constant_(part.bias, 0.1)  # type: ignore[arg-type]  # every convolution here has a bias

        if config.same_start:
            if config.channels[0] != config.channels[1]:
                raise ConfigError(f"model.same_start needs equal model.channels; they are {list(config.channels)}")
            for private in (self.encoder.private, self.decoder.private, self.features.private):
                private[1].load_state_dict(private[0].state_dict())

    @property
    def pairs(self) -> Sequence[Pair]:
        """Batches always come as (labelled, unlabelled)."""
        return ((self.domains[0], self.domains[1]),)

    def stages(self) -> tuple[Stage, ...]:
        """One stage: discriminator (with the class head), then generator."""
        c = self.config
        adam = Adam(c.lr, c.betas, weight_decay=c.weight_decay, schedule=falling(c.decay_from))
        judges = tuple(m for m in (self.features, self.judge, self.class_head) if m is not None)
        updates = (
            Update("discriminator", self.discriminator_loss, judges, adam),
            Update("generator", self.generator_loss, (self.encoder, self.decoder), adam),
        )
        return (Stage("train", c.steps, updates, c.batch_size),)

    # -- losses

    def discriminator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Real against fake (reconstructions are judged too), classes of source images, feature distance."""
        c = self.config
        x1, x2 = self._inputs(batch)
        with torch.no_grad():
            (x11, x21), (x12, x22), _, _ = self._generate(x1, x2)
        n = len(x1)
        h = self.features([(0, torch.cat([x1, x11, x21])), (1, torch.cat([x2, x22, x12]))])
        h1, h11, h21, h2, h22, h12 = h.split(n)
        logits = self._logits(torch.cat([h1, h2, h11, h22, h12, h21]))  # [6N, 2], class 1 is real
        real, fake = logits[: 2 * n], logits[2 * n :]
        # ½(CE reconstruction + CE translation): their mean, as there are equally many of both
        gan = _judged(real, 1) + _judged(fake, 0)
        terms = {"gan": c.gan_weight * gan}
        if self.class_head is not None and batch.source_label is not None:
            terms["class"] = c.class_weight * _labelled(self._classes(h1), batch.source_label)
            if c.translated_class_weight:
                again = _labelled(self._classes(h12), batch.source_label)
                terms["translated_class"] = c.translated_class_weight * again
        if c.feature_weight:
            f = self.features([(0, torch.cat([x11, x21])), (1, torch.cat([x22, x12]))], drop=False).float()
            f11, f21, f22, f12 = f.split(n)
            terms["feature"] = c.feature_weight * (_squared(f12, f11) + _squared(f21, f22))
        with torch.no_grad():
            right = (real.argmax(1) == 1).float().mean() + (fake.argmax(1) == 0).float().mean()
            self.monitor["discriminator/sign_accuracy"] = right / 2
            if "class" in terms and batch.source_label is not None:
                hit = self._classes(h1).argmax(1) == batch.source_label
                self.monitor["discriminator/source_class_accuracy"] = hit.float().mean()
        return terms

    def generator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Fool the judge with translations and reconstructions, rebuild the input, stay near the prior."""
        c = self.config
        x1, x2 = self._inputs(batch)
        (x11, x21), (x12, x22), mu, sd = self._generate(x1, x2)
        n = len(x1)
        h = self.features([(0, torch.cat([x11, x21])), (1, torch.cat([x22, x12]))])
        logits = self._logits(h)
        # CE translation + CE reconstruction: twice their mean
        terms = {"gan": c.gan_weight * 2 * _judged(logits, 1)}
        terms["reconstruction"] = c.reconstruction_weight * (_squared(x11, x1) + _squared(x22, x2))
        mu, sd = mu.float(), sd.float()
        kl = (mu**2 + sd**2 - torch.log(sd**2 + 1e-12)).flatten(1).sum(1).mean()
        terms["kl"] = c.kl_weight * kl
        if c.anchor_weight and self.class_head is not None and batch.source_label is not None:
            terms["anchor"] = c.anchor_weight * _labelled(self._classes(h[3 * n :]), batch.source_label)
        return terms

    # -- use

    def render(self, images: Tensor, source: str | None, target: str, *inputs: Tensor) -> Tensor:
        """[N, 3, S, S] in [-1, 1] -> the same in domain ``target``, from the mean of the code."""
        i, j = self.domains.index(str(source)), self.domains.index(target)
        mu, _ = self.encoder([(i, self._enter(images, i))])
        both: tuple[Tensor, Tensor] = self.decoder(mu)
        return both[j].expand(-1, 3, -1, -1)

    def reconstruct(self, images: Tensor, domain: str) -> Tensor | None:
        """x̂₁₁ or x̂₂₂, [N, 3, S, S], without noise."""
        return self.translate(images, domain, domain)

    def classify(self, images: Tensor, domain: str) -> Tensor:
        """[N, 3, S, S] in [-1, 1] of ``domain`` -> class logits [N, K].

        Raises:
            ConfigError: the model was trained without labels, so it has no class head.
        """
        if self.class_head is None:
            raise ConfigError("this model was trained without labels and cannot classify; train it with unpaired adapt")
        index = self.domains.index(domain)
        return self._classes(self.features([(index, self._enter(images, index))], drop=False))

    # -- inside

    def _enter(self, images: Tensor, domain: int) -> Tensor:
        """[N, 3, S, S] -> [N, C, S, S] with the domain's number of channels."""
        return images if self.config.channels[domain] == 3 else images.mean(1, keepdim=True)

    def _inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """x₁ and x₂ of a batch, augmented as configured."""
        c = self.config
        x1, x2 = self._enter(batch.source, 0), self._enter(batch.target, 1)
        if c.invert_target:
            sign = 1 - 2 * torch.randint(0, 2, (len(x2), 1, 1, 1), device=x2.device).to(x2)
            x2 = x2 * sign
        return jitter(x1, c.jitter), jitter(x2, c.jitter)

    def _generate(self, x1: Tensor, x2: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor, Tensor]:
        """(x̂₁₁, x̂₂₁), (x̂₁₂, x̂₂₂), μ, σ. Both domains pass the shared layers together: BatchNorm sees both."""
        mu, sd = self.encoder([(0, x1), (1, x2)])
        first, second = self.decoder(mu + sd * torch.randn_like(sd))  # η ~ N(0, I)
        n = len(x1)
        return (first[:n], first[n:]), (second[:n], second[n:]), mu, sd

    def _logits(self, features: Tensor) -> Tensor:
        logits: Tensor = self.judge(features).float().flatten(1)
        return logits

    def _classes(self, features: Tensor) -> Tensor:
        assert self.class_head is not None
        logits: Tensor = self.class_head(features).float().flatten(1)
        return logits


def _judged(logits: Tensor, answer: int) -> Tensor:
    """Mean cross-entropy where the judge should say ``answer`` of all."""
    return F.cross_entropy(logits, logits.new_full((len(logits),), answer, dtype=torch.long))


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """‖a − b‖², summed over each sample and averaged over the batch."""
    return (a.float() - b.float()).pow(2).flatten(1).sum(1).mean()


def _labelled(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the samples that have a label (not −1); zero when none has."""
    known = labels >= 0
    total = F.cross_entropy(logits, labels.clamp_min(0), reduction="none") * known
    return total.sum() / known.sum().clamp_min(1)
