"""Checkpoints of GANs, and of DeepI2I on both kinds, in.

BigGAN-PyTorch and the released DeepI2I on it have a file a network, whose tensors are called as here.
style-based-gan-pytorch and DeepI2I's variant on it write one file with several networks, each grown up to 1024 pixels
whatever it was trained at; blocks beyond the resolution in use are left out. NVIDIA's own files are Python pickles that
run code when opened; they are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from torch import nn

from unpaired.errors import CheckpointError, ConfigError
from unpaired.interop.tensors import Foreign, finished
from unpaired.machine import shapes_only
from unpaired.methods.deepi2i import DeepI2I, DeepI2IStyleGAN
from unpaired.methods.gans import BigGAN, StyleGAN
from unpaired.networks import biggan, stylegan

_LICENCE = "of the imported weights: see their source"

# -- BigGAN


def import_biggan(
    gen: Path | str, dis: Path | str, domains: tuple[str, ...] | None = None
) -> tuple[BigGAN, dict[str, Any]]:
    """Generator and discriminator of BigGAN-PyTorch.

    ``domains`` names each class, in order; None numbers them.

    Raises CheckpointError, or ConfigError: another number of names than the file has classes.
    """
    generator = Foreign(gen)
    shape = _biggan_shape(generator)
    if domains is None:
        digits = max(3, len(str(shape.classes - 1)))
        domains = tuple(f"class-{i:0{digits}d}" for i in range(shape.classes))
    if len(domains) != shape.classes:
        what = f"{generator.path} has {shape.classes} classes, --domains names {len(domains)}"
        raise ConfigError(f"{what}; name them all, or none")
    model = BigGAN.Config(width=shape.width, shared_dim=shape.shared_dim, z_dim=shape.z_dim, attention=shape.attention)
    with shapes_only():  # every tensor comes from the files
        method = BigGAN(model, domains, image_size=shape.size)
    _fill(method.generator, generator)
    discriminator = Foreign(dis)
    discriminator.needed("embed.weight", "a BigGAN discriminator")
    _fill(method.discriminator, discriminator)
    return finished(method, "biggan", {"imported_from": "official BigGAN-PyTorch", "licence": _LICENCE})


def import_deepi2i(
    gen: Path | str,
    dis: Path | str,
    enc: Path | str,
    ada: Path | str,
    domains: tuple[str, ...],
    *,
    mode: Literal["transfer", "scratch"] = "transfer",
) -> tuple[DeepI2I, dict[str, Any]]:
    """The four networks of the official DeepI2I (BigGAN variant).

    The released models keep ImageNet's 1000 class rows and use the first ones, in the order of their class folders: as
    many rows are kept as ``domains`` names. The adaptors' and the encoder's ``linear`` and ``embed`` are never used
    there and are left out.

    Args:
        mode: how it was trained there. The adaptors' weights w, which no file holds, follow: 0.1 everywhere after a
            transfer; 1, 1, 1, 0.1 at 4, 8, 16, 32 pixels from scratch. The wrong ones give wrong translations.

    Raises CheckpointError, or ConfigError: more names than the files have classes.
    """
    paths = {"generator": gen, "discriminator": dis, "encoder": enc, "adaptors": ada}
    given = {name: Foreign(path) for name, path in paths.items()}
    shape = _biggan_shape(given["generator"])
    if not domains or len(domains) > shape.classes:
        what = f"{given['generator'].path} has {shape.classes} classes, --domains names {len(domains)}"
        raise ConfigError(f"{what}; name 1 to {shape.classes}")
    given["discriminator"].needed("embed.weight", "a DeepI2I discriminator")
    given["encoder"].needed("blocks.0.0.conv1.weight", "a DeepI2I encoder")
    given["adaptors"].needed("blocks.0.0.conv1.weight", "DeepI2I adaptors")
    for name, kind in (("generator", biggan.Generator), ("discriminator", biggan.Discriminator)):
        with shapes_only():
            whole = kind(shape).state_dict()
        tensors = given[name].fitted(whole)
        if len(domains) < shape.classes:  # further rows belong to no class of theirs
            tensors = biggan.with_classes(tensors, list(range(len(domains))))
            tensors = biggan.settled(tensors) if name == "discriminator" else tensors
        given[name].tensors = tensors
    model = DeepI2I.Config(
        mode=mode,
        width=shape.width,
        shared_dim=shape.shared_dim,
        z_dim=shape.z_dim,
        attention=shape.attention,
        reconstruction="mse",  # training that goes on does so as that code trained
    )
    with shapes_only():
        method = DeepI2I(model, domains, image_size=shape.size)
    for name, file in given.items():
        _fill(method.get_submodule(name), file, ("linear.", "embed.") if name in ("encoder", "adaptors") else ())
    return finished(method, "deepi2i", {"imported_from": "official DeepI2I, BigGAN variant"})


def _fill(network: nn.Module, file: Foreign, unused: tuple[str, ...] = ()) -> None:
    """Give ``network`` its tensors, which are called alike. Raises CheckpointError."""
    network.load_state_dict(file.fitted(network.state_dict(), unused=unused), assign=True)


def _biggan_shape(file: Foreign) -> biggan.Shape:
    """Sizes of the networks from a generator's tensors. Raises CheckpointError."""
    kind = "a BigGAN generator with shared embedding and hierarchical latents"
    shared, linear = file.needed("shared.weight", kind), file.needed("linear.weight", kind)
    last = file.needed("output_layer.0.gain", kind)
    blocks = file.count("blocks.{}.0.conv1.weight")
    sides, thinnest = {3: 32, 4: 64, 5: 128, 6: 256}, {3: 4, 4: 2, 5: 1, 6: 1}
    if blocks not in sides or shared.ndim != 2 or linear.ndim != 2 or len(last) % thinnest.get(blocks, 1):
        raise CheckpointError(f"{file.path}: {blocks} blocks; BigGAN has 3 to 6, for 32 to 256 pixels")
    attention = [8 * 2**i for i in range(blocks) if f"blocks.{i}.1.gamma" in file.tensors]
    return biggan.Shape(
        size=sides[blocks],
        width=len(last) // thinnest[blocks],
        classes=len(shared),
        shared_dim=shared.shape[1],
        z_dim=linear.shape[1] * (blocks + 1),
        attention=attention[0] if attention else 0,
    )


