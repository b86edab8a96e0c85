"""Checkpoints of the official implementations, in: both generations of UNIT, CycleGAN, BigGAN-PyTorch, DeepI2I.

Each importer takes widths and numbers of layers from the tensors, compares every tensor with the network they describe, and
gives a method in eval mode and the header for ``checkpoint.write_model``. Files are read by :mod:`unpaired.torchfile`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor

from unpaired.config import DataConfig, MethodConfig, RunConfig
from unpaired.errors import CheckpointError, ConfigError
from unpaired.methods.attend import Attend
from unpaired.methods.base import Method
from unpaired.methods.biggan import BigGAN
from unpaired.methods.deepi2i import DeepI2I
from unpaired.methods.unit import UNIT
from unpaired.networks.biggan import Discriminator, Generator, Shape, with_classes
from unpaired.torchfile import read_torch_file

__all__ = [
    "class_names",
    "import_biggan",
    "import_cyclegan",
    "import_deepi2i",
    "import_unit_munit",
    "import_unit_v2",
    "read_torch_file",
]

# -- names of layers

Names = dict[str, str]
"""Official name of a layer -> its name here; ``.weight`` and ``.bias`` are added to both."""


def _convert(path: Path, given: Mapping[str, Tensor], names: Names, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``given`` under our names, after a comparison with ``wanted``. Raises CheckpointError with a table of mismatches."""
    ours = {}
    rows = []
    renamed = {f"{a}.{leaf}": f"{b}.{leaf}" for a, b in names.items() for leaf in ("weight", "bias", "gamma", "beta")}
    for name, tensor in given.items():
        if name not in renamed or renamed[name] not in wanted:
            rows.append((name, "-", _shape(tensor)))
        elif tensor.shape != wanted[renamed[name]].shape:
            rows.append((name, _shape(wanted[renamed[name]]), _shape(tensor)))
        else:
            ours[renamed[name]] = tensor.float()
    present = set(given)
    rows += [(a, _shape(wanted[b]), "-") for a, b in renamed.items() if b in wanted and a not in present]
    if rows:
        raise _misfit(path, rows)
    return ours


def _misfit(path: Path, rows: list[tuple[str, str, str]]) -> CheckpointError:
    """The error with a table of (tensor, wanted shape, found shape)."""
    table = [("tensor", "wanted", "found"), *sorted(rows)[:30]]
    widths = [max(len(row[i]) for row in table) for i in range(3)]
    lines = ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table]
    return CheckpointError(f"{path}: {len(rows)} tensors do not fit the network they describe:\n" + "\n".join(lines))


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"


