"""SIGTERM and SIGINT: finish the step, save, leave. A second signal leaves at once.

The first signal sets ``requested``. Work that can be cut anywhere without loss (checking, reading) calls
:func:`poll` or runs outside :func:`deferred`, where the signal raises :class:`Interrupted` by itself; training and
saving run inside :func:`deferred` and look at ``requested`` between two steps.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from unpaired.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
WORKER_GRACE_SECONDS = 60
"""How long a loader worker outlives a SIGTERM: time for the parent to finish its step and save."""


class _state:  # of this process
    requested: int | None = None
    deferred = 0


def requested() -> int | None:
    """Return the signal number that asked to stop, or None."""
    return _state.requested


def name(signum: int) -> str:
    """Return what a person calls the signal: Ctrl-C, or SIGTERM."""
    return "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name


def poll(
    message: str = "stopped by a signal outside training; nothing to save, the same command goes on or begins again",
) -> None:
    """Raise :class:`Interrupted` when a signal has come."""
    if _state.requested is not None:
        raise Interrupted(_state.requested, message)


def _handle(signum: int, _frame: FrameType | None) -> None:
    if _state.requested is not None:  # the second one: leave at once; commits are atomic, so nothing breaks
        if os.isatty(2):
            os.write(2, b"\x1b[?25h\n")  # a progress bar had hidden the cursor
        os._exit(128 + signum)
    _state.requested = signum
    if not _state.deferred:
        poll()


@contextmanager
def handled() -> Iterator[None]:
    """Install the handlers for the duration of a command (main thread only; elsewhere it does nothing)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, _handle) for s in SIGNALS}
    outer, _state.requested = _state.requested, None
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        _state.requested = outer


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, a signal only sets the flag; the caller looks at :func:`requested`."""
    _state.deferred += 1
    try:
        yield
    finally:
        _state.deferred -= 1


def ignore_in_worker(_worker: int) -> None:
    """``worker_init_fn`` of loaders: a terminal sends Ctrl-C to the whole group, a batch system SIGTERM, and only the
    parent shall act on it: a worker that died would break the parent's last step and save. SIGTERM ends a worker later,
    should it hang."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_GRACE_SECONDS))
