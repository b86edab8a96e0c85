"""The report of a run, of a model, or of results: gathers, translates, measures, and has the sections written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unpaired.data.check import check
from unpaired.data.images import to_tensor
from unpaired.errors import CheckpointError, ConfigError, DataError
from unpaired.evaluation.classifier import Classifier, load_classifier
from unpaired.files import check_output
from unpaired.report import looks, words
from unpaired.report.gather import Subject, gather, open_pictures
from unpaired.report.looks import Job, Sight
from unpaired.report.page import Report
from unpaired.report.sections import EXTREMES, sections
from unpaired.training.log import Reporter, Watch
from unpaired.translate.translator import Translator

MAX_DIRECTIONS = 6
"""Directions that are shown in full; a model of many classes has the grid of every class besides."""
MANY_DIRECTIONS = 3
"""The same for a model of more than two domains."""
LEAST_OF_INPUT = 0.1
"""Where two inputs change random outputs by less than this share of what two noises do, the page warns."""
WATCH_LEAST = 2
"""Translations that the watch needs for its judgement."""


def write_report(
    *paths: Path | str,
    out: Path | str = "report.html",
    data: Sequence[str] = (),
    images: int = 8,
    limit: int = 120,
    weights: Path | str | None = None,
    classifier: Path | str | None = None,
    seed: int = 0,
    device: str = "auto",
    quiet: bool = True,
) -> Path:
    """Write one self-contained HTML page about a run, a model, or results; its path.

    Args:
        paths: at most one run folder (or model file, or what ``adapt`` left), and any number of results.json.
        data: the folder of the images, or DOMAIN=PATH for each domain; the run's own where it is not given.
        images: held-out images shown for each direction.
        limit: images of each domain for the map of features and the failure gallery; twice as many training images are
            searched for nearest neighbours.
        weights: file or folder with the weights of the feature network (MobileNet v1); without them three sections say so.
        classifier: file that judges translations for the failure gallery; that of an adaptation run is found by itself.
        seed: of random outputs and of the map.

    Raises:
        DataError, CheckpointError, ConfigError: a path is none of these, or what was named cannot be used (``out`` among it).
        WeightsError: ``weights`` was given and is not usable.
    """
    if images < 1 or limit < 2:
        raise ConfigError(f"images = {images}, limit = {limit}: at least 1 and 2")
    check_output(out, "report.html")
    say = Reporter(1, 0, quiet=quiet).say
    subject = gather([Path(p) for p in paths], device=device)
    translator = subject.translator
    sight = looks.open_sight(weights, translator.device) if translator else Sight()
    page = Report(words.title(subject), kicker=words.kicker(subject))
    job = Job(page, subject, images, limit, seed, sight)
    if classifier is not None or subject.classifier is not None:
        job.classifier = _classifier(classifier, subject)
    if translator is not None and subject.config is not None:
        job.pictures = open_pictures(data, subject, translator.domains, [a for a, _ in directions(translator)])
        _doctor(job, say)
        _look(job, say)
    elif data:
        subject.missing.append("--data was given, but without a model there is nothing to translate.")
    say("writing the page")
    sections(job, _command(paths, out, data, images, limit, weights, classifier, seed))
    return page.write(out)


def directions(translator: Translator) -> list[tuple[str, str]]:
    """The directions that are shown in full: a few from different sources where there are many."""
    domains = translator.domains
    most = MAX_DIRECTIONS if len(domains) <= 2 else MANY_DIRECTIONS
    found = list(translator.directions)
    if len(found) <= most or translator.method.from_noise:
        return found[:most]
    spread = [(d, domains[(i + 1) % len(domains)]) for i, d in enumerate(domains)]
    return [d for d in spread if d in set(found)][:most]


def _classifier(given: Path | str | None, subject: Subject) -> Classifier | None:
    path = given if given is not None else subject.classifier
    assert path is not None
    try:
        return load_classifier(path)
    except CheckpointError as error:
        if given is not None:
            raise
        subject.missing.append(f"The classifier is left out: {error}")
        return None


def _doctor(job: Job, say: Any) -> None:
    if job.pictures is not None and job.pictures.tree is not None:
        say("looking at the data")
        try:
            job.doctor = check(job.pictures.tree, job.pictures.config)
        except DataError as error:
            job.subject.missing.append(f"The data could not be looked at: {error}")


def _look(job: Job, say: Any) -> None:
    """Translate, and measure what is shown."""
    pictures, translator = job.pictures, job.translator
    if pictures is None or translator is None:
        return
    watch = Watch()
    for source, target in directions(translator):
        if source not in pictures.held_out:
            continue
        say(f"making images of {target}" if translator.method.from_noise else f"translating {source} to {target}")
        shown = pictures.some(source, job.images)
        job.sheets[source, target] = looks.sheet(translator, shown, source, target, seed=job.seed)
        inputs, noises = looks.follows_noise(job.sheets[source, target], target)
        if inputs < LEAST_OF_INPUT * noises:
            job.warnings.append(
                f"{source} → {target}: the results follow the random noise and hardly the input. Two inputs with the same noise give results "
                f"that differ by {inputs:.1f} of 255 levels on average, one input with two noises {noises:.1f}."
            )
        judged = (
            job.subject.classifier is None or target == translator.domains[-1]
        )  # that of an adaptation knows its target
        found = looks.measure(
            translator, pictures, source, target, job.sight, limit=job.limit, shown=min(EXTREMES, job.images), seed=job.seed,
            classifier=job.classifier if judged else None,
        )  # fmt: skip
        job.measured.append(found)
        bad = int((~found.finite).sum())
        if bad:
            job.warnings.append(
                f"{found.name}: {bad} of {len(found.finite)} {'images' if found.from_noise else 'translations'} are not finite (NaN or infinity)."
            )
        if found.finite.sum() >= WATCH_LEAST:
            x, y = (to_tensor(p[found.finite]) for p in (found.inputs, found.outputs))
            said = watch.sampled(x, y, (source, target))
            job.warnings += [w.rstrip(".").replace(f"{source} → {target}", found.name) + "." for w in said]


def _command(
    paths: Sequence[Path | str], out: Path | str, data: Sequence[str], images: int, limit: int, weights: Path | str | None,
    classifier: Path | str | None, seed: int,
) -> str:  # fmt: skip
    """The command that writes this very report."""
    parts = ["unpaired", "report", *map(str, paths), "--out", str(out)]
    for value in data:
        parts += ["--data", value]
    defaults = (("--images", images, 8), ("--limit", limit, 120), ("--seed", seed, 0))
    parts += [text for name, value, default in defaults if value != default for text in (name, str(value))]
    for name, given in (("--weights", weights), ("--classifier", classifier)):
        if given is not None:
            parts += [name, str(given)]
    return words.quoted(parts)
