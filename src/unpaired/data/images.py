"""The one opener for images, the one resize, and the one way between uint8 pixels and tensors in [-1, 1].

Whatever comes in (16-bit, CMYK, palette, alpha, rotated by EXIF, animated, truncated, a bomb) leaves as a fully
decoded 8-bit RGB image or as an :class:`~unpaired.errors.ImageError` that names the path and the reason.
docs/data.md has the table of conversions; tests/data holds every row of it against arithmetic.

Legend: N batch, H height, W width.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from unpaired.config import DataConfig
from unpaired.errors import ImageError, Interrupted
from unpaired.files import parallel

if TYPE_CHECKING:
    from torch import Tensor

Source = str | os.PathLike[str] | bytes
Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
"""What Pillow may try, by the first bytes of the file and not by its name. Pillow knows many more formats; each is
one more parser that a foreign file could attack, and hardly any is used for pictures."""
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif"}
)
"""Endings (lower case) of files that are taken for images. The content decides how they are read."""
OTHER_IMAGE_SUFFIXES = frozenset((
    ".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf",
    ".rw2", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".pcx", ".exr", ".hdr", ".dcm",
))  # fmt: skip
"""Endings (lower case) of pictures in formats that are not read: a user is told to convert them."""
MAX_PIXELS = 50_000_000
"""Largest width × height, read from the header before decoding; 50 megapixels take about 300 MB while decoding, and
few cameras make more."""
MAX_SIDE = 32_768
"""Largest side in pixels: a longer one is a strip or a forged header, no picture."""
MIN_SIDE = 8
"""Smallest side in pixels: below it there is nothing to learn from; it is a tracking pixel or a placeholder."""
MAX_FILE_BYTES = 512 * 2**20
"""Largest file: 50 megapixels of uncompressed 16-bit RGBA are 400 MB."""

DRAFT = 2
"""A JPEG is decoded at 1/2, 1/4 or 1/8 while its shorter side keeps this many times the resized one, which is hardly
visible (49 dB)."""
GAP = 2
"""White pixels between the pictures of a sheet."""

# Our pixel limit is lower than the size at which Pillow starts to warn, and it raises; the other texts name no
# file. Appended, so that any filter of the user's own comes first.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)
warnings.filterwarnings("ignore", "Corrupt EXIF data|Truncated File Read|Metadata Warning", append=True)
# What Pillow lends to NumPy is read-only; torch has no such tensors and says so, but nothing here writes to them.
warnings.filterwarnings("ignore", "The given NumPy array is not writable", append=True)

_T = Image.Transpose
_UPRIGHT = {  # EXIF orientation -> what turns the stored pixels upright
    2: _T.FLIP_LEFT_RIGHT, 3: _T.ROTATE_180, 4: _T.FLIP_TOP_BOTTOM, 5: _T.TRANSPOSE, 6: _T.ROTATE_270, 7: _T.TRANSVERSE,
    8: _T.ROTATE_90,
}  # fmt: skip
_SAVE: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG", "compress_level": 4},
    "jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    "webp": {"format": "WEBP", "lossless": True},
}
_NOT_IMAGES = (  # first bytes of what most often hides behind an image's name
    (b"version https://git-lfs", "a git-lfs pointer, not the image; run `git lfs pull`"),
    (b"<!doctype html", "an HTML page, not an image; download it again"),
    (b"<html", "an HTML page, not an image; download it again"),
    (b"<?xml", "an XML or SVG text, not a raster image"),
    (b"<svg", "an SVG drawing, not a raster image"),
    (b"%!ps", "a PostScript file, not a raster image"),
    (b"%pdf", "a PDF, not a raster image"),
    (b"pk\x03\x04", "a zip archive, not an image"),
)


def show(path: object) -> str:
    """Write ``path`` as text that is safe to print: odd bytes and control characters are escaped."""
    text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else str(path)
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def open_regular(path: str | os.PathLike[str]) -> Iterator[io.BufferedReader]:
    """Open a regular file for reading. Never blocks on a FIFO and never touches a device.

    Raises:
        ImageError: missing, a directory, not a regular file, not readable, or larger than ``MAX_FILE_BYTES``.
    """
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):  # before the open: opening a device can act
            kind = "a folder" if Path(path).is_dir() else "a FIFO, socket or device"
            raise ImageError(show(path), f"{kind}, not a file")
        # O_NONBLOCK: should a FIFO have taken the file's place since, the open still returns at once
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise ImageError(show(path), f"cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL byte in the name
        raise ImageError(show(path), f"cannot be read: {error}") from error
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(show(path), "a FIFO, socket or device, not a file")
        _check_bytes(show(path), status.st_size)
        yield file


def digest_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 (hex) of a file's bytes; ``unreadable`` when they cannot be read."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (ImageError, OSError):
        return "unreadable"


def _check_bytes(name: str, size: int) -> None:
    if size == 0:
        raise ImageError(name, "empty file (0 bytes)")
    if size > MAX_FILE_BYTES:
        raise ImageError(name, f"{size / 2**20:.0f} MiB; files up to {MAX_FILE_BYTES >> 20} MiB are read")


@contextmanager
def _stream(source: Source) -> Iterator[tuple[str, BinaryIO]]:
    """(name for messages, seekable binary file) of a path or of a file's bytes."""
    if isinstance(source, bytes):
        _check_bytes("<bytes>", len(source))
        yield "<bytes>", io.BytesIO(source)
    else:
        with open_regular(source) as file:
            yield show(source), file


