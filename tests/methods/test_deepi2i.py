"""DeepI2I: phases, losses, ablations, transfer, and what a trained model can be asked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import run
from torch import Tensor

import tiny
import unpaired
from unpaired import checkpoint, interop
from unpaired.batch import Batch
from unpaired.config import merge
from unpaired.data.sampling import ArrayPool
from unpaired.errors import CheckpointError, ConfigError, DataError
from unpaired.methods import run_from
from unpaired.methods.deepi2i import Adaptors, DeepI2I
from unpaired.methods.gans import BigGAN, States
from unpaired.training import loop
from unpaired.training import run as training_run
from unpaired.training.pretrained import Start
from unpaired.translate.translator import Translator

SMALL: dict[str, Any] = {"width": 2, "shared_dim": 4, "z_dim": 8, "batch_size": 2}
THREE = ("blue", "green", "red")


def make(domains: tuple[str, ...] = THREE, size: int = 32, **settings: Any) -> DeepI2I:
    """A tiny one from random weights."""
    torch.manual_seed(0)
    return DeepI2I(DeepI2I.Config(**{**SMALL, "transfer": [], **settings}), domains, image_size=size)


def batch(n: int = 3, size: int = 32, classes: int = 3) -> Batch:
    """Noise pictures."""
    g = torch.Generator().manual_seed(1)
    x, y = (torch.rand(n, 3, size, size, generator=g) * 2 - 1 for _ in range(2))
    c = torch.arange(n) % classes
    return Batch(x, (c + 1) % classes, y, c)


def test_official_counts() -> None:
    """The adaptors at width 96 have the parameters of the official ones that are used, split as there."""
    with torch.device("meta"):
        adaptors = DeepI2I(DeepI2I.Config(transfer=[]), ("one",), image_size=128).adaptors
    assert isinstance(adaptors, Adaptors)
    counts = [sum(p.numel() for p in block.parameters()) for block in adaptors.blocks]
    assert counts == [2_065_536, 8_259_840, 33_034_752, 42_470_400]
    assert sum(counts) == 85_830_528


# -- plan


def test_two_phases() -> None:
    """Adaptors and discriminator for 500 steps, then the generator too, each with its own rate; the adaptors keep their
    optimiser. The encoder is in neither phase."""
    method = make()
    first, second = method.stages()
    assert (first.name, first.steps, second.name) == ("adaptor", 500, "finetune")
    assert [u.name for u in first.updates] == [u.name for u in second.updates] == ["discriminator", "translator"]
    assert first.updates[1].modules == (method.adaptors,)
    assert second.updates[1].modules == (method.adaptors, method.generator)
    assert second.updates[1].optimizer.lr == 4e-4 and second.updates[1].rates == (1.0, 0.25)
    assert first.train_mode == (method.generator,)


def test_the_first_phase_keeps_its_length() -> None:
    """--steps changes the second phase; the first takes at most half."""
    config = DeepI2I.Config(**SMALL)
    assert [(c.adaptor_steps, c.finetune_steps) for c in (config.with_steps(5000), config.with_steps(600))] == [
        (500, 4500),
        (300, 300),
    ]
    scratch = DeepI2I.Config(**SMALL, mode="scratch").with_steps(100)
    assert (scratch.adaptor_steps, scratch.finetune_steps) == (0, 100)


def test_scratch() -> None:
    """One phase with all four networks and the released code's own weights."""
    method = make(mode="scratch")
    (stage,) = method.stages()
    assert stage.updates[1].modules == (method.adaptors, method.generator, method.encoder)
    assert method.config.level_weights == {32: 0.1, 16: 1.0, 8: 1.0, 4: 1.0}
    terms = stage.updates[1].loss(batch())
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in method.encoder.parameters())


# -- losses


def test_reconstruction_of_a_sample_depends_on_that_sample_alone() -> None:
    """The gradient of sample i's share reaches translation i and no other."""
    method = make().eval()
    fake = torch.rand(3, 3, 32, 32, requires_grad=True)
    sources = batch().source
    for i in range(3):
        psi = {r: t[i : i + 1] for r, t in method.discriminator.taps(fake).items()}
        goal = {r: t[i : i + 1] for r, t in method.discriminator.taps(sources).items()}
        (gradient,) = torch.autograd.grad(method.reconstruction(psi, goal), fake)
        assert [bool(g.any()) for g in gradient] == [j == i for j in range(3)]


