"""One self-contained HTML page from plain data: texts, image grids, tables, charts, commands.

No scripts and nothing fetched, so that the page can be mailed, archived and printed. It follows the reader's
light or dark setting, wraps on a phone, and every picture has an alternative text. Charts need matplotlib.

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
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unpaired._files import write_atomically
from unpaired.errors import UnpairedError

Cell = str | int | float | None
Images = NDArray[np.uint8]
"""uint8 [N, H, W, 3] (or [N, H, W] grey), 0 to 255."""
Series = Sequence[float] | tuple[Sequence[float], Sequence[float]]
"""Heights alone, or (positions, heights)."""

ENLARGE_TO = 96
"""Pictures whose shorter side is below this many pixels are enlarged towards it, nearest neighbour."""

# Stands for the text colour in a chart; becomes currentColor, which follows light and dark.
_INK = "#010203"
_RIGHT = ' class="number"'
_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#b8860b",
    "#56b4e9",
    "#7f7f7f",
)  # told apart by colour-blind eyes
_DASHES = ("-", "--", "-.", ":")


class Report:
    """A page that grows from top to bottom. Every method returns the page itself."""

    def __init__(self, title: str, *, lead: str = "", language: str = "en") -> None:
        self.title, self.lead, self.language = title, lead, language
        self._sections: list[tuple[str, str]] = []
        self._parts: list[str] = []
        self._figures = 0
        self._tables = 0

    def section(self, title: str) -> Self:
        """Start a section; it appears in the list of contents once there are three."""
        anchor = f"section-{len(self._sections) + 1}"
        self._sections.append((anchor, title))
        self._parts.append(f'<h2 id="{anchor}">{escape(title)}</h2>')
        return self

    def text(self, text: str) -> Self:
        """Plain paragraphs, separated by empty lines."""
        self._parts += [f"<p>{escape(part.strip())}</p>" for part in text.split("\n\n") if part.strip()]
        return self

    def items(self, items: Sequence[str]) -> Self:
        """A bulleted list of plain texts."""
        self._parts.append("<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>")
        return self

    def commands(self, commands: Sequence[str], *, caption: str = "To repeat") -> Self:
        """Shell commands, exactly as they are to be typed, one a line."""
        lines = escape("\n".join(commands))
        self._parts.append(f'<p class="label">{escape(caption)}</p><pre tabindex="0"><code>{lines}</code></pre>')
        return self

    def images(self, rows: Mapping[str, Images], *, alt: str, caption: str, columns: int = 8) -> Self:
        """Rows of pictures that belong together column by column: input above output.

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
                uri, width = _strip(part, columns)
                tiny = ' class="tiny"' if min(part.shape[1:3]) < ENLARGE_TO else ""
                where = f" ({first + 1} to {first + len(part)})" if count > columns else ""
                strips.append(
                    f'<div class="strip"><span class="label">{escape(label)}</span><img{tiny} src="{uri}" '
                    f'alt="{escape(f"{alt}: {label}{where}")}" style="width:{width}px"></div>'
                )
        return self._figure("".join(strips), caption)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Cell]], *, caption: str) -> Self:
        """A table; the first cell of each row is its heading. Numbers are set right, None is a dash."""
        numeric = {
            index
            for index in range(1, len(header))
            if all(not isinstance(row[index], str) for row in rows if index < len(row))
        }
        head = "".join(
            f'<th scope="col"{_RIGHT if index in numeric else ""}>{escape(cell)}</th>'
            for index, cell in enumerate(header)
        )
        body = "".join(
            "<tr>"
            + "".join(_cell(cell, heading=index == 0, right=index in numeric) for index, cell in enumerate(row))
            + "</tr>"
            for row in rows
        )
        return self._table(f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>", caption)

    def confusion(self, counts: NDArray[Any], labels: Sequence[str], *, caption: str) -> Self:
        """A confusion table: ``counts[true, predicted]``, shaded by the share within its row."""
        counts = np.asarray(counts)
        if counts.shape != (len(labels), len(labels)):
            raise ValueError(f"confusion table of shape {counts.shape} with {len(labels)} labels")
        totals = np.maximum(counts.sum(axis=1), 1)
        head = "".join(f'<th scope="col">{escape(label)}</th>' for label in labels)
        body = []
        for row, label in enumerate(labels):
            cells = []
            for column in range(len(labels)):
                share = 100.0 * float(counts[row, column]) / float(totals[row])
                strong = ' class="strong"' if share > 75 else ""
                cells.append(f'<td{strong} style="--share:{share:.0f}%">{escape(_number(counts[row, column]))}</td>')
            body.append(f'<tr><th scope="row">{escape(label)}</th>{"".join(cells)}</tr>')
        head = f'<th scope="col">true ↓ predicted →</th>{head}'
        inner = f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
        return self._table(inner, caption, kind="confusion")

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
            log: logarithmic heights.

        Raises:
            UnpairedError: matplotlib is not installed.
        """
        svg = _chart(series, x=x, y=y, log=log, salt=f"chart-{self._figures + 1}")
        return self._figure(f'<div class="chart" role="img" aria-label="{escape(alt)}">{svg}</div>', caption)

    def html(self) -> str:
        """The whole page."""
        contents = ""
        if len(self._sections) >= 3:
            links = "".join(f'<li><a href="#{anchor}">{escape(title)}</a></li>' for anchor, title in self._sections)
            contents = f'<nav aria-label="Contents"><ol>{links}</ol></nav>'
        lead = f'<p class="lead">{escape(self.lead)}</p>' if self.lead else ""
        style = (resources.files("unpaired") / "report.css").read_text(encoding="utf-8")
        return (
            f'<!doctype html>\n<html lang="{escape(self.language)}">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            f"<title>{escape(self.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
            f"<h1>{escape(self.title)}</h1>\n{lead}\n{contents}\n"
            + "\n".join(self._parts)
            + "\n</main>\n</body>\n</html>\n"
        )

    def write(self, path: Path | str) -> Path:
        """Write the page (never half of it); missing folders are made."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.html().encode("utf-8"))
        return path

    def _figure(self, inner: str, caption: str) -> Self:
        self._figures += 1
        label = f"<b>Figure {self._figures}.</b> {escape(caption)}"
        self._parts.append(f"<figure>{inner}<figcaption>{label}</figcaption></figure>")
        return self

    def _table(self, inner: str, caption: str, kind: str = "plain") -> Self:
        self._tables += 1
        label = f"<b>Table {self._tables}.</b> {escape(caption)}"
        # tabindex: a keyboard can scroll a table that is wider than the screen
        self._parts.append(
            f'<div class="scroll" tabindex="0"><table class="{kind}"><caption>{label}</caption>{inner}</table></div>'
        )
        return self


def _number(value: Any) -> str:
    """Counts in full, fractions with four significant digits."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    return f"{float(value):,.4g}" if abs(value) < 1e4 else f"{float(value):,.0f}"


def _cell(value: Cell, *, heading: bool, right: bool) -> str:
    text = "–" if value is None else value if isinstance(value, str) else _number(value)
    if heading:
        return f'<th scope="row">{escape(text)}</th>'
    return f"<td{_RIGHT if right else ''}>{escape(text)}</td>"


def _strip(images: Images, columns: int) -> tuple[str, int]:
    """Pictures side by side with transparent gaps: (PNG data URI, width in pixels of ``columns`` places)."""
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ValueError(f"expected uint8 [N, H, W, 3], got {images.dtype} {list(images.shape)}")
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=3)
    n, h, w, _ = images.shape  # noqa: RUF059 - the shape is written out for the reader
    factor = max(1, ENLARGE_TO // min(h, w))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    h, w = h * factor, w * factor
    gap = max(2, w // 24)
    sheet = np.zeros((h, columns * (w + gap) - gap, 4), dtype=np.uint8)
    for index, image in enumerate(images):
        left = index * (w + gap)
        sheet[:, left : left + w, :3], sheet[:, left : left + w, 3] = image, 255
    buffer = io.BytesIO()
    Image.fromarray(sheet, "RGBA").save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"), sheet.shape[1]


def _chart(series: Mapping[str, Series], *, x: str, y: str, log: bool, salt: str) -> str:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnpairedError("a chart needs matplotlib; type: pip install 'unpaired[demo]'") from error
    style: Any = {
        "svg.fonttype": "none",  # text stays text: searchable, in the page's own font
        "svg.hashsalt": salt,  # the same data give the same bytes; ids of two charts differ
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "text.color": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.2, 3.0), layout="constrained")
        axes = figure.add_subplot()
        for index, (name, values) in enumerate(series.items()):
            heights = values[1] if isinstance(values, tuple) else values
            positions = values[0] if isinstance(values, tuple) else range(1, len(values) + 1)
            colour, dash = _COLOURS[index % len(_COLOURS)], _DASHES[(index // len(_COLOURS)) % len(_DASHES)]
            finite = np.where(np.isfinite(np.asarray(heights, dtype=float)), np.asarray(heights, dtype=float), np.nan)
            mark = "o" if len(finite) == 1 else ""
            axes.plot(
                np.asarray(positions, dtype=float),
                finite,
                dash,
                color=colour,
                label=name,
                linewidth=1.4,
                marker=mark,
            )
        if log:
            axes.set_yscale("log")
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(color=_COLOURS[-1], alpha=0.25, linewidth=0.6)
        if len(series) > 1:
            figure.legend(loc="outside lower center", ncols=2 if len(series) < 7 else 3, fontsize=9)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")
