"""Looking at sets of images through a feature network: one picture of many features, and what an image is nearest to.

Nothing here trains or reads files; callers bring features, or a network that makes them.

Legend: N, M images; D features; C channels, H height, W width; images [N, 3, H, W] in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unpaired.errors import NotComparableError, UnpairedError

FEWEST = 8
"""Fewer points than this make no map."""
COMPONENTS = 50
"""Principal components that the map is computed from, as its authors advise: less noise, and quick."""


def embed_2d(*groups: Tensor, seed: int = 0, perplexity: float = 30.0) -> list[NDArray[np.float64]]:
    """One map of all groups together: features [N_i, D] of each group -> its points [N_i, 2].

    t-SNE (van der Maaten and Hinton, JMLR 2008) over the first 50 principal components of all features. Near points are
    near in feature space; distances between clusters and their sizes mean nothing. The same input gives the same map.

    Args:
        perplexity: about how many neighbours a point has; lowered to a third of the points where there are few.

    Raises:
        NotComparableError: fewer than 8 points, features that are not finite, or all alike.
        UnpairedError: scikit-learn is not installed.
    """
    counts = [len(g) for g in groups]
    points = sum(counts)
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
    return np.split(found, np.cumsum(counts)[:-1])


Layers = Callable[[Tensor], Sequence[Tensor]]
"""[N, 3, H, W] in [-1, 1] -> outputs [N, C, H', W'] of some layers, such as :class:`unpaired.networks.features.Features`."""


CODE_BYTES = 2**30
"""Features of so many bytes are held at once; more images go in several passes over the others."""


@torch.inference_mode()
def perceptual_distances(
    images: Tensor, others: Tensor | Iterable[Tensor], layers: Layers, *, batch: int = 16
) -> Tensor:
    """How unlike each image is to each of the others: [N, 3, H, W] and [M, 3, H, W] -> float32 [N, M], 0 for equal ones.

    Mean over layers and places of |â - b̂|², with features scaled to length 1 at each place (Zhang et al., arXiv 1801.03924,
    Eq. 1, with all weights 1); at most 4. Both sets must have one size. Features of at most ``CODE_BYTES`` of ``images``, and of one
    batch of the others, are in memory at once.

    Args:
        others: all in one tensor, or in parts [m, 3, H, W] that can be walked several times, each opened when its turn comes: for sets
            that do not fit into memory.

    Raises NotComparableError: sizes differ, or features are not finite.
    """
    if not len(images):
        count = len(others) if isinstance(others, Tensor) else sum(len(part) for part in others)
        return torch.zeros(0, count)
    parts = torch.split(others, batch) if isinstance(others, Tensor) else others
    each = sum(code.numel() * code.element_size() for code in _codes(images[:1], layers))
    block = max(1, CODE_BYTES // each)
    return torch.cat([_distances(some, parts, layers, batch) for some in torch.split(images, block)])


def _distances(images: Tensor, parts: Iterable[Tensor], layers: Layers, batch: int) -> Tensor:
    """[N, M], with the features of all ``images`` in memory."""
    own = [_codes(part, layers) for part in torch.split(images, batch)]
    mine = [torch.cat(layer) for layer in zip(*own, strict=True)]
    del own  # it would hold everything twice
    columns = [torch.zeros(len(images), 0)]
    for part in parts:
        if images.shape[1:] != part.shape[1:]:
            raise NotComparableError(f"not comparable: images of {list(images.shape[1:])} and {list(part.shape[1:])}")
        if not len(part):
            continue
        theirs = _codes(part, layers)
        # |â|² + |b̂|² - 2 â·b̂; a place where all channels are 0 has length 0, not 1
        each = [
            (a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * a @ b.T).clamp_min(0)
            for a, b in zip(mine, theirs, strict=True)
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
        y = y.float().cpu()
        unit = y / y.square().sum(1, keepdim=True).sqrt().clamp_min(1e-10)
        codes.append(unit.flatten(1) / (y.shape[2] * y.shape[3]) ** 0.5)
    return codes


def nearest_neighbours(distances: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest of each row of [N, M]: their distances [N, k] and indices [N, k], nearest first, the earlier one first
    where two are equally near; k is at most M."""
    found = torch.sort(distances, dim=1, stable=True)
    k = min(k, distances.shape[1])
    return found.values[:, :k], found.indices[:, :k]
