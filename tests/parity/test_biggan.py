"""Imported official BigGAN and DeepI2I checkpoints give the outputs of the official code."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from closeness import TOLERANCE, error
from unpaired.checkpoint import load_method, write_model
from unpaired.interop import import_biggan, import_deepi2i
from unpaired.interop.tensors import read_torch_file
from unpaired.translate.translator import load

NAMES = tuple(f"animal {i}" for i in range(12))


@torch.no_grad()
def test_biggan(shared: Path, tmp_path: Path) -> None:
    """Images and logits equal the official ones, also after the model was written and loaded; sizes come from the
    tensors; our state dictionaries have the official names in the official order and the same values."""
    folder = shared / "parity/biggan"
    io = load_file(folder / "io.safetensors")
    method, header = import_biggan(folder / "G_ema.pth", folder / "D.pth")
    assert (header["image_size"], method.shape.width, method.shape.shared_dim) == (128, 8, 16)
    assert method.domains[:2] == ("class-000", "class-001") and len(method.domains) == 12
    assert (method.shape.latent, method.shape.attention) == (120, 64)
    again, _ = load_method(write_model(tmp_path / "model.safetensors", method, header))
    for gan in (method, again):
        assert error(gan.generator(io["z"], io["y"]), io["out"]) <= TOLERANCE
        assert error(gan.discriminator(io["x"], io["y"]), io["logit"]) <= TOLERANCE
    for file, network in (("G_ema.pth", method.generator), ("D.pth", method.discriminator)):
        official, ours = read_torch_file(folder / file), network.state_dict()
        assert list(official) == list(ours)
        assert all(torch.equal(official[k], ours[k]) for k in ours)


@torch.no_grad()
def test_deepi2i(shared: Path, tmp_path: Path) -> None:
    """Encoder taps (the last one after its activation), adaptors, translations, logits and discriminator features equal
    the official ones; translate() with the same latents does too, and takes an input of no trained domain."""
    folder = shared / "parity/deepi2i"
    io = load_file(folder / "io.safetensors")
    files = [folder / f"{name}.pth" for name in ("G", "D", "E1", "A1")]
    method, header = import_deepi2i(*files, NAMES)
    taps = method.encode(io["x"])
    assert taps[4].min() == 0 and taps[8].min() < 0
    adapted = method.adaptors(taps)
    features = method.discriminator.taps(io["x"])
    for r in (4, 8, 16, 32):
        assert error(taps[r], io[f"encoder.{r}"]) <= TOLERANCE
        assert error(adapted[r], io[f"adaptor.{r}"]) <= TOLERANCE
        assert error(features[r], io[f"dis_feature.{r}"]) <= TOLERANCE
    assert error(method.decode(taps, io["z"], io["y"]), io["out"]) <= TOLERANCE
    assert error(method.discriminator(io["x"], io["y"]), io["logit"]) <= TOLERANCE
    model = load(write_model(tmp_path / "model.safetensors", method, header))
    for i in range(len(io["y"])):
        one = model.translate(io["x"][i : i + 1], None, NAMES[io["y"][i]], latents=io["z"][i : i + 1])
        assert error(one, io["out"][i : i + 1]) <= TOLERANCE
    for file, network in zip(files, ("generator", "discriminator", "encoder", "adaptors"), strict=True):
        official, ours = read_torch_file(file), method.get_submodule(network).state_dict()
        assert set(official) - set(ours) <= {k for k in official if k.startswith(("linear.", "embed."))}
        assert all(torch.equal(official[k], ours[k]) for k in ours)


@torch.no_grad()
def test_fewer_classes_than_rows(shared: Path) -> None:
    """Names for the first classes alone keep those rows, as the released models reuse ImageNet's; their images are the
    same but for the spectral norm of the shorter class table, which only logits see."""
    folder = shared / "parity/deepi2i"
    io = load_file(folder / "io.safetensors")
    files = [folder / f"{name}.pth" for name in ("G", "D", "E1", "A1")]
    count = int(io["y"].min()) + 1
    method, _ = import_deepi2i(*files, NAMES[:count])
    assert method.shape.classes == count < len(NAMES)
    few = io["y"] < count
    assert few.any()
    found = method.decode(method.encode(io["x"][few]), io["z"][few], io["y"][few])
    assert error(found, io["out"][few]) <= TOLERANCE
