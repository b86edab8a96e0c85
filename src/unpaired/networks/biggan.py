"""BigGAN (Brock, Donahue and Simonyan, ICLR 2019): class-conditional generator and projection discriminator.

Written from the papers; names of tensors and numbers are those of the official PyTorch code, so that its state
dictionaries load here and ours load there: ``u0`` and ``sv0`` beside each spectrally normalised weight,
``stored_mean`` and ``stored_var`` in each batch norm.

Legend: N batch, C channels, H height, W width, K classes; images x [N, 3, S, S] in [-1, 1]; z [N, Z] is the
latent, one chunk for the first layer and one for each block; y [N] int64 is the class; r is a resolution.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unpaired.networks.convnets import steady
from unpaired.networks.kernels import SN_EPS, SNConv2d, SNEmbedding, SNLinear

BN_EPS = 1e-5
BN_MOMENTUM = 0.1


# ------------------------------------------------------------------------------------------ batch norm


class _BatchStatistics(nn.Module):
    """Batch norm without scale and shift; statistics in ``stored_mean`` and ``stored_var`` [C]."""

    stored_mean: Tensor
    stored_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))

    def normalise(self, x: Tensor) -> Tensor:
        """(x - mean) / std over N, H, W in train mode, with the stored statistics in eval mode."""
        return F.batch_norm(
            x, self.stored_mean, self.stored_var, None, None, self.training, BN_MOMENTUM, BN_EPS
        )  # [N, C, H, W]


class BatchNorm(_BatchStatistics):
    """Batch norm with one gain and bias a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias.view(1, -1, 1, 1), self.normalise(x), self.gain.view(1, -1, 1, 1))


