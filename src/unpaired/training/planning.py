"""Predict what a run would take on this machine, from a few timed steps of it: ``unpaired plan``.

Every stage is stepped as the run would do it, on the same images. Counted once: building, pretrained weights, starts of
stages, what first steps take more than later ones. Nothing is kept.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from unpaired import machine
from unpaired.config import PlanConfig, RunConfig
from unpaired.data.folders import find
from unpaired.data.sampling import Pool
from unpaired.methods import method_class
from unpaired.methods.base import Method, Stage
from unpaired.training import run as training_run
from unpaired.training.log import RunLog, duration
from unpaired.training.loop import Extras, Trainer
from unpaired.training.pretrained import settings_from

GIB = 2**30
MARGIN = 1.25
"""A trial may reserve this times the memory that is free before it is stopped: a process reserves more than it uses."""
ROUNDS = 4
"""Timed rounds of a stage's updates; the median counts."""
SECONDS = 20.0
"""After this many seconds in a stage no further round is begun."""


@dataclass(frozen=True)
class StageCost:
    """What one stage takes; ``seconds`` a step, data included."""

    name: str
    steps: int
    batch_size: int
    seconds: float


@dataclass(frozen=True)
class RunPlan:
    """What a run takes. Times in seconds; memory in bytes, of the GPU where there is one, else of the process."""

    device: str
    precision: str
    memory: int
    """What the run may use."""
    peak: int | None = None
    """What it uses at most; None: memory ran out in the first steps."""
    stages: tuple[StageCost, ...] = ()
    other_seconds: float = 0.0
    """What comes beside the steps: checkpoints, sample sheets, looks at held-out images, and what is done once."""

    @property
    def fits(self) -> bool:
        """Whether the run stays within the memory."""
        return self.peak is not None and self.peak <= self.memory

    @property
    def total_seconds(self) -> float:
        """Seconds of the whole run."""
        return self.other_seconds + sum(stage.steps * stage.seconds for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, with the totals."""
        return asdict(self) | {"fits": self.fits, "total_seconds": self.total_seconds}

    def text(self) -> str:
        """Return a table for a person, and what to change where the run does not fit."""
        lines = [f"{self.device}, {self.precision}; {self.memory / GIB:.1f} GiB of memory free"]
        if self.peak is not None:
            lines.append(f"{'stage':<16}{'steps':>10}{'batch':>7}{'ms a step':>12}{'time':>12}")
            for s in self.stages:
                took = duration(s.steps * s.seconds)
                lines.append(f"{s.name:<16}{s.steps:>10,}{s.batch_size:>7}{1e3 * s.seconds:>12,.1f}{took:>12}")
            lines.append(f"start, checkpoints, sample sheets, looks: {duration(self.other_seconds)}")
            lines.append(f"in all {duration(self.total_seconds)}, peak memory {self.peak / GIB:.2f} GiB")
        batch = max((s.batch_size for s in self.stages), default=2)
        lines.append(
            "fits"
            if self.fits
            else "does not fit; what takes less, the least harmful first: --set training.accumulate=2 (up to "
            f"{batch}: the same batch, computed in parts), --precision bf16, a smaller crop (--set data.size), "
            "smaller networks"
        )
        return "\n".join(lines)


def plan(config: RunConfig | str, data: Path | str, options: PlanConfig | None = None, **changes: Any) -> RunPlan:
    """Time a few steps of every stage on ``data`` and predict the whole run.

    Args:
        config: a run's settings, or the name of a preset or a TOML file.
        options: what :class:`~unpaired.config.PlanConfig` lists; ``changes`` are single ones of them, as in
            ``memory=8``.

    Raises:
        ConfigError, DataError, WeightsError: as training would be refused.
    """
    options = PlanConfig.of(options, changes)
    fixed = settings_from(options.pretrained)[1] if options.pretrained is not None else {}
    run = config if isinstance(config, RunConfig) else None
    if run is None:
        run = training_run.resolve(preset=str(config), settings={**fixed, **options.settings}, steps=options.steps)
    device, precision = machine.choose(run.training)
    free = _memory_there(device)
    there = free if options.memory is None else round(options.memory * GIB)
    run = run.model_copy(update={"training": run.training.model_copy(update={"precision": precision})})
    machine.set_for_training(precision, device)
    found = RunPlan(str(device), precision, there)
    tree = find(data, least=min(2, method_class(run.method).domain_count[0]))
    pool, extras = training_run.open_data(tree, run)
    with tempfile.TemporaryDirectory(prefix="unpaired-plan-") as scratch, _bounded(device, round(free * MARGIN)):
        try:
            stages, other = _tried(run, training_run.build(run, tree.domains), pool, extras, Path(scratch))
        except (MemoryError, RuntimeError) as error:  # torch's own allocator on a CPU or a GPU, and oneDNN's
            words = ("allocate memory", "could not create a", "out of memory")
            if isinstance(error, RuntimeError) and not any(w in str(error) for w in words):
                raise
            return found
    return replace(found, peak=_peak(device), stages=stages, other_seconds=other)


def _tried(
    run: RunConfig, method: Method, pool: Pool, extras: Extras, folder: Path
) -> tuple[tuple[StageCost, ...], float]:
    """Step through every stage; what each costs, and the seconds of all else."""
    began = time.perf_counter()
    (folder / "checkpoints").mkdir()
    device, settings = machine.choose_device(run.training.device), run.training
    trainer = Trainer(method, pool, run, folder, extras, device=device)
    trainer.prepare()
    once, stages, total = time.perf_counter() - began, list[StageCost](), trainer.state.plan.total
    for stage in trainer.state.plan.stages:
        seconds, extra = _stepped(trainer, stage, sum(s.steps for s in stages))
        stages.append(StageCost(stage.name, stage.steps, stage.batch_size, seconds))
        once += extra
    log = RunLog(folder / "log.jsonl", 0, tensorboard=None)
    first, sheet = (_timed(device, lambda: trainer.sample(log)) for _ in range(2))
    save, look = _timed(device, trainer.save), _timed(device, trainer.validate)
    log.close()
    looks = sum(extras.validator.due(step, total) for step in range(1, total + 1)) if extras.validator else 0
    often = (2 + (total - 1) // settings.checkpoint_every) * save + (2 + (total - 1) // settings.sample_every) * sheet
    return tuple(stages), once + max(0.0, first - sheet) + often + looks * look


def _stepped(trainer: Trainer, stage: Stage, first: int) -> tuple[float, float]:
    """Step a stage that begins after step ``first``: the seconds of a step, and those that it takes once."""
    period = min(math.lcm(*(update.every for update in stage.updates)), stage.steps)
    once = _timed(trainer.device, stage.start) if stage.start is not None else 0.0
    trainer.modes(stage)
    trainer.state.step = first
    batches = trainer.batches()  # with the loader processes that the run will have

    def one_round() -> None:
        nonlocal batches
        if trainer.state.step + period > first + stage.steps:  # a stage of a few steps: its first ones again
            trainer.state.step = first
            batches = trainer.batches()
        for batch in itertools.islice(batches, period):
            trainer.state.step += 1
            trainer.run_step(stage, first, batch)

    warm, rounds = _timed(trainer.device, one_round), list[float]()
    while len(rounds) < ROUNDS and sum(rounds) < SECONDS:
        rounds.append(_timed(trainer.device, one_round))
    usual = statistics.median(rounds)
    return usual / period, once + max(0.0, warm - usual)


def _timed(device: torch.device, work: Callable[[], object]) -> float:
    """Return the seconds of ``work``."""
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


@contextlib.contextmanager
def _bounded(device: torch.device, size: int) -> Iterator[None]:
    """Let this process map at most ``size`` bytes for its data inside, on a CPU: what asks for more gets
    MemoryError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if device.type == "cpu":
        resource.setrlimit(resource.RLIMIT_DATA, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _memory_there(device: torch.device) -> int:
    """Return the bytes that the run could have."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device.index or 0)[0])
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file, read in (
        ("/proc/meminfo", lambda text: 1024 * int(text.split("MemAvailable:")[1].split()[0])),
        ("/sys/fs/cgroup/memory.max", int),  # containers
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", int),
    ):
        with contextlib.suppress(OSError, ValueError, IndexError):
            there = min(there, read(Path(file).read_text("ascii")))
    return there


def _peak(device: torch.device) -> int:
    """Return bytes: what PyTorch reserved on the GPU, else this process's largest resident size."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    try:  # getrusage would count the parent's size too: it is kept over fork and exec
        return 1024 * int(Path("/proc/self/status").read_text("ascii").split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if os.uname().sysname == "Darwin" else 1024)
