"""Models that earlier versions wrote still load, and translate as they did."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load as read

from unpaired.config import without_retired
from unpaired.errors import ConfigError
from unpaired.translate.translator import load

MODELS = sorted((Path(__file__).parent / "models").glob("*.safetensors"))


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_a_model_of_an_earlier_version_gives_what_it_gave(path: Path) -> None:
    """Written at commit 813e7b5; ``<method>.io`` holds an input and the translation of that version, noise from seed
    0."""
    model = load(path)
    kept = read(path.with_suffix(".io").read_bytes())
    source, target = model.directions[0]
    found = model.translate(kept["x"], source, target, seed=0)
    assert torch.allclose(found, kept["y"], atol=2e-3)


def test_a_setting_that_is_no_more_is_told_where_it_mattered() -> None:
    """A model loads without it. To go on with a run, it goes where it had its default, and else names itself and the
    version to take."""
    kept = {"method": "deepi2i", "model": {"reconstruction_rows": "each", "width": 8}, "data": {"views": 0}}
    assert without_retired(kept, resume=True) == {"method": "deepi2i", "model": {"width": 8}, "data": {}}
    other = {"model": {"reconstruction_rows": "released", "class_rows": "mean"}}
    assert without_retired(other) == {"model": {}}
    with pytest.raises(ConfigError, match=r"reconstruction_rows.*earlier version"):
        without_retired(other, resume=True)
