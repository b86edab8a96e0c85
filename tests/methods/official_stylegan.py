"""StyleGAN in PyTorch and DeepI2I on it, computed from a dictionary with the official names: an independent reference.

Written with plain functions of torch; nothing of the package is used. w is the largest number of channels, z the
latent's length.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 9
"""4 to 1024 pixels, whatever the resolution in use."""
State = dict[str, Tensor]


def channels(w: int, k: int) -> int:
    """Of the maps at 4 · 2^k pixels."""
    return max(1, min(w, w * 32 // 2 ** (k + 2)))


def _conv(state: State, name: str, c_in: int, c_out: int, kernel: int, *, plain: bool = False) -> None:
    leaf = "weight" if plain else "conv.weight_orig"
    shape = (c_in, c_out) if plain and name.endswith("UP") else (c_out, c_in)
    name = name.removesuffix("UP")
    state[f"{name}.{leaf}"] = torch.randn(*shape, kernel, kernel)
    state[f"{name}.{'bias' if plain else 'conv.bias'}"] = 0.1 * torch.randn(c_out)


def _linear(state: State, name: str, a: int, b: int) -> None:
    state[f"{name}.linear.weight_orig"], state[f"{name}.linear.bias"] = torch.randn(b, a), torch.randn(b)


def _blur(state: State, name: str, c: int) -> None:
    line = torch.tensor([1.0, 2, 1])
    state[f"{name}.weight"] = (torch.outer(line, line) / 16).expand(c, 1, 3, 3).clone()
    state[f"{name}.weight_flip"] = state[f"{name}.weight"].flip(2, 3)


def generator_state(w: int, z: int, mapping: int = 2) -> State:
    """Random tensors."""
    s: State = {}
    for i in range(mapping):
        _linear(s, f"style.{2 * i + 1}", z, z)
    for k in range(LEVELS):
        name, c, before = f"generator.progression.{k}", channels(w, k), channels(w, max(0, k - 1))
        if k == 0:
            s[f"{name}.conv1.input"] = torch.randn(1, c, 4, 4)
        elif k < 5:
            _conv(s, f"{name}.conv1.1", before, c, 3)
            _blur(s, f"{name}.conv1.2", c)
        else:
            _conv(s, f"{name}.conv1.0UP", before, c, 3, plain=True)
            _blur(s, f"{name}.conv1.1", c)
        _conv(s, f"{name}.conv2", c, c, 3)
        for n in (1, 2):
            s[f"{name}.noise{n}.weight_orig"] = torch.randn(1, c, 1, 1)
            _linear(s, f"{name}.adain{n}.style", z, 2 * c)
        _conv(s, f"generator.to_rgb.{k}", c, 3, 1)
    return s


def discriminator_state(w: int) -> State:
    """Random tensors."""
    s: State = {}
    for index in range(LEVELS):
        k = LEVELS - 1 - index  # the input has 4 · 2^k pixels
        name, c = f"progression.{index}", channels(w, k)
        _conv(s, f"from_rgb.{index}.0", 3, c, 1)
        if k == 0:
            _conv(s, f"{name}.conv1.0", c + 1, c, 3)
            _conv(s, f"{name}.conv2.0", c, c, 4)
            continue
        after = channels(w, k - 1)
        _conv(s, f"{name}.conv1.0", c, after, 3)
        _blur(s, f"{name}.conv2.0", after)
        _conv(s, f"{name}.conv2.1", after, after, 3, plain=k >= 5)
    _linear(s, "linear", channels(w, 0), 1)
    return s


def adaptor_state(w: int) -> State:
    """Random tensors of the five adaptors, 64 to 4 pixels."""
    s: State = {}
    for i in range(5):
        for n in (1, 2):
            _conv(s, f"progression.{i}.conv{n}.0", channels(w, 4 - i), channels(w, 4 - i), 3)
    return s


def conv(s: State, name: str, x: Tensor, padding: int) -> Tensor:
    """An equalised convolution."""
    weight = s[f"{name}.conv.weight_orig"]
    return F.conv2d(x, weight * math.sqrt(2 / weight[0].numel()), s[f"{name}.conv.bias"], padding=padding)


def linear(s: State, name: str, x: Tensor) -> Tensor:
    """An equalised linear layer."""
    weight = s[f"{name}.linear.weight_orig"]
    return x @ (weight * math.sqrt(2 / weight.shape[1])).T + s[f"{name}.linear.bias"]


def four_by_four(weight: Tensor, c_in: int) -> Tensor:
    """The kernel of the fused layers."""
    wide = F.pad(weight * math.sqrt(2 / (9 * c_in)), [1] * 4)
    return (wide[..., 1:, 1:] + wide[..., :-1, 1:] + wide[..., 1:, :-1] + wide[..., :-1, :-1]) / 4


def blurred(s: State, name: str, x: Tensor) -> Tensor:
    """The filter of the file."""
    return F.conv2d(x, s[f"{name}.weight"], padding=1, groups=x.shape[1])


def leaky(x: Tensor) -> Tensor:
    """Slope 0.2."""
    return torch.where(x > 0, x, 0.2 * x)


def generate(s: State, z: Tensor, noise: list[Tensor], add: dict[int, Tensor] | None = None) -> Tensor:
    """The image at the resolution of the last noise map."""
    style = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for i in range(sum(k.startswith("style.") for k in s) // 2):
        style = leaky(linear(s, f"style.{2 * i + 1}", style))
    x = s["generator.progression.0.conv1.input"].repeat(len(z), 1, 1, 1)
    for k, each in enumerate(noise):
        name = f"generator.progression.{k}"
        if 0 < k < 5:
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            x = blurred(s, f"{name}.conv1.2", conv(s, f"{name}.conv1.1", x, 1))
        elif k:
            kernel = four_by_four(s[f"{name}.conv1.0.weight"], x.shape[1])
            x = F.conv_transpose2d(x, kernel, s[f"{name}.conv1.0.bias"], stride=2, padding=1)
            x = blurred(s, f"{name}.conv1.1", x)
        for n in (1, 2):
            if n == 2:
                x = conv(s, f"{name}.conv2", x, 1)
            scale = s[f"{name}.noise{n}.weight_orig"]
            x = leaky(x + scale * math.sqrt(2 / scale.shape[1]) * each)
            gamma, beta = linear(s, f"{name}.adain{n}.style", style)[:, :, None, None].chunk(2, 1)
            mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, unbiased=False)
            x = gamma * (x - mean) / (var + 1e-5).sqrt() + beta
        if add and x.shape[-1] in add:
            x = x + add[x.shape[-1]]
    return conv(s, f"generator.to_rgb.{len(noise) - 1}", x, 0)


def judge(s: State, x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
    """Logits and the blocks' outputs by resolution."""
    k = int(math.log2(x.shape[-1])) - 2
    taps = {}
    x = leaky(conv(s, f"from_rgb.{LEVELS - 1 - k}.0", x, 0))
    for level in range(k, 0, -1):
        name = f"progression.{LEVELS - 1 - level}"
        x = blurred(s, f"{name}.conv2.0", leaky(conv(s, f"{name}.conv1.0", x, 1)))
        if level >= 5:
            kernel = four_by_four(s[f"{name}.conv2.1.weight"], x.shape[1])
            x = leaky(F.conv2d(x, kernel, s[f"{name}.conv2.1.bias"], stride=2, padding=1))
        else:
            x = leaky(F.avg_pool2d(conv(s, f"{name}.conv2.1", x, 1), 2))
        taps[x.shape[-1]] = x
    spread = (x.var(0, unbiased=False) + 1e-8).sqrt().mean().expand(len(x), 1, 4, 4)
    x = leaky(conv(s, f"progression.{LEVELS - 1}.conv1.0", torch.cat([x, spread], 1), 1))
    x = leaky(conv(s, f"progression.{LEVELS - 1}.conv2.0", x, 0))
    return linear(s, "linear", x.flatten(1)), taps


def adapt(s: State, taps: dict[int, Tensor]) -> dict[int, Tensor]:
    """Both convolutions of each adaptor there is a tap for."""
    found = {}
    for i, r in enumerate((64, 32, 16, 8, 4)):
        if r in taps:
            x = leaky(conv(s, f"progression.{i}.conv1.0", taps[r], 1))
            found[r] = leaky(conv(s, f"progression.{i}.conv2.0", x, 1))
    return found
