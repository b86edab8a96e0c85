"""One self-contained HTML page from plain data: texts, pictures, sliders, tables, charts, commands.

Nothing is fetched, so that the page can be mailed, archived and printed; a page with before/after sliders holds a few
lines of script of its own and forbids any other. It follows the reader's light or dark setting, fits a phone, and every
picture has an alternative text. The HTML is page.html.j2, with every value escaped.

::

    page = Report("Digits, plain to photo", lead="What ten minutes of training gave.")
    page.section("Translations")
    page.sheet({"plain": plain, "as photo": translated}, alt="Handwritten digit", caption="Top: input. Bottom: output.")
    page.table(["", "accuracy"], [["source only", 0.44], ["adapted", 0.78]], caption="Held-out photo digits.")
    page.write(Path("report.html"))

Legend: N images, H height, W width; pictures are uint8 [H, W, 3] or grey [H, W], 0 to 255.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Self

import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray
from PIL import Image, features

from unpaired.files import write_output
from unpaired.report.charts import COLOURS, Panel

Cell = str | int | float | None
Images = NDArray[np.uint8]
"""uint8 [N, H, W, 3] (or [N, H, W] grey), 0 to 255."""
EXACT_BELOW = 96
"""Pictures whose shorter side is below this many pixels are stored without loss and enlarged without smoothing."""
MAX_SIDE = 512
"""Longer pictures are reduced to this many pixels, those of wide sliders to three times as many."""
QUALITY = 90
"""Of the WebP format, in which larger pictures are stored: a fifth of the bytes of PNG, no difference to be seen."""


@dataclass(frozen=True)
class Pair:
    """One before/after slider."""

    before: NDArray[np.uint8]
    """[H, W, 3]."""
    after: NDArray[np.uint8]
    """[H, W, 3], the same size."""
    names: tuple[str, str]
    """What the two pictures are, in a word or two."""
    alt: str
    """What is compared, for who cannot see it."""
    truth: tuple[str, NDArray[np.uint8]] | None = None
    """(name, picture) that takes the place of ``after`` while a box is ticked."""


@dataclass(frozen=True)
class Card:
    """A few pictures that belong together, with a line below."""

    images: Mapping[str, NDArray[np.uint8]]
    """Label -> [H, W, 3]."""
    text: str
    alt: str
    notes: Mapping[str, str] = field(default_factory=dict)
    """Label -> a few words below that picture, such as a distance."""


class Report:
    """A page that grows from top to bottom. Every method returns the page itself; what is empty adds nothing."""

    def __init__(self, title: str, *, lead: str = "", kicker: str = "") -> None:
        """Begin a page.

        Args:
            kicker: a few words above the title.
            lead: a paragraph below it.
        """
        self.title, self.lead, self.kicker, self.small_print = title, lead, kicker, ""
        self.blocks: list[dict[str, Any]] = []
        """What the template writes, from top to bottom: ``kind`` and the values of its part of page.html.j2."""

    def _add(self, kind: str, **values: Any) -> Self:
        self.blocks.append({"kind": kind, **values})
        return self

    def _numbered(self, kind: str, caption: str, *, table: bool = False, **values: Any) -> Self:
        """Add a figure or table with its number."""
        number = 1 + sum(b.get("table") is table for b in self.blocks)
        return self._add(kind, caption=caption, table=table, number=number, **values)

    # ---- text ------------------------------------------------------------------------------------------------

    def section(self, title: str) -> Self:
        """Start a section; it appears in the list of contents once there are three."""
        number = 1 + sum(b["kind"] == "section" for b in self.blocks)
        return self._add("section", title=title, anchor=f"section-{number}")

    def heading(self, title: str) -> Self:
        """Add a heading within a section."""
        return self._add("heading", title=title)

    def text(self, text: str) -> Self:
        """Add plain paragraphs, separated by empty lines."""
        return self._add("text", parts=[part.strip() for part in text.split("\n\n") if part.strip()])

    def note(self, text: str, *, warning: bool = False) -> Self:
        """Add a paragraph set apart: what cannot be shown and why, or a warning."""
        return self._add("note", text=text, warning=warning)

    def footer(self, text: str) -> Self:
        """Put small print at the very end."""
        self.small_print = text
        return self

    def items(self, items: Sequence[str]) -> Self:
        """Add a bulleted list of plain texts."""
        return self._add("items", entries=items) if items else self

    def facts(self, facts: Mapping[str, str]) -> Self:
        """Add a few figures to be seen first: what -> value."""
        return self._add("facts", entries=list(facts.items())) if facts else self

    def commands(self, commands: Sequence[str], *, caption: str = "To repeat") -> Self:
        """Add shell commands, exactly as they are to be typed, one a line; lines that begin with # are comments."""
        return self._add("commands", lines=commands, caption=caption)

    def details(self, summary: str, text: str) -> Self:
        """Add a text in full, folded away (printed all the same where the browser can)."""
        return self._add("details", summary=summary, text=text)

    # ---- pictures and charts ----------------------------------------------------------------------------------

    def sheet(
        self,
        rows: Mapping[str, Images],
        *,
        alt: str,
        caption: str,
        heads: Sequence[str] = (),
        columns: int | None = None,
    ) -> Self:
        """Add rows of pictures that belong together column by column: input above output. On a phone the sheet rolls
        sideways.

        Args:
            rows: label -> uint8 [N, H, W, 3] or [N, H, W]; N may differ, missing places stay empty.
            alt: what a picture is, for who cannot see it; its column and its row's label are added.
            heads: a few words above each column, such as the domains that it was translated to.
            columns: pictures side by side; more of them continue below, all rows again. All of them when None.
        """
        count = max((len(images) for images in rows.values()), default=0)
        if not count:
            raise ValueError(f"figure {caption!r} has no images")
        columns = min(columns or count, count)
        parts = []
        for first in range(0, count, columns):
            places = range(first, first + columns)
            said = [f"{alt}, {heads[i] if i < len(heads) else i + 1}" for i in places]
            part = []
            for label, images in rows.items():
                named = zip(_checked(images)[first : first + columns], said, strict=False)
                part.append((label, [(encode(p), f"{a}: {label}" if label else a) for p, a in named]))
            parts.append({"heads": heads[first : first + columns], "rows": part})
        return self._numbered("sheet", caption, parts=parts, columns=columns, alt=alt)

    def compare(self, pairs: Sequence[Pair], *, caption: str, wide: bool = False) -> Self:
        """Add before/after sliders, for mouse, touch and keyboard; side by side on paper and where scripts are off. A
        ``wide`` one is as wide as the page and keeps three times the pixels."""
        side = 3 * MAX_SIDE if wide else MAX_SIDE
        shown = []
        for p in pairs:
            sides = [("before", p.names[0], p.before), ("after", p.names[1], p.after)]
            sides += [("truth", *p.truth)] if p.truth else []
            shown.append({"sides": [(kind, name, encode(image, side)) for kind, name, image in sides], "alt": p.alt})
        return self._numbered("compare", caption, pairs=shown, wide=wide) if shown else self

    def gallery(self, cards: Sequence[Card], *, caption: str, wide: bool = False) -> Self:
        """Add cards with a few labelled pictures each; ``wide`` ones have a line to themselves."""
        shown = [
            {"pictures": [(k, encode(v)) for k, v in c.images.items()], "text": c.text, "alt": c.alt, "notes": c.notes}
            for c in cards
        ]
        return self._numbered("gallery", caption, cards=shown, wide=wide) if shown else self

    def panels(self, panels: Sequence[Panel], *, caption: str) -> Self:
        """Add charts side by side in one figure; below one another on a phone."""
        return self._numbered("panels", caption, panels=panels) if panels else self

    # ---- tables ----------------------------------------------------------------------------------------------

    def table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        *,
        caption: str,
        notes: Sequence[str] = (),
        groups: Sequence[str] = (),
    ) -> Self:
        """Add a table; the first cell of each row is its heading. Numbers are set right, None is a dash; what stands
        on a text's further lines is set smaller below its first.

        Args:
            notes: a few words below each row's heading.
            groups: what each row belongs to; where it changes, a line says so. On a phone such a table stands as
                blocks, one a row, with the header's words at each value.
        """
        numeric = {i for i in range(1, len(header)) if not any(isinstance(r[i], str) for r in rows if i < len(r))}
        shown = [[number(cell) for cell in row] for row in rows]
        if not rows:
            return self
        return self._numbered(
            "table", caption, table=True, header=header, rows=shown, numeric=numeric, notes=notes, groups=groups
        )

    def pairs(self, rows: Sequence[tuple[str, Cell]], *, caption: str) -> Self:
        """Add a table of what -> value, without a header."""
        return self._numbered("pairs", caption, table=True, rows=[(what, number(value)) for what, value in rows])

    def confusion(self, counts: Counts, labels: Sequence[str], *, caption: str) -> Self:
        """Add who is taken for whom: ``counts[true, predicted]`` with each class's recall, shaded by the share within
        its row. Of many classes the weakest stand in a table, and all of them folded away."""
        counts = np.asarray(counts)
        if counts.shape != (len(labels), len(labels)):
            raise ValueError(f"confusion table of shape {counts.shape} with {len(labels)} labels")
        recalls = [percent(n, total) for n, total in zip(counts.diagonal(), counts.sum(1), strict=True)]
        if len(labels) <= MOST_IN_TABLE:
            upright = len(labels) * max(map(len, labels), default=0) > WIDE_HEADS
            rows = list(zip(labels, counts.tolist(), recalls, strict=True))
            return self._numbered("confusion", caption, table=True, labels=labels, rows=rows, upright=upright)
        wrong = counts - np.diag(counts.diagonal())
        others = [f"{labels[k]} ({wrong[i, k]:,})" if wrong[i, k] else None for i, k in enumerate(wrong.argmax(1))]
        listed = list(zip(labels, recalls, counts.sum(1).tolist(), others, strict=True))
        known = [i for i in np.argsort(counts.diagonal() / np.maximum(counts.sum(1), 1), kind="stable") if listed[i][2]]
        header = ["class", "recall", "images", "most often wrongly taken for"]
        said = f"{caption} The classes that are recognised least often."
        self.table(header, [listed[i] for i in known[:WEAKEST]], caption=said)
        lines = [f"{a}: {b} of {n:,}" + (f", else mostly {other}" if other else "") for a, b, n, other in listed]
        return self.details(f"Recall of all {len(labels)} classes", "\n".join(lines))

    # ---- the page --------------------------------------------------------------------------------------------

    def html(self) -> str:
        """Return the whole page."""
        environment = Environment(autoescape=True, undefined=StrictUndefined)
        environment.filters["number"] = number
        code = _asset("page.js") if any(b["kind"] == "compare" for b in self.blocks) else ""
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        return environment.from_string(_asset("page.html.j2")).render(
            page=self, sections=[b for b in self.blocks if b["kind"] == "section"], style=_asset("page.css"),
            script=code,
            script_source=f"'sha256-{digest}'" if code else "'none'", colours=COLOURS,
        )  # fmt: skip

    def write(self, path: Path | str) -> Path:
        """Write the page (never half of it); missing folders are made. Raises UnpairedError."""
        write_output(path, self.html().encode("utf-8"))
        return Path(path)


