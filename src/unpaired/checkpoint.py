"""Checkpoints: self-describing, free of pickle, crash-safe. The one place that writes and reads them.

A checkpoint is a folder ``checkpoints/step-000012000`` with

* ``model.safetensors``: what ``translate`` needs (EMA weights where on); its header holds one JSON text that rebuilds
  the method, and a digest over that text and all tensors. This file alone is what one shares.
* ``state.safetensors``: what resuming needs besides: raw weights, optimiser state, buffers. May be deleted.
* ``manifest.json``: size and SHA-256 of each file, written last.

Commit protocol: write into a temporary folder, fsync every file and the folder, rename it, fsync the parent, and only
then prune older ones. There is no ``latest`` link: the newest folder whose manifest verifies is the latest.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from unpaired import __version__
from unpaired import files as _files
from unpaired.config import RunConfig, without_retired
from unpaired.errors import CheckpointError, ConfigError, StoppedError
from unpaired.machine import shapes_only
from unpaired.methods import method_class, run_from
from unpaired.methods.base import Method

FORMAT = 1
"""Format number in every header and manifest; a reader refuses a higher one."""
MAX_FILE_BYTES = 16 * 2**30
"""Largest file that is read: far above any model here, and a bound for what a hostile file can cost."""
MAX_HEADER_BYTES = 2 * 2**20
"""Largest safetensors header: some 140 bytes a tensor, and never so much that parsing it takes more than 64 MB."""
MAX_TENSORS = 12_000
"""Most tensors in a file, also checked before writing: five times what the largest model here saves with optimisers."""
MAX_MANIFEST_BYTES = 2**18
"""Largest manifest: ours have under 1 KB."""
MAX_LISTED_DIRECTIONS = 1000
"""More directions than this stand as "all" in a header: 500 domains have a quarter of a million."""
MODEL, STATE, MANIFEST = "model.safetensors", "state.safetensors", "manifest.json"
_STEP = re.compile(r"step-(\d{9,})$")


# --------------------------------------------------------------------------------------------- durable writing


def write_atomic(path: Path, data: bytes) -> None:
    """Replace ``path`` as a whole or not at all. Raises StoppedError with path, cause, needed and free bytes."""
    try:
        _files.write_atomically(path, data)
        _files.sync_folder(path.parent)
    except OSError as error:
        raise save_error(path, error, len(data)) from error


def save_error(path: Path, error: OSError, needed: int) -> StoppedError:
    """The message for a failed write: path, cause, needed and free bytes."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    hint = "free some space or use another --out" if full else "check the disk"
    return StoppedError(f"{path}: could not be written: {_files.why_unwritten(path, error, needed)}; {hint}")


