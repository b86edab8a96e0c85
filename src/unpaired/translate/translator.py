"""Using a trained model: tensors and pictures of any size. Whole trees of files: ``unpaired.translate.files``.

>>> model = unpaired.load("run")                                             # doctest: +SKIP
>>> picture = model.translate_image(Image.open("horse.jpg"), target="zebra")  # doctest: +SKIP

Legend: N batch, H height, W width; images are float tensors [N, 3, H, W] in [-1, 1].
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from unpaired import checkpoint
from unpaired.batch import Pair
from unpaired.config import ExportConfig
from unpaired.data.images import show, to_rgb, to_tensor, to_uint8
from unpaired.errors import ConfigError, DataError, nearest
from unpaired.machine import autocast, choose_device, choose_precision
from unpaired.methods.base import Method
from unpaired.networks.kernels import Held
from unpaired.translate.engines import ENGINES, Engine
from unpaired.translate.export import export_model
from unpaired.translate.tiling import MAX_PIXELS, MIN_STRIDES, Network, at_any_size

log = logging.getLogger("unpaired")
RANGE_TOLERANCE = 1e-3
"""Images may leave [-1, 1] by this much (rounding of other code) before they are refused."""


class Translator:
    """A trained method, ready to use. Made by :func:`load`, or from any ``Method`` and a checkpoint header."""

    def __init__(
        self,
        method: Method,
        header: Mapping[str, Any],
        *,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        path: Path | None = None,
        sha256: str = "",
        engine: str = "torch",
    ) -> None:
        """
        Args:
            precision: ``fp32``, ``tf32`` (GPU), ``bf16`` (autocast) or ``auto``.
            engine: what runs :meth:`translate`: ``torch``, ``compile`` (``torch.compile``: half a minute to some
                minutes for each shape, once, then faster), or ``onnx`` in fp32 on a CPU (the extra ``export``).
                The other methods run in ``torch``.
            path, sha256: where the model came from and its file's hash, for records.
        """
        self.method = method.eval().requires_grad_(False)
        self.header = dict(header)
        self.path, self.sha256 = path, sha256
        self._asked_precision = precision
        self.engine = engine
        self._engine: Engine | None = None
        self.to(device)

    def to(self, device: str | torch.device) -> Self:
        """Move the model to ``cpu``, ``cuda``, ``cuda:N`` or ``auto``. Raises ConfigError when it is not there."""
        self.device = choose_device(str(device))
        self.precision = choose_precision(self._asked_precision, self.device)
        if self.engine not in ENGINES:
            known = ", ".join(ENGINES)
            raise ConfigError(f"no engine '{self.engine}'.{nearest(self.engine, ENGINES)} There are: {known}.")
        if self.engine == "onnx":
            if self.device.type != "cpu" or self.precision != "fp32":
                raise ConfigError(
                    f"engine 'onnx' runs in fp32 on a CPU, not in {self.precision} on {self.device}: "
                    "add --device cpu --precision fp32, or use --engine torch"
                )
            self.method.to(self.device)
        else:
            self.method.place(self.device)
        self._engine = None if self.engine == "torch" else Engine(self.engine, self.method)
        self._held = Held(*(part for name, part in self.method.named_children() if name != "discriminator"))
        return self

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains."""
        return self.method.domains

    @property
    def directions(self) -> Sequence[Pair]:
        """(source, target) pairs that can be translated."""
        return self.method.directions

    @property
    def untrained(self) -> str:
        """A sentence on parts that outputs depend on and that have not been trained yet; empty where none are."""
        return self.method.untrained()

    def info(self) -> dict[str, Any]:
        """What the model is and what it can do; plain JSON values."""
        header = self.header
        wanted = f"{self.method.fixed_size} (others are resized there and back)" if self.method.fixed_size else "any"
        able: list[str] | str = f"all {len(self.directions)} of {len(self.domains)} domains"
        if self.method.from_noise:
            able = f"none: makes images of {', '.join(self.domains)} from noise"
        elif len(self.directions) <= checkpoint.MAX_LISTED_DIRECTIONS:
            able = [f"{a} -> {b}" for a, b in self.directions]
        return {
            "method": header.get("method"),
            "domains": list(self.domains),
            "directions": able,
            "classes": list(self.method.classes),
            "trained at": self.method.image_size,
            "input size": wanted,
            "stride": self.method.stride,
            "random outputs": self.method.stochastic,
            "inputs of any domain": self.method.any_source,
            "latent size": self.method.latent_size,
            "parameters": sum(p.numel() for p in self.method.parameters()),
            "step": header.get("step"),
            "stage": header.get("stage"),
            "untrained": self.untrained or None,
            "seed": header.get("seed"),
            "version": header.get("version"),
            "format": header.get("format"),
            "data fingerprint": header.get("data_fingerprint"),
            "pretrained": list(header.get("pretrained", ())),
            "file": str(self.path) if self.path else None,
            "sha256": self.sha256 or None,
            "config": header.get("config"),
            "extra": header.get("extra", {}),
        }

    def direction(self, source: str | None, target: str) -> tuple[str | None, str]:
        """The (source, target) meant; ``source`` may be None when only one direction leads to ``target``.

        Methods that do not ask where an image comes from take None for an image of any domain, known or not, and so
        does the word "none"; then the source stays None.

        Raises:
            ConfigError: no such domain (with the nearest name), no such direction, or several sources fit.
        """
        self.check_translates()
        if source == "none" and source not in self.domains:
            if not self.method.any_source:
                raise ConfigError("this model must know the domain of its inputs: name one of its own as source")
            source = None
        for name in (source, target):
            if name is not None:
                self._check_domain(name)
        if self.method.any_source:  # with hundreds of domains their pairs are too many to look through for each picture
            return source, target
        sources = [a for a, b in self.directions if b == target]
        able = ", ".join(f"{a} -> {b}" for a, b in self.directions)
        if source is None and len(sources) > 1:
            which = ", ".join(sources)
            raise ConfigError(f"several domains lead to '{target}': {which}; say which one with source (--source)")
        if not sources or source not in (None, *sources):
            what = f"'{source}' to '{target}'" if source else f"to '{target}'"
            raise ConfigError(f"this model does not translate {what}. It can do: {able}.")
        return source or sources[0], target

    def _check_domain(self, name: str) -> None:
        if name not in self.domains:
            there = ", ".join(self.domains)
            raise ConfigError(f"no domain '{name}'.{nearest(name, self.domains)} This model knows: {there}.")

    def check_translates(self) -> None:
        """Refuse a model that translates nothing, which a classifier is. Raises ConfigError."""
        if not self.directions:
            what = f"tells {', '.join(self.domains)} apart and translates nothing"
            raise ConfigError(f"this model {what}; it is for: unpaired train DATA --weights MODEL")

    def targets(self, source: str | None) -> tuple[str | None, tuple[str, ...]]:
        """The source meant and every domain that it can be translated to, in the model's order.

        Raises ConfigError: no such domain, or the source must be named.
        """
        self.check_translates()
        if source is None and not self.method.any_source:
            sources = sorted({a for a, _ in self.directions})
            if len(sources) > 1:
                which = ", ".join(sources)
                raise ConfigError(f"the inputs can be of several domains: {which}; say which with source (--source)")
            source = sources[0]
        possible = tuple(b for a, b in self.directions if a == source)
        source, _ = self.direction(source, possible[0] if possible else self.domains[-1])
        return source, possible if source is not None else self.domains

    def translate(
        self,
        images: Tensor,
        source: str | None,
        target: str,
        *,
        seed: int | None = None,
        latents: Tensor | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Tensor:
        """Images of domain ``source`` as images of domain ``target``.

        Args:
            images: float [N, 3, H, W] in [-1, 1], any H and W from 1 on.
            source: None where only one domain leads to ``target``, and for images of no trained domain (see
                :meth:`direction`).
            seed: of the noise, for methods with random outputs; None draws anew each time.
            latents: float [N, ``method.latent_size``], the noise itself, for methods that have a latent; noise that a
                network draws beside it (StyleGAN's maps) still follows from ``seed``.
            max_pixels: larger pictures go through in overlapping tiles of at most this many pixels.

        Returns:
            float32, the same shape, in [-1, 1], on the model's device.

        Raises:
            ConfigError: the direction or ``max_pixels`` is not possible.
            DataError: shape, type or range of ``images``.
        """
        source, target = self.direction(source, target)
        if latents is not None:
            self._check_latents(latents, len(images))
        generator, used = self._generator(seed), 0

        def network(part: Tensor) -> Tensor:
            nonlocal used
            used += len(part)  # methods with latents have a fixed size, so the parts come in order
            own = None if latents is None else latents[used - len(part) : used].to(self.device)
            if self._engine is not None:
                return self._engine(part, source, target, self.method.inputs(part, target, generator, own))
            return self.method.translate(part, source, target, generator=generator, latents=own)

        return self._run(network, images, max_pixels)

    def _generator(self, seed: int | None) -> torch.Generator | None:
        return None if seed is None else torch.Generator(self.device).manual_seed(seed)

    def _check_latents(self, latents: Tensor, count: int) -> None:
        size = self.method.latent_size
        if size is None:
            raise ConfigError("this model has no latents: one input has one result")
        if tuple(latents.shape) != (count, size) or not latents.is_floating_point():
            raise DataError(f"latents are {latents.dtype} {list(latents.shape)}; wanted floats {[count, size]}")

    def _smallest(self) -> Tensor:
        """A black image of the smallest size, to see what the method makes of any."""
        side = self.method.fixed_size or MIN_STRIDES * self.method.stride
        return torch.zeros(1, 3, side, side, device=self.device)

    @property
    def has_attention(self) -> bool:
        """Whether the model says where it changes an image (:meth:`attention`)."""
        with torch.inference_mode():
            return self.method.attention(self._smallest()) is not None

    def attention(self, images: Tensor, *, threshold: float | None = None, max_pixels: int = MAX_PIXELS) -> Tensor:
        """Say where and how much ``translate`` changes each image: [N, 1, H, W] in [0, 1]; 0 where it stays as it is.

        Args:
            threshold: 1 where the mask is at least this, else 0: an unsupervised segmentation.

        Raises:
            ConfigError: the method has no attention. DataError: as :meth:`translate`.
        """
        self.check_attention(threshold)
        return self._run(lambda part: self._mask(part, threshold), images, max_pixels, channels=1)

    def translate_with_attention(
        self,
        images: Tensor,
        source: str | None,
        target: str,
        *,
        threshold: float | None = None,
        seed: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> tuple[Tensor, Tensor]:
        """Do :meth:`translate` and :meth:`attention` in one: images [N, 3, H, W] and masks [N, 1, H, W].

        With ``threshold``, pixels whose mask is below it keep the input's colour, so that the images fit the masks.
        Where a mask is below 1/512, rounding to 8 bits gives the input's pixel exactly.
        """
        source, target = self.direction(source, target)
        self.check_attention(threshold)
        generator = self._generator(seed)

        def network(part: Tensor) -> Tensor:
            mask = self._mask(part, threshold)
            result = self.method.translate(part, source, target, generator=generator).float()
            if threshold is not None:
                result = torch.where(mask > 0, result, part)
            return torch.cat([result, mask], dim=1)

        both = self._run(network, images, max_pixels, channels=4)
        return both[:, :3], both[:, 3:].clamp(min=0)

    def check_attention(self, threshold: float | None) -> None:
        """Raise ConfigError where the model has no attention, or it cannot be cut at ``threshold``."""
        if threshold is not None and not 0 < threshold <= 1:
            raise ConfigError(f"mask threshold {threshold}: must be above 0 and at most 1")
        if not self.has_attention:
            raise ConfigError(
                f"this model ({self.header.get('method')}) has no attention, so there are no masks; method 'attend' "
                "has, unless it was trained with model.attention = false"
            )

    def _mask(self, part: Tensor, threshold: float | None) -> Tensor:
        mask = self.method.attention(part)
        assert mask is not None, "asked before"
        return mask.float() if threshold is None else (mask >= threshold).float()

    def reconstruct(self, images: Tensor, domain: str, *, max_pixels: int = MAX_PIXELS) -> Tensor | None:
        """Make the method's own reconstruction within ``domain`` (shapes as :meth:`translate`); None if it has none."""
        self._check_domain(domain)
        with torch.inference_mode():
            if self.method.reconstruct(self._smallest(), domain) is None:
                return None

        def network(part: Tensor) -> Tensor:
            result = self.method.reconstruct(part, domain)
            assert result is not None, "asked above"
            return result

        return self._run(network, images, max_pixels)

    @torch.inference_mode()
    def levels(self, images: Tensor, source: str | None, target: str) -> list[tuple[str, Tensor, Tensor]]:
        """Level by level, deepest first: (its name, what the images look like there, what their translation looks like
        there).

        Images and pictures float32 [N, 3, S, S] in [-1, 1], S the side at which the model was trained. Empty for
        methods without levels. Raises ConfigError, DataError as :meth:`translate`.
        """
        source, target = self.direction(source, target)
        check_images(images)
        with autocast(self.precision, self.device):
            found = self.method.levels(images.to(self.device, torch.float32), source, target)  # type: ignore[arg-type]
        return [(name, own.float().clamp(-1, 1), made.float().clamp(-1, 1)) for name, own, made in found]

    @torch.inference_mode()
    def _run(self, network: Network, images: Tensor, max_pixels: int, channels: int = 3) -> Tensor:
        """``network``, which gives so many channels, over checked images of any size; NaN stays NaN."""
        check_images(images)
        images = images.to(self.device, torch.float32).clamp(-1, 1)
        if not len(images):
            return images.new_zeros(0, channels, *images.shape[2:])
        with autocast(self.precision, self.device), self._held():
            result = at_any_size(
                network, images, stride=self.method.stride, fixed=self.method.fixed_size, max_pixels=max_pixels
            )
        return result.float().clamp(-1, 1).contiguous()

    def translate_image(
        self,
        image: Image.Image,
        source: str | None = None,
        *,
        target: str,
        seed: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Image.Image:
        """Translate a picture of any size and mode to an 8-bit RGB picture of the same size, EXIF orientation applied.

        Raises:
            ConfigError: the direction is not possible. DataError: no PIL image, a damaged one, or an output that is not
                finite.
        """
        if not isinstance(image, Image.Image):
            what = f"translate_image wants a PIL image, not {type(image).__name__}"
            raise DataError(f"{what}: open it first, as in PIL.Image.open(PATH)")
        try:
            upright = to_rgb("<picture>", ImageOps.exif_transpose(image))
        except (OSError, SyntaxError) as error:  # Pillow decodes here, and not when the picture is opened
            raise DataError(f"the picture is truncated or damaged ({error})") from error
        tensor = to_tensor(np.asarray(upright))[None]
        result = self.translate(tensor, source, target, seed=seed, max_pixels=max_pixels)[0]
        if not result.isfinite().all():
            raise DataError("the model's output for this picture is not finite (NaN or infinity)")
        return Image.fromarray(to_uint8(result))

    def export(self, out: Path | str, options: ExportConfig | None = None, /, **changes: Any) -> list[Path]:
        """Write the model as ONNX, as PyTorch's exported program, or as a page for a browser; the files written.

        Args:
            out: the file, or for several directions a folder (made where it is missing).
            options: what :class:`~unpaired.config.ExportConfig` lists; ``changes`` are single ones of them.

        Raises:
            ConfigError: no such direction, ONNX or the page's runtime not there. UnpairedError: a file differs from the
                model, or cannot be written; it is not left behind.
        """
        return [*dict(export_model(self, out, ExportConfig.of(options, changes)))]


def check_images(images: Tensor) -> None:
    """Refuse with DataError what is no float tensor [N, 3, H, W] in [-1, 1]."""
    if not isinstance(images, Tensor):
        raise DataError(f"images must be a torch.Tensor [N, 3, H, W], not {type(images).__name__}")
    shape = list(images.shape)
    if images.ndim != 4 or shape[1] != 3 or 0 in shape[2:]:
        advice = ": add the batch with images[None]" if images.ndim == 3 else ""
        advice = ": use images.permute(0, 3, 1, 2)" if images.ndim == 4 and shape[3] == 3 else advice
        raise DataError(f"images have shape {shape}; wanted [N, 3, H, W]{advice}")
    if not images.is_floating_point():
        raise DataError(f"images are {images.dtype}; wanted floats in [-1, 1]: use images / 127.5 - 1 for 0 to 255")
    if not len(images):
        return
    low, high = float(images.min()), float(images.max())
    if not (low >= -1 - RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        if low != low or high != high:
            raise DataError("images hold NaN")
        advice = "use x / 127.5 - 1 for 0 to 255, x * 2 - 1 for 0 to 1"
        raise DataError(f"images go from {low:.4g} to {high:.4g}; wanted [-1, 1]: {advice}")


def load(
    path: Path | str, *, device: str | torch.device = "cpu", precision: str = "fp32", engine: str = "torch"
) -> Translator:
    """A translator from a model file, a checkpoint folder or a run folder. Runs no code from it. One whose outputs
    depend on parts that have not been trained yet is told with a warning of the logger ``unpaired``.

    Raises:
        CheckpointError: missing, damaged, foreign, or of another version; the text says which.
        ConfigError: the device, precision or engine is not there.
    """
    model = checkpoint.load_model(path)
    where: dict[str, Any] = {"device": device, "precision": precision, "engine": engine}
    found = Translator(model.method, model.header, path=model.path, sha256=model.sha256, **where)
    if found.untrained:
        log.warning("%s: %s", show(model.path), found.untrained)
    return found
