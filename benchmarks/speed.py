"""Milliseconds of a training step of each stage, or of a translation, and what share of a matrix product's speed that
is.

    python benchmarks/speed.py unit-small [STAGE] [--set KEY=VALUE ...]           each stage, in the precision that auto
    picks python benchmarks/speed.py unit-small --translate 8                           a batch of 8 translated python
    benchmarks/speed.py attend-horse2zebra-128 joint --without norm channels_last   what each kernel brings

Random images and weights: neither changes the cost. Ways take turns within one process, beside a matrix product of the
same precision (the ceiling): what slows the machine slows a turn's ways alike, so ratios within turns hold. Medians,
quartiles in brackets. OMP_NUM_THREADS=1 makes the clock the processor's, which other programs disturb least; with more
threads and on a GPU it is the wall's.

``--without memory`` is a property of the whole process: compare two calls, one with it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from flops import flop_counter
from torch import Tensor

from unpaired import losses, machine
from unpaired.cli import keep_memory
from unpaired.config import parse_assignments
from unpaired.data.sampling import ArrayPool, Sampler
from unpaired.methods import method_class
from unpaired.methods.base import Method
from unpaired.methods.levels import LevelMethod
from unpaired.networks import kernels, pyramid, stylegan
from unpaired.training import loop
from unpaired.training import run as training_run
from unpaired.translate.translator import Translator

Step = Callable[[], object]
SIDE = {"cpu": 1024, "cuda": 8192}
"""Of the square matrices whose product is the ceiling: 12 MiB of float32 on a CPU, enough to fill a GPU."""
KERNELS = ("norm", "channels_last", "slopes", "held", "memory")
plain_penalty = losses.gradient_penalty


def plain_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """PyTorch's own, in contiguous memory: in the other format its gradient is wrong for a batch of one image."""
    y = F.instance_norm(x.contiguous(), eps=eps)
    if y.requires_grad:
        y.register_hook(lambda gradient: gradient.contiguous())
    return y


def automatic_slopes(critic: Any, real: Tensor, fake: Tensor, slopes: Any = None) -> Tensor:
    """The gradient penalty with the critic differentiated twice."""
    return plain_penalty(critic, real, fake)


@contextlib.contextmanager
def without(kernel: str) -> Iterator[None]:
    """Inside, one kernel is its plain form. ``channels_last`` counts where a method is placed, the others where it
    runs."""
    with contextlib.ExitStack() as stack:
        if kernel == "norm":
            for module in (kernels, pyramid, stylegan):
                stack.enter_context(patch.object(module, "instance_norm", plain_norm))
        elif kernel == "slopes":
            stack.enter_context(patch.object(losses, "gradient_penalty", automatic_slopes))
        elif kernel == "held":
            stack.enter_context(patch.object(kernels.Held, "__call__", lambda _: contextlib.nullcontext()))
        elif kernel == "channels_last":
            stack.enter_context(patch.object(Method, "place", lambda self, device: self.to(device)))
        yield


def configured(preset: str, precision: str, device: str, settings: Sequence[str]) -> tuple[Any, tuple[str, ...]]:
    """A run's settings, and the names of its domains."""
    values = parse_assignments(list(settings)) | {"training.precision": precision, "training.device": device}
    config = training_run.resolve(preset=preset, settings=values)
    source = getattr(config.model, "source", "") or "a"
    return config, (source, source + "2")[: 1 if method_class(config.method).domain_count[1] == 1 else 2]


def steps_of(
    preset: str, stage: str, precision: str, settings: Sequence[str], device: str = "cpu"
) -> Iterator[tuple[str, Step, int]]:
    """Of each stage whose name starts with ``stage``: what it is, a whole round of its players, and how many steps that
    is."""
    config, names = configured(preset, precision, device, settings)
    place = machine.choose_device(device)
    machine.set_for_training(precision, place)
    side, rng = config.data.resize or config.data.size, np.random.default_rng(0)
    pool = ArrayPool({name: rng.integers(0, 256, (8, side, side, 3), dtype=np.uint8) for name in names})
    torch.manual_seed(0)
    method = training_run.build(config, names)
    trainer = loop.Trainer(method, pool, config, Path("unused"), device=place)
    for part in trainer.state.plan.stages:
        if not part.name.startswith(stage):
            continue
        if part.start is not None:
            part.start()
        trainer.modes(part)
        batch = (
            Sampler(pool, config.data, method.pairs, config.seed, reads=method.reads)
            .batch(1, part.batch_size)
            .to(place)
        )
        period = math.lcm(*(update.every for update in part.updates))

        def one_round(part: Any = part, batch: Any = batch, period: int = period) -> None:
            trainer.state.step = period - 1
            for _ in range(period):
                trainer.state.step += 1
                trainer.run_step(part, period - 1, batch._map(torch.clone))  # new memory, as every step has

        yield f"{preset} {part.name}, batch {part.batch_size}", one_round, period


