"""The demo: two domains made of real images that scikit-learn carries, both ways translated, a classifier adapted, one
report.

``plain`` are handwritten digits (1,797 scans of 8×8). ``photo`` are other digits blended into patches of two
photographs, |patch − digit|, so that a bright patch turns a digit dark. Labels exist for ``plain`` alone as far as
training goes; a third part of the digits is held out and blended into stretches of the photographs that training never
sees.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from unpaired import checkpoint
from unpaired._version import __version__
from unpaired.adaptation import AdaptResult, adapt
from unpaired.config import DataConfig
from unpaired.data.images import encode_image, to_tensor, to_uint8
from unpaired.data.labelled import open_labelled
from unpaired.errors import UnpairedError
from unpaired.evaluation import classifier
from unpaired.report import Report, line_panel
from unpaired.training.log import Reporter
from unpaired.translate.translator import load

Pixels = NDArray[np.uint8]
SIDE = 16
"""Pixels of a side."""
COUNTS = {"plain": 750, "photo": 747, "test": 300}
"""Digits of each part; they add up to all 1,797."""
BAND = 64
"""Width and height in pixels of the squares that a photograph is cut into; those of every fifth row and column are for
tests."""
DATA_SEED = 20170301
"""Which digit goes where, and the patches: fixed, so that the data are the same for every training seed."""

SETTINGS: dict[str, Any] = {
    "data.size": SIDE,
    "data.cache": False,
    "model.width": 16,
    "model.downsampling": 1,
    "model.residual_blocks": 1,
    "model.discriminator_layers": 3,
    "model.discriminator_width": 16,
    "model.batch_size": 32,
    "model.lr": 1e-3,
    "model.steps": 500,
    "training.precision": "fp32",
    "training.checkpoint_every": 250,
    "training.keep": 1,
    "training.log_every": 10,
    "training.sample_every": 250,
    "training.tensorboard": False,
    "adapt.steps": 400,
    "adapt.width": 16,
    "adapt.inverted": True,
}
"""Of the full demo. Widths are multiples of 16, which CPUs like."""
REDUCED: dict[str, Any] = {"model.steps": 40, "adapt.steps": 60, "model.batch_size": 16, "training.sample_every": 40}
"""What the reduced demo changes."""


class DemoData(NamedTuple):
    """Where :func:`write_demo_data` put things."""

    root: Path
    labelled: Path
    """Plain digits in class folders, for training."""
    unlabelled: Path
    """Photo digits in one folder, for training."""
    test_photo: Path
    """Held-out photo digits in class folders."""
    test_plain: Path
    """The same digits without photographs."""


def _sources() -> tuple[Pixels, NDArray[np.int64], list[Pixels]]:
    """Digits [1797, S, S] 0 to 255, their labels, and the two photographs [H, W, 3]."""
    try:
        from sklearn.datasets import load_digits, load_sample_images
    except ImportError as error:
        raise UnpairedError("the demo needs scikit-learn; type: pip install 'unpaired[demo]'") from error
    found = load_digits()
    eight = (found.images / 16 * 255).round().astype(np.uint8)
    digits = np.stack([np.asarray(Image.fromarray(d).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for d in eight])
    return digits, found.target.astype(np.int64), [np.asarray(p) for p in load_sample_images().images]


def _patch(photos: list[Pixels], rng: np.random.Generator, *, test: bool) -> Pixels:
    """[S, S, 3] from a place that is for tests, or from one that is not; no pixel serves both."""
    while True:
        photo = photos[rng.integers(len(photos))]
        top = int(rng.integers(photo.shape[0] - SIDE + 1))
        left = int(rng.integers(photo.shape[1] - SIDE + 1))
        inside = {
            ((y // BAND + 2 * (x // BAND)) % 5 == 2) for y in (top, top + SIDE - 1) for x in (left, left + SIDE - 1)
        }
        if inside == {test}:
            return photo[top : top + SIDE, left : left + SIDE]


def write_demo_data(folder: Path | str) -> DemoData:
    """Write the demo's images as ordinary PNG folders: ``train/<domain>`` and ``test/<domain>``, classes below where
    labelled.

    Raises:
        UnpairedError: scikit-learn is not installed.
    """
    root = Path(folder)
    data = DemoData(
        root, root / "train" / "plain", root / "train" / "photo", root / "test" / "photo", root / "test" / "plain"
    )
    digits, labels, photos = _sources()
    rng = np.random.default_rng(DATA_SEED)
    order = rng.permutation(len(digits))
    plain, photo, test = np.split(order, np.cumsum([COUNTS["plain"], COUNTS["photo"]]))

    def write(path: Path, pixels: Pixels) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_atomic(path, encode_image(np.ascontiguousarray(pixels)))

    def blended(index: int, *, test: bool) -> Pixels:
        patch = _patch(photos, rng, test=test).astype(np.int16)
        mixed: Pixels = np.abs(patch - digits[index][..., None]).astype(np.uint8)
        return mixed

    for index in plain:
        write(data.labelled / str(labels[index]) / f"{index:04d}.png", _rgb(digits[index]))
    for place, index in enumerate(photo):  # the name tells nothing about the class
        write(data.unlabelled / f"{place:04d}.png", blended(index, test=False))
    for index in test:
        name = f"{labels[index]}/{index:04d}.png"
        write(data.test_plain / name, _rgb(digits[index]))
        write(data.test_photo / name, blended(index, test=True))
    return data


def _rgb(grey: Pixels) -> Pixels:
    return np.repeat(grey[..., None], 3, axis=2)


def run_demo(out: Path | str = "demo", *, seed: int = 0, reduced: bool = False, quiet: bool = False) -> Path:
    """Write the data, train both ways, translate, adapt a classifier; the path of ``report.html``.

    Leaves ``data/``, ``adapt/`` (run, classifiers, results.json), ``model.safetensors`` (the translator) and the report
    in ``out``. About six minutes on two cores; ``reduced`` takes about one and shows only that everything runs.

    Raises:
        UnpairedError: scikit-learn is missing. ConfigError: ``out`` holds a demo with other settings.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(
        1
    )  # at 16 pixels a second thread gains little, and on a busy machine it waits more than it works
    try:
        return _run(Path(out), seed, reduced, quiet)
    finally:
        torch.set_num_threads(threads)


