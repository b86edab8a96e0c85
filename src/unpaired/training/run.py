"""From a folder of images and a few words to a trained model: settings resolved, data checked, then the one loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from unpaired import checkpoint, machine, signals
from unpaired.checkpoint import Saved
from unpaired.config import (
    PretrainConfig,
    RunConfig,
    RunOptions,
    TrainConfig,
    merge,
    nested,
    read_toml,
    without_retired,
)
from unpaired.config import preset as read_preset
from unpaired.data.check import check
from unpaired.data.folders import DataTree, find
from unpaired.data.sampling import Pool, hold_out, open_pool
from unpaired.errors import ConfigError, DataError
from unpaired.evaluation.features import open_backbone
from unpaired.files import check_run_apart
from unpaired.methods import method_class, run_from
from unpaired.methods.base import Method
from unpaired.methods.gans import GANS
from unpaired.training import log as training_log
from unpaired.training import loop
from unpaired.training.pretrained import begin_with, settings_from
from unpaired.training.validation import Validator
from unpaired.translate.translator import Translator, load


def resolve(
    *,
    method: str | None = None,
    preset: str | None = None,
    config: Path | str | None = None,
    settings: Mapping[str, Any] | None = None,
    steps: int | None = None,
    start_from: Path | str | None = None,
    run_dir: Path | None = None,
) -> RunConfig:
    """One validated run from its layers; a later one wins: the run already in ``run_dir``, or else the method, networks
    and image size of the model ``start_from`` (both only where no preset, config or method is given), ``preset``,
    ``config`` (a TOML file), ``method``, ``settings`` (dotted keys), ``steps`` in all.

    Raises ConfigError.
    """
    values: dict[str, Any] = {}
    existing = run_dir / "config.toml" if run_dir is not None else None
    if preset is None and config is None and method is None:
        if existing is not None and existing.exists():
            # "the same command" may be as short as DATA and --out, and the run that of an earlier version
            values = without_retired(read_toml(existing), resume=True)
        elif start_from is not None:
            header = checkpoint.load_method(start_from)[1]
            values = {
                "method": header["method"],
                "model": header["config"]["model"],
                "data": {"size": header["image_size"]},
            }
    if preset is not None:  # its table [adapt] is for `adapt` alone
        values = merge(values, {k: v for k, v in read_preset(preset).items() if k != "adapt"})
    if config is not None:
        values = merge(values, read_toml(Path(config)))
    if method is not None:
        if values.get("method", method) != method:
            raise ConfigError(
                f"--method {method} does not go with a preset or config for '{values['method']}'; leave one of them out"
            )
        values["method"] = method
    run = run_from(merge(values, nested(settings or {})))
    return run if steps is None else run.model_copy(update={"model": run.model.with_steps(steps)})


def build(config: RunConfig, domains: tuple[str, ...], classes: tuple[str, ...] = ()) -> Method:
    """Build a fresh method for ``domains``, its weights seeded from ``config.seed``.

    Raises ConfigError for a wrong number of domains, or a size at which the method cannot train."""
    kind = method_class(config.method)
    least, most = kind.domain_count
    if len(domains) < least or (most is not None and len(domains) > most):
        wanted = f"{least}" if most == least else f"{least} to {most or 'any number'}"
        raise ConfigError(
            f"method '{config.method}' wants {wanted} domains; the data has {len(domains)}: {', '.join(domains)}. "
            "Move the others out, or choose another --method"
        )
    loop.seed_everything(config.seed, 0)
    method = kind(config.model, domains, image_size=config.data.size, classes=classes)
    size, stride = config.data.size, method.stride
    if size % stride:
        raise ConfigError(
            f"data.size = {size}: '{config.method}' trains at sizes divisible by {stride} (it translates any size). "
            f"Type --set data.size={max(1, size // stride) * stride}"
        )
    method.stages()  # here a method refuses settings under which it cannot train, before any data is read
    return method


def _order(domains: tuple[str, ...], saved: Saved | None, start_from: Path | str | None) -> tuple[str, ...]:
    """Return the order of the data's domains in the model: one that the run or model it goes on from knows has its
    place there, the others fill the places that are left."""
    known: tuple[str, ...] = ()
    if saved is not None:
        known = tuple(checkpoint.read_header(saved)["domains"])
    elif start_from is not None:
        known = tuple(checkpoint.load_method(start_from)[1]["domains"])
    if len(known) != len(domains):
        return domains
    new = (d for d in domains if d not in known)
    return tuple(d if d in domains else next(new) for d in known)


def train(data: Path | str, out: Path | str, options: TrainConfig | None = None, **changes: Any) -> Translator:
    """Train on a folder of images, or go on with the run that ``out`` holds; the trained translator.

    Args:
        data: a folder in one of the layouts of docs/data.md.
        out: the run's folder: settings, log, samples, checkpoints.
        options: what :class:`~unpaired.config.TrainConfig` lists; ``changes`` are single ones of them, as in
            ``steps=2000``.

    Raises:
        DataError: bad layout, an empty domain, or more than 5 % unusable files.
        ConfigError, CheckpointError, RefusedError: refused before any work.
        NonFiniteError, StoppedError: stopped by itself, state saved.
        Interrupted: a signal came; state saved.
    """
    with signals.handled():
        asked = TrainConfig.of(options, changes)
        return _train(data, Path(out), asked, training_log.typed("train", asked, data, out=out))


def _train(data: Path | str, out: Path, asked: TrainConfig, typed: str) -> Translator:
    asked = _with_pretrained(asked, out)
    run = resolve(
        method=asked.method, preset=asked.preset, config=asked.config, settings=asked.all_settings(), steps=asked.steps,
        start_from=asked.start_from, run_dir=out,
    )  # fmt: skip
    machine.choose(run.training)
    tree = find(data, least=min(2, method_class(run.method).domain_count[0]))
    check_run_apart(out, data)
    saved, _ = checkpoint.latest(out / "checkpoints")
    model = build(run, _order(tree.domains, saved, asked.start_from))
    if saved is None and asked.start_from is None:
        model.check_start()
    pool, extras = open_data(tree, run)
    begun_with = None if asked.start_from is None else begin_with(model, run.method, asked.start_from)
    extras = replace(extras, begun_with=begun_with, allow_change=asked.allow_change, quiet=asked.quiet)
    return load(loop.fit(model, pool, run, out, extras, origin=training_log.about(data, typed)))


def _with_pretrained(asked: TrainConfig, out: Path) -> TrainConfig:
    """Take over what a pretrained GAN fixes: sizes, and where nothing else says so the method. Raises ConfigError,
    CheckpointError."""
    if asked.pretrained is None:
        return asked
    translator, fixed = _from_pretrained(asked.pretrained, out)
    asked = asked.model_copy(update={"settings": {**fixed, **asked.settings}})
    named = (asked.method, asked.preset, asked.config, asked.start_from) != (None,) * 4
    if not named and not (out / "config.toml").exists():
        asked = asked.model_copy(update={"method": translator})
    found = resolve(
        method=asked.method, preset=asked.preset, config=asked.config, start_from=asked.start_from, run_dir=out
    ).method
    kinds = [translator, *(kind for kind, gan in GANS.items() if gan.translator == translator)]
    if found not in kinds:
        raise ConfigError(
            f"{asked.pretrained} holds a {kinds[-1]}: method '{translator}' starts from it, not '{found}'; leave out "
            "the method, preset or config that says so"
        )
    return asked


def open_data(tree: DataTree, run: RunConfig) -> tuple[Pool, loop.Extras]:
    """Open the images to train on, checked and cached, and beside them those for sample sheets (where the data has a
    split "test") and who looks at the images that ``training.validate_every`` holds out. Raises DataError, ConfigError,
    WeightsError."""
    check(tree).require()
    pool: Pool = open_pool(tree, run.data, split="train")
    tested = all(tree.files.get(("test", domain)) for domain in tree.domains)
    held_out = open_pool(tree, run.data, split="test") if tested else None
    if any(pool.count(domain) == 0 for domain in tree.domains):
        raise DataError(f"{tree.root}: a domain has no training images")
    settings = run.training
    if settings.validate_every is None:
        return pool, loop.Extras(held_out)
    pool, validation = hold_out(pool, settings.validate_share, settings.validate_images)
    device = machine.choose_device(settings.device)
    backbone = open_backbone(settings.validate_backbone, settings.validate_weights, device)
    return pool, loop.Extras(held_out, Validator(validation, backbone, settings, run.seed))


def _from_pretrained(path: Path | str, out: Path) -> tuple[str, dict[str, Any]]:
    """Return the translator that goes with a pretrained model, and the settings that this fixes; when the run is there
    already, those it was begun with."""
    saved = out / "config.toml"
    if saved.exists():  # the pretrained file is not needed any more, and may be gone
        values = read_toml(saved)
        method, model = values.get("method", ""), values.get("model", {})
        kind = next((k for k, gan in GANS.items() if method in (k, gan.translator)), None)
        if kind is not None and model.get("pretrained") == str(path):
            names = ("pretrained", *GANS[kind].fixed)
            return method, {"data.size": values["data"]["size"]} | {f"model.{name}": model[name] for name in names}
    kind, fixed = settings_from(path)
    return GANS[kind].translator, fixed


def pretrain(data: Path | str, out: Path | str, options: PretrainConfig | None = None, **changes: Any) -> Translator:
    """Train a GAN that DeepI2I can start from, on class folders or on a single folder of images.

    Arguments and errors as :func:`train`, the options are those of :class:`~unpaired.config.PretrainConfig`. Without
    ``preset`` and ``config`` a new run has the preset ``biggan-small`` or ``stylegan-small``.
    """
    with signals.handled():
        asked = PretrainConfig.of(options, changes)
        typed = training_log.typed("pretrain", asked, data, out=out)
        method, preset = _gan(asked, Path(out))
        shared = {name: getattr(asked, name) for name in RunOptions.model_fields}
        return _train(data, Path(out), TrainConfig(**shared | {"method": method, "preset": preset}), typed)


def _gan(asked: PretrainConfig, out: Path) -> tuple[str | None, str | None]:
    """Return the method and the preset of a pretraining, where something must be said of them. Raises ConfigError."""
    method: str | None = asked.method
    saved = out / "config.toml"
    if asked.preset is not None or asked.config is not None:
        named = method
        if named is None and asked.preset is not None:
            named = read_preset(asked.preset).get("method")
        if named is None and asked.config is not None:
            named = read_toml(asked.config).get("method")
        if named is not None and named not in GANS:
            raise ConfigError(f"a preset or config for '{named}' is no pretraining; there are: {', '.join(GANS)}")
        return named or "biggan", asked.preset
    if saved.exists():
        found = read_toml(saved).get("method")
        if found not in GANS or method not in (None, found):
            of = f" of {method}" if method else ""
            raise ConfigError(f"{out} holds a run of method '{found}', not a pretraining{of}; use another --out")
        return None, None
    if method is None and asked.pretrained is not None:
        method = settings_from(asked.pretrained)[0]
    return None, f"{method or 'biggan'}-small"
