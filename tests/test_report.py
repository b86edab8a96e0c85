"""The report page: self-contained, escaped, readable structure, pictures that decode to the input's pixels."""

from __future__ import annotations

import base64
import io
import re
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny
from unpaired.errors import UnpairedError
from unpaired.report import ENLARGE_TO, Report

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Elements with their attributes; fails on tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag]


def full() -> Report:
    page = Report("Title & <more>", lead="In short.")
    page.section("One").text("First <b>.\n\nSecond.").items(["a & b"])
    page.images(
        {"input": tiny.pictures(5, 16), "output": tiny.pictures(3, 16)}, alt="Blobs", caption="Blobs.", columns=4
    )
    page.section("Two").table(["name", "value", "n"], [["x<y", 0.12345, 10], ["z", None, 2000]], caption="Figures.")
    page.confusion(np.array([[9, 1], [4, 4]]), ["cat", "dog"], caption="Who is who.")
    page.section("Three").lines(
        {"d": [1.0, 2.0, float("nan"), 3.0], "g": ([0, 50], [2.0, 1.0])}, alt="Up", caption="Loss."
    )
    return page.commands(["unpaired demo --out 'a b'"])


def test_the_page_nests_and_fetches_nothing() -> None:
    """Tags nest; no script, no stylesheet link, and every address is a data URI or an anchor of the page itself."""
    html = full().html()
    page = Page(html)
    assert not page.all("script") and not page.all("link")
    anchors = {a["id"] for _, a in page.elements if "id" in a}
    for _, attributes in page.elements:
        for key in ("src", "href", "xlink:href"):
            address = attributes.get(key)
            assert address is None or address.startswith("data:image/png;base64,") or address[1:] in anchors
    assert not re.search(r"url\((?!#)|@import", html)
    assert 'name="viewport"' in html and "prefers-color-scheme: dark" in html and "@media print" in html


def test_texts_are_escaped_and_pictures_have_texts() -> None:
    """Angle brackets stay text; every picture has an alt text, every chart a label, every figure and table a caption."""
    page = Page(full().html())
    assert "First <b>." in page.texts and "x<y" in page.texts
    assert all(a["alt"] for a in page.all("img"))
    assert page.all("img")[0]["alt"] == "Blobs: input (1 to 4)"
    assert any(a.get("role") == "img" and a.get("aria-label") == "Up" for a in page.all("div"))
    assert len(page.all("figure")) == len(page.all("figcaption")) == 2
    assert len(page.all("table")) == len(page.all("caption")) == 2
    assert len(page.all("nav")) == 1


def test_tiny_pictures_are_enlarged_without_inventing_pixels() -> None:
    """A 16-pixel picture is repeated by a whole factor; taking every k-th pixel gives it back exactly."""
    images = tiny.pictures(2, 16)
    page = Page(Report("t").images({"x": images}, alt="a", caption="c").html())
    uri = page.all("img")[0]["src"] or ""
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))))
    k = ENLARGE_TO // 16
    assert sheet.shape[0] == 96
    assert np.array_equal(sheet[:, : 16 * k][k // 2 :: k, k // 2 :: k, :3], images[0])
    assert np.array_equal(sheet[:, -16 * k :][k // 2 :: k, k // 2 :: k, :3], images[1])
    assert (sheet[:, 16 * k : -16 * k, 3] == 0).all()  # the gap is transparent


def test_large_and_grey_pictures_pass() -> None:
    """A picture above the limit is not enlarged; [N, H, W] is grey; other types are refused."""
    page = Page(Report("t").images({"x": np.full((1, 100, 120), 7, np.uint8)}, alt="a", caption="c").html())
    assert page.all("img")[0]["style"] == "width:120px"
    with pytest.raises(ValueError, match="expected uint8"):
        Report("t").images({"x": np.zeros((1, 8, 8, 3))}, alt="a", caption="c")
    with pytest.raises(ValueError, match="no images"):
        Report("t").images({"x": np.zeros((0, 8, 8, 3), np.uint8)}, alt="a", caption="c")


def test_confusion_cells_are_shaded_by_the_share_of_their_row() -> None:
    """9 of 10 is 90 %, 4 of 8 is 50 %; a table that does not fit its labels is refused."""
    cells = Page(full().html()).all("td")
    assert [c.get("style") for c in cells if c.get("style")] == [f"--share:{n}%" for n in (90, 10, 50, 50)]
    with pytest.raises(ValueError, match="2 labels"):
        Report("t").confusion(np.zeros((3, 3)), ["a", "b"], caption="c")


def test_a_chart_is_svg_that_follows_the_page_and_repeats_bit_for_bit() -> None:
    """Well-formed SVG in the page's colours with its texts as text; the same data give the same bytes; ids do not clash."""
    one, two = full().html(), full().html()
    assert one == two
    svg = one[one.index("<svg") : one.index("</svg>") + 6]
    ET.fromstring(svg)
    assert "currentColor" in svg and "#010203" not in svg and ">step<" in svg
    page = Report("t")
    for _ in range(2):
        page.lines({"a": [1.0, 2.0]}, alt="x", caption="y")
    ids = re.findall(r'<clipPath id="([^"]+)"', page.html())
    assert len(ids) == len(set(ids)) == 2


def test_without_matplotlib_a_chart_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UnpairedError, match=r"pip install 'unpaired\[demo\]'"):
        Report("t").lines({"a": [1.0]}, alt="x", caption="y")


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    """Folders are made, the file is UTF-8, and no temporary file stays."""
    path = Report("Größe → 1").write(tmp_path / "deep" / "report.html")
    assert "Größe → 1" in path.read_text(encoding="utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
