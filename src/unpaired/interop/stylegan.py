"""Checkpoints of StyleGAN in PyTorch (style-based-gan-pytorch), and of DeepI2I's StyleGAN variant on it, in.

Both write one ``torch.save`` file that holds several networks, each grown up to 1024 pixels whatever it was trained at; blocks
beyond the resolution in use are left out. NVIDIA's own files are Python pickles that run code when opened; they are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unpaired.errors import CheckpointError, ConfigError
from unpaired.interop.tensors import cleaned, count, finished, needed, read_torch_file, same_names
from unpaired.methods.deepi2i_stylegan import DeepI2IStyleGAN
from unpaired.methods.stylegan import StyleGAN
from unpaired.networks.stylegan import FUSED, SIZES, Shape

ADAPTORS = (64, 32, 16, 8, 4)
"""Resolutions of the released adaptors, in the file's order; that at 64 pixels has weight 0 there and is left out."""
_NVIDIA = (
    "NVIDIA's own StyleGAN files are Python pickles, which can run code when they are opened, so they are not read. "
    "What can be read: the PyTorch file stylegan-256px-new.model of style-based-gan-pytorch"
)
Names = Iterator[tuple[str, str]]


def _read(path: Path) -> dict[str, Tensor]:
    try:
        tensors = cleaned(read_torch_file(path))
    except CheckpointError as error:
        if path.suffix == ".pkl":
            raise CheckpointError(f"{error}\n{_NVIDIA}") from error
        raise
    # the blur filters are constants here; `_orig` is what the code's equalised layers call the weight
    blur = re.compile(r"progression\.\d+\.conv(1\.[12]|2\.0)\.weight(_flip)?$")
    return {k.removesuffix("_orig"): v for k, v in tensors.items() if not (blur.search(k) and v.shape[1:] == (1, 3, 3))}


def _layers(there: str, here: str) -> Names:
    for leaf in ("weight", "bias"):
        yield f"{there}.{leaf}", f"{here}.{leaf}"


def _generator_names(shape: Shape) -> Names:
    """(official name, ours) of all tensors."""
    for i in range(shape.mapping):
        yield from _layers(f"style.{2 * i + 1}.linear", f"mapping.{i}")
    yield "generator.progression.0.conv1.input", "constant"
    for k, r in enumerate(shape.resolutions):
        there, here = f"generator.progression.{k}", f"blocks.{k}"
        if k:
            yield from _layers(f"{there}.conv1.0" if r >= FUSED else f"{there}.conv1.1.conv", f"{here}.grow")
        yield from _layers(f"{there}.conv2.conv", f"{here}.conv")
        for n in (1, 2):
            yield f"{there}.noise{n}.weight", f"{here}.layer{n}.noise"
            yield from _layers(f"{there}.adain{n}.style.linear", f"{here}.layer{n}.style")
    yield from _layers(f"generator.to_rgb.{len(shape.resolutions) - 1}.conv", "to_rgb")


def _feature_names(shape: Shape, total: int) -> Names:
    """The same for the discriminator without its head; ``total`` blocks are in the file."""
    first = total - len(shape.resolutions)
    activated = ".0" if shape.rgb_activation else ""
    yield from _layers(f"from_rgb.{first}{activated}.conv", "from_rgb")
    for j, r in enumerate(shape.resolutions[:0:-1]):
        there, here = f"progression.{first + j}", f"blocks.{j}"
        yield from _layers(f"{there}.conv1.0.conv", f"{here}.conv1")
        yield from _layers(f"{there}.conv2.1" if r >= FUSED else f"{there}.conv2.1.conv", f"{here}.conv2")


def _head_names(total: int) -> Names:
    yield from _layers(f"progression.{total - 1}.conv1.0.conv", "conv1")
    yield from _layers(f"progression.{total - 1}.conv2.0.conv", "conv2")
    yield from _layers("linear.linear", "linear")


def _adaptor_names() -> Names:
    for i in range(1, len(ADAPTORS)):
        for n in (1, 2):
            yield from _layers(f"progression.{i}.conv{n}.0.conv", f"blocks.{i - 1}.0.conv{n}")


