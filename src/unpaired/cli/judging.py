"""Commands that judge models: evaluate, compare, report."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from unpaired.cli.parameters import AnyPrecision, Assignments, Data, Device, Model, Names, Quiet


def evaluate(
    model: Model,
    data: Data,
    /,
    *,
    out: Path | None = None,
    metrics: str = "distances,coverage,errors,content",
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
    device: Device = "auto",
    precision: AnyPrecision = "fp32",
    pairs: Path | None = None,
    threshold: str = "12,16",
    left: str | None = None,
    palette: str | None = None,
    masks: Path | None = None,
    mask_threshold: float = 0.5,
    classifier: Path | None = None,
    labelled: Path | None = None,
    set_: Assignments = [],  # noqa: B006
    keep_features: bool = False,
    cache: bool = True,
) -> None:
    """Distances between translated and real images and more, each with its N, interval, floor and baseline (docs/evaluation.md).

    Parameters
    ----------
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
        Resamples for the intervals of distances, at least 20; 0 for none.
    by
        direction: every pair of domains; target: each target from a mix of its sources; auto: the first up to 12 pairs.
    checkpoint
        Of a run with --during-training: auto reports both.
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
        model, data, out=out, metrics=_listed(metrics), backbone=_listed(backbone) if backbone is not None else None, weights=weights,
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
    from unpaired.evaluation_compare import compare as run
    from unpaired.outputs import check_output, write_output

    if out is not None:
        check_output(out, "table.txt")
    text = run(list(results), digits=digits).text(format)
    if out is None:
        print(text)
        return
    write_output(out, (text + "\n").encode())


def report(
    *paths: Path,
    out: Path = Path("report.html"),
    data: Names = [],  # noqa: B006
    images: int = 8,
    limit: int = 120,
    weights: Path | None = None,
    classifier: Path | None = None,
    seed: int = 0,
    device: Device = "auto",
    quiet: Quiet = False,
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
    """
    from unpaired.report import write_report

    path = write_report(
        *paths, out=out, data=data, images=images, limit=limit, weights=weights, classifier=classifier, seed=seed, device=device,
        quiet=quiet,
    )  # fmt: skip
    if not quiet:
        print(f"open {path}")
