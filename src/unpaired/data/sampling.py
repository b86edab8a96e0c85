"""Training batches as a pure function of (seed, step): the order of images, the crops and the mirroring.

Nothing here remembers what it did before, so a run can be cut anywhere, resumed with another number of loader workers,
or split over ranks, and sees the same pixels. Every random number comes from a counter-based generator whose key names
what it is for (`_generator`).

Legend: N batch, H height, W width, S side of the crop, n images of a domain.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import NoReturn, Protocol, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset, get_worker_info

from unpaired.batch import AllPairs, Batch, Pair, Side
from unpaired.config import DataConfig
from unpaired.data import cache
from unpaired.data.folders import MAX_BAD_SHARE, DataTree, find
from unpaired.data.images import Pixels, load_resized, normalise, resize, short_side, show
from unpaired.errors import DataError, ImageError

log = logging.getLogger("unpaired")
MAX_LOST_SHARE = 0.01
"""Share of files that may become unusable while training runs; one file always may."""


@runtime_checkable
class Pool(Protocol):
    """Images by domain and index."""

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty when nothing is labelled."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what the pool holds, the same on every machine."""

    def count(self, domain: str) -> int:
        """Number of images of a domain."""

    def image(self, domain: str, index: int) -> Pixels:
        """uint8 [H, W, 3], of any size. Raises ImageError for a file that has become unusable."""

    def label(self, domain: str, index: int) -> int:
        """Index into ``classes``, or -1 for an image without a label."""


