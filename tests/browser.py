"""A real browser for tests: headless Chromium, driven through chromedriver's WebDriver protocol."""

import base64
import http.client
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = (
    "" if CHROMIUM and DRIVER else "chromium and chromedriver are not installed (Debian: chromium, chromium-driver)"
)

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--window-size=1280,1000",
]
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """One window."""

    def __init__(self, port: int, profile: str) -> None:
        self._port = port
        options = {"binary": CHROMIUM, "args": [*_FLAGS, f"--user-data-dir={profile}"]}
        wanted = {
            "browserName": "chrome",
            "acceptInsecureCerts": True,
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{session['sessionId']}"

    def open(self, url: str) -> None:
        self._post("/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:
        """What a function body returns."""
        return self._post("/execute/sync", {"script": script, "args": list(arguments)})

    def run_async(self, script: str, *arguments: object) -> Any:
        """What a function body gives to its last argument, a function."""
        return self._post("/execute/async", {"script": script, "args": list(arguments)})

    def until(self, script: str, *arguments: object) -> Any:
        """Wait until a function body returns something true; that."""
        end = time.monotonic() + 240
        while not (found := self.run(script, *arguments)):
            assert time.monotonic() < end, (script, self.run("return document.body.innerText"))
            time.sleep(0.05)
        return found

    def click(self, selector: str) -> None:
        element = self._post("/element", {"using": "css selector", "value": selector})[_ELEMENT]
        self._post(f"/element/{element}/click", {})

    def type(self, keys: str) -> None:
        """Press and release keys, one after the other; WebDriver has codes for those without a letter."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._post("/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def devtools(self, command: str, **parameters: object) -> Any:
        return self._post("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def look(self, *, width: int, dark: bool, height: int = 900) -> None:
        """The size of the window, and the colour scheme that the user wants."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, *, whole: bool = True) -> bytes:
        """A picture (PNG) of the whole page, or of what is seen of it."""
        shot = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(shot["data"])

    def console(self) -> list[str]:
        """What was written to the console since the last time."""
        return [entry["message"] for entry in self._post("/se/log", {"type": "browser"})]

    def asked(self) -> list[str]:
        """All addresses that requests went to since the last time."""
        messages = [json.loads(entry["message"])["message"] for entry in self._post("/se/log", {"type": "performance"})]
        sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in sent]

    def close(self) -> None:
        self._call("DELETE", self._session)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("POST", self._session + path, body)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=300)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            value = json.load(answer)["value"]
        finally:
            connection.close()
        assert answer.status == 200, (value["error"], value["message"][:2000])
        return value


@contextmanager
def browser() -> Iterator[Browser]:
    """Open a window; closed at the end, and the driver ended."""
    assert DRIVER is not None
    driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert driver.stdout is not None
        port = next(
            int(found[1]) for line in driver.stdout if (found := re.search(r"successfully on port (\d+)", line))
        )
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            window = Browser(port, profile)
            try:
                yield window
            finally:
                window.close()
    finally:
        driver.terminate()
        driver.wait(30)
        if driver.stdout is not None:
            driver.stdout.close()
