"""What an evaluation refuses before it translates anything: a mistake found at the end would throw the work of hours away."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unpaired.config import DataConfig
from unpaired.data.folders import DataTree, find
from unpaired.data.sampling import Pool, open_pool
from unpaired.errors import ConfigError, DataError, UnpairedError, WeightsError, nearest
from unpaired.evaluation.classes import ClassifierConfig, Made, adaptation_figures, class_figures
from unpaired.evaluation.features import (
    DIVERSITY_SAMPLES,
    LPIPS,
    NOT_FIGURES,
    Backbone,
    FeatureStore,
    NetworkBackbone,
    Pass,
    figure_name,
    open_backbone,
    open_lpips,
    per_image,
)
from unpaired.evaluation.figures import (
    ENOUGH_IMAGES,
    Figure,
    Sets,
    feature_figures,
    mean_figure,
    means_over_targets,
    nothing,
    split_in_halves,
)
from unpaired.evaluation.inputs import MIXED, By, Images, Task, plan, share_lost
from unpaired.evaluation.results import NOISE, Options, format_table, measures_of, provenance_of, warnings_of
from unpaired.evaluation.truth import (
    THRESHOLDS,
    find_masks,
    find_pairs,
    mask_figures,
    mask_keys,
    open_palette,
    pixel_figures,
    pixel_keys,
)
from unpaired.files import check_output, write_output
from unpaired.machine import Ranks, joined
from unpaired.translate.translator import Translator, load

GROUPS = ("distances", "coverage", "errors", "content", "lpips", "classifier")
"""What can be asked for: ``distances`` (FD, KD, their means over classes, FD∞), ``coverage`` (precision, recall, density,
coverage), ``errors`` (cycle, identity, reconstruction), ``content`` (feature cosine, SSIM), ``lpips``, ``classifier`` (RC, FC)."""
CHECKPOINTS = ("auto", "last", "best")


def groups(metrics: Sequence[str]) -> tuple[str, ...]:
    """The groups that were asked for, in the order of GROUPS. Raises ConfigError for none and for unknown ones."""
    wanted = [metrics] if isinstance(metrics, str) else list(metrics)
    if "all" in wanted:
        return GROUPS
    if not wanted:
        raise ConfigError(f"metrics: none is named; there are: {', '.join(GROUPS)}, all")
    unknown = [m for m in wanted if m not in GROUPS]
    if unknown:
        raise ConfigError(
            f"unknown metrics '{unknown[0]}'.{nearest(unknown[0], GROUPS)} There are: {', '.join(GROUPS)}, all."
        )
    return tuple(g for g in GROUPS if g in wanted)


def features_file(out: Path | str) -> Path:
    """Where the features stand, beside the results."""
    return Path(out).with_name(f"{Path(out).stem}.features.safetensors")


def check_options(options: Options, checkpoint: str, out: Path | str | None) -> None:
    """Options by themselves, before the model is loaded. Raises ConfigError."""
    if options.batch_size < 1 or (options.limit is not None and options.limit < 1):
        raise ConfigError(f"batch_size = {options.batch_size}, limit = {options.limit}: both must be at least 1")
    if options.bootstrap < 0 or 0 < options.bootstrap < 20:
        raise ConfigError(f"bootstrap = {options.bootstrap}: 0 for no intervals, or at least 20 resamples")
    if checkpoint not in CHECKPOINTS:
        raise ConfigError(f"checkpoint = '{checkpoint}': there are auto, last and best")
    if (options.classifier is None) != (options.labelled is None):
        raise ConfigError(
            "--classifier and --labelled go together: a classifier, and labelled target images to test it on"
        )
    _check_thresholds(options)
    if options.palette is not None:
        if options.pairs is None:
            raise ConfigError("--palette needs --pairs: the true label maps")
        open_palette(options.palette)
    if options.keep_features and out is None:
        raise ConfigError("--keep-features needs --out: the features are written beside the results")
    if "classifier" in options.groups and options.split == "train":
        raise ConfigError("RC and FC are tested on images that nothing is trained on: leave out --split train")
    if out is not None:
        check_output(out, "results.json")
        if options.keep_features:
            check_output(features_file(out), "results.json")


def _check_thresholds(options: Options) -> None:
    given = options.thresholds
    thresholds = [given] if isinstance(given, (int, float)) else list(given)
    if not thresholds:
        raise ConfigError("threshold: none is named; colour differences from 0 to 255 are wanted, as in 12,16")
    for value in thresholds:
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"threshold = {value}: must be a finite number, at least 0")
    if not 0 < options.mask_threshold <= 1:  # NaN is not, either
        raise ConfigError(f"mask_threshold = {options.mask_threshold}: must be above 0 and at most 1")


def check_model(translator: Translator, options: Options) -> None:
    """Options that the model must be able to answer. Raises ConfigError."""
    if "classifier" in options.groups and len({target for _, target in translator.directions}) < 2:
        raise ConfigError("RC and FC need at least two target domains; this model translates into one")


def check_truth(translator: Translator, tasks: Sequence[Task], options: Options) -> None:
    """Whether the folders of pairs and masks hold what each task needs; no picture is opened. Raises DataError, ConfigError."""
    for task in tasks:
        if task.source == MIXED:
            continue
        if options.pairs is not None:
            find_pairs(translator, options.pairs, task.source, task.target, options.left)
        if options.masks is not None:
            find_masks(options.masks, task.source)
    if options.masks is not None:
        nothing = torch.zeros(0, 3, translator.method.image_size, translator.method.image_size)
        translator.attention(nothing, threshold=options.mask_threshold)


# ----------------------------------------------------------------------------------------------------
# A model and real images in, figures out: each with its N, its interval, its floor, and what it was computed from.
#
# ``evaluation_images`` chooses the pictures, ``evaluation_pass`` translates and measures them one by one, ``evaluation_figures``
# makes figures of that, ``evaluation_pairs`` and ``evaluation_classes`` add what needs a ground truth or a classifier.
#
# Legend: N images, H height, W width, D features; images [N, 3, H, W] in [-1, 1].

__all__ = ["ENOUGH_IMAGES", "GROUPS", "Figure", "evaluate", "format_table"]

DEFAULT_GROUPS = ("distances", "coverage", "errors", "content")
DEFAULT_BACKBONE = "mobilenet_v1"
BOOTSTRAP = 200
"""Resamples for the interval of a distance (fewer of a Fréchet distance for many images: metrics.intervals.resamples_for)."""
BEST = "best"
"""Folder of a run that holds its best checkpoint by validation."""


def evaluate(
    model: Translator | Path | str,
    data: Pool | DataTree | Path | str,
    *,
    out: Path | str | None = None,
    metrics: Sequence[str] = DEFAULT_GROUPS,
    backbone: str | Backbone | Sequence[str | Backbone] | None = None,
    weights: Path | str | None = None,
    feature_precision: str = "fp32",
    lpips: Sequence[str | LPIPS] = ("alex",),
    split: str = "test",
    device: str = "auto",
    precision: str = "fp32",
    batch_size: int = 16,
    limit: int | None = None,
    seed: int = 0,
    bootstrap: int = BOOTSTRAP,
    by: By = "auto",
    checkpoint: str = "auto",
    pairs: Path | str | None = None,
    threshold: float | Sequence[float] = THRESHOLDS,
    left: str | None = None,
    palette: Path | str | None = None,
    masks: Path | str | None = None,
    mask_threshold: float = 0.5,
    classifier: Path | str | None = None,
    labelled: Path | str | None = None,
    classifier_config: ClassifierConfig | None = None,
    train: Pool | None = None,
    keep_features: bool = False,
    cache: bool = True,
) -> dict[str, Any]:
    """Distances between translated and real images, and everything else that docs/evaluation.md lists.

    Images are resized and centre-cropped to the square on which the model was trained. Translations are rounded to 8 bits
    first, as a file would be. Errors are in units of [-1, 1], so 2 is the largest. Under torchrun each process takes its share
    of the images, and all have the same results.

    Args:
        model: a translator (then ``device`` and ``precision`` are its own), or a path as for :func:`unpaired.load`.
        data: a data folder, or a pool that holds the model's domains.
        out: also written here, as JSON.
        metrics: some of ``GROUPS``; "all" for all of them.
        backbone: names in ``unpaired.evaluation.BACKBONES`` or of torchvision's classifiers, or any
            :class:`~unpaired.evaluation.Backbone`; several make several figures. None is MobileNet v1; where its weights cannot be
            found, its figures are left out and a line says why.
        weights: file, or folder with the files, of the backbones and of LPIPS.
        lpips: networks of LPIPS (``alex``, ``vgg``, or ready ones), where ``lpips`` is among the metrics.
        limit: at most this many images of each domain, drawn at random with ``seed``.
        bootstrap: resamples for the intervals of distances; 0 leaves those out.
        by: ``direction`` measures every pair of domains by itself, ``target`` each target from a mix of its sources; ``auto``
            takes the first up to 12 pairs.
        checkpoint: of a run: ``last``, ``best`` (by validation), or ``auto``: the last, and the best beside it where there is one.
        pairs, threshold, left, palette: folder of true pairs (:func:`unpaired.evaluation.truth.pixel_figures`).
        masks, mask_threshold: folder of true masks (:func:`unpaired.evaluation.truth.mask_figures`).
        classifier, labelled: a classifier and labelled target images: accuracy and confusion table.
        classifier_config, train: settings of RC and FC, and their training images where ``data`` is a pool.
        keep_features: also write ``<out>.features.safetensors``.
        cache: keep features on disk (``$UNPAIRED_CACHE``).

    Returns:
        ``directions`` (a list), ``means``, ``reconstruction`` (by domain), ``measures``, ``warnings``, ``provenance``; plain JSON values.

    Raises:
        DataError: a domain of the model is not in the data. ConfigError: unknown backbone or bad option.
        All of these before anything is translated. UnpairedError: ``out`` could not be written; its text has the table.
        WeightsError: the weights of a backbone that was asked for by name, or of LPIPS, are missing or wrong; so are those in
            ``weights``, where it was given.
    """
    options = Options(
        groups(metrics), batch_size, limit, seed, bootstrap, by, split, pairs, threshold, left, palette, masks, mask_threshold,
        classifier, labelled, classifier_config or ClassifierConfig(), keep_features,
    )  # fmt: skip
    names = [backbone] if isinstance(backbone, (str, Backbone)) else list(backbone or ())
    if backbone is not None and not names:
        raise ConfigError("backbone: none is named; leave it out for the default")
    if "lpips" in options.groups and not lpips:
        raise ConfigError("lpips: no network is named; there are alex and vgg")
    check_options(options, checkpoint, out)
    chosen = _checkpoints(model, checkpoint, device, precision)
    translator = chosen[0][1]
    warnings: list[str] = []
    with joined(translator.device) as ranks:
        check_model(translator, options)
        adaptation = (  # first, so that a wrong file costs no translations; the same for each checkpoint
            adaptation_figures(classifier, labelled, device=translator.device)
            if classifier is not None and labelled is not None
            else {}
        )
        wanted = {"distances", "coverage", "content"} & set(options.groups)
        opened: list[Backbone] = [
            open_backbone(b, weights, translator.device, feature_precision) if isinstance(b, str) else b
            for b in names
            if wanted
        ]
        if not names and wanted:
            opened = _default(weights, translator.device, feature_precision, warnings)
        stores = {b.name: FeatureStore(b, on_disk=cache and isinstance(b, NetworkBackbone)) for b in opened}
        opened_nets = [
            open_lpips(n, weights, translator.device) if isinstance(n, str) else n
            for n in lpips
            if "lpips" in options.groups
        ]
        nets = {n.net: n for n in opened_nets}
        pools = _pools(data, train, translator, options)
        results: dict[str, Any] = {}
        features: dict[str, Tensor] = {}
        for name, one in reversed(chosen):
            found, features = _evaluate(one, name, pools, stores, nets, options, ranks, list(warnings), adaptation)
            results = found | ({"best": results} if results else {})
        for store in stores.values():
            store.save()
        if out is not None and ranks.main:
            _write(Path(out), results, features if keep_features else {})
    return results


def _checkpoints(
    model: Translator | Path | str, checkpoint: str, device: str, precision: str
) -> list[tuple[str | None, Translator]]:
    """(``last``, ``best`` or None, translator): the main one first."""
    if isinstance(model, Translator):
        return [(None, model)]
    best = Path(model) / BEST
    there = (best / "model.safetensors").is_file()
    if not there:
        if checkpoint == BEST:
            raise ConfigError(
                f"{model}: no best checkpoint; training keeps one with: unpaired train … --during-training every=500"
            )
        kind = "last" if (Path(model) / "checkpoints").is_dir() else None
        return [(kind, load(model, device=device, precision=precision))]
    places = {"last": Path(model), BEST: best}
    wanted = ("last", BEST) if checkpoint == "auto" else (checkpoint,)
    return [(name, load(places[name], device=device, precision=precision)) for name in wanted]


def _default(where: Path | str | None, device: torch.device, precision: str, warnings: list[str]) -> list[Backbone]:
    """MobileNet v1, or none and a warning where nobody said that its weights are here."""
    try:
        return [open_backbone(DEFAULT_BACKBONE, where, device, precision)]
    except WeightsError as error:
        if where is not None:
            raise
        warnings.append(f"no distances: {error}")
        return []


def _pools(
    data: Pool | DataTree | Path | str, train: Pool | None, translator: Translator, options: Options
) -> tuple[Pool, Pool | None]:
    """The images to measure on, and those to train classifiers on."""
    needs = "classifier" in options.groups
    if not isinstance(data, (DataTree, Path, str)):
        if needs and train is None:
            raise ConfigError("RC and FC need training images of the same domains: give train=POOL")
        return data, train
    settings = (translator.header.get("config") or {}).get("data") or {}
    config = DataConfig(**settings).model_copy(update={"size": translator.method.image_size, "resize": None})
    tree = data if isinstance(data, DataTree) else find(data, least=min(2, len(translator.domains)))
    pool = open_pool(tree, config, split=options.split)
    return pool, open_pool(tree, config, split="train") if needs else None


def _evaluate(
    translator: Translator,
    name: str | None,
    pools: tuple[Pool, Pool | None],
    stores: Mapping[str, FeatureStore],
    nets: Mapping[str, LPIPS],
    options: Options,
    ranks: Ranks,
    warnings: list[str],
    adaptation: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """All results of one model, and the features of every set."""
    started = time.monotonic()
    asked = options.groups
    if translator.method.from_noise:  # there is no input to come back to, to keep, or to compare with
        options = replace(options, groups=tuple(g for g in asked if g not in ("errors", "content")))
    size = translator.method.image_size
    images = Images(pools[0], size, options.batch_size, options.limit, options.seed)
    missing = [d for d in translator.domains if d not in images.pool.domains]
    if missing:
        there = ", ".join(images.pool.domains)
        raise DataError(
            f"the data has no domain {', '.join(missing)}, which the model knows; it has: {there}. Name its folders as the model does"
        )
    run = Pass(
        translator,
        images,
        stores,
        nets,
        options.groups,
        options.seed,
        ranks,
        keep_pixels="classifier" in options.groups,
    )
    tasks, by = plan(images, translator.directions, options.by)
    check_truth(translator, tasks, options)
    real = {d: run.features(images.items(d)) for d in translator.domains} if stores else {}
    features = {f"real/{d}|{b}": rows[b] for d, rows in real.items() for b in stores}
    generated: dict[str, list[Made]] = {}
    entries = []
    for task in tasks:
        rows = run.direction(task)
        entries.append(_entry(run, task, rows, real.get(task.target, {}), options))
        features |= {f"generated/{task.source}->{task.target}|{b}": rows[f"generated/{b}"] for b in stores}
        if "pixels" in rows:
            generated.setdefault(task.target, []).append((rows["pixels"], rows["sound"]))
    share_lost(images.lost, ranks)
    results: dict[str, Any] = {"format": 2, "directions": entries}
    results["means"] = means_over_targets(entries, [figure_name(k, b) for b in stores for k in ("FD", "KD")])
    results["reconstruction"] = {d: _reconstruction(run, d) for d in translator.domains if "errors" in asked}
    if pools[1] is not None and generated:
        train = Images(pools[1], size, options.batch_size, options.limit, options.seed)
        results["classification"] = class_figures(
            run, train, translator.directions, options.by, generated, options.classifier_config
        )
    if adaptation:
        results["adaptation"] = dict(adaptation)
    results["measures"] = measures_of(results, list(stores))
    if translator.untrained:
        warnings.append(translator.untrained)
    if translator.method.from_noise:
        warnings.append(f"{NOISE}: figures that compare with an input are left out")
    results["warnings"] = warnings + warnings_of(entries, images)
    results["provenance"] = provenance_of(run, name, by, replace(options, groups=asked), time.monotonic() - started)
    return results, features


def _entry(
    run: Pass, task: Task, rows: Mapping[str, Tensor], target: Mapping[str, Tensor], options: Options
) -> dict[str, Any]:
    """All figures of one task."""
    entry: dict[str, Any] = {"source": task.source, "target": task.target, "n_source": len(rows["place"])}
    entry["n_target"] = run.images.count(task.target)
    seed = options.seed
    if "errors" in options.groups:
        entry["cycle_error"] = (
            mean_figure(rows["cycle_error"], seed=seed)
            if "cycle_error" in rows
            else nothing("the way back does not exist")
        )
        entry["identity_error"] = _identity(run, task, seed)
    for backbone in run.stores:
        halves = split_in_halves(target[backbone], seed)
        sets = Sets(rows[f"generated/{backbone}"], rows[f"source/{backbone}"], target[backbone], halves)
        found = feature_figures(sets, backbone, options.groups, resamples=options.bootstrap, seed=seed)
        if run.translator.method.from_noise:
            found = {key: {k: v for k, v in figure.items() if k != "before"} for key, figure in found.items()}
        entry |= found
    if run.translator.method.from_noise:
        rows = {key: values for key, values in rows.items() if not key.startswith("lpips_to_input")}
    for key, values in rows.items():
        if values.ndim == 1 and key not in (*NOT_FIGURES, "cycle_error"):
            entry[key] = mean_figure(values, seed=seed)
    if run.lpips:
        entry |= _diversity(run, task, seed)
    if task.source != MIXED:
        entry |= _truth(run.translator, task, options)
    entry["per_image"] = per_image(task, rows, run.images)
    return entry


def _truth(translator: Translator, task: Task, options: Options) -> dict[str, Any]:
    """Figures against pairs and masks. A picture that cannot be used leaves these figures without a number, and all others whole."""
    found: dict[str, Any] = {}
    if options.pairs is not None:
        palette = open_palette(options.palette) if options.palette is not None else None
        try:
            found |= pixel_figures(
                translator, options.pairs, task.source, task.target, threshold=options.thresholds, left=options.left,
                palette=palette, seed=options.seed,
            )  # fmt: skip
        except DataError as error:
            keys = pixel_keys(options.thresholds) + ([f"mean_iou_{palette.name}"] if palette is not None else [])
            found |= {key: nothing(str(error)) for key in keys}
    if options.masks is not None:
        threshold = options.mask_threshold
        try:
            found |= mask_figures(translator, options.masks, task.source, threshold=threshold, seed=options.seed)
        except DataError as error:
            found |= {key: nothing(str(error)) for key in mask_keys(threshold)}
    return found


def _identity(run: Pass, task: Task, seed: int) -> Figure:
    if task.source == MIXED:
        return nothing("the sources are mixed: take by = direction")
    return mean_figure(run.identity(task.source, task.target), seed=seed)


def _diversity(run: Pass, task: Task, seed: int) -> dict[str, Figure]:
    if not run.translator.method.stochastic:
        return {f"lpips_diversity_{net}": nothing("one input has one result with this method") for net in run.lpips}
    return {
        f"lpips_diversity_{net}": mean_figure(values, real=0, seed=seed) | {"samples": DIVERSITY_SAMPLES}
        for net, values in run.diversity(task).items()
    }


def _reconstruction(run: Pass, domain: str) -> Figure:
    errors = run.reconstruction(domain)
    if errors is None:
        return nothing("this method has no reconstruction")
    return mean_figure(errors, seed=run.seed)


def _write(out: Path, results: dict[str, Any], features: Mapping[str, Tensor]) -> None:
    try:
        if features:
            import safetensors.torch

            beside = features_file(out)
            write_output(beside, safetensors.torch.save({k: v.contiguous() for k, v in features.items()}))
            results["features"] = beside.name
        write_output(out, (json.dumps(results, indent=1) + "\n").encode())
    except UnpairedError as error:  # a full disk must not take the figures along
        raise UnpairedError(f"{error}. The figures are these:\n{format_table(results)}") from error


def is_main_process() -> bool:
    """Whether this process should print: the first one under torchrun, or the only one."""
    return os.environ.get("RANK", "0") == "0"
