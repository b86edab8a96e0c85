"""What a model does to held-out images, for a report: sheets, the way back, samples, a grid of classes, change, map,
neighbours.

Legend: N, M images; S side; C channels; pixels uint8 [N, S, S, 3], tensors [N, 3, S, S] in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from unpaired import weights
from unpaired.config import ReportConfig
from unpaired.data.images import Pixels, open_image, to_tensor, to_uint8
from unpaired.errors import ImageError, Interrupted, NotComparableError, UnpairedError, WeightsError
from unpaired.evaluation import features
from unpaired.evaluation.classifier import Classifier
from unpaired.networks.classifiers import NETWORKS, Features
from unpaired.report.gather import Pictures
from unpaired.translate.translator import Translator

FEWEST = 8
"""Fewer points than this make no map."""
COMPONENTS = 50
"""Principal components that the map is computed from, as its authors advise: less noise, and quick."""
NETWORK = "efficientnet_lite0"
"""The feature network of a report: quick on a CPU, and its weights come with the package."""
TAPS = ("stride8", "stride16", "stride32")
"""Its layers whose differences make the perceptual distance; the map is of the last one's means over places."""
SIDE = 128
"""Side in pixels at which it sees pictures."""
PERCEPTUAL = f"perceptual distance over {NETWORK} ({', '.join(TAPS)}) at {SIDE}×{SIDE}"
BATCH = 8
SAMPLES = 4
"""Results shown for one input of a method with random outputs."""
NEAREST = 4
"""Nearest training images shown for a translation."""
EXTREMES = 4
"""Images of each kind in the failure gallery, and translations that are shown with their nearest training images."""

Layers = Callable[[Tensor], Sequence[Tensor]]
"""[N, 3, H, W] in [-1, 1] -> outputs [N, C, H', W'] of some layers, such as
:class:`unpaired.networks.classifiers.Features`."""
Values = NDArray[np.float64]


# ---- features: one picture of many, and what an image is nearest to ----


def embed_2d(*groups: Tensor, seed: int = 0, perplexity: float = 30.0) -> list[Values]:
    """Map all groups together: features [N_i, D] of each group -> its points [N_i, 2]; the same input gives the same
    map.

    t-SNE (van der Maaten and Hinton, JMLR 2008) over the first 50 principal components of all features.
    ``perplexity`` is about how many neighbours a point has, lowered to a third of the points where there are few.
    Raises NotComparableError for fewer than 8 points, features that are not finite, or all alike; UnpairedError where
    scikit-learn is not installed.
    """
    points = sum(map(len, groups))
    if points < FEWEST:
        raise NotComparableError(f"not comparable: a map needs at least {FEWEST} images, there are {points}")
    x = torch.cat([g.detach().to("cpu", torch.float64).flatten(1) for g in groups])
    if not bool(torch.isfinite(x).all()):
        raise NotComparableError("not comparable: features hold NaN or infinity")
    x = x - x.mean(dim=0)
    if float(x.abs().max()) == 0:
        raise NotComparableError("not comparable: all features are equal")
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise UnpairedError("the map of features needs scikit-learn; type: pip install 'unpaired[demo]'") from error
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    reduced = (u * s)[:, : min(COMPONENTS, len(s))]
    map_ = TSNE(2, perplexity=min(perplexity, (points - 1) / 3), init="pca", random_state=seed, n_jobs=1)
    found = np.asarray(map_.fit_transform(reduced.numpy()), np.float64)
    return np.split(found, np.cumsum([len(g) for g in groups])[:-1])


@torch.inference_mode()
def perceptual_distances(images: Tensor, others: Tensor, layers: Layers, *, batch: int = 16) -> Tensor:
    """Return how unlike each image is to each of the others: [N, 3, H, W] and [M, 3, H, W] -> float32 [N, M], 0 for
    equal ones, at most 4.

    Mean over layers and places of |â - b̂|², with features scaled to length 1 at each place (Zhang et al., arXiv
    1801.03924, Eq. 1, with all weights 1). Raises NotComparableError where sizes differ or features are not finite.
    """
    if images.shape[1:] != others.shape[1:]:
        raise NotComparableError(f"not comparable: images of {list(images.shape[1:])} and {list(others.shape[1:])}")
    own = [_codes(part, layers) for part in torch.split(images, batch)]
    mine = [torch.cat(layer) for layer in zip(*own, strict=True)]
    columns = []
    for part in torch.split(others, batch):
        # |â|² + |b̂|² - 2 â·b̂; a place where all channels are 0 has length 0, not 1
        each = [
            (a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * a @ b.T).clamp_min(0)
            for a, b in zip(mine, _codes(part, layers), strict=True)
        ]
        columns.append(torch.stack(each).mean(0))
    found = torch.cat(columns, 1)
    if not bool(torch.isfinite(found).all()):
        raise NotComparableError("not comparable: features hold NaN or infinity")
    return found


