"""Ranks: one process a GPU (or, for tests, several gloo processes on a CPU), started by ``torchrun``.

Gradients are averaged with one all-reduce an update instead of wrapping modules in DistributedDataParallel: penalties with a
second backward, spectral norm and several players then need no special care (docs/adr/0003-no-ddp-wrapper.md).
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from unpaired.errors import ConfigError, Interrupted, UnpairedError
from unpaired.heartbeat import Heartbeat

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
