"""One pass over pictures: what is translated, what is measured of each picture, and the features of every set.

Legend: n images, D features, S side; images [n, 3, S, S] in [-1, 1], pixels uint8 [n, S, S, 3].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unpaired.data.images import Pixels, to_tensor, to_uint8
from unpaired.distributed import Ranks
from unpaired.evaluation_images import Images, Item, Task, gather
from unpaired.metrics.perceptual import LPIPS, ssim
from unpaired.metrics.store import FeatureStore
from unpaired.translation import Translator

DIVERSITY_INPUTS, DIVERSITY_SAMPLES = 50, 5
"""Inputs whose translations are compared with each other, and translations of each (methods with random outputs)."""


@dataclass
class Pass:
    """What a pass needs."""

    translator: Translator
    images: Images
    stores: Mapping[str, FeatureStore]
    lpips: Mapping[str, LPIPS]
    groups: Sequence[str]
    seed: int
    ranks: Ranks
    keep_pixels: bool = False
    """Also keep the translations themselves (for RC)."""

    def __post_init__(self) -> None:
        self._ways = frozenset(self.translator.directions)

    # ---- sets of features --------------------------------------------------------------------------------

    def features(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Features [n, D] of real pictures by backbone."""
        keys: dict[str, list[bytes]] = {name: [] for name in self.stores}
        places: list[int] = []
        for at, _, pixels in self.images.batches(items, self.ranks):
            places += at
            for name, store in self.stores.items():
                keys[name] += store.add(pixels, to_tensor(pixels))
        found = {name: store.rows(keys[name]) for name, store in self.stores.items()}
        return gather({"place": _places(places), **found}, self.ranks)

    def reconstruction(self, domain: str) -> Tensor | None:
        """[n] mean |x - x̂| of the method's own reconstruction; None where it has none."""
        errors: list[Tensor] = []
        places: list[int] = []
        for at, _, pixels in self.images.batches(self.images.items(domain), self.ranks):
            x = to_tensor(pixels)
            again = self.translator.reconstruct(x, domain)
            if again is None:
                return None
            places += at
            errors.append(_error(x, again))
        rows = {"place": _places(places), "error": _joined(errors)}
        return gather(rows, self.ranks)["error"]

    # ---- translations ------------------------------------------------------------------------------------

    def direction(self, task: Task) -> dict[str, Tensor]:
        """Rows of one task in the order of its items: ``place``; one number an image each (``change``, ``ssim_to_input``,
        ``cycle_error``, ``lpips_to_input_<net>``, ``feature_cosine-<b>``); features ``generated/<b>`` and ``source/<b>`` [n, D];
        ``pixels`` [n, S, S, 3] and ``sound`` [n] (whether they are finite) where they are kept. A translation that is not finite
        gives NaN everywhere."""
        parts: list[dict[str, Tensor]] = []
        keys: dict[str, list[bytes]] = {
            f"{side}/{name}": [] for side in ("generated", "source") for name in self.stores
        }
        for places, source, pixels in self.images.batches(task.items, self.ranks):
            rows, result = self._batch(places, source, task.target, pixels)
            parts.append(rows)
            for name, store in self.stores.items():
                keys[f"generated/{name}"] += store.add(result, to_tensor(result))
                keys[f"source/{name}"] += store.add(pixels, to_tensor(pixels))
        rows = {k: torch.cat([p[k] for p in parts]) for k in parts[0]} if parts else self._nothing(task)
        sound = rows["sound"] if self.keep_pixels else rows.pop("sound")
        for name, store in self.stores.items():
            generated, before = (store.rows(keys[f"{side}/{name}"]) for side in ("generated", "source"))
            rows[f"generated/{name}"], rows[f"source/{name}"] = generated, before
            if "content" in self.groups:
                rows[f"feature_cosine-{name}"] = torch.cosine_similarity(before.double(), generated.double(), dim=1)
        for key, value in rows.items():
            if key not in ("place", "pixels", "sound") and not key.startswith("source/"):
                value[~sound] = math.nan
        return gather(rows, self.ranks)

    def _batch(self, places: list[int], source: str, target: str, pixels: Pixels) -> tuple[dict[str, Tensor], Pixels]:
        """Rows of one batch, and its translations, rounded."""
        x = to_tensor(pixels)
        y = translate(self.translator, x, source, target, self.seed, places).cpu()
        sound = torch.isfinite(y).flatten(1).all(dim=1)
        y = torch.nan_to_num(y)
        result = to_uint8(y)
        rounded = to_tensor(result)
        rows: dict[str, Tensor] = {"place": _places(places), "sound": sound}
        if "content" in self.groups:
            rows["change"] = _error(x, rounded)
            rows["ssim_to_input"] = ssim(x, rounded)
        if "errors" in self.groups and (target, source) in self._ways:
            rows["cycle_error"] = _error(x, translate(self.translator, y, target, source, self.seed, places))
        for net, model in self.lpips.items():
            rows[f"lpips_to_input_{net}"] = model(x, rounded).double()
        if self.keep_pixels:
            rows["pixels"] = torch.from_numpy(result)
        return rows, result

    def _nothing(self, task: Task) -> dict[str, Tensor]:
        """Rows of no picture."""
        names = [f"lpips_to_input_{net}" for net in self.lpips]
        names += ["change", "ssim_to_input"] if "content" in self.groups else []
        if "errors" in self.groups and (task.target, task.source) in self._ways:
            names.append("cycle_error")
        empty = {name: torch.empty(0, dtype=torch.float64) for name in names}
        return {"place": _places([]), "sound": torch.empty(0, dtype=torch.bool), **empty}

    def identity(self, source: str, target: str) -> Tensor:
        """[n] mean |y - translate(y)| of real target pictures given as if they were the source's."""
        errors: list[Tensor] = []
        places: list[int] = []
        for at, _, pixels in self.images.batches(self.images.items(target), self.ranks):
            y = to_tensor(pixels)
            errors.append(_error(y, translate(self.translator, y, source, target, self.seed, at)))
            places += at
        rows = {"place": _places(places), "error": _joined(errors)}
        return gather(rows, self.ranks)["error"]

    def diversity(self, task: Task) -> dict[str, Tensor]:
        """By network, [inputs]: the mean LPIPS over all pairs of several translations of one input."""
        n = len(task.items)
        places_of = np.linspace(0, n - 1, min(n, DIVERSITY_INPUTS)).round().astype(int)  # evenly over all sources
        items = [task.items[i] for i in places_of.tolist()]
        found: dict[str, list[Tensor]] = {net: [] for net in self.lpips}
        places: list[int] = []
        for at, source, pixels in self.images.batches(items, self.ranks):
            x = to_tensor(pixels)
            samples = []
            sound = torch.ones(len(x), dtype=torch.bool)
            for k in range(DIVERSITY_SAMPLES):
                y = translate(self.translator, x, source, task.target, self.seed + 1 + k, at).cpu()
                sound &= torch.isfinite(y).flatten(1).all(dim=1)
                samples.append(to_tensor(to_uint8(torch.nan_to_num(y))))
            pairs = [(i, j) for i in range(len(samples)) for j in range(i)]
            for net, model in self.lpips.items():
                mean = torch.stack([model(samples[i], samples[j]) for i, j in pairs]).double().mean(dim=0)
                found[net].append(mean.masked_fill(~sound, math.nan))
            places += at
        rows = {"place": _places(places)} | {net: _joined(v) for net, v in found.items()}
        return {k: v for k, v in gather(rows, self.ranks).items() if k != "place"}


