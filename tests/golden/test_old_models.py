"""Models that earlier versions wrote still load, and translate as they did."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load as read

from unpaired.config import without_retired
from unpaired.errors import ConfigError
from unpaired.training.run import resolve
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


def test_the_short_command_goes_on_with_an_old_run(tmp_path: Path) -> None:
    """The folder's settings stand in for the options left out, without those that are no more; where one mattered it is
    named."""
    settings = tmp_path / "config.toml"
    settings.write_text('method = "unit"\n[data]\nsize = 32\nantialias = true\nviews = 0\n[model]\nwidth = 4\n')
    found = resolve(run_dir=tmp_path)
    assert (found.method, found.data.size, found.model.width) == ("unit", 32, 4)
    settings.write_text(settings.read_text().replace("true", "false"))
    with pytest.raises(ConfigError, match=r"data.antialias.*earlier version"):
        resolve(run_dir=tmp_path)
