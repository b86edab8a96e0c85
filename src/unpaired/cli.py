"""The command line. Thin: each command parses, then calls one function of the package; ``--help`` never imports torch."""

from __future__ import annotations

import json
import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from cyclopts import App, CycloptsError, Parameter

from unpaired import signals
from unpaired._version import __version__
from unpaired.errors import UnpairedError

app = App(
    name="unpaired",
    help="Learn to translate images between domains from folders that do not correspond.\n\n"
    "Start: unpaired check DATA, then unpaired train DATA --out RUN, then unpaired translate RUN PICTURES --to DOMAIN --out DIR.",
    help_format="plaintext",
    help_formatter="plain",  # the decorated one loads a Markdown renderer, which costs more than the rest of --help
    version=__version__,
    version_flags=["--version"],
    help_epilogue="Exit codes: 0 ok, 1 failed, 2 refused before work, 3 finished with failed items, 4 stopped by itself (state saved), "
    "130 and 143 stopped by a signal (state saved).",
)
importer = App(
    name="import",
    help="Turn checkpoints of other projects into models of unpaired.",
    help_format="plaintext",
    help_formatter="plain",
)
app.command(importer)
app.register_install_completion_command()

Settings = Annotated[list[str], Parameter(name="--set", negative="", consume_multiple=False, show_default=False)]
Names = Annotated[list[str], Parameter(negative="", consume_multiple=False, show_default=False)]
Domains = Annotated[str, Parameter(name="--domains")]
Classes = Annotated[str | None, Parameter(name="--domains")]


def _split(text: str) -> tuple[str, str]:
    from unpaired.errors import ConfigError

    parts = [p.strip() for p in text.split(",")]
    if len(parts) != 2 or not all(parts) or parts[0] == parts[1]:
        raise ConfigError(f"--domains {text!r}: give two different names, first A then B, as in --domains cat,tiger")
    return parts[0], parts[1]


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


@app.command
def train(
    data: Path,
    /,
    *,
    out: Path,
    method: str | None = None,
    preset: str | None = None,
    config: Path | None = None,
    set_: Settings = [],  # noqa: B006  read only; None would show as a type in the help
    pretrained: Path | None = None,
    steps: int | None = None,
    seed: int | None = None,
    weights: str | None = None,
    precision: Literal["auto", "fp32", "tf32", "bf16"] | None = None,
    device: str | None = None,
    compile: bool | None = None,
    start_from: Path | None = None,
    workers: int | None = None,
    during_training: str | None = None,
    allow_change: Names = [],  # noqa: B006
    quiet: bool = False,
) -> None:
    """Train on a folder of images, or resume the run that --out holds (the same command again).

    Parameters
    ----------
    data
        Folder of images; layouts in docs/data.md, and `unpaired check DATA` says what is seen.
    out
        Folder of the run: settings, log, samples, checkpoints.
    method
        unit (default); `unpaired presets` lists ready settings.
    preset
        Name of a shipped preset, or a TOML file.
    config
        TOML file laid over the preset.
    set_
        KEY=VALUE, any setting, as in --set model.width=32; may be repeated.
    pretrained
        Run or model file of a pretrained GAN to start from (unpaired pretrain, unpaired import); methods deepi2i, deepi2i-stylegan.
    steps
        Training steps in all (stages are scaled in proportion).
    seed
        Everything random follows from it.
    weights
        Pretrained weights of methods that build on them: file or folder, or random to do without.
    precision
        auto takes bf16 where the hardware has it.
    device
        auto, cpu, cuda or cuda:N.
    compile
        Compile the losses with torch.compile.
    start_from
        Model whose weights a fresh run begins with: an imported one, or one trained on other images.
    workers
        Loader processes; the result does not depend on it.
    during_training
        every=N: distances on held-out training images each N steps; the best checkpoint is kept beside the last (RUN/best).
        More: every=N,backbone=fid,share=0.1,images=256,weights=FOLDER.
    allow_change
        Setting that may differ from the run being resumed; may be repeated.
    quiet
        No progress; warnings stay.
    """
    from unpaired.config import parse_assignments, parse_looks
    from unpaired.runs import train as run

    settings = parse_assignments(set_) | (parse_looks(during_training) if during_training is not None else {})
    named = {
        "seed": seed, "model.weights": weights, "training.precision": precision, "training.device": device, "training.compile": compile, "data.workers": workers,
    }  # fmt: skip
    settings |= {key: value for key, value in named.items() if value is not None}
    trained = run(
        data, out, method=method, preset=preset, config=config, settings=settings, steps=steps, start_from=start_from,
        pretrained=pretrained, allow_change=allow_change, quiet=quiet,
    )  # fmt: skip
    if not quiet:
        from unpaired.validation import summary

        here = shlex.quote(str(out))
        single = f"unpaired synthesize {here} --n 64 --out DIR"
        lines = [
            f"done: {out}",
            summary(out),
            f"next: {single if len(trained.domains) == 1 else f'unpaired translate {here} PICTURES --to DOMAIN --out DIR'}",
        ]
        print("\n".join(line for line in lines if line))


