"""Images from noise alone (methods ``deepvae``, ``biggan``, ``stylegan``), walks between two of them, and sheets of
levels (``cascade``).

Legend: N images, Z numbers in a latent, S side in pixels; images float [N, 3, S, S] in [-1, 1].
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unpaired.config import SynthesizeConfig
from unpaired.data.images import Pixels, encode_image, open_image, sheet, show, to_tensor, to_uint8
from unpaired.errors import ConfigError, ImageError, PartialError, RefusedError, UnpairedError
from unpaired.files import write_output
from unpaired.translate.files import plan
from unpaired.translate.translator import Translator, load

BATCH = 16
"""Images at a time; the result does not depend on it."""
COLUMNS = 8
"""Images in a row of the sheet of samples."""
MAX_ON_SHEET = 64
"""Images on that sheet; the files have all of them."""


def latents(translator: Translator, count: int, seed: int) -> Tensor:
    """Draw [count, Z] standard normal numbers: row i depends on ``seed`` and i alone.

    Raises ConfigError: the model has no latents.
    """
    size = translator.method.latent_size
    if size is None:
        raise ConfigError(f"this model ({translator.header.get('method')}) has no latents")
    draws = (torch.Generator().manual_seed(_seed_of(seed, number)) for number in range(count))
    return torch.stack([torch.randn(size, generator=own) for own in draws])


def _seed_of(seed: int, number: int) -> int:
    """Of image ``number`` alone."""
    return (seed * 1_000_003 + number) % 2**63


def between(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Lay ``steps`` latents from ``a`` to ``b`` [Z], both included, along the great circle: [steps, Z].

    On a straight line the middle would be shorter than anything the model was trained on. Lengths change evenly.
    """
    t = torch.linspace(0, 1, steps, dtype=torch.float64)[:, None]
    x, y = a.double(), b.double()
    cosine = torch.dot(x, y) / (x.norm() * y.norm()).clamp_min(1e-12)
    angle = torch.acos(cosine.clamp(-1, 1))
    way = torch.lerp(x, y, t)
    if float(torch.sin(angle)) >= 1e-6:  # else the same direction, or no circle between opposite ones
        length = torch.lerp(x.norm(), y.norm(), t)
        unit = torch.sin((1 - t) * angle) * (x / x.norm()) + torch.sin(t * angle) * (y / y.norm())
        way = length * unit / torch.sin(angle)
    return way.float()


