"""What `unpaired plan` predicts beside what the run then takes: time per step, time in all, peak memory.

    python benchmarks/plan.py DATA [--steps 40] [--rounds 1] [--out plan.json]

DATA is a folder of two domains. For each of three small presets ``plan`` and then the run take turns, so that a busy machine slows
both alike; the run is a process of its own, begun by the command. One thread. Goal: within 15 %. The time of a run is that of its
process less that of importing the packages, which plan does not count.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import Spread, arguments, machine

COMMON = {"data.size": 64, "data.resize": 72, "training.tensorboard": False, "training.device": "cpu"}
PRESETS: dict[str, dict[str, Any]] = {
    "unit-small": {},
    "attend-digits-cpu": {"model.weights": "random"},
    "biggan-small": {},
}
WITHIN = 0.15
TRAIN = """
import sys, json, time
from pathlib import Path
import unpaired, unpaired.training
data, out, preset, settings, steps = json.loads(sys.argv[1])
began = time.perf_counter()
unpaired.train(data, out, preset=preset, settings=settings, steps=steps, quiet=True)
peak = 1024 * int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])
print(json.dumps([time.perf_counter() - began, peak]))
"""
PLAN = """
import sys, json
import unpaired
data, preset, settings, steps = json.loads(sys.argv[1])
found = unpaired.plan(preset, data, settings=settings, steps=steps)
print(json.dumps(found.to_dict()["asked"]))
"""


def child(code: str, *values: object) -> Any:
    """What the last line of a process says. Raises CalledProcessError."""
    command = [sys.executable, "-W", "ignore", "-c", code, json.dumps(values)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Plan, run, compare."""
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=40)
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
                asked = child(PLAN, data, preset, settings, options.steps)
                began = time.perf_counter()
                seconds, peak = child(TRAIN, data, str(Path(scratch) / "run"), preset, settings, options.steps)
                turns.append({
                    "predicted_seconds": asked["total_seconds"], "seconds": seconds, "process_seconds": time.perf_counter() - began,
                    "predicted_step": [s["seconds"] for s in asked["stages"]], "predicted_peak": asked["peak"], "peak": peak,
                })  # fmt: skip
        time_ratio = Spread.of([t["predicted_seconds"] / t["seconds"] for t in turns])
        peak_ratio = Spread.of([t["predicted_peak"] / t["peak"] for t in turns])
        last = turns[-1]
        verdict = ["" if abs(r.median - 1) <= WITHIN else " **missed**" for r in (time_ratio, peak_ratio)]
        print(
            f"| {preset} | {options.steps} | {last['predicted_seconds']:.1f} | {last['seconds']:.1f} | {time_ratio.text()}{verdict[0]} | "
            f"{last['predicted_peak'] / 2**20:.0f} | {last['peak'] / 2**20:.0f} | {peak_ratio.text()}{verdict[1]} |", flush=True,
        )  # fmt: skip
        found[preset] = turns
    if options.out is not None:
        options.out.write_text(json.dumps({"machine": machine(), "steps": options.steps, "turns": found}, indent=1))


if __name__ == "__main__":
    main()
