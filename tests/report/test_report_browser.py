"""The report in a headless Chromium: no errors, all pictures, sliders by mouse, finger and keys, phone, dark, paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import report_toys
from browser import Browser, find
from report_toys import many  # noqa: F401 - a fixture

import tiny
from unpaired.report import Report, write_report
from unpaired.report.charts import Dot, interval_panel, line_panel, scatter_panel
from unpaired.report.page import Card, Pair


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with one of everything, long words included."""
    find()
    images, large = tiny.pictures(9, 16), tiny.pictures(2, 128)
    report = Report("Day ↔ night", kicker="a method", lead="What was trained on what, long enough to wrap. " * 3)
    report.section("Summary").facts({"steps": "1,000", "parameters": "60,358"}).note("A warning.", warning=True)
    pairs = [Pair(x, y, ("day", "as night"), f"image {i} of day") for i, (x, y) in enumerate((large, images[:2]), 1)]
    report.section("Before and after").compare(pairs, caption="c")
    report.compare([Pair(*large, ("day", "as night"), "a region", ("true night", large[0]))], caption="c", wide=True)
    report.section("Sheets").sheet({"input": images, "output": images}, alt="day image", caption="c")
    shown = {"input": images[0], "near": images[1]}
    report.gallery([Card(shown, "words", f"row {i}", {"near": "0.5"}) for i in range(3)], caption="c")
    report.sheet({"strip": images}, alt="strip", caption="c", columns=8)
    rng = np.random.default_rng(0)
    report.section("Charts").panels(
        [
            line_panel("loss", {k: np.exp(rng.normal(size=300)) for k in "abcdefghi"}, log=True, marks={"second": 100}),
            interval_panel("FD", [Dot("translated", 2.0, (1.0, 4.0)), Dot("input itself", 3.0)]),
            scatter_panel("map", {k: rng.normal(size=(40, 2)) for k in ("real a", "real b", "a as b")}, alt="map"),
        ],
        caption="c",
    )  # fmt: skip
    header, row = ["what", "value"] + ["n"] * 8, ["x" * 30, "y" * 40] + [1] * 8
    report.section("Tables").table(header, [row], caption="A wide table " * 9, notes=["why " * 30])
    report.table(
        ["measure", "translated", "input itself", "real against real", "N"],
        [["FD ↓", "47.1\n[43.9, 49.9]", "34\n[30, 39]", "15.8", "2 / 4"], ["change", "0.7\n[0.6, 1]", "–", "–", "9"]],
        caption="Figures.",
        notes=["Fréchet distance", "why " * 30],
        groups=["day → night", "a domain with a long name → night"],
    )  # fmt: skip
    mixed = np.array([[i if j < 1 else 100 - i if j == 15 else 0 for j in range(16)] for i in range(0, 96, 6)])
    report.pairs([("hash", "f" * 64)], caption="c").confusion(mixed, [f"long name {i}" for i in range(16)], caption="c")
    report.confusion(np.eye(40, dtype=int), [f"kind {i}" for i in range(40)], caption="c")
    report.commands(["unpaired " + "x" * 200]).details("more", "y" * 300)
    return report.write(tmp_path_factory.mktemp("page") / "page.html")


@pytest.fixture(scope="module")
def desktop(page: Path) -> Iterator[Browser]:
    with Browser(1280, 900) as browser:
        browser.open(page)
        yield browser


BOX = "getBoundingClientRect()"


def box(browser: Browser, number: int) -> dict[str, float]:
    """Where a slider is, after it was scrolled into view."""
    browser.js(
        f"document.querySelectorAll('.compare')[{number}].scrollIntoView({{block: 'center', behavior: 'instant'}})"
    )
    found: dict[str, float] = browser.js(
        f"(r => ({{x: r.x, y: r.y, w: r.width, h: r.height}}))(document.querySelectorAll('.compare')[{number}].{BOX})"
    )
    return found


