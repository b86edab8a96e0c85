"""Features on disk, by the content of each picture: a set is passed through a backbone once, whatever is asked of it later.

Below ``<cache>/features/`` (``$UNPAIRED_CACHE``, else ``~/.cache/unpaired``) every backbone has a folder whose name is a digest of all
that its features depend on: its weights' hash, name, resize, precision, device, PyTorch's version and ``CODE``. In it lie safetensors files of two
tensors, ``keys`` uint8 [N, 32] (SHA-256 of a picture's pixels and shape) and ``features`` float32 [N, D], named by their
own hash and written atomically, so that several processes may add at a time. The whole folder may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from unpaired._files import write_atomically
from unpaired.data.cache import home
from unpaired.data.images import Pixels
from unpaired.metrics.backbones import Backbone, NetworkBackbone

log = logging.getLogger("unpaired")
CODE = 2
"""Counts up when this package computes other features with the same weights and settings: what is on disk is then not taken."""
BATCH = 16
"""Pictures in a pass. It is fixed (the last ones are filled up), so that no other batch size changes the features."""


def content_key(image: Pixels) -> bytes:
    """SHA-256 of a picture, uint8 [H, W, 3]."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).digest()


class FeatureStore:
    """The features of one backbone, in memory and (where ``on_disk``) in the cache."""

    def __init__(self, backbone: Backbone, *, on_disk: bool = True) -> None:
        self.backbone = backbone
        self.computed = 0
        """Pictures that went through the network, those found in the cache not counted."""
        about: list[Any] = [CODE, backbone.name, backbone.sha256, backbone.resize, backbone.dim, torch.__version__]
        about += [getattr(backbone, "precision", "fp32"), str(getattr(backbone, "device", "cpu"))]
        self.folder = home() / "features" / f"{backbone.name}-{hashlib.sha256(repr(about).encode()).hexdigest()[:24]}"
        self.on_disk = on_disk
        self._known: dict[bytes, Tensor] = {}
        self._new: list[bytes] = []
        self._waiting: dict[bytes, Tensor] = {}
        if on_disk:
            for file in sorted(self.folder.glob("*.safetensors")) if self.folder.is_dir() else []:
                self._read(file)

    def _read(self, file: Path) -> None:
        try:
            found = safetensors.torch.load_file(file)
            keys, features = found["keys"], found["features"]
            if keys.shape != (len(features), 32) or features.shape[1:] != (self.backbone.dim,):
                raise ValueError("shapes")
        except (OSError, SafetensorError, KeyError, ValueError):
            log.warning("%s: damaged; its features are computed again", file)
            with contextlib.suppress(OSError):
                file.unlink()
            return
        self._known.update(zip((k.tobytes() for k in keys.numpy()), features, strict=True))

    def add(self, images: Sequence[Pixels] | Pixels, tensors: Tensor) -> list[bytes]:
        """Ask for the features of pictures whose values in [-1, 1] are ``tensors`` [N, 3, H, W]; the keys under which :meth:`rows` has
        them. Those not known yet wait until there are ``BATCH`` of them."""
        keys = [content_key(image) for image in images]
        for key, tensor in zip(keys, tensors, strict=True):
            if key not in self._known and key not in self._waiting:
                self._waiting[key] = tensor
        while len(self._waiting) >= BATCH:
            self._pass(list(self._waiting)[:BATCH])
        return keys

    def rows(self, keys: Sequence[bytes]) -> Tensor:
        """[N, D] of pictures that were asked for."""
        if self._waiting:
            self._pass(list(self._waiting))
        return torch.stack([self._known[key] for key in keys]) if keys else torch.empty(0, self.backbone.dim)

    def _pass(self, keys: list[bytes]) -> None:
        images = torch.stack([self._waiting.pop(key) for key in keys])
        if isinstance(self.backbone, NetworkBackbone) and len(images) < BATCH:
            # always the same shape: kernels chosen by shape would round differently
            images = torch.cat([images, images[-1:].expand(BATCH - len(images), -1, -1, -1)])
        self._known.update(zip(keys, self.backbone(images)[: len(keys)], strict=True))
        self._new += keys
        self.computed += len(keys)

    def save(self) -> None:
        """Write what is new to the cache. A cache that cannot be written is no reason to stop: it is said in the log."""
        if not self.on_disk or not self._new:
            return
        keys = torch.from_numpy(np.frombuffer(b"".join(self._new), np.uint8).reshape(-1, 32).copy())
        features = torch.stack([self._known[key] for key in self._new]).contiguous()
        content = safetensors.torch.save({"keys": keys, "features": features})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / f"{hashlib.sha256(content).hexdigest()[:24]}.safetensors", content)
        except OSError as error:
            log.warning("%s: features are not kept: %s", self.folder, error.strerror or error)
        self._new = []
