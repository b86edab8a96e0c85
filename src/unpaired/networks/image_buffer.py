"""A history of generated images for a discriminator (Shrivastava et al., arXiv 1612.07828, section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ImageBuffer(nn.Module):
    """Keeps ``size`` generated images [3, S, S] in buffers, so that they are saved with the run; 0 keeps none.

    Called with new images [N, 3, S, S], gives as many: while there is room each is kept and given back; after that,
    each is given back with probability one half, and else swapped with a random kept one. All of it, draws from torch's
    global generator too, happens on the images' device, so that a GPU is not waited for. In eval mode it gives back what
    it gets.
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
        swaps = torch.rand(len(images), device=images.device) < 0.5
        slots = torch.randint(size, (len(images),), device=images.device)
        given = []
        for image, swap, slot in zip(images.detach(), swaps, slots, strict=True):
            full = self.count == size
            place = torch.where(full, slot, self.count)[None]
            old = self.images.index_select(0, place)[0]  # a copy: the slot is overwritten below
            given.append(torch.where(full & swap, old.to(image.dtype), image))
            self.images.index_copy_(0, place, torch.where(full & ~swap, old, image.to(old.dtype))[None])
            self.count.add_(~full)
        return torch.stack(given)

    def empty(self) -> None:
        """Forget all images."""
        self.images.zero_()
        self.count.zero_()
