"""Layouts: what is recognised, what is refused, and that neither depends on the file system's order."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from image_zoo import encoded, picture, write_tree

from unpaired.config import DataConfig
from unpaired.data.folders import TEST_SHARE, find, find_labelled, hashed_split
from unpaired.data.labelled import open_labelled, open_to_test, open_unlabelled
from unpaired.errors import DataError

SMALL = encoded(picture(width=8, height=8))


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(SMALL)
    return root


def names(root: Path, split: str, domain: str) -> list[str]:
    tree = find(root)
    return [tree.name(p) for p in tree.files[split, domain]]


@pytest.mark.parametrize("test", ["test", "val", "Test", "validation", "testing", "val2017"])
def test_split_layout(tmp_path: Path, test: str) -> None:
    """DATA/train/<domain> and DATA/test/<domain> (or val) are read as they say; any number of domains, any depth."""
    touch(tmp_path, "train/cat/1.png", "train/cat/deep/er/2.JPG", "train/dog/1.JpEg", "train/fox/1.webp")
    touch(tmp_path, f"{test}/cat/3.png")
    tree = find(tmp_path)
    assert (tree.layout, tree.domains) == ("split", ("cat", "dog", "fox"))
    assert names(tmp_path, "train", "cat") == ["train/cat/1.png", "train/cat/deep/er/2.JPG"]
    assert names(tmp_path, "test", "cat") == [f"{test}/cat/3.png"]
    assert tree.files["test", "dog"] == ()


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "Testing"), ("train2017", "val2017")])
def test_splits_may_lie_in_the_domains_and_labelled_sets_have_the_same(tmp_path: Path, train: str, test: str) -> None:
    """DATA/<domain>/train and /test are read as they say, and a labelled set's splits by the same names in any case."""
    touch(tmp_path, *(f"d/{d}/{s}/{n}.png" for d in ("horse", "zebra") for s, n in ((train, 1), (train, 2), (test, 3))))
    tree = find(tmp_path / "d")
    assert (tree.layout, tree.domains) == ("split", ("horse", "zebra"))
    assert names(tmp_path / "d", "test", "horse") == [f"horse/{test}/3.png"]
    touch(tmp_path, *(f"l/{s}/{c}/1.png" for s in (train, test) for c in ("one", "two")), f"l/{test}/one/2.png")
    counts = [open_labelled(tmp_path / "l", DataConfig(size=8), "d", split=s).count("d") for s in (None, "test")]
    assert counts == [2, 3] and open_to_test(tmp_path / "l", DataConfig(size=8), "d").count("d") == 3
    touch(tmp_path, "l/three/1.png", "d/ox/1.png")
    for refused in (lambda: find(tmp_path / "d"), lambda: open_unlabelled(tmp_path / "l", DataConfig(size=8), "d")):
        with pytest.raises(DataError, match=r"ox has none|three with images beside"):
            refused()


def test_test_is_preferred_to_val(tmp_path: Path) -> None:
    """With both test and val, test is held out and a note says that val is not used."""
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/2.png", "test/a/3.png")
    assert names(tmp_path, "test", "a") == ["test/a/3.png"]
    assert "val/ is not used" in find(tmp_path).notes[0]


@pytest.mark.parametrize(
    ("folders", "domains"),
    [
        (("trainA", "trainB", "testA", "testB"), ("A", "B")),
        (("trainA", "trainB", "valA", "valB"), ("A", "B")),
        (("traina", "trainb", "testa"), ("A", "B")),
        (("cat_train", "dog_train", "cat_test"), ("cat", "dog")),
        (("train_cat", "train_dog", "test_cat"), ("cat", "dog")),
        (("trainA", "trainB", "trainC"), ("A", "B", "C")),
        (("train-summer", "train-winter"), ("summer", "winter")),
    ],
)
def test_cyclegan_layout(tmp_path: Path, folders: tuple[str, ...], domains: tuple[str, ...]) -> None:
    """CycleGAN's folder names, with letters or with names, for two or more domains."""
    touch(tmp_path, *(f"{f}/1.png" for f in folders))
    tree = find(tmp_path)
    assert (tree.layout, tree.domains) == ("cyclegan", domains)
    assert all(len(tree.files["train", d]) == 1 for d in domains)
    assert sum(len(f) for f in tree.files.values()) == len(folders)


