"""Steps and translations on a GPU, where there is one."""

from __future__ import annotations

from pathlib import Path

import cases
import pytest
import torch

import unpaired
from unpaired import machine
from unpaired.training import loop
from unpaired.translate.translator import Translator


@pytest.mark.parametrize("precision", ["fp32", "bf16", "tf32"])
def test_products_are_the_same_by_all_names(precision: str) -> None:
    """PyTorch's compiler asks for TF32 by older names than those that are set, and by both the answer is the same; were
    it not, asking would raise."""
    asked = precision == "tf32"
    try:
        machine.set_products(precision)
        assert torch.backends.cudnn.conv.fp32_precision == ("tf32" if asked else "ieee")
        assert torch.backends.cuda.matmul.fp32_precision == ("tf32" if asked else "ieee")
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (asked, asked)
        assert torch.get_float32_matmul_precision() == ("high" if asked else "highest")
    finally:
        machine.set_products("fp32")


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", sorted(cases.SETTINGS))
def test_steps_never_wait_for_the_gpu(name: str, precision: str) -> None:
    """PyTorch's own alarm for waits stays silent during the second of two equal steps of each stage, and the losses are
    finite."""
    device = machine.choose_device("cuda")
    machine.set_for_training(precision, device)
    run = cases.config(name, training={"device": "cuda", "precision": precision})
    trainer = loop.Trainer(cases.method(name, run), cases.pool(name), run, Path("unused"), device=device)
    for stage in trainer.state.plan.stages:
        if stage.start is not None:
            stage.start()
        trainer.modes(stage)
        trainer.state.step += 1
        images = next(trainer.batches()).to(device)
        trainer.run_step(stage, 0, images)  # libraries begin, algorithms are tried
        torch.cuda.set_sync_debug_mode("error")
        try:
            trainer.run_step(stage, 0, images)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        trainer.check_finite()


@gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", cases.TRANSLATORS)
def test_a_run_on_a_gpu(name: str, compiled: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A whole tiny run on a GPU, compiled or not, with nothing to warn of, ends in a model that translates there."""
    run = cases.config(name, training={"device": "cuda", "precision": "bf16", "compile": compiled})
    file = loop.fit(cases.method(name, run), cases.pool(name), run, tmp_path, quiet=True)
    assert "torch.compile failed" not in capsys.readouterr().err
    model = unpaired.load(file, device="cuda", precision="bf16")
    side = run.data.size
    result = model.translate(torch.zeros(2, 3, side, side), *model.method.directions[0], seed=0)
    assert result.is_cuda and bool(result.isfinite().all())


@gpu
@pytest.mark.parametrize("name", cases.TRANSLATORS)
def test_the_compiled_engine_on_a_gpu(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """CUDA graphs give what PyTorch gives, call after call, and results of earlier calls stay as they are."""
    torch._dynamo.reset()
    models = []
    for engine in ("torch", "compile"):
        torch.manual_seed(0)
        models.append(Translator(cases.method(name), {}, device="cuda", engine=engine))
    source, target = models[0].directions[0]
    side = models[0].method.image_size
    images = [torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in range(4)]
    plain, other = ([m.translate(x, source, target, seed=i) for i, x in enumerate(images)] for m in models)
    for a, b in zip(plain, other, strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=1e-3)
    assert "torch.compile failed" not in caplog.text
