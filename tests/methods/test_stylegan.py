"""StyleGAN and DeepI2I on it: networks, import, losses, phases, transfer, and what a trained model can be asked."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cases
import official_stylegan as official
import pytest
import torch
from torch import nn

import unpaired
from closeness import TOLERANCE, error
from unpaired import checkpoint, losses
from unpaired.batch import Batch
from unpaired.cli import main
from unpaired.errors import CheckpointError, ConfigError
from unpaired.interop import import_stylegan
from unpaired.methods import run_from
from unpaired.methods.deepi2i import Adaptors, DeepI2IStyleGAN
from unpaired.methods.gans import StyleGAN
from unpaired.networks.stylegan import Discriminator, Generator, Shape, draw_noise
from unpaired.translate.synthesis import drawn, synthesize
from unpaired.translate.translator import Translator, load

SMALL: dict[str, Any] = {"width": 2, "latent": 4, "mapping": 2, "batch_size": 2}


def make(size: int = 32, **settings: Any) -> DeepI2IStyleGAN:
    """A tiny one from random weights."""
    torch.manual_seed(0)
    config = DeepI2IStyleGAN.Config(**{**SMALL, "transfer": [], **settings})
    return DeepI2IStyleGAN(config, ("cat", "dog"), image_size=size)


def batch(n: int = 3, size: int = 32) -> Batch:
    """Noise pictures."""
    g = torch.Generator().manual_seed(1)
    x, y = (torch.rand(n, 3, size, size, generator=g) * 2 - 1 for _ in range(2))
    return Batch(x, torch.zeros(n, dtype=torch.int64), y, torch.ones(n, dtype=torch.int64))


def parameters(*networks: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for network in networks for p in network.parameters())


# -- networks


def test_official_counts() -> None:
    """With the layers to and from RGB of all resolutions, as the official file has them, the networks up to 1024 pixels
    have 26.22 and 25.44 million parameters; the adaptors 20,058,624."""
    shape = Shape(1024)
    with torch.device("meta"):
        generator, discriminator = Generator(shape), Discriminator(shape)
        config = DeepI2IStyleGAN.Config(transfer=[], w_64=0.1)
        adaptors = DeepI2IStyleGAN(config, ("cat", "dog"), image_size=256).adaptors
    unused = [shape.channels(r) for r in shape.resolutions[:-1]]
    assert round((parameters(generator) + sum(3 * c + 3 for c in unused)) / 1e6, 2) == 26.22
    assert round((parameters(discriminator) + sum(3 * c + c for c in unused)) / 1e6, 2) == 25.44
    assert parameters(adaptors) == 20_058_624


def written(folder: Path, size: int, **more: official.State) -> tuple[Path, dict[str, official.State]]:
    """A file as the official code writes it, with the optimisers' state beside the networks."""
    torch.manual_seed(size)
    parts = {
        "generator": official.generator_state(16, 6), "discriminator": official.discriminator_state(16),
        "g_running": official.generator_state(16, 6), **more,
    }  # fmt: skip
    file = folder / "stylegan.model"
    step = {"state": {7: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1, "params": [7]}]}
    torch.save({**parts, "g_optimizer": step}, file)
    return file, parts


@pytest.mark.parametrize("size", [32, 256])
@torch.no_grad()
def test_imported_networks_give_the_official_outputs(size: int, tmp_path: Path) -> None:
    """Images, logits and taps equal an independent computation on the official names, with both kinds of resampling,
    also after the model was written and read; widths, latents and layers come from the tensors."""
    file, parts = written(tmp_path, size)
    method, header = import_stylegan(file, size=size)
    assert (method.shape.width, method.shape.latent, method.shape.mapping, method.image_size) == (16, 6, 2, size)
    again, _ = checkpoint.load_method(checkpoint.write_model(tmp_path / "m.safetensors", method, header))
    z, x = torch.randn(2, 6), torch.rand(2, 3, size, size) * 2 - 1
    noise = draw_noise(method.shape, z)
    logits, taps = official.judge(parts["discriminator"], x)
    for gan in (method, again):
        assert error(gan.generator(z, noise), official.generate(parts["generator"], z, noise)) <= TOLERANCE
        assert error(gan.discriminator(x), logits) <= TOLERANCE
        ours = gan.discriminator.taps(x)
        assert ours.keys() == taps.keys()
        assert all(error(ours[r], taps[r]) <= TOLERANCE for r in taps)


