"""`unpaired plan`: predicted memory against a run's own, what does not fit, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unpaired import checkpoint, plan
from unpaired.cli import main
from unpaired.errors import ConfigError
from unpaired.methods import run_from
from unpaired.training.planning import RunPlan
from unpaired.training.run import build

SMALL = {"data.size": 32, "data.resize": 36, "training.tensorboard": False, "training.device": "cpu"}
PEAK = (
    "import sys, json; from pathlib import Path; import unpaired\nname, arguments, options = "
    "json.loads(sys.argv[1])\nfound = getattr(unpaired, name)(*arguments, **options)\nprint(found.peak if name == "
    "'plan' else 1024 * int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]))"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains of ten random pictures."""
    root, rng = tmp_path_factory.mktemp("planned"), np.random.default_rng(0)
    for domain in "ab":
        folder = root / "train" / domain
        folder.mkdir(parents=True)
        for i in range(10):
            Image.fromarray(rng.integers(0, 256, (40, 44, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return root


def test_predicted_memory_is_that_of_the_run(data: Path, tmp_path: Path) -> None:
    """The peak predicted is within 15 % of the largest resident size of a process that trains the preset to its end."""
    settings = {**SMALL, "model.width": 16, "model.batch_size": 16}

    def bytes_of(name: str, arguments: list[str], **options: Any) -> int:
        words = json.dumps([name, arguments, {"settings": settings, "steps": 2, **options}])
        done = subprocess.run([sys.executable, "-c", PEAK, words], capture_output=True, text=True, check=True)
        return int(done.stdout.split()[-1])

    predicted = bytes_of("plan", ["unit-small", str(data)])
    took = bytes_of("train", [str(data), str(tmp_path / "run")], preset="unit-small", quiet=True)
    assert abs(predicted / took - 1) < 0.15, (predicted, took)


def test_what_does_not_fit_is_said_with_what_takes_less(data: Path) -> None:
    """With too little memory, and where memory runs out in the first steps, the text says what to change."""
    settings = {**SMALL, "model.width": 4, "model.batch_size": 8}
    found = plan("unit-small", data, settings=settings, steps=1, memory=0.1)
    for plan_ in (found, RunPlan("cpu", "fp32", 10)):
        assert not plan_.fits and "does not fit" in plan_.text() and "--set training.accumulate=2" in plan_.text()
    assert found.peak is not None and found.peak > 0.1 * 2**30


def test_a_transfer_is_planned_with_its_gan(data: Path, tmp_path: Path) -> None:
    """--pretrained takes the GAN's sizes over the preset's, as training does; without it plan asks for it by that
    name."""
    torch.manual_seed(0)
    small = {"width": 2, "shared_dim": 4, "z_dim": 8, "attention": 0}
    gan = run_from({"method": "biggan", "data": {"size": 32}, "model": small})
    method = build(gan, ("cat",))
    file = checkpoint.write_model(tmp_path / "gan.safetensors", method, checkpoint.make_header(method, gan))
    settings = {"training.device": "cpu", "training.tensorboard": False, "model.batch_size": 2}
    found = plan("deepi2i-small", data, settings=settings, steps=2, pretrained=file)
    assert found.fits and [s.name for s in found.stages] == ["adaptor", "finetune"]
    with pytest.raises(ConfigError, match="--pretrained FILE"):
        plan("deepi2i-small", data, settings=settings, steps=2)


def test_refusals(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown preset, a memory of nothing and a missing folder are refused with exit code 2, before anything is
    built."""
    with pytest.raises(ConfigError, match="memory = 0"):
        plan("unit-small", data, memory=0)
    for arguments, words in (
        (["plan", "unit-smal", str(data)], "Did you mean 'unit-small'? `unpaired presets` lists all"),
        (["plan", "unit-small", str(data / "nowhere")], "nowhere"),
    ):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 2 and words in capsys.readouterr().err
