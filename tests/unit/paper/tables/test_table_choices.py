"""The table of choices of training data, from made-up scores."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from gptfluence.paper.tables import write_table
from made_up import markdown_tables
from made_up_choices import GROUPS, make_choices, write_choices


def write(folder: Path, rows: list[dict[str, Any]]) -> dict[str, str]:
    outputs = {form: folder / f"table_choices.{form}" for form in ("csv", "html", "md", "tex")}
    spec = {"module": "table_choices", "scale": "nano", "models": ["small"]}
    write_table(spec | {"choices": write_choices(folder / "choices.parquet", rows)}, outputs)
    return {form: path.read_text(encoding="utf-8") for form, path in outputs.items()}


def test_layout(tmp_path: Path) -> None:
    text = write(tmp_path, make_choices())["md"]
    tables = markdown_tables(text)
    assert len(tables) == 3
    places = [text.index(title) for title in ("Averages over 2 groups", "RTE, small", "WebNLG, small")]
    assert places == sorted(places)
    for table in tables:
        assert table[0] == ["Family", "Method", "Judging half Loss", "Judging half Gain over random",
                            "Judging half Random ones beaten", "Target half Loss", "Target half Gain over random",
                            "Target half Predicted loss", "Target half Predicted gain"]  # fmt: skip
        assert [row[1] for row in table[2:]] == [
            *("Random", "Best of the random ones", "Gradient response (ours)"),
            *("Gradient response (ours), random order", "BM25", "LESS"),
        ]
    assert tables[2][2][2:] == ["1.000", "–", "–", "0.900", "–", "–", "–"]
    ours = ["0.700", "**0.300 [0.260, 0.340]**", "**80%**", "0.600", "**0.400 [0.360, 0.440]**", "0.400", "0.500"]
    assert tables[2][4][2:] == ours
    assert tables[0][4][2] == "0.775"
    assert "Means over 6 halves" in text and "after 10 random choices" in text and "90% interval" in text


def test_averages_and_bold_in_the_csv(tmp_path: Path) -> None:
    rows = list(csv.DictReader(write(tmp_path, make_choices())["csv"].splitlines()))

    def row(group: str, method: str, order: str, measure: str) -> dict[str, str]:
        keys = ("group", "method", "order", "measure")
        (found,) = [row for row in rows if tuple(row[key] for key in keys) == (group, method, order, measure)]
        return found

    gain = row("average", "gradient_response", "random", "gain")
    assert float(gain["value"]) == pytest.approx(0.15) and gain["n"] == "2"
    assert float(gain["high"]) == pytest.approx(0.15 + 0.04 / 2**0.5)
    bold = {(row["group"], row["method"], row["order"]) for row in rows if row["bold"] == "True"}
    assert bold == {(group, "gradient_response", "chosen") for group in ("average", *(name for name, _ in GROUPS))}
    assert {row["measure"] for row in rows if row["bold"] == "True"} == {"gain", "beats", "target_gain"}


def test_one_group_needs_no_averages(tmp_path: Path) -> None:
    text = write(tmp_path, make_choices(GROUPS[:1]))["md"]
    assert len(markdown_tables(text)) == 1 and "Averages" not in text


def test_nothing_to_show_is_said(tmp_path: Path) -> None:
    texts = write(tmp_path, [])
    assert "Scale nano chooses no training data." in texts["md"]
    assert texts["csv"].count("\n") == 1
