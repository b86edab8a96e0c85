"""The one harness of all speed figures: ways of doing the same work take turns, and what counts is their ratio within a turn.

A busy or throttled machine slows the ways of one turn alike, so ratios within turns hold where times alone do not. After
``warmup`` turns that are not counted come ``rounds`` turns of A B C A B C …; a matrix product in the same precision, as large
as a cache allows, is one more way in each turn and gives the ceiling. Medians come with their quartiles.

On a CPU with one thread the clock is the processor's (``cpu``): what other programs take is left out. With more threads, and on
a GPU (after synchronising), it is the wall's (``wall``). Memory is what a way needed at its peak beyond what was held before.

    turns = interleave({"reference": slow, "ours": fast}, rounds=7, precision="fp32")
    row = compare("step", turns, ways=("reference", "ours"), goal=1.2, gflop=count_gflop)
    write([row], Path("out.json"))    # and prints the Markdown table
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flops import flop_counter

from unpaired.batch import Batch
from unpaired.config import RunConfig
from unpaired.data.sampling import ArrayPool
from unpaired.machine import has_bf16, products

CEILING = "ceiling"
SIDE = {"cpu": 1024, "cuda": 8192}
"""Of the square matrices whose product is the ceiling: 12 MiB of float32 on a CPU, enough to fill a GPU."""


@dataclass(frozen=True)
class Spread:
    """Median, quartiles (the values themselves where there are fewer than four) and how many."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value. Quartiles are interpolated between values, the extremes included."""
        if len(values) < 4:
            return cls(statistics.median(values), min(values), max(values), len(values))
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high, len(values))

    def text(self, digits: int = 2) -> str:
        """``1.52 (1.48–1.55)``."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}–{self.high:.{digits}f})"


@dataclass
class Turns:
    """Seconds of each way, turn by turn, and what was measured once: GFLOP, MiB."""

    seconds: dict[str, list[float]]
    clock: str
    gflop: dict[str, float] = field(default_factory=dict)
    mib: dict[str, float] = field(default_factory=dict)
    precision: dict[str, str] = field(default_factory=dict)

    def ratio(self, slow: str, fast: str) -> Spread:
        """How many times faster ``fast`` is than ``slow``, within turns."""
        return Spread.of([a / b for a, b in zip(self.seconds[slow], self.seconds[fast], strict=True)])

    def share(self, way: str) -> Spread:
        """The way's GFLOP a second as a share of what the matrix product of its precision reached in the same turn."""
        ceiling = f"{CEILING} {self.precision[way]}"
        whole = self.gflop[ceiling] / self.gflop[way]
        return Spread.of([s / c / whole for c, s in zip(self.seconds[way], self.seconds[ceiling], strict=True)])


def interleave(
    ways: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 1,
    precision: Mapping[str, str] | str = "fp32",
    device: torch.device | str = "cpu",
    count: bool = True,
    clock: str | None = None,
) -> Turns:
    """Time ``ways`` in turns.

    Args:
        ways: by name; each does the same work once.
        rounds, warmup: counted turns, and those before them.
        precision: of all ways, or of each: which ceiling it is held against (fp32, tf32, bf16).
        count: FLOP and memory of each way, in one call of their own after warming up.
        clock: ``cpu`` or ``wall``; None chooses as the module says.
    """
    device = torch.device(device)
    kinds = dict.fromkeys(ways, precision) if isinstance(precision, str) else dict(precision)
    everything = dict(ways) | {f"{CEILING} {kind}": product(kind, device) for kind in dict.fromkeys(kinds.values())}
    clock = clock or ("cpu" if device.type == "cpu" and torch.get_num_threads() == 1 else "wall")
    now = time.process_time if clock == "cpu" else time.perf_counter
    turns = Turns({name: [] for name in everything}, clock, precision=kinds)
    for name, way in everything.items():
        for _ in range(warmup):
            way()
        if count:
            turns.gflop[name], turns.mib[name] = cost_of(way, device)
    for _ in range(rounds):
        for name, way in everything.items():
            synchronise(device)
            start = now()
            way()
            synchronise(device)
            turns.seconds[name].append(now() - start)
    return turns


def cost_of(way: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """GFLOP of a call, and MiB at the peak of another."""
    with flop_counter() as counter:
        way()
    if "torch._dynamo" in sys.modules:  # under a counter compiled code runs as it is written, and would go on so
        torch._dynamo.reset()
    way()
    return counter.get_total_flops() / 1e9, peak_mib(way, device)


def noise_pool(config: RunConfig, names: Sequence[str], count: int = 8) -> ArrayPool:
    """``count`` images of noise for each domain, of the size from which a run of ``config`` takes its crops."""
    side, rng = config.data.resize or config.data.size, np.random.default_rng(0)
    return ArrayPool({d: rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8) for d in names})


