"""Every refusal and every stop that a user can meet, through the whole command line: its text and its exit code.

What test_cli.py asserts is not repeated here. Exit codes: 2 refused before work, 3 some items failed, 4 stopped with
state saved.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from image_zoo import encoded, picture, snapshot
from test_cli import FAST, run

import tiny
from unpaired import checkpoint

Said = Callable[..., str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data, run (two steps of UNIT), model.safetensors and digits (class folders), made once."""
    root = tmp_path_factory.mktemp("errors")
    tiny.folder(root / "data")
    assert run("train", root / "data", "--out", root / "run", *FAST, "--steps", 2, "--quiet") == 0
    shutil.copy(checkpoint.model_file(root / "run"), root / "model.safetensors")
    for split, count in (("train", 12), ("test", 4)):
        for k, name in enumerate(("zero", "one")):
            folder = root / "digits" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i}.png").write_bytes(encoded(picture(100 * k + i, 32, 32)))
    return root


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: Path) -> Said:
    """``said(code, *arguments)``: the error text of a command that exits with ``code``, run where data and run are."""
    monkeypatch.chdir(home)

    def check(code: int, *arguments: object) -> str:
        capsys.readouterr()
        assert run(*arguments) == code
        err = capsys.readouterr().err
        assert "error: " in err and "Traceback" not in err and "this is a bug" not in err, err
        return err

    return check


def copy_of_run(home: Path, to: Path) -> Path:
    return Path(shutil.copytree(home / "run", to / "run"))


# ---- where a run may lie


@pytest.mark.parametrize("place", [".", "run", "train/red/run", "link/run"])
def test_a_run_never_lies_among_its_images(place: str, said: Said, tmp_path: Path) -> None:
    """--out that is the data folder or lies in it is refused before anything is written: its sheets would be read as
    images."""
    data = Path(shutil.copytree("data", tmp_path / "data"))
    (tmp_path / "link").symlink_to(data)
    out = tmp_path / place if place.startswith("link") else data / place
    before = snapshot(data)
    err = said(2, "train", data, "--out", out, *FAST, "--steps", 1)
    assert "lies in the images" in err and "--out runs/data" in err
    assert snapshot(data) == before


def test_a_wrong_device_or_precision_is_refused_before_any_image_is_read(said: Said, tmp_path: Path) -> None:
    """train and adapt say so at once, of folders that they would refuse otherwise, and make no folder."""
    (tmp_path / "empty").mkdir()
    wrong = (
        (["--device", "cuda:99"], "cuda:99"),
        (["--set", "training.precision=tf32", "--device", "cpu"], "needs a GPU"),
    )
    for options, text in wrong:
        assert text in said(2, "train", tmp_path / "empty", "--out", tmp_path / "r", *options)
        sets = [tmp_path / "empty", "--target", tmp_path / "empty"]
        assert text in said(2, "adapt", "--source", *sets, "--out", tmp_path / "a", *options)
    assert not (tmp_path / "r").exists() and not (tmp_path / "a").exists()


# ---- data


# ---- settings


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("model.shared_layers=9", "shared_layers = 9 is more than residual_blocks"),
        ("model.architecture=munit", "has no shared discriminator"),
        ("model.discriminator_private=3", "leaves nothing to share"),
        ("model.architecture=munt", "model.architecture = 'munt'"),
        ("data.size=18", "Type --set data.size=16"),
        ("training.ema=2", "training.ema = 2"),
        ("modle.width=3", "unknown setting 'modle'. Did you mean"),
        ("model=5", "model = 5: a table"),
    ],
)
def test_settings_that_cannot_work_exit_2(setting: str, text: str, said: Said, home: Path, tmp_path: Path) -> None:
    """Each is refused before anything is written; the text has the setting and its value."""
    small = ["data.size=16", "model.width=4", "model.discriminator_layers=3", "model.discriminator=shared"]
    small = [s for s in small if s.split("=")[0] != setting.split("=")[0] and not setting.startswith("model=")]
    words = [w for s in (*small, setting) for w in ("--set", s)]
    err = said(2, "train", home / "data", "--out", tmp_path / "r", "--device", "cpu", *words, "--steps", 2)
    assert text in err and not (tmp_path / "r" / "checkpoints").exists()


