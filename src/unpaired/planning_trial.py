"""A run tried in this process: every stage stepped as the run would do it, on its images, and what else a run does timed once.

For the child process of ``planning``. What a run does once is counted once: opening the data (which an earlier command has looked
at and cached by then, if only the plan itself), building, pretrained weights, the start of each stage, what first steps and first
sheets take more than later ones, and reading the finished model. Importing the package is left out.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from unpaired import devices, runs, training
from unpaired.config import RunConfig
from unpaired.data.folders import DataTree, find
from unpaired.distributed import Ranks
from unpaired.methods import method_class
from unpaired.methods.base import Stage
from unpaired.planning import Cost, StageCost, flop_counter
from unpaired.runlog import RunLog
from unpaired.translation import load

CYCLES = 4
"""Timed rounds of a stage's updates; the median counts."""
SECONDS = 20.0
"""After this many seconds in a stage no further round is begun."""
Clock = Callable[[], float]


def measure(run: RunConfig, data: Path | str, *, clock: Clock = time.perf_counter) -> Cost:
    """The cost of ``run`` on ``data``; nothing is kept of what was trained.

    Args:
        clock: whose seconds the cost is in. ``time.process_time`` leaves out what other programs take, and with one thread and no
            loader processes is fair on a busy machine; the wall's is what a person waits.

    Raises as training would be refused.
    """
    device, precision = devices.choose(run.training)
    run = run.model_copy(update={"training": run.training.model_copy(update={"precision": precision})})
    devices.set_for_training(precision, device)
    tree = find(data, least=min(2, method_class(run.method).min_domains))
    runs.open_data(tree, run)
    with tempfile.TemporaryDirectory(prefix="unpaired-plan-") as scratch:
        return _Trial(run, Path(scratch), device, clock).cost(lambda: _open_again(tree, run), tree.domains)


def _open_again(tree: DataTree, run: RunConfig) -> runs.OpenData:
    """The data once more, without saying again which images are left out."""
    log = logging.getLogger("unpaired")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        return runs.open_data(tree, run)
    finally:
        log.setLevel(level)


class _Trial:
    """One configuration, and the clock."""

    def __init__(self, run: RunConfig, folder: Path, device: torch.device, clock: Clock) -> None:
        self.run, self.folder, self.device, self.clock = run, folder, device, clock
        self.drawn = 0
        """Images that the run has drawn before the stage being timed."""

    def timed(self, work: Callable[[], object]) -> float:
        """Seconds of ``work``."""
        self._synchronise()
        began = self.clock()
        work()
        self._synchronise()
        return self.clock() - began

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def cost(self, open_data: Callable[[], runs.OpenData], domains: tuple[str, ...]) -> Cost:
        """Of the whole run."""
        began = self.clock()
        opened = open_data()
        (self.folder / "checkpoints").mkdir()
        trainer = training.Trainer(
            runs.build(self.run, domains), opened.pool, self.run, self.folder, held_out=opened.held_out, header_extra={},
            on_step=None, device=self.device, ranks=Ranks(), reporter=None, validator=opened.validator,
        )  # fmt: skip
        trainer.prepare()
        settings, total = self.run.training, trainer.plan.total
        tensorboard = self.folder / "tensorboard" if settings.tensorboard else None
        log = RunLog(self.folder / "log.jsonl", 0, tensorboard=tensorboard)
        once = self.clock() - began
        stages: list[StageCost] = []
        for stage in trainer.plan.stages:
            measured, extra = self.stage(trainer, stage, sum(s.steps for s in stages))
            stages.append(measured)
            once += extra
        first, sheet = (self.timed(lambda: trainer.sample(log)) for _ in range(2))
        save = self.timed(trainer.save)
        look = self.timed(trainer.validate)
        log.close()
        once += max(0.0, first - sheet) + self.timed(lambda: load(self.folder))
        looks = sum(opened.validator.due(step, total) for step in range(1, total + 1)) if opened.validator else 0
        return Cost(
            {}, tuple(stages), save, sheet, look, once, _peak(self.device), saves=2 + (total - 1) // settings.checkpoint_every,
            sheets=2 + (total - 1) // settings.sample_every, looks=looks,
        )  # fmt: skip

    def stage(self, trainer: training.Trainer, stage: Stage, first: int) -> tuple[StageCost, float]:
        """A stage that begins after step ``first``, and the seconds that it takes once."""
        period = min(math.lcm(*(update.every for update in stage.updates)), stage.steps)
        once = self.timed(stage.start) if stage.start is not None else 0.0
        trainer.modes(stage)
        trainer.step = first
        batches = trainer.batches()  # with the loader processes that the run will have

        def one_round() -> None:
            nonlocal batches
            if trainer.step + period > first + stage.steps:  # a stage of a few steps: its first ones again
                trainer.step = first
                batches = trainer.batches()
            for batch in itertools.islice(batches, period):
                trainer.step += 1
                trainer.run_step(stage, first, batch)

        warm = self.timed(one_round)
        with flop_counter() as counter:
            one_round()
        rounds: list[float] = []
        while len(rounds) < CYCLES and sum(rounds) < SECONDS:
            rounds.append(self.timed(one_round))
        usual = statistics.median(rounds)
        share = self._new_crops(trainer, stage)
        if share < 1:  # crops come again, and what is kept of them may make that cheaper: the same steps once more
            trainer.step, batches = first, trainer.batches()
            usual = share * usual + (1 - share) * statistics.median(self.timed(one_round) for _ in rounds)
        gflop = counter.get_total_flops() / period / 1e9
        return StageCost(stage.name, stage.steps, stage.batch_size, usual / period, gflop), once + max(
            0.0, warm - usual
        )

    def _new_crops(self, trainer: training.Trainer, stage: Stage) -> float:
        """Share of the stage's images that no step before has seen: 1 unless ``data.views`` limits the crops."""
        method = trainer.method
        if not method.view_counts:
            return 1.0
        crops, before = sum(method.view_counts.values()), self.drawn
        self.drawn += stage.steps * stage.batch_size * len(method.reads)
        return (min(crops, self.drawn) - min(crops, before)) / (self.drawn - before)


def _peak(device: torch.device) -> int:
    """Bytes: what PyTorch reserved on the GPU, else this process's largest resident size."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    try:  # getrusage would count the parent's size too: it is kept over fork and exec
        status = Path("/proc/self/status").read_text("ascii")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        scale = 1 if os.uname().sysname == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
