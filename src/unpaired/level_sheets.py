"""Pictures of every level of a translation: one sheet for each input (Katzir et al., Fig. 1 and 25), and sheets of samples.

Legend: N batch, S side in pixels; images float [N, 3, S, S] in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unpaired._files import write_atomically
from unpaired.data.images import encode_image, open_image, show, to_tensor, to_uint8
from unpaired.errors import ConfigError, ImageError, PartialError, RefusedError, UnpairedError
from unpaired.translation import Translator
from unpaired.translation_plan import plan

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
