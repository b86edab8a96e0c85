"""Which pictures an evaluation looks at, in which order, and by which process.

Legend: N images, H height, W width, S side of the square; images [N, 3, H, W] in [-1, 1], pixels uint8 [N, S, S, 3].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from PIL import Image

from unpaired.config import DataConfig
from unpaired.data.images import Pixels, resize
from unpaired.data.sampling import Pool
from unpaired.errors import ImageError
from unpaired.machine import Ranks

MAX_DIRECTIONS = 12
"""Up to so many ordered pairs of domains (4 domains) each is measured by itself; beyond, each target from a mix of all
others."""
MIXED = "*"
"""Stands for "any of the other domains" as a source."""
By = Literal["auto", "direction", "target"]
Item = tuple[str, int]
"""Domain and index in the pool."""


@dataclass(frozen=True)
class Task:
    """One row of the results: what is translated, and into what."""

    source: str
    """A domain, or ``MIXED``."""
    target: str
    items: tuple[Item, ...]
    """Sorted by domain, then by index."""


@dataclass
class Images:
    """Centre-cropped squares of a pool, in an order that follows from the seed."""

    pool: Pool
    size: int
    batch_size: int
    limit: int | None
    seed: int
    lost: dict[str, str] = field(default_factory=dict)
    """Path -> reason, for files that could not be read; they are left out."""

    def indices(self, domain: str) -> list[int]:
        """All images of a domain, or ``limit`` of them drawn at random, in the pool's order."""
        order = np.arange(self.pool.count(domain))
        if self.limit is not None and self.limit < len(order):
            order = np.sort(np.random.default_rng(self.seed).permutation(order)[: self.limit])
        return [int(i) for i in order]

    def items(self, domain: str) -> tuple[Item, ...]:
        """:meth:`indices` with the domain."""
        return tuple((domain, i) for i in self.indices(domain))

    def count(self, domain: str) -> int:
        """How many images of a domain are looked at."""
        n = self.pool.count(domain)
        return n if self.limit is None else min(n, self.limit)

    def name(self, item: Item) -> str | None:
        """The file's name relative to the data folder, where the pool is one."""
        namer = getattr(self.pool, "name", None)
        return None if namer is None else str(namer(*item))

    def batches(self, items: Sequence[Item], ranks: Ranks) -> Iterator[tuple[list[int], str, Pixels]]:
        """(places in ``items``, domain, pixels [n, S, S, 3]) of this process's share; a batch is of one domain."""
        places: list[int] = []
        stack: list[Pixels] = []
        before = ""
        for place in range(ranks.rank, len(items), ranks.world):
            domain, index = items[place]
            if stack and (domain != before or len(stack) == self.batch_size):
                yield places, before, np.stack(stack)
                places, stack = [], []
            before = domain
            try:
                image = square(self.pool.image(domain, index), self.size)
            except ImageError as error:
                self.lost[str(error.path)] = error.reason
                continue
            places.append(place)
            stack.append(image)
        if stack:
            yield places, before, np.stack(stack)


def square(image: Pixels, side: int) -> Pixels:
    """uint8 [H, W, 3] -> [side, side, 3]: resized by the shorter side (bicubic, antialiased) where it is another,
    centre-cropped."""
    if min(image.shape[:2]) != side:
        image = np.asarray(resize(Image.fromarray(image), side, DataConfig()))
    top, left = ((n - side) // 2 for n in image.shape[:2])
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def plan(images: Images, directions: Sequence[tuple[str, str]], by: By) -> tuple[list[Task], str]:
    """The rows of the results, and which way was taken: ``direction`` or ``target``.

    With ``target``, as many pictures are translated into a class as there are real ones of it, drawn from its sources
    in turn: the whole costs as many translations as there are images, however many classes there are.
    """
    if by == "direction" or (by == "auto" and len(directions) <= MAX_DIRECTIONS):
        return [Task(a, b, images.items(a)) for a, b in directions], "direction"
    tasks = []
    domains = dict.fromkeys([*(a for a, _ in directions), *(b for _, b in directions)])
    reached = {b for _, b in directions}
    for number, target in enumerate(d for d in domains if d in reached):
        sources = [a for a, b in directions if b == target]
        rng = np.random.default_rng((images.seed, number))
        orders = {a: rng.permutation(images.indices(a)) for a in sources}
        wanted = images.count(target)
        most = max(len(o) for o in orders.values())
        turn = [(a, int(orders[a][i])) for i in range(most) for a in sources if i < len(orders[a])]
        place = {a: i for i, a in enumerate(sources)}
        items = sorted(turn[:wanted], key=lambda item: (place[item[0]], item[1]))
        tasks.append(Task(MIXED if len(sources) > 1 else sources[0], target, tuple(items)))
    return tasks, "target"


def gather(rows: Mapping[str, torch.Tensor], ranks: Ranks) -> dict[str, torch.Tensor]:
    """The rows of all processes, sorted by ``place``: the same on each, whatever their number.

    ``rows``: name -> tensor [n, …]; all of one length, with ``place`` among them.
    """
    parts: list[Mapping[str, torch.Tensor]] = [rows]
    if ranks.world > 1:
        parts = ranks.from_all({k: v.cpu() for k, v in rows.items()})
    fullest = max(parts, key=lambda part: len(part["place"]))  # a process without pictures has no rows to name
    joined = {k: torch.cat([p[k] for p in parts if len(p["place"])] or [rows[k]]) for k in fullest}
    order = joined["place"].argsort()
    return {k: v[order] for k, v in joined.items()}


def share_lost(lost: dict[str, str], ranks: Ranks) -> None:
    """Tell every process which files the others could not read."""
    for part in ranks.from_all(lost):
        lost |= part