def test_equation_3_and_4() -> None:
    """L1 with α by resolution, mean over elements; mse squares; each resolution at hand counts."""
    method = make(size=64, alpha_4=1.0, alpha_8=2.0, alpha_16=0.0, alpha_32=4.0)
    assert method.compared == (32, 8, 4)
    psi = {r: torch.zeros(2, 1, r, r) for r in (4, 8, 16, 32)}
    goal = {r: torch.full((2, 1, r, r), 3.0) for r in (4, 8, 16, 32)}
    assert method.reconstruction(psi, goal).item() == pytest.approx((1 + 2 + 4) * 3)
    method = make(size=64, alpha_4=1.0, alpha_8=2.0, alpha_16=0.0, alpha_32=4.0, reconstruction="mse")
    assert method.reconstruction(psi, goal).item() == pytest.approx((1 + 2 + 4) * 9)


def test_an_identical_translation_has_no_reconstruction_loss() -> None:
    """Translation and source go through the very same weights: equal pictures give exactly 0, in training mode too."""
    method = make().train()
    b = batch()
    method.translated = lambda *_: b.source.clone().requires_grad_()  # type: ignore[method-assign]
    assert method.generator_loss(b)["reconstruction"].item() == 0


# -- ablations


def test_levels_can_be_taken_out() -> None:
    """A weight of 0 takes that adaptor out of the model (Fig. 3); fewer halvings take the deep ones out (Fig. 6)."""
    assert make(size=64).resolutions == make(size=256).resolutions == (32, 16, 8, 4)
    assert make(size=64, w_4=0, w_8=0, w_16=0).resolutions == (32,)
    assert make(size=128, downsampling=3).resolutions == (32, 16)
    assert make(size=128, downsampling=3).compared == (32, 16)
    with pytest.raises(ConfigError, match="downsampling = 1"):
        make(size=128, downsampling=1)
    with pytest.raises(ValueError, match="all 0"):
        make(w_4=0, w_8=0, w_16=0, w_32=0)


