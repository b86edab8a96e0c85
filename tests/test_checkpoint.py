"""Checkpoints: what is written can be read anywhere, damage is noticed, and what was there survives a failed save."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from unpaired import checkpoint, files
from unpaired.errors import CheckpointError
from unpaired.training.run import build


def model(**settings: Any) -> tuple[Any, dict[str, Any]]:
    """A tiny method and its header."""
    config = tiny.config(**settings)
    method = build(config, ("red", "blue"))
    return method, checkpoint.make_header(method, config, step=7, stage="first", data_fingerprint="abc")


def run_folder(root: Path, steps: tuple[int, ...] = (5, 10)) -> Path:
    """A run with one committed checkpoint for each step."""
    checkpoints = root / "checkpoints"
    checkpoints.mkdir(parents=True)
    for step in steps:
        method, header = model()
        with torch.no_grad():
            next(method.parameters()).fill_(step)
        state = checkpoint.pack({"method/x": torch.full((100,), step)}, {"format": 1, "step": step, "watch": {}})
        checkpoint.commit(
            checkpoints,
            step,
            model=checkpoint.pack(method.shared_state(), {**header, "step": step}),
            state=state,
            about={"stage": "first"},
            keep=3,
        )
    return root


def test_a_shared_file_rebuilds_its_method(tmp_path: Path) -> None:
    """The file alone gives the method, its settings, its domains, and the same output; training-only parts are not in
    it."""
    method, header = model(model__width=6)
    path = checkpoint.write_model(tmp_path / "deep" / "m.safetensors", method, header)
    again, read = checkpoint.load_method(path)
    assert read == json.loads(json.dumps(header))
    assert again.config.width == 6 and again.domains == ("red", "blue") and not again.training
    assert not any(hasattr(again, name) for name in method.training_only)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(again.translate(images, "red", "blue"), method.eval().translate(images, "red", "blue"))
    assert not any(p.requires_grad for p in again.parameters())


def test_packing_is_deterministic() -> None:
    """The same weights give the same bytes, so that equal runs have equal files."""
    method, header = model()
    assert checkpoint.pack(method.shared_state(), header) == checkpoint.pack(method.shared_state(), header)


def other_shapes(path: Path) -> None:
    method, header = model()
    header["config"]["model"]["width"] = 5
    path.write_bytes(checkpoint.pack(method.shared_state(), header))


def unknown_method(path: Path) -> None:
    method, header = model()
    header["config"]["method"] = header["method"] = "unt"
    path.write_bytes(checkpoint.pack(method.shared_state(), header))


def lying_size(path: Path) -> None:
    method, header = model()
    header["config"]["model"]["width"] = 10**9
    path.write_bytes(checkpoint.pack(method.shared_state(), header))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (other_shapes, "do not fit the model"),
        (unknown_method, "Did you mean 'unit'?"),
        (lying_size, "do not fit the model"),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_words(make: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    """Each kind of wrong file is refused with its path and what it is."""
    path = tmp_path / "m.safetensors"
    make(path)
    with pytest.raises(CheckpointError, match=str(path)) as caught:
        checkpoint.load_method(path)
    assert said in str(caught.value) and caught.value.exit_code == 2


def test_a_manifest_cannot_point_elsewhere(tmp_path: Path) -> None:
    """A manifest that names a file outside its folder, or describes another folder, is refused."""
    root = run_folder(tmp_path, (5,)) / "checkpoints"
    path = root / "step-000000005" / checkpoint.MANIFEST
    good = json.loads(path.read_text())
    for change in (
        {"files": {**good["files"], "../../x": {"bytes": 0, "sha256": ""}}},
        {"step": 6},
        {"files": {}},
        {"files": []},
    ):
        changed = {k: v for k, v in {**good, **change}.items() if k != "digest"}
        path.write_bytes(checkpoint._manifest_bytes(changed))  # a liar computes the digest as well
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoint.verify(path.parent)


def test_a_run_without_its_training_state_still_translates(tmp_path: Path) -> None:
    """Deleting state.safetensors frees space: the model loads, and resuming says what is missing."""
    run = run_folder(tmp_path)
    (run / "checkpoints" / "step-000000010" / checkpoint.STATE).unlink()
    method, header = checkpoint.load_method(run)
    assert header["step"] == 10 and next(method.parameters()).flatten()[0] == 10


def test_a_loaded_model_knows_its_file_and_its_hash(tmp_path: Path) -> None:
    """By run, checkpoint folder, its file or a copy alone: the file that was read, and the SHA-256 of its bytes."""
    run = run_folder(tmp_path)
    folder = run / "checkpoints" / "step-000000010"
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((folder / checkpoint.MODEL).read_bytes())
    for given, file in ((run, folder / checkpoint.MODEL), (folder, folder / checkpoint.MODEL), (alone, alone)):
        model = checkpoint.load_model(given)
        assert (model.path, model.sha256) == (file, files.sha256_of(file))


def test_prune_keeps_the_newest_and_only_after_a_commit(tmp_path: Path) -> None:
    """keep=3 leaves the three newest; leftovers of a killed save are removed and named."""
    root = run_folder(tmp_path, (1, 2, 3, 4, 5)) / "checkpoints"
    assert [f.name for f in checkpoint.steps(root)] == ["step-000000005", "step-000000004", "step-000000003"]
    (root / ".tmp-6-dead").mkdir()
    assert checkpoint.remove_leftovers(root) == [".tmp-6-dead"]


def test_damaged_later_checkpoints_cost_sound_ones_nothing(tmp_path: Path) -> None:
    """After resuming from before a damaged checkpoint, the new commit stays, though keep = 1 and the damaged one has a
    higher step."""
    root = run_folder(tmp_path, (5, 10)) / "checkpoints"
    (root / "step-000000010" / checkpoint.STATE).write_bytes(b"")
    method, header = model()
    checkpoint.commit(
        root,
        7,
        model=checkpoint.pack(method.shared_state(), header),
        state=checkpoint.pack({}, {"format": 1, "step": 7}),
        about={},
        keep=1,
    )
    found, rejected = checkpoint.latest(root)
    assert found is not None and found.step == 7 and len(rejected) == 1
    assert [f.name for f in checkpoint.steps(root)] == ["step-000000010", "step-000000007"]


def test_the_training_state_is_no_model(tmp_path: Path) -> None:
    """Loading state.safetensors names the file that is one."""
    folder = checkpoint.steps(run_folder(tmp_path) / "checkpoints")[0]
    with pytest.raises(CheckpointError, match=r"state for resuming.*model\.safetensors"):
        checkpoint.load_method(folder / checkpoint.STATE)
