"""Starting from a pretrained GAN: reading a ``biggan`` or ``stylegan`` model file; giving a BigGAN another set of classes.

Such a file comes from ``unpaired pretrain`` or ``unpaired import`` and holds generator and discriminator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from unpaired import checkpoint
from unpaired.errors import CheckpointError, ConfigError
from unpaired.files import sha256_of
from unpaired.methods.base import Method
from unpaired.networks import stylegan
from unpaired.networks.biggan import Discriminator, Rule, Shape, nearest_classes, settled, with_classes

ARCHITECTURE: dict[str, tuple[str, ...]] = {
    "biggan": ("width", "shared_dim", "z_dim", "attention"),
    "stylegan": ("width", "latent", "mapping", "rgb_activation"),
}
"""Method of a pretrained GAN -> settings that it fixes; the same names in every method on these networks."""
TRANSLATOR = {"biggan": "deepi2i", "stylegan": "deepi2i-stylegan"}
"""Method of a pretrained GAN -> the translator that starts from it."""
EXAMPLES = 64
"""Training images of each new class that are compared with the old classes."""
_WAYS = {
    "biggan": "Make one with: unpaired pretrain DATA --out RUN, or: unpaired import biggan G_ema.pth D.pth --out FILE",
    "stylegan": "Make one with: unpaired pretrain DATA --method stylegan --out RUN, or: "
    "unpaired import stylegan stylegan-256px-new.model --out FILE",
}


def get(kind: str) -> str:
    """How one comes by a pretrained GAN of this kind."""
    return _WAYS[kind]


@dataclass(frozen=True)
class Pretrained:
    """State dictionaries that fit networks of the new classes."""

    generator: dict[str, Tensor]
    discriminator: dict[str, Tensor]
    came_from: dict[str, str]
    """For the header's ``pretrained``."""
    rows: list[int | None]
    """The old class that each new one started from; None for the mean of all."""
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    """Adam's state of both networks as ``optimizer/<network>/<parameter>/<what>``, where it was asked for."""


def settings_from(path: Path | str) -> tuple[str, dict[str, Any]]:
    """The method of a pretrained model, and the settings that a run must share with it, by dotted name, with
    ``model.pretrained`` itself.

    Raises CheckpointError: missing, damaged, or no pretrained GAN.
    """
    file = _file(path, "biggan")
    _, header = checkpoint.load_method(file)
    kind = header["method"]
    if kind not in ARCHITECTURE:
        raise CheckpointError(f"{file}: holds a model of method '{kind}', not a pretrained GAN. {get('biggan')}")
    found = {f"model.{name}": header["config"]["model"][name] for name in ARCHITECTURE[kind]}
    return kind, {"model.pretrained": str(path), "data.size": header["image_size"], **found}


def _file(path: Path | str, kind: str) -> Path:
    if not str(path) or not Path(path).exists():
        raise CheckpointError(f"{path or 'no name'}: no such file or folder; --pretrained wants a GAN. {get(kind)}")
    return checkpoint.model_file(path)


def _open(path: Path | str, kind: str, shape: object) -> tuple[Path, Method, dict[str, Any]]:
    """File, method and header of a pretrained GAN whose networks are ``shape`` but for the classes."""
    file = _file(path, kind)
    method, header = checkpoint.load_method(file)
    if header["method"] != kind:
        what = "a GAN of another kind" if header["method"] in ARCHITECTURE else "not a pretrained GAN"
        raise CheckpointError(f"{file}: holds a model of method '{header['method']}', {what}. {get(kind)}")
    old, new = asdict(method.shape), asdict(shape)  # type: ignore[call-overload]
    wrong = [f"{k} is {old[k]} there and {new[k]} here" for k in old if k != "classes" and old[k] != new[k]]
    if wrong:
        raise ConfigError(
            f"{file}: a GAN with other networks: {'; '.join(wrong)}. `--pretrained {path}` takes its settings over; "
            "leave out those that contradict it"
        )
    return file, method, header


def _source(kind: str, file: Path, header: Mapping[str, Any]) -> dict[str, str]:
    about = {"name": kind, "file": str(file), "sha256": sha256_of(file)}
    return about | {"licence": str(header.get("extra", {}).get("licence", "that of its training"))}


