"""What a training must keep over a restart: weights, their averages, optimisers, step, and what the watch has seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from unpaired import checkpoint
from unpaired.errors import CheckpointError, ConfigError
from unpaired.methods.base import Method, Stage, Update
from unpaired.training.log import Watch


class Plan:
    """The stages on one axis of steps. Steps are counted from 1; step 0 is before training."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = tuple(s for s in stages if s.steps > 0)
        if not self.stages:
            raise ConfigError(
                "the method's settings ask for no training steps; set a number of steps above 0 (or keep fewer parts "
                "as they are)"
            )
        self.ends: list[int] = []
        for stage in self.stages:
            self.ends.append((self.ends[-1] if self.ends else 0) + stage.steps)
        modules: dict[str, set[int]] = {}
        for update in (u for stage in self.stages for u in stage.updates):
            ids = {id(p) for m in update.modules for p in m.parameters()}
            if not modules.get(update.name, set()) <= ids:
                raise ValueError(f"update '{update.name}' loses parameters in a later stage: give it a name of its own")
            modules[update.name] = ids

    @property
    def total(self) -> int:
        """Steps of all stages."""
        return self.ends[-1]

    def at(self, step: int) -> tuple[Stage, int]:
        """Return the stage of step ``step`` (1 to total; that of step 1 for 0) and the step before the stage's
        first."""
        index = next(i for i, end in enumerate(self.ends) if step <= end)
        return self.stages[index], self.ends[index] - self.stages[index].steps

    def updates_until(self, step: int) -> list[Update]:
        """Return the updates that have had a step after ``step`` steps; the last of each name, which trains the
        most."""
        found: dict[str, Update] = {}
        for stage, end in zip(self.stages, self.ends, strict=True):
            if end - stage.steps < step:
                found |= {update.name: update for update in stage.updates}
        return list(found.values())


