"""Distance to the target against CPU time, for several presets on the same data: what a recipe is worth in minutes.

    python benchmarks/quality.py DATA --direction horse:zebra --minutes 10 --seeds 0 1 2 --weights FOLDER --out OUT
        "quick" "cycle-horse2zebra model.width=16 data.size=128 data.resize=143 model.residual_blocks=6"

Each recipe is a preset and settings. It gets as many steps as fit into the CPU time (all threads together), so that its
schedule ends with it. Every checkpoint translates the whole test split; a network that no recipe's discriminator or
loss has seen judges (``--judge``). Written: OUT/quality.json, OUT/quality.svg, and OUT/<recipe>-<seed>.png, sheets of
the last checkpoint to look at.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch.nn import functional

matplotlib.use("Agg")
from matplotlib.figure import Figure

from unpaired.checkpoint import steps as checkpoints
from unpaired.config import DataConfig
from unpaired.data.images import to_tensor, to_uint8
from unpaired.data.sampling import centre_crops, open_pool
from unpaired.evaluation.distances import kernel_distance
from unpaired.evaluation.features import Backbone, open_backbone
from unpaired.files import sha256_of
from unpaired.networks.classifiers import Features
from unpaired.translate.translator import Translator, load
from unpaired.weights import first, read

LOOKS = 8
"""Checkpoints along a run that are measured."""
PROBE = (4, 16)
"""Steps of the two short runs whose difference says what a step costs."""


def train(data: Path, recipe: str, out: Path, steps: int, options: list[str]) -> float:
    """Train in a process of its own; CPU seconds that it took, user and system."""
    preset, *settings = shlex.split(recipe)
    command = [sys.executable, "-m", "unpaired", "train", str(data), "--preset", preset, "--out", str(out), "--quiet"]
    command += ["--steps", str(steps), *(word for s in [*settings, *options] for word in ("--set", s))]
    before = os.times()
    subprocess.run(command, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


class Fire9:
    """SqueezeNet's last maps, averaged over space, of pictures at 160 pixels: a judge whose weights come in two
    files."""

    name, dim, resize = "squeezenet1_1-fire9", 512, "bilinear"

    def __init__(self, weights: Path | None) -> None:
        self.network = Features("squeezenet1_1", ("fire9",))
        name, path = first(self.network.sources, weights)
        self.network.fill(name, read(path))
        self.sha256 = sha256_of(path)
        self.network.eval()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        large = functional.interpolate(images, size=(160, 160), mode="bilinear")
        maps: torch.Tensor = self.network(large)[0]
        return maps.mean(dim=(2, 3)).double()


def steps_for(data: Path, recipe: str, out: Path, seconds: float, options: list[str]) -> int:
    """How many steps fit into the time, start-up left out."""
    few, more = (train(data, recipe, out / f"probe-{n}", n, options) for n in PROBE)
    return max(LOOKS, int(seconds / ((more - few) / (PROBE[1] - PROBE[0]))))


def features(judge: Backbone, images: torch.Tensor) -> torch.Tensor:
    """[N, D] of images [N, 3, H, W] in [-1, 1]."""
    with torch.inference_mode():
        return torch.cat([judge(part) for part in images.split(16)])


def translated(model: Translator, images: torch.Tensor, source: str, target: str) -> torch.Tensor:
    """As files would hold it: rounded to 8 bits."""
    parts = [to_uint8(model.translate(part, source, target)) for part in images.split(16)]
    return to_tensor(np.concatenate(parts))


def sheet(inputs: torch.Tensor, outputs: torch.Tensor, path: Path) -> None:
    """Twelve inputs above their translations."""
    picked = np.linspace(0, len(inputs) - 1, 12).astype(int)
    rows = [np.concatenate(list(to_uint8(images[picked])), axis=1) for images in (inputs, outputs)]
    Image.fromarray(np.concatenate(rows)).save(path)


def measure(
    run: Path, data: Path, judge: Backbone, pair: tuple[str, str]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Distances of every checkpoint, oldest first, and of the untouched input and real halves; writes the sheet."""
    found: list[dict[str, Any]] = []
    scale: dict[str, float] = {}
    for folder in checkpoints(run / "checkpoints")[::-1]:
        model = load(folder)
        config = DataConfig(**model.header["config"]["data"])
        pool = open_pool(data, config, "test")
        source, target = (to_tensor(centre_crops(pool, d, range(pool.count(d)), config)) for d in pair)
        real = features(judge, target)
        outputs = translated(model, source, *pair)
        fake = features(judge, outputs)
        found.append(
            {
                "step": int(folder.name.removeprefix("step-")),
                "kernel": 1000 * kernel_distance(fake, real).mean,
                "n": [len(fake), len(real)],
            }
        )
        if not scale:
            plain = features(judge, source)
            scale = {
                "untouched": 1000 * kernel_distance(plain, real).mean,
                "real halves": 1000 * kernel_distance(real[::2], real[1::2]).mean,
            }
        sheet(source, outputs, run.with_suffix(".png"))
    return found, scale