def _cleaned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without ``module.`` of DataParallel and without the running statistics that instance norms of PyTorch 0.3 left."""
    kept = {}
    for name, tensor in tensors.items():
        if not name.endswith((".running_mean", ".running_var")):
            kept[re.sub(r"(^|\.)module\.", r"\1", name)] = tensor
    return kept


def _count(tensors: Mapping[str, Tensor], pattern: str, first: int = 0) -> int:
    """How many of the layers ``pattern`` (with {} for the number) there are, counted from ``first`` without a gap."""
    n = 0
    while pattern.format(first + n) in tensors:
        n += 1
    return n


def _first(path: Path, tensors: Mapping[str, Tensor], name: str, kind: str) -> Tensor:
    if name not in tensors:
        start = ", ".join(list(tensors)[:3])
        raise CheckpointError(f"{path}: not {kind}: it has no tensor '{name}'; it starts with {start}")
    return tensors[name]


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
    tensors = _cleaned(read_torch_file(gen_path))
    kind = "a generator of UNIT's branch version_02"
    settings: dict[str, Any] = {
        "norm": norm,
        "width": len(_first(gen_path, tensors, "encode_A.0.model.0.weight", kind)),
        "kl": "released",  # training that goes on does so as that code trained
        "weight_decay": 1e-4,
    }
    total = _count(tensors, "encode_A.{}.model.0.weight")
    private = sum(f"encode_A.{i}.model.3.weight" in tensors for i in range(total))
    shared = _count(tensors, "enc_shared.{}.model.0.weight")
    settings |= {"residual_blocks": private + shared, "shared_layers": shared, "downsampling": total - private - 1}
    names = _v2_generator_names(settings["downsampling"], private, shared)
    judges: dict[str, Tensor] = {}
    judge_names: Names = {}
    dis_path = Path(dis) if dis is not None else None
    if dis_path:
        judges = _cleaned(read_torch_file(dis_path))
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
        first, layers = "model_1_A.0.model.0.weight", _count(tensors, "model_1_A.{}.model.0.weight")
        for number, letter in enumerate("AB"):
            for scale, factor in enumerate(
                (1, 2, 4)
            ):  # the official names tell how often the image was halved, as a factor
                there, here = f"model_{factor}_{letter}", f"discriminators.of_domain.{number}.scales.{scale}"
                names |= {f"{there}.{i}.model.0": f"{here}.features.{i}.0" for i in range(layers)}
                names[f"{there}.{layers}"] = f"{here}.head"
        found: dict[str, Any] = {"discriminator": "multiscale", "discriminator_layers": layers, "scales": 3}
    else:
        first, layers = "model_A.0.model.0.weight", _count(tensors, "model_A.{}.model.0.weight")
        back = _count(tensors, "model_S.{}.model.0.weight")
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
    return found | {"discriminator_width": len(_first(path, tensors, first, kind))}, names


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
        re.sub(r"^([ab]\.)enc_content\.", r"\1enc.", k): v for k, v in _cleaned(read_torch_file(gen_path)).items()
    }
    if any(".mlp." in k or ".enc_style." in k for k in tensors):
        raise CheckpointError(
            f"{gen_path}: a MUNIT model with style codes; only models of its UNIT trainer can be imported"
        )
    width = len(_first(gen_path, tensors, "a.enc.model.0.conv.weight", "a generator of the MUNIT code base's UNIT"))
    downsampling = _count(tensors, "a.enc.model.{}.conv.weight") - 1
    blocks = _count(tensors, f"a.enc.model.{downsampling + 1}.model.{{}}.model.0.conv.weight")
    settings: dict[str, Any] = {"width": width, "downsampling": downsampling, "residual_blocks": blocks}
    names = _munit_generator_names(downsampling, blocks)
    judges: dict[str, Tensor] = {}
    judge_names: Names = {}
    dis_path = Path(dis) if dis is not None else None
    if dis_path:
        judges = _cleaned(read_torch_file(dis_path))
        first = _first(dis_path, judges, "a.cnns.0.0.conv.weight", "a discriminator of the MUNIT code base's UNIT")
        scales = _count(judges, "a.cnns.{}.0.conv.weight")
        layers = _count(judges, "a.cnns.0.{}.conv.weight")
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


# -- CycleGAN


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
    tensors = _cleaned(read_torch_file(gen_path))
    first = _first(gen_path, tensors, "model.1.weight", "a ResNet generator of CycleGAN")
    blocks = _count(tensors, "model.{}.conv_block.1.weight", 10)
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
        judges = _cleaned(read_torch_file(dis_path))
        kind = "a PatchGAN of CycleGAN"
        settings["discriminator_width"] = len(_first(dis_path, judges, "model.0.weight", kind))
        layers = 0
        while f"model.{2 + 3 * layers}.weight" in judges:  # each layer, its norm and its LeakyReLU
            layers += 1
        layers = max(1, layers - 1)  # the last of these is the head
        settings["discriminator_layers"] = layers
        judge_names = {"model.0": "layers.0.0", f"model.{2 + 3 * layers}": "head"}
        judge_names |= {f"model.{2 + 3 * i}": f"layers.{i + 1}.0" for i in range(layers)}
    run = _run_config("attend", Attend.Config, gen_path, settings, domains, image_size)
    method = Attend(run.model, domains, image_size=image_size)
    method.generator.load_state_dict(_convert(gen_path, tensors, names, method.generator.state_dict()))
    if dis_path:
        method.discriminator.load_state_dict(_convert(dis_path, judges, judge_names, method.discriminator.state_dict()))
    from unpaired.checkpoint import make_header

    header = make_header(method, run, extra={"imported_from": "pytorch-CycleGAN-and-pix2pix"})
    for name in set(method.training_only) - {"discriminator"}:
        delattr(method, name)  # not part of what was imported, and no weights to start from
    method.requires_grad_(False)
    return method.eval(), header


# -- putting it together


def _run_config(
    method: str,
    settings_class: type[MethodConfig],
    path: Path,
    settings: Mapping[str, Any],
    domains: tuple[str, str],
    image_size: int,
) -> RunConfig:
    """The validated run that an imported model belongs to. Raises ConfigError, CheckpointError."""
    if len(domains) != 2 or domains[0] == domains[1]:
        raise ConfigError(
            f"--domains {','.join(domains)}: two different names are needed, for A and B of the checkpoint"
        )
    try:
        data = DataConfig(size=image_size)
    except ValidationError as error:
        raise ConfigError(f"image_size = {image_size}: {error.errors()[0]['msg']}") from error
    try:
        model = settings_class(**settings)
    except ValidationError as error:
        why = "; ".join(f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors())
        raise CheckpointError(f"{path}: its tensors describe no {method.upper()} network: {why}") from error
    return RunConfig(method=method, data=data, model=model)


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

    run = _run_config("unit", UNIT.Config, gen_path, {"architecture": architecture, **settings}, domains, image_size)
    model = run.model
    with torch.device("meta"):
        method = UNIT(model, domains, image_size=image_size)
    wanted = method.state_dict()
    translators = {k: v for k, v in wanted.items() if not k.startswith("discriminators.")}
    state = _convert(gen_path, tensors, names, translators)
    if dis_path:
        state |= _convert(dis_path, judges, judge_names, {k: v for k, v in wanted.items() if k not in translators})
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


# -- BigGAN and DeepI2I: the names of their tensors are ours


def class_names(text: str | None) -> tuple[str, ...] | None:
    """Names of classes from a comma-separated list or from a text file with one a line; None stays None.

    Raises ConfigError: an unreadable file, an empty name, or a name twice.
    """
    if text is None:
        return None
    path = Path(text)
    try:
        is_file = path.is_file()
        lines = path.read_text(encoding="utf-8-sig").splitlines() if is_file else text.split(",")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--domains {text}: cannot be read: {error}") from error
    names = [line.strip() for line in lines]
    while is_file and names and not names[-1]:
        names.pop()
    if not names or not all(names):
        raise ConfigError(f"--domains {text}: name number {names.index('') + 1 if names else 1} is empty")
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ConfigError(f"--domains {text}: twice: {', '.join(twice[:8])}")
    return tuple(names)


def _biggan_shape(path: Path, tensors: Mapping[str, Tensor]) -> Shape:
    """Sizes of the networks from a generator's tensors. Raises CheckpointError."""
    kind = "a BigGAN generator with shared embedding and hierarchical latents"
    shared = _first(path, tensors, "shared.weight", kind)
    linear = _first(path, tensors, "linear.weight", kind)
    last = _first(path, tensors, "output_layer.0.gain", kind)
    blocks = _count(tensors, "blocks.{}.0.conv1.weight")
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


