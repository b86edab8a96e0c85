"""Training steps against the way the official repositories run, in one process, taking turns.

    python benchmarks/training_speed.py                                     every row of ROWS, on the presets made for CPUs
    python benchmarks/training_speed.py unit-horse2zebra-128 train          one row: preset, stage, --set KEY=VALUE ...
    python benchmarks/training_speed.py PRESET STAGE --precision bf16       the reference, the reference under autocast, ours

OMP_NUM_THREADS=1 makes the clock the processor's, which other programs disturb least. Random images and weights: neither
changes the cost. A call is a whole round of the players (four steps where the generator's turn is every fourth).

The reference is eager fp32, contiguous memory, PyTorch's instance norm, Adam as torch.optim has it on a CPU by default (a
loop over tensors), features and translations computed anew by each player. Beyond that, each method as the public code does it:

- unit, both generations: discriminators stay unfrozen in the generators' step; in the discriminators' step the generators
  record their graph before the result is detached; real and translated images are judged in passes of their own; the generators'
  step encodes and decodes anew (here it goes on with what the discriminators' step was given). The streams
  of the generators stay batched as here, which the first generation's code does and the second's does not.
- attend (no official code): the translation is made anew for each player, as in TensorFlow code with one run a player.
  CycleGAN's PyTorch code makes it once and so saves one forward pass; both freeze the discriminator in the generator's step.
- cascade, deepvae (no official code): as the public WGAN-GP code: critics frozen in the generator's step, fakes without a graph,
  real and fake maps judged apart, the penalty's gradient differentiated; translation and identity in passes of their own.
- deepi2i, biggan, stylegan: as the official code, which toggles gradients and judges real and fake in one pass where it may.

Both ways start from the same weights and seeds; the losses of the first two rounds must agree within ``--rtol``, else this fails.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import harness
import torch
import torch.nn.functional as F
from torch import Tensor

from unpaired import losses, machine
from unpaired.batch import Batch
from unpaired.config import parse_assignments
from unpaired.data.sampling import Sampler
from unpaired.methods import method_class
from unpaired.methods.base import Method, Stage, Update
from unpaired.methods.cascade import Cascade
from unpaired.methods.levels import LevelMethod
from unpaired.methods.unit import UNIT, sum_of
from unpaired.networks import efficientnet, kernels, pyramid, stylegan
from unpaired.networks import pyramid as networks_pyramid
from unpaired.networks.kernels import SN_EPS, Spectral
from unpaired.training import loop
from unpaired.training import run as training_run

ROWS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("unit-horse2zebra-128", "train", ()),
    ("unit-munit-256", "train", ("data.size=128", "data.resize=128", "model.width=32", "model.discriminator_width=32")),
    *(("attend-horse2zebra-128", stage, ()) for stage in ("initial", "attention", "joint")),
    *(
        ("cascade-mobilenet-128", stage, ())
        for stage in ("inversion-5", "inversion-4", "inversion-3", "level-5", "level-4", "level-3")
    ),
    *(("deepvae-mobilenet-128", stage, ()) for stage in ("inversion-5", "level-5", "level-4", "level-3")),
    *(("deepi2i-small", stage, ()) for stage in ("adaptor", "finetune")),
    *(("deepi2i-stylegan-small", stage, ()) for stage in ("adaptor", "finetune")),
    ("biggan-small", "train", ()),
    ("stylegan-small", "train", ()),
    ("unit-digits-cpu", "train", ()),
)
"""Preset, stage, settings. Only the second is reduced: the full width is for GPUs."""
GOALS = {"fp32": 1.2, "bf16": 3.0}
AUTOCAST_GOAL = 1.3
"""Of bf16 against the reference under plain autocast."""
Step = Callable[[], dict[str, float]]


def plain_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """PyTorch's own."""
    return F.instance_norm(x, eps=eps)


