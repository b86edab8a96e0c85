"""Writing files so that nobody ever sees half of one, and hashing them. Standard library only."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from pathlib import Path

from unpaired.errors import ConfigError, RefusedError, UnpairedError

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


# ----------------------------------------------------------------------------------------------------
# The one file that a long command writes at its end: refused before the work where it could not be written, and told in words where
# the write fails all the same. Standard library only.


def check_run_apart(out: Path | str, *images: Path | str) -> None:
    """Refuse a run's folder that is, or lies in, a folder of images: its sheets would be read as images. Raises RefusedError."""
    place = os.path.realpath(out)
    for folder in images:
        root = os.path.realpath(folder)
        if os.path.isdir(root) and os.path.commonpath([place, root]) == root:  # noqa: PTH112 (names of any bytes)
            raise RefusedError(
                f"{out}: lies in the images {folder}, where the next look would read the run's own pictures as images. "
                f"Use another --out, as in --out runs/{os.path.basename(root)}"  # noqa: PTH119
            )


def check_output(path: Path | str, example: str) -> None:
    """Refuse a file that cannot be written; nothing is made yet. ``example`` is a file name for the advice. Raises ConfigError."""
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name the file, as in --out {path / example}")
    above = path.parent
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        raise ConfigError(f"{path}: cannot be written: {above} is no folder; use another --out")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(f"{path}: cannot be written: no permission to write in {above}; use another --out")


def write_output(path: Path | str, content: bytes) -> None:
    """Write the file (never half of it); missing folders are made. Raises UnpairedError with cause, needed and free bytes."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise UnpairedError(f"{path}: could not be written: {why_unwritten(path, error, len(content))}") from error