@app.command
def pretrain(
    data: Path,
    /,
    *,
    out: Path,
    method: Literal["biggan", "stylegan"] | None = None,
    preset: str | None = None,
    config: Path | None = None,
    set_: Settings = [],  # noqa: B006
    pretrained: Path | None = None,
    steps: int | None = None,
    seed: int | None = None,
    precision: Literal["auto", "fp32", "tf32", "bf16"] | None = None,
    device: str | None = None,
    workers: int | None = None,
    allow_change: Names = [],  # noqa: B006
    quiet: bool = False,
) -> None:
    """Train a GAN on your own images, for DeepI2I to start from; or resume the run that --out holds.

    Parameters
    ----------
    data
        Folder of class folders, or a single folder of images.
    out
        Folder of the run: settings, log, samples, checkpoints.
    method
        biggan (class-conditional; default), or stylegan (all images together, for two-domain translation).
    preset
        biggan-small or stylegan-small when nothing is said; `unpaired presets` lists others.
    config
        TOML file laid over the preset.
    set_
        KEY=VALUE, any setting; may be repeated.
    pretrained
        Run or model file of another GAN to start from, whatever its classes.
    steps
        Training steps.
    seed
        Everything random follows from it.
    precision
        auto takes bf16 where the hardware has it.
    device
        auto, cpu, cuda or cuda:N.
    workers
        Loader processes; the result does not depend on it.
    allow_change
        Setting that may differ from the run being resumed; may be repeated.
    quiet
        No progress; warnings stay.
    """
    from unpaired.config import parse_assignments
    from unpaired.runs import pretrain as run

    settings = parse_assignments(set_)
    named = {"seed": seed, "training.precision": precision, "training.device": device, "data.workers": workers}
    settings |= {key: value for key, value in named.items() if value is not None}
    run(
        data, out, method=method, preset=preset, config=config, settings=settings, steps=steps, pretrained=pretrained, allow_change=allow_change,
        quiet=quiet,
    )  # fmt: skip
    if not quiet:
        print(f"done: {out}\nnext: unpaired train DATA --out RUN --pretrained {shlex.quote(str(out))}")


@app.command
def plan(
    config: str,
    data: Path,
    /,
    *,
    set_: Settings = [],  # noqa: B006
    steps: int | None = None,
    memory: float | None = None,
    json: bool = False,
) -> None:
    """Predict memory and time of a run on this machine from a few timed steps, and what would fit where it does not.

    Parameters
    ----------
    config
        Name of a shipped preset, or a TOML file (a run's config.toml too).
    data
        Folder of images, as for training.
    set_
        KEY=VALUE, any setting; may be repeated.
    steps
        Training steps in all.
    memory
        GiB that the run may use; what is free here when not given.
    json
        Print JSON.
    """
    from unpaired.config import parse_assignments
    from unpaired.planning import plan as run

    found = run(config, data, settings=parse_assignments(set_), steps=steps, memory=memory)
    if json:
        _print_json(found.to_dict())
    else:
        print(found.text())


