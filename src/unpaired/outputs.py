"""The one file that a long command writes at its end: refused before the work where it could not be written, and told in words where
the write fails all the same. Standard library only.
"""

from __future__ import annotations

import os
from pathlib import Path

from unpaired._files import why_unwritten, write_atomically
from unpaired.errors import ConfigError, RefusedError, UnpairedError


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
