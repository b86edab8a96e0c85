"""unpaired report: everything that a run's report must hold, and plain words for all that cannot be shown."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
import report_toys
from report_toys import many  # noqa: F401 - a fixture
from test_evaluation import Colours
from test_report import Page

import tiny
import unpaired
from unpaired import checkpoint, weights
from unpaired.cli import main
from unpaired.config import EvaluateConfig, ReportConfig
from unpaired.data.check import check
from unpaired.data.folders import find
from unpaired.data.sampling import ArrayPool, hold_out, open_pool
from unpaired.errors import DataError, RefusedError
from unpaired.evaluation.results import compare, format_table
from unpaired.report import Report, figures, looks, sections, write_report
from unpaired.report.gather import Subject, _open_tree, read_log

SETTINGS = {
    "data.size": 16, "data.cache": False, "training.device": "cpu", "training.precision": "fp32",
    "training.log_every": 1,
    "training.checkpoint_every": 4, "training.sample_every": 4, "training.samples": 3, "training.tensorboard": False,
    "seed": 3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No weights on this machine, and no downloads, unless a test gives their place."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("UNPAIRED_OFFLINE", "1")
    monkeypatch.delenv("UNPAIRED_WEIGHTS", raising=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(run, data) of the tiny method. Tests that change something take a copy."""
    root = tmp_path_factory.mktemp("trained")
    data = tiny.folder(root / "data")
    unpaired.train(data, root / "run", method="tiny", settings=SETTINGS, quiet=True)
    return root / "run", data


def words_of(path: Path) -> str:
    """All text of a page, after it was parsed."""
    return " ".join(" ".join(Page(path.read_text(encoding="utf-8")).texts).split())


def told(*paths: Path, out: Path, **options: Any) -> str:
    """All text of the report of these paths, written into the folder ``out``."""
    return words_of(write_report(*paths, out=out / "r.html", **options))


