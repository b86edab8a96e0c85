"""Runs cut without a word, inside steps, sample sheets, saves and stage switches, end with the same bytes; and the proof that the
comparison would notice any part of the state that was left out (F3). Cuts that save first are in contract/test_methods.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cases
import pytest
import torch
from figures import Figure, pick
from test_methods import NAMES, everything

from unpaired import checkpoint
from unpaired.errors import CheckpointError
from unpaired.methods.base import Method
from unpaired.training import loop
from unpaired.training.log import Watch
from unpaired.training.state import Plan

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
    """(where, owner, function, call, after it?): inside each stage, on both sides of each boundary, inside evaluation and save."""
    T = loop.Trainer
    found = [
        ("before the first step", T, "run_step", 1, False),
        ("inside the first sheet", type(method), "views", 1, False),
        ("inside a later sheet", T, "swap_average", 4, True),
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
    """Cut at a dozen places and more, with 0, then 2, then 0 workers: weights, optimisers, averages, buffers, log and sample sheets are
    those of an undisturbed run."""
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


# ---- mutations ------------------------------------------------------------------------------------------------------------


def go(trainer: loop.Trainer, until: int) -> None:
    """The loop's steps, without its files."""
    for batch in trainer.batches():
        stage, first = trainer.plan.at(trainer.step + 1)
        trainer.step += 1
        if trainer.step == first + 1 and stage.start is not None:
            loop.seed_everything(trainer.config.seed, trainer.step - 1)
            stage.start()
        trainer.modes(stage)
        trainer.run_step(stage, first, batch)
        if trainer.step == until:
            return


def groups_of(tensors: dict[str, torch.Tensor]) -> list[str]:
    """method/<child>/, average/, optimizer/<name>/: what a forgetful state() would leave out."""
    found = set()
    for key in tensors:
        kind, rest = key.split("/", 1)
        found.add(
            {"average": "average/", "optimizer": f"optimizer/{rest.split('/')[0]}/"}.get(
                kind, f"method/{rest.split('.')[0]}"
            )
        )
    return sorted(found)


def mutations(name: str, cut: int) -> Iterator[tuple[str, bool]]:
    """Each part of the state after step ``cut``, and whether a run that loses it there ends with the same bytes all the same."""
    whole = cases.trainer(name)
    whole.prepare()
    total = whole.plan.total
    go(whole, cut)
    tensors, values = whole.state()
    tensors = {k: v.detach().clone() for k, v in tensors.items()}
    again = cases.trainer(name)
    again.restore(tensors, values)
    go(again, total)
    go(whole, total)
    expected = checkpoint.pack(*whole.state())
    assert checkpoint.pack(*again.state()) == expected, "without a mutation the bytes are equal"
    live = {u.name for s, end in zip(whole.plan.stages, whole.plan.ends, strict=True) if end > cut for u in s.updates}
    for group in groups_of(tensors):
        mutant = cases.trainer(name)
        mutant.prepare()
        own, _ = mutant.state()
        part = [k for k in tensors if k.startswith(group)]
        if all(k in own and torch.equal(own[k], tensors[k]) for k in part):
            continue
        if group.startswith("optimizer/") and group.split("/")[1] not in live:
            continue
        left = {k: own.get(k) if k in part else v for k, v in tensors.items()}
        count = {n: 0 if group == f"optimizer/{n}/" else c for n, c in values["optimizers"].items()}
        try:
            mutant.restore({k: v for k, v in left.items() if v is not None}, {**values, "optimizers": count})
            go(mutant, total)
            yield group, checkpoint.pack(*mutant.state()) == expected
        except CheckpointError:  # a method that knows what its parts were trained on (cascade)
            yield group, False


@pytest.mark.parametrize("name", SOME)
def test_any_part_of_the_state_left_out_is_noticed(name: str, tmp_path: Path, figure: Figure) -> None:
    """The mutation check: cut in the middle and shortly before the end, and let one part of the state after another begin afresh (each network, each buffer, the
    averages, each optimiser): the run then ends with other bytes. Parts that have not changed since the start, and optimisers of
    stages that are over, cannot matter."""
    plan = cases.trainer(name).plan
    noticed: dict[str, bool] = {}
    # in the middle, and within the last stage: what the start of a later stage sets anew matters there alone
    for cut in dict.fromkeys((plan.total // 2 + 1, plan.total - 1)):
        for group, missed in mutations(name, cut):
            noticed[group] = noticed.get(group, False) or not missed
        if all(noticed.values()):
            break
    assert all(noticed.values()), f"the run did not miss {[g for g, seen in noticed.items() if not seen]}"
    mutants = len(noticed)
    figure("F3", f"{name}: mutation check, {mutants} parts of the state left out one after another: all noticed")
    assert mutants >= 3


@pytest.mark.parametrize("name", SOME)
def test_any_item_missing_from_a_saved_state_is_refused(name: str) -> None:
    """Each single tensor and each value that a state needs: without it the state is not taken back by half."""
    trainer = cases.trainer(name)
    trainer.prepare()
    go(trainer, 3)
    tensors, values = trainer.state()
    fresh = cases.trainer(name)
    for key in tensors:
        with pytest.raises(CheckpointError, match=r"missing|does not fit"):
            fresh.restore({k: v for k, v in tensors.items() if k != key}, values)
    for key in ("step", "watch"):
        with pytest.raises(CheckpointError, match=f"missing: {key}"):
            fresh.restore(tensors, {k: v for k, v in values.items() if k != key})


MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "steps are not seeded": lambda patch: patch.setattr(loop, "seed_everything", lambda *_: None),
    "a stage starts again on resume": lambda patch: patch.setattr(loop.Trainer, "restore", _restoring_into_the_start),
    "the log is not cut": lambda patch: patch.setattr(loop.RunLog, "__init__", _log_uncut),
    "the watch forgets": lambda patch: patch.setattr(Watch, "restore", lambda self, state: None),
}


def _restoring_into_the_start(self: loop.Trainer, *arguments: Any) -> None:
    _restore(self, *arguments)
    stage, _ = self.plan.at(self.step + 1)
    if stage.start is not None:
        stage.start()


_restore = loop.Trainer.restore


def _log_uncut(self: Any, path: Path, step: int, *, tensorboard: Path | None) -> None:
    self.path, self._writer = path, None
    self._file = path.open("ab", buffering=0)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_resume_that_forgets_is_noticed(mutant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twins of the resume itself: each kind of forgetting makes the comparison fail."""
    train("tiny", tmp_path / "whole")
    expected = everything(tmp_path / "whole")
    torch.manual_seed(1)
    with cutting(loop.Trainer, "run_step", 12), suppress(Cut):
        train("tiny", tmp_path / "run")
    MUTANTS[mutant](monkeypatch)
    torch.manual_seed(2)
    train("tiny", tmp_path / "run")
    assert everything(tmp_path / "run") != expected
