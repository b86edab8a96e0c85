"""Translated images a second against the way the official code runs: eager, contiguous, fp32, no_grad, PyTorch's instance norm.

    python benchmarks/translation_speed.py [--preset unit-horse2zebra-128 …] [--shape 1x256 16x128] [--precision fp32] [--out translation.json]

Random weights: they cost what trained ones do. Ways: ``reference``; ``ours, openvino`` is `Translator.translate` as `unpaired translate
--engine openvino` calls it, left out where that is not installed; ``ours, compile`` (with ``--compile``) as `--engine compile` does; ``ours`` is the same with PyTorch alone. With ``--precision bf16`` the reference also runs under plain
autocast, and ours is ``precision="bf16"``. Each way has a process of its own, as memory kept by one would help the others. One
thread unless ``--threads`` says otherwise. The results are compared once, before the timing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace

import torch
from apart import interleave_apart
from harness import arguments, compare, write
from training_speed import plain

from unpaired._memory import keep_memory
from unpaired.machine import autocast, has_bf16
from unpaired.methods.base import Method
from unpaired.methods.levels import LevelMethod
from unpaired.training import run as training_run
from unpaired.translate.translator import Translator

GOALS = {"fp32": 1.25, "bf16": 6.0}
AUTOCAST_GOAL = 2.0


def method_of(preset: str) -> tuple[Method, str, str]:
    """A method with random weights from seed 0, and its first direction."""
    torch.manual_seed(0)
    method = training_run.build(training_run.resolve(preset=preset, settings={"seed": 0}), ("a", "b")).eval()
    if isinstance(method, LevelMethod):
        method.reached.fill_(len(method.config.levels))  # all of them are in use
    return method, *method.directions[0]


def images_of(batch: int, side: int, device: str) -> torch.Tensor:
    """[batch, 3, side, side] in [-1, 1]."""
    return (torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1).to(device)


def reference(preset: str, batch: int, side: int, device: str, precision: str) -> Callable[[], torch.Tensor]:
    """The method itself under no_grad, its parameters asking for gradients as in training, with PyTorch's instance norm."""
    method, source, target = method_of(preset)
    method.to(device)
    images = images_of(batch, side, device)

    def way() -> torch.Tensor:
        noise = torch.Generator(device).manual_seed(0)
        with torch.no_grad(), plain(), autocast(precision, images.device):
            return method.translate(images, source, target, generator=noise)

    return way


def ours(preset: str, batch: int, side: int, device: str, precision: str, engine: str) -> Callable[[], torch.Tensor]:
    """`Translator.translate`, in a process that keeps the memory it has freed, as the command line's does."""
    keep_memory()
    method, source, target = method_of(preset)
    translator = Translator(method, {}, device=device, precision=precision, engine=engine)
    images = images_of(batch, side, device)
    if engine != "torch":
        translator.translate(images, source, target, seed=0)  # builds the engine, which no counter may watch
    return lambda: translator.translate(images, source, target, seed=0)


def main() -> None:
    """Measure every preset and shape."""
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--preset", nargs="*", default=["unit-horse2zebra-128"])
    parser.add_argument("--shape", nargs="*", default=["1x256", "16x128"], metavar="BATCHxSIDE")
    parser.add_argument("--precision", default="fp32", choices=tuple(GOALS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="also with engine='compile'")
    options = parser.parse_args()
    bf16 = options.precision == "bf16"
    if bf16 and not has_bf16(torch.device(options.device)):
        print("this device has no bf16 units: PyTorch emulates them, and the bf16 goals cannot be reached here")
    rows = []
    for preset in options.preset:
        for shape in options.shape:
            batch, side = map(int, shape.split("x"))
            own = (preset, batch, side, options.device)
            makers = {"reference": (reference, (*own, "fp32"))}
            if bf16:
                makers["reference, autocast"] = (reference, (*own, "bf16"))
            if options.compile:
                makers["ours, compile"] = (ours, (*own, options.precision, "compile"))
            if not bf16 and options.device == "cpu" and importlib.util.find_spec("openvino"):
                makers["ours, openvino"] = (ours, (*own, "fp32", "openvino"))
            makers["ours"] = (ours, (*own, options.precision, "torch"))  # the last: the goal is for PyTorch alone
            first, *others = (maker(*given)().float().cpu() for maker, given in makers.values())
            worst = [float((first - other).abs().max()) for other in others]
            kinds = {name: "bf16" if bf16 and name != "reference" else "fp32" for name in makers}
            turns = interleave_apart(
                makers,
                rounds=options.rounds,
                warmup=options.warmup,
                precision=kinds,
                threads=options.threads,
                device=options.device,
            )
            row = compare(f"{preset}, {batch} × {side} px", turns, ways=list(makers), goal=GOALS[options.precision])
            differ = ", ".join(f"{name} {x:.1e}" for name, x in zip(list(makers)[1:], worst, strict=True))
            rows.append(replace(row, note=f"largest difference: {differ}"))
            if bf16:
                between = compare(f"{row.work}", turns, ways=("reference, autocast", "ours"), goal=AUTOCAST_GOAL)
                rows.append(between)
    write(rows, options.out, device=options.device)


if __name__ == "__main__":
    main()
