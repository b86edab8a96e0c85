"""Cascade and DeepVAE: what trains on what, losses, parts that belong together, features on disk, levels, synthesis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import run as command
from torch import Tensor, nn

import tiny
import unpaired
from unpaired import checkpoint
from unpaired.batch import Batch
from unpaired.config import RunConfig
from unpaired.data.images import GAP
from unpaired.errors import CheckpointError, ConfigError, PartialError, RefusedError
from unpaired.methods.cascade import Cascade
from unpaired.methods.deepvae import DeepVAE
from unpaired.report import write_report
from unpaired.training import loop
from unpaired.training import run as training_run
from unpaired.translate.files import check_apart
from unpaired.translate.synthesis import between, latents, synthesize, write_level_sheets
from unpaired.translate.translator import load

DOMAINS = ("red", "blue")


def settings(name: str = "cascade", **model: Any) -> RunConfig:
    return cases.config(name, model=model)


def cascade(**model: Any) -> Cascade:
    method = cases.method("cascade", settings(**model))
    assert isinstance(method, Cascade)
    fill(method)
    return method


def deepvae(**model: Any) -> DeepVAE:
    method = cases.method("deepvae", settings("deepvae", **model))
    assert isinstance(method, DeepVAE)
    fill(method)
    return method


def fill(method: Cascade | DeepVAE) -> None:
    """Statistics of the tiny images, and eval mode."""
    method.prepare(cases.start("deepvae" if isinstance(method, DeepVAE) else "cascade"))
    method.eval().requires_grad_(False)


def batch(n: int = 2, seed: int = 0) -> Batch:
    images = torch.from_numpy(tiny.pictures(2 * n, 32, seed)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return Batch(images[:n], torch.zeros(n, dtype=torch.int64), images[n:], torch.ones(n, dtype=torch.int64))


def train(run: Path, config: RunConfig, name: str = "cascade") -> Path:
    return loop.fit(cases.method(name, config), cases.pool(name), config, run, quiet=True)


def inputs_of(module: nn.Module, do: Callable[[], object]) -> list[tuple[Tensor, ...]]:
    """What ``module`` was given while ``do`` ran."""
    seen: list[tuple[Tensor, ...]] = []
    hook = module.register_forward_pre_hook(lambda _m, given: seen.append(given))
    do()
    hook.remove()
    return seen


# -- losses


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("off", ["", "adversarial_weight", "cycle_weight", "identity_weight"])
def test_losses_are_those_of_passes_apart(index: int, off: str) -> None:
    """Real and fake maps judged together, translation and identity made together: the terms are those of a pass for
    each."""
    method, b = cascade(**({off: 0.0} if off else {})), batch(3)
    (real, translated), level = method.given(b, index), (5, 4)[index]
    deeper = [real[s][5] if index else None for s in (0, 1)]
    wanted: dict[str, Tensor] = {}
    for target, source, name, other in ((0, 1, "red", "blue"), (1, 0, "blue", "red")):
        critic = method.critics[str(level)][target]  # type: ignore[index]
        fake = method.make(index, real[source][level], translated[target], target)
        back = method.make(index, fake, deeper[source], source)
        wanted[f"gap/{name}"] = critic(fake)[0].mean() - critic(real[target][level])[0].mean()
        wanted[f"adversarial/{name}"] = -critic(fake)[0].mean()
        wanted[f"cycle/{other}"] = 100 * (back - real[source][level]).abs().mean()
        same = method.make(index, real[target][level], deeper[target], target)
        wanted[f"identity/{name}"] = 100 * (same - real[target][level]).abs().mean()
    terms = method.translator_loss(b, method.given(b, index), index) | (
        method.critic_loss(b, method.given(b, index), index) if off != "adversarial_weight" else {}
    )
    assert {k.split("/")[0] for k in wanted} - {k.split("/")[0] for k in terms} <= {off.removesuffix("_weight"), "gap"}
    for key, value in terms.items():
        if not key.startswith("penalty"):
            torch.testing.assert_close(value, wanted[key], rtol=1e-5, atol=1e-6)


def test_inversion_pays_for_the_image_its_features_and_the_judge() -> None:
    """L1 of the image, the weighted mean square of activations, LSGAN; each weight scales its term and 0 leaves it
    out."""
    method, b = cascade(image_weight=2.0, perceptual_weight=3.0, inversion_gan_weight=0.5), batch()
    terms = method.inverter_loss(b, method.real(b, 3), 3)
    image = method.picture(3, method.pyramid(b.source, 0)[3], 0)
    assert torch.allclose(terms["image/red"], 2 * (image - b.source).abs().mean())
    judged = method.judges["3"][0](image)[0]  # type: ignore[index]
    assert torch.allclose(terms["gan/red"], 0.5 * (judged - 1).square().mean())
    pairs = zip(
        method.pyramid.activations(b.source), method.pyramid.activations(image), (2, 1, 0.5, 0.5, 0.2), strict=True
    )
    expected = torch.stack([w * (x - y).square().mean() for x, y, w in pairs]).sum() / 4.2
    assert torch.allclose(terms["perceptual/red"], 3 * expected)
    plain = cascade(perceptual_weight=0.0, inversion_gan_weight=0.0)
    assert set(plain.inverter_loss(b, plain.real(b, 3), 3)) == {"image/red", "image/blue"}
    assert [u.name for u in plain.stages()[0].updates] == ["inverter-3"]


# -- plan and translation


def test_stages_in_order() -> None:
    """Inversion first, then the levels from the deepest on; with ``invert_all`` each level has its inversion."""
    names = [s.name for s in cascade(invert_all=True).stages()]
    assert names == ["inversion-5", "inversion-4", "inversion-3", "level-5", "level-4", "level-3"]
    assert [s.name for s in cascade(levels=[4]).stages()] == ["inversion-4", "level-4"]
    run = settings(invert_all=True, level_steps=100, inversion_steps=50)
    assert (
        sum(s.steps for s in cases.method("cascade", settings(**run.model.with_steps(90).model_dump())).stages()) == 90
    )


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ({"levels": [5, 3]}, "without a gap"),
        ({"levels": [3, 4]}, "without a gap"),
        ({"kept_levels": [4]}, "only the first of levels"),
        ({"judge_layers": 5}, "needs 64 pixels"),
        ({"network": "tinny"}, "no feature pyramid"),
    ],
)
def test_settings_that_do_not_fit_are_refused(model: dict[str, Any], text: str) -> None:
    """Before any work, with what would do."""
    with pytest.raises(ConfigError, match=text):
        cases.method("cascade", settings(**model))


def test_parts_that_only_another_model_can_bring() -> None:
    """Levels to be kept, or no inversion steps, are refused where a run does not start from a model."""
    for model in ({"kept_levels": [5]}, {"inversion_steps": 0}):
        method = cases.method("cascade", settings(**model))
        with pytest.raises(ConfigError, match="--start-from"):
            method.prepare(cases.start("cascade"))


def test_translation_goes_as_far_as_training_has_come() -> None:
    """Without translators the map passes in the other domain's units, through the inversion network that training has
    come to (a later one is still random); then each level that is begun is added; the picture comes from the last of
    them."""
    method = cascade(invert_all=True)
    x = batch().source
    maps = method.pyramid(x, 0)
    assert torch.equal(method.translate(x, *DOMAINS), method.picture(3, maps[3], 1))
    for index, level in enumerate((5, 4, 3)):
        method._start_inversion(index)
        assert torch.equal(method.translate(x, *DOMAINS), method.picture(level, maps[level], 1))
        (own,) = method.views(x, *DOMAINS).values()
        assert torch.equal(own, method.picture(level, maps[level], 0))
    assert method.levels(x, *DOMAINS) == []  # what untrained translators make is nothing to look at
    for index, level in enumerate((5, 4, 3)):
        method.start_level(index)
        made = method.cascade(maps, 1, index + 1)
        assert torch.equal(method.translate(x, *DOMAINS), method.picture(level, made[-1], 1))
    assert list(method.views(x, *DOMAINS)) == ["inversion of the input", "level 5", "level 4"]
    names = [name for name, _, _ in method.levels(x, *DOMAINS)]
    assert names == ["level 5", "level 4", "level 3"]
    assert torch.equal(method.levels(x, *DOMAINS)[-1][2], method.translate(x, *DOMAINS))
    assert torch.equal(method.levels(x, *DOMAINS)[0][1], method.picture(5, maps[5], 0))
    own = method.reconstruct(x, "red")
    assert own is not None and torch.equal(own, method.picture(3, maps[3], 0))


def test_outputs_through_untrained_levels_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With ``invert_all`` off, a cascade in its first level goes through levels 4 and 3 all the same: loading, info,
    the figures and the report name them; with it on, and after the last level is begun, there is nothing to name.
    Before any level no output is a translation."""
    run = settings(invert_all=False)
    method = cases.method("cascade", run)
    assert "every level" in method.untrained()
    method._start_inversion(2)
    method.start_level(0)
    model = checkpoint.write_model(tmp_path / "m.safetensors", method, checkpoint.make_header(method, run, step=5))
    said = load(model).untrained
    assert said.startswith("not trained yet: level 4, level 3. ") and "model.invert_all = false" in said
    assert caplog.messages == [f"{model}: {said}"] and load(model).info()["untrained"] == said
    found = unpaired.evaluate(model, tiny.folder(tmp_path / "data", side=36), metrics=["errors"], cache=False)
    assert found["warnings"][0] == said
    assert said[1:] in write_report(model, out=tmp_path / "r.html").read_text(encoding="utf-8")
    for index in (1, 2):
        method.start_level(index)
    assert method.untrained() == ""
    whole = cascade(invert_all=True)
    for index in range(3):
        whole._start_inversion(index)
    whole.start_level(0)
    assert whole.untrained() == ""
    whole.inverted_on[0].zero_()
    assert whole.untrained().startswith("not trained yet: the inversion of level 5. ")


