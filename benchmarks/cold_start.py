"""How long `unpaired --help` takes, and the first translated picture from a cold start beside `import torch` alone.

    python benchmarks/cold_start.py [--rounds 7] [--preset unit-small] [--out cold_start.json]

A model with random weights and a picture of 256 × 256 pixels are written once. Then, in turns, each in a new process: ``python -c
"import torch"``, ``unpaired --help``, and ``unpaired translate``. The times are those of the clock and of the processor; the goals
are held against the latter where other programs keep all cores busy. Goals: help in 0.3 s, the first picture within 1.5 s of the import.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import Spread, arguments, machine
from PIL import Image

from unpaired import checkpoint
from unpaired.training import run as training_run

HELP_GOAL, PICTURE_GOAL = 0.3, 1.5


def write_model(preset: str, folder: Path) -> Path:
    """A shared model file with random weights."""
    config = training_run.resolve(preset=preset, settings={"seed": 0})
    method = training_run.build(config, ("a", "b"))
    return checkpoint.write_model(folder / "model.safetensors", method, checkpoint.make_header(method, config))


def took(command: list[str]) -> tuple[float, float]:
    """(seconds by the clock, seconds of processor) of a process and its children. Raises CalledProcessError."""
    before, start = os.times(), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    wall, after = time.perf_counter() - start, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, used


def main() -> None:
    """Take turns and print."""
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("--preset", default="unit-small")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cold-start-") as scratch:
        folder = Path(scratch)
        model, picture, out = write_model(options.preset, folder), folder / "in.png", folder / "out"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(picture)
        python = [sys.executable, "-m", "unpaired"]
        ways = {
            "import torch": [sys.executable, "-c", "import torch"],
            "--help": [*python, "--help"],
            "first picture": [*python, "translate", str(model), str(picture), "--to", "b", "--source", "a", "--out", str(out)],
        }  # fmt: skip
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for turn in range(options.warmup + options.rounds):
            for name, command in ways.items():
                shutil.rmtree(out, ignore_errors=True)
                times = took(command)
                if turn >= options.warmup:
                    found[name].append(times)
    rows = {}
    print("| what | clock, s | processor, s | goal, s |\n|---|---|---|---|")
    for name, times in found.items():
        rows[name] = {"wall": Spread.of([w for w, _ in times]), "cpu": Spread.of([c for _, c in times])}
    pairs = list(zip(found["first picture"], found["import torch"], strict=True))
    rows["first picture beyond the import"] = {
        "wall": Spread.of([a[0] - b[0] for a, b in pairs]),
        "cpu": Spread.of([a[1] - b[1] for a, b in pairs]),
    }
    clock = "cpu" if os.getloadavg()[0] > (os.cpu_count() or 1) else "wall"
    goals = {"--help": HELP_GOAL, "first picture beyond the import": PICTURE_GOAL}
    for name, row in rows.items():
        goal = goals.get(name)
        met = "" if goal is None else f"≤ {goal}: {'met' if row[clock].median <= goal else '**missed**'} ({clock})"
        print(f"| {name} | {row['wall'].text()} | {row['cpu'].text()} | {met} |")
    if options.out is not None:
        values = {name: {k: vars(s) for k, s in row.items()} for name, row in rows.items()}
        options.out.write_text(json.dumps({"machine": machine(), "rows": values, "preset": options.preset}, indent=1))


if __name__ == "__main__":
    main()
