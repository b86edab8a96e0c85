"""Whose run folder it is, and whether its run may go on: the lock, and the settings and images that must agree."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unpaired.config import RunConfig, differences, read_toml, setting_names, without_retired
from unpaired.data.sampling import Pool
from unpaired.errors import ConfigError, RefusedError, nearest
from unpaired.files import locked
from unpaired.methods import run_from
from unpaired.training.state import Plan

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


def check_images(run_dir: Path, manifest: Mapping[str, Any], pool: Pool) -> None:
    """Refuse images that the run did not begin with. Raises ConfigError."""
    known = manifest.get("data_fingerprint")
    if known != pool.fingerprint:
        raise ConfigError(
            f"{run_dir}: the training images are not the ones this run began with (fingerprint {str(known)[:12]}…, now "
            f"{pool.fingerprint[:12]}…). Restore them, use another --out, or accept it with --allow-change data"
        )


def check_domains(run_dir: Path, header: Mapping[str, Any], domains: Sequence[str]) -> None:
    """Refuse domains of other names: they are what translate is asked for, so none is renamed on the way. Raises
    ConfigError."""
    known = header["domains"]
    if tuple(known) != tuple(domains):
        raise ConfigError(
            f"{run_dir}: the run translates between {', '.join(known)}; the data has the domains {', '.join(domains)}. "
            "Name them as before, or use another --out"
            + (f" (and --start-from {run_dir})" if len(known) == len(domains) else "")
        )


def check_stage(run_dir: Path, header: Mapping[str, Any], plan: Plan) -> None:
    """Refuse changed numbers of steps that put the step reached into another stage: what belongs to that stage's start
    would be left out, and what was trained since would not fit to it. Raises ConfigError."""
    step, stage = header["step"], header["stage"]
    if 0 < step <= plan.total and (now := plan.at(step)[0].name) != stage:
        raise ConfigError(
            f"{run_dir}: step {step:,} was in stage '{stage}', and with these numbers of steps it would be in "
            f"'{now}'. Only the stage that a run is in and later ones can be made longer or shorter; for the others "
            f"use another --out, with --start-from {run_dir}"
        )