def translation_of(
    preset: str, batch: int, precision: str, settings: Sequence[str], device: str = "cpu"
) -> Iterator[tuple[str, Step, int]]:
    """The translation of a batch, as every command does it."""
    config, names = configured(preset, precision, device, settings)
    torch.manual_seed(0)
    method = training_run.build(config, names).eval()
    if isinstance(method, LevelMethod):
        method.reached.fill_(len(method.config.levels))  # all of them are in use
    translator = Translator(method, {}, device=device, precision=precision)
    images = torch.rand(batch, 3, method.image_size, method.image_size) * 2 - 1
    source, target = method.directions[0]
    yield f"{preset} translates {batch}", lambda: translator.translate(images, source, target, seed=0), 1


def ceiling(precision: str, device: torch.device) -> Step:
    """A square matrix product."""
    side = SIDE[device.type]
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn(2, side, side, device=device).to(kind).unbind(0)

    def way() -> Tensor:
        with torch.no_grad(), machine.products(precision):
            return a @ b

    return way


def measured(ways: dict[str, Step], rounds: int, device: torch.device) -> dict[str, tuple[list[float], float]]:
    """Seconds of each way, turn by turn, and its GFLOP."""
    processor = device.type == "cpu" and torch.get_num_threads() == 1
    now = time.process_time if processor else time.perf_counter
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    found: dict[str, tuple[list[float], float]] = {}
    for name, way in ways.items():
        way()
        with flop_counter() as counter:
            way()
        found[name] = [], counter.get_total_flops() / 1e9
    for _ in range(rounds):
        for name, way in ways.items():
            wait()
            start = now()
            way()
            wait()
            found[name][0].append(now() - start)
    return found


def text(values: Sequence[float], digits: int = 2) -> str:
    """``1.52 (1.48-1.55)``: median and quartiles; up to three values have their extremes."""
    low, middle, high = min(values), statistics.median(values), max(values)
    if len(values) > 3:
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def main() -> None:
    """Measure what was asked for; a Markdown table, and JSON with ``--out``."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("preset")
    p.add_argument("stage", nargs="?", default="")
    p.add_argument("--translate", type=int, metavar="BATCH")
    p.add_argument("--without", nargs="*", default=[], choices=KERNELS)
    p.add_argument("--precision", default="auto", choices=("auto", "fp32", "tf32", "bf16"))
    p.add_argument("--device", default="cpu")
    p.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--out", type=Path)
    args = p.parse_args()
    device = machine.choose_device(args.device)
    precision = machine.choose_precision(args.precision, device)
    if "memory" not in args.without:
        keep_memory()
    names = ["ours", *(f"without {k}" for k in args.without if k != "memory")]
    given = (precision, args.set, args.device)
    made: list[list[tuple[str, Step, int]]] = []
    for name in names:
        with without(name.removeprefix("without ")):
            found_here = (
                translation_of(args.preset, args.translate, *given)
                if args.translate
                else steps_of(args.preset, args.stage, *given)
            )
            made.append(list(found_here))
    rows = []
    print("| work | way | precision | ms | x ours | GFLOP | of the ceiling |\n|---|---|---|---|---|---|---|")
    for stage in zip(*made, strict=True):
        ways: dict[str, Step] = {}
        for name, (_, step, _) in zip(names, stage, strict=True):

            def way(step: Step = step, kernel: str = name.removeprefix("without ")) -> None:
                with without(kernel):
                    step()

            ways[name] = way
        found = measured(ways | {"ceiling": ceiling(precision, device)}, args.rounds, device)
        top, top_flop = found.pop("ceiling")
        about, _, period = stage[0]
        for name, (seconds, gflop) in found.items():
            ratio = [a / b for a, b in zip(seconds, found["ours"][0], strict=True)]
            share = statistics.median(gflop / s / (top_flop / c) for s, c in zip(seconds, top, strict=True))
            ms = [1e3 * s / period for s in seconds]
            print(
                f"| {about} | {name} | {precision} | {text(ms, 1)} | {text(ratio)} | "
                f"{gflop / period:,.1f} | {share:.0%} |",
                flush=True,
            )
            rows.append({"work": about, "way": name, "ms": ms, "ratio": ratio, "gflop": gflop / period, "share": share})
    if args.out is not None:
        git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
        about_here = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
        about_here |= {"torch": torch.__version__, "commit": commit, "precision": precision}
        args.out.write_text(json.dumps(about_here | {"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
