"""translate_files: names, restart, kills, bad files, refusals. Inputs are real files, kills are real SIGKILLs."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tiny import pictures
from toys import Negative, Noise, OneWay, translator
from unpaired.errors import DataError, PartialError, RefusedError
from unpaired.files import TEMPORARY_PREFIX, sha256_of
from unpaired.translate.files import LOCK, RECORD, IncompleteTranslation, TranslationReport, plan, translate_files


def save(path: Path, image: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pictures(1, 12, seed=len(path.name))[0] if image is None else image).save(path)
    return path


def tree(root: Path, count: int = 10) -> Path:
    """``count`` pictures in two folders and three sizes."""
    for i in range(count):
        side = (12, 12, 17, 9)[i // 2 % 4]
        save(root / ("a", "b/c")[i % 2] / f"{i:03d}.png", pictures(1, side, seed=i)[0])
    return root


def run(inputs: Path | list[Path], out: Path, **options: object) -> TranslationReport:
    options = {"model": translator(Negative()), "to": "night", "quiet": True, **options}
    return translate_files(options.pop("model"), inputs, out=out, **options)  # type: ignore[arg-type]


def digests(root: Path) -> dict[str, str]:
    """Every visible file with its hash."""
    return {str(p.relative_to(root)): sha256_of(p) for p in sorted(root.rglob("*")) if p.is_file() and p.name[0] != "."}


def test_a_tree_keeps_structure_and_sizes_and_inputs(tmp_path: Path) -> None:
    """Each result lies where its input lay, has its size, and is exactly the method's picture; inputs are untouched."""
    source = tree(tmp_path / "in")
    (source / "notes.txt").write_text("no image")
    before = {p: (p.stat().st_mtime_ns, sha256_of(p)) for p in source.rglob("*") if p.is_file()}
    seen: list[tuple[int, int]] = []
    report = run(source, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert report.counts == {"ok": 10, "skipped": 0, "failed": 0} and len(report.left_out) == 1
    assert seen[-1] == (10, 10)
    for path in source.rglob("*.png"):
        result = np.asarray(Image.open(tmp_path / "out" / path.relative_to(source)))
        assert np.array_equal(result, 255 - np.asarray(Image.open(path)))
    assert before == {p: (p.stat().st_mtime_ns, sha256_of(p)) for p in source.rglob("*") if p.is_file()}
    assert sorted(digests(tmp_path / "out")) == sorted(str(p.relative_to(source)) for p in source.rglob("*.png"))


def test_bad_files_are_listed_and_stop_nothing(tmp_path: Path) -> None:
    """Of 12 pictures with 3 unreadable ones and one with a NaN output, 8 come out; exit 3;
    one report entry for each."""
    source = tree(tmp_path / "in", 8)
    (source / "a" / "empty.png").write_bytes(b"")
    (source / "a" / "page.jpg").write_text("<html>not found</html>")
    whole = (source / "a" / "000.png").read_bytes()
    (source / "b" / "cut.png").write_bytes(whole[: len(whole) // 2])
    save(source / "b" / "white.png", np.full((12, 12, 3), 255, np.uint8))
    with pytest.raises(PartialError, match="8 translated, 0 already done, 4 failed") as caught:
        run(source, tmp_path / "out", model=translator(OneWay()))
    assert caught.value.exit_code == 3 and isinstance(caught.value, IncompleteTranslation)
    written = json.loads((tmp_path / "out" / ".unpaired-report.json").read_text())
    reasons = {Path(i["input"]).name: i["reason"] for i in written["items"] if i["status"] == "failed"}
    assert len(written["items"]) == 12 and len(digests(tmp_path / "out")) == 8
    assert "empty file" in reasons["empty.png"] and "HTML page" in reasons["page.jpg"]
    assert "truncated" in reasons["cut.png"] and "not finite" in reasons["white.png"]
    assert not list((tmp_path / "out").rglob("white*")) and not list((tmp_path / "out").rglob(f"{TEMPORARY_PREFIX}*"))


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    """Folders are read by the rules of `unpaired check`: links to folders and files are followed once, system folders
    left alone. A dangling link is a failed item; a phone's HEIC, a PPM and a link that comes back are named, notes are
    counted; the report has all."""
    source = tmp_path / "in"
    save(source / "1.png")
    save(tmp_path / "real" / "2.png")
    save(source / "@eaDir" / "1.png" / "THUMB.jpg")
    (source / "more").symlink_to("../real")
    (source / "again").symlink_to("more")
    for name in ("IMG_2.HEIC", "b.ppm", "notes.txt", "noending"):
        (source / name).write_text("x")
    report = run(source, tmp_path / "out")
    assert sorted(digests(tmp_path / "out")) == ["1.png", "again/2.png"]
    assert {Path(p).name for p in report.to_dict()["left_out"]} == {
        "@eaDir", "more", "IMG_2.HEIC", "b.ppm", "notes.txt", "noending",
    }  # fmt: skip
    text = report.text()
    assert "IMG_2.HEIC: .HEIC is a format that is not read" in text and "b.ppm: .ppm is a format that" in text
    assert "more: a link to a folder that is read already" in text and "notes" not in text
    assert "left out: 3 that are hidden, or no pictures by their names" in text
    for name in ("gone.png", "self.png"):
        (source / name).symlink_to(name.replace("gone", "nowhere"))
    with pytest.raises(PartialError, match=r"0 translated, 2 already done, 2 failed(.|\n)*cannot be read"):
        run(source, tmp_path / "out")


def test_a_second_run_does_nothing_and_says_so(tmp_path: Path) -> None:
    """Done items are skipped without calling the model; a changed input and a deleted result are done again."""
    source, out = tree(tmp_path / "in"), tmp_path / "out"
    run(source, out)
    first = digests(out)
    times = {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}
    model = translator(Negative())
    assert run(source, out, model=model).counts == {"ok": 0, "skipped": 10, "failed": 0}
    assert model.method.calls == [] and times == {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}
    (out / "a" / "000.png").unlink()
    save(source / "a" / "002.png", pictures(1, 12, seed=99)[0])
    assert run(source, out).counts == {"ok": 2, "skipped": 8, "failed": 0}
    changed = {name for name, digest in digests(out).items() if digest != first[name]}
    assert changed == {"a/002.png"}


def test_a_batch_cut_by_a_kill_is_computed_whole_again(tmp_path: Path) -> None:
    """When a part of a batch is in place, the model gets the same batch as before, so sums are grouped alike."""
    source = tmp_path / "in"
    for i in range(6):
        save(source / f"{i}.png", pictures(1, 12, seed=i)[0])
    out = tmp_path / "out"
    run(source, out, batch_size=4)
    (out / "2.png").unlink()
    model = translator(Negative())
    run(source, out, batch_size=4, model=model)
    assert model.method.calls == [(4, 3, 16, 16)]  # 12 pixels, padded to the least size


def test_a_torn_line_of_the_record_is_passed_over(tmp_path: Path) -> None:
    """A record cut in the middle of its last line, before that item was put in place, costs that item alone."""
    source, out = tree(tmp_path / "in"), tmp_path / "out"
    run(source, out, batch_size=1)
    record = (out / RECORD).read_bytes()
    (out / RECORD).write_bytes(record[:-30])
    (out / "b" / "c" / "009.png").unlink()
    assert run(source, out, batch_size=1).counts == {"ok": 1, "skipped": 9, "failed": 0}
    assert run(source, out).counts["skipped"] == 10


@pytest.mark.parametrize("batch_size", [2, 5])
def test_batches_do_not_change_results(tmp_path: Path, batch_size: int) -> None:
    """Alone or with neighbours: the same pixels for a pointwise method;
    noise follows from the picture, not the batch."""
    source = tree(tmp_path / "in")
    for kind in (Negative, Noise):
        run(source, tmp_path / kind.__name__ / "one", model=translator(kind()), batch_size=1)
        run(source, tmp_path / kind.__name__ / "many", model=translator(kind()), batch_size=batch_size)
        assert digests(tmp_path / kind.__name__ / "one") == digests(tmp_path / kind.__name__ / "many")


def names(root: Path, files: list[str]) -> dict[str, str]:
    for file in files:
        save(root / file)
    tasks, _ = plan([root], root.parent / "out", ".png")
    return {t.input.relative_to(root).as_posix(): str(t.output) for t in tasks}


def test_colliding_names_become_distinct_and_are_listed(tmp_path: Path) -> None:
    """a.jpg and a.png keep their endings; names equal but for case get numbers; a folder is never a file's name."""
    assert names(tmp_path / "1", ["a.jpg", "a.png", "b.jpg"]) == {
        "a.jpg": "a.jpg.png",
        "a.png": "a.png.png",
        "b.jpg": "b.png",
    }
    given = names(tmp_path / "2", ["A.png", "a.png", "B/x.jpg", "b/x.jpg", "c.png/d.png", "c.jpg"])
    assert len({unicodedata.normalize("NFC", n).casefold() for n in given.values()}) == len(given) == 6
    assert given["c.png/d.png"] == "c.png/d.png" and given["c.jpg"] == "c.jpg.png"
    assert (given["A.png"], given["a.png"]) == ("A.png.png", "a.png-2.png")
    report = run(tmp_path / "1", tmp_path / "out")
    assert report.renamed == {str(tmp_path / "1" / "a.jpg"): "a.jpg.png", str(tmp_path / "1" / "a.png"): "a.png.png"}
    assert sorted(digests(tmp_path / "out")) == ["a.jpg.png", "a.png.png", "b.png"]


def test_the_same_name_from_two_folders_is_kept_apart(tmp_path: Path) -> None:
    """x/a.png and y/a.png given as two roots (or as two files) get names of their own."""
    x, y = save(tmp_path / "x" / "a.png"), save(tmp_path / "y" / "a.png")
    save(tmp_path / "y" / "b.png")
    expected = {"a.png.png", "a.png-2.png"}
    assert {str(t.output) for t in plan([x, y], tmp_path / "out", ".png")[0]} == expected
    tasks, _ = plan([tmp_path / "x", tmp_path / "y"], tmp_path / "out", ".png")
    assert {str(t.output) for t in tasks} == expected | {"b.png"}
    assert len(plan([x, tmp_path / "x", x], tmp_path / "out", ".png")[0]) == 1  # one file, named three times


def test_results_never_replace_or_join_the_inputs(tmp_path: Path) -> None:
    """--out equal to the input, or over it, is refused before anything is written;
    inside it is fine and never read back."""
    source = tree(tmp_path / "in", 4)
    before = digests(tmp_path)
    with pytest.raises(RefusedError, match="cannot go into the input folder itself"):
        run(source, source)
    with pytest.raises(RefusedError, match="would overwrite this input"):
        run(source / "a" / "000.png", source / "a")
    save(tmp_path / "top" / "photos" / "photos" / "z.png")
    with pytest.raises(RefusedError, match="would lie among the inputs"):
        run(tmp_path / "top" / "photos", tmp_path / "top")
    assert before == {n: d for n, d in digests(tmp_path).items() if not n.startswith("top")}
    assert run(source, source / "translated").counts["ok"] == 4
    assert run(source, source / "translated").counts == {"ok": 0, "skipped": 4, "failed": 0}


def test_results_of_another_model_or_option_are_not_mixed(tmp_path: Path) -> None:
    """Another model is refused with what differs; --overwrite replaces, and removes results that are no longer asked
    for."""
    source, out = tree(tmp_path / "in", 4), tmp_path / "out"
    run(source, out)
    first = digests(out)
    other = translator(Negative(), seed=9)
    with pytest.raises(RefusedError, match=r"not mixed:\n  model: there"):
        run(source, out, model=other)
    with pytest.raises(RefusedError, match="format: there 'png', now 'webp'"):
        run(source, out, format="webp")
    assert digests(out) == first
    run(source, out, format="webp", overwrite=True)
    assert {Path(n).suffix for n in digests(out)} == {".webp"} and len(digests(out)) == 4


def test_foreign_files_in_the_way_stay(tmp_path: Path) -> None:
    """A file that this run did not write, or that somebody changed since, is refused without --overwrite."""
    source, out = tree(tmp_path / "in", 4), tmp_path / "out"
    save(out / "a" / "000.png")
    foreign = digests(out)
    with pytest.raises(DataError, match="files are in the way"):
        run(source, out)
    assert digests(out) == foreign
    run(source, out, overwrite=True)
    (out / "a" / "002.png").write_bytes(b"edited")
    with pytest.raises(DataError, match=r"changed since: a/002.png"):
        run(source, out)
    assert run(source, out, overwrite=True).counts == {"ok": 1, "skipped": 3, "failed": 0}


def test_two_runs_on_one_folder_are_kept_apart(tmp_path: Path) -> None:
    """While one run holds the output folder, a second one is refused."""
    import fcntl

    source, out = tree(tmp_path / "in", 2), tmp_path / "out"
    out.mkdir()
    with (out / LOCK).open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RefusedError, match="another translation is writing there"):
            run(source, out)
    assert run(source, out).counts["ok"] == 2


def test_a_failing_model_fails_the_item_and_not_the_run(tmp_path: Path) -> None:
    """A RuntimeError in a batch of four is retried one by one; the picture that causes it alone is failed."""

    class Picky(Negative):
        def translate(self, images, source, target, **_):  # type: ignore[no-untyped-def]
            if bool((images.amin(dim=(1, 2, 3)) > 0.999).any()):
                raise RuntimeError("cannot stand white")
            return super().translate(images, source, target)

    for i in range(3):
        save(tmp_path / "in" / f"{i}.png")
    save(tmp_path / "in" / "w.png", np.full((12, 12, 3), 255, np.uint8))
    with pytest.raises(PartialError, match=r"w\.png: the model failed: RuntimeError: cannot stand white"):
        run(tmp_path / "in", tmp_path / "out", model=translator(Picky()))
    assert len(digests(tmp_path / "out")) == 3


def test_one_path_is_a_list_of_one(tmp_path: Path) -> None:
    """translate_files(model, "photos", …) does not take the letters for paths;
    no path at all is refused with an example."""
    source = tree(tmp_path / "in", 2)
    done = translate_files(translator(Negative()), str(source), to="night", out=tmp_path / "out", quiet=True)
    assert done.counts["ok"] == 2
    with pytest.raises(DataError, match="name pictures or folders"):
        translate_files(translator(Negative()), [], to="night", out=tmp_path / "out", quiet=True)
