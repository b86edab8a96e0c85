"""Fine-tune a pretrained classifier on the domains of a data folder, as another source of features (Katzir et al., appendix A.1.3).

All layers stay but the deepest block and the fully connected ones; the last layer is new, with one output a domain. The paper:
VGG-19, 2 domains, 50 epochs, batch 25, rate 0.01. The result is one safetensors file with the feature layers, for
``--weights FILE`` of the methods on a pyramid.

Legend: N batch, K domains, S side; images float [N, 3, S, S] in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unpaired import checkpoint, machine, signals, weights
from unpaired._version import __version__
from unpaired.config import DataConfig
from unpaired.data.images import show, to_tensor
from unpaired.data.sampling import Pool, Sampler, centre_crops, open_pool
from unpaired.errors import CheckpointError, ConfigError, Interrupted, NonFiniteError, nearest
from unpaired.networks.classifiers import Features
from unpaired.networks.convnets import kaiming_convolutions
from unpaired.training.log import Reporter

STATE_EVERY = 500
"""Steps between two states from which an interrupted fine-tuning goes on."""


@dataclass(frozen=True)
class _Recipe:
    last: str
    """Last feature layer, before the head."""
    trained: str
    """Feature layers whose names begin so are trained."""
    side: int
    """Side in pixels of the training crops."""


RECIPES: dict[str, _Recipe] = {
    "vgg19": _Recipe("pool5", "conv5_", 224),
    "mobilenet_v1": _Recipe("stride32", "stride32", 128),
}
"""Networks that can be fine-tuned. MobileNet's recipe is ours: its last block and a linear layer on the mean over space."""


class Tuned(nn.Module):
    """A classifier's features and a head for K domains. [N, 3, S, S] -> logits [N, K].

    VGG-19 keeps its first two fully connected layers (4096 each, with dropout) and gets a new third one.
    """

    def __init__(self, network: str, classes: int) -> None:
        super().__init__()
        if network not in RECIPES:
            raise ConfigError(
                f"no recipe to fine-tune '{network}'.{nearest(network, RECIPES)} There are: {', '.join(RECIPES)}."
            )
        self.network, self.recipe = network, RECIPES[network]
        self.features = Features(network, (self.recipe.last,))
        kaiming_convolutions(self.features)
        if network == "vgg19":
            hidden = [
                nn.Linear(512 * 49, 4096),
                nn.ReLU(),
                nn.Dropout(),
                nn.Linear(4096, 4096),
                nn.ReLU(),
                nn.Dropout(),
            ]
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Flatten(), *hidden, nn.Linear(4096, classes))
        else:
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, classes))

    def fill(self, where: Path | None) -> dict[str, str]:
        """Pretrained weights for all but the new layer; where they came from. Raises WeightsError."""
        about = weights.fill(self.features, where)
        if self.network == "vgg19":
            state = weights.load("vgg19", where)
            for there, layer in (("classifier.0", self.head[2]), ("classifier.3", self.head[5])):
                layer.load_state_dict({leaf: state[f"{there}.{leaf}"] for leaf in ("weight", "bias")})
        return about

    def players(self) -> list[nn.Parameter]:
        """What is trained: the deepest block and the head."""
        own = [p for n, p in self.features.layers.named_parameters() if n.startswith(self.recipe.trained)]
        return own + list(self.head.parameters())

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images)[0])
        return logits

    def ready(self) -> None:
        """Dropout on; batch norms of the features keep their statistics."""
        self.eval()
        self.head.train()


@dataclass(frozen=True)
class Finetuned:
    """What :func:`finetune` made."""

    path: Path
    classes: tuple[str, ...]
    steps: int
    accuracy: float | None
    """On the test images; None without any."""
    n: int

    def text(self) -> str:
        """For a terminal."""
        score = f"{self.accuracy:.4f} of {self.n:,} test images" if self.accuracy is not None else "no test images"
        return f"{', '.join(self.classes)}: {score} after {self.steps:,} steps\nfeatures: {show(self.path)} (for --weights)"


