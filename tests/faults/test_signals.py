"""SIGTERM and SIGINT in every phase: saved and out, exit 143 and 130, and the same command goes on (F9)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kit
import pytest
import runs
from figures import Figure, pick

import tiny
from unpaired import checkpoint, cli, files
from unpaired.data import check, images
from unpaired.evaluation import run as evaluate_run
from unpaired.networks.pyramid import Pyramid
from unpaired.training import loop
from unpaired.training import run as package_runs
from unpaired.translate import files as translate_files

NUMBERS = {"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
BEFORE = {
    "start": (package_runs, "resolve"),
    "check": (check, "_examine"),
    "image cache": (images, "load_resized"),
    "statistics": (Pyramid, "measure"),
}
"""Phase -> what to wrap; there is nothing to save yet."""
DURING = {
    "training": (loop.Trainer, "run_step"),
    "stage switch": (tiny.Tiny, "halve"),
    "sample writing": (loop.Trainer, "sample"),
    "save": (checkpoint, "pack"),
}
CASCADE = ("statistics",)
"""Phases that the method on a feature pyramid alone has; the others are those of the tiny method."""
AFTER = {"evaluation": (evaluate_run, "_entry"), "translation": (translate_files._Job, "_translate")}
# the n-th call: in the midst of a phase, not at its edge
CALL = {"check": 5, "image cache": 5, "statistics": 2, "training": 3, "sample writing": 2, "save": 4}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA, and a whole run of each method."""
    root = tmp_path_factory.mktemp("signals")
    tiny.folder(root / "data")
    assert kit.outcome(lambda: cli.main(command(root / "data", root / "whole"))).code == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNPAIRED_CACHE", str(root / "cache"))
        whole = kit.outcome(lambda: cli.main(command(root / "data", root / "whole-cascade", "cascade")))
    assert whole.code == 0, whole.said
    return root


OWN = {
    "tiny": {"data.size": 16, "model.first_steps": 4, "model.second_steps": 4},
    "cascade": {
        "data.size": 32, "model.network": "tiny", "model.weights": "random",
        "model.width": 0.05, "model.inversion_width": 0.2, "model.judge_width": 2, "model.levels": [5, 4],
            "model.batch_size": 2,
        "model.generator_every": 2, "model.level_steps": 2, "model.inversion_batch_size": 2, "model.inversion_steps": 3,
        "model.invert_all": "false",
    },
}  # fmt: skip
"""Settings that make a method small."""


def command(data: Path, out: Path, method: str = "tiny") -> list[str]:
    settings = {
        **OWN[method], "training.checkpoint_every": 3, "training.sample_every": 3,
        "training.log_every": 1, "training.tensorboard": "false", "training.precision": "fp32",
            "training.device": "cpu",
    }  # fmt: skip
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return ["train", str(data), "--out", str(out), "--method", method, "--quiet", *words]


def asking(
    place: tuple[Any, str], call: int, signum: int, at: Path, then: Callable[[], None] = lambda: None
) -> Callable[[], None]:
    """Wrap a function so that its ``call``-th call sends this process a signal and writes down when."""
    owner, name = place
    real, count = getattr(owner, name), {"n": 0}

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        count["n"] += 1
        if count["n"] == call:
            at.write_text(str(time.monotonic()))
            os.kill(os.getpid(), signum)
            then()
        return real(*args, **kwargs)

    setattr(owner, name, wrapped)
    return lambda: setattr(owner, name, real)


def signalled(
    place: tuple[Any, str], call: int, signum: int, at: Path, arguments: list[str]
) -> tuple[kit.Outcome, float]:
    """The command, sent a signal in that phase: its outcome, and the seconds from the signal to its end."""

    def work() -> None:
        asking(place, call, signum, at)
        cli.main(arguments)

    child = kit.Child(work)
    result = child.wait()
    ended = child.began + result.seconds
    assert at.exists(), f"the phase was not reached: {result.said}"
    return result, ended - float(at.read_text())


