"""compare: what stands side by side, what is flagged and why, the three formats, files that are no results."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from test_evaluation import Colours

import tiny
from toys import Negative, Noise, translator
from unpaired import cli
from unpaired.data.sampling import ArrayPool
from unpaired.errors import ConfigError, DataError
from unpaired.evaluation.results import _escaped, compare
from unpaired.evaluation.run import evaluate
from unpaired.report.gather import gather

Two = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def results() -> Two:
    """A perfect translator and a noisy one on the same images."""
    pool = ArrayPool({"day": tiny.pictures(24, 16, 0), "night": 255 - tiny.pictures(24, 16, 1)})
    good, noisy = (evaluate(translator(kind()), pool, networks=[Colours()], bootstrap=40) for kind in (Negative, Noise))
    return good, noisy


def cells(found: Any, key: str, direction: str = "day → night") -> tuple[Any, ...]:
    (row,) = [r for r in found.rows if (r.key, r.direction) == (key, direction)]
    return row.cells


def test_the_better_one_is_marked_where_intervals_are_apart(results: Two) -> None:
    """The perfect translator's cycle error and distance are marked, the noisy one's are not; equal figures mark
    nothing; baseline and floor stand beside them."""
    good, noisy = results
    found = compare([good, noisy])
    assert [c.best for c in cells(found, "FD-colours")] == [True, False]
    assert [c.best for c in cells(found, "cycle_error")] == [True, False]
    assert not any(c.best or c.reason for c in cells(compare([good, copy.deepcopy(good)]), "FD-colours"))
    (row,) = [r for r in found.rows if (r.key, r.direction) == ("FD-colours", "day → night")]
    assert row.before is not None and row.floor is not None and row.better == "lower"
    assert {"mean", "day", "night"} <= {r.direction for r in found.rows}
    assert any("below 2,000" in w for w in found.warnings)


@pytest.mark.parametrize(
    ("change", "key", "reason"),
    [
        ({"data": "f" * 64}, "cycle_error", "images: "),
        ({"split": "train"}, "cycle_error", "split: test and train"),
        ({"size": 32}, "FD-colours", "image size: 16 and 32"),
        ({"sha256": "1" * 64}, "FD-colours", "weights of the backbone"),
        ({"independent": False}, "FD-colours", "not independent: training looked through"),
        ({"resize": "box"}, "recall-colours", "resize: none and box"),
        ({"precision": "bf16"}, "KD-colours", "fp32 and bf16"),
    ],
)
def test_what_cannot_be_compared_is_said(results: Two, change: dict[str, Any], key: str, reason: str) -> None:
    """Other images, split, size, weights, resize or precision: the cell has the reason and is never the best; figures
    without features do not mind another backbone."""
    other = copy.deepcopy(results[1])
    network = other["provenance"]["backbones"]["colours"]
    (other["provenance"] if change.keys() & {"data", "split", "size"} else network).update(change)
    first, second = cells(compare([results[0], other]), key)
    assert not first.reason and reason in second.reason and not first.best and not second.best
    if network.keys() & change.keys():
        assert not cells(compare([results[0], other]), "cycle_error")[1].reason


def test_other_numbers_of_images_and_figures_without_a_value(results: Two) -> None:
    """Half of the images, and a figure that is none: both with their reasons; a figure that a file lacks is a dash."""
    other = copy.deepcopy(results[1])
    entry = other["directions"][0]
    entry["FD-colours"] |= {"n": [12, 24], "n_generated": 12}
    entry["KD-colours"] = {"value": None, "not_comparable": "no images", "n": [0, 24], "n_generated": 0, "n_real": 24}
    del entry["change"]
    found = compare([results[0], other])
    assert cells(found, "FD-colours")[1].reason == "generated images: 24 and 12"
    assert cells(found, "KD-colours")[1].reason == "no images" and cells(found, "change")[1].figure is None
    text = found.text()
    assert "n. c. (" in text and "–" in text and "no images" in text


def test_three_formats(results: Two, tmp_path: Path) -> None:
    """Markdown has as many cells in each row and bold for the best; LaTeX has balanced braces, escaped names and a
    booktabs table."""
    for name, found in zip(("ours_50%", "theirs"), results, strict=True):
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    found = compare([tmp_path / "ours_50%.json", tmp_path / "theirs.json"])
    assert found.columns == ("ours_50%", "theirs")
    rows = [line for line in found.text("markdown").splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1 and len(rows) == len(found.rows) + 2
    assert any("| **" in row for row in rows)
    latex = found.text("latex")
    body = [line for line in latex.splitlines() if not line.startswith("%")]
    assert body[0].startswith(r"\begin{tabular}{ll") and body[-1] == r"\end{tabular}"
    assert "\n".join(body).count("{") == "\n".join(body).count("}") and r"ours\_50\%" in latex and r"\textbf{" in latex
    assert len({line.count("&") for line in body if line.endswith(r"\\")}) == 1
    assert _escaped("FD-x -0.5 [-1, 2]") == "FD-x $-$0.5 [$-$1, 2]"  # a hyphen stays, a sign becomes a minus
    assert _escaped("2.1e-05 3e+08") == r"2.1$\cdot10^{-5}$ 3$\cdot10^{8}$"
    with pytest.raises(ConfigError, match="text, markdown, latex"):
        found.text("html")  # type: ignore[arg-type]


def test_columns_are_named_by_what_tells_the_files_apart(results: Two, tmp_path: Path) -> None:
    """Equal file names: the folders; a run with a best checkpoint has two columns."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(results[0]))
    files = [tmp_path / n / "results.json" for n in ("a", "b")]
    assert compare(files).columns == ("a/results", "b/results")
    both = {**results[0], "best": results[1]}
    assert compare([both, results[1]], names=["run", "other"]).columns == ("run (last)", "run (best)", "other")