def drawn(translator: Translator, noise: Tensor, domain: str, *, seed: int = 0, walk: int = 1) -> Iterator[Tensor]:
    """Make images of ``domain`` from latents [N, Z]: [n, 3, S, S] on the CPU, some at a time.

    Where a network draws more noise (StyleGAN's maps), that of image i follows from (``seed``, i // ``walk``) alone:
    along a walk of so many images it stays the same.
    """
    method = translator.method
    side = method.fixed_size or method.image_size
    source = None if method.any_source else domain
    for number, part in enumerate(torch.split(noise, 1 if method.more_noise else BATCH)):
        blank = torch.zeros(len(part), 3, side, side)  # only its number counts
        # -1: not the seed of the latents, which would begin with the same numbers
        own = _seed_of(-1 - seed, number // walk) if method.more_noise else None
        yield translator.translate(blank, source, domain, latents=part, seed=own).cpu()


def synthesize(
    model: Translator | Path | str, options: SynthesizeConfig | None = None, /, **changes: Any
) -> list[Path]:
    """Draw images from noise into ``out``: ``00000.png`` and on, ``sheet.png`` with the first of them,
    ``synthesis.json``.

    Args:
        model: a translator (then ``device`` and ``precision`` are its own), or a path as for :func:`unpaired.load`.
        options: what :class:`~unpaired.config.SynthesizeConfig` lists; ``changes`` are single ones of them, as in
            ``n=8``.

    Raises:
        ConfigError: the model makes no images from noise, or a number is out of range.
        RefusedError: ``out`` holds pictures already. UnpairedError: it cannot be written, or the images are not finite.
    """
    asked = SynthesizeConfig.of(options, changes)
    translator = model if isinstance(model, Translator) else load(model, device=asked.device, precision=asked.precision)
    if not translator.method.from_noise:
        raise ConfigError(
            f"this model ({translator.header.get('method')}) translates images and makes none from noise alone; "
            "methods 'deepvae', 'biggan' and 'stylegan' do. "
            "To translate: unpaired translate MODEL PICTURES --to DOMAIN --out DIR"
        )
    if asked.to is None and len(translator.domains) > 1:
        raise ConfigError(f"the model knows several domains: {', '.join(translator.domains)}; name one with --to")
    domain = asked.to or translator.domains[0]
    if asked.to is not None:
        translator.direction(None if translator.method.any_source else domain, domain)
    steps = asked.interpolate
    if steps:
        ends = latents(translator, 2 * asked.n, asked.seed)
        noise = torch.cat([between(ends[2 * i], ends[2 * i + 1], steps) for i in range(asked.n)])
        names = [f"{i:05d}-{j:02d}.png" for i in range(asked.n) for j in range(steps)]
    else:
        noise = latents(translator, asked.n, asked.seed)
        names = [f"{i:05d}.png" for i in range(asked.n)]
    paths = [asked.out / name for name in names]
    there = {path.name for path in asked.out.iterdir()} if asked.out.is_dir() else set()
    taken = [name for name in (*names, "sheet.png") if name in there]
    if taken and not asked.overwrite:
        what = f"{len(taken)} of these files are there already, such as {taken[0]}"
        raise RefusedError(f"{show(asked.out)}: {what}. Use another --out, or --overwrite")
    shown: list[Pixels | None] = []
    images = (image for part in drawn(translator, noise, domain, seed=asked.seed, walk=max(1, steps)) for image in part)
    for path, image in zip(paths, images, strict=True):
        if not bool(image.isfinite().all()):
            raise UnpairedError(f"the model's images are not finite (NaN or infinity), from {path.name} on")
        pixels = to_uint8(image)
        write_output(path, encode_image(pixels))
        shown += [pixels] * (len(shown) < max(MAX_ON_SHEET // (steps or COLUMNS), 1) * (steps or COLUMNS))
    write_output(asked.out / "sheet.png", encode_image(sheet(shown, steps or COLUMNS)))
    about = {"model": translator.sha256, **asked.model_dump(mode="json", exclude={"out", "overwrite"}), "to": domain}
    write_output(asked.out / "synthesis.json", json.dumps(about, indent=1).encode())
    return paths


def write_level_sheets(
    translator: Translator, inputs: Sequence[Path], *, to: str, source: str | None = None, folder: Path
) -> list[Path]:
    """Write ``folder/NAME.png`` for each input: above, the input and what its maps look like at each level, deepest
    first; below, their translations (Katzir et al., Fig. 1 and 25). Cells have the side at which the model was trained.

    Raises:
        ConfigError: the method has no levels, or only with pictures of none of them; the direction is not possible.
        DataError, RefusedError: inputs missing, or sheets would land among them.
        PartialError: finished, but some inputs failed; each is named with its reason.
        UnpairedError: the folder cannot be written.
    """
    asked, target = translator.direction(source, to)
    side = translator.method.fixed_size or translator.method.image_size
    if asked is None or not translator.levels(torch.zeros(1, 3, side, side), asked, target):
        raise ConfigError(
            f"this model ({translator.header.get('method')}) has no pictures of levels; method 'cascade' has, "
            "where it was trained with model.invert_all = true, once its inversion stages are over"
        )
    written, failed = [], []
    for task in plan(inputs, folder, ".png")[0]:
        try:
            pixels = np.asarray(open_image(task.input, min_side=1))
        except ImageError as error:
            failed.append(f"{show(task.input)}: {error.reason}")
            continue
        images = _squared(to_tensor(pixels)[None], side)
        found = translator.levels(images, asked, target)
        above = [to_uint8(picture) for picture in (images[0], *(own[0] for _, own, _ in found))]
        below = [to_uint8(made[0]) for _, _, made in found]
        path = folder / str(task.output)
        write_output(path, encode_image(sheet([*above, None, *below], len(above))))
        written.append(path)
    if failed:
        done = f"{len(written)} sheets of levels in {show(folder)}, {len(failed)} failed"
        raise PartialError("\n  ".join([f"{done}:", *failed]))
    return written


def _squared(images: Tensor, side: int) -> Tensor:
    """[1, 3, H, W] at the model's size, as ``translate`` brings it there."""
    if images.shape[-2:] == (side, side):
        return images
    return torch.nn.functional.interpolate(images, (side, side), mode="bicubic", antialias=True).clamp(-1, 1)
