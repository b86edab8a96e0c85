"""Checkpoints of BigGAN-PyTorch, and of DeepI2I on it, in. The names of their tensors are ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from unpaired.errors import CheckpointError, ConfigError
from unpaired.interop.tensors import cleaned, count, finished, needed, read_torch_file, same_names
from unpaired.machine import shapes_only
from unpaired.methods.deepi2i import DeepI2I
from unpaired.methods.gans import BigGAN
from unpaired.networks.biggan import Discriminator, Generator, Shape, settled, with_classes


def import_biggan(
    gen: Path | str, dis: Path | str, domains: tuple[str, ...] | None = None, *, standing: int = 0
) -> tuple[BigGAN, dict[str, Any]]:
    """Generator and discriminator of BigGAN-PyTorch: method in eval mode and header for ``checkpoint.write_model``.

    Resolution, widths, latents and the number of classes come from the tensors.

    Args:
        domains: a name for each class, in order; numbered names when None.
        standing: above 0, batch norms get the mean statistics of this many batches of noise instead of the running ones.

    Raises:
        CheckpointError: unsafe, damaged, or not such a checkpoint; mismatching tensors are listed.
        ConfigError: another number of names than the file has classes.
    """
    gen_path, dis_path = Path(gen), Path(dis)
    tensors = cleaned(read_torch_file(gen_path))
    shape = _biggan_shape(gen_path, tensors)
    if domains is None:
        digits = max(3, len(str(shape.classes - 1)))
        domains = tuple(f"class-{i:0{digits}d}" for i in range(shape.classes))
    if len(domains) != shape.classes:
        raise ConfigError(
            f"{gen_path} has {shape.classes} classes, --domains names {len(domains)}; name them all, or none"
        )
    model = BigGAN.Config(width=shape.width, shared_dim=shape.shared_dim, z_dim=shape.z_dim, attention=shape.attention)
    with shapes_only():  # every tensor comes from the files
        method = BigGAN(model, domains, image_size=shape.size)
    method.generator.load_state_dict(same_names(gen_path, tensors, method.generator.state_dict()), assign=True)
    judge = cleaned(read_torch_file(dis_path))
    needed(dis_path, judge, "embed.weight", "a BigGAN discriminator")
    method.discriminator.load_state_dict(same_names(dis_path, judge, method.discriminator.state_dict()), assign=True)
    if standing > 0:
        method.standing_statistics(standing)
    extra = {"imported_from": "official BigGAN-PyTorch", "licence": "of the imported weights: see their source"}
    return finished(method, "biggan", model, extra)


def import_deepi2i(
    gen: Path | str,
    dis: Path | str,
    enc: Path | str,
    ada: Path | str,
    domains: tuple[str, ...],
    *,
    mode: Literal["transfer", "scratch"] = "transfer",
) -> tuple[DeepI2I, dict[str, Any]]:
    """The four networks of the official DeepI2I (BigGAN variant): method in eval mode and header for ``write_model``.

    Resolution, widths and latents come from the tensors. The released models keep ImageNet's 1000 class rows and use the
    first ones, in the order of their class folders: as many rows are kept as ``domains`` names. The adaptors' and the
    encoder's ``linear`` and ``embed`` are never used there and are left out.

    Args:
        mode: how it was trained there. The adaptors' weights w, which no file holds, follow: 0.1 everywhere after a transfer;
            1, 1, 1, 0.1 at 4, 8, 16, 32 pixels from scratch. The wrong ones give wrong translations.

    Raises:
        CheckpointError: unsafe, damaged, or not such a checkpoint; mismatching tensors are listed.
        ConfigError: more names than the files have classes.
    """
    paths = {"generator": Path(gen), "discriminator": Path(dis), "encoder": Path(enc), "adaptors": Path(ada)}
    given = {name: cleaned(read_torch_file(path)) for name, path in paths.items()}
    shape = _biggan_shape(paths["generator"], given["generator"])
    if not domains or len(domains) > shape.classes:
        raise ConfigError(
            f"{paths['generator']} has {shape.classes} classes, --domains names {len(domains)}; name 1 to {shape.classes}"
        )
    needed(paths["discriminator"], given["discriminator"], "embed.weight", "a DeepI2I discriminator")
    needed(paths["encoder"], given["encoder"], "blocks.0.0.conv1.weight", "a DeepI2I encoder")
    needed(paths["adaptors"], given["adaptors"], "blocks.0.0.conv1.weight", "DeepI2I adaptors")
    for name in ("generator", "discriminator"):  # the released models' further rows belong to no class of theirs
        wanted = Generator if name == "generator" else Discriminator
        with shapes_only():
            same_names(paths[name], given[name], wanted(shape).state_dict())
        if len(domains) < shape.classes:
            given[name] = with_classes(given[name], list(range(len(domains))))
    if len(domains) < shape.classes:
        given["discriminator"] = settled(given["discriminator"])
    model = DeepI2I.Config(
        mode=mode, width=shape.width, shared_dim=shape.shared_dim, z_dim=shape.z_dim, attention=shape.attention,
        reconstruction="mse",  # training that goes on does so as that code trained
    )  # fmt: skip
    with shapes_only():
        method = DeepI2I(model, domains, image_size=shape.size)
    for name, path in paths.items():
        network = method.get_submodule(name)
        dead = ("linear.", "embed.") if name in ("encoder", "adaptors") else ()
        network.load_state_dict(same_names(path, given[name], network.state_dict(), dead), assign=True)
    return finished(method, "deepi2i", model, {"imported_from": "official DeepI2I, BigGAN variant"})


def _biggan_shape(path: Path, tensors: Mapping[str, Tensor]) -> Shape:
    """Sizes of the networks from a generator's tensors. Raises CheckpointError."""
    kind = "a BigGAN generator with shared embedding and hierarchical latents"
    shared = needed(path, tensors, "shared.weight", kind)
    linear = needed(path, tensors, "linear.weight", kind)
    last = needed(path, tensors, "output_layer.0.gain", kind)
    blocks = count(tensors, "blocks.{}.0.conv1.weight")
    sides, thinnest = {3: 32, 4: 64, 5: 128, 6: 256}, {3: 4, 4: 2, 5: 1, 6: 1}
    if blocks not in sides or shared.ndim != 2 or linear.ndim != 2 or len(last) % thinnest.get(blocks, 1):
        raise CheckpointError(f"{path}: {blocks} blocks; BigGAN has 3 to 6, for 32 to 256 pixels")
    attention = [8 * 2**i for i in range(blocks) if f"blocks.{i}.1.gamma" in tensors]
    return Shape(
        size=sides[blocks],
        width=len(last) // thinnest[blocks],
        classes=len(shared),
        shared_dim=shared.shape[1],
        z_dim=linear.shape[1] * (blocks + 1),
        attention=attention[0] if attention else 0,
    )
