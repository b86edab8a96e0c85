"""Runs of the tiny method for the fault tests, what they acknowledge, and savers without the protection (the twins)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kit

import tiny
from unpaired import checkpoint
from unpaired import files as _files
from unpaired.config import RunConfig
from unpaired.errors import CheckpointError
from unpaired.training import loop
from unpaired.training import state as training_state
from unpaired.training.run import build


def config(steps: int = 4, **settings: Any) -> RunConfig:
    """Two stages of ``steps`` / 2, a checkpoint and a sample sheet at every step, the two newest kept."""
    own = {
        "model__first_steps": steps // 2, "model__second_steps": steps - steps // 2, "training__checkpoint_every": 1,
        "training__sample_every": 1, "training__keep": 2,
    }  # fmt: skip
    return tiny.config(**{**own, **settings})


def train(run: Path, steps: int = 4, acknowledged: Path | None = None, **settings: Any) -> Path:
    """Train; after each save that has returned, its step is appended to ``acknowledged``."""
    made = config(steps, **settings)
    with noted(acknowledged):
        return loop.fit(build(made, ("red", "blue")), tiny.pool(), made, run, quiet=True)


@contextmanager
def noted(acknowledged: Path | None) -> Iterator[None]:
    """Write down which saves have returned."""
    with kit.noting(loop.Trainer, "save", acknowledged, lambda trainer: trainer.step):
        yield


def last_acknowledged(path: Path) -> int:
    """The newest step in that file, -1 without one. A line cut by a kill does not count."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return int(lines[-1]) if lines else -1


def everything(run: Path) -> dict[str, bytes]:
    """The files of the newest checkpoint, and the sample sheets."""
    saved, _ = checkpoint.latest(run / "checkpoints")
    assert saved is not None
    files = {name: (saved.folder / name).read_bytes() for name in (checkpoint.MODEL, checkpoint.STATE)}
    return files | {p.name: p.read_bytes() for p in sorted((run / "samples").glob("*.png"))}


# ---- twins: the same run with the protection removed ----------------------------------------------------------------------


def commit_in_place(root: Path, step: int, *, model: bytes, state: bytes, about: Mapping[str, Any], keep: int) -> Path:
    """What many trainers do: write over the only checkpoint."""
    folder = root / "step-000000001"
    try:
        folder.mkdir(exist_ok=True)
        for name, content in ((checkpoint.MODEL, model), (checkpoint.STATE, state)):
            _files.write_synced(folder / name, content)
    except OSError as error:
        raise checkpoint.save_error(folder, error, len(model)) from error
    return folder


def latest_in_place(root: Path, only: object = None) -> tuple[checkpoint.Saved | None, list[str]]:
    """The reader that goes with it. Raises CheckpointError where nothing can be loaded."""
    folder = root / "step-000000001"
    if not folder.exists():
        return None, []
    try:
        checkpoint.unpack(folder / checkpoint.MODEL, (folder / checkpoint.MODEL).read_bytes())
        _, values = checkpoint.unpack(folder / checkpoint.STATE, (folder / checkpoint.STATE).read_bytes())
    except OSError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    return checkpoint.Saved(folder, values["step"], {}), []


@contextmanager
def unprotected() -> Iterator[None]:
    """Checkpoints written in place, in this process and its children."""
    real = checkpoint.commit, checkpoint.latest, training_state.restore_newest, loop.restore_newest

    def restore(trainer: loop.Trainer, root: Path, *_: object) -> None:
        saved, _rejected = latest_in_place(root)
        if saved is not None:
            trainer.restore(*checkpoint.read_state(saved))

    checkpoint.commit, checkpoint.latest = commit_in_place, latest_in_place
    loop.restore_newest = restore  # type: ignore[assignment]
    try:
        yield
    finally:
        checkpoint.commit, checkpoint.latest, training_state.restore_newest, loop.restore_newest = real
