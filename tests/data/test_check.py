"""The data doctor: a verdict for every dirty thing, no traceback, nothing changed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from image_zoo import encoded, picture, png16, write_tree
from PIL import Image

from unpaired.data.check import check
from unpaired.errors import DataError, RefusedError
from unpaired.files import check_run_apart, parallel


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNPAIRED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def sane(root: Path, count: int = 60) -> Path:
    return write_tree(root, {"train/a": count, "train/b": count, "test/a": 2, "test/b": 2})


def test_a_sane_folder_has_nothing_to_report(tmp_path: Path) -> None:
    """No problems, no warnings, and commands that can be pasted: a small one, and one for a GPU."""
    report = check(sane(tmp_path / "my data"))
    assert (report.ok, report.problems, report.warnings, report.bad) == (True, (), (), ())
    small, command = report.commands
    assert small.startswith(f"unpaired train '{tmp_path}/my data' --preset quick --out 'runs/my data-small'")
    assert command.startswith(
        f"unpaired train '{tmp_path}/my data' --method unit --out 'runs/my data' --set data.size=32"
    )
    report.require()
    assert command in report.text()
    summary = report.to_dict()["splits"]["train"]["a"]
    assert (summary["usable"], summary["shorter_side"], summary["modes"]) == (
        60,
        {"min": 32, "median": 32, "max": 32},
        {"RGB": 60},
    )


def test_odd_but_usable_images_are_told(tmp_path: Path) -> None:
    """Animations and values of 12 bits in 16 are usable; what a user should know is a warning."""
    root = sane(tmp_path / "d")
    frames = [Image.fromarray(picture(300 + n)) for n in range(2)]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    (root / "train/a/moving.gif").write_bytes(moving)
    dark = png16(np.random.default_rng(0).integers(0, 4096, (20, 20), dtype=np.uint16))
    (root / "train/a/twelve.png").write_bytes(dark)
    report = check(root)
    assert report.bad == () and len(report.warnings) == 2
    assert "animations" in report.warnings[0] and "nearly black: train/a/twelve.png" in report.warnings[1]


@pytest.mark.parametrize("missing", ["no folder", "no folder content", "only bad files"])
def test_an_empty_domain_refuses(tmp_path: Path, missing: str) -> None:
    """A domain without images, or with unusable ones only, is a problem that is named."""
    root = write_tree(tmp_path / "d", {"trainA": 60, "testB": 2})
    if missing != "no folder":
        (root / "trainB").mkdir()
    if missing == "only bad files":
        (root / "trainB" / "1.png").write_bytes(b"")
    report = check(root)
    expected = "there are no images" if missing != "only bad files" else "all 1 files are unusable"
    assert report.problems == (f"domain B: {expected}; put training images there",)
    assert report.commands == ()
    with pytest.raises(DataError, match="domain B"):
        report.require()


def test_one_image_is_a_warning(tmp_path: Path) -> None:
    """A domain of one image trains, with a warning; few images and missing test images are told, too."""
    report = check(write_tree(tmp_path / "d", {"train/a": 1, "train/b": 20}))
    assert report.ok
    assert any("only one training image in a;" in w for w in report.warnings)
    assert any("few training images in b (20);" in w for w in report.warnings)
    assert any("no test images in a" in w for w in report.warnings)
    assert any("a has 1 training images, b has 20" in w for w in report.warnings)


def test_identical_domains_are_a_warning(tmp_path: Path) -> None:
    """Two domains with the same pictures, even in another format, are told apart from two that share some."""
    root = tmp_path / "d"
    for n in range(60):
        for domain, format in (("a", "PNG"), ("b", "BMP")):
            (root / "train" / domain).mkdir(parents=True, exist_ok=True)
            (root / "train" / domain / f"{n}.png").write_bytes(encoded(picture(n), format))
    report = check(root)
    assert any("a and b hold the same images" in w for w in report.warnings)
    assert len(report.duplicates["across_domains"]) == 60
    (root / "train/a/more.png").write_bytes(encoded(picture(999)))
    assert any("60 images are in more than one domain" in w for w in check(root).warnings)


def test_duplicates_across_splits_and_within(tmp_path: Path) -> None:
    """A test image that is also trained on, and a copy within a folder, are each named."""
    root = sane(tmp_path / "d")
    (root / "test/a/leak.png").write_bytes((root / "train/a/5.png").read_bytes())
    (root / "train/b/copy.png").write_bytes((root / "train/b/7.png").read_bytes())
    report = check(root)
    assert report.duplicates["across_splits"] == [("train/a/5.png", "test/a/leak.png")]
    assert report.duplicates["within"] == [("train/b/7.png", "train/b/copy.png")]
    assert "1 image is both in train and test: train/a/5.png = test/a/leak.png" in report.warnings


def test_differences_between_domains_are_warned_about(tmp_path: Path) -> None:
    """Grey against colour, small against large, and extreme aspects are each told in a sentence."""
    root = write_tree(tmp_path / "d", {"train/a": 60, "test/a": 1, "test/b": 1})
    (root / "train/b").mkdir()
    for n in range(60):
        (root / "train/b" / f"{n}.png").write_bytes(encoded(picture(500 + n, 120, 100)[..., 0]))
    (root / "train/b/strip.png").write_bytes(encoded(picture(700, 900, 100)))
    warnings = "\n".join(check(root).warnings)
    assert "the images of b are grey, those of a are not" in warnings
    assert "images of a are 32 pixels wide (median), those of b 100" in warnings
    assert "1 images of b are more than 4 times as long as wide" in warnings


def test_more_than_two_domains_go_to_deepi2i(tmp_path: Path) -> None:
    """With three domains the commands make a GAN and a translator from it;
    images too small for that have no command."""
    report = check(write_tree(tmp_path / "d", {"train/a": 3, "train/b": 3, "train/c": 3}))
    assert report.ok
    first, second = report.commands
    assert first.startswith("unpaired pretrain ") and first.endswith("--out runs/d-gan --set data.size=32")
    assert "--method deepi2i --pretrained runs/d-gan --out runs/d" in second
    small = check(write_tree(tmp_path / "s", {"train/a": 3, "train/b": 3, "train/c": 3}, width=20, height=20))
    assert small.commands == () and "No method here trains on 3 domains of so small images" in small.text()


def test_sizes_in_the_command_follow_the_images(tmp_path: Path) -> None:
    """Nothing is enlarged, and where there is room the resize leaves some for the random crop."""
    wide = write_tree(tmp_path / "w", {"train/a": 2, "train/b": 2}, width=200, height=143)
    assert "--set data.size=128 --set data.resize=143" in check(wide).commands[1]
    large = write_tree(tmp_path / "l", {"train/a": 2, "train/b": 2}, width=400, height=300)
    assert "--set data.size=256 --set data.resize=286" in check(large).commands[1]
    assert "--set data.size=64 --set data.resize=72" in check(large).commands[0]
    small = write_tree(tmp_path / "s", {"train/a": 2, "train/b": 2}, width=20, height=16)
    assert "--set data.size=16 --set data.resize=16" in check(small).commands[0]


def test_commands_can_be_typed_where_check_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From inside the data the run is put beside it, never among the images;
    a name like an option's is written as a path."""
    root = write_tree(tmp_path / "-d", {"a": 2, "b": 2})
    monkeypatch.chdir(root)
    words = shlex.split(check(".").commands[1].split("#")[0])
    assert words[2] == "." and words[words.index("--out") + 1] == str(tmp_path / "runs" / "-d")
    check_run_apart(words[words.index("--out") + 1], ".")
    with pytest.raises(RefusedError, match=str(tmp_path / "runs")):
        check_run_apart("runs/x", ".")
    monkeypatch.chdir(tmp_path)
    assert shlex.split(check("-d").commands[0])[2] == "./-d"


