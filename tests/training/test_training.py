"""The loop: schedules, averages, refusals, stops. What it promises of every method is in contract/."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from unpaired import checkpoint, losses, signals
from unpaired.batch import Batch
from unpaired.data.sampling import ArrayPool, open_pool
from unpaired.errors import ConfigError, Interrupted, NonFiniteError, RefusedError, StoppedError
from unpaired.methods import METHODS, run_from
from unpaired.methods.base import Adam, Stage, Update
from unpaired.training import loop
from unpaired.training.log import WON_LOGS, Watch
from unpaired.training.pretrained import begin_with
from unpaired.training.run import build
from unpaired.training.state import Plan


def fit(run: Path, allow: tuple[str, ...] = (), **settings: Any) -> Path:
    """Train the tiny method."""
    config = tiny.config(**settings)
    return loop.fit(build(config, ("red", "blue")), tiny.pool(), config, run, quiet=True, allow_change=allow)


def log(run: Path) -> list[dict[str, Any]]:
    """The run's log."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


class Prepared(tiny.Tiny):
    """Takes "pretrained" weights before its first step."""

    calls = 0

    def prepare(self, start: Any) -> None:
        """All ones, from nowhere."""
        Prepared.calls += 1
        if start.begun_with is None:
            with torch.no_grad():
                for parameter in self.forth.parameters():
                    parameter.fill_(1.0)
            start.pretrained.append({"name": "ones", "file": "ones.pth"})


def test_a_fresh_run_is_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """prepare() runs before the first step alone, not on resume and not when a model is loaded; the first checkpoint
    and the averaged weights begin with what it loaded, and every model names the source."""
    monkeypatch.setitem(METHODS, "prepared", "test_training:Prepared")
    monkeypatch.setattr(Prepared, "calls", 0)
    config = tiny.config(method="prepared", training__ema=0.9, training__checkpoint_every=1, training__keep=20)

    def fit_it(stop_at: int | None) -> Path:
        def stop(step: int, _method: object) -> None:
            if step == stop_at:
                raise KeyboardInterrupt

        return loop.fit(build(config, ("red", "blue")), tiny.pool(), config, tmp_path / "run", quiet=True, on_step=stop)

    with pytest.raises(KeyboardInterrupt):
        fit_it(3)
    path = fit_it(None)
    assert Prepared.calls == 1
    first, _ = checkpoint.load_method(checkpoint.folder_of(tmp_path / "run/checkpoints", 0) / checkpoint.MODEL)
    assert all(bool((p == 1).all()) for p in first.get_submodule("forth").parameters())
    _, header = checkpoint.load_method(path)
    assert header["pretrained"] == [{"name": "ones", "file": "ones.pth"}]
    assert Prepared.calls == 1
    again = build(config, ("red", "blue"))  # started from that model: its weights stay
    begun = begin_with(again, "prepared", path)

    def enough(step: int, _method: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.fit(again, tiny.pool(), config, tmp_path / "more", quiet=True, on_step=enough, begun_with=begun)
    second, header = checkpoint.load_method(checkpoint.folder_of(tmp_path / "more/checkpoints", 0) / checkpoint.MODEL)
    last, _ = checkpoint.load_method(path)
    assert Prepared.calls == 2 and header["pretrained"] == [{"name": "ones", "file": "ones.pth"}]
    assert all(torch.equal(v, last.state_dict()[k]) for k, v in second.state_dict().items())


def test_a_name_belongs_to_one_set_of_parameters() -> None:
    """The same update name on other parameters in a later stage is a mistake of the method, named."""
    a, b = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    stages = [Stage("s", 1, (Update("u", lambda _: {}, (m,), Adam(1.0)),), 1) for m in (a, b)]
    with pytest.raises(ValueError, match="'u'"):
        Plan(stages)


def test_the_log_has_every_term_and_the_generator_steps_every_second_time(tmp_path: Path) -> None:
    """Each line has step, stage and the terms of the updates that ran."""
    fit(tmp_path)
    lines = log(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 14))
    assert [("forth/near" in line) for line in lines[:6]] == [False, True] * 3
    assert "both/cycle" in lines[-1] and "critic/real" in lines[0]
    assert (tmp_path / "samples" / "step-000000000.png").exists() and (
        tmp_path / "samples" / "step-000000013.png"
    ).exists()


