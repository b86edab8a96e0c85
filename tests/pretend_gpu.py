"""A device that is no CPU, on any machine: its tensors compute on the CPU and note what would stop the host on a GPU.

PyTorch keeps a place for other makers' devices, with streams, guards and autocast of its own (``torch.utils.backend_registration``).
Here a tensor there wraps one in main memory, and every operation is done on that; so the values are real, and noted are

- an operation on tensors of both devices (numbers without dimensions, which PyTorch takes over itself, may be on the CPU);
- a copy that the host waits for: any to the CPU, and one from the CPU that is not ``non_blocking``;
- an operation whose result's shape or whose number the host must know: ``item``, ``nonzero``, boolean masks;
- a generator of the other device.

Autocast follows CUDA's lists of operators. Registering is for the whole process, so this is run as a program: the names of methods
of ``tests/contract/cases.py`` -> one JSON object {method: {stage or "translate": [what was noted]}}, in bf16.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

import unpaired

NAME = "pretend"
HERE = str(Path(unpaired.__file__).parent)
WAITS = {
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive",
    "bincount", "repeat_interleave",
}  # fmt: skip
"""Operators that the host waits for."""
LOWER = (
    "conv1d conv2d conv_transpose2d.input linear matmul mm bmm mv addmm addmv addbmm baddbmm"  # in the lower precision
)
FULL = (
    "exp log log1p pow.Tensor_Scalar pow.Tensor_Tensor rsqrt reciprocal softplus softmax.int log_softmax.int cumsum prod sum "
    "sum.dim_IntList norm.Scalar norm.ScalarOpt_dim linalg_vector_norm layer_norm group_norm cross_entropy_loss nll_loss mse_loss l1_loss"
)  # in float32
WIDEST = "addcdiv addcmul cat stack dot vdot index_put scatter_add grid_sampler"  # in the widest type of the arguments
noted: list[str] = []


class There(Tensor):
    """A tensor on the device; ``inner`` is its content."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> There:
        made: There = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )  # fmt: skip
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


class Device(TorchDispatchMode):
    """Within, new tensors can be made there, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


def each(function: Callable[[Any], Any], values: Any) -> Any:
    """``function`` of each leaf of nested lists, tuples and dictionaries."""
    if isinstance(values, list | tuple):
        return type(values)(each(function, v) for v in values)
    if isinstance(values, dict):
        return {k: each(function, v) for k, v in values.items()}
    return function(values)


def note(what: str, func: Any) -> None:
    """With the line of the package that asked for it."""
    frames = [f for f in traceback.extract_stack() if f.filename.startswith(HERE)]
    place = f"{Path(frames[-1].filename).name} in {frames[-1].name}" if frames else "autograd"
    noted.append(f"{what}: {func} at {place}")


def dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do ``func`` in main memory."""
    own: dict[int, There] = {}
    here: list[Tensor] = []

    def unwrapped(value: Any) -> Any:
        if isinstance(value, There):
            own[id(value.inner)] = value
            return value.inner
        if isinstance(value, Tensor):
            here.append(value)
        return value

    plain_args, plain = each(unwrapped, args), each(unwrapped, kwargs)
    name, device = func.overloadpacket.__name__, kwargs.get("device")
    asked = None if device is None else torch.device(device).type
    if not own and asked != NAME:
        return func(*args, **kwargs)
    back = asked == "cpu" or (name == "copy_" and not isinstance(args[0], There))
    if name in ("_to_copy", "copy_"):
        source = args[-1 if name == "_to_copy" else 1]
        waits = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
        if isinstance(source, There) and back:
            note("waits for a copy to the CPU", func)
        elif not isinstance(source, There) and not back and waits and source.numel():
            note("waits for a copy from the CPU", func)
    elif any(t.ndim for t in here):
        note("tensors of both devices", func)
    masks = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
    if name in WAITS or any(isinstance(t, Tensor) and t.dtype in (torch.bool, torch.uint8) for t in masks):
        note("waits", func)
    if kwargs.get("generator") is not None:
        note("a generator of the CPU", func)
    if asked is not None:
        plain["device"] = "cpu"
    result = func(*plain_args, **plain)

    def wrapped(value: Any) -> Any:
        if back or not isinstance(value, Tensor):
            return value
        return own[id(value)] if id(value) in own else There(value)

    return each(wrapped, result)


