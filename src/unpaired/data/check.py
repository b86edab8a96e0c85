"""The data doctor: what a data folder holds, what is wrong with it, and how to train on it. Reads, never writes there.

Every listed file is decoded in full by the same opener that training uses, so a file that passes here passes there.
What was found out is kept beside the image caches, by the files' content; checking an unchanged folder again is quick.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import PIL
from PIL import Image

from unpaired.data import cache
from unpaired.data.folders import MAX_BAD_SHARE, DataTree, find, in_another_format
from unpaired.data.images import open_image, show
from unpaired.errors import DataError, ImageError
from unpaired.files import parallel

log = logging.getLogger("unpaired")
FLAT_LEVELS = 2.0
"""An image whose 64 × 64 reduction has a standard deviation below this many of 255 levels is nearly one colour.
Instance normalisation divides by that deviation, which is how such images make a run non-finite."""
FEW_IMAGES = 50
"""Fewer training images than this are warned about."""
IMBALANCE = 10
"""The largest domain may have this many times the images of the smallest before it is warned about."""
EXTREME_ASPECT = 4
"""Longer side over shorter side above which the crop sees little of an image."""
LISTED = 20
"""Most items of a kind in the text; ``to_dict`` has them all."""


@dataclass(frozen=True)
class FileFacts:
    """What was found out about one file; with a ``reason`` it is unusable, and the rest is empty."""

    split: str
    domain: str
    name: str
    """Relative to the data folder, printable."""
    reason: str | None = None
    """Why it cannot be used."""
    format: str = ""
    mode: str = ""
    """Pillow's name for the stored channels, such as RGB, L, I;16, CMYK."""
    width: int = 0
    """Stored pixels, before EXIF orientation."""
    height: int = 0
    frames: int = 1
    orientation: int = 1
    profile: bool = False
    pixels: str = ""
    """SHA-256 of size and RGB pixels: equal for copies in another format or with other metadata."""
    spread: float = 0.0
    """Standard deviation, in levels of 255, of the 64 × 64 reduction; the largest of the three channels."""
    brightest: int = 255
    """Largest level of 255."""

    @property
    def flat(self) -> bool:
        """Nearly one colour."""
        return self.reason is None and self.spread < FLAT_LEVELS

    @property
    def short(self) -> int:
        """Shorter side in pixels."""
        return min(self.width, self.height)


