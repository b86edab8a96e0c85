"""--during-training: held-out images, distances in the log, best and last, resume, and that training is not
disturbed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_evaluation import Colours

import tiny
from unpaired import signals
from unpaired.checkpoint import MODEL, STATE, latest, load_method, steps
from unpaired.data.folders import find
from unpaired.data.sampling import hold_out, open_pool
from unpaired.errors import ConfigError, DataError, Interrupted, StoppedError, WeightsError
from unpaired.evaluation.features import translate
from unpaired.evaluation.results import format_table
from unpaired.evaluation.run import evaluate
from unpaired.training import loop, validation
from unpaired.training import run as training_run
from unpaired.training.run import build
from unpaired.training.state import compare_settings
from unpaired.training.validation import Validator, summary


def fit(run: Path, *, looks: int | None = 3, stop_at: int | None = None, **settings: Any) -> Path:
    """13 steps of the tiny method on what hold_out leaves; looks each three steps."""
    given = {"training__validate_every": looks, "training__validate_share": 0.4, **settings}
    config = tiny.config(**{k: v for k, v in given.items() if v is not None})
    rest, held = hold_out(tiny.pool(10), 0.4, 100)
    validator = Validator(held, Colours(), config.training, config.seed) if looks else None

    def on_step(step: int, method: object) -> None:
        if step == stop_at:
            raise StoppedError("cut here")

    return loop.fit(
        build(config, ("red", "blue")),
        rest,
        config,
        run,
        quiet=True,
        validator=validator,
        on_step=on_step if stop_at else None,
    )


def log(run: Path) -> dict[int, dict[str, Any]]:
    return {e["step"]: e for e in map(json.loads, (run / "log.jsonl").read_text().splitlines())}


def test_distances_are_logged_and_best_and_last_are_kept(tmp_path: Path) -> None:
    """Looks at each third step and the last; the log has FD and KD of both directions and their mean; RUN/best is the
    model of the smallest mean, whatever checkpoints were pruned; its header says on what it was chosen."""
    last = fit(tmp_path / "run", training__keep=1, training__checkpoint_every=4)
    entries = log(tmp_path / "run")
    looked = {s: e["validation/mean"] for s, e in entries.items() if "validation/mean" in e}
    assert list(looked) == [3, 6, 9, 12, 13]
    both = [entries[3][f"validation/FD-colours/{d}"] for d in ("red->blue", "blue->red")]
    assert looked[3] == pytest.approx(np.mean(both)) and "validation/KD-colours/red->blue" in entries[3]
    about = json.loads((tmp_path / "run/best/best.json").read_text())
    best = min(looked, key=lambda s: looked[s])
    assert (
        about["step"] == best and about["value"] == looked[best] and about["last"] == {"step": 13, "value": looked[13]}
    )
    assert [tuple(e) for e in about["history"]] == list(looked.items())
    _, header = load_method(tmp_path / "run/best")
    assert header["step"] == best and header["extra"]["validation"]["step"] == best
    assert f"step {best} with" in summary(tmp_path / "run") and "last: step 13" in summary(tmp_path / "run")
    assert summary(tmp_path) == ""
    assert load_method(last)[1]["step"] == 13 and last.parent.parent.name == "checkpoints"


def test_looking_does_not_change_what_is_learnt(tmp_path: Path) -> None:
    """The last model is the same bytes with looks each step and with none, on the same training images."""
    a, b = fit(tmp_path / "a", looks=1), fit(tmp_path / "b", looks=None)
    assert all(
        torch.equal(x, y) for x, y in zip(*(load_method(p)[0].state_dict().values() for p in (a, b)), strict=True)
    )


@pytest.mark.parametrize("cut", [5, 10])
def test_a_cut_run_finds_the_same_best(tmp_path: Path, cut: int) -> None:
    """Cut between a checkpoint and a look, and resumed: best model, summary and log equal those of an uninterrupted
    run."""
    fit(tmp_path / "whole", training__ema=0.5)
    with pytest.raises(StoppedError):
        fit(tmp_path / "cut", training__ema=0.5, stop_at=cut)
    fit(tmp_path / "cut", training__ema=0.5)
    for name in ("best/best.json", f"best/{MODEL}"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    whole, cut_log = (log(tmp_path / n) for n in ("whole", "cut"))
    assert [e.get("validation/mean") for e in whole.values()] == [e.get("validation/mean") for e in cut_log.values()]


def test_held_out_images_are_never_trained_on_nor_tested(tmp_path: Path) -> None:
    """The two parts share no image, the choice follows from the domain alone, and both come from the training split."""
    data = tiny.folder(tmp_path / "data", 12)
    pool = open_pool(find(data), tiny.config().data, split="train")
    rest, held = hold_out(pool, 0.25, 100)
    again = hold_out(pool, 0.25, 100)[1]
    assert held.indices == again.indices and held.fingerprint == again.fingerprint != rest.fingerprint
    for domain in pool.domains:
        assert held.count(domain) == 3 and rest.count(domain) == 9
        assert set(held.indices[domain]) | set(rest.indices[domain]) == set(range(12))
        assert np.array_equal(held.image(domain, 0), pool.image(domain, held.indices[domain][0]))
    assert hold_out(pool, 0.5, 4)[1].count("red") == 4
    with pytest.raises(DataError, match="too few to hold some out"):
        hold_out(tiny.pool(3), 0.1, 10)


def test_outputs_that_are_not_finite_are_never_the_best() -> None:
    """A translator that gives NaN has no validation distance, and so no place among the best."""
    config = tiny.config(training__validate_every=1)
    _, held = hold_out(tiny.pool(10), 0.5, 10)
    method = build(config, ("red", "blue"))
    validator = Validator(held, Colours(), config.training, 0)
    assert "validation/mean" in validator.look(method, torch.device("cpu"), "fp32")
    method.forth[4].bias.data.fill_(float("nan"))
    values = validator.look(method, torch.device("cpu"), "fp32")
    assert "validation/mean" not in values and "validation/FD-colours/blue->red" in values


def test_a_best_folder_that_cannot_be_made_is_told_in_words(tmp_path: Path) -> None:
    """Where a file stands in the place of RUN/best, training stops with exit 4, the path and the cause; what was saved
    before stays."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/best").write_text("in the way")
    with pytest.raises(StoppedError, match=r"run/best: could not be written: .*; check the disk") as caught:
        fit(tmp_path / "run", looks=6, training__checkpoint_every=5)
    assert caught.value.exit_code == 4 and (tmp_path / "run/best").read_text() == "in the way"
    saved, rejected = latest(tmp_path / "run/checkpoints")
    assert saved is not None and saved.step == 5 and not rejected


