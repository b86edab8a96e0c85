"""Files: written atomically, hashed, locked, refused before the work, read many at once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

from unpaired.errors import ConfigError, RefusedError, UnpairedError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
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
    """Say why a write failed: "No space left on device (1,234 bytes needed, 0 bytes free)"."""
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
    """Return the SHA-256 of a file's bytes in hexadecimal, read in pieces. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file ``path``, which stays there. The system frees it when its owner dies, so none is ever stale.

    Raises:
        RefusedError: another process holds it; the text is ``busy``.
        OSError: the file cannot be made.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise RefusedError(busy) from None
    try:
        yield
    finally:
        lock.release()


def parallel(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Map over threads, in order, for work that leaves the interpreter's lock; at most a few results wait at a time."""
    workers = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    iterator = iter(items)
    with ThreadPoolExecutor(workers) as executor:
        waiting: list[Future[_Result]] = [executor.submit(function, item) for item in islice(iterator, 4 * workers)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [executor.submit(function, item) for item in islice(iterator, 1)]


def check_run_apart(out: Path | str, *images: Path | str) -> None:
    """Refuse a run's folder that is, or lies in, a folder of images: its sheets would be read as images.
    Raises RefusedError."""
    place = os.path.realpath(out)
    for folder in images:
        root = os.path.realpath(folder)
        if os.path.isdir(root) and os.path.commonpath([place, root]) == root:  # noqa: PTH112 (names of any bytes)
            runs = Path(root).parent / "runs" if Path.cwd().is_relative_to(root) else Path("runs")
            raise RefusedError(
                f"{out}: lies in the images {folder}, where the next look would read the run's own pictures as images. "
                f"Use another --out, as in --out {runs / Path(root).name}"
            )


def check_output(path: Path | str, example: str) -> None:
    """Refuse a file that cannot be written, before any work. ``example`` is a file name for the advice.
    Raises ConfigError."""
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
    """Write the file (never half of it); missing folders are made.
    Raises UnpairedError with cause, needed and free bytes."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise UnpairedError(f"{path}: could not be written: {why_unwritten(path, error, len(content))}") from error
