"""MNIST↔USPS with the paper's digits networks (UNIT, Table 2): 0.9597 for MNIST→USPS, 0.9358 for USPS→MNIST.

    python benchmarks/digits.py DIGITS mnist-usps --out RESULTS [--split cogan] [--preset unit-digits-cpu]

DIGITS holds mnist.npz and usps.npz with arrays <name>_train, <name>_train_y, <name>_test, <name>_test_y. ``--split
standard`` is 60,000/10,000 and 7,291/2,007; ``--split cogan`` joins all 9,298 USPS digits and cuts 7,438/1,860 by a
fixed permutation (which digits the paper had in each part is not known). All images become 32×32, bilinear. ``--tune``
measures on a part of the target's training images instead (left out of training), for choosing settings without looking
at the test set.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from unpaired import adapt

PAPER = {"mnist-usps": 0.9597, "usps-mnist": 0.9358}
SPLIT_SEED = 1860
TUNE = 1000


def read(folder: Path, name: str, split: str) -> dict[str, np.ndarray]:
    """Arrays train, train_y, test, test_y."""
    with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
        found = {k: file[f"{name}_{k}"] for k in ("train", "train_y", "test", "test_y")}
    if name == "usps" and split == "cogan":
        images = np.concatenate([found["train"], found["test"]])
        labels = np.concatenate([found["train_y"], found["test_y"]])
        order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
        a, b = order[:7438], order[7438:]
        found = {"train": images[a], "train_y": labels[a], "test": images[b], "test_y": labels[b]}
    return found


def parser(description: str, directions: Iterable[str]) -> argparse.ArgumentParser:
    """The arguments of the benchmarks on digits."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("digits", type=Path)
    p.add_argument("direction", choices=sorted(directions))
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--tune", action="store_true")
    return p


def conditions(args: argparse.Namespace) -> dict[str, str]:
    """What a reader needs to repeat it; called before the run, because the commit may move on."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return {
        "direction": args.direction,
        "commit": commit,
        "measured_on": "target training images left out" if args.tune else "target test set",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        + (torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"),
    }


def main() -> None:
    """Parse, write the three npz files, adapt, add what a reader needs to repeat it."""
    p = parser(__doc__, PAPER)
    p.add_argument("--split", choices=("standard", "cogan"), default="cogan")
    p.add_argument("--preset", help="default: unit-digits-DIRECTION")
    p.add_argument("--recipe", choices=("joint", "translate"), default="joint")
    p.add_argument("--width", type=int, help="model.width")
    p.add_argument("--steps", type=int, help="model.steps")
    args = p.parse_args()
    source, target = args.direction.split("-")
    about = conditions(args) | {"split": args.split, "paper": PAPER[args.direction]}
    data = args.out / "data"
    data.mkdir(parents=True, exist_ok=True)
    first, second = read(args.digits, source, args.split), read(args.digits, target, args.split)
    if args.tune:
        order = np.random.default_rng(SPLIT_SEED + 1).permutation(len(second["train_y"]))
        kept, aside = order[TUNE:], order[:TUNE]
        second = {
            "train": second["train"][kept],
            "test": second["train"][aside],
            "test_y": second["train_y"][aside],
        }
    np.savez(data / "source.npz", x_train=first["train"], y_train=first["train_y"])
    np.savez(data / "target.npz", x_train=second["train"])  # no labels in the file at all
    np.savez(data / "test.npz", x_test=second["test"], y_test=second["test_y"])
    from unpaired.config import parse_assignments

    settings = parse_assignments(args.set)
    settings |= {k: v for k, v in (("model.width", args.width), ("model.steps", args.steps)) if v is not None}
    result = adapt(
        data / "source.npz",
        data / "target.npz",
        args.out,
        test=data / "test.npz",
        recipe=args.recipe,
        preset=args.preset or f"unit-digits-{args.direction}",
        settings=settings,
        seed=args.seed,
        names=(source, target),
    )
    print(result.text())
    (args.out / "table.json").write_text(json.dumps({**about, **result.to_dict()}, indent=1))
    print(
        f"paper {PAPER[args.direction]:.4f}; this run, last: "
        f"{result.last.accuracy if result.last else float('nan'):.4f}"
    )


if __name__ == "__main__":
    main()
