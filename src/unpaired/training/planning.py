"""What a run would take on this machine, from a few timed steps of it: ``unpaired plan``.

Every stage is built and stepped as the run would do it (``planning_trial``), on the same images, in a process of its own, so that
its peak memory is that of such a run and a setting that does not fit harms nothing. Nothing is kept of what was trained.
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
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from unpaired import machine
from unpaired._memory import keep_memory, memory_is_kept
from unpaired.config import RunConfig
from unpaired.data.folders import DataTree, find
from unpaired.errors import ConfigError, UnpairedError
from unpaired.machine import Ranks
from unpaired.methods import method_class, run_from
from unpaired.methods.base import Stage
from unpaired.training import loop
from unpaired.training import run as training_run
from unpaired.training.log import RunLog
from unpaired.translate.translator import load

GIB = 2**30
MARGIN = 1.25
"""A trial may reserve this times the memory that is there before it is stopped: less would stop runs that fit, since a
process reserves more than it uses."""
SMALLEST = 32
"""Pixels below which a smaller crop is not proposed."""


@dataclass(frozen=True)
class StageCost:
    """One stage. ``seconds`` a step (data included), ``gflop`` a step (2 for a multiply-add, convolutions and products alone)."""

    name: str
    steps: int
    batch_size: int
    seconds: float
    gflop: float


@dataclass(frozen=True)
class Cost:
    """A measured configuration. Times in seconds, memory in bytes (of the GPU where there is one, else of the process)."""

    settings: dict[str, Any]
    """What differs from the configuration asked for."""
    stages: tuple[StageCost, ...]
    save_seconds: float
    sheet_seconds: float
    look_seconds: float
    """At held-out images, where ``training.validate_every`` asks for it."""
    start_seconds: float
    """What is done once: opening, building, pretrained weights, starts of stages, what first steps take more than later ones."""
    peak: int
    saves: int
    sheets: int
    looks: int

    @property
    def total_seconds(self) -> float:
        """Of the whole run."""
        return self.other_seconds + sum(stage.steps * stage.seconds for stage in self.stages)

    @property
    def other_seconds(self) -> float:
        """Beside the steps: checkpoints, sample sheets, looks at held-out images, and what is done once."""
        repeated = self.saves * self.save_seconds + self.sheets * self.sheet_seconds + self.looks * self.look_seconds
        return self.start_seconds + repeated


@dataclass(frozen=True)
class RunPlan:
    """What was asked for, whether it fits into ``memory`` bytes, and, if not, the first change found that does."""

    device: str
    precision: str
    memory: int
    asked: Cost | None
    """None: it did not even start within the memory."""
    proposal: Cost | None = None

    @property
    def fits(self) -> bool:
        """Whether the configuration asked for stays within the memory."""
        return self.asked is not None and self.asked.peak <= self.memory

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the totals."""
        values = asdict(self) | {"fits": self.fits}
        for key in ("asked", "proposal"):
            cost = getattr(self, key)
            if cost is not None:
                values[key]["total_seconds"] = cost.total_seconds
        return values

    def text(self) -> str:
        """For a person."""
        lines = [f"{self.device}, {self.precision}; {self.memory / GIB:.1f} GiB of memory free"]
        if self.asked is not None:
            lines += _described(self.asked)
        if self.fits:
            return "\n".join([*lines, "fits"])
        lines.append("does not fit" if self.asked is not None else "does not fit: memory ran out in the first steps")
        if self.proposal is None:
            return "\n".join([*lines, "no smaller batch part or crop was found that does; use a smaller network"])
        change = " ".join(f"--set {key}={value}" for key, value in self.proposal.settings.items())
        lines.append(f"this would fit: {change}")
        if "training.accumulate" in self.proposal.settings:
            lines.append("(batches are then computed in parts; a smaller batch would fit as well, and learn otherwise)")
        return "\n".join([*lines, *_described(self.proposal)])


