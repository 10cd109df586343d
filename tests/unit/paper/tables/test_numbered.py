"""Tables 5-13 from made-up scores, costs and hyper-parameters."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from gptfluence.paper.published import load_published
from gptfluence.paper.tables import write_table
from made_up import make_scores, markdown_tables
from made_up import write as write_scores_table
from made_up_apart import write_apart
from made_up_fits import VARIANTS, make_costs, make_variants, value_of, write_costs

OURS = {"small": {"Batch size": "4", "LoRA": "none"}, "a-large": {"Batch size": "8", "LoRA": "rank 8"}}


def write(folder: Path, table: str, module: str, **parts: Any) -> dict[str, str]:
    outputs = {form: folder / f"{table}.{form}" for form in ("csv", "md", "html", "tex")}
    spec = {"table": table, "module": module, "scale": "nano", "models": ["small", "a-large"]}
    write_table(spec | parts, outputs)
    return {form: path.read_text(encoding="utf-8") for form, path in outputs.items()}


def write_judged(folder: Path, table: str, module: str) -> dict[str, str]:
    """Write one of Tables 10-12; on unseen training examples GPTfluence stands in the scores of all methods."""
    rows = [row | {"setting": "unseen_train", "model": "small"} for row in make_scores(("small",), ("fine_tuning",))]
    write_scores_table(folder, "table_1", rows)
    simulators = write_apart(folder / "simulators.parquet", make_variants())
    return write(folder, table, module, variants=VARIANTS, simulators=simulators, scores=str(folder / "scores.parquet"))


@pytest.mark.parametrize("table", ["table_5", "table_6", "table_7", "table_8", "table_9"])
def test_hyperparameters_stand_beside_the_papers(tmp_path: Path, table: str) -> None:
    texts = write(tmp_path, table, "hyperparameters", hyperparameters=OURS)
    (rows,) = markdown_tables(texts["md"])
    assert rows[0][:4] == ["Listed by", "Hyper-parameter", "Scale nano small", "Scale nano a-large"]
    by_name = {row[1]: row for row in rows[2:]}
    assert by_name["Batch size"][:4] == ["paper", "Batch size", "4", "8"]
    assert by_name["LoRA"] == ["ours alone", "LoRA", "none", "rank 8", *["–"] * (len(rows[0]) - 4)]
    printed = [number for number in load_published() if number.table == table]
    columns = list(dict.fromkeys((number.model, number.task) for number in printed))
    assert len(rows[0]) == 4 + len(columns)
    for number in printed:
        assert by_name[number.measure][4 + columns.index((number.model, number.task))] == number.value


def test_table_10_has_the_papers_orders_and_ours(tmp_path: Path) -> None:
    texts = write_judged(tmp_path, "table_10", "table_10")
    mse, *_ = markdown_tables(texts["md"])
    assert mse[0] == ["Source", "Method", "loss RTE", "loss WebNLG", "BLEU WebNLG"]  # no ROUGE-L here
    lines = [(row[0].strip("*"), row[1].strip("*")) for row in mse[2:]]
    assert lines == [
        *(("", name) for name in ("Persistence", "Mean curve", "Simfluence (linear)")),
        ("", "order 1"), ("paper", "order 1"), ("", "order 2"), ("paper", "order 2"), ("", "order 5"),
        ("paper", "order 5"),
    ]  # fmt: skip
    cells = {line: row[2:] for line, row in zip(lines, mse[2:], strict=True)}
    expected = [value_of(group, 0, "gptfluence", "order_5", "all_steps_mse") for group in (0, 1, 1)]
    found = [float(cell.strip("*").split(" ")[0]) for cell in cells["", "order 5"]]
    assert found == pytest.approx(expected, abs=0.006)
    assert cells["paper", "order 1"][0] == "*0.036 (0.029)*"


def test_table_10_keeps_every_printed_number(tmp_path: Path) -> None:
    rows = list(csv.DictReader(write_judged(tmp_path, "table_10", "table_10")["csv"].splitlines()))
    assert len([row for row in rows if row["source"] == "paper"]) == 60
    assert {row["scenario"] for row in rows} == {"fine_tuning"}


def test_table_11_takes_each_setting_from_where_it_is_judged(tmp_path: Path) -> None:
    texts = write_judged(tmp_path, "table_11", "unseen")
    mse, _, spearman = markdown_tables(texts["md"])
    settings = list(dict.fromkeys(row[0].strip("*") for row in mse[2:]))
    names = ("unseen training examples", "unseen tests", "both unseen")
    assert settings == [setting for name in names for setting in (name, f"{name}, paper")]
    (own,) = (row for row in mse[2:] if row[:2] == ["unseen tests", "GPTfluence (bilinear)"])
    assert float(own[2].strip("*").split(" ")[0]) == pytest.approx(
        value_of(0, 0, "gptfluence", "whole", "all_steps_mse"), rel=0.01
    )
    (own,) = (row for row in spearman[2:] if row[:2] == ["unseen training examples", "my_method"])
    assert own[2].strip("*") == "0.500 (0.500)"  # that of `make_scores`: the third method, the first task
    (theirs,) = (row for row in spearman[2:] if row[0] == "*both unseen, paper*")
    (printed,) = (
        n for n in load_published()
        if (n.table, n.setting, n.task, n.metric, n.measure)
        == ("table_11", "unseen_both", "rte", "loss", "final_step_spearman")
    )  # fmt: skip
    assert theirs[2] == f"*{printed.value} ({printed.std})*"


def test_table_12_sets_the_papers_mismatch_apart(tmp_path: Path) -> None:
    texts = write_judged(tmp_path, "table_12", "unseen")
    mse, *_ = markdown_tables(texts["md"])
    lines = {(row[0].strip("*"), row[1].strip("*")): row[2:] for row in mse[2:]}
    name = "single-task runs, unseen tests"
    assert ("unseen tests", "GPTfluence (bilinear)") in lines and (
        "unseen tests, paper",
        "GPTfluence (bilinear)",
    ) not in lines
    assert lines[f"{name}, paper", "GPTfluence (bilinear)"][0].startswith("*1.137")
    own = lines[name, "GPTfluence (bilinear), own"][1].strip("*").split(" ")[0]
    assert float(own) == pytest.approx(value_of(2, 1, "gptfluence", "own", "all_steps_mse"), rel=0.01)
    assert "small" in texts["md"] and "a-large" not in texts["md"]


def test_scores_without_unseen_data_say_so(tmp_path: Path) -> None:
    write_scores_table(tmp_path, "table_1", [])
    simulators = write_apart(tmp_path / "simulators.parquet", [])
    parts = {"simulators": simulators, "scores": str(tmp_path / "scores.parquet"), "variants": {}}
    assert "has no unseen data in fine-tuning" in write(tmp_path, "table_11", "unseen", **parts)["md"]
    assert "has no variants of GPTfluence by order" in write(tmp_path, "table_10", "table_10", **parts)["md"]


def test_table_13_says_what_a_call_costs_and_on_which_machine(tmp_path: Path) -> None:
    texts = write(tmp_path, "table_13", "table_13", costs=write_costs(tmp_path / "costs.parquet", make_costs()))
    assert "Measured on a processor, one thread" in texts["md"]
    ((_, _, *rows),) = markdown_tables(texts["md"])
    assert rows == [
        ["ours", "Mean curve", "0.001", "0.002", "6.3e-06", "–"],
        ["ours", "TracIn-CP (checkpoints)", "1", "–", "–", "–"],
        ["*paper*", "*TracIn-CP*", "*153.0*", "*–*", "*–*", "*1.1e13*"],
        ["ours", "Simfluence (linear)", "0.002", "0.004", "1.3e-05", "1.6e+01"],
        ["*paper*", "*Simfluence*", "*0.1*", "*–*", "*–*", "*1.6e1*"],
        ["ours", "GPTfluence (bilinear)", "0.003", "0.006", "1.9e-05", "1.6e+04"],
        ["*paper*", "*GPTfluence*", "*0.2*", "*–*", "*–*", "*5.3e6*"],
    ]
