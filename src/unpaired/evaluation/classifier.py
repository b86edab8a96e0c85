"""A small image classifier: trained in a minute, saved as one self-describing file, loaded with
:func:`load_classifier`.

Legend: N batch, K classes, S side in pixels. Images are float [N, 3, S, S] in [-1, 1], labels int64 [N].
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unpaired import __version__, checkpoint
from unpaired.config import ClassifierConfig, DataConfig
from unpaired.data.images import to_tensor
from unpaired.data.labelled import open_files, open_to_test
from unpaired.data.sampling import centre_crops
from unpaired.errors import CheckpointError, ConfigError, NonFiniteError
from unpaired.evaluation.features import Pass
from unpaired.evaluation.figures import Figure, mean_figure, nothing
from unpaired.evaluation.inputs import By, Images, plan
from unpaired.files import sha256_of
from unpaired.machine import Ranks, autocast, shapes_only
from unpaired.networks.augment import jitter, recolour

Say = Callable[[str], None]


class ConvNet(nn.Module):
    """Halves the image with (3×3 convolution, BatchNorm, ReLU, pooling) until 2×2 or smaller; a linear layer on top."""

    def __init__(self, classes: int, side: int, width: int):
        super().__init__()
        self.side, self.width = side, width
        layers: list[nn.Module] = []
        channels, now = 3, side
        for stage in range(5):
            if now < 4:
                break
            wider = width * 2 ** min(stage, 2)
            layers += [nn.Conv2d(channels, wider, 3, 1, 1), nn.BatchNorm2d(wider), nn.ReLU(), nn.MaxPool2d(2)]
            channels, now = wider, now // 2
        layers += [nn.AdaptiveAvgPool2d(min(now, 2)), nn.Flatten(), nn.Dropout(0.4)]
        self.layers = nn.Sequential(*layers, nn.Linear(channels * min(now, 2) ** 2, classes))

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] -> logits [N, K]."""
        logits: Tensor = self.layers(images)
        return logits


