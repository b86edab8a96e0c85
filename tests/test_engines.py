"""Another engine gives the same pictures."""

from __future__ import annotations

import sys

import cases
import pytest
import torch

from unpaired.errors import ConfigError
from unpaired.methods import METHODS
from unpaired.translation import Translator

IMAGES = torch.rand(2, 3, 40, 52, generator=torch.Generator().manual_seed(0)) * 2 - 1


def translator(key: str, engine: str) -> Translator:
    """A translator over a tiny untrained method."""
    torch.manual_seed(0)
    return Translator(cases.method(key), {}, engine=engine)


def test_an_engine_that_is_not_installed_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the error says what to install; an unknown engine brings the names of those that there are."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"pip install 'unpaired\[openvino\]'"):
        translator("unit", "openvino")
    with pytest.raises(ConfigError, match="There are: torch, openvino"):
        translator("unit", "openvin")


def test_random_outputs_are_left_to_torch() -> None:
    """A model that draws noise is refused before anything is translated."""
    key = next(k for k in METHODS if cases.method(k).stochastic)
    with pytest.raises(ConfigError, match="random outputs"):
        translator(key, "openvino")


@pytest.mark.parametrize("key", [k for k in METHODS if not cases.method(k).stochastic])
def test_openvino_equals_torch(key: str) -> None:
    """Every method without random outputs gives the same images by OpenVINO within 1e-3, also at a second size."""
    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    plain, fast = translator(key, "torch"), translator(key, "openvino")
    source, target = plain.directions[0]
    for images in (IMAGES, IMAGES[:1, :, :, :40]):
        assert (fast.translate(images, source, target) - plain.translate(images, source, target)).abs().max() < 1e-3
