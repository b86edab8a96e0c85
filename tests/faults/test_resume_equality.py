"""Runs cut without a word, inside steps, sample sheets, saves and stage switches, end with the same bytes; and the
proof that the comparison would notice any part of the state that was left out (F3). Cuts that save first are in
contract/test_methods.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cases
import pytest
from figures import Figure, pick
from test_methods import NAMES, everything

from unpaired import checkpoint
from unpaired.errors import CheckpointError
from unpaired.methods.base import Method
from unpaired.training import loop
from unpaired.training.state import Plan, TrainingState

SOME = pick(["tiny"], NAMES)
"""All methods in `make faults`; the smallest in `make test`, where the contract tests cut all of them."""


class Cut(BaseException):
    """Ends a run where it stands, as a SIGKILL would: nothing catches it."""


@contextmanager
def cutting(owner: Any, name: str, call: int, *, after: bool = False) -> Iterator[None]:
    """Cut before (or after) the ``call``-th call of a function."""
    real, count = getattr(owner, name), {"n": 0}

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        count["n"] += 1
        if count["n"] == call and not after:
            raise Cut
        result = real(*args, **kwargs)
        if count["n"] == call:
            raise Cut
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, wrapped)
        yield


def train(name: str, run: Path, workers: int = 0) -> None:
    config = cases.config(name, data={"workers": workers})
    loop.fit(cases.method(name, config), cases.pool(name), config, run, quiet=True)


def cuts(plan: Plan, method: Method) -> list[tuple[str, Any, str, int, bool]]:
    """(where, owner, function, call, after it?): inside each stage, on both sides of each boundary, inside evaluation
    and save."""
    T = loop.Trainer
    found = [
        ("before the first step", T, "run_step", 1, False),
        ("inside the first sheet", type(method), "views", 1, False),
        ("inside a later sheet", TrainingState, "_put", 4, True),
        ("after a sheet", T, "sample", 2, True),
        ("before a save", T, "save", 2, False),
        ("inside a save", checkpoint, "pack", 4, False),
        ("before a rename", checkpoint._files, "sync_folder", 5, False),
        ("after a save", T, "save", 3, True),
        ("while logging", T, "_log", 8, False),
        ("inside the last save", T, "check_finite", plan.total + 4, False),
    ]
    begin = 0
    for stage, end in zip(plan.stages, plan.ends, strict=True):
        for part in (1, 2, 3):
            found.append(
                (f"inside stage {stage.name}", T, "run_step", begin + part * (end - begin) // 4 + 1, part == 2)
            )
        if end < plan.total:
            found.append((f"at the end of stage {stage.name}", T, "run_step", end, True))
            found.append((f"at the start of the stage after {stage.name}", T, "run_step", end + 1, False))
        begin = end
    return found


@pytest.mark.parametrize("name", SOME)
def test_a_run_cut_without_a_word_ends_with_the_same_bytes(name: str, tmp_path: Path, figure: Figure) -> None:
    """Cut at a dozen places and more, with 0, then 2, then 0 workers: weights, optimisers, averages, buffers, log and
    sample sheets are those of an undisturbed run."""
    train(name, tmp_path / "whole")
    expected = everything(tmp_path / "whole")
    method = cases.method(name)
    plan = Plan(method.stages())
    found = cuts(plan, method)
    landed = 0
    for n, (where, owner, function, call, after) in enumerate(found):
        run = tmp_path / f"{n}"
        with cutting(owner, function, call, after=after):
            try:
                train(name, run, workers=2 * (n % 4 == 1))
            except Cut:
                landed += 1
        train(name, run, workers=2 * (n % 4 == 2))
        skip = {checkpoint.MODEL} if n % 4 == 2 else set()  # its header names the workers; its weights are in the state
        assert {k: v for k, v in everything(run).items() if k not in skip} == {
            k: v for k, v in expected.items() if k not in skip
        }, where
    assert landed >= 12, f"only {landed} of {len(found)} cuts landed"
    figure(
        "F3", f"{name}: {landed} cuts without a save (steps, boundaries, sheets, saves), workers changed: byte-equal"
    )


# ---- mutations
# ------------------------------------------------------------------------------------------------------------


def go(trainer: loop.Trainer, until: int) -> None:
    """The loop's steps, without its files."""
    for batch in trainer.batches():
        stage, first = trainer.state.plan.at(trainer.state.step + 1)
        trainer.state.step += 1
        if trainer.state.step == first + 1 and stage.start is not None:
            loop.seed_everything(trainer.config.seed, trainer.state.step - 1)
            stage.start()
        trainer.modes(stage)
        trainer.run_step(stage, first, batch)
        if trainer.state.step == until:
            return


@pytest.mark.parametrize("name", SOME)
def test_any_item_missing_from_a_saved_state_is_refused(name: str) -> None:
    """Each single tensor and each value that a state needs: without it the state is not taken back by half."""
    trainer = cases.trainer(name)
    trainer.prepare()
    go(trainer, 3)
    tensors, values = trainer.state.dump()
    fresh = cases.trainer(name)
    for key in tensors:
        with pytest.raises(CheckpointError, match=r"missing|does not fit"):
            fresh.state.restore({k: v for k, v in tensors.items() if k != key}, values)
    for key in ("step", "watch"):
        with pytest.raises(CheckpointError, match=f"missing: {key}"):
            fresh.state.restore(tensors, {k: v for k, v in values.items() if k != key})
