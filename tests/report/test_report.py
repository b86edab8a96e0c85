"""The page builder: self-contained, escaped, readable structure, pictures that decode to the input's pixels, charts."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tiny
from unpaired.report import Card, Pair, Report, line_panel, scatter_panel
from unpaired.report.charts import Dot, interval_panel
from unpaired.report.page import MAX_SIDE, encode

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
    page.sheet({"input": tiny.pictures(5, 16), "output": tiny.pictures(3, 16)}, alt="Blob", caption="Blobs.", columns=4)
    page.section("Two").table(["name", "value", "n"], [["x<y", 0.12345, 10], ["z", None, 2000]], caption="Figures.")
    page.confusion(np.array([[9, 1], [4, 4]]), ["cat", "dog"], caption="Who is who.")
    lines = {"d": [1.0, 2.0, float("nan"), 3.0, 4.0], "<g> $x$": ([0, 50], [2.0, 1.0])}
    page.section("Three").panels([line_panel("Up", lines)], caption="Loss.")
    return page.commands(["unpaired demo --out 'a b'"])


HOSTILE = "</style><script>alert(1)</script>\"' onload=x {{ 7 * 7 }} {% raw %} $x$ #abcdff"


def test_what_others_wrote_stays_text() -> None:
    """A name that is HTML, an attribute's end, a template or a formula: in every place it is text, and no element
    comes of it."""
    n, picture, h = np.array([[1, 0], [0, 1]]), tiny.pictures(1, 16), HOSTILE
    page = Report(h, lead=h, kicker=h).section(h).heading(h).text(h).note(h).items([h]).facts({h: h})
    page.commands([h, "#" + h]).details(h, h).sheet({h: picture}, alt=h, caption=h, heads=[h])
    page.gallery([Card({h: picture[0]}, h, h, {h: h})], caption=h)
    page.compare([Pair(picture[0], picture[0], (h, h), h)], caption=h).pairs([(h, h)], caption=h).footer(h)
    page.table([h, h], [[h, f"{h}\n{h}"]], caption=h, notes=[h], groups=[h]).confusion(n, [h, h], caption=h)
    lines = line_panel(h, {h: [1.0], "b": [2.0]}, y=h, marks={h: 1.5})
    page.panels([lines, interval_panel(h, [Dot(h, 1.0)])], caption=h)
    found = Page(page.html())
    assert len(found.all("script")) == len(found.all("style")) == 1
    assert not any(key.startswith("on") or "{{" in key for _, attributes in found.elements for key in attributes)
    assert "".join(found.texts).count("{{ 7 * 7 }}") > 30 and "49" not in found.texts


def test_the_page_nests_fetches_nothing_and_says_everything_in_words() -> None:
    """Tags nest; no script, no stylesheet link, and every address is a data URI or an anchor of the page itself;
    pictures, charts, figures and tables have their words."""
    html = full().html()
    page = Page(html)
    assert not page.all("script") and not page.all("link") and len(page.all("nav")) == 1
    anchors = {a["id"] for _, a in page.elements if "id" in a}
    addresses = [a[key] or "" for _, a in page.elements for key in ("src", "href") if key in a]
    assert all(a.startswith("data:image/png;base64,") or a[1:] in anchors for a in addresses)
    assert not re.search(r"url\((?!#)|@import", html)
    assert 'name="viewport"' in html and "prefers-color-scheme: dark" in html and "@media print" in html
    assert all(a["alt"] for a in page.all("img")) and page.all("img")[0]["alt"] == "Blob, 1: input"
    charts = [a["aria-label"] for a in page.all("div") if a.get("role") == "img"]
    assert charts == ["Up: d from 1 to 4; <g> $x$ from 2 to 1"]
    assert len(page.all("figure")) == len(page.all("figcaption")) == 2
    assert len(page.all("table")) == len(page.all("caption")) == 2


def test_what_is_no_picture_is_refused() -> None:
    """[N, H, W] is grey; other types and nothing at all are refused."""
    page = Page(Report("t").sheet({"x": np.full((1, 100, 120), 7, np.uint8)}, alt="a", caption="c").html())
    assert page.all("img")[0]["width"] == "120"
    with pytest.raises(ValueError, match="expected uint8"):
        Report("t").sheet({"x": np.zeros((1, 8, 8, 3))}, alt="a", caption="c")
    with pytest.raises(ValueError, match="no images"):
        Report("t").sheet({"x": np.zeros((0, 8, 8, 3), np.uint8)}, alt="a", caption="c")


def test_a_confusion_table_has_headings_shades_and_recalls() -> None:
    """Cells are shaded by their share of the row; a row ends with its recall: 9 of 10, a dash without images, and
    1,999 of 2,000 is not called all; a table that does not fit its labels is refused."""
    counts = np.array([[9, 1, 0], [0, 0, 0], [0, 1, 1999]])
    html = Report("t").confusion(counts, ["a", "b", "c"], caption="c").html()
    body = html[html.index("<tbody>") : html.index("</tbody>")]
    assert re.findall(r'class="recall">([^<]+)<', body) == ["90 %", "–", "&gt;99 %"]
    assert re.findall(r'<td class="right"[^>]*>([^<]+)<', body) == ["9", "0", "1,999"]
    assert re.findall(r"--share:(\d+)%", body)[:3] == ["90", "10", "0"]
    assert re.findall(r'<th scope="row">(.)<', body) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="2 labels"):
        Report("t").confusion(np.zeros((3, 3)), ["a", "b"], caption="c")


def test_of_many_classes_the_weakest_are_named() -> None:
    """Of 30 classes the eight weakest stand in a table, weakest first, a class without images in none; all recalls
    are in the page."""
    counts = np.diag(np.full(30, 16))
    counts[7, 7], counts[7, 9] = 4, 12
    counts[3, 3], counts[3, 0] = 12, 4
    counts[5] = 0
    html = Report("t").confusion(counts, [f"kind{i:02d}" for i in range(30)], caption="RC.").html()
    table = html[html.index("<tbody>") : html.index("</tbody>")]
    assert re.findall("kind..", table)[:4] == ["kind07", "kind09", "kind03", "kind00"] and table.count("<tr>") == 8
    assert "kind05" not in table
    for words in ("kind07: 25 % of 16, else mostly kind09 (12)", "kind05: – of 0", "kind29: 100 % of 16"):
        assert words in html, words


def strokes(svg: str, colour: str) -> list[list[tuple[float, float]]]:
    """Corners of every line of that colour, in the order in which they were drawn."""
    drawn = [p for p in ET.fromstring(svg).iter("path") if f"stroke: var(--{colour})" in p.get("style", "")]
    paths = [p.get("d") or "" for p in drawn]
    return [[(float(x), float(y)) for x, y in re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", d)] for d in paths]


def test_a_chart_is_svg_that_follows_the_page_and_repeats_bit_for_bit() -> None:
    """Well-formed SVG without a colour of its own or a formula; its texts are texts; the same data give the same
    bytes; names that its parts refer to are its own on the page; NaN leaves a gap."""
    one, two = full().html(), full().html()
    assert one == two
    svg = one[one.index('<svg viewBox="0 0 360') :]
    svg = svg[: svg.index("</svg>") + 6]
    assert not re.search(r"#[0-9a-f]{3}|rgb|font-family", svg) and ">step<" in svg
    path = next(p.get("d") or "" for p in ET.fromstring(svg).iter("path") if "var(--c0)" in p.get("style", ""))
    assert path.count("M") == 2
    panels = [
        scatter_panel("m", {"a": np.eye(2), "b": np.ones((1, 2))}, alt="map"),
        interval_panel("i", [Dot("a", 1.0)]),
    ]
    page = Page(Report("t").panels(panels, caption="c").html())
    names = [a["id"] for _, a in page.elements if "id" in a]
    assert len(set(names)) == len(names) > 2
    assert {a["href"] for t, a in page.elements if t == "use"} <= {f"#{name}" for name in names}


def test_heights_are_drawn_to_scale() -> None:
    """On the linear axis equal differences are equally high, on the logarithmic one equal factors; up is more."""

    def drawn(values: Any, **options: Any) -> np.ndarray[Any, Any]:
        return np.array(strokes(line_panel("t", {"a": values}, **options).svg, "c0")[0])

    flat, steep = drawn([1.0, 2.0, 3.0])[:, 1], drawn([0.1, 1.0, 10.0], log=True)[:, 1]
    for heights in (flat, steep):
        assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.3) and heights[0] > heights[2]
    places = drawn(([0, 10, 100], [1.0, 2.0, 3.0]))[:, 0]
    assert (places[2] - places[0]) == pytest.approx(10 * (places[1] - places[0]), rel=0.02)


def test_long_noisy_lines_get_a_moving_average_and_few_points() -> None:
    """1,000 points: the raw line pale behind a smoother one, both with at most 240 points."""
    noise = np.random.default_rng(0).normal(size=1000)
    raw, smooth = (np.array(p)[:, 1] for p in strokes(line_panel("t", {"a": noise.tolist()}).svg, "c0")[:2])
    assert max(len(raw), len(smooth)) <= 240
    assert np.abs(np.diff(smooth)).mean() < 0.3 * np.abs(np.diff(raw)).mean()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "values", [[], [float("nan")], [5.0], [0.0, 0.0], [1e-9, 2e-9], [1e12, -1e12], [float("inf"), 1.0], [0.0, 100.0]]
)
def test_odd_values_still_make_a_chart(values: list[float]) -> None:
    """Nothing, one point, equal, tiny, huge, infinite or zero heights: well-formed SVG without NaN, linear and
    logarithmic."""
    for log in (False, True):
        svg = line_panel("t", {"a": values}, log=log, y="高 height", marks={"start": 1.0}).svg
        ET.fromstring(svg)
        assert "nan" not in svg and "inf" not in svg.replace("finite", "")


def test_dots_points_and_intervals() -> None:
    """A scatter has a mark for each point, of another shape for each group; an interval spans its ends, around the
    value; both are told in words."""
    groups = {"x": np.random.default_rng(0).normal(size=(3, 2)), "y": np.array([[1.0, 2.0], [3.0, 4.0]])}
    panel = scatter_panel("t", groups, alt="map")
    marks = [a.get("href") for t, a in Page(panel.svg).elements if t == "use"]
    assert panel.legend == ["x (3)", "y (2)"] and len(marks) == 5 and len(set(marks)) == 2
    panel = interval_panel("FD", [Dot("a", 2.0, (1.0, 4.0)), Dot("b", 3.0)])
    assert panel.alt == "FD: a 2 (1 to 4); b 3"
    (start, _), (end, _) = strokes(panel.svg, "c0")[0]
    places = [float(a["x"] or 0) for t, a in Page(panel.svg).elements if t == "use"]
    dot = next(x for x in places if x not in (start, end))
    assert (dot - start) * 2 == pytest.approx(end - dot, abs=0.5)


def test_sliders_bring_the_only_script_and_the_page_allows_no_other() -> None:
    """The page's policy has the hash of its own script, and no script at all without sliders; each slider has a name,
    two pictures with texts, and is hidden until the script runs."""
    a, b = tiny.pictures(2, 16)
    html = Report("t").compare([Pair(a, b, ("day", "as night"), "image 1 of day")], caption="c").html()
    page, script = Page(html), re.search(r"<script>(.*?)</script>", html, re.S)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = next(m["content"] or "" for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
    slider = page.all("input")[0]
    assert "hidden" in slider and slider["aria-label"] == "image 1 of day: how much is day"
    assert [i["alt"] for i in page.all("img")] == ["image 1 of day: day", "image 1 of day: as night"]
    assert "script-src 'none'" in full().html()


def test_sheets_and_galleries_name_every_picture() -> None:
    """Each picture has its own text and its size; a row that is shorter leaves places empty; columns can have heads."""
    images = tiny.pictures(3, 16)
    report = Report("t")
    report.sheet({"input": images, "output": images[:2]}, alt="day image", caption="c", heads=["a", "b", "c"])
    report.gallery([Card({"input": images[0], "near": images[1]}, "words", "row 1", {"near": "0.5"})], caption="d")
    page = Page(report.html())
    alts = [i["alt"] for i in page.all("img")]
    assert alts[:4] == ["day image, a: input", "day image, b: input", "day image, c: input", "day image, a: output"]
    assert alts[-2:] == ["row 1: input", "row 1: near"] and len(alts) == 7
    assert all((i["width"], i["height"]) == ("16", "16") for i in page.all("img")) and "0.5" in page.texts


def test_small_pictures_are_exact_and_large_ones_compact() -> None:
    """Below 96 pixels PNG, bit for bit, also in grey; above, WebP near the original; above 512 reduced, aspect kept."""
    small, large, huge = tiny.pictures(1, 16)[0], tiny.pictures(1, 128)[0], np.zeros((600, 1200, 3), np.uint8)

    def decoded(uri: str) -> np.ndarray[Any, Any]:
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))

    found = encode(small)
    assert found.uri.startswith("data:image/png") and (found.width, found.height, found.tiny) == (16, 16, True)
    assert np.array_equal(decoded(found.uri), small)
    assert np.array_equal(decoded(encode(small[..., 0]).uri)[..., 1], small[..., 0])
    found = encode(large)
    assert found.uri.startswith("data:image/webp") and not found.tiny
    assert np.abs(decoded(found.uri).astype(int) - large).mean() < 5  # its noise is of 4 levels
    assert (encode(huge).width, encode(huge).height) == (MAX_SIDE, MAX_SIDE // 2)
