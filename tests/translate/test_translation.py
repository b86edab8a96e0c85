"""Translator: what it accepts, any size, tiles, directions, pictures, loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
import torch
from PIL import Image

import tiny
import unpaired
from toys import Blur, Negative, Noise, OneWay, Square, translator
from unpaired.checkpoint import make_header, write_model
from unpaired.errors import CheckpointError, ConfigError, DataError
from unpaired.training.run import build
from unpaired.translate import tiling
from unpaired.translate.translator import Translator, load


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (1, 1), (2, 50), (5, 4), (64, 3)])
def test_any_size_comes_back_unchanged_in_size_and_place(size: tuple[int, int]) -> None:
    """A pointwise method gives its exact result for every size, so padding and cropping cancel."""
    images = noise(2, 3, *size)
    assert torch.equal(translator(Negative()).translate(images, "day", "night"), -images)


@pytest.mark.parametrize(("size", "max_pixels"), [((200, 180), 64 * 64), ((70, 900), 80 * 80), ((333, 65), 4096)])
def test_tiled_equals_untiled_for_a_pointwise_method(size: tuple[int, int], max_pixels: int) -> None:
    """Blending weights sum to one everywhere: a pointwise method gives the same picture, whatever the tiles."""
    model = translator(Negative())
    images = noise(1, 3, *size)
    out = model.translate(images, "day", "night", max_pixels=max_pixels)
    calls = model.method.calls
    assert len(calls) > 1 and all(h * w <= max_pixels for _, _, h, w in calls)
    assert (out + images).abs().max() < 1e-6


def test_tiles_of_a_local_method_differ_only_near_their_borders() -> None:
    """A 5×5 mean differs by less than the ramp's first weight times the border effect, and nowhere far from a
    border."""
    images = noise(1, 3, 160, 160)
    model = translator(Blur())
    whole = model.translate(images, "day", "night")
    tiled = model.translate(images, "day", "night", max_pixels=64 * 64)
    difference = (whole - tiled).abs().amax(dim=(0, 1))
    begins = tiling.starts(160, 64, 4)
    borders = sorted(set(begins[1:]) | {b + 64 for b in begins[:-1]})
    far = torch.tensor([all(abs(p + 0.5 - b) > 2.5 for b in borders) for p in range(160)])
    assert difference[far][:, far].max() < 1e-6
    assert 0 < difference.max() < 0.1  # the border pixels themselves, at a weight near zero


def test_many_images_do_not_exceed_the_memory_bound() -> None:
    """A batch is split so that no call of the network gets more than max_pixels."""
    model = translator(Negative())
    images = noise(10, 3, 64, 64)
    assert torch.equal(model.translate(images, "day", "night", max_pixels=3 * 64 * 64), -images)
    assert [call[0] for call in model.method.calls] == [3, 3, 3, 1]


def test_a_fixed_size_method_gets_its_size_and_gives_the_inputs_back() -> None:
    """A method for 16×16 alone serves other sizes: resized there and back; its own size passes untouched."""
    model = translator(Square())
    smooth = torch.linspace(-0.5, 0.5, 40).expand(1, 3, 30, 40)
    out = model.translate(smooth, "day", "night")
    assert out.shape == smooth.shape and (out + smooth).abs().mean() < 0.02
    own = noise(1, 3, 16, 16)
    assert torch.allclose(model.translate(own, "day", "night"), -own, atol=1e-5)


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (torch.zeros(3, 8, 8), r"wanted \[N, 3, H, W\]: add the batch with images\[None\]"),
        (torch.zeros(1, 8, 8, 3), r"permute\(0, 3, 1, 2\)"),
        (torch.zeros(1, 1, 8, 8), r"have shape \[1, 1, 8, 8\]"),
        (torch.zeros(1, 3, 0, 8), "have shape"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"images / 127.5 - 1"),
        (torch.full((1, 3, 8, 8), 255.0), r"from 255 to 255; wanted \[-1, 1\]"),
        (torch.full((1, 3, 8, 8), float("nan")), "hold NaN"),
        (np.zeros((1, 3, 8, 8)), "not ndarray"),
    ],
)
def test_wrong_tensors_are_refused_with_what_to_type(images: torch.Tensor, text: str) -> None:
    """Shape, type and range are checked before the network sees them."""
    with pytest.raises(DataError, match=text):
        translator(Negative()).translate(images, "day", "night")


def test_directions_are_checked_with_the_nearest_name() -> None:
    """An unknown domain names the nearest one; an impossible direction names the possible ones;
    a clear source is found."""
    model = translator(OneWay())
    with pytest.raises(ConfigError, match=r"no domain 'nigth'\. Did you mean 'night'"):
        model.translate(noise(1, 3, 8, 8), "day", "nigth")
    with pytest.raises(ConfigError, match=r"does not translate 'night' to 'day'\. It can do: day -> night"):
        model.translate(noise(1, 3, 8, 8), "night", "day")
    with pytest.raises(ConfigError, match="does not translate to 'day'"):
        model.direction(None, "day")
    assert model.direction(None, "night") == ("day", "night")
    with pytest.raises(ConfigError, match="several domains lead to 'b': a, c"):
        translator(Negative(("a", "b", "c"))).direction(None, "b")


def test_noise_follows_from_the_seed() -> None:
    """The same seed gives the same output, another seed another one."""
    model, images = translator(Noise()), noise(1, 3, 8, 8)
    one, same, other = (model.translate(images, "day", "night", seed=s) for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_no_images_give_no_images() -> None:
    """An empty batch stays one."""
    assert translator(Negative()).translate(torch.zeros(0, 3, 8, 8), "day", "night").shape == (0, 3, 8, 8)


def test_a_picture_comes_back_upright_in_its_size() -> None:
    """EXIF orientation 6 is applied, the mode becomes RGB, and colours are exactly the method's."""
    stored = Image.fromarray(np.arange(6 * 9, dtype=np.uint8).reshape(6, 9))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.getexif().update(exif)
    out = translator(Negative()).translate_image(stored, target="night")
    upright = np.asarray(stored.transpose(Image.Transpose.ROTATE_270))
    assert out.mode == "RGB" and out.size == (6, 9)
    assert np.array_equal(np.asarray(out)[..., 0], 255 - upright)


