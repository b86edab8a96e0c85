"""A model and real images in, figures out: each with its N, its interval, its floor, and what it was computed from.

What can be refused is refused before anything is translated: a mistake found at the end would throw the work of hours
away.

Legend: N images, H height, W width, D features; images [N, 3, H, W] in [-1, 1].
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unpaired.config import DataConfig, EvaluateConfig
from unpaired.data.folders import DataTree, find
from unpaired.data.sampling import Pool, open_pool
from unpaired.errors import ConfigError, DataError, UnpairedError, WeightsError
from unpaired.evaluation.classifier import Made, adaptation_figures, class_figures
from unpaired.evaluation.features import (
    DIVERSITY_SAMPLES,
    LPIPS,
    NOT_FIGURES,
    Backbone,
    FeatureStore,
    NetworkBackbone,
    Pass,
    figure_name,
    on_this_machine,
    open_backbone,
    open_lpips,
)
from unpaired.evaluation.figures import (
    Figure,
    Sets,
    feature_figures,
    mean_figure,
    means_over_targets,
    nothing,
    split_in_halves,
)
from unpaired.evaluation.inputs import MIXED, Images, Task, plan, share_lost
from unpaired.evaluation.results import (
    NOISE,
    NOT_INDEPENDENT,
    format_table,
    measures_of,
    provenance_of,
    seen_in_training,
    warnings_of,
)
from unpaired.evaluation.truth import (
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


def check_files(options: EvaluateConfig) -> None:
    """Check what options name on disk, before the model is loaded. Raises ConfigError."""
    if options.palette is not None:
        open_palette(options.palette)
    if options.out is not None:
        check_output(options.out, "results.json")


def check_model(translator: Translator, options: EvaluateConfig) -> None:
    """Options that the model must be able to answer. Raises ConfigError."""
    translator.check_translates()
    if "classifier" in options.groups and len({target for _, target in translator.directions}) < 2:
        raise ConfigError("RC and FC need at least two target domains; this model translates into one")


def check_truth(translator: Translator, tasks: Sequence[Task], options: EvaluateConfig) -> None:
    """Whether the folders of pairs and masks hold what each task needs; no picture is opened. Raises DataError,
    ConfigError."""
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


DEFAULT_BACKBONES = ("mobilenet_v1", "efficientnet_lite0")
Networks = tuple[dict[str, FeatureStore], dict[str, LPIPS]]
BEST = "best"
"""Folder of a run that holds its best checkpoint by validation."""


def evaluate(
    model: Translator | Path | str,
    data: Pool | DataTree | Path | str,
    options: EvaluateConfig | None = None,
    /,
    *,
    networks: Sequence[Backbone | LPIPS] = (),
    train: Pool | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Measure distances between translated and real images, and everything else that docs/evaluation.md lists.

    Images are resized and centre-cropped to the square on which the model was trained. Translations are rounded to 8
    bits first, as a file would be. Errors are in units of [-1, 1], so 2 is the largest. Under torchrun each process
    takes its share of the images, and all have the same results.

    Args:
        model: a translator (then ``device`` and ``precision`` are its own), or a path as for :func:`unpaired.load`.
        data: a data folder, or a pool that holds the model's domains.
        options: what :class:`~unpaired.config.EvaluateConfig` lists; ``changes`` are single ones of them, as in
            ``limit=100``.
        networks: ready ones, instead of those that ``backbone`` and ``lpips`` name.
        train: training images for RC and FC, where ``data`` is a pool.

    Returns:
        ``directions`` (a list), ``means``, ``reconstruction`` (by domain), ``measures``, ``warnings``, ``provenance``;
        plain JSON values.

    Raises:
        DataError: a domain of the model is not in the data. ConfigError: unknown backbone or bad option.
        All of these before anything is translated. UnpairedError: ``out`` could not be written; its text has the table.
        WeightsError: the weights of a backbone that was asked for by name, or of LPIPS, are missing or wrong; so are
            those in
            ``weights``, where it was given.
    """
    options = EvaluateConfig.of(options, changes)
    check_files(options)
    chosen = _checkpoints(model, options)
    translator = chosen[0][1]
    warnings: list[str] = []
    with joined(translator.device) as ranks:
        check_model(translator, options)
        adaptation = (  # first, so that a wrong file costs no translations; the same for each checkpoint
            adaptation_figures(options.classifier, options.labelled, device=translator.device)
            if options.classifier is not None and options.labelled is not None
            else {}
        )
        opened = _networks(networks, options, translator, warnings)
        pools = _pools(data, train, translator, options)
        results: dict[str, Any] = {}
        for name, one in reversed(chosen):
            found = _evaluate(one, name, pools, opened, options, ranks, list(warnings), adaptation)
            results = found | ({"best": results} if results else {})
        for store in opened[0].values():
            store.save()
        if options.out is not None and ranks.main:
            _write(options.out, results)
    return results


def _networks(
    ready: Sequence[Backbone | LPIPS], options: EvaluateConfig, translator: Translator, warnings: list[str]
) -> Networks:
    """Backbones with their stores and networks of LPIPS, each by name, where a group needs them. Where none is named,
    one that the model's training did not look through."""
    device = translator.device
    backbones = [n for n in ready if not isinstance(n, LPIPS)]
    nets = [n for n in ready if isinstance(n, LPIPS)]
    if not {"distances", "coverage", "content"} & set(options.groups):
        backbones = []
    elif not backbones:
        fresh = [n for n in DEFAULT_BACKBONES if n not in seen_in_training(translator)] or list(DEFAULT_BACKBONES)
        names = options.backbone or (next((n for n in fresh if on_this_machine(n, options.weights)), fresh[0]),)
        try:
            backbones = [open_backbone(n, options.weights, device, options.feature_precision) for n in names]
        except WeightsError as error:
            if options.backbone or options.weights is not None:  # somebody said that they are here
                raise
            warnings.append(f"no distances: {error}")
    if "lpips" not in options.groups:
        nets = []
    elif not nets:
        nets = [open_lpips(n, options.weights, device) for n in options.lpips]
    stores = {b.name: FeatureStore(b, on_disk=options.cache and isinstance(b, NetworkBackbone)) for b in backbones}
    return stores, {n.net: n for n in nets}


