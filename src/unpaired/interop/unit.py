"""Checkpoints of both generations of UNIT, in: the paper's branch (version_02), and the MUNIT code base (master)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from unpaired.errors import CheckpointError
from unpaired.interop.tensors import Names, cleaned, convert, count, needed, read_torch_file, run_config
from unpaired.machine import shapes_only
from unpaired.methods.unit import UNIT

# -- the paper's branch


def import_unit_v2(
    gen: Path | str,
    dis: Path | str | None = None,
    domains: tuple[str, str] = ("a", "b"),
    norm: Literal["none", "instance"] = "none",
    *,
    image_size: int = 256,
) -> tuple[UNIT, dict[str, Any]]:
    """A checkpoint of the paper's branch (version_02): method in eval mode and header for ``checkpoint.write_model``.

    Widths and numbers of layers come from the tensors. Two things the tensors do not tell: ``norm``, because COCOResGen2
    (``none``: faces, streets) and COCOResGen (``instance``: animals) have the same tensors; and ``image_size``, the side of the
    training crops, which is only recorded. ``domains`` names A and B of the file.

    Raises:
        CheckpointError: unsafe, damaged, or not such a checkpoint; mismatching tensors are listed.
    """
    gen_path = Path(gen)
    tensors = cleaned(read_torch_file(gen_path))
    kind = "a generator of UNIT's branch version_02"
    settings: dict[str, Any] = {
        "norm": norm,
        "width": len(needed(gen_path, tensors, "encode_A.0.model.0.weight", kind)),
        "kl": "released",  # training that goes on does so as that code trained
        "weight_decay": 1e-4,
    }
    total = count(tensors, "encode_A.{}.model.0.weight")
    private = sum(f"encode_A.{i}.model.3.weight" in tensors for i in range(total))
    shared = count(tensors, "enc_shared.{}.model.0.weight")
    settings |= {"residual_blocks": private + shared, "shared_layers": shared, "downsampling": total - private - 1}
    names = _v2_generator_names(settings["downsampling"], private, shared)
    judges: dict[str, Tensor] = {}
    judge_names: Names = {}
    dis_path = Path(dis) if dis is not None else None
    if dis_path:
        judges = cleaned(read_torch_file(dis_path))
        found, judge_names = _v2_discriminators(dis_path, judges)
        settings |= found
    return _assemble("paper", gen_path, tensors, names, dis_path, judges, judge_names, settings, domains, image_size)


def _v2_generator_names(downsampling: int, private: int, shared: int) -> Names:
    names: Names = {}
    front = downsampling + 1
    for number, letter in enumerate("AB"):
        for i in range(front):
            names[f"encode_{letter}.{i}.model.0"] = f"encoders.{number}.{i}.0"
        for i in range(private):
            for j in (0, 3):
                names[f"encode_{letter}.{front + i}.model.{j}"] = f"encoders.{number}.{front + i}.body.{j}"
                names[f"decode_{letter}.{i}.model.{j}"] = f"generators.{number}.{i}.body.{j}"
        for i in range(private, private + downsampling):
            names[f"decode_{letter}.{i}.model.0"] = f"generators.{number}.{i}.0"
        names[f"decode_{letter}.{private + downsampling}"] = f"generators.{number}.{private + downsampling}.0"
    for i in range(shared):
        for j in (0, 3):
            names[f"enc_shared.{i}.model.{j}"] = f"encoder_shared.{i}.body.{j}"
            names[f"dec_shared.{i}.model.{j}"] = f"generator_shared.{i}.body.{j}"
    return names


def _v2_discriminators(path: Path, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], Names]:
    """Settings and names of COCODis (``separate``), COCOSharedDis (``shared``) or COCOMsDis (``multiscale``)."""
    names: Names = {}
    kind = "a discriminator of UNIT's branch version_02"
    if "model_1_A.0.model.0.weight" in tensors:
        first, layers = "model_1_A.0.model.0.weight", count(tensors, "model_1_A.{}.model.0.weight")
        for number, letter in enumerate("AB"):
            for scale, factor in enumerate(
                (1, 2, 4)
            ):  # the official names tell how often the image was halved, as a factor
                there, here = f"model_{factor}_{letter}", f"discriminators.of_domain.{number}.scales.{scale}"
                names |= {f"{there}.{i}.model.0": f"{here}.features.{i}.0" for i in range(layers)}
                names[f"{there}.{layers}"] = f"{here}.head"
        found: dict[str, Any] = {"discriminator": "multiscale", "discriminator_layers": layers, "scales": 3}
    else:
        first, layers = "model_A.0.model.0.weight", count(tensors, "model_A.{}.model.0.weight")
        back = count(tensors, "model_S.{}.model.0.weight")
        for number, letter in enumerate("AB"):
            here = f"discriminators.fronts.{number}" if back else f"discriminators.of_domain.{number}.features"
            names |= {f"model_{letter}.{i}.model.0": f"{here}.{i}.0" for i in range(layers)}
            if not back:
                names[f"model_{letter}.{layers}"] = f"discriminators.of_domain.{number}.head"
        found = {"discriminator": "separate", "discriminator_layers": layers}
        if back:
            names |= {f"model_S.{i}.model.0": f"discriminators.back.{i}.0" for i in range(back)}
            names[f"model_S.{back}"] = "discriminators.head"
            found = {"discriminator": "shared", "discriminator_private": layers, "discriminator_layers": layers + back}
    return found | {"discriminator_width": len(needed(path, tensors, first, kind))}, names


# -- the MUNIT code base


def import_unit_munit(
    gen: Path | str,
    dis: Path | str | None = None,
    domains: tuple[str, str] = ("a", "b"),
    *,
    image_size: int = 256,
) -> tuple[UNIT, dict[str, Any]]:
    """A UNIT checkpoint of the MUNIT code base (UNIT's master): method in eval mode and header for ``checkpoint.write_model``.

    Widths and numbers of layers come from the tensors; ``image_size`` is only recorded. ``domains`` names ``a`` and ``b``.

    Raises:
        CheckpointError: unsafe, damaged, or not such a checkpoint; mismatching tensors are listed.
    """
    gen_path = Path(gen)
    tensors = {
        re.sub(r"^([ab]\.)enc_content\.", r"\1enc.", k): v for k, v in cleaned(read_torch_file(gen_path)).items()
    }
    if any(".mlp." in k or ".enc_style." in k for k in tensors):
        raise CheckpointError(
            f"{gen_path}: a MUNIT model with style codes; only models of its UNIT trainer can be imported"
        )
    width = len(needed(gen_path, tensors, "a.enc.model.0.conv.weight", "a generator of the MUNIT code base's UNIT"))
    downsampling = count(tensors, "a.enc.model.{}.conv.weight") - 1
    blocks = count(tensors, f"a.enc.model.{downsampling + 1}.model.{{}}.model.0.conv.weight")
    settings: dict[str, Any] = {"width": width, "downsampling": downsampling, "residual_blocks": blocks}
    names = _munit_generator_names(downsampling, blocks)
    judges: dict[str, Tensor] = {}
    judge_names: Names = {}
    dis_path = Path(dis) if dis is not None else None
    if dis_path:
        judges = cleaned(read_torch_file(dis_path))
        first = needed(dis_path, judges, "a.cnns.0.0.conv.weight", "a discriminator of the MUNIT code base's UNIT")
        scales = count(judges, "a.cnns.{}.0.conv.weight")
        layers = count(judges, "a.cnns.0.{}.conv.weight")
        for number, letter in enumerate("ab"):
            for s in range(scales):
                there, here = f"{letter}.cnns.{s}", f"discriminators.of_domain.{number}.scales.{s}"
                judge_names |= {f"{there}.{i}.conv": f"{here}.features.{i}.0" for i in range(layers)}
                judge_names[f"{there}.{layers}"] = f"{here}.head"
        settings |= {"discriminator_width": len(first), "discriminator_layers": layers, "scales": scales}
    return _assemble("munit", gen_path, tensors, names, dis_path, judges, judge_names, settings, domains, image_size)


def _munit_generator_names(downsampling: int, blocks: int) -> Names:
    names: Names = {}
    front = downsampling + 1
    for number, letter in enumerate("ab"):
        encoder, generator = f"encoders.{number}", f"generators.{number}"
        for i in range(front):
            names[f"{letter}.enc.model.{i}.conv"] = f"{encoder}.{i}.0"
        for i in range(blocks):
            for j, layer in enumerate((0, 3)):
                names[f"{letter}.enc.model.{front}.model.{i}.model.{j}.conv"] = f"{encoder}.{front + i}.body.{layer}"
                names[f"{letter}.dec.model.0.model.{i}.model.{j}.conv"] = f"{generator}.{i}.body.{layer}"
        for i in range(downsampling):  # every other entry there is the parameterless upsampling
            names[f"{letter}.dec.model.{2 * i + 2}.conv"] = f"{generator}.{blocks + i}.1"
            names[f"{letter}.dec.model.{2 * i + 2}.norm"] = f"{generator}.{blocks + i}.2"
        names[f"{letter}.dec.model.{2 * downsampling + 1}.conv"] = f"{generator}.{blocks + downsampling}.0"
    return names


# -- both


def _assemble(
    architecture: str,
    gen_path: Path,
    tensors: Mapping[str, Tensor],
    names: Names,
    dis_path: Path | None,
    judges: Mapping[str, Tensor],
    judge_names: Names,
    settings: Mapping[str, Any],
    domains: tuple[str, str],
    image_size: int,
) -> tuple[UNIT, dict[str, Any]]:
    from unpaired.checkpoint import make_header

    run = run_config("unit", UNIT.Config, gen_path, {"architecture": architecture, **settings}, domains, image_size)
    model = run.model
    with shapes_only():
        method = UNIT(model, domains, image_size=image_size)
    wanted = method.state_dict()
    translators = {k: v for k, v in wanted.items() if not k.startswith("discriminators.")}
    state = convert(gen_path, tensors, names, translators)
    if dis_path:
        state |= convert(dis_path, judges, judge_names, {k: v for k, v in wanted.items() if k not in translators})
    method = UNIT(model, domains, image_size=image_size)
    method.load_state_dict(state, strict=dis_path is not None)
    step = re.search(r"_(\d{8})$", gen_path.stem)
    header = make_header(
        method,
        run,
        step=int(step.group(1)) if step else 0,
        extra={"imported_from": f"official UNIT, {'version_02' if architecture == 'paper' else 'MUNIT code base'}"},
    )
    method.requires_grad_(False)
    return method.eval(), header