def test_a_picture_whose_output_is_nan_is_an_error() -> None:
    """NaN never becomes a black picture."""
    with pytest.raises(DataError, match="not finite"):
        translator(OneWay()).translate_image(Image.new("RGB", (8, 8), "white"), target="night")


def test_reconstruct_is_none_where_the_method_has_none() -> None:
    """The method's own reconstruction at any size, or None."""
    images = noise(1, 3, 7, 9)
    same = translator(Negative()).reconstruct(images, "day")
    assert same is not None and torch.allclose(same, (images - 0.1).clamp(-1, 1), atol=1e-6)
    assert translator(OneWay()).reconstruct(images, "day") is None


def test_load_gives_the_same_pixels_and_describes_itself(tmp_path: Path) -> None:
    """A written model, loaded, translates bit for bit as before; info() is plain JSON with hash and directions."""
    import json

    run = tiny.config()
    method = build(run, ("red", "blue")).eval()
    path = write_model(tmp_path / "m.safetensors", method, make_header(method, run, step=12))
    images = noise(2, 3, 18, 22)
    before = Translator(method, {}).translate(images, "red", "blue")
    model = unpaired.load(path)
    assert torch.equal(model.translate(images, "red", "blue"), before)
    about = json.loads(json.dumps(model.info()))
    assert about["directions"] == ["red -> blue", "blue -> red"] and about["step"] == 12
    assert len(about["sha256"]) == 64 and about["config"]["seed"] == 3
    with pytest.raises(CheckpointError, match="no such file"):
        load(tmp_path / "absent")


def test_a_bound_too_small_for_the_model_is_refused() -> None:
    """max_pixels below 16 strides squared says what the model needs."""
    with pytest.raises(ConfigError, match="tiles of at least 64×64, that is 4096 pixels"):
        translator(Negative()).translate(noise(1, 3, 80, 80), "day", "night", max_pixels=4000)


@pytest.mark.parametrize("model", [{}, {"architecture": "munit", "scales": 1}])
def test_memory_format_changes_a_translation_by_rounding_alone(model: dict[str, Any]) -> None:
    """On a CPU the weights lie in channels_last; the result is contiguous and within 1e-5 of the contiguous pass."""
    run = cases.config("unit", model=model)
    method = cases.method("unit", run).eval()
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    source, target = method.directions[0]
    with torch.no_grad():
        plain = method.translate(images, source, target)
    result = Translator(method, {}).translate(images, source, target)
    weights = [m.weight for m in method.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size[0] > 1]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights) and result.is_contiguous()
    assert (result - plain).abs().max() < 1e-5
