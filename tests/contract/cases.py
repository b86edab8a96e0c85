"""For each method in METHODS: settings that make it tiny, and the pool it trains on. A method without an entry fails
the suite."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tiny
from unpaired.batch import Batch
from unpaired.config import RunConfig, merge
from unpaired.data.sampling import ArrayPool
from unpaired.methods import METHODS, run_from
from unpaired.methods.base import Beginning, Method, Stage
from unpaired.training import loop
from unpaired.training.pretrained import Start
from unpaired.training.run import build

# fmt: off
BASE: dict[str, Any] = {
    "seed": 5,
    "data": {"size": 16, "cache": False},
    "training": {
        "device": "cpu", "precision": "fp32", "log_every": 1, "checkpoint_every": 5, "sample_every": 6, "samples": 2,
        "tensorboard": False,
    },
}
SETTINGS: dict[str, dict[str, Any]] = {
    "attend": {
        "model": {
            "weights": "random", "width": 4, "residual_blocks": 1, "attention_network": "squeezenet1_1",
            "discriminator_width": 4, "discriminator_layers": 2, "network": "squeezenet1_1",
            "layers": ["relu1", "fire2"], "layer_weights": [0.5, 0.5], "history": 3, "induction_threshold": 100.0,
            "induction_smoothing": 0.5, "induction_checks": 2, "induction_warmup": 0.2, "batch_size": 2,
            "initial_steps": 5, "attention_steps": 4, "joint_steps": 4,
        },
    },
    "cascade": {
        "data": {"size": 32},
        "training": {"ema": 0.9},
        "model": {
            "network": "tiny", "weights": "random", "width": 0.05, "inversion_width": 0.2, "judge_width": 2,
            "levels": [5, 4, 3], "generator_every": 2, "batch_size": 2, "level_steps": 4, "invert_all": False,
            "inversion_batch_size": 3, "inversion_steps": 2,
        },
    },
    "cycle": {
        "data": {"size": 32},
        "training": {"ema": 0.9},
        "model": {
            "width": 4, "residual_blocks": 1, "norm": "pixel", "resize_convolutions": True, "init": "kaiming",
            "start": "colour", "discriminator": "projected", "discriminator_width": 4, "discriminator_layers": 2,
            "patch_weight": 0.5, "judge_taps": ["stride4", "stride8"], "weights": "random",
            "augment": ["translation", "cutout", "colour"], "gan": "hinge", "history": 3, "discriminator_lr": 4e-4,
            "steps": 13, "batch_size": 2,
        },
    },
    "deepvae": {
        "data": {"size": 32},
        "model": {
            "network": "tiny", "weights": "random", "width": 0.05, "inversion_width": 0.2, "judge_width": 2,
            "levels": [5, 4], "latent": 3, "generator_every": 2, "batch_size": 2, "level_steps": 4,
            "inversion_batch_size": 3, "inversion_steps": 3,
        },
    },
    "tiny": {"training": {"ema": 0.9}},
    "unit": {
        "model": {"width": 4, "discriminator_layers": 3, "steps": 13, "batch_size": 2},
        "training": {"accumulate": 2},
    },
    "unit-digits": {
        "data": {"size": 32, "mirror": False},
        "model": {"width": 4, "discriminator_width": 4, "steps": 13, "batch_size": 4},
    },
    "biggan": {
        "data": {"size": 32},
        "training": {"ema": 0.9},
        "model": {"width": 2, "shared_dim": 4, "z_dim": 8, "steps": 13, "batch_size": 2},
    },
    "deepi2i": {
        "data": {"size": 32},
        "training": {"accumulate": 2},
        "model": {
            "width": 2, "shared_dim": 4, "z_dim": 8, "transfer": [], "adaptor_steps": 6, "finetune_steps": 7,
            "batch_size": 2,
        },
    },
    "stylegan": {
        "data": {"size": 32},
        "training": {"ema": 0.9},
        "model": {"width": 2, "latent": 4, "mapping": 2, "steps": 13, "batch_size": 2},
    },
    "finetune": {
        "data": {"size": 32},
        "model": {"network": "tiny", "weights": "random", "steps": 13, "batch_size": 4},
    },
    "deepi2i-stylegan": {
        "data": {"size": 32},
        "training": {"accumulate": 2},
        "model": {
            "width": 2, "latent": 4, "mapping": 2, "transfer": [], "adaptor_steps": 6, "finetune_steps": 7,
            "batch_size": 4,
        },
    },
}
# fmt: on
TRANSLATORS = sorted(set(METHODS) - {"finetune"})
"""Methods that make images."""
LABELLED = {"unit-digits"}
SIZES = dict.fromkeys(("attend", "tiny", "unit"), 20) | dict.fromkeys(("cascade", "deepvae", "finetune"), 36)
"""Side of the pictures where it is not 32."""
SINGLE = {"deepvae"}


def config(name: str, **changes: Any) -> RunConfig:
    """The tiny run of a method."""
    return run_from(merge(merge(merge(BASE, {"method": name}), SETTINGS[name]), changes))


def pool(name: str) -> ArrayPool:
    """Its images; labels where it needs them."""
    side = SIZES.get(name, 32)
    images = {"red": tiny.pictures(7, side, 0, 0), "blue": tiny.pictures(7, side, 1, 2)}
    if name in SINGLE:
        return ArrayPool({"red": images["red"]})
    if name in LABELLED:
        return ArrayPool(images, {"red": np.arange(7) % 3}, ("zero", "one", "two"))
    return ArrayPool(images)


def method(name: str, run: RunConfig | None = None) -> Method:
    """A fresh one."""
    p = pool(name)
    return build(run or config(name), p.domains, p.classes)


def start(name: str, begun_with: Beginning | None = None) -> Start:
    """What its ``prepare`` is handed."""
    return Start(pool(name), config(name).data, begun_with=begun_with)


def trainer(name: str, run: RunConfig | None = None) -> loop.Trainer:
    """Of the method's tiny run, for steps without files."""
    run = run or config(name)
    return loop.Trainer(method(name, run), pool(name), run, Path("unused"), device=torch.device("cpu"))


def arguments(stage: Stage, batch: Batch) -> tuple[Any, ...]:
    """What the losses of a stage are called with for a batch."""
    return (batch,) if stage.forward is None else (batch, stage.forward(batch))


def steps(trainer: loop.Trainer, stage: Stage, count: int) -> dict[str, float]:
    """The terms of the last of ``count`` steps of a stage."""
    if stage.start is not None:
        stage.start()
    trainer.modes(stage)
    terms: dict[str, Tensor] = {}
    for images in itertools.islice(trainer.batches(), count):
        trainer.state.step += 1
        terms = trainer.run_step(stage, trainer.state.step - 1, images)
    return {k: float(v) for k, v in terms.items()}
