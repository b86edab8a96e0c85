"""Features and distances of pictures: pretrained backbones with their store on disk, LPIPS, and one pass that measures.

Each figure carries its backbone's name: "FD-mobilenet_v1". The name FID belongs to one network, one resize and one set
of weights: the backbone ``fid``. No other one may bear it.

Legend: N, n images, D features, C channels, H height, W width, S side; images [N, 3, H, W] in [-1, 1], pixels uint8 [n,
S, S, 3].
"""

from __future__ import annotations

import contextlib
import hashlib
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

from unpaired import losses, weights
from unpaired.data.cache import home, key
from unpaired.data.images import Pixels, to_tensor, to_uint8
from unpaired.errors import ConfigError, WeightsError, nearest
from unpaired.evaluation.inputs import Images, Item, Task, gather
from unpaired.files import sha256_of, write_atomically
from unpaired.machine import Ranks, autocast, products
from unpaired.networks import inception
from unpaired.networks.classifiers import Features
from unpaired.translate.translator import Translator

log = logging.getLogger("unpaired")


@runtime_checkable
class Backbone(Protocol):
    """What turns images into features. Its name stands in the name of every figure, ``dim`` is D, ``resize`` says in
    words how images are brought to the network's size, ``sha256`` is the hash of its file of weights, or of the
    tensors where there is no file."""

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def resize(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    def __call__(self, images: Tensor) -> Tensor:
        """float [N, 3, H, W] in [-1, 1] -> float32 [N, D] on the CPU."""
        ...


def figure_name(kind: str, backbone: str) -> str:
    """Name a figure: ``FD-<backbone>`` and ``KD-<backbone>``; FID and KID for the backbone ``fid`` alone.

    >>> figure_name("FD", "fid"), figure_name("FD", "mobilenet_v1")
    ('FID', 'FD-mobilenet_v1')
    """
    proper = {"FD": "FID", "KD": "KID"}
    if kind in proper and backbone.split("-")[0] == "fid":
        return proper[kind] + backbone.removeprefix("fid")
    return f"{kind}-{backbone}"


def _bilinear(images: Tensor, side: int) -> Tensor:
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True).clamp(-1, 1)


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
        # products as for every figure, whatever the judged model runs in: the same picture has the same features
        with products("fp32"), autocast(self.precision, self.device):
            return self.features(images).float().cpu()


CLASSIFIERS = {
    "mobilenet_v1": ("stride32", 1024),
    "efficientnet_lite0": ("stride32", 320),
    "vgg19": ("pool5", 512),
    "alexnet": ("pool5", 256),
    "squeezenet1_1": ("fire9", 512),
}
"""Network -> its last convolutional layer, whose average over space are the features, and their number."""
FID = {
    "fid": (
        inception.resize_tensorflow1,
        "bilinear of TensorFlow 1 (no antialiasing, no half-pixel centres) to 299×299, as the original FID",
    ),
    "fid-antialias": (
        _bilinear,
        "bilinear, antialiased, to 299×299: torchmetrics' default, not the original FID's",
    ),
}
"""Backbones over the Inception of 2015 -> how images are resized."""
BACKBONES = (*CLASSIFIERS, *FID)


def _weights_of(name: str) -> str:
    """Name of the weights in the catalogue. Raises ConfigError for an unknown backbone."""
    if name not in BACKBONES:
        raise ConfigError(f"unknown backbone '{name}'.{nearest(name, BACKBONES)} There are: {', '.join(BACKBONES)}.")
    return "fid-inception" if name in FID else name