def fresh(batch: Batch) -> Batch:
    """The same images in new memory, as every step of a training has them: nothing that was kept of them counts."""
    return batch._map(torch.clone)


def product(precision: str, device: torch.device) -> Callable[[], object]:
    """A square matrix product in ``precision``: the ceiling."""
    side = SIDE[device.type]
    kind = torch.bfloat16 if precision == "bf16" else torch.float32  # of that type before, so that no cast is timed
    a, b = torch.randn(2, side, side, device=device).to(kind).unbind(0)

    def way() -> object:
        with torch.no_grad(), products(precision):
            return a @ b

    return way


def synchronise(device: torch.device) -> None:
    """Wait for a GPU; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_mib(way: Callable[[], object], device: torch.device) -> float:
    """MiB that one call of ``way`` needs beyond what is held before; NaN where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        way()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    try:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # glibc gives back what is free: else the next call finds it there
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
        before = resident_mib("VmRSS")
        way()
        return resident_mib("VmHWM") - before
    except (OSError, IndexError):
        return float("nan")


def resident_mib(which: str = "VmHWM") -> float:
    """MiB resident now (``VmRSS``) or at the peak (``VmHWM``) of this process. Raises OSError where there is no /proc."""
    return int(Path("/proc/self/status").read_text("ascii").split(f"{which}:")[1].split()[0]) / 1024


@dataclass(frozen=True)
class Row:
    """One row of a table: work, ways, ratios to the first, the goal, and why it was missed if it was."""

    work: str
    ways: dict[str, dict[str, Any]]
    speedup: dict[str, Spread]
    goal: float | None
    clock: str
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the last way's median ratio reaches the goal; None without one."""
        return None if self.goal is None else list(self.speedup.values())[-1].median >= self.goal


def compare(work: str, turns: Turns, *, ways: Sequence[str], goal: float | None = None, note: str = "") -> Row:
    """A row of ``ways``, the first being what the others are compared with."""
    about: dict[str, dict[str, Any]] = {}
    for way in ways:
        about[way] = {"ms": asdict(Spread.of([1e3 * s for s in turns.seconds[way]])), "precision": turns.precision[way]}
        if way in turns.gflop:
            counted = turns.gflop[way] > 0
            about[way] |= {"gflop": turns.gflop[way], "mib": turns.mib[way]}
            about[way] |= {"ceiling_share": asdict(turns.share(way))} if counted else {}
    return Row(work, about, {way: turns.ratio(ways[0], way) for way in ways[1:]}, goal, turns.clock, note)


HEAD = "| work | way | precision | ms | × first way | goal | GFLOP | of the ceiling | MiB |\n|---|---|---|---|---|---|---|---|---|"


def markdown(row: Row) -> str:
    """Lines of the table under ``HEAD``, one a way; medians and quartiles."""
    lines = []
    for i, (name, way) in enumerate(row.ways.items()):
        ratio = row.speedup[name].text() if name in row.speedup else "1"
        last = i == len(row.ways) - 1
        goal = f"≥ {row.goal:g}: {'met' if row.met else '**missed**'}" if last and row.goal is not None else ""
        share = f"{way['ceiling_share']['median']:.0%}" if "ceiling_share" in way else ""
        flop, mib = (f"{way[k]:,.1f}" if k in way else "" for k in ("gflop", "mib"))
        work = row.work if i == 0 else ""
        ms = Spread(**way["ms"]).text(1)
        lines.append(f"| {work} | {name} | {way['precision']} | {ms} | {ratio} | {goal} | {flop} | {share} | {mib} |")
    if row.note:
        lines[-1] = lines[-1][:-1] + f"{row.note} |"
    return "\n".join(lines)


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Where and on what code a figure was taken."""
    device = torch.device(device)
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, IndexError):
        model = Path("/proc/cpuinfo").read_text("utf-8").split("model name")[1].split(":", 1)[1].splitlines()[0].strip()
    here = {"capture_output": True, "text": True, "check": False, "cwd": Path(__file__).parent}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], **here).stdout.strip()
    changed = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], **here).stdout.strip()
    return {
        "cpu": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "bf16_units": has_bf16(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None, "torch": torch.__version__,
        "commit": commit + ("+" if changed else ""), "load": os.getloadavg()[0],
    }  # fmt: skip


def write(rows: Iterable[Row], out: Path | None, **about: Any) -> None:
    """Print the table; rows, machine and ``about`` into ``out`` as JSON."""
    rows = list(rows)
    print("\n".join([HEAD, *map(markdown, rows)]), flush=True)
    if out is not None:
        values = [asdict(row) | {"met": row.met} for row in rows]
        out.write_text(json.dumps({"machine": machine(about.get("device", "cpu")), **about, "rows": values}, indent=1))


def arguments(doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """A parser with what all benchmarks take."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="counted turns")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser
