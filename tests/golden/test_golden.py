"""What must not move unseen, as text: losses of each stage's first steps, options of all commands, keys of files.

A pure refactoring leaves these files as they are. A change that means to move them renews them, and its commit says
why: ``UNPAIRED_GOLDEN=write pytest tests/golden`` (``-k CASE`` renews one). On the CPU that wrote the files, ``git diff
tests/golden`` after that also tells whether every digit stayed.
"""

from __future__ import annotations

import difflib
import json
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cases
import pytest
import torch
from cyclopts import App
from safetensors import safe_open
from torch import Tensor

import tiny
from unpaired.cli import app
from unpaired.data.sampling import ArrayPool
from unpaired.evaluation.run import evaluate
from unpaired.training.loop import fit

HERE = Path(__file__).parent
STEPS = 5
"""Steps of each stage."""
RELATIVE, ABSOLUTE = 2e-3, 1e-6
"""How far a value may be from the file's. The same torch on the same CPU gives every digit; measured between one thread
and two, AVX-512, AVX2 and SSE4: 4e-4 for attend, 5e-5 for the others. Dropout follows the memory layout: another layout
draws another mask."""
PAPER_CYCLE: dict[str, Any] = {
    "norm": "instance",
    "resize_convolutions": False,
    "init": "normal",
    "start": "none",
    "discriminator": "patches",
    "patch_weight": 0,
    "augment": [],
    "gan": "lsgan",
    "discriminator_lr": None,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "attend-lsgan": ("attend", {"gan": "lsgan", "discriminator_norm": "none", "reg_weight": 1.0}),
    "cycle-paper": ("cycle", PAPER_CYCLE),
    "deepi2i-scratch": ("deepi2i", {"mode": "scratch", "freeze_encoder": False, "reconstruction": "mse"}),
    "deepi2i-stylegan-transfer": ("deepi2i-stylegan", {"transfer": ["encoder", "generator", "discriminator"]}),
    "unit-munit": ("unit", {"architecture": "munit", "scales": 2, "residual_blocks": 1}),
    "unit-shared": ("unit", {"discriminator": "shared", "gan": "lsgan", "kl": "released", "dropout": 0.5}),
}
"""Cases beside the methods as ``cases.py`` has them: (method, settings of its model)."""
CASES = {name: (name, {}) for name in sorted(cases.SETTINGS)} | VARIANTS


def diff(golden: str, now: str) -> list[str]:
    """Lines that differ."""
    return list(difflib.unified_diff(golden.splitlines(), now.splitlines(), "golden", "now", n=0, lineterm=""))


def keep(file: str, text: str, differences: Callable[[str, str], list[str]] = diff) -> None:
    """Hold ``text`` against the golden file, or write it there when asked to."""
    path = HERE / file
    if os.environ.get("UNPAIRED_GOLDEN") == "write":
        path.write_text(text)
        pytest.skip(f"wrote {file}")
    if found := differences(path.read_text() if path.exists() else "", text):
        pytest.fail("\n".join([f"{file} (UNPAIRED_GOLDEN=write renews it):", *found[:40]]), pytrace=False)


# ---- losses ----------------------------------------------------------------------------------------------


def train(case: str, folder: Path, steps: int = STEPS) -> Path:
    """The model file of a case's run with ``steps`` steps a stage."""
    name, model = CASES[case]
    kind = type(cases.config(name).model)
    lengths = {field: steps for field in kind.model_fields if field == "steps" or field.endswith("_steps")}
    if model.get("transfer"):
        model = {**model, "pretrained": str(train("stylegan", folder / "gan", 1))}
    run = cases.config(name, model={**lengths, **model}, training={"sample_every": 999, "checkpoint_every": 999})
    return fit(cases.method(name, run), cases.pool(name), run, folder, quiet=True)


def values(text: str) -> dict[tuple[str, ...], float]:
    """(stage, step, term) to value, in the order of a golden file."""
    found = {}
    for stage, step, *pairs in (line.split(" ") for line in text.splitlines()):
        for term, value in (pair.rsplit("=", 1) for pair in pairs):
            found[stage, step, term] = float(value)
    return found


