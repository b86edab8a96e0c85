"""MNIST→USPS and MNIST→MNIST-M by translation (Show, Attend and Translate, Table 3): 0.9680 and 0.9833 in the paper.

    python benchmarks/attend_digits.py DIGITS mnist-usps --out RESULTS [--preset attend-digits-cpu] [--weights FOLDER]

DIGITS holds mnist.npz and usps.npz with arrays <name>_train, <name>_train_y, <name>_test, <name>_test_y (the standard
splits, 60,000/10,000 and 7,291/2,007), and bsds500_train/*.jpg, from which MNIST-M is made: the absolute difference of
a digit and a random 28×28 patch of a photo, by a fixed seed. Beside the adapted classifier stand source-only and
target-only, the same network trained as long. The last checkpoint is reported; nothing is chosen on the test labels.
``--tune`` measures on a part of the target's training images instead (left out of training), for choosing settings
without looking at the test set.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from digits import conditions, parser
from PIL import Image

from unpaired import adapt
from unpaired.adaptation import AdaptSettings
from unpaired.config import DataConfig, parse_assignments
from unpaired.data.images import to_tensor
from unpaired.data.labelled import open_labelled
from unpaired.evaluation.classifier import Training, score, train_classifier

PAPER = {"mnist-usps": (0.9680, 0.9650), "mnist-mnistm": (0.9833, 0.9640)}
"""Adapted, target only."""
PATCHES_SEED = 20190506
TUNE = 1000


def read(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Arrays train, train_y, test, test_y."""
    if name == "mnistm":
        digits = read(folder, "mnist")
        photos = [np.asarray(Image.open(p).convert("RGB")) for p in sorted((folder / "bsds500_train").glob("*.jpg"))]
        for number, split in enumerate(("train", "test")):
            digits[split] = blended(digits[split], photos, np.random.default_rng((PATCHES_SEED, number)))
        return digits
    with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
        return {k: file[f"{name}_{k}"] for k in ("train", "train_y", "test", "test_y")}


def blended(digits: np.ndarray, photos: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """uint8 [n, 28, 28] -> [n, 28, 28, 3]: |digit - patch|."""
    out = np.empty((*digits.shape, 3), np.uint8)
    for i, digit in enumerate(digits):
        photo = photos[rng.integers(len(photos))]
        top, left = (int(rng.integers(side - 27)) for side in photo.shape[:2])
        out[i] = np.abs(digit[..., None].astype(np.int16) - photo[top : top + 28, left : left + 28])
    return out


def target_only(train: Path, test: Path, data: DataConfig, options: AdaptSettings, seed: int) -> float:
    """Accuracy of the plain classifier trained on the target's own labels, after its last step."""
    labelled, tested = open_labelled(train, data, "target", "train"), open_labelled(test, data, "test", "test")
    images, labels = labelled.images["target"], np.asarray(labelled.labels["target"])

    def draw(index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return to_tensor(images[index.numpy()]), torch.from_numpy(labels[index.numpy()])

    fitted = train_classifier(
        draw,
        len(labels),
        lambda _: 0.0,
        Training(10, data.size, options.width, options.steps, options.batch_size, options.jitter, options.recolour),
        seed=seed,
    )
    x = to_tensor(tested.images["test"])
    with torch.inference_mode():
        logits = torch.cat([fitted.last(part) for part in x.split(512)])
    return score(logits, torch.from_numpy(np.asarray(tested.labels["test"]))).accuracy


def main() -> None:
    """Parse, write the npz files, adapt, train on the target's labels for comparison, write table.json."""
    p = parser(__doc__, PAPER)
    p.add_argument("--preset", help="default: attend-DIRECTION, the full networks")
    p.add_argument("--weights", help="file or folder with the feature network's weights")
    p.add_argument("--steps", type=int, help="model.initial_steps")
    args = p.parse_args()
    source, target = args.direction.split("-")
    about = conditions(args) | {"paper": PAPER[args.direction][0], "paper_target_only": PAPER[args.direction][1]}
    data = args.out / "data"
    data.mkdir(parents=True, exist_ok=True)
    first, second = read(args.digits, source), read(args.digits, target)
    if args.tune:
        order = np.random.default_rng(PATCHES_SEED).permutation(len(second["train_y"]))
        kept, aside = order[TUNE:], order[:TUNE]
        second = {
            "train": second["train"][kept],
            "train_y": second["train_y"][kept],
            "test": second["train"][aside],
            "test_y": second["train_y"][aside],
        }
    np.savez(data / "source.npz", x_train=first["train"], y_train=first["train_y"])
    np.savez(data / "target.npz", x_train=second["train"])  # no labels in the file at all
    np.savez(data / "target-labelled.npz", x_train=second["train"], y_train=second["train_y"])
    np.savez(data / "test.npz", x_test=second["test"], y_test=second["test_y"])
    # the paper trains on translated images alone
    settings = {"adapt.keep_source": False, **parse_assignments(args.set)}
    if args.weights:
        settings["model.weights"] = args.weights
    if args.steps:
        settings["model.initial_steps"] = args.steps
    result = adapt(
        data / "source.npz",
        data / "target.npz",
        args.out,
        test=data / "test.npz",
        method="attend",
        preset=args.preset or f"attend-{args.direction}",
        settings=settings,
        seed=args.seed,
        names=(source, target),
    )
    print(result.text())
    own = target_only(
        data / "target-labelled.npz",
        data / "test.npz",
        DataConfig(**result.config["data"]),
        AdaptSettings(**result.config["adapt"]),
        args.seed,
    )
    (args.out / "table.json").write_text(json.dumps({**about, "target_only": own, **result.to_dict()}, indent=1))
    last = result.last.accuracy if result.last else float("nan")
    print(f"paper {PAPER[args.direction][0]:.4f}; this run, last: {last:.4f}; target only {own:.4f}")


if __name__ == "__main__":
    main()
