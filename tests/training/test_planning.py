"""`unpaired plan`: predicted memory against a run's own, proposals, refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_evaluation import Colours

import tiny
from unpaired import checkpoint, plan
from unpaired.cli import main
from unpaired.data.sampling import hold_out
from unpaired.errors import ConfigError
from unpaired.methods import run_from
from unpaired.training import loop
from unpaired.training.planning import Cost, RunPlan, StageCost, _smaller, _Trial, duration, measure
from unpaired.training.run import OpenData, build, resolve
from unpaired.training.validation import Validator

SMALL = {"data.size": 32, "data.resize": 36, "training.tensorboard": False, "training.device": "cpu"}
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "unit": ("unit-small", {"model.width": 16, "model.batch_size": 16}, 2),
    "attend": ("attend-digits-cpu", {"model.weights": "random", "model.batch_size": 16}, 2),
    "biggan": ("biggan-small", {"model.batch_size": 16}, 2),
}


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


@pytest.mark.parametrize("case", CASES)
def test_predicted_memory_is_that_of_the_run(case: str, data: Path, tmp_path: Path) -> None:
    """The peak predicted is within 15 % of the largest resident size of a process that trains the preset to its end."""
    preset, settings, steps = CASES[case]
    settings = {**SMALL, **settings}
    found = plan(preset, data, settings=settings, steps=steps)
    assert found.asked is not None and found.fits and [s.steps for s in found.asked.stages] == [steps]
    assert all(s.gflop > 0 and s.seconds > 0 for s in found.asked.stages)
    code = (
        "import sys, json; from pathlib import Path; from unpaired import train\n"
        "data, out, preset, settings, steps = json.loads(sys.argv[1])\n"
        "train(data, out, preset=preset, settings=settings, steps=steps, quiet=True)\n"
        "print(1024 * int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]))"
    )
    arguments = json.dumps([str(data), str(tmp_path / "run"), preset, settings, steps])
    done = subprocess.run([sys.executable, "-c", code, arguments], capture_output=True, text=True, check=True)
    took = int(done.stdout.split()[-1])
    assert abs(found.asked.peak / took - 1) < 0.15, (found.asked.peak, took)


def test_what_does_not_fit_is_said_with_a_change_that_does(data: Path) -> None:
    """With less memory than the whole batch takes, parts of the batch or a smaller crop are proposed, and stay within it."""
    settings = {**SMALL, "model.width": 16, "model.batch_size": 64}
    asked = plan("unit-small", data, settings=settings, steps=1).asked
    assert asked is not None
    found = plan("unit-small", data, settings=settings, steps=1, memory=0.9 * asked.peak / 2**30)
    assert not found.fits and found.proposal is not None
    assert found.proposal.settings and found.proposal.peak <= found.memory
    assert "does not fit" in found.text() and f"--set {next(iter(found.proposal.settings))}=" in found.text()


def test_the_total_counts_stages_checkpoints_and_sheets() -> None:
    """Steps times their seconds, and each save, sheet and look once; the JSON has it too."""
    stages = (StageCost("first", 100, 4, 0.5, 1.0), StageCost("second", 10, 4, 2.0, 3.0))
    once = {"save_seconds": 3, "sheet_seconds": 1, "look_seconds": 7, "start_seconds": 4}
    cost = Cost({}, stages, **once, peak=10, saves=5, sheets=6, looks=2)
    assert cost.total_seconds == 50 + 20 + 15 + 6 + 14 + 4
    found = RunPlan("cpu", "fp32", 10, cost)
    assert found.fits and found.to_dict()["asked"]["total_seconds"] == 109 and found.to_dict()["fits"] is True
    assert not RunPlan("cpu", "fp32", 9, cost).fits
    assert [duration(s) for s in (42, 180, 7500, 273_600)] == ["42 s", "3 min", "2 h 05 min", "3 d 4 h"]


def test_a_trial_counts_what_the_run_does(tmp_path: Path) -> None:
    """Checkpoints, sample sheets and looks at held-out images are as many as the run makes; both of its stages are there."""
    config = tiny.config(
        training__validate_every=3, training__checkpoint_every=4, training__sample_every=6, training__keep=9
    )
    rest, held = hold_out(tiny.pool(10), 0.4, 100)

    def opened() -> OpenData:
        return OpenData(rest, None, Validator(held, Colours(), config.training, config.seed))

    domains, run = ("red", "blue"), tmp_path / "run"
    (tmp_path / "trial").mkdir()
    trial = _Trial(config, tmp_path / "trial", torch.device("cpu"), time.process_time)
    cost = trial.cost(opened, domains)
    loop.fit(build(config, domains), rest, config, run, quiet=True, validator=opened().validator)
    assert cost.saves == len(list((run / "checkpoints").iterdir()))
    assert cost.sheets == len(list((run / "samples").iterdir()))
    assert cost.looks == (run / "log.jsonl").read_text().count("validation/mean")
    assert [(s.name, s.steps) for s in cost.stages] == [("first", 6), ("second", 7)]
    for seconds in (cost.save_seconds, cost.sheet_seconds, cost.look_seconds, cost.start_seconds):
        assert seconds > 0


def test_what_is_tried_where_memory_is_short(data: Path) -> None:
    """Parts of a batch from twice as many as asked for, then bf16 where the machine has it, then smaller crops; no other crop for a run
    that starts from a GAN."""
    run = resolve(
        preset="unit-small",
        settings={**SMALL, "data.size": 64, "data.resize": 72, "model.batch_size": 8, "training.accumulate": 2},
    )
    tried = list(_smaller(run, data, bf16=True))
    assert [t.get("training.accumulate") for t in tried] == [4, 8, 8, 8]
    assert [t.get("training.precision") for t in tried] == [None, None, "bf16", "bf16"]
    assert [t.get("data.size") for t in tried] == [None, None, None, 32]
    transfer = resolve(preset="deepi2i-small", settings={"model.batch_size": 2, "model.pretrained": "gan.safetensors"})
    assert list(_smaller(transfer, data, bf16=False)) == [{"training.accumulate": 2}]


def test_a_transfer_is_planned_with_its_gan(data: Path, tmp_path: Path) -> None:
    """--pretrained takes the GAN's sizes over the preset's, as training does; without it plan asks for it by that name."""
    torch.manual_seed(0)
    small = {"width": 2, "shared_dim": 4, "z_dim": 8, "attention": 0}
    gan = run_from({"method": "biggan", "data": {"size": 32}, "model": small})
    method = build(gan, ("cat",))
    file = checkpoint.write_model(tmp_path / "gan.safetensors", method, checkpoint.make_header(method, gan))
    settings = {"training.device": "cpu", "training.tensorboard": False, "model.batch_size": 2}
    found = plan("deepi2i-small", data, settings=settings, steps=2, pretrained=file)
    assert found.fits and found.asked is not None and [s.name for s in found.asked.stages] == ["adaptor", "finetune"]
    with pytest.raises(ConfigError, match="--pretrained FILE"):
        plan("deepi2i-small", data, settings=settings, steps=2)


def test_a_bad_picture_is_told_once(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The images are opened twice, the second time with the clock running, and what is left out is said the first time."""
    root = Path(shutil.copytree(data, tmp_path / "data"))
    (root / "train" / "a" / "9.png").write_bytes(b"no picture")
    config = resolve(preset="unit-small", settings={**SMALL, "model.width": 4, "model.discriminator_width": 4})
    measure(config, root)
    assert [r.getMessage().split(":")[0] for r in caplog.records if "left out" in r.getMessage()] == ["train/a/9.png"]


def test_refusals(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown preset, a memory of nothing and a missing folder are refused with exit code 2, before any child starts."""
    with pytest.raises(ConfigError, match="GiB that the run may use, above 0"):
        plan("unit-small", data, memory=0)
    for arguments, words in (
        (["plan", "unit-smal", str(data)], "Did you mean 'unit-small'? `unpaired presets` lists all"),
        (["plan", str(data), "unit-small"], f"the preset comes first: unpaired plan unit-small {data}"),
        (["plan", "unit-small", str(data / "nowhere")], "nowhere"),
    ):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 2 and words in capsys.readouterr().err