def _header(name: str, file: BinaryIO, min_side: int) -> ImageFile.ImageFile:
    """The image with only its header read; its size has passed the limits."""
    try:
        image = Image.open(file, formats=FORMATS)
        width, height = image.size
    except UnidentifiedImageError as error:
        file.seek(0)
        start = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        known = [reason for magic, reason in _NOT_IMAGES if start.startswith(magic)]
        other = "its content is none of JPEG, PNG, WebP, TIFF, BMP, GIF, or its header is damaged"
        raise ImageError(name, known[0] if known else other) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(name, f"more than {MAX_PIXELS / 1e6:g} million pixels") from error
    except Interrupted:
        raise
    except Exception as error:  # Pillow's parsers raise nearly anything on damaged headers
        raise ImageError(name, f"damaged header ({_text(error)})") from error
    if width * height > MAX_PIXELS:
        raise ImageError(name, f"{width}×{height} is more than {MAX_PIXELS / 1e6:g} million pixels")
    if max(width, height) > MAX_SIDE:
        raise ImageError(name, f"{width}×{height}: a side is longer than {MAX_SIDE}")
    if min(width, height) < min_side:
        raise ImageError(name, f"{width}×{height} is too small: a side has fewer than {min_side} pixels")
    return image


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _check_png(name: str, file: BinaryIO) -> None:
    """Every chunk's CRC, and that the end is there. Pillow checks neither the CRC of the pixels nor the end."""
    file.seek(8)
    while True:
        head = file.read(8)
        length = int.from_bytes(head[:4], "big")
        if len(head) < 8 or length > MAX_FILE_BYTES:
            raise ImageError(name, "truncated PNG (no IEND chunk)")
        body = file.read(length)
        check = file.read(4)
        if len(body) < length or len(check) < 4:
            raise ImageError(name, f"truncated PNG (in chunk {head[4:]!r})")
        if zlib.crc32(body, zlib.crc32(head[4:])) != int.from_bytes(check, "big"):
            raise ImageError(name, f"damaged PNG (wrong checksum of chunk {head[4:]!r})")
        if head[4:] == b"IEND":
            return


def probe(source: Source) -> tuple[int, int]:
    """Read (width, height) from the header, as stored (EXIF orientation not applied). Raises as `open_image`."""
    with _stream(source) as (name, file):
        return _header(name, file, MIN_SIDE).size


def open_image(
    source: Source,
    *,
    min_side: int = MIN_SIDE,
    facts: dict[str, object] | None = None,
) -> Image.Image:
    """Decode the first frame of ``source``: upright, 8-bit RGB, without metadata.

    Args:
        source: path, or the file's bytes.
        min_side: refused when a side is shorter.
        facts: filled, when given, with ``format``, ``mode``, ``frames``, ``orientation``, ``profile`` (an ICC
            profile is embedded; it is ignored) and ``width``, ``height`` as stored.

    Raises:
        ImageError: names the path and the reason: no file, no image, too large, too small, truncated, damaged.
    """
    rgb = _decoded(source, facts=facts, min_side=min_side)
    if type(rgb) is not Image.Image:
        rgb = rgb.copy()  # a plain Image, no longer tied to the file
    rgb.info.clear()  # or Pillow would write the profile and other leftovers into whatever is saved from this
    return rgb


