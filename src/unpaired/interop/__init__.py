"""Checkpoints of the official implementations, in: both generations of UNIT, CycleGAN, BigGAN, StyleGAN, and DeepI2I on
both.

Each importer takes widths and numbers of layers from the tensors, compares every tensor with the network they describe,
and gives a method in eval mode and the header for ``checkpoint.write_model``. A file that is unsafe, damaged or another
network's is a CheckpointError, which lists all tensors that do not fit.
"""

from __future__ import annotations

from pathlib import Path

from unpaired.errors import ConfigError
from unpaired.interop.cyclegan import import_cyclegan
from unpaired.interop.gans import import_biggan, import_deepi2i, import_deepi2i_stylegan, import_stylegan
from unpaired.interop.tensors import read_torch_file
from unpaired.interop.unit import import_unit_munit, import_unit_v2

__all__ = [
    "class_names",
    "import_biggan",
    "import_cyclegan",
    "import_deepi2i",
    "import_deepi2i_stylegan",
    "import_stylegan",
    "import_unit_munit",
    "import_unit_v2",
    "pair",
    "read_torch_file",
]


def class_names(text: str | None) -> tuple[str, ...] | None:
    """Names of classes from a comma-separated list or from a text file with one a line; None stays None.

    Raises ConfigError: a file that is missing or unreadable, an empty name, or a name twice.
    """
    if text is None:
        return None
    path = Path(text)
    try:
        is_file = path.is_file()
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines() if is_file else text.split(",")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--domains {text}: cannot be read: {error}") from error
    if not is_file and "," not in text and (path.suffix.lower() == ".txt" or len(path.parts) > 1):
        what = "give a text file with a name a line, or names with commas between"
        raise ConfigError(f"--domains {text}: no such file; {what}")
    names = [line.strip() for line in lines]
    if not names or not all(names):
        raise ConfigError(f"--domains {text}: name number {names.index('') + 1 if names else 1} is empty")
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ConfigError(f"--domains {text}: twice: {', '.join(twice[:8])}")
    return tuple(names)


def pair(text: str) -> tuple[str, str]:
    """Two names from a comma-separated list. Raises ConfigError."""
    names = [name.strip() for name in text.split(",")]
    if len({*names} - {""}) != 2 or len(names) != 2:
        raise ConfigError(f"--domains {text!r}: give two different names, first A then B, as in --domains cat,tiger")
    return names[0], names[1]
