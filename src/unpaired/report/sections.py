"""The sections of the report of a run, of a model, or of results, in their order, from what :mod:`gather` found and :mod:`looks`
computed.

A section that cannot be shown says why in the page; it never stops the report.
"""

from __future__ import annotations

from unpaired.report import figures, words
from unpaired.report.job import Job
from unpaired.report.section_features import failures, feature_map, neighbours
from unpaired.report.section_metrics import adaptation, metrics
from unpaired.report.section_pictures import before_after, translations


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
