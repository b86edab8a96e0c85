"""Which files are translated and what each result is called: all of it settled before any work is done."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from unpaired.data.images import IMAGE_SUFFIXES, show
from unpaired.errors import DataError, RefusedError


@dataclass(frozen=True)
class Task:
    """One input file and its result."""

    input: Path
    output: PurePosixPath
    """Relative to the output folder."""
    renamed: bool = False
    """The plain name was taken, by another input or by a folder."""


@dataclass(frozen=True)
class Plan:
    """All tasks in the order in which they are done."""

    tasks: tuple[Task, ...]
    ignored: tuple[Path, ...]
    """Files in the given folders that are no images by their ending."""


def plan(inputs: Sequence[Path], out: Path, suffix: str) -> Plan:
    """Find the inputs and name the results. Reads folders, never files.

    Folders are walked in sorted order; hidden entries, links to folders, and ``out`` itself are left out. Results keep
    the input's place and name, with ``suffix``. Where two would share a name (``a.jpg`` and ``a.png``; ``A.png`` and
    ``a.png`` on systems that ignore case; the same name from two folders) each keeps its old ending in front of the
    new one, or goes into a folder named like its input folder, or gets a number.

    Raises:
        DataError: an input is missing, or there is nothing to do.
        RefusedError: a result would overwrite an input or land among the inputs.
    """
    found: list[tuple[Path, PurePosixPath, str]] = []  # input, relative place, name of the input folder
    ignored: list[Path] = []
    seen: set[str] = set()
    roots = [path for path in inputs if path.is_dir()]
    resolved_out = os.path.realpath(out)
    for root in roots:
        if os.path.realpath(root) == resolved_out:
            raise RefusedError(
                f"{show(out)}: the results cannot go into the input folder itself: the next run would read them as "
                f"inputs. Choose another --out; it may lie inside, as in --out {show(root / 'translated')}"
            )
    for path in inputs:
        if path.is_dir():
            for file in _walk(path, resolved_out):
                if file.suffix.lower() in IMAGE_SUFFIXES:
                    _add(found, seen, file, PurePosixPath(file.relative_to(path)), path.resolve().name)
                else:
                    ignored.append(file)
        elif path.is_file():
            _add(found, seen, path, PurePosixPath(path.name), path.resolve().parent.name)
        elif path.exists():
            raise DataError(f"{show(path)}: neither a file nor a folder")
        else:
            raise DataError(f"{show(path)}: no such file or folder")
    if not found:
        if not inputs:
            raise DataError(
                "nothing to translate: name pictures or folders, as in: unpaired translate RUN PICTURES --to DOMAIN --out DIR"
            )
        endings = " ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"no images in {', '.join(show(p) for p in inputs)} (looked for {endings})")
    tasks = _name(found, suffix)
    _protect(tasks, out, roots)
    return Plan(tuple(tasks), tuple(ignored))


def _walk(root: Path, resolved_out: str) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(f"{show(error.filename)}: cannot be listed: {error.strerror}") from error

    files: list[Path] = []
    for folder, folders, names in os.walk(root, onerror=refuse):  # does not follow links to folders: they form loops
        if os.path.realpath(folder) == resolved_out:
            folders.clear()
            continue
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        files += [Path(folder, n) for n in names if not n.startswith(".") and Path(folder, n).is_file()]
    return sorted(files, key=lambda f: f.relative_to(root).parts)


def _add(
    found: list[tuple[Path, PurePosixPath, str]], seen: set[str], file: Path, place: PurePosixPath, folder: str
) -> None:
    key = os.path.abspath(file)  # noqa: PTH100 - not resolve(): two links to one file are two inputs
    if key not in seen:
        seen.add(key)
        found.append((file, place, folder))


def _key(name: PurePosixPath) -> str:
    """Two names with the same key are the same file on some system."""
    return unicodedata.normalize("NFC", str(name)).casefold()


def _name(found: list[tuple[Path, PurePosixPath, str]], suffix: str) -> list[Task]:
    """Distinct names, the same on every run over the same files."""
    plain = [place.with_suffix(suffix) for _, place, _ in found]
    kept = [place.with_name(place.name + suffix) for _, place, _ in found]
    apart = [PurePosixPath(folder) / name for (_, _, folder), name in zip(found, kept, strict=True)]
    names = list(plain)
    for candidates in (kept, apart):
        count = Counter(map(_key, names))
        folders = {_key(parent) for name in names for parent in name.parents}
        clash = [count[_key(name)] > 1 or _key(name) in folders for name in names]
        after = Counter(_key(new) for new, bad in zip(candidates, clash, strict=True) if bad)
        better = [bad and (candidates is kept or after[_key(candidates[i])] == 1) for i, bad in enumerate(clash)]
        names = [candidates[i] if better[i] else name for i, name in enumerate(names)]
    folders = {_key(parent) for name in names for parent in name.parents}
    wanted, taken = {_key(name) for name in names}, set[str]()
    tasks = []
    for (file, _, _), name, simple in zip(found, names, plain, strict=True):
        final, number = name, 1
        while _key(final) in folders or _key(final) in taken or (number > 1 and _key(final) in wanted):
            number += 1
            final = name.with_name(f"{name.stem}-{number}{suffix}")
        taken.add(_key(final))
        tasks.append(Task(file, final, renamed=final != simple))
    return tasks


def _protect(tasks: list[Task], out: Path, roots: list[Path]) -> None:
    """Refuse when a result would replace an input, or lie where the next run would read it as one."""
    inputs = {_identity(task.input) for task in tasks}
    resolved = os.path.realpath(out)
    watched = [r for r in (os.path.realpath(root) for root in roots) if not _inside(resolved, r)]
    for task in tasks:
        target = os.path.realpath(out / task.output)
        if Path(target).exists() and _identity(Path(target)) in inputs:
            raise RefusedError(f"{show(target)}: the result would overwrite this input. Choose another --out")
        if any(_inside(target, root) for root in watched):
            raise RefusedError(f"{show(target)}: the result would lie among the inputs. Choose another --out")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()  # not the name: on some systems A.png and a.png are one file
    return status.st_dev, status.st_ino


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