@dataclass(frozen=True)
class CheckReport:
    """The findings. ``problems`` is what training refuses for, ``warnings`` what a user should know."""

    tree: DataTree
    files: tuple[FileFacts, ...]

    @property
    def bad(self) -> tuple[FileFacts, ...]:
        """The unusable files."""
        return tuple(f for f in self.files if f.reason is not None)

    @property
    def ok(self) -> bool:
        """Whether training would start."""
        return not self.problems

    def good(self, domain: str, split: str) -> list[FileFacts]:
        """The usable files of a domain and split."""
        return [f for f in self.listed.get((split, domain), ()) if f.reason is None]

    @cached_property
    def listed(self) -> dict[tuple[str, str], list[FileFacts]]:
        """(split, domain) -> its files, good and bad."""
        found: dict[tuple[str, str], list[FileFacts]] = defaultdict(list)
        for f in self.files:
            found[f.split, f.domain].append(f)
        return dict(found)

    @cached_property
    def problems(self) -> tuple[str, ...]:
        """Reasons to refuse training, each with what to do."""
        found = []
        for domain in self.tree.domains:
            if not self.good(domain, "train"):
                listed = len(self.tree.files["train", domain])
                what = f"all {listed} files are unusable" if listed else "there are no images"
                found.append(f"domain {domain}: {what}{self._other_formats(domain)}; put training images there")
        bad, total = len(self.bad) + len(self.tree.unreadable), len(self.files) + len(self.tree.unreadable)
        if bad > MAX_BAD_SHARE * total:
            found.append(f"{bad} of {total} files are unusable, more than {MAX_BAD_SHARE:.0%}; mend or remove them")
        return tuple(found)

    def _other_formats(self, domain: str) -> str:
        """Where a domain is empty because a camera wrote a format that is not read, that is said."""
        root, ignored = self.tree.root, [p for p, _ in self.tree.ignored if in_another_format(p)]
        others = [p for p in ignored if domain in p.relative_to(root).parts]
        if not others:
            return ""
        return f" that can be read ({len(others)} are {show(others[0].suffix)}: save them as JPEG or PNG)"

    @cached_property
    def duplicates(self) -> dict[str, list[tuple[str, ...]]]:
        """Groups of files with the same pixels: ``across_domains``, ``across_splits``, or ``within`` one folder."""
        groups: dict[str, list[FileFacts]] = defaultdict(list)
        for f in self.files:
            if f.reason is None:
                groups[f.pixels].append(f)
        found: dict[str, list[tuple[str, ...]]] = {"across_domains": [], "across_splits": [], "within": []}
        for group in groups.values():
            if len(group) > 1:
                domains, splits = {f.domain for f in group}, {f.split for f in group}
                kind = "across_domains" if len(domains) > 1 else "across_splits" if len(splits) > 1 else "within"
                found[kind].append(tuple(f.name for f in group))
        return found

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What does not stop training but may spoil it."""
        return tuple(_warnings(self))

    @cached_property
    def commands(self) -> tuple[str, ...]:
        """Commands that train on this folder."""
        return tuple(_commands(self)) if self.ok else ()

    def require(self) -> None:
        """Raise DataError with all problems when training must refuse."""
        if self.problems:
            lines = [f"{show(self.tree.root)}: {problem}" for problem in self.problems]
            lines += [f"  {f.name}: {f.reason}" for f in self.bad[:5]]
            lines += [f"  … and {len(self.bad) - 5} more"] if len(self.bad) > 5 else []
            raise DataError("\n".join([*lines, "`unpaired check` shows everything."]))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; every file with what is wrong with it."""
        root = self.tree.root
        return {
            "root": show(root),
            "layout": self.tree.layout,
            "ok": self.ok,
            "domains": list(self.tree.domains),
            "splits": {split: {d: _summary(self, split, d) for d in self.tree.domains} for split in ("train", "test")},
            "problems": list(self.problems),
            "warnings": list(self.warnings),
            "notes": list(self.tree.notes),
            "bad": [{"name": f.name, "reason": f.reason} for f in self.bad],
            "flat": [f.name for f in self.files if f.flat],
            "duplicates": {kind: [list(g) for g in groups] for kind, groups in self.duplicates.items()},
            "ignored": [{"name": show(p.relative_to(root)), "reason": r} for p, r in self.tree.ignored],
            "unreadable": [{"name": show(p.relative_to(root)), "reason": r} for p, r in self.tree.unreadable],
            "commands": list(self.commands),
        }

    def text(self) -> str:
        """A plain table and lists, for a terminal of any kind."""
        return "\n".join(_text(self))


def check(path: DataTree | str | os.PathLike[str]) -> CheckReport:
    """Decode every file of a data folder and report.

    Args:
        path: a data folder, or what ``find`` made of it.

    Raises:
        DataError: the layout is not understood. Everything else is in the report.
    """
    tree = path if isinstance(path, DataTree) else find(path)
    files = [(split, *f) for split in ("train", "test") for f in tree.listing(split)]
    # of the code that finds things out, the number in front says when it has changed
    name = cache.key(4, PIL.__version__, tree.fingerprint("train"), tree.fingerprint("test"))
    place = cache.home() / f"{name}.check"
    facts = cache.kept(place)
    if facts is None:
        facts = list(parallel(partial(_examine, tree), files))
        try:
            cache.keep(place, facts)
        except OSError as error:
            log.debug("findings not kept: %s", error)
    return CheckReport(tree, tuple(FileFacts(**f) for f in facts))


def _examine(tree: DataTree, file: tuple[str, str, Path]) -> dict[str, Any]:
    split, domain, path = file
    facts: dict[str, Any] = {"split": split, "domain": domain, "name": show(tree.name(path))}
    try:
        image = open_image(path, facts=facts)
    except ImageError as error:
        return facts | {"reason": error.reason}
    reduced = np.asarray(image.resize((64, 64), Image.Resampling.BOX), np.float64)
    pixels = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
    brightest = int(np.asarray(image).max())
    return facts | {"pixels": pixels, "spread": float(reduced.std(axis=(0, 1)).max()), "brightest": brightest}


# ---- findings --------------------------------------------------------------------------------------------------------


def _span(values: Sequence[int]) -> dict[str, float]:
    return {"min": min(values), "median": median(values), "max": max(values)} if values else {}


