"""Each figure and table has an identity of its own: an edit of one of them makes one job run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gptfluence import identity

ITEMS = {
    kind: sorted(path.stem for path in (identity.PACKAGE / "paper" / f"{kind}s").glob(f"{kind}_*.py"))
    for kind in ("figure", "table")
}
NAMES = [name for names in ITEMS.values() for name in names]


def entries(item: str) -> tuple[str, str]:
    """Return the modules that an item's identity is the code of, as `design` gives them."""
    package = f"paper.{item.partition('_')[0]}s"
    return package, f"{package}.{item}"


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


def test_all_items_are_found() -> None:
    figures = [f"figure_{name}" for name in ("10", "11", "2", "6", "7", "attribution", "choices", "simulators")]
    tables = [f"table_{name}" for name in ("1", "2", "3", "4", "attribution", "choices", "simulators")]
    assert ITEMS["figure"] == figures
    assert ITEMS["table"] == tables


@pytest.mark.parametrize("item", NAMES)
def test_an_item_reaches_no_other_and_no_simulator(item: str) -> None:
    reached = identity.reachable_modules(*entries(item))
    siblings = {entries(other)[1] for other in NAMES if other != item}
    assert not reached & siblings
    assert {name.split(".")[0] for name in reached} <= {"errors", "io", "paper", "scores", "words"}
    other_kind = "paper.tables" if item.startswith("figure") else "paper.figures"
    assert not any(name.startswith(other_kind) for name in reached)
    assert not reached & {"scores.score", "scores.measures"}  # what is scored comes by the scores themselves


@pytest.mark.parametrize("item", NAMES)
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


@pytest.mark.parametrize("item", NAMES)
def test_an_edit_of_one_item_is_its_own(package: Path, item: str) -> None:
    path = package.joinpath(*entries(item)[1].split(".")).with_suffix(".py")
    assert changed_by(path) == {item}


def test_an_edit_of_what_is_shared_is_everyones_who_shares_it(package: Path) -> None:
    figures, tables = set(ITEMS["figure"]), set(ITEMS["table"])
    paper = package / "paper"
    for name in ("__init__", "parts"):
        assert changed_by(paper / "figures" / f"{name}.py") == figures
    for name in ("__init__", "page", "renderings", "latex"):
        assert changed_by(paper / "tables" / f"{name}.py") == tables
    for name in ("frame", "layout"):
        own = {"table_attribution", "table_choices", "table_simulators"}
        assert changed_by(paper / "tables" / f"{name}.py") == tables - own
    assert changed_by(paper / "figures" / "style.py") == figures - {"figure_attribution", "figure_choices"}
    assert changed_by(paper / "attribution.py") == {"figure_attribution", "table_attribution"}
    averaged = {f"{kind}_{what}" for kind in ("figure", "table") for what in ("attribution", "choices", "simulators")}
    assert changed_by(paper / "averages.py") == averaged
    assert changed_by(paper / "simulators.py") == {"figure_simulators", "table_simulators"}
    assert changed_by(paper / "choices.py") == {"figure_choices", "table_choices"}
    assert changed_by(paper / "names.py") == figures | tables
    for path in (paper / "figures" / "trajectories.py", package / "scores" / "curves.py"):
        assert changed_by(path) == {"figure_2", "figure_10", "figure_11"}
    assert changed_by(package / "scores" / "score.py") == set()
