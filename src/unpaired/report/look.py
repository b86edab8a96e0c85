"""Two looks at a trained translator (Katzir et al., section 4.2 and appendix A.5): one map of the deep features of source, target and
translations, and the target images nearest to each translation, which would show that they were learnt by heart.

The mathematics is in :mod:`unpaired.report.looks`. Legend: N images, D features, S side; images float [N, 3, S, S] in [-1, 1].
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unpaired import machine
from unpaired.checkpoint import write_atomic
from unpaired.config import DataConfig, from_dict
from unpaired.data.images import encode_image, show, to_tensor
from unpaired.data.sampling import Pool, centre_crops, open_pool
from unpaired.errors import ConfigError, DataError, UnpairedError
from unpaired.evaluation.features import NetworkBackbone, open_backbone
from unpaired.networks.classifiers import Features, load_pretrained
from unpaired.report.looks import FEWEST, embed_2d, nearest_neighbours, perceptual_distances
from unpaired.translate.synthesis import sheet
from unpaired.translate.translator import Translator, load
from unpaired.weights import find, import_torchvision
from unpaired.weights import load as load_weights

COLOURS = ((31, 119, 180), (214, 39, 40), (23, 190, 207))
"""Of source (blue), target (red) and translations (cyan), as in Fig. 10."""
LAYERS: dict[str, tuple[str, ...]] = {
    "alexnet": ("relu1", "relu2", "relu3", "relu4", "relu5"),
    "vgg19": ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"),
    "mobilenet_v1": ("stride2", "stride4", "stride8", "stride16", "stride32"),
    "squeezenet1_1": ("relu1", "fire3", "fire5", "fire7", "fire9"),
}
"""Layers whose differences make the perceptual distance, by network; those of LPIPS for AlexNet, and their like."""
PENULTIMATE = "vgg19_fc7"
"""The 4096 numbers before VGG-19's last layer: what the paper maps."""
BATCH = 8


@dataclass(frozen=True)
class Look:
    """What :func:`look` found; images are those at the end of the paths."""

    out: Path
    counts: dict[str, int]
    distances: dict[str, float]
    """Mean perceptual distance to the nearest target image: of translations, and of held-out target images as a yardstick."""

    def text(self) -> str:
        """For a terminal."""
        lines = [", ".join(f"{n:,} {k}" for k, n in self.counts.items()) + f": {show(self.out)}"]
        lines += [f"  {k}: {v:.4f}" for k, v in self.distances.items()]
        return "\n".join(lines)


def penultimate(name: str, where: Path | str | None, device: torch.device) -> NetworkBackbone:
    """Features for the map: ``vgg19_fc7`` as in the paper, or a backbone of the metrics. Raises ConfigError, WeightsError."""
    if name != PENULTIMATE:
        return open_backbone(name, where, device)
    import_torchvision()
    from torchvision import models

    path = find("vgg19", where)
    with torch.device("meta"):
        network = models.vgg19(weights=None)
    network.load_state_dict(load_weights("vgg19", path), assign=True)
    network.classifier = network.classifier[:-1]
    network.eval().requires_grad_(False).to(device)
    plain = Features("vgg19", ("conv1_1",))  # for its statistics of ImageNet
    mean, std = plain.mean.to(device), plain.std.to(device)
    return NetworkBackbone(name, 4096, 224, "", lambda x: network(((x + 1) / 2 - mean) / std), device)


def tsne_picture(
    groups: list[NDArray[np.float64]], *, side: int = 640, radius: int = 4, margin: int = 24
) -> NDArray[np.uint8]:
    """Points [N_i, 2] of up to three groups as dots on white, uint8 [side, side, 3]; later groups lie above earlier ones.

    The colours are COLOURS: source blue, target red, translations cyan, as in Fig. 10.
    """
    points = np.concatenate(groups)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = (side - 2 * margin) / max(float((high - low).max()), 1e-12)
    page = np.full((side, side, 3), 255, np.uint8)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    dot = np.argwhere(x * x + y * y <= radius * radius) - radius
    for group, colour in zip(groups, COLOURS, strict=False):
        centres = np.rint((group - (low + high) / 2) * scale + side / 2).astype(int)
        for right, down in centres:
            rows, columns = (down + dot[:, 0]).clip(0, side - 1), (right + dot[:, 1]).clip(0, side - 1)
            page[rows, columns] = colour
    return page


