"""What the methods on a feature pyramid share: maps of a batch, feature inversion, levels in order, and what was
trained on what.

Not a method itself. ``cascade`` translates maps level by level, ``deepvae`` makes them from noise; both take features
from one :class:`Pyramid`, train level by level with everything deeper frozen, and turn maps into pictures with the same
networks.

Legend: N batch, C channels, h side of a map, S side of the image; level 5 is the deepest; maps [N, C, h, h] in [-1, 1],
images [N, 3, S, S] in [-1, 1]; index is a place in ``config.levels``, 0 for the deepest.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from unpaired import losses
from unpaired.batch import Batch
from unpaired.config import MethodConfig
from unpaired.errors import CheckpointError, ConfigError
from unpaired.methods.base import Adam, Beginning, Method, Stage, Start, Update
from unpaired.networks.discriminators import StridedPatches
from unpaired.networks.pyramid import LEVELS, Inverter, Pyramid, hash_tensor

Count = Annotated[int, Field(ge=1)]
Steps = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Level = Annotated[int, Field(ge=1, le=LEVELS)]
Maps = dict[int, Tensor]
"""Maps of the same images by level."""
Judge = Callable[[Tensor], list[Tensor]]
"""A critic: maps [N, C, h, h] -> its one output [N, 1], in a list."""
Slopes = Callable[[Tensor], Tensor]
"""Its gradient there: maps [N, C, h, h] -> the same shape."""


class Real(NamedTuple):
    """The map of real images at one level, and their activations where the perceptual distance wants them."""

    map: Tensor
    activations: list[Tensor]


class LevelConfig(MethodConfig):
    """Settings of the pyramid, the feature inversion and the schedule."""

    network: str = "vgg19"
    """Classifier whose features are used: ``vgg19``, ``alexnet`` or ``mobilenet_v1``; frozen."""
    weights: str = "pretrained"
    """``pretrained`` (found by name or downloaded), a file or folder with the weights, a run of method ``finetune``, or
    ``random``."""
    levels: tuple[Level, ...] = (5, 4, 3)
    """Deepest first, without a gap; the last one becomes the image. A single level is made alone (Table 1)."""
    kept_levels: tuple[Level, ...] = ()
    """The first of ``levels``, which a run with ``--start-from`` keeps as they are and does not train again."""

    width: Positive = 1.0
    """Factor of the channels within the networks on maps; 1 is the paper's on VGG-19."""
    inversion_width: Positive = 1.0
    """Factor of the channels of the inversion networks."""
    judge_width: Count = 64
    """Channels of the first layer of the discriminator of inverted images."""
    judge_layers: Count = 4
    """Its strided convolutions."""
    invert_all: bool = True
    """Train an inversion network for each level, for pictures of them; False: for the last one alone, which makes the
    image."""

    penalty_weight: Weight = 10.0
    """λ_gp of the gradient penalty."""
    generator_every: Count = 4
    """Steps of the critics for one of the generators."""
    lr: Positive = 1e-4
    """Adam's learning rate, of all networks; constant."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Adam's momentums."""
    batch_size: Count = 10
    """Images of each domain in a step of a level."""
    level_steps: Count = 101_600
    """Steps of each level: 400 epochs of 2,540 images in batches of 10."""

    inversion_batch_size: Count = 25
    """Images of each domain in a step of an inversion network."""
    inversion_steps: Steps = 40_640
    """Steps of each level's inversion networks; 0 only with those of ``--start-from``."""
    image_weight: Weight = 1.0
    """Of the mean absolute difference between an image and its inversion."""
    perceptual_weight: Weight = 0.01
    """Of the mean squared difference of the classifier's activations."""
    perceptual_levels: tuple[Weight, Weight, Weight, Weight, Weight] = (2.0, 1.0, 0.5, 0.5, 0.2)
    """Share of each level in it, from level 1 on; divided by their sum."""
    inversion_gan_weight: Weight = 0.01
    """Of the adversarial loss (LSGAN) of inverted images."""

    @model_validator(mode="after")
    def _levels_fit(self) -> Self:
        levels = self.levels
        if not levels or levels != tuple(range(levels[0], levels[0] - len(levels), -1)):
            raise ValueError(f"levels = {list(levels)}: name them from the deepest on, without a gap, as in [5, 4, 3]")
        if self.kept_levels != levels[: len(self.kept_levels)]:
            raise ValueError(
                f"kept_levels = {list(self.kept_levels)}: only the first of levels = {list(levels)} can be kept, "
                "because those after a level that is trained again were trained on the old one"
            )
        if not any(self.perceptual_levels):
            raise ValueError("perceptual_levels are all 0; to leave the term out, set perceptual_weight = 0")
        if self.image_weight == self.perceptual_weight == self.inversion_gan_weight == 0:
            raise ValueError("image_weight, perceptual_weight and inversion_gan_weight are all 0")
        return self

    @property
    def inverted(self) -> tuple[int, ...]:
        """Levels with inversion networks."""
        return self.levels if self.invert_all else self.levels[-1:]

    def with_steps(self, total: int) -> Self:
        """About ``total`` steps in all stages together, in the proportion of now."""
        trained = len(self.levels) - len(self.kept_levels)
        now = self.level_steps * trained + self.inversion_steps * len(self.inverted)
        if not now:
            raise ConfigError("kept_levels keeps all levels and inversion_steps = 0: there is nothing left to train")
        change = {"level_steps": max(1, round(self.level_steps * total / now))}
        if self.inversion_steps:
            change["inversion_steps"] = max(1, round(self.inversion_steps * total / now))
        return self.model_copy(update=change)


