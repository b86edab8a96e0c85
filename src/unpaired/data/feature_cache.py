"""Feature maps of training crops on disk: fixed-size records, found by a digest of the crop itself.

One file that holds all levels of a crop together, the deepest first, so that a stage reads only as far as it needs. It grows as
training goes; a record counts once its checksum is there. It is read and written by calls that can fail, never through mapped
memory, where a full disk would end the process. One process at a time writes and reads it; another one computes instead. Losing
the file costs time and nothing else.

Layout: magic, the sizes, then for each slot 16 bytes of digest and 4 of CRC-32, then the records.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import struct
import weakref
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unpaired.data import cache

log = logging.getLogger("unpaired")
MAGIC = b"UNPFEAT1"
DIGEST_BYTES = 16
_HEAD = struct.Struct("<8sQQ")
_SLOT = np.dtype([("key", np.uint8, DIGEST_BYTES), ("crc", "<u4")])
_ALIGN = 4096


def digest(pixels: NDArray[np.uint8], domain: int) -> bytes:
    """Name of a crop: of its pixels, its shape and the domain whose statistics its maps are in."""
    return hashlib.blake2b(
        np.ascontiguousarray(pixels).data, digest_size=DIGEST_BYTES, salt=repr((domain, pixels.shape)).encode()[:16]
    ).digest()


class FeatureStore:
    """An open file of ``capacity`` records of ``record`` bytes, locked for this process.

    Raises OSError: it cannot be made or is in use. ValueError: what is there is another kind of file.
    """

    def __init__(self, path: Path, record: int, capacity: int) -> None:
        self.path, self.record, self.capacity = path, record, capacity
        self._start = -(-(_HEAD.size + capacity * _SLOT.itemsize) // _ALIGN) * _ALIGN
        self.bytes = self._start + record * capacity
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            head = _HEAD.pack(MAGIC, record, capacity)
            found = os.pread(self._file, _HEAD.size, 0)
            if not found.strip(b"\0"):  # new, or the machine went down before its first bytes were written
                os.ftruncate(self._file, 0)
                _write(self._file, head, 0)
            elif found != head or os.fstat(self._file).st_size > self.bytes:
                raise ValueError("another kind of file, or another size")
            there = os.pread(self._file, capacity * _SLOT.itemsize, _HEAD.size)
        except BaseException:
            os.close(self._file)
            raise
        # also when its last user forgets it: a run after that, in the same process, would find it locked
        self._close = weakref.finalize(self, os.close, self._file)
        slots = np.frombuffer(there, _SLOT, count=len(there) // _SLOT.itemsize)
        used = np.flatnonzero(slots["key"].any(axis=1))
        self._place = {slots["key"][i].tobytes(): int(i) for i in used}
        self._crc = {int(i): int(slots["crc"][i]) for i in used}
        self._next = int(used[-1]) + 1 if len(used) else 0
        self._full = False
        """Whether it has been said that no more fits."""
        self._sound: set[int] = set()
        """Slots whose checksum has been compared since the file was opened."""

    def __len__(self) -> int:
        return len(self._place)

    def get(self, key: bytes, length: int) -> NDArray[np.uint8] | None:
        """The first ``length`` bytes of a record, or None for one that is not there or is damaged."""
        place = self._place.get(key)
        if place is None:
            return None
        wanted = length if place in self._sound else self.record
        try:
            found = os.pread(self._file, wanted, self._start + place * self.record)
        except OSError:  # a disk that fails is not asked for this one again
            found = b""
        if len(found) < wanted or (place not in self._sound and zlib.crc32(found) != self._crc[place]):
            del self._place[key]  # written when the machine went down; computed again
            return None
        self._sound.add(place)
        return np.frombuffer(found, np.uint8, count=length)

    def put(self, key: bytes, record: NDArray[np.uint8]) -> None:
        """Keep a record of ``record`` bytes; nothing where the file is full or has it. Where the file is full of other crops, and where
        the disk is full or fails, that is logged, and nothing more is kept; what is there stays readable."""
        if key in self._place:
            return
        if self._next >= self.capacity:
            if not self._full:
                log.warning("%s is full of other crops; to keep these, remove it or set UNPAIRED_CACHE", self.path)
            self._full = True
            return
        place, self._next = self._next, self._next + 1
        content = record.tobytes()
        slot = np.zeros((), _SLOT)
        slot["key"], slot["crc"] = np.frombuffer(key, np.uint8), zlib.crc32(content)
        try:
            _write(self._file, content, self._start + place * self.record)
            _write(self._file, slot.tobytes(), _HEAD.size + place * _SLOT.itemsize)
        except OSError as error:
            self._next, self._full = self.capacity, True
            log.warning("%s: %s; no more features are kept, those are computed each time", self.path, error.strerror)
            return
        self._place[key] = place
        self._sound.add(place)

    def close(self) -> None:
        """Free the file for others."""
        self._close()


def _write(file: int, content: bytes, offset: int) -> None:
    """All of ``content``: one call writes a part where the disk fills up, and the next one says so. Raises OSError."""
    view = memoryview(content)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def open_store(name: str, record: int, capacity: int, limit_gib: float) -> FeatureStore | None:
    """The file ``name`` in the folder of caches, its size said before it is written; None, with the reason logged, where it would
    be above ``limit_gib`` or does not fit the disk, and where another process uses it."""
    path = cache.home() / f"{name}.features"
    needed = capacity * (record + _SLOT.itemsize)
    what = f"features of {capacity:,} crops, {record:,} bytes each, are {needed / 2**30:.2f} GiB"
    if needed > limit_gib * 2**30:
        log.warning("%s, more than model.feature_cache_gib = %g; they are computed each time", what, limit_gib)
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.stat().st_blocks * 512 if path.exists() else 0
        free = shutil.disk_usage(path.parent).free
        if needed - there > free:
            log.warning("%s, but %s has %.2f GiB free; they are computed each time", what, path.parent, free / 2**30)
            return None
        log.warning("%s at most; kept in %s", what, path)
        return FeatureStore(path, record, capacity)
    except BlockingIOError:
        log.warning("%s is in use by another process; features are computed each time", path)
    except (OSError, ValueError) as error:
        log.warning("no cache of features (%s: %s); they are computed each time", path, error)
    return None


def rows(images: NDArray[np.uint8], domain: int) -> Sequence[bytes]:
    """Digests of crops [N, H, W, 3]."""
    return [digest(image, domain) for image in images]
