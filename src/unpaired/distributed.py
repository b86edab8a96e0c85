"""Ranks: one process a GPU (or, for tests, several gloo processes on a CPU), started by ``torchrun``.

Gradients are averaged with one all-reduce an update instead of wrapping modules in DistributedDataParallel: penalties with a
second backward, spectral norm and several players then need no special care (docs/adr/0003-no-ddp-wrapper.md).
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from unpaired.errors import ConfigError

TIMEOUT = datetime.timedelta(seconds=float(os.environ.get("UNPAIRED_RANK_TIMEOUT", "600")))
"""How long a rank waits for another: long enough for a slow save on rank 0, short enough to notice a hang."""


@dataclass(frozen=True)
class Ranks:
    """Which process this is. ``world`` is 1 without torchrun."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

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
        dist.all_reduce(flat)
        flat /= self.world
        for p, mean in zip(trained, torch.split(flat, [p.numel() for p in trained]), strict=True):
            p.grad = mean.view_as(p).clone()

    def share_buffers(self, buffers: Iterable[Tensor]) -> None:
        """Give every rank the buffers of rank 0, after each step: a restart then finds what the run would have had."""
        if self.world > 1:
            for buffer in buffers:
                dist.broadcast(buffer, 0)

    def largest(self, value: int, device: torch.device) -> int:
        """The largest ``value`` over all ranks: any rank can ask all to stop at the same step."""
        if self.world == 1:
            return value
        shared = torch.tensor([value], device=device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return int(shared.item())

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            dist.barrier()


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
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Ranks(dist.get_rank(), world, int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        if ours:
            dist.destroy_process_group()
