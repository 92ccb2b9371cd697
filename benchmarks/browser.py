"""Headless Chromium driven over its DevTools protocol: pages are opened, clicked, asked and photographed."""

import base64
import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

MOST_SECONDS = 120
# An element that can be seen and shows a text, or has it as its label or placeholder; links and buttons first.
FIND = """(text => {
  const shown = e => { const b = e.getBoundingClientRect(); return b.width > 0 && b.height > 0; };
  const told = e => [(e.innerText || "").trim(), e.getAttribute("aria-label"), e.placeholder].includes(text);
  const found = [...document.querySelectorAll("a, button, input, [role=tab], summary, span, div")]
    .filter(e => shown(e) && told(e));
  return found.sort((a, b) => b.matches("a, button, input") - a.matches("a, button, input"))[0] || null;
})"""


class Page:
    """A page of the browser; `clicks` counts the clicks since it was opened."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection, self._last, self.clicks = connection, 0, 0

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol; events that come meanwhile are dropped."""
        self._last += 1
        self._connection.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._connection.recv(timeout=MOST_SECONDS))
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise SystemExit(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def shape(self, width: int, height: int, dark: bool = False) -> None:
        """Set the window's size in CSS pixels, and what the page's style is told of light and dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        """Open an address and wait until it is loaded."""
        self.clicks = 0
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def ask(self, script: str) -> Any:
        """Return the value of a JavaScript expression, awaited."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise SystemExit(f"{script[:80]}: {found['exceptionDetails'].get('exception', {}).get('description')}")
        return found["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until an expression is true; it may fail while a page is being replaced."""
        end = time.monotonic() + MOST_SECONDS
        while True:
            with contextlib.suppress(SystemExit):
                if self.ask(f"Boolean({script})"):
                    return
            if time.monotonic() > end:
                raise SystemExit(f"it did not become true within {MOST_SECONDS} s: {script[:200]}")
            time.sleep(0.2)

    def sees(self, text: str) -> None:
        """Wait until a text stands on the page."""
        self.until(f"document.body.innerText.includes({json.dumps(text)})")

    def click(self, text: str) -> None:
        """Click the element that shows a text, with the mouse, in its middle."""
        element = f"{FIND}({json.dumps(text)})"
        self.until(element)
        time.sleep(0.5)  # for a page that is still moving
        place = self.ask(
            f"(e => {{ e.scrollIntoView({{block: 'center'}}); const b = e.getClientRects()[0]; "
            f"return [b.x + b.width / 2, b.y + b.height / 2]; }})({element})"
        )
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left",
                clickCount=int(kind != "mouseMoved"),
            )  # fmt: skip
        self.clicks += 1

    def choose(self, text: str) -> None:
        """Type a text where the last click was, and take the first thing that is offered; it counts as a click."""
        time.sleep(1)
        self.call("Input.insertText", text=text)
        time.sleep(2)
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13)
        self.clicks += 1

    def picture(self, path: Path) -> None:
        """Write a picture of what the window shows."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def browser(chromium: str = "chromium") -> Iterator[Page]:
    """A page in a browser of its own, with an empty profile; the browser ends with the block."""
    with tempfile.TemporaryDirectory() as profile:
        process = subprocess.Popen(
            [
                chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
                "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield from _connected(Path(profile) / "DevToolsActivePort")
        finally:
            process.terminate()
            process.wait(30)


def _connected(told: Path) -> Iterator[Page]:
    end = time.monotonic() + MOST_SECONDS
    while not told.is_file() or len(told.read_text().splitlines()) < 2:
        if time.monotonic() > end:
            raise SystemExit("Chromium did not start")
        time.sleep(0.1)
    port, path = told.read_text().splitlines()[:2]
    with connect(f"ws://127.0.0.1:{port}{path}") as root:
        target = Page(root).call("Target.createTarget", url="about:blank")["targetId"]
    with connect(f"ws://127.0.0.1:{port}/devtools/page/{target}", max_size=None) as connection:
        yield Page(connection)
