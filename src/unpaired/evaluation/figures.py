"""Figures from features and from one number an image: value, interval, both N, floor and baseline, or the reason there
is none.

Legend: m generated images, n real ones, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unpaired.errors import NotComparableError
from unpaired.evaluation.distances import (
    K_COVERAGE,
    K_PRECISION,
    LEAST_RESAMPLES,
    Products,
    centred,
    distance_resamples,
    frechet_limit,
    gaussian_distance,
    kernel_distance,
    mean_interval,
    neighbourhoods,
    resamples_for,
    share_interval,
)
from unpaired.evaluation.features import figure_name

Figure = dict[str, Any]
"""``{"value": float, "n": …}``, or ``{"value": None, "not_comparable": reason, "n": …}``; docs/evaluation.md has all
keys."""
ENOUGH_IMAGES = 2000
"""Below this many images on either side a distance is dominated by its bias: a plain warning is added."""
MEASURES = {
    "FD": ("Fréchet distance", "lower"),
    "KD": ("kernel distance", "lower"),
    "FID": ("Fréchet Inception Distance", "lower"),
    "KID": ("Kernel Inception Distance", "lower"),
    "precision": ("precision: generated images among real ones", "higher"),
    "recall": ("recall: real images among generated ones", "higher"),
    "density": ("density: real neighbours of generated images", "higher"),
    "coverage": ("coverage: real images with a generated neighbour", "higher"),
    "feature_cosine": ("cosine of the features of input and translation", "higher"),
    "ssim_to_input": ("structural similarity to the input", "higher"),
    "change": ("mean |translation - input|", None),
    "cycle_error": ("mean |x - back(forth(x))|", "lower"),
    "identity_error": ("mean |y - translate(y)| of real target images", "lower"),
    "lpips_to_input": ("LPIPS between input and translation", None),
    "lpips_diversity": ("LPIPS between translations of one input", "higher"),
    "pixel_accuracy": ("share of pixels with the true colour", "higher"),
    "mean_iou": ("mean intersection over union of label classes", "higher"),
    "mask_iou": ("intersection over union of attention and true mask", "higher"),
    "mask_f1": ("F1 of attention against true mask", "higher"),
    "rc": ("RC: trained on real, tested on generated images", "higher"),
    "fc": ("FC: trained on generated, tested on real images", "higher"),
    "ceiling": ("trained on real, tested on real images", "higher"),
    "reconstruction": ("mean |x - the method's own reconstruction|", "lower"),
    "accuracy": ("accuracy of a classifier on labelled target images", "higher"),
}
"""First part of a figure's key -> its title, and which way is better (None: neither is)."""


def describe(key: str, backbones: Sequence[str] = ()) -> dict[str, Any]:
    """Title, better direction and backbone of a figure's key."""
    plain = key.removeprefix("m") if key[:3] in ("mFD", "mKD", "mFI", "mKI") else key
    backbone = next((b for b in sorted(backbones, key=len, reverse=True) if plain.endswith(f"-{b}")), None)
    stem = plain.removesuffix(f"-{backbone}") if backbone else plain
    if stem.split("-")[0] in ("FID", "KID"):
        backbone, stem = "fid" + stem[3:], stem[:3]
    found = next((k for k in sorted(MEASURES, key=len, reverse=True) if stem == k or stem.startswith(f"{k}_")), None)
    title, better = MEASURES.get(found or "", (key, None))
    if plain != key:
        title = f"{title}, mean over target classes"
    return {"title": title, "better": better, "backbone": backbone}


def _counts(generated: int, real: int) -> Figure:
    return {"n": [generated, real], "n_generated": generated, "n_real": real}


def nothing(reason: str, generated: int = 0, real: int = 0, *, pair: bool = False) -> Figure:
    """A figure without a number; ``pair``: one of two sets, whose ``n`` has both numbers."""
    counts = _counts(generated, real) if pair else _counts(generated, real) | {"n": generated}
    return {"value": None, "not_comparable": reason.removeprefix("not comparable: "), **counts}


Numbers = Tensor | NDArray[np.float64] | Sequence[float]


def mean_figure(values: Numbers, *, real: int | None = None, seed: int = 0, share: bool = False) -> Figure:
    """The mean of one number an image, with its interval where there are at least two: of a ``share`` of right ones
    Wilson's, else by bootstrap."""
    x = np.asarray(values, dtype=np.float64)
    n = len(x)
    real = n if real is None else real
    if not n:
        return nothing("no images")
    bad = int((~np.isfinite(x)).sum())
    if bad:
        return nothing(f"{bad} outputs are not finite", n, real)
    figure: Figure = {"value": float(x.mean()), "n": n, "n_generated": n, "n_real": real}
    if n > 1:
        figure["interval"] = list(share_interval(figure["value"], n) if share else mean_interval(x, seed=seed))
    return figure