@app.command
def finetune(
    data: Path,
    /,
    *,
    out: Path,
    network: Literal["vgg19", "mobilenet_v1"] = "vgg19",
    weights: str = "pretrained",
    epochs: int = 50,
    batch_size: int = 25,
    lr: float = 0.01,
    momentum: float = 0.9,
    size: int | None = None,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    quiet: bool = False,
) -> None:
    """Fine-tune a classifier's deepest layers to tell the domains apart, as another source of features (method cascade).

    Parameters
    ----------
    data
        Folder of images, as for training.
    out
        File to write, ending in .safetensors; then unpaired train --weights FILE.
    network
        Which classifier.
    weights
        Its pretrained weights: file or folder, or random to do without.
    epochs
        Passes over all images.
    batch_size
        Images in a step.
    lr
        Learning rate, constant.
    momentum
        Of the gradient descent.
    size
        Side of the crops in pixels; the network's own when left out.
    seed
        Everything random follows from it.
    device
        auto, cpu, cuda or cuda:N.
    overwrite
        Replace a file that is there.
    quiet
        No progress.
    """
    from unpaired.finetuning import finetune as run

    done = run(
        data, out, network=network, pretrained=weights, epochs=epochs, batch_size=batch_size, lr=lr, momentum=momentum, size=size,
        seed=seed, device=device, overwrite=overwrite, quiet=quiet,
    )  # fmt: skip
    print(done.text())


@app.command
def translate(
    model: Path,
    /,
    *inputs: Path,
    to: str,
    out: Path,
    source: str | None = None,
    batch_size: int = 8,
    seed: int = 0,
    samples: int = 1,
    device: str = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    engine: Literal["torch", "openvino"] = "torch",
    max_pixels: int | None = None,
    format: Literal["png", "jpg", "webp"] = "png",
    report: Path | None = None,
    overwrite: bool = False,
    mask: Path | None = None,
    mask_threshold: float | None = None,
    levels: Path | None = None,
    quiet: bool = False,
) -> None:
    """Translate pictures or whole trees of them; the structure, sizes and inputs are kept.

    Parameters
    ----------
    model
        Model file, checkpoint folder or run folder.
    inputs
        Pictures or folders.
    to
        Domain to translate to; all makes a grid of every domain for each input.
    out
        Folder for the results; run the same command again to go on after an interruption.
    source
        Domain of the inputs, where it does not follow from --to; none for pictures of no trained domain (deepi2i).
    batch_size
        Pictures of equal size at a time.
    seed
        For methods with random outputs.
    samples
        Results for each input, in OUT/sample-1 and so on (methods with random outputs).
    device
        auto, cpu, cuda or cuda:N.
    precision
        fp32 or bf16.
    engine
        torch, or openvino for more pictures a second on a CPU in fp32 (extra openvino).
    max_pixels
        Larger pictures are translated in overlapping tiles of this many pixels.
    format
        File format of the results.
    report
        Where to write the JSON report (always written into --out as well when something failed).
    overwrite
        Replace results of another model or other options.
    mask
        Folder for the attention maps (method attend): 8-bit grey, 0 where the result equals the input exactly.
    mask_threshold
        Make the maps black and white at this value, 0 to 1; what is black stays as it was in the input.
    levels
        Folder for sheets of every level (method cascade): the input and its translation, from the deepest level on.
    quiet
        No progress.
    """
    from unpaired.translation import load, translate_files

    if levels is not None:
        from unpaired.level_sheets import check_level_folder, write_level_sheets

        check_level_folder(levels, out)
        translator = load(model, device=device, precision=precision)
        write_level_sheets(translator, list(inputs), to=to, source=source, folder=levels)
    done = translate_files(
        model, list(inputs), to=to, source=source, out=out, device=device, precision=precision, engine=engine,
        batch_size=batch_size, seed=seed,
        samples=samples, max_pixels=max_pixels, format=format, report=report, overwrite=overwrite, mask=mask,
        mask_threshold=mask_threshold, quiet=quiet,
    )  # fmt: skip
    if not quiet:
        print(done.text())


