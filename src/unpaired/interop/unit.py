"""Checkpoints of UNIT, in: of the paper's branch (version_02) and of the MUNIT code base (master)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from unpaired.errors import CheckpointError
from unpaired.interop.tensors import Foreign, Names, finished, settings
from unpaired.machine import shapes_only
from unpaired.methods.unit import UNIT

SIZE = 256
"""Recorded side of the training crops, which no file tells: that of the published experiments."""

# -- the paper's branch


def import_unit_v2(
    gen: Path | str,
    dis: Path | str | None = None,
    domains: tuple[str, str] = ("a", "b"),
    norm: Literal["none", "instance"] = "none",
) -> tuple[UNIT, dict[str, Any]]:
    """A checkpoint of the paper's branch (version_02).

    ``norm`` the tensors do not tell: COCOResGen2 (``none``: faces, streets) and COCOResGen (``instance``: animals) have
    the same. ``domains`` names A and B of the file. Raises CheckpointError.
    """
    file = Foreign(gen)
    width = len(file.needed("encode_A.0.model.0.weight", "a generator of UNIT's branch version_02"))
    total = file.count("encode_A.{}.model.0.weight")
    private = sum(f"encode_A.{i}.model.3.weight" in file.tensors for i in range(total))
    shared = file.count("enc_shared.{}.model.0.weight")
    downsampling = total - private - 1
    found: dict[str, Any] = {
        "architecture": "paper", "norm": norm, "width": width, "residual_blocks": private + shared,
        "shared_layers": shared, "downsampling": downsampling,
        "kl": "released", "weight_decay": 1e-4,  # training that goes on does so as that code trained
    }  # fmt: skip
    names: Names = {}
    front = downsampling + 1
    for number, letter in enumerate("AB"):
        encoder, generator = f"encoders.{number}", f"generators.{number}"
        names |= {f"encode_{letter}.{i}.model.0": f"{encoder}.{i}.0" for i in range(front)}
        for i in range(private):
            for j in (0, 3):
                names[f"encode_{letter}.{front + i}.model.{j}"] = f"{encoder}.{front + i}.body.{j}"
                names[f"decode_{letter}.{i}.model.{j}"] = f"{generator}.{i}.body.{j}"
        last = private + downsampling
        names |= {f"decode_{letter}.{i}.model.0": f"{generator}.{i}.0" for i in range(private, last)}
        names[f"decode_{letter}.{last}"] = f"{generator}.{last}.0"
    for i in range(shared):
        for j in (0, 3):
            names[f"enc_shared.{i}.model.{j}"] = f"encoder_shared.{i}.body.{j}"
            names[f"dec_shared.{i}.model.{j}"] = f"generator_shared.{i}.body.{j}"
    judges = Foreign(dis) if dis is not None else None
    judge_names: Names = {}
    if judges is not None:
        more, judge_names = _v2_discriminators(judges)
        found |= more
    return _unit((file, names), (judges, judge_names), found, domains)


def _v2_discriminators(file: Foreign) -> tuple[dict[str, Any], Names]:
    """Settings and names of COCODis (``separate``), COCOSharedDis (``shared``) or COCOMsDis (``multiscale``)."""
    names: Names = {}
    if "model_1_A.0.model.0.weight" in file.tensors:
        first, layers = "model_1_A.0.model.0.weight", file.count("model_1_A.{}.model.0.weight")
        for number, letter in enumerate("AB"):
            for scale, factor in enumerate((1, 2, 4)):  # how much smaller the image was made
                there, here = f"model_{factor}_{letter}", f"discriminators.of_domain.{number}.scales.{scale}"
                names |= {f"{there}.{i}.model.0": f"{here}.features.{i}.0" for i in range(layers)}
                names[f"{there}.{layers}"] = f"{here}.head"
        found: dict[str, Any] = {"discriminator": "multiscale", "discriminator_layers": layers, "scales": 3}
    else:
        first, layers = "model_A.0.model.0.weight", file.count("model_A.{}.model.0.weight")
        back = file.count("model_S.{}.model.0.weight")
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
    width = len(file.needed(first, "a discriminator of UNIT's branch version_02"))
    return found | {"discriminator_width": width}, names


# -- the MUNIT code base


def import_unit_munit(
    gen: Path | str, dis: Path | str | None = None, domains: tuple[str, str] = ("a", "b")
) -> tuple[UNIT, dict[str, Any]]:
    """A UNIT checkpoint of the MUNIT code base (UNIT's master). ``domains`` names ``a`` and ``b``. Raises
    CheckpointError."""
    file = Foreign(gen)
    file.tensors = {re.sub(r"^([ab]\.)enc_content\.", r"\1enc.", k): v for k, v in file.tensors.items()}
    if any(".mlp." in k or ".enc_style." in k for k in file.tensors):
        raise CheckpointError(
            f"{file.path}: a MUNIT model with style codes; only models of its UNIT trainer can be imported"
        )
    width = len(file.needed("a.enc.model.0.conv.weight", "a generator of the MUNIT code base's UNIT"))
    front = file.count("a.enc.model.{}.conv.weight")
    blocks = file.count(f"a.enc.model.{front}.model.{{}}.model.0.conv.weight")
    found: dict[str, Any] = {
        "architecture": "munit", "width": width, "downsampling": front - 1, "residual_blocks": blocks
    }  # fmt: skip
    names: Names = {}
    for number, letter in enumerate("ab"):
        encoder, generator = f"encoders.{number}", f"generators.{number}"
        names |= {f"{letter}.enc.model.{i}.conv": f"{encoder}.{i}.0" for i in range(front)}
        for i in range(blocks):
            for j, layer in enumerate((0, 3)):
                names[f"{letter}.enc.model.{front}.model.{i}.model.{j}.conv"] = f"{encoder}.{front + i}.body.{layer}"
                names[f"{letter}.dec.model.0.model.{i}.model.{j}.conv"] = f"{generator}.{i}.body.{layer}"
        for i in range(front - 1):  # every other entry there is the parameterless upsampling
            names[f"{letter}.dec.model.{2 * i + 2}.conv"] = f"{generator}.{blocks + i}.1"
            names[f"{letter}.dec.model.{2 * i + 2}.norm"] = f"{generator}.{blocks + i}.2"
        names[f"{letter}.dec.model.{2 * front - 1}.conv"] = f"{generator}.{blocks + front - 1}.0"
    judges = Foreign(dis) if dis is not None else None
    judge_names: Names = {}
    if judges is not None:
        first = judges.needed("a.cnns.0.0.conv.weight", "a discriminator of the MUNIT code base's UNIT")
        scales, layers = judges.count("a.cnns.{}.0.conv.weight"), judges.count("a.cnns.0.{}.conv.weight")
        found |= {"discriminator_width": len(first), "discriminator_layers": layers, "scales": scales}
        for number, letter in enumerate("ab"):
            for s in range(scales):
                there, here = f"{letter}.cnns.{s}", f"discriminators.of_domain.{number}.scales.{s}"
                judge_names |= {f"{there}.{i}.conv": f"{here}.features.{i}.0" for i in range(layers)}
                judge_names[f"{there}.{layers}"] = f"{here}.head"
    return _unit((file, names), (judges, judge_names), found, domains)


def _unit(
    generators: tuple[Foreign, Names],
    discriminators: tuple[Foreign | None, Names],
    found: Mapping[str, Any],
    domains: tuple[str, str],
) -> tuple[UNIT, dict[str, Any]]:
    """Both generations' model from its files, the names of their layers, and what the tensors told."""
    file, names = generators
    judges, judge_names = discriminators
    config = settings(UNIT, file, found)
    with shapes_only():  # no memory for what a file claims before it has been compared
        wanted = UNIT(config, domains, image_size=SIZE).state_dict()
    judged = {k: v for k, v in wanted.items() if k.startswith("discriminators.")}
    state = file.fitted({k: v for k, v in wanted.items() if k not in judged}, names)
    if judges is not None:
        state |= judges.fitted(judged, judge_names)
    method = UNIT(config, domains, image_size=SIZE)
    method.load_state_dict(state, strict=judges is not None)
    step = re.search(r"_(\d{8})$", file.path.stem)
    base = "version_02" if found["architecture"] == "paper" else "MUNIT code base"
    return finished(method, "unit", {"imported_from": f"official UNIT, {base}"}, int(step.group(1)) if step else 0)
