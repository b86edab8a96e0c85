"""evaluate, compare and report: mistakes are refused before the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_toys import many  # noqa: F401 - a fixture
from test_evaluation import Colours, pool
from test_truth import Dark, masks, pairs
from torch import Tensor

from toys import Negative, OneWay, translator
from unpaired import cli
from unpaired.errors import RefusedError
from unpaired.evaluation.run import evaluate


class Untouched(Dark):
    """A model that nothing may be translated with."""

    def render(self, images: Tensor, source: str | None, target: str, *inputs: Tensor) -> Tensor:
        """Never asked."""
        pytest.fail("something was translated")


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
        evaluate(translator(Untouched()), pool(4), **{"networks": [Colours()], "bootstrap": 0, **given})
    if "masks" in options:  # the same folder with a model that has no attention
        with pytest.raises(RefusedError, match="no attention"):
            evaluate(translator(OneWay()), pool(4), networks=[Colours()], masks=masks(tmp_path / "m", ((20, 30),)))


def test_the_commands_refuse_a_folder_as_their_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """compare and report exit 2 and say what to type; none calls it a bug."""
    results = tmp_path / "r.json"
    evaluate(translator(Negative()), pool(4), metrics="errors", out=results)
    for command, text in (("compare", "as in --out"), ("report", "report.html")):
        with pytest.raises(SystemExit) as left:
            cli.main([command, *([str(results)] * 2), "--out", str(tmp_path)])
        said = capsys.readouterr().err
        assert left.value.code == 2 and text in said and "bug" not in said, said