# --------------------------------------------------------------------------------------------- one safetensors file


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def digest_of(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """SHA-256 over the header and every tensor's name, type, shape and bytes."""
    sha = hashlib.sha256(_canonical(header).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(_canonical([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return sha.hexdigest()


def pack(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> bytes:
    """A safetensors file whose header holds ``header`` as one JSON text, with a digest over all of it."""
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    header = {k: v for k, v in header.items() if k != "digest"}
    header = json.loads(_canonical(header))
    metadata = {"unpaired": _canonical({**header, "digest": digest_of(plain, header)})}
    data = safetensors.torch.save(plain, metadata)
    length = int.from_bytes(data[:8], "little")
    if len(plain) > MAX_TENSORS or length > MAX_HEADER_BYTES:  # never write what will not be read
        raise CheckpointError(
            f"{len(plain):,} tensors with a header of {length:,} bytes are more than a checkpoint may have "
            f"({MAX_TENSORS:,}; {MAX_HEADER_BYTES:,}); the method keeps too many small tensors"
        )
    return data


def read_bytes(path: Path, limit: int = MAX_FILE_BYTES) -> bytes:
    """Read a file of at most ``limit`` bytes. Raises CheckpointError."""
    try:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
        size = path.stat().st_size
        if size > limit:
            raise CheckpointError(f"{path}: {size:,} bytes, more than the {limit:,} that are read")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def unpack(path: Path, data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file made by :func:`pack`; ``path`` is for messages. Raises CheckpointError."""
    try:
        length = int.from_bytes(data[:8], "little")
        if len(data) < 8 or length > min(MAX_HEADER_BYTES, len(data) - 8):
            raise ValueError("the header does not fit into the file")
        index = json.loads(data[8 : 8 + length], object_pairs_hook=_unique_keys)
        if len(index) > MAX_TENSORS + 1:
            raise ValueError(f"{len(index):,} tensors")
        text = index.get("__metadata__", {}).get("unpaired")
        if text is None:
            what = "a safetensors file, but not one of unpaired's"
            raise CheckpointError(f"{path}: {what}. Weights of other projects come in through: unpaired import --help")
        header = json.loads(text, object_pairs_hook=_unique_keys)
        if header["format"] > FORMAT:
            raise CheckpointError(
                f"{path}: format {header['format']} of unpaired {header.get('version')}; this is unpaired "
                f"{__version__}, which reads up to format {FORMAT}. Type: pip install -U unpaired"
            )
        tensors = safetensors.torch.load(data)
        digest = header.pop("digest")
        damaged = digest != digest_of(tensors, header)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: not a readable checkpoint ({error}); the file is damaged or of another kind"
        ) from error
    if damaged:
        raise CheckpointError(
            f"{path}: damaged: its contents do not match the digest in its header; fetch or train it again"
        )
    return tensors, header


# --------------------------------------------------------------------------------------------- models


def make_header(
    method: Method,
    config: RunConfig,
    *,
    step: int = 0,
    stage: str = "",
    data_fingerprint: str = "",
    pretrained: Sequence[Mapping[str, Any]] = (),
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that a reader needs to rebuild and to describe the model."""
    directions = method.directions
    return {
        "format": FORMAT,
        "version": __version__,
        "method": config.method,
        "config": config.to_dict(),
        "domains": list(method.domains),
        "classes": list(method.classes),
        "directions": [list(d) for d in directions] if len(directions) <= MAX_LISTED_DIRECTIONS else "all",
        "image_size": method.image_size,
        "value_range": [-1, 1],
        "step": step,
        "stage": stage,
        "seed": config.seed,
        "data_fingerprint": data_fingerprint,
        "pretrained": [dict(p) for p in pretrained],
        "extra": dict(extra or {}),
    }


def write_model(path: Path | str, method: Method, header: Mapping[str, Any], *, whole: bool = False) -> Path:
    """Write one shareable file, atomically; ``whole`` adds the parts that only training needs (discriminators)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, pack(method.state_dict() if whole else method.shared_state(), header))
    return path


def model_file(path: Path | str) -> Path:
    """The model file meant by a file, a checkpoint folder or a run folder. Raises CheckpointError."""
    path = Path(path)
    if path.is_file():
        return path
    if (path / MODEL).is_file():
        return path / MODEL
    if (path / "checkpoints").is_dir():
        found, rejected = latest(path / "checkpoints", only=(MODEL,))
        if found is not None:
            return found.folder / MODEL
        why = "".join(f"\n  {line}" for line in rejected) or " it is empty"
        raise CheckpointError(f"{path}: no usable checkpoint in its folder 'checkpoints':{why}")
    if path.is_dir():
        inside = sorted(p.parent for p in path.glob("*/checkpoints") if p.is_dir())
        above = [path.parent] if (path.parent / "checkpoints").is_dir() else []
        near = ", ".join(map(str, [*above, *inside][:5]))
        hint = f". Did you mean {near}?" if near else ""
        raise CheckpointError(
            f"{path}: a folder without {MODEL} or checkpoints; give a model file or a run folder{hint}"
        )
    raise CheckpointError(f"{path}: no such file or folder")


def read_model(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any], Path, str]:
    """Tensors, header, file and SHA-256 of the model meant by a file, a checkpoint folder or a run folder. Raises
    CheckpointError."""
    file = model_file(path)
    data = read_bytes(file)
    if file.name == MODEL and (file.parent / MANIFEST).is_file():
        sha256 = _compare(file, verify(file.parent, only=()), data)
    else:
        sha256 = hashlib.sha256(data).hexdigest()
    tensors, header = unpack(file, data)
    if "method" not in header:
        what = "the state for resuming, not a model"
        raise CheckpointError(f"{file}: {what}; give {file.parent / MODEL} or the run's folder")
    return tensors, header, file, sha256


@dataclass(frozen=True)
class LoadedModel:
    """A method in eval mode with its header, the file that both came from, and that file's SHA-256."""

    method: Method
    header: dict[str, Any]
    path: Path
    sha256: str


def load_method(path: Path | str, device: torch.device | str = "cpu") -> tuple[Method, dict[str, Any]]:
    """Method and header of :func:`load_model`."""
    loaded = load_model(path, device)
    return loaded.method, loaded.header


def load_model(path: Path | str, device: torch.device | str = "cpu") -> LoadedModel:
    """Rebuild a method in eval mode from a model file, a checkpoint folder or a run folder.

    Shapes are compared before anything is allocated, and no code from the file is run.

    Raises:
        CheckpointError: missing, damaged, foreign, or not fitting this version; the text says which.
    """
    tensors, header, file, sha256 = read_model(path)
    try:
        header["config"] = without_retired(header["config"])
        config = run_from(header["config"])
        with shapes_only():  # no memory yet: a lying header must not cost any
            made = method_class(header["method"])
            domains, classes = tuple(header["domains"]), tuple(header["classes"])
            method = made(config.model, domains, image_size=header["image_size"], classes=classes)
    except (KeyError, TypeError, ValueError, RuntimeError, ConfigError) as error:
        what = "its header does not describe a model that this version can build"
        raise CheckpointError(f"{file}: {what}: {error}") from error
    for name in method.training_only:
        delattr(method, name)
    tensors = {k: v for k, v in tensors.items() if k.split(".")[0] not in method.training_only}
    wanted = {k: (tuple(v.shape), v.dtype) for k, v in method.state_dict().items()}
    given = {k: (tuple(v.shape), v.dtype) for k, v in tensors.items()}
    if wanted != given:
        wrong = [k for k in sorted({*wanted, *given}) if wanted.get(k) != given.get(k)]
        lines = "\n".join(f"  {k}: wanted {wanted.get(k)}, found {given.get(k)}" for k in wrong[:10])
        raise CheckpointError(f"{file}: {len(wrong)} tensors do not fit the model that its header describes:\n{lines}")
    method.load_state_dict(tensors, strict=True, assign=True)
    try:
        method.check_parts()
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    method.requires_grad_(False)
    return LoadedModel(method.eval().to(device), header, file, sha256)


# --------------------------------------------------------------------------------------------- checkpoints of a run


@dataclass(frozen=True)
class Saved:
    """A checkpoint folder whose manifest verified."""

    folder: Path
    step: int
    manifest: dict[str, Any]


def folder_of(root: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return root / f"step-{step:09d}"


def commit(root: Path, step: int, *, model: bytes, state: bytes, about: Mapping[str, Any], keep: int) -> Path:
    """Write ``root/step-…`` by the protocol on top of this file, then prune all but the newest ``keep``.

    Raises StoppedError when the disk is full or fails; what was there before is untouched then.
    """
    final = folder_of(root, step)
    if final.exists():
        try:
            verify(final)
            return final  # this very step is already safe
        except CheckpointError:
            final.rename(root / f".damaged-{final.name}-{secrets.token_hex(4)}")
    temporary = root / f".tmp-{step}-{secrets.token_hex(4)}"
    files = {MODEL: model, STATE: state}
    manifest = {
        "format": FORMAT,
        "version": __version__,
        "torch": torch.__version__,
        "step": step,
        **about,
        "files": {name: {"bytes": len(b), "sha256": hashlib.sha256(b).hexdigest()} for name, b in files.items()},
    }
    needed = len(model) + len(state)
    try:
        temporary.mkdir()
        for name, content in files.items():
            _files.write_synced(temporary / name, content)
        _files.write_synced(temporary / MANIFEST, _manifest_bytes(manifest))
        _files.sync_folder(temporary)
        temporary.rename(final)
        _files.sync_folder(root)
    except OSError as error:
        raise save_error(final, error, needed) from error
    finally:
        if temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)
    prune(root, keep, until=step)
    return final


def _manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """The one way a manifest is spelled; its last key is a digest over the others, so that no flipped bit passes."""
    digest = hashlib.sha256(_canonical(manifest).encode()).hexdigest()
    return json.dumps({**dict(sorted(manifest.items())), "digest": digest}, indent=1).encode()


def prune(root: Path, keep: int, *, until: int) -> None:
    """Remove all but the newest ``keep`` checkpoints up to step ``until``. Called only after a commit of that step.

    Later ones are there only when they were found damaged on resume: counted as the newest, they would cost sound ones
    their place.
    """
    last = folder_of(root, until).name
    for folder in [f for f in steps(root) if f.name <= last][keep:]:
        # the manifest goes first: a half-removed folder must not look like a checkpoint
        with contextlib.suppress(OSError):  # the new state is safe; what cannot go now goes next time
            (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def steps(root: Path) -> list[Path]:
    """Checkpoint folders, newest first, verified or not."""
    found = [f for f in root.iterdir() if _STEP.match(f.name) and f.is_dir()] if root.is_dir() else []
    return sorted(found, key=lambda f: f.name, reverse=True)


def verify(folder: Path, only: Sequence[str] | None = None) -> dict[str, Any]:
    """The manifest of ``folder`` after every file's size and SHA-256 have been compared. Raises CheckpointError."""
    path = folder / MANIFEST
    try:
        data = read_bytes(path, MAX_MANIFEST_BYTES)
        manifest: dict[str, Any] = json.loads(data, object_pairs_hook=_unique_keys)
        digest = manifest.pop("digest")
        if _manifest_bytes(manifest) != data:  # the digest, and every byte of white space too
            raise CheckpointError(f"{path}: damaged: its contents do not match its digest {str(digest)[:12]}…")
        files, step = manifest["files"], manifest["step"]
        if manifest["format"] > FORMAT:
            raise CheckpointError(f"{path}: format {manifest['format']} is newer than this version reads ({FORMAT})")
        expected = {name: (int(about["bytes"]), str(about["sha256"])) for name, about in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged: {error}") from error
    if not {MODEL} <= set(expected) <= {MODEL, STATE} or not isinstance(step, int) or folder.name != f"step-{step:09d}":
        raise CheckpointError(f"{path}: damaged: it does not describe the folder it lies in")
    for name in expected:
        if only is None or name in only:
            _compare(folder / name, manifest, read_bytes(folder / name))
    return manifest


def _compare(file: Path, manifest: Mapping[str, Any], data: bytes) -> str:
    """The SHA-256 of a file's bytes, which is the one in its manifest. Raises CheckpointError."""
    wanted, sha256 = manifest["files"][file.name], hashlib.sha256(data).hexdigest()
    if len(data) != wanted["bytes"]:
        raise CheckpointError(f"{file}: damaged: {len(data):,} bytes instead of {wanted['bytes']:,}")
    if sha256 != wanted["sha256"]:
        raise CheckpointError(f"{file}: damaged: its SHA-256 is not the one in {MANIFEST}")
    return sha256


def latest(root: Path, only: Sequence[str] | None = None) -> tuple[Saved | None, list[str]]:
    """The newest checkpoint that verifies (``only``: those of its files), and why each newer one was passed over."""
    rejected: list[str] = []
    for folder in steps(root):
        try:
            manifest = verify(folder, only)
            return Saved(folder, manifest["step"], manifest), rejected
        except CheckpointError as error:
            rejected.append(str(error))
    return None, rejected


def read_header(saved: Saved) -> dict[str, Any]:
    """The header of a checkpoint's model file."""
    path = saved.folder / MODEL
    return unpack(path, read_bytes(path))[1]


def read_state(saved: Saved) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and JSON values of ``state.safetensors``."""
    path = saved.folder / STATE
    if not path.is_file():
        what = "missing, so this run cannot go on; its model still translates"
        raise CheckpointError(f"{path}: {what}. Train into another --out")
    return unpack(path, read_bytes(path))


def remove_leftovers(root: Path) -> list[str]:
    """Delete temporary folders of a killed save; their names."""
    found = sorted(f.name for f in root.glob(".tmp-*")) if root.is_dir() else []
    for name in found:
        shutil.rmtree(root / name, ignore_errors=True)
    return found
