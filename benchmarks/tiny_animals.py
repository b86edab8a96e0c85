"""DeepI2I by transfer against DeepI2I from scratch on tiny_animals (24 classes, 64 pixels): the paper's claim on small sets.

    python benchmarks/tiny_animals.py ANIMALS --weights mobilenet_v1_1.0_to_conv12.pth --out RESULTS

ANIMALS holds train/<class> and val/<class>. A BigGAN is pretrained on the first 16 classes (in the order of a fixed permutation);
DeepI2I then gets the other 8 with --images of each class (default 20, 50, 100, 500), once from that GAN and once from scratch, with
the same steps, widths and batch. Every run resumes when the same command is given again; finished parts are not repeated.

For each run, on the val images: FD-MobileNet and KD-MobileNet of the translations to a class against that class's val images, mean
over the 8 classes (each class gets translations of all other classes' val images, so no input is of the target class); RC, the
accuracy on translations of a classifier trained on real images (all 500 a class); FC, the accuracy on real val images of a
classifier trained on translations of the training images. ``floor`` is the distance between two halves of real images.
Reduced widths show the path on a CPU; --preset full takes the networks of the paper on a GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import unpaired
from unpaired.classifier import ConvNet, train_classifier
from unpaired.config import DataConfig
from unpaired.data.images import load_resized, to_tensor
from unpaired.metrics import Statistics, kernel_distance, open_backbone
from unpaired.translation import Translator

SIZE = 64
SPLIT_SEED = 16
CLASSIFIER_STEPS = 2000
CLASSIFIER_WIDTH = 32
NETWORKS: dict[str, dict[str, Any]] = {
    "cpu": {"width": 8, "shared_dim": 32, "z_dim": 80, "attention": 0},
    "small": {"width": 16, "shared_dim": 32, "z_dim": 80, "attention": 32},
    "full": {"width": 64, "shared_dim": 128, "z_dim": 120, "attention": 32},
}


def split(root: Path) -> tuple[list[str], list[str]]:
    """16 classes for pretraining, 8 for transfer: the same on every machine."""
    classes = sorted(p.name for p in (root / "train").iterdir() if p.is_dir())
    order = np.random.default_rng(SPLIT_SEED).permutation(len(classes))
    return sorted(classes[i] for i in order[:16]), sorted(classes[i] for i in order[16:])


def subset(root: Path, out: Path, classes: Sequence[str], count: int) -> Path:
    """A data folder of links: ``count`` training images a class (the first by name) and all val images."""
    if not out.exists():
        building = out.with_name(out.name + ".part")
        shutil.rmtree(building, ignore_errors=True)
        for name in classes:
            for part, most in (("train", count), ("val", None)):
                place = building / part / name
                place.mkdir(parents=True)
                for file in sorted(p for p in (root / part / name).rglob("*") if p.is_file())[:most]:
                    (place / file.name).symlink_to(file.resolve())
        building.rename(out)
    return out


def images(folder: Path, count: int | None = None) -> torch.Tensor:
    """[n, 3, 64, 64] in [-1, 1]."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())[:count]
    config = DataConfig(size=SIZE)
    return torch.cat([to_tensor(load_resized(f, config)[None, :SIZE, :SIZE]) for f in files])


def translated(model: Translator, inputs: torch.Tensor, target: str, seed: int) -> torch.Tensor:
    """One result for each input, in batches, as 8-bit pixels would be."""
    parts = [model.translate(x, None, target, seed=seed + n) for n, x in enumerate(inputs.split(64))]
    return (((torch.cat(parts).cpu() + 1) * 127.5).round() / 127.5 - 1).clamp(-1, 1)