def plot(results: dict[str, Any], path: Path) -> None:
    """Kernel distance over CPU seconds, a line a run, with the untouched input as a dashed one."""
    figure = Figure(figsize=(7, 4.2))
    axes = figure.subplots()
    colours: dict[str, Any] = {}
    for row in results["runs"]:
        x = [row["cpu_seconds"] * look["step"] / row["steps"] for look in row["looks"] if look["step"]]
        y = [look["kernel"] / results["scale"]["untouched"] for look in row["looks"] if look["step"]]
        known = row["recipe"] in colours
        (line,) = axes.plot(x, y, color=colours.get(row["recipe"]), label=None if known else row["recipe"].split()[0])
        colours[row["recipe"]] = line.get_color()
    axes.axhline(1, linestyle="--", color="grey", label="untouched input")
    axes.set(xlabel="CPU seconds", ylabel=f"kernel distance ({results['judge']}), untouched = 1", ylim=(0, None))
    axes.legend()
    figure.savefig(path)


def main() -> None:
    """Train, measure and plot."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", type=Path)
    p.add_argument("recipes", nargs="+")
    p.add_argument("--direction", required=True, help="SOURCE:TARGET")
    p.add_argument("--minutes", type=float, default=10)
    p.add_argument("--seeds", type=int, nargs="+", default=[0])
    p.add_argument(
        "--judge", default="fire9", help="fire9 (SqueezeNet, either file), or a backbone of `unpaired evaluate`"
    )
    p.add_argument("--weights", type=Path, help="of the judge")
    p.add_argument("--out", type=Path, required=True)
    args = p.parse_args()
    source, target = args.direction.split(":")
    judge = Fire9(args.weights) if args.judge == "fire9" else open_backbone(args.judge, args.weights)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    results: dict[str, Any] = {
        "data": args.data.name,
        "direction": [source, target],
        "judge": judge.name,
        "minutes": args.minutes,
        "commit": commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads",
        "scale": {},
        "runs": [],
    }
    args.out.mkdir(parents=True, exist_ok=True)
    for recipe in args.recipes:
        name = recipe.split()[0]
        for seed in args.seeds:
            options = [f"seed={seed}", "training.tensorboard=false"]
            folder = args.out / f"{name}-{seed}"
            steps = steps_for(args.data, recipe, args.out / f"probe-{name}-{seed}", 60 * args.minutes, options)
            often = [
                f"training.checkpoint_every={-(-steps // LOOKS)}",
                f"training.keep={LOOKS + 2}",
                f"training.sample_every={steps}",
            ]
            cpu = train(args.data, recipe, folder, steps, [*options, *often])
            looks, results["scale"] = measure(folder, args.data, judge, (source, target))
            results["runs"].append({"recipe": recipe, "seed": seed, "steps": steps, "cpu_seconds": cpu, "looks": looks})
            (args.out / "quality.json").write_text(json.dumps(results, indent=1))
            print(name, seed, steps, "steps", round(cpu), "s", looks[-1], results["scale"], flush=True)
    plot(results, args.out / "quality.svg")


if __name__ == "__main__":
    main()
