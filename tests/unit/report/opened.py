"""A report that is opened in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from browser import look
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
        look(self.driver, width, dark=dark, media=media)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page, with everything laid out, and return what it returns."""
        return self.driver.execute_script(script, *arguments)
