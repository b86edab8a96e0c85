"""Checkpoints that mean harm, made when a test needs them: each a file, and what reads it.

Readers: ``torch`` is the reader of PyTorch files behind every import; ``ours`` reads a model file; ``run`` resumes from
a run folder.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from unpaired import checkpoint


@dataclass(frozen=True)
class Hostile:
    """How to make a file, and who reads it."""

    reader: str
    make: Callable[[Path, Path], None]
    """(file or folder to write, canary that its code would leave behind)."""
    said: str
    """A part of the refusal, or nothing."""


class Payload:
    """Pickles as a command that leaves the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def _saved(content: Callable[[Path], object], *, legacy: bool = False) -> Callable[[Path, Path], None]:
    def make(path: Path, canary: Path) -> None:
        torch.save(content(canary), path, _use_new_zipfile_serialization=not legacy)

    return make


def _bytes(content: Callable[[Path], bytes]) -> Callable[[Path, Path], None]:
    return lambda path, canary: (path.write_bytes(content(canary)), None)[1]


WEIGHTS = {"w": torch.ones(2, 2)}


def _members(change: Callable[[dict[str, bytes]], Mapping[str, bytes]], **options: Any) -> Callable[[Path, Path], None]:
    """An ordinary archive with its members changed; a name that ends in "#2" is written under the name before it."""

    def make(path: Path, _canary: Path) -> None:
        torch.save(WEIGHTS, path)
        with zipfile.ZipFile(path) as archive:
            members = {n: archive.read(n) for n in archive.namelist()}
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w", **options) as archive:
            warnings.simplefilter("ignore")  # zipfile does not like two members of one name either
            for name, content in change(members).items():
                archive.writestr(name.removesuffix("#2"), content)

    return make


def _with(pickled: Callable[[Path], bytes]) -> Callable[[Path, Path], None]:
    """An ordinary archive with another data.pkl."""

    def make(path: Path, canary: Path) -> None:
        _members(lambda m: {n: pickled(canary) if n.endswith("data.pkl") else c for n, c in m.items()})(path, canary)

    return make


def _tar(canary: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors", "../../escape"):
            content = pickle.dumps(Payload(canary))
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _bomb(path: Path, _canary: Path) -> None:
    """Some 200 KB that become 200 MB."""
    _members(lambda m: {n: bytes(200 * 2**20) if n.endswith("/data/0") else c for n, c in m.items()},
        compression=zipfile.ZIP_DEFLATED)(path, path)  # fmt: skip


def _strided(path: Path, _canary: Path) -> None:
    torch.save({"w": torch.as_strided(torch.zeros(1), (10**6, 10**6), (0, 0))}, path)


def _lying_member(path: Path, canary: Path) -> None:
    """The central directory claims 1 TB for a member of 16 bytes (zip64)."""
    _members(lambda m: m)(path, canary)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    while data[at : at + 4] == b"PK\x01\x02":
        name = int.from_bytes(data[at + 28 : at + 30], "little")
        if data[at + 46 : at + 46 + name].endswith(b"/data/0"):
            data[at + 20 : at + 28] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
        at += 46 + sum(struct.unpack("<HHH", data[at + 28 : at + 34]))
    path.write_bytes(data)


def _overlapping_members(path: Path, canary: Path) -> None:
    """Every entry of the central directory points at the first member (the shape of a zip bomb without recursion)."""
    _members(lambda m: {**m, **{f"archive/data/{i}": bytes(16) for i in range(1, 2000)}})(path, canary)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    while data[at : at + 4] == b"PK\x01\x02":
        data[at + 42 : at + 46] = bytes(4)
        lengths = struct.unpack("<HHH", data[at + 28 : at + 34])
        at += 46 + sum(lengths)
    path.write_bytes(data)


def _legacy_claims(path: Path, _canary: Path) -> None:
    """An old file whose pickle claims 10^12 elements."""
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    storage = data.index(b"cpuq") if b"cpuq" in data else data.index(b"cpu")
    at = data.index(b"K\x04", storage)
    path.write_bytes(data[:at] + b"\x8a\x06" + (10**12).to_bytes(6, "little") + data[at + 2 :])


def _cut_number(path: Path, _canary: Path) -> None:
    """An old file that ends within the length of a name; found by the fuzzer."""
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"]q\x00X") + 6])


