"""BigGAN: sizes, spectral norm, batch statistics, regularisation, and another set of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tiny
import unpaired
from unpaired import interop
from unpaired.errors import CheckpointError, ConfigError
from unpaired.methods.gans import BigGAN
from unpaired.networks.biggan import (
    Discriminator,
    Generator,
    Shape,
    nearest_classes,
    with_classes,
)

SMALL: dict[str, Any] = {"width": 2, "shared_dim": 4, "z_dim": 8}


def parameters(network: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_sizes(size: int) -> None:
    """Each size gives images of that side and one logit each; taps and the generator's maps are where Shape says."""
    shape = Shape(size, 2, 5, 4, 20, attention=0)
    generator, discriminator = Generator(shape).eval(), Discriminator(shape).eval()
    y = torch.tensor([0, 4])
    with torch.no_grad():
        images = generator(torch.randn(2, shape.latent), y)
        assert images.shape == (2, 3, size, size) and images.abs().max() <= 1
        assert discriminator(images, y).shape == (2, 1)
        taps = discriminator.taps(images)
    assert {r: t.shape[1] for r, t in taps.items()} == shape.tap_channels
    assert shape.latent <= 20 and shape.latent % (len(shape.generator) + 1) == 0


# -- classes


def test_classes_are_gathered_with_their_optimiser_state() -> None:
    """Rows and spectral vector of a new class are those of the class it starts from; the rest is kept."""
    shape = Shape(32, 2, 4, 4, 8)
    discriminator = Discriminator(shape)
    state = discriminator.state_dict()
    new = with_classes(state, [2, 2, 0])
    assert torch.equal(new["embed.weight"], state["embed.weight"][[2, 2, 0]])
    assert new["embed.u0"].shape == (1, 3) and new["embed.u0"].norm().item() == pytest.approx(1)
    assert torch.equal(new["blocks.0.0.conv1.weight"], state["blocks.0.0.conv1.weight"])
    Discriminator(Shape(32, 2, 3, 4, 8)).load_state_dict(new)


def test_each_new_class_starts_from_an_old_one_of_its_own() -> None:
    """Features that all images share choose nothing: each new class finds the old one whose row points its way, and no
    row serves two classes while there are others; one that is taken by name is left out."""
    torch.manual_seed(0)
    discriminator = Discriminator(Shape(32, 2, 6, 4, 8)).eval()
    sets = [torch.randn(4, 3, 32, 32) * s for s in (0.2, 0.5, 1.0, 2.0)]
    with torch.no_grad():
        means = torch.stack([discriminator.pooled(discriminator.taps(x)).mean(0) for x in sets])
        places = [5, 0, 3, 2]
        discriminator.embed.weight.zero_()
        discriminator.embed.weight[places] = means - means.mean(0)
    assert nearest_classes(discriminator, sets) == places
    assert len({*nearest_classes(discriminator, sets, taken=[5])} - {5}) == 4
    assert sorted(nearest_classes(discriminator, sets * 2))[:6] != [5] * 6
    assert {*nearest_classes(discriminator, sets * 2)} == {*range(6)}  # eight classes, six rows: all of them serve


# -- the method


def make(domains: tuple[str, ...] = ("red", "blue"), **settings: Any) -> BigGAN:
    """A tiny one at 32 pixels."""
    return BigGAN(BigGAN.Config(**{**SMALL, **settings}), domains, image_size=32)


def test_wrong_size_is_refused() -> None:
    """100 pixels: the error names the sizes and what to type."""
    with pytest.raises(ConfigError, match=r"32, 64, 128, 256.*--set data.size=64"):
        BigGAN(BigGAN.Config(**SMALL), ("a", "b"), image_size=100)


def test_pretrain_on_a_single_folder(tmp_path: Path) -> None:
    """Images without any class folder are one class; the run writes samples, and its model draws images."""
    tiny.folder(tmp_path / "data", count=8, side=32)
    flat = tmp_path / "data/train/red"
    settings = {f"model.{k}": v for k, v in SMALL.items()} | {
        "data.size": 32,
        "model.batch_size": 2,
        "data.cache": False,
    }
    model = unpaired.pretrain(flat, tmp_path / "run", settings=settings, steps=2, quiet=True)
    assert model.domains == ("red",) and model.info()["method"] == "biggan"
    assert (tmp_path / "run/samples/step-000000002.png").exists()
    assert model.translate(torch.zeros(1, 3, 32, 32), None, "red", seed=1).shape == (1, 3, 32, 32)
    again = unpaired.pretrain(flat, tmp_path / "run", settings=settings, steps=2, quiet=True)
    assert again.sha256 == model.sha256


# -- import


def exported(folder: Path, method: BigGAN) -> tuple[Path, Path]:
    """Files as the official code writes them."""
    torch.save(method.generator.state_dict(), folder / "G_ema.pth")
    torch.save(method.discriminator.state_dict(), folder / "D.pth")
    return folder / "G_ema.pth", folder / "D.pth"


def test_import_infers_every_size(tmp_path: Path) -> None:
    """Resolution, width, latents, classes and attention of any of our networks are read off its tensors."""
    for size, width, attention in ((32, 2, 0), (64, 4, 32), (128, 8, 64)):
        method = BigGAN(
            BigGAN.Config(width=width, shared_dim=4, z_dim=20, attention=attention), ("a", "b", "c"), image_size=size
        ).eval()
        found, _ = interop.import_biggan(*exported(tmp_path, method), ("a", "b", "c"))
        assert (found.shape.size, found.shape.width, found.shape.latent) == (size, width, method.shape.latent)
        x, z = torch.zeros(1, 3, size, size), torch.randn(1, method.shape.latent)
        with torch.no_grad():
            assert torch.equal(found.translate(x, None, "b", latents=z), method.translate(x, None, "b", latents=z))


def test_import_errors_say_what_to_do(tmp_path: Path) -> None:
    """A wrong number of names, swapped files, a missing file and missing tensors are each named."""
    gen, dis = exported(tmp_path, make(("a", "b", "c")))
    with pytest.raises(ConfigError, match="has 3 classes, --domains names 2"):
        interop.import_biggan(gen, dis, ("a", "b"))
    with pytest.raises(CheckpointError, match="not a BigGAN generator"):
        interop.import_biggan(dis, gen)
    with pytest.raises(CheckpointError, match="No such file"):
        interop.import_biggan(gen, tmp_path / "none.pth")
    state = dict(torch.load(dis, weights_only=True))
    del state["embed.u0"]
    torch.save(state, dis)
    with pytest.raises(CheckpointError, match=r"embed\.u0 +1×3 +-"):
        interop.import_biggan(gen, dis)


def test_class_names_come_from_a_list_or_a_file(tmp_path: Path) -> None:
    """Commas or lines; doubled and empty names are refused, and a file that is not there is not the name of a class."""
    assert interop.class_names("cat, dog") == ("cat", "dog")
    file = tmp_path / "names.txt"
    file.write_text("cat\ndog, large\n\n")
    assert interop.class_names(str(file)) == ("cat", "dog, large")
    for missing in (tmp_path / "classes.txt", "classes.txt", tmp_path / "classes"):
        with pytest.raises(ConfigError, match="no such file"):
            interop.class_names(str(missing))
    with pytest.raises(ConfigError, match="twice: cat"):
        interop.class_names("cat,cat")
    with pytest.raises(ConfigError, match="number 2 is empty"):
        interop.class_names("cat,,dog")
