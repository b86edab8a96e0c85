"""Writing files so that nobody ever sees half of one, and hashing them. Standard library only."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from pathlib import Path

TEMPORARY_PREFIX = ".unpaired-tmp-"
"""Names that start so are half-written files of a run that is going on or was killed."""
WRITE_CHUNK_BYTES = 16 * 2**20


def write_synced(path: Path, content: bytes) -> None:
    """Write one file and fsync it, in place: a crash can leave a part of it. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view[:WRITE_CHUNK_BYTES]) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` under a temporary name in the same folder, fsync it, and rename it to ``path``.

    The folder must exist. After a crash ``path`` holds its old or its new content, never a part of one. Raises OSError.
    """
    temporary = path.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        write_synced(temporary, content)
        os.replace(temporary, path)  # noqa: PTH105  named so, because the fault tests make this very call fail
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def why_unwritten(path: Path, error: OSError, needed: int) -> str:
    """Cause, needed and free bytes of a write that failed, in words: "No space left on device (1,234 bytes needed, 0 bytes free)"."""
    try:
        room = f"{shutil.disk_usage(path.parent).free:,} bytes free"
    except OSError:
        room = "free space unknown"
    return f"{error.strerror or error} ({needed:,} bytes needed, {room})"


def sync_folder(path: Path) -> None:
    """Make the renames inside a folder durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
