"""What a method is: what it trains (:class:`Stage`, :class:`Update`), and what it gives.

A method is one file in this folder with a subclass of :class:`Method`, one line in ``unpaired.methods.METHODS``, and
presets. It writes two things, ``stages()`` and ``render()``; the one loop (``unpaired.training.loop``) does
everything else: freezing, train and eval modes, precision, accumulation, EMA, all-reduce, logging, checkpoints, resume.

Legend: N batch, H height, W width; images are float tensors [N, 3, H, W] in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from unpaired.batch import AllPairs, Batch, Pair, Side
from unpaired.config import MethodConfig
from unpaired.errors import ConfigError, nearest


@dataclass(frozen=True)
class Beginning:
    """The model whose weights a run begins with (``--start-from``)."""

    about: Mapping[str, Any]
    """Where the weights came from, for the header."""
    domains: tuple[str, ...]
    parts: frozenset[str]
    """Its networks by name; most models hold no discriminators."""
    settings: Mapping[str, Any]
    """Its method's settings."""
    pretrained: tuple[Mapping[str, str], ...]
    """Where its own pretrained weights came from, as in its header."""


class Start(Protocol):
    """Lends :meth:`Method.prepare` what a fresh run begins with, and notes in the header where it came from."""

    begun_with: Beginning | None
    """The model whose weights the method has already (``--start-from``); those must stay."""

    def examples(self, domain: str, count: int, first: int = 0) -> Tensor:
        """At most ``count`` training images of a domain from number ``first`` on, centre crops [n, 3, S, S]; none after
        the last."""

    def classifier(self, network: str, source: str = "pretrained") -> tuple[str, dict[str, Tensor]]:
        """The name and the tensors of a classifier's weights, for ``Features.fill``. ``source``: ``pretrained`` (found
        by name or downloaded), a file or a folder. Raises WeightsError."""

    def gan(self, path: str, kind: str, shape: object) -> Method:
        """The pretrained GAN of method ``kind`` in a file or run folder, whose networks are ``shape`` but for the
        classes. Raises CheckpointError, ConfigError."""

    def note(self, **about: str) -> None:
        """Note more about what was lent last."""