def test_old_checkpoints_are_pruned(tmp_path: Path) -> None:
    """keep=2 leaves the two newest."""
    fit(tmp_path, training__keep=2, training__checkpoint_every=2)
    assert [f.name for f in checkpoint.steps(tmp_path / "checkpoints")] == ["step-000000013", "step-000000012"]


DECAYS = [min(0.5, (1 + n) / (10 + n)) for n in range(1, 14)]
"""Of the average after each of the tiny run's 13 steps where training.ema is 0.5: 2 / 11 after the first, 0.5 from the
eighth on."""


def test_the_shared_model_is_the_average_where_it_is_on(tmp_path: Path) -> None:
    """With EMA the model file's weights and floating-point buffers are the recursion a ← d·a + (1 − d)·w, whose d rises
    with the steps up to the setting, so that a short run forgets its beginning; counters, and all that the state for
    resuming has, are the raw ones."""
    seen: list[dict[str, torch.Tensor]] = []
    config = tiny.config(training__ema=0.5)
    method = build(config, ("red", "blue"))
    average = {n: v.clone() for n, v in method.shared_state().items() if v.is_floating_point()}

    def look(_step: int, m: Any) -> None:
        seen.append({n: v.clone() for n, v in m.state_dict().items()})

    path = loop.fit(method, tiny.pool(), config, tmp_path, on_step=look, quiet=True)
    for decay, raw in zip(DECAYS, seen, strict=True):
        average = {n: decay * a + (1 - decay) * raw[n] for n, a in average.items()}
    shared = checkpoint.load_method(path)[0].state_dict()
    assert sum(n.endswith(("running_mean", "running_var")) for n in average) == 4
    for name, value in average.items():
        torch.testing.assert_close(shared[name], value)
        assert not torch.equal(shared[name], seen[-1][name])
    counter = "back.1.num_batches_tracked"
    assert torch.equal(shared[counter], seen[-1][counter]) and int(shared[counter]) > 0
    state = checkpoint.read_state(checkpoint.latest(tmp_path / "checkpoints")[0])[0]  # type: ignore[arg-type]
    assert all(torch.equal(state[f"method/{n}"], v) for n, v in seen[-1].items())


def test_accumulation_gives_the_gradient_of_the_whole_batch() -> None:
    """Two halves add up to the batch's gradient, for a loss that is a mean over samples."""
    weights = []
    for accumulate in (1, 2):
        config = tiny.config(training__accumulate=accumulate, model__batch_size=4)
        method = build(config, ("red", "blue"))
        trainer = loop.Trainer(method, tiny.pool(), config, Path("unused"), device=torch.device("cpu"))
        layer = method.critic[0]  # type: ignore[index]
        update = Update("plain", lambda b, layer=layer: {"mean": layer(b.source).square().mean()}, (layer,), Adam(1e-2))  # type: ignore[misc]
        batch = next(trainer.batches())
        parts = [batch.part(i, accumulate) for i in range(accumulate)]
        trainer._update(update, trainer.state.plan.stages[0], 0, loop.Forward(None, parts, [update]))
        weights.append(layer.weight.detach().clone())
    torch.testing.assert_close(weights[0], weights[1])


def test_non_finite_loss_stops_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    """Exit 4; the message names step, stage, update and terms; the last checkpoint is finite; a crash note is there."""
    with pytest.raises(NonFiniteError) as caught:
        fit(tmp_path, model__explode_at=0)
    text = str(caught.value)
    assert caught.value.exit_code == 4
    for word in ("step 7", "'second'", "'both'", "cycle = nan", "target = ", "step-000000004"):
        assert word in text, text
    saved, _ = checkpoint.latest(tmp_path / "checkpoints")
    assert saved is not None and saved.step == 4
    assert json.loads((tmp_path / "crash-step-000000007.json").read_text())["update"] == "both"


def test_changed_settings_are_listed_and_refused_unless_named(tmp_path: Path) -> None:
    """Exit 2 with old and new value and what to type; a free setting passes; a named one passes."""
    fit(tmp_path)
    with pytest.raises(ConfigError) as caught:
        fit(tmp_path, model__second_steps=8, model__learning_rate=0.5)
    text = str(caught.value)
    assert "model.second_steps: 7 in the run, 8 now" in text and "--allow-change model.learning_rate" in text
    fit(tmp_path, data__workers=1, training__keep=9)
    path = fit(tmp_path, ("model.second_steps",), model__second_steps=8)
    assert checkpoint.load_method(path)[1]["step"] == 14