def _same_names(
    path: Path, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], dead: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """``given`` after a comparison with ``wanted``; ``dead`` starts names of layers that the official code never uses."""
    rows = [(k, "-", _shape(v)) for k, v in given.items() if k not in wanted and not k.startswith(dead or ("\0",))]
    rows += [(k, _shape(v), "-") for k, v in wanted.items() if k not in given]
    rows += [(k, _shape(v), _shape(given[k])) for k, v in wanted.items() if k in given and given[k].shape != v.shape]
    if rows:
        raise _misfit(path, rows)
    return {k: given[k].float() for k in wanted}


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
    tensors = _cleaned(read_torch_file(gen_path))
    shape = _biggan_shape(gen_path, tensors)
    if domains is None:
        digits = max(3, len(str(shape.classes - 1)))
        domains = tuple(f"class-{i:0{digits}d}" for i in range(shape.classes))
    if len(domains) != shape.classes:
        raise ConfigError(
            f"{gen_path} has {shape.classes} classes, --domains names {len(domains)}; name them all, or none"
        )
    model = BigGAN.Config(width=shape.width, shared_dim=shape.shared_dim, z_dim=shape.z_dim, attention=shape.attention)
    with torch.device("meta"):  # every tensor comes from the files
        method = BigGAN(model, domains, image_size=shape.size)
    method.generator.load_state_dict(_same_names(gen_path, tensors, method.generator.state_dict()), assign=True)
    judge = _cleaned(read_torch_file(dis_path))
    _first(dis_path, judge, "embed.weight", "a BigGAN discriminator")
    method.discriminator.load_state_dict(_same_names(dis_path, judge, method.discriminator.state_dict()), assign=True)
    if standing > 0:
        method.standing_statistics(standing)
    extra = {"imported_from": "official BigGAN-PyTorch", "licence": "of the imported weights: see their source"}
    return _finished(method, "biggan", model, extra)