def test_a_domain_of_a_format_that_is_not_read_is_told(tmp_path: Path) -> None:
    """A domain of a phone's HEIC alone is empty, and the refusal says why and what to do."""
    root = write_tree(tmp_path / "d", {"cats": 3})
    (root / "dogs").mkdir()
    for n in range(2):
        (root / "dogs" / f"{n}.HEIC").write_bytes(b"ftypheic")
    report = check(root)
    assert report.problems == (
        "domain dogs: there are no images that can be read (2 are .HEIC: save them as JPEG or PNG); put training "
        "images there",
    )


def test_the_report_does_not_depend_on_threads_or_memory(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker or several, fresh or from the findings that an earlier check kept: the same report."""
    root = sane(tmp_path / "d", 10)
    (root / "train/a/bad.png").write_bytes(b"x")
    first = check(root)
    (kept,) = own_cache.glob("*.check")
    again = check(root)
    assert again == first
    kept.unlink()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert check(root) == first
    kept.write_bytes(kept.read_bytes()[:-5])
    assert check(root) == first, "damaged findings are not believed"


@pytest.mark.skipif(not hasattr(os, "setuid") or os.getuid() != 0, reason="needs root, to become another user")
def test_unreadable_files_and_folders_are_reported(tmp_path: Path) -> None:
    """Without permission a file is bad and a folder is unreadable, in the report and without a traceback."""
    root = sane(tmp_path / "d")
    (root / "train/a/secret.png").write_bytes(encoded(picture(800)))
    (root / "train/a/secret.png").chmod(0)
    (root / "train/b/closed").mkdir(mode=0)
    script = (
        "import os, sys; from unpaired.data.check import check; import PIL.PngImagePlugin, PIL.JpegImagePlugin;"
        "os.chdir(sys.argv[1]); os.setuid(65534); r = check('d');"
        "print([(f.name, f.reason) for f in r.bad], [(str(p), w) for p, w in r.tree.unreadable], r.ok)"
    )
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and len(folder.parts) > 2:
            folder.chmod(folder.stat().st_mode | 0o055)
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "('train/a/secret.png', 'cannot be read: Permission denied')" in run.stdout
    assert "('d/train/b/closed', 'cannot be read: Permission denied')" in run.stdout


def test_parallel_keeps_order_and_passes_errors_on() -> None:
    """Results come in the order of the items; an exception in a worker reaches the caller."""
    assert list(parallel(lambda n: n * n, range(100))) == [n * n for n in range(100)]
    with pytest.raises(ZeroDivisionError):
        list(parallel(lambda n: 1 // n, [1, 0]))
