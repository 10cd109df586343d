"""Whole tables, in every form, from made-up scores."""

import csv
from pathlib import Path

import pytest
from gptfluence.paper.published import load_published
from made_up import MEASURES, METHODS, content_of, make_scores, markdown_tables, write


def test_layout_of_table_1(tmp_path: Path) -> None:
    blocks = markdown_tables(write(tmp_path, "table_1", make_scores())["md"])
    assert len(blocks) == 3
    for rows in blocks:
        assert {len(row) for row in rows} == {len(rows[0])}
    first, second, _ = blocks
    # The paper's tasks in its order, though not all of them are ours; then a user's own.
    tasks = ["RTE", "SST-2", "BoolQ", "WebNLG", "WMT16 DE/EN", "my_task", "Average"]
    assert first[0] == ["Model", "Method", *tasks, "Skill", "Across-run correlation"]
    assert second[0] == ["Model", "Method", *tasks]
    assert [row[1] for row in first[2:7]] == [
        "Mean curve", "Simfluence (linear)", "Simfluence (additive)", "GPTfluence (bilinear)", "my_method",
    ]  # fmt: skip
    assert [row[0].strip("*") for row in first[7:]] == [
        f"paper, Pythia-{size}" for size in ("410M", "1B", "2.8B") for _ in range(5)
    ]


def test_averages_in_the_table_are_the_means_of_its_rows(tmp_path: Path) -> None:
    text = write(tmp_path, "table_1", make_scores())["csv"]
    rows = [r for r in csv.DictReader(text.splitlines()) if r["source"] == "ours"]
    averages = [r for r in rows if r["task"] == "average"]
    assert len(averages) == len(METHODS) * len(MEASURES)
    for average in averages:
        parts = [
            float(r["value"])
            for r in rows
            if r["task"] != "average" and (r["method"], r["measure"]) == (average["method"], average["measure"])
        ]
        assert float(average["value"]) == pytest.approx(sum(parts) / len(parts), rel=1e-12)


@pytest.mark.parametrize("table", ["table_1", "table_2", "table_3", "table_4"])
def test_every_published_number_stands_in_its_table(tmp_path: Path, table: str) -> None:
    scores = make_scores(scenarios=("instruction_tuning", "fine_tuning"))
    texts = write(tmp_path, table, scores)
    published = [n for n in load_published() if n.table == table]
    rows = [r for r in csv.DictReader(texts["csv"].splitlines()) if r["source"] == "paper"]
    keys = ("model", "task", "metric", "method", "measure", "value")
    assert [[r[k] for k in keys] for r in rows] == [[getattr(n, k) for k in keys] for n in published]
    assert [r["std_over_trajectories"] or r["std_over_runs"] for r in rows] == [n.std for n in published]
    for number in published:
        printed = f"{number.value} ({number.std})" if number.std else number.value
        assert f"*{printed}*" in texts["md"]
        assert rf"\textit{{{printed}}}".replace("{-", "{$-$") in texts["tex"]


def test_a_scale_without_such_runs_says_so(tmp_path: Path) -> None:
    texts = write(tmp_path, "table_3", make_scores(scenarios=("fine_tuning",)))
    for form in ("md", "tex"):
        assert "Scale nano has no instruction tuning runs that measure BLEU or ROUGE-L." in texts[form]
    assert "paper, Pythia-410M" in texts["md"]
    assert all(row["source"] == "paper" for row in csv.DictReader(texts["csv"].splitlines()))
    assert "has no instruction tuning runs" in write(tmp_path, "table_1", [])["md"]


def test_numbers(tmp_path: Path) -> None:
    scores = make_scores(metrics=("loss",))
    for row in scores:
        if (row["task"], row["method"], row["measure"]) == ("rte", "simfluence", "all_steps_mse"):
            row |= {"value": 0.000437, "std_over_trajectories": 0.00012}
        if (row["task"], row["method"], row["measure"]) == ("webnlg", "simfluence", "all_steps_mse"):
            row |= {"value": 1.5e20, "std_over_trajectories": 3e20}
        if (row["task"], row["method"], row["measure"]) == ("rte", "simfluence", "final_step_spearman"):
            row |= {"value": -0.1236, "std_over_runs": 0.05}
        if (row["task"], row["method"], row["measure"]) == ("my_task", "simfluence", "final_step_spearman"):
            row |= {"value": None, "std_over_runs": None}
    texts = write(tmp_path, "table_1", scores)
    mse, _, spearman = (
        next(row for row in rows if row[1] == "Simfluence (linear)") for rows in markdown_tables(texts["md"])
    )
    assert mse[2] == "**0.000437 (0.000120)**"
    assert mse[5] == "1.5e+20 (3.0e+20)"
    assert spearman[2] == "-0.124 (0.050)"
    assert spearman[7] == "–"
    assert "$-$0.124 (0.050)" in texts["tex"]
    assert "0.000437" in texts["csv"]


@pytest.mark.parametrize(
    ("table", "heading"),
    [
        ("table_1", "# Table 1. Simulation of the test loss in instruction tuning"),
        ("table_2", "# Table 2. Simulation of the test loss in fine-tuning"),
        ("table_3", "# Table 3. Simulation of the test BLEU and ROUGE-L in instruction tuning"),
        ("table_4", "# Table 4. Simulation of the test BLEU and ROUGE-L in fine-tuning"),
    ],
)
def test_headings_say_what_is_shown(tmp_path: Path, table: str, heading: str) -> None:
    scores = make_scores(scenarios=("instruction_tuning", "fine_tuning"))
    texts = write(tmp_path, table, scores)
    assert texts["md"].startswith(f"{heading}\n")
    assert f"\\caption{{{heading.partition('. ')[2]}: all-steps MSE." in texts["tex"]
    rows = list(csv.DictReader(texts["csv"].splitlines()))
    assert {row["scenario"] for row in rows} == {content_of(table).scenario}
    assert {row["metric"] for row in rows if row["source"] == "ours"} == set(content_of(table).metrics)