class ArrayPool:
    """A pool in memory: one uint8 array [n, H, W, 3] for each domain."""

    def __init__(
        self,
        images: Mapping[str, Pixels],
        labels: Mapping[str, NDArray[np.int64]] | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        self.images, self.labels = dict(images), dict(labels or {})
        self.domains, self.classes = tuple(self.images), tuple(classes)
        for domain, array in self.images.items():
            if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
                found = f"{array.dtype} {list(array.shape)}"
                raise DataError(f"domain {domain}: {found}; expected uint8 [n, height, width, 3]")
        for domain, values in self.labels.items():
            if len(values) != self.count(domain):
                raise DataError(f"domain {domain}: {len(values)} labels for {self.count(domain)} images")
            if len(values) and (values.min() < -1 or values.max() >= len(self.classes)):
                span, wanted = f"{values.min()} to {values.max()}", f"-1 to {len(self.classes) - 1}"
                raise DataError(f"domain {domain}: labels {span}; expected {wanted}, one per class")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the names, shapes, pixels and labels."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for domain, array in self.images.items():
            labels = self.labels.get(domain)
            digest.update(repr((domain, array.shape, labels is not None)).encode())
            digest.update(np.ascontiguousarray(array).data)
            if labels is not None:
                digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
        return digest.hexdigest()

    def count(self, domain: str) -> int:
        return len(self.images[domain])

    def image(self, domain: str, index: int) -> Pixels:
        image: Pixels = self.images[domain][index]
        return image

    def label(self, domain: str, index: int) -> int:
        return int(self.labels[domain][index]) if domain in self.labels else -1


class FolderPool:
    """Images of one split of a data folder, resized to ``short_side(config)``; from the cache where there is one."""

    classes: tuple[str, ...] = ()

    def __init__(self, tree: DataTree, config: DataConfig, split: str, store: cache.Store | None) -> None:
        self.domains = tree.domains
        self.tree, self.config, self.split, self.store = tree, config, split, store
        self.bad = store.bad if store is not None else ()
        """(name, reason) of the files that the cache's builder found unusable; they are not in the pool."""
        every = {d: np.arange(len(tree.files[split, d])) for d in self.domains}
        self._usable = every if store is None else {d: store.usable(d) for d in self.domains}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over (domain, split, relative name, SHA-256 of the file's bytes) of every listed file."""
        return self.tree.fingerprint(self.split)

    def count(self, domain: str) -> int:
        return len(self._usable[domain])

    def image(self, domain: str, index: int) -> Pixels:
        """uint8 [H, W, 3] with min(H, W) = ``short_side(config)``. Raises ImageError when the file cannot be read."""
        position = int(self._usable[domain][index])
        if self.store is not None:
            return self.store.image(domain, position)
        return load_resized(self.tree.files[self.split, domain][position], self.config)

    def name(self, domain: str, index: int) -> str:
        """The file's name relative to the data folder."""
        return self.tree.name(self.tree.files[self.split, domain][int(self._usable[domain][index])])

    def label(self, domain: str, index: int) -> int:
        return -1


def open_pool(tree_or_path: DataTree | str | os.PathLike[str], config: DataConfig, split: str = "train") -> FolderPool:
    """The images of one split ("train" or "test") of a data folder, through the cache when ``config`` wants it.

    Raises:
        DataError: the layout, a domain without (usable) images, or more than 5 % of the files unusable.
    """
    tree = tree_or_path if isinstance(tree_or_path, DataTree) else find(tree_or_path)
    if split not in ("train", "test"):
        raise DataError(f"unknown split '{split}'; there are train and test")
    empty = [d for d in tree.domains if not tree.files[split, d]]
    if empty:
        advice = "; --split train takes the training images" if split == "test" else ""
        what = f"no {split} images of {', '.join(empty)}"
        raise DataError(f"{show(tree.root)}: {what}; `unpaired check` shows what is there{advice}")
    pool = FolderPool(tree, config, split, cache.open_store(tree, split, config) if config.cache else None)
    total = sum(len(tree.files[split, d]) for d in tree.domains)
    if len(pool.bad) > MAX_BAD_SHARE * total:
        name, reason = pool.bad[0]
        what = f"{len(pool.bad)} of {total} {split} files are unusable (more than {MAX_BAD_SHARE:.0%})"
        raise DataError(f"{show(tree.root)}: {what}, the first: {name}: {reason}; `unpaired check` lists them all")
    for name, reason in pool.bad:
        log.warning("%s: %s; left out", name, reason)
    empty = [d for d in tree.domains if not pool.count(d)]
    if empty:
        raise DataError(f"{show(tree.root)}: no usable {split} image of {', '.join(empty)}; see `unpaired check`")
    return pool


class PartPool:
    """Some of the images of another pool."""

    def __init__(self, pool: Pool, indices: Mapping[str, Sequence[int]]) -> None:
        self.pool = pool
        self.indices = {d: tuple(int(i) for i in chosen) for d, chosen in indices.items()}
        self.domains, self.classes = pool.domains, pool.classes

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the whole pool's fingerprint and which images of it these are."""
        return hashlib.sha256(repr((self.pool.fingerprint, sorted(self.indices.items()))).encode()).hexdigest()

    def count(self, domain: str) -> int:
        return len(self.indices[domain])

    def image(self, domain: str, index: int) -> Pixels:
        return self.pool.image(domain, self.indices[domain][index])

    def label(self, domain: str, index: int) -> int:
        return self.pool.label(domain, self.indices[domain][index])


def hold_out(pool: Pool, share: float, most: int) -> tuple[PartPool, PartPool]:
    """(the others, the held out): of each domain ``share`` of the images, at most ``most`` and at least 2, drawn at
    random by the domain's name alone.

    Raises DataError for a domain with fewer than 4 images.
    """
    kept, held = {}, {}
    for domain in pool.domains:
        n = pool.count(domain)
        if n < 4:
            raise DataError(f"{domain}: {n} training images are too few to hold some out; leave out --during-training")
        take = max(2, min(most, round(share * n)))
        order = _generator("validation", domain, n).permutation(n)
        held[domain], kept[domain] = sorted(order[:take]), sorted(order[take:])
    return PartPool(pool, kept), PartPool(pool, held)


def _generator(*key: object) -> np.random.Generator:
    """A generator that depends on the key alone: Philox, a counter-based generator, keyed by a digest of the parts."""
    digest = hashlib.blake2b(repr(key).encode("utf-8", "surrogateescape"), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


class Sampler:
    """Batches by step.

    Each domain is visited without replacement, epoch after epoch; the permutation follows from (seed, role, domain,
    epoch), where the role is source or target. Crop and mirroring follow from (seed, step, position in the batch). With
    several pairs, every run of ``len(pairs)`` samples uses each pair once, in an order that follows from (seed, run);
    with all pairs of n domains, each domain is also once a source and once a target in every n samples.

    Args:
        pool: the images. Each is resized to ``short_side(config)`` unless it has that size already.
        config: side of the crop, resize filter, mirroring.
        pairs: (source, target) domains to draw from, as ``Method.pairs``.
        seed: with the step, decides everything.
        domains: order that ``Batch.source_domain`` indexes; the pool's by default.
        reads: sides of a batch whose images are wanted, as ``Method.reads``; the others stay unopened. What is drawn
            for one side does not depend on the other.
    """

    def __init__(
        self,
        pool: Pool,
        config: DataConfig,
        pairs: Sequence[Pair],
        seed: int,
        domains: Sequence[str] | None = None,
        reads: Sequence[Side] = ("source", "target"),
    ) -> None:
        self.pool, self.config, self.seed, self.reads = pool, config, seed, tuple(reads)
        self.pairs = pairs if isinstance(pairs, AllPairs) else tuple(pairs)
        self.domains = tuple(domains or pool.domains)
        named = {*self.pairs.domains} if isinstance(self.pairs, AllPairs) else {d for pair in self.pairs for d in pair}
        if not self.pairs or not named <= set(pool.domains):
            raise DataError(f"pairs {self.pairs}: the data has the domains {', '.join(pool.domains)}")
        empty = sorted(d for d in named if pool.count(d) == 0)
        if empty:
            raise DataError(f"no images of {', '.join(empty)}")
        self.lost: dict[tuple[str, int], str] = {}
        """(domain, index) -> reason, for images that have become unusable; others of their domain took their place."""
        self._total = sum(pool.count(d) for d in pool.domains)
        self._permutations: dict[tuple[str, str], tuple[int, NDArray[np.int64]]] = {}
        self._run: tuple[int, list[tuple[Pair, tuple[int, int]]]] = (-1, [])

    def batch(self, step: int, batch_size: int, part: int = 0, of: int = 1) -> Batch:
        """The batch of ``step``; with ``of`` > 1 only slice number ``part``, equal to ``.part(part, of)`` of the whole.

        Raises:
            DataError: more than 1 % of the images have become unusable.
        """
        rows = np.array_split(np.arange(batch_size), of)[part]  # the same cut as Tensor.tensor_split
        drawn = {role: self._numbers("crop", role, step, batch_size) for role in ("source", "target")}
        side = self.config.size
        sides = {role: side if role in self.reads else 0 for role in drawn}
        values = {role: np.empty((len(rows), 3, side, side), np.float32) for role, side in sides.items()}
        domain = {role: np.empty(len(rows), np.int64) for role in drawn}
        label = np.empty(len(rows), np.int64)
        for n, row in enumerate(rows):
            position = step * batch_size + int(row)
            pair, visits = self._pair(position)
            for role, name, visit in zip(drawn, pair, visits, strict=True):
                domain[role][n] = self.domains.index(name)
                if role not in self.reads:
                    continue
                index, image = self._load(name, self._index(role, name, visit))
                crop, mirror = self._crop(image, *drawn[role][row])
                normalise(crop, values[role][n], mirror=mirror)
                if role == "source":
                    label[n] = self.pool.label(name, index)
        return Batch(
            source=torch.from_numpy(values["source"]),
            source_domain=torch.from_numpy(domain["source"]),
            target=torch.from_numpy(values["target"]),
            target_domain=torch.from_numpy(domain["target"]),
            source_label=torch.from_numpy(label) if self.pool.classes and "source" in self.reads else None,
        )

    def _numbers(self, purpose: str, role: str, step: int, count: int) -> NDArray[np.float64]:
        """[count, 3] in [0, 1): row i depends on (seed, step, i) alone, whatever the count."""
        return _generator(self.seed, purpose, role, step).random((count, 3))

    def _pair(self, position: int) -> tuple[Pair, tuple[int, int]]:
        """(pair, (visits of its source as source, of its target as target) before this position)."""
        if len(self.pairs) == 1:
            return self.pairs[0], (position, position)
        pairs = self.pairs
        run, place = divmod(position, len(pairs.domains) if isinstance(pairs, AllPairs) else len(pairs))
        if self._run[0] != run:
            self._run = (run, self._turn(run, pairs) if isinstance(pairs, AllPairs) else self._listed(run))
        return self._run[1][place]

    def _listed(self, run: int) -> list[tuple[Pair, tuple[int, int]]]:
        """Each pair of the list once."""
        per_run = (Counter(p[0] for p in self.pairs), Counter(p[1] for p in self.pairs))
        seen = tuple({d: run * n for d, n in counts.items()} for counts in per_run)
        plan = []
        for index in _generator(self.seed, "pairs", run).permutation(len(self.pairs)).tolist():
            source, target = self.pairs[index]
            plan.append(((source, target), (seen[0][source], seen[1][target])))
            seen[0][source] += 1
            seen[1][target] += 1
        return plan

    def _turn(self, run: int, pairs: AllPairs) -> list[tuple[Pair, tuple[int, int]]]:
        """Each domain with the one ``shift`` places on: n - 1 shifts make all pairs, and no list of n² of them is
        held."""
        domains = pairs.domains
        n = len(domains)
        block, nth = divmod(run, n - 1)
        shift = 1 + int(_generator(self.seed, "shift", block).permutation(n - 1)[nth])
        order = _generator(self.seed, "pairs", run).permutation(n).tolist()
        return [((domains[i], domains[(i + shift) % n]), (run, run)) for i in order]

    def _index(self, role: str, domain: str, visit: int) -> int:
        epoch, place = divmod(visit, self.pool.count(domain))
        known = self._permutations.get((role, domain))
        if known is None or known[0] != epoch:
            order = _generator(self.seed, "order", role, domain, epoch).permutation(self.pool.count(domain))
            known = self._permutations[role, domain] = (epoch, order)
        return int(known[1][place])

    def _load(self, domain: str, index: int) -> tuple[int, Pixels]:
        """The image, or the next one of its domain that can be read when its file has vanished or is damaged."""
        count = self.pool.count(domain)
        for candidate in chain(range(index, count), range(index)):
            if (domain, candidate) in self.lost:
                continue
            try:
                return candidate, self.pool.image(domain, candidate)
            except ImageError as error:
                self.lost[domain, candidate] = error.reason
                log.warning("%s; another image of %s takes its place", error, domain)
                if len(self.lost) > max(1, MAX_LOST_SHARE * self._total):
                    raise DataError(
                        f"{len(self.lost)} of {self._total} images became unusable while training, the last: {error}; "
                        "restore the files and start the same command again"
                    ) from error
        raise DataError(f"every image of {domain} has become unusable; restore the files and start again")

    def _crop(self, image: Pixels, down: float, right: float, mirror: float) -> tuple[Pixels, bool]:
        """A uniformly placed crop, uint8 [S, S, 3], and whether to mirror it: for half of the numbers."""
        image = fit(image, self.config)
        size = self.config.size
        top = int(down * (image.shape[0] - size + 1))
        left = int(right * (image.shape[1] - size + 1))
        crop = image[top : top + size, left : left + size]
        return crop, bool(self.config.mirror and mirror < 0.5)


def fit(image: Pixels, config: DataConfig) -> Pixels:
    """uint8 [H, W, 3] with min(H, W) = ``short_side(config)``; the same array when it has that size."""
    side = short_side(config)
    if min(image.shape[:2]) == side:
        return image
    return np.asarray(resize(Image.fromarray(image), side, config))


def centre_crops(pool: Pool, domain: str, indices: Sequence[int], config: DataConfig) -> Pixels:
    """uint8 [len(indices), S, S, 3]: the middle of each image after the resize; for fixed samples and evaluation."""
    size = config.size
    crops = np.empty((len(indices), size, size, 3), np.uint8)
    for n, index in enumerate(indices):
        image = fit(pool.image(domain, index), config)
        top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
        crops[n] = image[top : top + size, left : left + size]
    return crops


class StepDataset(Dataset[Batch]):
    """Item number ``step`` is the batch of that step, for a DataLoader with ``batch_size=None`` and 0 or more workers.

    Args:
        sampler: where the batches come from.
        batch_size_of: batch size at a step (stages may differ).
        part, of: which slice of each batch, for ranks.

    In a worker, an item that could not be drawn is a `Failure`, which raises the DataError at its first use.
    """

    def __init__(self, sampler: Sampler, batch_size_of: Callable[[int], int], part: int = 0, of: int = 1) -> None:
        self.sampler, self.batch_size_of, self.part, self.of = sampler, batch_size_of, part, of

    def __getitem__(self, step: int) -> Batch:
        try:
            return self.sampler.batch(step, self.batch_size_of(step), self.part, self.of)
        except DataError as error:
            if get_worker_info() is None:
                raise
            return cast(Batch, Failure(error))


@dataclass(frozen=True)
class Failure:
    """Stands for a batch that a loader worker could not draw; using it raises the error as it was.

    An exception that leaves a worker reaches the user as a traceback inside another exception's text.
    """

    error: DataError

    def to(self, *_: object, **__: object) -> Batch:
        """Raise the error."""
        raise self.error

    def pin_memory(self) -> Failure:
        """Itself: DataLoader's pinning thread must not fail."""
        return self

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # pickle and copy ask for these
            raise AttributeError(name)
        raise self.error
