"""Adaptive weight induction (Yang et al., Show, Attend and Translate, arXiv 1806.06195, section 2): a weight that finds itself."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


class WeightInduction(nn.Module):
    """Adaptive weight induction: λ starts at 0 and rises until the adversarial loss passes a threshold, then stays.

    In train mode each call with the newest loss counts one step. After ``warmup`` steps, every ``every`` steps, a running
    average of the loss is looked at: λ rises by ``rise`` while it is on the good side of ``threshold`` and waits while it
    is not; ``patience`` looks in a row beyond it stop λ for good. So neither a noisy step nor a single spike stops it. With
    ``margin``, the threshold is at least that far from the average at the end of the warm-up, when λ was still 0: a
    discriminator that is strong anyway does not keep λ at 0.

    λ is counted in units of 1 / d, where d is the mean of what :meth:`measure` was given in the warm-up; without any, of 1.
    In eval mode λ is as it is. All state is in buffers, and nothing leaves the GPU.
    """

    level: Tensor
    unit: Tensor
    average: Tensor
    baseline: Tensor
    seen: Tensor
    measured: Tensor
    beyond: Tensor
    stopped: Tensor

    def __init__(
        self,
        *,
        threshold: float,
        rise: float,
        every: int,
        largest: float = float("inf"),
        warmup: int = 0,
        patience: int = 3,
        smoothing: float = 0.99,
        margin: float | None = None,
        direction: Literal["above", "below"] = "above",
    ) -> None:
        super().__init__()
        self.threshold, self.rise, self.every, self.largest = threshold, rise, every, largest
        self.warmup, self.patience, self.smoothing, self.margin = warmup, patience, smoothing, margin
        self.direction = direction
        for name in ("level", "average", "baseline"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("unit", torch.ones(()))
        for name in ("seen", "measured", "beyond", "stopped"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))

    @property
    def weight(self) -> Tensor:
        """λ, a detached scalar."""
        return self.level / self.unit

    @torch.no_grad()
    def measure(self, distance: Tensor) -> None:
        """The newest l_reg: in the warm-up (once at least) its mean becomes the unit."""
        if self.training:
            wanted = self.measured < max(self.warmup, 1)
            self.measured += wanted
            share = wanted / self.measured.clamp(min=1)  # a running mean, then nothing
            self.unit.copy_(torch.lerp(self.unit, distance.detach().float().clamp(min=1e-8), share.float()))

    @torch.no_grad()
    def forward(self, loss: Tensor) -> Tensor:
        """The newest loss, a scalar -> λ, a detached scalar."""
        if not self.training:
            return self.weight
        self.seen += 1
        # a plain mean at first, so that the average does not hang on its first value
        self.average.lerp_(loss.detach().float(), torch.clamp(1 / self.seen, min=1 - self.smoothing))
        self.baseline.copy_(torch.where(self.seen <= max(self.warmup, 1), self.average, self.baseline))
        look = (self.seen > self.warmup) & ((self.seen - self.warmup) % self.every == 0)
        sign = 1 if self.direction == "above" else -1  # "below" is "above" for the negative loss
        limit = torch.full_like(self.average, sign * self.threshold)
        if self.margin is not None:
            limit = torch.maximum(limit, sign * self.baseline + self.margin)
        over = sign * self.average > limit
        self.beyond.copy_(torch.where(look, torch.where(over, self.beyond + 1, 0), self.beyond))
        self.stopped.copy_(torch.maximum(self.stopped, (self.beyond >= self.patience).long()))
        up = look & ~over & (self.stopped == 0)
        self.level.copy_(torch.where(up, (self.level + self.rise).clamp(max=self.largest), self.level))
        return self.weight
