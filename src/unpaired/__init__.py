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

from unpaired._version import __version__

if TYPE_CHECKING:
    from unpaired.adaptation import adapt
    from unpaired.data.check import check
    from unpaired.errors import UnpairedError
    from unpaired.evaluation import evaluate
    from unpaired.methods import METHODS
    from unpaired.runs import pretrain, train
    from unpaired.synthesis import synthesize
    from unpaired.translation import Translator, load, translate_files

_WHERE = {
    "METHODS": "unpaired.methods",
    "Translator": "unpaired.translation",
    "UnpairedError": "unpaired.errors",
    "adapt": "unpaired.adaptation",
    "check": "unpaired.data.check",
    "evaluate": "unpaired.evaluation",
    "load": "unpaired.translation",
    "pretrain": "unpaired.runs",
    "synthesize": "unpaired.synthesis",
    "train": "unpaired.runs",
    "translate_files": "unpaired.translation",
}

__all__ = [
    "METHODS",
    "Translator",
    "UnpairedError",
    "__version__",
    "adapt",
    "check",
    "evaluate",
    "load",
    "pretrain",
    "synthesize",
    "train",
    "translate_files",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'unpaired' has no attribute '{name}'")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
