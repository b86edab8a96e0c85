"""A headless Chromium for tests, driven over its debugging pipe (Chrome DevTools Protocol) with the standard library
alone."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SILENCE_S = 180
"""A browser that says nothing for so long hangs."""


def find() -> str:
    """Its path; skips the test where there is none."""
    path = os.environ.get("UNPAIRED_CHROMIUM") or next((p for p in map(shutil.which, NAMES) if p), None)
    if path is None:
        pytest.skip("no Chromium here (Debian: apt install chromium), so pages are not tried in a browser")
    return path


class Browser:
    """One tab. Messages between Chromium and us are JSON texts that end with a zero byte."""

    def __init__(self, width: int, height: int, *, phone: bool = False, dark: bool = False) -> None:
        self._folder = tempfile.mkdtemp(prefix="unpaired-chromium-")
        ends = [*os.pipe(), *os.pipe()]
        theirs_in, ours_out, ours_in, theirs_out = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in ends)
        for fd in ends:
            os.close(fd)

        def child() -> None:  # Chromium reads from descriptor 3 and writes to 4
            os.dup2(theirs_in, 3)
            os.dup2(theirs_out, 4)

        options = ["--headless", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe", "--hide-scrollbars"]
        options += ["--no-sandbox"] if os.geteuid() == 0 else []
        self._process = subprocess.Popen(
            [find(), *options, f"--user-data-dir={self._folder}", "about:blank"],
            preexec_fn=child,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._out, self._in, self._buffer, self._number = ours_out, ours_in, bytearray(), 0
        self.events: list[dict[str, Any]] = []
        """What the page reported by itself: console messages, exceptions, requests."""
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.do(f"{domain}.enable")
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        if phone:
            self.do("Emulation.setTouchEmulationEnabled", enabled=True)
        self.media("screen", dark=dark)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], SILENCE_S)
            part = os.read(self._in, 1 << 16) if ready else b""
            if not part:
                raise RuntimeError("Chromium hangs or has ended")
            self._buffer += part
        text, _, rest = bytes(self._buffer).partition(b"\0")
        self._buffer = bytearray(rest)
        message: dict[str, Any] = json.loads(text)
        return message

    def _call(self, method: str, parameters: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (found := self._message()).get("id") != self._number:
            self.events.append(found)
        if "error" in found:
            raise RuntimeError(f"{method}: {found['error']}")
        result: dict[str, Any] = found["result"]
        return result

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command to the tab."""
        return self._call(method, parameters, self._session)

    def media(self, kind: str, *, dark: bool = False) -> None:
        """screen or print, light or dark."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.do("Emulation.setEmulatedMedia", media=kind, features=[scheme])

    def open(self, path: Path) -> None:
        """Load a file and wait until all of it is there."""
        self.do("Page.navigate", url=path.resolve().as_uri())
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._message())

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def said(self) -> list[dict[str, Any]]:
        """Console messages, warnings of the browser and exceptions so far."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [e for e in self.events if e.get("method") in kinds]

    def requests(self) -> list[str]:
        """Addresses asked for, other than data URIs."""
        sent = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith("data:")]

    def mouse(self, x: float, y: float, to: tuple[float, float] | None = None) -> None:
        """A click, or a drag from (x, y)."""
        self.do("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", buttons=1, clickCount=1)
        if to is not None:
            for part in (0.5, 1.0):
                between = {"x": x + (to[0] - x) * part, "y": y + (to[1] - y) * part}
                self.do("Input.dispatchMouseEvent", type="mouseMoved", button="left", buttons=1, **between)
            x, y = to
        self.do("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", clickCount=1)

    def touch(self, x: float, y: float, to: tuple[float, float]) -> None:
        """A finger that moves."""
        self.do("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        for part in (0.3, 0.6, 1.0):
            point = {"x": x + (to[0] - x) * part, "y": y + (to[1] - y) * part}
            self.do("Input.dispatchTouchEvent", type="touchMove", touchPoints=[point])
        self.do("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def key(self, name: str, code: int) -> None:
        """A key by its DOM name and Windows code."""
        for kind in ("rawKeyDown", "keyUp"):
            self.do("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)