def import_deepi2i(
    gen: Path | str, dis: Path | str, enc: Path | str, ada: Path | str, domains: tuple[str, ...]
) -> tuple[DeepI2I, dict[str, Any]]:
    """The four networks of the official DeepI2I (BigGAN variant): method in eval mode and header for ``write_model``.

    Resolution, widths and latents come from the tensors. The released models keep ImageNet's 1000 class rows and use the
    first ones, in the order of their class folders: as many rows are kept as ``domains`` names. The adaptors' and the
    encoder's ``linear`` and ``embed`` are never used there and are left out.

    Raises:
        CheckpointError: unsafe, damaged, or not such a checkpoint; mismatching tensors are listed.
        ConfigError: more names than the files have classes.
    """
    paths = {"generator": Path(gen), "discriminator": Path(dis), "encoder": Path(enc), "adaptors": Path(ada)}
    given = {name: _cleaned(read_torch_file(path)) for name, path in paths.items()}
    shape = _biggan_shape(paths["generator"], given["generator"])
    if not domains or len(domains) > shape.classes:
        raise ConfigError(f"{paths['generator']} has {shape.classes} classes, --domains names {len(domains)}")
    _first(paths["discriminator"], given["discriminator"], "embed.weight", "a DeepI2I discriminator")
    _first(paths["encoder"], given["encoder"], "blocks.0.0.conv1.weight", "a DeepI2I encoder")
    _first(paths["adaptors"], given["adaptors"], "blocks.0.0.conv1.weight", "DeepI2I adaptors")
    for name in ("generator", "discriminator"):  # the released models' further rows belong to no class of theirs
        wanted = Generator if name == "generator" else Discriminator
        with torch.device("meta"):
            _same_names(paths[name], given[name], wanted(shape).state_dict())
        given[name] = with_classes(given[name], list(range(len(domains))))
    model = DeepI2I.Config(
        width=shape.width, shared_dim=shape.shared_dim, z_dim=shape.z_dim, attention=shape.attention,
        reconstruction="mse", reconstruction_rows="released",  # training that goes on does so as that code trained
    )  # fmt: skip
    with torch.device("meta"):
        method = DeepI2I(model, domains, image_size=shape.size)
    for name, path in paths.items():
        network = method.get_submodule(name)
        dead = ("linear.", "embed.") if name in ("encoder", "adaptors") else ()
        network.load_state_dict(_same_names(path, given[name], network.state_dict(), dead), assign=True)
    return _finished(method, "deepi2i", model, {"imported_from": "official DeepI2I, BigGAN variant"})


M = TypeVar("M", bound=Method)


def _finished(method: M, name: str, model: Any, extra: dict[str, Any]) -> tuple[M, dict[str, Any]]:
    from unpaired.checkpoint import make_header

    run = RunConfig(method=name, data=DataConfig(size=method.image_size), model=model)
    header = make_header(method, run, extra=extra)
    method.requires_grad_(False)
    return method.eval(), header
