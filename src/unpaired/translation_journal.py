"""The record in an output folder that makes translating restartable: which results are there, of what, made how.

One JSON text a line in ``.unpaired-translate.jsonl``. The first line holds the model's hash and the options. Before a
result is renamed into place its name is written down (``begin``), afterwards the digests (``done``). So a result that
is there after a crash is either known with its digest or known to be ours; any other file is somebody else's.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from unpaired._files import TEMPORARY_PREFIX, sha256_of, sync_folder, why_unwritten, write_atomically
from unpaired.data.images import show
from unpaired.errors import RefusedError, UnpairedError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows: two runs at once on one folder are then not noticed
    fcntl = None

NAME = ".unpaired-translate.jsonl"
LOCK = ".unpaired-translate.lock"
FORMAT = 1


@dataclass(frozen=True)
class Done:
    """A finished result."""

    input_sha256: str
    output_sha256: str
    size: tuple[int, int]
    """Width and height in pixels."""


@dataclass
class Journal:
    """What the record says; ``begin`` and ``done`` add to it, durably."""

    out: Path
    options: dict[str, Any]
    finished: dict[str, Done] = field(default_factory=dict)
    """By the result's name."""
    begun: set[str] = field(default_factory=set)
    _file: BinaryIO | None = None

    def begin(self, outputs: Sequence[str]) -> None:
        """Write down that these results are about to be put in place."""
        self._forget(outputs)
        self._append([{"begin": list(outputs)}])

    def done(self, results: Mapping[str, Done]) -> None:
        """Write down that these results are in place."""
        self.finished |= results
        self._append([_line(name, result) for name, result in results.items()])

    def _forget(self, outputs: Sequence[str]) -> None:
        self.begun |= set(outputs)
        for name in outputs:  # from now on its old digest says nothing
            self.finished.pop(name, None)

    def _append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        assert self._file is not None, "opened by open_journal"
        content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        try:
            self._file.write(content)
            os.fsync(self._file.fileno())
        except OSError as error:
            raise unwritable(self.out / NAME, error, len(content)) from error

    def intact(self, output: str, input_sha256: str) -> bool:
        """Whether this very result of this very input is in place, unchanged."""
        known = self.finished.get(output)
        return known is not None and known.input_sha256 == input_sha256 and self._unchanged(output, known)

    def ours(self, output: str) -> bool:
        """Whether the file in this place was written by this run or an earlier one of the same options."""
        known = self.finished.get(output)
        return output in self.begun if known is None else self._unchanged(output, known)

    def _unchanged(self, output: str, known: Done) -> bool:
        path = self.out / output
        return path.is_file() and sha256_of(path) == known.output_sha256


def unwritable(path: Path, error: OSError, needed: int) -> UnpairedError:
    """What a disk that is full or fails stops a translation with."""
    return UnpairedError(
        f"{show(path)}: cannot be written: {why_unwritten(path, error, needed)}. What is done is kept: mend it and run again"
    )


def _line(name: str, result: Done) -> dict[str, Any]:
    return {
        "done": name,
        "input_sha256": result.input_sha256,
        "output_sha256": result.output_sha256,
        "size": list(result.size),
    }


def read(out: Path) -> Journal | None:
    """The record in ``out``; None where there is none. A torn last line (a crash) is passed over."""
    path = out / NAME
    if not path.is_file():
        return None
    journal: Journal | None = None
    for number, line in enumerate(path.read_bytes().split(b"\n")):
        try:
            entry = json.loads(line)
            if number == 0:
                if entry["format"] > FORMAT:
                    raise RefusedError(f"{show(path)}: written by a newer unpaired; use another --out")
                journal = Journal(out, entry["options"])
            elif journal is not None and "begin" in entry:
                journal._forget([str(name) for name in entry["begin"]])
            elif journal is not None:
                width, height = entry["size"]
                journal.finished[str(entry["done"])] = Done(
                    entry["input_sha256"], entry["output_sha256"], (width, height)
                )
        except (ValueError, KeyError, TypeError):
            if number == 0:
                raise RefusedError(
                    f"{show(path)}: not readable as a record of translations; use another --out"
                ) from None
    return journal


@contextlib.contextmanager
def opened(out: Path, options: Mapping[str, Any], *, overwrite: bool) -> Iterator[Journal]:
    """The record of ``out``, made or continued, locked against a second run; leftovers of a killed run are removed.

    Raises:
        RefusedError: another run is at work there, or the folder holds results of another model or other options and
            ``overwrite`` is off. With ``overwrite`` those results are removed, as far as nobody has changed them since.
    """
    wanted: dict[str, Any] = json.loads(json.dumps(options))  # as it will be read back
    if out.exists() and not out.is_dir():
        raise RefusedError(f"{show(out)}: a file; --out wants a folder")
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        for leftover in sorted(out.rglob(TEMPORARY_PREFIX + "*")):
            leftover.unlink(missing_ok=True)
        journal = read(out)
        if journal is not None and journal.options != wanted:
            _replace(journal, wanted, overwrite=overwrite)
            journal = None
        if journal is None:
            journal = Journal(out, wanted)
        lines = [{"format": FORMAT, "options": wanted}, {"begin": sorted(journal.begun - set(journal.finished))}]
        lines += [_line(name, result) for name, result in journal.finished.items()]
        # written anew: a torn line of a killed run must not swallow the next one
        content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        try:
            write_atomically(out / NAME, content)
            sync_folder(out)
        except OSError as error:
            raise unwritable(out / NAME, error, len(content)) from error
        with (out / NAME).open("ab", buffering=0) as file:  # nothing held back that a later close would have to write
            journal._file = file
            yield journal


def _replace(old: Journal, options: Mapping[str, Any], *, overwrite: bool) -> None:
    if not overwrite:
        keys = sorted(k for k in {*old.options, *options} if old.options.get(k) != options.get(k))
        changes = "".join(f"\n  {k}: there {old.options.get(k)!r}, now {options.get(k)!r}" for k in keys)
        raise RefusedError(
            f"{show(old.out)}: holds results made otherwise, and they are not mixed:{changes}\n"
            "Use another --out, or --overwrite to replace them"
        )
    for name in [*old.finished, *sorted(old.begun)]:
        if old.ours(name):
            (old.out / name).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    with (out / LOCK).open("ab") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RefusedError(
                    f"{show(out)}: another translation is writing there; wait, or use another --out"
                ) from None
            except OSError:  # a file system without locks
                pass
        yield