def test_an_allowed_change_of_no_setting_is_refused(tmp_path: Path) -> None:
    """A misspelt --allow-change is named, with the nearest setting, not passed over."""
    fit(tmp_path)
    with pytest.raises(
        ConfigError, match=r"--allow-change model.second_step: no such setting. Did you mean 'model.second_steps'"
    ):
        fit(tmp_path, ("model.second_step",), model__second_steps=8)


def test_averaging_may_be_switched_on_and_off_on_resume(tmp_path: Path) -> None:
    """EMA switched on at a resume starts from the weights of that step; switched off, the model file holds the raw
    weights."""
    fit(tmp_path)
    fit(tmp_path, ("training.ema", "model.second_steps"), training__ema=0.5, model__second_steps=8)
    saved, _ = checkpoint.latest(tmp_path / "checkpoints")
    assert saved is not None and any(k.startswith("average/") for k in checkpoint.read_state(saved)[0])
    fit(tmp_path, ("training.ema", "model.second_steps"), model__second_steps=9)
    saved, _ = checkpoint.latest(tmp_path / "checkpoints")
    assert saved is not None and saved.step == 15
    assert not any(k.startswith("average/") for k in checkpoint.read_state(saved)[0])


def test_other_images_are_refused_unless_named(tmp_path: Path) -> None:
    """A run does not silently go on with another data set."""
    fit(tmp_path)
    config = tiny.config(model__second_steps=8)
    other = tiny.pool(count=5)
    with pytest.raises(ConfigError, match="--allow-change data"):
        loop.fit(
            build(config, ("red", "blue")), other, config, tmp_path, quiet=True, allow_change=["model.second_steps"]
        )
    loop.fit(
        build(config, ("red", "blue")), other, config, tmp_path, quiet=True, allow_change=["model.second_steps", "data"]
    )