def test_domain_layout_splits_by_name(tmp_path: Path) -> None:
    """DATA/<domain> holds out about a tenth by the hash of the name, the same names in every domain."""
    touch(tmp_path, *(f"{d}/{n:03}.png" for d in ("steam_train", "ships") for n in range(300)))
    tree = find(tmp_path)
    assert (tree.layout, tree.domains) == ("domain", ("ships", "steam_train"))
    held = {d: [p.name for p in tree.files["test", d]] for d in tree.domains}
    assert held["ships"] == held["steam_train"]
    assert 0.05 < len(held["ships"]) / 300 < 0.16
    assert len(tree.files["train", "ships"]) + len(held["ships"]) == 300


def test_split_values_are_frozen() -> None:
    """The split of given names never changes between versions, and takes the stated share of many."""
    assert [n for n in range(60) if hashed_split(f"{n}.jpg") == "test"] == [26, 34, 36, 38]
    share = np.mean([hashed_split(str(n)) == "test" for n in range(20_000)])
    assert abs(share - TEST_SHARE) < 0.01


def test_a_domain_whose_names_all_hash_to_test_still_trains(tmp_path: Path) -> None:
    """Should every file hash to the test split, all of them train: nothing could run otherwise."""
    touch(tmp_path, "a/26.jpg", "b/1.jpg", "b/26.jpg")
    assert names(tmp_path, "train", "a") == ["a/26.jpg"]
    assert names(tmp_path, "test", "b") == ["b/26.jpg"]


REFUSED = {
    "images beside folders": (("a/1.png", "b/1.png", "stray.png"), "1 images lie beside the folders"),
    "images and no folders": (("1.png", "2.png", "notes.txt"), "2 images lie in it, and no folders"),
    "train without domains": (("train/1.png", "test/1.png"), "lie in it without a domain; expected train/<domain>/"),
    "test alone": (("test/a/1.png", "test/b/1.png"), "without train; rename"),
    "testA alone": (("testA/1.png", "testB/1.png"), "without a training folder such as trainA"),
    "domains beside splits": (("train/a/1.png", "train/b/1.png", "cat/1.png"), "cat with images beside train"),
    "domains beside trainA": (("trainA/1.png", "trainB/1.png", "cat/1.png"), "cat with images beside trainA, trainB"),
    "both split forms": (("train/a/1.png", "trainA/1.png"), "both train and trainA name splits"),
    "unknown test domain": (
        ("train/a/1.png", "train/b/1.png", "test/c/1.png"),
        "the domain c is not in train, which has: a, b",
    ),
    "one domain": (("a/1.png", "a/2.png"), "only one"),
    "one wrapped": (("data/trainA/1.png", "data/trainB/1.png"), "Did you mean .*data"),
    "nothing": ((), "no domain folders"),
    "case twins": (("Cat/1.png", "cat/1.png"), "Cat and cat differ only in case"),
    "split twins": (("train/a/1.png", "train/b/1.png", "Train/a/1.png"), "Train and train name the same split"),
    "odd name": (("a\nb/1.png", "c/1.png"), r"a\\nb cannot be a domain's name"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_ambiguity_is_refused(tmp_path: Path, case: str) -> None:
    """What cannot be told for certain is an error that says what was seen and what would do."""
    files, text = REFUSED[case]
    touch(tmp_path, *files)
    with pytest.raises(DataError, match=text) as caught:
        find(tmp_path)
    assert "Seen there:" in str(caught.value)
    assert "DATA/train/<domain>" in str(caught.value) or "Did you mean" in str(caught.value)
    assert caught.value.exit_code == 2


def test_roots_that_are_no_folder_are_refused(tmp_path: Path) -> None:
    """A missing folder, a file and an archive each get their own sentence."""
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="there is no such folder"):
        find(tmp_path / "missing")
    with pytest.raises(DataError, match="must be unpacked"):
        find(tmp_path / "a.zip")


def test_other_folders_without_images_are_left_alone(tmp_path: Path) -> None:
    """Beside train/, a folder without images (notes, annotations) is no problem; system folders never are domains."""
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "__MACOSX/a/1.png", ".git/x/1.png")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.xml").write_text("<a/>")
    assert find(tmp_path).domains == ("a", "b")


