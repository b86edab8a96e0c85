"""A real method, as small as one can be that uses everything the loop offers: two stages, two players, batch norm,
dropout, noise, an image pool and a controller in buffers, a critic that steps more often than the generator, a frozen
module in train mode, learning rate decay, and a part that translate() does not need."""

from __future__ import annotations

import functools
import itertools
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from unpaired.batch import Batch
from unpaired.config import MethodConfig, RunConfig
from unpaired.data.sampling import ArrayPool
from unpaired.methods import METHODS, finetune, run_from
from unpaired.methods.base import Adam, Method, Stage, Update
from unpaired.networks import classifiers

METHODS.setdefault("tiny", "tiny:Tiny")


def _tiny_network() -> classifiers.Layers:
    """Five convolutions, each but the first after a pooling: a pyramid of strides 1, 2, 4, 8, 16 with 4 to 12
    channels."""
    layers: classifiers.Layers = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise((3, 4, 6, 8, 12, 12)), start=1):
        if i > 1:
            layers.append((f"pool{i}", lambda: nn.MaxPool2d(2), ""))
        layers.append((f"conv{i}", functools.partial(nn.Conv2d, inputs, outputs, 3, padding=1), f"features.{i}"))
        layers.append((f"relu{i}", nn.ReLU, ""))
    return layers


classifiers.NETWORKS.setdefault(
    "tiny",
    classifiers.Kind(
        _tiny_network,
        ("relu1", "relu2", "relu3"),
        mean=classifiers.MIDDLE,
        std=classifiers.MIDDLE,
        pyramid=tuple((f"conv{i}", f"relu{i}") for i in range(1, 6)),
    ),
)


finetune.RECIPES.setdefault("tiny", finetune.Recipe("relu5", "conv5", 12))


class TinyConfig(MethodConfig):
    """Settings of the tiny method."""

    width: int = 4
    """Channels."""
    first_steps: int = 6
    """Steps of the first stage."""
    second_steps: int = 7
    """Steps of the second stage."""
    batch_size: int = 2
    """Images of each domain."""
    learning_rate: float = 2e-3
    """Adam's rate."""
    explode_at: int | None = None
    """Step of the second stage's generator at which its loss becomes NaN."""