@app.command
def synthesize(
    model: Path,
    /,
    *,
    out: Path,
    n: int = 64,
    seed: int = 0,
    to: str | None = None,
    interpolate: int = 0,
    device: str = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    overwrite: bool = False,
) -> None:
    """Draw pictures from noise (methods deepvae and biggan): PNG files and a sheet of them.

    Parameters
    ----------
    model
        Model file, checkpoint folder or run folder.
    out
        Folder for the pictures.
    n
        How many; with --interpolate, how many walks.
    seed
        Picture number i follows from the seed and i alone.
    to
        Domain, where the model knows several.
    interpolate
        Pictures on the way between two latents, one row of the sheet a walk.
    device
        auto, cpu, cuda or cuda:N.
    precision
        fp32 or bf16.
    overwrite
        Replace pictures that are there.
    """
    from unpaired.synthesis import synthesize as run

    written = run(
        model, out, count=n, seed=seed, domain=to, interpolate=interpolate, device=device, precision=precision, overwrite=overwrite
    )  # fmt: skip
    print(f"{len(written)} pictures: {out}; an overview: {out / 'sheet.png'}")


@app.command
def evaluate(
    model: Path,
    data: Path,
    /,
    *,
    out: Path | None = None,
    metrics: Annotated[str, Parameter(name="--metrics")] = "distances,coverage,errors,content",
    backbone: str | None = None,
    weights: Path | None = None,
    feature_precision: Literal["fp32", "bf16"] = "fp32",
    lpips: str = "alex",
    split: Literal["train", "test"] = "test",
    limit: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    bootstrap: int = 200,
    by: Literal["auto", "direction", "target"] = "auto",
    checkpoint: Literal["auto", "last", "best"] = "auto",
    device: str = "auto",
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "fp32",
    pairs: Path | None = None,
    threshold: str = "12,16",
    left: str | None = None,
    palette: str | None = None,
    masks: Path | None = None,
    mask_threshold: float = 0.5,
    classifier: Path | None = None,
    labelled: Path | None = None,
    set_: Settings = [],  # noqa: B006
    keep_features: bool = False,
    cache: bool = True,
) -> None:
    """Distances between translated and real images and more, each with its N, interval, floor and baseline (docs/evaluation.md).

    Parameters
    ----------
    model
        Model file, checkpoint folder or run folder.
    data
        Folder of images, as for training.
    out
        JSON file for the results.
    metrics
        Comma-separated: distances, coverage, errors, content, lpips, classifier (RC and FC), or all.
    backbone
        Feature networks, comma-separated: mobilenet_v1 (the default), fid (the Inception of FID and KID), or any classifier of torchvision. The name
        stands in every figure.
    weights
        File or folder with the weights of those networks and of LPIPS.
    feature_precision
        bf16 is faster and moves the figures a little.
    lpips
        Networks of LPIPS: alex, vgg or both.
    split
        Which images to use.
    limit
        At most this many images a domain.
    batch_size
        Images at a time; does not change the result.
    seed
        For random halves, subsets, resamples and random outputs.
    bootstrap
        Resamples for the intervals of distances; 0 for none.
    by
        direction: every pair of domains; target: each target from a mix of its sources; auto: the first up to 12 pairs.
    checkpoint
        Of a run with --during-training: auto reports both.
    device
        auto, cpu, cuda or cuda:N.
    precision
        Of the translations.
    pairs
        Folder of true pairs, for pixel accuracy: pictures of two halves, or two folders named like the domains.
    threshold
        Colour differences (0 to 255), comma-separated, up to which a pixel is right: of all three channels together, and of each.
    left
        Domain of the left halves; the model's first source if not given.
    palette
        facades, or a file with a name and a colour a line: mean IoU where the targets of the pairs are label maps.
    masks
        Folder with pictures (named like the source) and true masks (mask), for the overlap with the attention's masks.
    mask_threshold
        Where the attention's masks are cut.
    classifier
        Classifier of unpaired adapt, for its accuracy and confusion table on --labelled.
    labelled
        Labelled target images: a folder of class folders, or an npz file.
    set_
        KEY=VALUE, settings of RC and FC, as in --set classifier.steps=300; may be repeated.
    keep_features
        Write the features of every set beside the results.
    cache
        Keep features on disk, by the content of each picture.
    """
    from unpaired.config import parse_assignments
    from unpaired.evaluation import evaluate as run
    from unpaired.evaluation import format_table, is_main_process
    from unpaired.evaluation_classes import classifier_settings

    results = run(
        model, data, out=out, metrics=_listed(metrics), backbone=_listed(backbone) if backbone else None, weights=weights,
        feature_precision=feature_precision, lpips=_listed(lpips), split=split, limit=limit, batch_size=batch_size, seed=seed,
        bootstrap=bootstrap, by=by, checkpoint=checkpoint, device=device, precision=precision, pairs=pairs,
        threshold=_numbers(threshold, "--threshold"), left=left, palette=palette, masks=masks, mask_threshold=mask_threshold,
        classifier=classifier, labelled=labelled, classifier_config=classifier_settings(parse_assignments(set_)),
        keep_features=keep_features, cache=cache,
    )  # fmt: skip
    if is_main_process():
        print(format_table(results))


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str, option: str) -> list[float]:
    from unpaired.errors import ConfigError

    try:
        return [float(part) for part in _listed(text)]
    except ValueError as error:
        raise ConfigError(f"{option} {text!r}: numbers are wanted, as in {option} 12,16") from error