def test_a_damaged_newest_checkpoint_is_passed_over_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Resume takes the one before, says so, and ends with the bytes of an untouched run."""
    path = fit(tmp_path / "a")
    whole = path.read_bytes()
    damaged = tmp_path / "a" / "checkpoints" / "step-000000013" / checkpoint.STATE
    damaged.write_bytes(damaged.read_bytes()[:-1])
    config = tiny.config()
    again = loop.fit(build(config, ("red", "blue")), tiny.pool(), config, tmp_path / "a")
    said = capsys.readouterr().err
    assert "warning: skipped a damaged checkpoint" in said and str(damaged) in said and "from step 12 of 13" in said
    assert again.read_bytes() == whole


def test_no_intact_checkpoint_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    """When all are damaged the run is refused."""
    fit(tmp_path)
    for folder in checkpoint.steps(tmp_path / "checkpoints"):
        (folder / checkpoint.MANIFEST).write_text("{}")
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint is intact"):
        fit(tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_vanish_during_training_stop_it_with_state_saved(workers: int, tmp_path: Path) -> None:
    """One vanished file is replaced; when all of a domain go, training stops with exit 4, saves, and names a file."""
    data = tiny.folder(tmp_path / "data")
    config = tiny.config(data__workers=workers, data__cache=False, model__first_steps=400)
    pool = open_pool(data, config.data)

    def vanish(step: int, _method: object) -> None:
        if step == 2:
            for path in (data / "train" / "red").iterdir():
                path.unlink()

    with pytest.raises(StoppedError, match="saved as") as caught:
        loop.fit(build(config, pool.domains), pool, config, tmp_path / "run", on_step=vanish, quiet=True)
    saved, _ = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert saved is not None and saved.step >= 2 and caught.value.exit_code == 4


def test_a_change_of_shape_is_refused_in_words_even_when_named(tmp_path: Path) -> None:
    """--allow-change cannot make other networks fit: the tensors are named, in a few lines."""
    fit(tmp_path)
    with pytest.raises(checkpoint.CheckpointError, match=r"(?s)other shapes.*back\.0\.weight: here") as caught:
        fit(tmp_path, ("model.width",), model__width=5)
    assert str(caught.value).count("\n") <= 8


def test_a_run_keeps_its_domains(tmp_path: Path) -> None:
    """Accepting other images does not let a model of red and blue go on under other names."""
    fit(tmp_path)
    config = tiny.config(model__second_steps=8)
    pool = ArrayPool({"cat": tiny.pictures(4), "dog": tiny.pictures(4, seed=1)})
    with pytest.raises(ConfigError, match=r"between red, blue; the data has the domains cat, dog"):
        loop.fit(
            build(config, ("cat", "dog")),
            pool,
            config,
            tmp_path,
            quiet=True,
            allow_change=["model.second_steps", "data"],
        )


def test_settings_that_a_file_leaves_out_mean_the_default(tmp_path: Path) -> None:
    """A config.toml written by hand, or before a setting existed, is not another run; one that is wrong is named."""
    (tmp_path / "config.toml").write_text(
        'method = "tiny"\nseed = 3\n[data]\nsize = 16\n[training]\nprecision = "auto"\n'
    )
    fit(tmp_path)
    (tmp_path / "config.toml").write_text('method = "tiny"\ncolour = 3\n')
    with pytest.raises(ConfigError, match=r"config\.toml: unknown setting 'colour'"):
        fit(tmp_path)


def test_a_complete_run_is_left_alone(tmp_path: Path) -> None:
    """The same command after the end changes nothing and gives the same file."""
    path = fit(tmp_path)
    before = path.stat().st_mtime_ns
    assert fit(tmp_path) == path and path.stat().st_mtime_ns == before


def test_a_fresh_run_can_start_from_a_model(tmp_path: Path) -> None:
    """The weights of a model file are where training begins; a whole file brings the critic too; where they came from
    stays in the header across a resume; a model of another shape is refused with the tensors that differ."""
    first = fit(tmp_path / "first")
    trained, header = checkpoint.load_method(first)
    config = tiny.config()
    method = build(config, ("red", "blue"))
    critic = method.critic[0].weight.clone()  # type: ignore[index,union-attr]
    origin = begin_with(method, "tiny", first)
    assert torch.equal(method.back[0].weight, trained.back[0].weight)  # type: ignore[index,union-attr]
    assert torch.equal(method.critic[0].weight, critic)  # type: ignore[index,union-attr]
    whole = checkpoint.write_model(
        tmp_path / "whole.safetensors", build(tiny.config(seed=9), ("red", "blue")), header, whole=True
    )
    assert begin_with(method, "tiny", whole).about["tensors"] > origin.about["tensors"]
    assert not torch.equal(method.critic[0].weight, critic)  # type: ignore[index,union-attr]
    assert checkpoint.load_method(whole)[0].state_dict().keys() == trained.state_dict().keys()
    path = loop.fit(method, tiny.pool(), config, tmp_path / "second", begun_with=origin, quiet=True)
    path.parent.joinpath(
        checkpoint.MANIFEST
    ).unlink()  # the last one is gone: resume from the one before, without saying it again
    again = fit(tmp_path / "second")
    assert checkpoint.load_method(again)[1]["extra"]["started_from"] == origin.about
    with pytest.raises(
        checkpoint.CheckpointError, match=r"forth\.0\.weight: here \(5, 3, 3, 3\), in the file \(4, 3, 3, 3\)"
    ):
        begin_with(build(tiny.config(model__width=5), ("red", "blue")), "tiny", first)


def test_a_second_trainer_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    """The lock names its owner, and a dead owner's lock is taken over."""
    code = (
        "import sys, time; from pathlib import Path; from unpaired.training.state import lock\n"
        f"with lock(Path({str(tmp_path)!r})): print('held', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None and owner.stdout.readline() == "held\n"
    try:
        with pytest.raises(RefusedError, match=f"pid {owner.pid}"):
            fit(tmp_path)
    finally:
        owner.kill()
        owner.wait()
    assert fit(tmp_path).exists()


def test_a_run_folder_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    """A file where the folder should be: the error names it."""
    (tmp_path / "run").write_text("")
    with pytest.raises(RefusedError, match=r"run.*use another --out"):
        fit(tmp_path / "run")


CHILD = """
import sys; sys.path.insert(0, {tests!r})
import tiny, torch; torch.set_num_threads(1)
from unpaired import signals; from unpaired.training import loop
from unpaired.errors import UnpairedError
from unpaired.training.run import build
config = tiny.config(model__first_steps=100000)
with signals.handled():
    try:
        loop.fit(build(config, ("red", "blue")), tiny.pool(), config, {run!r}, quiet=True)
    except UnpairedError as error:
        print(error, file=sys.stderr); sys.exit(error.exit_code)
"""


def test_sigterm_to_the_whole_group_spares_the_loader_workers(tmp_path: Path) -> None:
    """Batch systems signal every process of a job: the workers stay until the parent has saved, and the exit code is
    143."""
    run = tmp_path / "run"
    script = CHILD.format(tests=str(Path(__file__).parents[1]), run=str(run)).replace(
        "100000", "100000, data__workers=2"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 300  # a hang, even on a busy machine
    while not (run / "log.jsonl").exists() or len(log_lines(run)) < 5:
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGTERM)
    _, said = child.communicate(timeout=300)
    assert child.returncode == 143 and "saved as" in said, said


def log_lines(run: Path) -> list[str]:
    """Whole lines of a log that is being written."""
    return [line for line in (run / "log.jsonl").read_text().split("\n")[:-1] if line]


def test_the_watch_warns_once_of_each_kind() -> None:
    """A discriminator that has won, constant outputs, and outputs equal to inputs each give one warning; a healthy run
    none."""
    watch = Watch()
    healthy = [watch.logged({"d/sign_accuracy": 0.9 if i % 5 else 1.0}) for i in range(100)]
    assert not any(healthy)
    said = [watch.logged({"d/sign_accuracy": 0.99}) for _ in range(3 * WON_LOGS)]
    assert sum(map(len, said)) == 1 and "almost always" in next(s for s in said if s)[0]
    images = torch.rand(4, 3, 8, 8) * 2 - 1
    other = torch.rand(4, 3, 8, 8) * 2 - 1
    assert watch.sampled(images, other, ("a", "b")) == []
    assert "look alike" in watch.sampled(images, torch.zeros_like(images), ("a", "b"))[0]
    assert watch.sampled(images, torch.zeros_like(images), ("b", "a")) == []
    assert "equals the input" in watch.sampled(images, images + 0.001, ("a", "b"))[0]
    assert "inverted" in watch.sampled(images, -0.9 * images, ("a", "b"))[0]
    assert watch.sampled(images, -0.9 * images, ("a", "b")) == []
    again = Watch()
    again.restore(json.loads(json.dumps(watch.state())))
    assert again.logged({"d/sign_accuracy": 0.99}) == [] and again.sampled(images, images, ("a", "b")) == []


def test_a_signal_during_the_last_step_is_not_lost(tmp_path: Path) -> None:
    """What follows a training (a demo's next phase) does not begin: the run is complete, and the signal is raised."""

    def at_the_end(step: int, _method: object) -> None:
        if step == 13:
            os.kill(os.getpid(), signal.SIGTERM)

    config = tiny.config()
    with signals.handled(), pytest.raises(Interrupted, match="complete") as caught:
        loop.fit(build(config, ("red", "blue")), tiny.pool(), config, tmp_path, on_step=at_the_end, quiet=True)
    assert caught.value.exit_code == 143
    found, _ = checkpoint.latest(tmp_path / "checkpoints")
    assert found is not None and found.step == 13


FULL = """
import resource, sys
from pathlib import Path
from unpaired.errors import StoppedError
from unpaired.training.log import RunLog
log = RunLog(Path(sys.argv[1]), 0, tensorboard=None)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    for step in range(10):
        log.write({"step": step, "value": 0.5})
except StoppedError as error:
    log.close()
    print(error); sys.exit(error.exit_code)
"""


def test_a_log_that_cannot_be_written_stops_in_words(tmp_path: Path) -> None:
    """A full disk often shows first in the log: exit 4 with path and cause, and closing it afterwards raises
    nothing."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "log.jsonl")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 4 and "log.jsonl: could not be written: File too large" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"data": {"size": 18}}, "trains at sizes divisible by 4.*data.size=16"),
        (
            {
                "data": {"size": 16},
                "model": {"architecture": "munit", "shared_layers": 0, "discriminator": "multiscale"},
            },
            "too small for these discriminators, which want ",
        ),
    ],
)
def test_sizes_that_cannot_be_trained_are_refused(settings: dict[str, Any], text: str) -> None:
    """Before any data is read, with a size that would do."""
    config = run_from({"method": "unit", **settings})
    with pytest.raises(ConfigError, match=text):
        build(config, ("a", "b"))


def test_compile_gives_the_same_losses_and_falls_back_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --compile the logged losses are those of the plain run within rounding; a compiler that fails costs one line
    of warning and nothing else."""
    fit(tmp_path / "plain", model__first_steps=2, model__second_steps=0)
    with pytest.MonkeyPatch.context() as patch:  # the real tracer and autograd, without minutes of C++
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
        fit(tmp_path / "compiled", model__first_steps=2, model__second_steps=0, training__compile=True)
    capsys.readouterr()
    a, b = log(tmp_path / "plain")[-1], log(tmp_path / "compiled")[-1]
    assert a.keys() == b.keys()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda loss: lambda batch: 1 / 0)
        fit(tmp_path / "broken", model__first_steps=2, model__second_steps=0, training__compile=True)
    assert capsys.readouterr().err.count("torch.compile failed (ZeroDivisionError)") == 2  # one a loss
    c = log(tmp_path / "broken")[-1]
    for key in ("critic/real", "critic/fake"):
        assert a[key] == c[key]
        assert b[key] == pytest.approx(a[key], rel=0.2)  # compiled code draws its noise in another order