def figure(value: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    return {"value": value, "interval": [low, high], "n": [40, 50], **more}


def results(value: float = 1.0, **more: Any) -> dict[str, Any]:
    """As `unpaired evaluate` writes them."""
    floor, before = figure(0.1, 0.05, 0.2), figure(3.0, 2.5, 3.5)
    entry = {
        "source": "red", "target": "blue", "n_source": 40, "n_target": 50,
        "KD-toy": figure(value, value - 0.1, value + 0.1, before=before, floor=floor),
        "FD-toy": {"value": None, "not_comparable": "constant <features>", "n": [40, 50]},
        "cycle_error": {"value": 0.25, "n": 40},
        "per_image": {"index": [0]}, "of_tomorrow": {"value": 7.0, "n": 3},
    }  # fmt: skip
    return {
        "directions": [entry], "reconstruction": {"red": {"value": 0.125, "n": 40}}, "warnings": ["only 40 images"],
        "measures": {"KD-toy": {"title": "Kernel distance", "better": "lower"}},
        "provenance": {"method": "tiny", "split": "test", "model_sha256": "a" * 64, "seed": 0, "n": {"red": 40}},
        **more,
    }  # fmt: skip


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_a_report_of_a_run_has_all_of_it(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lead, both directions' sheets and sliders, curves, settings, data doctor, failures and commands, without any
    option: the run knows its data. Every picture has a text; the page nests; nothing is fetched."""
    run, data = trained
    out = tmp_path / "deep" / "r.html"
    given = [str(run), str(write_json(tmp_path / "results.json", results()))]
    with pytest.raises(SystemExit) as left:
        main(["report", *given, "--out", str(out), "--limit", "4"])
    assert left.value.code == 0 and f"open {out}" in capsys.readouterr().out
    html, text = out.read_text(encoding="utf-8"), words_of(out)
    page = Page(html)
    for words in (
        "Trained for 13 steps", "12 images of blue and 12 images of red", "at 16×16 pixels, seed 3",
        "translates blue to red and red to blue",
        "input: red", "as blue", "and back to red", "input: blue", "step 4", "both", "critic",
        "share that a player judges rightly",
        "training.checkpoint_every", "Steps between two checkpoints", "few training images in blue (12), red (12)",
        "changed the least", "Changed the most",
        "unpaired train", "unpaired report", 'method = "tiny"', "Kernel distance", "nearer to real images of blue",
    ):  # fmt: skip
        assert words.lower() in text.lower(), words
    assert len(page.all("input")) == 6 and len([i for i in page.all("img") if i["alt"]]) == len(page.all("img")) > 30
    assert "How it was learnt" in text
    assert 'src="http' not in html and "url(" not in html and "Traceback" not in html
    origin = json.loads((run / "origin.json").read_text())
    assert origin["data"] == str(data) and origin["command"] in text


def test_the_command_of_a_run_trains_the_same_model(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """What the report says to type gives the same weights; so does config.toml. A resume keeps the first command."""
    run, data = trained
    typed = json.loads((run / "origin.json").read_text())["command"]
    again = typed.replace(shlex.quote(str(run)), shlex.quote(str(tmp_path / "again")))
    with pytest.raises(SystemExit) as left:
        main([*shlex.split(again)[1:], "--quiet"])
    assert left.value.code == 0
    unpaired.train(data, tmp_path / "from-config", config=run / "config.toml", quiet=True)
    first = unpaired.load(run).method.state_dict()
    for place in ("again", "from-config"):
        other = unpaired.load(tmp_path / place).method.state_dict()
        assert all(bool((first[k] == other[k]).all()) for k in first)
    before = json.loads((tmp_path / "again" / "origin.json").read_text())["command"]
    unpaired.train(data, tmp_path / "again", quiet=True)
    assert json.loads((tmp_path / "again" / "origin.json").read_text())["command"] == before


def test_without_weights_three_sections_say_so(
    trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Map and neighbours name the missing file; the failure gallery goes on with pixels and says it."""
    monkeypatch.setattr(weights, "first", lambda _: weights.find("no such weights"))
    text = told(trained[0], out=tmp_path, limit=4)
    assert text.count("no such weights") >= 3
    assert "mean difference of the pixels" in text and "unpaired evaluate" in text


def test_data_that_moved_away_is_said_plainly(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """The sheets that training left stand in; with --data the new place is used; a wrong --data is refused."""
    run = shutil.copytree(trained[0], tmp_path / "run")
    origin = json.loads((run / "origin.json").read_text())
    write_json(run / "origin.json", {**origin, "data": str(tmp_path / "gone")})
    text = told(run, out=tmp_path, limit=4)
    assert "The images are not where the run was trained" in text and "--data DATA" in text
    assert "over the steps, from the sheets that training left" in text and "images that are not here any more" in text
    moved = told(run, out=tmp_path, data=[str(trained[1])], limit=4)
    assert "as blue" in moved and "fingerprints differ" not in moved
    other = tiny.folder(tmp_path / "other", count=9)
    assert "fingerprints differ" in told(run, out=tmp_path, data=[str(other)], limit=4)
    with pytest.raises(DataError, match="gone"):
        write_report(run, out=tmp_path / "r.html", data=[str(tmp_path / "gone")])
    (run / "origin.json").unlink()
    assert "Nothing says where the images are" in told(run, out=tmp_path, limit=4)


def test_images_can_be_named_by_domain(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """DOMAIN=PATH for folders and npz files; without test images the page says that training images are shown; a
    strange name is refused with the nearest."""
    red = tmp_path / "red.npz"
    np.savez(red, x_train=tiny.pictures(9, 16), x_test=tiny.pictures(4, 16, 5))
    blue = trained[1] / "train" / "blue"
    text = told(trained[0], out=tmp_path, data=[f"red={red}", f"blue={blue}"], limit=4)
    assert "There are no test images of blue" in text and "9 images of red" in text
    with pytest.raises(DataError, match="Did you mean 'blue'"):
        write_report(trained[0], out=tmp_path / "r.html", data=[f"red={red}", f"bleu={blue}"])


def test_damage_is_said_not_raised(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """A run whose checkpoints are damaged still has its curves and sheets; a cut log, a crash note, and foreign files
    in the folder are no traceback."""
    run = shutil.copytree(trained[0], tmp_path / "run")
    for model in run.glob("checkpoints/*/model.safetensors"):
        model.write_bytes(b"\0" * 100)
    with (run / "log.jsonl").open("a") as file:
        file.write('{"step": 14, "sta')
    crash = {"step": 13, "stage": "second", "update": "both", "why": "non-finite loss"}
    write_json(run / "crash-step-000000013.json", crash)
    for name, content in (("crash-step-000000014.json", "{"), ("results.json", "no json"), ("origin.json", "[]")):
        (run / name).write_text(content)
    (run / "samples" / "step-000000008.png").write_bytes(b"no picture")
    text = told(run, out=tmp_path)
    for words in ("The model cannot be loaded", "damaged", "critic", "Training stopped at step 13", "not a JSON file"):
        assert words in text, words
    assert [e["step"] for e in read_log(run / "log.jsonl")] == list(range(1, 14))


def test_a_run_is_finished_when_its_last_stage_is(tmp_path: Path) -> None:
    """Steps are counted over all stages of the plan: a cascade has two a level, DeepI2I from scratch one in all."""
    for name, model in (("cascade", {"invert_all": True}), ("deepi2i", {"mode": "scratch", "transfer": []})):
        run = cases.config(name, model=model)
        method = cases.method(name, run)
        total = sum(stage.steps for stage in method.stages())
        for step, unfinished in ((total - 1, True), (total, False)):
            model_file = checkpoint.write_model(
                tmp_path / "m.safetensors", method, checkpoint.make_header(method, run, step=step)
            )
            subject = Subject(folder=tmp_path, config=run, translator=unpaired.load(model_file))
            job = sections.Job(Report("t"), subject, ReportConfig())
            sections.summary(job)
            assert any("not finished" in b.get("text", "") for b in job.page.blocks) is unfinished
            assert (f"{step:,} of {total:,} steps" in sections.lead(job)) is unfinished


def grid(path: Path) -> list[str]:
    """Texts of the pictures in the grid of every class."""
    return [i["alt"] or "" for i in Page(path.read_text(encoding="utf-8")).all("img") if "as every" in (i["alt"] or "")]


def test_many_classes_random_outputs_and_views(tmp_path: Path) -> None:
    """A stochastic method of five domains: several samples for each input, the method's own pictures by name, every
    class from every class in one square, three directions in full. Of thirteen: one input as each of the others."""
    names = ("apple", "bean", "corn", "date", "elder")
    model = report_toys.save(tmp_path / "many.safetensors", names)
    data = tiny.folder(tmp_path / "data", domains=names)
    out = write_report(model, out=tmp_path / "r.html", data=[str(data)], images=2, limit=3)
    text = words_of(out)
    for words in ("as bean, sample 1", "as bean, sample 4", "grey", "half", "from corn", "any of its 5 domains"):
        assert words in text, words
    assert grid(out) == [f"One image as every class, {b}: from {a}" for a in names for b in names]
    assert text.count("evenly over the held-out set") == 3
    names = tuple(f"kind{i:02d}" for i in range(13))
    model = report_toys.save(tmp_path / "more.safetensors", names)
    data = tiny.folder(tmp_path / "more", count=2, domains=names)
    out = write_report(model, out=tmp_path / "r.html", data=[str(data)], images=1, limit=2)
    assert [g.rsplit(", ", 1)[1] for g in grid(out) if "input" not in g] == list(names[1:])
    assert "13 domains: kind00, kind01, kind02, kind03, …" in words_of(out)


def test_samples_differ_and_the_page_repeats(tmp_path: Path) -> None:
    """Other samples are other pixels; the same command gives the same page, byte for byte."""
    model = report_toys.save(tmp_path / "many.safetensors", ("red", "blue"))
    data = tiny.folder(tmp_path / "data")
    translator = unpaired.load(model)
    rows = looks.sheet(translator, tiny.pictures(2, 16), "red", "blue")
    assert len({v.tobytes() for k, v in rows.items() if "sample" in k}) == looks.SAMPLES
    assert list(rows)[:3] == ["input: red", "grey", "half"]
    a = write_report(model, out=tmp_path / "r.html", data=[str(data)], images=2, limit=3).read_bytes()
    assert a == write_report(model, out=tmp_path / "r.html", data=[str(data)], images=2, limit=3).read_bytes()


def test_results_that_do_not_heed_their_input_are_told(tmp_path: Path) -> None:
    """Rows of samples have one noise for all inputs: where two inputs then look alike and two noises do not, the
    summary warns; a model that heeds its input has no such line."""
    data = tiny.folder(tmp_path / "data")
    for deaf in (False, True):
        model = report_toys.save(tmp_path / "m.safetensors", ("red", "blue"), deaf=deaf)
        rows = looks.sheet(unpaired.load(model), tiny.pictures(3, 16), "red", "blue")
        inputs, noises = looks.follows_noise(rows, "blue")
        assert (inputs == 0) is deaf and noises > 1
        text = told(model, out=tmp_path, data=[str(data)], images=2, limit=3)
        assert ("follow the random noise and hardly the input" in text) is deaf


def test_the_command_of_the_figures_names_all_that_was_asked() -> None:
    """Every option that the results record and that is not at its default, quoted for a shell; nothing where they
    record none."""
    asked = EvaluateConfig(
        out=Path("there.json"), metrics=("distances", "lpips"), seed=3, threshold=(8.0, 12.5), left="night side"
    )
    about = {"model": "m 1.safetensors", "options": asked.model_dump(mode="json")}
    assert sections.evaluate_command({"provenance": about}, "RUN", "DATA") == (
        "unpaired evaluate 'm 1.safetensors' DATA --metrics distances,lpips --seed 3 --threshold 8,12.5 --left 'night "
        "side' --out results.json"
    )
    for old in ({}, {"provenance": {"options": {"of_tomorrow": 1}}}):
        assert sections.evaluate_command(old, "RUN", "DATA") == "unpaired evaluate RUN DATA --out results.json"


def test_outputs_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    """NaN is shown black, counted in the summary, and left out of the gallery; nothing is raised."""
    model = report_toys.save(tmp_path / "many.safetensors", ("red", "blue"), spoilt=True)
    data = tiny.folder(tmp_path / "data", count=24)
    text = told(model, out=tmp_path, data=[str(data)], images=2, limit=6)
    assert "translations are not finite (NaN or infinity)" in text


@pytest.mark.parametrize("name", [m for m in cases.TRANSLATORS if m != "tiny"])
def test_every_method_has_a_report(name: str, tmp_path: Path) -> None:
    """A model of each method, untrained, in its contract test's tiny form: all that its pictures need is there,
    nothing is raised."""
    run = cases.config(name)
    method = cases.method(name, run)
    model = checkpoint.write_model(tmp_path / "m.safetensors", method, checkpoint.make_header(method, run))
    data = tiny.folder(tmp_path / "data", side=cases.SIZES.get(name, 32), domains=("red", "blue"))
    out = write_report(model, out=tmp_path / "r.html", data=[str(data)], images=2, limit=3)
    text = words_of(out)
    if method.from_noise:
        for words in ("from random noise", "translates none", "Images from noise", "from other noise"):
            assert words in text, words
        for words in ("Before and after", "and back to", "→", "Where to look for failures", "input: "):
            assert words not in text, words
        assert not Page(out.read_text(encoding="utf-8")).all("input")
        assert ("does not tell its domains apart" in text) == (name == "stylegan")
    else:
        assert f"as {method.directions[0][1]}" in text and "The model translates" in text
    assert f"{name} · {sections.PAPERS[name]}" in text and "What the data doctor" in text


def test_the_best_checkpoint_of_a_run_is_named(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """Step and value of the best and of the last, and how to see the best; a curve of the looks; a damaged note is
    left out."""
    run = shutil.copytree(trained[0], tmp_path / "run")
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    looked = [json.dumps({**entry, "validation/FD-x/red->blue": 9.0 - i}) for i, entry in enumerate(log)]
    (run / "log.jsonl").write_text("\n".join(looked))
    (run / "best").mkdir()
    best = {"criterion": "mean FD-x", "step": 8, "value": 2.5, "last": {"step": 13, "value": 3.5}}
    write_json(run / "best" / "best.json", best)
    text = told(run, out=tmp_path, limit=3)
    for words in ("By the mean FD-x, the best checkpoint is that of step 8 (2.5;", "validation FD-x"):
        assert words in text, words
    write_json(run / "best" / "best.json", {"value": "x"})
    assert "best checkpoint" not in told(run, out=tmp_path, limit=3)


def test_results_alone_are_compared(tmp_path: Path) -> None:
    """Two results side by side: intervals, N, unknown measures under their own names, what is not comparable, the
    best checkpoint."""
    best = {k: v for k, v in results(0.5).items() if k != "best"}
    one, two = (
        write_json(tmp_path / "one.json", results(1.0)),
        write_json(tmp_path / "two.json", results(5.0, best=best)),
    )
    text = told(one, two, out=tmp_path)
    for words in (
        "2 results compared", "KD-toy ↓", "1 [0.9, 1.1]", "40 / 50", "of tomorrow", "not comparable",
        "constant <features>", "only 40 images", "one: red → blue: translations are nearer",
        "two: red → blue: translations are further from", "best checkpoint", "0.5 [0.4, 0.6]", "aaaaaaaaaaaaaaaa…",
    ):  # fmt: skip
        assert words in text, words


def test_what_cannot_be_compared_is_in_no_common_chart(tmp_path: Path) -> None:
    """Results of other images: each has its table, none of their figures share a chart, and the page says why."""
    other = results(5.0)
    other["provenance"] |= {"data": "f" * 64}
    same, apart = (figures.compare_panels([("one", results(1.0)), ("two", second)]) for second in (results(5.0), other))
    assert len(same[0]) >= 3 and not same[1] and not apart[0]
    assert "two: images: None and ffffffffffff (" in apart[1][0] and "KD-toy" in apart[1][0]
    paths = [write_json(tmp_path / f"{i}.json", r) for i, r in enumerate((results(1.0), other))]
    assert "cannot be compared" in told(*paths, out=tmp_path)


def test_an_adaptation_has_its_accuracies_and_confusions(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """Accuracies with Wilson intervals and N, both confusion tables, and a verdict in words, with the run below
    OUT/run."""
    out = tmp_path / "adapted"
    shutil.copytree(trained[0], out / "run")
    plain = {"accuracy": 0.5, "n": 100, "confusion": [[25, 25], [25, 25]]}
    last = {"accuracy": 0.9, "n": 100, "confusion": [[45, 5], [5, 45]]}
    history = [{"step": 1, "held_out": 0.5}, {"step": 2, "held_out": 0.9}]
    value = {
        "recipe": "translate", "method": "tiny", "seed": 0, "classes": ["a", "b"],
        "counts": {"source": 50, "test": 100}, "selection": "of 2 looks",
        "source_only": plain, "last": last, "best": last, "history": history,
    }  # fmt: skip
    write_json(out / "results.json", value)
    path = write_report(out, out=tmp_path / "r.html", limit=4)
    text = words_of(path)
    for words in ("more often right than", "0.9000 [0.8256, 0.9448]", "of 2 looks", "held out", "as blue"):
        assert words in text, words
    assert path.read_text().count('class="confusion"') == 2  # the best is the last one here


def classified(**more: Any) -> dict[str, Any]:
    """Results with RC, FC and their ceiling, as the group ``classifier`` gives them."""
    tables = {"rc": [[18, 2], [5, 15]], "fc": [[9, 1], [0, 10]], "ceiling": [[10, 0], [0, 10]]}
    found = {k: figure(0.5, 0.4, 0.6, confusion=table, runs=[0.5, 0.6, 0.7]) for k, table in tables.items()}
    return results(classification={**found, "classes": ["red", "blue"], "chance": 0.5, "config": {"steps": 5}}, **more)


def test_rc_and_fc_have_their_confusion_tables(tmp_path: Path) -> None:
    """Counts and recalls of RC, FC and the ceiling with what each is of and of which training; one without a number
    has none."""
    found = classified()
    out = write_report(write_json(tmp_path / "r.json", found), out=tmp_path / "r.html")
    assert out.read_text(encoding="utf-8").count('<table class="confusion">') == 3
    for words in ("RC: a classifier that", "The first of 3 trainings: 33 of 40 right.", "red 18 2 90 % blue 5 15 75 %"):
        assert words in words_of(out), words
    found["classification"]["fc"] = {"value": None, "not_comparable": "no train images of red", "n": [0, 0]}
    out = write_report(write_json(tmp_path / "r.json", found), out=tmp_path / "r.html")
    assert out.read_text(encoding="utf-8").count('<table class="confusion">') == 2


def test_results_of_a_generator_translate_nothing(tmp_path: Path) -> None:
    """What `evaluate` says of a model of two domains that makes images of noise: an entry for each domain, as many
    images as there are real ones; the page and the table name no direction and no input."""
    run = cases.config("biggan")
    method = cases.method("biggan", run)
    model = checkpoint.write_model(tmp_path / "m.safetensors", method, checkpoint.make_header(method, run))
    assert unpaired.load(model).info()["directions"] == "none: makes images of red, blue from noise"
    side = cases.SIZES.get("biggan", 32)
    pool = ArrayPool({"red": tiny.pictures(3, side), "blue": tiny.pictures(5, side)})
    found = unpaired.evaluate(model, pool, networks=[Colours()], metrics=["distances"], cache=False, bootstrap=0)
    assert [(e["source"], e["target"], e["FD-colours"]["n"]) for e in found["directions"]] == [
        ("red", "red", [3, 3]), ("blue", "blue", [5, 5]),
    ]  # fmt: skip
    text = told(write_json(tmp_path / "r.json", found), out=tmp_path)
    assert "→" not in text and "input itself" not in text and "translated" not in text and "generated" in text
    assert "red: the distance KD-colours to real images of red" in text
    assert "→" not in format_table(found) and "→" not in compare([found, found]).text()


def test_a_report_of_nothing_is_refused(tmp_path: Path, trained: tuple[Path, Path]) -> None:
    """No path, a path that is not there, an empty folder, a JSON file of another kind, a second run, no images: exit 2,
    each in words."""
    (tmp_path / "empty").mkdir()
    foreign = write_json(tmp_path / "x.json", {"a": 1})
    for paths, options, said in (
        ([], {}, "nothing to report on"),
        ([tmp_path / "none"], {}, "no such file"),
        ([tmp_path / "empty"], {}, "without"),
        ([foreign], {}, "no list 'directions'"),
        ([trained[0], trained[0]], {}, "about one run"),
        ([trained[0]], {"images": 0}, "images"),
    ):
        with pytest.raises(RefusedError, match=said):
            write_report(*paths, out=tmp_path / "r.html", **options)
    with pytest.raises(SystemExit) as left:
        main(["report", str(tmp_path / "none")])
    assert left.value.code == 2


def test_there_are_map_and_neighbours(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """One map of three groups for each direction, and training images with their distances; an image that training
    had is its own nearest neighbour at distance 0."""
    pytest.importorskip("sklearn", reason="t-SNE comes with scikit-learn, extra 'demo'")
    text = told(trained[0], out=tmp_path, limit=4, images=2)
    assert f"t-SNE of {looks.NETWORK} features" in text and "real red (3)" in text and "nearest 4" in text
    layers, why = looks.open_network()
    assert layers is not None and not why
    pictures = tiny.pictures(3, 16)
    change, name = looks._change(pictures, pictures, layers)
    assert np.abs(change).max() < 1e-5 and "perceptual" in name


def test_the_log_is_grouped_by_what_it_says() -> None:
    """λ and distances apart from losses, validation apart from both, one panel for each player; a resumed clock adds
    up."""
    log = [
        {"step": s, "stage": "a" if s < 3 else "b", "g/gan": 1.0, "g/cycle": 30.0, "d/real": 1.0, "lambda": 0.1 * s,
         "distance": 5.0, "d/sign_accuracy": 0.99, "validation/FD-x/a->b": 9.0, "seconds": 10.0 * (1 + s % 3)}
        for s in range(1, 7)
    ]  # fmt: skip
    groups = {kind: [p.title for p in panels] for kind, panels in figures.curves(log)}
    assert groups == {
        "Distances while training": ["validation FD-x"], "λ and distance": ["λ", "distance to the input"],
        "Losses": ["g", "d, real"],
        "Watched values": ["share that a player judges rightly, d: real or made"],
    }  # fmt: skip
    made = [{**entry, "validation/FD-x/a->a": 1.0, "validation/mean": 1.0} for entry in log]
    (looks_at,) = (panels for kind, panels in figures.curves(made) if kind == "Distances while training")
    assert [text for panel in looks_at for text in panel.legend] == ["a → b", "a"]
    assert figures.seconds(log) == 30 + 30 + 10
    assert "nearly always" in figures.won([{"step": s, "d/sign_accuracy": 0.99} for s in range(40)])[0]
    assert figures.won(log) == []


def test_held_out_images_are_no_training_images(trained: tuple[Path, Path]) -> None:
    """Of 12 images with 2 held out for the looks, the page counts 10, with the data doctor and without, says that 2
    were held out, and still tells the model's images from others; those 2 are never among the training images that
    neighbours are searched in."""
    run, data = trained
    config = tiny.config(training__validate_every=4)
    tree = find(data)
    subject = Subject(config=config, translator=unpaired.load(run))
    part, held = hold_out(open_pool(tree, config.data), config.training.validate_share, config.training.validate_images)
    assert subject.translator is not None
    for fingerprint, same in ((part.fingerprint, True), (open_pool(tree, config.data).fingerprint, False)):
        subject.translator.header["data_fingerprint"] = fingerprint
        pictures = _open_tree(data, config.data, subject, tree.domains)
        assert pictures.same is same
    for doctor in (None, check(tree)):
        job = sections.Job(Report("t"), subject, ReportConfig(), pictures=pictures, doctor=doctor)
        assert job.train_counts == {"blue": 10, "red": 10}
        assert "10 images of blue and 10 images of red" in sections.lead(job)
    assert dict(sections.about(job))["held out to look at"] == "blue: 2 and red: 2"
    for domain in tree.domains:
        searched = {image.tobytes() for image in pictures.some(domain, 24, train=True)}
        assert searched == {part.image(domain, i).tobytes() for i in range(10)}
        assert not searched & {held.image(domain, i).tobytes() for i in range(2)}
