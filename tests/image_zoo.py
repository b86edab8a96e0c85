"""Image files of every kind and every sort of damage, made when a test needs them; none is kept in the repository."""

from __future__ import annotations

import functools
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def picture(seed: int = 0, width: int = 40, height: int = 32) -> np.ndarray[Any, Any]:
    """uint8 [height, width, 3]: a smooth random picture, so that JPEG keeps it well."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(array: np.ndarray[Any, Any] | Image.Image, format: str = "PNG", **options: Any) -> bytes:
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG from its raw rows (each with its filter byte): forms that Pillow cannot write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return PNG_MAGIC + header + extra + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def png16(values: np.ndarray[Any, Any], extra: bytes = b"") -> bytes:
    """A 16-bit PNG: [H, W] grey, [H, W, 2] grey with alpha, [H, W, 3] RGB, [H, W, 4] RGBA."""
    colour = {2: 0}.get(values.ndim) if values.ndim == 2 else {2: 4, 3: 2, 4: 6}[values.shape[2]]
    assert colour is not None
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(values.shape[1], values.shape[0], 16, colour, rows, extra)


@functools.cache
def bomb(width: int, height: int) -> bytes:
    """A PNG that claims width × height black pixels; a few kilobytes even for hundreds of megapixels."""
    packer, rows = zlib.compressobj(9), (width + 7) // 8 + 1
    body = b"".join([*(packer.compress(bytes(rows)) for _ in range(height)), packer.flush()])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return PNG_MAGIC + header + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def with_wrong_checksum() -> bytes:
    """A PNG whose pixels are sound and whose IDAT checksum is not."""
    data = bytearray(encoded(picture()))
    end = data.rindex(b"IEND") - 4
    data[end - 1] ^= 0xFF
    return bytes(data)


@functools.cache
def bad_files() -> dict[str, tuple[bytes, str]]:
    """Name -> (content, a part of the reason that must be given)."""
    jpeg = encoded(picture(width=200, height=160), "JPEG", quality=90)
    cuts = {f"cut{share}.jpg": (jpeg[: len(jpeg) * share // 100], "") for share in (1, 10, 60, 99)}
    return cuts | {
        "empty.png": (b"", "empty file"),
        "text.jpg": (b"this is no picture\n", "none of JPEG"),
        "page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git-lfs"),
        "drawing.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        "paper.jpg": (b"%PDF-1.7\n", "PDF"),
        "script.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        "no_end.jpg": (jpeg[:-2], "truncated"),
        "cut.png": (encoded(picture())[:-30], "truncated"),
        "no_iend.png": (encoded(picture())[:-12], "truncated"),
        "checksum.png": (with_wrong_checksum(), "checksum"),
        "cut.webp": (encoded(picture(), "WEBP")[:-40], ""),
        "cut.tif": (encoded(picture(), "TIFF")[:600], ""),
        "cut.bmp": (encoded(picture(), "BMP")[:-100], "truncated"),
        "cut.gif": (encoded(picture(), "GIF")[:-200], "truncated"),
        "dot.png": (encoded(np.zeros((1, 1, 3), np.uint8)), "too small"),
        "strip.png": (encoded(np.zeros((7, 100, 3), np.uint8)), "too small"),
        "bomb.png": (bomb(20_000, 20_000), "million pixels"),
        "float.tif": (encoded(np.full((16, 16), 300.0, np.float32), "TIFF"), "float values from 300"),
        "nan.tif": (encoded(np.full((16, 16), np.nan, np.float32), "TIFF"), "float values"),
        "negative.tif": (encoded(np.full((16, 16), -5, np.int32), "TIFF"), "integer values from -5"),
    }


def write_tree(root: Path, counts: dict[str, int], *, width: int = 40, height: int = 32) -> Path:
    """PNG pictures, all different: ``{"train/cat": 3}`` -> root/train/cat/0.png to 2.png."""
    seed = 0
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            seed += 1
            (root / folder / f"{number}.png").write_bytes(encoded(picture(seed, width, height)))
    return root


def snapshot(root: Path) -> dict[bytes, tuple[int, int, bytes]]:
    """Every entry below ``root``: mode, mtime and content, to show that nothing was changed."""
    found = {}
    for folder, folders, files in os.walk(root):
        for path in (Path(folder) / name for name in [*folders, *files]):
            status = path.lstat()
            regular = path.is_file() and not path.is_symlink()
            found[os.fsencode(path)] = (status.st_mode, status.st_mtime_ns, path.read_bytes() if regular else b"")
    return found