def at(browser: Browser, number: int) -> float:
    """Where a slider's line stands, in percent, as the pictures show it."""
    clip = browser.js(f"getComputedStyle(document.querySelectorAll('.compare .after')[{number}]).clipPath")
    line = browser.js(
        f"((c, b) => 100 * (b.x + b.width / 2 - c.x) / c.width)(document.querySelectorAll('.compare')[{number}].{BOX}, "
        f"document.querySelectorAll('.compare .bar')[{number}].{BOX})"
    )
    shown = float(clip.rsplit(" ", 1)[1].rstrip("%)"))
    assert abs(shown - line) < 1
    return shown


def test_a_page_loads_without_a_word_and_asks_for_nothing(desktop: Browser) -> None:
    """No console message, no exception, no refused style or script; the file itself is the only request."""
    assert desktop.said() == []
    assert len(desktop.requests()) == 1 and desktop.requests()[0].startswith("file:")


def test_all_pictures_are_there_with_their_texts(desktop: Browser) -> None:
    """Every image is decoded, is seen, has a text, and is not stretched."""
    images = desktop.js(
        "[...document.images].map(i => [i.complete && i.naturalWidth > 0, i.width > 0, i.alt.trim() != '', "
        "Math.abs(i.width / i.height * i.naturalHeight / i.naturalWidth - 1) < 0.05])"
    )
    assert len(images) > 25 and all(map(all, images))


def test_a_browser_gives_charts_and_sliders_their_names(desktop: Browser) -> None:
    """In the accessibility tree: charts are images with words, sliders have a name and a value in words, sheets can
    be reached."""
    nodes = desktop.do("Accessibility.getFullAXTree")["nodes"]
    roles = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]]
    charts = [name for role, name in roles if role in ("image", "img") and name.startswith(("loss", "FD", "map"))]
    assert len(charts) == 3 and any("translated 2 (1 to 4)" in name for name in charts)
    assert [name for role, name in roles if role == "slider"] == [
        f"{what}: how much is day" for what in ("image 1 of day", "image 2 of day", "a region")
    ]
    assert desktop.js("document.querySelector('.compare input').getAttribute('aria-valuetext')").endswith(
        "% day, the rest as night"
    )
    assert desktop.js("document.querySelector('.roll').tabIndex") == 0


def test_the_slider_follows_mouse_and_keys(desktop: Browser) -> None:
    """A click puts the line there, a drag takes it along, the other slider stays; arrow keys move it by one, Home and
    End to the ends; the one in focus has a visible frame."""
    r = box(desktop, 0)
    y = r["y"] + r["h"] / 2
    desktop.mouse(r["x"] + 0.25 * r["w"], y)
    assert at(desktop, 0) == pytest.approx(25, abs=2)
    desktop.mouse(r["x"] + 0.25 * r["w"], y, to=(r["x"] + 0.8 * r["w"], y))
    assert at(desktop, 0) == pytest.approx(80, abs=2) and at(desktop, 1) == 50
    desktop.js("document.querySelectorAll('.compare .range')[1].focus()")
    for name, code, place in (("ArrowRight", 39, 51), ("ArrowLeft", 37, 50), ("Home", 36, 0), ("End", 35, 100)):
        desktop.key(name, code)
        assert at(desktop, 1) == place
    assert desktop.js("getComputedStyle(document.querySelectorAll('.compare')[1]).outlineStyle") == "solid"


