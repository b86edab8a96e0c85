"""MobileNet v1 1.0 up to its 12th block: a small pretrained network whose features tell images apart.

Howard et al., MobileNets (arXiv 1704.04861), Table 1, as TensorFlow's reference trained it: "same" padding (at stride 2
the odd pixel is added right and below), ReLU6, BatchNorm with ε = 1e-3. The weights end with the 12th block (its 1,024
channels at stride 32), so there is no classifier.

Legend: N batch, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unpaired import weights
from unpaired.errors import WeightsError

BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *(((512, 1),) * 5), (1024, 2))
"""(output channels, stride) of blocks 1 to 12."""
TAPS = {"stride2": 1, "stride4": 3, "stride8": 5, "stride16": 11, "stride32": 12}
"""Name of a tap -> the block after which it is taken: the last one at each stride."""
CHANNELS = {"stride2": 64, "stride4": 128, "stride8": 256, "stride16": 512, "stride32": 1024}
FEW_WEIGHTS = 4
"""Up to so many weights for each number of the maps, multiplying the weights is cheaper than normalising the maps."""
INPUT_SIDE = 224
"""Side in pixels at which the network was trained; other sizes work."""


def _same_padding(x: Tensor, kernel: int, stride: int) -> tuple[int, int, int, int]:
    """Zeros left, right, above and below so that the output has ceil(side / stride) pixels; the odd one goes right and below."""
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
        """What comes out before the ReLU6. With fixed statistics and a bias of its own the convolution is the norm, too: forward and backward
        then go through the maps twice less, for one time through the weights. One small map is less than the weights."""
        weight, bias, norm = self.weight, self.bias, self.bn
        fixed = isinstance(norm, nn.BatchNorm2d) and not norm.training and weight.numel() <= FEW_WEIGHTS * x.numel()
        if fixed:
            scale = norm.weight * torch.rsqrt(norm.get_buffer("running_var") + norm.eps)
            weight, bias = weight * scale[:, None, None, None], norm.bias - norm.get_buffer("running_mean") * scale
        left, right, above, below = _same_padding(x, self.kernel_size[0], self.stride[0])
        if left == right and above == below:  # the convolution pads without a copy
            x = F.conv2d(x, weight, bias, self.stride, (above, left), groups=self.groups)
        else:
            x = F.conv2d(F.pad(x, (left, right, above, below)), weight, bias, self.stride, groups=self.groups)
        return x if fixed else norm(x)


class MobileNetV1(nn.Module):
    """[N, 3, H, W] in [-1, 1] (which is the network's own preprocessing, x / 127.5 - 1) -> taps at five strides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = ConvBN(3, 32, 3, stride=2)
        inputs = 32
        for number, (outputs, stride) in enumerate(BLOCKS, start=1):
            self.add_module(f"dw{number}", ConvBN(inputs, inputs, 3, stride=stride, groups=inputs))
            self.add_module(f"pw{number}", ConvBN(inputs, outputs, 1))
            inputs = outputs
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Tap name -> [N, C, ceil(H / stride), ceil(W / stride)], C as in ``CHANNELS``."""
        wanted = {block: name for name, block in TAPS.items()}
        taps = {}
        x = self.conv0(images)
        for number in range(1, len(BLOCKS) + 1):
            x = self.get_submodule(f"pw{number}")(self.get_submodule(f"dw{number}")(x))
            if number in wanted:
                taps[wanted[number]] = x
        return taps

    def pooled(self, images: Tensor) -> Tensor:
        """[N, 1024]: the last tap, averaged over space."""
        last: Tensor = self(images)["stride32"]
        return last.mean(dim=(2, 3))


def from_state(state: Mapping[str, Tensor]) -> MobileNetV1:
    """The network with the given weights, frozen and in eval mode. Raises WeightsError when they do not fit."""
    network = MobileNetV1()
    # Block 13 comes without its pointwise convolution, so the rest of it is of no use.
    try:
        network.load_state_dict({k: v for k, v in state.items() if not k.startswith(("dw13.", "pw13."))}, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"these tensors are no MobileNet v1 1.0: {error}") from error
    return network


def mobilenet_v1(where: Path | str | None = None) -> MobileNetV1:
    """The pretrained network; the weights are found by :func:`unpaired.weights.find`. Raises WeightsError."""
    return from_state(weights.load("mobilenet_v1", where))
