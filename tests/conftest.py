"""What all tests share: one thread, no network, and a small plan."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before torch and numpy are imported: processes share the cores, and no test may wait for a hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import yaml
from browser import missing_browser, open_browser
from once import make_once
from pipeline import ROOT, make_tiny, make_whole, snakemake
from selenium import webdriver


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def raw_params() -> dict[str, Any]:
    """params.yaml as it is shipped, to be changed by a test."""
    return yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def tiny_params(raw_params: dict[str, Any]) -> dict[str, Any]:
    """A plan of two kinds of runs that two cores finish in about a minute."""
    return make_tiny(raw_params)


@pytest.fixture(scope="session")
def browser() -> Iterator[webdriver.Chrome]:
    """A browser without a window; without one installed, tests are skipped, but not in CI."""
    if why := missing_browser():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the whole pipeline has run at a tiny scale. Tests may look, and copy it."""

    def make(folder: Path) -> None:
        raw = make_whole(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")))
        (folder / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
        result = snakemake(folder)
        assert result.returncode == 0, result.stdout + result.stderr

    return make_once(tmp_path_factory, "finished", make)
