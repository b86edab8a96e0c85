"""A discriminator over features that are already there (Sauer et al., "Projected GANs Converge Faster", arXiv
2111.01007).

A frozen classifier turns images into maps at several strides, and small heads with spectral norm judge each map. What
such maps do not resolve (dots and lattices of single pixels) a small PatchGAN beside them can judge. The random mixing
of channels and scales of
the paper is left out: each head begins with a 1 x 1 convolution that learns its own.

Legend: N batch, C channels of a tap, H height, W width, h and w those of a map of logits.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unpaired.networks.classifiers import Features
from unpaired.networks.discriminators import OverlappingPatches
from unpaired.networks.kernels import SNConv2d, SNEmbedding

SLOPE = 0.2
"""Of every LeakyReLU."""


class Head(nn.Module):
    """Judges one map: [N, C, h, w] -> logits [N, 1, h, w].

    With ``classes`` each position's features f are also compared with a row e of the image's class, logit = w f + e_y f
    (Miyato and Koyama, arXiv 1802.05637).
    """

    def __init__(self, inputs: int, width: int, classes: int = 0) -> None:
        super().__init__()
        self.mix = SNConv2d(inputs, width, 1)
        self.look = SNConv2d(width, width, 3)
        self.logit = SNConv2d(width, 1, 3)
        self.of_class = SNEmbedding(classes, width) if classes else None

    def forward(self, maps: Tensor, labels: Tensor | None = None) -> Tensor:
        features = F.leaky_relu(self.look(F.leaky_relu(self.mix(maps), SLOPE)), SLOPE)
        logits: Tensor = self.logit(features)
        if self.of_class is not None:
            if labels is None:
                raise ValueError("a head with classes needs the images' labels")
            rows = self.of_class(labels)[:, :, None, None]  # [N, width, 1, 1]
            logits = logits + (features * rows).sum(1, keepdim=True)
        return logits


class ProjectedDiscriminator(nn.Module):
    """[N, 3, H, W] in [-1, 1] -> a list of logits [N, 1, h, w]: one for each tap, and one of the PatchGAN where it has
    weight.

    Args:
        features: the frozen network: always in eval mode, without gradients of its own; they go through it to the
            images.
        players: how many discriminators look through these features, each with heads of its own (one for each domain).
        scale: images are magnified by it for the frozen network, which then sees their details where it knows them
            from: 1.75 shows 128 pixels as the 224 it was trained at.
        width: channels within the heads.
        patch_weight: factor of the PatchGAN's logits, and so of what it can say in the hinge loss; 0 leaves it out.
        patch_width: channels of its first layer.
        classes: classes of a conditional discriminator (its PatchGAN is not); 0 for none.
    """

    spread: Tensor

    def __init__(
        self,
        features: Features,
        players: int = 1,
        *,
        scale: float = 1.0,
        width: int = 64,
        patch_weight: float = 0.0,
        patch_width: int = 24,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.features = features.requires_grad_(False).eval()
        self.scale = scale
        self.register_buffer("spread", torch.ones(len(features.taps)))
        self.patch_weight = patch_weight
        self.heads = nn.ModuleList(
            nn.ModuleList(Head(inputs, width, classes) for inputs in features.channels) for _ in range(players)
        )
        self.patches = nn.ModuleList(
            OverlappingPatches(patch_width, 2, norm="none", spectral_norm=True)
            for _ in range(players if patch_weight else 0)
        )

    @property
    def trained(self) -> tuple[nn.Module, ...]:
        """The parts that an update may change."""
        return (self.heads, self.patches)

    def _maps(self, images: Tensor) -> list[Tensor]:
        if self.scale != 1:
            images = F.interpolate(images, scale_factor=self.scale, mode="bilinear", align_corners=False)
        maps: list[Tensor] = self.features(images)
        return maps

    @torch.no_grad()
    def measure(self, images: Tensor) -> None:
        """Take the standard deviation of each tap's maps from images [n, 3, H, W]."""
        self.spread.copy_(torch.stack([maps.float().std() for maps in self._maps(images)]))

    def train(self, mode: bool = True) -> Self:
        """The mode of the heads; the features stay in eval mode."""
        super().train(mode)
        self.features.eval()
        return self

    def forward(self, images: Tensor, player: int = 0, labels: Tensor | None = None) -> list[Tensor]:
        heads: nn.ModuleList = self.heads[player]  # type: ignore[assignment]
        # maps of about unit variance: the heads' norms bound slopes, and wide maps would make them steep all the same
        maps = [m / s.to(m.dtype) for m, s in zip(self._maps(images), self.spread, strict=True)]
        logits = [head(m, labels) for head, m in zip(heads, maps, strict=True)]
        if self.patch_weight:
            (patches,) = self.patches[player](images)
            logits.append(self.patch_weight * patches)
        return logits