# -- parts that belong together


def change(path: Path, where: Path, name: str, value: Callable[[Tensor], Tensor]) -> Path:
    """The model of ``path`` with one tensor replaced, in a sound file of its own."""
    tensors, header = checkpoint.unpack(path, path.read_bytes())
    header = {k: v for k, v in header.items() if k != "digest"}
    where.write_bytes(checkpoint.pack({**tensors, name: value(tensors[name])}, header))
    return where


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny cascade with all levels and inversion networks."""
    return train(
        tmp_path_factory.mktemp("cascade") / "run", settings(invert_all=True, level_steps=2, inversion_steps=1)
    )


def test_a_mix_of_levels_is_refused(trained: Path, tmp_path: Path) -> None:
    """A model loads as it was trained; with another deeper translator, other statistics or another classifier it does
    not, and the text names the level. The last level may change: nothing was trained on it."""
    load(trained)

    def other(x: Tensor) -> Tensor:
        return x + 0.25

    changed = tmp_path / "changed.safetensors"
    load(change(trained, changed, "makers.3.0.trunk.first.weight", other))
    for name, level in (
        ("makers.5.0.first.weight", 4),
        ("makers.4.1.trunk.first.weight", 3),
        ("pyramid.mean5", 5),
        ("pyramid.features.layers.conv1.weight", 5),
    ):
        with pytest.raises(CheckpointError, match=f"level {level} was trained on other parts"):
            load(change(trained, changed, name, other))


def test_training_a_deeper_level_again_unmakes_the_shallower_ones(trained: Path) -> None:
    """At the start of a level's stage, what was trained on its former state counts as untrained, so nothing is
    mixed."""
    method, _ = checkpoint.load_method(trained)
    assert isinstance(method, Cascade)
    assert int(method.reached) == 3 and bool(method.made_on.any(dim=1).all())
    method.start_level(1)
    assert int(method.reached) == 2 and method.made_on.any(dim=1).tolist() == [True, True, False]
    method.check_parts()


def test_deeper_levels_can_be_kept(trained: Path, tmp_path: Path) -> None:
    """With --start-from and kept_levels the deepest translators stay bit for bit, the others and nothing else are
    trained, and the statistics stay those of the model; the result loads."""
    data = tiny.folder(tmp_path / "data", count=6, side=36)
    old, _ = checkpoint.load_method(trained)
    chosen = cases.config("cascade").to_dict()
    values = {f"model.{k}": v for k, v in chosen["model"].items()} | {"data.size": 32, "data.cache": False}
    values |= {f"training.{k}": v for k, v in chosen["training"].items()}
    values |= {"model.invert_all": True, "model.kept_levels": [5], "model.inversion_steps": 0, "model.level_steps": 2}
    new = training_run.train(
        data, tmp_path / "again", method="cascade", settings=values, start_from=trained, quiet=True
    ).method
    before, after = old.state_dict(), load(tmp_path / "again").method.state_dict()
    moved = {k.split(".")[1] for k in after if k.startswith("makers.") and not torch.equal(before[k], after[k])}
    assert moved == {"4", "3"}
    assert all(torch.equal(before[k], after[k]) for k in after if k.startswith(("pyramid.", "inverters.")))
    assert isinstance(new, Cascade) and int(new.reached) == 3


def again(out: Path, start: Path, domains: tuple[str, ...] = DOMAINS, **model: Any) -> Cascade:
    """What a run of one step a stage gives that begins with the weights of ``start``, on images brighter than its."""
    side = 36
    if not (data := out.parent / "-".join(domains)).exists():
        for index, domain in enumerate(domains):
            (data / domain).mkdir(parents=True)
            for i, image in enumerate(tiny.pictures(6, side, seed=index)):
                Image.fromarray(np.minimum(image // 2 + 128, 255)).save(data / domain / f"{i}.png")
    chosen = cases.config("cascade", model={"invert_all": True, "level_steps": 1, "inversion_steps": 1, **model})
    values = {f"{table}.{k}": v for table in ("model", "training") for k, v in chosen.to_dict()[table].items()}
    values |= {"data.size": 32, "data.cache": False}
    method = training_run.train(data, out, method="cascade", settings=values, start_from=start, quiet=True).method
    assert isinstance(method, Cascade)
    return method


def test_what_was_never_trained_cannot_be_kept(tmp_path: Path) -> None:
    """A level, or inversion networks, that the model of --start-from has not come to are not kept: nothing would train
    them."""
    config = settings(invert_all=True, level_steps=1, inversion_steps=1)
    method = cases.method("cascade", config)
    assert isinstance(method, Cascade)
    fill(method)
    header = checkpoint.make_header(method, config)
    with pytest.raises(
        ConfigError, match=r"inversion_steps = 0 keeps the inversion of level 5, which .* never trained"
    ):
        again(tmp_path / "a", checkpoint.write_model(tmp_path / "none.safetensors", method, header), inversion_steps=0)
    for index in range(3):
        method._start_inversion(index)
    method.start_level(0)
    begun = checkpoint.write_model(tmp_path / "begun.safetensors", method, header)
    with pytest.raises(ConfigError, match=r"kept_levels keeps level 4, which .* never trained"):
        again(tmp_path / "b", begun, kept_levels=[5, 4], inversion_steps=0)
    assert int(again(tmp_path / "c", begun, kept_levels=[5], inversion_steps=0).reached) == 3


def test_a_run_that_keeps_nothing_has_the_statistics_of_its_own_images(trained: Path, tmp_path: Path) -> None:
    """With --start-from and nothing kept, weights come from the model and statistics from the new images, which may be
    of other domains; what is kept belongs to the old statistics, and to the domains it was trained on."""
    old = load(trained).method
    assert isinstance(old, Cascade)
    new = again(tmp_path / "new", trained, ("green", "pink"))
    assert new.domains == ("green", "pink")
    assert not torch.allclose(new.pyramid.get_buffer("mean5"), old.pyramid.get_buffer("mean5"), atol=1e-3)
    first = {k: v for k, v in old.state_dict().items() if k.startswith("makers.5")}
    assert all(float((new.state_dict()[k] - v).abs().max()) < 1e-3 for k, v in first.items())  # one step of Adam away
    kept = again(tmp_path / "kept", trained, inversion_steps=0)
    assert torch.equal(kept.pyramid.get_buffer("mean5"), old.pyramid.get_buffer("mean5"))
    with pytest.raises(ConfigError, match=r"red, blue.*green, pink|blue, red.*green, pink"):
        again(tmp_path / "mixed", trained, ("green", "pink"), kept_levels=[5])


def test_a_model_to_begin_with_brings_its_classifier(trained: Path, tmp_path: Path) -> None:
    """--start-from: what the model was made from stays in the header; other weights of the classifier are refused."""
    with pytest.raises(ConfigError, match="brings the classifier"):
        again(tmp_path / "w", trained, weights=str(tmp_path / "tuned.safetensors"))
    method, header = checkpoint.load_method(trained)
    header["pretrained"] = [{"name": "a classifier", "sha256": "12"}]
    from_somewhere = checkpoint.write_model(tmp_path / "from.safetensors", method, header)
    again(tmp_path / "p", from_somewhere)
    assert load(tmp_path / "p").header["pretrained"] == header["pretrained"]
    with pytest.raises(ConfigError, match="nothing left to train"):
        settings(kept_levels=[5, 4, 3], inversion_steps=0).model.with_steps(10)


def test_a_stage_that_was_passed_keeps_its_length(tmp_path: Path) -> None:
    """Longer levels would put the step reached into an earlier level, whose start is over: refused, and nothing is
    lost."""
    config = settings(level_steps=2, inversion_steps=1)
    train(tmp_path / "run", config)
    steps = checkpoint.latest(tmp_path / "run/checkpoints")[0].step  # type: ignore[union-attr]

    def resume(level_steps: int) -> None:
        longer = settings(level_steps=level_steps, inversion_steps=1)
        allow = ("model.level_steps",)
        method, pool = cases.method("cascade", longer), cases.pool("cascade")
        loop.fit(method, pool, longer, tmp_path / "run", quiet=True, allow_change=allow)

    with pytest.raises(ConfigError, match=f"step {steps} was in stage 'level-3', .* it would be in 'level-4'"):
        resume(4)
    load(tmp_path / "run")
    resume(2)


def test_outputs_near_their_ends_have_gradients_in_bf16() -> None:
    """tanh of 4 is 0.9993 with a gradient, and in bf16 exactly 1 without any: networks take it in float32."""
    translator = cascade().makers["5"][0]
    with torch.no_grad():
        translator.last.bias.fill_(4.0)
        translator.last.weight.zero_()
    x = torch.zeros(1, translator.first.weight.shape[1], 2, 2)
    bias = translator.last.bias.requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = translator(x)
    out.sum().backward()
    assert out.dtype == torch.float32 and float(out.max()) < 1 and float(bias.grad.abs().min()) > 0


def test_averages_never_replace_what_levels_were_trained_on() -> None:
    """With EMA on, the shared file has averaged inversion networks, raw translators and a raw pyramid with its
    statistics."""
    config = settings()
    trainer = loop.Trainer(
        cases.method("cascade", config), cases.pool("cascade"), config, Path("unused"), device=torch.device("cpu")
    )
    assert {name.split(".")[0] for name in trainer.state.average} == {"inverters"}
    statistics = {
        n for n, _ in trainer.method.pyramid.named_buffers()
    }  # those of a child that is never averaged stay raw, too
    assert {"mean5", "std5"} <= statistics and not any("mean5" in n or "std5" in n for n in trainer.state.average)


# -- sheets of levels


def test_sheets_of_levels(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sheet an input: above, the input and its levels; below, their translations; a broken input is named, the
    other sheets are made, and by the command all translations as well (exit 3); folders that overlap with the results
    are refused."""
    pictures = tmp_path / "in"
    pictures.mkdir()
    for i, image in enumerate(tiny.pictures(2, 40)):
        Image.fromarray(image).save(pictures / f"{i}.png")
    model = load(trained)
    done = write_level_sheets(model, [pictures], to="blue", source="red", folder=tmp_path / "levels")
    assert [p.name for p in done] == ["0.png", "1.png"]
    page = np.asarray(Image.open(done[0]))
    assert page.shape == (2 * 32 + GAP, 4 * (32 + GAP) - GAP, 3)
    assert (page[32 + GAP :, :32] == 255).all()
    (pictures / "2.png").write_bytes(b"no picture")
    with pytest.raises(PartialError, match=r"2 sheets .* 1 failed"):
        write_level_sheets(model, [pictures], to="blue", source="red", folder=tmp_path / "levels")
    cli = (trained, pictures, "--to", "blue", "--source", "red", "--device", "cpu", "--quiet")
    assert command("translate", *cli, "--out", tmp_path / "out", "--levels", tmp_path / "other") == 3
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == ["0.png", "1.png"]
    assert sorted(p.name for p in (tmp_path / "other").glob("*.png")) == ["0.png", "1.png"]
    told = capsys.readouterr().err
    assert "2 sheets of levels" in told and told.count("2.png") >= 2 and "the whole list" in told, told
    with pytest.raises(RefusedError, match="folders apart"):
        check_apart(tmp_path / "out" / "levels", "--levels", tmp_path / "out")