# ---- safetensors


def _safetensors(header: object, body: bytes = bytes(64)) -> Callable[[Path, Path], None]:
    def make(path: Path, _canary: Path) -> None:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + body)

    return make


def _tensor(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


OURS = {"__metadata__": {"unpaired": json.dumps({"format": 1, "method": "tiny", "digest": "0" * 64})}}
_TWICE = json.dumps(_tensor(0, 4, [1])).encode()


def _metadata(text: str) -> dict[str, Any]:
    return {"__metadata__": {"unpaired": text}, "a": _tensor(0, 64, [16])}


# ---- our own folders


def _run(change: Callable[[Path, dict[str, Any], Path], None]) -> Callable[[Path, Path], None]:
    """A run whose newest manifest is changed; the liar computes the digest as well."""

    def make(path: Path, canary: Path) -> None:
        folder = path / "checkpoints" / "step-000000007"
        folder.mkdir(parents=True)
        for name in (checkpoint.MODEL, checkpoint.STATE):
            (folder / name).write_bytes(checkpoint.pack({}, {"format": 1, "step": 7}))
        manifest = {"format": 1, "step": 7, "files": {}}
        for name in (checkpoint.MODEL, checkpoint.STATE):
            content = (folder / name).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            manifest["files"][name] = {"bytes": len(content), "sha256": digest}  # type: ignore[index]
        change(folder, manifest, canary)
        if not (folder / checkpoint.MANIFEST).exists():
            (folder / checkpoint.MANIFEST).write_bytes(checkpoint._manifest_bytes(manifest))

    return make


def _names(name: str) -> Callable[[Path, Path], None]:
    return _run(lambda folder, m, canary: m["files"].update({name: {"bytes": 0, "sha256": ""}}))


def _raw_manifest(content: bytes) -> Callable[[Path, Path], None]:
    return _run(lambda folder, m, canary: (folder.joinpath(checkpoint.MANIFEST).write_bytes(content), None)[1])


def _linked(folder: Path, manifest: dict[str, Any], canary: Path) -> None:
    (folder / checkpoint.STATE).unlink()
    (folder / checkpoint.STATE).symlink_to("/dev/zero")


def zoo() -> dict[str, Hostile]:
    """All of them, by name."""
    deep = 200_000
    pickles = {
        "code in a zip": (_saved(lambda c: {"w": torch.ones(2), "x": Payload(c)}), "system"),
        "code in an old file": (_saved(lambda c: {"w": torch.ones(2), "x": Payload(c)}, legacy=True), "system"),
        "code alone": (_saved(Payload), "system"),
        "code in the optimizer": (_saved(lambda c: {"model": WEIGHTS, "optimizer": {"s": [Payload(c)]}}), "system"),
        "a plain pickle": (_bytes(lambda c: pickle.dumps(Payload(c))), "plain pickle"),
        "a pickle of protocol 0": (_bytes(lambda c: pickle.dumps(Payload(c), 0)), "not a file that torch.save wrote"),
        "an xz stream with a 4 GB dictionary": (
            _bytes(lambda c: bytes.fromhex("88ffffffff0000000000000000010000")),
            "not a file that torch.save wrote",
        ),
        "a tar": (_bytes(_tar), "not a file that torch.save wrote"),
        "a whole module": (_saved(lambda c: nn.Linear(2, 2)), "whole module"),
        "argparse options": (_saved(lambda c: {"o": argparse.Namespace(a=1)}), "argparse"),
        "a numpy scalar": (_saved(lambda c: {"n": np.float64(1)}), "numpy"),
        "eval by name on the stack": (
            _with(lambda c: b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R."),
            "builtins.eval",
        ),
        "an extension code": (_with(lambda c: b"\x80\x02\x82\x01."), "extension"),
        "nested lists": (_with(lambda c: b"\x80\x02" + b"]" * deep + b"a" * (deep - 1) + b"."), ""),
        "nested dictionaries": (_saved(lambda c: _nested(50)), "nested deeper"),
        "millions of opcodes": (_with(lambda c: b"\x80\x02" + b"N0" * 3_000_000 + b"N."), "instructions"),
        "memo bomb": (_with(lambda c: b"\x80\x02]q\x00" + b"(h\x00h\x00h\x00h\x00tq\x00" * 60 + b"."), ""),
        "a string of 4 GB": (_with(lambda c: b"\x80\x04\x8d" + struct.pack("<Q", 2**32) + b"x" * 100), ""),
    }
    archives = {
        "deflate bomb": (_bomb, "compressed"),
        "stride 0": (_strided, "elements on"),
        "a member that claims 4 GB": (_lying_member, ""),
        "overlapping members": (_overlapping_members, ""),
        "old file that claims 10^12 elements": (_legacy_claims, "elements in"),
        "old file cut within a number": (_cut_number, "damaged"),
        "../ in a member": (_members(lambda m: {**m, "archive/../../evil": b""}), "outside the archive"),
        "an absolute member": (_members(lambda m: {**m, "/etc/evil": b""}), "outside the archive"),
        "two data.pkl": (
            _members(lambda m: {**m, "other/data.pkl": next(c for n, c in m.items() if n.endswith("data.pkl"))}),
            "data.pkl",
        ),
        "the same member twice": (_members(lambda m: {**m, next(iter(m)) + "#2": b""}), "same name"),
        "20,000 members": (
            _members(lambda m: {**m, **{f"archive/x{i}": b"" for i in range(20_000)}}),
            "members are more",
        ),
        "a TorchScript program": (_members(lambda m: {**m, "archive/constants.pkl": b""}), "TorchScript"),
        "compressed noise": (_bytes(lambda c: zlib.compress(bytes(10**6))), ""),
        "NaN weights": (_saved(lambda c: {"w": torch.full((3,), float("nan"))}), "NaN or infinity"),
    }
    tensors = {
        "header of 2^60 bytes": (_bytes(lambda c: (2**60).to_bytes(8, "little") + b"{}"), "does not fit"),
        "header of spaces": (_safetensors(b" " * 2**21), ""),
        "header of brackets": (_safetensors(b"[" * (2**21 - 1)), ""),
        "header of empty lists": (_safetensors(b'{"a":[' + b"[]," * 690_000 + b"[]]}"), ""),
        "header of empty dictionaries": (_safetensors(b'{"a":[' + b"{}," * 690_000 + b"{}]}"), ""),
        "header of numbers": (_safetensors(b'{"a":[' + b"999," * 520_000 + b"9]}"), ""),
        "header of keys": (_safetensors({str(i): {} for i in range(160_000)}), ""),
        "metadata of empty lists": (_safetensors(_metadata('{"a":[' + "[]," * 690_000 + "[]]}")), ""),
        "30,000 empty tensors": (
            _safetensors({**OURS, **{f"t{i}": _tensor(0, 0, [0]) for i in range(30_000)}}, b""),
            "",
        ),
        "100,000 empty tensors": (
            _safetensors({**OURS, **{f"t{i}": _tensor(0, 0, [0]) for i in range(100_000)}}, b""),
            "",
        ),
        "overlapping tensors": (_safetensors({**OURS, "a": _tensor(0, 64, [16]), "b": _tensor(0, 64, [16])}), ""),
        "a hole between tensors": (_safetensors({**OURS, "a": _tensor(0, 4, [1]), "b": _tensor(60, 64, [1])}), ""),
        "negative offsets": (_safetensors({**OURS, "a": _tensor(-4, 0, [1])}), ""),
        "a shape that overflows": (_safetensors({**OURS, "a": _tensor(0, 64, [2**62, 2**62])}), ""),
        "a shape larger than its bytes": (_safetensors({**OURS, "a": _tensor(0, 64, [10**12])}), ""),
        "trailing bytes": (_safetensors({**OURS, "a": _tensor(0, 64, [16])}, bytes(6400)), ""),
        "a key twice": (
            _safetensors(b'{"__metadata__":{"unpaired":"{}"},"a":' + _TWICE + b',"a":' + _TWICE + b"}"),
            "appears twice",
        ),
        "no UTF-8": (_safetensors(b'{"\xff\xfe": 1}'), ""),
        "metadata that is no text": (_safetensors({"__metadata__": {"unpaired": [1]}}), ""),
        "metadata of nested lists": (_safetensors(_metadata("[" * 100_000)), ""),
        "metadata that is a number": (_safetensors(_metadata("7")), ""),
        "a number of a million digits": (_safetensors(_metadata('{"format":' + "9" * 10**6 + "}")), ""),
        "a wrong digest": (_safetensors({**OURS, "a": _tensor(0, 64, [16])}), "digest"),
        "an unknown dtype": (_safetensors({**OURS, "a": _tensor(0, 64, [16], "X9")}), ""),
        "a pickle named .safetensors": (_bytes(lambda c: pickle.dumps(Payload(c))), ""),
        "a torch file named .safetensors": (_saved(lambda c: {"x": Payload(c)}), ""),
        "a model of 10^9 channels": (lambda p, c: _sized(p, 10**9), ""),
        "a model of a billion domains": (lambda p, c: _domains(p), ""),
    }
    folders = {
        "manifest names ../../x": (_names("../../x"), "does not describe the folder"),
        "manifest names /etc/passwd": (_names("/etc/passwd"), "does not describe the folder"),
        "manifest of another step": (_run(lambda f, m, c: m.update(step=8)), "does not describe the folder"),
        "manifest of 2 MB": (_raw_manifest(b" " * 2**21), "more than the"),
        "manifest of brackets": (_raw_manifest(b"[" * (2**18 - 1)), "damaged"),
        "manifest that is a number": (_raw_manifest(b"7"), "damaged"),
        "manifest with huge sizes": (
            _run(lambda f, m, c: m["files"][checkpoint.MODEL].update(bytes=10**30)),
            "instead of",
        ),
        "manifest with infinite sizes": (
            _raw_manifest(b'{"files": {"model.safetensors": {"bytes": 1e999, "sha256": ""}}, "digest": ""}'),
            "damaged",
        ),
        "state is a link to /dev/zero": (_run(_linked), "no such file"),
        "manifest is a folder": (_run(lambda f, m, c: (f / checkpoint.MANIFEST).mkdir()), "no such file"),
    }
    readers = (("torch", pickles), ("torch", archives), ("ours", tensors), ("run", folders))
    return {name: Hostile(reader, *how) for reader, some in readers for name, how in some.items()}


def _nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = dict(WEIGHTS)
    for _ in range(depth):
        value = {"d": value}
    return value


def _header(**changes: Any) -> dict[str, Any]:
    import tiny

    config = tiny.config().to_dict()
    about = {"format": 1, "version": "0", "method": "tiny", "config": config, "domains": ["red", "blue"], "classes": []}
    return {
        **about,
        "directions": "all",
        "image_size": 16,
        "step": 1,
        "stage": "",
        "pretrained": [],
        "extra": {},
        **changes,
    }


def _sized(path: Path, width: int) -> None:
    header = _header()
    header["config"]["model"]["width"] = width
    path.write_bytes(checkpoint.pack(WEIGHTS, header))


def _domains(path: Path) -> None:
    path.write_bytes(checkpoint.pack(WEIGHTS, _header(domains="x" * 10**6)))
