"""The figures that the fault suite is measured by, printed after the tests; how much of the suite runs.

``UNPAIRED_FAULTS`` is ``quick`` (part of `make test`), ``full`` (`make faults`) or ``long`` (`make faults-long`).
"""

from __future__ import annotations

import os
import time
from typing import Any, TypeVar

import pytest

LEVELS = ("quick", "full", "long")
LEVEL = os.environ.get("UNPAIRED_FAULTS", "quick")
if LEVEL not in LEVELS:
    raise pytest.UsageError(f"UNPAIRED_FAULTS={LEVEL}: one of {', '.join(LEVELS)}")
FIGURES = {
    "F1": "SIGKILLs that lose an acknowledged state",
    "F2": "flipped bits and truncations that load unnoticed",
    "F3": "cuts after which the finished run has the same bytes",
    "F4": "full disks and failing calls that keep the previous state",
    "F5": "hostile checkpoints: code run, memory, time",
    "F6": "dirty images classified as specified",
    "F7": "batch translation killed and run again",
    "F9": "phases in which a signal saves and leaves",
    "F10": "ranks killed, hung or raising",
    "F11": "non-finite values: when seen, what was saved",
    "F12": "time of this suite",
}
_began = time.monotonic()
_T = TypeVar("_T")


def pick(quick: _T, full: _T, long: _T | None = None) -> _T:
    """How much of something, by level."""
    return {"quick": quick, "full": full, "long": full if long is None else long}[LEVEL]


class Figure:
    """``figure("F1", "60 kills, …")``: one line of the summary. Works through pytest-xdist, too."""

    def __init__(self, node: pytest.Item) -> None:
        self._node = node

    def __call__(self, key: str, text: str) -> None:
        assert key in FIGURES, key
        self._node.user_properties.append(("figure", f"{key}\t{text}"))


def deselect(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked ``full`` at the quick level."""
    if LEVEL == "quick":
        out = [item for item in items if item.get_closest_marker("full")]
        items[:] = [item for item in items if not item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=out)


def summary(terminal: Any) -> None:
    """Print every figure; one that no test of this run measured is printed as that."""
    reports = [r for kind in ("passed", "failed") for r in terminal.stats.get(kind, []) if r.when == "call"]
    if not any("tests/faults/" in r.nodeid for r in reports):
        return
    found: dict[str, list[str]] = {key: [] for key in FIGURES}
    for report in reports:
        for name, value in report.user_properties:
            if name == "figure":
                key, text = value.split("\t", 1)
                found[key].append(text + ("" if report.passed else "  (FAILED)"))
    mine = [r for r in reports if "tests/faults/" in r.nodeid]
    failed = sum(r.failed for r in mine)
    spent = sum(r.duration for r in mine)
    found["F12"].append(
        f"{len(mine)} tests, {failed} failed, {spent:.0f} s in tests, {time.monotonic() - _began:.0f} s on the clock"
    )
    terminal.write_sep("=", f"figures of the fault suite, level {LEVEL}")
    for key, what in FIGURES.items():
        for text in found[key] or ["not measured in this run"]:
            terminal.write_line(f"{key:<4}{what}: {text}")
