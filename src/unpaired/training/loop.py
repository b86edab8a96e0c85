"""The one loop. It knows no method: it runs the stages and updates that a method lists.

Promises: a step is a function of (seed, step) and of the state before it, so that a resumed run equals an uninterrupted
one bit for bit on a CPU; a killed run loses at most the steps since its last checkpoint; a non-finite loss stops the
run and keeps the last good checkpoint; a signal saves and leaves.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader

from unpaired import checkpoint, machine, signals
from unpaired.batch import Batch
from unpaired.config import RunConfig
from unpaired.data.images import encode_image, to_tensor, to_uint8
from unpaired.data.sampling import Pool, Sampler, StepDataset, centre_crops
from unpaired.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    Interrupted,
    NonFiniteError,
    RefusedError,
    StoppedError,
    UnpairedError,
)
from unpaired.machine import Ranks, joined
from unpaired.methods.base import Beginning, Method, Stage, Update
from unpaired.training import log as origins
from unpaired.training.log import Reporter, RunLog, warn
from unpaired.training.pretrained import Start
from unpaired.training.state import TrainingState, check_goes_on, compare_settings, lock

if TYPE_CHECKING:
    from unpaired.training.validation import Validator

WATCH_FROM_STEP = 500
"""Before this step (or a quarter of the run) the GAN watch does not judge sample sheets."""
MAX_SHEET_DIRECTIONS = 6
"""Directions on a sample sheet: with many domains there would be hundreds."""

_NO_BATCH = 1000
"""What a rank without a batch tells the others; above every signal number."""

OnStep = Callable[[int, Method], Mapping[str, float] | None]
Terms = dict[str, Tensor]
"""Terms of a loss by name."""


def seed_everything(seed: int, step: int, rank: int = 0) -> None:
    """Seed torch's generators from (seed, step, rank): noise, dropout and pools then need no saved state."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> 1))


class Forward:
    """The parts of a step's batch, each with the result of ``Stage.forward``: what losses are called with.

    Args:
        forward: that of the stage, or what was compiled of it.
        due: the updates of the step.
    """

    def __init__(self, forward: Callable[[Batch], Any] | None, parts: Sequence[Batch], due: Sequence[Update]) -> None:
        self.forward, self.parts = forward, parts
        self.players = [p for u in due if u.through_forward for m in u.modules for p in m.parameters()]
        self.kept: dict[int, Any] = {}
        """Results by part, without a graph."""
        self.whole: Any = None
        """That of a single part with its graph."""

    def __call__(self, index: int, update: Update) -> tuple[Any, ...]:
        """Arguments of an update's loss for part number ``index``."""
        part = self.parts[index]
        if self.forward is None:
            return (part,)
        made = self.whole
        if index not in self.kept or (update.through_forward and made is None):
            alone = len(self.parts) == 1
            made = self._computed(self.forward, part, graph=update.through_forward or (alone and bool(self.players)))
            self.kept.setdefault(index, tree_map_only(Tensor, Tensor.detach, made))
            self.whole = made if alone else None
        return part, made if update.through_forward else self.kept[index]

    def _computed(self, forward: Callable[[Batch], Any], part: Batch, *, graph: bool) -> Any:
        asleep = [p for p in self.players if graph and not p.requires_grad]
        for parameter in asleep:
            parameter.requires_grad_(True)
        try:
            with torch.set_grad_enabled(graph):
                return forward(part)
        finally:
            for parameter in asleep:
                parameter.requires_grad_(False)


@dataclass(frozen=True)
class Extras:
    """What may come with a run beside its method, images and settings."""

    held_out: Pool | None = None
    """Images for the sample sheets; the training images when None."""
    validator: Validator | None = None
    """Looks at images that are not in the pool, every ``config.training.validate_every`` steps."""
    begun_with: Beginning | None = None
    """The model whose weights the method has been given (:func:`unpaired.training.pretrained.begin_with`)."""
    header: Mapping[str, Any] = field(default_factory=dict)
    """JSON-ready values for the model's header."""
    origin: Mapping[str, Any] | None = None
    """Where the images are and the command, a note for reports (:func:`unpaired.training.log.about`)."""
    on_step: OnStep | None = None
    """Called after each step with (step, method); a returned mapping is logged. It must not change the method."""
    allow_change: Sequence[str] = ()
    """Settings that may differ from the run being resumed (``data`` allows other images)."""
    quiet: bool = False
    """Show no progress."""


