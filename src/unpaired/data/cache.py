"""What is kept on disk, not to be computed again: decoded, resized images, and what ``unpaired check`` found out.

Everything lies below ``$UNPAIRED_CACHE``, else ``$XDG_CACHE_HOME/unpaired``, else ``~/.cache/unpaired``, under names
that are digests of the content and the settings it was made from: other bytes or settings have another name, whatever
the files' times and sizes say. The whole folder may be deleted at any time.

The images of one (data folder, split, resize settings) are two files: ``NAME.images``, the pixels one image after the
other (uint8, 3 × H × W each: a crop then becomes a tensor without reordering), and ``NAME.json``, where each image
lies. The second is written last, and both by temporary file, fsync, rename.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL
from numpy.typing import NDArray

from unpaired.config import DataConfig
from unpaired.data.folders import DataTree
from unpaired.data.images import Pixels, load_all, probe, short_side, show
from unpaired.errors import ImageError
from unpaired.files import parallel, sync_folder, write_atomically

log = logging.getLogger("unpaired")
LAYOUT = 4
"""Counts up when the files of a cache change their form: what is there is then not read."""
LEFT_SECONDS = 3600
"""A half-written cache that nobody has written to for so long was left by a killed process."""


def home() -> Path:
    """Name the folder that caches are kept in; it need not exist."""
    named = os.environ.get("UNPAIRED_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "unpaired"
    except RuntimeError:  # a user without a home, as in containers
        return Path(tempfile.gettempdir()) / f"unpaired-{os.getuid()}"


def keep(path: Path, value: Any) -> None:
    """Write a JSON value into the cache, its digest in front. Raises OSError."""
    body = json.dumps(value).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def kept(path: Path) -> Any:
    """Read what :func:`keep` wrote; None where there is nothing, or it is damaged."""
    try:
        digest, _, body = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return json.loads(body) if hashlib.sha256(body).hexdigest().encode() == digest else None


def key(*parts: object) -> str:
    """Make the name of something kept: a digest of what it was made from."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


def _settings(config: DataConfig) -> dict[str, Any]:
    """Whatever changes the pixels, and with it the versions of Pillow and PyTorch."""
    import torch

    versions = {"layout": LAYOUT, "pillow": PIL.__version__, "torch": torch.__version__}
    return {**versions, "side": short_side(config), "interpolation": config.interpolation}


class Store:
    """An open cache of images. Pickles as its path, so loader workers map the file themselves."""

    def __init__(self, path: Path) -> None:
        """Map the pixels ``path``. Raises ValueError when they are not complete or their list is damaged."""
        self.path = path
        header = kept(path.with_suffix(".json"))
        if header is None or path.stat().st_size != header["bytes"]:
            raise ValueError("cut, grown, or its list damaged")
        self.bad = tuple((e["name"], e["reason"]) for e in header["images"] if "reason" in e)
        """(name, reason) of the files that could not be used."""
        self._places: dict[str, list[tuple[int, int, int] | None]] = {}
        for e in header["images"]:
            place = None if "reason" in e else (e["offset"], e["height"], e["width"])
            self._places.setdefault(e["domain"], []).append(place)
        self._pixels: Pixels = np.memmap(path, np.uint8, "r") if header["bytes"] else np.empty(0, np.uint8)

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.path,)

    def usable(self, domain: str) -> NDArray[np.int64]:
        """Number the listed files that are in the cache."""
        return np.array([i for i, place in enumerate(self._places.get(domain, [])) if place], dtype=np.int64)

    def image(self, domain: str, index: int) -> Pixels:
        """Return a read-only view into the file, uint8 [H, W, 3], of a usable image."""
        place = self._places[domain][index]
        assert place is not None, "only those in usable() are asked for"
        offset, height, width = place
        planes = np.asarray(self._pixels[offset : offset + 3 * height * width]).reshape(3, height, width)
        return np.moveaxis(planes, 0, -1)


def open_store(tree: DataTree, split: str, config: DataConfig) -> Store | None:
    """Open the cache of a split, built when missing or damaged; None, with the reason logged, when it does not fit."""
    path = home() / f"{key(tree.fingerprint(split), _settings(config))}.images"
    if path.exists():
        try:
            return Store(path)
        except (OSError, ValueError, KeyError) as error:
            log.warning("the cache %s is damaged (%s); it is built again", path, error)
    files = tree.listing(split)
    needed = sum(parallel(partial(_cached_bytes, side=short_side(config)), [f for _, f in files]))
    if needed > config.cache_gib * 2**30:
        log.info(
            "decoded images of %s (%s) would take %.1f GiB, more than data.cache_gib=%g; each is decoded when used",
            show(tree.root), split, needed / 2**30, config.cache_gib,
        )  # fmt: skip
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if needed + 2**20 > free:
            log.warning(
                "the cache needs %.2f GiB but %s has %.2f GiB free; each image is decoded when it is used",
                needed / 2**30, path.parent, free / 2**30,
            )  # fmt: skip
            return None
        log.info("decoding %d %s images into %s (%.2f GiB)", len(files), split, path, needed / 2**30)
        _build(path, tree, split, config)
        return Store(path)
    except (OSError, ValueError) as error:  # a full or read-only disk must not stop the training
        log.warning("no cache (%s); each image is decoded when it is used", error)
        return None


def _cached_bytes(path: Path, side: int) -> int:
    """Bytes of an image after the resize, from its header alone; 0 for a file that has no readable header."""
    try:
        width, height = probe(path)
    except ImageError:
        return 0
    return 3 * side * max(side, round(max(width, height) * side / min(width, height)))


def _build(path: Path, tree: DataTree, split: str, config: DataConfig) -> None:
    """Decode every file once and write the cache. What killed builds have left is removed:
    it may be as large as the whole."""
    for left in path.parent.glob(".building-*"):
        with contextlib.suppress(OSError):
            if left.stat().st_mtime < time.time() - LEFT_SECONDS:
                left.unlink()
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".building-")
    try:
        with os.fdopen(handle, "wb") as file:
            header = _write(file, tree, split, config)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    keep(path.with_suffix(".json"), header)
    sync_folder(path.parent)


def _write(file: BinaryIO, tree: DataTree, split: str, config: DataConfig) -> dict[str, Any]:
    """Write the pixels; the list of where they are, or why a file is not among them."""
    offset, images = 0, []
    files = tree.listing(split)
    for (domain, path), pixels in zip(files, load_all([p for _, p in files], config), strict=True):
        about: dict[str, Any] = {"domain": domain, "name": show(tree.name(path))}
        if isinstance(pixels, ImageError):
            about["reason"] = pixels.reason
        else:
            about |= {"offset": offset, "height": pixels.shape[0], "width": pixels.shape[1]}
            file.write(np.ascontiguousarray(np.moveaxis(pixels, -1, 0)).data)
            offset += pixels.nbytes
        images.append(about)
    return {"bytes": offset, "images": images}
