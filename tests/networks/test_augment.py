"""What DiffAugment does to images, how it is drawn, and that gradients go through it."""

from __future__ import annotations

import pytest
import torch

from unpaired.networks.augment import CUT, SHIFT, augment, colour, cutout, translation

SIDE = 16


def _images(n: int = 6) -> torch.Tensor:
    return torch.rand(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_translation_moves_by_whole_pixels_and_mirrors_the_edges() -> None:
    """Each image is a window of itself padded by reflection, by another shift than its neighbours, and all shifts
    come."""
    images, most = _images(64), round(SIDE * SHIFT)
    padded = torch.nn.functional.pad(images, (most,) * 4, mode="reflect")
    torch.manual_seed(0)
    moved = translation(images)
    found = set()
    for window, whole in zip(moved, padded, strict=True):
        places = [
            (y, x)
            for y in range(2 * most + 1)
            for x in range(2 * most + 1)
            if torch.equal(window, whole[:, y : y + SIDE, x : x + SIDE])
        ]
        assert len(places) == 1
        found.update(places)
    assert {y for y, _ in found} == {x for _, x in found} == set(range(2 * most + 1))


def test_cutout_greys_one_square_of_each_image() -> None:
    """At most ``CUT`` of each side, and no pixel outside it changes."""
    images = _images(32) + 2  # nowhere grey before
    torch.manual_seed(1)
    cut = cutout(images)
    gone = (cut == 0).all(1)
    assert torch.equal(cut[:, :, ~gone[0]][0], images[:, :, ~gone[0]][0])
    for mask in gone:
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert 0 < rows <= round(CUT * SIDE) and 0 < columns <= round(CUT * SIDE)
        assert mask.sum() == rows * columns


def test_colour_leaves_grey_pictures_grey() -> None:
    """Saturation and contrast have nothing to change in an even grey; brightness moves it by at most a quarter of the
    range."""
    torch.manual_seed(2)
    out = colour(torch.zeros(32, 3, 4, 4))
    assert torch.allclose(out, out[:, :1, :1, :1].expand_as(out), atol=1e-6)
    assert 0.2 < float(out.abs().max()) <= 0.5


@pytest.mark.parametrize("kinds", [(), ("translation",), ("cutout", "colour", "translation")])
def test_draws_are_torchs_and_gradients_pass(kinds: tuple[str, ...]) -> None:
    """The global generator alone decides, and every augmentation is differentiable; none of them changes nothing."""
    images = _images().requires_grad_()
    torch.manual_seed(3)
    one = augment(images, kinds)  # type: ignore[arg-type]
    torch.manual_seed(3)
    assert torch.equal(one, augment(images, kinds))  # type: ignore[arg-type]
    assert torch.equal(one, images) == (kinds == ())
    one.sum().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None and float(images.grad.abs().sum()) > 0
