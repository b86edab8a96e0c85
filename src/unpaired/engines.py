"""Another engine than PyTorch for ``translate`` on a CPU: OpenVINO, an extra.

The method is traced with PyTorch and read from memory by OpenVINO's own frontend: no file, no ONNX, and not its converter, which
reports usage home. What it computes stays float32 and equals PyTorch's result within 1e-3 (tests/test_engines.py).

Legend: N batch, H height, W width.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from unpaired.errors import ConfigError
from unpaired.methods.base import Method

ENGINES = ("torch", "openvino")
KEPT = 4
"""Networks kept ready, one for each direction and shape: each takes its weights' memory again, and seconds to make."""


class _Direction(nn.Module):
    """One direction of a method as a module of images alone: what can be traced."""

    def __init__(self, method: Method, source: str | None, target: str) -> None:
        super().__init__()
        self.method, self.names = method, (source, target)

    def forward(self, images: Tensor) -> Tensor:
        return self.method.translate(images, *self.names)  # type: ignore[arg-type]  # None only where any_source is set


class OpenVINO:
    """``translate`` of a method by OpenVINO. Raises ConfigError: not installed, or a model whose results are drawn at random."""

    def __init__(self, method: Method) -> None:
        if method.stochastic:
            raise ConfigError(
                "engine 'openvino' runs models without random outputs alone, and this one has them: use torch"
            )
        try:
            import openvino
        except ImportError as error:
            raise ConfigError("engine 'openvino' is not installed: pip install 'unpaired[openvino]'") from error
        self.method, self.core = method, openvino.Core()
        self.ready: OrderedDict[tuple[str | None, str, tuple[int, ...]], Any] = OrderedDict()

    def __call__(self, images: Tensor, source: str | None, target: str) -> Tensor:
        """float32 [N, 3, H, W] -> the same. Raises ConfigError for a network that OpenVINO has no operations for."""
        key = (source, target, tuple(images.shape))
        if key not in self.ready:
            self.ready[key] = self._made(*key)
            if len(self.ready) > KEPT:
                self.ready.popitem(last=False)
        self.ready.move_to_end(key)
        return torch.from_numpy(self.ready[key]([images.contiguous().numpy()])[0].copy())

    def _made(self, source: str | None, target: str, shape: tuple[int, ...]) -> Any:
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

        example = torch.zeros(shape)
        try:
            with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # shapes become constants: that is why each shape has its own
                traced = torch.jit.trace(_Direction(self.method, source, target).eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
                decoder = TorchScriptPythonDecoder(traced, example_input=example)  # the C++ side holds no reference
                frontend = FrontEndManager().load_by_framework("pytorch")
                model = frontend.convert(frontend.load(decoder))
            model.reshape({0: list(shape)})
            threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
            return self.core.compile_model(model, "CPU", threads)
        except Exception as error:  # openvino's own kinds, and whatever tracing meets
            reason = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise ConfigError(f"engine 'openvino' cannot run this model ({reason}): use torch") from error
