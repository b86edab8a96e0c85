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

from unpaired import checkpoint
from unpaired._version import __version__
from unpaired.config import ClassifierConfig, DataConfig
from unpaired.data.images import Pixels, to_tensor
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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"accuracy": self.accuracy, "n": self.n, "confusion": [list(row) for row in self.confusion]}


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
        return torch.cat([self.network(part).float() for part in parts(images, batch)])

    def predict(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in [-1, 1] -> indices into ``classes``, int64 [N]."""
        return self.logits(images).argmax(1)

    def score(self, images: Tensor, labels: Tensor) -> Score:
        """Accuracy, n and confusion table on labelled images."""
        return score(self.logits(images), labels)


def parts(images: Tensor, size: int) -> list[Tensor]:
    """``images`` in slices of at most ``size``, which bounds the memory of a pass."""
    return [images[i : i + size] for i in range(0, len(images), size)]


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
    path: Path,
    network: ConvNet,
    *,
    classes: tuple[str, ...],
    side: int,
    width: int,
    extra: Mapping[str, Any],
    data: DataConfig | None = None,
) -> Path:
    """Write ``network``, trained on images read as ``data`` says, as one self-describing safetensors file,
    atomically."""
    header = {
        "format": checkpoint.FORMAT,
        "version": __version__,
        "kind": "classifier",
        "classes": list(classes),
        "image_size": side,
        "width": width,
        "value_range": [-1, 1],
        "extra": dict(extra),
        "data": data.model_dump(mode="json") if data is not None else {},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_atomic(path, checkpoint.pack(network.state_dict(), header))
    return path


def _read(file: Path) -> bytes:
    try:
        if file.stat().st_size > checkpoint.MAX_FILE_BYTES:
            raise CheckpointError(f"{file}: larger than the {checkpoint.MAX_FILE_BYTES:,} bytes that are read")
        return file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error


def load_classifier(path: Path | str, device: torch.device | str = "cpu") -> Classifier:
    """Read what ``unpaired adapt`` wrote: a plain classifier, or a ``unit-digits`` model with its class head.

    Raises:
        CheckpointError: missing, damaged, foreign, or a model that cannot classify.
    """
    file = checkpoint.model_file(path)
    tensors, header = checkpoint.unpack(file, _read(file))
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
    names = ("resize", "interpolation", "draft", "background")
    return DataConfig(size=side, cache=False, **{n: saved[n] for n in names if n in saved})


# ----------------------------------------------------------------------------------------------------
# RC and FC: RC is trained on real and tested on generated images, FC is trained on generated and tested on real ones
# (DeepI2I, Section 4.1, after Shmelkov et al., How good is my GAN?, arXiv 1807.09499). The classes are the domains.

Made = tuple[Tensor, Tensor]
"""Translations uint8 [n, S, S, 3], and which of them are finite, bool [n]."""


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
    domains = held_out.translator.domains
    targets = [d for d in domains if d in generated]
    if len(targets) < 2:
        raise ConfigError("RC and FC need at least two target domains; this model translates into one")
    test_real = _real(held_out.images, targets, config)
    train_real = _real(train, targets, config)
    test_made = _made(generated, targets, config)
    train_made = _made(_translations(held_out, train, directions, by), targets, config)
    jobs = {"rc": (train_real, test_made), "ceiling": (train_real, test_real), "fc": (train_made, test_real)}
    parts = {"test": (test_real, test_made), "train": (train_real, train_made)}
    why = {name: _lacking(name, parts, targets) for name in jobs}
    device = held_out.translator.device
    right: dict[str, list[Tensor]] = {name: [] for name in jobs if not why[name]}
    confusion: dict[str, list[list[int]]] = {}
    for number in range(config.runs):
        trained: dict[int, nn.Module] = {}
        for name in right:
            pictures, test = jobs[name]
            if id(pictures) not in trained:  # RC and its ceiling share one
                trained[id(pictures)] = _train(pictures, config, len(targets), held_out.seed + number, device)
            guess = _predict(trained[id(pictures)], test.pictures, device)
            right[name].append((guess == test.labels).double())
            if not number:
                confusion[name] = confusion_counts(test.labels, guess, len(targets))
    sizes = {
        "rc": (len(test_made.labels), len(train_real.labels)),
        "fc": (len(train_made.labels), len(test_real.labels)),
    }
    sizes["ceiling"] = (0, len(test_real.labels))
    found: dict[str, Any] = {
        name: _figure(right[name], *sizes[name]) | {"confusion": confusion[name]}
        if name in right
        else nothing(why[name], *sizes[name], pair=True)
        for name in jobs
    }
    return found | {
        "classes": targets,
        "chance": 1 / len(targets),
        "config": config.model_dump(),
        "seed": held_out.seed,
    }


@dataclass(frozen=True)
class Labelled:
    """Pictures of several classes."""

    pictures: Tensor
    """[N, 3, s, s] in [-1, 1]."""
    labels: Tensor
    """[N] place of the class."""
    bad: int = 0
    """Pictures among them that are not finite."""


def _lacking(name: str, parts: Mapping[str, tuple[Labelled, Labelled]], targets: Sequence[str]) -> str:
    """Why a figure has no number; empty where it has one. ``parts``: split -> (real, translated)."""
    for split, (real, made) in parts.items():
        empty = [d for k, d in enumerate(targets) if not bool((real.labels == k).any())]
        if empty:
            return f"no {split} images of {', '.join(empty[:5])}"
        used = {"rc": "test", "fc": "train"}.get(name) == split
        empty = [d for k, d in enumerate(targets) if not bool((made.labels == k).any())]
        if used and empty:
            return f"no translations of {split} images into {', '.join(empty[:5])}"
        if used and made.bad:
            return f"{made.bad} outputs are not finite"
    return ""


def _translations(
    held_out: Pass, train: Images, directions: Sequence[tuple[str, str]], by: By
) -> dict[str, list[Made]]:
    """Target -> translations of training images."""
    run = Pass(held_out.translator, train, {}, {}, (), held_out.seed, held_out.ranks, keep_pixels=True)
    made: dict[str, list[Made]] = {}
    for task in plan(train, directions, by)[0]:
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
    sets = [[pixels for _, _, pixels in images.batches(images.items(d), Ranks())] for d in targets]
    return _labelled([np.concatenate(parts) if parts else None for parts in sets], config)


def _made(made: Mapping[str, Sequence[Made]], targets: Sequence[str], config: ClassifierConfig) -> Labelled:
    parts = [made.get(d, ()) for d in targets]
    bad = sum(int((~sound).sum()) for part in parts for _, sound in part)
    return _labelled([torch.cat([pixels for pixels, _ in p]).numpy() if p else None for p in parts], config, bad)


def _labelled(sets: Sequence[Pixels | None], config: ClassifierConfig, bad: int = 0) -> Labelled:
    """Pictures of each class, none of which need be there."""
    pictures, labels = [torch.empty(0, 3, config.side, config.side)], []
    for label, pixels in enumerate(sets):
        if pixels is None or not len(pixels):
            continue
        for first in range(0, len(pixels), 256):
            x = to_tensor(pixels[first : first + 256])
            if x.shape[-1] > config.side:
                x = F.interpolate(x, (config.side, config.side), mode="area")
            pictures.append(x)
        labels.append(torch.full((len(pixels),), label))
    return Labelled(
        torch.cat(pictures[1:] or pictures), torch.cat(labels) if labels else torch.empty(0, dtype=torch.int64), bad
    )


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

    fitted = train_classifier(
        draw,
        len(labels) * classes,
        lambda _: 0.0,
        Training(
            classes, pictures.shape[-1], config.width, config.steps, config.batch_size, config.jitter, False, looks=1
        ),
        seed=seed,
        device=device,
    )
    return fitted.last


@torch.inference_mode()
def _predict(network: nn.Module, pictures: Tensor, device: torch.device) -> Tensor:
    return torch.cat([network(part.to(device)).argmax(1).cpu() for part in parts(pictures, 256)])


def adaptation_figures(classifier: Path | str, labelled: Path | str, *, device: torch.device) -> dict[str, Any]:
    """Accuracy of a classifier (``unpaired adapt``) on labelled target images, with its interval and confusion table.

    Raises DataError, CheckpointError, ConfigError (classes that the classifier does not know).
    """
    model = load_classifier(classifier, device)
    pool = open_to_test(labelled, model.data, "target")
    names = list(pool.classes)
    unknown = [n for n in names if n not in model.classes]
    if unknown:
        raise ConfigError(
            f"{labelled}: the classes {', '.join(unknown[:5])} are none of the classifier's: "
            f"{', '.join(model.classes[:12])}"
        )
    to_model = torch.tensor([model.classes.index(n) for n in names])
    truth = to_model[torch.from_numpy(np.asarray(pool.labels["target"]))]
    pixels = centre_crops(pool, "target", range(pool.count("target")), model.data)
    guess = torch.cat(
        [model.predict(to_tensor(pixels[i : i + 256]).to(device)).cpu() for i in range(0, len(pixels), 256)]
    )
    right = (guess == truth).double().numpy()
    path = Path(classifier)
    return {
        "accuracy": mean_figure(right, share=True) | {"n_generated": 0},
        "confusion": confusion_counts(truth, guess, len(model.classes)),
        "classes": list(model.classes),
        "classifier": str(classifier),
        "classifier_sha256": sha256_of(path) if path.is_file() else None,
        "labelled": pool.fingerprint,
    }
