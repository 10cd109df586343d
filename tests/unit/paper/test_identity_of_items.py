"""Each figure and table has an identity of its own: an edit of one of them makes one job run."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gptfluence import identity
from gptfluence.design import FIGURES, TABLES, item_modules, make_design
from gptfluence.io import digest
from gptfluence.paper.contents import CURVES
from gptfluence.params import load_params

ITEMS = {"figure": list(FIGURES), "table": list(TABLES)}
NAMES = [name for names in ITEMS.values() for name in names]
MODULES = {item_modules(item)[1]: item for item in NAMES}
"""Modules that draw or lay out an item, and one of their items: those that share one differ in their contents."""


def entries(item: str) -> tuple[str, str]:
    """Return the modules that an item's identity is the code of, as `design` gives them."""
    return item_modules(item)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package whose files a test may edit."""
    copy = tmp_path / "gptfluence"
    shutil.copytree(identity.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(identity, "PACKAGE", copy)
    forget()
    yield copy
    forget()


def forget() -> None:
    identity.read_code_anew()


def changed_by(edited: Path) -> set[str]:
    """Append a statement to a module; return whose identities that changes."""
    forget()
    before = {item: identity.code_digest(*entries(item)) for item in NAMES}
    edited.write_text(edited.read_text(encoding="utf-8") + "\nEDITED = 1\n", encoding="utf-8")
    forget()
    return {item for item in NAMES if identity.code_digest(*entries(item)) != before[item]}


def test_all_items_of_the_paper_are_there() -> None:
    assert {f"figure_{number}" for number in range(1, 31)} < set(FIGURES)
    assert {f"table_{number}" for number in range(1, 14)} < set(TABLES)


def test_every_module_of_an_item_is_used() -> None:
    shared = {"figures": {"__init__", "describe", "parts", "style"},
              "tables": {"__init__", "frame", "latex", "layout", "measured", "page", "renderings"}}  # fmt: skip
    for kind, others in shared.items():
        found = {path.stem for path in (identity.PACKAGE / "paper" / kind).glob("*.py")}
        used = {module.rpartition(".")[2] for module in MODULES if module.startswith(f"paper.{kind}.")}
        assert found == used | others


@pytest.mark.parametrize("item", MODULES.values())
def test_an_item_reaches_no_other_and_no_simulator(item: str) -> None:
    reached = identity.reachable_modules(*entries(item))
    siblings = MODULES.keys() - set(entries(item))
    assert not reached & siblings
    assert {name.split(".")[0] for name in reached} <= {"errors", "io", "paper", "scores", "words"}
    other_kind = "paper.tables" if item.startswith("figure") else "paper.figures"
    assert not any(name.startswith(other_kind) for name in reached)
    assert not reached & {
        "scores.score",
        "scores.measures",
        "paper.contents",
    }  # what is scored comes by the scores themselves


@pytest.mark.parametrize("item", MODULES.values())
def test_what_python_imports_for_an_item_is_reached(item: str) -> None:
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module('gptfluence.' + name)\n"
    code += "print(*(name for name in sys.modules if name.startswith('gptfluence.')))"
    command = [sys.executable, "-c", code, *entries(item)]
    # Only on the sources that are looked at here, wherever the package may be installed.
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=identity.PACKAGE.parent)
    imported = {name.removeprefix("gptfluence.") for name in result.stdout.split()}
    assert entries(item)[1] in imported
    assert imported - {"paper", "scores"} <= identity.reachable_modules(*entries(item))
    assert all((identity.PACKAGE / name / "__init__.py").read_text() == "" for name in ("paper", "scores"))


@pytest.mark.parametrize("item", MODULES.values())
def test_an_edit_of_one_item_is_its_own(package: Path, item: str) -> None:
    path = package.joinpath(*entries(item)[1].split(".")).with_suffix(".py")
    assert changed_by(path) == {other for other in NAMES if entries(other) == entries(item)}


def test_an_edit_of_what_is_shared_is_everyones_who_shares_it(package: Path) -> None:
    figures, tables = set(ITEMS["figure"]), set(ITEMS["table"])
    paper = package / "paper"

    def numbered(kind: str, *numbers: int) -> set[str]:
        return {f"{kind}_{number}" for number in numbers}

    for name in ("__init__",):
        assert changed_by(paper / "figures" / f"{name}.py") == figures
    assert changed_by(paper / "figures" / "parts.py") == figures - {"figure_1"}
    for name in ("__init__", "page", "renderings", "latex"):
        assert changed_by(paper / "tables" / f"{name}.py") == tables
    for name in ("frame", "layout"):
        assert changed_by(paper / "tables" / f"{name}.py") == numbered("table", 1, 2, 3, 4)
    assert changed_by(paper / "tables" / "measured.py") == numbered("table", 1, 2, 3, 4, 10, 11, 12)
    unstyled = {"figure_1", "figure_attribution", "figure_choices"}
    assert changed_by(paper / "figures" / "style.py") == figures - unstyled
    assert changed_by(paper / "attribution.py") == {"figure_attribution", "table_attribution"}
    of_variants = numbered("figure", 3, 4, 5) | {"table_10"}
    assert changed_by(paper / "ablations.py") == of_variants
    apart = of_variants | {"figure_simulators", "table_simulators"}
    assert changed_by(paper / "simulators.py") == apart | numbered("table", 11, 12)
    others = {f"{kind}_{what}" for kind in ("figure", "table") for what in ("attribution", "choices")}
    assert changed_by(paper / "averages.py") == apart | others | {"figure_9"} | numbered("table", 11, 12)
    assert changed_by(paper / "choices.py") == {"figure_choices", "table_choices"}
    assert changed_by(paper / "names.py") == (figures | tables) - {"figure_1"}
    for path in (paper / "figures" / "curves.py", package / "scores" / "curves.py"):
        assert changed_by(path) == set(CURVES)
    for path in (package / "scores" / "score.py", paper / "contents.py"):
        assert changed_by(path) == set()


def test_changed_contents_are_those_of_one_figure(
    raw_params: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures of curves share their code: what tells them apart stands in their specifications."""

    def digests() -> dict[str, str]:
        design = make_design(load_params(raw_params, root / "params.yaml"))
        return {figure: digest(design.figure_spec(figure)) for figure in FIGURES}

    before = digests()
    assert len(set(before.values())) == len(before)
    monkeypatch.setitem(CURVES, "figure_16", dataclasses.replace(CURVES["figure_16"], examples=2))
    after = digests()
    assert {figure for figure in FIGURES if after[figure] != before[figure]} == {"figure_16"}
