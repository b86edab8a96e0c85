"""The demo: two domains made of real images that scikit-learn carries, both ways translated, a classifier adapted, one
report.

``plain`` are handwritten digits (1,797 scans of 8×8). ``photo`` are other digits blended into patches of two
photographs, |patch − digit|, so that a bright patch turns a digit dark. Labels exist for ``plain`` alone as far as
training goes; a third part of the digits is held out and blended into stretches of the photographs that training never
sees.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from unpaired import checkpoint
from unpaired.adaptation import adapt
from unpaired.data.images import encode_image
from unpaired.errors import UnpairedError
from unpaired.report import write_report
from unpaired.training.log import Reporter

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
    """Write the data, train both ways, adapt a classifier; the path of ``report.html``.

    Leaves ``data/``, ``adapt/`` (run, classifiers, results.json) and the report in ``out``. About six minutes on two
    cores; ``reduced`` takes about one and shows only that everything runs.

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
    result = adapt(
        data.labelled,
        data.unlabelled,
        out / "adapt",
        test=data.test_photo,
        recipe="translate",
        settings={**SETTINGS, **(REDUCED if reduced else {})},
        seed=seed,
        quiet=quiet,
        names=("plain", "photo"),
    )
    assert result.last is not None and result.source_only is not None, "there were test images"
    say("writing the report")
    path = write_report(out / "adapt", out=out / "report.html", limit=12 if reduced else 120, quiet=True)
    say(
        f"done in {time.monotonic() - started:.0f} s: accuracy on {result.last.n} held-out photo digits "
        f"{result.source_only.accuracy:.3f} before (with inverted copies), "
        f"{result.last.accuracy:.3f} after; no label of a photo digit was "
        "used. Telling the training how the target differs is cheaper where one knows it: adapt.recolour (docs/results)"
    )
    return path
