"""The parameters that several commands share: type, name and help text of each stand here once.

A command annotates with these. What only one command says about a parameter stands in that command's docstring, from
where the help takes it; a text given here wins over the docstring's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import Parameter

T = TypeVar("T")
Flat = Annotated[T, Parameter(name="*")]
"""The options object of a command (unpaired.config.Options), each field an option of its own."""

Data = Annotated[Path, Parameter(help="Folder of images, as for training.")]
Model = Annotated[Path, Parameter(help="Model file, checkpoint folder or run folder.")]
RunFolder = Annotated[Path, Parameter(help="Folder of the run: settings, log, samples, checkpoints.")]

# show_default=False and an empty list as default: None would show as a type in the help
Names = Annotated[list[str], Parameter(negative="", consume_multiple=False, show_default=False)]
Assignments = Annotated[Names, Parameter(name="--set")]
Settings = Annotated[
    Assignments, Parameter(help="KEY=VALUE, any setting, as in --set model.width=32; may be repeated.")
]

Seed = Annotated[int, Parameter(help="Everything random follows from it.")]
Json = Annotated[bool, Parameter(help="Machine-readable output.")]


def print_json(value: Any) -> None:
    """What a command prints under ``--json``."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
