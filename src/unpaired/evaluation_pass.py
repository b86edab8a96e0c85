"""One pass over pictures: what is translated, what is measured of each picture, and the features of every set.

Legend: n images, D features, S side; images [n, 3, S, S] in [-1, 1], pixels uint8 [n, S, S, 3].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
    content: dict[str, Tensor] = field(default_factory=dict)

    # ---- sets of features --------------------------------------------------------------------------------

    def features(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Features [n, D] of real pictures by backbone."""
        rows: dict[str, list[Tensor]] = {name: [] for name in self.stores}
        places: list[int] = []
        for at, _, pixels in self.images.batches(items, self.ranks):
            places += at
            for name, store in self.stores.items():
                rows[name].append(_features(store, pixels))
        found = {
            name: torch.cat(parts) if parts else torch.empty(0, self.stores[name].backbone.dim)
            for name, parts in rows.items()
        }
        return gather({"place": torch.tensor(places, dtype=torch.int64), **found}, self.ranks)

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
        rows = {"place": torch.tensor(places, dtype=torch.int64), "error": _joined(errors)}
        return gather(rows, self.ranks)["error"]

    # ---- translations ------------------------------------------------------------------------------------

    def direction(self, task: Task) -> dict[str, Tensor]:
        """Rows of one task in the order of its items: ``place``; one number an image each (``change``, ``ssim_to_input``,
        ``cycle_error``, ``lpips_to_input_<net>``, ``feature_cosine-<b>``); features ``generated/<b>`` and ``source/<b>`` [n, D];
        ``pixels`` [n, S, S, 3] where they are kept. A translation that is not finite gives NaN everywhere."""
        parts: list[dict[str, Tensor]] = []
        for places, source, pixels in self.images.batches(task.items, self.ranks):
            parts.append(self._batch(places, source, task.target, pixels))
        if not parts:
            parts = [self._nothing()]
        names = list(parts[0])
        return gather({k: torch.cat([p[k] for p in parts]) for k in names}, self.ranks)

    def _batch(self, places: list[int], source: str, target: str, pixels: Pixels) -> dict[str, Tensor]:
        x = to_tensor(pixels)
        y = translate(self.translator, x, source, target, self.seed, places).cpu()
        sound = torch.isfinite(y).flatten(1).all(dim=1)
        result = to_uint8(torch.nan_to_num(y))
        rounded = to_tensor(result)
        rows: dict[str, Tensor] = {"place": torch.tensor(places, dtype=torch.int64)}
        if "content" in self.groups:
            rows["change"] = _error(x, rounded)
            rows["ssim_to_input"] = ssim(x, rounded)
        if "errors" in self.groups and (target, source) in self._ways:
            back = translate(self.translator, torch.nan_to_num(y), target, source, self.seed, places)
            rows["cycle_error"] = _error(x, back)
        for net, model in self.lpips.items():
            rows[f"lpips_to_input_{net}"] = model(x, rounded).double()
        for name, store in self.stores.items():
            generated, before = _features(store, result), _features(store, pixels)
            rows[f"generated/{name}"], rows[f"source/{name}"] = generated, before
            if "content" in self.groups:
                rows[f"feature_cosine-{name}"] = torch.cosine_similarity(before.double(), generated.double(), dim=1)
        if self.keep_pixels:
            rows["pixels"] = torch.from_numpy(result)
        for key, value in rows.items():
            if key not in ("place", "pixels") and not key.startswith("source/"):
                value[~sound] = math.nan
        return rows

    def _nothing(self) -> dict[str, Tensor]:
        """Rows of no picture, for a process that has none."""
        rows: dict[str, Tensor] = {"place": torch.empty(0, dtype=torch.int64)}
        for name, store in self.stores.items():
            rows |= {f"{side}/{name}": torch.empty(0, store.backbone.dim) for side in ("generated", "source")}
        return rows

    @property
    def _ways(self) -> frozenset[tuple[str, str]]:
        if not hasattr(self, "_known_ways"):
            self._known_ways = frozenset(self.translator.directions)
        return self._known_ways

    def identity(self, source: str, target: str) -> Tensor:
        """[n] mean |y - translate(y)| of real target pictures given as if they were the source's."""
        errors: list[Tensor] = []
        places: list[int] = []
        for at, _, pixels in self.images.batches(self.images.items(target), self.ranks):
            y = to_tensor(pixels)
            errors.append(_error(y, translate(self.translator, y, source, target, self.seed, at)))
            places += at
        rows = {"place": torch.tensor(places, dtype=torch.int64), "error": _joined(errors)}
        return gather(rows, self.ranks)["error"]

    def diversity(self, task: Task) -> dict[str, Tensor]:
        """By network, [inputs]: the mean LPIPS over all pairs of several translations of one input."""
        step = max(1, len(task.items) // DIVERSITY_INPUTS)
        items = task.items[::step][:DIVERSITY_INPUTS]
        found: dict[str, list[Tensor]] = {net: [] for net in self.lpips}
        places: list[int] = []
        for at, source, pixels in self.images.batches(items, self.ranks):
            x = to_tensor(pixels)
            samples = []
            for k in range(DIVERSITY_SAMPLES):
                y = translate(self.translator, x, source, task.target, self.seed + 1 + k, at).cpu()
                samples.append(to_tensor(to_uint8(torch.nan_to_num(y))))
            pairs = [(i, j) for i in range(len(samples)) for j in range(i)]
            for net, model in self.lpips.items():
                found[net].append(torch.stack([model(samples[i], samples[j]) for i, j in pairs]).double().mean(dim=0))
            places += at
        rows = {"place": torch.tensor(places, dtype=torch.int64)} | {net: _joined(v) for net, v in found.items()}
        return {k: v for k, v in gather(rows, self.ranks).items() if k != "place"}


def _features(store: FeatureStore, pixels: Pixels) -> Tensor:
    return store.features(list(pixels), to_tensor(pixels)).clone()


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


def per_image(task: Task, rows: Mapping[str, Tensor], images: Images) -> dict[str, list[Any]]:
    """The rows with one number an image, for who wants to find the best and the worst."""
    items = [task.items[int(place)] for place in rows["place"]]
    found: dict[str, list[Any]] = {
        "source": [d for d, _ in items], "index": [i for _, i in items], "name": [images.name(item) for item in items],
    }  # fmt: skip
    for key, values in rows.items():
        if values.ndim == 1 and key != "place":
            found[key] = [v if math.isfinite(v) else None for v in values.tolist()]
    return found
