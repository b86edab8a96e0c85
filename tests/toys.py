"""Methods without training, for tests of what is done with a trained one. Each is a real ``Method``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from unpaired.config import MethodConfig
from unpaired.methods.base import Method
from unpaired.translate.translator import Translator


class Negative(Method):
    """Inverts colours: purely local. Refuses sides that are no multiples of 4, as a strided network would."""

    Config = MethodConfig
    stride = 4

    def __init__(self, domains: tuple[str, ...] = ("day", "night"), *, pause_s: float = 0.0) -> None:
        super().__init__(MethodConfig(), domains, image_size=16)
        self.factor = nn.Parameter(torch.tensor(-1.0))
        self.pause_s = pause_s
        self.calls: list[tuple[int, ...]] = []

    def render(self, images: Tensor, source: str | None, target: str, *inputs: Tensor) -> Tensor:
        """-x."""
        assert images.shape[2] % self.stride == 0 and images.shape[3] % self.stride == 0
        assert not self.training and not torch.is_grad_enabled()
        self.calls.append(tuple(images.shape))
        time.sleep(self.pause_s)
        return images * self.factor

    def reconstruct(self, images: Tensor, domain: str) -> Tensor | None:
        """x, a little darker."""
        return (images - 0.1).clamp(-1, 1)


def like(kind: type[Negative], way: Callable[..., Tensor], **attributes: Any) -> type[Negative]:
    """A kind of method that translates by ``way(self, images, source, target, generator)``."""

    def translate(
        self: Negative, images: Tensor, source: str, target: str, *, generator: torch.Generator | None = None, **_: Any
    ) -> Tensor:
        self.calls.append(tuple(images.shape))
        return way(self, images, source, target, generator)

    return type(kind.__name__ + "Like", (kind,), {"translate": translate, **attributes})


class Blur(Negative):
    """A 5×5 mean: local with a receptive field of two pixels each way."""

    def render(self, images: Tensor, source: str | None, target: str, *inputs: Tensor) -> Tensor:
        """Mean of the neighbourhood."""
        return nn.functional.avg_pool2d(super().render(images, source, target), 5, 1, 2, count_include_pad=False)


class Square(Negative):
    """Takes 16×16 pixels only."""

    one_size = True

    def render(self, images: Tensor, source: str | None, target: str, *inputs: Tensor) -> Tensor:
        """-x, for one size."""
        assert images.shape[2:] == (16, 16)
        return super().render(images, source, target)


class Noise(Negative):
    """Adds noise: its outputs follow from the generator."""

    def inputs(
        self, images: Tensor, target: str, generator: torch.Generator | None = None, latents: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The noise."""
        return (torch.randn(images.shape, generator=generator, device=images.device),)

    def render(self, images: Tensor, source: str | None, target: str, *inputs: Tensor) -> Tensor:
        """-x and noise."""
        return (super().render(images, source, target) + 0.2 * inputs[0]).clamp(-1, 1)


class OneWay(Negative):
    """day -> night alone, and NaN for pictures that are white."""

    @property
    def directions(self) -> tuple[tuple[str, str], ...]:
        """One."""
        return ((self.domains[0], self.domains[1]),)

    def render(self, images: Tensor, source: str | None, target: str, *inputs: Tensor) -> Tensor:
        """-x; NaN where the picture is white."""
        white = images.amin(dim=(1, 2, 3), keepdim=True) > 0.999
        return super().render(images, source, target).masked_fill(white, float("nan"))

    def reconstruct(self, images: Tensor, domain: str) -> Tensor | None:
        """It has none."""
        return None


def translator(method: Method, **header: Any) -> Translator:
    """As ``unpaired.load`` would give it."""
    return Translator(method, {"method": type(method).__name__.lower(), "step": 7, **header})
