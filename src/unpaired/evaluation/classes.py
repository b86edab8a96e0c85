"""Figures by a classifier: RC and FC (is a translation of the class it should be?), and accuracy of domain adaptation.

RC is trained on real and tested on generated images, FC is trained on generated and tested on real ones (DeepI2I, Section 4.1, after
Shmelkov et al., How good is my GAN?, arXiv 1807.09499). The classes are the domains.

Legend: N images, S side, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unpaired.config import ClassifierConfig
from unpaired.data.images import Pixels, to_tensor
from unpaired.data.labelled import open_to_test
from unpaired.data.sampling import centre_crops
from unpaired.errors import ConfigError
from unpaired.evaluation.classifier import confusion_counts, load_classifier, parts, train_classifier
from unpaired.evaluation.features import Pass
from unpaired.evaluation.figures import Figure, mean_figure, nothing
from unpaired.evaluation.inputs import By, Images, plan
from unpaired.files import sha256_of
from unpaired.machine import Ranks

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
        draw, len(labels) * classes, lambda _: 0.0, classes=classes, side=pictures.shape[-1], width=config.width, steps=config.steps,
        batch_size=config.batch_size, jitter_by=config.jitter, recoloured=False, seed=seed, device=device, looks=1,
    )  # fmt: skip
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
            f"{labelled}: the classes {', '.join(unknown[:5])} are none of the classifier's: {', '.join(model.classes[:12])}"
        )
    to_model = torch.tensor([model.classes.index(n) for n in names])
    truth = to_model[torch.from_numpy(np.asarray(pool.labels["target"]))]
    pixels = centre_crops(pool, "target", range(pool.count("target")), model.data)
    guess = torch.cat(
        [
            model.predict(to_tensor(pixels[i : i + 256]).to(device)).cpu()
            for i in range(0, len(pixels), 256)
        ]
    )  # fmt: skip
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
