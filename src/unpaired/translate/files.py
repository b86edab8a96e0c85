"""Translating files and trees: planned before work, restartable, one bad file never stops it.

Pictures are read in the planned order and go through the model in batches of neighbours of equal size. Each result is
written under a temporary name, fsynced and renamed. The record (``translation_journal``) lets a killed run go on; the
batches are cut in the same places then, so that the finished tree has the same bytes as that of an undisturbed run.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unpaired._version import __version__
from unpaired.data.images import (
    IMAGE_SUFFIXES,
    OTHER_IMAGE_SUFFIXES,
    encode_image,
    open_image,
    open_regular,
    show,
    to_tensor,
    to_uint8,
)
from unpaired.errors import ConfigError, DataError, ImageError, PartialError, RefusedError, UnpairedError
from unpaired.files import TEMPORARY_PREFIX, sha256_of, sync_folder, why_unwritten, write_atomically
from unpaired.translate.tiling import MAX_PIXELS, check_max_pixels

if TYPE_CHECKING:
    from unpaired.translate.translator import Translator


FORMATS: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG", "compress_level": 4},
    "jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    "webp": {"format": "WEBP", "lossless": True, "method": 4},
}
"""Ending of the results -> how Pillow writes them. PNG and WebP keep every pixel."""
CELL = 256
"""Longer side in pixels of a cell in the grids of ``to="all"``, at most."""
GAP = 2
"""White pixels between the cells of such a grid."""
REPORT = ".unpaired-report.json"
"""Name of the report in the output folder when something failed."""
FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""Errors of writing that the next file would meet as well."""
Progress = Callable[[int, int], None]


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
    options: dict[str, Any]
    items: list[Item] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    """Input -> result, where the plain name was taken."""
    ignored: int = 0
    """Files in the given folders that are no images by their ending."""
    unread: list[str] = field(default_factory=list)
    """Those of them that are pictures in a format that is not read, such as a phone's HEIC."""

    @property
    def counts(self) -> dict[str, int]:
        """Number of items by status."""
        return {status: sum(i.status == status for i in self.items) for status in ("ok", "skipped", "failed")}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        items = [{k: v for k, v in vars(item).items() if v} for item in self.items]
        return {
            "version": __version__,
            "out": show(self.out),
            "options": self.options,
            "counts": self.counts,
            "ignored": self.ignored,
            "unread": self.unread,
            "renamed": self.renamed,
            "items": items,
        }

    def text(self) -> str:
        """A few lines for a person."""
        counts = self.counts
        lines = [
            f"{counts['ok']} translated, {counts['skipped']} already done, {counts['failed']} failed: {show(self.out)}"
        ]
        lines += [f"  renamed: {source} -> {target}" for source, target in list(self.renamed.items())[:10]]
        if len(self.renamed) > 10:
            lines.append(f"  and {len(self.renamed) - 10} more renamed")
        failed = [item for item in self.items if item.status == "failed"]
        lines += [f"  failed: {item.input}: {item.reason}" for item in failed[:10]]
        if len(failed) > 10:
            lines.append(f"  and {len(failed) - 10} more")
        if self.unread:
            more = f" and {len(self.unread) - 3} more" if len(self.unread) > 3 else ""
            lines.append(f"  in a format that is not read, save as JPEG or PNG: {', '.join(self.unread[:3])}{more}")
        return "\n".join(lines)


class IncompleteTranslation(PartialError):
    """The work is done, but some items failed; ``report`` has them."""

    def __init__(self, message: str, report: TranslationReport) -> None:
        self.report = report
        super().__init__(message)