def measure(
    model: Translator, root: Path, classes: Sequence[str], train_images: int, backbone: Any, seed: int, steps: int
) -> dict[str, Any]:
    """All figures of one model."""
    real = {c: images(root / "val" / c) for c in classes}
    known = {c: images(root / "train" / c, train_images) for c in classes}

    def features(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([backbone(part) for part in x.split(64)]).cpu()

    real_features = {c: features(x) for c, x in real.items()}
    rows = []
    fakes = {}
    for number, target in enumerate(classes):
        others = torch.cat([x for c, x in real.items() if c != target])
        fakes[target] = translated(model, others, target, seed=1000 * number + seed)
        rows.append(distances(features(fakes[target]), real_features[target], seed))
    every = torch.cat([images(root / "train" / c) for c in classes])
    labels = torch.arange(len(classes)).repeat_interleave(
        torch.tensor([len(list((root / "train" / c).iterdir())) for c in classes])
    )
    goal = torch.cat([real[c] for c in classes])
    goal_labels = torch.cat([torch.full((len(real[c]),), n) for n, c in enumerate(classes)])
    judge = classifier(every, labels, len(classes), seed, steps)
    fake_labels = torch.cat([torch.full((len(fakes[c]),), n) for n, c in enumerate(classes)])
    student_x, student_y = [], []
    for n, target in enumerate(classes):
        sources = torch.cat([x for c, x in known.items() if c != target])
        chosen = sources[torch.randperm(len(sources), generator=torch.Generator().manual_seed(seed + n))[:500]]
        student_x.append(translated(model, chosen, target, seed=500_000 + 1000 * n + seed))
        student_y.append(torch.full((len(chosen),), n))
    student = classifier(torch.cat(student_x), torch.cat(student_y), len(classes), seed, steps)
    return {
        "FD-MobileNet": float(np.mean([r["fd"] for r in rows])),
        "KD-MobileNet": float(np.mean([r["kd"] for r in rows])),
        "FD by class": {c: r["fd"] for c, r in zip(classes, rows, strict=True)},
        "RC": accuracy(judge, torch.cat([fakes[c] for c in classes]), fake_labels),
        "RC on real": accuracy(judge, goal, goal_labels),
        "FC": accuracy(student, goal, goal_labels),
        "n_real a class": len(goal) // len(classes),
        "n_fake a class": len(fakes[classes[0]]),
    }


def classifier(x: torch.Tensor, y: torch.Tensor, classes: int, seed: int, steps: int) -> ConvNet:
    """The network after a fixed number of steps: nothing is chosen on test images."""
    return train_classifier(
        lambda i: (x[i], y[i]), len(x), lambda _: 0.0, classes=classes, side=SIZE, width=CLASSIFIER_WIDTH, steps=steps,
        batch_size=64, jitter_by=0.1, recoloured=False, seed=seed,
    ).last  # fmt: skip


@torch.inference_mode()
def accuracy(network: ConvNet, x: torch.Tensor, y: torch.Tensor) -> float:
    """Share of right answers."""
    return float((torch.cat([network(part).argmax(1) for part in x.split(256)]) == y).float().mean())


def distances(a: torch.Tensor, b: torch.Tensor, seed: int) -> dict[str, float]:
    """Fréchet and kernel distance of two sets of features."""
    first, second = Statistics(a.shape[1]), Statistics(b.shape[1])
    first.update(a)
    second.update(b)
    return {"fd": first.distance(second), "kd": kernel_distance(a, b, seed=seed).mean}


def main() -> None:
    """Pretrain, transfer, train from scratch, measure; results.json grows as parts finish."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("animals", type=Path)
    p.add_argument("--weights", type=Path, required=True, help="MobileNet v1 weights for the distances")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--preset", choices=sorted(NETWORKS), default="cpu")
    p.add_argument("--images", type=int, nargs="+", default=[20, 50, 100, 500])
    p.add_argument("--pretrain-steps", type=int, default=4000)
    p.add_argument("--steps", type=int, default=1500)
    p.add_argument("--pretrain-batch", type=int, default=32)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--every", type=int, default=500, help="steps between two measured checkpoints")
    p.add_argument("--device", default="auto")
    p.add_argument("--precision", default="auto")
    p.add_argument("--only", choices=("transfer", "scratch"))
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--classifier-steps", type=int, default=CLASSIFIER_STEPS)
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    many, few = split(args.animals)
    common = {f"model.{k}": v for k, v in NETWORKS[args.preset].items()} | {
        "data.size": SIZE, "seed": args.seed, "training.device": args.device, "training.precision": args.precision, "training.ema": 0.999,
        "training.checkpoint_every": args.every, "training.sample_every": args.every,
    }  # fmt: skip
    gan = args.out / "gan"
    started = time.monotonic()
    unpaired.pretrain(
        subset(args.animals, args.out / "data-16", many, 500), gan,
        settings=common | {"model.batch_size": args.pretrain_batch, "model.lr_generator": 2e-4, "model.lr_discriminator": 2e-4},
        preset="biggan-small", steps=args.pretrain_steps,
    )  # fmt: skip
    seconds = {"pretrain": time.monotonic() - started}
    backbone = open_backbone("mobilenet_v1", args.weights, "cpu")
    path = args.out / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {"runs": {}}
    real = {c: images(args.animals / "val" / c) for c in few}
    halves = [torch.cat([backbone(part) for part in x.split(64)]).cpu() for x in real.values()]
    results["floor FD"] = float(np.mean([distances(h[::2], h[1::2], args.seed)["fd"] for h in halves]))
    for count in args.images:
        data = subset(args.animals, args.out / f"data-8-{count}", few, count)
        for how in ("transfer", "scratch"):
            if args.only not in (None, how):
                continue
            own = {"model.batch_size": args.batch, "training.keep": 1000}
            extra: dict[str, Any] = {"pretrained": gan} if how == "transfer" else {}
            own |= {"model.mode": how}
            run = args.out / f"{how}-{count}"
            started = time.monotonic()
            unpaired.train(data, run, method="deepi2i", settings=common | own, steps=args.steps, **extra)
            seconds[run.name] = time.monotonic() - started
            for folder in sorted((run / "checkpoints").glob("step-*")):
                key = f"{how} {count} {int(folder.name.removeprefix('step-'))}"
                if key in results["runs"] or key.endswith(" 0"):
                    continue
                model = unpaired.load(folder, device=args.device)
                results["runs"][key] = measure(
                    model, args.animals, few, count, backbone, args.seed, args.classifier_steps
                )
                results |= {
                    "pretraining classes": many,
                    "classes": few,
                    "arguments": {k: str(v) for k, v in vars(args).items()},
                }
                results |= {
                    "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
                    "torch": torch.__version__,
                }
                results["commit"] = subprocess.run(
                    ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
                ).stdout.strip()
                results["seconds"] = results.get("seconds", {}) | seconds
                path.write_text(json.dumps(results, indent=1))
                shown = {k: round(v, 4) for k, v in results["runs"][key].items() if isinstance(v, float)}
                print(key, shown, flush=True)


if __name__ == "__main__":
    main()
