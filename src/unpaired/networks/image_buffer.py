"""A history of generated images for a discriminator (Shrivastava et al., arXiv 1612.07828, section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ImageBuffer(nn.Module):
    """Keeps ``size`` generated images [3, S, S] in buffers, so that they are saved with the run; 0 keeps none.

    Called with new images [N, 3, S, S], gives as many: while there is room each is kept and given back; after that,
    each is given back with probability one half, and else swapped with a random kept one. Draws from torch's global
    generator on the CPU. In eval mode it gives back what it gets.
    """

    images: Tensor
    count: Tensor

    def __init__(self, size: int, side: int) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(size, 3, side, side))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        size = len(self.images)
        if size == 0 or not self.training:
            return images
        given = images.detach().clone()
        count = int(self.count)
        for i, image in enumerate(images.detach()):
            if count < size:
                self.images[count] = image
                count += 1
            elif float(torch.rand(())) < 0.5:
                slot = int(torch.randint(size, ()))
                given[i] = self.images[slot].to(given.dtype)  # copied before the slot is overwritten
                self.images[slot] = image
        self.count.fill_(count)
        return given

    def empty(self) -> None:
        """Forget all images."""
        self.images.zero_()
        self.count.zero_()
