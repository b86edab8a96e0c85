"""Full and failing disks: the state that was acknowledged stays, the message has path, cause, needed and free bytes
(F4)."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import kit
import pytest
import runs
from figures import Figure

from unpaired import checkpoint
from unpaired.errors import CheckpointError, StoppedError, UnpairedError
from unpaired.training import loop

SIZES = 12
CALLS = ("write", "open", "fsync", "rename", "replace", "unlink", "mkdir", "rmdir")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
TOLD = re.compile(
    r"(?s)(.+): could not be written: (.+) \(([\d,]+) bytes needed, ([\d,]+ bytes free|free space unknown)\)"
)


def told(error: UnpairedError, run: Path, cause: str) -> bool:
    """Whether the message has the path below ``run``, the cause, the bytes needed and the bytes free."""
    found = TOLD.search(str(error))
    return found is not None and found[1].startswith(str(run)) and cause in found[2] and error.exit_code == 4


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    run = tmp_path_factory.mktemp("whole") / "run"
    runs.train(run)
    return run


def used(folder: Path) -> int:
    """Bytes of its files in blocks of 4 KiB, as a file system counts them."""
    return sum(-(-p.stat().st_size // 4096) * 4096 for p in folder.rglob("*") if p.is_file())


def on_small_disk(place: Path, size: int, expected: dict[str, bytes], *, mount: bool) -> Callable[[], None]:
    """Fill a disk of ``size`` bytes with a run; then make room, and go on to the end. Prints what happened."""

    def work() -> None:
        if mount:
            kit.small_disk(place, size)
        else:
            kit.limit_files(size)
        run, acknowledged = place / "run", place.parent / f"acknowledged-{size}"
        try:
            runs.train(run, acknowledged=acknowledged)
            print("finished")
        except StoppedError as error:
            print(
                "stopped" if told(error, run, "No space left" if mount else "File too large") else f"BAD TEXT {error}"
            )
        except UnpairedError as error:  # not even the lock fitted
            print("refused" if error.exit_code == 2 and str(run) in str(error) else f"BAD TEXT {error}")
        try:
            saved, rejected = checkpoint.latest(run / "checkpoints")
        except CheckpointError:
            saved, rejected = None, ["unreadable"]
        if (saved.step if saved else -1) < runs.last_acknowledged(acknowledged) or rejected:
            print("LOST")
        if mount:
            kit.small_disk(place, 64 * 2**20)
            runs.train(run)
            if runs.everything(run) != expected:
                print("OTHER BYTES")

    return work


def sweep(tmp_path: Path, expected: dict[str, bytes], one: int, *, mount: bool) -> list[str]:
    """What happened on disks (or with files) of 12 sizes, from a quarter of a checkpoint to what the run needs."""
    found = []
    top = 3 * one if mount else one
    for i in range(SIZES):
        place = tmp_path / f"disk-{i}"
        place.mkdir()
        size = top * (i + 1) // (SIZES + 1)
        result = kit.outcome(on_small_disk(place, size, expected, mount=mount))
        assert result.code == 0, result.said
        found.append(result.said)
    return found


def test_a_full_disk_loses_nothing_and_says_so(tmp_path: Path, whole: Path, figure: Figure) -> None:
    """Disks of 12 sizes fill up at 12 places of a run: it stops with exit 4 and the whole message (or refuses, when not
    even its lock fits), what it acknowledged loads, and with more room it ends with the bytes of an undisturbed run."""
    mount = kit.can_mount()
    one = used(checkpoint.steps(whole / "checkpoints")[0])
    found = sweep(tmp_path, runs.everything(whole), one, mount=mount)
    stopped = sum(text.startswith(("stopped", "refused")) for text in found)
    how = "a file system of its own" if mount else "limited file sizes (no mounts here)"
    figure("F4", f"{SIZES} sizes of a full disk ({how}): {stopped} runs stopped, 0 lost, all told")
    assert all(text.strip() in ("stopped", "refused", "finished") for text in found), found
    assert stopped >= 9 and any(text.startswith("stopped") for text in found)


def lost_after(run: Path, acknowledged: Path) -> bool:
    """Whether the newest state that loads is older than the last one that was acknowledged."""
    try:
        saved, rejected = checkpoint.latest(run / "checkpoints")
    except CheckpointError:
        return True
    return (saved.step if saved else -1) < runs.last_acknowledged(acknowledged) or bool(rejected)


@pytest.mark.parametrize("call", ["write", *(pytest.param(call, marks=pytest.mark.full) for call in CALLS[1:])])
def test_every_failing_call_keeps_the_previous_state(call: str, tmp_path: Path, figure: Figure) -> None:
    """Let the k-th open, write, fsync, rename, replace, unlink, mkdir or rmdir of a run fail, for every k, with no
    space, an I/O error or no permission: the run succeeds all the same or stops with the whole message; what it
    acknowledged loads; the same command then ends with the bytes of an undisturbed run."""
    runs.train(tmp_path / "whole", 2)
    expected, failed, tried = runs.everything(tmp_path / "whole"), 0, 0
    for k in range(1, 200):
        number = ERRORS[k % 3]
        run, acknowledged = tmp_path / f"{k}" / "run", tmp_path / f"acknowledged-{k}"
        run.parent.mkdir()
        with kit.failing(call, k, number) as count:
            try:
                runs.train(run, 2, acknowledged=acknowledged)
            except UnpairedError as error:
                failed += 1
                refused = error.exit_code == 2 and str(run.parent) in str(error) and os.strerror(number) in str(error)
                assert refused or told(error, run, os.strerror(number)), error
        assert not lost_after(run, acknowledged)
        if count["calls"] < k:
            break
        tried += 1
        runs.train(run, 2)
        assert runs.everything(run) == expected, f"{call} number {k}"
        shutil.rmtree(run.parent)
    else:
        pytest.fail("the sweep did not come to its end")
    assert tried >= 1
    figure("F4", f"the k-th {call} fails, for every k of {tried}: {failed} stops, all told, 0 states lost")


def test_the_last_checkpoint_goes_only_after_the_next_is_safe(tmp_path: Path) -> None:
    """With keep = 1 and a save that fails, the old checkpoint is still there."""
    runs.train(tmp_path / "run", 2, training__keep=1)
    with kit.failing("rename", 1, errno.EIO), pytest.raises(StoppedError):
        loop.fit(*run_of(4, model__first_steps=1), tmp_path / "run", quiet=True, allow_change=("model.second_steps",))
    saved, _ = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert saved is not None and saved.step == 2


def run_of(steps: int, **settings: int) -> tuple[object, object, object]:
    import tiny
    from unpaired.training.run import build

    made = runs.config(steps, training__keep=1, **settings)
    return build(made, ("red", "blue")), tiny.pool(), made