# -- StyleGAN

_NVIDIA = (
    "NVIDIA's own StyleGAN files are Python pickles, which can run code when they are opened, so they are not read. "
    "What can be read: the PyTorch file stylegan-256px-new.model of style-based-gan-pytorch"
)
Pairs = Iterator[tuple[str, str]]
"""(official name, ours) of layers and single tensors."""


def import_stylegan(
    file: Path | str, domains: tuple[str, ...] = ("images",), *, size: int = 256
) -> tuple[StyleGAN, dict[str, Any]]:
    """A checkpoint of style-based-gan-pytorch.

    Args:
        file: a dictionary with the networks ``generator`` and ``discriminator``. Its running average is left out:
            DeepI2I's released code starts from the generator itself.
        size: the resolution that it was trained at, which the tensors do not tell.

    Raises CheckpointError, or ConfigError: a size that there is no network for.
    """
    given = _read(Path(file))
    shape, total = _shape(given, size)
    model = StyleGAN.Config(
        width=shape.width, latent=shape.latent, mapping=shape.mapping, rgb_activation=shape.rgb_activation
    )
    with shapes_only():  # every tensor comes from the file
        method = StyleGAN(model, domains, image_size=size)
    _take(method.generator, given, "generator", _generator_names(shape))
    _take(method.discriminator, given, "discriminator", _discriminator_names(shape, total))
    return finished(method, "stylegan", {"imported_from": "style-based-gan-pytorch", "licence": _LICENCE})


def import_deepi2i_stylegan(
    file: Path | str, domains: tuple[str, str], *, size: int = 256
) -> tuple[DeepI2IStyleGAN, dict[str, Any]]:
    """The released DeepI2I on StyleGAN.

    Args:
        file: ``train_step-….model``, a dictionary with ``generator``, ``discriminator``, ``encoder`` and ``align``.
        domains: what it translates from and to.
        size: the resolution that it was trained at.

    Raises CheckpointError, ConfigError.
    """
    given = _read(Path(file))
    shape, total = _shape(given, size)
    model = DeepI2IStyleGAN.Config(
        width=shape.width,
        latent=shape.latent,
        mapping=shape.mapping,
        rgb_activation=shape.rgb_activation,
        source=domains[0],
        reconstruction="mse",
    )
    with shapes_only():
        method = DeepI2IStyleGAN(model, domains, image_size=size)
    _take(method.generator, given, "generator", _generator_names(shape))
    _take(method.discriminator, given, "discriminator", _discriminator_names(shape, total))
    _take(method.encoder, given, "encoder", _discriminator_names(shape, total))
    adaptors = ((f"progression.{i}.conv{n}.0.conv", f"blocks.{i - 1}.0.conv{n}") for i in range(1, 5) for n in (1, 2))
    _take(method.adaptors, given, "align", adaptors)
    return finished(method, "deepi2i-stylegan", {"imported_from": "official DeepI2I, StyleGAN variant"})


