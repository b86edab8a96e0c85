"""What the importers of other projects' checkpoints share: a safe reader of ``torch.save`` files; :class:`Foreign`."""

from __future__ import annotations

import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, TypeVar, cast

import torch
from pydantic import ValidationError
from torch import Tensor

from unpaired.checkpoint import make_header
from unpaired.config import DataConfig, RunConfig
from unpaired.errors import CheckpointError, Interrupted
from unpaired.methods.base import Method

Names = dict[str, str]
"""Official name of a layer (or tensor) -> its name here; of a layer all tensors follow."""
M = TypeVar("M", bound=Method)
_LEAVES = ("weight", "bias", "gamma", "beta")


class Foreign:
    """A checkpoint of another project: its path, for messages, and its tensors by official name.

    ``module.`` of DataParallel is taken off; running statistics that instance norms of PyTorch 0.3 left are dropped.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        found = read_torch_file(self.path)
        kept = {k: v for k, v in found.items() if not k.endswith((".running_mean", ".running_var"))}
        self.tensors = {re.sub(r"(^|\.)module\.", r"\1", name): tensor for name, tensor in kept.items()}

    def count(self, pattern: str, first: int = 0) -> int:
        """Count the layers ``pattern`` (with {} for the number) from number ``first`` on, up to the first gap."""
        n = 0
        while pattern.format(first + n) in self.tensors:
            n += 1
        return n

    def needed(self, name: str, kind: str) -> Tensor:
        """The tensor ``name`` of a file that claims to be ``kind``. Raises CheckpointError without it."""
        if name not in self.tensors:
            start = ", ".join(list(self.tensors)[:3])
            raise CheckpointError(f"{self.path}: not {kind}: it has no tensor '{name}'; it starts with {start}")
        return self.tensors[name]

    def fitted(
        self, wanted: Mapping[str, Tensor], names: Names | None = None, unused: tuple[str, ...] = ()
    ) -> dict[str, Tensor]:
        """The tensors under our names in float32, after a comparison with ``wanted``.

        Args:
            names: official names; None where they are called alike.
            unused: how names of tensors begin that nothing here needs.

        Raises CheckpointError with a table of mismatches, by official name.
        """
        ours = {name: name for name in wanted} if names is None else {}
        for there, here in (names or {}).items():
            ours |= {there: here} if here in wanted else {f"{there}.{x}": f"{here}.{x}" for x in _LEAVES}
        ours = {there: here for there, here in ours.items() if here in wanted}
        given = self.tensors
        shape = {k: "×".join(map(str, v.shape)) or "scalar" for k, v in given.items()}
        want = {k: "×".join(map(str, wanted[here].shape)) or "scalar" for k, here in ours.items()}
        known = {k for k in given if k in ours or not (unused and k.startswith(unused))}
        names_of_both = sorted({*known, *want})
        rows = [(k, want.get(k, "-"), shape.get(k, "-")) for k in names_of_both if want.get(k) != shape.get(k)]
        if rows:
            table = [("tensor", "wanted", "found"), *rows[:30]]
            widths = [max(len(row[i]) for row in table) for i in range(3)]
            lines = ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table]
            text = "\n".join(lines)
            raise CheckpointError(f"{self.path}: {len(rows)} tensors do not fit the network they describe:\n{text}")
        return {here: given[there].float() for there, here in ours.items()}


def settings(method: type[Method], file: Foreign, values: Mapping[str, Any]) -> Any:
    """The method's ``Config`` of what a file's tensors tell. Raises CheckpointError."""
    try:
        return method.Config(**values)
    except ValidationError as error:
        why = "; ".join(f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors())
        raise CheckpointError(f"{file.path}: its tensors describe no {method.__name__} network: {why}") from error


def finished(method: M, name: str, extra: Mapping[str, Any], step: int = 0) -> tuple[M, dict[str, Any]]:
    """``method`` as an importer gives it, in eval mode, with its header."""
    run = RunConfig(method=name, data=DataConfig(size=method.image_size), model=method.config)
    method.requires_grad_(False)
    return method.eval(), make_header(method, run, step=step, extra=extra)


# ----------------------------------------------------------------------------------------------------
# PyTorch's own files, read without running anything in them. The one place that reads ``.pth``, ``.pt`` and ``.pkl``.
#
# A file is checked before torch opens it (kind, size, the classes its pickle names, the memory it claims), read with
# ``weights_only``, and every tensor is checked afterwards. There is no fallback to anything less safe.

MAX_FILE_BYTES = 4 * 2**30
"""Bound on a foreign file; the largest official UNIT file has about 0.2 GB."""
MAX_PICKLE_BYTES = 16 * 2**20
"""The pickle of a state dict names its tensors; their numbers lie outside. 16 MiB are more than 100,000 names."""
MAX_OPCODES = 300_000
"""Instructions of that pickle, some 40 a tensor: room for 7,000 tensors; a second and 40 MB to look at them all."""
MAX_MEMBERS = 10_000
"""Members of a zip file, one a tensor; more would take long to list."""
MAX_DEPTH = 4
"""Dictionaries within dictionaries: official files nest two deep."""
MAX_ENTRIES = 100_000
"""Values in all dictionaries together."""

_SAVE_AGAIN = (
    "Where you trust the file, open it where it was made and save the tensors alone: "
    "torch.save(model.state_dict(), 'weights.pt')"
)
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of every file that PyTorch wrote before 1.6
# With the space of an ordinary GLOBAL instruction, so that nothing put together on the stack can match.
_HARMLESS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor(_v2)?|parameter)|torch Size"
    r"|torch(\.storage)? \w*Storage|torch (float16|float32|float64|bfloat16|int64)"
)


def read_torch_file(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a ``torch.save`` file by dotted name, on the CPU; ``{"a": {"w": t}}`` gives ``{"a.w": t}``.

    Zip files and the older format before PyTorch 1.6 are read. Numbers, strings and the integer counters of batch norm
    that lie beside the tensors are dropped.

    Raises:
        CheckpointError: missing, too large, of another kind, unsafe, damaged, or with a tensor that is not finite.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise CheckpointError(f"{path}: not a file")
        if size > MAX_FILE_BYTES:
            raise CheckpointError(f"{path}: {size:,} bytes are more than the allowed {MAX_FILE_BYTES:,}")
        with path.open("rb") as file:
            kind = _sniff(path, file)
            found = _check_zip(path, file, size) if kind == "zip" else _check_legacy(path, file, size)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    unsafe = sorted(name.replace(" ", ".") for name in found if not _HARMLESS.fullmatch(name))
    if unsafe:
        raise CheckpointError(_unsafe_message(path, unsafe))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about storages of old files; they are checked below
            # A mapped zip file cannot make torch allocate, or read past, more than the file holds.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "zip")
    except Interrupted:
        raise
    except Exception as error:  # damaged pickles make torch raise nearly anything
        raise CheckpointError(f"{path}: not a readable PyTorch file, or a damaged one: {_first_line(error)}") from error
    return _checked_tensors(path, content)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().split("\n")[0]


def _sniff(path: Path, file: IO[bytes]) -> Literal["zip", "legacy"]:
    start = file.read(9)
    if start[:4] == b"PK\x03\x04":
        return "zip"
    if start[:1] == b"\x80":
        return "legacy"
    if start[8:] == b"{":
        what = "a safetensors file, not one of PyTorch's own; give the file that the official code wrote"
    elif not start:
        what = "an empty file"
    else:
        what = f"not a file that torch.save wrote (it starts with {start[:4]!r}); was the download complete?"
    raise CheckpointError(f"{path}: {what}")


def _check_zip(path: Path, file: IO[bytes], size: int) -> set[str]:
    """Names of the globals that a zip file's pickle asks for, after checks that torch.save could have written it."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            names = [m.filename for m in members]
            pickles = [m for m in members if PurePosixPath(m.filename).name == "data.pkl"]
            if len(members) > MAX_MEMBERS:
                raise CheckpointError(f"{path}: {len(members):,} members are more than the allowed {MAX_MEMBERS:,}")
            if any(PurePosixPath(n).name == "constants.pkl" for n in names):
                raise CheckpointError(f"{path}: a TorchScript program, not weights. {_SAVE_AGAIN}")
            wrong = _zip_problems(members, names, size) + ([] if len(pickles) == 1 else [f"{len(pickles)} data.pkl"])
            if wrong:
                raise CheckpointError(f"{path}: not an archive that torch.save wrote: {', '.join(wrong)}")
            if pickles[0].file_size > MAX_PICKLE_BYTES:
                raise CheckpointError(f"{path}: its data.pkl is larger than the allowed {MAX_PICKLE_BYTES:,} bytes")
            with archive.open(pickles[0]) as stream:
                return set(_globals(_opcodes(path, stream)))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, struct.error) as error:
        raise CheckpointError(f"{path}: a damaged zip archive ({error}); was the download complete?") from error


