"""The report of a run, of a model, or of results: gathers, translates, measures, and writes section after section.

A section is a function of the :class:`Job` in SECTIONS. One that cannot be shown says why in the page; it never stops
the report.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from unpaired import __version__
from unpaired.config import DataConfig, EvaluateConfig, ReportConfig, TrainingConfig, differences
from unpaired.data.check import CheckReport, check
from unpaired.data.images import Pixels, open_image, to_tensor
from unpaired.errors import CheckpointError, ConfigError, DataError, ImageError
from unpaired.evaluation.classifier import Classifier, load_classifier
from unpaired.evaluation.distances import share_interval
from unpaired.evaluation.results import figures_of
from unpaired.files import check_output
from unpaired.networks.classifiers import Features
from unpaired.report import figures, looks
from unpaired.report.charts import Dot, Panel, interval_panel, line_panel, scatter_panel
from unpaired.report.gather import Pictures, Subject, gather, open_pictures
from unpaired.report.looks import Measured
from unpaired.report.page import Card, Cell, Pair, Report
from unpaired.training.log import Reporter, Watch, duration
from unpaired.training.loop import MAX_SHEET_DIRECTIONS
from unpaired.translate.translator import Translator

MAX_DIRECTIONS = 3
"""Directions that are shown in full; a model of many classes has the grid of every class besides."""
LEAST_OF_INPUT = 0.1
"""Where two inputs change random outputs by less than this share of what two noises do, the page warns."""
MAX_SLIDERS = 6
"""Images in "Before and after", of all directions together."""
CLASSES_A_LINE = 12
"""Columns in the grid of every class. With more classes there is one input, over several lines."""
MOST_NAMED = 6
"""Domains and directions that are named in full; of more, a few and their number."""
PAPERS = {
    "unit": "Unsupervised Image-to-Image Translation Networks",
    "unit-digits": "Unsupervised Image-to-Image Translation Networks, digits",
    "attend": "Show, Attend and Translate",
    "cycle": "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks",
    "cascade": "Cross-Domain Cascaded Deep Translation",
    "deepvae": "Cross-Domain Cascaded Deep Translation, synthesis",
    "deepi2i": "DeepI2I: Deep Hierarchical Image-to-Image Translation by Transferring from GANs",
    "deepi2i-stylegan": "DeepI2I, from StyleGAN",
    "biggan": "Large Scale GAN Training for High Fidelity Natural Image Synthesis",
    "stylegan": "A Style-Based Generator Architecture for Generative Adversarial Networks",
}


@dataclass
class Job:
    """What the sections share: the page, what it is about, and what was computed for it."""

    page: Report
    subject: Subject
    options: ReportConfig
    paths: Sequence[Path] = ()
    layers: Features | None = None
    """The feature network; without its weights None, and ``no_layers`` says why."""
    no_layers: str = ""
    pictures: Pictures | None = None
    doctor: CheckReport | None = None
    classifier: Classifier | None = None
    measured: list[Measured] = field(default_factory=list)
    sheets: dict[tuple[str, str], dict[str, Pixels]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def translator(self) -> Translator | None:
        """The model, where there is one."""
        return self.subject.translator

    @property
    def from_noise(self) -> bool:
        """Whether the model makes images of noise alone."""
        return self.translator is not None and self.translator.method.from_noise

    @property
    def made(self) -> str:
        """What the model makes, in a word."""
        return "images" if self.from_noise else "translations"

    @property
    def step(self) -> int | None:
        """Where training stands, by the model or by the log."""
        step = self.translator.header.get("step") if self.translator else None
        if step is None and self.subject.log:
            step = int(self.subject.log[-1]["step"])
        return step

    @property
    def unfinished(self) -> int | None:
        """Steps of the whole plan, where training has not come to its end."""
        total = self.subject.steps_in_all
        return total if total and self.step is not None and self.step < total else None

    @property
    def train_counts(self) -> dict[str, int]:
        """Usable images by domain that were trained on: those held out to look at while training are none of them."""
        if self.doctor is not None:
            looked_at = self.pictures.looked_at if self.pictures is not None else {}
            return {d: len(self.doctor.good(d, "train")) - looked_at.get(d, 0) for d in self.doctor.tree.domains}
        return {d: pool.count(d) for d, pool in self.pictures.train.items()} if self.pictures is not None else {}

    def split_of(self, source: str) -> str:
        """Name which images of ``source`` are shown: held-out or training ones."""
        return "training" if self.pictures is not None and source in self.pictures.seen else "held-out"

    def named(self) -> tuple[str, str]:
        """Name the model and its data in a command."""
        folder = self.subject.folder or self.subject.path or Path("RUN")
        known = self.pictures is not None and self.pictures.tree is not None
        return shlex.quote(str(folder)), shlex.quote(self.pictures.where) if known and self.pictures else "DATA"


def write_report(*paths: Path | str, options: ReportConfig | None = None, **changes: Any) -> Path:
    """Write one self-contained HTML page about a run, a model, or results; its path.

    Args:
        paths: at most one run folder (or model file, or what ``adapt`` left), and any number of results.json.
        options: as of the command; ``changes`` are options by name, as in ``out="page.html"``.

    Raises:
        DataError, CheckpointError, ConfigError: a path is none of these, or what was named cannot be used (``out``
            among it).
    """
    options = ReportConfig.of(options, changes)
    check_output(options.out, "report.html")
    say = Reporter(1, 0, quiet=options.quiet).say
    subject = gather([Path(p) for p in paths], device=options.device)
    method = subject.config.method if subject.config else ""
    kicker = f"{method} · {PAPERS[method]}" if method in PAPERS else f"unpaired {__version__} · {method or 'report'}"
    job = Job(Report(title(subject), kicker=kicker), subject, options, [Path(p) for p in paths])
    _open_classifier(job)
    translator = subject.translator
    if translator is not None and subject.config is not None:
        job.layers, job.no_layers = looks.open_network()
        sources = [a for a, _ in directions(translator)]
        job.pictures = open_pictures(options.data, subject, translator.domains, sources)
        if job.pictures is not None and job.pictures.tree is not None:
            say("looking at the data")
            try:
                job.doctor = check(job.pictures.tree)
            except DataError as error:
                subject.missing.append(f"The data could not be looked at: {error}")
        for source, target in directions(translator):
            if job.pictures is not None and source in job.pictures.held_out:
                say(f"making images of {target}" if job.from_noise else f"translating {source} to {target}")
                _look(job, translator, job.pictures, source, target)
    elif options.data:
        subject.missing.append("--data was given, but without a model there is nothing to translate.")
    say("writing the page")
    job.page.lead = lead(job)
    for section in SECTIONS:
        section(job)
    return job.page.write(options.out)


def directions(translator: Translator) -> list[tuple[str, str]]:
    """Choose the directions that are shown in full: a few from different sources where there are many."""
    domains, found = translator.domains, list(translator.directions)
    if len(found) > MAX_DIRECTIONS and not translator.method.from_noise:
        found = [d for i, a in enumerate(domains) if (d := (a, domains[(i + 1) % len(domains)])) in set(found)]
    return found[:MAX_DIRECTIONS]


def _open_classifier(job: Job) -> None:
    path = job.options.classifier or job.subject.classifier
    try:
        job.classifier = load_classifier(path) if path is not None else None
    except CheckpointError as error:
        if job.options.classifier is not None:
            raise
        job.subject.missing.append(f"The classifier is left out: {error}")


def _look(job: Job, translator: Translator, pictures: Pictures, source: str, target: str) -> None:
    """Translate, and measure what is shown."""
    options = job.options
    shown = pictures.some(source, options.images)
    rows = job.sheets[source, target] = looks.sheet(translator, shown, source, target, seed=options.seed)
    inputs, noises = looks.follows_noise(rows, target)
    if inputs < LEAST_OF_INPUT * noises:
        job.warnings.append(
            f"{source} → {target}: the results follow the random noise and hardly the input. Two inputs with the same "
            "noise give results "
            f"that differ by {inputs:.1f} of 255 levels on average, one input with two noises {noises:.1f}."
        )
    found = looks.measure(translator, pictures, (source, target), job.layers, options)
    own = options.classifier is None  # that of an adaptation knows its target
    if job.classifier is not None and len(found.outputs) and (not own or target == translator.domains[-1]):
        found.judge(job.classifier)
    job.measured.append(found)
    bad = int((~found.finite).sum())
    if bad:
        job.warnings.append(f"{found.name}: {bad} of {len(found.finite)} {job.made} are not finite (NaN or infinity).")
    if found.finite.sum() > 1:  # the watch compares them with each other
        x, y = (to_tensor(p[found.finite]) for p in (found.inputs, found.outputs))
        said = Watch().sampled(x, y, (source, target))
        job.warnings += [w.rstrip(".").replace(f"{source} → {target}", found.name) + "." for w in said]


# ---- head and summary ----


def some(names: Sequence[str], most: int = MOST_NAMED) -> str:
    """Write a, b and c; a, b, … (12 in all)."""
    if len(names) > most:
        return f"{', '.join(names[:3])}, … ({len(names)} in all)"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"


def title(subject: Subject) -> str:
    """Say what the page is about."""
    if subject.translator is not None:
        domains, ways = subject.translator.domains, subject.translator.directions
        if subject.translator.method.from_noise or len(domains) == 1:
            return f"A generator of {some(domains)}"
        if len(domains) > 2:
            return f"{len(domains)} domains: {', '.join(domains[:4])}{', …' if len(domains) > 4 else ''}"
        return f"{domains[0]} ↔ {domains[1]}" if len(ways) > 1 else f"{ways[0][0]} → {ways[0][1]}"
    if subject.path is not None:
        return f"Run {subject.path.name or subject.path.resolve().name}"
    if len(subject.results) > 1:
        return f"{len(subject.results)} results compared"
    if subject.results:
        about = subject.results[0][1].get("provenance") or {}
        return f"Results of {about.get('method') or subject.results[0][0]}"
    return "Domain adaptation"


def lead(job: Job) -> str:
    """Say what was trained on what, in a sentence."""
    config = job.subject.config
    if job.translator is None or config is None:
        return f"Figures of {some([name for name, _ in job.subject.results])}." if job.subject.results else ""
    of = f" of {job.unfinished:,}" if job.unfinished else ""
    steps = f"{job.step:,}{of} steps" if job.step is not None else "an unknown number of steps"
    on = some([f"{n:,} images of {d}" for d, n in job.train_counts.items()])
    time = figures.seconds(job.subject.log)
    return (
        f"Trained for {steps}{f' in {duration(time)}' if time else ''} on "
        f"{on if job.train_counts else 'images that are not here any more'}, at {config.data.size}×{config.data.size} "
        f"pixels, seed {config.seed}."
    )


def summary(job: Job) -> None:
    """Facts to be seen first, what the model does, warnings, and whether it works as far as figures can tell."""
    page, subject, translator = job.page, job.subject, job.translator
    page.section("Summary")
    page.facts(_facts(job))
    if translator is not None:
        page.text(_does(translator))
    for line in [*_warnings(job), *figures.won(subject.log), *job.warnings]:
        page.note(line, warning=True)
    page.items(_verdicts(job))
    for line in subject.missing:
        page.note(line)


def _facts(job: Job) -> dict[str, str]:
    subject, found = job.subject, {}
    if job.step is not None:
        found[f"steps of {job.unfinished:,}" if job.unfinished else "steps"] = f"{job.step:,}"
    if time := figures.seconds(subject.log):
        found["training time"] = duration(time)
    if job.translator is not None:
        count = sum(p.numel() for p in job.translator.method.parameters())
        found["parameters"] = f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count:,}"
    last = (subject.adaptation or {}).get("last")
    if isinstance(last, Mapping):
        found[f"accuracy on the target, N = {last['n']:,}"] = f"{last['accuracy']:.1%}"
    for _, results in subject.results if len(subject.results) == 1 else ():
        for where, key, figure in figures_of(results):
            if key.startswith(figures.KERNEL) and len(found) < 6 and figures.known(figure):
                whole = (where, f"N = {figures.count(figure)}")
                label = ", ".join([figures.titled(key), *(w.replace(" ", "\N{NO-BREAK SPACE}") for w in whole)])
                found[label] = f"{figure['value']:.3g}"
    return found


def _does(translator: Translator) -> str:
    if translator.method.from_noise:
        made = some(translator.domains)
        return f"The model makes images of {made} from random noise. It takes no input image and translates none."
    ways = [f"{a} to {b}" for a, b in translator.directions]
    many = f"any of its {len(translator.domains)} domains to any other"
    said = f"The model translates {some(ways) if len(ways) <= MOST_NAMED else many}."
    if translator.method.stochastic:
        said += " One input has many results: they are drawn at random."
    if translator.has_attention:
        said += " A mask says how far each place is translated: wholly where it is white, not at all where it is black."
    return said


def _verdicts(job: Job) -> list[str]:
    subject = job.subject
    said = []
    for name, results in subject.results:
        said += [f"{name}: {v}" if len(subject.results) > 1 else v for v in figures.verdicts(results)]
    best, last = subject.best, subject.best.get("last")
    if isinstance(best.get("value"), float) and isinstance(last, Mapping) and isinstance(last.get("value"), float):
        said.append(
            f"By the {best.get('criterion')}, the best checkpoint is that of step {best.get('step'):,} "
            f"({best['value']:.4g}; the last, of step {last.get('step'):,}, has {last['value']:.4g}). What this page "
            f"shows is the last; for the best, report on {subject.folder}/best/model.safetensors."
        )
    plain, last = ((subject.adaptation or {}).get(k) for k in ("source_only", "last"))
    if isinstance(plain, Mapping) and isinstance(last, Mapping):
        a, b = (share_interval(score["accuracy"], score["n"]) for score in (plain, last))
        clear = "more often right" if b[0] > a[1] else "less often right" if b[1] < a[0] else ""
        word = clear or "not clearly better or worse"
        said.append(
            f"The adapted classifier is {word} than one that was trained on the source alone: {last['accuracy']:.1%} "
            f"against {plain['accuracy']:.1%} of {last['n']:,} labelled target images, one seed."
        )
    for m in job.measured:
        if m.finite.any() and not m.from_noise:
            change = np.abs(m.inputs[m.finite].astype(np.float64) - m.outputs[m.finite]).mean()
            said.append(
                f"{m.name}: over {int(m.finite.sum())} images a pixel changes by {change:.0f} of 255 levels on average."
            )
    return said


def _warnings(job: Job) -> list[str]:
    """Say what a reader must know before believing the rest."""
    subject, translator, pictures = job.subject, job.translator, job.pictures
    said = []
    if job.unfinished and subject.folder is not None:
        said.append(
            f"The run is not finished: {job.step:,} of {job.unfinished:,} steps. The same command goes on with it."
        )
    if translator is not None and translator.untrained:
        said.append(f"{translator.untrained[:1].upper()}{translator.untrained[1:]}.")
    for crash in subject.crashes:
        where = f"stage {crash.get('stage')}, {crash.get('update')}"
        said.append(f"Training stopped at step {crash.get('step')} ({where}): {crash.get('why')}.")
    if pictures is not None and pictures.same is False:
        said.append(
            f"The images at {pictures.where} are not those that the model was trained on: their fingerprints differ. "
            "What is shown is of the images there now."
        )
    if pictures is not None and pictures.seen:
        said.append(
            f"There are no test images of {some(pictures.seen)}: training images are shown, on which a model looks "
            "better than it is."
        )
    return said


# ---- pictures ----


def before_after(job: Job) -> None:
    """A few sliders of input and translation."""
    each = max(1, MAX_SLIDERS // max(1, len(job.sheets)))
    pairs = []
    for (source, target), rows in ({} if job.from_noise else job.sheets).items():
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
    page, translator, pictures = job.page, job.translator, job.pictures
    if not job.sheets and not job.subject.samples:
        return
    if job.from_noise:
        _images_from_noise(job)
        return
    page.section("Translations")
    if translator is not None and pictures is not None and len(translator.domains) > 2:
        page.heading("Every class")
        _every_class(job, translator, pictures)
        page.heading("A few directions in full")
    for (source, target), rows in job.sheets.items():
        kind = job.split_of(source)
        caption = f"{source} to {target}: {len(rows[f'input: {source}'])} {kind} images, evenly over the {kind} set."
        if translator is not None and translator.method.stochastic:
            caption += " Within a row all inputs have the same noise, and the rows differ in their noise alone."
        page.sheet(rows, alt=f"{kind} {source} image", caption=caption)
    _progress(job)


def _every_class(job: Job, translator: Translator, pictures: Pictures) -> None:
    """A square of sources and targets where they fit on a line, else one input as all of them."""
    domains, seed = translator.domains, job.options.seed
    sources = [d for d in domains if d in pictures.held_out and any(a == d for a, _ in translator.directions)]
    images = {source: image[0] for source in sources if len(image := pictures.some(source, 1))}
    if len(domains) > CLASSES_A_LINE:
        for source, image in list(images.items())[:1]:
            found = looks.every_class(translator, image, source, seed=seed)
            one, heads = {"": np.stack([image, *found.values()])}, [f"input: {source}", *found]
            alt = f"One {source} image as every class"
            caption = f"One {job.split_of(source)} image of {source} as every class."
            job.page.sheet(one, heads=heads, columns=CLASSES_A_LINE, alt=alt, caption=caption)
        return
    rows = {}
    for source, image in images.items():
        found = looks.every_class(translator, image, source, seed=seed) | {source: image}
        rows[f"from {source}"] = np.stack([found.get(d, np.full_like(image, 128)) for d in domains])
    if rows:
        caption = (
            "One image of each class in a row, as every class. In the column of its own class stands the image itself."
        )
        job.page.sheet(rows, heads=domains, alt="One image as every class", caption=caption)


def _images_from_noise(job: Job) -> None:
    """Rows of images, every class from the same noise, how they were learnt."""
    page, translator, pictures = job.page, job.translator, job.pictures
    assert translator is not None
    page.section("Images from noise")
    sheets = {target: rows for (_, target), rows in job.sheets.items()}
    first = next(iter(sheets.values()), {})
    if len(sheets) > 1 and all(np.array_equal(rows[name], first[name]) for rows in sheets.values() for name in first):
        page.text("The model does not tell its domains apart: the same noise gives the same image for each of them.")
        sheets = {f"{some(translator.domains)} alike": first}
    elif len(translator.domains) > 2 and pictures is not None:
        domains, seed = translator.domains, job.options.seed
        image = pictures.some(next(d for d in domains if d in pictures.held_out), 1)  # of it the size alone counts
        rows = {}
        for n in range(looks.SAMPLES if len(domains) <= CLASSES_A_LINE else 1):
            made = [looks.translate(translator, image, d, d, seed=seed + n)[0] for d in domains]
            rows[f"noise {n + 1}"] = np.concatenate(made)
        page.heading("Every class")
        caption = "The same noise as every class."
        page.sheet(rows, heads=domains, columns=CLASSES_A_LINE, alt="One noise as every class", caption=caption)
        page.heading("A few domains in full")
    for target, rows in sheets.items():
        caption = f"{target}: every picture from noise of its own."
        if len(rows) > looks.SAMPLES:
            caption += " The first rows, down to the finished one, are the same images at the method's levels."
        page.sheet(rows, alt=f"{target} from noise", caption=caption)
    _progress(job)


def _progress(job: Job) -> None:
    """How the pictures came about, from the sheets that training left."""
    subject, page = job.subject, job.page
    if not subject.samples or subject.config is None:
        return
    if job.translator is not None and job.translator.directions:
        source, target = job.translator.directions[0]
        rows = min(len(job.translator.directions), MAX_SHEET_DIRECTIONS)
        found = looks.progress(subject.samples, rows, subject.config.data.size)
        if len(found) > 2:
            alt, what = f"Fixed {source} image as {target}", f"The same images of {source} as {target}"
            if job.from_noise:
                del found["input"]
                alt, what = f"{target} from fixed noise", f"{target} from the same noise"
            page.heading("How it was learnt")
            caption = f"{what} over the steps, from the sheets that training left."
            page.sheet(found, alt=f"{alt} while training", caption=caption)
            return
    if not job.sheets:
        step, path = subject.samples[-1]
        with contextlib.suppress(ImageError):
            card = Card({f"step {step:,}": np.asarray(open_image(path, min_side=1))}, "", "Sample sheet of the run")
            caption = "The last sheet that training left: inputs above their translations."
            page.gallery([card], wide=True, caption=caption)


# ---- figures ----


def metrics(job: Job) -> None:
    """Every result with its charts, table and origin; several of them side by side first."""
    named, page = job.subject.results, job.page
    if not named:
        if job.translator is not None and job.translator.directions:
            page.section("Metrics").note(
                "No results were given. Distances with intervals and N come from: unpaired evaluate "
                f"{' '.join(job.named())} --out results.json; give that file to `unpaired report` beside the run."
            )
        return
    page.section("Metrics")
    if len(named) > 1:
        panels, left_out = figures.compare_panels(named)
        page.panels(panels, caption="The results side by side, with 95 % intervals where there are any.")
        for line in left_out:
            page.note(line, warning=True)
    for name, results in named:
        if len(named) > 1:
            page.heading(name)
        _one_result(page, results, "")
        best = results.get("best")
        if isinstance(best, dict) and isinstance(best.get("directions"), list):
            page.heading(f"{name}: the run's best checkpoint")
            _one_result(page, best, " Best checkpoint, chosen on the validation split.")


def _one_result(page: Report, results: dict[str, Any], about: str) -> None:
    caption = "Distances to the target's real images, with 95 % intervals where there are any; less is better."
    page.panels(figures.distance_panels(results)[:8], caption=caption + about)
    header, rows, notes, groups = figures.table(results)
    caption = (
        "Each measure with its N (generated / real); below the value its [95 % interval], or ± its standard "
        f"deviation. ↓ less is better, ↑ more is.{about}"
    )
    page.table(header, rows, notes=notes, groups=groups, caption=caption)
    page.items(results.get("warnings") or ())
    for counts, labels, said in figures.confusions(results):
        page.confusion(np.array(counts), labels, caption=said)
    if origin := figures.provenance(results):
        page.details("Where these figures come from", origin)


def adaptation(job: Job) -> None:
    """What `unpaired adapt` found: accuracies, how they grew, confusion tables."""
    found, page = job.subject.adaptation, job.page
    if found is None:
        return
    page.section("Classifier for the unlabelled target")
    best = f"adapted, best ({found.get('selection', '')})"
    names = {"source_only": "source only", "last": "adapted, last", "best": best}
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
    panels: list[Panel] = [interval_panel("accuracy", dots)]
    history = [h for h in found.get("history") or () if isinstance(h, dict) and "step" in h]
    steps = [h["step"] for h in history]
    keys = dict.fromkeys(k for h in history for k in h if k != "step")
    lines = {k.replace("_", " "): (steps, [float(h.get(k, "nan")) for h in history]) for k in keys}
    if len(history) > 1 and lines:
        only = f"{next(iter(lines))}, " if len(lines) == 1 else ""
        panels.append(line_panel(f"{only}while training", lines))
    caption = "Accuracy on labelled target images that nothing was trained on; 95 % intervals after Wilson."
    page.panels(panels, caption=caption)
    page.table(["classifier", "accuracy", "N"], rows, caption="One seed; [95 % interval].")
    if best in scores and scores[best] == scores.get(names["last"]):
        del scores[best]
    for name, score in scores.items():
        caption = f"{name}: {score['accuracy']:.4f} of {score['n']:,}."
        page.confusion(np.array(score["confusion"]), found["classes"], caption=caption)


# ---- what a feature network and a classifier find ----


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
            job.page.note(f"{m.name}: no map: {m.map_missing or job.no_layers}")
    caption = (
        f"t-SNE of {looks.NETWORK} features. Near points are images that the network finds alike; good {job.made} lie "
        "among the real images of their domain. Sizes of clusters and distances between them mean nothing."
    )
    job.page.panels(panels, caption=caption)


def neighbours(job: Job) -> None:
    """Each translation beside the training images of its target that it is nearest to."""
    page = job.page
    if not job.measured:
        return
    page.section("Nearest training images")
    if job.layers is None:
        page.note(f"No neighbours: {job.no_layers}")
        return
    page.text(
        f"Of {job.made}, those that equal a training image were learnt by heart. The number below each neighbour is "
        f"its distance, 0 for equal ones: the {looks.PERCEPTUAL}."
    )
    for m in job.measured:
        cards = []
        for number, (which, near, distances) in enumerate(m.neighbours, start=1):
            shown = m.shown(which) | {f"nearest {i}": p for i, p in enumerate(near, start=1)}
            notes = {f"nearest {i}": f"{d:.2f}" for i, d in enumerate(distances, start=1)}
            alt = f"{m.target} from noise {number}" if m.from_noise else f"{m.source} image {number}"
            cards.append(Card(shown, "", alt, notes))
        if cards:
            caption = f"{m.name}: each with the nearest of {m.references} training images of {m.target}."
            page.gallery(cards, wide=True, caption=caption)
        else:
            page.note(f"{m.name}: no training images of {m.target} are there to compare with.")


def failures(job: Job) -> None:
    """Translations that changed the most, the least, and those that a classifier is least sure of."""
    page = job.page
    if not job.measured or (job.from_noise and job.classifier is None):
        return
    page.section("Where to look for failures")
    if not job.from_noise:
        page.text(
            "The number below each pair is how far input and translation are apart, 0 for equal ones: the "
            f"{job.measured[0].change_name}."
        )
    for m in job.measured:
        page.heading(m.name)
        among = f"{len(m.inputs)} {'images' if m.from_noise else f'{job.split_of(m.source)} images'}"
        kinds = [("Changed the most", "change", m.change, True), ("Changed the least", "change", m.change, False)]
        if m.confidence is not None:
            kinds.append(("Least sure for the classifier", "confidence", m.confidence, False))
        for kind, what, values, largest in kinds:
            cards = []
            for i in looks.extremes(values, looks.EXTREMES, largest=largest):
                text = f"{what} {values[i]:.3f}" + (f", taken for {m.classes[i]}" if what == "confidence" else "")
                alt = f"{kind[0].lower()}{kind[1:]}, {m.name}, image {i + 1}"
                cards.append(Card(m.shown(i), text, alt))
            page.gallery(cards, caption=f"{kind}, of {among}.")
    if job.classifier is None:
        page.note(
            "The translations that a classifier is least sure of are not shown, because none was given; give one with "
            "--classifier FILE."
        )


# ---- the run ----


def curves(job: Job) -> None:
    """Distances, λ, losses and watched values over the steps."""
    groups = figures.curves(job.subject.log) if len(job.subject.log) > 1 else []
    if not groups and job.subject.folder is None:
        return
    job.page.section("Curves")
    if not groups:
        job.page.note("There are no curves: log.jsonl of the run is missing or has fewer than two lines.")
    for kind, panels in groups:
        extra = " The pale line is the log, the strong one its moving average." if len(job.subject.log) >= 40 else ""
        weighted = " Each term with its weight, in the sum that the player lowers." if kind == "Losses" else ""
        job.page.panels(panels, caption=f"{kind} over the steps.{weighted}{extra}")


def settings(job: Job) -> None:
    """The model, what it was trained on, and every setting that differs from its default."""
    if job.translator is None and job.subject.config is None:
        return
    job.page.section("What was trained")
    job.page.pairs(about(job), caption="The model and what it was trained on.")
    config = job.subject.config
    if config is None:
        return
    tables: dict[str, type[BaseModel]] = {"data": DataConfig, "training": TrainingConfig, "model": type(config.model)}
    usual = {name: table().model_dump(mode="json") for name, table in tables.items()} | {"seed": 0}
    now = {k: v for k, v in config.to_dict().items() if k in usual}
    rows: list[list[Cell]] = []
    notes = []
    for key, (default, value) in sorted(differences(usual, now).items()):
        table, _, name = key.partition(".")
        known = tables[table].model_fields.get(name.split(".")[0]) if table in tables else None
        rows.append([key, figures.plain(value), figures.plain(default)])
        notes.append(" ".join(((known and known.description) or "").replace("``", "").split()))
    caption = "Settings that differ from the defaults; all of them stand at the end."
    job.page.table(["setting", "value", "default"], rows, notes=notes, caption=caption)


def about(job: Job) -> list[tuple[str, Cell]]:
    """Return rows (what, value) about model and data."""
    config, translator, pictures = job.subject.config, job.translator, job.pictures
    rows: list[tuple[str, Any]] = []
    if config is not None:
        paper = PAPERS.get(config.method)
        rows.append(("method", config.method + (f" ({paper})" if paper else "")))
    if translator is not None:
        header, ways = translator.header, [f"{a} → {b}" for a, b in translator.directions]
        many = f"{len(ways):,}, between all domains"
        if translator.method.from_noise:
            rows.append(("makes images of", some(translator.domains, 12)))
        else:
            rows.append(("directions", many if len(ways) > MOST_NAMED else ", ".join(ways)))
        rows += [("step", header.get("step")), ("stage", header.get("stage") or None)]
        rows.append(("parameters for translating", sum(p.numel() for p in translator.method.parameters())))
        for source in header.get("pretrained") or ():
            whence = f"{source.get('file')}, SHA-256 {str(source.get('sha256'))[:16]}…, {source.get('licence')}"
            rows.append(("pretrained weights", f"{source.get('name')} ({whence})"))
        origin = (header.get("extra") or {}).get("started_from")
        if isinstance(origin, Mapping):
            rows.append(("started from", f"{origin.get('source')}, SHA-256 {str(origin.get('sha256'))[:16]}…"))
        rows.append(("model file, SHA-256", translator.sha256 or None))
        rows.append(("images it was trained on, fingerprint", header.get("data_fingerprint") or None))
        rows.append(("made with", f"unpaired {header.get('version')}"))
    if config is not None:
        t, side = config.training, config.data.size
        rows.append(("precision", t.precision + (f", averaged weights (decay {t.ema})" if t.ema else "")))
        rows.append(("image size", f"{side}×{side}, cut from a shorter side of {config.data.resize or side}"))
    images = {"training images": job.train_counts, "held out to look at": pictures.looked_at if pictures else {}}
    for what, counts in images.items():
        if counts:
            rows.append((what, some([f"{d}: {n:,}" for d, n in counts.items()], 12)))
    if pictures is not None:
        rows.append(("data", pictures.where))
    return [(k, v if isinstance(v, (str, int)) else None) for k, v in rows]


def the_data(job: Job) -> None:
    """What the data doctor found."""
    page, found = job.page, job.doctor
    if job.translator is None:
        return
    page.section("The data")
    if found is None:
        page.note("The data doctor has nothing to say: it looks at folders of images, and there are none here.")
        return
    known = found.to_dict()
    rows: list[list[Cell]] = []
    for domain in known["domains"]:
        for split in ("train", "test"):
            s = known["splits"][split][domain]
            side = s["shorter_side"]
            span = f"{side['median']:g} ({side['min']}–{side['max']})" if side else "–"
            formats = ", ".join(f"{k} {v:,}" for k, v in s["formats"].items()) or "–"
            rows.append([domain, split, s["usable"], s["bad"], s["flat"], span, formats])
    header = ["domain", "split", "usable", "unusable", "flat", "shorter side", "formats"]
    page.table(header, rows, caption="What the data doctor (unpaired check) found.")
    findings = [*known["problems"], *known["warnings"], *known["notes"]]
    findings += [f"unusable: {b['name']}: {b['reason']}" for b in known["bad"][:10]]
    page.items(findings or ["It found nothing to warn about."])


def to_repeat(job: Job) -> None:
    """The commands that repeat training, figures and this report, all settings, and how the page was made."""
    page, config = job.page, job.subject.config
    page.section("To repeat").commands(_commands(job), caption="In a shell")
    if config is not None:
        page.details("Every setting of the run (config.toml)", config.to_toml().rstrip())
    page.footer(
        f"Made by unpaired {__version__} with torch {torch.__version__}. Everything in this page is in this one file; "
        f"it fetches nothing. Perceptual distances and the map use {looks.NETWORK}, not the network that the name FID "
        "stands for. Pictures of 96 pixels and more are stored as WebP at quality 90, smaller ones exactly."
    )


def _commands(job: Job) -> list[str]:
    subject, (model, data) = job.subject, job.named()
    blocks = [("", f"pip install unpaired=={__version__}")]
    typed = subject.origin.get("command")
    if isinstance(typed, str):
        blocks.append(("# the training, as it was asked for", typed))
    if subject.folder is not None and subject.adaptation is None:
        config, again = (shlex.quote(f"{subject.folder}{end}") for end in ("/config.toml", "-again"))
        command = f"unpaired train {data} --config {config} --out {again}"
        blocks.append(("# the same training from its settings alone, which stand below as config.toml", command))
    for name, results in subject.results:
        title = f"# the figures {name}" if len(subject.results) > 1 else "# the figures"
        blocks.append((title, evaluate_command(results, model, data)))
    if not subject.results and subject.translator is not None and subject.translator.directions:
        blocks.append(("# figures", f"unpaired evaluate {model} {data} --out results.json"))
    if subject.translator is not None and not subject.translator.method.from_noise and subject.translator.directions:
        command = f"unpaired export {model} --format html --out page.html"
        blocks.append(("# one file for a friend: a page that translates pictures without a network", command))
    given = [str(p) for p in job.paths] + [part for value in job.options.data for part in ("--data", value)]
    typed = job.options.typed("data", "quiet")
    blocks.append(("# this report", f"unpaired report {shlex.join(given)} {typed}".rstrip()))
    return [line for title, command in blocks for line in ("", title, command)][2:]


def evaluate_command(results: Mapping[str, Any], model: str, data: str) -> str:
    """Write the command that measures the same figures, from the options that results record."""
    about = results.get("provenance") or {}
    place, options = about.get("model"), about.get("options")
    try:
        asked = EvaluateConfig.of(None, {k: v for k, v in (options or {}).items() if k != "out"}).typed("out")
    except ConfigError:  # of another version
        asked = ""
    name = shlex.quote(place) if isinstance(place, str) else model
    return " ".join(filter(None, ("unpaired evaluate", name, data, asked, "--out results.json")))


SECTIONS: tuple[Callable[[Job], None], ...] = (
    summary, before_after, translations, metrics, adaptation, feature_map, neighbours, failures, curves, settings,
    the_data, to_repeat,
)  # fmt: skip
"""In the order of the page. A further one is a function of the job that adds to ``job.page``, named here."""