def test_a_signal_in_any_phase_saves_and_leaves(home: Path, tmp_path: Path, figure: Figure) -> None:
    """In each phase, both signals: exit 143 or 130 with one line; from training on, the state of the last finished step
    is saved; the same command then ends with the bytes of an undisturbed run."""
    slowest, cases = (0.0, ""), 0
    for n, (phase, place) in enumerate({**BEFORE, **DURING}.items()):
        method = "cascade" if phase in CASCADE else "tiny"
        expected = runs.everything(home / ("whole-cascade" if phase in CASCADE else "whole"))
        for name, signum in pick([list(NUMBERS.items())[n % 2]], list(NUMBERS.items())):
            case = f"{name} in {phase}"
            os.environ["UNPAIRED_CACHE"] = str(tmp_path / f"cache-{case}")
            out = tmp_path / case
            call = CALL.get(phase, 1)
            words = command(home / "data", out, method)
            result, took = signalled(place, call, signum, tmp_path / f"at-{case}", words)
            assert result.code == 128 + signum, (case, result)
            assert result.said.count("stopped by") == 1 and "error: " not in result.said, (case, result.said)
            assert "Traceback" not in result.said, (case, result.said)
            slowest, cases = max(slowest, (took, case)), cases + 1
            if phase in BEFORE:
                assert "nothing to save" in result.said, (case, result.said)
            if phase in DURING:
                saved, rejected = checkpoint.latest(out / "checkpoints")
                assert saved is not None and not rejected and "saved as" in result.said, (case, result.said)
                log = out / "log.jsonl"
                steps = [json.loads(line)["step"] for line in log.read_text().splitlines()] if log.exists() else []
                assert saved.step == max(steps, default=0), case
            assert kit.outcome(lambda words=words: cli.main(words)).code == 0  # type: ignore[misc]
            assert runs.everything(out) == expected, case
    figure(
        "F9", f"{len(BEFORE) + len(DURING)} phases of training, {cases} signals: all saved and out; slowest "
              f"{slowest[0]:.2f} s ({slowest[1]}; to reach: 5)"
    )  # fmt: skip
    assert cases == pick(1, 2) * (len(BEFORE) + len(DURING))


def test_a_signal_while_evaluating_or_translating_leaves_nothing_broken(
    home: Path, tmp_path: Path, figure: Figure
) -> None:
    """Exit 143 or 130 with one line; no results that look whole, and the same command does its work afterwards."""
    slowest = 0.0
    for phase, place in AFTER.items():
        for name, signum in NUMBERS.items():
            out = tmp_path / f"{phase}-{name}"
            words = {
                "evaluation": ["evaluate", str(home / "whole"), str(home / "data"), "--out", str(out), "--device",
                    "cpu"],
                "translation": ["translate", str(home / "whole"), str(home / "data/test/red"), "--to", "blue", "--out",
                    str(out), "--device", "cpu"],
            }[phase]  # fmt: skip
            result, took = signalled(place, 1, signum, tmp_path / f"at-{phase}-{name}", words)
            slowest = max(slowest, took)
            assert result.code == 128 + signum and "Traceback" not in result.said, (phase, result)
            assert result.said.count("stopped by") == 1 and "error: " not in result.said, result.said
            assert not out.is_file() and not list(tmp_path.rglob("*.png"))
            again = kit.outcome(lambda words=words: cli.main(words))  # type: ignore[misc]
            assert again.code == 0 and out.exists(), again.said
            if phase == "translation":
                assert len(list(out.glob("*.png"))) == 3
                for file in out.glob("*.png"):
                    file.unlink()
    figure("F9", f"evaluation and translation × 2 signals: out, nothing half-written; slowest {slowest:.2f} s")


def test_a_second_ctrl_c_gives_the_terminal_its_cursor_back() -> None:
    """A progress bar hides the cursor; a process that leaves at once shows it again."""
    code = (
        "import os\nfrom unpaired import signals\nwith signals.handled(), signals.deferred():\n    "
        "os.kill(os.getpid(), 2)\n    os.kill(os.getpid(), 2)\n"
    )
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        child = subprocess.run([sys.executable, "-c", code], stderr=theirs)
        os.close(theirs)
        assert child.returncode == 130 and b"\x1b[?25h" in terminal.read(64)


@pytest.mark.parametrize("name", pick(["SIGTERM"], list(NUMBERS)))
def test_a_second_signal_leaves_at_once(name: str, home: Path, tmp_path: Path, figure: Figure) -> None:
    """While the first one's save hangs on a slow disk, a second signal ends the process with its code; the older state
    is sound, and the same command ends with the bytes of an undisturbed run."""
    out, at, signum = tmp_path / "run", tmp_path / "at", NUMBERS[name]

    def work() -> None:
        asking(DURING["training"], 5, signum, tmp_path / "first")
        write = files.write_synced

        def slow_disk(*args: Any, **kwargs: Any) -> Any:
            if (tmp_path / "first").exists():
                at.write_text(str(time.monotonic()))
                os.kill(os.getpid(), signum)
                time.sleep(600)
            return write(*args, **kwargs)

        files.write_synced = slow_disk  # in the child alone
        cli.main(command(home / "data", out))

    child = kit.Child(work)
    result = child.wait()
    took = child.began + result.seconds - float(at.read_text())
    assert result.code == 128 + signum and "saved as" not in result.said, result
    saved, _ = checkpoint.latest(out / "checkpoints")
    assert saved is not None and saved.step >= 3 and any((out / "checkpoints").glob(".tmp-*"))
    assert kit.outcome(lambda: cli.main(command(home / "data", out))).code == 0
    assert runs.everything(out) == runs.everything(home / "whole")
    figure("F9", f"a second {name} during a save: out after {took:.2f} s, the older state sound")
