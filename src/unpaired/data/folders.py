"""Which files belong to which domain and split: three layouts, recognised by names alone; the rest is an error.

==========  ========================================================  =================================================
layout      looks like                                                splits
==========  ========================================================  =================================================
split       DATA/train/<domain>/…, DATA/test/<domain>/…, or           as the folders say
            DATA/<domain>/train/…, DATA/<domain>/test/…
cyclegan    DATA/trainA, trainB, testA, testB (valA, train_cat…), or  as the folders say
            DATA/cat_train, dog_train, cat_test, dog_test
domain      DATA/<domain>/…                                           90 % train, 10 % test, by hash of the name
==========  ========================================================  =================================================

A split's name may be in any case, and end as in training, testing, val, validation or train2017. Folders below a domain
are read to any depth. Order is by name, in bytes, never by the file system. Nothing is opened here: whether a file
really is an image is for ``unpaired check`` and the opener to say.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unpaired.data.images import IMAGE_SUFFIXES, OTHER_IMAGE_SUFFIXES, digest_file, show
from unpaired.errors import DataError
from unpaired.files import parallel

Layout = Literal["split", "cyclegan", "domain"]
TEST_SHARE = 0.1
"""Share of the files that the hash gives to the test split where the folders name no split."""
MAX_BAD_SHARE = 0.05
"""Share of unusable files above which training refuses to start."""
_SPLIT = re.compile(r"(train|test|val)(?:ing|id|idation)?(?:[_-]?\d{4})?", re.IGNORECASE)
_PREFIXED = re.compile(r"((?i:train|test|val))(?:([A-Zab0-9]|[A-Z0-9]{2})|[_-](.+))", re.DOTALL)
_SUFFIXED = re.compile(r"(.+)[_-]((?i:train|test|val))", re.DOTALL)
_SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "lost+found", "System Volume Information"})
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})
_EXPECTED = """Arrange it as one of:
  DATA/train/<domain>/…  and  DATA/test/<domain>/…
  DATA/<domain>/…        (10 % of each domain are held out as test images)
  DATA/trainA DATA/trainB DATA/testA DATA/testB"""


@dataclass(frozen=True)
class DataTree:
    """The files of a data folder by split and domain, as they were when it was read."""

    root: Path
    layout: Layout
    domains: tuple[str, ...]
    """Sorted; at least two, or one where that was asked for."""
    files: Mapping[tuple[str, str], tuple[Path, ...]]
    """(split, domain) -> paths below ``root``, sorted; "train" and "test" are present for every domain."""
    ignored: tuple[tuple[Path, str], ...] = ()
    """What was seen below a domain and left out, with the reason: other endings, special files, second links."""
    unreadable: tuple[tuple[Path, str], ...] = ()
    """Folders that could not be read, with the reason."""
    notes: tuple[str, ...] = ()
    """What a user should know about how the folder was understood."""
    _fingerprints: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def name(self, path: Path) -> str:
        """Return ``path`` relative to the root, with slashes and in Unicode form NFC: the same on every machine."""
        return stable_name(path, self.root)

    def listing(self, split: str) -> list[tuple[str, Path]]:
        """List the (domain, path) of a split's files, domain by domain."""
        return [(domain, path) for domain in self.domains for path in self.files[split, domain]]

    def fingerprint(self, split: str) -> str:
        """SHA-256 (hex) over (domain, split, relative name, SHA-256 of the bytes) of every listed file of a split.

        All files are read, once in the life of a tree: names, sizes and times do not tell what is in them.
        """
        if split not in self._fingerprints:
            total = hashlib.sha256(b"unpaired data 1\n")
            files = self.listing(split)
            for (domain, path), digest in zip(files, parallel(digest_file, [p for _, p in files]), strict=True):
                for part in (domain.encode(), split.encode(), name_bytes(self.name(path)), digest.encode()):
                    total.update(struct.pack("<Q", len(part)) + part)  # lengths first: no two lists can look the same
            self._fingerprints[split] = total.hexdigest()
        return self._fingerprints[split]


