"""What a training must keep over a restart (weights, their averages, optimisers, step, what the watch has seen), and
whether the run in a folder may go on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unpaired import checkpoint
from unpaired.config import RunConfig, differences, read_toml, setting_names, without_retired
from unpaired.data.sampling import Pool
from unpaired.errors import CheckpointError, ConfigError, RefusedError, nearest
from unpaired.files import locked
from unpaired.methods import run_from
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
        counts = {f"optimizer/{name}": count for name, count in values.get("optimizers", {}).items()}
        counts |= {"average": values["averaged"]} if "averaged" in values else {}
        for start, count in counts.items():
            found = sum(k.startswith(f"{start}/") for k in tensors)
            missing += [f"{count - found} tensors of {start}"] if found != count else []
        averaged = any(k.startswith("average/") for k in tensors)
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


# ----------------------------------------------------------------------------------------------------
# Whose run folder it is, and whether its run may go on: the lock, and the settings and images that must agree.

FREE_SETTINGS = frozenset(
    [
        "data.workers",
        "data.cache",
        "data.cache_gib",
        "training.device",
        "training.log_every",
        "training.checkpoint_every",
        "training.keep",
        "training.sample_every",
        "training.samples",
        "training.tensorboard",
        "training.validate_every",
        "training.validate_weights",
    ]
)
"""Settings that may change on resume without being named: none of them changes what is learnt."""
HELD_OUT = ("training.validate_every", "training.validate_share", "training.validate_images")
"""Settings that say which images are left to train on; the interval of looks does so by being there or not."""


@contextmanager
def lock(run_dir: Path) -> Iterator[None]:
    """Hold ``run_dir/lock``, whose text is the owner's process number. Raises RefusedError."""
    path = run_dir / "lock"
    try:
        owner = path.read_text(encoding="utf-8") if path.is_file() else ""
        with locked(
            path,
            f"{run_dir}: another training is at work here (pid {owner or 'unknown'}); wait for it, stop it, or use "
            "another --out",
        ):
            path.write_text(str(os.getpid()), encoding="utf-8")
            yield
    except OSError as error:
        if error.filename != str(path):
            raise
        raise RefusedError(f"{path}: cannot be written: {error.strerror}; use another --out") from error


def compare_settings(run_dir: Path, config: RunConfig, allow_change: Sequence[str]) -> None:
    """Refuse to resume with other settings unless each is free or named. Raises ConfigError that lists all of them."""
    known = [*setting_names(config), "data"]
    unknown = [
        f"--allow-change {name}: no such setting.{nearest(name, known)}" for name in allow_change if name not in known
    ]
    if unknown:
        raise ConfigError("\n".join(unknown))
    path = run_dir / "config.toml"
    if not path.exists():
        return
    try:
        # what a file by hand, or of an older version, leaves out means the default
        old = run_from(without_retired(read_toml(path), resume=True))
    except ConfigError as error:
        raise ConfigError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    if old.training.precision == "auto":  # never written by a run, only by hand
        old = old.model_copy(
            update={"training": old.training.model_copy(update={"precision": config.training.precision})}
        )
    found = differences(old.written(), config.written())
    switched = {k for k in HELD_OUT[:1] if None in found.get(k, ())}
    changed = {k: v for k, v in found.items() if k not in FREE_SETTINGS - switched and k not in allow_change}
    if changed:
        lines = "\n".join(f"  {k}: {old!r} in the run, {new!r} now" for k, (old, new) in sorted(changed.items()))
        names = sorted(changed)
        if any(k in HELD_OUT for k in changed):
            lines += "\nLooks at held-out images decide which images are trained on."
            names += ["data"] if "data" not in allow_change else []
        allow = " ".join(f"--allow-change {k}" for k in names)
        raise ConfigError(
            f"{run_dir} holds a run with other settings:\n{lines}\nUse another --out for a new run, repeat the old "
            f"settings to resume, or accept the change by name: {allow}"
        )


def check_goes_on(
    run_dir: Path, saved: checkpoint.Saved, plan: Plan, pool: Pool | None, domains: Sequence[str]
) -> None:
    """Refuse to go on with other images than the run began with (``pool``; None allows them), with domains of other
    names, which are what translate is asked for, or with numbers of steps that put the step reached into another stage,
    whose start would be left out. Raises ConfigError."""
    known = str(saved.manifest.get("data_fingerprint"))
    if pool is not None and known != pool.fingerprint:
        raise ConfigError(
            f"{run_dir}: the training images are not the ones this run began with (fingerprint {known[:12]}…, now "
            f"{pool.fingerprint[:12]}…). Restore them, use another --out, or accept it with --allow-change data"
        )
    header = checkpoint.read_header(saved)
    if tuple(header["domains"]) != tuple(domains):
        raise ConfigError(
            f"{run_dir}: the run translates between {', '.join(header['domains'])}; the data has the domains "
            f"{', '.join(domains)}. Name them as before, or use another --out"
            + (f" (and --start-from {run_dir})" if len(header["domains"]) == len(domains) else "")
        )
    step, stage = header["step"], header["stage"]
    if 0 < step <= plan.total and (now := plan.at(step)[0].name) != stage:
        raise ConfigError(
            f"{run_dir}: step {step:,} was in stage '{stage}', and with these numbers of steps it would be in "
            f"'{now}'. Only the stage that a run is in and later ones can be made longer or shorter; for the others "
            f"use another --out, with --start-from {run_dir}"
        )
