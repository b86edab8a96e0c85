"""Cost of a training step of each stage of a preset: milliseconds, GFLOP, peak memory; random images and random weights.

    python benchmarks/steps.py attend-horse2zebra [--precision bf16] [--steps 10] [--stage NAME] [--set KEY=VALUE …]
    python benchmarks/steps.py cascade-zebra2giraffe --count

On a CPU the time is that of all threads together and of the clock (other programs disturb the latter), and the memory is
the process's peak; on a GPU the time is the clock's after synchronising, and the memory PyTorch's peak. FLOP are counted by
PyTorch's counter: 2 for each multiply-add, of convolutions and matrix products alone.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import resource
import subprocess
import time
from pathlib import Path

import torch
from flops import flop_counter
from harness import fresh, noise_pool

from unpaired import machine
from unpaired.batch import Batch
from unpaired.config import RunConfig, parse_assignments
from unpaired.data.sampling import Sampler
from unpaired.methods import method_class
from unpaired.training import loop
from unpaired.training import run as training_run


def count_flop(config: RunConfig, args: argparse.Namespace) -> None:
    """Print the FLOP of one step of each stage, a player that is due every k-th step counted as 1 / k."""
    plain = torch.autocast
    torch.autocast = lambda kind, **options: plain("cpu" if kind == "meta" else kind, **options)  # type: ignore[misc, assignment]
    with torch.device("meta"):
        names = ("a", "b")[: 2 if method_class(config.method).max_domains != 1 else 1]
        method = training_run.build(config, names)
        side = config.data.size
        for stage in method.stages():
            if not stage.name.startswith(args.stage):
                continue
            total = 0.0
            n = torch.zeros(stage.batch_size, dtype=torch.int64)
            images = [torch.zeros(stage.batch_size, 3, side, side) for _ in range(2)]
            batch = Batch(images[0], n, images[1], n)  # one for all players, who share what they make of it
            for update in stage.updates:
                method.eval().requires_grad_(False)
                for module in (*(m for u in stage.updates for m in u.modules), *stage.train_mode):
                    module.train()
                for module in update.modules:
                    module.requires_grad_(True)
                with flop_counter() as counter:
                    torch.stack(list(update.loss(*stage.arguments(batch)).values())).sum().backward()
                total += counter.get_total_flops() / update.every
            print(
                json.dumps(
                    {
                        "preset": args.preset,
                        "stage": stage.name,
                        "batch": stage.batch_size,
                        "gflop": round(total / 1e9, 1),
                    }
                )
            )


def main() -> None:
    """Parse, build, step through every stage, print one JSON object a stage."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("preset")
    p.add_argument("--precision", default="fp32", choices=("fp32", "tf32", "bf16"))
    p.add_argument("--device", default="auto")
    p.add_argument("--steps", type=int, default=10, help="measured, rounded up to whole rounds of the players")
    p.add_argument(
        "--count", action="store_true", help="FLOP alone, of tensors without contents: any size on any machine"
    )
    p.add_argument(
        "--channels-last", action="store_true", help="weights in this memory format, which `place` gives on CPUs alone"
    )
    p.add_argument("--stage", default="", help="only stages whose name starts with this")
    p.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    args = p.parse_args()
    settings = {"training.precision": args.precision, "training.device": args.device, **parse_assignments(args.set)}
    config = training_run.resolve(preset=args.preset, settings=settings)
    if args.count:
        count_flop(config, args)
        return
    device = machine.choose_device(args.device)
    machine.set_for_training(args.precision, device)
    source = getattr(config.model, "source", "") or "a"
    names = tuple(sorted((source, "b" if source != "b" else "c")))[
        : 1 if method_class(config.method).max_domains == 1 else 2
    ]
    pool = noise_pool(config, names)
    method = training_run.build(config, names)
    trainer = loop.Trainer(method, pool, config, Path("unused"), device=device)
    if args.channels_last:
        method.to(memory_format=torch.channels_last)
    sampler = Sampler(pool, config.data, method.pairs, config.seed, reads=method.reads)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    cuda = device.type == "cuda"
    about = {
        "preset": args.preset, "precision": args.precision, "n": args.steps, "torch": torch.__version__, "commit": commit,
        "machine": torch.cuda.get_device_name() if cuda else f"{platform.machine()}, {torch.get_num_threads()} threads",
    }  # fmt: skip
    for stage in trainer.state.plan.stages:
        if not stage.name.startswith(args.stage):
            continue
        if stage.start is not None:
            stage.start()
        trainer.modes(stage)
        batch = sampler.batch(1, stage.batch_size).to(device)
        period = math.lcm(*(update.every for update in stage.updates))

        def step(stage: loop.Stage = stage, batch: loop.Batch = batch) -> None:
            trainer.state.step += 1
            trainer.run_step(stage, trainer.state.step - 1, fresh(batch))

        trainer.state.step = period - 1  # all players are due: what matters is which updates fall on a step
        step()
        with flop_counter() as counter:
            for _ in range(period):
                step()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        wall, processor = time.perf_counter(), time.process_time()
        count = -(-args.steps // period) * period
        for _ in range(count):
            step()
        if cuda:
            torch.cuda.synchronize()
        wall, processor = (time.perf_counter() - wall) / count, (time.process_time() - processor) / count
        peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        figures = {
            "stage": stage.name, "batch": stage.batch_size, "ms": round(1e3 * wall, 1), "cpu_ms": round(1e3 * processor, 1),
            "gflop": round(counter.get_total_flops() / period / 1e9, 1), "peak_mib": round(peak / 2**20),
        }  # fmt: skip
        print(json.dumps({**about, **figures}), flush=True)


if __name__ == "__main__":
    main()
