"""NaN and infinity in a loss, a gradient, a weight, an optimiser, an input: seen soon, never saved as good (F11)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from figures import Figure

import tiny
from unpaired import checkpoint
from unpaired.errors import NonFiniteError
from unpaired.training import loop
from unpaired.training.run import build

STEP = 6
"""After which step something becomes non-finite; checkpoints lie at 4, 8 and 12."""


def loss(method: Any) -> None:
    method.forth[-1].register_forward_hook(lambda m, i, out: out * float("nan"))


def gradient(method: Any) -> None:
    _change_gradient(method, lambda g: g * float("inf"))


def overflow(method: Any) -> None:
    """Finite gradients whose squares are not: Adam's state overflows while the weights stand still."""
    _change_gradient(method, lambda g: g.sign() * 1e30)


def _change_gradient(method: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    def hook(module: Any, inputs: Any, out: torch.Tensor) -> None:
        if out.requires_grad:
            out.register_hook(change)

    method.forth[0].register_forward_hook(hook)


def weight(method: Any) -> None:
    method.back[0].weight.data[0, 0, 0, 0] = float("nan")


def statistics(method: Any) -> None:
    method.forth[1].running_var.fill_(float("inf"))


def controller(method: Any) -> None:
    method.controller.fill_(float("-inf"))


PLACES: dict[str, Callable[[Any], None]] = {
    "loss": loss, "gradient": gradient, "squared gradient": overflow, "weight": weight, "batch statistics": statistics,
        "buffer": controller,
}  # fmt: skip


def finite(run: Path) -> int:
    """The step of the newest checkpoint; every tensor of every checkpoint is finite."""
    folders = checkpoint.steps(run / "checkpoints")
    for folder in folders:
        for name in (checkpoint.MODEL, checkpoint.STATE):
            tensors, _ = checkpoint.unpack(folder / name, (folder / name).read_bytes())
            assert all(bool(torch.isfinite(t).all()) for t in tensors.values() if t.is_floating_point()), (folder, name)
    return int(folders[0].name.removeprefix("step-"))


def poisoned(place: str, run: Path) -> NonFiniteError:
    def poison(step: int, method: Any) -> None:
        if step == STEP:
            PLACES[place](method)

    config = tiny.config(training__ema=0.9)
    with pytest.raises(NonFiniteError) as caught:
        loop.fit(build(config, ("red", "blue")), tiny.pool(), config, run, on_step=poison, quiet=True)
    return caught.value


def test_nothing_that_is_not_finite_is_saved(tmp_path: Path, figure: Figure) -> None:
    """Wherever it begins, the run stops with exit 4 before the next checkpoint, names step, stage and what is not
    finite, leaves a crash note, and every checkpoint that is there is finite in every tensor, the newest of them the
    last one before."""
    steps = []
    for place in PLACES:
        run = tmp_path / place
        error = poisoned(place, run)
        notes = sorted(run.glob("crash-step-*.json"))
        assert error.exit_code == 4 and "the last good state is" in str(error) and "step-000000004" in str(error)
        assert len(notes) == 1 and finite(run) == 4, place
        note = json.loads(notes[0].read_text())
        assert note["stage"] in ("first", "second") and note["config"]["method"] == "tiny" and note["seed"] == 3
        assert str(note["step"]) in str(error)
        steps.append(note["step"] - STEP)
    figure(
        "F11",
        f"NaN or infinity in {len(PLACES)} places: stopped after {min(steps)} to {max(steps)} steps (a checkpoint "
        "every 4), 0 of them saved",
    )
    assert max(steps) <= 4


def test_a_sheet_that_is_not_finite_stops_in_words(tmp_path: Path) -> None:
    """A translation that is NaN while losses and weights are finite ends the run with exit 4, not with a bug's
    traceback."""
    config = tiny.config()
    method = build(config, ("red", "blue"))
    real = method.translate
    method.translate = lambda *a, **k: real(*a, **k) * float("nan")  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match="the translation red → blue is not finite"):
        loop.fit(method, tiny.pool(), config, tmp_path, quiet=True)