@dataclass(frozen=True)
class Score:
    """How often a classifier is right. ``confusion[i][j]`` counts images of class i that were called j."""

    accuracy: float
    n: int
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Classifier:
    """A trained classifier: ``network`` maps [N, 3, S, S] in [-1, 1] to logits [N, K], in eval mode."""

    network: Callable[[Tensor], Tensor]
    classes: tuple[str, ...]
    image_size: int
    header: Mapping[str, Any]
    data: DataConfig
    """How images are read: the filter and the resize before the centre crop, as in its training."""

    def read(self, files: Sequence[Path | str]) -> Tensor:
        """[N, 3, S, S] in [-1, 1]: the pictures in these files as it was trained to see them. Raises ImageError."""
        return to_tensor(centre_crops(open_files(files, self.data, "new"), "new", range(len(files)), self.data))

    @torch.inference_mode()
    def logits(self, images: Tensor, *, batch: int = 512) -> Tensor:
        """[N, 3, S, S] in [-1, 1] -> [N, K]."""
        return torch.cat([self.network(part).float() for part in torch.split(images, batch)])

    def predict(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in [-1, 1] -> indices into ``classes``, int64 [N]."""
        return self.logits(images).argmax(1)


def confusion_counts(truth: Tensor, guess: Tensor, classes: int) -> list[list[int]]:
    """[true][predicted] counts of two int64 [N]."""
    cells = torch.bincount(truth * classes + guess, minlength=classes * classes)
    found: list[list[int]] = cells.view(classes, classes).tolist()
    return found


def score(logits: Tensor, labels: Tensor) -> Score:
    """Accuracy and confusion table from logits [N, K] and labels [N]."""
    counts = confusion_counts(labels, logits.argmax(1), logits.shape[1])
    right = sum(row[i] for i, row in enumerate(counts))
    return Score(right / len(labels), len(labels), tuple(map(tuple, counts)))


# ----------------------------------------------------------------------------------------------------- training
@dataclass(frozen=True)
class Fitted:
    """What :func:`train_classifier` returns: the network after the last step, and that of the best look."""

    last: ConvNet
    best: ConvNet
    best_step: int
    history: tuple[tuple[int, float], ...]
    """(step, criterion) of each look."""


@dataclass(frozen=True)
class Training:
    """How a classifier is trained."""

    classes: int
    side: int
    width: int
    steps: int
    batch_size: int = 64
    jitter: float = 0.0
    """Amount of :func:`jitter`."""
    recolour: bool = False
    """Whether :func:`recolour` is used."""
    looks: int = 10
    """How often the criterion is looked at."""


def train_classifier(
    draw: Callable[[Tensor], tuple[Tensor, Tensor]],
    count: int,
    criterion: Callable[[Callable[[Tensor], Tensor]], float],
    how: Training,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    say: Say | None = None,
) -> Fitted:
    """Train with Adam and a one-cycle rate; the same seed gives the same network.

    Args:
        draw: indices [N] -> (images [N, 3, S, S], labels [N]); ``count`` is how many there are.
        criterion: a network in eval mode -> a number, larger is better; it chooses the best.

    Raises:
        NonFiniteError: the loss became NaN or infinite.
    """
    steps = how.steps
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ConvNet(how.classes, how.side, how.width).to(device)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
        best, best_step, best_value = copy.deepcopy(network), 0, float("-inf")
        history = []
        for step in range(1, steps + 1):
            images, labels = draw(torch.randint(count, (how.batch_size,)))
            images = jitter(images.to(device), how.jitter)
            network.train()
            with autocast("fp32", torch.device(device)):
                loss = F.cross_entropy(network(recolour(images) if how.recolour else images), labels.to(device))
            if not torch.isfinite(loss):
                raise NonFiniteError(f"the classifier's loss became {float(loss)} at step {step} of {steps}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rate.step()
            if step % max(1, steps // how.looks) == 0 or step == steps:
                network.eval()
                with torch.inference_mode():
                    value = criterion(network)
                history.append((step, value))
                if value >= best_value:
                    best, best_step, best_value = copy.deepcopy(network), step, value
                if say is not None:
                    say(f"classifier: step {step:,} of {steps:,}, loss {loss.item():.3f}, held out {value:.3f}")
    return Fitted(network.eval(), best.eval(), best_step, tuple(history))


# -------------------------------------------------------------------------------------------------------- files
def save_classifier(
    path: Path, network: ConvNet, classes: Sequence[str], data: DataConfig, extra: Mapping[str, Any] | None = None
) -> Path:
    """Write ``network``, trained on images read as ``data`` says, as one self-describing safetensors file,
    atomically."""
    header = {
        "format": checkpoint.FORMAT,
        "version": __version__,
        "kind": "classifier",
        "classes": list(classes),
        "image_size": network.side,
        "width": network.width,
        "value_range": [-1, 1],
        "extra": dict(extra or {}),
        "data": data.model_dump(mode="json"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_atomic(path, checkpoint.pack(network.state_dict(), header))
    return path


def load_classifier(path: Path | str, device: torch.device | str = "cpu") -> Classifier:
    """Read what ``unpaired adapt`` wrote: a plain classifier, or a ``unit-digits`` model with its class head.

    Raises:
        CheckpointError: missing, damaged, foreign, or a model that cannot classify.
    """
    file = checkpoint.model_file(path)
    tensors, header = checkpoint.unpack(file, checkpoint.read_bytes(file))
    if header.get("kind") != "classifier":
        method, header = checkpoint.load_method(file, device)
        classify = getattr(method, "classify", None)
        if classify is None or not method.classes:
            raise CheckpointError(f"{file}: a '{header['method']}' model without a class head; it cannot classify")
        domain = method.domains[1]
        data = _read_as(header["config"]["data"], method.image_size)
        return Classifier(lambda x: classify(x, domain), method.classes, method.image_size, header, data)
    try:
        classes, side = tuple(header["classes"]), int(header["image_size"])
        with shapes_only():  # a lying header costs no memory
            network = ConvNet(len(classes), side, int(header["width"]))
        network.load_state_dict(tensors, strict=True, assign=True)
        data = _read_as(header.get("data", {}), side)  # a ValidationError is a ValueError
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{file}: its tensors do not fit the classifier that its header describes") from error
    network.requires_grad_(False)
    return Classifier(network.eval().to(device), classes, side, header, data)


def _read_as(saved: Mapping[str, Any], side: int) -> DataConfig:
    """Return the settings of reading that a header holds; files written before they were kept there have none."""
    names = ("resize", "interpolation")
    return DataConfig(size=side, cache=False, **{n: saved[n] for n in names if n in saved})


# ----------------------------------------------------------------------------------------------------
# RC and FC: RC is trained on real and tested on generated images, FC is trained on generated and tested on real ones
# (DeepI2I, Section 4.1, after Shmelkov et al., How good is my GAN?, arXiv 1807.09499). The classes are the domains.

Made = tuple[Tensor, Tensor]
"""Translations uint8 [n, S, S, 3], and which of them are finite, bool [n]."""


@dataclass(frozen=True)
class Labelled:
    """Pictures of several classes."""

    pictures: Tensor
    """[N, 3, s, s] in [-1, 1]."""
    labels: Tensor
    """[N] place of the class."""
    lacking: tuple[str, ...]
    """Classes without a picture."""
    bad: int = 0
    """Pictures among them that are not finite."""


def class_figures(
    held_out: Pass,
    train: Images,
    directions: Sequence[tuple[str, str]],
    by: By,
    generated: Mapping[str, Sequence[Made]],
    config: ClassifierConfig,
) -> dict[str, Any]:
    """``rc``, ``fc``, ``ceiling`` (real training images, real test images) and the settings.

    Where pictures are missing or not finite, the figures that need them have the reason instead of a number.

    Args:
        held_out: the pass over test images.
        train: training images of the same domains.
        generated: target -> translations of test images.

    Raises ConfigError: fewer than two target domains.
    """
    targets = [d for d in held_out.translator.domains if d in generated]
    if len(targets) < 2:
        raise ConfigError("RC and FC need at least two target domains; this model translates into one")
    on_train = Pass(held_out.translator, train, {}, {}, (), held_out.seed, held_out.ranks, keep_pixels=True)
    test_real, train_real = (_real(images, targets, config) for images in (held_out.images, train))
    test_made = _made(generated, targets, config)
    train_made = _made(_translations(on_train, directions, by), targets, config)
    missing = _missing("test images", test_real) or _missing("train images", train_real)
    jobs = {  # name -> what is learnt from, what is judged, why there is no number
        "rc": (train_real, test_made, missing or _missing("translations of test images", test_made)),
        "ceiling": (train_real, test_real, missing),
        "fc": (train_made, test_real, missing or _missing("translations of train images", train_made)),
    }
    sizes = {
        "rc": (len(test_made.labels), len(train_real.labels)),
        "fc": (len(train_made.labels), len(test_real.labels)),
        "ceiling": (0, len(test_real.labels)),
    }
    found: dict[str, Any] = {}
    device = held_out.translator.device
    learnt: dict[tuple[int, int], nn.Module] = {}  # RC and its ceiling share one
    for name, (pictures, test, reason) in jobs.items():
        if reason:
            found[name] = nothing(reason, *sizes[name], pair=True)
            continue
        guesses = []
        for number in range(config.runs):
            key = id(pictures), number
            if key not in learnt:
                learnt[key] = _train(pictures, config, len(targets), held_out.seed + number, device)
            guesses.append(_predict(learnt[key], test.pictures, device))
        found[name] = _figure([(guess == test.labels).double() for guess in guesses], *sizes[name])
        found[name]["confusion"] = confusion_counts(test.labels, guesses[0], len(targets))
    about = {"classes": targets, "chance": 1 / len(targets), "config": config.model_dump(), "seed": held_out.seed}
    return found | about


def _missing(what: str, there: Labelled) -> str:
    """Why these pictures cannot be used; empty where they can."""
    if there.lacking:
        return f"no {what} {'into' if 'translations' in what else 'of'} {', '.join(there.lacking[:5])}"
    return f"{there.bad} outputs are not finite" if there.bad else ""


def _translations(run: Pass, directions: Sequence[tuple[str, str]], by: By) -> dict[str, list[Made]]:
    """Target -> translations of the images of ``run``."""
    made: dict[str, list[Made]] = {}
    for task in plan(run.images, directions, by)[0]:
        rows = run.direction(task)
        if "pixels" in rows:
            made.setdefault(task.target, []).append((rows["pixels"], rows["sound"]))
    return made


def _figure(right: Sequence[Tensor], generated: int, real: int) -> Figure:
    runs = [float(r.mean()) for r in right]
    figure = mean_figure(torch.stack(list(right)).mean(dim=0).numpy(), share=True)
    figure |= {"n": [generated, real], "n_generated": generated, "n_real": real, "runs": runs}
    figure["std"] = float(np.std(runs, ddof=1)) if len(runs) > 1 else None
    return figure


def _real(images: Images, targets: Sequence[str], config: ClassifierConfig) -> Labelled:
    sets = [[torch.from_numpy(p) for _, _, p in images.batches(images.items(d), Ranks())] for d in targets]
    return _labelled(sets, targets, config)


def _made(made: Mapping[str, Sequence[Made]], targets: Sequence[str], config: ClassifierConfig) -> Labelled:
    parts = [made.get(d, ()) for d in targets]
    bad = sum(int((~sound).sum()) for part in parts for _, sound in part)
    return _labelled([[pixels for pixels, _ in part] for part in parts], targets, config, bad)


def _labelled(
    sets: Sequence[Sequence[Tensor]], targets: Sequence[str], config: ClassifierConfig, bad: int = 0
) -> Labelled:
    """Pictures [n, S, S, 3] of each class, none of which need be there, no larger than the classifier sees."""
    pictures, labels = [torch.empty(0, 3, config.side, config.side)], [torch.empty(0, dtype=torch.int64)]
    for label, parts in enumerate(sets):
        for part in (piece for pixels in parts for piece in torch.split(pixels, 256) if len(piece)):
            x = to_tensor(part.numpy())
            pictures.append(F.interpolate(x, (config.side,) * 2, mode="area") if x.shape[-1] > config.side else x)
            labels.append(torch.full((len(x),), label))
    lacking = tuple(d for d, parts in zip(targets, sets, strict=True) if not sum(map(len, parts)))
    return Labelled(torch.cat(pictures[1:] or pictures), torch.cat(labels), lacking, bad)


def _train(data: Labelled, config: ClassifierConfig, classes: int, seed: int, device: torch.device) -> nn.Module:
    pictures, labels = data.pictures, data.labels
    of_class = [torch.nonzero(labels == k)[:, 0] for k in range(classes)]

    def draw(index: Tensor) -> tuple[Tensor, Tensor]:
        """Each class as often, whatever its share."""
        wanted = index % classes
        chosen = torch.stack([of_class[int(k)][torch.randint(len(of_class[int(k)]), ())] for k in wanted])
        x = pictures[chosen]
        if config.mirror:
            x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
        return x, labels[chosen]

    side = pictures.shape[-1]
    how = Training(classes, side, config.width, config.steps, config.batch_size, config.jitter, looks=1)
    return train_classifier(draw, len(labels) * classes, lambda _: 0.0, how, seed=seed, device=device).last


@torch.inference_mode()
def _predict(network: nn.Module, pictures: Tensor, device: torch.device) -> Tensor:
    return torch.cat([network(part.to(device)).argmax(1).cpu() for part in torch.split(pictures, 256)])


def adaptation_figures(classifier: Path | str, labelled: Path | str, *, device: torch.device) -> dict[str, Any]:
    """Accuracy of a classifier (``unpaired adapt``) on labelled target images, with its interval and confusion table.

    Raises DataError, CheckpointError, ConfigError (classes that the classifier does not know).
    """
    model = load_classifier(classifier, device)
    pool = open_to_test(labelled, model.data, "target")
    unknown = [n for n in pool.classes if n not in model.classes]
    if unknown:
        known = ", ".join(model.classes[:12])
        raise ConfigError(f"{labelled}: the classes {', '.join(unknown[:5])} are none of the classifier's: {known}")
    to_model = torch.tensor([model.classes.index(n) for n in pool.classes])
    truth = to_model[torch.from_numpy(np.asarray(pool.labels["target"]))]
    images = to_tensor(centre_crops(pool, "target", range(pool.count("target")), model.data))
    guess, path = model.predict(images.to(device)).cpu(), Path(classifier)
    return {
        "accuracy": mean_figure((guess == truth).double().numpy(), share=True) | {"n_generated": 0},
        "confusion": confusion_counts(truth, guess, len(model.classes)),
        "classes": list(model.classes),
        "classifier": str(classifier),
        "classifier_sha256": sha256_of(path) if path.is_file() else None,
        "labelled": pool.fingerprint,
    }