class LevelMethod(Method):
    """Base of the methods on a pyramid. A subclass fills ``makers`` (its networks by level) and says what trains each
    level."""

    Config: ClassVar[type[MethodConfig]] = LevelConfig
    one_size: ClassVar[bool] = True
    # with small maps of many channels under WGAN-GP a step of the deepest level takes 1.4 times as long
    channels_last: bool = False
    # levels are trained on the raw weights of the deeper ones, and their hashes say so
    never_averaged: ClassVar[tuple[str, ...]] = ("pyramid", "makers", "encoder")

    made_from_deeper: ClassVar[bool] = True
    """A level is trained on what the networks of the deeper ones give, and not on real maps alone."""

    made_on: Tensor
    """uint8 [levels, 32]: for each level SHA-256 of all that it was trained on, 0 where it has not been trained."""
    inverted_on: Tensor
    """The same of the inversion networks, which are trained on the pyramid alone."""
    reached: Tensor
    """How many levels are in use: those before the one in training, and that one."""

    makers: nn.ModuleDict
    """By level: the networks that give its map."""

    def __init__(self, config: Any, domains: tuple[str, ...], **rest: Any) -> None:
        super().__init__(config, domains, **rest)
        c: LevelConfig = config
        self.pyramid = Pyramid(c.network, c.levels, len(domains), self.image_size)
        self._check_size()
        channels, sides = self.pyramid.channels, self.pyramid.sides
        self.inverters, self.judges = nn.ModuleDict(), nn.ModuleDict()
        for level in c.inverted:
            make = (channels[level], sides[level], self.image_size, c.inversion_width)
            self.inverters[str(level)] = nn.ModuleList([Inverter(*make) for _ in domains])
            self.judges[str(level)] = nn.ModuleList([StridedPatches(c.judge_width, c.judge_layers) for _ in domains])
        for name in ("made_on", "inverted_on"):
            self.register_buffer(name, torch.zeros(len(c.levels), 32, dtype=torch.uint8))
        self.register_buffer("reached", torch.zeros((), dtype=torch.int64))

    def _check_size(self) -> None:
        c: LevelConfig = self.config
        least = 2 ** (c.judge_layers + 1)
        if self.image_size < least:
            raise ConfigError(
                f"data.size = {self.image_size}: a discriminator of {c.judge_layers} strided convolutions needs "
                f"{least} pixels; type --set data.size={least}, or --set model.judge_layers={c.judge_layers - 1}"
            )
        for deeper in c.levels[:-1]:
            if self.pyramid.sides[deeper] < 2:  # AdaIN would leave nothing of a single position
                raise ConfigError(
                    f"data.size = {self.image_size}: level {deeper} of {c.network} has a single position; "
                    "use larger images"
                )

    def prepare(self, start: Start) -> None:
        """The pyramid's weights and statistics. Raises WeightsError, or ConfigError for parts that nothing would
        train."""
        c: LevelConfig = self.config
        if start.begun_with is not None:
            self._continue(start.begun_with, start)
            return
        if c.kept_levels:
            raise ConfigError(
                f"model.kept_levels = {list(c.kept_levels)} keeps what --start-from brings; without it there is "
                "nothing to keep"
            )
        if not c.inversion_steps:
            raise ConfigError(
                "model.inversion_steps = 0 keeps the inversion networks of --start-from; without it there are none"
            )
        if c.weights != "random":
            self.pyramid.features.fill(*start.classifier(c.network, c.weights))
        self.pyramid.take_statistics(self.domains, start.examples)

    def _continue(self, model: Beginning, start: Start) -> None:
        """After another model's weights have been taken in: what is kept must have been trained, on these domains and
        on what it is together with here; where nothing is kept, all is trained again, on statistics of the new images.
        Raises ConfigError, CheckpointError."""
        c: LevelConfig = self.config
        if c.weights not in ("pretrained", model.settings["weights"]):
            raise ConfigError(
                f"model.weights = {c.weights}: the model of --start-from brings the classifier that its levels were "
                f"trained on, of {model.settings['weights']}; leave the weights out, or begin without --start-from"
            )
        kept = {f"kept_levels keeps level {level}": self.made_on[c.levels.index(level)] for level in c.kept_levels} | {
            f"inversion_steps = 0 keeps the inversion of level {level}": self.inverted_on[c.levels.index(level)]
            for level in ([] if c.inversion_steps else c.inverted)
        }
        for what, trained_on in kept.items():
            if not trained_on.any():
                raise ConfigError(f"model.{what}, which the model of --start-from has never trained; leave it out")
        if not kept:
            self.pyramid.take_statistics(self.domains, start.examples)
            for buffer in (self.made_on, self.inverted_on, self.reached):
                buffer.zero_()
        elif set(model.domains) != set(self.domains):
            raise ConfigError(
                f"the model of --start-from was trained on {', '.join(model.domains)}, the data has "
                f"{', '.join(self.domains)}: nothing of it can be kept for other domains; leave out "
                "model.kept_levels and model.inversion_steps=0"
            )
        self.check_parts()

    def stages(self) -> tuple[Stage, ...]:
        """The inversion networks, then the levels from the deepest on, but for those that are kept."""
        c: LevelConfig = self.config
        adam = Adam(c.lr, c.betas)
        stages = self.inversion_stages(adam)
        for index, level in enumerate(c.levels):
            if level not in c.kept_levels:
                forward, updates = self.level_updates(index, adam)
                start = bind(self.start_level, index)
                stages.append(Stage(f"level-{level}", c.level_steps, updates, c.batch_size, forward, start))
        return tuple(stages)

    @abstractmethod
    def level_updates(self, index: int, adam: Adam) -> tuple[Callable[[Batch], Any], tuple[Update, ...]]:
        """What trains level number ``index``: ``Stage.forward`` and the updates."""

    # -- maps

    def maps(self, images: Tensor, domain: int, index: int) -> Maps:
        """Levels of ``images`` down to number ``index``, all of the same crops."""
        return self.pyramid(images, domain, self.config.levels[: index + 1])  # type: ignore[no-any-return]

    def picture(self, level: int, maps: Tensor, domain: int) -> Tensor:
        """The inversion of a map of ``domain``: [N, 3, S, S]."""
        inverters: Any = self.inverters[str(level)]
        image: Tensor = inverters[domain](maps)
        return image

    @property
    def last_pictured(self) -> int:
        """The shallowest level whose inversion network training has come to; before the first of them the last
        level."""
        levels: tuple[int, ...] = self.config.levels
        begun = [level for level, on in zip(levels, self.inverted_on, strict=True) if on.any()]
        return begun[-1] if begun else levels[-1]

    @property
    def shown(self) -> int:
        """How many levels an output goes through: those begun, or all where the last of them has no inversion
        network."""
        count = int(self.reached)
        levels = self.config.levels
        return count if count and levels[count - 1] in self.config.inverted else len(levels)

    def untrained(self) -> str:
        """The levels, and the inversion network, that an output goes through and that no stage has begun to train."""
        used = self.config.levels[: self.shown]
        random = [f"level {level}" for level, on in zip(used, self.made_on, strict=False) if not on.any()]
        if not self.inverted_on[len(used) - 1].any():
            random.append(f"the inversion of level {used[-1]}")
        if not random:
            return ""
        alone = " (with model.invert_all = false there is no picture before the last level)"
        return (
            f"not trained yet: {', '.join(random)}. Outputs go through random networks there"
            f"{'' if self.config.invert_all else alone}; the training command goes on with them"
        )

    # -- critics

    def critic_terms(self, judge: Judge, y: Tensor, fake: Tensor, slopes: Slopes) -> tuple[Tensor, Tensor]:
        """WGAN-GP for one critic: mean D(fake) - mean D(y), and λ_gp E (||∇D(ŷ)|| - 1)². Real maps ``y`` [N, C, h, h]
        and translated ones go through it together, since it judges each sample alone."""
        (judged,) = judge(torch.cat([y, fake]))
        gap = judged[len(y) :].float().mean() - judged[: len(y)].float().mean()
        return gap, self.config.penalty_weight * losses.gradient_penalty(judge, y, fake, slopes)

    # -- feature inversion

    def inversion_stages(self, adam: Adam) -> list[Stage]:
        """One for each level with inversion networks; they do not depend on each other or on any translator."""
        c: LevelConfig = self.config
        stages = []
        for level in c.inverted:
            key = str(level)
            updates = [Update(f"inverter-{level}", bind(self.inverter_loss, level), (self.inverters[key],), adam)]
            if c.inversion_gan_weight > 0:
                judge = Update(f"judge-{level}", bind(self.judge_loss, level), (self.judges[key],), adam)
                updates.insert(0, judge)
            stages.append(
                Stage(
                    f"inversion-{level}", c.inversion_steps, tuple(updates), c.inversion_batch_size,
                    bind(self.real, level), bind(self._start_inversion, c.levels.index(level)),
                )
            )  # fmt: skip
        return stages

    def sides_of(self, batch: Batch) -> list[Tensor]:
        """The images of each domain, in the order of the domains; all are different ones."""
        return [batch.source, batch.target][: len(self.domains)]

    def real(self, batch: Batch, level: int) -> list[Real]:
        """What both players of an inversion stage need of the images of each domain, in one pass."""
        found = []
        for domain, images in enumerate(self.sides_of(batch)):
            if self.config.perceptual_weight > 0:
                found.append(Real(*self.pyramid.with_activations(images, domain, level)))
            else:
                found.append(Real(self.pyramid(images, domain, (level,))[level], []))
        return found

    def judge_loss(self, batch: Batch, real: Sequence[Real], level: int) -> dict[str, Tensor]:
        """LSGAN: what the discriminators pay for real images and for inversions."""
        judges: Any = self.judges[str(level)]
        terms, right = {}, []
        for domain, (name, images) in enumerate(zip(self.domains, self.sides_of(batch), strict=True)):
            with torch.no_grad():
                fake = self.picture(level, real[domain].map, domain)
            judged_real, judged_fake = judges[domain](images), judges[domain](fake)
            terms[f"real/{name}"] = losses.judged_real(judged_real, "lsgan")
            terms[f"fake/{name}"] = losses.judged_fake(judged_fake, "lsgan")
            right.append(losses.sign_accuracy(judged_real, judged_fake, "lsgan"))
        self.monitor[f"judge-{level}/sign_accuracy"] = torch.stack(right).mean()
        return terms

    def inverter_loss(self, batch: Batch, real: Sequence[Real], level: int) -> dict[str, Tensor]:
        """Reconstruction of the image and of its features, and LSGAN (Dosovitskiy and Brox 2016)."""
        c: LevelConfig = self.config
        terms: dict[str, Tensor] = {}
        for domain, (name, images) in enumerate(zip(self.domains, self.sides_of(batch), strict=True)):
            image = self.picture(level, real[domain].map, domain)
            if c.image_weight > 0:
                terms[f"image/{name}"] = c.image_weight * losses.mean_l1(image, images)
            if c.perceptual_weight > 0:
                terms[f"perceptual/{name}"] = c.perceptual_weight * self._perceptual(real[domain].activations, image)
            if c.inversion_gan_weight > 0:
                judges: Any = self.judges[str(level)]
                terms[f"gan/{name}"] = c.inversion_gan_weight * losses.fooling(judges[domain](image), "lsgan")
        return terms

    def _perceptual(self, real: list[Tensor], inverted: Tensor) -> Tensor:
        """Σ w_l mean (φ_l(x) - φ_l(x̂))² over the five levels after their ReLU, Σ w_l = 1."""
        c: LevelConfig = self.config
        pairs = zip(real, self.pyramid.activations(inverted), c.perceptual_levels, strict=True)
        terms = [w * losses.mean_square(a.float() - b.float()) for a, b, w in pairs if w]
        return torch.stack(terms).sum() / sum(c.perceptual_levels)

    # -- what was trained on what

    def _trained_on(self, index: int) -> bytes:
        """SHA-256 of everything that level number ``index`` is trained on: the pyramid there and deeper, the deeper
        networks."""
        levels = self.config.levels
        sha = hashlib.sha256(self.pyramid.digest(levels[: index + 1]))
        for level in levels[:index] if self.made_from_deeper else ():
            for name, tensor in self.makers[str(level)].state_dict().items():
                hash_tensor(sha, f"{level}.{name}", tensor)
        return sha.digest()

    def _start_inversion(self, index: int) -> None:
        level = self.config.levels[index]
        self.inverted_on[index].copy_(_bytes(self.pyramid.digest((level,))))

    def start_level(self, index: int) -> None:
        """Start of a level's stage: it is in use from now on, and what was trained on its former state is not any
        more."""
        self.reached.fill_(index + 1)
        self.made_on[index].copy_(_bytes(self._trained_on(index)))
        self.made_on[index + 1 :].zero_()

    def check_parts(self) -> None:
        """Refuse levels or inversion networks that were trained on others than those they are together with."""
        levels = self.config.levels
        for index, level in enumerate(levels):
            for what, there, now in (
                ("level", self.made_on[index], self._trained_on),
                ("the inversion of level", self.inverted_on[index], lambda i: self.pyramid.digest((levels[i],))),
            ):
                if there.any() and bytes(there.tolist()) != (found := now(index)):
                    raise CheckpointError(
                        f"{what} {level} was trained on other parts than those it is together with here (SHA-256 "
                        f"{bytes(there.tolist()).hex()[:12]}… then, {found.hex()[:12]}… now): the pyramid, its "
                        f"statistics or a deeper level has changed since. Train level {level} and all shallower ones "
                        "again: --start-from with --set model.kept_levels"
                    )


def _bytes(digest: bytes) -> Tensor:
    return torch.tensor(list(digest), dtype=torch.uint8)


def bind(function: Any, *arguments: Any) -> Any:
    """``function`` with its last arguments given: a loss or a start that knows its level."""
    return lambda *first: function(*first, *arguments)
