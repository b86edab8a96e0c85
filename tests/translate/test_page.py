"""The offline page: what it is made of, and in a headless Chromium without a network."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from unpaired.errors import ConfigError, WeightsError
from unpaired.translate import page
from unpaired.translate.export import Export
from unpaired.translate.translator import Translator

ABOUT = {
    "method": "cycle", "sha256": "5" * 64, "domains": ["</script><b>", "blue"], "source": "</script><b>",
    "target": "blue", "trained_at": 64, "from_noise": False, "inputs": {"images": [3, 16, 16]},
}  # fmt: skip


def test_the_page_runs_its_own_script_alone() -> None:
    """Its policy names script and style by their hashes and forbids every connection; names cannot break out."""
    text = page.page([Export(b"model", ABOUT, 0.0, ())], (b"script", b"binary")).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None and "connect-src 'none'" in policy[1] and "unsafe-inline" not in policy[1]
    for tag in ("script", "style"):
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        assert len(inline) == 1
        assert base64.b64encode(hashlib.sha256(inline[0].encode()).digest()).decode() in policy[1]
    assert "<b>" not in re.sub(r"<b>Choose pictures</b>", "", text)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)


def test_a_model_from_noise_has_no_page() -> None:
    """It has nothing to drop a picture on."""
    with pytest.raises(ConfigError, match="use --format onnx"):
        page.facts_of([{**ABOUT, "from_noise": True}])


def test_the_runtime_is_known_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other files are refused, from a folder and from npm; where none is to be had the text says what to type."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("UNPAIRED_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"npm pack onnxruntime-web@1\.30\.0 .* --runtime package/dist"):
        page.runtime(None)
    (tmp_path / "ort.wasm.bundle.min.mjs").write_text("alert(1)")
    with pytest.raises(ConfigError, match="SHA-256"):
        page.runtime(tmp_path)
    monkeypatch.delenv("UNPAIRED_OFFLINE")
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\nmkdir -p package/dist; echo x > package/dist/$FILE; tar czf a.tgz package\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent), prepend=":")
    monkeypatch.setenv("FILE", "ort.wasm.bundle.min.mjs")
    with pytest.raises(WeightsError, match="npm gave another"):
        page._by_npm(["ort.wasm.bundle.min.mjs"], None)
    assert not list((tmp_path / "cache").rglob("*.mjs"))


def colours(width: int, height: int) -> Image.Image:
    """A picture with something in it."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(
        np.stack([127 + 100 * np.sin(x / 17 + y / 29), x * 255 // width, y * 2], -1).astype(np.uint8)
    )


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Translator, Path]]:
    """(the page in a tab that is offline, the model, a folder); skipped where something for it is not installed."""
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here (Debian: apt install chromium)")
    try:
        page._here(list(page.RUNTIME)[:2], None)
    except WeightsError:
        pytest.skip(
            "ONNX Runtime Web is not in the cache: unpaired export MODEL --format html --out page.html puts it there"
        )
    folder = tmp_path_factory.mktemp("page")
    torch.manual_seed(0)
    model = Translator(cases.method("tiny"), {"method": "tiny"}, sha256="5" * 64)
    model.export(folder / "page.html", format="html")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_context(offline=True, viewport={"width": 390, "height": 844}).new_page()
        said: list[str] = []
        tab.on("request", lambda r: said.append(r.url) if not r.url.startswith(("blob:", "file:", "data:")) else None)
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.goto((folder / "page.html").as_uri())
        tab.wait_for_selector("body[data-state=ready]")
        yield tab, model, folder
        browser.close()
        assert not said, "no request, no violation of the policy, no error"


def test_pictures_in_the_browser_are_those_of_python(opened: tuple[Any, Translator, Path]) -> None:
    """Within a level of 255 at three sizes, one of them upright by its EXIF tag; all saved in one archive."""
    tab, model, folder = opened
    turned, tag = colours(64, 40), Image.Exif()
    tag[0x112] = 6
    for name, picture in (("a", colours(128, 128)), ("b", colours(90, 51))):
        picture.save(folder / f"{name}.png")
    turned.save(folder / "turned.jpg", exif=tag, quality=100)
    names = ["a.png", "b.png", "turned.jpg"]
    tab.set_input_files("#files", [str(folder / name) for name in names])
    tab.wait_for_selector("body[data-busy=false]")
    assert tab.text_content("#status") == "3 translated."
    with tab.expect_download() as download:
        tab.click("#save-all")
    download.value.save_as(folder / "all.zip")
    source, target = model.directions[0]
    with zipfile.ZipFile(folder / "all.zip") as archive:
        assert archive.testzip() is None
        for name in names:
            found = Image.open(archive.open(f"{Path(name).stem}-{target}.png")).convert("RGB")
            wanted = model.translate_image(Image.open(folder / name), source, target=target)
            assert found.size == wanted.size
            apart = np.abs(np.asarray(found).astype(int) - np.asarray(wanted).astype(int))
            assert apart.max() <= (1 if name != "turned.jpg" else 4), name  # another decoder of JPEG
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    tab.focus(".pair input")
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("document.querySelector('.pair').style.getPropertyValue('--cut')") == "51%"


def test_files_that_are_no_pictures_are_named(opened: tuple[Any, Translator, Path]) -> None:
    """Torn, empty, a script, a drawing, with a name that is markup: each has its line, and the rest goes on."""
    tab, _, folder = opened
    tab.click("#clear")
    whole = io.BytesIO()
    Image.fromarray(tiny.pictures(1, 40)[0]).save(whole, "PNG")
    bad = {
        "torn.png": whole.getvalue()[:200], "empty.png": b"", "text.png": b"<script>alert(1)</script>",
        "x.svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "<img src=x onerror=alert(1)>.png": b"no",
    }  # fmt: skip
    for name, content in {**bad, "good.png": whole.getvalue()}.items():
        (folder / name).write_bytes(content)
    tab.set_input_files("#files", [str(folder / name) for name in (*bad, "good.png")])
    tab.wait_for_selector("body[data-busy=false]")
    assert tab.text_content("#status") == "1 translated, 5 could not be."
    lines = json.dumps([line.text_content() for line in tab.query_selector_all("figcaption")])
    assert all(json.dumps(f"{name}: ")[1:-1] in lines for name in bad)
