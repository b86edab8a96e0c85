"""Pixel accuracy, label classes and masks against a truth: by hand, in both layouts of pairs, palettes."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

import tiny
from conftest import SHARED
from toys import Negative, OneWay, translator
from unpaired.config import EvaluateConfig
from unpaired.errors import ConfigError
from unpaired.evaluation.truth import (
    Palette,
    class_ious,
    mask_f1,
    mask_figures,
    mask_iou,
    open_palette,
    pixel_accuracy,
    pixel_figures,
)

ROADS = Palette("roads", ("road", "sky", "car"), ((0, 0, 0), (255, 255, 255), (255, 0, 0)))


class Dark(OneWay):
    """Its mask is the dark half of a picture."""

    def attention(self, images: Tensor) -> Tensor:
        """0.8 where the mean colour is below grey."""
        return (images.mean(dim=1, keepdim=True) < 0).float() * 0.8


def write(path: Path, picture: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def pairs(root: Path, *, joined: bool) -> Path:
    """Pictures and their exact negatives, side by side or in two folders."""
    for i, image in enumerate(tiny.pictures(3, 16)):
        if joined:
            write(root / f"{i}.png", np.concatenate([image, 255 - image], axis=1))
        else:
            write(root / f"day/{i}.png", image)
            write(root / f"night/{i}.png", 255 - image)
    return root


def masks(root: Path, sizes: tuple[tuple[int, int], ...]) -> Path:
    """Pictures of 20×30 whose left half is dark, each with a true mask of the left third in the given size."""
    for i, (height, width) in enumerate(sizes):
        picture, truth = np.full((20, 30, 3), 220, np.uint8), np.zeros((height, width), np.uint8)
        picture[:, :15], truth[:, : width // 3] = 30, 255
        write(root / f"day/{i}.png", picture)
        write(root / f"mask/{i}.png", truth)
    return root


def test_both_readings_at_the_threshold() -> None:
    """12 in total is right and 13 is wrong by the sum; by channels, 12 in each is right and 13 in one is wrong."""
    truth = np.full((1, 4, 3), 100, np.uint8)
    found = truth.copy()
    found[0, 1:] = (104, 96, 104), (105, 96, 104), (113, 100, 100)  # 12 in total, 13 in total, 13 in one channel
    assert pixel_accuracy(found, truth, 12, "sum") == 0.5
    assert pixel_accuracy(found, truth, 12, "channel") == 0.75
    assert pixel_accuracy(np.uint8([[[0, 0, 0]]]), np.uint8([[[255, 255, 255]]]), 764) == 0  # no wrap-around
    with pytest.raises(ConfigError, match="cannot be compared"):
        pixel_accuracy(found, truth[:, :2], 12)


def test_overlap_of_masks() -> None:
    """Intersection over union, and 2 TP / (2 TP + FP + FN), which is never below it; empty against empty is 1."""
    a, b = np.array([[True, True, False, False]]), np.array([[True, False, True, False]])
    for score, half in ((mask_iou, 1 / 3), (mask_f1, 0.5)):
        assert score(a, b) == pytest.approx(half)
        assert score(a, a) == 1 and score(a, ~a) == 0 and score(a & ~a, b & ~b) == 1


def test_mean_iou_by_hand() -> None:
    """Colours near a class count for it; a class that the truth lacks has no IoU, but pixels given to it count against
    the others."""
    truth = np.array([[[0, 0, 0], [0, 0, 0], [255, 255, 255], [250, 250, 255]]], np.uint8)
    found = np.array([[[9, 9, 0], [255, 250, 250], [255, 255, 255], [240, 10, 10]]], np.uint8)
    table = ROADS.confusion(found, truth)
    assert table.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert class_ious(table) == [1 / 2, 1 / 3, None]
    with pytest.raises(ConfigError, match="pixel by pixel"):
        ROADS.confusion(found, truth[:, :2])


@pytest.mark.parametrize("joined", [True, False])
def test_a_perfect_translator(tmp_path: Path, joined: bool) -> None:
    """Every pixel right, in both layouts and both directions; the untranslated pictures stand beside it."""
    model, root = translator(Negative()), pairs(tmp_path / "pairs", joined=joined)
    for source, target in model.directions:
        for figure in pixel_figures(model, source, target, EvaluateConfig(pairs=root, threshold=(12,))).values():
            assert figure["value"] == 1 and figure["n"] == 3 and figure["before"]["value"] < 0.2


def test_the_left_half_is_the_one_named(tmp_path: Path) -> None:
    """A left half that is black and a right one that is white: black is translated to white, or white to black."""
    write(tmp_path / "p/a.png", np.repeat(np.uint8([[0] * 16 + [200] * 16] * 16)[..., None], 3, axis=2))
    for left, threshold, right in ((None, 170, 1), ("night", 164, 0)):  # 255 against 200, 55 against 0
        asked = EvaluateConfig(pairs=tmp_path / "p", threshold=(threshold,), left=left)
        found = pixel_figures(translator(Negative()), "day", "night", asked)
        assert found[f"pixel_accuracy_sum_{threshold}"]["value"] == right


def test_masks_are_scored_at_their_own_size(tmp_path: Path) -> None:
    """Beside what a mask of the whole picture has; a model without attention is refused."""
    asked = EvaluateConfig(masks=masks(tmp_path, ((20, 30), (20, 30))))
    figure = mask_figures(translator(Dark()), "day", asked)["mask_iou_0.5"]
    assert figure["value"] == pytest.approx(10 / 15) and figure["before"]["value"] == pytest.approx(10 / 30)
    with pytest.raises(ConfigError, match="no attention"):
        mask_figures(translator(OneWay()), "day", asked)


def test_palette_files(tmp_path: Path) -> None:
    """Names may have blanks, lines comments; what is no colour, two classes of one colour and a missing file are
    refused."""
    file = tmp_path / "city.txt"
    file.write_text("# Cityscapes\nroad 128 64 128\n\ntraffic sign 220 220 0  # yellow\n")
    assert open_palette(file) == Palette("city", ("road", "traffic sign"), ((128, 64, 128), (220, 220, 0)))
    facades = open_palette("facades")
    assert facades.name == "facades" and len(facades.classes) == len(set(facades.colours)) == 12
    wrong = {"road 1 2\nsky 3 4 5": "line 1", "a 1 2 300\n": "0 to 255", "a 1 2 3\nb 1 2 3\n": "colour of its own"}
    for text, said in wrong.items():
        file.write_text(text)
        with pytest.raises(ConfigError, match=said):
            open_palette(file)
    with pytest.raises(ConfigError, match="there is 'facades'"):
        open_palette(tmp_path / "none.txt")


def test_both_thresholds_both_readings_and_classes_through_pairs(tmp_path: Path) -> None:
    """A translator that is exact on label maps: accuracy 1 at 12 and 16 by sum and by channel, mean IoU 1 with an
    interval and each class; the untranslated maps stand beside it."""
    rng = np.random.default_rng(0)
    colours = np.array(ROADS.colours, np.uint8)
    for i in range(3):
        labels = colours[rng.integers(3, size=(4, 4))].repeat(4, axis=0).repeat(4, axis=1)
        write(tmp_path / f"day/{i}.png", 255 - labels)
        write(tmp_path / f"night/{i}.png", labels)
    found = pixel_figures(translator(Negative()), "day", "night", EvaluateConfig(pairs=tmp_path), ROADS)
    assert set(found) == {*(f"pixel_accuracy_{r}_{t}" for r in ("sum", "channel") for t in (12, 16)), "mean_iou_roads"}
    for figure in found.values():
        assert figure["value"] == 1 and figure["interval"] == [1, 1] and figure["n"] == 3
        assert figure["before"]["value"] < 0.4
    assert found["mean_iou_roads"]["per_class"] == {"road": 1, "sky": 1, "car": 1}


@pytest.mark.skipif(not (SHARED / "data/facades_143.zip").is_file(), reason="../shared/data is not here")
def test_the_facade_palette_is_that_of_the_pictures() -> None:
    """Of pixels inside flat areas of 40 label maps, 97 % are within 12 of one of the twelve colours in each channel."""
    near = total = 0
    colours = np.array(open_palette("facades").colours)
    with zipfile.ZipFile(SHARED / "data/facades_143.zip") as archive:
        for name in [n for n in archive.namelist() if n.endswith((".jpg", ".png"))][:40]:
            label = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))[:, 143:].astype(int)
            steps = [np.abs(np.diff(label, axis=axis)).sum(-1) == 0 for axis in (0, 1)]
            pixels = label[:-1, :-1][steps[0][:, :-1] & steps[1][:-1]]
            distance = np.abs(pixels[:, None] - colours).max(axis=2).min(axis=1)
            near, total = near + int((distance <= 12).sum()), total + len(pixels)
    assert total > 10_000 and near / total > 0.97, near / total