@dataclass(frozen=True)
class Adam:
    """Settings of one Adam optimiser. The loop builds it and keeps its state by the update's name."""

    lr: float
    betas: tuple[float, float] = (0.5, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    schedule: Callable[[int, int], float] | None = None
    """Factor of ``lr`` from (step within the stage, steps of the stage); None keeps it constant."""

    def build(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimiser of groups of parameters."""
        return torch.optim.Adam(
            groups, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=True
        )


@dataclass(frozen=True)
class SGD:
    """Settings of stochastic gradient descent with a constant rate, as :class:`Adam`."""

    lr: float
    momentum: float = 0.0
    schedule: None = None

    def build(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimiser of groups of parameters."""
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum)


@dataclass(frozen=True)
class Update:
    """One optimiser step of one player."""

    name: str
    """Names the optimiser: the same name in a later stage keeps its state, a new name starts fresh. A later stage may
    add modules to a name, never take some away."""
    loss: Callable[..., dict[str, Tensor]]
    """Returns weighted scalar terms by name; their sum is the objective that is minimised. Called with the batch and,
    where the stage has a ``forward``, with its result."""
    modules: tuple[nn.Module, ...]
    """The only modules whose parameters this update may change."""
    optimizer: Adam | SGD
    every: int = 1
    """Run at steps divisible by this: critics every step, a generator every 4th."""
    rates: tuple[float, ...] = ()
    """Factor of ``optimizer.lr`` for each of ``modules``, where they differ; empty means 1 for all."""
    second_order: bool = False
    """The loss differentiates a gradient (a gradient penalty), which compiled code cannot: it stays uncompiled."""
    through_forward: bool = False
    """The loss differentiates through the result of ``Stage.forward``, which the others are given without a graph."""


@dataclass(frozen=True)
class Stage:
    """A stretch of training with one set of updates. Which stage runs is a function of the global step alone."""

    name: str
    steps: int
    updates: tuple[Update, ...]
    batch_size: int
    forward: Callable[[Batch], Any] | None = None
    """Computes what several players of a step need, frozen features or translations, as all of them are before the
    step: once a step, with accumulation once a part. Of several parts, whose graphs would be side by side in memory, an
    update that is ``through_forward`` has it computed again where others came first."""
    start: Callable[[], None] | None = None
    """Called once, before the stage's first step: copy weights, empty a pool. Seeded like a step."""
    train_mode: tuple[nn.Module, ...] = ()
    """Frozen modules that nevertheless run in train() mode."""


class Method(nn.Module):
    """Base of all methods.

    Everything that training changes must be a parameter or a buffer, so that it is saved: networks, image pools,
    running statistics, controllers. All randomness must come from torch's global generator, which the loop seeds from
    (seed, step).
    """

    Config: ClassVar[type[MethodConfig]]
    """Every number of the paper, one sentence each."""
    training_only: ClassVar[tuple[str, ...]] = ()
    """Names of child modules (or buffers) that ``translate()`` never needs; they stay out of the shared file."""
    never_averaged: ClassVar[tuple[str, ...]] = ()
    """Names of children in the shared file whose raw weights and buffers stay there also where ``training.ema`` is
    on."""
    reads: ClassVar[tuple[Side, ...]] = ("source", "target")
    """Sides of a batch whose images the losses look at. Those of the other are neither opened nor decoded: it has its
    domains, and images of no pixel."""
    stride: int = 1
    """``translate`` accepts heights and widths divisible by this; callers pad to it and crop back."""
    one_size: ClassVar[bool] = False
    """``translate`` accepts squares of the training crops' side alone."""
    more_noise: ClassVar[bool] = False
    """Outputs depend on noise beside the latents, which ``generator`` draws where latents are given, too."""
    from_noise: ClassVar[bool] = False
    """``translate`` makes images of noise alone: of its input only the number counts. Needs ``latent_size``."""
    any_source: ClassVar[bool] = False
    """``translate`` takes None for ``source``: images of no trained domain."""
    channels_last: bool = True
    """Whether to run in this memory format on a CPU: not where it was measured to be slower (docs/results/speed.md)."""
    domain_count: ClassVar[tuple[int, int | None]] = (2, 2)
    """Fewest and most domains that the method can be trained on (None: any number)."""

    def __init__(
        self, config: MethodConfig, domains: tuple[str, ...], *, image_size: int, classes: tuple[str, ...] = ()
    ):
        super().__init__()
        self.config: Any = config
        self.domains = tuple(domains)
        self.classes = tuple(classes)
        self.image_size = image_size
        """Side in pixels of the training crops."""
        self.monitor: dict[str, Tensor] = {}
        """Detached scalars from the last losses, logged beside the terms. ``<player>/sign_accuracy`` (the share of real
        and fake samples that a discriminator judges rightly, in [0, 1]) feeds the GAN watch."""

    def place(self, device: torch.device) -> Self:
        """Move to ``device``, the convolutions' weights in the memory format that is faster there; itself."""
        # on CPUs most convolutions are 1.1 to 1.9 times as fast in channels_last; not measured on GPUs
        if device.type == "cpu" and self.channels_last:
            return self.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
        return self.to(device)

    @property
    def directions(self) -> Sequence[Pair]:
        """Ordered (source, target) pairs that ``translate`` can do; a one-way method narrows it."""
        return AllPairs(self.domains)

    @property
    def pairs(self) -> Sequence[Pair]:
        """(source, target) pairs that batches are drawn from; one is chosen for each sample when there are several."""
        return self.directions

    @property
    def fixed_size(self) -> int | None:
        """The only side that ``translate`` accepts, or None for any multiple of ``stride``."""
        return self.image_size if self.one_size else None

    @property
    def latent_size(self) -> int | None:
        """Numbers in a latent, for a method whose ``translate`` has the keyword ``latents``; None for the others."""
        return None

    @property
    def stochastic(self) -> bool:
        """Whether outputs depend on noise. Files are then translated one by one, each seeded from its own bytes."""
        return type(self).inputs is not Method.inputs

    def stages(self) -> tuple[Stage, ...]:
        """The training plan; a pure function of the config."""
        raise NotImplementedError(f"{type(self).__name__} must define stages()")

    def prepare(self, start: Start) -> None:
        """Called once, before the first step of a fresh run and never on resume or when a model is loaded: take
        pretrained weights, or numbers measured on the training images, into parameters or buffers. Raises WeightsError
        or ConfigError, which refuses the run."""

    def check_start(self) -> None:
        """Called before a fresh run reads any image, where no other model's weights are begun with. Raises ConfigError
        for settings with which :meth:`prepare` could not begin."""
        return

    def check_parts(self) -> None:
        """Called when all saved weights have been taken in. Raises CheckpointError where parts do not belong together:
        one was trained on another that has changed since."""
        return

    def untrained(self) -> str:
        """A sentence on what ``translate`` goes through although it has not been trained yet, or on what it leaves out
        for that; empty where there is nothing of the kind. Who loads such a model is told."""
        return ""

    def translate(
        self,
        images: Tensor,
        source: str | None,
        target: str,
        *,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """[N, 3, H, W] in [-1, 1] of domain ``source`` -> the same shape and range, in domain ``target``.

        Called in eval mode. ``source`` may be None where ``any_source`` is set; noise is drawn with ``generator``, or
        given as ``latents`` [N, latent_size].
        """
        return self.render(images, source, target, *self.inputs(images, target, generator, latents))

    def inputs(
        self, images: Tensor, target: str, generator: torch.Generator | None = None, latents: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The tensors beside ``images`` that :meth:`render` makes a translation of: all that is drawn with
        ``generator`` (or ``latents``), the number of a class. None for methods that draw nothing."""
        return ()

    def render(self, images: Tensor, source: str | None, target: str, *inputs: Tensor) -> Tensor:
        """The translation of ``images`` with :meth:`inputs`: nothing is drawn here, so that other engines can run
        it."""
        raise NotImplementedError(f"{type(self).__name__} must define render()")

    def reconstruct(self, images: Tensor, domain: str) -> Tensor | None:
        """The method's own reconstruction within a domain (for the identity error), or None if it has none."""
        return None

    def attention(self, images: Tensor) -> Tensor | None:
        """[N, 3, H, W] in [-1, 1] -> the mask [N, 1, H, W] in [0, 1] by which ``translate`` mixes its result into the
        image, 0 where the image stays as it is; None if the method has no such mask."""
        return None

    def views(self, images: Tensor, source: str, target: str) -> dict[str, Tensor]:
        """Pictures [N, 3, H, W] in [-1, 1] of what happens between an image and its translation, such as a mask, by
        name; they become rows between the two in sample sheets and reports."""
        return {}

    def levels(self, images: Tensor, source: str, target: str) -> list[tuple[str, Tensor, Tensor]]:
        """For a method that translates level by level: (name of the level, what the images look like there, what their
        translation looks like there), pictures [N, 3, H, W] in [-1, 1], in the order of translation. Empty for the
        others."""
        return []

    def shared_state(self) -> Mapping[str, Tensor]:
        """The part of ``state_dict()`` that ``translate`` needs: what is not in ``training_only``."""
        return {k: v for k, v in self.state_dict().items() if k.split(".")[0] not in self.training_only}


def one_way(source: str, domains: tuple[str, ...]) -> tuple[str, str]:
    """The only direction of a method with the setting ``source``: from there (empty: from the first domain) to another
    one.

    Raises ConfigError where it is no domain.
    """
    source = source or domains[0]
    if source not in domains:
        raise ConfigError(
            f"model.source = '{source}' is no domain of the data.{nearest(source, domains)} "
            f"There are: {', '.join(domains)}."
        )
    return source, next(d for d in domains if d != source)
