"""What the loop hands to a method: a batch of unpaired images, and the pairs of domains that it is drawn from.

Legend: N batch, H height, W width; images are float tensors [N, 3, H, W] in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, overload

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Unpaired images: ``source[i]`` and ``target[i]`` are unrelated. All tensors have the same first dimension N. A
    side that the method does not read has images of no pixel, [N, 3, 0, 0]."""

    source: Tensor
    """[N, 3, H, W] in [-1, 1]."""
    source_domain: Tensor
    """[N] int64, index into ``Method.domains``."""
    target: Tensor
    """[N, 3, H, W] in [-1, 1]."""
    target_domain: Tensor
    """[N] int64."""
    source_label: Tensor | None = None
    """[N] int64 class of each source image, where the source is labelled (domain adaptation)."""
    first: bool = True
    """Whether it is the first part of a step's batch, or all of it (``training.accumulate``): what counts steps counts
    these."""

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **(values | {k: function(v) for k, v in values.items() if isinstance(v, Tensor)}))

    def to(self, device: torch.device, **options: Any) -> Batch:
        """The same batch on ``device``."""
        return self._map(lambda t: t.to(device, **options))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (DataLoader calls this)."""
        return self._map(lambda t: t.pin_memory())

    def part(self, index: int, of: int) -> Batch:
        """The ``index``-th of ``of`` equal slices: for gradient accumulation and for ranks."""
        return self._map(lambda t: t.tensor_split(of)[index])

    def __len__(self) -> int:
        return len(self.source)


Pair = tuple[str, str]
"""(source, target)."""
Side = Literal["source", "target"]
"""One of the two halves of a batch."""


class AllPairs(Sequence[Pair]):
    """Every ordered pair of different domains, made when asked for: those of 1,000 domains are a million.

    Equal to the tuple of them, in the order (0, 1), (0, 2), …, (1, 0), (1, 2), …
    """

    def __init__(self, domains: Sequence[str]) -> None:
        self.domains = tuple(domains)

    def __len__(self) -> int:
        return len(self.domains) * (len(self.domains) - 1)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Pair, ...]: ...
    def __getitem__(self, index: int | slice) -> Pair | tuple[Pair, ...]:
        found = range(len(self))[index]
        if isinstance(found, range):
            return tuple(self[i] for i in found)
        source, place = divmod(found, len(self.domains) - 1)
        return self.domains[source], self.domains[place + (place >= source)]

    def __iter__(self) -> Iterator[Pair]:
        return ((a, b) for a in self.domains for b in self.domains if a != b)

    def __contains__(self, pair: object) -> bool:
        return isinstance(pair, tuple) and len(pair) == 2 and pair[0] != pair[1] and {*pair} <= {*self.domains}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AllPairs | tuple) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self)) if len(self) <= 12 else f"AllPairs({self.domains!r})"
