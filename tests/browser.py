"""A page in headless Chromium, with real keys, clicks and downloads: its DevTools protocol through
a pipe, which needs no port and no further package."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import HANG, end_all

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
CODES = {"Enter": 13, "Escape": 27, "Tab": 9, " ": 32, "ArrowLeft": 37, "ArrowUp": 38,
         "ArrowRight": 39, "ArrowDown": 40}  # fmt: skip
TEXTS = {"Enter": "\r", "Escape": "", "Tab": ""}


class Browser:
    """One tab. ``read`` and ``write`` are the ends of the pipes to the browser."""

    def __init__(self, read: int, write: int) -> None:
        self.read, self.write = read, write
        self.buffer, self.number, self.session = b"", 0, ""

    def open(self, page: Path, downloads: Path) -> None:
        self.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.visit(page)

    def visit(self, page: Path) -> None:
        self.ask("Page.navigate", url=page.as_uri())
        self.wait(f"document.readyState === 'complete' && location.href === '{page.as_uri()}'")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its answer; events are passed over."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.message()
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer["error"])
                found: dict[str, Any] = answer["result"]
                return found

    def message(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            assert select.select([self.read], [], [], HANG / 10)[0], "the browser hangs"
            more = os.read(self.read, 2**16)
            assert more, "the browser has ended"
            self.buffer += more
        first, _, self.buffer = self.buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(first)
        return found

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script: str) -> None:
        """Until the expression is true."""
        end = time.monotonic() + HANG / 10
        while not self.run(script):
            assert time.monotonic() < end, f"never came: {script}"
            time.sleep(0.02)

    def press(self, *keys: str) -> None:
        for key in keys:
            text = TEXTS.get(key, key if len(key) == 1 else "")
            code = CODES.get(key, ord(key.upper()) if len(key) == 1 else 0)
            event = {"key": key, "windowsVirtualKeyCode": code}
            self.ask("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
            self.ask("Input.dispatchKeyEvent", type="keyUp", **event)

    def click(self, selector: str) -> None:
        """The mouse on the middle of an element, which is brought into view."""
        x, y = self.run(
            f"(e => {{ e.scrollIntoView({{block: 'center', behavior: 'instant'}}); const r = "
            f"e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] }})"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        for kind in ("mousePressed", "mouseReleased"):
            event = {"x": x, "y": y, "button": "left", "clickCount": 1}
            self.ask("Input.dispatchMouseEvent", type=kind, **event)

    def screen(self, width: int, height: int, *, dark: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.wait(f"innerWidth === {width}")  # a click before would miss what moves

    def picture(self, file: Path) -> None:
        file.write_bytes(b64decode(self.ask("Page.captureScreenshot")["data"]))


@contextmanager
def browsing(page: Path, folder: Path) -> Iterator[Browser]:
    """``page`` in a browser whose profile and ``downloads`` are in ``folder``."""
    assert CHROMIUM is not None
    to_browser, from_browser = os.pipe(), os.pipe()

    def ends() -> None:  # the browser reads commands from 3 and answers to 4
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser[0], from_browser[1])]
        for end, number in zip(high, (3, 4), strict=True):
            os.dup2(end, number)

    process = subprocess.Popen(
        [CHROMIUM, *QUIET, "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        close_fds=False, preexec_fn=ends,
    )  # fmt: skip
    try:
        os.close(to_browser[0])
        os.close(from_browser[1])
        browser = Browser(from_browser[0], to_browser[1])
        (folder / "downloads").mkdir(parents=True, exist_ok=True)
        browser.open(page, folder / "downloads")
        yield browser
    finally:
        end_all(process)
        os.close(to_browser[1])
        os.close(from_browser[0])
