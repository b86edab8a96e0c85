"""What the fault tests share: forked children that are measured, calls that fail or end the process, roots that fill
up.

A child is forked from the test process, which has torch loaded already: a case costs milliseconds instead of seconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from unpaired.errors import UnpairedError

HANG_SECONDS = 300.0
"""A child that takes longer hangs, even on a busy machine. No test asserts a time below it: times are printed."""
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_REMOUNT, MS_REC, MS_PRIVATE = 0x20, 0x4000, 0x40000


@dataclass(frozen=True)
class Outcome:
    """What became of a child."""

    code: int
    """Exit code; minus the number for a signal."""
    said: str
    """Standard output and error."""
    seconds: float
    cpu: float
    """Seconds of processor time within ``work``."""
    grown: int
    """Bytes by which the resident memory rose at most within ``work``."""


class Child:
    """``work`` in a forked process: started at once, killed when it is not waited for."""

    def __init__(self, work: Callable[[], object], *, log: Path | None = None) -> None:
        self.began = time.monotonic()
        handle, name = tempfile.mkstemp(prefix="unpaired-child-")
        self._said = log or Path(name)
        os.close(handle)
        self._facts = Path(f"{name}.facts")
        self.pid = os.fork()
        if self.pid == 0:
            _be_child(work, self._said, self._facts)
        self._code: int | None = None

    def poll(self) -> int | None:
        """The exit code when it has ended."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def send(self, signum: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def wait(self, limit: float = HANG_SECONDS) -> Outcome:
        """Its outcome; one that runs beyond ``limit`` seconds is killed and fails the test."""
        while self.poll() is None:
            if time.monotonic() - self.began > limit:
                self.send(signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"the child hangs (over {limit:.0f} s); it said:\n{self._said.read_text()}")
            time.sleep(0.001)
        seconds = time.monotonic() - self.began
        facts = json.loads(self._facts.read_text()) if self._facts.exists() else {"cpu": 0.0, "grown": 0}
        said = self._said.read_text(errors="replace") if self._said.exists() else ""
        self._facts.unlink(missing_ok=True)
        self._said.unlink(missing_ok=True)
        assert self._code is not None
        return Outcome(self._code, said, seconds, facts["cpu"], facts["grown"])


def _be_child(work: Callable[[], object], said: Path, facts: Path) -> None:
    code = 1
    try:
        out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_DFL)
        torch.set_num_threads(1)
        before, cpu = _reset_peak(), time.process_time()
        try:
            work()
            code = 0
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
        except UnpairedError as error:
            print(f"error: {error}", file=sys.stderr)
            code = error.exit_code
        facts.write_text(json.dumps({"cpu": time.process_time() - cpu, "grown": _status("VmHWM") - before}))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _status(key: str) -> int:
    """A line of /proc/self/status in bytes."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return 1024 * int(line.split()[1])


def _reset_peak() -> int:
    """Let the kernel begin the peak of resident memory anew; what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def outcome(work: Callable[[], object], limit: float = HANG_SECONDS) -> Outcome:
    """``work`` in a forked child, to its end."""
    return Child(work).wait(limit)


@contextlib.contextmanager
def failing(call: str, k: int, number: int) -> Iterator[dict[str, int]]:
    """Let the ``k``-th call of ``os.<call>`` fail with errno ``number``; ``{"calls": how many there were}``."""
    real, count = getattr(os, call), {"calls": 0}

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        count["calls"] += 1
        if count["calls"] == k:
            raise OSError(number, os.strerror(number), "injected")
        return real(*args, **kwargs)

    setattr(os, call, wrapped)
    try:
        yield count
    finally:
        setattr(os, call, real)


@contextlib.contextmanager
def noting(owner: Any, name: str, path: Path | None, what: Callable[..., object]) -> Iterator[None]:
    """When a call of a method has returned, append ``what`` of its arguments to ``path``, in this process and its
    children."""
    real = getattr(owner, name)

    def noted(*args: Any) -> Any:
        found = real(*args)
        if path is not None:
            with path.open("a") as file:
                file.write(f"{what(*args)}\n")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, noted)
        yield


def small_disk(place: Path, size: int) -> None:
    """In a child: mount a file system of ``size`` bytes at ``place``, seen by this process alone, or grow the one that
    is there.

    Raises OSError where the machine does not let us (containers without user namespaces).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not place.is_mount():
        user, group = os.getuid(), os.getgid()
        flags = CLONE_NEWNS if user == 0 else CLONE_NEWNS | CLONE_NEWUSER
        if libc.unshare(flags):
            raise OSError(ctypes.get_errno(), "unshare")
        if user:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        if libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):  # what we mount stays ours
            raise OSError(ctypes.get_errno(), "mount /")
    flags = MS_REMOUNT if place.is_mount() else 0
    if libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", flags, f"size={size}".encode()):
        raise OSError(ctypes.get_errno(), "mount tmpfs")


def can_mount() -> bool:
    """Whether a child may have a small file system of its own."""
    with tempfile.TemporaryDirectory() as place:
        return outcome(lambda: small_disk(Path(place), 2**20)).code == 0


def limit_files(size: int) -> None:
    """In a child: no file may grow beyond ``size`` bytes; writes beyond fail as on a full disk (EFBIG)."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def bound_memory(extra: int) -> None:
    """In a child: no more than ``extra`` bytes may be mapped from here on; what asks for more gets MemoryError, touched
    or not."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (mapped + extra, -1))
