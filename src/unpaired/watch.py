"""The GAN watch: one plain warning each for the usual ways in which adversarial training goes wrong. It never stops a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

WON_ACCURACY = 0.98
"""Sign accuracy above which a discriminator is winning outright (figure from the reliability study of this field's trainers)."""
WON_LOGS = 20
"""Consecutive log lines above it before a warning: a discriminator may lead for a while."""
CONSTANT_SPREAD = 0.01
"""Mean standard deviation over a batch of outputs, in units of the range [-1, 1], below which they are all alike."""
SAME_DIFFERENCE = 0.005
"""Mean absolute difference to the input, same units (under one grey level of 255), below which nothing was translated."""
INVERTED_CORRELATION = -0.5
"""Correlation of outputs and inputs below which the colours are turned round: a cycle loss alone does not mind that."""


class Watch:
    """Looks at logged values and at fixed samples; returns warnings, each kind once a run (kept across resume)."""

    def __init__(self) -> None:
        self.won: dict[str, int] = {}
        self.said: set[str] = set()

    def _once(self, key: str, text: str) -> list[str]:
        if key in self.said:
            return []
        self.said.add(key)
        return [text]

    def logged(self, values: Mapping[str, float]) -> list[str]:
        """Call with the values of one log line; keys ending in ``sign_accuracy`` are in [0, 1]."""
        warnings = []
        for key, value in values.items():
            if key.endswith("sign_accuracy"):
                self.won[key] = self.won.get(key, 0) + 1 if value > WON_ACCURACY else 0
                if self.won[key] >= WON_LOGS:
                    player = key.removesuffix("sign_accuracy").rstrip("/") or "discriminator"
                    warnings += self._once(
                        "won",
                        f"{player} tells real from translated almost always ({value:.2f}) for {WON_LOGS} log lines: the generator "
                        "learns little from it. Try fewer discriminator layers, a lower rate, or more images.",
                    )
        return warnings

    def sampled(self, inputs: Tensor, outputs: Tensor, direction: tuple[str, str]) -> list[str]:
        """Call with held-out inputs and their translations, [N, 3, H, W] in [-1, 1]; not meant for an untrained model."""
        warnings = []
        name = f"{direction[0]} → {direction[1]}"
        spread = outputs.float().std(dim=0, correction=0).mean().item()
        if len(outputs) > 1 and spread < CONSTANT_SPREAD < inputs.float().std(dim=0, correction=0).mean().item():
            warnings += self._once(
                "constant",
                f"{name}: all outputs look alike (spread {spread:.4f}): the translator has collapsed, or after few steps has hardly begun. "
                "If they stay so, start again with another seed or a lower rate.",
            )
        difference = (outputs.float() - inputs.float()).abs().mean().item()
        if difference < SAME_DIFFERENCE:
            warnings += self._once(
                "same",
                f"{name}: the output equals the input (mean difference {difference:.4f}): nothing is translated yet. Check that the domains differ.",
            )
        x, y = (t.float().flatten() - t.float().mean() for t in (inputs, outputs))
        correlation = float((x @ y) / (x.norm() * y.norm()).clamp_min(1e-12))
        if correlation < INVERTED_CORRELATION:
            warnings += self._once(
                "inverted",
                f"{name}: the output is the input with its colours inverted (correlation {correlation:.2f}): both directions can agree on "
                "that. Unless the domains are so, start again with another seed.",
            )
        return warnings

    def state(self) -> dict[str, Any]:
        """JSON-ready state for a checkpoint."""
        return {"won": dict(sorted(self.won.items())), "said": sorted(self.said)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state` gave."""
        self.won, self.said = dict(state["won"]), set(state["said"])
