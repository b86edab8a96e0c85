"""One self-contained HTML page from plain data: texts, pictures, sliders, tables, charts, commands.

Nothing is fetched, so that the page can be mailed, archived and printed; a page with before/after sliders holds a few
lines of script of its own and forbids any other. It follows the reader's light or dark setting, fits a phone, and every
picture has an alternative text.

::

    page = Report("Digits, plain to photo", lead="What ten minutes of training gave.")
    page.section("Translations")
    page.images({"plain": plain, "as photo": translated}, alt="Handwritten digits and their translations",
                caption="Top: input. Bottom: output.")
    page.table(["", "accuracy"], [["source only", 0.44], ["adapted", 0.78]], caption="Held-out photo digits.")
    page.write(Path("report.html"))
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from unpaired.files import write_output
from unpaired.report import charts
from unpaired.report.charts import Dot, Series

Cell = str | int | float | None
_RIGHT = ' class="number"'


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


@dataclass(frozen=True)
class Card:
    """A few pictures that belong together, with a line below."""

    images: Mapping[str, NDArray[np.uint8]]
    """Label -> [H, W, 3]."""
    text: str
    alt: str
    notes: Mapping[str, str] = field(default_factory=dict)
    """Label -> a few words below that picture, such as a distance."""


@dataclass(frozen=True)
class Panel:
    """One chart among several of a figure."""

    title: str
    svg: str
    legend: Sequence[tuple[str, str]] = ()
    """(mark, text)."""
    alt: str = ""


class Report:
    """A page that grows from top to bottom. Every method returns the page itself."""

    def __init__(self, title: str, *, lead: str = "", kicker: str = "", language: str = "en") -> None:
        """
        Args:
            kicker: a few words above the title.
            lead: a paragraph below it.
        """
        self.title, self.lead, self.kicker, self.language = title, lead, kicker, language
        self._sections: list[tuple[str, str]] = []
        self._parts: list[str] = []
        self._figures = 0
        self._tables = 0
        self._footer = ""
        self._scripted = False

    # ---- text ------------------------------------------------------------------------------------------------

    def section(self, title: str) -> Self:
        """Start a section; it appears in the list of contents once there are three."""
        anchor = f"section-{len(self._sections) + 1}"
        self._sections.append((anchor, title))
        self._parts.append(f'<h2 id="{anchor}">{escape(title)}</h2>')
        return self

    def heading(self, title: str) -> Self:
        """A heading within a section."""
        self._parts.append(f"<h3>{escape(title)}</h3>")
        return self

    def text(self, text: str) -> Self:
        """Plain paragraphs, separated by empty lines."""
        self._parts += [f"<p>{escape(part.strip())}</p>" for part in text.split("\n\n") if part.strip()]
        return self

    def note(self, text: str, *, warning: bool = False) -> Self:
        """A paragraph set apart: what cannot be shown and why, or a warning."""
        self._parts.append(f'<p class="note{" warning" if warning else ""}">{escape(text)}</p>')
        return self

    def footer(self, text: str) -> Self:
        """Small print at the very end."""
        self._footer = f"<footer>{escape(text)}</footer>"
        return self

    def items(self, items: Sequence[str]) -> Self:
        """A bulleted list of plain texts."""
        self._parts.append("<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>")
        return self

    def facts(self, facts: Mapping[str, str]) -> Self:
        """A few figures to be seen first: what -> value."""
        tiles = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
        self._parts.append(f'<dl class="facts">{tiles}</dl>')
        return self

    def commands(self, commands: Sequence[str], *, caption: str = "To repeat") -> Self:
        """Shell commands, exactly as they are to be typed, one a line; lines that begin with # are comments."""
        lines = "\n".join(
            f'<span class="comment">{escape(c)}</span>' if c.startswith("#") else escape(c) for c in commands
        )
        self._parts.append(f'<p class="label">{escape(caption)}</p><pre tabindex="0"><code>{lines}</code></pre>')
        return self

    def details(self, summary: str, text: str) -> Self:
        """A text in full, folded away (printed all the same where the browser can)."""
        inner = f'<pre tabindex="0"><code>{escape(text)}</code></pre>'
        self._parts.append(f"<details><summary>{escape(summary)}</summary>{inner}</details>")
        return self

    # ---- pictures --------------------------------------------------------------------------------------------

    def images(self, rows: Mapping[str, Images], *, alt: str, caption: str, columns: int = 8) -> Self:
        """Rows of pictures that belong together column by column: input above output; each row is one picture.

        Args:
            rows: label -> uint8 [N, H, W, 3] or [N, H, W]; N may differ, missing places stay empty.
            alt: what the figure shows, for who cannot see it; each strip's label is added.
            columns: pictures side by side; more of them continue below, all rows again.
        """
        if not rows or not any(len(images) for images in rows.values()):
            raise ValueError(f"figure {caption!r} has no images")
        count = max(len(images) for images in rows.values())
        columns = max(1, min(columns, count))
        strips = []
        for first in range(0, count, columns):
            for label, images in rows.items():
                part = images[first : first + columns]
                if not len(part):
                    continue
                uri, width = strip(part, columns)
                tiny = ' class="tiny"' if is_tiny(part) else ""
                where = f" ({first + 1} to {first + len(part)})" if count > columns else ""
                strips.append(
                    f'<div class="strip"><span class="label">{escape(label)}</span><img{tiny} src="{uri}" '
                    f'alt="{escape(f"{alt}: {label}{where}")}" style="width:{width}px"></div>'
                )
        return self._figure("".join(strips), caption)

    def sheet(self, rows: Mapping[str, Images], *, alt: str, caption: str, heads: Sequence[str] = ()) -> Self:
        """As :meth:`images`, with every picture for itself: it keeps its size on a phone, where the sheet rolls sideways.

        Args:
            heads: a few words above each column, such as the domains that it was translated to.
        """
        if not rows or not any(len(images) for images in rows.values()):
            raise ValueError(f"figure {caption!r} has no images")
        count = max(len(images) for images in rows.values())
        parts = [f'<span class="head">{escape(h)}</span>' for h in heads]
        for label, images in rows.items():
            if label:
                parts.append(f'<span class="row">{escape(label)}</span>')
            parts += [
                _img(image, f"{alt}, {heads[i] if i < len(heads) else i + 1}" + (f": {label}" if label else ""))
                for i, image in enumerate(checked(images))
            ]
            parts += ["<span></span>"] * (count - len(images))
        inner = f'<div class="roll" tabindex="0" role="group" aria-label="{escape(alt)}"><div class="sheet-grid" style="--n:{count}">'
        return self._figure(f"{inner}{''.join(parts)}</div></div>", caption)

    def compare(self, pairs: Sequence[Pair], *, caption: str) -> Self:
        """Before/after sliders, for mouse, touch and keyboard; side by side on paper and where scripts are off."""
        self._scripted = True
        boxes = []
        for pair in pairs:
            before, after = (escape(name) for name in pair.names)
            boxes.append(
                '<div class="compare" style="--at:50%">'
                f'<div class="side before">{_img(pair.before, f"{pair.alt}: {pair.names[0]}")}<span class="tag">{before}</span></div>'
                f'<div class="side after">{_img(pair.after, f"{pair.alt}: {pair.names[1]}")}<span class="tag">{after}</span></div>'
                f'<input type="range" min="0" max="100" value="50" step="1" hidden data-before="{before}" data-after="{after}" '
                f'aria-label="{escape(pair.alt)}: how much is {before}"><span class="bar" aria-hidden="true"></span></div>'
            )
        return self._figure(f'<div class="compares">{"".join(boxes)}</div>', caption)

    def gallery(self, cards: Sequence[Card], *, caption: str, wide: bool = False) -> Self:
        """Cards with a few labelled pictures each; ``wide`` ones have a line to themselves."""
        parts = []
        for card in cards:
            pictures = "".join(
                f'<div class="picture">{_img(image, f"{card.alt}: {label}")}<span class="label">{escape(label)}</span>'
                + (f'<span class="value">{escape(card.notes[label])}</span>' if label in card.notes else "")
                + "</div>"
                for label, image in card.images.items()
            )
            text = f"<p>{escape(card.text)}</p>" if card.text else ""
            parts.append(f'<div class="card"><div class="pictures">{pictures}</div>{text}</div>')
        return self._figure(f'<div class="cards{" wide" if wide else ""}">{"".join(parts)}</div>', caption)

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
        """A table; the first cell of each row is its heading. Numbers are set right, None is a dash; what stands on a text's further
        lines is set smaller below its first.

        Args:
            notes: a few words below each row's heading.
            groups: what each row belongs to; where it changes, a line says so. On a phone such a table stands as blocks, one a row,
                with the header's words at each value.
        """
        numeric = {
            index
            for index in range(1, len(header))
            if all(not isinstance(row[index], str) for row in rows if index < len(row))
        }
        head = "".join(
            f'<th scope="col"{_RIGHT if index in numeric else ""}>{escape(cell)}</th>'
            for index, cell in enumerate(header)
        )
        body, before = [], None
        for line, row in enumerate(rows):
            if groups and groups[line] != before:
                before = groups[line]
                body.append(
                    f'<tr class="group"><th scope="rowgroup" colspan="{len(header)}">{escape(before)}</th></tr>'
                )
            note = notes[line] if notes else ""
            cells = [
                _cell(
                    cell,
                    heading=i == 0,
                    right=i in numeric,
                    note=note if i == 0 else "",
                    head=header[i] if groups else "",
                )
                for i, cell in enumerate(row)
            ]
            body.append(f"<tr>{''.join(cells)}</tr>")
        kind = "plain noted" if notes else "plain"
        kind += " grouped" if groups else ""
        return self._table(f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>", caption, kind)

    def pairs(self, rows: Sequence[tuple[str, Cell]], *, caption: str) -> Self:
        """A table of what -> value, without a header."""
        body = "".join(
            f"<tr>{_cell(what, heading=True, right=False)}{_cell(value, heading=False, right=False)}</tr>"
            for what, value in rows
        )
        return self._table(f"<tbody>{body}</tbody>", caption, kind="pairs")

    def confusion(self, counts: NDArray[Any], labels: Sequence[str], *, caption: str) -> Self:
        """Who is taken for whom: ``counts[true, predicted]`` with each class's recall, shaded by the share within its row. Of many
        classes there are a picture, the weakest ones by name, and all of them folded away."""
        counts = np.asarray(counts)
        if counts.shape != (len(labels), len(labels)):
            raise ValueError(f"confusion table of shape {counts.shape} with {len(labels)} labels")
        if len(labels) <= MOST_IN_TABLE:
            kind, inner = cells(counts, labels)
            return self._table(inner, caption, kind)
        uri, width, height = encode(picture(counts))
        inner = (
            f'<img class="matrix" src="{uri}" alt="{escape(words(counts, labels))}" width="{width}" height="{height}">'
        )
        self._figure(
            inner,
            f"{caption} A row for each true class, downwards, and a column for each predicted one, in the order of the list below; "
            "the stronger its colour, the larger a cell's share of its row.",
        )
        listed_rows = rows(counts, labels)
        header = ["class", "recall", "images", "most often wrongly taken for"]
        self.table(
            header, [listed_rows[i] for i in weakest(counts)], caption="The classes that are recognised least often."
        )
        listed = "\n".join(
            f"{a}: {b} of {n:,}" + (f", else mostly {other}" if other else "") for a, b, n, other in listed_rows
        )
        return self.details(f"Recall of all {len(labels)} classes", listed)

    # ---- charts ----------------------------------------------------------------------------------------------

    def lines(
        self,
        series: Mapping[str, Series],
        *,
        caption: str,
        alt: str,
        x: str = "step",
        y: str = "",
        log: bool = False,
    ) -> Self:
        """A line chart as inline SVG; non-finite points leave gaps.

        Args:
            series: name -> heights, or (positions, heights).
            alt: what the chart says, in words.
            x, y: axis labels with units.
            log: logarithmic heights, where all are above 0.
        """
        return self.panels([line_panel("", series, alt=alt, x=x, y=y, log=log)], caption=caption)

    def panels(self, panels: Sequence[Panel], *, caption: str) -> Self:
        """Charts side by side in one figure; below one another on a phone."""
        parts = []
        for panel in panels:
            title = f'<p class="title">{escape(panel.title)}</p>' if panel.title else ""
            legend = "".join(f"<li>{mark}{escape(text)}</li>" for mark, text in panel.legend)
            legend = f'<ul class="legend">{legend}</ul>' if legend else ""
            alt = escape(panel.alt or panel.title)
            parts.append(
                f'<div class="panel">{title}<div class="chart" role="img" aria-label="{alt}">{panel.svg}</div>{legend}</div>'
            )
        return self._figure(f'<div class="panels">{"".join(parts)}</div>', caption)

    # ---- the page --------------------------------------------------------------------------------------------

    def html(self) -> str:
        """The whole page."""
        contents = ""
        if len(self._sections) >= 3:
            links = "".join(f'<li><a href="#{anchor}">{escape(title)}</a></li>' for anchor, title in self._sections)
            contents = f'<nav aria-label="Contents"><ol>{links}</ol></nav>'
        kicker = f'<p class="kicker">{escape(self.kicker)}</p>' if self.kicker else ""
        lead = f'<p class="lead">{escape(self.lead)}</p>' if self.lead else ""
        style, script = _asset("page.css"), ""
        allowed = "'none'"
        if self._scripted:
            code = _asset("page.js")
            digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
            allowed, script = f"'sha256-{digest}'", f"<script>{code}</script>\n"
        policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'; form-action 'none'"
        return (
            f'<!doctype html>\n<html lang="{escape(self.language)}">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            f"<title>{escape(self.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
            f'<div class="page{" with-contents" if contents else ""}">\n'
            f"<header>{kicker}<h1>{escape(self.title)}</h1>{lead}</header>\n{contents}\n<main>\n"
            + "\n".join(self._parts)
            + f"\n{self._footer}</main>\n</div>\n{script}</body>\n</html>\n"
        )

    def write(self, path: Path | str) -> Path:
        """Write the page (never half of it); missing folders are made. Raises UnpairedError."""
        write_output(path, self.html().encode("utf-8"))
        return Path(path)

    def _figure(self, inner: str, caption: str) -> Self:
        self._figures += 1
        label = f"<b>Figure {self._figures}.</b> {escape(caption)}"
        self._parts.append(f"<figure>{inner}<figcaption>{label}</figcaption></figure>")
        return self

    def _table(self, inner: str, caption: str, kind: str = "plain") -> Self:
        self._tables += 1
        label = f"<b>Table {self._tables}.</b> {escape(caption)}"
        # tabindex: a keyboard can scroll a table that is wider than the screen; the caption outside does not scroll
        self._parts.append(
            f'<div class="scroll" tabindex="0"><table class="{kind}"><caption>{label}</caption>{inner}</table></div>'
        )
        return self


def line_panel(
    title: str,
    series: Mapping[str, Series],
    *,
    alt: str = "",
    x: str = "step",
    y: str = "",
    log: bool = False,
    marks: Mapping[str, float] | None = None,
    span: tuple[float, float] | None = None,
) -> Panel:
    """Lines with their legend (left out for a single line)."""
    svg = charts.line_chart(series, x=x, y=y, log=log, marks=marks, span=span)
    legend = [(charts.swatch(i), name) for i, name in enumerate(series)] if len(series) > 1 else []
    return Panel(title, svg, legend, f"{alt or title}: {charts.first_last(series)}")


def scatter_panel(title: str, groups: Mapping[str, NDArray[np.float64]], *, alt: str) -> Panel:
    """Points of several groups with their legend."""
    legend = [(charts.marker(i), f"{name} ({len(points)})") for i, (name, points) in enumerate(groups.items())]
    return Panel(title, charts.scatter(groups), legend, alt)


def interval_panel(title: str, rows: Sequence[Dot], *, alt: str = "") -> Panel:
    """Values with their intervals."""
    said = "; ".join(
        f"{r.label} {r.value:.4g}" + (f" ({r.interval[0]:.4g} to {r.interval[1]:.4g})" if r.interval else "")
        for r in rows
    )
    return Panel(title, charts.intervals(rows), (), f"{alt or title}: {said}")


def _asset(name: str) -> str:
    return (resources.files("unpaired.report") / name).read_text(encoding="utf-8")


def _img(image: NDArray[np.uint8], alt: str) -> str:
    uri, width, height = encode(checked(image[None])[0])
    tiny = ' class="tiny"' if is_tiny(image[None]) else ""
    return f'<img{tiny} src="{uri}" alt="{escape(alt)}" width="{width}" height="{height}">'


def number(value: Any, digits: int = 4) -> str:
    """Counts in full, fractions with ``digits`` significant digits."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    return f"{float(value):,.{digits}g}" if abs(value) < 10**digits else f"{float(value):,.0f}"


def _cell(value: Cell, *, heading: bool, right: bool, note: str = "", head: str = "") -> str:
    text = "–" if value is None else value if isinstance(value, str) else number(value)
    if "\n" in text:
        first, _, under = text.partition("\n")
        label = f' data-head="{escape(head)}"' if head else ""
        return f'<td{label}>{escape(first)}<span class="under">{escape(under)}</span></td>'
    if heading:
        below = f'<span class="note-below">{escape(note)}</span>' if note else ""
        return f'<th scope="row">{escape(text)}{below}</th>'
    label = f' data-head="{escape(head)}"' if head else ""
    empty = ' class="none"' if head and text == "–" else ""
    return f"<td{label}{empty}{_RIGHT if right else ''}>{escape(text)}</td>"


# ----------------------------------------------------------------------------------------------------
# Pictures as data URIs: small ones exact, large ones compressed.
#
# Legend: N images, H height, W width; uint8, 0 to 255.

Images = NDArray[np.uint8]
"""uint8 [N, H, W, 3] (or [N, H, W] grey), 0 to 255."""
ENLARGE_TO = 96
"""Pictures whose shorter side is below this many pixels are shown enlarged, nearest neighbour, and stored without loss."""
MAX_SIDE = 512
"""Longer pictures are reduced to this many pixels."""
QUALITY = 90
"""Of the WebP format, in which larger pictures are stored: a fifth of the bytes of PNG, no difference to be seen."""


def checked(images: Images) -> Images:
    """[N, H, W, 3]; grey ones get three channels. Raises ValueError for another type or shape."""
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        raise ValueError(f"expected uint8 [N, H, W, 3], got {images.dtype} {list(images.shape)}")
    return images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=3)


def is_tiny(images: Images) -> bool:
    """Whether they are shown enlarged."""
    return int(min(images.shape[1:3])) < ENLARGE_TO


def encode(pixels: NDArray[np.uint8]) -> tuple[str, int, int]:
    """One picture [H, W, 3] or [H, W, 4] -> (data URI, width, height)."""
    picture = Image.fromarray(np.ascontiguousarray(pixels), "RGBA" if pixels.shape[2] == 4 else "RGB")
    if max(picture.size) > MAX_SIDE and pixels.shape[2] == 3:
        factor = MAX_SIDE / max(picture.size)
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    exact = min(pixels.shape[:2]) < ENLARGE_TO or pixels.shape[2] == 4 or not features.check("webp")
    if exact:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "WEBP", quality=QUALITY, method=4)
    kind = "png" if exact else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", *picture.size


def strip(images: Images, columns: int) -> tuple[str, int]:
    """Pictures side by side with transparent gaps: (PNG data URI, width in pixels of ``columns`` places)."""
    images = checked(images)
    n, h, w, _ = images.shape  # noqa: RUF059 - the shape is written out for the reader
    factor = max(1, ENLARGE_TO // min(h, w))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    h, w = h * factor, w * factor
    gap = max(2, w // 24)
    sheet = np.zeros((h, columns * (w + gap) - gap, 4), dtype=np.uint8)
    for index, image in enumerate(images):
        left = index * (w + gap)
        sheet[:, left : left + w, :3], sheet[:, left : left + w, 3] = image, 255
    uri, width, _ = encode(sheet)
    return uri, width


# ----------------------------------------------------------------------------------------------------
# Who is taken for whom: a table of counts with each class's recall, or a shaded picture where there are too many classes for one.
#
# Legend: K classes; counts [K, K], ``counts[true, predicted]``. A class's recall is the share of its images that are taken for it.

MOST_IN_TABLE = 16
"""Classes of a table; of more there is a picture, and the weakest ones by name."""
WEAKEST = 8
"""Classes that are named beside a picture."""
WIDE_HEADS = 60
"""Letters side by side above a table, from which on its column headings stand upright."""
BLUE = (42, 122, 204)
"""Of the picture's cells; it can be seen on light and on dark paper."""

Counts = NDArray[Any]


def recalls(counts: Counts) -> list[float | None]:
    """Recall of each class; None for one without images."""
    totals = counts.sum(axis=1)
    return [float(counts[i, i]) / float(n) if n > 0 else None for i, n in enumerate(totals)]


def percent(share: float | None) -> str:
    """A share to be read; a dash for none. 100 % is all of them, 0 % none."""
    if share is None:
        return "–"
    return "<1 %" if 0 < share < 0.01 else ">99 %" if 0.99 < share < 1 else f"{100 * share:.0f} %"


def cells(counts: Counts, labels: Sequence[str]) -> tuple[str, str]:
    """(kind, head and body) of the table: each cell is shaded by its share of the row, the last column is the recall."""
    head = "".join(f'<th scope="col"><span>{escape(label)}</span></th>' for label in labels)
    totals = np.maximum(counts.sum(axis=1), 1)
    body = []
    for row, (label, recall) in enumerate(zip(labels, recalls(counts), strict=True)):
        parts = []
        for column in range(len(labels)):
            share = 100.0 * float(counts[row, column]) / float(totals[row])
            kind = ' class="right"' if row == column else "" if share else ' class="zero"'
            parts.append(f'<td{kind} style="--share:{share:.0f}%">{int(counts[row, column]):,}</td>')
        parts.append(f'<td class="recall">{escape(percent(recall))}</td>')
        body.append(f'<tr><th scope="row">{escape(label)}</th>{"".join(parts)}</tr>')
    corner = '<th scope="col">true ↓ predicted →</th>'
    upright = len(labels) * max(map(len, labels), default=0) > WIDE_HEADS
    return "confusion upright" if upright else "confusion", (
        f'<thead><tr>{corner}{head}<th scope="col" class="recall">recall</th></tr></thead><tbody>{"".join(body)}</tbody>'
    )


def picture(counts: Counts) -> NDArray[np.uint8]:
    """uint8 [K, K, 4]: one pixel a cell, as opaque as the square root of its share of the row, so that small shares can be seen."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    pixels = np.empty((*counts.shape, 4), np.uint8)
    pixels[..., :3] = BLUE
    pixels[..., 3] = (255 * np.sqrt(np.clip(shares, 0, 1))).round()
    return pixels


def others(counts: Counts) -> list[tuple[int, int] | None]:
    """For each class (the class that its images are most often wrongly taken for, how many); None where there are none."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    best = wrong.argmax(axis=1)
    return [(int(k), int(wrong[i, k])) if wrong[i, k] > 0 else None for i, k in enumerate(best)]


def rows(counts: Counts, labels: Sequence[str]) -> list[list[str | int | None]]:
    """For each class its name, recall, number of images, and what it is most often wrongly taken for."""
    found: list[list[str | int | None]] = []
    for label, recall, n, other in zip(labels, recalls(counts), counts.sum(axis=1), others(counts), strict=True):
        taken = None if other is None else f"{labels[other[0]]} ({other[1]:,})"
        found.append([label, percent(recall), int(n), taken])
    return found


def weakest(counts: Counts) -> list[int]:
    """The classes of the lowest recall, lowest first; none without images."""
    known = [(recall, i) for i, recall in enumerate(recalls(counts)) if recall is not None]
    return [i for _, i in sorted(known)[:WEAKEST]]


def words(counts: Counts, labels: Sequence[str]) -> str:
    """What the picture says, for who cannot see it."""
    total, right = float(counts.sum()), float(counts.trace())
    said = f"{len(labels)} × {len(labels)} confusion table: {percent(right / total if total else None)} of {int(total):,} images on the diagonal"
    wrong = [(other[1], i, other[0]) for i, other in enumerate(others(counts)) if other is not None]
    if wrong:
        most, i, k = max(wrong, key=lambda w: w[0])
        said += f"; most often, {labels[i]} is taken for {labels[k]} ({most:,} times)"
    return said