def _codes(images: Tensor, layers: Layers) -> list[Tensor]:
    """[N, C · H' · W'] for each layer, so scaled that a squared distance is the mean over places."""
    codes = []
    for y in layers(images):
        unit = y / y.square().sum(1, keepdim=True).sqrt().clamp_min(1e-10)
        codes.append(unit.flatten(1) / (y.shape[2] * y.shape[3]) ** 0.5)
    return codes


def open_network() -> tuple[Features | None, str]:
    """Open the feature network with its pretrained weights; without them None and why."""
    layers = Features(NETWORK, TAPS)
    try:
        name, path = weights.first(NETWORKS[NETWORK].weights)
        layers.fill(name, weights.read(path))
    except WeightsError as error:
        return None, str(error)
    return layers.eval().requires_grad_(False), ""


# ---- pictures ----


def translate(
    translator: Translator, pixels: Pixels, source: str, target: str, *, seed: int = 0, same_noise: bool = False
) -> tuple[Pixels, NDArray[np.bool_]]:
    """Return translations as uint8, and which of them are finite (the others are black).

    Where outputs are random, each image has its own noise by its number (``same_noise``: all have that of the first),
    so that batches do not change results.
    """
    results = []
    for first in range(0, len(pixels), BATCH):
        x = to_tensor(pixels[first : first + BATCH])
        places = [0] * len(x) if same_noise else range(first, first + len(x))
        results.append(features.translate(translator, x, source, target, seed, places).cpu())
    return _shown(torch.cat(results)) if results else (pixels, np.zeros(0, np.bool_))


def _shown(images: Tensor) -> tuple[Pixels, NDArray[np.bool_]]:
    finite = torch.isfinite(images).flatten(1).all(1)
    return to_uint8(torch.where(finite[:, None, None, None], images, -1.0)), finite.numpy()


def views(translator: Translator, pixels: Pixels, source: str, target: str) -> dict[str, Pixels]:
    """Return the method's own pictures between input and translation, by name: a mask, the levels of a cascade."""
    parts: dict[str, list[Tensor]] = {}
    with torch.inference_mode():
        for first in range(0, len(pixels), BATCH):
            x = to_tensor(pixels[first : first + BATCH]).to(translator.device)
            for name, pictures in translator.method.views(x, source, target).items():
                parts.setdefault(name, []).append(pictures.float().cpu())
    found = {}
    for name, pieces in parts.items():
        whole = torch.cat(pieces)
        if whole.shape[-2:] != pixels.shape[1:3]:
            whole = F.interpolate(whole, pixels.shape[1:3], mode="nearest")
        found[name] = _shown(whole)[0]
    return found


def sheet(translator: Translator, pixels: Pixels, source: str, target: str, *, seed: int = 0) -> dict[str, Pixels]:
    """Return rows of a direction's sheet by label: input, the method's views, the translation (several where they are
    random, each row of one noise for all inputs), and back. Of a method that makes images of noise alone: images, and
    what they look like on the way."""
    if translator.method.from_noise:
        return _from_noise(translator, pixels[:BATCH], target, seed)
    rows = {f"input: {source}": pixels, **views(translator, pixels, source, target)}
    samples = SAMPLES if translator.method.stochastic else 1
    made = [translate(translator, pixels, source, target, seed=seed + n, same_noise=True)[0] for n in range(samples)]
    rows |= {f"as {target}, sample {n}" if samples > 1 else f"as {target}": y for n, y in enumerate(made, start=1)}
    if (target, source) in translator.directions:
        rows[f"and back to {source}"] = translate(translator, made[0], target, source, seed=seed, same_noise=True)[0]
    return rows


