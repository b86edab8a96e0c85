"""Sections of what a feature network and a classifier find: the map, nearest training images, where to look for failures."""

from __future__ import annotations

from unpaired.report import looks
from unpaired.report.job import Job
from unpaired.report.page import Card, scatter_panel

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
