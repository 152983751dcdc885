"""A headless Chromium for the tests of pages, controlled over a pipe with its DevTools protocol."""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="no chromium on PATH (Debian: apt install chromium)")
READS, WRITES = 3, 4  # the file descriptors where Chromium reads and writes messages
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe")
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


class Browser:
    """One tab. `events` are its events since the page was opened."""

    def __init__(self, reader: int, writer: int):
        self._reader, self._writer, self._buffer, self._count, self._session = reader, writer, b"", 0, None
        self.events: list[dict] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict:
        """Call a method of the protocol. Return its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read(60)
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _read(self, seconds: float) -> dict:
        until = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._reader], [], [], max(0, until - time.monotonic()))
            assert ready, "chromium does not answer"
            part = os.read(self._reader, 2**20)
            assert part, "chromium has ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False, seconds: float = 60) -> float:
        """Open a file and wait until its page is drawn. Return the seconds that drawing took."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.run("delete document.documentElement?.dataset.ready")  # of an earlier page
        self.events.clear()
        self.call("Page.navigate", url=path.absolute().as_uri())
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            ready = self.run("document.documentElement?.dataset.ready")
            if ready is not None:
                return float(ready) / 1000
            time.sleep(0.05)
        raise AssertionError(f"{path} was not drawn in {seconds} s: {self.events}")

    def run(self, script: str) -> Any:
        """Evaluate a script in the page. Return its value."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, *keys: str) -> None:
        """Press keys one after the other, and wait until the page is drawn."""
        for key in keys:
            text = {"text": "\r"} if key == "Enter" else {"text": " "} if key == " " else {}
            own = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
            self.call("Input.dispatchKeyEvent", type="keyDown", **own, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", **own)
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def shoot(self, path: Path, whole: bool = False) -> None:
        """Write a picture of the visible part, or of the whole page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"clip": size | {"width": self.run("innerWidth"), "scale": 1}} if whole else {}
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=whole, **clip)
        path.write_bytes(base64.b64decode(picture["data"]))

    def list_messages(self) -> list[dict]:
        """List the messages of the console, exceptions and refused accesses."""
        self.call("Runtime.evaluate", expression="0")
        names = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event["params"] for event in self.events if event.get("method") in names]

    def list_requests(self) -> list[str]:
        """List the URLs that the page has requested."""
        asked = (event for event in self.events if event.get("method") == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in asked]


@contextlib.contextmanager
def start(folder: Path) -> Iterator[Browser]:
    """Start a browser with its profile in `folder`."""
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    # The ends may already be 3 or 4. A shell connects them, because Python code between fork and exec is unsafe with threads.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]
    connect = f'exec "$0" "$@" {READS}<&{ends[0]} {WRITES}>&{ends[1]} {ends[0]}<&- {ends[1]}>&-'
    process = subprocess.Popen(
        ["bash", "-c", connect, PROGRAM, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
        pass_fds=ends,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    for end in (theirs_in, theirs_out, *ends):
        os.close(end)
    try:
        yield Browser(ours_in, ours_out)
    finally:
        for end in (ours_out, ours_in):
            os.close(end)
        try:
            process.wait(10)  # it ends when the pipe closes
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
