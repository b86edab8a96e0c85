"""evaluate: figures on methods whose answer is known, degenerate sets, provenance, the table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny
from conftest import SHARED
from toys import Negative, Noise, OneWay, translator
from unpaired.data.sampling import ArrayPool
from unpaired.errors import ConfigError, DataError, WeightsError
from unpaired.evaluation.results import format_table
from unpaired.evaluation.run import evaluate, seen_in_training

WEIGHTS = SHARED / "weights"


class Colours:
    """A backbone without weights: the mean and the spread of each colour."""

    name, dim, resize, sha256 = "colours", 6, "none", "0" * 64

    def __call__(self, images: Tensor) -> Tensor:
        """[N, 6]."""
        return torch.cat([images.mean(dim=(2, 3)), images.std(dim=(2, 3))], dim=1).cpu()


def pool(n: int = 24) -> ArrayPool:
    """night is the exact negative of other pictures of the kind of day."""
    return ArrayPool({"day": tiny.pictures(n, 16, 0), "night": 255 - tiny.pictures(n, 16, 1)})


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


@pytest.mark.parametrize("kind", [Negative, Noise])
def test_the_batch_size_does_not_change_the_figures(kind: type[Negative]) -> None:
    """5 or 24 at a time: equal to 1e-9, random outputs included."""
    few, all_ = (evaluate(translator(kind()), pool(), networks=[Colours()], batch_size=b) for b in (5, 24))
    for a, b in zip(few["directions"], all_["directions"], strict=True):
        assert a["FD-colours"]["value"] == pytest.approx(b["FD-colours"]["value"], rel=1e-5, abs=1e-9)
        assert a["cycle_error"]["value"] == pytest.approx(b["cycle_error"]["value"], rel=1e-6, abs=1e-12)


def test_results_are_json_with_everything_that_they_depend_on(tmp_path: Path) -> None:
    """The file holds what is returned; provenance has version, hashes, split, seed, N, backbone, resize, device,
    seconds."""
    results = evaluate(
        translator(Negative()), pool(), networks=[Colours()], limit=10, seed=3, out=tmp_path / "deep" / "results.json"
    )
    assert json.loads((tmp_path / "deep" / "results.json").read_text()) == results
    about = results["provenance"]
    assert about["n"] == {"day": 10, "night": 10} and about["seed"] == 3 and about["split"] == "test"
    assert (
        about["data"] == pool().fingerprint
        and about["backbones"]["colours"]["resize"] == "none"
        and about["device"] == "cpu"
    )
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


def test_one_image_and_nan_are_never_a_bare_number() -> None:
    """With one image in a domain, or NaN outputs, the figure says why it is not comparable."""
    one = ArrayPool({"day": tiny.pictures(4, 16), "night": tiny.pictures(1, 16)})
    figure = evaluate(translator(Negative()), one, networks=[Colours()])["directions"][0]["FD-colours"]
    assert figure["value"] is None and "at least 2 images in each set" in figure["not_comparable"]
    white = ArrayPool({"day": np.full((4, 16, 16, 3), 255, np.uint8), "night": tiny.pictures(4, 16)})
    results = evaluate(translator(OneWay()), white, networks=[Colours()])
    entry = results["directions"][0]
    assert entry["FD-colours"]["value"] is None and "NaN or infinity" in entry["FD-colours"]["not_comparable"]
    assert entry["cycle_error"]["not_comparable"] == "the way back does not exist"
    assert results["reconstruction"]["day"]["not_comparable"] == "this method has no reconstruction"
    assert "not comparable: features hold NaN or infinity" in format_table(results)


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
    with pytest.raises(DataError, match="the data has no domain dusk, which the model knows; it has: day, night"):
        evaluate(translator(Negative(("day", "dusk"))), pool(), networks=[Colours()])
    with pytest.raises(ConfigError, match="unknown backbone 'resnet'"):
        evaluate(translator(Negative()), pool(), backbone="resnet")
    with pytest.raises(ConfigError, match="limit = 0: input should be greater"):
        evaluate(translator(Negative()), pool(), networks=[Colours()], limit=0)


def test_a_folder_is_cut_to_centred_squares_of_the_training_size(tmp_path: Path) -> None:
    """Pictures of 24×16 in a data folder: the middle 16×16 of each is measured; the table has a line for each
    figure."""
    from PIL import Image

    for seed, domain in enumerate(("day", "night")):
        place = tmp_path / "test" / domain
        place.mkdir(parents=True)
        (tmp_path / "train" / domain).mkdir(parents=True)
        for i, image in enumerate(tiny.pictures(5, 16, seed)):
            wide = np.pad(image, ((0, 0), (4, 4), (0, 0)))
            Image.fromarray(wide).save(place / f"{i}.png")
            Image.fromarray(255 - wide).save(tmp_path / "train" / domain / f"{i}.png")
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
