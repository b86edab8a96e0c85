"""Feature networks for distances between sets of images. Each figure carries its backbone's name: "FD-mobilenet_v1".

The name FID belongs to one network, one resize and one set of weights; none of these is it.

Legend: N batch, H height, W width, D features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unpaired import weights
from unpaired._files import sha256_of
from unpaired.errors import ConfigError, WeightsError, nearest
from unpaired.networks import mobilenet

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@runtime_checkable
class Backbone(Protocol):
    """What turns images into features."""

    @property
    def name(self) -> str:
        """Stands in the name of every figure."""
        ...

    @property
    def dim(self) -> int:
        """D."""
        ...

    @property
    def resize(self) -> str:
        """How images are brought to the network's size, in words."""
        ...

    @property
    def sha256(self) -> str:
        """Hash of the weights: of their file, or of the tensors where there is no file."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """float [N, 3, H, W] in [-1, 1] -> float32 [N, D] on the CPU."""
        ...


@dataclass(frozen=True)
class NetworkBackbone:
    """A network behind a resize."""

    name: str
    dim: int
    side: int
    """Side in pixels of the network's input."""
    sha256: str
    features: Callable[[Tensor], Tensor]
    """[N, 3, side, side] in [-1, 1] -> [N, D]."""
    device: torch.device

    @property
    def resize(self) -> str:
        """Named because another filter gives another distance."""
        return f"bilinear, antialiased, to {self.side}×{self.side} (torch.nn.functional.interpolate)"

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """float [N, 3, H, W] in [-1, 1] -> float32 [N, D] on the CPU."""
        images = images.to(self.device, torch.float32)
        if images.shape[-2:] != (self.side, self.side):
            images = F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True).clamp(-1, 1)
        return self.features(images).float().cpu()


@dataclass(frozen=True)
class _Kind:
    dim: int
    side: int
    build: Callable[[Mapping[str, Tensor]], nn.Module]


def _mobilenet(state: Mapping[str, Tensor]) -> nn.Module:
    return _Pooled(mobilenet.from_state(state))


class _Pooled(nn.Module):
    def __init__(self, network: mobilenet.MobileNetV1) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.pooled(images)


class _Normalised(nn.Module):
    """ImageNet statistics as torchvision uses them, then the network, then the average over space."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(_IMAGENET_STD)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.network(((images + 1) / 2 - self.mean) / self.std)
        return out.mean(dim=(2, 3)) if out.ndim == 4 else out


def _torchvision(name: str) -> Callable[[Mapping[str, Tensor]], nn.Module]:
    """The convolutional part of a torchvision classifier; for Inception v3 all but its last layer."""

    def build(state: Mapping[str, Tensor]) -> nn.Module:
        weights.import_torchvision()
        from torchvision import models

        options = (
            {"aux_logits": True, "init_weights": False, "transform_input": False} if name == "inception_v3" else {}
        )
        with torch.device("meta"):
            network = getattr(models, name)(weights=None, **options)
        try:
            network.load_state_dict(state, strict=True, assign=True)
        except RuntimeError as error:
            raise WeightsError(f"these tensors are no {name} of torchvision: {error}") from error
        if name == "inception_v3":
            network.fc, network.AuxLogits = nn.Identity(), None
            return _Normalised(network)
        return _Normalised(network.features)

    return build


BACKBONES: dict[str, _Kind] = {
    "mobilenet_v1": _Kind(1024, mobilenet.INPUT_SIDE, _mobilenet),
    "vgg16": _Kind(512, 224, _torchvision("vgg16")),
    "vgg19": _Kind(512, 224, _torchvision("vgg19")),
    "alexnet": _Kind(256, 224, _torchvision("alexnet")),
    "squeezenet1_1": _Kind(512, 224, _torchvision("squeezenet1_1")),
    "inception_v3": _Kind(2048, 299, _torchvision("inception_v3")),
}
"""Name (also that of its weights) -> how it is built."""


def state_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and bytes of tensors, whatever file they came in."""
    sha = hashlib.sha256()
    for key in sorted(state):
        sha.update(key.encode() + state[key].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def backbone_from_state(name: str, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> NetworkBackbone:
    """A backbone from tensors that are already in memory. Raises ConfigError, WeightsError."""
    if name not in BACKBONES:
        raise ConfigError(f"unknown backbone '{name}'.{nearest(name, BACKBONES)} There are: {', '.join(BACKBONES)}.")
    kind = BACKBONES[name]
    network = kind.build(state).eval().requires_grad_(False).to(device)
    return NetworkBackbone(name, kind.dim, kind.side, state_hash(state), network, torch.device(device))


def open_backbone(
    name: str = "mobilenet_v1", where: Path | str | None = None, device: torch.device | str = "cpu"
) -> NetworkBackbone:
    """A pretrained backbone; its weights are found or fetched by :func:`unpaired.weights.find`.

    Raises:
        ConfigError: unknown name. WeightsError: the weights are missing; the text says which file and where to put it.
    """
    if name not in BACKBONES:
        raise ConfigError(f"unknown backbone '{name}'.{nearest(name, BACKBONES)} There are: {', '.join(BACKBONES)}.")
    path = weights.find(name, where)
    backbone = backbone_from_state(name, weights.load(name, path), device)
    return replace(backbone, sha256=sha256_of(path))
