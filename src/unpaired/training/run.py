"""From a folder of images and a few words to a trained model: settings resolved, data checked, then the one loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unpaired import signals
from unpaired.config import RunConfig, merge, nested, read_toml
from unpaired.config import preset as read_preset
from unpaired.errors import ConfigError, DataError
from unpaired.files import check_run_apart
from unpaired.methods import run_from
from unpaired.training import log as training_log

if TYPE_CHECKING:
    from unpaired.checkpoint import Saved
    from unpaired.data.folders import DataTree
    from unpaired.data.sampling import Pool
    from unpaired.methods.base import Method
    from unpaired.training.validation import Validator
    from unpaired.translate.translator import Translator


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
    """One validated run from its layers; a later one wins: the run already in ``run_dir``, or else the method, networks and image
    size of the model ``start_from`` (both only where no preset, config or method is given), ``preset``, ``config`` (a TOML file), ``method``, ``settings`` (dotted keys), ``steps`` in all.

    Raises ConfigError.
    """
    values: dict[str, Any] = {}
    existing = run_dir / "config.toml" if run_dir is not None else None
    if preset is None and config is None and method is None:
        if existing is not None and existing.exists():
            values = read_toml(existing)  # "the same command" may be as short as DATA and --out
        elif start_from is not None:
            from unpaired.checkpoint import load_method

            header = load_method(start_from)[1]
            values = {
                "method": header["method"],
                "model": header["config"]["model"],
                "data": {"size": header["image_size"]},
            }
    if preset is not None:
        values = merge(
            values, {k: v for k, v in read_preset(preset).items() if k != "adapt"}
        )  # that table is for `adapt` alone
    if config is not None:
        values = merge(values, read_toml(Path(config)))
    if method is not None:
        if values.get("method", method) != method:
            raise ConfigError(
                f"--method {method} does not go with a preset or config for '{values['method']}'; leave one of them out"
            )
        values["method"] = method
    run = run_from(merge(values, nested(settings or {})))
    if steps is not None:
        if steps < 1:
            raise ConfigError(f"steps = {steps}: must be at least 1")
        run = run.model_copy(update={"model": run.model.with_steps(steps)})
    return run


def build(config: RunConfig, domains: tuple[str, ...], classes: tuple[str, ...] = ()) -> Method:
    """A fresh method for ``domains``, its weights seeded from ``config.seed``.

    Raises ConfigError for a wrong number of domains, or a size at which the method cannot train."""
    from unpaired.methods import method_class
    from unpaired.training.loop import seed_everything

    kind = method_class(config.method)
    most = kind.max_domains
    if len(domains) < kind.min_domains or (most is not None and len(domains) > most):
        wanted = f"{kind.min_domains}" if most == kind.min_domains else f"{kind.min_domains} to {most or 'any number'}"
        raise ConfigError(
            f"method '{config.method}' wants {wanted} domains; the data has {len(domains)}: {', '.join(domains)}. "
            "Move the others out, or choose another --method"
        )
    seed_everything(config.seed, 0)
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
    """The order of the data's domains in the model: one that the run or model it goes on from knows has its place there, the others
    fill the places that are left."""
    from unpaired import checkpoint

    known: tuple[str, ...] = ()
    if saved is not None:
        known = tuple(checkpoint.read_header(saved)["domains"])
    elif start_from is not None:
        known = tuple(checkpoint.load_method(start_from)[1]["domains"])
    if len(known) != len(domains):
        return domains
    new = (d for d in domains if d not in known)
    return tuple(d if d in domains else next(new) for d in known)


def train(
    data: Path | str,
    out: Path | str,
    *,
    method: str | None = None,
    preset: str | None = None,
    config: Path | str | None = None,
    settings: Mapping[str, Any] | None = None,
    steps: int | None = None,
    pretrained: Path | str | None = None,
    start_from: Path | str | None = None,
    allow_change: Sequence[str] = (),
    quiet: bool = False,
) -> Translator:
    """Train on a folder of images, or go on with the run that ``out`` holds; the trained translator.

    Args:
        data: a folder in one of the layouts of docs/data.md.
        out: the run's folder: settings, log, samples, checkpoints.
        method: a key of ``unpaired.METHODS``; when nothing says otherwise ``unit``, or with ``pretrained`` the variant of DeepI2I
            that starts from such a GAN.
        preset: a shipped preset (``unpaired presets``) or a TOML file.
        config: a TOML file laid over the preset.
        settings: dotted keys, as in ``{"model.width": 32, "training.precision": "fp32"}``.
        steps: number of training steps in all; stages are scaled in proportion.
        pretrained: model file (or run folder) of a pretrained GAN to start from; its widths and image size are taken over.
        start_from: a model of the same method and size whose weights a fresh run begins with: an imported one, or one trained on
            other images. A run that is being resumed keeps its own weights.
        allow_change: settings that may differ from the run being resumed.

    Raises:
        DataError: bad layout, an empty domain, or more than 5 % unusable files.
        ConfigError, CheckpointError, RefusedError: refused before any work.
        NonFiniteError, StoppedError: stopped by itself, state saved.
        Interrupted: a signal came; state saved.
    """
    from unpaired import checkpoint, machine
    from unpaired.data.folders import find
    from unpaired.methods import method_class
    from unpaired.methods.gans import GANS
    from unpaired.training import loop
    from unpaired.training.pretrained import begin_with
    from unpaired.translate.translator import load

    with signals.handled():
        out = Path(out)
        typed = training_log.command(
            "train", data, out=out, method=method, preset=preset, config=config, steps=steps, pretrained=pretrained,
            start_from=start_from, settings=settings,
        )  # fmt: skip
        note = training_log.about(data, typed)
        if pretrained is not None:
            translator, fixed = _from_pretrained(pretrained, out)
            settings = {**fixed, **(settings or {})}
            named = method is not None or preset is not None or config is not None or start_from is not None
            if not named and not (out / "config.toml").exists():
                method = translator
            asked = resolve(method=method, preset=preset, config=config, start_from=start_from, run_dir=out).method
            if asked not in (kinds := [translator, *(k for k, gan in GANS.items() if gan.translator == translator)]):
                raise ConfigError(
                    f"{pretrained} holds a {kinds[-1]}: method '{translator}' starts from it, not '{asked}'; leave out the "
                    "method, preset or config that says so"
                )
        run = resolve(
            method=method,
            preset=preset,
            config=config,
            settings=settings,
            steps=steps,
            start_from=start_from,
            run_dir=out,
        )
        machine.choose(run.training)
        tree = find(data, least=min(2, method_class(run.method).min_domains))
        if tree.layout != "lists":  # there nothing is read but what the lists name
            check_run_apart(out, data)
        saved, _ = checkpoint.latest(out / "checkpoints")
        model = build(run, _order(tree.domains, saved, start_from))
        if saved is None and start_from is None:
            model.check_start()
        opened = open_data(tree, run)
        begun_with = None if start_from is None else begin_with(model, run.method, start_from)
        path = loop.fit(
            model, opened.pool, run, out, held_out=opened.held_out, begun_with=begun_with, allow_change=allow_change, quiet=quiet,
            validator=opened.validator, origin=note,
        )  # fmt: skip
        return load(path)


@dataclass(frozen=True)
class OpenData:
    """What a run works on."""

    pool: Pool
    """The images that are trained on."""
    held_out: Pool | None
    """For the sample sheets, where the data has a split "test"."""
    validator: Validator | None
    """Looks at the images that ``training.validate_every`` holds out, and has them."""


def open_data(tree: DataTree, run: RunConfig) -> OpenData:
    """The images of a run, checked and cached. Raises DataError, ConfigError, WeightsError."""
    from unpaired.data.check import check
    from unpaired.data.sampling import open_pool

    check(tree, run.data).require()
    pool: Pool = open_pool(tree, run.data, split="train")
    held_out = None
    if all(tree.files.get(("test", domain)) for domain in tree.domains):
        held_out = open_pool(tree, run.data, split="test")
    if any(pool.count(domain) == 0 for domain in tree.domains):
        raise DataError(f"{tree.root}: a domain has no training images")
    if run.training.validate_every is None:
        return OpenData(pool, held_out, None)
    rest, validator = _held_out(pool, run)
    return OpenData(rest, held_out, validator)


def _held_out(pool: Pool, run: RunConfig) -> tuple[Pool, Validator]:
    """The images that are left to train on, and who looks at the others. Raises DataError, ConfigError, WeightsError."""
    from unpaired.data.sampling import hold_out
    from unpaired.evaluation.features import open_backbone
    from unpaired.machine import choose_device
    from unpaired.training.validation import Validator

    settings = run.training
    rest, validation = hold_out(pool, settings.validate_share, settings.validate_images)
    device = choose_device(settings.device)
    backbone = open_backbone(settings.validate_backbone, settings.validate_weights, device)
    return rest, Validator(validation, backbone, settings, run.seed)


def _from_pretrained(path: Path | str, out: Path) -> tuple[str, dict[str, Any]]:
    """The translator that goes with a pretrained model, and the settings that this fixes; when the run is there already, those
    it was begun with."""
    from unpaired.methods.gans import GANS
    from unpaired.training.pretrained import settings_from

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


def pretrain(
    data: Path | str,
    out: Path | str,
    *,
    method: str | None = None,
    preset: str | None = None,
    config: Path | str | None = None,
    settings: Mapping[str, Any] | None = None,
    steps: int | None = None,
    pretrained: Path | str | None = None,
    allow_change: Sequence[str] = (),
    quiet: bool = False,
) -> Translator:
    """Train a GAN that DeepI2I can start from, on class folders or on a single folder of images.

    ``method`` is ``biggan`` (class-conditional, the default) or ``stylegan``. Other arguments and errors as :func:`train`; without
    ``preset`` and ``config`` a new run has the preset ``biggan-small`` or ``stylegan-small``.
    """
    from unpaired.methods.gans import GANS
    from unpaired.training.pretrained import settings_from

    saved = Path(out) / "config.toml"
    if method is None and preset is None and config is None and pretrained is not None and not saved.exists():
        method, _ = settings_from(pretrained)
    if method is not None and method not in GANS:
        raise ConfigError(f"--method {method} is no GAN; there are: {', '.join(GANS)}")
    if preset is None and config is None:
        if not saved.exists():
            preset = f"{method or 'biggan'}-small"
        elif (found := read_toml(saved).get("method")) not in GANS or method not in (None, found):
            raise ConfigError(
                f"{out} holds a run of method '{found}', not a pretraining{f' of {method}' if method else ''}; use another --out"
            )
    elif method is None:  # a preset names its method, a config file may leave it out
        named = read_preset(preset).get("method") if preset is not None else None
        method = str(named or (read_toml(Path(config)).get("method") if config is not None else None) or "biggan")
        if method not in GANS:
            raise ConfigError(f"a preset or config for '{method}' is no pretraining; there are: {', '.join(GANS)}")
    return train(
        data,
        out,
        method=method if config is not None or preset is not None else None,
        preset=preset,
        config=config,
        settings=settings,
        steps=steps,
        pretrained=pretrained,
        allow_change=allow_change,
        quiet=quiet,
    )
