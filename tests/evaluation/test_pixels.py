"""Palettes and masks: mean IoU and F1 by hand, palette files, facades' own colours, both thresholds through
evaluate."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import SHARED
from toys import Negative, translator
from unpaired.config import EvaluateConfig
from unpaired.errors import ConfigError
from unpaired.evaluation.truth import Palette, class_ious, mask_f1, mask_iou, open_palette, pixel_figures

ROADS = Palette("roads", ("road", "sky", "car"), ((0, 0, 0), (255, 255, 255), (255, 0, 0)))


def test_mean_iou_by_hand() -> None:
    """Colours near a class count for it; a class that the truth lacks has no IoU, but pixels given to it count against
    the others."""
    truth = np.array([[[0, 0, 0], [0, 0, 0], [255, 255, 255], [250, 250, 255]]], np.uint8)
    found = np.array([[[9, 9, 0], [255, 250, 250], [255, 255, 255], [240, 10, 10]]], np.uint8)
    table = ROADS.confusion(found, truth)
    assert table.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert class_ious(table) == [1 / 2, 1 / 3, None]
    assert class_ious(ROADS.confusion(truth, truth)) == [1, 1, None]
    with pytest.raises(ConfigError, match="pixel by pixel"):
        ROADS.confusion(found, truth[:, :2])


def test_f1_of_masks() -> None:
    """2 TP / (2 TP + FP + FN); 1 for empty against empty; never below the IoU."""
    a, b = np.array([[True, True, False, False]]), np.array([[True, False, True, False]])
    assert mask_f1(a, b) == 0.5 and mask_f1(a, a) == 1 and mask_f1(a & ~a, b & ~b) == 1 and mask_f1(a, ~a) == 0
    assert mask_f1(a, b) > mask_iou(a, b)


def test_palette_files(tmp_path: Path) -> None:
    """Names may have blanks, lines comments; what is no colour, two classes of one colour and a missing file are
    refused."""
    file = tmp_path / "city.txt"
    file.write_text("# Cityscapes\nroad 128 64 128\n\ntraffic sign 220 220 0  # yellow\n")
    palette = open_palette(file)
    assert (
        palette.name == "city" and palette.classes == ("road", "traffic sign") and palette.colours[1] == (220, 220, 0)
    )
    facades = open_palette("facades")
    assert facades.name == "facades" and len(facades.classes) == len(set(facades.colours)) == 12
    for text, said in (
        ("road 1 2\nsky 3 4 5", "line 1"),
        ("a 1 2 300\n", "0 to 255"),
        ("a 1 2 3\nb 1 2 3\n", "colour of its own"),
    ):
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
        for name, picture in (("day", 255 - labels), ("night", labels)):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(picture).save(tmp_path / name / f"{i}.png")
    found = pixel_figures(translator(Negative()), "day", "night", EvaluateConfig(pairs=tmp_path), ROADS)
    assert set(found) == {*(f"pixel_accuracy_{r}_{t}" for r in ("sum", "channel") for t in (12, 16)), "mean_iou_roads"}
    for figure in found.values():
        assert (
            figure["value"] == 1
            and figure["interval"] == [1, 1]
            and figure["before"]["value"] < 0.4
            and figure["n"] == 3
        )
    assert found["mean_iou_roads"]["per_class"] == {"road": 1, "sky": 1, "car": 1}


@pytest.mark.skipif(not (SHARED / "data/facades_143.zip").is_file(), reason="../shared/data is not here")
def test_the_facade_palette_is_that_of_the_pictures() -> None:
    """Of pixels inside flat areas of 40 label maps, 97 % are within 12 of one of the twelve colours in each channel."""
    near = total = 0
    with zipfile.ZipFile(SHARED / "data/facades_143.zip") as archive:
        for name in [n for n in archive.namelist() if n.endswith((".jpg", ".png"))][:40]:
            label = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))[:, 143:].astype(int)
            flat = (np.abs(np.diff(label, axis=0))[:, :-1].sum(-1) == 0) & (
                np.abs(np.diff(label, axis=1))[:-1].sum(-1) == 0
            )
            pixels = label[:-1, :-1][flat]
            distance = np.abs(pixels[:, None] - np.array(open_palette("facades").colours)).max(axis=2).min(axis=1)
            near, total = near + int((distance <= 12).sum()), total + len(pixels)
    assert total > 10_000 and near / total > 0.97, near / total
