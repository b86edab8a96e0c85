"""The parameters that several commands share: type, name and help text of each stand here once.

A command annotates with these. What only one command says about a parameter stands in that command's docstring, from where the
help takes it; a text given here wins over the docstring's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from cyclopts import Parameter

T = TypeVar("T")
Flat = Annotated[T, Parameter(name="*")]
"""The options object of a command (unpaired.config.Options), each field an option of its own."""
AnyPrecision = Literal["auto", "fp32", "tf32", "bf16"]

Data = Annotated[Path, Parameter(help="Folder of images, as for training.")]
Model = Annotated[Path, Parameter(help="Model file, checkpoint folder or run folder.")]
RunFolder = Annotated[Path, Parameter(help="Folder of the run: settings, log, samples, checkpoints.")]

# show_default=False and an empty list as default: None would show as a type in the help
Names = Annotated[list[str], Parameter(negative="", consume_multiple=False, show_default=False)]
Assignments = Annotated[Names, Parameter(name="--set")]
Settings = Annotated[
    Assignments, Parameter(help="KEY=VALUE, any setting, as in --set model.width=32; may be repeated.")
]
AllowChange = Annotated[Names, Parameter(help="Setting that may differ from the run being resumed; may be repeated.")]

Preset = Annotated[str, Parameter(help="Name of a shipped preset, or a TOML file.")]
Config = Annotated[Path, Parameter(help="TOML file laid over the preset.")]
Steps = Annotated[int, Parameter(help="Training steps in all (stages are scaled in proportion).")]
Seed = Annotated[int, Parameter(help="Everything random follows from it.")]
Device = Annotated[str, Parameter(help="auto, cpu, cuda or cuda:N.")]
TrainingPrecision = Annotated[AnyPrecision, Parameter(help="auto takes bf16 where the hardware has it.")]
OutputPrecision = Annotated[Literal["fp32", "bf16"], Parameter(help="fp32 or bf16.")]
Workers = Annotated[int, Parameter(help="Loader processes; the result does not depend on it.")]
Quiet = Annotated[bool, Parameter(help="No progress; warnings stay.")]
Json = Annotated[bool, Parameter(help="Machine-readable output.")]

# options of the training commands that are short for a setting
SETTING = {
    "seed": "seed",
    "weights": "model.weights",
    "precision": "training.precision",
    "device": "training.device",
    "compile": "training.compile",
    "workers": "data.workers",
}


def settings_of(assignments: Sequence[str], **options: Any) -> dict[str, Any]:
    """The settings that ``--set`` and the options named in SETTING give; an option that was left out (None) gives none."""
    from unpaired.config import parse_assignments

    return parse_assignments(assignments) | {SETTING[name]: v for name, v in options.items() if v is not None}


def print_json(value: Any) -> None:
    """What a command prints under ``--json``."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
