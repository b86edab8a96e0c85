"""Pixel accuracy and overlap of masks: by hand, in both layouts, and through evaluate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

import tiny
from toys import Negative, OneWay, translator
from unpaired.config import EvaluateConfig
from unpaired.data.sampling import ArrayPool
from unpaired.errors import ConfigError
from unpaired.evaluation.results import format_table
from unpaired.evaluation.run import evaluate
from unpaired.evaluation.truth import mask_figures, mask_iou, pixel_accuracy, pixel_figures


class Dark(OneWay):
    """Its mask is the dark half of a picture."""

    def attention(self, images: Tensor) -> Tensor:
        """1 where the mean colour is below grey."""
        return (images.mean(dim=1, keepdim=True) < 0).float() * 0.8


def test_both_readings_at_the_threshold() -> None:
    """12 in total is right and 13 is wrong by the sum; by channels, 12 in each is right and 13 in one is wrong."""
    truth = np.full((1, 4, 3), 100, np.uint8)
    found = truth.copy()
    found[0, 1] = (104, 96, 104)  # 12 in total
    found[0, 2] = (105, 96, 104)  # 13 in total
    found[0, 3] = (113, 100, 100)  # 13 in one channel
    assert pixel_accuracy(found, truth, 12, "sum") == 0.5
    assert pixel_accuracy(found, truth, 12, "channel") == 0.75
    assert pixel_accuracy(np.uint8([[[0, 0, 0]]]), np.uint8([[[255, 255, 255]]]), 764) == 0  # no wrap-around
    with pytest.raises(ConfigError, match="cannot be compared"):
        pixel_accuracy(found, truth[:, :2], 12)


def test_overlap() -> None:
    """Intersection over union; empty against empty is 1."""
    a = np.array([[True, True, False, False]])
    assert mask_iou(a, np.array([[True, False, True, False]])) == pytest.approx(1 / 3)
    assert mask_iou(a, a) == 1 and mask_iou(a, ~a) == 0 and mask_iou(a & ~a, a & ~a) == 1


def pairs(root: Path, *, joined: bool) -> Path:
    """Pictures and their exact negatives, side by side or in two folders."""
    root.mkdir()
    for i, image in enumerate(tiny.pictures(3, 16)):
        if joined:
            Image.fromarray(np.concatenate([image, 255 - image], axis=1)).save(root / f"{i}.png")
        else:
            for name, half in (("day", image), ("night", 255 - image)):
                (root / name).mkdir(exist_ok=True)
                Image.fromarray(half).save(root / name / f"{i}.png")
    return root


@pytest.mark.parametrize("joined", [True, False])
def test_a_perfect_translator(tmp_path: Path, joined: bool) -> None:
    """Every pixel right, in both layouts and both directions; the untranslated pictures stand beside it; with the
    halves named the wrong way round the colours are still right for this translator, and a wrong name is refused."""
    model, root = translator(Negative()), pairs(tmp_path / "pairs", joined=joined)
    for source, target in model.directions:
        for figure in pixel_figures(model, source, target, EvaluateConfig(pairs=root, threshold=(12,))).values():
            assert figure["value"] == 1 and figure["n"] == 3 and figure["before"]["value"] < 0.2
    with pytest.raises(ConfigError, match="Did you mean 'night'"):
        pixel_figures(model, "day", "night", EvaluateConfig(pairs=root, left="nigt"))


def test_the_left_half_is_the_one_named(tmp_path: Path) -> None:
    """A left half that is black and a right one that is white: black is translated to white, or white to black."""
    root = tmp_path / "p"
    root.mkdir()
    Image.fromarray(np.repeat(np.uint8([[0] * 16 + [200] * 16] * 16)[..., None], 3, axis=2)).save(root / "a.png")
    model = translator(Negative())
    key = "pixel_accuracy_sum_170"
    forth = pixel_figures(model, "day", "night", EvaluateConfig(pairs=root, threshold=(170,)))
    back = pixel_figures(model, "day", "night", EvaluateConfig(pairs=root, threshold=(164,), left="night"))
    assert forth[key]["value"] == 1  # 255 against 200
    assert back["pixel_accuracy_sum_164"]["value"] == 0  # 55 against 0


def test_everything_through_evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures stand in results and table, each with its N and what doing nothing would have; masks are scored at their
    own size."""
    model = translator(Dark())
    root = pairs(tmp_path / "pairs", joined=True)
    masks = tmp_path / "masks"
    for i in range(2):
        image = np.full((20, 30, 3), 220, np.uint8)
        image[:, :15] = 30
        truth = np.zeros((20, 30), np.uint8)
        truth[:, :10] = 255
        for name, picture in (("day", image), ("mask", truth)):
            (masks / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(masks / name / f"{i}.png")
    images = ArrayPool({"day": tiny.pictures(4, 16, 0), "night": 255 - tiny.pictures(4, 16, 1)})
    monkeypatch.setenv("UNPAIRED_WEIGHTS", str(tmp_path))  # no backbone here
    results = evaluate(model, images, pairs=root, threshold=12, masks=masks, mask_threshold=0.5)
    (entry,) = results["directions"]
    assert entry["pixel_accuracy_sum_12"]["value"] == 1 and entry["pixel_accuracy_channel_12"]["n"] == 3
    assert entry["mask_iou_0.5"]["value"] == pytest.approx(10 / 15)
    assert entry["mask_iou_0.5"]["before"]["value"] == pytest.approx(10 / 30)
    table = format_table(results)
    assert "pixel_accuracy_sum_12" in table and "mask_iou_0.5" in table
    with pytest.raises(ConfigError, match="no attention"):
        mask_figures(translator(OneWay()), "day", EvaluateConfig(masks=masks))
