"""Cross-Domain Cascaded Deep Translation (Katzir, Lischinski and Cohen-Or, ECCV 2020; ICLR 2020 submission; arXiv
1906.01526).

Two domains, both ways. Not images are translated but their features in a classifier: the deepest map first, then each
shallower one given the translation of the next deeper one; the last is inverted into an image. Equation numbers are
those of the ICLR submission; docs/methods/cascade.md lists every reading taken where the paper leaves or contradicts
something.

Legend: a, b are images of the two domains, a_i, b_i their maps at level i, b̃_i the translation of a_i and ã_i that of
b_i; G_i^B gives maps of b's domain, D_i^B judges them. In code a domain is its index, and ``target`` is where a
translator leads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from unpaired import losses
from unpaired.batch import Batch, Pair
from unpaired.errors import ConfigError
from unpaired.methods.base import Adam, Update
from unpaired.methods.levels import LevelConfig, LevelMethod, Maps, Weight, bind
from unpaired.networks.pyramid import Conditional, ContentTrunk, Critic, DeepTranslator, StyleFromMap


class Given(NamedTuple):
    """What a level's players are given, of both domains: nothing in it is trained."""

    real: tuple[Maps, Maps]
    """The maps of a and of b, from the deepest down to the level."""
    deeper: tuple[Tensor | None, Tensor | None]
    """(ã_{i+1}, b̃_{i+1}), by target, from the translators of the deeper levels; None for the deepest level."""


class CascadeConfig(LevelConfig):
    """Every number of the paper, and those it leaves out."""

    adversarial_weight: Weight = 1.0
    """Of L_adv for the translators; 0 leaves the critics out (Fig. 6)."""
    cycle_weight: Weight = 100.0
    """λ_cyc (Eq. 4); 0 leaves the cycle out (Fig. 6)."""
    identity_weight: Weight = 100.0
    """λ_idty (Eq. 4); 0 leaves the identity loss out (Fig. 6)."""

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if self.adversarial_weight == self.cycle_weight == self.identity_weight == 0:
            raise ValueError("adversarial_weight, cycle_weight and identity_weight are all 0: nothing would be learnt")
        return self


