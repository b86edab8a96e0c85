"""Image files of every kind and every sort of damage, made when a test needs them; none is kept in the repository."""

from __future__ import annotations

import functools
import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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


# ---- the dirty zoo: every member with what must become of it

Verdict = Literal["ok", "flat", "bad", "ignored"]


@dataclass(frozen=True)
class Member:
    """One entry of a data folder: how to make it, and its verdict."""

    make: bytes | Callable[[Path], object]
    verdict: Verdict
    said: str = ""
    """A part of the reason, for what is bad or ignored."""
    pixels: np.ndarray[Any, Any] | None = None
    """What the opener must give, uint8 [H, W, 3]."""
    within: float = 0.6
    """Mean difference to it in levels of 255 that the format's own loss allows."""


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


_T = Image.Transpose
_STORE = {  # EXIF orientation -> how an upright picture is stored for it
    1: None, 2: _T.FLIP_LEFT_RIGHT, 3: _T.ROTATE_180, 4: _T.FLIP_TOP_BOTTOM, 5: _T.TRANSPOSE, 6: _T.ROTATE_90,
    7: _T.TRANSVERSE, 8: _T.ROTATE_270,
}  # fmt: skip


def _over(colour: np.ndarray[Any, Any], alpha: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """colour·α + white·(1 − α)."""
    a = alpha[..., None].astype(np.float64) / 255
    return np.round(colour * a + 255 * (1 - a)).astype(np.uint8)


def _grey(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=-1)


def _usable() -> dict[str, Member]:
    """Odd but usable: each mode and format that is read, with the pixels that must come out."""
    seeds = iter(range(1000, 2000))

    def fresh() -> np.ndarray[Any, Any]:
        return picture(next(seeds))

    found: dict[str, Member] = {}

    def add(name: str, content: bytes, pixels: np.ndarray[Any, Any], within: float = 0.6) -> None:
        found[name] = Member(content, "ok", "", pixels, within)

    jpeg: dict[str, Any] = {"format": "JPEG", "quality": 95}
    for name, options, within in (
        ("baseline.jpg", jpeg, 4),
        ("progressive.jpg", {**jpeg, "progressive": True}, 4),
        ("subsampled.jpeg", {**jpeg, "subsampling": 2}, 4),
        ("UPPER.JPG", jpeg, 4),
        ("odd.JpEg", jpeg, 4),
        ("plain.png", {}, 0.6),
        ("png named.jpg", {}, 0.6),
        ("profile.png", {"icc_profile": b"not a profile"}, 0.6),
        ("lossless.webp", {"format": "WEBP", "lossless": True}, 0.6),
        ("lossy.webp", {"format": "WEBP", "quality": 95}, 4),
        ("plain.tif", {"format": "TIFF"}, 0.6),
        ("lzw.tiff", {"format": "TIFF", "compression": "tiff_lzw"}, 0.6),
        ("plain.bmp", {"format": "BMP"}, 0.6),
    ):
        p = fresh()
        add(name, encoded(p, **options), p, within)
    for orientation, turn in _STORE.items():
        p = fresh()
        stored = Image.fromarray(p) if turn is None else Image.fromarray(p).transpose(turn)
        add(f"exif{orientation}.png", encoded(stored, exif=_exif(orientation)), p)
    p = fresh()
    add("trailing.png", encoded(p) + b"junk after the end", p)
    p = fresh()
    add("trailing.jpg", encoded(p, **jpeg) + bytes(999), p, 4)
    g = fresh()[..., 0]
    add("grey.png", encoded(g), _grey(g))
    g = fresh()[..., 0]
    add("grey.jpg", encoded(g, **jpeg), _grey(g), 4)
    b = fresh()[..., 0] > 128
    for name, format in (("bits.png", "PNG"), ("bits.tif", "TIFF"), ("bits.bmp", "BMP")):
        b = np.roll(b, 3, axis=1)
        add(name, encoded(Image.fromarray(b), format), _grey(b * 255))
    p = fresh()
    cmyk = np.dstack([255 - p, p[..., :1] // 4])
    printed = np.round(p * (255.0 - cmyk[..., 3:]) / 255).astype(np.uint8)
    add("cmyk.tif", encoded(Image.fromarray(cmyk, "CMYK"), "TIFF"), printed, 1)
    quantised = Image.fromarray(fresh()).quantize(16)
    add("palette.png", encoded(quantised), np.asarray(quantised.convert("RGB")))
    quantised = Image.fromarray(fresh()).quantize(16)
    add("palette.gif", encoded(quantised, "GIF"), np.asarray(quantised.convert("RGB")))
    p, alpha = fresh(), fresh()[..., 0]
    add("alpha.png", encoded(np.dstack([p, alpha])), _over(p, alpha))
    p, alpha = fresh(), fresh()[..., 1]
    add("alpha.webp", encoded(np.dstack([p, alpha]), "WEBP", lossless=True, exact=True), _over(p, alpha))
    g, alpha = fresh()[..., 0], fresh()[..., 2]
    add("grey alpha.png", encoded(np.dstack([g, alpha])), _over(_grey(g), alpha))
    rng = np.random.default_rng(5)
    deep, colour = (rng.integers(0, 65536, shape, dtype=np.uint16) for shape in ((32, 40), (32, 40, 3)))
    other = deep[::-1]
    add("deep grey.png", png16(deep), _grey(np.round(deep / 257)))
    add("deep.tif", encoded(np.ascontiguousarray(other), "TIFF"), _grey(np.round(other / 257)))
    add("int32.tif", encoded(deep.T.astype(np.int32), "TIFF"), _grey(np.round(deep.T / 257)))
    add("deep colour.png", png16(colour), np.round(colour / 257).astype(np.uint8), 1)
    real = rng.random((32, 40), dtype=np.float32)
    add("float.tif", encoded(real, "TIFF"), _grey(np.round(real * 255)))
    for name, format in (("moving.gif", "GIF"), ("moving.webp", "WEBP"), ("moving.png", "PNG"), ("pages.tif", "TIFF")):
        frames = [Image.fromarray(fresh()).quantize(16).convert("RGB") for _ in range(3)]
        options = {"lossless": True} if format == "WEBP" else {}
        content = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
        add(name, content, np.asarray(frames[0]))
    odd = ("a b.png", "-dash.png", "new\nline.png", "cat\N{CAT}.png", "\udcff\udcfe.png", "n" * 251 + ".png")
    named = {name: fresh() for name in (*odd, "\u00e9.png", "e\u0301.png")}
    named |= {"smallest.png": picture(77, 8, 8), "long.png": picture(78, 2000, 9)}
    for name, p in named.items():
        add(name, encoded(p), p)
    return found


def zoo() -> dict[str, Member]:
    """Name below ``train/a`` -> member: at least sixty, none of them kept in the repository."""
    found = _usable()
    for name, (content, said) in bad_files().items():
        found[name if name not in found else f"bad {name}"] = Member(content, "bad", said)
    jpeg = encoded(picture(width=200, height=160), "JPEG", quality=90)
    broken = bytearray(encoded(picture()))
    broken[20] ^= 1  # within IHDR
    bad = {
        "large.png": (bomb(8_000, 8_000), "million pixels"),
        "strip65535.png": (bomb(65_535, 1), "longer than"),
        "long40000.png": (bomb(40_000, 8), "longer than"),
        "header.png": (bytes(broken), ""),
        "magic.png": (PNG_MAGIC, "header"),
        "magic.jpg": (b"\xff\xd8\xff", ""),
        "archive.png": (b"PK\x03\x04" + bytes(40), "zip archive"),
        "drawing.jpg": (b"<?xml version='1.0'?><svg/>", "XML"),
        "avif.jpg": (b"\0\0\0 ftypavif\0\0\0\0avifmif1miaf", "none of JPEG"),
        "heic.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "none of JPEG"),
        "jpeg2000.jpg": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "none of JPEG"),
        "icon.png": (encoded(picture(1, 16, 16), "ICO"), "none of JPEG"),
        "noise.jpg": (np.random.default_rng(3).bytes(5000), "none of JPEG"),
        "zeros.png": (bytes(4096), "none of JPEG"),
        "half.png": (encoded(picture(5, 200, 160))[:9000], "truncated"),
        "twice cut.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
    }
    found |= {name: Member(content, "bad", said) for name, (content, said) in bad.items()}
    clear = np.concatenate([picture(), np.zeros((32, 40, 1), np.uint8)], -1)
    found |= {
        "white.png": Member(encoded(np.full((32, 32, 3), 255, np.uint8)), "flat"),
        "invisible.png": Member(encoded(clear), "flat"),
        "black.jpg": Member(encoded(np.zeros((40, 40, 3), np.uint8), "JPEG"), "flat"),
        "dangling.png": Member(lambda p: p.symlink_to("nowhere"), "bad", "No such file"),
        "fifo.png": Member(os.mkfifo, "ignored", "FIFO"),
        "loop": Member(lambda p: p.symlink_to(".."), "ignored", "folder above"),
        "again.png": Member(lambda p: p.symlink_to("plain.png"), "ignored", "counted already"),
        ".DS_Store": Member(b"\0\0\0\1Bud1", "ignored", "hidden or system"),
        "Thumbs.db": Member(b"\xd0\xcf\x11\xe0", "ignored", "hidden or system"),
        ".hidden.png": Member(encoded(picture(8)), "ignored", "hidden or system"),
        "notes.txt": Member(b"two cats", "ignored", ".txt is no image's"),
        "model.pkl": Member(b"\x80\x04.", "ignored", ".pkl is no image's"),
        "no ending": Member(encoded(picture(9)), "ignored", "(none) is no image's"),
    }
    return found


def write_zoo(folder: Path, members: dict[str, Member]) -> None:
    """Make every member in ``folder``; links last, because they point at others."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, member in members.items():
        if isinstance(member.make, bytes):
            (folder / name).write_bytes(member.make)
    for name, member in members.items():
        if not isinstance(member.make, bytes):
            member.make(folder / name)