def translate_files(
    model: Translator | Path | str,
    inputs: Sequence[Path | str] | Path | str,
    *,
    to: str,
    source: str | None = None,
    out: Path | str,
    device: str = "auto",
    precision: str = "fp32",
    engine: str = "torch",
    batch_size: int = 8,
    seed: int = 0,
    samples: int = 1,
    max_pixels: int | None = None,
    format: str = "png",
    report: Path | str | None = None,
    overwrite: bool = False,
    mask: Path | str | None = None,
    mask_threshold: float | None = None,
    quiet: bool = False,
    progress: Progress | None = None,
) -> TranslationReport:
    """Translate files and whole trees of them into ``out``; run it again to go on after an interruption.

    Args:
        model: a translator (then ``device``, ``precision`` and ``engine`` are its own), or a path as for :func:`unpaired.load`.
        to, source: domains; ``source`` may be left out when only one direction leads to ``to``, and is "none" for pictures
            of no trained domain. ``to="all"`` makes one grid for each input: the input, then every domain that it can be
            translated to, row by row in the model's order (the report lists them); sides above ``CELL`` pixels are scaled down.
        batch_size: pictures of equal size at a time. Results differ by float rounding at most: by one step of 255
            in rare pixels.
        seed: for methods with random outputs; each picture's noise follows from it and the picture's own bytes.
        samples: results for each input, each with noise of its own, in ``out/sample-1`` and so on; more than 1 is for
            methods with random outputs. The first is the one that ``samples=1`` gives.
        max_pixels: larger pictures are translated in overlapping tiles of at most this many pixels.
        format: ``png``, ``jpg`` (quality 95) or ``webp`` (lossless).
        report: where to write the JSON report; ``out/.unpaired-report.json`` gets it as well when something failed.
        overwrite: replace results of another model or other options, and foreign files, that are in the way.
        mask: folder for the attention maps, 8-bit grey PNG under the results' names; 0 where the result equals the input
            exactly. Written together with the results; files of the same name there are replaced.
        mask_threshold: makes the maps black and white at this value, and keeps the input's pixels where they are black.
        progress: called with (items finished, items in all).

    Raises:
        RefusedError: nothing was changed: bad options, missing inputs, results that would overwrite inputs or
            foreign files, results of another model in ``out``.
        IncompleteTranslation: (a PartialError) finished, but some items failed.
        UnpairedError: the disk is full or failing; what is done stays done.
    """
    from unpaired.translate.translator import Translator, load

    if format not in FORMATS:
        raise ConfigError(f"format '{format}' cannot be written; there are: {', '.join(FORMATS)}")
    if batch_size < 1:
        raise ConfigError(f"batch_size = {batch_size}: must be at least 1")
    translator = (
        model if isinstance(model, Translator) else load(model, device=device, precision=precision, engine=engine)
    )
    if samples < 1 or (samples > 1 and not translator.method.stochastic):
        raise ConfigError(
            f"samples = {samples}: this model gives one result for an input, so only 1 will do"
            if samples > 1
            else f"samples = {samples}: must be at least 1"
        )
    if to == "all" and to not in translator.domains:
        source, targets = translator.targets(source)
    else:
        source, to = translator.direction(source, to)
        targets = (to,)
    out = Path(out)
    given = [Path(i) for i in ([inputs] if isinstance(inputs, (str, Path)) else inputs)]
    if mask is None and mask_threshold is not None:
        raise ConfigError("mask_threshold needs a folder for the masks: --mask DIR")
    if mask is not None:
        translator._check_attention(mask_threshold)
        if targets != (to,):
            raise ConfigError("--mask goes with one domain, not with --to all")
        mask = _check_mask_folder(Path(mask), out, given)
    todo = plan(given, out, f".{format}", samples)
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    check_max_pixels(translator.method.stride, limit)
    size = 1 if translator.method.stochastic else batch_size
    job = _Job(translator, source, to, targets, seed, samples, limit, size, format, out, mask, mask_threshold)
    try:
        with opened(out, job.options, overwrite=overwrite) as journal:
            if not overwrite:
                _refuse_foreign(todo, journal)
            shown = nullcontext(progress) if progress is not None or quiet else _bar()
            with shown as advance:
                result = job.run(todo, journal, advance)
        return _finish(result, report)
    except OSError as error:
        raise unwritable(out, error, 0) from error


def _check_mask_folder(mask: Path, out: Path, inputs: Sequence[Path]) -> Path:
    """Refuse where masks could replace results or inputs, or be read as inputs by the next run."""
    place, results = mask.resolve(), out.resolve()
    if place.is_relative_to(results) or results.is_relative_to(place):
        raise RefusedError(f"{show(mask)}: masks and results need folders apart. Choose another --mask")
    for path in inputs:
        folder = path.resolve()
        if place.is_relative_to(folder) if path.is_dir() else place == folder.parent:
            raise RefusedError(f"{show(mask)}: the masks would lie among the inputs. Choose another --mask")
    return mask


