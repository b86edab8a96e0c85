"""What `unpaired plan` predicts beside what the run then takes: time per step, time in all, peak memory.

    python benchmarks/plan.py DATA [--steps 40] [--rounds 1] [--clock cpu] [--out plan.json]

DATA is a folder of two domains. For each of three small presets the prediction and then the run take turns, each in a process of its
own, with one thread. Both are in the processor's seconds, which other programs hardly change; with ``--clock wall`` in those that a
person waits, for a free machine. Goal: within 15 %. Importing the packages is left out of both.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import Spread, arguments, machine

COMMON = {"data.size": 64, "data.resize": 72, "training.tensorboard": False, "training.device": "cpu"}
PRESETS: dict[str, dict[str, Any]] = {
    "unit-small": {},
    "attend-digits-cpu": {"model.weights": "random", "model.batch_size": 8},
    "biggan-small": {"model.batch_size": 4},
}
WITHIN = 0.15
TRAIN = """
import sys, json, time
from pathlib import Path
import unpaired, unpaired.training.loop
data, out, preset, settings, steps, clock = json.loads(sys.argv[1])
now = time.process_time if clock == "cpu" else time.perf_counter
began = now()
unpaired.train(data, out, preset=preset, settings=settings, steps=steps, quiet=True)
peak = 1024 * int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])
print(json.dumps([now() - began, peak]))
"""
PLAN = """
import sys, json, time, dataclasses
import unpaired, unpaired.training.planning
data, preset, settings, steps, clock = json.loads(sys.argv[1])
run = unpaired.training.run.resolve(preset=preset, settings=settings, steps=steps)
now = time.process_time if clock == "cpu" else time.perf_counter
cost = unpaired.training.planning.measure(run, data, clock=now)
print(json.dumps({**dataclasses.asdict(cost), "total_seconds": cost.total_seconds}))
"""


def child(code: str, *values: object) -> Any:
    """What the last line of a process says. Raises CalledProcessError."""
    command = [sys.executable, "-W", "ignore", "-c", code, json.dumps(values)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Plan, run, compare."""
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    parser.add_argument("--preset", nargs="*", default=list(PRESETS))
    options = parser.parse_args()
    data, found = str(options.data.resolve()), {}
    print(
        "| preset | steps | in all: predicted, s | taken, s | ratio | peak: predicted, MiB | taken, MiB | ratio |\n"
        + "|---" * 8
        + "|"
    )
    for preset in options.preset:
        settings = COMMON | PRESETS.get(preset, {})
        turns = []
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory(prefix="planned-") as scratch:
                asked = child(PLAN, data, preset, settings, options.steps, options.clock)
                run = str(Path(scratch) / "run")
                seconds, peak = child(TRAIN, data, run, preset, settings, options.steps, options.clock)
                turns.append({"predicted": asked, "seconds": seconds, "peak": peak})
        time_ratio = Spread.of([t["predicted"]["total_seconds"] / t["seconds"] for t in turns])
        peak_ratio = Spread.of([t["predicted"]["peak"] / t["peak"] for t in turns])
        last = turns[-1]
        verdict = ["" if abs(r.median - 1) <= WITHIN else " **missed**" for r in (time_ratio, peak_ratio)]
        print(
            f"| {preset} | {options.steps} | {last['predicted']['total_seconds']:.1f} | {last['seconds']:.1f} | {time_ratio.text()}{verdict[0]} | "
            f"{last['predicted']['peak'] / 2**20:.0f} | {last['peak'] / 2**20:.0f} | {peak_ratio.text()}{verdict[1]} |", flush=True,
        )  # fmt: skip
        found[preset] = turns
    if options.out is not None:
        options.out.write_text(
            json.dumps({"machine": machine(), "steps": options.steps, "clock": options.clock, "turns": found}, indent=1)
        )


if __name__ == "__main__":
    main()
