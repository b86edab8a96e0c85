"""Losses through torch.compile."""

from __future__ import annotations

import functools
import json
import warnings
from pathlib import Path

import cases
import pytest
import torch

from unpaired.training import loop

NAMES = ("attend", "biggan", "deepvae", "unit-digits")
"""A history of images, classes, features on disk, labels; all methods passed at the commit that brought this file,
which takes minutes."""
AHEAD = 1e-3
"""Relative to the terms: what another order of sums does in a few steps."""


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_loss_goes_through_the_compiler(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tiny run of every stage with compiled losses has no loss that falls back and nothing to warn of, and its first
    terms are those of the run without. (What runs is the graph that the compiler finds; making machine code of it takes
    minutes.)"""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    first = {}
    for compiled in (False, True):
        run = tmp_path / str(compiled)
        config = cases.config(name, training={"compile": compiled})
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Dynamo does not know")
            loop.fit(cases.method(name, config), cases.pool(name), config, run, quiet=True)
        first[compiled] = json.loads((run / "log.jsonl").read_text().splitlines()[0])
    assert "torch.compile failed" not in capsys.readouterr().err
    for key, value in first[False].items():
        if "/" in key:
            assert first[True][key] == pytest.approx(value, rel=AHEAD, abs=AHEAD), key
