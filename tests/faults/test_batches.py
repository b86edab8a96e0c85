"""Batch translation killed, crashed, short of disk and of memory: whole files alone, the bytes of a clean run, little
done twice (F7)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path, PurePosixPath

import kit
import numpy as np
import pytest
from figures import Figure, pick
from test_translation_files import digests, run, save, tree

from tiny import pictures
from toys import Negative, Noise, translator
from unpaired.errors import UnpairedError
from unpaired.files import TEMPORARY_PREFIX
from unpaired.translate.files import RECORD

BATCH = 4
FLAT_BYTES = 20 * 2**20


def recorded(out: Path) -> set[str]:
    """The results that the record knows: no other may be there."""
    lines = (out / RECORD).read_bytes().split(b"\n")[:-1] if (out / RECORD).exists() else []
    return {entry["name"] for entry in map(json.loads, filter(None, lines)) if "name" in entry}


def storm(source: Path, out: Path, clean: dict[str, str], kills: int) -> tuple[int, int]:
    """Kill ``kills`` runs at random moments; (kills that landed in a run, files seen that were not whole)."""
    rng, landed, partial = np.random.default_rng(0), 0, 0
    for _ in range(6 * kills):
        child = kit.Child(lambda: run(source, out, model=translator(Noise(pause_s=0.004)), batch_size=BATCH))
        before = len(recorded(out))
        while len(recorded(out)) == before and child.poll() is None:  # it has begun to write
            time.sleep(0.001)
        end = time.monotonic() + float(rng.uniform(0, 0.15))
        while time.monotonic() < end:  # look all the time: nothing half-written may be visible under a final name
            partial += sum(digest != clean.get(name) for name, digest in seen(out).items())
        child.send(signal.SIGKILL)
        hit = child.wait().code == -signal.SIGKILL
        partial += sum(digest != clean.get(name) for name, digest in digests(out).items())
        assert set(digests(out)) <= recorded(out)
        landed += hit
        if landed == kills:
            break
        if not hit:  # it had finished: begin again, so that every counted kill is a real one
            shutil.rmtree(out)
    return landed, partial


def seen(out: Path) -> dict[str, str]:
    """As ``digests``, while files come and go."""
    try:
        return digests(out)
    except FileNotFoundError:
        return {}


def test_kills_leave_the_bytes_of_a_clean_run(tmp_path: Path, figure: Figure) -> None:
    """Ten kills, each followed by a new run: what is visible is whole at every moment, the finished tree equals that of
    an undisturbed run, random noise included, and no temporary file is left."""
    source, out = tree(tmp_path / "in", 60), tmp_path / "out"
    run(source, tmp_path / "clean", model=translator(Noise(pause_s=0)), batch_size=BATCH)
    clean = digests(tmp_path / "clean")
    landed, partial = storm(source, out, clean, 10)
    done = digests(out)
    report = run(source, out, model=translator(Noise(pause_s=0)), batch_size=BATCH)
    assert landed == 10 and partial == 0
    assert report.counts["skipped"] >= len(done) and digests(out) == clean
    assert not list(out.rglob(f"{TEMPORARY_PREFIX}*"))
    figure("F7", f"{landed} kills: 0 partial files ever visible, the finished tree byte-equal")


def test_disks_of_several_sizes_stop_with_needed_and_free_bytes(tmp_path: Path, figure: Figure) -> None:
    """A file system fills up at different places: the run stops in words with path, cause, needed and free bytes, or
    finishes; what is visible is whole; with more room the same command ends with the bytes of a clean run."""
    if not kit.can_mount():
        pytest.skip("this machine lets nobody mount a file system of his own")
    source = tmp_path / "in"
    for i in range(12):
        save(source / f"{i:02d}.png", np.random.default_rng(i).integers(0, 256, (60, 60, 3), dtype=np.uint8))
    run(source, tmp_path / "clean")
    clean, stopped = digests(tmp_path / "clean"), 0
    for size in range(20_000, 200_000, 15_000):
        place = tmp_path / f"disk-{size}"
        place.mkdir()

        def work(place: Path = place, size: int = size) -> None:
            kit.small_disk(place, size)
            try:
                run(source, place / "out", batch_size=3)
            except UnpairedError as error:
                words = (str(place / "out"), "No space left on device", "bytes needed", "bytes free", "run again")
                print("stopped" if all(word in str(error) for word in words) else f"BAD TEXT {error}")
            assert all(clean[name] == digest for name, digest in digests(place / "out").items())
            kit.small_disk(place, 2**24)
            run(source, place / "out", batch_size=3)
            assert digests(place / "out") == clean

        found = kit.outcome(work)
        assert found.code == 0 and "BAD TEXT" not in found.said, found.said
        stopped += "stopped" in found.said
    figure(
        "F4",
        f"translation on 12 sizes of a full disk: {stopped} stopped in words, all whole, all finished with more room",
    )
    assert stopped >= 6


def test_memory_stays_flat_over_many_files(tmp_path: Path, figure: Figure) -> None:
    """5,000 small files (1,000 in `make test`): none is left out, and after the first tenth the process grows by less
    than 20 MB."""
    count = pick(1000, 5000)
    content = save(tmp_path / "one.png", pictures(1, 8)[0]).read_bytes()
    (tmp_path / "in").mkdir()
    for i in range(count):
        (tmp_path / "in" / f"{i}.png").write_bytes(content)
    sizes: dict[int, int] = {}

    def note(done: int, total: int) -> None:
        sizes[done] = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    report = run(tmp_path / "in", tmp_path / "out", progress=note, model=translator(Negative()))
    grown = sizes[count] - sizes[min(n for n in sizes if n >= count // 10)]
    assert report.counts["ok"] == count == len(digests(tmp_path / "out"))
    assert PurePosixPath(f"{count - 1}.png") in {PurePosixPath(i.output) for i in report.items}
    figure("F7", f"{count:,} small files: all done, {grown / 2**20:.1f} MiB grown after the first tenth (bound 20)")
    assert grown < FLAT_BYTES