def finetune(
    data: Path | str,
    out: Path | str,
    *,
    network: str = "vgg19",
    pretrained: str = "pretrained",
    epochs: int = 50,
    batch_size: int = 25,
    lr: float = 0.01,
    momentum: float = 0.9,
    size: int | None = None,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    quiet: bool = False,
) -> Finetuned:
    """Train ``network`` to tell the domains of ``data`` apart, and write its feature layers to ``out``.

    Stochastic gradient descent; an interrupted call, repeated, goes on from its last state, which lies beside ``out``.

    Args:
        data: a folder in one of the layouts of docs/data.md, with two domains or more.
        out: the file to write, ending in .safetensors.
        pretrained: ``pretrained``, ``random``, or a file or folder with the network's weights.
        size: side of the crops in pixels; the network's own by default.

    Raises:
        ConfigError, DataError, WeightsError: refused before any work. NonFiniteError: stopped by itself.
        Interrupted: a signal came; saved.
    """
    from unpaired.data.check import check
    from unpaired.data.folders import find

    out = Path(out)
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out {show(out)}: name a file that ends in .safetensors")
    if out.exists() and not overwrite:
        raise ConfigError(f"{show(out)} is there already; use another --out, or --overwrite")
    if epochs < 1 or batch_size < 2:
        raise ConfigError(f"epochs = {epochs}, batch_size = {batch_size}: wanted at least 1 and 2")
    if not 0 < lr < math.inf or not 0 <= momentum < 1:
        raise ConfigError(
            f"lr = {lr:g}, momentum = {momentum:g}: wanted a rate above 0, and a momentum of at least 0 and below 1"
        )
    with signals.handled():
        tree = find(data)
        torch.manual_seed(seed)
        model = Tuned(network, len(tree.domains))
        side = size or model.recipe.side
        config = DataConfig(size=side, resize=round(side * 8 / 7))
        check(tree, config).require()
        pool = open_pool(tree, config)
        nn.init.normal_(model.head[-1].weight, 0.0, 0.01)  # type: ignore[arg-type]
        nn.init.zeros_(model.head[-1].bias)  # type: ignore[arg-type]
        where = None if pretrained in ("pretrained", "random") else Path(pretrained).expanduser()
        origin = {"name": network, "licence": "random weights"} if pretrained == "random" else model.fill(where)
        steps = epochs * -(-sum(pool.count(d) for d in pool.domains) // batch_size)
        settings = {
            "network": network, "classes": list(pool.domains), "epochs": epochs, "batch_size": batch_size, "lr": lr,
            "momentum": momentum, "size": side, "seed": seed, "data": pool.fingerprint, "origin": origin,
        }  # fmt: skip
        place = machine.choose_device(device)
        machine.set_for_training("fp32", place)
        run = _Run(model.to(place), pool, config, settings, out.with_suffix(".state"), steps)
        with Reporter(steps, 0, quiet=quiet) as reporter, signals.deferred():
            run.go(reporter)
        accuracy, n = None, 0
        if all(tree.files.get(("test", d)) for d in tree.domains):
            accuracy, n = run.accuracy(open_pool(tree, config, "test"))
        header = {
            "format": checkpoint.FORMAT,
            "version": __version__,
            "kind": "features",
            "accuracy": accuracy,
            "n": n,
            **settings,
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_atomic(out, checkpoint.pack(model.features.layers.state_dict(), header))
        run.state_file.unlink(missing_ok=True)
        return Finetuned(out, pool.domains, steps, accuracy, n)


class _Run:
    """The loop of :func:`finetune`."""

    def __init__(
        self, model: Tuned, pool: Pool, config: DataConfig, settings: Mapping[str, Any], state_file: Path, steps: int
    ) -> None:
        self.model, self.config, self.settings, self.state_file, self.steps = model, config, settings, state_file, steps
        self.domains = pool.domains
        pairs = tuple((d, d) for d in pool.domains)  # all come equally often
        self.sampler = Sampler(pool, config, pairs, int(settings["seed"]), reads=("source",))
        self.device = next(model.parameters()).device
        model.requires_grad_(False)
        self.players = [p.requires_grad_(True) for p in model.players()]
        self.optimizer = torch.optim.SGD(self.players, lr=settings["lr"], momentum=settings["momentum"])
        self.step = 0

    def go(self, reporter: Reporter) -> None:
        """All steps that are still to come."""
        self._restore()
        self.model.ready()
        while self.step < self.steps:
            self.step += 1
            torch.manual_seed(
                self.settings["seed"] * 1_000_003 + self.step
            )  # dropout: a step follows from (seed, step)
            batch = self.sampler.batch(self.step, self.settings["batch_size"]).to(self.device)
            with machine.autocast("fp32", self.device):
                loss = F.cross_entropy(self.model(batch.source), batch.source_domain)
            if not bool(torch.isfinite(loss)):
                raise NonFiniteError(
                    f"non-finite loss at step {self.step} of the fine-tuning; try a lower --lr. The same command goes on from "
                    f"{show(self.state_file)}, so remove that file first"
                )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            signum = signals.requested()
            if signum or self.step % STATE_EVERY == 0:
                self._save()
            if signum:
                raise Interrupted(
                    signum, f"stopped by {signals.name(signum)} after step {self.step}; the same command goes on"
                )
            reporter.advance(self.step, "fine-tuning")
        self.model.eval()

    def _save(self) -> None:
        tensors = {f"player/{i}": p.detach() for i, p in enumerate(self.players)}
        for i, player in enumerate(self.players):
            if self.settings["momentum"]:  # without, the optimiser has none
                tensors[f"momentum/{i}"] = self.optimizer.state[player]["momentum_buffer"]
        self.state_file.parent.mkdir(parents=True, exist_ok=True)
        header = {"format": checkpoint.FORMAT, "step": self.step, **self.settings}
        checkpoint.write_atomic(self.state_file, checkpoint.pack(tensors, header))

    def _restore(self) -> None:
        if not self.state_file.is_file():
            return
        tensors, header = checkpoint.unpack(self.state_file, self.state_file.read_bytes())
        other = [k for k, v in self.settings.items() if header.get(k) != v]
        if other:
            raise CheckpointError(
                f"{show(self.state_file)}: the state of a fine-tuning with other settings ({', '.join(other)}); repeat them, or remove it"
            )
        with torch.no_grad():
            for i, player in enumerate(self.players):
                player.copy_(tensors[f"player/{i}"])
                if self.settings["momentum"]:
                    self.optimizer.state[player]["momentum_buffer"] = tensors[f"momentum/{i}"].to(self.device)
        self.step = int(header["step"])

    @torch.inference_mode()
    def accuracy(self, pool: Pool) -> tuple[float, int]:
        """Share of the centre crops of ``pool`` that are told rightly, and how many there are."""
        self.model.eval()
        right = total = 0
        for number, domain in enumerate(self.domains):
            for first in range(0, pool.count(domain), 32):
                rows = range(first, min(first + 32, pool.count(domain)))
                images = to_tensor(centre_crops(pool, domain, rows, self.config)).to(self.device)
                right += int((self.model(images).argmax(1) == number).sum())
                total += len(rows)
        return right / total, total
