"""Runs of the tiny method for the fault tests, and what they acknowledge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kit

import tiny
from unpaired import checkpoint
from unpaired.config import RunConfig
from unpaired.training import loop
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
    with kit.noting(loop.Trainer, "save", acknowledged, lambda trainer: trainer.state.step):
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
