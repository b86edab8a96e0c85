"""evaluate: figures on methods whose answer is known, sets and outputs without meaning, provenance, the table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_truth import Dark, masks, pairs, write
from torch import Tensor

import tiny
from conftest import SHARED
from toys import Negative, Noise, OneWay, like, translator
from unpaired.data.sampling import ArrayPool
from unpaired.errors import RefusedError, UnpairedError, WeightsError
from unpaired.evaluation.results import format_table
from unpaired.evaluation.run import evaluate, seen_in_training

WEIGHTS = SHARED / "weights"
Lazy = like(Negative, lambda self, x, *_: x * 1)
"""Changes nothing."""
BrokenMask = type("BrokenMask", (Dark,), {"attention": lambda _, x: torch.full_like(x[:, :1], float("nan"))})
"""A mask of NaN."""
Dice = like(Noise, lambda self, x, a, b, g: torch.rand(x.shape, generator=g) * 2 - 1, from_noise=True)
"""Images of noise alone."""


class Colours:
    """A backbone without weights: the mean and the spread of each colour."""

    name, dim, resize, sha256 = "colours", 6, "none", "0" * 64

    def __call__(self, images: Tensor) -> Tensor:
        """[N, 6]."""
        return torch.cat([images.mean(dim=(2, 3)), images.std(dim=(2, 3))], dim=1).cpu()


def pool(n: int = 24) -> ArrayPool:
    """night is the exact negative of other pictures of the kind of day."""
    return ArrayPool({"day": tiny.pictures(n, 16, 0), "night": 255 - tiny.pictures(n, 16, 1)})


def measured(kind: type[Negative], images: ArrayPool, **options: Any) -> dict[str, Any]:
    """Results of a method over Colours without intervals of distances, unless asked otherwise."""
    return evaluate(translator(kind()), images, **{"networks": [Colours()], "bootstrap": 0, **options})


def test_a_perfect_translator_reaches_the_floor() -> None:
    """For exact negatives: distances far below those of the untranslated images, cycle error 0, known reconstruction
    error."""
    results = evaluate(translator(Negative()), pool(), networks=[Colours()])
    forth, back = results["directions"]
    assert (forth["source"], forth["target"]) == ("day", "night") and back["source"] == "night"
    for entry in (forth, back):
        for measure in ("FD-colours", "KD-colours"):
            figure = entry[measure]
            assert figure["value"] < 0.1 * figure["before"]["value"] and figure["n"] == [24, 24]
            assert figure["floor"]["n"] == [12, 12]
        assert entry["cycle_error"]["value"] == 0 and entry["cycle_error"]["n"] == 24
    assert results["reconstruction"]["day"]["value"] == pytest.approx(0.1, abs=0.01)


def test_content_and_identity_of_a_translator_that_changes_nothing() -> None:
    """Cosine and SSIM are 1, change and identity error 0; an exact negative has an identity error far above it."""
    still, negative = (measured(kind, pool(6))["directions"][0] for kind in (Lazy, Negative))
    assert [still[k]["value"] for k in ("feature_cosine-colours", "ssim_to_input")] == pytest.approx([1, 1])
    assert still["change"]["value"] == still["identity_error"]["value"] == 0
    assert negative["identity_error"]["value"] > 0.5 and negative["ssim_to_input"]["value"] < 0.2


@pytest.mark.parametrize("kind", [Negative, Noise])
def test_the_batch_size_does_not_change_the_figures(kind: type[Negative]) -> None:
    """5 or 24 at a time: equal to 1e-5, random outputs included."""
    few, all_ = (measured(kind, pool(), batch_size=b) for b in (5, 24))
    for a, b in zip(few["directions"], all_["directions"], strict=True):
        assert a["FD-colours"]["value"] == pytest.approx(b["FD-colours"]["value"], rel=1e-5, abs=1e-9)
        assert a["cycle_error"]["value"] == pytest.approx(b["cycle_error"]["value"], rel=1e-6, abs=1e-12)


def test_results_are_json_with_everything_that_they_depend_on(tmp_path: Path) -> None:
    """The file holds what is returned; provenance has version, hashes, split, seed, N, backbone, resize, device,
    seconds."""
    out = tmp_path / "deep" / "results.json"
    results = evaluate(translator(Negative()), pool(), networks=[Colours()], limit=10, seed=3, out=out)
    assert json.loads(out.read_text()) == results
    about = results["provenance"]
    assert about["n"] == {"day": 10, "night": 10} and about["seed"] == 3 and about["split"] == "test"
    assert about["data"] == pool().fingerprint and about["device"] == "cpu"
    assert about["backbones"]["colours"]["resize"] == "none"
    assert {"version", "model_sha256", "backbones", "precision", "torch", "seconds"} <= set(about)
    assert any("only 10 images: below 2,000" in w for w in results["warnings"])


def test_figures_of_a_network_that_training_looked_through_are_marked() -> None:
    """The model's header names it: a warning says so, and the results' provenance."""
    model = translator(Negative())
    model.header["pretrained"] = [{"name": "colours"}]
    results = evaluate(model, pool(), networks=[Colours()], metrics=("distances",), bootstrap=20)
    assert results["provenance"]["backbones"]["colours"]["independent"] is False
    assert any("colours are not independent" in w for w in results["warnings"])
    model.header["pretrained"] = [{"name": "vgg19, fine-tuned on day, night"}, {"name": "squeezenet_v1.1_features"}]
    assert {"vgg19", "squeezenet1_1"} <= seen_in_training(model) and "alexnet" not in seen_in_training(model)


def figures_in(value: Any, inside: str = "") -> Iterator[dict[str, Any]]:
    """All figures at any depth, but for limits, which have no N."""
    if isinstance(value, dict):
        if "value" in value and inside != "infinity":
            yield value
        for key, item in value.items():
            yield from figures_in(item, key)
    for item in value if isinstance(value, list) else ():
        yield from figures_in(item, inside)


def test_every_figure_has_both_numbers_and_a_value_or_a_reason() -> None:
    """All figures of a result, those within figures too: n, n_generated, n_real; no NaN anywhere in the file."""
    images = ArrayPool({"day": tiny.pictures(7, 16), "night": tiny.pictures(30, 16)})
    results = measured(OneWay, images, bootstrap=20)
    found = list(figures_in(json.loads(json.dumps(results, allow_nan=False))))
    assert len(found) > 15
    for figure in found:
        number = figure["value"]
        assert {"n", "n_generated", "n_real"} <= set(figure) and (number is None) == ("not_comparable" in figure)
        assert number is None or math.isfinite(number)
    assert set(results["measures"]) >= {"FD-colours", "recall-colours", "ssim_to_input"}
    assert results["measures"]["FD-colours"] == {"title": "Fréchet distance", "better": "lower", "backbone": "colours"}


WHITE = np.full((4, 16, 16, 3), 255, np.uint8)
GREY = np.full((7, 16, 16, 3), 90, np.uint8)
NONE = tiny.pictures(0, 16)
COVERED = ("precision-colours", "coverage-colours")


@pytest.mark.parametrize(
    ("kind", "day", "night", "keys", "reason"),
    [
        (Negative, tiny.pictures(4, 16), tiny.pictures(1, 16), ("FD-colours",), "at least 2 images in each set"),
        (OneWay, WHITE, tiny.pictures(4, 16), ("FD-colours",), "NaN or infinity"),
        (OneWay, tiny.pictures(4, 16), tiny.pictures(4, 16), ("cycle_error",), "the way back does not exist"),
        (Lazy, GREY, tiny.pictures(7, 40), ("FD-colours", "KD-colours", *COVERED), "same features"),
        (Negative, NONE, tiny.pictures(7, 16), ("FD-colours", "KD-colours", "recall-colours"), "not comparable|NaN|2"),
        (Negative, NONE, tiny.pictures(7, 16), ("cycle_error", "change"), "no images"),
    ],
)
def test_what_has_no_meaning_is_a_reason_and_no_number(
    kind: type[Negative], day: Any, night: Any, keys: tuple[str, ...], reason: str
) -> None:
    """One image, NaN outputs, a one-way model, one picture many times over, no picture: never a bare number; the table
    says why."""
    results = measured(kind, ArrayPool({"day": day, "night": night}))
    for key in keys:
        figure = results["directions"][0][key]
        assert figure["value"] is None and any(r in figure["not_comparable"] for r in reason.split("|")), key
    assert "not comparable: " in format_table(results)


def test_without_weights_only_errors_are_given_and_a_line_says_which_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lite0, which a package brings, stands in for MobileNet; where training has seen it the reconstruction errors
    alone stand, and the warning names the missing file. A wrong --weights is an error instead."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("UNPAIRED_WEIGHTS", raising=False)
    found = evaluate(translator(Negative()), pool(), metrics=("distances",), limit=4, bootstrap=0)
    assert "FD-efficientnet_lite0" in found["directions"][0]
    model = translator(Negative())
    model.header["pretrained"] = [{"name": "efficientnet_lite0"}]
    results = evaluate(model, pool())
    assert not any(key.startswith("FD-") for d in results["directions"] for key in d)
    assert results["directions"][0]["cycle_error"]["value"] == 0
    assert "mobilenet_v1_1.0_to_conv12.pth" in results["warnings"][0]
    assert "no distances" in format_table(results)
    with pytest.raises(WeightsError, match="no such file or folder"):
        evaluate(translator(Negative()), pool(), weights=tmp_path / "absent")
    with pytest.raises(WeightsError, match="weights-inception-2015-12-05-6726825d"):
        monkeypatch.setenv("UNPAIRED_OFFLINE", "1")
        evaluate(translator(Negative()), pool(), backbone="fid")


def test_refusals() -> None:
    """A domain that the data lacks, an unknown backbone, a limit of zero."""
    for model, options, said in (
        (Negative(("day", "dusk")), {}, "the data has no domain dusk, which the model knows; it has: day, night"),
        (Negative(), {"backbone": "resnet"}, "unknown backbone 'resnet'"),
        (Negative(), {"limit": 0}, "limit = 0"),
    ):
        with pytest.raises(RefusedError, match=said):
            evaluate(translator(model), pool(), **options)


def test_a_folder_is_cut_to_centred_squares_of_the_training_size(tmp_path: Path) -> None:
    """Pictures of 24×16 in a data folder: the middle 16×16 of each is measured; the table has a line for each
    figure."""
    for seed, domain in enumerate(("day", "night")):
        for i, image in enumerate(tiny.pictures(5, 16, seed)):
            wide = np.pad(image, ((0, 0), (4, 4), (0, 0)))
            write(tmp_path / "test" / domain / f"{i}.png", wide)
            write(tmp_path / "train" / domain / f"{i}.png", 255 - wide)
    seen: list[Tensor] = []

    class Watching(Colours):
        def __call__(self, images: Tensor) -> Tensor:
            seen.append(images)
            return super().__call__(images)

    results = evaluate(translator(Negative()), tmp_path, networks=[Watching()])
    expected = torch.from_numpy(tiny.pictures(5, 16, 0)).permute(0, 3, 1, 2).double() / 127.5 - 1
    assert torch.allclose(seen[0], expected.float())
    assert results["directions"][0]["per_image"]["name"] == [f"test/day/{i}.png" for i in range(5)]
    table = format_table(results)
    for text in ("day → night", "FD-colours", "KD-colours", "cycle error", "reconstruction error", "5 / 5"):
        assert text in table


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="../shared/weights is not here")
def test_the_named_backbone_measures_with_its_weights() -> None:
    """With the MobileNet file: FD-mobilenet_v1, its hash, and translations nearer to the target than the source was."""
    results = evaluate(translator(Negative()), pool(4), weights=WEIGHTS, batch_size=4)
    figure = results["directions"][0]["FD-mobilenet_v1"]
    assert 0 <= figure["value"] < figure["before"]["value"]
    about = results["provenance"]["backbones"]["mobilenet_v1"]
    assert about["sha256"].startswith("0e3b1584") and "224×224" in about["resize"]


def test_a_generator_is_compared_with_no_input() -> None:
    """What is made of noise has distances, floor and reconstruction; nothing that compares with an input, and a line
    says so."""
    groups = ["distances", "coverage", "errors", "content"]
    results = measured(Dice, pool(8), metrics=groups)
    for entry in results["directions"]:
        assert {"FD-colours", "KD-colours", "recall-colours"} <= set(entry)
        compared = {"cycle_error", "identity_error", "change", "ssim_to_input", "feature_cosine-colours"}
        assert not compared & set(entry)
        assert "before" not in entry["FD-colours"] and entry["FD-colours"]["floor"]["value"] is not None
        assert set(entry["per_image"]) == {"source", "index", "name"}
    assert "before" not in results["means"]["mFD-colours"] and results["reconstruction"]["day"]["value"] is not None
    assert any("made of noise alone" in w for w in results["warnings"])
    assert results["provenance"]["options"]["metrics"] == groups


# ---- with a ground truth ----


def test_figures_of_a_truth_stand_in_results_and_table(tmp_path: Path) -> None:
    """Each with its N and what doing nothing would have."""
    truth = {"pairs": pairs(tmp_path / "p", joined=True), "masks": masks(tmp_path / "m", ((20, 30), (20, 30)))}
    results = measured(Dark, pool(4), threshold=12, **truth)
    (entry,) = results["directions"]
    assert entry["pixel_accuracy_sum_12"]["value"] == 1 and entry["pixel_accuracy_channel_12"]["n"] == 3
    assert entry["mask_iou_0.5"]["value"] == pytest.approx(10 / 15) and "before" in entry["mask_iou_0.5"]
    assert "pixel_accuracy_sum_12" in format_table(results) and "mask_iou_0.5" in format_table(results)


def test_a_picture_that_cannot_be_used_costs_its_own_figures_alone(tmp_path: Path) -> None:
    """A true mask of another size, and a pair of an odd width: these figures are not comparable, with file and sizes in
    the reason; all others have their numbers."""
    root = pairs(tmp_path / "pairs", joined=True)
    Image.fromarray(np.zeros((16, 17, 3), np.uint8)).save(root / "odd.png")
    (entry,) = measured(Dark, pool(4), pairs=root, masks=masks(tmp_path / "m", ((20, 30), (10, 15))))["directions"]
    for key in ("mask_iou_0.5", "mask_f1_0.5"):
        assert entry[key]["value"] is None and "1.png: 15×10 pixels, but the picture" in entry[key]["not_comparable"]
    for key in ("pixel_accuracy_sum_12", "pixel_accuracy_channel_16"):
        assert entry[key]["value"] is None and "17 pixels wide" in entry[key]["not_comparable"]
    assert entry["FD-colours"]["value"] is not None and entry["change"]["value"] is not None


def test_outputs_that_are_not_finite_cost_the_figures_of_a_truth_alone(tmp_path: Path) -> None:
    """Pixel accuracy, mean IoU and overlap are without a number and say why; what the input has, and all other figures,
    stand."""
    root = pairs(tmp_path / "pairs", joined=True)
    white = np.full((16, 16, 3), 255, np.uint8)  # the method makes NaN of it
    Image.fromarray(np.concatenate([white, 255 - white], axis=1)).save(root / "0.png")
    there = masks(tmp_path / "m", ((20, 30), (20, 30)))
    (entry,) = measured(BrokenMask, pool(4), pairs=root, palette="facades", masks=there)["directions"]
    for key in ("pixel_accuracy_sum_12", "pixel_accuracy_channel_16", "mean_iou_facades"):
        assert entry[key]["value"] is None and entry[key]["not_comparable"] == "1 outputs are not finite", key
        assert entry[key]["before"]["value"] is not None and entry[key]["before"]["n"] == 3
    for key in ("mask_iou_0.5", "mask_f1_0.5"):
        assert entry[key]["value"] is None and entry[key]["not_comparable"] == "2 outputs are not finite"
    assert entry["change"]["value"] is not None


def test_results_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    """A file takes the place of the folder of --out while the work goes on: the error has path, cause and the whole
    table."""

    class Blocking(Colours):
        def __call__(self, images: Tensor) -> Tensor:
            (tmp_path / "deep").touch()
            return super().__call__(images)

    with pytest.raises(UnpairedError, match=r"results\.json: could not be written: File exists") as caught:
        measured(Negative, pool(4), networks=[Blocking()], out=tmp_path / "deep" / "results.json")
    assert "FD-colours" in str(caught.value) and "cycle error" in str(caught.value)
