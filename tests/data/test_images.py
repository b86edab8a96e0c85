"""The opener: every mode against arithmetic, every kind of damage refused with its reason."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from image_zoo import bad_files, bomb, chunk, encoded, picture, png, png16
from PIL import Image

from unpaired import signals
from unpaired.config import DataConfig
from unpaired.data import images
from unpaired.data.images import encode_image, load_resized, normalise, open_image, resize, show, to_tensor, to_uint8
from unpaired.errors import ImageError, Interrupted

RNG = np.random.default_rng(7)


def opened(data: bytes, **options: object) -> np.ndarray:
    return np.asarray(open_image(data, **options)).astype(int)  # type: ignore[arg-type]


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """colour·α + white·(1 − α), α in [0, 255]; [H, W, 3]."""
    a = alpha[..., None] / 255
    return colour * a + 255 * (1 - a)


@pytest.mark.parametrize("filter_", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("stored", "side"), [((97, 61), 32), ((64, 48), 60), ((40, 200), 24)])
def test_files_are_resized_as_pillow_does_it(filter_: str, stored: tuple[int, int], side: int) -> None:
    """Of what `load_resized` gives, under one value in fifty differs from Pillow's resize, by at most 2 levels."""
    image = picture(0, *stored)
    config = DataConfig(size=side, interpolation=filter_)
    found = load_resized(encode_image(image), config)
    wanted = np.asarray(resize(Image.fromarray(image), side, config))
    difference = np.abs(found.astype(int) - wanted)
    assert found.shape == wanted.shape
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.02


def test_only_much_larger_jpegs_are_decoded_smaller() -> None:
    """At 3 times the side wanted a JPEG is decoded in full, at 8 times at a fraction, which is hardly seen."""
    jpeg = encoded(picture(0, 512, 512), "JPEG")
    whole = encode_image(np.asarray(open_image(jpeg)))
    near, far = (
        np.abs(load_resized(jpeg, DataConfig(size=side)).astype(int) - load_resized(whole, DataConfig(size=side)))
        for side in (171, 64)
    )
    assert near.max() == 0 and 0 < far.mean() < 2


