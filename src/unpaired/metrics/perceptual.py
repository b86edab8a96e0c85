"""How far one picture is from another: LPIPS with its official weights, and SSIM.

Legend: N batch, C channels, H height, W width; pictures [N, 3, H, W] in [-1, 1].
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unpaired import weights
from unpaired._files import sha256_of
from unpaired.devices import autocast, shapes_only
from unpaired.errors import ConfigError, WeightsError

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
        with autocast("fp32", self.shift.device):
            pairs = zip(self._unit_features(x), self._unit_features(y), strict=True)
        for i, (a, b) in enumerate(pairs):
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
