"""The stages of a method on one axis of steps."""

from __future__ import annotations

from collections.abc import Sequence

from unpaired.errors import ConfigError
from unpaired.methods.base import Stage, Update


class Plan:
    """The stages on one axis of steps. Steps are counted from 1; step 0 is before training."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = tuple(s for s in stages if s.steps > 0)
        if not self.stages:
            raise ConfigError(
                "the method's settings ask for no training steps; set a number of steps above 0 (or keep fewer parts as they are)"
            )
        self.ends: list[int] = []
        for stage in self.stages:
            self.ends.append((self.ends[-1] if self.ends else 0) + stage.steps)
        modules: dict[str, set[int]] = {}
        for stage in self.stages:
            for update in stage.updates:
                ids = {id(p) for m in update.modules for p in m.parameters()}
                if not modules.get(update.name, set()) <= ids:
                    raise ValueError(
                        f"update '{update.name}' trains other parameters in stage '{stage.name}': give it a name of its own"
                    )
                modules[update.name] = ids

    @property
    def total(self) -> int:
        """Steps of all stages."""
        return self.ends[-1]

    def at(self, step: int) -> tuple[Stage, int]:
        """The stage of step ``step`` (1 to total) and the step before the stage's first."""
        index = next(i for i, end in enumerate(self.ends) if step <= end)
        return self.stages[index], self.ends[index] - self.stages[index].steps

    def updates_until(self, step: int) -> list[Update]:
        """The updates that have had a step after ``step`` steps; the last of each name, which trains the most."""
        found: dict[str, Update] = {}
        for stage, end in zip(self.stages, self.ends, strict=True):
            if end - stage.steps < step:
                for update in stage.updates:
                    found[update.name] = update
        return list(found.values())
