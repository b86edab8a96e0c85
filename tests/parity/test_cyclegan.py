"""Imported CycleGAN checkpoints give the outputs of the official code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
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
    method, header = import_cyclegan(
        fixtures / "latest_net_G_A.pth", fixtures / "latest_net_D_A.pth", ("horse", "zebra")
    )
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
def test_dropout_and_other_networks(fixtures: Path, tmp_path: Path) -> None:
    """A generator trained with dropout has other names and the same outputs; a discriminator in its place is refused,
    and a missing tensor is listed."""
    io = load_file(fixtures / "io.safetensors")
    state = torch.load(fixtures / "latest_net_G_A.pth", weights_only=True)
    renamed = {k.replace("conv_block.5", "conv_block.6"): v for k, v in state.items()}
    torch.save(renamed, tmp_path / "dropout.pth")
    method, header = import_cyclegan(tmp_path / "dropout.pth", domains=("a", "b"))
    assert error(method.translate(io["x"], "a", "b"), io["out"]) <= TOLERANCE
    write_model(tmp_path / "m.safetensors", method, header)
    with pytest.raises(CheckpointError, match="ResNet generator of CycleGAN"):
        import_cyclegan(fixtures / "latest_net_D_A.pth")
    del state["model.26.bias"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match=r"model\.26\.bias"):
        import_cyclegan(tmp_path / "less.pth")
