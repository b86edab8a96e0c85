"""Features on disk: one pass a picture, by content; other weights, damage and two writers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny
from unpaired.data.images import to_tensor
from unpaired.evaluation import features
from unpaired.evaluation.features import BATCH, FeatureStore, NetworkBackbone, content_key
from unpaired.machine import set_products


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNPAIRED_CACHE", str(tmp_path / "cache"))


def backbone(seen: list[int]) -> NetworkBackbone:
    def colours(images: Tensor) -> Tensor:
        seen.append(len(images))
        return torch.cat([images.mean(dim=(2, 3)), images.std(dim=(2, 3))], dim=1)

    return NetworkBackbone("colours", 6, 16, "0" * 64, colours, torch.device("cpu"))


def test_a_picture_goes_through_once_whatever_set_it_is_in() -> None:
    """A second pass, a part of the set, another order and a copy within the set cost nothing; rows are those of the
    network."""
    seen: list[int] = []
    pixels = tiny.pictures(20, 16)
    first = FeatureStore(backbone(seen))
    rows = first.rows(first.add(np.concatenate([pixels, pixels[3:4]])))
    assert first.computed == 20 and seen == [BATCH, BATCH]  # 16, and 4 filled up
    assert torch.allclose(rows[:20], backbone([])(to_tensor(pixels))) and torch.equal(rows[3], rows[20])
    first.save()
    again = FeatureStore(backbone(seen))
    back = again.rows(again.add(pixels[::-1]))
    assert again.computed == 0 and torch.equal(back.flip(0), rows[:20])
    assert content_key(pixels[0]) != content_key(pixels[0].reshape(8, 32, 3))


def test_other_weights_resize_precision_or_code_have_a_cache_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of one is ever taken for the other."""
    plain = backbone([])
    changes: tuple[dict[str, Any], ...] = ({}, {"sha256": "1" * 64}, {"resize": "box"}, {"precision": "bf16"})
    folders = {FeatureStore(replace(plain, **change)).folder for change in changes}
    monkeypatch.setattr(features, "CODE", features.CODE + 1)
    assert len(folders | {FeatureStore(plain).folder}) == 5


def test_features_do_not_depend_on_the_precision_of_the_model() -> None:
    """A backbone's products are IEEE's whether a model in TF32 ran before it or PyTorch's own setting holds; the
    model's setting is there again after it."""
    found: list[str] = []

    def seen(images: Tensor) -> Tensor:
        found.append(torch.backends.cudnn.conv.fp32_precision)  # type: ignore[attr-defined]
        return images.mean(dim=(2, 3))

    network = NetworkBackbone("means", 3, 16, "0" * 64, seen, torch.device("cpu"))
    try:
        for precision, after in (("tf32", "tf32"), ("fp32", "ieee")):
            set_products(precision)
            network(torch.zeros(1, 3, 16, 16))
            assert torch.backends.cudnn.conv.fp32_precision == after  # type: ignore[attr-defined]
    finally:
        set_products("fp32")
    assert found == ["ieee", "ieee"]


def test_damage_is_noticed_and_two_writers_do_not_disturb_each_other() -> None:
    """A cut file is thrown away and its rows computed again; what two stores wrote is read by a third."""
    seen: list[int] = []
    pixels = tiny.pictures(8, 16)
    one, other = FeatureStore(backbone(seen)), FeatureStore(backbone(seen))
    one.rows(one.add(pixels[:5]))
    other.rows(other.add(pixels[3:]))
    one.save()
    other.save()
    third = FeatureStore(backbone(seen))
    third.rows(third.add(pixels))
    assert third.computed == 0
    files = sorted(one.folder.glob("*.safetensors"))
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:-7])
    fourth = FeatureStore(backbone(seen))
    fourth.rows(fourth.add(pixels))
    assert 0 < fourth.computed < 8 and not files[0].exists()


def test_without_a_place_to_write_the_features_are_still_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache's folder is a file: the pass works, nothing is kept."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNPAIRED_CACHE", str(tmp_path / "file"))
    store = FeatureStore(backbone([]))
    assert store.rows(store.add(tiny.pictures(3, 16))).shape == (3, 6)
    store.save()
    assert (tmp_path / "file").read_text() == ""
