"""A headless Chromium that is told what to do over a pipe, in the DevTools protocol: no driver and no port."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["Browser", "Page", "find_browser"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)
# Chromium reads commands from its file descriptor 3 and writes to 4
_START = "import os, sys; r, w, *c = sys.argv[1:]; os.dup2(int(r), 3); os.dup2(int(w), 4); os.execv(c[0], c)"
_PATIENCE = 60.0


def find_browser() -> str | None:
    """Path of a Chromium or Chrome, if there is one."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


class Browser:
    """One process.

    Args:
        path: The program.
        profile: A new folder of its own.
    """

    def __init__(self, path: str, profile: Path) -> None:
        ends = [*os.pipe(), *os.pipe()]
        high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]  # none of them is 3 or 4
        for end in ends:
            os.close(end)
        command_out, self._write, self._read, answer_in = high
        command = [sys.executable, "-c", _START, str(command_out), str(answer_in), path, f"--user-data-dir={profile}"]
        with (profile / "log.txt").open("w") as log:
            self._process = subprocess.Popen(
                [*command, *_FLAGS, "about:blank"], pass_fds=(command_out, answer_in), stdout=log, stderr=log
            )
        os.close(command_out)
        os.close(answer_in)
        self._number = 0
        self._buffer = b""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; what happens meanwhile is added to ``events``."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        number = self._number
        while True:
            answer = self.receive()
            if answer.get("id") != number:
                self.events.append(answer)
                continue
            assert "error" not in answer, (method, answer["error"])
            result: dict[str, Any] = answer["result"]
            return result

    def receive(self) -> dict[str, Any]:
        """The next message."""
        end = time.monotonic() + _PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser doesn't answer"
            chunk = os.read(self._read, 1 << 16)
            assert chunk, "the browser is gone"
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        found: dict[str, Any] = json.loads(message)
        return found

    def open(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False) -> Page:
        """A file in a new tab, when it has loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = "dark" if dark else "light"
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        page.call("Page.navigate", url=path.as_uri())
        page.wait("Page.loadEventFired")
        return page

    def close(self) -> None:
        """End the process."""
        self.call("Browser.close")
        self._process.wait(30)
        os.close(self._read)
        os.close(self._write)


class Page:
    """A tab with a page in it."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser, self._session, self._target = browser, session, target

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command about this page."""
        return self._browser.call(method, self._session, **params)

    def wait(self, method: str) -> None:
        """Wait until something has happened."""
        while not self.happened(method):
            self._browser.events.append(self._browser.receive())

    def happened(self, method: str) -> list[dict[str, Any]]:
        """What has happened of a kind, in order."""
        events = self._browser.events
        return [e["params"] for e in events if e.get("sessionId") == self._session and e.get("method") == method]

    def problems(self) -> list[Any]:
        """Exceptions, and everything that was written to the console or the log."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        self.run("0")  # what was on its way has come
        return [event for kind in kinds for event in self.happened(kind)]

    def requests(self) -> list[str]:
        """Addresses that were asked for."""
        return [event["request"]["url"] for event in self.happened("Network.requestWillBeSent")]

    def run(self, code: str) -> Any:
        """The value of an expression of JavaScript, as plain data."""
        answer = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def texts(self, selector: str) -> list[str]:
        """The text of every element that a CSS selector finds."""
        found: list[str] = self.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.textContent)")
        return found

    def hover(self, selector: str) -> tuple[float, float]:
        """Bring an element into sight and move the mouse onto it."""
        code = (
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', inline: 'center'}); const r = e.getBoundingClientRect();"
            "return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() =>"
            "done([r.left + r.width / 2, r.top + r.height / 2])))); })()"
        )
        x, y = self.run(code)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        return x, y

    def click(self, selector: str) -> None:
        """Click an element with the mouse."""
        x, y = self.hover(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, selector: str, key: str) -> None:
        """Focus an element and press a key."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        text = {"Enter": "\r", " ": " "}.get(key, "")
        code = {" ": "Space"}.get(key, key)
        virtual = {"Enter": 13, " ": 32, "Escape": 27, "ArrowDown": 40, "ArrowRight": 39}[key]
        common = {"key": key, "code": code, "windowsVirtualKeyCode": virtual}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, selector: str, text: str) -> None:
        """Focus a field and write into it."""
        self.run(f"document.querySelector({json.dumps(selector)}).select()")
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """A picture of the page as PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """Close the tab."""
        self._browser.call("Target.closeTarget", targetId=self._target)
