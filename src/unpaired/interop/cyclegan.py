"""Checkpoints of CycleGAN, in: of pytorch-CycleGAN-and-pix2pix, and of code whose networks are built alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from unpaired.errors import CheckpointError
from unpaired.interop.tensors import Foreign, Names, finished, settings
from unpaired.interop.unit import SIZE
from unpaired.machine import shapes_only
from unpaired.methods.attend import Attend
from unpaired.methods.cycle import Cycle


def import_cyclegan(
    files: Sequence[Path | str], domains: tuple[str, str] = ("a", "b")
) -> tuple[Attend | Cycle, dict[str, Any]]:
    """Two generators (``*_net_G_A.pth``, ``*_net_G_B.pth``) as a model of method ``cycle``; one alone as a one-way
    model of method ``attend`` without attention.

    ResNet generators of any width and number of blocks, with instance norm, with or without parameters. ``files`` may
    go on with a discriminator for each generator (``*_net_D_A.pth``, ``*_net_D_B.pth``), to train on; ``D_A`` judges
    what ``G_A`` makes. ``domains``: what the first generator translates from and to. Raises CheckpointError.
    """
    read = [Foreign(path) for path in files]
    generators = [file for file in read if "model.0.weight" not in file.tensors]
    judges = [file for file in read if file not in generators]
    if len(generators) not in (1, 2) or len(judges) not in (0, len(generators)):
        raise CheckpointError(
            f"{len(generators)} generators and {len(judges)} discriminators: give one or two generators, and as many "
            "discriminators or none, as in G_A.pth G_B.pth D_A.pth D_B.pth"
        )
    both = len(generators) == 2
    outlines = [_generator(file) for file in generators]
    found, _ = outlines[0]
    for file, (other, _) in zip(generators, outlines, strict=True):
        if other != found:
            raise CheckpointError(f"{file.path}: its network is {other}, that of {generators[0].path} is {found}")
    judge_names: list[Names] = []
    if judges:
        more = [_discriminator(file) for file in judges]
        found = found | more[0][0]
        judge_names = [names for _, names in more]
    kind: type[Attend] | type[Cycle] = Cycle if both else Attend
    if not both:
        found |= {"attention": False, "dilation": 1, "discriminator_norm": "instance", "gan": "lsgan"}
        found |= {"source": domains[0]}
    config = settings(kind, generators[0], found)
    with shapes_only():  # no memory for what a file claims before it has been compared
        outline = kind(config, domains, image_size=SIZE)
    made, judging = _networks(outline)
    states = [f.fitted(n.state_dict(), names) for f, n, (_, names) in zip(generators, made, outlines, strict=True)]
    judged = [f.fitted(n.state_dict(), names) for f, n, names in zip(judges, judging, judge_names, strict=False)]
    method = kind(config, domains, image_size=SIZE)
    made, judging = _networks(method)
    for network, state in zip((*made, *judging), (*states, *judged), strict=False):
        network.load_state_dict(state)
    kept = {"discriminator", "discriminators"} if judges else set()
    for name in set(method.training_only) - kept:
        delattr(method, name)  # not part of what was imported, and no weights to start from
    return finished(method, "cycle" if both else "attend", {"imported_from": "CycleGAN"})


def _networks(method: Attend | Cycle) -> tuple[list[nn.Module], list[nn.Module]]:
    """The generators, there and back, and the discriminators of what they make."""
    if isinstance(method, Attend):
        return [method.generator], [method.discriminator]
    return list(method.generators), list(method.discriminators.children())[::-1]  # D_A of the file judges b


def _generator(file: Foreign) -> tuple[dict[str, Any], Names]:
    """Settings and names of a ResNet generator."""
    file.tensors = {k.replace(".block.", ".conv_block."): v for k, v in file.tensors.items()}
    first = file.needed("model.1.weight", "a ResNet generator of CycleGAN")
    blocks = file.count("model.{}.conv_block.1.weight", 10)
    affine = "model.2.weight" in file.tensors
    if not blocks or "model.2.running_mean" in file.tensors:
        raise CheckpointError(
            f"{file.path}: not a ResNet generator of CycleGAN with instance norm, which is what can be imported "
            "(U-Nets and batch norm cannot)"
        )
    up = 10 + blocks
    layers = {1: "front.0", 4: "front.1", 7: "front.2", up: "back.0", up + 3: "back.1"}
    names: Names = {f"model.{i}": f"{layer}.0" for i, layer in layers.items()}
    names[f"model.{up + 7}"] = "head"
    if affine:
        names |= {f"model.{i + 1}": f"{layer}.1" for i, layer in layers.items()}
    for i in range(blocks):
        there, here = f"model.{10 + i}.conv_block", f"blocks.{i}.body"
        second = 5 if f"{there}.5.weight" in file.tensors else 6  # dropout, never used in translating, moves it by one
        names |= {f"{there}.1": f"{here}.0", f"{there}.{second}": f"{here}.3"}
        if affine:
            names |= {f"{there}.2": f"{here}.1", f"{there}.{second + 1}": f"{here}.4"}
    norm = "affine" if affine else "instance"
    return {"width": len(first), "residual_blocks": blocks, "norm": norm}, names


def _discriminator(file: Foreign) -> tuple[dict[str, Any], Names]:
    """Settings and names of a PatchGAN."""
    width = len(file.needed("model.0.weight", "a PatchGAN of CycleGAN"))
    layers = 0
    while f"model.{2 + 3 * layers}.weight" in file.tensors:  # each layer, its norm and its LeakyReLU
        layers += 1
    layers = max(1, layers - 1)  # the last of these is the head
    names: Names = {"model.0": "layers.0.0", f"model.{2 + 3 * layers}": "head"}
    names |= {f"model.{2 + 3 * i}": f"layers.{i + 1}.0" for i in range(layers)}
    return {"discriminator_width": width, "discriminator_layers": layers}, names
