"""The tutorials, run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from documents import blocks, run
from pipeline import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["tutorial_own_data", "tutorial_trainer"])
def test_a_tutorial_prints_what_it_says(name: str, tmp_path: Path) -> None:
    document = ROOT / f"docs/{name}.md"
    expected = [text for kind, text in blocks(document) if kind == "text"]
    found = run(document, tmp_path)
    assert len(found) == len(expected)
    for printed, said in zip(found, expected, strict=True):
        # Blocks before print more (progress of snakemake, of trainers); numbers differ from processor to processor.
        lines = said.splitlines()
        last = printed.splitlines()[-len(lines) :]
        assert [_form(line) for line in last[:1]] == [_form(line) for line in lines[:1]]
        assert [bool(line.strip()) for line in last] == [bool(line.strip()) for line in lines]


def _form(line: str) -> list[str]:
    return re.sub(r"[-+]?\d[\d.,%]*", "#", line).split()