def test_files_of_settings_that_cannot_be_read_exit_2(said: Said, tmp_path: Path) -> None:
    """Broken TOML is named with file and line, an unknown key with the nearest one, a wrong pair of method and preset
    as such."""
    file = tmp_path / "c.toml"
    file.write_text("method = \n")
    err = said(2, "train", "data", "--out", tmp_path / "r", "--config", file)
    assert str(file) in err and "line 1" in err
    file.write_text("[training]\nchekpoint_every = 5\n")
    assert "Did you mean 'training.checkpoint_every'?" in said(
        2, "train", "data", "--out", tmp_path / "r", "--config", file
    )
    file.write_bytes(b"\xff\xfe")
    assert str(file) in said(2, "train", "data", "--out", tmp_path / "r", "--config", file)
    err = said(2, "train", "data", "--out", tmp_path / "r", "--preset", "unit-small", "--method", "attend")
    assert "--method attend does not go with a preset or config for 'unit'" in err


# ---- a run that is there already


def test_a_run_that_cannot_go_on_exits_2(said: Said, home: Path, tmp_path: Path) -> None:
    """Changed settings, a misspelt --allow-change, other shapes, other images, other domains, a missing state, no
    intact checkpoint."""
    run_dir = copy_of_run(home, tmp_path)
    same = ["train", "data", "--out", run_dir, *FAST, "--quiet"]
    err = said(2, *same, "--steps", 3, "--seed", 4)
    assert "model.steps: 2 in the run, 3 now" in err and "seed: 0 in the run, 4 now" in err
    assert "--allow-change model.steps" in err and "--allow-change seed" in err
    err = said(2, *same, "--steps", 3, "--allow-change", "model.step")
    assert "--allow-change model.step: no such setting. Did you mean 'model.steps'?" in err
    more = ["--steps", 3, "--allow-change", "model.steps"]
    err = said(2, *same, *more, "--set", "model.width=8", "--allow-change", "model.width")
    assert "have other shapes" in err and "Repeat the old one, or use another --out" in err
    other = tiny.folder(tmp_path / "other", count=13)
    assert "--allow-change data" in said(2, "train", other, *same[2:], *more)
    renamed = tiny.folder(tmp_path / "renamed", domains=("cat", "dog"))
    err = said(2, "train", renamed, *same[2:], *more, "--allow-change", "data")
    assert "the run translates between blue, red; the data has the domains cat, dog" in err
    newest = checkpoint.steps(run_dir / "checkpoints")[0]
    (newest / checkpoint.STATE).rename(tmp_path / "state")
    for folder in checkpoint.steps(run_dir / "checkpoints")[1:]:
        shutil.rmtree(folder)
    err = said(2, *same, *more)
    assert str(newest / checkpoint.STATE) in err and "no checkpoint is intact" in err
    (run_dir / "config.toml").write_text("seed = [")
    assert f"{run_dir}/config.toml" in said(2, *same)


