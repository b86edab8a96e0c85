"""Labelled (and unlabelled) sets for domain adaptation: folders of class folders, or npz files, read into memory.

An npz file holds uint8 images [n, H, W], [n, H, W, 1] or [n, H, W, 3] and integer labels [n]. The names of its arrays say
which is which: a part ``y``, ``label(s)`` or ``target(s)`` means labels, a part ``train``, ``test`` or ``val`` a split. So
``x``/``y``, ``images``/``labels``, ``x_train``/``y_train`` and ``mnist_train``/``mnist_train_y`` are all understood.
"""

from __future__ import annotations

import logging
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unpaired.config import DataConfig
from unpaired.data.cache import parallel
from unpaired.data.folders import MAX_BAD_SHARE, Walk, find_labelled
from unpaired.data.images import Pixels, load_resized, open_regular, resize, short_side, show
from unpaired.data.sampling import ArrayPool
from unpaired.errors import DataError, ImageError

log = logging.getLogger("unpaired")
MAX_CLASSES = 10_000
"""Largest label in an npz file; above it the array is no list of classes."""
MAX_LABELS = 10**8
"""Longest array of labels that is read."""
_LABEL_WORDS = frozenset({"y", "label", "labels", "target", "targets"})
_SPLIT_WORDS = {"train": "train", "test": "test", "val": "test", "valid": "test", "validation": "test"}


class _Array(NamedTuple):
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    split: str  # "" when the name has none
    is_label: bool

    def __str__(self) -> str:
        return f"{show(self.name)} {self.dtype} {list(self.shape)}"


def open_labelled(path: str | os.PathLike[str], config: DataConfig, domain: str, split: str | None = None) -> ArrayPool:
    """The labelled images of ``path`` as a pool of one domain; squares of side ``short_side(config)``.

    Args:
        path: a folder of class folders, the same below train/ and test/ (or val/), or an npz file.
        config: size and filter of the resize; what is not square is cut to its middle. ``cache_gib`` bounds the memory.
        domain: name that the pool gives to these images.
        split: "train" or "test" where the data has splits. None takes "train" where it has splits, else everything.

    Raises:
        DataError: layout, array names, shapes or types; more than 5 % unusable files; does not fit into memory.
    """
    path = Path(path)
    if path.suffix.lower() == ".npz":
        images, labels, classes = _read_npz(path, config, split, labelled=True)
        assert labels is not None
        return ArrayPool({domain: images}, {domain: labels}, classes)
    classes, files, wanted = find_labelled(_split_folder(path, split))
    images, good = _read_files(path, files, config)
    return ArrayPool({domain: images}, {domain: wanted[good]}, classes)


def open_unlabelled(
    path: str | os.PathLike[str], config: DataConfig, domain: str, split: str | None = None
) -> ArrayPool:
    """As `open_labelled` for images whose labels, if there are any, are not to be used: any folder, or an npz file."""
    path = Path(path)
    if path.suffix.lower() == ".npz":
        images, _, _ = _read_npz(path, config, split, labelled=False)
        return ArrayPool({domain: images})
    files = Walk().read(_split_folder(path, split))
    if not files:
        raise DataError(f"{show(path)}: no images")
    return ArrayPool({domain: _read_files(path, files, config)[0]})


def open_files(files: Sequence[Path | str], config: DataConfig, domain: str) -> ArrayPool:
    """These images, none of them left out, as `open_labelled` reads them. Raises ImageError for the first that is unusable."""
    squares = [_square(load_resized(Path(file), config)) for file in files]
    side = short_side(config)
    return ArrayPool({domain: np.stack(squares) if squares else np.empty((0, side, side, 3), np.uint8)})


def _split_folder(path: Path, split: str | None) -> Path:
    if not path.is_dir():
        raise DataError(f"{show(path)}: there is no such folder; expected a folder of class folders or a .npz file")
    found: dict[str, Path] = {}
    for folder in sorted(
        path.iterdir(), key=lambda p: list(_SPLIT_WORDS).index(p.name) if p.name in _SPLIT_WORDS else 9
    ):
        if folder.name in _SPLIT_WORDS and folder.is_dir():
            found.setdefault(_SPLIT_WORDS[folder.name], folder)
    if not found and split in (None, "train"):
        return path
    if (split or "train") not in found:
        raise DataError(f"{show(path)}: no {split or 'train'} folder; there are: {', '.join(found) or 'no splits'}")
    return found[split or "train"]


def _check_memory(path: Path, count: int, config: DataConfig) -> None:
    needed = count * 3 * short_side(config) ** 2
    if needed > config.cache_gib * 2**30:
        raise DataError(
            f"{show(path)}: {count} images of side {short_side(config)} take {needed / 2**30:.1f} GiB of memory, more than "
            f"data.cache_gib={config.cache_gib:g}; raise it or choose a smaller data.size"
        )


def _square(pixels: Pixels) -> Pixels:
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side]


