"""Whether something that was read is the results of ``unpaired evaluate``: what the readers of such files rely on.

Keys that are missing or unknown are no fault (older and newer versions write others); values of another kind are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unpaired.data.images import show
from unpaired.errors import DataError

BLOCKS = ("means", "reconstruction", "classification", "adaptation", "measures", "provenance")
"""Parts of results that are tables by name."""


MAX_RESULT_BYTES = 512 * 2**20
"""A larger file is no result of this package."""


def read_json(path: Path | str) -> Any:
    """Any JSON value of bounded size. Raises DataError with the reason."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_RESULT_BYTES:
            raise DataError(f"{show(path)}: larger than the {MAX_RESULT_BYTES:,} bytes that are read")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{show(path)}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{show(path)}: not a JSON file: {error}") from error


def check_results(found: Any, where: str) -> None:
    """Raises DataError with the first place where ``found`` is not as evaluate writes it; ``where`` is the file's name."""
    if not isinstance(found, dict) or not isinstance(found.get("directions"), list):
        raise DataError(f"{where}: no results of `unpaired evaluate … --out FILE`: it has no list 'directions'")
    for block in BLOCKS:
        if not isinstance(found.get(block) or {}, dict):
            _refuse(where, block, "no table by name")
    for number, entry in enumerate(found["directions"]):
        place = f"directions[{number}]"
        if not isinstance(entry, dict) or not all(isinstance(entry.get(k), str) for k in ("source", "target")):
            _refuse(where, place, "no table with 'source' and 'target'")
        _figures(entry, where, place)
    for block in BLOCKS[:4]:
        _figures(found.get(block) or {}, where, block)
    for name, about in (found.get("measures") or {}).items():
        if not isinstance(about, dict) or about.get("better") not in ("lower", "higher", None):
            _refuse(where, f"measures.{name}", "'better' must be lower, higher or null")
    if not all(
        isinstance(domain, dict) and "value" in domain for domain in (found.get("reconstruction") or {}).values()
    ):
        _refuse(where, "reconstruction", "a domain without a figure")
    backbones = (found.get("provenance") or {}).get("backbones") or {}
    if not isinstance(backbones, dict) or not all(isinstance(b, dict) for b in backbones.values()):
        _refuse(where, "provenance.backbones", "no table of tables by name")
    adaptation, classification = found.get("adaptation") or {}, found.get("classification") or {}
    _confusion(adaptation.get("confusion"), adaptation.get("classes"), where, "adaptation")
    for name, figure in classification.items():
        if isinstance(figure, dict):
            _confusion(figure.get("confusion"), classification.get("classes"), where, f"classification.{name}")
    warnings = found.get("warnings") or []
    if not isinstance(warnings, list) or not all(isinstance(w, str) for w in warnings):
        _refuse(where, "warnings", "no list of texts")
    if found.get("best") is not None:
        check_results(found["best"], f"{where}, best")


def _refuse(where: str, place: str, why: str) -> None:
    raise DataError(f"{where}: {place}: {why}; write it again: unpaired evaluate MODEL DATA --out FILE")


def _figures(entry: Mapping[str, Any], where: str, place: str) -> None:
    for key, value in entry.items():
        if isinstance(value, dict) and "value" in value:
            _figure(value, where, f"{place}.{key}")
            if not _is_count(value.get("n")):
                _refuse(where, f"{place}.{key}", "a figure without its number of images 'n'")


def _figure(figure: Mapping[str, Any], where: str, place: str) -> None:
    """A figure and those inside it (``before``, ``floor``, ``infinity``)."""
    for key in ("value", "std"):
        if not (figure.get(key) is None or _is_number(figure[key])):
            _refuse(where, f"{place}.{key}", "no number")
    ends = figure.get("interval")
    if ends is not None and not (isinstance(ends, list) and len(ends) == 2 and all(map(_is_number, ends))):
        _refuse(where, f"{place}.interval", "no two numbers")
    if not isinstance(figure.get("not_comparable", ""), str):
        _refuse(where, f"{place}.not_comparable", "no text")
    for key in ("before", "floor", "infinity"):
        inner = figure.get(key)
        if inner is None:
            continue
        if not isinstance(inner, dict) or "value" not in inner:
            _refuse(where, f"{place}.{key}", "no figure")
        _figure(inner, where, f"{place}.{key}")


def _confusion(table: Any, classes: Any, where: str, place: str) -> None:
    """A table as wide and as high as there are classes."""
    if not table or not classes:
        return
    square = isinstance(table, list) and isinstance(classes, list) and len(table) == len(classes)
    if not square or not all(
        isinstance(r, list) and len(r) == len(classes) and all(map(_is_natural, r)) for r in table
    ):
        _refuse(where, f"{place}.confusion", "no square table of counts, one row for each class")


def _is_natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    """A number of images, or [generated, real]."""
    pair = isinstance(value, list) and len(value) == 2
    return all(isinstance(v, int) and not isinstance(v, bool) for v in (value if pair else [value]))
