"""Training images per CPU-second: this package's loader, decoding and cached, beside the usual image-by-image pipeline.

    python benchmarks/loading.py FOLDER [--size 256] [--resize 286] [--as 256x256 1024x768 …] [--draft 2 1] [--out loading.json]

FOLDER holds images, at any depth. ``--as`` measures on copies of them, resized to that size (Lanczos) and saved as JPEG of
quality 90, for a folder whose images are of another size than those one wants to know about. One thread, CPU time of this
process; each way has a process of its own; a turn is ``--images`` images of each domain.

The usual way is that of CycleGAN, CUT and UNIT: Pillow opens, converts and resizes the shorter side (bicubic), crops and flips
one image, torch brings it to [0, 1] (ToTensor) and to [-1, 1] (Normalize), and the images of a batch are stacked.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from apart import interleave_apart
from harness import arguments, compare, write
from PIL import Image

from unpaired._memory import keep_memory
from unpaired.config import DataConfig
from unpaired.data import cache
from unpaired.data.folders import DataTree, Walk
from unpaired.data.sampling import FolderPool, Sampler

GOALS = {"decoded": 4.0, "cached": 12.0}


def usual(path: Path, config: DataConfig, rng: np.random.Generator) -> torch.Tensor:
    """One image [3, size, size] by the steps of the official loaders."""
    image = Image.open(path).convert("RGB")
    short = config.resize or config.size
    scale = short / min(image.size)
    target = (max(short, round(image.width * scale)), max(short, round(image.height * scale)))
    image = image.resize(target, Image.Resampling.BICUBIC)
    left, top = (int(rng.integers(0, side - config.size + 1)) for side in image.size)
    image = image.crop((left, top, left + config.size, top + config.size))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    tensor = torch.from_numpy(np.array(image, copy=True)).view(config.size, config.size, 3)
    tensor = tensor.permute(2, 0, 1).contiguous().to(torch.float32).div(255)  # ToTensor
    mean = std = torch.full((3, 1, 1), 0.5)
    return tensor.sub_(mean).div_(std)  # Normalize


def copies(files: tuple[Path, ...], size: tuple[int, int], folder: Path) -> tuple[Path, ...]:
    """JPEGs of that size."""
    made = []
    for number, file in enumerate(files):
        made.append(folder / f"{number:05}.jpg")
        with Image.open(file) as image:
            image.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(made[-1], quality=90)
    return tuple(made)


def ways(
    files: tuple[Path, ...], folder: Path, config: DataConfig, drafts: list[int], images: int, batch: int
) -> dict[str, Callable[[], object]]:
    """The usual way, decoding at each scale rule, and the cache; each call goes on to further images."""
    half = len(files) // 2
    split = {("train", "a"): files[:half], ("train", "b"): files[half:], ("test", "a"): (), ("test", "b"): ()}
    tree = DataTree(folder, "domain", ("a", "b"), split)
    store = cache.open_store(tree, "train", config)
    assert store is not None, "the cache was refused: too large or no room; choose a smaller folder"
    rng = np.random.default_rng(0)
    steps = max(1, images // batch)

    def by_hand() -> None:
        for _ in range(2 * steps):
            torch.stack([usual(files[i], config, rng) for i in rng.integers(0, len(files), batch)])

    def ours(pool: FolderPool, own: DataConfig) -> Callable[[], None]:
        sampler, done = Sampler(pool, own, [("a", "b")], 0), 0

        def way() -> None:
            nonlocal done
            for _ in range(steps):
                sampler.batch(done, batch)
                done += 1

        return way

    found: dict[str, Callable[[], object]] = {"usual": by_hand}
    for draft in drafts:
        own = config.model_copy(update={"draft": draft})
        name = "decoded" if len(drafts) == 1 else f"decoded, draft={draft}"
        found[name] = ours(FolderPool(tree, own, "train", None), own)
    return found | {"cached": ours(FolderPool(tree, config, "train", store), config)}


def one_way(name: str, *given: Any) -> Callable[[], object]:
    """One of `ways`, in a process of its own; ours as every command of the package begins."""
    if name != "usual":
        keep_memory()
    return ways(*given)[name]


def main() -> None:
    """Measure every size."""
    parser = arguments(__doc__, rounds=9)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--resize", type=int, default=286)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--images", type=int, default=16, help="of each domain in a turn")
    parser.add_argument("--files", type=int, default=120, help="of the folder, evenly spread")
    parser.add_argument("--draft", type=int, nargs="*", default=[2], choices=(0, 1, 2))
    parser.add_argument("--as", dest="sizes", nargs="*", default=[], metavar="WxH")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = tuple(Walk().read(options.folder))
    found = found[:: max(1, len(found) // options.files)]
    config = DataConfig(size=options.size, resize=options.resize, cache_gib=16)
    rows = []
    with tempfile.TemporaryDirectory(prefix="loading-") as scratch:
        os.environ["UNPAIRED_CACHE"] = scratch
        for number, size in enumerate(options.sizes or [""]):
            folder, files = options.folder, found
            if size:
                folder = Path(scratch) / str(number)
                folder.mkdir()
                width, height = map(int, size.split("x"))
                files = copies(found, (width, height), folder)
            work = f"{size or 'as they are'}, resize {config.resize}, crop {config.size}, batch 2 × {options.batch}"
            given = (files, folder, config, options.draft, options.images, options.batch)
            different = ways(*given)  # builds the cache
            makers = {name: (one_way, (name, *given)) for name in different}
            turns = interleave_apart(makers, rounds=options.rounds, warmup=options.warmup, count=False)
            total = 2 * max(1, options.images // options.batch) * options.batch
            for way in list(different)[1:]:
                row = compare(work, turns, ways=("usual", way), goal=GOALS[way.split(",")[0]])
                rates = [total / (row.ways[k]["ms"]["median"] / 1e3) for k in ("usual", way)]
                rows.append(replace(row, note=f"{rates[0]:,.0f} and {rates[1]:,.0f} images a CPU-second"))
    write(rows, options.out, images=total, files=len(found))


if __name__ == "__main__":
    main()
