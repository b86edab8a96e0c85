"""An exported model gives the pictures of the model, in files that say what they are."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import cases
import pytest
import torch

from unpaired import checkpoint
from unpaired.cli import main
from unpaired.config import ExportConfig
from unpaired.errors import ConfigError, UnpairedError
from unpaired.translate import export
from unpaired.translate.translator import Translator

onnx = pytest.importorskip("onnx", reason="the extra 'export' is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")


def translator(key: str) -> Translator:
    """Over a tiny method, its last stages begun."""
    torch.manual_seed(0)
    method = cases.method(key)
    for counter, value in (("attending", 1), ("reached", len(getattr(method.config, "levels", ())))):
        if counter in dict(method.named_buffers()):
            getattr(method, counter).fill_(value)
    return Translator(method, {"method": key}, sha256="5" * 64)


def run(content: bytes, **inputs: torch.Tensor) -> list[torch.Tensor]:
    """The file's outputs by ONNX Runtime itself; inputs that it has not are left out."""
    session = onnxruntime.InferenceSession(content)
    wanted = {value.name for value in session.get_inputs()}
    return [torch.from_numpy(t) for t in session.run(None, {k: v.numpy() for k, v in inputs.items() if k in wanted})]


def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let PyTorch export one direction once: that is most of the time, and every format begins with it."""
    original, made = export.program_of, []

    def program_of(*given: Any) -> Any:
        if not made:
            made.append(original(*given))
        return made[0]

    monkeypatch.setattr(export, "program_of", program_of)


@pytest.mark.parametrize("key", cases.TRANSLATORS)
def test_every_method_is_exported(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ONNX and as PyTorch's program, with free batch and, where the method has it, size: each equals the model on
    shapes that the export did not try, and says what it is. A mask is an output of its own."""
    once(monkeypatch)
    model = translator(key)
    method, (source, target) = model.method, model.directions[0]
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    asked = None if method.any_source else source
    files = {
        kind: export.exported(method, asked, target, header={"method": key}, kind=kind) for kind in ("onnx", "pt2")
    }
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())

    side = method.fixed_size or 5 * method.stride
    images, *drawn = export.examples(method, target, (2, 3, side, method.fixed_size or 9 * method.stride))
    with torch.no_grad():
        wanted = method.eval().render(images, asked, target, *drawn)
        mask = method.attention(images)
    about = files["onnx"].about
    found = run(files["onnx"].content, **dict(zip(about["inputs"], (images, *drawn), strict=True)))
    loaded = torch.export.load(io.BytesIO(files["pt2"].content)).module()(images, *drawn)
    for outputs in (found, loaded if isinstance(loaded, tuple) else (loaded,)):
        assert len(outputs) == (1 if mask is None else 2) == len(about["outputs"])
        assert (outputs[0] - wanted).abs().max() < export.WITHIN
        assert mask is None or (outputs[1] - mask).abs().max() < export.WITHIN
    assert (mask is not None) == (key == "attend")
    properties = {p.key: p.value for p in onnx.load_from_string(files["onnx"].content).metadata_props}
    assert json.loads(properties["unpaired"]) == about
    assert (about["method"], about["stride"], about["fixed_size"]) == (key, method.stride, method.fixed_size)
    assert about["target"] == (None if method.any_source else target)


@pytest.mark.parametrize("key", ["attend", "cascade"])
def test_a_model_in_the_middle_of_its_stages(key: str) -> None:
    """Is exported as it translates now: before its attention, before its first level."""
    model = Translator(cases.method(key), {"method": key})
    source, target = model.directions[0]
    found = export.exported(model.method, source, target, header={}, kind="onnx")
    images = export.examples(model.method, target, found.shapes[0])[0]
    assert (run(found.content, images=images)[0] - model.translate(images, source, target)).abs().max() < 1e-4


def test_half_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the bytes, colours within two levels of 255; for .pt2 it is refused."""
    once(monkeypatch)
    model, way = translator("unit-digits"), "red:blue"
    (whole,) = model.export(tmp_path / "whole.onnx", direction=way)
    (half,) = model.export(tmp_path / "half.onnx", direction=way, half=True)
    images = export.examples(model.method, "blue", (1, 3, 32, 32))[0]
    (exact,), (near,) = (run(path.read_bytes(), images=images) for path in (whole, half))
    assert half.stat().st_size < 0.75 * whole.stat().st_size
    assert 0 < (exact - near).abs().max() < 4 / 255
    with pytest.raises(ConfigError, match="--half goes with --format onnx and html"):
        model.export(tmp_path / "x.pt2", format="pt2", half=True)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a direction a folder takes a file for each; the text says how far each is from the model."""
    method, config = cases.method("tiny"), cases.config("tiny")
    model = checkpoint.write_model(tmp_path / "m.safetensors", method, checkpoint.make_header(method, config))
    with pytest.raises(SystemExit) as left:
        main(["export", str(model), "--out", str(tmp_path / "both")])
    assert not left.value.code
    said = capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "both").iterdir())
    assert names == sorted(f"{a}-to-{b}.onnx" for a, b in method.directions)
    assert said.count("from the model on 1x3x") == len(names)


def refuse(model: Translator, out: Path, text: str, **options: Any) -> None:
    """Nothing is written."""
    with pytest.raises(ConfigError, match=text):
        model.export(out, **options)
    assert not out.exists()


def test_what_is_refused_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each says what there is and what to type."""
    model, out = translator("tiny"), tmp_path / "x.onnx"
    refuse(
        model,
        out,
        r"no direction 'red:bleu'. Did you mean 'red:blue'\? There are: red:blue, blue:red",
        direction="red:bleu",
    )
    refuse(model, out, "one file holds one direction: add --direction, one of red:blue, blue:red, or name a folder")
    refuse(translator("deepi2i"), out, "holds all of this model's classes", direction="red:blue")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refuse(model, out, r"onnxruntime is not installed; type: pip install 'unpaired\[export\]'", direction="red:blue")


def test_a_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither when numbers differ nor when they are none."""
    real = export.session
    for wrong in (1e-3, torch.nan):

        def other(content: bytes, names: Any, wrong: float = wrong) -> Any:
            runs = real(content, names)
            return lambda tensors: tuple(found + wrong for found in runs(tensors))

        monkeypatch.setattr(export, "session", other)
        with pytest.raises(UnpairedError, match=r"differs from the model by .* it is not kept"):
            translator("tiny").export(tmp_path / "x.onnx", ExportConfig(direction="red:blue"))
    assert not list(tmp_path.iterdir())
