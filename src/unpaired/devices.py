"""Device and precision: what ``auto`` means, decided in one place."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from unpaired.errors import ConfigError

if TYPE_CHECKING:
    from unpaired.config import TrainingConfig


def choose_device(name: str = "auto") -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` -> a device that is there. Raises ConfigError otherwise."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device '{name}': use auto, cpu, cuda or cuda:0") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device '{name}' is not supported: use auto, cpu, cuda or cuda:0")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = device.index if device.index is not None else int(os.environ.get("LOCAL_RANK", "0"))
        if index >= count:
            raise ConfigError(
                f"device '{name}' is not there: this machine has {count} GPUs. Type --device cpu or --device auto"
            )
        device = torch.device("cuda", index)
    return device


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 products run on matrix units or wide vector instructions here, so that autocast pays."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def choose_precision(name: str, device: torch.device) -> str:
    """``auto`` -> ``bf16`` where the hardware has it, else ``fp32``. Raises ConfigError for ``tf32`` on a CPU."""
    if name == "auto":
        return "bf16" if has_bf16(device) else "fp32"
    if name == "tf32" and device.type != "cuda":
        raise ConfigError("training.precision = 'tf32' needs a GPU; this runs on the CPU. Use fp32, bf16 or auto")
    return name


def choose(settings: TrainingConfig) -> tuple[torch.device, str]:
    """Device and precision of a training. Raises ConfigError; called early, too, so that a wrong one is refused before images are read."""
    device = choose_device(settings.device)
    return device, choose_precision(settings.precision, device)


def set_products(precision: str) -> None:
    """TF32 products only when asked for by name; PyTorch would use them for convolutions by default."""
    asked = precision == "tf32"
    # by the older names, too: PyTorch's own compiler still reads them, and they raise where the two disagree
    torch.set_float32_matmul_precision("high" if asked else "highest")
    torch.backends.cudnn.allow_tf32 = asked
    kind = "tf32" if asked else "ieee"
    torch.backends.cuda.matmul.fp32_precision = kind
    torch.backends.cudnn.conv.fp32_precision = kind  # type: ignore[attr-defined]
    torch.backends.cudnn.rnn.fp32_precision = kind  # type: ignore[attr-defined]


def set_for_training(precision: str, device: torch.device) -> None:
    """:func:`set_products`; and on a GPU: it is the current one, since pinned memory takes room on that, and cuDNN tries its
    algorithms for each shape once, since a stage has the same shapes in every step."""
    set_products(precision)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True


def precision_around(device: torch.device) -> str:
    """What products on ``device`` are computed in just here: ``bf16``, ``tf32`` or ``fp32``."""
    if torch.is_autocast_enabled(device.type):
        return "bf16"
    return "tf32" if device.type == "cuda" and torch.backends.cuda.matmul.fp32_precision == "tf32" else "fp32"


@contextlib.contextmanager
def products(precision: str) -> Iterator[None]:
    """Inside, products of fp32 numbers are as ``precision`` has them; after it, as they were asked for before."""
    before = "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "fp32"
    set_products(precision)
    try:
        yield
    finally:
        set_products(before)


def generators(device: torch.device) -> list[torch.Generator]:
    """torch's global generators that code on ``device`` draws from."""
    own = [torch.cuda.default_generators[device.index or 0]] if device.type == "cuda" else []
    return [torch.default_generator, *own]


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """bf16 autocast for ``bf16``, nothing for the others. Parameters stay fp32 in every case. On a GPU :func:`set_products`, too, from
    here on: for the backward pass that follows, and whatever another network has set in between."""
    if device.type == "cuda":
        set_products(precision)
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Networks built inside have shapes and no memory (the meta device), for weights that are assigned afterwards.

    Initial values are not drawn: on the meta device that gives nothing, yet PyTorch would import its compiler for
    ``normal_`` there, at as much time as ``import torch`` takes.
    """
    with torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    """Leaves out what fills a tensor with initial values: ``torch.nn.init``, ``normal_``, ``torch.randn``."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.normal_ or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return (torch.empty if func is torch.randn else func)(*args, **kwargs)