def test_a_run_folder_in_use_or_unusable_exits_2(said: Said, home: Path, tmp_path: Path) -> None:
    """A second trainer gets the first one's pid; a file in the folder's place is named."""
    run_dir = copy_of_run(home, tmp_path)
    code = (
        "import sys, time; from pathlib import Path; from unpaired.training.state import lock\n"
        f"with lock(Path({str(run_dir)!r})): print('held', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None and owner.stdout.readline() == "held\n"
    try:
        err = said(2, "train", "data", "--out", run_dir, "--quiet")
        assert f"another training is at work here (pid {owner.pid}); wait for it, stop it, or use another --out" in err
    finally:
        owner.kill()
        owner.wait()
    (tmp_path / "file").write_text("")
    assert "file" in said(2, "train", "data", "--out", tmp_path / "file", *FAST, "--steps", 2)


# ---- models


def flipped(path: Path, source: Path) -> None:
    data = bytearray(source.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)


def newer(path: Path, source: Path) -> None:
    tensors, header = checkpoint.unpack(source, source.read_bytes())
    path.write_bytes(checkpoint.pack(tensors, {**header, "format": 99}))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (flipped, "damaged: its contents do not match the digest"),
        (newer, "pip install -U unpaired"),
        (lambda p, s: p.write_bytes(s.read_bytes()[:200]), "not a readable checkpoint"),
        (lambda p, s: p.write_bytes(b""), "not a readable checkpoint"),
        (lambda p, s: p.write_text("<html>404</html>"), "not a readable checkpoint"),
        (lambda p, s: p.write_bytes(safetensors.torch.save({"x": torch.zeros(2)})), "unpaired import --help"),
        (lambda p, s: torch.save({"x": torch.zeros(2)}, p), "not a readable checkpoint"),
        (lambda p, s: p.mkdir(), "give a model file or a run folder"),
        (lambda p, s: (p / "run" / "checkpoints").mkdir(parents=True), "/run?"),
        (lambda p, s: (p / "checkpoints").mkdir(parents=True), "no usable checkpoint in its folder"),
        (lambda p, s: None, "no such file or folder"),
    ],
)
@pytest.mark.parametrize("command", ["info", "translate", "evaluate", "start-from"])
def test_what_is_no_model_exits_2(
    command: str, make: Callable[[Path, Path], None], text: str, said: Said, home: Path, tmp_path: Path
) -> None:
    """Damaged, cut, newer, foreign, missing: every command that takes a model refuses it in the same words, with its
    path."""
    path = tmp_path / "m.safetensors"
    make(path, home / "model.safetensors")
    words: dict[str, list[object]] = {
        "info": ["info", path],
        "translate": ["translate", path, "data/test/red", "--to", "blue", "--out", tmp_path / "o"],
        "evaluate": ["evaluate", path, "data"],
        "start-from": ["train", "data", "--out", tmp_path / "o", "--start-from", path, "--steps", 2],
    }
    err = said(2, *words[command])
    assert text in err and str(path) in err and not (tmp_path / "o").exists()


def test_a_model_of_other_settings_is_no_start(said: Said, tmp_path: Path) -> None:
    """--start-from with another width lists the tensors; the state for resuming is not taken for a model."""
    small = [w for s in ("model.width=8", "data.size=16", "model.discriminator_layers=3") for w in ("--set", s)]
    words = ["train", "data", "--out", tmp_path / "o", "--method", "unit", "--device", "cpu", *small, "--steps", 2]
    err = said(2, *words, "--start-from", "run")
    assert "tensors differ" in err and "unpaired info" in err
    newest = checkpoint.steps(Path("run/checkpoints"))[0]
    assert "state for resuming, not a model" in said(2, "info", newest / checkpoint.STATE)


