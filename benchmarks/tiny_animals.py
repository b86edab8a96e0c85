"""DeepI2I by transfer against DeepI2I from scratch on tiny_animals (24 classes, 64 pixels): the paper's claim on small
sets.

    python benchmarks/tiny_animals.py ANIMALS --weights mobilenet_v1_1.0_to_conv12.pth --out RESULTS

ANIMALS holds train/<class> and val/<class>. A BigGAN is pretrained on the first 16 classes (in the order of a fixed
permutation); DeepI2I then gets the other 8 with --images of each class (default 20, 50, 100, 500), once from that GAN
and once from scratch, with the same steps, widths, rates and batch. Every run resumes when the same command is given
again; finished parts are not repeated.

At each checkpoint, on the val images: FD-MobileNet and KD-MobileNet (images scaled to --side pixels) of --fakes
translations to a class (of other classes' val images, equally many of each) against that class's val images, mean over
the 8 classes. At the last one also RC, the accuracy on translations of a classifier trained on real images (all 500 a
class), and FC, the accuracy on real val images of a classifier trained on translations of the training images.
``floor`` is the distance between two halves of real images, ``untranslated`` that of the inputs themselves, and ``real
student`` the accuracy of the classifier of FC when it is trained on the same number of real images.

RESULTS gets results.json (rewritten as parts finish), report.html with the table, curves and sheets, and the runs.
--preset cpu, the default, shows the path with reduced networks at 32 pixels; --preset full takes wide networks at 64
pixels, for a GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import unpaired
from unpaired.config import DataConfig
from unpaired.data.images import load_resized, to_tensor, to_uint8
from unpaired.evaluation.classifier import ConvNet, Training, train_classifier
from unpaired.evaluation.distances import gaussian_distance, kernel_distance
from unpaired.evaluation.features import open_backbone
from unpaired.report import Report, line_panel
from unpaired.translate.translator import Translator

SPLIT_SEED = 16
STUDENT_IMAGES = 500
"""Translations of each class that the classifier of FC is trained on."""
NUMBERS: dict[str, dict[str, Any]] = {
    "cpu": {
        "size": 32,
        "pretrain_steps": 1500,
        "pretrain_batch": 32,
        "steps": 250,
        "adaptor_steps": 80,
        "batch": 16,
        "every": 125,
        "fakes": 49,
        "classifier_steps": 300,
        "classifier_width": 16,
        "ema": 0.99,
        "side": 128,
    },
    "full": {
        "size": 64,
        "pretrain_steps": 20000,
        "pretrain_batch": 64,
        "steps": 4000,
        "adaptor_steps": 500,
        "batch": 32,
        "every": 1000,
        "fakes": 350,
        "classifier_steps": 2000,
        "classifier_width": 32,
        "ema": 0.999,
        "side": 224,
    },
}
NETWORKS: dict[str, dict[str, Any]] = {
    "cpu": {"width": 8, "shared_dim": 32, "z_dim": 80, "attention": 0},
    "full": {"width": 64, "shared_dim": 128, "z_dim": 120, "attention": 32},
}


@dataclass(frozen=True)
class Study:
    """What all parts of one command share."""

    animals: Path
    out: Path
    size: int
    seed: int
    device: str
    fakes: int
    classifier_steps: int
    classifier_width: int
    backbone: Any

    def images(self, folder: Path, count: int | None = None) -> Tensor:
        """[n, 3, S, S] in [-1, 1]."""
        files = sorted(p for p in folder.rglob("*") if p.is_file())[:count]
        config = DataConfig(size=self.size)
        return torch.cat([to_tensor(load_resized(f, config)[None, : self.size, : self.size]) for f in files])

    def features(self, x: Tensor) -> Tensor:
        """[n, D]."""
        return torch.cat([self.backbone(part) for part in x.split(64)]).cpu()

    def classifier(self, x: Tensor, y: Tensor, classes: int) -> ConvNet:
        """The network after a fixed number of steps: nothing is chosen on test images."""
        return train_classifier(
            lambda i: (x[i], y[i]),
            len(x),
            lambda _: 0.0,
            Training(classes, self.size, self.classifier_width, self.classifier_steps, 64, 0.1, False),
            seed=self.seed,
        ).last


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


def others(real: dict[str, Tensor], target: str, count: int) -> Tensor:
    """``count`` inputs that are not of ``target``, equally many of each other class (the first of each)."""
    each = -(-count // (len(real) - 1))
    return torch.cat([x[:each] for c, x in real.items() if c != target])[:count]


def translated(model: Translator, inputs: Tensor, target: str, seed: int) -> Tensor:
    """One result for each input, in batches, as 8-bit pixels would be."""
    parts = [model.translate(x, None, target, seed=seed + n) for n, x in enumerate(inputs.split(64))]
    return (((torch.cat(parts).cpu() + 1) * 127.5).round() / 127.5 - 1).clamp(-1, 1)


@torch.inference_mode()
def accuracy(network: ConvNet, sets: Sequence[Tensor]) -> float:
    """Share of right answers; ``sets[n]`` are the images of class n."""
    right = [(network(part).argmax(1) == n).float() for n, x in enumerate(sets) for part in x.split(256)]
    return float(torch.cat(right).mean())


def labels(sets: Sequence[Tensor]) -> Tensor:
    """[n] int64 for the images of all ``sets``, one after the other."""
    return torch.repeat_interleave(torch.tensor([len(x) for x in sets]))


def distances(fakes: dict[str, Tensor], reals: dict[str, Tensor], seed: int) -> dict[str, Any]:
    """Means over classes of Fréchet and kernel distance of two sets of features, and the former by class."""
    fd, kd = {}, {}
    for c, a in fakes.items():
        fd[c] = gaussian_distance(a, reals[c])
        kd[c] = kernel_distance(a, reals[c], seed=seed).mean
    return {"FD": float(np.mean([*fd.values()])), "KD": float(np.mean([*kd.values()])), "FD by class": fd}


def references(
    study: Study, real: dict[str, Tensor], counts: Sequence[int]
) -> tuple[dict[str, Tensor], ConvNet, dict[str, Any]]:
    """Features of the val images, the classifier of RC, and what every figure is to be compared with."""
    features = {c: study.features(x) for c, x in real.items()}
    floor = distances({c: f[::2] for c, f in features.items()}, {c: f[1::2] for c, f in features.items()}, study.seed)
    inputs = {c: study.features(others(real, c, study.fakes)) for c in real}
    every = [study.images(study.animals / "train" / c) for c in real]
    judge = study.classifier(torch.cat(every), labels(every), len(every))
    goal = [*real.values()]
    students = {}
    for count in counts:
        few = [x[:count] for x in every]
        students[str(count)] = accuracy(study.classifier(torch.cat(few), labels(few), len(few)), goal)
    return (
        features,
        judge,
        {
            "floor": floor,
            "untranslated": distances(inputs, features, study.seed),
            "RC of real val images": accuracy(judge, goal),
            "real student": students,
            "n_real a class": len(goal[0]),
            "n_fake a class": len(inputs[next(iter(inputs))]),
        },
    )


def measure(
    study: Study,
    model: Translator,
    real: dict[str, Tensor],
    features: dict[str, Tensor],
    count: int,
    judge: ConvNet | None,
) -> dict[str, Any]:
    """The figures of one checkpoint; with a ``judge`` also RC and FC."""
    fakes = {
        c: translated(model, others(real, c, study.fakes), c, seed=1000 * n + study.seed) for n, c in enumerate(real)
    }
    found = distances({c: study.features(x) for c, x in fakes.items()}, features, study.seed)
    if judge is None:
        return found
    known = {c: study.images(study.animals / "train" / c, count) for c in real}
    lessons = []
    for n, target in enumerate(real):
        sources = torch.cat([x for c, x in known.items() if c != target])
        chosen = torch.randperm(len(sources), generator=torch.Generator().manual_seed(study.seed + n))[:STUDENT_IMAGES]
        lessons.append(translated(model, sources[chosen], target, seed=500_000 + 1000 * n + study.seed))
    student = study.classifier(torch.cat(lessons), labels(lessons), len(lessons))
    return found | {"RC": accuracy(judge, [*fakes.values()]), "FC": accuracy(student, [*real.values()])}


def sheet(model: Translator, real: dict[str, Tensor], seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """One val image of each class, and its translations to every class."""
    inputs = torch.cat([x[:1] for x in real.values()])
    return {"input": to_uint8(inputs)} | {f"to {c}": to_uint8(translated(model, inputs, c, seed)) for c in real}


def page(out: Path, results: dict[str, Any], sheets: dict[str, dict[str, np.ndarray[Any, Any]]]) -> None:
    """report.html."""
    report = Report(
        "DeepI2I on tiny_animals", lead="Transfer from a GAN of 16 other classes against the same model from scratch."
    )
    runs = results["runs"]
    last = {name: max(looks, key=int) for name, looks in runs.items()}
    columns = ("FD", "KD", "RC", "FC")
    report.section("Last checkpoints")
    report.table(
        ["run", "step", *columns],
        [[name, int(last[name]), *(runs[name][last[name]].get(c) for c in columns)] for name in runs],
        caption="Means over the 8 classes: distances to real val images (less is better), accuracies (more is better).",
    )
    for figure in ("FD", "KD"):
        lines = {
            name: ([int(s) for s in looks], [look[figure] for look in looks.values()]) for name, looks in runs.items()
        }
        report.panels([line_panel(figure, lines)], caption=f"{figure}-MobileNet over training.")
    report.section("Sheets")
    for name, rows in sheets.items():
        report.sheet(
            rows,
            caption=f"{name} images a class: one input of each class, and its translations to every class.",
            alt=name,
        )
    report.write(out / "report.html")


def main() -> None:
    """Pretrain, transfer, train from scratch, measure; results.json grows as parts finish."""
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    many, few = split(args.animals)
    common = {f"model.{k}": v for k, v in NETWORKS[args.preset].items()} | {
        "data.size": args.size,
        "seed": args.seed,
        "training.device": args.device,
        "training.precision": args.precision,
        "training.ema": args.ema,
        "training.checkpoint_every": args.every,
        "training.sample_every": args.every,
        "training.tensorboard": False,
    }
    path = args.out / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"runs": {}, "seconds": {}}
    results |= {
        "pretraining classes": many,
        "classes": few,
        "arguments": {k: str(v) for k, v in vars(args).items()},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, "
        + (torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"),
        "torch": torch.__version__,
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
        ).stdout.strip(),
    }

    def keep(part: str, since: float) -> None:
        """Processor seconds of this process, added up over restarts."""
        results["seconds"][part] = round(results["seconds"].get(part, 0) + time.process_time() - since, 1)
        path.write_text(json.dumps(results, indent=1))

    since = time.process_time()
    gan = args.out / "gan"
    unpaired.pretrain(
        subset(args.animals, args.out / "data-16", many, 500),
        gan,
        settings=common
        | {"model.batch_size": args.pretrain_batch, "model.lr_generator": 2e-4, "model.lr_discriminator": 2e-4},
        preset="biggan-small",
        steps=args.pretrain_steps,
    )
    keep("pretrain", since)
    since = time.process_time()
    study = Study(
        args.animals,
        args.out,
        args.size,
        args.seed,
        args.device,
        args.fakes,
        args.classifier_steps,
        args.classifier_width,
        replace(open_backbone("mobilenet_v1", args.weights, "cpu"), side=args.side),
    )
    real = {c: study.images(args.animals / "val" / c) for c in few}
    features, judge, results["references"] = references(study, real, args.images)
    keep("references", since)
    sheets: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
    for count in args.images:
        data = subset(args.animals, args.out / f"data-8-{count}", few, count)
        for how in ("transfer", "scratch"):
            name, run = f"{how} {count}", args.out / f"{how}-{count}"
            own = common | {
                "model.batch_size": args.batch,
                "model.lr_generator": 2e-4,
                "model.lr_adaptor": 4e-4,
                "model.lr_encoder": 4e-4,
                "model.lr_discriminator": 4e-4,
                "model.mode": how,
                "training.keep": 1000,
                "model.adaptor_steps": args.adaptor_steps if how == "transfer" else 0,
                "model.finetune_steps": args.steps - (args.adaptor_steps if how == "transfer" else 0),
            }
            extra: dict[str, Any] = {"pretrained": gan} if how == "transfer" else {}
            since = time.process_time()
            unpaired.train(data, run, method="deepi2i", settings=own, **extra)
            keep(name, since)
            since = time.process_time()
            looks = results["runs"].setdefault(name, {})
            folders = sorted((run / "checkpoints").glob("step-*"))[1:]  # not the untrained one
            for folder in folders:
                model, last = unpaired.load(folder, device=args.device), folder == folders[-1]
                step = str(int(folder.name.removeprefix("step-")))
                if step not in looks:
                    looks[step] = measure(study, model, real, features, count, judge if last else None)
                    shown = {k: round(v, 4) for k, v in looks[step].items() if isinstance(v, float)}
                    print(name, step, shown, flush=True)
                    keep(f"measuring {name}", since)
                    since = time.process_time()
                if last:
                    sheets[name] = sheet(model, real, args.seed)
            page(args.out, results, sheets)


def parse() -> argparse.Namespace:
    """The arguments; numbers that are not given are the preset's."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("animals", type=Path)
    p.add_argument("--weights", type=Path, required=True, help="MobileNet v1 weights for the distances")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--preset", choices=sorted(NETWORKS), default="cpu")
    p.add_argument("--images", type=int, nargs="+", default=[20, 50, 100, 500])
    p.add_argument("--device", default="auto")
    p.add_argument("--precision", default="auto")
    p.add_argument("--seed", type=int, default=0)
    for name, value in NUMBERS["cpu"].items():
        p.add_argument(
            f"--{name.replace('_', '-')}", type=type(value), help=f"cpu {value}, full {NUMBERS['full'][name]}"
        )
    args = p.parse_args()
    for name, value in NUMBERS[args.preset].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


if __name__ == "__main__":
    main()