def register() -> None:
    """The device and its autocast. Once in a process."""

    class Module(_DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16]

    _setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def autocasting(function: Any, policy: str) -> Callable[..., Any]:
        def cast(*args: Any, **kwargs: Any) -> Any:
            floats: list[torch.dtype] = []

            def look(value: Any) -> Any:
                if isinstance(value, Tensor) and value.dtype in (torch.float32, torch.bfloat16):
                    floats.append(value.dtype)
                return value

            def to(value: Any) -> Any:
                changed = isinstance(value, Tensor) and value.dtype in (torch.float32, torch.bfloat16)
                return value.to(wanted) if changed else value

            with torch._C._ExcludeDispatchKeyGuard(key):
                each(look, (args, kwargs))
                widest = torch.float32 if torch.float32 in floats else torch.bfloat16
                wanted = {"lower": torch.bfloat16, "full": torch.float32, "widest": widest}[policy]
                return function(*each(to, args), **each(to, kwargs))

        return cast

    libraries.append(torch.library.Library("_", "IMPL"))
    libraries[-1].fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    libraries.append(torch.library.Library("aten", "IMPL"))
    for policy, names in (("lower", LOWER), ("full", FULL), ("widest", WIDEST)):
        for name in names.split():
            packet, _, overload = name.partition(".")
            function = getattr(getattr(torch.ops.aten, packet), overload or "default")
            libraries[-1].impl(name, autocasting(function, policy), "AutocastPrivateUse1")


libraries: list[Any] = []
"""What is registered stays as long as these."""


def move(module: nn.Module) -> None:
    """Parameters and buffers to the device, as new tensors."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                there = value.detach().to(NAME, non_blocking=True)
                part._parameters[name] = nn.Parameter(there, requires_grad=value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = value.to(NAME, non_blocking=True)


@contextlib.contextmanager
def watched(found: dict[str, list[str]], what: str) -> Iterator[None]:
    """What is noted within, and an error, go to ``found[what]``."""
    noted.clear()
    try:
        yield
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        noted.append(
            f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {str(error).splitlines()[0]}"
        )
    if noted:
        found[what] = sorted(set(noted))


def rounds(name: str, run: Any, place: Callable[[Any], Any], device: torch.device) -> Iterator[tuple[Any, Any, Any]]:
    """(trainer, stage, batch) of each step of one round of each stage's players of a method's tiny run on ``device``; the batch lies
    on the CPU, and ``place`` brings the method there."""
    import cases

    from unpaired.training import loop

    method = place(cases.method(name, run))
    supply = cases.trainer(name, run)
    trainer = loop.Trainer(method, cases.pool(name), run, Path("unused"), device=device)
    for stage in trainer.state.plan.stages:
        if stage.start is not None:
            stage.start()
        trainer.modes(stage)
        trainer.state.step = supply.step = 0
        supply.plan = type(supply.plan)((stage,))
        batches = supply.batches()
        for _ in range(math.lcm(*(update.every for update in stage.updates))):
            trainer.state.step += 1
            yield trainer, stage, next(batches)


def tiny_run(name: str, **training: Any) -> Any:
    """A method's tiny configuration."""
    import cases

    return cases.config(name, training=training)


def steps(name: str, precision: str) -> dict[str, list[str]]:
    """Of a method: one round of each stage's players, and a translation."""
    from unpaired import machine

    found: dict[str, list[str]] = {}
    device = torch.device(NAME, 0)

    def place(method: Any) -> Any:
        move(method)
        method.place = lambda _: method  # it is there
        return method

    for trainer, stage, batch in rounds(name, tiny_run(name, precision=precision), place, device):
        images = batch.to(device, non_blocking=True)
        with watched(found, stage.name):
            trainer.run_step(stage, 0, images)
    method = trainer.method.eval()
    source, target = method.directions[0]
    with watched(found, "translate"), torch.no_grad(), machine.autocast(precision, device):
        assert method.translate(images.source, source, target).device == device
    return found


def planted() -> dict[str, list[str]]:
    """What is noted of mistakes made on purpose, by their names."""
    found: dict[str, list[str]] = {}
    there, here = torch.ones(3, device=NAME), torch.ones(3)
    mistakes: dict[str, Callable[[], Any]] = {
        "item": lambda: there.sum().item(),
        "if": lambda: bool(there[0] > 0),
        "cpu": lambda: there.cpu(),
        "copy": lambda: here.to(NAME),
        "tensor": lambda: torch.tensor([1.0, 2.0], device=NAME),
        "both": lambda: there + here,
        "mask": lambda: there[there > 0],
        "nonzero": lambda: there.nonzero(),
        "generator": lambda: torch.randn(3, device=NAME, generator=torch.Generator()),
        "none": lambda: (there * 2 + torch.tensor(1.0)).sum() + here.to(NAME, non_blocking=True).sum(),
    }
    for name, mistake in mistakes.items():
        with watched(found, name):
            mistake()
    return found


def main() -> None:
    """Print what was noted of the methods named, or with none, of what was planted."""
    register()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) is a tensor here and a copy, as on a GPU
    with Device():
        print(json.dumps({name: steps(name, "bf16") for name in sys.argv[1:]} or planted()))


if __name__ == "__main__":
    main()
