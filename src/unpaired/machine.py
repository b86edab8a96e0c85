"""Device and precision: what ``auto`` means, decided in one place."""

from __future__ import annotations

import contextlib
import datetime
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
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
    """Device and precision of a training. Raises ConfigError; called early, too, so that a wrong one is refused before
    images are read."""
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
    """:func:`set_products`; and on a GPU: it is the current one, since pinned memory takes room on that, and cuDNN
    tries its algorithms for each shape once, since a stage has the same shapes in every step."""
    set_products(precision)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True


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
    """bf16 autocast for ``bf16``, nothing for the others. Parameters stay fp32 in every case. On a GPU
    :func:`set_products`, too, from here on: for the backward pass that follows, and whatever another network has set in
    between."""
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
# Gradients are averaged with one all-reduce an update instead of wrapping modules in DistributedDataParallel: penalties
# with a second backward, spectral norm and several players then need no special care (docs/adr/0003-no-ddp-wrapper.md).
#
# torchrun's agent ends a job of which a process ended. What is added here is the reason, in words: a rank that raises
# leaves it in the job's key-value store, and one whose collective fails or times out reads it there, or names those
# that say nothing any more.

TIMEOUT = datetime.timedelta(seconds=float(os.environ.get("UNPAIRED_RANK_TIMEOUT", "600")))
"""How long a rank waits for another: long enough for a slow save or sample sheets on rank 0."""
EVIDENCE_SECONDS = 3.0
"""How long a rank whose collective failed waits for the reason."""
LINGER_SECONDS = 5.0
"""How long a rank that leaves with a reason stays for the others to read it; the first rank usually holds the store."""


@dataclass(frozen=True)
class Ranks:
    """Which process this is. ``world`` is 1 without torchrun."""

    rank: int = 0
    world: int = 1
    words: dist.ProcessGroup | None = None
    """The group that moves numbers and objects through main memory (gloo), so that asking the others waits for no GPU;
    None: the default group does."""
    store: Any = None
    """Where ranks leave reasons; None where a program around this one has made the group, and watches its processes."""

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
        """Return the largest ``value`` over all ranks: any rank can ask all to stop at the same step."""
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
        """Return what each rank gave, in order."""
        if self.world == 1:
            return [mine]
        everyone: list[Any] = [None] * self.world
        with self._meeting():
            dist.all_gather_object(everyone, mine, group=self.words)
        return everyone

    @contextlib.contextmanager
    def _meeting(self) -> Iterator[None]:
        """Around a collective. Raises RankError, with rank and cause, where it fails."""
        try:
            yield
        except RuntimeError as error:  # gloo and NCCL: connection closed, or timed out
            cause = [f"a rank ended or did not come ({str(error).splitlines()[0][:160]})"]
            # beside the main thread: a store whose host is frozen never answers
            reading = threading.Thread(target=self._read_cause, args=(cause,), daemon=True)
            reading.start()
            reading.join(EVIDENCE_SECONDS + LINGER_SECONDS)
            gone = "rank 0 ended without a word (killed, frozen, or its machine is gone)" if self.rank else cause[0]
            why = gone if reading.is_alive() else cause[-1]
            raise RankError(f"{why}. The job has ended; the same command goes on from the last checkpoint") from error

    def _read_cause(self, cause: list[str]) -> None:
        """Append to ``cause`` which rank ended and how, as far as the store tells."""
        if self.store is None:
            return
        try:
            self.store.set(f"here/{self.rank}", "")
            left = self._others(("left",), EVIDENCE_SECONDS, enough=1)
            told = "; ".join(f"rank {r} stopped: {self.store.get(f'left/{r}').decode()}" for r in left)
            silent = sorted({*range(self.world)} - {self.rank, *self._others(("here",))})
            self.store.set(f"read/{self.rank}", "")
        except RuntimeError:  # the store went down with its host, the first rank or the launcher
            told, silent = "", [0] * (self.rank > 0)
        if silent and not told:
            told = f"rank {', '.join(map(str, silent))} ended without a word (killed, frozen, or its machine is gone)"
        cause.extend([told] if told else [])

    def _others(self, kinds: Sequence[str], seconds: float = 0.0, enough: int | None = None) -> list[int]:
        """Return the other ranks with a word of one of ``kinds`` in the store: after ``seconds``, or when there are
        ``enough`` (all) of them."""
        deadline, others = time.monotonic() + seconds, [r for r in range(self.world) if r != self.rank]
        while True:
            found = [r for r in others if any(self.store.check([f"{kind}/{r}"]) for kind in kinds)]
            if time.monotonic() >= deadline or len(found) >= (len(others) if enough is None else enough):
                return found
            time.sleep(0.1)

    def leave(self, error: BaseException) -> None:
        """Break the connections; who is the cause says so, and stays until the others have read it or leave, too."""
        mine = self.store is not None and not isinstance(error, RankError)
        with contextlib.suppress(RuntimeError):  # the store is gone, and so are the others
            if mine:
                text = (str(error).splitlines() or [""])[0][:500]
                known = isinstance(error, UnpairedError) and not isinstance(error, Interrupted)
                self.store.set(f"left/{self.rank}", text if known and text else f"{type(error).__name__}: {text}")
        dist.destroy_process_group()
        with contextlib.suppress(RuntimeError):
            if mine or (self.store is not None and self.main):
                self._others(("read", "left"), LINGER_SECONDS)


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the group that torchrun describes in the environment; a single process needs none."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    missing = [k for k in ("RANK", "MASTER_ADDR", "MASTER_PORT") if k not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE={world} is set but not {', '.join(missing)}: start several processes with torchrun "
            f"--nproc-per-node {world} -m unpaired train …, or unset WORLD_SIZE for one"
        )
    if dist.is_initialized():
        yield Ranks(dist.get_rank(), world, _words())
        return
    # before there is a group: default arguments there would keep its connections open
    import torch.distributed.nn.functional

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
    said = store.clone()
    said.set_timeout(datetime.timedelta(seconds=LINGER_SECONDS))
    ranks = Ranks(rank, world, _words(), dist.PrefixStore("left", said))  # type: ignore[attr-defined]
    try:
        yield ranks
    except BaseException as error:
        ranks.leave(error)
        raise
    dist.destroy_process_group()


def _words() -> dist.ProcessGroup | None:
    """For :attr:`Ranks.words`."""
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo", timeout=TIMEOUT)
