"""What DESIGN promises of every method, run over METHODS: a new method is covered by being listed there."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import cases
import pytest
import torch
from figures import Figure
from torch.utils._pytree import tree_leaves

from unpaired import checkpoint, machine, signals
from unpaired.errors import Interrupted
from unpaired.methods import METHODS
from unpaired.methods.base import Update
from unpaired.training import loop
from unpaired.training.state import Plan
from unpaired.translate.translator import Translator, load

NAMES = sorted(METHODS)


def everything(run: Path) -> dict[str, bytes]:
    """All bytes that training left: the last checkpoint's files, and the log without its clock."""
    saved, _ = checkpoint.latest(run / "checkpoints")
    assert saved is not None
    files = {name: (saved.folder / name).read_bytes() for name in (checkpoint.MODEL, checkpoint.STATE)}
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    files["log"] = json.dumps([{k: v for k, v in line.items() if k != "seconds"} for line in lines]).encode()
    files["samples"] = b"".join(p.read_bytes() for p in sorted((run / "samples").glob("*.png")))
    return files


def train(name: str, run: Path, stop_after: int | None = None, **changes: Any) -> None:
    """Train, or stop as a SIGTERM after step ``stop_after`` would."""
    config = cases.config(name, **changes)

    def stop(step: int, _method: object) -> None:
        if step == stop_after:
            signals._state.requested = 15

    try:
        loop.fit(cases.method(name, config), cases.pool(name), config, run, on_step=stop, quiet=True)
    except Interrupted as error:
        assert error.exit_code == 143
    finally:
        signals._state.requested = None


def test_every_method_is_covered() -> None:
    """A method listed in METHODS has a tiny configuration here."""
    assert set(NAMES) <= set(cases.SETTINGS)