def fit(
    method: Method, pool: Pool, config: RunConfig, run_dir: Path | str, extras: Extras | None = None, **changes: Any
) -> Path:
    """Train ``method`` on ``pool`` in ``run_dir``, resuming what is there; the last checkpoint's ``model.safetensors``.

    Args:
        method: built from ``config.model``; its weights before training are its initialisation.
        extras: what :class:`Extras` lists; ``changes`` are single ones of them, as in ``quiet=True``.

    Raises:
        ConfigError, CheckpointError, WeightsError, RefusedError: before any work.
        NonFiniteError, StoppedError: stopped by itself, the last good checkpoint is kept.
        Interrupted: a signal came; saved.
    """
    run_dir, extras = Path(run_dir), replace(extras or Extras(), **changes)
    if config.training.validate_every is not None and extras.validator is None:
        raise ConfigError(
            "training.validate_every: only `unpaired train` holds out images to look at; leave it out here"
        )
    device, precision = machine.choose(config.training)
    config = config.model_copy(update={"training": config.training.model_copy(update={"precision": precision})})
    machine.set_for_training(precision, device)
    root = run_dir / "checkpoints"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RefusedError(f"{root}: cannot be made: {error.strerror}; use another --out") from error
    with contextlib.ExitStack() as stack:
        ranks = stack.enter_context(joined(device))
        if ranks.main:
            stack.enter_context(lock(run_dir))
            compare_settings(run_dir, config, extras.allow_change)
            checkpoint.remove_leftovers(root)
        ranks.barrier()
        quiet = extras.quiet or not ranks.main
        say = Reporter(1, 0, quiet=quiet).say
        trainer = Trainer(method, pool, config, run_dir, extras, device=device, ranks=ranks)
        state = trainer.state
        trainer.resume()
        if extras.validator is not None:
            extras.validator.restore(run_dir, state.step)
        if ranks.main:
            checkpoint.write_atomic(run_dir / "config.toml", config.to_toml().encode())
            if extras.origin is not None:
                origins.write(run_dir, extras.origin)
        if state.step >= state.plan.total:
            asked = f", more than the {state.plan.total:,} asked for" if state.step > state.plan.total else ""
            say(f"{run_dir} is complete: {state.step:,} steps{asked}. Nothing to do")
            return checkpoint.folder_of(root, state.step) / checkpoint.MODEL
        if state.step:
            say(f"resuming {run_dir} from step {state.step:,} of {state.plan.total:,}")
        say(f"sample sheets go to {run_dir / 'samples'}; Ctrl-C saves and stops, the same command goes on")
        board = run_dir / "tensorboard" if config.training.tensorboard and ranks.main else None
        name = "log.jsonl" if ranks.main else f"log-rank{ranks.rank}.jsonl"
        log = RunLog(run_dir / name, state.step, tensorboard=board)
        stack.callback(log.close)
        reporter = stack.enter_context(Reporter(state.plan.total, state.step, quiet=quiet))
        with signals.deferred():
            path = trainer.run(log, reporter) / checkpoint.MODEL
        signals.poll(f"stopped by a signal at the end of {run_dir}, which is complete")  # else a demo would go on
        return path


