"""Settings of a run: frozen pydantic models, read from and written to TOML, changed with ``--set key=value``.

A run is described by five keys: ``method``, ``seed``, and the tables ``[data]``, ``[training]`` and ``[model]``.
``[model]`` holds the method's own ``Config``. Nothing here imports torch.
"""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from cyclopts import Parameter
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from unpaired.errors import ConfigError, nearest


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def _listed(given: Any) -> Any:
    """Split texts at their commas: ``"a,b"`` and ``["a,b", "c"]`` are lists of names; other values stay."""
    parts = [given] if isinstance(given, (str, int, float)) else given
    if not isinstance(parts, (list, tuple)):
        return given
    return [w for p in parts for w in ([w.strip() for w in p.split(",") if w.strip()] if isinstance(p, str) else [p])]


_LISTED = (
    BeforeValidator(_listed),
    Parameter(negative="", consume_multiple=False, show_default=lambda values: _as_typed(values) or None),
)
Words = Annotated[tuple[str, ...], *_LISTED]
"""Names: a list of them in Python, commas between them (or the option repeated) on the command line."""
Numbers = Annotated[tuple[float, ...], *_LISTED]
"""Numbers, in the same way."""


class Options(Settings):
    """Base of the options of a command: one model that the Python function and the command line share.

    1. Write ``class NameConfig(Options)`` in this module: a field an option, its docstring is the help. Ranges are
       ``Field(ge=1)``; what crosses fields is a ``model_validator(mode="after")`` that raises ConfigError. Fields for
       Python alone: ``Parameter(parse=False)``.
    2. Write ``def name(subject, options: NameConfig | None = None, /, **changes)``; it begins with
       ``options = NameConfig.of(options, changes)``.
    3. In the command line take ``options: Flat[NameConfig] | None = None`` (no default where a field is required).
    4. Record ``options.model_dump(mode="json")``; ``options.typed()`` is what must be typed to have the same again.
    """

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        for field in cls.model_fields.values():  # the help wraps lines itself
            field.description = " ".join((field.description or "").split())

    @classmethod
    def of(cls, given: Self | None = None, changes: Mapping[str, Any] | None = None) -> Self:
        """Take ``given`` (or the defaults) with some options changed. Raises ConfigError that names every wrong one."""
        changes = changes or {}
        if given is not None and not changes:
            return given
        try:
            return cls.model_validate((dict(given) if given is not None else {}) | dict(changes))
        except ValidationError as error:
            raise ConfigError(explain(error, known=list(cls.model_fields))) from error

    def typed(self, *leave: str) -> str:
        """Write the options that differ from their defaults as a shell takes them, but those to ``leave`` out.

        A field ``NAME_config`` that holds settings becomes ``--set NAME.KEY=VALUE``.
        """
        parts = []
        for name, field in type(self).model_fields.items():
            value, option = getattr(self, name), f"--{name.replace('_', '-')}"
            if name in leave or value == field.get_default(call_default_factory=True):
                continue
            if name == "settings":
                parts += [f"--set {shlex.quote(f'{key}={_as_toml(v)}')}" for key, v in value.items()]
                continue
            if isinstance(value, Settings):
                table = name.removesuffix("_config")
                usual = type(value)().model_dump(mode="json")
                chosen = {k: v for k, v in value.model_dump(mode="json").items() if v != usual[k]}
                parts += [f"--set {shlex.quote(f'{table}.{k}={_as_typed(v)}')}" for k, v in chosen.items()]
            elif isinstance(value, bool):
                parts.append(option if value else f"--no-{option[2:]}")
            elif value is not None:
                parts.append(f"{option} {shlex.quote(_as_typed(value))}")
        return " ".join(parts)


