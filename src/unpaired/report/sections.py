"""The sections of the report of a run, of a model, or of results, in their order, from what :mod:`gather` found and :mod:`looks`
computed.

A section that cannot be shown says why in the page; it never stops the report.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unpaired.evaluation.distances import share_interval
from unpaired.report import figures, looks, words
from unpaired.report.charts import Dot, Panel, interval_panel, line_panel, scatter_panel
from unpaired.report.gather import Pictures
from unpaired.report.looks import Job
from unpaired.report.page import Card, Cell, Pair
from unpaired.training.loop import MAX_SHEET_DIRECTIONS
from unpaired.translate.translator import Translator

# ----------------------------------------------------------------------------------------------------
# Sections of what a feature network and a classifier find: the map, nearest training images, where to look for failures.

EXTREMES = 4
"""Images of each kind in the failure gallery."""


def feature_map(job: Job) -> None:
    """t-SNE of source, target and translations."""
    if not job.measured:
        return
    job.page.section("Map of features")
    panels = []
    for m in job.measured:
        if m.map:
            alt = f"Map of {', '.join(f'{len(p)} images {n}' for n, p in m.map.items())}"
            panels.append(scatter_panel(m.name, m.map, alt=alt))
        else:
            job.page.note(f"{m.name}: no map: {m.map_missing or job.sight.why}")
    if panels:
        good = (
            "good ones lie among the real images"
            if job.from_noise
            else "good translations lie among the target's images"
        )
        job.page.panels(
            panels,
            caption=f"t-SNE of {looks.NETWORK} features, one map for each {'domain' if job.from_noise else 'direction'}. Near points are images "
            f"that the network finds alike; {good}. Sizes of clusters and distances between them mean nothing.",
        )


def neighbours(job: Job) -> None:
    """Each translation beside the training images of its target that it is nearest to."""
    if not job.measured:
        return
    page = job.page
    page.section("Nearest training images")
    if job.sight.layers is None:
        page.note(f"No neighbours: {job.sight.why}")
        return
    what = "An image from noise" if job.from_noise else "A translation"
    page.text(
        f"{what} that equals a training image was learnt by heart. The number below each neighbour is its distance, 0 for equal ones: the "
        f"{looks.PERCEPTUAL}."
    )
    for m in job.measured:
        cards = []
        for number, (x, y, near, distances) in enumerate(m.neighbours, start=1):
            ours = {"from noise": y} if m.from_noise else {"input": x, f"as {m.target}": y}
            shown = ours | {f"nearest {i}": p for i, p in enumerate(near, start=1)}
            notes = {f"nearest {i}": f"{d:.2f}" for i, d in enumerate(distances, start=1)}
            cards.append(
                Card(
                    shown,
                    "",
                    f"{m.target} from noise {number}" if m.from_noise else f"{m.source} image {number}",
                    notes,
                )
            )
        if cards:
            page.gallery(
                cards,
                wide=True,
                caption=f"{m.name}: each with the nearest of {m.references} training images of {m.target}.",
            )
        else:
            page.note(f"{m.name}: no training images of {m.target} are there to compare with.")


def failures(job: Job) -> None:
    """Translations that changed the most, the least, and those that a classifier is least sure of."""
    if not job.measured or (job.from_noise and job.classifier is None):
        return
    page = job.page
    page.section("Where to look for failures")
    if not job.from_noise:
        page.text(
            f"The number below each pair is how far input and translation are apart, 0 for equal ones: the {job.measured[0].change_name}."
        )
    for m in job.measured:
        kinds = [("changed the most", looks.extremes(m.change, EXTREMES, largest=True), m.change, "change")]
        kinds.append(("changed the least", looks.extremes(m.change, EXTREMES, largest=False), m.change, "change"))
        if m.confidence is not None:
            picked = looks.extremes(m.confidence, EXTREMES, largest=False)
            kinds.append(("least sure for the classifier", picked, m.confidence, "confidence"))
        page.heading(m.name)
        for kind, picked, values, what in kinds:
            cards = []
            for i in picked:
                chosen = f", taken for {m.classes[i]}" if what == "confidence" else ""
                text = f"{what} {values[i]:.3f}{chosen}"
                cards.append(
                    Card(
                        {"from noise": m.outputs[i]}
                        if m.from_noise
                        else {"input": m.inputs[i], f"as {m.target}": m.outputs[i]},
                        text,
                        f"{kind}, {m.name}, image {i + 1}",
                    )
                )
            if cards:
                among = "images" if m.from_noise else f"{job.split_of(m.source)} images"
                page.gallery(cards, caption=f"{kind[:1].upper()}{kind[1:]}, of {len(m.inputs)} {among}.")
    if job.classifier is None:
        page.note(
            "The translations that a classifier is least sure of are not shown, because none was given; give one with --classifier FILE."
        )


# ----------------------------------------------------------------------------------------------------
# Sections of figures: those of `unpaired evaluate`, and those of `unpaired adapt`.


def metrics(job: Job) -> None:
    """Every result with its charts, table and origin; several of them side by side first."""
    named = job.subject.results
    if not named:
        if job.translator is not None and job.translator.directions:
            model, data = words.model_and_data(job.subject, job.pictures)
            job.page.section("Metrics").note(
                "No results were given. Distances with intervals and N come from: "
                f"unpaired evaluate {model} {data} --out results.json; give that file to `unpaired report` beside the run."
            )
        return
    job.page.section("Metrics")
    if len(named) > 1:
        panels, left_out = figures.compare_panels(named)
        if panels:
            job.page.panels(panels, caption="The results side by side, with 95 % intervals where there are any.")
        for line in left_out:
            job.page.note(line, warning=True)
    for name, results in named:
        if len(named) > 1:
            job.page.heading(name)
        _one_result(job, results, "")
        best = results.get("best")
        if isinstance(best, dict) and isinstance(best.get("directions"), list):
            job.page.heading(f"{name}: the run's best checkpoint")
            _one_result(job, best, " Best checkpoint, chosen on the validation split.")


def _one_result(job: Job, results: dict[str, Any], about: str) -> None:
    page = job.page
    panels: list[Panel] = figures.distance_panels(results)
    if panels:
        page.panels(
            panels[:8],
            caption=f"Distances to the target's real images, with 95 % intervals where there are any; less is better.{about}",
        )
    header, rows, notes, groups = figures.table(results)
    page.table(
        header, rows, notes=notes, groups=groups,
        caption=f"Each measure with its N (generated / real); below the value its [95 % interval], or ± its standard deviation. ↓ less is better, ↑ more is.{about}",
    )  # fmt: skip
    remarks = [str(w) for w in results.get("warnings") or ()]
    if remarks:
        page.items(remarks)
    for counts, labels, caption in figures.confusions(results):
        page.confusion(np.array(counts), labels, caption=caption)
    origin = figures.provenance(results)
    if origin:
        text = "\n".join(f"{k}: {v}" for k, v in origin)
        page.details("Where these figures come from", text)


def adaptation(job: Job) -> None:
    """What `unpaired adapt` found: accuracies, how they grew, confusion tables."""
    found = job.subject.adaptation
    if found is None:
        return
    page = job.page
    page.section("Classifier for the unlabelled target")
    names = {
        "source_only": "source only",
        "last": "adapted, last",
        "best": f"adapted, best ({found.get('selection', '')})",
    }
    scores = {names[k]: found[k] for k in names if isinstance(found.get(k), dict)}
    counts = ", ".join(f"{n:,} {k.replace('_', ' ')}" for k, n in found["counts"].items())
    page.text(f"Recipe {found['recipe']} with {found.get('method')}, seed {found.get('seed')}. Images: {counts}.")
    if not scores:
        page.note("There are no accuracies: no labelled target images were given with --test.")
        return
    rows: list[list[Cell]] = []
    dots = []
    for colour, (name, score) in enumerate(scores.items()):
        low, high = share_interval(score["accuracy"], score["n"])
        rows.append([name, f"{score['accuracy']:.4f} [{low:.4f}, {high:.4f}]", score["n"]])
        dots.append(Dot(name.split(" (")[0], score["accuracy"], (low, high), colour))
    panels = [interval_panel("accuracy", dots)]
    history = [h for h in found.get("history") or () if isinstance(h, dict) and "step" in h]
    keys = [k for k in dict.fromkeys(k for h in history for k in h) if k != "step"]
    if len(history) > 1 and keys:
        lines = {
            k.replace("_", " "): ([h["step"] for h in history], [float(h.get(k, "nan")) for h in history]) for k in keys
        }
        title = f"{next(iter(lines))}, while training" if len(lines) == 1 else "while training"
        panels.append(line_panel(title, lines))
    page.panels(
        panels, caption="Accuracy on labelled target images that nothing was trained on; 95 % intervals after Wilson."
    )
    page.table(["classifier", "accuracy", "N"], rows, caption="One seed; [95 % interval].")
    if names["best"] in scores and names["last"] in scores and scores[names["best"]] == scores[names["last"]]:
        scores.pop(names["best"], None)
    for name, score in scores.items():
        page.confusion(
            np.array(score["confusion"]),
            found["classes"],
            caption=f"{name}: {score['accuracy']:.4f} of {score['n']:,}.",
        )


# ----------------------------------------------------------------------------------------------------
# Sections of pictures: before and after, translations, images from noise, how they were learnt.

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


def sections(job: Job, command: str) -> None:
    """All of them, in their order; ``command`` is what wrote the report."""
    page, subject = job.page, job.subject
    page.lead = words.lead(subject, job.pictures, job.doctor)
    page.section("Summary")
    facts = words.facts(subject)
    if facts:
        page.facts(facts)
    said, verdicts = words.summary(subject, job.measured)
    if said:
        page.text(said)
    for line in [*words.warnings(subject, job.pictures), *figures.won(subject.log), *job.warnings]:
        page.note(line, warning=True)
    if verdicts:
        page.items(verdicts)
    for line in subject.missing:
        page.note(line)
    before_after(job)
    translations(job)
    metrics(job)
    adaptation(job)
    feature_map(job)
    neighbours(job)
    failures(job)
    _curves(job)
    _settings(job)
    _data(job)
    page.section("To repeat")
    page.commands(words.commands(subject, job.pictures, command), caption="In a shell")
    config = subject.config
    if config is not None:
        page.details("Every setting of the run (config.toml)", config.to_toml().rstrip())
    page.footer(words.colophon())


def _settings(job: Job) -> None:
    subject = job.subject
    if job.translator is None and subject.config is None:
        return
    job.page.section("What was trained")
    job.page.pairs(words.about(subject, job.pictures, job.doctor), caption="The model and what it was trained on.")
    changed, notes = words.changed_settings(subject)
    if changed:
        job.page.table(
            ["setting", "value", "default"], changed, notes=notes,
            caption="Settings that differ from the defaults; all of them stand at the end.",
        )  # fmt: skip


def _curves(job: Job) -> None:
    groups = figures.curves(job.subject.log) if len(job.subject.log) > 1 else []
    if not groups:
        if job.subject.folder is not None:
            job.page.section("Curves").note(
                "There are no curves: log.jsonl of the run is missing or has fewer than two lines."
            )
        return
    job.page.section("Curves")
    for kind, panels in groups:
        extra = " The pale line is the log, the strong one its moving average." if len(job.subject.log) >= 40 else ""
        weighted = " Each term with its weight, in the sum that the player lowers." if kind == "Losses" else ""
        job.page.panels(panels, caption=f"{kind} over the steps.{weighted}{extra}")


def _data(job: Job) -> None:
    if job.translator is None:
        return
    page, found = job.page, job.doctor
    page.section("The data")
    if found is None:
        page.note("The data doctor has nothing to say: it looks at folders of images, and there are none here.")
        return
    summary = found.to_dict()
    rows = words.data_rows(summary)
    page.table(
        ["domain", "split", "usable", "unusable", "flat", "shorter side", "formats"],
        rows,
        caption="What the data doctor (unpaired check) found.",
    )
    findings = [*summary["problems"], *summary["warnings"], *summary["notes"]]
    findings += [f"unusable: {b['name']}: {b['reason']}" for b in summary["bad"][:10]]
    if findings:
        page.items(findings)
    else:
        page.text("It found nothing to warn about.")