def _zip_problems(members: Sequence[zipfile.ZipInfo], names: Sequence[str], size: int) -> list[str]:
    problems = []
    if any(m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 1 for m in members):
        problems.append("compressed or encrypted members")
    if sum(m.file_size for m in members) > size:
        problems.append("members that claim more bytes than the file has")
    if len(set(names)) != len(names):
        problems.append("two members of the same name")
    if any(n.startswith("/") or "\\" in n or ".." in n.split("/") for n in names):
        problems.append("members that point outside the archive")
    return problems


Opcode = tuple[str, Any]


class _Bounded:
    """A stream whose reads cannot be talked into taking more memory than a pickle may have."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream

    def read(self, n: int) -> bytes:
        return self.stream.read(min(n, MAX_PICKLE_BYTES))

    def readline(self) -> bytes:
        return self.stream.readline(MAX_PICKLE_BYTES)


def _opcodes(path: Path, stream: IO[bytes]) -> list[Opcode]:
    """One pickle, disassembled and not run."""
    found: list[Opcode] = []
    try:
        for opcode, argument, _ in pickletools.genops(cast(IO[bytes], _Bounded(stream))):
            found.append((opcode.name, argument))
            if len(found) > MAX_OPCODES:
                raise CheckpointError(f"{path}: its pickle has more than {MAX_OPCODES:,} instructions")
    except (ValueError, LookupError, OverflowError, struct.error) as error:
        raise CheckpointError(f"{path}: a damaged pickle ({_first_line(error)}); was the download complete?") from error
    return found


def _globals(opcodes: Sequence[Opcode]) -> Iterator[str]:
    """What the pickle names: ``module name`` as PyTorch writes it, or ``module.name`` where it is put together on the
    stack."""
    strings = ["?", "?"]
    for name, argument in opcodes:
        if name in ("GLOBAL", "INST"):
            yield str(argument)
        elif name == "STACK_GLOBAL":
            yield ".".join(strings[-2:])  # only for the message: a memo could have moved other strings there
        elif name in ("EXT1", "EXT2", "EXT4"):
            yield f"extension.{argument}"
        elif isinstance(argument, str) and "UNICODE" in name:
            strings.append(argument)


def _check_legacy(path: Path, file: IO[bytes], size: int) -> set[str]:
    """Names of the globals that an old file's pickle asks for, after checks of what it would make torch allocate."""
    file.seek(0)
    magic = _opcodes(path, file)
    if not any(argument == _LEGACY_MAGIC for _, argument in magic):
        found = set(_globals(magic))
        unsafe = sorted(name.replace(" ", ".") for name in found)
        more = f" It asks for {', '.join(unsafe[:5])}." if unsafe else ""
        raise CheckpointError(f"{path}: a plain pickle, not a file that torch.save wrote; it is not opened.{more}")
    for _ in range(2):
        _opcodes(path, file)  # protocol version, system information
    opcodes = _opcodes(path, file)
    # torch allocates what the pickle claims before it reads anything, so the claims are added up here. PyTorch writes
    # each as the tuple (..., number of elements, None), an integer, NONE, TUPLE and its memo in a row; anything else is
    # refused.
    plain = [(n, a) for n, a in opcodes if n not in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE")]
    claimed = 0
    for i, (name, _) in enumerate(plain):
        if name in ("BINPERSID", "PERSID"):
            integer, none, end = plain[max(i - 3, 0) : i] if i >= 3 else (("", 0), ("", 0), ("", 0))
            if none[0] != "NONE" or end[0] != "TUPLE" or not isinstance(integer[1], int) or integer[1] < 0:
                what = "an old PyTorch file that stores more than plain tensors (a whole module, or views)"
                raise CheckpointError(f"{path}: {what}. {_SAVE_AGAIN}")
            claimed += integer[1]
    if claimed > size:  # at least one byte an element
        raise CheckpointError(f"{path}: damaged: it claims {claimed:,} elements in {size:,} bytes")
    return set(_globals(opcodes))


def _unsafe_message(path: Path, unsafe: Sequence[str]) -> str:
    names = ", ".join(unsafe[:5]) + (f" and {len(unsafe) - 5} more" if len(unsafe) > 5 else "")
    what = "holds Python objects, not only tensors"
    if any("argparse" in name for name in unsafe):
        what = "holds an argparse Namespace (the training options) beside the tensors"
    elif any("Module" in name or ".modules." in name or "Sequential" in name for name in unsafe):
        what = "holds a whole module instead of its tensors"
    return f"{path}: {what}: {names}. Reading it could run code from the file, so it is refused. {_SAVE_AGAIN}"


def _checked_tensors(path: Path, content: object) -> dict[str, Tensor]:
    """Tensors of nested dictionaries by dotted name, owned (not mapped), each checked; all problems at once."""
    found: dict[str, Tensor] = {}
    problems: list[str] = []
    entries = 0

    def visit(value: object, name: str, depth: int) -> None:
        nonlocal entries
        entries += 1
        if entries > MAX_ENTRIES or depth > MAX_DEPTH:
            raise CheckpointError(f"{path}: nested deeper than {MAX_DEPTH} or with more than {MAX_ENTRIES:,} entries")
        if isinstance(value, Tensor):
            problem = _tensor_problem(value)
            if name.endswith("num_batches_tracked"):
                return
            if problem or name in found:
                problems.append(f"  {name}: {problem or 'named twice'}")
            else:
                found[name] = value.detach().clone()
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                visit(inner, f"{name}.{key}" if name else str(key), depth + 1)

    visit(content, "", 0)
    if problems:
        raise CheckpointError(f"{path}: {len(problems)} unusable tensors:\n" + "\n".join(problems[:20]))
    if not found:
        raise CheckpointError(f"{path}: it holds no tensors by name (a {type(content).__name__})")
    return found


def _tensor_problem(tensor: Tensor) -> str | None:
    if tensor.layout != torch.strided or tensor.is_quantized:
        return f"layout {tensor.layout} is not supported"
    last = tensor.storage_offset() + tensor.numel()
    if last * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"{tensor.numel():,} elements on {tensor.untyped_storage().nbytes():,} stored bytes"
    if not tensor.dtype.is_floating_point:
        return f"{tensor.dtype}, not floating point"
    if not bool(torch.isfinite(tensor).all()):
        return "NaN or infinity"
    return None
