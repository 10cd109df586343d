"""What is committed of the page's bundle is what its sources make."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from gptfluence.identity import PACKAGE

SOURCES = PACKAGE.parent / "page"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("npm"), reason="needs node and npm")
def test_sources_make_the_committed_bundle_and_pass_their_tests(tmp_path: Path) -> None:
    copy = tmp_path / "page"
    shutil.copytree(SOURCES, copy, ignore=shutil.ignore_patterns("node_modules", "build"))

    def call(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=copy)

    installed = call("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
    if installed.returncode:
        pytest.skip(f"the packages of package-lock.json are not to be had: {installed.stderr[-300:]}")
    for command in (("node", "build.js", "made"), ("npm", "run", "check"), ("npm", "test")):
        done = call(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    for name in ("app.js", "app.css"):
        made = (copy / "made" / name).read_bytes()
        assert made == (PACKAGE / "page" / name).read_bytes(), f"run npm run build in {SOURCES}"


def test_the_lock_names_no_registry() -> None:
    text = (SOURCES / "package-lock.json").read_text(encoding="utf-8")
    assert "resolved" not in text and "http" not in text.replace("https://opencollective.com", "").replace(
        "https://github.com", ""
    )
