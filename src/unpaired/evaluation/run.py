"""A model and real images in, figures out: each with its N, its interval, its floor, and what it was computed from.

What can be refused is refused before anything is translated: a mistake found at the end would throw the work of hours
away.

Legend: N images, H height, W width, D features; images [N, 3, H, W] in [-1, 1].
"""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unpaired import __version__
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
    ENOUGH_IMAGES,
    Figure,
    describe,
    feature_figures,
    mean_figure,
    means_over_targets,
    nothing,
    split_in_halves,
)
from unpaired.evaluation.inputs import MIXED, Images, Task, plan, share_lost
from unpaired.evaluation.results import NOISE, NOT_INDEPENDENT, format_table, is_figure
from unpaired.evaluation.truth import (
    Palette,
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
from unpaired.networks.classifiers import NETWORKS
from unpaired.translate.translator import Translator, load

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
        WeightsError: the weights of LPIPS or of a backbone that was asked for by name, or those in ``weights``, are
            missing or wrong. All of these before anything is translated.
        UnpairedError: ``out`` could not be written; its text has the table.
    """
    options = EvaluateConfig.of(options, changes)
    if options.palette is not None:
        open_palette(options.palette)
    if options.out is not None:
        check_output(options.out, "results.json")
    chosen = _checkpoints(model, options)
    translator = chosen[0][1]
    warnings: list[str] = []
    with joined(translator.device) as ranks:
        translator.check_translates()
        if "classifier" in options.groups and len({target for _, target in translator.directions}) < 2:
            raise ConfigError("RC and FC need at least two target domains; this model translates into one")
        adaptation = (  # first, so that a wrong file costs no translations; the same for each checkpoint
            adaptation_figures(options.classifier, options.labelled, device=translator.device)
            if options.classifier is not None and options.labelled is not None
            else {}
        )
        opened = _networks(networks, options, translator, warnings)
        pools = _pools(data, train, translator, options)
        results: dict[str, Any] = {}
        for name, one in reversed(chosen):
            found = _evaluate(one, name, pools, opened, options, ranks, adaptation)
            found["warnings"] = warnings + found["warnings"]
            results = found | ({"best": results} if results else {})
        for store in opened[0].values():
            store.save()
        if options.out is not None and ranks.main:
            try:
                write_output(options.out, (json.dumps(results, indent=1) + "\n").encode())
            except UnpairedError as error:  # a full disk must not take the figures along
                raise UnpairedError(f"{error}. The figures are these:\n{format_table(results)}") from error
    return results


def is_main_process() -> bool:
    """Whether this process should print: the first one under torchrun, or the only one."""
    return os.environ.get("RANK", "0") == "0"


# ---- what is measured with, and on what ----


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
    places: dict[str | None, Path] = {"last": Path(model), BEST: Path(model) / BEST}
    wanted: tuple[str | None, ...] = ("last", BEST) if options.checkpoint == "auto" else (options.checkpoint,)
    if not (places[BEST] / "model.safetensors").is_file():
        if options.checkpoint == BEST:
            advice = "training keeps one with: unpaired train … --during-training 500"
            raise ConfigError(f"{model}: no best checkpoint; {advice}")
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


def _check_truth(translator: Translator, tasks: Sequence[Task], options: EvaluateConfig) -> None:
    """Whether the folders of pairs and masks hold what each task needs; no picture is opened. Raises DataError,
    ConfigError."""
    for task in tasks:
        if options.pairs is not None and task.source != MIXED:
            find_pairs(translator, options.pairs, task.source, task.target, options.left)
        if options.masks is not None and task.source != MIXED:
            find_masks(options.masks, task.source)
    if options.masks is not None:
        nothing = torch.zeros(0, 3, translator.method.image_size, translator.method.image_size)
        translator.attention(nothing, threshold=options.mask_threshold)


# ---- the figures of one model ----


def _evaluate(
    translator: Translator,
    name: str | None,
    pools: tuple[Pool, Pool | None],
    networks: Networks,
    options: EvaluateConfig,
    ranks: Ranks,
    adaptation: Mapping[str, Any],
) -> dict[str, Any]:
    """All results of one model; ``name`` is that of its checkpoint."""
    started = time.monotonic()
    groups = options.groups
    if translator.method.from_noise:  # there is no input to come back to, to keep, or to compare with
        groups = tuple(g for g in groups if g not in ("errors", "content"))
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
    run = Pass(translator, images, *networks, groups, options.seed, ranks, keep_pixels="classifier" in groups)
    tasks, by = plan(images, translator.directions, options.by)
    _check_truth(translator, tasks, options)
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
    results["reconstruction"] = {d: _reconstruction(run, d) for d in translator.domains if "errors" in options.groups}
    if pools[1] is not None and generated:
        train = Images(pools[1], size, options.batch_size, options.limit, options.seed)
        results["classification"] = class_figures(
            run, train, translator.directions, options.by, generated, options.classifier_config
        )
    if adaptation:
        results["adaptation"] = dict(adaptation)
    groups_of_figures = (*entries, results["means"], results.get("classification", {}), adaptation)
    keys = {key for group in groups_of_figures for key, _ in _figures_in(group)}
    keys |= {"reconstruction"} if results["reconstruction"] else set()
    results["measures"] = {key: describe(key, list(stores)) for key in sorted(keys)}
    results["warnings"] = _warnings(run, entries)
    results["provenance"] = _provenance(run, name, by, options) | {"seconds": round(time.monotonic() - started, 1)}
    return results


def _entry(
    run: Pass, task: Task, rows: Mapping[str, Tensor], target: Mapping[str, Tensor], options: EvaluateConfig
) -> dict[str, Any]:
    """All figures of one task."""
    entry: dict[str, Any] = {"source": task.source, "target": task.target, "n_source": len(rows["place"])}
    entry["n_target"] = run.images.count(task.target)
    seed = options.seed
    if "errors" in run.groups:
        back = rows.get("cycle_error")
        entry["cycle_error"] = nothing("the way back does not exist") if back is None else mean_figure(back, seed=seed)
        entry["identity_error"] = (
            nothing("the sources are mixed: take by = direction")
            if task.source == MIXED
            else mean_figure(run.identity(task.source, task.target), seed=seed)
        )
    for backbone in run.stores:
        real = target[backbone]
        sides = {"translated": (rows[f"generated/{backbone}"], real)}
        if not run.translator.method.from_noise:
            sides["before"] = (rows[f"source/{backbone}"], real)
        sides["floor"] = split_in_halves(real, seed)
        entry |= feature_figures(sides, backbone, run.groups, resamples=options.bootstrap, seed=seed)
    for key, values in rows.items():
        if values.ndim == 1 and key not in (*NOT_FIGURES, "cycle_error"):
            entry[key] = mean_figure(values, seed=seed)
    if run.lpips:
        entry |= _diversity(run, task)
    if task.source != MIXED:
        entry |= _truth(run.translator, task, options)
    entry["per_image"] = run.per_image(task, rows)
    return entry


def _truth(translator: Translator, task: Task, options: EvaluateConfig) -> dict[str, Any]:
    """Figures against pairs and masks. A picture that cannot be used leaves these figures without a number, and all
    others whole."""
    found: dict[str, Any] = {}
    if options.pairs is not None:
        palette: Palette | None = open_palette(options.palette) if options.palette is not None else None
        try:
            found |= pixel_figures(translator, task.source, task.target, options, palette)
        except DataError as error:
            found |= {key: nothing(str(error)) for key in pixel_keys(options, palette)}
    if options.masks is not None:
        try:
            found |= mask_figures(translator, task.source, options)
        except DataError as error:
            found |= {key: nothing(str(error)) for key in mask_keys(options)}
    return found


def _diversity(run: Pass, task: Task) -> dict[str, Figure]:
    if not run.translator.method.stochastic:
        return {f"lpips_diversity_{net}": nothing("one input has one result with this method") for net in run.lpips}
    return {
        f"lpips_diversity_{net}": mean_figure(values, real=0, seed=run.seed) | {"samples": DIVERSITY_SAMPLES}
        for net, values in run.diversity(task).items()
    }


def _reconstruction(run: Pass, domain: str) -> Figure:
    errors = run.reconstruction(domain)
    if errors is None:
        return nothing("this method has no reconstruction")
    return mean_figure(errors, seed=run.seed)


# ---- what the results say of themselves ----


def _figures_in(group: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The figures right below ``group``, by key."""
    return [(key, value) for key, value in group.items() if is_figure(value)]


def seen_in_training(translator: Translator) -> frozenset[str]:
    """Names of the pretrained networks that discriminators and losses looked through, whichever file of weights it was:
    another training's, or fine-tuned, whose shallow layers are those of the original."""
    lent = {
        str(about.get("name")).partition(", fine-tuned on ")[0] for about in translator.header.get("pretrained") or ()
    }
    return frozenset(lent | {network for network, kind in NETWORKS.items() if lent & {*kind.weights}})


def _warnings(run: Pass, entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the model is not, networks that judge themselves, files left out, and the bias of few images."""
    translator, images = run.translator, run.images
    warnings = [translator.untrained] if translator.untrained else []
    if translator.method.from_noise:
        warnings.append(f"{NOISE}: figures that compare with an input are left out")
    seen = seen_in_training(translator)
    judges = {b: b for b in sorted(run.stores)} | {f"lpips_{net}": model.network for net, model in run.lpips.items()}
    for name in (name for name, network in judges.items() if network in seen):
        warnings.append(
            f"figures of {name} are {NOT_INDEPENDENT}: training looked through that network; judge by another"
        )
    warnings += [f"left out: {path}: {reason}" for path, reason in sorted(images.lost.items())]
    least = min((min(d["n_source"], d["n_target"]) for d in entries), default=0)
    if least < ENOUGH_IMAGES and any(key.startswith(("FD-", "FID")) for d in entries for key in d):
        before = any("before" in v for d in entries for _, v in _figures_in(d))
        sides = ["of the untranslated input ('before')"] * before + ["of real images against real ones ('floor')"]
        warnings.append(
            f"only {least} images: below {ENOUGH_IMAGES:,} a Fréchet distance is mostly bias. Compare it only with "
            f"those {' and '.join(sides)} in the same table, and trust the kernel distance more"
        )
    return warnings


def _provenance(run: Pass, name: str | None, by: str, options: EvaluateConfig) -> dict[str, Any]:
    """What the figures were computed from."""
    translator, images = run.translator, run.images
    seen = seen_in_training(translator)
    return {
        "version": __version__,
        "model": str(translator.path) if translator.path else None,
        "model_sha256": translator.sha256 or None,
        "method": translator.header.get("method"),
        "step": translator.header.get("step"),
        "checkpoint": name,
        "chosen_on": (translator.header.get("extra") or {}).get("validation"),
        "data": images.pool.fingerprint,
        "split": options.split,
        "n": {domain: images.count(domain) for domain in translator.domains},
        "by": by,
        "limit": options.limit,
        "seed": options.seed,
        "size": images.size,
        "backbones": {
            b: {
                "sha256": store.backbone.sha256,
                "resize": store.backbone.resize,
                "dim": store.backbone.dim,
                "precision": getattr(store.backbone, "precision", "fp32"),
                "passed": store.computed,
                "independent": b not in seen,
            }
            for b, store in run.stores.items()
        },
        "lpips": {net: {**model.sha256, "independent": model.network not in seen} for net, model in run.lpips.items()},
        "options": options.model_dump(mode="json", exclude={"out"}),
        "device": str(translator.device),
        "precision": translator.precision,
        "processes": run.ranks.world,
        "torch": torch.__version__,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
