"""The map of features and the nearest neighbours of translations, on a tiny model with random weights and a real feature network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny
from unpaired.errors import ConfigError, DataError
from unpaired.report.look import COLOURS, look, tsne_picture
from unpaired.training import loop
from unpaired.training.run import build


def test_dots_of_each_group_have_its_colour() -> None:
    """Every group is on the picture in its colour, the extremes within the margins, the last group above the others."""
    groups = [np.array([[0.0, 0.0]]), np.array([[10.0, 10.0]]), np.array([[10.0, 0.0], [0.0, 0.0]])]
    page = tsne_picture(groups, side=101, radius=3, margin=10)
    assert page.shape == (101, 101, 3)
    assert tuple(page[90, 90]) == COLOURS[1]
    assert tuple(page[10, 90]) == COLOURS[2] and tuple(page[10, 10]) == COLOURS[2]  # x right, y down
    assert (page[50, 50] == 255).all()


def test_a_look_finds_copies(tmp_path: Path, shared: Path) -> None:
    """A map, a picture and a file with every neighbour; target images are as far from themselves as they should be: a held-out
    image that is also in the training set has distance 0."""
    data = tiny.folder(tmp_path / "data", count=6, side=40)
    for file in sorted((data / "train" / "blue").glob("*.png"))[:2]:  # held-out images that were trained on
        (data / "test" / "blue" / file.name).write_bytes(file.read_bytes())
    for number in range(2, 5):
        image = tiny.pictures(1, 40, seed=50 + number)[0]
        Image.fromarray(image).save(data / "test" / "red" / f"{number:03d}.png")
    config = tiny.config(data__size=32)
    method = build(config, ("blue", "red"))
    from unpaired.data.folders import find
    from unpaired.data.sampling import open_pool

    run = tmp_path / "run"
    loop.fit(method, open_pool(find(data), config.data), config, run, quiet=True)
    done = look(
        run, data, tmp_path / "look", to="blue", source="red", weights=shared / "weights", device="cpu", rows=2, limit=5
    )
    about = json.loads((tmp_path / "look" / "look.json").read_text())
    assert about["mean distance"] == done.distances
    assert done.distances["held-out target images to theirs, for comparison"] < 1e-5
    assert done.distances["translations to their nearest training image of the target"] > 1e-3
    assert len(about["neighbours"]) == 5 and all(len(n["target"]) == 3 for n in about["neighbours"])
    assert all(n["distance"] == sorted(n["distance"]) for n in about["neighbours"])
    page = np.asarray(Image.open(tmp_path / "look" / "neighbours.png"))
    assert page.shape == (2 * 36 - 4, 5 * 36 - 4, 3)
    assert Image.open(tmp_path / "look" / "map.png").size == (640, 640)
    with pytest.raises(ConfigError, match="rows = 0"):
        look(run, data, tmp_path / "look", to="blue", source="red", rows=0)
    with pytest.raises(DataError, match="too few images in 'test' for a map: 2 of red"):  # before weights are asked for
        look(run, data, tmp_path / "few", to="blue", source="red", weights=tmp_path / "none", limit=2)
    assert not (tmp_path / "few").exists()