def test_a_signal_within_a_look_waits_for_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal while a look translates: the look is ended and logged, then the state is saved. Resumed, best model,
    summary, log and last state are those of an undisturbed run."""
    fit(tmp_path / "whole", training__ema=0.5)
    run = tmp_path / "cut"

    def asking(*arguments: Any) -> Any:
        signals._state.requested = 15
        return translate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(validation, "translate", asking)
        try:
            with pytest.raises(Interrupted, match="saved as"):
                fit(run, training__ema=0.5)
        finally:
            signals._state.requested = None
    saved, _ = latest(run / "checkpoints")
    assert saved is not None and saved.step == 3 and "validation/mean" in log(run)[3]
    fit(run, training__ema=0.5)
    assert without_clock(log(run)) == without_clock(log(tmp_path / "whole"))
    for name in ("best/best.json", f"best/{MODEL}"):
        assert (tmp_path / "whole" / name).read_bytes() == (run / name).read_bytes(), name
    for name in (MODEL, STATE):
        a, b = (steps(p / "checkpoints")[0] / name for p in (tmp_path / "whole", run))
        assert a.read_bytes() == b.read_bytes(), name


def without_clock(entries: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in e.items() if k != "seconds"} for e in entries.values()]


@pytest.mark.parametrize(("first", "second"), [(None, 3), (3, None)])
def test_holding_images_out_or_not_is_a_named_change(tmp_path: Path, first: int | None, second: int | None) -> None:
    """Switching the looks on or off at a resume is refused by its own name, with both words that accept it; not as
    images that were lost. Their interval alone may change."""
    config = tiny.config(training__validate_every=first)
    (tmp_path / "config.toml").write_text(config.to_toml())
    with pytest.raises(ConfigError) as caught:
        compare_settings(tmp_path, tiny.config(training__validate_every=second), [])
    text = str(caught.value)
    assert f"training.validate_every: {first!r} in the run, {second!r} now" in text
    assert (
        "--allow-change training.validate_every --allow-change data" in text and "which images are trained on" in text
    )
    names = ["training.validate_every"]
    compare_settings(tmp_path, tiny.config(training__validate_every=second), names)
    if first is not None:
        compare_settings(tmp_path, tiny.config(training__validate_every=first + 1), [])


def test_evaluate_reports_best_and_last(tmp_path: Path) -> None:
    """A run with a best checkpoint has both in its results and both tables; each can be asked for alone; a run without
    one refuses best and says how to get one."""
    fit(tmp_path / "run")
    options: dict[str, Any] = {"networks": [Colours()], "bootstrap": 0, "device": "cpu"}
    results = evaluate(tmp_path / "run", tiny.pool(6), **options)
    step = json.loads((tmp_path / "run/best/best.json").read_text())["step"]
    assert results["provenance"]["checkpoint"] == "last" and results["provenance"]["step"] == 13
    assert results["best"]["provenance"]["checkpoint"] == "best" and results["best"]["provenance"]["step"] == step
    assert results["best"]["provenance"]["chosen_on"]["step"] == step and "best" not in results["best"]
    table = format_table(results)
    assert "last checkpoint (step 13)" in table and f"best checkpoint (step {step})" in table
    alone = evaluate(tmp_path / "run", tiny.pool(6), checkpoint="best", **options)
    assert alone["directions"] == results["best"]["directions"]
    fit(tmp_path / "plain", looks=None)
    with pytest.raises(ConfigError, match="--during-training 500"):
        evaluate(tmp_path / "plain", tiny.pool(6), checkpoint="best", **options)


def test_the_option_and_its_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are not there are refused before the run's folder exists; a run that cannot hold out images says
    so."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("UNPAIRED_WEIGHTS", raising=False)
    data = tiny.folder(tmp_path / "data", 6)
    with pytest.raises(WeightsError, match="mobilenet_v1_1"):
        training_run.train(
            data, tmp_path / "run", settings={"data.size": 16}, during_training=5, method="tiny", quiet=True
        )
    assert not (tmp_path / "run").exists()
    config = tiny.config(training__validate_every=5)
    with pytest.raises(ConfigError, match="only `unpaired train`"):
        loop.fit(build(config, ("red", "blue")), tiny.pool(), config, tmp_path / "other", quiet=True)


CHILD = """
import sys; sys.path[:0] = [{tests!r}, {tests!r} + "/training", {tests!r} + "/evaluation"]
import torch; torch.set_num_threads(1)
from pathlib import Path
from test_validation import fit
fit(Path({run!r}), model__batch_size=4)
"""


def test_two_processes_look_as_one(tmp_path: Path) -> None:
    """Two gloo ranks train and look without waiting for each other for ever; one best checkpoint, all looks in the
    log."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    script = CHILD.format(tests=str(Path(__file__).parents[1]), run=str(tmp_path / "run"))
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "UNPAIRED_RANK_TIMEOUT": "60"}
    job = [
        subprocess.Popen(
            [sys.executable, "-c", script], env={**os.environ, **common, "RANK": str(r), "LOCAL_RANK": str(r)}
        )
        for r in range(2)
    ]
    assert [child.wait(timeout=180) for child in job] == [0, 0]
    assert [s for s, e in log(tmp_path / "run").items() if "validation/mean" in e] == [3, 6, 9, 12, 13]
    assert load_method(tmp_path / "run/best")[1]["extra"]["validation"]["step"] in (3, 6, 9, 12, 13)
