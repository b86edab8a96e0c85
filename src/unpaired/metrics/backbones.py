"""Feature networks for distances between sets of images. Each figure carries its backbone's name: "FD-mobilenet_v1".

The name FID belongs to one network, one resize and one set of weights: the backbone ``fid``. No other one may bear it.

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
from torch.nn.utils.fusion import fuse_conv_bn_weights

from unpaired import weights
from unpaired._files import sha256_of
from unpaired.devices import autocast, products, shapes_only
from unpaired.errors import ConfigError, UnpairedError, WeightsError, nearest
from unpaired.networks import inception, mobilenet

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


def figure_name(kind: str, backbone: str) -> str:
    """The name of a figure: ``FD-<backbone>`` and ``KD-<backbone>``; FID and KID for the backbone ``fid`` alone.

    >>> figure_name("FD", "fid"), figure_name("FD", "mobilenet_v1")
    ('FID', 'FD-mobilenet_v1')
    """
    proper = {"FD": "FID", "KD": "KID"}
    if kind in proper and backbone.split("-")[0] == "fid":
        return proper[kind] + backbone.removeprefix("fid")
    return f"{kind}-{backbone}"


def _bilinear(images: Tensor, side: int) -> Tensor:
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True).clamp(-1, 1)


_BILINEAR = "bilinear, antialiased, to {0}×{0} (torch.nn.functional.interpolate)"


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
    precision: str = "fp32"
    """``fp32``, or ``bf16`` for a pass under autocast; the features are float32 in both."""
    resized: Callable[[Tensor, int], Tensor] = _bilinear
    """(images, side) -> images of that side."""
    resize: str = ""
    """The filter in words; named because another filter gives another distance."""

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """float [N, 3, H, W] in [-1, 1] -> float32 [N, D] on the CPU."""
        images = images.to(self.device, torch.float32)
        if images.shape[-2:] != (self.side, self.side):
            images = self.resized(images, self.side)
        images = images.contiguous(memory_format=torch.channels_last)  # as the network is (`_quick`)
        # products as for every figure, whatever the model that is judged runs in: the same picture has the same features
        with products("fp32"), autocast(self.precision, self.device):
            return self.features(images).float().cpu()


@dataclass(frozen=True)
class _Kind:
    dim: int
    side: int
    build: Callable[[Mapping[str, Tensor]], nn.Module]
    weights: str = ""
    """Name of the weights in the catalogue, where it is not the backbone's own."""
    resized: Callable[[Tensor, int], Tensor] = _bilinear
    resize: str = _BILINEAR