class Tiny(Method):
    """Two-way, with one generator a direction."""

    Config = TinyConfig
    training_only: ClassVar[tuple[str, ...]] = ("critic", "pool", "controller", "count")
    stride = 2

    def __init__(self, config: TinyConfig, domains: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(config, domains, **kwargs)
        w = config.width
        self.forth = nn.Sequential(
            nn.Conv2d(3, w, 3, 1, 1), nn.BatchNorm2d(w), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(w, 3, 3, 1, 1)
        )
        self.back = nn.Sequential(nn.Conv2d(3, w, 3, 1, 1), nn.BatchNorm2d(w), nn.ReLU(), nn.Conv2d(w, 3, 3, 1, 1))
        self.critic = nn.Sequential(nn.Conv2d(3, w, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(w, 1, 1))
        self.register_buffer("pool", torch.zeros(4, 3, self.image_size, self.image_size))
        self.register_buffer("controller", torch.ones(()))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.pool: Tensor
        self.controller: Tensor
        self.count: Tensor

    def stages(self) -> tuple[Stage, ...]:
        """Critic and forward generator, then both generators with the critic frozen but in train mode."""
        c = self.config
        adam = Adam(c.learning_rate, schedule=lambda step, steps: 1 - step / (2 * steps))
        critic = Update("critic", self.critic_loss, (self.critic,), adam)
        first = Update("forth", self.forth_loss, (self.forth,), adam, every=2)
        second = Update("both", self.both_loss, (self.forth, self.back), Adam(c.learning_rate))
        return (
            Stage("first", c.first_steps, (critic, first), c.batch_size),
            Stage("second", c.second_steps, (second,), c.batch_size + 1, start=self.halve, train_mode=(self.critic,)),
        )

    def halve(self) -> None:
        """Stage start: draws from the seeded generator and changes weights, so that running it twice would show."""
        with torch.no_grad():
            for parameter in self.back.parameters():
                parameter.mul_(0.5).add_(torch.randn_like(parameter), alpha=0.01)

    def critic_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Judge real images against the pool of old translations."""
        with torch.no_grad():
            fake = self.forth(batch.source)
            slot = int(torch.randint(4, ()))
            self.pool[slot] = fake[0]
            self.count += 1
            self.controller.mul_(0.9).add_(0.1 * fake.mean())
        real, fake = self.critic(batch.target), self.critic(torch.cat([fake, self.pool]))
        self.monitor["critic/sign_accuracy"] = ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
        return {"real": (real - 1).square().mean(), "fake": fake.square().mean()}

    def forth_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Fool the critic and stay near the input."""
        out = self.forth(batch.source + 0.1 * torch.randn_like(batch.source))
        return {
            "adversarial": (self.critic(out) - 1).square().mean(),
            "near": self.controller * (out - batch.source).abs().mean(),
        }

    def both_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Come back to where one started."""
        there, back = self.forth(batch.source), self.back(batch.target)
        loss = (self.back(there) - batch.source).abs().mean()
        if self.config.explode_at is not None and int(self.count) + self.config.explode_at <= self.config.first_steps:
            loss = loss * float("nan")
        return {"cycle": loss, "target": (self.forth(back) - batch.target).abs().mean()}

    def render(self, images: Tensor, source: str | None, target: str, *inputs: Tensor) -> Tensor:
        """One of the two generators."""
        net = self.forth if (source, target) == self.domains else self.back
        return net(images).tanh()


def config(**settings: Any) -> RunConfig:
    """A run of the tiny method: 16 pixels, fp32, one thread; dotted settings with ``__`` for the dot."""
    from unpaired.config import merge, nested

    base = {
        "method": "tiny",
        "seed": 3,
        "data": {"size": 16, "cache": False},
        "training": {
            "device": "cpu",
            "precision": "fp32",
            "log_every": 1,
            "checkpoint_every": 4,
            "sample_every": 5,
            "samples": 2,
            "tensorboard": False,
        },
    }
    return run_from(merge(base, nested({k.replace("__", "."): v for k, v in settings.items()})))


def pictures(count: int, side: int = 20, seed: int = 0, colour: int = 0) -> np.ndarray[Any, Any]:
    """Real-looking uint8 [count, side, side, 3]: smooth colour fields with a bright blob; the domain decides its
    colour."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    images = np.empty((count, side, side, 3), np.uint8)
    for i in range(count):
        cx, cy, phase = rng.random(3)
        blob = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) * 30)
        field = 60 + 60 * np.sin(6 * (x + phase))[..., None] * np.array([1.0, 0.6, 0.3])
        field[..., colour] += 120 * blob
        images[i] = np.clip(field + rng.normal(0, 4, field.shape), 0, 255)
    return images


def pool(count: int = 6, side: int = 20) -> ArrayPool:
    """Two domains of pictures."""
    return ArrayPool({"red": pictures(count, side, 0, 0), "blue": pictures(count, side, 1, 2)})


def folder(root: Any, count: int = 12, side: int = 20, domains: tuple[str, ...] = ("red", "blue")) -> Any:
    """DATA/train and DATA/test with PNG files of :func:`pictures`."""
    from PIL import Image

    for split, number in (("train", count), ("test", max(2, count // 4))):
        for index, domain in enumerate(domains):
            place = root / split / domain
            place.mkdir(parents=True)
            for i, image in enumerate(
                pictures(number, side, seed=index + 10 * (split == "test"), colour=2 * index % 3)
            ):
                Image.fromarray(image).save(place / f"{i:03d}.png")
    return root


def file_state(network: str) -> dict[str, Tensor]:
    """Random tensors of a classifier, called as those of its file are."""
    prefixes = {layer: prefix for layer, _, prefix in classifiers.NETWORKS[network].layers()}
    found = {}
    for key, value in classifiers.Features(network, (list(prefixes)[-1],)).layers.state_dict().items():
        layer, leaf = key.split(".", 1)
        name = f"{prefixes[layer]}.{leaf}"
        number, part, *rest = name.split(".")
        found[".".join([part + number, *rest]) if number.isdigit() else name] = (
            value  # MobileNet's 3.dw.weight is dw3.weight
        )
    return found
