"""What a training must keep over a restart: weights, their averages, optimisers, step, and what the watch has seen.

:meth:`TrainingState.state` is the one list of it. The loop (``unpaired.training``) adds what it does with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unpaired import checkpoint
from unpaired.errors import CheckpointError
from unpaired.methods.base import Method, Update
from unpaired.stages import Plan
from unpaired.watch import Watch


class TrainingState:
    """Of one run.

    Args:
        method: on its device, in its memory format; its weights are those of step 0.
        ema: decay of the average of the weights (``training.ema``), None for none.
    """

    def __init__(self, method: Method, ema: float | None) -> None:
        self.method, self.ema = method, ema
        self.plan = Plan(method.stages())
        self.watch = Watch()
        self.step = 0
        self.pretrained: list[dict[str, str]] = []
        self.optimizers: dict[str, torch.optim.Adam] = {}
        self.names = {id(p): n for n, p in method.named_parameters()}
        shared = {n for n in method.shared_state() if n.split(".")[0] not in method.never_averaged}
        self.average = {n: t.detach().clone() for n, t in self._averageable().items() if n in shared} if ema else {}

    # ---- the average of the weights ----------------------------------------------------------------------

    def _averageable(self) -> dict[str, Tensor]:
        """What an average can be taken of, by name: parameters, and buffers but for the counters, so that averaged weights go with
        averaged statistics (as in BigGAN's code, whose EMA is over the whole state dictionary)."""
        buffers = {n: b for n, b in self.method.named_buffers() if b.is_floating_point()}
        return {**dict(self.method.named_parameters()), **buffers}

    def begin_average(self) -> None:
        """The average is the weights of now."""
        live = self._averageable()
        self.average = {name: live[name].detach().clone() for name in self.average}

    def move_average(self) -> None:
        """a ← d·a + (1 − d)·w after step n, with d = min(``training.ema``, (1 + n) / (10 + n)): the weights of the first steps,
        which are worth nothing, are forgotten in a short run too."""
        if not self.ema:
            return
        live, names = self._averageable(), list(self.average)
        decay = min(self.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_([self.average[n] for n in names], [live[n].detach() for n in names], 1 - decay)

    def swap_average(self, back: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Put the averages into the method, or ``back`` what they replaced; returns what was there."""
        live = self._averageable()
        put = self.average if back is None else back
        before = {n: live[n].detach().clone() for n in put}
        with torch.no_grad():  # and not through .data: what is kept of the weights must see that they changed
            for name, value in put.items():
                live[name].copy_(value)
        return before

    def shared_tensors(self) -> dict[str, Tensor]:
        """What goes into the model file: averages where EMA is on, the raw tensors elsewhere."""
        return {**self.method.shared_state(), **self.average}

    # ---- optimisers --------------------------------------------------------------------------------------

    def optimizer(self, update: Update) -> torch.optim.Adam:
        """The optimiser of an update's name, with a group for each module that has joined it so far."""
        optimizer = self.optimizers.get(update.name)
        seen: set[int] = set()
        for module, rate in zip(update.modules, update.rates or (1.0,) * len(update.modules), strict=True):
            own = [p for p in dict.fromkeys(module.parameters()) if id(p) not in seen]
            seen |= {id(p) for p in own}
            groups = optimizer.param_groups if optimizer else []
            known = next((g for g in groups if own and g["params"][0] is own[0]), None)
            if known is not None:
                known["rate"] = rate
            elif own and optimizer is not None:
                optimizer.add_param_group({"params": own, "rate": rate})
            elif own:
                spec = update.optimizer
                optimizer = torch.optim.Adam(
                    [{"params": own, "rate": rate}],
                    lr=spec.lr,
                    betas=spec.betas,
                    eps=spec.eps,
                    weight_decay=spec.weight_decay,
                    fused=True,
                )
        if optimizer is None:
            raise ValueError(f"update '{update.name}' has no parameters")
        self.optimizers[update.name] = optimizer
        return optimizer

    def take_optimizers(self, tensors: Mapping[str, Tensor]) -> None:
        """Optimiser state from ``optimizer/<update>/<parameter>/<what>``, for the updates up to ``self.step`` (the first stage's
        where that is 0)."""
        if not any(k.startswith("optimizer/") for k in tensors):
            return
        for update in self.plan.updates_until(max(self.step, 1)):
            optimizer = self.optimizer(update)
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                prefix = f"optimizer/{update.name}/{self.names[id(parameter)]}/"
                saved = {
                    k.removeprefix(prefix): laid_out(v, parameter) for k, v in tensors.items() if k.startswith(prefix)
                }
                if saved:
                    optimizer.state[parameter] = saved

    # ---- there and back ----------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that must survive a restart: the one list of it."""
        tensors = {f"method/{k}": v for k, v in self.method.state_dict().items()}
        tensors |= {f"average/{k}": v for k, v in self.average.items()}
        for name, optimizer in self.optimizers.items():
            for parameter, values in optimizer.state.items():
                tensors |= {f"optimizer/{name}/{self.names[id(parameter)]}/{k}": v for k, v in values.items()}
        values = {
            "format": checkpoint.FORMAT,
            "step": self.step,
            "watch": self.watch.state(),
            "pretrained": self.pretrained,
            "averaged": len(self.average),
            "optimizers": {n: c for n, o in self.optimizers.items() if (c := sum(map(len, o.state.values())))},
        }
        return tensors, values

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take back what :meth:`state` gave. Raises CheckpointError when it does not fit."""
        missing = sorted({"step", "watch"} - set(values))  # every value but those that older files do not have
        for name, count in values.get("optimizers", {}).items():
            found = sum(k.startswith(f"optimizer/{name}/") for k in tensors)
            missing += [f"{count - found} tensors of optimizer/{name}"] if found != count else []
        averaged = sum(k.startswith("average/") for k in tensors)
        if (count := values.get("averaged", averaged)) != averaged:
            missing.append(f"{count - averaged} tensors of average")
        if missing:
            raise CheckpointError(f"the saved state is not whole; missing: {', '.join(missing)}")
        own, _ = self.state()
        if not any(k.startswith("average/") for k in tensors):  # EMA switched on: it starts from the weights of now
            tensors = {**tensors, **{f"average/{n}": tensors[f"method/{n}"] for n in self.average}}
        elif not self.average:  # switched off
            tensors = {k: v for k, v in tensors.items() if not k.startswith("average/")}
        elif "averaged" not in values:  # of before statistics were averaged, too: theirs begin with the raw ones
            own_buffers = self.average.keys() & {n for n, _ in self.method.named_buffers()}
            raw = {f"average/{n}": v for n in own_buffers if (v := tensors.get(f"method/{n}")) is not None}
            tensors = {**raw, **tensors}
        own_names = {k for k in own if not k.startswith("optimizer/")}
        given_names = {k for k in tensors if not k.startswith("optimizer/")}
        if own_names != given_names:
            raise CheckpointError(
                f"the saved state does not fit this method; it differs in: {', '.join(sorted(own_names ^ given_names)[:8])}"
            )
        other = [k for k in sorted(own_names) if own[k].shape != tensors[k].shape]
        if other:
            lines = "".join(f"\n  {k}: here {tuple(own[k].shape)}, saved {tuple(tensors[k].shape)}" for k in other[:8])
            raise CheckpointError(
                f"the saved state does not fit this method; {len(other)} tensors have other shapes, so a setting that shapes the "
                f"networks has changed. Repeat the old one, or use another --out{lines}"
            )
        self.method.load_state_dict(
            {k.removeprefix("method/"): v for k, v in tensors.items() if k.startswith("method/")}
        )
        for name in self.average:
            self.average[name] = laid_out(tensors[f"average/{name}"], self.average[name])
        self.step = values["step"]
        self.take_optimizers(tensors)
        self.method.check_parts()
        self.watch.restore(values["watch"])
        self.pretrained = list(values.get("pretrained", ()))  # files from before there was such a thing


def laid_out(value: Tensor, like: Tensor) -> Tensor:
    """A copy of ``value`` on the device and, where the shapes are equal, in the memory format of ``like``: the same arithmetic,
    bit for bit, after a restart."""
    if value.shape != like.shape:
        return value.to(like.device, copy=True)
    return torch.empty_like(like, dtype=value.dtype).copy_(value)