def _as_toml(value: Any) -> str:
    """Write the text that :func:`parse_value` reads as ``value``."""
    if isinstance(value, str) and parse_value(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _as_typed(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(_as_typed, value))
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


class MethodConfig(Settings):
    """Base of a method's ``Config``: every number of its paper."""

    def with_steps(self, total: int) -> Self:
        """The same settings with about ``total`` steps in all: every field named ``steps`` or ``*_steps`` is scaled."""
        names = [n for n in type(self).model_fields if n == "steps" or n.endswith("_steps")]
        now = sum(getattr(self, n) for n in names)
        return self.model_copy(update={n: max(1, round(getattr(self, n) * total / now)) for n in names})


Interpolation = Literal["nearest", "bilinear", "bicubic"]


class DataConfig(Settings):
    """How images are read and cropped. All of it happens before the value range becomes [-1, 1]."""

    size: Annotated[int, Field(ge=8, le=2048)] = 256
    """Side in pixels of the square training crop."""
    resize: Annotated[int, Field(ge=8, le=4096)] | None = None
    """Shorter side in pixels to which an image is resized before the crop; None means ``size``."""
    interpolation: Interpolation = "bicubic"
    """Filter of that resize (Pillow's definitions, antialiased)."""
    mirror: bool = True
    """Flip half of the training crops left to right."""
    cache: bool = True
    """Keep decoded, resized images in a memory-mapped uint8 file when they fit into ``cache_gib``."""
    cache_gib: Annotated[float, Field(gt=0)] = 4.0
    """Largest cache in GiB; a larger data set is decoded anew each time."""
    workers: Annotated[int, Field(ge=0, le=64)] = 0
    """Loader processes. The result does not depend on it."""

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.resize is not None and self.resize < self.size:
            what = f"resize = {self.resize} is smaller than the crop, size = {self.size}"
            raise ValueError(f"{what}; make it at least that")
        return self


class TrainingConfig(Settings):
    """What the loop does, the same for every method."""

    device: str = "auto"
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """``auto`` is bf16 autocast where the hardware has bf16 matrix units, else fp32. ``tf32`` is fp32 with TF32
    products (GPU)."""
    compile: bool = False
    """Compile each loss with torch.compile; falls back with one line of warning."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Split each batch into this many parts and add up their gradients: less memory, the same batch."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the gradient of one update; None does not clip."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights, which then becomes the shared model; less in the first
    steps (at most (1 + n) / (10 + n) after step n). None has none."""
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
    """Steps between two looks at images held out from the training split (``--during-training N``); None has none."""
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


def explain(error: ValidationError, prefix: str = "", known: Sequence[str] = (), *, option: bool = False) -> str:
    """Say all problems at once, a line each: what is wrong, what is there, what would do. ``option``: as typed,
    ``--name value``."""
    lines = []
    for problem in error.errors():
        key = prefix + ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown setting '{key}'.{nearest(key, known)}")
            continue
        if problem["type"] == "value_error":  # words of our own, which name what they are about
            lines.append(problem["msg"].removeprefix("Value error, "))
            continue
        shown = f"--{str(problem['loc'][0]).replace('_', '-')} " if option else f"{key} = "
        given = problem["input"]
        given = str(given) if isinstance(given, Path) else repr(given)
        lines.append(f"{shown}{given}: {problem['msg'][:1].lower()}{problem['msg'][1:]}")
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
    made: list[Any] = []
    problems = []
    for kind, given, prefix in ((RunConfig, values, ""), (model, table, "model.")):
        try:
            made.append(kind(**given))
        except ValidationError as error:
            problems.append(explain(error, prefix, known))
    if problems:
        raise ConfigError("\n".join(problems))
    run: RunConfig = made[0]
    return run.model_copy(update={"model": made[1]})


RETIRED: dict[str, tuple[Any, ...]] = {
    "data.views": (0,),
    "data.antialias": (True,),
    "data.background": ([255, 255, 255],),
    "data.draft": (2,),
    "data.interpolation": ("nearest", "bilinear", "bicubic"),
    "model.feature_cache": ("off",),
    "model.feature_cache_gib": (),
    "model.reconstruction_rows": ("each",),
    "model.optimizer_state": (),
    "model.class_rows": (),
    "model.loss": ("r1",),
    "model.gradient_penalty": (),
    "model.drift": (),
    "model.orthogonal": (0.0,),
    "model.tap": ("before",),
    "model.clamp_at": (1.0,),
    "model.statistics_images": (),
    "model.narrowing": ("computed",),
    "model.image_distance": ("l1",),
    "model.decoder_last": ("tanh",),
    "model.critic_sees_condition": (False,),
    "attend/model.relu_after": (False,),
    "attend/model.spectral_norm": (False,),
    "attend/model.penalty_weight": (),
    "attend/model.identity_weight": (0.0,),
    "attend/model.distance": ("perceptual",),
    "attend/model.layer_weight_place": ("outside",),
    "attend/model.unit_features": (False,),
    "attend/model.induction_rule": ("generator-above",),
}
"""Settings that are no more (of one method, or of any), or have fewer values -> those with which a run is what it was;
none are named where all are."""
BUILT = {"model.tap", "model.clamp_at", "model.narrowing", "model.decoder_last", "attend/model.relu_after"}
"""Those of them that a translation depends on; the others were about training alone."""


def without_retired(values: Mapping[str, Any], *, resume: bool = False) -> dict[str, Any]:
    """Settings that an earlier version saved, without those that are no more.

    Raises:
        ConfigError: one of them had a value that this version cannot honour, and is missed: always where a run is to
            ``resume``.
    """
    kept = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    for entry, good in RETIRED.items():
        method, _, name = entry.rpartition("/")
        table, _, key = name.partition(".")
        if method not in ("", kept.get("method")) or not isinstance(kept.get(table), dict) or key not in kept[table]:
            continue
        value = kept[table][key]
        if good and value not in good and (resume or entry in BUILT):
            what = f"{name} = {value!r} is no longer built"
            raise ConfigError(f"{what}; saved with it, this needs an earlier version of unpaired (commit 813e7b5)")
        if len(good) < 2 or value not in good:
            del kept[table][key]
    return kept


GROUPS = ("distances", "coverage", "errors", "content", "lpips", "classifier")
"""What ``evaluate`` measures: ``distances`` (FD, KD, their means over classes, FD∞), ``coverage`` (precision, recall,
density, coverage), ``errors`` (cycle, identity, reconstruction), ``content`` (feature cosine, SSIM), ``lpips``,
``classifier`` (RC, FC)."""


class ClassifierConfig(Settings):
    """The classifier of RC and FC; the whole of it stands in the results."""

    classifier: Literal["convnet"] = "convnet"
    """(3×3 convolution, BatchNorm, ReLU, pooling) up to five times, dropout, a linear layer."""
    width: Annotated[int, Field(ge=1)] = 32
    """Channels of its first layer."""
    side: Annotated[int, Field(ge=8)] = 64
    """Largest side in pixels of its input; larger pictures are shrunk by an area filter."""
    steps: Annotated[int, Field(ge=1)] = 500
    """Training steps: Adam, one-cycle rate with 4e-3 at its top."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Images in a step, drawn with replacement, each class as often."""
    jitter: Annotated[float, Field(ge=0, le=0.5)] = 0.15
    """Random rotation, scale, shear and shift of its training images."""
    mirror: bool = True
    """Flip half of its training images."""
    runs: Annotated[int, Field(ge=1)] = 3
    """Trainings, with the seeds seed, seed + 1, and so on; the figure is their mean. The last step counts, nothing is
    chosen."""
    split: str = (
        "RC: real training images, generated from test images. FC: generated from training images, real test images"
    )
    """Who sees what; no test image is ever trained on."""


def classifier_settings(values: Mapping[str, Any]) -> ClassifierConfig:
    """Build the settings of RC and FC from ``{"classifier.steps": 300}``. Raises ConfigError."""
    known = [f"classifier.{name}" for name in ClassifierConfig.model_fields if name not in ("classifier", "split")]
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown setting '{key}'.{nearest(key, known)} There are: {', '.join(known)}.")
    try:
        return ClassifierConfig(**{key.removeprefix("classifier."): value for key, value in values.items()})
    except ValidationError as error:
        raise ConfigError(explain(error, "classifier.")) from error


class EvaluateConfig(Options):
    """Options of ``evaluate``."""

    out: Path | None = None
    """JSON file for the results."""
    metrics: Words = ("distances", "coverage", "errors", "content")
    """Comma-separated: distances, coverage, errors, content, lpips, classifier (RC and FC), or all."""
    backbone: Words = ()
    """Feature networks, comma-separated: mobilenet_v1 or efficientnet_lite0 (where none is named, the first that is
    here and that training did not look through; else the figures are left out), fid (the Inception of FID and KID),
    vgg19, alexnet, squeezenet1_1. The name stands in every figure."""
    weights: Path | None = None
    """File or folder with the weights of those networks and of LPIPS."""
    feature_precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 is faster and moves the figures a little."""
    lpips: Words = ("alex",)
    """Networks of LPIPS: alex, vgg or both."""
    split: Literal["train", "test"] = "test"
    """Which images to use."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """At most this many images a domain, drawn at random with the seed."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Images at a time; does not change the result."""
    seed: int = 0
    """For random halves, subsets, resamples and random outputs."""
    bootstrap: Annotated[int, Field(ge=0)] = 200
    """Resamples for the intervals of distances, at least 20; 0 for none."""
    by: Literal["auto", "direction", "target"] = "auto"
    """direction: every pair of domains; target: each target from a mix of its sources; auto: the first up to 12
    pairs."""
    checkpoint: Literal["auto", "last", "best"] = "auto"
    """Of a run with --during-training: auto reports both."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "fp32"
    """Of the translations."""
    pairs: Path | None = None
    """Folder of true pairs, for pixel accuracy: pictures of two halves, or two folders named like the domains."""
    threshold: Numbers = (12.0, 16.0)
    """Colour differences (0 to 255), comma-separated, up to which a pixel is right: of all three channels together, and
    of each. 12 is of Show, Attend and Translate (section 3.2), 16 of UNIT (section 4)."""
    left: str | None = None
    """Domain of the left halves; the model's first source if not given."""
    palette: Path | None = None
    """facades, or a file with a name and a colour a line: mean IoU where the targets of the pairs are label maps."""
    masks: Path | None = None
    """Folder with pictures (named like the source) and true masks (mask), for the overlap with the attention's
    masks."""
    mask_threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Where the attention's masks are cut."""
    classifier: Path | None = None
    """Classifier of unpaired adapt, for its accuracy and confusion table on --labelled."""
    labelled: Path | None = None
    """Labelled target images: a folder of class folders, or an npz file."""
    classifier_config: Annotated[ClassifierConfig, Parameter(parse=False)] = ClassifierConfig()
    """Settings of RC and FC."""
    cache: bool = True
    """Keep features on disk, by the content of each picture."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        unknown = [m for m in self.metrics if m not in (*GROUPS, "all")]
        if unknown or not self.metrics:
            what = (
                f"unknown metrics '{unknown[0]}'.{nearest(unknown[0], GROUPS)}"
                if unknown
                else "metrics: none is named."
            )
            raise ConfigError(f"{what} There are: {', '.join(GROUPS)}, all.")
        if "lpips" in self.groups and not self.lpips:
            raise ConfigError("lpips: no network is named; there are alex and vgg")
        if 0 < self.bootstrap < 20:
            raise ConfigError(f"bootstrap = {self.bootstrap}: 0 for no intervals, or at least 20 resamples")
        if (self.classifier is None) != (self.labelled is None):
            raise ConfigError("--classifier and --labelled go together: who is tested, and on which labelled images")
        if not self.threshold:
            raise ConfigError("threshold: none is named; colour differences from 0 to 255 are wanted, as in 12,16")
        for value in self.threshold:
            if not 0 <= value < float("inf"):  # NaN is not, either
                raise ConfigError(f"threshold = {value}: must be a finite number, at least 0")
        if self.palette is not None and self.pairs is None:
            raise ConfigError("--palette needs --pairs: the true label maps")
        if "classifier" in self.groups and self.split == "train":
            raise ConfigError("RC and FC are tested on images that nothing is trained on: leave out --split train")
        return self

    @property
    def groups(self) -> tuple[str, ...]:
        """The metrics, in the order of GROUPS."""
        return tuple(g for g in GROUPS if g in self.metrics or "all" in self.metrics)


class ExportConfig(Options):
    """Options of ``export``."""

    format: Literal["onnx", "pt2", "html"] = "onnx"
    """onnx for other runtimes; pt2 for PyTorch without this package; html for one page that needs no network."""
    direction: str | None = None
    """SOURCE:TARGET, where only one is wanted; else all."""
    half: bool = False
    """Store weights in half precision: half the size, and colours within a level or two of 255 (onnx, html)."""
    runtime: Path | None = None
    """html: folder with the two files of onnxruntime-web; else the cache, npm or its public address."""
    webgpu: bool = False
    """html: take the runtime that uses a GPU where the browser offers one; the page grows by 4 MB."""


class TranslateConfig(Options):
    """Options of ``translate``."""

    to: str
    """Domain to translate to; all makes a grid of every domain for each input."""
    out: Path
    """Folder for the results; run the same command again to go on after an interruption."""
    source: str | None = None
    """Domain of the inputs, where it does not follow from --to; none for pictures of no trained domain (deepi2i)."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Pictures of equal size at a time; results differ by rounding at most."""
    seed: int = 0
    """For methods with random outputs; each picture's noise follows from it and the picture's own bytes."""
    samples: Annotated[int, Field(ge=1)] = 1
    """Results for each input, in OUT/sample-1 and so on (methods with random outputs)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """fp32 or bf16."""
    engine: Literal["torch", "compile", "onnx"] = "torch"
    """torch; compile for many pictures of few sizes (each size takes up to some minutes once); onnx on a CPU in fp32,
    for many pictures (extra export; some seconds once)."""
    max_pixels: int | None = None
    """Larger pictures are translated in overlapping tiles of this many pixels."""
    format: Literal["png", "jpg", "webp"] = "png"
    """File format of the results: png and webp keep every pixel, jpg has quality 95."""
    overwrite: bool = False
    """Replace results of another model or other options, and foreign files that are in the way."""
    mask: Path | None = None
    """Folder for the attention maps (method attend): 8-bit grey, 0 where the result equals the input exactly."""
    mask_threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    """Make the maps black and white at this value, 0 to 1; what is black stays as it was in the input."""
    quiet: bool = False
    """No progress; warnings stay."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.mask is None and self.mask_threshold is not None:
            raise ConfigError("mask_threshold needs a folder for the masks: --mask DIR")
        return self


MOST_SYNTHESIZED = 100_000
"""More images than this in one call are a slip of the finger."""


class SynthesizeConfig(Options):
    """Options of ``synthesize``."""

    out: Path
    """Folder for the pictures."""
    n: Annotated[int, Field(ge=1)] = 64
    """How many; with --interpolate, how many walks."""
    seed: int = 0
    """Picture number i follows from the seed and i alone."""
    to: str | None = None
    """Domain, where the model knows several."""
    interpolate: Annotated[int, Field(ge=0)] = 0
    """Pictures on the way between two latents, at least 2, one row of the sheet a walk."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """fp32 or bf16."""
    overwrite: bool = False
    """Replace pictures that are there."""

    @model_validator(mode="after")
    def _so_many(self) -> Self:
        if self.interpolate == 1 or self.n * max(1, self.interpolate) > MOST_SYNTHESIZED:
            what = f"n = {self.n}, interpolate = {self.interpolate}"
            raise ConfigError(f"{what}: wanted 1 to {MOST_SYNTHESIZED:,} images in all, and at least 2 on a way")
        return self


class ReportConfig(Options):
    """Options of ``report``."""

    out: Path = Path("report.html")
    """The page to write."""
    data: Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=False, show_default=False)] = ()
    """Folder of the images where the run does not know it, or DOMAIN=PATH, once for each domain."""
    images: Annotated[int, Field(ge=1)] = 8
    """Held-out images shown for each direction."""
    limit: Annotated[int, Field(ge=2)] = 120
    """Images of each domain for the map of features and the failure gallery; twice as many training images are searched
    for neighbours."""
    classifier: Path | None = None
    """Classifier (of adapt) that judges the translations; that of an adaptation is found by itself."""
    seed: int = 0
    """For random outputs and the map."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    quiet: bool = False
    """No progress; warnings stay."""


class RunOptions(Options):
    """Options of every command that trains."""

    preset: str | None = None
    """Name of a shipped preset, or a TOML file."""
    config: Path | None = None
    """TOML file laid over the preset."""
    settings: Annotated[dict[str, Any], Parameter(parse=False)] = {}
    """Dotted keys over both, as in ``{"model.width": 32}``; ``--set`` on the command line."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Training steps in all (stages are scaled in proportion)."""
    pretrained: Path | None = None
    """Run or model file of a pretrained GAN to start from (unpaired pretrain, unpaired import); its widths and image
    size are taken over."""
    seed: int | None = None
    """Everything random follows from it."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] | None = None
    """auto takes bf16 where the hardware has it."""
    device: str | None = None
    """auto, cpu, cuda or cuda:N."""
    workers: int | None = None
    """Loader processes; the result does not depend on it."""
    allow_change: Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=False, show_default=False)] = ()
    """Setting that may differ from the run being resumed; may be repeated."""
    quiet: bool = False
    """No progress; warnings stay."""

    def all_settings(self) -> dict[str, Any]:
        """Return ``settings`` and the options that are short for one."""
        short: dict[str, Any] = {"seed": self.seed, "training.precision": self.precision}
        short |= {"training.device": self.device, "data.workers": self.workers}
        return self.settings | {key: value for key, value in short.items() if value is not None}


class TrainConfig(RunOptions):
    """Options of ``train``."""

    method: str | None = None
    """unit when nothing says otherwise, or with --pretrained the translator that starts from such a GAN; `unpaired
    presets` lists ready settings."""
    weights: str | None = None
    """Pretrained weights of methods that build on them: file or folder, or random to do without."""
    compile: bool | None = None
    """Compile the losses with torch.compile."""
    start_from: Path | None = None
    """Model whose weights a fresh run begins with: an imported one, or one trained on other images."""
    during_training: Annotated[int, Field(ge=1)] | None = None
    """Steps between two looks at held-out training images: distances on them; the best checkpoint is kept beside the
    last (RUN/best). More by --set training.validate_share, _images, _backbone and _weights."""

    def all_settings(self) -> dict[str, Any]:
        """Return ``settings`` and the options that are short for one."""
        short = {
            "model.weights": self.weights,
            "training.compile": self.compile,
            "training.validate_every": self.during_training,
        }
        return super().all_settings() | {key: value for key, value in short.items() if value is not None}


class PretrainConfig(RunOptions):
    """Options of ``pretrain``."""

    method: Literal["biggan", "stylegan"] | None = None
    """biggan (class-conditional; default), or stylegan (all images together, for two-domain translation)."""


class PlanConfig(Options):
    """Options of ``plan``."""

    settings: Annotated[dict[str, Any], Parameter(parse=False)] = {}
    """Dotted keys over the preset, as for ``train``."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Training steps in all (stages are scaled in proportion)."""
    pretrained: Path | None = None
    """Pretrained GAN that the run will start from, as for train."""
    memory: Annotated[float, Field(gt=0)] | None = None
    """GiB that the run may use; what is free here when not given."""


class AdaptConfig(Options):
    """Options of ``adapt``."""

    test: Path | None = None
    """Labelled target images, looked at only to report."""
    method: str = "unit"
    """Method of the translator."""
    recipe: Literal["joint", "translate"] | None = None
    """joint: classify with the discriminator's features, as the UNIT paper; translate: train on translated images.
    joint for UNIT, and translate for the others, when not given."""
    preset: str | None = None
    """Name of a shipped preset, or a TOML file, with tables [data], [training], [model] and [adapt]."""
    settings: Annotated[dict[str, Any], Parameter(parse=False)] = {}
    """Dotted keys over it, as in ``{"model.steps": 2000, "adapt.anchor": 1.0}``."""
    seed: int = 0
    """Everything random follows from it."""
    select_on_test: bool = False
    """Choose the best checkpoint on the test labels, as the official code does; said in every result."""
    device: str | None = None
    """auto, cpu, cuda or cuda:N."""
    quiet: bool = False
    """No progress; warnings stay."""
    names: Annotated[tuple[str, str], Parameter(parse=False)] = ("source", "target")
    """The two domains inside the translator."""


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
    files = sorted((resources.files("unpaired") / "presets").iterdir(), key=lambda e: e.name)
    texts = {e.name.removesuffix(".toml"): e.read_text("utf-8") for e in files if e.name.endswith(".toml")}
    return {name: text.split("\n", 1)[0].lstrip("# ") for name, text in texts.items()}


def preset(name: str) -> dict[str, Any]:
    """The values of a shipped preset, or of a TOML file when ``name`` ends in ``.toml``."""
    if name.endswith(".toml"):
        return read_toml(Path(name))
    return tomllib.loads(preset_text(name))


def preset_text(name: str) -> str:
    """The text of a shipped preset; its first lines are comments for a person. Raises ConfigError for an unknown
    name."""
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
