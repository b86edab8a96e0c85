"""Ranks that notice each other's end: a word every half second beside the collectives, and a judge who acts on silence.

A collective waits for every rank. Without more, a rank that was killed shows on the others as an error of the network library that
names nobody, one that is frozen as a wait of many minutes, and one that raised as both. So each rank writes into the job's key-value
store that it lives, in which phase, and, before it leaves, why. From that the others tell which rank ended, and how:

* it **left** with a cause: the cause is passed on;
* it **ended** without a word (killed, its machine gone): its connection breaks, its words stop;
* it is **frozen**: its words stop while its connection stays. The judge ends this process, for the main thread waits inside the
  network library and cannot be woken;
* it is **stuck** within a step while its words go on: judged against the longest step so far, see ``HUNG_STEPS``.

Whatever else takes long (a save to a slow disk, sample sheets, compiling) has ``distributed.TIMEOUT``.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from unpaired.errors import RankError

BEAT_SECONDS = 0.5
SILENT_SECONDS = 15.0
"""A rank that says nothing for so long is dead or frozen: thirty words missed, more than any pause of a garbage collector or swap."""
HUNG_SECONDS = 20.0
HUNG_STEPS = 20
"""A rank is stuck when others wait for its step longer than both: HUNG_SECONDS, and this many times the longest step so far."""
EVIDENCE_SECONDS = 3.0
"""How long a rank whose connection broke waits for the reason: a few beats."""
LINGER_SECONDS = 5.0
"""How long a rank that leaves with a cause stays for the others to read it; the first rank usually holds the store."""


class Heartbeat:
    """The words of this rank and what it hears of the others. ``phase`` is set by the training loop."""

    def __init__(self, store: Any, rank: int, world: int) -> None:
        self.rank, self.others = rank, [r for r in range(world) if r != rank]
        self._store = store.clone()
        self._store.set_timeout(datetime.timedelta(seconds=SILENT_SECONDS))
        self.phase, self._phase_began, self.longest_step = "start", time.monotonic(), 0.0
        self._waiting: float | None = None
        now = time.monotonic()
        self._heard = dict.fromkeys(self.others, now)
        self._words = dict.fromkeys(self.others, "")
        self._left: dict[int, str] = {}
        self._talked = now
        self._store_lost = False
        self._cause: str | None = None
        self._said = threading.Event()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._talk, self._judge)]
        for thread in self._threads:
            thread.start()

    # ---- called by the main thread ---------------------------------------------------------------------------------

    def enter(self, phase: str) -> None:
        """This rank begins ``phase``; the time of a "step" is remembered when it ends."""
        now = time.monotonic()
        if self.phase == "step":
            self.longest_step = max(self.longest_step, now - self._phase_began)
        self.phase, self._phase_began = phase, now

    @contextlib.contextmanager
    def meeting(self) -> Iterator[None]:
        """Around a collective. Raises RankError, with rank and cause, where it fails."""
        self._waiting = time.monotonic()
        try:
            yield
        except RuntimeError as error:  # gloo and NCCL: connection closed, or timed out
            waited = time.monotonic() - self._waiting
            raise RankError(self._explain(str(error), waited)) from error
        finally:
            self._waiting = None

    def leave(self, cause: str) -> None:
        """Say why this rank leaves ("" for: it is done), wait until the others have read a cause, and fall silent."""
        self._cause = cause
        self._said.wait(SILENT_SECONDS if not self._store_lost else 0)
        deadline = time.monotonic() + (LINGER_SECONDS if cause and not self._store_lost else 0)
        while time.monotonic() < deadline and not self._all_know():
            time.sleep(BEAT_SECONDS / 5)
        self._stop.set()
        for thread in self._threads:  # a thread within the network library would abort the interpreter's end
            thread.join(2 * SILENT_SECONDS)

    # ---- the two threads -------------------------------------------------------------------------------------------

    def _talk(self) -> None:
        """Say that this rank lives, and listen. May block when the store does not answer."""
        beat = 0
        try:
            while not self._stop.is_set():
                beat += 1
                if self._cause is not None and not self._said.is_set():
                    self._store.set(f"left/{self.rank}", self._cause)
                    self._said.set()
                self._store.set(f"beat/{self.rank}", f"{beat} {'wait' if self._waiting else self.phase}")
                for other in self.others:
                    self._listen(other)
                self._talked = time.monotonic()
                self._stop.wait(BEAT_SECONDS)
        except Exception:  # the store's host is gone; the judge and the main thread draw the conclusion
            self._store_lost = True
            self._said.set()

    def _listen(self, other: int) -> None:
        if self._store.check([f"beat/{other}"]):
            words = self._store.get(f"beat/{other}").decode()
            if words != self._words[other]:
                self._words[other], self._heard[other] = words, time.monotonic()
        if other not in self._left and self._store.check([f"left/{other}"]):
            self._left[other] = self._store.get(f"left/{other}").decode(errors="replace")
            self._store.set(f"seen/{other}/{self.rank}", "1")

    def _judge(self) -> None:
        """End the process when the main thread waits for a rank that will not come."""
        while not self._stop.wait(BEAT_SECONDS):
            since = self._waiting
            if since is None:
                continue
            now = time.monotonic()
            if self._store_lost or now - self._talked > SILENT_SECONDS:
                if now - max(since, self._talked) > SILENT_SECONDS:
                    self._end(f"{self._host()} does not answer any more")
                continue
            silent = self._silent(SILENT_SECONDS)
            if silent and now - since > BEAT_SECONDS:
                self._end(f"{_ranks(silent)} has not been heard for {SILENT_SECONDS:.0f} s: frozen, or cut off")
            limit = max(HUNG_SECONDS, HUNG_STEPS * self.longest_step)
            stuck = [r for r in self.others if r not in self._left and self._words[r].endswith(" step")]
            if stuck and self.phase == "step" and self.longest_step and now - since > limit:
                self._end(f"{_ranks(stuck)} is stuck within a step: waited for {now - since:.0f} s")

    # ---- conclusions -----------------------------------------------------------------------------------------------

    def _explain(self, error: str, waited: float) -> str:
        """Which rank ended and how, from what was heard; ``error`` is the network library's own text."""
        deadline = time.monotonic() + EVIDENCE_SECONDS
        while time.monotonic() < deadline:
            causes = {r: cause for r, cause in sorted(self._left.items()) if cause}
            if causes:
                return _advice("; ".join(f"rank {r} stopped: {cause}" for r, cause in causes.items()))
            if self._store_lost:
                return _advice(f"{self._host()} ended without a word (killed, or its machine is gone)")
            silent = self._silent(EVIDENCE_SECONDS / 2)
            if silent:
                return _advice(f"{_ranks(silent)} ended without a word (killed, or its machine is gone)")
            time.sleep(BEAT_SECONDS / 5)
        phases = ", ".join(f"rank {r} in phase '{self._words[r].split(' ')[-1]}'" for r in self.others)
        return _advice(f"a rank did not come within {waited:.0f} s ({phases}; {error.splitlines()[0][:160]})")

    def _silent(self, seconds: float) -> list[int]:
        """The ranks that have not left and have not been heard for so long."""
        now = time.monotonic()
        return [r for r in self.others if r not in self._left and now - self._heard[r] > seconds]

    def _host(self) -> str:
        agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return "the launcher" if agent or self.rank == 0 else "rank 0"

    def _all_know(self) -> bool:
        try:
            gone = {*self._left, *self._silent(EVIDENCE_SECONDS / 2)}
            return all(r in gone or self._store.check([f"seen/{self.rank}/{r}"]) for r in self.others)
        except Exception:
            return True

    def _end(self, what: str) -> None:
        if not self._stop.is_set():
            print(f"error: {_advice(what)}", file=sys.stderr, flush=True)
            os._exit(RankError.exit_code)


def _ranks(numbers: list[int]) -> str:
    return ("ranks " if len(numbers) > 1 else "rank ") + ", ".join(map(str, numbers))


def _advice(what: str) -> str:
    return f"{what}. The job has ended; the same command goes on from the last checkpoint"