def split_in_halves(features: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Two random halves [N/2, D]."""
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    return features[order[: (len(order) + 1) // 2]], features[order[(len(order) + 1) // 2 :]]


def feature_figures(
    sides: Mapping[str, tuple[Tensor, Tensor]], backbone: str, groups: Sequence[str], *, resamples: int, seed: int
) -> dict[str, Figure]:
    """All figures of one backbone and direction, of the groups ``distances`` and ``coverage``.

    ``sides``: name -> two sets of features [N, D]. The figures are those of "translated"; each holds those of the
    other sides under their names, ``before`` and ``floor``.
    """
    found: dict[str, Figure] = {}
    for side, (x, y) in sides.items():
        here: dict[str, Figure] = {}
        main = side == "translated"
        if "distances" in groups:
            here |= _distances(x, y, backbone, resamples=resamples, seed=seed, limit=main)
        if "coverage" in groups:
            here |= _coverage(x, y, backbone, seed=seed)
        for key, figure in here.items():
            found |= {key: figure} if main else {key: found[key] | {side: figure}}
    return found


def _distances(x: Tensor, y: Tensor, backbone: str, *, resamples: int, seed: int, limit: bool) -> dict[str, Figure]:
    names = figure_name("FD", backbone), figure_name("KD", backbone)
    counts = _counts(len(x), len(y))
    try:
        value, kernel = gaussian_distance(x, y), kernel_distance(x, y, seed=seed)
    except NotComparableError as error:
        return {name: nothing(str(error), len(x), len(y), pair=True) for name in names}
    frechet: Figure = {"value": value, **counts}
    spread = {"std": kernel.std, "subsets": kernel.subsets, "subset_size": kernel.subset_size}
    other: Figure = {"value": kernel.mean, **spread, **counts}
    if kernel.std is not None:
        other["std_of"] = "subsets"
    if resamples or limit:
        products = Products(x, y, seed=seed)
    if resamples:
        for figure, distance, times in (
            (frechet, products.frechet, resamples_for(resamples, min(len(x), len(y)))),
            (other, products.kernel, resamples),
        ):
            values, scale = distance_resamples(distance, len(x), len(y), resamples=times, seed=seed)
            if len(values) >= LEAST_RESAMPLES:
                low, high = centred(values, figure["value"], scale)
                figure["interval"] = [max(0.0, low) if figure is frechet else low, high]
                figure["resamples"] = times
                if figure is other and kernel.std is None:
                    other |= {"std": scale * float(values.std(ddof=1)), "std_of": "bootstrap"}
    if limit:
        frechet["infinity"] = _limit(products, value, len(x), len(y), seed)
    return dict(zip(names, (frechet, other), strict=True))


def _limit(products: Products, value: float, m: int, n: int, seed: int) -> Figure:
    try:
        found = frechet_limit(products, value, m, n, seed=seed)
    except NotComparableError as error:
        return {"value": None, "not_comparable": str(error).removeprefix("not comparable: ")}
    figure: Figure = {"value": found.value, "r2": found.r2}
    if not found.reliable:
        figure["note"] = (
            f"fewer images than the {products.dim} features: the bias is not yet a straight line in "
            "1/N, so this is a rough guess"
        )
    return figure


def _coverage(x: Tensor, y: Tensor, backbone: str, *, seed: int) -> dict[str, Figure]:
    names = ("precision", "recall", "density", "coverage")
    try:
        found = neighbourhoods(x, y)
    except NotComparableError as error:
        return {f"{name}-{backbone}": nothing(str(error), len(x), len(y), pair=True) for name in names}
    figures = {}
    for name in names:
        values = getattr(found, name).numpy()
        figure = mean_figure(values, seed=seed, share=name != "density")  # a density may exceed 1
        k = K_PRECISION if name in ("precision", "recall") else K_COVERAGE
        figures[f"{name}-{backbone}"] = figure | _counts(len(x), len(y)) | {"k": k}
    return figures


def means_over_targets(entries: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Figure]:
    """mFD and mKD: for each target the mean over its sources, then the mean over targets (DeepI2I, Section 4.1). The
    interval takes the classes as independent."""
    found = {}
    for name in names:
        by_target: dict[str, list[Mapping[str, Any]]] = {}
        for entry in entries:
            if name in entry:
                by_target.setdefault(entry["target"], []).append(entry[name])
        if len(by_target) > 1:
            found[f"m{name}"] = _mean_of(by_target)
    return found


def _mean_of(by_target: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    figures = [f for group in by_target.values() for f in group]
    counts = _counts(sum(f["n_generated"] for f in figures), sum(f["n_real"] for f in figures))
    per = {t: _mean([f["value"] for f in group]) for t, group in by_target.items()}
    missing = [t for t, value in per.items() if value is None]
    common = {"classes": len(per), "per": per, **counts}
    if missing:
        what = f"{len(missing)} of {len(per)} classes have no figure: {', '.join(missing[:5])}"
        return {"value": None, "not_comparable": what, **common}
    result: Figure = {"value": _mean(list(per.values())), **common}
    if all("interval" in f for f in figures):
        shares = np.array([1 / len(group) / len(per) for group in by_target.values() for _ in group])
        widths = np.array([np.subtract(f["interval"], f["value"]) for f in figures])  # [figures, 2]
        below, above = np.sqrt(((shares[:, None] * widths) ** 2).sum(axis=0)).tolist()
        result["interval"] = [result["value"] - below, result["value"] + above]
    for side in ("before", "floor"):
        values = [[f[side]["value"] if side in f else None for f in group] for group in by_target.values()]
        value = _mean([_mean(v) for v in values])
        if value is not None:
            result[side] = {"value": value, **counts}
    return result


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
