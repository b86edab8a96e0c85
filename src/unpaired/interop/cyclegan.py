"""Checkpoints of CycleGAN (pytorch-CycleGAN-and-pix2pix), in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from unpaired.errors import CheckpointError
from unpaired.interop.tensors import Names, cleaned, convert, count, needed, read_torch_file, run_config
from unpaired.methods.attend import Attend


def import_cyclegan(
    gen: Path | str,
    dis: Path | str | None = None,
    domains: tuple[str, str] = ("a", "b"),
    *,
    image_size: int = 256,
) -> tuple[Attend, dict[str, Any]]:
    """A generator of pytorch-CycleGAN-and-pix2pix (``*_net_G_A.pth``, ``resnet_9blocks`` or with another number, instance norm),
    as a one-way model of method ``attend`` without attention: method in eval mode and header for ``checkpoint.write_model``.

    ``domains``: what the file translates from and to. ``dis``: the PatchGAN that judges ``domains[1]`` (``*_net_D_A.pth`` goes with
    ``G_A``), to go on training. Widths and numbers of layers come from the tensors; ``image_size`` is only recorded.

    Raises:
        CheckpointError: unsafe, damaged, or not such a checkpoint; mismatching tensors are listed.
    """
    gen_path = Path(gen)
    tensors = cleaned(read_torch_file(gen_path))
    first = needed(gen_path, tensors, "model.1.weight", "a ResNet generator of CycleGAN")
    blocks = count(tensors, "model.{}.conv_block.1.weight", 10)
    if not blocks or "model.2.weight" in tensors:
        raise CheckpointError(
            f"{gen_path}: not a ResNet generator of CycleGAN with instance norm, which is what can be imported "
            "(U-Nets and batch norm cannot)"
        )
    names: Names = {"model.1": "front.0.0", "model.4": "front.1.0", "model.7": "front.2.0"}
    for i in range(blocks):
        there = f"model.{10 + i}.conv_block"
        second = 6 if f"{there}.6.weight" in tensors else 5  # dropout, which translating never uses, moves it by one
        names |= {f"{there}.1": f"blocks.{i}.body.0", f"{there}.{second}": f"blocks.{i}.body.3"}
    up = 10 + blocks
    names |= {f"model.{up}": "back.0.0", f"model.{up + 3}": "back.1.0", f"model.{up + 7}": "head"}
    settings: dict[str, Any] = {
        "attention": False, "width": len(first), "residual_blocks": blocks, "dilation": 1, "norm": "instance",
        "discriminator_norm": "instance", "gan": "lsgan", "source": domains[0],
    }  # fmt: skip
    judges: dict[str, Tensor] = {}
    judge_names: Names = {}
    dis_path = Path(dis) if dis is not None else None
    if dis_path:
        judges = cleaned(read_torch_file(dis_path))
        kind = "a PatchGAN of CycleGAN"
        settings["discriminator_width"] = len(needed(dis_path, judges, "model.0.weight", kind))
        layers = 0
        while f"model.{2 + 3 * layers}.weight" in judges:  # each layer, its norm and its LeakyReLU
            layers += 1
        layers = max(1, layers - 1)  # the last of these is the head
        settings["discriminator_layers"] = layers
        judge_names = {"model.0": "layers.0.0", f"model.{2 + 3 * layers}": "head"}
        judge_names |= {f"model.{2 + 3 * i}": f"layers.{i + 1}.0" for i in range(layers)}
    run = run_config("attend", Attend.Config, gen_path, settings, domains, image_size)
    method = Attend(run.model, domains, image_size=image_size)
    method.generator.load_state_dict(convert(gen_path, tensors, names, method.generator.state_dict()))
    if dis_path:
        method.discriminator.load_state_dict(convert(dis_path, judges, judge_names, method.discriminator.state_dict()))
    from unpaired.checkpoint import make_header

    header = make_header(method, run, extra={"imported_from": "pytorch-CycleGAN-and-pix2pix"})
    for name in set(method.training_only) - {"discriminator"}:
        delattr(method, name)  # not part of what was imported, and no weights to start from
    method.requires_grad_(False)
    return method.eval(), header
