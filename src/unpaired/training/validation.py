"""Looks at a training while it runs: distances on images held out from the training split, and the best checkpoint by
them.

The test split takes no part: it is for ``unpaired evaluate`` alone. What is kept: ``RUN/best/model.safetensors`` (its
header's ``extra.validation`` says step, criterion and value) and ``RUN/best/best.json`` with the values of all looks,
best and last.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unpaired import checkpoint
from unpaired.config import TrainingConfig
from unpaired.data.images import to_tensor, to_uint8
from unpaired.data.sampling import Pool
from unpaired.errors import CheckpointError, NotComparableError
from unpaired.evaluation.distances import gaussian_distance, kernel_distance
from unpaired.evaluation.features import Backbone, figure_name, translate
from unpaired.evaluation.inputs import Images, plan
from unpaired.machine import Ranks
from unpaired.methods.base import Method
from unpaired.translate.translator import Translator

FOLDER = "best"
SUMMARY = "best.json"
BATCH = 16


def summary(run_dir: Path | str) -> str:
    """One line about best and last of a run; empty where nothing was looked at."""
    try:
        found = json.loads((Path(run_dir) / FOLDER / SUMMARY).read_text(encoding="utf-8"))
        last = found["last"]
        return (
            f"best by validation ({found['criterion']}): step {found['step']:,} with {found['value']:.4g}, kept in "
            f"{Path(run_dir) / FOLDER}; last: step {last['step']:,} with {last['value']:.4g}"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return ""


class Validator:
    """Distances of a method on held-out images, at any step; the same images each time."""

    def __init__(self, pool: Pool, backbone: Backbone, settings: TrainingConfig, seed: int) -> None:
        self.pool, self.backbone, self.settings, self.seed = pool, backbone, settings, seed
        self.names = figure_name("FD", backbone.name), figure_name("KD", backbone.name)
        self.history: list[tuple[int, float]] = []
        self.best: tuple[int, float] | None = None
        self._real: dict[str, Tensor] = {}

    @property
    def criterion(self) -> str:
        """What the best checkpoint is chosen by; lower is better."""
        return f"mean {self.names[0]} over directions, {self._sizes()} held-out training images"

    def _sizes(self) -> str:
        return " + ".join(str(self.pool.count(d)) for d in self.pool.domains[:8]) + (
            " + …" if len(self.pool.domains) > 8 else ""
        )

    def due(self, step: int, total: int) -> bool:
        """Whether step ``step`` is looked at: every N-th, and the last."""
        every = self.settings.validate_every
        return every is not None and (step % every == 0 or step == total)

    def look(self, method: Method, device: torch.device, precision: str) -> dict[str, float]:
        """Return ``validation/…`` values for the log; without the distances that cannot be compared. Leaves the method
        in eval()."""
        translator = Translator(method, {}, device=device, precision=precision)
        images = Images(self.pool, method.image_size, BATCH, None, self.seed)
        tasks, _ = plan(images, method.directions, "auto")
        values: dict[str, float] = {}
        found: list[float] = []
        for task in tasks:
            if task.target not in self._real:
                self._real[task.target] = self._features(images, task.target)
            parts = []
            for places, source, pixels in images.batches(task.items, Ranks()):
                y = translate(translator, to_tensor(pixels), source, task.target, self.seed, places).cpu()
                rounded = to_tensor(to_uint8(torch.nan_to_num(y)))
                parts.append(
                    self.backbone(rounded).masked_fill(~torch.isfinite(y).all(3).all(2).all(1)[:, None], math.nan)
                )
            generated, real = torch.cat(parts), self._real[task.target]
            where = f"{task.source}->{task.target}"
            try:
                distances = gaussian_distance(generated, real), kernel_distance(generated, real, seed=self.seed).mean
            except NotComparableError:
                continue
            values |= {f"validation/{n}/{where}": v for n, v in zip(self.names, distances, strict=True)}
            found.append(distances[0])
        if len(found) == len(tasks):
            values["validation/mean"] = float(np.mean(found))
        return values

    def _features(self, images: Images, domain: str) -> Tensor:
        parts = []
        for _, _, pixels in images.batches(images.items(domain), Ranks()):
            parts.append(self.backbone(to_tensor(pixels)))
        return torch.cat(parts)

    # ---- the best checkpoint -----------------------------------------------------------------------------

    def restore(self, run_dir: Path, step: int) -> None:
        """Take up what an earlier part of this run found; looks after ``step`` are made again."""
        folder = run_dir / FOLDER
        try:
            header = checkpoint.unpack(folder / checkpoint.MODEL, (folder / checkpoint.MODEL).read_bytes())[1]
            about = header["extra"]["validation"]
            self.best = int(about["step"]), float(about["value"])
            summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
            self.history = [(int(s), float(v)) for s, v in summary["history"] if s <= step]
        except (OSError, CheckpointError, KeyError, TypeError, ValueError):
            return  # none yet, or damaged: the next look makes a new one

    def note(self, run_dir: Path, step: int, values: Mapping[str, float], model: Mapping[str, Any]) -> None:
        """Remember a look, and keep its model where no earlier one was better.

        Args:
            model: ``tensors`` and ``header`` of the model at this step.
        """
        value = values.get("validation/mean")
        if value is None:
            return
        self.history.append((step, value))
        folder = run_dir / FOLDER
        better = self.best is None or value < self.best[1] or step == self.best[0]
        if better:
            try:
                folder.mkdir(exist_ok=True)
            except OSError as error:
                raise checkpoint.save_error(folder, error, 0) from error
            self.best = step, value
            about = {"criterion": self.criterion, "step": step, "value": value}
            header = {**model["header"], "extra": {**model["header"]["extra"], "validation": about}}
            checkpoint.write_atomic(folder / checkpoint.MODEL, checkpoint.pack(model["tensors"], header))
        assert self.best is not None
        summary = {
            "criterion": self.criterion, "step": self.best[0], "value": self.best[1],
            "last": {"step": step, "value": value}, "history": [list(entry) for entry in self.history],
        }  # fmt: skip
        checkpoint.write_atomic(folder / SUMMARY, json.dumps(summary, indent=1).encode())
