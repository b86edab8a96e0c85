"""The generator of Johnson et al. (arXiv 1603.08155) as CycleGAN and its successors have it.

Legend: N batch, H height, W width.
"""

from __future__ import annotations

from torch import Tensor, nn

from unpaired.networks.blocks import Norm, ResidualBlock, norm_layer


class ResnetGenerator(nn.Module):
    """[N, 3, H, W] in [-1, 1] -> the same, H and W divisible by ``STRIDE``.

    A 7 x 7 convolution to ``width`` channels, two of stride 2, ``blocks`` residual blocks, two transposed convolutions of
    stride 2, a 7 x 7 convolution to colours and tanh. Every convolution but the last (and the second of a block) is
    followed by a norm and ReLU. Padding is by reflection, with zeros where the stride is 2. ``dilation`` 1 and instance
    norm is CycleGAN's ``resnet_9blocks``; "Show, Attend and Translate" has dilation 2 and batch norm.

    All convolutions have biases, as both norms leave them possible; under batch norm they change nothing.
    """

    STRIDE = 4

    def __init__(
        self, width: int = 64, blocks: int = 9, *, dilation: int = 1, norm: Norm = "instance", relu_after: bool = False
    ) -> None:
        super().__init__()

        def layer(convolution: nn.Module, channels: int) -> nn.Sequential:
            return nn.Sequential(convolution, norm_layer(norm, channels), nn.ReLU(inplace=True))

        self.front = nn.Sequential(
            layer(nn.Conv2d(3, width, 7, padding=3, padding_mode="reflect"), width),
            layer(nn.Conv2d(width, 2 * width, 3, 2, 1), 2 * width),
            layer(nn.Conv2d(2 * width, 4 * width, 3, 2, 1), 4 * width),
        )
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(4 * width, "reflect", norm=norm, dilation=dilation, relu_after=relu_after)
                for _ in range(blocks)
            )
        )
        self.back = nn.Sequential(
            layer(nn.ConvTranspose2d(4 * width, 2 * width, 3, 2, 1, output_padding=1), 2 * width),
            layer(nn.ConvTranspose2d(2 * width, width, 3, 2, 1, output_padding=1), width),
        )
        self.head = nn.Conv2d(width, 3, 7, padding=3, padding_mode="reflect")

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.back(self.blocks(self.front(images))))
        return out.float().tanh()