def _checkpoints(model: Translator | Path | str, options: EvaluateConfig) -> list[tuple[str | None, Translator]]:
    """(``last``, ``best`` or None, translator): the main one first."""
    if isinstance(model, Translator):
        return [(None, model)]
    best = Path(model) / BEST
    there = (best / "model.safetensors").is_file()
    if not there and options.checkpoint == BEST:
        raise ConfigError(
            f"{model}: no best checkpoint; training keeps one with: unpaired train … --during-training every=500"
        )
    places: dict[str | None, Path] = {"last": Path(model), BEST: best}
    wanted: tuple[str | None, ...] = ("last", BEST) if options.checkpoint == "auto" else (options.checkpoint,)
    if not there:
        name = "last" if (Path(model) / "checkpoints").is_dir() else None
        places, wanted = {name: Path(model)}, (name,)
    return [(name, load(places[name], device=options.device, precision=options.precision)) for name in wanted]


def _pools(
    data: Pool | DataTree | Path | str, train: Pool | None, translator: Translator, options: EvaluateConfig
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
    networks: Networks,
    options: EvaluateConfig,
    ranks: Ranks,
    warnings: list[str],
    adaptation: Mapping[str, Any],
) -> dict[str, Any]:
    """All results of one model."""
    started = time.monotonic()
    asked = options.groups
    if translator.method.from_noise:  # there is no input to come back to, to keep, or to compare with
        kept = tuple(g for g in asked if g not in ("errors", "content"))
        options = options.model_copy(update={"metrics": kept})
    size = translator.method.image_size
    images = Images(pools[0], size, options.batch_size, options.limit, options.seed)
    missing = [d for d in translator.domains if d not in images.pool.domains]
    if missing:
        there = ", ".join(images.pool.domains)
        raise DataError(
            f"the data has no domain {', '.join(missing)}, which the model knows; it has: {there}. "
            "Name its folders as the model does"
        )
    stores = networks[0]
    keep = "classifier" in options.groups
    run = Pass(translator, images, *networks, options.groups, options.seed, ranks, keep_pixels=keep)
    tasks, by = plan(images, translator.directions, options.by)
    check_truth(translator, tasks, options)
    real = {d: run.features(images.items(d)) for d in translator.domains} if stores else {}
    generated: dict[str, list[Made]] = {}
    entries = []
    for task in tasks:
        rows = run.direction(task)
        entries.append(_entry(run, task, rows, real.get(task.target, {}), options))
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
    for backbone in sorted(seen_in_training(translator) & stores.keys()):
        warnings.append(
            f"figures of {backbone} are {NOT_INDEPENDENT}: training looked through that network; judge by another"
        )
    results["warnings"] = warnings + warnings_of(entries, images)
    results["provenance"] = provenance_of(
        run, name, by, options.model_copy(update={"metrics": asked}), time.monotonic() - started
    )
    return results


def _entry(
    run: Pass, task: Task, rows: Mapping[str, Tensor], target: Mapping[str, Tensor], options: EvaluateConfig
) -> dict[str, Any]:
    """All figures of one task."""
    entry: dict[str, Any] = {"source": task.source, "target": task.target, "n_source": len(rows["place"])}
    entry["n_target"] = run.images.count(task.target)
    seed = options.seed
    if "errors" in options.groups:
        back = rows.get("cycle_error")
        entry["cycle_error"] = nothing("the way back does not exist") if back is None else mean_figure(back, seed=seed)
        entry["identity_error"] = (
            nothing("the sources are mixed: take by = direction")
            if task.source == MIXED
            else mean_figure(run.identity(task.source, task.target), seed=seed)
        )
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
    entry["per_image"] = run.per_image(task, rows)
    return entry


def _truth(translator: Translator, task: Task, options: EvaluateConfig) -> dict[str, Any]:
    """Figures against pairs and masks. A picture that cannot be used leaves these figures without a number, and all
    others whole."""
    found: dict[str, Any] = {}
    if options.pairs is not None:
        palette = open_palette(options.palette) if options.palette is not None else None
        try:
            found |= pixel_figures(
                translator,
                options.pairs,
                task.source,
                task.target,
                thresholds=options.threshold,
                left=options.left,
                palette=palette,
                seed=options.seed,
            )
        except DataError as error:
            keys = pixel_keys(options.threshold) + ([f"mean_iou_{palette.name}"] if palette is not None else [])
            found |= {key: nothing(str(error)) for key in keys}
    if options.masks is not None:
        threshold = options.mask_threshold
        try:
            found |= mask_figures(translator, options.masks, task.source, threshold=threshold, seed=options.seed)
        except DataError as error:
            found |= {key: nothing(str(error)) for key in mask_keys(threshold)}
    return found


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


def _write(out: Path, results: dict[str, Any]) -> None:
    try:
        write_output(out, (json.dumps(results, indent=1) + "\n").encode())
    except UnpairedError as error:  # a full disk must not take the figures along
        raise UnpairedError(f"{error}. The figures are these:\n{format_table(results)}") from error


def is_main_process() -> bool:
    """Whether this process should print: the first one under torchrun, or the only one."""
    return os.environ.get("RANK", "0") == "0"