def test_the_truth_takes_the_place_of_the_translation(desktop: Browser) -> None:
    """A box on the slider, by click or space bar, shows the truth instead, behind the same line, and says so; the
    slider is as wide as the page. On paper all three stand side by side."""
    wide = "document.querySelectorAll('.compare')[2]"
    r = box(desktop, 2)
    assert r["w"] > 700
    shown = f"['after', 'truth'].map(c => getComputedStyle({wide}.querySelector('.' + c)).display)"
    assert desktop.js(shown) == ["block", "none"]
    desktop.js(f"{wide}.querySelector('.swap input').focus()")
    desktop.key(" ", 32)
    assert desktop.js(shown) == ["none", "block"]
    assert desktop.js(f"getComputedStyle({wide}.querySelector('.truth')).clipPath").endswith(" 50%)")
    assert desktop.js(f"{wide}.querySelector('.range').getAttribute('aria-valuetext')").endswith("the rest true night")
    desktop.js(f"{wide}.querySelector('.swap').scrollIntoView({{block: 'center', behavior: 'instant'}})")
    tick = desktop.js(f"(r => [r.x + 8, r.y + 8])({wide}.querySelector('.swap').{BOX})")
    desktop.mouse(*tick)
    assert desktop.js(shown) == ["block", "none"]
    desktop.media("print")
    places = desktop.js(f"[...{wide}.querySelectorAll('img')].map(i => (r => [r.left, r.right])(i.{BOX}))")
    assert places[0][1] <= places[1][0] and places[1][1] <= places[2][0]
    desktop.media("screen")


def test_a_phone_needs_no_sideways_scrolling_and_a_finger_moves_the_slider(page: Path) -> None:
    """390 pixels wide: the page is no wider; the sheet rolls in its own box; a finger on a slider moves its line."""
    with Browser(390, 844, phone=True) as browser:
        browser.open(page)
        assert browser.said() == []
        assert browser.js("document.documentElement.scrollWidth") == 390
        assert browser.js(
            "(e => e.scrollWidth > e.clientWidth && e.clientWidth <= 390)(document.querySelector('.roll'))"
        )
        assert browser.js("Math.min(...[...document.querySelectorAll('.sheet-grid img')].map(i => i.width))") >= 80
        texts = "[...document.querySelectorAll('p, li, td, th, figcaption, dt, .label')]"
        assert browser.js(f"Math.min(...{texts}.map(e => parseFloat(getComputedStyle(e).fontSize)))") >= 11
        cells = "[...document.querySelectorAll('.grouped tbody th, .grouped td:not(.none)')]"
        assert browser.js(f"{cells}.every(e => (r => r.width > 20 && r.right <= 390)(e.{BOX}))")
        heads = browser.js(
            "[...document.querySelectorAll('.grouped td')].map(e => getComputedStyle(e, '::before').content)"
        )
        assert heads[:4] == ['"translated"', '"input itself"', '"real against real"', '"N"']
        assert browser.js(
            "[...document.querySelectorAll('.grouped td.none')].every(e => getComputedStyle(e).display == 'none')"
        )
        r = box(browser, 0)
        y = r["y"] + r["h"] / 2
        browser.touch(r["x"] + 0.5 * r["w"], y, to=(r["x"] + 0.9 * r["w"], y))
        assert at(browser, 0) == pytest.approx(90, abs=4)


CONTRASTS = """
(selector => {
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = rgb => rgb.map(linear).reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
  const numbers = c => c.match(/[\\d.]+/g).map(Number).slice(0, 3).map(v => c.startsWith("color(") ? v : v / 255);
  return [...document.querySelectorAll(selector)].map(e => {
    const own = getComputedStyle(e), clear = own.backgroundColor == 'rgba(0, 0, 0, 0)';
    const behind = clear ? getComputedStyle(document.body) : own;
    const [ink, paper] = [own.color, behind.backgroundColor].map(c => light(numbers(c)));
    return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
  });
})
"""
TEXTS = "p:not(.note), h1, h2, a, dt, dd, td, th, figcaption, .row, .label, summary"


