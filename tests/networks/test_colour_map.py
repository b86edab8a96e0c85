"""The linear colour map has the moments it promises, and a start begins there."""

from __future__ import annotations

import torch
from torch import nn

from unpaired.networks.colour_map import ColourStart, clamp, colour_moments, linear_colour_map

RANDOM = torch.Generator().manual_seed(0)


def _images(mean: float, spread: float) -> torch.Tensor:
    mix = torch.randn(3, 3, generator=RANDOM)
    pixels = torch.einsum("ij,njhw->nihw", mix, torch.randn(8, 3, 16, 16, generator=RANDOM))
    return mean + spread * pixels / 10


def test_the_map_gives_the_target_its_moments() -> None:
    """Mean and covariance of mapped colours are the target's; the matrix is symmetric and positive: no colour is turned
    round."""
    a, b = _images(-0.3, 1.0), _images(0.4, 2.0)
    matrix, offset = linear_colour_map(colour_moments(a), colour_moments(b))
    mapped = torch.einsum("ij,njhw->nihw", matrix, a.double()) + offset[:, None, None]
    for one, other in zip(colour_moments(mapped), colour_moments(b), strict=True):
        assert torch.allclose(one, other, atol=1e-4)
    assert torch.allclose(matrix, matrix.T, atol=1e-9) and bool((torch.linalg.eigvalsh(matrix) > 0).all())


def test_grey_pictures_have_a_map() -> None:
    """Two of three directions of colour are flat there: the map is finite all the same."""
    grey = _images(0.0, 1.0)[:, :1].expand(-1, 3, -1, -1)
    matrix, offset = linear_colour_map(colour_moments(grey), colour_moments(_images(0.1, 1.0)))
    assert bool(torch.isfinite(matrix).all() and torch.isfinite(offset).all())


def test_colours_that_hardly_vary_are_not_stretched() -> None:
    """Photographs vary little from red to green: between two sets alike the map is the identity. Of grey pictures the
    noise of a file stays grey, and becomes a colour at ten times its size at most."""
    turn = torch.linalg.qr(torch.randn(3, 3, generator=RANDOM, dtype=torch.float64)).Q
    middle = torch.zeros(3, dtype=torch.float64)

    def moments(*variances: float) -> tuple[torch.Tensor, torch.Tensor]:
        return middle, turn @ torch.diag(torch.tensor(variances, dtype=torch.float64)) @ turn.T

    photo, grey = moments(0.2, 0.005, 0.0003), moments(0.2, 0.0, 0.0)
    assert torch.allclose(linear_colour_map(photo, photo)[0], torch.eye(3, dtype=torch.float64), atol=1e-9)
    assert float(torch.linalg.eigvalsh(linear_colour_map(grey, grey)[0]).max()) < 1.001
    assert float(torch.linalg.eigvalsh(linear_colour_map(grey, moments(0.2, 0.01, 0.01))[0]).max()) < 10.001


def test_a_start_is_its_map_and_then_learns() -> None:
    """Near-identical to the clamped map at first, with gradients for the network; A and t are saved with it."""
    network = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Tanh())
    start = ColourStart(network, network[0])  # type: ignore[arg-type]
    images = (_images(0.0, 1.0)).clamp(-1, 1)
    assert float((start(images) - images).detach().abs().max()) < 0.03
    start.measure(colour_moments(images), colour_moments(_images(0.2, 0.5)))
    out = start(images)
    assert float((out - start.start(images).clamp(-1, 1)).detach().abs().max()) < 0.03
    out.sum().backward()  # type: ignore[no-untyped-call]
    assert float(network[0].weight.grad.abs().sum()) > 0  # type: ignore[union-attr,operator]
    assert {"matrix", "offset"} <= set(start.state_dict())


def test_what_has_left_the_range_can_come_back() -> None:
    """Outside [-1, 1] the clamp lets through the gradients that lead back, and none that lead further out; inside,
    all."""
    x = torch.tensor([-2.0, -2.0, 0.5, 2.0, 2.0], requires_grad=True)
    clamped = clamp(x)
    assert torch.equal(clamped, x.detach().clamp(-1, 1))
    clamped.backward(torch.tensor([-1.0, 1.0, 1.0, 1.0, -1.0]))
    assert x.grad is not None and x.grad.tolist() == [-1.0, 0.0, 1.0, 1.0, 0.0]