def _summary(report: CheckReport, split: str, domain: str) -> dict[str, Any]:
    listed = report.listed.get((split, domain), [])
    good = [f for f in listed if f.reason is None]
    return {
        "listed": len(listed),
        "usable": len(good),
        "bad": len(listed) - len(good),
        "flat": sum(f.flat for f in good),
        "shorter_side": _span([f.short for f in good]),
        "longer_side": _span([max(f.width, f.height) for f in good]),
        "modes": dict(Counter(f.mode for f in good).most_common()),
        "formats": dict(Counter(f.format for f in good).most_common()),
    }


def _some(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _warnings(report: CheckReport) -> Iterable[str]:
    tree = report.tree
    train = {d: report.good(d, "train") for d in tree.domains}
    one = [d for d, files in train.items() if len(files) == 1]
    if one:
        yield f"only one training image in {_some(one)}; the model can only learn to reproduce it"
    few = [f"{d} ({len(files)})" for d, files in train.items() if 1 < len(files) < FEW_IMAGES]
    if few:
        yield f"few training images in {_some(few)}; expect the model to learn them by heart"
    untested = [d for d, files in train.items() if files and not report.good(d, "test")]
    if untested:
        wants = "samples will show training images, and `unpaired evaluate` wants --split train"
        yield f"no test images in {_some(untested)}; {wants}"
    sizes = {d: len(f) for d, f in train.items() if f}
    if sizes and max(sizes.values()) > IMBALANCE * min(sizes.values()):
        least, most = min(sizes, key=lambda d: sizes[d]), max(sizes, key=lambda d: sizes[d])
        counts = f"{least} has {sizes[least]} training images, {most} has {sizes[most]}"
        yield f"{counts}; images of {least} repeat far more often"
    yield from _shared(report, train)
    for kind, what in (("across_splits", "both in train and test"), ("within", "more than once in a domain")):
        groups = report.duplicates[kind]
        if groups:
            yield f"{_images(len(groups))} {what}: {_some(' = '.join(g[:3]) for g in groups)}"
    yield from _odd_files(report)
    yield from _odd_sizes(report, train)
    if tree.unreadable:
        yield f"{len(tree.unreadable)} folders cannot be read: {_some(show(p) for p, _ in tree.unreadable)}"


def _images(count: int) -> str:
    return "1 image is" if count == 1 else f"{count} images are"


def _shared(report: CheckReport, train: Mapping[str, Sequence[FileFacts]]) -> Iterable[str]:
    groups = report.duplicates["across_domains"]
    if not groups:
        return
    pixels = {d: {f.pixels for f in files} for d, files in train.items()}
    domains = report.tree.domains
    alike = [(a, b) for i, a in enumerate(domains) for b in domains[i + 1 :] if pixels[a] and pixels[a] == pixels[b]]
    for a, b in alike:
        yield f"the domains {a} and {b} hold the same images; there is nothing to translate"
    if not alike:
        yield f"{_images(len(groups))} in more than one domain: {_some(' = '.join(g[:3]) for g in groups)}"


def _odd_files(report: CheckReport) -> Iterable[str]:
    good = [f for f in report.files if f.reason is None]
    kinds = (
        ("nearly one colour; they teach nothing and can make training non-finite", [f for f in good if f.flat]),
        ("animations or have several pages; the first is used", [f for f in good if f.frames > 1]),
        (
            "of 16 bits and use less than an eighth of their range, so they are nearly black",  # values of 12 bits, say
            [f for f in good if f.mode.startswith("I") and f.brightest < 32],
        ),
        ("embedding a colour profile, which is ignored (pixels are taken as sRGB)", [f for f in good if f.profile]),
    )
    for what, files in kinds:
        if files:
            yield f"{len(files)} images are {what}: {_some(f.name for f in files)}"


def _odd_sizes(report: CheckReport, train: Mapping[str, Sequence[FileFacts]]) -> Iterable[str]:
    def grey(f: FileFacts) -> bool:
        return f.mode in ("1", "L", "LA", "I", "F") or f.mode.startswith("I;")

    share = {d: sum(map(grey, files)) / len(files) for d, files in train.items() if files}
    if share and min(share.values()) < 0.1 and max(share.values()) > 0.9:
        pale, colour = max(share, key=lambda d: share[d]), min(share, key=lambda d: share[d])
        yield f"the images of {pale} are grey, those of {colour} are not; the model will learn to add or remove colour"
    for domain, files in train.items():
        long = [f for f in files if max(f.width, f.height) > EXTREME_ASPECT * f.short]
        if long:
            what = f"{len(long)} images of {domain} are more than {EXTREME_ASPECT} times as long as wide"
            yield f"{what}; square crops see little of them: {_some(f.name for f in long)}"
    medians = {d: median(f.short for f in files) for d, files in train.items() if files}
    if medians and max(medians.values()) > 2 * min(medians.values()):
        small, large = min(medians, key=lambda d: medians[d]), max(medians, key=lambda d: medians[d])
        sizes = f"images of {small} are {medians[small]:g} pixels wide (median), those of {large} {medians[large]:g}"
        yield f"{sizes}; after the resize one domain is blurred and the other sharp, which the model will learn"


def _commands(report: CheckReport) -> Iterable[str]:
    """One command for each method that fits; sizes from the images, so that nothing is enlarged."""
    tree, place = report.tree, report.tree.root.resolve()
    short = int(median(f.short for d in tree.domains for f in report.good(d, "train")))
    size = next((s for s in (256, 128, 64, 32) if s <= short), 16)
    runs = place.parent / "runs" if Path.cwd().is_relative_to(place) else Path("runs")  # never among the images
    name = show(runs / (place.name or "data"))
    full, reduced, gan = (shlex.quote(name + ending) for ending in ("", "-small", "-gan"))
    root = shlex.quote(show(tree.root) if not str(tree.root).startswith("-") else f"./{show(tree.root)}")
    if len(tree.domains) == 2:
        smaller = _sizes(min(size, 64), short)
        quick = "quick" if size >= 32 else "unit-small"
        yield f"unpaired train {root} --preset {quick} --out {reduced} {smaller}  # minutes, without a GPU"
        yield f"unpaired train {root} --method unit --out {full} {_sizes(size, short)}  # full width, for a GPU"
    elif size >= 32:  # a GAN of all domains, from which deepi2i starts
        yield f"unpaired pretrain {root} --out {gan} --set data.size={min(size, 128)}"
        yield f"unpaired train {root} --method deepi2i --pretrained {gan} --out {full}"


def _sizes(size: int, short: int) -> str:
    """Options for a crop of ``size`` from images of shorter side ``short``, with CycleGAN's room for the crop."""
    larger = max(size, min(short, round(size * 286 / 256)))
    return f"--set data.size={size} --set data.resize={larger}"


def _text(report: CheckReport) -> Iterable[str]:
    tree = report.tree
    yield f"{show(tree.root)}  (layout: {tree.layout}, {len(tree.domains)} domains, {len(report.files)} files)"
    yield from tree.notes
    yield ""
    yield from _table(report)
    bad = [(f.name, str(f.reason)) for f in report.bad]
    sections = (("Cannot be used", bad), ("Ignored", [(show(p.relative_to(tree.root)), r) for p, r in tree.ignored]))
    for title, items in sections:
        if items:
            yield f"\n{title} ({len(items)}):"
            yield from (f"  {name}: {reason}" for name, reason in items[:LISTED])
            if len(items) > LISTED:
                yield f"  … and {len(items) - LISTED} more (--json lists all)"
    if report.warnings:
        yield "\nWarnings:"
        yield from (f"  {w}" for w in report.warnings)
    if report.problems:
        yield "\nTraining would refuse:"
        yield from (f"  {p}" for p in report.problems)
    elif report.commands:
        yield "\nTrain with:"
        yield from (f"  {c}" for c in report.commands)
    else:
        what = f"{len(tree.domains)} domains of so small images"
        yield f"\nNo method here trains on {what}; put two of them into a folder of their own."


def _table(report: CheckReport) -> Iterable[str]:
    rows: list[tuple[str, ...]] = [("split", "domain", "images", "bad", "flat", "shorter side", "channels", "formats")]
    for split in ("train", "test"):
        for domain in report.tree.domains:
            s = _summary(report, split, domain)
            side = s["shorter_side"]
            span = f"{side['median']:g} ({side['min']}–{side['max']})" if side else "–"
            mixes = (" ".join(f"{k}:{v}" for k, v in s[m].items()) or "–" for m in ("modes", "formats"))
            rows.append((split, domain, str(s["usable"]), str(s["bad"]), str(s["flat"]), span, *mixes))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
