"""Repositories that the tests of the engines share; making them takes longest."""

from __future__ import annotations

from pathlib import Path

import pytest
from dvc_repository import (
    KEPT_FIGURES,
    KEPT_TABLES,
    Repository,
    change_everything,
    keep_items,
    keep_one_table_and_figure,
    make_repository,
)
from once import make_once


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """What a project publishes: branches `main` (A) and `other` (B), computed, committed, and pushed to a DVC remote.

    Tests may read it and clone it.
    """

    def make(base: Path) -> None:
        origin = make_repository(base / "origin", base / "home")
        keep_items(origin, KEPT_TABLES, KEPT_FIGURES)
        origin.dvc("remote", "add", "--default", "storage", str(base / "storage"))
        origin.snakemake()
        origin.dvc("repro")
        origin.commit("A")
        origin.dvc("push")
        origin.git("checkout", "--quiet", "-b", "other")
        origin.edit(change_everything)
        origin.snakemake()
        origin.dvc("repro")
        origin.commit("B")
        origin.dvc("push")
        origin.git("checkout", "--quiet", "main")
        origin.dvc("checkout")

    base = make_once(tmp_path_factory, "published", make)
    return Repository(base / "origin", base / "home")


@pytest.fixture
def clone(published: Repository, tmp_path: Path) -> Repository:
    """A fresh clone without any data."""
    return published.clone_to(tmp_path / "clone")


@pytest.fixture
def pulled(clone: Repository) -> Repository:
    """A fresh clone with all data pulled."""
    clone.dvc("pull")
    return clone


@pytest.fixture
def slim(pulled: Repository) -> Repository:
    """A fresh clone with all data pulled, which from now on makes one table and one figure, and nothing of refits."""
    keep_one_table_and_figure(pulled)
    pulled.commit("one table and one figure")
    return pulled
