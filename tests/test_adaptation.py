"""adapt(): both recipes end to end on tiny images, what is chosen on what, the files, the refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
import torch
from PIL import Image

from unpaired import checkpoint
from unpaired.adaptation import AdaptResult, _read, _settle, adapt, add_anchor
from unpaired.batch import Batch
from unpaired.config import AdaptConfig
from unpaired.data.labelled import open_to_test
from unpaired.errors import CheckpointError, DataError, ImageError, RefusedError
from unpaired.evaluation.classifier import (
    ConvNet,
    Training,
    adaptation_figures,
    load_classifier,
    score,
    train_classifier,
)
from unpaired.methods import run_from
from unpaired.networks.augment import jitter, recolour
from unpaired.report import write_report
from unpaired.training.run import build
from unpaired.training.state import Plan

CLASSES = ("left", "right")
JOINT: dict[str, Any] = {
    "data.size": 16, "model.width": 4, "model.discriminator_width": 4, "model.steps": 6, "model.batch_size": 4,
    "training.tensorboard": False, "training.precision": "fp32", "adapt.checkpoints": 3, "adapt.steps": 30,
    "adapt.width": 8, "adapt.batch_size": 16, "adapt.jitter": 0.0,
}  # fmt: skip
TRANSLATE: dict[str, Any] = JOINT | {
    "model.discriminator_layers": 2,
    "model.residual_blocks": 1,
    "adapt.anchor": 1.0,
}
UNIT: dict[str, Any] = {"method": "unit", "recipe": "translate"}


def bars(n: int, side: int, seed: int, *, dark: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n, S, S] with a bright bar left or right of the middle, and which: a task that a small network solves."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    images = rng.integers(0, 40, (n, side, side))
    for image, label in zip(images, labels, strict=True):
        column = int(rng.integers(1, side // 2 - 3)) + (side // 2 if label else 0)
        image[2:-2, column : column + 2] = 220
    return (255 - images if dark else images).astype(np.uint8), labels


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    """source and test: class folders; target: a flat folder of dark bars on white."""

    def write(folder: Path, pixels: np.ndarray, labels: np.ndarray | None) -> Path:
        for i, image in enumerate(pixels):
            path = folder / (CLASSES[labels[i]] if labels is not None else "") / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
        return folder

    return {
        "source": write(tmp_path / "source", *bars(40, 16, 0)),
        "target": write(tmp_path / "target", bars(30, 16, 1, dark=True)[0], None),
        "test": write(tmp_path / "test", *bars(20, 16, 2, dark=True)),
    }


def run(data: dict[str, Path], out: Path, settings: dict[str, Any], **options: Any) -> AdaptResult:
    """adapt() on the fixture."""
    return adapt(data["source"], data["target"], out, test=data["test"], settings=settings, quiet=True, **options)


def pictures(n: int = 8) -> torch.Tensor:
    """[n, 3, 16, 16]."""
    images = torch.from_numpy(bars(n, 16, 3)[0]).float() / 127.5 - 1
    return images[:, None].expand(-1, 3, -1, -1)


def test_joint_recipe(data: dict[str, Path], tmp_path: Path) -> None:
    """The paper's recipe leaves the last and the best class head, scores with n and confusion, and a readable
    results.json; a report of the folder finds data, test images and classifier by itself."""
    result = run(data, tmp_path / "out", JOINT)
    assert (result.recipe, result.method) == ("joint", "unit-digits")
    assert result.counts == {"source": 36, "held_out": 4, "target": 30, "test": 20}
    assert [int(h["step"]) for h in result.history] == [2, 4, 6] and result.best_step in (2, 4, 6)
    assert result.last is not None and result.last.n == 20 and sum(map(sum, result.last.confusion)) == 20
    loaded = load_classifier(result.classifier)
    assert loaded.classes == CLASSES and loaded.header["step"] == 6
    assert loaded.logits(pictures()).shape == (8, 2)
    assert load_classifier(result.best_classifier).header["step"] == result.best_step
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == json.loads(json.dumps(result.to_dict()))
    assert "held-out source images translated" in result.selection
    assert "source only" in result.text() and "predicted in columns" in result.text()
    page = write_report(tmp_path / "out", out=tmp_path / "r.html", images=2, limit=4).read_text(encoding="utf-8")
    assert "Least sure for the classifier, of 4 held-out" not in page  # the classifier knows the target, not the source
    for words in ("as target", "Least sure for the classifier, of 4 training images", "unpaired adapt --source"):
        assert words in page, words
    assert "There are no test images of source" in page and "test images of target" not in page


def test_translate_recipe_with_anchor(data: dict[str, Path], tmp_path: Path) -> None:
    """Any translator: two runs with one seed write the same classifier, byte for byte, and a finished one changes
    nothing; the anchor's term is logged."""
    first = run(data, tmp_path / "a", TRANSLATE, **UNIT).classifier.read_bytes()
    for again in ("b", "a"):
        assert run(data, tmp_path / again, TRANSLATE, **UNIT).classifier.read_bytes() == first
    log = [json.loads(line) for line in (tmp_path / "a" / "run" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["generator/anchor"] > 0


@pytest.mark.parametrize("settings", [TRANSLATE, JOINT], ids=["translate", "joint"])
def test_images_larger_than_the_crop(settings: dict[str, Any], data: dict[str, Path], tmp_path: Path) -> None:
    """With data.resize above data.size both recipes finish, and the classifier reads files as its training did: the
    accuracy on the test folder is that of results.json, whoever measures it."""
    recipe: Any = "translate" if settings is TRANSLATE else "joint"
    result = run(data, tmp_path / "out", {**settings, "data.resize": 20}, method="unit", recipe=recipe)
    found = load_classifier(result.classifier)
    assert (found.data.size, found.data.resize) == (16, 20) and result.last is not None
    figures = adaptation_figures(result.classifier, data["test"], device=torch.device("cpu"))
    files = sorted(data["test"].rglob("*.png"))
    images = found.read(files)
    names = [found.classes[i] for i in found.predict(images)]
    right = sum(name == file.parent.name for name, file in zip(names, files, strict=True))
    assert images.shape == (len(files), 3, 16, 16)
    assert right / len(files) == figures["accuracy"]["value"] == result.last.accuracy
    (tmp_path / "bad.png").write_text("x")
    with pytest.raises(ImageError, match=r"bad\.png"):
        found.read([files[0], tmp_path / "bad.png"])


def test_test_labels_choose_nothing_unless_asked(data: dict[str, Path], tmp_path: Path) -> None:
    """Without a test set the same classifiers come out; with select_on_test the choice says so."""
    honest = run(data, tmp_path / "a", JOINT)
    blind = adapt(data["source"], data["target"], out=tmp_path / "b", settings=JOINT, quiet=True)
    assert blind.last is None and blind.best_step == honest.best_step
    assert load_classifier(blind.best_classifier).header["step"] == honest.best_step
    assert "no --test given" in blind.text()
    official = run(data, tmp_path / "a", JOINT, select_on_test=True)
    assert "labels of the test set" in official.selection and "labels of the test set" in official.text()
    assert official.best is not None
    assert official.best.accuracy == max(h["test"] for h in official.history)


def test_npz_without_target_labels(tmp_path: Path) -> None:
    """npz files work, grey and of another size, and the target's file needs no labels."""
    x, y = bars(24, 20, 0)
    np.savez(tmp_path / "s.npz", x_train=x, y_train=y)
    np.savez(tmp_path / "t.npz", x_train=bars(16, 12, 1, dark=True)[0])
    result = adapt(tmp_path / "s.npz", tmp_path / "t.npz", out=tmp_path / "o", settings=JOINT, quiet=True)
    assert result.counts["target"] == 16 and result.classes == ("0", "1")


def test_a_classifier_is_tested_on_test_images(data: dict[str, Path], tmp_path: Path) -> None:
    """Of labelled data with splits those of "test" are taken, as a folder and as npz, never the training images; data
    with training images alone are refused; without splits all are taken."""
    config, options, _ = _settle(AdaptConfig(recipe="translate", settings=TRANSLATE))
    both = tmp_path / "both"
    shutil.copytree(data["source"], both / "train")
    shutil.copytree(data["test"], both / "test")
    for place in (data["test"], both):
        assert _read(data["source"], data["target"], place, config, options).counts()["test"] == 20
    x, y = bars(6, 16, 0)
    np.savez(tmp_path / "plain.npz", x=x, y=y)
    np.savez(tmp_path / "split.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    counts = [open_to_test(tmp_path / f"{name}.npz", config.data, "d").count("d") for name in ("plain", "split")]
    assert counts == [6, 2]
    shutil.rmtree(both / "test")
    with pytest.raises(DataError, match="no test folder; there are: train"):
        _read(data["source"], data["target"], both, config, options)


def test_inverted_copies(data: dict[str, Path]) -> None:
    """adapt.inverted doubles what is trained on, each copy with its label, and leaves held-out images and counts
    alone."""
    config, options, _ = _settle(AdaptConfig(recipe="translate", settings={**TRANSLATE, "adapt.inverted": True}))
    found = _read(data["source"], data["target"], None, config, options)
    images, labels = found.images["source"], found.labels
    assert len(images) == 72 and np.array_equal(images[36:], 255 - images[:36])
    assert np.array_equal(labels[36:], labels[:36])
    assert found.counts() == {"source": 36, "held_out": 4, "target": 30}


def test_plain_classifier_learns() -> None:
    """It solves the bars, keeps the best of its looks, and the same seed gives the same weights; confusion[i][j]
    counts class i called j."""
    images, labels = pictures(64), torch.arange(64) % 2

    def train() -> Any:
        values = iter((0.0, 1.0, 0.0))
        how = Training(2, 16, 8, 60, 16, looks=3)
        return train_classifier(lambda i: (images[i], labels[i]), 64, lambda _: next(values), how, seed=0)

    one, two = train(), train()
    assert one.best_step == 40 and len(one.history) == 3
    assert score(one.last(images), labels).accuracy > 0.9
    assert all(torch.equal(a, b) for a, b in zip(one.last.parameters(), two.last.parameters(), strict=True))
    found = score(torch.eye(3)[[0, 1, 1, 0]], torch.tensor([0, 1, 2, 2]))
    assert found.confusion == ((1, 0, 0), (0, 1, 0), (1, 1, 0)) and found.accuracy == 0.5 and found.n == 4


def test_augmentation_keeps_shape_and_range() -> None:
    """jitter by 0 is the identity; both augmentations stay in [-1, 1]; recolour keeps edges, whichever way round."""
    torch.manual_seed(0)
    images = pictures()
    assert jitter(images, 0.0) is images
    assert jitter(images, 0.3).abs().max() <= 1 and not torch.equal(jitter(images, 0.3), images)
    new = recolour(images)
    assert new.abs().max() <= 1
    together = torch.corrcoef(torch.stack([images[0, 0].flatten(), new[0, 0].flatten()]))[0, 1]
    assert together.abs() > 0.999


def test_anchor_pulls_on_the_translator_alone() -> None:
    """The anchor joins the generator's update, its gradient reaches encoder and generator, and the classifier stays."""
    config = run_from({"method": "unit", "data": {"size": 16}, "model": {"width": 4, "discriminator_layers": 2}})
    method = build(config, ("a", "b"), CLASSES)
    network = ConvNet(2, 16, 8).eval().requires_grad_(False)
    add_anchor(method, network, 2.0)
    stage = Plan(method.stages()).stages[0]
    update = {u.name: u for u in stage.updates}
    x, zero = pictures(4), torch.zeros(4, dtype=torch.long)
    batch = Batch(x, zero, x, zero + 1, torch.tensor([0, 1, -1, -1]))
    assert "anchor" not in update["discriminator"].loss(*cases.arguments(stage, batch))
    term = update["generator"].loss(*cases.arguments(stage, batch))["anchor"]
    there = method.translate(x[:2], "a", "b")
    assert torch.allclose(term, 2 * torch.nn.functional.cross_entropy(network(there), batch.source_label[:2]))
    term.backward()
    assert method.encoders[0][0][0].weight.grad is not None and method.generators[1][-1][0].weight.grad is not None


def test_refusals(data: dict[str, Path], tmp_path: Path) -> None:
    """Settings, recipe and data that cannot work are refused before training, with what to type."""
    out, inside = tmp_path / "o", data["target"] / "run"
    shutil.copytree(data["test"], tmp_path / "other")
    (tmp_path / "other/left").rename(tmp_path / "other/up")
    for place, options, said in (
        (out, {"settings": {"adapt.step": 3}}, r"adapt\.step'.*Did you mean 'adapt\.steps'"),
        (out, {"settings": {"adapt.steps": 0}}, r"adapt\.steps = 0"),
        (out, {"select_on_test": True}, "needs --test"),
        (out, {"test": tmp_path / "other"}, "classes up are not among the source's: left, right"),
        (out, {"preset": "unit-small", "recipe": "joint"}, r"preset unit-small is for 'unit'.*--recipe translate"),
        (data["source"], {}, "lies in the images"),
        (inside, {}, "lies in the images"),
    ):
        with pytest.raises(RefusedError, match=said):
            adapt(data["source"], data["target"], place, **{"settings": JOINT, "quiet": True, **options})
    assert not out.exists() and not inside.exists()


def test_a_preset_of_the_translator_means_recipe_translate() -> None:
    """`--preset unit-small` has the settings of UNIT's translator, so no --recipe need be typed; the word unit alone is
    joint."""
    config, _, recipe = _settle(AdaptConfig(preset="unit-small"))
    assert (config.method, recipe, config.model.width) == ("unit", "translate", 16)
    assert [_settle(AdaptConfig(method=m))[2] for m in ("unit", "unit-digits")] == ["joint"] * 2


def test_foreign_files_are_no_classifiers(data: dict[str, Path], tmp_path: Path) -> None:
    """A translator without class head, a damaged file and a missing one are refused by name."""
    result = run(data, tmp_path / "out", {**TRANSLATE, "model.steps": 1}, **UNIT)
    with pytest.raises(CheckpointError, match="without a class head"):
        load_classifier(checkpoint.model_file(tmp_path / "out" / "run"))
    spoiled = bytearray(result.classifier.read_bytes())
    spoiled[-3] ^= 1
    (tmp_path / "bad.safetensors").write_bytes(spoiled)
    with pytest.raises(CheckpointError, match="damaged"):
        load_classifier(tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match="no such"):
        load_classifier(tmp_path / "none.safetensors")
