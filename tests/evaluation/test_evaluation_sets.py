"""evaluate on many classes, with classifiers, LPIPS, several processes, kept features, best and last; degenerate
sets."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_evaluation import Colours, Dice, Lazy
from test_truth import write
from torch import Tensor

import tiny
from toys import Negative, Noise, OneWay, like, translator
from unpaired.config import ClassifierConfig, DataConfig, classifier_settings
from unpaired.data.images import to_tensor
from unpaired.data.sampling import ArrayPool
from unpaired.errors import ConfigError, DataError
from unpaired.evaluation.classifier import Training, save_classifier, train_classifier
from unpaired.evaluation.features import LPIPS, backbone_from_state
from unpaired.evaluation.inputs import MIXED, Images, plan
from unpaired.evaluation.results import compare, format_table
from unpaired.evaluation.run import evaluate

QUICK = ClassifierConfig(steps=10, width=4, batch_size=12, runs=1, jitter=0, side=8)
FAST: dict[str, Any] = {"networks": [Colours()], "bootstrap": 20}
Repaint = like(Negative, lambda self, x, a, b, _: x.roll(self.domains.index(b) - self.domains.index(a), dims=1))
"""Gives a picture the colour of another domain: domain i has its light in channel i."""
BrokenPaint = like(Repaint, lambda self, x, a, b, _: broken(-x, Repaint.translate(self, x, a, b)))
"""Repaints; NaN for a black picture."""
BrokenNoise = like(Noise, lambda self, x, a, b, g: broken(x, Noise.translate(self, x, a, b, generator=g)))
"""Random outputs; NaN for a white picture."""


def broken(images: Tensor, translated: Tensor) -> Tensor:
    """NaN where the input is white."""
    return translated.masked_fill(images.amin(dim=(1, 2, 3), keepdim=True) > 0.999, float("nan"))


def colours(count: int, names: tuple[str, ...] = ("red", "green", "blue"), seed: int = 0) -> ArrayPool:
    """Pure red, green and blue blobs on black: a domain's pictures are another's with the channels moved."""
    found = {}
    for i, name in enumerate(names):
        grey = tiny.pictures(count, 16, seed + i).max(axis=3)
        found[name] = np.zeros((count, 16, 16, 3), np.uint8)
        found[name][..., i % 3] = grey
    return ArrayPool(found)


def test_many_classes_cost_as_many_translations_as_there_are_images() -> None:
    """Five domains have 20 directions: each target is measured once, from a mix of all others without itself, as many
    pictures as there are real ones; --by direction has all 20; the mean over classes and its parts stand in the
    results."""
    names = tuple("abcde")
    pool = ArrayPool({n: tiny.pictures(6 + i, 16, i) for i, n in enumerate(names)})
    model = Lazy(names)
    results = evaluate(translator(model), pool, metrics=("distances",), **FAST)
    assert [e["target"] for e in results["directions"]] == list(names) and results["provenance"]["by"] == "target"
    for i, entry in enumerate(results["directions"]):
        assert entry["source"] == MIXED and entry["FD-colours"]["n"] == [6 + i, 6 + i]
        assert set(entry["per_image"]["source"]) == set(names) - {entry["target"]}
    assert sum(shape[0] for shape in model.calls) == sum(6 + i for i in range(5))
    mean = results["means"]["mFD-colours"]
    assert mean["classes"] == 5 and mean["n_generated"] == mean["n_real"] == 40
    assert mean["value"] == pytest.approx(np.mean([e["FD-colours"]["value"] for e in results["directions"]]))
    assert mean["interval"][0] < mean["value"] < mean["interval"][1] and set(mean["per"]) == set(names)
    assert len(plan(Images(pool, 16, 4, None, 0), model.directions, "direction")[0]) == 20

    def items(batch: int, seed: int) -> list[Any]:
        return [task.items for task in plan(Images(pool, 16, batch, None, seed), model.directions, "auto")[0]]

    assert items(4, 0) == items(99, 0) != items(4, 1)
    one = ArrayPool({"a": tiny.pictures(5, 16), "b": tiny.pictures(1, 16)})  # a class that cannot be compared
    mean = evaluate(translator(Lazy(("a", "b"))), one, **FAST)["means"]["mFD-colours"]
    assert mean["value"] is None and "classes have no figure" in mean["not_comparable"]


def test_rc_and_fc_tell_a_translator_that_works_from_one_that_does_nothing() -> None:
    """Domains that differ by colour: repainted pictures are of their new class for the classifier of real pictures and
    can teach one; untouched pictures never are, so that RC is 0 and FC far below chance. Runs, seeds, schedule, split
    and ceiling are on record."""
    settings = ClassifierConfig(steps=60, width=4, batch_size=12, runs=2, jitter=0, side=8)
    train, test = colours(16), colours(9, seed=10)
    names = test.domains
    common: dict[str, Any] = {"train": train, "metrics": ["classifier"], "classifier_config": settings}
    good, lazy = (evaluate(translator(kind(names)), test, **common)["classification"] for kind in (Repaint, Lazy))
    assert good["rc"]["value"] > 0.9 and good["fc"]["value"] > 0.9 and good["ceiling"]["value"] > 0.9
    assert lazy["rc"]["value"] < 0.1 and lazy["fc"]["value"] < 0.1 and lazy["chance"] == pytest.approx(1 / 3)
    assert len(good["rc"]["runs"]) == 2 and good["config"]["steps"] == 60
    assert good["rc"]["n_generated"] == 6 * 9 and good["rc"]["n_real"] == 3 * 16
    assert good["fc"]["n_generated"] == 6 * 16 and good["fc"]["n_real"] == 3 * 9
    assert np.sum(good["rc"]["confusion"]) == 6 * 9 and np.trace(good["rc"]["confusion"]) > 48
    again = evaluate(translator(Repaint(names)), test, **common)["classification"]
    assert again["rc"]["runs"] == good["rc"]["runs"]


def test_rc_and_fc_are_refused_where_they_would_cheat_or_cannot_be() -> None:
    """On the training split, without training images, with one target domain, and with unknown settings."""
    pool = colours(8)
    with pytest.raises(ConfigError, match="leave out --split train"):
        evaluate(translator(Repaint(pool.domains)), pool, metrics=["classifier"], split="train", train=pool)
    with pytest.raises(ConfigError, match="need training images"):
        evaluate(translator(Repaint(pool.domains)), pool, metrics=["classifier"])
    with pytest.raises(ConfigError, match="two target domains"):
        evaluate(translator(OneWay(("red", "blue"))), pool, metrics=["classifier"], train=pool)
    for settings, said in (({"classifier.step": 3}, "Did you mean 'classifier"), ({"classifier.runs": 0}, "runs = 0")):
        with pytest.raises(ConfigError, match=said):
            classifier_settings(settings)


@pytest.mark.parametrize("side", ["test", "train"])
def test_classifiers_do_not_judge_or_learn_from_outputs_that_are_not_finite(side: str) -> None:
    """NaN among translations of test images: no RC; among those of training images: no FC; the others have their
    numbers."""
    sets = {"test": colours(5), "train": colours(6)}
    sets[side].images["red"][0] = 0
    model = translator(BrokenPaint(sets["test"].domains))
    common: dict[str, Any] = {"train": sets["train"], "metrics": ["classifier"], "classifier_config": QUICK}
    found = evaluate(model, sets["test"], **common)["classification"]
    lost, there = ("rc", "fc") if side == "test" else ("fc", "rc")
    assert found[lost]["value"] is None and found[lost]["not_comparable"] == "2 outputs are not finite"
    assert found[there]["value"] is not None and found["ceiling"]["value"] is not None


@pytest.mark.parametrize("side", ["test", "train"])
def test_classifiers_of_a_domain_without_images_are_no_numbers(side: str) -> None:
    """0 real images of a domain: RC, FC and ceiling say so, and the other figures are given."""
    sets = {"test": colours(5), "train": colours(6)}
    sets[side].images["green"] = np.zeros((0, 16, 16, 3), np.uint8)
    model = translator(Repaint(sets["test"].domains))
    common: dict[str, Any] = {"train": sets["train"], "metrics": ["classifier", "errors"], "classifier_config": QUICK}
    results = evaluate(model, sets["test"], **common)
    for name in ("rc", "fc", "ceiling"):
        figure = results["classification"][name]
        assert figure["value"] is None and figure["not_comparable"] == f"no {side} images of green"
    assert results["directions"][0]["identity_error"]["value" if side == "train" else "not_comparable"] is not None


def test_accuracy_of_a_classifier_with_its_confusion_table(tmp_path: Path) -> None:
    """A classifier of bright and dark pictures on labelled ones of which two have the wrong label: 10 of 12, both off
    the diagonal, with interval, classes and hash; classes that it does not know and half of the options are refused."""
    pixels = np.concatenate([np.full((6, 8, 8, 3), v, np.uint8) for v in (20, 230)])
    images, labels = to_tensor(pixels), torch.arange(2).repeat_interleave(6)
    how = Training(2, 8, 4, 60, 12)
    fitted = train_classifier(lambda i: (images[i], labels[i]), 12, lambda _: 0.0, how, seed=0)
    file = save_classifier(tmp_path / "c.safetensors", fitted.last, ("dark", "bright"), DataConfig(size=8))
    for i, picture in enumerate(pixels):
        name = ("dark", "bright")[labels[i] if i not in (0, 11) else 1 - labels[i]]
        write(tmp_path / "labelled" / name / f"{i}.png", picture)
    pool = ArrayPool({"day": tiny.pictures(2, 16), "night": tiny.pictures(2, 16)})
    options: dict[str, Any] = {"metrics": ["errors"], "classifier": file, "labelled": tmp_path / "labelled"}
    results = evaluate(translator(Negative()), pool, **options)
    found = results["adaptation"]
    assert found["accuracy"]["value"] == pytest.approx(10 / 12) and found["accuracy"]["n_real"] == 12
    low, high = found["accuracy"]["interval"]
    assert low < 10 / 12 < high and found["classes"] == ["dark", "bright"] and len(found["classifier_sha256"]) == 64
    assert found["confusion"] == [[5, 1], [1, 5]]
    assert "adaptation" in format_table(results)
    (tmp_path / "labelled").rename(tmp_path / "train")
    shutil.copytree(tmp_path / "train", tmp_path / "labelled" / "train")
    with pytest.raises(DataError, match="no test folder"):  # its training images are not taken instead
        evaluate(translator(Negative()), pool, **options)
    shutil.copytree(tmp_path / "labelled/train", tmp_path / "labelled/test")
    assert evaluate(translator(Negative()), pool, **options)["adaptation"]["accuracy"]["n_real"] == 12
    (tmp_path / "labelled/test/dark").rename(tmp_path / "labelled/test/grey")
    with pytest.raises(ConfigError, match="grey are none of the classifier's"):
        evaluate(translator(Negative()), pool, **options)


@pytest.fixture(scope="module")
def alex() -> LPIPS:
    """LPIPS over an AlexNet of random convolutions."""
    g = torch.Generator().manual_seed(1)
    state = {k: 0.05 * torch.randn(v.shape, generator=g) for k, v in tiny.file_state("alexnet").items()}
    channels = (64, 192, 384, 256, 256)
    return LPIPS("alex", state, {f"lin{i}.model.1.weight": torch.rand(c, generator=g) for i, c in enumerate(channels)})


def test_lpips_to_the_input_and_diversity(alex: LPIPS) -> None:
    """A translator that does nothing has distance 0 to the input and, without randomness, no diversity, and the reason
    is said; one with noise has diversity above 0; what is made of noise alone has no distance to the input; with one
    NaN neither is a number, and the reason counts them."""
    pool = ArrayPool({d: tiny.pictures(6, 16, i) for i, d in enumerate(("day", "night"))})

    def measured(kind: type[Negative]) -> dict[str, Any]:
        found: dict[str, Any] = evaluate(translator(kind()), pool, metrics=["lpips"], networks=[alex])["directions"][0]
        return found

    still, noisy, dice = map(measured, (Lazy, Noise, Dice))
    assert still["lpips_to_input_alex"]["value"] == 0 and noisy["lpips_to_input_alex"]["value"] > 0
    assert "one input has one result" in still["lpips_diversity_alex"]["not_comparable"]
    assert noisy["lpips_diversity_alex"]["value"] > 0 and noisy["lpips_diversity_alex"]["samples"] == 5
    assert len(noisy["per_image"]["lpips_to_input_alex"]) == 6
    assert "lpips_diversity_alex" in dice and "lpips_to_input_alex" not in {**dice, **dice["per_image"]}
    pool.images["day"][0] = 255
    broken = measured(BrokenNoise)
    for key in ("lpips_to_input_alex", "lpips_diversity_alex"):
        assert broken[key]["value"] is None and broken[key]["not_comparable"] == "1 outputs are not finite", key


def test_lpips_over_a_network_that_training_looked_through_is_marked(alex: LPIPS) -> None:
    """A model whose loss saw AlexNet: a warning, the provenance, and `compare` say so, and rank nobody by it."""
    pool = ArrayPool({"day": tiny.pictures(4, 16), "night": tiny.pictures(4, 16, 1)})
    model = translator(Noise())
    model.header["pretrained"] = [{"name": "alexnet"}]
    found = evaluate(model, pool, metrics=["lpips"], networks=[alex])
    assert found["provenance"]["lpips"]["alex"]["independent"] is False
    assert any("lpips_alex are not independent" in w for w in found["warnings"])
    (row,) = [r for r in compare([found, found]).rows if r.key == "lpips_diversity_alex" and r.direction[0] == "d"]
    assert all("not independent" in c.reason and not c.best for c in row.cells)


CHILD = """
import sys; sys.path[:0] = [{tests!r}, {tests!r} + "/evaluation"]
import torch; torch.set_num_threads(1)
import tiny
from test_evaluation import Colours
from torch import Tensor
from toys import Noise, translator
from unpaired.data.sampling import ArrayPool
from unpaired.evaluation.run import evaluate
pool = ArrayPool({{"day": tiny.pictures(11, 16), "night": tiny.pictures(8, 16, 1)}})
evaluate(translator(Noise()), pool, networks=[Colours()], bootstrap=20, batch_size=3, out={out!r})
"""


def test_two_processes_have_the_results_of_one(tmp_path: Path) -> None:
    """11 and 8 pictures, noise in the outputs: every figure of two gloo processes equals that of one to 1e-9."""
    found = []
    for world in (1, 2):
        out = tmp_path / f"{world}.json"
        script = CHILD.format(tests=str(Path(__file__).parents[1]), out=str(out))
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        common = {**os.environ, "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        common["UNPAIRED_RANK_TIMEOUT"] = "60"
        places = [{**common, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(world)]
        job = [subprocess.Popen([sys.executable, "-c", script], env=place) for place in places]
        assert [child.wait(timeout=120) for child in job] == [0] * world
        found.append(json.loads(out.read_text()))
    assert [f["provenance"]["processes"] for f in found] == [1, 2]

    one, two = (numbers({k: v for k, v in f.items() if k != "provenance"}) for f in found)
    assert one.keys() == two.keys()
    for place, value in one.items():
        close = pytest.approx(value, rel=1e-9, abs=1e-12) if isinstance(value, float) else value
        assert two[place] == close, place


def numbers(value: Any, where: str = "") -> dict[str, Any]:
    """Place -> value of all that is no dictionary or list."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {where: value}
    return {k: v for name, item in items for k, v in numbers(item, f"{where}/{name}").items()} | {where: len(value)}


def test_no_batch_size_changes_a_figure_of_a_network() -> None:
    """SqueezeNet with random weights, 1, 5 and 16 pictures at a time, with and without features known already: the same
    numbers to the last bit, because the network always sees batches of one shape."""
    torch.manual_seed(0)
    network = backbone_from_state("squeezenet1_1", tiny.file_state("squeezenet1_1"))
    pool = ArrayPool({"day": tiny.pictures(4, 16), "night": tiny.pictures(3, 16, 1)})
    found = [
        evaluate(translator(Negative()), pool, networks=[network], bootstrap=0, batch_size=b, cache=cached)
        for b, cached in ((1, False), (5, False), (16, True), (3, True))
    ]
    assert all(f["directions"] == found[0]["directions"] and f["means"] == found[0]["means"] for f in found)
    passed = [f["provenance"]["backbones"]["squeezenet1_1"]["passed"] for f in found]
    assert passed == [14, 14, 14, 0]
