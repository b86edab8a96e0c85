"""Sections of pictures: before and after, translations, images from noise, how they were learnt."""

from __future__ import annotations

from typing import Any

import numpy as np

from unpaired.report import looks, words
from unpaired.report.gather import Pictures
from unpaired.report.job import Job
from unpaired.report.page import Pair
from unpaired.training import MAX_SHEET_DIRECTIONS
from unpaired.translation import Translator

MAX_SLIDERS = 6
"""Images in "Before and after", of all directions together."""
CLASSES_A_LINE = 12
"""Columns in the grid of every class. With more classes there is one input, over several lines."""
CLASS_ROWS = 12
"""Inputs in that grid."""


def before_after(job: Job) -> None:
    """A few sliders of input and translation."""
    if job.from_noise:
        return
    each = max(1, MAX_SLIDERS // max(1, len(job.sheets)))
    pairs = []
    for (source, target), rows in job.sheets.items():
        inputs = rows[f"input: {source}"]
        after = next(v for k, v in rows.items() if k.startswith(f"as {target}"))
        pairs += [
            Pair(inputs[i], after[i], (source, f"as {target}"), f"{job.split_of(source)} image {i + 1} of {source}")
            for i in range(min(each, len(inputs)))
        ]
    if pairs:
        job.page.section("Before and after")
        job.page.compare(pairs, caption="Move the line with the mouse, a finger, or the arrow keys.")


def translations(job: Job) -> None:
    """Sheets of every direction, every class of a model of many, and how they were learnt."""
    subject, page = job.subject, job.page
    if not job.sheets and not subject.samples:
        return
    if job.from_noise:
        _from_noise(job)
        return
    page.section("Translations")
    if job.translator is not None and len(job.translator.domains) > 2 and job.pictures is not None:
        _every_class(job, job.translator, job.pictures)
        job.page.heading("A few directions in full")
    for (source, target), rows in job.sheets.items():
        kind = job.split_of(source)
        caption = f"{source} to {target}: {len(rows[f'input: {source}'])} {kind} images, evenly over the {kind} set."
        if job.translator is not None and job.translator.method.stochastic:
            caption += " The outputs are random: within a row all inputs have the same noise, and the rows differ in their noise alone."
        page.sheet(rows, alt=f"{kind} {source} image", caption=caption)
    _progress(job)


def _from_noise(job: Job) -> None:
    """Of a method that makes images of noise alone: rows of them, every class from the same noise, how they were learnt."""
    page, translator = job.page, job.translator
    assert translator is not None
    page.section("Images from noise")
    sheets = {target: rows for (_, target), rows in job.sheets.items()}
    first = next(iter(sheets.values()), {})
    alike = len(sheets) > 1 and all(
        np.array_equal(rows[name], first[name]) for rows in sheets.values() for name in first
    )
    if alike:
        page.text("The model does not tell its domains apart: the same noise gives the same image for each of them.")
        sheets = {f"{words.some(translator.domains)} alike": first}
    elif len(translator.domains) > 2 and job.pictures is not None:
        page.heading("Every class")
        _classes_from_noise(job, translator, job.pictures)
        page.heading("A few domains in full")
    for target, rows in sheets.items():
        caption = f"{target}: every picture from noise of its own."
        if len(rows) > looks.SAMPLES:
            caption += " The first rows, down to the finished one, are the same images at the method's levels."
        page.sheet(rows, alt=f"{target} from noise", caption=caption)
    _progress(job)


def _every_class(job: Job, translator: Translator, pictures: Pictures) -> None:
    """Every domain of the model: a square of sources and targets where they fit on a line, else one input as all of them."""
    domains = translator.domains
    fits = len(domains) <= CLASSES_A_LINE
    sources = [d for d in domains if d in pictures.held_out and any(a == d for a, _ in translator.directions)]
    job.page.heading("Every class")
    rows: dict[str, Any] = {}
    for source in sources[: CLASS_ROWS if fits else 1]:
        image = pictures.some(source, 1)
        if not len(image):
            continue
        found = looks.every_class(translator, image[0], source, seed=job.seed)
        if fits:
            empty = np.full_like(image[0], 128)
            rows[f"from {source}"] = np.stack([image[0] if d == source else found.get(d, empty) for d in domains])
            continue
        names = list(found)
        for first in range(0, len(names), CLASSES_A_LINE):
            part = names[first : first + CLASSES_A_LINE]
            last = first + len(part)
            job.page.sheet(
                {"": np.stack([image[0], *(found[n] for n in part)])}, heads=[f"input: {source}", *part],
                alt=f"One {source} image as every class",
                caption=f"One {job.split_of(source)} image of {source} as every class: {first + 1} to {last} of {len(names)}.",
            )  # fmt: skip
    if rows:
        caption = (
            "One image of each class in a row, as every class. In the column of its own class stands the image itself."
        )
        if len(rows) < len(sources):
            caption += f" The first {len(rows)} of {len(sources)} classes as inputs."
        job.page.sheet(rows, heads=domains, alt="One image as every class", caption=caption)


def _classes_from_noise(job: Job, translator: Translator, pictures: Pictures) -> None:
    domains = translator.domains
    image = pictures.some(next(d for d in domains if d in pictures.held_out), 1)  # of it the size alone counts
    for first in range(0, len(domains), CLASSES_A_LINE):
        part = domains[first : first + CLASSES_A_LINE]
        rows = {
            f"noise {n + 1}": np.concatenate(
                [looks.translate(translator, image, d, d, seed=job.seed + n)[0] for d in part]
            )
            for n in range(looks.SAMPLES if len(domains) <= CLASSES_A_LINE else 1)
        }
        job.page.sheet(
            rows, heads=part, alt="One noise as every class", caption=f"The same noise as every class: {first + 1} to {first + len(part)} of {len(domains)}.",
        )  # fmt: skip


def _progress(job: Job) -> None:
    subject = job.subject
    if not subject.samples or subject.config is None:
        return
    side = subject.config.data.size
    if job.translator is not None and job.translator.directions:
        rows = min(len(job.translator.directions), MAX_SHEET_DIRECTIONS)
        source, target = job.translator.directions[0]
        found = looks.progress(subject.samples, rows, side)
        if len(found) > 2:
            alt = f"Fixed {source} image as {target} while training"
            caption = f"The same images of {source} as {target} over the steps, from the sheets that training left."
            if job.from_noise:
                del found["input"]
                alt, caption = (
                    f"{target} from fixed noise while training",
                    f"{target} from the same noise over the steps, from the sheets that training left.",
                )
            job.page.heading("How it was learnt")
            job.page.sheet(found, alt=alt, caption=caption)
            return
    found = looks.last_sheet(subject.samples, side)
    if found and not job.sheets:
        job.page.sheet(
            found,
            alt="Sample sheet of the run",
            caption="The last sheet that training left: inputs above their translations.",
        )
