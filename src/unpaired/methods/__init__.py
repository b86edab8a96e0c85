"""The methods by name. A new method is one file in this folder and one line here."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from unpaired.config import RunConfig, from_dict
from unpaired.errors import ConfigError, nearest

if TYPE_CHECKING:
    from unpaired.methods.base import Method

METHODS: dict[str, str] = {
    "attend": "unpaired.methods.attend:Attend",
    "cycle": "unpaired.methods.cycle:Cycle",
    "unit": "unpaired.methods.unit:UNIT",
    "unit-digits": "unpaired.methods.unit_digits:UNITDigits",
    "biggan": "unpaired.methods.gans:BigGAN",
    "deepi2i": "unpaired.methods.deepi2i:DeepI2I",
    "cascade": "unpaired.methods.cascade:Cascade",
    "deepvae": "unpaired.methods.deepvae:DeepVAE",
    "stylegan": "unpaired.methods.gans:StyleGAN",
    "finetune": "unpaired.methods.finetune:Finetune",
    "deepi2i-stylegan": "unpaired.methods.deepi2i:DeepI2IStyleGAN",
}
"""Name -> ``module:class``; strings, so that the command line's help does not import torch."""


def method_class(name: str) -> type[Method]:
    """The class of a method. Raises :class:`ConfigError` for an unknown name."""
    if name not in METHODS:
        raise ConfigError(f"unknown method '{name}'.{nearest(name, METHODS)} There are: {', '.join(METHODS)}.")
    module, attribute = METHODS[name].split(":")
    found: type[Method] = getattr(importlib.import_module(module), attribute)
    return found


def run_from(values: Mapping[str, Any]) -> RunConfig:
    """Build and validate a run from plain values, its table ``model`` by the method that they name.

    Raises ConfigError: an unknown method, every unknown key and every value out of range.
    """
    name = str(values.get("method", RunConfig.model_fields["method"].default))
    return from_dict(values, method_class(name).Config)