class ConditionalBatchNorm(_BatchStatistics):
    """Batch norm whose gain 1 + A c and bias B c are linear in a condition c [N, D]."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__(channels)
        self.gain = SNLinear(condition, channels, bias=False)
        self.bias = SNLinear(condition, channels, bias=False)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        gain, bias = 1 + self.gain(c), self.bias(c)  # [N, C]
        return torch.addcmul(bias[:, :, None, None], self.normalise(x), gain[:, :, None, None])


# ------------------------------------------------------------------------------------------ blocks


class SelfAttention(nn.Module):
    """x + γ o(softmax(θ(x)ᵀ φ(x)) g(x)) (Zhang et al. 2019), keys and values at half the size; γ starts at 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.theta = SNConv2d(channels, max(channels // 8, 1), 1, bias=False)
        self.phi = SNConv2d(channels, max(channels // 8, 1), 1, bias=False)
        self.g = SNConv2d(channels, channels // 2, 1, bias=False)
        self.o = SNConv2d(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        theta = self.theta(x).flatten(2)  # [N, C/8, HW]
        phi = F.max_pool2d(self.phi(x), 2).flatten(2)  # [N, C/8, HW/4]
        g = F.max_pool2d(self.g(x), 2).flatten(2)  # [N, C/2, HW/4]
        attention = (theta.transpose(1, 2) @ phi).softmax(-1)  # [N, HW, HW/4]
        seen = (g @ attention.transpose(1, 2)).view(n, -1, h, w)  # [N, C/2, H, W]
        out: Tensor = x + self.gamma * self.o(seen)
        return out


class GeneratorBlock(nn.Module):
    """Residual block that doubles the size: [N, C_in, H, W], condition [N, D] -> [N, C_out, 2H, 2W]."""

    def __init__(self, channels_in: int, channels_out: int, condition: int) -> None:
        super().__init__()
        self.conv1 = SNConv2d(channels_in, channels_out, 3)
        self.conv2 = SNConv2d(channels_out, channels_out, 3)
        self.conv_sc = SNConv2d(channels_in, channels_out, 1)
        self.bn1 = ConditionalBatchNorm(channels_in, condition)
        self.bn2 = ConditionalBatchNorm(channels_out, condition)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h = F.interpolate(F.relu(self.bn1(x, c)), scale_factor=2)
        h = self.conv2(F.relu(self.bn2(self.conv1(h), c)))
        out: Tensor = h + self.conv_sc(F.interpolate(x, scale_factor=2))
        return out


class DiscriminatorBlock(nn.Module):
    """Residual block, [N, C_in, H, W] -> [N, C_out, H, W], or half the size with ``halve``.

    ``first`` has no activation in front and pools before the shortcut's convolution, as the block that sees the image.
    """

    def __init__(self, channels_in: int, channels_out: int, *, halve: bool, first: bool = False) -> None:
        super().__init__()
        self.halve, self.first = halve, first
        self.conv1 = SNConv2d(channels_in, channels_out, 3)
        self.conv2 = SNConv2d(channels_out, channels_out, 3)
        self.conv_sc = SNConv2d(channels_in, channels_out, 1) if halve or channels_in != channels_out else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        if self.first and self.halve:
            x = F.avg_pool2d(x, 2)
        if self.conv_sc is not None:
            x = self.conv_sc(x)
        if self.halve:
            h = F.avg_pool2d(h, 2)
            if not self.first:
                x = F.avg_pool2d(x, 2)
        out: Tensor = h + x
        return out


# ------------------------------------------------------------------------------------------ networks


@dataclass(frozen=True)
class Shape:
    """Sizes of both networks."""

    size: int = 128
    """Side of the images: 32, 64, 128 or 256."""
    width: int = 96
    """Channels of the networks' largest maps ("ch" in the official code)."""
    classes: int = 1000
    """K."""
    shared_dim: int = 128
    """Size of the class embedding that all conditional norms share."""
    z_dim: int = 120
    """Z asked for; rounded down to equal chunks."""
    attention: int = 64
    """Resolution with self-attention; 0 for none, and none where a network has no map of that resolution."""

    @property
    def generator(self) -> list[tuple[int, int, int]]:
        """(channels in, channels out, resolution out) of each block."""
        factors = {32: (4, 4, 4, 4), 64: (16, 16, 8, 4, 2), 128: (16, 16, 8, 4, 2, 1), 256: (16, 16, 8, 8, 4, 2, 1)}
        c = [f * self.width for f in factors[self.size]]
        return [(c[i], c[i + 1], 8 * 2**i) for i in range(len(c) - 1)]

    @property
    def discriminator(self) -> list[tuple[int, int, int]]:
        """(channels in, channels out, resolution out) of each block."""
        factors = {32: (4, 4, 4, 4), 64: (1, 2, 4, 8, 16), 128: (1, 2, 4, 8, 16, 16), 256: (1, 2, 4, 8, 8, 16, 16)}
        c = [3] + [f * self.width for f in factors[self.size]]
        least = 8 if self.size == 32 else 4
        return [(c[i], c[i + 1], max(self.size // 2 ** (i + 1), least)) for i in range(len(c) - 1)]

    @property
    def chunk(self) -> int:
        """Latent numbers for the first layer, and for each block."""
        return self.z_dim // (len(self.generator) + 1)

    @property
    def latent(self) -> int:
        """Z: length of a latent."""
        return self.chunk * (len(self.generator) + 1)

    @property
    def generator_channels(self) -> dict[int, int]:
        """Resolution -> channels of the generator's map there, the first layer's 4 x 4 included."""
        return {4: self.generator[0][0]} | {r: c for _, c, r in self.generator}

    @property
    def tap_channels(self) -> dict[int, int]:
        """Resolution -> channels of the discriminator's map there."""
        return {r: c for _, c, r in self.discriminator}


SIZES = (32, 64, 128, 256)
"""Sides of images for which the paper's code has networks that fit in ours."""


class Generator(nn.Module):
    """G(z, y): latents [N, Z] and classes [N] -> images [N, 3, S, S] in [-1, 1].

    Hierarchical latents: the first chunk of z makes the 4 x 4 map, each other joins the class embedding as the
    condition of one block. ``add`` has for some resolutions a map that is added to the generator's own there.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.shared = nn.Embedding(shape.classes, shape.shared_dim)
        self.linear = SNLinear(shape.chunk, shape.generator[0][0] * 4 * 4)
        blocks = []
        for c_in, c_out, resolution in shape.generator:
            block: list[nn.Module] = [GeneratorBlock(c_in, c_out, shape.shared_dim + shape.chunk)]
            if resolution == shape.attention:
                block.append(SelfAttention(c_out))
            blocks.append(nn.ModuleList(block))
        self.blocks = nn.ModuleList(blocks)
        last = shape.generator[-1][1]
        self.output_layer = nn.Sequential(BatchNorm(last), nn.ReLU(), SNConv2d(last, 3, 3))

    def forward(self, z: Tensor, y: Tensor, add: Mapping[int, Tensor] | None = None) -> Tensor:
        add = add or {}
        first, *rest = torch.split(z, self.shape.chunk, 1)
        embedded = self.shared(y)
        h = self.linear(first).view(z.shape[0], -1, 4, 4)  # len() would fix the batch of an export
        if 4 in add:
            h = h + add[4]
        for block, chunk, (_, _, resolution) in zip(self.blocks, rest, self.shape.generator, strict=True):
            layers = list(block)  # type: ignore[call-overload]
            h = layers[0](h, torch.cat([embedded, chunk], 1))
            for layer in layers[1:]:
                h = layer(h)
            if resolution in add:
                h = h + add[resolution]
        return torch.tanh(self.output_layer(h).float())


class Features(nn.Module):
    """The discriminator without its head: images [N, 3, S, S] -> maps by resolution.

    Where two blocks share a resolution the last one's map counts. The smallest map is the one after the last
    activation, all others are before the next block's: in the official code the last activation works in place, and
    released models were trained so.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        blocks = []
        side = shape.size
        for i, (c_in, c_out, resolution) in enumerate(shape.discriminator):
            block: list[nn.Module] = [DiscriminatorBlock(c_in, c_out, halve=resolution < side, first=i == 0)]
            if resolution == shape.attention:
                block.append(SelfAttention(c_out))
            blocks.append(nn.ModuleList(block))
            side = resolution
        self.blocks = nn.ModuleList(blocks)

    def taps(self, x: Tensor) -> dict[int, Tensor]:
        """Resolution r -> [N, C_r, r, r]."""
        found = {}
        for block in self.blocks:
            for layer in block:  # type: ignore[attr-defined]
                x = layer(x)
            found[int(x.shape[-1])] = x
        found[int(x.shape[-1])] = F.relu(x)
        return found

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        return self.taps(x)


class Discriminator(Features):
    """D(x, y) = linear(h) + <embed(y), h> with h the sum of the last map over its places (Miyato and Koyama 2018)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        last = shape.discriminator[-1][1]
        self.linear = SNLinear(last, 1)
        self.embed = SNEmbedding(shape.classes, last)

    def pooled(self, taps: Mapping[int, Tensor]) -> Tensor:
        """h [N, C] of the maps that :meth:`taps` gave."""
        return taps[min(taps)].sum((2, 3))

    def judge(self, taps: Mapping[int, Tensor], y: Tensor) -> Tensor:
        """Logits [N, 1]; above 0 is real."""
        h = self.pooled(taps)
        logits: Tensor = self.linear(h) + (self.embed(y) * h).sum(1, keepdim=True)
        return logits

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return self.judge(self.taps(x), y)


def orthogonal_weights(network: nn.Module) -> None:
    """Orthogonal initial weights for all convolutions, linear layers and embeddings (BigGAN, section 3)."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear, nn.Embedding)) and not layer.weight.is_meta:
            with torch.no_grad():  # drawn aside: PyTorch's takes no weights that lie channels_last
                layer.weight.copy_(nn.init.orthogonal_(torch.empty(layer.weight.shape, device=layer.weight.device)))


# ------------------------------------------------------------------------------------------ another set of classes


CLASS_ROWS = ("shared.weight", "embed.weight")
CLASS_VECTOR = "embed.u0"


def nearest_classes(discriminator: Discriminator, images: Iterable[Tensor], taken: Sequence[int] = ()) -> list[int]:
    """For each new class an old one of its own, as which the discriminator takes its ``images`` [n, 3, S, S] for most
    real.

    D(x, y) depends on y through <embed(y), h(x)> alone, so the mean feature h of the images is compared with the old
    classes' embeddings; no image of an old class is needed. Both are centred over their classes: the direction that all
    images share would give every new class the same few old ones. The best of all pairs is taken first, then the best
    of those left, and no old class twice (nor one of ``taken``) while there are others.
    """
    with torch.no_grad(), steady(discriminator):
        table = discriminator.embed.normalised()  # [K, C]
        means = torch.stack([discriminator.pooled(discriminator.taps(x)).mean(0) for x in images])  # [new, C]
    centred = (F.normalize(rows - rows.mean(0), dim=1) for rows in (means, table))
    scores = torch.matmul(next(centred), next(centred).T)  # [new, K]
    free = [k for k in range(len(table)) if k not in taken]
    found = [-1] * len(means)
    for _ in range(len(means)):
        free = free or list(range(len(table)))
        waiting = [i for i, old in enumerate(found) if old < 0]
        best = int(scores[waiting][:, free].argmax())
        old = free.pop(best % len(free))
        found[waiting[best // (len(free) + 1)]] = old
    return found


def with_classes(state: Mapping[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
    """A network's ``state`` with another set of classes: ``rows`` has for each new class the old one whose row it
    starts from."""
    changed = dict(state)
    for name, tensor in state.items():
        if name.endswith(CLASS_ROWS):
            changed[name] = tensor[list(rows)]
        elif name.endswith(CLASS_VECTOR):  # [1, K]: the direction that these rows had, again of length 1
            follows = tensor[:, list(rows)]
            if follows.norm() < SN_EPS:  # its rows had no part in that direction
                follows = torch.ones_like(follows)
            changed[name] = F.normalize(follows, eps=SN_EPS)
    return changed


def settled(state: Mapping[str, Tensor], rounds: int = 200) -> dict[str, Tensor]:
    """A discriminator's ``state`` after some power iterations on the class table alone: after :func:`with_classes` its
    spectral vector need not be near that of the new rows, and the first steps would divide them by a wrong σ."""
    w, u = state["embed.weight"].float(), state["embed.u0"]
    for _ in range(rounds):
        v = F.normalize(u @ w, eps=SN_EPS)  # [1, C]
        u = F.normalize(v @ w.T, eps=SN_EPS)  # [1, K]
    return {**state, "embed.u0": u, "embed.sv0": (v @ w.T @ u.T).view(1)}