def test_links_are_followed_once(tmp_path: Path) -> None:
    """Loops end, a file reached by two ways counts once, links out of the folder work, dangling links are listed."""
    touch(tmp_path, "data/a/1.png", "data/a/sub/2.png", "data/b/1.png", "outside/3.png", "elsewhere/4.png")
    a = tmp_path / "data" / "a"
    (a / "loop").symlink_to(a)
    (a / "sub" / "up").symlink_to("..")
    (a / "again").symlink_to(a / "sub")
    (a / "same.png").symlink_to(a / "1.png")
    (a / "out").symlink_to(tmp_path / "outside")
    (a / "four.png").symlink_to(tmp_path / "elsewhere" / "4.png")
    (a / "gone.png").symlink_to(tmp_path / "gone")
    (a / "self.png").symlink_to("self.png")
    tree = find(tmp_path / "data")
    found = sorted(p.name for s in ("train", "test") for p in tree.files[s, "a"])
    assert found == ["1.png", "2.png", "3.png", "four.png", "gone.png", "self.png"]
    reasons = {p.name: r for p, r in tree.ignored}
    assert "counted already" in reasons["same.png"]
    assert {"loop", "up", "again"} <= set(reasons)


def test_what_is_no_image_is_ignored_with_a_reason(tmp_path: Path) -> None:
    """Hidden and system files, other endings, FIFOs and devices are left out, each with its reason;
    x.png may be a folder."""
    odd = (".DS_Store", "._1.png", "Thumbs.db", "notes.txt", "IMG_1.HEIC", "plain")
    touch(tmp_path, "a/1.png", "b/1.png", "a/x.png/2.png", *(f"a/{name}" for name in odd))
    os.mkfifo(tmp_path / "a" / "fifo.png")
    tree = find(tmp_path)
    assert sorted(p.name for s in ("train", "test") for p in tree.files[s, "a"]) == ["1.png", "2.png"]
    reasons = {p.name: r for p, r in tree.ignored}
    assert reasons["fifo.png"] == "a FIFO, socket or device"
    assert reasons["notes.txt"] == ".txt is no image's"
    assert reasons["IMG_1.HEIC"] == ".HEIC is a format that is not read; save it as JPEG or PNG"
    assert reasons["._1.png"] == reasons["Thumbs.db"] == reasons[".DS_Store"] == "a hidden or system file"
    assert set(reasons) == {"fifo.png", *odd}


def test_class_folders(tmp_path: Path) -> None:
    """A folder of class folders gives sorted classes, their files and labels; also below train/ and test/."""
    write_tree(tmp_path, {"l/train/seven": 3, "l/train/one": 2, "l/test/one": 1, "l/test/seven": 1}, width=20)
    classes, files, labels = find_labelled(tmp_path / "l" / "train")
    assert classes == ("one", "seven")
    assert labels.tolist() == [0, 0, 1, 1, 1]
    assert [f.parent.name for f in files] == ["one", "one", "seven", "seven", "seven"]
    config = DataConfig(size=16)
    pool = open_labelled(tmp_path / "l", config, "source")
    assert pool.images["source"].shape == (5, 16, 16, 3)
    assert [pool.label("source", i) for i in range(5)] == [0, 0, 1, 1, 1]
    assert open_labelled(tmp_path / "l", config, "t", split="test").count("t") == 2
    unlabelled = open_unlabelled(tmp_path / "l", config, "t")
    assert (unlabelled.count("t"), unlabelled.classes, unlabelled.label("t", 0)) == (5, (), -1)


