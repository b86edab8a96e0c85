"""The sentences and tables of facts of a report, from what was gathered."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from unpaired._version import __version__
from unpaired.config import ClassifierConfig, DataConfig, TrainingConfig, differences
from unpaired.data.check import CheckReport
from unpaired.evaluation.distances import share_interval
from unpaired.report import figures
from unpaired.report.gather import Pictures, Subject
from unpaired.report.looks import NETWORK, Measured
from unpaired.report.page import Cell

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
EVALUATE_OPTIONS: dict[str, Any] = {
    "metrics": None, "backbone": None, "feature_precision": "fp32", "lpips": None, "split": None, "limit": None, "seed": None, "bootstrap": None,
    "by": None, "batch_size": 16, "precision": "fp32", "pairs": None, "threshold": [12.0, 16.0], "left": None, "palette": None, "masks": None,
    "mask_threshold": 0.5, "classifier": None, "labelled": None,
}  # fmt: skip
"""Options of `unpaired evaluate` that stand in the provenance of its results, and the values that need not be typed."""
MOST_NAMED = 6
"""Domains and directions that are named in full; of more, a few and their number."""


def some(names: Sequence[str], most: int = MOST_NAMED) -> str:
    """a, b and c; a, b, … (12 in all)."""
    if len(names) > most:
        return f"{', '.join(names[:3])}, … ({len(names)} in all)"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"


def quoted(parts: Iterable[str]) -> str:
    """One shell command."""
    return shlex.join(parts)


def title(subject: Subject) -> str:
    """What the page is about."""
    if subject.translator is not None:
        domains = subject.translator.domains
        if subject.translator.method.from_noise or len(domains) == 1:
            return f"A generator of {some(domains)}"
        if len(domains) > 2:
            return f"{len(domains)} domains: {', '.join(domains[:4])}{', …' if len(domains) > 4 else ''}"
        both = len(subject.translator.directions) > 1
        a, b = (domains[0], domains[1]) if both else subject.translator.directions[0]
        return f"{a} ↔ {b}" if both else f"{a} → {b}"
    if subject.path is not None:
        return f"Run {subject.path.name or subject.path.resolve().name}"
    if len(subject.results) > 1:
        return f"{len(subject.results)} results compared"
    if subject.results:
        about = subject.results[0][1].get("provenance") or {}
        return f"Results of {about.get('method') or subject.results[0][0]}"
    return "Domain adaptation"


def kicker(subject: Subject) -> str:
    """The line above the title."""
    if subject.config is None:
        return f"unpaired {__version__} · report"
    paper = PAPERS.get(subject.config.method)
    return f"{subject.config.method}" + (f" · {paper}" if paper else "")


def _step(subject: Subject) -> int | None:
    header = subject.translator.header if subject.translator else {}
    step = header.get("step")
    if not isinstance(step, int) and subject.log:
        step = int(subject.log[-1]["step"])
    return step if isinstance(step, int) else None


def lead(subject: Subject, pictures: Pictures | None, doctor: CheckReport | None) -> str:
    """What was trained on what, in two sentences."""
    translator, config = subject.translator, subject.config
    if translator is None or config is None:
        if subject.results:
            return f"Figures of {some([name for name, _ in subject.results])}."
        return ""
    step, total = _step(subject), subject.steps_in_all
    steps = f"{step:,} steps" if step is not None else "an unknown number of steps"
    if step is not None and total and step < total:
        steps = f"{step:,} of {total:,} steps"
    counts = train_counts(pictures, doctor)
    on = some([f"{n:,} images of {d}" for d, n in counts.items()]) if counts else "images that are not here any more"
    time = figures.seconds(subject.log)
    took = f" in {figures.duration(time)}" if time else ""
    side = config.data.size
    return f"Trained for {steps}{took} on {on}, at {side}×{side} pixels, seed {config.seed}."


def train_counts(pictures: Pictures | None, doctor: CheckReport | None) -> dict[str, int]:
    """Usable images by domain that were trained on: those held out to look at while training are none of them."""
    if doctor is not None:
        looked_at = pictures.looked_at if pictures is not None else {}
        return {d: len(doctor.good(d, "train")) - looked_at.get(d, 0) for d in doctor.tree.domains}
    return {d: pool.count(d) for d, pool in pictures.train.items()} if pictures is not None else {}


def facts(subject: Subject) -> dict[str, str]:
    """A few figures to be seen first."""
    found: dict[str, str] = {}
    step, total = _step(subject), subject.steps_in_all
    if step is not None:
        found["steps" if not total or step >= total else f"steps of {total:,}"] = f"{step:,}"
    time = figures.seconds(subject.log)
    if time:
        found["training time"] = figures.duration(time)
    translator = subject.translator
    if translator is not None:
        millions = sum(p.numel() for p in translator.method.parameters()) / 1e6
        found["parameters"] = f"{millions:.1f} M" if millions >= 0.1 else f"{millions * 1e6:,.0f}"
    if subject.adaptation is not None and isinstance(subject.adaptation.get("last"), Mapping):
        found[f"accuracy on the target, N = {subject.adaptation['last']['n']:,}"] = (
            f"{subject.adaptation['last']['accuracy']:.1%}"
        )
    for _, results in subject.results if len(subject.results) == 1 else ():
        for where, key, figure in figures.figures(results):
            if key.startswith(("KD-", "KID")) and len(found) < 6 and isinstance(figure["value"], (int, float)):
                whole = (where, f"N = {figures.count(figure)}")
                label = ", ".join([figures.titled(key), *(w.replace(" ", "\N{NO-BREAK SPACE}") for w in whole)])
                found[label] = f"{figure['value']:.3g}"
    return found


def summary(subject: Subject, measured: Sequence[Measured]) -> tuple[str, list[str]]:
    """Plain words: what the model does, and sentences on whether it works as far as figures can tell."""
    said = ""
    translator = subject.translator
    if translator is not None:
        count = len(translator.directions)
        ways = some([f"{a} to {b}" for a, b in translator.directions[:MOST_NAMED]])
        if count > MOST_NAMED:
            ways = f"any of its {len(translator.domains)} domains to any other"
        said = f"The model translates {ways}."
        if translator.method.from_noise:
            said = f"The model makes images of {some(translator.domains)} from random noise. It takes no input image and translates none."
        elif translator.method.stochastic and count:
            said += " One input has many results: they are drawn at random."
        if count and translator.has_attention:
            said += " A mask says how far each place of an image is translated: wholly where it is white, not at all where it is black."
    verdicts = []
    for name, results in subject.results:
        verdicts += [f"{name}: {v}" if len(subject.results) > 1 else v for v in figures.verdicts(results)]
    best, last = subject.best, subject.best.get("last")
    if isinstance(best.get("value"), float) and isinstance(last, Mapping) and isinstance(last.get("value"), float):
        verdicts.append(
            f"By the {best.get('criterion')}, the best checkpoint is that of step {best.get('step'):,} ({best['value']:.4g}; the last, of step "
            f"{last.get('step'):,}, has {last['value']:.4g}). What this page shows is the last; for the best, report on {subject.folder}/best/model.safetensors."
        )
    if subject.adaptation is not None:
        verdicts += _adapted(subject.adaptation)
    for m in measured:
        change = np.abs(m.inputs[m.finite].astype(np.float64) - m.outputs[m.finite])
        if m.finite.any() and not m.from_noise:
            verdicts.append(
                f"{m.source} → {m.target}: over {int(m.finite.sum())} images a pixel changes by {change.mean():.0f} of 255 levels on average."
            )
    return said, verdicts


def _adapted(found: Mapping[str, Any]) -> list[str]:
    plain, last = found.get("source_only"), found.get("last")
    if not (isinstance(plain, Mapping) and isinstance(last, Mapping)):
        return []
    a, b = share_interval(plain["accuracy"], plain["n"]), share_interval(last["accuracy"], last["n"])
    verdict = (
        "more often right than"
        if b[0] > a[1]
        else "less often right than"
        if b[1] < a[0]
        else "not clearly better or worse than"
    )
    return [
        f"The adapted classifier is {verdict} one that was trained on the source alone: {last['accuracy']:.1%} against {plain['accuracy']:.1%} of "
        f"{last['n']:,} labelled target images, one seed."
    ]


def warnings(subject: Subject, pictures: Pictures | None) -> list[str]:
    """What a reader must know before believing the rest."""
    said = []
    step, total = _step(subject), subject.steps_in_all
    if subject.translator is not None and step is not None and total and step < total and subject.folder is not None:
        said.append(f"The run is not finished: {step:,} of {total:,} steps. The same command goes on with it.")
    if subject.translator is not None and subject.translator.untrained:
        said.append(f"{subject.translator.untrained[:1].upper()}{subject.translator.untrained[1:]}.")
    for crash in subject.crashes:
        said.append(
            f"Training stopped at step {crash.get('step')} (stage {crash.get('stage')}, {crash.get('update')}): {crash.get('why')}."
        )
    if pictures is not None and pictures.same is False:
        said.append(
            f"The images at {pictures.where} are not those that the model was trained on: their fingerprints differ. What is shown is of the images there now."
        )
    if pictures is not None and pictures.seen:
        said.append(
            f"There are no test images of {some(pictures.seen)}: training images are shown, on which a model looks better than it is."
        )
    return said


def about(subject: Subject, pictures: Pictures | None, doctor: CheckReport | None) -> list[tuple[str, Cell]]:
    """Rows (what, value) about model and data."""
    config, translator = subject.config, subject.translator
    rows: list[tuple[str, Cell]] = []
    if config is not None:
        rows.append(("method", config.method + (f" ({PAPERS[config.method]})" if config.method in PAPERS else "")))
    if translator is not None:
        header = translator.header
        ways = [f"{a} → {b}" for a, b in translator.directions[: MOST_NAMED + 1]]
        many = len(translator.directions) > MOST_NAMED
        if translator.method.from_noise:
            rows.append(("makes images of", some(translator.domains, 12)))
        else:
            rows.append(
                ("directions", f"{len(translator.directions):,}, between all domains" if many else ", ".join(ways))
            )
        rows += [("step", header.get("step")), ("stage", header.get("stage") or None)]
        rows.append(("parameters for translating", sum(p.numel() for p in translator.method.parameters())))
        for source in header.get("pretrained") or ():
            text = f"{source.get('name')} ({source.get('file')}, SHA-256 {str(source.get('sha256'))[:16]}…, {source.get('licence')})"
            rows.append(("pretrained weights", text))
        origin = (header.get("extra") or {}).get("started_from")
        if isinstance(origin, Mapping):
            rows.append(("started from", f"{origin.get('source')}, SHA-256 {str(origin.get('sha256'))[:16]}…"))
        rows.append(("model file, SHA-256", translator.sha256 or None))
        rows.append(("images it was trained on, fingerprint", header.get("data_fingerprint") or None))
        rows.append(("made with", f"unpaired {header.get('version')}"))
    if config is not None:
        t = config.training
        rows.append(("precision", t.precision + (f", averaged weights (decay {t.ema})" if t.ema else "")))
        side = config.data.size
        rows.append(("image size", f"{side}×{side}, cut from a shorter side of {config.data.resize or side}"))
    counts = train_counts(pictures, doctor)
    if counts:
        rows.append(("training images", some([f"{d}: {n:,}" for d, n in counts.items()], 12)))
    if pictures is not None and pictures.looked_at:
        rows.append(("held out to look at", some([f"{d}: {n:,}" for d, n in pictures.looked_at.items()], 12)))
    if pictures is not None:
        rows.append(("data", pictures.where))
    return [(k, v if isinstance(v, (str, int)) else "–") for k, v in rows]


def changed_settings(subject: Subject) -> tuple[list[list[Cell]], list[str]]:
    """Rows (setting, value, default) of what differs from the defaults, and what each setting is."""
    config = subject.config
    if config is None:
        return [], []
    defaults = {
        "data": DataConfig().model_dump(mode="json"),
        "training": TrainingConfig().model_dump(mode="json"),
        "model": type(config.model)().model_dump(mode="json"),
        "seed": 0,
    }
    now = {k: v for k, v in config.to_dict().items() if k in defaults}
    tables: dict[str, type[BaseModel]] = {"data": DataConfig, "training": TrainingConfig, "model": type(config.model)}
    rows: list[list[Cell]] = []
    notes = []
    for key, (default, value) in sorted(differences(defaults, now).items()):
        table, _, name = key.partition(".")
        known = tables[table].model_fields.get(name.split(".")[0]) if table in tables else None
        what = known.description if known is not None and known.description else ""
        rows.append([key, _value(value), _value(default)])
        notes.append(" ".join(what.replace("``", "").split()))
    return rows, notes


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)


def model_and_data(subject: Subject, pictures: Pictures | None) -> tuple[str, str]:
    """How the model and its data are named in a command."""
    folder = subject.folder or subject.path or Path("RUN")
    plain = pictures is not None and pictures.tree is not None
    return shlex.quote(str(folder)), shlex.quote(pictures.where) if plain and pictures is not None else "DATA"


def commands(subject: Subject, pictures: Pictures | None, report: str) -> list[str]:
    """What repeats training, figures and this report."""
    blocks = [("", f"pip install unpaired=={__version__}")]
    model, data = model_and_data(subject, pictures)
    typed = subject.origin.get("command")
    if isinstance(typed, str):
        blocks.append(("# the training, as it was asked for", typed))
    if subject.folder is not None and subject.adaptation is None:
        config, again = (shlex.quote(f"{subject.folder}{end}") for end in ("/config.toml", "-again"))
        command = f"unpaired train {data} --config {config} --out {again}"
        blocks.append(("# the same training from its settings alone, which stand below as config.toml", command))
    for name, results in subject.results:
        title = f"# the figures {name}" if len(subject.results) > 1 else "# the figures"
        blocks.append((title, _evaluate(results, model, data)))
    if not subject.results and subject.translator is not None and subject.translator.directions:
        blocks.append(("# figures", f"unpaired evaluate {model} {data} --out results.json"))
    blocks.append(("# this report", report))
    lines: list[str] = []
    for title, command in blocks:
        lines += [""] * bool(lines) + [title] * bool(title) + [command]
    return lines


def _evaluate(results: Mapping[str, Any], model: str, data: str) -> str:
    p = results.get("provenance") or {}
    place = p.get("model")
    parts = [f"unpaired evaluate {shlex.quote(place) if isinstance(place, str) else model} {data}"]
    networks = p.get("backbones") or {}
    asked = {**p, "backbone": list(networks) or p.get("backbone"), "lpips": list(p.get("lpips") or ()) or None}
    asked["feature_precision"] = next((n.get("precision") for n in networks.values() if isinstance(n, Mapping)), None)
    for name, default in EVALUATE_OPTIONS.items():
        value = asked.get(name)
        if value is not None and value != default:
            text = (
                ",".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
                if isinstance(value, list)
                else str(value)
            )
            parts.append(f"--{name.replace('_', '-')} {shlex.quote(text)}")
    chosen = (results.get("classification") or {}).get("config") or {}
    usual = ClassifierConfig().model_dump()
    for name, value in chosen.items():
        if name in usual and name not in ("classifier", "split") and value != usual[name]:
            parts.append(f"--set classifier.{name}={json.dumps(value)}")
    return " ".join([*parts, "--out results.json"])


def data_rows(summary: Mapping[str, Any]) -> list[list[Cell]]:
    """Rows of the data doctor's table."""
    rows: list[list[Cell]] = []
    for domain in summary["domains"]:
        for split in ("train", "test"):
            s = summary["splits"][split][domain]
            side = s["shorter_side"]
            span = f"{side['median']:g} ({side['min']}–{side['max']})" if side else "–"
            formats = ", ".join(f"{k} {v:,}" for k, v in s["formats"].items()) or "–"
            rows.append([domain, split, s["usable"], s["bad"], s["flat"], span, formats])
    return rows


def colophon() -> str:
    """How the page was made."""
    import torch

    return (
        f"Made by unpaired {__version__} with torch {torch.__version__}. Everything in this page is in this one file; it fetches nothing. "
        f"Perceptual distances and the map use {NETWORK}, not the network that the name FID stands for. Pictures of 96 pixels and more are stored "
        "as WebP at quality 90, smaller ones exactly."
    )