def _places(places: Sequence[int]) -> Tensor:
    return torch.tensor(places, dtype=torch.int64)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if parts else torch.empty(0, dtype=torch.float64)


def _error(a: Tensor, b: Tensor) -> Tensor:
    """[n] mean |a - b| over each image [n, 3, H, W], float64."""
    return (a.float().cpu() - b.float().cpu()).abs().double().mean(dim=(1, 2, 3))


def translate(translator: Translator, x: Tensor, source: str, target: str, seed: int, places: Sequence[int]) -> Tensor:
    """Where outputs are random, each image has its own noise by its place, so that batches do not change results."""
    if not translator.method.stochastic:
        return translator.translate(x, source, target)
    seeds = [(seed * 1_000_003 + place) % 2**63 for place in places]
    return torch.cat([translator.translate(x[i : i + 1], source, target, seed=s) for i, s in enumerate(seeds)])


NOT_FIGURES = ("place", "sound")
"""Rows of :meth:`Pass.direction` with one value an image that measure nothing."""


def per_image(task: Task, rows: Mapping[str, Tensor], images: Images) -> dict[str, list[Any]]:
    """The rows with one number an image, for who wants to find the best and the worst."""
    items = [task.items[int(place)] for place in rows["place"]]
    found: dict[str, list[Any]] = {
        "source": [d for d, _ in items], "index": [i for _, i in items], "name": [images.name(item) for item in items],
    }  # fmt: skip
    for key, values in rows.items():
        if values.ndim == 1 and key not in NOT_FIGURES:
            found[key] = [v if math.isfinite(v) else None for v in values.tolist()]
    return found