@app.command
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
    from unpaired._files import write_atomically
    from unpaired.evaluation_compare import compare as run

    text = run(list(results), digits=digits).text(format)
    if out is None:
        print(text)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, (text + "\n").encode())


@app.command
def report(
    *paths: Path,
    out: Path = Path("report.html"),
    data: Names = [],  # noqa: B006
    images: int = 8,
    limit: int = 120,
    weights: Path | None = None,
    classifier: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    quiet: bool = False,
) -> None:
    """One self-contained HTML page about a run (or a model, or an adaptation) and about results of evaluate.

    Parameters
    ----------
    paths
        A run folder or a model file, and any number of results.json; results alone are compared.
    out
        The page to write.
    data
        Folder of the images where the run does not know it, or DOMAIN=PATH, once for each domain.
    images
        Held-out images shown for each direction.
    limit
        Images of each domain for the map of features and the failure gallery.
    weights
        File or folder with the weights of the feature network, MobileNet v1.
    classifier
        Classifier (of adapt) that judges the translations; that of an adaptation is found by itself.
    seed
        For random outputs and the map.
    device
        auto, cpu, cuda or cuda:N.
    quiet
        No progress.
    """
    from unpaired.report import write_report

    path = write_report(
        *paths, out=out, data=data, images=images, limit=limit, weights=weights, classifier=classifier, seed=seed, device=device,
        quiet=quiet,
    )  # fmt: skip
    if not quiet:
        print(f"open {path}")


