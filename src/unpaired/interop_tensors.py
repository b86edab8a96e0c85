"""What the importers of other projects' checkpoints share: tensors cleaned, counted, compared and renamed; runs and headers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from torch import Tensor

from unpaired.config import DataConfig, MethodConfig, RunConfig
from unpaired.errors import CheckpointError, ConfigError
from unpaired.methods.base import Method

Names = dict[str, str]
"""Official name of a layer -> its name here; ``.weight`` and ``.bias`` are added to both."""
M = TypeVar("M", bound=Method)


def cleaned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without ``module.`` of DataParallel and without the running statistics that instance norms of PyTorch 0.3 left."""
    kept = {}
    for name, tensor in tensors.items():
        if not name.endswith((".running_mean", ".running_var")):
            kept[re.sub(r"(^|\.)module\.", r"\1", name)] = tensor
    return kept


def count(tensors: Mapping[str, Tensor], pattern: str, first: int = 0) -> int:
    """How many of the layers ``pattern`` (with {} for the number) there are, counted from ``first`` without a gap."""
    n = 0
    while pattern.format(first + n) in tensors:
        n += 1
    return n


def needed(path: Path, tensors: Mapping[str, Tensor], name: str, kind: str) -> Tensor:
    """The tensor ``name`` of a file that claims to be ``kind``. Raises CheckpointError without it."""
    if name not in tensors:
        start = ", ".join(list(tensors)[:3])
        raise CheckpointError(f"{path}: not {kind}: it has no tensor '{name}'; it starts with {start}")
    return tensors[name]


def convert(path: Path, given: Mapping[str, Tensor], names: Names, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``given`` under our names, after a comparison with ``wanted``. Raises CheckpointError with a table of mismatches."""
    ours = {}
    rows = []
    renamed = {f"{a}.{leaf}": f"{b}.{leaf}" for a, b in names.items() for leaf in ("weight", "bias", "gamma", "beta")}
    for name, tensor in given.items():
        if name not in renamed or renamed[name] not in wanted:
            rows.append((name, "-", _shape(tensor)))
        elif tensor.shape != wanted[renamed[name]].shape:
            rows.append((name, _shape(wanted[renamed[name]]), _shape(tensor)))
        else:
            ours[renamed[name]] = tensor.float()
    present = set(given)
    rows += [(a, _shape(wanted[b]), "-") for a, b in renamed.items() if b in wanted and a not in present]
    if rows:
        raise _misfit(path, rows)
    return ours


def same_names(
    path: Path, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], dead: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """``given`` after a comparison with ``wanted``; ``dead`` starts names of layers that the official code never uses."""
    rows = [(k, "-", _shape(v)) for k, v in given.items() if k not in wanted and not k.startswith(dead or ("\0",))]
    rows += [(k, _shape(v), "-") for k, v in wanted.items() if k not in given]
    rows += [(k, _shape(v), _shape(given[k])) for k, v in wanted.items() if k in given and given[k].shape != v.shape]
    if rows:
        raise _misfit(path, rows)
    return {k: given[k].float() for k in wanted}


def _misfit(path: Path, rows: list[tuple[str, str, str]]) -> CheckpointError:
    """The error with a table of (tensor, wanted shape, found shape)."""
    table = [("tensor", "wanted", "found"), *sorted(rows)[:30]]
    widths = [max(len(row[i]) for row in table) for i in range(3)]
    lines = ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table]
    return CheckpointError(f"{path}: {len(rows)} tensors do not fit the network they describe:\n" + "\n".join(lines))


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"


def run_config(
    method: str,
    settings_class: type[MethodConfig],
    path: Path,
    settings: Mapping[str, Any],
    domains: tuple[str, str],
    image_size: int,
) -> RunConfig:
    """The validated run that an imported model belongs to. Raises ConfigError, CheckpointError."""
    if len(domains) != 2 or domains[0] == domains[1]:
        raise ConfigError(
            f"--domains {','.join(domains)}: two different names are needed, for A and B of the checkpoint"
        )
    try:
        data = DataConfig(size=image_size)
    except ValidationError as error:
        raise ConfigError(f"image_size = {image_size}: {error.errors()[0]['msg']}") from error
    try:
        model = settings_class(**settings)
    except ValidationError as error:
        why = "; ".join(f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors())
        raise CheckpointError(f"{path}: its tensors describe no {method.upper()} network: {why}") from error
    return RunConfig(method=method, data=data, model=model)


def finished(method: M, name: str, model: Any, extra: dict[str, Any]) -> tuple[M, dict[str, Any]]:
    """``method`` as an importer gives it, with its header."""
    from unpaired.checkpoint import make_header

    run = RunConfig(method=name, data=DataConfig(size=method.image_size), model=model)
    header = make_header(method, run, extra=extra)
    method.requires_grad_(False)
    return method.eval(), header
