"""What a run says: a JSON-lines file, TensorBoard where installed, and progress on the terminal."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from unpaired.checkpoint import save_error, write_atomic
from unpaired.config import Options

PLAIN_SECONDS = 10.0
"""Without a terminal a progress line is printed at most this often."""
FILE = "origin.json"
"""A note beside a run: where its images are and the command that began it. Reports read it; the shareable model does
not hold it, since paths are nobody else's business."""


class RunLog:
    """``log.jsonl`` of a run: one object a line with ``step``, ``stage`` and scalars. Lines after ``step`` are dropped
    on resume, so that the log is the one of an uninterrupted run."""

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
        """Write a uint8 [H, W, 3] picture for TensorBoard."""
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
                    f"TensorBoard's log cannot be written ({error.strerror or error}); going on without it, log.jsonl "
                    "has everything"
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
                f"{stage}: step {step:,} of {self.total:,}, {speed}, {duration(left)} left", markup=False
            )

    def say(self, text: str) -> None:
        """One plain line."""
        if not self.quiet:
            self.console.print(text, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Return ``42 s``, ``3 min 20 s``, ``2 h 05 min`` or ``3 d 04 h``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24:02d} h"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def warn(text: str) -> None:
    """Print a warning on standard error, whatever the progress display does."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


# ----------------------------------------------------------------------------------------------------
# The GAN watch: one plain warning each for the usual ways in which adversarial training goes wrong. It never stops a
# run.

WON_ACCURACY = 0.98
"""Sign accuracy above which a discriminator is winning outright."""
WON_LOGS = 20
"""Consecutive log lines above it before a warning: a discriminator may lead for a while."""
CONSTANT_SPREAD = 0.01
"""Mean standard deviation over a batch of outputs, in units of the range [-1, 1], below which they are all alike."""
SAME_DIFFERENCE = 0.005
"""Mean absolute difference to the input, same units (under one grey level of 255), below which nothing was
translated."""
INVERTED_CORRELATION = -0.5
"""Correlation of outputs and inputs below which the colours are turned round: a cycle loss alone does not mind that."""


class Watch:
    """Looks at logged values and at fixed samples; returns warnings, each kind once a run (kept across resume)."""

    def __init__(self) -> None:
        self.won: dict[str, int] = {}
        self.said: set[str] = set()

    def _new(self, warnings: Mapping[str, str]) -> list[str]:
        """Those of the texts by kind that have not been said yet."""
        found = [text for kind, text in warnings.items() if kind not in self.said]
        self.said |= warnings.keys()
        return found

    def logged(self, values: Mapping[str, float]) -> list[str]:
        """Call with the values of one log line; keys ending in ``sign_accuracy`` are in [0, 1]."""
        warnings = {}
        for key, value in values.items():
            if key.endswith("sign_accuracy"):
                self.won[key] = self.won.get(key, 0) + 1 if value > WON_ACCURACY else 0
                if self.won[key] >= WON_LOGS:
                    player = key.removesuffix("sign_accuracy").rstrip("/") or "discriminator"
                    warnings["won"] = (
                        f"{player} tells real from translated almost always ({value:.2f}) for {WON_LOGS} log lines: "
                        "the generator learns little from it. Try fewer discriminator layers, a lower rate, or more "
                        "images."
                    )
        return self._new(warnings)

    def sampled(self, inputs: Tensor, outputs: Tensor, direction: tuple[str, str]) -> list[str]:
        """Call with held-out inputs and their translations, [N, 3, H, W] in [-1, 1]; not meant for an untrained
        model."""
        warnings = {}
        name = f"{direction[0]} → {direction[1]}"
        x, y = inputs.float(), outputs.float()
        there, spread = (t.std(dim=0, correction=0).mean().item() for t in (x, y))
        if len(y) > 1 and spread < CONSTANT_SPREAD < there:
            warnings["constant"] = (
                f"{name}: all outputs look alike (spread {spread:.4f}): the translator has collapsed, or after few "
                "steps has hardly begun. If they stay so, start again with another seed or a lower rate."
            )
        difference = (y - x).abs().mean().item()
        if difference < SAME_DIFFERENCE:
            warnings["same"] = (
                f"{name}: the output equals the input (mean difference {difference:.4f}): nothing is translated yet. "
                "Check that the domains differ."
            )
        x, y = (t.flatten() - t.mean() for t in (x, y))
        correlation = float((x @ y) / (x.norm() * y.norm()).clamp_min(1e-12))
        if correlation < INVERTED_CORRELATION:
            warnings["inverted"] = (
                f"{name}: the output is the input with its colours inverted (correlation {correlation:.2f}): both "
                "directions can agree on that. Unless the domains are so, start again with another seed."
            )
        return self._new(warnings)

    def state(self) -> dict[str, Any]:
        """JSON-ready state for a checkpoint."""
        return {"won": dict(sorted(self.won.items())), "said": sorted(self.said)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state` gave."""
        self.won, self.said = dict(state["won"]), set(state["said"])


def typed(name: str, options: Options, *places: Path | str, **named: Path | str | None) -> str:
    """Write the command ``unpaired NAME PLACES --NAMED value OPTIONS`` that does the same again."""
    parts = ["unpaired", name, *map(str, places)]
    for option, value in named.items():
        parts += [f"--{option}", str(value)] if value is not None else []
    return f"{shlex.join(parts)} {options.typed('quiet', 'allow_change', *named)}".strip()


def about(
    data: Path | str | Mapping[str, Path | str], typed: str, held_out: Mapping[str, Path | str] | None = None
) -> dict[str, Any]:
    """Return what :func:`write` keeps: absolute paths (one folder, or one for each domain) and the command."""

    def whole(place: Path | str | Mapping[str, Path | str]) -> Any:
        if isinstance(place, Mapping):
            return {k: whole(v) for k, v in place.items()}
        return str(Path(place).absolute())

    return {"command": typed, "data": whole(data)} | ({"held_out": whole(held_out)} if held_out else {})


def write(run_dir: Path, origin: Mapping[str, Any]) -> None:
    """Keep the note. A resumed run keeps its first command, which may have said more. Raises StoppedError."""
    path = run_dir / FILE
    try:
        first = json.loads(path.read_text(encoding="utf-8"))["command"]
    except (OSError, ValueError, KeyError, TypeError):
        first = origin["command"]
    write_atomic(path, (json.dumps({**origin, "command": first}, indent=1) + "\n").encode())
