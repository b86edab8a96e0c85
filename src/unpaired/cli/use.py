"""Commands that use a model or look at one, at data and at the settings there are: translate, synthesize, info,
presets, check."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any, Literal

from unpaired.cli.options import (
    Assignments,
    Data,
    Flat,
    Json,
    Model,
    print_json,
)
from unpaired.config import EvaluateConfig, ReportConfig, SynthesizeConfig, TranslateConfig


def translate(model: Model, /, *inputs: Path, options: Flat[TranslateConfig], levels: Path | None = None) -> None:
    """Translate pictures or whole trees of them; the structure, sizes and inputs are kept.

    Parameters
    ----------
    inputs
        Pictures or folders.
    levels
        Folder for sheets of every level (method cascade): the input and its translation, from the deepest level on.
    """
    from unpaired.errors import PartialError
    from unpaired.translate.files import check_apart, translate_files
    from unpaired.translate.translator import load

    failed: list[PartialError] = []  # a bad picture stops neither the other sheets nor the translations
    if levels is not None:
        from unpaired.translate.synthesis import write_level_sheets

        check_apart(levels, "--levels", options.out, inputs)
    translator = load(model, device=options.device, precision=options.precision, engine=options.engine)
    if levels is not None:
        try:
            write_level_sheets(translator, inputs, to=options.to, source=options.source, folder=levels)
        except PartialError as error:
            failed.append(error)
    try:
        done = translate_files(translator, inputs, options)
        if not options.quiet:
            print(done.text())
    except PartialError as error:
        failed.insert(0, error)
    if failed:
        raise PartialError("\n".join(map(str, failed)))


def synthesize(model: Model, /, *, options: Flat[SynthesizeConfig]) -> None:
    """Draw pictures from noise (methods deepvae, biggan and stylegan): PNG files and a sheet of them."""
    from unpaired.translate.synthesis import synthesize as run

    written = run(model, options)
    print(f"{len(written)} pictures: {options.out}; an overview: {options.out / 'sheet.png'}")


def info(model: Model, /, *, json: Json = False) -> None:
    """What a model is: method, domains, directions, settings, training data, hash."""
    from unpaired.translate.translator import load

    about = load(model).info()
    if json:
        print_json(about)
        return
    settings = about.pop("config") or {}
    for key, value in about.items():
        if value not in (None, [], {}):
            print(f"{key:21} {_plain(value)}")
    print("settings")
    for table, values in settings.items():
        if isinstance(values, dict):  # as --set takes them
            text = ", ".join(f"{k}={_json(v)}" for k, v in values.items() if v is not None)
            print(
                textwrap.fill(
                    text, 110, initial_indent=f"  {table}: ", subsequent_indent="    ", break_on_hyphens=False
                )
            )


def _json(value: Any) -> str:  # in `info` the name json is the option's
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _plain(value: Any) -> str:
    """A value for a person: words without quotes, lists without brackets."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(v) for v in value)
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    return str(value)


def presets(name: str | None = None, /) -> None:
    """Ready settings, one for each published experiment and a few for small machines.

    Parameters
    ----------
    name
        Show this one: its command, cost and expected result, and every setting.
    """
    from unpaired.config import preset_text
    from unpaired.config import presets as shipped

    if name is not None:
        print(preset_text(name), end="")
        return
    for name, title in shipped().items():
        print(f"{name:24} {title}")


def check(data: Path, /, *, json: Json = False) -> None:
    """Look at a data folder: what is there, what is wrong, and how to train on it. Exit 2 when training would refuse.

    Parameters
    ----------
    data
        Folder of images.
    """
    from unpaired.data.check import check as run

    report = run(data)
    if json:
        print_json(report.to_dict())
    else:
        print(report.text())
    if not report.ok:
        sys.exit(2)


# ----------------------------------------------------------------------------------------------------
# Commands that judge models: evaluate, compare, report.


def evaluate(
    model: Model,
    data: Data,
    /,
    *,
    options: Flat[EvaluateConfig] | None = None,
    set_: Assignments = [],  # noqa: B006
) -> None:
    """Distances between translated and real images and more, each with its N, interval, floor and baseline.

    Parameters
    ----------
    set_
        KEY=VALUE, settings of RC and FC, as in --set classifier.steps=300; may be repeated.
    """
    from unpaired.config import classifier_settings, parse_assignments
    from unpaired.evaluation.results import format_table
    from unpaired.evaluation.run import evaluate as run
    from unpaired.evaluation.run import is_main_process

    changes: dict[str, Any] = {"classifier_config": classifier_settings(parse_assignments(set_))} if set_ else {}
    results = run(model, data, options, **changes)
    if is_main_process():
        print(format_table(results))


def compare(
    *results: Path, format: Literal["text", "markdown", "latex"] = "text", out: Path | None = None, digits: int = 3
) -> None:
    """Results of unpaired evaluate side by side, with intervals, and what cannot be compared and why.

    Parameters
    ----------
    results
        Two or more files of unpaired evaluate.
    format
        text for a terminal; markdown or latex for a paper.
    out
        File to write instead of printing.
    digits
        Significant digits.
    """
    from unpaired.evaluation.results import compare as run
    from unpaired.files import check_output, write_output

    if out is not None:
        check_output(out, "table.txt")
    text = run(list(results), digits=digits).text(format)
    if out is None:
        print(text)
        return
    write_output(out, (text + "\n").encode())


def report(*paths: Path, options: Flat[ReportConfig] | None = None) -> None:
    """One self-contained HTML page about a run (or a model, or an adaptation) and about results of evaluate.

    Parameters
    ----------
    paths
        A run folder or a model file, and any number of results.json; results alone are compared.
    """
    from unpaired.report import write_report

    path = write_report(*paths, options=options)
    if options is None or not options.quiet:
        print(f"open {path}")
