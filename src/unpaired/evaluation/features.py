"""Feature networks for distances between sets of images. Each figure carries its backbone's name: "FD-mobilenet_v1".

The name FID belongs to one network, one resize and one set of weights: the backbone ``fid``. No other one may bear it.

Legend: N batch, H height, W width, D features.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from unpaired import weights
from unpaired.data.cache import home
from unpaired.data.images import Pixels, to_tensor, to_uint8
from unpaired.errors import ConfigError, UnpairedError, WeightsError, nearest
from unpaired.evaluation.inputs import Images, Item, Task, gather
from unpaired.files import sha256_of, write_atomically
from unpaired.machine import Ranks, autocast, products, shapes_only
from unpaired.networks import classifiers, inception
from unpaired.translate.translator import Translator

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
    return _Pooled(classifiers.from_state(state))


class _Pooled(nn.Module):
    def __init__(self, network: classifiers.MobileNetV1) -> None:
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
    "mobilenet_v1": _Kind(1024, classifiers.INPUT_SIDE, _mobilenet),
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

    Equal to 1e-6 relative (tests/evaluation/test_backbones.py). Only pairs that call themselves ``conv`` and ``bn``, or a convolution
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


# ----------------------------------------------------------------------------------------------------
# How far one picture is from another: LPIPS with its official weights, and SSIM.
#
# Legend: N batch, C channels, H height, W width; pictures [N, 3, H, W] in [-1, 1].

_LAYERS = {"alex": ("alexnet", (1, 4, 7, 9, 11)), "vgg": ("vgg16", (3, 8, 15, 22, 29))}
"""torchvision's name, and the ReLUs whose outputs are compared."""
_CHANNELS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation for pictures in [-1, 1], as the authors rounded them."""
MIN_SIDE = 64
"""Smaller pictures are enlarged to this side first (bilinear): AlexNet's strides leave nothing of them."""


