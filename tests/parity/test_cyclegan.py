"""Imported CycleGAN checkpoints give the outputs of the official code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from closeness import TOLERANCE, error
from unpaired.checkpoint import write_model
from unpaired.cli import main
from unpaired.errors import CheckpointError
from unpaired.interop import import_cyclegan
from unpaired.methods import run_from
from unpaired.training.pretrained import begin_with
from unpaired.training.run import build
from unpaired.translate.translator import load


@pytest.fixture
def fixtures(shared: Path) -> Path:
    """The official checkpoints and their outputs."""
    return shared / "parity/cyclegan"


@torch.no_grad()
def test_generator_and_discriminator(fixtures: Path) -> None:
    """resnet_9blocks and the 70 x 70 PatchGAN, both with instance norm, equal the official ones."""
    io = load_file(fixtures / "io.safetensors")
    method, header = import_cyclegan([fixtures / f"latest_net_{n}_A.pth" for n in "GD"], ("horse", "zebra"))
    assert header["directions"] == [["horse", "zebra"]]
    assert error(method.translate(io["x"], "horse", "zebra"), io["out"]) <= TOLERANCE
    (logits,) = method.discriminator(io["x"])
    assert error(logits, io["dis"]) <= TOLERANCE


@torch.no_grad()
def test_command_and_reload(fixtures: Path, tmp_path: Path) -> None:
    """``unpaired import cyclegan`` writes a model that, loaded, gives the official outputs; B to A is named the other
    way round."""
    io = load_file(fixtures / "io.safetensors")
    out = tmp_path / "model.safetensors"
    with pytest.raises(SystemExit) as left:
        main(
            ["import", "cyclegan", str(fixtures / "latest_net_G_A.pth"), "--domains", "zebra,horse", "--out", str(out)]
        )
    assert left.value.code == 0
    model = load(out)
    assert model.directions == (("zebra", "horse"),)
    assert error(model.translate(io["x"], None, "horse"), io["out"]) <= TOLERANCE
    both = [str(fixtures / f"latest_net_{n}_A.pth") for n in "GD"]
    whole = tmp_path / "whole.safetensors"
    with pytest.raises(SystemExit):
        main(["import", "cyclegan", *both, "--domains", "zebra,horse", "--out", str(whole)])
    run = run_from(load(whole).header["config"])
    fresh = build(run, ("zebra", "horse"))
    assert begin_with(fresh, "attend", whole).about["tensors"] > begin_with(fresh, "attend", out).about["tensors"]
    assert error(fresh.discriminator(io["x"])[0], io["dis"]) <= TOLERANCE
    assert whole.stat().st_size < 2_000_000  # no history, no features: weights alone


@torch.no_grad()
def test_both_directions_are_a_cycle_that_trains_on(fixtures: Path, tmp_path: Path) -> None:
    """Two generators and the discriminators of what they make: D_A judges G_A's target, the second domain."""
    io = load_file(fixtures / "io.safetensors")
    back = {k: -v for k, v in torch.load(fixtures / "latest_net_G_A.pth", weights_only=True).items()}
    other = {k: -v for k, v in torch.load(fixtures / "latest_net_D_A.pth", weights_only=True).items()}
    torch.save(back, tmp_path / "G_B.pth")
    torch.save(other, tmp_path / "D_B.pth")
    files = [fixtures / "latest_net_G_A.pth", tmp_path / "G_B.pth", fixtures / "latest_net_D_A.pth"]
    model = tmp_path / "m.safetensors"
    with pytest.raises(SystemExit) as left:
        domains = ("--domains", "zebra,horse", "--out", str(model))
        main(["import", "cyclegan", *map(str, files), str(tmp_path / "D_B.pth"), *domains])
    assert not left.value.code
    translator = load(model)
    assert translator.header["method"] == "cycle"
    assert error(translator.translate(io["x"], "zebra", "horse"), io["out"]) <= TOLERANCE
    assert not torch.allclose(translator.translate(io["x"], "horse", "zebra"), io["out"])
    fresh = build(run_from(translator.header["config"]), ("zebra", "horse"))
    begin_with(fresh, "cycle", model)
    assert error(fresh.discriminators[1](io["x"])[0], io["dis"]) <= TOLERANCE
    with pytest.raises(CheckpointError, match="2 generators and 1 discriminators"):
        import_cyclegan(files)


@torch.no_grad()
def test_a_generator_that_pip_brings() -> None:
    """vintagify's (MIT): norms with parameters, blocks that are called ``block``; equal to plain modules."""
    spec = importlib.util.find_spec("vintagify")
    if spec is None or spec.origin is None:
        pytest.skip("vintagify is not installed (pip install --no-deps vintagify==0.1.2)")
    file = Path(spec.origin).parent / "resources/G_A2B_epoch33.pth"
    method, _ = import_cyclegan([file], ("new", "old"))
    x = torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert error(method.translate(x, "new", "old"), _plain(torch.load(file, "cpu", weights_only=True), x)) <= TOLERANCE


def _plain(w: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """A ResNet generator with 9 blocks and norms with parameters, in functions."""

    def norm(name: str, y: torch.Tensor) -> torch.Tensor:
        return F.instance_norm(y, weight=w[f"{name}.weight"], bias=w[f"{name}.bias"])

    def layer(y: torch.Tensor, name: str, padding: int, stride: int = 1) -> torch.Tensor:
        y = F.pad(y, (padding,) * 4, mode="reflect" if stride == 1 else "constant")
        return F.conv2d(y, w[f"{name}.weight"], w[f"{name}.bias"], stride)

    x = norm("model.2", layer(x, "model.1", 3)).relu()
    for i in (4, 7):
        x = norm(f"model.{i + 1}", layer(x, f"model.{i}", 1, 2)).relu()
    for i in range(10, 19):
        y = norm(f"model.{i}.block.2", layer(x, f"model.{i}.block.1", 1)).relu()
        x = x + norm(f"model.{i}.block.6", layer(y, f"model.{i}.block.5", 1))
    for i in (19, 22):
        y = F.conv_transpose2d(x, w[f"model.{i}.weight"], w[f"model.{i}.bias"], 2, 1, 1)
        x = norm(f"model.{i + 1}", y).relu()
    return layer(x, "model.26", 3).tanh()


@torch.no_grad()
def test_dropout_and_other_networks(fixtures: Path, tmp_path: Path) -> None:
    """A generator trained with dropout has other names and the same outputs; a discriminator in its place is refused,
    and a missing tensor is listed."""
    io = load_file(fixtures / "io.safetensors")
    state = torch.load(fixtures / "latest_net_G_A.pth", weights_only=True)
    renamed = {k.replace("conv_block.5", "conv_block.6"): v for k, v in state.items()}
    torch.save(renamed, tmp_path / "dropout.pth")
    method, header = import_cyclegan([tmp_path / "dropout.pth"])
    assert error(method.translate(io["x"], "a", "b"), io["out"]) <= TOLERANCE
    write_model(tmp_path / "m.safetensors", method, header)
    with pytest.raises(CheckpointError, match="0 generators and 1 discriminators"):
        import_cyclegan([fixtures / "latest_net_D_A.pth"])
    del state["model.26.bias"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match=r"model\.26\.bias"):
        import_cyclegan([tmp_path / "less.pth"])
