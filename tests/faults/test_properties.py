"""Whatever comes in, what reads it gives a sound result or refuses in words: settings, folders, manifests, images
(hypothesis)."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from figures import pick
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_zoo import bad_files, encoded, picture

import tiny
from unpaired import checkpoint
from unpaired.config import RunConfig, read_toml, setting_names
from unpaired.data import images
from unpaired.data.folders import find
from unpaired.data.images import MAX_SIDE, MIN_SIDE, open_image
from unpaired.errors import CheckpointError, ConfigError, DataError, ImageError
from unpaired.methods import run_from

EXAMPLES = settings(
    max_examples=pick(60, 600), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
KEYS = st.sampled_from(setting_names(tiny.config()))
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=True), st.text(max_size=20),
    st.lists(st.integers(-5, 300), max_size=4), st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)  # fmt: skip


# ---- settings


@EXAMPLES
@given(st.dictionaries(st.one_of(KEYS, st.text(max_size=12)), VALUES, max_size=5))
def test_settings_are_taken_whole_or_refused(changes: dict[str, Any]) -> None:
    """Any values under any keys: a valid run that survives TOML and comes back equal, or a ConfigError that names a
    key."""
    from unpaired.config import nested

    try:
        run = run_from({"method": "tiny", **nested(changes)})
    except ConfigError as error:
        assert str(error)
        return
    assert isinstance(run, RunConfig)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "c.toml")
        path.write_text(run.to_toml(), encoding="utf-8")
        assert run_from(read_toml(path)) == run


# ---- folders

PARTS = st.one_of(
    st.sampled_from(["train", "test", "val", "trainA", "trainB", "testA", "cat", "Cat", "dog", "a", ".x",
        "__MACOSX"]),
    st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1,
        max_size=6).filter(lambda t: t not in (".", "..")),
)  # fmt: skip
NAMES = st.one_of(st.sampled_from(["1.png", "2.JPG", "x.txt", "Thumbs.db", "n"]), PARTS)


@EXAMPLES
@given(st.lists(st.tuples(st.lists(PARTS, max_size=3), NAMES), max_size=12), st.integers(1, 2))
def test_any_tree_is_understood_or_refused(files: list[tuple[list[str], str]], least: int) -> None:
    """Any tree of names: domains with each file once, below the root, in both splits' keys; or a DataError. Never
    another error."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for parts, name in files:
            try:
                root.joinpath(*parts).mkdir(parents=True, exist_ok=True)
                root.joinpath(*parts, name).write_bytes(b"")
            except OSError:
                continue  # a name that is taken, or too long
        try:
            tree = find(root, least)
        except DataError as error:
            assert str(error)
            return
        assert len(tree.domains) >= least and list(tree.domains) == sorted(tree.domains, key=os.fsencode)
        assert set(tree.files) == {(s, d) for s in ("train", "test") for d in tree.domains}
        for domain in tree.domains:
            listed = [p for s in ("train", "test") for p in tree.files[s, domain]]
            assert len(set(listed)) == len(listed)
            assert all(p.is_relative_to(root) for p in listed)
        assert find(root, least) == tree


# ---- manifests

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)
FIELDS = st.sampled_from(["format", "step", "files", "digest", "model.safetensors", "bytes", "sha256"])


@EXAMPLES
@given(st.one_of(st.dictionaries(FIELDS, JSON, max_size=5), JSON), st.booleans(), st.binary(max_size=4))
def test_any_manifest_is_verified_or_refused(value: Any, signed: bool, tail: bytes) -> None:
    """Any JSON as a manifest, with a right digest or none, and any bytes behind it: refused, for it describes no files
    that are there."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "step-000000001")
        place.mkdir()
        whole = signed and isinstance(value, dict)
        content = checkpoint._manifest_bytes(value) if whole else json.dumps(value).encode()
        (place / checkpoint.MANIFEST).write_bytes(content + tail)
        try:
            checkpoint.verify(place)
        except CheckpointError as error:
            assert str(place) in str(error)
        else:
            raise AssertionError("verified")
        assert checkpoint.latest(place.parent)[0] is None


# ---- images

SEEDS = [
    *(encoded(picture(1), f) for f in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")), encoded(picture(2)[..., 0]),
    *(content for content, _ in bad_files().values() if 0 < len(content) < 5000),
]  # fmt: skip


@EXAMPLES
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=4)), max_size=6),
    st.integers(0, 5000),
)
def test_any_bytes_are_an_image_or_refused(seed: bytes, changes: list[tuple[int, bytes]], cut: int) -> None:
    """Files of every format with bytes changed and cut off: 8-bit RGB within the limits, or an ImageError with a
    reason."""
    data = bytearray(seed)
    for place, content in changes:
        at = place % len(data)
        data[at : at + len(content)] = content
    if cut % 3 == 0:
        del data[cut % (len(data) + 1) :]
    try:
        with mock.patch.object(images, "MAX_PIXELS", 2_000_000):  # so that it does not take long
            image = open_image(bytes(data))
    except ImageError as error:
        assert error.reason
        return
    assert image.mode == "RGB" and min(image.size) >= MIN_SIDE and max(image.size) <= MAX_SIDE
    assert np.asarray(image).dtype == np.uint8
