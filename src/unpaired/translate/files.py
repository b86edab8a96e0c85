"""Translating files and trees: planned before work, restartable, one bad file never stops it.

Pictures are read in the planned order and go through the model in batches of neighbours of equal size. Each result is
written under a temporary name, fsynced and renamed. A record in the output folder lets a killed run go on; the batches
are cut in the same places then, so that the finished tree has the same bytes as that of an undisturbed run.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from unpaired import __version__
from unpaired.checkpoint import digest_of
from unpaired.config import TranslateConfig
from unpaired.data.folders import Walk
from unpaired.data.images import (
    IMAGE_SUFFIXES,
    Pixels,
    encode_image,
    open_image,
    open_regular,
    sheet,
    show,
    to_tensor,
    to_uint8,
)
from unpaired.errors import ConfigError, DataError, ImageError, PartialError, RefusedError, UnpairedError
from unpaired.files import (
    TEMPORARY_PREFIX,
    locked,
    sha256_of,
    sync_folder,
    why_unwritten,
    write_atomically,
)
from unpaired.translate.tiling import MAX_PIXELS, check_max_pixels
from unpaired.translate.translator import Translator, load

CELL = 256
"""Longer side in pixels of a cell in the grids of ``to="all"``, at most."""
REPORT = ".unpaired-report.json"
"""Name of the report in the output folder."""
RECORD = ".unpaired-translate.jsonl"
LOCK = ".unpaired-translate.lock"
FORMAT = 2
"""Of the record; counts up when an older one cannot be read as it is."""
FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""Errors of writing that the next file would meet as well."""
RESULTS = "the folder of the results"
NAMED = 10
"""Most items of a kind that the text names; the report has them all."""
Progress = Callable[[int, int], None]
Options = Mapping[str, Any]
"""All that results depend on: the model's hash and what was asked of it."""


@dataclass(frozen=True)
class Item:
    """What became of one input."""

    input: str
    output: str
    status: str
    """``ok``, ``skipped`` (was done before) or ``failed``."""
    reason: str = ""


@dataclass
class TranslationReport:
    """One entry for each input file, in the planned order."""

    out: Path
    options: Options
    items: list[Item] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    """Input -> result, where the plain name was taken."""
    left_out: dict[str, str] = field(default_factory=dict)
    """What else lies in the given folders -> why it is no input."""

    @property
    def counts(self) -> dict[str, int]:
        """Number of items by status."""
        return {status: sum(i.status == status for i in self.items) for status in ("ok", "skipped", "failed")}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        items = [{k: v for k, v in vars(item).items() if v} for item in self.items]
        return {"version": __version__, **vars(self), "out": show(self.out), "counts": self.counts, "items": items}

    def text(self) -> str:
        """A few lines for a person: what failed or was renamed by name, what was left out too where it may surprise."""
        count = self.counts
        # a folder may hold thousands of thumbnails and notes: they are only counted
        usual = ("a hidden or system f", "no image's")
        odd = {name: why for name, why in self.left_out.items() if not any(u in why for u in usual)}
        kinds = {
            "renamed": [f"{source} -> {target}" for source, target in self.renamed.items()],
            "failed": [f"{i.input}: {i.reason}" for i in self.items if i.status == "failed"],
            "left out": [f"{name}: {reason}" for name, reason in odd.items()],
        }
        done = f"{count['ok']} translated, {count['skipped']} already done, {count['failed']} failed"
        lines = [f"{done}: {show(self.out)}"]
        for kind, found in kinds.items():
            lines += [f"  {kind}: {text}" for text in found[:NAMED]]
            lines += [f"  {kind}: and {len(found) - NAMED} more"] if len(found) > NAMED else []
        if rest := len(self.left_out) - len(odd):
            lines.append(f"  left out: {rest} that are hidden, or no pictures by their names ({REPORT} lists them)")
        return "\n".join(lines)


class IncompleteTranslation(PartialError):
    """The work is done, but some items failed; ``report`` has them."""

    def __init__(self, message: str, report: TranslationReport) -> None:
        self.report = report
        super().__init__(message)


