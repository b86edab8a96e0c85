"""Images from noise: methods that make them of noise alone (``deepvae``, ``biggan``, ``stylegan``), as files, and walks between two of them.

Legend: N images, Z numbers in a latent; images float [N, 3, S, S] in [-1, 1].
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unpaired.data.images import encode_image, open_image, show, to_tensor, to_uint8
from unpaired.errors import ConfigError, ImageError, PartialError, RefusedError, UnpairedError
from unpaired.files import write_atomically
from unpaired.translate.files import plan
from unpaired.translate.translator import Translator, load

BATCH = 16
"""Images at a time; the result does not depend on it."""
COLUMNS = 8
"""Images in a row of the sheet of samples."""
MAX_ON_SHEET = 64
"""Images on that sheet; the files have all of them."""
MOST = 100_000
"""More images than this in one call are a slip of the finger."""


def latents(translator: Translator, count: int, seed: int, *, first: int = 0) -> Tensor:
    """[count, Z] standard normal: number ``first + i`` depends on ``seed`` and itself alone.

    Raises ConfigError: the model has no latents.
    """
    size = translator.method.latent_size
    if size is None:
        raise ConfigError(f"this model ({translator.header.get('method')}) has no latents")
    rows = []
    for number in range(first, first + count):
        generator = torch.Generator().manual_seed(_seed_of(seed, number))
        rows.append(torch.randn(size, generator=generator))
    return torch.stack(rows) if rows else torch.zeros(0, size)


def _seed_of(seed: int, number: int) -> int:
    """Of image ``number`` alone."""
    return (seed * 1_000_003 + number) % 2**63


def between(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """``steps`` latents from ``a`` to ``b`` [Z], both included, along the great circle, [steps, Z].

    On a straight line the middle would be shorter than anything the model was trained on. Lengths change evenly.
    """
    t = torch.linspace(0, 1, steps, dtype=torch.float64)[:, None]
    x, y = a.double(), b.double()
    cosine = torch.dot(x, y) / (x.norm() * y.norm()).clamp_min(1e-12)
    angle = torch.acos(cosine.clamp(-1, 1))
    if float(torch.sin(angle)) < 1e-6:  # the same direction, or no circle between opposite ones
        straight: Tensor = torch.lerp(x, y, t).float()
        return straight
    length = torch.lerp(x.norm(), y.norm(), t)
    unit = (torch.sin((1 - t) * angle) * (x / x.norm()) + torch.sin(t * angle) * (y / y.norm())) / torch.sin(angle)
    way: Tensor = (length * unit).float()
    return way


def draw(translator: Translator, noise: Tensor, domain: str, *, seed: int = 0, walk: int = 1) -> Tensor:
    """Images of ``domain`` from latents [N, Z]: [N, 3, S, S] on the CPU.

    Where a network draws more noise (StyleGAN's maps), that of image i follows from (``seed``, i // ``walk``) alone: along a walk of so many
    images it stays the same.
    """
    method = translator.method
    side = method.fixed_size or method.image_size
    source = None if method.any_source else domain
    parts = []
    for number, part in enumerate(torch.split(noise, 1 if method.more_noise else BATCH)):
        blank = torch.zeros(len(part), 3, side, side)  # only its number counts
        # -1: not the seed of the latents, which would begin with the same numbers
        own = _seed_of(-1 - seed, number // walk) if method.more_noise else None
        parts.append(translator.translate(blank, source, domain, latents=part, seed=own).cpu())
    return torch.cat(parts)


def synthesize(
    model: Translator | Path | str,
    out: Path | str,
    *,
    count: int = 64,
    seed: int = 0,
    domain: str | None = None,
    interpolate: int = 0,
    device: str = "auto",
    precision: str = "fp32",
    overwrite: bool = False,
) -> list[Path]:
    """Draw images from noise into ``out``: ``00000.png`` and on, ``sheet.png`` with the first of them, ``synthesis.json``.

    Args:
        model: a translator, or a path as for :func:`unpaired.load`.
        count: how many images, or, with ``interpolate``, how many walks.
        seed: image number i follows from (seed, i) alone.
        domain: which one, where the model knows several.
        interpolate: with 2 or more, that many images on the way between two latents, a row of the sheet for each walk.
        overwrite: replace pictures of another call.

    Raises:
        ConfigError: the model makes no images from noise, or a number is out of range.
        RefusedError: ``out`` holds pictures already. UnpairedError: it cannot be written.
    """
    translator = model if isinstance(model, Translator) else load(model, device=device, precision=precision)
    out = Path(out)
    if not 1 <= count * max(1, interpolate) <= MOST or interpolate == 1 or interpolate < 0:
        raise ConfigError(
            f"n = {count}, interpolate = {interpolate}: wanted 1 to {MOST:,} images in all, and at least 2 on a way"
        )
    if not translator.method.from_noise:
        raise ConfigError(
            f"this model ({translator.header.get('method')}) translates images and makes none from noise alone; methods 'deepvae', "
            "'biggan' and 'stylegan' do. To translate: unpaired translate MODEL PICTURES --to DOMAIN --out DIR"
        )
    domain = _domain(translator, domain)
    if interpolate:
        ends = latents(translator, 2 * count, seed)
        noise = torch.cat([between(ends[2 * i], ends[2 * i + 1], interpolate) for i in range(count)])
        names = [f"{i:05d}-{j:02d}.png" for i in range(count) for j in range(interpolate)]
    else:
        noise = latents(translator, count, seed)
        names = [f"{i:05d}.png" for i in range(count)]
    taken = [n for n in (*names, "sheet.png") if (out / n).exists()]
    if taken and not overwrite:
        raise RefusedError(
            f"{show(out)}: {len(taken)} of these files are there already, such as {taken[0]}. Use another --out, or --overwrite"
        )
    images = draw(translator, noise, domain, seed=seed, walk=max(1, interpolate))
    if not bool(images.isfinite().all()):
        raise UnpairedError("the model's images are not finite (NaN or infinity); nothing was written")
    columns = interpolate or COLUMNS
    rows = [list(row) for row in torch.split(images[: max(MAX_ON_SHEET // columns, 1) * columns], columns)]
    about = {"model": translator.sha256, "n": count, "seed": seed, "domain": domain, "interpolate": interpolate}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, image in zip(names, images, strict=True):
            write_atomically(out / name, encode_image(to_uint8(image)))
        write_atomically(out / "sheet.png", encode_image(sheet(rows)))
        write_atomically(out / "synthesis.json", json.dumps(about, indent=1).encode())
    except OSError as error:
        raise UnpairedError(f"{show(out)}: cannot be written: {error.strerror or error}") from error
    return [out / name for name in names]


def _domain(translator: Translator, domain: str | None) -> str:
    """The domain meant; the only one where none is named. Raises ConfigError."""
    if domain is None:
        if len(translator.domains) > 1:
            raise ConfigError(f"the model knows several domains: {', '.join(translator.domains)}; name one with --to")
        return translator.domains[0]
    return translator.direction(None if translator.method.any_source else domain, domain)[1]


# ----------------------------------------------------------------------------------------------------
# Pictures of every level of a translation: one sheet for each input (Katzir et al., Fig. 1 and 25), and sheets of samples.
#
# Legend: N batch, S side in pixels; images float [N, 3, S, S] in [-1, 1].

GAP = 4
"""White pixels between the cells of a sheet."""


def sheet(rows: Sequence[Sequence[Tensor | None]]) -> NDArray[np.uint8]:
    """Rows of images [3, S, S] in [-1, 1] -> uint8 [H, W, 3]; None leaves a white cell."""
    side = next(cell.shape[-1] for row in rows for cell in row if cell is not None)
    columns = max(len(row) for row in rows)
    page = np.full((len(rows) * (side + GAP) - GAP, columns * (side + GAP) - GAP, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, cell in enumerate(row):
            if cell is not None:
                top, left = r * (side + GAP), c * (side + GAP)
                page[top : top + side, left : left + side] = to_uint8(cell.float().cpu())
    return page


def write_level_sheets(
    translator: Translator, inputs: Sequence[Path], *, to: str, source: str | None = None, folder: Path
) -> list[Path]:
    """Write ``folder/NAME.png`` for each input: above, the input and what its maps look like at each level, deepest first;
    below, their translations. Cells have the side at which the model was trained. Existing sheets are replaced.

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
    for task in plan(inputs, folder, ".png").tasks:
        try:
            pixels = np.asarray(open_image(task.input, min_side=1))
        except ImageError as error:
            failed.append(f"{show(task.input)}: {error.reason}")
            continue
        images = _squared(to_tensor(pixels)[None], side)
        found = translator.levels(images, asked, target)
        above: list[Tensor | None] = [images[0], *(own[0] for _, own, _ in found)]
        below: list[Tensor | None] = [None, *(made[0] for _, _, made in found)]
        path = folder / str(task.output)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, encode_image(sheet([above, below])))
        except OSError as error:
            raise UnpairedError(f"{show(path)}: cannot be written: {error.strerror or error}") from error
        written.append(path)
    if failed:
        raise PartialError(
            f"{len(written)} sheets of levels in {show(folder)}, {len(failed)} failed:\n  " + "\n  ".join(failed)
        )
    return written


def check_level_folder(folder: Path, out: Path) -> None:
    """Refuse where sheets could replace results. Raises RefusedError."""
    place, results = folder.resolve(), out.resolve()
    if place.is_relative_to(results) or results.is_relative_to(place):
        raise RefusedError(f"{show(folder)}: sheets of levels and results need folders apart. Choose another --levels")


def _squared(images: Tensor, side: int) -> Tensor:
    """[1, 3, H, W] at the model's size, as ``translate`` brings it there."""
    if images.shape[-2:] == (side, side):
        return images
    return torch.nn.functional.interpolate(
        images, (side, side), mode="bicubic", antialias=True, align_corners=False
    ).clamp(-1, 1)