class Trainer:
    """One run: method, state, images, run folder and settings, and what is done with them step by step. Use
    :func:`fit`."""

    def __init__(
        self,
        method: Method,
        pool: Pool,
        config: RunConfig,
        run_dir: Path,
        extras: Extras | None = None,
        *,
        device: torch.device,
        ranks: Ranks | None = None,
    ) -> None:
        self.method = method.place(device)
        self.state = TrainingState(method, config.training.ema)
        self.pool, self.config, self.run_dir, self.extras = pool, config, run_dir, extras or Extras()
        self.settings, self.device, self.ranks = config.training, device, ranks or Ranks()
        world = self.ranks.world
        if small := [f"{s.batch_size} in stage '{s.name}'" for s in self.state.plan.stages if s.batch_size < world]:
            raise ConfigError(
                f"a batch of {', '.join(small)} cannot be shared by {world} processes: --set model.batch_size={world} "
                "or more, or fewer processes"
            )
        begun = self.extras.begun_with
        self.header_extra = {**self.extras.header, **({"started_from": begun.about} if begun else {})}
        self.compiled: dict[tuple[str, str], Any] = {}
        """By stage and update: its loss as it runs, compiled or not; ``Stage.forward`` under no update."""
        pictures = self.extras.held_out or pool
        self.sheet = [d for d in method.directions if pictures.count(d[0])][:MAX_SHEET_DIRECTIONS]
        # read once, before training: a file that vanishes later must not break a sheet
        self.fixed = {
            source: to_tensor(
                centre_crops(pictures, source, range(min(self.settings.samples, pictures.count(source))), config.data)
            )
            for source, _ in self.sheet
        }
        self.finite = torch.ones((), dtype=torch.bool, device=device)

    # ---- where it begins ---------------------------------------------------------------------------------

    def resume(self) -> None:
        """Restore the newest checkpoint that verifies, and say which ones were passed over; prepare a fresh run.

        Raises CheckpointError, ConfigError, WeightsError.
        """
        root = self.run_dir / "checkpoints"
        saved, rejected = checkpoint.latest(root)
        for line in rejected if self.ranks.main else ():
            warn(f"skipped a damaged checkpoint: {line}")
        if saved is None and rejected:
            raise CheckpointError(
                f"{root}: no checkpoint is intact, so the run cannot be resumed. Use another --out, or remove this "
                "folder"
            )
        if saved is None:
            self.prepare()
            return
        pool = None if "data" in self.extras.allow_change else self.pool
        check_goes_on(self.run_dir, saved, self.state.plan, pool, self.method.domains)
        self.state.restore(*checkpoint.read_state(saved))
        # a resumed run keeps its own origin
        self.header_extra = {**self.header_extra, **checkpoint.read_header(saved)["extra"]}

    def prepare(self) -> None:
        """Before the first step of a fresh run: let the method take pretrained weights. Raises WeightsError."""
        start = Start(self.pool, self.config.data, self.device, self.extras.begun_with)
        self.method.prepare(start)
        self.state.pretrained = start.pretrained
        self.state.begin_average()

    # ---- the loop ----------------------------------------------------------------------------------------

    def batches(self) -> Iterator[Batch]:
        """Batches of the steps still to come; the same whatever the number of workers."""
        method = self.method
        sampler = Sampler(
            self.pool, self.config.data, method.pairs, self.config.seed, domains=method.domains, reads=method.reads
        )
        dataset = StepDataset(
            sampler, lambda step: self.state.plan.at(step)[0].batch_size, self.ranks.rank, self.ranks.world
        )
        workers = self.config.data.workers
        loader = DataLoader(
            dataset,
            batch_size=None,
            sampler=range(self.state.step + 1, self.state.plan.total + 1),
            num_workers=workers,
            worker_init_fn=signals.ignore_in_worker,
            pin_memory=self.device.type == "cuda",
            prefetch_factor=4 if workers else None,
            multiprocessing_context="fork" if workers else None,
        )
        for batch in loader:
            yield batch.to(self.device, non_blocking=True)

    def _next(self, batches: Iterator[Batch]) -> tuple[Batch | None, str]:
        """Return the next batch, or why there is none."""
        try:
            return next(batches), ""
        except DataError as error:  # files vanished or broke during training, more than can be replaced
            return None, f"{error}; saved as {{path}}. Mend the data, then the same command goes on"
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            return (
                None,
                f"a loader process died ({str(error).splitlines()[0]}): often too little memory; saved as {{path}}. "
                "Go on with --workers 0",
            )

    def run(self, log: RunLog, reporter: Reporter | None = None) -> Path:
        """Train to the end; the folder of the last checkpoint."""
        total, settings, started = self.state.plan.total, self.settings, time.monotonic()
        if self.state.step == 0:
            self.save()  # also proves that the folder can be written
            if self.ranks.main:
                self.sample(log)
        current: Stage | None = None
        batches = self.batches()
        while self.state.step < total:
            batch, trouble = self._next(batches)
            stage, first = self.state.plan.at(self.state.step + 1)
            self._leave_if_asked(trouble)
            assert batch is not None, "without a batch there is trouble, and this rank has left"
            self.state.step += 1
            if stage is not current:
                if self.state.step == first + 1 and stage.start is not None:
                    seed_everything(self.config.seed, self.state.step - 1)  # the same on all ranks: it changes weights
                    stage.start()
                self.modes(stage)
                current = stage
            terms = self.run_step(stage, first, batch)
            extra = self.extras.on_step(self.state.step, self.method) if self.extras.on_step else None
            looked = self.extras.validator is not None and self.extras.validator.due(self.state.step, total)
            if self.state.step % settings.log_every == 0 or self.state.step == total or extra or looked:
                self.check_finite()
                values = {k: float(v) for k, v in {**terms, **self.method.monitor}.items()} | dict(extra or {})
                if looked:
                    values |= self.validate()
                self._log(log, stage, values, time.monotonic() - started)
            sampled = self.state.step % settings.sample_every == 0 or self.state.step == total
            if sampled and self.ranks.main:
                self.sample(log)
            if self.state.step % settings.checkpoint_every == 0 or self.state.step == total:
                self.save()
            if sampled or looked or extra is not None:
                current = None  # that may have left everything in eval(): set the modes again
            if reporter is not None:
                reporter.advance(self.state.step, stage.name)
        return checkpoint.folder_of(self.run_dir / "checkpoints", self.state.step)

    def _log(self, log: RunLog, stage: Stage, values: dict[str, float], seconds: float) -> None:
        warnings = self.state.watch.logged(values)
        if self.ranks.main:
            log.write({"step": self.state.step, "stage": stage.name, **values, "seconds": round(seconds, 3)})
            for text in warnings:
                warn(text)

    def _leave_if_asked(self, trouble: str = "") -> None:
        """Save and leave, all ranks after the same step, when any of them has got a signal or has no batch
        (``trouble``)."""
        asked = self.ranks.largest(_NO_BATCH if trouble else signals.requested() or 0)
        if not asked:
            return
        path = self.save()
        if asked == _NO_BATCH:
            where = f"rank {self.ranks.rank}: " if self.ranks.world > 1 else ""
            mine = where + trouble.replace("{path}", str(path))
            raise StoppedError(mine if trouble else f"another rank has no batch, see its message; saved as {path}")
        raise Interrupted(
            asked,
            f"stopped by {signals.name(asked)} after step {self.state.step:,}; saved as {path}. The same command goes "
            "on from there",
        )

    # ---- one step ----------------------------------------------------------------------------------------

    def modes(self, stage: Stage) -> None:
        """Freeze everything, then put the stage's players into train()."""
        self.method.eval()
        self.method.requires_grad_(False)
        for module in (*(m for u in stage.updates for m in u.modules), *stage.train_mode):
            module.train()

    def run_step(self, stage: Stage, first: int, batch: Batch) -> Terms:
        """All updates of step ``self.state.step``; the terms by ``update/term``, detached."""
        seed_everything(self.config.seed, self.state.step, self.ranks.rank)
        self.method.monitor.clear()
        terms: Terms = {}
        # the same number of parts on all ranks: they meet in each
        accumulate = min(self.settings.accumulate, stage.batch_size // self.ranks.world)
        due = [update for update in stage.updates if self.state.step % update.every == 0]
        parts = [replace(batch.part(i, accumulate), first=i == 0) for i in range(accumulate)]
        forward = Forward(self._compiled((stage.name, ""), stage.forward), parts, due)
        for update in due:
            terms |= self._update(update, stage, first, forward)
        self.ranks.share_buffers(self.method.buffers())
        self.state.move_average()
        return terms

    def _update(self, update: Update, stage: Stage, first: int, forward: Forward) -> Terms:
        optimizer = self.state.optimizer(update)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimizer.zero_grad(set_to_none=True)
        sums = self._gradients(update, stage, forward)
        self.ranks.average_gradients(parameters)
        if self.settings.clip is not None:
            nn.utils.clip_grad_norm_(parameters, self.settings.clip)
        spec = update.optimizer
        factor = spec.schedule(self.state.step - first - 1, stage.steps) if spec.schedule else 1.0
        for group in optimizer.param_groups:
            group["lr"] = spec.lr * factor * group["rate"]
        optimizer.step()
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
        return sums

    def _compiled(self, key: tuple[str, str], function: Any, *, compiles: bool = True) -> Any:
        """What runs for ``function``: itself, or where that is asked for what was compiled of it."""
        if key not in self.compiled:
            compiles = compiles and self.settings.compile and function is not None
            self.compiled[key] = torch.compile(function) if compiles else function
        return self.compiled[key]

    def _gradients(self, update: Update, stage: Stage, forward: Forward) -> Terms:
        """Leave the gradients of a batch in the parameters that want one; the terms. Compiled code that fails, forward
        or backward, is done again as it is written, and stays that."""
        key = (stage.name, update.name)
        fresh = key not in self.compiled
        loss = self._compiled(key, update.loss, compiles=not update.second_order)
        if not self.settings.compile:
            return self._differentiated(update, loss, stage, forward)
        # compiling fails at the first use: what was moved until then is put back, so that all is as without compiling
        before = [b.detach().clone() for b in self.method.buffers()] if fresh else []
        drawn = [(g, g.get_state()) for g in machine.generators(self.device)] if fresh else []
        kept = dict(forward.kept)
        try:
            return self._differentiated(update, loss, stage, forward)
        except UnpairedError:
            raise
        except Exception as error:  # the compiler raises many kinds; if the loss is at fault, it raises again below
            warn(f"torch.compile failed ({type(error).__name__}); going on without it")
        self.compiled |= {key: update.loss, (stage.name, ""): stage.forward}
        forward.forward, forward.kept, forward.whole = stage.forward, kept, None
        for generator, state in drawn:
            generator.set_state(state)
        for buffer, value in zip(self.method.buffers(), before, strict=False):  # none after the first use
            buffer.copy_(value)
        self.method.zero_grad(set_to_none=True)
        return self._differentiated(update, update.loss, stage, forward)

    def _differentiated(self, update: Update, loss: Callable[..., Terms], stage: Stage, forward: Forward) -> Terms:
        """Forward and backward of each part through ``loss``, that of the update or what was compiled of it; the terms
        of all by ``update/term``, detached."""
        sums: Terms = {}
        mine = sum(map(len, forward.parts))
        # gradients are averaged over ranks: 1 where all have as many images
        weight = mine * self.ranks.world / stage.batch_size
        for index, piece in enumerate(forward.parts):
            share = len(piece) / mine
            with machine.autocast(self.settings.precision, self.device):
                terms = loss(*forward(index, update))
            total = torch.stack([t.float() for t in terms.values()]).sum()
            if self.device.type == "cpu":
                if self.ranks.largest(int(not torch.isfinite(total))):  # one rank's stops all at this step
                    self.stop_non_finite(update.name, terms)
            else:  # no waiting for the GPU here: looked at before each log line and each save
                self.finite &= torch.isfinite(total.detach())
            (total * (share * weight)).backward()  # type: ignore[no-untyped-call]
            for key, value in terms.items():
                sums[f"{update.name}/{key}"] = sums.get(f"{update.name}/{key}", 0) + value.detach().float() * share
        return sums

    def check_finite(self) -> None:
        """Look at the flag that GPU steps leave behind. Raises NonFiniteError."""
        if self.ranks.largest(int(not bool(self.finite))):
            self.stop_non_finite("some update", {}, "a loss became non-finite since the last look")

    def stop_non_finite(self, update: str, terms: Mapping[str, Tensor], why: str = "") -> None:
        """Write ``crash-step-N.json`` and raise NonFiniteError that names stage, update, step and terms."""
        stage = self.state.plan.at(self.state.step)[0].name
        values = {k: float(v.detach()) for k, v in terms.items()}
        shown = ", ".join(f"{k} = {v:.4g}" for k, v in values.items()) or why
        last, _ = checkpoint.latest(self.run_dir / "checkpoints")
        kept = f"the last good state is {last.folder}" if last else "no checkpoint had been written yet"
        note = {
            "step": self.state.step, "stage": stage, "update": update, "why": why or "non-finite loss",
            "terms": {k: str(v) for k, v in values.items()}, "last_good": str(last.folder) if last else None,
            "seed": self.config.seed, "precision": self.settings.precision, "config": self.config.to_dict(),
        }  # fmt: skip
        if self.ranks.main:
            checkpoint.write_atomic(
                self.run_dir / f"crash-step-{self.state.step:09d}.json", json.dumps(note, indent=1).encode()
            )
        raise NonFiniteError(
            f"non-finite loss at step {self.state.step}, stage '{stage}', update '{update}': {shown}; {kept}. "
            "Try training.precision=fp32, a lower rate, or training.clip=1.0 in a new --out"
        )

    # ---- what is kept ------------------------------------------------------------------------------------

    def header(self) -> dict[str, Any]:
        """Return the header of a model of this step."""
        return checkpoint.make_header(
            self.method,
            self.config,
            step=self.state.step,
            stage=self.state.plan.at(self.state.step)[0].name,
            data_fingerprint=self.pool.fingerprint,
            pretrained=self.state.pretrained,
            extra=self.header_extra,
        )

    def save(self) -> Path:
        """Commit a checkpoint of the current step. Raises NonFiniteError instead of saving NaN or infinity."""
        self.check_finite()
        tensors, values = self.state.dump()
        # the optimisers' too: a squared gradient that overflows leaves finite weights that never move again
        bad = [n for n, t in tensors.items() if t.is_floating_point() and not torch.isfinite(t).all()]
        if self.ranks.largest(len(bad)):
            names = ", ".join(n.removeprefix("method/") for n in bad[:4])
            self.stop_non_finite("saving", {}, f"not finite: {names or 'tensors of another rank'}")
        if self.ranks.main:
            stage = self.state.plan.at(self.state.step)[0].name
            header = self.header()
            checkpoint.commit(
                self.run_dir / "checkpoints",
                self.state.step,
                model=checkpoint.pack(self.state.shared_tensors(), header),
                state=checkpoint.pack(tensors, values),
                about={"stage": stage, "method": self.config.method, "data_fingerprint": self.pool.fingerprint},
                keep=self.settings.keep,
            )
        self.ranks.barrier()
        return checkpoint.folder_of(self.run_dir / "checkpoints", self.state.step)

    # ---- pictures ----------------------------------------------------------------------------------------

    def sample(self, log: RunLog) -> None:
        """Write ``samples/step-N.png``: fixed held-out inputs above their translations (and the method's own views
        between them), for each direction."""
        self.method.eval()
        rows, warnings = [], []
        with self.state.averaged():
            for source, target in self.sheet:
                images = self.fixed[source].to(self.device)
                with torch.inference_mode(), machine.autocast(self.settings.precision, self.device):
                    outputs = self.method.translate(
                        images, source, target, generator=torch.Generator(self.device).manual_seed(0)
                    ).float()
                    between = self.method.views(images, source, target).values()
                if not all(bool(torch.isfinite(pictures).all()) for pictures in (outputs, *between)):
                    self.stop_non_finite("samples", {}, f"the translation {source} → {target} is not finite")
                rows += [_row(pictures, self.settings.samples) for pictures in (images, *between, outputs)]
                # an untrained network may give one grey
                if self.state.step >= max(WATCH_FROM_STEP, self.state.plan.total // 4):
                    warnings += self.state.watch.sampled(images, outputs, (source, target))
        if rows:
            sheet = np.concatenate(rows)
            file = self.run_dir / "samples" / f"step-{self.state.step:09d}.png"
            content = encode_image(sheet)
            try:
                file.parent.mkdir(exist_ok=True)
            except OSError as error:
                raise checkpoint.save_error(file.parent, error, len(content)) from error
            checkpoint.write_atomic(file, content)
            log.picture("samples", sheet, self.state.step)
        for text in warnings:
            warn(text)

    def validate(self) -> dict[str, float]:
        """Look at held-out images and keep the model if it is the best so far; the values for the log. A signal waits
        for its end."""
        if self.extras.validator is None or not self.ranks.main:
            return {}
        with self.state.averaged():
            values = self.extras.validator.look(self.method, self.device, self.settings.precision)
        model = {"tensors": self.state.shared_tensors(), "header": self.header()}
        self.extras.validator.note(self.run_dir, self.state.step, values, model)
        return values


def _row(images: Tensor, columns: int) -> np.ndarray[Any, Any]:
    """Images side by side as uint8 [H, columns · W, 3], white where there are fewer."""
    pixels = to_uint8(images.float().cpu())
    blank = np.full((columns - len(pixels), *pixels.shape[1:]), 255, np.uint8)
    return np.concatenate([*pixels, *blank], axis=1)
