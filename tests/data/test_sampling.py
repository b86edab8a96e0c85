"""Batches are a function of (seed, step); the cache changes speed, not pixels."""

from __future__ import annotations

import logging
import os
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from image_zoo import encoded, picture, snapshot, write_tree
from torch.utils.data import DataLoader

from unpaired.batch import AllPairs, Batch
from unpaired.config import DataConfig
from unpaired.data import cache
from unpaired.data.check import check
from unpaired.data.folders import find
from unpaired.data.sampling import ArrayPool, FolderPool, Sampler, StepDataset, centre_crops, open_pool
from unpaired.errors import DataError

CONFIG = DataConfig(size=16, resize=20)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNPAIRED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def numbered(counts: dict[str, int], side: int = 16) -> ArrayPool:
    """Image i of a domain is filled with the level i; labels are i modulo 3."""
    images = {
        d: np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, side, side, 3))
        for d, n in counts.items()
    }
    return ArrayPool(images, {d: np.arange(n) % 3 for d, n in counts.items()}, ("x", "y", "z"))


def levels(images: torch.Tensor) -> list[int]:
    return [round(float(v + 1) * 127.5) for v in images[:, 0, 0, 0]]


def same(a: Batch, b: Batch) -> bool:
    return all(
        torch.equal(getattr(a, n), getattr(b, n)) for n in ("source", "target", "source_domain", "target_domain")
    )


def test_each_epoch_visits_every_image_once() -> None:
    """Without replacement, epoch after epoch, and each epoch in another order; also across batch borders."""
    sampler = Sampler(numbered({"a": 10, "b": 7}), DataConfig(size=16), [("a", "b")], seed=3)
    batches = [sampler.batch(step, 4) for step in range(35)]
    source = [v for b in batches for v in levels(b.source)]
    target = [v for b in batches for v in levels(b.target)]
    for stream, count in ((source, 10), (target, 7)):
        epochs = [stream[i : i + count] for i in range(0, len(stream), count)]
        assert all(sorted(e) == list(range(count)) for e in epochs)
        assert len({tuple(e) for e in epochs}) > 5
    assert all(b.source_domain.tolist() == [0] * 4 and b.target_domain.tolist() == [1] * 4 for b in batches)


def test_several_pairs_are_used_equally_and_still_without_replacement() -> None:
    """With all six directions of three domains, each pair comes once in every six samples, and epochs stay complete."""
    pairs = [(a, b) for a in "abc" for b in "abc" if a != b]
    sampler = Sampler(numbered({"a": 5, "b": 4, "c": 6}), DataConfig(size=16), pairs, seed=0)
    drawn = []
    streams: dict[tuple[str, int], list[int]] = {}
    for step in range(60):
        batch = sampler.batch(step, 4)
        for role, domains, images in ((0, batch.source_domain, batch.source), (1, batch.target_domain, batch.target)):
            for d, level in zip(domains.tolist(), levels(images), strict=True):
                streams.setdefault(("abc"[d], role), []).append(level)
        drawn += list(zip(batch.source_domain.tolist(), batch.target_domain.tolist(), strict=True))
    assert all(len(set(drawn[i : i + 6])) == 6 for i in range(0, len(drawn), 6))
    for (domain, _), stream in streams.items():
        n = {"a": 5, "b": 4, "c": 6}[domain]
        assert all(sorted(stream[i : i + n]) == list(range(n)) for i in range(0, len(stream) - n + 1, n))


