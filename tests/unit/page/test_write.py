"""The page as a file: what it may do, what it holds, and what of it is left out."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from gptfluence.errors import UserError
from gptfluence.page import write
from gptfluence.page.groups import DETAILS, label_of, pack_group, read_group
from gptfluence.page.write import render_page, write_page
from whatif import write_made_up


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_made_up(tmp_path_factory.mktemp("made_up"))


def test_the_page_runs_its_own_script_and_asks_nobody(spec: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "whatif.html"
    write_page(spec, path)
    text = path.read_text(encoding="utf-8")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; ")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    for kind, (content,) in (("script", scripts), ("style", styles)):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not re.search(r"<(link|img|iframe|script [^>]*src)", text.replace(scripts[0], ""))
    write_page(spec, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == path.read_bytes()


def test_names_are_escaped(spec: dict[str, Any]) -> None:
    assert "</script><b>" not in render_page([], "</script><b>{{app}}")


def test_a_plan_without_such_a_simulator_says_so(spec: dict[str, Any], tmp_path: Path) -> None:
    write_page(spec | {"groups": []}, tmp_path / "whatif.html")
    assert "no simulator of kind gradient_response" in (tmp_path / "whatif.html").read_text(encoding="utf-8")


def test_a_page_that_is_too_large_leaves_out_what_it_says(
    spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    group = read_group(spec["groups"][0], [])
    whole, least = (len(pack_group(group, detail)) for detail in (DETAILS[0], DETAILS[-1]))
    assert least < whole
    pages = []
    for limit in (10**7, 0):
        monkeypatch.setattr(write, "LIMIT", limit)
        pages.append(render_page([group], "made-up"))
    assert len(pages[1]) < len(pages[0])


def test_a_missing_file_is_named(spec: dict[str, Any], tmp_path: Path) -> None:
    group = spec["groups"][0] | {"task_files": {"a_task": str(tmp_path / "gone.parquet")}}
    with pytest.raises(UserError, match=r"gone\.parquet: missing"):
        write_page(spec | {"groups": [group]}, tmp_path / "whatif.html")
    assert list(tmp_path.iterdir()) == []


def test_groups_are_called_by_what_they_train() -> None:
    assert label_of({"model": "m", "scenario": "fine_tuning", "train_tasks": ["rte"]}) == "m, fine-tuning: RTE"
