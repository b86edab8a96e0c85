"""The harness of the speed figures: its statistics, its turns, its table. No time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import harness
import pytest
import torch
from harness import Spread, Turns

BENCHMARKS = Path(harness.__file__).parent


def test_a_spread_is_median_and_quartiles() -> None:
    """Quartiles are interpolated between the values; three values or fewer give their extremes."""
    assert Spread.of([5, 1, 3, 2, 4]) == Spread(3, 2, 4, 5)
    assert Spread.of([3, 1]) == Spread(2, 1, 3, 2)


def test_ratios_are_taken_within_turns() -> None:
    """A turn in which the machine is ten times slower does not move the ratio."""
    turns = Turns({"slow": [2, 20, 2.2], "fast": [1, 10, 1]}, "cpu")
    assert turns.ratio("slow", "fast") == Spread(2, 2, 2.2, 3)


def test_the_share_of_the_ceiling_is_a_ratio_of_rates() -> None:
    """1 GFLOP in 2 s beside a product of 4 GFLOP in 1 s is an eighth of the ceiling."""
    turns = Turns(
        {"a": [2.0], "ceiling fp32": [1.0]}, "cpu", gflop={"a": 1, "ceiling fp32": 4}, precision={"a": "fp32"}
    )
    assert turns.share("a").median == pytest.approx(1 / 8)


def test_ways_take_turns_and_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After warming up and counting, calls alternate; FLOP are those of the work; table and JSON hold what was asked."""
    calls: list[str] = []
    x = torch.ones(8, 8)

    def product(name: str, times: int) -> None:
        calls.append(name)
        for _ in range(times):
            x @ x

    ways = {"a": lambda: product("a", 2), "b": lambda: product("b", 1)}
    turns = harness.interleave(ways, rounds=2, warmup=1, clock="wall")
    assert calls == ["a"] * 4 + ["b"] * 4 + ["a", "b"] * 2
    assert (turns.gflop["a"], turns.gflop["b"]) == (2 * 2 * 8**3 / 1e9, 2 * 8**3 / 1e9)
    assert all(len(values) == 2 for values in turns.seconds.values()), "the ceiling takes its turn, too"
    row = harness.compare("work", turns, ways=("a", "b"), goal=1e9)
    harness.write([row], tmp_path / "out.json", seed=3)
    written = json.loads((tmp_path / "out.json").read_text())
    assert (written["seed"], written["rows"][0]["met"]) == (3, False)
    assert {"cpu", "cores", "threads", "bf16_units", "torch", "commit"} <= set(written["machine"])
    assert "≥ 1e+09: **missed**" in capsys.readouterr().out


def test_every_benchmark_can_be_imported() -> None:
    """A benchmark that a change elsewhere has broken is found before the day it is needed."""
    names = sorted(p.stem for p in BENCHMARKS.glob("*.py"))
    assert "training_speed" in names
    found = subprocess.run(
        [sys.executable, "-c", "import " + ", ".join(names)], cwd=BENCHMARKS, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr


def test_what_is_compiled_is_timed_compiled() -> None:
    """Counting FLOP and memory does not leave compiled code running as it is written."""
    torch._dynamo.reset()
    ran = []

    def backend(graph: Any, _: Any) -> Any:
        def run(*given: Any) -> Any:
            ran.append(True)
            return graph.forward(*given)

        return run

    a = torch.ones(4, 4)
    way = torch.compile(lambda: a @ a, backend=backend)
    way()
    harness.cost_of(way, torch.device("cpu"))
    before = len(ran)
    way()
    assert len(ran) == before + 1