def test_the_command_line_and_its_refusals(results: Two, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """compare prints or writes; one file, a missing one, no JSON and other JSON exit 2 with the reason."""

    def run(*arguments: object) -> int:
        with pytest.raises(SystemExit) as left:
            cli.main([str(a) for a in arguments])
        return int(left.value.code or 0)

    for name, found in zip("ab", results, strict=True):
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    assert run("compare", a, b) == 0 and "FD-colours" in capsys.readouterr().out
    assert run("compare", a, b, "--format", "latex", "--out", tmp_path / "deep/t.tex") == 0
    assert r"\toprule" in (tmp_path / "deep/t.tex").read_text()
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "other.json").write_text("[1]")
    for arguments, text in (
        ((a,), "at least two"),
        ((a, tmp_path / "none.json"), "cannot be read"),
        ((a, tmp_path / "bad.json"), "not a JSON file"),
        ((a, tmp_path / "other.json"), "no results of"),
    ):
        assert run("compare", *arguments) == 2 and text in capsys.readouterr().err
    with pytest.raises(DataError, match="no results"):
        compare([a, tmp_path / "other.json"])


FIGURE = "directions.0.FD-colours"
MALFORMED: list[tuple[str, Any, str]] = [
    ("directions", [1], ".0: "),
    ("directions.0.source", 7, ": "),
    (f"{FIGURE}.n", None, ""),
    (f"{FIGURE}.n", [24], ""),
    (f"{FIGURE}.value", "small", ": .*number"),
    (f"{FIGURE}.interval", [1], ": .*at least 2"),
    (f"{FIGURE}.before", 3, ": "),
    (f"{FIGURE}.floor.std", {}, ": "),
    (f"{FIGURE}.not_comparable", ["a"], ": .*string"),
    ("reconstruction", [1], ": .*dictionary"),
    ("reconstruction.day", 3, ": "),
    ("measures.FD-colours", {"better": ["lower"]}, ".better: "),
    ("provenance", [1], ": "),
    ("provenance.backbones", {"colours": 1}, ""),
    ("adaptation", {"confusion": [[1, 2], [3]], "classes": ["a", "b"]}, ": .*confusion table is square"),
    ("classification", {"rc": {"value": 0.5, "n": 4, "confusion": [[1, -1]]}}, ".rc.confusion.0.1: "),
    ("warnings", "careful", ": .*list"),
    ("best", {"directions": [1]}, ".directions.0: "),
]