class TrainingState:
    """Holds the state of one run; :meth:`dump` is the one list of it.

    Args:
        method: on its device, in its memory format; its weights are those of step 0.
        ema: decay of the average of the weights (``training.ema``), None for none.
    """

    def __init__(self, method: Method, ema: float | None) -> None:
        self.method, self.ema = method, ema
        self.plan = Plan(method.stages())
        self.watch = Watch()
        self.step = 0
        self.pretrained: list[dict[str, str]] = []
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.names = {id(p): n for n, p in method.named_parameters()}
        shared = {n for n in method.shared_state() if n.split(".")[0] not in method.never_averaged}
        self.average = {n: t.detach().clone() for n, t in self._averageable().items() if n in shared} if ema else {}

    # ---- the average of the weights ----------------------------------------------------------------------

    def _averageable(self) -> dict[str, Tensor]:
        """Return what an average can be taken of, by name: parameters, and buffers but for the counters, so that
        averaged weights go with averaged statistics (as in BigGAN's code, whose EMA is over the whole state
        dictionary)."""
        buffers = {n: b for n, b in self.method.named_buffers() if b.is_floating_point()}
        return {**dict(self.method.named_parameters()), **buffers}

    def begin_average(self) -> None:
        """Set the average to the weights of now."""
        live = self._averageable()
        self.average = {name: live[name].detach().clone() for name in self.average}

    def move_average(self) -> None:
        """Move the average: a ← d·a + (1 − d)·w after step n, with d = min(``training.ema``, (1 + n) / (10 + n)): the
        weights of the first steps, which are worth nothing, are forgotten in a short run too."""
        if not self.ema:
            return
        live, names = self._averageable(), list(self.average)
        decay = min(self.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_([self.average[n] for n in names], [live[n].detach() for n in names], 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averages into the method, inside."""
        live = self._averageable()
        raw = {n: live[n].detach().clone() for n in self.average}
        self._put(self.average)
        try:
            yield
        finally:
            self._put(raw)

    def _put(self, values: Mapping[str, Tensor]) -> None:
        live = self._averageable()
        with torch.no_grad():  # and not through .data: what is kept of the weights must see that they changed
            for name, value in values.items():
                live[name].copy_(value)

    def shared_tensors(self) -> dict[str, Tensor]:
        """Return what goes into the model file: averages where EMA is on, the raw tensors elsewhere."""
        return {**self.method.shared_state(), **self.average}

    # ---- optimisers --------------------------------------------------------------------------------------

    def optimizer(self, update: Update) -> torch.optim.Optimizer:
        """Return the optimiser of an update's name, with a group for each module that has joined it so far."""
        optimizer = self.optimizers.get(update.name)
        seen: set[int] = set()
        for module, rate in zip(update.modules, update.rates or (1.0,) * len(update.modules), strict=True):
            own = [p for p in dict.fromkeys(module.parameters()) if id(p) not in seen]
            seen |= {id(p) for p in own}
            groups = optimizer.param_groups if optimizer else []
            known = next((g for g in groups if own and g["params"][0] is own[0]), None)
            if known is not None:
                known["rate"] = rate
            elif own and optimizer is not None:
                optimizer.add_param_group({"params": own, "rate": rate})
            elif own:
                optimizer = update.optimizer.build([{"params": own, "rate": rate}])
        if optimizer is None:
            raise ValueError(f"update '{update.name}' has no parameters")
        self.optimizers[update.name] = optimizer
        return optimizer

    def _take_optimizers(self, tensors: Mapping[str, Tensor]) -> None:
        """Take optimiser state from ``optimizer/<update>/<parameter>/<what>``, for the updates up to ``self.step``."""
        for update in self.plan.updates_until(max(self.step, 1)):
            optimizer = self.optimizer(update)
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                prefix = f"optimizer/{update.name}/{self.names[id(parameter)]}/"
                saved = {
                    k.removeprefix(prefix): laid_out(v, parameter) for k, v in tensors.items() if k.startswith(prefix)
                }
                if saved:
                    optimizer.state[parameter] = saved

    # ---- there and back ----------------------------------------------------------------------------------

    def dump(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return everything that must survive a restart, as tensors by name and JSON-ready values."""
        tensors = {f"method/{k}": v for k, v in self.method.state_dict().items()}
        tensors |= {f"average/{k}": v for k, v in self.average.items()}
        for name, optimizer in self.optimizers.items():
            for parameter, values in optimizer.state.items():
                tensors |= {f"optimizer/{name}/{self.names[id(parameter)]}/{k}": v for k, v in values.items()}
        values = {
            "format": checkpoint.FORMAT,
            "step": self.step,
            "watch": self.watch.state(),
            "pretrained": self.pretrained,
            "averaged": len(self.average),
            "optimizers": {n: c for n, o in self.optimizers.items() if (c := sum(map(len, o.state.values())))},
        }
        return tensors, values

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take back what :meth:`dump` gave. Raises CheckpointError when it does not fit."""
        missing = sorted({"step", "watch", "pretrained", "averaged", "optimizers"} - set(values))
        for name, count in values.get("optimizers", {}).items():
            found = sum(k.startswith(f"optimizer/{name}/") for k in tensors)
            missing += [f"{count - found} tensors of optimizer/{name}"] if found != count else []
        averaged = sum(k.startswith("average/") for k in tensors)
        if (count := values.get("averaged", averaged)) != averaged:
            missing.append(f"{count - averaged} tensors of average")
        if missing:
            raise CheckpointError(f"the saved state is not whole; missing: {', '.join(missing)}")
        if not averaged:  # EMA switched on: it starts from the weights of now
            tensors = {**tensors, **{f"average/{n}": tensors[f"method/{n}"] for n in self.average}}
        elif not self.average:  # switched off
            tensors = {k: v for k, v in tensors.items() if not k.startswith("average/")}
        own = {k: v for k, v in self.dump()[0].items() if not k.startswith("optimizer/")}
        given = {k for k in tensors if not k.startswith("optimizer/")}
        if own.keys() != given:
            raise CheckpointError(
                f"the saved state does not fit this method; it differs in: {', '.join(sorted(own.keys() ^ given)[:8])}"
            )
        other = [k for k in sorted(own) if own[k].shape != tensors[k].shape]
        if other:
            lines = "".join(f"\n  {k}: here {tuple(own[k].shape)}, saved {tuple(tensors[k].shape)}" for k in other[:8])
            raise CheckpointError(
                f"the saved state does not fit this method; {len(other)} tensors have other shapes, so a setting that "
                f"shapes the networks has changed. Repeat the old one, or use another --out{lines}"
            )
        self.method.load_state_dict(
            {k.removeprefix("method/"): v for k, v in tensors.items() if k.startswith("method/")}
        )
        for name in self.average:
            self.average[name] = laid_out(tensors[f"average/{name}"], self.average[name])
        self.step = values["step"]
        self._take_optimizers(tensors)
        self.method.check_parts()
        self.watch.restore(values["watch"])
        self.pretrained = list(values["pretrained"])


def laid_out(value: Tensor, like: Tensor) -> Tensor:
    """Return a copy of ``value`` on the device and, where the shapes are equal, in the memory format of ``like``: the
    same arithmetic, bit for bit, after a restart."""
    if value.shape != like.shape:
        return value.to(like.device, copy=True)
    return torch.empty_like(like, dtype=value.dtype).copy_(value)