@pytest.mark.parametrize("width", [16, 19])
@pytest.mark.parametrize("planar", [True, False])
def test_normalise_takes_any_view(width: int, planar: bool) -> None:
    """Crops of interleaved and of planar pixels, mirrored or not, become the same tensors as plain arithmetic gives."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    stored = np.moveaxis(np.ascontiguousarray(np.moveaxis(pixels, -1, 0)), 0, -1) if planar else pixels
    crop, out = stored[2:18, 3 : 3 + width], np.empty((3, 16, width), np.float32)
    for mirror in (False, True):
        normalise(crop, out, mirror=mirror)
        plain = pixels[2:18, 3 : 3 + width][:, ::-1] if mirror else pixels[2:18, 3 : 3 + width]
        assert np.abs(out - (plain.transpose(2, 0, 1) / 127.5 - 1)).max() < 1e-7
        assert np.array_equal(out, to_tensor(plain).numpy())


@pytest.mark.parametrize("depth", [2, 4])
def test_two_and_four_bit_grey_is_scaled(depth: int) -> None:
    """2-bit and 4-bit grey spans 0 to 255."""
    row = bytes([0b00011011]) * (2 * depth)
    levels = np.array([(0b00011011 >> shift) & (2**depth - 1) for shift in range(8 - depth, -1, -depth)])
    expected = levels * 255 // (2**depth - 1)
    assert np.array_equal(opened(png(16, 16, depth, 0, (b"\0" + row) * 16))[0, : len(levels), 0], expected)


@pytest.mark.parametrize("form", ["png", "tiff", "tiff big-endian"])
def test_16_bit_grey_is_scaled_not_clipped(form: str) -> None:
    """16-bit grey v becomes round(v / 257): 65535 is white and 32768 is the middle."""
    values = RNG.integers(0, 65536, (20, 24), dtype=np.uint16)
    values[0, :3] = (0, 32768, 65535)
    if form == "png":
        data = png16(values)
    elif form == "tiff":
        data = encoded(values, "TIFF")
    else:
        data = encoded(Image.frombytes("I;16B", (24, 20), values.astype(">u2").tobytes()), "TIFF")
    result = opened(data)
    assert np.array_equal(result, np.stack([np.floor(values / 257 + 0.5)] * 3, -1))
    assert result[0, :3, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_16_bit_colour_and_alpha_keep_the_high_byte(channels: int) -> None:
    """16-bit grey+alpha, RGB and RGBA are read to within one level of v / 257 (Pillow keeps the high byte)."""
    values = RNG.integers(0, 65536, (16, 16, channels), dtype=np.uint16)
    if channels != 3:
        values[..., -1] = 65535
    colour = values[..., :1].repeat(3, -1) if channels == 2 else values[..., :3]
    result = opened(png16(values))
    assert np.abs(result - colour / 257).max() <= 1
    assert abs(result.mean() - (colour / 257).mean()) < 1


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_cmyk_is_multiplied_out(format: str) -> None:
    """CMYK becomes (255 − c)(255 − k) / 255; a JPEG stores it inverted, as Adobe does."""
    cmyk = RNG.integers(0, 256, (8, 8, 4), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    options = {"quality": 100, "subsampling": 0} if format == "JPEG" else {}
    result = opened(encoded(Image.fromarray(cmyk, "CMYK"), format, **options))
    expected = (255 - cmyk[..., :3].astype(int)) * (255 - cmyk[..., 3:].astype(int)) / 255
    assert np.abs(result - expected).max() <= (3 if format == "JPEG" else 1)


def test_ycck_jpeg_is_understood() -> None:
    """An Adobe YCCK JPEG (transform 2) is turned into CMYK by YCbCr arithmetic before it is multiplied out."""
    stored = y, cb, cr, k = 75, 165, 95, 40
    written = np.empty((16, 16, 4), np.uint8)
    written[:] = 255 - np.array(stored)  # Pillow stores CMYK inverted, as Adobe does
    data = bytearray(encoded(Image.fromarray(written, "CMYK"), "JPEG", quality=100, subsampling=0))
    data[data.index(b"Adobe") + 11] = 2  # what was written as CMYK is now declared to be YCCK
    rgb = np.array([y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)])
    # YCCK decodes to inks 255 − rgb, which Adobe stores inverted: the true inks are rgb, and black is 255 − k
    expected = (255 - rgb) * (255 - (255 - k)) / 255
    assert np.abs(opened(bytes(data))[8, 8] - expected).max() <= 2


def test_palette_transparency_is_laid_over_white() -> None:
    """Palette entries have an alpha each."""
    image = Image.fromarray(picture()).quantize(8)
    alphas = [0, 50, 100, 150, 200, 255, 255, 255]
    palette = np.array(image.getpalette(), int).reshape(-1, 3)
    index = np.asarray(image)
    result = opened(encoded(image, transparency=bytes(alphas)))
    assert np.abs(result - over_white(palette[index], np.array(alphas)[index])).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_laid_over_white(mode: str, format: str) -> None:
    """colour·α + white·(1 − α); transparent red does not become red."""
    colour = picture() if mode == "RGBA" else picture()[..., :1].repeat(3, -1)
    alpha = RNG.integers(0, 256, colour.shape[:2], dtype=np.uint8)
    alpha[0] = 0
    channels = (colour if mode == "RGBA" else colour[..., :1], alpha[..., None])
    image = Image.fromarray(np.concatenate(channels, -1), mode)
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    result = opened(encoded(image, format, **options))
    assert np.abs(result - over_white(colour, alpha)).max() <= 1
    assert (result[0] == 255).all()


@pytest.mark.parametrize(("colour", "depth"), [(0, 2), (0, 4), (0, 8), (2, 8), (0, 16), (2, 16)])
def test_transparent_colour_of_a_png_becomes_white(colour: int, depth: int) -> None:
    """The one colour that a PNG names transparent (tRNS) becomes white, whatever its depth; all others stay,
    also those that differ in the low byte alone or have the transparent colour's low byte as their high one."""
    channels = 3 if colour == 2 else 1
    values = {2: (1, 3), 4: (5, 10), 8: (5, 77), 16: (0x1234, 0x3412, 0x1235)}[depth]
    lines = [f"{''.join(f'{v:0{depth}b}' for v in [value] * channels) * 16}" for value in values]
    rows = b"".join(b"\0" + int(line, 2).to_bytes(len(line) // 8, "big") for line in lines for _ in range(8))
    marked = chunk(b"tRNS", values[0].to_bytes(2, "big") * channels)
    result = opened(png(16, 8 * len(values), depth, colour, rows, marked))
    assert (result[:8] == 255).all()
    for n, value in enumerate(values[1:], start=1):
        assert np.abs(result[8 * n : 8 * n + 8] - value * 255 / (2**depth - 1)).max() <= 1


@pytest.mark.parametrize(("bits", "kind"), [(16, 1), (32, 3)])
def test_white_is_zero(bits: int, kind: int) -> None:
    """A grey TIFF whose zero means white (X-rays, scans) is turned round, as Pillow does with 8 bits."""
    values = np.linspace(0, 1, 16, dtype=np.float32).reshape(1, 16).repeat(16, 0)
    stored = (values * 65535).round().astype(np.uint16) if bits == 16 else values
    data = encoded(Image.fromarray(stored), "TIFF", tiffinfo={262: 0})
    assert np.abs(opened(data)[..., 0] - 255 * (1 - values)).max() <= 0.51


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_animations(format: str) -> None:
    """Of an animation or a file with several pages the first is read, and the number of frames is told."""
    first, second = Image.new("RGB", (16, 16), (200, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 200))
    options = {"lossless": True} if format == "WEBP" else {}
    facts: dict[str, object] = {}
    data = encoded(first, format, save_all=True, append_images=[second], **options)
    result = np.asarray(open_image(data, facts=facts)).astype(int)
    assert np.abs(result - (200, 0, 0)).max() <= 2
    assert facts["frames"] == 2


@pytest.mark.parametrize("name", bad_files())
def test_bad_files_are_refused_with_path_and_reason(name: str, tmp_path: Path) -> None:
    """Every damaged or foreign file is refused; the text has the path and what is wrong."""
    content, part = bad_files()[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        open_image(path)
    assert str(path) in str(caught.value)
    assert part in caught.value.reason
    assert caught.value.exit_code == 2


def test_special_files_are_refused_at_once(tmp_path: Path) -> None:
    """A FIFO without a writer, a device, a folder and a missing file are refused without waiting."""
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "fifo.png", tmp_path / "folder.png", Path("/dev/zero"), tmp_path / "missing.png"):
        with pytest.raises(ImageError, match=r"FIFO|folder|No such file"):
            open_image(path)


def test_a_bomb_costs_no_memory() -> None:
    """A PNG of 400 megapixels in a file of 50 KB is refused from its header, within 32 MB of memory."""
    script = f"""
        import resource, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from image_zoo import bomb, encoded, picture
        from unpaired.data.images import open_image
        from unpaired.errors import ImageError
        open_image(encoded(picture()))
        data = bomb(20_000, 20_000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            open_image(data)
        except ImageError as error:
            print(error.reason)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    run = [sys.executable, "-c", textwrap.dedent(script)]
    reason, grown = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "20000×20000" in reason or "million pixels" in reason
    assert int(grown) * (1 if sys.platform == "darwin" else 1024) < 32 * 2**20


def test_bytes_give_the_same_as_the_file(tmp_path: Path) -> None:
    """A path and bytes give the same pixels; the size comes from the header."""
    (tmp_path / "a.png").write_bytes(encoded(picture()))
    assert np.array_equal(open_image((tmp_path / "a.png").read_bytes()), open_image(tmp_path / "a.png"))
    assert images.probe(str(tmp_path / "a.png")) == (40, 32)
    with pytest.raises(ImageError, match="million pixels"):
        images.probe(bomb(9000, 9000))


def test_no_metadata_survives() -> None:
    """Neither profile nor EXIF is left, so a translated picture does not carry the input's GPS or colour profile."""
    from PIL import ImageCms

    exif = Image.Exif()
    exif[0x010F] = "a camera"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    facts: dict[str, object] = {}
    image = open_image(encoded(picture(), "JPEG", exif=exif, icc_profile=profile), facts=facts)
    assert facts["profile"] is True
    assert not image.info
    assert not image.getexif()


@pytest.mark.parametrize("size", [(100, 60), (60, 100), (60, 60), (61, 97)])
def test_resize_sets_the_shorter_side(size: tuple[int, int]) -> None:
    """The shorter side becomes exactly the size asked for, the longer one follows the aspect."""
    for interpolation in ("nearest", "bilinear", "bicubic"):
        config = DataConfig(interpolation=interpolation)
        for side in (24, 80):
            width, height = resize(Image.new("RGB", size), side, config).size
            assert min(width, height) == side
            assert abs(max(width, height) - max(size) * side / min(size)) <= 0.5


def test_all_levels_survive_the_round_trip() -> None:
    """uint8 -> [-1, 1] -> uint8 is exact for every level, for one image and for a batch, and spans the range."""
    levels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    pixels = np.stack([levels, levels[::-1], levels[:, ::-1]], -1)
    tensor = to_tensor(pixels)
    assert tensor.shape == (3, 8, 32)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    assert (tensor.min(), tensor.max()) == (-1, 1)
    assert np.array_equal(to_uint8(tensor), pixels)
    batch = np.stack([pixels, pixels[::-1]])
    assert np.array_equal(to_uint8(to_tensor(batch)), batch)
    assert torch.equal(to_tensor(batch)[0], tensor)


def test_to_uint8_clamps_and_refuses_nan() -> None:
    """Values outside [-1, 1] are clamped; NaN has no colour."""
    assert to_uint8(torch.tensor([-9.0, 9.0, 0.0]).reshape(3, 1, 1)).tolist() == [[[0, 255, 128]]]
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(torch.full((3, 1, 1), float("nan")))


def test_names_are_escaped_for_printing() -> None:
    """Newlines, terminal escapes and bytes that are not UTF-8 are shown escaped, other scripts as they are."""
    assert show(b"a\nb\x1b[31m\xff.png") == "a\\nb\\x1b[31m\\xff.png"
    assert show("猫 é 🐈.png") == "猫 é 🐈.png"


@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_signal_while_decoding_is_not_a_damaged_file(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C inside a parser leaves the command; it must not count as an unusable image."""

    class Slow(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1) -> bytes:
            self.reads += 1
            if self.reads == at:
                os.kill(os.getpid(), signal.SIGINT)
            return super().read(size)

    data = encoded(picture(), "JPEG")
    monkeypatch.setattr(io, "BytesIO", Slow)
    with signals.handled(), pytest.raises(Interrupted):
        open_image(data)
