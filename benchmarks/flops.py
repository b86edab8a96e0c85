"""Counting floating point operations."""

from __future__ import annotations

from typing import Any


class _NoModules:
    """In place of the counter's own tracker of modules, which cannot follow a gradient of a gradient; only the total
    counts."""

    parents = ("Global",)

    def __enter__(self) -> None:
        """Nothing to set up."""

    def __exit__(self, *_: object) -> None:
        """Nothing to undo."""


def flop_counter() -> Any:
    """A context in which PyTorch counts floating point operations, gradient penalties included; ``get_total_flops()``
    is the sum."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    return counter
