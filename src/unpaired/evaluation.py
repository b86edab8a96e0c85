"""A model and real images in, figures out: each with its N, its backbone, its floor, and what it was computed from.

Legend: N images, H height, W width, D features; images [N, 3, H, W] in [-1, 1].
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unpaired._files import write_atomically
from unpaired._version import __version__
from unpaired.config import DataConfig
from unpaired.data.folders import DataTree, find
from unpaired.data.images import Pixels, to_tensor, to_uint8
from unpaired.data.sampling import Pool, open_pool
from unpaired.errors import ConfigError, DataError, ImageError, NotComparableError, WeightsError
from unpaired.evaluation_pairs import mask_figures, pixel_figures
from unpaired.metrics import Backbone, Statistics, kernel_distance, open_backbone
from unpaired.translation import Translator, load

ENOUGH_IMAGES = 2000
"""Below this many images on either side a distance is dominated by its bias: a plain warning is added."""
Figure = dict[str, Any]
"""``{"value": float, "n": …}``, or ``{"value": None, "not_comparable": reason, "n": …}``."""


@dataclass
class _Set:
    """Features of one set of images. The values are kept for the kernel distance: 4·D bytes an image."""

    dim: int
    statistics: Statistics = field(init=False)
    values: list[Tensor] = field(default_factory=list)
    reason: str = ""
    """Why no distance to this set can be computed."""

    def __post_init__(self) -> None:
        self.statistics = Statistics(self.dim)

    def add(self, features: Tensor) -> None:
        if self.reason:
            return
        try:
            self.statistics.update(features)
            self.values.append(features)
        except NotComparableError as error:
            self.reason = str(error).removeprefix("not comparable: ")

    @property
    def features(self) -> Tensor:
        """[N, D]."""
        return torch.cat(self.values) if self.values else torch.empty(0, self.dim)

    @property
    def count(self) -> int:
        return self.statistics.count


class _Mean:
    """Mean over images of a per-image error."""

    def __init__(self) -> None:
        self.total, self.count, self.bad = 0.0, 0, 0

    def add(self, a: Tensor, b: Tensor) -> None:
        """|a - b| averaged over each image [N, 3, H, W]."""
        errors = (a.float().cpu() - b.float().cpu()).abs().double().mean(dim=(1, 2, 3))
        self.bad += int((~torch.isfinite(errors)).sum())
        self.total += float(errors.sum())
        self.count += len(errors)

    def figure(self) -> Figure:
        if not self.count:
            return {"value": None, "not_comparable": "no images", "n": 0}
        if self.bad:
            return {"value": None, "not_comparable": f"{self.bad} outputs are not finite", "n": self.count}
        return {"value": self.total / self.count, "n": self.count}


def evaluate(
    model: Translator | Path | str,
    data: Pool | DataTree | Path | str,
    *,
    out: Path | str | None = None,
    backbone: str | Backbone = "mobilenet_v1",
    weights: Path | str | None = None,
    split: str = "test",
    device: str = "auto",
    precision: str = "fp32",
    batch_size: int = 16,
    limit: int | None = None,
    seed: int = 0,
    pairs: Path | str | None = None,
    threshold: float = 12.0,
    left: str | None = None,
    masks: Path | str | None = None,
    mask_threshold: float = 0.5,
) -> dict[str, Any]:
    """Distances between translated and real images for every direction, and reconstruction errors.

    Images are resized and centre-cropped to the square on which the model was trained. Translations are rounded to 8 bits
    first, as a file would be. For each direction: the Fréchet and kernel distances between translations of the source's
    images and the real target images; ``before``, the same with the untranslated source; ``floor``, between two random
    halves of the real target images; the cycle error mean|x - back(forth(x))| where both directions exist. For each
    domain: the error of the method's own reconstruction. Errors are in units of [-1, 1], so 2 is the largest.

    Args:
        model: a translator (then ``device`` and ``precision`` are its own), or a path as for :func:`unpaired.load`.
        data: a data folder, or a pool that holds the model's domains.
        backbone: name in ``unpaired.metrics.BACKBONES``, or any :class:`~unpaired.metrics.Backbone`.
        weights: its file, or the folder with it. Without weights the distances are left out and a line says why.
        limit: at most this many images of each domain, drawn at random with ``seed``.
        out: also written here, as JSON.
        pairs, threshold, left: folder of true pairs; adds pixel accuracies (:func:`unpaired.evaluation_pairs.pixel_figures`).
        masks, mask_threshold: folder of true masks; adds their overlap with the attention's
            (:func:`unpaired.evaluation_pairs.mask_figures`).

    Returns:
        ``directions`` (a list), ``reconstruction`` (by domain), ``warnings`` and ``provenance``; plain JSON values.

    Raises:
        DataError: a domain of the model is not in the data. ConfigError: unknown backbone or bad option.
        WeightsError: ``weights`` was given and is not usable.
    """
    started = time.monotonic()
    if batch_size < 1 or (limit is not None and limit < 1):
        raise ConfigError(f"batch_size = {batch_size}, limit = {limit}: both must be at least 1")
    translator = model if isinstance(model, Translator) else load(model, device=device, precision=precision)
    warnings: list[str] = []
    network = _open(backbone, weights, translator.device, warnings)
    images = _Images(_pool(data, translator, split), translator.method.image_size, batch_size, limit, seed)
    missing = [d for d in translator.domains if d not in images.pool.domains]
    if missing:
        there = ", ".join(images.pool.domains)
        raise DataError(
            f"the data has no domain {', '.join(missing)}, which the model knows; it has: {there}. Name its folders as the model does"
        )

    real: dict[str, _Set] = {}
    reconstruction: dict[str, Figure] = {}
    for domain in translator.domains:
        real[domain], reconstruction[domain] = _real(translator, network, images, domain)
    directions = [
        _direction(translator, network, images, real, source, target, seed) for source, target in translator.directions
    ]
    for entry in directions:
        if pairs is not None:
            entry |= pixel_figures(translator, pairs, entry["source"], entry["target"], threshold=threshold, left=left)
        if masks is not None:
            entry |= mask_figures(translator, masks, entry["source"], threshold=mask_threshold)
    warnings += _warnings(directions, images)
    results = {
        "directions": directions,
        "reconstruction": reconstruction,
        "warnings": warnings,
        "provenance": {
            "version": __version__,
            "model": str(translator.path) if translator.path else None,
            "model_sha256": translator.sha256 or None,
            "method": translator.header.get("method"),
            "step": translator.header.get("step"),
            "data": images.pool.fingerprint,
            "split": split,
            "n": {domain: images.count(domain) for domain in translator.domains},
            "limit": limit,
            "seed": seed,
            "size": images.size,
            "backbone": network.name if network else None,
            "backbone_sha256": network.sha256 if network else None,
            "resize": network.resize if network else None,
            "pairs": str(pairs) if pairs is not None else None,
            "masks": str(masks) if masks is not None else None,
            "device": str(translator.device),
            "precision": translator.precision,
            "torch": torch.__version__,
            "seconds": round(time.monotonic() - started, 1),
        },
    }
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(out), (json.dumps(results, indent=1) + "\n").encode())
    return results


def _open(
    backbone: str | Backbone, where: Path | str | None, device: torch.device, warnings: list[str]
) -> Backbone | None:
    if not isinstance(backbone, str):
        return backbone
    try:
        return open_backbone(backbone, where, device)
    except WeightsError as error:
        if where is not None:
            raise
        warnings.append(f"no distances: {error}")
        return None


def _pool(data: Pool | DataTree | Path | str, translator: Translator, split: str) -> Pool:
    if not isinstance(data, (DataTree, Path, str)):
        return data
    settings = (translator.header.get("config") or {}).get("data") or {}
    config = DataConfig(**settings).model_copy(update={"size": translator.method.image_size, "resize": None})
    tree = data if isinstance(data, DataTree) else find(data, least=min(2, len(translator.domains)))
    return open_pool(tree, config, split=split)


@dataclass
class _Images:
    """Batches of centre-cropped squares, in an order that follows from the seed."""

    pool: Pool
    size: int
    batch_size: int
    limit: int | None
    seed: int
    lost: dict[str, str] = field(default_factory=dict)

    def count(self, domain: str) -> int:
        n = self.pool.count(domain)
        return n if self.limit is None else min(n, self.limit)

    def batches(self, domain: str) -> Iterator[Tensor]:
        """[n, 3, size, size]; unreadable files are left out and noted."""
        order = np.arange(self.pool.count(domain))
        if self.limit is not None and self.limit < len(order):
            order = np.sort(np.random.default_rng(self.seed).permutation(order)[: self.limit])
        stack: list[Pixels] = []
        for index in order:
            try:
                stack.append(self._square(self.pool.image(domain, int(index))))
            except ImageError as error:
                self.lost[str(error.path)] = error.reason
                continue
            if len(stack) == self.batch_size:
                yield to_tensor(np.stack(stack))
                stack = []
        if stack:
            yield to_tensor(np.stack(stack))

    def _square(self, image: Pixels) -> Pixels:
        from PIL import Image

        from unpaired.data.images import resize

        if min(image.shape[:2]) != self.size:
            image = np.asarray(resize(Image.fromarray(image), self.size, DataConfig()))
        top, left = ((side - self.size) // 2 for side in image.shape[:2])
        return image[top : top + self.size, left : left + self.size]


def _real(translator: Translator, network: Backbone | None, images: _Images, domain: str) -> tuple[_Set, Figure]:
    """Features of a domain's real images, and the error of the method's reconstruction of them."""
    features, error = _Set(network.dim if network else 0), _Mean()
    has_own = True
    for x in images.batches(domain):
        if network is not None:
            features.add(network(x))
        again = translator.reconstruct(x, domain) if has_own else None
        has_own = again is not None
        if again is not None:
            error.add(x, again)
    if not has_own:
        return features, {"value": None, "not_comparable": "this method has no reconstruction", "n": 0}
    return features, error.figure()


def _direction(
    translator: Translator,
    network: Backbone | None,
    images: _Images,
    real: Mapping[str, _Set],
    source: str,
    target: str,
    seed: int,
) -> dict[str, Any]:
    """All figures of one direction."""
    features, cycle = _Set(network.dim if network else 0), _Mean()
    back = (target, source) in translator.directions
    first = 0
    for x in images.batches(source):
        y = _translate(translator, x, source, target, seed, first)
        if back:
            cycle.add(x, _translate(translator, y, target, source, seed, first) if _sound(y) else y)
        if network is not None:
            features.add(network(to_tensor(to_uint8(y))) if _sound(y) else torch.full((len(y), network.dim), math.nan))
        first += len(x)
    result: dict[str, Any] = {"source": source, "target": target, "n_source": images.count(source)}
    result["n_target"] = images.count(target)
    result["cycle_error"] = (
        cycle.figure() if back else {"value": None, "not_comparable": "the way back does not exist", "n": 0}
    )
    if network is not None:
        goal = real[target]
        result[f"FD-{network.name}"] = _with_context(_frechet, features, real[source], goal, seed)
        result[f"KD-{network.name}"] = _with_context(_kernel, features, real[source], goal, seed)
    return result


def _translate(translator: Translator, x: Tensor, source: str, target: str, seed: int, first: int) -> Tensor:
    """Where outputs are random, each image has its own noise by its number, so that batches do not change results."""
    if not translator.method.stochastic:
        return translator.translate(x, source, target)
    seeds = [(seed * 1_000_003 + first + i) % 2**63 for i in range(len(x))]
    return torch.cat([translator.translate(x[i : i + 1], source, target, seed=s) for i, s in enumerate(seeds)])


def _sound(images: Tensor) -> bool:
    return bool(torch.isfinite(images).all())


Distance = Callable[[_Set, _Set, int], Figure]


def _with_context(distance: Distance, translated: _Set, source: _Set, target: _Set, seed: int) -> Figure:
    """The figure, what it was before translation, and what two halves of the real target images have."""
    halves = _Set(target.dim), _Set(target.dim)
    order = torch.randperm(len(target.features), generator=torch.Generator().manual_seed(seed))
    for half, indices in zip(halves, order.chunk(2), strict=False):
        half.add(target.features[indices])
    figure = distance(translated, target, seed)
    return {**figure, "before": distance(source, target, seed), "floor": distance(*halves, seed)}


def _frechet(a: _Set, b: _Set, seed: int) -> Figure:
    return _compare(a, b, lambda: {"value": a.statistics.distance(b.statistics)})


def _kernel(a: _Set, b: _Set, seed: int) -> Figure:
    def compute() -> Figure:
        found = kernel_distance(a.features, b.features, seed=seed)
        return {"value": found.mean, "std": found.std, "subsets": found.subsets, "subset_size": found.subset_size}

    return _compare(a, b, compute)


def _compare(a: _Set, b: _Set, compute: Callable[[], Figure]) -> Figure:
    n = [a.count, b.count]
    try:
        for side in (a, b):
            if side.reason:
                raise NotComparableError(side.reason)
        return {**compute(), "n": n}
    except NotComparableError as error:
        return {"value": None, "not_comparable": str(error).removeprefix("not comparable: "), "n": n}


def _warnings(directions: list[dict[str, Any]], images: _Images) -> list[str]:
    warnings = [f"left out: {path}: {reason}" for path, reason in images.lost.items()]
    least = min((min(d["n_source"], d["n_target"]) for d in directions), default=0)
    if least < ENOUGH_IMAGES and any(key.startswith("FD-") for d in directions for key in d):
        warnings.append(
            f"only {least} images: below {ENOUGH_IMAGES:,} a Fréchet distance is mostly bias. Compare it with 'before' and "
            "'floor' of the same table alone, and trust the kernel distance more"
        )
    return warnings


def _cell(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "not comparable"
    spread = f" ± {figure['std']:.2g}" if figure.get("std") is not None else ""
    return f"{figure['value']:.4g}{spread}"


def format_table(results: Mapping[str, Any], *, width: int = 110) -> str:
    """The results for a terminal: plain text without colours."""
    import io

    from rich.console import Console
    from rich.table import Table

    console = Console(file=io.StringIO(), width=width, color_system=None)
    about = results["provenance"]
    table = Table(
        "direction", "measure", "value", "before", "floor", "N", title=f"{about['method']}, split {about['split']}"
    )
    for entry in results["directions"]:
        name = f"{entry['source']} → {entry['target']}"
        for key, figure in entry.items():
            if not isinstance(figure, dict):
                continue
            n = " / ".join(map(str, figure["n"])) if isinstance(figure["n"], list) else str(figure["n"])
            context = [_cell(figure[k]) if k in figure else "" for k in ("before", "floor")]
            table.add_row(name, key.replace("_", " ") if key == "cycle_error" else key, _cell(figure), *context, n)
            name = ""
    for domain, figure in results["reconstruction"].items():
        table.add_row(domain, "reconstruction error", _cell(figure), "", "", str(figure["n"]))
    console.print(table)
    reasons = {
        f["not_comparable"]
        for d in results["directions"]
        for f in d.values()
        if isinstance(f, dict) and f["value"] is None
    }
    for line in [*(f"not comparable: {r}" for r in sorted(reasons)), *results["warnings"]]:
        console.print(line, markup=False, highlight=False)
    if about["backbone"]:
        console.print(f"backbone {about['backbone']}, {about['resize']}", markup=False, highlight=False)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return str(text).rstrip()