def plain_terms(self: LevelMethod, judge: Any, y: Tensor, fake: Tensor, slopes: Any) -> tuple[Tensor, Tensor]:
    """The cascade's and DeepVAE's critics as public WGAN-GP code has it: three passes, and D differentiated twice."""
    gap = losses.critic_gap(judge(y), judge(fake))
    return gap, self.config.penalty_weight * losses.gradient_penalty(judge, y, fake)


def plain_translations(self: Cascade, index: int, given: Any, target: int) -> tuple[Tensor | None, Tensor | None]:
    """The cascade's translation and identity, each in a pass of its own."""
    c, level, (real, deeper) = self.config, self.config.levels[index], given
    own_deeper = real[target][c.levels[index - 1]] if index else None
    forth = c.adversarial_weight > 0 or c.cycle_weight > 0
    return (
        self.make(index, real[1 - target][level], deeper[target], target) if forth else None,
        self.make(index, real[target][level], own_deeper, target) if c.identity_weight > 0 else None,
    )


def plain_maps(self: pyramid.Pyramid, images: Tensor, levels: Any) -> list[Tensor]:
    """The classifier in contiguous memory."""
    return self.features(images, [self.layer[level] for level in levels])


def plain_linear(self: efficientnet.ConvBN, x: Tensor) -> Tensor:
    """MobileNet's convolution and batch norm, one after the other."""
    left, right, above, below = efficientnet.same_padding(x, self.kernel_size[0], self.stride[0])
    if (left, above) == (right, below):
        return self.bn(F.conv2d(x, self.weight, None, self.stride, (above, left), groups=self.groups))  # type: ignore[no-any-return]
    padded = F.pad(x, (left, right, above, below))
    return self.bn(F.conv2d(padded, self.weight, None, self.stride, groups=self.groups))  # type: ignore[no-any-return]


def plain_spectral(self: Spectral) -> Tensor:
    """Spectral norm as released: σ differentiated by PyTorch, in each pass anew."""
    with torch.autocast(self.weight.device.type, enabled=False):
        w = self.weight.flatten(1)
        with torch.no_grad():
            v = F.normalize(self.u0 @ w, eps=SN_EPS)
            u = F.normalize(v @ w.T, eps=SN_EPS)
        sigma = (v @ w.T @ u.T).view(())
        if self.training:
            with torch.no_grad():
                self.u0.copy_(u)
                self.sv0.fill_(sigma)
        return self.weight / sigma


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Inside, networks and losses are PyTorch's own and as the public code has them."""
    with contextlib.ExitStack() as stack:
        for module in (kernels, networks_pyramid, stylegan):
            stack.enter_context(patch.object(module, "instance_norm", plain_norm))
        stack.enter_context(patch.object(kernels.Convolution, "forward", torch.nn.Conv2d.forward))
        stack.enter_context(patch.object(LevelMethod, "critic_terms", plain_terms))
        stack.enter_context(patch.object(Cascade, "forth_and_same", plain_translations))
        stack.enter_context(patch.object(pyramid.Pyramid, "raw", plain_maps))
        stack.enter_context(patch.object(efficientnet.ConvBN, "linear", plain_linear))
        stack.enter_context(patch.object(Spectral, "normalised", plain_spectral))
        yield


def judged_apart(method: UNIT, batch: Batch) -> dict[str, Tensor]:
    """UNIT's discriminator loss as released: a graph that is thrown away, four passes of discriminators."""
    c = method.config
    _, z = method._codes(batch.source, batch.target, noise=c.noise != "none")
    h_a, h_b = method.generator_shared(z).chunk(2)
    x_ba, x_ab = method.generators[0](h_b).detach(), method.generators[1](h_a).detach()
    real, fake = method.discriminators([batch.source, batch.target]), method.discriminators([x_ba, x_ab])
    return {
        "real": c.gan_weight * sum_of(losses.judged_real(d, c.gan) for d in real),
        "fake": c.gan_weight * sum_of(losses.judged_fake(d, c.gan) for d in fake),
    }


