"""Settings of a run: frozen pydantic models, read from and written to TOML, changed with ``--set key=value``.

A run is described by five keys: ``method``, ``seed``, and the tables ``[data]``, ``[training]`` and ``[model]``. ``[model]``
holds the method's own ``Config``. Nothing here imports torch.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from unpaired.errors import ConfigError, nearest


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class MethodConfig(Settings):
    """Base of a method's ``Config``: every number of its paper."""

    def with_steps(self, total: int) -> Self:
        """The same settings with about ``total`` steps in all: every field named ``steps`` or ``*_steps`` is scaled."""
        names = [n for n in type(self).model_fields if n == "steps" or n.endswith("_steps")]
        now = sum(getattr(self, n) for n in names)
        return self.model_copy(update={n: max(1, round(getattr(self, n) * total / now)) for n in names})


Interpolation = Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]


class DataConfig(Settings):
    """How images are read and cropped. All of it happens before the value range becomes [-1, 1]."""

    size: Annotated[int, Field(ge=8, le=2048)] = 256
    """Side in pixels of the square training crop."""
    resize: Annotated[int, Field(ge=8, le=4096)] | None = None
    """Shorter side in pixels to which an image is resized before the crop; None means ``size``."""
    interpolation: Interpolation = "bicubic"
    """Filter of that resize (Pillow's definitions)."""
    antialias: bool = True
    """Widen the filter when shrinking (Pillow's way); False samples without it, as some old code did."""
    draft: Literal[0, 1, 2] = 2
    """A JPEG is decoded at 1/2, 1/4 or 1/8 while its shorter side keeps this many times the resized one: 2 is hardly visible (49 dB),
    1 is faster (38 dB and more), 0 always decodes in full."""
    mirror: bool = True
    """Flip half of the training crops left to right."""
    views: Annotated[int, Field(ge=0)] = 0
    """How many different training crops of each image there are, with their mirroring; 0 draws a new one each time. A limit makes
    features of crops worth keeping (``model.feature_cache`` of the methods on a pyramid)."""
    background: tuple[int, int, int] = (255, 255, 255)
    """RGB colour (0 to 255) put under transparent pixels."""
    cache: bool = True
    """Keep decoded, resized images in a memory-mapped uint8 file when they fit into ``cache_gib``."""
    cache_gib: Annotated[float, Field(gt=0)] = 4.0
    """Largest cache in GiB; a larger data set is decoded anew each time."""
    workers: Annotated[int, Field(ge=0, le=64)] = 0
    """Loader processes. The result does not depend on it."""

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.resize is not None and self.resize < self.size:
            raise ValueError(
                f"resize = {self.resize} is smaller than the crop, size = {self.size}; make it at least that"
            )
        return self


class TrainingConfig(Settings):
    """What the loop does, the same for every method."""

    device: str = "auto"
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """``auto`` is bf16 autocast where the hardware has bf16 matrix units, else fp32. ``tf32`` is fp32 with TF32 products (GPU)."""
    compile: bool = False
    """Compile each loss with torch.compile; falls back with one line of warning."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Split each batch into this many parts and add up their gradients: less memory, the same batch."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the gradient of one update; None does not clip."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights, which then becomes the shared model; less in the first steps (at
    most (1 + n) / (10 + n) after step n). None has none."""
    log_every: Annotated[int, Field(ge=1)] = 50
    """Steps between two log lines."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 1000
    """Steps between two checkpoints; the last step is always one."""
    keep: Annotated[int, Field(ge=1)] = 3
    """Newest checkpoints to keep."""
    sample_every: Annotated[int, Field(ge=1)] = 1000
    """Steps between two sheets of translated held-out images."""
    samples: Annotated[int, Field(ge=1, le=64)] = 8
    """Held-out images per domain on such a sheet."""
    tensorboard: bool = True
    """Write a TensorBoard log where the package ``tensorboard`` is installed."""
    validate_every: Annotated[int, Field(ge=1)] | None = None
    """Steps between two looks at images held out from the training split (``--during-training every=N``); None has none."""
    validate_share: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """Share of each domain's training images that is held out for those looks."""
    validate_images: Annotated[int, Field(ge=2)] = 256
    """At most this many images a domain are held out."""
    validate_backbone: str = "mobilenet_v1"
    """Feature network of those looks."""
    validate_weights: str | None = None
    """File or folder of its weights; None looks in the usual places."""