def test_all_pairs_of_many_domains_take_turns_without_a_list_of_them() -> None:
    """In every n samples each of n domains is once a source and once a target; all n (n - 1) pairs come once in as many
    samples, and epochs stay complete."""
    domains = tuple("abcde")
    assert AllPairs(domains) == tuple((a, b) for a in domains for b in domains if a != b)
    assert [AllPairs(domains)[i] for i in range(20)] == list(AllPairs(domains)) and AllPairs(domains)[-1] == ("e", "d")
    assert (
        ("a", "e") in AllPairs(domains) and ("a", "a") not in AllPairs(domains) and ("a", "f") not in AllPairs(domains)
    )
    sampler = Sampler(numbered(dict.fromkeys(domains, 3)), DataConfig(size=16), AllPairs(domains), seed=0)
    drawn, seen = [], []
    for step in range(30):
        batch = sampler.batch(step, 4)
        drawn += list(zip(batch.source_domain.tolist(), batch.target_domain.tolist(), strict=True))
        seen += list(zip(batch.source_domain.tolist(), levels(batch.source), strict=True))
    assert all({p[role] for p in drawn[i : i + 5]} == set(range(5)) for i in range(0, 120, 5) for role in (0, 1))
    assert all(len(set(drawn[i : i + 20])) == 20 for i in range(0, 120, 20))
    for d in range(5):
        own = [level for domain, level in seen if domain == d]
        assert all(sorted(own[i : i + 3]) == [0, 1, 2] for i in range(0, len(own), 3))


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    """A fresh sampler asked for steps in any order gives the same batches; another seed gives others."""
    images = {d: np.random.default_rng(i).integers(0, 256, (9, 24, 30, 3), dtype=np.uint8) for i, d in enumerate("ab")}
    config, pairs = DataConfig(size=16, resize=20), [("a", "b"), ("b", "a")]
    first = Sampler(ArrayPool(images), config, pairs, seed=5)
    forward = [first.batch(step, 6) for step in range(12)]
    second = Sampler(ArrayPool(images), config, pairs, seed=5)
    for step in (11, 0, 7, 3):
        assert same(second.batch(step, 6), forward[step])
    assert not same(Sampler(ArrayPool(images), config, pairs, seed=6).batch(0, 6), forward[0])
    assert not same(forward[0], forward[1])


@pytest.mark.parametrize("of", [2, 3])
def test_ranks_get_slices_of_the_same_batch(of: int) -> None:
    """The parts that ranks draw are the parts of the whole batch, uneven sizes included."""
    sampler = Sampler(numbered({"a": 10, "b": 7}), DataConfig(size=16), [("a", "b")], seed=3)
    whole = sampler.batch(4, 8)
    for part in range(of):
        assert same(sampler.batch(4, 8, part, of), whole.part(part, of))


@pytest.mark.parametrize("cached", [True, False])
def test_the_number_of_workers_does_not_matter(tmp_path: Path, cached: bool) -> None:
    """0, 1 and 2 loader workers give the same batches, with and without the cache."""
    pool = open_pool(write_tree(tmp_path / "d", {"a": 12, "b": 9}), CONFIG.model_copy(update={"cache": cached}))
    found = []
    for workers in (0, 1, 2):
        dataset = StepDataset(Sampler(pool, CONFIG, [("a", "b")], seed=1), lambda step: 3 if step < 4 else 5)
        loader = DataLoader(dataset, batch_size=None, sampler=range(1, 8), num_workers=workers)
        found.append(list(loader))
    assert [len(b) for b in found[0]] == [3, 3, 3, 5, 5, 5, 5]
    for other in found[1:]:
        assert all(same(a, b) for a, b in zip(found[0], other, strict=True))


def test_crops_stay_inside_and_mirror_half(tmp_path: Path) -> None:
    """Crops reach every offset, never leave the image, and about half are mirrored; mirror = false mirrors none."""
    ramp = np.zeros((1, 20, 24, 3), np.uint8)
    ramp[0, :, :, 0], ramp[0, :, :, 1] = np.arange(24), np.arange(20)[:, None]
    pool = ArrayPool({"a": ramp, "b": ramp})
    for mirror in (True, False):
        sampler = Sampler(pool, DataConfig(size=16, resize=20, mirror=mirror), [("a", "b")], seed=0)
        seen, flipped = Counter(), 0
        for step in range(25):
            batch = ((sampler.batch(step, 16).source + 1) * 127.5).round().int()
            for image in batch:
                columns, rows = image[0, 0].tolist(), image[1, :, 0].tolist()
                flipped += columns[0] > columns[-1]
                seen[min(columns), min(rows)] += 1
                assert sorted(columns) == list(range(min(columns), min(columns) + 16))
        assert set(seen) == {(x, y) for x in range(9) for y in range(5)}
        assert 140 < flipped < 260 if mirror else flipped == 0


