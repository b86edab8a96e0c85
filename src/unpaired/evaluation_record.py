"""What results say about themselves: options, provenance, titles, warnings."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unpaired._version import __version__
from unpaired.evaluation_classes import ClassifierConfig
from unpaired.evaluation_figures import ENOUGH_IMAGES, describe
from unpaired.evaluation_images import By, Images
from unpaired.evaluation_pass import Pass


@dataclass(frozen=True)
class Options:
    """What :func:`unpaired.evaluate` was asked for, checked."""

    groups: tuple[str, ...]
    batch_size: int
    limit: int | None
    seed: int
    bootstrap: int
    by: By
    split: str
    pairs: Path | str | None
    thresholds: float | Sequence[float]
    left: str | None
    palette: Path | str | None
    masks: Path | str | None
    mask_threshold: float
    classifier: Path | str | None
    labelled: Path | str | None
    classifier_config: ClassifierConfig
    keep_features: bool


def measures_of(results: Mapping[str, Any], backbones: Sequence[str]) -> dict[str, Any]:
    groups = [
        *results["directions"],
        results["means"],
        results.get("classification", {}),
        results.get("adaptation", {}),
    ]
    keys = {k for group in groups for k, v in group.items() if isinstance(v, dict) and "value" in v}
    keys |= {"reconstruction"} if results["reconstruction"] else set()
    return {key: describe(key, backbones) for key in sorted(keys)}


def provenance_of(run: Pass, name: str | None, by: str, options: Options, seconds: float) -> dict[str, Any]:
    """What the figures were computed from."""
    translator, images = run.translator, run.images
    networks = {b: store.backbone for b, store in run.stores.items()}
    first = next(iter(networks.values()), None)
    return {
        "version": __version__,
        "model": str(translator.path) if translator.path else None,
        "model_sha256": translator.sha256 or None,
        "method": translator.header.get("method"),
        "step": translator.header.get("step"),
        "checkpoint": name,
        "chosen_on": (translator.header.get("extra") or {}).get("validation"),
        "data": images.pool.fingerprint,
        "split": options.split,
        "n": {domain: images.count(domain) for domain in translator.domains},
        "by": by,
        "limit": options.limit,
        "seed": options.seed,
        "size": images.size,
        "backbone": first.name if first else None,
        "backbone_sha256": first.sha256 if first else None,
        "resize": first.resize if first else None,
        "backbones": {
            b: {
                "sha256": n.sha256, "resize": n.resize, "dim": n.dim, "precision": getattr(n, "precision", "fp32"),
                "passed": run.stores[b].computed,
            }
            for b, n in networks.items()
        },
        "lpips": {net: model.sha256 for net, model in run.lpips.items()},
        "bootstrap": options.bootstrap,
        "metrics": list(options.groups),
        "pairs": _path(options.pairs),
        "threshold": None if options.pairs is None else list(numbers(options.thresholds)),
        "left": options.left,
        "palette": _path(options.palette),
        "masks": _path(options.masks),
        "mask_threshold": None if options.masks is None else options.mask_threshold,
        "classifier": _path(options.classifier),
        "labelled": _path(options.labelled),
        "device": str(translator.device),
        "precision": translator.precision,
        "processes": run.ranks.world,
        "torch": torch.__version__,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
    }  # fmt: skip


def _path(given: Path | str | None) -> str | None:
    return None if given is None else str(given)


def numbers(given: float | Sequence[float]) -> tuple[float, ...]:
    """One number or several, as several."""
    return (float(given),) if isinstance(given, (int, float)) else tuple(map(float, given))


def warnings_of(entries: Sequence[Mapping[str, Any]], images: Images) -> list[str]:
    """Files that were left out, and the bias of distances from few images."""
    warnings = [f"left out: {path}: {reason}" for path, reason in sorted(images.lost.items())]
    least = min((min(d["n_source"], d["n_target"]) for d in entries), default=0)
    if least < ENOUGH_IMAGES and any(key.startswith(("FD-", "FID")) for d in entries for key in d):
        before = any("before" in v for d in entries for v in d.values() if isinstance(v, dict))
        sides = ["of the untranslated input ('before')"] * before + ["of real images against real ones ('floor')"]
        warnings.append(
            f"only {least} images: below {ENOUGH_IMAGES:,} a Fréchet distance is mostly bias. Compare it only with those {' and '.join(sides)} "
            "in the same table, and trust the kernel distance more"
        )
    return warnings
