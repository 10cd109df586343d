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


def missing_browser() -> str | None:
    """Say what is missing for a browser, or return None."""
    return None if CHROMIUM and DRIVER else "no chromium or chromedriver: apt-get install chromium chromium-driver"


@contextlib.contextmanager
def open_browser() -> Iterator[webdriver.Chrome]:
    """Start Chromium with a laptop's window; end it with all its processes.

    It notes its console, and all that it asks a network for.
    """
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1366,900"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    browser.set_script_timeout(60)
    try:
        yield browser
    finally:
        browser.quit()


def look(browser: webdriver.Chrome, width: int, height: int = 900, dark: bool = False, media: str = "screen") -> None:
    """Make the page as wide as a device's screen, below the least width of a window, too; dark or light; or print."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


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
