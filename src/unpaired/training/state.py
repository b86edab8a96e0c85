"""The stages of a method on one axis of steps."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unpaired import checkpoint
from unpaired.config import RunConfig, differences, read_toml, setting_names, without_retired
from unpaired.errors import CheckpointError, ConfigError, RefusedError, nearest
from unpaired.files import locked
from unpaired.methods import run_from
from unpaired.methods.base import Method, Stage, Update
from unpaired.training.log import Watch, warn

if TYPE_CHECKING:
    from unpaired.training.loop import Trainer


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


# ----------------------------------------------------------------------------------------------------
# What a training must keep over a restart: weights, their averages, optimisers, step, and what the watch has seen.
#
# :meth:`TrainingState.state` is the one list of it. The loop (``unpaired.training.loop``) adds what it does with it.


class TrainingState:
    """Of one run.

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
        """What an average can be taken of, by name: parameters, and buffers but for the counters, so that averaged weights go with
        averaged statistics (as in BigGAN's code, whose EMA is over the whole state dictionary)."""
        buffers = {n: b for n, b in self.method.named_buffers() if b.is_floating_point()}
        return {**dict(self.method.named_parameters()), **buffers}

    def begin_average(self) -> None:
        """The average is the weights of now."""
        live = self._averageable()
        self.average = {name: live[name].detach().clone() for name in self.average}

    def move_average(self) -> None:
        """a ← d·a + (1 − d)·w after step n, with d = min(``training.ema``, (1 + n) / (10 + n)): the weights of the first steps,
        which are worth nothing, are forgotten in a short run too."""
        if not self.ema:
            return
        live, names = self._averageable(), list(self.average)
        decay = min(self.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_([self.average[n] for n in names], [live[n].detach() for n in names], 1 - decay)

    def swap_average(self, back: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Put the averages into the method, or ``back`` what they replaced; returns what was there."""
        live = self._averageable()
        put = self.average if back is None else back
        before = {n: live[n].detach().clone() for n in put}
        with torch.no_grad():  # and not through .data: what is kept of the weights must see that they changed
            for name, value in put.items():
                live[name].copy_(value)
        return before

    def shared_tensors(self) -> dict[str, Tensor]:
        """What goes into the model file: averages where EMA is on, the raw tensors elsewhere."""
        return {**self.method.shared_state(), **self.average}

    # ---- optimisers --------------------------------------------------------------------------------------

    def optimizer(self, update: Update) -> torch.optim.Optimizer:
        """The optimiser of an update's name, with a group for each module that has joined it so far."""
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

    def take_optimizers(self, tensors: Mapping[str, Tensor]) -> None:
        """Optimiser state from ``optimizer/<update>/<parameter>/<what>``, for the updates up to ``self.step`` (the first stage's
        where that is 0)."""
        if not any(k.startswith("optimizer/") for k in tensors):
            return
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

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that must survive a restart: the one list of it."""
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
        """Take back what :meth:`state` gave. Raises CheckpointError when it does not fit."""
        missing = sorted({"step", "watch"} - set(values))  # every value but those that older files do not have
        for name, count in values.get("optimizers", {}).items():
            found = sum(k.startswith(f"optimizer/{name}/") for k in tensors)
            missing += [f"{count - found} tensors of optimizer/{name}"] if found != count else []
        averaged = sum(k.startswith("average/") for k in tensors)
        if (count := values.get("averaged", averaged)) != averaged:
            missing.append(f"{count - averaged} tensors of average")
        if missing:
            raise CheckpointError(f"the saved state is not whole; missing: {', '.join(missing)}")
        own, _ = self.state()
        if not any(k.startswith("average/") for k in tensors):  # EMA switched on: it starts from the weights of now
            tensors = {**tensors, **{f"average/{n}": tensors[f"method/{n}"] for n in self.average}}
        elif not self.average:  # switched off
            tensors = {k: v for k, v in tensors.items() if not k.startswith("average/")}
        elif "averaged" not in values:  # of before statistics were averaged, too: theirs begin with the raw ones
            own_buffers = self.average.keys() & {n for n, _ in self.method.named_buffers()}
            raw = {f"average/{n}": v for n in own_buffers if (v := tensors.get(f"method/{n}")) is not None}
            tensors = {**raw, **tensors}
        own_names = {k for k in own if not k.startswith("optimizer/")}
        given_names = {k for k in tensors if not k.startswith("optimizer/")}
        if own_names != given_names:
            raise CheckpointError(
                f"the saved state does not fit this method; it differs in: {', '.join(sorted(own_names ^ given_names)[:8])}"
            )
        other = [k for k in sorted(own_names) if own[k].shape != tensors[k].shape]
        if other:
            lines = "".join(f"\n  {k}: here {tuple(own[k].shape)}, saved {tuple(tensors[k].shape)}" for k in other[:8])
            raise CheckpointError(
                f"the saved state does not fit this method; {len(other)} tensors have other shapes, so a setting that shapes the "
                f"networks has changed. Repeat the old one, or use another --out{lines}"
            )
        self.method.load_state_dict(
            {k.removeprefix("method/"): v for k, v in tensors.items() if k.startswith("method/")}
        )
        for name in self.average:
            self.average[name] = laid_out(tensors[f"average/{name}"], self.average[name])
        self.step = values["step"]
        self.take_optimizers(tensors)
        self.method.check_parts()
        self.watch.restore(values["watch"])
        self.pretrained = list(values.get("pretrained", ()))  # files from before there was such a thing


def laid_out(value: Tensor, like: Tensor) -> Tensor:
    """A copy of ``value`` on the device and, where the shapes are equal, in the memory format of ``like``: the same arithmetic,
    bit for bit, after a restart."""
    if value.shape != like.shape:
        return value.to(like.device, copy=True)
    return torch.empty_like(like, dtype=value.dtype).copy_(value)


# ----------------------------------------------------------------------------------------------------
# Whose run folder it is and whether its run may go on: the lock, the settings that must agree, the state to take back.

FREE_SETTINGS = frozenset(
    {"data.workers", "data.cache", "data.cache_gib"}
    | {
        f"training.{k}"
        for k in (
            "device",
            "log_every",
            "checkpoint_every",
            "keep",
            "sample_every",
            "samples",
            "tensorboard",
            "validate_every",
            "validate_weights",
        )
    }
)
"""Settings that may change on resume without being named: none of them changes what is learnt."""
HELD_OUT = ("training.validate_every", "training.validate_share", "training.validate_images")
"""Settings that say which images are left to train on; the interval of looks does so by being there or not."""


@contextlib.contextmanager
def lock(run_dir: Path) -> Iterator[None]:
    """Hold ``run_dir/lock``, whose text is the owner's process number. Raises RefusedError."""
    path = run_dir / "lock"
    try:
        owner = path.read_text(encoding="utf-8") if path.is_file() else ""
        with locked(
            path,
            f"{run_dir}: another training is at work here (pid {owner or 'unknown'}); wait for it, stop it, or use another --out",
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
        old = run_from(
            without_retired(read_toml(path))
        )  # what a file by hand, or of an older version, leaves out means the default
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
            f"{run_dir} holds a run with other settings:\n{lines}\nUse another --out for a new run, repeat the old settings to resume, "
            f"or accept the change by name: {allow}"
        )


def restore_newest(trainer: Trainer, root: Path, allow_change: Sequence[str]) -> None:
    """Restore the newest checkpoint that verifies, and say which ones were passed over; prepare a fresh run."""
    saved, rejected = checkpoint.latest(root)
    for line in rejected if trainer.ranks.main else ():
        warn(f"skipped a damaged checkpoint: {line}")
    if saved is None:
        if rejected:
            raise CheckpointError(
                f"{root}: no checkpoint is intact, so the run cannot be resumed. Use another --out, or remove this folder"
            )
        trainer.prepare()
        return
    known = saved.manifest.get("data_fingerprint")
    if known != trainer.pool.fingerprint and "data" not in allow_change:
        raise ConfigError(
            f"{root.parent}: the training images are not the ones this run began with (fingerprint {str(known)[:12]}…, now "
            f"{trainer.pool.fingerprint[:12]}…). Restore them, use another --out, or accept it with --allow-change data"
        )
    header = checkpoint.read_header(saved)
    # names are what translate is asked for: never renamed on the way
    if tuple(header["domains"]) != trainer.method.domains:
        as_many = len(header["domains"]) == len(trainer.method.domains)
        raise ConfigError(
            f"{root.parent}: the run translates between {', '.join(header['domains'])}; the data has the domains "
            f"{', '.join(trainer.method.domains)}. Name them as before, or use another --out"
            + (f" (and --start-from {root.parent})" if as_many else "")
        )
    tensors, values = checkpoint.read_state(saved)
    _check_stage(root.parent, trainer, header)
    trainer.restore(tensors, values)
    trainer.header_extra = {**trainer.header_extra, **header["extra"]}  # a resumed run keeps its own origin


def _check_stage(run_dir: Path, trainer: Trainer, header: Mapping[str, Any]) -> None:
    """Refuse changed numbers of steps that put the step reached into another stage: what belongs to that stage's start would be left
    out, and what was trained since would not fit to it. Raises ConfigError."""
    step, stage = header["step"], header["stage"]
    if not 0 < step <= trainer.plan.total:
        return
    now = trainer.plan.at(step)[0].name
    if now != stage:
        raise ConfigError(
            f"{run_dir}: step {step:,} was in stage '{stage}', and with these numbers of steps it would be in '{now}'. Only the stage that a run is in "
            f"and later ones can be made longer or shorter; for the others use another --out, with --start-from {run_dir}"
        )
