"""Fine-tuned features: what is trained, that it learns, use by another method, files of before, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cases
import pytest
import torch
from torch import nn

from unpaired import checkpoint
from unpaired.cli.commands import next_command
from unpaired.errors import ConfigError, WeightsError
from unpaired.methods.cascade import Cascade
from unpaired.methods.finetune import Finetune
from unpaired.training import loop
from unpaired.translate.translator import load


def make(network: str, size: int = 32, **settings: Any) -> Finetune:
    config = Finetune.Config(network=network, weights="random", **settings)
    return Finetune(config, ("blue", "red"), image_size=size)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 15 steps on the tiny network."""
    run = cases.config("finetune", model={"steps": 15})
    out = tmp_path_factory.mktemp("tuned")
    loop.fit(cases.method("finetune", run), cases.pool("finetune"), run, out, quiet=True)
    return out


def test_the_deepest_block_and_the_head_are_trained() -> None:
    """VGG-19: conv5_1 to conv5_4 and three linear layers, the last 4096 to 2, with dropout; MobileNet: the last block
    and a linear layer."""
    with torch.device("meta"):
        vgg, mobile = make("vgg19", 224), make("mobilenet_v1")
    (update,) = vgg.stages()[0].updates
    inside = {id(m) for module in update.modules for m in module.modules()}
    assert {n for n, m in vgg.features.layers.named_children() if id(m) in inside} == {
        f"conv5_{i}" for i in range(1, 5)
    }
    linear = [m for m in vgg.head if isinstance(m, nn.Linear)]
    assert [m.weight.shape for m in linear] == [(4096, 25088), (4096, 4096), (2, 4096)]
    assert sum(isinstance(m, nn.Dropout) for m in vgg.head) == 2
    assert mobile.stages()[0].updates[0].modules == (mobile.features.layers["stride32"], mobile.head)


def test_statistics_of_batch_norms_stay() -> None:
    """Also in the block that is trained, which the loop puts in train mode."""
    method = make("mobilenet_v1").train()
    before = {n: b.clone() for n, b in method.named_buffers()}
    config = cases.config("finetune")
    method.loss(loop.Sampler(cases.pool("finetune"), config.data, method.pairs, 0).batch(1, 4))
    assert all(torch.equal(b, before[n]) for n, b in method.named_buffers())


def test_another_method_begins_with_what_was_learnt(tuned: Path) -> None:
    """All layers but the deepest are those it began with; the run is what ``--weights`` of a cascade takes, which then
    has its layers and names it."""
    began = cases.method("finetune").get_submodule("features").state_dict()
    after = checkpoint.load_method(tuned)[0].get_submodule("features").state_dict()
    assert {n for n in began if not torch.equal(began[n], after[n])} == {"layers.conv5.weight", "layers.conv5.bias"}
    cascade = cases.method("cascade", cases.config("cascade", model={"weights": str(tuned)}))
    assert isinstance(cascade, Cascade)
    start = cases.start("cascade")
    cascade.prepare(start)
    layers = checkpoint.load_method(tuned)[0].get_submodule("features.layers").state_dict()
    assert all(torch.equal(v, cascade.pyramid.features.layers.state_dict()[k]) for k, v in layers.items())
    (about,) = start.pretrained
    assert about["name"] == "tiny, fine-tuned on red, blue" and len(about["sha256"]) == 64


def test_a_file_of_format_1_is_read(tuned: Path, tmp_path: Path) -> None:
    """Such a file held the feature layers alone."""
    layers = checkpoint.load_method(tuned)[0].get_submodule("features.layers").state_dict()
    header = {"format": 1, "kind": "features", "network": "tiny", "classes": ["a", "b"], "origin": {"licence": "L"}}
    (tmp_path / "f.safetensors").write_bytes(checkpoint.pack(layers, header))
    start = cases.start("cascade")
    _, found = start.classifier("tiny", str(tmp_path / "f.safetensors"))
    assert all(torch.equal(found[k], v) for k, v in layers.items())
    assert (start.pretrained[0]["licence"], start.pretrained[0]["name"]) == ("L", "tiny, fine-tuned on a, b")


def test_it_translates_nothing(tuned: Path, tmp_path: Path) -> None:
    """Whatever wants images of it says so; the command after training is another one's."""
    model = load(tuned)
    with pytest.raises(ConfigError, match="tells red, blue apart and translates nothing"):
        model.translate(torch.zeros(1, 3, 32, 32), None, "blue")
    assert "--weights" in next_command(model, tuned)
    with pytest.raises(WeightsError, match="no fine-tuned features of alexnet"):
        cases.start("cascade").classifier("alexnet", str(tuned))
    (tmp_path / "other.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="not a readable checkpoint"):
        cases.start("cascade").classifier("tiny", str(tmp_path / "other.safetensors"))
    with pytest.raises(ConfigError, match="Did you mean 'vgg19'"):
        make("vgg16")
