"""A report that is opened in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selenium import webdriver


class Page:
    """The opened report.

    Args:
        driver: of the browser.
        file: the report.
    """

    def __init__(self, driver: webdriver.Chrome, file: Path) -> None:
        self.driver = driver
        for log in ("browser", "performance"):
            driver.get_log(log)  # of what was opened before
        self.look()
        driver.get(file.as_uri())

    def look(self, width: int = 1280, dark: bool = False, media: str = "screen") -> None:
        """Turn it into a page of another width, scheme of colours, or medium."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 700}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page, with everything laid out, and return what it returns."""
        return self.driver.execute_script(script, *arguments)