# -- DeepVAE


def test_the_vae_pays_for_squares_and_divergence() -> None:
    """½ ||x - G(z)||² + β KL, both divided by the elements of a map; β scales the second."""
    method, b = deepvae(), batch()
    x = method.maps(b.source, 0, 0)[5]
    mean, log_variance = method.encoder(x)
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
    torch.manual_seed(5)
    terms = method.vae_loss(b, method.given(b, 0))
    torch.manual_seed(5)
    z = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
    assert torch.allclose(terms["kl"], kl / x[0].numel())
    assert torch.allclose(terms["reconstruction"], 0.5 * (method.make(0, z, None) - x).square().mean())


def test_generators_learn_on_real_deeper_maps_and_draw_on_their_own() -> None:
    """In training G_4 is given the real map of level 5; in synthesis the one that the VAE made."""
    method, b = deepvae(), batch()
    real = method.maps(b.source, 0, 1)[5]
    given = inputs_of(method.makers["4"], lambda: method.generator_loss(b, method.given(b, 1), 1))
    assert torch.equal(given[0][1], real)
    z = torch.randn(2, method.latent_size or 0)
    made = method.synthesise(z, 2)
    given = inputs_of(method.makers["4"], lambda: method.synthesise(z, 2))
    assert torch.equal(given[0][1], made[0]) and torch.equal(given[0][0], z[:, 3:])


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DeepVAE."""
    return train(tmp_path_factory.mktemp("vae") / "run", settings("deepvae"), "deepvae")


def test_synthesis_writes_pictures_that_follow_from_the_seed(vae: Path, tmp_path: Path) -> None:
    """Number i depends on (seed, i) alone, whatever the count; a second call refuses to replace; other seeds give
    others."""
    many = synthesize(vae, out=tmp_path / "a", n=5, seed=1, device="cpu")
    few = synthesize(vae, out=tmp_path / "b", n=2, seed=1, device="cpu")
    assert [p.name for p in many] == [f"{i:05d}.png" for i in range(5)]
    assert [p.read_bytes() for p in many[:2]] == [p.read_bytes() for p in few]
    assert (tmp_path / "a" / "sheet.png").exists() and (tmp_path / "a" / "synthesis.json").exists()
    with pytest.raises(RefusedError, match="--overwrite"):
        synthesize(vae, out=tmp_path / "a", n=1, seed=2, device="cpu")
    other = synthesize(vae, out=tmp_path / "a", n=1, seed=2, overwrite=True, device="cpu")
    assert other[0].read_bytes() != few[0].read_bytes()


def test_a_walk_begins_and_ends_at_its_latents(vae: Path, tmp_path: Path) -> None:
    """The first and last picture of a walk are those of its two latents, and lengths in between stay between theirs."""
    walk = synthesize(vae, out=tmp_path / "walk", n=1, seed=3, interpolate=4, device="cpu")
    ends = synthesize(vae, out=tmp_path / "ends", n=2, seed=3, device="cpu")
    assert [p.name for p in walk] == [f"00000-{j:02d}.png" for j in range(4)]
    a, b = (np.asarray(Image.open(p)).astype(int) for p in (walk[0], ends[0]))
    assert np.abs(a - b).max() <= 1
    assert np.abs(np.asarray(Image.open(walk[-1])).astype(int) - np.asarray(Image.open(ends[1])).astype(int)).max() <= 1
    x, y = latents(load(vae), 2, 0)
    lengths = between(x, y, 7).norm(dim=1)
    low, high = sorted((float(x.norm()), float(y.norm())))
    assert bool((lengths > low - 1e-3).all() and (lengths < high + 1e-3).all())
    assert torch.allclose(between(x, x, 3)[1], x)