def _from_noise(translator: Translator, pixels: Pixels, target: str, seed: int) -> dict[str, Pixels]:
    """Return images of noise: first those of the views, which have the noise of seed 0 (as training's sheets), then
    others."""
    rows = views(translator, pixels, target, target)
    finished = translator.translate(to_tensor(pixels), target, target, seed=0).cpu()
    rows["the same, finished" if rows else "from noise"] = _shown(finished)[0]
    for n in range(1, SAMPLES):
        label = "from other noise" + (f" ({n})" if n > 1 else "")
        rows[label] = translate(translator, pixels, target, target, seed=seed + n)[0]
    return rows


def follows_noise(rows: Mapping[str, Pixels], target: str) -> tuple[float, float]:
    """Measure how far the results of two inputs with the same noise differ, and those of one input with two noises:
    means over all pairs, in levels of 255. From a :func:`sheet` of random outputs with at least two inputs; else (1,
    0)."""
    samples = [v.astype(np.float64) for k, v in rows.items() if k.startswith(f"as {target}, sample")]
    if len(samples) < 2 or len(samples[0]) < 2:
        return 1.0, 0.0
    inputs = [np.abs(s[i] - s[j]).mean() for s in samples for i in range(len(s)) for j in range(i)]
    noises = [np.abs(a - b).mean() for n, a in enumerate(samples) for b in samples[:n]]
    return float(np.mean(inputs)), float(np.mean(noises))


def every_class(translator: Translator, image: Pixels, source: str, *, seed: int = 0) -> dict[str, Pixels]:
    """Translate one image [S, S, 3] to every domain that it can be translated to: target -> [S, S, 3]."""
    _, targets = translator.targets(source)
    return {t: translate(translator, image[None], source, t, seed=seed)[0][0] for t in targets}


# ---- a direction, measured ----


@dataclass
class Measured:
    """A direction on more images than are shown."""

    source: str
    target: str
    inputs: Pixels
    outputs: Pixels
    finite: NDArray[np.bool_]
    change: Values
    """[N] how much each image was changed."""
    change_name: str
    """What ``change`` is, in words."""
    confidence: Values | None = None
    """[N] probability that a classifier gives to the class it chose for the translation."""
    classes: list[str] = field(default_factory=list)
    """[N] that class."""
    map: dict[str, Values] = field(default_factory=dict)
    """Points of source, target and translated images in one map."""
    map_missing: str = ""
    neighbours: list[tuple[int, list[Pixels], list[float]]] = field(default_factory=list)
    """(place of a translation, its nearest training images of the target, their distances)."""
    references: int = 0
    """Training images of the target among which the nearest were searched."""
    from_noise: bool = False
    """Made of noise alone; ``inputs`` are then real images of the target and have nothing to do with ``outputs``."""

    @property
    def name(self) -> str:
        """What was made of what."""
        return f"{self.target} from noise" if self.from_noise else f"{self.source} → {self.target}"

    def shown(self, i: int) -> dict[str, Pixels]:
        """Label what was made of one image, and that image, for a gallery."""
        return {"from noise": self.outputs[i]} if self.from_noise else {
            "input": self.inputs[i], f"as {self.target}": self.outputs[i]
        }  # fmt: skip

    def judge(self, classifier: Classifier) -> None:
        """Add how sure a classifier is of each translation, and of which class."""
        x = F.interpolate(to_tensor(self.outputs), (classifier.image_size,) * 2, mode="bilinear", antialias=True)
        best = classifier.logits(x.clamp(-1, 1)).softmax(1).max(1)
        self.confidence = np.where(self.finite, best.values.double().numpy(), np.nan)
        self.classes = [classifier.classes[i] for i in best.indices.tolist()]


