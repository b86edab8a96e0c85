"""The demo: what its images are, and that a run leaves a whole report."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from unpaired import demo
from unpaired.config import DataConfig
from unpaired.data.folders import find
from unpaired.data.labelled import open_labelled, open_unlabelled
from unpaired.evaluation.classifier import load_classifier
from unpaired.translate.translator import load

pytest.importorskip("sklearn", reason="the demo's images come with scikit-learn, extra 'demo'")


def test_images(tmp_path: Path) -> None:
    """750 plain, 747 photo and 300 held-out digits, no digit twice; photo training names tell no class; written again,
    the bytes are the same; the folder is an ordinary data folder."""
    data = demo.write_demo_data(tmp_path)
    config = DataConfig(size=demo.SIDE, cache=False)
    plain, test = (open_labelled(p, config, "x").images["x"] for p in (data.labelled, data.test_plain))
    assert (len(plain), len(test)) == (750, 300)
    photo = open_unlabelled(data.unlabelled, config, "x").images["x"]
    assert len(photo) == 747 and not any(p.is_dir() for p in data.unlabelled.iterdir())
    indices = [p.stem for folder in (data.labelled, data.test_plain) for p in folder.rglob("*.png")]
    assert len(set(indices)) == 1050
    assert find(tmp_path).domains == ("photo", "plain")

    def digest() -> str:
        return hashlib.sha256(b"".join(p.read_bytes() for p in sorted(tmp_path.rglob("*.png")))).hexdigest()

    before = digest()
    demo.write_demo_data(tmp_path)
    assert digest() == before


def test_photo_digits_are_differences(tmp_path: Path) -> None:
    """A held-out photo digit is |patch − digit|: where the digit is black, it is the photograph itself."""
    data = demo.write_demo_data(tmp_path)
    config = DataConfig(size=demo.SIDE, cache=False)
    photo, plain = (open_labelled(p, config, "x").images["x"] for p in (data.test_photo, data.test_plain))
    _, _, photos = demo._sources()
    windows = [np.lib.stride_tricks.sliding_window_view(p, (demo.SIDE, demo.SIDE), axis=(0, 1)) for p in photos]
    black = plain[0][..., 0] == 0
    y, x = np.argwhere(black)[0]
    places = [np.argwhere((w[..., y, x] == photo[0][y, x]).all(-1)) for w in windows]
    found = [
        (n, i, j)
        for n, at in enumerate(places)
        for i, j in at
        if (np.abs(windows[n][i, j].transpose(1, 2, 0).astype(int) - plain[0]) == photo[0]).all()
    ]
    assert found
    n, i, j = found[0]
    train = {((a // demo.BAND + 2 * (b // demo.BAND)) % 5 == 2) for a in (i, i + 15) for b in (j, j + 15)}
    assert train == {True} and n in (0, 1)


def test_a_run_leaves_report_model_and_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report with both directions, accuracies and confusion tables; a translator of plain and photo; a classifier."""
    monkeypatch.setattr(demo, "REDUCED", {**demo.REDUCED, "model.steps": 2, "adapt.steps": 4})
    path = demo.run_demo(tmp_path, reduced=True, quiet=True)
    html = path.read_text(encoding="utf-8")
    for words in ("plain", "photo", "Classifier", "predicted"):
        assert words in html, words
    assert 'src="http' not in html and 'href="http' not in html  # nothing is fetched
    assert load(tmp_path / "adapt/run").directions == (("plain", "photo"), ("photo", "plain"))
    assert load_classifier(tmp_path / "adapt" / "classifier.safetensors").classes == tuple("0123456789")