class LPIPS(nn.Module):
    """Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric (arXiv 1801.03924), Eq. 1.

    d(x, y) = Σ_l mean over H, W of w_l · (x̂_l - ŷ_l)², with x̂_l the features of layer l, of unit length over C.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: str, layers: nn.Module, linear: list[Tensor]) -> None:
        super().__init__()
        self.net, self.layers = net, layers
        self.register_buffer("shift", torch.tensor(_SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(_SCALE)[:, None, None])
        for i, weight in enumerate(linear):
            self.register_buffer(f"linear{i}", weight.reshape(1, -1, 1, 1))
        self.sha256: dict[str, str] = {}
        """Hashes of the two files, for records."""
        self.eval().requires_grad_(False)

    def _unit_features(self, images: Tensor) -> list[Tensor]:
        x = (images - self.shift) / self.scale
        found, wanted = [], _LAYERS[self.net][1]
        for i, layer in enumerate(self.layers.children()):
            x = layer(x)
            if i in wanted:
                found.append(x / (x.square().sum(dim=1, keepdim=True) + 1e-8).sqrt())
            if i == wanted[-1]:
                break
        return found

    @torch.inference_mode()
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """[N] distances between pictures of the same place in the two batches."""
        if x.shape != y.shape:
            raise ConfigError(f"pictures of {list(x.shape)} and {list(y.shape)} cannot be compared")
        x, y = (_at_least(s.to(self.shift.device, torch.float32), MIN_SIDE) for s in (x, y))
        total = torch.zeros(len(x), device=self.shift.device)
        with products("fp32"):  # whatever the model that is judged runs in
            features = zip(self._unit_features(x), self._unit_features(y), strict=True)
        for i, (a, b) in enumerate(features):
            total += (self.get_buffer(f"linear{i}") * (a - b).square()).sum(dim=1).mean(dim=(1, 2))
        return total.cpu()


def _at_least(images: Tensor, side: int) -> Tensor:
    if min(images.shape[2:]) >= side:
        return images
    factor = side / min(images.shape[2:])
    size = [max(side, round(n * factor)) for n in images.shape[2:]]
    return F.interpolate(images, size, mode="bilinear", align_corners=False)


def open_lpips(net: str = "alex", where: Path | str | None = None, device: torch.device | str = "cpu") -> LPIPS:
    """LPIPS 0.1 over AlexNet or VGG-16: torchvision's weights, and the authors' linear layers from ``where``, the usual
    places, or the package torchmetrics, which brings them; each with its hash checked.

    Args:
        where: a folder with both files.

    Raises:
        ConfigError: unknown net. WeightsError: a file is missing or is not the right one; the text has its name.
    """
    if net not in _LAYERS:
        raise ConfigError(f"unknown LPIPS network '{net}': there are {', '.join(_LAYERS)}")
    linear = _linear_file(net, where)
    backbone = weights.find(_LAYERS[net][0], where)
    found = lpips_from_state(net, weights.read(backbone), weights.read(linear)).to(device)
    found.sha256 = {"network": sha256_of(backbone), "linear": sha256_of(linear)}
    return found


def _linear_file(net: str, where: Path | str | None) -> Path:
    name = f"lpips_{net}"
    try:
        return weights.find(name, where, offline=True)
    except WeightsError:
        package = importlib.util.find_spec("torchmetrics")
        for place in package.submodule_search_locations or () if package else ():
            file = Path(place) / "functional" / "image" / "lpips_models" / f"{net}.pth"
            if file.is_file():
                return weights.find(name, file)
        return weights.find(name)


def lpips_from_state(net: str, network: dict[str, Tensor], linear: dict[str, Tensor]) -> LPIPS:
    """From tensors in memory: torchvision's ``network`` and LPIPS's ``linear`` layers. Raises WeightsError."""
    weights.import_torchvision()
    from torchvision import models

    with shapes_only():
        layers = getattr(models, _LAYERS[net][0])(weights=None).features
    own = {k.removeprefix("features."): v for k, v in network.items() if k.startswith("features.")}
    try:
        layers.load_state_dict(own, strict=True, assign=True)
        rows = [linear[f"lin{i}.model.1.weight"] for i in range(len(_CHANNELS[net]))]
    except (RuntimeError, KeyError) as error:
        raise WeightsError(f"these tensors are no LPIPS over {net}: {error}") from error
    if [r.numel() for r in rows] != list(_CHANNELS[net]):
        raise WeightsError(f"these linear layers are not those of LPIPS over {net}")
    for layer in layers:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # what is compared must not be overwritten
    return LPIPS(net, layers, rows)


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity of each pair of pictures [N, 3, H, W] in [-1, 1] -> [N] in [-1, 1]; 1 for equal ones.

    Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity (2004), Eq. 13: Gaussian window of 11 × 11
    and deviation 1.5, K = (0.01, 0.03), mean over the places where the window fits and over the three channels. In pictures
    below 11 pixels the window is as large as they are.
    """
    if x.shape != y.shape:
        raise ConfigError(f"pictures of {list(x.shape)} and {list(y.shape)} cannot be compared")
    x, y = ((s.detach().cpu().double() + 1) / 2 for s in (x, y))
    rows, columns = (_window(min(11, n)) for n in x.shape[2:])
    channels = x.shape[1]
    kernel = torch.outer(rows, columns).expand(channels, 1, -1, -1)

    def mean(z: Tensor) -> Tensor:
        return F.conv2d(z, kernel, groups=channels)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    score = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))  # Eq. 13
    return score.mean(dim=(1, 2, 3))


def _window(size: int) -> Tensor:
    place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weight = torch.exp(-place.square() / (2 * 1.5**2))
    return weight / weight.sum()


# ----------------------------------------------------------------------------------------------------
# Features on disk, by the content of each picture: a set is passed through a backbone once, whatever is asked of it later.
#
# Below ``<cache>/features/`` (``$UNPAIRED_CACHE``, else ``~/.cache/unpaired``) every backbone has a folder whose name is a digest of all
# that its features depend on: its weights' hash, name, resize, precision, device, PyTorch's version and ``CODE``. In it lie safetensors files of two
# tensors, ``keys`` uint8 [N, 32] (SHA-256 of a picture's pixels and shape) and ``features`` float32 [N, D], named by their
# own hash and written atomically, so that several processes may add at a time. The whole folder may be deleted at any time.

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


# ----------------------------------------------------------------------------------------------------
# One pass over pictures: what is translated, what is measured of each picture, and the features of every set.
#
# Legend: n images, D features, S side; images [n, 3, S, S] in [-1, 1], pixels uint8 [n, S, S, 3].