def test_texts_can_be_read_in_light_and_dark_and_on_every_shade(desktop: Browser) -> None:
    """Contrast of all texts, those on shaded cells from 0 to 100 % of a row too, is at least 4.5 (WCAG 2, AA) in
    light, in dark and on paper; dark really is dark."""
    for kind, dark in (("screen", False), ("screen", True), ("print", True)):
        desktop.media(kind, dark=dark)
        assert min(desktop.js(f"{CONTRASTS}({TEXTS!r})")) >= 4.5
        shades = desktop.js(f"{CONTRASTS}('.confusion td')")
        assert len(shades) == 16 * 17 and max(shades) > 1.5 * min(shades)
        paper = desktop.js("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
        assert (paper < 40) == (dark and kind == "screen")
    desktop.media("screen")


def test_a_confusion_table_keeps_names_and_recalls_in_sight_on_a_phone(page: Path) -> None:
    """Sixteen classes are wider than a phone: the table rolls in its box, and however far, each row's name and recall
    stay; on paper all columns are on the page."""
    with Browser(390, 844, phone=True) as browser:
        browser.open(page)
        ends = (
            f"(r => [r.firstChild.{BOX}.left, r.lastChild.{BOX}.right])(document.querySelector('.confusion tbody tr'))"
        )
        box = "document.querySelector('.scroll:has(> .confusion)')"
        assert browser.js(f"{box}.scrollWidth > {box}.clientWidth")
        for place in (0, 60, 1000):
            browser.js(f"{box}.scrollLeft = {place}")
            left, right = browser.js(ends)
            assert 0 <= left < 40 and 300 < right <= 390
    with Browser(720, 1000) as browser:  # A4 with margins
        browser.open(page)
        browser.media("print")
        assert browser.js("document.querySelector('.confusion').getBoundingClientRect().right") <= 720


def test_on_paper_before_and_after_stand_side_by_side(desktop: Browser) -> None:
    """For print the pictures of a slider are next to each other and whole, no sheet is cut off, and contents are left
    out."""
    desktop.media("print", dark=True)
    places = desktop.js(
        "[...document.querySelectorAll('.compare')[0].querySelectorAll('img')].map("
        f"i => (r => [r.left, r.right, r.top])(i.{BOX}))"
    )
    (_, right, top), (left, _, other) = places
    assert right <= left and top == other
    style = "getComputedStyle(document.querySelector('{}')).{}"
    wanted = {".compare .after": ("clipPath", "none"), "nav": ("display", "none"), ".roll": ("overflowX", "visible")}
    for selector, (key, value) in (*wanted.items(), ("body", ("backgroundColor", "rgb(255, 255, 255)"))):
        assert desktop.js(style.format(selector, key)) == value
    desktop.media("screen")


def test_without_scripts_both_pictures_are_seen(page: Path) -> None:
    """Where scripts are off, a slider is two pictures side by side and no dead control."""
    with Browser(1280, 900) as browser:
        browser.do("Emulation.setScriptExecutionDisabled", value=True)
        browser.open(page)
        tree = browser.do("Accessibility.getFullAXTree")["nodes"]
        assert not [n for n in tree if n["role"]["value"] == "slider" and not n["ignored"]]
        document = browser.do("DOM.getDocument")["root"]["nodeId"]
        found = browser.do("DOM.querySelectorAll", nodeId=document, selector=".compare img")["nodeIds"][:2]
        before, after = (browser.do("DOM.getBoxModel", nodeId=n)["model"]["content"] for n in found)
        assert before[2] <= after[0] and before[1] == after[1]


def test_the_report_of_a_model_loads_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report of three domains with random outputs: no message, all pictures, no sideways scrolling on a phone."""
    find()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    names = ("a-domain-with-a-very-long-name", "b", "c")
    model = report_toys.save(tmp_path / "many.safetensors", names)
    data = tiny.folder(tmp_path / "data", domains=names)
    out = write_report(model, out=tmp_path / "r.html", data=[str(data)], images=2, limit=3)
    with Browser(390, 844, phone=True) as browser:
        browser.open(out)
        assert browser.said() == []
        assert browser.js("document.images.length > 40 && [...document.images].every(i => i.naturalWidth > 0 && i.alt)")
        assert browser.js("document.documentElement.scrollWidth") == 390
