"""Scores of pixels against a ground truth: colours within a threshold, classes of a palette, overlap of masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unpaired.errors import ConfigError

Reading = Literal["sum", "channel"]
"""``sum``: a pixel is wrong when its three channels differ by more than the threshold in total ("the total RGB difference",
Show, Attend and Translate, section 3.2). ``channel``: when any one channel does."""


def pixel_accuracy(
    found: NDArray[np.uint8], truth: NDArray[np.uint8], threshold: float, reading: Reading = "sum"
) -> float:
    """Share of right pixels, in [0, 1], of uint8 [..., 3]. Raises ConfigError when the shapes differ."""
    if found.shape != truth.shape:
        raise ConfigError(f"pictures of {found.shape} and {truth.shape} cannot be compared pixel by pixel")
    difference = np.abs(found.astype(np.int16) - truth.astype(np.int16))
    amount = difference.sum(axis=-1) if reading == "sum" else difference.max(axis=-1)
    return float((amount <= threshold).mean())


def mask_iou(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Intersection over union, in [0, 1]; 1 where both are empty. Raises ConfigError when the shapes differ."""
    if found.shape != truth.shape:
        raise ConfigError(f"masks of {found.shape} and {truth.shape} cannot be compared")
    union = int((found | truth).sum())
    return int((found & truth).sum()) / union if union else 1.0


def mask_f1(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Harmonic mean of precision and recall of the pixels (Dice), in [0, 1]; 1 where both are empty. Raises ConfigError when the
    shapes differ."""
    if found.shape != truth.shape:
        raise ConfigError(f"masks of {found.shape} and {truth.shape} cannot be compared")
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
        """[K, K]: pixels of class i in the truth that are of class j in ``found``. Raises ConfigError when the shapes differ."""
        if found.shape != truth.shape:
            raise ConfigError(f"pictures of {found.shape} and {truth.shape} cannot be compared pixel by pixel")
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


FACADES = Palette(
    "facades",
    (
        "background", "facade", "window", "door", "cornice", "sill", "balcony", "blind", "deco", "molding", "pillar", "shop",
    ),
    (
        (0, 0, 223), (0, 48, 255), (0, 128, 255), (0, 207, 255), (32, 255, 223), (112, 255, 143), (191, 255, 64), (255, 239, 0),
        (255, 159, 0), (255, 80, 0), (255, 0, 0), (175, 0, 0),
    ),
)  # fmt: skip
"""The CMP facade database in the colours of pix2pix's pictures: every fifth of the 64 of the colour map "jet"."""


def open_palette(name: Path | str) -> Palette:
    """``facades``, or a text file with a class a line: its name and red, green and blue from 0 to 255. Raises ConfigError."""
    if str(name) == FACADES.name:
        return FACADES
    path = Path(name)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"palette {path}: cannot be read ({error}); there is '{FACADES.name}', or give a text file with lines such as: road 128 64 128"
        ) from error
    classes, colours = [], []
    for number, line in enumerate(lines, start=1):
        parts = line.split("#")[0].split()
        if not parts:
            continue
        try:
            red, green, blue = (int(p) for p in parts[-3:])
            if len(parts) < 4 or not all(0 <= c <= 255 for c in (red, green, blue)):
                raise ValueError
        except ValueError as error:
            raise ConfigError(
                f"{path}, line {number}: {line!r}; wanted a name and three numbers from 0 to 255, as in: road 128 64 128"
            ) from error
        classes.append(" ".join(parts[:-3]))
        colours.append((red, green, blue))
    if len(classes) < 2 or len(set(colours)) < len(colours):
        raise ConfigError(f"{path}: a palette needs at least two classes, each with a colour of its own")
    return Palette(path.stem, tuple(classes), tuple(colours))
