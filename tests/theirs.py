"""Reference implementations that tests compare with."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest
import torch


def torchvision() -> ModuleType:
    """Import torchvision, also where its compiled part does not fit the installed PyTorch; the test is skipped where it
    is not installed.

    PyPI's torchvision is built for CUDA. On a CPU build of PyTorch its import dies while it registers operators
    (pytorch/vision#9085). None of them is used here, so their names are declared and the import is repeated.
    torchmetrics imports torchvision, so this comes before it.
    """
    try:
        return importlib.import_module("torchvision")
    except ImportError:
        pytest.skip("torchvision is not installed")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        try:
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        except RuntimeError as error:  # declared by an earlier, half-finished import
            if "torchvision::" not in str(error):
                raise
    for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[module]
    found = importlib.import_module("torchvision")
    found._declared = library  # type: ignore[attr-defined]  # the declarations live as long as this
    return found
