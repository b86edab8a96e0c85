"""Learn to translate images between domains from folders that do not correspond.

>>> import unpaired
>>> model = unpaired.train("DATA", out="runs/first", preset="unit-small")   # doctest: +SKIP
>>> model = unpaired.load("runs/first")                                     # doctest: +SKIP
>>> model.translate_image(picture, target="zebra")                          # doctest: +SKIP

Everything is imported on first use, so that ``import unpaired`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from unpaired.adaptation import adapt as adapt
    from unpaired.data.check import check as check
    from unpaired.errors import UnpairedError as UnpairedError
    from unpaired.evaluation.results import compare as compare
    from unpaired.evaluation.run import evaluate as evaluate
    from unpaired.methods import METHODS as METHODS
    from unpaired.report import write_report as write_report
    from unpaired.training.planning import plan as plan
    from unpaired.training.run import pretrain as pretrain
    from unpaired.training.run import train as train
    from unpaired.translate.files import translate_files as translate_files
    from unpaired.translate.synthesis import synthesize as synthesize
    from unpaired.translate.translator import Translator as Translator
    from unpaired.translate.translator import load as load

_WHERE = {
    "METHODS": "unpaired.methods",
    "Translator": "unpaired.translate.translator",
    "UnpairedError": "unpaired.errors",
    "adapt": "unpaired.adaptation",
    "check": "unpaired.data.check",
    "compare": "unpaired.evaluation.results",
    "evaluate": "unpaired.evaluation.run",
    "load": "unpaired.translate.translator",
    "plan": "unpaired.training.planning",
    "pretrain": "unpaired.training.run",
    "synthesize": "unpaired.translate.synthesis",
    "train": "unpaired.training.run",
    "translate_files": "unpaired.translate.files",
    "write_report": "unpaired.report",
}

__all__ = [*_WHERE, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'unpaired' has no attribute '{name}'")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