def read_stylegan(path: Path | str, shape: stylegan.Shape) -> Pretrained:
    """Both networks' tensors of a ``stylegan`` model.

    Raises:
        CheckpointError: missing, damaged, or no StyleGAN.
        ConfigError: other networks than ``shape``; the text says what to do.
    """
    file, method, header = _open(path, "stylegan", shape)
    generator, discriminator = method.get_submodule("generator"), method.get_submodule("discriminator")
    return Pretrained(
        dict(generator.state_dict()), dict(discriminator.state_dict()), _source("stylegan", file, header), []
    )


def read(
    path: Path | str,
    shape: Shape,
    domains: tuple[str, ...],
    rule: Rule,
    examples: Callable[[str, int], Tensor] | None,
    *,
    carry: bool = False,
) -> Pretrained:
    """Both networks' tensors of a ``biggan`` model with their classes replaced by ``domains``; with ``carry`` Adam's moments too.

    A class that the model knows by name keeps its row. For the others ``rule`` says where they start: ``nearest``, the old class
    as which the discriminator takes ``examples`` of it for most real; ``mean`` of all old classes; ``index``, the old class of
    the same number, as the official code does.

    Raises:
        CheckpointError: missing, damaged, or no pretrained GAN.
        ConfigError: other networks than ``shape``, or ``rule`` cannot be followed; the text says what to do.
    """
    file, method, header = _open(path, "biggan", shape)
    discriminator: Discriminator = method.discriminator  # type: ignore[assignment]
    generator_state = dict(method.generator.state_dict())  # type: ignore[union-attr]
    discriminator_state = dict(discriminator.state_dict())
    moments = _moments(path) if carry else {}
    rows = _rows(rule, file, discriminator, method.domains, domains, examples)
    how = ""
    if method.domains != domains:
        known = len(set(domains) & set(method.domains))
        ways = [f"{known} by name"] * (0 < known < len(domains)) + [rule if known < len(domains) else "by name"]
        how = f", {', '.join(ways)}"
        generator_state = with_classes(generator_state, rows)
        discriminator_state = settled(with_classes(discriminator_state, rows))
        moments = with_classes(moments, rows)
    about = _source("biggan", file, header)
    about["classes"] = f"{len(method.domains)} -> {len(domains)}{how}"
    return Pretrained(generator_state, discriminator_state, about, rows, moments)


def _moments(path: Path | str) -> dict[str, Tensor]:
    """Adam's state of a pretraining run's newest checkpoint. Raises ConfigError where there is none."""
    run = Path(path)
    saved, _ = checkpoint.latest(run / "checkpoints")
    if saved is None:
        raise ConfigError(
            f"{path}: optimizer_state = carried needs the folder of a pretraining run; a model file has weights alone. "
            "Give that folder as --pretrained, or --set model.optimizer_state=fresh"
        )
    return {k: v for k, v in checkpoint.read_state(saved)[0].items() if k.startswith("optimizer/")}


def _rows(
    rule: Rule,
    file: Path,
    discriminator: Discriminator,
    old: tuple[str, ...],
    new: tuple[str, ...],
    examples: Callable[[str, int], Tensor] | None,
) -> list[int | None]:
    """The old class that each new one starts from, None for the mean of all: its own where there is one, else by ``rule``."""
    rows: list[int | None] = [old.index(name) if name in old else None for name in new]
    unknown = [number for number, row in enumerate(rows) if row is None]
    if not unknown or rule == "mean":
        return rows
    if rule == "index":
        if unknown[-1] >= len(old):
            raise ConfigError(
                f"{file}: has {len(old)} classes, the data {len(new)}: class_rows = index needs as many. "
                "Use --set model.class_rows=nearest or =mean"
            )
        found = unknown
    elif examples is None:
        raise ConfigError("class_rows = nearest looks at training images; outside a training use mean or index")
    else:
        discriminator.to(examples(new[0], 1).device)
        found = nearest_classes(discriminator, (examples(new[number], EXAMPLES) for number in unknown))
        discriminator.cpu()
    for number, row in zip(unknown, found, strict=True):
        rows[number] = row
    return rows
