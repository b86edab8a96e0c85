"""Imported official UNIT checkpoints give the outputs of the official code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from closeness import TOLERANCE, error
from unpaired.checkpoint import load_method, write_model
from unpaired.interop import import_unit_munit, import_unit_v2


@pytest.fixture
def fixtures(shared: Path) -> Path:
    """The official checkpoints and their outputs."""
    return shared / "parity"


@pytest.mark.parametrize(("network", "norm"), [("COCOResGen", "instance"), ("COCOResGen2", "none")])
@torch.no_grad()
def test_paper_generators(fixtures: Path, network: str, norm: str, tmp_path: Path) -> None:
    """Codes, translations and reconstructions of both generators of the paper's branch equal the official ones, and do
    so after the model was written and loaded again."""
    folder = fixtures / "unit_v2"
    io = {
        k.removeprefix(f"{network}."): v for k, v in load_file(folder / "io.safetensors").items() if f"{network}." in k
    }
    method, header = import_unit_v2(folder / f"{network}_gen_00500000.pkl", None, ("cat", "tiger"), norm)
    assert header["step"] == 500_000
    assert header["directions"] == [["cat", "tiger"], ["tiger", "cat"]]
    again, _ = load_method(write_model(tmp_path / "model.safetensors", method, header))
    for unit in (method, again):
        assert error(unit.encode(io["x_a"], "cat"), io["code_a"]) <= TOLERANCE
        assert error(unit.translate(io["x_a"], "cat", "tiger"), io["x_ab"]) <= TOLERANCE
        assert error(unit.translate(io["x_b"], "tiger", "cat"), io["x_ba"]) <= TOLERANCE
        assert error(unit.reconstruct(io["x_a"], "cat"), io["x_aa"]) <= TOLERANCE
        assert error(unit.reconstruct(io["x_b"], "tiger"), io["x_bb"]) <= TOLERANCE


@torch.no_grad()
def test_wrong_norm_is_noticed(fixtures: Path) -> None:
    """The two generators of the paper's branch share tensor names, yet read with the wrong norm the output differs."""
    folder = fixtures / "unit_v2"
    io = load_file(folder / "io.safetensors")
    method, _ = import_unit_v2(folder / "COCOResGen_gen_00500000.pkl", norm="none")
    assert error(method.translate(io["COCOResGen.x_a"], "a", "b"), io["COCOResGen.x_ab"]) > 0.01


@pytest.mark.parametrize("layers", [3, 5])
@torch.no_grad()
def test_paper_discriminators(fixtures: Path, layers: int) -> None:
    """Discriminators of 3 and 5 layers of the paper's branch give the official logits in both domains."""
    folder = fixtures / "unit_v2"
    io = load_file(folder / "io.safetensors")
    method, _ = import_unit_v2(
        folder / "COCOResGen2_gen_00500000.pkl", folder / f"COCODis{layers}_dis_00500000.pkl", ("cat", "tiger")
    )
    # The fixture's discriminators saw the images of either generator's entry; both hold the same ones.
    judged = method.discriminators([io["COCOResGen2.x_a"], io["COCOResGen2.x_b"]])
    for (logits,), letter in zip(judged, "ab", strict=True):
        assert error(logits.flatten(), io[f"COCODis{layers}.out_{letter}"]) <= TOLERANCE


@torch.no_grad()
def test_munit_code_base(fixtures: Path) -> None:
    """Codes, translations, reconstructions and all three scales of a discriminator equal those of the MUNIT code
    base."""
    folder = fixtures / "unit_master"
    io = load_file(folder / "io.safetensors")
    method, header = import_unit_munit(folder / "gen_00010000.pt", folder / "dis_00010000.pt", ("day", "night"))
    assert header["step"] == 10_000
    assert error(method.encode(io["x_a"], "day"), io["h_a"]) <= TOLERANCE
    assert error(method.encode(io["x_b"], "night"), io["h_b"]) <= TOLERANCE
    assert error(method.translate(io["x_a"], "day", "night"), io["x_ab"]) <= TOLERANCE
    assert error(method.translate(io["x_b"], "night", "day"), io["x_ba"]) <= TOLERANCE
    assert error(method.reconstruct(io["x_a"], "day"), io["x_aa"]) <= TOLERANCE
    assert error(method.reconstruct(io["x_b"], "night"), io["x_bb"]) <= TOLERANCE
    scales = method.discriminators([io["x_a"], io["x_b"]])[0]
    assert len(scales) == 3
    for i, logits in enumerate(scales):
        assert error(logits, io[f"dis_a.{i}"]) <= TOLERANCE
