"""Other engines for ``translate`` than PyTorch as it stands: its compiler, and ONNX Runtime on a CPU (an extra).

Both run :meth:`unpaired.methods.base.Method.render`: everything random, and the number of a
class, is drawn outside and comes in as a tensor, so that seeds and latents give what PyTorch gives with them, and one
network serves all classes.

- ``compile``: ``torch.compile``. Joins what lies between convolutions into single loops, and leaves out the calls of a
  hundred small layers, on a GPU by CUDA graphs. Needs a C++ compiler (on a GPU Triton); without one it says so and goes
  on in plain PyTorch.
- ``onnx``: the method exported to ONNX in memory (:mod:`unpaired.translate.export`), which takes seconds, once a
  direction; then all shapes run at once. It stays float32 and equals PyTorch's result within 1e-3
  (tests/translate/test_engines.py).

Legend: N batch, H height, W width.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from unpaired.errors import UnpairedError
from unpaired.methods.base import Method
from unpaired.translate.export import Direction, check_installed, names_of, session, settled, to_onnx

log = logging.getLogger("unpaired")
ENGINES = ("torch", "compile", "onnx")
KEPT = 4
"""Networks of ONNX Runtime kept ready, one a direction: each takes its weights' memory again."""
COMPILED = 1000
"""Directions and shapes that are compiled, before PyTorch runs the rest uncompiled: each takes minutes."""
Run = Callable[[Sequence[Tensor]], Tensor]
"""A direction for tensors."""


class Engine:
    """``render`` of a method, for each direction and shape asked for, by something else than plain PyTorch."""

    def __init__(self, name: str, method: Method) -> None:
        """Raises ConfigError: the engine is not installed."""
        self.by_shape = name == "compile"
        if not self.by_shape:
            check_installed()
        self.method = method if self.by_shape else settled(method)
        self.make, self.kept = (_compiler(), COMPILED) if self.by_shape else (_onnx, KEPT)
        self.ready: OrderedDict[Any, Run] = OrderedDict()

    def __call__(self, images: Tensor, source: str | None, target: str, inputs: Sequence[Tensor]) -> Tensor:
        """float32 [N, 3, H, W] and what ``method.inputs`` has for them -> the same shape. Raises ConfigError where the
        engine cannot run the method."""
        # where the source does not matter, the target's number is among the inputs: one network serves all classes
        names = None if self.method.any_source else (source, target)
        key = (names, tuple(images.shape) if self.by_shape else None)
        if key not in self.ready:
            self.ready[key] = self.make(Direction(self.method, source, target).eval(), (images, *inputs))
            if len(self.ready) > self.kept:
                self.ready.popitem(last=False)
        self.ready.move_to_end(key)
        return self.ready[key]((images, *inputs))


def _compiler() -> Callable[[Direction, Sequence[Tensor]], Run]:
    """``torch.compile``: each shape by itself, so that a picture's result does not depend on those that came before."""
    from torch._dynamo import config  # not before: it takes a second and a half

    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)  # it tells at length where a graph is cut in two
    config.recompile_limit = max(config.recompile_limit, COMPILED)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, COMPILED)
    works = True

    def make(direction: Direction, example: Sequence[Tensor]) -> Run:
        mode = "reduce-overhead" if example[0].is_cuda else None  # CUDA graphs
        compiled = torch.compile(direction, dynamic=False, mode=mode)

        def run(tensors: Sequence[Tensor]) -> Tensor:
            nonlocal works
            if works:
                try:
                    # a copy, since the next call of a CUDA graph writes there
                    return compiled(*tensors).clone()  # type: ignore[no-any-return]
                except (UnpairedError, torch.OutOfMemoryError):
                    raise
                except Exception as error:  # of many kinds; if the model is at fault, it raises again below
                    log.warning("torch.compile failed (%s); going on without it", type(error).__name__)
                    works = False
            return direction(*tensors)  # type: ignore[no-any-return]

        return run

    return make


def _onnx(direction: Direction, example: Sequence[Tensor]) -> Run:
    """ONNX Runtime on a CPU, for all shapes."""
    runs = session(to_onnx(direction, direction.names[1], {}), names_of(example))
    return lambda tensors: runs(tensors)[0]
