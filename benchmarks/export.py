"""Exports at the presets' real sizes, random weights: parity of ONNX with the model, and both engines on one picture.

Medians of interleaved rounds on one core. Usage: python benchmarks/export.py [PRESET ...]
"""

from __future__ import annotations

import statistics
import sys
import time

import torch

from unpaired.config import merge, preset
from unpaired.methods import run_from
from unpaired.training.run import build
from unpaired.translate.export import exported
from unpaired.translate.translator import Translator

PRESETS = (
    *("quick", "unit-small", "unit-munit-256", "attend-horse2zebra-128", "cycle-horse2zebra"),
    *("cascade-mobilenet-128", "deepi2i-small", "deepi2i-stylegan-small", "biggan-small", "stylegan-small"),
)
RANDOM = ("attend", "cascade", "deepvae", "finetune")
"""Methods whose weights would be fetched."""
ROUNDS, SECONDS = 40, 12.0
"""Rounds of each engine, but after so many seconds five are enough."""


def model_of(name: str, engine: str) -> Translator:
    """The preset's model as after training, with random weights."""
    values = preset(name)
    run = run_from(merge(values, {"model": {"weights": "random"}} if values["method"] in RANDOM else {}))
    torch.manual_seed(0)
    method = build(run, ("a", "b"), ())
    for part in method.training_only:
        delattr(method, part)
    for counter, value in (("attending", 1), ("reached", len(getattr(method.config, "levels", ())))):
        if counter in dict(method.named_buffers()):
            getattr(method, counter).fill_(value)
    return Translator(method, {}, engine=engine)


def main(names: list[str]) -> None:
    """One line a preset."""
    torch.set_num_threads(1)
    for name in names or PRESETS:
        models = {engine: model_of(name, engine) for engine in ("torch", "onnx")}
        method = models["torch"].method
        source, target = method.directions[0]
        began = time.perf_counter()
        found = exported(method, None if method.any_source else source, target, header={}, kind="onnx")
        took = time.perf_counter() - began
        side = method.fixed_size or method.image_size
        images = torch.rand(1, 3, side, side) * 2 - 1
        ms: dict[str, list[float]] = {engine: [] for engine in models}
        for model in models.values():
            model.translate(images, source, target, seed=0)
        ends = time.monotonic() + SECONDS
        while len(ms["torch"]) < (ROUNDS if time.monotonic() < ends else 5):
            for engine, model in models.items():
                began = time.perf_counter()
                model.translate(images, source, target, seed=0)
                ms[engine].append(1000 * (time.perf_counter() - began))
        torch_ms, onnx_ms = (statistics.median(ms[engine]) for engine in ("torch", "onnx"))
        print(
            f"{name:24} {len(found.content) / 1e6:6.1f} MB, {found.difference:.1e} from the model, in {took:.1f} s; "
            f"{side}²: torch {torch_ms:.1f} ms, onnx {onnx_ms:.1f} ms, {torch_ms / onnx_ms:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
