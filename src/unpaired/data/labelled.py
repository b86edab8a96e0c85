"""Labelled (and unlabelled) sets for domain adaptation: folders of class folders, or npz files, read into memory.

An npz file holds uint8 images [n, H, W], [n, H, W, 1] or [n, H, W, 3] under ``x`` and their integer labels [n] under
``y``; with splits they are ``x_train``, ``y_train``, ``x_test`` and ``y_test``.
"""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unpaired.config import DataConfig
from unpaired.data.folders import MAX_BAD_SHARE, Walk, find_labelled, has_splits, split_folder
from unpaired.data.images import Pixels, load_all, load_resized, open_regular, resize, short_side, show
from unpaired.data.sampling import ArrayPool
from unpaired.errors import DataError, ImageError

log = logging.getLogger("unpaired")
MAX_CLASSES = 10_000
"""Largest number of classes in an npz file; above it the array is no list of classes."""
MAX_LABELS = 10**8
"""Longest array of labels that is read."""
_LABELS = ("y", "y_train", "y_test")
_Header = tuple[np.dtype[np.generic], tuple[int, ...]]  # type and shape of an array


def open_labelled(path: str | os.PathLike[str], config: DataConfig, domain: str, split: str | None = None) -> ArrayPool:
    """Open the labelled images of ``path`` as a pool of one domain; squares of side ``short_side(config)``.

    Args:
        path: a folder of class folders, the same below train/ and test/ (or val/), or an npz file.
        config: size and filter of the resize; what is not square is cut to its middle. ``cache_gib`` bounds the memory.
        domain: name that the pool gives to these images.
        split: "train" or "test" where the data has splits. None takes "train" where it has splits, else everything.

    Raises:
        DataError: layout, array names, shapes or types; more than 5 % unusable files; does not fit into memory.
    """
    path = Path(path)
    if _is_npz(path):
        images, labels, classes = _read_npz(path, config, split, labelled=True)
        return ArrayPool({domain: images}, {domain: labels}, classes)
    classes, files, wanted = find_labelled(split_folder(path, split))
    images, good = _read_files(path, files, config)
    return ArrayPool({domain: images}, {domain: wanted[good]}, classes)


def open_to_test(path: str | os.PathLike[str], config: DataConfig, domain: str) -> ArrayPool:
    """Open images that a classifier is tested on, as `open_labelled`: the split "test", or all where there is none.

    Never training images. Raises DataError, also for data with other splits alone.
    """
    path = Path(path)
    split = ("x_train" in (there := _headers(path)) or "x_test" in there) if _is_npz(path) else has_splits(path)
    return open_labelled(path, config, domain, "test" if split else None)


def open_unlabelled(
    path: str | os.PathLike[str], config: DataConfig, domain: str, split: str | None = None
) -> ArrayPool:
    """Open images without their labels, if there are any, as `open_labelled`: any folder, or an npz file."""
    path = Path(path)
    if _is_npz(path):
        return ArrayPool({domain: _read_npz(path, config, split, labelled=False)[0]})
    files = Walk().read(split_folder(path, split))
    if not files:
        raise DataError(f"{show(path)}: no images")
    return ArrayPool({domain: _read_files(path, files, config)[0]})


def open_files(files: Sequence[Path | str], config: DataConfig, domain: str) -> ArrayPool:
    """Open these images, none left out, as `open_labelled`. Raises ImageError for the first that is unusable."""
    squares = [_square(load_resized(Path(file), config)) for file in files]
    side = short_side(config)
    return ArrayPool({domain: np.stack(squares) if squares else np.empty((0, side, side, 3), np.uint8)})


def _is_npz(path: Path) -> bool:
    return path.suffix.lower() == ".npz"


def _check_memory(path: Path, count: int, config: DataConfig) -> None:
    needed = count * 3 * short_side(config) ** 2
    if needed > config.cache_gib * 2**30:
        what = f"{count} images of side {short_side(config)} take {needed / 2**30:.1f} GiB of memory"
        limit = f"more than data.cache_gib={config.cache_gib:g}"
        raise DataError(f"{show(path)}: {what}, {limit}; raise it or choose a smaller data.size")


def _square(pixels: Pixels) -> Pixels:
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side]


