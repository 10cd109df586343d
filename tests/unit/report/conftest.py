"""A made-up report, closed and opened in a browser."""

from __future__ import annotations

import sys
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


@pytest.fixture
def page(browser: webdriver.Chrome, made: Path) -> Page:
    """The made-up report, opened."""
    return Page(browser, made / "results/report.html")
