"""A real Chromium without a window, for tests of pages and their benchmark."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))


@contextlib.contextmanager
def open_browser() -> Iterator[webdriver.Chrome]:
    """Start Chromium with a laptop's window; end it with all its processes."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1366,900"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    browser.set_script_timeout(30)
    try:
        yield browser
    finally:
        browser.quit()


def resize(browser: webdriver.Chrome, width: int, height: int) -> None:
    """Make the page as large as a device's screen, below the least width of a window, too."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def prefer_dark(browser: webdriver.Chrome, dark: bool) -> None:
    """Ask pages for their dark or light colours."""
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def open_page(browser: webdriver.Chrome, path: Path, fragment: str = "") -> None:
    """Open a file afresh, with its address' part behind #; returns once the page can be used."""
    browser.get("about:blank")
    browser.get(f"{path.resolve().as_uri()}#{fragment}")
    settle(browser)


def settle(browser: webdriver.Chrome) -> None:
    """Wait until the page shows a group, and what was done to it."""
    browser.execute_async_script(
        "const done = arguments[0]; const look = () => document.getElementById('step') "
        "? requestAnimationFrame(() => setTimeout(done, 20)) : setTimeout(look, 10); look();"
    )


def complaints(browser: webdriver.Chrome) -> list[dict[str, Any]]:
    """Return what the console holds since the last call, of warnings and errors."""
    return [entry for entry in browser.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]
