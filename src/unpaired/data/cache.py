"""A memory-mapped file of decoded, resized uint8 images, and the fingerprint of the files it came from.

One file for each (data folder, split, resize settings), below ``$UNPAIRED_CACHE``, else ``$XDG_CACHE_HOME/unpaired``, else
``~/.cache/unpaired``. Its name is a digest of the settings and of every file's relative name, size and modification time,
so a changed folder gets a new cache and never sees an old one. The whole folder may be deleted at any time.

File format, little-endian::

    pixels of all usable images, one after the other (uint8, 3 × H × W each: a crop then becomes a tensor without reordering)
    header: JSON, one entry a file: name, size, mtime_ns, sha256, and shape with offset, or the reason it is unusable
    48 bytes: magic, length of the header, SHA-256 of the header

The header stands last because it is known last. Writing is atomic: temporary file, fsync, rename.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import PIL
from numpy.typing import NDArray

from unpaired.config import DataConfig
from unpaired.data.folders import DataTree, name_bytes
from unpaired.data.images import Pixels, load_resized, open_regular, probe, short_side, show
from unpaired.errors import ImageError
from unpaired.files import sync_folder, write_atomically

log = logging.getLogger("unpaired")
MAGIC = b"UNPCACH2"
_FOOTER = struct.Struct("<8sQ32s")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def home() -> Path:
    """The folder that caches are kept in; it need not exist."""
    named = os.environ.get("UNPAIRED_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "unpaired"


def parallel(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """``map`` over threads, in order. Pillow and hashlib leave the interpreter's lock while they work, and at most a few
    results wait at a time."""
    workers = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    iterator = iter(items)
    with ThreadPoolExecutor(workers) as executor:
        waiting: list[Future[_Result]] = [executor.submit(function, item) for item in islice(iterator, 4 * workers)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [executor.submit(function, item) for item in islice(iterator, 1)]


def digest_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes; ``unreadable`` when they cannot be read."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (ImageError, OSError):
        return "unreadable"


@dataclass(frozen=True)
class Entry:
    """One listed file."""

    split: str
    domain: str
    name: str
    path: Path
    size: int
    mtime_ns: int


def entries_of(tree: DataTree, split: str) -> list[Entry]:
    """The files of a split in the order of the tree; size and time are -1 for a file that is gone."""
    found = []
    for domain in tree.domains:
        for path in tree.files[split, domain]:
            try:
                status = path.stat()
                size, mtime = status.st_size, status.st_mtime_ns
            except OSError:
                size = mtime = -1
            found.append(Entry(split, domain, tree.name(path), path, size, mtime))
    return found


def key(entries: Sequence[Entry], settings: dict[str, Any]) -> str:
    """Name of the cache for these files and settings: a digest of both."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for e in entries:
        digest.update(repr((e.split, e.domain, name_bytes(e.name), e.size, e.mtime_ns)).encode())
    return digest.hexdigest()[:40]


def _settings(config: DataConfig) -> dict[str, Any]:
    """Whatever changes the pixels; the versions of Pillow and PyTorch too, because decoders and filters change with them."""
    names = ("interpolation", "antialias", "draft", "background")
    import torch

    versions = {"pillow": PIL.__version__, "torch": torch.__version__}
    return {"format": MAGIC.decode(), **versions, "side": short_side(config), **{n: getattr(config, n) for n in names}}


class Store:
    """An open cache. Pickles as its path, so loader workers map the file themselves."""

    def __init__(self, path: Path) -> None:
        """Map ``path``. Raises ValueError when it is not a complete, undamaged cache."""
        self.path = path
        header = read_header(path)
        self.digests: list[str] = [e["sha256"] for e in header["entries"]]
        self.bad = tuple((e["name"], e["reason"]) for e in header["entries"] if "reason" in e)
        self._places: dict[tuple[str, str], list[tuple[int, int, int] | None]] = {}
        for e in header["entries"]:
            place = None if "reason" in e else (e["offset"], e["height"], e["width"])
            self._places.setdefault((e["split"], e["domain"]), []).append(place)
        length = header["bytes"]
        self._pixels: Pixels = np.memmap(path, np.uint8, "r", shape=(length,)) if length else np.empty(0, np.uint8)

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.path,)

    def usable(self, split: str, domain: str) -> NDArray[np.bool_]:
        """[n] whether each listed file is in the cache."""
        return np.array([p is not None for p in self._places.get((split, domain), [])], dtype=np.bool_)

    def image(self, split: str, domain: str, index: int) -> Pixels:
        """uint8 [H, W, 3], a read-only view into the file."""
        place = self._places[split, domain][index]
        if place is None:
            raise ImageError(f"{domain} number {index}", "unusable when the cache was built")
        offset, height, width = place
        planes = np.asarray(self._pixels[offset : offset + 3 * height * width]).reshape(3, height, width)
        return np.moveaxis(planes, 0, -1)