class SecondOrder(tiny.Tiny):
    """Differentiates a gradient in the critic's loss and forgets to say so."""

    def critic_loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        terms = super().critic_loss(batch)
        return {**terms, "penalty": losses.gradient_penalty(lambda x: [self.critic(x)], batch.target, batch.source)}


def test_a_failing_backward_of_compiled_code_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compiled code that cannot be differentiated twice fails in the backward pass, when image pool, counters and the
    random generator have moved already: the step is done again from before, and the run ends with the bytes of one that
    never compiled."""
    monkeypatch.setitem(METHODS, "second-order", "test_training:SecondOrder")
    real = torch.compile

    def critic_alone(
        loss: Any,
    ) -> Any:  # compiled code draws its noise in another order, so the others stay as they are
        return real(loss, backend="aot_eager") if loss.__name__ == "critic_loss" else lambda batch: loss(batch)

    monkeypatch.setattr(torch, "compile", critic_alone)
    models = []
    for name in ("plain", "compiled"):
        config = tiny.config(
            method="second-order", model__first_steps=2, model__second_steps=1, training__compile=name == "compiled"
        )
        path = loop.fit(build(config, ("red", "blue")), tiny.pool(), config, tmp_path / name, quiet=True)
        models.append(checkpoint.unpack(path, (path.parent / checkpoint.STATE).read_bytes())[0])
    assert capsys.readouterr().err.count("torch.compile failed (RuntimeError)") == 1
    assert all(torch.equal(v, models[1][k]) for k, v in models[0].items())


def test_tensorboard_holds_what_the_log_holds(tmp_path: Path) -> None:
    """Where the package is installed every logged number is in the event file, and a sheet of samples."""
    pytest.importorskip("tensorboard", reason="the extra `log` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(tmp_path, training__tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("critic/real")] == [
        (line["step"], pytest.approx(line["critic/real"], rel=1e-5)) for line in log(tmp_path) if "critic/real" in line
    ]
    assert "samples" in events.Tags()["images"]


def test_a_group_described_by_half_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WORLD_SIZE alone, as some batch systems set it, is an error that names torchrun."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="torchrun"):
        fit(tmp_path)


def test_a_batch_with_fewer_images_than_ranks_is_refused() -> None:
    """A rank without an image would train on nothing: 2 images for 3 processes are refused with what would do."""
    config = tiny.config()
    with pytest.raises(ConfigError, match="2 in stage 'first' cannot be shared by 3 processes"):
        loop.Trainer(
            build(config, ("red", "blue")), tiny.pool(), config, Path("unused"), device=torch.device("cpu"),
            ranks=loop.Ranks(0, 3),
        )  # fmt: skip
