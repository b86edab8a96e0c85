"""The parameters that several commands share: type, name and help text of each stand here once.

A command annotates with these. What only one command says about a parameter stands in that command's docstring, from where the
help takes it; a text given here wins over the docstring's.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from cyclopts import Parameter

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions


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


# ----------------------------------------------------------------------------------------------------
# The help page in plain text: names in one column, what they mean in the next, wrapped once to the terminal's width.

INDENT = 2
COLUMN = 24
"""Where the texts begin; a longer name stands on a line of its own."""


class PlainColumns:
    """Formatter for cyclopts. Its own plain one wraps twice, at two widths, and leaves ragged lines."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print one panel: commands, arguments or parameters."""
        if not panel.entries:
            return
        lines = [f"{panel.title}:"] if panel.title else []
        for entry in panel.entries:
            lines += _columns(*_label_and_text(entry, panel.format == "parameter"), console.width)
        _print(console, "\n".join([*lines, ""]))

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """Print the line that shows how the command is typed."""
        if text := _plain(usage).strip():
            _print(console, f"{text}\n" if text.startswith("Usage:") else f"Usage: {text}\n")

    def render_description(self, console: Console, options: ConsoleOptions, description: Any) -> None:
        """Print what the command does, paragraph by paragraph."""
        paragraphs = [" ".join(p.split()) for p in _plain(description).split("\n\n")]
        for paragraph in paragraphs:
            if paragraph:
                _print(console, textwrap.fill(paragraph, console.width, break_long_words=False) + "\n")


def _label_and_text(entry: HelpEntry, parameter: bool) -> tuple[str, str]:
    parts = [" ".join(_plain(entry.description).split())]
    if not parameter:
        return ", ".join((*entry.positive_names, *entry.positive_shorts)), parts[0]
    if entry.choices:
        parts.append(f"[choices: {', '.join(entry.choices)}]")
    if entry.default:
        parts.append(f"[default: {entry.default}]")
    if entry.required:
        parts.append("[required]")
    return ", ".join(entry.display_labels_with_metavar), " ".join(p for p in parts if p)


def _columns(label: str, text: str, width: int) -> list[str]:
    label = " " * INDENT + label
    lines = textwrap.wrap(
        text,
        max(width, COLUMN + 20),
        initial_indent=" " * COLUMN,
        subsequent_indent=" " * COLUMN,
        break_long_words=False,
    )
    if not lines:
        return [label]
    if len(label) + 1 < COLUMN:
        return [label.ljust(COLUMN) + lines[0].lstrip(), *lines[1:]]
    return [label, *lines]


def _plain(value: Any) -> str:
    """The text of what cyclopts passes: a string, or one of rich's texts without its styles, unwrapped."""
    if value is None or isinstance(value, str):
        return value or ""
    if hasattr(value, "plain"):
        return str(value.plain)
    if hasattr(value, "primary_renderable"):  # cyclopts' text with suffixes
        return _plain(value.primary_renderable)
    if hasattr(value, "renderables"):
        return "\n\n".join(_plain(part) for part in value.renderables)
    return str(value)


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