@app.command
def look(
    model: Path,
    data: Path,
    /,
    *,
    to: str,
    out: Path,
    source: str | None = None,
    network: Literal["mobilenet_v1", "alexnet", "vgg19", "squeezenet1_1"] = "mobilenet_v1",
    features: str | None = None,
    weights: Path | None = None,
    limit: int = 200,
    rows: int = 16,
    nearest: int = 3,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """A map of deep features of source, target and translations (t-SNE), and the target images nearest to each translation.

    Parameters
    ----------
    model
        Model file, checkpoint folder or run folder.
    data
        Folder of images, as for training.
    to
        Domain to translate to.
    out
        Folder for map.png (source blue, target red, translations cyan), neighbours.png and look.json.
    source
        Domain of the inputs, where it does not follow from --to.
    network
        Feature network of the perceptual distance.
    features
        Feature network of the map: vgg19_fc7 as in the paper, or a backbone's name; that of --network when left out.
    weights
        File or folder with the weights of both.
    limit
        Images of each kind.
    rows
        Rows of neighbours.png.
    nearest
        Target images in each row.
    seed
        Of the map, and of random outputs.
    device
        auto, cpu, cuda or cuda:N.
    """
    from unpaired.look import look as run

    done = run(
        model, data, out, to=to, source=source, network=network, features=features, weights=weights, limit=limit, rows=rows,
        nearest=nearest, seed=seed, device=device,
    )  # fmt: skip
    print(done.text())


@app.command
def check(data: Path, /, *, json: bool = False) -> None:
    """Look at a data folder: what is there, what is wrong, and how to train on it. Exit 2 when training would refuse.

    Parameters
    ----------
    data
        Folder of images.
    json
        Machine-readable output.
    """
    from unpaired.data.check import check as run

    report = run(data)
    if json:
        _print_json(report.to_dict())
    else:
        print(report.text())
    if not report.ok:
        sys.exit(2)


@app.command
def adapt(
    *,
    source: Path,
    target: Path,
    out: Path,
    test: Path | None = None,
    method: str = "unit",
    recipe: Literal["joint", "translate"] | None = None,
    preset: str | None = None,
    set_: Settings = [],  # noqa: B006
    seed: int = 0,
    select_on_test: bool = False,
    quiet: bool = False,
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
    preset
        Name of a shipped preset, or a TOML file.
    set_
        KEY=VALUE, any setting; may be repeated.
    seed
        Everything random follows from it.
    select_on_test
        Choose the best checkpoint on the test labels, as the official code does; said in every result.
    quiet
        No progress.
    """
    from unpaired.adaptation import adapt as run
    from unpaired.config import parse_assignments

    result = run(
        source, target, test, out=out, method=method, recipe=recipe, preset=preset, settings=parse_assignments(set_), seed=seed,
        select_on_test=select_on_test, quiet=quiet,
    )  # fmt: skip
    print(result.text())


@importer.command(name="unit-v2")
def import_unit_v2(
    gen: Path, dis: Path | None = None, /, *, domains: Domains, out: Path, norm: Literal["none", "instance"] = "none"
) -> None:
    """UNIT's paper branch (version_02): GEN.pkl and, for `unpaired train --start-from`, DIS.pkl.

    Parameters
    ----------
    gen
        Generator file.
    dis
        Discriminator file.
    domains
        Names of A and B, as in cat,tiger.
    out
        Model file to write, model.safetensors.
    norm
        none for COCOResGen2, instance for COCOResGen: the tensors are the same and do not tell.
    """
    from unpaired import interop

    _imported(interop.import_unit_v2(gen, dis, _split(domains), norm=norm), out, whole=dis is not None)


@importer.command(name="unit-munit")
def import_unit_munit(gen: Path, dis: Path | None = None, /, *, domains: Domains, out: Path) -> None:
    """UNIT's second generation (master branch, MUNIT code base): GEN.pt and, for `unpaired train --start-from`, DIS.pt.

    Parameters
    ----------
    gen
        Generator file.
    dis
        Discriminator file.
    domains
        Names of A and B, as in cat,tiger.
    out
        Model file to write, model.safetensors.
    """
    from unpaired import interop

    _imported(interop.import_unit_munit(gen, dis, _split(domains)), out, whole=dis is not None)


@importer.command(name="biggan")
def import_biggan(gen: Path, dis: Path, /, *, domains: Classes = None, out: Path, standing: int = 0) -> None:
    """BigGAN-PyTorch: G_ema.pth (or G.pth) and D.pth, for DeepI2I to start from.

    Parameters
    ----------
    gen
        Generator file.
    dis
        Discriminator file.
    domains
        Names of all classes in order: comma-separated, or a text file with one a line. Numbered when left out.
    out
        Model file to write, model.safetensors.
    standing
        Replace the batch statistics by the mean over this many batches of noise (the official sampling uses 16).
    """
    from unpaired import interop

    _imported(interop.import_biggan(gen, dis, interop.class_names(domains), standing=standing), out, whole=True)


@importer.command(name="deepi2i")
def import_deepi2i(
    gen: Path, dis: Path, enc: Path, ada: Path, /, *, domains: Annotated[str, Parameter(name="--domains")], out: Path
) -> None:
    """DeepI2I: G.pth, D.pth, E1.pth (encoder) and A1.pth (adaptors) of the BigGAN variant.

    Parameters
    ----------
    gen
        Generator file.
    dis
        Discriminator file.
    enc
        Encoder file.
    ada
        Adaptor file.
    domains
        Names of the classes in order: comma-separated, or a text file with one a line. Fewer than the files have is right where
        the model reused ImageNet's rows.
    out
        Model file to write, model.safetensors.
    """
    from unpaired import interop

    _imported(interop.import_deepi2i(gen, dis, enc, ada, interop.class_names(domains) or ()), out, whole=True)


@importer.command(name="stylegan")
def import_stylegan(
    file: Path, /, *, out: Path, size: int = 256, averaged: bool = False, domains: Classes = None
) -> None:
    """StyleGAN in PyTorch (stylegan-256px-new.model of style-based-gan-pytorch), for DeepI2I's StyleGAN variant to start from.

    Parameters
    ----------
    file
        The checkpoint; NVIDIA's own .pkl files run code when opened and are refused.
    out
        Model file to write, model.safetensors.
    size
        Resolution that it was trained at.
    averaged
        Take the running average of the generator instead of the generator that the released DeepI2I starts from.
    domains
        A name for what it makes.
    """
    from unpaired import interop, interop_stylegan

    names = interop.class_names(domains) or ("images",)
    _imported(interop_stylegan.import_stylegan(file, names, size=size, averaged=averaged), out, whole=True)


@importer.command(name="deepi2i-stylegan")
def import_deepi2i_stylegan(file: Path, /, *, domains: Domains, out: Path, size: int = 256) -> None:
    """DeepI2I's StyleGAN variant: train_step-NNNNNN.model of the released code.

    Parameters
    ----------
    file
        The checkpoint.
    domains
        What it translates from and to, as in dog,cat.
    out
        Model file to write, model.safetensors.
    size
        Resolution that it was trained at.
    """
    from unpaired import interop_stylegan

    _imported(interop_stylegan.import_deepi2i_stylegan(file, _split(domains), size=size), out, whole=True)


@importer.command(name="cyclegan")
def import_cyclegan(gen: Path, dis: Path | None = None, /, *, domains: Domains, out: Path) -> None:
    """CycleGAN (pytorch-CycleGAN-and-pix2pix): latest_net_G_A.pth and, for `unpaired train --start-from`, latest_net_D_A.pth.

    Parameters
    ----------
    gen
        ResNet generator with instance norm, of one direction.
    dis
        Discriminator of that direction's target.
    domains
        What the generator translates from and to: horse,zebra for G_A of horse2zebra, zebra,horse for G_B.
    out
        Model file to write, model.safetensors.
    """
    from unpaired import interop

    _imported(interop.import_cyclegan(gen, dis, _split(domains)), out, whole=dis is not None)


def _imported(result: tuple[Any, dict[str, Any]], out: Path, *, whole: bool) -> None:
    from unpaired.checkpoint import write_model

    method, header = result
    write_model(out, method, header, whole=whole)
    if len(method.domains) > 2:
        print(f"wrote {out}: {len(method.domains)} classes")
    else:
        print(f"wrote {out}: {', '.join(f'{a} → {b}' for a, b in method.directions)}")


@app.command
def info(model: Path, /, *, json: bool = False) -> None:
    """What a model is: method, domains, directions, settings, training data, hash.

    Parameters
    ----------
    model
        Model file, checkpoint folder or run folder.
    json
        Machine-readable output.
    """
    from unpaired.translation import load

    about = load(model).info()
    if json:
        _print_json(about)
        return
    for key, value in about.items():
        print(f"{key:18} {value if isinstance(value, str) else _plain(value)}")


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@app.command
def presets() -> None:
    """Ready settings, one for each published experiment and a few for small machines."""
    from unpaired.config import presets as shipped

    for name, title in shipped().items():
        print(f"{name:24} {title}")


@app.command
def demo(*, out: Path = Path("demo"), seed: int = 0, reduced: bool = False) -> None:
    """Train and translate on embedded real images and leave a report: no download, about six minutes on two cores.

    Parameters
    ----------
    out
        Folder for data, runs and report.html.
    seed
        Everything random follows from it.
    reduced
        About a minute: proves that it runs, not that it learns.
    """
    from unpaired.demo import run_demo

    path = run_demo(out, seed=seed, reduced=reduced)
    print(f"open {path}")


def _usage_error(error: CycloptsError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the code of errors.py. ``--debug`` (or UNPAIRED_DEBUG=1) shows tracebacks."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug = os.environ.get("UNPAIRED_DEBUG") == "1" or "--debug" in tokens
    tokens = [t for t in tokens if t != "--debug"]
    try:
        with signals.handled():  # in every command and phase: the first signal ends it cleanly, the second at once
            app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        _usage_error(error)
    except UnpairedError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `unpaired check DATA | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        print(
            f"error: {type(error).__name__}: {error}; this is a bug in unpaired: run again with --debug and report the traceback",
            file=sys.stderr,
        )
        sys.exit(1)
    sys.exit(0)
