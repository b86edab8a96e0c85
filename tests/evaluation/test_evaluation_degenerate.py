"""evaluate on outputs that are not finite and on domains without images: no bare number, and no figure takes the others
along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_evaluation import Colours
from test_evaluation_checks import masks
from test_evaluation_pairs import Dark
from test_evaluation_sets import Repaint, alex, colours  # noqa: F401 - alex is a fixture
from torch import Tensor

import tiny
from toys import Noise, like, translator
from unpaired.config import ClassifierConfig
from unpaired.data.sampling import ArrayPool
from unpaired.evaluation.features import LPIPS
from unpaired.evaluation.run import evaluate

FAST: dict[str, Any] = {"networks": [Colours()], "bootstrap": 0}
CLASSIFIER = ClassifierConfig(steps=10, width=4, batch_size=12, runs=1, jitter=0, side=8)


def with_white(count: int = 6) -> ArrayPool:
    """Pictures of which the first is white in both domains."""
    sets = {"day": tiny.pictures(count, 16, 0), "night": tiny.pictures(count, 16, 1)}
    for images in sets.values():
        images[0] = 255
    return ArrayPool(sets)


def broken(images: Tensor, translated: Tensor) -> Tensor:
    """NaN where the input is white."""
    return translated.masked_fill(images.amin(dim=(1, 2, 3), keepdim=True) > 0.999, float("nan"))


BrokenNoise = like(Noise, lambda self, x, a, b, g: broken(x, Noise.translate(self, x, a, b, generator=g)))
"""Random outputs; NaN for a white picture."""
BrokenPaint = like(Repaint, lambda self, x, a, b, _: broken(-x, Repaint.translate(self, x, a, b)))
"""Repaints; NaN for a black picture."""
BrokenMask = type("BrokenMask", (Dark,), {"attention": lambda _, x: torch.full_like(x[:, :1], float("nan"))})
"""A mask of NaN."""
Dice = like(Noise, lambda self, x, a, b, g: torch.rand(x.shape, generator=g) * 2 - 1, from_noise=True)
"""Images of noise alone."""


def test_a_generator_is_compared_with_no_input(alex: LPIPS) -> None:  # noqa: F811 - the fixture
    """What is made of noise has distances, floor, diversity and reconstruction; nothing that compares with an input,
    and a line says so."""
    images = ArrayPool({"day": tiny.pictures(8, 16), "night": tiny.pictures(8, 16, 1)})
    results = evaluate(
        translator(Dice()),
        images,
        metrics=["distances", "coverage", "errors", "content", "lpips"],
        networks=[Colours(), alex],
        bootstrap=0,
    )
    for entry in results["directions"]:
        assert {"FD-colours", "KD-colours", "recall-colours", "lpips_diversity_alex"} <= set(entry)
        compared = {
            "cycle_error",
            "identity_error",
            "change",
            "ssim_to_input",
            "feature_cosine-colours",
            "lpips_to_input_alex",
        }
        assert not compared & set(entry)
        assert "before" not in entry["FD-colours"] and entry["FD-colours"]["floor"]["value"] is not None
        assert set(entry["per_image"]) == {"source", "index", "name"}
    assert "before" not in results["means"]["mFD-colours"] and results["reconstruction"]["day"]["value"] is not None
    assert any("made of noise alone" in w for w in results["warnings"])
    assert results["provenance"]["options"]["metrics"] == ["distances", "coverage", "errors", "content", "lpips"]


def test_diversity_of_outputs_that_are_not_finite_is_no_number(alex: LPIPS) -> None:  # noqa: F811 - the fixture
    """One input of six has NaN translations: neither distance to the input nor diversity is a number, and the reason
    counts them."""
    entry = evaluate(translator(BrokenNoise()), with_white(), metrics=["lpips"], networks=[alex])["directions"][0]
    for key in ("lpips_to_input_alex", "lpips_diversity_alex"):
        assert entry[key]["value"] is None and entry[key]["not_comparable"] == "1 outputs are not finite", key


def test_a_translation_of_a_pair_that_is_not_finite_costs_these_figures_alone(tmp_path: Path) -> None:
    """Pixel accuracy and mean IoU are without a number and say why; what the input has, and all other figures,
    stand."""
    root = tmp_path / "pairs"
    root.mkdir()
    for i, image in enumerate([np.full((16, 16, 3), 255, np.uint8), *tiny.pictures(2, 16)]):
        Image.fromarray(np.concatenate([image, 255 - image], axis=1)).save(root / f"{i}.png")
    images = ArrayPool({"day": tiny.pictures(4, 16), "night": tiny.pictures(4, 16, 1)})
    (entry,) = evaluate(translator(Dark()), images, pairs=root, palette="facades", **FAST)["directions"]
    for key in ("pixel_accuracy_sum_12", "pixel_accuracy_channel_16", "mean_iou_facades"):
        assert entry[key]["value"] is None and entry[key]["not_comparable"] == "1 outputs are not finite", key
        assert entry[key]["before"]["value"] is not None and entry[key]["before"]["n"] == 3
    assert entry["change"]["value"] is not None


def test_a_mask_that_is_not_finite_is_no_mask(tmp_path: Path) -> None:
    """It has no overlap with the true one, and the reason is said."""
    images = ArrayPool({"day": tiny.pictures(4, 16), "night": tiny.pictures(4, 16, 1)})
    there = masks(tmp_path / "m", ((20, 30), (20, 30)))
    (entry,) = evaluate(translator(BrokenMask()), images, masks=there, **FAST)["directions"]
    for key in ("mask_iou_0.5", "mask_f1_0.5"):
        assert entry[key]["value"] is None and entry[key]["not_comparable"] == "2 outputs are not finite"


@pytest.mark.parametrize("side", ["test", "train"])
def test_classifiers_do_not_judge_or_learn_from_outputs_that_are_not_finite(side: str) -> None:
    """NaN among translations of test images: no RC; among those of training images: no FC; the others have their
    numbers."""
    sets = {"test": colours(5), "train": colours(6)}
    sets[side].images["red"][0] = 0
    results = evaluate(
        translator(BrokenPaint(sets["test"].domains)),
        sets["test"],
        train=sets["train"],
        metrics=["classifier"],
        classifier_config=CLASSIFIER,
    )["classification"]
    lost, there = ("rc", "fc") if side == "test" else ("fc", "rc")
    assert results[lost]["value"] is None and results[lost]["not_comparable"] == "2 outputs are not finite"
    assert results[there]["value"] is not None and results["ceiling"]["value"] is not None


@pytest.mark.parametrize("side", ["test", "train"])
def test_classifiers_of_a_domain_without_images_are_no_numbers(side: str) -> None:
    """0 real images of a domain: RC, FC and ceiling say so, and the other figures are given."""
    sets = {"test": colours(5), "train": colours(6)}
    sets[side].images["green"] = np.zeros((0, 16, 16, 3), np.uint8)
    results = evaluate(
        translator(Repaint(sets["test"].domains)),
        sets["test"],
        train=sets["train"],
        metrics=["classifier", "errors"],
        classifier_config=CLASSIFIER,
    )
    for name in ("rc", "fc", "ceiling"):
        figure = results["classification"][name]
        assert figure["value"] is None and figure["not_comparable"] == f"no {side} images of green"
    assert results["directions"][0]["identity_error"]["value" if side == "train" else "not_comparable"] is not None
