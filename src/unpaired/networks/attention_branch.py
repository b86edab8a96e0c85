"""The network that says where an image is to be translated (Yang et al., Show, Attend and Translate, arXiv 1806.06195)."""

from __future__ import annotations

from torch import Tensor, nn

from unpaired.errors import ConfigError
from unpaired.networks.blocks import Norm, norm_layer
from unpaired.networks.features import NETWORKS, Features


class AttentionBranch(nn.Module):
    """G_attn: the first layers of a classifier, two deconvolutions, one convolution and a sigmoid.

    [N, 3, H, W] in [-1, 1] -> [N, 1, H, W] in [0, 1], float32; H and W divisible by 4.
    """

    def __init__(self, network: str, norm: Norm) -> None:
        super().__init__()
        kind = NETWORKS[network]
        if kind.stride4 is None:
            raise ConfigError(f"{network} has no layer at a quarter of the size to grow an attention branch from")
        self.margin = kind.margin
        self.trunk = Features(network, (kind.stride4,))
        c = kind.stride4_channels
        self.up = nn.Sequential(
            nn.ConvTranspose2d(c, c // 2, 4, 2, 1),
            norm_layer(norm, c // 2),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(c // 2, c // 4, 4, 2, 1),
            norm_layer(norm, c // 4),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Conv2d(c // 4, 1, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        if self.margin:
            images = nn.functional.pad(images, [self.margin] * 4, mode="replicate")
        (features,) = self.trunk(images)  # [N, C, H/4, W/4]
        logits: Tensor = self.head(self.up(features))
        return logits.float().sigmoid()
