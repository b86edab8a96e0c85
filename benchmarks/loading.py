"""Training images per CPU-second: this package's loader, decoding and cached, beside the usual image-by-image pipeline.

    python benchmarks/loading.py FOLDER --size 128 --resize 143

FOLDER holds images, at any depth. The ways take turns, so that a busy machine slows them alike; the ratio of the last
column is more telling than the rates. One thread, CPU time of this process.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from unpaired.config import DataConfig
from unpaired.data import cache
from unpaired.data.folders import DataTree, Walk
from unpaired.data.sampling import FolderPool, Sampler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--resize", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    os.environ["UNPAIRED_CACHE"] = tempfile.mkdtemp(
        prefix="loading-"
    )  # a fresh one, so that building it is seen in the log

    files = tuple(Walk().read(options.folder))
    half = len(files) // 2
    split = {("train", "a"): files[:half], ("train", "b"): files[half:], ("test", "a"): (), ("test", "b"): ()}
    tree = DataTree(options.folder, "domain", ("a", "b"), split)
    config = DataConfig(size=options.size, resize=options.resize, cache_gib=16)
    store = cache.open_store(tree, "train", config)
    samplers = {
        "decoded": Sampler(FolderPool(tree, config, "train", None), config, [("a", "b")], 0),
        "cached": Sampler(FolderPool(tree, config, "train", store), config, [("a", "b")], 0),
    }
    rng = np.random.default_rng(0)

    def usual(path: Path) -> torch.Tensor:
        """The steps of CycleGAN's and UNIT's loaders, image by image: Pillow for pixels, torch for the value range."""
        image = Image.open(path).convert("RGB")
        short = options.resize or options.size
        scale = short / min(image.size)
        image = image.resize(
            (max(short, round(image.width * scale)), max(short, round(image.height * scale))), Image.BICUBIC
        )
        left, top = (int(rng.integers(0, side - options.size + 1)) for side in image.size)
        image = image.crop((left, top, left + options.size, top + options.size))
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        return tensor.sub_(0.5).div_(0.5)

    def usual_batch(step: int) -> None:
        for _ in range(2):
            torch.stack([usual(files[i]) for i in rng.integers(0, len(files), options.batch)])

    ways = {"usual": usual_batch} | {k: lambda step, s=s: s.batch(step, options.batch) for k, s in samplers.items()}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    steps = max(1, 64 // options.batch)
    for turn in range(options.rounds + 1):
        for name, batch in ways.items():
            start = time.process_time()
            for step in range(turn * steps, (turn + 1) * steps):
                batch(step)
            if turn:  # the first round warms up
                rates[name].append(2 * options.batch * steps / (time.process_time() - start))
    print(
        f"{len(files)} files, resize {options.resize or options.size}, crop {options.size}, batch 2 × {options.batch}"
    )
    for name, values in rates.items():
        ratio = median(v / t for v, t in zip(values, rates["usual"], strict=True))
        print(f"{name:12} {median(values):9.0f} images per CPU-second   {ratio:6.2f} × usual")


if __name__ == "__main__":
    main()
