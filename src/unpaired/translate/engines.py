"""Other engines for ``translate`` than PyTorch as it stands: its compiler, and OpenVINO on a CPU (an extra).

Both run :meth:`unpaired.methods.base.Method.render` for images of one shape: everything random, and the number of a
class, is drawn outside and comes in as a tensor, so that seeds and latents give what PyTorch gives with them, and one
network serves all classes.

- ``compile``: ``torch.compile``. Joins what lies between convolutions into single loops, and leaves out the calls of a
  hundred small layers, on a GPU by CUDA graphs. Needs a C++ compiler (on a GPU Triton); without one it says so and goes
  on in plain PyTorch.
- ``openvino``: the method is traced with PyTorch and read from memory by OpenVINO's own frontend: no file, no ONNX, and
  not its converter, which reports usage home. What it computes stays float32 and equals PyTorch's result within 1e-3
  (tests/translate/test_engines.py).

Legend: N batch, H height, W width.
"""

from __future__ import annotations

import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unpaired.errors import ConfigError, UnpairedError
from unpaired.methods.base import Method

log = logging.getLogger("unpaired")
ENGINES = ("torch", "compile", "openvino")
KEPT = 4
"""Networks of OpenVINO kept ready, a direction and shape each: each takes its weights' memory again."""
COMPILED = 1000
"""Directions and shapes that are compiled, before PyTorch runs the rest uncompiled: each takes minutes."""
Run = Callable[[Sequence[Tensor]], Tensor]
"""A direction for tensors of one shape."""


class _Direction(nn.Module):
    """One direction of a method as a module of tensors alone: what can be traced and compiled."""

    def __init__(self, method: Method, source: str | None, target: str) -> None:
        super().__init__()
        self.method, self.names = method, (source, target)

    def forward(self, images: Tensor, *inputs: Tensor) -> Tensor:
        return self.method.render(images, *self.names, *inputs)


class Engine:
    """``render`` of a method, for each direction and shape asked for, by something else than plain PyTorch."""

    def __init__(self, name: str, method: Method) -> None:
        """Raises ConfigError: the engine is not installed."""
        self.method = method
        self.make, self.kept = (_compiler(), COMPILED) if name == "compile" else (_openvino(), KEPT)
        self.ready: OrderedDict[Any, Run] = OrderedDict()

    def __call__(self, images: Tensor, source: str | None, target: str, inputs: Sequence[Tensor]) -> Tensor:
        """float32 [N, 3, H, W] and what ``method.inputs`` has for them -> the same shape. Raises ConfigError where the
        engine cannot run the method."""
        # where the source does not matter, the target's number is among the inputs: one network serves all classes
        names = None if self.method.any_source else (source, target)
        key = (names, tuple(images.shape))
        if key not in self.ready:
            self.ready[key] = self.make(_Direction(self.method, source, target).eval(), (images, *inputs))
            if len(self.ready) > self.kept:
                self.ready.popitem(last=False)
        self.ready.move_to_end(key)
        return self.ready[key]((images, *inputs))


def _compiler() -> Callable[[_Direction, Sequence[Tensor]], Run]:
    """``torch.compile``: each shape by itself, so that a picture's result does not depend on those that came before."""
    from torch._dynamo import config  # not before: it takes a second and a half

    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)  # it tells at length where a graph is cut in two
    config.recompile_limit = max(config.recompile_limit, COMPILED)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, COMPILED)
    works = True

    def make(direction: _Direction, example: Sequence[Tensor]) -> Run:
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


def _openvino() -> Callable[[_Direction, Sequence[Tensor]], Run]:
    """OpenVINO. What it gives raises ConfigError for a network that OpenVINO has no operations for."""
    try:
        import openvino
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
    except ImportError as error:
        raise ConfigError("engine 'openvino' is not installed: pip install 'unpaired[openvino]'") from error
    core = openvino.Core()

    def make(direction: _Direction, example: Sequence[Tensor]) -> Run:
        given = tuple(torch.zeros_like(t, memory_format=torch.contiguous_format) for t in example)
        try:
            with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # shapes become constants: that is why each shape has its own
                traced = torch.jit.trace(direction, given, check_trace=False)  # type: ignore[no-untyped-call]
                decoder = TorchScriptPythonDecoder(traced, example_input=given)  # the C++ side holds no reference
                frontend = FrontEndManager().load_by_framework("pytorch")
                model = frontend.convert(frontend.load(decoder))
            model.reshape({i: list(t.shape) for i, t in enumerate(given[: len(model.inputs)])})
            threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
            network = core.compile_model(model, "CPU", threads)
        except Exception as error:  # openvino's own kinds, and whatever tracing meets
            reason = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise ConfigError(f"engine 'openvino' cannot run this model ({reason}): use torch") from error
        return lambda tensors: torch.from_numpy(network([t.contiguous().numpy() for t in tensors])[0].copy())

    return make
