"""Flipped bits, truncations, swapped files: none loads unnoticed, and the previous checkpoint is used aloud; no
state is taken back by half (F2)."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import cases
import pytest
import runs
import torch
from figures import Figure, pick
from test_methods import NAMES

from unpaired import checkpoint
from unpaired.errors import CheckpointError
from unpaired.training import loop

FILES = (checkpoint.MODEL, checkpoint.STATE, checkpoint.MANIFEST)
FLIPS, CUTS = 300, 60


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps, the checkpoints of steps 3 and 4 kept."""
    folder = tmp_path_factory.mktemp("damage") / "run"
    runs.train(folder)
    return folder


def damages(folder: Path, seed: int) -> list[tuple[Path, bytes]]:
    """(file, its damaged content): 300 single flipped bits and 60 truncations, a third of them in each file."""
    rng, made = random.Random(seed), []
    for trial in range(FLIPS + CUTS):
        path = folder / FILES[trial % 3]
        data = bytearray(path.read_bytes())
        if trial < FLIPS:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        else:
            del data[rng.randrange(len(data)) :]
        made.append((path, bytes(data)))
    return made


def test_no_flipped_bit_and_no_cut_loads_unnoticed(run: Path, figure: Figure) -> None:
    """Of 300 flips and 60 truncations over all files of the newest checkpoint each is noticed and named, and the one
    before is used."""
    root = run / "checkpoints"
    newest, before = checkpoint.steps(root)
    passed = 0
    for path, content in damages(newest, 1):
        good = path.read_bytes()
        path.write_bytes(content)
        saved, rejected = checkpoint.latest(root)
        passed += saved is None or saved.folder != before or len(rejected) != 1 or str(path.parent) not in rejected[0]
        path.write_bytes(good)
    assert checkpoint.latest(root)[0].folder == newest  # type: ignore[union-attr]
    figure("F2", f"{FLIPS} flips and {CUTS} truncations over all files: {passed} unnoticed")
    assert passed == 0


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_checkpoint_is_noticed(name: str, run: Path, tmp_path: Path) -> None:
    """Two sound files swapped between two sound checkpoints make both unsound."""
    root = Path(shutil.copytree(run / "checkpoints", tmp_path / "checkpoints"))
    one, other = (folder / name for folder in checkpoint.steps(root))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    saved, rejected = checkpoint.latest(root)
    assert saved is None and len(rejected) == 2 and all("damaged" in line for line in rejected)


def test_a_lone_file_notices_every_flipped_bit(run: Path, tmp_path: Path, figure: Figure) -> None:
    """Without a manifest the digest in the header does the same: of 200 flips none loads with other numbers."""
    path = tmp_path / "m.safetensors"
    shutil.copy(checkpoint.model_file(run), path)
    good, rng = path.read_bytes(), random.Random(2)
    before = {k: v.clone() for k, v in checkpoint.load_method(path)[0].state_dict().items()}
    noticed = changed = 0
    for _ in range(200):
        data = bytearray(good)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(data))
        try:
            after = checkpoint.load_method(path)[0].state_dict()
        except CheckpointError as error:
            assert str(path) in str(error)
            noticed += 1
        else:  # white space of the header: nothing changed
            changed += not all(torch.equal(before[k], after[k]) for k in before)
    figure("F2", f"200 flips of a shared model file alone: {changed} load with other numbers")
    assert noticed > 190 and changed == 0


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


@pytest.mark.parametrize("name", pick(["tiny"], NAMES))
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
