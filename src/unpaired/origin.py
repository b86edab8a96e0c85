"""A note beside a run: where its images are and the command that began it. Reports read it; training never does, and the
shareable model does not hold it, since paths are nobody else's business."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unpaired.config import parse_value

FILE = "origin.json"


def command(name: str, *places: Path | str, settings: Mapping[str, Any] | None = None, **options: Any) -> str:
    """A shell command: ``unpaired NAME PLACES --option value ... --set key=value ...``; options of None and False are left out."""
    parts = ["unpaired", name, *map(str, places)]
    for option, value in options.items():
        if value is True:
            parts.append(f"--{option.replace('_', '-')}")
        elif value is not None and value is not False:
            parts += [f"--{option.replace('_', '-')}", str(value)]
    for key, value in (settings or {}).items():
        parts += ["--set", f"{key}={_toml(value)}"]
    return shlex.join(parts)


def _toml(value: Any) -> str:
    """The text that :func:`unpaired.config.parse_value` reads as ``value``."""
    if isinstance(value, str):
        return value if parse_value(value) == value else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def about(
    data: Path | str | Mapping[str, Path | str], typed: str, held_out: Mapping[str, Path | str] | None = None
) -> dict[str, Any]:
    """What :func:`write` keeps: absolute paths (one folder, or one for each domain) and the command."""

    def whole(place: Path | str) -> str:
        return str(Path(place).absolute())

    found: dict[str, Any] = {"command": typed}
    found["data"] = {k: whole(v) for k, v in data.items()} if isinstance(data, Mapping) else whole(data)
    if held_out:
        found["held_out"] = {k: whole(v) for k, v in held_out.items()}
    return found


def write(run_dir: Path, origin: Mapping[str, Any]) -> None:
    """Keep the note. A resumed run keeps its first command, which may have said more. Raises StoppedError."""
    from unpaired import checkpoint

    path = run_dir / FILE
    try:
        first = json.loads(path.read_text(encoding="utf-8"))["command"]
    except (OSError, ValueError, KeyError, TypeError):
        first = origin["command"]
    checkpoint.write_atomic(path, (json.dumps({**origin, "command": first}, indent=1) + "\n").encode())
