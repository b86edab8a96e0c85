"""Differentiable augmentation of what a discriminator sees (Zhao et al., "DiffAugment", arXiv 2006.10738).

Real and generated images alike are changed by the same policy just before they are judged, so that the generator is not
asked to
learn the changes, and the discriminator cannot learn few images by heart. Translation moves by single pixels: a frozen
network with strides looks through a lattice, and a generator that always meets the same lattice writes dots into it.

All draws are torch's global generator's, one a sample, on the images' device, and nothing waits for that device.

Legend: N batch, H height, W width; images [N, 3, H, W] in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Augmentation = Literal["translation", "cutout", "colour"]
SHIFT = 1 / 8
"""Largest translation as a share of a side (the paper's)."""
CUT = 1 / 2
"""Side of the square that cutout greys, as a share of the image's (the paper's)."""


def _reflected(index: Tensor, size: int) -> Tensor:
    """Indices beyond 0 .. size - 1 mirrored at the outermost pixels, which are not repeated; for up to size - 1
    beyond."""
    index = index.abs()
    return torch.where(index < size, index, 2 * (size - 1) - index)


def translation(images: Tensor) -> Tensor:
    """Each image moved by whole pixels, up to ``SHIFT`` of its side each way; what enters is its mirror image."""
    n, c, h, w = images.shape
    device = images.device
    indices = []
    for size in (h, w):
        most = min(size - 1, round(size * SHIFT))
        shift = torch.randint(-most, most + 1, (n, 1), device=device)
        indices.append(_reflected(torch.arange(size, device=device) + shift, size))  # [N, size]
    rows, columns = indices
    flat = (rows[:, :, None] * w + columns[:, None, :]).view(n, 1, h * w).expand(n, c, h * w)
    return images.reshape(n, c, h * w).gather(2, flat).view(n, c, h, w)


def cutout(images: Tensor) -> Tensor:
    """A square of each image, ``CUT`` of its sides, made grey; its centre may be anywhere, so that it may be cut off by
    an edge."""
    n, _, h, w = images.shape
    device = images.device
    inside = []
    for size in (h, w):
        centre = torch.rand(n, 1, device=device) * size
        inside.append((torch.arange(size, device=device) + 0.5 - centre).abs() < CUT * size / 2)  # [N, size]
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return images.masked_fill(square, 0.0)


def colour(images: Tensor) -> Tensor:
    """Brightness by up to ±0.5 (a quarter of the range), saturation by 0 to 2, contrast by 0.5 to 1.5. May leave [-1,
    1]."""
    brightness, saturation, contrast = torch.rand(3, len(images), 1, 1, 1, device=images.device).unbind()
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = torch.lerp(grey, images, 2 * saturation)
    middle = images.mean((1, 2, 3), keepdim=True)
    return torch.lerp(middle, images, contrast + 0.5)


_ALL = {"colour": colour, "translation": translation, "cutout": cutout}


def augment(images: Tensor, kinds: Sequence[Augmentation]) -> Tensor:
    """``images`` changed by each of ``kinds``, in the paper's order (colour, translation, cutout); differentiable. The
    same shape."""
    for kind, change in _ALL.items():
        if kind in kinds:
            images = change(images)
    return images


def jitter(images: Tensor, amount: float) -> Tensor:
    """Random rotation, scale, shear and shift; ``amount`` 0.15 is at most 9 degrees, 15 % and 15 % of half a side."""
    if amount == 0:
        return images
    n = len(images)
    turn, shear, scale = ((torch.rand(3, n, device=images.device) * 2 - 1) * amount).unbind()
    shift = (torch.rand(2, n, device=images.device) * 2 - 1) * amount
    scale = 1 + scale
    rows = [
        torch.stack([scale * turn.cos(), shear - scale * turn.sin(), shift[0]], 1),
        torch.stack([scale * turn.sin(), scale * turn.cos(), shift[1]], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved: Tensor = F.grid_sample(images, grid.to(images), padding_mode="border", align_corners=False)
    return moved


def recolour(images: Tensor) -> Tensor:
    """Map black and white of each channel to two random levels: weak, inverted and coloured contrast; knows no
    target."""
    black, white = torch.rand(2, len(images), images.shape[1], 1, 1, device=images.device) * 2 - 1
    mapped: Tensor = black + (white - black) * (images + 1) / 2
    return mapped