def stable_name(path: Path, root: Path) -> str:
    """Return ``path`` relative to ``root``, with slashes, in Unicode form NFC (macOS stores NFD)."""
    return _nfc(path.relative_to(root).as_posix())


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def name_bytes(name: str) -> bytes:
    """Encode a name from `stable_name` for hashing; works for names that are not UTF-8."""
    return name.encode("utf-8", "surrogateescape")


def hashed_split(name: str) -> str:
    """Give about one name in ten to "test", by the name alone, so that adding a file moves no other."""
    number = int.from_bytes(hashlib.sha256(name_bytes(name)).digest()[:8], "big")
    return "test" if number < TEST_SHARE * 2**64 else "train"


def _by_bytes(path: Path) -> bytes:
    return os.fsencode(path.as_posix())


def is_image_name(name: str) -> bool:
    """Say whether a file of this name is taken for an image: by its ending, upper or lower case; hidden files never."""
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES


def in_another_format(path: Path) -> bool:
    """Say whether the ending is that of a picture in a format that is not read, such as a phone's HEIC."""
    return path.suffix.lower() in OTHER_IMAGE_SUFFIXES


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points at itself, or into a folder that may not be entered
        return False


@dataclass
class Walk:
    """Image files below some folders; folders and linked files that were met before are not read again."""

    ignored: list[tuple[Path, str]] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    met: dict[tuple[int, int], str] = field(default_factory=dict)
    """(device, inode) of the folders that are not to be read (again), and why."""

    def read(self, top: Path) -> list[Path]:
        """Sorted image files below ``top``, each once; links are followed, loops are not."""
        found: list[Path] = []
        folder_links: list[Path] = [top]
        file_links: list[Path] = []
        while folder_links:  # real folders before links to them, so that a file is known by its real place
            start = folder_links.pop(0)
            above = Path(os.path.realpath(start.parent))
            if start is not top and above.is_relative_to(os.path.realpath(start)):  # other domains would be read, too
                self.ignored.append((start, "a link back to a folder above it"))
                continue
            pending = [start]
            while pending:
                folder = pending.pop()
                try:
                    listed = self._entries(folder)
                except OSError as error:
                    self.unreadable.append((folder, f"cannot be read: {error.strerror}"))
                    continue
                for entry in listed:
                    path = Path(entry.path)
                    if reason := _not_wanted(entry):
                        self.ignored.append((path, reason))
                    elif _is_folder(entry):
                        (folder_links if entry.is_symlink() else pending).append(path)
                    else:
                        (file_links if entry.is_symlink() else found).append(path)
        if file_links:
            self._add_links(found, file_links)
        return sorted(found, key=_by_bytes)

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """What lies in a folder, sorted; nothing, the reason listed, where it is not to be read. Raises OSError."""
        status = folder.stat()
        if reason := self.met.get((status.st_dev, status.st_ino)):
            self.ignored.append((folder, reason))
            return []
        self.met[status.st_dev, status.st_ino] = "a link to a folder that is read already"
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda e: os.fsencode(e.name))

    def _add_links(self, found: list[Path], file_links: Sequence[Path]) -> None:
        known = {(s.st_dev, s.st_ino) for s in (p.stat() for p in found)}
        for path in sorted(file_links, key=_by_bytes):
            try:
                status = path.stat()
            except OSError:
                found.append(path)  # a dangling link counts as a bad file: the opener gives the reason
                continue
            if (status.st_dev, status.st_ino) in known:
                self.ignored.append((path, "a link to a file that is counted already"))
            elif not path.is_file():
                self.ignored.append((path, "a FIFO, socket or device"))
            else:
                known.add((status.st_dev, status.st_ino))
                found.append(path)


