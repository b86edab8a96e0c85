"""Whose run folder it is and whether its run may go on: the lock, the settings that must agree, the state to take back."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from unpaired import checkpoint
from unpaired.config import RunConfig, differences, from_dict, read_toml, setting_names
from unpaired.errors import CheckpointError, ConfigError, RefusedError, nearest
from unpaired.runlog import warn

if TYPE_CHECKING:
    from unpaired.training import Trainer

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
    """Hold ``run_dir/lock``. The kernel frees it when its owner dies, so a stale one is simply taken over."""
    path = run_dir / "lock"
    try:
        file: IO[str] = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise RefusedError(f"{path}: cannot be written: {error.strerror}; use another --out") from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise RefusedError(
                f"{run_dir}: another training is at work here (pid {owner}); wait for it, stop it, or use another --out"
            ) from error
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
    finally:
        file.close()


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
        old = from_dict(read_toml(path))  # what a file by hand, or of an older version, leaves out means the default
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