@pytest.mark.parametrize("name", NAMES)
def test_resume_is_bit_exact_at_every_step(name: str, tmp_path: Path, figure: Figure) -> None:
    """A run cut after every single step (a dozen cuts, stage boundaries among them, 0 and 2 workers in turn), and runs
    cut once, at the start, on each side of a stage boundary and at the end, have the same weights, optimisers,
    averages, buffers, log and sample pictures as an uninterrupted one, byte for byte."""
    train(name, tmp_path / "whole")
    expected = everything(tmp_path / "whole")
    plan = Plan(cases.method(name).stages())
    assert plan.total > 12
    run = tmp_path / "always"
    for cut in range(1, plan.total):
        train(name, run, stop_after=cut, data={"workers": 2 * (cut % 2)})  # 0 and 2 workers in turn
        saved, _ = checkpoint.latest(run / "checkpoints")
        assert saved is not None and saved.step == cut
    train(name, run)
    assert everything(run) == expected
    boundaries = {end + offset for end in plan.ends[:-1] for offset in (-1, 0, 1)}
    for cut in sorted({1, plan.total // 2, plan.total - 1} | boundaries):
        run = tmp_path / f"cut-{cut}"
        train(name, run, stop_after=cut)
        train(name, run)
        assert everything(run) == expected, f"cut after step {cut}"
    alone = len({1, plan.total // 2, plan.total - 1} | boundaries)
    figure(
        "F3",
        f"{name}: cut after every one of {plan.total} steps with 0 and 2 workers in turn, and {alone} runs cut once: "
        "byte-equal",
    )


@pytest.mark.parametrize("name", NAMES)
def test_workers_do_not_change_the_result(name: str, tmp_path: Path) -> None:
    """0 and 2 loader workers give the same bytes, also when the number changes at a cut."""
    train(name, tmp_path / "none")
    train(name, tmp_path / "two", data={"workers": 2})
    train(name, tmp_path / "changed", stop_after=7, data={"workers": 2})
    train(name, tmp_path / "changed")

    def weights(run: str) -> dict[str, torch.Tensor]:
        saved, _ = checkpoint.latest(tmp_path / run / "checkpoints")
        assert saved is not None
        return checkpoint.read_state(saved)[0]

    reference = weights("none")
    for run in ("two", "changed"):
        other = weights(run)
        assert reference.keys() == other.keys()
        assert all(torch.equal(reference[k], other[k]) for k in reference)


@pytest.mark.parametrize("name", NAMES)
def test_frozen_means_frozen(name: str) -> None:
    """In each stage nothing moves but the parameters of its updates, and buffers of modules that are in train mode or
    that the method itself keeps; each update moves only its own parameters."""
    trainer = cases.trainer(name)
    method = trainer.method
    batches = trainer.batches()
    for stage in trainer.state.plan.stages:
        if stage.start is not None:
            stage.start()
        trainer.modes(stage)
        trained = {id(p) for u in stage.updates for m in u.modules for p in m.parameters()}
        awake = {
            id(b) for m in (*(m for u in stage.updates for m in u.modules), *stage.train_mode) for b in m.buffers()
        }
        own = {id(b) for b in method.buffers(recurse=False)}
        before = {n: t.detach().clone() for n, t in method.state_dict().items()}
        for _ in range(2):
            trainer.state.step += 1
            batch = next(batches)
            if len(batch) != stage.batch_size:
                batch = trainer_batch(name, trainer, stage.batch_size)
            trainer.run_step(stage, trainer.state.step - 1, batch)
        tensors = {**dict(method.named_parameters()), **dict(method.named_buffers())}
        moved = {n for n, t in tensors.items() if n in before and not torch.equal(before[n], t)}
        assert moved, "nothing was trained"
        assert {n for n in moved if id(tensors[n]) not in trained | awake | own} == set()


def trainer_batch(name: str, trainer: loop.Trainer, size: int) -> Any:
    """A batch of another size than the plan's at this step."""
    config = trainer.config
    return loop.Sampler(cases.pool(name), config.data, trainer.method.pairs, config.seed).batch(
        trainer.state.step, size
    )


@pytest.mark.parametrize("name", NAMES)
def test_reloaded_model_gives_the_same_pixels(name: str, tmp_path: Path) -> None:
    """The shared file alone, moved elsewhere, translates as the trained method does, in every direction."""
    config = cases.config(name)
    path = loop.fit(cases.method(name, config), cases.pool(name), config, tmp_path / "run", quiet=True)
    alone = tmp_path / "elsewhere.safetensors"
    alone.write_bytes(path.read_bytes())
    method, header = checkpoint.load_method(path)
    side = cases.SIZES.get(name, 32)
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    again = load(alone)
    assert again.domains == cases.pool(name).domains
    for source, target in again.directions:
        first = Translator(method, header).translate(images, source, target, seed=0)
        second = again.translate(images, source, target, seed=0)
        assert torch.equal(first, second)
        assert first.shape == images.shape
        assert first.abs().max() <= 1.0 + 1e-6


@pytest.mark.parametrize("name", ["biggan", "deepvae", "stylegan"])
def test_images_that_a_method_does_not_read_do_not_matter(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These look at one side of a batch alone: with the other side opened too, the same run bit for bit."""
    train(name, tmp_path / "one", training={"ema": 0.9})
    kind = type(cases.method(name))
    assert len(kind.reads) == 1
    monkeypatch.setattr(kind, "reads", ("source", "target"))
    train(name, tmp_path / "both", training={"ema": 0.9})
    assert everything(tmp_path / "one") == everything(tmp_path / "both")


@pytest.mark.parametrize("name", NAMES)
def test_method_keeps_to_the_contract(name: str) -> None:
    """No tensor is saved twice, none is left out of the state, directions are ordered pairs of domains (of a
    single one, and of what is made of noise, itself), and the plan is pure."""
    method = cases.method(name)
    state = method.state_dict()
    assert len({t.data_ptr() for t in state.values() if t.numel()}) == len([t for t in state.values() if t.numel()])
    assert {n for n, _ in method.named_buffers()} <= set(state), "a buffer with persistent=False would be lost"
    assert set(method.training_only) <= {k.split(".")[0] for k in state}
    itself = len(method.domains) == 1 or method.from_noise
    assert all((a == b) is itself and {a, b} <= set(method.domains) for a, b in method.directions)
    plans = [[(s.name, s.steps, s.batch_size, [u.name for u in s.updates]) for s in method.stages()] for _ in range(2)]
    assert plans[0] == plans[1]


@pytest.mark.parametrize("name", NAMES)
def test_an_update_says_whether_it_differentiates_a_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``Update.second_order`` is set where the loss builds a graph of a gradient, which --compile must leave alone, and
    nowhere else."""
    built: list[bool] = []
    grad = torch.autograd.grad

    def noted(*args: Any, **kwargs: Any) -> Any:
        built.append(bool(kwargs.get("create_graph")))
        return grad(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", noted)
    config = cases.config(name)
    method = cases.method(name, config)
    batch = loop.Sampler(cases.pool(name), config.data, method.pairs, config.seed).batch(1, 4)
    for stage in method.stages():
        for update in stage.updates:
            built.clear()
            update.loss(*cases.arguments(stage, batch))
            assert update.second_order == any(built), f"{stage.name}/{update.name}"


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_all_players_see_what_was_there_before_the_step(name: str, parts: int) -> None:
    """``Stage.forward`` runs once for each part of a batch; where there are several and a later player differentiates
    it, for that one again. The other players are given what the networks made before any of them took its step, without
    a graph. After the step nothing asks for gradients."""
    trainer = cases.trainer(name, cases.config(name, training={"accumulate": parts}))
    for stage in trainer.state.plan.stages:
        if stage.forward is None:
            continue
        made: list[Any] = []
        given: list[tuple[bool, list[torch.Tensor]]] = []

        def forward(batch: Any, made: list[Any] = made, real: Any = stage.forward) -> Any:
            made.append(real(batch))
            return made[-1]

        def noted(update: Update, given: list[Any] = given) -> Update:
            def loss(batch: Any, found: Any) -> Any:
                given.append((update.through_forward, [t for t in tree_leaves(found) if isinstance(t, torch.Tensor)]))
                return update.loss(batch, found)

            return replace(update, loss=loss)

        trainer.modes(stage)
        trainer.state.step = math.lcm(*(u.every for u in stage.updates))
        noting = replace(stage, forward=forward, updates=tuple(map(noted, stage.updates)))
        trainer.run_step(noting, 0, next(trainer.batches()))
        again = parts > 1 and any(u.through_forward for u in stage.updates[1:])
        assert len(made) == parts * (1 + again), stage.name
        for number, (through, tensors) in enumerate(given):
            first = [t for t in tree_leaves(made[number % parts]) if isinstance(t, torch.Tensor)]
            assert any(t.requires_grad for t in tensors) is through
            assert through or all(torch.equal(a, b) for a, b in zip(tensors, first, strict=True)), stage.name
        assert not any(p.requires_grad for p in trainer.method.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_accumulation_keeps_the_objective(name: str) -> None:
    """A loss is a mean over the batch: its terms are finite scalars, weighted, and part of one graph."""
    config = cases.config(name)
    method = cases.method(name, config)
    batch = loop.Sampler(cases.pool(name), config.data, method.pairs, config.seed).batch(1, 4)
    for stage in method.stages():
        for update in stage.updates:
            update_terms = update.loss(*cases.arguments(stage, batch))
            assert update_terms
            for key, value in update_terms.items():
                assert value.ndim == 0 and torch.isfinite(value), key
            random.seed(0)
            assert torch.stack(list(update_terms.values())).sum().requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_bf16_losses_stay_near_those_in_fp32(name: str) -> None:
    """Under autocast all terms, penalties included, agree within a tenth or 0.02, and their gradients are finite."""
    found: dict[str, dict[str, float]] = {}
    config = cases.config(name)
    batch = loop.Sampler(cases.pool(name), config.data, cases.method(name).pairs, config.seed).batch(1, 4)
    for precision in ("fp32", "bf16"):
        method = cases.method(name, config)
        method.prepare(cases.start(name))
        for stage in method.stages():
            for update in stage.updates:
                torch.manual_seed(1)
                with machine.autocast(precision, torch.device("cpu")):
                    terms = update.loss(*cases.arguments(stage, batch))
                torch.stack([t.float() for t in terms.values()]).sum().backward()
                values = {f"{stage.name}/{update.name}/{k}": float(v.detach()) for k, v in terms.items()}
                found.setdefault(precision, {}).update(values)
        assert all(bool(p.grad.isfinite().all()) for p in method.parameters() if p.grad is not None)
    for key, value in found["fp32"].items():
        assert found["bf16"][key] == pytest.approx(value, rel=0.1, abs=0.02), key
