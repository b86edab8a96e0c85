"""A fuzz target for what reads checkpoints: mutated files for a minute, in a child, and nothing but CheckpointError (60
s in `make faults`).

By hand, for as long as one likes: ``UNPAIRED_FUZZ_SECONDS=3600 pytest tests/faults/test_fuzz.py``.
"""

from __future__ import annotations

import os
import pickle
import random
import shutil
import struct
import sys
import time
from pathlib import Path

import kit
import runs
import torch
from figures import Figure, pick

from unpaired import checkpoint
from unpaired.config import DataConfig
from unpaired.errors import CheckpointError
from unpaired.evaluation.classifier import ConvNet, load_classifier, save_classifier
from unpaired.interop.tensors import read_torch_file

SECONDS = float(os.environ.get("UNPAIRED_FUZZ_SECONDS", pick(3.0, 60.0)))
MEMORY = 2 * 2**30
"""Bytes that reading may map beyond what the process has: less than a forged length asks for."""
TOKENS = [
    b"..",
    b"/",
    b"\0",
    b"{",
    b"[",
    b'"',
    b"9" * 30,
    b"-1",
    b"1e999",
    b"null",
    b"cposix\nsystem\n",
    b"R",
    b".",
    b"PK\x01\x02",
    b"\x80\x02",
]


def mutated(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """A few changes of the usual kinds: bits, bytes, lengths, cuts, repeats, tokens, parts of another file."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(found)) if found else 0
        kind = rng.randrange(8)
        if not found or kind == 7:
            start = rng.randrange(len(other))
            found[at:at] = other[start : start + rng.randrange(64)]
        elif kind == 0:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[at] = rng.randrange(256)
        elif kind == 2:
            del found[at:]
        elif kind == 3:
            del found[at : at + rng.randrange(1, 40)]
        elif kind == 4:
            found[at:at] = found[at : at + rng.randrange(1, 200)] * rng.randrange(1, 5)
        elif kind == 5:
            number = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1))
            found[at : at + 8] = struct.pack("<Q", number)
        else:
            found[at : at + rng.randrange(3)] = rng.choice(TOKENS)
    return bytes(found)


def seeds(root: Path) -> dict[str, Path]:
    """Sound files of every kind, by reader."""
    run = root / "run"
    runs.train(run, 2, model__width=2)
    folder = checkpoint.steps(run / "checkpoints")[0]
    torch.save({"a": {"w": torch.ones(3, 2)}, "b": torch.zeros(2)}, root / "zip.pt")
    torch.save({"a": torch.ones(3, 2)}, root / "old.pt", _use_new_zipfile_serialization=False)
    (root / "plain.pkl").write_bytes(pickle.dumps({"a": [1, 2]}))
    save_classifier(root / "c.safetensors", ConvNet(2, 16, 2), ("x", "y"), DataConfig(size=16))
    return {
        "model": folder / checkpoint.MODEL, "state": folder / checkpoint.STATE,
            "manifest": folder / checkpoint.MANIFEST,
        "zip": root / "zip.pt", "old": root / "old.pt", "pickle": root / "plain.pkl",
            "classifier": root / "c.safetensors",
    }  # fmt: skip


def read(kind: str, path: Path) -> None:
    """As the commands read such a file."""
    if kind == "model":
        checkpoint.load_method(path)
    elif kind == "state":
        checkpoint.unpack(path, checkpoint.read_bytes(path))
    elif kind == "manifest":
        checkpoint.latest(path.parents[1])
        checkpoint.verify(path.parent)
    elif kind == "classifier":
        load_classifier(path)
    else:
        read_torch_file(path)


def fuzz(root: Path, seconds: float, seed: int) -> None:
    """Mutate and read until the time is over; prints (files, refused, read all the same)."""
    kit.bound_memory(MEMORY)
    rng, made = random.Random(seed), seeds(root)
    contents = {kind: path.read_bytes() for kind, path in made.items()}
    work = root / "step-000000001"
    work.mkdir()
    for path in made["manifest"].parent.iterdir():
        shutil.copy(path, work / path.name)
    tried = refused = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        kind = rng.choice(list(made))
        data = mutated(contents[kind], contents[rng.choice(list(made))], rng)
        path = work / checkpoint.MANIFEST if kind == "manifest" else root / f"fuzzed-{kind}"
        path.write_bytes(data)
        tried += 1
        try:
            read(kind, path)
        except CheckpointError:
            refused += 1
        except BaseException:
            keep = Path(os.environ.get("UNPAIRED_FUZZ_KEEP", root)) / f"crash-{seed}-{tried}.{kind}"
            keep.write_bytes(data)
            print(f"CRASH {keep}", file=sys.stderr)
            raise
    print(f"{tried} {refused}")


def test_mutated_checkpoints_are_read_or_refused(tmp_path: Path, figure: Figure) -> None:
    """Models, states, manifests, classifiers and PyTorch files of both formats, mutated: read or refused with
    CheckpointError, with 2 GB of memory more than at the start, and the process lives."""
    found = kit.outcome(lambda: fuzz(tmp_path, SECONDS, seed=int(time.time())), limit=SECONDS + kit.HANG_SECONDS)
    assert found.code == 0, found.said
    tried, refused = map(int, found.said.split()[-2:])
    figure(
        "F5",
        f"fuzzed for {SECONDS:.0f} s: {tried:,} mutated files, {refused:,} refused, {tried - refused:,} read as "
        "sound, 0 crashes",
    )
    assert refused > tried // 2