def _run(out: Path, seed: int, reduced: bool, quiet: bool) -> Path:
    started = time.monotonic()
    say = Reporter(1, 0, quiet=quiet).say
    say("writing the images: scikit-learn's digits and photographs")
    data = write_demo_data(out / "data")
    settings = {**SETTINGS, **(REDUCED if reduced else {})}
    result = adapt(
        data.labelled, data.unlabelled, out / "adapt", test=data.test_photo, recipe="translate",
        settings=settings, seed=seed, quiet=quiet, names=("plain", "photo"),
    )  # fmt: skip
    model = checkpoint.model_file(out / "adapt" / "run")
    checkpoint.write_atomic(out / "model.safetensors", model.read_bytes())
    say("for comparison: classifiers of plain digits without adaptation")
    others = {
        "source only": _plain_only(data, settings, seed, recoloured=False),
        "source only, random contrast": _plain_only(data, settings, seed, recoloured=True),
    }
    say("writing the report")
    page = _page(out, data, result, others, reduced, time.monotonic() - started)
    path = page.write(out / "report.html")
    assert result.last is not None
    before, after = others["source only"].accuracy, result.last.accuracy
    say(
        f"done in {time.monotonic() - started:.0f} s: accuracy on held-out photo digits {before:.3f} before, "
        f"{after:.3f} after"
    )
    return path


def _plain_only(data: DemoData, settings: dict[str, Any], seed: int, *, recoloured: bool) -> classifier.Score:
    """A classifier of plain digits that never sees the target, scored on the held-out photo digits."""
    config = DataConfig(size=SIDE, mirror=False, cache=False)
    plain, test = open_labelled(data.labelled, config, "plain"), open_labelled(data.test_photo, config, "photo")
    images, labels = to_tensor(plain.images["plain"]), torch.from_numpy(np.asarray(plain.labels["plain"]))
    fitted = classifier.train_classifier(
        lambda index: (images[index], labels[index]),
        len(images),
        lambda _: 0.0,
        classifier.Training(
            len(plain.classes), SIDE, settings["adapt.width"], settings["adapt.steps"], 64, 0.15, recoloured
        ),
        seed=seed,
    )
    with torch.inference_mode():
        logits = fitted.last(to_tensor(test.images["photo"]))
    return classifier.score(logits, torch.from_numpy(np.asarray(test.labels["photo"])))


