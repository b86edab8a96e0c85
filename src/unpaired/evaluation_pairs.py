"""Figures for which the right answer is known: translated pictures against true ones, attention masks against true ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unpaired.config import DataConfig
from unpaired.data.images import IMAGE_SUFFIXES, Pixels, open_image, resize, show, to_tensor, to_uint8
from unpaired.errors import ConfigError, DataError, nearest
from unpaired.metrics.pixels import Reading, mask_iou, pixel_accuracy
from unpaired.translation import Translator

READINGS: tuple[Reading, ...] = ("sum", "channel")
MASKS = ("mask", "masks")
"""Name of the folder with true masks beside the folder of pictures."""


def pixel_figures(
    translator: Translator, folder: Path | str, source: str, target: str, *, threshold: float, left: str | None = None
) -> dict[str, Any]:
    """``pixel_accuracy`` by both readings of the threshold, over all pairs of ``folder``, with what the untranslated
    pictures have as ``before``.

    Pairs are pictures of two halves side by side (``left`` names the domain of the left one; None: the source of the model's
    first direction), or files of equal names in two folders named like the domains. Both pictures of a pair are resized to the
    side on which the model was trained, shorter side first, by one filter (bicubic, antialiased), and centre-cropped; the
    translation is rounded to 8 bits. The figure is the mean over pictures.

    Raises DataError, ConfigError.
    """
    if threshold < 0:
        raise ConfigError(f"threshold = {threshold}: must be at least 0")
    left = left or translator.directions[0][0]
    if left not in translator.domains:
        raise ConfigError(
            f"no domain '{left}'.{nearest(left, translator.domains)} This model knows: {', '.join(translator.domains)}."
        )
    after: dict[str, list[float]] = {r: [] for r in READINGS}
    before: dict[str, list[float]] = {r: [] for r in READINGS}
    for one, other in _pairs(Path(folder), source, target, left):
        x, truth = (_square(p, translator.method.image_size) for p in (one, other))
        y = to_uint8(translator.translate(to_tensor(x[None]), source, target, seed=0)[0])
        for reading in READINGS:
            after[reading].append(pixel_accuracy(y, truth, threshold, reading))
            before[reading].append(pixel_accuracy(x, truth, threshold, reading))
    return {
        f"pixel_accuracy_{reading}_{threshold:g}": {**_mean(after[reading]), "before": _mean(before[reading])}
        for reading in READINGS
    }


def mask_figures(translator: Translator, folder: Path | str, source: str, *, threshold: float) -> dict[str, Any]:
    """``mask_iou``: overlap of the attention mask, cut at ``threshold``, with true masks, the mean over pictures.

    ``folder`` holds a folder of pictures named like the source and a folder ``mask`` (or ``masks``) with a file of the same name
    for each, white where the object is. ``before`` is what a mask of the whole picture has: the share of the object.

    Raises DataError, ConfigError (a model without attention among them).
    """
    root = Path(folder)
    place = next((root / name for name in MASKS if (root / name).is_dir()), None)
    if place is None:
        raise DataError(f"{show(root)}: no folder 'mask' with the true masks beside '{source}'")
    found, whole = [], []
    for picture, mask in _same_names(root / source, place):
        x = np.asarray(open_image(picture, min_side=1))
        truth = np.asarray(open_image(mask, min_side=1)).mean(axis=-1) >= 128
        ours = translator.attention(to_tensor(x[None]), threshold=threshold)[0, 0].cpu().numpy() > 0
        found.append(mask_iou(ours, truth))
        whole.append(mask_iou(np.ones_like(truth), truth))
    return {f"mask_iou_{threshold:g}": {**_mean(found), "before": _mean(whole)}}


def _mean(values: list[float]) -> dict[str, Any]:
    return {"value": float(np.mean(values)), "n": len(values)}


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{show(folder)}: no such folder")
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))


def _same_names(one: Path, other: Path) -> list[tuple[Path, Path]]:
    """Files of the same name, whatever their endings. Raises DataError where one has no partner."""
    there = {p.stem: p for p in _images(other)}
    first = _images(one)
    lonely = [p.name for p in first if p.stem not in there]
    if lonely or not first:
        what = f"no partner for {', '.join(lonely[:5])}" if lonely else f"no images in {show(one)}"
        raise DataError(f"{show(other)}: {what}; files of a pair have the same name")
    return [(p, there[p.stem]) for p in first]


def _pairs(root: Path, source: str, target: str, left: str) -> Iterator[tuple[Pixels, Pixels]]:
    """(picture of the source, true picture of the target), uint8 [H, W, 3]."""
    if (root / source).is_dir() and (root / target).is_dir():
        for one, other in _same_names(root / source, root / target):
            yield np.asarray(open_image(one)), np.asarray(open_image(other))
        return
    files = _images(root)
    if not files:
        raise DataError(
            f"{show(root)}: no pairs: neither folders '{source}' and '{target}', nor pictures of two halves side by side"
        )
    for file in files:
        both = np.asarray(open_image(file))
        if both.shape[1] % 2:
            raise DataError(f"{show(file)}: {both.shape[1]} pixels wide, which is no two halves side by side")
        half = both.shape[1] // 2
        parts = both[:, :half], both[:, half:]
        yield parts if source == left else (parts[1], parts[0])


def _square(image: Pixels, side: int) -> Pixels:
    if min(image.shape[:2]) != side:
        image = np.asarray(resize(Image.fromarray(image), side, DataConfig()))
    top, left = ((n - side) // 2 for n in image.shape[:2])
    return np.ascontiguousarray(image[top : top + side, left : left + side])