DIVERSITY_INPUTS, DIVERSITY_SAMPLES = 50, 5
"""Inputs whose translations are compared with each other, and translations of each (methods with random outputs)."""


@dataclass
class Pass:
    """What a pass needs."""

    translator: Translator
    images: Images
    stores: Mapping[str, FeatureStore]
    lpips: Mapping[str, LPIPS]
    groups: Sequence[str]
    seed: int
    ranks: Ranks
    keep_pixels: bool = False
    """Also keep the translations themselves (for RC)."""

    def __post_init__(self) -> None:
        self._ways = frozenset(self.translator.directions)

    # ---- sets of features --------------------------------------------------------------------------------

    def features(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Features [n, D] of real pictures by backbone."""
        keys: dict[str, list[bytes]] = {name: [] for name in self.stores}
        places: list[int] = []
        for at, _, pixels in self.images.batches(items, self.ranks):
            places += at
            for name, store in self.stores.items():
                keys[name] += store.add(pixels, to_tensor(pixels))
        found = {name: store.rows(keys[name]) for name, store in self.stores.items()}
        return gather({"place": _places(places), **found}, self.ranks)

    def reconstruction(self, domain: str) -> Tensor | None:
        """[n] mean |x - x̂| of the method's own reconstruction; None where it has none."""
        errors: list[Tensor] = []
        places: list[int] = []
        for at, _, pixels in self.images.batches(self.images.items(domain), self.ranks):
            x = to_tensor(pixels)
            again = self.translator.reconstruct(x, domain)
            if again is None:
                return None
            places += at
            errors.append(_error(x, again))
        rows = {"place": _places(places), "error": _joined(errors)}
        return gather(rows, self.ranks)["error"]

    # ---- translations ------------------------------------------------------------------------------------

    def direction(self, task: Task) -> dict[str, Tensor]:
        """Rows of one task in the order of its items: ``place``; one number an image each (``change``, ``ssim_to_input``,
        ``cycle_error``, ``lpips_to_input_<net>``, ``feature_cosine-<b>``); features ``generated/<b>`` and ``source/<b>`` [n, D];
        ``pixels`` [n, S, S, 3] and ``sound`` [n] (whether they are finite) where they are kept. A translation that is not finite
        gives NaN everywhere."""
        parts: list[dict[str, Tensor]] = []
        keys: dict[str, list[bytes]] = {
            f"{side}/{name}": [] for side in ("generated", "source") for name in self.stores
        }
        for places, source, pixels in self.images.batches(task.items, self.ranks):
            rows, result = self._batch(places, source, task.target, pixels)
            parts.append(rows)
            for name, store in self.stores.items():
                keys[f"generated/{name}"] += store.add(result, to_tensor(result))
                keys[f"source/{name}"] += store.add(pixels, to_tensor(pixels))
        rows = {k: torch.cat([p[k] for p in parts]) for k in parts[0]} if parts else self._nothing(task)
        sound = rows["sound"] if self.keep_pixels else rows.pop("sound")
        for name, store in self.stores.items():
            generated, before = (store.rows(keys[f"{side}/{name}"]) for side in ("generated", "source"))
            rows[f"generated/{name}"], rows[f"source/{name}"] = generated, before
            if "content" in self.groups:
                rows[f"feature_cosine-{name}"] = torch.cosine_similarity(before.double(), generated.double(), dim=1)
        for key, value in rows.items():
            if key not in ("place", "pixels", "sound") and not key.startswith("source/"):
                value[~sound] = math.nan
        return gather(rows, self.ranks)

    def _batch(self, places: list[int], source: str, target: str, pixels: Pixels) -> tuple[dict[str, Tensor], Pixels]:
        """Rows of one batch, and its translations, rounded."""
        x = to_tensor(pixels)
        y = translate(self.translator, x, source, target, self.seed, places).cpu()
        sound = torch.isfinite(y).flatten(1).all(dim=1)
        y = torch.nan_to_num(y)
        result = to_uint8(y)
        rounded = to_tensor(result)
        rows: dict[str, Tensor] = {"place": _places(places), "sound": sound}
        if "content" in self.groups:
            rows["change"] = _error(x, rounded)
            rows["ssim_to_input"] = ssim(x, rounded)
        if "errors" in self.groups and (target, source) in self._ways:
            rows["cycle_error"] = _error(x, translate(self.translator, y, target, source, self.seed, places))
        for net, model in self.lpips.items():
            rows[f"lpips_to_input_{net}"] = model(x, rounded).double()
        if self.keep_pixels:
            rows["pixels"] = torch.from_numpy(result)
        return rows, result

    def _nothing(self, task: Task) -> dict[str, Tensor]:
        """Rows of no picture."""
        names = [f"lpips_to_input_{net}" for net in self.lpips]
        names += ["change", "ssim_to_input"] if "content" in self.groups else []
        if "errors" in self.groups and (task.target, task.source) in self._ways:
            names.append("cycle_error")
        empty = {name: torch.empty(0, dtype=torch.float64) for name in names}
        return {"place": _places([]), "sound": torch.empty(0, dtype=torch.bool), **empty}

    def identity(self, source: str, target: str) -> Tensor:
        """[n] mean |y - translate(y)| of real target pictures given as if they were the source's."""
        errors: list[Tensor] = []
        places: list[int] = []
        for at, _, pixels in self.images.batches(self.images.items(target), self.ranks):
            y = to_tensor(pixels)
            errors.append(_error(y, translate(self.translator, y, source, target, self.seed, at)))
            places += at
        rows = {"place": _places(places), "error": _joined(errors)}
        return gather(rows, self.ranks)["error"]

    def diversity(self, task: Task) -> dict[str, Tensor]:
        """By network, [inputs]: the mean LPIPS over all pairs of several translations of one input."""
        n = len(task.items)
        places_of = np.linspace(0, n - 1, min(n, DIVERSITY_INPUTS)).round().astype(int)  # evenly over all sources
        items = [task.items[i] for i in places_of.tolist()]
        found: dict[str, list[Tensor]] = {net: [] for net in self.lpips}
        places: list[int] = []
        for at, source, pixels in self.images.batches(items, self.ranks):
            x = to_tensor(pixels)
            samples = []
            sound = torch.ones(len(x), dtype=torch.bool)
            for k in range(DIVERSITY_SAMPLES):
                y = translate(self.translator, x, source, task.target, self.seed + 1 + k, at).cpu()
                sound &= torch.isfinite(y).flatten(1).all(dim=1)
                samples.append(to_tensor(to_uint8(torch.nan_to_num(y))))
            pairs = [(i, j) for i in range(len(samples)) for j in range(i)]
            for net, model in self.lpips.items():
                mean = torch.stack([model(samples[i], samples[j]) for i, j in pairs]).double().mean(dim=0)
                found[net].append(mean.masked_fill(~sound, math.nan))
            places += at
        rows = {"place": _places(places)} | {net: _joined(v) for net, v in found.items()}
        return {k: v for k, v in gather(rows, self.ranks).items() if k != "place"}


def _places(places: Sequence[int]) -> Tensor:
    return torch.tensor(places, dtype=torch.int64)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if parts else torch.empty(0, dtype=torch.float64)


def _error(a: Tensor, b: Tensor) -> Tensor:
    """[n] mean |a - b| over each image [n, 3, H, W], float64."""
    return (a.float().cpu() - b.float().cpu()).abs().double().mean(dim=(1, 2, 3))


def translate(translator: Translator, x: Tensor, source: str, target: str, seed: int, places: Sequence[int]) -> Tensor:
    """Where outputs are random, each image has its own noise by its place, so that batches do not change results."""
    if not translator.method.stochastic:
        return translator.translate(x, source, target)
    seeds = [(seed * 1_000_003 + place) % 2**63 for place in places]
    return torch.cat([translator.translate(x[i : i + 1], source, target, seed=s) for i, s in enumerate(seeds)])


NOT_FIGURES = ("place", "sound")
"""Rows of :meth:`Pass.direction` with one value an image that measure nothing."""


def per_image(task: Task, rows: Mapping[str, Tensor], images: Images) -> dict[str, list[Any]]:
    """The rows with one number an image, for who wants to find the best and the worst."""
    items = [task.items[int(place)] for place in rows["place"]]
    found: dict[str, list[Any]] = {
        "source": [d for d, _ in items], "index": [i for _, i in items], "name": [images.name(item) for item in items],
    }  # fmt: skip
    for key, values in rows.items():
        if values.ndim == 1 and key not in NOT_FIGURES:
            found[key] = [v if math.isfinite(v) else None for v in values.tolist()]
    return found