def _not_wanted(entry: os.DirEntry[str]) -> str:
    """Why an entry is left out by its name and kind; empty for folders and for what may be an image."""
    name = entry.name
    if _is_folder(entry):
        return "a hidden or system folder" if name.startswith(".") or name in _SYSTEM_FOLDERS else ""
    if name.startswith(".") or name.lower() in _SYSTEM_FILES:
        return "a hidden or system file"
    if not is_image_name(name):
        if entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110 (it raises where one may not look)
            return "a link that leads nowhere one may look"
        ending = show(Path(name).suffix) or "(none)"
        other = in_another_format(Path(name))
        return f"{ending} is a format that is not read; save it as JPEG or PNG" if other else f"{ending} is no image's"
    return "" if entry.is_symlink() or entry.is_file() else "a FIFO, socket or device"


@dataclass(frozen=True)
class _Top:
    """What lies directly in the root."""

    root: Path
    folders: tuple[str, ...]
    images: tuple[str, ...]

    def refuse(self, why: str, hint: str = _EXPECTED) -> DataError:
        seen = [f"folders: {_listing(self.folders)}"]
        seen += [f"images: {_listing(self.images)}"] if self.images else []
        return DataError(f"{show(self.root)}: {why}\nSeen there: {'; '.join(seen)}.\n{hint}")