def _read_files(
    path: Path, files: tuple[Path, ...] | list[Path], config: DataConfig
) -> tuple[Pixels, NDArray[np.int64]]:
    """(squares uint8 [n, S, S, 3], indices of the files that could be read)."""
    _check_memory(path, len(files), config)
    side = short_side(config)
    squares = np.empty((len(files), side, side, 3), np.uint8)
    good: list[int] = []
    for index, read in enumerate(parallel(partial(_try_load, config=config), files)):
        if isinstance(read, ImageError):
            log.warning("%s; left out", read)
        else:
            squares[len(good)] = _square(read)
            good.append(index)
    if len(files) - len(good) > MAX_BAD_SHARE * len(files) or not good:
        raise DataError(
            f"{show(path)}: {len(files) - len(good)} of {len(files)} files are unusable; see `unpaired check`"
        )
    return squares[: len(good)], np.array(good, np.int64)


def _try_load(path: Path, config: DataConfig) -> Pixels | ImageError:
    try:
        return load_resized(path, config)
    except ImageError as error:
        return error


# ---- npz ----------------------------------------------------------------------------------------------------------------


def _arrays(path: Path) -> Iterator[_Array]:
    """Name, shape and type of every array, from the headers alone: nothing is decompressed, nothing is allocated."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if not member.endswith(".npy"):
                continue
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                reader = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = reader(file)
            name = member.removesuffix(".npy")
            words = [w for w in re.split(r"[^a-z]+", name.lower()) if w]
            split = next((_SPLIT_WORDS[w] for w in words if w in _SPLIT_WORDS), "")
            yield _Array(name, shape, dtype, split, bool(_LABEL_WORDS & set(words)))


def _read_npz(
    path: Path, config: DataConfig, split: str | None, *, labelled: bool
) -> tuple[Pixels, NDArray[np.int64] | None, tuple[str, ...]]:
    """(squares uint8 [n, S, S, 3], labels int64 [n], names of the classes)."""
    try:
        with open_regular(path):
            arrays = list(_arrays(path))
        chosen, images = _choose(path, arrays, split, labelled)
        _check_memory(path, images.shape[0], config)
        with np.load(path, allow_pickle=False) as file:
            pixels = _resized(file[images.name], config)
            if not labelled:
                return pixels, None, ()
            (label,) = [a for a in chosen if a.is_label]
            labels = file[label.name].astype(np.int64)
            every = [file[a.name].astype(np.int64) for a in arrays if a.is_label and _is_labels(a)]  # all splits
            largest = max(int(values.max(initial=-1)) for values in every)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise DataError(f"{show(path)}: not a readable npz file ({error})") from error
    if len(labels) == 0 or labels.min() < 0 or largest >= MAX_CLASSES:
        raise DataError(f"{show(path)}: labels from {labels.min(initial=0)} to {largest}; expected 0 to classes - 1")
    return pixels, labels, tuple(str(k) for k in range(largest + 1))


def _choose(path: Path, arrays: list[_Array], split: str | None, labelled: bool) -> tuple[list[_Array], _Array]:
    """The arrays of the wanted split, and of these the images."""
    listing = "; ".join(map(str, arrays)) or "none"
    splits = {a.split for a in arrays if a.split}
    wanted = (split or "train") if splits else ""
    if (split == "test" and not splits) or (splits and wanted not in splits):
        raise DataError(f"{show(path)}: no {split or 'train'} arrays; there are: {listing}")
    chosen = [a for a in arrays if a.split == wanted]
    images = [a for a in chosen if not a.is_label and a.dtype == np.uint8 and _is_images(a.shape)]
    labels = [a for a in chosen if a.is_label and _is_labels(a)]
    if len(images) != 1 or (labelled and len(labels) != 1):
        raise DataError(
            f"{show(path)}: expected one uint8 array [n, H, W], [n, H, W, 1] or [n, H, W, 3] named like x, images or x_train"
            + (", and one integer array [n] named like y, labels or y_train" if labelled else "")
            + f"; there are: {listing}"
        )
    if labelled and labels[0].shape[0] != images[0].shape[0]:
        raise DataError(f"{show(path)}: {images[0]} and {labels[0]} differ in length")
    return [images[0], *labels], images[0]


def _is_labels(array: _Array) -> bool:
    return array.dtype.kind in "iu" and len(array.shape) == 1 and array.shape[0] <= MAX_LABELS


def _is_images(shape: tuple[int, ...]) -> bool:
    return len(shape) in (3, 4) and shape[0] > 0 and min(shape[1:3]) >= 1 and (len(shape) == 3 or shape[3] in (1, 3))


def _resized(array: Pixels, config: DataConfig) -> Pixels:
    """[n, H, W], [n, H, W, 1] or [n, H, W, 3] -> [n, S, S, 3]."""
    if array.ndim == 3:
        array = array[..., None]
    side = short_side(config)
    squares = np.empty((len(array), side, side, 3), np.uint8)
    for n, pixels in enumerate(array):
        if min(pixels.shape[:2]) != side:
            grey = pixels.shape[2] == 1
            pixels = np.asarray(resize(Image.fromarray(pixels[..., 0] if grey else pixels), side, config))
            pixels = pixels[..., None] if grey else pixels
        squares[n] = _square(pixels)  # grey spreads over the three channels
    return squares