def measure(
    translator: Translator,
    pictures: Pictures,
    direction: tuple[str, str],
    layers: Features | None,
    options: ReportConfig,
) -> Measured:
    """Measure change, map and neighbours of one direction. What a method makes of noise alone has no change."""
    source, target = direction
    inputs = pictures.some(source, options.limit)
    outputs, finite = translate(translator, inputs, source, target, seed=options.seed)
    made = translator.method.from_noise
    change, name = (np.full(len(inputs), np.nan), "") if made else _change(inputs, outputs, layers)
    found = Measured(source, target, inputs, outputs, finite, np.where(finite, change, np.nan), name, from_noise=made)
    if layers is None:
        return found
    real = pictures.some(target, options.limit) if target in pictures.held_out else inputs[:0]
    ours = f"{target} from noise" if made else f"{source} as {target}"
    sets = {f"real {source}": inputs, f"real {target}": real, ours: outputs[finite]}
    sets = {k: v for k, v in sets.items() if len(v)}
    try:
        points = embed_2d(*(_pooled(v, layers) for v in sets.values()), seed=options.seed)
        found.map = dict(zip(sets, points, strict=True))
    except Interrupted:
        raise
    except UnpairedError as error:  # too few images, or scikit-learn is not installed
        found.map_missing = str(error)
    if target in pictures.train and finite.any():
        _add_neighbours(found, pictures.some(target, 2 * options.limit, train=True), layers, options.images)
    return found


def _seen(pixels: Pixels) -> Tensor:
    """Resize to what the feature network sees."""
    return F.interpolate(to_tensor(pixels), (SIDE, SIDE), mode="bilinear", antialias=True).clamp(-1, 1)


@torch.inference_mode()
def _pooled(pixels: Pixels, layers: Features) -> Tensor:
    return torch.cat([layers(part)[-1].mean((2, 3)) for part in torch.split(_seen(pixels), BATCH)])


def _change(inputs: Pixels, outputs: Pixels, layers: Features | None) -> tuple[Values, str]:
    if layers is None:
        levels = np.abs(inputs.astype(np.float64) - outputs).mean(axis=(1, 2, 3))
        return levels / 255, "mean difference of the pixels, 0 to 1 (there are no weights for a perceptual distance)"
    pairs = [(_seen(inputs[i : i + 1]), _seen(outputs[i : i + 1])) for i in range(len(inputs))]
    return np.array([float(perceptual_distances(x, y, layers)) for x, y in pairs], np.float64), PERCEPTUAL


def _add_neighbours(found: Measured, references: Pixels, layers: Features, shown: int) -> None:
    good = np.flatnonzero(found.finite)
    picked = good[np.linspace(0, len(good) - 1, min(shown, EXTREMES, len(good))).round().astype(int)]
    if not len(references):
        return
    distances = perceptual_distances(_seen(found.outputs[picked]), _seen(references), layers)
    nearest = torch.sort(distances, dim=1, stable=True)
    found.references = len(references)
    for row, which in enumerate(picked.tolist()):
        near = [references[i] for i in nearest.indices[row, :NEAREST].tolist()]
        found.neighbours.append((which, near, nearest.values[row, :NEAREST].tolist()))


def extremes(values: Values, count: int, *, largest: bool) -> list[int]:
    """Return positions of the ``count`` largest (or smallest) finite values, the most extreme first."""
    good = np.flatnonzero(np.isfinite(values))
    order = good[np.argsort(-values[good] if largest else values[good], kind="stable")]
    return [int(i) for i in order[:count]]


# ---- sheets that training left ----


def _cells(path: Path, side: int) -> NDArray[np.uint8] | None:
    """Cut a sheet [rows · S, columns · S, 3] into its pictures [rows, columns, S, S, 3]; None where it is no such
    sheet."""
    try:
        sheet = np.asarray(open_image(path, min_side=1))
    except ImageError:
        return None
    h, w = sheet.shape[:2]
    if h % side or w % side:
        return None
    return sheet.reshape(h // side, side, w // side, side, 3).transpose(0, 2, 1, 3, 4)


def progress(samples: Sequence[tuple[int, Path]], rows: int, side: int, *, most: int = 6) -> dict[str, Pixels]:
    """Show the fixed inputs of training's first direction and how their translation came about, label -> pixels, the
    inputs first.

    ``samples`` are (step, sheet), with so many ``rows`` of directions and pictures of ``side`` pixels; sheets of
    another shape are passed over.
    """
    found: dict[str, Pixels] = {}
    for index in dict.fromkeys(np.linspace(0, len(samples) - 1, most).round().astype(int).tolist()):
        step, path = samples[index]
        cells = _cells(path, side)
        if cells is None or len(cells) % rows or len(cells) < 2 * rows:
            continue
        found.setdefault("input", cells[0])
        found[f"step {step:,}"] = cells[len(cells) // rows - 1]  # after the input and the method's own views
    return found
