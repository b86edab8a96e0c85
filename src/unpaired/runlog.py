"""What a run says: a JSON-lines file, TensorBoard where installed, and progress on the terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from unpaired.checkpoint import save_error, write_atomic

PLAIN_SECONDS = 10.0
"""Without a terminal a progress line is printed at most this often."""


class RunLog:
    """``log.jsonl`` of a run: one object a line with ``step``, ``stage`` and scalars. Lines after ``step`` are dropped on resume,
    so that the log is the one of an uninterrupted run."""

    def __init__(self, path: Path, step: int, *, tensorboard: Path | None) -> None:
        self.path = path
        if path.exists():
            text = path.read_text(encoding="utf-8", errors="replace")  # a crash can leave anything at the end
            kept = [line for line in text.splitlines() if _step_of(line) <= step]
            write_atomic(path, "".join(f"{line}\n" for line in kept).encode())
        try:
            self._file = path.open("ab", buffering=0)  # nothing is held back that a later close would have to write
        except OSError as error:
            raise save_error(path, error, 0) from error
        self._writer: Any = None
        if tensorboard is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:  # the extra `log` is not installed; log.jsonl has everything
                return
            self._writer = SummaryWriter(str(tensorboard), purge_step=step + 1)

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append one line; numbers also go to TensorBoard. Raises StoppedError when the disk is full."""
        line = json.dumps(entry).encode() + b"\n"
        try:
            self._file.write(line)
        except OSError as error:
            raise save_error(self.path, error, len(line)) from error
        numbers = {k: v for k, v in entry.items() if k != "step" and isinstance(v, (int, float))}
        self._tell(lambda writer: [writer.add_scalar(k, v, entry["step"]) for k, v in numbers.items()])

    def picture(self, name: str, pixels: Any, step: int) -> None:
        """A uint8 [H, W, 3] picture for TensorBoard."""
        self._tell(lambda writer: writer.add_image(name, pixels, step, dataformats="HWC"))

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._tell(lambda writer: writer.close())

    def _tell(self, do: Callable[[Any], object]) -> None:
        """TensorBoard is a convenience: when its files fail, training goes on without them."""
        if self._writer is not None:
            try:
                do(self._writer)
            except OSError as error:
                self._writer = None
                warn(
                    f"TensorBoard's log cannot be written ({error.strerror or error}); going on without it, log.jsonl has everything"
                )


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut by a kill


class Reporter:
    """Progress with rate and time left: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

    def __init__(self, total: int, done: int, *, quiet: bool = False, console: Console | None = None) -> None:
        self.total, self.first, self.done = total, done, done
        self.quiet = quiet
        self.console = console or Console(stderr=True, highlight=False)
        self.started = self.printed = time.monotonic()
        self._bar: Progress | None = None
        if not quiet and self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(), TimeRemainingColumn(), console=self.console,
            )  # fmt: skip
            self._task = self._bar.add_task("training", total=total, completed=done, rate="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, step: int, stage: str) -> None:
        """Step ``step`` is done."""
        self.done = step
        now = time.monotonic()
        if self.quiet or (now - self.printed < (0.2 if self._bar else PLAIN_SECONDS) and step < self.total):
            return
        self.printed = now
        rate = (step - self.first) / max(now - self.started, 1e-9)
        speed = f"{rate:.1f} steps/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.1f} s/step"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=stage, rate=speed)
        else:
            left = (self.total - step) / max(rate, 1e-9)
            self.console.print(
                f"{stage}: step {step:,} of {self.total:,}, {speed}, {_duration(left)} left", markup=False
            )

    def say(self, text: str) -> None:
        """One plain line."""
        if not self.quiet:
            self.console.print(text, markup=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def warn(text: str) -> None:
    """A warning on standard error, whatever the progress display does."""
    print(f"warning: {text}", file=sys.stderr, flush=True)