class _TensorFlow(nn.Module):
    """The FID network takes (p - 128) / 128 of pixels p in 0 to 255."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.network(((images + 1) * 127.5 - 128) / 128)
        return found


def _fid(state: Mapping[str, Tensor]) -> nn.Module:
    return _TensorFlow(inception.from_state(state))


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
        with shapes_only():
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
    "fid": _Kind(
        inception.FEATURES,
        inception.INPUT_SIDE,
        _fid,
        "fid-inception",
        inception.resize_tensorflow1,
        "bilinear of TensorFlow 1 (no antialiasing, no half-pixel centres) to {0}×{0}, as the original FID",
    ),
    "fid-antialias": _Kind(
        inception.FEATURES,
        inception.INPUT_SIDE,
        _fid,
        "fid-inception",
        resize="bilinear, antialiased, to {0}×{0}: torchmetrics' default, not the original FID's",
    ),
    "vgg16": _Kind(512, 224, _torchvision("vgg16")),
    "vgg19": _Kind(512, 224, _torchvision("vgg19")),
    "alexnet": _Kind(256, 224, _torchvision("alexnet")),
    "squeezenet1_1": _Kind(512, 224, _torchvision("squeezenet1_1")),
    "inception_v3": _Kind(2048, 299, _torchvision("inception_v3")),
}
"""Name (also that of its weights) -> how it is built. Beside these, every classifier of torchvision by its own name there."""


def _any_torchvision(name: str, side: int) -> _Kind | None:
    """Any classifier of torchvision: what its last linear layer sees; None where there is no such name."""
    from torchvision import models

    if name not in models.list_models(module=models):
        return None

    def build(state: Mapping[str, Tensor]) -> nn.Module:
        with shapes_only():
            network = models.get_model(name, weights=None)
        try:
            network.load_state_dict(state, strict=True, assign=True)
        except RuntimeError as error:
            raise WeightsError(f"these tensors are no {name} of torchvision: {error}") from error
        last = [place for place, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
        parent, _, leaf = last.rpartition(".")
        setattr(network.get_submodule(parent), leaf, nn.Identity())
        return _Normalised(network)

    with shapes_only():
        linear = [m for m in models.get_model(name, weights=None).modules() if isinstance(m, nn.Linear)]
    # SqueezeNet alone has none: its 512 last channels, averaged
    return _Kind(linear[-1].in_features, side, build) if linear else _Kind(512, side, _torchvision(name))


def _kind(name: str) -> _Kind:
    """Raises ConfigError."""
    if name in BACKBONES:
        return BACKBONES[name]
    try:
        weights.import_torchvision()
        found = _any_torchvision(name, weights.torchvision_side(name))
    except (ImportError, UnpairedError):  # torchvision is an extra
        found = None
    if found is None:
        raise ConfigError(
            f"unknown backbone '{name}'.{nearest(name, BACKBONES)} There are: {', '.join(BACKBONES)}, and with torchvision "
            "installed every classifier of its own by its name there, as in resnet18."
        )
    return found


def state_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and bytes of tensors, whatever file they came in."""
    sha = hashlib.sha256()
    for key in sorted(state):
        sha.update(key.encode() + state[key].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _quick(network: nn.Module) -> nn.Module:
    """The same frozen network, made for speed: batch norms folded into the convolutions before them, channels last.

    Equal to 1e-6 relative (tests/test_backbones.py). Only pairs that call themselves ``conv`` and ``bn``, or a convolution
    that holds its ``bn``: all of MobileNet v1 and of both Inceptions.
    """
    for module in network.modules():
        convolution = module if isinstance(module, nn.Conv2d) else getattr(module, "conv", None)
        norm = getattr(module, "bn", None)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None and norm.running_var is not None, "trained with running statistics"
            convolution.weight, convolution.bias = fuse_conv_bn_weights(
                convolution.weight,
                convolution.bias,
                norm.running_mean,
                norm.running_var,
                norm.eps,
                norm.weight,
                norm.bias,
            )
            module.bn = nn.Identity()
    return network.to(memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload,no-any-return]


def backbone_from_state(
    name: str, state: Mapping[str, Tensor], device: torch.device | str = "cpu", precision: str = "fp32"
) -> NetworkBackbone:
    """A backbone from tensors that are already in memory. Raises ConfigError, WeightsError."""
    kind = _kind(name)
    digest = state_hash(state)
    network = _quick(kind.build(state).eval().to(device))
    return NetworkBackbone(
        name, kind.dim, kind.side, digest, network, torch.device(device), precision, kind.resized, kind.resize.format(kind.side)
    )  # fmt: skip


def open_backbone(
    name: str = "mobilenet_v1",
    where: Path | str | None = None,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
) -> NetworkBackbone:
    """A pretrained backbone; its weights are found or fetched by :func:`unpaired.weights.find`.

    Args:
        name: a key of ``BACKBONES``, or the name of any classifier of torchvision.
        precision: ``fp32``, or ``bf16`` for a faster pass whose figures differ a little (docs/evaluation.md).

    Raises:
        ConfigError: unknown name. WeightsError: the weights are missing; the text says which file and where to put it.
    """
    kind = _kind(name)
    if precision not in ("fp32", "bf16"):
        raise ConfigError(f"feature precision '{precision}': there are fp32 and bf16")
    if name in BACKBONES:
        catalogue, known = weights.CATALOGUE, kind.weights or name
    else:
        catalogue, known = {name: weights.torchvision_weights(name)}, name
    path = weights.find(known, where, catalogue=catalogue)
    backbone = backbone_from_state(name, weights.read(path), device, precision)
    return replace(backbone, sha256=sha256_of(path))
