"""What a report is about: a run folder, a model file, results of `unpaired evaluate` or `unpaired adapt`, and the
images.

Everything that is not there, or cannot be read, becomes a plain sentence in ``missing``; only a path that is nothing
of the kind is refused.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unpaired.config import DataConfig, RunConfig
from unpaired.data.folders import DataTree, find
from unpaired.data.images import Pixels, show
from unpaired.data.labelled import open_unlabelled
from unpaired.data.sampling import Pool, centre_crops, hold_out, open_pool
from unpaired.errors import CheckpointError, ConfigError, DataError, ImageError, nearest
from unpaired.evaluation.results import check_results, read_json
from unpaired.machine import shapes_only
from unpaired.methods import run_from
from unpaired.training.log import FILE as ORIGIN
from unpaired.translate.translator import Translator, load

BEST = "best/best.json"
"""Of a run that looked at held-out images while training: step and value of its best checkpoint, and of the last."""
_SAMPLE = re.compile(r"step-(\d+)\.png$")


@dataclass
class Subject:
    """All that was found at the given paths."""

    path: Path | None = None
    """As given: a run folder, or a model file."""
    folder: Path | None = None
    """The run's folder: log, samples, settings."""
    translator: Translator | None = None
    config: RunConfig | None = None
    log: list[dict[str, Any]] = field(default_factory=list)
    samples: list[tuple[int, Path]] = field(default_factory=list)
    """(step, sheet), by step."""
    origin: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    """What the run says of its best checkpoint, where it looked at held-out images while training."""
    crashes: list[dict[str, Any]] = field(default_factory=list)
    adaptation: dict[str, Any] | None = None
    """results.json of `unpaired adapt`."""
    classifier: Path | None = None
    results: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """(name, results of `unpaired evaluate`)."""
    missing: list[str] = field(default_factory=list)
    """What cannot be shown and why, a sentence each."""

    @cached_property
    def steps_in_all(self) -> int | None:
        """Steps of all stages of the run; None where the model, which has the plan, is not there."""
        if self.translator is None or self.config is None:
            return None
        method = self.translator.method
        with shapes_only():  # the plan names networks that a model to be used lacks
            whole = type(method)(
                self.config.model, method.domains, image_size=method.image_size, classes=method.classes
            )
        return sum(stage.steps for stage in whole.stages())


def gather(paths: Sequence[Path], *, device: str = "cpu") -> Subject:
    """Read what the paths hold: at most one run or model, any number of results.

    Raises:
        DataError: a path that is none of these, or a second run.
    """
    subject = Subject()
    if not paths:
        raise DataError("nothing to report on; give a run folder, a model file, or results.json of `unpaired evaluate`")
    for path in paths:
        if path.suffix.lower() == ".json" and not path.is_dir():
            _add_results(subject, path)
            continue
        if subject.path is not None:
            raise DataError(
                f"{path}: a report is about one run; {subject.path} is there already. To compare runs, evaluate each "
                "and give the results: unpaired evaluate RUN DATA --out results.json"
            )
        subject.path = path
        _add_run(subject, path, device)
    return subject


def _add_results(subject: Subject, path: Path) -> None:
    found = read_json(path)
    if isinstance(found, dict) and isinstance(found.get("directions"), list):
        check_results(found, show(path))
        name = path.stem if path.stem != "results" else (path.resolve().parent.name or path.stem)
        subject.results.append((name, found))
    elif isinstance(found, dict) and "recipe" in found and "counts" in found:
        subject.adaptation = found
    else:
        raise DataError(f"{path}: not results of `unpaired evaluate` or `unpaired adapt`: it has no list 'directions'")


def _add_run(subject: Subject, path: Path, device: str) -> None:
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder; give a run folder, a model file, or results.json")
    folder = path
    if path.is_dir() and not _is_run(path) and _is_run(path / "run"):  # what `unpaired adapt` leaves
        folder = path / "run"
        if (path / "classifier.safetensors").is_file():
            subject.classifier = path / "classifier.safetensors"
    is_run = folder.is_dir() and _is_run(folder)
    try:
        translator = load(folder, device=device)
        subject.config = run_from(translator.header["config"])
        translator.check_translates()
        subject.translator = translator
    except (CheckpointError, ConfigError, KeyError) as error:
        if not is_run or not (folder / "log.jsonl").is_file():
            raise
        subject.missing.append(f"The model cannot be loaded, so there are no translations: {error}")
    if not is_run:
        return
    subject.folder = folder
    subject.log = read_log(folder / "log.jsonl")
    found = ((_SAMPLE.search(p.name), p) for p in (folder / "samples").glob("step-*.png"))
    subject.samples = sorted((int(m[1]), p) for m, p in found if m)
    for place in dict.fromkeys((path, folder)):
        subject.origin |= _note(place / ORIGIN)
        try:
            if (place / "results.json").is_file():
                _add_results(subject, place / "results.json")
        except DataError as error:
            subject.missing.append(f"Left out: {error}")
    subject.best = _note(folder / BEST)
    subject.crashes = [note for crash in sorted(folder.glob("crash-step-*.json")) if (note := _note(crash))]


def _is_run(folder: Path) -> bool:
    return (folder / "checkpoints").is_dir() or (folder / "log.jsonl").is_file()


