"""Show, Attend and Translate: Unsupervised Image Translation with Self-Regularization and Attention (Yang et al., ICLR
2019 submission; arXiv 1806.06195).

One generator, one way. G0 translates the whole image, G_attn says where that is wanted, and a perceptual distance to
the input keeps the result close to it, with a weight that training finds by itself. Equation numbers are the paper's;
docs/methods/attend.md lists every reading taken where the paper leaves or contradicts something.

Legend: x [N, 3, H, W] in [-1, 1] is an image of the source domain, y one of the target domain (unrelated to x);
m [N, 1, H, W] in [0, 1] is the mask; G0 and G give images like x; λ weighs the distance between x and G(x).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from unpaired import losses
from unpaired.batch import Batch, Pair
from unpaired.errors import ConfigError
from unpaired.methods.base import Adam, Method, Stage, Start, Update, one_way
from unpaired.methods.levers import (
    LeverConfig,
    falling,
    fill,
    judge_betas,
    measure_colours,
    projected,
    started,
    trained,
)
from unpaired.networks.augment import augment
from unpaired.networks.classifiers import NETWORKS, Features
from unpaired.networks.convnets import (
    AttentionBranch,
    ImageBuffer,
    Norm,
    ResnetGenerator,
    WeightInduction,
    kaiming_convolutions,
    normal_convolutions,
)
from unpaired.networks.discriminators import OverlappingPatches

Count = Annotated[int, Field(ge=1)]
Steps = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Phase = Literal["initial", "attention", "joint"]

MASK_FLOOR = 1 / 512
"""A mask below this is 0 when translating. It could not change an 8-bit pixel: |m (G0(x) - x)| <= 2 / 512 is less than
half of the step 2 / 255 between two grey levels."""

THRESHOLDS = {"nonsaturating": 1.5, "minimax": -0.25, "lsgan": 0.6, "hinge": 0.56}
"""Default of l_adv^t: what a discriminator reaches that gives translations a probability of 0.22 of being real (for
``hinge`` logits of -0.56). The paper has no number. A balanced game stands at 0.69, -0.69, 0.25, 0. A discriminator of
several scales, whose losses are added up, has as many times that."""
MARGINS = {"nonsaturating": 0.5, "minimax": 0.25, "lsgan": 0.2, "hinge": 0.2}
"""By how much a default threshold lies beyond the loss without regularisation, at least."""
_TWO_IMAGES = (
    'model.induction_unit = "images" compares two images of a batch: take model.batch_size of '
    "2 at least, for each process "
    'and each part of training.accumulate, or induction_unit = "distance"'
)


class AttendConfig(LeverConfig):
    """Every number of the paper, and those it leaves out; the levers are not the paper's."""

    source: str = ""
    """Name of the domain that is translated; empty: the first."""
    attention: bool = True
    """False trains G0 alone, in the first stage alone (digits and maps in the paper)."""

    width: Count = 64
    """Channels of G0's first layer; 32 in the first author's TensorFlow code."""
    residual_blocks: Count = 9
    """Residual blocks of G0."""
    dilation: Count = 2
    """Dilation of their convolutions; 1 is CycleGAN's generator."""
    norm: Norm = "batch"
    """After the convolutions of G0 and G_attn; ``instance`` for batches of one image."""
    attention_network: Literal["vgg19", "squeezenet1_1", "efficientnet_lite0"] = "vgg19"
    """Whose first layers G_attn begins with, down to a quarter of the size: vgg19 to conv3_3, squeezenet1_1 to
    fire3."""
    discriminator_width: Count = 64
    """Channels of the discriminator's first layer."""
    discriminator_layers: Count = 3
    """Its convolutions of stride 2; with 3, five in all, and each patch has 70 x 70 pixels."""
    discriminator_norm: Literal["batch", "instance", "none"] = "batch"
    """After its middle convolutions."""

    gan: losses.Adversarial = "nonsaturating"
    """Adversarial loss (Eq. 2, 3)."""
    history: Annotated[int, Field(ge=0)] = 50
    """Translations kept for the discriminator; 0 shows it the newest only."""

    network: Literal["vgg19", "squeezenet1_1", "mobilenet_v1", "alexnet", "efficientnet_lite0"] = "vgg19"
    """Whose features the distance l_reg = d(x, G(x)) compares (Eq. 4); frozen."""
    layers: tuple[str, ...] = ()
    """Its layers, in order of depth; none: relu1_1, relu2_1, relu3_1 of vgg19 and their like in the others."""
    layer_weights: tuple[Weight, ...] = (1 / 32, 1 / 16, 1 / 8)
    """w_l of Eq. 4, one a layer; outside the squared norm, as the prose has it."""

    reg_weight: Weight | None = None
    """λ of Eq. 1, held constant; None finds it by adaptive weight induction."""
    induction_threshold: float | None = None
    """l_adv^t: λ stops rising where the generator's adversarial loss is above it. None takes one that fits ``gan``
    (THRESHOLDS in the code), moved to lie beyond the loss that the stage's warm-up had without regularisation, by
    MARGINS at least."""
    induction_unit: Literal["distance", "images"] = "distance"
    """λ is counted in units of 1 / (mean d(x, G(x)) in the stage's warm-up), so that networks of any scale start alike;
    or of 1 / (mean d between two ``images`` of the source), which does not hang on the start."""
    induction_warmup: Share = 0.05
    """Share of a stage's steps before λ may rise."""
    induction_span: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of a stage's steps in which λ would rise to ``induction_largest`` if nothing stopped it."""
    induction_largest: Annotated[float, Field(gt=0)] = 10.0
    """Bound of λ, in those units."""
    induction_checks: Count = 100
    """Looks at the loss within that span; λ rises by an equal part at each."""
    induction_patience: Count = 3
    """Looks in a row beyond the threshold that stop λ for good."""
    induction_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the running average of the loss that is looked at."""

    lr: Annotated[float, Field(gt=0)] = 2e-4
    """Adam's learning rate in the first two stages."""
    joint_lr: Annotated[float, Field(gt=0)] = 2e-5
    """In the third; the paper says "smaller"."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Adam's momentums."""
    decay_from: Share = 0.5
    """Share of a stage's steps after which the rate falls linearly to 0 (5,000 of 10,000 in the paper)."""
    batch_size: Count = 8
    """Images of each domain in a step; the paper does not say."""
    initial_steps: Steps = 10_000
    """Steps of the first stage: G0 alone."""
    attention_steps: Steps = 10_000
    """Steps of the second: G_attn, with G0 fixed."""
    joint_steps: Steps = 10_000
    """Steps of the third: both."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        layers = self.layers or NETWORKS[self.network].shallow
        if len(layers) != len(self.layer_weights):
            raise ValueError(f"layer_weights has {len(self.layer_weights)} numbers for {len(layers)} layers")
        if self.attention and not self.attention_steps and self.joint_steps:
            raise ValueError("joint_steps without attention_steps would fine-tune a mask that was never trained")
        if self.induction_unit == "images" and self.batch_size < 2:
            raise ValueError(_TWO_IMAGES)
        return self

    def with_steps(self, total: int) -> Self:
        """About ``total`` steps in all; without attention only the first stage counts."""
        if not self.attention:
            return self.model_copy(update={"initial_steps": total})
        names = [n for n in ("initial_steps", "attention_steps", "joint_steps") if getattr(self, n)]
        now = sum(getattr(self, n) for n in names)
        return self.model_copy(update={n: max(1, round(getattr(self, n) * total / now)) for n in names})


class Attend(Method):
    """One-way translation that changes what must change, and says where (arXiv 1806.06195).

    Three stages: G0 alone; G_attn with G0 fixed; both at a lower rate. Before the second begins, ``translate`` gives
    G0(x) and the mask is 1 everywhere. Deterministic; accepts sizes divisible by 4.
    """

    Config: ClassVar[type[AttendConfig]] = AttendConfig
    training_only: ClassVar[tuple[str, ...]] = (
        "discriminator",
        "features",
        "past",
        "initial_induction",
        "attention_induction",
    )
    stride: int = ResnetGenerator.STRIDE

    attending: Tensor
    """1 once G_attn is in use, else 0."""

    def __init__(
        self, config: AttendConfig, domains: tuple[str, ...], *, image_size: int, classes: tuple[str, ...] = ()
    ):
        super().__init__(config, domains, image_size=image_size, classes=classes)
        c = config
        self.direction = one_way(c.source, self.domains)
        least = max(3 * 2**c.discriminator_layers, self.stride * (c.dilation + 1))
        if image_size % self.stride or image_size < least:
            raise ConfigError(
                f"data.size = {image_size}: these networks need a multiple of {self.stride}, at least {least}"
            )
        network = ResnetGenerator(
            c.width, c.residual_blocks, dilation=c.dilation, norm=c.norm, resize=c.resize_convolutions
        )
        self.branch = AttentionBranch(c.attention_network, c.norm) if c.attention else None  # G_attn
        self.discriminator = self._discriminator()  # D
        layers = c.layers or NETWORKS[c.network].shallow
        self.features = Features(c.network, layers) if c.reg_weight != 0 else nn.Identity()  # F
        self.past = ImageBuffer(c.history, image_size)
        self.initial_induction = self._induction(c.initial_steps)
        self.attention_induction = self._induction(c.attention_steps)
        self.register_buffer("attending", torch.zeros((), dtype=torch.int64))
        normal_convolutions(network)
        if c.discriminator == "patches":
            normal_convolutions(self.discriminator)
        kaiming_convolutions(self.features)  # stands where no pretrained weights are asked for
        if self.branch is not None:
            normal_convolutions(self.branch)
            kaiming_convolutions(self.branch.trunk)
        self.generator = started(network, c)  # G0

    def _discriminator(self) -> nn.Module:
        c: AttendConfig = self.config
        if c.discriminator == "projected":
            return projected(c, width=c.discriminator_width)
        return OverlappingPatches(c.discriminator_width, c.discriminator_layers, norm=c.discriminator_norm)

    def _induction(self, steps: int) -> WeightInduction:
        c: AttendConfig = self.config
        given = c.induction_threshold
        scales = len(c.judge_taps) + (c.patch_weight > 0) if c.discriminator == "projected" else 1
        return WeightInduction(
            threshold=scales * THRESHOLDS[c.gan] if given is None else given,
            rise=c.induction_largest / c.induction_checks,
            every=max(1, round(c.induction_span * steps / c.induction_checks)),
            largest=c.induction_largest,
            warmup=round(c.induction_warmup * steps),
            patience=c.induction_patience,
            smoothing=c.induction_smoothing,
            margin=scales * MARGINS[c.gan] if given is None else None,
        )

    def prepare(self, start: Start) -> None:
        """Pretrained weights for F, and for the first layers of G_attn ("warm-started", section 2). Raises
        WeightsError."""
        c: AttendConfig = self.config
        measure_colours(self.generator, c, start, *self.direction)
        fill(self.discriminator, c, start, self.domains)
        if c.weights == "random":
            return
        if isinstance(self.features, Features):
            self.features.fill(*start.classifier(c.network, c.weights))
        if self.branch is not None and start.begun_with is None:  # else it has been trained
            self.branch.trunk.fill(*start.classifier(c.attention_network, c.weights))

    # -- plan

    @property
    def directions(self) -> Sequence[Pair]:
        """One."""
        return (self.direction,)

    def stages(self) -> tuple[Stage, ...]:
        c: AttendConfig = self.config
        stages = [self._stage("initial", c.initial_steps, c.lr)]
        if self.branch is not None:
            stages.append(self._stage("attention", c.attention_steps, c.lr))
            stages.append(self._stage("joint", c.joint_steps, c.joint_lr))
        return tuple(stages)

    def _players(self, phase: Phase) -> tuple[nn.Module, ...]:
        """What a stage trains beside the discriminator."""
        if self.branch is None or phase == "initial":
            return (self.generator,)
        return (self.branch,) if phase == "attention" else (self.generator, self.branch)

    def _stage(self, phase: Phase, steps: int, lr: float) -> Stage:
        """One of the three. D goes on from where it was, with a fresh optimiser and no old translations."""
        c: AttendConfig = self.config
        players = self._players(phase)
        schedule = falling(c.decay_from)
        adam = Adam(lr, c.betas, schedule=schedule)
        other = Adam(lr * (c.discriminator_lr or c.lr) / c.lr, judge_betas(c, c.betas), schedule=schedule)
        updates = (
            Update(f"{phase}-discriminator", self.discriminator_loss, trained(self.discriminator), other),
            Update(
                f"{phase}-generator", lambda b, output: self.generator_loss(b, output, phase), players, adam,
                through_forward=True,
            ),
        )  # fmt: skip

        def start() -> None:
            self.past.empty()
            self.attending.fill_(int(phase != "initial"))

        awake: tuple[nn.Module, ...] = (self.past,)
        if phase != "joint":  # there λ keeps what the second stage found
            awake += (self._induction_of(phase),)
        return Stage(
            phase, steps, updates, c.batch_size, lambda b: self._output(b.source, phase), start=start, train_mode=awake
        )

    def _induction_of(self, phase: Phase) -> WeightInduction:
        return self.initial_induction if phase == "initial" else self.attention_induction

    # -- translation

    def render(self, images: Tensor, source: str | None, target: str, *inputs: Tensor) -> Tensor:
        """G(x) = m ⊙ G0(x) + (1 - m) ⊙ x; where m is below MASK_FLOOR, x itself."""
        if (source, target) != self.direction:
            raise ConfigError(f"this model translates {' to '.join(self.direction)} alone, not {source} to {target}")
        attending = bool(self.attending)  # read first: later a GPU's work would be waited for
        translated: Tensor = self.generator(images)
        if self.branch is None or not attending:
            return translated
        return self.compose(images, translated, self._mask(images))

    def attention(self, images: Tensor) -> Tensor | None:
        """m = G_attn(x), 0 where it is below MASK_FLOOR; 1 everywhere before its stage; None for a model without."""
        if self.branch is None:
            return None
        if not bool(self.attending):
            return torch.ones_like(images[:, :1], dtype=torch.float32)
        return self._mask(images)

    def _mask(self, images: Tensor) -> Tensor:
        assert self.branch is not None, "asked before"
        mask: Tensor = self.branch(images)
        return torch.where(mask < MASK_FLOOR, 0.0, mask)

    def views(self, images: Tensor, source: str, target: str) -> dict[str, Tensor]:
        """G0(x) and the mask in grey, once it is in use."""
        mask = self.attention(images)
        if mask is None or not bool(self.attending):
            return {}
        return {
            "translated everywhere, G0(x)": self.generator(images).float(),
            "mask: white is translated": (2 * mask - 1).expand(-1, 3, -1, -1),
        }

    @staticmethod
    def compose(images: Tensor, translated: Tensor, mask: Tensor | None) -> Tensor:
        """m ⊙ G0(x) + (1 - m) ⊙ x: exactly x for m = 0 and exactly G0(x) for m = 1."""
        if mask is None:
            return translated
        return torch.lerp(images.float(), translated.float(), mask.float())

    def _output(self, images: Tensor, phase: Phase) -> Tensor:
        """G(x) as the stage has it."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and phase != "attention"):  # G0 is fixed there
            translated: Tensor = self.generator(images)
        if phase == "initial" or self.branch is None:
            return translated
        mask = self.branch(images)
        self.monitor["mask"] = mask.detach().mean()  # near 0: λ has grown so large that nothing is translated any more
        return self.compose(images, translated, mask)

    # -- losses

    def _judged(self, images: Tensor) -> list[Tensor]:
        """D of images, which are augmented where that is asked for."""
        logits: list[Tensor] = self.discriminator(augment(images, self.config.augment))
        return logits

    def discriminator_loss(self, batch: Batch, output: Tensor) -> dict[str, Tensor]:
        """Eq. 2 as a loss: -log D(y) - log(1 - D(G(x))), G fixed; D sees a history of translations ``output``."""
        c: AttendConfig = self.config
        fake = self.past(output.detach())
        # one pass each: batch norm must not see both kinds at once
        judged_real, judged_fake = self._judged(batch.target), self._judged(fake)
        self.monitor["discriminator/sign_accuracy"] = losses.sign_accuracy(judged_real, judged_fake, c.gan)
        return {"real": losses.judged_real(judged_real, c.gan), "fake": losses.judged_fake(judged_fake, c.gan)}

    def generator_loss(self, batch: Batch, output: Tensor, phase: Phase) -> dict[str, Tensor]:
        """Eq. 1: l_adv + λ l_reg, of the translations ``output`` = G(x)."""
        c: AttendConfig = self.config
        x = batch.source
        adversarial = losses.fooling(self._judged(output), c.gan)  # Eq. 3
        terms = {"adversarial": adversarial}
        if c.reg_weight != 0:
            distance = self.distance(x, output)
            weight = self._weight(adversarial, distance, batch, phase)
            terms["regularisation"] = weight * distance
            self.monitor["distance"] = distance.detach()
        return terms

    def _weight(self, adversarial: Tensor, distance: Tensor, batch: Batch, phase: Phase) -> Tensor | float:
        """λ at this step; in the log as ``lambda``."""
        c: AttendConfig = self.config
        if c.reg_weight is not None:
            return c.reg_weight
        induction = self._induction_of(phase)
        x = batch.source
        if c.induction_unit == "images" and len(x) < 2:  # of an image and itself the distance is 0, and λ without bound
            raise ConfigError(_TWO_IMAGES)
        if batch.first:  # one look a step, however many parts it is computed in
            induction.measure(distance if c.induction_unit == "distance" else self.distance(x, x.roll(1, 0)))
            induction(adversarial)
        weight = induction.weight
        self.monitor["lambda"] = weight
        self.monitor["lambda/level"] = induction.level.clone()  # in units of 1 / distance
        self.monitor["lambda/watched"] = induction.average.clone()
        self.monitor["lambda/stopped"] = induction.stopped.float()
        return weight

    def distance(self, x: Tensor, output: Tensor) -> Tensor:
        """l_reg = d(x, G(x)) (Eq. 4)."""
        with torch.no_grad():
            before = self.features(x)
        return losses.feature_distance(before, self.features(output), self.config.layer_weights)
