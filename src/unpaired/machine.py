"""Device and precision: what ``auto`` means, decided in one place."""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous
from torch.overrides import TorchFunctionMode

from unpaired.errors import ConfigError, Interrupted, RankError, UnpairedError

if TYPE_CHECKING:
    from unpaired.config import TrainingConfig


def choose_device(name: str = "auto") -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` -> a device that is there. Raises ConfigError otherwise."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device '{name}': use auto, cpu, cuda or cuda:0") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device '{name}' is not supported: use auto, cpu, cuda or cuda:0")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = device.index if device.index is not None else int(os.environ.get("LOCAL_RANK", "0"))
        if index >= count:
            raise ConfigError(
                f"device '{name}' is not there: this machine has {count} GPUs. Type --device cpu or --device auto"
            )
        device = torch.device("cuda", index)
    return device


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 products run on matrix units or wide vector instructions here, so that autocast pays."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def choose_precision(name: str, device: torch.device) -> str:
    """``auto`` -> ``bf16`` where the hardware has it, else ``fp32``. Raises ConfigError for ``tf32`` on a CPU."""
    if name == "auto":
        return "bf16" if has_bf16(device) else "fp32"
    if name == "tf32" and device.type != "cuda":
        raise ConfigError("training.precision = 'tf32' needs a GPU; this runs on the CPU. Use fp32, bf16 or auto")
    return name


def choose(settings: TrainingConfig) -> tuple[torch.device, str]:
    """Device and precision of a training. Raises ConfigError; called early, too, so that a wrong one is refused before images are read."""
    device = choose_device(settings.device)
    return device, choose_precision(settings.precision, device)


def set_products(precision: str) -> None:
    """TF32 products only when asked for by name; PyTorch would use them for convolutions by default."""
    asked = precision == "tf32"
    # by the older names, too: PyTorch's own compiler still reads them, and they raise where the two disagree
    torch.set_float32_matmul_precision("high" if asked else "highest")
    torch.backends.cudnn.allow_tf32 = asked
    kind = "tf32" if asked else "ieee"
    torch.backends.cuda.matmul.fp32_precision = kind
    torch.backends.cudnn.conv.fp32_precision = kind  # type: ignore[attr-defined]
    torch.backends.cudnn.rnn.fp32_precision = kind  # type: ignore[attr-defined]


def set_for_training(precision: str, device: torch.device) -> None:
    """:func:`set_products`; and on a GPU: it is the current one, since pinned memory takes room on that, and cuDNN tries its
    algorithms for each shape once, since a stage has the same shapes in every step."""
    set_products(precision)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True


def precision_around(device: torch.device) -> str:
    """What products on ``device`` are computed in just here: ``bf16``, ``tf32`` or ``fp32``."""
    if torch.is_autocast_enabled(device.type):
        return "bf16"
    return "tf32" if device.type == "cuda" and torch.backends.cuda.matmul.fp32_precision == "tf32" else "fp32"


@contextlib.contextmanager
def products(precision: str) -> Iterator[None]:
    """Inside, products of fp32 numbers are as ``precision`` has them; after it, as they were asked for before."""
    before = "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "fp32"
    set_products(precision)
    try:
        yield
    finally:
        set_products(before)


def generators(device: torch.device) -> list[torch.Generator]:
    """torch's global generators that code on ``device`` draws from."""
    own = [torch.cuda.default_generators[device.index or 0]] if device.type == "cuda" else []
    return [torch.default_generator, *own]


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """bf16 autocast for ``bf16``, nothing for the others. Parameters stay fp32 in every case. On a GPU :func:`set_products`, too, from
    here on: for the backward pass that follows, and whatever another network has set in between."""
    if device.type == "cuda":
        set_products(precision)
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Networks built inside have shapes and no memory (the meta device), for weights that are assigned afterwards.

    Initial values are not drawn: on the meta device that gives nothing, yet PyTorch would import its compiler for
    ``normal_`` there, at as much time as ``import torch`` takes.
    """
    with torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    """Leaves out what fills a tensor with initial values: ``torch.nn.init``, ``normal_``, ``torch.randn``."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.normal_ or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return (torch.empty if func is torch.randn else func)(*args, **kwargs)


# ----------------------------------------------------------------------------------------------------
# Ranks: one process a GPU (or, for tests, several gloo processes on a CPU), started by ``torchrun``.
#
# Gradients are averaged with one all-reduce an update instead of wrapping modules in DistributedDataParallel: penalties with a
# second backward, spectral norm and several players then need no special care (docs/adr/0003-no-ddp-wrapper.md).

TIMEOUT = datetime.timedelta(seconds=float(os.environ.get("UNPAIRED_RANK_TIMEOUT", "600")))
"""How long a rank waits for another: long enough for a slow save or sample sheets on rank 0. A rank that is killed, raises, freezes or
sticks within a step is noticed much earlier, see ``heartbeat``."""


@dataclass(frozen=True)
class Ranks:
    """Which process this is. ``world`` is 1 without torchrun."""

    rank: int = 0
    world: int = 1
    heart: Heartbeat | None = None
    words: dist.ProcessGroup | None = None
    """The group that moves numbers and objects through main memory (gloo), so that asking the others waits for no GPU; None: the
    default group does."""

    def enter(self, phase: str) -> None:
        """This rank begins a phase of the loop: "data", "step", or another that may take long."""
        if self.heart is not None:
            self.heart.enter(phase)

    def _meeting(self) -> AbstractContextManager[None]:
        return self.heart.meeting() if self.heart is not None else nullcontext()

    @property
    def main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its mean over the ranks; a parameter without one counts as zero."""
        if self.world == 1:
            return
        trained = [p for p in parameters if p.requires_grad]
        for p in trained:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        flat = torch.cat([p.grad.reshape(-1) for p in trained if p.grad is not None])
        with self._meeting():
            dist.all_reduce(flat)
        flat /= self.world
        for p, mean in zip(trained, torch.split(flat, [p.numel() for p in trained]), strict=True):
            assert p.grad is not None
            p.grad.copy_(mean.view_as(p))  # in its own memory format: Adam's fused kernel walks both as they lie

    def share_buffers(self, buffers: Iterable[Tensor]) -> None:
        """Give every rank the buffers of rank 0, after each step: a restart then finds what the run would have had."""
        if self.world == 1:
            return
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for buffer in buffers:
            kinds.setdefault(buffer.dtype, []).append(buffer)
        for same in kinds.values():  # one message a type: there are hundreds of buffers of a few numbers
            flat = torch.cat([buffer.reshape(-1) for buffer in same])
            with self._meeting():
                dist.broadcast(flat, 0)
            if not self.main:
                for buffer, value in zip(same, torch.split(flat, [b.numel() for b in same]), strict=True):
                    buffer.copy_(value.view(buffer.shape))

    def largest(self, value: int) -> int:
        """The largest ``value`` over all ranks: any rank can ask all to stop at the same step."""
        if self.world == 1:
            return value
        shared = torch.tensor([value])
        with self._meeting():
            dist.all_reduce(shared, op=dist.ReduceOp.MAX, group=self.words)
        return int(shared.item())

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.largest(0)

    def from_all(self, mine: Any) -> list[Any]:
        """What each rank gave, in order."""
        if self.world == 1:
            return [mine]
        everyone: list[Any] = [None] * self.world
        with self._meeting():
            dist.all_gather_object(everyone, mine, group=self.words)
        return everyone


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the group that torchrun describes in the environment; a single process needs none."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    missing = [k for k in ("RANK", "MASTER_ADDR", "MASTER_PORT") if k not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE={world} is set but not {', '.join(missing)}: start several processes with torchrun --nproc-per-node {world} "
            "-m unpaired train …, or unset WORLD_SIZE for one"
        )
    if dist.is_initialized():  # by a program around us, which then also watches its processes
        yield Ranks(dist.get_rank(), world, words=_words())
        return
    store, rank, world = next(rendezvous("env://", int(os.environ["RANK"]), world, timeout=TIMEOUT))
    if device.type == "cuda":
        torch.cuda.set_device(device)  # NCCL would take the first GPU, on every rank
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=dist.PrefixStore("group", store),  # type: ignore[attr-defined]
        rank=rank,
        world_size=world,
        timeout=TIMEOUT,
        device_id=device if device.type == "cuda" else None,
    )
    words = _words()
    heart = Heartbeat(dist.PrefixStore("heart", store), rank, world)  # type: ignore[attr-defined]
    cause = ""
    try:
        yield Ranks(rank, world, heart, words)
    except BaseException as error:
        cause = _cause(error)
        raise
    finally:
        heart.leave(cause)
        dist.destroy_process_group()


def _words() -> dist.ProcessGroup | None:
    """For :attr:`Ranks.words`."""
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo", timeout=TIMEOUT)


def _cause(error: BaseException) -> str:
    """One line for the other ranks: what made this one leave."""
    text = (str(error).splitlines() or [""])[0][:500]
    known = isinstance(error, UnpairedError) and not isinstance(error, Interrupted)
    return text if known and text else f"{type(error).__name__}: {text}"


# ----------------------------------------------------------------------------------------------------
# Ranks that notice each other's end: a word every half second beside the collectives, and a judge who acts on silence.
#
# A collective waits for every rank. Without more, a rank that was killed shows on the others as an error of the network library that
# names nobody, one that is frozen as a wait of many minutes, and one that raised as both. So each rank writes into the job's key-value
# store that it lives, in which phase, and, before it leaves, why. From that the others tell which rank ended, and how:
#
# * it **left** with a cause: the cause is passed on;
# * it **ended** without a word (killed, its machine gone): its connection breaks, its words stop;
# * it is **frozen**: its words stop while its connection stays. The judge ends this process, for the main thread waits inside the
#   network library and cannot be woken;
# * it is **stuck** within a step while its words go on: judged against the longest step so far, see ``HUNG_STEPS``.
#
# Whatever else takes long (a save to a slow disk, sample sheets, compiling) has ``distributed.TIMEOUT``.

BEAT_SECONDS = 0.5
SILENT_SECONDS = 15.0
"""A rank that says nothing for so long is dead or frozen: thirty words missed, more than any pause of a garbage collector or swap."""
HUNG_SECONDS = 20.0
HUNG_STEPS = 20
"""A rank is stuck when others wait for its step longer than both: HUNG_SECONDS, and this many times the longest step so far."""
EVIDENCE_SECONDS = 3.0
"""How long a rank whose connection broke waits for the reason: a few beats."""
LINGER_SECONDS = 5.0
"""How long a rank that leaves with a cause stays for the others to read it; the first rank usually holds the store."""


class Heartbeat:
    """The words of this rank and what it hears of the others. ``phase`` is set by the training loop."""

    def __init__(self, store: Any, rank: int, world: int) -> None:
        self.rank, self.others = rank, [r for r in range(world) if r != rank]
        self._store = store.clone()
        self._store.set_timeout(datetime.timedelta(seconds=SILENT_SECONDS))
        self.phase, self._phase_began, self.longest_step = "start", time.monotonic(), 0.0
        self._waiting: float | None = None
        now = time.monotonic()
        self._heard = dict.fromkeys(self.others, now)
        self._words = dict.fromkeys(self.others, "")
        self._left: dict[int, str] = {}
        self._talked = now
        self._store_lost = False
        self._cause: str | None = None
        self._said = threading.Event()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._talk, self._judge)]
        for thread in self._threads:
            thread.start()

    # ---- called by the main thread ---------------------------------------------------------------------------------

    def enter(self, phase: str) -> None:
        """This rank begins ``phase``; the time of a "step" is remembered when it ends."""
        now = time.monotonic()
        if self.phase == "step":
            self.longest_step = max(self.longest_step, now - self._phase_began)
        self.phase, self._phase_began = phase, now

    @contextlib.contextmanager
    def meeting(self) -> Iterator[None]:
        """Around a collective. Raises RankError, with rank and cause, where it fails."""
        self._waiting = time.monotonic()
        try:
            yield
        except RuntimeError as error:  # gloo and NCCL: connection closed, or timed out
            waited = time.monotonic() - self._waiting
            raise RankError(self._explain(str(error), waited)) from error
        finally:
            self._waiting = None

    def leave(self, cause: str) -> None:
        """Say why this rank leaves ("" for: it is done), wait until the others have read a cause, and fall silent."""
        self._cause = cause
        self._said.wait(SILENT_SECONDS if not self._store_lost else 0)
        deadline = time.monotonic() + (LINGER_SECONDS if cause and not self._store_lost else 0)
        while time.monotonic() < deadline and not self._all_know():
            time.sleep(BEAT_SECONDS / 5)
        self._stop.set()
        for thread in self._threads:  # a thread within the network library would abort the interpreter's end
            thread.join(2 * SILENT_SECONDS)

    # ---- the two threads -------------------------------------------------------------------------------------------

    def _talk(self) -> None:
        """Say that this rank lives, and listen. May block when the store does not answer."""
        beat = 0
        try:
            while not self._stop.is_set():
                beat += 1
                if self._cause is not None and not self._said.is_set():
                    self._store.set(f"left/{self.rank}", self._cause)
                    self._said.set()
                self._store.set(f"beat/{self.rank}", f"{beat} {'wait' if self._waiting else self.phase}")
                for other in self.others:
                    self._listen(other)
                self._talked = time.monotonic()
                self._stop.wait(BEAT_SECONDS)
        except Exception:  # the store's host is gone; the judge and the main thread draw the conclusion
            self._store_lost = True
            self._said.set()

    def _listen(self, other: int) -> None:
        if self._store.check([f"beat/{other}"]):
            words = self._store.get(f"beat/{other}").decode()
            if words != self._words[other]:
                self._words[other], self._heard[other] = words, time.monotonic()
        if other not in self._left and self._store.check([f"left/{other}"]):
            self._left[other] = self._store.get(f"left/{other}").decode(errors="replace")
            self._store.set(f"seen/{other}/{self.rank}", "1")

    def _judge(self) -> None:
        """End the process when the main thread waits for a rank that will not come."""
        while not self._stop.wait(BEAT_SECONDS):
            since = self._waiting
            if since is None:
                continue
            now = time.monotonic()
            if self._store_lost or now - self._talked > SILENT_SECONDS:
                if now - max(since, self._talked) > SILENT_SECONDS:
                    self._end(f"{self._host()} does not answer any more")
                continue
            silent = self._silent(SILENT_SECONDS)
            if silent and now - since > BEAT_SECONDS:
                self._end(f"{_ranks(silent)} has not been heard for {SILENT_SECONDS:.0f} s: frozen, or cut off")
            limit = max(HUNG_SECONDS, HUNG_STEPS * self.longest_step)
            stuck = [r for r in self.others if r not in self._left and self._words[r].endswith(" step")]
            if stuck and self.phase == "step" and self.longest_step and now - since > limit:
                self._end(f"{_ranks(stuck)} is stuck within a step: waited for {now - since:.0f} s")

    # ---- conclusions -----------------------------------------------------------------------------------------------

    def _explain(self, error: str, waited: float) -> str:
        """Which rank ended and how, from what was heard; ``error`` is the network library's own text."""
        deadline = time.monotonic() + EVIDENCE_SECONDS
        while time.monotonic() < deadline:
            causes = {r: cause for r, cause in sorted(self._left.items()) if cause}
            if causes:
                return _advice("; ".join(f"rank {r} stopped: {cause}" for r, cause in causes.items()))
            if self._store_lost:
                return _advice(f"{self._host()} ended without a word (killed, or its machine is gone)")
            silent = self._silent(EVIDENCE_SECONDS / 2)
            if silent:
                return _advice(f"{_ranks(silent)} ended without a word (killed, or its machine is gone)")
            time.sleep(BEAT_SECONDS / 5)
        phases = ", ".join(f"rank {r} in phase '{self._words[r].split(' ')[-1]}'" for r in self.others)
        return _advice(f"a rank did not come within {waited:.0f} s ({phases}; {error.splitlines()[0][:160]})")

    def _silent(self, seconds: float) -> list[int]:
        """The ranks that have not left and have not been heard for so long."""
        now = time.monotonic()
        return [r for r in self.others if r not in self._left and now - self._heard[r] > seconds]

    def _host(self) -> str:
        agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return "the launcher" if agent or self.rank == 0 else "rank 0"

    def _all_know(self) -> bool:
        try:
            gone = {*self._left, *self._silent(EVIDENCE_SECONDS / 2)}
            return all(r in gone or self._store.check([f"seen/{self.rank}/{r}"]) for r in self.others)
        except Exception:
            return True

    def _end(self, what: str) -> None:
        if not self._stop.is_set():
            print(f"error: {_advice(what)}", file=sys.stderr, flush=True)
            os._exit(RankError.exit_code)


def _ranks(numbers: list[int]) -> str:
    return ("ranks " if len(numbers) > 1 else "rank ") + ", ".join(map(str, numbers))


def _advice(what: str) -> str:
    return f"{what}. The job has ended; the same command goes on from the last checkpoint"