def _read(path: Path) -> Foreign:
    try:
        file = Foreign(path)
    except CheckpointError as error:
        if path.suffix == ".pkl":
            raise CheckpointError(f"{error}\n{_NVIDIA}") from error
        raise
    # the blur filters are constants here; `_orig` is what the code's equalised layers call the weight
    blur = re.compile(r"progression\.\d+\.conv(1\.[12]|2\.0)\.weight(_flip)?$")
    kept = {k: v for k, v in file.tensors.items() if not (blur.search(k) and v.shape[1:] == (1, 3, 3))}
    file.tensors = {k.removesuffix("_orig"): v for k, v in kept.items()}
    return file


def _take(network: nn.Module, file: Foreign, prefix: str, names: Pairs) -> None:
    """Give ``network`` the tensors of the file's network ``prefix``; blocks that are not named are left. Raises
    CheckpointError."""
    found = {f"{prefix}.{theirs}": ours for theirs, ours in names}
    network.load_state_dict(file.fitted(network.state_dict(), found, unused=("",)), assign=True)


def _generator_names(shape: stylegan.Shape) -> Pairs:
    for i in range(shape.mapping):
        yield f"style.{2 * i + 1}.linear", f"mapping.{i}"
    yield "generator.progression.0.conv1.input", "constant"
    for k, r in enumerate(shape.resolutions):
        there, here = f"generator.progression.{k}", f"blocks.{k}"
        if k:
            yield f"{there}.conv1.0" if r >= stylegan.FUSED else f"{there}.conv1.1.conv", f"{here}.grow"
        yield f"{there}.conv2.conv", f"{here}.conv"
        for n in (1, 2):
            yield f"{there}.noise{n}.weight", f"{here}.layer{n}.noise"
            yield f"{there}.adain{n}.style.linear", f"{here}.layer{n}.style"
    yield f"generator.to_rgb.{len(shape.resolutions) - 1}.conv", "to_rgb"


def _discriminator_names(shape: stylegan.Shape, total: int) -> Pairs:
    """``total`` blocks are in the file. An encoder has no head, and leaves its names."""
    first = total - len(shape.resolutions)
    activated = ".0" if shape.rgb_activation else ""
    yield f"from_rgb.{first}{activated}.conv", "from_rgb"
    for j, r in enumerate(shape.resolutions[:0:-1]):
        there, here = f"progression.{first + j}", f"blocks.{j}"
        yield f"{there}.conv1.0.conv", f"{here}.conv1"
        yield f"{there}.conv2.1" if r >= stylegan.FUSED else f"{there}.conv2.1.conv", f"{here}.conv2"
    yield f"progression.{total - 1}.conv1.0.conv", "conv1"
    yield f"progression.{total - 1}.conv2.0.conv", "conv2"
    yield "linear.linear", "linear"


def _shape(file: Foreign, size: int) -> tuple[stylegan.Shape, int]:
    """Sizes of the networks from the file's tensors, and how many blocks its discriminator has. Raises CheckpointError,
    ConfigError."""
    kind = "a checkpoint of StyleGAN in PyTorch"
    constant = file.needed("generator.generator.progression.0.conv1.input", kind)
    style = file.needed("generator.style.1.linear.weight", kind)
    total = file.count("generator.generator.progression.{}.conv2.conv.weight")
    mapping = 0
    while f"generator.style.{2 * mapping + 1}.linear.weight" in file.tensors:
        mapping += 1
    if size not in stylegan.SIZES or constant.ndim != 4 or style.ndim != 2:
        raise ConfigError(f"--size {size}: StyleGAN has networks for {', '.join(map(str, stylegan.SIZES))} pixels")
    shape = stylegan.Shape(size, constant.shape[1], style.shape[1], mapping)
    blocks = len(shape.resolutions)
    if blocks > total:
        raise ConfigError(f"{file.path}: its networks end at {4 * 2 ** (total - 1)} pixels; --size {size} is more")
    judges = file.count("discriminator.progression.{}.conv1.0.conv.weight")
    activated = f"discriminator.from_rgb.{judges - blocks}.0.conv.weight" in file.tensors
    return stylegan.Shape(size, shape.width, shape.latent, mapping, activated), judges