@torch.no_grad()
def test_imported_translator_gives_the_official_outputs(tmp_path: Path) -> None:
    """Encoder, adaptors at 4 to 32 pixels with weight 0.1, added after the blocks, and generator equal the official
    ones."""
    torch.manual_seed(5)
    more = {"encoder": official.discriminator_state(16), "align": official.adaptor_state(16)}
    file, parts = written(tmp_path, 64, **more)
    out = tmp_path / "m.safetensors"
    with pytest.raises(SystemExit) as left:
        main(["import", "deepi2i-stylegan", str(file), "--domains", "dog,cat", "--size", "64", "--out", str(out)])
    assert left.value.code == 0
    model = load(out)
    assert model.directions == (("dog", "cat"),)
    method = model.method
    x, z = torch.rand(2, 3, 64, 64) * 2 - 1, torch.randn(2, 6)
    noise = draw_noise(method.shape, z)
    taps = {r: t for r, t in official.judge(parts["encoder"], x)[1].items() if r <= 32}
    adapted = official.adapt(parts["align"], taps)
    found = method.adaptors(method.encode(x))
    assert found.keys() == adapted.keys() == {4, 8, 16, 32}
    assert all(error(found[r], adapted[r]) <= TOLERANCE for r in adapted)
    wanted = official.generate(parts["generator"], z, noise, {r: 0.1 * a for r, a in adapted.items()})
    assert error(method.decode(method.encode(x), z, noise), wanted) <= TOLERANCE
    assert method.config.reconstruction == "mse"


def test_what_cannot_be_imported_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """NVIDIA's pickles, a size beyond the networks or of none, another file, a tensor of another shape."""
    pkl = tmp_path / "karras2019stylegan-ffhq-1024x1024.pkl"
    pkl.write_bytes(pickle.dumps({"G": print}))
    with pytest.raises(CheckpointError, match=r"(?s)not opened.*NVIDIA.*can run code.*stylegan-256px-new\.model"):
        import_stylegan(pkl)
    file, parts = written(tmp_path, 32)
    with pytest.raises(ConfigError, match="--size 48: StyleGAN has networks for 32, 64"):
        import_stylegan(file, size=48)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.model")
    with pytest.raises(CheckpointError, match="not a checkpoint of StyleGAN in PyTorch"):
        import_stylegan(tmp_path / "other.model")
    parts["generator"]["generator.progression.1.conv2.conv.weight_orig"] = torch.zeros(16, 16, 1, 1)
    del parts["discriminator"]["linear.linear.bias"]
    torch.save(parts, tmp_path / "wrong.model")
    with pytest.raises(CheckpointError, match=r"progression\.1\.conv2\.conv\.weight +16×16×3×3 +16×16×1×1"):
        import_stylegan(tmp_path / "wrong.model", size=32)


def test_style_mixing_starts_at_a_block() -> None:
    """Another latent from block k on leaves the first k blocks as they were: from block 0 on it is the other image."""
    torch.manual_seed(0)
    shape = Shape(32, 4, 4, 2)
    generator = Generator(shape)
    z, other = torch.randn(2, 2, 4)
    noise = draw_noise(shape, z)
    assert torch.equal(generator(z, noise, mix=(other, 0)), generator(other, noise))
    assert torch.equal(generator(z, noise, mix=(other, 4)), generator(z, noise))
    assert not torch.equal(generator(z, noise, mix=(other, 2)), generator(z, noise))


def test_the_discriminator_sees_how_a_batch_varies() -> None:
    """The same image is judged otherwise beside another one: so real and generated images are judged apart."""
    torch.manual_seed(0)
    discriminator = Discriminator(Shape(32, 4, 4, 2))
    x, y = torch.rand(2, 1, 3, 32, 32)
    alone, beside = discriminator(torch.cat([x, x])), discriminator(torch.cat([x, y]))
    assert not torch.allclose(alone[0], beside[0])
    assert torch.allclose(alone[0], discriminator(x)[0], atol=1e-6)


# -- losses


def test_r1_penalty() -> None:
    """For D(x) = <w, x>² at x it is the mean of ‖2 <w, x> w‖², and it is differentiated by the critic's parameters
    alone."""
    w = torch.randn(3, requires_grad=True)
    x = torch.randn(4, 3, requires_grad=True)
    penalty = losses.r1_penalty(lambda v: (v @ w).square(), x)
    assert penalty.item() == pytest.approx(((2 * (x @ w)).square() * w.square().sum()).mean().item(), rel=1e-5)
    penalty.backward()
    assert w.grad is not None and bool(w.grad.any()) and x.grad is None


# -- plan


# -- transfer