def translate_files(
    model: Translator | Path | str,
    inputs: Sequence[Path | str] | Path | str,
    options: TranslateConfig | None = None,
    /,
    *,
    progress: Progress | None = None,
    **changes: Any,
) -> TranslationReport:
    """Translate files and whole trees of them into ``out``; run it again to go on after an interruption.

    Args:
        model: a translator (then ``device``, ``precision`` and ``engine`` are its own), or a path as for
            :func:`unpaired.load`.
        options: what :class:`~unpaired.config.TranslateConfig` lists; ``changes`` are single ones of them, as in
            ``to="zebra"``.
        progress: called with (items finished, items in all).

    Raises:
        RefusedError: nothing was changed: bad options, missing inputs, results that would overwrite inputs or
            foreign files, results of another model in ``out``.
        IncompleteTranslation: (a PartialError) finished, but some items failed.
        UnpairedError: the disk is full or failing; what is done stays done.
    """
    wanted = TranslateConfig.of(options, changes)
    if not isinstance(model, Translator):
        model = load(model, device=wanted.device, precision=wanted.precision, engine=wanted.engine)
    given = [Path(i) for i in ([inputs] if isinstance(inputs, (str, Path)) else inputs)]
    tasks, left_out = plan(given, wanted.out, f".{wanted.format}", wanted.samples)
    job = _Job.of(model, wanted, given)
    try:
        with record_of(wanted.out, job.made_of(), overwrite=wanted.overwrite) as record:
            if not wanted.overwrite:
                record.refuse_foreign([str(task.output) for task in tasks])
            with nullcontext(progress) if progress is not None or wanted.quiet else _bar() as advance:
                report = job.run(tasks, record, advance)
        report.left_out = {show(path): reason for path, reason in left_out}
        return _finish(report)
    except OSError as error:
        raise unwritable(wanted.out, error, 0) from error


def _finish(report: TranslationReport) -> TranslationReport:
    """Write the report beside the results. Raises IncompleteTranslation: something failed."""
    path, text = report.out / REPORT, json.dumps(report.to_dict(), indent=1).encode()
    try:
        write_atomically(path, text)
    except OSError as error:
        raise unwritable(path, error, len(text)) from error
    if report.counts["failed"]:
        raise IncompleteTranslation(f"{report.text()}\nthe whole list: {show(path)}", report)
    return report


def unwritable(path: Path, error: OSError, needed: int) -> UnpairedError:
    """Say that a disk is full or fails, and that the same command goes on."""
    why = why_unwritten(path, error, needed)
    return UnpairedError(f"{show(path)}: cannot be written: {why}. What is done is kept: mend it and run again")


