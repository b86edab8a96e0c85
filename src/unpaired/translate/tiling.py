"""Any size through a network that wants multiples of its stride and has bounded memory: pad, cut, blend, crop.

Legend: N batch, H height, W width; images [N, 3, H, W].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from unpaired.errors import ConfigError

MAX_PIXELS = 1024 * 1024
"""Pictures with more pixels (padding included) than this are translated in tiles of at most this size."""
MIN_STRIDES = 4
"""Smallest side, in strides, that a network gets: below it reflection padding and instance norm are not defined."""
OVERLAP = 8
"""A tile shares at least 1/OVERLAP of its side with its neighbour."""
MIN_TILE_STRIDES = 16
"""Smallest side of a tile in strides: below it overlaps are hardly wider than one stride."""

Network = Callable[[Tensor], Tensor]


def pad_to(images: Tensor, stride: int) -> tuple[Tensor, tuple[int, int]]:
    """Sides rounded up to multiples of ``stride`` (at least ``MIN_STRIDES``), and the (top, left) padding.

    Reflects where the picture is large enough for it, else repeats its border. The padding is split evenly.
    """
    h, w = images.shape[-2:]
    high, wide = (max(MIN_STRIDES * stride, math.ceil(side / stride) * stride) - side for side in (h, w))
    top, left = high // 2, wide // 2
    if not high and not wide:
        return images, (0, 0)
    fits = high - top < h and wide - left < w
    padded = F.pad(images, (left, wide - left, top, high - top), mode="reflect" if fits else "replicate")
    return padded, (top, left)


def tile_sides(h: int, w: int, stride: int, max_pixels: int) -> tuple[int, int]:
    """Height and width of the tiles for a padded picture: multiples of ``stride``, the product within
    ``max_pixels``."""
    if h * w <= max_pixels:
        return h, w
    check_max_pixels(stride, max_pixels)
    side = math.isqrt(max_pixels) // stride * stride
    if h <= side:
        return h, min(w, max_pixels // h // stride * stride)
    if w <= side:
        return min(h, max_pixels // w // stride * stride), w
    return side, side


def check_max_pixels(stride: int, max_pixels: int) -> None:
    """Raise ConfigError when ``max_pixels`` leaves tiles of less than ``MIN_TILE_STRIDES`` strides."""
    least = MIN_TILE_STRIDES * stride
    if max_pixels < least * least:
        raise ConfigError(
            f"max_pixels = {max_pixels}: this model needs tiles of at least {least}×{least}, that is {least**2} pixels"
        )


def starts(length: int, tile: int, stride: int) -> list[int]:
    """Where tiles begin along one side: multiples of ``stride``, evenly spread, first at 0 and last at the end."""
    if tile >= length:
        return [0]
    overlap = max(stride, tile // OVERLAP)
    count = math.ceil((length - overlap) / (tile - overlap))
    return [round(i * (length - tile) / (count - 1) / stride) * stride for i in range(count)]


def window(length: int, begin: int, tile: int, ramp: int) -> Tensor:
    """Weight [tile] of a tile along one side: 1, falling smoothly (raised cosine) over ``ramp`` at inner borders."""
    weight = torch.ones(tile)
    edge = 0.5 - 0.5 * torch.cos(math.pi * (torch.arange(ramp) + 0.5) / ramp)
    if begin > 0:
        weight[:ramp] *= edge
    if begin + tile < length:
        weight[tile - ramp :] *= edge.flip(0)
    return weight


def tiled(network: Network, images: Tensor, stride: int, max_pixels: int) -> Tensor:
    """``network`` over overlapping tiles of padded ``images``, blended; one plain call when they are small enough."""
    h, w = images.shape[-2:]
    th, tw = tile_sides(h, w, stride, max_pixels)
    if (th, tw) == (h, w):
        return network(images)
    rows, columns = starts(h, th, stride), starts(w, tw, stride)
    total: Tensor | None = None
    weights = torch.zeros(h, w, device=images.device)
    ramp_h, ramp_w = max(1, th // OVERLAP), max(1, tw // OVERLAP)
    for top in rows:
        for left in columns:
            here = (slice(top, top + th), slice(left, left + tw))
            weight = torch.outer(window(h, top, th, ramp_h), window(w, left, tw, ramp_w)).to(images.device)
            result = network(images[:, :, *here]).float() * weight
            if total is None:  # the network's result tells how many channels there are
                total = result.new_zeros(len(result), result.shape[1], h, w)
            total[:, :, *here] += result
            weights[here] += weight
    assert total is not None, "there is at least one tile"
    return total / weights


def at_any_size(network: Network, images: Tensor, *, stride: int, fixed: int | None, max_pixels: int) -> Tensor:
    """``network`` applied to images of any size; the result has their size.

    With ``fixed`` they are resized to that square and back (bicubic, antialiased when shrinking). Otherwise they are
    padded, tiled where larger than ``max_pixels``, and cropped back; several images go through one by one or a few at
    a time, so that no call gets more than ``max_pixels``.
    """
    n, _, h, w = images.shape
    if fixed is not None:
        square = F.interpolate(images, (fixed, fixed), mode="bicubic", antialias=True).clamp(-1, 1)
        group = max(1, max_pixels // fixed**2)
        result = torch.cat([network(part).float() for part in torch.split(square, group)])
        return F.interpolate(result, (h, w), mode="bicubic", antialias=True).clamp(-1, 1)
    padded, (top, left) = pad_to(images, stride)
    group = max(1, max_pixels // (padded.shape[-2] * padded.shape[-1]))
    if group >= n:
        result = tiled(network, padded, stride, max_pixels)
    else:
        result = torch.cat([tiled(network, part, stride, max_pixels) for part in torch.split(padded, group)])
    return result[:, :, top : top + h, left : left + w]