def test_source_labels_are_given_where_there_are_classes() -> None:
    """A labelled pool fills source_label with the class of each source image; an unlabelled pool leaves it out."""
    pool = numbered({"a": 9, "b": 5})
    batch = Sampler(pool, DataConfig(size=16), [("a", "b")], seed=0).batch(0, 6)
    assert batch.source_label is not None
    assert batch.source_label.tolist() == [v % 3 for v in levels(batch.source)]
    plain = Sampler(ArrayPool(pool.images), DataConfig(size=16), [("a", "b")], seed=0).batch(0, 6)
    assert plain.source_label is None


def test_small_images_are_enlarged_and_exact_ones_are_kept() -> None:
    """An image smaller than the crop is enlarged to it; one of exactly its size is used as it is."""
    exact = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    pool = ArrayPool({"a": exact, "b": exact[:, :8, :10]})
    config = DataConfig(size=16, mirror=False)
    batch = Sampler(pool, config, [("a", "b")], seed=0).batch(0, 1)
    assert np.array_equal(((batch.source[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy(), exact[0])
    assert batch.target.shape == (1, 3, 16, 16)
    assert np.array_equal(centre_crops(pool, "a", [0], config)[0], exact[0])
    assert centre_crops(pool, "b", [0, 0], config).shape == (2, 16, 16, 3)


def test_pools_that_cannot_be_sampled_are_refused() -> None:
    """Unknown domains, an empty domain, wrong arrays and wrong labels are refused with what is there."""
    pool = numbered({"a": 3, "b": 0})
    with pytest.raises(DataError, match="the data has the domains a, b"):
        Sampler(pool, CONFIG, [("a", "c")], seed=0)
    with pytest.raises(DataError, match="no images of b"):
        Sampler(pool, CONFIG, [("a", "b")], seed=0)
    with pytest.raises(DataError, match="expected uint8"):
        ArrayPool({"a": np.zeros((2, 8, 8), np.uint8)})
    with pytest.raises(DataError, match="1 labels for 2 images"):
        ArrayPool({"a": np.zeros((2, 8, 8, 3), np.uint8)}, {"a": np.zeros(1, np.int64)}, ("x",))
    with pytest.raises(DataError, match="labels 0 to 4; expected -1 to 0"):
        ArrayPool({"a": np.zeros((2, 8, 8, 3), np.uint8)}, {"a": np.array([0, 4])}, ("x",))


# ---- the cache -------------------------------------------------------------------------------------------------------


def mixed(root: Path) -> Path:
    """Two domains of images of several shapes and kinds."""
    write_tree(root, {"train/a": 4, "train/b": 3, "test/a": 2, "test/b": 2})
    (root / "train/a/wide.jpg").write_bytes(encoded(picture(50, 200, 60), "JPEG"))
    (root / "train/b/tall.png").write_bytes(encoded(picture(51, 30, 90)))
    (root / "train/b/tiny.png").write_bytes(encoded(picture(52, 9, 9)))
    return root


def test_the_cache_changes_nothing_but_speed(tmp_path: Path, own_cache: Path) -> None:
    """Pixels and fingerprint are the same with and without the cache; the data folder is not touched."""
    root = mixed(tmp_path / "d")
    before = snapshot(root)
    plain = open_pool(root, CONFIG.model_copy(update={"cache": False}))
    first, again = open_pool(root, CONFIG), open_pool(root, CONFIG)
    assert (plain.store, first.store is None) == (None, False)
    assert first.fingerprint == again.fingerprint == plain.fingerprint
    for domain in "ab":
        for index in range(first.count(domain)):
            image = first.image(domain, index)
            assert min(image.shape[:2]) == 20
            assert np.array_equal(image, plain.image(domain, index))
            assert np.array_equal(image, again.image(domain, index))
    assert snapshot(root) == before
    assert len(list(own_cache.glob("*.images"))) == 1
    assert not list(own_cache.glob(".*")), "no half-written file is left"


def test_what_a_killed_build_left_is_removed_and_a_living_one_is_not(tmp_path: Path, own_cache: Path) -> None:
    """Half-written caches may be as large as whole ones; the next build frees their room, of those that nobody writes
    to."""
    own_cache.mkdir()
    for name in (".building-dead", ".building-alive"):
        (own_cache / name).write_bytes(b"half")
    os.utime(own_cache / ".building-dead", (1, 1))
    open_pool(mixed(tmp_path / "d"), CONFIG)
    assert [p.name for p in own_cache.glob(".*")] == [".building-alive"]


def test_what_is_kept_is_found_by_content(tmp_path: Path, own_cache: Path) -> None:
    """Files of the same names, sizes and times, in another folder or in the same one, are other data: their own pixels,
    their own fingerprint, their own findings. A copy elsewhere shares the cache."""
    roots = [tmp_path / n for n in ("v1", "v2", "copy")]
    for root, seed in zip(roots, (0, 500, 0), strict=True):
        for n, domain in enumerate("aabb"):
            (root / domain).mkdir(parents=True, exist_ok=True)
            (root / domain / f"{n}.bmp").write_bytes(encoded(picture(seed + n), "BMP"))
            os.utime(root / domain / f"{n}.bmp", (1, 1))
    one, two, copy = (open_pool(root, CONFIG) for root in roots)
    assert one.fingerprint == copy.fingerprint != two.fingerprint
    assert one.store.path == copy.store.path  # type: ignore[union-attr]
    assert not np.array_equal(one.image("a", 0), two.image("a", 0))
    assert check(roots[0]).ok
    path = roots[0] / "a" / "0.bmp"
    path.write_bytes(bytes(path.stat().st_size))
    os.utime(path, (1, 1))
    assert [f.name for f in check(roots[0]).bad] == ["a/0.bmp"]
    assert open_pool(roots[1], CONFIG).store.path == two.store.path  # type: ignore[union-attr]


@pytest.mark.parametrize("harm", ["cut", "grown", "list", "no list", "empty"])
def test_a_damaged_cache_is_noticed_and_built_again(
    tmp_path: Path, own_cache: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A cache that was cut, has grown, or whose list of images was altered is built again, with a warning."""
    root = mixed(tmp_path / "d")
    good = open_pool(root, CONFIG).image("a", 1).copy()
    (path,) = own_cache.glob("*.images")
    content, listed = path.read_bytes(), path.with_suffix(".json").read_bytes()
    changed = {"cut": content[:-100], "grown": content + b"x", "empty": b""}.get(harm, content)
    path.unlink()
    path.write_bytes(changed)
    path.with_suffix(".json").write_bytes({"list": listed[:-9] + b"?" + listed[-8:], "no list": b""}.get(harm, listed))
    with caplog.at_level(logging.WARNING, logger="unpaired"):
        assert np.array_equal(open_pool(root, CONFIG).image("a", 1), good)
    assert "damaged" in caplog.text
    assert (path.read_bytes(), path.with_suffix(".json").read_bytes()) == (content, listed), (
        "the same cache is written again, byte for byte"
    )


def test_the_cache_does_not_fail_the_run(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the cache folder cannot be made, and where the images would be larger than cache_gib, they are decoded
    when used."""
    with caplog.at_level(logging.INFO, logger="unpaired"):
        assert open_pool(mixed(tmp_path / "d"), CONFIG.model_copy(update={"cache_gib": 1e-6})).store is None
    assert "more than data.cache_gib=1e-06" in caplog.text and not list(own_cache.glob("*.images"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNPAIRED_CACHE", str(tmp_path / "file" / "cache"))
    pool = open_pool(mixed(tmp_path / "d"), CONFIG)
    assert pool.store is None
    assert pool.image("a", 0).shape[2] == 3
    assert len(pool.fingerprint) == 64


def test_the_place_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """$UNPAIRED_CACHE, else $XDG_CACHE_HOME/unpaired, else ~/.cache/unpaired, else the system's temporary folder."""
    monkeypatch.setenv("UNPAIRED_CACHE", "/x/y")
    assert cache.home() == Path("/x/y")
    monkeypatch.delenv("UNPAIRED_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/z")
    assert cache.home() == Path("/z/unpaired")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.home() == Path.home() / ".cache" / "unpaired"
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home directory")))
    assert cache.home().parent == Path(tempfile.gettempdir()), "a user without a home, as in containers"


def test_the_fingerprint_is_of_content_and_names(tmp_path: Path) -> None:
    """It does not depend on place or modification time, and changes with a name, a byte, a split or a domain."""
    config = CONFIG.model_copy(update={"cache": False})
    first = open_pool(write_tree(tmp_path / "one", {"train/a": 3, "train/b": 3}), config).fingerprint
    copy = write_tree(tmp_path / "two", {"train/a": 3, "train/b": 3})
    os.utime(copy / "train/a/0.png", (1, 1))
    assert open_pool(copy, config).fingerprint == first
    (copy / "train/a/0.png").rename(copy / "train/a/00.png")
    assert open_pool(copy, config).fingerprint != first
    (copy / "train/a/00.png").rename(copy / "train/a/0.png")
    assert open_pool(copy, config).fingerprint == first
    with (copy / "train/a/0.png").open("ab") as file:
        file.write(b"\0")
    assert open_pool(copy, config).fingerprint != first
    labelled = numbered({"a": 3})
    assert labelled.fingerprint == numbered({"a": 3}).fingerprint != numbered({"a": 4}).fingerprint
    assert ArrayPool(labelled.images).fingerprint != labelled.fingerprint


# ---- bad files -------------------------------------------------------------------------------------------------------


def test_few_bad_files_are_left_out_and_many_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Up to 5 % unusable files are left out with a warning each;
    above it, and for an empty domain, the pool is refused."""
    root = write_tree(tmp_path / "d", {"train/a": 20, "train/b": 20}, width=10, height=10)
    (root / "train/a/bad1.png").write_bytes(b"not an image")
    with caplog.at_level(logging.WARNING, logger="unpaired"):
        pool = open_pool(root, CONFIG)
    assert (pool.count("a"), pool.count("b")) == (20, 20)
    assert "train/a/bad1.png" in caplog.text
    for n in range(2, 4):
        (root / f"train/a/bad{n}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"3 of 43 train files are unusable \(more than 5%\)"):
        open_pool(root, CONFIG)
    (root / "train" / "c").mkdir()
    with pytest.raises(DataError, match="no train images of c"):
        open_pool(root, CONFIG)


def test_a_file_that_vanishes_is_replaced_the_same_way_each_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A lost file is replaced by the next of its domain, warned about once, and more than 1 % (and one) stop the
    run."""
    root = write_tree(tmp_path / "d", {"train/a": 8, "train/b": 8}, width=16, height=16)
    tree = find(root)
    config = DataConfig(size=16, cache=False)
    pool = FolderPool(tree, config, "train", None)
    whole = Sampler(pool, config, [("a", "b")], seed=0)
    before = [whole.batch(step, 4) for step in range(4)]
    (root / "train/a/3.png").unlink()
    samplers = [Sampler(pool, config, [("a", "b")], seed=0) for _ in range(2)]
    with caplog.at_level(logging.WARNING, logger="unpaired"):
        after = [samplers[0].batch(step, 4) for step in range(4)]
    assert len(caplog.records) == 1
    assert "3.png" in caplog.text
    assert all(same(samplers[1].batch(step, 4), after[step]) for step in (3, 1, 0, 2))
    changed = sum(
        not torch.equal(a, b)
        for x, y in zip(before, after, strict=True)
        for a, b in zip(x.source, y.source, strict=True)
    )
    assert changed == 2, "image 3 comes once in each of two epochs"
    assert samplers[0].lost == {("a", 3): "cannot be read: No such file or directory"}
    (root / "train/a/5.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match="2 of 16 images became unusable while training"):
        for step in range(4):
            samplers[0].batch(step, 4)


def test_an_error_in_a_worker_arrives_as_it_was(tmp_path: Path) -> None:
    """A DataError raised in a loader worker reaches the loop with its own one-line text, at the batch that failed."""
    root = write_tree(tmp_path / "d", {"train/a": 8, "train/b": 8}, width=16, height=16)
    config = DataConfig(size=16, cache=False)
    dataset = StepDataset(
        Sampler(FolderPool(find(root), config, "train", None), config, [("a", "b")], 0), lambda step: 8
    )
    for n in range(3):
        (root / f"train/a/{n}.png").unlink()
    (failed,) = DataLoader(dataset, batch_size=None, sampler=[0], num_workers=1)
    for use in (lambda: failed.to("cpu"), lambda: failed.source, lambda: failed.part(0, 2)):
        with pytest.raises(DataError, match=r"^2 of 16 images became unusable while training"):
            use()
    with pytest.raises(DataError, match=r"^2 of 16 images"):
        dataset[0]
