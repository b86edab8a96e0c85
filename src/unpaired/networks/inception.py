"""The Inception v3 of 2015 on which the name FID rests, up to its 2,048 pooled features.

Szegedy et al., Rethinking the Inception Architecture (arXiv 1512.00567), Figures 5 to 7, as TensorFlow's graph of
2015-12-05 has it and torch-fidelity's weights hold it. It differs from torchvision's classifier in three things: padded
zeros do not count in average pools, the last block pools by maximum, and pictures are resized by TensorFlow 1's
bilinear filter.

Legend: N batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unpaired.errors import WeightsError
from unpaired.machine import shapes_only

INPUT_SIDE = 299
"""Side in pixels of the network's input."""
FEATURES = 2048
Step = tuple[str, int, int, int] | tuple[str, int, int, int, str]
"""Name, output channels, height and width of the kernel; then ``valid`` (no padding), or ``halves`` (stride 2 too)."""


class ConvBN(nn.Module):
    """Convolution without bias, BatchNorm with ε = 1e-3, ReLU."""

    def __init__(self, inputs: int, outputs: int, height: int, width: int, way: str = "") -> None:
        super().__init__()
        padding = (0, 0) if way else (height // 2, width // 2)
        stride = 2 if way == "halves" else 1
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.bn(self.conv(x))
        return F.relu(normalised)


class Mixed(nn.Module):
    """Branches side by side over one input, their outputs one after the other in C.

    Each branch is a chain of convolutions; where one of them is a pair, both see the same input. ``pool`` is the last
    branch: ``average`` or ``maximum`` keep the size (the convolution ``branch_pool`` follows), ``half`` halves it.
    """

    def __init__(self, inputs: int, pool: str, *branches: tuple[Step | tuple[Step, Step], ...]) -> None:
        super().__init__()
        self.pool = pool
        self.plan: list[list[list[str]]] = []
        """Names of the convolutions of each step of each branch."""
        for branch in branches:
            channels, names = inputs, []
            for step in branch:
                found: tuple[Any, ...] = step if isinstance(step[0], tuple) else (step,)
                for name, outputs, *shape in found:
                    self.add_module(name, ConvBN(channels, outputs, *shape))
                channels = found[-1][1]
                names.append([name for name, *_ in found])
            self.plan.append(names)

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for branch in self.plan:
            y = self._pooled(x) if branch == [["branch_pool"]] else x
            for names in branch:
                y = torch.cat([self.get_submodule(name)(y) for name in names], dim=1)
            found.append(y)
        if self.pool == "half":
            found.append(F.max_pool2d(x, 3, 2))
        return torch.cat(found, dim=1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "maximum":
            return F.max_pool2d(x, 3, 1, 1)
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)  # as TensorFlow


# fmt: off
def _a(inputs: int, pooled: int) -> Mixed:
    """35 × 35 (Figure 5)."""
    return Mixed(
        inputs, "average",
        (("branch1x1", 64, 1, 1),),
        (("branch5x5_1", 48, 1, 1), ("branch5x5_2", 64, 5, 5)),
        (("branch3x3dbl_1", 64, 1, 1), ("branch3x3dbl_2", 96, 3, 3), ("branch3x3dbl_3", 96, 3, 3)),
        (("branch_pool", pooled, 1, 1),),
    )


def _b(inputs: int) -> Mixed:
    """35 × 35 to 17 × 17."""
    return Mixed(
        inputs, "half",
        (("branch3x3", 384, 3, 3, "halves"),),
        (("branch3x3dbl_1", 64, 1, 1), ("branch3x3dbl_2", 96, 3, 3), ("branch3x3dbl_3", 96, 3, 3, "halves")),
    )


def _c(inputs: int, c: int) -> Mixed:
    """17 × 17 (Figure 6)."""
    return Mixed(
        inputs, "average",
        (("branch1x1", 192, 1, 1),),
        (("branch7x7_1", c, 1, 1), ("branch7x7_2", c, 1, 7), ("branch7x7_3", 192, 7, 1)),
        (("branch7x7dbl_1", c, 1, 1), ("branch7x7dbl_2", c, 7, 1), ("branch7x7dbl_3", c, 1, 7),
         ("branch7x7dbl_4", c, 7, 1), ("branch7x7dbl_5", 192, 1, 7)),
        (("branch_pool", 192, 1, 1),),
    )


def _d(inputs: int) -> Mixed:
    """17 × 17 to 8 × 8."""
    return Mixed(
        inputs, "half",
        (("branch3x3_1", 192, 1, 1), ("branch3x3_2", 320, 3, 3, "halves")),
        (("branch7x7x3_1", 192, 1, 1), ("branch7x7x3_2", 192, 1, 7), ("branch7x7x3_3", 192, 7, 1),
         ("branch7x7x3_4", 192, 3, 3, "halves")),
    )


def _e(inputs: int, pool: str) -> Mixed:
    """8 × 8 (Figure 7)."""
    return Mixed(
        inputs, pool,
        (("branch1x1", 320, 1, 1),),
        (("branch3x3_1", 384, 1, 1), (("branch3x3_2a", 384, 1, 3), ("branch3x3_2b", 384, 3, 1))),
        (("branch3x3dbl_1", 448, 1, 1), ("branch3x3dbl_2", 384, 3, 3),
         (("branch3x3dbl_3a", 384, 1, 3), ("branch3x3dbl_3b", 384, 3, 1))),
        (("branch_pool", 192, 1, 1),),
    )
# fmt: on


class FIDInception(nn.Sequential):
    """[N, 3, 299, 299] in about [-1, 1] -> [N, 2048]: all but the last layer."""

    def __init__(self) -> None:
        mixed = {
            "5b": _a(192, 32), "5c": _a(256, 64), "5d": _a(288, 64), "6a": _b(288), "6b": _c(768, 128),
            "6c": _c(768, 160), "6d": _c(768, 160), "6e": _c(768, 192), "7a": _d(768), "7b": _e(1280, "average"),
            "7c": _e(2048, "maximum"),
        }  # fmt: skip
        layers: dict[str, nn.Module] = {
            "Conv2d_1a_3x3": ConvBN(3, 32, 3, 3, "halves"),
            "Conv2d_2a_3x3": ConvBN(32, 32, 3, 3, "valid"),
            "Conv2d_2b_3x3": ConvBN(32, 64, 3, 3),
            "pool1": nn.MaxPool2d(3, 2),
            "Conv2d_3b_1x1": ConvBN(64, 80, 1, 1),
            "Conv2d_4a_3x3": ConvBN(80, 192, 3, 3, "valid"),
            "pool2": nn.MaxPool2d(3, 2),
        }
        super().__init__(OrderedDict(layers | {f"Mixed_{name}": block for name, block in mixed.items()}))
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return maps.mean(dim=(2, 3))


def from_state(state: Mapping[str, Tensor]) -> FIDInception:
    """The network with torch-fidelity's weights, frozen and in eval mode. Raises WeightsError when they do not fit."""
    with shapes_only():
        network = FIDInception()
    own = {k: v for k, v in state.items() if not k.startswith("fc.")}  # the 1,008 classes are of no use here
    for key, value in network.state_dict().items():
        if key.endswith("num_batches_tracked"):  # a counter that some files lack and nothing here depends on
            own.setdefault(key, torch.zeros(value.shape, dtype=value.dtype))
    try:
        network.load_state_dict(own, strict=True, assign=True)
    except RuntimeError as error:
        raise WeightsError(f"these tensors are no Inception v3 of torch-fidelity: {error}") from error
    return network.eval().requires_grad_(False)


def resize_tensorflow1(images: Tensor, side: int = INPUT_SIDE) -> Tensor:
    """[N, C, H, W] -> [N, C, side, side] by TensorFlow 1's bilinear filter: the output's pixel i lies at i · H / side
    of the input, without half-pixel centres and without antialiasing."""
    for axis in (2, 3):
        length = images.shape[axis]
        place = torch.arange(side, device=images.device, dtype=torch.float32) * (length / side)
        low = place.floor().long().clamp(max=length - 1)
        high = (low + 1).clamp(max=length - 1)
        share = (place - low).to(images.dtype)
        share = share[:, None] if axis == 2 else share
        first, second = images.index_select(axis, low), images.index_select(axis, high)
        images = first + (second - first) * share
    return images
