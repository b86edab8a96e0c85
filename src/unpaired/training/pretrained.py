"""What a fresh run begins with: training images, pretrained classifiers and GANs, lent to ``Method.prepare``.

A pretrained GAN is a ``biggan`` or ``stylegan`` model file, with generator and discriminator, from ``unpaired
pretrain`` or ``unpaired import``.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unpaired import checkpoint, weights
from unpaired.config import DataConfig
from unpaired.data.images import to_tensor
from unpaired.data.sampling import Pool, centre_crops
from unpaired.errors import CheckpointError, ConfigError, WeightsError
from unpaired.files import sha256_of
from unpaired.methods.base import Beginning, Method
from unpaired.methods.gans import GANS
from unpaired.networks.classifiers import NETWORKS, OWN


class Start:
    """The ``unpaired.methods.base.Start`` of a run: reads files, and notes where everything came from."""

    def __init__(
        self, pool: Pool, data: DataConfig, device: torch.device | str = "cpu", begun_with: Beginning | None = None
    ) -> None:
        self.pool, self.data, self.device, self.begun_with = pool, data, device, begun_with
        self.pretrained: list[dict[str, str]] = [dict(p) for p in begun_with.pretrained] if begun_with else []
        """For the header: where pretrained weights came from (name, file, sha256, licence, url)."""

    def examples(self, domain: str, count: int, first: int = 0) -> Tensor:
        """[n, 3, S, S]: centre crops of ``count`` training images of a domain from ``first`` on, fewer where there are
        fewer."""
        rows = range(first, min(first + count, self.pool.count(domain)))
        return to_tensor(centre_crops(self.pool, domain, rows, self.data)).to(self.device)

    def classifier(self, network: str, source: str = "pretrained") -> tuple[str, dict[str, Tensor]]:
        """Return the name by which ``Features.fill`` knows the weights of ``network``, and their tensors. Raises
        WeightsError."""
        where = None if source == "pretrained" else Path(source).expanduser()
        if where is not None and (where.suffix == ".safetensors" or _holds_model(where)):
            return self._finetuned(network, where)
        name, path = weights.first(NETWORKS[network].weights, where)
        self._lent(weights.provenance(name, path))
        return name, weights.read(path)

    def _finetuned(self, network: str, path: Path) -> tuple[str, dict[str, Tensor]]:
        """Layers of a model of method ``finetune``, or of a file of format 1, which held them alone."""
        try:
            file = checkpoint.model_file(path)
            tensors, header = checkpoint.unpack(file, file.read_bytes())
        except (CheckpointError, OSError) as error:
            raise WeightsError(f"{path}: {error}") from error
        settings = header.get("config", {}).get("model", header)
        if header.get("method", header.get("kind")) not in ("finetune", "features") or settings["network"] != network:
            raise WeightsError(
                f"{path}: holds no fine-tuned features of {network}. Make some with: "
                f"unpaired train DATA --method finetune --set model.network={network} --out RUN"
            )
        domains = header.get("domains") or header["classes"]
        origin = [*header.get("pretrained", [header.get("origin")]), {}][0]
        self._lent(
            {
                "name": f"{network}, fine-tuned on {', '.join(domains)}",
                "file": file.name,
                "sha256": sha256_of(file),
                "licence": str(origin.get("licence", "that of its origin")),
                "origin": str(origin.get("sha256", "random weights")),
            }
        )
        return OWN, {name.removeprefix("features.layers."): tensor for name, tensor in tensors.items()}

    def gan(self, path: str, kind: str, shape: object) -> Method:
        """Return the GAN of method ``kind`` in a model file or run folder, whose networks are ``shape`` but for the
        classes.

        Raises:
            CheckpointError: missing, damaged, or no such GAN.
            ConfigError: other networks; the text says what to do.
        """
        file = _file(path, kind)
        method, header = checkpoint.load_method(file, self.device)
        if header["method"] != kind:
            what = "a GAN of another kind" if header["method"] in GANS else "not a pretrained GAN"
            raise CheckpointError(f"{file}: holds a model of method '{header['method']}', {what}. {GANS[kind].way}")
        old, new = asdict(method.shape), asdict(shape)  # type: ignore[call-overload]
        wrong = [f"{k} is {old[k]} there and {new[k]} here" for k in old if k != "classes" and old[k] != new[k]]
        if wrong:
            raise ConfigError(
                f"{file}: a GAN with other networks: {'; '.join(wrong)}. `--pretrained {path}` takes its settings "
                "over; leave out those that contradict it"
            )
        licence = str(header.get("extra", {}).get("licence", "that of its training"))
        self._lent({"name": kind, "file": str(file), "sha256": sha256_of(file), "licence": licence})
        return method

    def note(self, **about: str) -> None:
        """Note more about what was lent last."""
        self.pretrained[-1] |= about

    def _lent(self, about: dict[str, str]) -> None:
        same = ("name", "sha256")
        self.pretrained = [p for p in self.pretrained if any(p.get(k) != about[k] for k in same)] + [about]


def begin_with(method: Method, name: str, path: Path | str) -> Beginning:
    """Give a fresh method the weights of a model file of the same shape; what the file lacks (most have no
    discriminators) keeps its initialisation. ``name`` is the method's key.

    Raises CheckpointError with the tensors that do not fit, or those of :func:`unpaired.checkpoint.read_model`.
    """
    tensors, header, file, sha256 = checkpoint.read_model(path)
    there, here = header.get("domains", ()), method.domains
    if header["method"] == name and len(there) != len(here):
        raise CheckpointError(
            f"{file}: a model of {len(there)} domains ({', '.join(there)}); the data has {len(here)}: "
            f"{', '.join(here)}. --start-from needs as many. Other classes come in where a DeepI2I or BigGAN begins "
            "with a GAN: --pretrained"
        )
    own = method.state_dict()
    wrong = sorted(k for k, v in tensors.items() if k not in own or own[k].shape != v.shape)
    missing = [k for k in method.shared_state() if k not in tensors]
    if header["method"] != name or wrong or missing:
        lines = "".join(
            f"\n  {k}: here {tuple(own[k].shape) if k in own else 'none'}, in the file "
            f"{tuple(tensors[k].shape) if k in tensors else 'none'}"
            for k in [*wrong, *missing][:20]
        )
        raise CheckpointError(
            f"{file}: a '{header['method']}' model whose weights do not fit this '{name}' run: "
            f"{len(wrong) + len(missing)} tensors differ.{lines}\nUse its settings: unpaired info {file} shows them"
        )
    method.load_state_dict(tensors, strict=False)
    about = {
        "source": file.name,
        "sha256": sha256,
        "step": header.get("step", 0),
        "tensors": len(tensors),
        "of": len(own),
    }
    parts = frozenset(k.split(".")[0] for k in tensors)
    return Beginning(about, tuple(there), parts, header["config"]["model"], tuple(header.get("pretrained", ())))


def settings_from(path: Path | str) -> tuple[str, dict[str, Any]]:
    """Return the method of a pretrained GAN, and the settings that a run must share with it, by dotted name, with
    ``model.pretrained`` itself.

    Raises CheckpointError: missing, damaged, or no pretrained GAN.
    """
    file = _file(path, "biggan")
    _, header = checkpoint.load_method(file)
    kind = header["method"]
    if kind not in GANS:
        raise CheckpointError(f"{file}: holds a model of method '{kind}', not a pretrained GAN. {GANS['biggan'].way}")
    found = {f"model.{name}": header["config"]["model"][name] for name in GANS[kind].fixed}
    return kind, {"model.pretrained": str(path), "data.size": header["image_size"], **found}


def _holds_model(path: Path) -> bool:
    """Whether ``path`` is the folder of a run or of a checkpoint."""
    return (path / checkpoint.MODEL).is_file() or (path / "checkpoints").is_dir()


def _file(path: Path | str, kind: str) -> Path:
    if not str(path) or not Path(path).exists():
        raise CheckpointError(
            f"{path or 'no name'}: no such file or folder; --pretrained wants a GAN. {GANS[kind].way}"
        )
    return checkpoint.model_file(path)