def _described(cost: Cost) -> list[str]:
    lines = [f"{'stage':<16}{'steps':>10}{'batch':>7}{'ms a step':>12}{'GFLOP':>10}{'time':>12}"]
    for s in cost.stages:
        took = duration(s.steps * s.seconds)
        lines.append(f"{s.name:<16}{s.steps:>10,}{s.batch_size:>7}{1e3 * s.seconds:>12,.1f}{s.gflop:>10,.1f}{took:>12}")
    looks = f", {cost.looks} looks at held-out images" if cost.looks else ""
    lines.append(f"start, {cost.saves} checkpoints, {cost.sheets} sample sheets{looks}: {duration(cost.other_seconds)}")
    lines.append(f"in all {duration(cost.total_seconds)}, peak memory {cost.peak / GIB:.2f} GiB")
    return lines


def duration(seconds: float) -> str:
    """``42 s``, ``3 min``, ``2 h 05 min``, ``3 d 4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


class _NoModules:
    """In place of the counter's own tracker of modules, which cannot follow a gradient of a gradient; only the total counts."""

    parents = ("Global",)

    def __enter__(self) -> None:
        """Nothing to set up."""

    def __exit__(self, *_: object) -> None:
        """Nothing to undo."""


def flop_counter() -> Any:
    """A context in which PyTorch counts floating point operations, gradient penalties included; ``get_total_flops()`` is the sum."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    return counter


def plan(
    config: RunConfig | str,
    data: Path | str,
    *,
    settings: Mapping[str, Any] | None = None,
    steps: int | None = None,
    pretrained: Path | str | None = None,
    memory: float | None = None,
) -> RunPlan:
    """Time a few steps of every stage on ``data`` and predict the whole run.

    Args:
        config: a run's settings, or the name of a preset or a TOML file.
        settings, steps, pretrained: as for :func:`unpaired.train`.
        memory: GiB that the run may use; what the machine (or its GPU) has free when None.

    Raises:
        ConfigError, DataError, WeightsError: as training would be refused.
    """
    from unpaired import machine
    from unpaired.training import pretrained as training_pretrained

    run = (
        config if isinstance(config, RunConfig) else training_run.resolve(preset=config, settings=settings, steps=steps)
    )
    if pretrained is not None:
        fixed = training_pretrained.settings_from(pretrained)[1]
        run = _changed(run, {k: v for k, v in fixed.items() if k not in (settings or {})})
    device, precision = machine.choose(run.training)
    if memory is not None and memory <= 0:
        raise ConfigError(f"memory = {memory}: GiB that the run may use, above 0")
    there = _memory_there(device.type, device.index or 0) if memory is None else round(memory * GIB)
    asked = _tried(run, data, {}, there)
    found = RunPlan(str(device), precision, there, asked)
    if found.fits:
        return found
    for change in _smaller(run, data, bf16=precision == "fp32" and machine.has_bf16(device)):
        cost = _tried(run, data, change, there)
        if cost is not None and cost.peak <= there:
            return replace(found, proposal=cost)
    return found


def _smaller(run: RunConfig, data: Path | str, *, bf16: bool) -> Iterator[dict[str, Any]]:
    """Changes to try, the least harmful first: parts of a batch, then ``bf16``, then smaller crops, each with all before it. A smaller
    batch would take no less memory than a batch in parts."""
    from unpaired.data.folders import find
    from unpaired.methods import method_class

    tree = find(data, least=min(2, method_class(run.method).min_domains))
    largest = max(stage.batch_size for stage in training_run.build(run, tree.domains).stages())
    parts, change = 2 * run.training.accumulate, dict[str, Any]()
    while parts <= largest:
        change = {"training.accumulate": parts}
        yield change
        parts *= 2
    if bf16:
        change = {**change, "training.precision": "bf16"}
        yield change
    if getattr(run.model, "pretrained", ""):
        return  # the GAN has one size
    ratio = (run.data.resize or run.data.size) / run.data.size
    size = run.data.size // 2
    while size >= SMALLEST:
        smaller = {"data.size": size, "data.resize": math.ceil(size * ratio)}
        try:
            training_run.build(_changed(run, smaller), tree.domains)
        except ConfigError:
            return
        yield {**change, **smaller}
        size //= 2


def _changed(run: RunConfig, change: Mapping[str, Any]) -> RunConfig:
    values = run.written()
    for key, value in change.items():
        section, name = key.split(".")
        values[section] = {**values[section], name: value}
    return run_from(values)


def _tried(run: RunConfig, data: Path | str, change: dict[str, Any], memory: int) -> Cost | None:
    """The cost of ``run`` with ``change``, measured in a process of its own; None when memory ran out there."""
    changed = _changed(run, change)
    bound = round(memory * MARGIN)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            cost: Cost | None = pool.submit(_measured, changed.written(), str(data), bound, memory_is_kept()).result()
        except BrokenProcessPool:  # the kernel killed it
            return None
    return None if cost is None else replace(cost, settings=change)


def _measured(values: dict[str, Any], data: str, bound: int, keep: bool) -> Cost | None:
    """In the child: step through every stage, with the allocator of the parent. None when memory runs out."""
    if keep:
        keep_memory()
    import torch

    run = run_from(values)
    cuda = torch.cuda.is_available() and run.training.device != "cpu"
    if not cuda:
        resource.setrlimit(resource.RLIMIT_DATA, (bound, resource.RLIM_INFINITY))
    try:
        return measure(run, data)
    except UnpairedError:
        raise
    except (MemoryError, torch.cuda.OutOfMemoryError):
        return None
    except RuntimeError as error:  # torch's own allocator on a CPU
        if "allocate memory" not in str(error):
            raise
        return None


def _memory_there(kind: str, index: int) -> int:
    """Bytes that a new process could have."""
    if kind == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(index)[0])
    try:
        text = Path("/proc/meminfo").read_text("ascii")
        there = 1024 * int(text.split("MemAvailable:")[1].split()[0])
    except (OSError, IndexError):
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):  # containers
        try:
            there = min(there, int(Path(limit).read_text("ascii")))
        except (OSError, ValueError):
            continue
    return there


# ----------------------------------------------------------------------------------------------------
# A run tried in this process: every stage stepped as the run would do it, on its images, and what else a run does timed once.
#
# For the child process of ``planning``. What a run does once is counted once: opening the data (which an earlier command has looked
# at and cached by then, if only the plan itself), building, pretrained weights, the start of each stage, what first steps and first
# sheets take more than later ones, and reading the finished model. Importing the package is left out.

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
    device, precision = machine.choose(run.training)
    run = run.model_copy(update={"training": run.training.model_copy(update={"precision": precision})})
    machine.set_for_training(precision, device)
    tree = find(data, least=min(2, method_class(run.method).min_domains))
    training_run.open_data(tree, run)
    with tempfile.TemporaryDirectory(prefix="unpaired-plan-") as scratch:
        return _Trial(run, Path(scratch), device, clock).cost(lambda: _open_again(tree, run), tree.domains)


def _open_again(tree: DataTree, run: RunConfig) -> training_run.OpenData:
    """The data once more, without saying again which images are left out."""
    log = logging.getLogger("unpaired")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        return training_run.open_data(tree, run)
    finally:
        log.setLevel(level)


class _Trial:
    """One configuration, and the clock."""

    def __init__(self, run: RunConfig, folder: Path, device: torch.device, clock: Clock) -> None:
        self.run, self.folder, self.device, self.clock = run, folder, device, clock

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

    def cost(self, open_data: Callable[[], training_run.OpenData], domains: tuple[str, ...]) -> Cost:
        """Of the whole run."""
        began = self.clock()
        opened = open_data()
        (self.folder / "checkpoints").mkdir()
        trainer = loop.Trainer(
            training_run.build(self.run, domains), opened.pool, self.run, self.folder, held_out=opened.held_out, header_extra={},
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

    def stage(self, trainer: loop.Trainer, stage: Stage, first: int) -> tuple[StageCost, float]:
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
        gflop = counter.get_total_flops() / period / 1e9
        cost = StageCost(stage.name, stage.steps, stage.batch_size, usual / period, gflop)
        return cost, once + max(0.0, warm - usual)


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