def _decoded(
    source: Source,
    *,
    at_least: int | None = None,
    facts: dict[str, object] | None = None,
    min_side: int = MIN_SIDE,
) -> Image.Image:
    """As `open_image`, but what Pillow opened may come back itself, metadata and all: for its pixels alone.

    A JPEG is decoded at 1/2, 1/4 or 1/8 when its shorter side then still has ``at_least`` pixels: much faster for
    photographs that will be shrunk, and slightly different.
    """
    with _stream(source) as (name, file):
        image = _header(name, file, min_side)
        stored = image.size
        if image.format == "PNG":
            _check_png(name, file)
        if at_least is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, (at_least, at_least))  # never below at_least in either direction
        raw = image.tile[0].args if image.format == "PNG" and image.tile else None
        try:
            image.load()
            if raw is not None and "transparency" in image.info:
                _mend_transparency(image, str(raw), file)
        except Interrupted:
            raise
        except Exception as error:
            raise ImageError(name, f"truncated or damaged ({_text(error)})") from error
        orientation = int(_soundly(lambda: image.getexif().get(ExifTags.Base.Orientation, 1), 1))
        rgb = to_rgb(name, image)
        if rgb is image and image.format != "JPEG":
            rgb = image.copy()  # of several frames the file would be read again, when it is closed
        if facts is not None:
            profile = bool(image.info.get("icc_profile"))
            facts |= {"format": image.format, "mode": image.mode, "orientation": orientation, "profile": profile}
            # walks through the file, so only when asked for; of a damaged later frame the first one was sound
            frames = _soundly(lambda: getattr(image, "n_frames", 1), 2)
            facts |= {"width": stored[0], "height": stored[1], "frames": frames}
    turn = _UPRIGHT.get(orientation)
    return rgb if turn is None else rgb.transpose(turn)


def _soundly(read: Callable[[], Any], otherwise: int) -> Any:
    """What ``read`` finds in a file whose pixels are sound; ``otherwise`` where what it reads is damaged."""
    try:
        return read()
    except Interrupted:
        raise
    except Exception:
        return otherwise


def _mend_transparency(image: Image.Image, raw: str, file: BinaryIO) -> None:
    """Put right what Pillow makes of the one transparent colour of a PNG that is not 8 bits deep.

    It leaves the colour in the file's own depth beside pixels of 8 bits, and keeps the high bytes of 16-bit ones.
    """
    transparent = image.info["transparency"]
    if raw in ("L;2", "L;4"):
        image.info["transparency"] = transparent * 255 // (2 ** int(raw[2]) - 1)
    elif raw == "RGB;16B":
        file.seek(0)
        low = Image.open(file, formats=("PNG",))
        low.tile = [low.tile[0]._replace(args="RGB;16L")]  # the other byte of each value
        values = np.asarray(image).astype(np.uint16) << 8 | np.asarray(low)
        del image.info["transparency"]
        image.putalpha(Image.fromarray(np.where((values == transparent).all(axis=-1), 0, 255).astype(np.uint8)))


def to_rgb(name: str, image: Image.Image) -> Image.Image:
    """Turn any mode into RGB, each on purpose (docs/data.md); an RGB image is returned itself."""
    mode, transparent = image.mode, image.info.get("transparency")
    if mode.startswith("I;16") or mode in ("I", "F"):
        grey = _to_grey8(name, image)
        if isinstance(transparent, int) and mode.startswith("I;16"):
            grey.putalpha(Image.fromarray(np.where(np.asarray(image) == transparent, 0, 255).astype(np.uint8)))
            return _over_white(grey)
        return grey.convert("RGB")
    palette = image.palette.mode if mode == "P" and image.palette is not None else ""
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or transparent is not None or palette == "RGBA":
        return _over_white(image)
    if mode == "RGB":
        return image
    if mode in ("1", "L", "P", "CMYK", "YCbCr", "RGBX"):
        return image.convert("RGB")
    raise ImageError(name, f"colour mode {mode} is not supported; save it as RGB")


def _over_white(image: Image.Image) -> Image.Image:
    under = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(under, image.convert("RGBA")).convert("RGB")


def _to_grey8(name: str, image: Image.Image) -> Image.Image:
    """16-bit and 32-bit integers are read as 0 to 65535, floats as 0 to 1; the rest is refused, not clipped."""
    values = np.asarray(image)
    # a TIFF's PhotometricInterpretation, which Pillow follows up to 8 bits alone: X-rays and scans
    white_is_0 = image.format == "TIFF" and getattr(image, "tag_v2", {}).get(262) == 0
    if image.mode == "F":
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(values).all() and low >= 0 and high <= 1):
            what = f"float values from {low:g} to {high:g}"
            raise ImageError(name, f"{what}; 0 to 1 can be read; rescale it or save 8-bit")
        return Image.fromarray(np.round((1 - values if white_is_0 else values) * 255).astype(np.uint8))
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        what = f"integer values from {low} to {high}"
        raise ImageError(name, f"{what}; 0 to 65535 can be read; save it as 8-bit or 16-bit")
    levels = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return Image.fromarray(255 - levels if white_is_0 else levels)


