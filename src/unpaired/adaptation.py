"""From labelled source images and unlabelled target images to a classifier for the target.

Two recipes. ``joint`` is the UNIT paper's (section 4, Table 2): one training translates and classifies, with a class
head on the shared discriminator. ``translate`` trains any two-domain translator, translates the labelled images into
the target and trains a classifier on the result, as "Show, Attend and Translate" does; an anchor can keep the
translator from swapping classes. Target labels are read for the report alone, unless ``select_on_test`` asks for the
official protocol.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, ValidationError
from torch import Tensor

from unpaired import __version__, checkpoint, machine
from unpaired.batch import Batch
from unpaired.config import AdaptConfig, RunConfig, Settings, explain, merge, nested
from unpaired.config import preset as read_preset
from unpaired.data.images import to_tensor, to_uint8
from unpaired.data.labelled import open_labelled, open_to_test, open_unlabelled
from unpaired.data.sampling import ArrayPool, centre_crops
from unpaired.errors import ConfigError, DataError
from unpaired.evaluation.classifier import Fitted, Score, Training, save_classifier, score, train_classifier
from unpaired.files import check_run_apart
from unpaired.methods import run_from
from unpaired.methods.base import Method, Stage, Update
from unpaired.training import log as training_log
from unpaired.training import loop as training_loop
from unpaired.training import run as training_run
from unpaired.training.log import Reporter
from unpaired.training.state import Plan

Recipe = Literal["joint", "translate"]


class AdaptSettings(Settings):
    """Settings of ``adapt`` beside the translator's; keys ``adapt.*``, table ``[adapt]`` of a preset."""

    held_out: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Share of the labelled source images that nothing is trained on: the best classifier is chosen on them."""
    checkpoints: Annotated[int, Field(ge=1, le=100)] = 10
    """How many checkpoints of the training are kept and compared (recipe ``joint``)."""
    steps: Annotated[int, Field(ge=1)] = 1000
    """Training steps of a plain classifier: source-only, and the adapted one of recipe ``translate``."""
    width: Annotated[int, Field(ge=1)] = 32
    """Channels of a plain classifier's first layer."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Images in a step of a plain classifier."""
    jitter: Annotated[float, Field(ge=0, le=0.5)] = 0.15
    """Random rotation, shear, scale and shift of a plain classifier's training images; 0 leaves them as they are."""
    recolour: bool = False
    """Random contrast, inversion and colour of a plain classifier's training images: an alternative to adaptation."""
    inverted: bool = False
    """Add an inverted copy of each labelled source image, to the translator's and to the classifiers' training alike;
    the released SVHN→MNIST settings do this with MNIST."""
    keep_source: bool = True
    """Recipe ``translate``: half of each batch are untranslated source images."""
    anchor: Annotated[float, Field(ge=0)] = 0.0
    """Recipe ``translate``: weight of the cross-entropy by which a frozen source classifier must give a translated
    image the label of its source. Helps against swapped classes; ties the translations to what that classifier
    knows."""