def _refuse_foreign(todo: Plan, journal: Journal) -> None:
    """Files that are in the way and are not ours: they stay."""
    names = [str(task.output) for task in todo.tasks]
    foreign = [name for name in names if (journal.out / name).exists() and not journal.ours(name)]
    if foreign:
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        raise DataError(
            f"{show(journal.out)}: files are in the way that this run did not write, or that were changed since: "
            f"{', '.join(map(show, foreign[:5]))}{more}. Use another --out, or --overwrite to replace them"
        )


def _finish(result: TranslationReport, path: Path | str | None) -> TranslationReport:
    failed = result.counts["failed"]
    own = result.out / REPORT
    own.unlink(missing_ok=True)
    paths = [own] if failed else []
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        paths.append(Path(path))
    text = json.dumps(result.to_dict(), indent=1).encode()
    for target in paths:
        try:
            write_atomically(target, text)
        except OSError as error:
            raise unwritable(target, error, len(text)) from error
    if failed:
        where = show(paths[-1])
        raise IncompleteTranslation(f"{result.text()}\nthe whole list: {where}", result)
    return result


@dataclass(frozen=True)
class _Picture:
    """A decoded input, or one whose result is in place and need not be decoded (``pixels`` is None)."""

    task: Task
    sha256: str
    size: tuple[int, int]
    pixels: NDArray[np.uint8] | None
    finished: bool


