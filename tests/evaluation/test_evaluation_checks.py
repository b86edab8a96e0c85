"""evaluate, compare and report: mistakes are refused before the work, and what fails at its end takes no figure
along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report_toys import many  # noqa: F401 - a fixture
from test_evaluation import Colours
from test_evaluation_pairs import Dark, pairs
from torch import Tensor

import tiny
from toys import Negative, OneWay, translator
from unpaired import cli
from unpaired.data.sampling import ArrayPool
from unpaired.errors import RefusedError, UnpairedError
from unpaired.evaluation.run import evaluate


class Untouched(Dark):
    """A model that nothing may be translated with."""

    def render(self, images: Tensor, source: str | None, target: str, *inputs: Tensor) -> Tensor:
        """Never asked."""
        pytest.fail("something was translated")


def pool(count: int = 4) -> ArrayPool:
    return ArrayPool({"day": tiny.pictures(count, 16, 0), "night": 255 - tiny.pictures(count, 16, 1)})


def masks(root: Path, sizes: tuple[tuple[int, int], ...]) -> Path:
    """Pictures of 20×30 whose left half is dark, each with a true mask of the left third in the given size."""
    for i, (height, width) in enumerate(sizes):
        picture = np.full((20, 30, 3), 220, np.uint8)
        picture[:, :15] = 30
        truth = np.zeros((height, width), np.uint8)
        truth[:, : width // 3] = 255
        for name, image in (("day", picture), ("mask", truth)):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / name / f"{i}.png")
    return root


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"out": "folder"}, r"is a folder; name the file, as in --out .*folder/results\.json"),
        ({"out": "file/deep/results.json"}, "file is no folder"),
        ({"pairs": "absent"}, "absent: no such folder"),
        ({"pairs": "folder"}, "no pairs"),
        ({"pairs": "lonely"}, r"no partner for 1\.png"),
        ({"pairs": "pairs", "left": "nigt"}, "Did you mean 'night'"),
        ({"pairs": "pairs", "palette": "absent"}, "palette .*absent: cannot be read"),
        ({"threshold": -1}, "threshold = -1"),
        ({"threshold": float("nan")}, "threshold = nan: must be a finite number"),
        ({"threshold": (12, float("inf"))}, "threshold = inf"),
        ({"threshold": ()}, "threshold: none is named"),
        ({"masks": "absent"}, "no folder 'mask'"),
        ({"masks": "masks", "mask_threshold": float("nan")}, "mask_threshold = nan"),
        ({"classifier": "absent", "labelled": "folder"}, "absent: no such file"),
        ({"metrics": ()}, "metrics: none is named"),
        ({"metrics": ["distance"]}, "Did you mean 'distances'"),
        ({"by": "pair"}, "'auto', 'direction' or 'target'"),
        ({"bootstrap": 5}, "at least 20"),
        ({"labelled": "folder"}, "go together"),
        ({"palette": "facades"}, "needs --pairs"),
        ({"batchsize": 5}, "Did you mean 'batch_size'"),
        ({"metrics": ("lpips",), "lpips": ()}, "lpips: no network"),
    ],
)
def test_mistakes_cost_no_translation(options: dict[str, Any], text: str, tmp_path: Path) -> None:
    """Each is refused (exit 2) in words before the first picture is translated."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    pairs(tmp_path / "pairs", joined=True)
    (pairs(tmp_path / "lonely", joined=False) / "night/1.png").unlink()
    masks(tmp_path / "masks", ((20, 30),))
    paths = ("out", "pairs", "palette", "masks", "classifier", "labelled")
    given = {k: tmp_path / v if k in paths else v for k, v in options.items()}
    with pytest.raises(RefusedError, match=text):
        evaluate(translator(Untouched()), pool(), **{"networks": [Colours()], "bootstrap": 0, **given})
    if "masks" in options:  # the same folder with a model that has no attention
        with pytest.raises(RefusedError, match="no attention"):
            evaluate(translator(OneWay()), pool(), networks=[Colours()], masks=masks(tmp_path / "m", ((20, 30),)))


def test_a_picture_that_cannot_be_used_costs_its_own_figures_alone(tmp_path: Path) -> None:
    """A true mask of another size, and a pair of an odd width: these figures are not comparable, with file and sizes in
    the reason; all others have their numbers."""
    root = pairs(tmp_path / "pairs", joined=True)
    Image.fromarray(np.zeros((16, 17, 3), np.uint8)).save(root / "odd.png")
    results = evaluate(
        translator(Dark()),
        pool(),
        networks=[Colours()],
        bootstrap=0,
        pairs=root,
        masks=masks(tmp_path / "m", ((20, 30), (10, 15))),
    )
    (entry,) = results["directions"]
    for key in ("mask_iou_0.5", "mask_f1_0.5"):
        assert entry[key]["value"] is None and "1.png: 15×10 pixels, but the picture" in entry[key]["not_comparable"]
        assert "has 30×20" in entry[key]["not_comparable"]
    for key in ("pixel_accuracy_sum_12", "pixel_accuracy_channel_16"):
        assert entry[key]["value"] is None and "17 pixels wide" in entry[key]["not_comparable"]
    assert entry["FD-colours"]["value"] is not None and entry["change"]["value"] is not None


def test_results_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    """A file takes the place of the folder of --out while the work goes on: the error has path, cause and the whole
    table."""

    class Blocking(Colours):
        def __call__(self, images: Tensor) -> Tensor:
            (tmp_path / "deep").touch()
            return super().__call__(images)

    with pytest.raises(UnpairedError, match=r"results\.json: could not be written: File exists") as caught:
        evaluate(
            translator(Negative()), pool(), networks=[Blocking()], bootstrap=0, out=tmp_path / "deep" / "results.json"
        )
    assert "FD-colours" in str(caught.value) and "cycle error" in str(caught.value)


def test_the_commands_refuse_a_folder_as_their_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """compare and report exit 2 and say what to type; none calls it a bug."""
    results = tmp_path / "r.json"
    evaluate(translator(Negative()), pool(), metrics="errors", out=results)
    for command, text in (("compare", "as in --out"), ("report", "report.html")):
        with pytest.raises(SystemExit) as left:
            cli.main([command, *([str(results)] * 2), "--out", str(tmp_path)])
        said = capsys.readouterr().err
        assert left.value.code == 2 and text in said and "bug" not in said, said