def state_hash(state: Mapping[str, Tensor]) -> str:
    """Hash names and bytes of tensors (SHA-256), whatever file they came in."""
    sha = hashlib.sha256()
    for name in sorted(state):
        sha.update(name.encode() + state[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def backbone_from_state(
    name: str, state: Mapping[str, Tensor], device: torch.device | str = "cpu", precision: str = "fp32"
) -> NetworkBackbone:
    """Build a backbone from tensors that are already in memory. Raises ConfigError, WeightsError."""
    sha256, place = state_hash(state), torch.device(device)
    if name in FID:
        inception_v3 = inception.from_state(state).eval().to(place).requires_grad_(False)
        resized, words = FID[name]

        def features(images: Tensor) -> Tensor:
            """Give the network (p - 128) / 128 of pixels p in 0 to 255."""
            return inception_v3(((images + 1) * 127.5 - 128) / 128)  # type: ignore[no-any-return]

        dim, side = inception.FEATURES, inception.INPUT_SIDE
        return NetworkBackbone(name, dim, side, sha256, features, place, precision, resized, words)
    layer, dim = CLASSIFIERS[_weights_of(name)]
    network = Features(name, (layer,))
    network.fill(name, state)
    network.eval().to(place).requires_grad_(False)
    words = "bilinear, antialiased, to 224×224 (torch.nn.functional.interpolate)"
    return NetworkBackbone(
        name, dim, 224, sha256, lambda x: network(x)[0].mean(dim=(2, 3)), place, precision, resize=words
    )


def on_this_machine(name: str, where: Path | str | None = None) -> bool:
    """Whether :func:`open_backbone` would find the weights without a download."""
    try:
        weights.find(_weights_of(name), where, offline=True)
    except WeightsError:
        return False
    return True


def open_backbone(
    name: str = "mobilenet_v1",
    where: Path | str | None = None,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
) -> NetworkBackbone:
    """Open one of ``BACKBONES``; its weights are found or fetched by :func:`unpaired.weights.find`.

    Raises:
        ConfigError: unknown name. WeightsError: the weights are missing; the text says which file and where to put it.
    """
    path = weights.find(_weights_of(name), where)
    return replace(backbone_from_state(name, weights.read(path), device, precision), sha256=sha256_of(path))


# ----------------------------------------------------------------------------------------------------
# LPIPS with its official weights. torchmetrics' own builds its trunk with torchvision, whose wheels on PyPI do not
# import beside a CPU build of PyTorch; so the trunk is ours, and equal to theirs (tests/evaluation/test_backbones.py).

_TAPS = {
    "alex": ("alexnet", {"relu1": 64, "relu2": 192, "relu3": 384, "relu4": 256, "relu5": 256}),
    "vgg": ("vgg16", {"relu1_2": 64, "relu2_2": 128, "relu3_3": 256, "relu4_3": 512, "relu5_3": 512}),
}
"""The classifier, and the layers that are compared with their channels."""
MIN_SIDE = 64
"""Smaller pictures are enlarged to this side first (bilinear): AlexNet's strides leave nothing of them."""


class LPIPS(nn.Module):
    """Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric (arXiv 1801.03924), Eq. 1.

    d(x, y) = Σ_l mean over H, W of w_l · (x̂_l - ŷ_l)², with x̂_l the features of layer l, of unit length over C.
    """

    def __init__(self, net: str, network: Mapping[str, Tensor], linear: Mapping[str, Tensor]) -> None:
        """Take torchvision's tensors of the ``network`` and the authors' ``linear`` layers. Raises WeightsError."""
        super().__init__()
        self.net = net
        self.network, taps = _TAPS[net]
        self.trunk = Features(self.network, tuple(taps))  # its ImageNet statistics are those of LPIPS
        self.trunk.fill(self.network, network)
        for i, channels in enumerate(taps.values()):
            weight = linear.get(f"lin{i}.model.1.weight")
            if weight is None or weight.numel() != channels:
                raise WeightsError(f"these linear layers are not those of LPIPS over {net}")
            self.register_buffer(f"linear{i}", weight.reshape(1, -1, 1, 1))
        self.sha256: dict[str, str] = {}
        """Hashes of the two files, for records."""
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Measure pictures of the same place in the two batches: [N]."""
        if x.shape != y.shape:
            raise ConfigError(f"pictures of {list(x.shape)} and {list(y.shape)} cannot be compared")
        device = self.get_buffer("linear0").device
        x, y = (_at_least(s.to(device, torch.float32), MIN_SIDE) for s in (x, y))
        total = torch.zeros(len(x), device=device)
        with products("fp32"):  # whatever the model that is judged runs in
            for i, (a, b) in enumerate(zip(self.trunk(x), self.trunk(y), strict=True)):
                a, b = (f / (f.square().sum(dim=1, keepdim=True) + 1e-8).sqrt() for f in (a, b))
                total += (self.get_buffer(f"linear{i}") * (a - b).square()).sum(dim=1).mean(dim=(1, 2))  # Eq. 1
        return total.cpu()


def _at_least(images: Tensor, side: int) -> Tensor:
    if min(images.shape[2:]) >= side:
        return images
    size = [max(side, round(n * side / min(images.shape[2:]))) for n in images.shape[2:]]
    return F.interpolate(images, size, mode="bilinear", align_corners=False)


def open_lpips(net: str = "alex", where: Path | str | None = None, device: torch.device | str = "cpu") -> LPIPS:
    """Open LPIPS 0.1 over AlexNet or VGG-16: torchvision's weights and the authors' linear layers, each with its hash
    checked.

    Args:
        where: a folder with both files; else the usual places, and for the linear layers the package torchmetrics.

    Raises:
        ConfigError: unknown net. WeightsError: a file is missing or is not the right one; the text has its name.
    """
    if net not in _TAPS:
        raise ConfigError(f"unknown LPIPS network '{net}': there are {', '.join(_TAPS)}")
    linear, network = weights.find(f"lpips_{net}", where), weights.find(_TAPS[net][0], where)
    found = LPIPS(net, weights.read(network), weights.read(linear)).to(device)
    found.sha256 = {"network": sha256_of(network), "linear": sha256_of(linear)}
    return found


# ----------------------------------------------------------------------------------------------------
# Features on disk, by the content of each picture: it passes through a backbone once, whatever is asked later.
#
# Below ``<cache>/features/`` every backbone has a folder whose name is a digest of all that its features depend on,
# with safetensors files of ``keys`` uint8 [N, 32] (SHA-256 of a picture's pixels and shape) and ``features`` float32
# [N, D], named by their own hash and written atomically, so that several processes may add at a time. The folder may be
# deleted at any time.

CODE = 3
"""Counts up when this package computes other features with the same weights and settings: what is on disk is then not
taken."""
BATCH = 16
"""Pictures in a pass. It is fixed (the last ones are filled up), so that no other batch size changes the features."""


def content_key(image: Pixels) -> bytes:
    """Hash a picture, uint8 [H, W, 3] (SHA-256)."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).digest()


class FeatureStore:
    """The features of one backbone, in memory and (where ``on_disk``) in the cache."""

    def __init__(self, backbone: Backbone, *, on_disk: bool = True) -> None:
        self.backbone = backbone
        self.computed = 0
        """Pictures that went through the network, those found in the cache not counted."""
        about: list[object] = [CODE, backbone.name, backbone.sha256, backbone.resize, backbone.dim, torch.__version__]
        about += [getattr(backbone, "precision", "fp32"), str(getattr(backbone, "device", "cpu"))]
        self.folder = home() / "features" / f"{backbone.name}-{key(*about)}"
        self.on_disk = on_disk
        self._known: dict[bytes, Tensor] = {}
        self._new: list[bytes] = []
        self._waiting: dict[bytes, Pixels] = {}
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

    def add(self, images: Pixels) -> list[bytes]:
        """Ask for the features of pictures [n, H, W, 3]; :meth:`rows` has them under these keys. Those not known yet
        wait until there are ``BATCH`` of them."""
        keys = [content_key(image) for image in images]
        for name, image in zip(keys, images, strict=True):
            if name not in self._known:
                self._waiting.setdefault(name, image)
        while len(self._waiting) >= BATCH:
            self._pass(list(self._waiting)[:BATCH])
        return keys

    def rows(self, keys: Sequence[bytes]) -> Tensor:
        """[N, D] of pictures that were asked for."""
        if self._waiting:
            self._pass(list(self._waiting))
        return torch.stack([self._known[name] for name in keys]) if keys else torch.empty(0, self.backbone.dim)

    def _pass(self, keys: list[bytes]) -> None:
        images = to_tensor(np.stack([self._waiting.pop(name) for name in keys]))
        if isinstance(self.backbone, NetworkBackbone) and len(images) < BATCH:
            # always the same shape: kernels chosen by shape would round differently
            images = torch.cat([images, images[-1:].expand(BATCH - len(images), -1, -1, -1)])
        self._known.update(zip(keys, self.backbone(images)[: len(keys)], strict=True))
        self._new += keys
        self.computed += len(keys)

    def save(self) -> None:
        """Write what is new to the cache. A cache that cannot be written is no reason to stop: it is said in the
        log."""
        if not self.on_disk or not self._new:
            return
        keys = torch.from_numpy(np.frombuffer(b"".join(self._new), np.uint8).reshape(-1, 32).copy())
        features = torch.stack([self._known[name] for name in self._new]).contiguous()
        content = safetensors.torch.save({"keys": keys, "features": features})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / f"{hashlib.sha256(content).hexdigest()[:24]}.safetensors", content)
        except OSError as error:
            log.warning("%s: features are not kept: %s", self.folder, error.strerror or error)
        self._new = []


# ----------------------------------------------------------------------------------------------------
# One pass over pictures: what is translated, what is measured of each picture, and the features of every set.

DIVERSITY_INPUTS, DIVERSITY_SAMPLES = 50, 5
"""Inputs whose translations are compared with each other, and translations of each (methods with random outputs)."""
NOT_FIGURES = ("place", "sound")
"""Rows of :meth:`Pass.direction` with one value an image that measure nothing."""


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

    def features(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Features [n, D] of real pictures by backbone."""
        keys: dict[str, list[bytes]] = {name: [] for name in self.stores}
        places: list[int] = []
        for at, _, pixels in self.images.batches(items, self.ranks):
            places += at
            for name, store in self.stores.items():
                keys[name] += store.add(pixels)
        found = {name: store.rows(keys[name]) for name, store in self.stores.items()}
        return gather({"place": _places(places), **found}, self.ranks)

    def direction(self, task: Task) -> dict[str, Tensor]:
        """Translate and measure one task; rows in the order of its items, ``place``.

        One number an image: ``change``, ``ssim_to_input``, ``cycle_error``, ``lpips_to_input_<net>``,
        ``feature_cosine-<b>``. Features ``generated/<b>`` and ``source/<b>`` [n, D]. ``pixels`` [n, S, S, 3] and
        ``sound`` [n] (whether they are finite) where they are kept. What is not finite gives NaN everywhere.
        """
        parts: list[dict[str, Tensor]] = []
        keys: dict[str, list[bytes]] = {
            f"{side}/{name}": [] for side in ("generated", "source") for name in self.stores
        }
        for places, source, pixels in self.images.batches(task.items, self.ranks):
            rows, result = self._batch(places, source, task.target, pixels)
            parts.append(rows)
            for name, store in self.stores.items():
                keys[f"generated/{name}"] += store.add(result)
                keys[f"source/{name}"] += store.add(pixels)
        rows = {k: torch.cat([p[k] for p in parts]) for k in parts[0]} if parts else self._nothing(task)
        sound = rows["sound"] if self.keep_pixels else rows.pop("sound")
        for name, store in self.stores.items():
            generated, before = (store.rows(keys[f"{side}/{name}"]) for side in ("generated", "source"))
            rows[f"generated/{name}"], rows[f"source/{name}"] = generated, before
            if "content" in self.groups:
                rows[f"feature_cosine-{name}"] = torch.cosine_similarity(before.double(), generated.double(), dim=1)
        for name, value in rows.items():
            if name not in ("place", "pixels", "sound") and not name.startswith("source/"):
                value[~sound] = math.nan
        return gather(rows, self.ranks)

    def _batch(self, places: list[int], source: str, target: str, pixels: Pixels) -> tuple[dict[str, Tensor], Pixels]:
        """Rows of one batch, and its translations, rounded."""
        x = to_tensor(pixels)
        y, sound = self._finite(translate(self.translator, x, source, target, self.seed, places))
        result = to_uint8(y)
        rounded = to_tensor(result)
        rows: dict[str, Tensor] = {"place": _places(places), "sound": sound}
        if "content" in self.groups:
            rows["change"] = _error(x, rounded)
            rows["ssim_to_input"] = ssim(x, rounded)
        if self._comes_back(source, target):
            rows["cycle_error"] = _error(x, translate(self.translator, y, target, source, self.seed, places))
        if not self.translator.method.from_noise:
            rows |= {f"lpips_to_input_{net}": model(x, rounded).double() for net, model in self.lpips.items()}
        if self.keep_pixels:
            rows["pixels"] = torch.from_numpy(result)
        return rows, result

    def _comes_back(self, source: str, target: str) -> bool:
        return "errors" in self.groups and (target, source) in self.translator.directions

    @staticmethod
    def _finite(y: Tensor) -> tuple[Tensor, Tensor]:
        """Images without NaN and infinity, and which of them had none: [n]."""
        y = y.cpu()
        return torch.nan_to_num(y), torch.isfinite(y).flatten(1).all(dim=1)

    def _nothing(self, task: Task) -> dict[str, Tensor]:
        """Rows of no picture."""
        names = [f"lpips_to_input_{net}" for net in self.lpips if not self.translator.method.from_noise]
        names += ["change", "ssim_to_input"] if "content" in self.groups else []
        names += ["cycle_error"] if self._comes_back(task.source, task.target) else []
        empty = {name: torch.empty(0, dtype=torch.float64) for name in names}
        return {"place": _places([]), "sound": torch.empty(0, dtype=torch.bool), **empty}

    def _errors(self, domain: str, again: Callable[[Tensor, list[int]], Tensor | None]) -> Tensor | None:
        """[n] mean |x - again(x, places)| over real pictures of a domain; None where ``again`` has nothing."""
        errors: list[Tensor] = []
        places: list[int] = []
        for at, _, pixels in self.images.batches(self.images.items(domain), self.ranks):
            x = to_tensor(pixels)
            y = again(x, at)
            if y is None:
                return None
            errors.append(_error(x, y))
            places += at
        return gather({"place": _places(places), "error": _joined(errors)}, self.ranks)["error"]

    def reconstruction(self, domain: str) -> Tensor | None:
        """[n] mean |x - x̂| of the method's own reconstruction; None where it has none."""
        return self._errors(domain, lambda x, _: self.translator.reconstruct(x, domain))

    def identity(self, source: str, target: str) -> Tensor:
        """[n] mean |y - translate(y)| of real target pictures given as if they were the source's."""
        found = self._errors(target, lambda y, at: translate(self.translator, y, source, target, self.seed, at))
        assert found is not None, "a translation is always there"
        return found

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
                y, fine = self._finite(translate(self.translator, x, source, task.target, self.seed + 1 + k, at))
                sound &= fine
                samples.append(to_tensor(to_uint8(y)))
            pairs = [(i, j) for i in range(len(samples)) for j in range(i)]
            for net, model in self.lpips.items():
                mean = torch.stack([model(samples[i], samples[j]) for i, j in pairs]).double().mean(dim=0)
                found[net].append(mean.masked_fill(~sound, math.nan))
            places += at
        rows = {"place": _places(places)} | {net: _joined(v) for net, v in found.items()}
        return {k: v for k, v in gather(rows, self.ranks).items() if k != "place"}

    def per_image(self, task: Task, rows: Mapping[str, Tensor]) -> dict[str, list[Any]]:
        """The rows with one number an image, for who wants to find the best and the worst."""
        items = [task.items[int(place)] for place in rows["place"]]
        found: dict[str, list[Any]] = {
            "source": [d for d, _ in items],
            "index": [i for _, i in items],
            "name": [self.images.name(item) for item in items],
        }
        for name, values in rows.items():
            if values.ndim == 1 and name not in NOT_FIGURES:
                found[name] = [v if math.isfinite(v) else None for v in values.tolist()]
        return found


def _places(places: Sequence[int]) -> Tensor:
    return torch.tensor(places, dtype=torch.int64)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if parts else torch.empty(0, dtype=torch.float64)


def _error(a: Tensor, b: Tensor) -> Tensor:
    """[n] mean |a - b| over each image [n, 3, H, W], float64."""
    return (a.float().cpu() - b.float().cpu()).abs().double().mean(dim=(1, 2, 3))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity of each pair of pictures [N, 3, H, W] in [-1, 1] -> float64 [N]; 1 for equal ones."""
    return losses.ssim_map(x.cpu().double(), y.cpu().double()).mean(dim=(1, 2, 3))


def translate(translator: Translator, x: Tensor, source: str, target: str, seed: int, places: Sequence[int]) -> Tensor:
    """Translate; where outputs are random, each image has its own noise by its place, so that batches do not change
    results."""
    if not translator.method.stochastic:
        return translator.translate(x, source, target)
    seeds = [(seed * 1_000_003 + place) % 2**63 for place in places]
    return torch.cat([translator.translate(x[i : i + 1], source, target, seed=s) for i, s in enumerate(seeds)])