def _note(path: Path) -> dict[str, Any]:
    """Read a note beside the run; without it less is said."""
    try:
        found = read_json(path)
    except DataError:
        return {}
    return found if isinstance(found, dict) else {}


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a run's log that are whole, by step; empty when there is none."""
    lines: dict[float, dict[str, Any]] = {}
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            lines[float(entry["step"])] = entry
        except (ValueError, KeyError, TypeError):
            continue  # cut by a kill, or being written now
    return [lines[step] for step in sorted(lines)]


# ---- images ----


@dataclass
class Pictures:
    """The images of a model's domains."""

    held_out: dict[str, Pool]
    train: dict[str, Pool]
    """What was trained on: without the images that were held out to look at while training."""
    config: DataConfig
    where: str
    """The data's path, as given."""
    same: bool | None = None
    """Whether they are the images that the model was trained on; None where nobody can tell."""
    tree: DataTree | None = None
    seen: tuple[str, ...] = ()
    """Domains without held-out images: training images are shown instead."""
    looked_at: dict[str, int] = field(default_factory=dict)
    """Images of the training split by domain that were held out to look at while training (``--during-training``)."""

    def some(self, domain: str, count: int, *, train: bool = False) -> Pixels:
        """Open at most ``count`` images, evenly over the domain, uint8 [n, S, S, 3]; unreadable ones are left out."""
        pool = (self.train if train else self.held_out)[domain]
        total = pool.count(domain)
        crops = []
        for index in dict.fromkeys(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()):
            try:
                crops.append(centre_crops(pool, domain, [index], self.config)[0])
            except ImageError:
                continue
        size = self.config.size
        return np.stack(crops) if crops else np.zeros((0, size, size, 3), np.uint8)


def open_pictures(
    data: Sequence[str], subject: Subject, domains: Sequence[str], sources: Sequence[str]
) -> Pictures | None:
    """Open the images at ``data`` (PATH, or several DOMAIN=PATH), or else where the run says that it was trained.

    None with a sentence in ``subject.missing`` where they are not there. What the user named is refused with
    DataError when it cannot be used.
    """
    origin = subject.origin.get("data")
    known = [origin] if isinstance(origin, str) else [f"{d}={p}" for d, p in (origin or {}).items()]
    try:
        if data or known:
            return _open(
                list(data) or known, subject, domains, sources, {} if data else subject.origin.get("held_out") or {}
            )
        subject.missing.append(
            "Nothing says where the images are, so there are no translations of held-out images; give them with --data "
            "DATA."
        )
    except DataError as error:
        if data:
            raise
        subject.missing.append(
            f"The images are not where the run was trained, so there are no translations of held-out images: {error}. "
            "If they were moved, give their new place with --data DATA."
        )
    return None


def _open(
    data: Sequence[str], subject: Subject, domains: Sequence[str], sources: Sequence[str], held_out: Mapping[str, str]
) -> Pictures:
    assert subject.config is not None
    config = subject.config.data.model_copy(update={"cache": False})
    parts = [d.partition("=") for d in data]
    if len(data) == 1 and (not parts[0][1] or Path(data[0]).exists()):
        return _open_tree(Path(data[0]), config, subject, domains)
    strange = [name for name, equals, _ in parts if not equals or name not in domains]
    if strange:
        raise DataError(
            f"--data {strange[0]}: give one folder, or DOMAIN=PATH for each of "
            f"{', '.join(domains)}.{nearest(strange[0], domains)}"
        )
    found = Pictures({}, {}, config, " ".join(data))
    for domain, _, place in parts:
        train, test = _open_part(place, config, domain)
        if held_out.get(domain):
            test = open_unlabelled(held_out[domain], config, domain, None)
        if train is not None:
            found.train[domain] = train
        found.held_out[domain] = test or train  # type: ignore[assignment]  # one of them is there
        found.seen += () if test else (domain,)
    lacking = [d for d in sources if d not in found.held_out]
    if lacking:
        raise DataError(f"--data: no images of {', '.join(lacking)}; add --data {lacking[0]}=PATH")
    return found


def _open_part(place: str, config: DataConfig, domain: str) -> tuple[Pool | None, Pool | None]:
    """Open training and test images of one domain at ``place``; at least one of them. Raises DataError."""
    test: Pool | None = None
    with contextlib.suppress(DataError):  # no splits there
        test = open_unlabelled(place, config, domain, "test")
    try:
        return open_unlabelled(place, config, domain, None), test
    except DataError:
        if test is None:
            raise
        return None, test


def _open_tree(path: Path, config: DataConfig, subject: Subject, domains: Sequence[str]) -> Pictures:
    tree = find(path, least=min(2, len(domains)))
    lacking = [d for d in domains if d not in tree.domains]
    if lacking:
        raise DataError(
            f"{path}: no domain {', '.join(lacking)}, which the model knows; it has: {', '.join(tree.domains)}"
        )
    train: Pool = open_pool(tree, config, split="train")
    seen = tuple(d for d in tree.domains if not tree.files["test", d])  # open_pool wants a split whole
    held = train if seen else open_pool(tree, config, split="test")
    looked_at: dict[str, int] = {}
    settings = subject.config.training if subject.config else None
    if settings is not None and settings.validate_every is not None:  # it was trained on a part of these images
        train, looks = hold_out(train, settings.validate_share, settings.validate_images)
        looked_at = {d: looks.count(d) for d in tree.domains}
    known = subject.translator.header.get("data_fingerprint") if subject.translator else None
    return Pictures(
        dict.fromkeys(tree.domains, held), dict.fromkeys(tree.domains, train), config, str(path),
        train.fingerprint == known if known else None, tree, seen, looked_at,
    )  # fmt: skip