class RunConfig(Settings):
    """A whole run. ``model`` is an instance of the method's ``Config``."""

    method: str = "unit"
    """A key of ``unpaired.methods.METHODS``."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Everything random follows from this and the step."""
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    model: Any = None
    """The method's own settings."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values, every key present; ``unpaired.methods.run_from`` reads it back."""
        return self.model_dump(mode="json")

    def written(self) -> dict[str, Any]:
        """The values as TOML can hold them: keys whose value is None are left out, which means the same."""
        return _without_none(self.to_dict())

    def to_toml(self) -> str:
        """TOML text of every setting."""
        return tomli_w.dumps(self.written())


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in values.items() if v is not None}


def _fields_of(model: type[BaseModel], method_config: type[MethodConfig], prefix: str = "") -> list[str]:
    """All dotted keys, to suggest the nearest one."""
    keys = []
    for name, field in model.model_fields.items():
        inner = method_config if (model is RunConfig and name == "model") else field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += _fields_of(inner, method_config, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def _explain(error: ValidationError, prefix: str, known: Sequence[str]) -> str:
    """All problems at once, one line each: what is wrong, what is there, what would do."""
    lines = []
    for problem in error.errors():
        key = prefix + ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown setting '{key}'.{nearest(key, known)}")
        else:
            lines.append(f"{key} = {problem['input']!r}: {problem['msg'][:1].lower()}{problem['msg'][1:]}")
    return "\n".join(lines)


def from_dict(values: Mapping[str, Any], model: type[MethodConfig]) -> RunConfig:
    """Build and validate a run from plain values; ``model`` is the ``Config`` of its method.

    Raises:
        ConfigError: names every unknown key (with the nearest known one) and every value out of range.
    """
    values = dict(values)
    known = _fields_of(RunConfig, model)
    table = values.pop("model", None) or {}
    if not isinstance(table, Mapping):
        raise ConfigError(f"model = {table!r}: a table of settings is wanted, as in --set model.batch_size=4")
    problems = []
    run, settings = None, None
    try:
        run = RunConfig(**values)
    except ValidationError as error:
        problems.append(_explain(error, "", known))
    try:
        settings = model(**table)
    except ValidationError as error:
        problems.append(_explain(error, "model.", known))
    if problems or run is None:
        raise ConfigError("\n".join(problems))
    return run.model_copy(update={"model": settings})


def parse_value(text: str) -> Any:
    """``text`` read as a TOML value; a bare word is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``changes`` laid over ``base``, table by table."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``{"model.width": 32}`` -> ``{"model": {"width": 32}}``."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        tree = merge(tree, value)
    return tree


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """``["model.width=32"]`` -> ``{"model.width": 32}``. Raises ConfigError for text without ``=``."""
    parsed = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {text!r}: expected KEY=VALUE, as in --set model.batch_size=4")
        parsed[key.strip()] = parse_value(value.strip())
    return parsed


_LOOKS = {
    "backbone": "validate_backbone",
    "share": "validate_share",
    "images": "validate_images",
    "weights": "validate_weights",
}


def parse_looks(text: str) -> dict[str, Any]:
    """``"every=500,share=0.1"`` (the option --during-training) -> dotted settings. Raises ConfigError."""
    names = {"every": "validate_every", **_LOOKS}
    values = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or key.strip() not in names:
            raise ConfigError(
                f"--during-training {text!r}: expected every=N, and if need be {', '.join(f'{n}=…' for n in _LOOKS)}"
            )
        values[f"training.{names[key.strip()]}"] = parse_value(value.strip())
    if "training.validate_every" not in values:
        raise ConfigError(f"--during-training {text!r}: every=N is missing, as in --during-training every=500")
    return values


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as plain values; ConfigError names the file and the line that is wrong."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def presets() -> dict[str, str]:
    """Names of the shipped presets with the first line of each, sorted."""
    folder = resources.files("unpaired") / "presets"
    found = {}
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".toml"):
            found[entry.name.removesuffix(".toml")] = entry.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ")
    return found


def preset(name: str) -> dict[str, Any]:
    """The values of a shipped preset, or of a TOML file when ``name`` ends in ``.toml``."""
    if name.endswith(".toml"):
        return read_toml(Path(name))
    return tomllib.loads(preset_text(name))


def preset_text(name: str) -> str:
    """The text of a shipped preset; its first lines are comments for a person. Raises ConfigError for an unknown name."""
    if name not in presets():
        place = " A TOML file's name ends in .toml." if Path(name).exists() else ""
        raise ConfigError(f"unknown preset '{name}'.{nearest(name, presets())}{place} `unpaired presets` lists all")
    return (resources.files("unpaired") / "presets" / f"{name}.toml").read_text(encoding="utf-8")


def setting_names(config: RunConfig) -> list[str]:
    """All dotted keys of a run's settings."""
    return _fields_of(RunConfig, type(config.model))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both values."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found[prefix + key] = (a, b)
    return found