def gan(folder: Path, **settings: Any) -> Path:
    """A file of a tiny pretrained StyleGAN."""
    torch.manual_seed(3)
    config = run_from({"method": "stylegan", "data": {"size": 32}, "model": {**SMALL, **settings}})
    method = StyleGAN(config.model, ("faces",), image_size=32)
    return checkpoint.write_model(folder / "gan.safetensors", method, checkpoint.make_header(method, config))


def test_a_fresh_run_starts_from_the_pretrained_networks(tmp_path: Path) -> None:
    """Encoder and discriminator have the discriminator's weights, the generator the generator's; partial transfer
    leaves the others alone; the header says where they came from."""
    file = gan(tmp_path)
    theirs = checkpoint.load_method(file)[0].state_dict()
    method = make(transfer=["encoder", "generator", "discriminator"], pretrained=str(file))
    start = cases.start("stylegan")
    method.prepare(start)
    (source,) = start.pretrained
    assert source["name"] == "stylegan" and source["file"] == str(file) and len(source["sha256"]) == 64
    for name, value in method.state_dict().items():
        network, _, rest = name.partition(".")
        if network != "adaptors":
            assert torch.equal(value, theirs[f"{network.replace('encoder', 'discriminator')}.{rest}"]), name
    method = make(transfer=["generator"], pretrained=str(file))
    method.prepare(cases.start("stylegan"))
    assert torch.equal(method.generator.constant, theirs["generator.constant"])
    assert not torch.equal(method.encoder.from_rgb.weight, theirs["discriminator.from_rgb.weight"])


def test_what_is_no_pretraining_is_refused(tmp_path: Path) -> None:
    """A run of another method, another method by name or by preset: each with what there is."""
    (tmp_path / "config.toml").write_text('method = "biggan"\n')
    for out, asked, text in (
        (tmp_path, {"method": "stylegan"}, "a run of method 'biggan', not a pretraining of stylegan"),
        (tmp_path / "new", {"method": "unit"}, "method = 'unit': input should be 'biggan' or 'stylegan'"),
        (tmp_path / "new", {"preset": "unit-small"}, "'unit' is no pretraining"),
    ):
        with pytest.raises(ConfigError, match=text):
            unpaired.pretrain(tmp_path, out, **asked)


def test_a_gan_ignores_its_input(tmp_path: Path) -> None:
    """As a translator a StyleGAN draws an image; only the number of inputs counts, and the latents decide;
    ``synthesize`` writes such images."""
    torch.manual_seed(0)
    method = StyleGAN(StyleGAN.Config(**SMALL), ("cat", "dog"), image_size=32).eval()
    x, z = batch(2).source, torch.randn(2, 4)
    with torch.no_grad():
        assert torch.equal(method.translate(x, None, "dog", latents=z), method.translate(-x, "cat", "dog", latents=z))
        others = (method.translate(x, None, "dog", latents=v) for v in (z, -z))
        assert not torch.equal(*others)
    assert method.pairs == (("cat", "cat"), ("dog", "dog"))
    model = Translator(method, {"method": "stylegan", "step": 0})
    assert len(synthesize(model, out=tmp_path / "out", n=2, to="dog", device="cpu")) == 2
    assert isinstance(make().adaptors, Adaptors)


def loud(method: Any) -> Any:
    """``method`` with noise maps that count, as after any training; they begin at weight 0."""
    with torch.no_grad():
        for name, weight in method.generator.named_parameters():
            if "noise" in name:
                weight.fill_(1.0)
    return method.eval()


def test_noise_maps_follow_from_the_seed(tmp_path: Path) -> None:
    """A picture that is synthesised depends on its number and the seed, whatever else is drawn; along a walk the maps
    stay as they are; ``translate`` with latents and a seed gives the same twice, with another seed another."""
    torch.manual_seed(0)
    model = Translator(loud(StyleGAN(StyleGAN.Config(**SMALL), ("cat",), image_size=32)), {"method": "stylegan"})
    few, more = (synthesize(model, out=tmp_path / str(n), n=n, seed=5, device="cpu") for n in (2, 3))
    assert [p.read_bytes() for p in few] == [p.read_bytes() for p in more[:2]]
    same = torch.randn(1, 4).expand(4, 4)
    a, b, c, d = torch.cat(list(drawn(model, same, "cat", seed=5, walk=2)))
    assert torch.equal(a, b) and torch.equal(c, d) and not torch.allclose(a, c)
    method, x, z = Translator(loud(make()), {"method": "deepi2i-stylegan"}), batch(2).source, torch.randn(2, 4)
    one = method.translate(x, "cat", "dog", seed=3, latents=z)
    assert torch.equal(one, method.translate(x, "cat", "dog", seed=3, latents=z))
    assert not torch.allclose(one, method.translate(x, "cat", "dog", seed=4, latents=z))