def test_without_adaptors() -> None:
    """The encoder's maps are added themselves, repeated to the generator's channels; then only the discriminator trains
    in the first phase."""
    method = make(size=64, adaptor="none")
    taps = method.encode(torch.rand(1, 3, 64, 64))
    added = method.adaptors(taps)
    assert {r: added[r].shape[1] // taps[r].shape[1] for r in taps} == {32: 4, 16: 4, 8: 4, 4: 1}
    assert torch.equal(added[8][:, : taps[8].shape[1]], taps[8])
    assert [u.name for u in method.stages()[0].updates] == ["discriminator"]
    assert not any(k.startswith("adaptors") for k in method.state_dict())
    (stage,) = make(mode="scratch", adaptor="none").stages()  # from scratch generator and encoder train
    assert len(stage.updates[1].modules) == 2


def test_output_depends_on_input_class_and_latent() -> None:
    """Each of the three changes the picture; a source's name does not."""
    method = make(adaptor_steps=0).eval()
    x, z = batch(1).source, torch.randn(1, method.shape.latent)
    with torch.no_grad():
        one = method.translate(x, "red", "blue", latents=z)
        assert torch.equal(one, method.translate(x, None, "blue", latents=z))
        for other in (
            method.translate(-x, None, "blue", latents=z),
            method.translate(x, None, "green", latents=z),
            method.translate(x, None, "blue", latents=-z),
        ):
            assert not torch.allclose(one, other, atol=1e-4)


# -- transfer


def gan(folder: Path, domains: tuple[str, ...] = ("cat", "dog", "fox", "owl"), **settings: Any) -> Path:
    """A file of a tiny pretrained GAN."""
    torch.manual_seed(3)
    config = run_from({"method": "biggan", "data": {"size": 32}, "model": {**SMALL, **settings}})
    method = BigGAN(config.model, domains, image_size=32)
    return checkpoint.write_model(folder / "gan.safetensors", method, checkpoint.make_header(method, config))


def pool(domains: tuple[str, ...] = THREE) -> ArrayPool:
    """Pictures at 32 pixels, of different number."""
    return ArrayPool({d: tiny.pictures(4 + 3 * i, 32, i, i % 3) for i, d in enumerate(domains)})


def run_config(**model: Any) -> Any:
    """A run of a few steps."""
    base = {
        "method": "deepi2i",
        "data": {"size": 32, "cache": False},
        "training": {"device": "cpu", "precision": "fp32", "sample_every": 100, "samples": 2, "tensorboard": False},
        "model": {**SMALL, "adaptor_steps": 1, "finetune_steps": 1},
    }
    return run_from(merge(base, {"model": model}))


def begin() -> Start:
    """What ``prepare`` is handed."""
    return Start(pool(), run_config().data)


def test_a_fresh_run_starts_from_the_pretrained_networks(tmp_path: Path) -> None:
    """Before the first step encoder and discriminator have the pretrained discriminator's weights, the generator has
    the generator's; the model's header says where they came from, after a resume too."""
    file = gan(tmp_path)
    old, _ = checkpoint.load_method(file)
    config = run_config(pretrained=str(file))
    method = training_run.build(config, THREE)
    assert isinstance(method, DeepI2I)
    seen: dict[str, Tensor] = {}

    original = method.prepare

    def prepare(start: Any) -> None:
        original(start)
        seen.update({k: v.clone() for k, v in method.state_dict().items()})

    method.prepare = prepare  # type: ignore[method-assign]
    path = loop.fit(method, pool(), config, tmp_path / "run", quiet=True)
    theirs = old.state_dict()
    for name, value in seen.items():
        network, _, rest = name.partition(".")
        if network != "adaptors" and not rest.startswith(("shared", "embed")):
            assert torch.equal(value, theirs[f"{network.replace('encoder', 'discriminator')}.{rest}"]), name
    table, shared = seen["discriminator.embed.weight"], seen["generator.shared.weight"]
    assert table.shape[0] == shared.shape[0] == 3
    assert all(any(torch.equal(row, o) for o in theirs["generator.shared.weight"]) for row in shared)
    (source,) = unpaired.load(path).info()["pretrained"]
    assert source["file"] == str(file) and source["classes"] == "4 -> 3, nearest" and len(source["sha256"]) == 64
    file.unlink()  # not needed any more
    longer = run_config(pretrained=str(file), finetune_steps=2)
    method, allow = training_run.build(longer, THREE), ("model.finetune_steps",)
    path = loop.fit(method, pool(), longer, tmp_path / "run", quiet=True, allow_change=allow)
    assert unpaired.load(path).info()["pretrained"] == [source]


def transferred(file: Path, domains: tuple[str, ...]) -> tuple[States, list[str], Start]:
    """The states that a ``biggan`` of ``domains`` takes from ``file``, the domains whose images it looked at, and its
    start."""
    start, asked = Start(pool(domains), run_config().data), list[str]()
    examples = start.examples

    def noted(domain: str, count: int, first: int = 0) -> Tensor:
        asked.append(domain)
        return examples(domain, count, first)

    start.examples = noted  # type: ignore[method-assign]
    method = BigGAN(BigGAN.Config(**{**SMALL, "pretrained": str(file)}), domains, image_size=32)
    return method.pretrained_states(start), asked, start


def test_classes_that_the_gan_knows_keep_their_rows(tmp_path: Path) -> None:
    """Also in another order, or some of them alone, and beside new ones, whose images alone are looked at."""
    file = gan(tmp_path)
    old = checkpoint.load_method(file)[0].state_dict()
    for names, rows, how in (
        (("owl", "fox", "cat", "dog"), [3, 2, 0, 1], "4 -> 4, by name"),
        (("fox", "cat"), [2, 0], "4 -> 2, by name"),
        (("dog", "newt", "owl"), [1, None, 3], "4 -> 3, 2 by name, nearest"),
    ):
        (generator, discriminator), asked, start = transferred(file, names)
        assert start.pretrained[0]["classes"] == how
        assert asked == (["newt"] if None in rows else [])
        for new, table in (
            (generator["shared.weight"], old["generator.shared.weight"]),
            (discriminator["embed.weight"], old["discriminator.embed.weight"]),
        ):
            assert all(torch.equal(new[i], table[row]) for i, row in enumerate(rows) if row is not None)
            assert all(any(torch.equal(row, o) for o in table) for row in new)


def test_a_run_that_cannot_begin_is_refused_before_images_are_read(tmp_path: Path) -> None:
    """No GAN, a missing file, and a GAN that training from scratch would not use: said of a folder whose pictures are
    all broken."""
    for domain in ("a", "b"):
        (tmp_path / "data" / domain).mkdir(parents=True)
        (tmp_path / "data" / domain / "x.png").write_bytes(b"no picture")
    quick = {"data.size": 32, "data.cache": False}
    for more, text in (
        ({"method": "deepi2i", "settings": quick}, "starts from a pretrained GAN: --pretrained FILE. Make one with"),
        ({"pretrained": tmp_path / "none"}, "none: no such file or folder; --pretrained wants a GAN. Make one with"),
        ({"pretrained": gan(tmp_path), "settings": {**quick, "model.mode": "scratch"}}, "would use nothing of"),
    ):
        with pytest.raises((ConfigError, CheckpointError), match=text):
            unpaired.train(tmp_path / "data", tmp_path / "run", quiet=True, **more)  # type: ignore[arg-type]
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("there", [True, False])
def test_a_translator_to_begin_with_brings_no_discriminator(
    there: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """--start-from a shared file: the discriminator comes from the pretrained GAN; where that is gone it is orthogonal
    as BigGAN begins, and a warning says so."""
    file = gan(tmp_path)
    data = tiny.folder(tmp_path / "data", count=4, side=32)
    steps = {"model.adaptor_steps": 1, "model.finetune_steps": 1, "model.batch_size": 2}
    quick = {"data.cache": False, "training.tensorboard": False, **steps}
    unpaired.train(data, tmp_path / "one", pretrained=file, settings=quick, quiet=True)
    theirs = checkpoint.load_method(file)[0].state_dict()["discriminator.linear.weight"]
    if not there:
        file.unlink()
    again = {**quick, "model.lr_discriminator": 1e-12}
    unpaired.train(data, tmp_path / "two", start_from=tmp_path / "one", settings=again, quiet=True)
    saved, _ = checkpoint.latest(tmp_path / "two/checkpoints")
    assert saved is not None
    tensors = checkpoint.read_state(saved)[0]
    assert torch.allclose(tensors["method/discriminator.linear.weight"], theirs, atol=1e-6) == there
    weight = tensors["method/discriminator.blocks.0.0.conv2.weight"].flatten(1)
    assert torch.allclose(weight @ weight.T, torch.eye(len(weight)), atol=1e-4)  # as the GAN's are, untrained
    said = caplog.text + capsys.readouterr().err
    assert ("holds no discriminator" in said) != there


def test_a_model_to_begin_with_keeps_its_domains_in_their_places(tmp_path: Path) -> None:
    """Of (blue, green, red) two come again beside a new one: each keeps its row, the new one takes the place left.
    Another number of domains is refused in words."""
    names = ("blue", "green", "red")
    model = make(names)
    header = checkpoint.make_header(
        model, run_from({"method": "deepi2i", "data": {"size": 32}, "model": model.config.model_dump()})
    )
    file = checkpoint.write_model(tmp_path / "m.safetensors", model, header)
    for i, name in enumerate(("green", "pink", "red")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for j, image in enumerate(tiny.pictures(4, 32, seed=i)):
            Image.fromarray(image).save(tmp_path / "data" / name / f"{j}.png")
    quick = {"data.cache": False, "training.tensorboard": False}
    found = unpaired.train(tmp_path / "data", tmp_path / "run", start_from=file, settings=quick, steps=2, quiet=True)
    assert found.domains == ("pink", "green", "red")
    shutil.rmtree(tmp_path / "data/pink")
    with pytest.raises(CheckpointError, match=r"of 3 domains \(blue, green, red\); the data has 2: green, red"):
        unpaired.train(tmp_path / "data", tmp_path / "less", start_from=file, settings=quick, steps=2, quiet=True)


def test_a_gan_of_another_kind_than_the_method_is_refused_by_name(tmp_path: Path) -> None:
    """--pretrained with a method, or the preset of one, that cannot start from it: both are named, and what does."""
    data, file = tiny.folder(tmp_path / "data", count=4, side=32), gan(tmp_path)
    for how, named in (({"method": "deepi2i-stylegan"}, "deepi2i-stylegan"), ({"preset": "unit-small"}, "unit")):
        with pytest.raises(ConfigError, match=f"holds a biggan: method 'deepi2i' starts from it, not '{named}'"):
            unpaired.train(data, tmp_path / "run", pretrained=file, quiet=True, **how)


def test_errors_of_transfer_say_what_to_do(tmp_path: Path) -> None:
    """No file, a file of another method, other widths: each with the way out."""
    with pytest.raises(ConfigError, match=r"--pretrained FILE.*unpaired pretrain.*mode=scratch"):
        make(transfer=["generator"]).prepare(begin())
    file = gan(tmp_path)
    with pytest.raises(ConfigError, match=r"size is 32 there and 64 here.*--pretrained"):
        make(size=64, transfer=["generator"], pretrained=str(file), z_dim=8).prepare(begin())
    with pytest.raises(ConfigError, match="width is 2 there and 4 here"):
        make(transfer=["generator"], pretrained=str(file), width=4).prepare(begin())
    config = run_config(transfer=[])
    other = make(adaptor_steps=0)
    path = checkpoint.write_model(tmp_path / "other.safetensors", other, checkpoint.make_header(other, config))
    with pytest.raises(CheckpointError, match="'deepi2i', not a pretrained GAN"):
        make(transfer=["generator"], pretrained=str(path)).prepare(begin())
    with pytest.raises(CheckpointError, match="no such file"):
        make(transfer=["generator"], pretrained=str(tmp_path / "none")).prepare(begin())


def test_pretrain_then_transfer_with_two_commands(tmp_path: Path) -> None:
    """`pretrain` on some folders and `train` with its run as `pretrained` on others: widths and image size are taken
    over, the method is deepi2i without being named, and the same call resumes after the GAN is gone."""
    tiny.folder(tmp_path / "a", count=6, side=32, domains=("red", "blue", "green"))
    tiny.folder(tmp_path / "b", count=6, side=32, domains=("pink", "teal"))
    quick = {"data.cache": False, "model.batch_size": 2, "training.tensorboard": False}
    shape = {"data.size": 32, "model.width": 2, "model.shared_dim": 4, "model.z_dim": 8}
    unpaired.pretrain(tmp_path / "a", tmp_path / "gan", settings=quick | shape, steps=2, quiet=True)
    call: dict[str, Any] = {"settings": quick, "steps": 2, "pretrained": tmp_path / "gan", "quiet": True}
    model = unpaired.train(tmp_path / "b", tmp_path / "run", **call)
    assert isinstance(model.method, DeepI2I) and model.method.shape.width == 2 and model.method.image_size == 32
    assert model.domains == ("pink", "teal") and model.info()["pretrained"][0]["classes"] == "3 -> 2, nearest"
    (tmp_path / "gan").rename(tmp_path / "gone")
    assert unpaired.train(tmp_path / "b", tmp_path / "run", **call).sha256 == model.sha256


# -- using it


@pytest.fixture
def translator() -> Translator:
    """Untrained, three classes."""
    method = make(adaptor_steps=0)
    return Translator(method, {"method": "deepi2i", "step": 0})


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures of one size in a folder."""
    folder = tmp_path / "in"
    folder.mkdir()
    for i, image in enumerate(tiny.pictures(2, 24)):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


def test_unseen_sources(translator: Translator) -> None:
    """None and "none" mean an image of no trained domain; a known name works as well; a wrong one is refused."""
    x = torch.zeros(1, 3, 32, 32)
    results = [translator.translate(x, s, "blue", seed=4) for s in (None, "none", "red")]
    assert all(torch.equal(results[0], r) for r in results)
    with pytest.raises(ConfigError, match="Did you mean 'green'"):
        translator.translate(x, "gren", "blue")


def test_latents(translator: Translator) -> None:
    """Given latents decide the result, also in parts of a batch; other shapes and models without latents are
    refused."""
    method = translator.method
    z = torch.randn(3, method.latent_size or 0)
    x = batch(3).source
    whole = translator.translate(x, None, "red", latents=z)
    parts = translator.translate(x, None, "red", latents=z, max_pixels=32 * 32)
    assert torch.allclose(whole, parts, atol=1e-5)
    with pytest.raises(DataError, match="latents"):
        translator.translate(x, None, "red", latents=z[:2])


def test_samples(translator: Translator, pictures: Path, tmp_path: Path) -> None:
    """K results for each input, all different, in folders; the first is the one that a single sample gives; the same
    command goes on where it was, and another seed gives others."""
    report = unpaired.translate_files(translator, [pictures], to="red", out=tmp_path / "k", samples=3, quiet=True)
    assert report.counts == {"ok": 6, "skipped": 0, "failed": 0}
    files = sorted(p.relative_to(tmp_path / "k").as_posix() for p in (tmp_path / "k").rglob("*.png"))
    assert files == [f"sample-{k}/{i}.png" for k in (1, 2, 3) for i in (0, 1)]
    images = [np.asarray(Image.open(tmp_path / "k" / f)) for f in files[::2]]
    assert not np.array_equal(images[0], images[1]) and not np.array_equal(images[1], images[2])
    unpaired.translate_files(translator, [pictures], to="red", out=tmp_path / "one", quiet=True)
    assert (tmp_path / "one/0.png").read_bytes() == (tmp_path / "k/sample-1/0.png").read_bytes()
    (tmp_path / "k/sample-2/1.png").unlink()
    again = unpaired.translate_files(translator, [pictures], to="red", out=tmp_path / "k", samples=3, quiet=True)
    assert again.counts == {"ok": 1, "skipped": 5, "failed": 0}
    unpaired.translate_files(translator, [pictures], to="red", out=tmp_path / "s", samples=2, seed=9, quiet=True)
    assert (tmp_path / "s/sample-1/0.png").read_bytes() != (tmp_path / "k/sample-1/0.png").read_bytes()
    with pytest.raises(ConfigError, match="samples = 0"):
        unpaired.translate_files(translator, [pictures], to="red", out=tmp_path / "z", samples=0)


def test_a_grid_of_every_class(translator: Translator, pictures: Path, tmp_path: Path) -> None:
    """to="all": the input, then each class in the model's order, row by row, as the plain translations are; the report
    lists the order."""
    report = unpaired.translate_files(translator, [pictures], to="all", out=tmp_path / "all", quiet=True)
    assert report.options["targets"] == list(THREE) and report.counts["ok"] == 2
    sheet = np.asarray(Image.open(tmp_path / "all/0.png"))
    h, w = np.asarray(Image.open(pictures / "0.png")).shape[:2]
    assert sheet.shape == (2 * h + 2, 2 * w + 2, 3)
    assert np.array_equal(sheet[:h, :w], np.asarray(Image.open(pictures / "0.png")))
    unpaired.translate_files(translator, [pictures], to="red", out=tmp_path / "red", quiet=True)
    assert np.array_equal(sheet[h + 2 :, w + 2 :], np.asarray(Image.open(tmp_path / "red/0.png")))
    named = unpaired.translate_files(translator, [pictures], to="all", source="red", out=tmp_path / "n", quiet=True)
    assert named.options["targets"] == ["blue", "green"]


def official(method: DeepI2I, folder: Path) -> list[Path]:
    """The four networks in files as the official code writes them."""
    files = []
    for name, network in (("G", "generator"), ("D", "discriminator"), ("E1", "encoder"), ("A1", "adaptors")):
        files.append(folder / f"{name}.pth")
        torch.save(method.get_submodule(network).state_dict(), files[-1])
    return files


def test_import_needs_fitting_names(tmp_path: Path) -> None:
    """More names than rows, and the adaptors' file in another's place, are refused."""
    method = make(size=64, z_dim=20).eval()
    files = official(method, tmp_path)
    found, header = interop.import_deepi2i(*files, THREE)
    assert header["image_size"] == 64
    x, z = torch.zeros(1, 3, 64, 64), torch.randn(1, method.shape.latent)
    with torch.no_grad():
        assert torch.equal(found.translate(x, None, "red", latents=z), method.translate(x, None, "red", latents=z))
    with pytest.raises(ConfigError, match="has 3 classes, --domains names 4"):
        interop.import_deepi2i(*files, (*THREE, "pink"))
    with pytest.raises(CheckpointError, match="do not fit"):
        interop.import_deepi2i(files[0], files[1], files[3], files[2], THREE)


def test_the_class_table_of_fewer_imported_names_has_settled(tmp_path: Path) -> None:
    """Of 40 class rows a model with three names keeps the first three; its first training step divides them by their
    own largest singular value. With all names every spectral vector is the file's, bit for bit."""
    torch.manual_seed(0)
    names = tuple(f"c{i}" for i in range(40))
    method = make(size=64, z_dim=20, domains=names).eval()
    files = official(method, tmp_path)
    found, _ = interop.import_deepi2i(*files, THREE)
    embed = found.discriminator.embed.train()
    assert torch.equal(embed.weight, method.discriminator.embed.weight[:3])
    assert torch.linalg.matrix_norm(embed.normalised(), 2).item() == pytest.approx(1, rel=1e-3)
    whole, _ = interop.import_deepi2i(*files, names)
    assert torch.equal(whole.discriminator.embed.u0, method.discriminator.embed.u0)


def test_import_of_a_model_from_scratch(tmp_path: Path) -> None:
    """``--mode scratch`` gives the adaptors the weights of scratch, and so the translations of the model that was
    written; without it the translations are others, for the files hold no weights."""
    method = make(size=64, z_dim=20, mode="scratch").eval()
    files = official(method, tmp_path)
    x, z = batch(2, 64).source, torch.randn(2, method.shape.latent)
    found = {}
    for mode in ("scratch", "transfer"):
        out = tmp_path / f"{mode}.safetensors"
        assert run("import", "deepi2i", *files, "--domains", ",".join(THREE), "--mode", mode, "--out", out) == 0
        found[mode] = unpaired.load(out, device="cpu").translate(x, None, "red", latents=z)
    with torch.no_grad():
        expected = method.translate(x, None, "red", latents=z)
    torch.testing.assert_close(found["scratch"], expected, atol=1e-5, rtol=0)  # another memory format rounds otherwise
    assert (found["transfer"] - expected).abs().max() > 1e-4


def test_more_than_a_hundred_classes(tmp_path: Path) -> None:
    """120 classes in one model: it trains, its file stays small and loads, and a picture goes to every class in one
    grid."""
    names = tuple(f"class {i:03d}" for i in range(120))
    many = ArrayPool({n: tiny.pictures(1, 32, i) for i, n in enumerate(names)})
    config = run_config(transfer=[])
    path = loop.fit(training_run.build(config, names), many, config, tmp_path / "run", quiet=True)
    model = unpaired.load(path)
    assert model.header["directions"] == "all" and len(model.directions) == 120 * 119
    assert model.info()["directions"] == "all 14280 of 120 domains"
    Image.fromarray(tiny.pictures(1, 32)[0]).save(tmp_path / "one.png")
    unpaired.translate_files(model, [tmp_path / "one.png"], to="all", out=tmp_path / "all", quiet=True)
    side = 11 * 34 - 2  # 121 cells: the input and 120 classes
    assert Image.open(tmp_path / "all/one.png").size == (side, side)


def test_training_goes_on_from_a_whole_model(tmp_path: Path) -> None:
    """`start_from` takes the weights of a DeepI2I model, discriminator included where the file has it; no pretrained
    GAN is asked for then, and none replaces them."""
    method = make(("blue", "red"), transfer=["encoder", "generator", "discriminator"])
    header = checkpoint.make_header(
        method, run_from({"method": "deepi2i", "data": {"size": 32}, "model": method.config.model_dump()})
    )
    file = checkpoint.write_model(tmp_path / "whole.safetensors", method, header, whole=True)
    tiny.folder(tmp_path / "data", count=6, side=32)
    quick = {"data.cache": False, "training.tensorboard": False, "model.lr_discriminator": 1e-12}
    unpaired.train(tmp_path / "data", tmp_path / "run", start_from=file, settings=quick, steps=2, quiet=True)
    saved, _ = checkpoint.latest(tmp_path / "run/checkpoints")
    assert saved is not None
    tensors, _ = checkpoint.read_state(saved)
    for name in ("discriminator.linear.weight", "encoder.blocks.0.0.conv1.weight"):
        assert torch.allclose(tensors[f"method/{name}"], method.state_dict()[name], atol=1e-6), name
