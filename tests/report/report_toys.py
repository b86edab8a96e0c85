"""A method for reports: any number of domains, random outputs, pictures in between. Real and saved like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unpaired import checkpoint
from unpaired.config import MethodConfig
from unpaired.methods import METHODS, run_from
from unpaired.methods.base import Method, Stage


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists the toy while a test of the importing file runs: the contract tests go over METHODS and must not see it."""
    monkeypatch.setitem(METHODS, "many", "report_toys:Many")


class ManyConfig(MethodConfig):
    """Settings of the toy."""

    spoilt: bool = False
    """Images that are not dark become NaN."""
    deaf: bool = False
    """Its results are of noise and target alone, though it takes an input."""


class Many(Method):
    """Moves the colour towards the target's own level, adds noise, shows the grey image and half of the result."""

    Config = ManyConfig
    any_source = True
    domain_count = (2, None)

    def __init__(self, config: ManyConfig, domains: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(config, domains, **kwargs)
        self.level = nn.Parameter(torch.linspace(-0.8, 0.8, len(domains)))

    def stages(self) -> tuple[Stage, ...]:
        """One without players: it learns nothing."""
        return (Stage("none", 5, (), 1),)

    def inputs(
        self, images: Tensor, target: str, generator: torch.Generator | None = None, latents: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The noise."""
        return (torch.randn(images.shape, generator=generator, device=images.device),)

    def render(self, images: Tensor, source: str | None, target: str, *inputs: Tensor) -> Tensor:
        """Half image, half level."""
        heard = torch.zeros_like(images) if self.config.deaf else images
        result = heard / 2 + self.level[self.domains.index(target)] / 2 + 0.05 * inputs[0]
        if self.config.spoilt:
            bright = images.mean(dim=(1, 2, 3), keepdim=True) > -0.5
            result = result.masked_fill(bright, float("nan"))
        return result.clamp(-1, 1)

    def views(self, images: Tensor, source: str, target: str) -> dict[str, Tensor]:
        """Two pictures, one of them of another size."""
        return {"grey": images.mean(1, keepdim=True).expand(-1, 3, -1, -1), "half": images[:, :, ::2, ::2]}


def save(path: Path, domains: tuple[str, ...], **settings: Any) -> Path:
    """A model file of the toy at 16 pixels."""
    run = run_from({"method": "many", "data": {"size": 16, "cache": False}, "model": settings})
    method = Many(run.model, domains, image_size=16)
    return checkpoint.write_model(path, method, checkpoint.make_header(method, run, step=5))