def _page(
    out: Path, data: DemoData, result: AdaptResult, others: dict[str, classifier.Score], reduced: bool, seconds: float
) -> Report:
    assert result.source_only is not None and result.last is not None and result.best is not None
    lead = (
        f"UNIT trained for {seconds:.0f} seconds on {result.counts['source']:,} plain and {result.counts['target']:,} "
        f"photo digits, seed {result.seed}. Accuracy on {result.last.n} held-out photo digits: "
        f"{others['source only'].accuracy:.3f} before, {result.last.accuracy:.3f} after."
    )
    if reduced:
        lead += " This is the reduced demo: it shows that everything runs, not what it learns."
    page = Report("unpaired: plain digits and digits on photographs", lead=lead)
    translator = load(out / "model.safetensors")
    config = DataConfig(size=SIDE, mirror=False, cache=False)
    page.section("Translations")
    page.text(
        "The plain domain holds white digits on black and inverted copies; the photo domain has bright and dark "
        "patches."
    )
    for title, folder, source, target in (
        ("plain to photo", data.test_plain, "plain", "photo"),
        ("photo to plain", data.test_photo, "photo", "plain"),
    ):
        pool = open_labelled(folder, config, source)
        images = pool.images[source][:: max(1, pool.count(source) // 24)][:24]
        if source == "plain":  # the translator learnt both
            images = np.concatenate([images[:12], 255 - images[12:]])
        there = translator.translate(to_tensor(images), source, target)
        back = translator.translate(there, target, source)
        rows = {source: images, f"as {target}": to_uint8(there), "and back": to_uint8(back)}
        page.sheet(
            rows, alt=f"Held-out {source} digit", columns=12,
            caption=f"Held-out images, {title}: input, translation, and the translation of that back to {source}.",
        )  # fmt: skip
    _learning(page, out)
    page.section("A classifier without target labels")
    page.text(
        "Source only: trained on plain digits, with random rotation, scale and shift. With inverted copies: the "
        "same, and each plain digit also black on white, as the released settings of UNIT did with MNIST. Adapted: "
        "the same again, half of each batch being translations to photo with the labels of the plain digits. No "
        "label of a photo digit was used for training or for choosing.\n\nThe last row is no adaptation: random "
        "contrast, inversion and colour of plain digits. Where one knows how the target differs, as here, telling "
        "the training is cheaper and does better; adaptation is for when one does not know."
    )
    rows_: list[list[str | int | float | None]] = [
        [name, f"{score.accuracy:.3f}", score.n]
        for name, score in (
            ("source only", others["source only"]),
            ("source only, inverted copies", result.source_only),
            ("adapted, last", result.last),
            (f"adapted, best {result.selection}", result.best),
            ("source only, random contrast", others["source only, random contrast"]),
        )
    ]
    page.table(["classifier", "accuracy", "held-out photo digits"], rows_, caption="Accuracy, one seed.")
    for name, score in (("Source only", others["source only"]), ("Adapted, last", result.last)):
        page.confusion(np.array(score.confusion), result.classes, caption=f"{name}: {score.accuracy:.3f} of {score.n}.")
    page.section("To repeat")
    page.commands(
        [
            f"unpaired demo --seed {result.seed}" + (" --reduced" if reduced else ""),
            f"unpaired translate {out}/model.safetensors {data.test_plain} --to photo --out translated",
            f"unpaired adapt --source {data.labelled} --target {data.unlabelled} --test {data.test_photo} --out "
            "adapted",
        ],
        caption=f"unpaired {__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads",
    )
    return page


def _learning(page: Report, out: Path) -> None:
    """The loss terms over the steps, from the run's log."""
    lines = [json.loads(line) for line in (out / "adapt" / "run" / "log.jsonl").read_text("utf-8").splitlines()]
    names = [k for k in lines[-1] if "/" in k and "accuracy" not in k]
    page.section("Losses")
    steps = [line["step"] for line in lines]
    curves = {k: (steps, [float(line.get(k, "nan")) for line in lines]) for k in names}
    page.panels([line_panel("loss terms", curves, log=True)], caption="Weighted loss terms of both players.")