def look(
    model: Translator | Path | str,
    data: Path | str,
    out: Path | str,
    *,
    to: str,
    source: str | None = None,
    network: str = "mobilenet_v1",
    features: str | None = None,
    weights: Path | str | None = None,
    limit: int = 200,
    rows: int = 16,
    nearest: int = 3,
    seed: int = 0,
    device: str = "auto",
) -> Look:
    """Write ``map.png`` (t-SNE of source, target and translations together), ``neighbours.png`` and ``look.json`` into ``out``.

    Sources are the test images where there are any, else training images; their neighbours are looked for among all training
    images of the target domain. A row of ``neighbours.png``: the source, its translation, and the nearest target images.

    Args:
        network: of the perceptual distance; a key of LAYERS.
        features: of the map: ``vgg19_fc7`` (the paper's) or a backbone's name; ``network`` when None.
        weights: file or folder with their weights.
        limit: images of each kind on the map, and translations that neighbours are looked for.
        rows: rows of the picture of neighbours.

    Raises:
        ConfigError, DataError, WeightsError, CheckpointError: refused before any work.
        UnpairedError: scikit-learn is missing, or ``out`` cannot be written.
    """
    from unpaired.data.folders import find as find_data

    if network not in LAYERS:
        raise ConfigError(f"no perceptual distance over '{network}'; there are: {', '.join(LAYERS)}")
    if min(limit, rows, nearest) < 1:
        raise ConfigError(f"limit = {limit}, rows = {rows}, nearest = {nearest}: each must be at least 1")
    place = machine.choose_device(device)
    translator = model if isinstance(model, Translator) else load(model, device=device)
    asked, to = translator.direction(source, to)
    asked = asked or to
    config = from_dict(translator.header["config"]).data.model_copy(update={"cache": True})
    tree = find_data(data)
    split = "test" if all(tree.files.get(("test", d)) for d in (asked, to)) else "train"
    held, trained = open_pool(tree, config, split), open_pool(tree, config, "train")
    shown = [min(limit, held.count(d)) for d in (asked, to, asked)]  # translations are as many as their sources
    if sum(shown) < FEWEST:
        raise DataError(
            f"{show(data)}: too few images in '{split}' for a map: {shown[0]} of {asked} with their translations and {shown[1]} of "
            f"{to}, together {sum(shown)}; it takes {FEWEST}"
        )
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnpairedError(f"{show(out)}: cannot be made: {error.strerror}") from error
    comparing = Features(network, LAYERS[network])
    load_pretrained(comparing, weights)
    comparing = comparing.eval().requires_grad_(False).to(place)
    backbone = penultimate(features or network, weights, place)

    sources = _images(held, asked, config, limit)
    targets = _images(held, to, config, limit)
    translations = torch.cat(
        [
            translator.translate(part, source, to, seed=seed + i).cpu()
            for i, part in enumerate(torch.split(sources, BATCH))
        ]
    )
    kinds = (sources, targets, translations)
    points = embed_2d(*(torch.cat([backbone(p) for p in torch.split(k, BATCH)]) for k in kinds), seed=seed)

    def layers(images: Tensor) -> list[Tensor]:
        return comparing(images.to(place))  # type: ignore[no-any-return]

    known = _Crops(trained, to, config)
    asking = torch.cat([translations, targets]) if split == "test" else translations
    every = perceptual_distances(asking, known, layers)
    distances, indices = nearest_neighbours(every[: len(translations)], nearest)
    found = {"translations to their nearest training image of the target": float(distances[:, 0].mean())}
    if split == "test":
        own = every[len(translations) :]
        found["held-out target images to theirs, for comparison"] = float(own.min(dim=1).values.mean())
    page = sheet(
        [[sources[i], translations[i], *(known[int(j)] for j in indices[i])] for i in range(min(rows, len(sources)))]
    )
    counts = {f"{asked} ({split})": len(sources), f"{to} ({split})": len(targets), f"{to} (train)": len(known)}
    about: dict[str, Any] = {
        "model": translator.sha256, "source": asked, "target": to, "counts": counts, "split": split, "seed": seed,
        "perceptual distance": f"{network}, {', '.join(LAYERS[network])}, all weights 1", "map": f"t-SNE of {backbone.name}",
        "mean distance": found,
        "neighbours": [
            {"source": i, "target": [int(j) for j in row], "distance": [round(float(d), 5) for d in near]}
            for i, (row, near) in enumerate(zip(indices, distances, strict=True))
        ],
    }  # fmt: skip
    write_atomic(out / "map.png", encode_image(tsne_picture(points)))
    write_atomic(out / "neighbours.png", encode_image(page))
    write_atomic(out / "look.json", json.dumps(about, indent=1, ensure_ascii=False).encode())
    return Look(out, counts, found)


class _Crops:
    """Centre crops of all images of a domain, opened ``BATCH`` at a time: 12,500 at 128 pixels would be 2.5 GB."""

    def __init__(self, pool: Pool, domain: str, config: DataConfig) -> None:
        self.pool, self.domain, self.config = pool, domain, config

    def __len__(self) -> int:
        return self.pool.count(self.domain)

    def __getitem__(self, index: int) -> Tensor:
        return self._open([index])[0]

    def __iter__(self) -> Iterator[Tensor]:
        for first in range(0, len(self), BATCH):
            yield self._open(range(first, min(first + BATCH, len(self))))

    def _open(self, indices: Sequence[int]) -> Tensor:
        return to_tensor(centre_crops(self.pool, self.domain, indices, self.config))


def _images(pool: Pool, domain: str, config: DataConfig, count: int) -> Tensor:
    """Centre crops of the first ``count`` images of a domain."""
    return to_tensor(centre_crops(pool, domain, range(min(count, pool.count(domain))), config))