def far(golden: str, now: str) -> list[str]:
    """Values that are not within the tolerance; where there are other steps or terms, or in another order, those."""
    a, b = values(golden), values(now)
    if list(a) != list(b):
        return diff("\n".join(map(" ".join, a)), "\n".join(map(" ".join, b)))
    near = {key: pytest.approx(value, rel=RELATIVE, abs=ABSOLUTE) for key, value in a.items()}
    return [f"{' '.join(key)}: golden {a[key]:.7g}, now {b[key]:.7g}" for key in a if b[key] != near[key]]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the files are of x86-64 kernels")
@pytest.mark.parametrize("case", CASES)
def test_losses(case: str, tmp_path: Path) -> None:
    """Every term and every monitored value of the first steps of each stage, in fp32 on a CPU with one thread."""
    train(case, tmp_path)
    lines = []
    for entry in map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines()):
        terms = [f"{k}={v:.7g}" for k, v in entry.items() if k not in ("step", "stage", "seconds")]
        lines.append(" ".join([entry["stage"], str(entry["step"]), *terms]))
    keep(f"losses/{case}.txt", "\n".join([*lines, ""]), far)


def test_no_file_is_left_over() -> None:
    """Each file of losses belongs to a case."""
    assert {path.stem for path in (HERE / "losses").glob("*.txt")} <= set(CASES)


# ---- options ---------------------------------------------------------------------------------------------


def commands(app: App, words: tuple[str, ...] = ()) -> Iterator[str]:
    """A line for each command, and one for each name of its arguments and options, as ``--help`` lists them."""
    yield " ".join(("unpaired", *words))
    if app.default_command is not None:
        yield from (
            "    " + " ".join(argument.names) for argument in app.assemble_argument_collection() if argument.show
        )
    yield from ("    " + name for name in app if name.startswith("-") and not words)
    for name in app:
        if not name.startswith("-"):
            yield from commands(app[name], (*words, name))


def test_options() -> None:
    """Every command, argument and option, in order: adding one is a decision."""
    keep("options.txt", "\n".join([*commands(app), ""]))


# ---- keys of files ---------------------------------------------------------------------------------------


class Colours:
    """A backbone without weights: the mean and the spread of each colour."""

    name, dim, resize, sha256 = "colours", 6, "none", "0" * 64

    def __call__(self, images: Tensor) -> Tensor:
        """[N, 6]."""
        return torch.cat([images.mean(dim=(2, 3)), images.std(dim=(2, 3))], dim=1).cpu()


def keys(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, type) of all that JSON holds; ``[]`` stands for the elements of a list."""
    inner: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        inner = [(f"{path}.{key}" if path else key, v) for key, v in value.items()]
    elif isinstance(value, list):
        inner = [(f"{path}[]", v) for v in value]
    for place, v in inner:
        yield from keys(v, place)
    if not inner:
        yield path, {"NoneType": "null"}.get(type(value).__name__, type(value).__name__)


def test_keys_of_results_and_header(tmp_path: Path) -> None:
    """The keys and types of what ``evaluate`` writes and of a model file's header: others read them."""
    model = train("unit-munit", tmp_path / "run", 1)
    pool = ArrayPool({"red": tiny.pictures(24, 16, 0, 0), "blue": tiny.pictures(24, 16, 1, 2)})
    evaluate(model, pool, networks=[Colours()], device="cpu", out=tmp_path / "results.json")
    with safe_open(model, "pt") as file:
        header = json.loads(file.metadata()["unpaired"])
    lines = []
    for title, value in (("results.json", json.loads((tmp_path / "results.json").read_text())), ("header", header)):
        found: dict[str, set[str]] = {}
        for path, kind in keys(value):
            found.setdefault(path, set()).add(kind)
        lines += [title, *(f"    {path} {'|'.join(sorted(kinds))}" for path, kinds in sorted(found.items()))]
    keep("results_keys.txt", "\n".join([*lines, ""]))
