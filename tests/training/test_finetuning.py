"""Fine-tuned features: what is trained, going on after a cut, use in a pyramid, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tiny
from unpaired import checkpoint, signals
from unpaired.config import DataConfig
from unpaired.errors import ConfigError, Interrupted, WeightsError
from unpaired.networks.pyramid import Pyramid
from unpaired.training.finetuning import Tuned, finetune
from unpaired.training.pretrained import Start


def run(data: Path, out: Path, **options: object) -> Path:
    """Two epochs of MobileNet with random weights at 32 pixels."""
    settings = {
        "network": "mobilenet_v1",
        "pretrained": "random",
        "epochs": 2,
        "batch_size": 4,
        "size": 32,
        "quiet": True,
    }
    return finetune(data, out, device="cpu", **{**settings, **options}).path  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finetune")
    tiny.folder(root, count=6, side=40)
    return root


def test_only_the_deepest_block_and_the_head_are_trained(data: Path, tmp_path: Path) -> None:
    """VGG-19: conv5_1 to conv5_4 and three linear layers, the last 4096 to 2. MobileNet: in the written file all layers but the
    last block are those it began with, statistics of batch norms too."""
    with torch.device("meta"):
        model = Tuned("vgg19", 2)
        names = {id(p): n for n, p in model.named_parameters()}
        trained = {names[id(p)] for p in model.players()}
    assert {n.split(".")[2] for n in trained if n.startswith("features")} == {
        "conv5_1",
        "conv5_2",
        "conv5_3",
        "conv5_4",
    }
    assert model.head[-1].weight.shape == (2, 4096) and model.head[2].weight.shape == (4096, 25088)
    torch.manual_seed(0)
    started = Tuned("mobilenet_v1", 2).features.layers.state_dict()
    path = run(data, tmp_path / "f.safetensors")
    tensors, header = checkpoint.unpack(path, path.read_bytes())
    moved = {k for k in tensors if not torch.equal(tensors[k], started[k])}
    assert moved and all(k.startswith("stride32.") and "running" not in k for k in moved)
    assert header["classes"] == ["blue", "red"] and header["n"] == 4 and 0 <= header["accuracy"] <= 1


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_a_cut_run_goes_on_to_the_same_file(
    momentum: float, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by a signal after its second step and called again, it writes the same layers, and its state is gone; also without
    momentum."""
    whole = run(data, tmp_path / "whole.safetensors", momentum=momentum)
    calls = iter([None, 15])
    with monkeypatch.context() as patch:
        patch.setattr(signals, "requested", lambda: next(calls))
        with pytest.raises(Interrupted, match="after step 2"):
            run(data, tmp_path / "cut.safetensors", momentum=momentum)
    assert (tmp_path / "cut.state").exists()
    cut = run(data, tmp_path / "cut.safetensors", momentum=momentum)
    assert not (tmp_path / "cut.state").exists()
    a, b = (checkpoint.unpack(p, p.read_bytes())[0] for p in (whole, cut))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_pyramid_takes_the_file(data: Path, tmp_path: Path) -> None:
    """With ``weights`` the file, the pyramid has its layers and the model says where they came from; a file of another network,
    or one that is no such file, is refused."""
    path = run(data, tmp_path / "f.safetensors", epochs=1)
    pyramid, start = Pyramid("mobilenet_v1", (5, 4), 1, 32), Start(tiny.pool(), DataConfig())
    pyramid.features.fill(*start.classifier("mobilenet_v1", str(path)))
    (about,) = start.pretrained
    tensors, _ = checkpoint.unpack(path, path.read_bytes())
    assert all(torch.equal(v, tensors[k]) for k, v in pyramid.features.layers.state_dict().items())
    assert "fine-tuned on blue, red" in about["name"] and len(about["sha256"]) == 64
    with pytest.raises(WeightsError, match="not fine-tuned features of alexnet"):
        start.classifier("alexnet", str(path))
    (tmp_path / "other.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="not a readable checkpoint"):
        start.classifier("mobilenet_v1", str(tmp_path / "other.safetensors"))


def test_refusals(data: Path, tmp_path: Path) -> None:
    """Another ending, a file that is there, no epoch, a rate or momentum out of range: nothing is done."""
    with pytest.raises(ConfigError, match=r"ends in \.safetensors"):
        run(data, tmp_path / "f.pth")
    (tmp_path / "f.safetensors").touch()
    with pytest.raises(ConfigError, match="--overwrite"):
        run(data, tmp_path / "f.safetensors")
    with pytest.raises(ConfigError, match="epochs = 0"):
        run(data, tmp_path / "g.safetensors", epochs=0)
    for wrong in (
        {"lr": 0.0},
        {"lr": -1.0},
        {"lr": float("nan")},
        {"lr": float("inf")},
        {"momentum": -0.1},
        {"momentum": 1.0},
    ):
        with pytest.raises(ConfigError, match=r"lr = .*momentum = "):
            run(data, tmp_path / "g.safetensors", **wrong)
    assert not (tmp_path / "g.safetensors").exists()
