"""What every preset promises: its networks can be built, its stages planned, and its head says what it costs and
gives."""

from __future__ import annotations

from importlib import resources

import pytest
import torch

from unpaired.config import presets
from unpaired.methods import method_class
from unpaired.training.run import build, resolve


@pytest.mark.parametrize("name", presets())
def test_a_preset_builds_its_networks_and_says_what_it_is_for(name: str) -> None:
    """Without memory; two domains, or one where the method takes no more."""
    run = resolve(preset=name)
    source = getattr(run.model, "source", "") or "a"
    domains = (source, source + "2")[: method_class(run.method).domain_count[1] or 2]
    with torch.device("meta"):
        method = build(run, domains, tuple("0123456789"))
    assert sum(stage.steps for stage in method.stages()) > 0
    assert run.data.size % method.stride == 0
    text = (resources.files("unpaired") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    head = text[: text.index("\nmethod")]
    assert all(word in head for word in ("unpaired ", name, "--out", "Cost:", "Expected"))
