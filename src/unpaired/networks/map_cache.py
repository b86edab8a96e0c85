"""Maps of a pyramid, rounded, and read from disk where that is faster than computing them.

Rounding comes first: with the cache on, every map is rounded, whether it was read or computed. So a full disk, a lost file, a
resumed run or a slow disk change how long training takes, and nothing else.

Legend: N batch, C channels, h side of a map; images [N, 3, S, S] in [-1, 1].
"""

from __future__ import annotations

import logging
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unpaired.data import feature_cache
from unpaired.data.images import to_uint8
from unpaired.networks.pyramid import Pyramid, quantise, restore

log = logging.getLogger("unpaired")
TRIAL = 64
"""Images that are read and computed before the two are compared."""


class MapCache:
    """All levels of a pyramid for images of the training.

    Args:
        pyramid: filled; its maps must not change any more.
        kind: ``uint8`` or ``bf16``.
        crops: how many different images there are in all; 0 keeps nothing on disk.
        limit_gib: largest file.
        precision: what maps are computed in; runs of different ones share no file.
    """

    def __init__(self, pyramid: Pyramid, kind: str, crops: int, limit_gib: float, precision: str = "fp32") -> None:
        self.pyramid, self.kind = pyramid, kind
        self.shapes = {level: (pyramid.channels[level], pyramid.sides[level]) for level in pyramid.levels}
        self.dtype = torch.uint8 if kind == "uint8" else torch.bfloat16
        self.sizes = [c * h * h * self.dtype.itemsize for c, h in self.shapes.values()]  # in the order of levels
        self.store: feature_cache.FeatureStore | None = None
        if crops:
            side = f"{pyramid.levels}-{tuple(self.shapes.values())}-{kind}-{crops}-{precision}"
            name = feature_cache.digest(
                np.frombuffer(side.encode() + pyramid.digest(pyramid.levels), np.uint8), 0
            ).hex()
            self.store = feature_cache.open_store(name, sum(self.sizes), crops, limit_gib)
        self.hits = self.misses = 0
        self._seconds = {"read": 0.0, "computed": 0.0}
        self._images = {"read": 0, "computed": 0}

    @torch.no_grad()
    def maps(self, images: Tensor, domain: int, count: int) -> dict[int, Tensor]:
        """Maps [N, C, h, h] of the first ``count`` levels, rounded; those on disk are read, the others computed and kept."""
        levels = self.pyramid.levels[:count]
        if self.store is None:
            return {level: restore(q) for level, q in self._computed(images, domain, levels).items()}
        keys = feature_cache.rows(to_uint8(images.float().cpu()), domain)
        start = time.perf_counter()
        found = [self.store.get(key, sum(self.sizes[:count])) for key in keys]
        missing = [i for i, record in enumerate(found) if record is None]
        read = self._unpacked([r for r in found if r is not None], count, images.device)
        self._timed("read", len(found) - len(missing), start, images.device)
        self.hits += len(found) - len(missing)
        self.misses += len(missing)
        if not missing:
            self._judge()
            return {level: restore(q) for level, q in read.items()}
        start = time.perf_counter()
        rows = torch.tensor(missing, device=images.device)
        new = self._computed(images[rows], domain, self.pyramid.levels)
        self._timed("computed", len(missing), start, images.device)
        for key, record in zip([keys[i] for i in missing], self._packed(new), strict=True):
            self.store.put(key, record)
        there = torch.tensor([i for i in range(len(found)) if found[i] is not None], device=images.device)
        order = torch.argsort(torch.cat([there, rows]))
        return {level: restore(torch.cat([read[level], new[level]])[order]) for level in levels}

    def _computed(self, images: Tensor, domain: int, levels: tuple[int, ...]) -> dict[int, Tensor]:
        return {level: quantise(x, self.kind) for level, x in self.pyramid(images, domain, levels).items()}

    def _packed(self, maps: dict[int, Tensor]) -> list[NDArray[np.uint8]]:
        """One record a row of ``maps``: the bytes of all levels one after the other."""
        parts = [maps[level].contiguous().cpu().flatten(1).view(torch.uint8) for level in self.pyramid.levels]
        return list(torch.cat(parts, dim=1).numpy())

    def _unpacked(self, records: list[NDArray[np.uint8]], count: int, device: torch.device) -> dict[int, Tensor]:
        if not records:
            shapes = list(self.shapes.items())[:count]
            return {level: torch.zeros(0, c, h, h, dtype=self.dtype, device=device) for level, (c, h) in shapes}
        parts = torch.split(torch.from_numpy(np.stack(records)).to(device), self.sizes[:count], dim=1)
        return {
            level: part.contiguous().view(self.dtype).view(-1, c, h, h)
            for (level, (c, h)), part in zip(self.shapes.items(), parts, strict=False)
        }

    def _timed(self, what: str, images: int, start: float, device: torch.device) -> None:
        if device.type == "cuda" and self._images[what] < TRIAL:
            torch.cuda.synchronize(device)
        self._seconds[what] += time.perf_counter() - start
        self._images[what] += images

    def _judge(self) -> None:
        """Give the disk up where reading turned out slower than computing."""
        if min(self._images.values()) < TRIAL or self.store is None:
            return
        read, computed = (self._seconds[what] / self._images[what] for what in ("read", "computed"))
        if read > computed:
            log.warning(
                "reading features takes %.2f ms an image, computing them %.2f ms: they are computed from now on", 1e3 * read, 1e3 * computed
            )  # fmt: skip
            self.store.close()
            self.store = None