def _target(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(width, height) with the shorter one ``side`` and the aspect of ``size``."""
    # Python's round() on a half goes to the even number: the same on every machine
    width, height = (max(side, round(length * side / min(size))) for length in size)
    return width, height


def resize(image: Image.Image, size: int, config: DataConfig) -> Image.Image:
    """Give ``image`` a shorter side of ``size`` pixels, aspect kept, filter as ``config`` says, antialiased."""
    if min(image.size) == size:
        return image
    return image.resize(_target(image.size, size), Image.Resampling[config.interpolation.upper()])


def short_side(config: DataConfig) -> int:
    """Tell the shorter side of an image before the crop: ``resize``, or ``size``, never less than the crop."""
    return max(config.resize or config.size, config.size)


def load_resized(source: Source, config: DataConfig) -> Pixels:
    """Load what training crops from: uint8 [H, W, 3] with min(H, W) = ``short_side(config)``.

    Large JPEGs are decoded at a reduced scale of at least ``DRAFT`` times that side, unless the config asks for
    point sampling. Raises ImageError as `open_image`.
    """
    side = short_side(config)
    smooth = config.interpolation != "nearest"
    image = _decoded(source, at_least=DRAFT * side if smooth else None)
    if smooth and min(image.size) != side:
        return _resized(np.asarray(image), side, config.interpolation)
    return np.asarray(resize(image, side, config))


def load_all(paths: Iterable[str | os.PathLike[str]], config: DataConfig) -> Iterator[Pixels | ImageError]:
    """Load images as `load_resized` does, over threads, in order; the error in the place of an unusable one."""

    def load(path: str | os.PathLike[str]) -> Pixels | ImageError:
        try:
            return load_resized(path, config)
        except ImageError as error:
            return error

    return parallel(load, paths)


def _resized(pixels: Pixels, side: int, filter_: str) -> Pixels:
    """Resize uint8 [H, W, 3] as `resize` does, by PyTorch's version of Pillow's filters: three to five times faster.

    Both round weights and sums to integers, PyTorch to fewer bits: fewer than one value in a hundred differs, by 1
    level (2 at the most that was seen; tests/data/test_images.py).
    """
    import torch

    height, width, _ = pixels.shape
    stored = torch.from_numpy(np.require(pixels, requirements="W")).permute(2, 0, 1)[None]
    target = _target((width, height), side)[::-1]
    with torch.inference_mode():
        made = torch.nn.functional.interpolate(stored, target, mode=filter_, antialias=True)
        found: Pixels = made[0].permute(1, 2, 0).numpy()
    return found


_CENTRE, _SCALE = np.float32(127.5), np.float32(1 / 127.5)


def to_tensor(pixels: Pixels) -> Tensor:
    """Turn uint8 [H, W, 3] or [N, H, W, 3] into float32 [3, H, W] or [N, 3, H, W] in [-1, 1], contiguous."""
    import torch

    batch = pixels[None] if pixels.ndim == 3 else pixels
    values = np.empty((len(batch), batch.shape[3], *batch.shape[1:3]), np.float32)
    for one, of in zip(values, batch, strict=True):
        normalise(of, one)
    return torch.from_numpy(values if pixels.ndim == 4 else values[0])


def normalise(pixels: Pixels, out: NDArray[np.float32], *, mirror: bool = False) -> None:
    """Write uint8 [H, W, 3], any view, into ``out`` [3, H, W]: 0 is -1 and 255 is 1 exactly; mirrored on wish.

    Image by image, so that the three passes stay in the processor's cache; NumPy, because starting torch's threads
    costs ten times the work on arrays of this size.
    """
    planes = np.moveaxis(pixels, -1, 0)
    if mirror:
        planes = planes[..., ::-1]
    out[...] = planes
    out -= _CENTRE
    out *= _SCALE


def to_uint8(tensor: Tensor) -> Pixels:
    """Turn float [3, H, W] or [N, 3, H, W] in [-1, 1] into uint8 [H, W, 3] or [N, H, W, 3]; the inverse of `to_tensor`.

    Values outside are clamped. Raises ValueError for NaN, which has no colour.
    """
    values = tensor.detach().float().cpu().numpy()
    if np.isnan(values).any():
        raise ValueError("NaN cannot be shown as a colour")
    levels = np.clip(np.round((values + np.float32(1)) * np.float32(127.5)), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(levels, -3, -1))


def encode_image(pixels: Pixels, ending: str = "png") -> bytes:
    """Encode uint8 [H, W, 3] or [H, W] as PNG, JPEG (jpg: quality 95, no chroma subsampling) or lossless WebP.

    Raises ValueError, OSError: a side is too long for the format.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **_SAVE[ending])
    return buffer.getvalue()


def sheet(cells: Sequence[Pixels | None], columns: int) -> Pixels:
    """Lay pictures of one size out row by row, ``GAP`` white pixels apart; None leaves a white cell."""
    height, width = next(cell.shape[:2] for cell in cells if cell is not None)
    rows = -(-len(cells) // columns)
    page = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for n, cell in enumerate(cells):
        if cell is not None:
            top, left = n // columns * (height + GAP), n % columns * (width + GAP)
            page[top : top + height, left : left + width] = cell
    return page
