"""What an evaluation refuses before it translates anything: a mistake found at the end would throw the work of hours away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from unpaired.errors import ConfigError, nearest
from unpaired.evaluation_images import MIXED, Task
from unpaired.evaluation_pairs import find_masks, find_pairs
from unpaired.evaluation_record import Options
from unpaired.metrics.pixels import open_palette
from unpaired.outputs import check_output
from unpaired.translation import Translator

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