@contextmanager
def _bar() -> Iterator[Progress | None]:
    """A progress bar on standard error; nothing, and no import for it, where that is no terminal."""
    if not (sys.stderr and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("translating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("translating", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# ----------------------------------------------------------------------------------------------------
# The work: batches of pictures through the model, results into their places.


@dataclass(frozen=True)
class _Picture:
    """A decoded input, or one whose result is in place and need not be decoded (``pixels`` is None)."""

    task: Task
    sha256: str
    size: tuple[int, int]
    pixels: Pixels | None


Outcome = tuple["Task", str, str]
"""(task, status, reason)."""
_Result = tuple[Pixels | None, NDArray[np.uint8] | None, str]
"""The picture [H, W, 3] and its mask [H, W] where one is wanted, or None and the reason."""


@dataclass(frozen=True)
class _Job:
    """Pictures through the model: ``run`` does what the record has not."""

    translator: Translator
    options: TranslateConfig
    source: str | None
    targets: tuple[str, ...]
    max_pixels: int

    @classmethod
    def of(cls, model: Translator, options: TranslateConfig, inputs: Sequence[Path]) -> _Job:
        """Raises ConfigError, RefusedError: options that the model or the folders do not allow."""
        if options.samples > 1 and not model.method.stochastic:
            raise ConfigError(f"samples = {options.samples}: this model gives one result for an input, so 1 will do")
        if options.to == "all" and "all" not in model.domains:
            source, targets = model.targets(options.source)
        else:
            source, target = model.direction(options.source, options.to)
            targets = (target,)
        if options.mask is not None:
            model.check_attention(options.mask_threshold)
            if targets != (options.to,):
                raise ConfigError("--mask goes with one domain, not with --to all")
            check_apart(options.mask, "--mask", options.out, inputs)
        limit = MAX_PIXELS if options.max_pixels is None else options.max_pixels
        check_max_pixels(model.method.stride, limit)
        return cls(model, options, source, targets, limit)

    @property
    def grid(self) -> bool:
        """Whether each result is a grid of all targets."""
        return self.options.to not in self.targets

    def made_of(self) -> dict[str, Any]:
        """All that the results depend on; results of different options are not mixed."""
        model, chosen = self.translator, self.options
        return {
            "model": model.sha256 or digest_of(model.method.state_dict(), model.info()),
            "source": self.source,
            "to": chosen.to,
            "targets": list(self.targets),
            "seed": chosen.seed if model.method.stochastic else None,
            "samples": chosen.samples,
            "max_pixels": self.max_pixels,
            "format": chosen.format,
            "precision": model.precision,
            "engine": model.engine,
            "mask": chosen.mask is not None,
            "mask_threshold": chosen.mask_threshold,
        }

    def run(self, tasks: Sequence[Task], record: Record, progress: Progress | None) -> TranslationReport:
        """Do what is not done yet."""
        found: dict[PurePosixPath, Item] = {}
        for batch, failures in self._batches(tasks, record):
            for task, status, reason in (*failures, *self._do(batch, record)):
                found[task.output] = Item(show(task.input), show(task.output), status, reason)
            if progress is not None:
                progress(len(found), len(tasks))
        renamed = {show(t.input): show(t.output) for t in tasks if t.renamed}
        return TranslationReport(self.options.out, record.options, [found[task.output] for task in tasks], renamed)

    def _batches(self, tasks: Sequence[Task], record: Record) -> Iterator[tuple[list[_Picture], list[Outcome]]]:
        """Neighbours of equal size, and the files that could not be read on the way."""
        most = 1 if self.translator.method.stochastic else self.options.batch_size  # noise follows from one picture
        batch: list[_Picture] = []
        failures: list[Outcome] = []
        for task in tasks:
            try:
                picture = self._look(task, record)
            except ImageError as error:
                failures.append((task, "failed", error.reason))
                continue
            room = max(1, min(most, self.max_pixels // math.prod(picture.size)))
            if batch and (batch[0].size != picture.size or len(batch) >= room):
                yield batch, failures
                batch, failures = [], []
            batch.append(picture)
        yield batch, failures

    def _look(self, task: Task, record: Record) -> _Picture:
        """The file's bytes hashed; decoded only when its result is not in place yet. Raises ImageError."""
        try:
            with open_regular(task.input) as file:
                content = file.read()
        except OSError as error:
            raise ImageError(show(task.input), f"cannot be read: {error.strerror}") from error
        sha256 = hashlib.sha256(content).hexdigest()
        there = record.intact(str(task.output), sha256)
        if there is not None and (self.options.mask is None or self._mask_path(task).is_file()):
            return _Picture(task, sha256, there.size, None)
        pixels = np.asarray(open_image(content, min_side=1))
        return _Picture(task, sha256, (pixels.shape[1], pixels.shape[0]), pixels)

    def _do(self, batch: list[_Picture], record: Record) -> Iterator[Outcome]:
        """Translate a batch and write what is missing of it: (task, status, reason)."""
        if all(picture.pixels is None for picture in batch):
            yield from ((picture.task, "skipped", "") for picture in batch)
            return
        # The whole batch goes through the model again, also when only a part is missing: sums are grouped by batch
        # shape, and the bytes shall be those of an undisturbed run.
        read = [p.pixels if p.pixels is not None else open_image(p.task.input, min_side=1) for p in batch]
        results = self._translate(np.stack([np.asarray(pixels) for pixels in read]), batch)
        ready: dict[Task, dict[Path, bytes]] = {}
        done: dict[str, Done] = {}
        for picture, (image, mask, reason) in zip(batch, results, strict=True):
            task, name = picture.task, str(picture.task.output)
            if picture.pixels is None:
                yield task, "skipped", ""
            elif image is None:
                yield task, "failed", reason
            else:
                try:
                    content = encode_image(image, self.options.format)
                except (OSError, ValueError) as error:  # a side too long for the format
                    yield task, "failed", f"cannot be written: {error}"
                    continue
                # the mask before its result, so that a result that is there has its mask
                ready[task] = {self._mask_path(task): encode_image(mask)} if mask is not None else {}
                ready[task][self.options.out / name] = content
                done[name] = Done(picture.sha256, hashlib.sha256(content).hexdigest(), picture.size)
        if done:
            record.add(done)
        for task, files in ready.items():
            reason = self._write(files)
            yield task, "failed" if reason else "ok", reason
        for folder in sorted({(self.options.out / name).parent for name in done}):
            if folder.is_dir():  # else it could not be made
                sync_folder(folder)

    def _write(self, files: Mapping[Path, bytes]) -> str:
        """Put files in place; the reason if that failed. Raises UnpairedError where going on is pointless."""
        for path, content in files.items():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, content)
            except OSError as error:
                if error.errno in FATAL:
                    raise unwritable(path, error, len(content)) from error
                return f"cannot be written: {error.strerror or error}"
        return ""

    def _translate(self, stack: Pixels, batch: list[_Picture]) -> list[_Result]:
        """Results for uint8 [N, H, W, 3]."""
        # 63 bits of (seed, the first picture's bytes); methods that draw noise come here one picture at a time
        number = batch[0].task.sample
        text = f"{self.options.seed} {batch[0].sha256}{f' {number}' if number else ''}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
        masks: Sequence[Tensor | None] = [None] * len(batch)
        try:
            images = _scaled(to_tensor(stack)) if self.grid else to_tensor(stack)
            if self.options.mask is None:  # the same noise for every domain
                translate, limit = self.translator.translate, self.max_pixels
                columns = [translate(images, self.source, t, seed=seed, max_pixels=limit) for t in self.targets]
            else:
                threshold = self.options.mask_threshold
                made, found = self.translator.translate_with_attention(
                    images, self.source, self.targets[0], threshold=threshold, seed=seed, max_pixels=self.max_pixels
                )
                columns, masks = [made], list(found)
        except (RuntimeError, MemoryError) as error:  # also out of memory
            if len(batch) == 1:
                return [(None, None, f"the model failed: {type(error).__name__}: {str(error).splitlines()[0][:200]}")]
            return [r for i in range(len(batch)) for r in self._translate(stack[i : i + 1], batch[i : i + 1])]
        return [self._result(*parts) for parts in zip(images, masks, *columns, strict=True)]

    def _result(self, image: Tensor, mask: Tensor | None, *outputs: Tensor) -> _Result:
        if not all(bool(torch.isfinite(output).all()) for output in outputs):
            return None, None, "the model's output is not finite (NaN or infinity)"
        cells = [to_uint8(cell) for cell in ((image, *outputs) if self.grid else outputs)]
        grey = None if mask is None else mask_to_uint8(mask, black_and_white=self.options.mask_threshold is not None)
        return sheet(cells, math.ceil(math.sqrt(len(cells)))) if self.grid else cells[0], grey, ""

    def _mask_path(self, task: Task) -> Path:
        assert self.options.mask is not None, "only called with a folder for masks"
        return self.options.mask / str(task.output.with_suffix(".png"))


def _scaled(images: Tensor) -> Tensor:
    """[N, 3, H, W] with neither side above CELL, for a grid."""
    h, w = images.shape[-2:]
    if max(h, w) <= CELL:
        return images
    size = max(1, round(h * CELL / max(h, w))), max(1, round(w * CELL / max(h, w)))
    return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(-1, 1)


def mask_to_uint8(mask: Tensor, *, black_and_white: bool = False) -> NDArray[np.uint8]:
    """Turn a mask [1, H, W] in [0, 1] into uint8 [H, W]; 0 only below 1/512, where the 8-bit result equals the input.

    A plain rounding would also give 0 up to 1/510, where a result may be one grey level off. ``black_and_white`` gives
    255 to all others.
    """
    touched = mask[0] >= 1 / 512
    grey = (mask[0] * 255).round().clamp(1, 255)
    if black_and_white:
        grey = torch.full_like(grey, 255)
    return torch.where(touched, grey, 0).to(torch.uint8).cpu().numpy()


# ----------------------------------------------------------------------------------------------------
# Which files are translated and what each result is called: all of it settled before any work is done.


@dataclass(frozen=True)
class Task:
    """One input file and its result."""

    input: Path
    output: PurePosixPath
    """Relative to the output folder."""
    renamed: bool = False
    """The plain name was taken, by another input or by a folder."""
    sample: int = 0
    """Which of several results of this input, counted from 0."""


Left = tuple[Path, str]
"""What lies in a given folder and is no input, with the reason, as ``unpaired check`` has it."""


def plan(inputs: Sequence[Path], out: Path, suffix: str, samples: int = 1) -> tuple[list[Task], list[Left]]:
    """Find the inputs and name the results, in the order in which they are made. Reads folders, never files.

    Folders are read as data folders are (`unpaired.data.folders.Walk`), but for ``out``. Results keep the input's place
    and name, with ``suffix``; several ``samples`` of each lie in folders ``sample-1``, ``sample-2`` and so on.

    Raises:
        DataError: an input is missing, or there is nothing to do.
        RefusedError: a result would overwrite an input or land among the inputs.
    """
    if not inputs:
        raise DataError("nothing to translate: name pictures or folders, as in: unpaired translate RUN PICTURES …")
    found: dict[str, tuple[Path, PurePosixPath]] = {}  # by absolute path, of which two links to one file have two
    left_out: list[Left] = []
    roots = [path for path in inputs if _is_folder(path)]
    for path in inputs:
        if path not in roots:
            found.setdefault(os.path.abspath(path), (path, PurePosixPath(path.name)))  # noqa: PTH100
            continue
        if os.path.realpath(path) == os.path.realpath(out):
            raise RefusedError(
                f"{show(out)}: the results cannot go into the input folder itself: the next run would read them as "
                f"inputs. Choose another --out; it may lie inside, as in --out {show(path / 'translated')}"
            )
        results = _identity(out)
        walk = Walk(met={} if results is None else {results: RESULTS})
        for file in walk.read(path):
            found.setdefault(os.path.abspath(file), (file, PurePosixPath(file.relative_to(path))))  # noqa: PTH100
        if walk.unreadable:
            raise DataError("; ".join(f"{show(folder)}: {reason}" for folder, reason in walk.unreadable))
        left_out += [(file, reason) for file, reason in walk.ignored if reason != RESULTS]
    if not found:
        endings = " ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"no images in {', '.join(show(p) for p in inputs)} (looked for {endings})")
    tasks = _named(list(found.values()), suffix)
    if samples > 1:
        numbers = range(samples)
        tasks = [Task(t.input, f"sample-{n + 1}" / t.output, t.renamed, n) for t in tasks for n in numbers]
    _protect(tasks, out, roots)
    return tasks, left_out


def _is_folder(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise DataError(f"{show(path)}: no such file or folder") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{show(path)}: cannot be read: {getattr(error, 'strerror', error)}") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DataError(f"{show(path)}: neither a file nor a folder")
    return stat.S_ISDIR(mode)


def _key(name: PurePosixPath) -> str:
    """Two names with the same key are the same file on some system."""
    return unicodedata.normalize("NFC", str(name)).casefold()


def _named(found: Sequence[tuple[Path, PurePosixPath]], suffix: str) -> list[Task]:
    """Give each input's result a name of its own, the same on every run over the same files.

    Where two would share one (``a.jpg`` and ``a.png``; ``A.png`` and ``a.png`` on systems that ignore case; the same
    name from two folders) or a folder has it, each keeps its old ending in front of the new one; what still clashes
    gets a number.
    """
    plain = [place.with_suffix(suffix) for _, place in found]
    count = Counter(map(_key, plain))
    folders = {_key(parent) for name in plain for parent in name.parents}
    clash = [count[_key(name)] > 1 or _key(name) in folders for name in plain]
    names = [
        place.with_name(place.name + suffix) if bad else name
        for (_, place), name, bad in zip(found, plain, clash, strict=True)
    ]
    wanted, taken = {_key(name) for name in names}, set[str]()
    tasks = []
    for (file, _), name, simple in zip(found, names, plain, strict=True):
        final, number = name, 1
        while _key(final) in folders or _key(final) in taken or (number > 1 and _key(final) in wanted):
            number += 1
            final = name.with_name(f"{name.stem}-{number}{suffix}")
        taken.add(_key(final))
        tasks.append(Task(file, final, renamed=final != simple))
    return tasks


def _protect(tasks: Sequence[Task], out: Path, roots: Sequence[Path]) -> None:
    """Refuse when a result would replace an input, or lie where the next run would read it as one."""
    inputs = {_identity(task.input) for task in tasks} - {None}
    place = Path(os.path.realpath(out))
    watched = [r for r in (os.path.realpath(root) for root in roots) if not place.is_relative_to(r)]
    for task in tasks:
        target = Path(os.path.realpath(out / task.output))
        if _identity(target) in inputs:
            raise RefusedError(f"{show(target)}: the result would overwrite this input. Choose another --out")
        if any(target.is_relative_to(root) for root in watched):
            raise RefusedError(f"{show(target)}: the result would lie among the inputs. Choose another --out")


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file this is; not the name: on some systems A.png and a.png are one file. None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def check_apart(folder: Path, option: str, out: Path, inputs: Sequence[Path] = ()) -> None:
    """Refuse a folder of ``option`` whose files could replace results or inputs, or be read as inputs by the next
    run."""
    place, results = folder.resolve(), out.resolve()
    if place.is_relative_to(results) or results.is_relative_to(place):
        raise RefusedError(f"{show(folder)}: {option} and the results need folders apart. Choose another {option}")
    for path in inputs:
        given = path.resolve()
        if place.is_relative_to(given) if path.is_dir() else place == given.parent:
            raise RefusedError(f"{show(folder)}: lies among the inputs. Choose another {option}")


# ----------------------------------------------------------------------------------------------------
# The record in an output folder that makes translating restartable: which results are there, of what, made how.
#
# One JSON text a line in RECORD. The first line holds the options. Before a result is renamed into place, a line with
# the digests of its input and of its own bytes is written and fsynced. So a file that is there after a crash has a
# digest that the record knows, or it is somebody else's.


@dataclass(frozen=True)
class Done:
    """A result: digests of its input and of its own bytes."""

    input_sha256: str
    output_sha256: str
    size: tuple[int, int]
    """Width and height in pixels of the input."""


@dataclass
class Record:
    """What is known about the results in ``out``; ``add`` writes it down, durably."""

    out: Path
    options: Options
    known: dict[str, list[Done]] = field(default_factory=dict)
    """By the result's name, oldest first."""
    _file: BinaryIO | None = None

    def add(self, results: Mapping[str, Done]) -> None:
        """Write down what is about to be put in place. Raises UnpairedError: the disk is full or fails."""
        assert self._file is not None, "opened by record_of"
        content = b""
        for name, result in results.items():
            self.known.setdefault(name, []).append(result)
            content += json.dumps({"name": name, **vars(result)}).encode() + b"\n"
        try:
            self._file.write(content)
            os.fsync(self._file.fileno())
        except OSError as error:
            raise unwritable(self.out / RECORD, error, len(content)) from error

    def intact(self, name: str, input_sha256: str) -> Done | None:
        """The newest result of this name, when it is in place, unchanged, and of this very input."""
        last = self.known[name][-1] if name in self.known else None
        if last is None or last.input_sha256 != input_sha256 or self._digest(name) != last.output_sha256:
            return None
        return last

    def ours(self, name: str) -> bool:
        """Whether the file in this place was written by this run or an earlier one of the same options."""
        return name in self.known and self._digest(name) in {done.output_sha256 for done in self.known[name]}

    def refuse_foreign(self, names: Sequence[str]) -> None:
        """Refuse files that are in the way and are not ours: they stay. Raises DataError."""
        foreign = [name for name in names if (self.out / name).exists() and not self.ours(name)]
        if foreign:
            more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
            raise DataError(
                f"{show(self.out)}: files are in the way that this run did not write, or that were changed since: "
                f"{', '.join(map(show, foreign[:5]))}{more}. Use another --out, or --overwrite to replace them"
            )

    def _digest(self, name: str) -> str:
        path = self.out / name
        return sha256_of(path) if path.is_file() else ""


def read_record(out: Path) -> Record | None:
    """Read the record in ``out``; None where there is none. A torn last line (a crash) is passed over."""
    path = out / RECORD
    if not path.is_file():
        return None
    first, *lines = path.read_bytes().split(b"\n")
    try:
        head = json.loads(first)
        record = Record(out, dict(head["options"]))
        readable = head["format"] == FORMAT
    except (ValueError, KeyError, TypeError):
        readable = False
    if not readable:
        raise RefusedError(f"{show(path)}: no record of translations by this version; use another --out")
    for line in lines:
        try:
            entry = json.loads(line)
            width, height = entry["size"]
            done = Done(entry["input_sha256"], entry["output_sha256"], (width, height))
            record.known.setdefault(str(entry["name"]), []).append(done)
        except (ValueError, KeyError, TypeError):
            continue
    return record


@contextmanager
def record_of(out: Path, options: Options, *, overwrite: bool) -> Iterator[Record]:
    """Make or continue the record of ``out``, locked against a second run; leftovers of a killed run are removed.

    Raises:
        RefusedError: another run is at work there, or the folder holds results of another model or other options and
            ``overwrite`` is off. With ``overwrite`` those results are removed, as far as nobody has changed them since.
    """
    if out.exists() and not out.is_dir():
        raise RefusedError(f"{show(out)}: a file; --out wants a folder")
    out.mkdir(parents=True, exist_ok=True)
    busy = f"{show(out)}: another translation is writing there; wait, or use another --out"
    with locked(out / LOCK, busy):
        for leftover in sorted(out.rglob(TEMPORARY_PREFIX + "*")):
            leftover.unlink(missing_ok=True)
        record = read_record(out)
        if record is not None and record.options != options:
            _replace(record, options, overwrite=overwrite)
            record = None
        if record is None:
            record = Record(out, options)
            content = json.dumps({"format": FORMAT, "options": options}).encode() + b"\n"
            try:
                write_atomically(out / RECORD, content)
                sync_folder(out)
            except OSError as error:
                raise unwritable(out / RECORD, error, len(content)) from error
        with (out / RECORD).open("ab", buffering=0) as file:  # nothing held back that a later close would have to write
            file.write(b"\n")  # a torn line of a killed run must not swallow the next one
            record._file = file
            yield record


def _replace(old: Record, options: Options, *, overwrite: bool) -> None:
    """Remove the results of other options. Raises RefusedError where that is not wanted."""
    if not overwrite:
        keys = sorted(k for k in {*old.options, *options} if old.options.get(k) != options.get(k))
        changes = "".join(f"\n  {k}: there {old.options.get(k)!r}, now {options.get(k)!r}" for k in keys)
        raise RefusedError(
            f"{show(old.out)}: holds results made otherwise, and they are not mixed:{changes}\n"
            "Use another --out, or --overwrite to replace them"
        )
    for name in old.known:
        if old.ours(name):
            (old.out / name).unlink(missing_ok=True)
