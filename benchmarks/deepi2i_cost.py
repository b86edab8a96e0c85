"""What a step of DeepI2I costs: time, floating point operations and peak memory of each phase.

    python benchmarks/deepi2i_cost.py --out cost.json [--device cuda] [--size 128] [--width 96] [--batch 32] [--accumulate 8]

Random pictures, random weights: neither changes the cost. Times are the median over --repeat steps after two for warming up, with the
device synchronised; operations are counted by torch.utils.flop_counter over one whole step (forward and backward, all updates; a
multiplication and an addition are two). Peak memory is the device's allocator's on a GPU, the process's largest resident size else.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unpaired import devices, training
from unpaired.config import from_dict
from unpaired.data.sampling import ArrayPool
from unpaired.planning import flop_counter
from unpaired.runs import build


def measure(args: argparse.Namespace, precision: str, mode: str) -> dict[str, Any]:
    """Figures of each phase."""
    config = from_dict(
        {
            "method": "deepi2i",
            "data": {"size": args.size, "cache": False},
            "training": {
                "device": args.device,
                "precision": precision,
                "accumulate": args.accumulate,
                "tensorboard": False,
            },
            "model": {"mode": mode, "transfer": [], "width": args.width, "batch_size": args.batch},
        }
    )
    rng = np.random.default_rng(0)
    names = tuple(f"class {i}" for i in range(args.classes))
    pool = ArrayPool({n: rng.integers(0, 255, (2, args.size, args.size, 3), dtype=np.uint8) for n in names})
    device = devices.choose_device(args.device)
    devices.set_for_training(precision, device)
    trainer = training.Trainer(
        build(config, names), pool, config, Path("unused"), held_out=None, header_extra={}, on_step=None, device=device,
        ranks=training.Ranks(), reporter=None,
    )  # fmt: skip
    batches = trainer.batches()
    found: dict[str, Any] = {}

    def step(stage: training.Stage) -> float:
        batch = next(batches)
        trainer.step += 1
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        trainer.run_step(stage, trainer.step - 1, batch)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    for stage in trainer.plan.stages:
        trainer.modes(stage)
        for _ in range(2):
            step(stage)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = [step(stage) for _ in range(args.repeat)]
        peak = (
            torch.cuda.max_memory_allocated()
            if device.type == "cuda"
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        with flop_counter() as counter:
            step(stage)
        found[stage.name] = {
            "seconds a step": statistics.median(seconds),
            "images a second": args.batch / statistics.median(seconds),
            "GFLOP a step": counter.get_total_flops() / 1e9,
            "peak GiB": peak / 2**30,
        }
    return found


def main() -> None:
    """Both precisions, transfer and scratch."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--device", default="auto")
    p.add_argument("--size", type=int, default=128)
    p.add_argument("--width", type=int, default=96)
    p.add_argument("--classes", type=int, default=149)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--accumulate", type=int, default=1)
    p.add_argument("--repeat", type=int, default=10)
    p.add_argument("--precisions", nargs="+", default=["fp32", "tf32", "bf16"])
    p.add_argument("--modes", nargs="+", default=["transfer", "scratch"])
    args = p.parse_args()
    device = devices.choose_device(args.device)
    results: dict[str, Any] = {"arguments": {k: str(v) for k, v in vars(args).items()}, "torch": torch.__version__}
    results["machine"] = (
        torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    )
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    results["commit"] = commit.stdout.strip()
    for mode in args.modes:
        for precision in args.precisions:
            if precision == "tf32" and device.type != "cuda":
                continue
            results[f"{mode} {precision}"] = measure(args, precision, mode)
            print(mode, precision, json.dumps(results[f"{mode} {precision}"]), flush=True)
            args.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