@dataclass(frozen=True)
class _Job:
    translator: Translator
    source: str | None
    to: str
    targets: tuple[str, ...]
    seed: int
    samples: int
    max_pixels: int
    batch_size: int
    format: str
    out: Path
    mask: Path | None = None
    mask_threshold: float | None = None

    @property
    def options(self) -> dict[str, Any]:
        """All that the results depend on; results of different options are not mixed."""
        model = self.translator
        several: dict[str, Any] = {"samples": self.samples} if self.samples > 1 else {}
        if self.to not in self.targets:
            several["targets"] = list(self.targets)
        if model.engine != "torch":
            several["engine"] = model.engine
        if self.mask is not None:
            several |= {"mask": True, "mask_threshold": self.mask_threshold}
        return {
            **several,
            "model": model.sha256 or _weights_hash(model),
            "source": self.source,
            "to": self.to,
            "seed": self.seed if model.method.stochastic else None,
            "max_pixels": self.max_pixels,
            "format": self.format,
            "precision": model.precision,
        }

    def run(self, todo: Plan, journal: Journal, progress: Progress | None) -> TranslationReport:
        report = TranslationReport(self.out, self.options, ignored=len(todo.ignored))
        report.unread = [show(p) for p in todo.ignored if p.suffix.lower() in OTHER_IMAGE_SUFFIXES]
        report.renamed = {show(t.input): show(t.output) for t in todo.tasks if t.renamed}
        results: dict[PurePosixPath, Item] = {}
        total, finished = len(todo.tasks), 0
        for batch, failures in self._batches(todo, journal):
            for item_task, reason in failures:
                results[item_task.output] = _item(item_task, "failed", reason)
            for item_task, status, reason in self._do(batch, journal):
                results[item_task.output] = _item(item_task, status, reason)
            finished += len(batch) + len(failures)
            if progress is not None:
                progress(finished, total)
        report.items = [results[task.output] for task in todo.tasks]
        return report

    def _batches(self, todo: Plan, journal: Journal) -> Iterator[tuple[list[_Picture], list[tuple[Task, str]]]]:
        """Neighbours of equal size, and the files that could not be read on the way."""
        batch: list[_Picture] = []
        failures: list[tuple[Task, str]] = []
        for task in todo.tasks:
            try:
                picture = self._look(task, journal)
            except ImageError as error:
                failures.append((task, error.reason))
                continue
            width, height = picture.size
            room = max(1, min(self.batch_size, self.max_pixels // (width * height)))
            if batch and (batch[0].size != picture.size or len(batch) >= room):
                yield batch, failures
                batch, failures = [], []
            batch.append(picture)
        yield batch, failures

    def _look(self, task: Task, journal: Journal) -> _Picture:
        """The file's bytes hashed; decoded only when its result is not in place yet. Raises ImageError."""
        try:
            with open_regular(task.input) as file:
                content = file.read()
        except OSError as error:
            raise ImageError(show(task.input), f"cannot be read: {error.strerror}") from error
        sha256 = hashlib.sha256(content).hexdigest()
        name = str(task.output)
        if journal.intact(name, sha256) and (self.mask is None or self._mask_path(task).is_file()):
            return _Picture(task, sha256, journal.finished[name].size, None, True)
        pixels = np.asarray(open_image(content, min_side=1))
        return _Picture(task, sha256, (pixels.shape[1], pixels.shape[0]), pixels, False)

    def _do(self, batch: list[_Picture], journal: Journal) -> Iterator[tuple[Task, str, str]]:
        """Translate a batch and write what is missing of it: (task, status, reason)."""
        yield from ((p.task, "skipped", "") for p in batch if p.finished)
        missing = [p for p in batch if not p.finished]
        if not missing:
            return
        # The whole batch goes through the model again, also when only a part is missing: sums are grouped by batch
        # shape, and the bytes shall be those of an undisturbed run.
        stack = np.stack([_decoded(p) for p in batch])
        images, masks, reasons = self._translate(stack, batch)
        written: dict[str, Done] = {}
        results: list[tuple[Task, str, str]] = []
        names = [str(p.task.output) for p, i in zip(batch, images, strict=True) if not p.finished and i is not None]
        if names:
            journal.begin(names)
        for picture, image, mask, reason in zip(batch, images, masks, reasons, strict=True):
            if picture.finished:
                continue
            if image is not None:
                reason = self._write_mask(picture, mask) or self._write(picture, image, written)
            results.append((picture.task, "failed" if reason else "ok", reason))
        for folder in sorted({(self.out / name).parent for name in written}):
            sync_folder(folder)
        if written:
            journal.done(written)
        yield from results

    def _translate(
        self, stack: NDArray[np.uint8], batch: list[_Picture]
    ) -> tuple[list[NDArray[np.uint8] | None], list[NDArray[np.uint8] | None], list[str]]:
        """Results, or None with a reason, for uint8 [N, H, W, 3]; with them the masks [H, W] where they are wanted."""
        # 63 bits of (seed, the first picture's bytes); methods that draw noise come here one picture at a time
        number = batch[0].task.sample
        digest = hashlib.sha256(f"{self.seed} {batch[0].sha256}{f' {number}' if number else ''}".encode()).digest()
        seed = int.from_bytes(digest[:8], "big") >> 1
        grid = self.to not in self.targets
        masks: list[NDArray[np.uint8] | None] = [None] * len(batch)
        try:
            images = _scaled(to_tensor(stack)) if grid else to_tensor(stack)
            if self.mask is None:
                columns = [  # the same noise for every domain
                    self.translator.translate(images, self.source, target, seed=seed, max_pixels=self.max_pixels)
                    for target in self.targets
                ]
            else:
                translated, found = self.translator.translate_with_attention(
                    images, self.source, self.to, threshold=self.mask_threshold, seed=seed, max_pixels=self.max_pixels
                )
                columns = [translated]
                masks = [mask_to_uint8(m, black_and_white=self.mask_threshold is not None) for m in found]
        except (RuntimeError, MemoryError) as error:  # also out of memory
            if len(batch) == 1:
                return [None], [None], [f"the model failed: {type(error).__name__}: {str(error).splitlines()[0][:200]}"]
            parts = [self._translate(stack[i : i + 1], batch[i : i + 1]) for i in range(len(batch))]
            return [p[0][0] for p in parts], [p[1][0] for p in parts], [p[2][0] for p in parts]
        results: list[NDArray[np.uint8] | None] = []
        reasons = []
        for n, outputs in enumerate(zip(*columns, strict=True)):
            sound = all(bool(torch.isfinite(output).all()) for output in outputs)
            cells = [to_uint8(cell) for cell in ((images[n], *outputs) if grid else outputs)] if sound else []
            results.append((_grid(cells) if grid else cells[0]) if sound else None)
            reasons.append("" if sound else "the model's output is not finite (NaN or infinity)")
        return results, masks, reasons

    def _mask_path(self, task: Task) -> Path:
        assert self.mask is not None, "only called with a folder for masks"
        return self.mask / str(task.output.with_suffix(".png"))

    def _write_mask(self, picture: _Picture, mask: NDArray[np.uint8] | None) -> str:
        """Put one mask in place, before its result, so that a result that is there has its mask; the reason if that failed."""
        if mask is None:
            return ""
        path, content = self._mask_path(picture.task), encode_image(mask)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        except OSError as error:
            if error.errno in FATAL:
                raise unwritable(path, error, len(content)) from error
            return f"its mask cannot be written: {error.strerror or error}"
        return ""

    def _write(self, picture: _Picture, image: NDArray[np.uint8], written: dict[str, Done]) -> str:
        """Put one result in place; the reason if that failed. Raises UnpairedError where going on is pointless."""
        buffer = io.BytesIO()
        name = str(picture.task.output)
        try:
            Image.fromarray(image).save(buffer, **FORMATS[self.format])
            path = self.out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, buffer.getvalue())
        except (OSError, ValueError) as error:  # ValueError: a side too long for the format
            text = getattr(error, "strerror", None) or str(error)
            if isinstance(error, OSError) and error.errno in FATAL:
                raise unwritable(self.out / name, error, len(buffer.getvalue())) from error
            return f"cannot be written: {text}"
        written[name] = Done(picture.sha256, hashlib.sha256(buffer.getvalue()).hexdigest(), picture.size)
        return ""


def _scaled(images: Tensor) -> Tensor:
    """[N, 3, H, W] with neither side above CELL, for a grid."""
    h, w = images.shape[-2:]
    if max(h, w) <= CELL:
        return images
    size = max(1, round(h * CELL / max(h, w))), max(1, round(w * CELL / max(h, w)))
    return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(-1, 1)


def _grid(cells: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Cells of one size, row by row in a nearly square grid on white."""
    h, w, _ = cells[0].shape
    columns = math.ceil(math.sqrt(len(cells)))
    rows = math.ceil(len(cells) / columns)
    sheet = np.full((rows * (h + GAP) - GAP, columns * (w + GAP) - GAP, 3), 255, np.uint8)
    for n, cell in enumerate(cells):
        top, left = n // columns * (h + GAP), n % columns * (w + GAP)
        sheet[top : top + h, left : left + w] = cell
    return sheet


def mask_to_uint8(mask: Tensor, *, black_and_white: bool = False) -> NDArray[np.uint8]:
    """A mask [1, H, W] in [0, 1] -> uint8 [H, W]; 0 only below 1/512, where the 8-bit result equals the input.

    A plain rounding would also give 0 up to 1/510, where a result may be one grey level off. ``black_and_white`` gives 255
    to all others.
    """
    touched = mask[0] >= 1 / 512
    grey = (mask[0] * 255).round().clamp(1, 255)
    if black_and_white:
        grey = torch.full_like(grey, 255)
    return torch.where(touched, grey, 0).to(torch.uint8).cpu().numpy()


def _decoded(picture: _Picture) -> NDArray[np.uint8]:
    if picture.pixels is not None:
        return picture.pixels
    return np.asarray(open_image(picture.task.input, min_side=1))


def _item(task: Task, status: str, reason: str) -> Item:
    return Item(show(task.input), show(task.output), status, reason)


def _weights_hash(model: Translator) -> str:
    """For a model that was made in memory and has no file."""
    sha = hashlib.sha256(json.dumps(model.info(), sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.method.state_dict().items()):
        sha.update(name.encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


@contextmanager
def _bar() -> Iterator[Progress | None]:
    """A progress bar on standard error; nothing, and no import for it, where that is no terminal."""
    if not (sys.stderr and sys.stderr.isatty()):
        yield None
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("translating"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("translating", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


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


@dataclass(frozen=True)
class Plan:
    """All tasks in the order in which they are done."""

    tasks: tuple[Task, ...]
    ignored: tuple[Path, ...]
    """Files in the given folders that are no images by their ending."""


def plan(inputs: Sequence[Path], out: Path, suffix: str, samples: int = 1) -> Plan:
    """Find the inputs and name the results. Reads folders, never files.

    With several ``samples`` of each input the results are named as ever, in the folders ``sample-1``, ``sample-2`` and so on.

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
    if samples > 1:
        tasks = [
            replace(task, output=PurePosixPath(f"sample-{n + 1}") / task.output, sample=n)
            for task in tasks
            for n in range(samples)
        ]
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


# ----------------------------------------------------------------------------------------------------
# The record in an output folder that makes translating restartable: which results are there, of what, made how.
#
# One JSON text a line in ``.unpaired-translate.jsonl``. The first line holds the model's hash and the options. Before a
# result is renamed into place its name is written down (``begin``), afterwards the digests (``done``). So a result that
# is there after a crash is either known with its digest or known to be ours; any other file is somebody else's.

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