class Reference:
    """A stage's steps, the other way."""

    def __init__(self, trainer: loop.Trainer, stage: Stage, precision: str) -> None:
        self.trainer, self.stage, self.precision = trainer, stage, precision
        self.method: Method = trainer.method.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.optimizers = {u.name: self._optimizer(u) for u in stage.updates}
        self.unfrozen = isinstance(self.method, UNIT)

    def _optimizer(self, update: Update) -> torch.optim.Adam:
        spec, rates = update.optimizer, update.rates or (1.0,) * len(update.modules)
        seen: set[int] = set()
        groups = []
        for module, rate in zip(update.modules, rates, strict=True):
            own = [p for p in module.parameters() if id(p) not in seen]
            seen |= {id(p) for p in own}
            groups += [{"params": own, "lr": spec.lr * rate}] if own else []
        return torch.optim.Adam(groups, lr=spec.lr, betas=spec.betas, eps=spec.eps, weight_decay=spec.weight_decay)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One, as :meth:`training.Trainer.run_step`."""
        loop.seed_everything(self.trainer.config.seed, self.trainer.state.step)
        found: dict[str, Tensor] = {}
        due = [u for u in self.stage.updates if self.trainer.state.step % u.every == 0]
        players = [p for u in self.stage.updates for m in u.modules for p in m.parameters()]
        for update in due:
            own = [p for m in update.modules for p in m.parameters()]
            for parameter in players:
                parameter.requires_grad_(self.unfrozen)
            for parameter in own:
                parameter.requires_grad_(True)
            self.optimizers[update.name].zero_grad()
            if (
                self.unfrozen
            ):  # UNIT's players draw samples of their own, as released; of one seed, so that losses can be compared
                loop.seed_everything(self.trainer.config.seed, self.trainer.state.step)
            apart = update.name == "discriminator" and isinstance(self.method, UNIT)
            with plain(), machine.autocast(self.precision, self.trainer.device):
                terms = judged_apart(self.method, batch) if apart else update.loss(*self.stage.arguments(batch))  # type: ignore[arg-type]
            sum_of(t.float() for t in terms.values()).backward()
            self.optimizers[update.name].step()
            found |= {f"{update.name}/{k}": v.detach() for k, v in terms.items()}
        return found


@dataclass(frozen=True)
class Case:
    """What is measured."""

    preset: str
    stage: str
    settings: tuple[str, ...]
    device: str

    def way(self, kind: str, precision: str = "fp32", *more: str) -> tuple[Step, str]:
        """A round of the stage's players as ``reference`` or ``ours``, and what it was: preset, stage, changes, batch."""
        settings = parse_assignments([*self.settings, *more])
        settings |= {"training.precision": precision, "training.device": self.device}
        config = training_run.resolve(preset=self.preset, settings=settings)
        device = machine.choose_device(self.device)
        machine.set_for_training(precision, device)
        source = getattr(config.model, "source", "") or "a"
        names = (source, source + "2")[: 1 if method_class(config.method).max_domains == 1 else 2]
        pool = harness.noise_pool(config, names)
        torch.manual_seed(0)
        method = training_run.build(config, names)
        trainer = loop.Trainer(method, pool, config, Path("unused"), device=device)
        stage = next(s for s in trainer.state.plan.stages if s.name.startswith(self.stage))
        torch.manual_seed(0)
        if stage.start is not None:
            stage.start()
        trainer.modes(stage)
        batch = (
            Sampler(pool, config.data, method.pairs, config.seed, reads=method.reads)
            .batch(1, stage.batch_size)
            .to(device)
        )
        period = math.lcm(*(update.every for update in stage.updates))
        trainer.state.step = period - 1
        reference = Reference(trainer, stage, precision) if kind == "reference" else None

        def one_round() -> dict[str, float]:
            terms: dict[str, Tensor] = {}
            for _ in range(period):
                trainer.state.step += 1
                part = harness.fresh(batch)
                terms |= reference.step(part) if reference else trainer.run_step(stage, period - 1, part)
            return {k: float(v) for k, v in terms.items()}

        changed = " ".join(self.settings)
        about = f"{self.preset} {stage.name}{', ' + changed if changed else ''}, batch {stage.batch_size}"
        return one_round, about + (f", {period} steps" if period > 1 else "")


