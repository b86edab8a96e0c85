"""Figures for which the right answer is known: translated pictures against true ones, attention masks against true
ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from unpaired.config import EvaluateConfig
from unpaired.data.images import IMAGE_SUFFIXES, Pixels, open_image, show, to_tensor, to_uint8
from unpaired.errors import ConfigError, DataError, nearest
from unpaired.evaluation.distances import centred
from unpaired.evaluation.figures import Figure, mean_figure, nothing
from unpaired.evaluation.inputs import square
from unpaired.translate.translator import Translator

Reading = Literal["sum", "channel"]
"""``sum``: a pixel is wrong when its three channels differ by more than the threshold in total ("the total RGB
difference", Show, Attend and Translate, section 3.2). ``channel``: when any one channel does."""
READINGS: tuple[Reading, ...] = ("sum", "channel")
MASKS = ("mask", "masks")
"""Name of the folder with true masks beside the folder of pictures."""


def pixel_figures(
    translator: Translator, source: str, target: str, options: EvaluateConfig, palette: Palette | None = None
) -> dict[str, Any]:
    """``pixel_accuracy`` by both readings of each threshold over all ``options.pairs``, with what the untranslated
    pictures have as ``before``; with a ``palette``, ``mean_iou`` of its classes, where the target is label maps.

    Both pictures of a pair are resized to the side on which the model was trained, shorter side first, by one filter
    (bicubic, antialiased), and centre-cropped; the translation is rounded to 8 bits. Accuracies are means over
    pictures; the mean IoU counts the pixels of all pictures together and is the mean over the classes of the truth.

    Raises DataError, ConfigError.
    """
    assert options.pairs is not None
    pairs, seed = find_pairs(translator, options.pairs, source, target, options.left), options.seed
    ours, theirs, tables, tables_before = [], [], [], []  # accuracies [pairs, keys], confusion tables [pairs, K, K]
    for one, other in map(_open_pair, pairs):
        x, truth = (square(p, translator.method.image_size) for p in (one, other))
        y = translator.translate(to_tensor(x[None]), source, target, seed=seed)[0].cpu()
        sound = bool(torch.isfinite(y).all())  # NaN has no colour
        picture = to_uint8(torch.nan_to_num(y))
        accuracies = _accuracies(picture, truth, options)
        ours.append(accuracies if sound else [math.nan] * len(accuracies))
        theirs.append(_accuracies(x, truth, options))
        if palette is not None:
            tables_before.append(palette.confusion(x, truth))
            tables += [palette.confusion(picture, truth)] * sound
    found: dict[str, Any] = {}
    for key, after, before in zip(pixel_keys(options), np.transpose(ours), np.transpose(theirs), strict=True):
        found[key] = mean_figure(after, seed=seed) | {"before": mean_figure(before, seed=seed)}
    if palette is not None:
        n, bad = len(pairs), len(pairs) - len(tables)
        figure = nothing(f"{bad} outputs are not finite", n, n) if bad else _iou(tables, palette, seed)
        found[f"mean_iou_{palette.name}"] = figure | {"before": _iou(tables_before, palette, seed)}
    return found


def _accuracies(picture: Pixels, truth: Pixels, options: EvaluateConfig) -> list[float]:
    """In the order of :func:`pixel_keys`."""
    return [pixel_accuracy(picture, truth, value, reading) for value in options.threshold for reading in READINGS]


def pixel_keys(options: EvaluateConfig, palette: Palette | None = None) -> list[str]:
    """Name the figures of :func:`pixel_figures`."""
    keys = [f"pixel_accuracy_{reading}_{value:g}" for value in options.threshold for reading in READINGS]
    return keys + ([f"mean_iou_{palette.name}"] if palette is not None else [])


def mask_keys(options: EvaluateConfig) -> list[str]:
    """Name the figures of :func:`mask_figures`."""
    return [f"{name}_{options.mask_threshold:g}" for name in ("mask_iou", "mask_f1")]


def _iou(tables: Sequence[Any], palette: Palette, seed: int) -> Figure:
    """Mean IoU over the classes of the truth; its interval resamples pictures."""
    stack, n = np.stack(tables), len(tables)

    def mean_over_classes(confusion: Any) -> float:
        return float(np.mean([v for v in class_ious(confusion) if v is not None]))

    whole = stack.sum(axis=0)
    figure: Figure = {"value": mean_over_classes(whole), "n": n, "n_generated": n, "n_real": n}
    figure["per_class"] = dict(zip(palette.classes, class_ious(whole), strict=True))
    if n > 1:
        rng = np.random.default_rng(seed)
        values = [mean_over_classes(stack[rng.integers(n, size=n)].sum(axis=0)) for _ in range(200)]
        figure["interval"] = list(centred(np.array(values), figure["value"]))
    return figure


def mask_figures(translator: Translator, source: str, options: EvaluateConfig) -> dict[str, Any]:
    """``mask_iou`` and ``mask_f1``: overlap of the attention mask, cut at the threshold, with the true masks of
    ``options.masks``, the mean over pictures. ``before`` is what a mask of the whole picture has.

    Raises DataError, ConfigError (a model without attention among them).
    """
    assert options.masks is not None
    rows = []
    for picture, mask in find_masks(options.masks, source):
        x = np.asarray(open_image(picture, min_side=1))
        truth = np.asarray(open_image(mask, min_side=1)).mean(axis=-1) >= 128
        if truth.shape != x.shape[:2]:
            sizes = [f"{w}×{h}" for h, w in (truth.shape, x.shape[:2])]
            raise DataError(f"{show(mask)}: {sizes[0]} pixels, but the picture {show(picture)} has {sizes[1]}")
        soft = translator.attention(to_tensor(x[None]))[0, 0].cpu()
        sound = bool(torch.isfinite(soft).all())  # NaN is on neither side of a threshold
        ours, all_of_it = (soft >= options.mask_threshold).numpy(), np.ones_like(truth)
        here = [mask_iou(ours, truth), mask_f1(ours, truth)] if sound else [math.nan, math.nan]
        rows.append([*here, mask_iou(all_of_it, truth), mask_f1(all_of_it, truth)])
    iou, f1, iou_before, f1_before = (mean_figure(column, seed=options.seed) for column in np.transpose(rows))
    return dict(zip(mask_keys(options), (iou | {"before": iou_before}, f1 | {"before": f1_before}), strict=True))


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


@dataclass(frozen=True)
class Pair:
    """Where a picture of the source and the true picture of the target are."""

    source: Path
    target: Path | None
    """None where ``source`` holds both, side by side."""
    source_is_left: bool = True


def find_pairs(translator: Translator, root: Path, source: str, target: str, left: str | None = None) -> list[Pair]:
    """The pairs of a direction, none opened yet: pictures of two halves side by side (``left`` names the domain of the
    left one; None: the source of the model's first direction), or files of equal names in two folders named like the
    domains. Raises DataError, and ConfigError for an unknown domain ``left``."""
    left = left or translator.directions[0][0]
    if left not in translator.domains:
        known = f"{nearest(left, translator.domains)} This model knows: {', '.join(translator.domains)}."
        raise ConfigError(f"no domain '{left}'.{known}")
    if (root / source).is_dir() and (root / target).is_dir():
        return [Pair(one, other) for one, other in _same_names(root / source, root / target)]
    files = _images(root)
    if not files:
        lacking = f"neither folders '{source}' and '{target}', nor pictures of two halves side by side"
        raise DataError(f"{show(root)}: no pairs: {lacking}")
    return [Pair(file, None, source == left) for file in files]


def find_masks(root: Path, source: str) -> list[tuple[Path, Path]]:
    """(picture, true mask) of a source, none opened yet: a folder named like the source, and a folder ``mask`` (or
    ``masks``) with a file of the same name for each, white where the object is. Raises DataError."""
    place = next((root / name for name in MASKS if (root / name).is_dir()), None)
    if place is None:
        raise DataError(f"{show(root)}: no folder 'mask' with the true masks beside '{source}'")
    return _same_names(root / source, place)


def _open_pair(pair: Pair) -> tuple[Pixels, Pixels]:
    """(picture of the source, true picture of the target), uint8 [H, W, 3]."""
    both = np.asarray(open_image(pair.source))
    if pair.target is not None:
        return both, np.asarray(open_image(pair.target))
    if both.shape[1] % 2:
        raise DataError(f"{show(pair.source)}: {both.shape[1]} pixels wide, which is no two halves side by side")
    half = both.shape[1] // 2
    parts = both[:, :half], both[:, half:]
    return parts if pair.source_is_left else (parts[1], parts[0])


# ----------------------------------------------------------------------------------------------------
# Scores of pixels against a ground truth: colours within a threshold, classes of a palette, overlap of masks.


def _same_shape(found: NDArray[Any], truth: NDArray[Any]) -> None:
    if found.shape != truth.shape:
        raise ConfigError(f"pictures of {found.shape} and {truth.shape} cannot be compared pixel by pixel")


def pixel_accuracy(
    found: NDArray[np.uint8], truth: NDArray[np.uint8], threshold: float, reading: Reading = "sum"
) -> float:
    """Share of right pixels, in [0, 1], of uint8 [..., 3]. Raises ConfigError when the shapes differ."""
    _same_shape(found, truth)
    difference = np.abs(found.astype(np.int16) - truth.astype(np.int16))
    amount = difference.sum(axis=-1) if reading == "sum" else difference.max(axis=-1)
    return float((amount <= threshold).mean())


def mask_iou(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Intersection over union, in [0, 1]; 1 where both are empty. Raises ConfigError when the shapes differ."""
    _same_shape(found, truth)
    union = int((found | truth).sum())
    return int((found & truth).sum()) / union if union else 1.0


def mask_f1(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Harmonic mean of precision and recall of the pixels (Dice), in [0, 1]; 1 where both are empty. Raises ConfigError
    when the shapes differ."""
    _same_shape(found, truth)
    both = int(found.sum()) + int(truth.sum())
    return 2 * int((found & truth).sum()) / both if both else 1.0


@dataclass(frozen=True)
class Palette:
    """Names and colours of a label map."""

    name: str
    classes: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]

    def labels(self, image: NDArray[np.uint8]) -> NDArray[np.int64]:
        """[H, W, 3] -> [H, W]: for each pixel the class whose colour is nearest (Euclidean, in RGB)."""
        colours = np.array(self.colours, np.int32)
        flat = image.reshape(-1, 3).astype(np.int32)
        distance = (flat**2).sum(axis=1, keepdims=True) - 2 * flat @ colours.T + (colours**2).sum(axis=1)  # of squares
        nearest_class: NDArray[np.int64] = distance.argmin(axis=1).reshape(image.shape[:2])
        return nearest_class

    def confusion(self, found: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.int64]:
        """[K, K]: pixels of class i in the truth that are of class j in ``found``. Raises ConfigError when the shapes
        differ."""
        _same_shape(found, truth)
        k = len(self.classes)
        cells = self.labels(truth).ravel() * k + self.labels(found).ravel()
        return np.bincount(cells, minlength=k * k).reshape(k, k)


def class_ious(confusion: NDArray[np.int64]) -> list[float | None]:
    """Intersection over union of each class; None for one that the truth never has. Their mean is the mean IoU."""
    inside = confusion.diagonal()
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - inside
    return [
        float(i / u) if there else None for i, u, there in zip(inside, union, confusion.sum(axis=1) > 0, strict=True)
    ]


_FACADES = """
background 0 0 223 # every fifth of the 64 colours of "jet", as in pix2pix's pictures
facade 0 48 255
window 0 128 255
door 0 207 255
cornice 32 255 223
sill 112 255 143
balcony 191 255 64
blind 255 239 0
deco 255 159 0
molding 255 80 0
pillar 255 0 0
shop 175 0 0
"""
"""The CMP facade database."""


def open_palette(name: Path | str) -> Palette:
    """``facades``, or a text file with a class a line: its name and red, green and blue from 0 to 255. Raises
    ConfigError."""
    path = Path(name)
    try:
        text = _FACADES if str(name) == "facades" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"palette {path}: cannot be read ({error}); there is 'facades', or give a text file with lines such as: "
            "road 128 64 128"
        ) from error
    classes, colours = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        parts = line.split("#")[0].split()
        if not parts:
            continue
        try:
            red, green, blue = (int(p) for p in parts[-3:])
            if len(parts) < 4 or not all(0 <= c <= 255 for c in (red, green, blue)):
                raise ValueError
        except ValueError as error:
            wanted = "wanted a name and three numbers from 0 to 255, as in: road 128 64 128"
            raise ConfigError(f"{path}, line {number}: {line!r}; {wanted}") from error
        classes.append(" ".join(parts[:-3]))
        colours.append((red, green, blue))
    if len(classes) < 2 or len(set(colours)) < len(colours):
        raise ConfigError(f"{path}: a palette needs at least two classes, each with a colour of its own")
    return Palette(path.stem, tuple(classes), tuple(colours))
