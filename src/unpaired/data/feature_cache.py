"""Feature maps of training crops on disk: fixed-size records, found by a digest of the crop itself.

One file that holds all levels of a crop together, the deepest first, so that a stage reads only as far as it needs. It is made
at its full size, with holes, and filled as training goes; a record counts once its checksum is there. One process at a time
writes and reads it; another one computes instead. Losing the file costs time and nothing else.

Layout: magic, the sizes, then for each slot 16 bytes of digest and 4 of CRC-32, then the records.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import struct
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
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            head = _HEAD.pack(MAGIC, record, capacity)
            start = -(-(_HEAD.size + capacity * _SLOT.itemsize) // _ALIGN) * _ALIGN
            self.bytes = start + record * capacity
            found = os.pread(self._file.fileno(), _HEAD.size, 0)
            if found not in (b"", head) or (found and os.fstat(self._file.fileno()).st_size != self.bytes):
                raise ValueError("another kind of file, or another size")
            if not found:
                os.truncate(path, self.bytes)
                with path.open("r+b") as file:
                    file.write(head)
        except BaseException:
            self._file.close()
            raise
        self._slots = np.memmap(path, _SLOT, "r+", offset=_HEAD.size, shape=(capacity,))
        self._records = np.memmap(path, np.uint8, "r+", offset=start, shape=(capacity, record))
        used = np.flatnonzero(self._slots["key"].any(axis=1))
        self._place = {self._slots["key"][i].tobytes(): int(i) for i in used}
        self._next = int(used[-1]) + 1 if len(used) else 0
        self._sound: set[int] = set()
        """Slots whose checksum has been compared since the file was opened."""

    def __len__(self) -> int:
        return len(self._place)

    def get(self, key: bytes, length: int) -> NDArray[np.uint8] | None:
        """The first ``length`` bytes of a record, or None for one that is not there or is damaged."""
        place = self._place.get(key)
        if place is None:
            return None
        if place not in self._sound:
            if zlib.crc32(self._records[place].data) != int(self._slots["crc"][place]):
                del self._place[key]  # written when the machine went down; computed again
                return None
            self._sound.add(place)
        found: NDArray[np.uint8] = self._records[place, :length]
        return found

    def put(self, key: bytes, record: NDArray[np.uint8]) -> None:
        """Keep a record of ``record`` bytes; nothing where the file is full or has it."""
        if key in self._place or self._next >= self.capacity:
            return
        place, self._next = self._next, self._next + 1
        self._records[place] = record
        self._slots["crc"][place] = zlib.crc32(self._records[place].data)
        self._slots["key"][place] = np.frombuffer(key, np.uint8)
        self._place[key] = place
        self._sound.add(place)

    def close(self) -> None:
        """Write what is pending and free the file for others."""
        self._slots.flush()
        self._records.flush()
        self._file.close()


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
