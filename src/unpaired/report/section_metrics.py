"""Sections of figures: those of `unpaired evaluate`, and those of `unpaired adapt`."""

from __future__ import annotations

from typing import Any

import numpy as np

from unpaired.metrics.intervals import share_interval
from unpaired.report import figures, words
from unpaired.report.charts import Dot
from unpaired.report.job import Job
from unpaired.report.page import Cell, Panel, interval_panel, line_panel


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