def _asset(name: str) -> str:
    return (resources.files("unpaired.report") / name).read_text(encoding="utf-8")


def number(value: Any, digits: int = 4) -> str:
    """Write counts in full, fractions with ``digits`` significant digits, None as a dash; texts stay as they are."""
    if value is None or isinstance(value, str):
        return value or "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    return f"{float(value):,.{digits}g}" if abs(value) < 10**digits else f"{float(value):,.0f}"


@dataclass(frozen=True)
class Picture:
    """A picture as the page holds it."""

    uri: str
    """data:image/…"""
    width: int
    height: int
    tiny: bool
    """Whether it is enlarged without smoothing."""


def _checked(images: Images) -> Images:
    """Give grey pictures three channels: [N, H, W, 3]. Raises ValueError for another type or shape."""
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        raise ValueError(f"expected uint8 [N, H, W, 3], got {images.dtype} {list(images.shape)}")
    return images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=3)


def encode(pixels: NDArray[np.uint8], max_side: int = MAX_SIDE) -> Picture:
    """Store a picture as a data URI: small ones exact, large ones compressed and at most ``max_side`` pixels long."""
    picture = Image.fromarray(np.ascontiguousarray(_checked(pixels[None])[0]))
    tiny = min(picture.size) < EXACT_BELOW
    if max(picture.size) > max_side:
        factor = max_side / max(picture.size)
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    kind = "png" if tiny or not features.check("webp") else "webp"
    picture.save(buffer, kind, **({"optimize": True} if kind == "png" else {"quality": QUALITY, "method": 4}))
    uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return Picture(uri, *picture.size, tiny)


# ----------------------------------------------------------------------------------------------------
# Who is taken for whom. Legend: K classes; counts [K, K], ``counts[true, predicted]``. A class's recall is the share
# of its images that
# are taken for it.

MOST_IN_TABLE = 16
"""Classes of a table; of more the weakest ones are named."""
WEAKEST = 8
"""How many."""
WIDE_HEADS = 60
"""Letters side by side above a table, from which on its column headings stand upright."""
Counts = NDArray[Any]


def percent(part: float, whole: float) -> str:
    """Write a share; a dash for none. 100 % is all of them, 0 % none."""
    if not whole:
        return "–"
    share = part / whole
    return "<1 %" if 0 < share < 0.01 else ">99 %" if 0.99 < share < 1 else f"{100 * share:.0f} %"