class Attack:
    """Pickles as a command that leaves a file behind."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


# ---- translating


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["data/test/red", "--to", "blue", "--out", "data/test/red"], "cannot go into the input folder itself"),
        (["data/test/red/000.png", "--to", "blue", "--out", "data/test/red"], "would overwrite this input"),
        (["data/test/red", "--to", "blue", "--out", "model.safetensors"], "a file; --out wants a folder"),
        (["--to", "blue", "--out", "O"], "nothing to translate: name pictures or folders"),
        (["run/checkpoints", "--to", "blue", "--out", "O"], "no images in run/checkpoints"),
        (["data/test/red", "--to", "blue", "--source", "blue", "--out", "O"], "does not translate 'blue' to 'blue'"),
        (["data/test/red", "--to", "blue", "--source", "none", "--out", "O"], "must know the domain of its inputs"),
        (["data/test/red", "--to", "blue", "--out", "O", "--samples", "2"], "gives one result for an input"),
        (["data/test/red", "--to", "blue", "--out", "O", "--mask", "M"], "has no attention, so there are no masks"),
        (["data/test/red", "--to", "blue", "--out", "O", "--mask-threshold", "0.5"], "--mask DIR"),
        (["data/test/red", "--to", "blue", "--out", "O", "--max-pixels", "100"], "needs tiles of at least"),
        (["data/test/red", "--to", "blue", "--out", "O", "--batch-size", "0"], "greater than or equal to 1"),
        (["data/test/red", "--to", "blue", "--out", "O", "--device", "cuda:9"], "cuda:9"),
        (["data/test/red", "--to", "blue", "--out", "O", "--format", "gif"], "gif"),
    ],
)
def test_translations_that_cannot_begin_exit_2(arguments: list[str], text: str, said: Said, home: Path) -> None:
    """Nothing is made and no input is changed; the text says what to type instead."""
    before = snapshot(home / "data")
    assert text in said(2, "translate", "run", *arguments)
    assert snapshot(home / "data") == before and not (home / "O").exists() and not (home / "M").exists()


# ---- evaluating, adapting, the demo


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["run", "nowhere"], "there is no such folder"),
        (["run", "data", "--backbone", "alexnte"], "Did you mean 'alexnet'?"),
        (["run", "data", "--weights", "nowhere.pth"], "nowhere.pth"),
        (["run", "data", "--limit", "0"], "greater than or equal to 1"),
        (["run", "data", "--split", "val"], "val"),
        (["run", "data", "--pairs", "nowhere"], "no such folder"),
        (["run", "data", "--pairs", "data/test", "--left", "gren"], "no domain 'gren'"),
        (["run", "data", "--masks", "data/test"], "no folder 'mask'"),
    ],
)
def test_evaluations_that_cannot_begin_exit_2(arguments: list[str], text: str, said: Said) -> None:
    """Data, backbone, weights and pairs that are not there are refused with what is."""
    assert text in said(2, "evaluate", *arguments, "--device", "cpu")


def test_data_that_does_not_fit_the_model_exits_2(said: Said, tmp_path: Path) -> None:
    """Other domains are listed; data without a test split says which option takes the training images."""
    other = tiny.folder(tmp_path / "other", domains=("cat", "dog"))
    assert "the data has no domain blue, red, which the model knows; it has: cat, dog" in said(
        2, "evaluate", "run", other
    )
    three = tiny.folder(tmp_path / "three", domains=("red", "blue", "green"))
    assert "2 domains; the data has 3: blue, green, red" in said(2, "train", three, "--out", tmp_path / "r", *FAST)
    shutil.rmtree(other / "test")
    assert "--split train takes the training images" in said(2, "evaluate", "run", other)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (["--select-on-test"], "--select-on-test needs --test"),
        (["--recipe", "joint", "--method", "attend"], "type --recipe translate"),
        (["--set", "adapt.step=3"], "Did you mean 'adapt.steps'?"),
        (["--set", "adapt.steps=0"], "adapt.steps = 0"),
        (["--method", "untt"], "Did you mean"),
        (["--source", "nowhere"], "there is no such folder"),
        (["--source", "data/train/red"], "LABELLED/<class>"),
        (["--source", "one"], "fewer than two class folders"),
        (["--source", "bad.npz"], "not a readable npz file"),
        (["--source", "objects.npz"], "objects.npz"),
        (["--source", "unlabelled.npz"], "one integer array y [n]"),
        (["--target", "empty"], "no images"),
        (["--test", "strange"], "are not among the source's: one, zero"),
        (["--set", "data.size=20"], "multiple of 16"),
    ],
)
def test_adaptations_that_cannot_begin_exit_2(
    change: list[str], text: str, said: Said, home: Path, tmp_path: Path
) -> None:
    """Labels, classes, recipes and files that cannot work are refused before any training; pickled arrays are not
    opened."""
    (home / "one/a").mkdir(parents=True, exist_ok=True)
    (home / "one/a/1.png").write_bytes(encoded(picture()))
    (home / "empty").mkdir(exist_ok=True)
    for name in ("up", "down"):
        (home / "strange" / name).mkdir(parents=True, exist_ok=True)
        (home / "strange" / name / "1.png").write_bytes(encoded(picture()))
    (home / "bad.npz").write_bytes(b"PK\x03\x04 nothing")
    np.savez(home / "objects.npz", x=np.array([Attack(tmp_path / "canary")], object), y=np.zeros(1, int))
    np.savez(home / "unlabelled.npz", x=np.zeros((4, 16, 16), np.uint8))
    given = {"--source": "digits/train", "--target": "data/train/blue"}
    words = [w for pair in given.items() if pair[0] not in change for w in pair]
    quick = ["--out", tmp_path / "o", "--quiet", "--set", "model.steps=2"]
    assert text in said(2, "adapt", *words, *change, *quick)
    assert not (tmp_path / "o").exists() and not (tmp_path / "canary").exists()


def test_the_demo_without_its_images_exits_1(said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without scikit-learn the text says what to install."""
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert "the demo needs scikit-learn; type: pip install 'unpaired[demo]'" in said(
        1, "demo", "digits", "--out", tmp_path / "d"
    )
