"""A small client of the W3C WebDriver protocol: Debian's chromedriver, the standard library."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["AXE", "KEYS", "Browser", "missing_browser"]

#: axe-core, where install.sh puts it.
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"

#: https://www.w3.org/TR/webdriver2/#keyboard-actions
KEYS = {
    "Alt": "\ue00a", "Backspace": "\ue003", "Ctrl": "\ue009", "End": "\ue010", "Enter": "\ue007",
    "Escape": "\ue00c", "Home": "\ue011", "PageDown": "\ue00f", "PageUp": "\ue00e",
    "Right": "\ue014", "Left": "\ue012", "Shift": "\ue008", "Space": " ", "Tab": "\ue004",
}  # fmt: skip


def missing_browser() -> str | None:
    """Why there can be no browser here, if so."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"needs {' and '.join(missing)}: tests/browser/install.sh" if missing else None


class Browser:
    """One headless Chromium, which cannot resolve any name but loopback's. A context manager."""

    def __init__(self, folder: Path, *, width: int = 1366, height: int = 820) -> None:
        self._driver = subprocess.Popen(
            ["chromedriver", "--port=0", f"--log-path={folder / 'driver.log'}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._driver.stdout is not None
        line = ""
        while "successfully on port" not in line:
            line = self._driver.stdout.readline()
            assert line, "chromedriver did not start"
        self._root = f"http://127.0.0.1:{line.split()[-1].rstrip('.')}"
        arguments = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--disable-background-networking", "--disable-component-update", "--no-first-run",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}",
        ]  # fmt: skip
        options = {
            "args": arguments,
            "prefs": {"download.default_directory": str(folder / "downloads")},
        }
        wanted = {
            "alwaysMatch": {
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
                "unhandledPromptBehavior": "accept",
            }
        }
        try:
            session = self._call("POST", "/session", {"capabilities": wanted})
        except BaseException:
            self._driver.kill()
            raise
        self._session = f"/session/{session['sessionId']}"

    def open(self, url: str) -> None:
        self._post("/url", {"url": url})

    def script(self, code: str, *arguments: Any) -> Any:
        """The value of `return …`."""
        return self._post("/execute/sync", {"script": code, "args": list(arguments)})

    def script_async(self, code: str, *arguments: Any) -> Any:
        """Waits until the code calls its last argument with the value."""
        return self._post("/execute/async", {"script": code, "args": list(arguments)})

    def wait(self, code: str, *arguments: Any, timeout_s: float = 15.0) -> Any:
        """The first true value of a script. Fails after a while."""
        return self.until(lambda: self.script(code, *arguments), code, timeout_s)

    def until(self, found: Callable[[], Any], what: str, timeout_s: float = 15.0) -> Any:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            value = found()
            if value:
                return value
            time.sleep(0.02)
        raise AssertionError(f"never came true: {what}")

    def press(self, *keys: str) -> None:
        """Presses combinations ("Ctrl+Enter", "Alt+u", "Tab", "x") one after another."""
        actions = []
        for combination in keys:
            parts = combination.split("+") if len(combination) > 1 else [combination]
            values = [KEYS.get(part, part) for part in parts]
            actions += [{"type": "keyDown", "value": value} for value in values]
            actions += [{"type": "keyUp", "value": value} for value in reversed(values)]
        self._post("/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def type(self, text: str) -> None:
        """Types a text where the focus is."""
        self.press(*text)

    def text(self, element_id: str) -> str:
        return str(
            self.script("return document.getElementById(arguments[0]).innerText", element_id)
        )

    def value(self, element_id: str) -> str:
        return str(self.script("return document.getElementById(arguments[0]).value", element_id))

    def focused(self) -> str:
        """The id of the element that has the focus."""
        return str(self.script("return document.activeElement.id"))

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("GET", f"{self._session}/screenshot")))

    def resize(self, width: int, height: int) -> None:
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def colour_scheme(self, name: str) -> None:
        """`light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.devtools("Emulation.setEmulatedMedia", {"features": features})

    def devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        return self._post("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def requests(self) -> list[str]:
        """Addresses that pages asked for since the last call."""
        entries = self._post("/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def console(self) -> list[str]:
        """Warnings and errors of pages since the last call."""
        return [entry["message"] for entry in self._post("/se/log", {"type": "browser"})]

    def axe(self) -> list[dict[str, Any]]:
        """Faults of the page that axe-core calls serious or critical."""
        self.script(AXE.read_text("utf-8"))
        found = self.script_async("axe.run().then(arguments[0], e => arguments[0](String(e)))")
        assert isinstance(found, dict), found
        return [
            {"id": fault["id"], "nodes": [node["html"][:200] for node in fault["nodes"]]}
            for fault in found["violations"]
            if fault["impact"] in ("serious", "critical")
        ]

    def close(self) -> None:
        try:
            self._call("DELETE", self._session)
        finally:
            self._driver.terminate()
            self._driver.wait(10)
            assert self._driver.stdout is not None
            self._driver.stdout.close()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("POST", self._session + path, body)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._root + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                request, timeout=60
            ) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.read().decode()[:600]}") from error
