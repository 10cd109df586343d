"""A made-up report, and a browser that opens it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from once import make_once

sys.path.insert(0, str(Path(__file__).parent))  # for `made_up_report`
sys.path.insert(0, str(Path(__file__).parents[1] / "paper"))  # for what it is made from
sys.path.insert(0, str(Path(__file__).parents[1] / "paper/figures"))
sys.path.insert(0, str(Path(__file__).parents[1] / "paper/tables"))

from gptfluence.io import write_json
from gptfluence.report.write import write_report
from made_up_report import write_inputs
from opened import Page
from selenium import webdriver


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the made-up report is made from, its spec, and the report; tests may look."""

    def make(folder: Path) -> None:
        spec = write_inputs(folder)
        write_json(folder / "spec.json", spec)
        write_report(spec, folder / "results/report.html")

    return make_once(tmp_path_factory, "report", make)


@pytest.fixture(scope="session")
def driver() -> Iterator[webdriver.Chrome]:
    """A browser without a window, which notes its console and all that it asks a network for."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    service = shutil.which("chromedriver")
    if not browser or not service:
        message = "needs a browser: apt-get install chromium chromium-driver"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    yield chrome
    chrome.quit()


@pytest.fixture
def page(driver: webdriver.Chrome, made: Path) -> Page:
    """The made-up report, opened."""
    return Page(driver, made / "results/report.html")