class Cascade(LevelMethod):
    """Two-way translation of the levels of a feature pyramid, deep to shallow.

    Stages: the inversion networks of each level, then the translators of each level from the deepest on, both
    directions at once. ``translate`` takes images of the trained size and ends at the last level that has been begun.
    Deterministic.
    """

    Config: ClassVar[type[CascadeConfig]] = CascadeConfig
    training_only: ClassVar[tuple[str, ...]] = ("critics", "judges")

    def __init__(self, config: CascadeConfig, domains: tuple[str, ...], **rest: Any) -> None:
        super().__init__(config, domains, **rest)
        c = config
        channels, sides = self.pyramid.channels, self.pyramid.sides
        self.makers, self.critics = nn.ModuleDict(), nn.ModuleDict()
        for index, level in enumerate(c.levels):
            self.makers[str(level)] = nn.ModuleList([self._translator(index) for _ in domains])  # G_i^A, G_i^B
            self.critics[str(level)] = nn.ModuleList(
                [Critic(channels[level], sides[level], c.width) for _ in domains]
            )  # D_i^A, D_i^B

    def _translator(self, index: int) -> nn.Module:
        """Table 3 for the deepest level, Tables 4 and 5 for the others."""
        c: CascadeConfig = self.config
        channels, sides = self.pyramid.channels, self.pyramid.sides
        level = c.levels[index]
        if index == 0:
            return DeepTranslator(channels[level], c.width)
        deeper = c.levels[index - 1]
        trunk = ContentTrunk(channels[deeper], channels[level], sides[deeper], sides[level], c.width)
        return Conditional(trunk, StyleFromMap(channels[level], sides[level], trunk.widths, c.width))

    # -- plan

    @property
    def pairs(self) -> Sequence[Pair]:
        """The domains in their order: each batch has images of both, and both directions are trained on it."""
        return ((self.domains[0], self.domains[1]),)

    def level_updates(self, index: int, adam: Adam) -> tuple[Callable[[Batch], Any], tuple[Update, ...]]:
        c: CascadeConfig = self.config
        key = str(c.levels[index])
        translators = Update(
            f"translator-{key}", bind(self.translator_loss, index), (self.makers[key],), adam, every=c.generator_every
        )
        critics = Update(f"critic-{key}", bind(self.critic_loss, index), (self.critics[key],), adam)
        return bind(self.given, index), (critics, translators) if c.adversarial_weight > 0 else (translators,)

    # -- translation

    def make(self, index: int, own: Tensor, deeper: Tensor | None, target: int) -> Tensor:
        """G_i of level number ``index`` towards ``target``: its map from the level's own map and the next deeper
        one."""
        translators: Any = self.makers[str(self.config.levels[index])]
        translator = translators[target]
        made: Tensor = translator(own) if deeper is None else translator(own, deeper)
        return made

    def cascade(self, maps: Maps, target: int, count: int) -> list[Tensor]:
        """The translations of the first ``count`` levels, each given that of the next deeper one."""
        made: list[Tensor] = []
        for index in range(count):
            made.append(self.make(index, maps[self.config.levels[index]], made[-1] if made else None, target))
        return made

    def _way(self, source: str | None, target: str) -> tuple[int, int]:
        if (source, target) not in self.directions:
            raise ConfigError(f"this model translates between {' and '.join(self.domains)}, not {source} to {target}")
        return self.domains.index(source), self.domains.index(target)

    def render(self, images: Tensor, source: str | None, target: str, *inputs: Tensor) -> Tensor:
        """image -> features -> 5 -> 4 -> 3 -> inversion -> image (Fig. 3)."""
        s, t = self._way(source, target)
        begun, shown = int(self.reached), self.shown  # read first: later a GPU's work would be waited for
        last = self.config.levels[shown - 1] if begun else self.last_pictured
        maps: Maps = self.pyramid(images, s)
        if not begun:  # no translator yet: the map in the other domain's units
            return self.picture(last, maps[last], t)
        return self.picture(last, self.cascade(maps, t, shown)[-1], t)

    def untrained(self) -> str:
        """As for every method on levels; before the first level is begun nothing is translated at all."""
        if int(self.reached):
            return super().untrained()
        return (
            "not trained yet: every level. Outputs are inversions of the input's own features; the training command "
            "goes on with the levels"
        )

    def reconstruct(self, images: Tensor, domain: str) -> Tensor:
        """The inversion of the last level's map of ``images``: what the way through features costs, without
        translation. While the inversion networks are in training, of the level that it has come to."""
        number, last = self.domains.index(domain), self.last_pictured
        return self.picture(last, self.pyramid(images, number, (last,))[last], number)

    def levels(self, images: Tensor, source: str, target: str) -> list[tuple[str, Tensor, Tensor]]:
        """Fig. 1 and 25: inversions of the maps of ``images`` and of their translations, for each level with an
        inversion network; none before the first level is begun."""
        s, t = self._way(source, target)
        if not int(self.reached):
            return []
        maps: Maps = self.pyramid(images, s)
        made = self.cascade(maps, t, self.shown)
        return [
            (f"level {level}", self.picture(level, maps[level], s), self.picture(level, own, t))
            for level, own in zip(self.config.levels, made, strict=False)
            if level in self.config.inverted
        ]

    def views(self, images: Tensor, source: str, target: str) -> dict[str, Tensor]:
        """The inversion of the input, then the translation at each level but the last, once a level has been begun."""
        found = self.levels(images, source, target)
        same = found[-1][1] if found else self.reconstruct(images, source)
        return {"inversion of the input": same} | {name: translated for name, _, translated in found[:-1]}

    # -- losses

    def given(self, batch: Batch, index: int) -> Given:
        """The frozen part of a step of level number ``index``: real maps, and translations of the next deeper level."""
        real = self.maps(batch.source, 0, index), self.maps(batch.target, 1, index)
        if index == 0:
            return Given(real, (None, None))
        with torch.no_grad():
            return Given(real, (self.cascade(real[1], 0, index)[-1], self.cascade(real[0], 1, index)[-1]))

    def forth_and_same(self, index: int, given: Given, target: int) -> tuple[Tensor | None, Tensor | None]:
        """What ``target``'s translator makes of the other domain's maps (given translated deeper ones), and of its own
        (given the real deeper map): the translation and the identity, each None where no loss asks for it. One pass for
        both, since no norm looks past a sample."""
        real, deeper = given
        c: CascadeConfig = self.config
        level = c.levels[index]
        forth, same = c.adversarial_weight > 0 or c.cycle_weight > 0, c.identity_weight > 0
        own: list[Tensor] = []
        conditions: list[Any] = []
        if forth:
            own.append(real[1 - target][level])
            conditions.append(deeper[target])
        if same:
            own.append(real[target][level])
            conditions.append(real[target][c.levels[index - 1]] if index else None)
        made = self.make(index, torch.cat(own), torch.cat(conditions) if index else None, target)
        parts = torch.split(made, len(own[0]))
        return parts[0] if forth else None, parts[-1] if same else None

    def critic_loss(self, batch: Batch, given: Given, index: int) -> dict[str, Tensor]:
        """Eq. 1 for the critics, of both domains: E D(ỹ) - E D(y) + λ_gp E (||∇D(ŷ)|| - 1)²; unconditional at every
        level."""
        c: CascadeConfig = self.config
        level, (real, deeper) = c.levels[index], given
        critics: Any = self.critics[str(level)]
        terms = {}
        for target, name in enumerate(self.domains):
            own = real[1 - target][level]
            with torch.no_grad():
                fake = self.make(index, own, deeper[target], target)
            y, critic = real[target][level], critics[target]
            terms[f"gap/{name}"], terms[f"penalty/{name}"] = self.critic_terms(critic, y, fake, critic.slopes)
        return terms

    def translator_loss(self, batch: Batch, given: Given, index: int) -> dict[str, Tensor]:
        """Eq. 4 for the translators: -E D(ỹ) for both, λ_cyc times the cycle, λ_idty times the identity loss; means of
        |·|.

        Below the deepest level, the way back and the identity are given the *real* deeper map.
        """
        c: CascadeConfig = self.config
        level, real = c.levels[index], given.real
        critics: Any = self.critics[str(level)]
        both = [self.forth_and_same(index, given, target) for target in range(2)]
        terms = {}
        for target, name in enumerate(self.domains):
            source = 1 - target
            own, fake, same = real[source][level], both[target][0], both[source][1]
            if c.adversarial_weight > 0:
                judged = critics[target](fake)[0].float().mean()
                terms[f"adversarial/{name}"] = -c.adversarial_weight * judged  # G raises what Eq. 1 has D lower
            if c.cycle_weight > 0 and fake is not None:  # Eq. 2
                back_to = real[source][c.levels[index - 1]] if index else None  # a_{i+1}, not its translation
                back = self.make(index, fake, back_to, source)
                terms[f"cycle/{self.domains[source]}"] = c.cycle_weight * losses.mean_l1(back, own)
            if same is not None:  # Eq. 3
                terms[f"identity/{self.domains[source]}"] = c.identity_weight * losses.mean_l1(same, own)
        return terms