def _shape(path: Path, tensors: Mapping[str, Tensor], generator: str, size: int) -> Shape:
    """Sizes of the networks from the file's tensors. Raises CheckpointError, ConfigError."""
    kind = "a checkpoint of StyleGAN in PyTorch"
    constant = needed(path, tensors, f"{generator}.generator.progression.0.conv1.input", kind)
    style = needed(path, tensors, f"{generator}.style.1.linear.weight", kind)
    total = count(tensors, f"{generator}.generator.progression.{{}}.conv2.conv.weight")
    mapping = 0
    while f"{generator}.style.{2 * mapping + 1}.linear.weight" in tensors:
        mapping += 1
    if size not in SIZES or constant.ndim != 4 or style.ndim != 2:
        raise ConfigError(f"--size {size}: StyleGAN has networks for {', '.join(map(str, SIZES))} pixels")
    shape = Shape(size, constant.shape[1], style.shape[1], mapping)
    blocks = len(shape.resolutions)
    if blocks > total:
        raise ConfigError(f"{path}: its networks end at {4 * 2 ** (total - 1)} pixels; --size {size} is more")
    judges = count(tensors, "discriminator.progression.{}.conv1.0.conv.weight")
    activated = f"discriminator.from_rgb.{judges - blocks}.0.conv.weight" in tensors
    return Shape(size, shape.width, shape.latent, mapping, activated)


def _part(
    path: Path, tensors: Mapping[str, Tensor], network: str, names: Names, wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """One network's tensors under our names, each compared with ``wanted``."""
    found = {ours: tensors[f"{network}.{theirs}"] for theirs, ours in names if f"{network}.{theirs}" in tensors}
    return same_names(path, found, wanted)


def import_stylegan(
    file: Path | str, domains: tuple[str, ...] = ("images",), *, size: int = 256, averaged: bool = False
) -> tuple[StyleGAN, dict[str, Any]]:
    """A checkpoint of style-based-gan-pytorch: method in eval mode and header for ``checkpoint.write_model``.

    Args:
        file: a dictionary with the networks ``generator``, ``discriminator`` and ``g_running``.
        size: the resolution that it was trained at, which the tensors do not tell.
        averaged: take the running average of the generator; DeepI2I's released code starts from the generator itself.

    Raises:
        CheckpointError: unsafe, damaged, or not such a checkpoint; mismatching tensors are listed.
        ConfigError: a size that there is no network for.
    """
    path = Path(file)
    tensors = _read(path)
    generator = "g_running" if averaged else "generator"
    shape = _shape(path, tensors, generator, size)
    total = count(tensors, "discriminator.progression.{}.conv1.0.conv.weight")
    model = StyleGAN.Config(
        width=shape.width, latent=shape.latent, mapping=shape.mapping, rgb_activation=shape.rgb_activation
    )
    with torch.device("meta"):  # every tensor comes from the file
        method = StyleGAN(model, domains, image_size=size)
    for network, prefix, names in (
        (method.generator, generator, _generator_names(shape)),
        (method.discriminator, "discriminator", (*_feature_names(shape, total), *_head_names(total))),
    ):
        network.load_state_dict(_part(path, tensors, prefix, iter(names), network.state_dict()), assign=True)
    extra = {"imported_from": "style-based-gan-pytorch", "licence": "of the imported weights: see their source"}
    return finished(method, "stylegan", model, extra)


def import_deepi2i_stylegan(
    file: Path | str, domains: tuple[str, str], *, size: int = 256
) -> tuple[DeepI2IStyleGAN, dict[str, Any]]:
    """The released DeepI2I on StyleGAN: method in eval mode and header for ``write_model``.

    Args:
        file: ``train_step-….model``, a dictionary with ``generator``, ``discriminator``, ``encoder`` and ``align``.
        domains: what it translates from and to.
        size: the resolution that it was trained at.

    Raises:
        CheckpointError, ConfigError: as :func:`import_stylegan`.
    """
    path = Path(file)
    tensors = _read(path)
    shape = _shape(path, tensors, "generator", size)
    total = count(tensors, "discriminator.progression.{}.conv1.0.conv.weight")
    model = DeepI2IStyleGAN.Config(
        width=shape.width, latent=shape.latent, mapping=shape.mapping, rgb_activation=shape.rgb_activation, source=domains[0],
        reconstruction="mse", loss="wgan-gp",  # training that goes on does so as that code trained
    )  # fmt: skip
    with torch.device("meta"):
        method = DeepI2IStyleGAN(model, domains, image_size=size)
    for network, prefix, names in (
        (method.generator, "generator", _generator_names(shape)),
        (method.discriminator, "discriminator", (*_feature_names(shape, total), *_head_names(total))),
        (method.encoder, "encoder", _feature_names(shape, total)),
        (method.adaptors, "align", _adaptor_names()),
    ):
        network.load_state_dict(_part(path, tensors, prefix, iter(names), network.state_dict()), assign=True)
    return finished(method, "deepi2i-stylegan", model, {"imported_from": "official DeepI2I, StyleGAN variant"})
