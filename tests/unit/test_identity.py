from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from gptfluence import identity


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package whose files a test may edit."""
    copy = tmp_path / "gptfluence"
    shutil.copytree(identity.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(identity, "PACKAGE", copy)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    identity.read_code_anew()
    yield copy
    identity.read_code_anew()


def digest_after(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    identity.read_code_anew()
    return identity.code_digest("dynamics.train")


def test_comments_layout_and_docstrings_do_not_count_but_code_does(package: Path) -> None:
    path = package / "dynamics" / "generate.py"
    text = path.read_text(encoding="utf-8")
    before = identity.code_digest("dynamics.train")
    assert digest_after(path, "# a comment\n\n\n" + text) == before
    assert digest_after(path, text.replace('"""Sample one token', '"""Draw one token')) == before
    assert digest_after(path, text.replace(".div_(temperature)", ".div_(temperature + 0)")) != before


def test_a_module_is_parsed_once(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of modules is as good as they; damaged, or where none can be kept, they are parsed again."""
    first = identity.code_digest("dynamics.train"), identity.reachable_modules("dynamics.train")
    parse, parsed = identity.ast.parse, []
    monkeypatch.setattr(identity.ast, "parse", lambda text: parsed.append(text) or parse(text))

    def again() -> int:
        parsed.clear()
        identity.read_code_anew()
        assert (identity.code_digest("dynamics.train"), identity.reachable_modules("dynamics.train")) == first
        return len(parsed)

    assert again() == 0
    kept = sorted((tmp_path / "cache/gptfluence/modules").iterdir())
    kept[0].write_text("{")
    kept[1].write_text('{"imports": 1}')
    kept[2].write_text("")
    assert again() == 3
    assert again() == 0
    (tmp_path / "a file").touch()
    monkeypatch.chdir(tmp_path)
    for folder in (str(tmp_path / "a file"), "here"):
        monkeypatch.setenv("XDG_CACHE_HOME", folder)
        assert again() == len(kept)
    assert not Path("here").exists()


def test_a_module_that_is_not_imported_does_not_count(package: Path) -> None:
    before = identity.code_digest("dynamics.train")
    path = package / "paper" / "names.py"
    assert digest_after(path, path.read_text(encoding="utf-8") + "\nX = 1\n") == before


def test_reached_modules_are_those_that_python_imports() -> None:
    reached = identity.reachable_modules("dynamics.train")
    __import__("gptfluence.dynamics.train")
    imported = {name.removeprefix("gptfluence.") for name in sys.modules if name.startswith("gptfluence.")}
    ours = {name for name in imported if name.split(".")[0] in ("curricula", "dynamics", "io", "errors", "randomness")}
    files = {name for name in ours if identity._path(name).name != "__init__.py"} - {"dynamics.pretrain"}
    assert files <= reached
