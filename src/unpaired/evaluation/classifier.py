"""A small image classifier: trained in a minute, saved as one self-describing file, loaded with :func:`load_classifier`.

Legend: N batch, K classes, S side in pixels. Images are float [N, 3, S, S] in [-1, 1], labels int64 [N].
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unpaired import checkpoint
from unpaired._version import __version__
from unpaired.config import DataConfig
from unpaired.errors import CheckpointError, NonFiniteError
from unpaired.machine import autocast, shapes_only

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
        from unpaired.data.images import to_tensor
        from unpaired.data.labelled import open_files
        from unpaired.data.sampling import centre_crops

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


# ------------------------------------------------------------------------------------------------- augmentation
def jitter(images: Tensor, amount: float) -> Tensor:
    """Random rotation, scale, shear and shift; ``amount`` 0.15 is at most 9 degrees, 15 % and 15 % of half a side."""
    if amount == 0:
        return images
    n = len(images)
    turn, shear, scale = ((torch.rand(3, n, device=images.device) * 2 - 1) * amount).unbind()
    shift = (torch.rand(2, n, device=images.device) * 2 - 1) * amount
    scale = 1 + scale
    rows = [
        torch.stack([scale * turn.cos(), shear - scale * turn.sin(), shift[0]], 1),
        torch.stack([scale * turn.sin(), scale * turn.cos(), shift[1]], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved: Tensor = F.grid_sample(images, grid.to(images), padding_mode="border", align_corners=False)
    return moved


def recolour(images: Tensor) -> Tensor:
    """Map black and white of each channel to two random levels: weak, inverted and coloured contrast; knows no target."""
    black, white = torch.rand(2, len(images), images.shape[1], 1, 1, device=images.device) * 2 - 1
    mapped: Tensor = black + (white - black) * (images + 1) / 2
    return mapped


# ----------------------------------------------------------------------------------------------------- training
@dataclass(frozen=True)
class Fitted:
    """What :func:`train_classifier` returns: the network after the last step, and that of the best look."""

    last: ConvNet
    best: ConvNet
    best_step: int
    history: tuple[tuple[int, float], ...]
    """(step, criterion) of each look."""


def train_classifier(
    draw: Callable[[Tensor], tuple[Tensor, Tensor]],
    count: int,
    criterion: Callable[[Callable[[Tensor], Tensor]], float],
    *,
    classes: int,
    side: int,
    width: int,
    steps: int,
    batch_size: int,
    jitter_by: float,
    recoloured: bool,
    seed: int,
    device: torch.device | str = "cpu",
    say: Say | None = None,
    looks: int = 10,
) -> Fitted:
    """Adam with a one-cycle rate; the same seed gives the same network.

    Args:
        draw: indices [N] -> (images [N, 3, S, S], labels [N]); ``count`` is how many there are.
        criterion: a network in eval mode -> a number, larger is better; looked at ``looks`` times to choose the best.
        jitter_by, recoloured: augmentation, see :func:`jitter` and :func:`recolour`.

    Raises:
        NonFiniteError: the loss became NaN or infinite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ConvNet(classes, side, width).to(device)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
        best, best_step, best_value = copy.deepcopy(network), 0, float("-inf")
        history = []
        for step in range(1, steps + 1):
            images, labels = draw(torch.randint(count, (batch_size,)))
            images = jitter(images.to(device), jitter_by)
            network.train()
            with autocast("fp32", torch.device(device)):
                loss = F.cross_entropy(network(recolour(images) if recoloured else images), labels.to(device))
            if not torch.isfinite(loss):
                raise NonFiniteError(f"the classifier's loss became {float(loss)} at step {step} of {steps}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rate.step()
            if step % max(1, steps // looks) == 0 or step == steps:
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
    """Write ``network``, trained on images read as ``data`` says, as one self-describing safetensors file, atomically."""
    header = {
        "format": checkpoint.FORMAT, "version": __version__, "kind": "classifier", "classes": list(classes),
        "image_size": side, "width": width, "value_range": [-1, 1], "extra": dict(extra),
        "data": data.model_dump(mode="json") if data is not None else {},
    }  # fmt: skip
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
    """The settings of reading that a header holds; files written before they were kept there have none."""
    names = ("resize", "interpolation", "draft", "background")
    return DataConfig(size=side, cache=False, **{n: saved[n] for n in names if n in saved})