@dataclass(frozen=True)
class AdaptResult:
    """What was reached. Scores are on ``test``; None without one. ``classifier`` loads with ``load_classifier``."""

    out: Path
    recipe: Recipe
    method: str
    seed: int
    classes: tuple[str, ...]
    counts: Mapping[str, int]
    """Images by part: source, held_out, target, test."""
    selection: str
    """How the best was chosen, in words."""
    source_only: Score | None
    last: Score | None
    best: Score | None
    best_step: int
    history: tuple[Mapping[str, float], ...]
    seconds: float
    config: Mapping[str, Any]

    @property
    def classifier(self) -> Path:
        """File of the last classifier."""
        return self.out / "classifier.safetensors"

    @property
    def best_classifier(self) -> Path:
        """File of the best one."""
        return self.out / "classifier-best.safetensors"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; ``results.json`` holds it."""
        found = asdict(self) | {"version": __version__, "seconds": round(self.seconds, 1)}
        found |= {"classifier": self.classifier.name, "best_classifier": self.best_classifier.name}
        del found["out"]
        return found

    def text(self) -> str:
        """Return a few lines for a terminal, with n and the confusion table of the last classifier."""
        counts = ", ".join(f"{n:,} {k.replace('_', ' ')}" for k, n in self.counts.items())
        lines = [f"{self.recipe} with {self.method}, seed {self.seed}: {counts}"]
        best = f"adapted, best ({self.selection})"
        scores = {"source only": self.source_only, "adapted, last": self.last, best: self.best}
        for name, found in scores.items():
            lines.append(f"  {name:<14} " + (f"{found.accuracy:.4f} of {found.n:,}" if found else "no --test given"))
        if self.last is not None and len(self.classes) <= 20:
            width = max(len(c) for c in self.classes) + 1
            width = max(width, len(str(max(map(max, self.last.confusion)))) + 1)
            lines.append("  last: true class in rows, predicted in columns")
            lines.append("  " + " " * width + "".join(c.rjust(width) for c in self.classes))
            for name, row in zip(self.classes, self.last.confusion, strict=True):
                lines.append("  " + name.rjust(width) + "".join(str(v).rjust(width) for v in row))
        lines.append(f"classifier: {self.classifier}")
        return "\n".join(lines)


# ----------------------------------------------------------------------------------------------------- the command
def adapt(
    source: Path | str, target: Path | str, out: Path | str, options: AdaptConfig | None = None, **changes: Any
) -> AdaptResult:
    """Train a classifier for the unlabelled images ``target`` from the labelled images ``source``.

    Interrupted, the same call goes on where it was (the classifiers, a minute each, are trained anew).

    Args:
        source: folder of class folders, or npz with images and labels.
        target: folder or npz; labels in it are not read.
        out: folder for ``run/``, ``classifier.safetensors`` (last), ``classifier-best.safetensors``, ``results.json``.
        options: what :class:`~unpaired.config.AdaptConfig` lists; ``changes`` are single ones of them, as in
            ``test="labelled/"``.

    Raises:
        ConfigError, DataError: before any training. Others as :func:`unpaired.training.loop.fit`.
    """
    started, asked = time.monotonic(), AdaptConfig.of(options, changes)
    check_run_apart(out, source, target, *([asked.test] if asked.test is not None else []))
    config, settings, recipe = _settle(asked)
    machine.choose(config.training)
    if asked.select_on_test and asked.test is None:
        raise ConfigError("--select-on-test needs --test LABELLED_TARGET")
    data = _read(Path(source), Path(target), asked.test, config, settings)
    # settings under which the translator cannot train refuse before any work
    method = training_run.build(config, asked.names, data.classes)
    job = _Job(config, settings, data, Path(out), asked)
    typed = training_log.typed("adapt", asked, source=source, target=target, out=out)
    places = {asked.names[0]: source, asked.names[1]: target}
    job.origin = training_log.about(places, typed, {asked.names[1]: asked.test} if asked.test is not None else {})
    job.say("source-only classifier")
    plain = job.plain_classifier(data.labelled(), lambda net: job.accuracy(net, data.held, data.held_labels))
    source_only = job.score(plain.last)
    if source_only:
        job.say(f"source only: {source_only.accuracy:.4f} of {source_only.n:,}")
    found = _joint(job) if recipe == "joint" else _translate(job, method, plain)
    result = AdaptResult(
        job.out, recipe, config.method, config.seed, data.classes, data.counts(), source_only=source_only, **found,
        seconds=time.monotonic() - started, config={**config.to_dict(), "adapt": settings.model_dump(mode="json")},
    )  # fmt: skip
    checkpoint.write_atomic(job.out / "results.json", json.dumps(result.to_dict(), indent=1).encode())
    return result


def _settle(asked: AdaptConfig) -> tuple[RunConfig, AdaptSettings, Recipe]:
    """Return the validated settings from preset, method and dotted keys. Raises ConfigError."""
    device = {"training.device": asked.device} if asked.device is not None else {}
    values = merge(read_preset(asked.preset) if asked.preset else {}, nested(asked.settings | device))
    given = values.pop("adapt", {})
    name = str(values.get("method") or asked.method)
    if asked.method not in ("unit", name) and asked.preset:
        raise ConfigError(
            f"--method {asked.method} does not go with preset {asked.preset}, which is for '{name}'; leave one out"
        )
    # "unit" as a word stands for unit-digits; a preset that names it has the settings of the translator
    joint = name == "unit-digits" or (name == "unit" and "method" not in values)
    recipe: Recipe = asked.recipe or ("joint" if joint else "translate")
    if recipe == "joint" and asked.preset and values.get("method") == "unit":
        raise ConfigError(
            f"preset {asked.preset} is for 'unit', and recipe 'joint' is unit-digits' own; type --recipe translate"
        )
    if recipe == "joint" and name == "unit":
        name = "unit-digits"
    if recipe == "joint" and name != "unit-digits":
        raise ConfigError(f"recipe 'joint' is unit-digits' own; for method '{name}' type --recipe translate")
    if not isinstance(given, Mapping):
        raise ConfigError(f"adapt = {given!r}: expected settings such as adapt.steps=1000")
    try:
        settings = AdaptSettings(**given)
    except ValidationError as error:
        raise ConfigError(explain(error, "adapt.", [f"adapt.{n}" for n in AdaptSettings.model_fields])) from error
    defaults: dict[str, Any] = {"data": {"mirror": False}}  # a mirrored digit is another sign
    if name == "unit-digits":
        defaults["data"]["size"] = 32
    return run_from(merge(defaults, {**values, "method": name, "seed": asked.seed})), settings, recipe


# ----------------------------------------------------------------------------------------------------------- data
@dataclass(frozen=True)
class _Data:
    classes: tuple[str, ...]
    images: Mapping[str, np.ndarray[Any, np.dtype[np.uint8]]]
    """uint8 [n, S, S, 3]: source (training part), target."""
    labels: np.ndarray[Any, np.dtype[np.int64]]
    held: Tensor
    held_labels: Tensor
    test: Tensor | None
    test_labels: Tensor | None
    copies: int = 1
    """How often each source image is in ``images``: 2 with inverted copies."""

    def labelled(self) -> ArrayPool:
        """Return the labelled source images, as domain ``source``."""
        return ArrayPool({"source": self.images["source"]}, {"source": self.labels}, self.classes)

    def both(self, names: tuple[str, str]) -> ArrayPool:
        """Return the labelled source images and the unlabelled target images, as the domains ``names``."""
        images = {names[0]: self.images["source"], names[1]: self.images["target"]}
        return ArrayPool(images, {names[0]: self.labels}, self.classes)

    def counts(self) -> dict[str, int]:
        source = len(self.labels) // self.copies
        found = {"source": source, "held_out": len(self.held), "target": len(self.images["target"])}
        return found | ({"test": len(self.test)} if self.test is not None else {})


def _read(source: Path, target: Path, test: Path | None, config: RunConfig, options: AdaptSettings) -> _Data:
    """Read everything, put a share of each source class aside, and bring the test's classes into the source's order."""
    labelled = open_labelled(source, config.data, "source", "train")
    unlabelled = open_unlabelled(target, config.data, "target", "train")
    classes, labels = labelled.classes, np.asarray(labelled.labels["source"])
    if len(classes) < 2:
        raise DataError(f"{source}: one class ({', '.join(classes)}); a classifier needs at least two")
    order = np.random.default_rng((config.seed, 1)).permutation(len(labels))
    aside = np.zeros(len(labels), bool)
    for k in range(len(classes)):
        of_class = order[labels[order] == k]
        aside[of_class[: round(len(of_class) * options.held_out)]] = True
    if not aside.any():
        raise DataError(f"{source}: {len(labels)} images are too few to hold {options.held_out:.0%} out")
    held = centre_crops(labelled, "source", np.flatnonzero(aside).tolist(), config.data)
    images, labels_used = labelled.images["source"][~aside], labels[~aside]
    if options.inverted:
        images, labels_used = np.concatenate([images, 255 - images]), np.tile(labels_used, 2)
    both = {"source": images, "target": unlabelled.images["target"]}
    test_images = test_labels = None
    if test is not None:
        tested = open_to_test(test, config.data, "test")
        strange = sorted(set(tested.classes) - set(classes))
        if strange:
            raise DataError(f"{test}: classes {', '.join(strange)} are not among the source's: {', '.join(classes)}")
        where = np.array([classes.index(c) for c in tested.classes], np.int64)
        test_images = to_tensor(centre_crops(tested, "test", range(tested.count("test")), config.data))
        test_labels = torch.from_numpy(where[np.asarray(tested.labels["test"])])
    held_labels = torch.from_numpy(labels[aside])
    copies = 2 if options.inverted else 1
    return _Data(classes, both, labels_used, to_tensor(held), held_labels, test_images, test_labels, copies)


# --------------------------------------------------------------------------------------------------------- recipes
class _Job:
    """What both recipes need: settings, data, folders, a voice."""

    def __init__(self, config: RunConfig, options: AdaptSettings, data: _Data, out: Path, asked: AdaptConfig) -> None:
        self.config, self.options, self.data, self.out = config, options, data, out
        self.names, self.quiet, self.select_on_test = asked.names, asked.quiet, asked.select_on_test
        self.device = machine.choose_device(config.training.device)
        self.say: Callable[[str], None] = Reporter(1, 0, quiet=self.quiet).say
        self.origin: dict[str, Any] | None = None
        """Where the images are and the command, for reports."""
        out.mkdir(parents=True, exist_ok=True)

    def logits(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """[n, K] on the CPU, in parts."""
        with torch.inference_mode():
            return torch.cat([network(part.to(self.device)).float().cpu() for part in torch.split(images, 512)])

    def accuracy(self, network: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> float:
        return float((self.logits(network, images).argmax(1) == labels).float().mean())

    def score(self, network: Callable[[Tensor], Tensor]) -> Score | None:
        """Score on the test images, if there are any."""
        if self.data.test is None or self.data.test_labels is None:
            return None
        return score(self.logits(network, self.data.test), self.data.test_labels)

    def plain_classifier(
        self,
        pool: ArrayPool,
        criterion: Callable[[Callable[[Tensor], Tensor]], float],
        extra: ArrayPool | None = None,
    ) -> Fitted:
        """Train a ConvNet on the labelled images of ``pool`` (and of ``extra``, half of each batch), as they were read
        or cropped already."""
        images, labels = pool.images["source"], np.asarray(pool.labels["source"])
        # translations are made of crops: those are not cropped again
        cropped = images.shape[1] == self.config.data.size
        read = self.config.data.model_copy(update={"resize": None}) if cropped else self.config.data
        more = None if extra is None else np.asarray(extra.labels["source"])
        size, o = self.config.data.size, self.options

        def draw(index: Tensor) -> tuple[Tensor, Tensor]:
            i = index.numpy()
            x, y = centre_crops(pool, "source", i.tolist(), read), labels[i]
            if extra is not None and more is not None:
                half = i[: len(i) // 2] % len(more)
                x[: len(half)] = centre_crops(extra, "source", half.tolist(), self.config.data)
                y = np.concatenate([more[half], y[len(half) :]])
            return to_tensor(x), torch.from_numpy(y)

        how = Training(len(self.data.classes), size, o.width, o.steps, o.batch_size, o.jitter, o.recolour)
        seed, device = self.config.seed, self.device
        return train_classifier(draw, len(images), criterion, how, seed=seed, device=device, say=self.say)

    @torch.inference_mode()
    def translate_all(self, method: Method, images: Tensor) -> Tensor:
        """[n, 3, S, S] source -> target, in parts, on the CPU."""
        generator = torch.Generator(self.device).manual_seed(0)
        made = (method.translate(x.to(self.device), *self.names, generator=generator) for x in torch.split(images, 256))
        return torch.cat([part.float().cpu().clamp(-1, 1) for part in made])


def _joint(job: _Job) -> dict[str, Any]:
    """Run the paper's recipe: one training; the class head is the classifier."""
    options, data = job.options, job.data
    every = max(1, -(-job.config.model.steps // options.checkpoints))
    loop = job.config.training.model_copy(update={"checkpoint_every": every, "keep": options.checkpoints + 1})
    config = job.config.model_copy(update={"training": loop})
    method = training_run.build(config, job.names, data.classes)
    job.say(f"translator and class head: {config.model.steps:,} steps")
    extras = training_loop.Extras(header={"recipe": "joint"}, origin=job.origin, quiet=job.quiet)
    training_loop.fit(method, data.both(job.names), config, job.out / "run", extras)
    history: list[dict[str, float]] = []
    for folder in sorted(checkpoint.steps(job.out / "run" / "checkpoints")):  # oldest first
        trained, header = checkpoint.load_method(folder / checkpoint.MODEL, job.device)
        if header["step"] == 0:
            continue
        network = _class_head(trained)
        there = job.translate_all(trained, data.held)
        entry = {"step": header["step"], "held_out_translated": job.accuracy(network, there, data.held_labels)}
        if (found := job.score(network)) is not None:
            entry["test"] = found.accuracy
        history.append(entry)
        job.say("checkpoint " + ", ".join(f"{k} {v:.4f}" if k != "step" else f"{v:,.0f}" for k, v in entry.items()))
    key = "test" if job.select_on_test else "held_out_translated"
    best_step = int(max(history, key=lambda e: (e[key], e["step"]))["step"])
    scores = []
    for name, step in (("classifier", int(history[-1]["step"])), ("classifier-best", best_step)):
        path = checkpoint.folder_of(job.out / "run" / "checkpoints", step) / checkpoint.MODEL
        checkpoint.write_atomic(job.out / f"{name}.safetensors", path.read_bytes())
        scores.append(job.score(_class_head(checkpoint.load_method(path, job.device)[0])))
    words = "on the labels of the test set, the official protocol" if job.select_on_test else (
        f"of {len(history)} checkpoints, on {len(data.held):,} held-out source images translated"
    )  # fmt: skip
    return _found(words, scores, best_step, history)


def _found(selection: str, scores: Sequence[Score | None], best_step: int, history: Sequence[Any]) -> dict[str, Any]:
    """What a recipe adds to the result; ``scores``: last and best."""
    last, best = scores
    return {"selection": selection, "last": last, "best": best, "best_step": best_step, "history": tuple(history)}


def _class_head(method: Method) -> Callable[[Tensor], Tensor]:
    classify: Callable[[Tensor, str], Tensor] = method.classify  # type: ignore[assignment]
    return lambda images: classify(images, method.domains[1])


def _translate(job: _Job, method: Method, plain: Fitted) -> dict[str, Any]:
    """Train a translator, translate the labelled images, train a classifier on them."""
    options, data, config = job.options, job.data, job.config
    if options.anchor:
        add_anchor(method, plain.last.requires_grad_(False), options.anchor)
    job.say(f"translator: {Plan(method.stages()).total:,} steps")
    file = training_loop.fit(method, data.both(job.names), config, job.out / "run", origin=job.origin, quiet=job.quiet)
    trained, _ = checkpoint.load_method(file, job.device)
    pool = data.labelled()
    crops = to_tensor(centre_crops(pool, "source", range(len(data.labels)), config.data))
    made = to_uint8(job.translate_all(trained, crops))
    there = ArrayPool({"source": made}, {"source": data.labels}, data.classes)
    held = job.translate_all(trained, data.held)

    def criterion(network: Callable[[Tensor], Tensor]) -> float:
        if job.select_on_test:
            assert data.test is not None and data.test_labels is not None
            return job.accuracy(network, data.test, data.test_labels)
        return job.accuracy(network, held, data.held_labels)

    job.say("classifier on translated images")
    fitted = job.plain_classifier(there, criterion, extra=pool if options.keep_source else None)
    extra = {"recipe": "translate", "translator": config.method, "seed": config.seed}
    for name, network in (("classifier", fitted.last), ("classifier-best", fitted.best)):
        save_classifier(job.out / f"{name}.safetensors", network, data.classes, config.data, extra)
    words = "on the labels of the test set" if job.select_on_test else (
        f"of {len(fitted.history)} looks, on {len(data.held):,} held-out source images translated"
    )  # fmt: skip
    history = [{"step": float(s), "criterion": v} for s, v in fitted.history]
    return _found(words, [job.score(fitted.last), job.score(fitted.best)], fitted.best_step, history)


def add_anchor(method: Method, classify: Callable[[Tensor], Tensor], weight: float) -> None:
    """Let every update that trains the translator also keep the labels of labelled source images.

    ``classify`` is frozen: images [N, 3, S, S] -> logits. The term is ``weight``·CE of x translated; images without a
    label (−1) do not count. Translation here has no noise.
    """
    source, target = method.domains[:2]
    plan = method.stages

    def term(batch: Batch) -> dict[str, Tensor]:
        if batch.source_label is None:
            raise DataError("an anchor needs labelled source images")
        known = (batch.source_label >= 0) & (batch.source_domain == method.domains.index(source))
        logits = classify(method.translate(batch.source, source, target)).float()
        error = F.cross_entropy(logits, batch.source_label.clamp_min(0), reduction="none")
        return {"anchor": weight * (error * known).sum() / known.sum().clamp_min(1)}

    def anchored(update: Update) -> Update:
        loss = update.loss
        return replace(update, loss=lambda batch, *shared: {**loss(batch, *shared), **term(batch)})

    def stages() -> tuple[Stage, ...]:
        return tuple(
            replace(s, updates=tuple(anchored(u) if u.name in chosen else u for u in s.updates)) for s in plan()
        )

    chosen = _translating(method)
    method.stages = stages  # type: ignore[method-assign]  # on this object alone: the class stays as it is


def _translating(method: Method) -> frozenset[str]:
    """Names of the updates that change what ``translate`` needs: some parameter outside ``training_only``."""
    names = {id(p): n.split(".")[0] for n, p in method.named_parameters()}
    return frozenset(
        u.name
        for stage in method.stages()
        for u in stage.updates
        if any(names[id(p)] not in method.training_only for m in u.modules for p in m.parameters())
        and "discriminator" not in u.name
    )