def agree(name: str, first: dict[str, float], other: dict[str, float], rtol: float) -> float:
    """The largest relative difference of the terms. Exits where it is above ``rtol``."""
    worst = max(abs(other[k] - v) / max(abs(v), 1e-3) for k, v in first.items())
    if set(first) != set(other) or not worst <= rtol:
        sys.exit(f"{name}: the ways disagree by {worst:.2g}:\n  {first}\n  {other}")
    return worst


def measure(case: Case, args: Any) -> list[harness.Row]:
    """One row, in bf16 two: against the reference, and against the reference under plain autocast."""
    ways: dict[str, Step] = {}
    precision: dict[str, str] = {}
    goal = GOALS.get(args.precision)
    ways["reference"], about = case.way("reference")
    precision["reference"] = "fp32"
    if args.precision != "fp32":
        ways["reference, autocast"], _ = case.way("reference", args.precision)
        precision["reference, autocast"] = args.precision
    ways["ours"], _ = case.way("ours", args.precision)
    precision["ours"] = args.precision
    if args.compile:
        from torch._inductor import config as inductor

        inductor.fallback_random = True  # draws PyTorch's own numbers, so that losses can be compared
        ways["ours, compiled"], _ = case.way("ours", args.precision, "training.compile=true")
        precision["ours, compiled"] = args.precision
    first = {name: way() | {f"{k}, second": v for k, v in way().items()} for name, way in ways.items()}
    # rounding to bf16 is what that is allowed; within fp32 only the order of sums may differ, which Adam's first steps, signs of
    # gradients more or less, make larger within a round of several
    within_fp32 = 5e-3 if about.endswith(" steps") else 2e-3
    allowed = 5e-2 if args.precision != "fp32" else within_fp32
    rtol = args.rtol if args.rtol is not None else allowed
    worst = max(agree(about, next(iter(first.values())), found, rtol) for found in first.values())
    device = machine.choose_device(args.device)
    turns = harness.interleave(ways, rounds=args.rounds, warmup=args.warmup, precision=precision, device=device)
    note = f"losses agree to {worst:.0e}"
    if "bf16" in precision.values() and not machine.has_bf16(device):
        note += "; no bf16 units here: bf16 is emulated, its goals do not apply"
    rows = [harness.compare(about, turns, ways=list(ways), goal=goal, note=note)]
    if "reference, autocast" in ways:
        last = list(ways)[-1]
        rows.append(harness.compare(about, turns, ways=("reference, autocast", last), goal=AUTOCAST_GOAL))
    return rows


def main() -> None:
    """Measure what was asked for."""
    p = harness.arguments(__doc__, rounds=5)
    p.add_argument("preset", nargs="?")
    p.add_argument("stage", nargs="?", default="")
    p.add_argument("--precision", default="fp32", choices=("fp32", "tf32", "bf16"))
    p.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    p.add_argument("--compile", action="store_true", help="one more way: ours through torch.compile")
    p.add_argument("--rtol", type=float, help="largest relative difference of the first losses")
    args = p.parse_args()
    cases = [(args.preset, args.stage, tuple(args.set))] if args.preset else list(ROWS)
    command = " ".join(itertools.chain(["python", "benchmarks/training_speed.py"], sys.argv[1:]))
    rows: list[harness.Row] = []
    try:
        for preset, stage, settings in cases:
            found = measure(Case(preset, stage, settings, args.device), args)
            rows += found
            print("\n".join(map(harness.markdown, found)), flush=True)
    finally:  # ways that disagree end the command; the rows before them stand
        print()
        harness.write(rows, args.out, command=command, device=args.device, n=args.rounds, seed=0)


if __name__ == "__main__":
    main()