@pytest.mark.parametrize(
    ("files", "text"),
    [
        (("1.png",), "beside the class folders"),
        (("a/1.png",), "fewer than two class"),
        (("a/1.png", "b/x.txt"), "b has no images"),
    ],
)
def test_class_folders_that_are_none(tmp_path: Path, files: tuple[str, ...], text: str) -> None:
    """Images without a class, a single class, and a class without images are refused."""
    with pytest.raises(DataError, match=text):
        find_labelled(touch(tmp_path, *files))


@pytest.mark.parametrize("shape", [(6, 20, 16), (6, 20, 16, 1), (6, 16, 20, 3)])
@pytest.mark.parametrize("keys", [("x", "y"), ("x_train", "y_train")])
def test_npz_files(tmp_path: Path, shape: tuple[int, ...], keys: tuple[str, str]) -> None:
    """Grey and RGB arrays become square RGB images with their labels."""
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez(tmp_path / "d.npz", **{keys[0]: images, keys[1]: np.array([0, 1, 2, 2, 1, 3], np.uint8)})
    pool = open_labelled(tmp_path / "d.npz", DataConfig(size=16), "d")
    assert pool.classes == ("0", "1", "2", "3")
    assert [pool.label("d", i) for i in range(6)] == [0, 1, 2, 2, 1, 3]
    expected = images if images.ndim == 4 else images[..., None]
    middle = expected[:, 2:18] if shape[1] == 20 else expected[:, :, 2:18]
    assert np.array_equal(pool.images["d"], np.broadcast_to(middle, (6, 16, 16, 3)))


def test_npz_files_that_cannot_be_used(tmp_path: Path) -> None:
    """Pickled arrays, missing labels, other names, types and lengths, gaps in the labels, no such split and plain text
    are refused."""
    x, y, path = np.zeros((3, 8, 8), np.uint8), np.arange(3), tmp_path / "d.npz"
    cases = [
        ({"x": np.array([{}] * 3), "y": y}, "expected one uint8 array x"),
        ({"x": x}, "one integer array y"),
        ({"images": x, "labels": y}, r"there are: images uint8 \[3, 8, 8\]; labels int64 \[3\]"),
        ({"x": x.astype(np.float32), "y": y}, r"there are: x float32 \[3, 8, 8\]; y int64 \[3\]"),
        ({"x": x, "y": y[:2]}, r"y int64 \[2\]"),
        ({"x": x, "y": y - 1}, "the labels are -1, 0, 1; expected each of 0 to classes - 1"),
        ({"x": x, "y": np.array([0, 1, 255])}, "the labels are 0, 1, 255"),
        ({"x_train": x, "y_train": y + 1}, "the labels are 1, 2, 3"),
    ]
    for arrays, text in cases:
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=text):
            open_labelled(path, DataConfig(size=8), "d")
    np.savez(path, x=x, y=y)
    with pytest.raises(DataError, match="one uint8 array x_test"):
        open_labelled(path, DataConfig(size=8), "d", split="test")
    with pytest.raises(DataError, match=r"more than data\.cache_gib"):
        open_labelled(path, DataConfig(size=2048, cache_gib=0.001), "d")
    path.write_text("hello")
    with pytest.raises(DataError, match="not a readable npz file"):
        open_labelled(path, DataConfig(size=8), "d")


def test_a_single_domain_where_it_is_asked_for(tmp_path: Path) -> None:
    """With least = 1 one folder, or images without any folder, are one domain, split by hash; images beside folders are
    still refused, and by default a single domain is."""
    write_tree(tmp_path / "one", {"fox": 30})
    with pytest.raises(DataError, match="at least two"):
        find(tmp_path / "one")
    tree = find(tmp_path / "one", least=1)
    flat = find(tmp_path / "one/fox", least=1)
    assert tree.domains == flat.domains == ("fox",)
    assert len(tree.files["train", "fox"]) + len(tree.files["test", "fox"]) == 30
    assert [p.name for p in tree.files["test", "fox"]] == [p.name for p in flat.files["test", "fox"]]
    write_tree(tmp_path / "mixed", {"fox": 2, ".": 1})
    with pytest.raises(DataError, match="beside the folders"):
        find(tmp_path / "mixed", least=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no domain folders"):
        find(tmp_path / "empty", least=1)
