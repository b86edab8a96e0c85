"""Pictures as data URIs: small ones exact, large ones compressed.

Legend: N images, H height, W width; uint8, 0 to 255.
"""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

Images = NDArray[np.uint8]
"""uint8 [N, H, W, 3] (or [N, H, W] grey), 0 to 255."""
ENLARGE_TO = 96
"""Pictures whose shorter side is below this many pixels are shown enlarged, nearest neighbour, and stored without loss."""
MAX_SIDE = 512
"""Longer pictures are reduced to this many pixels."""
QUALITY = 90
"""Of the WebP format, in which larger pictures are stored: a fifth of the bytes of PNG, no difference to be seen."""


def checked(images: Images) -> Images:
    """[N, H, W, 3]; grey ones get three channels. Raises ValueError for another type or shape."""
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        raise ValueError(f"expected uint8 [N, H, W, 3], got {images.dtype} {list(images.shape)}")
    return images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=3)


def is_tiny(images: Images) -> bool:
    """Whether they are shown enlarged."""
    return int(min(images.shape[1:3])) < ENLARGE_TO


def encode(pixels: NDArray[np.uint8]) -> tuple[str, int, int]:
    """One picture [H, W, 3] or [H, W, 4] -> (data URI, width, height)."""
    picture = Image.fromarray(np.ascontiguousarray(pixels), "RGBA" if pixels.shape[2] == 4 else "RGB")
    if max(picture.size) > MAX_SIDE and pixels.shape[2] == 3:
        factor = MAX_SIDE / max(picture.size)
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    exact = min(pixels.shape[:2]) < ENLARGE_TO or pixels.shape[2] == 4 or not features.check("webp")
    if exact:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "WEBP", quality=QUALITY, method=4)
    kind = "png" if exact else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", *picture.size


def strip(images: Images, columns: int) -> tuple[str, int]:
    """Pictures side by side with transparent gaps: (PNG data URI, width in pixels of ``columns`` places)."""
    images = checked(images)
    n, h, w, _ = images.shape  # noqa: RUF059 - the shape is written out for the reader
    factor = max(1, ENLARGE_TO // min(h, w))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    h, w = h * factor, w * factor
    gap = max(2, w // 24)
    sheet = np.zeros((h, columns * (w + gap) - gap, 4), dtype=np.uint8)
    for index, image in enumerate(images):
        left = index * (w + gap)
        sheet[:, left : left + w, :3], sheet[:, left : left + w, 3] = image, 255
    uri, width, _ = encode(sheet)
    return uri, width
