"""Another engine gives the same pictures."""

from __future__ import annotations

import functools
import shutil
import sys
from typing import Any

import cases
import pytest
import torch

from unpaired.errors import ConfigError
from unpaired.translate.translator import Translator

IMAGES = torch.rand(2, 3, 40, 52, generator=torch.Generator().manual_seed(0)) * 2 - 1
UNCOMPILED = functools.partial(torch.compile, backend="eager")
"""torch.compile but for the making of machine code, which takes a minute a method:
what runs is the graph that it found."""


def translator(key: str, engine: str) -> Translator:
    """A translator over a tiny untrained method."""
    torch.manual_seed(0)
    return Translator(cases.method(key), {}, engine=engine)


def check_equal(key: str, engine: str, within: float) -> None:
    """Both engines give the same images of two sizes, to every class, for seeds and for latents."""
    plain, other = translator(key, "torch"), translator(key, engine)
    size = plain.method.latent_size
    for number, (source, target) in enumerate(list(plain.directions)[:3]):
        for images in (IMAGES, IMAGES[:1, :, :, :40]):
            given: dict[str, Any] = {"seed": number}
            if size is not None and number == 0:
                given["latents"] = torch.randn(len(images), size, generator=torch.Generator().manual_seed(1))
            a, b = (model.translate(images, source, target, **given) for model in (plain, other))
            assert (a - b).abs().max() < within, (source, target, tuple(images.shape))


def test_an_engine_that_is_not_installed_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the error says what to install; an unknown engine brings the names of those that there
    are."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'unpaired\[export\]'"):
        translator("unit", "onnx")
    with pytest.raises(ConfigError, match="There are: torch, compile, onnx"):
        translator("unit", "onx")


@pytest.mark.parametrize("key", ["attend", "deepi2i"])
def test_onnx_equals_torch(key: str) -> None:
    """The same images within 1e-3, also of many classes and from noise; tests/translate/test_export.py has every
    method."""
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    check_equal(key, "onnx", 1e-3)


@pytest.mark.parametrize("key", cases.TRANSLATORS)
def test_every_method_is_taken_by_the_compiler(
    key: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every method goes through torch.compile's tracing and gives the same images; nothing falls back."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", UNCOMPILED)
    check_equal(key, "compile", 1e-4)
    assert "torch.compile failed" not in caplog.text


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_code_equals_torch(caplog: pytest.LogCaptureFixture) -> None:
    """With machine code, too, for the method that compiles fastest."""
    torch._dynamo.reset()
    check_equal("tiny", "compile", 1e-4)
    assert "torch.compile failed" not in caplog.text


def test_a_compiler_that_fails_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Without a working compiler one line says so, and the images are PyTorch's."""

    def broken(network: Any, **options: Any) -> Any:
        def run(*tensors: Any) -> Any:
            raise RuntimeError("no compiler")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    check_equal("unit", "compile", 1e-6)
    assert caplog.text.count("torch.compile failed (RuntimeError); going on without it") == 1