def _read_files(path: Path, files: Sequence[Path], config: DataConfig) -> tuple[Pixels, NDArray[np.int64]]:
    """(squares uint8 [n, S, S, 3], indices of the files that could be read)."""
    _check_memory(path, len(files), config)
    side = short_side(config)
    squares = np.empty((len(files), side, side, 3), np.uint8)
    good: list[int] = []
    for index, read in enumerate(load_all(files, config)):
        if isinstance(read, ImageError):
            log.warning("%s; left out", read)
        else:
            squares[len(good)] = _square(read)
            good.append(index)
    bad = len(files) - len(good)
    if bad > MAX_BAD_SHARE * len(files) or not good:
        raise DataError(f"{show(path)}: {bad} of {len(files)} files are unusable; see `unpaired check`")
    return squares[: len(good)], np.array(good, np.int64)


# ---- npz -------------------------------------------------------------------------------------------------------------


def _headers(path: Path) -> dict[str, _Header]:
    """Type and shape of the arrays that have a name we know, from their headers alone: nothing is decompressed.
    Raises DataError."""
    found = {}
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                with archive.open(name) as array:
                    form = np.lib.format
                    first = form.read_magic(array) == (1, 0)
                    shape, _, dtype = (form.read_array_header_1_0 if first else form.read_array_header_2_0)(array)
                found[name.removesuffix(".npy")] = (dtype, shape)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise DataError(f"{show(path)}: not a readable npz file ({error})") from error
    return found


def _read_npz(
    path: Path, config: DataConfig, split: str | None, *, labelled: bool
) -> tuple[Pixels, NDArray[np.int64], tuple[str, ...]]:
    """(squares uint8 [n, S, S, 3], labels int64 [n], names of the classes);
    without labels where they are not asked for."""
    arrays = _headers(path)
    if split in (None, "train"):
        split = "train" if "x_train" in arrays or "x_test" in arrays else ""
    x, y = (f"x_{split}", f"y_{split}") if split else ("x", "y")
    images, labels = (arrays.get(name, (np.dtype(bool), ())) for name in (x, y))
    fits = images[0] == np.uint8 and _is_images(images[1])
    if not fits or (labelled and not (_is_labels(labels) and labels[1] == images[1][:1])):
        listing = "; ".join(f"{show(name)} {dtype} {list(shape)}" for name, (dtype, shape) in arrays.items()) or "none"
        raise DataError(
            f"{show(path)}: expected one uint8 array {x} [n, H, W], [n, H, W, 1] or [n, H, W, 3]"
            + (f" and one integer array {y} [n]" if labelled else "")
            + f"; there are: {listing}"
        )
    _check_memory(path, images[1][0], config)
    try:
        with np.load(path, allow_pickle=False) as file:
            pixels = _resized(file[x], config)
            if not labelled:
                return pixels, np.empty(0, np.int64), ()
            every = {name: file[name].astype(np.int64) for name in _LABELS if _is_labels(arrays.get(name))}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise DataError(f"{show(path)}: not a readable npz file ({error})") from error
    classes = np.unique(np.concatenate([values.ravel() for values in every.values()]))
    if not np.array_equal(classes, np.arange(min(len(classes), MAX_CLASSES))):
        shown = ", ".join(map(str, classes[:12])) + (" …" if len(classes) > 12 else "")
        raise DataError(f"{show(path)}: the labels are {shown}; expected each of 0 to classes - 1")
    return pixels, every[y], tuple(map(str, classes))


def _is_labels(array: _Header | None) -> bool:
    return array is not None and array[0].kind in "iu" and len(array[1]) == 1 and array[1][0] <= MAX_LABELS


def _is_images(shape: tuple[int, ...]) -> bool:
    return len(shape) in (3, 4) and shape[0] > 0 and min(shape[1:3]) >= 1 and (len(shape) == 3 or shape[3] in (1, 3))


def _resized(array: Pixels, config: DataConfig) -> Pixels:
    """[n, H, W], [n, H, W, 1] or [n, H, W, 3] -> [n, S, S, 3]."""
    side = short_side(config)
    squares = np.empty((len(array), side, side, 3), np.uint8)
    for n, pixels in enumerate(array):
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)
        read = np.asarray(resize(image, side, config))
        squares[n] = _square(read if read.ndim == 3 else read[..., None])  # grey spreads over the three channels
    return squares