@pytest.mark.parametrize(("path", "value", "where"), MALFORMED)
def test_malformed_results_are_refused_by_compare_and_report(
    results: Two, path: str, value: Any, where: str, tmp_path: Path
) -> None:
    """A file of the right form with a value of another kind: both readers name file and place; without it both read the
    file."""
    good, bad = results[0], copy.deepcopy(results[0])
    *parents, last = path.split(".")
    place: Any = bad
    for part in parents:
        place = place[int(part) if part.isdigit() else part]
    place[last] = value
    for name, found in (("good", good), ("bad", bad)):
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    with pytest.raises(DataError, match=rf"bad\.json.*{path}{where}"):
        compare([tmp_path / "good.json", tmp_path / "bad.json"])
    with pytest.raises(DataError, match=rf"bad\.json.*{path}{where}"):
        gather([tmp_path / "bad.json"])
    assert gather([tmp_path / "good.json"]).results[0][1] == good


def test_a_first_column_without_a_number_is_no_yardstick(results: Two) -> None:
    """A one-way model has no cycle error: the other columns are compared with each other, N is theirs, and the note
    does not speak of a comparison."""
    one_way = copy.deepcopy(results[1])
    reason = "the way back does not exist"
    one_way["directions"][0]["cycle_error"] = {"value": None, "not_comparable": reason, "n": 0}
    found = compare([one_way, results[0], results[1]])
    first, good, noisy = cells(found, "cycle_error")
    assert first.reason == reason and not good.reason and not noisy.reason and good.best
    line = next(line for line in found.text("markdown").splitlines() if "cycle_error" in line)
    assert line.rstrip(" |").endswith("| 24")
    assert f"n. c., no number to compare: {reason}" in found.text() and "of its row: the way back" not in found.text()


def test_other_classifiers_networks_and_draws_are_flagged(results: Two) -> None:
    """RC of another schedule, LPIPS of other weights, and as many images drawn with another seed cannot be compared."""
    figure = {"value": 0.5, "interval": [0.4, 0.6], "n": [6, 6], "n_generated": 6, "n_real": 6}
    pair = [copy.deepcopy(r) for r in results]
    for found, steps, digest in zip(pair, (300, 500), ("a" * 64, "b" * 64), strict=True):
        found["classification"] = {"rc": figure, "classes": ["day", "night"], "config": {"steps": steps, "width": 32}}
        found["directions"][0]["lpips_to_input_alex"] = figure
        found["provenance"] |= {"lpips": {"alex": {"network": digest}}}
    compared = compare(pair)
    assert cells(compared, "rc", "classifier")[1].reason == "classifier.steps: 300 and 500"
    assert cells(compared, "lpips_to_input_alex")[1].reason == "weights of LPIPS: aaaaaaaaaaaa and bbbbbbbbbbbb"
    assert not cells(compared, "change")[1].reason
    for found, seed in zip(pair, (0, 1), strict=True):
        found["provenance"] |= {"limit": 24, "seed": seed}
    assert cells(compare(pair), "change")[1].reason == "images drawn with seed: 0 and 1"


def test_a_paper_s_table_explains_itself(results: Two) -> None:
    """In LaTeX intervals, what is not comparable and the warning about few images stand in the table, not in comments;
    equal warnings of several files stand once, with all their names."""
    other = copy.deepcopy(results[1])
    other["provenance"]["split"] = "train"
    latex = compare([results[0], other], names=["ours_1", "theirs"]).text("latex")
    table = latex[latex.index(r"\begin{tabular}") :]
    assert r"95 \% interval" in table and "split: test and train" in table and "Bold: its interval" in table
    assert table.count("below 2,000") == 1 and r"ours\_1, theirs: only 24 images" in table