def read_header(path: Path) -> dict[str, Any]:
    """The header of a cache file. Raises ValueError when the file is cut, grown, or its header damaged."""
    with path.open("rb") as file:
        total = file.seek(0, os.SEEK_END)
        if total < _FOOTER.size:
            raise ValueError("too short")
        file.seek(total - _FOOTER.size)
        magic, length, digest = _FOOTER.unpack(file.read(_FOOTER.size))
        if magic != MAGIC or length > total - _FOOTER.size:
            raise ValueError("no footer")
        file.seek(total - _FOOTER.size - length)
        text = file.read(length)
    if hashlib.sha256(text).digest() != digest:
        raise ValueError("wrong digest of the header")
    header: dict[str, Any] = json.loads(text)
    if header["bytes"] + length + _FOOTER.size != total:
        raise ValueError(f"{total} bytes, expected {header['bytes'] + length + _FOOTER.size}")
    return header


def open_store(tree: DataTree, split: str, config: DataConfig) -> Store | None:
    """The cache of a split, built when it is not there or damaged; None when it would not fit, with the reason logged."""
    entries = entries_of(tree, split)
    path = home() / f"{key(entries, _settings(config))}.images"
    if path.exists():
        try:
            return Store(path)
        except (OSError, ValueError, KeyError) as error:
            log.warning("the cache %s is damaged (%s); it is built again", path, error)
    needed = sum(parallel(partial(_cached_bytes, side=short_side(config)), entries))
    if needed > config.cache_gib * 2**30:
        log.info(
            "decoded images of %s (%s) would take %.1f GiB, more than data.cache_gib=%g; each is decoded when it is used",
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
        log.info("decoding %d %s images into %s (%.2f GiB)", len(entries), split, path, needed / 2**30)
        _build(path, entries, config)
        return Store(path)
    except OSError as error:  # a full or read-only disk must not stop the training
        log.warning("no cache (%s); each image is decoded when it is used", error)
        return None


def _cached_bytes(entry: Entry, side: int) -> int:
    """Bytes of an image after the resize, from its header alone; 0 for a file that has no readable header."""
    try:
        width, height = probe(entry.path)
    except ImageError:
        return 0
    return 3 * side * max(side, round(max(width, height) * side / min(width, height)))


def _build(path: Path, entries: Sequence[Entry], config: DataConfig) -> None:
    """Decode every file once, write the cache, rename it into place. What killed builds have left is removed."""
    for left in path.parent.glob(".building-*"):
        with contextlib.suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its builder, if there is one, holds it
            left.unlink()
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".building-")
    try:
        with os.fdopen(handle, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            _write(file, entries, config)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _write(file: BinaryIO, entries: Sequence[Entry], config: DataConfig) -> None:
    offset, listed = 0, []
    for entry, (pixels, digest, reason) in zip(
        entries, parallel(partial(_decode, config=config), entries), strict=True
    ):
        about: dict[str, Any] = {
            "split": entry.split,
            "domain": entry.domain,
            "name": show(entry.name),
            "sha256": digest,
        }
        about |= {"size": entry.size, "mtime_ns": entry.mtime_ns}
        if pixels is None:
            about["reason"] = reason
        else:
            about |= {"offset": offset, "height": pixels.shape[0], "width": pixels.shape[1]}
            file.write(np.ascontiguousarray(np.moveaxis(pixels, -1, 0)).data)
            offset += pixels.nbytes
        listed.append(about)
    header = json.dumps({"settings": _settings(config), "bytes": offset, "entries": listed}).encode()
    file.write(header)
    file.write(_FOOTER.pack(MAGIC, len(header), hashlib.sha256(header).digest()))


def _decode(entry: Entry, config: DataConfig) -> tuple[Pixels | None, str, str]:
    """(pixels or None, SHA-256 of the file, reason)."""
    digest = digest_file(entry.path)
    try:
        return load_resized(entry.path, config), digest, ""
    except ImageError as error:
        return None, digest, error.reason


def fingerprint(tree: DataTree, split: str, store: Store | None) -> str:
    """SHA-256 (hex) over (domain, split, relative name, SHA-256 of the bytes) of every listed file of a split.

    From the cache's header where there is one. Else the files are read, and their digests kept beside the caches, so that
    the next run need not read them again.
    """
    entries = entries_of(tree, split)
    digests = store.digests if store is not None else _file_digests(entries)
    total = hashlib.sha256(b"unpaired data 1\n")
    for entry, digest in zip(entries, digests, strict=True):
        for part in (entry.domain.encode(), entry.split.encode(), name_bytes(entry.name), digest.encode()):
            total.update(struct.pack("<Q", len(part)) + part)  # lengths first: no two lists can look the same
    return total.hexdigest()


def _file_digests(entries: Sequence[Entry]) -> list[str]:
    path = home() / f"{key(entries, {'digests': 1})}.digests"
    try:
        kept = path.read_text().split()
        if len(kept) == len(entries) + 1 and kept[-1] == "end":
            return kept[:-1]
    except (OSError, UnicodeDecodeError):
        pass
    digests = list(parallel(digest_file, [e.path for e in entries]))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, "\n".join([*digests, "end"]).encode())
    except OSError as error:
        log.debug("digests not kept: %s", error)
    return digests