def _listing(names: Sequence[str], most: int = 8) -> str:
    if not names:
        return "none"
    shown = ", ".join(show(n) for n in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _look(root: Path) -> _Top:
    try:
        with os.scandir(root) as entries:
            listed = sorted(entries, key=lambda e: os.fsencode(e.name))
    except FileNotFoundError as error:
        raise DataError(f"{show(root)}: there is no such folder") from error
    except NotADirectoryError as error:
        raise DataError(f"{show(root)}: a file, not a folder; an archive must be unpacked first") from error
    except OSError as error:
        raise DataError(f"{show(root)}: cannot be read: {error.strerror}") from error
    open_ = [e for e in listed if not e.name.startswith(".") and e.name not in _SYSTEM_FOLDERS]
    return _Top(
        root,
        tuple(e.name for e in open_ if _is_folder(e)),
        tuple(e.name for e in open_ if is_image_name(e.name) and not _is_folder(e)),
    )


def _split_of(name: str) -> str:
    """The split that a folder's name means, "train" or "test"; empty for any other name."""
    match = _SPLIT.fullmatch(name)
    return ("train" if match[1].lower() == "train" else "test") if match else ""


def _is_val(path: Path) -> bool:
    return path.name.lower().startswith("val")


def _prefixed(name: str) -> tuple[str, str] | None:
    """``trainA`` -> ("train", "A"), ``test_cat`` -> ("test", "cat"); None for any other name."""
    match = None if _split_of(name) else _PREFIXED.fullmatch(name)
    return (_split_of(match[1]), match[2].upper() if match[2] else match[3]) if match else None


Plan = dict[tuple[str, str], Path]
"""(split or "" for by-hash, domain) -> the folder to read."""


def _planned(top: _Top, found: Iterable[tuple[str, str, Path]]) -> tuple[Plan, tuple[str, ...]]:
    """Put the parts together: a validation set gives way to a test set, with a note; other doubles are refused."""
    plan: Plan = {}
    notes = []
    for split, domain, path in sorted(found, key=lambda f: (_is_val(f[2]), _by_bytes(f[2]))):
        other = plan.setdefault((split, _nfc(domain)), path)
        if other is not path and _is_val(path):
            notes.append(f"{show(path.name)} is not used, because {show(other.name)} is there")
        elif other is not path:
            raise top.refuse(f"{show(other.name)} and {show(path.name)} name the same split and domain.")
    return plan, tuple(notes)


def find(root: str | os.PathLike[str], least: int = 2) -> DataTree:
    """Find the files of ``root`` by split and domain.

    With ``least`` = 1 a single domain will do, and so will a folder of images without folders: it is the domain.

    Raises:
        DataError: no such folder; a layout that cannot be told for certain (the text shows what was seen and what would
            do); fewer than ``least`` domains. A domain without images is no error here: ``unpaired check`` and
            ``open_pool`` report it.
    """
    top = _look(Path(root))
    if least == 1 and top.images and not top.folders:
        name = top.root.resolve().name or "images"
        return _read(top, "domain", {("", name): top.root}, (), least)
    if top.images:
        where = "beside the folders; it is not clear which domain is theirs" if top.folders else "in it, and no folders"
        raise top.refuse(f"{len(top.images)} images lie {where}.")
    splits = [n for n in top.folders if _split_of(n)]
    prefixed = {n: key for n in top.folders if (key := _prefixed(n))}
    suffixed = {n: (_split_of(m[2]), m[1]) for n in top.folders if (m := _SUFFIXED.fullmatch(n))}
    if {split for split, _ in suffixed.values()} == {"train", "test"}:  # with one alone, steam_train is a domain
        prefixed |= suffixed
    if splits and prefixed:
        raise top.refuse(f"both {_listing(splits)} and {_listing([*prefixed])} name splits.")
    if splits:
        return _read(top, "split", *_split_plan(top), least)
    if prefixed:
        _refuse_others(top, [*prefixed])
        if all(split == "test" for split, _ in prefixed.values()):
            raise top.refuse(f"{_listing([*prefixed])} without a training folder such as trainA.")
        return _read(top, "cyclegan", *_planned(top, ((*k, top.root / n) for n, k in prefixed.items())), least)
    inner = {name: _look(top.root / name) for name in top.folders}
    if any(_split_of(n) for below in inner.values() for n in below.folders):
        found = {name: _splits(below) for name, below in inner.items()}
        if bare := [name for name, below in found.items() if not below]:
            others = _listing([n for n in found if n not in bare])
            raise top.refuse(f"{others} has folders of splits, {_listing(bare)} has none.")
        return _read(top, "split", *_planned(top, ((s, d, p) for d, f in found.items() for s, p in f.items())), least)
    if len(inner) == 1 and len(only := next(iter(inner.values())).folders) > 1:
        inside = show(top.root / top.folders[0])
        raise top.refuse("only one folder.", f"Did you mean {inside}? It has the folders {_listing(only)}.")
    return _read(top, "domain", *_planned(top, (("", name, top.root / name) for name in top.folders)), least)


def _refuse_others(top: _Top, known: Sequence[str]) -> None:
    others = [n for n in top.folders if n not in known and Walk().read(top.root / n)]
    if others:
        raise top.refuse(f"{_listing(others)} with images beside {_listing(known)}; rename or move them away.")


def _splits(top: _Top) -> dict[str, Path]:
    """Split -> its folder, of folders named so; empty where there are none. Of test and val the first is taken."""
    names = sorted((n for n in top.folders if _split_of(n)), key=lambda n: (_is_val(Path(n)), n))
    found: dict[str, str] = {}
    for name in names:
        other = found.setdefault(_split_of(name), name)
        if other != name and not (_is_val(Path(name)) and not _is_val(Path(other))):
            raise top.refuse(f"{other} and {name} name the same split; rename or merge one.")
    if names:
        _refuse_others(top, names)
        if "train" not in found:
            raise top.refuse(f"{_listing(names)} without train; rename the folder with the training images to train.")
    return {split: top.root / name for split, name in found.items()}


def _split_plan(top: _Top) -> tuple[Plan, tuple[str, ...]]:
    chosen = _splits(top)
    unused = [n for n in top.folders if _split_of(n) and top.root / n not in chosen.values()]
    plan: Plan = {}
    for split, folder in sorted(chosen.items(), reverse=True):  # train before test
        inner = _look(folder)
        if inner.images:
            what = f"{len(inner.images)} images lie in it without a domain"
            raise inner.refuse(f"{what}; expected {folder.name}/<domain>/….")
        here, _ = _planned(inner, ((split, domain, folder / domain) for domain in inner.folders))
        for _, domain in here:
            if split == "test" and ("train", domain) not in plan:
                there = _listing([d for _, d in plan])
                raise inner.refuse(f"the domain {show(domain)} is not in {chosen['train'].name}, which has: {there}.")
        plan |= here
    return plan, tuple(f"{name}/ is not used, because {chosen['test'].name}/ is there" for name in unused)


def _read(top: _Top, layout: Layout, plan: Plan, notes: tuple[str, ...], least: int) -> DataTree:
    """Read the planned folders and, where the plan has no split, split by the hash of the name within the domain."""
    domains = _checked_domains(top, {domain for _, domain in plan}, least)
    files: dict[tuple[str, str], tuple[Path, ...]] = {}
    walks = []
    for domain in domains:
        walk = Walk()  # one for both splits: a link from test into train must not count twice
        walks.append(walk)
        for split in ("train", "test"):
            folder = plan.get((split, domain))
            files[split, domain] = tuple(walk.read(folder)) if folder is not None else ()
        if (folder := plan.get(("", domain))) is not None:
            files |= _hash_split(domain, walk.read(folder), folder)
    ignored = tuple(i for w in walks for i in w.ignored)
    unreadable = tuple(u for w in walks for u in w.unreadable)
    return DataTree(top.root, layout, domains, files, ignored, unreadable, notes)


def _hash_split(domain: str, paths: Sequence[Path], base: Path) -> dict[tuple[str, str], tuple[Path, ...]]:
    parts: dict[str, list[Path]] = {"train": [], "test": []}
    for path in paths:
        parts[hashed_split(stable_name(path, base))].append(path)
    if not parts["train"]:  # a handful of files that all hash to test: without training images nothing could run
        parts = {"train": parts["test"], "test": []}
    return {(split, domain): tuple(found) for split, found in parts.items()}


def _checked_domains(top: _Top, names: Iterable[str], least: int) -> tuple[str, ...]:
    """Sorted names; refuses too few, odd ones, and those that differ only in case."""
    domains = tuple(sorted(names, key=os.fsencode))
    if not domains:
        raise top.refuse("no domain folders.")
    if len(domains) < least:
        alone = "(deepvae, biggan and stylegan train on a single one)"
        raise top.refuse(f"only one domain, {show(domains[0])}; translation needs at least two {alone}.")
    odd = [d for d in domains if not d.isprintable() or not d.strip()]  # also true of names that are not UTF-8
    if odd:
        raise top.refuse(f"the folder name {_listing(odd)} cannot be a domain's name; rename it to plain text.")
    folded: dict[str, str] = {}
    for domain in domains:
        other = folded.setdefault(_nfc(domain).casefold(), domain)
        if other != domain:
            raise top.refuse(f"the domains {show(other)} and {show(domain)} differ only in case; rename one.")
    return domains


def split_folder(root: Path, split: str | None) -> Path:
    """Find the folder of one split of a labelled set: of "train" or "test", or of what there is to train on for None.

    Raises DataError: there is no such split.
    """
    there = _splits(_look(root))
    if not there and split in (None, "train"):
        return root
    if (split or "train") not in there:
        raise DataError(f"{show(root)}: no {split or 'train'} folder; there are: {', '.join(there) or 'no splits'}")
    return there[split or "train"]


def has_splits(root: Path) -> bool:
    """Say whether a folder has folders named like splits. Raises DataError."""
    return bool(_splits(_look(root)))


def find_labelled(root: Path) -> tuple[tuple[str, ...], tuple[Path, ...], NDArray[np.int64]]:
    """Find a folder's class folders: (sorted classes, files, labels [n] int64, indices into ``classes``).

    Raises:
        DataError: images without a class, fewer than two classes, or a class without images.
    """
    top = _look(root)
    hint = "Arrange it as LABELLED/<class>/…, one folder a class."
    if top.images:
        raise top.refuse(f"{len(top.images)} images lie beside the class folders.", hint)
    if len(top.folders) < 2:
        raise top.refuse("fewer than two class folders.", hint)
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(top.folders):
        found = Walk().read(top.root / name)
        if not found:
            raise top.refuse(f"the class folder {show(name)} has no images.", hint)
        files += found
        labels += [label] * len(found)
    return tuple(top.folders), tuple(files), np.array(labels, dtype=np.int64)
